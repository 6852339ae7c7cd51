"""Every error of the pipeline, by what the one who meets it can do about it.

A message says what happened, where, and what to do; doors print it and leave with `exit_code`.
"""

from datetime import timedelta
from decimal import Decimal
from math import inf, isnan, nan
from numbers import Real


class PipelineError(Exception):
    """The base: something failed while running."""

    exit_code = 1


class Refused(PipelineError):
    """Refused before any side effect: usage, settings, schemas, topics. Mend what the message names, run it again."""

    exit_code = 2


class SettingsRefused(Refused):
    """A setting is unknown, malformed or contradicts another one."""


class NotAuthorized(SettingsRefused):
    """The broker denies an operation to this principal; the message names operation, resource and principal."""


class SchemaRefused(Refused):
    """A schema file cannot be read, breaks the compatibility of its subject, or is not registered."""


class TopicRefused(Refused):
    """A topic is absent, or is not as it was declared."""


class HandlerRefused(Refused):
    """A handler cannot be imported or does not have the handler's shape."""


class InputRefused(Refused):
    """An input cannot be opened or its format is not known."""


class StackRefused(Refused):
    """The local stack cannot be started here: a busy port, a full disk, a file that is not what it should be."""


class Fenced(PipelineError):
    """A live twin with the same instance name took over."""

    exit_code = 4


class ProducerFenced(Fenced):
    """A transactional id was taken over, or its transaction was ended for it after a time-out."""


class Unavailable(PipelineError):
    """The environment is down: it is waited for, and never mistaken for bad data (promise P5)."""


class BrokerUnavailable(Unavailable):
    """No broker answered in time."""


class RegistryUnavailable(Unavailable):
    """The schema registry did not answer, or answered that it cannot."""


class SchemaPending(Unavailable):
    """A record names a schema that the registry does not have yet; it may come in a moment."""


class SinkUnavailable(Unavailable):
    """The place where worked-off events land did not answer."""


class MembershipLost(PipelineError):
    """The group went on without this member: its offsets were not committed and must not be, they are another's now."""


class HandlerFailed(PipelineError):
    """A handler failed in a way that is not the record's fault nor the environment's: a bug, which stops the worker."""


class WrongReturn(HandlerFailed):
    """A handler or a transform returned what none may return: its work is not done, or what it says is not understood."""


class NotTogether(PipelineError):
    """A partition and its retry topics belong to different members: the order of a key could not be kept."""


class InputBroken(PipelineError):
    """An input ended in the middle: what was read before is worked off, the rest is not there."""


class DeliveryFailed(PipelineError):
    """A record was refused by the broker for good: its topic is missing, denied, or the record is too large for it."""


class TooLarge(DeliveryFailed):
    """A record was refused for its size."""


class TimestampRefused(DeliveryFailed):
    """A record was refused for its timestamp (KIP-937, KIP-1030); `topic` is the one that refused it."""

    def __init__(self, message: str, topic: str) -> None:
        super().__init__(message)
        self.topic = topic


class RecordError(Exception):
    """The record is at fault, not the environment: it becomes a dead letter."""


class Undecodable(RecordError):
    """The bytes are not a datum of the schema they name."""


class OtherEvent(Undecodable):
    """The bytes are a datum of another event type than the one that is read here: several share the topic."""


class SchemaUnknown(RecordError):
    """The bytes name a schema id that the registry does not have."""


class Invalid(RecordError):
    """The datum decodes, but does not have the event's shape."""


class Misfit(Invalid):
    """Some fields do not have the event's shape; `problems` names each of them with the reason."""

    def __init__(self, problems: tuple[tuple[str, str], ...]) -> None:
        super().__init__("; ".join(f"{field}: {reason}" for field, reason in problems))
        self.problems = problems


class Stopped(Exception):
    """Somebody asked for a clean stop while the input or the environment was waited for: no failure."""


class Reject(RecordError):
    """Raised by a handler: this event will never be accepted, and this is why."""


class Retry(Exception):
    """Raised by a handler: this event failed for now; it is tried again, not before `after` where that is given.

    `why` is text, or the exception that was caught. `after` is a number of seconds or a `timedelta`; below zero it is at
    once, and what is longer than the longest delay of the retry topics is cut to that one. Anything else is a `TypeError`,
    here, in the handler's own line. `self.after` is seconds as a float, or None.
    """

    def __init__(
        self, why: object = "the handler asks for another try", *, after: float | timedelta | None = None
    ) -> None:
        if not isinstance(why, str | BaseException):
            raise TypeError(
                f"Retry({why!r}): the first argument is the reason, as text. For a delay write after={why!r}."
            )
        super().__init__(why)
        self.after = None if after is None else seconds(after)


def seconds(value: object) -> float:
    """A delay as a float that is no NaN and not below zero; a number, or a `timedelta`, else `TypeError`."""
    if isinstance(value, timedelta):
        return max(0.0, value.total_seconds())
    if isinstance(value, bool) or not isinstance(value, Real | Decimal):
        raise TypeError(f"after={value!r} is no number of seconds and no timedelta.")
    try:
        number = float(value)
    except OverflowError:
        number = inf if value > 0 else 0.0  # type: ignore[operator]
    except ValueError:  # a signalling NaN of Decimal
        number = nan
    if isnan(number):
        raise TypeError(f"after={value!r} is no number of seconds.")
    return max(0.0, number)


class SinkRefused(Exception):
    """The sink refused the data of a batch; the stage finds the one record at fault and gives it up."""
