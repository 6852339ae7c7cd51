from pathlib import Path

import pytest

from pipeline.core.topic_file import BROKER_DEFAULT, Declared, override, parse
from pipeline.errors import TopicRefused

TOPICS_TOML = Path(__file__).parents[3] / "schemas" / "topics.toml"
ONE = '[[topic]]\nname = "orders.v1"\npartitions = 6\n'
LETTERS = '[[topic]]\nname = "orders.dlq.v1"\npartitions = 6\n'


def one(more: str) -> Declared:
    return parse(ONE + more, "topics.toml")[0]


def refusal(text: str) -> str:
    with pytest.raises(TopicRefused) as refused:
        parse(text, "some/topics.toml")
    message = str(refused.value)
    assert "some/topics.toml" in message
    return message


def test_the_project_declares_its_topics_and_a_dead_letter_topic_that_any_record_fits_in():
    declared = {topic.name: topic for topic in parse(TOPICS_TOML.read_text("utf-8"), "topics.toml")}
    orders, letters, parked = (declared[name] for name in ("orders.v1", "orders.dlq.v1", "orders.dlq.v1.parked"))
    assert parked.source == letters.name
    assert (orders.partitions, orders.replication) == (6, BROKER_DEFAULT)
    assert (letters.partitions, letters.source) == (6, "orders.v1")
    assert letters.configs["max.message.bytes"] == str(3 * 1024 * 1024)
    assert letters.configs["cleanup.policy"] == "delete"
    assert orders.purpose
    assert letters.purpose


@pytest.mark.parametrize(
    ("retention", "ms"),
    [("90s", 90_000), ("30m", 1_800_000), ("12h", 43_200_000), ("7d", 604_800_000), ("4 w", 2_419_200_000)],
)
def test_a_retention_is_read_in_words(retention, ms):
    assert one(f'retention = "{retention}"').configs == {"retention.ms": str(ms)}


def test_forever_is_kafkas_minus_one():
    assert one('retention = "forever"').configs == {"retention.ms": "-1"}


def test_without_retention_the_brokers_default_stays():
    assert one("").configs == {}


@pytest.mark.parametrize(
    "retention", ['"7"', '"d"', '"7 years"', '"-1d"', '"0d"', "7", "true", '""', '"99999999999999999999w"']
)
def test_a_bad_retention_is_refused_with_an_example(retention):
    message = refusal(f"{ONE}retention = {retention}")
    assert "'orders.v1'" in message
    assert '"7d"' in message


def test_retention_twice_is_refused():
    assert "retention.ms" in refusal(ONE + 'retention = "7d"\n[topic.configs]\n"retention.ms" = 1')


def test_config_names_may_be_quoted_or_not_and_values_are_written_as_kafka_writes_them():
    quoted = one(
        '[topic.configs]\n"cleanup.policy" = "compact"\n"preallocate" = true\n"min.cleanable.dirty.ratio" = 0.1'
    )
    plain = one('[topic.configs]\ncleanup.policy = "compact"\npreallocate = true\nmin.cleanable.dirty.ratio = 0.1')
    expected = {"cleanup.policy": "compact", "preallocate": "true", "min.cleanable.dirty.ratio": "0.1"}
    assert quoted.configs == plain.configs == expected


@pytest.mark.parametrize(
    "configs", ["configs = 3", 'configs = "a=b"', '[topic.configs]\n"cleanup.policy" = ["compact"]']
)
def test_configs_of_another_kind_are_refused(configs):
    refusal(f"{ONE}{configs}")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (ONE + "partition = 7", "partitions"),
        (ONE + 'retntion = "7d"', "retention"),
        ('[[topics]]\nname = "a"', "topic"),
        (ONE + "zzz = 1", "known are name, partitions"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(text, hint):
    message = refusal(text)
    assert "unknown key" in message
    assert hint in message


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "a/b", "ä", "a" * 250, "orders.v1\\n", "__consumer_offsets"])
def test_a_name_that_kafka_would_not_take_is_refused(name):
    refusal(f'[[topic]]\nname = "{name}"\npartitions = 1')


def test_the_longest_name_passes():
    assert parse(f'[[topic]]\nname = "{"a" * 249}"\npartitions = 1', "f")[0].partitions == 1


@pytest.mark.parametrize("partitions", ["0", "-1", "10001", "1.5", '"6"', "true"])
def test_partitions_are_a_whole_number_of_at_least_one(partitions):
    assert "partitions" in refusal(f'[[topic]]\nname = "a"\npartitions = {partitions}')


def test_missing_partitions_and_missing_names_are_refused():
    assert "partitions is missing" in refusal('[[topic]]\nname = "a"')
    assert "no name" in refusal("[[topic]]\npartitions = 1")


@pytest.mark.parametrize("replication", ["0", "-2", "-1.0", "40000", "true", '"3"'])
def test_replication_is_a_count_of_copies_or_the_brokers_default(replication):
    assert "replication" in refusal(f"{ONE}replication = {replication}")


def test_writes_that_could_never_be_acknowledged_are_refused():
    text = '{}replication = {}\n[topic.configs]\n"min.insync.replicas" = 2'
    assert "min.insync.replicas" in refusal(text.format(ONE, 1))
    assert parse(text.format(ONE, 2), "f")
    with pytest.raises(TopicRefused, match=r"min\.insync\.replicas"):
        override(parse(text.format(ONE, 3), "f"), None, 1, "f")


def test_a_topic_declared_twice_is_refused():
    assert "orders.v1" in refusal(ONE + ONE)


def test_two_names_that_are_one_in_kafkas_metrics_are_refused():
    assert "orders_v1" in refusal(ONE + ONE.replace(".", "_"))


def test_a_compacted_dead_letter_topic_is_refused():
    for policy in ("compact", "delete,compact"):
        message = refusal(f'{ONE}{LETTERS}[topic.configs]\n"cleanup.policy" = "{policy}"')
        assert "never compacted" in message


def test_a_dead_letter_topic_is_kept_from_compaction_even_if_the_broker_compacts_by_default():
    assert parse(ONE + LETTERS, "f")[1].configs["cleanup.policy"] == "delete"


def test_a_dead_letter_topic_with_fewer_partitions_than_its_source_is_refused():
    assert "give it 6" in refusal(ONE + LETTERS.replace("6", "5"))
    assert parse(ONE + LETTERS.replace("6", "7"), "f")


def test_a_dead_letter_topic_without_its_source_is_refused():
    assert "'payments.v1'" in refusal(ONE + LETTERS.replace("orders", "payments"))


@pytest.mark.parametrize("text", ["", "topic = 3", "topic = []", "topic = [1]"])
def test_a_file_that_declares_nothing_is_refused(text):
    assert "[[topic]]" in refusal(text)


def test_broken_toml_is_refused_with_its_line():
    assert "line 2" in refusal("[[topic]]\nname = x\n")


def test_flags_override_the_counts_of_every_topic():
    topics = override(parse(ONE + LETTERS, "f"), 12, 3, "f")
    assert [(topic.partitions, topic.replication) for topic in topics] == [(12, 3), (12, 3)]
    assert override(topics, None, None, "f") == topics
    assert override(topics, None, -1, "f")[0].replication == BROKER_DEFAULT


@pytest.mark.parametrize(("partitions", "replication"), [(0, None), (-1, None), (None, 0), (None, -2), (10_001, None)])
def test_flags_out_of_range_are_refused(partitions, replication):
    with pytest.raises(TopicRefused, match="--"):
        override(parse(ONE, "f"), partitions, replication, "f")
