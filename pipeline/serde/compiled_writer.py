"""A schema's own writer: a few lines of Python for each field, for data whose values have exactly the types they should.

A general writer takes five times as long as these lines. They take no datum that `exact_writer` would not take, and write the
same bytes. A datum that they do not take may still be right, in a way that is seldom: it goes there, which also says what is
wrong.

Only numbers of the schema get into the source, and names as literals. The schema must be sound.
"""

import struct
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Context, Decimal, InvalidOperation, Rounded
from typing import Any
from uuid import UUID

from pipeline.serde.avro_schema import Json, Resolved, resolve
from pipeline.serde.logical_values import DAYS_SHIFT, DIGITS_MAX, EPOCH, LOCAL_EPOCH, logical_of

Write = Callable[[Any], bytes]

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
        "date": date,
        "time": time,
        "UUID": UUID,
        "join": b"".join,
        "small": _LAST[:128],
        "number": zigzag,
        "epoch": EPOCH,
        "local": LOCAL_EPOCH,
        "header": header,
        "float32": struct.Struct("<f").pack,
        "kept32": struct.Struct("<f").unpack,
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
        logical = logical_of(it)
        if logical.endswith("decimal"):
            return self._decimal(it, of)
        if logical:
            return _LOGICAL[logical](of)
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
            if kind == "float":
                return [check, f"x = float32({of})", f"if kept32(x)[0] != {of}: raise NotSo", f"{of} = x"], [of]
            return [check, f"{of} = float64({of})"], [of]
        if kind == "string":
            return [_only("str", of), f"{of} = {of}.encode()", *_length(of)], [f"{of}n", of]
        if kind == "bytes":
            return [_only("bytes", of), *_length(of)], [f"{of}n", of]
        if kind == "fixed":
            return [f"if type({of}) is not bytes or len({of}) != {int(it['size'])}: raise NotSo"], [of]
        if kind == "enum":
            symbols = self._constant({symbol: zigzag(index) for index, symbol in enumerate(it["symbols"])})
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
        """Told apart by the type of the value; where two branches have one Python type that is `exact_writer`'s to say."""
        its = [self._resolved.definition(branch) for branch in branches]
        kinds = [_KINDS.get(logical_of(one) or one["type"], one["type"]) for one in its]
        if len(set(kinds)) < len(kinds):
            raise NotSoError
        # A value or nothing: whether it has its type its own lines look.
        maybe = len(its) == 2 and "None" in kinds  # noqa: PLR2004
        lines = [] if maybe else [f"t = type({of})"]
        for position, at in enumerate(sorted(range(len(its)), key=lambda at: kinds[at] != "None")):
            test = f"{of} is None" if kinds[at] == "None" else f"t is {kinds[at]}"
            lines.append("else:" if maybe and position else f"{'elif' if position else 'if'} {test}:")
            if kinds[at] == "None":
                lines.append(f"    {of} = {zigzag(at)!r}")
                continue
            inner, parts = self._datum(branches[at], of)
            lines += _indented([*inner, f"{of} = join(({zigzag(at)!r}, {_listed(parts)}))"])
        return [*lines, *([] if maybe else ["else: raise NotSo"])], [of]

    def _decimal(self, it: dict[str, Json], of: str) -> Piece:
        scale, precision = it.get("scale", 0), it["precision"]
        if precision > DIGITS_MAX:
            raise NotSoError
        # It refuses what has more digits, instead of rounding it.
        exact = self._constant(Context(prec=precision, traps=[Rounded, InvalidOperation]))
        unit = self._constant(Decimal((0, (1,), -scale)))
        lines = [
            _only("Decimal", of),
            f"if not {of}.same_quantum({unit}): {of} = {of}.quantize({unit}, context={exact})",
            f"x = int({of}.scaleb({scale}, {exact}))",
        ]
        if it["type"] == "fixed":
            return [*lines, f"{of} = x.to_bytes({int(it['size'])}, 'big', signed=True)"], [of]
        lines += [f"{of} = x.to_bytes(x.bit_length() + 8 >> 3, 'big', signed=True)", *_length(of)]
        return lines, [f"{of}n", of]


# The Python type of a type's values, by which branches of a union are told apart.
_KINDS = {
    "null": "None", "boolean": "bool", "int": "int", "long": "int", "float": "float", "double": "float", "string": "str",
    "enum": "str", "bytes": "bytes", "fixed": "bytes", "array": "list", "map": "dict", "record": "dict",
    "string-uuid": "UUID", "int-date": "date", "int-time-millis": "time", "long-time-micros": "time",
    "bytes-decimal": "Decimal", "fixed-decimal": "Decimal", "long-timestamp-millis": "datetime",
    "long-timestamp-micros": "datetime", "long-local-timestamp-millis": "datetime",
    "long-local-timestamp-micros": "datetime",
}  # fmt: skip
_FIRST_DAY, _LAST_DAY = 1 - DAYS_SHIFT, date.max.toordinal() - DAYS_SHIFT


def _timestamp(of: str, since: str, unit: str) -> Piece:
    """A time without a zone cannot be subtracted from one with a zone, nor the other way round."""
    lines = [_only("datetime", of), f"{of} = {of} - {since}", f"x, y = {of}.days, {of}.microseconds"]
    if since == "epoch":
        # In a zone of its own a time may lie beyond the years that UTC has.
        lines.append(f"if not {_FIRST_DAY} <= x <= {_LAST_DAY}: raise NotSo")
    seconds = f"(x * 86400 + {of}.seconds)"
    if unit == "micros":
        return [*lines, f"{of} = {seconds} * 1000000 + y"], [f"number({of})"]
    return [*lines, "if y % 1000: raise NotSo", f"{of} = {seconds} * 1000 + y // 1000"], [f"number({of})"]


def _time(of: str, unit: str) -> Piece:
    micros = f"(({of}.hour * 60 + {of}.minute) * 60 + {of}.second) * 1000000 + {of}.microsecond"
    lines = [f"if type({of}) is not time or {of}.tzinfo is not None: raise NotSo", f"x = {micros}"]
    if unit == "micros":
        return [*lines, f"{of} = x"], [f"number({of})"]
    return [*lines, f"{of}, y = divmod(x, 1000)", "if y: raise NotSo"], [f"number({of})"]


_LOGICAL: dict[str, Callable[[str], Piece]] = {
    "string-uuid": lambda of: ([_only("UUID", of), f"{of} = str({of}).encode()"], ["b'H'", of]),
    "int-date": lambda of: ([_only("date", of)], [f"number({of}.toordinal() - {DAYS_SHIFT})"]),
    "int-time-millis": lambda of: _time(of, "millis"),
    "long-time-micros": lambda of: _time(of, "micros"),
    "long-timestamp-millis": lambda of: _timestamp(of, "epoch", "millis"),
    "long-timestamp-micros": lambda of: _timestamp(of, "epoch", "micros"),
    "long-local-timestamp-millis": lambda of: _timestamp(of, "local", "millis"),
    "long-local-timestamp-micros": lambda of: _timestamp(of, "local", "micros"),
}


def _only(kind: str, of: str) -> str:
    return f"if type({of}) is not {kind}: raise NotSo"


def _length(of: str) -> list[str]:
    """Zigzag writes a length twice as large; most are one byte then."""
    return [f"n = len({of})", f"{of}n = small[n + n] if n < 64 else number(n)"]


def _listed(parts: list[str]) -> str:
    return "".join(f"{part}, " for part in parts)


def _indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def zigzag(number: int) -> bytes:
    """As Avro writes a whole number of at most 64 bits."""
    left = number + number if number >= 0 else -number - number - 1
    found = b""
    while left >= _PAIRS:
        found += _MORE[left & _PAIRS - 1]
        left >>= 14
    return found + _LAST[left]
