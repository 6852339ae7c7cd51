"""The frame around a datum."""

import pytest

from pipeline.errors import Undecodable
from pipeline.serde import wire


def test_frame_is_a_zero_byte_and_the_id_big_endian() -> None:
    assert wire.header(0x01020304) == b"\x00\x01\x02\x03\x04"
    assert wire.schema_id_of(wire.header(2**31 - 1) + b"x") == 2**31 - 1
    assert wire.schema_id_of(wire.header(7)) == 7, "an event without fields takes no byte"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "tombstone"),
        (b"", "0 bytes are too few"),
        (b"\x00\x00\x00\x00", "4 bytes are too few"),
        (b"\x7f\x00\x00\x00\x01x", "0x7f"),
        (b'{"order_id": 1}', "0x7b"),
        (b"\x01" + bytes(16) + b"x", "0x01"),
        (b"\x00\x80\x00\x00\x00x", "2147483648 is above"),
        (b"\x00\xff\xff\xff\xffx", "4294967295 is above"),
    ],
)
def test_value_without_a_frame_is_undecodable(value: bytes | None, says: str) -> None:
    with pytest.raises(Undecodable, match=says):
        wire.schema_id_of(value)
    assert wire.schema_id_or_none(value) is None
