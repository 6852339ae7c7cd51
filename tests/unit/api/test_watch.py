"""What the dashboard makes of its looks: rates, latencies, revenue."""

import json
import time
from pathlib import Path

import pytest

from pipeline import settings
from pipeline.api.watch import Flow, Rates
from pipeline.core.group_plan import Group, Standing
from pipeline.core.record import Record, TopicPartition
from pipeline.orders import generate
from pipeline.serde.avro import AvroReader, AvroWriter
from pipeline.stages.groups import Progress

SETTINGS = settings.Settings()
SCHEMA = json.loads((Path(__file__).parents[3] / "schemas/orders.v1-value/v1.avsc").read_text())
WRITER, READER = AvroWriter(SCHEMA, 1), AvroReader(SCHEMA, lambda _: json.dumps(SCHEMA))
ORDERS = list(generate(3, seed=1))


def progress(committed: int, end: int, name: str = "orders-workers") -> Progress:
    place = TopicPartition("orders.v1", 0)
    return Progress(Group(name, "stable", "classic"), (Standing(place, committed, end, end - committed, None),))


def test_rates_are_what_came_and_went_between_two_looks() -> None:
    rates = Rates(SETTINGS)
    rates.saw(100.0, {0: 1000}, [progress(900, 1000)])
    rates.saw(102.0, {0: 1200}, [progress(1150, 1200), progress(0, 1200, "another")])
    assert list(rates.points) == [(102.0, 100.0, 125.0, 50)]


def test_group_that_is_not_there_leaves_a_gap_and_no_zero() -> None:
    rates = Rates(SETTINGS)
    rates.saw(100.0, {0: 1000}, [])
    rates.saw(101.0, {0: 1000}, [progress(1000, 1000)])
    rates.saw(102.0, {0: 1010}, [progress(1000, 1010)])
    assert [point[2] for point in rates.points] == [None, 0.0]


@pytest.fixture
def flow() -> Flow:
    it = Flow(SETTINGS)
    it._decoder = READER
    return it


def record(number: int, written_ms: int) -> Record:
    return Record("orders.v1", 0, number, b"k", WRITER.encode(ORDERS[number].__dict__), (), written_ms)


def test_revenue_is_summed_by_the_minute_in_which_an_order_was_written(flow: Flow) -> None:
    now_ms = int(time.time() * 1000) // 60_000 * 60_000
    for number, written in enumerate((now_ms, now_ms + 59_000, now_ms - 1)):
        flow._look_at(record(number, written))
    first, second, third = (order.amount for order in ORDERS)
    assert flow.revenue == {now_ms // 1000: first + second, now_ms // 1000 - 60: third}
    assert [each["order_id"] for each in flow.latest] == [order.order_id for order in ORDERS]


def test_record_that_is_no_order_is_passed_over(flow: Flow) -> None:
    flow._look_at(Record("orders.v1", 0, 0, b"k", b"junk", (), 1))
    assert (list(flow.latest), flow.revenue) == ([], {})


def test_latency_is_told_at_most_from_commits_and_measured_where_the_worker_is_here(flow: Flow) -> None:
    now = time.time()
    flow._look_at(record(0, int(now * 1000) + 10))
    flow._look_at(record(1, int(now * 1000) + 10))
    flow.committed([progress(1, 2)], "orders-workers")
    found = flow.latency(time.time())
    assert found is not None
    assert (found["kind"], found["count"]) == ("at most", 1)
    flow.latencies.append((now, 12.0))
    measured = flow.latency(time.time())
    assert measured is not None
    assert (measured["kind"], measured["p50"]) == ("measured", 12.0)
    assert flow.latency(now + 3600) is None, "of an hour ago is of no use"
