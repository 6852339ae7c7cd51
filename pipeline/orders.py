"""The domain: what an order is, how it may be written by those who send it, and which orders the shop refuses.

The contract is `schemas/orders.v1-value`; the model says the same in Python, and a test fails when they drift apart.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Annotated, Any

from pydantic import (
    AliasChoices,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from pipeline.core.record import Keyed, Record
from pipeline.errors import Invalid, Misfit, Reject

ORDER_RECORD = "shop.orders.OrderPlaced"
_ISO_DATE_CHARACTERS = 10
_DIGITS = 18
_PENNY = Decimal("0.01")
_TOO_MUCH = Decimal(10) ** (_DIGITS - 2)


def _time_as_text(value: object) -> object:
    """A bare number could mean seconds or milliseconds: only ISO 8601 says what it means."""
    if isinstance(value, datetime):
        return value
    if isinstance(value, str) and value[4:5] == "-" and len(value) > _ISO_DATE_CHARACTERS:
        return value
    raise ValueError("a time is ISO 8601 text with a zone, such as 2010-12-01T08:26:00Z")


def _as_utc(value: datetime) -> datetime:
    """As the contract's `timestamp-millis` gives it back: in UTC, the part below a millisecond cut off."""
    try:
        utc = value.astimezone(UTC)
    except OverflowError:
        raise ValueError("in UTC it lies outside the years 1 to 9999") from None
    return utc.replace(microsecond=utc.microsecond // 1000 * 1000) if utc.microsecond % 1000 else utc


def _moment(value: object, check: ValidatorFunctionWrapHandler) -> object:
    """As it comes out of Avro there is nothing to be done to it, and nearly all come from there."""
    if type(value) is datetime and value.tzinfo is UTC and not value.microsecond % 1000:
        return value
    return _as_utc(check(_time_as_text(value)))


def _plain_digits(value: object) -> object:
    """Python reads `1_000` and the digits of every script; nobody else does."""
    if isinstance(value, str) and ("_" in value or not value.isascii()):
        raise ValueError("an amount is written in the digits 0 to 9, such as 1000.00")
    return value


def _amount(value: object, check: ValidatorFunctionWrapHandler) -> object:
    """The same as for a moment: pydantic counts digits at a third of the time of an order."""
    if type(value) is Decimal and value.same_quantum(_PENNY) and -_TOO_MUCH < value < _TOO_MUCH:
        return value
    return check(_plain_digits(value))


def _spelt(name: str) -> AliasChoices:
    """`order_id`, `orderId` and `OrderId` alike: the C# clients send PascalCase."""
    pascal = name.title().replace("_", "")
    return AliasChoices(name, pascal[0].lower() + pascal[1:], pascal)


_Id = Annotated[str, Field(strict=True, min_length=1, max_length=256, pattern=r"\S")]


class OrderPlaced(BaseModel):
    """A customer placed an order. Amounts have at most two decimals and are never rounded; times have a zone and milliseconds."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, validate_by_name=True)

    order_id: Annotated[_Id, Field(validation_alias=_spelt("order_id"))]
    customer_id: Annotated[_Id, Field(validation_alias=_spelt("customer_id"))]
    amount: Annotated[
        Decimal,
        # In this order: behind a validator, pydantic would check the digits in Python, at twice the time of an order.
        Field(validation_alias=_spelt("amount"), max_digits=_DIGITS, decimal_places=2),
        WrapValidator(_amount),
    ]
    timestamp_utc: Annotated[
        AwareDatetime,
        WrapValidator(_moment),
        Field(validation_alias=_spelt("timestamp_utc")),
    ]


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name appears twice in one object")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number in JSON")


# Numbers stay decimal text all the way: through a binary float, 90071992547409.93 would arrive as ….94.
_json = json.JSONDecoder(
    parse_float=Decimal, parse_int=Decimal, parse_constant=_no_constant, object_pairs_hook=_no_twins
)


def from_json(text: bytes) -> OrderPlaced:
    """The order that one JSON object says, exactly; `Invalid` with field and reason otherwise (never the value)."""
    return from_fields(fields(text))


def fields(text: bytes) -> object:
    """What one JSON text says, its numbers exact; `Invalid` where it is no JSON, or a name appears twice in an object."""
    try:
        return _json.decode(text.decode())
    except UnicodeDecodeError as error:
        raise Invalid(f"not UTF-8: byte {error.start} is 0x{text[error.start]:02x}") from None
    except RecursionError:
        raise Invalid("not an order: nested too deeply") from None
    except json.JSONDecodeError as error:
        # The text is one line of its file: the decoder's own "line 1" would be a second number beside the file's.
        raise Invalid(f"not valid JSON: {error.msg.removesuffix(' at')} at column {error.pos + 1}") from None
    except ValueError as error:
        raise Invalid(f"not valid JSON: {error}") from None


def from_fields(values: object) -> OrderPlaced:
    """The order that these named values say; `Misfit`, an `Invalid`, with each field and reason otherwise."""
    if not isinstance(values, Mapping):
        raise Misfit((("order", "not a JSON object"),))
    try:
        return OrderPlaced.model_validate(values)
    except ValidationError as error:
        raise Misfit(_problems(error)) from None


def _problems(error: ValidationError) -> tuple[tuple[str, str], ...]:
    """Each field that does not fit, with the reason; without the values: they may be personal."""
    return tuple(
        (".".join(map(str, one["loc"])) or "event", _words(one))
        for one in error.errors(include_url=False, include_context=False)
    )


def _words(error: Mapping[str, Any]) -> str:
    kind = error["type"]
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
