"""A topic watched as it grows, in no group and committing nothing."""

from collections.abc import Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError
from confluent_kafka import TopicPartition as ClientPartition

from pipeline.core.record import Record, TopicPartition
from pipeline.kafka.errors import translate
from pipeline.kafka.log import librdkafka_logger
from pipeline.kafka.reader import READER, to_record, without_membership


class Follower:
    """Reads these partitions from these offsets on; `properties` are `kafka.config.consumer`'s."""

    def __init__(self, properties: Mapping[str, Any], starts: Mapping[TopicPartition, int]) -> None:
        self._consumer = Consumer({**without_membership(properties), **READER}, logger=librdkafka_logger())
        self._consumer.assign([ClientPartition(*where, offset) for where, offset in starts.items()])

    def poll(self, limit: int, timeout_s: float) -> list[Record]:
        """What came, at most `limit` records; raises what `translate` makes of the client's error."""
        records = []
        for message in self._consumer.consume(limit, timeout_s):
            error = message.error()
            if error is None:
                records.append(to_record(message))
            elif error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001
                raise translate(error, f"following {message.topic()}")
        return records

    def close(self) -> None:
        """Let go of the connections."""
        self._consumer.close()
