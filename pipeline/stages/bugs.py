"""What is said of a handler or a transform that a stage stops at, and of calls that go on for long."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from pipeline.core.failures import one_line
from pipeline.core.record import Record
from pipeline.errors import HandlerFailed, WrongReturn
from pipeline.stages.calls import Call

# A call that goes on for so long is said, then each time that it has doubled its age, and at least this often.
LONG_S = 10.0
SAID_EVERY_MAX_S = 600.0
_LOOKED_EVERY_S = 0.5
BESIDE_EVERY_S = 0.02
_KEY_CHARACTERS_MAX = 80
_log = logging.getLogger(__name__)


def bug(what: str, where: str, error: BaseException, *, stops: str, rest: str) -> HandlerFailed:
    """What ends the stage: `what` (a handler, by its name) failed at `where`; `stops` there, and what `rest` became of."""
    if type(error) is HandlerFailed:
        return error
    if issubclass(type(error), WrongReturn):
        said = f"{what} {error} (at {where})."
    else:
        said = f"{what} failed at {where}: {one_line(error)}."
    failure = HandlerFailed(
        f"{said} That is a bug: neither the record nor the environment is at fault, so the {stops} stops there. "
        f"Mend it and start again; {rest}nothing is skipped."
    )
    failure.__cause__ = error
    return failure


class LongCalls:
    """Looks after the calls of a handler that go on: says which ones do for long.

    With `timeout_s` one that takes longer ends the worker: nothing can stop a thread, nor a coroutine that blocks its loop or
    swallows its cancellation, so the process has to.
    """

    def __init__(
        self, what: str, calls: Callable[[], Sequence[Call]], clock: Callable[[], float], timeout_s: float | None
    ) -> None:
        self._what = what
        self._calls = calls
        self._clock = clock
        self._timeout_s = timeout_s
        self._look_at = 0.0
        self._say_at_age = LONG_S

    def look(self) -> HandlerFailed | None:
        """Now and then; what stops the worker, if anything does."""
        running = self._calls()
        if not running or (now := self._clock()) < self._look_at:
            return None
        self._look_at = now + _LOOKED_EVERY_S
        calls = sorted(running, key=lambda call: call.since)
        age = now - calls[0].since
        if age < LONG_S:
            self._say_at_age = LONG_S
        elif age >= self._say_at_age:
            self._say_at_age = age + min(age, SAID_EVERY_MAX_S)
            self._say(calls, age, now)
        if self._timeout_s is None or age < self._timeout_s:
            return None
        return HandlerFailed(
            f"{self._what} has not returned for {age:.0f} s at {_where(calls[0])}; consume.handler_timeout_s does not allow "
            "that, and nothing here can stop it. So the worker stops: everything else is committed, and this record will be "
            "redelivered. Give what it waits for a time-out of its own."
        )

    def _say(self, calls: Sequence[Call], age: float, now: float) -> None:
        oldest = calls[0]
        others = sum(now - call.since >= LONG_S for call in calls) - 1
        more = f"; {others} more calls have run for over {LONG_S:g} s" if others else ""
        _log.warning(
            "%s has not returned for %.0f s at %s%s. Its record, and later ones of its key, wait for it.",
            self._what,
            age,
            _where(oldest),
            more,
            extra=_fields(oldest.record) | {"age_s": round(age, 1), "calls": len(calls)},
        )

    def oldest_s(self) -> float:
        """The age of the oldest call that goes on, in seconds; 0 when none does."""
        return max((self._clock() - call.since for call in self._calls()), default=0.0)

    def running(self) -> int:
        """How many go on."""
        return len(self._calls())

    def places(self) -> str:
        """Where the first few of them are."""
        calls = sorted(self._calls(), key=lambda call: call.since)
        return ", ".join(map(_where, calls[:3])) + (f" and {len(calls) - 3} more" if len(calls) > 3 else "")  # noqa: PLR2004


def _where(call: Call) -> str:
    record, key = call.record, call.record.key
    more = f", a batch of {call.size} from there on" if call.size > 1 else ""
    return f"{record.where} (key {key!r:.{_KEY_CHARACTERS_MAX}}{more})" if key is not None else f"{record.where}{more}"


def _fields(record: Record) -> dict[str, object]:
    key = None if record.key is None else record.key.decode("utf-8", "backslashreplace")[:_KEY_CHARACTERS_MAX]
    return {"topic": record.topic, "partition": record.partition, "offset": record.offset, "key": key}


@contextmanager
def beside(look: Callable[[], object]) -> Iterator[None]:
    """While the block runs, `look` by a thread of its own: for a stage that calls in the thread that would look."""
    over = threading.Event()

    def looking() -> None:
        while not over.wait(BESIDE_EVERY_S):
            look()

    thread = threading.Thread(target=looking, name="beside", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
