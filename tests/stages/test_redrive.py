"""The redrive stage on fakes: a broker that commits all of a transaction or nothing. Twins: tests/integration."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from pipeline.core.dead_letter import Letter, Worker
from pipeline.core.destinations import Destinations, allowing, destinations
from pipeline.core.failures import Failure, FailureKind
from pipeline.core.record import Headers, Record, TopicPartition
from pipeline.core.redrive import LetterId, Mark, Selection, digest_of, selection
from pipeline.core.redrive_targets import Targets
from pipeline.core.retry import NotRead
from pipeline.core.timestamps import Window
from pipeline.errors import (
    BrokerUnavailable,
    DeliveryFailed,
    Fenced,
    Refused,
    TimestampRefused,
    TooLarge,
    TopicRefused,
    Undecodable,
)
from pipeline.stages.letters import LetterReader
from pipeline.stages.outgoing import Addressing
from pipeline.stages.redrive import Redrive, ledger
from tests.stages.fakes import FakeClock

NOW_MS = 1_790_000_000_000
Sent = tuple[str, bytes | None, bytes | None, Headers, int | None, int | None]


class FakeTransactions:
    """`before_commit` may raise: then nothing of the transaction is there."""

    def __init__(self) -> None:
        self.usable = True
        self.committed: list[list[Sent]] = []
        self.offsets: dict[TopicPartition, int] = {}
        self.before_commit: Any = lambda: None
        self.broker: Any = lambda *message: None
        self._open: list[Sent] = []
        self._offsets: Mapping[TopicPartition, int] = {}

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self._open = []
        yield
        self.before_commit()
        for topic, key, value, _, _, timestamp_ms in self._open:
            self.broker(topic, key, value, timestamp_ms)
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
        self.ends = {"orders.v1": {0: 100, 1: 100, 2: 100}}
        self.windows: dict[str, Window] = {}
        self.reads: dict[tuple[str, str], str | NotRead] = {}
        self.marks_before: list[Record] = []
        self.said: list[str] = []
        self.clock = FakeClock()
        failure, worker = Failure(FailureKind.REJECTED, "Reject", "no"), Worker("g", "i")
        self.records = [Record("dlq", 0, n, b"k%d" % n, b"%d" % n, (), 1000 + n) for n in range(len(originals))]
        self.envelopes = {
            b"%d" % n: Letter(it, failure, worker, 5).envelope() for n, it in enumerate(originals) if it is not None
        }
        self.before_takeover: Any = lambda: None

    def marks(self) -> dict[Any, Any]:
        written = [Record("dlq.redriven", 0, n, it[1], it[2]) for n, it in enumerate(self.producer.to("dlq.redriven"))]
        return ledger([*self.marks_before, *written])

    def take_over(self) -> FakeTransactions:
        self.before_takeover()
        return self.producer

    def stage(
        self,
        allowed: Destinations = destinations("dlq", ["orders.v1"], ["g"]),  # noqa: B008  # frozen
        *,
        to_source: bool = True,
        max_redrives: int = 3,
        **options: Any,
    ) -> Redrive:
        def window_of(topic: str) -> Window:
            return self.windows.get(topic, Window(NOW_MS * 2))

        addressing = Addressing(
            topic="dlq",
            cluster=Targets(self.topics.get, lambda topic: self.ends[topic], window_of, lambda *it: self.reads[it]),
            destinations=allowed,
            now_ms=lambda: NOW_MS,
            to_source=to_source,
            max_redrives=max_redrives,
        )
        return Redrive(
            topic="dlq",
            ends={0: len(self.records)},
            reader=LetterReader(lambda: self.records, Envelopes(self.envelopes), lambda _: None, self.marks),
            addressing=addressing,
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
    mark = Mark(1, digest_of("orders.v1", b"A-0", b"v0"), 3)
    world.marks_before = [Record("dlq.redriven", 0, 0, b"0:99", mark.value("redriven"))]
    with pytest.raises(TopicRefused, match=r"dlq\.parked"):
        world.redrive()
    assert world.producer.committed == []
    world.topics["dlq.parked"] = 1
    assert world.redrive() == {"selected": 2, "redriven": 1, "skipped": 0, "parked": 1}
    assert world.producer.to("dlq.parked") == [("dlq.parked", b"k0", b"0", (), 0, 1000)]


def test_letters_that_cannot_be_sent_are_left_and_said() -> None:
    world = World(None, source(1, topic="gone.v1"), source(2, topic="__consumer_offsets"), source(3, partition=9))
    world.topics["__consumer_offsets"] = 50
    allowed = destinations("dlq", ["orders.v1", "gone.v1"], ["g"])
    assert world.redrive(allowed=allowed) == {"selected": 4, "redriven": 1, "skipped": 3, "parked": 0}
    assert [line.split(" ")[0] for line in world.said] == ["0:0", "0:1", "0:2"]
    [(_, key, _, _, partition, _)] = world.producer.to("orders.v1")
    assert (key, partition) == (b"A-3", None)


def test_letter_id_that_is_not_there_is_refused() -> None:
    world = World(source(0))
    with pytest.raises(Refused, match="no letter 0:7"):
        world.stage().plan(Selection(ids=frozenset([LetterId(0, 7)])))


def test_mark_of_a_topic_that_was_recreated_counts_nothing() -> None:
    world = World(source(0))
    world.redrive()
    world.records = [each._replace(timestamp_ms=99_999) for each in world.records]
    assert world.redrive()["redriven"] == 1


def test_transaction_is_never_larger_than_a_seconds_letters() -> None:
    world = World(*map(source, range(6)))
    world.redrive(rate=2.5)
    assert [len(batch) for batch in world.producer.committed] == [4, 4, 4]


@pytest.mark.parametrize(
    "topic", ["payments.v1", "_schemas", "dlq.redriven", "dlq", "dlq.parked", "a b", "x" * 300, ""]
)
@pytest.mark.parametrize("to_source", [True, False])
def test_letter_that_names_a_topic_of_others_is_left_and_the_others_go(topic: str, to_source: bool) -> None:
    world = World(source(0, topic=topic), source(1))
    world.topics |= {topic: 3, "orders.v1.g.retry-5s": 3, f"{topic}.g.retry-5s": 3}
    world.reads = {(each, "g"): f"{each}.g.retry-5s" for each in ("orders.v1", topic)}
    assert world.redrive(to_source=to_source) == {"selected": 2, "redriven": 1, "skipped": 1, "parked": 0}
    assert [line.split(" ")[0] for line in world.said] == ["0:0"]
    assert {each[0] for batch in world.producer.committed for each in batch} <= {
        "orders.v1", "orders.v1.g.retry-5s", "dlq.redriven",
    }  # fmt: skip


def test_letter_of_another_group_is_left_and_the_way_out_is_named() -> None:
    world = World(source(0), source(1))
    world.topics["orders.v1.g.retry-5s"] = 3
    world.reads = {("orders.v1", "g"): "orders.v1.g.retry-5s"}
    world.envelopes[b"0"]["consumer_group"] = "payments"
    assert world.redrive(to_source=False)["skipped"] == 1
    assert "the group payments is none of these settings (g); --group payments" in world.said[0]
    assert world.redrive(to_source=True)["redriven"] == 1, "to the source it may go"


def test_topic_that_the_operator_names_with_its_source_may_be_written_to() -> None:
    world = World(source(0, topic="payments.v1"), source(1))
    world.topics["payments.v1"] = 3
    own, chosen = destinations("dlq", ["orders.v1"], ["g"]), selection(source="payments.v1")
    allowed = allowing(own, "payments.v1", chosen.source)
    assert world.redrive(chosen, allowed=allowed)["redriven"] == 1
    assert [each[1] for each in world.producer.to("payments.v1")] == [b"A-0"]
    for topic, where in (
        ("payments.v1", None),
        ("payments.v1", "orders.v1"),
        ("_schemas", "_schemas"),
        ("dlq.x", "dlq.x"),
    ):
        with pytest.raises(Refused, match=f"--allow-topic {topic}"):
            allowing(own, topic, selection(source=where).source)


@pytest.mark.parametrize(
    "place", [{"offset": 2**62}, {"offset": 100}, {"partition": 7}, {"offset": -1}, {"partition": -1}]
)
def test_place_that_is_not_there_pins_no_order(place: dict[str, int]) -> None:
    world = World(source(0, **place), source(1))
    world.topics["orders.v1.g.retry-5s"] = 9
    world.reads = {("orders.v1", "g"): "orders.v1.g.retry-5s"}
    assert world.redrive(to_source=False) == {"selected": 2, "redriven": 1, "skipped": 1, "parked": 0}
    assert "which is not there" in world.said[0]


def test_letter_whose_retry_topic_nobody_reads_is_left_with_the_reason() -> None:
    world = World(source(0))
    world.reads = {("orders.v1", "g"): NotRead("nobody reads it")}
    assert world.redrive(to_source=False) == {"selected": 1, "redriven": 0, "skipped": 1, "parked": 0}
    assert world.said == ["0:0 was left: nobody reads it"]


@pytest.mark.parametrize("count", [b"9", b"1", b"999999999999", b"x", None])
def test_count_that_a_producer_wrote_itself_parks_nothing(count: bytes | None) -> None:
    world = World(source(0, headers=(("redrive-count", count),)))
    assert world.redrive() == {"selected": 1, "redriven": 1, "skipped": 0, "parked": 0}
    assert dict(world.producer.to("orders.v1")[0][3]) == {"redrive-count": b"1"}


def test_record_that_fails_again_and_again_is_parked_after_three_redrives() -> None:
    world = World(source(0))
    for number in range(3):
        assert world.redrive()["redriven"] == 1
        headers = world.producer.to("orders.v1")[-1][3]
        assert dict(headers)["redrive-count"] == b"%d" % (number + 1)
        again = Letter(
            source(0, offset=number + 50, headers=headers),
            Failure(FailureKind.REJECTED, "R", "no"),
            Worker("g", "i"),
            5,
        )
        world.envelopes[b"%d" % len(world.records)] = again.envelope()
        offset = len(world.records)
        world.records.append(Record("dlq", 0, offset, b"k", b"%d" % offset, (), 1000 + offset))
    world.topics["dlq.parked"] = 1
    assert world.redrive() == {"selected": 1, "redriven": 0, "skipped": 0, "parked": 1}


@pytest.mark.parametrize("written", [NOW_MS - 10_000_000, NOW_MS + 10_000_000])
def test_record_that_its_source_would_delete_or_refuse_gets_the_present_time_and_keeps_the_old_one(
    written: int,
) -> None:
    world = World(source(0, timestamp_ms=written), source(1, timestamp_ms=NOW_MS - 1000))
    world.windows["orders.v1"] = Window(3_600_000, 3_600_000)
    assert world.redrive()["redriven"] == 2
    first, second = world.producer.to("orders.v1")
    assert (first[5], dict(first[3])["original-timestamp"]) == (None, str(written).encode())
    assert (second[5], "original-timestamp" in dict(second[3])) == (NOW_MS - 1000, False)


def test_topic_that_refuses_timestamps_in_spite_of_its_configs_gets_the_present_one() -> None:
    world = World(source(0), source(1))

    def broker(topic: str, key: bytes, value: bytes, timestamp_ms: int | None) -> None:
        if topic == "orders.v1" and timestamp_ms is not None:
            raise TimestampRefused("out of range", topic)

    world.producer.broker = broker
    assert world.redrive() == {"selected": 2, "redriven": 2, "skipped": 0, "parked": 0}
    assert [each[5] for each in world.producer.to("orders.v1")] == [None, None]


def test_letter_that_does_not_fit_keeps_no_other_back() -> None:
    world = World(*map(source, range(4)))

    def broker(topic: str, key: bytes, value: bytes, timestamp_ms: int | None) -> None:
        if value == b"v1":
            raise TooLarge("message too large")

    world.producer.broker = broker
    assert world.redrive() == {"selected": 4, "redriven": 3, "skipped": 1, "parked": 0}
    assert [each[1] for each in world.producer.to("orders.v1")] == [b"A-0", b"A-2", b"A-3"]
    assert world.producer.offsets == {TopicPartition("dlq", 0): 1}, "the one that was left is due still"
    assert world.said == ["0:1 was left: it does not fit: message too large"]


def test_letter_without_its_value_is_not_redriven_as_a_tombstone() -> None:
    record = source(0)
    letter = Letter(record, Failure(FailureKind.REJECTED, "R", "no"), Worker("g", "i"), 5).smaller()
    assert letter is not None
    world = World(source(0))
    world.envelopes[b"0"] = letter.envelope()
    world.records[0] = world.records[0]._replace(headers=letter.headers())
    assert world.redrive()["skipped"] == 1
    assert (
        "its value did not fit into the letter (2 bytes); the original was read at orders.v1 [1] @ 0" in world.said[0]
    )


def test_letters_left_for_one_reason_are_named_up_to_a_bound_and_then_counted() -> None:
    world = World(*(source(number, topic="payments.v1") for number in range(100)))
    assert world.redrive()["skipped"] == 100
    assert len(world.said) == 21
    assert world.said[-1].startswith("80 more letters were left: its topic payments.v1 is none")


def test_preview_names_the_topic_that_each_letter_would_go_to() -> None:
    world = World(source(0), source(1, topic="payments.v1"))
    stage = world.stage()
    assert [(it.outcome, it.to) for it in stage.preview(stage.plan(Selection()))] == [
        ("no_schema", "orders.v1"),
        ("skipped", None),
    ]


FOREIGN = [
    (b"x", b"{}"), (b"0:0", None), (b"0:0", b"[]"), (b"0:0", b"{"), (b"0:0", b"null"), (b"0:0", b"{}"), (None, None),
    (b"\xff", b"{}"), (b"0:0", b"\xff"), (b"9" * 5000 + b":0", b'{"timestamp_ms": 1}'), (b"0:0", b"[" * 100_000),
    (b"0:0", b'{"timestamp_ms": "x"}'), (b"0:0", b'{"timestamp_ms": ' + b"9" * 5000 + b"}"),
    (b"0:0", b'{"timestamp_ms": 1, "redrives": null}'),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), FOREIGN)
def test_what_is_no_mark_in_the_ledger_is_passed_over_and_counted(key: bytes | None, value: bytes | None) -> None:
    good = Record("dlq.redriven", 0, 0, b"0:0", Mark(7).value("redriven"))
    others: list[int] = []
    found = ledger([good, Record("dlq.redriven", 0, 1, key, value)], others.append)
    assert (found, others) == ({LetterId(0, 0): Mark(7)}, [1])
