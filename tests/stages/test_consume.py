"""The worker on fakes, event by event. Twins on a real broker: tests/integration/test_consume.py."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from pipeline.core.dead_letter import Worker
from pipeline.core.failures import Failure
from pipeline.core.record import Record, TopicPartition
from pipeline.core.retry import RetryPolicy
from pipeline.errors import (
    BrokerUnavailable,
    DeliveryFailed,
    HandlerFailed,
    MembershipLost,
    RegistryUnavailable,
    Reject,
    Retry,
    SchemaPending,
    SinkRefused,
    SinkUnavailable,
    Undecodable,
)
from pipeline.stages import room
from pipeline.stages.consume import Consume
from pipeline.stages.handlers import adapt
from pipeline.stages.outbox import Outbox
from pipeline.stages.work import Run
from tests.stages.fakes import FakeClock, FakeLog, FakePublisher, FakeSource, NowCrew, PlainEncoder

TOPIC = "orders.v1"
NO_TIERS = RetryPolicy(tiers=())
P0, P1 = TopicPartition(TOPIC, 0), TopicPartition(TOPIC, 1)


def records(*values: str, partition: int = 0, start: int = 0) -> list[Record]:
    return [
        Record(TOPIC, partition, start + number, value.encode(), value.encode()) for number, value in enumerate(values)
    ]


class Decoder:
    """Reads `bad…` never, everything else as it stands; raises what `down` holds first."""

    def __init__(self) -> None:
        self.down: list[Exception] = []

    def decode(self, value: bytes | None) -> dict[str, Any]:
        if self.down:
            raise self.down.pop(0)
        if value is None or value.startswith(b"bad"):
            raise Undecodable("not a datum")
        return {"id": value.decode()}

    def decode_run(self, values: Iterable[bytes | None]) -> Iterator[dict[str, Any]]:
        return map(self.decode, values)


class Bench:
    """A worker with all its fakes; runs until `rounds` turns have passed."""

    def __init__(
        self,
        given: list[Record],
        handler: Callable[..., Any],
        *,
        policy: RetryPolicy = NO_TIERS,
        list_max: int = 500,
        **changes: Any,
    ) -> None:
        self.topics = [TOPIC, *(f"retry-{delay:g}" for delay in policy.tiers)]
        self.source = FakeSource(given, self.topics)
        self.log = FakeLog(given)
        self.publisher = FakePublisher()
        self.decoder = Decoder()
        self.clock = FakeClock()
        self.seen: list[tuple[Record, Failure | None]] = []
        adapted = adapt(handler, "test")

        def join(listener: Any) -> FakeSource:
            self.source.listener = listener
            return self.source

        parts: dict[str, Any] = {
            "source": join,
            "log": self.log,
            "topics": self.topics,
            "decoder": self.decoder,
            "handler": adapted,
            "crew": NowCrew(adapted, list_max),
            "outbox": Outbox(self.publisher, "orders.dlq.v1", PlainEncoder(), self.clock),
            "worker": Worker("orders-workers", "one"),
            "policy": policy,
            "clock": self.clock,
            "now_ms": lambda: 1_700_000_000_000 + int(self.clock.now * 1000),
            "jitter": lambda: 0.0,
            "seen": lambda record, failure: self.seen.append((record, failure)),
        }
        self.stage = Consume(**parts | changes)

    def run(self, rounds: int = 200) -> None:
        left = iter(range(rounds))
        self.stage.run(lambda: next(left, None) is None)

    def letters(self) -> list[bytes | None]:
        return [key for topic, key, *_ in self.publisher.published if topic == "orders.dlq.v1"]

    def parked(self) -> list[tuple[str, bytes | None]]:
        return [(topic, key) for topic, key, *_ in self.publisher.published if topic != "orders.dlq.v1"]


def test_good_record_is_handled_and_its_offset_committed() -> None:
    seen: list[str] = []

    def handle(event: dict, record: Record) -> None:
        seen.append(event["id"])

    bench = Bench(records("a", "b") + records("c", partition=1, start=7), handle)
    bench.run()
    assert seen == ["a", "b", "c"]
    assert bench.source.committed_offsets == {P0: 2, P1: 8}
    assert bench.stage.totals.summary() | {"seconds": 0} == {
        "consumed": 3, "handled": 3, "dead_lettered": 0, "parked": 0, "committed": 3, "seconds": 0,
    }  # fmt: skip


def test_undecodable_record_becomes_a_letter_and_the_next_one_is_handled() -> None:
    seen: list[str] = []

    def handle(event: dict, record: Record) -> None:
        seen.append(event["id"])

    bench = Bench(records("a", "bad", "c"), handle)
    bench.run()
    assert seen == ["a", "c"]
    assert bench.letters() == [b"bad"]
    assert bench.source.committed_offsets == {P0: 3}


class Submitted(NowCrew):
    """Notes how many records it got at once, and whether as a run."""

    def __init__(self, handler: Callable[..., Any]) -> None:
        super().__init__(adapt(handler, "test"))
        self.lists: list[tuple[int, bool]] = []

    def submit(self, works: Any) -> None:
        self.lists.append((len(works), isinstance(works, Run)))
        super().submit(works)


def test_bad_records_do_not_break_the_run_around_them() -> None:
    crew = Submitted(lambda_handler)
    bench = Bench(records("bad0", "a", "bad1", "bad2", "b", "c", "bad3"), lambda_handler, crew=crew)
    bench.run()
    assert crew.lists == [(3, True)]
    assert bench.letters() == [b"bad0", b"bad1", b"bad2", b"bad3"]
    assert bench.source.committed_offsets == {P0: 7}
    assert (bench.stage.totals.handled, bench.stage.totals.dead_lettered) == (3, 4)


def test_once_what_failed_is_done_records_go_in_runs_again_though_more_come_all_the_time() -> None:
    done: list[str] = []
    failing = ["7"]

    def handle(event: dict, record: Record) -> None:
        if event["id"] in failing:
            failing.remove(event["id"])
            raise Retry("not now")
        done.append(event["id"])

    crew = Submitted(handle)
    bench = Bench(records(*map(str, range(20_000))), handle, crew=crew)
    bench.run(rounds=2000)
    assert sorted(done, key=int) == [str(n) for n in range(20_000)]
    assert bench.source.committed_offsets == {P0: 20_000}
    alone = sum(count for count, is_run in crew.lists if not is_run)
    # What was in hand and behind it; all that came later went straight.
    assert 0 < alone <= 2 * room.IN_FLIGHT_RECORDS_MAX, crew.lists


def test_as_many_records_are_asked_for_as_there_is_room_for_by_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "IN_FLIGHT_BYTES_MAX", 20_000)

    def handle(event: dict, record: Record) -> None: ...

    bench = Bench(records(*(f"{number:0100d}" for number in range(2_000))), handle)
    limits: list[int] = []
    poll = bench.source.poll

    def noted(limit: int, timeout_s: float) -> list[Record]:
        found = poll(limit, timeout_s)
        if found:
            limits.append(limit)
        return found

    monkeypatch.setattr(bench.source, "poll", noted)
    bench.run()
    assert limits[0] == room.LAST_POLL_RECORDS, "their size is not known yet"
    assert set(limits[1:]) == {200}
    assert bench.stage.totals.committed == 2_000


def test_rejected_record_becomes_a_letter_with_the_handlers_words() -> None:
    def handle(event: dict, record: Record) -> None:
        if event["id"] == "b":
            raise Reject("not sold here")

    bench = Bench(records("a", "b"), handle)
    bench.run()
    [(topic, key, value, headers, partition)] = bench.publisher.published
    assert (topic, key, partition) == ("orders.dlq.v1", b"b", 0)
    assert b"'reason': 'rejected'" in value
    assert dict(headers)["error"] == b"not sold here"
    assert bench.stage.totals.dead_lettered == 1


def test_letter_is_acknowledged_before_its_offset_is_committed() -> None:
    bench = Bench(records("bad"), lambda_handler)
    order: list[str] = []
    flush, commit = bench.publisher.flush, bench.source.commit
    bench.publisher.flush = lambda: (order.append("letter"), flush())[1]  # type: ignore[method-assign]
    bench.source.commit = lambda offsets: (order.append("commit"), commit(offsets))[1]  # type: ignore[method-assign]
    bench.run()
    assert order[:2] == ["letter", "commit"]


def lambda_handler(event: dict, record: Record) -> None:
    """Accepts everything."""


@pytest.mark.parametrize("outage", [SinkUnavailable("database down."), BrokerUnavailable("broker down.")])
def test_outage_in_the_handler_pauses_and_repeats_without_a_letter(outage: Exception) -> None:
    tries: list[str] = []

    def handle(event: dict, record: Record) -> None:
        tries.append(event["id"])
        if len(tries) in {2, 3}:
            raise outage

    bench = Bench(records("a", "b", "c"), handle)
    bench.run()
    assert tries == ["a", "b", "b", "b", "c"], "b is repeated, a is not, c waits its turn"
    assert bench.letters() == []
    assert bench.source.committed_offsets == {P0: 3}


def test_what_was_settled_before_an_outage_is_committed_during_it() -> None:
    def handle(event: dict, record: Record) -> None:
        if event["id"] == "b":
            raise SinkUnavailable("database down.")

    bench = Bench(records("a", "b"), handle)
    bench.run(rounds=3)
    assert bench.source.committed_offsets == {P0: 1}


def test_registry_outage_is_waited_for_and_never_a_letter() -> None:
    bench = Bench(records("a"), lambda_handler)
    bench.decoder.down = [RegistryUnavailable("no answer.")] * 3
    bench.run()
    assert bench.letters() == []
    assert bench.source.committed_offsets == {P0: 1}


def test_unknown_schemas_are_waited_for_side_by_side() -> None:
    """The first one stops the batch; the others are looked at as well, so that their waiting begins with it."""
    seen: list[bytes | None] = []

    class Pending(Decoder):
        def decode(self, value: bytes | None) -> dict[str, Any]:
            seen.append(value)
            raise SchemaPending("not yet.")

    bench = Bench(records("a", "b", "c"), lambda_handler)
    bench.stage._decoder = Pending()
    bench.run(rounds=2)
    assert set(seen) == {b"a", b"b", b"c"}
    assert (bench.letters(), bench.source.committed_offsets) == ([], {})


def test_dead_letter_topic_down_pauses_and_commits_nothing_until_it_is_back() -> None:
    bench = Bench(records("bad", "b"), lambda_handler)
    bench.publisher.fail = lambda key: BrokerUnavailable("no acknowledgement.")
    bench.run(rounds=20)
    assert bench.source.committed_offsets == {}
    assert bench.source.paused
    bench.publisher.fail = lambda key: None
    bench.run()
    assert bench.letters() == [b"bad"]
    assert bench.source.committed_offsets == {P0: 2}


def test_dead_letter_refused_for_good_stops_the_worker_with_nothing_committed() -> None:
    bench = Bench(records("bad"), lambda_handler)
    bench.publisher.fail = lambda key: DeliveryFailed("topic missing")
    with pytest.raises(DeliveryFailed, match=r"orders.v1 \[0\] @ 0 cannot be written"):
        bench.run()
    assert bench.source.committed_offsets == {}


def test_dead_letter_topic_that_is_gone_is_no_outage() -> None:
    bench = Bench(records("bad"), lambda_handler)
    bench.publisher.fail = lambda key: BrokerUnavailable("no acknowledgement in time")
    bench.publisher.missing.add("orders.dlq.v1")
    with pytest.raises(DeliveryFailed, match="there is no such topic"):
        bench.run()
    assert bench.source.committed_offsets == {}


def test_bug_in_the_handler_stops_the_worker_after_committing_what_was_before() -> None:
    def handle(event: dict, record: Record) -> None:
        if event["id"] == "c":
            raise TypeError("oops")

    bench = Bench(records("a", "bad", "c", "d"), handle)
    with pytest.raises(HandlerFailed, match=r"orders.v1 \[0\] @ 2: TypeError"):
        bench.run()
    assert bench.source.committed_offsets == {P0: 2}
    assert bench.letters() == [b"bad"]


def test_batch_is_never_longer_than_asked_for_although_one_partition_gave_more() -> None:
    batches: list[list[str]] = []

    def handle(batch: list[tuple[dict, Record]]) -> None:
        batches.append([event["id"] for event, _ in batch])

    bench = Bench(records(*"abcdefgh"), handle, list_max=3)
    bench.run()
    assert batches == [["a", "b", "c"], ["d", "e", "f"], ["g", "h"]]
    assert bench.stage.totals.committed == 8


def test_batch_with_one_refused_row_loses_only_that_one_and_keeps_order() -> None:
    stored: list[str] = []

    def handle(batch: list[tuple[dict, Record]]) -> None:
        if any(event["id"] == "x" for event, _ in batch):
            raise SinkRefused("value too long")
        stored.extend(event["id"] for event, _ in batch)

    bench = Bench(records("a", "b", "x", "c", "d"), handle)
    bench.run()
    assert stored == ["a", "b", "c", "d"]
    assert bench.letters() == [b"x"]
    assert bench.source.committed_offsets == {P0: 5}


def test_batch_outage_half_way_through_bisection_repeats_only_the_rest() -> None:
    stored: list[str] = []
    down = [True]

    def handle(batch: list[tuple[dict, Record]]) -> None:
        ids = [event["id"] for event, _ in batch]
        if "x" in ids:
            raise SinkRefused("value too long")
        if "d" in ids and down:
            down.clear()
            raise SinkUnavailable("database down.")
        stored.extend(ids)

    bench = Bench(records("a", "x", "c", "d"), handle)
    bench.run()
    assert stored == ["a", "c", "d"]
    assert bench.letters() == [b"x"]


def test_batch_handler_names_the_records_it_rejects() -> None:
    def handle(batch: list[tuple[dict, Record]]) -> list[tuple[Record, Exception]]:
        return [(record, Reject("odd")) for event, record in batch if event["id"] == "b"]

    bench = Bench(records("a", "b", "c"), handle)
    bench.run()
    assert bench.letters() == [b"b"]
    assert bench.stage.totals.handled == 2


def test_partitions_lost_during_an_outage_are_dropped_and_not_committed() -> None:
    def handle(event: dict, record: Record) -> None:
        if record.partition == 0:
            raise SinkUnavailable("database down.")

    bench = Bench(records("a", "b") + records("z", partition=1), handle)
    bench.source.before_poll.extend([lambda: None, lambda: bench.source.take_back(P0, lost=True)])
    bench.run()
    assert bench.source.committed_offsets == {P1: 1}, "the other partition goes on"


def test_partitions_revoked_after_a_failed_commit_are_committed_on_the_way_out() -> None:
    bench = Bench(records("a"), lambda_handler)
    refuse = lambda: bench.source.commit_errors.append(BrokerUnavailable("rebalance in progress."))  # noqa: E731
    bench.source.before_poll.extend([*[lambda: None] * 2, refuse, lambda: bench.source.take_back(P0, lost=False)])
    bench.run(rounds=4)
    assert bench.source.committed_offsets == {P0: 1}


def test_commit_refused_because_the_membership_was_lost_is_not_repeated() -> None:
    bench = Bench(records("a"), lambda_handler)
    refuse = lambda: bench.source.commit_errors.append(MembershipLost("illegal generation"))  # noqa: E731
    bench.source.before_poll.extend([lambda: None, refuse, lambda: bench.source.take_back(P0, lost=True)])
    bench.run()
    assert bench.source.committed_offsets == {}
    assert bench.stage.totals.committed == 0


def test_end_behind_a_transactions_marker_is_committed_so_that_lag_is_zero() -> None:
    bench = Bench(records("a"), lambda_handler)
    bench.source.ends[P0] = 2
    bench.run()
    assert bench.source.committed_offsets == {P0: 2}
    assert bench.stage.totals.committed == 1, "a marker is no record"


def test_commit_that_comes_at_a_bad_moment_is_repeated_without_handling_again() -> None:
    seen: list[str] = []

    def handle(event: dict, record: Record) -> None:
        seen.append(event["id"])

    bench = Bench(records("a"), handle)
    bench.source.commit_errors.append(BrokerUnavailable("coordinator loading."))
    bench.run()
    assert seen == ["a"]
    assert bench.source.committed_offsets == {P0: 1}
