"""Timestamps of records that are published again, topic by topic: see `pipeline.core.timestamps`."""

from collections.abc import Callable
from functools import cache

from pipeline.core.record import Headers
from pipeline.core.timestamps import NONE, Window, fitting


class Stamps:
    """`window` tells which timestamps a topic takes and keeps; it is asked once for each. `now_ms` is the present."""

    def __init__(self, window: Callable[[str], Window], now_ms: Callable[[], int]) -> None:
        self._window = cache(window)
        self._now_ms = now_ms
        self._refused: set[str] = set()
        self._spans: dict[str, tuple[int, int]] = {}

    def fitting(self, topic: str, timestamp_ms: int | None, headers: Headers) -> tuple[int | None, Headers]:
        """The timestamp to publish with, None for the present, and the headers, which have the old one where it is not kept."""
        return fitting(timestamp_ms, headers, self._of(topic), self._now_ms())

    def span(self, topic: str) -> tuple[int, int]:
        """The first and the last timestamp that are kept as they are, until `moved_on`: for thousands of records at once."""
        found = self._spans.get(topic)
        if found is None:
            within, now_ms = self._of(topic), self._now_ms()
            found = self._spans[topic] = (max(1, now_ms - within.before_ms), now_ms + within.after_ms)
        return found

    def moved_on(self) -> None:
        """Time went on: what `span` said does not hold any more."""
        self._spans.clear()

    def refuses(self, topic: str) -> bool:
        """A topic refused a timestamp in spite of what it says: it gets the present one alone. False where it did already."""
        if topic in self._refused:
            return False
        self._refused.add(topic)
        self._spans.clear()
        return True

    def _of(self, topic: str) -> Window:
        return NONE if topic in self._refused else self._window(topic)
