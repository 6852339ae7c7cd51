"""The dead-letter contract: what a letter says, in its envelope and in its headers.

The envelope (`schemas/orders.dlq.v1-value`) holds the record's raw bytes and its history. The headers say the same in
short for tools that read no Avro: ours (`source-topic`, ...) and Kafka Connect's (KIP-298). A record that already
carries such headers does not get to forge them: the letter's headers replace them; inside the envelope they stay.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pipeline.core.failures import Failure
from pipeline.core.record import Headers, Record

CONNECT_PREFIX = "__connect.errors."
# The handler's traceback, under Connect's name for it: there alone, for the envelope has no field of it.
TRACEBACK = CONNECT_PREFIX + "exception.stacktrace"
OWN_HEADERS = frozenset({"source-topic", "source-partition", "source-offset", "error"})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Worker:
    """Who gave a record up."""

    group: str
    instance: str


@dataclass(frozen=True, slots=True)
class Letter:
    """A record given up: what to write to the dead-letter topic, under the record's own key and partition."""

    record: Record
    failure: Failure
    worker: Worker
    failed_at_ms: int
    schema_id: int | None = None
    first_failed_at_ms: int | None = None

    def envelope(self) -> dict[str, Any]:
        """The datum of the `DeadLetter` schema."""
        record, failure = self.record, self.failure
        return {
            "key": record.key,
            "value": record.value,
            "headers": [{"name": name, "value": value} for name, value in record.headers],
            "source_topic": record.topic,
            "source_partition": record.partition,
            "source_offset": record.offset,
            "source_timestamp": None if record.timestamp_ms is None else _utc(record.timestamp_ms),
            "reason": str(failure.kind),
            "error": _unicode(failure.message),
            "error_class": failure.error_class,
            "schema_id": self.schema_id,
            "attempts": record.attempt,
            "first_failed_at": _utc(self.failed_at_ms if self.first_failed_at_ms is None else self.first_failed_at_ms),
            "failed_at": _utc(self.failed_at_ms),
            "consumer_group": self.worker.group,
            "consumer_instance": self.worker.instance,
        }

    def headers(self) -> Headers:
        """The record's own headers without forged ones, then ours, then Connect's. Numbers are decimal strings."""
        record, failure = self.record, self.failure
        kept = [
            (name, value)
            for name, value in record.headers
            if name not in OWN_HEADERS and not name.startswith(CONNECT_PREFIX)
        ]
        ours = {
            "source-topic": record.topic,
            "source-partition": str(record.partition),
            "source-offset": str(record.offset),
            "error": failure.message,
            CONNECT_PREFIX + "topic": record.topic,
            CONNECT_PREFIX + "partition": str(record.partition),
            CONNECT_PREFIX + "offset": str(record.offset),
            CONNECT_PREFIX + "connector.name": self.worker.group,
            CONNECT_PREFIX + "task.id": self.worker.instance,
            CONNECT_PREFIX + "stage": str(failure.kind),
            CONNECT_PREFIX + "exception.class.name": failure.error_class,
            CONNECT_PREFIX + "exception.message": failure.message,
        }
        if failure.traceback is not None:
            ours[TRACEBACK] = failure.traceback
        return (*kept, *((name, value.encode("utf-8", "backslashreplace")) for name, value in ours.items()))


def _unicode(text: str) -> str:
    """Text that UTF-8 can hold: an error may quote a lone surrogate from JSON, and its letter is to be written all the same."""
    return text.encode("utf-8", "backslashreplace").decode()


def _utc(milliseconds: int) -> datetime:
    """Clamped, because a record's timestamp is whatever its producer wrote."""
    try:
        return _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        # As many digits as the letter has: milliseconds.
        return (
            datetime.max.replace(microsecond=999_000, tzinfo=UTC)
            if milliseconds > 0
            else datetime.min.replace(tzinfo=UTC)
        )
