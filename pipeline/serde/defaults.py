"""Is a field's default a value of its type? Where not, where in it, and why.

Readers differ in what they make of a default that is none: one fails when it is built, one reads another value, one leaves
the field out. Judged is what every one of them takes, and what fastavro reads as the value that Java reads.
Source: https://avro.apache.org/docs/1.12.0/specification/#complex-types, "default"
"""

import json
import math
import struct
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.serde.logical_types import no_value
from pipeline.serde.schema_weight import PLACES_MAX

Json = Any

_INT_BITS = {"int": 31, "long": 63}
# Text of a default counts as a value for each so many characters: it is copied where it is filled in.
_TEXT_PER_VALUE = 64
_SYMBOLS_PER_VALUE = 100


class Misfit(Exception):
    """The default is none of its type: why, with the place in it."""


class TooMany(Exception):
    """The defaults of the schema make more values than any reader should have to fill in."""


class Defaults:
    """Judges the defaults of one schema, in the order in which its fields are defined.

    `names` has the definition of each named type. All defaults together may make `PLACES_MAX` values, those included that
    a default leaves out because the field has a default of its own.
    """

    def __init__(self, names: Mapping[str, dict[str, Json]]) -> None:
        self._names = names
        self._symbols: dict[str, frozenset[str]] = {}
        # How many values the default of each field makes, by the identity of its node, which the schema keeps alive.
        self._made: dict[int, int] = {}
        self._values = 0
        self._left = PLACES_MAX
        self.spent = False

    def judge(self, field: dict[str, Json]) -> None:
        """Raise `Misfit` where the default of this field is none of its type, `TooMany` where it is one too many."""
        self._values = 0
        self._fits(field["type"], field["default"], "")
        self._made[id(field)] = self._values
        self._left -= self._values

    def _count(self, values: int) -> None:
        self._values += values
        if self._values > self._left:
            self.spent, self._left = True, -1
            raise TooMany(f"the defaults of all fields make more than {PLACES_MAX:,} values")

    def _fits(self, node: Json, value: Json, at: str) -> None:
        if isinstance(node, list):
            try:
                return self._fits(node[0], value, at)
            except Misfit as error:
                raise Misfit(f"{error} (of a union: its first branch)" if not at else str(error)) from None
        it = self._names.get(node, {"type": node}) if isinstance(node, str) else node
        kind = it["type"]
        self._count(1)
        if kind == "array":
            self._require(isinstance(value, list), value, it, at)
            for number, one in enumerate(value):
                self._fits(it["items"], one, f"{at}[{number}]")
        elif kind == "map":
            self._require(isinstance(value, dict), value, it, at)
            for key, one in value.items():
                self._require(_is_text(key), key, it, at)
                self._fits(it["values"], one, f"{at}{{{short(key, 20)}}}")
        elif kind == "record":
            self._require(isinstance(value, dict), value, it, at)
            self._fits_record(it, value, at)
        else:
            self._require(self._fits_scalar(it, kind, value), value, it, at)
            why = no_value(it, kind, value)
            if why is not None:
                raise Misfit(f"the default {_said(value, at)} is no {it['logicalType']}: {why}")
        return None

    def _fits_record(self, it: dict[str, Json], value: dict[str, Json], at: str) -> None:
        known = {one["name"]: one for one in it["fields"]}
        for name in value:
            if name not in known:
                raise Misfit(f"the default names {short(name)}{_place(at)}, which is no field of {it['name']}")
        for name, one in known.items():
            if name in value:
                self._fits(one["type"], value[name], f"{at}.{name}")
            elif "default" in one:
                self._count(self._made.get(id(one), 1))
            else:
                raise Misfit(f"the default leaves out {it['name']}.{name}{_place(at)}, which has no default of its own")

    def _fits_scalar(self, it: dict[str, Json], kind: str, value: Json) -> bool:
        if kind in _INT_BITS:
            return _is_int(value) and -(1 << _INT_BITS[kind]) <= value < 1 << _INT_BITS[kind]
        if isinstance(value, str):
            self._count(len(value) // _TEXT_PER_VALUE)
            return self._fits_text(it, kind, value)
        check = _SCALARS.get(kind)
        return check is not None and check(value)

    def _fits_text(self, it: dict[str, Json], kind: str, value: str) -> bool:
        if kind == "string":
            return _is_text(value)
        if kind == "enum":
            if it["name"] not in self._symbols:
                self._symbols[it["name"]] = frozenset(it["symbols"])
            # Whoever makes the value looks through the symbols for it.
            self._count(len(it["symbols"]) // _SYMBOLS_PER_VALUE)
            return value in self._symbols[it["name"]]
        # Bytes are written as text, one code point of U+0000 to U+00FF for each.
        return _is_latin(value) and (kind == "bytes" or (kind == "fixed" and len(value) == it["size"]))

    @staticmethod
    def _require(fits: bool, value: Json, it: dict[str, Json], at: str) -> None:
        if not fits:
            kind = f"{it['type']} {it['name']}" if "name" in it else it["type"]
            raise Misfit(f"the default {_said(value, at)} is not of the field's type: no {kind}")


def _is_float(value: Json) -> bool:
    """A number that a float holds without becoming infinite; a whole one in 64 bits: readers leave larger ones out."""
    if not _is_double(value):
        return False
    try:
        struct.pack("<f", value)
    except OverflowError:
        return False
    return True


def _is_double(value: Json) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return _is_int(value) and -(1 << 63) <= value < 1 << 63


_SCALARS: dict[str, Callable[[Json], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "float": _is_float,
    "double": _is_double,
}


def short(value: Json, most: int = 60) -> str:
    """The value as JSON, cut so that it fits into a message, in characters that can be written anywhere."""
    text = json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= most else f"{text[:most]}…"


def _said(value: Json, at: str) -> str:
    return f"{short(value)}{_place(at)}"


def _place(at: str) -> str:
    return f" at {at.lstrip('.')}" if at else ""


def _is_text(value: str) -> bool:
    """Half of a surrogate pair is no text: nobody can write it."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_latin(value: str) -> bool:
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True


def _is_int(value: Json) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
