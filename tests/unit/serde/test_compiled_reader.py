"""Bytes that fastavro takes or dies of, refused before it sees them; and every good datum let through."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from io import BytesIO
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import Undecodable
from pipeline.serde.compiled_reader import compile_read, compile_run, compile_scan
from pipeline.serde.fastavro_schema import for_fastavro


def record(**fields: Any) -> dict[str, Any]:
    return {"type": "record", "name": "R", "fields": [{"name": name, "type": kind} for name, kind in fields.items()]}


INNER = {"type": "record", "name": "Inner", "fields": [{"name": "x", "type": "int"}]}
EVERYTHING = record(
    text="string",
    raw="bytes",
    small="int",
    big="long",
    flag="boolean",
    single="float",
    double="double",
    maybe=["null", "string", INNER],
    kind={"type": "enum", "name": "Kind", "symbols": ["a", "b", "c"]},
    code={"type": "fixed", "name": "Code", "size": 3},
    items={"type": "array", "items": ["null", "long"]},
    inners={"type": "array", "items": "Inner"},
    named={"type": "map", "values": {"type": "array", "items": "string"}},
)
data = st.fixed_dictionaries(
    {
        "text": st.text(max_size=200),
        "raw": st.binary(max_size=200),
        "small": st.integers(-(2**31), 2**31 - 1),
        "big": st.integers(-(2**63), 2**63 - 1),
        "flag": st.booleans(),
        "single": st.floats(width=32, allow_nan=False),
        "double": st.floats(allow_nan=False),
        "maybe": st.one_of(st.none(), st.text(max_size=5), st.fixed_dictionaries({"x": st.integers(-9, 9)})),
        "kind": st.sampled_from("abc"),
        "code": st.binary(min_size=3, max_size=3),
        "items": st.lists(st.one_of(st.none(), st.integers(-100, 100)), max_size=5),
        "inners": st.lists(st.fixed_dictionaries({"x": st.integers(-9, 9)}), max_size=3),
        "named": st.dictionaries(st.text(max_size=4), st.lists(st.text(max_size=3), max_size=3), max_size=4),
    }
)
PARSED, SCAN, READ = for_fastavro(EVERYTHING), compile_scan(EVERYTHING), compile_read(EVERYTHING)
READ_RUN, FRAME = compile_run(EVERYTHING), b"\0\0\0\0\7"
MOMENTS = st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-7))])).filter(
    lambda at: 1 < at.year < 9999
)
LOGICAL = record(
    money={"type": "bytes", "logicalType": "decimal", "precision": 18, "scale": 2},
    fixed_money={"type": "fixed", "name": "M", "size": 9, "logicalType": "decimal", "precision": 18, "scale": 2},
    whole={"type": "bytes", "logicalType": "decimal", "precision": 30},
    millis={"type": "long", "logicalType": "timestamp-millis"},
    micros={"type": "long", "logicalType": "timestamp-micros"},
    local={"type": "long", "logicalType": "local-timestamp-millis"},
    day={"type": "int", "logicalType": "date"},
    hour={"type": "int", "logicalType": "time-millis"},
    fine={"type": "long", "logicalType": "time-micros"},
    nanos={"type": "long", "logicalType": "timestamp-nanos"},
    id={"type": "string", "logicalType": "uuid"},
)
MILLIS = record(at={"type": "long", "logicalType": "timestamp-millis"})
READ_MILLIS = compile_read(MILLIS)


def written(datum: Any, schema: Any = None) -> bytes:
    out = BytesIO()
    fastavro.schemaless_writer(out, schema or PARSED, datum)
    return out.getvalue()


@given(datum=data)
def test_whatever_fastavro_writes_passes(datum: dict[str, Any]) -> None:
    SCAN(b"frame" + written(datum), 5)


@given(datum=data)
def test_what_is_read_is_what_fastavro_reads(datum: dict[str, Any]) -> None:
    value = written(datum)
    assert READ(b"frame" + value, 5) == fastavro.schemaless_reader(BytesIO(value), PARSED, None)


@given(
    datum=st.fixed_dictionaries(
        {
            "money": st.integers(-(10**18) + 1, 10**18 - 1).map(lambda pence: Decimal(pence).scaleb(-2)),
            "fixed_money": st.integers(-(10**18) + 1, 10**18 - 1).map(lambda pence: Decimal(pence).scaleb(-2)),
            "whole": st.integers(-(10**30) + 1, 10**30 - 1).map(Decimal),
            "millis": MOMENTS,
            "micros": MOMENTS,
            "local": st.integers(-(10**13), 10**13),
            "day": st.dates(),
            "hour": st.times(),
            "fine": st.times(),
            "nanos": st.integers(-(2**63), 2**63 - 1),
            "id": st.uuids(),
        }
    )
)
def test_numbers_and_times_are_read_as_fastavro_reads_them(datum: dict[str, Any]) -> None:
    parsed = for_fastavro(LOGICAL)
    value = written(datum, parsed)
    found = compile_read(LOGICAL)(value, 0)
    told = fastavro.schemaless_reader(BytesIO(value), parsed, None)
    assert found == told
    assert list(map(repr, found.values())) == list(map(repr, told.values())), "also their exponents and zones"


@given(millis=st.integers(-62_135_596_800_000, 253_402_300_799_999) | st.integers(0, 2**42 + 10**6))
@settings(max_examples=2000)
def test_every_millisecond_of_the_years_1_to_9999_is_that_millisecond(millis: int) -> None:
    value = written({"at": millis}, for_fastavro(MILLIS))
    assert READ_MILLIS(value, 0)["at"] == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=millis)


def test_time_beyond_the_year_9999_raises() -> None:
    with pytest.raises(OverflowError):
        READ_MILLIS(written({"at": 253_402_300_800_000}, for_fastavro(MILLIS)), 0)


@given(datum=data, cut=st.integers(1, 400), more=st.binary(min_size=1, max_size=5))
def test_datum_that_is_cut_or_followed_by_something_is_refused(datum: dict[str, Any], cut: int, more: bytes) -> None:
    value = written(datum)
    with pytest.raises(Undecodable):
        SCAN(value[: max(0, len(value) - cut)], 0)
    with pytest.raises(Undecodable, match="left over"):
        SCAN(value + more, 0)


@given(value=st.binary(max_size=300))
def test_what_passes_is_read_by_fastavro_to_the_last_byte(value: bytes) -> None:
    try:
        SCAN(value, 0)
    except Undecodable:
        return
    source = BytesIO(value)
    try:
        fastavro.schemaless_reader(source, PARSED, None)
    except UnicodeDecodeError:
        return
    assert source.tell() == len(value)


@given(datum=data, at=st.integers(0, 400), byte=st.integers(0, 255))
def test_flipped_byte_is_refused_or_reads_and_nothing_else(datum: dict[str, Any], at: int, byte: int) -> None:
    value = bytearray(written(datum))
    value[at % len(value)] = byte
    try:
        SCAN(bytes(value), 0)
    except Undecodable:
        return
    source = BytesIO(bytes(value))
    try:
        fastavro.schemaless_reader(source, PARSED, None)
    except UnicodeDecodeError:
        return
    assert source.tell() == len(value)


@given(
    value=st.binary(max_size=300) | data.map(written),
    at=st.integers(0, 400),
    byte=st.integers(0, 255),
)
@settings(max_examples=1000)
def test_reading_refuses_what_the_scan_refuses_and_gives_what_fastavro_gives(value: bytes, at: int, byte: int) -> None:
    bent = bytearray(value or b"?")
    bent[at % len(bent)] = byte
    value = bytes(bent)
    try:
        SCAN(value, 0)
    except Undecodable:
        with pytest.raises((Undecodable, UnicodeDecodeError)):
            READ(value, 0)
        return
    try:
        told = fastavro.schemaless_reader(BytesIO(value), PARSED, None)
    except UnicodeDecodeError:
        with pytest.raises(UnicodeDecodeError):
            READ(value, 0)
        return
    assert repr(READ(value, 0)) == repr(told)


@given(values=st.lists(data.map(written) | st.binary(max_size=40), max_size=6))
@settings(max_examples=500)
def test_run_gives_what_reading_one_by_one_gives_up_to_the_first_that_is_refused(values: list[bytes]) -> None:
    one_by_one: list[Any] = []
    with suppress(Undecodable, UnicodeDecodeError):
        one_by_one.extend(READ(value, 0) for value in values)
    together: list[Any] = []
    with suppress(Exception):
        together.extend(READ_RUN([FRAME + value for value in values], FRAME, lambda _: None))
    assert repr(together) == repr(one_by_one)


def test_run_leaves_values_in_another_frame_to_their_own_reader() -> None:
    own = {"x": 1}
    values = [FRAME + written(own, INNER), b"\0\0\0\0\10other", FRAME + written(own, INNER)]
    assert list(compile_run(INNER)(values, FRAME, bytes.upper)) == [own, b"\0\0\0\0\10OTHER", own]


VARINT_11 = b"\x80" * 10 + b"\x01"
INT64_MIN = b"\xff" * 9 + b"\x01"
TWO_TO_40 = b"\x80\x80\x80\x80\x80\x40"
ARRAY = record(a={"type": "array", "items": "int"})
MAP = record(m={"type": "map", "values": "int"})
DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}
FIXED_DECIMAL = {"type": "fixed", "name": "D", "size": 3} | {"logicalType": "decimal", "precision": 4, "scale": 2}


@pytest.mark.parametrize(
    ("schema", "value", "says"),
    [
        (record(a="int"), b"", "in the middle"),
        (record(a="string"), b"\x06ab", "beyond the end"),
        (record(a="string"), b"\x80", "in the middle"),
        (record(a="long"), VARINT_11, "64 bits"),
        (record(a="long"), b"\x80" * 500 + b"\x01", "64 bits"),
        (record(a="string"), VARINT_11, "64 bits"),
        (record(a="string"), b"\xff" * 9 + b"\x7f", "64 bits"),
        (record(a="int"), b"\xff\xff\xff\xff\x1f", "32 bits"),
        (record(a="int"), b"\x80\x80\x80\x80\x80\x01", "32 bits"),
        (record(a="string"), b"\x80\x80\x80\x80\x80\x40", "beyond the end"),
        (record(a="bytes"), b"\xfe" + b"\xff" * 8 + b"\x01", "beyond the end"),
        (record(a="string"), b"\x01", "below zero"),
        (record(a="bytes"), b"\x01", "below zero"),
        (record(a=["null", "int"]), b"\x0a", "union index"),
        (record(a=["null", "int"]), b"\x01", "union index"),
        (record(a={"type": "enum", "name": "E", "symbols": ["x", "y"]}), b"\x01", "enum index"),
        (record(a={"type": "enum", "name": "E", "symbols": ["x", "y"]}), b"\x12", "enum index"),
        (record(a="boolean"), b"\x07", "boolean"),
        (ARRAY, TWO_TO_40, "count beyond"),
        (ARRAY, INT64_MIN + b"\x00", "count beyond"),
        (ARRAY, b"\x01\x09\x02\x00", "block size"),
        (ARRAY, b"\x01\x7e\x02\x00", "block size"),
        (MAP, b"\x04\x02a\x02\x02a\x04\x00", "key twice"),
        (record(a=DECIMAL), b"\x00", "no bytes"),
        (record(a=DECIMAL), b"\x04\x27\x10", "more than 4 digits"),
        (record(a=DECIMAL), b"\x06\xff\xd8\xf0", "more than 4 digits"),
        (record(a=DECIMAL), b"\xc8\x01" + b"\x55" * 100, "more than 4 digits"),
        (record(a=FIXED_DECIMAL), b"\x00\x27\x10", "more than 4 digits"),
        (record(a="float"), b"\x00\x00", "before the datum does"),
        (record(a={"type": "fixed", "name": "F", "size": 4}), b"\x00", "before the datum does"),
    ],
)
def test_bytes_that_lie_about_themselves_are_refused(schema: Any, value: bytes, says: str) -> None:
    with pytest.raises(Undecodable, match=says):
        compile_scan(schema)(value, 0)
    with pytest.raises(Undecodable):
        compile_read(schema)(value, 0)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (DECIMAL, b"\x04\x27\x0f"),
        (DECIMAL, b"\x04\xd8\xf1"),
        (DECIMAL, b"\xc8\x01" + b"\x00" * 98 + b"\x27\x0f"),
        (DECIMAL | {"precision": 10**9}, b"\xc8\x01" + b"\x55" * 100),
        (FIXED_DECIMAL, b"\xff\xd8\xf1"),
    ],
)
def test_decimal_of_as_many_digits_as_its_schema_has_passes(kind: Any, value: bytes) -> None:
    compile_scan(record(a=kind))(value, 0)
    compile_read(record(a=kind))(value, 0)


def test_block_with_its_size_is_read_as_avro_says() -> None:
    compile_scan(ARRAY)(b"\x03\x04\x02\x04\x00", 0)
    assert compile_read(ARRAY)(b"\x03\x04\x02\x04\x00", 0) == {"a": [1, 2]}


@pytest.mark.parametrize(("kind", "inner", "key"), [("array", "items", b""), ("map", "values", b"\x00")])
def test_types_nested_as_deep_as_a_schema_may_be_are_walked(kind: str, inner: str, key: bytes) -> None:
    """Python compiles twenty loops within each other at most, and a hundred indentations."""
    deep: Any = "int"
    value = b"\x02"
    for _ in range(49):
        deep = {"type": kind, inner: ["null", deep]}
        value = b"\x02" + key + b"\x02" + value + b"\x00"
    for_fastavro(record(a=deep))
    scan = compile_scan(record(a=deep))
    scan(value, 0)
    with pytest.raises(Undecodable):
        scan(value[:-1], 0)
    assert compile_read(record(a=deep))(value, 0) == fastavro.schemaless_reader(
        BytesIO(value), for_fastavro(record(a=deep)), None
    )


def test_type_used_in_many_places_is_compiled_once() -> None:
    """Each of forty records holds the next one twice: written in line, that would be a trillion lines."""
    schema: Any = {"type": "record", "name": "R40", "fields": [{"name": "x", "type": "int"}]}
    for number in range(39, -1, -1):
        schema = {
            "type": "record",
            "name": f"R{number}",
            "fields": [{"name": "a", "type": schema}, {"name": "b", "type": ["null", f"R{number + 1}"]}],
        }
    scan = compile_scan(schema)
    scan(b"\x02" + b"\x00" * 40, 0)
    compile_read(schema)
