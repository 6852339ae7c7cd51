"""The loop that every tutorial ends with: poll one, decode it, handle it, commit it, and only then the next."""

import asyncio

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

from bench import handlers
from bench.task import Outcome, Span, Task, run
from pipeline.kafka import config
from pipeline.orders import OrderPlaced


async def loop(task: Task) -> Outcome:
    handler = handlers.ten_ms_noted if task.keyed else handlers.ten_ms
    decode = AvroDeserializer(SchemaRegistryClient({"url": task.registry_url}))
    context = SerializationContext(task.topic, MessageField.VALUE)
    consumer = Consumer(config.consumer(task.settings().kafka))
    consumer.subscribe([task.topic])
    span = Span()
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
        if not handled:
            span.start()
        order = OrderPlaced.model_validate(decode(message.value(), context))
        await handler(order, message)
        consumer.commit(message=message, asynchronous=False)
        handled += 1
    span.stop()
    consumer.close()
    return span.outcome(handled, overtaken=handlers.key_order.overtaken)


if __name__ == "__main__":
    run({"ten_ms": lambda task: asyncio.run(loop(task))})
