"""Redrive, decided: which letters are meant, what is republished of each, and how far everything is redriven.

A letter is known by its place in the dead-letter topic, and by its timestamp where that topic was made anew.
"""

import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from pipeline.core.record import Headers
from pipeline.errors import Refused

REDRIVE_COUNT = "redrive-count"
PARKED = ".parked"
REDRIVEN = ".redriven"
GROUP = ".redrive"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SOURCE = re.compile(
    r"(?P<topic>[\w.-]+)(:(?P<partition>\d{1,10})(:(?P<first>\d{1,19})-(?P<last>\d{1,19}))?)?", re.ASCII
)
_COUNT = re.compile(rb"\d{1,9}")


class LetterId(NamedTuple):
    """Where a letter lies: partition and offset in the dead-letter topic."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}:{self.offset}"


@dataclass(frozen=True, slots=True)
class SourceRange:
    """Where the originals lay; `first` and `last` are offsets, both included."""

    topic: str
    partition: int | None = None
    first: int | None = None
    last: int | None = None

    def holds(self, envelope: Mapping[str, Any]) -> bool:
        """Whether the letter's original lay there."""
        return (
            self.topic == envelope["source_topic"]
            and self.partition in {None, envelope["source_partition"]}
            and (self.first is None or self.last is None or self.first <= envelope["source_offset"] <= self.last)
        )


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters are meant: those that meet everything that is given. Times are those of the failure, [since, until)."""

    reason: str | None = None
    key: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    schema_id: int | None = None
    source: SourceRange | None = None
    ids: frozenset[LetterId] = frozenset()

    def matches(self, letter: LetterId, reason: str, key: str | None, envelope: Mapping[str, Any] | None) -> bool:
        """Whether the letter is meant. One that cannot be read (no envelope) has neither time, schema nor source."""
        if (self.ids and letter not in self.ids) or self.reason not in {None, reason} or self.key not in {None, key}:
            return False
        if self.since is None and self.until is None and self.schema_id is None and self.source is None:
            return True
        if envelope is None:
            return False
        failed_at = envelope["failed_at"]
        return (
            (self.since is None or (failed_at is not None and failed_at >= self.since))
            and (self.until is None or (failed_at is not None and failed_at < self.until))
            and self.schema_id in {None, envelope["schema_id"]}
            and (self.source is None or self.source.holds(envelope))
        )


def letter_id(text: str) -> LetterId:
    """`partition:offset` as `list` prints it; `Refused` when it is something else."""
    found = re.fullmatch(r"(\d{1,10}):(\d{1,19})", text, re.ASCII)
    if found is None:
        raise Refused(f"{text[:64]} is no letter id. `deadletters list` names them: partition:offset.")
    return LetterId(int(found[1]), int(found[2]))


def selection(  # one option of the door each
    ids: Iterable[str] = (),
    reason: str | None = None,
    key: str | None = None,
    since: str | None = None,
    until: str | None = None,
    schema_id: int | None = None,
    source: str | None = None,
) -> Selection:
    """The selection that a user typed; `Refused` for a time without a zone, a malformed source or letter id."""
    where = None
    if source is not None:
        found = _SOURCE.fullmatch(source)
        if found is None:
            raise Refused(f"--source {source}: it is topic, topic:partition or topic:partition:from-to.")
        numbers = (None if found[name] is None else int(found[name]) for name in ("partition", "first", "last"))
        where = SourceRange(found["topic"], *numbers)
    return Selection(
        reason,
        key,
        None if since is None else zoned_time("--since", since),
        None if until is None else zoned_time("--until", until),
        schema_id,
        where,
        frozenset(map(letter_id, ids)),
    )


def zoned_time(option: str, text: str) -> datetime:
    """The time that a user gave for this option; `Refused` when it is none, or names no zone."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise Refused(f"{option} {text}: a time is ISO 8601 with a zone, such as 2026-01-31T08:00:00Z.")
    return time


@dataclass(frozen=True, slots=True)
class Original:
    """The record as it was before it was given up."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int | None

    @property
    def redrives(self) -> int:
        """How often it was redriven already; a header that is no plain number counts nothing."""
        counts = [value or b"" for name, value in self.headers if name == REDRIVE_COUNT]
        return max((int(count) for count in counts if _COUNT.fullmatch(count)), default=0)

    def counted(self) -> Headers:
        """Its headers, with exactly one redrive count, one higher."""
        kept = tuple((name, value) for name, value in self.headers if name != REDRIVE_COUNT)
        return (*kept, (REDRIVE_COUNT, str(self.redrives + 1).encode()))


def original(envelope: Mapping[str, Any]) -> Original:
    """What a letter's envelope keeps of its record."""
    written = envelope["source_timestamp"]
    return Original(
        envelope["source_topic"],
        envelope["source_partition"],
        envelope["key"],
        envelope["value"],
        tuple((each["name"], each["value"]) for each in envelope["headers"]),
        None if written is None else (written - _EPOCH) // timedelta(milliseconds=1),
    )


class Watermarks:
    """How far each partition is redriven without a gap: the offsets that the redrive group commits.

    Whoever watches the group's lag sees zero when no letter is due.
    """

    def __init__(self, ends: Mapping[int, int], due: Iterable[LetterId]) -> None:
        self._ends = ends
        self._due: dict[int, deque[int]] = {}
        self._done: set[LetterId] = set()
        for letter in sorted(due):
            self._due.setdefault(letter.partition, deque()).append(letter.offset)

    def after(self, done: Iterable[LetterId]) -> dict[int, int]:
        """By partition, the oldest letter that is still due once these are done too; the end where there is none."""
        self._done.update(done)
        offsets = dict(self._ends)
        for partition, due in self._due.items():
            while due and LetterId(partition, due[0]) in self._done:
                self._done.remove(LetterId(partition, due.popleft()))
            if due:
                offsets[partition] = due[0]
        return offsets


def merge_patch(target: Any, patch: Any) -> Any:
    """JSON Merge Patch: an object is merged name by name, null removes, anything else replaces. Source: RFC 7396.

    What is merged stays the branch of its union that it was.
    """
    if not isinstance(patch, dict):
        return patch
    merged = target.copy() if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged
