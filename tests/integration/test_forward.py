"""`python -m pipeline.forward` on a real broker: what it writes, what it commits, and what is left when it is killed."""

import json
import random
import shutil
import signal
import time
from collections import Counter, defaultdict
from decimal import Decimal

import pytest

from pipeline.core.record import Record
from pipeline.core.retry import topic_name
from pipeline.kafka.registry import Registry
from pipeline.serde.avro import AvroReader
from tests.integration.conftest import ORDERS_FILE, ROOT, Pipe, Process, declared, order, wait_until
from tests.integration.test_consume import letters, publish

pytestmark = pytest.mark.integration

SCHEMA = (ROOT / "schemas/orders.by-customer.v1-value/v1.avsc").read_text()
READER = AvroReader(json.loads(SCHEMA), lambda _: SCHEMA)
POINTS = ("begin", "publish", "send-offsets", "commit", "committed")
SHOP = """
import random
from pipeline.core.record import Keyed, Record
from pipeline.errors import Reject

def several(event: dict, record: Record) -> list[Keyed] | None:
    if event["order_id"] == "A-0":
        return None
    if event["order_id"] == "A-1":
        raise Reject("not this one")
    return [Keyed(event["customer_id"], event), Keyed(event["order_id"], event)]

def flaky(event: dict, record: Record) -> Keyed:
    # The same ones each time, and as often as there are retry topics at most: of 400 one would now and then fail once more.
    chance = random.Random(event["order_id"])
    if record.attempt <= next(n for n in range(4) if n == 3 or chance.random() > 0.15):
        raise OSError("not now")
    return Keyed(event["customer_id"], event)

def broken(event: dict, record: Record) -> Keyed:
    return Keyed(event["customer_id"], record.nothing)
"""


@pytest.fixture
def forwarder(pipe: Pipe) -> Pipe:
    """With an output topic of its own, and its schema."""
    pipe.group = f"forwarders-of-{pipe.topic}"
    shutil.copytree(ROOT / "schemas/orders.by-customer.v1-value", pipe.schemas / f"{output(pipe)}-value")
    pipe.register_schemas()
    pipe.cluster.create([declared(output(pipe), pipe.partitions)])
    (pipe.home / "shop.py").write_text(SHOP)
    pipe.env |= {"PIPELINE_FORWARD__TOPIC": output(pipe), "PIPELINE_FORWARD__GROUP": pipe.group}
    return pipe


def output(pipe: Pipe) -> str:
    return pipe.topic.replace(".v1", ".by-customer.v1")


def forwarded(pipe: Pipe) -> list[Record]:
    """As a `read_committed` reader sees it."""
    return pipe.records(output(pipe))


def start(pipe: Pipe, *arguments: str, instance: str = "one", fault: str = "") -> Process:
    pipe.env |= {"FAULT_STOP_AT": fault}
    return pipe.start("forward", "--instance", instance, "--json", *arguments)


def decoded(record: Record) -> dict:
    return READER.decode(record.value)


def wait_until_stopped(process: Process) -> None:
    """By its own SIGSTOP."""

    def stopped() -> bool:
        assert process.popen.poll() is None, process.said()
        with open(f"/proc/{process.popen.pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] == "T"

    wait_until(stopped, "the point of the fault")


def test_every_order_of_the_file_is_forwarded_once_keyed_by_its_customer_in_its_order(forwarder: Pipe) -> None:
    produced = forwarder.run("produce", "--json", "--input", str(ORDERS_FILE))
    assert produced.json["published"] == 22186
    ended = forwarder.run("forward", "--until-end", "--json", "--instance", "one")
    assert ended.code == 0, ended.stderr
    assert {name: ended.json[name] for name in ("consumed", "forwarded", "dead_lettered", "aborted")} == {
        "consumed": 22186, "forwarded": 22186, "dead_lettered": 0, "aborted": 0,
    }  # fmt: skip
    assert list(ended.json) == ["consumed", "forwarded", "dead_lettered", "transactions", "aborted", "seconds"]
    source = {record.key: record for record in forwarder.records(forwarder.topic)}
    by_customer: dict[bytes | None, list[int]] = defaultdict(list)
    for record in forwarded(forwarder):
        datum = decoded(record)
        its = source.pop(datum["order_id"].encode())
        assert record.key == datum["customer_id"].encode()
        assert (record.value or b"")[5:] == (its.value or b"")[5:], "the same four fields"
        assert record.timestamp_ms == its.timestamp_ms
        by_customer[record.key].append(record.partition)
    assert source == {}, "all of them"
    assert all(len(set(partitions)) == 1 for partitions in by_customer.values())
    assert forwarder.lag() == 0
    assert forwarder.run("forward", "--until-end", "--json", "--instance", "one").json["consumed"] == 0


def test_none_one_or_many_records_come_of_one_and_what_cannot_be_transformed_is_a_letter(forwarder: Pipe) -> None:
    forwarder.produce([order(n) for n in range(4)])
    publish(forwarder, (b"text", b"not avro", []))
    ended = forwarder.run(
        "forward",
        "--transform",
        "shop:several",
        "--until-end",
        "--json",
        "--instance",
        "one",
        "--commit-interval",
        "0.5",
    )
    assert ended.code == 0, ended.stderr
    assert {name: ended.json[name] for name in ("consumed", "forwarded", "dead_lettered")} == {
        "consumed": 5, "forwarded": 4, "dead_lettered": 2,
    }  # fmt: skip
    assert Counter(record.key for record in forwarded(forwarder)) == Counter([b"C-2", b"A-2", b"C-3", b"A-3"])
    assert {letter["key"]: letter["reason"] for letter in letters(forwarder)} == {
        b"A-1": "rejected", b"text": "undecodable",
    }  # fmt: skip
    assert forwarder.lag() == 0


def test_bad_records_within_a_long_poll_are_letters_and_every_other_order_keeps_what_is_its_own(
    forwarder: Pipe,
) -> None:
    forwarder.produce([order(n) for n in range(1500)])
    orders = {record.key: record.value for record in forwarder.records(forwarder.topic)}
    good = [(key, value, []) for key, value in orders.items()]
    cut = (b"cut", (good[0][1] or b"")[:-1], [])
    publish(forwarder, *good[:700], cut, *good[700:1400], (b"none", None, []), *good[1400:], cut)
    ended = forwarder.run("forward", "--until-end", "--json", "--instance", "one")
    assert ended.code == 0, ended.stderr
    assert (ended.json["forwarded"], ended.json["dead_lettered"]) == (3000, 3)
    seen = Counter((record.key, (record.value or b"")[5:]) for record in forwarded(forwarder))
    customers = {f"A-{n}".encode(): f"C-{n % 7}".encode() for n in range(1500)}
    assert seen == Counter({(customers[key or b""], (value or b"")[5:]): 2 for key, value in orders.items()})
    assert sorted(letter["key"] for letter in letters(forwarder)) == [b"cut", b"cut", b"none"]
    assert forwarder.lag() == 0


def test_bug_in_the_transform_stops_it_with_nothing_of_the_transaction_seen(forwarder: Pipe) -> None:
    forwarder.produce([order(n) for n in range(3)])
    ended = forwarder.run("forward", "--transform", "shop:broken", "--until-end", "--json", "--instance", "one")
    assert (ended.code, ended.json["forwarded"]) == (1, 0)
    assert "That is a bug" in ended.stderr
    assert (forwarded(forwarder), forwarder.lag()) == ([], 3)


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_every_point_of_its_loop_it_forwards_each_order_once(forwarder: Pipe, point: str) -> None:
    forwarder.produce([order(n) for n in range(300)])
    killed = start(
        forwarder, "--batch", "50", "--commit-interval", "5", fault=f"{point}:{60 if point == 'publish' else 1}"
    )
    wait_until_stopped(killed)
    killed.popen.kill()
    killed.popen.communicate()
    again = time.monotonic()
    after = start(forwarder)
    after.wait_for_line("assigned")
    wait_until(lambda: forwarder.lag() == 0, "the rest")
    took = time.monotonic() - again
    assert after.end().code == 0
    assert Counter(decoded(record)["order_id"] for record in forwarded(forwarder)) == {f"A-{n}": 1 for n in range(300)}
    assert took < 30, "the same id ends the open transaction at once, its time-out is a minute"


def test_transforms_that_fail_go_through_retry_topics_exactly_once_and_keep_the_order_of_a_key(forwarder: Pipe) -> None:
    forwarder.env["PIPELINE_RETRY__TIERS"] = "1s,2s,4s"
    orders = [order(n, order_id=f"{n:04}", customer_id=f"C-{n % 10}") for n in range(400)]
    # One key of the source for each customer, so that order per key can be seen in the output.
    publish(forwarder, *((each["customer_id"].encode(), forwarder.encoded(each), []) for each in orders))
    running = start(forwarder, "--transform", "shop:flaky")
    wait_until(lambda: len(forwarded(forwarder)) == 400, "all of them", 90)
    wait_until(lambda: forwarder.lag() == 0, "no lag")
    ended = running.end()
    assert (ended.code, ended.json["dead_lettered"]) == (0, 0), ended.stderr
    by_customer: dict[str, list[str]] = defaultdict(list)
    for record in forwarded(forwarder):
        datum = decoded(record)
        by_customer[datum["customer_id"]].append(datum["order_id"])
    assert by_customer == {f"C-{key}": [f"{n:04}" for n in range(key, 400, 10)] for key in range(10)}
    assert forwarder.end_of(topic_name(forwarder.topic, forwarder.group, 1)) > 0


# KIP-848 has the newcomer wait for a minute.
@pytest.mark.parametrize("protocol", ["classic", pytest.param("consumer", marks=pytest.mark.long)])
def test_live_twin_ends_the_other_one_with_exit_4_and_each_order_is_forwarded_once(
    forwarder: Pipe, protocol: str
) -> None:
    forwarder.env["PIPELINE_KAFKA__GROUP_PROTOCOL"] = protocol
    forwarder.produce([order(0)])
    first = start(forwarder)
    wait_until(lambda: forwarded(forwarder), "the first order")
    second = start(forwarder)
    if protocol == "classic":
        ended = first.ended(20)
        survivor = second
    else:
        # KIP-848 refuses the newcomer, which waits for the name for as long as a session may last.
        second.wait_for_line("still another member's")
        ended = second.ended(90)
        survivor = first
    assert ended.code == 4, ended.stderr
    forwarder.produce([order(n) for n in range(1, 50)])
    wait_until(lambda: len(forwarded(forwarder)) == 50, "the others")
    assert survivor.end().code == 0
    assert Counter(decoded(record)["order_id"] for record in forwarded(forwarder)) == {f"A-{n}": 1 for n in range(50)}


def test_members_come_go_stop_and_die_and_each_order_is_forwarded_once_in_its_order(forwarder: Pipe) -> None:
    forwarder.env |= {
        "PIPELINE_KAFKA__EXTRA__SESSION_TIMEOUT_MS": "3000",
        "PIPELINE_KAFKA__EXTRA__HEARTBEAT_INTERVAL_MS": "500",
        "PIPELINE_FORWARD__TRANSACTION_TIMEOUT_MS": "4000",
    }
    source = forwarder.home / "orders.ndjson"
    forwarder.write_orders(source, [order(n) for n in range(30_000)])
    feeding = forwarder.start("produce", "--input", str(source), "--rate", "400", "--json")
    chance = random.Random(20260105)
    members = {name: start(forwarder, instance=name) for name in ("a", "b", "c")}

    def flowing() -> None:
        end = forwarder.end_of(output(forwarder))
        wait_until(lambda: forwarder.end_of(output(forwarder)) > end + 200, "orders flow on")

    flowing()
    for number in range(5):
        name = chance.choice(sorted(members))
        going = members.pop(name)
        if number % 2:
            going.popen.send_signal(signal.SIGSTOP)
            flowing()  # past its session and its transaction's time-out, others go on
            going.popen.send_signal(signal.SIGCONT)
            members[name] = going
        else:
            going.popen.kill()
            going.popen.communicate()
            members[name] = start(forwarder, instance=name)
        flowing()
    fed = feeding.end()
    count = fed.json["published"]
    wait_until(lambda: len(forwarded(forwarder)) == count and forwarder.lag() == 0, "everything forwarded", 90)
    for member in members.values():
        ended = member.end()
        assert ended.code in {0, 4}, ended.stderr
    found = forwarded(forwarder)
    assert Counter(decoded(record)["order_id"] for record in found) == {f"A-{n}": 1 for n in range(count)}
    assert sum(decoded(record)["amount"] for record in found) == sum(
        Decimal(n + 1) + Decimal("0.5") for n in range(count)
    )


def test_new_version_of_the_output_rolls_out_while_readers_of_the_old_one_go_on(forwarder: Pipe) -> None:
    forwarder.produce([order(n) for n in range(10)])
    assert forwarder.run("forward", "--until-end", "--instance", "one").code == 0
    old = json.loads(SCHEMA)
    new = old | {"fields": [*old["fields"], {"name": "channel", "type": ["null", "string"], "default": None}]}
    (forwarder.schemas / f"{output(forwarder)}-value/v2.avsc").write_text(json.dumps(new))
    forwarder.register_schemas()
    # The instance that is restarted writes the version that it was released with; the transform knows nothing of it.
    forwarder.produce([order(n) for n in range(10, 20)])
    ended = forwarder.run("forward", "--until-end", "--instance", "one")
    assert ended.code == 0, ended.stderr
    with Registry(forwarder.registry_url) as registry:
        found = forwarded(forwarder)
        assert len({(record.value or b"")[:5] for record in found}) == 2, "two writer schemas"
        for reader in (old, new):
            read = AvroReader(reader, registry.schema_by_id)
            data = [read.decode(record.value) for record in found]
            assert {each["order_id"] for each in data} == {f"A-{n}" for n in range(20)}
            assert [set(each) for each in data] == [{field["name"] for field in reader["fields"]}] * 20
