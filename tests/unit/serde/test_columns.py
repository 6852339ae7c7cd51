"""Data read column by column: the same values as the walk gives, and nothing that the walk refuses."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.serde.avro import COLUMNS_MIN, RUN_MAX, AvroReader
from pipeline.serde.columns import Columns, Unusual
from pipeline.serde.compiled_reader import compile_read
from pipeline.serde.fastavro_schema import for_fastavro
from tests.unit.serde import test_compiled_reader as walk
from tests.unit.serde.test_compiled_reader import FRAME, INNER, MOMENTS, record, written

MONEY = {"type": "bytes", "logicalType": "decimal", "precision": 18, "scale": 2}
KINDS: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "text": ("string", st.text(max_size=100)),
    "raw": ("bytes", st.binary(max_size=100)),
    "small": ("int", st.integers(-(2**31), 2**31 - 1)),
    "big": ("long", st.integers(-(2**62), 2**62 - 1)),
    "nothing": ("null", st.none()),
    "flag": ("boolean", st.booleans()),
    "single": ("float", st.floats(width=32)),
    "double": ("double", st.floats()),
    "maybe": (
        ["null", "string", INNER],
        st.none() | st.text(max_size=5) | st.fixed_dictionaries({"x": st.integers(-9, 9)}),
    ),
    "late": (["string", "null"], st.none() | st.text(max_size=5)),
    "kind": ({"type": "enum", "name": "Kind", "symbols": ["a", "b", "c"]}, st.sampled_from("abc")),
    "code": ({"type": "fixed", "name": "Code", "size": 3}, st.binary(min_size=3, max_size=3)),
    "inner": ("Inner", st.fixed_dictionaries({"x": st.integers(-9, 9)})),
    "money": (MONEY, st.integers(-(2**46), 2**46 - 1).map(lambda pence: Decimal(pence).scaleb(-2))),
    "millis": ({"type": "long", "logicalType": "timestamp-millis"}, MOMENTS),
    "micros": ({"type": "long", "logicalType": "timestamp-micros"}, MOMENTS),
    "day": ({"type": "int", "logicalType": "date"}, st.dates()),
    "id": ({"type": "string", "logicalType": "uuid"}, st.uuids()),
}
SCHEMA = record(**{name: kind for name, (kind, _) in KINDS.items()})
data = st.fixed_dictionaries({name: values for name, (_, values) in KINDS.items()})
READ_MILLIS = walk.READ_MILLIS
PARSED, READ, COLUMNS = for_fastavro(SCHEMA), compile_read(SCHEMA), Columns(SCHEMA)


@given(some=st.lists(data, min_size=1, max_size=8))
@settings(max_examples=300)
def test_columns_give_what_reading_one_by_one_gives(some: list[dict[str, Any]]) -> None:
    values = [written(datum, PARSED) for datum in some]
    found = COLUMNS.read([FRAME + value for value in values], FRAME)
    assert repr(found) == repr([READ(value, 0) for value in values]), "also types, exponents and zones"


@given(
    some=st.lists(data.map(lambda datum: written(datum, PARSED)), min_size=1, max_size=3),
    bent=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=3),
    cut=st.integers(0, 3),
)
@settings(max_examples=1000)
def test_bent_bytes_are_refused_or_read_as_one_by_one(some: list[bytes], bent: list[tuple[int, int]], cut: int) -> None:
    whole = bytearray(some[0])
    for at, byte in bent:
        whole[at % len(whole)] = byte
    # What one datum lacks the next one has: nothing may be read across their border.
    values = [FRAME + bytes(whole[: len(whole) - cut]), *(FRAME + value for value in some[1:])]
    try:
        found = COLUMNS.read(values, FRAME)
    except Exception:  # noqa: BLE001  # then the walk says what it is
        return
    assert repr(found) == repr([READ(value, len(FRAME)) for value in values])


@given(values=st.lists(st.binary(min_size=1, max_size=10), min_size=1, max_size=2))
@settings(max_examples=1000)
def test_any_bytes_are_refused_or_are_the_same_time(values: list[bytes]) -> None:
    try:
        found = Columns(walk.MILLIS).read([FRAME + value for value in values], FRAME)
    except Exception:  # noqa: BLE001  # then the walk says what it is
        return
    assert repr(found) == repr([READ_MILLIS(value, 0) for value in values])


@pytest.mark.parametrize("millis", [2**62 - 1, -(2**62), 86_400_000 * 10**9, 253_402_300_800_000, -62_135_596_800_001])
def test_time_outside_of_the_years_1_to_9999_is_left_to_the_walk(millis: int) -> None:
    columns = Columns(walk.MILLIS)
    good, other = (FRAME + written({"at": at}, for_fastavro(record(at="long"))) for at in (0, millis))
    assert columns.read([good, good], FRAME) == [READ_MILLIS(good, len(FRAME))] * 2
    with pytest.raises((TypeError, OverflowError)):
        columns.read([good, other], FRAME)


LIES = next(
    mark for mark in walk.test_bytes_that_lie_about_themselves_are_refused.pytestmark if mark.name == "parametrize"
)


@pytest.mark.parametrize(("schema", "value", "says"), LIES.args[1])
def test_bytes_that_lie_about_themselves_are_refused(schema: Any, value: bytes, says: str) -> None:
    with pytest.raises(Exception):  # noqa: B017  # the walk says which
        Columns(schema).read([FRAME + value, FRAME + value], FRAME)


@pytest.mark.parametrize("kind", [{"type": "array", "items": "int"}, {"type": "map", "values": "int"}])
def test_schemas_with_arrays_or_maps_are_left_to_the_walk(kind: Any) -> None:
    for schema in (record(a=kind), record(a=["null", kind]), record(a=record(b=kind) | {"name": "Outer"})):
        with pytest.raises(Unusual):
            Columns(schema)


@pytest.mark.parametrize("at", [0, COLUMNS_MIN, RUN_MAX, 2 * RUN_MAX + 5])
def test_long_run_gives_all_before_the_first_that_is_refused(at: int) -> None:
    schema = record(text="string", money=MONEY)
    parsed = for_fastavro(schema)
    reader = AvroReader(schema, lambda _: json.dumps(schema))
    some = [
        {"text": f"ä{number}" * (number % 50), "money": Decimal(number).scaleb(-2)} for number in range(3 * RUN_MAX)
    ]
    values = [FRAME + written(datum, parsed) for datum in some]
    reader.decode(values[0])
    assert list(reader.decode_run(values)) == some
    values[at] = values[at][:-1]
    found: list[Any] = []
    with pytest.raises(Exception):  # noqa: B017  # `decode` says which
        found.extend(reader.decode_run(values))
    assert found == some[:at]
