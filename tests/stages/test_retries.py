"""The worker through retries, restarts and rebalances, event by event."""

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest

from pipeline.core.dead_letter import Worker
from pipeline.core.failures import Failure, FailureKind
from pipeline.core.offsets import Note, read_note
from pipeline.core.ports import Delivery
from pipeline.core.record import Headers, Record, TopicPartition
from pipeline.core.retry import Journey, RetryPolicy
from pipeline.errors import (
    BrokerUnavailable,
    DeliveryFailed,
    HandlerFailed,
    NotTogether,
    RegistryUnavailable,
    Reject,
    Retry,
    SchemaPending,
    SinkUnavailable,
    TooLarge,
)
from pipeline.stages import consume, room
from pipeline.stages.consume import Consume
from pipeline.stages.crew import Work
from pipeline.stages.handlers import adapt
from pipeline.stages.outbox import Outbox
from tests.stages.broker import BrokerPublisher, FakeBroker, HeldCrew, Member
from tests.stages.fakes import FakeClock, NowCrew
from tests.stages.test_consume import Decoder

TOPIC, FIRST, SECOND = TOPICS = ("orders.v1", "orders.v1.g.retry-5s", "orders.v1.g.retry-1m")
POLICY = RetryPolicy(attempts=2, backoff_s=0.2, tiers=(5.0, 60.0))
P0, F0, S0 = (TopicPartition(topic, 0) for topic in TOPICS)
NOW_MS = 1_700_000_000_000


class Killed(BaseException):
    """The process died."""


class MortalCrew(NowCrew):
    """Dies of what `deadly` says."""

    deadly: Callable[[Record], bool] = staticmethod(lambda record: False)

    def submit(self, works: Any) -> None:
        alive: list[Work] = []
        for work in works:
            if self.deadly(work.record):
                super().submit(alive)
                raise Killed
            alive.append(work)
        super().submit(alive)


class Bench:
    """A broker, and one worker after the other on it. What the handler does is in `fails`, by the event's id."""

    def __init__(self, *values: str, policy: RetryPolicy = POLICY, **changes: Any) -> None:
        self.broker = FakeBroker()
        self.clock = FakeClock()
        self.decoder: Any = Decoder()
        self.policy = policy
        self.changes = changes
        self.fails: dict[str, list[Exception]] = {}
        self.touched: list[tuple[str, float]] = []
        self.records: list[Record] = []
        self.effects: list[str] = []
        self.seen: list[tuple[Record, Failure | None]] = []
        self.on_touch: Callable[[Record], None] = lambda record: None
        self.handler = adapt(self.handle, "test")
        self.publisher = BrokerPublisher(self.broker)
        self.write(*values)
        self.start()

    def handle(self, event: dict, record: Record) -> None:
        self.touched.append((event["id"], self.clock.now))
        self.records.append(record)
        self.on_touch(record)
        if self.fails.get(event["id"]):
            raise self.fails[event["id"]].pop(0)
        self.effects.append(event["id"])

    def write(self, *values: str, headers: Headers = ()) -> None:
        """The first letter is the key."""
        for value in values:
            self.broker.write(P0, value[:1].encode(), value.encode(), headers)

    def start(self, *partitions: TopicPartition, **changes: Any) -> None:
        """Another worker, which is given everything, or these."""
        parts: dict[str, Any] = {
            "source": lambda listener: Member(self.broker, listener),
            "log": self.broker,
            "topics": [TOPIC, *TOPICS[1 : len(self.policy.tiers) + 1]],
            "decoder": self.decoder,
            "handler": self.handler,
            "crew": NowCrew(self.handler),
            "outbox": Outbox(self.publisher, "orders.dlq.v1", self.broker, self.clock),
            "worker": Worker("g", "one"),
            "policy": self.policy,
            "clock": self.clock,
            "now_ms": lambda: NOW_MS + int(self.clock.now * 1000),
            "jitter": lambda: 0.0,
            "seen": lambda record, failure: self.seen.append((record, failure)),
        }
        parts |= self.changes | changes
        self.crew = parts["crew"]
        self.stage = Consume(**parts)
        self.member: Member = self.stage._source
        every = [TopicPartition(topic, 0) for topic in parts["topics"]]
        self.broker.give(self.member, *(partitions or every))

    def turns(self, count: int = 400) -> None:
        for _ in range(count):
            self.stage._turn()

    def until(self, condition: Callable[[], bool], turns: int = 10_000) -> None:
        for _ in range(turns):
            if condition():
                return
            self.stage._turn()
        pytest.fail("it never came")

    def stop(self) -> None:
        self.stage.run(lambda: True)
        self.broker.bury(self.member)

    def kill(self) -> None:
        self.broker.bury(self.member)

    def values(self, where: TopicPartition) -> list[str]:
        return [(record.value or b"").decode() for record in self.broker.logs.get(where, [])]

    def note(self, where: TopicPartition = P0) -> Note:
        commit = self.broker.commits[where]
        return read_note(commit.metadata, commit.offset)

    def offset(self, where: TopicPartition = P0) -> int:
        return self.broker.commits[where].offset


def fail(times: int) -> list[Exception]:
    return [OSError(f"no {number}") for number in range(1, times + 1)]


# --- in place


def test_failing_record_holds_its_key_and_others_flow_on() -> None:
    bench = Bench("a1", "a2", "b1")
    bench.fails = {"a1": fail(1)}
    bench.turns()
    assert bench.effects == ["b1", "a1", "a2"]
    assert [record.attempt for record in bench.records] == [1, 1, 2, 1]
    assert bench.values(F0) == []
    assert bench.offset() == 3


def test_record_that_waits_in_place_is_not_committed_and_what_is_done_beside_it_is_noted() -> None:
    bench = Bench("a1", "a2", "b1")
    bench.fails = {"a1": [Retry(after=5)]}
    bench.until(lambda: bench.effects == ["b1"])
    bench.turns(5)
    assert (bench.offset(), bench.note().done) == (0, ((2, 3),))


def test_done_ahead_is_not_repeated_after_a_restart() -> None:
    bench = Bench("a1", "b1", "b2", "a2", "c1")
    bench.fails = {"a1": [Retry(after=5)]}
    bench.until(lambda: bench.effects == ["b1", "b2", "c1"])
    bench.turns(5)
    bench.kill()
    bench.start()
    bench.turns()
    assert bench.effects == ["b1", "b2", "c1", "a1", "a2"]
    assert bench.offset() == 5


def test_outage_counts_no_attempt() -> None:
    bench = Bench("a1")
    bench.fails = {"a1": [*[SinkUnavailable("down.")] * 9, *fail(1)]}
    bench.turns(2_000)
    assert bench.effects == ["a1"]
    assert [record.attempt for record in bench.records] == [1] * 10 + [2]
    assert bench.values(F0) == []


# --- through retry topics


def test_record_that_failed_in_place_goes_to_the_first_retry_topic_and_later_ones_of_its_key_follow() -> None:
    bench = Bench("a1", "a2", "b1", "a3")
    bench.fails = {"a1": fail(2)}
    bench.until(lambda: len(bench.values(F0)) == 3)
    assert bench.effects == ["b1"]
    assert bench.values(F0) == ["a1", "a2", "a3"]
    bench.turns()
    assert bench.effects == ["b1", "a1", "a2", "a3"]
    assert (bench.offset(), bench.offset(F0)) == (4, 3)
    assert bench.values(S0) == []
    assert bench.stage.totals.parked == 3


def test_parked_record_is_not_touched_before_it_is_due() -> None:
    bench = Bench("a1", "a2")
    bench.fails = {"a1": fail(3)}
    bench.until(lambda: bench.values(F0) == ["a1", "a2"])
    bench.turns(3)
    assert F0 in bench.member.paused
    assert P0 not in bench.member.paused
    bench.turns(3_000)
    times = [at for event, at in bench.touched if event == "a1"]
    waits = [after - before for before, after in pairwise(times)]
    limits = [(0.2, 0.6), (5.0, 6.0), (60.0, 62.0)]
    assert [low < wait < high for wait, (low, high) in zip(waits, limits, strict=True)] == [True] * 3, waits
    assert bench.effects == ["a1", "a2"]


def test_clock_of_another_machine_never_lets_a_record_wait_longer_than_the_tiers_delay() -> None:
    bench = Bench()
    bench.broker.write(F0, b"a", b"a1", (("retry-due-at", str(NOW_MS * 2).encode()),))
    bench.until(lambda: bench.effects == ["a1"])
    assert 5.0 < bench.clock.now < 7.0


def test_key_is_free_again_when_its_retry_topic_has_drained() -> None:
    bench = Bench("a1", "a2")
    bench.fails = {"a1": fail(2)}
    bench.turns()
    assert bench.effects == ["a1", "a2"]
    bench.write("a3")
    bench.until(lambda: bench.effects == ["a1", "a2", "a3"])
    assert bench.values(F0) == ["a1", "a2"]


def test_record_that_failed_in_every_tier_becomes_a_letter_with_its_history() -> None:
    bench = Bench()
    bench.write("a1", headers=(("n", b"1"), ("n", None)))
    bench.write("a2")
    bench.fails = {"a1": fail(9)}
    bench.turns(3_000)
    assert (bench.values(F0), bench.values(S0), bench.effects) == (["a1", "a2"], ["a1", "a2"], ["a2"])
    [letter] = bench.broker.letters()
    first_touch = datetime.fromtimestamp(NOW_MS / 1000, UTC).timestamp() + bench.touched[0][1]
    assert letter["first_failed_at"].timestamp() == pytest.approx(first_touch, abs=0.5)
    assert letter["failed_at"].timestamp() - letter["first_failed_at"].timestamp() > 65
    assert {name: letter[name] for name in letter if not name.endswith("failed_at")} == {
        "key": b"a",
        "value": b"a1",
        "headers": [{"name": "n", "value": b"1"}, {"name": "n", "value": None}],
        "source_topic": TOPIC,
        "source_partition": 0,
        "source_offset": 0,
        "source_timestamp": datetime(2020, 9, 13, 12, 26, 40, tzinfo=UTC),
        "reason": "retries_exhausted",
        "error": "failed 4 times, at last: no 4",
        "error_class": "OSError",
        "schema_id": None,
        "attempts": 4,
        "consumer_group": "g",
        "consumer_instance": "one",
    }
    assert [record.attempt for record in bench.records] == [1, 2, 3, 4, 1]
    assert [bench.offset(where) for where in (P0, F0, S0)] == [2, 2, 2]


def test_key_of_an_exhausted_record_waits_until_its_letter_is_acknowledged() -> None:
    """After a death in between it would be tried again, and might succeed: behind what came after it."""
    bench = Bench("a1", "a2", policy=RetryPolicy(attempts=1, tiers=()))
    bench.fails = {"a1": fail(1)}
    bench.publisher.fails = lambda topic: "lost"
    bench.turns(100)
    assert bench.effects == []
    bench.publisher.fails = lambda topic: None
    bench.turns(100)
    assert (bench.effects, len(bench.broker.letters())) == (["a2"], 1)


def test_retry_headers_do_not_grow() -> None:
    bench = Bench()
    bench.write("a1", headers=(("n", b"1"),))
    bench.fails = {"a1": fail(3)}
    bench.turns(3_000)
    [first], [second] = bench.broker.logs[F0], bench.broker.logs[S0]
    names = [name for name, _ in first.headers]
    assert len(names) == len(set(names)) == 11
    assert [name for name, _ in second.headers] == names
    before, after = dict(first.headers), dict(second.headers)
    assert (before["retry-attempts"], after["retry-attempts"]) == (b"2", b"3")
    assert before["retry-first-failed-at"] == after["retry-first-failed-at"]
    assert all(record.headers == (("n", b"1"),) for record in bench.records), "the handler sees none of them"
    assert all(record.timestamp_ms == 1_600_000_000_000 for record in bench.records)


def test_forged_retry_headers_are_replaced() -> None:
    bench = Bench()
    forged = tuple((f"retry-{name}", b"99") for name in ("attempts", "offset", "partition", "topic", "due-at", "x"))
    bench.write("a1", headers=(*forged, ("n", b"1")))
    bench.fails = {"a1": fail(9)}
    bench.turns(3_000)
    told = dict(bench.broker.logs[F0][0].headers)
    assert (told["retry-attempts"], told["retry-topic"], told["retry-offset"]) == (b"2", TOPIC.encode(), b"0")
    assert told["retry-x"] == b"99", "no name of ours"
    [letter] = bench.broker.letters()
    assert (letter["attempts"], letter["source_topic"], letter["source_offset"]) == (4, TOPIC, 0)
    assert letter["headers"] == [{"name": "retry-x", "value": b"99"}, {"name": "n", "value": b"1"}]


def test_handler_that_asks_for_a_later_try_skips_the_shorter_tiers() -> None:
    bench = Bench("a1", "a2")
    bench.fails = {"a1": [Retry("closed", after=30)]}
    bench.turns(3_000)
    assert (bench.values(F0), bench.values(S0)) == ([], ["a1", "a2"])
    assert bench.effects == ["a1", "a2"]
    assert bench.touched[1][1] - bench.touched[0][1] > 60


def test_tombstones_and_null_keys_go_through_retries() -> None:
    bench = Bench("a1")
    bench.broker.write(P0, b"a", None)
    bench.broker.write(P0, None, b"n1")
    bench.broker.write(P0, None, b"n2")
    decode = bench.decoder.decode
    bench.decoder.decode = lambda value: {"id": "gone"} if value is None else decode(value)
    bench.fails = {"a1": fail(2), "n1": fail(9)}
    bench.turns(3_000)
    keyed = [(it.key, it.value) for it in bench.broker.logs[F0] if it.key]
    assert keyed == [(b"a", b"a1"), (b"a", None)]
    assert bench.effects == ["n2", "a1", "gone"], "what has no key waits behind nothing"
    [exhausted] = bench.broker.letters()
    assert (exhausted["key"], exhausted["reason"], exhausted["attempts"]) == (None, "retries_exhausted", 4)


def test_record_rejected_in_a_retry_topic_is_a_letter_at_once_and_frees_its_key() -> None:
    bench = Bench("a1", "a2")
    bench.fails = {"a1": [*fail(2), Reject("not sold here")]}
    bench.turns(1_000)
    [letter] = bench.broker.letters()
    assert (letter["reason"], letter["attempts"], letter["source_offset"]) == ("rejected", 3, 0)
    assert (bench.effects, bench.values(S0)) == (["a2"], [])


def test_outage_in_a_retry_topic_moves_nothing() -> None:
    bench = Bench("a1")
    bench.fails = {"a1": [*fail(2), *[SinkUnavailable("down.")] * 5]}
    bench.turns(3_000)
    assert (bench.effects, bench.values(S0)) == (["a1"], [])
    assert bench.broker.letters() == []


def test_order_can_be_given_up() -> None:
    bench = Bench("a1", "a2", keep_order=False)
    bench.fails = {"a1": fail(2)}
    bench.until(lambda: bench.values(F0) == ["a1"])
    bench.write("a3")
    bench.until(lambda: bench.effects == ["a2", "a3"])
    bench.turns()
    bench.write("a4")
    bench.turns()
    assert bench.effects == ["a2", "a3", "a1", "a4"]
    assert bench.values(F0) == ["a1"], "nobody follows"


def test_record_is_parked_before_its_offset_is_committed_and_its_key_waits_meanwhile() -> None:
    bench = Bench("a1", "a2")
    bench.fails = {"a1": fail(2)}
    bench.publisher.fails = lambda topic: "lost"
    bench.turns(100)
    assert (bench.offset(), bench.effects, bench.values(F0)) == (0, [], [])
    bench.publisher.fails = lambda topic: None
    bench.turns()
    assert (bench.effects, bench.values(F0), bench.offset()) == (["a1", "a2"], ["a1", "a2"], 2)


def test_lost_acknowledgement_repeats_a_move_and_keeps_the_order() -> None:
    bench = Bench("a1", "a2")
    bench.fails = {"a1": fail(2)}
    fates = ["unknown"]
    bench.publisher.fails = lambda topic: fates.pop() if fates else None
    bench.turns()
    assert bench.values(F0) == ["a1", "a1", "a2"]
    assert bench.effects == ["a1", "a1", "a2"]


def test_retry_topic_that_refuses_for_good_stops_the_worker_at_once() -> None:
    bench = Bench("a1", "b1")
    bench.fails = {"a1": fail(2)}
    bench.publisher.refused = DeliveryFailed("denied")
    with pytest.raises(DeliveryFailed, match=r"retry-5s \[0\] cannot be written"):
        bench.stage.run(lambda: False)
    assert (bench.offset(), bench.note().done, bench.note().clean) == (0, ((1, 2),), True)
    assert bench.clock.now < consume.STOP_S, "nothing is waited for that cannot come"


# --- restarts


def test_fence_is_rebuilt_from_what_lies_parked() -> None:
    bench = Bench("a1")
    bench.fails = {"a1": fail(2)}
    bench.until(lambda: bench.values(F0) == ["a1"])
    bench.until(lambda: bench.offset() == 1)
    bench.kill()
    bench.write("a2", "b1")
    bench.start()
    bench.turns()
    assert bench.effects == ["b1", "a1", "a2"]
    assert bench.values(F0) == ["a1", "a2"]


def test_fence_does_not_hold_what_is_done_ahead_in_a_retry_topic() -> None:
    bench = Bench("a1", "b1")
    bench.fails = {"a1": fail(2), "b1": fail(2)}
    bench.until(lambda: bench.values(F0) == ["a1", "b1"])
    bench.fails = {"a1": [SinkUnavailable("down.")] * 100}
    bench.turns(5)
    bench.kill()
    parked = bench.broker.commits[F0]
    bench.broker.commits[F0] = parked._replace(offset=0, metadata=Note(clean=True, done=((1, 2),)).text(0))
    bench.broker.commits[P0] = bench.broker.commits[P0]._replace(offset=2, metadata=Note().text(2))
    bench.fails = {}
    bench.write("b2", "a2")
    bench.start()
    bench.until(lambda: bench.effects == ["b2"])
    bench.turns()
    assert bench.effects == ["b2", "a1", "a2"]
    assert bench.values(F0) == ["a1", "b1", "a2"]


def test_move_that_was_not_committed_is_repeated_behind_the_first_one() -> None:
    bench = Bench("a1", "a2")
    bench.fails = {"a1": fail(2)}
    bench.until(lambda: bench.values(F0) == ["a1", "a2"])
    bench.broker.commits.clear()
    bench.kill()
    bench.start()
    bench.turns()
    assert list(dict.fromkeys(bench.effects)) == ["a1", "a2"]
    assert bench.values(F0) == ["a1", "a2", "a1", "a2"]


# --- after a death


def die(bench: Bench, deadly: Callable[[Record], bool]) -> None:
    """A worker that is killed with such a record in hand."""
    crew = MortalCrew(bench.handler)
    crew.deadly = deadly
    bench.start(crew=crew)
    with pytest.raises(Killed):
        bench.turns(2_000)
    bench.kill()


def mortal(*values: str, **changes: Any) -> Bench:
    """A bench without a worker yet."""
    bench = Bench(*values, **changes)
    bench.kill()
    return bench


def test_worker_that_died_names_what_it_touches() -> None:
    bench = mortal("a1", "b1", "c1")
    die(bench, lambda record: record.value == b"b1")
    named: list[tuple[int, int | None]] = []
    bench.on_touch = lambda record: named.append((record.offset, bench.note().suspect))
    bench.start()
    bench.turns()
    assert named == [(0, 0), (1, 1), (2, 2)]
    assert bench.broker.letters() == []


def test_record_that_killed_three_workers_becomes_a_letter_undecoded() -> None:
    bench = mortal("a1", "x1", "x2", "b1")
    decoded: list[bytes | None] = []
    for death in range(1, 4):
        die(bench, lambda record: record.value == b"x1")
        assert (bench.note().tries, bench.note().suspect) == (death - 1, 1 if death > 1 else None)
    decode = bench.decoder.decode
    bench.decoder.decode = lambda value: (decoded.append(value), decode(value))[1]
    bench.start()
    bench.turns()
    [letter] = bench.broker.letters()
    assert (letter["value"], letter["reason"], letter["source_offset"]) == (b"x1", "crash_loop", 1)
    assert b"x1" not in decoded
    assert bench.effects[-2:] == ["x2", "b1"]
    assert bench.offset() == 4


def test_record_of_a_retry_topic_that_killed_three_workers_becomes_a_letter_of_its_source() -> None:
    bench = mortal("a1", "x1")
    bench.fails = {"x1": fail(2)}
    for _ in range(3):
        die(bench, lambda record: record.value == b"x1" and bench.values(F0) != [])
    bench.start()
    bench.turns()
    [letter] = bench.broker.letters()
    assert (letter["reason"], letter["source_topic"], letter["source_offset"]) == ("crash_loop", TOPIC, 1)


def test_no_crash_limit_means_no_care() -> None:
    bench = mortal("x1", crash_limit=0)
    for _ in range(5):
        die(bench, lambda record: record.value == b"x1")
    assert bench.broker.letters() == []
    assert bench.note().suspect is None


def test_clean_stop_leaves_no_suspicion() -> None:
    bench = mortal("a1", "b1")
    die(bench, lambda record: record.value == b"a1")
    bench.start()
    bench.fails = {"a1": [SinkUnavailable("down.")]}
    bench.until(lambda: bench.touched != [])
    bench.stop()
    note = bench.note()
    assert (note.clean, note.suspect, note.tries) == (True, None, 0)
    for _ in range(2):
        die(bench, lambda record: record.value == b"a1")
    bench.start()
    bench.turns()
    assert (bench.effects, bench.broker.letters()) == (["a1", "b1"], [])


def test_innocent_records_survive_repeated_kills() -> None:
    bench = mortal(*(f"{key}1" for key in "abcdefghij"))
    for victim in range(10):
        die(bench, lambda record, victim=victim: record.offset == victim)
    bench.start()
    bench.turns()
    assert bench.broker.letters() == []
    assert sorted(set(bench.effects)) == sorted(f"{key}1" for key in "abcdefghij")


@pytest.mark.parametrize("failures", [fail(1), fail(2), fail(4), [SinkUnavailable("down.")] * 7])
def test_record_that_fails_after_a_death_has_killed_nobody(failures: list[Exception]) -> None:
    bench = mortal("b1", "a1")
    die(bench, lambda record: record.value == b"b1")
    bench.fails = {"a1": list(failures)}
    bench.start()
    bench.turns(3_000)
    reasons = [letter["reason"] for letter in bench.broker.letters()]
    assert reasons == (["retries_exhausted"] if len(failures) == 4 else [])
    assert set(bench.effects) == ({"b1"} if len(failures) == 4 else {"a1", "b1"})


@pytest.mark.parametrize("outage", [RegistryUnavailable("no answer."), SchemaPending("not yet.")])
def test_registry_outage_after_a_death_is_no_crash_loop(outage: Exception) -> None:
    bench = mortal("a1")
    die(bench, lambda record: record.value == b"a1")
    bench.decoder.down = [outage] * 6
    bench.start()
    bench.turns(3_000)
    assert (bench.effects, bench.broker.letters()) == (["a1"], [])


def test_record_that_kills_behind_one_that_waits_is_found() -> None:
    """The one that waits is named first in every life; that must not make the deaths of the other forgotten."""
    bench = mortal("a1", "x1", "b1")
    bench.fails = {"a1": [Retry(after=5)] * 9}
    for _ in range(3):
        die(bench, lambda record: record.value == b"x1")
    bench.start()
    bench.fails = {}
    bench.turns()
    assert [letter["value"] for letter in bench.broker.letters()] == [b"x1"]
    assert set(bench.effects) == {"a1", "b1"}


def test_commit_that_fails_while_naming_counts_no_death() -> None:
    bench = mortal("a1")
    die(bench, lambda record: record.value == b"a1")
    bench.start()
    bench.turns(1)
    bench.member.commit_errors.extend([BrokerUnavailable("no coordinator.")] * 6)
    bench.turns(2_000)
    assert (bench.effects, bench.broker.letters(), bench.offset()) == (["a1"], [], 1)


# --- rebalances


def test_late_completion_of_a_lost_partition_is_dropped() -> None:
    bench = mortal("a1", "a2", policy=RetryPolicy(tiers=()))
    crew = HeldCrew(bench.handler)
    bench.start(crew=crew)
    bench.until(lambda: crew.held != [])
    bench.broker.lose(P0)
    bench.turns(2)
    bench.broker.give(bench.member, P0)
    bench.turns(2)
    crew.let_go = True
    bench.stage._collect()
    assert bench.effects == ["a1"]
    assert (bench.stage.totals.handled, bench.offset()) == (0, 0)
    bench.turns()
    assert bench.effects == ["a1", "a1", "a2"], "what came late keeps its lane: the order holds"
    assert (bench.stage.totals.handled, bench.offset()) == (2, 2)


def test_lost_partition_is_neither_waited_for_nor_committed() -> None:
    bench = mortal("a1", "b1")
    crew = HeldCrew(bench.handler)
    bench.start(crew=crew)
    bench.until(lambda: crew.held != [])
    crew.let_go = True
    bench.stage._collect()
    crew.let_go = False
    bench.until(lambda: crew.held != [])
    tried: list[Any] = []
    bench.member.commit = bench.member.commit_now = tried.append  # type: ignore[method-assign]
    asked = crew.asked
    bench.broker.lose(P0, F0, S0)
    bench.turns(1)
    assert (bench.effects, tried) == (["a1"], [])
    assert crew.asked <= asked + 2


def test_drain_waits_for_what_is_in_hand_before_partitions_go() -> None:
    bench = mortal("a1", "a2")
    crew = HeldCrew(bench.handler)
    bench.start(crew=crew)
    bench.until(lambda: crew.held != [])
    asked = crew.asked
    finished = crew.finished

    def slow(timeout_s: float) -> Any:
        crew.let_go = crew.asked > asked + 5
        return finished(timeout_s)

    crew.finished = slow  # type: ignore[method-assign]
    bench.broker.take(P0, F0, S0)
    bench.turns(1)
    assert bench.effects == ["a1"]
    assert bench.broker.owners == {}
    assert (bench.offset(), bench.note().clean) == (1, True)


def test_drain_delivers_what_is_on_its_way() -> None:
    bench = Bench("a1", "a2")
    bench.fails = {"a1": fail(2)}
    bench.publisher.fails = lambda topic: "lost"
    bench.until(lambda: len(bench.stage._outbox) > 0)
    bench.turns(2)
    bench.publisher.fails = lambda topic: None
    bench.broker.take(P0, F0, S0)
    bench.turns(1)
    assert (bench.values(F0), bench.offset(), bench.note().clean) == (["a1"], 1, True)


def test_drain_ends_when_a_handler_does_not() -> None:
    bench = mortal("a1", "b1")
    crew = HeldCrew(bench.handler)
    bench.start(crew=crew)
    bench.until(lambda: crew.held != [])
    bench.broker.take(P0, F0, S0)
    bench.turns(1)
    assert bench.clock.now < consume.DRAIN_S * 1.2
    assert (bench.offset(), bench.note().clean) == (0, False), "it may hang on this one: whoever comes next takes care"
    assert len(bench.stage._lanes) == 0


def test_partition_whose_retry_topics_are_not_ours_stops_with_a_clear_error() -> None:
    bench = mortal("a1")
    bench.start(P0, F0)
    with pytest.raises(NotTogether, match=r"Partition 0 of orders.v1.g.retry-1m is not assigned"):
        bench.stage.run(lambda: False)
    assert bench.clock.now > 60, "KIP-848 hands them over one by one"
    assert (bench.touched, bench.broker.commits) == ([], {})


def test_shard_opens_when_the_last_of_its_partitions_has_come() -> None:
    bench = mortal("a1")
    bench.start(P0)
    bench.turns(50)
    bench.broker.give(bench.member, S0)
    bench.turns(50)
    assert bench.touched == []
    bench.broker.give(bench.member, F0)
    bench.turns(5)
    assert bench.effects == ["a1"]


def test_rest_of_a_shard_waits_for_the_part_that_went() -> None:
    bench = Bench("a1")
    bench.turns(1_500)
    assert bench.clock.now > 70
    bench.broker.take(F0)
    bench.turns(20)
    bench.write("a2")
    bench.turns(20)
    assert bench.effects == ["a1"], "its retry topic is not ours"
    bench.broker.give(bench.member, F0)
    bench.turns(5)
    assert bench.effects == ["a1", "a2"]


def test_part_of_a_shard_that_stayed_is_read_again_from_what_was_committed() -> None:
    bench = mortal("a1", "a2", "b1")
    bench.fails = {"a1": [Retry(after=5)]}
    bench.start()
    bench.until(lambda: bench.effects == ["b1"])
    bench.broker.take(F0)
    bench.turns(5)
    bench.broker.give(bench.member, F0)
    bench.write("c1")
    bench.turns()
    assert set(bench.effects) == {"a1", "a2", "b1", "c1"}, "nothing is passed over"
    assert bench.offset() == 4


# --- too much at once, and outages beside each other


def test_full_worker_pauses_and_polls_on() -> None:
    bench = mortal(*(f"{number % 50:02d}x"[::-1] for number in range(6_000)))
    for number in range(6_000):
        record = bench.broker.logs[P0][number]
        bench.broker.logs[P0][number] = record._replace(key=b"%d" % (number % 50), value=b"%d" % number)
    crew = HeldCrew(bench.handler, hands=8)
    bench.start(crew=crew)
    bench.until(lambda: P0 in bench.member.paused, turns=100)
    polls = bench.member.polls
    bench.turns(50)
    assert bench.member.polls >= polls + 45, "it stays in its group"
    held = len(bench.stage._lanes) + bench.stage._lanes.in_hand
    assert room.IN_FLIGHT_RECORDS_MAX <= held < room.IN_FLIGHT_RECORDS_MAX + room.LAST_POLL_RECORDS
    crew.let_go = True
    bench.until(lambda: len(bench.effects) == 6_000)
    assert len(set(bench.effects)) == 6_000
    for key in range(50):
        mine = [int(event) for event in bench.effects if int(event) % 50 == key]
        assert mine == sorted(mine)


def test_worker_that_is_kept_full_reads_on_without_a_pause() -> None:
    bench = mortal()
    for number in range(20_000):
        bench.broker.write(P0, b"%d" % number, b"%d" % number)
    crew = HeldCrew(bench.handler, hands=100)
    crew.let_go = True
    bench.start(crew=crew)
    bench.until(lambda: bench.stage._room.rests)
    began, pauses, sizes = bench.clock.now, 0, set()
    while bench.clock.now < began + 3 * room.FULL_PATIENCE_S and len(bench.effects) < 17_000:
        bench.stage._turn()
        pauses += P0 in bench.member.paused
        sizes.add(bench.stage._unsettled)
    assert bench.clock.now >= began + 2 * room.FULL_PATIENCE_S, "it was full for long enough"
    assert min(sizes) > room.IN_FLIGHT_RECORDS_MAX // 2, "it was near to full all the time"
    assert pauses == 0, "a pause drops what was fetched ahead"


def test_letters_on_their_way_when_partitions_are_lost_leave_room_for_others() -> None:
    bench = Bench("bad1", "bad2")
    bench.publisher.fails = lambda topic: "lost"
    bench.until(lambda: len(bench.stage._outbox) == 2)
    bench.broker.lose(P0, F0, S0)
    bench.turns(100)
    assert (len(bench.stage._outbox), bench.stage._room.bytes) == (0, 0)


def test_registry_outage_lets_records_of_known_schemas_flow() -> None:
    bench = Bench("a1", "n1", "b1", "n2", "c1")
    decode = bench.decoder.decode
    down = [True]

    def decoder(value: bytes | None) -> dict[str, Any]:
        if down and (value or b"").startswith(b"n"):
            raise RegistryUnavailable("no answer.")
        return decode(value)

    bench.decoder.decode = decoder
    bench.turns()
    assert bench.effects == ["a1", "b1", "c1"]
    assert (bench.offset(), bench.note().done) == (1, ((2, 3), (4, 5)))
    down.clear()
    bench.turns(1_000)
    assert bench.effects == ["a1", "b1", "c1", "n1", "n2"]
    assert bench.stage.failures[FailureKind.UNAVAILABLE] >= 2
    assert (bench.offset(), bench.broker.letters()) == (5, [])


def test_letter_tells_when_its_record_failed_first_and_when_at_last() -> None:
    bench = Bench("a1", policy=RetryPolicy(attempts=3, backoff_s=2, tiers=()))
    bench.fails["a1"] = [RuntimeError("no")] * 3
    bench.until(lambda: bool(bench.broker.letters()))
    [letter] = bench.broker.letters()
    assert letter["attempts"] == 3
    assert (letter["failed_at"] - letter["first_failed_at"]).total_seconds() >= 2


def test_record_that_failed_in_place_before_it_was_parked_keeps_the_time_of_its_first_failure() -> None:
    bench = Bench("a1", policy=RetryPolicy(attempts=2, backoff_s=2, tiers=(5.0,)))
    bench.fails["a1"] = [RuntimeError("no")] * 9
    bench.until(lambda: bool(bench.broker.letters()))
    [letter] = bench.broker.letters()
    assert (letter["failed_at"] - letter["first_failed_at"]).total_seconds() >= 6


def test_record_that_no_retry_topic_takes_is_a_letter_and_the_next_of_its_key_runs() -> None:
    bench = Bench("a1", "a2", policy=RetryPolicy(attempts=1, tiers=(5.0,)))
    bench.fails["a1"] = [RuntimeError("no")]
    publish = bench.publisher.publish

    def refuse(topic: str, key: bytes | None, value: bytes | None, **more: Any) -> None:
        if topic == FIRST:
            more["on_delivery"](Delivery(topic, 0, -1, key, TooLarge("MSG_SIZE_TOO_LARGE")))
        else:
            publish(topic, key, value, **more)

    bench.publisher.publish = refuse  # type: ignore[method-assign, assignment]
    bench.until(lambda: bench.effects == ["a2"] and bool(bench.broker.letters()))
    [letter] = bench.broker.letters()
    assert (letter["reason"], letter["source_offset"]) == ("retries_exhausted", 0)
    bench.until(lambda: bench.broker.commits[P0].offset == 2)


def parked(place: Journey, key: bytes = b"a", value: bytes = b"a9") -> tuple[bytes, bytes, Headers]:
    return key, value, place.headers(())


@pytest.mark.parametrize(
    "place",
    [
        Journey(TOPIC, 0, 2**62, 5),
        Journey(TOPIC, 0, 3, 5),
        Journey(TOPIC, 0, -1, 5),
        Journey(TOPIC, 1, 1, 5),
        Journey("payments.v1", 0, 1, 5),
        Journey(FIRST, 0, 1, 5),
    ],
)
def test_place_that_cannot_be_is_not_believed(place: Journey) -> None:
    bench = Bench("a1", "a2", "a3")
    bench.until(lambda: len(bench.effects) == 3)
    forged = bench.broker.write(F0, *parked(place))
    bench.until(lambda: "a9" in bench.effects)
    seen = bench.records[-1]
    assert (seen.topic, seen.partition, seen.offset, seen.timestamp_ms) == (*F0, forged.offset, forged.timestamp_ms)


def test_place_below_the_end_of_the_source_is_believed_also_where_it_was_not_read_yet() -> None:
    bench = Bench()
    bench.broker.write(F0, *parked(Journey(TOPIC, 0, 2, 5)))
    bench.stop()
    bench.write("a1", "a2", "a3")
    bench.start()
    bench.until(lambda: "a9" in bench.effects)
    seen = next(record for record in bench.records if record.value == b"a9")
    assert (seen.topic, seen.partition, seen.offset, seen.timestamp_ms) == (TOPIC, 0, 2, 5)


def test_retry_topics_wait_while_the_broker_does_not_say_how_far_the_source_goes() -> None:
    bench = Bench("a1")
    bench.until(lambda: bench.effects == ["a1"])
    bench.write("b1", "b2")
    bench.until(lambda: len(bench.effects) == 3)
    bounds, asked = bench.broker.bounds, []

    def away(partitions: Any) -> Any:
        asked.append(bench.clock.now)
        raise BrokerUnavailable("away")

    bench.broker.bounds = away  # type: ignore[method-assign]
    bench.broker.write(F0, *parked(Journey(TOPIC, 0, 1, 5)))
    bench.turns(200)
    assert "a9" not in bench.effects
    assert 1 <= len(asked) < 100, "with back-off"
    bench.broker.bounds = bounds  # type: ignore[method-assign]
    bench.until(lambda: "a9" in bench.effects)


def test_bug_that_stopped_three_workers_becomes_a_letter_that_tells_it_and_the_rest_is_handled() -> None:
    bench = mortal("a1", "x1", "b1")
    bench.fails = {"x1": [AttributeError(f"of None, {n}") for n in range(3)]}
    for _ in range(2):
        bench.start()
        turns = iter(range(2_000))
        with pytest.raises(HandlerFailed, match=r"@ 1: AttributeError"):
            bench.stage.run(lambda turns=turns: next(turns, None) is None)
        bench.kill()
    bench.start()
    bench.turns()
    [letter] = bench.broker.letters()
    assert (letter["value"], letter["reason"], letter["error_class"]) == (b"x1", "crash_loop", "AttributeError")
    assert letter["error"] == "the worker stopped 3 times at this record, at last: of None, 2"
    assert bench.offset() == 3
    assert set(bench.effects) == {"a1", "b1"}
