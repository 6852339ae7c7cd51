"""The topics that go with a group's source, on a cluster in memory. On a real one: tests/integration/test_group_topics.py."""

from collections.abc import Mapping, Sequence

import pytest

from pipeline.core.record import TopicPartition
from pipeline.core.retry import HEADERS_BYTES, KEPT_MS, RetryPolicy, tier_configs
from pipeline.core.topic_file import Declared
from pipeline.core.topic_plan import Grow, Partition, Topic
from pipeline.errors import NotAuthorized, NotTogether, SettingsRefused, TopicRefused
from pipeline.stages.group_topics import MESSAGE_BYTES_DEFAULT, GroupTopics

OLD, SHORT = "orders.v1.workers.retry-10m", "orders.v1.workers.retry-5s"


class FakeCluster:
    """Topics as names with a count of partitions and configs."""

    def __init__(self, **counts: int) -> None:
        self.counts = {"orders.v1": 3, "orders.dlq.v1": 3} | counts
        self.configs: dict[str, dict[str, str]] = {"orders.v1": {"max.message.bytes": "1000"}}
        self.altered: list[tuple[str, Mapping[str, str]]] = []
        self.denied = self.hidden = False

    def wait_until_reachable(self, timeout_s: float) -> None: ...

    def everywhere(self) -> list[TopicPartition]:
        return [TopicPartition(name, each) for name, count in self.counts.items() for each in range(count)]

    def partitions(self, topic: str) -> int | None:
        return self.counts.get(topic)

    def topic_configs(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        if self.hidden and names:
            raise NotAuthorized(f"this principal needs DESCRIBE_CONFIGS on Topic {names[0]}")
        return {name: self.configs[name] for name in names}

    def describe_topics(self, names: Sequence[str]) -> dict[str, Topic]:
        return {
            name: Topic(name, tuple(Partition(each, 1, (1,), (1,)) for each in range(self.counts[name])))
            for name in names
        }

    def create(self, topics: Sequence[Declared], *, validate_only: bool = False) -> list[str]:
        self.counts |= {topic.name: topic.partitions for topic in topics}
        self.configs |= {topic.name: dict(topic.configs) for topic in topics}
        return [topic.name for topic in topics]

    def grow(self, topic: Grow, *, validate_only: bool = False) -> bool:
        if self.denied:
            raise SettingsRefused("not allowed")
        self.counts[topic.name] = topic.wanted
        return True

    def alter(self, topic: str, configs: Mapping[str, str]) -> None:
        if self.denied:
            raise SettingsRefused("not allowed")
        self.altered.append((topic, configs))

    def lag(self, group: str, topic: str) -> dict[int, int]:
        return {0: 2, 1: 1} if topic == OLD else {0: 0}


def beside(cluster: FakeCluster, *delays: float) -> GroupTopics:
    return GroupTopics("orders.v1", "workers", "orders.dlq.v1", delays, lambda: cluster)


def test_retry_topic_that_the_tiers_do_not_name_any_more_is_read_and_said(caplog: pytest.LogCaptureFixture) -> None:
    cluster = FakeCluster(**{OLD: 3, "orders.v1.others.retry-2m": 3, "orders.v1.workers.retry-soon": 3})
    it = beside(cluster, 5.0, 60.0)
    tiers = it.tiers()
    assert tiers == {5.0: SHORT, 60.0: "orders.v1.workers.retry-1m", 600.0: OLD}
    assert (
        f"{OLD} is a retry topic of the group that retry.tiers does not name any more: up to 3 records" in caplog.text
    )
    policy = it.policy(RetryPolicy(attempts=1, tiers=(5.0, 60.0)), tiers)
    assert (policy.tiers, policy.closed, policy.open) == ((5.0, 60.0, 600.0), frozenset({3}), 2)
    assert beside(cluster).tiers() == {600.0: OLD}, "no tiers at all: what waits is still tried"


def test_retry_topics_are_made_to_keep_records_longer_than_their_tier() -> None:
    cluster = FakeCluster()
    it = beside(cluster, 5.0, 45 * 86_400.0)
    assert it.provide(it.tiers()) == 3
    kept = {
        name: int(configs["retention.ms"]) for name, configs in cluster.configs.items() if "retention.ms" in configs
    }
    assert kept == {SHORT: KEPT_MS + 5_000, "orders.v1.workers.retry-45d": KEPT_MS + 45 * 86_400_000}


@pytest.mark.parametrize(
    "wrong",
    [
        {"retention.ms": "60000"},
        {"cleanup.policy": "compact,delete"},
        {"retention.bytes": "1000000"},
        {"max.message.bytes": "1000"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_retry_topic_that_could_lose_records_is_set_right_or_refused(wrong: dict[str, str]) -> None:
    cluster = FakeCluster(**{SHORT: 3})
    wanted = tier_configs(5.0, 1000)
    cluster.configs[SHORT] = wanted | wrong
    it = beside(cluster, 5.0)
    it.provide(it.tiers())
    assert cluster.altered == [(SHORT, {name: wanted[name] for name in wrong})]
    cluster.denied = True
    with pytest.raises(TopicRefused, match=f"retry-5s could lose .*--add-config {next(iter(wrong))}="):
        it.provide(it.tiers())


def test_retry_topic_that_keeps_more_than_it_needs_is_left_alone() -> None:
    cluster = FakeCluster(**{SHORT: 3})
    for more in ({"retention.ms": "-1"}, {"retention.ms": str(7 * 86_400_000)}, {"max.message.bytes": "99999999"}):
        cluster.configs[SHORT] = tier_configs(5.0, 1000) | more
        beside(cluster, 5.0).provide({5.0: SHORT})
    assert cluster.altered == []


def test_source_that_grows_takes_its_retry_topics_and_its_dead_letters_along() -> None:
    cluster = FakeCluster(**{SHORT: 3, OLD: 3})
    cluster.configs |= {name: tier_configs(600.0, 1000) for name in (SHORT, OLD)}
    it = beside(cluster, 5.0)
    tiers = it.tiers()
    cluster.counts["orders.v1"] = 5
    assert it.grow_along(tiers) == 5
    assert set(cluster.counts.values()) == {5}
    cluster.counts["orders.v1"], cluster.denied = 6, True
    with pytest.raises(NotTogether, match=r"orders\.v1 has new partitions.*not allowed"):
        it.grow_along(tiers)


def test_consumer_that_may_not_read_configs_goes_on_with_the_default_and_a_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cluster = FakeCluster()
    cluster.hidden = True
    it = beside(cluster, 5.0)
    it.provide(it.tiers())
    assert cluster.configs[SHORT]["max.message.bytes"] == str(MESSAGE_BYTES_DEFAULT + HEADERS_BYTES)
    assert "DESCRIBE_CONFIGS on Topic orders.v1. Going on" in caplog.text
    caplog.clear()
    assert it.provide(it.tiers()) == 3
    assert not caplog.records, "nothing is made any more"


def test_retry_topic_with_more_partitions_than_the_source_is_refused_before_anything_is_made() -> None:
    cluster = FakeCluster(**{OLD: 7})
    it = beside(cluster, 5.0)
    with pytest.raises(TopicRefused, match=r"has 7 partitions, orders\.v1 has 3"):
        it.provide(it.tiers())
    assert SHORT not in cluster.counts
