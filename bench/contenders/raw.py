"""confluent-kafka with the pipeline's own client settings and nothing above it: the ceiling of each kind of work.

One of those settings is left out where records are consumed: how long the client rests when it has fetched enough. A loop
that only counts is faster than any broker with it, so that it would be no measure of what a consumer costs.
"""

import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Message, Producer, TopicPartition

from bench.task import Outcome, Span, Task, run
from pipeline.kafka import config
from pipeline.kafka.log import librdkafka_logger

BATCH = 500
COMMIT_EVERY_S = 0.1


def produce(task: Task) -> Outcome:
    """Keys and values that lie in memory, a delivery callback on every record."""
    keys, values = pickle.loads(Path(task.bytes_file).read_bytes())
    failed: list[Any] = []
    producer = Producer(config.producer(task.settings().kafka), logger=librdkafka_logger())

    def report(error: Any, _: Message) -> None:
        if error is not None:
            failed.append(error)

    span = Span()
    span.start()
    for number, (key, value) in enumerate(zip(keys, values, strict=True)):
        while True:
            try:
                producer.produce(task.topic, value, key, on_delivery=report)
                break
            except BufferError:
                producer.poll(0.1)
        if number % 256 == 0:
            producer.poll(0)
    producer.flush()
    span.stop()
    assert not failed
    producer.close()
    return span.outcome(len(keys))


def consume(task: Task, *, our_fetching: bool = False) -> Outcome:
    """The topic from end to end in batches; records are counted, nothing else."""
    consumer = _consumer(task, our_fetching=our_fetching)
    assign = _whole(consumer, task.topic)
    span = Span()
    # From the assignment on: after the first record, much of a small topic would lie in the client's queue already.
    span.start()
    assign()
    seen = 0
    while seen < task.orders:
        # Not more than is left: the client would wait for it.
        messages = consumer.consume(min(BATCH, task.orders - seen), 1.0)
        seen += sum(message.error() is None and message.value() is not None for message in messages)
    span.stop()
    consumer.close()
    return span.outcome(seen)


def poll(task: Task) -> Outcome:
    """The same one by one, as every example of the client reads."""
    consumer = _consumer(task, our_fetching=False)
    assign = _whole(consumer, task.topic)
    span = Span()
    span.start()
    assign()
    seen = 0
    while seen < task.orders:
        message = consumer.poll(1.0)
        if message is not None and message.error() is None and message.value() is not None:
            seen += 1
    span.stop()
    consumer.close()
    return span.outcome(seen)


def forward(task: Task) -> Outcome:
    """Values as they are, re-keyed by nothing, in a transaction every 100 ms: no codec, no validation."""
    consumer = _consumer(task)
    producer = Producer(
        {**config.producer(task.settings().kafka), "transactional.id": task.group}, logger=librdkafka_logger()
    )
    producer.init_transactions()
    consumer.subscribe([task.topic])
    span = Span()
    moved = 0
    positions: dict[int, int] = {}
    deadline = 0.0
    while moved < task.orders:
        messages = consumer.consume(min(BATCH, task.orders - moved), 0.1)
        if not messages:
            continue
        if not span.began:
            span.start()
        if not positions:
            producer.begin_transaction()
            deadline = time.monotonic() + COMMIT_EVERY_S
        for message in messages:
            if message.error() is not None:
                continue
            producer.produce(task.output, message.value(), message.key())
            positions[message.partition() or 0] = (message.offset() or 0) + 1
            moved += 1
        producer.poll(0)
        if time.monotonic() >= deadline or moved >= task.orders:
            offsets = [TopicPartition(task.topic, each, offset) for each, offset in positions.items()]
            producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata())
            producer.commit_transaction()
            positions.clear()
    span.stop()
    consumer.close()
    return span.outcome(moved)


def consume_ours(task: Task) -> Outcome:
    """The same with all of the pipeline's settings."""
    return consume(task, our_fetching=True)


def _consumer(task: Task, *, our_fetching: bool = True) -> Consumer:
    properties = config.consumer(task.settings().kafka)
    if not our_fetching:
        properties = {name: value for name, value in properties.items() if name not in config.READ_AHEAD}
    return Consumer(properties, logger=librdkafka_logger())


def _whole(consumer: Consumer, topic: str) -> Callable[[], None]:
    """A function that assigns every partition of the topic from its beginning."""
    partitions = consumer.list_topics(topic, 10).topics[topic].partitions
    return lambda: consumer.assign([TopicPartition(topic, each, 0) for each in partitions])


if __name__ == "__main__":
    run({"produce": produce, "consume": consume, "consume_ours": consume_ours, "poll": poll, "forward": forward})
