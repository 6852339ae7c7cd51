"""Idempotency-Key: what is remembered, for how long, and what is forgotten."""

import asyncio
import gc
import hashlib
import tracemalloc
from collections.abc import Iterator

import pytest

from pipeline.api.idempotency import Handed, Keys, OtherBody, Twin
from pipeline.core.ports import Delivery
from pipeline.errors import BrokerUnavailable


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    it = asyncio.new_event_loop()
    yield it
    it.close()


def handed(loop: asyncio.AbstractEventLoop, delivery: Delivery | None) -> Handed:
    future: asyncio.Future[Delivery] = loop.create_future()
    if delivery is not None:
        future.set_result(delivery)
    return Handed("A-1", future)


ACKNOWLEDGED = Delivery("orders.v1", 0, 7, b"A-1", None)
LOST = Delivery("orders.v1", 0, -1, b"A-1", BrokerUnavailable("no word"))


def test_same_key_and_body_find_the_order_that_was_acknowledged(loop: asyncio.AbstractEventLoop) -> None:
    keys = Keys(10, 60, Clock())
    first = keys.claim("k", b"body")
    first.handed = handed(loop, ACKNOWLEDGED)
    keys.release("k", first)
    again = keys.claim("k", b"body")
    assert (again is first, again.answered) == (True, True)


def test_other_body_and_twin_are_told_apart(loop: asyncio.AbstractEventLoop) -> None:
    keys = Keys(10, 60, Clock())
    first = keys.claim("k", b"body")
    with pytest.raises(Twin):
        keys.claim("k", b"body")
    with pytest.raises(OtherBody):
        keys.claim("k", b"another")
    first.handed = handed(loop, ACKNOWLEDGED)
    keys.release("k", first)
    with pytest.raises(OtherBody):
        keys.claim("k", b"another")


def test_order_without_a_word_yet_is_waited_for_by_the_next_request_and_not_sent_again(
    loop: asyncio.AbstractEventLoop,
) -> None:
    keys = Keys(10, 60, Clock())
    first = keys.claim("k", b"body")
    first.handed = handed(loop, None)
    keys.release("k", first)
    again = keys.claim("k", b"body")
    assert again.handed is first.handed
    assert not again.answered


def test_refused_request_and_lost_order_are_judged_anew(loop: asyncio.AbstractEventLoop) -> None:
    keys = Keys(10, 60, Clock())
    refused = keys.claim("k", b"body")
    keys.release("k", refused)
    lost = keys.claim("k", b"mended body")
    lost.handed = handed(loop, LOST)
    keys.release("k", lost)
    assert keys.claim("k", b"mended body").handed is None


def test_keys_leave_when_their_time_is_over_and_when_newer_ones_need_their_place(
    loop: asyncio.AbstractEventLoop,
) -> None:
    clock = Clock()
    keys = Keys(2, 60, clock)
    for key in ("a", "b", "c"):
        entry = keys.claim(key, b"body")
        entry.handed = handed(loop, ACKNOWLEDGED)
        keys.release(key, entry)
    assert keys.claim("a", b"body").handed is None, "the oldest gave its place up"
    clock.now = 61
    assert keys.claim("c", b"another body").handed is None, "its time was over"


def test_answered_key_costs_little_however_long_it_is(loop: asyncio.AbstractEventLoop) -> None:
    keys, count = Keys(10_000, 60, Clock()), 1_000
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(count):
            key = f"{number:255}"
            entry = keys.claim(key, hashlib.sha256(key.encode()).digest())
            entry.handed = handed(loop, Delivery("orders.v1", 0, number, f"order-{number}".encode(), None))
            keys.release(key, entry)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / count < 700
    again = keys.claim(f"{0:255}", hashlib.sha256(f"{0:255}".encode()).digest())
    assert again.answered
    assert again.handed is not None
    assert again.handed.order_id == "A-1"
