"""The loop that every tutorial ends with: poll one, decode it, handle it, commit it, and only then the next."""

import asyncio
import time

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

from bench import handlers
from bench.ten_ms.task import Outcome, Task, run
from pipeline.kafka import config
from pipeline.orders import OrderPlaced


async def loop(task: Task) -> Outcome:
    handler = handlers.ten_ms_noted if task.keyed else handlers.ten_ms
    decode = AvroDeserializer(SchemaRegistryClient({"url": task.registry_url}))
    context = SerializationContext(task.topic, MessageField.VALUE)
    consumer = Consumer(config.consumer(task.settings().kafka))
    consumer.subscribe([task.topic])
    started = 0.0
    handled = 0
    while handled < task.orders:
        message = consumer.poll(1.0)
        if message is None:
            continue
        error = message.error()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001  # the client has no other name for it
                continue
            raise KafkaException(error)
        started = started or time.monotonic()
        order = OrderPlaced.model_validate(decode(message.value(), context))
        await handler(order, message)
        consumer.commit(message=message, asynchronous=False)
        handled += 1
    seconds = time.monotonic() - started
    consumer.close()
    return Outcome(handled, seconds, handlers.key_order.overtaken)


if __name__ == "__main__":
    run(lambda task: asyncio.run(loop(task)))
