"""Handlers: what a user plugs into the worker. How they are called: `pipeline/stages/crew.py`.

`def handle(event: E, record: Record) -> None`, the same as `async def`, or on a list of pairs for batches:
`def handle(batch: list[tuple[E, Record]]) -> list[tuple[Record, Exception]] | None`, which may return the records that
it rejects, each with its `Reject`. `E`, read from the annotation, is a pydantic model or `dict`.
"""

import importlib
import inspect
import sys
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, RootModel, ValidationError

from pipeline.errors import HandlerRefused, Invalid
from pipeline.serde import model_validation

SHAPES = (
    "`def handle(event: E, record: Record) -> None`, `async def handle(...)`, or "
    "`def handle(batch: list[tuple[E, Record]])`, where E is a pydantic model or dict"
)


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
    transform = adapt(_imported(reference, "--transform"), reference)
    if transform.kind is not Kind.ONE:
        raise HandlerRefused(
            f"--transform {reference}: a transform is `def transform(event: E, record: Record)`, where E is a pydantic model "
            "or dict; it returns a Keyed, several, or None."
        )
    return transform


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
    except Exception as error:
        # Whatever the user's module raises while it is imported is theirs to see, in one line.
        raise HandlerRefused(f"{option} {reference} cannot be imported: {type(error).__name__}: {error}") from error
    return target


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
        return Handler(name, event_type, Kind.BATCH, target)
    if len(parameters) != 2:  # noqa: PLR2004  # event and record
        raise HandlerRefused(f"--handler {name} takes {len(parameters)} arguments. A handler is {SHAPES}.")
    kind = Kind.ASYNC if inspect.iscoroutinefunction(function) else Kind.ONE
    return Handler(name, _event_type(first, name), kind, target)


def _event_type(annotation: Any, name: str) -> type:
    plain = typing.get_origin(annotation) or annotation
    if isinstance(plain, type) and (plain is dict or issubclass(plain, BaseModel)):
        return plain
    raise HandlerRefused(f"--handler {name}: its event is annotated as {annotation}. A handler is {SHAPES}.")


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
