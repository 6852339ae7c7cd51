"""Topics: read the declaration, survey the cluster, carry out the plan."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.core.topic_file import Declared, override, parse
from pipeline.core.topic_plan import Grow, Plan, Topic, plan
from pipeline.errors import BrokerUnavailable, SettingsRefused

_ASK_AGAIN_S = 0.1
KEYS_MOVE = (
    "with more partitions a key may go to another one: what is written from now on may overtake what was written "
    "before, so the order of a key does not hold across this change"
)


class Cluster(Protocol):
    """What provisioning asks of a cluster; `pipeline.kafka.admin.Cluster` is one."""

    def describe_topics(self, names: Sequence[str]) -> dict[str, Topic]: ...

    def create(self, topics: Sequence[Declared], *, validate_only: bool = False) -> list[str]: ...

    def grow(self, topic: Grow, *, validate_only: bool = False) -> bool: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done, what is there now (by name), and what is left to be done by hand."""

    declared: tuple[Declared, ...]
    topics: Mapping[str, Topic]
    left: Plan
    created: tuple[str, ...] = ()
    grown: tuple[Grow, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """The declared topics that are not there."""
        return tuple(topic.name for topic in self.declared if topic.name not in self.topics)


def read(path: Path, partitions: int | None = None, replication: int | None = None) -> tuple[Declared, ...]:
    """The declared topics of the file, with these counts instead of its own.

    Raises `SettingsRefused` for a file that cannot be read, `TopicRefused` for one that declares what cannot be.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsRefused(
            f"The declared topics cannot be read from {path}: {error}. "
            "Name the file with --file or PIPELINE_TOPICS__FILE; schemas/topics.toml is the one of this project"
        ) from error
    return override(parse(text, str(path)), partitions, replication, str(path))


def survey(cluster: Cluster, declared: Sequence[Declared], *, grow: bool = False) -> Outcome:
    """What is there, and what `apply` would do; changes nothing."""
    topics = cluster.describe_topics([topic.name for topic in declared])
    return Outcome(tuple(declared), topics, plan(declared, topics, grow=grow))


def apply(
    cluster: Cluster,
    declared: Sequence[Declared],
    *,
    grow: bool,
    timeout_s: float,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Outcome:
    """Create what is missing, grow what may grow, and return once every partition of those has a leader.

    The broker checks all of it before any is done: what it refuses raises `TopicRefused` with nothing changed. Another
    run at the same time does no harm. After `timeout_s` seconds without leaders raises `BrokerUnavailable`.
    """
    todo = survey(cluster, declared, grow=grow).left
    cluster.create(todo.create, validate_only=True)
    for step in todo.grow:
        cluster.grow(step, validate_only=True)
    if todo.grow:
        say(f"! {KEYS_MOVE}")
    # In the plan's order, dead-letter topics first: no letter finds the partition of its source missing.
    grown = tuple(step for step in todo.grow if cluster.grow(step))
    created = cluster.create(todo.create)
    # What another run created at the same time has the partitions that the other one asked for.
    wanted = {topic.name: topic.partitions if topic.name in created else 1 for topic in todo.create}
    wanted |= {step.name: step.wanted for step in todo.grow}
    wait_for_leaders(cluster, wanted, timeout_s, clock, sleep)
    after = survey(cluster, declared)
    return Outcome(after.declared, after.topics, after.left, tuple(created), grown)


def wait_for_leaders(
    cluster: Cluster,
    wanted: Mapping[str, int],
    timeout_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return once so many partitions of each topic have a leader: a broker knows of a new one somewhat later than it says.

    Raises `BrokerUnavailable` after `timeout_s` seconds without.
    """
    deadline = clock() + timeout_s
    while leaderless := list(_leaderless(cluster.describe_topics(list(wanted)), wanted)):
        if clock() >= deadline:
            raise BrokerUnavailable(
                f"No leader yet for {', '.join(leaderless)}: are enough brokers up? "
                "What was created stays; run it again to wait on"
            )
        sleep(_ASK_AGAIN_S)


def _leaderless(topics: Mapping[str, Topic], wanted: Mapping[str, int]) -> Iterable[str]:
    for name, count in wanted.items():
        partitions = topics[name].partitions if name in topics else ()
        led = {partition.id for partition in partitions if partition.leader is not None}
        missing = [str(partition) for partition in range(max(count, len(partitions))) if partition not in led]
        if missing:
            yield f"{name} [{', '.join(missing)}]"
