"""Handlers: what a user plugs into the worker, and how its answers become outcomes.

`def handle(event: E, record: Record) -> None`, the same as `async def`, or on a list of pairs for batches:
`def handle(batch: list[tuple[E, Record]]) -> list[tuple[Record, Exception]] | None`, which may return the records that
it rejects, each with its `Reject`. `E`, read from the annotation, is a pydantic model or `dict`.
"""

import asyncio
import importlib
import inspect
import sys
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from pipeline.core.record import Record
from pipeline.errors import HandlerRefused, Invalid, RecordError, SinkRefused

Pair = tuple[Any, Record]
Rejection = tuple[Record, Exception]

SHAPES = (
    "`def handle(event: E, record: Record) -> None`, `async def handle(...)`, or "
    "`def handle(batch: list[tuple[E, Record]])`, where E is a pydantic model or dict"
)
_RECORD_AT_FAULT = (RecordError, SinkRefused)


class Outcome(NamedTuple):
    """What became of the pairs given to a handler: the first `resolved` are settled, of which some were rejected.

    `stopped_by` is why the others were not settled: the environment is down, or the handler has a bug.
    """

    resolved: int
    rejected: list[Rejection]
    stopped_by: Exception | None = None


@dataclass(frozen=True)
class Handler:
    """A user's handler, its event type, and how to call it on pairs in their order."""

    name: str
    event_type: type
    call: Callable[[Sequence[Pair]], Outcome]
    close: Callable[[], None] = lambda: None

    def event(self, datum: dict[str, Any]) -> Any:
        """The datum as the handler's event type; `Invalid` when it does not have its shape."""
        if not issubclass(self.event_type, BaseModel):
            return datum
        try:
            return self.event_type.model_validate(datum)
        except ValidationError as error:
            raise Invalid(_describe(error)) from None


def load(reference: str) -> Handler:
    """The handler that `module:name` names; `HandlerRefused` says what is wrong with it."""
    module_name, _, attribute = reference.partition(":")
    if not module_name or not attribute:
        raise HandlerRefused(f"--handler {reference}: name it as module:name, such as shop.payments:handle.")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        target = importlib.import_module(module_name)
        for part in attribute.split("."):
            target = getattr(target, part)
    except Exception as error:
        # Whatever the user's module raises while it is imported is theirs to see, in one line.
        raise HandlerRefused(f"--handler {reference} cannot be imported: {type(error).__name__}: {error}") from error
    return adapt(target, reference)


def adapt(target: Any, name: str) -> Handler:
    """The handler that a callable is, by its signature; `HandlerRefused` when it has none of the shapes."""
    if not callable(target):
        raise HandlerRefused(f"--handler {name} is no function. A handler is {SHAPES}.")
    function = target if inspect.isroutine(target) else target.__call__
    try:
        hints = typing.get_type_hints(function)
        parameters = [each for each in inspect.signature(target).parameters.values() if each.default is each.empty]
    except (TypeError, ValueError, NameError) as error:
        raise HandlerRefused(f"--handler {name}: no readable signature: {error}. A handler is {SHAPES}.") from error
    first = hints.get(parameters[0].name) if parameters else None
    if len(parameters) == 1 and typing.get_origin(first) is list:
        pair = typing.get_args(typing.get_args(first)[0])
        event_type = _event_type(pair[0] if pair else None, name)
        if inspect.iscoroutinefunction(function):
            raise HandlerRefused(f"--handler {name}: a batch handler is a plain function. A handler is {SHAPES}.")
        return Handler(name, event_type, lambda pairs: _call_batch(target, pairs))
    if len(parameters) != 2:  # noqa: PLR2004  # event and record
        raise HandlerRefused(f"--handler {name} takes {len(parameters)} arguments. A handler is {SHAPES}.")
    event_type = _event_type(first, name)
    if inspect.iscoroutinefunction(function):
        loop = asyncio.Runner()

        def run(event: Any, record: Record) -> None:
            loop.run(target(event, record))

        return Handler(name, event_type, lambda pairs: _call_each(run, pairs), loop.close)
    return Handler(name, event_type, lambda pairs: _call_each(target, pairs))


def _event_type(annotation: Any, name: str) -> type:
    plain = typing.get_origin(annotation) or annotation
    if isinstance(plain, type) and (plain is dict or issubclass(plain, BaseModel)):
        return plain
    raise HandlerRefused(f"--handler {name}: its event is annotated as {annotation}. A handler is {SHAPES}.")


def _call_each(function: Callable[[Any, Record], object], pairs: Sequence[Pair]) -> Outcome:
    rejected: list[Rejection] = []
    for number, (event, record) in enumerate(pairs):
        try:
            function(event, record)
        except _RECORD_AT_FAULT as error:
            rejected.append((record, error))
        except Exception as error:  # noqa: BLE001  # the worker decides by its class whether to wait or to stop
            return Outcome(number, rejected, error)
    return Outcome(len(pairs), rejected)


def _call_batch(function: Callable[[list[Pair]], Iterable[Rejection] | None], pairs: Sequence[Pair]) -> Outcome:
    """Call it on all; when the data of one is refused, halve until that one is found. Order is kept."""
    try:
        return Outcome(len(pairs), list(function(list(pairs)) or ()))
    except _RECORD_AT_FAULT as error:
        if len(pairs) == 1:
            return Outcome(1, [(pairs[0][1], error)])
    except Exception as error:  # noqa: BLE001  # as above
        return Outcome(0, [], error)
    middle = len(pairs) // 2
    first = _call_batch(function, pairs[:middle])
    if first.stopped_by is not None:
        return first
    second = _call_batch(function, pairs[middle:])
    return Outcome(middle + second.resolved, first.rejected + second.rejected, second.stopped_by)


def _describe(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, each['loc'])) or 'event'}: {each['msg']}" for each in error.errors())
