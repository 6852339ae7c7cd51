"""`python -m pipeline.groups` on a real broker: lag through transactions, members of both protocols, resets."""

import json
import socket
import time
from contextlib import suppress
from ipaddress import ip_address
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from pipeline.core.record import TopicPartition as Source
from pipeline.errors import BrokerUnavailable, Refused
from tests.integration.conftest import create, declared, wait_until

pytestmark = pytest.mark.integration
PROTOCOLS = ["classic", "consumer"]
T0_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z


@pytest.fixture
def there(bare_pipe):
    """A topic of two partitions and nothing in it."""
    create(bare_pipe.cluster, declared(bare_pipe.topic, 2))
    return bare_pipe


@pytest.fixture
def member(there):
    """Joins the group with a client of its own."""
    joined = []

    def join(protocol, instance=None):
        named = {} if instance is None else {"group.instance.id": instance}
        consumer = Consumer(
            {
                **there.properties, **named, "group.id": there.group, "group.protocol": protocol,
                "client.id": "someone", "enable.auto.commit": False, "auto.offset.reset": "earliest",
            }
        )  # fmt: skip
        joined.append(consumer)
        consumer.subscribe([there.topic])
        return consumer

    yield join
    for consumer in joined:
        with suppress(RuntimeError):  # the test has closed it already
            leave(consumer)


def leave(consumer):
    consumer.poll(0)  # see GroupConsumer.close
    consumer.close()


def write(there, count, partition=0, timestamp=0, producer=None):
    sender = producer or Producer(there.properties)
    for number in range(count):
        sender.produce(there.topic, b"v", b"k", partition, timestamp=timestamp + 1_000 * number if timestamp else 0)
    assert sender.flush(30) == 0


def commit(there, offsets):
    there.cluster.commit(there.group, {Source(there.topic, each): offset for each, offset in offsets.items()})


def described(there):
    ended = there.run("groups", "describe", there.group, "--json")
    assert ended.code == 0, ended.stderr
    return ended.json


def standing(there, partition=0):
    it = described(there)["partitions"][partition]
    return it["committed"], it["end"], it["lag"], it["behind_s"]


def listed_lag(there):
    ended = there.run("groups", "list", "--json")
    # 1 when the topic of another test's group has no leader yet.
    assert ended.code in {0, 1}, ended.stderr
    assert ended.stdout.count("\n") == 1
    return next(group["lag"] for group in json.loads(ended.stdout) if group["group"] == there.group)


def test_lag_is_nothing_when_only_markers_and_aborted_records_are_left(there):
    producer = Producer(there.properties | {"transactional.id": f"tx-{uuid4().hex}"})
    producer.init_transactions(30)
    producer.begin_transaction()
    write(there, 3, producer=producer)
    producer.commit_transaction(30)
    commit(there, {0: 3})
    assert standing(there) == (3, 4, 0, 0.0)

    producer.begin_transaction()
    write(there, 2, producer=producer)
    producer.abort_transaction(30)
    assert standing(there) == (3, 7, 0, 0.0)
    assert listed_lag(there) == 0

    producer.begin_transaction()
    write(there, 1, producer=producer)
    assert standing(there) == (3, 7, 0, 0.0), "an open transaction is nothing to read yet"
    producer.commit_transaction(30)
    committed, end, lag, behind_s = standing(there)
    assert (committed, end, lag) == (3, 9, 2)
    assert behind_s >= 0
    assert listed_lag(there) == 2

    ended = there.run("groups", "reset", there.group, "-t", there.topic, "--to", "latest", "--yes", "--json")
    assert ended.code == 0, ended.stderr
    assert standing(there) == (9, 9, 0, 0.0)


def test_seconds_behind_are_the_age_of_the_oldest_record_left(there):
    written_ms = time.time_ns() // 1_000_000 - 3_600_000
    write(there, 2, timestamp=written_ms)
    commit(there, {0: 1})
    assert 3_590 < standing(there)[3] < 3_800
    assert standing(there, 1) == (None, 0, 0, 0.0)


def test_many_partitions_behind_are_each_told_their_oldest_record(there):
    write(there, 3_000, partition=0)
    write(there, 3_000, partition=1)
    commit(there, {0: 1_234, 1: 2_999})
    assert [each["lag"] for each in described(there)["partitions"]] == [1_766, 1]
    assert listed_lag(there) == 1_767


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_group_with_members_is_described_and_not_reset(there, member, protocol):
    write(there, 5)
    blue, other = member(protocol, "blue"), member(protocol)

    def shared():
        blue.poll(0.05)
        other.poll(0.05)
        group = None
        with suppress(BrokerUnavailable):  # the coordinator of a first group is still loading
            group = there.cluster.group(there.group)
        return group is not None and [len(each.assigned) for each in group.members] == [1, 1]

    wait_until(shared, "a partition each")
    blue.commit(offsets=[TopicPartition(there.topic, 0, 2)], asynchronous=False)

    it = described(there)
    assert (it["protocol"], it["lag"]) == (protocol, 3)
    assert {each["instance"] for each in it["members"]} == {"blue", None}
    assert {each["client"] for each in it["members"]} == {"someone"}
    # Loopback, or where the broker is in a container, the address of the bridge.
    [host] = {each["host"] for each in it["members"]}
    assert ip_address(host)
    ids = {each["id"] for each in it["members"]}
    assert {each["member"] for each in it["partitions"]} == ids

    ended = there.run("groups", "reset", there.group, "--topic", there.topic, "--to", "earliest", "--yes")
    assert (ended.code, ended.stdout) == (2, "")
    assert f"blue (client someone, at {host})" in ended.stderr
    assert standing(there)[0] == 2
    with pytest.raises(Refused, match="has members by now"):
        commit(there, {0: 0})
    assert standing(there)[0] == 2


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_group_that_was_reset_reads_again_from_there(there, member, protocol):
    write(there, 5)
    first = member(protocol)
    wait_until(lambda: first.poll(0.1), "a record")
    first.commit(offsets=[TopicPartition(there.topic, 0, 5)], asynchronous=False)
    leave(first)
    wait_until(lambda: not described(there)["members"], "an empty group")
    before = described(there)["partitions"]

    command = ("reset", there.group, "--topic", there.topic, "--to", "3", "--partition", "0")
    planned = there.run("groups", *command)
    assert planned.code == 0, planned.stderr
    assert f"{there.topic}  0  5 → 3" in planned.stdout
    assert "Nothing was changed" in planned.stdout
    assert described(there)["partitions"] == before

    done = there.run("groups", *command, "--yes")
    assert done.code == 0, done.stderr
    assert "committed now: 3" in done.stdout
    assert standing(there)[:3] == (3, 5, 2)

    second = member(protocol)
    message = wait_until(lambda: second.poll(0.1), "a record")
    assert (message.partition(), message.offset()) == (0, 3)


@pytest.mark.parametrize(
    ("to", "offsets"),
    [
        ("earliest", [0, 0]),
        ("latest", [4, 2]),
        ("2", [2, 2]),
        ("2026-01-01T00:00:01Z", [1, 1]),
        ("2026-01-01T01:00:02.5+01:00", [3, 2]),
        ("2000-01-01T00:00:00Z", [0, 0]),
        ("2100-01-01T00:00:00Z", [4, 2]),
    ],
)
def test_reset_goes_to_ends_offsets_and_times(there, to, offsets):
    write(there, 4, partition=0, timestamp=T0_MS)
    write(there, 2, partition=1, timestamp=T0_MS)
    commit(there, {0: 1})
    ended = there.run("groups", "reset", there.group, "--topic", there.topic, "--to", to, "--yes", "--json")
    assert ended.code == 0, ended.stderr
    assert ended.json["done"] is True
    assert [each["committed"] for each in ended.json["partitions"]] == offsets
    assert [each["current"] for each in ended.json["partitions"]] == [1, None]
    assert there.cluster.committed(there.group, there.topic) == dict(enumerate(offsets))


def test_reset_that_cannot_be_is_refused_and_changes_nothing(there):
    write(there, 4, partition=0)
    commit(there, {0: 1})
    for group, topic, to, said in (
        (there.group, there.topic, "4", f"{there.topic} [1] holds 0 to 0"),
        (there.group, there.topic, "99999999999999999999", "beyond the ends"),
        (there.group, there.topic, "2026-01-01T00:00:00", "names no zone"),
        (there.group, there.topic, "yesterday", "is no place in a topic"),
        (there.group, f"no-{there.topic}", "earliest", f"Topic no-{there.topic} is not there"),
        (f"no-{there.group}", there.topic, "earliest", f"There is no consumer group no-{there.group}"),
    ):
        ended = there.run("groups", "reset", group, "--topic", topic, "--to", to, "--yes")
        assert (ended.code, ended.stdout) == (2, ""), said
        assert said in ended.stderr
    assert there.cluster.committed(there.group, there.topic) == {0: 1}
    assert there.cluster.group(f"no-{there.group}") is None
    assert f"no-{there.topic}" not in {source.topic for source in there.cluster.everywhere()}


def test_group_that_is_not_there_is_not_described(there):
    ended = there.run("groups", "describe", there.group)
    assert (ended.code, ended.stdout) == (2, "")
    assert f"There is no consumer group {there.group}" in ended.stderr


def test_absent_broker_is_told_with_exit_code_1(bare_pipe):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = bare_pipe.run("groups", "list", "-b", nobody, "--timeout", "1")
    assert (ended.code, ended.stdout) == (1, "")
    assert f"No Kafka broker answers at {nobody}" in ended.stderr
