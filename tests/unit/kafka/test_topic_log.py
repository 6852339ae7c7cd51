"""What a worker reads of its topics when it opens partitions, while the broker is not whole again."""

from collections.abc import Collection, Mapping
from typing import Any

import pytest

from pipeline.core.record import TopicPartition
from pipeline.errors import BrokerUnavailable, TopicRefused
from pipeline.kafka.topic_log import TopicLog

HERE, THERE = TopicPartition("orders.v1", 0), TopicPartition("orders.v1", 1)


class Forgetful:
    """A cluster whose broker came back a moment ago, and knows only one partition."""

    def offsets_at(self, partitions: Collection[TopicPartition], at: str) -> dict[TopicPartition, int]:
        assert at == "earliest"
        return {where: 7 for where in partitions if where == HERE}

    def high_watermarks(self, partitions: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        raise TopicRefused(f"{len(partitions)} are not there")


def log() -> TopicLog:
    forgetful: Any = Forgetful()
    return TopicLog({}, lambda: forgetful)


def test_partition_that_the_broker_does_not_know_yet_is_waited_for() -> None:
    assert log().beginnings([HERE]) == {HERE: 7}
    with pytest.raises(BrokerUnavailable, match=r"orders\.v1 at the moment"):
        log().beginnings([HERE, THERE])


def test_end_of_a_topic_that_the_broker_does_not_know_yet_is_waited_for() -> None:
    with pytest.raises(BrokerUnavailable, match=r"orders\.v1 at the moment"):
        log().tail({HERE: 7})
