"""Produce and consume, each beside the raw client, in one run on one stack: ratios, because machines are noisy.

Every contender moves the same bytes through the same topic settings. The contenders take turns, several rounds; the median
of each is compared with the raw client's median.
"""

import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from confluent_kafka import Consumer, Producer, TopicPartition

from pipeline import settings, wiring
from pipeline.core.topic_file import Declared
from pipeline.kafka import config
from pipeline.kafka.admin import Cluster
from pipeline.kafka.log import librdkafka_logger
from pipeline.kafka.producer import IdempotentProducer
from pipeline.kafka.registry import Registry
from pipeline.local import artifacts
from pipeline.local.stack import ephemeral_stack
from pipeline.orders import OrderPlaced, generate
from pipeline.serde import schema_files
from pipeline.stages import schema_gate
from pipeline.stages.produce import Produce
from pipeline.telemetry import start_logging

TOPIC, LETTERS = "orders.v1", "orders.dlq.v1"
PARTITIONS = 6


@dataclass
class Bench:
    """The stack, the orders as models and as the bytes that end up in the topic."""

    configured: settings.Settings
    orders: list[OrderPlaced]
    keys: list[bytes]
    values: list[bytes]
    cluster: Cluster
    folder: Path
    runs: int = 0

    def fresh(self) -> str:
        """A name nobody used yet in this run."""
        self.runs += 1
        return f"bench-{self.runs}"

    def topic(self) -> str:
        """A new topic like `orders.v1`."""
        name = self.fresh()
        self.cluster.create([Declared(name, PARTITIONS)])
        return name


def raw_produce(bench: Bench) -> float:
    """The client with our producer settings and a delivery callback on every record: the ceiling."""
    topic, failed = bench.topic(), []
    producer = Producer(config.producer(bench.configured.kafka), logger=librdkafka_logger())

    def report(error: Any, _: Any) -> None:
        if error is not None:
            failed.append(error)

    started = time.monotonic()
    for number, (key, value) in enumerate(zip(bench.keys, bench.values, strict=True)):
        while True:
            try:
                producer.produce(topic, value, key, on_delivery=report)
                break
            except BufferError:
                producer.poll(0.1)
        if number % 256 == 0:
            producer.poll(0)
    producer.flush()
    took = time.monotonic() - started
    assert not failed
    producer.close()
    return took


def our_produce(bench: Bench) -> float:
    """The produce stage on the same orders as models: validation is done, serialising and reports are not."""
    publisher = IdempotentProducer(config.producer(bench.configured.kafka))
    failed: list[Any] = []
    stage = Produce(
        publisher=publisher,
        topic=bench.topic(),
        encoder=wiring.encoder(bench.configured, TOPIC),
        clock=time.monotonic,
        delivered=lambda delivery: failed.append(delivery) if delivery.error else None,
        refused=failed.append,
    )
    totals = stage.run(bench.orders, lambda: False, lambda: None)
    assert (totals.published, failed) == (len(bench.orders), [])
    publisher.close()
    return totals.seconds


def raw_consume(bench: Bench) -> float:
    """The client with our consumer settings, reading the topic from end to end in batches: the ceiling."""
    properties = config.consumer(bench.configured.kafka) | {"group.id": bench.fresh()}
    consumer = Consumer(properties, logger=librdkafka_logger())
    # From the assignment on: after the first record, much of a small topic would lie in the client's queue already.
    started = time.monotonic()
    consumer.assign([TopicPartition(TOPIC, each, 0) for each in range(PARTITIONS)])
    seen = 0
    while seen < len(bench.orders):
        messages = consumer.consume(500, 1.0)
        seen += sum(message.error() is None and message.value() is not None for message in messages)
    took = time.monotonic() - started
    consumer.close()
    return took


def our_consume(bench: Bench, handler: str | None) -> float:
    """The consume stage in a group of its own: decode, validate, handle, commit, with retries and dead letters armed."""
    configured = settings.load(
        {
            "kafka.bootstrap_servers": bench.configured.kafka.bootstrap_servers,
            "registry.url": bench.configured.registry.url,
            "kafka.consumer_group": bench.fresh(),
            "store.url": f"sqlite:///{bench.folder}/{bench.fresh()}.db",
        }
    )
    with wiring.consume(configured, handler=handler, until_end=True, stopping=lambda: False, verbose=False) as stage:
        totals = stage.run(lambda: False)
    assert totals.committed == totals.handled == len(bench.orders)
    return totals.seconds


CONTENDERS: dict[str, tuple[str, Callable[[Bench], float]]] = {
    "raw client, produce": ("raw client, produce", raw_produce),
    "pipeline, produce": ("raw client, produce", our_produce),
    "raw client, consume": ("raw client, consume", raw_consume),
    "pipeline, consume, no-op handler": (
        "raw client, consume",
        lambda bench: our_consume(bench, "bench.handlers:no_op"),
    ),
    "pipeline, consume into SQLite": ("raw client, consume", lambda bench: our_consume(bench, None)),
}


def main(
    orders: Annotated[int, typer.Option(min=1000, help="How many orders every contender moves.")] = 200_000,
    rounds: Annotated[int, typer.Option(min=1, help="How often each takes its turn.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON on stdout as well.")] = False,
) -> None:
    """Measure, and print the table."""
    start_logging(logging.WARNING)
    installed = artifacts.install(artifacts.default_cache(), artifacts.no_progress, _say)
    with ephemeral_stack(installed, _say) as stack, tempfile.TemporaryDirectory(prefix="bench-") as folder:
        configured = settings.load(
            {"kafka.bootstrap_servers": stack.bootstrap_servers, "registry.url": stack.registry_url}
        )
        bench = _fill(configured, orders, Path(folder))
        seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        for number in range(rounds):
            for name, (_, contender) in CONTENDERS.items():
                seconds[name].append(contender(bench))
                _say(f"round {number + 1}: {name}: {orders / seconds[name][-1]:,.0f} a second")
    rates = {name: orders / statistics.median(each) for name, each in seconds.items()}
    print(f"{'':<34} {'median/s':>10} {'spread':>8} {'ratio':>7}")
    for name, (ceiling, _) in CONTENDERS.items():
        spread = (max(seconds[name]) - min(seconds[name])) / statistics.median(seconds[name])
        print(f"{name:<34} {rates[name]:>10,.0f} {spread:>8.0%} {rates[name] / rates[ceiling]:>7.2f}")
    if as_json:
        print(
            json.dumps(
                {name: {"rate": rate, "ratio": rate / rates[CONTENDERS[name][0]]} for name, rate in rates.items()}
            )
        )


def _fill(configured: settings.Settings, count: int, folder: Path) -> Bench:
    cluster = wiring.cluster(configured)
    cluster.create([Declared(TOPIC, PARTITIONS), Declared(LETTERS, PARTITIONS)])
    with Registry(configured.registry.url) as registry:
        schema_gate.register(schema_files.load(schema_files.directory(None)), registry, lambda _: None)
    orders = list(generate(count, seed=1))
    encoder = wiring.encoder(configured, TOPIC)
    values = [encoder.encode(order.__dict__) for order in orders]
    bench = Bench(configured, orders, [order.order_id.encode() for order in orders], values, cluster, folder)
    producer = Producer(config.producer(configured.kafka), logger=librdkafka_logger())
    for key, value in zip(bench.keys, bench.values, strict=True):
        while True:
            try:
                producer.produce(TOPIC, value, key)
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush()
    producer.close()
    return bench


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    typer.run(main)
