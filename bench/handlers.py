"""Handlers to measure with."""

from pipeline.core.record import Record
from pipeline.orders import OrderPlaced


def no_op(event: OrderPlaced, record: Record) -> None:
    """Nothing, so that only the way to it is measured."""
