"""Many data of one schema at once: all first fields, then all second ones, each in a few steps over arrays.

A record of the usual kind takes half the time of the walk (`compiled_reader`). What is not usual in any way, be it wrong or
only seldom, is not looked at here: `Unusual`, and the walk says what it is. So the walk alone decides what is a datum, and
these steps take none that it would not take and give the same values.

Positions only grow, no length goes beyond its datum, and in the end each position is exactly at the end of its datum.
"""

from collections.abc import Callable, Iterable, Sequence
from decimal import Context, Decimal
from functools import cached_property
from itertools import repeat
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.branches import Branch, Fixed, Symbol
from pipeline.serde.avro_schema import Json, Resolved, resolve
from pipeline.serde.logical_values import EPOCH, digits_most, logical_of, value_of
from pipeline.serde.resolution import worn

Numbers = NDArray[np.int64]
# Makes the values of a field, once all fields are read.
Column = Callable[[], Iterable[Any]]

_FLOATS = {"float": "<f4", "double": "<f8"}
_BITS = {"int": 32, "long": 63}
_DECIMAL_BYTES_MAX = 8
# Of larger data a copy of all of them costs more than it saves.
_BYTES_MAX = 1_000_000


class Unusual(Exception):
    """A schema or data that these steps do not take."""


class Columns:
    """Reads framed data of one schema; `Unusual` where it has arrays or maps."""

    def __init__(self, schema: Json | Resolved) -> None:
        self._read = _Compiler(schema if isinstance(schema, Resolved) else resolve(schema)).root()

    def read(self, values: Sequence[bytes], frame: bytes) -> list[Any]:
        """The datum of each value. Any exception says only that not all of them are usual."""
        rows = _Rows(values)
        if (rows.bytes(len(frame)) != np.frombuffer(frame, np.uint8)).any():
            raise Unusual
        rows.at = rows.at + len(frame)
        column = self._read(rows)
        if (rows.at != rows.end).any():
            raise Unusual
        return list(column())


class _Rows:
    """Data one after the other, and the position in each."""

    def __init__(self, values: Sequence[bytes]) -> None:
        sizes = np.fromiter(map(len, values), np.int64, len(values))
        self.end = sizes.cumsum()
        if self.end[-1] > _BYTES_MAX:
            raise Unusual
        self.whole = b"".join(values)
        self._data = np.frombuffer(self.whole, np.uint8)
        self.at = self.end - sizes

    @cached_property
    def text(self) -> str:
        """A character for each byte: right where there is nothing but ASCII."""
        return self.whole.decode("latin-1")

    def __len__(self) -> int:
        return len(self.at)

    def some(self, which: Numbers) -> "_Rows":
        """Only these; their positions are put back by whoever asked."""
        rows = object.__new__(_Rows)
        rows.whole, rows._data = self.whole, self._data
        rows.at, rows.end = self.at[which], self.end[which]
        return rows

    def byte(self, at: Numbers) -> NDArray[np.uint8]:
        """The byte at each of these positions; beyond the end of all, any."""
        return self._data.take(at, mode="clip")

    def bytes(self, count: int) -> NDArray[np.uint8]:
        """So many bytes from each position on, a line for each."""
        return self.byte(self.at[:, None] + np.arange(count))

    def number(self, bits: int) -> Numbers:
        """Past a whole number of at most so many bits."""
        byte = self.byte(self.at)
        self.at = self.at + 1
        value = (byte & 127).astype(np.int64)
        more = byte > 127  # noqa: PLR2004  # the continuation bit
        shift = 0
        while more.any():
            shift += 7
            if shift >= bits:
                raise Unusual
            byte = np.where(more, self.byte(self.at), 0)
            self.at = self.at + more
            value |= (byte & 127).astype(np.int64) << shift
            more = byte > 127  # noqa: PLR2004  # the continuation bit
        if (value >> bits).any():
            raise Unusual
        return (value >> 1) ^ -(value & 1)

    def skip(self, sizes: Numbers | int) -> tuple[Numbers, Numbers]:
        """Past so many bytes: from where to where."""
        start = self.at
        self.at = start + sizes
        if (self.at > self.end).any():
            raise Unusual
        return start, self.at

    def sized(self) -> tuple[Numbers, Numbers]:
        """Past a length and as many bytes."""
        sizes = self.number(_BITS["int"])
        if (sizes < 0).any():
            raise Unusual
        return self.skip(sizes)


_Read = Callable[[_Rows], Column]


class _Compiler:
    """Says once for a schema how each of its types is read."""

    def __init__(self, resolved: Resolved) -> None:
        self._resolved = resolved
        # Each record is compiled once: where records are used by name within each other, they are millions.
        self._records: dict[str, _Read] = {}

    def root(self) -> _Read:
        return self._datum(self._resolved.root)

    def _datum(self, node: Json) -> _Read:
        it = self._resolved.definition(node)
        if isinstance(it, list):
            branches = [self._resolved.definition(branch) for branch in it]
            names = worn(branches)
            return _union([_worn(self._datum(one), one, name) for one, name in zip(branches, names, strict=True)])
        kind = it["type"]
        if kind == "record" and it["fields"]:
            return self._record(it)
        logical = logical_of(it)
        if logical == "long-timestamp-millis":
            return _moments
        if logical.endswith("decimal"):
            return _decimals(it)
        plain = _plain(kind, it)
        return _converted(plain, value_of(logical, it)) if logical else plain

    def _record(self, it: dict[str, Json]) -> _Read:
        if it["name"] not in self._records:
            fields = [(field["name"], self._datum(field["type"])) for field in it["fields"]]
            self._records[it["name"]] = _record([name for name, _ in fields], [read for _, read in fields])
        return self._records[it["name"]]


def _plain(kind: str, it: dict[str, Json]) -> _Read:
    if kind == "fixed":
        size = int(it["size"])
        return lambda rows: _cut(rows, *rows.skip(size))
    if kind == "enum":
        return _enums(it["symbols"])
    if kind in _BITS:
        bits = _BITS[kind]
        return lambda rows: rows.number(bits).tolist
    if kind in _FLOATS:
        return _floats(_FLOATS[kind])
    found = {
        "null": _nulls,
        "boolean": _booleans,
        "string": _texts,
        "bytes": lambda rows: _cut(rows, *rows.sized()),
    }.get(kind)
    if found is None:
        raise Unusual
    return found


def _nulls(rows: _Rows) -> Column:
    return lambda: repeat(None, len(rows))


def _booleans(rows: _Rows) -> Column:
    byte = rows.byte(rows.at)
    rows.skip(1)
    if (byte > 1).any():
        raise Unusual
    return byte.astype(bool).tolist


def _floats(kind: str) -> _Read:
    size = np.dtype(kind).itemsize

    def read(rows: _Rows) -> Column:
        found = rows.bytes(size)
        rows.skip(size)
        return found.view(kind)[:, 0].tolist

    return read


def _enums(symbols: Sequence[str]) -> _Read:
    def read(rows: _Rows) -> Column:
        index = rows.number(_BITS["int"])
        if ((index < 0) | (index >= len(symbols))).any():
            raise Unusual
        return lambda: map(symbols.__getitem__, index.tolist())

    return read


def _cut(rows: _Rows, start: Numbers, stop: Numbers) -> Column:
    whole = rows.whole
    return lambda: [whole[a:z] for a, z in zip(start.tolist(), stop.tolist(), strict=True)]


def _texts(rows: _Rows) -> Column:
    start, stop = rows.sized()

    def column() -> Iterable[str]:
        places, text = list(zip(start.tolist(), stop.tolist(), strict=True)), rows.text
        found = [text[a:z] for a, z in places]
        if "".join(found).isascii():
            return found
        return [rows.whole[a:z].decode() for a, z in places]

    return column


def _moments(rows: _Rows) -> Column:
    after = rows.number(_BITS["long"])
    # What is no `timedelta` comes as a number, and to add that raises.
    return lambda: map(add, repeat(EPOCH), after.astype("timedelta64[ms]").tolist())


def _decimals(it: dict[str, Json]) -> _Read:
    precision, fixed = digits_most(it), it.get("size")
    # So few bytes as these hold no more digits than may be, and make a number of 64 bits.
    most = min(_DECIMAL_BYTES_MAX, precision * 3 // 8)
    if int(fixed or 0) > most:
        raise Unusual
    unit, times = Decimal((0, (1,), -it.get("scale", 0))), Context(prec=precision).multiply

    def read(rows: _Rows) -> Column:
        start, stop = rows.sized() if fixed is None else rows.skip(int(fixed))
        sizes = stop - start
        if (sizes > most).any() or not sizes.all():
            raise Unusual
        value = rows.byte(start).view(np.int8).astype(np.int64)
        for more in range(1, int(sizes.max())):
            value = np.where(sizes > more, value << 8 | rows.byte(start + more), value)
        return lambda: map(times, value.tolist(), repeat(unit))

    return read


def _converted(read: _Read, convert: Callable[[Any], Any]) -> _Read:
    def converted(rows: _Rows) -> Column:
        column = read(rows)
        return lambda: map(convert, column())

    return converted


def _worn(read: _Read, branch: dict[str, Json], name: str) -> _Read:
    """With the name that its values carry in this union, if they carry one."""
    if not name:
        return read
    carrier = {"enum": Symbol, "fixed": Fixed}.get(branch["type"], Branch)
    return _converted(read, lambda value: carrier(name, value))


def _union(branches: Sequence[_Read]) -> _Read:
    def read(rows: _Rows) -> Column:
        index = rows.number(_BITS["int"])
        parts: list[tuple[Numbers, Column]] = []
        at = rows.at.copy()
        for number, branch in enumerate(branches):
            which = np.flatnonzero(index == number)
            if len(which):
                some = rows.some(which)
                parts.append((which, branch(some)))
                at[which] = some.at
        rows.at = at
        if sum(len(which) for which, _ in parts) != len(rows):
            raise Unusual

        def column() -> Iterable[Any]:
            found: list[Any] = [None] * len(rows)
            for which, its in parts:
                for place, value in zip(which.tolist(), its(), strict=True):
                    found[place] = value
            return found

        return column

    return read


def _record(names: Sequence[str], fields: Sequence[_Read]) -> _Read:
    variables = ", ".join(f"v{number}" for number in range(len(names)))
    pairs = ", ".join(f"{name!a}: v{number}" for number, name in enumerate(names))
    source = f"lambda columns: [{{{pairs}}} for {variables}, in zip(*columns)]"
    made: Callable[[Iterable[Any]], list[Any]] = eval(source)  # noqa: S307  # our own line, names as literals

    def read(rows: _Rows) -> Column:
        columns = [field(rows) for field in fields]
        return lambda: made([column() for column in columns])

    return read
