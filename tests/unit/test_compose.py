"""The compose files, as far as they can be judged without starting them."""

import importlib.util
import re
from pathlib import Path

import pytest

from pipeline import settings

COMPOSE = Path(__file__).parents[2] / "compose"
TEXT = (COMPOSE / "compose.yaml").read_text("utf-8")
DOCKERFILE = (COMPOSE / "Dockerfile").read_text("utf-8")
HOST_ENV = dict(
    line.split("=", 1) for line in (COMPOSE / "host.env").read_text("utf-8").splitlines() if not line.startswith("#")
)


def services():
    """The text of each service, by name: the file keeps two spaces for each level."""
    section = TEXT.split("\nservices:\n", 1)[1].split("\nvolumes:\n", 1)[0]
    parts = re.split(r"^  ([\w-]+):\n", section, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def conditions(service):
    return dict(re.findall(r"^      ([\w-]+):\n        condition: (\w+)$", services()[service], re.MULTILINE))


def test_every_image_that_is_pulled_is_pinned_to_a_release():
    images = re.findall(r"^ +image: (\S+)$", TEXT, re.MULTILINE) + re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    pulled = [image for image in images if image != "orders-pipeline:local"]
    assert len(pulled) == 5
    for image in pulled:
        assert re.fullmatch(r"[\w/-]+:\d+\.\d+\.\d+[\w.-]*", image), image


def test_every_port_is_bound_to_the_hosts_loopback():
    ports = re.findall(r'^      - "([^"]+)"$', TEXT, re.MULTILINE)
    assert ports == ["127.0.0.1:9092:9092", "127.0.0.1:8081:8080"]


def test_one_shot_commands_wait_for_a_healthy_service_and_what_is_waited_for_has_a_health_check():
    assert conditions("topics") == {"kafka": "service_healthy"}
    assert conditions("schemas") == {"registry": "service_healthy"}
    assert conditions("registry") == {"registry-volume": "service_completed_successfully"}
    for name in services():
        for needed, condition in conditions(name).items():
            assert ("healthcheck:" in services()[needed]) == (condition == "service_healthy")


def test_every_command_is_one_of_the_project():
    commands = re.findall(r'^    command: \["([\w.]+)", "\w+"\]$', TEXT, re.MULTILINE)
    assert commands == ["pipeline.topics", "pipeline.schemas"]
    for module in commands:
        assert importlib.util.find_spec(module), module


def test_data_lies_in_named_volumes():
    for name, path in (("kafka-data", "/var/lib/kafka/data"), ("registry-data", "/var/lib/registry")):
        assert f"- {name}:{path}\n" in TEXT
        assert f"\n  {name}:\n" in TEXT
    assert "KAFKA_LOG_DIRS: /var/lib/kafka/data\n" in TEXT
    assert "jdbc:h2:file:/var/lib/registry/registry;WRITE_DELAY=0" in TEXT


def test_the_image_takes_only_hashed_packages_and_does_not_run_as_root():
    assert "--require-hashes" in DOCKERFILE
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", DOCKERFILE, re.MULTILINE)


def test_the_image_keeps_what_it_writes_in_a_folder_of_its_user_and_can_be_read_by_it():
    user = re.search(r"^USER (\d+):\1$", DOCKERFILE, re.MULTILINE)
    assert user
    assert f"install -d -o {user[1]} -g {user[1]} /data" in DOCKERFILE
    assert "PIPELINE_STORE__URL=sqlite:////data/orders.db" in DOCKERFILE
    # COPY keeps the modes of the checkout: with umask 077 nobody else could read it.
    assert re.search(r"^RUN .*chmod -R a\+rX /app$", DOCKERFILE, re.MULTILINE)
    assert not re.search(r"^COPY (?!--from=build)", DOCKERFILE.split("\nFROM ")[-1], re.MULTILINE)


def test_kafkas_health_check_starts_no_jvm_and_no_start_leaves_nameless_volumes():
    kafka = services()["kafka"]
    assert '["CMD", "bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/19092"]' in kafka
    assert "tmpfs: [/etc/kafka/secrets, /mnt/shared/config]" in kafka


def test_one_shot_commands_have_an_init():
    assert "\n  init: true\n" in TEXT.split("\nservices:")[0]


def test_the_settings_for_the_host_are_accepted_and_name_the_published_ports(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name, value in HOST_ENV.items():
        monkeypatch.setenv(name, value)
    loaded = settings.load()
    assert loaded.kafka.bootstrap_servers == "localhost:9092"
    assert loaded.registry.url == "http://localhost:8081/apis/ccompat/v7"
