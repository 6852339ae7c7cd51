"""`python -m pipeline.consume` as a user runs it, on a real broker and registry. Twins on fakes: tests/stages."""

import gzip
import json
import random
import shutil
import signal
import sqlite3
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest
from confluent_kafka import Producer

from pipeline.serde.avro import AvroReader, AvroWriter
from tests.integration.conftest import ORDERS_FILE, ROOT, Pipe, create, declared, order, wait_until

pytestmark = pytest.mark.integration

DEAD_LETTER = json.loads((ROOT / "schemas/orders.dlq.v1-value/v1.avsc").read_text())


def stored(pipe: Pipe) -> dict[str, tuple[str, str, str]]:
    """Order id → customer, amount, time, as they lie in the store."""
    if not pipe.store.exists():
        return {}
    connection = sqlite3.connect(pipe.store)
    try:
        rows = connection.execute("SELECT order_id, customer_id, amount, timestamp_utc FROM orders").fetchall()
    except sqlite3.OperationalError:
        return {}
    finally:
        connection.close()
    return {row[0]: row[1:] for row in rows}


def letters(pipe: Pipe) -> list[dict[str, Any]]:
    reader = AvroReader(DEAD_LETTER, lambda _: json.dumps(DEAD_LETTER))
    return [reader.decode(record.value) for record in pipe.records(pipe.dead_letter_topic)]


def publish(pipe: Pipe, *records: tuple[bytes | None, bytes | None, list]) -> None:
    producer = Producer({"bootstrap.servers": pipe.bootstrap_servers, "linger.ms": 0})
    for key, value, headers in records:
        producer.produce(pipe.topic, value, key, 0, headers=headers)
    assert producer.flush(30) == 0
    producer.close()


def test_store_letters_and_topic_agree_with_the_file_record_by_record(pipe: Pipe) -> None:
    """The whole of the real input: what the README's demo claims, checked order by order."""
    produced = pipe.run("produce", "--json", "--input", str(ORDERS_FILE), "--rejects", "rejects.ndjson")
    assert produced.code == 3, produced.stderr
    consumed = pipe.run("consume", "--until-end", "--json")
    assert consumed.code == 0, consumed.stderr
    assert consumed.json | {"seconds": 0} == {
        "consumed": 22186, "handled": 18528, "dead_lettered": 3658, "parked": 0, "committed": 22186, "seconds": 0,
    }  # fmt: skip
    source = [json.loads(line) for line in gzip.decompress(ORDERS_FILE.read_bytes()).splitlines()]
    publishable = {
        it["order_id"]: it
        for it in source
        if it["customer_id"] is not None and Decimal(it["amount"]) == round(Decimal(it["amount"]), 2)
    }
    assert (len(source), len(publishable)) == (25900, 22186)
    topic = {record.key.decode(): record for record in pipe.records(pipe.topic)}
    assert topic.keys() == publishable.keys()
    reader = orders_reader()
    for key, record in topic.items():
        datum, line = reader.decode(record.value), publishable[key]
        assert (datum["order_id"], datum["customer_id"], datum["amount"]) == (
            key, line["customer_id"], Decimal(line["amount"]),
        )  # fmt: skip
        assert datum["timestamp_utc"].isoformat() == line["timestamp_utc"].replace("Z", "+00:00")
    assert stored(pipe) == {
        key: (it["customer_id"], f"{Decimal(it['amount']):.2f}", it["timestamp_utc"].replace("T", " ")[:-1] + ".000000")
        for key, it in publishable.items()
        if Decimal(it["amount"]) > 0
    }
    assert sum(Decimal(amount) for _, amount, _ in stored(pipe).values()) == Decimal("8908726.63")
    assert len({customer for customer, *_ in stored(pipe).values()}) == 4337
    given_up = letters(pipe)
    assert Counter(letter["key"].decode() for letter in given_up) == Counter(
        key for key, it in publishable.items() if Decimal(it["amount"]) <= 0
    )
    for letter in given_up:
        record = topic[letter["key"].decode()]
        assert (letter["value"], letter["source_partition"], letter["source_offset"]) == (
            record.value, record.partition, record.offset,
        )  # fmt: skip
    assert pipe.lag() == 0
    before = stored(pipe)
    assert pipe.run("consume", "--until-end", "--json").json["consumed"] == 0
    assert stored(pipe) == before


def test_bad_records_become_letters_with_their_bytes_and_the_good_ones_are_stored(pipe: Pipe) -> None:
    pipe.produce([order(1)])
    good = pipe.records(pipe.topic)[0].value
    unknown = b"\x00" + (2**31 - 5).to_bytes(4, "big") + good[5:]
    invalid = AvroWriter(
        json.loads((ROOT / "schemas/orders.v1-value/v1.avsc").read_text()), int.from_bytes(good[1:5], "big")
    ).encode(orders_reader().decode(good) | {"customer_id": "   "})
    forged = [("source-topic", b"bank"), ("__connect.errors.offset", b"1"), ("traceparent", b"00-1")]
    publish(
        pipe,
        (b"tombstone", None, []),
        (b"text", b'{"order_id": 1}', forged),
        (b"cut", good[:-3], []),
        (b"trailing", good + b"x", []),
        (b"unknown", unknown, []),
        (b"invalid", invalid, []),
        (None, b"", []),
    )
    pipe.produce([order(2), order(3, amount="-1.00")])
    ended = pipe.run("consume", "--until-end", "--json")
    assert ended.code == 0, ended.stderr
    assert set(stored(pipe)) == {"A-1", "A-2"}
    by_key = {letter["key"]: letter for letter in letters(pipe)}
    assert {key: letter["reason"] for key, letter in by_key.items()} == {
        b"tombstone": "undecodable", b"text": "undecodable", b"cut": "undecodable", b"trailing": "undecodable",
        b"unknown": "schema_unknown", b"invalid": "invalid", None: "undecodable", b"A-3": "rejected",
    }  # fmt: skip
    assert (by_key[b"tombstone"]["value"], by_key[b"cut"]["value"]) == (None, good[:-3])
    assert (by_key[b"unknown"]["schema_id"], by_key[b"unknown"]["consumer_group"]) == (2**31 - 5, pipe.group)
    assert ended.json["dead_lettered"] == 8
    for record in pipe.records(pipe.dead_letter_topic):
        headers = dict(record.headers)
        letter = by_key[record.key]
        assert record.partition == letter["source_partition"]
        assert headers["source-topic"] == headers["__connect.errors.topic"] == pipe.topic.encode()
        assert headers["source-offset"] == headers["__connect.errors.offset"] == str(letter["source_offset"]).encode()
        assert len([name for name, _ in record.headers if name == "source-topic"]) == 1
    text = next(dict(r.headers) for r in pipe.records(pipe.dead_letter_topic) if r.key == b"text")
    assert text["traceparent"] == b"00-1"
    assert pipe.lag() == 0


def orders_reader() -> AvroReader:
    text = (ROOT / "schemas/orders.v1-value/v1.avsc").read_text()
    return AvroReader(json.loads(text), lambda _: text)


def test_letters_are_listed_shown_and_counted(pipe: Pipe) -> None:
    pipe.produce([order(1, amount="0"), order(2, amount="-2.00"), order(3)])
    publish(pipe, (b"text", b"not avro", [("h", b"1")]))
    assert pipe.run("consume", "--until-end").code == 0
    stats = pipe.run("deadletters", "stats", "--json").json
    assert (stats["letters"], stats["by_reason"]) == (3, {"rejected": 2, "undecodable": 1})
    listed = pipe.run("deadletters", "list", "--json", "--reason", "rejected").json
    assert {row["key"] for row in listed} == {"A-1", "A-2"}
    [row] = pipe.run("deadletters", "list", "--json", "--key", "A-2").json
    assert row["error"].startswith("amount -2.00 is not above zero")
    shown = pipe.run("deadletters", "show", row["id"], "--json").json
    assert (shown["value"]["order_id"], shown["value"]["amount"]) == ("A-2", "-2.00")
    assert shown["source_topic"] == pipe.topic
    [text] = pipe.run("deadletters", "list", "--json", "--reason", "undecodable").json
    shown = pipe.run("deadletters", "show", text["id"], "--json").json
    assert (shown["value"], shown["value_hex"], shown["headers"]) == (None, b"not avro".hex(), [["h", "1"]])
    assert "0x6e" in shown["value_undecoded_because"]
    missing = pipe.run("deadletters", "show", "0:999999")
    assert (missing.code, "no letter 0:999999" in missing.stderr) == (2, True)
    limited = pipe.run("deadletters", "list", "--limit", "1")
    assert len(limited.stdout.splitlines()) == 1
    assert "1 of 3 letters" in limited.stderr


def test_worker_killed_ten_times_ends_with_the_same_store(pipe: Pipe) -> None:
    # More than the kills can outlast: the feeder is stopped when they are done.
    orders = [order(n, amount=f"{n % 50 - 4}.25") for n in range(30_000)]
    source = pipe.home / "orders.ndjson"
    source.write_text("".join(json.dumps(each) + "\n" for each in orders))
    feeding = pipe.start("produce", "--input", str(source), "--rate", "300", "--json")
    chance = random.Random(20260101)
    for _ in range(10):
        worker = pipe.start("consume", "--instance", "one", "-v")
        worker.wait_for_line("✔")
        seen = worker.said().count("✔")
        wait_until(lambda: worker.said().count("✔") >= seen + chance.randrange(60), "more progress")  # noqa: B023
        worker.popen.kill()
        worker.popen.communicate()
    fed = feeding.end()
    assert (fed.code, fed.json["failed"]) == (0, 0), fed.stderr
    orders = orders[: fed.json["published"]]
    ended = pipe.run("consume", "--instance", "one", "--until-end")
    assert ended.code == 0, ended.stderr
    expected = {each["order_id"]: each for each in orders if Decimal(each["amount"]) > 0}
    assert {key: row[1] for key, row in stored(pipe).items()} == {key: each["amount"] for key, each in expected.items()}
    assert {letter["key"].decode() for letter in letters(pipe)} == {each["order_id"] for each in orders} - set(expected)
    assert pipe.lag() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_worker_with_everything_committed(pipe: Pipe, number: int) -> None:
    pipe.produce([order(n) for n in range(10)])
    worker = pipe.start("consume", "--json", "-v")
    wait_until(lambda: worker.said().count("✔") == 10, "ten orders")
    ended = worker.end(number)
    assert (ended.code, ended.json["committed"]) == (0, 10), ended.stderr
    assert pipe.lag() == 0


def test_worker_started_before_topics_and_schemas_are_reachable_waits_and_stops_cleanly(bare_pipe: Pipe) -> None:
    bare_pipe.env["PIPELINE_KAFKA__BOOTSTRAP_SERVERS"] = "127.0.0.1:1"
    bare_pipe.register_schemas()
    worker = bare_pipe.start("consume", "--json")
    worker.wait_for_line("Waiting for it")
    ended = worker.end()
    assert ended.code == 0
    assert ended.json == {
        "consumed": 0, "handled": 0, "dead_lettered": 0, "parked": 0, "committed": 0, "seconds": 0,
    }  # fmt: skip


def newest_file(pipe: Pipe, fields: list[dict[str, Any]], version: int = 2) -> None:
    folder = pipe.schemas / f"{pipe.topic}-value"
    schema = json.loads((folder / "v1.avsc").read_text())
    (folder / f"v{version}.avsc").write_text(json.dumps(schema | {"fields": schema["fields"] + fields}))


@pytest.mark.parametrize("where", ["files", "registry"])
def test_newest_schema_that_cannot_read_what_was_written_is_refused_and_no_letter_is_written(
    pipe: Pipe, where: str
) -> None:
    pipe.produce([order(1)])
    # The second time, what was written is in the registry alone.
    newest_file(pipe, [{"name": "channel", "type": "string"}], version=2 if where == "files" else 1)
    (pipe.home / "shop_handlers.py").write_text(HANDLERS)
    ended = pipe.run("consume", "--handler", "shop_handlers:raw", "--until-end")
    assert ended.code == 2, ended.stderr
    assert "OrderPlaced.channel: field-without-default" in ended.stderr
    assert ("as the registry has it" in ended.stderr) == (where == "registry")
    assert (pipe.lag(), letters(pipe)) == (1, [])


def test_new_field_that_the_handlers_model_forbids_is_refused_and_no_letter_is_written(pipe: Pipe) -> None:
    pipe.produce([order(1)])
    newest_file(pipe, [{"name": "channel", "type": "string", "default": "web"}])
    pipe.register_schemas()
    ended = pipe.run("consume", "--until-end")
    assert ended.code == 2, ended.stderr
    assert "OrderPlaced, the event of the order store: it forbids channel, which the schema has" in ended.stderr
    assert (pipe.lag(), letters(pipe)) == (1, [])


def test_missing_dead_letter_topic_is_refused_at_the_start(bare_pipe: Pipe) -> None:
    bare_pipe.register_schemas()
    create(bare_pipe.cluster, declared(bare_pipe.topic, 3))
    ended = bare_pipe.run("consume", "--until-end")
    assert ended.code == 2
    assert f"{bare_pipe.dead_letter_topic} is not there" in ended.stderr


def test_letter_too_large_for_its_topic_goes_without_its_value_and_one_that_never_fits_stops_the_worker(
    bare_pipe: Pipe,
) -> None:
    bare_pipe.register_schemas()
    bare_pipe.create_topics(**{"max.message.bytes": "1400"})
    # What cannot be compressed: bytes without a pattern.
    publish(bare_pipe, (b"big", random.Random(1).randbytes(1200), []))
    ended = bare_pipe.run("consume", "--until-end", "--json")
    assert (ended.code, ended.json["dead_lettered"], bare_pipe.lag()) == (0, 1, 0), ended.stderr
    [letter] = bare_pipe.records(bare_pipe.dead_letter_topic)
    assert dict(letter.headers)["original-value-bytes"] == b"1200"
    small = f"small-{bare_pipe.dead_letter_topic}"
    create(bare_pipe.cluster, declared(small, bare_pipe.partitions, {"max.message.bytes": "200"}))
    shutil.copytree(bare_pipe.schemas / f"{bare_pipe.dead_letter_topic}-value", bare_pipe.schemas / f"{small}-value")
    bare_pipe.register_schemas()
    bare_pipe.env["PIPELINE_KAFKA__DEAD_LETTER_TOPIC"] = small
    ended = bare_pipe.run("consume", "--group", "others", "--until-end", "--json")
    assert ended.code == 1
    assert "cannot be written" in ended.stderr
    assert ended.json["committed"] == 0


def test_lag_is_zero_behind_the_markers_of_transactions(pipe: Pipe) -> None:
    pipe.produce([order(1), order(2)])
    found = pipe.records(pipe.topic)
    producer = Producer({"bootstrap.servers": pipe.bootstrap_servers, "transactional.id": pipe.topic})
    producer.init_transactions(30)
    for outcome in (producer.commit_transaction, producer.abort_transaction):
        producer.begin_transaction()
        for record in found:
            producer.produce(pipe.topic, record.value, record.key, record.partition)
        producer.flush(30)
        outcome(30)
    producer.close()
    ended = pipe.run("consume", "--until-end", "--json")
    assert (ended.code, ended.json["consumed"]) == (0, 4), ended.stderr
    assert pipe.lag() == 0, "counted as every outside tool counts it: end minus committed"


HANDLERS = """
import pydantic
from decimal import Decimal
from datetime import datetime
from pipeline.core.record import Record
from pipeline.errors import Reject


class PaymentTaken(pydantic.BaseModel):
    payment_id: str
    order_id: str
    amount: Decimal
    taken_at: datetime


def payment(event: PaymentTaken, record: Record) -> None:
    if event.amount > 100:
        raise Reject("too much")
    with open("payments.txt", "a") as file:
        file.write(f"{event.payment_id} {event.amount} {record.partition}@{record.offset} {record.key.decode()}\\n")


async def raw(event: dict, record: Record) -> None:
    with open("payments.txt", "a") as file:
        file.write(f"{event['payment_id']} {record.attempt}\\n")


def broken(event: dict, record: Record) -> None:
    raise TypeError("oops")


def no_shape(a, b, c):
    pass
"""
PAYMENT = {
    "type": "record",
    "name": "PaymentTaken",
    "namespace": "shop.payments",
    "fields": [
        {"name": "payment_id", "type": "string"},
        {"name": "order_id", "type": "string"},
        {"name": "amount", "type": {"type": "bytes", "logicalType": "decimal", "precision": 18, "scale": 2}},
        {"name": "taken_at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    ],
}


@pytest.fixture
def payments(bare_pipe: Pipe) -> Pipe:
    """A second event type: its own schema, topic and handlers, and three payments in the topic."""
    bare_pipe.create_topics()
    (bare_pipe.schemas / f"{bare_pipe.topic}-value/v1.avsc").write_text(json.dumps(PAYMENT))
    bare_pipe.register_schemas()
    (bare_pipe.home / "shop_handlers.py").write_text(HANDLERS)
    from pipeline.kafka.registry import Registry  # noqa: PLC0415

    with Registry(bare_pipe.registry_url) as registry:
        schema_id = registry.lookup_id(f"{bare_pipe.topic}-value", json.dumps(PAYMENT))
    writer = AvroWriter(PAYMENT, schema_id)
    from datetime import UTC, datetime  # noqa: PLC0415

    now = datetime(2026, 1, 1, tzinfo=UTC)
    publish(
        bare_pipe,
        *(
            (
                b"k",
                writer.encode({"payment_id": f"P{n}", "order_id": "A", "amount": Decimal(n * 60), "taken_at": now}),
                [],
            )
            for n in range(1, 4)
        ),
    )
    return bare_pipe


def test_handler_of_another_event_type_runs(payments: Pipe) -> None:
    ended = payments.run("consume", "--handler", "shop_handlers:payment", "--until-end", "--json")
    assert ended.code == 0, ended.stderr
    assert (payments.home / "payments.txt").read_text() == "P1 60.00 0@0 k\n"
    assert (ended.json["handled"], ended.json["dead_lettered"]) == (1, 2)
    assert {letter["error"] for letter in letters(payments)} == {"too much"}


def test_handler_of_another_topic_is_refused_and_no_letter_is_written(pipe: Pipe) -> None:
    (pipe.home / "shop_handlers.py").write_text(HANDLERS)
    pipe.produce([order(1)])
    ended = pipe.run("consume", "--handler", "shop_handlers:payment", "--until-end")
    assert ended.code == 2, ended.stderr
    assert "it asks for payment_id, taken_at, which the schema does not have" in ended.stderr
    assert (pipe.lag(), letters(pipe)) == (1, [])


def test_async_handler_on_plain_dicts_runs(payments: Pipe) -> None:
    ended = payments.run("consume", "--handler", "shop_handlers:raw", "--until-end", "--json")
    assert ended.code == 0, ended.stderr
    assert (payments.home / "payments.txt").read_text() == "P1 1\nP2 1\nP3 1\n"


def test_bug_in_a_handler_stops_the_worker_with_exit_1_and_nothing_lost(payments: Pipe) -> None:
    ended = payments.run("consume", "--handler", "shop_handlers:broken", "--until-end", "--json")
    assert ended.code == 1
    assert "TypeError: oops" in ended.stderr
    assert f"{payments.topic} [0] @ 0" in ended.stderr
    assert (ended.json["committed"], payments.lag(), letters(payments)) == (0, 3, [])


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("nonsense", "module:name"),
        ("no_such_module:handle", "No module named"),
        ("shop_handlers:missing", "has no attribute"),
        ("shop_handlers:no_shape", "takes 3 arguments"),
        ("shop_handlers:Decimal", "A handler is"),
    ],
)
def test_handler_that_cannot_be_one_is_refused(payments: Pipe, reference: str, says: str) -> None:
    ended = payments.run("consume", "--handler", reference, "--until-end")
    assert ended.code == 2
    assert says in ended.stderr


def test_database_down_is_waited_for_and_nothing_becomes_a_letter(pipe: Pipe) -> None:
    worker = pipe.start("consume", "--json")
    worker.wait_for_line("assigned")
    held = sqlite3.connect(pipe.store, isolation_level=None)
    held.execute("BEGIN EXCLUSIVE")
    pipe.produce([order(n) for n in range(5)])
    worker.wait_for_line("does not answer")
    assert pipe.lag() == 5
    held.execute("ROLLBACK")
    held.close()
    wait_until(lambda: pipe.lag() == 0, "the backlog worked off")
    ended = worker.end()
    assert (ended.code, ended.json["handled"], ended.json["dead_lettered"]) == (0, 5, 0)


def test_store_removed_under_a_worker_is_begun_anew_and_no_order_after_that_is_lost(pipe: Pipe) -> None:
    worker = pipe.start("consume", "--json")
    pipe.produce([order(n) for n in range(5)])
    wait_until(lambda: pipe.lag() == 0, "the first orders stored")
    for each in list(pipe.store.parent.glob(f"{pipe.store.name}*")):
        each.unlink()
    pipe.produce([order(n) for n in range(5, 10)])
    worker.wait_for_line("was removed or moved")
    wait_until(lambda: pipe.lag() == 0, "the other orders stored")
    assert len(stored(pipe)) == 5
    assert worker.end().code == 0


def test_store_of_another_shape_is_refused_before_the_group_is_joined(pipe: Pipe) -> None:
    pipe.produce([order(0)])
    with sqlite3.connect(pipe.store) as connection:
        connection.execute("CREATE TABLE orders (id INTEGER)")
    connection.close()
    ended = pipe.run("consume", "--until-end")
    assert ended.code == 2
    assert "can take no order: table orders has no column named order_id" in ended.stderr
    assert "PIPELINE_STORE__URL" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert pipe.group not in {group.name for group in pipe.cluster.groups()}
