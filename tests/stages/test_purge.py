"""The purge stage on a cluster in memory. Twins: tests/integration."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from pipeline.core.dead_letter import Letter, Worker
from pipeline.core.failures import Failure, FailureKind
from pipeline.core.purge import Rule
from pipeline.core.record import Record, TopicPartition
from pipeline.core.redrive import LetterId, Mark
from pipeline.errors import BrokerUnavailable, Refused, TopicRefused, Undecodable
from pipeline.stages.letters import LetterReader
from pipeline.stages.purge import Purge, Purged, text, values

REDRIVEN = Rule()
FAILURE = Failure(FailureKind.REJECTED, "Reject", "no")


class FakeCluster:
    def __init__(self) -> None:
        self.policy = "delete"
        self.deleted: list[dict[TopicPartition, int]] = []
        self.away = False

    def topic_configs(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        return {name: {"cleanup.policy": self.policy} for name in names}

    def delete_records(self, up_to: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        if self.away:
            raise BrokerUnavailable("away")
        self.deleted.append(dict(up_to))
        return dict(up_to)


class World:
    """Two partitions: `0` and `1` with a letter at each offset given, which failed as many seconds after 1970."""

    def __init__(self, *offsets: int, redriven: Sequence[int] = (), junk: Sequence[int] = ()) -> None:
        self.cluster = FakeCluster()
        self.records = [
            Record("dlq", 0, n, b"k", b"junk" if n in junk else b"%d" % n, (), 1000 * n)
            for n in sorted({*offsets, *junk})
        ]
        self.marks = {LetterId(0, n): Mark(1000 * n) for n in redriven}

    def decode(self, value: bytes | None) -> dict[str, Any]:
        if value is None or not value.isdigit():
            raise Undecodable("no envelope")
        original = Record("orders.v1", 0, 1, b"A", b"v")
        return Letter(original, FAILURE, Worker("g", "i"), 1000 * int(value)).envelope()

    def stage(self) -> Purge:
        reader = LetterReader(lambda: self.records, self, lambda _: None, lambda: self.marks)
        return Purge("dlq", {0: 10, 1: 0}, reader, self.cluster)

    def purge(self, rule: Rule, *, including_due: bool = False) -> Purged:
        stage = self.stage()
        return stage.act(stage.plan(rule), including_due=including_due)


def before(second: int) -> Rule:
    return Rule(datetime.fromtimestamp(second, UTC))


def test_plan_deletes_nothing_and_says_what_would_go() -> None:
    world = World(1, 2, 4, 5, redriven=[1, 2, 5])
    planned = world.stage().plan(REDRIVEN)
    assert world.cluster.deleted == []
    assert text(planned, including_due=False).splitlines() == [
        "dlq would lose 2 letters, 0 of them due:",
        "  partition  letters  due  up to  stay  oldest of them",
        "  0          2        0    4      2     0:4",
        "  1          0        0    -      0     -",
        "Nothing was changed. --yes does it.",
    ]


def test_redriven_letters_are_deleted_up_to_the_first_that_is_due() -> None:
    world = World(1, 2, 4, 5, redriven=[1, 2, 5])
    done = world.purge(REDRIVEN)
    assert world.cluster.deleted == [{TopicPartition("dlq", 0): 4}]
    assert text(done, including_due=False).splitlines()[::2] == [
        "dlq lost 2 letters, 0 of them due:",
        "  0          2        0    4      2     0:4             begins now: 4",
    ]
    told = json.loads(json.dumps(values(done)))
    assert told | {"partitions": told["partitions"][:1]} == {
        "topic": "dlq", "done": True, "letters": 2, "due": 0,
        "partitions": [
            {"partition": 0, "letters": 2, "due": 0, "up_to": 4, "stay": 2, "oldest": "0:4", "begins": 4},
        ],
    }  # fmt: skip


def test_mark_of_a_topic_that_was_made_anew_lets_nothing_go() -> None:
    world = World(1, redriven=[1])
    world.marks = {LetterId(0, 1): Mark(99_999)}
    assert world.purge(REDRIVEN).letters == 0


def test_due_letters_are_refused_with_their_count_unless_they_are_asked_for() -> None:
    world = World(1, 2, 3, 4, redriven=[2])
    planned = world.stage().plan(before(4))
    assert (planned.letters, planned.due) == (3, 2)
    assert "--including-due --yes deletes them too" in text(planned, including_due=False)
    assert "Nothing was changed. --yes does it." in text(planned, including_due=True)
    with pytest.raises(Refused, match=r"2 of the 3 letters were never redriven.*--including-due"):
        world.purge(before(4))
    assert world.cluster.deleted == []
    world.purge(before(4), including_due=True)
    assert world.cluster.deleted == [{TopicPartition("dlq", 0): 4}]


def test_letters_before_a_time_that_are_all_redriven_need_no_more_words() -> None:
    world = World(1, 2, redriven=[1, 2])
    assert world.purge(before(9)).letters == 2
    assert world.cluster.deleted == [{TopicPartition("dlq", 0): 10}]


def test_what_is_no_letter_goes_by_the_time_of_its_record() -> None:
    world = World(2, junk=[1, 3])
    assert world.purge(before(3), including_due=True).letters == 2
    assert world.purge(before(2), including_due=True).letters == 1


def test_what_is_no_letter_and_has_no_time_of_this_world_stays() -> None:
    world = World(junk=[1])
    for written in (None, 2**62, -(2**62)):
        world.records = [it._replace(timestamp_ms=written) for it in world.records]
        assert world.purge(before(9), including_due=True).letters == 0


def test_nothing_to_purge_is_said_and_asks_for_no_deletion() -> None:
    world = World(1)
    assert text(world.stage().plan(REDRIVEN), including_due=False).endswith("Nothing was changed: no letter may go.")
    assert world.purge(REDRIVEN).begins == {}
    assert world.cluster.deleted == [{}]


def test_topic_that_is_only_compacted_is_refused() -> None:
    world = World(1, redriven=[1])
    world.cluster.policy = "compact"
    with pytest.raises(TopicRefused, match=r"cleanup\.policy=compact"):
        world.stage().plan(REDRIVEN)
    world.cluster.policy = "compact,delete"
    assert world.stage().plan(REDRIVEN).letters == 1


def test_broker_that_goes_away_is_told() -> None:
    world = World(1, redriven=[1])
    world.cluster.away = True
    with pytest.raises(BrokerUnavailable):
        world.purge(REDRIVEN)
