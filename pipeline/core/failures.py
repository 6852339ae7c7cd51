"""Why a record was not worked off, by the exception's type alone.

Two rules. Bad data becomes a dead letter, the environment is waited for, everything else is a bug that stops the
worker: none is ever taken for another (promise P5). And a type decides, never a message: users add their own cases by
raising `Reject`, not by wording.
"""

from dataclasses import dataclass
from enum import StrEnum

from pipeline.errors import Invalid, Reject, SchemaUnknown, SinkRefused, Unavailable, Undecodable

ERROR_CHARACTERS_MAX = 1024


class FailureKind(StrEnum):
    """The classes of failure; the values are what dead letters carry as their `reason`."""

    UNDECODABLE = "undecodable"
    SCHEMA_UNKNOWN = "schema_unknown"
    INVALID = "invalid"
    REJECTED = "rejected"
    UNAVAILABLE = "unavailable"
    BUG = "bug"


DATA_AT_FAULT = frozenset(
    {FailureKind.UNDECODABLE, FailureKind.SCHEMA_UNKNOWN, FailureKind.INVALID, FailureKind.REJECTED},
)

_KINDS: tuple[tuple[type[Exception], FailureKind], ...] = (
    (Undecodable, FailureKind.UNDECODABLE),
    (SchemaUnknown, FailureKind.SCHEMA_UNKNOWN),
    (Invalid, FailureKind.INVALID),
    (Reject, FailureKind.REJECTED),
    (SinkRefused, FailureKind.REJECTED),
    (Unavailable, FailureKind.UNAVAILABLE),
)


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure, ready to be written down: `message` is cut to `ERROR_CHARACTERS_MAX` characters."""

    kind: FailureKind
    error_class: str
    message: str


def classify(error: Exception) -> Failure:
    """Say which class of failure an exception is; an exception of no known type is a bug."""
    kind = next((kind for known, kind in _KINDS if isinstance(error, known)), FailureKind.BUG)
    # The cause says what really happened where ours only says what it means.
    origin = error.__cause__ or error
    name = f"{type(origin).__module__}.{type(origin).__qualname__}".removeprefix("builtins.")
    return Failure(kind, name, (str(error) or name)[:ERROR_CHARACTERS_MAX])
