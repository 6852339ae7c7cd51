"""Schemas made to cost: a few thousand bytes that ask for ever, or for all memory, are refused before anybody reads by them."""

import json
import time
from itertools import count

import pytest

from pipeline.errors import OtherEvent, Undecodable
from pipeline.serde import avro, schema_files
from pipeline.serde.avro import AvroReader
from pipeline.serde.avro_schema import as_written, resolve
from pipeline.serde.compatibility import check
from pipeline.serde.fastavro_schema import for_fastavro

QUICK_S = 5.0


def event(*fields, name="Order"):
    return {"type": "record", "name": name, "namespace": "shop", "fields": [field("int", "id"), *fields]}


def field(of, name="a", **more):
    return {"name": name, "type": of, **more}


def record(name, *fields):
    return {"type": "record", "name": name, "fields": list(fields)}


def nested(levels, of=lambda inner: inner, times=10, **more):
    """Each level has `times` fields of the level below, all but the first by name."""
    inner = record("R0")
    for level in range(1, levels):
        uses = [inner, *[f"R{level - 1}"] * (times - 1)]
        inner = record(f"R{level}", *(field(of(use), f"f{n}", **more) for n, use in enumerate(uses)))
    return event(field(of(inner)))


def nulls(many):
    return [field("null", f"n{number}") for number in range(many)]


BOMBS = {
    "records": nested(30),
    "records with defaults": nested(8, default={}),
    "maps of records": nested(30, of=lambda inner: {"type": "map", "values": inner}),
    "unions of records": nested(30, of=lambda inner: ["null", inner]),
    "arrays of records": nested(30, of=lambda inner: {"type": "array", "items": ["null", inner]}),
    "twice at each level": nested(40, of=lambda inner: ["null", inner], times=2),
    "one level after the other": event(
        *(
            field(record(f"R{n}", *(field("int" if n == 0 else f"R{n - 1}", f"f{m}") for m in range(10))), f"l{n}")
            for n in range(20)
        )
    ),
    "fields": event(*(field("int", f"f{n}") for n in range(20_000))),
}


def wrapped(levels, of="boolean"):
    """A record around a record around a record."""
    for level in range(levels):
        of = record(f"W{level}", field(of))
    return of


LAZY = {
    "array of records around a truth": {"type": "array", "items": wrapped(90)},
    "map of records around nothing": {"type": "map", "values": wrapped(90, "null")},
    "array of nulls and a truth": {"type": "array", "items": record("N", field("boolean"), *nulls(5_000))},
    "array of optional nulls": {"type": "array", "items": ["null", record("N", *nulls(5_000))]},
    "map of nulls": {"type": "map", "values": record("N", *nulls(5_000))},
    "array in an array": {
        "type": "array",
        "items": {"type": "array", "items": record("N", field("boolean"), *nulls(5_000))},
    },
    "array of records of records": {
        "type": "array",
        "items": record(
            "N", field("boolean"), field(record("M", *nulls(90)), "m"), *(field("M", f"m{n}") for n in range(9))
        ),
    },
}
DEFAULTS = {
    "as many symbols as items": (
        {"type": "array", "items": {"type": "enum", "name": "E", "symbols": [f"S{n}" for n in range(40_000)]}},
        [f"S{n}" for n in range(40_000)],
    ),
    "a symbol far back": (
        {"type": "array", "items": {"type": "enum", "name": "E", "symbols": [f"S{n}" for n in range(40_000)]}},
        ["S39999"] * 5_000,
    ),
    "many records that are filled in": (
        {"type": "array", "items": record("M", *(field("int", f"f{n}", default=n) for n in range(100)))},
        [{}] * 10_000,
    ),
    "a long text, many times": (
        {"type": "array", "items": record("M", field("string", default="x" * 100_000))},
        [{}] * 1_000,
    ),
}


@pytest.fixture(autouse=True)
def quick():
    """A second on an idle machine; what is meant is never, and all memory."""
    began = time.process_time()
    yield
    assert time.process_time() - began < QUICK_S


@pytest.mark.parametrize("bomb", BOMBS)
def test_schema_that_is_too_large_once_written_out_is_refused(bomb):
    assert {one.rule for one in resolve(BOMBS[bomb]).flaws} == {"too-large-expanded"}
    assert check(BOMBS[bomb], BOMBS[bomb])[0].rule == "too-large-expanded"


@pytest.mark.parametrize("bomb", BOMBS)
def test_record_of_such_a_schema_is_undecodable_with_the_reason(bomb):
    reader = AvroReader(event(), lambda _: json.dumps(BOMBS[bomb]))
    for _ in range(2):
        with pytest.raises(
            Undecodable, match=r"Schema 7 is no Avro schema that can be read safely: .*too-large-expanded"
        ):
            reader.decode(b"\x00\x00\x00\x00\x07\x02\x00")


@pytest.mark.parametrize("items", LAZY)
def test_items_with_many_places_for_few_bytes_are_refused(items):
    [flaw] = resolve(event(field(LAZY[items]))).flaws
    assert flaw.rule == "zero-width-items"
    reader = AvroReader(event(), lambda _: json.dumps(event(field(LAZY[items]))))
    with pytest.raises(Undecodable, match="zero-width-items"):
        reader.decode(b"\x00\x00\x00\x00\x07\x02" + b"\x80\x80\x40" + bytes(1_000_000))


def test_items_of_usual_schemas_with_optional_fields_are_taken():
    items = record(
        "Line", *(field(["null", "string"], f"f{n}", default=None) for n in range(300)), field("null", "reserved")
    )
    assert resolve(event(field({"type": "array", "items": items}))).flaws == ()
    assert resolve(event(field({"type": "array", "items": wrapped(5)}))).flaws == ()
    optional = ["null", record("A", field(["null", record("B", field(["null", record("C", field("string"))]))]))]
    assert resolve(event(field({"type": "array", "items": record("D", field(optional))}))).flaws == ()
    assert resolve(event(field({"type": "map", "values": items}))).flaws == ()


@pytest.mark.parametrize("case", DEFAULTS)
def test_defaults_that_make_too_many_values_are_refused_and_forgiven_of_a_writer(case):
    of, default = DEFAULTS[case]
    schema = event(field(of, default=default))
    [flaw] = resolve(schema).flaws
    assert (flaw.path, flaw.rule) == ("Order.a", "too-large-expanded")
    # Nobody reads by the defaults of a writer.
    for_fastavro(as_written(schema))


def test_name_twice_at_the_end_of_a_large_object_is_found_at_once():
    text = "{" + ", ".join(f'"n{n}": 1' for n in range(110_000)) + ', "n109999": 2}'
    with pytest.raises(ValueError, match='"n109999" appears twice'):
        schema_files.parse(text)


@pytest.mark.parametrize(
    "schema",
    [
        event(field("int", aliases=[f"a{n}" for n in range(60_000)])),
        {**event(), "namespace": "n" * 300, "aliases": [f"a{n}" for n in range(60_000)]},
        event(field({"type": "enum", "name": "E", "symbols": [f"S{n}" for n in range(60_000)]})),
        {**event(), "doc": "x" * 1_000_000},
        event(*(field(f"unknown{n}", f"f{n}") for n in range(9_000))),
        event(field({"type": "record", "name": "n" * 900_000, "fields": []})),
        {**event(), "namespace": "n" * 900_000},
    ],
    ids=["aliases", "aliases of a type", "symbols", "doc", "unknown types", "name", "namespace"],
)
def test_large_words_cost_no_more_than_their_size(schema):
    flaws = resolve(schema).flaws
    assert len(flaws) <= 100
    assert sum(len(str(one)) for one in flaws) < 50_000
    check(schema, schema)


def test_flood_of_schemas_is_forgotten_oldest_first(monkeypatch):
    asked = count()
    texts = {number: json.dumps(event() | {"doc": "x" * 1000, "n": number}) for number in range(30)}

    def schema_by_id(number):
        next(asked)
        return texts[number]

    monkeypatch.setattr(avro, "KEPT_CHARACTERS_MAX", 10_000)
    reader = AvroReader(event(), schema_by_id)
    for number in range(30):
        assert reader.decode(b"\x00\x00\x00\x00" + bytes([number, 2])) == {"id": 1}
        assert len(reader._reads) <= 10
    kept = [reader._reads, reader._runs, reader._schemas, reader._columns, reader._typed]
    assert max(map(len, kept)) <= 10
    assert reader.decode(b"\x00\x00\x00\x00\x1d\x02") == {"id": 1}
    assert next(asked) == 30
    assert reader.decode(b"\x00\x00\x00\x00\x00\x02") == {"id": 1}


def test_flood_of_schemas_that_cannot_be_read_is_forgotten_too(monkeypatch):
    monkeypatch.setattr(avro, "REFUSALS_MAX", 10)
    reader = AvroReader(event(), lambda number: json.dumps(event(name=f"Other{number}")))
    for number in range(30):
        with pytest.raises(OtherEvent, match=f"Schema {number} is shop.Other{number}, not shop.Order"):
            reader.decode(b"\x00\x00\x00\x00" + bytes([number, 2]))
    assert len(reader._refusals) <= 10
