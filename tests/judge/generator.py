"""Random schemas, versions of them, and data: the same for the same seed. Plain `random`, so that a case is named by a number."""

import string
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Context, Decimal
from random import Random
from typing import Any
from uuid import UUID

from pipeline.core.branches import Branch, Fixed, Symbol
from pipeline.serde.avro_schema import NAMED, Resolved, resolve
from pipeline.serde.logical_values import logical_of
from pipeline.serde.resolution import worn

Json = Any
PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
_DEPTH_MAX = 4
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LOCAL = _EPOCH.replace(tzinfo=None)
_MILLIS = (-62_135_596_800_000, 253_402_300_799_999)


class Schemas:
    """Makes schemas of one seed; names do not repeat within a schema."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._named: list[str] = []

    def event(self) -> dict[str, Json]:
        """A record of one to five fields, called `E`."""
        self._named = []
        return self._record("E", 1)

    def _name(self) -> str:
        return f"N{len(self._named)}_{self._random.randrange(100)}"

    def _record(self, name: str, depth: int) -> dict[str, Json]:
        fields = [
            {"name": letter, "type": self._type(depth + 1)}
            for letter in string.ascii_lowercase[: self._random.randint(1, 5 if depth == 1 else 3)]
        ]
        self._named.append(name)
        return {"type": "record", "name": name, "fields": fields}

    def _type(self, depth: int, *, union: bool = True) -> Json:  # noqa: PLR0911  # one for each kind
        choice = self._random.random()
        if depth >= _DEPTH_MAX or choice < 0.35:
            return self._random.choice(PRIMITIVES[1:])
        if choice < 0.55:
            return self._logical()
        if choice < 0.62:
            return {"type": "array", "items": self._type(depth + 1)}
        if choice < 0.68:
            return {"type": "map", "values": self._type(depth + 1)}
        if choice < 0.74:
            return self._enum()
        if choice < 0.78:
            return self._fixed()
        if choice < 0.86:
            if self._named and self._random.random() < 0.3:
                return self._random.choice(self._named)
            return self._record(self._name(), depth)
        return self._union(depth) if union else "string"

    def _union(self, depth: int) -> Json:
        branches: list[Json] = ["null"] if self._random.random() < 0.6 else []
        if self._random.random() < 0.25:
            # Two that look alike.
            fields = self._record(self._name(), depth + 1)["fields"]
            if not any(_has_name(field["type"]) for field in fields):
                branches += [self._renamed(fields), self._renamed(fields)]
        branches += [self._type(depth + 1, union=False) for _ in range(self._random.randint(1, 3))]
        kept: dict[str, Json] = {}
        for branch in branches:
            kept.setdefault(_kind(branch), branch)
        return list(kept.values())

    def _renamed(self, fields: list[dict[str, Json]]) -> dict[str, Json]:
        name = self._name()
        self._named.append(name)
        return {"type": "record", "name": name, "fields": [dict(field) for field in fields]}

    def _enum(self) -> dict[str, Json]:
        name = self._name()
        self._named.append(name)
        symbols = self._random.sample(string.ascii_uppercase[:8], self._random.randint(1, 5))
        return {"type": "enum", "name": name, "symbols": symbols}

    def _fixed(self) -> dict[str, Json]:
        name = self._name()
        self._named.append(name)
        return {"type": "fixed", "name": name, "size": self._random.choice((1, 2, 4, 12, 16))}

    def _logical(self) -> Json:
        kind, logical = self._random.choice(
            (
                ("bytes", "decimal"), ("fixed", "decimal"), ("string", "uuid"), ("int", "date"), ("int", "time-millis"),
                ("long", "time-micros"), ("long", "timestamp-millis"), ("long", "timestamp-micros"),
                ("long", "local-timestamp-millis"), ("long", "local-timestamp-micros"), ("long", "timestamp-nanos"),
            )
        )  # fmt: skip
        it: dict[str, Json] = self._fixed() if kind == "fixed" else {"type": kind}
        if logical == "decimal":
            most = 18 if kind == "bytes" else int((8 * it["size"] - 1) * 0.30103)
            precision = self._random.randint(1, max(1, most))
            it |= {"precision": precision, "scale": self._random.randint(0, precision)}
        return it | {"logicalType": logical}


def newer(random: Random, schema: Json) -> Json:
    """A version of the schema with a few changes, most of which its data can be read with."""
    changed = _changed(random, schema)
    if random.random() < 0.5:
        added = random.choice(
            (("string", "new"), ("int", 7), (["null", "string"], None), ({"type": "array", "items": "int"}, []),
             ({"type": "map", "values": "long"}, {"k": 1}), ("double", 1.5), ("bytes", "\u00ff"), ("boolean", True))
        )  # fmt: skip
        changed["fields"].insert(
            random.randint(0, len(changed["fields"])), {"name": "added", "type": added[0], "default": added[1]}
        )
    return changed


def _changed(random: Random, node: Json) -> Json:
    if isinstance(node, list):
        changed = [_changed(random, branch) for branch in node]
        branches = [old if isinstance(new, list) else new for old, new in zip(node, changed, strict=True)]
        if random.random() < 0.15:
            branches = [*branches, *(one for one in ("string", "long", "bytes") if one not in map(_kind, branches))][:4]
        if random.random() < 0.1:
            random.shuffle(branches)
        return branches
    if isinstance(node, str):
        return _promoted(random, node)
    it = dict(node)
    if it["type"] == "record":
        fields = [{**field, "type": _changed(random, field["type"])} for field in it["fields"]]
        if len(fields) > 1 and random.random() < 0.15:
            gone = random.randrange(len(fields))
            # What is defined there may be used by name later.
            if not _has_name(fields[gone]["type"]):
                del fields[gone]
        if random.random() < 0.15:
            renamed = random.choice(fields)
            renamed |= {"aliases": [renamed["name"]], "name": f"{renamed['name']}_new"}
        it["fields"] = fields
    elif it["type"] == "enum" and random.random() < 0.3:
        it["symbols"] = [*it["symbols"], "Z"]
        if random.random() < 0.5:
            it["symbols"], it["default"] = it["symbols"][1:], "Z"
    elif it["type"] in ("array", "map"):
        key = "items" if it["type"] == "array" else "values"
        it[key] = _changed(random, it[key])
    if it["type"] not in NAMED and "logicalType" not in it and it["type"] in PRIMITIVES:
        return _promoted(random, it["type"])
    return it


def _promoted(random: Random, kind: str) -> Json:
    wider = {
        "int": ("long", "float", "double"),
        "long": ("float", "double"),
        "float": ("double",),
        "string": ("bytes",),
    }
    if random.random() < 0.15 and kind in wider:
        return random.choice(wider[kind])
    if random.random() < 0.04 and kind in PRIMITIVES:
        return ["null", kind] if kind != "null" else kind
    return kind


def _has_name(node: Json) -> bool:
    if isinstance(node, list):
        return any(map(_has_name, node))
    if isinstance(node, str):
        return node not in PRIMITIVES
    return node["type"] in NAMED or any(_has_name(node[key]) for key in ("items", "values") if key in node)


def _kind(node: Json) -> str:
    if isinstance(node, str):
        return node
    return str(node.get("name") or node["type"])


class Data:
    """Makes data of one schema, as `AvroWriter.encode` takes them and `AvroReader.decode` gives them."""

    def __init__(self, random: Random, schema: Json) -> None:
        self._random = random
        self._resolved: Resolved = resolve(schema)

    def datum(self) -> dict[str, Any]:
        """One datum of the whole schema."""
        datum: dict[str, Any] = self._value(self._resolved.root)
        return datum

    def _value(self, node: Json) -> Any:
        it: Any = self._resolved.definition(node)
        if isinstance(it, list):
            branches = [self._resolved.definition(one) for one in it]
            at = self._random.randrange(len(branches))
            value, wear = self._value(branches[at]), worn(branches)[at]
            carrier: Callable[[str, Any], Any] = {"enum": Symbol, "fixed": Fixed}.get(branches[at]["type"], Branch)
            return carrier(wear, value) if wear else value
        kind = it["type"]
        if kind == "record":
            return {field["name"]: self._value(field["type"]) for field in it["fields"]}
        if kind == "array":
            return [self._value(it["items"]) for _ in range(self._random.choice((0, 1, 1, 3)))]
        if kind == "map":
            return {self._text()[:4]: self._value(it["values"]) for _ in range(self._random.choice((0, 1, 2)))}
        return self._logical(logical_of(it), it) if logical_of(it) else self._scalar(it)

    def _text(self) -> str:
        return "".join(self._random.choices('abc xyz 0_-äß€😀\x00"\\', k=self._random.choice((0, 1, 3, 70))))

    def _scalar(self, it: dict[str, Json]) -> Any:  # noqa: PLR0911  # one for each kind
        kind, random = it["type"], self._random
        if kind == "null":
            return None
        if kind == "boolean":
            return random.random() < 0.5
        if kind in ("int", "long"):
            bits = 31 if kind == "int" else 63
            return random.choice(
                (random.randint(-70, 70), random.randint(-(1 << bits), (1 << bits) - 1), (1 << bits) - 1, -(1 << bits))
            )
        if kind == "float":
            return random.choice((0.0, -1.5, 16777216.0, 3.4028234663852886e38, float(random.randint(-999, 999)) / 8))
        if kind == "double":
            return random.choice((0.0, 0.1, -1e300, random.random(), float(random.getrandbits(60))))
        if kind in ("bytes", "fixed"):
            return random.randbytes(int(it["size"]) if kind == "fixed" else random.choice((0, 1, 5, 70)))
        return random.choice(it["symbols"]) if kind == "enum" else self._text()

    def _logical(self, logical: str, it: dict[str, Json]) -> Any:
        random = self._random
        if logical.endswith("decimal"):
            most = 10 ** it["precision"] - 1
            digits = random.choice((0, 1, -1, most, -most, random.randint(-most, most)))
            return Decimal(digits).scaleb(-it.get("scale", 0), Context(prec=200))
        if logical == "string-uuid":
            return UUID(int=random.getrandbits(128))
        if logical == "int-date":
            return date.fromordinal(random.choice((1, 719_163, 3_652_059, random.randint(1, 3_652_059))))
        step = 1000 if logical.endswith("millis") else 1
        if "time-" in logical and "timestamp" not in logical:
            micros = random.choice((0, 86_399_999_000, random.randrange(86_400_000_000))) // step * step
            return time(
                micros // 3_600_000_000, micros // 60_000_000 % 60, micros // 1_000_000 % 60, micros % 1_000_000
            )
        after = timedelta(milliseconds=random.choice((0, -1, *_MILLIS, random.randint(*_MILLIS))))
        if step == 1:
            after += timedelta(microseconds=random.randrange(1000))
        return (_LOCAL if "local" in logical else _EPOCH) + after
