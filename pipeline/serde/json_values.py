"""Values as JSON says them into the values that Avro writes: text for decimals, times and uuids, one character a byte.

What JSON says is kept to the last digit, or refused: the writer then checks the rest (`exact_writer`).
"""

import json
import math
import re
import struct
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Context, Decimal, InvalidOperation
from typing import Any

from pipeline.core.branches import Branch, branch_of
from pipeline.errors import Invalid
from pipeline.serde.avro_schema import Json, Resolved, label
from pipeline.serde.exact_values import Out, Unfit, Write
from pipeline.serde.exact_writer import ExactWriter
from pipeline.serde.logical_values import logical_of, uuid_of

_FLOATS = {"float": struct.Struct("<f"), "double": struct.Struct("<d")}
_is_number = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?", re.ASCII).fullmatch
# Python cuts a fraction of a second after six digits.
_too_fine = re.compile(r"[.,]\d{6}\d*[1-9]", re.ASCII).search


class JsonValues:
    """Gives what JSON says the types of one sound schema; what has its type already stays."""

    def __init__(self, resolved: Resolved) -> None:
        self._resolved = resolved
        self._writer = ExactWriter(resolved)
        self._writes: dict[str, Write] = {}

    def typed(self, value: Any) -> Any:
        """The value of a whole datum; `Invalid` names the place of what is none.

        A field that the schema does not have is refused: the writer would drop it without a word.
        """
        return self._datum(self._resolved.root, value, "value")

    def _datum(self, node: Json, value: Any, path: str) -> Any:
        it = self._resolved.definition(node)
        if isinstance(it, list):
            return self._branch([self._resolved.definition(one) for one in it], value, path)
        kind = it["type"]
        if kind == "record" and isinstance(value, dict):
            fields = {one["name"]: one["type"] for one in it["fields"]}
            unknown = value.keys() - fields.keys()
            if unknown:
                raise Invalid(f"{path}: the schema has no field {', '.join(sorted(map(str, unknown)))}")
            return _like(value, {name: self._datum(fields[name], one, f"{path}.{name}") for name, one in value.items()})
        if kind == "map" and isinstance(value, dict):
            return _like(value, {key: self._datum(it["values"], one, f"{path}.{key}") for key, one in value.items()})
        if kind == "array" and isinstance(value, list):
            return [self._datum(it["items"], one, f"{path}[{number}]") for number, one in enumerate(value)]
        return _scalar(it, value, path)

    def _branch(self, branches: list[dict[str, Json]], value: Any, path: str) -> Any:
        """What has the type of a branch already stays; else the first branch that takes what JSON says."""
        if not isinstance(value, (dict, list)) and any(self._takes(one, value) for one in branches):
            return value
        named = [
            one for one in branches if branch_of(value) is not None and one.get("name", one["type"]) == branch_of(value)
        ]
        found, problems = [], []
        for one in named or branches:
            try:
                typed = self._datum(one, value, path)
            except Invalid as error:
                problems.append(str(error))
                continue
            if named or self._takes(one, typed):
                found.append((label(one), typed))
        if not found:
            raise Invalid(f"{path}: no branch fits: {'; '.join(problems) or f'none of {_listed(branches)}'}")
        if len(found) > 1 and isinstance(value, dict):
            raise Invalid(f"{path}: it may be {' and '.join(name for name, _ in found)}, and JSON does not say which")
        return found[0][1]

    def _takes(self, it: dict[str, Json], value: Any) -> bool:
        name = it.get("name") or json.dumps(it, sort_keys=True)
        if name not in self._writes:
            self._writes[name] = self._writer.of(it)
        try:
            self._writes[name](value, Out())
        except Unfit:
            return False
        return True


def _like(value: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    """Of the same branch of its union."""
    return Branch(value.branch, content) if isinstance(value, Branch) else content


def _listed(branches: list[dict[str, Json]]) -> str:
    return ", ".join(map(label, branches))


def _scalar(it: dict[str, Json], value: Any, path: str) -> Any:
    logical = logical_of(it)
    kind = it["type"]
    try:
        if logical.endswith("decimal"):
            return _decimal(value)
        if logical in _TEXTS:
            return _TEXTS[logical](value) if isinstance(value, str) else value
        if kind in _FLOATS and isinstance(value, Decimal):
            return _nearest(kind, value)
        if kind in {"bytes", "fixed"} and isinstance(value, str):
            return value.encode("latin-1")
    except (InvalidOperation, ValueError) as error:
        reason = f": {error}" if isinstance(error, _Reason) else ""
        raise Invalid(f"{path}: {_shown(value)} is no {it.get('logicalType') if logical else kind}{reason}") from error
    return value


class _Reason(ValueError):
    """What is worth saying beside the value itself."""


def _decimal(value: Any) -> Any:
    if isinstance(value, str) and not _is_number(value):
        raise _Reason("write it in the digits 0 to 9, such as 1000.00")
    return Decimal(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else value


def _nearest(kind: str, value: Decimal) -> float:
    """The float that JSON's number means: the nearest one, where that reads as the same digits again."""
    packing = _FLOATS[kind]
    try:
        near: float = packing.unpack(packing.pack(float(value)))[0]
    except OverflowError:
        near = math.inf
    digits = Context(prec=len(value.as_tuple().digits))
    if not math.isfinite(near) or digits.create_decimal(Decimal(near)) != value:
        raise _Reason("its digits would be rounded, use a decimal")
    return near


def _moment(text: str) -> datetime:
    found = datetime.fromisoformat(_exact(text))
    if found.tzinfo is None:
        raise _Reason("a time needs a zone, such as 2026-01-31T08:00:00Z")
    return found


def _exact(text: str) -> str:
    if _too_fine(text):
        raise _Reason("it has more digits than a microsecond, which would be cut off")
    return text


_TEXTS: dict[str, Callable[[str], Any]] = {
    "string-uuid": uuid_of,
    "int-date": date.fromisoformat,
    "int-time-millis": lambda text: time.fromisoformat(_exact(text)),
    "long-time-micros": lambda text: time.fromisoformat(_exact(text)),
    "long-timestamp-millis": _moment,
    "long-timestamp-micros": _moment,
    "long-local-timestamp-millis": lambda text: datetime.fromisoformat(_exact(text)),
    "long-local-timestamp-micros": lambda text: datetime.fromisoformat(_exact(text)),
}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."  # noqa: PLR2004  # characters in a message
