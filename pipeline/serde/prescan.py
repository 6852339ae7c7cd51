"""A walk over a datum's bytes before fastavro sees them: is this exactly one datum of its schema, and harmless?

fastavro 1.13 takes negative union and enum indices (the last branch), over-long numbers, lengths below zero in fields that
the reader skips, booleans of any byte, bytes left over, rounds a decimal of more digits than its schema has, and asks for
all memory on a count that seven bytes claim. The scan refuses all of these. It is compiled once for each schema, to a few
lines of Python for each field, because a general walk costs three times as much a record. Only numbers of the schema get
into that source, never its names.

The schema must be sound (`fastavro_schema.for_fastavro`): then no type contains itself, so depth is bounded by the
schema's own, and every item of an array has at least one byte, so counts are bounded by the bytes left.
"""

from collections.abc import Callable
from typing import Any

from pipeline.errors import Undecodable
from pipeline.serde.avro_schema import Json, Resolved, resolve

Scan = Callable[[bytes, int], None]

_LONG_BYTES = 10
_INT_BYTES = 5
_FIXED = {"float": 4, "double": 8}
# Python compiles no more than 20 loops within each other; each array or map is two.
_INLINE_DEPTH = 8


def compile_scan(schema: Json) -> Scan:
    """A function `(value, start)` that returns when one datum of `schema` fills `value` from `start` to its end.

    It raises `Undecodable` otherwise, saying what was found where, and nothing else for any bytes.
    """
    source = _Source(resolve(schema))
    namespace: dict[str, Any] = {"bad": _bad, "varint": _varint, "skip": _skip, "count": _count, "digits": _digits}
    exec(compile(source.text(), "<scan>", "exec"), namespace)  # noqa: S102  # our own lines, with numbers of the schema
    walk: Callable[[bytes, int, int], int] = namespace["datum"]

    def scan(value: bytes, start: int) -> None:
        end = len(value)
        try:
            stopped = walk(value, start, end)
        except IndexError:
            raise Undecodable(f"The bytes end in the middle of the datum, after {end - start} bytes.") from None
        if stopped > end:
            raise Undecodable(f"The bytes end {stopped - end} bytes before the datum does.")
        if stopped < end:
            raise Undecodable(f"{end - stopped} bytes are left over after the datum.")

    return scan


class _Source:
    """The source of the scan: a function for every named record, called where it is used; the rest stands in line.

    `b` are the bytes, `p` the position, `n` the end, `x` the number just read (still in zigzag form).
    """

    def __init__(self, resolved: Resolved) -> None:
        self._resolved = resolved
        self._functions: dict[str, str] = {}
        self._lines: list[str] = []
        self._root = self._datum(resolved.root, 1)

    def text(self) -> str:
        """All functions; `datum` is the way in."""
        return "\n".join([*self._lines, "def datum(b, p, n):", *self._root, "    return p"])

    def _datum(self, node: Json, depth: int) -> list[str]:  # noqa: PLR0911  # one for each kind of type
        it = self._resolved.definition(node)
        tab = "    " * depth
        if isinstance(it, list):
            return self._union(it, depth)
        kind = it["type"]
        if kind == "record":
            return [f"{tab}p = {self._function(it)}(b, p, n)"]
        if kind in {"array", "map"}:
            return self._blocks(it, depth)
        plain = {
            "null": [f"{tab}pass"],
            "boolean": [f"{tab}if b[p] > 1: bad(p, 'a boolean that is neither 0 nor 1')", f"{tab}p += 1"],
            "int": [f"{tab}p = p + 1 if b[p] < 128 else skip(b, p, {_INT_BYTES}, 0x0F)"],
            "long": [f"{tab}p = p + 1 if b[p] < 128 else skip(b, p, {_LONG_BYTES}, 0x01)"],
        }
        if kind in plain:
            return plain[kind]
        if kind in {"string", "bytes"}:
            return [*self._length(depth), *_decimal(it, "p - (x >> 1)", "x >> 1", tab)]
        if kind == "enum":
            return [
                *_number(tab),
                f"{tab}if x & 1 or x >= {2 * len(it['symbols'])}: bad(p, 'an enum index out of range')",
            ]
        size = _FIXED.get(kind) or int(it["size"])
        return [f"{tab}p += {size}", *_decimal(it, f"p - {size}", str(size), tab)]

    def _function(self, record: dict[str, Json]) -> str:
        name = self._functions.get(record["name"])
        if name is None:
            body = [line for field in record["fields"] for line in self._datum(field["type"], 1)]
            name = self._functions[record["name"]] = self._define(body)
        return name

    def _define(self, body: list[str]) -> str:
        name = f"part_{len(self._lines)}"
        self._lines += [f"def {name}(b, p, n):", *body, "    return p"]
        return name

    def _length(self, depth: int) -> list[str]:
        tab = "    " * depth
        return [
            *_number(tab),
            f"{tab}if x & 1: bad(p, 'a length below zero')",
            f"{tab}p += x >> 1",
            f"{tab}if p > n: bad(n, 'a length beyond the end')",
        ]

    def _union(self, branches: list[Json], depth: int) -> list[str]:
        tab = "    " * depth
        lines = _number(tab)
        for number, branch in enumerate(branches):
            # Zigzag: index i is written as 2i; odd numbers are indices below zero and match no branch.
            lines += [f"{tab}{'elif' if number else 'if'} x == {2 * number}:", *self._datum(branch, depth + 1)]
        return [*lines, f"{tab}else: bad(p, 'a union index out of range')"]

    def _blocks(self, it: dict[str, Json], depth: int) -> list[str]:
        tab, inner = "    " * depth, "    " * (depth + 2)
        if depth > _INLINE_DEPTH:
            return [f"{tab}p = {self._define(self._blocks(it, 1))}(b, p, n)"]
        keys = f"k{depth}"
        lines = [f"{tab}{keys} = set()"] if it["type"] == "map" else []
        lines += [f"{tab}while True:", f"{tab}    x, p = count(b, p, n)", f"{tab}    if not x: break"]
        lines += [f"{tab}    for _ in range(x):"]
        if it["type"] == "map":
            lines += [
                f"{inner}s{depth} = p",
                *self._length(depth + 2),
                f"{inner}if b[s{depth}:p] in {keys}: bad(p, 'a key twice in one map')",
                f"{inner}{keys}.add(b[s{depth}:p])",
            ]
        return [*lines, *self._datum(it["values" if it["type"] == "map" else "items"], depth + 2)]


def _number(tab: str) -> list[str]:
    """Read a number into `x`; most are one byte."""
    return [f"{tab}x = b[p]", f"{tab}p += 1", f"{tab}if x > 127: x, p = varint(b, p, x)"]


def _decimal(it: dict[str, Json], start: str, size: str, tab: str) -> list[str]:
    """Count the digits of a decimal that may have too many; so few bytes as most have need no counting."""
    if it.get("logicalType") != "decimal":
        return []
    precision = int(it["precision"])
    return [f"{tab}if {size} > {precision * 3 // 8}: digits(b, {start}, p, {precision})"]


def _bad(position: int, what: str) -> None:
    raise Undecodable(f"There is {what}, before byte {position}.")


def _varint(b: bytes, p: int, first: int) -> tuple[int, int]:
    """The rest of a number of at most 64 bits, whose first byte said that there is more."""
    found, shift = first & 127, 7
    while True:
        byte = b[p]
        p += 1
        found |= (byte & 127) << shift
        if byte < 128:  # noqa: PLR2004  # the continuation bit
            if found >> 64:
                _bad(p, "a number of more than 64 bits")
            return found, p
        shift += 7
        if shift > 63:  # noqa: PLR2004  # ten bytes hold 64 bits
            _bad(p, "a number of more than ten bytes")


def _skip(b: bytes, p: int, most: int, last: int) -> int:
    """The position after a number of at most `most` bytes, the last of which is at most `last`."""
    for at in range(p, p + most - 1):
        if b[at] < 128:  # noqa: PLR2004  # the continuation bit
            return at + 1
    if b[p + most - 1] > last:
        _bad(p + most, f"a number of more than {32 if most == _INT_BYTES else 64} bits")
    return p + most


def _digits(b: bytes, start: int, p: int, most: int) -> None:
    """Refuse the whole number between `start` and `p` when it has more than `most` digits."""
    # A byte is 2.41 digits: the comparison keeps `10**most` no larger than the bytes are many.
    if (p - start) * 5 > most * 2 and abs(int.from_bytes(b[start:p], "big", signed=True)) >= 10**most:
        _bad(p, f"a decimal of more than {most} digits")


def _count(b: bytes, p: int, n: int) -> tuple[int, int]:
    """How many items the next block has; a count below zero is followed by the block's size in bytes (Avro 1.12)."""
    x = b[p]
    p += 1
    if x > 127:  # noqa: PLR2004  # the continuation bit
        x, p = _varint(b, p, x)
    items = (x >> 1) ^ -(x & 1)
    if items < 0:
        items = -items
        size = b[p]
        p += 1
        if size > 127:  # noqa: PLR2004  # the continuation bit
            size, p = _varint(b, p, size)
        if size & 1 or size >> 1 > n - p:
            _bad(p, "a block size beyond the end")
    # Every item has at least one byte, so more items than bytes cannot be.
    if items > n - p:
        _bad(p, "a count beyond the end")
    return items, p
