"""A walk over a datum's bytes: is this exactly one datum of its schema, and harmless? And, in the same walk, its value.

Refused are negative union and enum indices, over-long numbers, lengths below zero, booleans of any byte, bytes left over,
decimals of more digits than their schema has, blocks of another size than they say, and counts that seven bytes claim to ask
for all memory. The walk is compiled once for each pair of schemas, to a few lines of Python for each field, because a general
walk costs three times as much a record. Only numbers of the schemas get into that source, and names as literals.

What the writer wrote is read as the reader's schema sees it, in the same walk (`resolution` says how); what the reader does
not see is walked over. A default is made anew for each datum: what a handler changes in one is in no other.

The schemas must be sound (`avro_schema.resolve`): then no type contains itself, so depth is bounded by the schema's own, and
every item of an array has at least one byte, so counts are bounded by the bytes left.
"""

import struct
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from decimal import Context, Decimal
from typing import Any

from pipeline.core.branches import Branch, Fixed, Symbol
from pipeline.serde import walk_steps
from pipeline.serde.avro_schema import Json, Resolved, resolve
from pipeline.serde.logical_values import EPOCH, digits_most, logical_of, value_of
from pipeline.serde.resolution import branch_for, default_value, mismatch, sources, worn
from pipeline.serde.walk_steps import INT_BYTES, LONG_BYTES

Scan = Callable[[bytes, int], None]
Read = Callable[[bytes, int], Any]
# Of framed values, of which those without the frame go by themselves to the function that is given.
ReadRun = Callable[[Iterable[Any], bytes, Callable[[Any], Any]], Iterator[Any]]

_STEPS = ("bad", "ended", "cut", "varint", "int32", "skip", "count", "length", "digits", "single")
_FIXED = {"float": 4, "double": 8}
# Python compiles no more than 20 loops within each other; each array or map is two.
_INLINE_DEPTH = 8


def compile_scan(schema: Json) -> Scan:
    """A function `(value, start)` that returns when one datum of `schema` fills `value` from `start` to its end.

    It raises `Undecodable` otherwise, saying what was found where, and nothing else for any bytes.
    """
    scan: Scan = _compiled(resolve(schema), None)
    return scan


def compile_read(schema: Json | Resolved, reader: Json | Resolved | None = None) -> Read:
    """The same, and returns the datum as `reader` sees it, which is the writer's `schema` itself where none is given.

    Text, times and numbers that Python cannot hold raise what they raise in Python.
    """
    writer = _resolved(schema)
    read: Read = _compiled(writer, writer if reader is None else _resolved(reader))
    return read


def compile_run(schema: Json | Resolved, reader: Json | Resolved | None = None) -> ReadRun:
    """A generator `(values, frame, other)` of the datum of each value: `schema`'s after that frame, `other(value)` elsewhere.

    For hundreds at once: two calls a datum are a tenth of its time. It ends with the first exception, whatever it is:
    `compile_read` tells what is wrong with that value.
    """
    writer = _resolved(schema)
    run: ReadRun = _compiled(writer, writer if reader is None else _resolved(reader), run=True)
    return run


def _resolved(schema: Json | Resolved) -> Resolved:
    return schema if isinstance(schema, Resolved) else resolve(schema)


def _compiled(writer: Resolved, reader: Resolved | None, *, run: bool = False) -> Any:
    source = _Source(writer, reader)
    namespace: dict[str, Any] = {
        **{name: getattr(walk_steps, name) for name in _STEPS},
        "whole": int.from_bytes,
        "epoch": EPOCH,
        "millisecond": timedelta(milliseconds=1),
        "float32": struct.Struct("<f").unpack_from,
        "float64": struct.Struct("<d").unpack_from,
        "Branch": Branch,
        "Fixed": Fixed,
        **source.constants,
    }
    text = source.run() if run else source.text()
    exec(compile(text, "<walk>", "exec"), namespace)  # noqa: S102  # our own lines, with numbers of the schema
    return namespace["datum"]


class _Source:
    """The source of the walk: a function for every named record, called where it is used; the rest stands in line.

    `b` are the bytes, `p` the position, `n` the end, `x` the number just read (still in zigzag form), `a` where a text or
    bytes begin. Each piece leaves the value it read in the variable that it is given (`to`); without one, there is no value.
    `wear` is the name that the value carries as a branch of its union.
    """

    def __init__(self, writer: Resolved, reader: Resolved | None) -> None:
        self._writer = writer
        self._reader = reader
        self._functions: dict[tuple[str, str, str], str] = {}
        self._lines: list[str] = []
        self._names = 0
        self.constants: dict[str, Any] = {}
        self._root = self._whole()

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

    def _whole(self) -> list[str]:
        root = self._writer.root
        it = self._writer.definition(root)
        to = "v" if self._reader is not None else ""
        new = self._reader.definition(self._reader.root) if self._reader is not None else None
        # A record that is the whole datum stands in line: it is used nowhere else.
        if isinstance(it, dict) and it["type"] == "record" and (new is None or isinstance(new, dict)):
            reason = mismatch(it, new) if new is not None else None
            return [_unread(reason, "    ")] if reason else self._fields(it, new, to)
        return self._datum(root, self._reader.root if self._reader is not None else None, 1, to)

    def _name(self, constant: Any = None) -> str:
        """A fresh variable, or the name of a constant."""
        self._names += 1
        if constant is None:
            return f"v{self._names}"
        self.constants[f"c{self._names}"] = constant
        return f"c{self._names}"

    def _datum(self, old: Json, new: Json, depth: int, to: str, wear: str = "") -> list[str]:
        it = self._writer.definition(old)
        tab = "    " * depth
        if isinstance(it, list):
            return self._union(it, new, depth, to)
        as_it = it
        if to:
            assert self._reader is not None
            as_it = self._reader.definition(new)
            if isinstance(as_it, list):
                return self._into_union(it, as_it, depth, to)
            if reason := mismatch(it, as_it):
                return [_unread(reason, tab)]
        kind = it["type"]
        if kind == "record":
            call = f"{self._function(it, as_it if to else None, wear)}(b, p, n)"
            return [f"{tab}p, {to or '_'} = {call}"]
        if kind in {"array", "map"}:
            lines = self._blocks(it, as_it, depth, to)
            return [*lines, f"{tab}{to} = Branch({wear!a}, {to})"] if wear else lines
        walk = self._plain(kind, it, tab, to)
        return [*walk, *self._value(it, as_it, tab, to, wear)] if to else walk

    def _plain(self, kind: str, it: dict[str, Json], tab: str, to: str) -> list[str]:  # noqa: PLR0911  # one for each kind
        """Past one value that holds no other; where values are made, numbers and lengths stay in `x`."""
        if kind == "null":
            return [f"{tab}pass"]
        if kind == "boolean":
            return [f"{tab}if b[p] > 1: bad(p, 'a boolean that is neither 0 nor 1')", f"{tab}p += 1"]
        if kind in {"int", "long"} and to:
            return [f"{tab}x = b[p]", f"{tab}p += 1", f"{tab}if x > 127: x, p = {_NUMBERS[kind]}(b, p, x)"]
        if kind in {"int", "long"}:
            most = f"{INT_BYTES}, 0x0F" if kind == "int" else f"{LONG_BYTES}, 0x01"
            return [f"{tab}p = p + 1 if b[p] < 128 else skip(b, p, {most})"]
        if kind in {"string", "bytes"}:
            return [*_length(tab), *_decimal(it, "a", "p - a", tab)]
        if kind == "enum":
            over = 2 * len(it["symbols"])
            return [*_index(tab), f"{tab}if x & 1 or x >= {over}: bad(p, 'an enum index out of range')"]
        size = _FIXED.get(kind) or int(it["size"])
        beyond = [f"{tab}if p > n: raise IndexError"] if to else []
        return [f"{tab}p += {size}", *beyond, *_decimal(it, f"p - {size}", str(size), tab)]

    def _value(self, it: dict[str, Json], as_it: dict[str, Json], tab: str, to: str, wear: str) -> list[str]:
        kind = it["type"]
        if kind == "enum":
            return self._symbol(it, as_it, tab, to, wear)
        size = _FIXED.get(kind) or it.get("size")
        found = {
            "null": "None",
            "boolean": "b[p - 1] == 1",
            "int": "(x >> 1) ^ -(x & 1)",
            "long": "(x >> 1) ^ -(x & 1)",
            "string": "b[a:p].decode()",
            "bytes": "b[a:p]",
            "float": "float32(b, p - 4)[0]",
            "double": "float64(b, p - 8)[0]",
            "fixed": f"b[p - {size}:p]",
        }[kind]
        # What a value means its writer knows: a number without a logical type stays one, whatever the reader makes of others.
        logical = logical_of(it) if kind == as_it["type"] else ""
        if logical == "long-timestamp-millis":
            return [f"{tab}{to} = epoch + ({found}) * millisecond"]
        if logical.endswith("decimal"):
            unit = self._name(Decimal((0, (1,), -int(it.get("scale", 0)))))
            times = self._name(Context(prec=digits_most(it)).multiply)
            return [f"{tab}{to} = {times}(whole({found}, 'big', signed=True), {unit})"]
        if logical:
            return [f"{tab}{to} = {self._name(value_of(logical, it))}({found})"]
        found = _PROMOTED.get((kind, as_it["type"]), "{}").format(found)
        return [f"{tab}{to} = {f'Fixed({wear!a}, {found})' if wear else found}"]

    def _symbol(self, it: dict[str, Json], as_it: dict[str, Json], tab: str, to: str, wear: str) -> list[str]:
        other = as_it.get("default") if as_it.get("default") in as_it["symbols"] else None
        known = [one if one in as_it["symbols"] else other for one in it["symbols"]]
        symbols = tuple(Symbol(wear, one) if wear and one is not None else one for one in known)
        lines = [f"{tab}{to} = {self._name(symbols)}[x >> 1]"]
        if None in symbols:
            lines.append(f"{tab}if {to} is None: bad(p, 'a symbol that the reader does not have')")
        return lines

    def _fields(self, record: dict[str, Json], new: dict[str, Json] | None, to: str, wear: str = "") -> list[str]:
        read = sources(record, new) if new is not None else {}
        lines: list[str] = []
        found: dict[str, str] = {}
        for field in record["fields"]:
            if (its := read.get(field["name"])) is None:
                lines += self._datum(field["type"], None, 1, "")
                continue
            found[its["name"]] = self._name()
            lines += self._datum(field["type"], its["type"], 1, found[its["name"]])
        if new is None:
            return lines
        for field in new["fields"]:
            if field["name"] not in found and "default" not in field:
                return [_unread(f"no {field['name']}, which has no default", "    ")]
            found[field["name"]] = found.get(field["name"]) or self._default(field)
        pairs = ", ".join(f"{field['name']!a}: {found[field['name']]}" for field in new["fields"])
        return [*lines, f"    {to} = {f'Branch({wear!a}, {{{pairs}}})' if wear else f'{{{pairs}}}'}"]

    def _default(self, field: dict[str, Json]) -> str:
        """An expression that makes the default anew."""
        assert self._reader is not None
        return self._literal(default_value(self._reader, field["type"], field["default"], _worn_value))

    def _literal(self, value: Any) -> str:
        if isinstance(value, Branch):
            return f"Branch({value.branch!a}, {self._literal(dict(value))})"
        if isinstance(value, dict):
            return f"{{{', '.join(f'{self._name(key)}: {self._literal(one)}' for key, one in value.items())}}}"
        if isinstance(value, list):
            if not any(isinstance(one, (list, dict)) for one in value):
                return f"[*{self._name(tuple(value))}]"
            return f"[{', '.join(map(self._literal, value))}]"
        return "None" if value is None else self._name(value)

    def _function(self, record: dict[str, Json], new: dict[str, Json] | None, wear: str) -> str:
        key = record["name"], new["name"] if new is not None else "", wear
        name = self._functions.get(key)
        if name is None:
            body = self._fields(record, new, "v", wear)
            name = self._functions[key] = self._define(body)
        return name

    def _define(self, body: list[str]) -> str:
        name = f"part_{len(self._lines)}"
        self._lines += [f"def {name}(b, p, n):", "    v = None", *(body or ["    pass"]), "    return p, v"]
        return name

    def _union(self, branches: list[Json], new: Json, depth: int, to: str) -> list[str]:
        tab = "    " * depth
        lines = _index(tab)
        for number, branch in enumerate(branches):
            # Zigzag: index i is written as 2i; odd numbers are indices below zero and match no branch.
            lines += [f"{tab}{'elif' if number else 'if'} x == {2 * number}:", *self._datum(branch, new, depth + 1, to)]
        return [*lines, f"{tab}else: bad(p, 'a union index out of range')"]

    def _into_union(self, it: dict[str, Json], branches: list[Json], depth: int, to: str) -> list[str]:
        """What one type, or one branch of the writer's union, is in a union of the reader's."""
        assert self._reader is not None
        new = [self._reader.definition(one) for one in branches]
        at = branch_for(it, new)
        if at is None:
            return [_unread(f"{it.get('name', it['type'])}, for which the reader has no branch", "    " * depth)]
        return self._datum(it, branches[at], depth, to, worn(new)[at])

    def _blocks(self, it: dict[str, Json], as_it: dict[str, Json], depth: int, to: str) -> list[str]:
        tab, inner = "    " * depth, "    " * (depth + 2)
        if depth > _INLINE_DEPTH:
            call = f"{self._define(self._blocks(it, as_it, 1, 'v' if to else ''))}(b, p, n)"
            return [f"{tab}p, {to or '_'} = {call}"]
        found, item, key, end = self._name(), self._name(), self._name(), self._name()
        is_map = it["type"] == "map"
        lines = [f"{tab}{found} = {'{}' if is_map else '[]'}"] if to else []
        lines += [f"{tab}{key}s = set()"] if is_map else []
        lines += [f"{tab}while True:", f"{tab}    x, p, {end} = count(b, p, n)", f"{tab}    if not x: break"]
        lines += [f"{tab}    for _ in range(x):"]
        if is_map:
            lines += [
                *_length(inner),
                f"{inner}{key} = b[a:p]",
                f"{inner}if {key} in {key}s: bad(p, 'a key twice in one map')",
                f"{inner}{key}s.add({key})",
            ]
        inside = "values" if is_map else "items"
        lines += self._datum(it[inside], as_it[inside], depth + 2, item if to else "")
        # Readers that do not want its items go by a block's size: the same bytes must not be two data.
        check = f"{tab}    if {end} and p != {end}: bad(p, 'a block of another size than it says')"
        if not to:
            return [*lines, check]
        keep = f"{found}[{key}.decode()] = {item}" if is_map else f"{found}.append({item})"
        return [*lines, f"{inner}{keep}", check, f"{tab}{to} = {found}"]


# How Java promotes: an int or a long becomes the nearest float of 32 bits.
_PROMOTED = {
    ("int", "float"): "single({})",
    ("long", "float"): "single({})",
    ("int", "double"): "float({})",
    ("long", "double"): "float({})",
    ("string", "bytes"): "{}.encode()",
    ("bytes", "string"): "{}.decode()",
}

_NUMBERS = {"int": "int32", "long": "varint"}


def _index(tab: str) -> list[str]:
    """Read the number of a branch or a symbol into `x`; most are one byte, and Java reads no more than five."""
    return [f"{tab}x = b[p]", f"{tab}p += 1", f"{tab}if x > 127: x, p = int32(b, p, x)"]


def _unread(reason: str, tab: str) -> str:
    """Where what was written cannot be read as the reader's schema says."""
    return f"{tab}bad(p, {f'a value that the reader does not take ({reason})'!a})"


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
    """Count the digits of a decimal that may have too many; so few bytes as most have need no counting, but for none."""
    if not logical_of(it).endswith("decimal"):
        return []
    most = digits_most(it)
    return [f"{tab}if not 0 < {size} <= {most * 3 // 8}: digits(b, {start}, p, {most})"]


def _worn_value(it: Json, wear: str, value: Any) -> Any:
    """A default that is a branch of a union, with the name that it carries there."""
    if not wear:
        return value
    kind = it["type"]
    return Symbol(wear, value) if kind == "enum" else Fixed(wear, value) if kind == "fixed" else Branch(wear, value)
