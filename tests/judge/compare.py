"""Our codec beside what Java says: where we take what Java refuses, or read another value, is a fault; where we are stricter,
it is by a rule that is written down (docs/reference/avro-types.md)."""

import json
from collections.abc import Iterator
from random import Random
from typing import Any, NamedTuple

from pipeline.errors import Invalid, Undecodable
from pipeline.serde.avro import AvroReader, AvroWriter
from pipeline.serde.avro_schema import resolve
from pipeline.serde.compatibility import check
from tests.judge.generator import Data, Schemas, newer

FRAME = b"\0\0\0\0\1"
# What we refuse and Java takes, by our own words.
STRICTER = (
    "UnicodeDecodeError", "UnicodeEncodeError", "a boolean that is neither", "more than", "a block size beyond the end",
    "a block of another size", "a key twice", "a count beyond the end", "a time of day outside", "OverflowError",
    "date value out of range", "ordinal must be", "ValueError: year", "badly formed hexadecimal UUID", "no bytes",
    "a value that the reader does not take", "union index", "enum index", "days=", "below zero", "a length beyond",
)  # fmt: skip
# Java's own fault: it counts an array's items by the reader's size for them.
JAVAS_FAULT = "Collection claims"


class Case(NamedTuple):
    """A writer's and a reader's schema, and data without frames; `sound` ones are as our own writer wrote them."""

    seed: int
    writer: Any
    reader: Any
    sound: list[bytes]
    bent: list[bytes]

    def as_json(self) -> dict[str, Any]:
        """What is kept of it."""
        data = {"sound": [one.hex() for one in self.sound], "bent": [one.hex() for one in self.bent]}
        return {"seed": self.seed, "writer": self.writer, "reader": self.reader, **data}

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> "Case":
        """The same case again."""
        sound, bent = ([bytes.fromhex(one) for one in kept[name]] for name in ("sound", "bent"))
        return cls(kept["seed"], kept["writer"], kept["reader"], sound, bent)


def cases(first: int, count: int, *, data: int = 5) -> Iterator[Case]:
    """One for each seed from `first` on, as far as its schema is sound."""
    for seed in range(first, first + count):
        random = Random(seed)
        writer = Schemas(random).event()
        reader = newer(random, writer) if random.random() < 0.7 else writer
        if resolve(writer).flaws or resolve(reader).flaws:
            continue
        encode, made = AvroWriter(writer, 1).encode, Data(random, writer)
        sound = [encode(made.datum())[len(FRAME) :] for _ in range(data)]
        yield Case(seed, writer, reader, sound, [_bent(random, one) for one in sound if one])


def _bent(random: Random, datum: bytes) -> bytes:
    bent = bytearray(datum)
    for _ in range(random.randint(1, 3)):
        bent[random.randrange(len(bent))] = random.choice((0, 1, 2, 3, 127, 128, 255, random.randrange(256)))
    return bytes(bent[: random.choice((len(bent), len(bent), len(bent), random.randrange(len(bent) + 1)))])


def disagreements(case: Case, said: Any) -> Iterator[str]:
    """What is a fault of ours in what we make of the case, given what Java said of it."""
    reads = AvroReader(case.reader, lambda _: json.dumps(case.writer))
    again = AvroReader(case.reader, lambda _: json.dumps(case.reader))
    encode = AvroWriter(case.reader, 1).encode
    if "error" in said:
        yield f"Java refuses the schema: {said['error']}"
        return
    breakages = check(case.reader, case.writer)
    passes = not breakages
    # Then ours is what the writer meant, Java's what the reader says.
    means_else = any(one.rule == "logical-type-changed" for one in breakages)
    for number, (datum, verdict) in enumerate(zip([*case.sound, *case.bent], said["data"], strict=True)):
        where = f"datum {number} {datum.hex()}"
        try:
            found = reads.decode(FRAME + datum)
        except Undecodable as error:
            sound = number < len(case.sound) and passes
            if not verdict.startswith("!") and (sound or not any(words in str(error) for words in STRICTER)):
                yield f"{where}: refused ({error}), Java reads {verdict}"
            continue
        if verdict.startswith("!"):
            if JAVAS_FAULT not in verdict:
                yield f"{where}: read as {found}, Java refuses: {verdict}"
            continue
        try:
            ours = encode(found)
        except Invalid as error:
            if passes:
                yield f"{where}: read as {found}, which is not written again: {error}"
            continue
        if verdict.startswith("?") or means_else:
            continue
        javas = FRAME + bytes.fromhex(verdict[1:])
        # The same value may be written in two ways: -128 in one byte or in two, 1.5 as float or as double.
        if ours != javas and _ordered(again.decode(javas)) != _ordered(again.decode(ours)):
            yield f"{where}: read as {found}, Java reads {again.decode(javas)}"


def _ordered(value: Any) -> str:
    """The value as text; a map has no order."""
    if isinstance(value, dict):
        name = getattr(value, "branch", "")
        return f"{name}{{{', '.join(sorted(f'{key!r}: {_ordered(one)}' for key, one in value.items()))}}}"
    return f"[{', '.join(map(_ordered, value))}]" if isinstance(value, list) else repr(value)
