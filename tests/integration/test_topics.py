"""`python -m pipeline.topics` and `Cluster` on a real broker."""

import json
import os
import socket
import subprocess
import sys
import uuid

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from pipeline.core.topic_file import Declared
from pipeline.core.topic_plan import Grow
from pipeline.errors import BrokerUnavailable, TopicRefused
from pipeline.kafka.admin import Cluster
from tests.integration.conftest import create, declared, wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def cluster(stack):
    cluster = Cluster({"bootstrap.servers": stack.bootstrap_servers})
    cluster.wait_until_reachable(30)
    return cluster


@pytest.fixture
def name():
    return f"t{uuid.uuid4().hex[:8]}"


@pytest.fixture
def topics(stack, tmp_path, name):
    """Runs the door on a declaration with a topic and its dead letters, 3 partitions each."""
    file = tmp_path / "topics.toml"

    def run(action, *more, replace=("", ""), servers=stack.bootstrap_servers):
        file.write_text(
            f'[[topic]]\nname = "{name}.v1"\npartitions = 3\nretention = "7d"\n'
            f'[[topic]]\nname = "{name}.dlq.v1"\npartitions = 3\n'
            "[topic.configs]\nmax.message.bytes = 3145728\n".replace(*replace)
        )
        command = [sys.executable, "-m", "pipeline.topics", action, "--file", str(file), "-b", servers, *more]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PIPELINE_")}
        return subprocess.run(
            command, capture_output=True, text=True, timeout=90, check=False, cwd=tmp_path, env=environment
        )

    return run


def test_apply_creates_describes_and_a_second_apply_changes_nothing(topics, cluster, name):
    missing = topics("describe")
    assert missing.returncode == 1
    assert f"{name}.v1: not there" in missing.stdout
    assert f"Not there: {name}.v1, {name}.dlq.v1" in missing.stderr

    planned = topics("plan")
    assert planned.returncode == 0
    assert planned.stdout.endswith("2 to create, 0 to grow.\n")
    assert cluster.partitions(f"{name}.v1") is None

    first = topics("apply")
    assert first.returncode == 0, first.stderr
    assert "2 created, 0 grown: every declared topic is as declared." in first.stdout
    assert f"{name}.v1: 3 partitions, replication " in first.stdout
    assert ", retention.ms=604800000 (7d)\n" in first.stdout
    assert first.stdout.count("  partition  leader  replicas  in sync\n  0 ") == 2

    second = topics("apply")
    assert second.returncode == 0
    assert second.stdout.startswith("Nothing changed: every declared topic is as declared.")
    assert topics("describe").returncode == 0


def test_partitions_grow_only_with_grow_and_the_dead_letters_grow_along(topics, cluster, name):
    topics("apply")
    held = topics("apply", "--partitions", "5")
    assert held.returncode == 0
    assert "3 -> 5 partitions: run with --grow" in held.stdout
    assert cluster.partitions(f"{name}.v1") == 3

    grown = topics("apply", "--partitions", "5", "--grow")
    assert grown.returncode == 0
    assert "0 created, 2 grown" in grown.stdout
    assert "the order of a key does not hold" in grown.stderr
    assert cluster.partitions(f"{name}.v1") == cluster.partitions(f"{name}.dlq.v1") == 5

    more = topics("apply", "--json")
    assert more.returncode == 0
    [line] = more.stdout.splitlines()
    assert {drift["what"] for drift in json.loads(line)["plan"]["drift"]} == {"partitions"}


def test_configs_that_differ_are_reported_and_never_altered(topics, cluster, name):
    topics("apply")
    differing = topics("apply", replace=("3145728", "1000000"))
    assert differing.returncode == 0
    assert "max.message.bytes: 3145728, declared: 1000000" in differing.stdout
    assert cluster.topic_configs([f"{name}.dlq.v1"])[f"{name}.dlq.v1"]["max.message.bytes"] == "3145728"


@pytest.mark.parametrize(
    ("more", "replace", "said"),
    [
        (["--replication", "3000"], ("", ""), "Ask for fewer copies"),
        ([], ("max.message.bytes", "max.message.bites"), "max.message.bites"),
        ([], ("3145728", '"three"'), "max.message.bytes"),
        (["--partitions", "0"], ("", ""), "--partitions"),
        ([], ("partitions", "partition"), "did you mean partitions?"),
    ],
)
def test_what_cannot_be_created_is_refused_before_anything_is(topics, cluster, name, more, replace, said):
    refused = topics("apply", *more, replace=replace)
    assert refused.returncode == 2
    assert said in refused.stderr
    assert refused.stdout == ""
    assert cluster.describe_topics([f"{name}.v1", f"{name}.dlq.v1"]) == {}


def test_an_absent_broker_is_given_up_on_with_a_message(topics):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # held but not listened on: nobody answers there
        servers = f"127.0.0.1:{taken.getsockname()[1]}"
        absent = topics("apply", "--timeout", "1", servers=servers)
    assert absent.returncode == 1
    assert f"No Kafka broker answers at {servers} within 1 s" in absent.stderr
    assert "Traceback" not in absent.stderr
    assert len(absent.stderr.splitlines()) == 2


def test_asking_for_a_topic_never_makes_it(cluster, name):
    assert cluster.partitions(name) is None
    assert cluster.describe_topics([name]) == {}
    assert cluster.topic_configs([name]) == {}
    assert cluster.committed("nobody", name) == {}
    with pytest.raises(TopicRefused, match=name):
        cluster.end_offsets(name)
    assert cluster.partitions(name) is None


def test_two_runs_at_once_create_a_topic_once(cluster, name):
    assert cluster.create([Declared(name, 2)]) == [name]
    wait_until(lambda: cluster.partitions(name), "the topic")
    assert cluster.create([Declared(name, 3)]) == []
    assert cluster.partitions(name) == 2
    assert cluster.grow(Grow(name, 2, 4)) is True
    wait_until(lambda: cluster.partitions(name) == 4, "four partitions")
    assert cluster.grow(Grow(name, 2, 4)) is False
    assert cluster.grow(Grow(name, 2, 3)) is False
    with pytest.raises(TopicRefused):
        cluster.grow(Grow(f"{name}-absent", 2, 3))


def test_offsets_commits_and_lag_of_a_group(cluster, stack, name):
    create(cluster, declared(name, 3))
    producer = Producer({"bootstrap.servers": stack.bootstrap_servers})
    for partition, count in ((0, 5), (1, 2)):
        for _ in range(count):
            producer.produce(name, b"x", partition=partition)
    assert producer.flush(30) == 0
    assert cluster.beginning_offsets(name) == {0: 0, 1: 0, 2: 0}
    assert cluster.end_offsets(name) == {0: 5, 1: 2, 2: 0}
    assert cluster.committed(name, name) == {}
    assert cluster.lag(name, name) == {0: 5, 1: 2, 2: 0}

    consumer = Consumer({"bootstrap.servers": stack.bootstrap_servers, "group.id": name})
    consumer.commit(offsets=[TopicPartition(name, 0, 3)], asynchronous=False)
    consumer.close()
    assert cluster.committed(name, name) == {0: 3}
    assert cluster.lag(name, name) == {0: 2, 1: 2, 2: 0}


def test_an_open_transaction_holds_the_end_back(cluster, stack, name):
    create(cluster, declared(name, 1))
    producer = Producer({"bootstrap.servers": stack.bootstrap_servers, "transactional.id": name, "log_level": 2})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(name, b"x", partition=0)
    assert producer.flush(30) == 0
    assert cluster.end_offsets(name) == {0: 0}
    producer.commit_transaction(30)
    # The broker answers the commit before it writes the markers.
    wait_until(lambda: cluster.end_offsets(name)[0] >= 1, "the end moves", timeout_s=30)


def test_a_cluster_that_does_not_answer_is_unavailable():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        absent = Cluster({"bootstrap.servers": f"127.0.0.1:{taken.getsockname()[1]}"})
        with pytest.raises(BrokerUnavailable, match="Connection refused"):
            absent.wait_until_reachable(1)
