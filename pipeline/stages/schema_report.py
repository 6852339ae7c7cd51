"""What `pipeline.schemas` prints: text for people, the same as values for programs."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.kafka.registry import Registry
from pipeline.serde.avro_schema import Json, label, resolve
from pipeline.serde.defaults import short
from pipeline.serde.schema_files import Schemas, parse
from pipeline.stages.schema_gate import Entry, Standing, left_words


@dataclass(frozen=True)
class Difference:
    """One way in which the registry is not what the files say; `details` is field by field."""

    subject: str
    what: str
    details: tuple[str, ...] = ()


def differences(standings: Sequence[Standing]) -> list[Difference]:
    """Registry against files, subject by subject; none when `register` would write nothing and warn of nothing."""
    return [one for standing in standings for one in _differences(standing)]


def _differences(standing: Standing) -> Iterator[Difference]:
    name = standing.subject.name
    changed = {file.version: there for file, there in standing.changed}
    for file in standing.missing:
        there = changed.get(file.version)
        if there is None:
            yield Difference(name, f"v{file.version} is only in the files")
            continue
        try:
            lines = tuple(_lines(parse(there.text), file.schema))
        except ValueError as error:
            why = there.unreadable or f"it is no JSON ({error})"
            yield Difference(name, f"v{file.version} differs from the registry's (id {there.id}): {why}")
        else:
            what = f"v{file.version} differs from the registry's (id {there.id}); - registry, + file"
            yield Difference(name, what, lines)
    for one in standing.foreign:
        yield Difference(name, f"version {one.version} (id {one.id}) is only in the registry")
    for file in standing.subject.versions:
        found = standing.found(file)
        if found and found.version != file.version:
            yield Difference(name, f"v{file.version} is version {found.version} in the registry (id {found.id})")
    for file in standing.left:
        yield Difference(name, left_words(standing, file).removeprefix(f"{name} "))
    if standing.level != standing.wanted_level:
        yield Difference(name, f"its compatibility is {standing.level or 'not set'}, not {standing.wanted_level}")


def differences_text(standings: Sequence[Standing]) -> str:
    """A line for each difference, its details below it."""
    lines = ["\n    ".join((f"{one.subject}: {one.what}", *one.details)) for one in differences(standings)]
    return "\n".join(lines) or f"The registry has what the files say: {_subjects(len(standings))}."


def differences_values(standings: Sequence[Standing]) -> dict[str, Any]:
    """The differences for JSON."""
    return {"differences": [asdict(one) for one in differences(standings)]}


def entries_text(entries: Sequence[Entry]) -> str:
    """A line for each version of each subject."""
    width = max(len(entry.subject) for entry in entries)
    return "\n".join(
        f"{entry.subject:<{width}}  v{entry.version}  id {entry.id}  {'registered' if entry.new else 'already there'}"
        + (f" (as version {entry.registered_as})" if entry.registered_as != entry.version else "")
        for entry in entries
    )


def entries_values(entries: Sequence[Entry]) -> dict[str, Any]:
    """The versions for JSON."""
    return {"registered": sum(entry.new for entry in entries), "versions": [asdict(entry) for entry in entries]}


def checked_text(schemas: Schemas) -> str:
    """What `check` says when it refuses nothing."""
    subjects = list(schemas)
    versions = sum(len(subject.versions) for subject in subjects)
    return f"{_subjects(len(subjects))}, {versions} versions: each one reads every older one."


def listing(schemas: Schemas, registry: Registry, *, everything: bool) -> list[dict[str, Any]]:
    """Subjects, their level, their versions with ids: of the files, or all that the registry has."""
    names = registry.subjects() if everything else [subject.name for subject in schemas]
    return [
        {
            "subject": name,
            "compatibility": registry.compatibility(name),
            "versions": [{"version": number, "id": id_} for number, id_ in registry.numbers(name)],
        }
        for name in names
    ]


def listing_text(rows: Sequence[dict[str, Any]]) -> str:
    """A line for each subject."""
    width = max((len(row["subject"]) for row in rows), default=0)
    lines = []
    for row in rows:
        versions = ", ".join(f"v{one['version']} id {one['id']}" for one in row["versions"])
        level = (row["compatibility"] or "not set") if versions else "not registered (make register-schemas)"
        lines.append(f"{row['subject']:<{width}}  {level}  {versions}".rstrip())
    return "\n".join(lines) or "The registry has no subject."


def _subjects(count: int) -> str:
    return f"{count} subject{'s' if count > 1 else ''}"


def _lines(old: Json, new: Json) -> Iterator[str]:
    was, now = (dict(_outline(resolve(one).root, label(one))) for one in (old, new))
    for path in dict.fromkeys((*was, *now)):
        if was.get(path) != now.get(path):
            yield from (f"- {path}: {was[path]}",) if path in was else ()
            yield from (f"+ {path}: {now[path]}",) if path in now else ()


def _outline(node: Json, path: str, about: str = "") -> Iterator[tuple[str, str]]:
    """Each place of a schema by its path, in words."""
    if isinstance(node, list):
        yield path, f"union of {', '.join(map(label, node))}{about}"
        for branch in node:
            if isinstance(branch, dict):
                yield from _outline(branch, f"{path}|{label(branch)}")
        return
    it = node if isinstance(node, dict) else {"type": node}
    yield path, f"{it['type']}{_attributes(it, ('type', 'fields', 'items', 'values'))}{about}"
    for one in it.get("fields", ()):
        yield from _outline(one["type"], f"{path}.{one['name']}", _attributes(one, ("type", "name")))
    for key, mark in (("items", "[]"), ("values", "{}")):
        if key in it:
            yield from _outline(it[key], path + mark)


def _attributes(of: dict[str, Json], left_out: tuple[str, ...]) -> str:
    return "".join(f", {key} {short(of[key], 200)}" for key in of if key not in left_out)
