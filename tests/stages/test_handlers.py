"""What is taken as a handler and what is refused at the start: its shape, and whether its model can take records at all."""

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, RootModel, model_validator

from pipeline.core.record import Record
from pipeline.errors import HandlerRefused, WrongReturn
from pipeline.stages.handlers import Kind, adapt, adapt_transform, load, refuse_misfit
from pipeline.stages.returns import refuse_unfinished
from tests.stages import written_later

FIELDS = ("order_id", "amount")


class Fits(BaseModel):
    order_id: str
    amount: int
    note: str = ""


class Aliased(BaseModel):
    model_config = ConfigDict(extra="forbid")
    number: str = Field(validation_alias=AliasChoices("orderId", "order_id"))
    total: int = Field(alias="amount")


class ByName(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_by_name=True)
    order_id: str = Field(alias="orderId")
    amount: int


class Nested(BaseModel):
    city: str = Field(validation_alias=AliasPath("order_id", "city"))


class Generated(BaseModel):
    model_config = ConfigDict(alias_generator=str.lower, extra="forbid")
    Order_Id: str
    Amount: int


class Rewrites(BaseModel):
    identity: str

    @model_validator(mode="before")
    @classmethod
    def rename(cls, data: Any) -> Any:
        return {"identity": data["order_id"]}


class Root(RootModel[dict[str, Any]]):
    pass


class AsksForMore(BaseModel):
    order_id: str
    payment_id: str
    note: str = ""


class Inherits(AsksForMore):
    pass


class AliasOnly(BaseModel):
    order_id: str = Field(alias="orderId")


class Forbids(BaseModel):
    model_config = ConfigDict(extra="forbid")
    order_id: str


def handler_of(event: type) -> Any:
    def handle(event: Any, record: Record) -> None: ...

    handle.__annotations__["event"] = event
    return adapt(handle, "shop:handle")


@pytest.mark.parametrize("event", [Fits, Aliased, ByName, Nested, Generated, Rewrites, Root, dict])
def test_handler_that_records_can_fit_is_taken(event: type) -> None:
    refuse_misfit(handler_of(event), FIELDS, "shop.Order")


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (AsksForMore, "AsksForMore, the event of shop:handle: it asks for payment_id, which the schema does not have"),
        (Inherits, "it asks for payment_id"),
        (AliasOnly, "it asks for order_id"),
        (Forbids, "it forbids amount, which the schema has"),
    ],
)
def test_handler_that_no_record_can_fit_is_refused(event: type, says: str) -> None:
    with pytest.raises(HandlerRefused) as refused:
        refuse_misfit(handler_of(event), FIELDS, "shop.Order")
    assert says in str(refused.value)
    assert str(refused.value).startswith("No shop.Order fits")


# --- shapes


def one(event: Fits, record: Record) -> None: ...


async def one_async(event: Fits, record: Record) -> None: ...


def batch(pairs: list[tuple[Fits, Record]]) -> None: ...


def one_of_three(store: Any, event: Fits, record: Record) -> None: ...


def optional(event: Fits, record: Record | None = None, *more: Any, **others: Any) -> None: ...


def batch_optional(pairs: list[tuple[Fits, Record]], size: int = 3) -> None: ...


def timed(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*arguments: Any, **others: Any) -> Any:
        return function(*arguments, **others)

    return wrapper


def timed_async(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def wrapper(*arguments: Any, **others: Any) -> Any:
        return await function(*arguments, **others)

    return wrapper


class Shop:
    def one(self, event: Fits, record: Record) -> None: ...

    async def one_async(self, event: Fits, record: Record) -> None: ...

    @classmethod
    def of_class(cls, event: Fits, record: Record) -> None: ...

    @staticmethod
    def static(event: Fits, record: Record) -> None: ...

    def generates(self, event: Fits, record: Record) -> Iterator[None]:
        yield


class Called:
    def __call__(self, event: Fits, record: Record) -> None: ...


class CalledAsync:
    async def __call__(self, event: Fits, record: Record) -> None: ...


class CalledBatch:
    def __call__(self, pairs: list[tuple[Fits, Record]]) -> None: ...


class Generates:
    def __call__(self, event: Fits, record: Record) -> Iterator[None]:
        yield


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        (one, Kind.ONE),
        (one_async, Kind.ASYNC),
        (batch, Kind.BATCH),
        (functools.partial(one_of_three, None), Kind.ONE),
        (functools.partial(one_of_three, store=None), None),
        (functools.partial(functools.partial(one_of_three), None), Kind.ONE),
        (functools.partial(one_async), Kind.ASYNC),
        (functools.partial(batch), Kind.BATCH),
        (functools.partial(Called()), Kind.ONE),
        (functools.partial(CalledAsync()), Kind.ASYNC),
        (functools.partial(Shop().one_async), Kind.ASYNC),
        (optional, Kind.ONE),
        (batch_optional, Kind.BATCH),
        (timed(one), Kind.ONE),
        (timed(timed(batch)), Kind.BATCH),
        (timed_async(one_async), Kind.ASYNC),
        (timed_async(one), Kind.ASYNC),
        (functools.partial(timed(one)), Kind.ONE),
        (Shop().one, Kind.ONE),
        (Shop().one_async, Kind.ASYNC),
        (Shop.of_class, Kind.ONE),
        (Shop().of_class, Kind.ONE),
        (Shop.static, Kind.ONE),
        (Shop.__dict__["static"], Kind.ONE),
        (Called(), Kind.ONE),
        (CalledAsync(), Kind.ASYNC),
        (CalledBatch(), Kind.BATCH),
        (written_later.one, Kind.ONE),
        (written_later.one_async, Kind.ASYNC),
        (written_later.batch, Kind.BATCH),
        (written_later.Called(), Kind.ONE),
        (timed(written_later.one), Kind.ONE),
        (functools.partial(written_later.batch), Kind.BATCH),
    ],
    ids=lambda it: getattr(it, "__qualname__", None) or type(it).__name__,
)
def test_callable_of_any_kind_is_taken_for_what_a_call_of_it_is(target: Any, kind: Kind | None) -> None:
    if kind is None:  # its event could be given by name only
        with pytest.raises(HandlerRefused, match="cannot be called with an event and a record"):
            adapt(target, "shop:handle")
        return
    handler = adapt(target, "shop:handle")
    assert handler.kind is kind
    assert handler.function is target
    assert issubclass(handler.event_type, BaseModel)


def generates(event: Fits, record: Record) -> Iterator[None]:
    yield


async def generates_async(event: Fits, record: Record) -> AsyncIterator[None]:
    yield


def generates_batch(pairs: list[tuple[Fits, Record]]) -> Iterator[Any]:
    yield


async def batch_async(pairs: list[tuple[Fits, Record]]) -> None: ...


def keyword(event: Fits, *, record: Record) -> None: ...


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (generates, "has a `yield`"),
        (generates_async, "has a `yield`"),
        (generates_batch, "has a `yield`"),
        (functools.partial(generates), "has a `yield`"),
        (functools.partial(functools.partial(generates_async)), "has a `yield`"),
        (Generates(), "has a `yield`"),
        (functools.partial(Generates()), "has a `yield`"),
        (Shop().generates, "has a `yield`"),
        (functools.partial(Shop().generates), "has a `yield`"),
        (Called, "is a class"),
        (Fits, "is a class"),
        (batch_async, "a batch handler is a plain function"),
        (functools.partial(batch_async), "a batch handler is a plain function"),
        (keyword, "cannot be called with an event and a record"),
        (one_of_three, "cannot be called with an event and a record"),
        (lambda event, record: None, "its event is annotated as None"),
        (print, "cannot be called|annotated as None"),
        (7, "is no function"),
        (written_later.nobody_knows, "no readable signature: NameError"),
    ],
    ids=lambda it: it if isinstance(it, str) else getattr(it, "__qualname__", None) or type(it).__name__,
)
def test_what_would_not_run_when_it_is_called_is_refused_at_the_start(target: Any, says: str) -> None:
    with pytest.raises(HandlerRefused, match=says):
        adapt(target, "shop:handle")


@pytest.mark.parametrize("annotation", [list, "list", list[Fits], list[tuple[int, Record]], "typing.List", 1.5, "1 +"])
def test_event_that_is_no_model_is_refused_with_words(annotation: Any) -> None:
    def handle(batch: Any) -> None: ...

    handle.__annotations__["batch"] = annotation
    with pytest.raises(HandlerRefused, match="--handler shop:handle"):
        adapt(handle, "shop:handle")


def test_transform_may_be_a_generator_but_nothing_that_has_to_be_awaited() -> None:
    assert adapt_transform(generates, "shop:transform").kind is Kind.ONE
    for target in (one_async, generates_async, CalledAsync()):
        with pytest.raises(HandlerRefused, match="--transform shop:transform is async"):
            adapt_transform(target, "shop:transform")
    with pytest.raises(HandlerRefused, match="it cannot be called with an event"):
        adapt_transform(batch, "shop:transform")


def test_module_that_leaves_the_process_when_it_is_imported_is_refused(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "leaves_at_once.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(HandlerRefused, match="cannot be imported: SystemExit"):
        load("leaves_at_once:handle")


@contextmanager
def managed(event: Fits, record: Record) -> Iterator[None]:
    yield


def test_context_manager_is_taken_for_a_function_and_stopped_at_its_first_record() -> None:
    handler = adapt(managed, "shop:handle")
    with pytest.raises(WrongReturn, match="which nobody enters"):
        refuse_unfinished(handler.function(Fits(order_id="1", amount=1), Record("t", 0, 0, None, None)))
