"""Letters of others: what Kafka Connect writes when a sink connector gives a record up (KIP-298).

The value is the original's bytes, the record's own headers stay, and `__connect.errors.*` headers tell the rest, all as
text. Connect keeps the original's timestamp, so when it failed is not known: the timestamp stands in for it.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from pipeline.core.dead_letter import CONNECT_HEADERS, CONNECT_PREFIX
from pipeline.core.record import Record
from pipeline.core.topic_file import is_topic_name

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DIGITS_MAX = 19


def connect_envelope(record: Record) -> dict[str, Any] | None:
    """The letter as a `DeadLetter` datum would say it; None where it is no letter of Connect's.

    A letter of ours carries the same headers, and its own beside them: one that cannot be decoded now must not pass for
    Connect's, or its envelope would be taken for the original.
    """
    told = {
        name.removeprefix(CONNECT_PREFIX): (value or b"").decode("utf-8", "backslashreplace")
        for name, value in record.headers
        if name.startswith(CONNECT_PREFIX)
    }
    ours = {name: (value or b"").decode("utf-8", "backslashreplace") for name, value in record.headers}
    where = [told.get(name, "") for name in ("topic", "partition", "offset")]
    same = [ours.get(f"source-{name}") for name in ("topic", "partition", "offset")]
    if not is_topic_name(where[0]) or not _number(where[1], 31) or not _number(where[2], 63) or same == where:
        return None
    failed_at = None if record.timestamp_ms is None else _time(record.timestamp_ms)
    return {
        "key": record.key,
        "value": record.value,
        "headers": [{"name": name, "value": value} for name, value in record.headers if name not in CONNECT_HEADERS],
        "source_topic": where[0],
        "source_partition": int(where[1]),
        "source_offset": int(where[2]),
        "source_timestamp": failed_at,
        "reason": told.get("stage", "unknown").lower(),
        "error": told.get("exception.message", ""),
        "error_class": told.get("exception.class.name", "unknown"),
        "schema_id": None,
        "attempts": None,
        "first_failed_at": failed_at,
        "failed_at": failed_at,
        # The group that Connect makes for a sink connector.
        "consumer_group": f"connect-{told.get('connector.name', 'unknown')}",
        "consumer_instance": told.get("task.id", "unknown"),
    }


def _number(text: str, bits: int) -> bool:
    """Whether it is one that a partition or an offset can be. Its length first: Python takes no number of any length."""
    return len(text) <= _DIGITS_MAX and text.isascii() and text.isdigit() and int(text) < 2**bits


def _time(milliseconds: int) -> datetime | None:
    try:
        return _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return None
