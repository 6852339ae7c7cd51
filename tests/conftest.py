"""What every test shares: one real stack for the whole run, and unit tests that reach nothing outside themselves."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_socket
from hypothesis import settings

HERE = Path(__file__).parent
# The same examples in every run: what fails here fails everywhere.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@dataclass(frozen=True)
class Stack:
    """Where the broker and the registry of this run are."""

    bootstrap_servers: str
    registry_url: str


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """A real broker and a real registry, by TEST_STACK: local (the default), external or containers."""
    kind = os.environ.get("TEST_STACK", "local")
    if kind == "local":
        from pipeline.local import artifacts  # noqa: PLC0415  # unit tests need no Java
        from pipeline.local.stack import ephemeral_stack  # noqa: PLC0415

        installed = artifacts.install(artifacts.default_cache(), artifacts.no_progress, print)
        with ephemeral_stack(installed) as it:
            yield Stack(it.bootstrap_servers, it.registry_url)
    elif kind == "external":
        names = ("PIPELINE_KAFKA__BOOTSTRAP_SERVERS", "PIPELINE_REGISTRY__URL")
        if missing := [name for name in names if name not in os.environ]:
            pytest.exit(f"TEST_STACK=external needs {' and '.join(missing)} in the environment.", returncode=2)
        yield Stack(*(os.environ[name] for name in names))
    elif kind == "containers":
        from tests.containers import running  # noqa: PLC0415  # needs Docker

        with running() as (bootstrap_servers, registry_url):
            yield Stack(bootstrap_servers, registry_url)
    else:
        pytest.exit(f"TEST_STACK={kind} is none of local, external, containers.", returncode=2)


@pytest.fixture(autouse=True)
def _alone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Unit and stage tests see no settings of the machine and open no socket."""
    if not request.path.is_relative_to(HERE / "unit") and not request.path.is_relative_to(HERE / "stages"):
        yield
        return
    for name in list(os.environ):
        if name.startswith("PIPELINE_") or name == "KAFKA_CONFIG_FILE":
            monkeypatch.delenv(name)
    # asyncio talks to itself through a pair of unix sockets.
    pytest_socket.disable_socket(allow_unix_socket=True)
    yield
    pytest_socket.enable_socket()


def pytest_sessionfinish(exitstatus: int) -> None:
    """A run that found no test has proven nothing."""
    assert exitstatus != pytest.ExitCode.NO_TESTS_COLLECTED, "no test was found"
