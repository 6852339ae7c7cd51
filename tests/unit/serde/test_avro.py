"""The codec: the same bytes as the client's own, and nothing read that is not exactly one datum of its schema."""

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext, SerializationError
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import Invalid, RegistryUnavailable, SchemaUnknown, Undecodable
from pipeline.kafka.serializer import RegisteredAvroSerializer
from pipeline.orders import OrderPlaced
from pipeline.serde.avro import AvroReader, AvroWriter

TEXT = (Path(__file__).parents[3] / "schemas/orders.v1-value/v1.avsc").read_text()
SCHEMA = json.loads(TEXT)
CONTEXT = SerializationContext("orders.v1", MessageField.VALUE)
ORDER = {
    "order_id": "536365",
    "customer_id": "17850",
    "amount": Decimal("139.12"),
    "timestamp_utc": datetime(2010, 12, 1, 8, 26, tzinfo=UTC),
}
orders = st.fixed_dictionaries(
    {
        "order_id": st.text(min_size=1, max_size=40),
        "customer_id": st.text(min_size=1, max_size=40),
        "amount": st.decimals(min_value=-(10**15), max_value=10**15, places=2, allow_nan=False, allow_infinity=False),
        "timestamp_utc": st.integers(0, 4_000_000_000_000).map(
            lambda ms: datetime.fromtimestamp(ms // 1000, UTC).replace(microsecond=ms % 1000 * 1000)
        ),
    }
)


class Client:
    """The client's own serialisers on its in-memory registry."""

    def __init__(self) -> None:
        registry = SchemaRegistryClient.new_client({"url": "mock://codec"})
        # The mock registry finds a schema only as the serialiser itself registered it.
        self.serializer = AvroSerializer(registry, TEXT, conf={"subject.name.strategy.type": "TOPIC"})
        self.schema_id = int.from_bytes((self.serializer(ORDER, CONTEXT) or b"")[1:5], "big")
        self.deserializer = AvroDeserializer(registry, TEXT, conf={"subject.name.strategy.type": "TOPIC"})


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    yield Client()  # noqa: PT022  # the mock registry has nothing to close


def reader(schema: Any = SCHEMA, writer: Any = SCHEMA) -> AvroReader:
    return AvroReader(schema, lambda schema_id: json.dumps(writer))


@given(order=orders)
def test_bytes_are_the_clients_own(client: Client, order: dict[str, Any]) -> None:
    ours = RegisteredAvroSerializer(AvroWriter(SCHEMA, client.schema_id))
    theirs = client.serializer(order, CONTEXT)
    assert ours(order, CONTEXT) == theirs
    assert ours(OrderPlaced.model_construct(**order), CONTEXT) == theirs


@given(order=orders)
def test_client_and_codec_read_each_other(client: Client, order: dict[str, Any]) -> None:
    ours = AvroWriter(SCHEMA, client.schema_id).encode(order)
    assert client.deserializer(ours, CONTEXT) == order
    assert reader().decode(client.serializer(order, CONTEXT)) == order


def test_serializer_leaves_nothing_to_be_a_tombstone() -> None:
    assert RegisteredAvroSerializer(AvroWriter(SCHEMA, 1))(None, CONTEXT) is None


@pytest.mark.parametrize(
    "change",
    [{"amount": Decimal("1.234")}, {"amount": Decimal("99999999999999999.99")}, {"order_id": 1}, {"customer_id": None}],
)
def test_datum_that_does_not_fit_is_refused_and_never_rounded(change: dict[str, Any]) -> None:
    writer = AvroWriter(SCHEMA, 1)
    with pytest.raises(Invalid):
        writer.encode(ORDER | change)
    with pytest.raises(SerializationError):
        RegisteredAvroSerializer(writer)(ORDER | change, CONTEXT)


NUMBERS = {
    "type": "record",
    "name": "Numbers",
    "fields": [
        {"name": "small", "type": "int"},
        {"name": "maybe", "type": ["null", "int"], "default": None},
        {"name": "price", "type": "double", "default": 1.5},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}, "default": 0},
    ],
}


@pytest.mark.parametrize(
    ("datum", "says"),
    [
        ({"small": 2**31}, r"small: 2147483648 is out of range for Avro int \(32-bit\)"),
        ({"small": -(2**31) - 1}, "small: -2147483649 is out of range"),
        ({"small": 1, "maybe": 2**31}, "maybe"),
        ({"small": 1.5}, "small: a float is no Avro int"),
        ({"small": 1, "at": 1.5}, "at: a float is no Avro timestamp-millis"),
        ({"small": True}, "small: a bool is no Avro int"),
        ({"small": 1, "price": True}, "price: a bool is no Avro double"),
        ({"small": 1, "extra": 2}, "extra"),
        ({"maybe": 1}, "small"),
    ],
    ids=[
        "B53-int-of-33-bits", "B53-int-below-32-bits", "B53-int-of-33-bits-in-a-union", "B54-half-for-an-int",
        "B54-half-a-millisecond", "B54-boolean-for-an-int", "B54-boolean-for-a-double", "B55-field-too-many",
        "B56-field-missing",
    ],
)  # fmt: skip
def test_what_would_be_written_as_something_else_is_refused(datum: dict[str, Any], says: str) -> None:
    with pytest.raises(Invalid, match=says):
        AvroWriter(NUMBERS, 1).encode(datum)


def test_fields_with_a_default_may_be_left_out_and_whole_numbers_be_written_as_floating_ones() -> None:
    it = reader(NUMBERS, NUMBERS)
    read = it.decode(AvroWriter(NUMBERS, 1).encode({"small": 2**31 - 1, "price": 2}))
    assert (read["small"], read["maybe"], read["price"]) == (2**31 - 1, None, 2.0)


def test_trailing_bytes_after_a_datum_are_refused() -> None:
    value = AvroWriter(SCHEMA, 1).encode(ORDER)
    with pytest.raises(Undecodable, match="1 bytes are left over"):
        reader().decode(value + b"\x00")


@given(cut=st.integers(5, 30), noise=st.binary(max_size=40))
def test_damaged_bytes_are_undecodable_and_nothing_else(cut: int, noise: bytes) -> None:
    value = AvroWriter(SCHEMA, 1).encode(ORDER)
    damaged = value[:cut] + noise
    try:
        decoded = reader().decode(damaged)
    except Undecodable:
        return
    assert set(decoded) == set(ORDER)


def test_record_of_another_type_with_the_same_fields_is_refused() -> None:
    other = SCHEMA | {"name": "OrderCancelled"}
    value = AvroWriter(other, 7).encode(ORDER)
    with pytest.raises(Undecodable, match=r"Schema 7 is shop\.orders\.OrderCancelled, not shop\.orders\.OrderPlaced"):
        reader(writer=other).decode(value)


def test_record_under_its_old_name_is_read_by_the_alias() -> None:
    renamed = SCHEMA | {"name": "OrderAccepted", "aliases": ["OrderPlaced"]}
    value = AvroWriter(SCHEMA, 1).encode(ORDER)
    assert reader(schema=renamed).decode(value) == ORDER


def test_schema_that_is_no_record_is_refused() -> None:
    with pytest.raises(Undecodable):
        AvroReader(SCHEMA, lambda schema_id: '{"type": "string"}').decode(b"\x00\x00\x00\x00\x01\x02a")
    with pytest.raises(Undecodable):
        AvroReader(SCHEMA, lambda schema_id: "not JSON").decode(b"\x00\x00\x00\x00\x01\x02a")
    with pytest.raises(Undecodable):
        AvroReader(SCHEMA, lambda schema_id: '{"type": "nonsense"}').decode(b"\x00\x00\x00\x00\x01\x02a")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a":' * 5000 + "1" + "}" * 5000, "nested too deeply"),
        (TEXT.replace('"string"', '{"type": "array", "items": ' * 5000 + '"string"' + "}" * 5000, 1), "nested too"),
        (json.dumps(SCHEMA | {"doc": "x" * 5_000_000}), "more than 1048576"),
        (TEXT.replace('"string"', '["null", "shop.Money"]', 1), "unknown-type: shop.Money"),
        (
            TEXT.replace('"string"', json.dumps([{"type": "fixed", "name": f"F{n}", "size": 1} for n in range(3000)]), 1),
            # Before Python 3.13 its compiler gives up on so many branches; from then on it is resolved.
            "RecursionError" if sys.version_info < (3, 13) else "does not take",
        ),
    ],
    ids=[
        "B33-json-nested-5000-deep", "B33-type-nested-5000-deep", "B34-schema-of-5-MB",
        "B35-reference-that-is-not-resolved", "more-branches-than-python-compiles",
    ],
)  # fmt: skip
def test_schema_that_cannot_be_read_is_no_crash_and_is_asked_for_once(text: str, says: str) -> None:
    asked: list[int] = []

    def schema_by_id(schema_id: int) -> str:
        asked.append(schema_id)
        return text

    it = AvroReader(SCHEMA, schema_by_id)
    for _ in range(2):
        with pytest.raises(Undecodable, match=says):
            it.decode(b"\x00\x00\x00\x00\x01\x02a")
    assert asked == [1]


def test_old_records_are_read_with_the_new_fields_default() -> None:
    grown = SCHEMA | {"fields": [*SCHEMA["fields"], {"name": "channel", "type": "string", "default": "web"}]}
    value = AvroWriter(SCHEMA, 1).encode(ORDER)
    assert reader(schema=grown).decode(value) == ORDER | {"channel": "web"}


def test_header_in_the_frame_decides_and_each_id_is_asked_for_once() -> None:
    asked: list[int] = []

    def schema_by_id(schema_id: int) -> str:
        asked.append(schema_id)
        return TEXT

    it = AvroReader(SCHEMA, schema_by_id)
    for schema_id in (3, 4, 3):
        it.decode(AvroWriter(SCHEMA, schema_id).encode(ORDER))
    assert asked == [3, 4]


@pytest.mark.parametrize("error", [SchemaUnknown("no such id"), RegistryUnavailable("no answer")])
def test_registrys_answer_passes_through_and_is_asked_for_again(error: Exception) -> None:
    answers: list[Exception] = [error]

    def schema_by_id(schema_id: int) -> str:
        if answers:
            raise answers.pop()
        return TEXT

    it = AvroReader(SCHEMA, schema_by_id)
    value = AvroWriter(SCHEMA, 1).encode(ORDER)
    with pytest.raises(type(error)):
        it.decode(value)
    assert it.decode(value) == ORDER


def test_timestamp_beyond_the_calendar_is_undecodable() -> None:
    plain = json.loads(TEXT.replace('"logicalType": "timestamp-millis"', '"doc": "raw"'))
    out = BytesIO(b"\x00\x00\x00\x00\x01")
    out.seek(5)
    fastavro.schemaless_writer(out, fastavro.parse_schema(plain), ORDER | {"timestamp_utc": 2**62})
    with pytest.raises(Undecodable):
        reader().decode(out.getvalue())
