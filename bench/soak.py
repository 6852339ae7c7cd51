"""Very many orders through one worker: does it keep its pace, and how much memory does it come to hold?"""

import statistics
from collections.abc import Callable
from typing import Any

from bench.place import TOPIC, Place
from bench.programs import ours, run

DEFAULT = 10_000_000
LONGEST_S = 3600.0
PARTS = 10


def measure(place: Place, orders: int, say: Callable[[str], None]) -> dict[str, Any]:
    """A backlog of so many orders worked off: rate and memory by tenths of the way, and all the samples."""
    say(f"soak: filling a topic with {orders:,} orders")
    topic = place.topic(TOPIC)
    place.refill(topic, orders)
    outcome = run(ours("ours", "soak"), place.task(topic, orders), LONGEST_S)
    samples = [tuple(each) for each in outcome.detail["samples"]]
    parts = [_part(samples, orders, number) for number in range(PARTS)]
    return {
        "orders": outcome.orders,
        "seconds": outcome.seconds,
        "rate": outcome.orders / outcome.seconds,
        "peak_rss_mb": outcome.peak_rss / 1e6,
        "tenths": [part for part in parts if part],
        "samples": samples,
    }


def _part(samples: list[tuple[float, int, int]], orders: int, number: int) -> dict[str, float] | None:
    """Rate and median memory of one part of the way; None where no two samples fell into it."""
    first, last = orders * number // PARTS, orders * (number + 1) // PARTS
    its = [each for each in samples if first <= each[1] <= last]
    if len(its) < 2 or its[-1][0] == its[0][0]:
        return None
    rate = (its[-1][1] - its[0][1]) / (its[-1][0] - its[0][0])
    return {"rate": rate, "rss_mb": statistics.median(each[2] for each in its) / 1e6}


def growth(found: dict[str, Any]) -> float:
    """How much more memory, in MB, the last tenth held than the second: the first one still fills what is kept."""
    tenths = found["tenths"]
    return float(tenths[-1]["rss_mb"] - tenths[min(1, len(tenths) - 1)]["rss_mb"])


def drift(found: dict[str, Any]) -> float:
    """The rate of the last half of the tenths over that of the first half."""
    rates = [each["rate"] for each in found["tenths"]]
    half = len(rates) // 2
    return float(statistics.mean(rates[half:]) / statistics.mean(rates[:half] or rates))


def show(found: dict[str, Any]) -> None:
    """The table, on stdout."""
    print(f"\nsoak: {found['orders']:,} orders in {found['seconds']:,.0f} s, {found['rate']:,.0f} a second")
    print(f"{'tenth':<8} {'rate/s':>10} {'MB':>8}")
    for number, part in enumerate(found["tenths"], 1):
        print(f"{number:<8} {part['rate']:>10,.0f} {part['rss_mb']:>8,.0f}")
    print(
        f"peak {found['peak_rss_mb']:,.0f} MB, growth {growth(found):+,.1f} MB, second half at {drift(found):.2f} of the first"
    )
