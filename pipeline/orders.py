"""The domain: what an order is, how it may be written by those who send it, and which orders the shop refuses.

The contract is `schemas/orders.v1-value`; the model says the same in Python, and a test fails when they drift apart.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Annotated, Any

import jiter
from pydantic import (
    AliasChoices,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    TypeAdapter,
    ValidationError,
)

from pipeline.core.record import KeepsTyped, Keyed, Record
from pipeline.errors import Invalid, Misfit, Reject

ORDER_RECORD = "shop.orders.OrderPlaced"
_ISO_DATE_CHARACTERS = 10
_DIGITS, _DECIMALS = 18, 2
# A body of a megabyte has room for a hundred thousand wrong names: an answer says so, it does not list them.
_NAMES_MAX, _PROBLEMS_MAX, _NAME_CHARACTERS_MAX = 20, 20, 64
_PENNY = Decimal("0.01")
_is_usual_amount = re.compile(r"-?\d{1,16}\.\d\d", re.ASCII).fullmatch
_is_usual_time = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{3})?Z", re.ASCII).fullmatch


def _as_utc(value: datetime) -> datetime:
    """As the contract's `timestamp-millis` gives it back: in UTC, the part below a millisecond cut off."""
    try:
        utc = value.astimezone(UTC)
    except OverflowError:
        raise ValueError("in UTC it lies outside the years 1 to 9999") from None
    return utc.replace(microsecond=utc.microsecond // 1000 * 1000) if utc.microsecond % 1000 else utc


def _moment(value: object) -> datetime:
    """As it comes out of Avro there is nothing to be done to it; the usual text takes a quarter of pydantic's time."""
    if type(value) is datetime and value.tzinfo is UTC and not value.microsecond % 1000:
        return value
    if type(value) is str and _is_usual_time(value):
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            pass  # no such day or hour: pydantic has the words for it
    # A bare number could mean seconds or milliseconds: only ISO 8601 says what it means.
    written = isinstance(value, str) and value[4:5] == "-" and len(value) > _ISO_DATE_CHARACTERS
    if not written and not isinstance(value, datetime):
        raise ValueError("a time is ISO 8601 text with a zone, such as 2010-12-01T08:26:00Z")
    return _as_utc(_ANY_TIME(value))


def _amount(value: object) -> Decimal:
    """The same as for a moment: pydantic counts digits at a third of the time of an order."""
    if type(value) is str and _is_usual_amount(value):
        return Decimal(value)
    if type(value) is Decimal and value.same_quantum(_PENNY) and value.adjusted() < _DIGITS - _DECIMALS:
        return value
    # Python reads `1_000` and the digits of every script; nobody else does.
    if isinstance(value, str) and ("_" in value or not value.isascii()):
        raise ValueError("an amount is written in the digits 0 to 9, such as 1000.00")
    found = _ANY_AMOUNT(value)
    # 139.120 is the same number as 139.12: C# decimals and SQL exports keep zeros.
    return found.quantize(_PENNY) if int(found.as_tuple().exponent) < -_DECIMALS else found


def _zulu(value: datetime) -> str:
    return value.isoformat().removesuffix("+00:00") + "Z"


# How they are written in JSON is said here because a plain validator leaves pydantic without knowledge of what it gives.
_Amount = Annotated[
    Decimal,
    Field(max_digits=_DIGITS, decimal_places=_DECIMALS),
    PlainSerializer(str, return_type=str, when_used="json"),
]
_Moment = Annotated[AwareDatetime, PlainSerializer(_zulu, return_type=str, when_used="json")]
# What pydantic says to what is not written in the usual way.
_ANY_AMOUNT: Callable[[Any], Decimal] = TypeAdapter(_Amount).validator.validate_python
_ANY_TIME: Callable[[Any], datetime] = TypeAdapter(_Moment).validator.validate_python


def _spelt(name: str) -> AliasChoices:
    """`order_id`, `orderId` and `OrderId` alike: the C# clients send PascalCase."""
    pascal = name.title().replace("_", "")
    return AliasChoices(name, pascal[0].lower() + pascal[1:], pascal)


# What a terminal or an editor obeys instead of showing it: C0, DEL, C1, line separators, marks of direction.
_CONTROLS = r"\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
_holds_controls = re.compile(f"[{_CONTROLS}]").search
# At least one character that is seen, and none of those.
ID_PATTERN = rf"^[^{_CONTROLS}]*[^\s{_CONTROLS}][^{_CONTROLS}]*$"
_Id = Annotated[str, Field(strict=True, min_length=1, max_length=256, pattern=ID_PATTERN)]


class OrderPlaced(BaseModel):
    """A customer placed an order. Amounts have at most two decimals and are never rounded; times have a zone and milliseconds."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, validate_by_name=True)

    order_id: Annotated[_Id, Field(validation_alias=_spelt("order_id"))]
    customer_id: Annotated[_Id, Field(validation_alias=_spelt("customer_id"))]
    amount: Annotated[
        _Amount,
        PlainValidator(_amount, json_schema_input_type=_Amount),
        KeepsTyped(),
        Field(validation_alias=_spelt("amount")),
    ]
    timestamp_utc: Annotated[
        _Moment,
        PlainValidator(_moment, json_schema_input_type=_Moment),
        KeepsTyped(),
        Field(validation_alias=_spelt("timestamp_utc")),
    ]


def from_json(text: bytes) -> OrderPlaced:
    """The order that one JSON object says, exactly; `Invalid` with field and reason otherwise (never the value)."""
    return from_fields(fields(text))


def fields(text: bytes) -> object:
    """What one JSON text says, its numbers exact; `Invalid` where it is no JSON, or a name appears twice in an object."""
    try:
        # Numbers stay decimal text all the way: through a binary float, 90071992547409.93 would arrive as ….94.
        return jiter.from_json(
            text, allow_inf_nan=False, cache_mode="keys", catch_duplicate_keys=True, float_mode="decimal"
        )
    except ValueError as error:
        raise Invalid(_no_json(text, str(error))) from None


def _no_json(text: bytes, said: str) -> str:
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8: byte {error.start} is 0x{text[error.start]:02x}"
    what, _, where = said.rpartition(" at line ")
    if what.startswith("Internal error"):
        what = "a number out of range"  # the one thing that Python's Decimal cannot hold
    # A line of a file has its own number there: "line 1" would be a second one beside it.
    return f"not valid JSON: {what} at {where.removeprefix('1 ') if where.startswith('1 ') else f'line {where}'}"


def from_fields(values: object) -> OrderPlaced:
    """The order that these named values say; `Misfit`, an `Invalid`, with each field and reason otherwise."""
    if not isinstance(values, dict):
        raise Misfit((("order", "not a JSON object"),))
    if len(values) > _NAMES_MAX:
        raise Misfit((("order", f"has {len(values)} names; an order has {len(OrderPlaced.model_fields)}"),))
    try:
        return _validated(values)
    except ValidationError as error:
        raise Misfit(_problems(error)) from None


# What `model_validate` calls, without the checks of arguments that are not given.
_validated: Callable[[Any], OrderPlaced] = OrderPlaced.__pydantic_validator__.validate_python


def _problems(error: ValidationError) -> tuple[tuple[str, str], ...]:
    """Each field that does not fit (the first 20), with the reason; without the values: they may be personal."""
    return tuple(
        (".".join(map(str, one["loc"]))[:_NAME_CHARACTERS_MAX] or "event", _words(one))
        for one in error.errors(include_url=False, include_context=False)[:_PROBLEMS_MAX]
    )


def _words(error: Mapping[str, Any]) -> str:
    kind = error["type"]
    if kind == "string_pattern_mismatch" and _holds_controls(error["input"]):
        return "must not hold control characters"
    if kind in {"string_too_short", "string_pattern_mismatch"} or (kind == "string_type" and error["input"] is None):
        return "must not be empty"
    return str(error["msg"]).removeprefix("Value error, ")


def refuse_unsellable(order: OrderPlaced) -> None:
    """The business rule, applied by the handler and nowhere else: a sale has an amount above zero."""
    if order.amount <= 0:
        raise Reject(f"amount {order.amount} is not above zero: a refund or an empty invoice is no sale")


def generate(count: int, seed: int | None = None) -> Iterator[OrderPlaced]:
    """`count` orders that look like the shop's; the same ones for the same seed."""
    random = Random(seed)  # noqa: S311  # test data, not secrets
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(count):
        yield OrderPlaced(
            order_id=f"G{random.getrandbits(64):016x}",
            customer_id=str(random.randrange(12_000, 18_500)),
            amount=Decimal(random.randrange(1, 100_000)).scaleb(-2),
            timestamp_utc=start + timedelta(seconds=number),
        )


def by_customer(event: dict[str, Any], record: Record) -> Keyed:  # noqa: ARG001  # a transform's shape
    """The same order, keyed by its customer: the default transform. It applies no business rule."""
    return Keyed(event["customer_id"], event)
