"""A record on its way through the worker: alone, or in a run with those that came before and after it.

Where nothing waits and nothing failed, records go in runs: one list of them is decoded, handed to the one hand there is, and
settled at once. Only where that does not end well, each record of the run becomes a work of its own.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pipeline.core.record import Record, value_of
from pipeline.core.retry import Journey
from pipeline.stages.partitions import Stream


@dataclass(eq=False, slots=True)
class Work:
    """`record` is as the handler sees it; `offset` is where it was read.

    `here` counts the failures since it was read, `its` tells of those before; `tries` counts the workers that had it in
    hand, this one too, once it was named. `number` is its place in the order of arrival. `due` is when it may run (seconds
    of the clock); it has `waited` for the registry; it is `away` in the outbox; it was part of a `run`, and has no lane yet.
    """

    record: Record
    stream: Stream
    offset: int
    lane: Hashable
    number: int
    its: Journey | None = None
    here: int = 0
    tries: int = 0
    first_failed_ms: int | None = None
    event: Any = None
    due: float = 0.0
    waited: bool = False
    away: bool = False
    of_run: bool = False
    fresh: Callable[[Record], Any] | None = None

    def again(self) -> Any:
        """Its event, made anew where `fresh` can: a handler may have changed the one that it was given."""
        return self.event if self.fresh is None else self.fresh(self.record)

    @property
    def attempts(self) -> int:
        """How often it failed so far."""
        return self.here + (self.its.attempts if self.its else 0)

    @property
    def size(self) -> int:
        """Bytes of its value."""
        return len(self.record.value or b"")

    def alive(self) -> bool:
        """Whether its partition is still ours."""
        return not self.stream.shard.closed


class Part(NamedTuple):
    """Records of a run that follow each other in one stream: from `start` to before `stop`, of `size` bytes."""

    stream: Stream
    start: int
    stop: int
    size: int


@dataclass(eq=False, slots=True)
class Run:
    """Records and their events, none of which failed before; as a sequence it is the works that they become.

    `work` makes one of a stream, a record and its number; the numbers count from `first`.
    """

    work: Callable[[Stream, Record, int], Work]
    first: int
    records: list[Record] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Work]:
        for part in self.parts:
            for at in range(part.start, part.stop):
                work = self.work(part.stream, self.records[at], self.first + at)
                work.event, work.of_run = self.events[at], True
                yield work

    def add(self, stream: Stream, records: Sequence[Record], events: Sequence[Any], size: int) -> None:
        """At the end."""
        start = len(self.records)
        self.records += records
        self.events += events
        self.parts.append(Part(stream, start, len(self.records), size))

    def split(self, at: int) -> tuple["Run", "Run"]:
        """The first `at` records, and the rest."""
        head = Run(self.work, self.first, self.records[:at], self.events[:at])
        rest = Run(self.work, self.first + at, self.records[at:], self.events[at:])
        for stream, start, stop, size in self.parts:
            before = size if stop <= at else sum(map(len, filter(None, map(value_of, self.records[start:at]))))
            if start < at:
                head.parts.append(Part(stream, start, min(stop, at), before))
            if stop > at:
                rest.parts.append(Part(stream, max(start - at, 0), stop - at, size - before))
        return head, rest


class Straight:
    """Runs that wait for the hand."""

    def __init__(self, work: Callable[[Stream, Record, int], Work]) -> None:
        self._work = work
        self._runs: deque[Run] = deque()

    def __len__(self) -> int:
        """How many records wait."""
        return sum(map(len, self._runs))

    def add(self, stream: Stream, records: Sequence[Record], events: Sequence[Any], size: int, first: int) -> None:
        """Behind the others; their numbers count from `first`."""
        last = self._runs[-1] if self._runs else None
        if last is None or last.first + len(last) != first:
            last = Run(self._work, first)
            self._runs.append(last)
        last.add(stream, records, events, size)

    def take(self, most: int) -> Run:
        """The first run, or so many records of it."""
        run = self._runs.popleft()
        if len(run) > most:
            run, rest = run.split(most)
            self._runs.appendleft(rest)
        return run

    def put_back(self, run: Run) -> None:
        """To the front: it was taken, and no handler saw it."""
        self._runs.appendleft(run)
        if any(part.stream.shard.closed for part in run.parts):
            self.drop_closed()

    def clear(self) -> list[Work]:
        """All of it, as works, in the order it came."""
        runs, self._runs = self._runs, deque()
        return [work for run in runs for work in run]

    def drop_closed(self) -> None:
        """Leave out what belongs to another member now."""
        runs, self._runs = self._runs, deque()
        for run in runs:
            for part in run.parts:
                if not part.stream.shard.closed:
                    records, events = run.records[part.start : part.stop], run.events[part.start : part.stop]
                    self.add(part.stream, records, events, part.size, run.first + part.start)
