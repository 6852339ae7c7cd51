"""Publishing on fakes, event by event. Twins on a real broker: tests/integration/test_produce.py."""

import io
import json
import os
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from pipeline.core.record import Record
from pipeline.errors import BrokerUnavailable, DeliveryFailed, InputBroken, InputRefused, Stopped
from pipeline.orders import OrderPlaced
from pipeline.stages.intake import Refusal
from pipeline.stages.produce import LOT, Produce
from pipeline.stages.report import ProduceReport, consume_report, rejects_file
from tests.stages.fakes import FakeClock, FakePublisher, PlainEncoder


def order(order_id: str) -> OrderPlaced:
    return OrderPlaced(
        order_id=order_id, customer_id="c", amount=Decimal("1.20"), timestamp_utc=datetime(2026, 1, 1, tzinfo=UTC)
    )


class Bench:
    def __init__(self, *, verbose: bool = False, rate: float | None = None) -> None:
        self.publisher = FakePublisher()
        self.said: list[str] = []
        self.rejects = io.StringIO()
        self.clock = FakeClock()
        report = ProduceReport(self.said.append, verbose=verbose, rejects=self.rejects)
        self.stage = Produce(
            publisher=self.publisher,
            topic="orders.v1",
            encoder=PlainEncoder(),
            clock=self.clock,
            delivered=report.delivered,
            refused=report.refused,
            rate=rate,
        )

    def run(self, orders: object) -> None:
        self.stage.run(orders, lambda: False, lambda: None)  # type: ignore[arg-type]


def test_order_is_published_under_its_id_and_said_with_its_place() -> None:
    bench = Bench(verbose=True)
    bench.run([order("A-1")])
    assert [(topic, key) for topic, key, *_ in bench.publisher.published] == [("orders.v1", b"A-1")]
    assert bench.said == ["✔ orders.v1 [0] @ 0 A-1"]


def test_refused_line_is_kept_with_number_and_reason_and_not_published() -> None:
    bench = Bench()
    bench.run([Refusal(7, "amount: too long", '{"amount":"1.234"}'), order("A-1")])
    assert json.loads(bench.rejects.getvalue()) == {
        "line": 7, "reason": "amount: too long", "input": '{"amount":"1.234"}',
    }  # fmt: skip
    assert bench.stage.totals.summary() | {"seconds": 0} == {
        "read": 2, "refused": 1, "published": 1, "failed": 0, "seconds": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("error", "words"),
    [(BrokerUnavailable("timed out"), "unknown"), (DeliveryFailed("too large"), "it is not in the topic")],
)
def test_unacknowledged_order_is_named_with_what_that_means(error: Exception, words: str) -> None:
    bench = Bench()
    bench.publisher.fail = lambda key: error if key == b"A-2" else None  # type: ignore[assignment,return-value]
    bench.run([order("A-1"), order("A-2"), order("A-3")])
    assert (bench.stage.totals.published, bench.stage.totals.failed) == (2, 1)
    [line] = bench.said
    assert line.startswith("✖ A-2 is not acknowledged")
    assert words in line


def test_input_that_breaks_off_still_gets_a_report_for_every_order_before() -> None:
    def orders() -> object:
        yield order("A-1")
        raise InputBroken("ends in the middle")

    bench = Bench()
    with pytest.raises(InputBroken):
        bench.run(orders())
    assert bench.stage.totals.published == 1


def test_rate_spreads_orders_over_time() -> None:
    bench = Bench(rate=1.0)
    bench.run([order(str(number)) for number in range(5)])
    assert bench.clock.now >= 4, "the fifth order is due four seconds after the first"


def test_stopped_in_the_middle_it_awaits_what_was_read_and_says_that_it_stopped() -> None:
    bench = Bench()
    bench.stage.run([order("A-1"), order("A-2")], lambda: bench.stage.totals.read == 1, lambda: None)
    assert (bench.stage.totals.read, bench.stage.totals.published, bench.stage.stopped) == (1, 1, True)


def test_stopped_while_the_input_is_silent_it_awaits_what_was_read() -> None:
    def orders() -> object:
        yield order("A-1")
        raise Stopped

    bench = Bench()
    bench.run(orders())
    assert (bench.stage.totals.published, bench.stage.stopped) == (1, True)


def test_order_is_said_while_the_input_is_silent() -> None:
    bench = Bench(verbose=True)

    def orders() -> object:
        yield order("A-1")
        bench.stage.meanwhile()
        assert bench.said == ["✔ orders.v1 [0] @ 0 A-1"]

    bench.run(orders())
    assert bench.stage.totals.published == 1


@pytest.mark.parametrize(("rate", "sizes"), [(None, {0, LOT, 2 * LOT}), (1e9, set(range(600)))])
def test_orders_are_handed_over_in_lots_or_at_a_rate_one_by_one(rate: float | None, sizes: set[int]) -> None:
    bench = Bench(rate=rate)
    seen = set()

    def orders() -> object:
        for number in range(600):
            seen.add(len(bench.publisher.taken))
            yield order(str(number))

    bench.run(orders())
    assert seen == sizes
    assert bench.publisher.taken == [b"%d" % number for number in range(600)]
    assert bench.stage.totals.published == 600


@pytest.mark.parametrize("kind", ["itself", "hard link", "symbolic link"])
def test_rejects_file_that_is_the_input_is_refused_and_left_as_it_was(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "orders.ndjson"
    source.write_text("orders")
    name = source if kind == "itself" else tmp_path / "rejects"
    if kind == "hard link":
        name.hardlink_to(source)
    elif kind == "symbolic link":
        name.symlink_to(source)
    with source.open("rb") as opened:
        stat = os.fstat(opened.fileno())
        with pytest.raises(InputRefused, match="is the input itself"), rejects_file(str(name), stat):
            pass
        with rejects_file(str(tmp_path / "others"), stat) as file:
            assert file is not None
    assert source.read_text() == "orders"


def test_control_characters_of_a_key_are_said_as_their_escapes() -> None:
    key = "A\r\n\0\x1b[31m\u202e1 ü✓"
    visible = "A\\r\\n\\x00\\x1b[31m\\u202e1 ü✓"
    bench = Bench(verbose=True)
    bench.run([order(key)])
    assert bench.said == [f"✔ orders.v1 [0] @ 0 {visible}"]
    said: list[str] = []
    consume_report(said.append, verbose=True)(Record("t", 0, 1, key.encode(), b""), None)
    assert said == [f"✔ t [0] @ 1 {visible}"]


def test_control_characters_of_a_reason_are_said_as_their_escapes() -> None:
    said: list[str] = []
    ProduceReport(said.append, verbose=False).refused(Refusal(1, "x\x1b[2J: Extra inputs are not permitted", None))
    assert said == ["✖ line 1 refused: x\\x1b[2J: Extra inputs are not permitted"]
