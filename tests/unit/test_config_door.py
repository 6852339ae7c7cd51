import json
import os

import pytest
from typer.testing import CliRunner

from pipeline.config import app

SECRET = "hunter2"


@pytest.fixture
def run(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.upper().startswith("PIPELINE_") or name == "KAFKA_CONFIG_FILE":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def run(*arguments, **variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return CliRunner().invoke(app, ["show", *arguments])

    return run


def test_table_shows_value_and_origin_in_aligned_columns(run):
    lines = run(PIPELINE_KAFKA__TOPIC="t", PIPELINE_STORE__URL=f"postgresql://u:{SECRET}@h/db").stdout.splitlines()
    assert lines[0].split() == ["kafka.bootstrap_servers", "localhost:9092", "default"]
    assert lines[1].split() == ["kafka.topic", "t", "environment", "PIPELINE_KAFKA__TOPIC"]
    assert lines[0].index("localhost:9092") == lines[1].index(" t ") + 1
    assert lines[0].index("default") == lines[1].index("environment")
    assert SECRET not in "".join(lines)


def test_json_is_one_line_with_types(run):
    result = run("--json", PIPELINE_REGISTRY__TIMEOUT_S="2.5")
    (line,) = result.stdout.splitlines()
    shown = json.loads(line)
    assert shown["registry.timeout_s"] == {"value": 2.5, "from": "environment PIPELINE_REGISTRY__TIMEOUT_S"}
    assert shown["kafka.security.use_sasl"] == {"value": False, "from": "default"}
    assert shown["kafka.instance"] == {"value": None, "from": "default"}


def test_problems_are_all_listed_on_stderr_with_exit_2(run):
    result = run(PIPELINE_X="1", PIPELINE_KAFKA__DEAD_LETTER_TOPIC="orders.v1")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "PIPELINE_X" in result.stderr
    assert "PIPELINE_KAFKA__DEAD_LETTER_TOPIC" in result.stderr


def test_property_librdkafka_does_not_know_is_refused_with_the_nearest_one(run):
    result = run(PIPELINE_KAFKA__EXTRA__LINGER_MZ="5")
    assert result.exit_code == 2
    assert "linger.mz is not a property of librdkafka: did you mean linger.ms?" in result.stderr


def test_looking_at_settings_makes_no_client(run, monkeypatch):
    def no_client(*_, **__):
        pytest.fail("a client was made")

    for name in ("Producer", "Consumer"):
        monkeypatch.setattr(f"pipeline.kafka.config.{name}", no_client)
    assert run(PIPELINE_KAFKA__EXTRA__LINGER_MS="soon").exit_code == 0
    assert run(PIPELINE_KAFKA__EXTRA__LINGER_MZ="5").exit_code == 2


@pytest.mark.parametrize("source", ["pipeline.toml", ".env", "client.properties"])
def test_library_that_a_file_in_the_current_folder_names_is_refused_and_not_loaded(run, tmp_path, source):
    texts = {
        "pipeline.toml": '[kafka.extra]\n"plugin.library.paths" = "./absent.so"\n',
        ".env": "PIPELINE_KAFKA__EXTRA__PLUGIN_LIBRARY_PATHS=./absent.so\n",
        "client.properties": "plugin.library.paths=./absent.so\n",
    }
    (tmp_path / source).write_text(texts[source])
    named = {"KAFKA_CONFIG_FILE": source} if source == "client.properties" else {}
    result = run(**named)
    assert result.exit_code == 2
    assert "would make this process run a library of somebody's choosing" in result.stderr
    assert "dlopen" not in result.stderr


def test_setting_that_only_another_command_is_refused_for_is_shown_and_said(run):
    result = run(PIPELINE_KAFKA__TOPIC="orders.by-customer.v1")
    assert result.exit_code == 0
    assert (
        "! refused by forward: forward.topic=orders.by-customer.v1 (default) is PIPELINE_KAFKA__TOPIC" in result.stderr
    )
