"""The forwarder on fakes: what a topic refuses for its size or timestamp keeps no other record back. Twins: integration."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from pipeline.core.dead_letter import Worker
from pipeline.core.ports import Commit
from pipeline.core.record import Headers, Keyed, Record, TopicPartition
from pipeline.core.retry import RetryPolicy
from pipeline.core.timestamps import Window
from pipeline.errors import DeliveryFailed, PipelineError, TimestampRefused, TooLarge
from pipeline.stages.forward import Forward, Transform
from pipeline.stages.misfits import LARGE_BYTES
from tests.stages.broker import FakeBroker, Member
from tests.stages.fakes import FakeClock
from tests.stages.test_consume import Decoder

TOPICS = ("orders.v1", "orders.v1.g.retry-5s")
P0, F0 = (TopicPartition(topic, 0) for topic in TOPICS)
OUT, LETTERS = "orders.by-customer.v1", "orders.dlq.v1"
NOW_MS = 1_700_000_000_000
LARGE = "x" * LARGE_BYTES


class Output:
    """Encodes by taking the text."""

    def encode(self, datum: Mapping[str, Any]) -> bytes:
        return str(datum["text"]).encode()


class Raw(FakeBroker):
    """Its letters are as large as what they hold."""

    def encode(self, datum: Mapping[str, Any]) -> bytes:
        self.envelopes.append(dict(datum))
        return b"%d" % (len(self.envelopes) - 1) + b" " * (len(datum["value"] or b""))


class Transactional:
    """A transactional producer, refused at the commit what `refuses` says."""

    def __init__(self, world: "World") -> None:
        self.usable = True
        self._world = world
        self._open: list[tuple[Any, ...]] = []
        self._offsets: Mapping[TopicPartition, int] = {}
        self._notes: Mapping[TopicPartition, str] = {}

    def begin(self) -> None:
        self._open = []

    def publish(self, topic: str, key: bytes | None, value: bytes | None, **more: Any) -> None:
        self._open.append((topic, key, value, more))

    def send_offsets(
        self, offsets: Mapping[TopicPartition, int], group: Any, notes: Mapping[TopicPartition, str] = {}
    ) -> None:
        self._offsets, self._notes = offsets, notes

    def commit(self) -> None:
        first: PipelineError | None = None
        for topic, _, value, more in self._open:
            error = self._world.refuses(topic, value or b"", more.get("timestamp_ms"))
            if isinstance(error, TooLarge) and more.get("on_refused"):
                more["on_refused"](error)
            first = first or error
        if first:
            raise first
        for topic, key, value, more in self._open:
            where = TopicPartition(topic, more.get("partition") or 0)
            stamp = more.get("timestamp_ms") or NOW_MS
            record = self._world.broker.write(where, key, value, more.get("headers") or (), stamp)
            if more.get("on_offset"):
                more["on_offset"](record.offset)
        self._world.broker.commits |= {
            where: Commit(offset, self._notes.get(where, "")) for where, offset in self._offsets.items()
        }

    def abort(self) -> bool:
        self._world.aborted += 1
        return True

    def close(self) -> None:
        return None


class InGroup(Member):
    def group_metadata(self) -> str:
        return "the group"


class World:
    def __init__(self, transform: Transform, *values: str, **changes: Any) -> None:
        self.broker = Raw()
        self.aborted = 0
        self.refuses: Callable[[str, bytes, int | None], PipelineError | None] = lambda topic, value, stamp: None
        self.window = Window(NOW_MS * 2, 3_600_000)
        self.clock = FakeClock()
        for value in values:
            self.write(value)
        self.stage = Forward(
            source=lambda listener: InGroup(self.broker, listener),
            log=self.broker,
            connect=lambda: Transactional(self),
            topics=TOPICS,
            output=OUT,
            dead_letters=LETTERS,
            decoder=Decoder(),
            event=lambda datum: datum,
            transform=transform,
            encoder=lambda topic: Output(),
            envelope=self.broker,
            worker=Worker("g", "one"),
            policy=RetryPolicy(attempts=1, tiers=(5.0,)),
            clock=self.clock,
            now_ms=lambda: NOW_MS + int(self.clock.now * 1000),
            jitter=lambda: 0.0,
            window=lambda topic: self.window,
            **changes,
        )
        self.broker.give(self.stage._source, P0, F0)  # type: ignore[arg-type]

    def write(self, value: str, headers: Headers = (), stamp: int = 1_600_000_000_000) -> None:
        self.broker.write(P0, value[:1].encode(), value.encode(), headers, stamp)

    def run(self, count: int) -> None:
        """Until so much of the source is committed."""
        for _ in range(2000):
            self.stage._turn()
            if self.broker.commits.get(P0, Commit(0)).offset == count:
                return
        pytest.fail(f"stuck: {self.broker.commits}")

    def out(self, topic: str = OUT) -> list[Record]:
        return [each for where, log in self.broker.logs.items() if where.topic == topic for each in log]


def plain(event: dict[str, Any], record: Record) -> Keyed:
    return Keyed(event["id"][:1], {"text": event["id"]})


def grows(event: dict[str, Any], record: Record) -> Keyed:
    return Keyed(event["id"][:1], {"text": LARGE + event["id"] if event["id"][0] == "b" else event["id"]})


def too_large(name: str) -> Callable[[str, bytes, int | None], PipelineError | None]:
    return lambda topic, value, stamp: (
        TooLarge("MSG_SIZE_TOO_LARGE") if topic == name and len(value) > LARGE_BYTES else None
    )


def test_output_that_does_not_fit_is_a_letter_and_the_others_are_forwarded() -> None:
    world = World(grows, "a1", "b1", "a2", "b2", "c1")
    world.refuses = too_large(OUT)
    world.run(5)
    assert [each.value for each in world.out()] == [b"a1", b"a2", b"c1"]
    letters = world.broker.letters(LETTERS)
    assert [(it["source_offset"], it["reason"], it["error_class"]) for it in letters] == [
        (1, "rejected", "TooLarge"),
        (3, "rejected", "TooLarge"),
    ]
    assert world.aborted == 1


def rejects(event: dict[str, Any], record: Record) -> Keyed:
    if event["id"][0] == "b":
        raise RuntimeError("no")
    return plain(event, record)


def test_letter_that_does_not_fit_goes_without_its_value_and_the_others_are_forwarded() -> None:
    world = World(rejects, "a1", "b" + LARGE, "c1")
    world.stage._policy = RetryPolicy(attempts=1, tiers=())
    world.refuses = too_large(LETTERS)
    world.run(3)
    assert [each.value for each in world.out()] == [b"a1", b"c1"]
    [letter] = world.broker.letters(LETTERS)
    assert (letter["source_offset"], letter["value"]) == (1, None)
    assert dict(world.out(LETTERS)[0].headers)["original-value-bytes"] == b"%d" % (len(LARGE) + 1)


def test_record_that_a_retry_topic_does_not_take_is_given_up_at_once() -> None:
    world = World(rejects, "a1", "b" + LARGE, "c1")
    world.refuses = too_large(TOPICS[1])
    world.run(3)
    assert [each.value for each in world.out()] == [b"a1", b"c1"]
    [letter] = world.broker.letters(LETTERS)
    assert (letter["reason"], letter["source_offset"]) == ("retries_exhausted", 1)
    assert "does not fit into orders.v1.g.retry-5s" in letter["error"]


def test_topic_that_refuses_every_letter_ends_the_forwarder_with_the_reason() -> None:
    world = World(rejects, "b1")
    world.stage._policy = RetryPolicy(attempts=1, tiers=())
    world.refuses = lambda topic, value, stamp: TooLarge("MSG_SIZE_TOO_LARGE") if topic == LETTERS else None
    with pytest.raises(DeliveryFailed, match="MSG_SIZE_TOO_LARGE"):
        world.run(1)


@pytest.mark.parametrize("stamp", [NOW_MS + 10 * 86_400_000, NOW_MS - 40 * 86_400_000, 2**61])
def test_record_whose_timestamp_the_output_would_refuse_or_delete_gets_the_present_one(stamp: int) -> None:
    world = World(plain)
    world.window = Window(30 * 86_400_000, 3_600_000)
    world.write("a1", stamp=NOW_MS - 5000)
    world.write("b1", headers=(("n", b"1"),), stamp=stamp)
    world.run(2)
    first, second = world.out()
    assert (first.timestamp_ms, first.headers) == (NOW_MS - 5000, ())
    assert second.timestamp_ms == NOW_MS, "the present, as the broker writes it"
    assert second.headers == (("n", b"1"), ("original-timestamp", str(stamp).encode()))


def test_output_that_refuses_timestamps_in_spite_of_its_configs_gets_the_present_one() -> None:
    world = World(plain, "a1", "b1")
    world.refuses = lambda topic, value, stamp: TimestampRefused("INVALID_TIMESTAMP", topic) if stamp else None
    world.run(2)
    assert [each.value for each in world.out()] == [b"a1", b"b1"]
    assert [dict(each.headers)["original-timestamp"] for each in world.out()] == [b"1600000000000"] * 2
    assert world.aborted == 1


def test_letter_tells_when_its_record_failed_first_and_when_at_last() -> None:
    world = World(rejects, "b1")
    world.stage._policy = RetryPolicy(attempts=3, backoff_s=2, tiers=())
    world.run(1)
    [letter] = world.broker.letters(LETTERS)
    assert (letter["failed_at"] - letter["first_failed_at"]).total_seconds() >= 2
    assert letter["attempts"] == 3
