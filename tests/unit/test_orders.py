"""The domain model: what is taken as an order, and that it says what the contract says."""

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AwareDatetime, Field, TypeAdapter, ValidationError

from pipeline.errors import Invalid, Reject
from pipeline.orders import ORDER_RECORD, OrderPlaced, from_json, generate, refuse_unsellable
from pipeline.serde.avro import AvroReader, AvroWriter

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas/orders.v1-value/v1.avsc").read_text())
GOOD = {"order_id": "1", "customer_id": "c", "amount": "139.12", "timestamp_utc": "2010-12-01T08:26:00Z"}
AVRO_TYPES = {
    "order_id": "string",
    "customer_id": "string",
    "amount": {"type": "bytes", "logicalType": "decimal", "precision": 18, "scale": 2},
    "timestamp_utc": {"type": "long", "logicalType": "timestamp-millis"},
}


def line(**changes: object) -> bytes:
    return json.dumps(GOOD | changes).encode()


def test_model_drifting_from_the_newest_schema_is_found() -> None:
    newest = max((Path(__file__).parents[2] / "schemas/orders.v1-value").glob("v*.avsc"))
    schema = json.loads(newest.read_text())
    assert f"{schema['namespace']}.{schema['name']}" == ORDER_RECORD
    fields = schema["fields"]
    assert [field["name"] for field in fields] == list(OrderPlaced.model_fields)
    assert {field["name"]: field["type"] for field in fields} == AVRO_TYPES
    decimal = next(rule for rule in OrderPlaced.model_fields["amount"].metadata if hasattr(rule, "max_digits"))
    assert (decimal.max_digits, decimal.decimal_places) == (18, 2)
    assert OrderPlaced.model_fields["order_id"].annotation is str
    assert OrderPlaced.model_fields["amount"].annotation is Decimal


@pytest.mark.parametrize(
    "names",
    [
        ("order_id", "customer_id", "amount", "timestamp_utc"),
        ("orderId", "customerId", "amount", "timestampUtc"),
        ("OrderId", "CustomerId", "Amount", "TimestampUtc"),
    ],
)
def test_three_spellings_of_the_names_are_one_order(names: tuple[str, ...]) -> None:
    spelt = json.dumps(dict(zip(names, GOOD.values(), strict=True))).encode()
    assert from_json(spelt) == from_json(line())


@pytest.mark.parametrize(
    ("amount", "taken"),
    [("139.12", "139.12"), (139.12, "139.12"), ("1.100", "1.1"), ("-5", "-5"), ("9999999999999999.99", None), (0, "0")],
)
def test_amount_is_taken_exactly(amount: object, taken: str | None) -> None:
    assert from_json(line(amount=amount)).amount == Decimal(taken or str(amount))


@pytest.mark.parametrize(
    "amount", ["139.120", "139.12000000000000000000", "-5.000", "0.000", "9999999999999999.990", "1E+3"]
)
@pytest.mark.parametrize("spelt", [str, Decimal])
def test_amount_with_zeros_beyond_its_scale_is_the_same_number_to_the_model_and_to_the_contract(
    amount: str, spelt: type
) -> None:
    """C# decimals and SQL exports keep them."""
    written = f'"{amount}"' if spelt is str else amount
    order = from_json(line(amount="?").replace(b'"?"', written.encode()))
    assert order.amount == Decimal(amount)
    value = AvroWriter(SCHEMA, 1).encode(order.__dict__)
    assert AvroReader(SCHEMA, lambda _: json.dumps(SCHEMA)).decode(value)["amount"] == Decimal(amount)
    assert AvroWriter(SCHEMA, 1).encode(order.__dict__ | {"amount": Decimal(amount)}) == value


def test_number_with_more_digits_than_a_binary_float_arrives_exactly() -> None:
    text = line(amount=0).replace(b'"amount": 0', b'"amount": 90071992547409.93')
    assert from_json(text).amount == Decimal("90071992547409.93")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (line(amount="1.234"), "amount: Decimal input should have no more than 2 decimal places"),
        (line(amount="99999999999999999.99"), "amount: "),
        (line(amount=True), "amount: "),
        (line().replace(b'"139.12"', b"NaN"), "not valid JSON: expected value at column "),
        (line(amount="NaN"), "amount: Input should be a finite number"),
        (line().replace(b'"139.12"', b"1e400"), "amount: "),
        (line(timestamp_utc="2010-12-01T08:26:00"), "timestamp_utc: Input should have timezone info"),
        (line(timestamp_utc=1291191960), "ISO 8601"),
        (line(timestamp_utc="1291191960"), "ISO 8601"),
        (line(amount="1_000.00"), "amount: an amount is written in the digits 0 to 9"),
        (line(amount="١٢.٥٠"), "amount: an amount is written in the digits 0 to 9"),
        (line(timestamp_utc="0001-01-01T00:00:00+14:00"), "timestamp_utc: in UTC it lies outside the years 1 to 9999"),
        (line(timestamp_utc="9999-12-31T23:59:59.9999-14:00"), "timestamp_utc: in UTC it lies outside the years"),
        (line(customer_id=None), "customer_id: must not be empty"),
        (line(customer_id=""), "customer_id: must not be empty"),
        (line(order_id=536365), "order_id: Input should be a valid string"),
        (line(order_id="   "), "order_id: must not be empty"),
        (line(order_id="x" * 257), "order_id: "),
        (line(extra=1), "extra: Extra inputs"),
        (b'{"order_id": "1", "customer_id": "c", "amount": "1"}', "timestamp_utc: Field required"),
        (line(orderId="2"), "orderId: Extra inputs"),
        (b'{"order_id": "1", "order_id": "2"}', 'not valid JSON: Detected duplicate key "order_id" at column'),
        (b'{"order_id": "1"', "not valid JSON: EOF while parsing an object at column 16"),
        (b'{"order_id": "1\n"', "not valid JSON: control character (\\u0000-\\u001F) found"),
        (b'{\n"order_id": x}', "not valid JSON: expected value at line 2 column 13"),
        (line().replace(b'"139.12"', b"1e999999999999999999999"), "not valid JSON: a number out of range at column "),
        (line().replace(b'"139.12"', b"9" * 5000), "not valid JSON: number out of range at column "),
        (line(order_id="\ud800"), "not valid JSON: "),
        (line(timestamp_utc="2010-02-30T08:26:00Z"), "timestamp_utc: "),
        (line(timestamp_utc="2010-12-01T24:26:00Z"), "timestamp_utc: "),
        (b"[1]", "not a JSON object"),
        (b"\xff\xfe{", "not UTF-8"),
        (b"[" * 100_000, "not valid JSON: recursion limit exceeded"),
    ],
)
def test_what_is_no_order_is_refused_with_field_and_reason(text: bytes, says: str) -> None:
    with pytest.raises(Invalid) as refused:
        from_json(text)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("written", "given_back"),
    [
        ("2010-12-01T08:26:00+14:00", "2010-11-30T18:26:00+00:00"),
        ("2010-12-01T08:26:00.1239999Z", "2010-12-01T08:26:00.123000+00:00"),
        ("1969-12-31T23:59:59.999999Z", "1969-12-31T23:59:59.999000+00:00"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00+00:00"),
        ("9999-12-31T23:59:59.9999Z", "9999-12-31T23:59:59.999000+00:00"),
    ],
)
def test_every_time_that_is_taken_comes_back_from_the_contract_as_it_is(written: str, given_back: str) -> None:
    order = from_json(line(timestamp_utc=written))
    assert order.timestamp_utc.isoformat() == given_back
    value = AvroWriter(SCHEMA, 1).encode(order.__dict__)
    assert AvroReader(SCHEMA, lambda _: json.dumps(SCHEMA)).decode(value) == order.__dict__


@given(st.from_regex(r"-?[0-9]{1,17}(\.[0-9]{1,3})?", fullmatch=True))
def test_amount_in_every_way_of_writing_it_is_what_pydantic_makes_of_it(written: str) -> None:
    assert _taken("amount", written) == _said_by(Annotated[Decimal, Field(max_digits=18, decimal_places=2)], written)


@given(st.from_regex(r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9](\.[0-9]{3})?Z", fullmatch=True))
def test_time_in_the_usual_way_of_writing_is_what_pydantic_makes_of_it(written: str) -> None:
    assert _taken("timestamp_utc", written) == _said_by(AwareDatetime, written)


def _taken(name: str, written: str) -> object:
    try:
        return getattr(from_json(line(**{name: written})), name)
    except Invalid:
        return None


def _said_by(kind: Any, written: str) -> object:
    try:
        return TypeAdapter(kind).validate_python(written)
    except ValidationError:
        return None


@pytest.mark.filterwarnings("error")
def test_order_written_as_json_is_read_as_the_same_order() -> None:
    order = from_json(line(amount="-0.10", timestamp_utc="2010-12-01T08:26:00.120Z"))
    written = order.model_dump_json()
    assert json.loads(written) == {
        "order_id": "1",
        "customer_id": "c",
        "amount": "-0.10",
        "timestamp_utc": "2010-12-01T08:26:00.120000Z",
    }
    assert from_json(written.encode()) == order == OrderPlaced.model_validate_json(written)
    assert order.model_dump() == order.__dict__


def test_json_schema_of_the_model_says_what_is_taken() -> None:
    properties = OrderPlaced.model_json_schema()["properties"]
    assert [each["type"] for each in properties["amount"]["anyOf"]] == ["number", "string"]
    assert (properties["timestamp_utc"]["type"], properties["timestamp_utc"]["format"]) == ("string", "date-time")


def test_refusal_does_not_repeat_the_value() -> None:
    with pytest.raises(Invalid) as refused:
        from_json(line(customer_id=None, amount="secret-amount"))
    assert "secret-amount" not in str(refused.value)


@pytest.mark.parametrize("amount", ["0", "-1.50", "-0.00"])
def test_order_without_an_amount_above_zero_is_no_sale(amount: str) -> None:
    with pytest.raises(Reject, match="not above zero"):
        refuse_unsellable(from_json(line(amount=amount)))


def test_generated_orders_repeat_with_their_seed() -> None:
    assert list(generate(3, seed=1)) == list(generate(3, seed=1))
    assert list(generate(3, seed=1)) != list(generate(3, seed=2))


def taken(**changes: object) -> tuple[Decimal, datetime] | None:
    try:
        found = OrderPlaced.model_validate(GOOD | changes)
    except ValidationError:
        return None
    return found.amount, found.timestamp_utc


@given(
    amount=st.decimals() | st.decimals(places=2) | st.integers(10**17, 10**19).map(lambda it: Decimal(it).scaleb(-2))
)
def test_amount_that_is_a_number_already_is_taken_as_its_text_is(amount: Decimal) -> None:
    assert taken(amount=amount) == taken(amount=str(amount))


@given(at=st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5))])) | st.datetimes())
def test_time_that_is_one_already_is_taken_as_its_text_is(at: datetime) -> None:
    assert taken(timestamp_utc=at) == taken(timestamp_utc=at.isoformat())


CONTROLS = [
    *map(chr, (*range(0x20), *range(0x7F, 0xA0), 0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)))
]


@pytest.mark.parametrize("field", ["order_id", "customer_id"])
def test_id_that_a_terminal_would_obey_is_refused_at_the_edge_and_by_the_worker(field: str) -> None:
    for character in CONTROLS:
        for text in (f"A{character}1", character, f"{character}A", f"A{character}"):
            with pytest.raises(Invalid, match=r"must not hold control characters|must not be empty"):
                from_json(line(**{field: text}))
            with pytest.raises(ValidationError):
                OrderPlaced.model_validate(from_json(line()).model_dump() | {field: text})


def test_id_of_any_other_characters_is_taken() -> None:
    for text in (
        "A 1",
        "\u00e4\u00f6",
        "\u65e5\u672c",
        "\U0001f600",
        "a\u00a0b",
        "x" * 256,
        "a/b?c%d",
        "\u200b",
        "e\u0301",
    ):
        assert from_json(line(order_id=text)).order_id == text
    for blank in (" ", "\u00a0", "\u3000 "):
        with pytest.raises(Invalid, match="order_id: must not be empty"):
            from_json(line(order_id=blank))


ODD = [
    b'"sNaN"', b'"NaN"', b'"Infinity"', b'"1e999999999999"', b"1e999999", b"1e-999999999", b'"-0"', b'"0x10"',
    b"1" + b"0" * 5_000, b'"' + b"9" * 5_000 + b'"', b"true", b"null", b"[]", b'{"a": 1}', b'"9999-12-31T23:59:59-23:59"',
    b'"0001-01-01T00:00:00+23:59"', b'"2026-01-01T00:00:00+99:99"', b'"2026-02-30T00:00:00Z"', b'"2026-W01-1T00:00:00Z"',
    b'"2026-01-01T00:00:00.' + b"1" * 5_000 + b'Z"', b"0.1", b"-1", b'"\\u0000"', b"1.0000000000000000000000000001",
]  # fmt: skip


@pytest.mark.parametrize("name", list(GOOD))
def test_odd_value_is_taken_or_refused_and_never_a_failure(name: str) -> None:
    for value in ODD:
        text = line(**{name: "here"}).replace(b'"here"', value)
        try:
            assert from_json(text)
        except Invalid as refused:
            assert len(str(refused)) < 300  # noqa: PT017  # taken is as well


def test_reasons_are_few_and_short_however_many_names_are_wrong() -> None:
    for wrong in ({f"n{n}": 0 for n in range(100_000)}, {"x" * 500_000 + str(n): 0 for n in range(3)}):
        with pytest.raises(Invalid) as refused:
            from_json(line(**wrong))
        assert len(str(refused.value)) < 2_000
