"""How a list of records goes through a handler: one by one or as a batch, until it ends, fails, or is cut short.

A list is cut between two calls (`Pace.cut`) where what was handled has waited long enough to be settled, or the worker lets go
of what is not begun. Nothing that a handler raises or returns ends a hand.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from operator import length_hint
from typing import Any, NamedTuple, Protocol

from pipeline.core.failures import Verdict, judge
from pipeline.core.record import Record
from pipeline.stages.returns import refuse_unfinished, rejects
from pipeline.stages.work import Run

Judge = Callable[[BaseException], Verdict]
_STRICT = judge()


class Work(Protocol):
    """A record in hand, with its event and the lane that it must not overtake in.

    Where it has `again`, that makes its event anew: a handler may have changed the one that it was given.
    """

    record: Record
    event: Any
    lane: Any


class Done(NamedTuple):
    """What became of one work: handled (`error` None), failed, or, where `ran` is false, to be given to the handler again.

    Of a run that was handled as a whole there is one, whose work is the run; of one that was cut there are two, whose works
    are runs, the second one not run.
    """

    work: Any
    error: BaseException | None = None
    ran: bool = True


class Call(NamedTuple):
    """A call of the handler that has not returned: on `record`, or a batch of `size` from it on; seconds of the clock."""

    record: Record
    size: int
    since: float


class Pace:
    """Of one hand: what it is at, since when, and whether it is to end its list before the next call.

    Written by the hand; read, and `cut` set, by the thread that polls.
    """

    __slots__ = ("_first", "_left", "_records", "cut", "since")

    def __init__(self) -> None:
        self.cut = False
        self.since: float | None = None
        self._records: Sequence[Record] = ()
        self._left: Iterator[Record] | None = None
        self._first: tuple[Record, int] | None = None

    def begin(self) -> None:
        """A list begins."""
        self.cut, self._left, self._first = False, None, None
        self.since = time.monotonic()

    def end(self) -> None:
        """It is back."""
        self.since, self._left, self._first = None, None, None

    def through(self, records: Sequence[Record]) -> Iterator[Record]:
        """These one by one; how far it is shows in the iterator itself, so that it costs nothing."""
        self._records, self._left = records, iter(records)
        return self._left

    def at(self, record: Record, size: int = 1) -> None:
        """The handler is called on this one, or on so many from it on."""
        self._first = record, size

    def call(self) -> Call | None:
        """What goes on, if anything does. `since` is when the list began: 0.1 s before the call at the most."""
        since, left, first = self.since, self._left, self._first
        if since is None:
            return None
        if left is not None and self._records:
            at = len(self._records) - length_hint(left) - 1
            return Call(self._records[max(at, 0)], 1, since)
        return Call(*first, since) if first is not None else None


# The pace of the hand that this thread is; others go at one of their own.
here = threading.local()


def _pace() -> Pace:
    pace: Pace | None = getattr(here, "pace", None)
    return pace or Pace()


def run_each(
    function: Callable[[Any, Record], object],
    works: Sequence[Work] | Run,
    judged: Judge = _STRICT,
) -> list[Done]:
    """One after the other: what the environment or a bug stops ends the list, other failures only their own lane."""
    pace = _pace()
    if isinstance(works, Run):
        return _run_through(function, works, pace)
    done: list[Done] = []
    stopped = False
    blocked: set[Any] = set()
    for work in works:
        if stopped or (pace.cut and done) or (blocked and work.lane in blocked):
            done.append(Done(work, ran=False))
            continue
        pace.at(work.record)
        try:
            if (returned := function(work.event, work.record)) is not None:
                refuse_unfinished(returned)
        except BaseException as error:  # noqa: BLE001  # its class decides, in the stage
            done.append(Done(work, error))
            verdict = judged(error)
            stopped = verdict in _STOPS
            if verdict is not Verdict.GIVE_UP:
                blocked.add(work.lane)
        else:
            done.append(Done(work))
    return done


def _run_through(function: Callable[[Any, Record], object], run: Run, pace: Pace) -> list[Done]:
    """A run goes from one to the next; the first failure ends it, and what is left goes on as works do."""
    reached = 0
    try:
        for event, record in zip(run.events, pace.through(run.records), strict=True):
            if (returned := function(event, record)) is not None:
                refuse_unfinished(returned)
            reached += 1
            if pace.cut:
                break
    except BaseException as error:  # noqa: BLE001  # its class decides, in the stage
        return [Done(work, error if at == reached else None, at <= reached) for at, work in enumerate(run)]
    if reached == len(run):
        return [Done(run)]
    head, rest = run.split(reached)
    return [Done(head), Done(rest, ran=False)]


def run_batch(
    function: Callable[[list[tuple[Any, Record]]], Any],
    works: Sequence[Work] | Run,
    judged: Judge = _STRICT,
) -> list[Done]:
    """Call it on all; where it fails, halve until the ones at fault are found. Order is kept.

    A handler that names what it rejects (it returns pairs of record and exception) is spared the halving.
    """
    batch = _Batch(function, _pace(), judged)
    if not isinstance(works, Run):
        batch.call(works)
        return batch.done
    try:
        named = batch.rejected(works.events, works.records)
    except BaseException as error:  # noqa: BLE001  # its class decides, in the stage
        batch.halve(list(works), error)
        return batch.done
    if not named:
        return [Done(works)]
    batch.take_in(list(works), named)
    return batch.done


class _Batch:
    """One list on its way through a batch handler: what is done with, and what is not to be tried in this list any more."""

    def __init__(self, function: Callable[[list[tuple[Any, Record]]], Any], pace: Pace, judged: Judge) -> None:
        self._function = function
        self._pace = pace
        self._judged = judged
        self._stopped = False
        self._ran = False
        self._blocked: set[Any] = set()
        self.done: list[Done] = []

    def rejected(self, events: Sequence[Any], records: Sequence[Record]) -> dict[int, BaseException]:
        self._pace.at(records[0], len(records))
        returned = self._function(list(zip(events, records, strict=True)))
        return rejects(returned, records)

    def call(self, part: Sequence[Work], *, again: bool = False) -> None:
        # Cut only once something came of it: or a slow batch that fails would be begun for ever.
        stopped = self._stopped or (self._pace.cut and self._ran)
        free = [] if stopped else [work for work in part if work.lane not in self._blocked]
        if len(free) < len(part):
            self.done += [Done(work, ran=False) for work in part if stopped or work.lane in self._blocked]
        if not free:
            return
        try:
            events = [_anew(it) if again else it.event for it in free]
            named = self.rejected(events, [it.record for it in free])
        except BaseException as error:  # noqa: BLE001  # its class decides, in the stage
            self.halve(free, error)
        else:
            self.take_in(free, named)

    def take_in(self, works: Sequence[Work], named: dict[int, BaseException]) -> None:
        """The handler returned. Of the key of one that is to be tried again, what came later is handled again as well."""
        self._ran = True
        behind: set[Any] = set()
        for at, work in enumerate(works):
            if behind and work.lane in behind:
                self.done.append(Done(work, ran=False))
                continue
            error = named.get(at)
            self.done.append(Done(work, error))
            if error is not None and (verdict := self._judged(error)) is not Verdict.GIVE_UP:
                self._stopped = self._stopped or verdict in _STOPS
                behind.add(work.lane)
        self._blocked |= behind

    def halve(self, failed: Sequence[Work], error: BaseException) -> None:
        verdict = self._judged(error)
        if verdict in _STOPS:
            self._stopped = True
            self.done += [Done(work, error if work is failed[0] else None, work is failed[0]) for work in failed]
        elif len(failed) == 1:
            self._ran = True
            self.done.append(Done(failed[0], error))
            if verdict is not Verdict.GIVE_UP:
                self._blocked.add(failed[0].lane)
        else:
            self.call(failed[: len(failed) // 2], again=True)
            self.call(failed[len(failed) // 2 :], again=True)


_STOPS = frozenset({Verdict.WAIT, Verdict.STOP})


def _anew(work: Any) -> Any:
    again = getattr(work, "again", None)
    return work.event if again is None else again()
