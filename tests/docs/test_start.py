"""What a command loads when it is only asked for its help."""

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
