"""FastStream's Confluent broker, in the two ways in which its documentation lets one process handle side by side.

`workers`: `max_workers`, so many handlers at once. It is refused with every acknowledgement policy but ACK_FIRST ("Max
workers not work with manual commit mode"), and that is the client's `enable.auto.commit`: offsets are committed every 5 s
whether or not their handlers have ended, "at most once" in the documentation's own words. Nothing is said of the order of
keys.

`batches`: a batch subscriber whose handler gathers one coroutine for each record. With NACK_ON_ERROR a batch is committed
after all of it was handled, and read again where a handler raised: at least once. Records of one key in one batch run side by
side, and each batch waits for the slowest of the one before.

For speed: no log lines (`logger=None`), no dependency injection and no second validation (`apply_types=False`). A custom
decoder does exactly what the pipeline's worker does, because the client's deserializer takes four times as long.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from faststream import AckPolicy
from faststream.confluent import KafkaBroker

from bench import handlers
from bench.task import Outcome, Span, Task, run
from pipeline import wiring
from pipeline.orders import OrderPlaced

LONGEST_S = 300.0


class App:
    """What a user of the framework writes, and the stopwatch: from the first record to the last one handled."""

    def __init__(self, task: Task) -> None:
        settings = task.settings()
        self._orders = task.orders
        self._handler = handlers.ten_ms_noted if task.keyed else handlers.ten_ms
        self._reader = wiring.decoder(settings, task.topic, wiring.registry(settings).schema_by_id)
        self.span = Span()
        self._finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.handled = 0

    async def decode(self, message: Any) -> OrderPlaced:
        async with self._guard():
            return self._order(message.body)

    async def decode_batch(self, message: Any) -> list[OrderPlaced]:
        async with self._guard():
            return [self._order(body) for body in message.body]

    async def handle(self, order: OrderPlaced) -> None:
        async with self._guard():
            await self._handler(order, None)
        self.handled += 1
        if self.handled >= self._orders and not self._finished.done():
            self.span.stop()
            self._finished.set_result(None)

    async def handle_batch(self, orders: list[OrderPlaced]) -> None:
        await asyncio.gather(*map(self.handle, orders))

    async def finished(self) -> None:
        """Until so many orders are handled."""
        await asyncio.wait_for(self._finished, LONGEST_S)

    def _order(self, body: bytes) -> OrderPlaced:
        if not self.span.began:
            self.span.start()
        return OrderPlaced.model_validate(self._reader.decode(body))

    @asynccontextmanager
    async def _guard(self) -> AsyncIterator[None]:
        """The framework goes on after what a handler raises; here it ends the run."""
        try:
            yield
        except Exception as error:
            if not self._finished.done():
                self._finished.set_exception(error)
            raise


async def consume(task: Task, *, batches: bool) -> Outcome:
    app = App(task)
    broker = KafkaBroker(task.bootstrap_servers, logger=None, apply_types=False)
    common = {"group_id": task.group, "auto_offset_reset": "earliest"}
    if batches:
        acknowledged = AckPolicy.NACK_ON_ERROR
        subscriber = broker.subscriber(
            task.topic, **common, batch=True, max_records=task.at_once, ack_policy=acknowledged
        )
        subscriber(app.handle_batch, decoder=app.decode_batch)
    else:
        acknowledged = AckPolicy.ACK_FIRST
        subscriber = broker.subscriber(task.topic, **common, max_workers=task.at_once, ack_policy=acknowledged)
        subscriber(app.handle, decoder=app.decode)
    await broker.start()
    await app.finished()
    outcome = app.span.outcome(app.handled, overtaken=handlers.key_order.overtaken, version=version("faststream"))
    await broker.stop()
    return outcome


if __name__ == "__main__":
    run(
        {
            "workers": lambda task: asyncio.run(consume(task, batches=False)),
            "batches": lambda task: asyncio.run(consume(task, batches=True)),
        }
    )
