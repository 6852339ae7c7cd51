"""Orders on their way to the topic, for an event loop: a future for each delivery report, and a bound on all of them.

The client calls back on the thread that polls it, so one thread does nothing else; what it is told goes to the loop in one
call for all that came at once. (The client's own asyncio producer refuses headers.)
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from pipeline.core.ports import Delivery, Encoder
from pipeline.core.record import Headers
from pipeline.orders import OrderPlaced

_POLL_S = 0.1
_ROOM_EVERY_S = 0.01


class Publisher(Protocol):
    """`pipeline.kafka.producer.IdempotentProducer`, as far as it is used here."""

    def offer(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        *,
        headers: Headers = (),
        on_delivery: Callable[[Delivery], None],
    ) -> bool: ...

    def serve(self, timeout_s: float = 0) -> None: ...

    def close(self, within_s: float | None = None) -> None: ...


class QueueFull(Exception):
    """As many orders wait for the broker's word as may: this one was not taken, and is surely not in the topic."""


class Unacknowledged(Exception):
    """No word within the time that was given: the order may be in the topic, once."""


class Publishing:
    """Publishes orders to one topic, at most `limit` of them at once. Belongs to the event loop that it is made in."""

    def __init__(self, publisher: Publisher, topic: str, encoder: Encoder, limit: int) -> None:
        self.topic = topic
        self._publisher = publisher
        self._encoder = encoder
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._pending: dict[asyncio.Future[Delivery], float] = {}
        self._arrived: deque[tuple[asyncio.Future[Delivery], Delivery]] = deque()
        self._told = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="delivery-reports", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """How many orders wait for the broker's word."""
        return len(self._pending)

    @property
    def waiting_s(self) -> float:
        """How long the oldest of them waits, in seconds; 0 when there is none."""
        oldest = next(iter(self._pending.values()), None)
        return 0.0 if oldest is None else self._loop.time() - oldest

    def begin(self, order: OrderPlaced, headers: Headers) -> "asyncio.Future[Delivery]":
        """Hand an order over; the future has the broker's word once it came, also long after somebody waited for it.

        Raises `QueueFull`, and `Invalid` when the order does not fit the schema; in both cases nothing was handed over.
        """
        if len(self._pending) >= self._limit:
            raise QueueFull
        value = self._encoder.encode(order.__dict__)
        future: asyncio.Future[Delivery] = self._loop.create_future()

        def delivered(delivery: Delivery) -> None:
            self._arrived.append((future, delivery))
            if not self._told:
                self._told = True
                self._loop.call_soon_threadsafe(self._tell)

        self._pending[future] = self._loop.time()
        if not self._publisher.offer(
            self.topic, order.order_id.encode(), value, headers=headers, on_delivery=delivered
        ):
            del self._pending[future]
            raise QueueFull
        return future

    async def room(self, timeout_s: float) -> None:
        """Return once the queue has room again; raises `QueueFull` when it has none in time."""
        deadline = self._loop.time() + timeout_s
        while len(self._pending) >= self._limit:
            if self._loop.time() >= deadline:
                raise QueueFull
            await asyncio.sleep(_ROOM_EVERY_S)

    async def close(self, within_s: float | None = None) -> None:
        """Wait until each order has its word, at most `within_s` seconds; what has none then stays unknown."""
        self._over.set()
        await asyncio.to_thread(self._thread.join)
        await asyncio.to_thread(self._publisher.close, within_s)
        self._tell()

    def _poll(self) -> None:
        while not self._over.is_set():
            self._publisher.serve(_POLL_S)

    def _tell(self) -> None:
        # Before what arrived is taken: what comes meanwhile is either taken with it, or told anew.
        self._told = False
        while self._arrived:
            future, delivery = self._arrived.popleft()
            self._pending.pop(future, None)
            if not future.done():
                future.set_result(delivery)


async def word(delivery: "asyncio.Future[Delivery]", timeout_s: float) -> Delivery:
    """The broker's word on an order; raises `Unacknowledged` when there is none in time. The future goes on waiting."""
    if not delivery.done():
        await asyncio.wait((delivery,), timeout=timeout_s)
        if not delivery.done():
            raise Unacknowledged
    return delivery.result()
