"""What handlers and transforms return, looked at before anything is settled by it: work that was not done counts for nothing.

A handler of one event returns None. Other plain values are passed over, as they are everywhere in the field, but not those
that show that the work is not done (an awaitable that nobody awaits, a generator that nobody runs) or that it failed (an
exception that was returned and not raised). A batch handler returns None or its rejects, a transform what it forwards. See
docs/decisions/0019-what-handlers-return-is-checked.md.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AsyncContextDecorator, ContextDecorator
from functools import partial
from itertools import chain
from types import CoroutineType, FunctionType, GeneratorType, MethodType
from typing import Any

from pydantic import BaseModel

from pipeline.core.record import Keyed, Record
from pipeline.errors import Invalid, WrongReturn

_REJECTS = "A batch handler returns None, or a list of (record, exception) with records of its batch"
_OUTPUTS = "A transform returns a Keyed(key, value), several of them, or None"
_NOT_RUN = "so its work was never done: do it in the function itself, without `yield`"
Output = tuple[str | None, bytes, Mapping[str, Any]]


def refuse_unfinished(value: object) -> None:
    """`WrongReturn` when what a handler of one event returned (not None) shows that it did not run, or failed."""
    if why := _unfinished(value):
        raise WrongReturn(f"returned {why}")


def _unfinished(value: object) -> str | None:
    """What is wrong with it, in words; None: nothing that is known."""
    kind = type(value)
    why = next((why for is_such, why in _UNFINISHED if is_such(kind, value)), None)
    if isinstance(value, CoroutineType):
        value.close()  # it was never begun
    return why and f"{_word(value)}, {why}"


def _is(*kinds: type) -> Callable[[type, object], bool]:
    # By the class that the interpreter knows: an object says of itself what it likes.
    return lambda kind, _: issubclass(kind, kinds)


def _holds_errors(kind: type, value: Any) -> bool:
    """Two levels deep, which is how a batch handler's rejects look."""
    if not issubclass(kind, list | tuple | set | frozenset):
        return False
    inner = chain.from_iterable(each for each in value if issubclass(type(each), list | tuple))
    return any(issubclass(type(each), BaseException) for each in chain(value, inner))


_UNFINISHED: tuple[tuple[Callable[[type, Any], bool], str], ...] = (
    (
        _is(Awaitable),
        "which nobody awaits, so it did not run to its end: make the function, or what decorates it, `async def`",
    ),
    (_is(Future), "which nobody waits for: return once its result() is there"),
    (_is(GeneratorType, map, filter, zip, AsyncIterator), f"which nobody iterates, {_NOT_RUN}"),
    (
        lambda kind, value: issubclass(kind, ContextDecorator | AsyncContextDecorator) and hasattr(value, "gen"),
        f"which nobody enters, {_NOT_RUN}",
    ),
    (_is(FunctionType, MethodType, partial), "which nobody calls, so its work was never done"),
    (_is(BaseException), "and did not raise it: an exception counts when it is raised"),
    (
        lambda kind, value: issubclass(kind, type) and issubclass(value, BaseException),
        "and did not raise it: an exception counts when it is raised",
    ),
    (lambda _, value: value is NotImplemented, "which means that nothing was done"),
    (_is(Keyed), "which a handler cannot send anywhere: `pipeline.forward --transform` does"),
    (_holds_errors, "with exceptions in it: only a batch handler returns its rejects, others raise"),
)


def rejects(returned: object, records: Sequence[Record]) -> dict[int, BaseException]:
    """What a batch handler says of its records, by their place in the batch: pairs of a record and its exception.

    A copy that equals a record of the batch is that record; one that is named twice failed of both. `WrongReturn` for all
    that is no such pair: whoever returned it meant something, and it is not for us to guess what.
    """
    if returned is None:
        return {}
    kind = type(returned)
    if not issubclass(kind, Collection) or issubclass(kind, Mapping | str | bytes | bytearray | Record):
        raise WrongReturn(f"returned {_unfinished(returned) or _word(returned)}. {_REJECTS}")
    found: dict[int, BaseException] = {}
    by_id = {id(record): at for at, record in enumerate(records)}
    by_offset: dict[object, list[int]] = {}
    for each in returned:  # type: ignore[attr-defined]
        record, error = _reject(each)
        at = by_id.get(id(record))
        if at is None:
            if not by_offset:
                for number, other in enumerate(records):
                    by_offset.setdefault(other[:3], []).append(number)
            at = next((at for at in by_offset.get(record[:3], ()) if records[at] == record), None)
        if at is None:
            raise WrongReturn(f"returned {record.where} among its rejects, which is no record of its batch. {_REJECTS}")
        found[at] = BaseExceptionGroup("named twice", [found[at], error]) if at in found else error
    return found


def _reject(each: object) -> tuple[Record, BaseException]:
    if issubclass(type(each), tuple | list) and not isinstance(each, Record):
        pair: Sequence[Any] = each  # type: ignore[assignment]
        if len(pair) == 2 and isinstance(pair[0], Record) and issubclass(type(pair[1]), BaseException):  # noqa: PLR2004
            return pair[0], pair[1]
        what = "(" + ", ".join(map(_word, pair[:4])) + ")"
    else:
        what = _word(each)
    raise WrongReturn(f"returned {what} among its rejects. {_REJECTS}")


def outputs(given: object) -> Iterator[Output]:
    """What a transform gave (not None), each as topic, key and value; `WrongReturn` for what is nothing of that kind.

    What is iterated may be a generator: what it raises passes through.
    """
    kind = type(given)
    if issubclass(kind, Keyed):
        yield _output(given)
        return
    if not issubclass(kind, Iterable) or issubclass(kind, Mapping | str | bytes | bytearray | Record):
        raise WrongReturn(f"returned {_unfinished(given) or _word(given)}. {_OUTPUTS}")
    for each in given:  # type: ignore[attr-defined]
        yield _output(each)


def _output(given: object) -> Output:
    if not issubclass(type(given), Keyed):
        raise WrongReturn(f"returned {_word(given)} where a Keyed is expected. {_OUTPUTS}")
    it: Keyed = given  # type: ignore[assignment]
    if not isinstance(it.key, str | bytes):
        raise WrongReturn(f"returned a Keyed whose key is {_word(it.key)}: a key is text or bytes")
    if not isinstance(it.value, Mapping | BaseModel):
        raise WrongReturn(
            f"returned a Keyed whose value is {_word(it.value)}: a value is a dict or a model, by the output's schema"
        )
    if it.topic is not None and not (isinstance(it.topic, str) and it.topic):
        raise WrongReturn(
            f"returned a Keyed whose topic is {_word(it.topic)}: a topic is text, or None for the usual one"
        )
    try:
        return it.topic, it.key.encode() if isinstance(it.key, str) else it.key, it.value
    except UnicodeEncodeError as error:
        raise Invalid(f"its key is no text that UTF-8 can hold: {error.reason}") from error


def _word(one: object) -> str:
    if issubclass(type(one), type):
        return f"the class {one.__qualname__}"  # type: ignore[attr-defined]
    kind = type(one)
    module = "" if kind.__module__ in {"builtins", "pipeline.core.record", "pipeline.errors"} else f"{kind.__module__}."
    return f"{module}{kind.__qualname__}"
