"""schemas: the contracts on disk, judged by our own gate, and the registry brought to them. Nothing else registers.

A released version never changes: where the registry has another text under a file's number, the file is refused. All
that can be refused is refused before anything is written, for every subject.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeline.errors import SchemaRefused
from pipeline.kafka.registry import Registered, Registry
from pipeline.serde import compatibility
from pipeline.serde.avro_schema import Resolved, resolve
from pipeline.serde.compatibility import Conflict, check_backward_transitive
from pipeline.serde.schema_files import SchemaFile, Schemas, Subject, parse

LEVEL = "BACKWARD_TRANSITIVE"
# FULL_TRANSITIVE asks for all that LEVEL does and more: where somebody set it, it stays.
ENOUGH = (LEVEL, "FULL_TRANSITIVE")


@dataclass(frozen=True)
class Standing:
    """One subject: its files, and what the registry has of it."""

    subject: Subject
    registered: tuple[Registered, ...]
    level: str | None

    def found(self, file: SchemaFile) -> Registered | None:
        """The registered version with the same text, docs included, whatever its number."""
        text = resolve(file.schema).text()
        return next((one for one in self.registered if _resolved(one).text() == text), None)

    @property
    def missing(self) -> list[SchemaFile]:
        """Files that are not registered, oldest first."""
        return [file for file in self.subject.versions if self.found(file) is None]

    @property
    def changed(self) -> list[tuple[SchemaFile, Registered]]:
        """Files whose number the registry has given to a text that is no file's."""
        ours = [self.found(file) for file in self.subject.versions]
        by_number = {one.version: one for one in self.registered if one not in ours}
        return [(file, by_number[file.version]) for file in self.missing if file.version in by_number]

    @property
    def foreign(self) -> list[Registered]:
        """Registered versions that no file has and whose number no file claims."""
        known = {self.found(file) for file in self.subject.versions} | {one for _, one in self.changed}
        return [one for one in self.registered if one not in known]


@dataclass(frozen=True)
class Entry:
    """One version in the registry after `register`: its file's number, its id, the registry's number for it."""

    subject: str
    version: int
    id: int
    registered_as: int
    new: bool


def check(schemas: Schemas) -> None:
    """Raise `SchemaRefused` with every version that cannot read an older one: subject, path, rule and fix."""
    _refuse(
        f"{subject.name} {conflict}"
        for subject in schemas
        for conflict in check_backward_transitive([(file.version, file.schema) for file in subject.versions])
    )


def check_reader(subject: Subject, registry: Registry) -> None:
    """Raise `SchemaRefused` where the subject's newest file cannot read an older file or a registered version.

    The newest file need not be registered itself: nobody writes with what only reads, such as a projection. Versions that
    say the same are none of its business either. Reads only.
    """
    newest = subject.newest
    registered = tuple(registry.versions(subject.name))
    standing = Standing(subject, registered, None)
    ours = [standing.found(file) for file in subject.versions]
    older = [(file.version, file.schema) for file in subject.versions[:-1]]
    foreign = [(one.version, parse(one.text)) for one in registered if one not in ours]
    clashes = [
        f"{name}: {Conflict(newest.version, number, breakage)}"
        for name, versions in ((subject.name, older), (f"{subject.name}, as the registry has it", foreign))
        for number, writer in versions
        for breakage in compatibility.check(newest.schema, writer)
    ]
    if clashes:
        clashes.append(
            f"Their records would become dead letters. Mend {newest.path}, or take a release that can read them."
        )
        _refuse(iter(clashes))


def survey(schemas: Schemas, registry: Registry) -> list[Standing]:
    """How each subject of the files stands in the registry; reads only."""
    return [
        Standing(subject, tuple(registry.versions(subject.name)), registry.compatibility(subject.name))
        for subject in schemas
    ]


def register(schemas: Schemas, registry: Registry, say: Callable[[str], None]) -> list[Entry]:
    """Register every missing version, in order, and set each subject's level where it is weaker than `LEVEL`.

    Raises `SchemaRefused` before anything is written: for what `check` refuses, for a released version that was
    changed, and for a new one that cannot read a registered one. Running it again changes nothing.
    `say` is told of registered versions that no file has, and of each level that is set.
    """
    check(schemas)
    before = survey(schemas, registry)
    _refuse(refusal for standing in before for refusal in _refusals(standing))
    for standing in before:
        name = standing.subject.name
        for one in standing.foreign:
            say(f"! {name}: version {one.version} (id {one.id}) of the registry has no file here. An older checkout?")
        if standing.level not in ENOUGH:
            registry.set_compatibility(name, LEVEL)
            say(f"{name}: compatibility set to {LEVEL} (was {standing.level or 'not set'})")
    for standing in before:
        for file in standing.missing:
            registry.register(file.subject, file.text)
    after = survey(schemas, registry) if any(standing.missing for standing in before) else before
    return [entry for was, now in zip(before, after, strict=True) for entry in _entries(was, now)]


def _entries(was: Standing, now: Standing) -> Iterator[Entry]:
    for file in now.subject.versions:
        there = now.found(file)
        if there is None:
            raise SchemaRefused(
                f"The registry took {file.subject} v{file.version}, but does not list it as it was sent. "
                "Compare: python -m pipeline.schemas diff."
            )
        yield Entry(file.subject, file.version, there.id, there.version, new=was.found(file) is None)


def _refusals(standing: Standing) -> Iterator[str]:
    for file, there in standing.changed:
        yield (
            f"{file.subject} v{file.version} is not what was released: the registry has another v{there.version} "
            f"(id {there.id}). Fix: restore {file.path}, and put the change into a new version "
            "(python -m pipeline.schemas diff shows it)."
        )
    # Older files are judged by `check`; what remains are versions that somebody registered from elsewhere.
    for file in standing.missing if not standing.changed else ():
        for there in standing.registered:
            for conflict in check_backward_transitive(
                [(there.version, parse(there.text)), (file.version, file.schema)]
            ):
                yield f"{file.subject}, as the registry has it: {conflict}"


def _resolved(registered: Registered) -> Resolved:
    try:
        return resolve(parse(registered.text))
    except ValueError as error:
        raise SchemaRefused(
            f"Version {registered.version} (id {registered.id}) in the registry is no JSON: {error}. "
            "Delete it there, or use another subject name."
        ) from error


def _refuse(reasons: Iterator[str]) -> None:
    found = list(dict.fromkeys(reasons))
    if found:
        raise SchemaRefused("\n  ".join(found))
