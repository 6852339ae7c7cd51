"""Produce and consume, each beside the raw client, in one run on one stack: ratios, because machines are noisy.

Every contender moves the same bytes through the same topic settings. The contenders take turns, several rounds; the median
of each is compared with the raw client's median. The second table is in `bench/ten_ms`.
"""

import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from confluent_kafka import Consumer, Producer, TopicPartition

from bench.ten_ms import table
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
    only: Annotated[str, typer.Option(metavar="NAME", help="Only contenders with this in their name.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON on stdout as well.")] = False,
) -> None:
    """Measure, and print the tables."""
    start_logging(logging.WARNING)
    chosen = [name for name in CONTENDERS if only.lower() in name.lower()]
    slow = [each for each in table.CONTENDERS if only.lower() in each.name.lower()]
    if not chosen and not slow:
        names = ", ".join(repr(name) for name in (*CONTENDERS, *(each.name for each in table.CONTENDERS)))
        raise typer.BadParameter(f"no contender has {only!r} in its name. There are {names}.")
    slow = table.without_missing(slow, _say)
    if not chosen and not slow:
        raise typer.Exit(2)
    installed = artifacts.install(artifacts.default_cache(), artifacts.no_progress, _say)
    with ephemeral_stack(installed, _say) as stack, tempfile.TemporaryDirectory(prefix="bench-") as folder:
        configured = settings.load(
            {"kafka.bootstrap_servers": stack.bootstrap_servers, "registry.url": stack.registry_url}
        )
        bench = _fill(configured, orders, Path(folder))
        seconds: dict[str, list[float]] = {name: [] for name in chosen}
        for number in range(rounds):
            for name in chosen:
                seconds[name].append(CONTENDERS[name][1](bench))
                _say(f"round {number + 1}: {name}: {orders / seconds[name][-1]:,.0f} a second")
        rows = table.measure(slow, _few_keys(bench), rounds, _say) if slow else []
    summary = _show(orders, seconds)
    if rows:
        table.show(rows)
    if as_json:
        print(json.dumps(summary | {row.contender.name: row.summary() for row in rows}))


def _show(orders: int, seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Print the first table; what it says, for a program."""
    if not seconds:
        return {}
    rates = {name: orders / statistics.median(each) for name, each in seconds.items()}
    # Without its ceiling, a contender that runs alone has no ratio.
    ratios = {name: rates[name] / rates[it] if (it := CONTENDERS[name][0]) in rates else None for name in rates}
    print(f"{'':<34} {'median/s':>10} {'spread':>8} {'ratio':>7}")
    for name, rate in rates.items():
        spread = (max(seconds[name]) - min(seconds[name])) / statistics.median(seconds[name])
        ratio = ratios[name]
        print(f"{name:<34} {rate:>10,.0f} {spread:>8.0%} {'–' if ratio is None else f'{ratio:.2f}':>7}")
    return {name: {"rate": rate, "ratio": ratios[name]} for name, rate in rates.items()}


def _few_keys(bench: Bench) -> table.Place:
    """The topic of few keys beside the large one, for the second table."""
    bench.cluster.create([Declared(table.KEYED_TOPIC, PARTITIONS)])
    encoder = wiring.encoder(bench.configured, TOPIC)
    keyed = table.keyed_orders()
    values = [encoder.encode(order.__dict__) for _, order in keyed]
    _write(bench.configured, table.KEYED_TOPIC, [key for key, _ in keyed], values)
    return table.Place(
        bootstrap_servers=bench.configured.kafka.bootstrap_servers,
        registry_url=bench.configured.registry.url,
        schemas=table.contracts(schema_files.directory(None), bench.folder, TOPIC),
        topic=TOPIC,
        there=len(bench.orders),
        group=bench.fresh,
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
    _write(configured, TOPIC, bench.keys, bench.values)
    return bench


def _write(configured: settings.Settings, topic: str, keys: Sequence[bytes], values: Iterable[bytes]) -> None:
    producer = Producer(config.producer(configured.kafka), logger=librdkafka_logger())
    for key, value in zip(keys, values, strict=True):
        while True:
            try:
                producer.produce(topic, value, key)
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush()
    producer.close()


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    typer.run(main)
