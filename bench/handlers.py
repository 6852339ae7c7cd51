"""Handlers to measure with."""

import asyncio
import atexit
import json
import os
import random
import time
from array import array
from collections import Counter
from pathlib import Path

from pipeline.orders import OrderPlaced

HANDLER_S = 0.01


def no_op(_event: OrderPlaced, _record: object) -> None:
    """Nothing, so that only the way to it is measured."""


async def ten_ms(_event: OrderPlaced, _record: object) -> None:
    """What waits for something far away."""
    await asyncio.sleep(HANDLER_S)


class KeyOrder:
    """Of orders whose `customer_id` is their key and whose `order_id` counts from 0 in it: did each wait for its turn?"""

    def __init__(self) -> None:
        self._ended: Counter[str] = Counter()
        self.overtaken = 0

    async def handle(self, event: OrderPlaced) -> None:
        """10 ms on average, each one different, so that what runs side by side also ends in another order."""
        if self._ended[event.customer_id] != int(event.order_id):
            self.overtaken += 1
        await asyncio.sleep(random.uniform(0, 2 * HANDLER_S))
        self._ended[event.customer_id] += 1


key_order = KeyOrder()


async def ten_ms_noted(event: OrderPlaced, _record: object) -> None:
    """The same, noting the order of keys."""
    await key_order.handle(event)


# An order whose latency is measured says in its id when it was due, in nanoseconds since 1970.
STAMPED, WARMING = "L", "W"
_STAMP_DIGITS = 19
latencies_ns = array("q")


def timed(event: OrderPlaced, _record: object) -> None:
    """How late it is, where that is to be measured."""
    if event.order_id[0] == STAMPED:
        latencies_ns.append(time.time_ns() - int(event.order_id[1 : 1 + _STAMP_DIGITS]))


# Where one of several processes leaves when it handled its last order.
NOTES = "BENCH_NOTES"


class Noted:
    """Notes when the last call was in a file of this process's own: at the first one, and at the end."""

    def __init__(self) -> None:
        self._last = 0.0
        if NOTES in os.environ:
            atexit.register(self._write)

    def handle(self) -> None:
        """One more."""
        before, self._last = self._last, time.monotonic()
        if not before:
            self._write()

    def _write(self) -> None:
        path = Path(os.environ[NOTES]) / f"{os.getpid()}.json"
        path.with_suffix(".new").write_text(json.dumps({"last": self._last}))
        path.with_suffix(".new").rename(path)


_noted = Noted()


def noted(_event: OrderPlaced, _record: object) -> None:
    """Nothing but the note: the monotonic clock is one for all processes of a machine."""
    _noted.handle()
