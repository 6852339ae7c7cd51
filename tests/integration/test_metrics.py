"""What the metrics port answers, and what it says of a worker."""

import socket
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline import metrics
from pipeline.errors import SettingsRefused
from pipeline.version import version
from tests.stages.test_retries import Bench

pytestmark = pytest.mark.integration


@pytest.fixture
def port() -> Iterator[int]:
    """A worker's metrics, served."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number = probe.getsockname()[1]
    bench = Bench("a1", "b1", life="one")
    bench.fails = {"a1": [OSError("no")]}
    bench.turns(50)
    with metrics.served(bench.stage, {"topic": "orders.v1", "group": "g"}, "127.0.0.1", number):
        yield number


def test_only_metrics_is_served_and_only_to_who_reads(port: int) -> None:
    at = f"http://127.0.0.1:{port}"
    assert httpx.get(f"{at}/metrics").status_code == 200
    assert httpx.get(f"{at}/metrics?name[]=pipeline_build_info").status_code == 200
    for path in ("/", "/healthz/live", "/healthz/ready", "/nonsense", "/metrics/", "/metrics2"):
        assert httpx.get(at + path).status_code == 404, path
        assert httpx.head(at + path).status_code == 404, path
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        answer = httpx.request(method, f"{at}/metrics")
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD"), method
    head = httpx.head(f"{at}/metrics")
    assert (head.status_code, head.content) == (200, b"")


def test_every_series_says_what_it_is_and_counts_what_happened(port: int) -> None:
    families = {
        it.name: it for it in text_string_to_metric_families(httpx.get(f"http://127.0.0.1:{port}/metrics").text)
    }
    for name, family in families.items():
        said = family.documentation.rstrip(".").lower()
        assert said != name.removeprefix("pipeline_").replace("_", " "), "the name is no explanation"
        assert len(said) > 20, name
    value = {
        name: family.samples[0].value
        for name, family in families.items()
        if len(family.samples) == 1 and family.samples[0].labels.keys() == {"topic", "group"}
    }
    assert value["pipeline_retries"] == 1
    assert value["pipeline_commits"] >= 1
    assert (value["pipeline_commit_failures"], value["pipeline_assignments"]) == (0, 1)
    assert value["pipeline_recovery_mode"] == 0
    assert value["pipeline_last_poll_age_seconds"] >= 0
    assert value["pipeline_last_commit_age_seconds"] >= 0
    assert families["pipeline_build_info"].samples[0].labels["version"] == version()


def test_port_that_is_taken_is_refused_by_its_setting(port: int) -> None:
    with (
        pytest.raises(SettingsRefused, match=f"metrics.port {port} on 127.0.0.1 cannot be used"),
        metrics.served(Bench("a1").stage, {}, "127.0.0.1", port),
    ):
        pass


@pytest.mark.parametrize("arguments", [["pipeline"], ["pipeline", "groups"], ["pipeline.consume", "--topic", "x"]])
def test_version_is_said_by_every_command(arguments: list[str]) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", *arguments, "--version"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, f"orders-pipeline {version()}\n")
