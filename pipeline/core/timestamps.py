"""Which timestamp a record may keep in another topic, decided.

A record that is published again with its old timestamp may be refused by the broker (too far in the future or in the past,
KIP-937 and KIP-1030), or be deleted by the topic's retention before anybody reads it. Then it gets the present time, and
the old one travels in a header.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.core.record import Headers

ORIGINAL_TIMESTAMP = "original-timestamp"
# Clocks differ, and a record may wait in a queue before the broker looks at it.
MARGIN_MS = 60_000
_DAY_MS = 86_400_000
_FOREVER = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Window:
    """How old a timestamp may be, and how far ahead of the present, in milliseconds. The defaults are Kafka's own."""

    before_ms: int = 7 * _DAY_MS
    after_ms: int = 3_600_000

    def holds(self, timestamp_ms: int, now_ms: int) -> bool:
        """Whether a record with this timestamp is taken, and stays for a while."""
        return 0 < timestamp_ms <= now_ms + self.after_ms and now_ms - timestamp_ms <= self.before_ms


# For a topic that refused a timestamp in spite of what it says of itself: none but the present is tried again.
NONE = Window(-1, -1)


def window(configs: Mapping[str, str]) -> Window:
    """The window of a topic with these configs; those that are not told are Kafka's defaults.

    A tenth of the retention (a day at most) is kept back: a record that is deleted a moment later is as good as lost.
    """
    if configs.get("message.timestamp.type") == "LogAppendTime":
        return Window(_FOREVER, _FOREVER)  # the broker writes its own time, and looks at no other

    def number(name: str, default: int) -> int:
        value = configs.get(name, "")
        return int(value) if value.removeprefix("-").isdigit() else default

    deletes = "delete" in configs.get("cleanup.policy", "delete")
    retention = number("retention.ms", 7 * _DAY_MS) if deletes else -1
    kept = _FOREVER if retention < 0 else retention - min(retention // 10, _DAY_MS)
    # Brokers before Kafka 3.6 know one name for both directions.
    either = number("message.timestamp.difference.max.ms", _FOREVER)
    before = min(either, number("message.timestamp.before.max.ms", _FOREVER))
    after = min(either, number("message.timestamp.after.max.ms", 3_600_000))
    return Window(min(kept, _less(before)), _less(after))


def fitting(timestamp_ms: int | None, headers: Headers, within: Window, now_ms: int) -> tuple[int | None, Headers]:
    """The timestamp to publish with, None for the present, and the headers: with the old time where it is not kept."""
    if timestamp_ms is None or within.holds(timestamp_ms, now_ms):
        return timestamp_ms, headers
    kept = tuple(each for each in headers if each[0] != ORIGINAL_TIMESTAMP)
    return None, (*kept, (ORIGINAL_TIMESTAMP, str(timestamp_ms).encode()))


def _less(limit_ms: int) -> int:
    """The limit without the margin; a short one is halved."""
    return limit_ms if limit_ms == _FOREVER else limit_ms - min(MARGIN_MS, limit_ms // 2)
