"""What the dashboard makes of its looks: rates, latencies, revenue."""

import json
import time
from pathlib import Path
from typing import Any, cast

import pytest

from pipeline import settings
from pipeline.api.watch import Flow, Rates, Watch, _most
from pipeline.core.group_plan import Group, Standing
from pipeline.core.record import Record, TopicPartition
from pipeline.errors import BrokerUnavailable, PipelineError, RegistryUnavailable, TopicRefused
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


class Reachable:
    """A broker that answers; `end_offsets` as the topic has them."""

    def wait_until_reachable(self, _: float) -> None: ...

    def end_offsets(self, topic: str) -> dict[int, int]:
        raise TopicRefused(f"Topic {topic} is not there")


class NoLetters:
    """An index without letters."""

    def stats(self) -> dict[str, Any]:
        return {"letters": 0, "due": 0, "redriven": 0, "by_reason": {}, "by_source": {}}


def looked(monkeypatch: pytest.MonkeyPatch, **raising: PipelineError) -> dict[str, Any]:
    """What is said after a look at which these raise: `survey`, `follow`."""

    def refusing(name: str) -> Any:
        def refuse(*_: object) -> Any:
            if name in raising:
                raise raising[name]
            return []

        return refuse

    monkeypatch.setattr("pipeline.api.watch.wiring.cluster", lambda _: Reachable())
    monkeypatch.setattr("pipeline.api.watch.groups.survey", refusing("survey"))
    watch = Watch(SETTINGS, lambda: None)
    monkeypatch.setattr(watch._flow, "follow", refusing("follow"))
    watch._look(NoLetters(), cast("Any", None))  # type: ignore[arg-type]
    return watch.state


def test_what_is_refused_costs_its_own_part_and_is_no_broker_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    said = looked(monkeypatch, survey=PipelineError("not authorized"), follow=RegistryUnavailable("registry silent"))
    assert said["broker"]["away_since"] is None
    assert said["seen_at"] is not None
    assert said["problems"] == {
        "groups": "not authorized",
        "rates": "Topic orders.v1 is not there",
        "orders": "registry silent",
    }


def test_broker_that_does_not_answer_costs_all(monkeypatch: pytest.MonkeyPatch) -> None:
    said = looked(monkeypatch, survey=BrokerUnavailable("no answer"))
    assert (said["broker"]["away_since"], said["broker"]["why"]) == (said["at"], "no answer")


def test_reasons_beyond_the_most_frequent_are_counted_and_not_listed() -> None:
    reasons = {f"reason {n} " + "x" * 10_000: n for n in range(100_000)}
    said = _most({"due": 1, "by_reason": reasons, "by_source": {"orders.v1": 1}})
    assert len(said["by_reason"]) == 20
    assert max(map(len, said["by_reason"])) == 256
    assert sum(said["by_reason"].values()) + said["by_reason_others"] == sum(reasons.values())
    assert (said["by_source"], said["by_source_others"]) == ({"orders.v1": 1}, 0)
