"""What a redrive asks of the cluster: where topics end, which timestamps they take, and which retry topics a group reads."""

import logging
from collections.abc import Sequence

from pipeline.core.record import TopicPartition
from pipeline.core.redrive_targets import Targets
from pipeline.core.retry import NotRead, Reading, tier_that_is_read, topic_name
from pipeline.core.timestamps import Window, window
from pipeline.errors import SettingsRefused
from pipeline.kafka.admin import Cluster

_log = logging.getLogger(__name__)


def redrive_targets(asked: Cluster, delays: Sequence[float]) -> Targets:
    """Asked when a letter first needs it; `delays` are the retry tiers of the settings, in seconds."""

    def ends(topic: str) -> dict[int, int]:
        wanted = [TopicPartition(topic, each) for each in range(asked.partitions(topic) or 0)]
        return {where.partition: end for where, end in asked.high_watermarks(wanted).items()}

    def retry_topic(source: str, group: str) -> str | NotRead:
        existing = {where.topic for where in asked.everywhere()}
        mine = [name for name in (topic_name(source, group, delay) for delay in delays) if name in existing]
        try:
            found = asked.group(group)
            assigned = {where.topic for member in (found.members if found else ()) for where in member.assigned}
            wanted = [TopicPartition(name, each) for name in mine for each in range(asked.partitions(name) or 0)]
            committed = {where.topic for where in asked.committed_of(group, wanted)}
        except SettingsRefused as error:
            # Who may not look at the group says with the settings what it reads.
            _log.warning(
                "%s. Whether the group %s reads its retry topics is not known: retry.tiers is believed.", error, group
            )
            assigned, committed = set(), set(mine)
        return tier_that_is_read(source, group, Reading(existing, assigned, committed, delays))

    return Targets(asked.partitions, ends, lambda topic: timestamps_of(asked, topic), retry_topic)


def timestamps_of(asked: Cluster, topic: str) -> Window:
    """Which timestamps the topic takes and keeps; Kafka's defaults where this user may not look at its configs."""
    try:
        return window(asked.topic_configs([topic]).get(topic, {}))
    except SettingsRefused as error:
        _log.warning("%s. Timestamps older than 7 days or 1 hour ahead are replaced by the present one.", error)
        return Window()
