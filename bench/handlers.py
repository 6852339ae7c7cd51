"""Handlers to measure with."""

import asyncio
import random
from collections import Counter

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
