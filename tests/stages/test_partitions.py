"""Shards: partitions of one number that open together, with what was committed and what lies parked, and close together."""

import pytest

from pipeline.core.offsets import Note
from pipeline.core.ports import Commit
from pipeline.core.record import TopicPartition
from pipeline.errors import BrokerUnavailable, NotTogether
from pipeline.stages.partitions import REJOIN_S, TOGETHER_S, Partitions
from tests.stages.broker import FakeBroker, Member
from tests.stages.fakes import FakeClock

TOPICS = ("orders.v1", "retry-5s", "retry-1m")
P0, F0, S0 = (TopicPartition(topic, 0) for topic in TOPICS)
P1, F1, S1 = (TopicPartition(topic, 1) for topic in TOPICS)


class Deaf:
    """A listener."""

    def assigned(self, partitions: object) -> None: ...

    def given_up(self, partitions: object, lost: bool) -> None: ...

    def displaced(self, partitions: object) -> None: ...

    def committed(self, error: object) -> None: ...


class Bench:
    def __init__(self, *, together: bool = True) -> None:
        self.broker = FakeBroker()
        self.clock = FakeClock()
        self.member = Member(self.broker, Deaf())
        self.partitions = Partitions(TOPICS, self.broker, self.clock, together=together)

    def came(self, *partitions: TopicPartition) -> None:
        self.broker.give(self.member, *partitions)
        self.partitions.came(partitions)

    def open(self) -> set[TopicPartition]:
        return {stream.where for stream in self.partitions.open_what_is_whole(self.member)}


def test_shard_opens_as_a_whole_and_other_partitions_do_not_wait_for_it() -> None:
    bench = Bench()
    bench.came(P0, F0, P1, F1, S1)
    assert bench.open() == {P1, F1, S1}
    assert not bench.partitions.all_open
    bench.came(S0)
    assert bench.open() == {P0, F0, S0}
    assert bench.partitions.all_open
    assert bench.open() == set()
    shards = {stream.shard for stream in bench.partitions.open.values()}
    assert {(shard.partition, shard.closed) for shard in shards} == {(0, False), (1, False)}
    assert [bench.partitions.open[where].tier for where in (P0, F0, S0)] == [0, 1, 2]


def test_shard_opens_at_what_was_committed_and_marks_it_as_being_worked_on() -> None:
    bench = Bench()
    for where in (P0, F0, S0):
        for _ in range(10):
            bench.broker.write(where, b"k", b"")
    bench.broker.commits |= {
        P0: Commit(5, Note(done=((6, 8),)).text(5)),
        F0: Commit(2, Note(done=((3, 9),)).text(1)),
        S0: Commit(4, "words of another program"),
    }
    bench.came(P0, F0, S0)
    bench.open()
    notes = {where: stream.note for where, stream in bench.partitions.open.items()}
    assert notes == {P0: Note(done=((6, 8),)), F0: Note(), S0: Note()}, "beside another offset a note says nothing"
    assert bench.broker.commits == {
        P0: Commit(5, Note(clean=False, done=((6, 8),)).text(5)),
        F0: Commit(2, Note(clean=False).text(2)),
        S0: Commit(4, Note(clean=False).text(4)),
    }
    progress = bench.partitions.open[P0].progress
    assert [progress.deliver(offset) for offset in range(5, 10)] == [True, False, False, True, True]


def test_shard_without_commits_opens_where_its_topics_begin() -> None:
    bench = Bench()
    for where in (P0, S0):
        bench.broker.retain(where, 7)
    bench.broker.commits[F0] = Commit(0, "")
    bench.came(P0, F0, S0)
    bench.open()
    assert {where: commit.offset for where, commit in bench.broker.commits.items()} == {P0: 7, F0: 0, S0: 7}


def test_fence_holds_what_lies_uncommitted_in_the_retry_topics_of_its_own_partition() -> None:
    bench = Bench()
    for key in (b"done", b"a", b"ahead", None, b"b"):
        bench.broker.write(F0, key, b"")
    bench.broker.write(S0, b"c", b"")
    bench.broker.write(F1, b"z", b"")
    bench.broker.write(P0, b"source", b"")
    bench.broker.commits[F0] = Commit(1, Note(clean=False, done=((2, 3),)).text(1))
    bench.came(P0, F0, S0, P1, F1, S1)
    bench.open()
    fence = bench.partitions.open[P0].shard.fence
    keys = (b"done", b"a", b"ahead", b"b", b"c", b"z", b"source")
    assert {key: fence.tier_after(0, key) for key in keys if fence.tier_after(0, key)} == {b"a": 1, b"b": 1, b"c": 2}
    assert bench.partitions.open[P1].shard.fence.tier_after(0, b"z") == 1


def test_without_order_each_partition_opens_alone_and_holds_nothing() -> None:
    bench = Bench(together=False)
    bench.broker.write(F0, b"a", b"")
    bench.came(P0)
    assert bench.open() == {P0}
    bench.came(F0)
    assert bench.open() == {F0}
    assert bench.partitions.open[P0].shard is not bench.partitions.open[F0].shard
    assert not bench.partitions.open[P0].shard.fence
    bench.partitions.close(bench.partitions.touched([F0]))
    assert set(bench.partitions.open) == {P0}


def test_shard_that_stays_in_pieces_is_an_error_only_after_a_while() -> None:
    bench = Bench()
    bench.came(P0, F0)
    bench.clock.now = TOGETHER_S - 1
    assert bench.open() == set()
    bench.came(P1)
    bench.clock.now = TOGETHER_S + 2
    with pytest.raises(NotTogether, match=r"Partition 0 of retry-1m .* partition of orders\.v1,"):
        bench.open()


def test_part_that_goes_closes_its_whole_shard_and_no_other() -> None:
    bench = Bench()
    bench.came(P0, F0, S0, P1, F1, S1)
    bench.open()
    touched = bench.partitions.touched([F0, TopicPartition("other", 0)])
    assert {stream.where for stream in touched} == {P0, F0, S0}
    shard = bench.partitions.open[P0].shard
    bench.partitions.close(touched)
    bench.partitions.went([F0])
    assert (shard.closed, set(bench.partitions.open)) == (True, {P1, F1, S1})
    assert bench.open() == set()


def test_shard_that_comes_back_is_another_one() -> None:
    bench = Bench()
    bench.came(P0, F0, S0)
    bench.open()
    before = bench.partitions.open[P0]
    bench.partitions.close(bench.partitions.touched([P0]))
    bench.partitions.went([P0, F0, S0])
    bench.partitions.came([P0, F0, S0])
    bench.open()
    after = bench.partitions.open[P0]
    assert (before.shard.closed, after.shard.closed, after.shard is before.shard) == (True, False, False)


def test_outage_while_opening_opens_nothing_and_is_tried_again() -> None:
    bench = Bench()
    bench.came(P0, F0, S0)
    bench.member.commit_errors.append(BrokerUnavailable("loading."))
    with pytest.raises(BrokerUnavailable):
        bench.open()
    assert bench.partitions.open == {}
    assert bench.open() == {P0, F0, S0}


def test_positions_behind_what_was_delivered_move_what_may_be_committed() -> None:
    bench = Bench()
    bench.came(P0, F0, S0)
    bench.open()
    progress = bench.partitions.open[P0].progress
    assert bench.partitions.reached({P0: 3, P1: 9}, None)
    assert not bench.partitions.reached({P0: 3}, None)
    progress.deliver(3)
    assert not bench.partitions.reached({P0: 7}, None), "what is open comes first"
    progress.done(3)
    assert progress.committable == 7
    assert bench.partitions.reached({F0: 9}, {F0: 4})
    assert bench.partitions.open[F0].progress.committable == 4, "what was passed over is not done"


def fill(bench: Bench, where: TopicPartition, count: int) -> None:
    for number in range(count):
        bench.broker.write(where, b"k%d" % number, b"")


def test_committed_offset_beyond_the_end_is_read_from_the_beginning_and_committed_there() -> None:
    bench = Bench()
    fill(bench, P0, 10)
    bench.broker.commits[P0] = Commit(1000, Note(done=((1001, 1002),)).text(1000))
    bench.came(P0, F0, S0)
    assert {stream.where for stream in bench.partitions.open_what_is_whole(bench.member, mark=False)} == {P0, F0, S0}
    assert bench.broker.commits == {P0: Commit(0, Note(clean=False).text(0))}, "without a mark, only what was found"
    progress = bench.partitions.open[P0].progress
    assert all(progress.deliver(offset) for offset in range(10))
    assert bench.partitions.findings.summary() == {"read_again": 1}


def test_same_finding_is_said_once_however_often_opening_fails(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    fill(bench, P0, 10)
    bench.broker.retain(P0, 8)
    bench.broker.commits[P0] = Commit(3)
    bench.came(P0, F0, S0)
    for _ in range(3):
        bench.member.commit_errors.append(BrokerUnavailable("loading."))
        with pytest.raises(BrokerUnavailable):
            bench.open()
    bench.open()
    assert bench.partitions.findings.summary() == {"missed": 5}
    assert len(caplog.records) == 1
    assert "orders.v1 [0]: offset 3 comes next, but the log holds 8 to 10. Up to 5 records were deleted" in caplog.text


def test_fence_holds_nothing_of_another_life_of_a_retry_topic() -> None:
    bench = Bench()
    bench.broker.ids_of["retry-5s"] = "second"
    fill(bench, F0, 3)
    bench.broker.commits[F0] = Commit(1, Note(clean=False, done=((2, 3),)).text(1, "first"))
    bench.came(P0, F0, S0)
    bench.open()
    fence = bench.partitions.open[P0].shard.fence
    assert [fence.tier_after(0, key) for key in (b"k0", b"k1", b"k2")] == [1, 1, 1]


def test_topic_made_anew_is_noticed_while_it_is_open_without_being_waited_for() -> None:
    bench = Bench()
    bench.broker.ids_of = dict.fromkeys(TOPICS, "first")
    bench.came(P0, F0, S0)
    bench.open()
    asked: list[object] = []
    bench.broker.topic_ids = asked.append  # type: ignore[method-assign,assignment,return-value]
    for now in (0.0, 9.0, 10.0, 11.0):
        bench.partitions.look_for_topics_made_anew(now)
    assert len(asked) == 2, "not yet answered: asked again in the next turn"
    del bench.broker.topic_ids  # type: ignore[method-assign]
    bench.broker.make_anew("retry-5s", "second")
    bench.partitions.look_for_topics_made_anew(12.0)
    assert bench.partitions.any_displaced
    assert [(stream.where, sure) for stream, sure in bench.partitions.to_reopen(bench.member)] == [(F0, False)]
    assert F0 in bench.member.paused


def test_partition_that_is_new_to_the_source_opens_once_what_goes_with_it_is_there() -> None:
    bench = Bench()
    provided: list[int] = []

    def provide() -> int:
        if not provided:
            provided.append(0)
            raise BrokerUnavailable("no leader yet.")
        provided.append(2)
        return 2

    bench.partitions = Partitions(TOPICS, bench.broker, bench.clock, together=True, provide=provide, provided=1)
    bench.came(P0, F0, S0)
    assert bench.open() == {P0, F0, S0}
    assert provided == []
    bench.came(P1)
    with pytest.raises(BrokerUnavailable):
        bench.open()
    assert bench.open() == set(), "its retry topics are not assigned yet"
    bench.came(F1, S1)
    assert bench.open() == {P1, F1, S1}
    assert provided == [0, 2]


def test_shard_that_stays_in_pieces_has_the_group_assign_anew_once() -> None:
    bench = Bench()
    bench.came(P0, F0)
    assert (bench.open(), bench.member.rejoins) == (set(), 0)
    bench.clock.now += REJOIN_S
    for _ in range(3):
        assert (bench.open(), bench.member.rejoins) == (set(), 1)
    bench.came(S0)
    assert bench.open() == {P0, F0, S0}
    bench.came(P1)
    bench.open()
    bench.clock.now += REJOIN_S
    assert (bench.open(), bench.member.rejoins) == (set(), 2)
