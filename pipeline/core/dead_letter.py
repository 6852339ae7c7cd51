"""The dead-letter contract: what a letter says, in its envelope and in its headers.

The envelope (`schemas/orders.dlq.v1-value`) holds the record's raw bytes and its history. The headers say the same in
short for tools that read no Avro: ours (`source-topic`, ...) and Kafka Connect's (KIP-298). A record that already
carries such headers does not get to forge them: the letter's headers replace them; inside the envelope they stay. Ours are
exactly the names listed here: a header that only begins alike is the record's own, and stays in the letter too.

A record that does not fit into the dead-letter topic with its envelope is given up without its value. Headers tell its size
and digest; the value itself still lies where the letter says that it was read.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from pipeline.core.failures import Failure
from pipeline.core.record import Headers, Record

CONNECT_PREFIX = "__connect.errors."
# The handler's traceback, under Connect's name for it: there alone, for the envelope has no field of it.
TRACEBACK = CONNECT_PREFIX + "exception.stacktrace"
# KIP-298's, all of them: what another tool said of another failure must not stand beside ours.
CONNECT_HEADERS = frozenset(
    CONNECT_PREFIX + name
    for name in (
        "topic", "partition", "offset", "connector.name", "task.id", "stage", "class.name", "exception.class.name",
        "exception.message", "exception.stacktrace",
    )
)  # fmt: skip
LEFT_OUT = "left-out"
VALUE_BYTES = "original-value-bytes"
VALUE_SHA256 = "original-value-sha256"
OWN_HEADERS = frozenset(
    {"source-topic", "source-partition", "source-offset", "error", LEFT_OUT, VALUE_BYTES, VALUE_SHA256}
)
KEY_BYTES_MAX = 1024
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
    left_out: Headers = ()

    def smaller(self) -> "Letter | None":
        """The same letter without the record's value; the next one without its headers and a long key too, then None.

        For a topic that refuses it for its size.
        """
        record = self.record
        if not self.left_out:
            value = record.value or b""
            size, digest = str(len(value)).encode(), sha256(value).hexdigest().encode()
            told: Headers = ((LEFT_OUT, b"value"), (VALUE_BYTES, size), (VALUE_SHA256, digest))
            return replace(self, record=record._replace(value=None), left_out=told)
        if self.left_out[0][1] != b"value":
            return None
        key = record.key if len(record.key or b"") <= KEY_BYTES_MAX else None
        what = b"value, headers" if key == record.key else b"value, headers, key"
        told = ((LEFT_OUT, what), *self.left_out[1:])
        return replace(self, record=record._replace(key=key, headers=()), left_out=told)

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
            (name, value) for name, value in record.headers if name not in OWN_HEADERS and name not in CONNECT_HEADERS
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
        told = ((name, value.encode("utf-8", "backslashreplace")) for name, value in ours.items())
        return (*kept, *told, *self.left_out)


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
