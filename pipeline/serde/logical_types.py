"""Logical types: which go with which Avro type, and which values of that type they have.

A reader that meets a logical type where it does not go ignores it, says the specification, and readers differ in what they
take for a value. So both are looked at in the schema, before anybody reads by it.
Source: https://avro.apache.org/docs/1.12.0/specification/#logical-types
"""

import math
import re
from datetime import date, datetime
from typing import Any, NamedTuple

Json = Any

# More digits than any database holds; a number of a million of them takes seconds to read.
DIGITS_MAX = 1000
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  # a difference of two of them, no moment
_DAYS = (date.min - _EPOCH.date()).days, (date.max - _EPOCH.date()).days + 1
_DAY_MS = 86_400_000
_BASES = {
    "decimal": ("bytes", "fixed"),
    "big-decimal": ("bytes",),
    "uuid": ("string", "fixed"),
    "date": ("int",),
    "time-millis": ("int",),
    "time-micros": ("long",),
    "timestamp-millis": ("long",),
    "timestamp-micros": ("long",),
    "timestamp-nanos": ("long",),
    "local-timestamp-millis": ("long",),
    "local-timestamp-micros": ("long",),
    "local-timestamp-nanos": ("long",),
    "duration": ("fixed",),
}
_SIZES = {"duration": 12, "uuid": 16}
_FRACTIONS = {"millis": 1, "micros": 1_000, "nanos": 1_000_000}


class Misuse(NamedTuple):
    """What is wrong with a logical type where it stands: the rule it breaks, why, and what to do about it."""

    rule: str
    reason: str
    fix: str


def misuse(it: dict[str, Json], kind: str, shown: str) -> Misuse | None:
    """Why readers ignore the logical type of `it`, a type of this kind, or cannot read by it; None where they can.

    `shown` is the logical type as it is shown in a message. One that is not known here goes with every type.
    """
    logical = it.get("logicalType")
    if logical is None:
        return None
    bases = _BASES.get(logical, (kind,)) if isinstance(logical, str) else ()
    size = _SIZES.get(logical) if kind == "fixed" and bases else None
    if kind not in bases or size not in (None, it.get("size")):
        reason = f"{shown} does not go with {kind}, so that readers ignore it"
        if kind in bases:
            reason = f"{shown} takes {size} bytes, not {it.get('size')!r:.40}, so that readers ignore it"
        return Misuse("logical-type-misplaced", reason, f"use it on {' or '.join(bases) or 'a type of its own'}")
    return _bad_decimal(it, kind) if logical == "decimal" else None


def _bad_decimal(it: dict[str, Json], kind: str) -> Misuse | None:
    precision: Json = it.get("precision")
    scale: Json = it.get("scale", 0)
    if not _is_int(precision) or not _is_int(scale) or not 0 <= scale <= precision or precision < 1:
        reason = f"precision {precision!r:.40} and scale {scale!r:.40} make no decimal"
        return Misuse("bad-decimal", reason, "write precision ≥ 1 and 0 ≤ scale ≤ precision")
    if precision > DIGITS_MAX:
        reason = f"{precision!r:.40} digits are more than {DIGITS_MAX}, which no reader holds in reasonable time"
        return Misuse("bad-decimal", reason, f"write the digits that the amounts have, at most {DIGITS_MAX}")
    size: Json = it.get("size")
    if kind == "fixed" and _is_int(size) and size > 0 and precision > (most := _digits_of(size)):
        reason = f"{size} bytes hold {most} digits, not {precision}, so that readers ignore it"
        return Misuse("bad-decimal", reason, f"write precision {most} or less, or a larger size")
    return None


def _digits_of(size: int) -> int:
    """How many decimal digits every number of so many bytes may have (as Java counts)."""
    return math.floor(math.log10(2) * (8 * size - 1))


def no_value(it: dict[str, Json], kind: str, value: Json) -> str | None:  # noqa: PLR0911  # one for each family
    """Why this JSON value, which fits the type, is none of its logical type; None where it is.

    `it` breaks none of the rules of `misuse`. Bytes are text here, one character each.
    """
    logical = it.get("logicalType")
    if not isinstance(logical, str) or kind not in _BASES.get(logical, ()):
        return None
    if logical == "decimal":
        return _no_decimal(value, it["precision"])
    if logical == "uuid":
        return None if kind == "fixed" or _UUID.fullmatch(value) else "it is no UUID (8-4-4-4-12 hexadecimal digits)"
    family, _, unit = logical.rpartition("-")
    if logical == "date":
        return _outside(value, 1)
    if unit not in _FRACTIONS:
        return None  # any bytes of the right size are one
    of_day = _DAY_MS * _FRACTIONS[unit]
    if family == "time":
        return None if 0 <= value < of_day else "a time of day is not below 0, and less than 24 hours"
    return _outside(value, of_day)


def _outside(value: int, of_day: int) -> str | None:
    """Where so many make a day."""
    return None if _DAYS[0] * of_day <= value < _DAYS[1] * of_day else "it is not within the years 1 to 9999"


def _no_decimal(value: str, precision: int) -> str | None:
    raw = value.encode("latin-1")
    if not raw:
        return "no bytes make no number"
    # So many bytes hold more digits for certain: the number itself is not made.
    most = precision // 2 + 2
    number = abs(int.from_bytes(raw, "big", signed=True)) if len(raw.lstrip(b"\x00\xff")) <= most else None
    if number is None or number >= 10**precision:
        return f"it has more digits than the precision of {precision}"
    return None


def _is_int(value: Json) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
