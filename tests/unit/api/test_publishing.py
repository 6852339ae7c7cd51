"""Orders on their way for an event loop: futures, the bound, and words that come late."""

import asyncio
import queue
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from pipeline import orders
from pipeline.api.publishing import Publishing, QueueFull, Unacknowledged, word
from pipeline.core.ports import Delivery
from pipeline.core.record import Headers


class Broker:
    """Takes orders and gives its word when it is told to, on the thread that asks."""

    def __init__(self, room: int = 100) -> None:
        self.taken: list[Callable[[Delivery], None]] = []
        self.words: queue.Queue[Callable[[Delivery], None]] = queue.Queue()
        self.room = room
        self.closed = False

    def offer(
        self, _topic: str, _key: bytes | None, _value: bytes | None, *, headers: Headers = (),
        on_delivery: Callable[[Delivery], None],
    ) -> bool:  # fmt: skip
        if len(self.taken) >= self.room:
            return False
        self.taken.append(on_delivery)
        return True

    def acknowledge(self, number: int) -> None:
        self.words.put(self.taken[number])

    def serve(self, timeout_s: float = 0) -> None:
        try:
            tell = self.words.get(timeout=timeout_s)
        except queue.Empty:
            return
        tell(Delivery("orders.v1", 0, 1, b"A-1", None))

    def close(self, within_s: float | None = None) -> None:
        self.closed = True
        while not self.words.empty():
            self.serve()


class Encoder:
    def encode(self, _: Any) -> bytes:
        return b"bytes"


[ORDER] = orders.generate(1, seed=1)


def run(test: Callable[[Broker, Publishing], Awaitable[None]], room: int = 100, limit: int = 3) -> None:
    async def inside() -> None:
        broker = Broker(room)
        publishing = Publishing(broker, "orders.v1", Encoder(), limit)
        await test(broker, publishing)
        await publishing.close()
        assert broker.closed

    it: Coroutine[Any, Any, None] = inside()
    asyncio.run(it)


def test_word_of_the_broker_comes_into_the_loop_in_any_order() -> None:
    async def test(broker: Broker, publishing: Publishing) -> None:
        first, second = publishing.begin(ORDER, ()), publishing.begin(ORDER, ())
        broker.acknowledge(1)
        assert (await word(second, 5)).error is None
        assert (first.done(), publishing.pending) == (False, 1)
        broker.acknowledge(0)
        await word(first, 5)
        assert publishing.pending == 0

    run(test)


def test_word_that_comes_late_is_there_for_who_asks_again() -> None:
    async def test(broker: Broker, publishing: Publishing) -> None:
        future = publishing.begin(ORDER, ())
        with pytest.raises(Unacknowledged):
            await word(future, 0)
        assert publishing.pending == 1, "it still takes a place"
        broker.acknowledge(0)
        assert (await word(future, 5)).offset == 1

    run(test)


def test_order_beyond_the_bound_is_not_taken() -> None:
    async def test(broker: Broker, publishing: Publishing) -> None:
        futures = [publishing.begin(ORDER, ()) for _ in range(3)]
        with pytest.raises(QueueFull):
            publishing.begin(ORDER, ())
        with pytest.raises(QueueFull):
            await publishing.room(0)
        assert len(broker.taken) == 3
        broker.acknowledge(0)
        await publishing.room(5)
        await word(futures[0], 5)
        publishing.begin(ORDER, ())

    run(test)


def test_client_whose_own_queue_is_full_counts_as_not_taken() -> None:
    async def test(_: Broker, publishing: Publishing) -> None:
        publishing.begin(ORDER, ())
        with pytest.raises(QueueFull):
            publishing.begin(ORDER, ())
        assert publishing.pending == 1

    run(test, room=1)


def test_closing_waits_for_the_last_words() -> None:
    async def inside() -> Delivery:
        broker = Broker()
        publishing = Publishing(broker, "orders.v1", Encoder(), 3)
        future = publishing.begin(ORDER, ())
        broker.acknowledge(0)
        await publishing.close()
        return await future

    assert asyncio.run(inside()).error is None
