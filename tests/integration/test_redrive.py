"""`python -m pipeline.deadletters redrive` on a real broker: every letter once, whatever happens meanwhile."""

import base64
import json
import random
import sqlite3
from collections import Counter
from typing import Any

import pytest
from confluent_kafka import Producer

from pipeline.core.redrive import GROUP, PARKED, REDRIVEN
from pipeline.core.retry import topic_name
from tests.integration.conftest import ORDERS_FILE, Ended, Pipe, Process, create, declared, order, wait_until

pytestmark = pytest.mark.integration

REFUNDS = """
from pipeline.core.record import Record

def refunds(event: dict, record: Record) -> None:
    with open("refunds.txt", "a") as file:
        file.write(event["order_id"] + "\\n")
"""


STORE_ALL = """
import os
from pipeline.core.record import Record
from pipeline.orders import OrderPlaced
from pipeline.sinks.sql import OrderStore

store = OrderStore(os.environ["PIPELINE_STORE__URL"])

def refunds(batch: list[tuple[OrderPlaced, Record]]) -> None:
    store.upsert(batch)
"""


def retry_topic(pipe: Pipe) -> str:
    return topic_name(pipe.topic, pipe.group, 5)


def give_up(pipe: Pipe, *orders: dict[str, Any]) -> None:
    """Produce them and let a worker give up those that the shop refuses."""
    pipe.produce(list(orders))
    ended = pipe.run("consume", "--until-end")
    assert ended.code == 0, ended.stderr


def refused(count: int) -> list[dict[str, Any]]:
    return [order(number, amount="-1.50") for number in range(count)]


def redrive(pipe: Pipe, *arguments: str) -> Ended:
    return pipe.run("deadletters", "redrive", "--to-source", "--json", *arguments)


def done(pipe: Pipe, *arguments: str) -> dict[str, int]:
    ended = redrive(pipe, *arguments)
    assert ended.code == 0, ended.stderr
    return {name: count for name, count in ended.json.items() if name != "seconds"}


def sent(pipe: Pipe) -> Counter[bytes | None]:
    """How often each key was redriven, as a `read_committed` reader sees it."""
    return Counter(record.key for record in pipe.records(pipe.topic) if "redrive-count" in dict(record.headers))


def wait_until_sent(pipe: Pipe, running: Process, count: int = 1) -> None:
    """Return once so many letters were redriven; a command that fails before that says why."""

    def there() -> bool:
        total = sent(pipe).total()
        assert total >= count or running.popen.poll() in {None, 0}, running.said()
        return total >= count

    wait_until(there, "letters redriven")


def once(count: int) -> dict[bytes, int]:
    return {f"A-{number}".encode(): 1 for number in range(count)}


def stats(pipe: Pipe) -> tuple[int, int]:
    counted = pipe.run("deadletters", "stats", "--json").json
    return counted["due"], counted["redriven"]


def test_redriven_records_are_the_originals_and_a_second_redrive_finds_none(pipe: Pipe) -> None:
    give_up(pipe, *refused(30))
    before = {record.key: record for record in pipe.records(pipe.topic)}
    assert stats(pipe) == (30, 0)
    assert done(pipe, "--all") == {"selected": 30, "redriven": 30, "skipped": 0, "parked": 0}
    again = [record for record in pipe.records(pipe.topic) if record.headers]
    assert len(again) == 30
    for record in again:
        original = before[record.key]
        assert record._replace(offset=original.offset, headers=()) == original
        assert record.headers == (*original.headers, ("redrive-count", b"1"))
    assert done(pipe, "--all") == {"selected": 0, "redriven": 0, "skipped": 0, "parked": 0}
    assert stats(pipe) == (0, 30)
    assert sum(pipe.cluster.lag(pipe.dead_letter_topic + GROUP, pipe.dead_letter_topic).values()) == 0


@pytest.mark.long
def test_letters_not_selected_stay_due_and_redriven_ones_are_never_taken_again(pipe: Pipe) -> None:
    give_up(pipe, *refused(20))
    assert done(pipe, "--key", "A-7")["redriven"] == 1
    assert done(pipe, "--reason", "undecodable")["selected"] == 0
    assert done(pipe, "--all", "--limit", "5")["redriven"] == 5
    rows = pipe.run("deadletters", "list", "--json").json
    assert len(rows) == 14
    assert len(pipe.run("deadletters", "list", "--json", "--all-letters").json) == 20
    assert done(pipe, rows[0]["id"], rows[1]["id"])["redriven"] == 2
    named = redrive(pipe, rows[0]["id"])
    assert (named.code, named.json["selected"]) == (0, 0)
    assert "was redriven already" in named.stderr
    assert done(pipe, "--since", "2020-01-01T00:00:00Z", "--until", "2021-01-01T00:00:00Z")["selected"] == 0
    assert done(pipe, "--source", f"{pipe.topic}:0:0-2")["redriven"] <= 3
    done(pipe, "--all")
    assert sent(pipe) == once(20)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--to-source"], "Which letters?"),
        (["--to-source", "0:99"], "There is no letter 0:99"),
        (["--to-source", "99"], "is no letter id"),
        (["--to-source", "--since", "2026-01-01T00:00:00"], "with a zone"),
        (["--to-source", "--source", "a:b"], "topic:partition:from-to"),
        (["--to-source", "--all", "--patch", "[1]"], "no JSON object"),
    ],
)
def test_redrive_that_is_not_clear_is_refused_before_anything(pipe: Pipe, arguments: list[str], says: str) -> None:
    ended = pipe.run("deadletters", "redrive", *arguments)
    assert ended.code == 2, ended.stderr
    assert says in ended.stderr
    assert pipe.cluster.partitions(pipe.dead_letter_topic + REDRIVEN) is None


@pytest.mark.long
def test_second_redrive_takes_over_and_the_first_exits_4(pipe: Pipe) -> None:
    give_up(pipe, *refused(200))
    first = pipe.start("deadletters", "redrive", "--all", "--to-source", "--rate", "20", "--json")
    wait_until_sent(pipe, first)
    second = redrive(pipe, "--all")
    ended = first.ended()
    assert (second.code, ended.code) == (0, 4), second.stderr + ended.stderr
    assert "took over" in ended.stderr
    assert ended.json["redriven"] + second.json["redriven"] == 200
    assert sent(pipe) == once(200)


def test_redrives_started_at_once_send_each_letter_once(pipe: Pipe) -> None:
    give_up(pipe, *refused(300))
    both = [
        pipe.start("deadletters", "redrive", "--all", "--to-source", "--rate", "300", "--batch", "10", "--json")
        for _ in range(3)
    ]
    codes = [each.ended().code for each in both]
    assert set(codes) <= {0, 4}, [each.said() for each in both]
    assert redrive(pipe, "--all").code == 0
    assert sent(pipe) == once(300)


@pytest.mark.long
def test_stopped_by_a_signal_it_ends_clean_and_the_rest_stays_due(pipe: Pipe) -> None:
    give_up(pipe, *refused(100))
    running = pipe.start("deadletters", "redrive", "--all", "--to-source", "--rate", "10", "--json")
    wait_until_sent(pipe, running)
    ended = running.end()
    assert ended.code == 0, ended.stderr
    assert stats(pipe) == (100 - ended.json["redriven"], ended.json["redriven"])


@pytest.mark.long
def test_letter_that_fails_again_is_a_new_one_and_is_parked_in_the_end(pipe: Pipe) -> None:
    give_up(pipe, *refused(3))
    for _ in range(2):
        assert done(pipe, "--all")["redriven"] == 3
        give_up(pipe)
    assert stats(pipe) == (3, 6)
    counts = {dict(record.headers).get("redrive-count") for record in pipe.records(pipe.topic)}
    assert counts == {None, b"1", b"2"}
    parked = pipe.dead_letter_topic + PARKED
    refusal = redrive(pipe, "--all", "--max-redrives", "2")
    assert (refusal.code, parked in refusal.stderr) == (2, True)
    assert stats(pipe) == (3, 6)
    create(pipe.cluster, declared(parked, 1))
    assert done(pipe, "--all", "--max-redrives", "2") == {"selected": 3, "redriven": 0, "skipped": 0, "parked": 3}
    assert done(pipe, "--all")["selected"] == 0
    listed = pipe.run("deadletters", "list", "--topic", parked, "--json").json
    assert {row["key"] for row in listed} == {"A-0", "A-1", "A-2"}


@pytest.mark.long
def test_dry_run_says_what_would_decode_and_writes_nothing(pipe: Pipe) -> None:
    producer = Producer({"bootstrap.servers": pipe.bootstrap_servers})
    producer.produce(pipe.topic, b"not avro", b"text", 0)
    assert producer.flush(30) == 0
    producer.close()
    give_up(pipe, *refused(3))
    dry = pipe.run("deadletters", "redrive", "--all", "--dry-run", "--json")
    assert dry.code == 0, dry.stderr
    assert dry.json == {"selected": 4, "outcomes": {"decodes": 3, "undecodable": 1}}
    assert "0x6e" in pipe.run("deadletters", "redrive", "--all", "--dry-run").stdout
    assert (stats(pipe), sent(pipe)) == ((4, 0), Counter())
    assert pipe.cluster.partitions(pipe.dead_letter_topic + REDRIVEN) is None


@pytest.mark.long
def test_patched_letters_are_stored_and_those_that_do_not_fit_are_left(pipe: Pipe) -> None:
    producer = Producer({"bootstrap.servers": pipe.bootstrap_servers})
    producer.produce(pipe.topic, b"not avro", b"text", 0)
    assert producer.flush(30) == 0
    producer.close()
    give_up(pipe, *refused(2))
    for patch in ('{"amont": "1"}', '{"amount": "1.234"}', '{"amount": null}', '{"customer_id": 7}'):
        ended = redrive(pipe, "--all", "--patch", patch)
        assert (ended.code, ended.json["skipped"]) == (3, 3), ended.stderr
    (pipe.home / "patch.json").write_text('{"amount": 2.25, "timestamp_utc": "2026-02-02T01:00:00+01:00"}')
    ended = redrive(pipe, "--all", "--patch", "patch.json")
    assert (ended.code, ended.json["redriven"], ended.json["skipped"]) == (3, 2, 1), ended.stderr
    give_up(pipe)
    store = sqlite3.connect(pipe.store)
    rows = set(store.execute("SELECT order_id, amount, timestamp_utc FROM orders").fetchall())
    store.close()
    assert rows == {(f"A-{n}", "2.25", "2026-02-02 00:00:00.000000") for n in range(2)}


def test_letters_of_kafka_connect_are_listed_shown_counted_and_redriven(pipe: Pipe) -> None:
    pipe.produce([order(1)])
    good = pipe.records(pipe.topic)[0]
    # As DeadLetterQueueReporter writes them: the original record to no given partition, with its timestamp.
    told = {
        "topic": pipe.topic, "partition": str(good.partition), "offset": "41", "connector.name": "warehouse-sink",
        "task.id": "0", "stage": "VALUE_CONVERTER", "class.name": "io.confluent.connect.avro.AvroConverter",
        "exception.class.name": "org.apache.kafka.connect.errors.DataException",
        "exception.message": "Failed to deserialize", "exception.stacktrace": "org.apache...",
    }  # fmt: skip
    producer = Producer({"bootstrap.servers": pipe.bootstrap_servers})
    headers = [("traceparent", b"00-1"), *((f"__connect.errors.{name}", text.encode()) for name, text in told.items())]
    producer.produce(pipe.dead_letter_topic, good.value, good.key, headers=headers, timestamp=good.timestamp_ms)
    producer.produce(pipe.dead_letter_topic, b"junk", b"junk")
    assert producer.flush(30) == 0
    producer.close()
    rows = {row["key"]: row for row in pipe.run("deadletters", "list", "--json").json}
    assert (rows["A-1"]["reason"], rows["A-1"]["error"]) == ("value_converter", "Failed to deserialize")
    assert rows["junk"]["reason"] == "unreadable"
    shown = pipe.run("deadletters", "show", rows["A-1"]["id"], "--json").json
    assert (shown["value"]["order_id"], shown["consumer_group"]) == ("A-1", "connect-warehouse-sink")
    assert pipe.run("deadletters", "stats", "--json").json["by_source"] == {pipe.topic: 1, "unknown": 1}
    ended = redrive(pipe, "--all")
    assert (ended.code, ended.json["redriven"], ended.json["skipped"]) == (3, 1, 1), ended.stderr
    [again] = [record for record in pipe.records(pipe.topic) if record.headers]
    assert again._replace(offset=0, headers=()) == good._replace(offset=0)
    assert again.headers == (("traceparent", b"00-1"), ("redrive-count", b"1"))


def test_exported_letters_hold_every_byte(pipe: Pipe) -> None:
    give_up(pipe, *refused(3))
    originals = {record.key: record.value for record in pipe.records(pipe.topic)}
    ended = pipe.run("deadletters", "export", "-", "--reason", "rejected")
    assert ended.code == 0, ended.stderr
    exported = [json.loads(line) for line in ended.stdout.splitlines()]
    assert {
        base64.b64decode(each["original_key"]): base64.b64decode(each["original_value"]) for each in exported
    } == originals
    assert pipe.run("deadletters", "export", "letters.ndjson").code == 0
    assert len((pipe.home / "letters.ndjson").read_text().splitlines()) == 3
    assert pipe.run("deadletters", "export", "no/such/folder").code == 2


def test_letters_go_to_the_group_that_failed_and_to_no_other(pipe: Pipe) -> None:
    give_up(pipe, *refused(20))
    originals = {record.key: record for record in pipe.records(pipe.topic)}
    ended = pipe.run("deadletters", "redrive", "--all", "--json")
    assert (ended.code, ended.json["redriven"]) == (0, 20), ended.stderr
    assert len(pipe.records(pipe.topic)) == 20, "nothing new in the source topic"
    for record in pipe.records(retry_topic(pipe)):
        its = originals[record.key or b""]
        assert (record.partition, record.value) == (its.partition, its.value)
        assert dict(record.headers)["redrive-count"] == b"1"
    (pipe.home / "shop.py").write_text(STORE_ALL)
    again = pipe.run("consume", "--handler", "shop:refunds", "--until-end", "--json")
    assert (again.code, again.json["handled"], again.json["dead_lettered"]) == (0, 20, 0), again.stderr
    rows = pipe.rows("SELECT order_id, source_partition, source_offset FROM orders")
    assert {key: (partition, offset) for key, partition, offset in rows} == {
        key.decode(): (record.partition, record.offset) for key, record in originals.items() if key
    }, "as if they had been handled where they were first"
    other = pipe.run("consume", "--group", "others", "--handler", "shop:refunds", "--until-end", "--json")
    assert other.json["handled"] == 20, "once each, from the source"
    assert stats(pipe) == (0, 20)


def test_letters_of_a_group_without_retry_topics_are_left_unless_they_go_to_the_source(pipe: Pipe) -> None:
    pipe.env["PIPELINE_RETRY__TIERS"] = "none"
    give_up(pipe, *refused(2))
    ended = pipe.run("deadletters", "redrive", "--all", "--json")
    assert (ended.code, ended.json["skipped"]) == (3, 2)
    assert "has no retry topic" in ended.stderr
    assert done(pipe, "--all")["redriven"] == 2


def test_all_letters_of_the_demo_are_redriven_once_with_five_kills_and_two_at_once(pipe: Pipe) -> None:
    """The rule is mended: refunds are stored, too. In the end the store is complete and no letter is due."""
    assert pipe.run("produce", "--input", str(ORDERS_FILE)).code == 3
    assert pipe.run("consume", "--until-end").code == 0
    refunds = Counter(record.key for record in pipe.records(pipe.dead_letter_topic))
    assert (len(refunds), set(refunds.values())) == (3658, {1})
    chance = random.Random(20260102)
    topic = retry_topic(pipe)
    for _ in range(5):
        killed = pipe.start("deadletters", "redrive", "--all", "--rate", "500", "--batch", "7")
        wanted = pipe.end_of(topic) + chance.randrange(1, 300)
        wait_until(lambda: pipe.end_of(topic) >= wanted, "letters redriven")  # noqa: B023
        killed.popen.kill()
        killed.popen.communicate()
    both = [pipe.start("deadletters", "redrive", "--all", "--batch", "10") for _ in range(2)]
    codes = [each.ended().code for each in both]
    assert set(codes) <= {0, 4}, [each.said() for each in both]
    assert pipe.run("deadletters", "redrive", "--all").code == 0
    assert Counter(record.key for record in pipe.records(topic)) == refunds
    (pipe.home / "shop.py").write_text(STORE_ALL)
    consumed = pipe.run("consume", "--handler", "shop:refunds", "--until-end", "--json")
    assert (consumed.code, consumed.json["handled"], consumed.json["dead_lettered"]) == (0, 3658, 0), consumed.stderr
    assert pipe.rows("SELECT count(*) FROM orders") == [(22186,)]
    assert stats(pipe) == (0, 3658)


def test_letters_go_into_the_retry_topic_that_the_group_reads_now(pipe: Pipe) -> None:
    """`retry.tiers` was changed since they were written: the topics of the old tiers are there still, and nobody reads them."""
    pipe.env["PIPELINE_RETRY__TIERS"] = "5s,1m"
    give_up(pipe, *refused(4))
    old, new = topic_name(pipe.topic, pipe.group, 5), topic_name(pipe.topic, pipe.group, 30)
    pipe.env["PIPELINE_RETRY__TIERS"] = "30s,5m"
    left = pipe.run("deadletters", "redrive", "--all", "--json")
    assert (left.code, left.json["skipped"]) == (3, 4), "no worker with these tiers has run"
    (pipe.home / "shop.py").write_text(REFUNDS)
    running = pipe.start("consume", "--handler", "shop:refunds")
    wait_until(
        lambda: any(each.topic == new for it in pipe.cluster.groups() if it.name == pipe.group
                    for member in it.members for each in member.assigned),
        "the worker's assignment",
    )  # fmt: skip
    pipe.env["PIPELINE_RETRY__TIERS"] = "5s,1m"
    dry = pipe.run("deadletters", "redrive", "--all", "--dry-run")
    assert f"to {new}: " in dry.stdout, "its members say what it reads, whatever the settings here"
    assert pipe.run("deadletters", "redrive", "--all", "--limit", "1", "--json").json["redriven"] == 1
    running.end()
    pipe.env["PIPELINE_RETRY__TIERS"] = "30s,5m"
    ended = pipe.run("deadletters", "redrive", "--all", "--json")
    assert (ended.code, ended.json["redriven"]) == (0, 3), ended.stderr
    assert (pipe.end_of(old), len(pipe.records(new))) == (0, 4)


def test_forged_letters_reach_no_topic_of_others_and_keep_nothing_back(pipe: Pipe) -> None:
    give_up(pipe, *refused(2))
    payments = f"payments-{pipe.topic}"
    create(pipe.cluster, declared(payments, 1), declared(f"{payments}.payments.retry-5s", 1))
    producer = Producer({"bootstrap.servers": pipe.bootstrap_servers})
    for topic in (payments, "_schemas", pipe.dead_letter_topic + REDRIVEN, "no topic/at all", pipe.topic):
        headers = [
            ("__connect.errors.topic", topic), ("__connect.errors.partition", "0"),
            ("__connect.errors.offset", str(2**62)), ("__connect.errors.connector.name", "x"), ("redrive-count", "9"),
        ]  # fmt: skip
        producer.produce(pipe.dead_letter_topic, b'{"timestamp_ms": 1}', b"0:0", 0, headers=headers)
    producer.produce(pipe.dead_letter_topic, b"x", b"y", 0, headers=[("__connect.errors.partition", "9" * 5000)])
    producer.produce(pipe.dead_letter_topic + REDRIVEN, None, b"a tombstone")
    producer.flush(30)
    producer.close()
    assert pipe.run("deadletters", "list", "--json").code == 0
    for arguments in (["--all"], ["--all", "--to-source"]):
        ended = pipe.run("deadletters", "redrive", "--json", *arguments)
        assert ended.code == 3, ended.stderr
    assert stats(pipe)[1] == 3, "two in the first run, and what names the own topic in the second"
    assert pipe.end_of(payments) == pipe.end_of(f"{payments}.payments.retry-5s") == 0
    named = redrive(pipe, "--source", payments, "--allow-topic", payments)
    assert (named.code, len(pipe.records(payments))) == (0, 1), named.stderr
    for refused_ in (["--all", "--allow-topic", payments], ["--source", "_schemas", "--allow-topic", "_schemas"]):
        assert redrive(pipe, *refused_).code == 2
