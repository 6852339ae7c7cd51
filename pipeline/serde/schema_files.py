"""The contracts on disk: `schemas/<subject>/v<N>.avsc`, refused when anything about them is not sound."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn

from pipeline.errors import SchemaRefused
from pipeline.serde.avro_schema import Json, resolve
from pipeline.serde.defaults import short
from pipeline.serde.fastavro_schema import for_fastavro

_VERSION = re.compile(r"v([1-9][0-9]*)\.avsc")
_SUBJECT = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
MAX_BYTES = 1 << 20
# Types are nested 100 deep at most, each by up to three levels of JSON; defaults lie deeper.
JSON_DEPTH_MAX = 700


@dataclass(frozen=True)
class SchemaFile:
    """One version: the text as it lies in the file, and the JSON in it."""

    subject: str
    version: int
    path: Path
    text: str
    schema: dict[str, Json]

    @property
    def names(self) -> frozenset[str]:
        """The full names of records that it reads: its own and its aliases."""
        root = resolve(self.schema).root
        return frozenset((root["name"], *root.get("aliases", ())))


@dataclass(frozen=True)
class Subject:
    """The versions of one subject, v1 first, without gaps."""

    name: str
    versions: tuple[SchemaFile, ...]

    @property
    def newest(self) -> SchemaFile:
        """The schema that this release writes with and reads everything as."""
        return self.versions[-1]


@dataclass(frozen=True)
class Schemas:
    """Every subject of one directory, by name."""

    directory: Path
    subjects: Mapping[str, Subject]

    def subject(self, name: str) -> Subject:
        """The subject; `SchemaRefused` when the directory has no folder of that name."""
        if name in self.subjects:
            return self.subjects[name]
        there = ", ".join(self.subjects)
        raise SchemaRefused(f"No schema for {name}: {self.directory} has {there}. Add {name}/v1.avsc there.")

    def __iter__(self) -> Iterator[Subject]:
        return iter(self.subjects.values())


def directory(setting: Path | None) -> Path:
    """Where the schemas are: the setting, else those in the installed package, else `schemas/` of the checkout."""
    if setting is not None:
        return setting
    packed = Path(str(resources.files("pipeline"))) / "_schemas"
    return packed if packed.is_dir() else packed.parent.parent / "schemas"


def load(directory: Path) -> Schemas:
    """Read every subject of the directory; `SchemaRefused` names the file, what is wrong with it and what to do.

    A folder is a subject; files beside the folders are other people's. All that is refused in a version: JSON that is
    not sound (a name twice), Avro that is not (see `avro_schema`), a schema that is no record, another record than the
    newest version's. Whether a version reads the older ones is for `compatibility` to say.
    """
    try:
        if not directory.is_dir():
            raise SchemaRefused(f"There is no schema directory {directory}. Name one: PIPELINE_SCHEMAS__DIR, or --dir.")
        folders = sorted(one for one in directory.iterdir() if one.is_dir() and not one.name.startswith("."))
        subjects = {folder.name: _subject(folder) for folder in folders}
    except OSError as error:
        raise SchemaRefused(f"The schemas in {directory} cannot be read: {error}. Make them readable.") from error
    if not subjects:
        raise SchemaRefused(f"{directory} has no subject. Add <topic>-value/v1.avsc there, or name another directory.")
    return Schemas(directory, subjects)


def _subject(folder: Path) -> Subject:
    if not _SUBJECT.fullmatch(folder.name):
        raise SchemaRefused(f"{folder}: the folder is named after its subject, such as orders.v1-value. Rename it.")
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    found = {int(match[1]): path for path in files if (match := _VERSION.fullmatch(path.name))}
    for path in files:
        if path not in found.values():
            raise SchemaRefused(f"{path} is not named like a version. Name it v{len(found) + 1}.avsc, or take it away.")
    if not found:
        raise SchemaRefused(f"{folder} is empty. Put the schema there as v1.avsc.")
    for number in range(1, max(found)):
        if number not in found:
            raise SchemaRefused(
                f"{folder} has no v{number}.avsc, but a v{max(found)}.avsc. Versions count from 1 without gaps: "
                "restore it, or rename the later ones if they were never released."
            )
    subject = Subject(folder.name, tuple(_version(folder.name, number, found[number]) for number in sorted(found)))
    _refuse_another_record(subject)
    return subject


def _refuse_another_record(subject: Subject) -> None:
    newest = subject.newest
    for older in subject.versions[:-1]:
        name = resolve(older.schema).root["name"]
        if name not in newest.names:
            _refuse(
                newest.path,
                f"the record is called {resolve(newest.schema).root['name']}, but {name} in v{older.version}. "
                f'Keep the name, or add the old one: "aliases": ["{name}"].',
            )


def _version(subject: str, number: int, path: Path) -> SchemaFile:
    raw = path.read_bytes()
    if len(raw) > MAX_BYTES:
        _refuse(path, f"{len(raw)} bytes are more than a schema has ({MAX_BYTES}). Is it the right file?")
    try:
        text = raw.decode()
        schema: Any = parse(text)
    except UnicodeDecodeError as error:
        _refuse(path, f"not UTF-8: byte {error.start} is 0x{raw[error.start]:02x}. Save it as UTF-8.")
    except ValueError as error:
        _refuse(path, f"no valid JSON: {error}. Mend it there.")
    flaws = resolve(schema).flaws
    if flaws:
        _refuse(path, "no sound Avro schema.\n  " + "\n  ".join(map(str, flaws)))
    if not isinstance(schema, dict) or schema["type"] != "record":
        _refuse(path, "an event is a record. Wrap it: a record with one field of that type.")
    try:
        for_fastavro(schema)
    except Exception as error:  # noqa: BLE001  # whatever it raises for what no rule of ours foresaw
        _refuse(
            path, f"no sound Avro schema: no data can be read by it ({type(error).__name__}: {error}). Mend it there."
        )
    return SchemaFile(subject, number, path, text, schema)


def _refuse(path: Path, what: str) -> NoReturn:
    raise SchemaRefused(f"{path}: {what}")


# Strings, which may hold brackets, and brackets; one that is never closed is passed in one go as well.
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)


def parse(text: str) -> Json:
    """The JSON of a schema's text; `ValueError` says why it is not sound: a name twice in an object, NaN, too deep."""
    # Counted here: how deep the parser itself can go is another matter in every version of Python.
    depth = 0
    for token in _TOKENS.finditer(text):
        opened = token[0] in "[{"
        depth += opened - (not opened and token[0] in "]}")
        if depth > JSON_DEPTH_MAX:
            raise ValueError(f"it is nested too deeply: more than {JSON_DEPTH_MAX} levels")
    return json.loads(text, object_pairs_hook=_no_twins, parse_constant=_no_constant)


def _no_twins(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twin = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{short(twin)} appears twice in one object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")
