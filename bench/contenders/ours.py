"""The pipeline's stages as its commands run them: retries, dead letters and manual commits armed, reports awaited."""

import tempfile
import time
from collections.abc import Iterable
from contextlib import closing
from typing import Any

from bench import handlers
from bench.task import Outcome, Span, Task, run
from pipeline import wiring
from pipeline.kafka import config
from pipeline.kafka.producer import IdempotentProducer
from pipeline.orders import OrderPlaced, generate
from pipeline.stages.intake import Refusal, open_orders
from pipeline.stages.produce import Produce


def produce(task: Task) -> Outcome:
    """Orders in memory as models: validation is done, serialising and reports are not."""
    return _produced(task, list(generate(task.orders, seed=1)))


def produce_text(task: Task) -> Outcome:
    """Orders as the lines of an NDJSON file: parsed, validated, serialised, reported."""
    with open_orders(task.orders_file, None, None, lambda: False) as orders:
        return _produced(task, orders)


def _produced(task: Task, orders: Iterable[OrderPlaced | Refusal]) -> Outcome:
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


if __name__ == "__main__":
    run(
        {
            "produce": produce,
            "produce_text": produce_text,
            "consume": consume,
            "store": store,
            "forward": forward,
            "ten_ms": ten_ms,
        }
    )
