"""A pipeline of each test's own on the shared stack: its topics, subjects, group and store, and the commands as processes."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from pipeline.core.offsets import read_note
from pipeline.core.record import Record
from pipeline.core.topic_file import Declared
from pipeline.errors import BrokerUnavailable, TopicRefused
from pipeline.kafka.admin import Cluster
from pipeline.kafka.reader import read_all
from pipeline.kafka.registry import Registry
from pipeline.orders import from_fields
from pipeline.serde import schema_files
from pipeline.serde.avro import AvroWriter
from pipeline.stages import schema_gate

ROOT = Path(__file__).parents[2]
ORDERS_FILE = ROOT / "examples/online-retail-orders.ndjson.gz"


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = 60) -> Any:
    """The condition's first true value; a failed test when there is none in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    pytest.fail(f"not within {timeout_s:g} s: {what}")


@dataclass
class Ended:
    """What a command left behind."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The last line of stdout."""
        return json.loads(self.stdout.splitlines()[-1])


@dataclass
class Process:
    """A command that runs in the background; its stderr goes to a file, so that it is never blocked."""

    popen: "subprocess.Popen[str]"
    log: Path

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for_line(self, text: str, timeout_s: float = 60) -> None:
        def there() -> bool:
            assert self.popen.poll() is None or text in self.said(), f"ended with {self.popen.poll()}: {self.said()}"
            return text in self.said()

        wait_until(there, f"{text!r} in {self.log}", timeout_s)

    def end(self, number: int = signal.SIGTERM, timeout_s: float = 30) -> Ended:
        self.popen.send_signal(number)
        return self.ended(timeout_s)

    def ended(self, timeout_s: float = 60) -> Ended:
        stdout, _ = self.popen.communicate(timeout=timeout_s)
        return Ended(self.popen.returncode, stdout, self.said())


@dataclass
class Pipe:
    """One test's pipeline."""

    bootstrap_servers: str
    registry_url: str
    home: Path
    partitions: int = 3
    topic: str = field(default_factory=lambda: f"orders-{uuid4().hex[:8]}.v1")
    env: dict[str, str] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)
    writer: AvroWriter | None = None

    def __post_init__(self) -> None:
        self.dead_letter_topic = self.topic.replace(".v1", ".dlq.v1")
        self.group = f"workers-of-{self.topic}"
        self.schemas = self.home / "schemas"
        self.store = self.home / "orders.db"
        self.properties = {"bootstrap.servers": self.bootstrap_servers}
        self.cluster = Cluster(self.properties)
        for ours, subject in ((self.topic, "orders.v1-value"), (self.dead_letter_topic, "orders.dlq.v1-value")):
            shutil.copytree(ROOT / "schemas" / subject, self.schemas / f"{ours}-value")
        self.env = {
            name: value for name, value in os.environ.items() if not name.startswith(("PIPELINE_", "KAFKA_"))
        } | {
            "PIPELINE_KAFKA__BOOTSTRAP_SERVERS": self.bootstrap_servers,
            "PIPELINE_KAFKA__TOPIC": self.topic,
            "PIPELINE_KAFKA__DEAD_LETTER_TOPIC": self.dead_letter_topic,
            "PIPELINE_KAFKA__CONSUMER_GROUP": self.group,
            "PIPELINE_KAFKA__GROUP_PROTOCOL": os.environ.get("TEST_GROUP_PROTOCOL", "classic"),
            "PIPELINE_REGISTRY__URL": self.registry_url,
            "PIPELINE_SCHEMAS__DIR": str(self.schemas),
            "PIPELINE_STORE__URL": f"sqlite:///{self.store}",
            "PYTHONPATH": str(ROOT),
        }

    def create_topics(self, **changes: Any) -> None:
        dead_letters = {"cleanup.policy": "delete", "max.message.bytes": "3145728"}
        create(
            self.cluster,
            declared(self.topic, self.partitions, changes),
            declared(self.dead_letter_topic, self.partitions, dead_letters | changes),
        )

    def register_schemas(self) -> None:
        with Registry(self.registry_url) as registry:
            schema_gate.register(schema_files.load(self.schemas), registry, lambda _: None)

    def run(self, door: str, *arguments: str, stdin: bytes | None = None, timeout_s: float = 90) -> Ended:
        """Run `python -m pipeline.<door>` to its end."""
        done = subprocess.run(
            [sys.executable, "-m", f"pipeline.{door}", *arguments],
            env=self.env, cwd=self.home, input=stdin, capture_output=True, timeout=timeout_s, check=False,
        )  # fmt: skip
        return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(self, door: str, *arguments: str, stdin: Any = None) -> Process:
        """Start it in the background; it is ended with the test at the latest."""
        log = self.home / f"{door}-{len(self.processes)}.log"
        with log.open("w") as stderr:
            popen = subprocess.Popen(
                [sys.executable, "-m", f"pipeline.{door}", *arguments],
                env=self.env, cwd=self.home, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, text=True,
            )  # fmt: skip
        process = Process(popen, log)
        self.processes.append(process)
        return process

    def produce(self, lines: list[dict[str, Any]]) -> None:
        """Publish these orders through the door."""
        ended = self.run("produce", "--input", "-", stdin="".join(json.dumps(line) + "\n" for line in lines).encode())
        assert ended.code == 0, ended.stderr

    def encoded(self, order: dict[str, Any]) -> bytes:
        """The order as `produce` writes it."""
        if self.writer is None:
            text = (ROOT / "schemas/orders.v1-value/v1.avsc").read_text()
            with Registry(self.registry_url) as registry:
                self.writer = AvroWriter(json.loads(text), registry.lookup_id(f"{self.topic}-value", text))
        return self.writer.encode(from_fields(order).__dict__)

    def write_orders(self, path: Path, orders: list[dict[str, Any]]) -> None:
        path.write_text("".join(json.dumps(each) + "\n" for each in orders))

    def republish_under_a_new_name(self) -> int:
        """Copy what lies in the topic as it is; how many records that were."""
        found = self.records(self.topic)
        producer = Producer(self.properties)
        for record in found:
            producer.produce(self.topic, record.value, record.key, record.partition)
        assert producer.flush(30) == 0
        producer.close()
        return len(found)

    def delete_topic(self, name: str) -> None:
        """Gone when this returns."""
        admin = AdminClient(self.properties)
        for future in admin.delete_topics([name]).values():
            future.result()
        wait_until(lambda: self.cluster.partitions(name) is None, f"{name} gone")

    def records(self, topic: str) -> list[Record]:
        """All that lies in a topic now."""
        return list(read_all(self.properties | {"enable.partition.eof": True}, topic, self.cluster.end_offsets(topic)))

    def end_of(self, topic: str) -> int:
        """How many offsets a topic has."""
        return sum(self.cluster.end_offsets(topic).values())

    def done_ahead(self, partition: int) -> int:
        """How many records above the committed offset are done, says the commit's metadata."""
        consumer = Consumer(self.properties | {"group.id": self.group})
        try:
            [it] = consumer.committed([TopicPartition(self.topic, partition)], timeout=10)
        finally:
            consumer.close()
        return sum(last - first for first, last in read_note(it.metadata, it.offset).done)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What the store answers; nothing before its table is there."""
        connection = sqlite3.connect(self.store)
        try:
            return connection.execute(query).fetchall()
        except sqlite3.OperationalError:
            return []
        finally:
            connection.close()

    def lag(self) -> int:
        return sum(self.cluster.lag(self.group, self.topic).values())

    def stop_all(self) -> None:
        for process in self.processes:
            if process.popen.poll() is None:
                process.popen.kill()
            process.popen.wait()
            if process.popen.stdout is not None:
                process.popen.stdout.close()
            # Shown where the test failed: what the processes said is the first thing one asks for.
            print(f"--- {process.log.name}, exit code {process.popen.returncode}\n{process.said()[-4000:]}")


def declared(name: str, partitions: int, configs: dict[str, str] | None = None) -> Declared:
    return Declared(name=name, partitions=partitions, replication=-1, configs=configs or {}, purpose="a test")


def create(cluster: Cluster, *topics: Declared) -> None:
    """Make these topics; they can be used when this returns, which is a little later than the broker says."""
    cluster.create(topics)

    def led() -> bool:
        with suppress(BrokerUnavailable, TopicRefused):
            return all(len(cluster.end_offsets(topic.name)) == topic.partitions for topic in topics)
        return False

    wait_until(led, f"leaders of {', '.join(topic.name for topic in topics)}")


def order(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "order_id": f"A-{number}", "customer_id": f"C-{number % 7}", "amount": f"{number + 1}.50",
        "timestamp_utc": "2026-01-01T00:00:00Z",
    } | changes  # fmt: skip


@pytest.fixture
def bare_pipe(stack: Any, tmp_path: Path) -> Iterator[Pipe]:
    """A pipeline whose topics and schemas are not there yet."""
    pipe = Pipe(stack.bootstrap_servers, stack.registry_url, tmp_path)
    yield pipe
    pipe.stop_all()


@pytest.fixture
def pipe(bare_pipe: Pipe) -> Pipe:
    """A pipeline that is ready for orders."""
    bare_pipe.create_topics()
    bare_pipe.register_schemas()
    return bare_pipe


@pytest.fixture(params=["classic", pytest.param("consumer", marks=pytest.mark.kip848)])
def protocol(request: pytest.FixtureRequest) -> str:
    """The group protocol: classic, and KIP-848's."""
    return str(request.param)
