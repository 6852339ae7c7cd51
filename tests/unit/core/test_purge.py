"""What a purge decides: which letters go, and up to which offset."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.purge import Cut, Lying, Rule, plan, rule
from pipeline.core.redrive import LetterId
from pipeline.errors import Refused

T0 = datetime(2026, 1, 1, tzinfo=UTC)
REDRIVEN = Rule()


def lying(offset: int, *, redriven: bool = False, partition: int = 0, day: int | None = 0) -> Lying:
    failed_at = None if day is None else T0 + timedelta(days=day)
    return Lying(LetterId(partition, offset), redriven, failed_at)


def before(day: int) -> Rule:
    return Rule(T0 + timedelta(days=day))


def test_redriven_letters_go_up_to_the_first_that_is_due() -> None:
    letters = [lying(3, redriven=True), lying(5, redriven=True), lying(8), lying(9, redriven=True)]
    assert plan(REDRIVEN, letters, {0: 10}) == [Cut(0, letters=2, due=0, stay=2, up_to=8, oldest=LetterId(0, 8))]


def test_partition_goes_up_to_its_end_where_no_letter_stays() -> None:
    """The end lies behind the markers of transactions that follow the last letter."""
    assert plan(REDRIVEN, [lying(3, redriven=True)], {0: 7}) == [Cut(0, letters=1, up_to=7)]


def test_partition_whose_oldest_letter_stays_is_left_alone() -> None:
    letters = [lying(0), lying(1, redriven=True)]
    assert plan(REDRIVEN, letters, {0: 2}) == [Cut(0, stay=2, oldest=LetterId(0, 0))]


def test_partition_without_letters_is_left_alone() -> None:
    assert plan(before(9), [], {1: 4, 0: 0}) == [Cut(0), Cut(1)]


def test_partitions_do_not_hold_each_other() -> None:
    letters = [lying(0), lying(0, redriven=True, partition=1), lying(1, redriven=True, partition=1)]
    assert plan(REDRIVEN, letters, {0: 1, 1: 2}) == [
        Cut(0, stay=1, oldest=LetterId(0, 0)),
        Cut(1, letters=2, up_to=2),
    ]


def test_letters_before_a_time_go_whether_due_or_not_and_the_due_ones_are_counted() -> None:
    letters = [lying(0, day=0), lying(1, day=1, redriven=True), lying(2, day=2), lying(3, day=3)]
    assert plan(before(3), letters, {0: 4}) == [Cut(0, letters=3, due=2, stay=1, up_to=3, oldest=LetterId(0, 3))]


def test_letter_that_failed_at_that_very_time_stays() -> None:
    assert plan(before(1), [lying(0, day=1)], {0: 1})[0].letters == 0


def test_letter_of_which_nothing_tells_when_it_failed_stays() -> None:
    assert plan(before(9), [lying(0), lying(1, day=None), lying(2)], {0: 3})[0].up_to == 1


LETTERS = st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.integers(0, 4)), max_size=30)


@given(LETTERS, st.sampled_from([REDRIVEN, before(2), before(9)]))
def test_what_lies_below_the_cut_is_allowed_and_the_next_letter_is_not(
    drawn: list[tuple[int, bool, int]], chosen: Rule
) -> None:
    letters = [
        lying(2 * offset, redriven=redriven, partition=partition, day=day)
        for offset, (partition, redriven, day) in enumerate(drawn)
    ]
    for cut in plan(chosen, letters, dict.fromkeys(range(3), 60)):
        there = [it for it in letters if it.id.partition == cut.partition]
        gone = [it for it in there if it.id.offset < (cut.up_to or 0)]
        assert all(map(chosen.allows, gone))
        assert (cut.letters, cut.stay) == (len(gone), len(there) - len(gone))
        assert cut.due == sum(not it.redriven for it in gone)
        rest = there[len(gone) :]
        assert cut.oldest == (rest[0].id if rest else None)
        assert not rest or not chosen.allows(rest[0])
        assert (cut.up_to is None) == (not gone)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "Which letters"),
        ({"redriven": True, "before": "2026-01-01T00:00:00Z"}, "Which letters"),
        ({"including_due": True}, "Which letters"),
        ({"redriven": True, "including_due": True}, "goes with --before"),
        ({"before": "2026-01-01T00:00:00"}, "with a zone"),
        ({"before": "yesterday"}, "with a zone"),
    ],
)
def test_selection_that_is_not_exactly_one_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(Refused, match=says):
        rule(**{"redriven": False, "before": None, "including_due": False} | options)


def test_time_is_that_of_its_zone() -> None:
    assert rule(redriven=False, before="2026-01-01T01:00:00+01:00", including_due=True) == before(0)
    assert rule(redriven=True, before=None, including_due=False) == REDRIVEN
