"""The local stack's promises, each on real processes of its own: own ports, own folders, own cache of links."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from pipeline.kafka.admin import Cluster
from pipeline.kafka.registry import Registry
from pipeline.local import artifacts
from pipeline.local.artifacts import Installed
from pipeline.local.ports import free_port, is_free
from pipeline.local.process import started_at
from tests.integration.conftest import create, declared, wait_until

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]


# Below those that the system hands out, and for this process alone: they stay free while a test has its servers killed.
PORTS = count(10_000 + os.getpid() % 700 * 32)


def own_port() -> int:
    return next(port for port in PORTS if is_free(port))


@dataclass
class Machine:
    """A user's machine: a cache with every jar, an empty data folder, two ports."""

    folder: Path
    env: dict[str, str]
    kafka_port: int
    registry_port: int

    def run(self, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "pipeline.local", *arguments],
            env=self.env | env, cwd=self.folder, capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip

    def states(self) -> dict[str, dict[str, Any]]:
        return {each["name"]: each for each in json.loads(self.run("status", "--json").stdout)}


@pytest.fixture
def machine(tmp_path: Path, installed: Installed) -> Iterator[Machine]:
    cache = tmp_path / "cache"
    cache.mkdir()
    for path in artifacts.default_cache().iterdir():
        (cache / path.name).symlink_to(path)
    registry, kafka = own_port(), own_port()  # a second and third broker listen right behind the first
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PIPELINE_", "KAFKA_"))}
    machine = Machine(
        tmp_path,
        clean
        | {
            "PYTHONPATH": str(ROOT),
            "PIPELINE_LOCAL__CACHE_DIR": str(cache),
            "PIPELINE_LOCAL__DIR": str(tmp_path / "data"),
            "PIPELINE_LOCAL__KAFKA_PORT": str(kafka),
            "PIPELINE_LOCAL__REGISTRY_PORT": str(registry),
        },
        kafka,
        registry,
    )
    yield machine
    machine.run("down", "--wipe")


def test_data_survives_kill_9_of_both_and_down_and_up(machine: Machine) -> None:
    started = machine.run("up")
    assert started.returncode == 0, started.stderr
    address, url = f"127.0.0.1:{machine.kafka_port}", f"http://127.0.0.1:{machine.registry_port}/apis/ccompat/v7"
    cluster = Cluster({"bootstrap.servers": address})
    create(cluster, declared("kept", 1))
    producer = Producer({"bootstrap.servers": address, "acks": "all"})
    producer.produce("kept", b"value")
    assert producer.flush(10) == 0
    producer.close()
    with Registry(url) as registry:
        schema_id = registry.register("kept-value", '{"type": "record", "name": "Kept", "fields": []}')
    before = machine.states()
    assert machine.run("up").stderr.endswith("All of it was up already.\n")
    assert machine.states() == before, "a second up starts nothing"
    for name, state in before.items():
        assert f"/{name}.jsa" in Path(f"/proc/{state['pid']}/maps").read_text(), "it maps its class archive"

    os.kill(before["registry"]["pid"], signal.SIGKILL)
    wait_until(lambda: started_at(before["registry"]["pid"]) is None, "the registry gone")
    assert machine.states()["registry"]["state"] == "gone"
    assert machine.run("status").returncode == 1
    again = machine.run("up")
    assert "registry of an earlier start is gone" in again.stderr
    assert machine.states()["kafka"]["pid"] == before["kafka"]["pid"], "only what was gone is started"
    os.kill(before["kafka"]["pid"], signal.SIGKILL)
    wait_until(lambda: started_at(before["kafka"]["pid"]) is None, "the broker gone")
    assert machine.states()["kafka"]["state"] == "gone"
    assert machine.run("up").returncode == 0
    assert machine.run("down").returncode == 0
    assert {state["state"] for state in machine.states().values()} == {"stopped"}
    assert machine.run("up").returncode == 0

    assert Cluster({"bootstrap.servers": address}).end_offsets("kept") == {0: 1}
    with Registry(url) as registry:
        assert [(each.version, each.id) for each in registry.versions("kept-value")] == [(1, schema_id)]
    assert "kafka" in machine.run("logs", "kafka").stdout.lower()
    assert machine.run("env").stdout == (
        f"export PIPELINE_KAFKA__BOOTSTRAP_SERVERS={address}\nexport PIPELINE_REGISTRY__URL={url}\n"
    )
    assert machine.run("down", "--wipe").returncode == 0
    assert not (machine.folder / "data").exists()


def test_relative_folder_holds_the_stack(machine: Machine) -> None:
    cache = os.path.relpath(machine.env["PIPELINE_LOCAL__CACHE_DIR"], machine.folder)
    started = machine.run("up", PIPELINE_LOCAL__DIR="here", PIPELINE_LOCAL__CACHE_DIR=cache)
    try:
        assert started.returncode == 0, started.stderr
        assert (machine.folder / "here/kafka/meta.properties").exists()
    finally:
        machine.run("down", "--wipe", PIPELINE_LOCAL__DIR="here")


def test_two_starts_at_once_wait_for_each_other(machine: Machine) -> None:
    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(lambda _: machine.run("up"), range(2)))
    assert [each.returncode for each in ended] == [0, 0], [each.stderr for each in ended]
    said = sorted(each.stderr for each in ended)
    assert "another start is at work" in said[0]
    assert "All of it was up already." in said[0]
    assert "starting kafka" in said[1]


@pytest.mark.parametrize("where", ["file", "file/below"])
def test_folder_that_cannot_be_is_refused_with_the_setting(machine: Machine, where: str) -> None:
    (machine.folder / "file").touch()
    for command in (["up"], ["down", "--wipe"], ["status"], ["logs"]):
        refused = machine.run(*command, PIPELINE_LOCAL__DIR=str(machine.folder / where))
        assert refused.returncode == (2 if command[0] != "status" or where == "file" else refused.returncode)
        assert "Traceback" not in refused.stderr
    refused = machine.run("up", PIPELINE_LOCAL__DIR=str(machine.folder / where))
    assert "PIPELINE_LOCAL__DIR" in refused.stderr


def test_one_port_for_both_is_refused(machine: Machine) -> None:
    refused = machine.run("up", PIPELINE_LOCAL__REGISTRY_PORT=str(machine.kafka_port))
    assert refused.returncode == 2
    assert f"cannot both listen on port {machine.kafka_port}" in refused.stderr


def test_wipe_says_what_it_did_and_that_a_store_may_remember_more(machine: Machine) -> None:
    nothing = machine.run("down", "--wipe")
    assert nothing.stderr.splitlines() == ["nothing was running", f"there was no {machine.folder / 'data'}"]
    (machine.folder / "data").mkdir()
    (machine.folder / "data/local-stack.json").write_text("{}")
    wiped = machine.run("down", "--wipe", PIPELINE_STORE__URL="postgresql+psycopg://user:s3cret@host/orders")
    assert wiped.returncode == 0
    assert f"{machine.folder / 'data'} is gone" in wiped.stderr
    assert "If the store (postgresql+psycopg://••••) was filled from these topics, empty it as well" in wiped.stderr


def test_busy_port_is_refused_with_its_owner_and_the_setting_named(machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", machine.registry_port)):
        refused = machine.run("up")
    assert refused.returncode == 2
    assert f"Port {machine.registry_port} is taken" in refused.stderr
    assert "PIPELINE_LOCAL__REGISTRY_PORT" in refused.stderr
    if Path("/proc/self").exists():
        assert f"by process {os.getpid()}" in refused.stderr
    assert {state["state"] for state in machine.states().values()} == {"stopped"}, "nothing was started before refusing"


def test_stale_pid_file_of_another_program_is_not_taken_for_ours_and_never_killed(machine: Machine) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        data = machine.folder / "data"
        data.mkdir()
        (data / "local-stack.json").write_text("{}")
        (data / "kafka.pid").write_text(json.dumps({"pid": bystander.pid, "started": "1"}))
        assert machine.states()["kafka"]["state"] == "gone"
        assert machine.run("down").returncode == 0
        assert bystander.poll() is None
    finally:
        bystander.communicate(b"\n")


def test_unreadable_pid_file_is_refused_with_what_to_do(machine: Machine) -> None:
    (machine.folder / "data").mkdir()
    (machine.folder / "data/kafka.pid").write_text("?")
    refused = machine.run("up")
    assert refused.returncode == 2
    assert "delete that file" in refused.stderr


def test_folder_that_is_not_ours_is_never_wiped(machine: Machine) -> None:
    data = machine.folder / "data"
    data.mkdir()
    (data / "thesis.txt").write_text("years of work")
    refused = machine.run("up")
    assert (refused.returncode, "is not empty" in refused.stderr) == (2, True)
    refused = machine.run("down", "--wipe")
    assert refused.returncode == 2
    assert (data / "thesis.txt").exists()
    (data / "thesis.txt").unlink()


def test_damaged_jar_in_the_cache_is_noticed_and_not_run(machine: Machine) -> None:
    """No network here: the proxy named is nobody, so that fetching it once more fails and says so."""
    jar = machine.folder / "cache" / artifacts.lock()[0].file_name
    jar.unlink()
    jar.write_bytes(b"\0" * artifacts.lock()[0].size)
    nobody = f"http://127.0.0.1:{free_port()}"
    refused = machine.run("up", HTTPS_PROXY=nobody, HTTP_PROXY=nobody, https_proxy=nobody, http_proxy=nobody)
    assert refused.returncode == 2
    assert "its checksum differs" in refused.stderr
    assert "cannot be fetched" in refused.stderr
    assert not jar.exists()


def test_cached_stack_starts_without_a_network(machine: Machine) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    started = machine.run("up", HTTPS_PROXY=nobody, HTTP_PROXY=nobody, https_proxy=nobody, http_proxy=nobody)
    assert started.returncode == 0, started.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_ephemeral_stack_ends_with_its_parent(machine: Machine, number: int) -> None:
    temporary = machine.folder / "tmp"
    temporary.mkdir()
    parent = subprocess.Popen(
        [sys.executable, "-m", "pipeline.local", "up", "--ephemeral"],
        env=machine.env | {"TMPDIR": str(temporary)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert parent.stdout is not None
    exports = [parent.stdout.readline() for _ in range(2)]
    assert exports[0].startswith("export PIPELINE_KAFKA__BOOTSTRAP_SERVERS=127.0.0.1:")
    pids = [json.loads(path.read_text())["pid"] for path in temporary.glob("*/*/*.pid")]
    assert len(pids) == 2
    assert [path.parent.name for path in temporary.glob("*/*/tmp/*/com_*")] == ["registry"], "not in /tmp"
    parent.send_signal(number)
    parent.communicate(timeout=30)
    wait_until(lambda: not any(started_at(pid) for pid in pids), "both ended")
    if number == signal.SIGTERM:
        assert parent.returncode == 0
        assert list(temporary.iterdir()) == []


@pytest.mark.long  # a cluster of three is in make test by the chaos tests
def test_broker_of_three_killed_leaves_the_cluster_working_and_comes_back_with_up(machine: Machine) -> None:
    ports = ",".join(f"127.0.0.1:{machine.kafka_port + number}" for number in range(3))
    started = machine.run("up", "--brokers", "3")
    assert started.returncode == 0, started.stderr
    assert machine.run("env").stdout.splitlines()[0] == f"export PIPELINE_KAFKA__BOOTSTRAP_SERVERS={ports}"
    before = machine.states()
    assert sorted(before) == ["kafka", "kafka-2", "kafka-3", "registry"]
    cluster = Cluster({"bootstrap.servers": ports})
    create(cluster, declared("copied", 3))
    os.kill(before["kafka-2"]["pid"], signal.SIGKILL)
    producer = Producer({"bootstrap.servers": ports, "acks": "all", "message.timeout.ms": 60_000})
    refused: list[Any] = []
    for partition in range(3):
        producer.produce("copied", b"value", partition=partition, on_delivery=lambda error, _: refused.append(error))
    assert producer.flush(60) == 0
    assert refused == [None] * 3, "two of three copies are enough"
    producer.close()
    assert "holds the data of 3 brokers, not of 1" in machine.run("up", "--brokers", "1").stderr
    assert machine.run("up").returncode == 0, "as many as there were"
    after = machine.states()
    assert {each["state"] for each in after.values()} == {"running"}
    assert after["kafka"]["pid"] == before["kafka"]["pid"]
    assert sum(cluster.end_offsets("copied").values()) == 3
