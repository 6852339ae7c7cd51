"""What the pipeline is to reach: a floor without which it is not done, a goal to come near, and what a run has measured."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench import soak, start

Found = Mapping[str, Any]


@dataclass(frozen=True)
class Goal:
    """`measured` gives None where the run did not measure it; `most`: what is above the floor falls short, not what is below."""

    work: str
    measured: Callable[[Found], float | None]
    floor: float
    goal: float
    unit: str = "×"
    most: bool = False

    def verdict(self, value: float | None) -> str:
        """In a word."""
        if value is None:
            return "–"

        def reached(bound: float) -> bool:
            return value <= bound if self.most else value >= bound

        return "goal" if reached(self.goal) else "floor" if reached(self.floor) else "below"


def _ratio(one: str, other: str) -> Callable[[Found], float | None]:
    def measured(found: Found) -> float | None:
        costs = found.get("costs", {})
        return costs[one]["rate"] / costs[other]["rate"] if one in costs and other in costs else None

    return measured


def _of(section: str, take: Callable[[Any], float]) -> Callable[[Found], float | None]:
    def measured(found: Found) -> float | None:
        try:
            return take(found[section])
        except KeyError:
            return None

    return measured


GOALS = (
    Goal("produce from models / raw", _ratio("pipeline, produce", "raw client, produce"), 0.40, 0.55),
    Goal("produce from NDJSON / raw", _ratio("pipeline, produce from NDJSON", "raw client, produce"), 0.25, 0.40),
    Goal("consume, no-op / raw", _ratio("pipeline, consume, no-op handler", "raw client, consume"), 0.45, 0.60),
    Goal(
        "consume, no-op / Quix Streams", _ratio("pipeline, consume, no-op handler", "Quix Streams, consume"), 1.5, 2.5
    ),
    Goal("consume into SQLite / raw", _ratio("pipeline, consume into SQLite", "raw client, consume"), 0.15, 0.30),
    Goal("forward / Kafka Streams", _ratio("pipeline, forward", "Kafka Streams, forward"), 0.60, 1.0),
    Goal("forward / Quix Streams", _ratio("pipeline, forward", "Quix Streams, forward"), 2.5, 4.0),
    Goal(
        "10 ms handler, 200 at once / ideal", _of("ten_ms", lambda it: it["pipeline, 200 at once"]["ratio"]), 0.60, 0.80
    ),
    Goal("p99 end to end at 5 000/s", _of("latency", lambda it: it["5000"]["p99"]), 40, 20, "ms", most=True),
    Goal("peak memory of the soak", _of("soak", lambda it: it["peak_rss_mb"]), 250, 150, "MB", most=True),
    Goal("memory that the soak adds", _of("soak", soak.growth), 10, 5, "MB", most=True),
    Goal("second half of the soak / first half", _of("soak", soak.drift), 0.90, 0.97),
    Goal("--help", _of("start", lambda it: it[start.HELP]), 0.3, 0.3, "s", most=True),
    Goal("worker ready to poll", _of("start", lambda it: it[start.READY]), 1.5, 1.5, "s", most=True),
    Goal("local stack up", _of("start", lambda it: it[start.STACK]), 8, 8, "s", most=True),
)


def rows(found: Found) -> list[tuple[str, str, str, str, str]]:
    """Work, floor, goal, measured, verdict."""
    return [
        (
            each.work,
            f"{each.floor:g} {each.unit}",
            f"{each.goal:g} {each.unit}",
            "–" if (value := each.measured(found)) is None else f"{value:.2f} {each.unit}",
            each.verdict(value),
        )
        for each in GOALS
    ]


def show(found: Found) -> None:
    """The table, on stdout."""
    print(f"\n{'':<38} {'floor':>8} {'goal':>8} {'measured':>12}")
    for work, floor, goal, measured, verdict in rows(found):
        print(f"{work:<38} {floor:>8} {goal:>8} {measured:>12}  {verdict}")
