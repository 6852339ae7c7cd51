"""Retries, decided: when and where a record that failed is tried again, and what travels with it meanwhile.

First in place, its key waiting; then through the retry topics of the group (the tiers, counted from 1, each with one
delay); then it is given up. How often and when it failed first, and why at last, travel in headers that
are replaced at every hop, never added to.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.core.failures import Failure
from pipeline.core.record import Headers, Record

PREFIX = "retry-"
# These and no others: any other name is the record's own, also one that begins alike.
HEADERS = frozenset(
    PREFIX + name
    for name in (
        "topic", "partition", "offset", "timestamp", "attempts", "first-failed-at", "due-at", "reason", "error-class", "error",
    )
)  # fmt: skip
ERROR_CHARACTERS_MAX = 256
# As long as dead letters: the time there is to mend what keeps a group from working its retries off.
KEPT_MS = 30 * 86_400_000
# The least of it that a topic may keep which somebody else made or changed.
MENDED_WITHIN_MS = 86_400_000
HEADERS_BYTES = 65_536
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_NUMBER = re.compile(rb"-?\d{1,19}")


@dataclass(frozen=True, slots=True)
class InPlace:
    """Try it again here after `delay_s` seconds; its key waits."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class Park:
    """Send it to the retry topic of this tier."""

    tier: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """It was tried often enough: a dead letter."""


Decision = InPlace | Park | GiveUp


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`attempts` in place, the first one counted, between which the delay doubles from `backoff_s` to `backoff_max_s`.

    `tiers` are the delays of the retry topics in seconds, growing. All times in seconds. What lies in tiers that are `closed`
    is tried there, but nothing that failed goes into them.
    """

    attempts: int = 3
    backoff_s: float = 0.2
    backoff_max_s: float = 5.0
    tiers: tuple[float, ...] = (5.0, 60.0, 600.0)
    closed: frozenset[int] = frozenset()

    @property
    def open(self) -> int:
        """How many tiers take what failed."""
        return len(self.tiers) - len(self.closed)

    def decide(self, tier: int, attempts: int, jitter: float, after_s: float | None = None) -> Decision:
        """What to do with a record of `tier` (0 is the source) that failed `attempts` times in all.

        `jitter` is a random number in [0, 1): it takes up to half of the delay away, so that what failed together is not
        tried again together. `after_s` is what the handler asked for: no try comes earlier, as far as the longest tier.
        Every record is tried equally often, `attempts` plus once for each tier: one that came into a tier only behind
        another of its key has its tries there.
        """
        later = [each for each in range(tier + 1, len(self.tiers) + 1) if each not in self.closed]
        if attempts >= self.attempts + self.open:
            return GiveUp()
        if not later or (attempts < self.attempts and (after_s or 0.0) <= self.backoff_max_s):
            delay = min(self.backoff_s * 2 ** min(attempts - 1, 30), self.backoff_max_s) * (1 - jitter / 2)
            longest = max(self.backoff_max_s, *self.tiers, 0.0)
            return InPlace(max(delay, min(after_s or 0.0, longest)))
        return Park(next((each for each in later if self.tiers[each - 1] >= (after_s or 0.0)), later[-1]))


@dataclass(frozen=True, slots=True)
class Journey:
    """What a parked record carries: where it came from, and what became of it so far. Times are ms since 1970 UTC."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int | None
    attempts: int = 0
    first_failed_ms: int | None = None
    due_ms: int = 0
    failure: Failure | None = None

    def headers(self, kept: Iterable[tuple[str, bytes | None]]) -> Headers:
        """The record's own headers without any of these names, then these. Numbers are decimal strings."""
        told: dict[str, str] = {
            "topic": self.topic,
            "partition": str(self.partition),
            "offset": str(self.offset),
            "attempts": str(self.attempts),
            "due-at": str(self.due_ms),
        }
        if self.timestamp_ms is not None:
            told["timestamp"] = str(self.timestamp_ms)
        if self.first_failed_ms is not None:
            told["first-failed-at"] = str(self.first_failed_ms)
        if self.failure is not None:
            told["reason"] = str(self.failure.kind)
            told["error-class"] = self.failure.error_class
            told["error"] = self.failure.message[:ERROR_CHARACTERS_MAX]
        ours = ((PREFIX + name, text.encode("utf-8", "backslashreplace")) for name, text in told.items())
        return (*own_headers(kept), *ours)


def own_headers(headers: Iterable[tuple[str, bytes | None]]) -> Headers:
    """A record's headers without those of its retries."""
    return tuple(each for each in headers if each[0] not in HEADERS)


def journey(record: Record) -> Journey:
    """What a record of a retry topic carries; what is missing or malformed there is as if it came from here, just now."""
    told = {name.removeprefix(PREFIX): value for name, value in record.headers if name in HEADERS}

    def number(name: str, bits: int = 63) -> int | None:
        value = told.get(name) or b""
        # What its field of a dead letter does not hold is malformed: such a record could never be given up.
        return int(value) if _NUMBER.fullmatch(value) and abs(int(value)) < 2**bits else None

    topic, partition, offset = told.get("topic"), number("partition", 31), number("offset")
    first, due = number("first-failed-at"), number("due-at")
    attempts = max(0, number("attempts", 30) or 0)
    if topic is None or partition is None or offset is None:
        return Journey(record.topic, record.partition, record.offset, record.timestamp_ms, attempts, first, due or 0)
    return Journey(topic.decode("utf-8", "replace"), partition, offset, number("timestamp"), attempts, first, due or 0)


def taken_from_here(its: Journey, record: Record) -> Journey:
    """The same history, of a record whose place cannot be believed: it counts as first read where it lies."""
    return replace(
        its,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp_ms=record.timestamp_ms,
    )


def original(record: Record, its: Journey) -> Record:
    """A record of a retry topic as the handler sees it: where it was first, with its own headers and timestamp."""
    return record._replace(
        topic=its.topic,
        partition=its.partition,
        offset=its.offset,
        timestamp_ms=its.timestamp_ms,
        headers=own_headers(record.headers),
        attempt=its.attempts + 1,
    )


def failed(its: Journey, failure: Failure | None, now_ms: int, due_ms: int, attempts: int) -> Journey:
    """The journey after another failure (None: it only follows one of its key), to be tried again at `due_ms`."""
    first = its.first_failed_ms
    if first is None and failure is not None:
        first = now_ms
    return replace(its, attempts=attempts, first_failed_ms=first, due_ms=due_ms, failure=failure or its.failure)


def duration(text: str) -> float | None:
    """Seconds of `5s`, `1m`, `2h` or `1d`; None for anything else."""
    found = re.fullmatch(r"(\d{1,6})([smhd])", text.strip())
    return int(found[1]) * _UNITS[found[2]] if found else None


def short(seconds: float) -> str:
    """`5s`, `1m`, `10m`: the largest unit that divides it."""
    whole = int(seconds)
    unit = next(name for name in ("d", "h", "m", "s") if whole % _UNITS[name] == 0)
    return f"{whole // _UNITS[unit]}{unit}"


def topic_name(source: str, group: str, delay_s: float) -> str:
    """The retry topic of a group for one delay: `orders.v1.orders-workers.retry-5s`."""
    return f"{source}.{group}.retry-{short(delay_s)}"


def tier_configs(delay_s: float, record_bytes_max: int) -> dict[str, str]:
    """What a retry topic needs so that nothing in it is lost: kept as long as dead letters are, from when it is due."""
    return {
        "cleanup.policy": "delete",
        "message.timestamp.type": "LogAppendTime",
        "retention.ms": str(int(delay_s * 1000) + KEPT_MS),
        "retention.bytes": "-1",
        "max.message.bytes": str(record_bytes_max + HEADERS_BYTES),
    }


def unsafe(delay_s: float, actual: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str]:
    """What of a retry topic's configs could lose a record, and what it has to be instead; more than is needed stays."""
    kept_ms, bytes_max = int(actual.get("retention.ms", "-1")), int(actual.get("max.message.bytes", "0"))
    wrong = {
        "cleanup.policy": actual.get("cleanup.policy") != wanted["cleanup.policy"],
        "retention.ms": 0 <= kept_ms < int(delay_s * 1000) + MENDED_WITHIN_MS,
        "retention.bytes": actual.get("retention.bytes", "-1") != "-1",
        "max.message.bytes": bytes_max < int(wanted["max.message.bytes"]),
    }
    return {name: wanted[name] for name, is_wrong in wrong.items() if is_wrong}


def retry_topics(source: str, group: str, topics: Iterable[str]) -> dict[float, str]:
    """Of these topics the group's retry topics for this source, by their delay in seconds, the shortest first."""
    prefix = topic_name(source, group, 1).removesuffix("1s")
    found = {duration(name.removeprefix(prefix)): name for name in topics if name.startswith(prefix)}
    return {delay: found[delay] for delay in sorted(each for each in found if each is not None)}


def first_tier(source: str, group: str, topics: Iterable[str]) -> str | None:
    """Of these topics the group's retry topic with the shortest delay; None when it has none."""
    return next(iter(retry_topics(source, group, topics).values()), None)


@dataclass(frozen=True, slots=True)
class Reading:
    """What is known of a group: the topics that exist, those that its members are assigned now, and those in which it has
    committed offsets; `delays` are the tiers of the settings, in seconds.
    """

    existing: Collection[str]
    assigned: Collection[str]
    committed: Collection[str]
    delays: Sequence[float]


class NotRead(str):
    """Why no retry topic of a group is known to be read."""

    __slots__ = ()


def tier_that_is_read(source: str, group: str, it: Reading) -> str | NotRead:
    """The retry topic with the shortest delay that the group reads now.

    What its members are assigned decides. A group without members will read what the settings say: they are believed where
    the group has been in each of these topics, for then a worker with exactly these tiers has run. A retry topic that is
    there proves nothing: one of an earlier setting stays, and nobody reads it.
    """
    if source in it.assigned:
        found = first_tier(source, group, it.assigned)
        return found or NotRead(
            f"the group {group} runs without retry topics for {source}; --to-source sends it to all groups"
        )
    if first_tier(source, group, it.existing) is None:
        return NotRead(f"the group {group} has no retry topic for {source}; --to-source sends it to all groups")
    names = [topic_name(source, group, delay) for delay in it.delays]
    if not names:
        return NotRead(
            f"the group {group} has retry topics for {source}, but retry.tiers=none: nobody reads them. Set retry.tiers as "
            "its workers have it, or --to-source sends it to all groups"
        )
    unread = [name for name in names if name not in it.existing or name not in it.committed]
    if unread:
        return NotRead(
            f"no member of the group {group} is there, and none has ever read {unread[0]}. Set retry.tiers as its workers have "
            "it, or start a worker first"
        )
    return names[0]
