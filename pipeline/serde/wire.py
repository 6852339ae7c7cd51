"""The frame around every Avro datum: a zero byte, the writer's schema id (32 bits, big-endian), the datum.

The format is Confluent's, read by every registry client. The id in the frame is the only one believed: a header that
names another schema is not looked at, because headers are the sender's word alone.
"""

from pipeline.errors import Undecodable

MAGIC = 0
HEADER_BYTES = 5
# Registries count in 31 bits, as Java does; a dead letter has no room for more either.
SCHEMA_ID_MAX = 2**31 - 1


def header(schema_id: int) -> bytes:
    """The five bytes before a datum written with schema `schema_id`."""
    return b"\x00" + schema_id.to_bytes(4, "big")


def schema_id_of(value: bytes | None) -> int:
    """The writer's schema id of a framed value; `Undecodable` when it has no frame."""
    if value is None:
        raise Undecodable("The record has no value (a tombstone); an event always has one.")
    # An event without fields is no byte after its frame.
    if len(value) < HEADER_BYTES:
        raise Undecodable(f"{len(value)} bytes are too few for a frame of {HEADER_BYTES} bytes.")
    if value[0] != MAGIC:
        raise Undecodable(f"The first byte is 0x{value[0]:02x}; a framed value starts with 0x00.")
    schema_id = int.from_bytes(value[1:HEADER_BYTES], "big")
    if schema_id > SCHEMA_ID_MAX:
        raise Undecodable(f"Schema id {schema_id} is above {SCHEMA_ID_MAX}, the highest that a registry gives.")
    return schema_id


def schema_id_or_none(value: bytes | None) -> int | None:
    """The writer's schema id where there is one."""
    try:
        return schema_id_of(value)
    except Undecodable:
        return None
