"""What a schema guarantees is not checked again, and nothing else is left out."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    AliasChoices,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    NaiveDatetime,
    PlainValidator,
    ValidationError,
    model_validator,
)

from pipeline.core.record import KeepsTyped
from pipeline.orders import OrderPlaced
from pipeline.serde import schema_files
from pipeline.serde.avro import AvroReader, AvroWriter
from pipeline.serde.model_validation import validator

NEWEST = schema_files.load(schema_files.directory(None)).subject("orders.v1-value").newest
ORDER: Any = NEWEST.schema
AMOUNT = {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2}
TIME = {"type": "long", "logicalType": "timestamp-millis"}
# Whatever looks at it refuses it, so that it shows who does not look.
UNSEEN: Any = object()


def record(**types: Any) -> dict[str, Any]:
    return {"type": "record", "name": "R", "fields": [{"name": name, "type": it} for name, it in types.items()]}


def outcome(validate: Any, datum: dict[str, Any]) -> Any:
    try:
        return validate(datum)
    except ValidationError as error:
        return error.errors()


orders = st.fixed_dictionaries(
    {
        "order_id": st.text(max_size=300),
        "customer_id": st.text(max_size=3) | st.just(" \t"),
        "amount": st.decimals(-(10**16) + 1, 10**16 - 1, places=2),
        "timestamp_utc": st.integers(-62135596800000, 253402300799999).map(
            lambda ms: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
        ),
    }
)


@given(orders)
def test_what_was_read_becomes_the_same_order_or_is_refused_for_the_same_reasons(datum: dict[str, Any]) -> None:
    reader = AvroReader(ORDER, lambda _: NEWEST.text)
    value = AvroWriter(ORDER, 1).encode(datum)
    reader.decode(value)  # from now on its schema is known
    (read,) = reader.decode_run([value])
    lean, whole = outcome(validator(OrderPlaced, ORDER), read), outcome(OrderPlaced.model_validate, read)
    assert lean == whole
    if isinstance(whole, OrderPlaced):
        assert type(lean) is OrderPlaced
        assert lean.model_fields_set == whole.model_fields_set
        assert lean.model_dump_json() == whole.model_dump_json()
        assert hash(lean) == hash(whole)


def looks(field: Any, avro: Any) -> bool:
    """Whether the value of such a field is looked at when it comes by such a schema."""

    class Event(BaseModel):
        it: field

    try:
        return bool(validator(Event, record(it=avro))({"it": UNSEEN}).it is not UNSEEN)
    except ValidationError:
        return True


def test_order_is_not_looked_at_where_its_schema_guarantees_it() -> None:
    datum = {"order_id": "1", "customer_id": "2", "amount": UNSEEN, "timestamp_utc": UNSEEN}
    found = validator(OrderPlaced, ORDER)(datum)
    assert (found.amount, found.timestamp_utc) == (UNSEEN, UNSEEN)
    with pytest.raises(ValidationError):
        validator(OrderPlaced)(datum)


@pytest.mark.parametrize(
    ("field", "avro"),
    [
        (Decimal, AMOUNT),
        (Annotated[Decimal, Field(max_digits=6, decimal_places=2)], AMOUNT),
        (Annotated[Decimal, Field(max_digits=9, decimal_places=3)], AMOUNT),
        (Annotated[Decimal, Field(decimal_places=2)], {**AMOUNT, "type": "fixed", "name": "F", "size": 4}),
        (AwareDatetime, TIME),
        (datetime, {**TIME, "logicalType": "timestamp-micros"}),
        (Annotated[datetime, PlainValidator(lambda value: 1, json_schema_input_type=datetime), KeepsTyped()], TIME),
    ],
)
def test_what_the_schema_guarantees_is_not_looked_at(field: Any, avro: Any) -> None:
    assert not looks(field, avro)


@pytest.mark.parametrize(
    ("field", "avro"),
    [
        (Annotated[Decimal, Field(max_digits=5, decimal_places=2)], AMOUNT),
        (Annotated[Decimal, Field(decimal_places=1)], AMOUNT),
        (Annotated[Decimal, Field(max_digits=6, decimal_places=3)], AMOUNT),  # three before the point, not four
        (Annotated[Decimal, Field(gt=0)], AMOUNT),
        (Annotated[Decimal, Field(multiple_of=5)], AMOUNT),
        (Decimal, ["null", AMOUNT]),
        (Decimal | None, AMOUNT),
        (Decimal, "bytes"),
        (Decimal, TIME),
        (AwareDatetime, AMOUNT),
        (NaiveDatetime, TIME),
        (Annotated[datetime, Field(gt=datetime(2000, 1, 1, tzinfo=UTC))], TIME),
        (AwareDatetime, {**TIME, "logicalType": "local-timestamp-millis"}),
        (AwareDatetime, "long"),
        (str, "string"),
        (Annotated[datetime, PlainValidator(lambda value: 1, json_schema_input_type=datetime)], TIME),
        (Annotated[Decimal, PlainValidator(lambda value: 1, json_schema_input_type=datetime), KeepsTyped()], AMOUNT),
        (Annotated[Decimal, PlainValidator(lambda value: 1), KeepsTyped()], AMOUNT),
    ],
)
def test_what_the_schema_leaves_open_is_looked_at(field: Any, avro: Any) -> None:
    assert looks(field, avro)


def test_field_that_is_found_by_one_of_two_keys_is_looked_at_and_the_other_key_forbidden() -> None:
    class Event(BaseModel):
        model_config = ConfigDict(extra="forbid")
        it: Annotated[Decimal, Field(validation_alias=AliasChoices("it", "other"))]

    validate = validator(Event, record(it=AMOUNT, other=AMOUNT))
    with pytest.raises(ValidationError, match="Extra inputs"):
        validate({"it": Decimal("1.00"), "other": Decimal("2.00")})


def test_key_that_the_model_does_not_know_is_forbidden_still() -> None:
    class Event(BaseModel):
        model_config = ConfigDict(extra="forbid")
        it: str

    with pytest.raises(ValidationError, match="Extra inputs"):
        validator(Event, record(it="string", more="string"))({"it": "1", "more": "2"})


def test_model_that_allows_other_keys_has_its_place_for_them() -> None:
    class Event(BaseModel):
        model_config = ConfigDict(extra="allow")
        it: str

    validate = validator(Event, record(it="string"))
    assert validate({"it": "1"}) == Event(it="1")
    assert validate({"it": "1"}).model_extra == {}


def test_model_that_rewrites_its_input_is_left_as_it_is() -> None:
    class Event(BaseModel):
        it: Decimal

        @model_validator(mode="before")
        @classmethod
        def doubled(cls, data: Any) -> Any:
            return {"it": data["it"] * 2}

    assert validator(Event, record(it=AMOUNT))({"it": Decimal("1.50")}).it == 3
    with pytest.raises((ValidationError, TypeError)):
        validator(Event, record(it=AMOUNT))({"it": UNSEEN})


def test_model_with_a_validation_of_its_own_is_asked() -> None:
    class Event(BaseModel):
        it: Decimal

        @classmethod
        def model_validate(cls, obj: Any, **_: Any) -> "Event":
            return cls(it=Decimal(7))

    assert validator(Event, record(it=AMOUNT))({"it": UNSEEN}).it == 7


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ({"type": "long", "logicalType": "timestamp-micros"}, datetime(2020, 1, 1, microsecond=123456, tzinfo=UTC)),
        ("long", 5),
    ],
)
def test_run_ends_at_a_datum_whose_writer_meant_another_type(written: Any, value: Any) -> None:
    reader, writer = record(at=TIME), record(at=written)
    it = AvroReader(reader, lambda _: json.dumps(writer))
    framed = AvroWriter(writer, 1).encode({"at": value})
    assert it.decode(framed) == {"at": value}
    with pytest.raises(KeyError):
        next(it.decode_run([framed]))


def test_run_ends_at_a_datum_whose_time_is_a_default() -> None:
    reader = record(it="string")
    reader["fields"].append({"name": "at", "type": TIME, "default": 5})
    it = AvroReader(reader, lambda _: json.dumps(record(it="string")))
    framed = AvroWriter(record(it="string"), 1).encode({"it": "1"})
    it.decode(framed)
    with pytest.raises(KeyError):
        next(it.decode_run([framed]))


@pytest.mark.parametrize("was", ["at", "was_at"])
def test_run_goes_on_through_data_of_an_older_schema_with_the_same_types(was: str) -> None:
    reader, writer = record(at=TIME, more={"type": "string"}), record(**{was: TIME})
    reader["fields"][0]["aliases"] = ["was_at"]
    reader["fields"][1]["default"] = "web"
    it = AvroReader(reader, lambda _: json.dumps(writer))
    framed = AvroWriter(writer, 1).encode({was: datetime(2020, 1, 1, tzinfo=UTC)})
    it.decode(framed)
    assert list(it.decode_run([framed])) == [{"at": datetime(2020, 1, 1, tzinfo=UTC), "more": "web"}]
