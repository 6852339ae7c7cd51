"""Topics as they lie there, in no group: what they hold, and what lies from an offset on to the end."""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from pipeline.core.log_position import Bounds
from pipeline.core.record import Record, TopicPartition
from pipeline.errors import BrokerUnavailable, TopicRefused
from pipeline.kafka.admin import Cluster, TopicIds
from pipeline.kafka.reader import read_between


class TopicLog:
    """Implements `core.ports.Log`; `properties` are `kafka.config.consumer`'s.

    `cluster` gives a fresh one for each question: librdkafka 2.16's admin client asks for offsets with the leader epoch that
    it learnt first, and gets FENCED_LEADER_EPOCH for ever once the leader has changed.
    """

    def __init__(self, properties: Mapping[str, Any], cluster: Callable[[], Cluster]) -> None:
        self._properties = properties
        self._cluster = cluster
        self._asking: TopicIds | None = None

    def bounds(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, Bounds]:
        """What each partition's log holds, transactions that are open included; `BrokerUnavailable` when one is not there now."""
        if not partitions:
            return {}
        asked = self._cluster()
        beginnings = asked.offsets_at(partitions, "earliest")
        for where in partitions:
            if where not in beginnings:
                raise _not_now(where.topic)
        try:
            ends = asked.high_watermarks(partitions)
        except TopicRefused as error:
            raise _not_now(", ".join(sorted({where.topic for where in partitions}))) from error
        ids = asked.topic_ids(sorted({where.topic for where in partitions}))
        return {where: Bounds(beginnings[where], ends[where], ids.get(where.topic, "")) for where in partitions}

    def topic_ids(self, topics: Collection[str]) -> dict[str, str] | None:
        """The ids of these topics once the cluster has told them: asked for by one call, given by a later one.

        While the cluster does not answer, None; the next call asks again.
        """
        if self._asking is None:
            self._asking = self._cluster().ask_topic_ids(sorted(topics))
            return None
        if not self._asking.answered:
            return None
        asking, self._asking = self._asking, None
        return asking.known()

    def tail(self, starts: Mapping[TopicPartition, int]) -> Iterator[Record]:
        """Every record from these offsets on to the end, as far as transactions that were open now have ended.

        Raises `BrokerUnavailable` after 30 s without an answer: a transaction that stays open counts so.
        """
        try:
            ends = self._cluster().high_watermarks(starts)
        except TopicRefused as error:
            raise _not_now(", ".join(sorted({where.topic for where in starts}))) from error
        return read_between(
            self._properties, {where: (start, ends[where]) for where, start in starts.items() if start < ends[where]}
        )


def _not_now(topics: str) -> BrokerUnavailable:
    """What was assigned is there: a broker that has just come back may not know it yet."""
    return BrokerUnavailable(f"The broker does not know {topics} at the moment.")
