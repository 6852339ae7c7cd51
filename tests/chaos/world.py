"""What faults happen to: a cluster behind proxies, forwarders, orders that flow in, a reader, and the history of it all."""

import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from pipeline.core.retry import topic_name
from pipeline.core.topic_file import Declared
from pipeline.errors import Invalid, PipelineError
from pipeline.kafka.admin import Cluster
from pipeline.kafka.registry import Registry
from pipeline.local.process import Server
from pipeline.local.stack import LocalStack
from pipeline.orders import from_json
from pipeline.serde import schema_files
from pipeline.serde.avro import AvroWriter
from pipeline.settings import Retry
from pipeline.stages import schema_gate
from tests.chaos.child import ID, TRANSACTION
from tests.chaos.history import History, Outcome, Published, Seen, Sent, Transaction
from tests.chaos.network import Network

ROOT = Path(__file__).parents[2]
ORDERS = ROOT / "examples/online-retail-orders.ndjson.gz"
PARTITIONS = 6
# A transaction may last shorter than a session, so that each of both can be outlasted alone.
SESSION_S, TRANSACTION_S = 8.0, 4.0
_LOOK_S = 0.05


class NotInTime(Exception):
    """A condition that did not come about."""


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = 60) -> Any:
    """The condition's first true value."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise NotInTime(f"not within {timeout_s:g} s: {what}")
        time.sleep(_LOOK_S)
    return value


@dataclass
class Forwarder:
    """One instance. `ended` are the exit codes it had, by choice of nobody."""

    name: str
    process: "subprocess.Popen[str]"
    log: Path
    busy: threading.Lock = field(default_factory=threading.Lock)

    @property
    def is_stopped(self) -> bool:
        """Whether it is held by SIGSTOP; false as well when it is gone."""
        with suppress(OSError):
            return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        return False

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def said(self) -> str:
        return self.log.read_text(errors="replace")


class World:
    """One run: topics, schemas and a group of its own on a cluster that may be shared by several runs, one after the other."""

    def __init__(
        self,
        stack: LocalStack,
        network: Network,
        folder: Path,
        *,
        seed: int = 0,
        transform: str = "",
        protocol: str = "classic",
        mutant: str = "",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.stack, self.network, self.folder = stack, network, folder
        self.random = random.Random(seed)
        self.history = History()
        self.events: list[tuple[float, str]] = []
        self.forwarders: dict[str, Forwarder] = {}
        self.healing = threading.Event()
        self.odd_exits: list[str] = []
        self._mutant, self._transform = mutant, transform
        self._numbers = 0
        self._began = time.monotonic()
        self._stopping = threading.Event()
        self._feeding = threading.Event()
        self._threads: list[threading.Thread] = []
        self._past: list[Forwarder] = []
        mark = uuid4().hex[:6]
        self.source, self.output, self.letters = (f"{name}-{mark}.v1" for name in ("orders", "by-customer", "dead"))
        self.group = f"forwarders-{mark}"
        self.properties = {"bootstrap.servers": stack.bootstrap_servers}
        self.cluster = Cluster(self.properties)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("PIPELINE_", "KAFKA_", "FAULT_"))} | {
            "PYTHONPATH": f"{ROOT}{os.pathsep}{Path.cwd()}",
            "PIPELINE_KAFKA__BOOTSTRAP_SERVERS": stack.bootstrap_servers,
            "PIPELINE_KAFKA__TOPIC": self.source,
            "PIPELINE_KAFKA__DEAD_LETTER_TOPIC": self.letters,
            "PIPELINE_KAFKA__GROUP_PROTOCOL": protocol,
            "PIPELINE_FORWARD__TOPIC": self.output,
            "PIPELINE_FORWARD__GROUP": self.group,
            "PIPELINE_FORWARD__TRANSACTION_TIMEOUT_MS": str(int(TRANSACTION_S * 1000)),
            "PIPELINE_REGISTRY__URL": stack.registry_url,
            "PIPELINE_SCHEMAS__DIR": str(folder / "schemas"),
            # Nobody waits a minute for an answer that a proxy swallowed.
            "PIPELINE_KAFKA__EXTRA__SOCKET_TIMEOUT_MS": "3000",
            "PIPELINE_KAFKA__EXTRA__RECONNECT_BACKOFF_MAX_MS": "1000",
        }  # fmt: skip
        if protocol == "classic":
            self.env["PIPELINE_KAFKA__EXTRA__SESSION_TIMEOUT_MS"] = str(int(SESSION_S * 1000))
            self.env["PIPELINE_KAFKA__EXTRA__HEARTBEAT_INTERVAL_MS"] = "1000"
        self.env |= {"PIPELINE_RETRY__TIERS": "1s,2s,4s"} | dict(settings or {})
        delays = Retry(tiers=self.env["PIPELINE_RETRY__TIERS"]).delays
        self.retries = [topic_name(self.source, self.group, each) for each in delays]
        self.history.ordered = [self.output]
        self.history.passing = self.retries
        self._prepare()

    def _prepare(self) -> None:
        for ours, subject in (
            (self.source, "orders.v1"), (self.output, "orders.by-customer.v1"), (self.letters, "orders.dlq.v1"),
        ):  # fmt: skip
            shutil.copytree(ROOT / f"schemas/{subject}-value", self.folder / f"schemas/{ours}-value")
        with Registry(self.stack.registry_url) as registry:
            schema_gate.register(schema_files.load(self.folder / "schemas"), registry, lambda _: None)
            text = (ROOT / "schemas/orders.v1-value/v1.avsc").read_text()
            self._writer = AvroWriter(json.loads(text), registry.lookup_id(f"{self.source}-value", text))
        largest = {"max.message.bytes": "3145728"}
        self.cluster.create(
            [
                Declared(it, PARTITIONS, -1, configs=largest, purpose="chaos")
                for it in (self.source, self.output, self.letters)
            ]
        )
        wait_until(lambda: self._leaders() >= {self.source, self.output, self.letters}, "leaders of the topics")

    def _leaders(self) -> set[str]:
        found = set()
        with suppress(PipelineError):
            for topic in (self.source, self.output, self.letters):
                self.cluster.end_offsets(topic)
                found.add(topic)
        return found

    # --- what happens meanwhile

    def tell(self, what: str) -> None:
        """Note an event of the run."""
        self.events.append((round(time.monotonic() - self._began, 1), what))

    def begin(self, instances: Sequence[str], rate: float, count: int | None = None) -> None:
        """Let orders flow in, forwarders work, a reader read, and the group's offsets be looked at."""
        self._feeding.set()
        for work in (lambda: self._feed(rate, count), self._read, self._look_at_offsets):
            thread = threading.Thread(target=work, daemon=True)
            self._threads.append(thread)
            thread.start()
        for name in instances:
            self.start(name)

    def start(self, name: str, stop_at: str = "") -> Forwarder:
        """Start this instance, or start it again, after whatever became of the last process of that name."""
        self._numbers += 1
        log = self.folder / f"{name}-{self._numbers}.log"
        command = [sys.executable, "-m", "tests.chaos.child", str(self.folder / f"{name}-{self._numbers}.journal")]
        command += [self._mutant] if self._mutant else []
        command += ["--", "--instance", name, "--json"]
        command += ["--transform", self._transform] if self._transform else []
        env = self.env | {"FAULT_STOP_AT": stop_at, "PIPELINE_KAFKA__EXTRA__CLIENT_ID": name}
        with log.open("w") as out:
            process = subprocess.Popen(command, env=env, cwd=self.folder, stdout=out, stderr=out, text=True)
        known = self.forwarders.get(name)
        started = Forwarder(name, process, log, known.busy if known else threading.Lock())
        if known is not None:
            self._past.append(known)
        self.forwarders[name] = started
        return started

    def revive(self) -> None:
        """Start again what ended by itself, as whoever runs it would; its end is noted."""
        for name, each in list(self.forwarders.items()):
            if each.process.poll() is not None and each.busy.acquire(blocking=False):
                try:
                    if self.forwarders[name] is each:
                        last = (each.said().strip().splitlines() or [""])[-1][:300]
                        self.odd_exits.append(f"{name} ended with {each.process.returncode}: {last}")
                        self.start(name)
                finally:
                    each.busy.release()

    @contextmanager
    def one(self) -> Iterator[Forwarder]:
        """An instance for oneself, chosen by chance among those that nobody else has in hand."""
        names = self.random.sample(sorted(self.forwarders), len(self.forwarders))
        for name in names:
            busy = self.forwarders[name].busy
            if busy.acquire(blocking=False):
                try:
                    yield self.forwarders[name]
                finally:
                    busy.release()
                return
        raise NotInTime("every instance is in somebody's hands")

    def seen(self) -> int:
        """How many records the reader has got."""
        return sum(map(len, self.history.polls))

    def flow(self, count: int = 20, timeout_s: float = 60) -> None:
        """Wait until so many more records were read."""
        goal = self.seen() + count
        wait_until(lambda: self.seen() >= goal or self._stopping.is_set(), "orders flow on", timeout_s)

    def _feed(self, rate: float, count: int | None) -> None:
        properties = self.properties | {
            "enable.idempotence": True, "acks": "all", "linger.ms": 5, "partitioner": "murmur2_random",
            "socket.timeout.ms": 3000, "reconnect.backoff.max.ms": 1000, "log_level": 0,
        }  # fmt: skip
        producer = Producer(properties)
        began, number = time.monotonic(), 0

        def report(name: str, error: Any, _: Message) -> None:
            self.history.sent.append(Sent(name, Outcome.OK if error is None else Outcome.UNKNOWN))

        with gzip.open(ORDERS) as lines:
            for line in lines:
                if not self._feeding.is_set() or (count is not None and number >= count):
                    break
                try:
                    order = from_json(line)
                except Invalid:
                    continue  # no customer: never published
                producer.produce(
                    self.source,
                    self._writer.encode(order.__dict__),
                    order.order_id,
                    headers={ID: order.order_id},
                    on_delivery=partial(report, order.order_id),
                )
                number += 1
                while time.monotonic() < began + number / rate and self._feeding.is_set():
                    producer.poll(0.01)
        producer.flush(60)
        producer.close()
        self._feeding.clear()

    def _read(self) -> None:
        """As any reader downstream: from the beginning, `read_committed`, never leaving its partitions."""
        reader = self._reader()
        topics = [self.output, self.letters]
        reader.assign([TopicPartition(topic, each, 0) for topic in topics for each in range(PARTITIONS)])
        while not self._stopping.is_set():
            found = [_seen(each) for each in reader.consume(500, 0.2) if each.error() is None]
            if found:
                self.history.polls.append(found)
        reader.close()

    def _reader(self) -> Consumer:
        return Consumer(
            self.properties
            | {"group.id": f"reader-{uuid4()}", "enable.auto.commit": False, "isolation.level": "read_committed"}
            | {
                "auto.offset.reset": "error",
                "socket.timeout.ms": 3000,
                "reconnect.backoff.max.ms": 1000,
                "log_level": 0,
            }
            | {"check.crcs": True}
        )

    def _look_at_offsets(self) -> None:
        # What is committed already, not what a transaction that is open may yet commit: that would be waited for.
        properties = {"group.id": self.group, "isolation.level": "read_uncommitted", "log_level": 0}
        looker = Consumer(self.properties | properties)
        # As a member asks that takes partitions over: it is told nothing while a transaction is undecided.
        member = Consumer(self.properties | properties | {"isolation.level": "read_committed"})
        highest: dict[int, int] = {}
        while not self._stopping.is_set():
            found = self._committed(looker, 2)
            if any(offset < highest.get(partition, 0) for partition, offset in found.items()):
                # A coordinator that just took over shows for some tenths of a second what was before the last commit,
                # until its log is known to be copied: what counts is what a member is told.
                found = self._committed(member, 2)
            if found:
                highest |= {partition: max(offset, highest.get(partition, 0)) for partition, offset in found.items()}
                self.history.commits.append(found)
            self._stopping.wait(0.2)
        looker.close()
        member.close()

    def _committed(self, looker: Consumer, timeout_s: float) -> dict[int, int]:
        wanted = [TopicPartition(self.source, each) for each in range(PARTITIONS)]
        try:
            return {each.partition: each.offset for each in looker.committed(wanted, timeout_s) if each.offset >= 0}
        except KafkaException:
            return {}

    # --- where things are

    def leader(self, topic: str, partition: int) -> Server | None:
        """The broker that leads it now, if it is told."""
        with suppress(KafkaException):
            it = AdminClient(self.properties | {"log_level": 0}).list_topics(topic, timeout=5)
            number = it.topics[topic].partitions[partition].leader
            return self.stack.brokers[number - 1] if number > 0 else None
        return None

    def coordinator(self, internal: str, key: str) -> Server | None:
        """Of a group (`__consumer_offsets`) or a transactional id (`__transaction_state`)."""
        return self.leader(internal, abs(_java_hash(key)) % 3)

    def transactional_id(self, name: str) -> str:
        return f"{self.group}-{name}"

    def controller(self) -> Server | None:
        """The broker that leads the quorum, by what each of them has written down last."""
        found = []
        for broker in self.stack.brokers:
            with suppress(OSError, ValueError):
                path = self.stack.folder / broker.name / "__cluster_metadata-0/quorum-state"
                state = json.loads(path.read_text())
                found.append((state["leaderEpoch"], state["leaderId"]))
        number = max(found, default=(0, 0))[1]
        return self.stack.brokers[number - 1] if number > 0 else None

    def wait_until_whole(self, timeout_s: float = 90) -> None:
        """Every broker is there, and every partition has all its copies in sync again."""
        for server in self.stack.servers:
            if server.pid is None:
                server.start()
            server.wait_until_ready(timeout_s)

        def in_sync() -> bool:
            with suppress(KafkaException):
                it = AdminClient(self.properties | {"log_level": 0}).list_topics(timeout=5)
                every = [each for topic in it.topics.values() for each in topic.partitions.values()]
                return len(it.brokers) == len(self.stack.brokers) and all(
                    each.leader > 0 and len(each.isrs) == len(each.replicas) for each in every
                )
            return False

        wait_until(in_sync, "all copies in sync", timeout_s)

    def has_open_transaction(self) -> bool:
        """Whether a reader of committed records has to wait on the output now."""
        ends = []
        for isolation in ("read_uncommitted", "read_committed"):
            asked = Consumer(self.properties | {"group.id": "ends", "isolation.level": isolation, "log_level": 0})
            wanted = [TopicPartition(self.output, each) for each in range(PARTITIONS)]
            ends.append([asked.get_watermark_offsets(each, timeout=10) for each in wanted])
            asked.close()
        return bool(ends[0] != ends[1])

    # --- the end

    def stop_feeding(self) -> None:
        self._feeding.clear()

    def is_feeding(self) -> bool:
        return self._feeding.is_set()

    def heal(self, timeout_s: float = 120) -> float:
        """All is well again, orders stop flowing in, everything is forwarded: how many seconds that took.

        Raises `NotInTime` with what is missing; `finish` has to follow either way.
        """
        self.healing.set()
        self.stop_feeding()
        self.network.heal()
        began = time.monotonic()
        self._threads[0].join(90)
        self.wait_until_whole()
        self.tell("all faults ended")
        for each in self.forwarders.values():
            with suppress(ProcessLookupError):
                each.signal(signal.SIGCONT)
        ends = self.cluster.end_offsets(self.source)
        looker = Consumer(self.properties | {"group.id": self.group, "log_level": 0})

        def forwarded() -> bool:
            self.revive()
            committed = self._committed(looker, 5)
            if committed:
                self.history.commits.append(committed)
            return all(committed.get(each, 0) >= end for each, end in ends.items()) and self._retries_are_empty()

        try:
            wait_until(forwarded, "everything forwarded", timeout_s)
            return time.monotonic() - began
        except NotInTime:
            for each in self.forwarders.values():
                self._say_where(each)
            raise
        finally:
            looker.close()

    def _say_where(self, each: Forwarder) -> None:
        """Into its log: where each of its threads stands."""
        if each.process.poll() is None:
            each.signal(signal.SIGUSR1)
            with suppress(NotInTime):
                wait_until(lambda: "most recent call first" in each.said(), "where it stands", 5)

    def _retries_are_empty(self) -> bool:
        there = [topic for topic in self.retries if self.cluster.partitions(topic) is not None]
        return all(lag == 0 for topic in there for lag in self.cluster.lag(self.group, topic).values())

    def finish(self) -> History:
        """End what still runs and complete the history. The forwarders are asked to end, and their exit codes are noted."""
        self.healing.set()
        self.stop_feeding()
        self.network.heal()
        for each in self.forwarders.values():
            if each.process.poll() is None:
                each.signal(signal.SIGCONT)
                each.signal(signal.SIGTERM)
        for each in self.forwarders.values():
            try:
                code = each.process.wait(30)
            except subprocess.TimeoutExpired:
                self.odd_exits.append(f"{each.name} did not end within 30 s of SIGTERM")
                self._say_where(each)
                each.kill()
                continue
            if code != 0:
                last = (each.said().strip().splitlines() or [""])[-1][:300]
                self.odd_exits.append(f"{each.name} ended with {code}: {last}")
        self.close()
        for thread in self._threads:
            thread.join(90)
        self.history.source = [_seen(it) for it in self._all_of(self.source)]
        outputs = [self.output, self.letters, *(it for it in self.retries if self.cluster.partitions(it) is not None)]
        self.history.final = [_seen(it) for topic in outputs for it in self._all_of(topic)]
        for path in sorted(self.folder.glob("*.journal")):
            self._take_down(path)
        return self.history

    def close(self) -> None:
        """End every process and thread of this run, at once."""
        self._stopping.set()
        self._feeding.clear()
        for each in [*self._past, *self.forwarders.values()]:
            if each.process.poll() is None:
                each.kill()

    def _all_of(self, topic: str) -> Iterator[Message]:
        reader = self._reader()
        try:
            for partition in range(PARTITIONS):
                where = TopicPartition(topic, partition, 0)
                # For a reader of committed records the end is the last stable offset.
                _, end = reader.get_watermark_offsets(where, timeout=30)
                reader.assign([where])
                deadline = time.monotonic() + 60
                while (it := max(0, reader.position([where])[0].offset)) < end:
                    if time.monotonic() > deadline:
                        raise NotInTime(f"{topic} [{partition}] is read up to {it} of {end}")
                    yield from (each for each in reader.consume(500, 0.2) if each.error() is None)
        finally:
            reader.close()

    def _take_down(self, path: Path) -> None:
        for line in path.read_text().splitlines():
            try:
                told = json.loads(line)
            except ValueError:
                continue  # killed while it wrote
            it = self.history.transactions.setdefault(told["transaction"], Transaction(told["transaction"]))
            if "asked" in told:
                it.asked_to_commit = True
                it.published = [Published(*each) for each in told["published"]]
                it.offsets = {int(each): offset for each, offset in told["offsets"].items()}
            elif it.outcome is Outcome.UNKNOWN:
                it.outcome = Outcome(told["outcome"])


def _seen(message: Message) -> Seen:
    headers = {name: (value or b"").decode() for name, value in message.headers() or []}
    key = message.key() or b""
    return Seen(
        message.topic(), message.partition(), message.offset(), key.decode(errors="replace"), headers.get(ID, "?"),
        headers.get(TRANSACTION, ""),
    )  # fmt: skip


def _java_hash(text: str) -> int:
    """`String.hashCode`: by it a coordinator is chosen."""
    value = 0
    for letter in text:
        value = (31 * value + ord(letter)) & 0xFFFFFFFF
    return value - (1 << 32) if value >= 1 << 31 else value
