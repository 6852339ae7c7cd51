"""Records that nobody should send: each ends in one letter with its bytes, and the record behind it is worked off.

Two workers meet almost all of them in one go, one on orders and one on an event with every kind of field, and each test
asks what became of its own record. The names count through the list of bad inputs, B1 to B52, so that a gap shows. Schemas
that no registry takes (B33), and what a producer must not write (B53 to B56), are in tests/unit/serde/test_avro.py.
"""

import ctypes
import json
import random
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import EllipsisType
from typing import Any

import pytest
from confluent_kafka import Producer, cimpl
from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient

from pipeline.core.record import Record
from pipeline.serde.avro import AvroReader
from pipeline.serde.wire import header
from tests.integration.conftest import ROOT, Ended, Pipe, order
from tests.integration.test_consume import DEAD_LETTER, letters, publish, stored

# The first test that needs them waits for the stack and for a worker.
pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("bad records")]

ORDER = json.loads((ROOT / "schemas/orders.v1-value/v1.avsc").read_text())
NUMBER = {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}
PARCEL = {
    "type": "record",
    "name": "ParcelMoved",
    "namespace": "shop.parcels",
    "fields": [
        {"name": "parcel_id", "type": "string"},
        {"name": "weight", "type": "int"},
        {"name": "price", "type": "double"},
        {"name": "quantity", "type": "int"},
        {"name": "fragile", "type": "boolean"},
        {"name": "carrier", "type": {"type": "enum", "name": "Carrier", "symbols": ["post", "bike", "van"]}},
        {"name": "note", "type": ["null", "string"]},
        {"name": "lines", "type": {"type": "array", "items": "int"}},
        {"name": "tags", "type": {"type": "map", "values": "string"}},
        {"name": "shipped", "type": {"type": "int", "logicalType": "date"}},
        {"name": "trace", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "value", "type": NUMBER},
        {"name": "seen", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    ],
}
HANDLER = """
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated
from uuid import UUID

import pydantic

from pipeline.core.record import Record


class ParcelMoved(pydantic.BaseModel):
    parcel_id: str
    weight: int
    price: Annotated[float, pydantic.Field(allow_inf_nan=False)]
    quantity: Annotated[int, pydantic.Field(ge=0)]
    fragile: bool
    carrier: str
    note: str | None
    lines: list[int]
    tags: dict[str, str]
    shipped: date
    trace: UUID
    value: Decimal
    seen: datetime


def handle(event: ParcelMoved, record: Record) -> None:
    with open("parcels.ndjson", "a") as file:
        file.write(event.model_dump_json() + "\\n")
"""


def number(value: int) -> bytes:
    """As Avro writes an int or a long."""
    left, written = value << 1 if value >= 0 else (-value << 1) - 1, b""
    while left > 127:
        written += bytes([left & 127 | 128])
        left >>= 7
    return written + bytes([left])


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return number(len(raw)) + raw


def an_order(**fields: bytes) -> bytes:
    """A good datum but for `fields`."""
    good = {
        "order_id": text("A-1"),
        "customer_id": text("C-1"),
        "amount": text(b"\x01\xf4"),
        "timestamp_utc": number(1_767_225_600_000),
    }
    assert fields.keys() <= good.keys()
    return b"".join((good | fields).values())


def a_parcel(**fields: bytes) -> bytes:
    good = {
        "parcel_id": text("P-1"),
        "weight": number(250),
        "price": struct.pack("<d", 4.5),
        "quantity": number(1),
        "fragile": b"\x01",
        "carrier": number(2),
        "note": number(1) + text("ring"),
        "lines": number(1) + number(7) + number(0),
        "tags": number(1) + text("k") + text("v") + number(0),
        "shipped": number(20_000),
        "trace": text("6f1ed002-ab5f-4d5c-8d1d-3f6c6f0a1b2c"),
        "value": text(b"\x01\xf4"),
        "seen": number(1_767_225_600_000),
    }
    assert fields.keys() <= good.keys()
    return b"".join((good | fields).values())


STORED = ("C-1", "5.00", "2026-01-01 00:00:00.000000")


@dataclass(frozen=True)
class Case:
    """A record, and what is to become of it: with a `reason` a letter that says so, without one it is handled.

    `schema` is whose id the frame has: a schema's name in `SCHEMAS`, a number, or None where `datum` is the whole value. A
    header's value that is text is a schema's name, too, and becomes its id.
    """

    name: str
    schema: str | int | None
    datum: bytes | None
    reason: str | None = "undecodable"
    says: str = ""
    key: bytes | EllipsisType | None = ...
    headers: Sequence[tuple[str, bytes | str | None]] = ()
    becomes: Any = STORED

    def record(self, ids: dict[str, int]) -> tuple[bytes | None, bytes | None, list[Any]]:
        key = self.name.encode() if isinstance(self.key, EllipsisType) else self.key
        headers = [(name, header(ids[value]) if isinstance(value, str) else value) for name, value in self.headers]
        if self.schema is None:
            return key, self.datum, headers
        assert self.datum is not None
        return key, header(self.schema if isinstance(self.schema, int) else ids[self.schema]) + self.datum, headers


# Bytes of one field that lie about themselves: read, and in a field that the reader skips (B22).
LYING_FIELDS = (
    ("B18-varint-of-11-bytes", {"seen": b"\x80" * 10 + b"\x01"}, "more than 64 bits"),
    ("B18-varint-of-500-bytes", {"seen": b"\x80" * 500 + b"\x01"}, "more than 64 bits"),
    ("B18-varint-of-70-bits", {"seen": b"\xff" * 9 + b"\x7f"}, "more than 64 bits"),
    ("B19-int-of-33-bits", {"weight": number(2**31)}, "more than 32 bits"),
    ("B19-int-of-6-bytes", {"weight": b"\x80" * 5 + b"\x01"}, "more than 32 bits"),
    ("B20-length-of-1-TB", {"parcel_id": number(2**40) + b"P"}, "a length beyond the end"),
    ("B20-length-of-4-EB", {"parcel_id": number(2**62) + b"P"}, "a length beyond the end"),
    ("B21-length-below-zero", {"parcel_id": number(-1)}, "a length below zero"),
    ("B21-length-below-zero-of-a-map-key", {"tags": number(1) + number(-1) + text("v") + number(0)}, "below zero"),
    ("B23-union-index-5", {"note": number(5)}, "a union index out of range"),
    ("B24-union-index-below-zero", {"note": number(-1) + text("ring")}, "a union index out of range"),
    ("B25-enum-index-below-zero", {"carrier": number(-1)}, "an enum index out of range"),
    ("B26-enum-index-9", {"carrier": number(9)}, "an enum index out of range"),
    ("B27-boolean-7", {"fragile": b"\x07"}, "a boolean that is neither 0 nor 1"),
    ("B28-array-of-1-TB", {"lines": number(2**40)}, "a count beyond the end"),
    ("B30-count-of-the-lowest-long", {"lines": number(-(2**63)) + number(1) + b"\x02\x00"}, "a count beyond the end"),
    ("B30-block-longer-than-the-record", {"lines": number(-1) + number(2**40) + b"\x02\x00"}, "a block size beyond"),
    ("B31-map-key-twice", {"tags": number(2) + (text("k") + text("v")) * 2 + number(0)}, "a key twice in one map"),
    ("B31-map-key-twice-in-two-blocks", {"tags": (number(1) + text("k") + text("v")) * 2 + number(0)}, "a key twice"),
    ("B40-decimal-of-5-digits-for-4", {"value": text(b"\x27\x10")}, "a decimal of more than 4 digits"),
)
NEGATIVE_BLOCKS = {
    "lines": number(-2) + number(2) + number(1) + number(2) + number(-1) + number(1) + number(3) + number(0),
    "tags": number(-1) + number(4) + text("k") + text("v") + number(0),
}
MOVED = {
    "parcel_id": "P-1",
    "weight": 250,
    "price": 4.5,
    "quantity": 1,
    "fragile": True,
    "carrier": "van",
    "note": "ring",
    "lines": [7],
    "tags": {"k": "v"},
    "shipped": "2024-10-04",
    "trace": "6f1ed002-ab5f-4d5c-8d1d-3f6c6f0a1b2c",
    "value": "5.00",
    "seen": "2026-01-01T00:00:00Z",
}
PARCELS = [
    *(Case(name, "parcel", a_parcel(**fields), says=says) for name, fields, says in LYING_FIELDS),
    Case("B15-byte-left-over", "parcel", a_parcel() + b"\x00", says="1 bytes are left over"),
    Case("B16-truncated-datum", "parcel", a_parcel()[:-2], says="The bytes end in the middle"),
    Case("B16-truncated-in-a-double", "parcel", a_parcel()[:9], says="The bytes end in the middle"),
    Case("B17-truncated-varint", "parcel", a_parcel(seen=b"\x80\x80"), says="in the middle of the datum"),
    Case(
        "B29-counts-below-zero",
        "parcel",
        a_parcel(parcel_id=text("B29-counts-below-zero"), **NEGATIVE_BLOCKS),
        None,
        becomes=MOVED | {"parcel_id": "B29-counts-below-zero", "lines": [1, 2, 3]},
    ),
    Case("B37-time-beyond-the-calendar", "parcel", a_parcel(seen=number(2**62)), says="OverflowError"),
    Case("B37-time-before-the-calendar", "parcel", a_parcel(seen=number(-(2**62))), says="OverflowError"),
    Case("B38-date-beyond-the-calendar", "parcel", a_parcel(shipped=number(2**30)), says="no datum of schema"),
    Case("B39-uuid-abc", "parcel", a_parcel(trace=text("abc")), says="badly formed hexadecimal UUID"),
    Case("B41-not-a-number", "parcel", a_parcel(price=struct.pack("<d", float("nan"))), "invalid", "price: "),
    Case("B41-infinite", "parcel", a_parcel(price=struct.pack("<d", float("inf"))), "invalid", "price: "),
    Case("B41-infinite-below-zero", "parcel", a_parcel(price=struct.pack("<d", float("-inf"))), "invalid", "price: "),
    Case("B42-quantity-below-zero", "parcel", a_parcel(quantity=number(-1)), "invalid", "quantity: "),
    Case("B43-no-utf-8-in-a-map", "parcel", a_parcel(tags=number(1) + text("k") + text(b"\xff") + number(0))),
    Case("B11-order-among-parcels", "order", an_order(), says="shop.orders.OrderPlaced, not shop.parcels.ParcelMoved"),
]


def grown(*fields: tuple[str, Any], **changes: Any) -> dict[str, Any]:
    """An order's schema with more fields behind."""
    return ORDER | {"fields": [*ORDER["fields"], *({"name": name, "type": of} for name, of in fields)]} | changes


def nested(levels: int) -> Any:
    of: Any = "int"
    for _ in range(levels):
        of = {"type": "array", "items": of}
    return of


EMPTY = {"type": "record", "name": "Nothing", "fields": []}
MONEY = {"type": "record", "name": "Money", "namespace": "shop", "fields": [{"name": "pennies", "type": "long"}]}
BRANCHES = [{"type": "fixed", "name": f"F{each}", "size": 1} for each in range(3000)]
# The writers' schemas, each registered as it stands under a subject of its own.
SCHEMAS: dict[str, Any] = {
    "order": ORDER,
    "Money": MONEY,
    "skipping": grown(*((each["name"], each["type"]) for each in PARCEL["fields"])),
    "billing": ORDER | {"name": "InvoicePaid", "namespace": "shop.billing"},
    "namespace": ORDER | {"namespace": "shop.archive"},
    "array of nulls": grown(("nothing", {"type": "array", "items": "null"})),
    "array of empty records": grown(("nothing", {"type": "array", "items": EMPTY})),
    "recursive": grown(("next", ["null", "OrderPlaced"])),
    "nested 30 deep": grown(("deep", nested(30))),
    "nested 600 deep": grown(("deep", nested(600))),
    "many branches": grown(("branch", BRANCHES)),
    "no Unicode": grown(("odd", {"type": "string", "logicalType": ["\ud800"]})),
    "large": grown(doc="x" * 5_000_000),
    "reference": grown(("paid", "shop.Money")),
    "JSON": {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"},
    "PROTOBUF": 'syntax = "proto3"; package shop; message OrderPlaced { string order_id = 1; }',
}
# What cannot be compressed: the letter is as large on the broker as it looks.
NOISE = random.Random(1).randbytes(990_000)
UNKNOWN, FLOOD = 2**31 - 5, range(10**9, 10**9 + 150)


def odd(name: str, **more: Any) -> Case:
    """An order that looks bad, and is stored all the same."""
    return Case(name, "order", an_order(order_id=text(name)), None, **more)


UNKNOWN_SCHEMAS = [
    Case("B8-unknown-id", UNKNOWN, an_order(), "schema_unknown", f"has no schema {UNKNOWN}"),
    Case("B9-highest-id", 2**31 - 1, an_order(), "schema_unknown", "has no schema 2147483647"),
    Case("B9-id-zero", 0, an_order(), "schema_unknown", "has no schema 0"),
    Case("B36-schema-is-json-schema", "JSON", an_order(), "schema_unknown", "is JSON, not Avro"),
    Case("B36-schema-is-protobuf", "PROTOBUF", an_order(), "schema_unknown", "is PROTOBUF, not Avro"),
    *(Case(f"B10-flood-{each}", each, an_order(), "schema_unknown", f"no schema {each}") for each in FLOOD),
    *(Case(f"B10-flood-{each}-again", each, an_order(), "schema_unknown", f"no schema {each}") for each in FLOOD),
]
ORDERS = [
    Case("B1-tombstone", None, None, says="a tombstone"),
    Case("B2-empty", None, b"", says="0 bytes are too few"),
    *(Case(f"B3-{size}-bytes", None, b"\x00" * size, says=f"{size} bytes are too few") for size in range(1, 5)),
    # An event without fields takes no byte, so that this is one of a schema that nobody has.
    Case("B3-5-bytes", None, b"\x00" * 5, "schema_unknown", "has no schema 0"),
    Case("B4-magic-byte-7f", None, b"\x7f\x00\x00\x00\x01" + an_order(), says="The first byte is 0x7f"),
    Case("B5-json", None, b'{"order_id": "A-1", "customer_id": "C-1"}', says="The first byte is 0x7b"),
    Case("B6-short-guid", None, b"\x01" + b"\xab" * 8, says="The first byte is 0x01"),
    Case("B7-unknown-guid", None, b"\x01" + b"\xab" * 16 + an_order(), says="The first byte is 0x01"),
    Case("B9-id-of-32-bits", 2**32 - 1, an_order(), says="Schema id 4294967295 is above"),
    Case("B9-id-one-too-high", 2**31, an_order(), says="Schema id 2147483648 is above"),
    Case("B11-same-shape-of-another-subject", "billing", an_order(), says="shop.billing.InvoicePaid, not shop.orders."),
    Case("B11-same-name-elsewhere", "namespace", an_order(), says="shop.archive.OrderPlaced, not shop.orders."),
    odd("B12-header-with-junk-for-an-id", headers=[("__value_schema_id", b"\xff junk")]),
    odd("B13-header-with-another-id", headers=[("__value_schema_id", "billing"), ("x", b"")]),
    Case("B13-right-id-in-the-header-only", "billing", an_order(), headers=[("__value_schema_id", "order")]),
    odd("B14-header-twice", headers=[("__value_schema_id", "billing"), ("__value_schema_id", "order")]),
    Case("B15-byte-left-over", "order", an_order() + b"\x00", says="1 bytes are left over"),
    Case("B15-record-left-over", "order", an_order() * 2, says="bytes are left over"),
    Case("B16-truncated-datum", "order", an_order()[:-2], says="The bytes end in the middle"),
    Case("B16-truncated-in-a-string", "order", an_order()[:3], says="a length beyond the end"),
    Case("B17-truncated-varint", "order", an_order(timestamp_utc=b"\x80\x80\x80"), says="in the middle of the datum"),
    *(
        Case(f"B22-skipped-{name}", "skipping", an_order() + a_parcel(**fields), says=says)
        for name, fields, says in LYING_FIELDS
    ),
    Case("B22-skipped-B16-truncated", "skipping", an_order() + a_parcel()[:-2], says="The bytes end in the middle"),
    Case(
        "B29-counts-below-zero-are-skipped",
        "skipping",
        an_order(order_id=text("B29-counts-below-zero-are-skipped")) + a_parcel(**NEGATIVE_BLOCKS),
        None,
    ),
    Case("B28-null-a-trillion-times", "array of nulls", an_order() + number(2**40) + b"\x00", says="zero-width-items"),
    Case("B28-nothing-a-trillion-times", "array of empty records", an_order() + number(2**40), says="zero-width-items"),
    Case("B32-datum-nested-5000-deep", "recursive", (an_order() + number(1)) * 5000 + b"\x00", says="recursive-schema"),
    Case("B33-schema-nested-600-deep", "nested 600 deep", an_order() + b"\x00", says="nested-too-deep"),
    Case(
        "B33-schema-nested-30-deep",
        "nested 30 deep",
        an_order(order_id=text("B33-schema-nested-30-deep")) + number(1) * 30 + number(7) + number(0) * 30,
        None,
    ),
    Case("B33-union-of-3000-branches", "many branches", an_order() + number(0) + b"x", says="RecursionError"),
    Case("B33-schema-with-a-lone-surrogate", "no Unicode", an_order() + text("x"), says="\\ud800"),
    Case("B34-schema-of-5-MB", "large", an_order(), says="more than 1048576"),
    Case("B35-schema-with-a-reference", "reference", an_order() + number(1), says="unknown-type: shop.Money"),
    Case("B37-time-beyond-the-calendar", "order", an_order(timestamp_utc=number(2**62)), says="OverflowError"),
    Case("B40-amount-of-24-digits", "order", an_order(amount=text(b"\x55" * 10)), says="a decimal of more than 18"),
    Case("B42-amount-below-zero", "order", an_order(amount=text(b"\xff")), "rejected", "amount -0.01 is not above zero"),
    Case("B42-amount-of-nothing", "order", an_order(amount=text(b"")), says="a decimal of no bytes"),
    Case("B43-no-utf-8", "order", an_order(customer_id=text(b"C\xc3(")), says="UnicodeDecodeError"),
    Case("B44-lone-surrogate", "order", an_order(order_id=text(b"\xed\xa0\x80")), says="UnicodeDecodeError"),
    Case("B45-blank-customer", "order", an_order(customer_id=text(" \t ")), "invalid", "customer_id: "),
    Case(
        "B45-nul-and-right-to-left",
        "order",
        an_order(order_id=text("B45-nul-and-right-to-left"), customer_id=text("a\0b\u202e\u2066c")),
        "invalid",
        "customer_id: ",
    ),
    odd("B48-no-key", key=None),
    Case("B48-no-key-and-no-value", None, None, says="a tombstone", key=None),
    odd("B49-empty-key", key=b""),
    Case("B49-empty-key-and-no-frame", None, b"x", says="1 bytes are too few", key=b""),
    odd("B50-key-of-another-schema", key=b"\x00\x7f\xff\xff\xff\xfe\xff"),
    Case("B50-key-of-no-text-and-no-frame", None, b"y", says="1 bytes are too few", key=b"\x00\xff\xfe"),
    Case("B51-1000-headers", None, b"z", headers=[(f"h{each}", b"%d" % each) for each in range(1000)]),
    odd("B51-1000-headers-of-a-good-order", headers=[("h", b"%d" % each) for each in range(1000)]),
    Case("B51-headers-null-and-no-text", None, b"z", headers=[("n", None), ("b", b"\xff\xfe\x00"), ("", b""), ("n", b"1")]),
    Case(
        "B51-forged-headers",
        None,
        b"z",
        headers=[
            ("source-topic", b"bank"), ("source-offset", b"0"), ("error", b"none"), ("__connect.errors.offset", b"0"),
            ("__connect.errors.other", b"x"), ("dlq.reason", b"none"), ("redrive-count", b"99"),
        ],
    ),
    Case("B51-headers-of-900-kB", None, b"z", headers=[(f"h{each}", NOISE[: 100_000 + each]) for each in range(9)]),
    Case("B46-string-of-900-kB", "order", an_order(order_id=text("x" * 900_000)), "invalid", "order_id: "),
    Case("B46-noise-of-990-kB", None, b"\x01" + NOISE, says="The first byte is 0x01"),
]  # fmt: skip
IN_A_TRANSACTION = Case("B52-left-over-in-a-transaction", "order", an_order() + b"\x00", says="1 bytes are left over")


@dataclass
class Run:
    """What one worker made of the cases, each with a good record behind it."""

    ended: Ended
    lag: int
    records: dict[str, Record]
    handled: dict[str, Any]
    letters: dict[int, list[tuple[Record, dict[str, Any]]]] = field(default_factory=lambda: defaultdict(list))


def behind(name: str) -> str:
    return f"behind {name}"


def with_good_ones(cases: Sequence[Case], ids: dict[str, int], good: Callable[[str], bytes]) -> list[tuple[str, Any]]:
    """Name and record of each case and of the good one behind it."""
    sent = []
    for case in cases:
        sent.append((case.name, case.record(ids)))
        sent.append((behind(case.name), (behind(case.name).encode(), good(behind(case.name)), [])))
    return sent


def work_off(pipe: Pipe, sent: list[tuple[str, Any]], handled: Callable[[], dict[str, Any]], *arguments: str) -> Run:
    """Run one worker on what was sent, and find each record again by its place."""
    found = pipe.records(pipe.topic)
    for (name, (key, value, headers)), record in zip(sent, found, strict=True):
        assert (record.key, record.value, list(record.headers)) == (key, value, headers), name
    records = {name: record for (name, _), record in zip(sent, found, strict=True)}
    assert len(records) == len(sent)
    ended = pipe.run("consume", "--until-end", "--json", *arguments)
    run = Run(ended, pipe.lag(), records, handled())
    reader = AvroReader(DEAD_LETTER, lambda _: json.dumps(DEAD_LETTER))
    for copy in pipe.records(pipe.dead_letter_topic):
        letter = reader.decode(copy.value)
        run.letters[letter["source_offset"]].append((copy, letter))
    return run


@contextmanager
def registered(pipe: Pipe, schemas: dict[str, Any]) -> Iterator[dict[str, int]]:
    """The ids of the schemas, by the names that the cases call them; gone afterwards, for others list all subjects."""
    money = SchemaReference("shop.Money", f"{pipe.topic}-Money", 1)
    ids = {}
    with SchemaRegistryClient({"url": pipe.registry_url}) as client:
        for name, of in schemas.items():
            kind = name if name in ("JSON", "PROTOBUF") else "AVRO"
            written = Schema(
                of if isinstance(of, str) else json.dumps(of), kind, [money] if name == "reference" else []
            )
            ids[name] = client.register_schema(subject(pipe, name), written)
        yield ids
        for name in schemas.keys() - {"Money"}:  # what was once referred to is not let go
            client.delete_subject(subject(pipe, name))


def subject(pipe: Pipe, name: str) -> str:
    return f"{pipe.topic}-{name.replace(' ', '-')}"


@pytest.fixture(scope="module")
def new_pipe(stack: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Pipe]]:
    """Pipelines that many tests share."""
    pipes: list[Pipe] = []

    def new() -> Pipe:
        pipes.append(Pipe(stack.bootstrap_servers, stack.registry_url, tmp_path_factory.mktemp("bad")))
        pipes[-1].create_topics()
        return pipes[-1]

    yield new
    for pipe in pipes:
        pipe.stop_all()


@pytest.fixture(scope="module")
def orders(new_pipe: Callable[[], Pipe]) -> Run:
    """A worker on orders, with the flood of unknown schemas in front, so that it waits for all of them at once."""
    pipe = new_pipe()
    pipe.register_schemas()
    with registered(pipe, SCHEMAS) as ids:

        def good(name: str) -> bytes:
            return header(ids["order"]) + an_order(order_id=text(name))

        sent = [(case.name, case.record(ids)) for case in UNKNOWN_SCHEMAS]
        sent += [(behind("the unknown schemas"), (b"k", good(behind("the unknown schemas")), []))]
        sent += with_good_ones(ORDERS, ids, good)
        publish(pipe, *(record for _, record in sent))
        # Markers and aborted records take offsets too, between the records and behind the last one.
        in_a_transaction = with_good_ones([IN_A_TRANSACTION], ids, good)
        aborted = [(b"aborted", b"no frame", []), (b"aborted", good("aborted"), [])]
        publish_in_transactions(
            pipe, (False, aborted), (True, [each for _, each in in_a_transaction]), (False, aborted)
        )
        return work_off(pipe, sent + in_a_transaction, lambda: dict(stored(pipe)))


def publish_in_transactions(pipe: Pipe, *transactions: tuple[bool, list[Any]]) -> None:
    """Each is committed or aborted."""
    producer = Producer({"bootstrap.servers": pipe.bootstrap_servers, "transactional.id": pipe.topic})
    producer.init_transactions(30)
    for commit, records in transactions:
        producer.begin_transaction()
        for key, value, headers in records:
            producer.produce(pipe.topic, value, key, 0, headers=headers)
        assert producer.flush(30) == 0
        (producer.commit_transaction if commit else producer.abort_transaction)(30)
    producer.close()


@pytest.fixture(scope="module")
def parcels(new_pipe: Callable[[], Pipe]) -> Run:
    """A worker on another event type."""
    pipe = new_pipe()
    (pipe.schemas / f"{pipe.topic}-value/v1.avsc").write_text(json.dumps(PARCEL))
    pipe.register_schemas()
    (pipe.home / "shop_parcels.py").write_text(HANDLER)

    def handled() -> dict[str, Any]:
        written = pipe.home / "parcels.ndjson"
        rows = [json.loads(line) for line in written.read_text().splitlines()] if written.exists() else []
        assert len(rows) == len({row["parcel_id"] for row in rows})
        return {row["parcel_id"]: row for row in rows}

    with registered(pipe, {"parcel": PARCEL, "order": ORDER}) as ids:

        def good(name: str) -> bytes:
            return header(ids["parcel"]) + a_parcel(parcel_id=text(name))

        sent = with_good_ones(PARCELS, ids, good)
        publish(pipe, *(record for _, record in sent))
        return work_off(pipe, sent, handled, "--handler", "shop_parcels:handle")


def given_up(*cases: Case) -> list[Any]:
    return [pytest.param(case, id=case.name) for case in cases if case.reason is not None]


def accepted(*cases: Case) -> list[Any]:
    return [pytest.param(case, id=case.name) for case in cases if case.reason is None]


def check_letter(run: Run, case: Case) -> None:
    """Exactly one letter, which holds the record as it was; and the record is nowhere else."""
    record = run.records[case.name]
    assert len(run.letters.get(record.offset, ())) == 1, run.ended.stderr
    [(copy, letter)] = run.letters[record.offset]
    assert (letter["key"], letter["value"]) == (record.key, record.value)
    assert [(each["name"], each["value"]) for each in letter["headers"]] == list(record.headers)
    assert (letter["source_topic"], letter["source_partition"]) == (record.topic, record.partition)
    assert letter["reason"] == case.reason, letter["error"]
    assert case.says in letter["error"]
    assert (copy.key, copy.partition) == (record.key, record.partition)
    said = dict(copy.headers)
    for name, value in (("topic", record.topic), ("offset", record.offset)):
        assert said[f"source-{name}"] == said[f"__connect.errors.{name}"] == str(value).encode()
        assert [each for each, _ in copy.headers].count(f"source-{name}") == 1
    assert case.name not in run.handled


@pytest.mark.parametrize("case", given_up(*ORDERS, IN_A_TRANSACTION))
def test_bad_order_ends_in_one_letter_and_the_order_behind_it_is_stored(orders: Run, case: Case) -> None:
    check_letter(orders, case)
    assert orders.records[behind(case.name)].offset == orders.records[case.name].offset + 1
    assert orders.handled[behind(case.name)] == STORED


@pytest.mark.parametrize("case", accepted(*ORDERS))
def test_odd_order_is_stored_and_is_no_letter(orders: Run, case: Case) -> None:
    assert orders.handled[case.name] == case.becomes
    assert orders.records[case.name].offset not in orders.letters
    assert orders.handled[behind(case.name)] == STORED


@pytest.mark.parametrize("case", given_up(*UNKNOWN_SCHEMAS[:5]))
def test_order_of_an_unusable_schema_ends_in_one_letter(orders: Run, case: Case) -> None:
    check_letter(orders, case)


def test_flood_of_unknown_schemas_ends_as_letters_in_the_same_run(orders: Run) -> None:
    """Were they waited for one after the other, each for its ten seconds, the worker would not end in time."""
    for case in UNKNOWN_SCHEMAS:
        check_letter(orders, case)
    assert orders.handled[behind("the unknown schemas")] == STORED


def test_aborted_records_are_neither_stored_nor_letters(orders: Run) -> None:
    assert "aborted" not in orders.handled
    assert b"aborted" not in {copy.key for kept in orders.letters.values() for copy, _ in kept}


def test_worker_on_bad_orders_lives_to_the_end_and_leaves_no_lag(orders: Run) -> None:
    cases = [*UNKNOWN_SCHEMAS, *ORDERS, IN_A_TRANSACTION]
    bad = sum(case.reason is not None for case in cases)
    handled = len(ORDERS) + 2 + len(accepted(*ORDERS))
    assert orders.ended.code == 0, orders.ended.stderr
    assert orders.ended.json.items() >= {
        "consumed": bad + handled, "handled": handled, "dead_lettered": bad, "committed": bad + handled,
    }.items()  # fmt: skip
    assert (len(orders.letters), len(orders.handled), orders.lag) == (bad, handled, 0)


@pytest.mark.parametrize("case", given_up(*PARCELS))
def test_bad_parcel_ends_in_one_letter_and_the_parcel_behind_it_is_handled(parcels: Run, case: Case) -> None:
    check_letter(parcels, case)
    assert parcels.records[behind(case.name)].offset == parcels.records[case.name].offset + 1
    assert parcels.handled[behind(case.name)] == MOVED | {"parcel_id": behind(case.name)}


@pytest.mark.parametrize("case", accepted(*PARCELS))
def test_odd_parcel_is_handled_and_is_no_letter(parcels: Run, case: Case) -> None:
    assert parcels.handled[case.name] == case.becomes
    assert parcels.records[case.name].offset not in parcels.letters
    assert parcels.handled[behind(case.name)] == MOVED | {"parcel_id": behind(case.name)}


def test_worker_on_bad_parcels_lives_to_the_end_and_leaves_no_lag(parcels: Run) -> None:
    bad, handled = len(given_up(*PARCELS)), len(PARCELS) + len(accepted(*PARCELS))
    assert parcels.ended.code == 0, parcels.ended.stderr
    assert (parcels.ended.json["dead_lettered"], parcels.ended.json["handled"]) == (bad, handled)
    assert (len(parcels.letters), len(parcels.handled), parcels.lag) == (bad, handled, 0)


def publish_compressed(pipe: Pipe, *records: tuple[bytes, bytes]) -> None:
    """All in one batch, whose size on the broker is what is left of it after gzip."""
    producer = Producer(
        {
            "bootstrap.servers": pipe.bootstrap_servers, "compression.type": "gzip", "message.max.bytes": 10**9,
            "batch.size": 10**9, "linger.ms": 1000,
        }
    )  # fmt: skip
    for key, value in records:
        producer.produce(pipe.topic, value, key, 0)
    assert producer.flush(30) == 0
    producer.close()


def test_batch_that_grows_a_thousandfold_ends_as_letters(pipe: Pipe) -> None:
    """B47: 32 MB of zeros take 35 kB on the wire and in the topic."""
    publish_compressed(pipe, *((b"%d" % each, b"\x01" + bytes(2**19)) for each in range(64)))
    pipe.produce([order(1)])
    ended = pipe.run("consume", "--until-end", "--json")
    assert ended.code == 0, ended.stderr
    assert (ended.json["dead_lettered"], ended.json["handled"], pipe.lag()) == (64, 1, 0)
    found = letters(pipe)
    assert {letter["key"] for letter in found} == {b"%d" % each for each in range(64)}
    assert {letter["value"] for letter in found} == {b"\x01" + bytes(2**19)}
    assert set(stored(pipe)) == {"A-1"}


def test_record_of_10_mb_that_fits_compressed_ends_as_a_letter(pipe: Pipe) -> None:
    """B46: the topic takes 1 MB, and so it takes ten compressed to 10 kB; its letter is as large."""
    large = b"\x01" + b"x" * 10_000_000
    publish_compressed(pipe, (b"large", large))
    pipe.produce([order(1)])
    ended = pipe.run("consume", "--until-end", "--json")
    assert ended.code == 0, ended.stderr
    assert [(letter["key"], letter["value"]) for letter in letters(pipe)] == [(b"large", large)]
    assert (set(stored(pipe)), pipe.lag()) == ({"A-1"}, 0)


class Argument(ctypes.Structure):
    """`rd_kafka_vu_t`: a tag, and a value of up to 64 bytes."""

    _fields_ = (("tag", ctypes.c_int), ("value", ctypes.c_void_p * 8))


def publish_with_header_name(pipe: Pipe, name: bytes) -> None:
    """By the library itself: its Python binding writes names that are text."""
    library, error = ctypes.CDLL(cimpl.__file__), ctypes.create_string_buffer(512)
    for function in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_produceva"):
        getattr(library, function).restype = ctypes.c_void_p
    properties = ctypes.c_void_p(library.rd_kafka_conf_new())
    library.rd_kafka_conf_set(properties, b"bootstrap.servers", pipe.bootstrap_servers.encode(), error, 512)
    producer = ctypes.c_void_p(library.rd_kafka_new(0, properties, error, 512))
    topic, value, key, name = (
        ctypes.create_string_buffer(it) for it in (pipe.topic.encode(), b"no frame", b"odd", name)
    )
    arguments = (
        (1, ctypes.addressof(topic)),
        (3, 0),  # the partition
        (4, ctypes.addressof(value), len(value) - 1),
        (5, ctypes.addressof(key), len(key) - 1),
        (7, 2),  # copy the value
        (9, ctypes.addressof(name), ctypes.addressof(value), 1),  # a header
    )
    array = (Argument * len(arguments))(*((tag, (ctypes.c_void_p * 8)(*words)) for tag, *words in arguments))
    assert library.rd_kafka_produceva(producer, array, ctypes.c_size_t(len(array))) is None
    assert library.rd_kafka_flush(producer, 30_000) == 0
    library.rd_kafka_destroy(producer)


def test_header_whose_name_is_no_text_does_not_end_the_worker(pipe: Pipe) -> None:
    """B51."""
    publish_with_header_name(pipe, b"\xff\xfe")
    try:
        pipe.produce([order(1)])
        ended = pipe.run("consume", "--until-end", "--json")
        assert ended.code == 0, ended.stderr
        assert [(letter["key"], letter["value"]) for letter in letters(pipe)] == [(b"odd", b"no frame")]
        assert (set(stored(pipe)), pipe.lag()) == ({"A-1"}, 0)
    finally:
        # Others list all groups, and look at the oldest record that each has left.
        pipe.delete_topic(pipe.topic)
