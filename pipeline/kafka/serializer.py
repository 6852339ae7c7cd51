"""The client's `Serializer` interface over our codec, for `SerializingProducer` and for calling it directly."""

from typing import Any

from confluent_kafka.serialization import SerializationContext, SerializationError, Serializer
from pydantic import BaseModel

from pipeline.core.ports import Encoder
from pipeline.errors import Invalid


class RegisteredAvroSerializer(Serializer):
    """Serialises events with one schema that is registered already; it never registers anything.

    Writes byte for byte what the client's `AvroSerializer` writes with `auto.register.schemas=false`.
    """

    def __init__(self, writer: Encoder) -> None:
        self._writer = writer

    def __call__(self, obj: Any, ctx: SerializationContext | None = None) -> bytes | None:  # noqa: ARG002
        """The framed bytes of a model or a dict; None stays None; `SerializationError` when it does not fit."""
        if obj is None:
            return None
        try:
            return self._writer.encode(obj.__dict__ if isinstance(obj, BaseModel) else obj)
        except Invalid as error:
            raise SerializationError(str(error)) from error
