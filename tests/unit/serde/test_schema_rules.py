"""The gate agrees with the readers and the registry: what Avro Java 1.12.2 does and Apicurio 3.3.3 said is written here."""

import json

import pytest

from pipeline.serde.avro import AvroReader, AvroWriter
from pipeline.serde.avro_schema import as_written, resolve
from pipeline.serde.compatibility import check, check_backward_transitive
from pipeline.serde.fastavro_schema import for_fastavro


def event(*fields, **more):
    return {"type": "record", "name": "E", "namespace": "s", "fields": list(fields), **more}


def field(of, name="a", **more):
    return {"name": name, "type": of, **more}


def just(of, **more):
    return event(field(of, **more))


def logical(kind, name, **more):
    return {"type": kind, "logicalType": name, **more}


def decimal(precision, scale=0):
    return logical("bytes", "decimal", precision=precision, scale=scale)


def fixed(size=1, name="F", **more):
    return {"type": "fixed", "name": name, "size": size, **more}


def enum(*symbols, name="G", **more):
    return {"type": "enum", "name": name, "symbols": list(symbols), **more}


def record(name, *fields, **more):
    return {"type": "record", "name": name, "fields": list(fields), **more}


def rules(schema):
    return [one.rule for one in resolve(schema).flaws]


# --- aliases

ALIASES = {
    "of the event": just(enum("X", "Y", aliases=["E"], default="Y")),
    "of another branch": just(
        ["null", record("B", field("int")), record("C", field("int", "c", aliases=["a"]), aliases=["B"])]
    ),
    "of a type defined later": event(field(fixed(aliases=["s.H"])), field(fixed(name="H"), "b")),
    "of two types": event(field(fixed(aliases=["Old"])), field(enum("X", aliases=["s.Old"]), "b")),
    "of the event, an alias of another": event(field(fixed(aliases=["Old"])), aliases=["Old"]),
}


@pytest.mark.parametrize("case", ALIASES)
def test_alias_that_is_another_types_name_or_alias_is_refused(case):
    [flaw] = resolve(ALIASES[case]).flaws
    assert flaw.rule == "alias-taken"
    assert flaw.path.startswith("E.a") or flaw.path == "E.b"
    assert "readers differ" in flaw.reason


@pytest.mark.parametrize(
    "schema",
    [
        event(field("int", aliases=["b", "b"]), aliases=["E", "Old", "Old"]),
        event(field(fixed(aliases=["other.H"])), field(fixed(name="H"), "b")),
        event(field("int", aliases=["E"])),
    ],
    ids=["twice in one list", "another namespace", "a field's"],
)
def test_alias_that_is_nobody_elses_is_taken(schema):
    assert resolve(schema).flaws == ()


def test_type_that_would_read_two_older_types_in_one_is_refused():
    old = event(field(["null", record("B", field("int")), record("C", field("int"))]))
    new = event(field(["null", record("B", field("int"), aliases=["C"])]))
    assert {one.rule for one in check(new, old)} == {"alias-ambiguous"}


# --- defaults

NO_VALUES = [
    (decimal(1), "\u007f"),
    (decimal(2), "\u009c"),
    (decimal(5), ""),
    (fixed(3, logicalType="decimal", precision=2, scale=1), "L\u00ef\u00ff"),
    (logical("int", "date"), 2_932_897),
    (logical("int", "date"), -719_163),
    (logical("int", "time-millis"), 86_400_000),
    (logical("int", "time-millis"), -1),
    (logical("long", "time-micros"), 86_400_000_000),
    (logical("long", "time-micros"), -1),
    (logical("long", "timestamp-millis"), 253_402_300_800_000),
    (logical("long", "timestamp-millis"), -62_135_596_800_001),
    (logical("long", "timestamp-micros"), 253_402_300_800_000_000),
    (logical("long", "local-timestamp-millis"), 253_402_300_800_000),
    (logical("long", "local-timestamp-micros"), 253_402_300_800_000_000),
    (logical("string", "uuid"), "x"),
    (logical("string", "uuid"), ""),
    (logical("string", "uuid"), " 23e45670-e89b-12d3-a456-42661417400"),
    (logical("string", "uuid"), "23e456701e89b-12d3-a456-426614174000"),
    (logical("string", "uuid"), "12_e4567-e89b-12d3-a456-426614174000"),
    (logical("string", "uuid"), "urn:uuid:23e45670-e89b-12d3-a456-426614174000"),
    ("string", "\ud800"),
    ({"type": "map", "values": "int"}, {"\udfff": 1}),
    ("float", 1e39),
    ("double", float("inf")),
    ("double", 10**20),
    ("double", 10**400),
    ("float", 10**400),
]
VALUES = [
    (decimal(2), "c"),
    (decimal(2), "\u009d"),
    (decimal(2), "\x00" * 40 + "c"),
    (fixed(3, logicalType="decimal", precision=6), "\u000f\u0042\u003f"),
    (logical("int", "date"), 2_932_896),
    (logical("int", "date"), -719_162),
    (logical("int", "time-millis"), 86_399_999),
    (logical("long", "timestamp-millis"), 253_402_300_799_999),
    (logical("long", "timestamp-micros"), -62_135_596_800_000_000),
    (logical("long", "timestamp-nanos"), (1 << 63) - 1),
    (logical("string", "uuid"), "23E45670-e89b-12d3-a456-426614174000"),
    (fixed(16, logicalType="uuid"), "\u00ff" * 16),
    (fixed(12, logicalType="duration"), "\u00ff" * 12),
    ("float", 2.0**127),
    ("double", (1 << 63) - 1),
    ({"type": "float"}, 0),
    ({"type": "float", "unit": "kg"}, 1),
    ({"type": "double"}, 1),
]


@pytest.mark.parametrize(("of", "default"), NO_VALUES)
@pytest.mark.parametrize("place", ["field", "list", "record", "union"])
def test_default_that_no_reader_takes_for_a_value_is_refused_with_its_place(of, default, place):
    schema = {
        "field": just(of, default=default),
        "list": just({"type": "array", "items": of}, default=[default]),
        "record": just(record("R", field(of, "x")), default={"x": default}),
        "union": just([of, "null"], default=default),
    }[place]
    [flaw] = resolve(schema).flaws
    assert (flaw.path, flaw.rule) == ("E.a", "default-mismatch")
    if place in ("list", "record"):
        assert {"list": " at [0]", "record": " at x"}[place] in flaw.reason
    str(flaw).encode()


@pytest.mark.parametrize(("of", "default"), VALUES)
def test_default_that_is_a_value_is_taken_and_filled_in(of, default):
    schema = event(field("int", "id"), field(of, default=default))
    assert resolve(schema).flaws == ()
    reader = AvroReader(schema, lambda _: json.dumps(event(field("int", "id"))))
    found = reader.decode(b"\x00\x00\x00\x00\x01\x02")
    again = AvroReader(schema, lambda _: json.dumps(schema))
    assert again.decode(AvroWriter(schema, 2).encode(found)) == found


def test_place_in_the_default_of_a_record_is_said():
    inner = record("N", field("int", "x"), field(["null", "int"], "u", default=None))
    said = {
        json.dumps(default): resolve(just(inner, default=default)).flaws[0].reason
        for default in ({"x": 1, "y": 2}, {"x": 1, "u": 2}, {"u": None})
    }
    assert list(said.values()) == [
        'the default names "y", which is no field of s.N',
        "the default 2 at u is not of the field's type: no null",
        "the default leaves out s.N.x, which has no default of its own",
    ]


# --- words of the schema that readers do not take


def test_order_of_a_field_is_one_of_three_words():
    for order in ("up", "", 1, None, ["ignore"], True):
        assert rules(just("int", order=order)) == ["bad-order"]
    for order in ("ascending", "Descending", "IGNORE"):
        assert rules(just("int", order=order)) == []


def test_fixed_is_no_larger_than_java_reads():
    assert rules(just(fixed(2**31 - 8))) == ["bad-size"]
    assert rules(just(fixed(2**31 - 9))) == []


@pytest.mark.parametrize("precision", [1001, 10**6, 10**10, 10**18, 10**20])
def test_precision_that_nothing_holds_is_refused_and_ignored_of_a_writer(precision):
    schema = event(field("int", "id"), field(decimal(precision)))
    assert rules(schema) == ["bad-decimal"]
    reader = AvroReader(event(field("int", "id")), lambda _: json.dumps(schema))
    # 400 KB of one number.
    assert reader.decode(b"\x00\x00\x00\x00\x01\x02" + b"\x80\xea\x30" + b"\x7f" * 400_000) == {"id": 1}


@pytest.mark.parametrize(("size", "precision"), [(1, 3), (2, 5), (4, 10), (8, 19), (16, 39)])
def test_decimal_of_more_digits_than_its_bytes_hold_is_refused_with_its_place(size, precision):
    flaws = resolve(just(fixed(size, logicalType="decimal", precision=precision))).flaws
    assert [(one.path, one.rule) for one in flaws] == [("E.a", "bad-decimal")]
    assert f"{size} bytes hold {precision - 1} digits" in flaws[0].reason
    assert rules(just(fixed(size, logicalType="decimal", precision=precision - 1))) == []


def test_name_that_is_not_there_is_told_from_one_of_another_namespace():
    [flaw] = resolve(event(field(record("o.Address", field("int"))), field("Address", "b"))).flaws
    assert flaw.fix == "write o.Address, if that is meant"
    [flaw] = resolve(just("strng")).flaws
    assert flaw.fix == "define strng here, or write a type that Avro has"


@pytest.mark.parametrize("schema", [event(), just("null"), just(record("N", field("null")))])
def test_event_of_no_bytes_is_refused(schema):
    [conflict] = check_backward_transitive([(1, schema)])
    assert conflict.breakage.rule == "empty-event"


# --- what the registry takes for the same


def nested_null(**more):
    return just(record("N", field(["null", "int"], "x", **more)))


MAP, LIST = {"type": "map", "values": "double"}, {"type": "array", "items": "double"}
SAME = {
    "default null": (just(["null", "int"]), just(["null", "int"], default=None)),
    "default null within": (nested_null(), nested_null(default=None)),
    "usual order": (just("int"), just("int", order="ascending")),
    "usual order in capitals": (just("int"), just("int", order="ASCENDING")),
    "order in capitals": (just("int", order="descending"), just("int", order="DESCENDING")),
    "double": (just("double", default=1), just("double", default=1.0)),
    "float": (just("float", default=0.1), just("float", default=0.10000000149011612)),
    "large whole double": (just("double", default=2**53 + 1), just("double", default=2**53)),
    "double in a list": (just(LIST, default=[1]), just(LIST, default=[1.0])),
    "double in a map": (just(MAP, default={"k": 1}), just(MAP, default={"k": 1.0})),
    "double in a record": (
        just(record("N", field("double", "x")), default={"x": 1}),
        just(record("N", field("double", "x")), default={"x": 1.0}),
    ),
    "double in a union": (just(["double", "null"], default=1), just(["double", "null"], default=1.0)),
    "name on an array": (just(LIST), just({**LIST, "name": "z"})),
    "values on an array": (just(LIST), just({**LIST, "values": "int"})),
    "size on an int": (just("int"), just({"type": "int", "size": 4})),
    "symbols on an int": (just("int"), just({"type": "int", "symbols": ["A"]})),
    "fields, items, namespace on an int": (
        just("int"),
        just({"type": "int", "fields": [], "items": 1, "namespace": "q"}),
    ),
    "size on a record": (just("int"), event(field("int"), size=3, symbols=["A"])),
    "symbols on a fixed": (just(fixed()), just(fixed(symbols=["A"]))),
    "doc on an array": (just(LIST), just({**LIST, "doc": "d", "aliases": ["q"]})),
    "enum's default": (just(enum("A", "B")), just(enum("A", "B", default="A"))),
}
DIFFERENT = {
    "default null of null": (just("null"), just("null", default=None)),
    "order": (just("int"), just("int", order="descending")),
    "minus zero": (just("double", default=0), just("double", default=-0.0)),
    "default on a type": (just("int"), just({"type": "int", "default": 3})),
    "default on an array": (just(LIST), just({**LIST, "default": []})),
    "order on a type": (just("int"), just({"type": "int", "order": "ignore"})),
    "size on a field": (just("int"), just("int", size=3)),
    "logical type null": (just("int"), just({"type": "int", "logicalType": None})),
    "unknown logical type": (just("string"), just(logical("string", "zz"))),
    "scale 0": (just(logical("bytes", "decimal", precision=4)), just(decimal(4))),
    "keys of a map's default": (just(MAP, default={"a": 1, "b": 2}), just(MAP, default={"b": 2, "a": 1})),
    "keys of an attribute": (just("int", x={"a": 1, "b": 2}), just("int", x={"b": 2, "a": 1})),
    "attribute 1 and 1.0": (just("int", x=1), just("int", x=1.0)),
    "symbols": (just(enum("A", "B")), just(enum("B", "A"))),
    "fields": (event(field("int"), field("int", "b")), event(field("int", "b"), field("int"))),
}


@pytest.mark.parametrize("case", SAME)
def test_version_that_the_registry_takes_for_the_older_one_is_refused(case):
    for v1, v2 in (SAME[case], SAME[case][::-1]):
        assert rules(v1) == rules(v2) == []
        assert resolve(v1).text(words=False) == resolve(v2).text(words=False)
        assert "no-change" in {one.breakage.rule for one in check_backward_transitive([(1, v1), (2, v2)])}


@pytest.mark.parametrize("case", DIFFERENT)
def test_version_that_the_registry_tells_from_the_older_one_is_a_version(case):
    v1, v2 = DIFFERENT[case]
    assert resolve(v1).text(words=False) != resolve(v2).text(words=False)


# --- what is said


def test_first_version_that_no_later_one_could_read_is_refused_at_once():
    for of in (["double", "long"], ["string", "bytes"], ["null", {"type": "array", "items": ["float", "int"]}]):
        [conflict, *_] = check_backward_transitive([(1, just(of))])
        assert conflict.breakage.rule == "union-branch-hidden"
        assert str(conflict).startswith("v1 can be read by no later version: E.a|")


def test_kinds_are_said_where_a_type_of_one_name_changed_its_kind():
    [found] = check(just(enum("A")), just(fixed(name="G")))
    assert found.reason == "it was the fixed G, and the enum G cannot read that"
    [found] = check(just(["null", "int"], default=None), just(["null", fixed(name="G")]))
    assert "an older record may hold the fixed G here" in found.reason


# --- a registered writer's schema, which nobody can mend

FORGIVEN = {
    "default of the second branch": just(["string", "null"], default=None),
    "default of another type": just("string", default=5),
    "logical type that does not fit": just(logical("string", "date"), default="x"),
    "decimal without precision": just(logical("bytes", "decimal")),
    "decimal of too many digits": just(fixed(1, logicalType="decimal", precision=5)),
    "uuid of four bytes": just(fixed(4, logicalType="uuid")),
    "order": just("string", order="up"),
    "aliases": event(field("string", aliases="b"), aliases=[5]),
    "alias of another field": event(field("string", aliases=["b"]), field("string", "b", aliases=["a"])),
    "alias of another type": event(field("string"), field(fixed(aliases=["E"]), "f")),
    "enum's default": just(enum("A", default="B")),
}


@pytest.mark.parametrize("case", FORGIVEN)
def test_what_does_not_matter_to_who_reads_is_forgiven_of_a_writer(case):
    written = as_written(FORGIVEN[case])
    assert resolve(FORGIVEN[case]).flaws
    assert resolve(written).flaws == ()
    reader = AvroReader(event(field("int", "z", default=1)), lambda _: json.dumps(FORGIVEN[case]))
    assert check(event(field("int", "z", default=1)), FORGIVEN[case], registered=True) == []
    data = {"a": "x", "b": "y", "f": b"f", "id": 1}
    datum = {one["name"]: data[one["name"]] for one in written["fields"]}
    of = written["fields"][0]["type"]
    kind = of if isinstance(of, str) else "union" if isinstance(of, list) else of["type"]
    if kind in ("bytes", "fixed", "enum"):
        datum["a"] = {"bytes": b"\x01", "fixed": b"\x01" * of["size"] if kind == "fixed" else b"", "enum": "A"}[kind]
    assert reader.decode(AvroWriter(written, 3).encode(datum)) == {"z": 1}


def test_branches_of_one_short_name_and_a_fixed_of_no_bytes_are_forgiven_too():
    assert rules(just(["string", fixed(name="x.F"), fixed(name="y.F")])) == ["union-ambiguous"]
    schema = event(field("int", "id"), field(["string", fixed(name="x.F"), fixed(0, name="y.F")], default=5))
    assert rules(schema) == ["bad-size"]
    assert check(event(field("int", "id")), schema, registered=True) == []
    assert resolve(just(["int", "int"]), forgiving=True).flaws


def test_sound_schema_of_a_writer_is_left_as_it_is():
    schema = just(["null", "string"], default=None)
    assert as_written(schema) is schema


def test_forgiven_schema_keeps_its_names():
    inner = record("B", field("int"), field(["null", fixed(name="C")], "c"), field("C", "d"), namespace="")
    schema = event(field(inner), field("int", "b", default="no"))
    written = as_written(schema)
    assert set(resolve(written).names) == set(resolve(schema).names) == {"s.E", "B", "C"}
    for_fastavro(written)


def test_flaws_that_matter_to_who_reads_are_never_forgiven():
    for schema in (
        just(["null", "E"], default=5),
        just({"type": "array", "items": "null"}, default=5),
        just(enum("A", "A"), default=5),
        just(["int", "int"], default="x"),
        just("Nope", default=5),
    ):
        assert as_written(schema) == schema
        assert resolve(as_written(schema)).flaws
