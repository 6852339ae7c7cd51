"""What a redrive decides: which letters are meant, what is republished, how far a partition is done."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.connect_letter import connect_envelope
from pipeline.core.dead_letter import Letter, Worker
from pipeline.core.failures import Failure, FailureKind
from pipeline.core.record import Record
from pipeline.core.redrive import (
    LetterId,
    Original,
    Watermarks,
    digest_of,
    letter_id,
    merge_patch,
    original,
    selection,
)
from pipeline.errors import Refused

RECORD = Record("orders.v1", 3, 42, b"A-1", b"raw", (("n", None), ("redrive-count", b"2")), 1_700_000_000_123)
FAILURE = Failure(FailureKind.REJECTED, "pipeline.errors.Reject", "amount 0")
LETTER = Letter(RECORD, FAILURE, Worker("workers", "one"), 1_700_000_001_000, schema_id=7)
CONNECT = (
    ("__connect.errors.topic", b"orders.v1"),
    ("__connect.errors.partition", b"3"),
    ("__connect.errors.offset", b"42"),
    ("__connect.errors.stage", b"TASK_PUT"),
    ("__connect.errors.connector.name", b"sink"),
)


@pytest.mark.parametrize(
    ("given_options", "meant"),
    [
        ({}, True),
        ({"reason": "rejected", "key": "A-1", "schema_id": 7}, True),
        ({"reason": "invalid"}, False),
        ({"key": "A-2"}, False),
        ({"schema_id": 8}, False),
        ({"ids": ["1:5"]}, True),
        ({"ids": ["1:6"]}, False),
        ({"since": "2023-11-14T22:13:21Z"}, True),
        ({"until": "2023-11-14T22:13:21Z"}, False),
        ({"since": "2023-11-14T23:13:21+01:00", "until": "2023-11-14T22:13:22Z"}, True),
        ({"source": "orders.v1"}, True),
        ({"source": "orders.v1:3:42-42"}, True),
        ({"source": "orders.v1:3:43-50"}, False),
        ({"source": "orders.v1:2"}, False),
        ({"source": "other"}, False),
        ({"group": "workers"}, True),
        ({"group": "others"}, False),
        ({"error_class": "pipeline.errors.Reject"}, True),
        ({"error_class": "Reject"}, False),
        ({"error_contains": "amount"}, True),
        ({"error_contains": "Amount"}, False),
        ({"key": "hex:412d31"}, True),
        ({"key": "hex:412D31"}, True),
        ({"key": "null:"}, False),
    ],
)
def test_letter_is_meant_when_it_meets_everything_that_is_given(given_options: dict[str, Any], meant: bool) -> None:
    assert selection(**given_options).matches(LetterId(1, 5), "rejected", "A-1", LETTER.envelope()) is meant


def test_letter_that_cannot_be_read_has_no_source_time_or_schema() -> None:
    assert selection(reason="unreadable").matches(LetterId(0, 1), "unreadable", None, None)
    assert not selection(source="orders.v1").matches(LetterId(0, 1), "unreadable", None, None)


@pytest.mark.parametrize(
    "options",
    [
        {"ids": ["5"]}, {"ids": ["-1:5"]}, {"since": "yesterday"}, {"until": "2026-01-01T00:00:00"},
        {"source": "a:b"}, {"source": "a:1:2"}, {"source": ""}, {"source": "a:" + "1" * 5000}, {"ids": ["1" * 5000 + ":1"]},
        {"ids": ["1:" + "1" * 5000]}, {"key": "hex:4"}, {"key": "hex:zz"},
    ],
)  # fmt: skip
def test_malformed_selection_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        selection(**options)


def test_original_comes_out_of_the_envelope_as_it_was() -> None:
    it = original(LETTER.envelope())
    assert it == Original("orders.v1", 3, b"A-1", b"raw", RECORD.headers, RECORD.timestamp_ms)
    assert it.counted(3) == (("n", None), ("redrive-count", b"3"))


REDRIVEN = {(digest_of("t", b"k", None), 2)}


@pytest.mark.parametrize("value", [None, b"", b"-1", b"many", b"9" * 5000, "٣".encode(), b"1", b"3"])
def test_redrive_count_that_the_ledger_does_not_know_counts_nothing(value: bytes | None) -> None:
    assert Original("t", 0, b"k", None, (("redrive-count", value),), None).redrives(REDRIVEN) == 0


@pytest.mark.parametrize(
    ("topic", "key", "value"), [("t", b"k", b""), ("t", None, b"k"), ("tk", b"", None), ("u", b"k", None)]
)
def test_redrive_count_of_another_record_counts_nothing(topic: str, key: bytes | None, value: bytes | None) -> None:
    assert Original(topic, 0, key, value, (("redrive-count", b"2"),), None).redrives(REDRIVEN) == 0


def test_redrive_count_that_the_ledger_has_of_the_record_counts() -> None:
    it = Original("t", 0, b"k", None, (("redrive-count", b"2"),), None)
    assert it.redrives(REDRIVEN) == 2


def test_redrive_count_does_not_grow_into_many_headers() -> None:
    twice = Original("t", 0, None, None, (("redrive-count", b"1"), ("redrive-count", b"4")), None)
    assert twice.counted(1) == (("redrive-count", b"1"),)


@given(st.sets(st.tuples(st.integers(0, 2), st.integers(0, 20))), st.data())
def test_watermark_is_the_oldest_letter_that_is_still_due(due: set[tuple[int, int]], data: st.DataObject) -> None:
    ends = {0: 21, 1: 21, 2: 21}
    letters = [LetterId(*each) for each in data.draw(st.permutations(sorted(due)))]
    watermarks = Watermarks(ends, letters)
    for number, letter in enumerate(letters, 1):
        left = letters[number:]
        expected = {p: min((it.offset for it in left if it.partition == p), default=ends[p]) for p in ends}
        assert watermarks.after([letter]) == watermarks.after([letter]) == expected, "done only when confirmed"
        watermarks.confirm([letter])
        assert watermarks.after([]) == expected


@pytest.mark.parametrize(
    ("target", "patch", "merged"),
    [
        # The examples of RFC 7396, appendix A.
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch_is_that_of_the_rfc(target: Any, patch: Any, merged: Any) -> None:
    assert merge_patch(target, patch) == merged


def test_letter_of_kafka_connect_is_understood() -> None:
    it = connect_envelope(Record("dlq", 0, 9, b"k", b"v", (("mine", b"1"), *CONNECT), 1_700_000_000_000))
    assert it is not None
    assert original(it) == Original("orders.v1", 3, b"k", b"v", (("mine", b"1"),), 1_700_000_000_000)
    assert (it["reason"], it["consumer_group"]) == ("task_put", "connect-sink")
    assert it["failed_at"] == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)


def test_letter_of_ours_that_cannot_be_decoded_does_not_pass_for_connects() -> None:
    assert connect_envelope(Record("dlq", 3, 9, b"k", b"envelope", LETTER.headers())) is None


@pytest.mark.parametrize("number", [b"", b"x", b"-1", "٣".encode(), b"9" * 5000, b"2147483648", b"0" * 20])
def test_connect_letter_without_a_place_is_no_letter(number: bytes) -> None:
    headers = tuple((name, number if name.endswith("partition") else value) for name, value in CONNECT)
    assert connect_envelope(Record("dlq", 0, 9, None, b"v", headers)) is None


def test_letter_id_is_written_as_it_is_read() -> None:
    assert str(letter_id("3:42")) == "3:42"
