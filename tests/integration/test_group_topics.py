"""A group's retry topics and dead letters on a real broker: tiers that change, sources that grow, topics that keep too little."""

import json
from contextlib import suppress
from typing import Any

import pytest

from pipeline.core.retry import KEPT_MS, topic_name
from pipeline.core.topic_plan import Grow
from pipeline.errors import BrokerUnavailable, TopicRefused
from pipeline.stages import provision
from tests.integration.conftest import Pipe, create, declared, order, wait_until
from tests.integration.test_forward import forwarder, output  # noqa: F401  # a fixture

pytestmark = pytest.mark.integration

SHOP = """
from pathlib import Path
from pipeline.core.record import Keyed, Record
from pipeline.errors import Reject

def handle(event: dict, record: Record) -> None:
    if event["order_id"].startswith("bad"):
        raise Reject("not this one")
    if event["order_id"] == "A-0" and not Path("fixed").exists():
        raise OSError("not now")
    if event["order_id"] == "A-1000" and record.attempt == 1:
        raise OSError("not at once")
    with Path("done").open("a") as done:
        done.write(f"{record.key.decode()} {event['amount']}\\n")

def transform(event: dict, record: Record) -> Keyed:
    handle(event, record)
    return Keyed(event["customer_id"], event)
"""


def done(pipe: Pipe) -> list[str]:
    path = pipe.home / "done"
    return path.read_text().splitlines() if path.exists() else []


def held(pipe: Pipe, topic: str) -> int:
    """How many offsets a topic has that is made or grows just now."""
    with suppress(BrokerUnavailable, TopicRefused):
        return pipe.end_of(topic)
    return 0


def run_of(door: str) -> tuple[str, ...]:
    return (
        ("consume", "--handler", "shop:handle") if door == "consume" else ("forward", "--transform", "shop:transform")
    )


@pytest.fixture
def shop(forwarder: Pipe) -> Pipe:  # noqa: F811
    (forwarder.home / "shop.py").write_text(SHOP)
    forwarder.env |= {
        "PIPELINE_KAFKA__CONSUMER_GROUP": forwarder.group, "PYTHONPATH": f"{forwarder.env['PYTHONPATH']}:{forwarder.home}",
        "PIPELINE_RETRY__ATTEMPTS": "1",
    }  # fmt: skip
    return forwarder


@pytest.mark.parametrize("tiers", ["1s", "none"])
@pytest.mark.parametrize("door", ["consume", "forward"])
def test_record_that_waits_in_a_tier_that_is_not_configured_any_more_is_tried_before_later_ones_of_its_key(
    shop: Pipe, door: str, tiers: str
) -> None:
    shop.env["PIPELINE_RETRY__TIERS"] = "6s"
    old = topic_name(shop.topic, shop.group, 6)
    shop.produce([order(0, amount="1.00")])
    worker = shop.start(*run_of(door))
    wait_until(lambda: held(shop, old), "the record waits")
    assert worker.end().code == 0
    (shop.home / "fixed").touch()
    shop.env["PIPELINE_RETRY__TIERS"] = tiers
    shop.produce([order(0, amount="2.00"), order(1, amount="3.00")])
    worker = shop.start(*run_of(door))
    wait_until(lambda: len(done(shop)) == 3, "all three")
    assert [line for line in done(shop) if line.startswith("A-0")] == ["A-0 1.00", "A-0 2.00"]
    wait_until(lambda: sum(shop.cluster.lag(shop.group, old).values()) == 0, "the old tier is empty")
    ended = worker.end()
    assert ended.code == 0
    assert f"{old} is a retry topic of the group that retry.tiers does not name any more: up to " in ended.stderr


@pytest.mark.parametrize("door", ["consume", "forward"])
def test_partitions_that_are_added_while_a_worker_runs_are_read_with_retries_and_letters(
    shop: Pipe, door: str, protocol: str
) -> None:
    shop.env |= {"PIPELINE_KAFKA__GROUP_PROTOCOL": protocol, "PIPELINE_RETRY__TIERS": "1s"}
    shop.produce([order(number) for number in range(1, 10)])
    worker = shop.start(*run_of(door))
    wait_until(lambda: len(done(shop)) == 9, "what was there")
    shop.cluster.grow(Grow(shop.topic, 3, 7))
    provision.wait_for_leaders(shop.cluster, {shop.topic: 7}, 60)
    shop.produce(
        [order(number) for number in range(10, 60)] + [order(1000)] + [order(n, order_id=f"bad-{n}") for n in range(30)]
    )
    wait_until(lambda: held(shop, shop.dead_letter_topic) >= 30, "the letters", 90)
    wait_until(lambda: len(set(done(shop))) == 60, "all the others, the failed one too", 90)
    assert worker.popen.poll() is None, worker.said()
    assert worker.end().code == 0
    assert {record.partition for record in shop.records(shop.dead_letter_topic)} >= {3, 4, 5, 6}
    assert shop.cluster.partitions(topic_name(shop.topic, shop.group, 1)) == 7
    assert len(done(shop)) == 60, "each once"


def test_retry_topic_keeps_its_records_longer_than_its_tier(shop: Pipe) -> None:
    day_ms = 86_400_000
    shop.env["PIPELINE_RETRY__TIERS"] = "5s,45d"
    short, long = topic_name(shop.topic, shop.group, 5), topic_name(shop.topic, shop.group, 45 * 86_400)
    create(shop.cluster, declared(short, 3, {"retention.ms": "600000", "cleanup.policy": "compact"}))
    ended = shop.run(*run_of("consume"), "--until-end")
    assert ended.code == 0, ended.stderr
    configs: dict[str, dict[str, Any]] = shop.cluster.topic_configs([short, long])
    assert int(configs[long]["retention.ms"]) == KEPT_MS + 45 * day_ms
    assert int(configs[short]["retention.ms"]) >= KEPT_MS
    assert {json.dumps(it["cleanup.policy"]) for it in configs.values()} == {'"delete"'}
    assert f"{short} could lose records before they are due: set to" in ended.stderr


def test_compacted_dead_letter_topic_is_refused(shop: Pipe) -> None:
    shop.cluster.alter(shop.dead_letter_topic, {"cleanup.policy": "compact"})
    ended = shop.run(*run_of("consume"), "--until-end")
    assert ended.code == 2
    assert "cleanup.policy=compact: a second letter of a key would remove the first" in ended.stderr
