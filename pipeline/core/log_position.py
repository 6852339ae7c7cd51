"""Where reading begins or goes on: what was committed, held against what the log holds now.

A committed offset is a number that the broker keeps beside a log and never compares with it. Retention deletes what it points
to; a topic is deleted and made anew, restored from a backup, or loses its end in an unclean leader election, and then the
number belongs to another log. Every start and every change while a worker runs is decided here, for all topics alike.

Counts are offsets: at most so many records, because markers of transactions and compacted records take offsets too. A gap
between two records that the log still spans is no finding: those offsets were compacted, aborted, or are markers.
Sources: KIP-320 (truncation), KIP-516 (topic ids).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from pipeline.core.offsets import Note, Run, read_note, topic_id_of
from pipeline.core.record import TopicPartition


@dataclass(frozen=True, slots=True)
class Bounds:
    """A partition's log: the offset of its oldest record, the offset after all that was written, and the topic's id.

    `topic_id` is Kafka's own id of the topic, another one each time it is made; empty where nobody tells.
    """

    beginning: int
    end: int
    topic_id: str = ""


_NO_NOTE = Note()


class Kind(StrEnum):
    """What a position turned out to be."""

    DELETED = "deleted"  # retention, or somebody's DeleteRecords, passed it
    BEYOND_THE_END = "beyond_the_end"  # the log is shorter: made anew, restored, or truncated
    ANOTHER_LOG = "another_log"  # the topic's id is another one, or the log was cut and has grown again
    NEVER_COMMITTED = "never_committed"  # and the log's first records are gone


@dataclass(frozen=True, slots=True)
class Finding:
    """A position that the log does not hold any more; `position` is None where nothing was committed.

    `offsets` is how many were deleted unread, or, of another log, how many it holds.
    """

    where: TopicPartition
    kind: Kind
    position: int | None
    bounds: Bounds
    offsets: int

    @property
    def missed(self) -> int:
        """At most so many records were deleted before this group read them."""
        return self.offsets if self.kind is Kind.DELETED else 0

    @property
    def again(self) -> bool:
        """Whether the partition is read from the beginning of another log."""
        return self.kind in {Kind.BEYOND_THE_END, Kind.ANOTHER_LOG}

    def __str__(self) -> str:
        """One sentence or two: what was found, and what follows."""
        log = f"the log holds {self.bounds.beginning} to {self.bounds.end}"
        place = f"{self.where.topic} [{self.where.partition}]"
        if self.kind is Kind.DELETED:
            return (
                f"{place}: offset {self.position} comes next, but {log}. Up to {self.offsets} records were deleted "
                f"(retention) before this group read them; it goes on at {self.bounds.beginning}."
            )
        if self.kind is Kind.NEVER_COMMITTED:
            return (
                f"{place}: this group has no committed offset here (it is new, or its offsets expired), and {log}. The first "
                f"{self.offsets} offsets are gone (retention); it begins at {self.bounds.beginning}."
            )
        why = (
            "the topic was made anew, restored or truncated"
            if self.kind is Kind.BEYOND_THE_END
            else "it is another log than the one that this offset was committed for: the topic was made anew or truncated"
        )
        return (
            f"{place}: offset {self.position} comes next, but {log}: {why}. All of it is read from its beginning, "
            f"up to {self.offsets} records; nothing of it counts as done."
        )


@dataclass(frozen=True, slots=True)
class Start:
    """Where to read from, what of the note beside the committed offset may be believed, and what was found."""

    offset: int
    note: Note = _NO_NOTE
    finding: Finding | None = None


def start(where: TopicPartition, committed: int | None, text: str, bounds: Bounds, *, displaced: bool = False) -> Start:
    """Where a partition's reading begins, given what its group committed with which words (None, "" for nothing).

    With `displaced` the broker said that the log does not hold this position: where it seems to now, the log was cut and
    has grown again. Of another log everything is read, for nothing in it is known to be done.
    """
    if committed is None or committed < 0:
        gone = bounds.beginning
        kind = Finding(where, Kind.NEVER_COMMITTED, None, bounds, gone) if gone > 0 else None
        return Start(bounds.beginning, finding=kind)
    note = read_note(text, committed)
    found = _another_log(where, committed, topic_id_of(text, committed), note, bounds)
    if found is None and committed < bounds.beginning:
        note = note.naming([suspect for suspect in note.suspects if suspect[0] >= bounds.beginning])
        lost = bounds.beginning - committed - _covered(note.done, committed, bounds.beginning)
        deleted = Finding(where, Kind.DELETED, committed, bounds, lost) if lost else None
        return Start(bounds.beginning, note, deleted)
    if found is None and displaced:
        found = Finding(where, Kind.ANOTHER_LOG, committed, bounds, bounds.end - bounds.beginning)
    return Start(committed, note) if found is None else Start(bounds.beginning, finding=found)


def moved(where: TopicPartition, position: int, topic_id: str, bounds: Bounds) -> Finding | None:
    """What became of a log while it was read up to `position`; None where it holds that position still."""
    found = _another_log(where, position, topic_id, _NO_NOTE, bounds)
    if found is None and position < bounds.beginning:
        return Finding(where, Kind.DELETED, position, bounds, bounds.beginning - position)
    return found


def _another_log(where: TopicPartition, position: int, topic_id: str, note: Note, bounds: Bounds) -> Finding | None:
    held = bounds.end - bounds.beginning
    if topic_id and bounds.topic_id and topic_id != bounds.topic_id:
        return Finding(where, Kind.ANOTHER_LOG, position, bounds, held)
    # What is done above the offset lay in the log too, and so did the records that were in flight.
    furthest = max([position, *(last for _, last in note.done), *(offset + 1 for offset, _ in note.suspects)])
    if furthest > bounds.end:
        return Finding(where, Kind.BEYOND_THE_END, position, bounds, held)
    return None


def _covered(runs: Iterable[Run], first: int, last: int) -> int:
    """How many of the offsets in [first, last) lie in the runs."""
    return sum(max(0, min(last, stop) - max(first, start)) for start, stop in runs)
