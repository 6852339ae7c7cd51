"""Whether a handler's model can take the records of a schema at all."""

from typing import Any

import pytest
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, RootModel, model_validator

from pipeline.core.record import Record
from pipeline.errors import HandlerRefused
from pipeline.stages.handlers import adapt, refuse_misfit

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
