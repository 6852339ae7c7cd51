"""Which Python value a logical type stands for, read from the plain value below it; and where a logical type is ignored.

The specification ignores a logical type that does not fit its type, and a decimal that makes no sense. Ranges are Python's
(the years 1 to 9999) or Java's, whichever is narrower: a time of day below zero, a decimal of no bytes and a uuid that is not
written in full are no values to either side of `encode` and `decode`.
Source: https://avro.apache.org/docs/1.12.0/specification/#logical-types
"""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Context, Decimal
from typing import Any
from uuid import UUID

Json = Any

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LOCAL_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  # a local timestamp has no zone
DAYS_SHIFT = date(1970, 1, 1).toordinal()
# Beyond so many digits the time that a decimal takes grows with its square.
DIGITS_MAX = 1000
# As in Java: a precision is a 32-bit number. Python's decimals have exponents of a million.
_PRECISION_MAX, _SCALE_MAX = 2**31 - 1, 100_000
# What a logical type gives, as `kind-logicalType`; every other one leaves the plain value as it is.
LOGICAL = frozenset(
    {
        "bytes-decimal", "fixed-decimal", "string-uuid", "int-date", "int-time-millis", "long-time-micros",
        "long-timestamp-millis", "long-timestamp-micros", "long-local-timestamp-millis", "long-local-timestamp-micros",
    }
)  # fmt: skip
_is_uuid = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}").fullmatch
_DAY_MICROS = 86_400_000_000


def logical_of(it: dict[str, Json]) -> str:
    """`kind-logicalType` of a type whose values are not the plain ones; empty where there is none, or it is ignored."""
    kind, logical = it["type"], it.get("logicalType")
    found = f"{kind}-{logical}" if isinstance(logical, str) else ""
    if found not in LOGICAL or (logical == "decimal" and not _makes_a_decimal(it)):
        return ""
    return found


def _makes_a_decimal(it: dict[str, Json]) -> bool:
    precision, scale = it.get("precision"), it.get("scale", 0)
    if type(precision) is not int or type(scale) is not int or not 0 <= scale <= min(precision, _SCALE_MAX):
        return False
    # A size of so many bytes needs no power: its digits are more than anybody reads.
    return 1 <= precision <= _PRECISION_MAX and (it["type"] == "bytes" or precision <= digits_of_size(it["size"]))


def digits_of_size(size: int) -> int:
    """How many decimal digits every number of so many bytes has, one bit of them the sign."""
    bits = 8 * size - 1
    # log10(2), exact enough for every size that a schema may have.
    return max(0, bits * 30_102_999_566 // 100_000_000_000)


def digits_most(it: dict[str, Json]) -> int:
    """How many digits a decimal may have: its precision, as far as that is read in bounded time."""
    return min(int(it["precision"]), DIGITS_MAX)


def value_of(logical: str, it: dict[str, Json]) -> Callable[[Any], Any]:
    """A function from the plain value to the value; it raises `ValueError` or `OverflowError` for what is none."""
    if logical in {"bytes-decimal", "fixed-decimal"}:
        return _decimals(digits_most(it), int(it.get("scale", 0)))
    return _VALUES[logical]


def _decimals(most: int, scale: int) -> Callable[[bytes], Decimal]:
    unit, times = Decimal((0, (1,), -scale)), Context(prec=most).multiply

    def read(raw: bytes) -> Decimal:
        # A byte is 2.41 digits: the comparison keeps `10**most` no larger than the bytes are many.
        if not raw or (len(raw) * 5 > most * 2 and abs(int.from_bytes(raw, "big", signed=True)) >= 10**most):
            raise ValueError(f"a decimal of more than {most} digits" if raw else "a decimal of no bytes")
        return times(Decimal(int.from_bytes(raw, "big", signed=True)), unit)

    return read


def uuid_of(text: str) -> UUID:
    """`ValueError` unless it is written in full: 8-4-4-4-12 hexadecimal digits."""
    if not _is_uuid(text):
        raise ValueError("badly formed hexadecimal UUID string: it is not written as 8-4-4-4-12 digits")
    return UUID(text)


def time_of_day(micros: int) -> time:
    """`ValueError` outside of one day."""
    if not 0 <= micros < _DAY_MICROS:
        raise ValueError("a time of day outside of 00:00 to 24:00")
    seconds, micros = divmod(micros, 1_000_000)
    return time(seconds // 3600, seconds // 60 % 60, seconds % 60, micros)


_VALUES: dict[str, Callable[[Any], Any]] = {
    "string-uuid": uuid_of,
    "int-date": lambda days: date.fromordinal(days + DAYS_SHIFT),
    "int-time-millis": lambda millis: time_of_day(millis * 1000),
    "long-time-micros": time_of_day,
    "long-timestamp-millis": lambda millis: EPOCH + timedelta(milliseconds=millis),
    "long-timestamp-micros": lambda micros: EPOCH + timedelta(microseconds=micros),
    "long-local-timestamp-millis": lambda millis: LOCAL_EPOCH + timedelta(milliseconds=millis),
    "long-local-timestamp-micros": lambda micros: LOCAL_EPOCH + timedelta(microseconds=micros),
}
