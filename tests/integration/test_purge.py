"""`python -m pipeline.deadletters purge` on a real broker: what is gone, what stays, and that a redrive goes on after it."""

from typing import Any

import pytest
from confluent_kafka import Producer

from pipeline.core.record import TopicPartition
from pipeline.core.redrive import GROUP
from pipeline.errors import PipelineError
from tests.integration.conftest import Ended, Pipe, create, declared, order
from tests.integration.test_redrive import done, give_up, redrive, refused, stats, wait_until_sent

pytestmark = pytest.mark.integration

EVER = ("--before", "2100-01-01T00:00:00Z")


def purge(pipe: Pipe, *arguments: str) -> Ended:
    return pipe.run("deadletters", "purge", "--json", *arguments)


def purged(pipe: Pipe, *arguments: str) -> dict[str, Any]:
    ended = purge(pipe, *arguments)
    assert ended.code == 0, ended.stderr
    assert ended.stdout.count("\n") == 1
    return ended.json


def keys(pipe: Pipe) -> set[bytes | None]:
    return {record.key for record in pipe.records(pipe.dead_letter_topic)}


@pytest.fixture
def narrow(bare_pipe: Pipe) -> Pipe:
    """A pipeline of one partition, where letters lie in one row."""
    bare_pipe.partitions = 1
    bare_pipe.create_topics()
    bare_pipe.register_schemas()
    return bare_pipe


def test_redriven_letters_go_the_rest_stays_and_is_redriven(pipe: Pipe) -> None:
    give_up(pipe, *refused(20))
    assert done(pipe, "--all")["redriven"] == 20
    # The rule is the same, so the redriven ones are given up again, as new letters.
    give_up(pipe)
    before = keys(pipe)
    assert stats(pipe) == (20, 20)

    planned = purged(pipe, "--redriven")
    assert (planned["done"], planned["letters"], planned["due"]) == (False, 20, 0)
    assert purged(pipe, "--redriven", "--dry-run", "--yes") == planned
    assert len(pipe.records(pipe.dead_letter_topic)) == 40

    ended = pipe.run("deadletters", "purge", "--redriven", "--yes")
    assert ended.code == 0, ended.stderr
    assert ended.stdout.startswith(f"{pipe.dead_letter_topic} lost 20 letters, 0 of them due:\n")
    left = pipe.records(pipe.dead_letter_topic)
    assert (len(left), {record.key for record in left}) == (20, before)
    assert pipe.cluster.beginning_offsets(pipe.dead_letter_topic) == {
        each["partition"]: each["up_to"] or 0 for each in planned["partitions"]
    }
    assert stats(pipe) == (20, 0)
    assert purged(pipe, "--redriven", "--yes")["letters"] == 0

    assert done(pipe, "--all") == {"selected": 20, "redriven": 20, "skipped": 0, "parked": 0}
    assert stats(pipe) == (0, 20)
    last = purged(pipe, "--redriven", "--yes")
    assert (last["done"], last["letters"]) == (True, 20)
    assert all(each["begins"] == each["up_to"] for each in last["partitions"])
    assert stats(pipe) == (0, 0)
    assert sum(pipe.cluster.lag(pipe.dead_letter_topic + GROUP, pipe.dead_letter_topic).values()) == 0


def test_letter_that_is_due_holds_those_behind_it_until_it_is_asked_for_too(narrow: Pipe) -> None:
    give_up(narrow, *refused(5))
    assert done(narrow, "0:0", "0:1", "0:3")["redriven"] == 3
    [cut] = purged(narrow, "--redriven", "--yes")["partitions"]
    assert cut == {"partition": 0, "letters": 2, "due": 0, "up_to": 2, "stay": 3, "oldest": "0:2", "begins": 2}
    rows = narrow.run("deadletters", "list", "--json", "--all-letters").json
    assert [(row["id"], row["state"]) for row in rows] == [("0:2", "due"), ("0:3", "redriven"), ("0:4", "due")]

    planned = narrow.run("deadletters", "purge", *EVER)
    assert planned.code == 0, planned.stderr
    assert "would lose 3 letters, 2 of them due" in planned.stdout
    assert "--including-due" in planned.stdout
    assert purged(narrow, "--before", rows[0]["failed_at"], "--yes")["letters"] == 0
    refusal = purge(narrow, *EVER, "--yes")
    assert (refusal.code, refusal.stdout) == (2, "")
    assert "2 of the 3 letters were never redriven" in refusal.stderr
    assert len(keys(narrow)) == 3

    gone = purged(narrow, *EVER, "--including-due", "--yes")
    assert (gone["done"], gone["letters"], gone["due"]) == (True, 3, 2)
    assert keys(narrow) == set()
    assert stats(narrow) == (0, 0)
    assert done(narrow, "--all")["selected"] == 0
    absent = redrive(narrow, "0:2")
    assert (absent.code, "There is no letter 0:2" in absent.stderr) == (2, True)


def test_letters_purged_under_a_running_redrive_are_left_by_it(narrow: Pipe) -> None:
    give_up(narrow, *refused(60))
    running = narrow.start("deadletters", "redrive", "--all", "--to-source", "--rate", "10", "--batch", "5", "--json")
    wait_until_sent(narrow, running)
    assert purged(narrow, *EVER, "--including-due", "--yes")["letters"] == 60
    give_up(narrow, order(99, amount="-1"))
    ended = running.ended()
    # What the redrive had read before the purge it still sends.
    assert ended.code in {0, 3}, ended.stderr
    assert ended.json["redriven"] + ended.json["skipped"] == 60
    assert narrow.run("deadletters", "list", "--json", "--key", "A-99").json


def test_purge_without_exactly_one_selection_is_refused_before_anything(bare_pipe: Pipe) -> None:
    for arguments in ([], ["--redriven", *EVER], ["--redriven", "--including-due"], ["--before", "2026-01-01"]):
        ended = purge(bare_pipe, *arguments, "--yes")
        assert (ended.code, ended.stdout) == (2, ""), arguments
        assert "Traceback" not in ended.stderr
    ended = purge(bare_pipe, "--redriven", "--yes")
    assert (ended.code, "is not there" in ended.stderr) == (2, True)


def test_broker_says_why_it_does_not_delete_and_what_is_done_is_told(bare_pipe: Pipe) -> None:
    compacted = f"{bare_pipe.topic}.compacted"
    create(bare_pipe.cluster, declared(bare_pipe.topic, 2), declared(compacted, 1, {"cleanup.policy": "compact"}))
    producer = Producer(bare_pipe.properties)
    for _ in range(3):
        producer.produce(bare_pipe.topic, b"v", b"k", 0)
    assert producer.flush(30) == 0
    producer.close()
    good, beyond = TopicPartition(bare_pipe.topic, 0), TopicPartition(bare_pipe.topic, 1)
    assert bare_pipe.cluster.delete_records({}) == {}
    assert bare_pipe.cluster.delete_records({good: 1}) == {good: 1}
    with pytest.raises(PipelineError, match=r"OFFSET_OUT_OF_RANGE.*Deleted already: \[0\] up to 2"):
        bare_pipe.cluster.delete_records({good: 2, beyond: 7})
    assert bare_pipe.cluster.beginning_offsets(bare_pipe.topic) == {0: 2, 1: 0}
    with pytest.raises(PipelineError, match="POLICY_VIOLATION"):
        bare_pipe.cluster.delete_records({TopicPartition(compacted, 0): 0})
    with pytest.raises(PipelineError, match="No leaders found"):
        bare_pipe.cluster.delete_records({TopicPartition(f"no-{bare_pipe.topic}", 0): 0})
