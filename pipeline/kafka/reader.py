"""Reading a topic from end to end, in no group and committing nothing."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import repeat
from time import monotonic
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as ClientPartition

from pipeline.core.record import Record, TopicPartition
from pipeline.errors import BrokerUnavailable
from pipeline.kafka.errors import translate
from pipeline.kafka.log import librdkafka_logger

_log = logging.getLogger(__name__)
_SILENCE_S_MAX = 30.0
_BATCH = 1000
READER = {
    "group.id": "orders-pipeline-reader",  # the client asks for one; nothing is joined or committed in it
    "enable.auto.commit": False,
    "enable.partition.eof": True,
    "fetch.wait.max.ms": 10,  # an end behind a transaction's marker is told after this, not after half a second
}


def read_all(properties: Mapping[str, Any], topic: str, ends: Mapping[int, int]) -> Iterator[Record]:
    """Every record of `topic` from its beginning up to the offsets in `ends` (by partition), partitions interleaved.

    Reads what transactions committed only. Raises `BrokerUnavailable` after 30 s without an answer.
    """
    wanted = {TopicPartition(topic, partition): (OFFSET_BEGINNING, end) for partition, end in ends.items() if end > 0}
    return read_between(properties, wanted)


def read_between(properties: Mapping[str, Any], wanted: Mapping[TopicPartition, tuple[int, int]]) -> Iterator[Record]:
    """What lies between the two offsets of each partition, the second one excluded."""
    if not wanted:
        return
    open_ends = {where: end for where, (_, end) in wanted.items()}
    consumer = Consumer({**without_membership(properties), **READER}, logger=librdkafka_logger())
    try:
        _know_the_leaders(consumer, {where.topic for where in wanted})
        consumer.assign([ClientPartition(*where, start) for where, (start, _) in wanted.items()])
        heard = monotonic()
        while open_ends:
            messages = _next(consumer)
            if not messages and monotonic() - heard > _SILENCE_S_MAX:
                waited = ", ".join(sorted({where.topic for where in open_ends}))
                raise BrokerUnavailable(f"{waited} gave nothing for {_SILENCE_S_MAX:g} s, with records still to come.")
            for message in messages:
                where = TopicPartition(str(message.topic()), int(message.partition() or 0))
                offset, end, error = int(message.offset() or 0), open_ends.get(where), message.error()
                if error is not None and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001
                    raise translate(error, f"reading {where.topic}", needs=f"READ on Topic {where.topic}")
                if error is None and end is not None and offset < end:
                    yield to_record(message)
                # The end event's offset counts as well: the last offsets may be transaction markers.
                if end is not None and offset + (error is None) >= end:
                    del open_ends[where]
            if messages:
                # After the records were worked off: a slow reader is no silent broker.
                heard = monotonic()
    finally:
        consumer.close()


def without_membership(properties: Mapping[str, Any]) -> dict[str, Any]:
    """A reader that joins nothing must not claim the instance name of a member."""
    return {name: value for name, value in properties.items() if name != "group.instance.id"}


def _know_the_leaders(consumer: Consumer, topics: Iterable[str]) -> None:
    """Assigned before it knows them, the client looks for the beginnings again only after half a second."""
    for topic in topics:
        try:
            consumer.list_topics(topic, timeout=_SILENCE_S_MAX)
        except KafkaException as error:
            raise translate(error.args[0], f"reading {topic}", needs=f"DESCRIBE on Topic {topic}") from error


def _next(consumer: Consumer) -> list[Message]:
    """What has come, waiting 0.2 s for the first: `consume` alone waits until it is full, or for its whole time."""
    first = consumer.poll(0.2)
    return [] if first is None else [first, *consumer.consume(_BATCH, 0)]


def to_record(message: Message) -> Record:
    """The client's message as a record."""
    return to_records([message])[0]


def to_records(messages: Sequence[Message]) -> list[Record]:
    """The client's messages as records; part by part, because thousands pass at once."""
    columns = (
        map(Message.topic, messages),
        map(Message.partition, messages),
        map(Message.offset, messages),
        map(Message.key, messages),
        map(Message.value, messages),
        [tuple(headers) if headers else () for headers in map(_headers, messages)],
        [timestamp if kind else None for kind, timestamp in map(Message.timestamp, messages)],
        repeat(1),
    )
    # What `Record(...)` does, at a quarter of its time.
    return list(map(partial(tuple.__new__, Record), zip(*columns, strict=False)))


def _headers(message: Message) -> Any:
    """None as well where the client cannot give them: it breaks on a name that is no UTF-8. Asked a second time, it crashes."""
    try:
        return message.headers()
    except SystemError:
        where = f"{message.topic()} [{message.partition()}] @ {message.offset()}"
        _log.warning("%s has a header whose name is no text: the client gives none of its headers", where)
        return None
