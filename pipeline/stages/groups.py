"""Consumer groups: listed, described, moved while nobody is in them; and what `pipeline.groups` prints of it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from pipeline.core import log_position
from pipeline.core.group_plan import (
    NOT_AUTHORISED,
    Group,
    Member,
    Move,
    Standing,
    Target,
    Where,
    chosen,
    plan,
    standing,
)
from pipeline.core.log_position import Bounds
from pipeline.core.ports import Commit
from pipeline.core.record import Record, TopicPartition
from pipeline.core.retry import retry_topics
from pipeline.core.visible import visible
from pipeline.errors import PipelineError, Refused, SettingsRefused, TopicRefused, Unavailable
from pipeline.stages.table import table


class Cluster(Protocol):
    """What this asks of a cluster; `pipeline.kafka.admin.Cluster` is one."""

    @property
    def where(self) -> str: ...

    def groups(self) -> list[Group]: ...

    def group(self, name: str) -> Group | None: ...

    def everywhere(self) -> list[TopicPartition]: ...

    def committed_of(self, group: str, wanted: Collection[TopicPartition]) -> dict[TopicPartition, int]: ...

    def commits_of(self, group: str, wanted: Collection[TopicPartition]) -> dict[TopicPartition, Commit]: ...

    def high_watermarks(self, sources: Collection[TopicPartition]) -> dict[TopicPartition, int]: ...

    def topic_ids(self, names: Sequence[str]) -> dict[str, str]: ...

    def offsets_at(self, sources: Collection[TopicPartition], at: Where | int) -> dict[TopicPartition, int]: ...

    def oldest_left(self, positions: Mapping[TopicPartition, int]) -> dict[TopicPartition, Record | None]: ...

    def commit(self, group: str, offsets: Mapping[TopicPartition, int]) -> None: ...


@dataclass(frozen=True, slots=True)
class Progress:
    """A group and how far it is in every partition of the topics that it works on, or why that cannot be told.

    `denied`: this user may not see it.
    """

    group: Group
    standings: tuple[Standing, ...]
    problem: str | None = None
    denied: bool = False

    @property
    def lag(self) -> int | None:
        """In offsets, over all partitions; None where it cannot be told."""
        known = not self.problem and not self.denied and self.group.is_known
        return sum(each.lag for each in self.standings) if known else None

    @property
    def unread(self) -> dict[str, int]:
        """Retry topics that hold records and that no member reads, with their lag."""
        lags: dict[str, int] = {}
        for each in self.standings:
            if each.unread and each.lag:
                lags[each.source.topic] = lags.get(each.source.topic, 0) + each.lag
        return lags

    @property
    def remarks(self) -> list[str]:
        """What nobody sees in the figures: positions that the log does not hold, and records that nobody will read."""
        found = [str(each.finding) for each in self.standings if each.finding is not None]
        return found + [
            f"{topic}: nobody reads it, and up to {lag} records wait in it. Start its workers again: they read every retry "
            "topic of the group that is there."
            for topic, lag in self.unread.items()
        ]


@dataclass(frozen=True, slots=True)
class Reset:
    """A reset planned, and, once it was done, what is committed now."""

    group: str
    moves: tuple[Move, ...]
    committed: Mapping[TopicPartition, int] | None = None


def survey(cluster: Cluster, now_ms: int) -> list[Progress]:
    """Every consumer group and how far it is.

    A partition without a leader, and what this user may not see, cost the lag of the groups concerned, not the list.
    """
    everywhere = cluster.everywhere()
    found = []
    for group in cluster.groups():
        if not group.is_known:
            found.append(Progress(group, (), denied=group.state == NOT_AUTHORISED))
            continue
        try:
            found.append(_progress(cluster, group, everywhere, now_ms))
        except Unavailable as outage:
            found.append(Progress(group, (), str(outage)))
        except SettingsRefused:
            found.append(Progress(group, (), denied=True))
    return found


def describe(cluster: Cluster, name: str, now_ms: int) -> Progress:
    """One group and how far it is; raises `Refused` when it is not there."""
    return _progress(cluster, _found(cluster, name), cluster.everywhere(), now_ms)


def plan_reset(cluster: Cluster, name: str, topic: str, target: Target, partitions: Collection[int] = ()) -> Reset:
    """What a reset of the group would change; changes nothing.

    Raises `Refused` when group or partition are not there, the group has members, or an offset lies beyond the ends;
    `TopicRefused` when the topic is not there.
    """
    group = _found(cluster, name)
    if group.members:
        raise Refused(
            f"The group {name} has members: {'; '.join(map(_who, group.members))}. "
            "Its offsets are theirs. Stop them, then reset; nothing was changed"
        )
    there = [source for source in cluster.everywhere() if source.topic == topic]
    if not there:
        raise TopicRefused(f"Topic {topic} is not there at {cluster.where}. python -m pipeline.groups describe {name}")
    sources = chosen(topic, there, partitions)
    beginnings, ends = cluster.offsets_at(sources, "earliest"), cluster.offsets_at(sources, "latest")
    wanted = _wanted(cluster, target, beginnings, ends)
    return Reset(name, tuple(plan(wanted, cluster.committed_of(name, sources), beginnings, ends)))


def act(cluster: Cluster, planned: Reset) -> Reset:
    """Commit what was planned and read it back.

    Raises `Refused` when a member joined meanwhile, `PipelineError` when something else is committed afterwards.
    """
    wanted = {move.source: move.new for move in planned.moves}
    cluster.commit(planned.group, wanted)
    now = cluster.committed_of(planned.group, list(wanted))
    if now != wanted:
        other = ", ".join(
            f"{_place(source)}: {now.get(source)} instead of {offset}"
            for source, offset in sorted(wanted.items())
            if now.get(source) != offset
        )
        raise PipelineError(f"The group {planned.group} was reset, but something else is committed now: {other}")
    return Reset(planned.group, planned.moves, now)


def listed(groups: Sequence[Progress]) -> str:
    """One line a group."""
    rows = [("group", "state", "protocol", "members", "lag")]
    rows += [
        (
            it.group.name,
            it.group.state,
            it.group.protocol,
            str(len(it.group.members)) if it.group.is_known else "-",
            NOT_AUTHORISED if it.denied and it.group.is_known else _or_dash(it.lag),
        )
        for it in groups
    ]
    remarks = [f"{it.group.name}: {remark}" for it in groups for remark in it.remarks]
    return "\n".join([*table(rows), *([""] if remarks else []), *remarks]) if groups else "No consumer groups."


def described(it: Progress) -> str:
    """Its partitions, then its members."""
    group = it.group
    assignor = f", assignor {group.assignor}" if group.assignor else ""
    lines = [f"{visible(group.name)}: {group.state}, {group.protocol} protocol{assignor}, lag {it.lag}"]
    if it.standings:
        owners = _owners(group)
        rows = [("  topic", "partition", "committed", "end", "lag", "behind", "member")]
        for each in it.standings:
            owner = owners.get(each.source)
            rows.append(
                (
                    f"  {each.source.topic}", str(each.source.partition), _or_dash(each.committed), str(each.end),
                    str(each.lag), "-" if each.behind_s is None else f"{each.behind_s:.1f} s",
                    owner.name if owner else "-",
                )
            )  # fmt: skip
        lines += ["", *table(rows)]
    if it.remarks:
        lines += ["", *it.remarks]
    if group.members:
        people = [("  member", "client", "instance", "host", "assignment")]
        people += [
            (f"  {each.id}", each.client, each.instance or "-", each.host, _assignment(each)) for each in group.members
        ]
        lines += ["", *table(people)]
    return "\n".join([*lines, *([] if group.members else ["", "No members."])])


def reset_text(it: Reset) -> str:
    """Every partition from where it is to where it goes, or went."""
    now = it.committed
    rows = [
        (
            f"  {move.source.topic}", str(move.source.partition), f"{_or_dash(move.current)} → {move.new}",
            "" if now is None else f"committed now: {now[move.source]}",
        )
        for move in it.moves
    ]  # fmt: skip
    if now is None:
        return "\n".join([f"{visible(it.group)} would move:", *table(rows), "Nothing was changed. --yes does it."])
    return "\n".join([f"{visible(it.group)} moved:", *table(rows)])


def values(it: Progress) -> dict[str, Any]:
    """A group for JSON."""
    owners = _owners(it.group)
    return {
        "group": it.group.name, "state": it.group.state, "protocol": it.group.protocol,
        "assignor": it.group.assignor, "lag": it.lag,
        "partitions": [
            {
                "topic": each.source.topic, "partition": each.source.partition, "committed": each.committed,
                "end": each.end, "lag": each.lag, "behind_s": each.behind_s,
                "member": owners[each.source].id if each.source in owners else None,
                **_remarkable(each),
            }
            for each in it.standings
        ],
        "members": [
            {**asdict(each), "assigned": [source._asdict() for source in each.assigned]} for each in it.group.members
        ],
    }  # fmt: skip


def summary(it: Progress) -> dict[str, Any]:
    """A group for JSON, in one line of the list."""
    return {
        "group": it.group.name, "state": it.group.state, "protocol": it.group.protocol,
        "members": len(it.group.members), "lag": it.lag, "problem": it.problem, "denied": it.denied,
        **({"remarks": it.remarks} if it.remarks else {}),
    }  # fmt: skip


def reset_values(it: Reset) -> dict[str, Any]:
    """A reset for JSON."""
    return {
        "group": it.group,
        "done": it.committed is not None,
        "partitions": [
            {
                **move.source._asdict(), "current": move.current, "new": move.new,
                "committed": None if it.committed is None else it.committed[move.source],
            }
            for move in it.moves
        ],
    }  # fmt: skip


def _remarkable(it: Standing) -> dict[str, Any]:
    """What is said of a partition only where there is something to say."""
    told: dict[str, Any] = {}
    if it.finding is not None:
        bounds = it.finding.bounds
        told = {"finding": str(it.finding.kind), "beginning": bounds.beginning, "missed": it.finding.missed}
    return told | ({"unread": True} if it.unread else {})


def _progress(cluster: Cluster, group: Group, everywhere: Sequence[TopicPartition], now_ms: int) -> Progress:
    committed = cluster.commits_of(group.name, everywhere)
    owned = {source.topic for source in _owners(group)}
    topics = {source.topic for source in committed} | owned
    names = {source.topic for source in everywhere}
    retries = {retry for topic in topics for retry in retry_topics(topic, group.name, names).values()}
    sources = [source for source in everywhere if source.topic in topics | retries]
    starts, ends = _starts(cluster, committed, sources)
    oldest = cluster.oldest_left(
        {source: start.offset for source, start in starts.items() if start.offset < ends[source]}
    )
    standings = (
        replace(
            standing(
                source, committed[source].offset if source in committed else None, end, oldest.get(source), now_ms
            ),
            # That nothing was committed stands in the figures.
            finding=starts[source].finding if source in committed else None,
            unread=bool(group.members) and source.topic in retries - owned,
        )
        for source, end in sorted(ends.items())
    )
    return Progress(group, tuple(standings))


def _starts(
    cluster: Cluster, committed: Mapping[TopicPartition, Commit], sources: Sequence[TopicPartition]
) -> tuple[dict[TopicPartition, log_position.Start], dict[TopicPartition, int]]:
    """Where a worker of ours would begin, and the ends; partitions that are gone by now are left out."""
    ends, beginnings = cluster.offsets_at(sources, "latest"), cluster.offsets_at(sources, "earliest")
    ids = cluster.topic_ids(sorted({source.topic for source in sources}))
    # Where transactions are open, more was written than may be read; programs that read it too may have committed there.
    ahead = [source for source, end in ends.items() if source in committed and committed[source].offset > end]
    written = dict(ends) | (cluster.high_watermarks(ahead) if ahead else {})
    starts = {}
    for source in ends:
        offset, words = committed.get(source) or (None, "")
        bounds = Bounds(beginnings.get(source, 0), written[source], ids.get(source.topic, ""))
        starts[source] = log_position.start(source, offset, words, bounds)
    return starts, ends


def _wanted(
    cluster: Cluster,
    target: Target,
    beginnings: Mapping[TopicPartition, int],
    ends: Mapping[TopicPartition, int],
) -> Mapping[TopicPartition, int]:
    if target.offset is not None:
        return dict.fromkeys(ends, target.offset)
    if target.time_ms is not None:
        found = cluster.offsets_at(list(ends), target.time_ms)
        # Where no record is that late the group waits for the next one.
        return {source: found[source] if 0 <= found[source] <= end else end for source, end in ends.items()}
    return beginnings if target.where == "earliest" else ends


def _found(cluster: Cluster, name: str) -> Group:
    group = cluster.group(name)
    if group is None:
        raise Refused(f"There is no consumer group {name} at {cluster.where}. python -m pipeline.groups list")
    return group


def _owners(group: Group) -> dict[TopicPartition, Member]:
    return {source: member for member in group.members for source in member.assigned}


def _who(member: Member) -> str:
    return f"{member.name} (client {member.client}, at {member.host})"


def _place(source: TopicPartition) -> str:
    return f"{source.topic} [{source.partition}]"


def _assignment(member: Member) -> str:
    by_topic: dict[str, list[str]] = {}
    for source in member.assigned:
        by_topic.setdefault(source.topic, []).append(str(source.partition))
    return ", ".join(f"{topic} [{' '.join(each)}]" for topic, each in by_topic.items()) or "nothing"


def _or_dash(number: int | None) -> str:
    return "-" if number is None else str(number)
