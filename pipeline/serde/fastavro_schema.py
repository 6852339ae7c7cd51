"""A schema the way fastavro reads right with it: nothing by reference, defaults as values, nothing that harms."""

from io import BytesIO
from typing import Any

import fastavro

from pipeline.serde.avro_schema import Json, resolve


def for_fastavro(schema: Json) -> Any:
    """The parsed schema to hand to fastavro's schemaless reader and writer, as writer's and as reader's schema alike.

    fastavro 1.13 fails on data of a type where the reader has a union that names the type by reference, so every type
    stands in full here; and it fills a missing field with the default as JSON says it (text for bytes, a number for a
    time), so defaults are values of their types here. Raises `ValueError` for a schema that is not sound: a recursive
    one ends the interpreter on a deep datum, and items without width ask for all memory.
    """
    resolved = resolve(schema)
    if resolved.flaws:
        raise ValueError("; ".join(map(str, resolved.flaws)))
    whole: dict[str, Any] = {}
    root = _whole(resolved.root, whole)
    if isinstance(root, list):
        return root
    root = {"type": root} if isinstance(root, str) else root
    return {**root, "__fastavro_parsed": True, "__named_schemas": whole}


def _whole(node: Json, done: dict[str, Any]) -> Any:
    if isinstance(node, str):
        return done.get(node, node)
    if isinstance(node, list):
        return [_whole(branch, done) for branch in node]
    it = dict(node)
    for key in ("items", "values"):
        if key in it:
            it[key] = _whole(it[key], done)
    if "fields" in it:
        it["fields"] = [_field(one, done) for one in it["fields"]]
    if "name" in it:
        done[it["name"]] = it
    return it


def _field(field: dict[str, Json], done: dict[str, Any]) -> dict[str, Any]:
    it = {**field, "type": _whole(field["type"], done)}
    if "default" in field:
        it["default"] = _value(it["type"], field["default"])
    return it


def _value(node: Any, default: Json) -> Any:
    """The default as fastavro would read it, had it been written."""
    if isinstance(node, list):
        return _value(node[0], default)
    # Marked as parsed: to parse it again would refuse a type that stands there twice, and a default that is a value.
    parsed = {**node, "__fastavro_parsed": True, "__named_schemas": {}} if isinstance(node, dict) else node
    data = BytesIO()
    fastavro.schemaless_writer(data, parsed, _raw(node, default))
    data.seek(0)
    return fastavro.schemaless_reader(data, parsed, None)


def _raw(node: Any, default: Json) -> Any:
    if isinstance(node, list):
        return _raw(node[0], default)
    kind = node if isinstance(node, str) else node["type"]
    if kind in ("bytes", "fixed"):
        return default.encode("latin-1")
    if kind == "array":
        return [_raw(node["items"], one) for one in default]
    if kind == "map":
        return {key: _raw(node["values"], one) for key, one in default.items()}
    if kind == "record":
        return {
            one["name"]: _raw(one["type"], default[one["name"]]) for one in node["fields"] if one["name"] in default
        }
    return default
