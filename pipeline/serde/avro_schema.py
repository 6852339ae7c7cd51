"""An Avro schema as one tree with full names, and everything that is wrong with it.

fastavro and the registries let pass what later hurts: a field twice, a default of another type, a type that contains
itself (one deep datum ends the interpreter), an array of nothing (seven bytes ask for all memory), a type that takes 2³⁰
steps for no byte, an alias that is another type's name. We look ourselves.
Source: https://avro.apache.org/docs/1.12.0/specification/
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pipeline.serde.defaults import Defaults, Misfit, TooMany, short
from pipeline.serde.logical_types import misuse
from pipeline.serde.registry_content import content
from pipeline.serde.schema_weight import PLACES_MAX, Scale, Weight

Json = Any

PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
NAMED = ("record", "enum", "fixed")
MAX_DEPTH = 100
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_RESERVED = frozenset((*PRIMITIVES, *NAMED, "array", "map", "union", "error"))
# What stands where a flaw was found, so that the rest can be looked at: a type that breaks no rule anywhere.
_STAND_IN = "string"
# Java keeps sizes in 32 bits, less a few bytes for the head of an array.
_SIZE_MAX = 2**31 - 9
_ORDERS = ("ascending", "descending", "ignore")
# Who finds more has no schema at hand.
_FLAWS_MAX = 100
# Each name is written out with its namespace, and with all names around it in a path.
_NAME_MAX = 500


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

    @property
    def name(self) -> str:
        """The full name of what the schema describes; of what has none, its kind."""
        return _full(self.root) if not isinstance(self.root, list) else "union"

    def definition(self, node: Json) -> Json:
        """A list for a union, a dict for everything else, whichever way it was written."""
        return self.names.get(node, {"type": node}) if isinstance(node, str) else node

    def text(self, *, words: bool = True) -> str:
        """One line that is equal for equal schemas. Without `words` it is what a registry takes for a schema's content."""
        return json.dumps(self.root, sort_keys=True) if words else content(self.root, self.names)


def resolve(schema: Json, *, forgiving: bool = False) -> Resolved:
    """Resolve a JSON-parsed schema; never raises, not for any JSON: what is wrong with it is in `flaws`.

    `forgiving` leaves out what is wrong and matters to nobody who reads what was *written* with the schema: a logical type
    that does not fit (readers ignore it), defaults, aliases and orders; two branches of one short name; a fixed of no bytes.
    """
    walk = _Walk(forgiving=forgiving)
    root = walk.schema(schema, "", label(schema), 1)
    if not walk.flaws:
        walk.look_at_whole(root)
    return Resolved(root, walk.names, tuple(walk.flaws))


def event_flaws(resolved: Resolved) -> tuple[Breakage, ...]:
    """What is wrong with a schema of whole events: its flaws, and that it is nothing but a name."""
    root = resolved.root
    if resolved.flaws or not isinstance(root, dict) or root["type"] != "record" or Scale().weigh(root).least:
        return resolved.flaws
    reason = "an event of it takes no byte: it says nothing, and not every reader takes it for an event"
    return (Breakage(label(root), "empty-event", reason, "give it a field that is not null, such as an id or a time"),)


def as_written(schema: Json) -> Json:
    """The schema of a writer that is registered already, without what `resolve` forgives: nobody can mend it any more.

    As it is where nothing is to forgive, or where it is wrong in a way that is not forgiven.
    """
    if not resolve(schema).flaws:
        return schema
    resolved = resolve(schema, forgiving=True)
    return schema if resolved.flaws else _spelt(resolved.root)


def _spelt(node: Json) -> Json:
    """Resolved once more it is the same: a name without a namespace is not in that of the type around it."""
    if isinstance(node, list):
        return [_spelt(branch) for branch in node]
    if not isinstance(node, dict):
        return node
    it = {key: _spelt(node[key]) if key in ("items", "values", "type") else node[key] for key in node}
    if "fields" in node and node["type"] == "record":
        it["fields"] = [_spelt(one) for one in node["fields"]]
    return it | {"namespace": ""} if node["type"] in NAMED and "." not in node["name"] else it


def label(node: Json) -> str:
    """What a type is called in a path: its name without the namespace, else its kind."""
    if isinstance(node, list):
        return "union"
    kind = node if isinstance(node, str) else node.get("type") if isinstance(node, dict) else None
    name = node.get("name") if isinstance(node, dict) and kind in NAMED else kind
    return _last(name) if isinstance(name, str) else "?"


@dataclass
class _Walk:
    forgiving: bool = False
    names: dict[str, dict[str, Json]] = field(default_factory=dict)
    flaws: list[Breakage] = field(default_factory=list)
    _paths: dict[str, str] = field(default_factory=dict)
    _open: list[str] = field(default_factory=list)
    _heights: dict[str, int] = field(default_factory=dict)
    _deepest: int = 0

    def flaw(self, path: str, rule: str, reason: str, fix: str) -> Json:
        if len(self.flaws) < _FLAWS_MAX:
            self.flaws.append(Breakage(path, rule, reason, fix))
        return _STAND_IN

    def minor(self, node: dict[str, Json], key: str, *flaw: str) -> None:
        """A flaw of what `key` says in this node, and of nothing else: forgiven, it is left out."""
        if self.forgiving:
            node.pop(key, None)
        else:
            self.flaw(*flaw)

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
            return self.flaw(path, "unknown-type", f"{full} is not defined before it is used", self._meant(full))
        self._go_down_to(depth + self._heights[full], path)
        return full

    def _meant(self, full: str) -> str:
        """What to do about a name that nothing has."""
        last = _last(full)
        near = None if len(self.flaws) >= _FLAWS_MAX else next((one for one in self.names if _last(one) == last), None)
        return f"write {near}, if that is meant" if near else f"define {last} here, or write a type that Avro has"

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
            # By the last part of the name, which is all that Java looks at when it picks a branch for another schema's.
            key = _full(branch) if self.forgiving else label(branch)
            if key in seen and len(self.flaws) == flaws:
                self.flaw(path, "union-ambiguous", f"{key} is in the union twice", "leave one out or rename it")
            seen.add(key)
            branches.append(branch)
        return branches

    def _typed(self, raw: dict[str, Json], kind: str, namespace: str, path: str, depth: int) -> Json:
        raw = dict(raw)
        self._logical_type(raw, kind, path)
        if kind in PRIMITIVES:
            return kind if set(raw) == {"type"} else raw
        if kind in NAMED:
            return self._named(raw, kind, namespace, path, depth)
        if kind == "array":
            return {**raw, "items": self.schema(raw.get("items"), namespace, f"{path}[]", depth + 1)}
        if kind == "map":
            return {**raw, "values": self.schema(raw.get("values"), namespace, f"{path}{{}}", depth + 1)}
        return self.flaw(path, "unknown-type", f"{kind} is no type of Avro", "name a type, or write its name alone")

    def _named(self, raw: dict[str, Json], kind: str, namespace: str, path: str, depth: int) -> Json:
        full, inner = self._full_name(raw, namespace, path)
        node = {key: value for key, value in raw.items() if key != "namespace"} | {"name": full}
        aliases = self._aliases(node, path, dotted=True)
        if aliases:
            node["aliases"] = [one if "." in one or not inner else f"{inner}.{one}" for one in aliases]
        if full in self.names:
            return self.flaw(path, "name-redefined", f"{full} is defined twice", "use its name the second time")
        self.names[full], self._paths[full] = node, path
        outer, self._deepest = self._deepest, depth
        self._open.append(full)
        if kind == "record":
            node["fields"] = self._fields(raw.get("fields"), inner, path, depth)
        elif kind == "enum":
            self._symbols(node, path)
        elif not _is_int(raw.get("size")) or not (0 if self.forgiving else 1) <= raw["size"] <= _SIZE_MAX:
            reason = f"{short(raw.get('size'))} is no size of a fixed"
            self.flaw(path, "bad-size", reason, f"write its bytes, 1 to {_SIZE_MAX}")
        self._open.pop()
        self._heights[full] = self._deepest - depth
        self._deepest = max(outer, self._deepest)
        return node

    def _full_name(self, raw: dict[str, Json], namespace: str, path: str) -> tuple[str, str]:
        name: Json = raw.get("name")
        space: Json = raw.get("namespace", namespace)
        if not _is_name(name, dotted=True) or not (space == "" or _is_name(space, dotted=True)) or name in _RESERVED:
            reason = f"{short(name)} in namespace {short(space)} is no name"
            self.flaw(path, "bad-name", reason, f"use A-Z a-z 0-9 _, at most {_NAME_MAX}")
            return f"?{len(self.names)}", ""
        full: str = name if "." in name or not space else f"{space}.{name}"
        return full, full.rpartition(".")[0]

    def _aliases(self, node: dict[str, Json], path: str, *, dotted: bool) -> list[str]:
        if self.forgiving:
            # Nobody is read by the aliases of a writer.
            node.pop("aliases", None)
        aliases = node.get("aliases", [])
        if isinstance(aliases, list) and all(_is_name(one, dotted=dotted) for one in aliases):
            return aliases
        reason = f"{short(aliases)} is no list of names"
        self.minor(node, "aliases", path, "bad-alias", reason, "write a list of the old names")
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
            if one["name"] in taken:
                self.flaw(here, "field-twice", f"{one['name']} is a field, or an alias of one, already", "let one go")
            taken.add(one["name"])
            node = dict(one)
            self._order(node, here)
            for alias in set(self._aliases(node, here, dotted=False)) - {one["name"]}:
                if alias in taken:
                    reason = f"{alias} is a name or an alias of two fields"
                    self.minor(node, "aliases", here, "field-twice", reason, "let one go")
                taken.add(alias)
            node["type"] = self.schema(one["type"], namespace, here, depth + 1)
            fields.append(node)
        return fields

    def _order(self, node: dict[str, Json], path: str) -> None:
        order = node.get("order", "ignore")
        if not isinstance(order, str) or order.lower() not in _ORDERS:
            reason = f"{short(order)} is no order, and Java does not read the schema"
            self.minor(node, "order", path, "bad-order", reason, f"leave it out, or write one of {', '.join(_ORDERS)}")

    def _symbols(self, raw: dict[str, Json], path: str) -> None:
        symbols = raw.get("symbols")
        if not isinstance(symbols, list) or not symbols or not all(map(_is_name, symbols)):
            self.flaw(path, "bad-symbols", f"{short(symbols)} is no list of symbols", "write A-Z a-z 0-9 _ names")
        elif len(set(symbols)) < len(symbols):
            self.flaw(path, "bad-symbols", "a symbol is listed twice", "let one go")
        elif "default" in raw and (not isinstance(raw["default"], str) or raw["default"] not in symbols):
            reason = f"{short(raw['default'])} is no symbol of it"
            self.minor(raw, "default", path, "default-mismatch", reason, "name one of its symbols")

    def _logical_type(self, raw: dict[str, Json], kind: str, path: str) -> None:
        logical = raw.get("logicalType")
        found = misuse(raw, kind, short(logical))
        if found is not None and isinstance(logical, str):
            self.minor(raw, "logicalType", path, *found)
        elif found is not None:
            self.flaw(path, *found)

    # --- what only the whole shows

    def look_at_whole(self, root: Json) -> None:
        """Whose name is whose, how much it asks of a reader, and its defaults; where no part has a flaw."""
        self._aliases_of_types()
        scale, defaults = Scale(), Defaults(self.names)
        places = self._weigh(root, label(root), scale, defaults).places
        if places > PLACES_MAX and not self.flaws:
            reason = f"with every name written out it has {places:,} places, more than {PLACES_MAX:,}"
            self.flaw(label(root), "too-large-expanded", reason, "use types by name less often within each other")

    def _aliases_of_types(self) -> None:
        owners = {name: name for name in self.names}
        for name, node in self.names.items():
            for alias in dict.fromkeys(node.get("aliases", ())):
                owner = owners.setdefault(alias, name)
                if owner != name:
                    what = "another type's name" if owner == alias else f"an alias of {owner} too"
                    reason = f"its alias {alias} is {what}, and readers differ in which of them they take"
                    self.minor(node, "aliases", self._paths[name], "alias-taken", reason, "let the alias go")

    def _weigh(self, node: Json, path: str, scale: Scale, defaults: Defaults) -> Weight:
        is_record = isinstance(node, dict) and node["type"] == "record"
        for part, here in _parts(node, path):
            weight = self._weigh(part["type"] if is_record else part, here, scale, defaults)
            if here.endswith(("[]", "{}")):
                self._items(weight, here)
            if is_record and "default" in part:
                self._default(part, here, defaults)
        return scale.weigh(node)

    def _items(self, weight: Weight, path: str) -> None:
        if path.endswith("[]") and not weight.least:
            reason = "an item takes no byte, so that a few bytes can ask for all memory"
            self.flaw(path, "zero-width-items", reason, "write the number of items as an int")
        elif weight.is_lazy(key=path.endswith("{}")):
            reason = (
                f"{weight.idle} places of an item take no byte of their own, so that a few bytes can ask for all memory"
            )
            fix = "leave out fields that are always null, and records around one field"
            self.flaw(path, "zero-width-items", reason, fix)

    def _default(self, node: dict[str, Json], path: str, defaults: Defaults) -> None:
        if defaults.spent and not self.forgiving:
            return  # said once
        try:
            defaults.judge(node)
        except TooMany as many:
            fix = "write smaller defaults, or a union with null and the default null"
            self.minor(node, "default", path, "too-large-expanded", str(many), fix)
        except Misfit as misfit:
            fix = "write a default of that type, or reorder the union"
            self.minor(node, "default", path, "default-mismatch", str(misfit), fix)


def _parts(node: Json, path: str) -> Iterator[tuple[Json, str]]:
    """What stands within a type, with its path: fields as they are, types of all others."""
    if isinstance(node, list):
        yield from ((branch, f"{path}|{label(branch)}") for branch in node)
    elif isinstance(node, dict) and node["type"] == "record":
        yield from ((one, f"{path}.{one['name']}") for one in node["fields"])
    elif isinstance(node, dict) and node["type"] in ("array", "map"):
        key, mark = ("items", "[]") if node["type"] == "array" else ("values", "{}")
        yield node[key], path + mark


def _full(node: Json) -> str:
    """What tells a branch of a union from the others: its full name, or its kind."""
    return str(node if isinstance(node, str) else node["name"] if node["type"] in NAMED else node["type"])


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _is_int(value: Json) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_name(value: Json, *, dotted: bool = False) -> bool:
    if not isinstance(value, str) or len(value) > _NAME_MAX:
        return False
    return all(map(_NAME.fullmatch, value.split(".") if dotted else (value,)))
