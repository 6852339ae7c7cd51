"""One Kafka broker of the local stack, which is a controller of its cluster as well (KRaft, both in one process)."""

import os
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import BrokerUnavailable
from pipeline.kafka.admin import Cluster
from pipeline.local.artifacts import Installed
from pipeline.local.folder import write_private
from pipeline.local.ports import Ports, is_free
from pipeline.local.process import Server

# Brokers talk to each other on a listener of their own, so that what stands in front of the clients' one stands in front of
# clients alone.
PROPERTIES = """\
process.roles=broker,controller
node.id={number}
controller.quorum.voters={voters}
listeners=PLAINTEXT://127.0.0.1:{port},INTERNAL://127.0.0.1:{internal},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{advertised},INTERNAL://127.0.0.1:{internal}
inter.broker.listener.name=INTERNAL
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,INTERNAL:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={data}
# Topics are declared (make topics), never made by a misspelt name.
auto.create.topics.enable=false
# As many copies of everything as a cluster of this size can have, three at most; two of three have to be written.
default.replication.factor={copies}
min.insync.replicas={written}
offsets.topic.replication.factor={copies}
transaction.state.log.replication.factor={copies}
transaction.state.log.min.isr={written}
share.coordinator.state.topic.replication.factor={copies}
share.coordinator.state.topic.min.isr={written}
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
HEAP = "-Xmx768m"
COPIES_MAX = 3


def name_of(number: int) -> str:
    """The first is `kafka`, as where it is alone; then `kafka-2` and so on."""
    return "kafka" if number == 1 else f"kafka-{number}"


@dataclass(frozen=True, slots=True)
class Broker:
    """Number `number` (from 1) of a cluster with these ports; clients are told to come to port `advertised`."""

    number: int
    folder: Path
    ports: Ports
    advertised: int
    installed: Installed
    java_options: Sequence[str]

    @property
    def name(self) -> str:
        """Its server's."""
        return name_of(self.number)

    @property
    def port(self) -> int:
        """Where it listens for clients."""
        return self.ports.kafka[self.number - 1]

    @property
    def address(self) -> str:
        """Where clients find it."""
        return f"127.0.0.1:{self.advertised}"

    @property
    def cluster_id(self) -> str | None:
        """Of the cluster that its storage was made for; None where there is none yet."""
        try:
            lines = (self._data / "meta.properties").read_text().splitlines()
        except FileNotFoundError:
            return None
        return next((line.partition("=")[2] for line in lines if line.startswith("cluster.id=")), None)

    @property
    def _data(self) -> Path:
        return self.folder / self.name

    @property
    def _settings(self) -> Path:
        return self.folder / f"{self.name}.properties"

    def server(self, *, dies_with_parent: bool) -> Server:
        """Its process, not started."""
        logging = [f"-Dlog4j2.configurationFile={LOGGING}", f"-Dpipeline.log={self.folder / f'{self.name}-server.log'}"]
        command = [*self._java(*logging), "kafka.Kafka", str(self._settings)]
        return Server(self.name, self.folder, command, {}, self._is_ready, dies_with_parent, self.java_options[0])

    def write_settings(self) -> None:
        """What it is started with."""
        count = len(self.ports.kafka)
        copies = min(COPIES_MAX, count)
        voters = ",".join(f"{number}@127.0.0.1:{port}" for number, port in enumerate(self.ports.controllers, 1))
        write_private(
            self._settings,
            PROPERTIES.format(
                number=self.number,
                voters=voters,
                port=self.port,
                internal=self.ports.internal[self.number - 1],
                controller=self.ports.controllers[self.number - 1],
                advertised=self.advertised,
                data=self._data,
                copies=copies,
                written=max(1, copies - 1),
            ),
        )

    def formatting(self, cluster_id: str) -> list[str]:
        """The command that makes its storage."""
        # Over before the slower compiler would be of any use.
        return [
            *self._java("-XX:TieredStopAtLevel=1"),
            "kafka.tools.StorageTool",
            "format",
            "-t",
            cluster_id,
            "-c",
            str(self._settings),
        ]

    def _java(self, *options: str) -> list[str]:
        class_path = os.pathsep.join(map(str, self.installed.kafka_jars))
        # Quiet where it would be loud: Java 25 warns of native code in Kafka's own jars.
        native = "--enable-native-access=ALL-UNNAMED"
        archive = self.installed.archive("kafka")
        return [str(self.installed.java), HEAP, *archive, *self.java_options, native, *options, "-cp", class_path]

    def _is_ready(self) -> bool:
        if is_free(self.port):
            return False
        with suppress(BrokerUnavailable):
            Cluster({"bootstrap.servers": f"127.0.0.1:{self.port}"}).wait_until_reachable(0.5)
            return True
        return False


def new_cluster_id() -> str:
    """As Kafka writes them: never with a dash in front, which its own command takes for an option."""
    while (text := urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text
