"""A walk over a datum's bytes: is this exactly one datum of its schema, and harmless? And, in the same walk, its value.

fastavro 1.13 takes negative union and enum indices (the last branch), over-long numbers, lengths below zero in fields that
the reader skips, booleans of any byte, bytes left over, rounds a decimal of more digits than its schema has, and asks for
all memory on a count that seven bytes claim. The walk refuses all of these. It is compiled once for each schema, to a few
lines of Python for each field, because a general walk costs three times as much a record. Only numbers of the schema get
into that source, and names as literals.

Where nothing has to be resolved the walk makes the value as well, the same one as fastavro makes: together they take twice
the time. A datum that a reader's schema sees otherwise is walked (`compile_scan`), then read by fastavro.

The schema must be sound (`fastavro_schema.for_fastavro`): then no type contains itself, so depth is bounded by the
schema's own, and every item of an array has at least one byte, so counts are bounded by the bytes left.
"""

import struct
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from typing import Any

from fastavro.read import LOGICAL_READERS

from pipeline.errors import Undecodable
from pipeline.serde.avro_schema import Json, Resolved, resolve

Scan = Callable[[bytes, int], None]
Read = Callable[[bytes, int], Any]
# Of framed values, of which those without the frame go by themselves to the function that is given.
ReadRun = Callable[[Iterable[Any], bytes, Callable[[Any], Any]], Iterator[Any]]

_LONG_BYTES = 10
_INT_BYTES = 5
_FIXED = {"float": 4, "double": 8}
# Python compiles no more than 20 loops within each other; each array or map is two.
_INLINE_DEPTH = 8
# Where the next seven bits of a number go, from its seventh byte on; ten bytes hold 64 bits.
_SHIFTS = range(42, 64, 7)
# Beyond so many digits Python's limits begin, and fastavro's own ways with them.
DIGITS_MAX = 1000


def compile_scan(schema: Json) -> Scan:
    """A function `(value, start)` that returns when one datum of `schema` fills `value` from `start` to its end.

    It raises `Undecodable` otherwise, saying what was found where, and nothing else for any bytes.
    """
    scan: Scan = _compiled(schema, values=False)
    return scan


def compile_read(schema: Json) -> Read:
    """The same, and returns the datum. Text, times and numbers that Python cannot hold raise what they raise in Python."""
    read: Read = _compiled(schema, values=True)
    return read


def compile_run(schema: Json) -> ReadRun:
    """A generator `(values, frame, other)` of the datum of each value: `schema`'s after that frame, `other(value)` elsewhere.

    For hundreds at once: two calls a datum are a tenth of its time. It ends with the first exception, whatever it is:
    `compile_read` tells what is wrong with that value.
    """
    run: ReadRun = _compiled(schema, values=True, run=True)
    return run


def _compiled(schema: Json, *, values: bool, run: bool = False) -> Any:
    source = _Source(resolve(schema), values=values)
    namespace: dict[str, Any] = {
        "bad": _bad,
        "ended": _ended,
        "cut": _cut,
        "varint": _varint,
        "int32": _int32,
        "skip": _skip,
        "count": _count,
        "length": _long_length,
        "digits": _digits,
        "whole": int.from_bytes,
        "epoch": datetime(1970, 1, 1, tzinfo=UTC),
        "millisecond": timedelta(milliseconds=1),
        "float32": struct.Struct("<f").unpack_from,
        "float64": struct.Struct("<d").unpack_from,
        **source.constants,
    }
    text = source.run() if run else source.text()
    exec(compile(text, "<walk>", "exec"), namespace)  # noqa: S102  # our own lines, with numbers of the schema
    return namespace["datum"]


class _Source:
    """The source of the walk: a function for every named record, called where it is used; the rest stands in line.

    `b` are the bytes, `p` the position, `n` the end, `x` the number just read (still in zigzag form), `a` where a text or
    bytes begin. With `values` each piece leaves the value it read in the variable that it is given (`to`); without, there
    is none.
    """

    def __init__(self, resolved: Resolved, *, values: bool) -> None:
        self._resolved = resolved
        self._values = values
        self._functions: dict[str, str] = {}
        self._lines: list[str] = []
        self._names = 0
        self.constants: dict[str, Any] = {}
        self._root = self._whole(resolved.root)

    def text(self) -> str:
        """All functions; `datum` is the way in."""
        begin = ["def datum(b, p):", "    n, start = len(b), p", "    v = None", "    try:"]
        body = [f"    {line}" for line in (*self._root, "    if p != n: ended(p, n)", "    return v")]
        return "\n".join([*self._lines, *begin, *body, "    except IndexError:", "        cut(n - start)"])

    def run(self) -> str:
        """The same as a generator over many values."""
        begin = ["def datum(values, frame, other):", "    size = len(frame)", "    for b in values:"]
        first = ["if b[:size] != frame:", "    yield other(b)", "    continue", "n, p = len(b), size"]
        body = [f"    {line}" for line in (*self._root, "    if p != n: ended(p, n)", "    yield v")]
        return "\n".join([*self._lines, *begin, *(f"        {line}" for line in first), *body])

    def _whole(self, root: Json) -> list[str]:
        it = self._resolved.definition(root)
        # A record that is the whole datum stands in line: it is used nowhere else.
        if isinstance(it, dict) and it["type"] == "record":
            return self._fields(it, "v")
        return self._datum(root, 1, "v")

    def _name(self, constant: Any = None) -> str:
        """A fresh variable, or the name of a constant."""
        self._names += 1
        if constant is None:
            return f"v{self._names}"
        self.constants[f"c{self._names}"] = constant
        return f"c{self._names}"

    def _datum(self, node: Json, depth: int, to: str) -> list[str]:
        it = self._resolved.definition(node)
        tab = "    " * depth
        if isinstance(it, list):
            return self._union(it, depth, to)
        kind = it["type"]
        if kind == "record":
            call = f"{self._function(it)}(b, p, n)"
            return [f"{tab}p, {to} = {call}" if self._values else f"{tab}p, _ = {call}"]
        if kind in {"array", "map"}:
            return self._blocks(it, depth, to)
        walk = self._plain(kind, it, tab)
        return [*walk, *self._value(kind, it, tab, to)] if self._values else walk

    def _plain(self, kind: str, it: dict[str, Json], tab: str) -> list[str]:  # noqa: PLR0911  # one for each kind
        """Past one value that holds no other; where values are made, numbers and lengths stay in `x`."""
        if kind == "null":
            return [f"{tab}pass"]
        if kind == "boolean":
            return [f"{tab}if b[p] > 1: bad(p, 'a boolean that is neither 0 nor 1')", f"{tab}p += 1"]
        if kind in {"int", "long"} and self._values:
            return [f"{tab}x = b[p]", f"{tab}p += 1", f"{tab}if x > 127: x, p = {_NUMBERS[kind]}(b, p, x)"]
        if kind in {"int", "long"}:
            most = f"{_INT_BYTES}, 0x0F" if kind == "int" else f"{_LONG_BYTES}, 0x01"
            return [f"{tab}p = p + 1 if b[p] < 128 else skip(b, p, {most})"]
        if kind in {"string", "bytes"}:
            return [*_length(tab), *_decimal(it, "a", "p - a", tab)]
        if kind == "enum":
            over = 2 * len(it["symbols"])
            return [*_number(tab), f"{tab}if x & 1 or x >= {over}: bad(p, 'an enum index out of range')"]
        size = _FIXED.get(kind) or int(it["size"])
        beyond = [f"{tab}if p > n: raise IndexError"] if self._values else []
        return [f"{tab}p += {size}", *beyond, *_decimal(it, f"p - {size}", str(size), tab)]

    def _value(self, kind: str, it: dict[str, Json], tab: str, to: str) -> list[str]:
        size = _FIXED.get(kind) or it.get("size")
        raw = {
            "null": "None",
            "boolean": "b[p - 1] == 1",
            "int": "(x >> 1) ^ -(x & 1)",
            "long": "(x >> 1) ^ -(x & 1)",
            "string": "b[a:p].decode()",
            "bytes": "b[a:p]",
            "float": "float32(b, p - 4)[0]",
            "double": "float64(b, p - 8)[0]",
            "fixed": f"b[p - {size}:p]",
        }
        found = f"{self._name(tuple(it['symbols']))}[x >> 1]" if kind == "enum" else raw[kind]
        logical = f"{kind}-{it.get('logicalType')}"
        if logical == "long-timestamp-millis":
            return [f"{tab}{to} = epoch + ({found}) * millisecond"]
        if logical in {"bytes-decimal", "fixed-decimal"} and max(it.get("scale", 0), it["precision"]) <= DIGITS_MAX:
            unit = self._name(Decimal((0, (1,), -it.get("scale", 0))))
            times = self._name(Context(prec=int(it["precision"])).multiply)
            return [f"{tab}{to} = {times}(whole({found}, 'big', signed=True), {unit})"]
        if logical in LOGICAL_READERS:
            return [f"{tab}{to} = {self._name(LOGICAL_READERS[logical])}({found}, {self._name(it)}, None)"]
        return [f"{tab}{to} = {found}"]

    def _fields(self, record: dict[str, Json], to: str) -> list[str]:
        lines: list[str] = []
        pairs: list[str] = []
        for field in record["fields"]:
            its = self._name()
            lines += self._datum(field["type"], 1, its)
            pairs.append(f"{field['name']!a}: {its}")
        return [*lines, f"    {to} = {{{', '.join(pairs)}}}"] if self._values else lines

    def _function(self, record: dict[str, Json]) -> str:
        name = self._functions.get(record["name"])
        if name is None:
            name = self._functions[record["name"]] = self._define(self._fields(record, "v"))
        return name

    def _define(self, body: list[str]) -> str:
        name = f"part_{len(self._lines)}"
        self._lines += [f"def {name}(b, p, n):", "    v = None", *body, "    return p, v"]
        return name

    def _union(self, branches: list[Json], depth: int, to: str) -> list[str]:
        tab = "    " * depth
        lines = _number(tab)
        for number, branch in enumerate(branches):
            # Zigzag: index i is written as 2i; odd numbers are indices below zero and match no branch.
            lines += [f"{tab}{'elif' if number else 'if'} x == {2 * number}:", *self._datum(branch, depth + 1, to)]
        return [*lines, f"{tab}else: bad(p, 'a union index out of range')"]

    def _blocks(self, it: dict[str, Json], depth: int, to: str) -> list[str]:
        tab, inner = "    " * depth, "    " * (depth + 2)
        if depth > _INLINE_DEPTH:
            call = f"{self._define(self._blocks(it, 1, 'v'))}(b, p, n)"
            return [f"{tab}p, {to} = {call}"]
        found, item, key = self._name(), self._name(), self._name()
        is_map = it["type"] == "map"
        lines = [f"{tab}{found} = {'{}' if is_map else '[]'}"] if self._values else []
        lines += [f"{tab}{key}s = set()"] if is_map else []
        lines += [f"{tab}while True:", f"{tab}    x, p = count(b, p, n)", f"{tab}    if not x: break"]
        lines += [f"{tab}    for _ in range(x):"]
        if is_map:
            lines += [
                *_length(inner),
                f"{inner}{key} = b[a:p]",
                f"{inner}if {key} in {key}s: bad(p, 'a key twice in one map')",
                f"{inner}{key}s.add({key})",
            ]
        lines += self._datum(it["values" if is_map else "items"], depth + 2, item)
        if not self._values:
            return lines
        keep = f"{found}[{key}.decode()] = {item}" if is_map else f"{found}.append({item})"
        return [*lines, f"{inner}{keep}", f"{tab}{to} = {found}"]


_NUMBERS = {"int": "int32", "long": "varint"}


def _number(tab: str) -> list[str]:
    """Read a number into `x`; most are one byte."""
    return [f"{tab}x = b[p]", f"{tab}p += 1", f"{tab}if x > 127: x, p = varint(b, p, x)"]


def _length(tab: str) -> list[str]:
    """Read a length into `x` and go past as many bytes."""
    return [
        f"{tab}x = b[p]",
        f"{tab}p += 1",
        # Larger than a byte can say, or odd, which is below zero.
        f"{tab}if x & 129: x, p = length(b, p, x)",
        f"{tab}a = p",
        f"{tab}p += x >> 1",
        f"{tab}if p > n: bad(n, 'a length beyond the end')",
    ]


def _decimal(it: dict[str, Json], start: str, size: str, tab: str) -> list[str]:
    """Count the digits of a decimal that may have too many; so few bytes as most have need no counting."""
    if it.get("logicalType") != "decimal":
        return []
    precision = int(it["precision"])
    return [f"{tab}if {size} > {precision * 3 // 8}: digits(b, {start}, p, {precision})"]


def _ended(stopped: int, end: int) -> None:
    if stopped > end:
        raise Undecodable(f"The bytes end {stopped - end} bytes before the datum does.")
    raise Undecodable(f"{end - stopped} bytes are left over after the datum.")


def _cut(size: int) -> None:
    raise Undecodable(f"The bytes end in the middle of the datum, after {size} bytes.") from None


def _bad(position: int, what: str) -> None:
    raise Undecodable(f"There is {what}, before byte {position}.")


def _varint(b: bytes, p: int, first: int) -> tuple[int, int]:
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
    _bad(p, "a number of more than 64 bits")
    raise AssertionError


def _long_length(b: bytes, p: int, first: int) -> tuple[int, int]:
    """The rest of a length of more than one byte."""
    found, p = _varint(b, p, first) if first > 127 else (first, p)  # noqa: PLR2004  # the continuation bit
    if found & 1:
        _bad(p, "a length below zero")
    return found, p


def _int32(b: bytes, p: int, first: int) -> tuple[int, int]:
    """The same of at most 32 bits, in at most five bytes."""
    _skip(b, p - 1, _INT_BYTES, 0x0F)
    return _varint(b, p, first)


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
