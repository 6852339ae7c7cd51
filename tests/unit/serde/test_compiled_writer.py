"""The lines compiled for a schema write what fastavro writes, and nothing that the long way refuses or writes otherwise."""

import json
import math
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
import pytest
from fastavro.validation import validate
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.orders import generate
from pipeline.serde.avro import AvroWriter
from pipeline.serde.avro_schema import resolve
from pipeline.serde.compiled_writer import NotSoError, compile_write
from pipeline.serde.exact_writer import ExactWriter
from pipeline.serde.fastavro_schema import for_fastavro
from tests.unit.serde.test_compiled_reader import INNER, MOMENTS, record

SCHEMA = record(
    text="string",
    raw="bytes",
    small="int",
    big="long",
    flag="boolean",
    single="float",
    double="double",
    maybe=["null", INNER],
    perhaps=["string", "null"],
    kind={"type": "enum", "name": "Kind", "symbols": ["a", "b", "c"]},
    code={"type": "fixed", "name": "Code", "size": 3},
    items={"type": "array", "items": ["null", "long"]},
    inners={"type": "array", "items": "Inner"},
    named={"type": "map", "values": {"type": "array", "items": "string"}},
    money={"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2},
    fixed_money={"type": "fixed", "name": "M", "size": 4, "logicalType": "decimal", "precision": 6, "scale": 2},
    millis={"type": "long", "logicalType": "timestamp-millis"},
    micros={"type": "long", "logicalType": "timestamp-micros"},
    day={"type": "int", "logicalType": "date"},
    hour={"type": "int", "logicalType": "time-millis"},
    id={"type": "string", "logicalType": "uuid"},
)
# Minus nothing is what fastavro writes as minus two pence.
money = st.integers(-999_999, 999_999).map(lambda pence: Decimal(pence).scaleb(-2))
fields: dict[str, st.SearchStrategy[Any]] = {
    "text": st.text(max_size=200),
    "raw": st.binary(max_size=200),
    "small": st.integers(-(2**31), 2**31 - 1),
    "big": st.integers(-(2**63), 2**63 - 1),
    "flag": st.booleans(),
    "single": st.floats(width=32, allow_nan=False),
    "double": st.floats(allow_nan=False),
    "maybe": st.one_of(st.none(), st.fixed_dictionaries({"x": st.integers(-9, 9)})),
    "perhaps": st.one_of(st.none(), st.text(max_size=5)),
    "kind": st.sampled_from("abc"),
    "code": st.binary(min_size=3, max_size=3),
    "items": st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), max_size=5),
    "inners": st.lists(st.fixed_dictionaries({"x": st.integers(-9, 9)}), max_size=3),
    "named": st.dictionaries(st.text(max_size=4), st.lists(st.text(max_size=3), max_size=3), max_size=4),
    "money": money,
    "fixed_money": money,
    "millis": MOMENTS.map(lambda at: at.replace(microsecond=at.microsecond // 1000 * 1000)),
    "micros": MOMENTS,
    "day": st.dates(),
    "hour": st.times().map(lambda at: at.replace(microsecond=at.microsecond // 1000 * 1000)),
    "id": st.uuids(),
}
# What a program may hold instead: near misses above all.
ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.binary(max_size=4),
    st.decimals(), st.decimals(places=3), st.sampled_from(["\ud800", "1.5", Decimal("1E+3"), Decimal("-0"), Decimal("NaN")]),
    st.datetimes(), MOMENTS, st.dates(), st.times(), st.uuids(), st.lists(st.integers(), max_size=2),
    st.dictionaries(st.sampled_from(["x", "y", "-type"]), st.integers(-9, 9), max_size=2), st.tuples(st.text(), st.none()),
    st.lists(st.fixed_dictionaries({"x": st.floats()}), max_size=2), st.dictionaries(st.integers(), st.none(), max_size=1),
)  # fmt: skip
ROOT = Path(__file__).parents[3] / "schemas"
PARSED = for_fastavro(SCHEMA)
WRITE = compile_write(SCHEMA, b"frame")
assert WRITE is not None


LONG_WAY = ExactWriter(resolve(SCHEMA)).datum()


def long_way(datum: Any) -> bytes:
    return b"frame" + LONG_WAY(datum)


def fastavros(datum: Any) -> bytes:
    out = BytesIO(b"frame")
    out.seek(5)
    fastavro.schemaless_writer(out, PARSED, datum, strict_allow_default=True)
    assert validate(datum, PARSED)
    return out.getvalue()


@given(datum=st.fixed_dictionaries(fields))
def test_datum_of_the_expected_types_is_written_as_fastavro_writes_it(datum: dict[str, Any]) -> None:
    assert WRITE(datum) == fastavros(datum)
    assert WRITE(datum) == long_way(datum)


@given(datum=st.fixed_dictionaries(fields), name=st.sampled_from(sorted(fields)), value=ANYTHING)
@settings(max_examples=2000)
def test_datum_of_another_type_is_not_taken_or_written_as_the_long_way_writes_it(
    datum: dict[str, Any], name: str, value: Any
) -> None:
    datum[name] = value
    try:
        found = WRITE(datum)
    except Exception:  # noqa: BLE001  # whatever it says
        return
    assert found == long_way(datum)


@given(datum=st.fixed_dictionaries(fields), name=st.sampled_from(sorted(fields)))
def test_field_too_much_or_too_few_is_not_taken(datum: dict[str, Any], name: str) -> None:
    with pytest.raises(Exception):  # noqa: B017  # whatever it says
        WRITE(datum | {"more": 1})
    with pytest.raises(Exception):  # noqa: B017
        WRITE({field: value for field, value in datum.items() if field != name})
    with pytest.raises(Exception):  # noqa: B017
        WRITE({"more" if field == name else field: value for field, value in datum.items()})


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ({"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}, Decimal("100.000")),
        ({"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}, Decimal("100.00")),
        ({"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}, Decimal("1.230")),
        ({"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}, Decimal("Infinity")),
        ({"type": "long", "logicalType": "timestamp-millis"}, datetime(2026, 1, 1)),  # noqa: DTZ001
        ("int", True),
        ("int", 2**31),
        ("long", 2**63),
        ("int", 1.0),
        ("string", b"text"),
        ("float", math.nan),
        ("float", 1e39),
        ("float", 0.1),
        ({"type": "long", "logicalType": "timestamp-millis"}, datetime(2026, 1, 1, microsecond=1, tzinfo=UTC)),
        ({"type": "long", "logicalType": "timestamp-micros"}, datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5)))),
        ({"type": "int", "logicalType": "date"}, datetime(2026, 1, 1, tzinfo=UTC)),
        ({"type": "int", "logicalType": "date"}, 5),
        ({"type": "string", "logicalType": "uuid"}, "nope"),
        (["null", "int"], "1"),
    ],
)
def test_value_that_is_seldom_or_wrong_is_not_taken(kind: Any, value: Any) -> None:
    write = compile_write(record(a=kind), b"")
    assert write is not None
    with pytest.raises(Exception):  # noqa: B017  # whatever it says
        write({"a": value})


@pytest.mark.parametrize(
    "kind",
    [
        ["int", "long"],
        ["null", "string", {"type": "enum", "name": "E", "symbols": ["a"]}],
        [INNER, {"type": "map", "values": "int"}],
    ],
)
def test_choice_among_types_that_look_alike_is_left_to_the_long_way(kind: Any) -> None:
    assert compile_write(record(a=kind), b"") is None


@pytest.mark.parametrize("value", [None, 1, "a", b"a", 1.5, True, [1], {"x": 1}, Decimal("1.00"), date(2026, 1, 1)])
def test_choice_among_types_that_differ_is_made_by_the_type(value: Any) -> None:
    money = {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2}
    code = {"type": "fixed", "name": "C", "size": 1}
    day = {"type": "int", "logicalType": "date"}
    kinds = ["long", "string", "null", code, "double", "boolean", {"type": "array", "items": "int"}, INNER, money, day]
    schema = record(a=kinds)
    write = compile_write(schema, b"\0\0\0\0\7")
    assert write is not None
    assert write({"a": value}) == AvroWriter(schema, 7)._write_any({"a": value})  # the long way
    with pytest.raises(NotSoError):
        write({"a": object()})


def test_the_projects_own_contracts_have_lines_of_their_own() -> None:
    """What is forwarded and given up goes the short way."""
    for subject in ("orders.v1-value", "orders.by-customer.v1-value", "orders.dlq.v1-value"):
        for file in sorted((ROOT / subject).glob("v*.avsc")):
            assert compile_write(json.loads(file.read_text()), b"") is not None, file


def test_an_orders_bytes_take_the_short_way() -> None:
    schema = json.loads((ROOT / "orders.v1-value/v1.avsc").read_text())
    write = compile_write(schema, b"\0\0\0\0\7")
    assert write is not None
    for order in generate(100, seed=1):
        assert write(order.__dict__) == AvroWriter(schema, 7)._write_any(order.__dict__)  # the long way
