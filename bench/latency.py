"""How long an order takes from the moment it is due at the producer until its handler has it, at steady rates."""

import time
from collections.abc import Callable
from typing import Any

from bench.handlers import WARMING
from bench.place import TOPIC, Place
from bench.programs import ours, outcome, start
from pipeline import wiring
from pipeline.orders import generate

RATES = (1_000, 5_000, 20_000)
MEASURED_S, WARM_UP_S = 10, 3
_JOINS_S_MAX = 60.0


def measure(place: Place, say: Callable[[str], None]) -> dict[str, Any]:
    """A producer and a worker, each a process, for each rate: percentiles in ms, and how many orders a second came through."""
    found = {}
    for rate in RATES:
        topic = place.topic(TOPIC)
        task = place.task(topic, rate * (MEASURED_S + WARM_UP_S), rate=float(rate), warm_up=rate * WARM_UP_S)
        worker = start(ours("ours", "latency"), task)
        try:
            _wait_until_it_works(place, topic, task.group)
            sent = outcome(start(ours("ours", "paced"), task))
        except BaseException:
            worker.kill()
            worker.wait()
            raise
        detail = outcome(worker).detail
        found[str(rate)] = detail | {"sent_per_s": sent.orders / sent.seconds}
        say(f"{rate:,} orders a second: p50 {detail['p50']:.1f} ms, p99 {detail['p99']:.1f} ms")
    return found


def _wait_until_it_works(place: Place, topic: str, group: str) -> None:
    """Send one order and wait until it is committed: otherwise the warm-up would be a backlog."""
    order = next(generate(1, seed=1)).model_copy(update={"order_id": f"{WARMING}-first"})
    place.write(topic, [b"first"], [wiring.encoder(place.settings, topic).encode(order.__dict__)])
    deadline = time.monotonic() + _JOINS_S_MAX
    while sum(place.cluster.lag(group, topic).values()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"The worker has not handled its first order within {_JOINS_S_MAX:g} s.")
        time.sleep(0.1)


def show(found: dict[str, Any]) -> None:
    """The table, on stdout."""
    print(f"\n{'latency end to end, ms':<24} {'sent/s':>10} {'p50':>8} {'p90':>8} {'p99':>8} {'p99.9':>8} {'max':>8}")
    for rate, it in found.items():
        figures = " ".join(f"{it[name]:>8.1f}" for name in ("p50", "p90", "p99", "p999", "max"))
        print(f"{int(rate):>10,} orders/s      {it['sent_per_s']:>10,.0f} {figures}")
