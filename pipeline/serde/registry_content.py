"""What a registry takes for a schema's content: two texts of one content get one id, and so are one version.

This is Apicurio's canonical form (3.3, tried by asking it for pairs that differ in one thing): Avro Java's own reading of
the text, less the words. Confluent's server tells more texts apart, not fewer.
"""

import json
import struct
from collections.abc import Mapping
from typing import Any

Json = Any

_WORDS = ("doc", "aliases")
# What Avro reserves for some types means nothing on the others, and is not kept there.
_RESERVED = ("name", "namespace", "size", "symbols", "fields", "items", "values")
_OF_KIND = {
    "record": ("name", "fields"),
    "enum": ("name", "symbols"),
    "fixed": ("name", "size"),
    "array": ("items",),
    "map": ("values",),
}


def content(root: Json, names: Mapping[str, dict[str, Json]]) -> str:
    """One line for a resolved schema, equal for texts of one content.

    Left out are docs, aliases, defaults of enums, the default null of a union that begins with null, the usual order, and
    names that Avro reserves where they mean nothing. Numbers are as their type holds them. The order of keys in the default
    of a map or a record counts, as all that is not said here does.
    """
    return json.dumps(_type(root, names), sort_keys=True)


_LAYOUT = ("type", "name", "symbols", "size", "logicalType", "precision", "scale")


def layout(node: Json) -> Json:
    """What the bytes of a datum depend on, and what they mean: equal for schemas of which one may write for the other."""
    if isinstance(node, list):
        return [layout(branch) for branch in node]
    if not isinstance(node, dict):
        return node
    own = (*_OF_KIND.get(node["type"], ()), "type", "logicalType", "precision", "scale")
    kept = {key: node[key] for key in _LAYOUT if key in node and key in own}
    kept |= {key: layout(node[key]) for key in ("items", "values") if key in own}
    if "fields" in own:
        kept["fields"] = [[one["name"], layout(one["type"])] for one in node["fields"]]
    return kept["type"] if set(kept) == {"type"} else kept


def _type(node: Json, names: Mapping[str, dict[str, Json]]) -> Json:
    if isinstance(node, list):
        return [_type(branch, names) for branch in node]
    if not isinstance(node, dict):
        return node
    kind = node["type"]
    own = _OF_KIND.get(kind, ())
    left_out = {*_WORDS, *_RESERVED, *(("default",) if kind == "enum" else ())} - {*own}
    kept: dict[str, Json] = {key: _as_said(value) for key, value in node.items() if key not in left_out}
    if set(kept) == {"type"}:
        return kind
    for key in ("items", "values"):
        if key in own:
            kept[key] = _type(node[key], names)
    if "fields" in own:
        kept["fields"] = [_field(one, names) for one in node["fields"]]
    return kept


def _field(field: dict[str, Json], names: Mapping[str, dict[str, Json]]) -> dict[str, Json]:
    kept = {key: _as_said(value) for key, value in field.items() if key not in (*_WORDS, "type", "order", "default")}
    order = str(field.get("order", "ascending")).lower()
    if order != "ascending":
        kept["order"] = order
    it = field["type"]
    if "default" in field and not (isinstance(it, list) and field["default"] is None and it[0] == "null"):
        kept["default"] = _as_said(_number_as_held(it, field["default"], names))
    return kept | {"type": _type(it, names)}


def _number_as_held(node: Json, value: Json, names: Mapping[str, dict[str, Json]]) -> Json:
    """The default with each number as its type holds it: 1 is 1.0 as a double."""
    if isinstance(node, list):
        return _number_as_held(node[0], value, names)
    it = names.get(node, {"type": node}) if isinstance(node, str) else node
    kind = it["type"]
    if kind in ("float", "double") and isinstance(value, (int, float)):
        return struct.unpack("<f", struct.pack("<f", value))[0] if kind == "float" else float(value)
    if kind == "array" and isinstance(value, list):
        return [_number_as_held(it["items"], one, names) for one in value]
    if kind == "map" and isinstance(value, dict):
        return {key: _number_as_held(it["values"], one, names) for key, one in value.items()}
    if kind == "record" and isinstance(value, dict):
        types = {one["name"]: one["type"] for one in it["fields"]}
        return {key: _number_as_held(types[key], one, names) for key, one in value.items()}
    return value


def _as_said(value: Json) -> Json:
    """With the order of keys, which the line would lose."""
    if isinstance(value, dict):
        return ["{}", *([key, _as_said(one)] for key, one in value.items())]
    return [_as_said(one) for one in value] if isinstance(value, list) else value
