"""Where everything is measured: a stack of its own, a topic filled once, and topics like it on demand."""

import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka import Producer

from bench.task import Task
from pipeline import settings, wiring
from pipeline.core.topic_file import Declared
from pipeline.kafka import config
from pipeline.kafka.log import librdkafka_logger
from pipeline.kafka.reader import read_all
from pipeline.local import artifacts, class_archives
from pipeline.local.stack import LocalStack, ephemeral_stack
from pipeline.orders import generate
from pipeline.serde import schema_files
from pipeline.serde.avro import AvroReader
from pipeline.stages import schema_gate

TOPIC, FORWARDED, LETTERS = "orders.v1", "orders.by-customer.v1", "orders.dlq.v1"
PARTITIONS = 6
# As many as the letters of the largest topic need.
PARTITIONS_MAX = 48
CHECKED = 1_000


class Place:
    """A running stack with `orders` orders in `TOPIC`; the same orders as NDJSON and as bytes in files."""

    def __init__(self, stack: LocalStack, folder: Path) -> None:
        self.stack = stack
        self.folder = folder
        self.schemas = Path(shutil.copytree(schema_files.directory(None), folder / "schemas"))
        self.settings = settings.load(
            {
                "kafka.bootstrap_servers": stack.bootstrap_servers,
                "registry.url": stack.registry_url,
                "schemas.dir": str(self.schemas),
            }
        )
        self.cluster = wiring.cluster(self.settings)
        self.orders = 0
        self._runs = 0
        self.cluster.create([Declared(TOPIC, PARTITIONS), Declared(LETTERS, PARTITIONS_MAX)])
        with wiring.registry(self.settings) as registry:
            schema_gate.register(schema_files.load(self.schemas), registry, lambda _: None)

    @property
    def orders_file(self) -> Path:
        return self.folder / "orders.ndjson"

    @property
    def bytes_file(self) -> Path:
        return self.folder / "orders.pickle"

    def fresh(self) -> str:
        """A name nobody used yet in this run."""
        self._runs += 1
        return f"bench-{self._runs}"

    def topic(self, like: str, name: str = "", partitions: int = PARTITIONS) -> str:
        """A new topic with the contract of the topic `like`, registered."""
        name = name or self.fresh()
        contract = self.schemas / f"{name}-value"
        shutil.copytree(self.schemas / f"{like}-value", contract)
        with wiring.registry(self.settings) as registry:
            registry.register(contract.name, schema_files.load(self.schemas).subject(contract.name).newest.text)
        self.cluster.create([Declared(name, partitions)])
        return name

    def fill(self, count: int) -> None:
        """Put so many made-up orders into `TOPIC`."""
        encoder = wiring.encoder(self.settings, TOPIC)
        orders = list(generate(count, seed=1))
        keys = [order.order_id.encode() for order in orders]
        values = [encoder.encode(order.__dict__) for order in orders]
        self.write(TOPIC, keys, values)
        self.orders_file.write_text("".join(order.model_dump_json() + "\n" for order in orders))
        self.bytes_file.write_bytes(pickle.dumps((keys, values)))
        self.orders = count

    def refill(self, topic: str, orders: int = 0) -> None:
        """Put the same orders into another topic, or so many of them, over and over."""
        keys, values = pickle.loads(self.bytes_file.read_bytes())
        left = orders or self.orders
        while left:
            count = min(left, len(keys))
            self.write(topic, keys[:count], values[:count])
            left -= count

    def environment(self, topic: str, group: str) -> dict[str, str]:
        """For the pipeline's commands, as a user sets it."""
        return {
            "PIPELINE_KAFKA__BOOTSTRAP_SERVERS": self.stack.bootstrap_servers,
            "PIPELINE_KAFKA__TOPIC": topic,
            "PIPELINE_KAFKA__CONSUMER_GROUP": group,
            "PIPELINE_REGISTRY__URL": self.stack.registry_url,
            "PIPELINE_SCHEMAS__DIR": str(self.schemas),
        }

    def write(self, topic: str, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        producer = Producer(config.producer(self.settings.kafka), logger=librdkafka_logger())
        for key, value in zip(keys, values, strict=True):
            while True:
                try:
                    producer.produce(topic, value, key)
                    break
                except BufferError:
                    producer.poll(0.1)
        producer.flush()
        producer.close()

    def task(self, topic: str, orders: int, **more: object) -> Task:
        """A task here, in a group of its own."""
        known = {
            "bootstrap_servers": self.stack.bootstrap_servers,
            "registry_url": self.stack.registry_url,
            "schemas": str(self.schemas),
            "orders_file": str(self.orders_file),
            "bytes_file": str(self.bytes_file),
        }
        return Task(topic=topic, group=self.fresh(), orders=orders, **known, **more)  # type: ignore[arg-type]

    def check(self, topic: str, *, decoded: bool) -> None:
        """That a `read_committed` reader finds every order there once; `decoded`: keyed by its customer, in its contract."""
        with wiring.registry(self.settings) as registry:
            newest = schema_files.load(self.schemas).subject(f"{topic}-value").newest
            assert isinstance(newest.schema, dict)
            reader = AvroReader(newest.schema, registry.schema_by_id)
            found = 0
            for record in read_all(config.consumer(self.settings.kafka), topic, self.cluster.end_offsets(topic)):
                found += 1
                if decoded and found <= CHECKED:
                    assert record.key == reader.decode(record.value)["customer_id"].encode(), record.where
        if found != self.orders:
            raise AssertionError(f"{topic} holds {found} committed records, not {self.orders}.")


@contextmanager
def somewhere(say: Callable[[str], None]) -> Iterator[Place]:
    """A place on an ephemeral stack."""
    installed = class_archives.install(artifacts.default_cache(), artifacts.no_progress, say)
    with ephemeral_stack(installed, say) as stack, tempfile.TemporaryDirectory(prefix="bench-") as folder:
        yield Place(stack, Path(folder))
