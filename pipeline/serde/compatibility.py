"""The schema gate: can the new schema read everything that was written with the old one, and mean the same by it?

It is Avro's schema resolution, and stricter where readers differ or meaning changes without an error: another logical
type, another scale, a smaller precision, another full name without an alias, text read from any bytes, and a union
branch that hides a better one. Registries accept those. Pure: schemas in, breakages out.
Source: https://avro.apache.org/docs/1.12.0/specification/#schema-resolution
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from pipeline.serde.avro_schema import NAMED, Breakage, Json, Resolved, event_flaws, label, resolve
from pipeline.serde.defaults import short

__all__ = ["Breakage", "Conflict", "check", "check_backward_transitive"]

# bytes → string is Avro's too, but bytes that are not UTF-8 would become unreadable: here it is a change of type.
_PROMOTIONS = {
    "int": ("long", "float", "double"),
    "long": ("float", "double"),
    "float": ("double",),
    "string": ("bytes",),
}
_NEW_FIELD = "make it a new field with a default, and leave this one as it was"


class Conflict(NamedTuple):
    """Version `reader` cannot read what was written with version `writer`, or nobody can tell the two apart.

    `itself`: no version could, whatever it changes; then both numbers are that of the version at fault.
    """

    reader: int
    writer: int
    breakage: Breakage
    itself: bool = False

    def __str__(self) -> str:
        if self.itself:
            return f"v{self.reader} can be read by no later version: {self.breakage}"
        clash = "is no other version than" if self.breakage.rule == "no-change" else "cannot read"
        return f"v{self.reader} {clash} v{self.writer}: {self.breakage}"


def check(reader: Json, writer: Json, *, registered: bool = False) -> list[Breakage]:
    """Why `reader` (the new schema, JSON-parsed) cannot read data of `writer` (the old one); empty when it can.

    Paths are those of the reader: `OrderPlaced.lines[].price`, and `OrderPlaced.note|string` for one branch of a union
    that the writer may have written. A schema that is wrong in itself is not compared: its flaws are returned. A writer's
    that is `registered` already nobody can mend: what matters to none of its readers is forgiven.
    """
    new, old = resolve(reader), resolve(writer, forgiving=registered)
    flaws = [*new.flaws, *(one._replace(reason=f"in the older schema, {one.reason}") for one in old.flaws)]
    return flaws or _Comparison(new, old).run()


def check_backward_transitive(versions: Sequence[tuple[int, Json]]) -> list[Conflict]:
    """Every version, in order, as the reader of every older one (BACKWARD_TRANSITIVE).

    Two versions of one content (`registry_content`) are a conflict too: a registry gives both one id, so that the second
    never becomes a version. So is one that no later version could read, whatever it changes.
    """
    conflicts = []
    for position, (new, reader) in enumerate(versions):
        conflicts += [
            Conflict(new, new, one, itself=True) for one in event_flaws(resolve(reader)) or check(reader, reader)
        ]
        for old, writer in versions[:position]:
            conflicts += between((new, reader), (old, writer))
    return conflicts


def between(newer: tuple[int, Json], older: tuple[int, Json], *, registered: bool = False) -> list[Conflict]:
    """The conflicts of one version with an older one (see `check` for `registered`)."""
    (new, reader), (old, writer) = newer, older
    return [
        Conflict(new, old, one) for one in check(reader, writer, registered=registered) or _same(reader, writer, old)
    ]


def _same(reader: Json, writer: Json, old: int) -> list[Breakage]:
    if resolve(reader).text(words=False) != resolve(writer).text(words=False):
        return []
    reason = (
        f"it says the same as v{old}, but for docs, aliases, enum defaults or another spelling of the same values, and a "
        "registry gives both one id"
    )
    return [Breakage(label(reader), "no-change", reason, "bring this in with the next version that changes a field")]


class _Comparison:
    def __init__(self, reader: Resolved, writer: Resolved) -> None:
        self._reader = reader
        self._writer = writer
        self._found: list[Breakage] = []
        # Each pair of named types is compared once: where a type is used often, all of it would be found that often.
        self._compared: set[tuple[str, str]] = set()

    def run(self) -> list[Breakage]:
        for name, new in self._reader.names.items():
            # Java gives all of them the new name, and a union then has it twice.
            merged = [one for one in _names(new) if one in self._writer.names]
            if len(merged) > 1:
                reason = f"the older schema has {' and '.join(merged)}, and both would be read as {name}"
                self._break(label(new), "alias-ambiguous", reason, "remove the aliases that are types of their own")
        self._types(self._reader.root, self._writer.root, label(self._reader.root))
        return self._found

    def _break(self, path: str, rule: str, reason: str, fix: str) -> None:
        self._found.append(Breakage(path, rule, reason, fix))

    def _types(self, reader: Json, writer: Json, path: str) -> None:
        new, old = self._reader.definition(reader), self._writer.definition(writer)
        if isinstance(old, list):
            for branch in old:
                self._types(reader, branch, f"{path}|{label(branch)}")
        elif isinstance(new, list):
            self._branch(new, old, path)
        elif new["type"] == old["type"]:
            self._same_kind(new, old, path)
        elif new["type"] in _PROMOTIONS.get(old["type"], ()):
            self._logical_type(new, old, path)
        else:
            self._break(path, "type-changed", f"it was {_called(old)}, and {_called(new)} cannot read that", _NEW_FIELD)

    def _branch(self, branches: list[Json], old: dict[str, Json], path: str) -> None:
        """The branch that reads `old`: the first that can, as fastavro picks it; a better one later is hidden by it."""
        new = [self._reader.definition(one) for one in branches]
        able = [one for one in new if _picks(one, old)]
        if not able:
            names = ", ".join(map(_called, new))
            reason = f"an older record may hold {_called(old)} here, and none of {names} reads it"
            self._break(path, "union-branch-missing", reason, f"add {label(old)} to the union")
            return
        exact = next((one for one in able if _is_exact(one, old)), able[0])
        if exact is not able[0]:
            reason = f"an older {label(old)} would be read as {label(able[0])}, which stands before it in the union"
            self._break(path, "union-branch-hidden", reason, f"put {label(exact)} before {label(able[0])}")
            return
        self._types(exact, old, path)

    def _same_kind(self, new: dict[str, Json], old: dict[str, Json], path: str) -> None:
        kind = new["type"]
        if kind in NAMED:
            pair = (new["name"], old["name"])
            if pair in self._compared:
                return
            self._compared.add(pair)
            self._name(new, old, path)
        self._logical_type(new, old, path)
        if kind == "record":
            self._fields(new, old, path)
        elif kind == "enum":
            self._symbols(new, old, path)
        elif kind == "fixed" and new["size"] != old["size"]:
            reason = f"its size was {old['size']} bytes and is now {new['size']}"
            self._break(path, "fixed-size-changed", reason, _NEW_FIELD)
        elif kind == "array":
            self._types(new["items"], old["items"], f"{path}[]")
        elif kind == "map":
            self._types(new["values"], old["values"], f"{path}{{}}")

    def _name(self, new: dict[str, Json], old: dict[str, Json], path: str) -> None:
        if old["name"] not in _names(new):
            reason = f"the {new['type']} was called {old['name']} and is now {new['name']}"
            self._break(path, "name-changed", reason, f'add the old name: "aliases": ["{old["name"]}"]')

    def _logical_type(self, new: dict[str, Json], old: dict[str, Json], path: str) -> None:
        was, now = old.get("logicalType"), new.get("logicalType")
        if was != now:
            reason = (
                f"its logical type was {was or 'none'} and is now {now or 'none'}: old values would mean another thing"
            )
            self._break(path, "logical-type-changed", reason, _NEW_FIELD)
        elif now == "decimal":
            scales = old.get("scale", 0), new.get("scale", 0)
            if scales[0] != scales[1]:
                reason = "its scale was {} and is now {}: old amounts would be off by powers of ten".format(*scales)
                self._break(path, "scale-changed", reason, _NEW_FIELD)
            if new["precision"] < old["precision"]:
                reason = f"its precision was {old['precision']} and is now {new['precision']}: old amounts may not fit"
                self._break(path, "precision-reduced", reason, f"keep precision {old['precision']} or more")

    def _fields(self, new: dict[str, Json], old: dict[str, Json], path: str) -> None:
        written = {one["name"]: one for one in old["fields"]}
        for one in new["fields"]:
            here = f"{path}.{one['name']}"
            sources = [name for name in (one["name"], *one.get("aliases", ())) if name in written]
            if len(sources) > 1:
                reason = f"older records have {' and '.join(sources)}, and both would be read into it"
                self._break(here, "alias-ambiguous", reason, "remove the aliases that are fields of their own")
            elif sources:
                self._types(one["type"], written[sources[0]]["type"], here)
            elif "default" not in one:
                reason = "older records do not have it, and it has no default"
                fix = "give it a default, or, where it is an old field renamed, the old name as an alias"
                self._break(here, "field-without-default", reason, fix)

    def _symbols(self, new: dict[str, Json], old: dict[str, Json], path: str) -> None:
        kept = frozenset(new["symbols"])
        gone = [one for one in old["symbols"] if one not in kept]
        if gone and "default" not in new:
            reason = f"older records may hold {short(gone)[1:-1]}, which is no symbol any more"
            fix = "keep the symbols, or give the enum a default symbol that stands for them"
            self._break(path, "enum-symbol-removed", reason, fix)


def _called(node: dict[str, Json]) -> str:
    """A type in a message; a named one with its kind, which a name alone does not tell."""
    return f"the {node['type']} {label(node)}" if node["type"] in NAMED else label(node)


def _names(definition: dict[str, Any]) -> tuple[str, ...]:
    return definition["name"], *definition.get("aliases", ())


def _is_exact(new: dict[str, Json], old: dict[str, Json]) -> bool:
    return bool(new["type"] == old["type"] and (new["type"] not in NAMED or new["name"] == old["name"]))


def _picks(new: dict[str, Json], old: dict[str, Json]) -> bool:
    """Whether fastavro picks this branch for data of `old`: it looks at the last part of a name, and at no kind."""
    if new["type"] in NAMED and old["type"] in NAMED:
        short_name = old["name"].rpartition(".")[2]
        return any(old["name"] == name or short_name == name.rpartition(".")[2] for name in _names(new))
    readable = _PROMOTIONS.get(old["type"], ("string",) if old["type"] == "bytes" else ())
    return bool(new["type"] == old["type"] or new["type"] in readable)
