"""Idempotency-Key: the same request sent twice is done once, as far as this process remembers.

In memory and bounded: an answer is kept until its time is over or newer ones need its place, and is gone with the process;
another process beside this one knows nothing of it. What holds always is the order id, by which the store knows an order.
Only what may have reached the topic is kept: a request that was refused is judged anew.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.core.ports import Delivery

KEY_CHARACTERS_MAX = 255


class OtherBody(Exception):
    """The key came with another body before."""


class Twin(Exception):
    """A request with this key is in hand right now."""


@dataclass(frozen=True, slots=True)
class Handed:
    """An order that was handed over: the future has the broker's word on it once that came; None: it was acknowledged."""

    order_id: str
    delivery: "asyncio.Future[Delivery] | None"

    def has(self, *, acknowledged: bool) -> bool:
        """Whether the broker's word is there, and is this one."""
        if self.delivery is None:
            return acknowledged
        return self.delivery.done() and (self.delivery.result().error is None) == acknowledged


@dataclass(slots=True)
class Entry:
    """What is known of one key: the body it came with, the order if it was handed over, whether a request is at it."""

    fingerprint: bytes
    until: float
    running: bool = True
    handed: Handed | None = None

    @property
    def answered(self) -> bool:
        """Whether the order was acknowledged."""
        return self.handed is not None and self.handed.has(acknowledged=True)


class Keys:
    """The keys of one process: at most `limit` of them, each for `ttl_s` seconds of the `clock`.

    An answered one costs half a kilobyte, however long its key is; twice that with an order id of 256 characters.
    """

    def __init__(self, limit: int, ttl_s: float, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._ttl_s = ttl_s
        self._clock = clock
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()

    def claim(self, key: str, fingerprint: bytes) -> Entry:
        """The entry of this key, new or known, now with a request at it; raises `OtherBody` or `Twin`."""
        self._forget_old()
        name = _name(key)
        entry = self._entries.get(name)
        if entry is not None:
            if entry.fingerprint != fingerprint:
                raise OtherBody
            if entry.running:
                raise Twin
            entry.running = True
            return entry
        entry = self._entries[name] = Entry(fingerprint, self._clock() + self._ttl_s)
        return entry

    def release(self, key: str, entry: Entry) -> None:
        """The request is over. Kept is what was, or may yet be, acknowledged."""
        entry.running = False
        if entry.handed is not None and entry.answered:
            # Without the future, and what hangs on it.
            entry.handed = Handed(entry.handed.order_id, None)
        refused = entry.handed is None or entry.handed.has(acknowledged=False)
        if refused and self._entries.get(name := _name(key)) is entry:
            del self._entries[name]

    def _forget_old(self) -> None:
        now = self._clock()
        while self._entries:
            key, oldest = next(iter(self._entries.items()))
            if (oldest.until > now and len(self._entries) < self._limit) or oldest.running:
                return
            del self._entries[key]


def _name(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=16).digest()
