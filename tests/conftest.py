"""What every test shares: a real stack for the whole run, and unit tests that reach nothing outside themselves."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_socket
from _pytest.nodes import coerce_node_id
from hypothesis import settings

from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.local.artifacts import Installed

HERE = Path(__file__).parent
# The same examples in every run: what fails here fails everywhere.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
# Tests start commands by the hundred: as on a user's machine, these are not compiled anew each time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@dataclass(frozen=True)
class Stack:
    """Where the broker and the registry of this run are."""

    bootstrap_servers: str
    registry_url: str


SHARED = pytest.StashKey[Stack]()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With workers what takes long comes first: the quick rest then fills the gaps, and no worker ends long after all."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        for item in items:
            # pytest-xdist 3.8 writes the group where pytest 9.2 does not read the id: groups would be torn apart.
            if named := vars(item).get("_nodeid"):
                item._id = coerce_node_id(named)
        items.sort(key=lambda item: item.get_closest_marker("integration") is None)


@contextmanager
def running_stack() -> Iterator[Stack]:
    """A real broker and a real registry, by TEST_STACK: local (the default), external or containers."""
    kind = os.environ.get("TEST_STACK", "local")
    if kind == "local":
        from pipeline.local.stack import ephemeral_stack  # noqa: PLC0415  # unit tests need no Java

        with ephemeral_stack(install()) as it:
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


def install() -> "Installed":
    """What local servers are started from."""
    from pipeline.local import artifacts, class_archives  # noqa: PLC0415

    # A test's servers live for seconds or minutes: they shall not spend as long on optimising themselves.
    os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
    return class_archives.install(artifacts.default_cache(), artifacts.no_progress, print)


def pytest_xdist_setupnodes(config: pytest.Config) -> None:
    """One stack for all workers: there before the first of them begins, and gone after the last."""
    opened = ExitStack()
    config.add_cleanup(opened.close)
    try:
        config.stash[SHARED] = opened.enter_context(running_stack())
    except PipelineError as error:
        pytest.exit(str(error), returncode=error.exit_code)


def pytest_configure_node(node: Any) -> None:
    """Tell a worker where it is."""
    node.workerinput["stack"] = asdict(node.config.stash[SHARED])


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """The stack of this run; every test has topics, groups and subjects of its own on it."""
    told = getattr(request.config, "workerinput", None)
    if told is not None:
        yield Stack(**told["stack"])
        return
    with running_stack() as it:
        yield it


@pytest.fixture(scope="session")
def installed() -> "Installed":
    """For tests with servers of their own."""
    return install()


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
