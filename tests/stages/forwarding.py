"""A forwarder on fakes: the broker of `broker.py`, and transactions of which nothing is seen before they are committed."""

from collections.abc import Callable, Mapping
from typing import Any

from pipeline.core.dead_letter import Worker
from pipeline.core.ports import Commit
from pipeline.core.record import Record, TopicPartition
from pipeline.core.retry import RetryPolicy
from pipeline.errors import PipelineError
from pipeline.stages.forward import Forward
from pipeline.stages.handlers import adapt_transform
from tests.stages.broker import FakeBroker, Member
from tests.stages.fakes import FakeClock

TOPIC, OUTPUT, LETTERS = "orders.v1", "orders.by-customer.v1", "orders.dlq.v1"


class Transactions:
    """One producer with an id. `fails` holds what the next commits raise; `log` notes what was done."""

    usable = True

    def __init__(self, broker: FakeBroker) -> None:
        self._broker = broker
        self._pending: list[Callable[[], None]] = []
        self._offsets: Mapping[TopicPartition, int] = {}
        self.fails: list[PipelineError] = []
        self.log: list[str] = []

    def begin(self) -> None:
        self.log.append("begin")

    def publish(self, topic: str, key: Any, value: Any, *, headers: Any = (), partition: int | None = None,
                timestamp_ms: int | None = None, on_offset: Callable[[int], None] | None = None, **_: Any) -> None:  # fmt: skip
        def write() -> None:
            record = self._broker.write(TopicPartition(topic, partition or 0), key, value, headers, timestamp_ms)
            if on_offset is not None:
                on_offset(record.offset)

        self._pending.append(write)

    def send_offsets(self, offsets: Mapping[TopicPartition, int], group: Any, notes: Any = None) -> None:
        self._offsets = offsets

    def commit(self) -> None:
        if self.fails:
            raise self.fails.pop(0)
        self.log.append("commit")
        for write in self._pending:
            write()
        self._pending = []
        self._broker.commits |= {where: Commit(offset) for where, offset in self._offsets.items()}

    def abort(self) -> bool:
        self.log.append("abort")
        self._pending = []
        return True

    def close(self) -> None:
        self._pending = []


class Grouped(Member):
    def group_metadata(self) -> str:
        return "group"


class ForwardBench:
    """A forwarder that owns every partition of what is in the source."""

    def __init__(
        self, given: list[Record], transform: Any, *, policy: RetryPolicy, decoder: Any, **changes: Any
    ) -> None:
        self.broker = FakeBroker()
        self.clock = FakeClock()
        self.producer = Transactions(self.broker)
        self.encoder = _Plain()
        for record in given:
            self.broker.write(record.source, record.key, record.value, record.headers)
        adapted = adapt_transform(transform, "test")
        parts: dict[str, Any] = {
            "source": lambda listener: Grouped(self.broker, listener),
            "log": self.broker,
            "connect": lambda: self.producer,
            "topics": [TOPIC],
            "output": OUTPUT,
            "dead_letters": LETTERS,
            "decoder": decoder,
            "event": adapted.event,
            "transform": adapted.function,
            "encoder": lambda topic: self.encoder,
            "envelope": self.broker,
            "worker": Worker("g", "one"),
            "policy": policy,
            "clock": self.clock,
            "now_ms": lambda: 1_700_000_000_000,
            "jitter": lambda: 0.0,
        }
        self.stage = Forward(**parts | changes)
        member: Any = self.stage._source
        self.broker.give(member, *{record.source for record in given})

    def run(self, stopping: Callable[[], bool]) -> None:
        self.stage.run(stopping)

    def forwarded(self, topic: str = OUTPUT) -> list[Any]:
        return [record.value for where, log in self.broker.logs.items() if where.topic == topic for record in log]

    def committed(self, partition: int = 0) -> int:
        return self.broker.commits.get(TopicPartition(TOPIC, partition), Commit(0)).offset


class _Plain:
    def encode(self, datum: Mapping[str, Any]) -> bytes:
        if datum.get("unfit"):
            raise ValueError("it does not fit")
        return str(datum["id"]).encode()
