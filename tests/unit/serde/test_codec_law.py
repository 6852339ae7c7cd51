"""One law for both sides: what `encode` takes `decode` gives back equal, and whatever else it is given it refuses by name."""

import copy
import json
import math
import pickle
from collections import UserDict
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction
from random import Random
from types import MappingProxyType
from typing import Annotated, Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Discriminator, Field, Tag, TypeAdapter

from pipeline.core.branches import Branch, Fixed, Symbol, branch_of
from pipeline.core.redrive import merge_patch
from pipeline.errors import Invalid, Undecodable
from pipeline.serde.avro import COLUMNS_MIN, AvroReader, AvroWriter
from pipeline.serde.avro_schema import resolve
from pipeline.serde.json_values import JsonValues
from tests.judge.generator import Data, Schemas
from tests.unit.serde.test_compiled_reader import record

FRAME = b"\0\0\0\0\1"


def decimal(precision: int, scale: int, size: int | None = None) -> dict[str, Any]:
    base = {"type": "bytes"} if size is None else {"type": "fixed", "name": "Money", "size": size}
    return base | {"logicalType": "decimal", "precision": precision, "scale": scale}


def logical(kind: str, name: str) -> dict[str, Any]:
    return {"type": kind, "logicalType": name}


def reader(schema: Any, writer: Any = None) -> AvroReader:
    return AvroReader(schema, lambda _: json.dumps(schema if writer is None else writer))


def there_and_back(kind: Any, value: Any) -> Any:
    """By every way in, and every way out."""
    schema = record(a=kind)
    writer, it = AvroWriter(schema, 1), reader(schema)
    written = writer.encode({"a": value})
    assert written == writer._write_any({"a": value})  # the long way
    found = it.decode(written)
    many = [written] * COLUMNS_MIN
    for one in (*list(it.decode_run([written])), *list(it.decode_run(many))):
        assert repr(one) == repr(found)
    return found["a"]


ENUM = {"type": "enum", "name": "Carrier", "symbols": ["UPS", "DHL"]}
FIXED = {"type": "fixed", "name": "Code", "size": 2}
MILLIS, MICROS = logical("long", "timestamp-millis"), logical("long", "timestamp-micros")
LOCAL_MILLIS, LOCAL_MICROS = logical("long", "local-timestamp-millis"), logical("long", "local-timestamp-micros")
TIME_MILLIS, TIME_MICROS = logical("int", "time-millis"), logical("long", "time-micros")
DATE, A_UUID = logical("int", "date"), logical("string", "uuid")
EAST = timezone(timedelta(hours=5))
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LOCAL_NOON = datetime(2026, 1, 1, 12)  # noqa: DTZ001  # without a zone


class Colour(StrEnum):
    UPS = "UPS"


class Number(IntEnum):
    ONE = 1


class Plain(Enum):
    UPS = "UPS"


class Sly(str):
    """Equal to nothing that is read back."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = str.__hash__


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("int", 2**31 - 1),
        ("int", Number.ONE),
        ("double", 2),
        ("double", 2**53),
        ("double", Fraction(1, 2)),
        ("float", 16777216),
        ("float", 0.5),
        ("float", math.inf),
        ("string", "a\0ß😀"),
        ("string", Colour.UPS),
        ("bytes", bytearray(b"ab")),
        (ENUM, Colour.UPS),
        (FIXED, b"ab"),
        ({"type": "map", "values": "int"}, MappingProxyType({"a": 1})),
        ({"type": "map", "values": "int"}, UserDict({"a": 1})),
        (decimal(4, 2), Decimal("-0.00")),
        (decimal(4, 2, 2), Decimal("-0.00")),
        (decimal(4, 2, 2), Decimal("-0.001").quantize(Decimal("0.01"))),
        (decimal(4, 2, 2), Decimal("-99.99")),
        (decimal(4, 2), Decimal("1.230")),
        (decimal(4, 2), Decimal("1E+1")),
        (decimal(4, 2), Decimal("0E+9999")),
        (decimal(4, 2, 2), Decimal("12.3000000000000000000000000000000000000000000")),
        (decimal(40, 30), Decimal("1234567890.123456789012345678901234567890")),
        (MILLIS, datetime(1, 1, 1, tzinfo=UTC)),
        (MILLIS, datetime(9999, 12, 31, 23, 59, 59, 999000, tzinfo=UTC)),
        (MICROS, datetime(2026, 1, 1, 12, 0, 0, 1, tzinfo=EAST)),
        (LOCAL_MILLIS, LOCAL_NOON),
        (LOCAL_MICROS, LOCAL_NOON.replace(microsecond=1)),
        (DATE, date(9999, 12, 31)),
        (TIME_MILLIS, time(23, 59, 59, 999000)),
        (TIME_MICROS, time(23, 59, 59, 999999)),
        (A_UUID, UUID(int=1)),
        (["double", "long"], 2**53 + 1),
        (["null", "double", "long"], 2**53 + 1),
        ([{"type": "array", "items": "int"}, "bytes"], b"ab"),
        ([DATE, ENUM], "DHL"),
        ([decimal(4, 2), FIXED], b"ab"),
        (["int", "double"], 2**40),
        (["int", "long", "float", "double"], 0.1),
        (["int", "boolean"], True),
    ],
    ids=repr,
)
def test_what_is_taken_comes_back_equal(kind: Any, value: Any) -> None:
    found = there_and_back(kind, value)
    assert found == value
    assert isinstance(found, bool) == isinstance(value, bool)


@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [
        ({"type": "array", "items": "int"}, b"ab", "a: a bytes is no Avro array: give a list"),
        ({"type": "array", "items": "int"}, (1, 2), "a: a tuple is no Avro array"),
        ({"type": "array", "items": "int"}, [1, "2"], r"a\[1\]: a str is no Avro int"),
        ({"type": "map", "values": "int"}, {"b": "2"}, r'a\["b"\]: a str is no Avro int'),
        ({"type": "map", "values": "int"}, {1: 2}, r'a\["1"\]: an int is no Avro string'),
        ({"type": "map", "values": "int"}, [("b", 1)], "a: a list is no Avro map"),
        ("int", 2**40, r"a: 1099511627776 is out of range for Avro int \(32-bit\)"),
        ("long", 10**400, "a: a number of 1329 bits is out of range for Avro long"),
        ("int", True, "a: a bool is no Avro int"),
        ("int", 1.0, "a: a float is no Avro int"),
        ("int", Decimal(1), "a: a Decimal is no Avro int"),
        ("boolean", 1, "a: an int is no Avro boolean"),
        ("float", 0.1, r"a: the number is not exactly an Avro float \(32-bit\)"),
        ("float", 1e39, "a: the number is out of range for Avro float"),
        ("float", 2**24 + 1, "a: the number is not exactly an Avro float"),
        ("double", 2**53 + 1, "a: the number is not exactly an Avro double"),
        ("double", 10**400, "a: the number is out of range for Avro double"),
        ("double", Fraction(1, 3), "a: the number is not exactly an Avro double"),
        ("double", True, "a: a bool is no Avro double"),
        ("double", "1.5", "a: a str is no Avro double"),
        ("string", b"text", "a: a bytes is no Avro string"),
        ("string", "\ud800", "a: character 0 is half of a surrogate pair"),
        ("string", Sly("a"), "a: a Sly is no Avro string"),
        ("bytes", "text", "a: a str is no Avro bytes"),
        ("null", 0, "a: an int is no Avro null"),
        (ENUM, "FEDEX", "a: 'FEDEX' is no symbol of enum Carrier: UPS, DHL"),
        (ENUM, "Mr. Smith, 5 Long Road", "a: the text is no symbol of enum Carrier"),
        (ENUM, Plain.UPS, "a: a Plain is no Avro enum"),
        (FIXED, b"abc", "a: 3 bytes are not the 2 of fixed Code"),
        (decimal(4, 2), b"\x01", "a: a bytes is no Avro decimal"),
        (decimal(4, 2), 1.5, "a: a float is no Avro decimal: give a decimal.Decimal"),
        (decimal(4, 2), 1, "a: an int is no Avro decimal"),
        (decimal(4, 2), "1.5", "a: a str is no Avro decimal"),
        (decimal(4, 2), Decimal("1.005"), "a: 3 digits after the point are more than the 2"),
        (decimal(4, 2), Decimal("0.001"), "a: 3 digits after the point"),
        (decimal(4, 2), Decimal("100.00"), r"a: 3 digits before the point are more than the 2 of Avro decimal\(4, 2\)"),
        (decimal(18, 2), Decimal(123456789012345678), "a: 18 digits before the point"),
        (decimal(4, 2), Decimal("1E+999999"), "digits before the point"),
        (decimal(4, 2), Decimal("NaN"), "a: a decimal is a finite number"),
        (decimal(4, 2), Decimal("sNaN"), "a: a decimal is a finite number"),
        (decimal(4, 2, 2), Decimal("-Infinity"), "a: a decimal is a finite number"),
        (DATE, NOON, r"a: a datetime is no Avro date: give its \.date\(\)"),
        (DATE, "2026-01-01", "a: a str is no Avro date"),
        (DATE, 20454, "a: an int is no Avro date"),
        (TIME_MILLIS, 5, "a: an int is no Avro time-millis"),
        (TIME_MILLIS, time(1, 2, 3, 4), "a: 4 µs below the millisecond"),
        (TIME_MICROS, time(1, tzinfo=UTC), "a: an Avro time-micros has no zone"),
        (TIME_MICROS, 86_400_000_000, "a: an int is no Avro time-micros"),
        (MILLIS, LOCAL_NOON, "a: the time has no zone"),
        (MICROS, LOCAL_NOON, "a: the time has no zone"),
        (MILLIS, 5, "a: an int is no Avro timestamp-millis"),
        (MILLIS, date(2026, 1, 1), "a: a date is no Avro timestamp-millis"),
        (MILLIS, NOON.replace(microsecond=1), "a: 1 µs below the millisecond"),
        (MILLIS, datetime(1, 1, 1, tzinfo=EAST), "a: in UTC the time lies outside"),
        (MICROS, datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-5))), "a: in UTC the time lies outside"),
        (LOCAL_MILLIS, NOON, "a: an Avro local-timestamp-millis has no zone"),
        (LOCAL_MICROS, NOON, "a: an Avro local-timestamp-micros has no zone"),
        (A_UUID, "nope", "a: a str is no Avro uuid: give a uuid.UUID"),
        (A_UUID, str(UUID(int=1)), "a: a str is no Avro uuid"),
        (["null", "int"], "1", "a: a str is none of null, int"),
        (["null", DATE], NOON, "a: a datetime is no Avro date"),
        (["null", "float"], 0.1, "a: the number is not exactly"),
        (["null", A_UUID], "nope", "a: a str is none of null, string"),
        (["null", record(b=record(c="int") | {"name": "C"}) | {"name": "B"}], {"b": {"c": ""}}, r"a\.b\.c: a str is no Avro int"),
        ({"type": "array", "items": record(price=decimal(4, 2)) | {"name": "Line"}}, [{"price": Decimal(1)}, {"price": 1.5}],
         r"a\[1\]\.price: a float is no Avro decimal"),
    ],
    ids=repr,
)  # fmt: skip
def test_what_would_come_back_as_something_else_is_refused_with_its_field(kind: Any, value: Any, says: str) -> None:
    with pytest.raises(Invalid, match=says) as refused:
        AvroWriter(record(a=kind), 1).encode({"a": value})
    assert "Smith" not in str(refused.value), "a text may be personal"


def test_nan_comes_back_as_nan() -> None:
    assert math.isnan(there_and_back("double", math.nan))
    assert math.isnan(there_and_back("float", math.nan))


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo"])
def test_naive_time_is_refused_in_every_time_zone_of_the_machine(monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    monkeypatch.setenv("TZ", zone)
    with pytest.raises(Invalid, match="has no zone"):
        AvroWriter(record(a=MILLIS), 1).encode({"a": LOCAL_NOON})


# --- every schema, every value

SURPRISES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=3), st.binary(max_size=4),
    st.decimals(), st.sampled_from(["\ud800", "A", Decimal("1E+3"), Decimal("-0"), Decimal("NaN"), "1970-01-01"]),
    st.datetimes(), st.datetimes(timezones=st.sampled_from([UTC, EAST])), st.dates(), st.times(), st.uuids(),
    st.uuids().map(str), st.lists(st.integers(), max_size=2), st.tuples(st.text(max_size=2), st.none()),
    st.dictionaries(st.sampled_from(["a", "b", "-type"]), st.integers(-9, 9), max_size=2),
)  # fmt: skip


@given(seed=st.integers(0, 2**32), surprise=SURPRISES, where=st.integers(0, 2**32))
@settings(max_examples=600)
def test_every_schema_takes_a_value_and_gives_it_back_or_refuses_it(seed: int, surprise: Any, where: int) -> None:
    random = Random(seed)
    schema = Schemas(random).event()
    if resolve(schema).flaws:
        return
    datum = Data(random, schema).datum()
    writer, it = AvroWriter(schema, 1), reader(schema)
    written = writer.encode(datum)
    assert repr(it.decode(written)) == repr(datum)
    assert writer.encode(it.decode(written)) == written, "also the branches of its unions"
    bent = _with(copy.deepcopy(datum), surprise, Random(where))
    try:
        written = writer.encode(bent)
    except Invalid:
        return
    found = it.decode(written)
    assert found == bent or "nan" in repr(bent).lower()
    assert writer._write_any(bent) == written


def _with(value: Any, surprise: Any, random: Random) -> Any:
    """The value with something else in one place."""
    if isinstance(value, dict) and value and random.random() < 0.9:
        key = random.choice(list(value))
        value[key] = _with(value[key], surprise, random)
        return value
    if isinstance(value, list) and value and random.random() < 0.7:
        at = random.randrange(len(value))
        value[at] = _with(value[at], surprise, random)
        return value
    return surprise


@given(seed=st.integers(0, 2**32), bent=st.lists(st.tuples(st.integers(0, 999), st.integers(0, 255)), max_size=3))
@settings(max_examples=400)
def test_all_bytes_are_read_alike_by_every_way_or_refused_by_every_way(seed: int, bent: list[tuple[int, int]]) -> None:
    random = Random(seed)
    schema = Schemas(random).event()
    if resolve(schema).flaws:
        return
    whole = bytearray(AvroWriter(schema, 1).encode(Data(random, schema).datum()))
    for at, byte in bent:
        if len(whole) > len(FRAME):
            whole[len(FRAME) + at % (len(whole) - len(FRAME))] = byte
    it, value = reader(schema), bytes(whole)
    try:
        found = it.decode(value)
    except Undecodable:
        for many in ([value], [value] * COLUMNS_MIN):
            with pytest.raises(Exception):  # noqa: B017  # `decode` says which
                list(it.decode_run(many))
        return
    for many in ([value], [value] * COLUMNS_MIN):
        assert {repr(one) for one in it.decode_run(many)} == {repr(found)}
    assert repr(it.decode(AvroWriter(schema, 1).encode(found))) == repr(found)


# --- branches of a union that read alike

CREATED = record(at=MILLIS) | {"name": "Created", "namespace": "shop"}
DELETED = record(at=MILLIS) | {"name": "Deleted", "namespace": "shop"}
CHANGE = {"type": "record", "name": "Change", "fields": [{"name": "what", "type": ["null", CREATED, DELETED]}]}


def change(index: int) -> bytes:
    return FRAME + bytes((index * 2, 0x02))


@pytest.mark.parametrize(("index", "name"), [(1, "shop.Created"), (2, "shop.Deleted")])
def test_record_of_a_union_carries_its_name_and_is_written_as_what_it_was(index: int, name: str) -> None:
    it, writer = reader(CHANGE), AvroWriter(CHANGE, 1)
    for event in (it.decode(change(index)), *it.decode_run([change(index)] * COLUMNS_MIN)):
        assert branch_of(event["what"]) == name
        assert event["what"] == {"at": datetime(1970, 1, 1, 0, 0, 0, 1000, tzinfo=UTC)}
        assert writer.encode(event) == change(index)
    event = it.decode(change(index))
    for kept in (copy.deepcopy(event), pickle.loads(pickle.dumps(event)), {**event}):  # our own
        assert writer.encode(kept) == change(index)
    assert writer.encode({"what": event["what"] | {"at": NOON}})[5] == index * 2


def test_record_without_a_name_is_refused_where_two_take_it() -> None:
    writer = AvroWriter(CHANGE, 1)
    with pytest.raises(Invalid, match=r"what: it may be shop\.Created and shop\.Deleted: say which"):
        writer.encode({"what": {"at": NOON}})
    assert writer.encode({"what": Branch("shop.Deleted", {"at": NOON})})[5] == 4
    assert writer.encode({"what": None})[5] == 0


def test_branches_are_equal_by_name_and_content() -> None:
    one = Branch("a", {"x": 1})
    assert one == {"x": 1}
    assert one == {"x": 1}
    assert one != Branch("b", {"x": 1})
    assert one == Branch("a", {"x": 1})
    assert one != {"x": 2}
    assert branch_of({"x": 1}) is None


@pytest.mark.parametrize(
    "branches",
    [
        [record(a="int") | {"name": "A"}, {"type": "map", "values": "int"}],
        [{"type": "enum", "name": "A", "symbols": ["x", "y"]}, {"type": "enum", "name": "B", "symbols": ["y", "x"]}],
        ["string", {"type": "enum", "name": "A", "symbols": ["x", "y"]}],
        [{"type": "fixed", "name": "A", "size": 2}, {"type": "fixed", "name": "B", "size": 2}],
        ["bytes", {"type": "fixed", "name": "A", "size": 2}],
        [record(a="int") | {"name": "A"}, record(a="long") | {"name": "B"}, record(a="int", b="int") | {"name": "C"}],
    ],
    ids=["record-and-map", "two-enums", "string-and-enum", "two-fixed", "bytes-and-fixed", "three-records"],
)
def test_branches_that_look_alike_are_written_as_what_they_were(branches: list[Any]) -> None:
    """In a field, in an array, in a map, in a record within a union."""
    for kind, look in (
        (branches, lambda value: value),
        ({"type": "array", "items": branches}, lambda value: [value, value]),
        ({"type": "map", "values": branches}, lambda value: {"k": value}),
        (["null", record(inner=branches) | {"name": "Outer"}], lambda value: {"inner": value}),
    ):
        schema = record(a=kind)
        writer, it = AvroWriter(schema, 1), reader(schema)
        for seed in range(20):
            value = Data(Random(seed), record(a=branches)).datum()["a"]
            written = writer.encode({"a": look(value)})
            assert writer.encode(it.decode(written)) == written
            assert repr(it.decode(written)) == repr({"a": look(value)})


def test_symbols_and_fixed_are_plain_text_and_bytes_in_everything_else() -> None:
    assert Symbol("a", "x") == "x"
    assert json.dumps(Symbol("a", "x")) == '"x"'
    assert Fixed("a", b"x") == b"x"
    for one in (Symbol("a", "x"), Fixed("a", b"x")):
        assert branch_of(pickle.loads(pickle.dumps(one))) == "a"  # our own
        assert branch_of(copy.deepcopy(one)) == "a"


def test_nested_choices_take_no_time_that_doubles_with_each_level() -> None:
    node: Any = "int"
    for level in range(11):
        node = [
            record(x=node) | {"name": f"A{level}"},
            record(x=f"A{level - 1}" if level else "int") | {"name": f"B{level}"},
        ]
    value: Any = "no int"
    for _ in range(11):
        value = {"x": value}
    with pytest.raises(Invalid):
        AvroWriter(record(a=node), 1).encode({"a": value})


class Created(BaseModel):
    at: datetime


class Deleted(BaseModel):
    at: datetime


class Event(BaseModel):
    what: Annotated[
        Annotated[Created, Tag("shop.Created")] | Annotated[Deleted, Tag("shop.Deleted")], Discriminator(branch_of)
    ]


def test_model_of_a_union_is_the_record_of_its_branch_and_written_as_it() -> None:
    event = TypeAdapter(Event).validate_python(reader(CHANGE).decode(change(2)))
    assert type(event.what) is Deleted
    assert AvroWriter(CHANGE, 1).encode(event) == change(2)
    assert AvroWriter(CHANGE, 1).encode({"what": Deleted(at=event.what.at)}) == change(2)


def test_models_are_written_by_their_fields_or_aliases_and_tuples_in_them_as_arrays() -> None:
    class Line(BaseModel):
        quantity: int

    class Order(BaseModel):
        order_id: str = Field(alias="orderId")
        lines: tuple[Line, ...]

    schema = record(orderId="string", lines={"type": "array", "items": record(quantity="int") | {"name": "Line"}})
    written = AvroWriter(schema, 1).encode(Order(orderId="A", lines=(Line(quantity=1), Line(quantity=2))))
    assert reader(schema).decode(written) == {"orderId": "A", "lines": [{"quantity": 1}, {"quantity": 2}]}
    with pytest.raises(Invalid, match=r"lines\[0\]\.quantity: 1099511627776 is out of range for Avro int \(32-bit\)"):
        AvroWriter(schema, 1).encode(Order(orderId="A", lines=(Line(quantity=2**40),)))


# --- defaults

INSIDE = record(x="int", y={"type": "array", "items": "string"}) | {"name": "Inside"}
GROWN = record(a="int") | {
    "fields": [
        {"name": "a", "type": "int"},
        {"name": "l", "type": {"type": "array", "items": "int"}, "default": []},
        {"name": "m", "type": {"type": "map", "values": {"type": "array", "items": "int"}}, "default": {"k": [1]}},
        {"name": "r", "type": INSIDE, "default": {"x": 1, "y": []}},
        {"name": "u", "type": [{"type": "array", "items": "int"}, "null"], "default": [5]},
    ]
}  # fmt: skip
FILLED = {
    "l": [], "m": {"k": [1]}, "r": {"x": 1, "y": []}, "u": [5]
}  # fmt: skip


def test_defaults_are_made_anew_for_each_event() -> None:
    old = AvroWriter(record(a="int"), 1).encode({"a": 1})
    it = reader(GROWN, record(a="int"))
    it.decode(old)
    for events in (
        [it.decode(old), it.decode(old)],
        list(it.decode_run([old, old])),
        list(it.decode_run([old] * 2 * COLUMNS_MIN)),
    ):
        first, second = events[0], events[1]
        first["l"].append(99)
        first["m"]["k"].append(99)
        first["m"]["more"] = []
        first["r"]["y"].append("changed")
        first["u"].append(99)
        assert second == {"a": 1, **FILLED}
    assert it.decode(old) == {"a": 1, **FILLED}


def test_fields_left_out_are_written_with_their_defaults() -> None:
    writer = AvroWriter(GROWN, 1)
    for _ in range(2):
        event = reader(GROWN).decode(writer.encode({"a": 1}))
        assert event == {"a": 1, **FILLED}
        event["l"].append(99)


def test_default_of_a_logical_type_is_a_value_of_it() -> None:
    grown = record(a="int") | {
        "fields": [
            {"name": "a", "type": "int"},
            {"name": "d", "type": decimal(4, 2), "default": "\u0001"},
            {"name": "t", "type": MILLIS, "default": 0},
        ]
    }
    old = AvroWriter(record(a="int"), 1).encode({"a": 1})
    filled = {"a": 1, "d": Decimal("0.01"), "t": datetime(1970, 1, 1, tzinfo=UTC)}
    assert reader(grown, record(a="int")).decode(old) == filled
    assert reader(grown).decode(AvroWriter(grown, 1).encode({"a": 1})) == filled


# --- bytes that are no datum, as Java and the specification say

ARRAY = {"type": "array", "items": "int"}


@pytest.mark.parametrize(
    ("schema", "raw"),
    [
        (record(a=ARRAY, b="int"), b"\x03\x00\x00\x0e\x00\x08"),
        (record(a=ARRAY), b"\x01\x00\x02\x00"),
        (record(a={"type": "map", "values": "int"}), b"\x01\x08\x02k\x02\x00"),
        (record(a=TIME_MILLIS), b"\x01"),
        (record(a=TIME_MICROS), b"\x01"),
        (record(a=TIME_MILLIS), b"\x80\xf0\xb2\x52"),
        (record(a=decimal(4, 2)), b"\x00"),
        (record(a=A_UUID), b"\x48" + b"12_e4567-e89b-12d3-a456-426614174000"),
        (record(a=A_UUID), b"\x48" + b" 23e4567-e89b-12d3-a456-426614174000"),
        (record(a=A_UUID), b"\x5a" + b"urn:uuid:123e4567-e89b-12d3-a456-426614174000"),
        (record(a=A_UUID), b"\x40" + b"123e4567e89b12d3a456426614174000"),
        (record(a=["null", "int"]), b"\x82\x80\x80\x80\x80\x00\x02"),
        (record(a=ENUM), b"\x82\x80\x80\x80\x80\x00"),
    ],
    ids=["block-too-short", "block-of-no-bytes", "block-of-a-map", "time-below-zero", "micros-below-zero", "time-of-24-hours",
         "decimal-of-no-bytes", "uuid-with-underscore", "uuid-with-blank", "uuid-as-urn", "uuid-without-dashes",
         "union-index-of-six-bytes", "enum-index-of-six-bytes"],
)  # fmt: skip
def test_bytes_that_java_or_the_specification_refuse_are_refused_by_every_way(schema: Any, raw: bytes) -> None:
    it, value = reader(schema), FRAME + raw
    with pytest.raises(Undecodable):
        it.decode(value)
    for many in ([value], [value] * COLUMNS_MIN):
        with pytest.raises(Exception):  # noqa: B017  # `decode` says which
            list(it.decode_run(many))
    dropped = reader(record(more="int") | {"fields": [{"name": "more", "type": "int", "default": 1}]}, schema)
    if "block" in str(_why(it, value)):
        with pytest.raises(Undecodable, match="a block of another size than it says"):
            dropped.decode(value)


def _why(it: AvroReader, value: bytes) -> Undecodable:
    with pytest.raises(Undecodable) as refused:
        it.decode(value)
    return refused.value


def test_event_of_no_bytes_is_read() -> None:
    for schema, event in ((record(), {}), (record(a="null"), {"a": None})):
        assert AvroWriter(schema, 1).encode(event) == FRAME
        assert reader(schema).decode(FRAME) == event
        assert list(reader(schema).decode_run([])) == []
    with pytest.raises(Undecodable, match="in the middle"):
        reader(record(a="int")).decode(FRAME)


@pytest.mark.parametrize("kind", ["int", "long"])
def test_whole_number_read_as_a_float_is_the_nearest_float(kind: str) -> None:
    old, it = AvroWriter(record(a=kind), 1), reader(record(a="float"), record(a=kind))
    assert it.decode(old.encode({"a": 16777217})) == {"a": 16777216.0}
    assert AvroWriter(record(a="float"), 1).encode(it.decode(old.encode({"a": 16777217})))


def test_long_is_rounded_to_a_float_once() -> None:
    """By way of a double it would be rounded down to half, and then to even."""
    number = 2**62 + 2**38 + 1
    it = reader(record(a="float"), record(a="long"))
    for sign in (1, -1):
        value = AvroWriter(record(a="long"), 1).encode({"a": sign * number})
        assert it.decode(value) == {"a": sign * float(2**62 + 2**39)}


# --- schemas of others, and hostile ones


@pytest.mark.parametrize(
    "foreign",
    [
        {"name": "b", "type": ["string", "null"], "default": None},
        {"name": "b", "type": "int", "default": "no int"},
        {"name": "b", "type": {"type": "string", "logicalType": "timestamp-millis"}},
        {"name": "b", "type": {"type": "bytes", "logicalType": "decimal", "precision": 0}},
        {"name": "b", "type": {"type": "fixed", "name": "F", "size": 2, "logicalType": "decimal", "precision": 9}},
        {"name": "b", "type": {"type": "fixed", "name": "F", "size": 3, "logicalType": "duration"}},
        {"name": "b", "type": {"type": "enum", "name": "G", "symbols": ["X"], "default": "Y"}},
        {"name": "b", "type": "int", "aliases": ["a"]},
        {"name": "b", "type": "int", "aliases": ["no name"]},
    ],
    ids=["default-of-another-branch", "default-of-another-type", "logical-type-that-does-not-fit", "decimal-of-no-digits",
         "decimal-larger-than-its-size", "duration-of-another-size", "enum-default-that-is-no-symbol", "alias-of-a-field",
         "alias-that-is-no-name"],
)  # fmt: skip
def test_writers_schema_is_read_whatever_it_says_that_reading_does_not_need(foreign: dict[str, Any]) -> None:
    writer = record(a="int") | {"fields": [{"name": "a", "type": "int"}, foreign]}
    zeros = FRAME + b"\x02" + b"\x00" * 3
    found = None
    for size in range(len(FRAME) + 1, len(zeros) + 1):
        try:
            found = reader(record(a="int"), writer).decode(zeros[:size])
        except Undecodable as error:
            assert "cannot be read safely" not in str(error)  # noqa: PT017
    assert found == {"a": 1}


def test_ill_fitting_logical_type_of_a_writer_is_ignored_where_its_field_is_read() -> None:
    writer = record(a={"type": "string", "logicalType": "timestamp-millis"})
    assert reader(record(a="string"), writer).decode(FRAME + b"\x02x") == {"a": "x"}
    assert list(reader(record(a="string"), writer)._runs) == []


def test_records_used_twice_by_name_cost_no_time_that_doubles_with_each_level() -> None:
    levels = 11
    schema: Any = {"type": "record", "name": "R0", "fields": [{"name": "x", "type": "int"}]}
    for level in range(1, levels):
        last = ["null", schema], ["null", f"R{level - 1}"]
        fields = [{"name": name, "type": kind} for name, kind in zip("pq", last, strict=True)]
        schema = {"type": "record", "name": f"R{level}", "fields": fields}
    schema["fields"].append({"name": "doc", "type": "string", "default": ""})
    older = json.loads(json.dumps(schema))
    older["fields"].pop()
    event: dict[str, Any] = {"p": None, "q": None, "doc": "x"}
    written = AvroWriter(schema, 1).encode(event)
    it = reader(schema)
    assert it.decode(written) == event
    assert list(it.decode_run([written] * COLUMNS_MIN)) == [event] * COLUMNS_MIN
    assert reader(schema, older).decode(FRAME + b"\0\0") == event | {"doc": ""}


def test_decimal_of_more_digits_than_are_read_takes_no_time() -> None:
    """By its precision it would be one; to make it a number takes minutes."""
    writer = record(a=decimal(10**6, 0), b=decimal(1000, 0))
    it = reader(record(c="int") | {"fields": [{"name": "c", "type": "int", "default": 1}]}, writer)
    many = b"\x80\xea\x30" + b"\x55" * 400_000
    assert it.decode(FRAME + many + b"\x02\x01") == {"c": 1}
    with pytest.raises(Undecodable, match="a decimal of more than 1000 digits"):
        it.decode(FRAME + b"\x02\x01" + many)


# --- patches


def patched(schema: Any, event: dict[str, Any], patch: str) -> dict[str, Any]:
    written = AvroWriter(schema, 1).encode(event)
    typed = JsonValues(resolve(schema)).typed(
        merge_patch(reader(schema).decode(written), json.loads(patch, parse_float=Decimal))
    )
    return reader(schema).decode(AvroWriter(schema, 1).encode(typed))


def test_patch_keeps_the_branch_of_a_union() -> None:
    event = {"what": Branch("shop.Deleted", {"at": NOON})}
    found = patched(CHANGE, event, '{"what": {"at": "2026-01-31T08:00:00Z"}}')
    assert found["what"] == Branch("shop.Deleted", {"at": datetime(2026, 1, 31, 8, tzinfo=UTC)})
    assert branch_of(patched(CHANGE, event, "{}")["what"]) == "shop.Deleted"


def test_patch_that_makes_a_record_of_a_union_anew_is_refused_where_two_take_it() -> None:
    with pytest.raises(Invalid, match=r"value\.what: it may be Created and Deleted, and JSON does not say which"):
        patched(CHANGE, {"what": None}, '{"what": {"at": "2026-01-31T08:00:00Z"}}')


@pytest.mark.parametrize(
    ("kind", "given", "found"),
    [
        (decimal(18, 2), "139.120", Decimal("139.12")),
        (decimal(18, 2), '"139.120"', Decimal("139.12")),
        (decimal(18, 2), "5", Decimal(5)),
        ("double", "0.1", 0.1),
        ("float", "0.1", 0.10000000149011612),
        (A_UUID, f'"{UUID(int=7)}"', UUID(int=7)),
        (DATE, '"2026-01-31"', date(2026, 1, 31)),
        (TIME_MILLIS, '"08:00:00.5"', time(8, 0, 0, 500000)),
        (LOCAL_MILLIS, '"2026-01-31T08:00:00"', datetime(2026, 1, 31, 8)),  # noqa: DTZ001
        (["null", DATE], '"2026-01-31"', date(2026, 1, 31)),
        (["null", "string"], '"2026-01-31"', "2026-01-31"),
        (["string", A_UUID | {"type": "string"}][:1], '"x"', "x"),
        ({"type": "array", "items": A_UUID}, f'["{UUID(int=7)}"]', [UUID(int=7)]),
        ("bytes", '"\\u00ff"', b"\xff"),
        ("long", "7", 7),
    ],
    ids=repr,
)
def test_patch_is_read_exactly(kind: Any, given: str, found: Any) -> None:
    values = JsonValues(resolve(record(a=kind)))
    typed = values.typed(json.loads(f'{{"a": {given}}}', parse_float=Decimal))
    assert reader(record(a=kind)).decode(AvroWriter(record(a=kind), 1).encode(typed)) == {"a": found}


@pytest.mark.parametrize(
    ("kind", "given", "says"),
    [
        (decimal(18, 2), "123456789012345678", "a: 18 digits before the point"),
        (decimal(18, 2), "1.005", "a: 3 digits after the point"),
        (decimal(18, 2), '"1_000"', "value.a: '1_000' is no decimal"),
        (decimal(18, 2), "true", "a: a bool is no Avro decimal"),
        ("double", "90071992547409.931", "would be rounded"),
        ("double", "1e400", "would be rounded"),
        ("float", "16777217.0", "would be rounded"),
        ("int", "1.5", "a: a Decimal is no Avro int"),
        ("int", "1099511627776", "out of range"),
        (A_UUID, '"nope"', "value.a: 'nope' is no uuid"),
        (DATE, '"2026-02-31"', "value.a: '2026-02-31' is no date"),
        (MILLIS, '"2026-01-31T08:00:00"', "needs a zone"),
        (MILLIS, "5", "a: an int is no Avro timestamp-millis"),
        (MILLIS, '"2026-01-31T08:00:00.0000001Z"', "more digits than a microsecond"),
        (["null", A_UUID], '"nope"', "value.a: no branch fits"),
        ("string", '"\\ud800"', "surrogate"),
    ],
    ids=repr,
)
def test_patch_that_would_be_written_as_something_else_is_refused(kind: Any, given: str, says: str) -> None:
    schema = record(a=kind)
    with pytest.raises(Invalid, match=says):
        AvroWriter(schema, 1).encode(
            JsonValues(resolve(schema)).typed(json.loads(f'{{"a": {given}}}', parse_float=Decimal))
        )
