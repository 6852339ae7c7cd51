"""The list of letters on topics in memory: what is read once, what leaves, what is marked. Twins: test_dashboard."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from pipeline.core.dead_letter import Letter, Worker
from pipeline.core.failures import Failure, FailureKind
from pipeline.core.record import Record, TopicPartition
from pipeline.core.redrive import REDRIVEN, Selection, letter_id
from pipeline.errors import Refused, RegistryUnavailable, Undecodable
from pipeline.stages.letter_index import LetterIndex
from pipeline.stages.letters import LetterReader


class Topics:
    """A dead-letter topic of two partitions and its ledger, and how much was read of them."""

    def __init__(self) -> None:
        self.logs: dict[TopicPartition, list[Record]] = {TopicPartition("dlq", 0): [], TopicPartition("dlq", 1): []}
        self.first: dict[TopicPartition, int] = {}
        self.read_records = 0
        self.registry_away = False
        self.index = LetterIndex("dlq", LetterReader(list, self, lambda _: self), self.bounds, self.read, limit=1000)

    def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        return {
            where.partition: (self.first.get(where, 0), len(log))
            for where, log in self.logs.items()
            if where.topic == topic
        }

    def read(self, wanted: Mapping[TopicPartition, tuple[int, int]]) -> Iterator[Record]:
        for where, (start, end) in wanted.items():
            for record in self.logs[where][start:end]:
                self.read_records += 1
                yield record

    def decode(self, value: bytes | None) -> dict[str, Any]:
        if self.registry_away:
            raise RegistryUnavailable("away")
        if value is None or value == b"junk":
            raise Undecodable("no envelope")
        if value == b"v":
            return {"order_id": "A"}
        kind, key, at = value.decode().split()
        failure = Failure(FailureKind(kind), "Reject", f"{kind} it was")
        return Letter(Record("orders.v1", 0, 7, key.encode(), b"v"), failure, Worker("g", "i"), int(at)).envelope()

    def add(self, value: bytes, key: str = "A", partition: int = 0) -> str:
        where = TopicPartition("dlq", partition)
        offset = len(self.logs[where])
        self.logs[where].append(Record("dlq", partition, offset, key.encode(), value, (), 1000 + offset))
        return f"{partition}:{offset}"

    def letter(self, kind: str = "rejected", key: str = "A", partition: int = 0) -> str:
        return self.add(f"{kind} {key} 5000".encode(), key, partition)

    def mark(self, letter: str) -> None:
        log = self.logs.setdefault(TopicPartition("dlq" + REDRIVEN, 0), [])
        stamp = 1000 + int(letter.partition(":")[2])
        log.append(
            Record("dlq" + REDRIVEN, 0, len(log), letter.encode(), json.dumps({"timestamp_ms": stamp}).encode(), (), 1)
        )

    def ids(self, selection: Selection | None = None, state: str = "due", **page: int) -> list[str]:
        found = self.index.page(selection or Selection(), state, page.get("offset", 0), page.get("limit", 50))
        return [row["id"] for row in found.rows]


@pytest.fixture
def topics() -> Topics:
    return Topics()


def test_letters_are_read_once_and_listed_newest_first(topics: Topics) -> None:
    topics.letter(), topics.letter()
    topics.index.refresh()
    topics.letter(partition=1)
    topics.index.refresh()
    topics.index.refresh()
    assert topics.ids() == ["0:1", "1:0", "0:0"]
    assert topics.read_records == 3


def test_page_is_cut_out_of_the_whole(topics: Topics) -> None:
    for _ in range(120):
        topics.letter()
    topics.index.refresh()
    assert topics.ids(offset=50, limit=2) == ["0:69", "0:68"]
    assert topics.index.page(Selection(), "due", 100, 50).total == 120


def test_filters_are_those_of_the_commands(topics: Topics) -> None:
    topics.letter("invalid", "A"), topics.letter("rejected", "B"), topics.add(b"junk", "C")
    topics.index.refresh()
    assert topics.ids(Selection(reason="invalid")) == ["0:0"]
    assert topics.ids(Selection(key="B")) == ["0:1"]
    assert topics.ids(Selection(reason="unreadable")) == ["0:2"]
    assert topics.index.stats()["by_reason"] == {"invalid": 1, "rejected": 1, "unreadable": 1}


def test_redriven_letter_leaves_those_that_are_due(topics: Topics) -> None:
    first, second = topics.letter(), topics.letter()
    topics.index.refresh()
    topics.mark(first)
    everyone = [letter_id(each) for each in (first, second, "7:7")]
    assert topics.index.due(everyone) == 2, "not read yet"
    topics.index.refresh()
    assert topics.index.due(everyone) == 1
    assert (topics.ids(), topics.ids(state="redriven"), len(topics.ids(state="all"))) == ([second], [first], 2)
    assert topics.index.stats()["redriven"] == 1
    assert topics.index.show(first)["state"] == "redriven"


def test_letters_that_were_purged_leave_the_list(topics: Topics) -> None:
    topics.letter(), topics.letter()
    topics.index.refresh()
    topics.first[TopicPartition("dlq", 0)] = 1
    topics.index.refresh()
    assert topics.ids() == ["0:1"]
    with pytest.raises(Refused):
        topics.index.show("0:0")


def test_topic_that_was_made_anew_is_read_anew(topics: Topics) -> None:
    topics.letter(key="old"), topics.letter(key="old")
    topics.index.refresh()
    topics.logs[TopicPartition("dlq", 0)].clear()
    topics.letter(key="new")
    topics.index.refresh()
    assert [row["key"] for row in topics.index.page(Selection(), "all", 0, 50).rows] == ["new"]


def test_outage_while_reading_loses_no_letter(topics: Topics) -> None:
    topics.letter()
    topics.registry_away = True
    with pytest.raises(RegistryUnavailable):
        topics.index.refresh()
    topics.registry_away = False
    topics.index.refresh()
    assert topics.ids() == ["0:0"]


def test_only_the_newest_are_kept(topics: Topics) -> None:
    for _ in range(1500):
        topics.letter()
    topics.index.refresh()
    assert topics.index.page(Selection(), "all", 0, 1).total == 1000
    assert topics.read_records == 1000
    assert topics.ids(limit=1) == ["0:1499"]


def test_letter_in_full_is_read_again_alone(topics: Topics) -> None:
    for _ in range(100):
        wanted = topics.letter()
    topics.index.refresh()
    before = topics.read_records
    assert topics.index.show(wanted)["value"] == {"order_id": "A"}
    assert topics.read_records == before + 1
    for absent in ("0:100", "7:0"):
        with pytest.raises(Refused):
            topics.index.show(absent)
