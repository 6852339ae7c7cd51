"""A handler that does not return is seen, and ended where the settings say so."""

import asyncio
import logging
import threading
import time
from typing import Any

import pytest

from pipeline.core.record import Keyed, Record
from pipeline.core.retry import RetryPolicy
from pipeline.errors import HandlerFailed
from pipeline.stages import bugs
from pipeline.stages.bugs import LongCalls
from pipeline.stages.calls import Call
from pipeline.stages.crew import crew_for
from pipeline.stages.handlers import adapt
from tests.stages.forwarding import ForwardBench
from tests.stages.test_consume import P0, Bench, Decoder, records
from tests.stages.test_crew import DEADLINE_S, await_, run_of, works

RECORD = Record("orders.v1", 3, 42, b"A-\xff1", b"v")


class Watched:
    """Calls that were begun at some second, looked after every second."""

    def __init__(self, *since: float, size: int = 1, timeout_s: float | None = None) -> None:
        self.now = 0.0
        self.running = [Call(RECORD._replace(offset=at), size, when) for at, when in enumerate(since, 42)]
        self.calls = LongCalls("The handler shop:handle", lambda: self.running, lambda: self.now, timeout_s)

    def until(self, second: int) -> HandlerFailed | None:
        found = None
        while self.now < second and found is None:
            self.now += 1
            found = self.calls.look()
        return found


def test_call_that_goes_on_is_said_with_its_place_at_growing_intervals(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched(0.0)
    said = []
    for second in range(1, 4_000):
        watched.until(second)
        said += [second for _ in caplog.records]
        if caplog.records:
            last = caplog.records[-1]
        caplog.clear()
    assert said == [10, 20, 40, 80, 160, 320, 640, 1240, 1840, 2440, 3040, 3640]
    assert last.levelno == logging.WARNING
    assert (
        "The handler shop:handle has not returned for 3640 s at orders.v1 [3] @ 42 (key b'A-\\xff1')"
        in last.getMessage()
    )
    assert (last.topic, last.partition, last.offset, last.age_s) == ("orders.v1", 3, 42, 3640.0)  # type: ignore[attr-defined]


def test_many_calls_that_go_on_are_one_line_and_a_new_one_is_said_anew(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched(0.0, 1.0, 2.0, 9.0)
    watched.until(12)
    assert [line.partition("s at ")[0] for line in caplog.messages] == [
        "The handler shop:handle has not returned for 10 "
    ]
    watched.until(20)
    assert "; 3 more calls have run for over 10 s" in caplog.messages[-1]
    watched.running = []
    watched.until(30)
    watched.running = [Call(RECORD, 500, 30.0)]
    watched.until(39)
    assert len(caplog.messages) == 2
    watched.until(41)
    assert "for 10 s at orders.v1 [3] @ 42 (key b'A-\\xff1', a batch of 500 from there on)" in caplog.messages[-1]
    assert (watched.calls.running(), watched.calls.oldest_s()) == (1, 11.0)


def test_call_that_takes_longer_than_it_may_is_told() -> None:
    watched = Watched(0.0, timeout_s=5.0)
    found = watched.until(20)
    assert watched.now == 5.0
    assert "has not returned for 5 s at orders.v1 [3] @ 42" in str(found)
    assert "consume.handler_timeout_s does not allow that" in str(found)


@pytest.mark.parametrize("make", [run_of, works])
@pytest.mark.parametrize("kind", ["one", "many", "loop", "batch"])
def test_crew_tells_what_its_hands_are_at(kind: str, make: Any) -> None:
    if make is run_of and kind in {"many", "loop"}:
        make = works
    begun, go = threading.Event(), threading.Event()

    def handle(event: dict, record: Record) -> None:
        if record.offset == 2:
            begun.set()
            assert go.wait(DEADLINE_S)

    async def awaited(event: dict, record: Record) -> None:
        if record.offset == 2:
            begun.set()
            await asyncio.to_thread(go.wait, DEADLINE_S)

    def batch(pairs: list[tuple[dict, Record]]) -> None:
        begun.set()
        assert go.wait(DEADLINE_S)

    crew = crew_for(adapt({"loop": awaited, "batch": batch}.get(kind, handle), "test"), 2 if kind == "many" else 1, 500)
    assert crew.calls() == []
    before = time.monotonic()
    crew.submit(make("a", "b", "c", "d"))
    assert begun.wait(DEADLINE_S)
    [call] = crew.calls()
    assert (call.record.offset, call.size) == ((0, 4) if kind == "batch" else (2, 1))
    assert before <= call.since <= time.monotonic()
    go.set()
    await_(lambda: (crew.finished(0.01), crew.calls() == [])[1])
    crew.close()


def test_async_handler_is_cancelled_after_its_time_which_counts_as_a_try() -> None:
    attempts: list[int] = []

    async def handle(event: dict, record: Record) -> None:
        if record.offset == 1:
            attempts.append(record.attempt)
            if record.attempt < 3:
                await asyncio.sleep(3_600)

    handler = adapt(handle, "test")
    crew = crew_for(handler, 2, 500, timeout_s=0.02)
    bench = Bench(records("a", "x", "b"), handle, policy=RetryPolicy(attempts=3, tiers=()), crew=crew)
    deadline = time.monotonic() + DEADLINE_S
    bench.stage.run(lambda: bench.stage.totals.committed == 3 or time.monotonic() > deadline)
    assert (attempts, bench.stage.totals.handled) == ([1, 2, 3], 3)
    assert bench.stage.failures_by_kind()["transient"] == 2
    crew.close()


def test_time_out_of_an_async_handler_says_whose_it_is() -> None:
    async def handle(event: str, record: Record) -> None:
        if event == "own":
            raise TimeoutError("its own")
        if event == "swallows":
            try:
                await asyncio.sleep(3_600)
            except asyncio.CancelledError:
                return
        await asyncio.sleep(3_600 if event == "hangs" else 0)

    handle.__annotations__["event"] = dict
    crew = crew_for(adapt(handle, "test"), 1, 500, timeout_s=0.02)
    crew.submit(works("hangs", "own", "swallows", "ok"))
    done: list[Any] = []
    await_(lambda: (done.extend(crew.finished(0.01)), len(done) == 4)[1])
    assert [(it.work.event, type(it.error).__name__) for it in done] == [
        ("hangs", "TimeoutError"), ("own", "TimeoutError"), ("swallows", "NoneType"), ("ok", "NoneType"),
    ]  # fmt: skip
    assert "consume.handler_timeout_s" in str(done[0].error)
    assert str(done[1].error) == "its own"
    crew.close()


def test_coroutine_that_blocks_its_loop_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()

    async def handle(event: dict, record: Record) -> None:
        if record.offset == 1:
            while bench.source.committed_offsets.get(P0) != 1:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            assert go.wait(DEADLINE_S)  # no await: nothing else runs on the loop

    monkeypatch.setattr("pipeline.stages.consume.STOP_S", 0.05)
    monkeypatch.setattr("pipeline.stages.consume.CANCELLED_S", 0.05)
    crew = crew_for(adapt(handle, "test"), 2, 500, timeout_s=1.0)
    bench = Bench(records("a", "x", "b"), handle, crew=crew, clock=time.monotonic, handler_timeout_s=1.0)
    deadline = time.monotonic() + DEADLINE_S
    with pytest.raises(HandlerFailed, match=r"has not returned for .* at orders.v1 \[0\] @ 1"):
        bench.stage.run(lambda: time.monotonic() > deadline)
    assert bench.source.committed_offsets[P0] == 1
    go.set()
    crew.close()


@pytest.mark.parametrize("kind", ["one", "batch"])
def test_plain_handler_that_hangs_ends_the_worker_with_the_rest_committed(
    kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    go = threading.Event()

    def handle(event: dict, record: Record) -> None:
        if record.offset == 1:
            assert go.wait(DEADLINE_S)

    def batch(pairs: list[tuple[dict, Record]]) -> None:
        if any(record.offset == 1 for _, record in pairs):
            assert go.wait(DEADLINE_S)

    monkeypatch.setattr("pipeline.stages.consume.STOP_S", 0.05)
    function = handle if kind == "one" else batch
    crew = crew_for(adapt(function, "test"), 2, 1)
    bench = Bench(records("a", "x", "b"), function, crew=crew, clock=time.monotonic, handler_timeout_s=0.05)
    with pytest.raises(HandlerFailed, match=r"has not returned for .* at orders.v1 \[0\] @ 1"):
        bench.stage.run(lambda: False)
    assert bench.source.committed_offsets[P0] == 1
    assert bench.stage.totals.handled == 2, "the others are done, and in the note of the commit"
    assert any("will be redelivered (orders.v1 [0] @ 1" in line for line in caplog.messages)
    gauges = bench.stage.gauges()
    assert gauges["handlers_running"] == 1
    assert gauges["oldest_in_flight_seconds"] > 0
    go.set()
    crew.close()


def test_transform_that_hangs_is_said_by_a_thread_beside_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bugs, "BESIDE_EVERY_S", 0.005)

    def transform(event: dict, record: Record) -> Keyed:
        if event["id"] == "x":
            bench.clock.now += 60.0
            await_(lambda: bool(caplog.messages))
            assert bench.stage.gauges()["handlers_running"] == 1
        return Keyed("k", event)

    bench = ForwardBench(records("a", "x"), transform, policy=RetryPolicy(tiers=()), decoder=Decoder())
    bench.run(lambda: bench.committed() == 2)
    assert "The transform has not returned for" in caplog.messages[0]
    assert "at orders.v1 [0] @ 1 (key b'x')" in caplog.messages[0]
    assert bench.stage.gauges()["handlers_running"] == 0
