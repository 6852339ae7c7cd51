"""The idempotent producer: every record it takes ends in exactly one delivery report."""

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from pipeline.core.ports import Delivery
from pipeline.core.record import Headers
from pipeline.errors import BrokerUnavailable, DeliveryFailed, PipelineError, TimestampRefused, TooLarge
from pipeline.kafka.errors import BAD_TIMESTAMP, OUTAGE, TOO_LARGE, TOPIC_ABSENT
from pipeline.kafka.log import librdkafka_logger

_FULL_QUEUE_WAIT_S = 0.1
_FLUSH_SLICE_S = 0.5
_ASK_S = 5.0
_PURGED = frozenset({"_PURGE_INFLIGHT", "_PURGE_QUEUE"})
ANY_PARTITION = -1  # the partitioner's to say
_Report = Callable[[KafkaError | None, Message], None]
_log = logging.getLogger(__name__)


class IdempotentProducer:
    """Implements `core.ports.Publisher` on the client's `Producer`; `properties` are `kafka.config.producer`'s."""

    def __init__(self, properties: Mapping[str, Any]) -> None:
        self._producer = Producer(dict(properties), logger=librdkafka_logger())
        self._reporting: tuple[Callable[[Delivery], None] | None, _Report | None] = (None, None)

    def publish(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        *,
        headers: Headers = (),
        partition: int | None = None,
        on_delivery: Callable[[Delivery], None],
    ) -> None:
        """Hand one record over; `on_delivery` is called once with its fate, from `publish`, `serve` or `flush`.

        Waits while the queue is full, which bounds memory: a queued record leaves by acknowledgement or time-out.
        """
        while not self._takes(topic, key, value, headers, partition, on_delivery):
            self._producer.poll(_FULL_QUEUE_WAIT_S)

    def offer(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        *,
        headers: Headers = (),
        partition: int | None = None,
        on_delivery: Callable[[Delivery], None],
    ) -> bool:
        """As `publish`, but waits for nothing: False when the queue is full, and then the record was not taken."""
        return self._takes(topic, key, value, headers, partition, on_delivery)

    def _takes(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        partition: int | None,
        on_delivery: Callable[[Delivery], None],
    ) -> bool:
        told, report = self._reporting
        if on_delivery is not told:
            # One for all that are told to the same: a record needs none of its own.
            report = _report_to(on_delivery)
            self._reporting = on_delivery, report
        where = ANY_PARTITION if partition is None else partition
        try:
            # By their places: the client takes half as long again to find arguments by their names. It has two for the report,
            # and looks at the second one only where the first one is not there at all: with None there it tells nobody.
            self._producer.produce(topic, value, key, where, report, None, 0, list(headers) if headers else None)
        except BufferError:
            return False
        except KafkaException as error:
            if is_new(error.args[0], self._producer, topic, partition):
                return self._takes(topic, key, value, headers, partition, on_delivery)
            # Refused on the spot: too large, or an unknown partition of a known topic.
            on_delivery(Delivery(topic, -1, -1, key, failure(error.args[0], topic), value))
        return True

    def serve(self, timeout_s: float = 0) -> None:
        """Run the delivery callbacks that are due; wait up to `timeout_s` seconds for one."""
        self._producer.poll(timeout_s)

    def abandon(self) -> None:
        """Wait no longer: every record without a report gets one now, which says that its outcome is unknown."""
        self._producer.purge()
        while self._producer.flush(_FLUSH_SLICE_S):
            pass

    def is_missing(self, topic: str) -> bool:
        """True only when the cluster says that there is no such topic; an outage says nothing."""
        try:
            found = self._producer.list_topics(topic, timeout=_ASK_S).topics.get(topic)
        except KafkaException:
            return False
        return found is not None and found.error is not None and found.error.name() in TOPIC_ABSENT

    def close(self, within_s: float | None = None) -> None:
        """Flush, then let go of the connections; what has no report after `within_s` seconds is given up, outcome unknown."""
        deadline = None if within_s is None else time.monotonic() + within_s
        while self._producer.flush(_FLUSH_SLICE_S):
            if deadline is not None and time.monotonic() >= deadline:
                self._producer.purge()
                break
        self._producer.close()


def is_new(error: KafkaError, producer: Producer, topic: str, partition: int | None) -> bool:
    """Whether a partition that the client does not know is one that the topic got meanwhile; it knows it then."""
    if error.code() != KafkaError._UNKNOWN_PARTITION:  # noqa: SLF001  # the client names its own codes so
        return False
    try:
        found = producer.list_topics(topic, timeout=_ASK_S).topics.get(topic)
    except KafkaException:
        return False
    return found is not None and partition in found.partitions


def _report_to(on_delivery: Callable[[Delivery], None]) -> _Report:
    def report(error: KafkaError | None, message: Message) -> None:
        topic, partition, offset = message.topic() or "", message.partition(), message.offset()
        problem = None if error is None else failure(error, topic)
        on_delivery(
            _delivery(
                (
                    topic,
                    -1 if partition is None else partition,
                    -1 if offset is None else offset,
                    message.key(),
                    problem,
                    None if error is None else message.value(),
                )
            )
        )

    return report


# What `Delivery(...)` does, at a quarter of its time.
_delivery: Callable[[tuple[Any, ...]], Delivery] = partial(tuple.__new__, Delivery)


def failure(error: KafkaError, topic: str) -> PipelineError:
    """Say what a delivery error means: outcome unknown (`BrokerUnavailable`) or refused for good (`DeliveryFailed`).

    `TooLarge` and `TimestampRefused` are refusals of this one record.
    """
    # In flight or in the queue when time ran out: librdkafka cannot tell whether the broker wrote it. The same where we
    # stopped waiting: what lies in the queue may have been sent before, and be there to be sent again.
    if error.name() in OUTAGE | _PURGED or error.retriable():
        return BrokerUnavailable(f"no acknowledgement from {topic} in time ({error.name()}): it may be there, once")
    said = f"{topic} refused it for good: {error.str()} ({error.name()})"
    if error.name() in TOO_LARGE:
        return TooLarge(said)
    if error.name() in BAD_TIMESTAMP:
        return TimestampRefused(said, topic)
    return DeliveryFailed(said)
