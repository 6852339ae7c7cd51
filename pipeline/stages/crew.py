"""The hands that run handlers, away from the thread that polls: threads for plain functions, one event loop for async ones.

A crew takes works that may run now, in lists that one hand works off in order, and gives each back exactly once. It knows
neither offsets nor retries: whether a failure stops the list or only the failed one's lane, `core.failures` says. A hand
survives whatever a handler does.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from pipeline.core.record import Record
from pipeline.stages import calls
from pipeline.stages.calls import Call, Done, Judge, Pace, Work, run_batch, run_each
from pipeline.stages.handlers import Handler, Kind
from pipeline.stages.returns import refuse_unfinished
from pipeline.stages.work import Run

__all__ = ["Call", "Crew", "Done", "LoopCrew", "ThreadCrew", "Work", "crew_for", "next_list", "run_batch", "run_each"]

# One hand alone takes so many at once as it works off in this time, and never more than that: a hand-over costs as much as
# dozens of quick records, but what is in hand is settled together, and waited for when partitions go or the worker stops.
LIST_S = 0.05
LIST_RECORDS_MAX = 2_000
_LIST_RECORDS_FIRST = 64
# Where a list takes longer than that after all, it ends with the call that goes on; what is left of it comes back.
SLICE_S = 0.1
# So long what coroutines finished is gathered before it is given back.
GATHER_S = 0.002
_LEAVE_S = 1.0


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

    def calls(self) -> list[Call]: ...

    def close(self) -> None: ...


def crew_for(
    handler: Handler, concurrency: int, batch: int, *, judged: Judge | None = None, timeout_s: float | None = None
) -> Crew:
    """The crew that fits the handler's kind, with so many hands; a batch handler gets up to `batch` records at once.

    `judged` says what becomes of a record that failed so. A coroutine is cancelled after `timeout_s` seconds.
    """
    function, more = handler.function, () if judged is None else (judged,)
    if handler.kind is Kind.ASYNC:
        return LoopCrew(function, concurrency, timeout_s)
    if handler.kind is Kind.BATCH:
        return ThreadCrew(
            lambda works: run_batch(function, works, *more),
            concurrency,
            batch,
            lambda list_max, ran, _, cut: max(1, ran) if cut else min(batch, 2 * list_max),
        )
    alone = concurrency == 1
    first, then = (_LIST_RECORDS_FIRST, next_list) if alone else (1, None)
    return ThreadCrew(lambda works: run_each(function, works, *more), concurrency, first, then)


def next_list(list_max: int, count: int, seconds: float, _: bool = False) -> int:
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


# How long the next list is: of how long the last one was allowed to be, how many of it ran, in how many seconds, and whether
# it was cut before its end. A batch that was cut while it was halved goes on where it was.
Next = Callable[[int, int, float, bool], int]


class ThreadCrew:
    """`hands` threads; `run` works one list off. The threads end with the process, whatever a handler does.

    `list_max` is kept, or begun with, and then what `then` says.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Work] | Run], list[Done]],
        hands: int,
        list_max: int,
        then: Next | None = None,
    ) -> None:
        self.list_max = list_max
        self._then = then
        self.in_order = hands == 1 and list_max > 1
        self._run = run
        # Lists of one are short: one more for each hand is at the door, so that none waits for the next.
        self._lists_max = hands if list_max > 1 else 2 * hands
        self._cuts = list_max > 1
        self._lists = 0
        self._todo: deque[Sequence[Work] | Run] = deque()
        self._tickets: SimpleQueue[bool] = SimpleQueue()
        self._finished = _Finished()
        self._paces = [Pace() for _ in range(hands)]
        self._threads = [
            threading.Thread(target=self._hand, args=(pace,), name=f"hand-{n}", daemon=True)
            for n, pace in enumerate(self._paces)
        ]
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
        if self._cuts:
            now = time.monotonic()
            for pace in self._paces:
                if pace.since is not None and now - pace.since > SLICE_S:
                    pace.cut = True
        done = self._finished.take(timeout_s)
        self._lists -= sum(each.work is _END for each in done)
        return [each for each in done if each.work is not _END]

    def recall(self) -> list[Done]:
        """What nobody has begun comes back, not run; lists in hand end with the calls that go on."""
        recalled: list[Done] = []
        for pace in self._paces:
            pace.cut = True
        while True:
            try:
                works = self._todo.popleft()
            except IndexError:
                return recalled
            self._lists -= 1
            recalled += [Done(works, ran=False)] if isinstance(works, Run) else [Done(it, ran=False) for it in works]

    def calls(self) -> list[Call]:
        """The calls of the handler that go on."""
        return [call for pace in self._paces if (call := pace.call()) is not None]

    def close(self) -> None:
        """Let the hands go; one that is in a handler still is not waited for long."""
        for _ in self._threads:
            self._tickets.put(False)
        deadline = time.monotonic() + _LEAVE_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _hand(self, pace: Pace) -> None:
        calls.here.pace = pace
        while self._tickets.get():
            try:
                works = self._todo.popleft()
            except IndexError:
                continue  # recalled
            pace.begin()
            began = time.monotonic()
            try:
                done = self._run(works)
            except BaseException as error:  # noqa: BLE001  # ours, then: the stage stops there, and the hand lives on
                done = [Done(work, None if at else error, ran=not at) for at, work in enumerate(works)]
            if self._then is not None:
                ran = sum(len(it.work) if isinstance(it.work, Run) else 1 for it in done if it.ran)
                cut = pace.cut and ran < len(works)
                self.list_max = self._then(self.list_max, ran, time.monotonic() - began, cut)
            pace.end()
            self._finished.put([*done, Done(_END)])


_END: Any = object()


class LoopCrew:
    """One event loop in a thread of its own, with up to `hands` coroutines of `function` running."""

    list_max = 1
    in_order = False

    def __init__(
        self,
        function: Callable[[Any, Record], Coroutine[Any, Any, object]],
        hands: int,
        timeout_s: float | None = None,
    ) -> None:
        self._function = function
        self._hands = hands
        self._timeout_s = timeout_s
        self._calls: dict[object, Call] = {}
        self._running = 0
        self._in = 0
        self._todo: deque[Work] = deque()
        self._awake = False
        self._closing = False
        self._over = False
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

    def calls(self) -> list[Call]:
        """The calls of the handler that go on."""
        return list(self._calls.copy().values())

    def close(self) -> None:
        """Cancel what runs still, and end the loop."""
        self._loop.call_soon_threadsafe(self._stop)
        self._thread.join(_LEAVE_S)

    def _run(self) -> None:
        try:
            while not self._over:
                # A task of a handler's that leaves the process (SystemExit) comes out here; so does one that stops the loop.
                with suppress(BaseException):
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
            task.add_done_callback(self._gone)

    def _gone(self, task: "asyncio.Task[None]") -> None:
        """Whether it ended by itself or was cancelled by a handler, before it began even."""
        self._tasks.discard(task)
        self._running -= 1
        self._begin()

    async def _hand(self) -> None:
        """Work off one after the other as long as something is at the door."""
        task = asyncio.current_task()
        while not self._closing:
            try:
                work = self._todo.popleft()
            except IndexError:
                return
            self._calls[task] = Call(work.record, 1, time.monotonic())
            try:
                if (returned := await self._called(work)) is not None:
                    refuse_unfinished(returned)
            except BaseException as error:  # noqa: BLE001  # its class decides, in the stage
                self._give_back(Done(work, error))
                # A handler that cancelled itself has ended; its hand takes the next one.
                while task is not None and task.cancelling():
                    task.uncancel()
            else:
                self._give_back(Done(work))
            finally:
                del self._calls[task]

    async def _called(self, work: Work) -> object:
        if self._timeout_s is None:
            return await self._function(work.event, work.record)
        try:
            async with asyncio.timeout(self._timeout_s) as limit:
                return await self._function(work.event, work.record)
        except TimeoutError as error:
            if not limit.expired():
                raise
            late = f"the handler had not returned after {self._timeout_s:g} s (consume.handler_timeout_s): it was cancelled"
            raise TimeoutError(late) from error

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
        ended.add_done_callback(lambda _: self._end())

    def _end(self) -> None:
        self._over = True
        self._loop.stop()
