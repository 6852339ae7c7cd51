"""A member of a group on a real broker. Its twin on fakes: tests/stages/broker.py."""

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

import pytest
from confluent_kafka import Producer

from pipeline import settings
from pipeline.core.ports import Commit
from pipeline.core.record import Record, TopicPartition
from pipeline.errors import Fenced, MembershipLost
from pipeline.kafka import config
from pipeline.kafka.consumer import GroupConsumer
from tests.integration.conftest import Pipe, declared, wait_until

pytestmark = pytest.mark.integration


class Listener:
    def __init__(self) -> None:
        self.ours: set[TopicPartition] = set()
        self.answers: list[Any] = []

    def assigned(self, partitions: Any) -> None:
        self.ours |= set(partitions)

    def given_up(self, partitions: Any, lost: bool) -> None:
        self.ours -= set(partitions)

    def committed(self, error: Any) -> None:
        self.answers.append(error)


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_topic_that_is_made_after_the_group_was_joined_is_assigned_soon(bare_pipe: Pipe, protocol: str) -> None:
    late = bare_pipe.topic.replace("orders", "late")
    bare_pipe.cluster.create([declared(bare_pipe.topic, 2)])
    configured = settings.load(
        {
            "kafka.bootstrap_servers": bare_pipe.bootstrap_servers,
            "kafka.consumer_group": bare_pipe.group,
            "kafka.group_protocol": protocol,
        }
    )
    listener = Listener()
    member = GroupConsumer(config.consumer(configured.kafka), [bare_pipe.topic, late], listener)

    def assigned(*topics: str) -> bool:
        member.poll(500, 0.1)
        return listener.ours == {TopicPartition(topic, partition) for topic in topics for partition in (0, 1)}

    try:
        wait_until(lambda: assigned(bare_pipe.topic), "what is there")
        bare_pipe.cluster.create([declared(late, 2)])
        wait_until(lambda: assigned(bare_pipe.topic, late), "what came later")
    finally:
        member.close()


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_paused_partition_is_read_again_from_where_it_is_rewound_to(bare_pipe: Pipe, protocol: str) -> None:
    bare_pipe.cluster.create([declared(bare_pipe.topic, 1)])
    producer = Producer(bare_pipe.properties)
    for number in range(50):
        producer.produce(bare_pipe.topic, b"%d" % number, b"k", 0)
    assert producer.flush(30) == 0
    where = TopicPartition(bare_pipe.topic, 0)
    properties = {
        **bare_pipe.properties,
        "group.id": bare_pipe.group,
        "group.protocol": protocol,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "enable.partition.eof": True,
    }
    listener = Listener()
    member = GroupConsumer(properties, [bare_pipe.topic], listener)
    records: list[Record] = []

    def poll_until(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, "it never came"
            records.extend(member.poll(500, 0.1))

    try:
        poll_until(lambda: where in listener.ours)
        member.resume([where])
        poll_until(lambda: len(records) == 50)
        member.pause([where])
        member.poll(500, 0.1)
        member.rewind({where: 7})
        assert member.positions() == {where: -1}
        assert member.poll(500, 0.1) == [], "paused stays paused"
        member.resume([where])
        poll_until(lambda: len(records) == 93)
        assert [record.offset for record in records[50:]] == list(range(7, 50))
        poll_until(lambda: member.positions() == {where: 50})
    finally:
        member.close()


def test_member_that_a_twin_took_over_from_learns_so_from_its_next_poll_whatever_it_asks_before(
    bare_pipe: Pipe,
) -> None:
    bare_pipe.cluster.create([declared(bare_pipe.topic, 1)])
    where = TopicPartition(bare_pipe.topic, 0)
    properties = {
        **bare_pipe.properties,
        "group.id": bare_pipe.group,
        "group.instance.id": "one",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
    }
    first, second = Listener(), Listener()
    with ExitStack() as opened:

        def join(listener: Listener) -> GroupConsumer:
            it = opened.enter_context(closing(GroupConsumer(properties, [bare_pipe.topic], listener)))

            def polled() -> bool:
                it.poll(500, 0.1)
                return where in listener.ours

            wait_until(polled, "it has the partition")
            return it

        member = join(first)
        join(second)

        def refused() -> Exception | None:
            try:
                member.commit_now({where: Commit(0)})
            except (Fenced, MembershipLost) as error:
                return error
            return None

        wait_until(refused, "the first one may not commit any more")
        assert isinstance(refused(), MembershipLost)
        member.commit({where: Commit(0)})
        with pytest.raises(Fenced):
            wait_until(lambda: member.poll(500, 0.1), "a record")
        assert {type(answer) for answer in first.answers} <= {MembershipLost}
