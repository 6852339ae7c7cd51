"""The redrive stage on fakes: a broker that commits all of a transaction or nothing. Twins: tests/integration."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from pipeline.core.dead_letter import Letter, Worker
from pipeline.core.failures import Failure, FailureKind
from pipeline.core.record import Headers, Record, TopicPartition
from pipeline.core.redrive import LetterId, Selection
from pipeline.errors import BrokerUnavailable, DeliveryFailed, Fenced, Refused, TopicRefused, Undecodable
from pipeline.stages.letters import LetterReader
from pipeline.stages.redrive import Redrive, ledger
from tests.stages.fakes import FakeClock

Sent = tuple[str, bytes | None, bytes | None, Headers, int | None, int | None]


class FakeTransactions:
    """`before_commit` may raise: then nothing of the transaction is there."""

    def __init__(self) -> None:
        self.usable = True
        self.committed: list[list[Sent]] = []
        self.offsets: dict[TopicPartition, int] = {}
        self.before_commit: Any = lambda: None
        self._open: list[Sent] = []
        self._offsets: Mapping[TopicPartition, int] = {}

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self._open = []
        yield
        self.before_commit()
        self.committed.append(self._open)
        self.offsets |= self._offsets

    def publish(self, topic: str, key: bytes | None, value: bytes | None, **other: Any) -> None:
        it = {"headers": (), "partition": None, "timestamp_ms": None} | other
        self._open.append((topic, key, value, it["headers"], it["partition"], it["timestamp_ms"]))

    def send_offsets(self, offsets: Mapping[TopicPartition, int], group: Any) -> None:
        assert group == "the group"
        self._offsets = offsets

    def to(self, topic: str) -> list[Sent]:
        return [each for batch in self.committed for each in batch if each[0] == topic]


class Envelopes:
    def __init__(self, envelopes: dict[bytes, dict[str, Any]]) -> None:
        self.envelopes = envelopes

    def decode(self, value: bytes | None) -> dict[str, Any]:
        if value not in self.envelopes:
            raise Undecodable("no envelope")
        return self.envelopes[value]


class World:
    """A dead-letter topic with these originals, and the topics that are there."""

    def __init__(self, *originals: Record | None) -> None:
        self.producer = FakeTransactions()
        self.topics = {"orders.v1": 3}
        self.said: list[str] = []
        self.clock = FakeClock()
        failure, worker = Failure(FailureKind.REJECTED, "Reject", "no"), Worker("g", "i")
        self.records = [Record("dlq", 0, n, b"k%d" % n, b"%d" % n, (), 1000 + n) for n in range(len(originals))]
        self.envelopes = {
            b"%d" % n: Letter(it, failure, worker, 5).envelope() for n, it in enumerate(originals) if it is not None
        }
        self.before_takeover: Any = lambda: None

    def marks(self) -> dict[Any, Any]:
        return ledger(
            Record("dlq.redriven", 0, n, it[1], it[2]) for n, it in enumerate(self.producer.to("dlq.redriven"))
        )

    def take_over(self) -> FakeTransactions:
        self.before_takeover()
        return self.producer

    def stage(self, **options: Any) -> Redrive:
        return Redrive(
            topic="dlq",
            ends={0: len(self.records)},
            reader=LetterReader(lambda: self.records, Envelopes(self.envelopes), lambda _: None, self.marks),
            partitions=self.topics.get,
            take_over=self.take_over,
            group=lambda: "the group",
            clock=self.clock,
            sleep=lambda _: None,
            say=self.said.append,
            **options,
        )

    def redrive(self, selection: Selection = Selection(), limit: int = 0, **options: Any) -> dict[str, Any]:  # noqa: B008
        stage = self.stage(**options)
        stage.run(stage.plan(selection, limit), lambda: False, lambda: None)
        return {name: count for name, count in stage.totals.summary().items() if name != "seconds"}


def source(number: int, **changes: Any) -> Record:
    it = Record("orders.v1", 1, number, b"A-%d" % number, b"v%d" % number, (("h", b"x"),), 7000 + number)
    return it._replace(**changes)


def test_record_its_mark_and_the_offsets_are_in_one_transaction() -> None:
    world = World(source(0), source(1), source(2))
    assert world.redrive(batch=2) == {"selected": 3, "redriven": 3, "skipped": 0, "parked": 0}
    assert [[each[0] for each in batch] for batch in world.producer.committed] == [
        ["orders.v1", "dlq.redriven"] * 2,
        ["orders.v1", "dlq.redriven"],
    ]
    first = world.producer.to("orders.v1")[0]
    assert first == ("orders.v1", b"A-0", b"v0", (("h", b"x"), ("redrive-count", b"1")), 1, 7000)
    assert world.producer.offsets == {TopicPartition("dlq", 0): 3}
    assert world.redrive()["selected"] == 0


def test_letters_left_out_stay_due_and_hold_the_offset() -> None:
    world = World(source(0), source(1), source(2))
    assert world.redrive(Selection(key="k1"))["redriven"] == 1
    assert world.producer.offsets == {TopicPartition("dlq", 0): 0}
    assert world.redrive(limit=1)["redriven"] == 1
    assert world.producer.offsets == {TopicPartition("dlq", 0): 2}
    assert [each[1] for each in world.producer.to("orders.v1")] == [b"A-1", b"A-0"]


def test_aborted_batch_is_redriven_by_the_next_run_and_the_committed_one_is_not() -> None:
    world = World(*map(source, range(5)))
    stage = world.stage(batch=2)

    def fail_second() -> None:
        if world.producer.committed:
            raise DeliveryFailed("too large")

    world.producer.before_commit = fail_second
    with pytest.raises(DeliveryFailed):
        stage.run(stage.plan(Selection()), lambda: False, lambda: None)
    assert stage.totals.redriven == 2
    world.producer.before_commit = lambda: None
    assert world.redrive()["redriven"] == 3
    assert [each[1] for each in world.producer.to("orders.v1")] == [b"A-%d" % n for n in range(5)]


def test_what_a_twin_sent_between_plan_and_takeover_is_not_sent_again() -> None:
    world = World(*map(source, range(4)))
    twin = world.stage(batch=1)
    plan = twin.plan(Selection())

    def twin_works() -> None:
        world.before_takeover = lambda: None
        world.redrive(limit=3)

    world.before_takeover = twin_works
    twin.run(plan, lambda: False, lambda: None)
    assert twin.totals.redriven == 1
    assert [each[1] for each in world.producer.to("orders.v1")] == [b"A-%d" % n for n in range(4)]


def test_fenced_redrive_says_that_another_one_took_over() -> None:
    world = World(source(0))

    def fence() -> None:
        raise Fenced("by a twin.")

    world.producer.before_commit = fence
    with pytest.raises(Fenced, match="Another redrive of dlq took over"):
        world.redrive()


def test_connection_that_broke_stops_the_run_before_the_next_transaction() -> None:
    world = World(source(0), source(1))

    def breaks() -> None:
        world.producer.usable = False

    world.producer.before_commit = breaks
    with pytest.raises(BrokerUnavailable, match="1 letters are redriven for good"):
        world.redrive(batch=1)


def test_letter_redriven_often_enough_is_parked_as_it_is() -> None:
    world = World(source(0, headers=(("redrive-count", b"3"),)), source(1))
    with pytest.raises(TopicRefused, match=r"dlq\.parked"):
        world.redrive()
    assert world.producer.committed == []
    world.topics["dlq.parked"] = 1
    assert world.redrive() == {"selected": 2, "redriven": 1, "skipped": 0, "parked": 1}
    assert world.producer.to("dlq.parked") == [("dlq.parked", b"k0", b"0", (), 0, 1000)]


def test_letters_that_cannot_be_sent_are_left_and_said() -> None:
    world = World(None, source(1, topic="gone.v1"), source(2, topic="__consumer_offsets"), source(3, partition=9))
    world.topics["__consumer_offsets"] = 50
    assert world.redrive() == {"selected": 4, "redriven": 1, "skipped": 3, "parked": 0}
    assert [line.split(" ")[0] for line in world.said] == ["0:0", "0:1", "0:2"]
    [(_, key, _, _, partition, _)] = world.producer.to("orders.v1")
    assert (key, partition) == (b"A-3", None)


def test_letter_id_that_is_not_there_is_refused() -> None:
    world = World(source(0))
    with pytest.raises(Refused, match="no letter 0:7"):
        world.stage().plan(Selection(ids=frozenset([LetterId(0, 7)])))


def test_mark_of_a_topic_that_was_made_anew_counts_nothing() -> None:
    world = World(source(0))
    world.redrive()
    world.records = [each._replace(timestamp_ms=99_999) for each in world.records]
    assert world.redrive()["redriven"] == 1


def test_transaction_is_never_larger_than_a_seconds_letters() -> None:
    world = World(*map(source, range(6)))
    world.redrive(rate=2.5)
    assert [len(batch) for batch in world.producer.committed] == [4, 4, 4]
