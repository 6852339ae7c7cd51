"""Handlers whose annotations are text, and whose `Record` only type checkers know."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel

if TYPE_CHECKING:
    from pipeline.core.record import Record


class Event(BaseModel):
    order_id: str


def one(event: Event, record: Record) -> None: ...


async def one_async(event: Event, record: Record) -> None: ...


def batch(pairs: list[tuple[Event, Record]]) -> None: ...


class Called:
    def __call__(self, event: Event, record: Record) -> None: ...


def nobody_knows(event: Nowhere, record: Record) -> None: ...  # noqa: F821  # type: ignore[name-defined]
