"""Handlers: what a user plugs into the worker. How they are called: `pipeline/stages/crew.py`.

`def handle(event: E, record: Record) -> None`, the same as `async def`, or on a list of pairs for batches:
`def handle(batch: list[tuple[E, Record]]) -> list[tuple[Record, Exception]] | None`, which may return the records that
it rejects, each with its `Reject`. `E`, read from the annotation, is a pydantic model or `dict`.
"""

import functools
import importlib
import inspect
import sys
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pydantic import BaseModel, RootModel, ValidationError

from pipeline.core.failures import one_line
from pipeline.core.record import Record
from pipeline.errors import HandlerRefused, Invalid
from pipeline.serde import model_validation

SHAPES = (
    "`def handle(event: E, record: Record) -> None`, `async def handle(...)`, or "
    "`def handle(batch: list[tuple[E, Record]])`, where E is a pydantic model or dict"
)

TRANSFORM = "`def transform(event: E, record: Record)`, where E is a pydantic model or dict; it returns a Keyed, several, or None"
_POSITIONAL = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
_ANY = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
_LAYERS_MAX = 100


class Kind(Enum):
    """How a handler is called: on one event, awaited on one event, or on a list of pairs."""

    ONE = auto()
    ASYNC = auto()
    BATCH = auto()


@dataclass(frozen=True)
class Handler:
    """A user's handler, the type of its events, how it is called, and the record schema by which its data are read."""

    name: str
    event_type: type
    kind: Kind
    function: Callable[..., Any]
    reader_schema: Mapping[str, Any] | None = None

    @cached_property
    def validate(self) -> Callable[[dict[str, Any]], Any]:
        """What makes the handler's event of a datum; it raises what pydantic raises when that does not have its shape.

        With a `reader_schema` the datum must have exactly its types (`Decoder.decode_run`).
        """
        if not issubclass(self.event_type, BaseModel):
            return lambda datum: datum
        return model_validation.validator(self.event_type, self.reader_schema)

    @cached_property
    def event(self) -> Callable[[dict[str, Any]], Any]:
        """The same for a datum of any types, and raises `Invalid` with each field and the reason."""
        validate = replace(self, reader_schema=None).validate

        def event(datum: dict[str, Any]) -> Any:
            try:
                return validate(datum)
            except ValidationError as error:
                raise Invalid(_describe(error)) from None

        return event


def load(reference: str) -> Handler:
    """The handler that `module:name` names; `HandlerRefused` says what is wrong with it."""
    return adapt(_imported(reference, "--handler"), reference)


def load_transform(reference: str) -> Handler:
    """The transform that `module:name` names, called on one event; `HandlerRefused` says what is wrong with it."""
    return adapt_transform(_imported(reference, "--transform"), reference)


def _imported(reference: str, option: str) -> Any:
    module_name, _, attribute = reference.partition(":")
    if not module_name or not attribute:
        raise HandlerRefused(f"{option} {reference}: name it as module:name, such as shop.payments:handle.")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        target = importlib.import_module(module_name)
        for part in attribute.split("."):
            target = getattr(target, part)
    except (Exception, SystemExit) as error:
        # Whatever the user's module raises while it is imported is theirs to see, in one line.
        raise HandlerRefused(f"{option} {reference} cannot be imported: {one_line(error)}") from error
    return target


def adapt(target: Any, name: str) -> Handler:
    """The handler that a callable is, by its signature; `HandlerRefused` when it has none of the shapes.

    Taken are functions and methods of any kind, objects with `__call__`, `functools.partial` and decorated ones; refused is
    what would not run when it is called: generators, and a class, of which a call only makes an object.
    """
    refuse = _Refusing(f"--handler {name}", f"A handler is {SHAPES}.")
    called, first, takes = _shape(target, refuse)
    if inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
        raise refuse(" has a `yield`: calling it runs nothing, so every record would count as handled, undone.")
    is_async = inspect.iscoroutinefunction(called) or inspect.iscoroutinefunction(target)
    if typing.get_origin(first) is list:
        pair = typing.get_args((*typing.get_args(first), None)[0])
        if is_async:
            raise refuse(": a batch handler is a plain function.")
        if not takes(1):
            raise refuse(" takes more than a batch.")
        return Handler(name, _event_type(pair[0] if pair else None, refuse), Kind.BATCH, target)
    if not takes(2):
        raise refuse(f" {_arguments(target)}: it cannot be called with an event and a record.")
    return Handler(name, _event_type(first, refuse), Kind.ASYNC if is_async else Kind.ONE, target)


def adapt_transform(target: Any, name: str) -> Handler:
    """The same for a transform; one may be a generator function, whose outputs are asked for before any is written."""
    refuse = _Refusing(f"--transform {name}", f"A transform is {TRANSFORM}.")
    called, first, takes = _shape(target, refuse)
    if inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called):
        raise refuse(" is async: a transform computes and does not wait.")
    if not takes(2):
        raise refuse(f" {_arguments(target)}: it cannot be called with an event and a record.")
    return Handler(name, _event_type(first, refuse), Kind.ONE, target)


@dataclass(frozen=True)
class _Refusing:
    what: str
    shapes: str

    def __call__(self, why: str) -> HandlerRefused:
        return HandlerRefused(f"{self.what}{why} {self.shapes}")


def _shape(target: Any, refuse: _Refusing) -> tuple[Any, Any, Callable[[int], bool]]:
    """The function that runs when `target` is called, the annotation of its event, and how many arguments it takes."""
    if not callable(target) or isinstance(target, type):
        kind = "a class: name a function, or an object made of it" if isinstance(target, type) else "no function"
        raise refuse(f" is {kind}.")
    called = _called(target)
    try:
        signature = inspect.signature(target)
        first = next(iter(signature.parameters.values()), None)
        annotation = _annotation(first, called) if first and first.kind in _POSITIONAL else None
    except Exception as error:
        # Annotations are the user's code, run by us: whatever it raises is theirs to see.
        raise refuse(f": no readable signature: {type(error).__name__}: {error}.") from error

    def takes(count: int) -> bool:
        try:
            signature.bind(*range(count))
        except TypeError:
            return False
        return True

    return called, annotation, takes


def _called(target: Any) -> Any:
    """What Python runs in the end: under partials, bound methods and `__call__`."""
    for _ in range(_LAYERS_MAX):
        if isinstance(target, functools.partial):
            target = target.func
        elif isinstance(target, staticmethod) or inspect.ismethod(target):
            target = target.__func__
        elif inspect.isroutine(target) or isinstance(target, type):
            break
        else:
            target = type(target).__call__
    return target


def _annotation(parameter: inspect.Parameter, called: Any) -> Any:
    """What it stands for, where it is written as text; `Record` is known though it may be imported for type checkers only."""
    if parameter.annotation is parameter.empty:
        return None
    written = inspect.unwrap(called)
    around = SimpleNamespace(__annotations__={"event": parameter.annotation})
    known = {"Record": Record, **getattr(written, "__globals__", {})}
    return typing.get_type_hints(around, globalns=known)["event"]


def _arguments(target: Any) -> str:
    asked = [
        it for it in inspect.signature(target).parameters.values() if it.default is it.empty and it.kind not in _ANY
    ]
    return f"takes {len(asked)} arguments ({', '.join(it.name for it in asked)})"


def _event_type(annotation: Any, refuse: _Refusing) -> type:
    plain = typing.get_origin(annotation) or annotation
    if isinstance(plain, type) and (plain is dict or issubclass(plain, BaseModel)):
        return plain
    raise refuse(f": its event is annotated as {annotation}.")


def refuse_misfit(handler: Handler, fields: Collection[str], record: str) -> None:
    """`HandlerRefused` when no record that has these fields could ever be the handler's event.

    Its model asks for a field that they are not, or forbids one that they are. What a model does with its input before it
    looks at the fields is its own: such a one is not judged, nor are the values.
    """
    model = handler.event_type
    if not issubclass(model, BaseModel) or issubclass(model, RootModel):
        return
    decorators = model.__pydantic_decorators__
    modes = {each.info.mode for each in decorators.model_validators.values()}
    if modes - {"after"} or decorators.root_validators:
        return
    spellings = {name: set(model_validation.spellings(model, name, info)) for name, info in model.model_fields.items()}
    missing = [
        name
        for name, info in model.model_fields.items()
        if info.is_required() and not spellings[name].intersection(fields)
    ]
    known = set().union(*spellings.values())
    unknown = [name for name in fields if name not in known] if model.model_config.get("extra") == "forbid" else []
    if missing or unknown:
        reasons = [
            *([f"it asks for {', '.join(missing)}, which the schema does not have"] if missing else ()),
            *([f"it forbids {', '.join(unknown)}, which the schema has"] if unknown else ()),
        ]
        raise HandlerRefused(
            f"No {record} fits {model.__name__}, the event of {handler.name}: {'; '.join(reasons)}. "
            "Every record would become a dead letter. Name the topic that it is for (--topic), or bring model and schema "
            "in line."
        )


def _describe(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, each['loc'])) or 'event'}: {each['msg'].removeprefix('Value error, ')}"
        for each in error.errors()
    )
