"""Values that hold no other, each exactly as its Avro type holds it, or refused with the reason.

The half of `exact_writer` that knows numbers, texts, bytes, amounts and times.
"""

import json
import re
import struct
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Context, Decimal
from numbers import Integral, Real
from typing import Any
from uuid import UUID

from pipeline.serde.avro_schema import Json
from pipeline.serde.compiled_writer import zigzag
from pipeline.serde.logical_values import DAYS_SHIFT, EPOCH, LOCAL_EPOCH, digits_most, logical_of

_BITS = {"int": 32, "long": 64}
_SHOWN_BITS = 256
_SHOWN_CHARACTERS = 40
_is_symbol = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII).fullmatch
# In UTC: what lies outside of the years 1 to 9999 nobody here can read.
_DAYS = range(1 - DAYS_SHIFT, date.max.toordinal() + 1 - DAYS_SHIFT)


class Out(bytearray):
    """What is written, and what is known of values that were tried as branches of unions."""

    def __init__(self) -> None:
        super().__init__()
        # With the value, which so keeps its identity for itself.
        self.tried: dict[tuple[int, int], tuple[Any, bytes | Unfit]] = {}

    def beside(self) -> "Out":
        """Another one, to try something in."""
        other = Out()
        other.tried = self.tried
        return other


Write = Callable[[Any, Out], None]


class Unfit(Exception):
    """A value is none of its type. `path` is its place, from within; `certain` where no other branch may be tried."""

    def __init__(self, reason: str, *, certain: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.certain = certain
        self.path: list[str] = []

    def at(self, step: str) -> "Unfit":
        """The same, seen from around it."""
        self.path.append(step)
        return self

    def __str__(self) -> str:
        where = "".join(reversed(self.path)).removeprefix(".")
        return f"{where}: {self.reason}" if where else self.reason


def other(value: Any, wanted: str, instead: str) -> Unfit:
    """What it is in place of what was wanted; never the value itself: it may be personal."""
    kind = type(value).__name__
    return Unfit(f"{'an' if kind[:1] in 'aeiou' else 'a'} {kind} is no Avro {wanted}: {instead}")


def shown(text: Any) -> str:
    return json.dumps(str(text)[:_SHOWN_CHARACTERS])


def scalar(it: dict[str, Json]) -> Write:
    logical = logical_of(it)
    kind = it["type"]
    if logical.endswith("decimal"):
        return _decimals(it)
    if logical:
        return _LOGICAL[logical]
    if kind in _BITS:
        return _whole_numbers(kind)
    if kind == "fixed":
        return _fixed(it["name"], int(it["size"]))
    return _enum(it) if kind == "enum" else _PLAIN[kind]


def _null(value: Any, _: Out) -> None:
    if value is not None:
        raise other(value, "null", "give None")


def _boolean(value: Any, out: Out) -> None:
    if type(value) is not bool:
        raise other(value, "boolean", "give True or False")
    out += b"\1" if value else b"\0"


def _whole_numbers(kind: str) -> Write:
    bits = _BITS[kind]
    least, most = -(1 << bits - 1), (1 << bits - 1) - 1

    def whole(value: Any, out: Out) -> None:
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise other(value, kind, "give an int")
        number = int(value)
        if not least <= number <= most:
            said = str(number) if number.bit_length() <= _SHOWN_BITS else f"a number of {number.bit_length()} bits"
            raise Unfit(f"{said} is out of range for Avro {kind} ({bits}-bit)")
        _same(number, value, kind)
        out += zigzag(number)

    return whole


def _floats(kind: str) -> Write:
    packing = struct.Struct("<f" if kind == "float" else "<d")
    bits = 32 if kind == "float" else 64

    def write(value: Any, out: Out) -> None:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise other(value, kind, "give a float")
        try:
            packed = packing.pack(float(value))
        except (OverflowError, ValueError, TypeError):
            raise Unfit(f"the number is out of range for Avro {kind} ({bits}-bit)") from None
        kept = packing.unpack(packed)[0]
        if kept != value and value == value:  # noqa: PLR0124  # a NaN is equal to nothing
            instead = "use a double, or round it first" if kind == "float" else "use a long or a decimal"
            raise Unfit(f"the number is not exactly an Avro {kind} ({bits}-bit), and is not rounded: {instead}")
        out += packed

    return write


def text(value: Any, out: Out) -> None:
    if not isinstance(value, str):
        raise other(value, "string", "give a str")
    plain = str.__str__(value)
    try:
        raw = plain.encode()
    except UnicodeEncodeError as error:
        raise Unfit(f"character {error.start} is half of a surrogate pair, which UTF-8 does not have") from None
    _same(plain, value, "string")
    out += zigzag(len(raw))
    out += raw


def _raw(value: Any, wanted: str) -> bytes:
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise other(value, wanted, "give bytes")
    raw = bytes(value)
    _same(raw, value, wanted)
    return raw


def _bytes(value: Any, out: Out) -> None:
    raw = _raw(value, "bytes")
    out += zigzag(len(raw))
    out += raw


def _fixed(name: str, size: int) -> Write:
    def write(value: Any, out: Out) -> None:
        raw = _raw(value, f"fixed {name}")
        if len(raw) != size:
            raise Unfit(f"{len(raw)} bytes are not the {size} of fixed {name}")
        out += raw

    return write


def _enum(it: dict[str, Json]) -> Write:
    symbols = {symbol: zigzag(number) for number, symbol in enumerate(it["symbols"])}

    def write(value: Any, out: Out) -> None:
        if not isinstance(value, str):
            raise other(value, f"enum {it['name']}", "give one of its symbols as a str")
        symbol = str.__str__(value)
        if symbol not in symbols:
            # What may be a symbol is shown; what is longer or other text may be personal.
            shown = repr(symbol) if len(symbol) <= _SHOWN_CHARACTERS and _is_symbol(symbol) else "the text"
            known = ", ".join(list(symbols)[:20]) + (", ..." if len(symbols) > 20 else "")  # noqa: PLR2004
            raise Unfit(f"{shown} is no symbol of enum {it['name']}: {known}")
        _same(symbol, value, "enum")
        out += symbols[symbol]

    return write


def _same(kept: Any, value: Any, wanted: str) -> None:
    """What is a type of its own, an IntEnum or so, has to be equal to what is read back."""
    if type(kept) is not type(value) and not (kept == value):
        raise other(value, wanted, "it would be read back as another value")


# --- logical types


def _decimals(it: dict[str, Json]) -> Write:
    most, scale, fixed = digits_most(it), int(it.get("scale", 0)), it.get("size")
    exact = Context(prec=most + 1)

    def write(value: Any, out: Out) -> None:
        if not isinstance(value, Decimal):
            raise other(value, "decimal", "give a decimal.Decimal")
        if not value.is_finite():
            raise Unfit("a decimal is a finite number")
        # Before any power of ten is made of it.
        if value and value.adjusted() + 1 + scale > most:
            before = value.adjusted() + 1
            raise Unfit(
                f"{before} digits before the point are more than the {most - scale} of Avro decimal({most}, {scale})"
            )
        if value and -value.as_tuple().exponent > scale:  # type: ignore[operator]  # it is finite
            value = _shortened(value, scale)
        number = int(value.scaleb(scale, exact)) if value else 0
        size = (number.bit_length() + 8 >> 3) if fixed is None else int(fixed)
        if fixed is None:
            out += zigzag(size)
        out += number.to_bytes(size, "big", signed=True)

    return write


def _shortened(value: Decimal, scale: int) -> Decimal:
    """The same number with so many digits after the point: zeros that stand behind them are no part of it."""
    sign, digits, exponent = value.as_tuple()
    over = -int(exponent) - scale
    if any(digits[-over:]):
        zeros = len(digits) - len("".join(map(str, digits)).rstrip("0"))
        after = -int(exponent) - zeros
        raise Unfit(
            f"{after} digits after the point are more than the {scale} of its Avro decimal, and none is rounded away"
        )
    return Decimal((sign, digits[:-over], -scale))


def _uuid(value: Any, out: Out) -> None:
    if not isinstance(value, UUID):
        raise other(value, "uuid", "give a uuid.UUID")
    out += b"\x48"
    out += str(value).encode()


def _date(value: Any, out: Out) -> None:
    if not isinstance(value, date) or isinstance(value, datetime):
        lost = "give its .date(), its time would be lost" if isinstance(value, datetime) else "give a datetime.date"
        raise other(value, "date", lost)
    _same(date(value.year, value.month, value.day), value, "date")
    out += zigzag(value.toordinal() - DAYS_SHIFT)


def _times(unit: str) -> Write:
    def write(value: Any, out: Out) -> None:
        if not isinstance(value, time):
            raise other(value, f"time-{unit}", "give a datetime.time")
        if value.tzinfo is not None:
            raise Unfit(f"an Avro time-{unit} has no zone, it would be lost: give the time without one")
        _same(time(value.hour, value.minute, value.second, value.microsecond), value, f"time-{unit}")
        seconds = value.hour * 3600 + value.minute * 60 + value.second
        out += zigzag(_in_unit(seconds * 1_000_000 + value.microsecond, unit, f"time-{unit}"))

    return write


def _timestamps(unit: str) -> Write:
    def write(value: Any, out: Out) -> None:
        if not isinstance(value, datetime):
            raise other(value, f"timestamp-{unit}", "give a datetime.datetime with a zone")
        if value.utcoffset() is None:
            raise Unfit(
                f"the time has no zone, and an Avro timestamp-{unit} is a moment: give it one, such as tzinfo=UTC"
            )
        after = value - EPOCH
        if after.days not in _DAYS:
            raise Unfit("in UTC the time lies outside of the years 1 to 9999")
        _same_moment(EPOCH + after, value)
        out += zigzag(_in_unit(_micros(after), unit, f"timestamp-{unit}"))

    return write


def _local_timestamps(unit: str) -> Write:
    def write(value: Any, out: Out) -> None:
        if not isinstance(value, datetime):
            raise other(value, f"local-timestamp-{unit}", "give a datetime.datetime without a zone")
        if value.tzinfo is not None:
            raise Unfit(f"an Avro local-timestamp-{unit} has no zone, it would be lost: give the time without one")
        after = value - LOCAL_EPOCH
        _same_moment(LOCAL_EPOCH + after, value)
        out += zigzag(_in_unit(_micros(after), unit, f"local-timestamp-{unit}"))

    return write


def _same_moment(kept: datetime, value: datetime) -> None:
    """A kind of datetime may have more than a datetime: nanoseconds, say."""
    if type(value) is not datetime and kept != value:
        raise other(value, "timestamp", "it would be read back as another time")


def _micros(after: timedelta) -> int:
    return (after.days * 86_400 + after.seconds) * 1_000_000 + after.microseconds


def _in_unit(micros: int, unit: str, wanted: str) -> int:
    if unit == "micros":
        return micros
    if micros % 1000:
        raise Unfit(
            f"{micros % 1000} µs below the millisecond do not fit into Avro {wanted}, and are not cut off: cut them first"
        )
    return micros // 1000


_PLAIN: dict[str, Write] = {
    "null": _null, "boolean": _boolean, "float": _floats("float"), "double": _floats("double"), "string": text,
    "bytes": _bytes,
}  # fmt: skip
_LOGICAL: dict[str, Write] = {
    "string-uuid": _uuid,
    "int-date": _date,
    "int-time-millis": _times("millis"),
    "long-time-micros": _times("micros"),
    "long-timestamp-millis": _timestamps("millis"),
    "long-timestamp-micros": _timestamps("micros"),
    "long-local-timestamp-millis": _local_timestamps("millis"),
    "long-local-timestamp-micros": _local_timestamps("micros"),
}
