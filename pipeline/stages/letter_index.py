"""Dead letters as a list that grows: each letter is read once, so a page of a hundred thousand comes at once.

Kept are the rows of the newest letters, not their bytes; one in full is read again when it is asked for. What the topic no
longer holds leaves the list, and what the ledger says was redriven is marked.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from sys import intern
from typing import Any

from pipeline.core.record import Record, TopicPartition
from pipeline.core.redrive import REDRIVEN, LetterId, Mark, Selection, letter_id
from pipeline.core.spelling import clipped
from pipeline.errors import Refused
from pipeline.stages.letters import LetterReader, StoredLetter, marked
from pipeline.stages.redrive import ledger

ERROR_CHARACTERS_MAX = 300
_KEPT = ("failed_at", "schema_id", "source_partition", "source_offset")
_CLIPPED = ("source_topic", "consumer_group", "error_class")


@dataclass(frozen=True, slots=True)
class Bounds:
    """A topic as it is now: by partition the first offset and the end, and what tells it from one that had its name before."""

    offsets: Mapping[int, tuple[int, int]]
    life: object = None


@dataclass(frozen=True, slots=True)
class _Row:
    """What the list knows of a letter; `envelope` is what selections ask for, None for what is no letter."""

    id: LetterId
    timestamp_ms: int | None
    reason: str
    key: str | None
    error: str
    envelope: Mapping[str, Any] | None

    @property
    def age(self) -> tuple[int, LetterId]:
        """What letters are put in order by."""
        return self.timestamp_ms or 0, self.id


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows of a selection, newest first, and how many it has."""

    rows: list[dict[str, Any]]
    total: int


class LetterIndex:
    """The letters of one topic. `bounds` tells of a topic as it is now, without offsets where it is not there; `read` what
    lies between two offsets. Every method by any thread; of `refresh`, one after the other.
    """

    def __init__(
        self,
        topic: str,
        reader: LetterReader,
        bounds: Callable[[str], Bounds],
        read: Callable[[Mapping[TopicPartition, tuple[int, int]]], Iterable[Record]],
        limit: int = 150_000,
    ) -> None:
        self._topic = topic
        self._reader = reader
        self._bounds = bounds
        self._read = read
        self._limit = limit
        self._refreshing = threading.Lock()
        self._lock = threading.Lock()
        self._next: dict[str, dict[int, int]] = {topic: {}, topic + REDRIVEN: {}}
        self._lives: dict[str, object] = {}
        self._marks: dict[LetterId, Mark] = {}
        self._rows: dict[LetterId, _Row] = {}
        # Both until something changes.
        self._sorted: list[_Row] | None = None
        self._stats: dict[str, Any] | None = None

    def refresh(self) -> None:
        """Read what came since the last time. Raises what reading raises; the next time begins where this one did."""
        with self._refreshing:
            ledger_bounds, bounds = self._bounds(self._topic + REDRIVEN), self._bounds(self._topic)
            marks = ledger(self._read(self._unread(self._topic + REDRIVEN, ledger_bounds)))
            unread = self._unread(self._topic, bounds)
            reader = replace(self._reader, records=lambda: self._read(unread), ledger=dict)
            rows = {letter.id: _row(letter) for letter in reader.letters()}
            with self._lock:
                if self._is_another(self._topic + REDRIVEN, ledger_bounds):
                    self._marks, self._stats = {}, None
                self._marks |= marks
                # What was deleted, also where the topic was recreated: its offsets begin again below what was read.
                another = self._is_another(self._topic, bounds)
                gone = [each for each in self._rows if another or not self._is_there(each, bounds)]
                for each in gone:
                    del self._rows[each]
                self._rows |= rows
                if rows or gone or marks:
                    self._sorted = self._stats = None
                for topic, found in ((self._topic + REDRIVEN, ledger_bounds), (self._topic, bounds)):
                    self._next[topic] = {partition: end for partition, (_, end) in found.offsets.items()}
                    self._lives[topic] = found.life

    def _is_another(self, topic: str, bounds: Bounds) -> bool:
        """Whether it was deleted and recreated since the last look, or emptied to below what was read of it."""
        seen = self._next[topic]
        shrank = any(end < seen.get(partition, 0) for partition, (_, end) in bounds.offsets.items())
        return shrank or not bounds.offsets or self._lives.get(topic, bounds.life) != bounds.life

    def _unread(self, topic: str, bounds: Bounds) -> dict[TopicPartition, tuple[int, int]]:
        unread = {}
        another = self._is_another(topic, bounds)
        for partition, (first, end) in bounds.offsets.items():
            seen = 0 if another else self._next[topic].get(partition, 0)
            # Letters beyond the newest are not listed, so they need not be read; every mark counts.
            oldest = end - self._limit if topic == self._topic else 0
            start = max(first, oldest, seen)
            if start < end:
                unread[TopicPartition(topic, partition)] = (start, end)
        return unread

    def _is_there(self, letter: LetterId, bounds: Bounds) -> bool:
        first, end = bounds.offsets.get(letter.partition, (0, 0))
        return first <= letter.offset < end

    def page(self, selection: Selection, state: str, offset: int, limit: int) -> Page:
        """Rows of the selection, newest first; `state` is due, redriven or all."""
        selection = selection.clipped()
        with self._lock:
            rows = self._in_order()
            found = [
                row
                for row in rows
                if state in {"all", self._state(row)} and selection.matches(row.id, row.reason, row.key, row.envelope)
            ]
            return Page([self._said(row) for row in found[offset : offset + limit]], len(found))

    def due(self, letters: Iterable[LetterId]) -> int:
        """How many of these are listed as due."""
        with self._lock:
            rows = (self._rows.get(each) for each in letters)
            return sum(row is not None and self._state(row) == "due" for row in rows)

    def stats(self) -> dict[str, Any]:
        """How many letters there are, due and redriven, and those that are due by reason, source topic and group.

        The most frequent ones first: whoever writes there may give every letter a reason of its own.
        """
        with self._lock:
            if self._stats is None:
                self._stats = self._counted(self._in_order())
            return self._stats

    def show(self, wanted: str) -> dict[str, Any]:
        """One letter in full, as `deadletters show` has it; `Refused` when it is not there."""
        it = letter_id(wanted)
        first, end = self._bounds(self._topic).offsets.get(it.partition, (0, 0))
        if not first <= it.offset < end:
            raise Refused(f"There is no letter {wanted}.")
        place = {TopicPartition(self._topic, it.partition): (it.offset, it.offset + 1)}
        with self._lock:
            marks = dict(self._marks)
        return replace(self._reader, records=lambda: self._read(place), ledger=lambda: marks).show(wanted)

    def _in_order(self) -> list[_Row]:
        if self._sorted is None:
            self._sorted = sorted(self._rows.values(), key=attrgetter("age"), reverse=True)
            for row in self._sorted[self._limit :]:
                del self._rows[row.id]
            del self._sorted[self._limit :]
        return self._sorted

    def _counted(self, rows: list[_Row]) -> dict[str, Any]:
        due = [row for row in rows if self._state(row) == "due"]
        return {
            "letters": len(rows),
            "due": len(due),
            "redriven": len(rows) - len(due),
            "by_reason": dict(Counter(row.reason for row in due).most_common()),
            "by_source": dict(
                Counter((row.envelope or {}).get("source_topic", "unknown") for row in due).most_common()
            ),
            "by_group": dict(
                Counter((row.envelope or {}).get("consumer_group", "unknown") for row in due).most_common()
            ),
        }

    def _state(self, row: _Row) -> str:
        return "redriven" if marked(self._marks, row.id, row.timestamp_ms) else "due"

    def _said(self, row: _Row) -> dict[str, Any]:
        it = row.envelope or {}
        return {
            "id": str(row.id),
            "failed_at": it["failed_at"].isoformat() if it.get("failed_at") else None,
            "reason": row.reason,
            "source": f"{it['source_topic']} [{it['source_partition']}] @ {it['source_offset']}" if it else None,
            "group": it.get("consumer_group"),
            "key": row.key,
            "error": row.error,
            "state": self._state(row),
        }


def _row(letter: StoredLetter) -> _Row:
    it = letter.envelope
    kept = None if it is None else {name: it.get(name) for name in _KEPT}
    if it is not None and kept is not None:
        kept |= {name: intern(clipped(str(it.get(name) or ""))) for name in _CLIPPED}
        kept["error"] = str(it.get("error") or "")[:ERROR_CHARACTERS_MAX]
    error = str(kept["error"] if kept else letter.error or "")[:ERROR_CHARACTERS_MAX]
    key = None if letter.key is None else clipped(letter.key)
    return _Row(letter.id, letter.record.timestamp_ms, intern(clipped(letter.reason)), key, error, kept)
