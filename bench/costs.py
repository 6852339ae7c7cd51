"""The table "what the pipeline costs": every kind of work beside the raw client's own, and beside its peers."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.place import FORWARDED, TOPIC, Place
from bench.programs import Program, kafka_streams, ours, peer, run
from bench.task import Outcome


@dataclass(frozen=True)
class Contender:
    """`ceiling` names the contender it is compared with; `writes` names the topic whose contract its output has."""

    name: str
    program: Program
    ceiling: str
    writes: str = ""
    reads: bool = True
    re_keys: bool = False


def quix(work: str) -> Program:
    """Quix Streams allows no client so new as ours: it has an environment of its own."""
    return peer(".venv-peers-quix", "quixstreams", "quix", work)


PRODUCE, CONSUME, FORWARD = "raw client, produce", "raw client, consume", "raw client, forward"
CONTENDERS = (
    Contender(PRODUCE, ours("raw", "produce"), PRODUCE, TOPIC, reads=False),
    Contender("client's AvroSerializer, produce", ours("naive", "produce"), PRODUCE, TOPIC, reads=False),
    Contender("pipeline, produce", ours("ours", "produce"), PRODUCE, TOPIC, reads=False),
    Contender("pipeline, produce from NDJSON", ours("ours", "produce_text"), PRODUCE, TOPIC, reads=False),
    Contender(CONSUME, ours("raw", "consume"), CONSUME),
    Contender("raw client, consume, our fetching", ours("raw", "consume_ours"), CONSUME),
    Contender("raw client, poll one by one", ours("raw", "poll"), CONSUME),
    Contender("client's AvroDeserializer, consume", ours("naive", "consume"), CONSUME),
    Contender("Quix Streams, consume", quix("consume"), CONSUME),
    Contender("pipeline, consume, no-op handler", ours("ours", "consume"), CONSUME),
    Contender("pipeline, consume into SQLite", ours("ours", "store"), CONSUME),
    Contender(FORWARD, ours("raw", "forward"), FORWARD, FORWARDED),
    Contender("Quix Streams, forward", quix("forward"), FORWARD, FORWARDED, re_keys=True),
    Contender("Kafka Streams, forward", kafka_streams(), FORWARD, FORWARDED, re_keys=True),
    Contender("pipeline, forward", ours("ours", "forward"), FORWARD, FORWARDED, re_keys=True),
)


@dataclass(frozen=True)
class Row:
    """One contender's rounds."""

    contender: Contender
    outcomes: Sequence[Outcome]

    @property
    def rates(self) -> list[float]:
        return [each.orders / each.seconds for each in self.outcomes]

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)

    @property
    def spread(self) -> float:
        """(fastest - slowest) ÷ median."""
        return (max(self.rates) - min(self.rates)) / self.rate

    def summary(self) -> dict[str, Any]:
        return {
            "rate": self.rate,
            "rates": self.rates,
            "spread": self.spread,
            "peak_rss_mb": statistics.median(each.peak_rss for each in self.outcomes) / 1e6,
            "cpu_s_per_million": statistics.median(each.cpu_s / each.orders for each in self.outcomes) * 1e6,
            "version": self.outcomes[0].version,
            "ceiling": self.contender.ceiling,
        }


def measure(contenders: Sequence[Contender], place: Place, rounds: int, say: Callable[[str], None]) -> list[Row]:
    """Let them take turns, `rounds` times; what each has written is read back and counted."""
    outcomes: dict[str, list[Outcome]] = {each.name: [] for each in contenders}
    for number in range(rounds):
        for each in contenders:
            outcome = _turn(each, place)
            outcomes[each.name].append(outcome)
            say(f"round {number + 1}: {each.name}: {outcome.orders / outcome.seconds:,.0f} a second")
    return [Row(each, outcomes[each.name]) for each in contenders]


def _turn(contender: Contender, place: Place) -> Outcome:
    written = place.topic(contender.writes) if contender.writes else ""
    topics = {"topic": TOPIC, "output": written} if contender.reads else {"topic": written}
    task = place.task(orders=place.orders, **topics)
    outcome = run(contender.program, task)
    assert outcome.orders == place.orders, outcome
    if written:
        place.check(written, decoded=contender.re_keys)
    return outcome


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """For a program; `ratio` is to the ceiling, None where that did not run."""
    rates = {row.contender.name: row.rate for row in rows}
    return {
        row.contender.name: row.summary()
        | {"ratio": row.rate / rates[row.contender.ceiling] if row.contender.ceiling in rates else None}
        for row in rows
    }


def show(found: dict[str, Any]) -> None:
    """The table, on stdout."""
    print(f"{'what the pipeline costs':<36} {'median/s':>10} {'spread':>7} {'ratio':>6} {'peak MB':>8} {'CPU s/M':>8}")
    for name, row in found.items():
        ratio = "–" if row["ratio"] is None else f"{row['ratio']:.2f}"
        print(
            f"{name:<36} {row['rate']:>10,.0f} {row['spread']:>7.0%} {ratio:>6} {row['peak_rss_mb']:>8,.0f} "
            f"{row['cpu_s_per_million']:>8.1f}"
        )
