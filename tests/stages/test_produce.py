"""Publishing on fakes, event by event. Twins on a real broker: tests/integration/test_produce.py."""

import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.record import Record
from pipeline.errors import BrokerUnavailable, DeliveryFailed, InputBroken, InputRefused, Invalid, Stopped
from pipeline.orders import OrderPlaced
from pipeline.stages.intake import Intake, Refusal
from pipeline.stages.produce import LOT, PAUSE_AFTER_S, STOP_S, Produce
from pipeline.stages.report import ProduceReport, consume_report, rejects_file
from pipeline.stages.unacknowledged import Unacknowledged, unacknowledged_file
from tests.stages.fakes import FakeClock, FakePublisher


def order(order_id: str) -> OrderPlaced:
    return OrderPlaced(
        order_id=order_id, customer_id="c", amount=Decimal("1.20"), timestamp_utc=datetime(2026, 1, 1, tzinfo=UTC)
    )


class JsonEncoder:
    """Keeps the order as its JSON."""

    def encode(self, datum: Mapping[str, Any]) -> bytes:
        return OrderPlaced.model_construct(**datum).model_dump_json().encode()


def decode(value: bytes | None) -> dict[str, Any]:
    return json.loads(value or b"")


class Bench:
    def __init__(
        self,
        folder: Path,
        *,
        verbose: bool = False,
        rate: float | None = None,
        is_csv: bool = False,
        give_up_after_s: float = 0.0,
    ) -> None:
        self.publisher = FakePublisher()
        self.said: list[str] = []
        self.rejects = io.StringIO()
        self.clock = FakeClock()
        self.kept = Unacknowledged(folder / "kept", is_csv=is_csv, decode=decode, say=self.said.append)
        report = ProduceReport(self.said.append, verbose=verbose, unacknowledged=self.kept, rejects=self.rejects)
        self.stage = Produce(
            publisher=self.publisher,
            topic="orders.v1",
            encoder=JsonEncoder(),
            clock=self.clock,
            delivered=report.delivered,
            refused=report.refused,
            rate=rate,
            give_up_after_s=give_up_after_s,
        )

    def run(self, orders: object, stopping: Callable[[], bool] = lambda: False) -> None:
        self.stage.run(orders, stopping, lambda: None)  # type: ignore[arg-type]
        self.kept.close()


def orders_in(path: Path) -> list[OrderPlaced | Refusal]:
    with path.open("rb") as file:
        return list(Intake(file, str(path)))


def test_order_is_published_under_its_id_and_said_with_its_place(tmp_path: Path) -> None:
    bench = Bench(tmp_path, verbose=True)
    bench.run([order("A-1")])
    assert [(topic, key) for topic, key, *_ in bench.publisher.published] == [("orders.v1", b"A-1")]
    assert bench.said == ["✔ orders.v1 [0] @ 0 A-1"]


def test_refused_line_is_kept_with_number_and_reason_and_not_published(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
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
def test_unacknowledged_order_is_named_with_what_that_means(error: Exception, words: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.publisher.fail = lambda key: error if key == b"A-2" else None  # type: ignore[assignment,return-value]
    bench.run([order("A-1"), order("A-2"), order("A-3")])
    assert (bench.stage.totals.published, bench.stage.totals.failed) == (2, 1)
    line, where = bench.said
    assert line.startswith("✖ A-2 is not acknowledged")
    assert words in line
    assert where.startswith("✖ 1 orders are not acknowledged")
    assert orders_in(bench.kept.name) == [order("A-2")]


def test_input_that_breaks_off_still_gets_a_report_for_every_order_before(tmp_path: Path) -> None:
    def orders() -> object:
        yield order("A-1")
        raise InputBroken("ends in the middle")

    bench = Bench(tmp_path)
    with pytest.raises(InputBroken):
        bench.run(orders())
    assert bench.stage.totals.published == 1


def test_order_that_the_contract_refuses_is_kept_with_the_number_and_the_text_of_its_line(tmp_path: Path) -> None:
    lines = [json.dumps(json.loads(order(name).model_dump_json())) for name in ("A", "refused", "B")]
    text = f"\n{lines[0]}\n\n{lines[1]}\n{lines[2]}\n"
    bench = Bench(tmp_path)
    encode = bench.stage._encoder.encode

    def picky(datum: Mapping[str, Any]) -> bytes:
        if datum["order_id"] == "refused":
            raise Invalid("customer_id: no")
        return encode(datum)

    bench.stage._encoder.encode = picky  # type: ignore[method-assign]
    bench.stage.run(Intake(io.BytesIO(text.encode()), "orders.ndjson"), lambda: False, lambda: None)
    assert json.loads(bench.rejects.getvalue()) == {"line": 4, "reason": "customer_id: no", "input": lines[1]}
    assert bench.stage.totals.refused == 1
    assert bench.stage.totals.published == 2


def test_rate_spreads_orders_over_time(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rate=1.0)
    bench.run([order(str(number)) for number in range(5)])
    assert bench.clock.now >= 4, "the fifth order is due four seconds after the first"


def test_stopped_in_the_middle_it_awaits_what_was_read_and_says_that_it_stopped(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.stage.run([order("A-1"), order("A-2")], lambda: bench.stage.totals.read == 1, lambda: None)
    assert (bench.stage.totals.read, bench.stage.totals.published, bench.stage.stopped) == (1, 1, True)


def test_stopped_while_the_input_is_silent_it_awaits_what_was_read(tmp_path: Path) -> None:
    def orders() -> object:
        yield order("A-1")
        raise Stopped

    bench = Bench(tmp_path)
    bench.run(orders())
    assert (bench.stage.totals.published, bench.stage.stopped) == (1, True)


def test_order_is_said_while_the_input_is_silent(tmp_path: Path) -> None:
    bench = Bench(tmp_path, verbose=True)

    def orders() -> object:
        yield order("A-1")
        bench.stage.meanwhile()
        assert bench.said == ["✔ orders.v1 [0] @ 0 A-1"]

    bench.run(orders())
    assert bench.stage.totals.published == 1


@pytest.mark.parametrize(("rate", "sizes"), [(None, {0, LOT, 2 * LOT}), (1e9, set(range(600)))])
def test_orders_are_handed_over_in_lots_or_at_a_rate_one_by_one(
    rate: float | None, sizes: set[int], tmp_path: Path
) -> None:
    bench = Bench(tmp_path, rate=rate)
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


def test_control_characters_of_a_key_are_said_as_their_escapes(tmp_path: Path) -> None:
    key = "A\r\n\0\x1b[31m\u202e1 ü✓"
    visible = "A\\r\\n\\x00\\x1b[31m\\u202e1 ü✓"
    bench = Bench(tmp_path, verbose=True)
    # None of them gets past the edge any more; what is said of a key does not rely on that.
    bench.run([order("A").model_copy(update={"order_id": key})])
    assert bench.said == [f"✔ orders.v1 [0] @ 0 {visible}"]
    said: list[str] = []
    consume_report(said.append, verbose=True)(Record("t", 0, 1, key.encode(), b""), None)
    assert said == [f"✔ t [0] @ 1 {visible}"]


def test_control_characters_of_a_reason_are_said_as_their_escapes(tmp_path: Path) -> None:
    said: list[str] = []
    kept = Unacknowledged(tmp_path / "kept", is_csv=False, decode=decode, say=said.append)
    ProduceReport(said.append, verbose=False, unacknowledged=kept).refused(
        Refusal(1, "x\x1b[2J: Extra inputs are not permitted", None)
    )
    assert said == ["✖ line 1 refused: x\\x1b[2J: Extra inputs are not permitted"]


class Numbered:
    """Endless orders; `given` counts them."""

    def __init__(self) -> None:
        self.given = 0

    def __iter__(self) -> Iterator[OrderPlaced]:
        while True:
            self.given += 1
            yield order(f"A-{self.given}")


def test_reading_pauses_while_the_broker_is_away_and_goes_on_when_it_is_back(tmp_path: Path) -> None:
    bench, orders, read_at = Bench(tmp_path), Numbered(), []
    bench.publisher.away = True
    back_at = 97.0

    def turn(seconds: float) -> None:
        bench.clock.now += seconds
        if bench.clock.now > 2 * PAUSE_AFTER_S:
            read_at.append(orders.given)
        bench.publisher.away = bench.clock.now < back_at

    bench.publisher.turn = turn
    bench.run(orders, lambda: bench.clock.now > back_at + 5)
    paused = [given for given in read_at if given == read_at[0]]
    assert len(paused) > 100, "for a minute and a half nothing more was read"
    assert orders.given > read_at[0], "and then reading went on"
    assert bench.stage.totals.failed == 0
    assert bench.stage.totals.published == bench.stage.totals.read == orders.given
    assert bench.publisher.taken == [b"A-%d" % number for number in range(1, orders.given + 1)]
    assert not bench.kept.name.exists()


def test_orders_wait_for_room_while_the_queue_is_full_and_none_is_left_out(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.publisher.room = 3
    bench.run([order(str(number)) for number in range(600)])
    assert bench.publisher.taken == [b"%d" % number for number in range(600)]
    assert bench.stage.totals.published == 600


@pytest.mark.parametrize("is_csv", [False, True])
def test_broker_that_stays_away_is_given_up_and_every_order_read_is_kept_in_the_inputs_format(
    is_csv: bool, tmp_path: Path
) -> None:
    bench, orders = Bench(tmp_path, is_csv=is_csv, give_up_after_s=60), Numbered()
    bench.publisher.away, bench.publisher.room = True, 100
    bench.publisher.turn = lambda seconds: setattr(bench.clock, "now", bench.clock.now + seconds)
    bench.run(orders)
    assert (bench.stage.gave_up, bench.stage.stopped, bench.stage.read_all) == (True, False, False)
    assert 60 <= bench.clock.now < 70
    assert bench.stage.totals.failed == bench.stage.totals.read == orders.given
    assert orders_in(bench.kept.name) == [order(f"A-{number}") for number in range(1, orders.given + 1)]
    assert (bench.kept.unknown, bench.kept.absent) == (100, orders.given - 100), (
        "what was never sent is surely not there"
    )
    assert len(bench.said) < 20, "thousands are not named one by one"
    assert f"--input {bench.kept.name}" in bench.said[-1]


def test_stop_while_the_broker_is_away_ends_in_time_and_keeps_what_is_unknown(tmp_path: Path) -> None:
    bench, orders = Bench(tmp_path), Numbered()
    bench.publisher.away = True
    bench.publisher.turn = lambda seconds: setattr(bench.clock, "now", bench.clock.now + seconds)
    bench.run(orders, lambda: bench.clock.now > 50)
    assert bench.clock.now < 50 + STOP_S + 1
    assert (bench.stage.stopped, bench.stage.totals.failed) == (True, orders.given)
    assert len(orders_in(bench.kept.name)) == orders.given


def test_order_that_is_refused_for_good_is_no_silence_of_the_broker(tmp_path: Path) -> None:
    bench = Bench(tmp_path, give_up_after_s=5)
    bench.publisher.fail = lambda key: DeliveryFailed("too large")  # type: ignore[assignment]
    bench.publisher.turn = lambda seconds: setattr(bench.clock, "now", bench.clock.now + 1)
    bench.run([order(str(number)) for number in range(40 * LOT)])
    assert bench.clock.now > 10
    assert (bench.stage.gave_up, bench.stage.totals.failed, bench.kept.absent) == (False, 40 * LOT, 40 * LOT)


def test_orders_that_can_be_kept_in_no_file_are_said_whole(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "not there")
    bench.publisher.fail = lambda key: BrokerUnavailable("timed out")  # type: ignore[assignment]
    bench.run([order(f"A-{number}") for number in range(15)])
    lines = "\n".join(line for line in bench.said if line.startswith("{")).encode()
    assert list(Intake(io.BufferedReader(io.BytesIO(lines)), "said")) == [order(f"A-{number}") for number in range(15)]  # type: ignore[type-var]
    assert "above, whole" in bench.said[-1]


def test_file_for_unacknowledged_orders_is_refused_where_something_would_be_lost(tmp_path: Path) -> None:
    source, used, new = tmp_path / "orders.ndjson", tmp_path / "used", tmp_path / "new"
    source.write_text("")
    used.write_text("{}\n")

    def opened(name: Path) -> Unacknowledged:
        with (
            source.open("rb") as file,
            unacknowledged_file(
                str(name), "default", os.fstat(file.fileno()), is_csv=False, decode=decode, say=lambda _: None
            ) as kept,
        ):
            return kept

    for name, reason in [
        (source, "is the input itself"),
        (used, "is not empty"),
        (tmp_path / "no/file", "cannot be written"),
    ]:
        with pytest.raises(InputRefused, match=reason):
            opened(name)
    assert used.read_text() == "{}\n"
    opened(new)
    assert not new.exists(), "nothing came of it"
