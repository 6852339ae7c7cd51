"""Broker, registry and members going away in the middle of a run, on a stack of this file's own, because it is hurt."""

import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.local.artifacts import Installed
from pipeline.local.stack import LocalStack, ephemeral_stack
from tests.integration.conftest import Pipe, order, wait_until
from tests.integration.test_consume import letters, publish, stored

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("fragile")]


@pytest.fixture(scope="module")
def fragile(installed: Installed) -> Iterator[LocalStack]:
    """A broker and a registry that tests may kill."""
    with ephemeral_stack(installed) as it:
        yield it


@pytest.fixture
def hurt(fragile: LocalStack, tmp_path: Path) -> Iterator[Pipe]:
    """A pipeline on it."""
    for server in fragile.servers:
        if server.pid is None:
            server.start()
        server.wait_until_ready()
    pipe = Pipe(fragile.bootstrap_servers, fragile.registry_url, tmp_path)
    pipe.create_topics()
    pipe.register_schemas()
    yield pipe
    pipe.stop_all()


def feed(pipe: Pipe, count: int, rate: int) -> Any:
    source = pipe.home / "orders.ndjson"
    pipe.write_orders(source, [order(n) for n in range(count)])
    return pipe.start("produce", "--input", str(source), "--rate", str(rate), "--json")


def test_broker_killed_while_orders_flow_loses_doubles_and_dead_letters_nothing(
    hurt: Pipe, fragile: LocalStack
) -> None:
    worker = hurt.start("consume", "-v", "--json")
    feeding = feed(hurt, 3000, 300)
    worker.wait_for_line("✔")
    fragile.kafka.kill()
    worker.wait_for_line("no broker answers")
    fragile.kafka.start()
    fragile.kafka.wait_until_ready()
    fed = feeding.ended()
    assert (fed.code, fed.json["published"]) == (0, 3000), fed.stderr
    wait_until(lambda: hurt.lag() == 0 and len(stored(hurt)) == 3000, "everything worked off")
    assert worker.end().code == 0
    keys = Counter(record.key for record in hurt.records(hurt.topic))
    assert (len(keys), set(keys.values())) == (3000, {1}), "acknowledged once, in the topic once"
    assert letters(hurt) == []


@pytest.mark.parametrize(
    "away_s",
    [
        pytest.param(4, id="short"),
        # Longer than the 30 s after which the client's own default of this pipeline called every order unknown.
        pytest.param(45, id="long", marks=pytest.mark.long),
    ],
)
def test_producer_stops_reading_while_the_broker_is_away_and_publishes_everything_once_afterwards(
    hurt: Pipe, fragile: LocalStack, away_s: float
) -> None:
    feeding = feed(hurt, 20_000, 2000)
    wait_until(lambda: len(hurt.records(hurt.topic)) > 100, "the first orders in the topic")
    fragile.kafka.kill()
    killed_at = time.monotonic()
    feeding.wait_for_line("nothing more is read until the broker answers")
    wait_until(lambda: time.monotonic() > killed_at + away_s, "the end of the outage", timeout_s=away_s + 5)
    fragile.kafka.start()
    fragile.kafka.wait_until_ready()
    fed = feeding.ended()
    assert (fed.code, fed.json["published"], fed.json["failed"]) == (0, 20_000, 0), fed.stderr
    assert "acknowledged again after" in fed.stderr
    keys = Counter(record.key for record in hurt.records(hurt.topic))
    assert (len(keys), set(keys.values())) == (20_000, {1}), "each in the topic once"


def test_producer_that_gives_a_broker_up_keeps_every_order_it_read_to_be_sent_again(
    hurt: Pipe, fragile: LocalStack
) -> None:
    source, kept = hurt.home / "orders.ndjson", hurt.home / "kept.ndjson"
    hurt.write_orders(source, [order(n) for n in range(3000)])
    flags = ["--rate", "300", "--give-up-after", "3", "--unacknowledged", str(kept), "--json"]
    feeding = hurt.start("produce", "--input", str(source), *flags)
    wait_until(lambda: len(hurt.records(hurt.topic)) > 100, "the first orders in the topic")
    fragile.kafka.kill()
    fed = feeding.ended()
    assert (fed.code, fed.json["published"] + fed.json["failed"]) == (1, fed.json["read"]), fed.stderr
    assert 0 < fed.json["failed"] == len(kept.read_text().splitlines())
    assert f"stopped after line {fed.json['read']}: the rest of {source} was not read" in fed.stderr
    fragile.kafka.start()
    fragile.kafka.wait_until_ready()
    rest = hurt.home / "rest.ndjson"
    rest.write_text("".join(source.read_text().splitlines(keepends=True)[fed.json["read"] :]))
    for again in (kept, rest):
        assert hurt.run("produce", "--input", str(again)).code == 0
    keys = Counter(record.key for record in hurt.records(hurt.topic))
    assert len(keys) == 3000, "what was kept and what was not read are all the rest"


def test_registry_away_with_a_cold_cache_is_waited_for_and_no_letter_is_written(
    hurt: Pipe, fragile: LocalStack
) -> None:
    worker = hurt.start("consume", "-v", "--json")
    worker.wait_for_line("assigned")
    feeding = feed(hurt, 300, 1000)
    assert feeding.ended().code == 0
    wait_until(lambda: hurt.lag() == 0, "the first orders worked off")
    assert worker.end().code == 0
    cold = hurt.start("consume", "-v", "--json")
    cold.wait_for_line("assigned")
    fragile.registry.kill()
    other = hurt.republish_under_a_new_name()
    cold.wait_for_line("Trying again")
    assert hurt.lag() == other
    fragile.registry.start()
    fragile.registry.wait_until_ready()
    wait_until(lambda: hurt.lag() == 0, "the rest worked off")
    ended = cold.end()
    assert (ended.code, ended.json["dead_lettered"]) == (0, 0), ended.stderr
    assert letters(hurt) == []


@pytest.mark.long  # in make test by test_order_through_failures, where records fail as well
def test_members_joining_and_leaving_lose_nothing(hurt: Pipe) -> None:
    # More than the comings and goings can outlast: the feeder is stopped when they are done.
    feeding = feed(hurt, 30_000, 200)
    steady = hurt.start("consume", "-v", "--json")
    steady.wait_for_line("✔")
    for _ in range(2):
        guest = hurt.start("consume", "-v", "--json")
        guest.wait_for_line("assigned")
        guest.wait_for_line("✔")
        assert guest.end().code == 0
    killed = hurt.start("consume", "-v")
    killed.wait_for_line("✔")
    killed.popen.kill()
    fed = feeding.end()
    assert (fed.code, fed.json["failed"]) == (0, 0), fed.stderr
    wait_until(lambda: hurt.lag() == 0 and len(stored(hurt)) == fed.json["published"], "everything worked off")
    ended = steady.end()
    assert ended.code == 0, ended.stderr
    assert letters(hurt) == []


@pytest.mark.long  # in make test by the twins of test_forward and test_processes
def test_second_member_with_the_same_instance_name_ends_one_of_both_with_exit_4(hurt: Pipe) -> None:
    hurt.produce([order(1)])
    first = hurt.start("consume", "--instance", "one", "-v")
    first.wait_for_line("✔")
    second = hurt.start("consume", "--instance", "one", "-v")
    # The classic protocol fences who was there; KIP-848 refuses the newcomer, which waits as long as a session may last.
    newcomer_goes = hurt.env["PIPELINE_KAFKA__GROUP_PROTOCOL"] == "consumer"
    loser, winner = (second, first) if newcomer_goes else (first, second)
    ended = loser.ended(100)
    assert ended.code == 4, ended.stderr
    assert "same --instance name" in ended.stderr
    hurt.produce([order(2)])
    winner.wait_for_line("A-2")
    assert winner.end().code == 0


def test_dead_letter_topic_deleted_under_the_worker_stops_it_with_the_offset_kept(hurt: Pipe) -> None:
    hurt.env["PIPELINE_KAFKA__MESSAGE_TIMEOUT_MS"] = "5000"
    worker = hurt.start("consume", "--json", "-v")
    worker.wait_for_line("assigned")
    hurt.delete_topic(hurt.dead_letter_topic)
    hurt.produce([order(1, amount="-1.00")])
    ended = worker.ended()
    assert ended.code == 1, ended.stderr
    assert "cannot be written" in ended.stderr
    assert (ended.json["committed"], hurt.lag()) == (0, 1)


@pytest.mark.long
@pytest.mark.parametrize("what", ["registry", "broker", "store"])
def test_thirty_seconds_of_outage_in_the_middle_of_a_run_cost_no_letter(
    hurt: Pipe, fragile: LocalStack, what: str
) -> None:
    hurt.produce([order(0)])  # bytes to repeat while the registry is away
    warm = hurt.run("consume", "--until-end")
    assert warm.code == 0, warm.stderr
    worker = hurt.start("consume", "-v", "--json")  # its cache is cold: it has decoded nothing yet
    worker.wait_for_line("assigned")
    if what == "registry":
        records = [(f"A-{n}".encode(), hurt.encoded(order(n)), []) for n in range(1, 3001)]
        fragile.registry.kill()
        publish(hurt, *records[:1500])
        expected = 3001
    else:
        records, expected = [], 6001
        source = hurt.home / "orders.ndjson"
        hurt.write_orders(source, [order(n) for n in range(1, expected)])
        hurt.env["PIPELINE_KAFKA__MESSAGE_TIMEOUT_MS"] = "90000"
        feeding = hurt.start("produce", "--input", str(source), "--rate", "150", "--json")
        worker.wait_for_line("✔")
    began = time.monotonic()
    if what == "broker":
        fragile.kafka.kill()
    held = sqlite3.connect(hurt.store, isolation_level=None) if what == "store" else None
    if held is not None:
        held.execute("BEGIN EXCLUSIVE")
    wait_until(lambda: time.monotonic() - began > 30, "the outage to last")
    assert worker.popen.poll() is None, worker.said()
    if held is not None:
        held.execute("ROLLBACK")
        held.close()
    for server in fragile.servers:
        if server.pid is None:
            server.start()
            server.wait_until_ready()
    if records:
        publish(hurt, *records[1500:])
    else:
        fed = feeding.ended(120)
        assert (fed.code, fed.json["published"]) == (0, expected - 1), fed.stderr
    wait_until(lambda: len(stored(hurt)) == expected and hurt.lag() == 0, "everything stored", 90)
    ended = worker.end()
    assert (ended.code, ended.json["dead_lettered"], ended.json["parked"]) == (0, 0, 0), ended.stderr
    assert letters(hurt) == []
