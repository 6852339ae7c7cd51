"""Very many orders through one worker: does it keep its pace, and how much memory does it come to hold?"""

import statistics
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from bench.place import TOPIC, Place
from bench.programs import ours, run

DEFAULT = 10_000_000
LONGEST_S = 3600.0
PARTS = 10
# Seconds, how many were handled, bytes of memory.
Sample = tuple[float, int, int]


def measure(place: Place, orders: int, say: Callable[[str], None]) -> dict[str, Any]:
    """A backlog of so many orders worked off: rate and memory by tenths of the way, and all the samples."""
    say(f"soak: filling a topic with {orders:,} orders")
    topic = place.topic(TOPIC)
    place.refill(topic, orders)
    outcome = run(ours("ours", "soak"), place.task(topic, orders), LONGEST_S)
    samples: list[Sample] = [(seconds, handled, rss) for seconds, handled, rss in outcome.detail["samples"]]
    return {
        "orders": outcome.orders,
        "seconds": outcome.seconds,
        "rate": outcome.orders / outcome.seconds,
        "peak_rss_mb": outcome.peak_rss / 1e6,
        "tenths": [_part(samples, orders, number) for number in range(PARTS)],
        "samples": samples,
    }


def _part(samples: Sequence[Sample], orders: int, number: int) -> dict[str, float]:
    """Rate, and memory at the end, of one part of the way."""
    first, last = orders * number / PARTS, orders * (number + 1) / PARTS
    (began, _), (ended, rss) = _at(samples, first), _at(samples, last)
    return {"rate": (last - first) / (ended - began), "rss_mb": rss / 1e6}


def _at(samples: Sequence[Sample], handled: float) -> tuple[float, float]:
    """When so many were handled, and the memory then: between two samples on the line that joins them."""
    for (t0, n0, m0), (t1, n1, m1) in pairwise(samples):
        if n0 <= handled <= n1 and n1 > n0:
            share = (handled - n0) / (n1 - n0)
            return t0 + share * (t1 - t0), m0 + share * (m1 - m0)
    raise AssertionError(f"{handled} is beyond the samples.")


def growth(found: dict[str, Any]) -> float:
    """How much more memory, in MB, the last tenth held than the second: the first one still fills what is kept."""
    tenths = found["tenths"]
    return float(tenths[-1]["rss_mb"] - tenths[1]["rss_mb"])


def drift(found: dict[str, Any]) -> float:
    """The rate of the last half of the tenths over that of the first half."""
    rates = [each["rate"] for each in found["tenths"]]
    half = len(rates) // 2
    return float(statistics.mean(rates[half:]) / statistics.mean(rates[:half]))


def show(found: dict[str, Any]) -> None:
    """The table, on stdout."""
    print(f"\nsoak: {found['orders']:,} orders in {found['seconds']:,.0f} s, {found['rate']:,.0f} a second")
    print(f"{'tenth':<8} {'rate/s':>10} {'MB':>8}")
    for number, part in enumerate(found["tenths"], 1):
        print(f"{number:<8} {part['rate']:>10,.0f} {part['rss_mb']:>8,.0f}")
    print(
        f"peak {found['peak_rss_mb']:,.0f} MB, growth {growth(found):+,.1f} MB, second half at {drift(found):.2f} of the first"
    )
