"""Slow handlers, records that kill, retries seen from outside: the worker as a user runs it. Twins on fakes: tests/stages."""

import socket

import httpx
import pytest

from pipeline.core.retry import topic_name
from tests.integration.conftest import Pipe, Process, order, wait_until
from tests.integration.test_consume import letters

pytestmark = pytest.mark.integration

SHOP = """
import asyncio, logging, os, signal, time
from pipeline.core.record import Record
from pipeline.errors import Retry

effects = os.open("effects.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def note(text):
    os.write(effects, (text + "\\n").encode())

def slow(event: dict, record: Record) -> None:
    if event["order_id"] == "A-0":
        note("begun A-0")
        time.sleep(5)
    note(event["order_id"])

def deadly(event: dict, record: Record) -> None:
    if event["order_id"] == "A-3":
        note("died")
        os.kill(os.getpid(), signal.SIGKILL)
    note(event["order_id"])

def stubborn(event: dict, record: Record) -> None:
    if event["order_id"] == "A-1":
        note(f"tried {record.attempt}")
        raise OSError("the other side is busy")
    note(event["order_id"])

def later(event: dict, record: Record) -> None:
    note(f"{event['order_id']} {record.attempt} {time.monotonic()}")
    if record.attempt == 1:
        raise Retry("not yet", after=1.5)

async def awaited(event: dict, record: Record) -> None:
    note(event["order_id"])

def forgot(event: dict, record: Record) -> None:
    return awaited(event, record)

def generates(event: dict, record: Record) -> None:
    yield note(event["order_id"])

def odd(event: dict, record: Record) -> None:
    logging.getLogger("anything").info("handling %s", event["order_id"])
    if event["order_id"] == "A-1":
        event["nothing"].upper
    if event["order_id"] == "A-2":
        None.upper()
    note(event["order_id"])

async def hangs(event: dict, record: Record) -> None:
    if event["order_id"] == "A-1" and record.attempt == 1:
        await asyncio.sleep(3600)
    note(event["order_id"])
"""


@pytest.fixture
def shop(pipe: Pipe) -> Pipe:
    """With handlers that note what they do."""
    (pipe.home / "shop.py").write_text(SHOP)
    return pipe


def noted(pipe: Pipe) -> list[str]:
    path = pipe.home / "effects.txt"
    return path.read_text().split("\n")[:-1] if path.exists() else []


def start(pipe: Pipe, handler: str, *arguments: str) -> Process:
    return pipe.start("consume", "--handler", f"shop:{handler}", "--json", *arguments)


def test_handler_slower_than_every_timeout_keeps_its_partitions_and_other_keys_flow_on(
    shop: Pipe, protocol: str
) -> None:
    shop.env |= {
        "PIPELINE_KAFKA__GROUP_PROTOCOL": protocol,
        "PIPELINE_KAFKA__EXTRA__MAX_POLL_INTERVAL_MS": "3000",
    }
    if protocol == "classic":
        shop.env |= {
            "PIPELINE_KAFKA__EXTRA__SESSION_TIMEOUT_MS": "2000",
            "PIPELINE_KAFKA__EXTRA__HEARTBEAT_INTERVAL_MS": "500",
        }
    shop.produce([order(n) for n in range(20)])
    worker = start(shop, "slow", "--concurrency", "2")
    wait_until(lambda: "A-0" in noted(shop), "the slow one")
    ended = worker.end()
    assert ended.code == 0, ended.stderr
    assert ended.json["handled"] == ended.json["committed"] == 20
    assert sorted(noted(shop)) == sorted(["begun A-0", *(f"A-{n}" for n in range(20))]), "each one once"
    assert noted(shop)[-1] == "A-0", "the others did not wait for it"
    assert "lost" not in ended.stderr
    assert shop.lag() == 0


def test_record_that_kills_three_workers_becomes_a_letter_undecoded_and_the_rest_is_handled(shop: Pipe) -> None:
    shop.produce([order(n) for n in range(8)])
    deaths = 0
    while (worker := start(shop, "deadly", "--until-end")).popen.wait(60) == -9:
        deaths += 1
        assert deaths <= 3, worker.said()
    assert worker.popen.returncode == 0, worker.said()
    assert deaths == noted(shop).count("died") == 3
    [letter] = letters(shop)
    assert (letter["key"], letter["reason"], letter["attempts"]) == (b"A-3", "crash_loop", 1)
    assert {it for it in noted(shop) if it != "died"} == {f"A-{n}" for n in range(8) if n != 3}
    assert shop.lag() == 0


def test_record_that_fails_everywhere_becomes_a_letter_with_its_history(shop: Pipe) -> None:
    shop.env |= {"PIPELINE_RETRY__ATTEMPTS": "2", "PIPELINE_RETRY__TIERS": "1s,2s"}
    shop.produce([order(n) for n in range(3)])
    [its] = [record for record in shop.records(shop.topic) if record.key == b"A-1"]
    worker = start(shop, "stubborn")
    wait_until(lambda: letters(shop), "a letter")
    ended = worker.end()
    assert (ended.code, ended.json["parked"], ended.json["dead_lettered"]) == (0, 2, 1), ended.stderr
    assert [it for it in noted(shop) if it.startswith("tried")] == [f"tried {n}" for n in range(1, 5)]
    [letter] = letters(shop)
    assert (letter["reason"], letter["attempts"], letter["error_class"]) == ("retries_exhausted", 4, "OSError")
    assert letter["error"] == "failed 4 times, at last: the other side is busy"
    assert (letter["source_topic"], letter["source_partition"], letter["source_offset"]) == (*its.source, its.offset)
    assert letter["headers"] == [{"name": name, "value": value} for name, value in its.headers]
    assert (letter["failed_at"] - letter["first_failed_at"]).total_seconds() >= 3
    sizes = [
        len(record.headers) for tier in (1, 2) for record in shop.records(topic_name(shop.topic, shop.group, tier))
    ]
    assert len(sizes) == 2
    assert sizes[0] == sizes[1], "headers are replaced at each hop, never added to"


def test_handler_that_asks_for_a_later_try_gets_it_not_before(shop: Pipe) -> None:
    shop.env |= {"PIPELINE_RETRY__BACKOFF_MAX_S": "1", "PIPELINE_RETRY__TIERS": "1s,2s"}
    shop.produce([order(0)])
    worker = start(shop, "later")
    wait_until(lambda: len(noted(shop)) == 2, "the second try")
    assert worker.end().code == 0
    first, second = (line.split() for line in noted(shop))
    assert (first[1], second[1]) == ("1", "2")
    assert float(second[2]) - float(first[2]) >= 1.5
    assert shop.end_of(topic_name(shop.topic, shop.group, 1)) == 0, "a second is too early"
    assert shop.end_of(topic_name(shop.topic, shop.group, 2)) == 1


def test_members_of_unlike_settings_are_refused_by_name(shop: Pipe) -> None:
    """What a member cannot do is said before it joins: a group name that makes no topic name."""
    ended = shop.run("consume", "--group", "a group", "--until-end")
    assert ended.code == 2
    assert "give the retry topics no possible name" in ended.stderr
    assert shop.run("consume", "--group", "a group", "--until-end").code == 2
    shop.env["PIPELINE_RETRY__TIERS"] = "none"
    assert shop.run("consume", "--group", "a group", "--until-end").code == 0


def test_done_ahead_of_a_slow_record_is_not_repeated_after_a_kill(shop: Pipe) -> None:
    shop.produce([order(0)])
    [slow] = shop.records(shop.topic)
    shop.produce([order(n) for n in range(1, 60)])
    same = [record for record in shop.records(shop.topic) if record.partition == slow.partition]
    worker = start(shop, "slow", "--concurrency", "4")
    wait_until(lambda: len(noted(shop)) == 60, "all but the slow one")
    # Their commits come at the latest every tenth of a second; the slow one takes five seconds.
    wait_until(lambda: shop.done_ahead(slow.partition) == len(same) - 1, "done ones in the commit's metadata")
    worker.popen.kill()
    worker.popen.communicate()
    again = shop.run("consume", "--handler", "shop:slow", "--until-end", "--json")
    assert (again.code, again.json["handled"]) == (0, 1), again.stderr
    assert sorted(noted(shop)) == sorted(["begun A-0"] * 2 + [f"A-{n}" for n in range(60)])


def test_every_class_of_failure_has_its_own_metric(shop: Pipe) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shop.env |= {"PIPELINE_RETRY__TIERS": "60s", "PIPELINE_RETRY__ATTEMPTS": "1", "PIPELINE_METRICS__PORT": str(port)}
    shop.produce([order(n) for n in range(5)])
    worker = start(shop, "stubborn")
    expected = {
        'pipeline_records_total{group="%s",outcome="handled",topic="%s"}': "4.0",
        'pipeline_records_total{group="%s",outcome="parked",topic="%s"}': "1.0",
        'pipeline_failures_total{group="%s",kind="transient",topic="%s"}': "1.0",
        'pipeline_failures_total{group="%s",kind="undecodable",topic="%s"}': "0.0",
        'pipeline_parked_records{group="%s",topic="%s"}': "1.0",
    }

    def there() -> bool:
        try:
            answer = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        except httpx.TransportError:
            return False
        lines = dict(line.rsplit(" ", 1) for line in answer.splitlines() if not line.startswith("#"))
        return all(lines.get(name % (shop.group, shop.topic)) == value for name, value in expected.items())

    wait_until(there, "the metrics")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        shop.env["PIPELINE_METRICS__PORT"] = str(taken.getsockname()[1])
        refused = shop.run("consume", "--until-end")
    assert (refused.code, "metrics.port" in refused.stderr) == (2, True), refused.stderr
    assert worker.end().code == 0


def test_handler_that_does_not_run_handles_nothing(shop: Pipe) -> None:
    shop.produce([order(n) for n in range(3)])
    refused = shop.run("consume", "--handler", "shop:generates", "--until-end")
    assert (refused.code, "has a `yield`" in refused.stderr) == (2, True), refused.stderr
    stopped = shop.run("consume", "--handler", "shop:forgot", "--until-end", "--json")
    assert (stopped.code, stopped.json["handled"]) == (1, 0), stopped.stderr
    assert "returned coroutine, which nobody awaits" in stopped.stderr
    assert (noted(shop), shop.lag(), letters(shop)) == ([], 3, [])


def test_bug_that_one_record_brings_out_is_its_dead_letter_by_choice_and_what_handlers_log_is_shown(shop: Pipe) -> None:
    shop.env |= {
        "PIPELINE_RETRY__BUGS": "dead-letter",
        "PIPELINE_RETRY__TIERS": "none",
        "PIPELINE_RETRY__ATTEMPTS": "1",
    }
    shop.produce([order(n) for n in range(4)])
    ended = shop.run("consume", "--handler", "shop:odd", "--until-end", "--json")
    assert ended.code == 0, ended.stderr
    assert sorted(noted(shop)) == ["A-0", "A-3"]
    assert {letter["key"]: letter["reason"] for letter in letters(shop)} == {b"A-1": "retries_exhausted", b"A-2": "bug"}
    assert "handling A-0" in ended.stderr


def test_async_handler_that_hangs_is_cancelled_and_tried_again(shop: Pipe) -> None:
    shop.env |= {"PIPELINE_CONSUME__HANDLER_TIMEOUT_S": "0.5"}
    shop.produce([order(n) for n in range(3)])
    ended = shop.run("consume", "--handler", "shop:hangs", "--until-end", "--json")
    assert (ended.code, ended.json["handled"]) == (0, 3), ended.stderr
    assert sorted(noted(shop)) == ["A-0", "A-1", "A-2"]
