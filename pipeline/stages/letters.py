"""deadletters, the read side: what lies in the dead-letter topic, with each original as far as it can be read.

Nothing is changed and no offset is committed. Every letter is read, so the time grows with the topic.
"""

import json
import sys
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.core.connect_letter import connect_envelope
from pipeline.core.dead_letter import LEFT_OUT, TRACEBACK, VALUE_BYTES, VALUE_SHA256
from pipeline.core.ports import Decoder
from pipeline.core.record import Record
from pipeline.core.redrive import LetterId, Mark, Selection, letter_id
from pipeline.core.spelling import clipped, spelled
from pipeline.core.visible import visible_json
from pipeline.errors import InputRefused, PipelineError, RecordError, Refused
from pipeline.serde.wire import schema_id_or_none

Ledger = Mapping[LetterId, Mark]
_EVERYTHING = Selection()


@dataclass(frozen=True, slots=True)
class StoredLetter:
    """One letter as it lies in the topic; `envelope` is None where its value is no letter, `error` says why."""

    record: Record
    envelope: dict[str, Any] | None
    error: str | None = None
    redriven: bool = False

    @property
    def id(self) -> LetterId:
        """Where it lies; as text `partition:offset`, what `show` and `redrive` take."""
        return LetterId(self.record.partition, self.record.offset)

    @property
    def reason(self) -> str:
        """The failure class, or `unreadable` for what is no letter."""
        return str(self.envelope["reason"]) if self.envelope else "unreadable"

    @property
    def traceback(self) -> str | None:
        """Where the handler failed, from the letter's own header; Connect's stack trace where it is one of Connect's."""
        found = next((value for name, value in reversed(self.record.headers) if name == TRACEBACK), None)
        return None if found is None else found.decode("utf-8", "backslashreplace")

    @property
    def key(self) -> str | None:
        """The key as `--key` takes it; None where the record has none."""
        return None if self.record.key is None else spelled(self.record.key)

    @property
    def group(self) -> str | None:
        """The group that gave it up."""
        return str(self.envelope["consumer_group"]) if self.envelope else None

    @property
    def left_out(self) -> str | None:
        """What of the original did not fit into the letter, in words; None where all of it is there."""
        if self.envelope is None:
            return None
        told = {name: (value or b"").decode("utf-8", "replace") for name, value in self.record.headers}
        if LEFT_OUT not in told or VALUE_SHA256 not in told:
            return None
        it = self.envelope
        return (
            f"its {told[LEFT_OUT][:80]} did not fit into the letter ({told.get(VALUE_BYTES, '?')[:20]} bytes); the original "
            f"was read at {it['source_topic']} [{it['source_partition']}] @ {it['source_offset']}"
        )

    def row(self) -> dict[str, Any]:
        """One line of the list."""
        it = self.envelope or {}
        return {
            "id": str(self.id),
            "failed_at": _text(it.get("failed_at")),
            "reason": self.reason,
            "source": f"{it['source_topic']} [{it['source_partition']}] @ {it['source_offset']}" if it else None,
            "group": self.group,
            "key": None if self.key is None else clipped(self.key),
            "error": it.get("error", self.error),
            "state": "redriven" if self.redriven else "due",
        }

    def exported(self) -> dict[str, Any]:
        """All of it, bytes as base64 and null as null: the original, its history, and the letter's own headers."""
        it = self.envelope or {}
        told = {name: _text(it[name]) for name in it if name not in {"key", "value", "headers"}}
        original = (
            {
                "original_key": _base64(it["key"]),
                "original_value": _base64(it["value"]),
                "original_headers": [[each["name"], _base64(each["value"])] for each in it["headers"]],
            }
            if it
            else {}
        )
        return {
            **self.row(),
            **told,
            **original,
            "letter_key": _base64(self.record.key),
            "letter_value": _base64(self.record.value),
            "letter_headers": [[name, _base64(content)] for name, content in self.record.headers],
            "letter_timestamp_ms": self.record.timestamp_ms,
        }


@dataclass(frozen=True, slots=True)
class LetterReader:
    """Reads letters. `originals` gives the decoder of a source topic, None where there is no schema file for it.

    `ledger` tells which letters were redriven, by id, with the timestamp of each.
    """

    records: Callable[[], Iterable[Record]]
    envelope: Decoder
    originals: Callable[[str], Decoder | None]
    ledger: Callable[[], Ledger] = field(default=dict)

    def letters(self, selection: Selection = _EVERYTHING) -> Iterator[StoredLetter]:
        """Every letter of the selection, redriven ones too, in the order of its partition."""
        redriven = self.ledger()
        for record in self.records():
            letter = self._letter(record, redriven)
            if selection.matches(letter.id, letter.reason, letter.key, letter.envelope):
                yield letter

    def show(self, wanted: str) -> dict[str, Any]:
        """One letter in full, its original decoded where it can be; `Refused` when there is none of that id."""
        letter = next(self.letters(Selection(ids=frozenset([letter_id(wanted)]))), None)
        if letter is None:
            raise Refused(f"There is no letter {wanted}. `deadletters list` names them: partition:offset.")
        it = letter.envelope or {}
        value = it.get("value", letter.record.value)
        original, problem = None, letter.left_out
        if problem is None:
            original, problem = self._original(it.get("source_topic"), value)
        return {
            **letter.row(),
            **{name: _text(it[name]) for name in it if name not in {"key", "value", "headers"}},
            "headers": [[each["name"], _bytes(each["value"])] for each in it.get("headers", ())],
            "letter_headers": [[name, _bytes(content)] for name, content in letter.record.headers if name != TRACEBACK],
            "value_hex": None if value is None else value.hex(),
            "value": original,
            "value_undecoded_because": problem,
            "traceback": letter.traceback,
        }

    def stats(self) -> dict[str, Any]:
        """How many letters there are, due and redriven, by reason, by source topic and by consumer group.

        `due_by_group` counts those that are due alone: one record that two groups gave up has two letters.
        """
        names = ("by_reason", "by_source", "by_group", "due_by_group")
        counts: dict[str, Counter[str]] = {name: Counter() for name in names}
        failed: list[datetime] = []
        redriven = 0
        for letter in self.letters():
            it = letter.envelope or {}
            redriven += letter.redriven
            counts["by_reason"][letter.reason] += 1
            counts["by_source"][it.get("source_topic", "unknown")] += 1
            counts["by_group"][letter.group or "unknown"] += 1
            counts["due_by_group"][letter.group or "unknown"] += not letter.redriven
            if it.get("failed_at"):
                failed.append(it["failed_at"])
        total = counts["by_reason"].total()
        return {
            "letters": total,
            "due": total - redriven,
            "redriven": redriven,
            "oldest": _text(min(failed, default=None)),
            "newest": _text(max(failed, default=None)),
            **{name: dict((+counter).most_common()) for name, counter in counts.items()},
        }

    def _letter(self, record: Record, redriven: Ledger) -> StoredLetter:
        """Whatever lies there is one: where nothing can be made of it, an unreadable one, which can be purged at least."""
        done = marked(redriven, LetterId(record.partition, record.offset), record.timestamp_ms)
        try:
            return StoredLetter(record, self.envelope.decode(record.value), redriven=done)
        except PipelineError:
            raise  # the registry's matter, not this record's
        except Exception as error:  # noqa: BLE001  # anybody may write there, and one record must not end every command
            problem = str(error) if isinstance(error, RecordError) else f"{type(error).__name__}: {error}"
        foreign = connect_envelope(record)
        if foreign is None:
            return StoredLetter(record, None, f"no letter of ours, nor of Kafka Connect's: {problem}", redriven=done)
        return StoredLetter(record, foreign | {"schema_id": schema_id_or_none(record.value)}, redriven=done)

    def _original(self, topic: str | None, value: bytes | None) -> tuple[dict[str, Any] | None, str | None]:
        try:
            decoder = self.originals(topic) if topic else None
            if decoder is None:
                return None, f"there is no schema file for {topic}"
            return {name: _text(content) for name, content in decoder.decode(value).items()}, None
        except (RecordError, PipelineError) as error:
            return None, str(error)
        except Exception as error:  # noqa: BLE001  # the letter is shown all the same
            return None, f"{type(error).__name__}: {error}"


def export_to(name: str, letters: Iterable[StoredLetter]) -> int:
    """Write letters as NDJSON to a file, or to stdout for `-`; how many. `InputRefused` when it cannot be written."""
    try:
        file = sys.stdout if name == "-" else Path(name).open("w", encoding="utf-8")  # noqa: SIM115  # closed below
    except OSError as error:
        raise InputRefused(f"{name} cannot be written: {error.strerror}. Nothing was exported.") from error
    count = 0
    with nullcontext(file) if file is sys.stdout else file:
        for count, letter in enumerate(letters, 1):  # noqa: B007  # the last number is how many
            file.write(visible_json(json.dumps(letter.exported(), ensure_ascii=False)) + "\n")
    return count


def marked(ledger: Ledger, letter: LetterId, timestamp_ms: int | None) -> bool:
    """Whether the ledger says that this letter was redriven.

    A topic that was deleted and recreated gives the same ids to other letters: the timestamp tells them apart.
    """
    mark = ledger.get(letter)
    return mark is not None and mark.timestamp_ms == timestamp_ms


def _text(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _bytes(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "backslashreplace")


def _base64(value: bytes | None) -> str | None:
    return None if value is None else b64encode(value).decode()
