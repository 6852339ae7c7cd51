"""Failures in the log of the process: a WARNING for every try that failed, an ERROR for every dead letter.

Each line has its facts as fields, and the handler's traceback. Lines of one kind are bounded; from time to time, and at the end,
a line says how many were left out. What succeeds costs nothing here.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.core.failures import Failure
from pipeline.core.line_budget import LineBudget
from pipeline.core.record import Record
from pipeline.core.visible import visible, visible_bytes

LEFT_OUT_EVERY_S = 30.0
KEY_CHARACTERS_MAX = 100
ERROR_CHARACTERS_MAX = 500
_log = logging.getLogger(__name__)


class FailureLog:
    """`clock` gives seconds that never go back. `tier` is 0 for the source, else the number of the retry topic."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._budget = LineBudget()
        self._said_at: float | None = None

    def retried(self, record: Record, failure: Failure, tier: int, then: str, now: float) -> None:
        """A try failed `now`, and what happens `then`: it is tried again here, or sent to a retry topic."""
        self._say(logging.WARNING, f"failed and {then}", record, failure, tier, now)

    def dead(self, record: Record, failure: Failure, tier: int) -> None:
        """A dead letter was written, and is acknowledged or committed."""
        self._say(logging.ERROR, "became a dead letter", record, failure, tier, self._clock())

    def bug(self, record: Record, failure: Failure, tier: int) -> None:
        """The handler has a bug: the worker stops at this record."""
        self._say(
            logging.ERROR, "met a bug of the handler, the worker stops here", record, failure, tier, self._clock()
        )

    def _say(self, level: int, what: str, record: Record, failure: Failure, tier: int, now: float) -> None:
        kind = f"{logging.getLevelName(level)} {failure.kind} {failure.error_class}"
        if self._budget.admits(kind, now):
            error = visible(failure.message, ERROR_CHARACTERS_MAX)
            _log.log(
                level,
                "%s %s: %s: %s",
                record.where,
                what,
                failure.error_class,
                error,
                extra={**facts(record, failure), "tier": tier, **_exception(failure)},
            )

    def serve(self) -> None:
        """Say now and then how many lines were left out."""
        if not self._budget.has_left_out:
            return
        now = self._clock()
        if self._said_at is None:
            self._said_at = now
        elif now - self._said_at >= LEFT_OUT_EVERY_S:
            self.summarize()

    def summarize(self) -> None:
        """Say how many lines were left out since the last time, if any were."""
        self._said_at = None
        left_out = self._budget.left_out()
        if left_out:
            words = ", ".join(f"{count} {kind}" for kind, count in sorted(left_out.items()))
            count = sum(left_out.values())
            _log.warning("%d more failures were not logged one by one: %s", count, words, extra={"left_out": left_out})


def facts(record: Record, failure: Failure | None) -> Mapping[str, Any]:
    """The fields of a line about a record, and of what failed with it."""
    coordinates = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "key": None if record.key is None else visible_bytes(record.key, KEY_CHARACTERS_MAX),
        "attempt": record.attempt,
    }
    if failure is None:
        return coordinates
    return coordinates | {
        "failure": str(failure.kind),
        "error_class": failure.error_class,
        "error": visible(failure.message, ERROR_CHARACTERS_MAX),
    }


def _exception(failure: Failure) -> Mapping[str, str]:
    return {} if failure.traceback is None else {"exception": failure.traceback}
