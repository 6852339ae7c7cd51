"""The client's own AvroSerializer and AvroDeserializer, in the loops that its documentation shows."""

from typing import Any

from confluent_kafka import Consumer, Message, Producer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from bench import handlers
from bench.task import Outcome, Span, Task, run
from pipeline.kafka import config
from pipeline.kafka.log import librdkafka_logger
from pipeline.orders import OrderPlaced, generate
from pipeline.serde import schema_files


def produce(task: Task) -> Outcome:
    """Orders as models; serialise one, produce it with a delivery callback, poll."""
    configured = task.settings()
    orders = list(generate(task.orders, seed=1))
    schema = schema_files.load(schema_files.directory(configured.schemas.dir)).subject(f"{task.topic}-value").newest

    def fields(order: OrderPlaced, _: SerializationContext) -> dict[str, Any]:
        return order.model_dump()

    encode = AvroSerializer(SchemaRegistryClient({"url": task.registry_url}), schema.text, fields)
    context = SerializationContext(task.topic, MessageField.VALUE)
    producer = Producer(config.producer(configured.kafka), logger=librdkafka_logger())
    failed: list[Any] = []

    def report(error: Any, _: Message) -> None:
        if error is not None:
            failed.append(error)

    span = Span()
    span.start()
    for order in orders:
        value = encode(order, context)
        while True:
            try:
                producer.produce(task.topic, value, order.order_id.encode(), on_delivery=report)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    producer.flush()
    span.stop()
    assert not failed
    producer.close()
    return span.outcome(len(orders))


def consume(task: Task) -> Outcome:
    """Poll one, decode it, validate it, handle it; the client commits every 5 s by itself."""
    properties = config.consumer(task.settings().kafka)
    automatic = {"enable.auto.commit": True, "enable.auto.offset.store": True, "enable.partition.eof": False}
    consumer = Consumer({**properties, **automatic}, logger=librdkafka_logger())
    decode = AvroDeserializer(SchemaRegistryClient({"url": task.registry_url}))
    context = SerializationContext(task.topic, MessageField.VALUE)
    consumer.subscribe([task.topic])
    span = Span()
    handled = 0
    while handled < task.orders:
        message = consumer.poll(1.0)
        if message is None:
            continue
        if not handled:
            span.start()
        assert message.error() is None, message.error()
        handlers.no_op(OrderPlaced.model_validate(decode(message.value(), context)), message)
        handled += 1
    span.stop()
    consumer.close()
    return span.outcome(handled)


if __name__ == "__main__":
    run({"produce": produce, "consume": consume})
