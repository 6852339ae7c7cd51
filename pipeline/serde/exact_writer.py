"""What is written is what was given: each value exactly as its type holds it, or refused with its place and the reason.

`decode` gives back what this wrote, equal to what was given, with the defaults of fields that were left out. So nothing is
rounded, cut, or taken for what it is not: 0.1 is no 32-bit float, a datetime no date, True no number, text no uuid. The lines
that are compiled for a schema (`compiled_writer`) take the usual values; what is seldom or wrong comes here.

See docs/reference/avro-types.md for each type.
"""

from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from numbers import Real
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from pipeline.core.branches import Branch, Fixed, Symbol, branch_of
from pipeline.errors import Invalid
from pipeline.serde.avro_schema import NAMED, Json, Resolved
from pipeline.serde.compiled_writer import zigzag
from pipeline.serde.exact_values import Out, Unfit, Write, other, scalar, shown, text
from pipeline.serde.logical_values import logical_of
from pipeline.serde.resolution import default_value


class ExactWriter:
    """Writes values of the types of one sound schema."""

    def __init__(self, resolved: Resolved) -> None:
        self._resolved = resolved
        self._records: dict[str, Write] = {}

    def datum(self) -> Callable[[Any], bytes]:
        """A function that gives the bytes of a whole datum; `Invalid` says what does not fit, and where."""
        write = self.of(self._resolved.root)

        def written(value: Any) -> bytes:
            out = Out()
            try:
                write(value, out)
            except Unfit as error:
                raise Invalid(f"The datum does not fit its schema: {error}") from None
            except RecursionError:
                raise Invalid("The datum does not fit its schema: it is nested too deeply") from None
            return bytes(out)

        return written

    def of(self, node: Json) -> Write:
        """What writes values of a node of the schema, or raises `Unfit`."""
        it = self._resolved.definition(node)
        if isinstance(it, list):
            return self._union([self._resolved.definition(one) for one in it])
        kind = it["type"]
        if kind == "record":
            return self._record(it)
        if kind == "array":
            return _array(self.of(it["items"]))
        if kind == "map":
            return _map(self.of(it["values"]))
        return scalar(it)

    def _record(self, it: dict[str, Json]) -> Write:
        name = it["name"]
        if name in self._records:
            return self._records[name]
        # It stands there before its fields do: no record contains itself, so it is whole when it is called.
        fields: dict[str, tuple[Write, Callable[[], Any] | None]] = {}

        def record(value: Any, out: Out) -> None:
            if isinstance(value, BaseModel):
                value = fields_of(value, fields)
            if not isinstance(value, Mapping):
                raise other(value, f"record {name}", "give a dict or a pydantic model")
            unknown = value.keys() - fields.keys()
            if unknown:
                raise Unfit(f"{name} has no field {', '.join(sorted(map(shown, unknown)))}")
            for field, (write, default) in fields.items():
                try:
                    _field(write, default, value, field, out)
                except Unfit as error:
                    raise error.at(f".{field}") from None

        self._records[name] = record
        for one in it["fields"]:
            default = self._default(one) if "default" in one else None
            fields[one["name"]] = self.of(one["type"]), default
        return record

    def _default(self, field: dict[str, Json]) -> Callable[[], Any]:
        def worn(it: Json, wear: str, value: Any) -> Any:
            kind = it["type"]
            if not wear:
                return value
            return (
                Symbol(wear, value)
                if kind == "enum"
                else Fixed(wear, value)
                if kind == "fixed"
                else Branch(wear, value)
            )

        return lambda: default_value(self._resolved, field["type"], field["default"], worn)

    def _union(self, branches: list[dict[str, Json]]) -> Write:
        names = [one["name"] if one["type"] in NAMED else one["type"] for one in branches]
        writes = [self.of(one) for one in branches]
        looks = [look_of(one) for one in branches]

        def union(value: Any, out: Out) -> None:
            usual = [at for at, look in enumerate(looks) if type(value) in look]
            more = [at for at, look in enumerate(looks) if at not in usual and _may_be(value, look)]
            able = _named(value, names) or [*usual, *more]
            if not able:
                kind = type(value).__name__
                raise Unfit(f"{'an' if kind[:1] in 'aeiou' else 'a'} {kind} is none of {', '.join(names)}")
            if len(able) == 1:
                out += zigzag(able[0])
                writes[able[0]](value, out)
                return
            tried = {at: _tried(writes[at], value, out, id(branches[at])) for at in able}
            fits = [at for at in able if not isinstance(tried[at], Unfit)]
            found = [at for at in fits if at in usual] or fits
            if not found:
                reasons = "; ".join(f"{names[at]}: {error!s}" for at, error in tried.items())
                raise Unfit(f"it is none of {', '.join(names)} ({reasons})")
            at = _chosen(value, found, branches)
            if at is None:
                choice = " and ".join(names[one] for one in found)
                raise Unfit(f"it may be {choice}: say which with {_carrier(branches[found[0]])}", certain=True)
            out += zigzag(at)
            out += tried[at]  # type: ignore[arg-type]  # bytes, as it was found

        return union


def _field(write: Write, default: Callable[[], Any] | None, value: Mapping[str, Any], name: str, out: Out) -> None:
    if name in value:
        write(value[name], out)
    elif default is None:
        raise Unfit("it is left out, and has no default")
    else:
        write(default(), out)


def _named(value: Any, names: list[str]) -> list[int]:
    """The branch whose name the value carries, if the union has it; a model carries its class's name."""
    name = type(value).__name__ if isinstance(value, BaseModel) else branch_of(value)
    if name is None:
        return []
    if isinstance(value, BaseModel):
        return [at for at, one in enumerate(names) if one.rpartition(".")[2] == name][:1]
    return [at for at, one in enumerate(names) if one == name]


def _tried(write: Write, value: Any, out: Out, branch: int) -> "bytes | Unfit":
    """What a branch makes of the value. Each value is tried once with each: nested unions would ask again and again."""
    key = id(value), branch
    if key in out.tried:
        return out.tried[key][1]
    beside = out.beside()
    found: bytes | Unfit
    try:
        write(value, beside)
        found = bytes(beside)
    except Unfit as error:
        if error.certain:
            raise
        found = error
    out.tried[key] = value, found
    return found


def _chosen(value: Any, found: list[int], branches: list[dict[str, Json]]) -> int | None:
    """Which of the branches that take the value is meant; None where that cannot be told."""
    if len(found) == 1 or not all(_must_be_named(branches[at]) for at in found):
        return found[0]
    # Another record would come back with its defaults in it.
    whole = [at for at in found if isinstance(value, Mapping) and value.keys() == _fields(branches[at], value)]
    return whole[0] if len(whole) == 1 else None


def _fields(it: dict[str, Json], value: Mapping[Any, Any]) -> set[str]:
    return {one["name"] for one in it["fields"]} if it["type"] == "record" else set(value)


def _carrier(it: dict[str, Json]) -> str:
    """How a value is written that carries the name of its branch."""
    carrier = {"enum": "Symbol", "fixed": "Fixed"}.get(it["type"], "Branch")
    return f"pipeline.core.branches.{carrier}({it.get('name', it['type'])!r}, ...)"


def _must_be_named(it: dict[str, Json]) -> bool:
    """Whether a value that fits another branch too could come to mean something else; a Decimal carries no name."""
    return it["type"] in {"record", "map", "enum"} or (it["type"] == "fixed" and not logical_of(it))


# What values of a type are in Python as they are read.
_LOOKS: dict[str, tuple[type, ...]] = {
    "null": (type(None),), "boolean": (bool,), "int": (int,), "long": (int,), "float": (float,), "double": (float,),
    "string": (str, Symbol), "bytes": (bytes, Fixed), "fixed": (bytes, Fixed), "enum": (str, Symbol), "array": (list,),
    "map": (dict, Branch), "record": (dict, Branch), "string-uuid": (UUID,), "int-date": (date,),
    "int-time-millis": (time,), "long-time-micros": (time,), "bytes-decimal": (Decimal,), "fixed-decimal": (Decimal,),
    "long-timestamp-millis": (datetime,), "long-timestamp-micros": (datetime,),
    "long-local-timestamp-millis": (datetime,), "long-local-timestamp-micros": (datetime,),
}  # fmt: skip


def look_of(it: dict[str, Json]) -> tuple[type, ...]:
    """The Python types of a type's values as they are read."""
    return _LOOKS[logical_of(it) or it["type"]]


def _may_be(value: Any, look: tuple[type, ...]) -> bool:
    """Whether a value of no usual type may be taken as one all the same."""
    if isinstance(value, bool):
        return False
    if float in look or int in look:
        return isinstance(value, Real)
    if dict in look:
        return isinstance(value, (Mapping, BaseModel))
    return isinstance(value, (*look, bytearray, memoryview) if bytes in look else look)


def _array(write: Write) -> Write:
    def array(value: Any, out: Out) -> None:
        if not isinstance(value, list):
            raise other(value, "array", "give a list")
        if value:
            out += zigzag(len(value))
            for number, one in enumerate(value):
                try:
                    write(one, out)
                except Unfit as error:
                    raise error.at(f"[{number}]") from None
        out += b"\0"

    return array


def _map(write: Write) -> Write:
    def entries(value: Any, out: Out) -> None:
        if not isinstance(value, Mapping):
            raise other(value, "map", "give a dict")
        if value:
            out += zigzag(len(value))
            for key, one in value.items():
                try:
                    text(key, out)
                    write(one, out)
                except Unfit as error:
                    raise error.at(f"[{shown(key)}]") from None
        out += b"\0"

    return entries


def fields_of(model: BaseModel, names: Mapping[str, Any]) -> dict[str, Any]:
    """What a model says, by the names of these fields: its own, or the aliases that they have.

    What is read back into a model is what counts there: tuples are lists.
    """
    found = dict(model.__pydantic_extra__ or {})
    for name, info in type(model).model_fields.items():
        spelt = (one for one in (name, info.serialization_alias, info.alias) if one is not None and one in names)
        found[next(spelt, name)] = _listed(getattr(model, name))
    return found


def _listed(value: Any) -> Any:
    if type(value) is tuple or type(value) is list:
        return [_listed(one) for one in value]
    if type(value) is dict:
        return {key: _listed(one) for key, one in value.items()}
    return value
