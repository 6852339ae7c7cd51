"""How much a schema asks of whoever reads by it: bounded, because a few bytes of schema can ask for ever.

Named types used twice on each of thirty levels are a thousand bytes of schema and 2³⁰ places to look at, for a datum of no
byte. So what counts is a type's size once every name is written out, and the places of an item that take no bytes of data.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

Json = Any

# Fields, items, branches and values, every name written out. Real schemas have some hundreds, the largest some thousands.
PLACES_MAX = 10_000
# An item may have so many places without a byte of their own, nulls and records, for each byte that it takes.
IDLE_PER_BYTE = 5
# A length and a letter or two: no two keys of a map are the same.
_KEY_BYTES = 2
_FIXED_WIDTH = {"null": 0, "float": 4, "double": 8}
_SYMBOLS_PER_PLACE = 100


class Weight(NamedTuple):
    """`places` to get ready for; the most of them that one datum visits without a byte of their own; its fewest bytes."""

    places: int
    idle: int
    least: int

    def is_lazy(self, *, key: bool) -> bool:
        """Whether many of these in a row, each with a key or without, cost far more than the bytes they are written in."""
        return self.idle > IDLE_PER_BYTE * (self.least + (_KEY_BYTES if key else 0))


class Scale:
    """Weighs the types of one resolved schema, each named one once, when it is defined."""

    def __init__(self) -> None:
        self._named: dict[str, Weight] = {}

    def weigh(self, node: Json) -> Weight:
        """The weight of a type whose parts were weighed before, where they are named."""
        if isinstance(node, str):
            return self._named.get(node) or _plain(node, node)
        if isinstance(node, list):
            return _union([self.weigh(branch) for branch in node])
        if "name" in node and node["name"] in self._named:
            return self._named[node["name"]]
        weight = self._weigh(node, node["type"])
        if "name" in node:
            self._named[node["name"]] = weight
        return weight

    def _weigh(self, node: Mapping[str, Json], kind: str) -> Weight:
        if kind == "record":
            return _record([self.weigh(field["type"]) for field in node["fields"]])
        if kind == "array":
            # Its end is one byte; its items are there only where there are bytes for them.
            return Weight(1 + self.weigh(node["items"]).places, 0, 1)
        if kind == "map":
            return Weight(1 + self.weigh(node["values"]).places, 0, 1)
        return _plain(node, kind)


def _plain(node: Json, kind: str) -> Weight:
    if kind == "fixed":
        return Weight(1, int(node["size"] == 0), int(node["size"]))
    if kind == "enum":
        return Weight(1 + len(node["symbols"]) // _SYMBOLS_PER_PLACE, 0, 1)
    return Weight(1, int(kind == "null"), _FIXED_WIDTH.get(kind, 1))


def _record(fields: list[Weight]) -> Weight:
    places, idle, least = (sum(of) for of in zip(Weight(1, 1, 0), *fields, strict=True))
    return Weight(places, idle, least)


def _union(branches: list[Weight]) -> Weight:
    # The branch's number is a byte, which null and other single places are paid with.
    idle = max(max(0, one.idle - 1) for one in branches)
    return Weight(1 + sum(one.places for one in branches), idle, 1 + min(one.least for one in branches))
