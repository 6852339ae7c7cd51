"""Consumer groups: how far each is, and what moving it would change. Pure: offsets come in, a plan goes out."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from pipeline.core.log_position import Finding
from pipeline.core.record import Record, TopicPartition
from pipeline.errors import Refused

Where = Literal["earliest", "latest"]
_ENDS: Mapping[str, Where] = {"earliest": "earliest", "latest": "latest"}
NOT_AUTHORISED = "not authorised"
UNREADABLE = "unreadable"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Member:
    """A member as the group's coordinator knows it; `instance` is None unless its membership is static."""

    id: str
    client: str
    instance: str | None
    host: str
    assigned: tuple[TopicPartition, ...] = ()

    @property
    def name(self) -> str:
        """The name a person gave it, or the one that it was given."""
        return self.instance or self.id


@dataclass(frozen=True, slots=True)
class Group:
    """A group; `protocol` is classic or consumer (KIP-848).

    Of one that may not be described its `state` is `NOT_AUTHORISED`; of one whose description cannot be read, as of another
    kind of group, `UNREADABLE`. Nothing else is known of these.
    """

    name: str
    state: str
    protocol: str
    assignor: str = ""
    members: tuple[Member, ...] = ()

    @property
    def is_known(self) -> bool:
        """Whether more than its name is known."""
        return self.state not in {NOT_AUTHORISED, UNREADABLE}


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a group is in one partition.

    `lag` counts offsets from the oldest record left to the end: 0 exactly when no record is left. `behind_s` is the age
    of that record in seconds, None where it carries no time. `finding` is what a worker would find, where the log does not
    hold what was committed. `unread` is true of a retry topic of the group that none of its members reads.
    """

    source: TopicPartition
    committed: int | None
    end: int
    lag: int
    behind_s: float | None
    finding: Finding | None = None
    unread: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """Where a group is to go: one end, an offset, or a time (milliseconds since 1970 UTC)."""

    where: Where | None = None
    offset: int | None = None
    time_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Move:
    """One partition of a reset; `current` is None where nothing was committed."""

    source: TopicPartition
    current: int | None
    new: int


def standing(source: TopicPartition, committed: int | None, end: int, oldest: Record | None, now_ms: int) -> Standing:
    """How far the group is, given the oldest record that it has left, or None.

    A record at or after `end` came since the end was asked for, and does not count.
    """
    if oldest is None or oldest.offset >= end:
        return Standing(source, committed, end, 0, 0.0)
    behind_s = None if oldest.timestamp_ms is None else max(0, now_ms - oldest.timestamp_ms) / 1000
    return Standing(source, committed, end, end - oldest.offset, behind_s)


def parse_target(text: str) -> Target:
    """`earliest`, `latest`, an offset, or an ISO 8601 time with its zone; raises `Refused` for anything else."""
    if text in _ENDS:
        return Target(where=_ENDS[text])
    if text.isascii() and text.isdecimal():
        return Target(offset=int(text))
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise Refused(
            f"--to {text} is no place in a topic. Give earliest, latest, an offset, or a time such as 2026-01-31T08:00:00Z"
        ) from error
    if time.tzinfo is None:
        raise Refused(f"--to {text} names no zone. Say which time it is: {text}Z, or {text}+01:00")
    # Rounded up: a record of the same millisecond, but before the time asked for, is not wanted.
    return Target(time_ms=max(0, -((_EPOCH - time) // timedelta(milliseconds=1))))


def chosen(topic: str, there: Collection[TopicPartition], partitions: Collection[int]) -> list[TopicPartition]:
    """The named partitions of the topic, or all of them; raises `Refused` for one that it does not have."""
    if absent := set(partitions) - {source.partition for source in there}:
        raise Refused(f"{topic} has no partition {', '.join(map(str, sorted(absent)))}, only 0 to {len(there) - 1}")
    return sorted(source for source in there if not partitions or source.partition in partitions)


def plan(
    wanted: Mapping[TopicPartition, int],
    committed: Mapping[TopicPartition, int],
    beginnings: Mapping[TopicPartition, int],
    ends: Mapping[TopicPartition, int],
) -> list[Move]:
    """Every partition from where it is to where it is wanted; raises `Refused` when one is wanted beyond its ends."""
    beyond = [
        f"{source.topic} [{source.partition}] holds {beginnings[source]} to {ends[source]}"
        for source, offset in sorted(wanted.items())
        if not beginnings[source] <= offset <= ends[source]
    ]
    if beyond:
        offsets = ", ".join(map(str, sorted(set(wanted.values()))))
        raise Refused(
            f"Offset {offsets} is beyond the ends: {'; '.join(beyond)}. Nothing was changed. "
            "Give an offset between them, or choose partitions with --partition"
        )
    return [Move(source, committed.get(source), offset) for source, offset in sorted(wanted.items())]
