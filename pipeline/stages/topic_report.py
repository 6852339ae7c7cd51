"""What `pipeline.topics` prints: text for people, the same as values for programs."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from pipeline.core.topic_file import BROKER_DEFAULT, RETENTION_MS, Declared
from pipeline.core.topic_plan import Drift, Grow, Plan, Topic
from pipeline.stages.provision import Outcome
from pipeline.stages.table import table

_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000))
Row = tuple[str, str, str]


def planned(outcome: Outcome) -> str:
    """What `apply` would do."""
    left = outcome.left
    rows: list[Row] = [("+ create", topic.name, _wanted(topic)) for topic in left.create]
    rows += [("^ grow", step.name, _growth(step)) for step in left.grow]
    todo = len(left.create) + len(left.grow)
    total = f"{len(left.create)} to create, {len(left.grow)} to grow" if todo else "Nothing to create or grow"
    return "\n".join([*table([*rows, *_differing(left), *_unchanged(left)]), f"{total}{_tail(left)}"])


def applied(outcome: Outcome) -> str:
    """What was done, what differs still, and the topics as they are now."""
    rows: list[Row] = [("+ created", name, _counts(outcome.topics[name])) for name in outcome.created]
    rows += [("^ grown", step.name, _growth(step)) for step in outcome.grown]
    done = len(outcome.created) + len(outcome.grown)
    total = f"{len(outcome.created)} created, {len(outcome.grown)} grown" if done else "Nothing changed"
    lines = [*table([*rows, *_differing(outcome.left)]), f"{total}{_tail(outcome.left)}", "", described(outcome)]
    return "\n".join(lines)


def described(outcome: Outcome) -> str:
    """The declared topics with leaders, replicas and those in sync; an absent one is said so."""
    blocks = []
    for topic in outcome.declared:
        there = outcome.topics.get(topic.name)
        blocks.append("\n".join(_described(there)) if there else f"{topic.name}: not there")
    return "\n\n".join(blocks)


def values(outcome: Outcome) -> dict[str, Any]:
    """All of it for JSON; `topics` carries what is there, with the configs set on each topic itself."""
    return {
        "created": outcome.created,
        "grown": [asdict(step) for step in outcome.grown],
        "missing": outcome.missing,
        "plan": asdict(outcome.left),
        "topics": [
            {
                "name": topic.name,
                "partitions": [
                    {**asdict(partition), "under_replicated": partition.under_replicated}
                    for partition in topic.partitions
                ],
                "configs": {key: topic.configs[key] for key in sorted(topic.overrides)},
            }
            for topic in outcome.topics.values()
        ],
    }


def _described(topic: Topic) -> Iterator[str]:
    own = "".join(f", {_said(key, topic.configs[key])}" for key in sorted(topic.overrides))
    yield f"{topic.name}: {_counts(topic)}{own}"
    rows = [("  partition", "leader", "replicas", "in sync", "")]
    for partition in topic.partitions:
        mark = "<- under-replicated" if partition.under_replicated else ""
        rows.append(
            (
                f"  {partition.id}",
                "none" if partition.leader is None else str(partition.leader),
                ",".join(map(str, partition.replicas)),
                ",".join(map(str, partition.in_sync)),
                mark if partition.leader is not None else "<- no leader: can be neither read nor written",
            )
        )
    yield from table(rows)


def _counts(topic: Topic) -> str:
    return f"{len(topic.partitions)} partitions, replication {topic.replication}"


def _differing(left: Plan) -> list[Row]:
    rows = [("! would grow", step.name, f"{_growth(step)}: run with --grow") for step in left.held_back]
    for drift in left.drift:
        rows += [("! differs", drift.name, _difference(drift)), ("", "", f"to settle it: {drift.fix}")]
    return rows


def _unchanged(left: Plan) -> list[Row]:
    return [("= unchanged", name, "") for name in left.unchanged]


def _tail(left: Plan) -> str:
    """How the summary ends: what is left to be done by hand."""
    parts = [f"{len(left.held_back)} would grow"] if left.held_back else []
    parts += [f"{len(left.drift)} differing, left alone"] if left.drift else []
    if parts:
        return f"; {', '.join(parts)}."
    return "." if left.create or left.grow else ": every declared topic is as declared."


def _wanted(topic: Declared) -> str:
    replication = (
        "the broker's replication" if topic.replication == BROKER_DEFAULT else f"replication {topic.replication}"
    )
    configs = "".join(f", {_said(key, value)}" for key, value in sorted(topic.configs.items()))
    return f"{topic.partitions} partitions, {replication}{configs}"


def _growth(step: Grow) -> str:
    return f"{step.now} -> {step.wanted} partitions"


def _difference(drift: Drift) -> str:
    return f"{drift.what}: {_human(drift.what, drift.actual)}, declared: {_human(drift.what, drift.declared)}"


def _said(key: str, value: str) -> str:
    return f"{key}={_human(key, value)}"


def _human(key: str, value: str) -> str:
    """A value as Kafka has it, and a retention in words beside."""
    if key != RETENTION_MS or not value.removeprefix("-").isdecimal():
        return value
    ms = int(value)
    words = "forever" if ms < 0 else next((f"{ms // unit}{name}" for name, unit in _UNITS if ms and ms % unit == 0), "")
    return f"{value} ({words})" if words else value
