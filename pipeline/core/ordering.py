"""Who may run next: one lane for each key, so that what shares a key runs one after the other, in the order it came.

The head of a lane runs when nothing of the lane is in hand and the lane is not held; among the lanes the one whose head
came first goes first. It knows neither records nor why something is held.
"""

import heapq
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")
Lane = Hashable


class Lanes(Generic[T]):
    """Items waiting in lanes. `take` puts them in hand; each is then `release`d or `put_back`."""

    def __init__(self) -> None:
        self._waiting: dict[Lane, deque[tuple[int, T]]] = {}
        self._in_hand: dict[Lane, list[tuple[int, T]]] = {}
        self._held: dict[Lane, float] = {}
        self._due: list[tuple[float, int, Lane]] = []
        self._ready: list[tuple[int, Lane]] = []
        self._queued: dict[Lane, int] = {}
        self._number = 0
        self._size = 0
        self._taken = 0

    def __len__(self) -> int:
        """How many wait, held ones too; those in hand are not counted."""
        return self._size

    @property
    def in_hand(self) -> int:
        """How many were taken and neither released nor put back."""
        return self._taken

    @property
    def taken(self) -> Iterator[T]:
        """What is in hand."""
        return (item for entries in self._in_hand.values() for _, item in entries)

    def add(self, lane: Lane, item: T) -> None:
        """At the end of the lane."""
        self._number += 1
        self._waiting.setdefault(lane, deque()).append((self._number, item))
        self._size += 1
        self._offer(lane)

    def take(self, limit: int) -> list[tuple[Lane, T]]:
        """Up to `limit` items that may run now, to be worked off in this order by one hand.

        With more than one, several of the same lane may follow each other, since the one hand keeps their order.
        """
        taken: list[tuple[Lane, T]] = []
        mine: set[Lane] = set()
        while self._ready and len(taken) < limit:
            number, lane = heapq.heappop(self._ready)
            if self._queued.get(lane) != number:
                continue  # its head is another one by now, and was queued anew
            del self._queued[lane]
            queue = self._waiting.get(lane)
            if not queue or lane in self._held or (lane in self._in_hand and lane not in mine):
                continue
            entry = queue.popleft()
            taken.append((lane, entry[1]))
            mine.add(lane)
            self._in_hand.setdefault(lane, []).append(entry)
            self._size -= 1
            self._taken += 1
            if not queue:
                del self._waiting[lane]
            elif limit > 1:
                # What is left of it when this ends is passed over while the lane is in hand (the check above).
                self._queue(lane, queue[0][0])
        return taken

    def adopt(self, lane: Lane, item: T) -> None:
        """It is in hand, as if it had been added last and taken."""
        self._number += 1
        self._in_hand.setdefault(lane, []).append((self._number, item))
        self._taken += 1

    def release(self, lane: Lane, item: T) -> None:
        """It is worked off."""
        self._out_of_hand(lane, item)
        self._offer(lane)

    def put_back(self, lane: Lane, item: T, due: float = 0.0) -> None:
        """It goes back to the lane's front, which is held until `wake(due)`; of several the last one goes back first."""
        entry = self._out_of_hand(lane, item)
        self._waiting.setdefault(lane, deque()).appendleft(entry)
        self._size += 1
        if due > self._held.get(lane, 0.0):
            self._held[lane] = due
            heapq.heappush(self._due, (due, entry[0], lane))
        self._offer(lane)

    def wake(self, now: float) -> None:
        """Let go of the lanes that were held until now."""
        while self._due and self._due[0][0] <= now:
            due, _, lane = heapq.heappop(self._due)
            if self._held.get(lane) == due:
                del self._held[lane]
                self._offer(lane)

    @property
    def next_due(self) -> float | None:
        """When the first held lane is let go."""
        return self._due[0][0] if self._due else None

    def of(self, lane: Lane) -> Iterator[T]:
        """What waits in a lane, in its order."""
        return (item for _, item in self._waiting.get(lane, ()))

    def remove(self, gone: Callable[[T], bool]) -> list[T]:
        """Take out what waits and is `gone`; what is in hand stays there until it is released or put back."""
        removed: list[T] = []
        for lane in list(self._waiting):
            queue = self._waiting[lane]
            kept = deque(entry for entry in queue if not gone(entry[1]))
            if len(kept) != len(queue):
                removed += [item for _, item in queue if gone(item)]
                self._size -= len(queue) - len(kept)
                self._held.pop(lane, None)
                if kept:
                    self._waiting[lane] = kept
                    self._offer(lane)
                else:
                    del self._waiting[lane]
        return removed

    def _out_of_hand(self, lane: Lane, item: T) -> tuple[int, T]:
        entries = self._in_hand[lane]
        at = next(number for number, entry in enumerate(entries) if entry[1] is item)
        self._taken -= 1
        entry = entries.pop(at)
        if not entries:
            del self._in_hand[lane]
        return entry

    def _offer(self, lane: Lane) -> None:
        queue = self._waiting.get(lane)
        if queue and lane not in self._in_hand and lane not in self._held and self._queued.get(lane) != queue[0][0]:
            self._queue(lane, queue[0][0])

    def _queue(self, lane: Lane, number: int) -> None:
        self._queued[lane] = number
        heapq.heappush(self._ready, (number, lane))
