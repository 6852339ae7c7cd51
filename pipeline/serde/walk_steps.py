"""The steps of the walk over a datum's bytes that its compiled lines call: numbers, lengths, counts, and what is refused."""

import struct

from pipeline.errors import Undecodable

LONG_BYTES = 10
INT_BYTES = 5
# Where the next seven bits of a number go, from its seventh byte on; ten bytes hold 64 bits.
_SHIFTS = range(42, 64, 7)


def single(number: int) -> float:
    """The nearest float of 32 bits, rounded once: by way of 64 bits some would be rounded twice."""
    size = abs(number)
    more = size.bit_length() - 53
    if more > 0:
        # What is cut off leaves an odd digit behind, so that a half stays more than a half.
        size = (size >> more | bool(size & (1 << more) - 1)) << more
    return _FLOAT.unpack(_FLOAT.pack(-size if number < 0 else size))[0]  # type: ignore[no-any-return]


_FLOAT = struct.Struct("<f")


def ended(stopped: int, end: int) -> None:
    if stopped > end:
        raise Undecodable(f"The bytes end {stopped - end} bytes before the datum does.")
    raise Undecodable(f"{end - stopped} bytes are left over after the datum.")


def cut(size: int) -> None:
    raise Undecodable(f"The bytes end in the middle of the datum, after {size} bytes.") from None


def bad(position: int, what: str) -> None:
    raise Undecodable(f"There is {what}, before byte {position}.")


def varint(b: bytes, p: int, first: int) -> tuple[int, int]:
    """The rest of a number of at most 64 bits, whose first byte said that there is more."""
    # Six bytes, as a time in milliseconds has, are written out: in a loop they take half as long again.
    found = first & 127
    if (byte := b[p]) < 128:  # noqa: PLR2004  # the continuation bit, as below
        return found | byte << 7, p + 1
    found |= (byte & 127) << 7
    if (byte := b[p + 1]) < 128:  # noqa: PLR2004
        return found | byte << 14, p + 2
    found |= (byte & 127) << 14
    if (byte := b[p + 2]) < 128:  # noqa: PLR2004
        return found | byte << 21, p + 3
    found |= (byte & 127) << 21
    if (byte := b[p + 3]) < 128:  # noqa: PLR2004
        return found | byte << 28, p + 4
    found |= (byte & 127) << 28
    if (byte := b[p + 4]) < 128:  # noqa: PLR2004
        return found | byte << 35, p + 5
    found |= (byte & 127) << 35
    p += 5
    for shift in _SHIFTS:
        byte = b[p]
        p += 1
        if byte < 128:  # noqa: PLR2004
            found |= byte << shift
            if found >> 64:
                break
            return found, p
        found |= (byte & 127) << shift
    bad(p, "a number of more than 64 bits")
    raise AssertionError


def length(b: bytes, p: int, first: int) -> tuple[int, int]:
    """The rest of a length of more than one byte."""
    found, p = varint(b, p, first) if first > 127 else (first, p)  # noqa: PLR2004  # the continuation bit
    if found & 1:
        bad(p, "a length below zero")
    return found, p


def int32(b: bytes, p: int, first: int) -> tuple[int, int]:
    """The same of at most 32 bits, in at most five bytes."""
    skip(b, p - 1, INT_BYTES, 0x0F)
    return varint(b, p, first)


def skip(b: bytes, p: int, most: int, last: int) -> int:
    """The position after a number of at most `most` bytes, the last of which is at most `last`."""
    for at in range(p, p + most - 1):
        if b[at] < 128:  # noqa: PLR2004  # the continuation bit
            return at + 1
    if b[p + most - 1] > last:
        bad(p + most, f"a number of more than {32 if most == INT_BYTES else 64} bits")
    return p + most


def digits(b: bytes, start: int, p: int, most: int) -> None:
    """Refuse the whole number between `start` and `p` when it has more than `most` digits."""
    if p == start:
        bad(p, "a decimal of no bytes")
    # A byte is 2.41 digits: the comparison keeps `10**most` no larger than the bytes are many.
    if (p - start) * 5 > most * 2 and abs(int.from_bytes(b[start:p], "big", signed=True)) >= 10**most:
        bad(p, f"a decimal of more than {most} digits")


def count(b: bytes, p: int, n: int) -> tuple[int, int, int]:
    """How many items the next block has, and where it ends, where it says so (else 0).

    A count below zero is followed by the block's size in bytes (Avro 1.12).
    """
    end = 0
    x = b[p]
    p += 1
    if x > 127:  # noqa: PLR2004  # the continuation bit
        x, p = varint(b, p, x)
    items = (x >> 1) ^ -(x & 1)
    if items < 0:
        items = -items
        size = b[p]
        p += 1
        if size > 127:  # noqa: PLR2004  # the continuation bit
            size, p = varint(b, p, size)
        if size & 1 or size >> 1 > n - p:
            bad(p, "a block size beyond the end")
        end = p + (size >> 1)
    # Every item has at least one byte, so more items than bytes cannot be.
    if items > n - p:
        bad(p, "a count beyond the end")
    return items, p, end
