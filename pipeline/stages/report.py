"""What the person who runs a stage is told meanwhile: refused lines, unacknowledged keys, with -v every record."""

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from pipeline.core.failures import Failure, FailureKind
from pipeline.core.ports import Delivery
from pipeline.core.record import Record
from pipeline.core.visible import visible, visible_bytes
from pipeline.errors import InputRefused, Unavailable
from pipeline.stages.failure_log import facts
from pipeline.stages.intake import Refusal, is_same_file
from pipeline.stages.unacknowledged import Unacknowledged

REFUSALS_SAID = 10
_log = logging.getLogger(__name__)
UNACKNOWLEDGED_SAID = 10


class ProduceReport:
    """Says what became of each order; `rejects` gets every refused line as NDJSON: `line`, `reason`, `input`.

    `unacknowledged` gets every order that was not acknowledged.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        *,
        verbose: bool,
        unacknowledged: Unacknowledged,
        rejects: TextIO | None = None,
    ) -> None:
        self._say = say
        self._verbose = verbose
        self._unacknowledged = unacknowledged
        self._rejects = rejects
        self._refused = 0

    def delivered(self, delivery: Delivery) -> None:
        """`✔` with its place, or `✖` with why it is not acknowledged and what that means; of many the first few."""
        if delivery.error is None:
            if self._verbose:
                self._say(f"✔ {delivery.topic} [{delivery.partition}] @ {delivery.offset} {_text(delivery.key)}")
            return
        self._unacknowledged.add(delivery)
        if self._unacknowledged.count > UNACKNOWLEDGED_SAID:
            return
        is_unknown = isinstance(delivery.error, Unavailable)
        fate = "unknown: sending it again is safe, it is stored once" if is_unknown else "it is not in the topic"
        self._say(f"✖ {_text(delivery.key)} is not acknowledged ({fate}): {visible(str(delivery.error))}")
        if self._unacknowledged.count == UNACKNOWLEDGED_SAID:
            self._say("✖ more orders that are not acknowledged are not named here, but kept as these are")

    def refused(self, refusal: Refusal) -> None:
        """Into the rejects file; without one the first few are said."""
        self._refused += 1
        if self._rejects is not None:
            entry = {"line": refusal.line, "reason": refusal.reason, "input": refusal.text}
            self._rejects.write(json.dumps(entry, ensure_ascii=False) + "\n")
        elif self._refused <= REFUSALS_SAID:
            self._say(f"✖ line {refusal.line} refused: {visible(refusal.reason)}")
        elif self._refused == REFUSALS_SAID + 1:
            self._say("✖ more lines are refused; --rejects FILE keeps each with its reason")


@contextmanager
def rejects_file(name: str | None, source: os.stat_result | None) -> Iterator[TextIO | None]:
    """The file for refused lines, replaced when it exists.

    `InputRefused` when it cannot be written, or when it is the opened `source`, by whatever name: it would be emptied.
    """
    if name is None:
        yield None
        return
    if source is not None and is_same_file(name, source):
        raise InputRefused(f"--rejects {name} is the input itself. Name another file. Nothing was published.")
    try:
        file = Path(name).open("w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115  # entered below
    except OSError as error:
        raise InputRefused(f"--rejects {name} cannot be written: {error.strerror}. Nothing was published.") from error
    with file:
        yield file


def consume_report(
    say: Callable[[str], None], *, verbose: bool, as_fields: bool = False
) -> Callable[[Record, Failure | None], None] | None:
    """With `verbose` a line for every settled record: `✔` handled, `↻` sent to a retry topic, `✖` given up; and why.

    `as_fields`: a log line, with the record's coordinates as fields.
    """

    def seen(record: Record, failure: Failure | None) -> None:
        if failure is None:
            text = f"✔ {record.where} {_text(record.key)}"
        else:
            mark = "↻" if failure.kind is FailureKind.TRANSIENT else "✖"
            text = f"{mark} {record.where} {_text(record.key)} {failure.kind}: {visible(failure.message)}"
        if as_fields:
            _log.info("%s", text, extra=facts(record, failure))
        else:
            say(text)

    return seen if verbose else None


def _text(key: bytes | None) -> str:
    return "(no key)" if key is None else visible_bytes(key)
