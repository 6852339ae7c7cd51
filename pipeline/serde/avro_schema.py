"""An Avro schema as one tree with full names, and everything that is wrong with it.

fastavro and the registries let pass what later hurts: a field twice, a default of another type, a type that contains
itself (one deep datum ends the interpreter), an array of nothing (seven bytes ask for all memory). We look ourselves.
Source: https://avro.apache.org/docs/1.12.0/specification/
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Json = Any

PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
NAMED = ("record", "enum", "fixed")
MAX_DEPTH = 100
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_RESERVED = frozenset((*PRIMITIVES, *NAMED, "array", "map", "union", "error"))
# What stands where a flaw was found, so that the rest can be looked at: a type that breaks no rule anywhere.
_STAND_IN = "string"
_INT_BITS = {"int": 31, "long": 63}
_LOGICAL_SIZES = {"duration": 12, "uuid": 16}
_LOGICAL_BASES = {
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


class Breakage(NamedTuple):
    """A place in a schema, the rule it breaks (short and stable, for programs), why, and what to do about it."""

    path: str
    rule: str
    reason: str
    fix: str

    def __str__(self) -> str:
        return f"{self.path}: {self.rule}: {self.reason}. Fix: {self.fix}."


@dataclass(frozen=True)
class Resolved:
    """A schema with every name written in full: a named type stands where it is defined, and by name after that.

    With `flaws` it is not whole, and only they are worth anything.
    """

    root: Json
    names: Mapping[str, dict[str, Json]]
    flaws: tuple[Breakage, ...]

    def definition(self, node: Json) -> Json:
        """A list for a union, a dict for everything else, whichever way it was written."""
        return self.names.get(node, {"type": node}) if isinstance(node, str) else node

    def text(self, *, words: bool = True) -> str:
        """One line that is equal for equal schemas.

        Without `words` it is what Apicurio 3.3 takes for a schema's content: not its docs, aliases and enum defaults.
        """
        return json.dumps(self.root if words else _without_words(self.root), sort_keys=True)


def resolve(schema: Json) -> Resolved:
    """Resolve a JSON-parsed schema; never raises, not for any JSON: what is wrong with it is in `flaws`."""
    walk = _Walk()
    root = walk.schema(schema, "", label(schema), 1)
    return Resolved(root, walk.names, tuple(walk.flaws))


def label(node: Json) -> str:
    """What a type is called in a path: its name without the namespace, else its kind."""
    if isinstance(node, list):
        return "union"
    kind = node if isinstance(node, str) else node.get("type") if isinstance(node, dict) else None
    name = node.get("name") if isinstance(node, dict) and kind in NAMED else kind
    return name.rpartition(".")[2] if isinstance(name, str) else "?"


def short(value: Json, most: int = 60) -> str:
    """The value as JSON, cut so that it fits into a message."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= most else f"{text[:most]}…"


@dataclass
class _Walk:
    names: dict[str, dict[str, Json]] = field(default_factory=dict)
    flaws: list[Breakage] = field(default_factory=list)
    _open: list[str] = field(default_factory=list)
    _empty: set[str] = field(default_factory=set)
    _heights: dict[str, int] = field(default_factory=dict)
    _deepest: int = 0

    def flaw(self, path: str, rule: str, reason: str, fix: str) -> Json:
        self.flaws.append(Breakage(path, rule, reason, fix))
        return _STAND_IN

    def schema(self, raw: Json, namespace: str, path: str, depth: int) -> Json:
        if not self._go_down_to(depth, path):
            return _STAND_IN
        if isinstance(raw, str):
            return self._reference(raw, namespace, path, depth)
        if isinstance(raw, list):
            return self._union(raw, namespace, path, depth)
        if isinstance(raw, dict) and isinstance(raw.get("type"), str):
            return self._typed(raw, raw["type"], namespace, path, depth)
        if isinstance(raw, dict) and "type" in raw:
            return self.flaw(path, "nested-type", "a type is wrapped in another one", "write the inner one alone")
        return self.flaw(path, "not-a-schema", f"{short(raw)} is no Avro schema", "write a type")

    def _go_down_to(self, depth: int, path: str) -> bool:
        self._deepest = max(self._deepest, depth)
        if depth > MAX_DEPTH:
            self.flaw(path, "nested-too-deep", f"types are nested more than {MAX_DEPTH} deep", "flatten the schema")
        return depth <= MAX_DEPTH

    def _reference(self, name: str, namespace: str, path: str, depth: int) -> Json:
        if name in PRIMITIVES:
            return name
        full = name if "." in name or not namespace else f"{namespace}.{name}"
        if full in self._open:
            return self.flaw(
                path,
                "recursive-schema",
                f"{full} contains itself, and a deeply nested datum of it would end the reading process",
                "list the parts flat, each with the id of its parent",
            )
        if full not in self.names:
            return self.flaw(path, "unknown-type", f"{full} is not defined before it is used", "define it here")
        self._go_down_to(depth + self._heights[full], path)
        return full

    def _union(self, raw: list[Json], namespace: str, path: str, depth: int) -> Json:
        if not raw:
            return self.flaw(path, "empty-union", "the union has no branch", "name its types")
        branches, seen = [], set()
        for one in raw:
            if isinstance(one, list):
                self.flaw(path, "nested-union", "a union is a branch of a union", "write all branches into one union")
                continue
            flaws = len(self.flaws)
            branch = self.schema(one, namespace, f"{path}|{label(one)}", depth + 1)
            # By the last part of the name, which is all that fastavro looks at when it picks a branch.
            key = label(branch)
            if key in seen and len(self.flaws) == flaws:
                self.flaw(path, "union-ambiguous", f"{key} is in the union twice", "leave one out or rename it")
            seen.add(key)
            branches.append(branch)
        return branches

    def _typed(self, raw: dict[str, Json], kind: str, namespace: str, path: str, depth: int) -> Json:
        self._logical_type(raw, kind, path)
        if kind in PRIMITIVES:
            return kind if set(raw) == {"type"} else raw
        if kind in NAMED:
            return self._named(raw, kind, namespace, path, depth)
        if kind == "array":
            items = self.schema(raw.get("items"), namespace, f"{path}[]", depth + 1)
            if self._zero_width(items):
                reason = "an item takes no byte, so that a few bytes can ask for all memory"
                self.flaw(f"{path}[]", "zero-width-items", reason, "write the number of items as an int")
            return {**raw, "items": items}
        if kind == "map":
            return {**raw, "values": self.schema(raw.get("values"), namespace, f"{path}{{}}", depth + 1)}
        return self.flaw(path, "unknown-type", f"{kind} is no type of Avro", "name a type, or write its name alone")

    def _named(self, raw: dict[str, Json], kind: str, namespace: str, path: str, depth: int) -> Json:
        full, inner = self._full_name(raw, namespace, path)
        aliases = self._aliases(raw, path, dotted=True)
        node = {key: value for key, value in raw.items() if key != "namespace"} | {"name": full}
        if aliases:
            node["aliases"] = [one if "." in one or not inner else f"{inner}.{one}" for one in aliases]
        if full in self.names:
            return self.flaw(path, "name-redefined", f"{full} is defined twice", "use its name the second time")
        self.names[full] = node
        outer, self._deepest = self._deepest, depth
        self._open.append(full)
        if kind == "record":
            node["fields"] = self._fields(raw.get("fields"), inner, path, depth)
            if all(self._zero_width(one["type"]) for one in node["fields"]):
                self._empty.add(full)
        elif kind == "enum":
            self._symbols(raw, path)
        elif not _is_int(raw.get("size")) or raw["size"] < 1:
            self.flaw(path, "bad-size", f"{short(raw.get('size'))} is no size of a fixed", "write its bytes, 1 or more")
        self._open.pop()
        self._heights[full] = self._deepest - depth
        self._deepest = max(outer, self._deepest)
        return node

    def _full_name(self, raw: dict[str, Json], namespace: str, path: str) -> tuple[str, str]:
        name: Json = raw.get("name")
        space: Json = raw.get("namespace", namespace)
        if not _is_name(name, dotted=True) or not (space == "" or _is_name(space, dotted=True)) or name in _RESERVED:
            self.flaw(path, "bad-name", f"{short(name)} in namespace {short(space)} is no name", "use A-Z a-z 0-9 _")
            return f"?{len(self.names)}", ""
        full: str = name if "." in name or not space else f"{space}.{name}"
        return full, full.rpartition(".")[0]

    def _aliases(self, raw: dict[str, Json], path: str, *, dotted: bool) -> list[str]:
        aliases = raw.get("aliases", [])
        if isinstance(aliases, list) and all(_is_name(one, dotted=dotted) for one in aliases):
            return aliases
        self.flaw(path, "bad-alias", f"{short(aliases)} is no list of names", "write a list of the old names")
        return []

    def _fields(self, raw: Json, namespace: str, path: str, depth: int) -> list[dict[str, Json]]:
        if not isinstance(raw, list):
            self.flaw(path, "not-a-schema", "the record has no list of fields", "write its fields")
            return []
        fields: list[dict[str, Json]] = []
        taken: set[str] = set()
        for one in raw:
            if not isinstance(one, dict) or not _is_name(one.get("name")) or "type" not in one:
                self.flaw(path, "bad-field", f"{short(one)} is no field", "write its name and its type")
                continue
            here = f"{path}.{one['name']}"
            for name in (one["name"], *self._aliases(one, here, dotted=False)):
                if name in taken:
                    self.flaw(here, "field-twice", f"{name} is a name or an alias of two fields", "let one go")
                taken.add(name)
            node = {**one, "type": self.schema(one["type"], namespace, here, depth + 1)}
            self._default(node, here)
            fields.append(node)
        return fields

    def _default(self, node: dict[str, Json], path: str) -> None:
        if "default" not in node or self.flaws:
            return
        if not self._fits(node["type"], node["default"]):
            first = " (of a union: its first branch)" if isinstance(node["type"], list) else ""
            reason = f"the default {short(node['default'])} is not of the field's type{first}"
            self.flaw(path, "default-mismatch", reason, "write a default of that type, or reorder the union")

    def _symbols(self, raw: dict[str, Json], path: str) -> None:
        symbols = raw.get("symbols")
        if not isinstance(symbols, list) or not symbols or not all(map(_is_name, symbols)):
            self.flaw(path, "bad-symbols", f"{short(symbols)} is no list of symbols", "write A-Z a-z 0-9 _ names")
        elif len(set(symbols)) < len(symbols):
            self.flaw(path, "bad-symbols", "a symbol is listed twice", "let one go")
        elif "default" in raw and raw["default"] not in symbols:
            self.flaw(
                path, "default-mismatch", f"{short(raw['default'])} is no symbol of it", "name one of its symbols"
            )

    def _logical_type(self, raw: dict[str, Json], kind: str, path: str) -> None:
        logical = raw.get("logicalType")
        if logical is None:
            return
        bases = _LOGICAL_BASES.get(logical, (kind,)) if isinstance(logical, str) else ()
        size = _LOGICAL_SIZES.get(logical) if kind == "fixed" and bases else None
        if kind not in bases or size not in (None, raw.get("size")):
            reason = f"{short(logical)} does not go with {kind}, so that readers ignore it"
            self.flaw(path, "logical-type-misplaced", reason, f"use it on {' or '.join(bases) or 'a type of its own'}")
        elif logical == "decimal":
            precision: Json = raw.get("precision")
            scale: Json = raw.get("scale", 0)
            if not _is_int(precision) or not _is_int(scale) or not 0 <= scale <= precision or precision < 1:
                reason = f"precision {short(precision)} and scale {short(scale)} make no decimal"
                self.flaw(path, "bad-decimal", reason, "write precision ≥ 1 and 0 ≤ scale ≤ precision")

    def _zero_width(self, node: Json) -> bool:
        if isinstance(node, dict):
            node = node["name"] if node["type"] == "record" else node["type"]
        return node == "null" or (isinstance(node, str) and node in self._empty)

    def _fits(self, node: Json, value: Json) -> bool:
        if isinstance(node, list):
            return self._fits(node[0], value)
        it = self.names.get(node, {"type": node}) if isinstance(node, str) else node
        kind = it["type"]
        if kind in _INT_BITS:
            return _is_int(value) and -(1 << _INT_BITS[kind]) <= value < 1 << _INT_BITS[kind]
        if kind == "array":
            return isinstance(value, list) and all(self._fits(it["items"], one) for one in value)
        if kind == "map":
            return isinstance(value, dict) and all(self._fits(it["values"], one) for one in value.values())
        if kind == "record":
            return isinstance(value, dict) and self._fits_record(it["fields"], value)
        return _fits_scalar(it, kind, value)

    def _fits_record(self, fields: list[dict[str, Json]], value: dict[str, Json]) -> bool:
        known = {one["name"]: one for one in fields}
        return set(value) <= set(known) and all(
            self._fits(one["type"], value[name]) if name in value else "default" in one for name, one in known.items()
        )


def _fits_scalar(it: dict[str, Json], kind: str, value: Json) -> bool:
    if kind == "null":
        return value is None
    if kind == "boolean":
        return isinstance(value, bool)
    if kind in ("float", "double"):
        return _is_int(value) or isinstance(value, float)
    if not isinstance(value, str):
        return False
    if kind == "enum":
        return value in it["symbols"]
    # Bytes are written as text, one code point of U+0000 to U+00FF for each.
    as_bytes = all(ord(one) <= 0xFF for one in value)  # noqa: PLR2004  # the last code point of one byte
    return kind == "string" or (as_bytes and (kind == "bytes" or len(value) == it["size"]))


def _is_int(value: Json) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_name(value: Json, *, dotted: bool = False) -> bool:
    return isinstance(value, str) and all(map(_NAME.fullmatch, value.split(".") if dotted else (value,)))


def _without_words(node: Json) -> Json:
    if isinstance(node, list):
        return [_without_words(one) for one in node]
    if not isinstance(node, dict):
        return node
    left_out = ("doc", "aliases", "default") if node.get("type") == "enum" else ("doc", "aliases")
    kept = {key: value for key, value in node.items() if key not in left_out}
    return kept | {key: _without_words(kept[key]) for key in ("type", "items", "values", "fields") if key in kept}
