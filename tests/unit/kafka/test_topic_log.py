"""What a worker reads of its topics when it opens partitions, while the broker is not whole again."""

from collections.abc import Collection, Mapping
from typing import Any

import pytest

from pipeline.core.log_position import Bounds
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


class Whole(Forgetful):
    """A cluster that knows its topic again, and does not tell what was asked without waiting at once."""

    answered = False

    def high_watermarks(self, partitions: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 9)

    def topic_ids(self, names: list[str]) -> dict[str, str]:
        return {name: f"id of {name}" for name in names}

    def ask_topic_ids(self, names: list[str]) -> "Whole":
        return self

    def known(self) -> dict[str, str]:
        return {"orders.v1": "another"}


def log(cluster: Any = None) -> TopicLog:
    asked: Any = cluster or Forgetful()
    return TopicLog({}, lambda: asked)


def test_partition_that_the_broker_does_not_know_yet_is_waited_for() -> None:
    assert log(Whole()).bounds([HERE]) == {HERE: Bounds(7, 9, "id of orders.v1")}
    with pytest.raises(BrokerUnavailable, match=r"orders\.v1 at the moment"):
        log(Whole()).bounds([HERE, THERE])


def test_end_of_a_topic_that_the_broker_does_not_know_yet_is_waited_for() -> None:
    with pytest.raises(BrokerUnavailable, match=r"orders\.v1 at the moment"):
        log().tail({HERE: 7})
    with pytest.raises(BrokerUnavailable, match=r"orders\.v1 at the moment"):
        log().bounds([HERE])


def test_ids_of_topics_are_not_waited_for() -> None:
    cluster = Whole()
    it = log(cluster)
    assert [it.topic_ids(["orders.v1"]), it.topic_ids(["orders.v1"])] == [None, None]
    cluster.answered = True
    assert it.topic_ids(["orders.v1"]) == {"orders.v1": "another"}
    assert it.topic_ids(["orders.v1"]) is None, "asked anew"
