"""A run that ends: at the end of the topic, or once all that it read there is settled, through retry topics too."""

import pytest

from pipeline import telemetry
from pipeline.core.record import TopicPartition
from pipeline.core.retry import RetryPolicy
from pipeline.stages.consume import Totals
from tests.stages.test_retries import F0, P0, S0, Bench, mortal

ENDS = {P0: 3, F0: -1, S0: -1}


def ran(bench: Bench, until: dict[TopicPartition, int] | None = None, **changes: bool) -> Totals:
    """A worker that runs to its end by itself."""
    bench.start(until=until or ENDS, **changes)
    turns = [0]

    def tick() -> None:
        turns[0] += 1
        assert turns[0] < 20_000, "it does not end"

    return bench.stage.run(lambda: False, tick)


def test_run_until_the_end_leaves_what_waits_in_retry_topics_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    bench = mortal("a1", "b1", "c1", "d1")
    bench.fails = {"a1": [OSError("no")] * 2}
    totals = ran(bench)
    assert (bench.effects, totals.parked) == (["b1", "c1"], 1)
    assert telemetry.waiting(bench.stage, once=True) == "; 1 wait in retry topics"
    assert "--until-settled" in caplog.text
    assert telemetry.waiting(bench.stage, once=False) == ""


def test_run_until_all_is_settled_waits_for_retry_topics_and_reads_no_further() -> None:
    bench = mortal("a1", "b1", "c1", "d1")
    bench.fails = {"a1": [OSError("no")] * 3, "b1": [OSError("no")] * 9}
    totals = ran(bench, settle=True)
    assert set(bench.effects) == {"a1", "c1"}
    assert [letter["value"] for letter in bench.broker.letters()] == [b"b1"]
    assert totals.consumed == totals.handled + totals.dead_lettered + totals.parked
    assert bench.offset() == 3, "d1 came after the start"
    assert (bench.offset(F0), bench.offset(S0)) == (2, 2)
    assert telemetry.waiting(bench.stage, once=True) == ""


def test_record_without_a_key_is_waited_for_too() -> None:
    bench = mortal("a1", "b1")
    bench.broker.write(P0, None, b"n1")
    bench.fails = {"n1": [OSError("no")] * 2}
    ran(bench, settle=True)
    assert bench.effects == ["a1", "b1", "n1"]


def test_what_another_member_sent_to_a_retry_topic_is_waited_for() -> None:
    bench = mortal("a1", "b1", "c1")
    bench.fails = {"a1": [OSError("no")] * 2}
    ran(bench)
    bench.broker.bury(bench.member)
    # A broker says where an empty partition ends; this one does not.
    ran(bench, dict.fromkeys(ENDS, -1), settle=True)
    assert bench.effects == ["b1", "c1", "a1"]


def test_run_until_all_is_settled_ends_at_once_where_nothing_failed() -> None:
    bench = mortal("a1", "b1", "c1", policy=RetryPolicy(attempts=1, tiers=()))
    bench.start(until={P0: 3}, settle=True)
    bench.stage.run(lambda: False)
    assert bench.effects == ["a1", "b1", "c1"]
