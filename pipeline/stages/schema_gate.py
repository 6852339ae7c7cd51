"""schemas: the contracts on disk, judged by our own gate, and the registry brought to them. Nothing else registers.

A released version never changes: where the registry has another text under a file's number, the file is refused. All
that can be refused is refused before anything is written, for every subject. Files are judged strictly; what is registered
already nobody can mend, so that of such a version nothing is held against it that no reader of its data looks at.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeline.errors import RegistryUnavailable, SchemaRefused, SchemaUnknown, Undecodable
from pipeline.kafka.registry import WRITABLE, Registered, Registry
from pipeline.serde import compatibility
from pipeline.serde.avro_schema import Resolved, resolve
from pipeline.serde.compatibility import Conflict, check_backward_transitive
from pipeline.serde.registry_content import layout
from pipeline.serde.schema_files import SchemaFile, Schemas, Subject, parse

LEVEL = "BACKWARD_TRANSITIVE"
# All that LEVEL asks for and more: where somebody set it, it stays; what asks for something else too is raised to it.
FULL_LEVEL = "FULL_TRANSITIVE"
_RAISED = {"NONE": LEVEL, "BACKWARD": LEVEL} | dict.fromkeys(("FORWARD", "FORWARD_TRANSITIVE", "FULL"), FULL_LEVEL)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Standing:
    """One subject: its files, what the registry has of it, the level that governs it, and what was deleted there."""

    subject: Subject
    registered: tuple[Registered, ...]
    level: str | None
    deleted: tuple[Registered, ...] = ()

    def found(self, file: SchemaFile) -> Registered | None:
        """The registered version with the same text, docs included, whatever its number."""
        return _same_text(file, self.registered)

    @property
    def missing(self) -> list[SchemaFile]:
        """Files that are to be registered, oldest first: those that are not there, but for those `left` alone."""
        return [file for file in self.subject.versions if self.found(file) is None and file not in self.left]

    @property
    def left(self) -> list[SchemaFile]:
        """Files that are not there and stay so: older than the newest that is, or deleted on purpose.

        Registered again, an old version would be the latest one. A subject of which nothing is left begins anew.
        """
        ours = [file.version for file in self.subject.versions if self.found(file)]
        by_number = {one.version for one in self.registered}
        return [
            file
            for file in self.subject.versions
            if self.found(file) is None
            and (
                (file.version < max(ours, default=0) and file.version not in by_number)
                or (bool(self.registered) and _same_text(file, self.deleted) is not None)
            )
        ]

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

    @property
    def wanted_level(self) -> str:
        """The level to be set: never one that contains less than the one that is there."""
        return LEVEL if self.level is None else _RAISED.get(self.level, self.level)


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
    _refuse(f"{subject.name} {conflict}" for subject in schemas for conflict in _conflicts(subject))


def _conflicts(subject: Subject) -> list[Conflict]:
    return check_backward_transitive([(file.version, file.schema) for file in subject.versions])


def check_reader(subject: Subject, registry: Registry, say: Say = lambda _: None, *, only: bool = False) -> None:
    """Raise `SchemaRefused` where the subject's newest file cannot read an older file or a registered version.

    The newest file need not be registered itself: nobody writes with what only reads, such as a projection. Versions that
    say the same are none of its business either. Reads only. `say` is told of registered versions that nobody can read, and
    with `only`, which passes the records of other types over, of those as well.
    """
    newest = subject.newest
    registered = tuple(registry.versions(subject.name))
    standing = Standing(subject, registered, None)
    ours = [standing.found(file) for file in subject.versions]
    clashes = [
        f"{subject.name}: {Conflict(newest.version, file.version, breakage)}"
        for file in subject.versions[:-1]
        for breakage in compatibility.check(newest.schema, file.schema)
    ]
    others = False
    for one in registered:
        if one in ours:
            continue
        here = f"{subject.name}: version {one.version} (id {one.id}) of the registry"
        sound = _sound(one)
        if isinstance(sound, str):
            say(f"! {here} cannot be read by anybody: {sound}. Its records become dead letters.")
            continue
        if (name := sound.name) not in newest.names and only:
            say(f"! {here} is {name}, not {resolve(newest.schema).name}. Its records are passed over, as you chose.")
            continue
        others = others or name not in newest.names
        clashes += [
            f"{subject.name}, as the registry has it: {Conflict(newest.version, one.version, breakage)}"
            for breakage in compatibility.check(newest.schema, parse(one.text), registered=True)
        ]
    if clashes:
        which = "Where they are other events that share the topic, --only passes them over. " if others else ""
        clashes.append(
            f"Their records would become dead letters. {which}Mend {newest.path}, or take a release that can read them."
        )
        _refuse(iter(clashes))


def other_events(topic: str, subject: Subject, registry: Registry, *, only: bool) -> list[str]:
    """What to say of events of other types in the topic, as far as subjects are named after topic and record."""
    prefix = f"{topic}-"
    ours = {f"{prefix}{name}" for name in subject.newest.names}
    others = [
        name for name in registry.subjects_of(prefix) if not name.endswith(("-key", "-value")) and name not in ours
    ]
    if not others:
        return []
    what = "are passed over, as you chose" if only else "become dead letters, unless --only passes them over"
    names = f"{', '.join(others[:5])}{' …' if len(others) > 5 else ''}"  # noqa: PLR2004  # a few show what it is about
    return [f"! The registry has other events of {topic} ({names}): their records {what}."]


def registered_id(file: SchemaFile, registry: Registry) -> int:
    """The id to write with: what it stands for in the registry is what the file says, field for field.

    Raises `SchemaRefused` when the file is not registered, or when its id is another schema's: a registry that looks
    schemas up without the order of their fields would have every reader swap them. `RegistryUnavailable` when nobody
    answers, or when the registry does not have yet what it just found.
    """
    found = registry.lookup_id(file.subject, file.text)
    try:
        there = resolve(parse(registry.schema_by_id(found)), forgiving=True)
    except SchemaUnknown as error:
        raise RegistryUnavailable(f"{error} It found it under that id a moment ago.") from error
    except (Undecodable, ValueError) as error:
        raise SchemaRefused(f"{file.subject} v{file.version} has id {found}, which cannot be read: {error}") from error
    if there.flaws or layout(there.root) != layout(resolve(file.schema).root):
        raise SchemaRefused(
            f"{registry.where} says that {file.subject} v{file.version} has id {found}, but id {found} is another schema: "
            f"{registry.schema_by_id(found)[:300]}. Records that are written with it would be read as something else. "
            f"Register {file.path} under a subject of its own, or mend what the registry takes for equal."
        )
    return found


def survey(schemas: Schemas, registry: Registry) -> list[Standing]:
    """How each subject of the files stands in the registry; reads only."""
    return [_standing(subject, registry) for subject in schemas]


def _standing(subject: Subject, registry: Registry) -> Standing:
    registered, level = tuple(registry.versions(subject.name)), registry.compatibility(subject.name)
    standing = Standing(subject, registered, level)
    if not registered or all(standing.found(file) for file in subject.versions):
        return standing
    return Standing(subject, registered, level, tuple(registry.deleted(subject.name)))


def register(schemas: Schemas, registry: Registry, say: Say) -> list[Entry]:
    """Register every missing version, in order, and raise each subject's level to `LEVEL` or, if it asked for more, above.

    Raises `SchemaRefused` before anything is written: for what `check` refuses in versions that are not registered yet,
    for a released version that was changed, for a new one that cannot read a registered one or was deleted, and for a
    registry that takes none. Running it again changes nothing.
    `say` is told of registered versions that no file has, of files that stay unregistered, and of each level that is set.
    """
    _refuse(f"{each.name} {one}" for each in schemas for one in _conflicts(each) if not one.itself)
    before = survey(schemas, registry)
    _refuse(refusal for standing in before for refusal in _unreadable(standing))
    _refuse(refusal for standing in before for refusal in _refusals(standing, registry, say))
    for standing in before:
        name = standing.subject.name
        for one in standing.foreign:
            say(f"! {name}: version {one.version} (id {one.id}) of the registry has no file here. An older checkout?")
        for file in standing.left:
            say(f"! {left_words(standing, file)}")
        _set_level(standing, registry, say)
    for standing in before:
        for file in standing.missing:
            registry.register(file.subject, file.text)
    after = survey(schemas, registry) if any(standing.missing for standing in before) else before
    return [entry for was, now in zip(before, after, strict=True) for entry in _entries(was, now)]


def _set_level(standing: Standing, registry: Registry, say: Say) -> None:
    name, was, wanted = standing.subject.name, standing.level, standing.wanted_level
    if was == wanted:
        if was not in (LEVEL, FULL_LEVEL):
            say(f"! {name}: its compatibility is {was}, which is not known here; it stays.")
        return
    registry.set_compatibility(name, wanted)
    more = f": {LEVEL} does not contain {was}" if wanted == FULL_LEVEL else ""
    say(f"{name}: compatibility set to {wanted} (was {was or 'not set'}){more}")


def left_words(standing: Standing, file: SchemaFile) -> str:
    """Why a file is not registered, and stays so."""
    what = f"{file.subject} v{file.version}"
    if _same_text(file, standing.deleted) is not None:
        return f"{what} was deleted in the registry, and stays deleted"
    return f"{what} is not in the registry, and stays so: registered now, it would be later than the newer ones"


def _entries(was: Standing, now: Standing) -> Iterator[Entry]:
    for file in now.subject.versions:
        there = now.found(file)
        if file in was.left:
            continue
        if there is None:
            raise SchemaRefused(
                f"The registry took {file.subject} v{file.version}, but does not list it as it was sent. "
                "Compare: python -m pipeline.schemas diff."
            )
        yield Entry(file.subject, file.version, there.id, there.version, new=was.found(file) is None)


def _unreadable(standing: Standing) -> Iterator[str]:
    for there in standing.registered:
        if _text(there) is None and not there.unreadable:
            yield (
                f"Version {there.version} (id {there.id}) of {standing.subject.name} in the registry is no JSON. "
                "Fix: delete it there, or use another subject name."
            )


def _refusals(standing: Standing, registry: Registry, say: Say) -> Iterator[str]:
    missing, name = standing.missing, standing.subject.name
    for file, there in standing.changed:
        yield (
            f"{file.subject} v{file.version} is not what was released: the registry has another v{there.version} "
            f"(id {there.id}). Fix: restore {file.path}, and put the change into a new version "
            "(python -m pipeline.schemas diff shows it)."
        )
    for file in standing.left:
        if file is standing.subject.newest:
            next_ = f"v{file.version + 1}.avsc"
            yield f"{left_words(standing, file)}. Fix: put what is right of it into {next_}, or restore it there."
    for conflict in _conflicts(standing.subject):
        if conflict.itself and conflict.reader in [file.version for file in missing]:
            yield f"{name} {conflict}"
    if missing and not standing.changed:
        yield from _clashes(standing, say)
    if missing and (rules := registry.rules_to_come(name)):
        yield (
            f"The registry adds rules to whatever is registered for {name} ({rules}), and they are not carried out here. "
            "Fix: take them out of its settings there, or use the client that carries them out."
        )
    if missing or standing.level != standing.wanted_level:
        mode = registry.mode(name)
        if mode != WRITABLE:
            yield f"The registry takes nothing for {name} now: its mode is {mode}. Fix: set it to {WRITABLE} there first."


def _clashes(standing: Standing, say: Say) -> Iterator[str]:
    """Older files are judged by `check`; what remains are versions that somebody registered from elsewhere."""
    name = standing.subject.name
    for there in standing.registered:
        sound = _sound(there)
        if isinstance(sound, str):
            say(f"! {name}: version {there.version} (id {there.id}) of the registry cannot be read by anybody: {sound}")
            continue
        for file in standing.missing:
            older = there.version, parse(there.text)
            for conflict in compatibility.between((file.version, file.schema), older, registered=True):
                yield f"{file.subject}, as the registry has it: {conflict}"


def _same_text(file: SchemaFile, among: tuple[Registered, ...]) -> Registered | None:
    text = resolve(file.schema).text()
    return next((one for one in among if _text(one) == text), None)


def _text(registered: Registered) -> str | None:
    try:
        return resolve(parse(registered.text)).text()
    except (ValueError, RecursionError):
        return None


def _sound(registered: Registered) -> Resolved | str:
    """A registered version as its readers see it, or why they cannot."""
    if registered.unreadable:
        return registered.unreadable
    try:
        resolved = resolve(parse(registered.text), forgiving=True)
    except ValueError as error:
        return f"it is no JSON ({error})"
    return "; ".join(map(str, resolved.flaws[:3])) or resolved


def _refuse(reasons: Iterator[str]) -> None:
    found = list(dict.fromkeys(reasons))
    if found:
        raise SchemaRefused("\n  ".join(found))
