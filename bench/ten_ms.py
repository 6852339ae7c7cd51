"""The table "10 ms async handler, one process": who runs, for how long, and what is said of it."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.handlers import HANDLER_S
from bench.place import TOPIC, Place
from bench.programs import Program, ours, peer, run
from bench.task import Outcome
from pipeline import wiring
from pipeline.orders import OrderPlaced, generate

TITLE = "10 ms async handler, one process"
AT_ONCE = 200
KEYS = 50
KEYED_TOPIC, KEYED_ORDERS = "orders-of-50-keys.v1", 3_000
AT_LEAST_ONCE, ACKNOWLEDGED_FIRST = "at least once", "acknowledged first"


@dataclass(frozen=True)
class Contender:
    """`share` is which part of the topic's orders lasts some seconds."""

    name: str
    program: Program
    at_once: int
    share: float
    keeps_order: bool
    delivery: str

    @property
    def ideal(self) -> float:
        """Orders a second if nothing but the handlers took time."""
        return self.at_once / HANDLER_S

    def orders(self, there: int) -> int:
        """How many to handle of those that are there."""
        return max(round(there * self.share), 20)


def faststream(work: str) -> Program:
    """In the environment of the peers that get along with our client."""
    return peer(".venv-peers", "faststream.confluent", "with_faststream", work)


_MANY, _FEW = 1 / 4, 1 / 400
CONTENDERS = (
    Contender("pipeline, 200 at once", ours("ours", "ten_ms"), AT_ONCE, _MANY, True, AT_LEAST_ONCE),
    Contender("pipeline, one at a time", ours("ours", "ten_ms"), 1, _FEW, True, AT_LEAST_ONCE),
    Contender("raw client, one at a time", ours("loop", "ten_ms"), 1, _FEW, True, AT_LEAST_ONCE),
    Contender(
        "FastStream, max_workers=200",
        faststream("workers"),
        AT_ONCE,
        _MANY,
        False,
        ACKNOWLEDGED_FIRST,
    ),
    Contender(
        "FastStream, batches of 200",
        faststream("batches"),
        AT_ONCE,
        _MANY,
        False,
        AT_LEAST_ONCE,
    ),
)


@dataclass(frozen=True)
class Row:
    """One contender's medians. `overtaken`: of the orders of few keys, those that began before their turn."""

    contender: Contender
    rates: Sequence[float]
    overtaken: int
    version: str

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)

    @property
    def order(self) -> str:
        """What was seen, and where nothing was: what is promised."""
        if self.overtaken:
            return "no"
        return "yes" if self.contender.keeps_order else "not promised"

    def summary(self) -> dict[str, Any]:
        ideal = self.contender.ideal
        return {
            "rate": self.rate,
            "ratio": self.rate / ideal,
            "at_once": self.contender.at_once,
            "order": self.order,
            "delivery": self.contender.delivery,
            "version": self.version,
        }


def keyed_orders() -> list[tuple[bytes, OrderPlaced]]:
    """Orders of few keys, each with its number in its key."""
    keyed = []
    for number, order in enumerate(generate(KEYED_ORDERS, seed=2)):
        key = f"key-{number % KEYS}"
        keyed.append((key.encode(), order.model_copy(update={"customer_id": key, "order_id": str(number // KEYS)})))
    return keyed


def measure(contenders: Sequence[Contender], place: Place, rounds: int, say: Callable[[str], None]) -> list[Row]:
    """Let them take turns, and then each show once what becomes of the order of keys."""
    rates: dict[str, list[float]] = {each.name: [] for each in contenders}
    for number in range(rounds):
        for each in contenders:
            outcome = _run(each, place, keyed=False)
            rates[each.name].append(outcome.orders / outcome.seconds)
            say(f"round {number + 1}: {each.name}: {rates[each.name][-1]:,.0f} a second, {outcome.orders:,} orders")
    rows = []
    for each in contenders:
        outcome = _run(each, place, keyed=True)
        say(f"{each.name}: {outcome.overtaken:,} of {outcome.orders:,} orders of {KEYS} keys began before their turn")
        rows.append(Row(each, rates[each.name], outcome.overtaken, outcome.version))
    return rows


def show(found: Mapping[str, Any]) -> None:
    """The table, on stdout."""
    print(f"\n{TITLE:<34} {'rate/s':>10} {'of ideal':>9}  {'order of a key':<14}  delivery")
    for at_once in sorted({row["at_once"] for row in found.values()}, reverse=True):
        name = f"ideal, {'one at a time' if at_once == 1 else f'{at_once} at once'}"
        print(f"{name:<34} {at_once / HANDLER_S:>10,.0f} {1:>9.3f}  {'–':<14}  –")
    for name, row in found.items():
        print(f"{name:<34} {row['rate']:>10,.0f} {row['ratio']:>9.3f}  {row['order']:<14}  {row['delivery']}")
    for version in sorted({row["version"] for row in found.values() if row["version"]}):
        print(f"FastStream is version {version}.")


def fill(place: Place) -> None:
    """The topic of few keys beside the large one."""
    encoder = wiring.encoder(place.settings, TOPIC)
    keyed = keyed_orders()
    place.topic(TOPIC, KEYED_TOPIC)
    place.write(KEYED_TOPIC, [key for key, _ in keyed], [encoder.encode(order.__dict__) for _, order in keyed])


def _run(contender: Contender, place: Place, *, keyed: bool) -> Outcome:
    few = KEYED_ORDERS if contender.at_once > 1 else KEYED_ORDERS // 20
    topic = KEYED_TOPIC if keyed else TOPIC
    orders = few if keyed else contender.orders(place.orders)
    return run(contender.program, place.task(topic, orders, at_once=contender.at_once, keyed=keyed))
