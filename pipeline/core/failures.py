"""Why a record was not worked off, by the exception's type alone.

Bad data becomes a dead letter, the environment is waited for, a failure of unknown kind is tried again, a programming
error stops the worker: none is ever taken for another (promise P5). And a type decides, never a message: users add their
own cases by raising `Reject` or `Retry`, not by wording. Nothing of an exception is trusted to work: not its `str()`, not
its class. See docs/decisions/0018-groups-and-causes-are-looked-into.md.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum, StrEnum, auto
from typing import Any

from pipeline.errors import (
    HandlerFailed,
    Invalid,
    Reject,
    Retry,
    SchemaUnknown,
    SinkRefused,
    Unavailable,
    Undecodable,
    seconds,
)

ERROR_CHARACTERS_MAX = 1024
CLASS_CHARACTERS_MAX = 256


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
    (SystemExit, FailureKind.BUG),
    (KeyboardInterrupt, FailureKind.BUG),
    (GeneratorExit, FailureKind.BUG),
)
# Of what a group holds the first of these decides: while the environment is down nothing else can be believed, and only
# what is made of nothing but bad data is given up.
_DECIDES = (FailureKind.UNAVAILABLE, FailureKind.BUG, FailureKind.TRANSIENT)
_LEAVES_MAX = 10_000


class Verdict(Enum):
    """What becomes of a record that failed: tried again, waiting for the environment, given up, or the worker stops at it."""

    TRY_AGAIN = auto()
    WAIT = auto()
    GIVE_UP = auto()
    STOP = auto()


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
    """Say which class of failure an exception is: one of no known type is transient.

    Of a group its members decide (`_DECIDES`), of an exception that says nothing by its own type an outage that it was
    explicitly raised from. An exception whose `str()` fails is named by its class.
    """
    kind, leaf = _deciding(error)
    message = _message(leaf)
    if others := [each for each in leaves(error) if each is not leaf]:
        message += f" (and {len(others)} more: {', '.join(sorted({_name(each) for each in others[:10]}))})"
    # The cause says what really happened where ours only says what it means.
    return Failure(kind, _name(_cause(leaf) or leaf), message[:ERROR_CHARACTERS_MAX])


def verdict(error: BaseException, failure: Failure, bugs: Verdict = Verdict.STOP) -> Verdict:
    """What becomes of a record that failed so. `bugs` is what becomes of one whose handler has a bug.

    That is not asked where the handler said itself that all has to stop (`HandlerFailed`), or broke its contract.
    """
    if failure.kind in DATA_AT_FAULT:
        return Verdict.GIVE_UP
    if failure.kind is FailureKind.UNAVAILABLE:
        return Verdict.WAIT
    if failure.kind is FailureKind.BUG:
        final = bugs is Verdict.STOP or any(issubclass(type(leaf), HandlerFailed) for leaf in leaves(error))
        return Verdict.STOP if final else bugs
    return Verdict.TRY_AGAIN


def judge(bugs: Verdict = Verdict.STOP) -> Callable[[BaseException], Verdict]:
    """`verdict` for those who have only the exception."""
    return lambda error: verdict(error, classify(error), bugs)


def retry_after(error: BaseException) -> float | None:
    """Seconds before which no `Retry` of it wants to be tried again; None where none says so."""
    afters = [_attribute(leaf, "after") for leaf in leaves(error) if issubclass(type(leaf), Retry)]
    asked = []
    for after in afters:
        try:
            asked.append(seconds(after))
        except Exception:  # noqa: BLE001, S112  # None, or whatever a class of the user's made of it
            continue
    return max(asked, default=None)


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The exceptions that a group holds, however deep, in their order; of any other one itself."""
    todo = [error]
    for _ in range(_LEAVES_MAX):
        if not todo:
            return
        one = todo.pop()
        if issubclass(type(one), BaseExceptionGroup):
            todo += reversed(_MEMBERS(one))
        else:
            yield one
    # More than anybody looks at: what is left of it is of no known kind.
    if todo:
        yield error


def _deciding(error: BaseException) -> tuple[FailureKind, BaseException]:
    told = [(_kind(leaf), leaf) for leaf in leaves(error)]
    return next((it for wanted in _DECIDES for it in told if it[0] is wanted), told[0])


def _kind(error: BaseException) -> FailureKind:
    # Not isinstance: that asks the object for its class, which may be anything, or fail.
    kind = next((kind for known, kind in _KINDS if issubclass(type(error), known)), None)
    if kind is None:
        return FailureKind.UNAVAILABLE if _comes_of_an_outage(error) else FailureKind.TRANSIENT
    return kind


def _comes_of_an_outage(error: BaseException) -> bool:
    """Along `raise X from …`, as far as X says nothing by its own type."""
    seen: set[int] = set()
    cause = _cause(error)
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        kinds = {
            next((kind for known, kind in _KINDS if issubclass(type(each), known)), None) for each in leaves(cause)
        }
        if kinds != {None}:
            return FailureKind.UNAVAILABLE in kinds
        cause = _cause(cause)
    return False


def _cause(error: BaseException) -> BaseException | None:
    return _CAUSE(error)


def _attribute(error: BaseException, name: str) -> Any:
    try:
        return getattr(error, name, None)
    except BaseException:  # noqa: BLE001  # a property of the user's
        return None


def _name(error: BaseException) -> str:
    # As the interpreter knows the class: what a metaclass makes of these names may fail.
    kind = type(error)
    module, name = vars(type)["__module__"].__get__(kind), str(vars(type)["__qualname__"].__get__(kind))
    full = name if module == "builtins" or not isinstance(module, str) else f"{module}.{name}"
    return _printable(full[:CLASS_CHARACTERS_MAX])


def _message(error: BaseException) -> str:
    """Its text, or the name of its class where it has none, or none that can be had."""
    try:
        # A subclass of str may do with its methods what it likes.
        text = str.__getitem__(str(error), slice(ERROR_CHARACTERS_MAX))
    except BaseException:  # noqa: BLE001  # whatever the user's __str__ raises: that it failed is all that is to be known
        text = ""
    return text or _name(_cause(error) or error)


def one_line(error: BaseException) -> str:
    """What decided, its class and its text, for a line of a log or a terminal: what breaks the line is escaped."""
    leaf = _deciding(error)[1]
    text, name = _message(leaf), _name(leaf).rpartition(".")[2]
    text = _printable(text)
    return name if text in {name, _name(leaf)} else f"{name}: {text}"


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode() for one in text)


# The interpreter's own: a subclass may have put another one in front.
_MEMBERS: Callable[[BaseException], tuple[BaseException, ...]] = vars(BaseExceptionGroup)["exceptions"].__get__
_CAUSE: Callable[[BaseException], BaseException | None] = vars(BaseException)["__cause__"].__get__


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


def crash_loop(deaths: int, last: Failure | None = None) -> Failure:
    """A record that was in hand whenever the worker ended; nothing of it was decoded, unless its `last` failure is known."""
    if last is not None:
        message = f"the worker stopped {deaths} times at this record, at last: {last.message}"
        return replace(last, kind=FailureKind.CRASH_LOOP, message=message[:ERROR_CHARACTERS_MAX])
    return Failure(
        FailureKind.CRASH_LOOP,
        "crash_loop",
        f"the worker died {deaths} times with this record in hand; it is given up as it is, undecoded",
    )
