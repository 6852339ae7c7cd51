"""The hands that run handlers, away from the thread that polls: threads for plain functions, one event loop for async ones.

A crew takes works that may run now, in lists that one hand works off in order, and gives each back exactly once. It knows
neither offsets nor retries: whether a failure stops the list or only the failed one's lane, `core.failures` says.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, Protocol

from pipeline.core.failures import DATA_AT_FAULT, STOPS_ALL, classify
from pipeline.core.record import Record
from pipeline.stages.handlers import Handler, Kind
from pipeline.stages.work import Run

# One hand alone takes so many at once as it works off in this time, and never more than that: a hand-over costs as much as
# dozens of quick records, but what is in hand is settled together, and waited for when partitions go or the worker stops.
LIST_S = 0.05
LIST_RECORDS_MAX = 2_000
_LIST_RECORDS_FIRST = 64
# So long what coroutines finished is gathered before it is given back.
GATHER_S = 0.002
_LEAVE_S = 1.0


class Work(Protocol):
    """A record in hand, with its event and the lane that it must not overtake in."""

    record: Record
    event: Any
    lane: Any


class Done(NamedTuple):
    """What became of one work: handled (`error` None), failed, or, where `ran` is false, never given to the handler.

    Of a run that was handled as a whole there is one, whose work is the run.
    """

    work: Any
    error: BaseException | None = None
    ran: bool = True


class Crew(Protocol):
    """`room` says how many more lists it takes, `list_max` how long the next one may be.

    `in_order`: it takes lists one by one, each once the one before is back; so it may be given a run in place of a list.
    """

    list_max: int
    in_order: bool

    @property
    def room(self) -> int: ...

    def submit(self, works: Sequence[Work] | Run) -> None: ...

    def finished(self, timeout_s: float) -> list[Done]: ...

    def recall(self) -> list[Done]: ...

    def close(self) -> None: ...


def crew_for(handler: Handler, concurrency: int, batch: int) -> Crew:
    """The crew that fits the handler's kind, with so many hands; a batch handler gets up to `batch` records at once."""
    if handler.kind is Kind.ASYNC:
        return LoopCrew(handler.function, concurrency)
    if handler.kind is Kind.BATCH:
        return ThreadCrew(lambda works: run_batch(handler.function, works), concurrency, batch)
    alone = concurrency == 1
    first = _LIST_RECORDS_FIRST if alone else 1
    return ThreadCrew(lambda works: run_each(handler.function, works), concurrency, first, grows=alone)


def next_list(list_max: int, count: int, seconds: float) -> int:
    """How many to take at once when `count` took so long: twice as many as before at most, one at least."""
    fit = int(count * LIST_S / seconds) if seconds > 0 else LIST_RECORDS_MAX
    return max(1, min(fit, 2 * list_max, LIST_RECORDS_MAX))


class _Finished:
    """What comes back, for the one thread that asks."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[list[Done]] = SimpleQueue()
        self.put = self._queue.put

    def take(self, timeout_s: float) -> list[Done]:
        """All there is; waits up to `timeout_s` seconds for the first."""
        found: list[Done] = []
        try:
            found += self._queue.get(timeout=timeout_s) if timeout_s > 0 else self._queue.get_nowait()
            while True:
                found += self._queue.get_nowait()
        except Empty:
            return found


class ThreadCrew:
    """`hands` threads; `run` works one list off. The threads end with the process, whatever a handler does.

    `list_max` is kept, or with `grows` begun with: then the time that the last list took decides (`next_list`).
    """

    def __init__(
        self, run: Callable[[Sequence[Work] | Run], list[Done]], hands: int, list_max: int, *, grows: bool = False
    ) -> None:
        self.list_max = list_max
        self._grows = grows
        self.in_order = hands == 1 and list_max > 1
        self._run = run
        # Lists of one are short: one more for each hand is at the door, so that none waits for the next.
        self._lists_max = hands if list_max > 1 else 2 * hands
        self._lists = 0
        self._todo: deque[Sequence[Work] | Run] = deque()
        self._tickets: SimpleQueue[bool] = SimpleQueue()
        self._finished = _Finished()
        self._threads = [threading.Thread(target=self._hand, name=f"hand-{n}", daemon=True) for n in range(hands)]
        for thread in self._threads:
            thread.start()

    @property
    def room(self) -> int:
        """How many more lists may be submitted."""
        return self._lists_max - self._lists

    def submit(self, works: Sequence[Work] | Run) -> None:
        """Have this list worked off, in its order."""
        self._lists += 1
        self._todo.append(works)
        self._tickets.put(True)

    def finished(self, timeout_s: float) -> list[Done]:
        """What is done since the last call; waits up to `timeout_s` seconds for the first."""
        done = self._finished.take(timeout_s)
        self._lists -= sum(each.work is _END for each in done)
        return [each for each in done if each.work is not _END]

    def recall(self) -> list[Done]:
        """What nobody has begun comes back, not run."""
        recalled: list[Done] = []
        while True:
            try:
                works = self._todo.popleft()
            except IndexError:
                return recalled
            self._lists -= 1
            recalled += [Done(work, ran=False) for work in works]

    def close(self) -> None:
        """Let the hands go; one that is in a handler still is not waited for long."""
        for _ in self._threads:
            self._tickets.put(False)
        deadline = time.monotonic() + _LEAVE_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _hand(self) -> None:
        while self._tickets.get():
            try:
                works = self._todo.popleft()
            except IndexError:
                continue  # recalled
            began = time.monotonic()
            done = self._run(works)
            if self._grows:
                self.list_max = next_list(self.list_max, len(works), time.monotonic() - began)
            self._finished.put([*done, Done(_END)])


_END: Any = object()


class LoopCrew:
    """One event loop in a thread of its own, with up to `hands` coroutines of `function` running."""

    list_max = 1
    in_order = False

    def __init__(self, function: Callable[[Any, Record], Coroutine[Any, Any, object]], hands: int) -> None:
        self._function = function
        self._hands = hands
        self._running = 0
        self._in = 0
        self._todo: deque[Work] = deque()
        self._awake = False
        self._closing = False
        self._finished = _Finished()
        self._ended: list[Done] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="handlers", daemon=True)
        self._thread.start()

    @property
    def room(self) -> int:
        """How many more may be submitted: as many again as run are at the door."""
        return 2 * self._hands - self._in

    def submit(self, works: Sequence[Work] | Run) -> None:
        """Have these handled, side by side."""
        self._in += len(works)
        self._todo.extend(works)
        if not self._awake:
            # One wake-up for all that is submitted until the loop looks.
            self._awake = True
            self._loop.call_soon_threadsafe(self._begin)

    def finished(self, timeout_s: float) -> list[Done]:
        """What is done since the last call; waits up to `timeout_s` seconds for the first."""
        done = self._finished.take(timeout_s)
        self._in -= len(done)
        return done

    def recall(self) -> list[Done]:
        """What nobody has begun comes back, not run."""
        recalled: list[Done] = []
        while True:
            try:
                recalled.append(Done(self._todo.popleft(), ran=False))
            except IndexError:
                self._in -= len(recalled)
                return recalled

    def close(self) -> None:
        """Cancel what runs still, and end the loop."""
        self._loop.call_soon_threadsafe(self._stop)
        self._thread.join(_LEAVE_S)

    def _run(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._give_all_back()
            self._loop.close()

    def _begin(self) -> None:
        self._awake = False
        while self._todo and self._running < self._hands and not self._closing:
            self._running += 1
            task = self._loop.create_task(self._hand())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _hand(self) -> None:
        """Work off one after the other as long as something is at the door."""
        task = asyncio.current_task()
        try:
            while not self._closing:
                try:
                    work = self._todo.popleft()
                except IndexError:
                    return
                try:
                    await self._function(work.event, work.record)
                except BaseException as error:  # noqa: BLE001  # its class decides, in the stage
                    self._give_back(Done(work, error))
                    # A handler that cancelled itself has ended; its hand takes the next one.
                    while task is not None and task.cancelling():
                        task.uncancel()
                else:
                    self._give_back(Done(work))
        finally:
            self._running -= 1

    def _give_back(self, done: Done) -> None:
        """Several at once, as long as no hand waits for a next one: each time the other thread has to be woken."""
        self._ended.append(done)
        if not self._todo:
            self._give_all_back()
        elif len(self._ended) == 1:
            self._loop.call_later(GATHER_S, self._give_all_back)

    def _give_all_back(self) -> None:
        if self._ended:
            ended, self._ended = self._ended, []
            self._finished.put(ended)

    def _stop(self) -> None:
        self._closing = True
        waiting = [task for task in self._tasks if not task.done()]
        for task in waiting:
            task.cancel()
        ended = asyncio.gather(*waiting, return_exceptions=True)
        ended.add_done_callback(lambda _: self._loop.stop())


def run_each(function: Callable[[Any, Record], object], works: Sequence[Work] | Run) -> list[Done]:
    """One after the other: what the environment or a bug stops ends the list, other failures only their own lane."""
    if isinstance(works, Run):
        return _run_through(function, works)
    done: list[Done] = []
    stopped = False
    blocked: set[Any] = set()
    for work in works:
        if stopped or (blocked and work.lane in blocked):
            done.append(Done(work, ran=False))
            continue
        try:
            function(work.event, work.record)
        except BaseException as error:  # noqa: BLE001  # its class decides, in the stage
            done.append(Done(work, error))
            kind = classify(error).kind
            stopped = kind in STOPS_ALL
            if kind not in DATA_AT_FAULT:
                blocked.add(work.lane)
        else:
            done.append(Done(work))
    return done


def _run_through(function: Callable[[Any, Record], object], run: Run) -> list[Done]:
    """A run goes from one to the next; the first failure ends it, and what is left goes on as works do."""
    reached = 0
    try:
        for event, record in zip(run.events, run.records, strict=True):
            function(event, record)
            reached += 1
    except BaseException as error:  # noqa: BLE001  # its class decides, in the stage
        return [Done(work, error if at == reached else None, at <= reached) for at, work in enumerate(run)]
    return [Done(run)]


def run_batch(function: Callable[[list[tuple[Any, Record]]], Any], works: Sequence[Work] | Run) -> list[Done]:
    """Call it on all; where it fails, halve until the ones at fault are found. Order is kept.

    A handler that names what it rejects (it returns pairs of record and exception) is spared the halving.
    """
    batch = _Batch(function)
    if not isinstance(works, Run):
        batch.call(works)
        return batch.done
    try:
        named = batch.rejected(list(zip(works.events, works.records, strict=True)))
    except BaseException as error:  # noqa: BLE001  # its class decides, in the stage
        batch.halve(list(works), error)
        return batch.done
    return [Done(work, named.get(id(work.record))) for work in works] if named else [Done(works)]


class _Batch:
    """One list on its way through a batch handler: what is done with, and what is not to be tried in this list any more."""

    def __init__(self, function: Callable[[list[tuple[Any, Record]]], Any]) -> None:
        self._function = function
        self._stopped = False
        self._blocked: set[Any] = set()
        self.done: list[Done] = []

    def rejected(self, pairs: list[tuple[Any, Record]]) -> dict[int, BaseException]:
        return {id(record): error for record, error in self._function(pairs) or ()}

    def call(self, part: Sequence[Work]) -> None:
        free = [] if self._stopped else [work for work in part if work.lane not in self._blocked]
        if len(free) < len(part):
            self.done += [Done(work, ran=False) for work in part if self._stopped or work.lane in self._blocked]
        if not free:
            return
        try:
            named = self.rejected([(it.event, it.record) for it in free])
        except BaseException as error:  # noqa: BLE001  # its class decides, in the stage
            self.halve(free, error)
        else:
            self.done += [Done(work, named.get(id(work.record))) for work in free]

    def halve(self, failed: Sequence[Work], error: BaseException) -> None:
        kind = classify(error).kind
        if kind in STOPS_ALL:
            self._stopped = True
            self.done += [Done(work, error if work is failed[0] else None, work is failed[0]) for work in failed]
        elif len(failed) == 1:
            self.done.append(Done(failed[0], error))
            if kind not in DATA_AT_FAULT:
                self._blocked.add(failed[0].lane)
        else:
            self.call(failed[: len(failed) // 2])
            self.call(failed[len(failed) // 2 :])
