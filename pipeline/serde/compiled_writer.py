"""A schema's own writer: a few lines of Python for each field, for data whose values have exactly the types they should.

fastavro writes 1.5 and True as the int 1, so what it writes has to be validated by a second walk; both are general and
take five times as long as these lines. The lines take no datum that one of the walks would not take, and write the same
bytes. A datum that they do not take may still be right, in a way that is seldom: it goes the long way (`avro.AvroWriter`).

Only numbers of the schema get into the source, and names as literals. The schema must be sound.
"""

import struct
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Context, Decimal, InvalidOperation, Rounded
from typing import Any

from fastavro.write import LOGICAL_WRITERS

from pipeline.serde.avro_schema import Json, Resolved, resolve
from pipeline.serde.compiled_reader import DIGITS_MAX

Write = Callable[[Any], bytes]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BITS = {"int": 31, "long": 63}
# Two groups of seven bits at once, those with more to come and those at a number's end.
_PAIRS = 1 << 14
_MORE = [bytes((number & 127 | 128, number >> 7 | 128)) for number in range(_PAIRS)]
_LAST = [bytes((number,)) for number in range(128)]
_LAST += [bytes((number & 127 | 128, number >> 7)) for number in range(128, _PAIRS)]


class NotSoError(Exception):
    """Not a datum of exactly the expected types, or a schema without lines of its own."""


def compile_write(schema: Json, header: bytes) -> Write | None:
    """A function that gives `header` and the bytes of a datum; None for a schema with a choice among several types.

    Whatever that function raises says that it does not take the datum.
    """
    source = _Source(resolve(schema))
    try:
        text = source.text()
    except NotSoError:
        return None
    namespace: dict[str, Any] = {
        "NotSo": NotSoError,
        "Decimal": Decimal,
        "datetime": datetime,
        "join": b"".join,
        "small": _LAST[:128],
        "number": _number,
        "epoch": _EPOCH,
        "header": header,
        "float32": struct.Struct("<f").pack,
        "float64": struct.Struct("<d").pack,
        **source.constants,
    }
    exec(compile(text, "<write>", "exec"), namespace)  # noqa: S102  # our own lines, with numbers of the schema
    return namespace["write"]  # type: ignore[no-any-return]


Piece = tuple[list[str], list[str]]


class _Source:
    """The source of the writer: a function for every record but the outermost, and for every array and map.

    A piece of it is given the name of the variable that holds the value; it is lines, after which the bytes to write are
    those of its expressions.
    """

    def __init__(self, resolved: Resolved) -> None:
        self._resolved = resolved
        self._functions: dict[str, str] = {}
        self._lines: list[str] = []
        self._names = 0
        self.constants: dict[str, Any] = {}

    def text(self) -> str:
        """All functions; `write` is the way in. Raises `NotSoError` where a part of the schema has no lines."""
        root = self._resolved.definition(self._resolved.root)
        if not isinstance(root, dict) or root["type"] != "record":
            raise NotSoError
        lines, parts = self._fields(root)
        written = f"return join((header, {_listed(parts)}))"
        return "\n".join([*self._lines, "def write(d):", *_indented([*lines, written])])

    def _variable(self) -> str:
        self._names += 1
        return f"v{self._names}"

    def _constant(self, value: Any) -> str:
        self._names += 1
        self.constants[f"c{self._names}"] = value
        return f"c{self._names}"

    def _datum(self, node: Json, of: str) -> Piece:
        it = self._resolved.definition(node)
        if isinstance(it, list):
            return self._union(it, of)
        kind = it["type"]
        logical = f"{kind}-{it.get('logicalType')}"
        if logical == "long-timestamp-millis":
            return _timestamp(of)
        if logical == "bytes-decimal" and it.get("scale", 0) <= DIGITS_MAX and it["precision"] <= DIGITS_MAX:
            return self._decimal(it, of)
        if logical in LOGICAL_WRITERS:
            lines, parts = self._plain(kind, it, of)
            prepared = f"{self._constant(LOGICAL_WRITERS[logical])}({of}, {self._constant(it)})"
            if kind == "fixed":
                # Of bytes that can still change.
                return [_only("Decimal", of), f"{of} = bytes({prepared})", *lines], parts
            return [f"{of} = {prepared}", *lines], parts
        return self._plain(kind, it, of)

    def _plain(self, kind: str, it: dict[str, Json], of: str) -> Piece:  # noqa: PLR0911  # one for each kind of type
        if kind == "null":
            return [f"if {of} is not None: raise NotSo"], []
        if kind == "boolean":
            return [_only("bool", of), f"{of} = b'\\1' if {of} else b'\\0'"], [of]
        if kind in _BITS:
            limit = 2 ** _BITS[kind]
            return [_only("int", of), f"if not -{limit} <= {of} < {limit}: raise NotSo"], [f"number({of})"]
        if kind in {"float", "double"}:
            # What a float makes of a NaN is not the same everywhere.
            check = f"if type({of}) is not float or {of} != {of}: raise NotSo"
            return [check, f"{of} = float{32 if kind == 'float' else 64}({of})"], [of]
        if kind == "string":
            return [_only("str", of), f"{of} = {of}.encode()", *_length(of)], [f"{of}n", of]
        if kind == "bytes":
            return [_only("bytes", of), *_length(of)], [f"{of}n", of]
        if kind == "fixed":
            return [f"if type({of}) is not bytes or len({of}) != {int(it['size'])}: raise NotSo"], [of]
        if kind == "enum":
            symbols = self._constant({symbol: _number(index) for index, symbol in enumerate(it["symbols"])})
            return [_only("str", of), f"{of} = {symbols}[{of}]"], [of]
        return [f"{of} = {self._function(kind, it)}({of})"], [of]

    def _function(self, kind: str, it: dict[str, Json]) -> str:
        """A function that gives the bytes of a record, an array or a map."""
        if kind != "record":
            return self._define([*self._blocks(kind, it)])
        name = self._functions.get(it["name"])
        if name is None:
            lines, parts = self._fields(it)
            name = self._functions[it["name"]] = self._define([*lines, f"return join(({_listed(parts)}))"])
        return name

    def _define(self, body: list[str]) -> str:
        name = f"part_{len(self._lines)}"
        self._lines += [f"def {name}(d):", *_indented(body)]
        return name

    def _fields(self, record: dict[str, Json]) -> Piece:
        fields = record["fields"]
        lines = [f"if type(d) is not dict or len(d) != {len(fields)}: raise NotSo"]
        parts: list[str] = []
        for field in fields:
            of = self._variable()
            more, expressions = self._datum(field["type"], of)
            lines += [f"{of} = d[{field['name']!a}]", *more]
            parts += expressions
        return lines, parts

    def _blocks(self, kind: str, it: dict[str, Json]) -> list[str]:
        """One block, as fastavro writes it."""
        item, key = self._variable(), self._variable()
        lines, parts = self._datum(it["items" if kind == "array" else "values"], item)
        if kind == "map":
            before, its_parts = self._plain("string", {}, key)
            lines, parts = [*before, *lines], [*its_parts, *parts]
        each = f"for {item} in d:" if kind == "array" else f"for {key}, {item} in d.items():"
        return [
            _only("list" if kind == "array" else "dict", "d"),
            "if not d: return b'\\0'",
            "found = [number(len(d))]",
            each,
            *_indented([*lines, f"found += ({_listed(parts)})"]),
            "found.append(b'\\0')",
            "return join(found)",
        ]

    def _union(self, branches: list[Json], of: str) -> Piece:
        """One type or nothing. Which of several types a value has is fastavro's to say."""
        others = [branch for branch in branches if self._resolved.definition(branch) != {"type": "null"}]
        if len(others) != 1:
            raise NotSoError
        index = branches.index(others[0])
        lines, parts = self._datum(others[0], of)
        some = [*lines, f"{of} = join(({_number(index)!r}, {_listed(parts)}))"]
        if len(branches) == 1:
            return some, [of]
        return [f"if {of} is None: {of} = {_number(1 - index)!r}", "else:", *_indented(some)], [of]

    def _decimal(self, it: dict[str, Json], of: str) -> Piece:
        scale, precision = it.get("scale", 0), it["precision"]
        # It refuses what has more digits, instead of rounding it.
        exact = self._constant(Context(prec=precision, traps=[Rounded, InvalidOperation]))
        unit = self._constant(Decimal((0, (1,), -scale)))
        return [
            _only("Decimal", of),
            f"if not {of}.same_quantum({unit}): {of} = {of}.quantize({unit}, context={exact})",
            f"x = int({of}.scaleb({scale}, {exact}))",
            f"{of} = x.to_bytes(x.bit_length() + 8 >> 3, 'big', signed=True)",
            *_length(of),
        ], [f"{of}n", of]


def _timestamp(of: str) -> Piece:
    """Milliseconds, the part below cut off as fastavro does; a time without a zone cannot be subtracted."""
    written = f"number(({of}.days * 86400 + {of}.seconds) * 1000 + {of}.microseconds // 1000)"
    return [_only("datetime", of), f"{of} = {of} - epoch"], [written]


def _only(kind: str, of: str) -> str:
    return f"if type({of}) is not {kind}: raise NotSo"


def _length(of: str) -> list[str]:
    """Zigzag writes a length twice as large; most are one byte then."""
    return [f"n = len({of})", f"{of}n = small[n + n] if n < 64 else number(n)"]


def _listed(parts: list[str]) -> str:
    return "".join(f"{part}, " for part in parts)


def _indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _number(number: int) -> bytes:
    """As Avro writes a whole number of at most 64 bits."""
    left = number + number if number >= 0 else -number - number - 1
    found = b""
    while left >= _PAIRS:
        found += _MORE[left & _PAIRS - 1]
        left >>= 14
    return found + _LAST[left]
