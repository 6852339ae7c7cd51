"""Quix Streams, as its documentation builds an application; run by an environment of its own (`make peers`).

Exactly once is its `processing_guarantee`, and its `commit_interval` is the forwarder's. Values go through its
AvroDeserializer and AvroSerializer with the registry, keys stay bytes on the way in. Topics are not created or changed by it,
nothing is logged below warnings, and its clients get what the pipeline's get: lz4, 5 ms of linger, the Java partitioner.
"""

import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from quixstreams import Application
from quixstreams.models.serializers.avro import AvroDeserializer, AvroSerializer
from quixstreams.models.serializers.schema_registry import (
    SchemaRegistryClientConfig,
    SchemaRegistrySerializationConfig,
)

from bench.task import Outcome, Span, Task, run

COMMIT_INTERVAL_S = 0.1
DEFAULT_COMMIT_INTERVAL_S = 5.0


class Counter:
    """Counts on the way, starts and stops the clock, and ends the application at the last order."""

    def __init__(self, app: Application, orders: int) -> None:
        self._app = app
        self._orders = orders
        self.seen = 0
        self.span = Span()

    def __call__(self, _: Any) -> None:
        if not self.seen:
            self.span.start()
        self.seen += 1
        if self.seen == self._orders:
            self.span.stop()
            self._app.stop()


def consume(task: Task) -> Outcome:
    """At least once, with its default interval of commits; decode and hand over."""
    with tempfile.TemporaryDirectory(prefix="bench-quix-") as folder:
        app = _application(task, folder, "at-least-once", DEFAULT_COMMIT_INTERVAL_S)
        count = Counter(app, task.orders)
        app.dataframe(_source(app, task)).update(count)
        app.run()
    return count.span.outcome(count.seen, version=version("quixstreams"))


def forward(task: Task) -> Outcome:
    """Exactly once; decode, re-key by the customer, encode."""
    schema = json.loads((Path(task.schemas) / f"{task.output}-value" / "v1.avsc").read_text())
    registered = SchemaRegistrySerializationConfig(auto_register_schemas=False)
    with tempfile.TemporaryDirectory(prefix="bench-quix-") as folder:
        app = _application(task, folder, "exactly-once", COMMIT_INTERVAL_S)
        count = Counter(app, task.orders)
        output = app.topic(
            task.output,
            key_serializer="str",
            value_serializer=AvroSerializer(
                schema,
                schema_registry_client_config=_registry(task),
                schema_registry_serialization_config=registered,
            ),
        )

        def customer(order: dict[str, Any]) -> str:
            count(order)
            return str(order["customer_id"])

        app.dataframe(_source(app, task)).to_topic(output, key=customer)
        app.run()
    return count.span.outcome(count.seen, version=version("quixstreams"))


def _application(task: Task, folder: str, guarantee: Any, interval_s: float) -> Application:
    return Application(
        broker_address=task.bootstrap_servers,
        consumer_group=task.group,
        auto_offset_reset="earliest",
        processing_guarantee=guarantee,
        commit_interval=interval_s,
        auto_create_topics=False,
        state_dir=folder,
        loglevel="WARNING",
        consumer_extra_config={"isolation.level": "read_committed"},
        producer_extra_config={
            "linger.ms": 5,
            "batch.size": 65_536,
            "compression.type": "lz4",
            "partitioner": "murmur2_random",
        },
    )


def _source(app: Application, task: Task) -> Any:
    decoder = AvroDeserializer(schema_registry_client_config=_registry(task))
    return app.topic(task.topic, key_deserializer="bytes", value_deserializer=decoder)


def _registry(task: Task) -> SchemaRegistryClientConfig:
    return SchemaRegistryClientConfig(url=task.registry_url)


if __name__ == "__main__":
    run({"consume": consume, "forward": forward})
