"""Why a record was not worked off, by the exception's type alone.

Bad data becomes a dead letter, the environment is waited for, a failure of unknown kind is tried again, a programming
error stops the worker: none is ever taken for another (promise P5). And a type decides, never a message: users add their
own cases by raising `Reject` or `Retry`, not by wording.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from pipeline.errors import (
    HandlerFailed,
    Invalid,
    Reject,
    Retry,
    SchemaUnknown,
    SinkRefused,
    Unavailable,
    Undecodable,
)

ERROR_CHARACTERS_MAX = 1024


class FailureKind(StrEnum):
    """The classes of failure; the values are what dead letters carry as their `reason`."""

    UNDECODABLE = "undecodable"
    SCHEMA_UNKNOWN = "schema_unknown"
    INVALID = "invalid"
    REJECTED = "rejected"
    TRANSIENT = "transient"
    RETRIES_EXHAUSTED = "retries_exhausted"
    CRASH_LOOP = "crash_loop"
    UNAVAILABLE = "unavailable"
    BUG = "bug"


# Given up at once: the same bytes will fail in the same way for ever.
DATA_AT_FAULT = frozenset(
    {FailureKind.UNDECODABLE, FailureKind.SCHEMA_UNKNOWN, FailureKind.INVALID, FailureKind.REJECTED},
)
# The worker cannot go on with other records either.
STOPS_ALL = frozenset({FailureKind.UNAVAILABLE, FailureKind.BUG})

# In the manner of Spring's classifier: a short list that is never retried, everything else is. What is listed as a bug is
# what a wrong program raises with any data: trying again burns the machine, giving the records up loses work that a
# deployment mends.
_KINDS: tuple[tuple[type[BaseException], FailureKind], ...] = (
    (Undecodable, FailureKind.UNDECODABLE),
    (SchemaUnknown, FailureKind.SCHEMA_UNKNOWN),
    (Invalid, FailureKind.INVALID),
    (Reject, FailureKind.REJECTED),
    (SinkRefused, FailureKind.REJECTED),
    (Unavailable, FailureKind.UNAVAILABLE),
    (Retry, FailureKind.TRANSIENT),
    (HandlerFailed, FailureKind.BUG),
    (TypeError, FailureKind.BUG),
    (AttributeError, FailureKind.BUG),
    (NameError, FailureKind.BUG),
    (ImportError, FailureKind.BUG),
    (NotImplementedError, FailureKind.BUG),
    (AssertionError, FailureKind.BUG),
)


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure, ready to be written down: `message` is cut to `ERROR_CHARACTERS_MAX` characters.

    `traceback` is where a handler raised it, as bounded text; None where no handler did.
    """

    kind: FailureKind
    error_class: str
    message: str
    traceback: str | None = None


def classify(error: BaseException) -> Failure:
    """Say which class of failure an exception is; one of no known type is transient, and no `Exception` a bug."""
    unknown = FailureKind.TRANSIENT if isinstance(error, Exception) else FailureKind.BUG
    kind = next((kind for known, kind in _KINDS if isinstance(error, known)), unknown)
    # The cause says what really happened where ours only says what it means.
    origin = error.__cause__ or error
    name = f"{type(origin).__module__}.{type(origin).__qualname__}".removeprefix("builtins.")
    return Failure(kind, name, (str(error) or name)[:ERROR_CHARACTERS_MAX])


def exhausted(last: Failure, attempts: int) -> Failure:
    """A transient failure that was tried often enough: its last error, under its own reason."""
    message = f"failed {attempts} times, at last: {last.message}"
    return Failure(FailureKind.RETRIES_EXHAUSTED, last.error_class, message[:ERROR_CHARACTERS_MAX], last.traceback)


def unparkable(last: Failure | None, topic: str) -> Failure:
    """A record that a retry topic refuses for its size: it cannot be tried again later. None: it only followed another."""
    if last is None:
        last = Failure(FailureKind.TRANSIENT, "TooLarge", "an earlier record of its key waits there")
    message = f"it does not fit into {topic}, so it is not tried again: {last.message}"
    return replace(last, kind=FailureKind.RETRIES_EXHAUSTED, message=message[:ERROR_CHARACTERS_MAX])


def unfit(error: Exception, topic: str) -> Failure:
    """What a transform made of a record is refused by its topic for its size."""
    message = f"what the transform made of it does not fit into {topic}: {error}"
    return Failure(FailureKind.REJECTED, "TooLarge", message[:ERROR_CHARACTERS_MAX])


def crash_loop(deaths: int) -> Failure:
    """A record that was in hand whenever the worker died; nothing of it was decoded."""
    return Failure(
        FailureKind.CRASH_LOOP,
        "crash_loop",
        f"the worker died {deaths} times with this record in hand; it is given up as it is, undecoded",
    )
