"""The groups stage on a cluster in memory."""

import json

import pytest

from pipeline.core.group_plan import NOT_AUTHORISED, UNREADABLE, Group, Member, parse_target
from pipeline.core.offsets import Note
from pipeline.core.ports import Commit
from pipeline.core.record import Record, TopicPartition
from pipeline.errors import BrokerUnavailable, PipelineError, Refused, SettingsRefused, TopicRefused
from pipeline.stages import groups

P0, P1, OTHER = TopicPartition("orders.v1", 0), TopicPartition("orders.v1", 1), TopicPartition("other.v1", 0)
NOW_MS = 100_000
WORKER = Member("w-1", "orders-pipeline", None, "127.0.0.1", (P0, P1))
TWIN = Member("w-2", "orders-pipeline", "blue", "127.0.0.2")


class FakeCluster:
    """Partitions 0 to 10 with a record in `records` at some of the offsets, written at offset seconds."""

    where = "memory:1"

    def __init__(self, *members, committed=None, records=None):
        self.there = Group("workers", "stable" if members else "empty", "classic", "range", members)
        self.commits = {P0: 10} if committed is None else committed
        self.records = records or {}
        self.log = []
        self.written = 10
        self.there_too = []
        self.forgets = False

    def groups(self):
        return [self.there]

    def group(self, name):
        return self.there if name == self.there.name else None

    def everywhere(self):
        return [P0, P1, OTHER, *self.there_too]

    def committed_of(self, group, wanted):
        return {source: offset for source, offset in self.commits.items() if source in wanted}

    def commits_of(self, group, wanted):
        return {
            source: Commit(*self.commits[source])
            if isinstance(self.commits[source], tuple)
            else Commit(self.commits[source])
            for source in wanted
            if source in self.commits
        }

    def high_watermarks(self, sources):
        return dict.fromkeys(sources, self.written)

    def topic_ids(self, names):
        return dict.fromkeys(names, "this")

    def offsets_at(self, sources, at):
        if isinstance(at, str):
            return dict.fromkeys(sources, 2 if at == "earliest" else 10)
        late = {source: [it for it in self.records.get(source, ()) if it * 1_000 >= at] for source in sources}
        return {source: min(late[source], default=-1) for source in sources}

    def oldest_left(self, positions):
        found = {}
        for source, start in positions.items():
            offset = min((it for it in self.records.get(source, ()) if it >= start), default=None)
            found[source] = None if offset is None else Record(*source, offset, None, None, (), offset * 1_000)
        return found

    def commit(self, group, offsets):
        self.log.append((group, dict(offsets)))
        if not self.forgets:
            self.commits |= offsets


def reset(cluster, to, *partitions, topic="orders.v1", group="workers"):
    return groups.plan_reset(cluster, group, topic, parse_target(to), partitions)


def lags(it):
    return {each.source: (each.lag, each.behind_s) for each in it.standings}


def test_group_behind_only_by_markers_has_no_lag():
    cluster = FakeCluster(committed={P0: 7, P1: 9}, records={P0: [2, 6], P1: [8]})
    assert lags(groups.describe(cluster, "workers", NOW_MS)) == {P0: (0, 0.0), P1: (0, 0.0)}


def test_partition_without_a_commit_lags_from_its_oldest_record():
    it = groups.describe(FakeCluster(records={P1: [3]}), "workers", NOW_MS)
    assert lags(it) == {P0: (0, 0.0), P1: (7, 97.0)}
    assert it.lag == 7


def test_commit_that_lies_before_the_oldest_record_counts_from_there():
    it = groups.describe(FakeCluster(committed={P0: 0}, records={P0: [2]}), "workers", NOW_MS)
    assert lags(it)[P0] == (8, 98.0)


def test_topic_that_is_only_assigned_is_described_and_others_are_not():
    it = groups.describe(FakeCluster(WORKER, committed={}), "workers", NOW_MS)
    assert [each.source for each in it.standings] == [P0, P1]


def test_description_names_members_and_what_is_theirs():
    it = groups.describe(FakeCluster(WORKER, TWIN, records={P1: [3]}), "workers", NOW_MS)
    assert groups.described(it).splitlines() == [
        "workers: stable, classic protocol, assignor range, lag 7",
        "",
        "  topic      partition  committed  end  lag  behind  member",
        "  orders.v1  0          10         10   0    0.0 s   w-1",
        "  orders.v1  1          -          10   7    97.0 s  w-1",
        "",
        "  member  client           instance  host       assignment",
        "  w-1     orders-pipeline  -         127.0.0.1  orders.v1 [0 1]",
        "  w-2     orders-pipeline  blue      127.0.0.2  nothing",
    ]
    told = json.loads(json.dumps(groups.values(it)))
    assert told["partitions"][1] == {
        "topic": "orders.v1", "partition": 1, "committed": None, "end": 10, "lag": 7, "behind_s": 97.0, "member": "w-1",
    }  # fmt: skip
    assert told["members"][0]["assigned"][1] == {"topic": "orders.v1", "partition": 1}


def test_group_that_neither_commits_nor_has_members_is_still_described():
    it = groups.describe(FakeCluster(committed={}), "workers", NOW_MS)
    assert groups.described(it) == "workers: empty, classic protocol, assignor range, lag 0\n\nNo members."


def test_list_shows_one_line_a_group():
    found = groups.survey(FakeCluster(WORKER, records={P1: [3]}), NOW_MS)
    assert groups.listed(found).splitlines()[1].split() == ["workers", "stable", "classic", "1", "7"]
    assert groups.summary(found[0])["lag"] == 7
    assert groups.listed([]) == "No consumer groups."


def test_partition_without_a_leader_costs_the_lag_and_not_the_list():
    cluster = FakeCluster()

    def unled(sources, at):
        raise BrokerUnavailable("no leader")

    cluster.offsets_at = unled
    [it] = groups.survey(cluster, NOW_MS)
    assert (it.lag, it.problem) == (None, "no leader")
    assert groups.listed([it]).splitlines()[1].split() == ["workers", "empty", "classic", "0", "-"]


@pytest.mark.parametrize(
    ("to", "new"),
    [
        ("earliest", {P0: 2, P1: 2}),
        ("latest", {P0: 10, P1: 10}),
        ("4", {P0: 4, P1: 4}),
        ("1970-01-01T00:00:04Z", {P0: 5, P1: 10}),
    ],
)
def test_reset_moves_every_partition_and_reads_it_back(to, new):
    cluster = FakeCluster(records={P0: [3, 5], P1: [3]})
    planned = reset(cluster, to)
    assert {move.source: move.new for move in planned.moves} == new
    assert cluster.log == []
    done = groups.act(cluster, planned)
    assert cluster.log == [("workers", new)]
    assert done.committed == new


def test_plan_says_that_nothing_was_changed_and_the_deed_what_is_committed():
    cluster = FakeCluster()
    planned = reset(cluster, "4")
    assert groups.reset_text(planned).splitlines() == [
        "workers would move:",
        "  orders.v1  0  10 → 4",
        "  orders.v1  1  - → 4",
        "Nothing was changed. --yes does it.",
    ]
    assert groups.reset_values(planned)["done"] is False
    done = groups.act(cluster, planned)
    assert "  orders.v1  0  10 → 4  committed now: 4" in groups.reset_text(done)
    assert groups.reset_values(done)["partitions"][0] == {
        "topic": "orders.v1", "partition": 0, "current": 10, "new": 4, "committed": 4,
    }  # fmt: skip


def test_reset_of_one_partition_leaves_the_others():
    cluster = FakeCluster()
    groups.act(cluster, reset(cluster, "earliest", 1))
    assert cluster.commits == {P0: 10, P1: 2}


def test_reset_of_a_group_with_members_is_refused_with_their_names():
    with pytest.raises(Refused, match=r"w-1 \(client orders-pipeline, at 127.0.0.1\); blue \(client"):
        reset(FakeCluster(WORKER, TWIN), "earliest")


@pytest.mark.parametrize(
    ("named", "kind", "words"),
    [
        ({"group": "nobody"}, Refused, "no consumer group nobody at memory:1"),
        ({"topic": "absent.v1"}, TopicRefused, "absent.v1 is not there"),
    ],
)
def test_reset_of_what_is_not_there_is_refused(named, kind, words):
    with pytest.raises(kind, match=words):
        reset(FakeCluster(), "earliest", **named)


@pytest.mark.parametrize("offset", ["1", "11"])
def test_reset_beyond_the_ends_is_refused_before_anything_is_changed(offset):
    cluster = FakeCluster()
    with pytest.raises(Refused, match="beyond the ends"):
        reset(cluster, offset)
    assert cluster.log == []


def test_commit_that_is_not_there_afterwards_is_told():
    cluster = FakeCluster()
    cluster.forgets = True
    with pytest.raises(PipelineError, match=r"orders.v1 \[0\]: 10 instead of 4"):
        groups.act(cluster, reset(cluster, "4"))


class Guarded(FakeCluster):
    """Beside the workers' group one that may not be described, one of another kind, and one whose topics may not be seen."""

    def groups(self):
        hidden, odd = Group("hidden", NOT_AUTHORISED, "-"), Group("odd", UNREADABLE, "-")
        return [hidden, odd, Group("secretive", "stable", "classic"), self.there]

    def commits_of(self, group, wanted):
        assert group not in {"hidden", "odd"}
        if group == "secretive":
            raise SettingsRefused("reading the committed offsets: this user may not use the topic so")
        return super().commits_of(group, wanted)


def test_group_that_may_not_be_seen_says_so_and_the_others_are_listed():
    found = groups.survey(Guarded(WORKER, records={P1: [3]}), NOW_MS)
    assert [line.split(maxsplit=1) for line in groups.listed(found).splitlines()[1:]] == [
        ["hidden", "not authorised  -         -        -"],
        ["odd", "unreadable      -         -        -"],
        ["secretive", "stable          classic   0        not authorised"],
        ["workers", "stable          classic   1        7"],
    ]
    assert [it.problem for it in found] == [None] * 4
    assert [it.denied for it in found] == [True, False, True, False]
    assert [groups.values(it)["lag"] for it in found] == [None, None, None, 7]
    json.dumps([groups.summary(it) for it in found])


def test_committed_offset_beyond_the_end_lags_from_the_oldest_record_and_says_so():
    cluster = FakeCluster(committed={P0: 1000}, records={P0: [2, 6]})
    it = groups.describe(cluster, "workers", NOW_MS)
    assert lags(it)[P0] == (8, 98.0)
    said = "orders.v1 [0]: offset 1000 comes next, but the log holds 2 to 10: the topic was made anew, restored or truncated."
    assert said in groups.described(it)
    told = json.loads(json.dumps(groups.values(it)))["partitions"][0]
    assert (told["finding"], told["beginning"], told["missed"]) == ("beyond_the_end", 2, 0)
    found = groups.survey(cluster, NOW_MS)
    assert f"workers: {said}" in groups.listed(found)
    assert groups.summary(found[0])["remarks"][0].startswith(said)


def test_group_that_reads_open_transactions_is_not_beyond_the_end():
    cluster = FakeCluster(committed={P0: 12}, records={P0: [2]})
    cluster.written = 15
    it = groups.describe(cluster, "workers", NOW_MS)
    assert (lags(it)[P0], it.remarks) == ((0, 0.0), [])


def test_records_that_retention_took_before_the_group_read_them_are_shown():
    it = groups.describe(FakeCluster(committed={P0: 0}, records={P0: [2]}), "workers", NOW_MS)
    assert (
        "orders.v1 [0]: offset 0 comes next, but the log holds 2 to 10. Up to 2 records were deleted"
        in groups.described(it)
    )
    assert groups.values(it)["partitions"][0]["missed"] == 2


def test_group_of_a_topic_that_was_made_anew_and_has_grown_lags_from_its_beginning():
    it = groups.describe(FakeCluster(committed={P0: (8, Note().text(8, "that"))}, records={P0: [4]}), "workers", NOW_MS)
    assert lags(it)[P0] == (6, 96.0)
    assert groups.values(it)["partitions"][0]["finding"] == "another_log"
    same = groups.describe(
        FakeCluster(committed={P0: (8, Note().text(8, "this"))}, records={P0: [4]}), "workers", NOW_MS
    )
    assert (lags(same)[P0], same.remarks) == ((0, 0.0), [])


def test_retry_topic_that_no_member_reads_is_named_with_what_waits_in_it():
    left, read = TopicPartition("orders.v1.workers.retry-10m", 0), TopicPartition("orders.v1.workers.retry-5s", 0)
    member = Member("w-1", "orders-pipeline", None, "127.0.0.1", (P0, read))
    cluster = FakeCluster(member, records={left: [7], read: [8]})
    cluster.there_too = [left, read, TopicPartition("orders.v1.others.retry-5s", 0)]
    it = groups.describe(cluster, "workers", NOW_MS)
    assert {each.source: each.unread for each in it.standings} == {P0: False, P1: False, left: True, read: False}
    assert "orders.v1.workers.retry-10m: nobody reads it, and up to 3 records wait in it." in groups.described(it)
    assert "orders.v1.workers.retry-10m" in groups.listed(groups.survey(cluster, NOW_MS))
    nobody = groups.describe(FakeCluster(committed={P0: 10}), "workers", NOW_MS)
    assert not nobody.remarks, "a group without members reads nothing"
