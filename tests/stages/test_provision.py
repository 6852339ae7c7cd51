import json
from dataclasses import replace

import pytest

from pipeline.core.topic_file import Declared
from pipeline.core.topic_plan import Grow, Partition, Topic
from pipeline.errors import BrokerUnavailable, SettingsRefused, TopicRefused
from pipeline.stages import topic_report
from pipeline.stages.provision import KEYS_MOVE, apply, read, survey

ORDERS = Declared("orders.v1", 2, configs={"retention.ms": "-1"})
LETTERS = Declared("orders.dlq.v1", 2, configs={"cleanup.policy": "delete"})
DEFAULTS = {"cleanup.policy": "delete", "retention.ms": "604800000"}


class FakeCluster:
    """Topics in a dictionary; `elected` is how many descriptions it takes until new partitions have a leader."""

    def __init__(self, *topics, elected=0, refuses=None, rival=None):
        self.topics = {topic.name: topic for topic in topics}
        self.elected, self.refuses, self.rival = elected, refuses, rival
        self.log = []

    def describe_topics(self, names):
        if self.log:
            self.elected -= 1
        return {name: self._led(self.topics[name]) for name in names if name in self.topics}

    def create(self, topics, *, validate_only=False):
        for topic in topics:
            if topic.name == self.refuses:
                raise TopicRefused(f"creating topic {topic.name}: the broker refuses it")
        if validate_only:
            return [topic.name for topic in topics]
        for topic in self.rival or ():
            self.topics[topic.name] = made(topic)
        new = [topic for topic in topics if topic.name not in self.topics]
        self.topics |= {topic.name: made(topic) for topic in new}
        self.log += [f"create {topic.name}" for topic in new]
        return [topic.name for topic in new]

    def grow(self, topic, *, validate_only=False):
        if validate_only:
            return True
        self.log.append(f"grow {topic.name}")
        there = self.topics[topic.name]
        self.topics[topic.name] = replace(there, partitions=partitions(topic.wanted))
        return True

    def _led(self, topic):
        if self.elected <= 0:
            return topic
        return replace(topic, partitions=(*topic.partitions[:-1], replace(topic.partitions[-1], leader=None)))


def partitions(count):
    return tuple(Partition(each, 1, (1,), (1,)) for each in range(count))


def made(topic):
    return Topic(topic.name, partitions(topic.partitions), DEFAULTS | dict(topic.configs), frozenset(topic.configs))


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def provision(cluster, *declared, grow=False):
    clock, said = Clock(), []
    outcome = apply(cluster, declared, grow=grow, timeout_s=30, say=said.append, clock=clock, sleep=clock.sleep)
    return outcome, said


def test_what_is_missing_is_created_and_described():
    cluster = FakeCluster()
    outcome, said = provision(cluster, ORDERS, LETTERS)
    assert cluster.log == ["create orders.v1", "create orders.dlq.v1"]
    assert outcome.created == ("orders.v1", "orders.dlq.v1")
    assert outcome.left.unchanged == ("orders.v1", "orders.dlq.v1")
    assert outcome.missing == ()
    assert said == []


def test_a_second_apply_changes_nothing_and_says_so():
    cluster = FakeCluster(made(ORDERS), made(LETTERS))
    outcome, _ = provision(cluster, ORDERS, LETTERS, grow=True)
    assert cluster.log == []
    assert topic_report.applied(outcome).startswith("Nothing changed: every declared topic is as declared.")


def test_a_refusal_comes_before_anything_is_created():
    cluster = FakeCluster(refuses="orders.dlq.v1")
    with pytest.raises(TopicRefused):
        provision(cluster, ORDERS, LETTERS)
    assert cluster.log == []


def test_another_run_that_was_quicker_does_no_harm():
    cluster = FakeCluster(rival=[replace(ORDERS, partitions=1)])
    outcome, _ = provision(cluster, ORDERS, LETTERS)
    assert outcome.created == ("orders.dlq.v1",)
    assert outcome.left.held_back == (Grow("orders.v1", 1, 2),)


def test_growing_warns_about_keys_and_begins_with_the_dead_letters():
    cluster = FakeCluster(made(ORDERS), made(LETTERS))
    outcome, said = provision(cluster, replace(ORDERS, partitions=4), replace(LETTERS, partitions=4), grow=True)
    assert cluster.log == ["grow orders.dlq.v1", "grow orders.v1"]
    assert [step.name for step in outcome.grown] == ["orders.dlq.v1", "orders.v1"]
    assert [KEYS_MOVE in line for line in said] == [True]


def test_growing_is_told_but_not_done_unless_allowed():
    cluster = FakeCluster(made(ORDERS))
    outcome, _ = provision(cluster, replace(ORDERS, partitions=4))
    assert cluster.log == []
    assert outcome.left.held_back == (Grow("orders.v1", 2, 4),)
    assert "run with --grow" in topic_report.applied(outcome)


def test_drift_is_reported_and_left_alone():
    cluster = FakeCluster(made(replace(ORDERS, configs={"retention.ms": "3600000"})))
    outcome, _ = provision(cluster, ORDERS)
    text = topic_report.applied(outcome)
    assert cluster.log == []
    assert "retention.ms: 3600000 (1h), declared: -1 (forever)" in text
    assert "kafka-configs --alter" in text
    assert "1 differing, left alone" in text


def test_apply_returns_only_when_every_partition_has_a_leader():
    cluster = FakeCluster(elected=5)
    outcome, _ = provision(cluster, ORDERS)
    assert all(partition.leader == 1 for partition in outcome.topics["orders.v1"].partitions)


def test_a_partition_that_gets_no_leader_is_named_when_time_is_up():
    with pytest.raises(BrokerUnavailable, match=r"orders\.v1 \[1\]"):
        provision(FakeCluster(elected=1_000_000), ORDERS)


def test_a_plan_changes_nothing():
    cluster = FakeCluster()
    text = topic_report.planned(survey(cluster, [ORDERS, LETTERS], grow=True))
    assert cluster.log == []
    assert cluster.topics == {}
    assert "+ create  orders.v1      2 partitions, the broker's replication, retention.ms=-1 (forever)" in text
    assert text.endswith("2 to create, 0 to grow.")


def test_a_plan_with_nothing_to_do_lists_what_is_unchanged():
    text = topic_report.planned(survey(FakeCluster(made(ORDERS)), [ORDERS]))
    assert text == "= unchanged  orders.v1\nNothing to create or grow: every declared topic is as declared."


def test_the_description_marks_what_is_wrong_with_a_partition_and_says_what_is_absent():
    parts = (
        Partition(0, 1, (1, 2, 3), (1, 2, 3)),
        Partition(1, 2, (1, 2, 3), (2,)),
        Partition(2, None, (3,), ()),
    )
    cluster = FakeCluster(Topic("orders.v1", parts, DEFAULTS))
    lines = topic_report.described(survey(cluster, [ORDERS, LETTERS])).splitlines()
    assert lines == [
        "orders.v1: 3 partitions, replication 1",
        "  partition  leader  replicas  in sync",
        "  0          1       1,2,3     1,2,3",
        "  1          2       1,2,3     2        <- under-replicated",
        "  2          none    3                  <- no leader: can be neither read nor written",
        "",
        "orders.dlq.v1: not there",
    ]


def test_the_values_for_json_carry_all_of_it():
    outcome, _ = provision(FakeCluster(made(replace(ORDERS, partitions=1))), ORDERS, LETTERS)
    told = json.loads(json.dumps(topic_report.values(outcome)))
    assert told["created"] == ["orders.dlq.v1"]
    assert told["plan"]["held_back"] == [{"name": "orders.v1", "now": 1, "wanted": 2}]
    assert told["missing"] == []
    assert [topic["name"] for topic in told["topics"]] == ["orders.v1", "orders.dlq.v1"]
    assert told["topics"][0]["configs"] == {"retention.ms": "-1"}
    assert told["topics"][0]["partitions"] == [
        {"id": 0, "leader": 1, "replicas": [1], "in_sync": [1], "under_replicated": False}
    ]


def test_the_topics_of_a_file_are_read_with_the_counts_of_the_command_instead(tmp_path):
    path = tmp_path / "topics.toml"
    path.write_text('[[topic]]\nname = "a.v1"\npartitions = 3\n')
    assert read(path) == (Declared("a.v1", 3),)
    assert read(path, partitions=12, replication=2) == (Declared("a.v1", 12, replication=2),)


def test_an_absent_or_unreadable_file_is_refused_by_its_name(tmp_path):
    broken = tmp_path / "broken.toml"
    broken.write_bytes(b"\xff\xfe")
    for path in (tmp_path / "none.toml", tmp_path, broken):
        with pytest.raises(SettingsRefused, match=str(path)):
            read(path)


def test_a_refused_declaration_names_its_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[[topic]]\n")
    with pytest.raises(TopicRefused, match=str(path)):
        read(path)
