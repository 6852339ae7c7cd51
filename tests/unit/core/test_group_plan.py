import pytest

from pipeline.core.group_plan import Move, Standing, Target, chosen, parse_target, plan, standing
from pipeline.core.record import Record, TopicPartition
from pipeline.errors import Refused

P0, P1 = TopicPartition("orders.v1", 0), TopicPartition("orders.v1", 1)


def record(offset, timestamp_ms):
    return Record("orders.v1", 0, offset, b"k", b"v", timestamp_ms=timestamp_ms)


def test_lag_counts_from_the_oldest_record_left_not_from_the_marker_before_it():
    assert standing(P0, 5, 10, record(7, 1_000), 4_500) == Standing(P0, 5, 10, 3, 3.5)


def test_no_record_left_is_no_lag_though_offsets_are_left():
    assert standing(P0, 5, 10, None, 4_500) == Standing(P0, 5, 10, 0, 0.0)


def test_record_that_came_after_the_end_was_asked_for_does_not_count():
    assert standing(P0, 5, 10, record(10, 1_000), 4_500) == Standing(P0, 5, 10, 0, 0.0)


def test_record_from_the_future_is_never_behind_by_less_than_nothing():
    assert standing(P0, 5, 10, record(9, 9_000), 4_500).behind_s == 0


def test_record_without_a_time_is_lag_of_unknown_age():
    it = standing(P0, None, 10, record(0, None), 4_500)
    assert (it.lag, it.behind_s) == (10, None)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("earliest", Target(where="earliest")),
        ("latest", Target(where="latest")),
        ("0", Target(offset=0)),
        ("20260101", Target(offset=20_260_101)),
        ("1970-01-01T00:00:01Z", Target(time_ms=1_000)),
        ("1970-01-01T01:00:01+01:00", Target(time_ms=1_000)),
        ("1970-01-01T00:00:01.0001Z", Target(time_ms=1_001)),
        ("1969-12-31T00:00:00Z", Target(time_ms=0)),
        ("9999-12-31T23:59:59-12:00", Target(time_ms=253_402_343_999_000)),
    ],
)
def test_target_is_an_end_an_offset_or_a_time(text, target):
    assert parse_target(text) == target


@pytest.mark.parametrize("text", ["", "-1", "-2", "+3", "1e3", "٣", "now", "Earliest", "2026-13-01T00:00:00Z", "8:00"])
def test_target_that_is_none_of_them_is_refused(text):
    with pytest.raises(Refused, match="is no place in a topic"):
        parse_target(text)


@pytest.mark.parametrize("text", ["2026-01-31T08:00:00", "2026-01-31"])
def test_time_without_a_zone_is_refused(text):
    with pytest.raises(Refused, match="names no zone"):
        parse_target(text)


def test_plan_says_where_each_partition_is_and_goes():
    moves = plan({P1: 4, P0: 0}, {P1: 9}, {P0: 0, P1: 4}, {P0: 0, P1: 9})
    assert moves == [Move(P0, None, 0), Move(P1, 9, 4)]


@pytest.mark.parametrize("offset", [3, 10])
def test_offset_beyond_the_ends_of_one_partition_is_refused_with_its_ends(offset):
    with pytest.raises(Refused, match=rf"Offset {offset} is beyond the ends: orders.v1 \[1\] holds 4 to 9"):
        plan({P0: offset, P1: offset}, {}, {P0: 0, P1: 4}, {P0: 99, P1: 9})


def test_partitions_are_all_unless_named():
    assert chosen("orders.v1", [P1, P0], []) == [P0, P1]
    assert chosen("orders.v1", [P1, P0], [1, 1]) == [P1]


def test_partition_that_is_not_there_is_refused():
    with pytest.raises(Refused, match=r"orders.v1 has no partition -1, 2, only 0 to 1"):
        chosen("orders.v1", [P0, P1], [2, -1, 0])
