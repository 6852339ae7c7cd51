"""Redrive, decided: which letters are meant, what is republished of each, and how far everything is redriven.

A letter is known by its place in the dead-letter topic, and by its timestamp where that topic was recreated.
"""

import json
import re
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from sys import intern
from typing import Any, NamedTuple

from pipeline.core.record import Headers, Record
from pipeline.core.spelling import NULL, clipped, key_of
from pipeline.errors import Refused

REDRIVE_COUNT = "redrive-count"
PARKED = ".parked"
REDRIVEN = ".redriven"
GROUP = ".redrive"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# As many digits as a partition and an offset can have: more of them are a mistake, and slow to make a number of.
_SOURCE = re.compile(
    r"(?P<topic>[\w.-]+)(:(?P<partition>\d{1,10})(:(?P<first>\d{1,19})-(?P<last>\d{1,19}))?)?", re.ASCII
)
_COUNT = re.compile(rb"\d{1,9}")
_LETTER = re.compile(r"(\d{1,10}):(\d{1,19})", re.ASCII)


class LetterId(NamedTuple):
    """Where a letter lies: partition and offset in the dead-letter topic."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}:{self.offset}"


class Mark(NamedTuple):
    """What the ledger says of a letter: its timestamp, the digest of its record, and how often that was redriven by then."""

    timestamp_ms: int | None
    record: str = ""
    redrives: int = 0

    def value(self, outcome: str) -> bytes:
        """As it is written."""
        return json.dumps({**self._asdict(), "outcome": outcome}).encode()


def digest_of(topic: str, key: bytes | None, value: bytes | None) -> str:
    """What tells a record that was redriven from others; its timestamp and place change on the way."""
    parts = sha256(topic.encode())
    for part in (key, value):
        parts.update(b"-" if part is None else b"%d:" % len(part) + part)
    return parts.hexdigest()[:32]


def mark_of(record: Record) -> tuple[LetterId, Mark] | None:
    """The mark that a record of the ledger is; None for anything else, such as a tombstone or what others wrote there."""
    try:
        found = _LETTER.fullmatch((record.key or b"").decode())
        told = json.loads(record.value or b"")
        written, digest, redrives = told["timestamp_ms"], told.get("record", ""), told.get("redrives", 0)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    good = (written is None or _is_number(written)) and _is_number(redrives) and isinstance(digest, str)
    if found is None or not good:
        return None
    return LetterId(int(found[1]), int(found[2])), Mark(written, intern(digest[:32]), redrives)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


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
    group: str | None = None
    error_class: str | None = None
    error_contains: str | None = None

    def clipped(self) -> "Selection":
        """The same, for letters of which only the beginnings of long texts are kept."""
        return replace(
            self,
            reason=None if self.reason is None else clipped(self.reason),
            group=None if self.group is None else clipped(self.group),
            error_class=None if self.error_class is None else clipped(self.error_class),
        )

    def matches(self, letter: LetterId, reason: str, key: str | None, envelope: Mapping[str, Any] | None) -> bool:
        """Whether the letter is meant. One that cannot be read (no envelope) has neither time, schema nor source."""
        if (self.ids and letter not in self.ids) or self.reason not in {None, reason}:
            return False
        if self.key is not None and self.key != clipped(NULL if key is None else key):
            return False
        if not self._asks_the_envelope:
            return True
        if envelope is None:
            return False
        failed_at = envelope["failed_at"]
        return (
            self.group in {None, envelope["consumer_group"]}
            and self.error_class in {None, envelope["error_class"]}
            and (self.error_contains is None or self.error_contains in envelope["error"])
            and (self.since is None or (failed_at is not None and failed_at >= self.since))
            and (self.until is None or (failed_at is not None and failed_at < self.until))
            and self.schema_id in {None, envelope["schema_id"]}
            and (self.source is None or self.source.holds(envelope))
        )

    @property
    def _asks_the_envelope(self) -> bool:
        asked = (self.since, self.until, self.schema_id, self.source, self.group, self.error_class, self.error_contains)
        return any(each is not None for each in asked)


def letter_id(text: str) -> LetterId:
    """`partition:offset` as `list` prints it; `Refused` when it is something else."""
    found = _LETTER.fullmatch(text)
    if found is None:
        raise Refused(f"{text[:80]} is no letter id. `deadletters list` names them: partition:offset.")
    return LetterId(int(found[1]), int(found[2]))


def selection(  # one option of the door each
    ids: Iterable[str] = (),
    reason: str | None = None,
    key: str | None = None,
    since: str | None = None,
    until: str | None = None,
    schema_id: int | None = None,
    source: str | None = None,
    group: str | None = None,
    error_class: str | None = None,
    error_contains: str | None = None,
) -> Selection:
    """The selection that a user typed; `Refused` for a time without a zone, a malformed source, key or letter id."""
    where = None
    if source is not None:
        found = _SOURCE.fullmatch(source)
        if found is None:
            raise Refused(f"--source {source[:300]}: it is topic, topic:partition or topic:partition:from-to.")
        numbers = (None if found[name] is None else int(found[name]) for name in ("partition", "first", "last"))
        where = SourceRange(found["topic"], *numbers)
    return Selection(
        reason,
        None if key is None else key_of(key),
        None if since is None else zoned_time("--since", since),
        None if until is None else zoned_time("--until", until),
        schema_id,
        where,
        frozenset(map(letter_id, ids)),
        group,
        error_class,
        error_contains,
    )


def zoned_time(option: str, text: str) -> datetime:
    """The time that a user gave for this option; `Refused` when it is none, or names no zone."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise Refused(f"{option} {text[:80]}: a time is ISO 8601 with a zone, such as 2026-01-31T08:00:00Z.")
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

    def redrives(self, redriven: Collection[tuple[str, int]]) -> int:
        """How often it was redriven already: what its header says, where the ledger knows of that.

        `redriven` are the digests of the records that were redriven, each with every count. A count that the record's
        producer wrote is not believed.
        """
        counts = [value or b"" for name, value in self.headers if name == REDRIVE_COUNT]
        count = max((int(each) for each in counts if _COUNT.fullmatch(each)), default=0)
        return count if count and (digest_of(self.topic, self.key, self.value), count) in redriven else 0

    def counted(self, redrives: int) -> Headers:
        """Its headers, with exactly one redrive count."""
        kept = tuple((name, value) for name, value in self.headers if name != REDRIVE_COUNT)
        return (*kept, (REDRIVE_COUNT, str(redrives).encode()))


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
        self._done: set[LetterId] = set()  # above the oldest that is due
        for letter in sorted(due):
            self._due.setdefault(letter.partition, deque()).append(letter.offset)

    def after(self, done: Iterable[LetterId]) -> dict[int, int]:
        """By partition, the oldest letter that is still due once these are done too; the end where there is none.

        They are done only when `confirm` says so.
        """
        now = set(done)
        offsets = dict(self._ends)
        for partition, due in self._due.items():
            places = (LetterId(partition, offset) for offset in due)
            left = next((each.offset for each in places if each not in now and each not in self._done), None)
            if left is not None:
                offsets[partition] = left
        return offsets

    def confirm(self, done: Iterable[LetterId]) -> None:
        """These are done for good."""
        self._done.update(done)
        for partition, due in self._due.items():
            while due and LetterId(partition, due[0]) in self._done:
                self._done.remove(LetterId(partition, due.popleft()))


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
