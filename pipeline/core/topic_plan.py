"""Declared topics against actual ones: what to create, what to grow, what merely differs.

A plan never deletes, shrinks or alters: whatever else differs is drift, told with the command that would settle it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipeline.core.topic_file import BROKER_DEFAULT, Declared, listed


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition as the cluster has it, by broker ids; `leader` is None while it has none."""

    id: int
    leader: int | None
    replicas: tuple[int, ...]
    in_sync: tuple[int, ...]

    @property
    def under_replicated(self) -> bool:
        """A replica has fallen behind, or its broker is down."""
        return len(self.in_sync) < len(self.replicas)


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as the cluster has it.

    `configs` are the values in force, `overrides` the names of those that are set on the topic itself.
    """

    name: str
    partitions: tuple[Partition, ...]
    configs: Mapping[str, str] = field(default_factory=dict)
    overrides: frozenset[str] = frozenset()

    @property
    def replication(self) -> int:
        """Copies of the least replicated partition."""
        return min((len(partition.replicas) for partition in self.partitions), default=0)


@dataclass(frozen=True, slots=True)
class Grow:
    """More partitions for a topic that is there."""

    name: str
    now: int
    wanted: int


@dataclass(frozen=True, slots=True)
class Drift:
    """One thing that differs and is left alone; `fix` is the command, or the edit, that would settle it."""

    name: str
    what: str
    actual: str
    declared: str
    fix: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What `apply` does: `create`, then `grow`. `held_back` would grow but was not allowed to."""

    create: tuple[Declared, ...] = ()
    grow: tuple[Grow, ...] = ()
    held_back: tuple[Grow, ...] = ()
    drift: tuple[Drift, ...] = ()
    unchanged: tuple[str, ...] = ()


def plan(declared: Sequence[Declared], actual: Mapping[str, Topic], *, grow: bool) -> Plan:
    """What makes `actual` (by name; absent ones left out) as it was declared, as far as that may be done.

    A dead-letter topic is planned with at least the partitions that its source has or will have, and grows before it:
    no letter may find its partition missing.
    """
    create: list[Declared] = []
    growing: list[Grow] = []
    drift: list[Drift] = []
    unchanged: list[str] = []
    counts = {topic.name: _partitions_after(topic, actual.get(topic.name), grow=grow) for topic in declared}
    for topic in declared:
        wanted = max(topic.partitions, counts.get(topic.source, 0)) if topic.source else topic.partitions
        there = actual.get(topic.name)
        if there is None:
            create.append(replace(topic, partitions=wanted))
            continue
        differs = list(_drift(topic, there, wanted))
        drift.extend(differs)
        if len(there.partitions) < wanted:
            step = Grow(topic.name, len(there.partitions), wanted)
            growing.insert(0 if topic.source else len(growing), step)
        elif not differs:
            unchanged.append(topic.name)
    return Plan(
        create=tuple(create),
        grow=tuple(growing) if grow else (),
        held_back=() if grow else tuple(growing),
        drift=tuple(drift),
        unchanged=tuple(unchanged),
    )


def _partitions_after(topic: Declared, there: Topic | None, *, grow: bool) -> int:
    if there is None:
        return topic.partitions
    return max(len(there.partitions), topic.partitions) if grow else len(there.partitions)


def _drift(topic: Declared, there: Topic, wanted: int) -> Iterable[Drift]:
    name, count = topic.name, len(there.partitions)
    if count > wanted:
        fix = f"declare {count}: a topic never shrinks"
        yield Drift(name, "partitions", str(count), str(wanted), fix)
    if topic.replication not in (BROKER_DEFAULT, there.replication):
        fix = "kafka-reassign-partitions with a list of replicas for each partition"
        yield Drift(name, "replication", str(there.replication), str(topic.replication), fix)
    alter = f"kafka-configs --alter --entity-type topics --entity-name {name}"
    for key, value in topic.configs.items():
        if key not in there.configs:
            yield Drift(name, key, "unknown to this broker", value, "correct the name, or remove it from the file")
        elif listed(there.configs[key]) != listed(value):
            setting = f"[{value}]" if "," in value else value
            yield Drift(name, key, there.configs[key], value, f"{alter} --add-config {key}={setting}")
    for key in sorted(there.overrides - topic.configs.keys()):
        fix = f"declare it, or {alter} --delete-config {key}"
        yield Drift(name, key, there.configs.get(key, ""), "not declared", fix)
