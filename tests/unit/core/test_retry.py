"""When and where a failed record is tried again, and what travels with it."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.core import retry
from pipeline.core.dead_letter import Letter, Worker
from pipeline.core.failures import Failure, FailureKind
from pipeline.core.record import Record
from pipeline.core.retry import (
    ERROR_CHARACTERS_MAX,
    PREFIX,
    GiveUp,
    InPlace,
    Journey,
    NotRead,
    Park,
    Reading,
    RetryPolicy,
    duration,
    failed,
    first_tier,
    journey,
    original,
    own_headers,
    short,
    tier_that_is_read,
    topic_name,
)
from pipeline.serde.avro import AvroWriter

LETTERS = AvroWriter(json.loads((Path(__file__).parents[3] / "schemas/orders.dlq.v1-value/v1.avsc").read_text()), 1)
POLICY = RetryPolicy(attempts=3, backoff_s=0.2, backoff_max_s=5.0, tiers=(5.0, 60.0, 600.0))
OFTEN = Failure(FailureKind.TRANSIENT, "KeyError", "no such thing")
PARKED = Record("orders.v1.g.retry-5s", 3, 9, b"A-1", b"raw", (), 1_700_000_005_000)


@pytest.mark.parametrize(
    ("tier", "failures", "after", "decision"),
    [
        (0, 1, None, InPlace(0.2)),
        (0, 2, None, InPlace(0.4)),
        (0, 3, None, Park(1)),
        (1, 4, None, Park(2)),
        (2, 5, None, Park(3)),
        (3, 6, None, GiveUp()),
        (1, 1, None, InPlace(0.2)),
        (2, 2, None, InPlace(0.4)),
        (3, 1, None, InPlace(0.2)),
        (3, 5, None, InPlace(3.2)),
        (0, 1, 3.0, InPlace(3.0)),
        (0, 1, 0.0, InPlace(0.2)),
        (0, 1, 5.5, Park(2)),
        (0, 3, 3.0, Park(1)),
        (0, 1, 61.0, Park(3)),
        (0, 1, 1e9, Park(3)),
        (1, 1, 1e9, Park(3)),
        (2, 3, 1.0, Park(3)),
        (3, 5, 1e9, InPlace(600.0)),
        (3, 6, 1.0, GiveUp()),
    ],
)
def test_what_is_done_with_a_record_that_failed(tier: int, failures: int, after: float | None, decision: Any) -> None:
    assert POLICY.decide(tier, failures, 0.0, after) == decision


@pytest.mark.parametrize(("failures", "decision"), [(1, InPlace(0.2)), (2, GiveUp())])
def test_without_retry_topics_it_is_given_up_after_its_tries_in_place(failures: int, decision: Any) -> None:
    assert RetryPolicy(attempts=2, tiers=()).decide(0, failures, 0.0) == decision


@given(
    attempts=st.integers(1, 6),
    tiers=st.lists(st.floats(1, 10**6), max_size=4, unique=True).map(sorted).map(tuple),
    jitter=st.floats(0, 1, exclude_max=True),
    after=st.none() | st.floats(0, 10**9),
)
def test_every_record_that_keeps_failing_is_given_up_and_waits_no_shorter_than_asked(
    attempts: int,
    tiers: tuple[float, ...],
    jitter: float,
    after: float | None,
) -> None:
    policy = RetryPolicy(attempts, 0.2, 5.0, tiers)
    tier, tries = 0, 0
    longest = max(5.0, *tiers, 0.0)
    while True:
        tries += 1
        decision = policy.decide(tier, tries, jitter, after)
        if isinstance(decision, GiveUp):
            break
        if isinstance(decision, InPlace):
            assert min(max(0.1, after or 0.0), longest) <= decision.delay_s <= longest
        else:
            assert decision.tier > tier, "never to a tier that it was in"
            assert tiers[decision.tier - 1] >= min(after or 0.0, tiers[-1])
            tier = decision.tier
    assert tries == attempts + len(tiers)


HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["n", "retry", *(PREFIX + name for name in ("topic", "partition", "offset", "attempts"))])
        | st.sampled_from([PREFIX + name for name in ("due-at", "timestamp", "first-failed-at", "x")]),
        st.none()
        | st.binary(max_size=6)
        | st.sampled_from([b"7", b"-7", b"9999999999999999999", b"2147483648", "٧".encode(), b"1e3", b" 7", b""]),
    ),
    max_size=12,
).map(tuple)
NUMBERS = st.integers(0, 2**63 - 1)


@given(
    headers=HEADERS,
    it=st.builds(
        Journey,
        topic=st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
        partition=st.integers(0, 2**31 - 1),
        offset=NUMBERS,
        timestamp_ms=st.none() | NUMBERS,
        attempts=st.integers(0, 10**6),
        first_failed_ms=st.none() | NUMBERS,
        due_ms=NUMBERS,
        failure=st.none()
        | st.builds(Failure, st.sampled_from(FailureKind), st.text(max_size=9), st.text(max_size=400)),
    ),
)
def test_journey_is_read_back_as_it_was_written_whatever_stood_there(headers: Any, it: Journey) -> None:
    written = it.headers(headers)
    read = journey(PARKED._replace(headers=written))
    assert read == Journey(
        it.topic, it.partition, it.offset, it.timestamp_ms, it.attempts, it.first_failed_ms, it.due_ms
    )
    assert own_headers(written) == own_headers(headers) == tuple(h for h in headers if h[0] not in retry.HEADERS)
    assert it.headers(written) == written, "replaced at every hop, never added to"
    assert all(len(content or b"") <= 4 * ERROR_CHARACTERS_MAX * 3 for _, content in written)


@given(headers=HEADERS)
@example(headers=((PREFIX + "topic", b"t"), (PREFIX + "partition", b"2147483648"), (PREFIX + "offset", b"1")))
@example(headers=((PREFIX + "topic", b"t"), (PREFIX + "partition", b"1"), (PREFIX + "offset", b"9999999999999999999")))
@example(headers=((PREFIX + "attempts", b"9999999999999999999"),))
@example(headers=((PREFIX + "attempts", b"2147483647"),))
@settings(max_examples=300)
def test_record_with_any_headers_can_be_read_from_a_retry_topic_and_be_given_up(headers: Any) -> None:
    record = PARKED._replace(headers=headers)
    seen = original(record, journey(record))
    assert (seen.key, seen.value) == (record.key, record.value)
    assert seen.attempt >= 1
    assert not [name for name, _ in seen.headers if name in retry.HEADERS]
    assert seen.headers == tuple(each for each in headers if each[0] not in retry.HEADERS)
    letter = Letter(seen, OFTEN, Worker("g", "one"), 1_700_000_000_000, None, journey(record).first_failed_ms)
    assert LETTERS.encode(letter.envelope())


def test_record_without_a_journey_came_from_where_it_lies() -> None:
    record = PARKED._replace(headers=(("n", b"1"),))
    assert journey(record) == Journey(record.topic, 3, 9, record.timestamp_ms)
    assert original(record, journey(record)) == record


def test_handler_sees_the_record_where_it_was_first() -> None:
    its = Journey("orders.v1", 3, 42, 1_700_000_000_123, attempts=3, first_failed_ms=1, due_ms=2, failure=OFTEN)
    record = PARKED._replace(headers=its.headers((("n", None), ("n", b"2"))))
    assert original(record, journey(record)) == Record(
        "orders.v1", 3, 42, b"A-1", b"raw", (("n", None), ("n", b"2")), 1_700_000_000_123, attempt=4
    )


def test_first_failure_is_remembered_and_following_is_no_failure() -> None:
    its = Journey("orders.v1", 3, 42, None)
    followed = failed(its, None, now_ms=10, due_ms=10, attempts=0)
    assert (followed.first_failed_ms, followed.failure) == (None, None)
    once = failed(followed, OFTEN, now_ms=20, due_ms=25, attempts=1)
    again = failed(once, Failure(FailureKind.TRANSIENT, "OSError", "x"), now_ms=30, due_ms=90, attempts=2)
    assert (again.first_failed_ms, again.due_ms, again.attempts) == (20, 90, 2)
    assert failed(again, None, 40, 40, 2).failure == again.failure


def test_errors_text_is_cut_before_it_travels() -> None:
    its = Journey("t", 0, 0, None, failure=Failure(FailureKind.TRANSIENT, "E", "x" * 1_000))
    assert dict(its.headers(()))["retry-error"] == b"x" * ERROR_CHARACTERS_MAX


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5s"), (60, "1m"), (90, "90s"), (600, "10m"), (7200, "2h"), (86_400, "1d")]
)
def test_delay_is_said_in_the_largest_unit_that_divides_it(seconds: int, text: str) -> None:
    assert short(seconds) == text
    assert duration(text) == seconds
    assert topic_name("orders.v1", "g", seconds) == f"orders.v1.g.retry-{text}"


@pytest.mark.parametrize("text", ["", "5", "s", "5 s", "-5s", "5.5s", "5w", "1234567s", "٥s5"])
def test_what_is_no_delay_is_told_apart(text: str) -> None:
    assert duration(text) is None


def test_first_tier_is_the_shortest_of_the_groups_own() -> None:
    topics = [
        "orders.v1",
        *(f"orders.v1.{rest}" for rest in ("g.retry-10m", "g.retry-1m", "other.retry-5s", "g.retry-x")),
    ]
    assert first_tier("orders.v1", "g", topics) == "orders.v1.g.retry-1m"
    assert first_tier("orders.v1", "nobody", topics) is None


SOURCE, GROUP = "orders.v1", "g"


def topics_of(*tiers: str) -> set[str]:
    return {SOURCE, *(f"{SOURCE}.{GROUP}.retry-{tier}" for tier in tiers)}


@pytest.mark.parametrize(
    ("existing", "assigned", "committed", "delays", "found"),
    [
        (("5s", "1m"), ("5s", "1m"), (), (5, 60), "5s"),
        (("5s", "1m", "30s", "5m"), ("30s", "5m"), ("5s", "1m", "30s", "5m"), (5, 60), "30s"),
        (("5s", "1m", "30s", "5m"), None, ("5s", "1m", "30s", "5m"), (30, 300), "30s"),
        (("5s", "1m", "30s", "5m"), None, ("5s", "1m", "30s", "5m"), (5, 60, 600), None),
        (("5s", "1m", "10m"), None, ("5s", "1m"), (5, 60, 600), None),
        (("5s", "1m"), (), ("5s", "1m"), (5, 60), None),
        (("5s", "1m"), None, ("5s", "1m"), (), None),
        ((), None, (), (5, 60), None),
    ],
)
def test_retry_topic_that_is_there_is_used_only_where_the_group_reads_it(
    existing: tuple[str, ...],
    assigned: tuple[str, ...] | None,
    committed: tuple[str, ...],
    delays: tuple[float, ...],
    found: str | None,
) -> None:
    now = set() if assigned is None else topics_of(*assigned)
    it = tier_that_is_read(SOURCE, GROUP, Reading(topics_of(*existing), now, topics_of(*committed), delays))
    if found is None:
        assert isinstance(it, NotRead)
        assert "group g" in it
    else:
        assert it == f"{SOURCE}.{GROUP}.retry-{found}"
        assert not isinstance(it, NotRead)


@pytest.mark.parametrize(
    "name", ["retry-count", "retry", "retry-", "retry-topics", "retry-error-code", "Retry-Topic", "x-retry-topic"]
)
def test_header_that_only_begins_like_ours_stays_on_every_way(name: str) -> None:
    its = Journey("orders.v1", 3, 1, 2)
    once = its.headers(((name, b"mine"),))
    twice = journey(PARKED._replace(headers=once)).headers(once)
    for headers in (once, twice, own_headers(twice), original(PARKED._replace(headers=twice), its).headers):
        assert [value for each, value in headers if each == name] == [b"mine"]


def test_closed_tier_takes_nothing_new_and_what_lies_there_goes_on_to_open_ones() -> None:
    policy = RetryPolicy(attempts=1, tiers=(5.0, 30.0, 60.0, 600.0), closed=frozenset({1, 3}))
    assert policy.decide(0, 1, 0.0) == Park(2)
    assert policy.decide(2, 2, 0.0) == Park(4)
    assert policy.decide(1, 2, 0.0) == Park(2)
    assert policy.decide(3, 2, 0.0, 3600.0) == Park(4)
    assert policy.decide(4, 3, 0.0) == GiveUp()
    last = RetryPolicy(attempts=2, tiers=(5.0,), closed=frozenset({1}))
    assert [last.decide(0, tries, 0.0) for tries in (1, 2)] == [InPlace(0.2), GiveUp()]
    assert last.decide(1, 3, 0.0) == GiveUp(), "it had its tries already"
