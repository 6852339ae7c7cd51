"""What a command loads when it is only asked for its help."""

import importlib
import re
import subprocess
import sys

import pytest

from pipeline.__main__ import DOORS


@pytest.mark.parametrize("door", DOORS)
def test_help_loads_neither_the_database_nor_the_client_nor_the_web(door: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", f"pipeline.{door}", "--help"],
        capture_output=True, text=True, check=True, env={"COLUMNS": "120"},
    )  # fmt: skip
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert not loaded & {"sqlalchemy", "fastapi", "confluent_kafka", "fastavro", "pydantic", "httpx", "jgo"}
    assert "Usage" in done.stdout


def test_list_of_all_commands_is_on_stdout_and_names_what_each_can_do() -> None:
    done = subprocess.run([sys.executable, "-m", "pipeline", "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    listed = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if line.startswith("  "))
    assert set(listed) == set(DOORS)
    for door in ("local", "deadletters", "groups", "schemas", "config"):
        app = importlib.import_module(f"pipeline.{door}" if door != "local" else "pipeline.local.__main__").app
        for command in app.registered_commands:
            name = command.name or command.callback.__name__
            assert re.search(rf"\b{name}\b", listed[door]), f"{door} can {name} too"
