"""Values as JSON says them into the values that Avro writes: text for decimals and times, one character a byte."""

import json
from datetime import datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from pipeline.errors import InputRefused, Invalid

_PRIMITIVES: dict[str, tuple[type, ...]] = {
    "null": (type(None),),
    "boolean": (bool,),
    "int": (int,),
    "long": (int,),
    "float": (int, float, Decimal),
    "double": (int, float, Decimal),
    "string": (str,),
    "enum": (str,),
    "bytes": (bytes,),
    "fixed": (bytes,),
}


def read_patch(given: str) -> dict[str, Any]:
    """A JSON object, given as such or as the name of a file; numbers stay exact. `InputRefused` for anything else."""
    try:
        text = given if given.lstrip().startswith("{") else Path(given).read_text(encoding="utf-8")
        patch = json.loads(text, parse_float=Decimal)
    except (OSError, ValueError) as error:
        raise InputRefused(f"--patch {given}: no JSON object and no file that holds one: {error}") from error
    if not isinstance(patch, dict):
        raise InputRefused(f"--patch {given}: a merge patch for a record is a JSON object")
    return patch


def typed(node: Any, value: Any, path: str) -> Any:
    """The value for a node of a schema from `for_fastavro`; what has its type already stays. `Invalid` names the place.

    A field that the schema does not have is refused: the writer would drop it without a word.
    """
    if isinstance(node, list):
        return _branch(node, value, path)
    kind = node if isinstance(node, str) else node["type"]
    if isinstance(kind, (dict, list)):
        return typed(kind, value, path)
    if kind in {"record", "map"} and isinstance(value, dict):
        fields = {it["name"]: it["type"] for it in node["fields"]} if kind == "record" else None
        unknown = value.keys() - fields.keys() if fields is not None else ()
        if unknown:
            raise Invalid(f"{path}: the schema has no field {', '.join(sorted(unknown))}")
        return {
            name: typed(node["values"] if fields is None else fields[name], each, f"{path}.{name}")
            for name, each in value.items()
        }
    if kind == "array" and isinstance(value, list):
        return [typed(node["items"], each, f"{path}[{number}]") for number, each in enumerate(value)]
    logical = node.get("logicalType", "") if isinstance(node, dict) else ""
    return _scalar(kind, logical, value, path)


def _branch(node: list[Any], value: Any, path: str) -> Any:
    problems = []
    for branch in node:
        try:
            return typed(branch, value, path)
        except Invalid as error:
            problems.append(str(error))
    raise Invalid(f"{path}: no branch fits: {'; '.join(problems)}")


def _scalar(kind: str, logical: str, value: Any, path: str) -> Any:
    try:
        if logical == "decimal" and isinstance(value, (int, str, Decimal)) and not isinstance(value, bool):
            return Decimal(value)
        if logical.startswith("timestamp-") and isinstance(value, str):
            value = datetime.fromisoformat(value)
            if value.tzinfo is None:
                raise Invalid(f"{path}: a time needs a zone, such as 2026-01-31T08:00:00Z")
        elif kind in {"bytes", "fixed"} and not logical and isinstance(value, str):
            value = value.encode("latin-1")
    except (InvalidOperation, ValueError) as error:
        raise Invalid(f"{path}: {value!r} is no {logical or kind}") from error
    fits = _PRIMITIVES.get(kind, ())
    if not logical and (not isinstance(value, fits) or (isinstance(value, bool) and kind != "boolean")):
        raise Invalid(f"{path}: {value!r} is no {kind}")
    return float(value) if isinstance(value, Decimal) and kind in {"float", "double"} else value
