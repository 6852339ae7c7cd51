"""The oldest record that lies at or after an offset: what no offset tells, because markers have offsets too."""

from collections.abc import Mapping
from time import monotonic
from typing import Any

from confluent_kafka import Consumer, KafkaError
from confluent_kafka import TopicPartition as ClientPartition

from pipeline.core.record import Record, TopicPartition
from pipeline.errors import BrokerUnavailable
from pipeline.kafka.errors import translate
from pipeline.kafka.log import librdkafka_logger
from pipeline.kafka.reader import to_record

_SILENCE_S_MAX = 30.0
_OURS = {
    "group.id": "orders-pipeline-peek",  # the client asks for one; nothing is subscribed, committed or joined with it
    "enable.auto.commit": False,
    "enable.partition.eof": True,
    "isolation.level": "read_committed",
    "auto.offset.reset": "earliest",
    "queued.min.messages": 1,  # one record of each partition is wanted
    "fetch.message.max.bytes": 65_536,
    "fetch.wait.max.ms": 10,  # a partition without records is told after this, not after half a second
}


def oldest_left(
    properties: Mapping[str, Any], positions: Mapping[TopicPartition, int]
) -> dict[TopicPartition, Record | None]:
    """By partition, the oldest record at or after the position; None where only markers or aborted records are left.

    Reads as a `read_committed` consumer without a group. Raises `BrokerUnavailable` after 30 s without an answer.
    """
    found: dict[TopicPartition, Record | None] = {}
    if not positions:
        return found
    consumer = Consumer({**properties, **_OURS}, logger=librdkafka_logger())
    try:
        consumer.assign([ClientPartition(*source, offset) for source, offset in positions.items()])
        heard = monotonic()
        while len(found) < len(positions):
            # As many as are missing: the call waits until it has that many.
            events = consumer.consume(len(positions) - len(found), 0.2)
            if events:
                heard = monotonic()
            elif monotonic() - heard > _SILENCE_S_MAX:
                silent = ", ".join(f"{topic} [{each}]" for topic, each in sorted(positions.keys() - found.keys()))
                raise BrokerUnavailable(f"Nothing came for {_SILENCE_S_MAX:g} s from {silent}: neither record nor end.")
            for event in events:
                error = event.error()
                if error is not None and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001
                    raise translate(error, f"reading {event.topic() or 'the oldest records left'}")
                source = TopicPartition(str(event.topic()), int(event.partition() or 0))
                if source not in found:
                    found[source] = None if error is not None else to_record(event)
                    consumer.pause([ClientPartition(*source)])
    finally:
        consumer.close()
    return found
