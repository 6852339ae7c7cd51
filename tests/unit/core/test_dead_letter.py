"""What a letter says."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.dead_letter import Letter, Worker
from pipeline.core.failures import ERROR_CHARACTERS_MAX, Failure, FailureKind, classify
from pipeline.core.record import Record
from pipeline.errors import (
    BrokerUnavailable,
    HandlerFailed,
    Invalid,
    RegistryUnavailable,
    Reject,
    Retry,
    SchemaUnknown,
    SinkRefused,
    SinkUnavailable,
    Undecodable,
)
from pipeline.serde.avro import AvroReader, AvroWriter

SCHEMA = json.loads((Path(__file__).parents[3] / "schemas/orders.dlq.v1-value/v1.avsc").read_text())
RECORD = Record("orders.v1", 3, 42, b"A-1", b"\x00raw", (("traceparent", b"00-1"), ("n", None)), 1_300_000_000_123)
FAILURE = Failure(FailureKind.REJECTED, "pipeline.errors.Reject", "amount 0 is not above zero")


def letter(record: Record = RECORD, failure: Failure = FAILURE) -> Letter:
    return Letter(record, failure, Worker("orders-workers", "one"), 1_700_000_000_000, schema_id=7)


def through_avro(it: Letter) -> dict[str, Any]:
    return AvroReader(SCHEMA, lambda schema_id: json.dumps(SCHEMA)).decode(AvroWriter(SCHEMA, 9).encode(it.envelope()))


def test_envelope_keeps_the_raw_record_and_its_history() -> None:
    assert set(letter().envelope()) == {field["name"] for field in SCHEMA["fields"]}
    read = through_avro(letter())
    assert (read["key"], read["value"]) == (b"A-1", b"\x00raw")
    assert read["headers"] == [{"name": "traceparent", "value": b"00-1"}, {"name": "n", "value": None}]
    assert (read["source_topic"], read["source_partition"], read["source_offset"]) == ("orders.v1", 3, 42)
    assert read["source_timestamp"].isoformat() == "2011-03-13T07:06:40.123000+00:00"
    assert (read["reason"], read["attempts"], read["schema_id"]) == ("rejected", 1, 7)


def test_tombstone_and_missing_key_are_kept_as_they_were() -> None:
    read = through_avro(letter(RECORD._replace(key=None, value=None, timestamp_ms=None)))
    assert (read["key"], read["value"], read["source_timestamp"]) == (None, None, None)


@pytest.mark.parametrize("timestamp_ms", [2**62, -(2**62)])
def test_timestamp_beyond_the_calendar_does_not_keep_a_letter_from_being_written(timestamp_ms: int) -> None:
    assert through_avro(letter(RECORD._replace(timestamp_ms=timestamp_ms)))["source_offset"] == 42


def test_headers_say_the_same_in_short_for_tools_that_read_no_avro() -> None:
    headers = dict(letter().headers())
    assert headers["traceparent"] == b"00-1"
    assert headers["source-topic"] == headers["__connect.errors.topic"] == b"orders.v1"
    assert headers["source-partition"] == headers["__connect.errors.partition"] == b"3"
    assert headers["source-offset"] == headers["__connect.errors.offset"] == b"42"
    assert headers["error"] == headers["__connect.errors.exception.message"] == b"amount 0 is not above zero"
    assert headers["__connect.errors.exception.class.name"] == b"pipeline.errors.Reject"


def test_forged_headers_are_replaced_in_the_letter_and_kept_in_the_envelope() -> None:
    names = ("source-topic", "__connect.errors.exception.stacktrace", "left-out", "original-value-sha256")
    forged = RECORD._replace(headers=tuple((name, b"forged") for name in names))
    headers = letter(forged).headers()
    assert [value for name, value in headers if name == "source-topic"] == [b"orders.v1"]
    assert b"forged" not in dict(headers).values()
    assert {each["name"] for each in through_avro(letter(forged))["headers"]} == set(names)


@pytest.mark.parametrize(
    "name",
    ["source", "source-topics", "source-id", "errors", "error-code", "__connect.errors.extra", "__connect.errors."],
)
def test_header_that_only_begins_like_ours_stays_in_the_letter(name: str) -> None:
    assert dict(letter(RECORD._replace(headers=((name, b"mine"),))).headers())[name] == b"mine"


def test_letter_that_does_not_fit_keeps_its_place_and_tells_size_and_digest_of_its_value() -> None:
    whole = letter(RECORD._replace(value=b"v" * 1000))
    smaller = whole.smaller()
    assert smaller is not None
    headers = dict(smaller.headers())
    assert (headers["left-out"], headers["original-value-bytes"]) == (b"value", b"1000")
    assert headers["original-value-sha256"] == hashlib.sha256(b"v" * 1000).hexdigest().encode()
    assert smaller.envelope() == {**whole.envelope(), "value": None}
    assert "left-out" not in dict(whole.headers())


def test_letter_whose_headers_or_key_do_not_fit_is_written_without_them() -> None:
    record = RECORD._replace(key=b"k" * 5000, headers=tuple(("n", b"x" * 100) for _ in range(1000)))
    value = letter(record).smaller()
    assert value is not None
    bare = value.smaller()
    assert bare is not None
    assert (bare.record.key, bare.record.headers) == (None, ())
    assert dict(bare.headers())["left-out"] == b"value, headers, key"
    assert dict(bare.headers())["original-value-bytes"] == b"4"
    assert bare.smaller() is None
    short = letter(RECORD).smaller()
    assert short is not None
    assert (rest := short.smaller()) is not None
    assert (rest.record.key, dict(rest.headers())["left-out"]) == (b"A-1", b"value, headers")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Undecodable("x"), FailureKind.UNDECODABLE),
        (SchemaUnknown("x"), FailureKind.SCHEMA_UNKNOWN),
        (Invalid("x"), FailureKind.INVALID),
        (Reject("x"), FailureKind.REJECTED),
        (SinkRefused("x"), FailureKind.REJECTED),
        (RegistryUnavailable("x"), FailureKind.UNAVAILABLE),
        (SinkUnavailable("x"), FailureKind.UNAVAILABLE),
        (BrokerUnavailable("x"), FailureKind.UNAVAILABLE),
        (KeyError("x"), FailureKind.TRANSIENT),
        (Retry("x"), FailureKind.TRANSIENT),
        (TypeError("x"), FailureKind.BUG),
        (HandlerFailed("x"), FailureKind.BUG),
        (SystemExit(), FailureKind.BUG),
    ],
)
def test_failure_is_told_by_the_errors_type(error: BaseException, kind: FailureKind) -> None:
    assert classify(error).kind is kind


def test_failure_names_the_cause_and_is_cut() -> None:
    error = Undecodable("x" * 5000)
    error.__cause__ = EOFError()
    assert classify(error).error_class == "EOFError"
    assert len(classify(error).message) == ERROR_CHARACTERS_MAX


def test_error_text_that_is_no_unicode_still_makes_a_letter() -> None:
    it = letter(failure=Failure(FailureKind.INVALID, "x", "bad \ud800"))
    assert through_avro(it)["error"] == "bad \\ud800"
    assert dict(it.headers())["error"] == b"bad \\ud800"
