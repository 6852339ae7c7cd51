"""A record as it was read: bytes and where they lay. It knows no schema and no client library."""

from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import Any, NamedTuple

Headers = tuple[tuple[str, bytes | None], ...]


class TopicPartition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int


class Record(NamedTuple):
    """One record of a topic. A tuple, because one is made for every record that passes.

    `timestamp_ms` is milliseconds since 1970 UTC, None where the record has none; `attempt` counts from 1.
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp_ms: int | None = None
    attempt: int = 1

    @property
    def source(self) -> TopicPartition:
        """The partition that it was read from."""
        return TopicPartition(self.topic, self.partition)

    @property
    def where(self) -> str:
        """Its coordinates as people write them: `orders.v1 [3] @ 42`."""
        return f"{self.topic} [{self.partition}] @ {self.offset}"


def listed(partitions: Iterable[TopicPartition]) -> str:
    """Partitions as people write them, by topic: `orders.v1 [0-2, 5]`."""
    by_topic: dict[str, list[list[int]]] = {}
    for topic, partition in sorted(set(partitions)):
        spans = by_topic.setdefault(topic, [])
        if spans and spans[-1][1] == partition - 1:
            spans[-1][1] = partition
        else:
            spans.append([partition, partition])
    return ", ".join(
        f"{topic} [{', '.join(str(first) if first == last else f'{first}-{last}' for first, last in spans)}]"
        for topic, spans in by_topic.items()
    )


# A record's parts by their place, for thousands at once: topic and partition, offset, value.
place_of, offset_of, value_of = itemgetter(0, 1), itemgetter(2), itemgetter(4)


class Keyed(NamedTuple):
    """What a transform gives for a record: a key, the datum, and the topic if it is another one than the usual."""

    key: str | bytes
    value: Mapping[str, Any]
    topic: str | None = None


class KeepsTyped:
    """Says of the `PlainValidator` in a field's `Annotated`: what its `json_schema_input_type` takes, and has the field's type
    already, it gives back unchanged. So it is not called where the schema guarantees that. Without this it always is.
    """
