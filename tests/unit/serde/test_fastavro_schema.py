"""What fastavro alone reads wrongly, and reads right with a schema made for it."""

import io
from datetime import UTC, date, datetime
from decimal import Decimal

import fastavro
import pytest

from pipeline.serde.fastavro_schema import for_fastavro

LINE = {"type": "record", "name": "Line", "fields": [{"name": "sku", "type": "string"}]}
DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}


def record(*fields):
    return {"type": "record", "name": "Order", "namespace": "shop", "fields": list(fields)}


def field(name, of, **more):
    return {"name": name, "type": of, **more}


def through(writer, reader, datum, parse=for_fastavro):
    data = io.BytesIO()
    fastavro.schemaless_writer(data, parse(writer), datum)
    data.seek(0)
    return fastavro.schemaless_reader(data, parse(writer), parse(reader))


def test_type_named_in_a_union_of_the_reader_is_read():
    writer = record(field("a", LINE), field("b", "Line"))
    reader = record(field("z", ["null", LINE], default=None), field("b", "Line"), field("a", ["null", "Line"]))
    datum = {"a": {"sku": "x"}, "b": {"sku": "y"}}
    with pytest.raises(TypeError):
        through(writer, reader, datum, fastavro.parse_schema)
    assert through(writer, reader, datum) == {**datum, "z": None}


@pytest.mark.parametrize(
    ("of", "default", "value"),
    [
        ("bytes", "\u00ff", b"\xff"),
        (DECIMAL, "\u0001", Decimal("0.01")),
        ([DECIMAL, "null"], "\u0001", Decimal("0.01")),
        ({"type": "long", "logicalType": "timestamp-millis"}, 0, datetime(1970, 1, 1, tzinfo=UTC)),
        ({"type": "int", "logicalType": "date"}, 1, date(1970, 1, 2)),
        ({"type": "fixed", "name": "F", "size": 2}, "ab", b"ab"),
        ({"type": "array", "items": ["bytes", "null"]}, ["\u00ff"], [b"\xff"]),
        ({"type": "map", "values": DECIMAL}, {"k": "\u0001"}, {"k": Decimal("0.01")}),
        (["null", "bytes"], None, None),
        ({**LINE, "fields": [field("sku", "bytes"), field("n", DECIMAL, default="\u0002")]}, {"sku": "\u00ff"}, ...),
    ],
)
def test_default_of_an_added_field_is_a_value_of_its_type(of, default, value):
    expected = {"sku": b"\xff", "n": Decimal("0.02")} if value is ... else value
    reader = record(field("a", "int"), field("new", of, default=default))
    assert through(record(field("a", "int")), reader, {"a": 1}) == {"a": 1, "new": expected}


def test_unsound_schema_is_refused():
    with pytest.raises(ValueError, match="recursive-schema"):
        for_fastavro(record(field("a", ["null", "Order"])))
    with pytest.raises(ValueError, match="zero-width-items"):
        for_fastavro(record(field("a", {"type": "array", "items": "null"})))
