"""Order per key through failing handlers, members that come and go, and kill -9: proven from the ids in the data."""

import itertools
import random
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka import Producer

from pipeline.core.retry import topic_name
from tests.integration.conftest import Pipe, Process, order, wait_until

pytestmark = pytest.mark.integration

KEYS = 50
RATE = 400
# One line for each effect, appended in one write, so the file's order is the order of the effects in all processes.
SHOP = """
import asyncio, os, random
from pipeline.core.record import Record

effects = os.open("effects.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

async def flaky(event: dict, record: Record) -> None:
    await asyncio.sleep(random.random() / 200)
    if random.random() < 0.05:
        raise RuntimeError("not now")
    os.write(effects, f"{event['customer_id']} {event['order_id']}\\n".encode())
"""


@contextmanager
def feeding(pipe: Pipe) -> Iterator[list[int]]:
    """Orders 0, 1, 2, … of each key in turn, until the block ends; how many of each key were acknowledged."""
    producer = Producer(pipe.properties | {"enable.idempotence": True, "partitioner": "murmur2_random"})
    stop, counts, unacknowledged = threading.Event(), [0] * KEYS, []

    def feed() -> None:
        for number in itertools.count():
            if number % (RATE // 10) == 0 and stop.wait(0.1):
                return
            key, sequence = number % KEYS, number // KEYS
            value = pipe.encoded(order(0, order_id=str(sequence), customer_id=f"k{key}"))
            producer.produce(
                pipe.topic, value, f"k{key}",
                on_delivery=lambda error, _: unacknowledged.append(error) if error else None,
            )  # fmt: skip
            producer.poll(0)
            counts[key] += 1

    thread = threading.Thread(target=feed, daemon=True)
    thread.start()
    try:
        yield counts
    finally:
        stop.set()
        thread.join()
        assert producer.flush(30) == 0
        assert unacknowledged == []
        producer.close()


def effects(pipe: Pipe) -> dict[str, list[int]]:
    """By key, the numbers of its orders in the order in which they had their first effect."""
    found: dict[str, list[int]] = defaultdict(list)
    seen: set[tuple[str, int]] = set()
    path = pipe.home / "effects.txt"
    for line in path.read_text().splitlines() if path.exists() else ():
        key, number = line.split()
        if (key, int(number)) not in seen:
            seen.add((key, int(number)))
            found[key].append(int(number))
    return found


@pytest.mark.parametrize(
    ("members", "rounds"),
    [
        ("dynamic", 3),
        pytest.param("static", 3, marks=pytest.mark.long),
        pytest.param("dynamic", 12, marks=pytest.mark.long),
        pytest.param("static", 12, marks=pytest.mark.long),
    ],
)
def test_members_join_leave_and_die_while_records_fail_and_every_key_keeps_its_order(
    pipe: Pipe, protocol: str, members: str, rounds: int
) -> None:
    (pipe.home / "shop.py").write_text(SHOP)
    pipe.env |= {
        "PIPELINE_KAFKA__GROUP_PROTOCOL": protocol,
        "PIPELINE_RETRY__ATTEMPTS": "2",
        "PIPELINE_RETRY__TIERS": "1s,2s,4s",
    }
    if protocol == "classic":
        pipe.env |= {
            "PIPELINE_KAFKA__EXTRA__SESSION_TIMEOUT_MS": "3000",
            "PIPELINE_KAFKA__EXTRA__HEARTBEAT_INTERVAL_MS": "500",
        }
    chance = random.Random(20260104)

    def start(name: str) -> tuple[str, Process]:
        named = ["--instance", name] if members == "static" else []
        worker = pipe.start("consume", "--handler", "shop:flaky", "--concurrency", "32", *named)
        worker.wait_for_line("assigned")
        return name, worker

    workers = [start(f"worker-{number}") for number in range(3)]
    with feeding(pipe) as counts:
        for number in range(rounds):
            name, going = workers.pop(chance.randrange(len(workers)))
            size = (pipe.home / "effects.txt").stat().st_size if (pipe.home / "effects.txt").exists() else 0
            if number < 2:
                going.popen.kill()
                going.popen.communicate()
            else:
                ended = going.end()
                assert ended.code == 0, ended.stderr
            workers.append(start(name))
            wait_until(lambda: (pipe.home / "effects.txt").stat().st_size > size + 10_000, "orders flow on")  # noqa: B023
    expected = {f"k{key}": list(range(count)) for key, count in enumerate(counts)}
    total = sum(counts)

    def all_there() -> bool:
        assert pipe.records(pipe.dead_letter_topic) == []
        return sum(map(len, effects(pipe).values())) == total

    wait_until(all_there, f"{total} effects", 120)
    tiers = [topic_name(pipe.topic, pipe.group, delay) for delay in (1, 2, 4)]
    wait_until(
        lambda: all(sum(pipe.cluster.lag(pipe.group, topic).values()) == 0 for topic in (pipe.topic, *tiers)), "no lag"
    )
    assert effects(pipe) == expected
    assert pipe.end_of(tiers[0]) > 0, "some went the long way"
    for _, worker in workers:
        ended = worker.end()
        assert ended.code == 0, ended.stderr
