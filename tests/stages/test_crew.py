"""The hands: what they are given comes back exactly once, whatever handlers do. Real threads, waited for by deadline."""

import asyncio
import gc
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.offsets import Note, Progress
from pipeline.core.record import Record, TopicPartition
from pipeline.errors import Reject, Retry, SinkRefused, SinkUnavailable
from pipeline.stages.crew import LIST_S, Crew, Done, LoopCrew, ThreadCrew, crew_for, next_list, run_batch, run_each
from pipeline.stages.handlers import adapt
from pipeline.stages.partitions import Shard, Stream
from pipeline.stages.work import Run, Straight, Work

DEADLINE_S = 20.0


@dataclass(eq=False)
class Item:
    record: Record
    event: Any
    lane: Any


def works(*events: Any) -> list[Item]:
    """The lane of each is the first letter of its event."""
    return [Item(Record("t", 0, at, None, None), event, str(event)[0]) for at, event in enumerate(events)]


def collect(crew: Crew, count: int) -> list[Done]:
    done: list[Done] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(done) < count:
        assert time.monotonic() < deadline, f"only {len(done)} of {count} came back"
        done += crew.finished(0.05)
    return done


def await_(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        pause.wait(0.001)


# --- one list


def told(done: Sequence[Done]) -> dict[str, Any]:
    return {it.work.event: type(it.error).__name__ if it.error else it.ran for it in done}


@pytest.mark.parametrize(
    ("error", "second", "others"),
    [
        (SinkUnavailable("down."), False, False),
        (TypeError("oops"), False, False),
        (SystemExit(1), False, False),
        (Retry(), False, True),
        (OSError("x"), False, True),
        (Reject("no"), True, True),
        (SinkRefused("no"), True, True),
    ],
)
def test_what_fails_stops_the_list_its_lane_or_only_itself(error: BaseException, second: bool, others: bool) -> None:
    def handle(event: str, record: Record) -> None:
        if event == "a1":
            raise error

    done = run_each(handle, works("a1", "b1", "a2", "b2"))
    assert told(done) == {"a1": type(error).__name__, "b1": others, "a2": second, "b2": others}
    assert [it.work.event for it in done] == ["a1", "b1", "a2", "b2"]


OUTCOMES = st.sampled_from(("ok", "ok", "ok", "reject", "transient", "outage", "bug"))
ERRORS = {"reject": Reject, "transient": OSError, "outage": SinkUnavailable, "bug": TypeError}


@given(plan=st.lists(st.tuples(st.sampled_from("abc"), OUTCOMES), min_size=1, max_size=12), named=st.booleans())
@settings(max_examples=300)
def test_batch_is_halved_until_the_ones_at_fault_are_found_and_keeps_the_order(
    plan: list[tuple[str, str]], named: bool
) -> None:
    given_ = works(*(f"{lane}{at}" for at, (lane, _) in enumerate(plan)))
    outcome = {item.event: outcome for item, (_, outcome) in zip(given_, plan, strict=True)}
    effects: list[str] = []

    def handle(batch: list[tuple[str, Record]]) -> list[tuple[Record, Exception]]:
        rejects = [(record, Reject("no")) for event, record in batch if named and outcome[event] == "reject"]
        for event, _ in batch:
            if outcome[event] != "ok" and not (named and outcome[event] == "reject"):
                raise ERRORS[outcome[event]]
        gone = {id(record) for record, _ in rejects}
        effects.extend(event for event, record in batch if id(record) not in gone)
        return rejects

    done = run_batch(handle, given_)
    assert Counter(id(it.work) for it in done) == Counter(map(id, given_)), "each exactly once"
    by_event = {it.work.event: it for it in done}
    assert effects == [event for event in outcome if by_event[event].ran and by_event[event].error is None]
    for event, it in by_event.items():
        what = outcome[event]
        assert not isinstance(it.error, Reject) or what == "reject"
        assert not isinstance(it.error, OSError) or what == "transient"
    stops = [it for it in done if isinstance(it.error, SinkUnavailable | TypeError)]
    assert len(stops) <= 1, "what stops all is told once"
    if not stops:
        waiting = {it.work.event for it in done if not it.ran}
        failed: set[str] = set()
        for event, what in outcome.items():
            assert (event in waiting) == (event[0] in failed), "only the lane of what failed waits"
            if what == "transient":
                failed.add(event[0])
            elif event not in waiting:
                assert (what == "reject") == isinstance(by_event[event].error, Reject)
    for lane in "abc":
        mine = [it for it in sorted(done, key=lambda it: it.work.record.offset) if it.work.event[0] == lane]
        for before, after in pairwise(mine):
            assert before.ran or not after.ran, "nothing overtakes in its lane"


# --- a run


def run_of(*events: Any) -> Run:
    where = TopicPartition("t", 0)
    stream = Stream(where, 0, Shard(0), Progress(0), Note(), Note())
    items = works(*events)

    def work(stream: Stream, record: Record, number: int) -> Work:
        return Work(record, stream, record.offset, str(events[record.offset])[0], number)

    run = Run(work, 1)
    run.add(stream, [item.record for item in items], list(events), 0)
    return run


@pytest.mark.parametrize("runner", [run_each, run_batch])
def test_run_that_ends_well_comes_back_as_one(runner: Any) -> None:
    handled: list[str] = []

    def one(event: str, record: Record) -> None:
        handled.append(event)

    def batch(pairs: list[tuple[str, Record]]) -> None:
        handled.extend(event for event, _ in pairs)

    run = run_of("a1", "b1", "a2")
    assert runner(one if runner is run_each else batch, run) == [Done(run)]
    assert handled == ["a1", "b1", "a2"]


@pytest.mark.parametrize("error", [SinkUnavailable("down."), Retry(), Reject("no"), TypeError("oops")])
def test_run_that_fails_comes_back_as_works_and_what_was_behind_the_failure_was_not_run(error: Exception) -> None:
    handled: list[str] = []

    def handle(event: str, record: Record) -> None:
        if event == "b1":
            raise error
        handled.append(event)

    done = run_each(handle, run_of("a1", "b1", "a2"))
    assert [(it.work.event, it.error, it.ran) for it in done] == [
        ("a1", None, True), ("b1", error, True), ("a2", None, False),
    ]  # fmt: skip
    assert handled == ["a1"]


@given(plan=st.lists(st.tuples(st.sampled_from("abc"), OUTCOMES), min_size=1, max_size=12), named=st.booleans())
@settings(max_examples=200)
def test_run_of_a_batch_handler_fails_as_a_list_does(plan: list[tuple[str, str]], named: bool) -> None:
    events = [f"{lane}{at}" for at, (lane, _) in enumerate(plan)]
    outcome = dict(zip(events, (what for _, what in plan), strict=True))
    calls: list[list[str]] = []

    def handle(batch: list[tuple[str, Record]]) -> list[tuple[Record, Exception]]:
        calls.append([event for event, _ in batch])
        rejects = [(record, Reject("no")) for event, record in batch if named and outcome[event] == "reject"]
        for event, _ in batch:
            if outcome[event] != "ok" and not (named and outcome[event] == "reject"):
                raise ERRORS[outcome[event]]
        return rejects

    def of(done: list[Done]) -> list[tuple[Any, str, bool]]:
        each = [one for it in done for one in (list(it.work) if isinstance(it.work, Run) else [it.work])]
        whole = len(done) == 1 and isinstance(done[0].work, Run)
        return [
            (work.event, type(None if whole else it.error).__name__, True if whole else it.ran)
            for work, it in zip(each, done * len(each) if whole else done, strict=True)
        ]

    told_of_list, calls_of_list = of(run_batch(handle, works(*events))), calls[:]
    calls.clear()
    assert (of(run_batch(handle, run_of(*events))), calls) == (told_of_list, calls_of_list)


def test_what_belongs_to_another_member_by_now_leaves_the_runs_that_wait() -> None:
    ours, theirs = run_of("a1", "a2"), run_of("b1")
    waiting = Straight(ours.work)
    for run, first in ((ours, 1), (theirs, 3)):
        waiting.add(run.parts[0].stream, run.records, run.events, 0, first)
    theirs.parts[0].stream.shard.closed = True
    waiting.drop_closed()
    assert len(waiting) == 2
    assert [work.event for work in waiting.clear()] == ["a1", "a2"]
    assert len(waiting) == 0


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3)), min_size=1, max_size=5), st.integers(1, 12))
def test_runs_are_taken_in_pieces_that_lose_nothing(parts: list[tuple[int, int]], most: int) -> None:
    waiting = Straight(lambda stream, record, number: Work(record, stream, record.offset, "", number))
    streams: list[Stream] = []
    first = 1
    for count, length in parts:
        stream = run_of("x").parts[0].stream
        records = [Record("t", 0, first + at, None, b"." * length) for at in range(count)]
        waiting.add(stream, records, [record.offset for record in records], count * length, first)
        streams += [stream] * count
        first += count
    taken = []
    while waiting:
        run = waiting.take(most)
        assert 0 < len(run) <= most
        assert sum(part.stop - part.start for part in run.parts) == len(run)
        for part in run.parts:
            assert part.size == sum(len(record.value or b"") for record in run.records[part.start : part.stop])
        taken += [(work.event, work.number, work.stream) for work in run]
    assert taken == [(number, number, stream) for number, stream in enumerate(streams, 1)]


@pytest.mark.parametrize(
    ("list_max", "count", "seconds", "then"),
    [
        (64, 64, 0.001, 128),  # quick: twice as many
        (2000, 2000, 0.001, 2000),  # never more
        (64, 64, 0.0, 128),  # quicker than the clock
        (128, 128, 0.1, 64),  # as many as fit into the time
        (64, 64, 640.0, 1),  # slow: one by one
        (1, 1, 0.01, 2),
        (64, 3, 0.15, 1),  # a short list says as much
    ],
)
def test_list_is_as_long_as_the_handler_is_quick(list_max: int, count: int, seconds: float, then: int) -> None:
    assert next_list(list_max, count, seconds) == then


def test_slow_handler_gets_one_record_at_a_time() -> None:
    """What it did is settled by then, not only when hundreds are done."""
    begun, go_on = threading.Semaphore(0), threading.Semaphore(0)

    def handle(event: dict, record: Record) -> None:
        begun.release()
        assert go_on.acquire(timeout=DEADLINE_S)

    crew = crew_for(adapt(handle, "test"), 1, 500)
    assert isinstance(crew, ThreadCrew)
    started = time.monotonic()
    crew.submit(works("a1"))
    assert begun.acquire(timeout=DEADLINE_S)
    await_(lambda: time.monotonic() - started > LIST_S)
    go_on.release()
    collect(crew, 1)
    assert crew.list_max == 1
    crew.close()


# --- crews


def thread_crew(function: Any, hands: int) -> Crew:
    return ThreadCrew(lambda its: run_each(function, its), hands, 1)


def loop_crew(function: Any, hands: int) -> Crew:
    async def handle(event: Any, record: Record) -> None:
        await asyncio.sleep(0)
        function(event, record)

    return LoopCrew(handle, hands)


@pytest.mark.parametrize("make", [thread_crew, loop_crew])
@pytest.mark.parametrize("hands", [1, 3])
def test_every_work_comes_back_exactly_once(make: Callable[..., Crew], hands: int) -> None:
    def handle(event: Any, record: Record) -> None:
        if event % 3 == 0:
            raise OSError(event)
        if event % 7 == 0:
            raise SystemExit(event)

    crew = make(handle, hands)
    todo = works(*range(500))
    done: list[Done] = []
    at = 0
    deadline = time.monotonic() + DEADLINE_S
    while len(done) < len(todo):
        assert time.monotonic() < deadline
        while at < len(todo) and crew.room > 0:
            crew.submit([todo[at]])
            at += 1
        if at % 50 == 0:
            recalled = crew.recall()
            assert not [it for it in recalled if it.ran or it.error]
            done += recalled
        done += crew.finished(0.05)
    assert Counter(id(it.work) for it in done) == Counter(map(id, todo))
    for it in done:
        expected = None
        if it.ran:
            expected = OSError if it.work.event % 3 == 0 else SystemExit if it.work.event % 7 == 0 else None
        assert type(it.error) is (expected or type(None))
    assert (crew.room, crew.recall(), crew.finished(0)) == (2 * hands, [], [])
    crew.close()


@pytest.mark.parametrize("kind", ["threads", "loop"])
def test_as_many_run_side_by_side_as_there_are_hands(kind: str) -> None:
    hands, lock = 4, threading.Lock()
    running, most = [0], [0]
    go = threading.Event()

    def enter(change: int) -> None:
        with lock:
            running[0] += change
            most[0] = max(most[0], running[0])

    def handle(event: dict, record: Record) -> None:
        enter(1)
        assert go.wait(DEADLINE_S)
        enter(-1)

    async def handle_async(event: dict, record: Record) -> None:
        enter(1)
        await asyncio.to_thread(go.wait, DEADLINE_S)
        enter(-1)

    crew = crew_for(adapt(handle if kind == "threads" else handle_async, "test"), hands, 500)
    todo = works(*range(2 * hands))
    for work in todo:
        assert crew.room > 0
        crew.submit([work])
    assert crew.room == 0
    await_(lambda: running[0] == hands)
    go.set()
    collect(crew, len(todo))
    assert most == [hands]
    crew.close()


@pytest.mark.parametrize("kind", ["threads", "loop"])
def test_recall_gives_back_what_nobody_has_begun(kind: str) -> None:
    begun: list[str] = []
    go = threading.Event()

    def handle(event: dict, record: Record) -> None:
        begun.append(event)  # type: ignore[arg-type]
        assert go.wait(DEADLINE_S)

    async def handle_async(event: dict, record: Record) -> None:
        begun.append(event)  # type: ignore[arg-type]
        await asyncio.to_thread(go.wait, DEADLINE_S)

    crew = crew_for(adapt(handle if kind == "threads" else handle_async, "test"), 2, 500)
    for work in works("a", "b", "c", "d"):
        crew.submit([work])
    await_(lambda: len(begun) == 2)
    recalled = crew.recall()
    assert [(it.work.event, it.ran, it.error) for it in recalled] == [("c", False, None), ("d", False, None)]
    assert crew.room == 2
    crew.submit(works("e"))
    go.set()
    assert sorted(it.work.event for it in collect(crew, 3)) == ["a", "b", "e"]
    assert sorted(begun) == ["a", "b", "e"]
    crew.close()


def test_async_handler_that_is_cancelled_from_within_does_not_stop_its_hand() -> None:
    async def handle(event: dict, record: Record) -> None:
        if event == "cancels":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
        if event == "raises":
            raise asyncio.CancelledError
        if event == "leaves":
            raise SystemExit(1)
        async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))

    crew = crew_for(adapt(handle, "test"), 1, 500)
    crew.submit(works("cancels", "raises", "leaves", "ok"))
    done = collect(crew, 4)
    assert [(it.work.event, type(it.error).__name__) for it in done] == [
        ("cancels", "CancelledError"),
        ("raises", "CancelledError"),
        ("leaves", "SystemExit"),
        ("ok", "NoneType"),
    ]
    crew.close()
    assert crew._loop.is_closed()


def test_coroutines_that_end_together_come_back_together_and_the_last_ones_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Nothing comes back by this clock, so what comes back does so because nobody waits for a hand any more.
    monkeypatch.setattr("pipeline.stages.crew.GATHER_S", 3_600.0)
    go = threading.Event()

    async def handle(event: dict, record: Record) -> None:
        await asyncio.to_thread(go.wait, DEADLINE_S)

    crew = crew_for(adapt(handle, "test"), 2, 500)
    crew.submit(works(*range(4)))
    assert crew.finished(0) == []
    go.set()
    first = crew.finished(DEADLINE_S)
    assert len(first) >= 2, "the first one was kept while somebody waited"
    assert len(first) + len(collect(crew, 4 - len(first))) == 4
    crew.close()


def test_close_cancels_what_runs_still_and_starts_nothing_new() -> None:
    begun: list[str] = []

    async def handle(event: dict, record: Record) -> None:
        begun.append(event)  # type: ignore[arg-type]
        await asyncio.sleep(3_600)

    crew = crew_for(adapt(handle, "test"), 1, 500)
    crew.submit(works("a", "b"))
    await_(lambda: begun == ["a"])
    crew.close()
    assert crew._loop.is_closed()
    assert begun == ["a"]
    [it] = crew.finished(0)
    assert isinstance(it.error, asyncio.CancelledError)
    gc.collect()


@pytest.mark.parametrize("kind", ["threads", "loop"])
def test_close_does_not_hang_on_a_handler_that_does(kind: str) -> None:
    begun, go = threading.Event(), threading.Event()

    def handle(event: dict, record: Record) -> None:
        begun.set()
        assert go.wait(DEADLINE_S)

    async def handle_async(event: dict, record: Record) -> None:
        handle(event, record)

    crew = crew_for(adapt(handle if kind == "threads" else handle_async, "test"), 1, 500)
    crew.submit(works("a"))
    assert begun.wait(DEADLINE_S)
    before = time.monotonic()
    crew.close()
    assert time.monotonic() - before < 5
    go.set()
    threads = crew._threads if isinstance(crew, ThreadCrew) else [crew._thread]
    await_(lambda: not any(thread.is_alive() for thread in threads))


def test_hands_end_when_the_crew_is_closed() -> None:
    crew = crew_for(adapt(lambda_handler, "test"), 3, 500)
    crew.submit(works("a"))
    collect(crew, 1)
    crew.close()
    assert not any(thread.is_alive() for thread in crew._threads)


def lambda_handler(event: dict, record: Record) -> None:
    """Accepts everything."""


def test_crew_fits_the_handlers_kind() -> None:
    async def handle_async(event: dict, record: Record) -> None: ...

    def handle_batch(batch: list[tuple[dict, Record]]) -> None: ...

    for handler, hands, kind, list_max in (
        (lambda_handler, 1, ThreadCrew, 64),
        (lambda_handler, 4, ThreadCrew, 1),
        (handle_batch, 2, ThreadCrew, 500),
        (handle_async, 4, LoopCrew, 1),
    ):
        crew = crew_for(adapt(handler, "test"), hands, 500)
        assert (type(crew), crew.list_max) == (kind, list_max)
        crew.close()
