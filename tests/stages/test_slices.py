"""A list that takes longer than its time is cut between two records: what is handled is settled, what is not begun comes back.

Real threads, which wait for the test at every record, so that no time is measured.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.core.record import Keyed, Record
from pipeline.core.retry import RetryPolicy
from pipeline.errors import ProducerFenced, SinkRefused
from pipeline.stages import crew as crews
from pipeline.stages.consume import Consume
from pipeline.stages.crew import Crew, crew_for
from pipeline.stages.handlers import adapt
from pipeline.stages.work import Run
from tests.stages.forwarding import ForwardBench
from tests.stages.test_consume import P0, Bench, Decoder, records
from tests.stages.test_crew import DEADLINE_S, await_, run_of, works


class Gate:
    """A handler that waits at every record from `slow` on until it is let through."""

    def __init__(self, slow: int) -> None:
        self.slow = slow
        self.handled: list[int] = []
        self.begun = threading.Semaphore(0)
        self.go = threading.Semaphore(0)

    def pass_(self, number: int) -> None:
        if number >= self.slow:
            self.begun.release()
            assert self.go.acquire(timeout=DEADLINE_S)
        self.handled.append(number)


def handler_of(gate: Gate) -> Any:
    def handle(event: dict, record: Record) -> None:
        gate.pass_(record.offset)

    return adapt(handle, "test")


@pytest.mark.parametrize("make", [run_of, works])
def test_list_that_turns_slow_ends_with_the_record_that_is_in_hand(make: Callable[..., Any]) -> None:
    gate = Gate(slow=3)
    crew = crew_for(handler_of(gate), 1, 500)
    given = make(*(f"a{number}" for number in range(50)))
    crew.submit(given)
    assert gate.begun.acquire(timeout=DEADLINE_S)
    await_(lambda: (crew.finished(0), crew._paces[0].cut)[1])  # type: ignore[attr-defined]
    gate.go.release()
    done = []
    await_(lambda: (done.extend(crew.finished(0.01)), len(done) >= 2)[1])
    ran = [it for it in done if it.ran]
    back = [it for it in done if not it.ran]
    if make is run_of:
        assert (len(ran[0].work), len(back[0].work)) == (4, 46)
        assert [record.offset for record in back[0].work.records] == list(range(4, 50))
    else:
        assert (len(ran), len(back)) == (4, 46)
    assert gate.handled == [0, 1, 2, 3]
    assert crew.list_max == 1, "the next one is short"
    assert crew.room == 1
    crew.close()


@pytest.mark.parametrize("make", [run_of, works])
def test_recall_ends_a_list_with_the_record_that_is_in_hand(make: Callable[..., Any]) -> None:
    gate = Gate(slow=0)
    crew = crew_for(handler_of(gate), 1, 500)
    crew.submit(make("a0", "a1", "a2"))
    assert gate.begun.acquire(timeout=DEADLINE_S)
    assert crew.recall() == []
    gate.go.release()
    done = []
    await_(lambda: (done.extend(crew.finished(0.01)), len(done) >= 2)[1])
    assert gate.handled == [0]
    assert sum(len(it.work) if isinstance(it.work, Run) else 1 for it in done if not it.ran) == 2
    crew.close()


def bench_of(count: int, gate: Gate, crew: Crew) -> Bench:
    def handle(event: dict, record: Record) -> None:
        gate.pass_(record.offset)

    return Bench(records(*map(str, range(count))), handle, crew=crew)


def test_worker_that_was_quick_and_turns_slow_commits_what_it_did_and_recalls_the_rest_when_it_stops() -> None:
    gate = Gate(slow=1_500)
    crew = crew_for(handler_of(gate), 1, 500)
    crew.list_max = crews.LIST_RECORDS_MAX
    bench = bench_of(2_000, gate, crew)
    stopping = threading.Event()
    worker = threading.Thread(target=bench.stage.run, args=(stopping.is_set,), daemon=True)
    worker.start()
    assert gate.begun.acquire(timeout=DEADLINE_S)
    # It is in the middle of a list of 2 000. One more record, and what is done is committed.
    await_(lambda: crew._paces[0].cut)  # type: ignore[attr-defined]
    gate.go.release()
    assert gate.begun.acquire(timeout=DEADLINE_S)
    await_(lambda: bench.source.committed_offsets.get(P0) == 1_501)
    stopping.set()
    await_(lambda: bench.stage._source.paused != set())
    gate.go.release()
    worker.join(DEADLINE_S)
    assert not worker.is_alive()
    assert bench.source.committed_offsets == {P0: 1_502}
    assert gate.handled == list(range(1_502)), "nothing twice, nothing behind it begun"
    crew.close()


def test_partitions_that_go_wait_for_one_record_and_not_for_the_list() -> None:
    gate = Gate(slow=10)
    crew = crew_for(handler_of(gate), 1, 500)
    bench = bench_of(100, gate, crew)
    over = threading.Event()

    def give_back() -> None:
        assert gate.begun.acquire(timeout=DEADLINE_S)
        threading.Timer(0.05, gate.go.release).start()
        bench.source.take_back(P0, lost=False)
        over.set()

    stage: Consume = bench.stage
    bench.source.before_poll.extend([lambda: None, lambda: None])
    crew.list_max = 100
    deadline = time.monotonic() + DEADLINE_S
    bench.source.before_poll.append(give_back)
    stage.run(lambda: over.is_set() or time.monotonic() > deadline)
    assert bench.source.committed_offsets == {P0: 11}
    assert gate.handled == list(range(11))
    crew.close()


def test_batch_that_is_halved_for_long_gives_back_what_is_done_and_goes_on_where_it_was() -> None:
    """The first call fails; each later one waits. What the first half did comes back before the second one begins."""
    calls: list[list[int]] = []
    begun, go = threading.Semaphore(0), threading.Semaphore(0)

    def handle(pairs: list[tuple[dict, Record]]) -> None:
        offsets = [record.offset for _, record in pairs]
        calls.append(offsets)
        begun.release()
        assert go.acquire(timeout=DEADLINE_S)
        if 7 in offsets:
            raise SinkRefused("this one")

    crew = crew_for(adapt(handle, "test"), 1, 8)
    bench = Bench(records(*"abcdefgh"), handle, crew=crew)
    stopping = threading.Event()
    worker = threading.Thread(target=bench.stage.run, args=(stopping.is_set,), daemon=True)
    worker.start()
    assert begun.acquire(timeout=DEADLINE_S)
    await_(lambda: crew._paces[0].cut)  # type: ignore[attr-defined]
    go.release()
    assert begun.acquire(timeout=DEADLINE_S)
    assert calls == [list(range(8)), [0, 1, 2, 3]]
    go.release()
    assert begun.acquire(timeout=DEADLINE_S)
    await_(lambda: bench.source.committed_offsets.get(P0) == 4)
    assert calls[2] == [4, 5, 6, 7], "no call of all eight again"
    for _ in range(20):
        go.release()
    await_(lambda: bench.source.committed_offsets.get(P0) == 8)
    assert bench.letters() == [b"h"]
    stopping.set()
    worker.join(DEADLINE_S)
    crew.close()


# --- whatever a handler does, its hand lives


def test_task_of_a_handler_that_leaves_the_process_does_not_end_the_loop() -> None:
    async def leave() -> None:
        raise SystemExit(3)

    async def handle(event: dict, record: Record) -> None:
        if record.offset == 0:
            await asyncio.create_task(leave())
        if record.offset == 1:
            asyncio.get_running_loop().stop()
        if record.offset == 2:
            for task in asyncio.all_tasks():
                task.cancel()
            await asyncio.sleep(0)

    crew = crew_for(adapt(handle, "test"), 2, 500)
    done: list[Any] = []
    for each in works(*range(8)):
        await_(lambda: (done.extend(crew.finished(0.001)), crew.room > 0)[1])
        crew.submit([each])
    await_(lambda: (done.extend(crew.finished(0.01)), len(done) == 8)[1])
    assert [type(it.error).__name__ for it in done if it.work.event == 0] == ["SystemExit"]
    assert crew.room == 4
    crew.close()
    assert crew._loop.is_closed()  # type: ignore[attr-defined]


@pytest.mark.parametrize("hands", [1, 2])
def test_hand_survives_what_is_none_of_the_handlers_doing(hands: int, monkeypatch: pytest.MonkeyPatch) -> None:
    crew = crew_for(handler_of(Gate(slow=100)), hands, 500)
    run = crew._run  # type: ignore[attr-defined]
    broken = [True] * hands

    def breaks(its: Any) -> Any:
        if broken:
            broken.pop()
            raise MemoryError
        return run(its)

    monkeypatch.setattr(crew, "_run", breaks)
    done: list[Any] = []
    for _ in range(2 * hands):
        await_(lambda: crew.room > 0)
        crew.submit(works("a"))
        wanted = len(done) + 1
        await_(lambda: (done.extend(crew.finished(0.01)), len(done) == wanted)[1])  # noqa: B023
    assert [type(it.error).__name__ for it in done] == ["MemoryError"] * hands + ["NoneType"] * hands
    crew.close()


# --- forward


def forward_of(count: int, transform: Any, **changes: Any) -> ForwardBench:
    given = [*records(*map(str, range(count))), *records("z", partition=1)]
    return ForwardBench(given, transform, policy=RetryPolicy(tiers=()), decoder=Decoder(), **changes)


def test_slow_transform_commits_by_its_interval_and_stops_between_two_records() -> None:
    seen: list[str] = []

    def transform(event: dict, record: Record) -> Keyed:
        seen.append(event["id"])
        bench.clock.now += 0.5
        bench.stage.look()  # as the thread beside does
        return Keyed("k", event)

    bench = forward_of(100, transform)
    bench.run(lambda: len(seen) >= 5)
    assert len(seen) <= 6, "it was asked to stop at five"
    assert bench.producer.log.count("commit") >= 5
    assert bench.committed(0) + bench.committed(1) == len(seen) == len(bench.forwarded())
    assert "z" in seen, "the other partition has its turns"


def test_quick_transforms_are_not_cut() -> None:
    class Still(type(forward_of(1, lambda_transform).clock)):  # type: ignore[misc]
        def __call__(self) -> float:
            return float(self.now)

    clock = Still()
    bench = forward_of(500, lambda_transform, clock=clock)
    turns = iter(range(3))
    bench.run(lambda: next(turns, None) is None)
    assert bench.producer.log == ["begin", "commit"]
    assert len(bench.forwarded()) == 501


def test_thread_beside_cuts_a_transform_that_is_slow_by_the_real_clock() -> None:
    def transform(event: dict, record: Record) -> Keyed:
        handled.append(event["id"])
        time.sleep(0.02)
        return Keyed("k", event)

    handled: list[str] = []
    bench = forward_of(1_000, transform, clock=time.monotonic)
    bench.run(lambda: len(handled) >= 5)
    assert len(handled) < 500, "it was asked to stop at five"
    assert bench.committed(0) + bench.committed(1) == len(handled)


def lambda_transform(event: dict, record: Record) -> Keyed:
    return Keyed("k", event)


def test_record_that_takes_longer_than_a_transaction_may_is_forwarded_in_one_that_begins_after_it() -> None:
    """The coordinator ends a transaction that stood open for too long; the next ones hold one record each."""
    open_since: list[float] = []

    def transform(event: dict, record: Record) -> Keyed:
        if event["id"] == "1":
            bench.clock.now += 70.0
            bench.stage.look()
        return Keyed("k", event)

    bench = forward_of(4, transform)
    producer = bench.producer
    begin, commit = producer.begin, producer.commit

    def begins() -> None:
        open_since.append(bench.clock.now)
        begin()

    def commits() -> None:
        if bench.clock.now - open_since[-1] > 60:
            raise ProducerFenced("The transaction took too long.")
        commit()

    producer.begin, producer.commit = begins, commits  # type: ignore[method-assign]
    # So that the first one is in a transaction when the slow one comes.
    bench.stage._interval_s = 30.0
    deadline = time.monotonic() + DEADLINE_S
    bench.run(lambda: bench.committed(0) == 4 or time.monotonic() > deadline)
    assert bench.committed(0) == 4
    assert producer.log.count("abort") <= 1
    assert sorted(bench.forwarded()) == [b"0", b"1", b"2", b"3", b"z"]
