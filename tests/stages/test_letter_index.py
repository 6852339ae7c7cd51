"""The list of letters on topics in memory: what is read once, what leaves, what is marked. Twins: test_dashboard."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from pipeline.core.dead_letter import Letter, Worker
from pipeline.core.failures import Failure, FailureKind
from pipeline.core.record import Record, TopicPartition
from pipeline.core.redrive import REDRIVEN, Selection, letter_id, selection
from pipeline.errors import Refused, RegistryUnavailable, Undecodable
from pipeline.stages.letter_index import Bounds, LetterIndex
from pipeline.stages.letters import LetterReader


class Topics:
    """A dead-letter topic of two partitions and its ledger, and how much was read of them."""

    def __init__(self) -> None:
        self.logs: dict[TopicPartition, list[Record]] = {TopicPartition("dlq", 0): [], TopicPartition("dlq", 1): []}
        self.first: dict[TopicPartition, int] = {}
        self.lives: dict[str, str] = {}
        self.read_records = 0
        self.registry_away = False
        self.index = LetterIndex("dlq", LetterReader(list, self, lambda _: self), self.bounds, self.read, limit=1000)

    def bounds(self, topic: str) -> Bounds:
        offsets = {
            where.partition: (self.first.get(where, 0), len(log))
            for where, log in self.logs.items()
            if where.topic == topic
        }
        return Bounds(offsets, self.lives.get(topic, "first"))

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


def test_topic_that_was_emptied_is_read_again_from_its_beginning(topics: Topics) -> None:
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


def test_topic_that_was_recreated_and_has_grown_beyond_what_was_read_is_read_again(topics: Topics) -> None:
    topics.letter(key="old"), topics.letter(key="old")
    topics.index.refresh()
    topics.logs[TopicPartition("dlq", 0)].clear()
    for _ in range(5):
        topics.letter(key="new")
    topics.lives["dlq"] = "second"
    topics.index.refresh()
    assert [row["key"] for row in topics.index.page(Selection(), "all", 0, 50).rows] == ["new"] * 5


def test_marks_of_a_ledger_that_was_recreated_are_forgotten(topics: Topics) -> None:
    first = topics.letter()
    topics.mark(first)
    topics.index.refresh()
    assert topics.ids() == []
    topics.logs[TopicPartition("dlq.redriven", 0)].clear()
    topics.lives["dlq.redriven"] = "second"
    topics.mark("0:7"), topics.mark("0:8")
    topics.index.refresh()
    assert topics.ids() == [first]
    del topics.logs[TopicPartition("dlq.redriven", 0)]
    topics.index.refresh()
    assert topics.ids() == [first]


@pytest.mark.parametrize(("key", "value"), [(b"x", b"{}"), (b"0:0", None), (b"0:0", b"[]"), (b"0:0", b"{")])
def test_what_is_no_mark_keeps_no_letter_from_being_listed(topics: Topics, key: bytes, value: bytes | None) -> None:
    wanted = topics.letter()
    topics.logs[TopicPartition("dlq.redriven", 0)] = [Record("dlq.redriven", 0, 0, key, value)]
    topics.index.refresh()
    assert topics.ids() == [wanted]


def test_letter_that_breaks_its_decoder_is_an_unreadable_one(topics: Topics) -> None:
    topics.add(b"rejected A not-a-number")
    topics.add(b"\xff")
    wanted = topics.letter()
    topics.index.refresh()
    assert topics.ids() == [wanted, "0:1", "0:0"]
    assert topics.index.stats()["by_reason"] == {"unreadable": 2, "rejected": 1}


def test_long_texts_are_kept_and_sent_cut_and_can_be_filtered_by_all_the_same(topics: Topics) -> None:
    long = "K" * 5000
    topics.letter(key=long + "1"), topics.letter(key=long + "2")
    topics.index.refresh()
    rows = topics.index.page(Selection(), "due", 0, 50).rows
    assert max(len(row["key"]) for row in rows) < 400
    assert topics.ids(selection(key=long + "1")) == ["0:0"]
    assert topics.ids(selection(key=rows[0]["key"])) == ["0:1"]


def test_reasons_and_groups_of_any_length_are_counted_by_their_beginnings(topics: Topics) -> None:
    for number in range(27):
        headers = (
            ("__connect.errors.topic", b"orders.v1"), ("__connect.errors.partition", b"0"),
            ("__connect.errors.offset", b"1"), ("__connect.errors.stage", b"stage-%d" % number * 500),
            ("__connect.errors.connector.name", b"c%d" % number * 500),
        )  # fmt: skip
        topics.add(b"junk")
        log = topics.logs[TopicPartition("dlq", 0)]
        log[-1] = log[-1]._replace(headers=headers)
    topics.index.refresh()
    counted = topics.index.stats()
    for name in ("by_reason", "by_group"):
        assert len(counted[name]) == 27
        assert max(map(len, counted[name])) < 400
