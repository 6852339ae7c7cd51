import pytest

from pipeline.core.topic_file import Declared
from pipeline.core.topic_plan import Drift, Grow, Partition, Plan, Topic, plan

ORDERS = Declared("orders.v1", 6)
LETTERS = Declared("orders.dlq.v1", 6, configs={"cleanup.policy": "delete"})


def there(name, partitions, *, replicas=(1,), configs=None, overrides=()):
    parts = tuple(Partition(each, replicas[0], tuple(replicas), tuple(replicas)) for each in range(partitions))
    defaults = {"cleanup.policy": "delete", "retention.ms": "604800000"}
    return Topic(name, parts, defaults | (configs or {}), frozenset(overrides))


def as_made(topic):
    return there(topic.name, topic.partitions, configs=dict(topic.configs), overrides=topic.configs)


def planned(declared, *actual, grow=False):
    return plan(declared, {topic.name: topic for topic in actual}, grow=grow)


def test_everything_absent_is_created_in_the_order_of_the_file():
    assert planned([ORDERS, LETTERS]) == Plan(create=(ORDERS, LETTERS))


def test_a_second_apply_finds_nothing_to_do():
    assert planned([ORDERS, LETTERS], as_made(ORDERS), as_made(LETTERS)) == Plan(
        unchanged=("orders.v1", "orders.dlq.v1")
    )


def test_too_few_partitions_grow_only_when_allowed():
    step = Grow("orders.v1", 3, 6)
    assert planned([ORDERS], there("orders.v1", 3)) == Plan(held_back=(step,))
    assert planned([ORDERS], there("orders.v1", 3), grow=True) == Plan(grow=(step,))


def test_more_partitions_than_declared_are_drift_and_stay():
    [drift] = planned([ORDERS], there("orders.v1", 8), grow=True).drift
    assert (drift.what, drift.actual, drift.declared) == ("partitions", "8", "6")
    assert "never shrinks" in drift.fix


def test_the_dead_letter_topic_grows_along_and_first():
    found = planned(
        [ORDERS, LETTERS], there("orders.v1", 3), there("orders.dlq.v1", 3, overrides=["cleanup.policy"]), grow=True
    )
    assert found.grow == (Grow("orders.dlq.v1", 3, 6), Grow("orders.v1", 3, 6))


def test_the_dead_letter_topic_has_room_for_a_source_that_has_more_than_declared():
    wide = there("orders.v1", 12)
    assert planned([ORDERS, LETTERS], wide).create[0].partitions == 12
    narrow = there("orders.dlq.v1", 6, overrides=["cleanup.policy"])
    assert planned([ORDERS, LETTERS], wide, narrow).held_back == (Grow("orders.dlq.v1", 6, 12),)
    assert planned([ORDERS, LETTERS], wide, narrow, grow=True).grow == (Grow("orders.dlq.v1", 6, 12),)


def test_the_dead_letter_topic_need_not_grow_for_a_source_that_does_not():
    held = planned([ORDERS, LETTERS], there("orders.v1", 3), there("orders.dlq.v1", 6, overrides=["cleanup.policy"]))
    assert held.held_back == (Grow("orders.v1", 3, 6),)
    assert held.unchanged == ("orders.dlq.v1",)


def test_replication_differs_only_where_it_was_declared():
    three = there("orders.v1", 6, replicas=(1, 2, 3))
    assert planned([ORDERS], three).drift == ()
    [drift] = planned([Declared("orders.v1", 6, replication=2)], three).drift
    assert (drift.what, drift.actual, drift.declared) == ("replication", "3", "2")


def test_replication_is_that_of_the_least_replicated_partition():
    parts = (Partition(0, 1, (1, 2), (1, 2)), Partition(1, 1, (1,), (1,)))
    assert Topic("t", parts).replication == 1


def test_a_config_that_differs_is_drift_with_the_command_that_settles_it():
    wanted = Declared("orders.v1", 6, configs={"retention.ms": "-1"})
    assert planned([wanted], there("orders.v1", 6)).drift == (
        Drift(
            "orders.v1",
            "retention.ms",
            "604800000",
            "-1",
            "kafka-configs --alter --entity-type topics --entity-name orders.v1 --add-config retention.ms=-1",
        ),
    )


def test_a_list_is_the_same_in_any_order_and_bracketed_in_the_command():
    wanted = Declared("a", 1, configs={"cleanup.policy": "compact,delete"})
    assert planned([wanted], there("a", 1, configs={"cleanup.policy": "delete, compact"})).drift == ()
    [drift] = planned([wanted], there("a", 1)).drift
    assert drift.fix.endswith("--add-config cleanup.policy=[compact,delete]")


def test_a_config_set_on_the_topic_but_not_declared_is_drift():
    [drift] = planned(
        [ORDERS], there("orders.v1", 6, configs={"retention.bytes": "1000"}, overrides=["retention.bytes"])
    ).drift
    assert (drift.what, drift.actual, drift.declared) == ("retention.bytes", "1000", "not declared")
    assert "--delete-config retention.bytes" in drift.fix


def test_a_config_that_the_broker_does_not_know_is_drift():
    [drift] = planned([Declared("a", 1, configs={"retention.mss": "1"})], there("a", 1)).drift
    assert drift.actual == "unknown to this broker"


def test_a_topic_that_would_grow_and_differs_is_told_in_both_ways():
    wanted = Declared("orders.v1", 6, configs={"retention.ms": "-1"})
    found = planned([wanted], there("orders.v1", 3))
    assert found.held_back
    assert found.drift
    assert found.unchanged == ()


@pytest.mark.parametrize(("in_sync", "expected"), [((1, 2), False), ((1,), True), ((), True)])
def test_a_partition_is_under_replicated_while_a_replica_is_not_in_sync(in_sync, expected):
    assert Partition(0, 1, (1, 2), in_sync).under_replicated is expected


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("orders.dlq.v1", "orders.v1"),
        ("dlq.orders", "orders"),
        ("orders.dlq", "orders"),
        ("orders.v1", None),
        ("dlqs.v1", None),
    ],
)
def test_a_dead_letter_topic_is_known_by_its_name(name, source):
    assert Declared(name, 1).source == source
