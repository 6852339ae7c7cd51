"""The topics that go with a group's source: its retry topics, and the partitions of the dead-letter topic.

Retry topics are the group's own business, as its offsets are: the group makes them, grows them with the source, and reads every
one that is there, also those that `retry.tiers` does not name any more (decision 0013). Nothing in them may be lost.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from pipeline.core.record import TopicPartition
from pipeline.core.retry import RetryPolicy, retry_topics, tier_configs, topic_name, unsafe
from pipeline.core.topic_file import Declared
from pipeline.core.topic_plan import Grow, Topic
from pipeline.core.visible import sentence
from pipeline.errors import BrokerUnavailable, NotAuthorized, NotTogether, Refused, TopicRefused
from pipeline.stages import provision

_NEW_TOPICS_S = 10.0
# The broker's message.max.bytes, where nobody set another one.
MESSAGE_BYTES_DEFAULT = 1_048_588
_log = logging.getLogger(__name__)
Tiers = Mapping[float, str]


class Cluster(Protocol):
    """What this asks of a cluster; `pipeline.kafka.admin.Cluster` is one."""

    def wait_until_reachable(self, timeout_s: float) -> None: ...

    def everywhere(self) -> list[TopicPartition]: ...

    def partitions(self, topic: str) -> int | None: ...

    def topic_configs(self, names: Sequence[str]) -> dict[str, dict[str, str]]: ...

    def describe_topics(self, names: Sequence[str]) -> dict[str, Topic]: ...

    def create(self, topics: Sequence[Declared], *, validate_only: bool = False) -> list[str]: ...

    def grow(self, topic: Grow, *, validate_only: bool = False) -> bool: ...

    def alter(self, topic: str, configs: Mapping[str, str]) -> None: ...

    def lag(self, group: str, topic: str) -> dict[int, int]: ...


@dataclass(frozen=True)
class GroupTopics:
    """Those of one group for one source; `delays` are the tiers that are configured, in seconds.

    `cluster` gives a fresh one for each question. Every method raises `BrokerUnavailable` while the broker is away, and
    `SettingsRefused` where this user may not ask or do it.
    """

    source: str
    group: str
    dead_letters: str
    delays: Sequence[float]
    cluster: Callable[[], Cluster]

    def tiers(self) -> dict[float, str]:
        """The retry topics by delay, the shortest first: those that are configured, and all others that are there."""
        asked = self._reachable()
        there = retry_topics(self.source, self.group, {where.topic for where in asked.everywhere()})
        configured = {delay: topic_name(self.source, self.group, delay) for delay in self.delays}
        for delay, topic in there.items():
            if delay not in configured:
                self._say_old(topic, sum(asked.lag(self.group, topic).values()))
        return dict(sorted((there | configured).items()))

    def policy(self, base: RetryPolicy, tiers: Tiers) -> RetryPolicy:
        """With the delays of all tiers; nothing that fails goes into those that are not configured any more."""
        closed = frozenset(tier for tier, delay in enumerate(tiers, 1) if delay not in self.delays)
        return replace(base, tiers=tuple(tiers), closed=closed)

    def provide(self, tiers: Tiers) -> int:
        """Make the retry topics where they are not there, with as many partitions as the source; how many these are.

        They keep records long after they were due, counted from when they came: a record's own timestamp may be years old.
        Where one that is there keeps them shorter than that, it is set right. Raises `TopicRefused` where that is denied, or
        where one has more partitions than the source.
        """
        asked = self._reachable()
        count = asked.partitions(self.source)
        if count is None:
            raise BrokerUnavailable(f"The topic {self.source} is not there. Create the declared topics: make topics.")
        if not tiers:
            return count
        there = {topic: asked.partitions(topic) for topic in tiers.values()}
        for name, had in there.items():
            if had is not None and had > count:
                raise TopicRefused(
                    f"The retry topic {name} has {had} partitions, {self.source} has {count}: a record is tried again in the "
                    f"partition with its own number. Once it is worked off, delete {name}; it is made anew."
                )
        record_bytes_max = self._record_bytes_max(asked, makes_some=None in there.values())
        wanted = {topic: tier_configs(delay, record_bytes_max) for delay, topic in tiers.items()}
        purpose = f"Records of {self.source} that {self.group} tries again later."
        asked.create(
            [Declared(name, count, configs=wanted[name], purpose=purpose) for name, had in there.items() if had is None]
        )
        for name, had in there.items():
            if had is not None and had < count:
                asked.grow(Grow(name, had, count))
        self._set_right(asked, tiers, wanted, [name for name, had in there.items() if had is not None])
        if new := dict.fromkeys((name for name, had in there.items() if had is None or had < count), count):
            # A group that is joined before would not have them, until the client looks for its topics again.
            provision.wait_for_leaders(asked, new, _NEW_TOPICS_S)
        return count

    def grow_along(self, tiers: Tiers) -> int:
        """The source got partitions while workers run: the same for its retry topics and its dead letters. How many it has.

        Raises `NotTogether` where that is refused: nothing of the new partitions may be read then.
        """
        try:
            asked = self._reachable()
            count, letters = asked.partitions(self.source) or 0, asked.partitions(self.dead_letters)
            if letters is not None and letters < count:
                asked.grow(Grow(self.dead_letters, letters, count))
                provision.wait_for_leaders(asked, {self.dead_letters: count}, _NEW_TOPICS_S)
                _log.warning("%s has %d partitions now, as %s has", self.dead_letters, count, self.source)
            return self.provide(tiers)
        except Refused as error:
            raise NotTogether(
                f"{self.source} has new partitions, which go with partitions of its retry topics and of {self.dead_letters}: "
                f"{error}"
            ) from error

    def _reachable(self) -> Cluster:
        asked = self.cluster()
        asked.wait_until_reachable(1.0)
        return asked

    def _record_bytes_max(self, asked: Cluster, *, makes_some: bool) -> int:
        """Of the source; where this principal may not read configs, which a plain consumer need not, the broker's default."""
        try:
            return int(asked.topic_configs([self.source])[self.source]["max.message.bytes"])
        except NotAuthorized as denied:
            if makes_some:
                _log.warning(
                    "%s Going on: retry topics that are made now take records of up to %d bytes, the broker's default.",
                    sentence(str(denied)),
                    MESSAGE_BYTES_DEFAULT,
                )
            return MESSAGE_BYTES_DEFAULT

    def _say_old(self, topic: str, lag: int) -> None:
        if lag:
            _log.warning(
                "%s is a retry topic of the group that retry.tiers does not name any more: up to %d records wait in it. They are "
                "tried again when they are due, and their keys wait; nothing new goes in.",
                topic,
                lag,
            )
        else:
            _log.info("%s is read though retry.tiers does not name it: delete it while no worker runs", topic)

    def _set_right(
        self, asked: Cluster, tiers: Tiers, wanted: Mapping[str, Mapping[str, str]], names: Sequence[str]
    ) -> None:
        delays = {topic: delay for delay, topic in tiers.items()}
        try:
            found = asked.topic_configs(names)
        except NotAuthorized:
            return  # said already, and whoever made them knows what they keep
        for name, actual in found.items():
            wrong = unsafe(delays[name], actual, wanted[name])
            if not wrong:
                continue
            said = ", ".join(f"{key}={value} (was {actual.get(key)})" for key, value in wrong.items())
            try:
                asked.alter(name, wrong)
            except Refused as error:
                fix = ",".join(f"{key}={value}" for key, value in wrong.items())
                raise TopicRefused(
                    f"The retry topic {name} could lose records before they are due, and may not be set right: {error}. "
                    f"kafka-configs --alter --entity-type topics --entity-name {name} --add-config {fix}"
                ) from error
            _log.warning("%s could lose records before they are due: set to %s", name, said)
