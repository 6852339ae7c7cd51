"""Committed offsets that the log does not hold, on a real broker: at the start, and while a member reads."""

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from confluent_kafka import Producer

from pipeline.core.record import Record, TopicPartition
from pipeline.kafka.consumer import GroupConsumer
from tests.integration.conftest import Pipe, declared, order, wait_until
from tests.integration.test_forward import forwarder, output  # noqa: F401  # a fixture
from tests.integration.test_member import Listener

pytestmark = pytest.mark.integration


class Displaced(Listener):
    def __init__(self) -> None:
        super().__init__()
        self.moved: list[TopicPartition] = []

    def displaced(self, partitions: Any) -> None:
        self.moved += partitions


def places(pipe: Pipe) -> list[TopicPartition]:
    return [TopicPartition(pipe.topic, each) for each in range(pipe.partitions)]


def commit(pipe: Pipe, offset: int) -> None:
    pipe.cluster.commit(pipe.group, dict.fromkeys(places(pipe), offset))


def stored(pipe: Pipe) -> int:
    return int(pipe.rows("select count(*) from orders")[0][0]) if pipe.rows("select 1 from orders limit 1") else 0


def test_committed_offset_beyond_the_end_is_read_from_the_beginning_and_said(pipe: Pipe) -> None:
    pipe.produce([order(number) for number in range(60)])
    commit(pipe, 1000)
    ended = pipe.run("consume", "--until-end", "--json")
    assert ended.code == 0, ended.stderr
    assert (ended.json["handled"], ended.json["read_again"], stored(pipe)) == (60, 3, 60)
    assert f"{pipe.topic} [0]: offset 1000 comes next, but the log holds 0 to " in ended.stderr
    assert pipe.lag() == 0
    again = pipe.run("consume", "--until-end", "--json")
    assert (again.json["handled"], "read_again" in again.json, "1000" in again.stderr) == (0, False, False)


def test_forwarder_with_a_committed_offset_beyond_the_end_forwards_once(forwarder: Pipe) -> None:  # noqa: F811
    forwarder.produce([order(number) for number in range(30)])
    commit(forwarder, 1000)
    ended = forwarder.run("forward", "--until-end", "--json")
    assert ended.code == 0, ended.stderr
    assert (ended.json["forwarded"], ended.json["read_again"]) == (30, 3)
    again = forwarder.run("forward", "--until-end", "--json")
    assert (again.json["forwarded"], "read_again" in again.json) == (0, False), again.stderr
    assert len(forwarder.records(output(forwarder))) == 30
    # Whatever is committed now belongs to this log: its id stands beside it.
    forwarder.delete_topic(forwarder.topic)
    forwarder.cluster.create([declared(forwarder.topic, forwarder.partitions)])


@pytest.mark.parametrize("door", ["consume", "forward"])
def test_records_that_retention_took_before_the_group_read_them_are_counted(forwarder: Pipe, door: str) -> None:  # noqa: F811
    forwarder.env["PIPELINE_KAFKA__CONSUMER_GROUP"] = forwarder.group
    forwarder.produce([order(number) for number in range(90)])
    commit(forwarder, 2)
    forwarder.cluster.delete_records(dict.fromkeys(places(forwarder), 7))
    ended = forwarder.run(door, "--until-end", "--json")
    assert ended.code == 0, ended.stderr
    assert (ended.json["consumed"], ended.json["missed"]) == (90 - 3 * 7, 3 * 5)
    assert f"{forwarder.topic} [1]: offset 2 comes next, but the log holds 7 to " in ended.stderr
    again = forwarder.run(door, "--until-end", "--json")
    assert (again.json["consumed"], "missed" in again.json) == (0, False)


@pytest.mark.parametrize("records", [2, 40], ids=["shorter", "longer"])
def test_topic_that_is_made_anew_under_a_worker_is_read_from_its_beginning(
    pipe: Pipe, protocol: str, records: int
) -> None:
    pipe.env["PIPELINE_KAFKA__GROUP_PROTOCOL"] = protocol
    pipe.env["PIPELINE_RETRY__TIERS"] = "none"
    pipe.produce([order(number) for number in range(30)])
    worker = pipe.start("consume", "--json")
    wait_until(lambda: stored(pipe) == 30, "all that was there")
    pipe.delete_topic(pipe.topic)
    pipe.cluster.create([declared(pipe.topic, pipe.partitions)])
    wait_until(lambda: pipe.cluster.partitions(pipe.topic), "the topic again")
    pipe.produce([order(1000 + number) for number in range(records)])
    wait_until(lambda: stored(pipe) == 30 + records, "all of the new log")
    ended = worker.end()
    assert ended.code == 0, ended.stderr
    assert ended.json["handled"] >= 30 + records


@pytest.fixture
def filled(bare_pipe: Pipe) -> Pipe:
    bare_pipe.partitions = 2
    bare_pipe.cluster.create([declared(bare_pipe.topic, 2)])
    fill(bare_pipe)
    return bare_pipe


def fill(pipe: Pipe) -> None:
    producer = Producer(pipe.properties)
    for number in range(100):
        producer.produce(pipe.topic, b"%d" % number, b"k", number % 2)
    assert producer.flush(30) == 0
    producer.close()


def test_member_whose_position_retention_passed_is_told_and_goes_on_where_it_is_told_to(
    filled: Pipe, protocol: str
) -> None:
    here, there = places(filled)
    properties = {
        **filled.properties, "group.id": filled.group, "group.protocol": protocol,
        "auto.offset.reset": "earliest", "enable.auto.commit": False, "enable.auto.offset.store": False,
        "enable.partition.eof": True,
    }  # fmt: skip
    listener = Displaced()
    records: list[Record] = []
    with closing(GroupConsumer(properties, [filled.topic], listener)) as member:

        def poll_until(condition: Callable[[], bool]) -> None:
            deadline = time.monotonic() + 60
            while not condition():
                assert time.monotonic() < deadline, "it never came"
                records.extend(member.poll(500, 0.1))

        poll_until(lambda: listener.ours == {here, there})
        member.rewind({here: 5, there: 20})
        filled.cluster.delete_records({here: 30})
        member.resume([here, there])
        poll_until(lambda: listener.moved == [here])
        poll_until(lambda: (member.positions() or {}).get(there) == 50)
        member.pause([there])
        member.rewind({here: 30})
        poll_until(lambda: (member.positions() or {}).get(here) == 50)
        assert [record.offset for record in records if record.partition == 0] == list(range(30, 50))
        assert [record.offset for record in records if record.partition == 1] == list(range(20, 50)), "each once"
        fill(filled)
        poll_until(lambda: (member.positions() or {}).get(here) == 100)
        assert not [record for record in records if record.partition == 1 and record.offset >= 50], (
            "paused stays paused"
        )
        member.resume([there])
        poll_until(lambda: (member.positions() or {}).get(there) == 100)
        assert [record.offset for record in records if record.partition == 1] == list(range(20, 100))
