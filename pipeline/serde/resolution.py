"""How a reader's schema sees what a writer's schema wrote: which branch, which field, by which promotion, or why not.

Avro's rules; where they leave a choice, Java's. A writer's defaults, aliases and docs are never looked at.
Source: https://avro.apache.org/docs/1.12.0/specification/#schema-resolution
"""

from collections import Counter
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any

from pipeline.serde.avro_schema import NAMED, Json, Resolved, label
from pipeline.serde.logical_values import logical_of, value_of

PROMOTIONS = {
    "int": ("long", "float", "double"),
    "long": ("float", "double"),
    "float": ("double",),
    "string": ("bytes",),
    "bytes": ("string",),
}
_FLOAT = Struct("<f")
_MEANING = ("type", "name", "symbols", "size", "logicalType", "precision", "scale")


def same(writer: Resolved, reader: Resolved) -> bool:
    """Whether both mean the same, but for docs, aliases and defaults: then nothing has to be resolved."""
    return bool(_meaning(writer.root) == _meaning(reader.root))


def _meaning(node: Json) -> Json:
    if isinstance(node, str):
        return node
    if isinstance(node, list):
        return [_meaning(one) for one in node]
    it = {key: node[key] for key in _MEANING if key in node}
    it |= {key: _meaning(node[key]) for key in ("items", "values") if key in node}
    if node["type"] == "record":
        it["fields"] = [(one["name"], _meaning(one["type"])) for one in node["fields"]]
    # Written as a name or as an object, it is the same type.
    return it if len(it) > 1 else it["type"]


def mismatch(old: dict[str, Json], new: dict[str, Json]) -> str | None:
    """Why `new`, no union, cannot read `old` at all; None where it can, as far as these two types themselves say."""
    if old["type"] != new["type"]:
        if new["type"] not in PROMOTIONS.get(old["type"], ()):
            return f"{label(old)}, which is not read as {label(new)}"
    elif new["type"] in NAMED and not _is_called(new, old["name"]):
        return f"{old['type']} {old['name']}, which is not {new['name']}"
    elif new["type"] == "fixed" and new["size"] != old["size"]:
        return f"fixed of {old['size']} bytes, which is not read as one of {new['size']}"
    return None


def branch_for(old: dict[str, Json], branches: Sequence[dict[str, Json]]) -> int | None:
    """Which branch of a reader's union reads `old`: its own type, else the first that it may be promoted to."""
    able = [number for number, one in enumerate(branches) if mismatch(old, one) is None]
    exact = [number for number in able if branches[number]["type"] == old["type"]]
    if old["type"] in NAMED:
        names = [number for number in exact if old["name"] in (branches[number]["name"], *_aliases(branches[number]))]
        exact = names or exact
    return next(iter(exact or able), None)


def sources(old: dict[str, Json], new: dict[str, Json]) -> dict[str, dict[str, Json]]:
    """The reader's field for each field of the writer's record that the reader reads; its own name goes before aliases."""
    written = [one["name"] for one in old["fields"]]
    found: dict[str, dict[str, Json]] = {}
    for field in new["fields"]:
        names = [name for name in (field["name"], *_aliases(field)) if name in written and name not in found]
        if names:
            found[names[0]] = field
    return found


def worn(branches: Sequence[dict[str, Json]]) -> list[str]:
    """For each branch of a union the name that its values carry, since another branch's look alike; empty for most."""
    looks = [_look(one) for one in branches]
    count = Counter(looks)
    return [
        (one["name"] if one["type"] in NAMED else one["type"])
        if look and count[look] > 1 and (one["type"] in NAMED or look is dict)
        else ""
        for one, look in zip(branches, looks, strict=True)
    ]


def _look(it: dict[str, Json]) -> type | None:
    """What values of a type are in Python, where a name can be given to them."""
    if logical_of(it):
        return None
    return {"record": dict, "map": dict, "enum": str, "string": str, "fixed": bytes, "bytes": bytes}.get(it["type"])


def keeps_types(writer: Resolved, reader: Resolved) -> bool:
    """Whether each logical type of the reader's fields is the writer's: a value has the type that its writer gave it.

    A default counts as another type: it may be no value of what it stands for.
    """
    written = {field["name"]: field["type"] for field in writer.root["fields"]}
    for field in reader.root["fields"]:
        it = reader.definition(field["type"])
        if isinstance(it, dict) and "logicalType" in it:
            found = [written[name] for name in (field["name"], *_aliases(field)) if name in written]
            if not found or any(_meaning(writer.definition(each)) != _meaning(it) for each in found):
                return False
    return True


def default_value(resolved: Resolved, node: Json, given: Json, wear: Callable[[Json, str, Any], Any]) -> Any:
    """A field's default as the value of its type, made anew; `ValueError`, `TypeError` or so where it is none.

    `wear` makes a value of a union's branch carry its name.
    """
    it: Any = resolved.definition(node)
    if isinstance(it, list):
        branches = [resolved.definition(one) for one in it]
        return wear(branches[0], worn(branches)[0], default_value(resolved, it[0], given, wear))
    kind = it["type"]
    if kind == "array":
        return [default_value(resolved, it["items"], one, wear) for one in given]
    if kind == "map":
        return {key: default_value(resolved, it["values"], one, wear) for key, one in given.items()}
    if kind == "record":
        return {
            one["name"]: default_value(resolved, one["type"], given.get(one["name"], one.get("default")), wear)
            for one in it["fields"]
        }
    if kind in {"bytes", "fixed"}:
        given = given.encode("latin-1")
    elif kind in {"float", "double"}:
        # As it would be read, had it been written.
        given = _FLOAT.unpack(_FLOAT.pack(given))[0] if kind == "float" else float(given)
    logical = logical_of(it)
    return value_of(logical, it)(given) if logical else given


def _is_called(new: dict[str, Json], name: str) -> bool:
    return name in _aliases(new) or new["name"].rpartition(".")[2] == name.rpartition(".")[2]


def _aliases(it: dict[str, Json]) -> tuple[str, ...]:
    return tuple(it.get("aliases", ()))
