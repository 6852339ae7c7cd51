"""The pipeline's stages as its commands run them: retries, dead letters and manual commits armed, reports awaited."""

import tempfile
import time
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import Any

from bench import handlers
from bench.task import Outcome, Span, Task, rss, run
from pipeline import heap, wiring
from pipeline.kafka import config
from pipeline.kafka.producer import IdempotentProducer
from pipeline.orders import OrderPlaced, generate
from pipeline.stages.intake import Refusal, open_orders
from pipeline.stages.produce import Produce

SAMPLE_EVERY_S = 1.0
TICK_S = 0.0005
PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
EDGES_MS = [round(1.25**n, 3) for n in range(45)]


def produce(task: Task) -> Outcome:
    """Orders in memory as models: validation is done, serialising and reports are not."""
    orders = list(generate(task.orders, seed=1))
    return _produced(task, lambda _: orders)


def produce_text(task: Task) -> Outcome:
    """Orders as the lines of an NDJSON file: parsed, validated, serialised, reported."""
    with open_orders(task.orders_file, None, None, lambda: False) as orders:
        return _produced(task, lambda _: orders)


def _produced(task: Task, orders_of: Callable[[Produce], Iterable[OrderPlaced | Refusal]]) -> Outcome:
    configured = task.settings()
    failed: list[Any] = []
    with closing(IdempotentProducer(config.producer(configured.kafka))) as publisher:
        stage = Produce(
            publisher=publisher,
            topic=task.topic,
            encoder=wiring.encoder(configured, task.topic),
            clock=time.monotonic,
            delivered=lambda delivery: failed.append(delivery) if delivery.error else None,
            refused=failed.append,
        )
        orders = orders_of(stage)
        span = Span()
        span.start()
        totals = stage.run(orders, lambda: False, lambda: None)
        span.stop()
    assert (totals.published, failed) == (task.orders, [])
    return span.outcome(totals.published, totals.seconds)


def consume(task: Task) -> Outcome:
    """Decode, validate, a handler that does nothing, commit."""
    return _consumed(task, "bench.handlers:no_op")


def store(task: Task) -> Outcome:
    """The same with the order store on SQLite."""
    return _consumed(task, None)


def _consumed(task: Task, handler: str | None) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="bench-store-") as folder:
        configured = task.settings(store__url=f"sqlite:///{folder}/orders.db")
        with wiring.consume(
            configured, handler=handler, until_end=True, stopping=lambda: False, verbose=False
        ) as stage:
            span = Span()
            span.start()
            totals = stage.run(lambda: False)
            span.stop()
    assert totals.committed == totals.handled == task.orders
    return span.outcome(totals.handled, totals.seconds)


def forward(task: Task) -> Outcome:
    """Decode, re-key by the customer, encode; outputs and offsets in a transaction every 100 ms."""
    configured = task.settings(
        forward__topic=task.output,
        forward__group=task.group,
        forward__commit_interval_s=0.1,
        kafka__instance=task.group,
    )
    with wiring.forward(
        configured, transform="pipeline.orders:by_customer", until_end=True, stopping=lambda: False
    ) as stage:
        span = Span()
        span.start()
        totals = stage.run(lambda: False)
        span.stop()
    assert totals.forwarded == task.orders
    return span.outcome(totals.forwarded, totals.seconds)


def ten_ms(task: Task) -> Outcome:
    """An async handler of 10 ms, `at_once` side by side."""
    handler = "bench.handlers:ten_ms_noted" if task.keyed else "bench.handlers:ten_ms"
    with wiring.consume(
        task.settings(), handler=handler, until_end=True, stopping=lambda: False, verbose=False
    ) as stage:
        span = Span()
        span.start()
        totals = stage.run(lambda: stage.totals.handled >= task.orders)
        span.stop()
    assert totals.committed == totals.handled == totals.consumed
    return span.outcome(totals.handled, totals.seconds, overtaken=handlers.key_order.overtaken)


def soak(task: Task) -> Outcome:
    """As `consume`, looked at once a second: how many so far, and how much memory."""
    samples: list[tuple[float, int, int]] = []
    with wiring.consume(
        task.settings(), handler="bench.handlers:no_op", until_end=True, stopping=lambda: False, verbose=False
    ) as stage:
        span = Span()
        span.start()

        def look(*, last: bool = False) -> None:
            now = time.monotonic() - span.began
            if last or not samples or now - samples[-1][0] >= SAMPLE_EVERY_S:
                samples.append((round(now, 3), stage.totals.handled, rss()))

        totals = stage.run(lambda: False, look)
        span.stop()
        look(last=True)
    assert totals.committed == totals.handled == task.orders
    return span.outcome(totals.handled, totals.seconds, detail={"samples": samples})


def paced(task: Task) -> Outcome:
    """The produce stage at so many orders a second; each order carries the time at which it was due."""
    return _produced(task, lambda stage: _due(task, stage.meanwhile))


def _due(task: Task, meanwhile: Callable[[], None]) -> Iterator[OrderPlaced]:
    """Orders when they are due, never before; one that comes late because the producer was busy is late from then on."""
    template = next(iter(generate(1, seed=1)))
    began, began_ns = time.monotonic(), time.time_ns()
    for number in range(task.orders):
        after = number / task.rate
        if (early := began + after - time.monotonic()) > 0:
            meanwhile()
            time.sleep(max(early, TICK_S))
        mark = handlers.WARMING if number < task.warm_up else handlers.STAMPED
        order_id = f"{mark}{began_ns + int(after * 1e9):019d}-{number}"
        yield template.model_copy(update={"order_id": order_id})


def latency(task: Task) -> Outcome:
    """A worker whose handler takes the time of each order from when it was due; percentiles and a histogram in ms.

    One order more comes before the others, so that it is known to be there.
    """
    with wiring.consume(
        task.settings(), handler="bench.handlers:timed", until_end=False, stopping=lambda: False, verbose=False
    ) as stage:
        span = Span()
        span.start()
        totals = stage.run(lambda: stage.totals.handled > task.orders)
        span.stop()
    found = sorted(each / 1e6 for each in handlers.latencies_ns)
    counts = Counter(min(len(EDGES_MS), bisect(EDGES_MS, each)) for each in found)
    return span.outcome(
        totals.handled,
        detail={
            "measured": len(found),
            **{name: found[min(len(found) - 1, int(len(found) * share))] for name, share in PERCENTILES.items()},
            "max": found[-1],
            # The upper edge of each bucket, and how many are in it; the last one has none.
            "histogram": [(edge, counts[n]) for n, edge in enumerate([*EDGES_MS, None]) if counts[n]],
        },
    )


if __name__ == "__main__":
    heap.settle()
    run(
        {
            "produce": produce,
            "produce_text": produce_text,
            "consume": consume,
            "store": store,
            "forward": forward,
            "ten_ms": ten_ms,
            "soak": soak,
            "paced": paced,
            "latency": latency,
        }
    )
