"""The schema gate, case by case: what a new schema may change, and what is said of every other change."""

import json

import pytest

from pipeline.serde.compatibility import check, check_backward_transitive

DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 18, "scale": 2}
MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
MICROS = {"type": "long", "logicalType": "timestamp-micros"}


def order(*fields, name="OrderPlaced", **more):
    return {"type": "record", "name": name, "namespace": "shop.orders", "fields": list(fields), **more}


def field(name, of, **more):
    return {"name": name, "type": of, **more}


def just(of, **more):
    """An OrderPlaced with the one field `note` of that type."""
    return order(field("note", of, **more))


def enum(*symbols, name="Channel", **more):
    return {"type": "enum", "name": name, "symbols": list(symbols), **more}


def fixed(size, name="Hash", **more):
    return {"type": "fixed", "name": name, "size": size, **more}


def line(*fields, name="Line", **more):
    return {"type": "record", "name": name, "fields": list(fields), **more}


def array(items):
    return {"type": "array", "items": items}


def mapping(values):
    return {"type": "map", "values": values}


def decimal(precision, scale, **more):
    return {**DECIMAL, "precision": precision, "scale": scale, **more}


ID = field("order_id", "string")

COMPATIBLE = {
    "nothing changed": (just("int"), just("int")),
    "field with default added": (order(ID, field("channel", "string", default="web")), order(ID)),
    "nullable field with null default added": (order(ID, field("x", ["null", DECIMAL], default=None)), order(ID)),
    "field removed": (order(ID), order(ID, field("channel", "string"))),
    "fields reordered": (order(field("b", "int"), field("a", "int")), order(field("a", "int"), field("b", "int"))),
    "field renamed with alias": (order(field("new", "int", aliases=["old"])), order(field("old", "int"))),
    "record renamed with alias": (order(ID, name="Placed", aliases=["shop.orders.OrderPlaced"]), order(ID)),
    "record renamed with short alias": (order(ID, name="Placed", aliases=["OrderPlaced"]), order(ID)),
    "docs changed": (just("int", doc="new"), just("int", doc="old")),
    "int to long": (just("long"), just("int")),
    "int to float": (just("float"), just("int")),
    "int to double": (just("double"), just("int")),
    "long to float": (just("float"), just("long")),
    "long to double": (just("double"), just("long")),
    "float to double": (just("double"), just("float")),
    "string to bytes": (just("bytes"), just("string")),
    "made nullable": (just(["null", "string"]), just("string")),
    "branch added": (just(["null", "string", "int"]), just(["null", "string"])),
    "union reordered": (just(["string", "null"]), just(["null", "string"])),
    "branch promoted": (just(["null", "long"]), just(["null", "int"])),
    "union of one unwrapped": (just("string"), just(["string"])),
    "precision grew": (just(decimal(20, 2)), just(decimal(18, 2))),
    "scale 0 written out": (just(decimal(18, 0)), just({"type": "bytes", "logicalType": "decimal", "precision": 18})),
    "symbol added": (just(enum("A", "B", "C")), just(enum("A", "B"))),
    "symbol removed with a default": (just(enum("A", default="A")), just(enum("A", "B"))),
    "enum renamed with alias": (just(enum("A", name="Way", aliases=["Channel"])), just(enum("A"))),
    "fixed renamed with alias": (just(fixed(4, name="Sum", aliases=["Hash"])), just(fixed(4))),
    "items promoted": (just(array("long")), just(array("int"))),
    "values made nullable": (just(mapping(["null", "int"])), just(mapping("int"))),
    "nested field with default added": (
        just(array(line(field("sku", "string"), field("n", "int", default=1)))),
        just(array(line(field("sku", "string")))),
    ),
    "definition moved to its other use": (
        order(field("b", enum("A")), field("a", "Channel")),
        order(field("a", enum("A")), field("b", "Channel")),
    ),
    "name written another way": (
        {"type": "record", "name": "shop.orders.OrderPlaced", "fields": [field("note", {"type": "string"})]},
        just("string"),
    ),
}

PLACE = "OrderPlaced.note"
BREAKING = {
    "field without default added": (order(ID, field("note", "string")), order(ID), PLACE, "field-without-default"),
    "nullable field without default added": (
        order(ID, field("note", ["null", "string"])),
        order(ID),
        PLACE,
        "field-without-default",
    ),
    "field renamed without alias": (just("int"), order(field("old", "int")), PLACE, "field-without-default"),
    "alias of a field that is there too": (
        order(field("note", "int", aliases=["remark"])),
        order(field("note", "int"), field("remark", "int")),
        PLACE,
        "alias-ambiguous",
    ),
    "record renamed": (order(ID, name="Placed"), order(ID), "Placed", "name-changed"),
    "namespace changed": (order(ID, namespace="shop"), order(ID), "OrderPlaced", "name-changed"),
    "alias in the wrong namespace": (
        order(ID, name="Placed", aliases=["other.OrderPlaced"]),
        order(ID),
        "Placed",
        "name-changed",
    ),
    "long to int": (just("int"), just("long"), PLACE, "type-changed"),
    "double to float": (just("float"), just("double"), PLACE, "type-changed"),
    "float to long": (just("long"), just("float"), PLACE, "type-changed"),
    "string to int": (just("int"), just("string"), PLACE, "type-changed"),
    "boolean to int": (just("int"), just("boolean"), PLACE, "type-changed"),
    "bytes to string": (just("string"), just("bytes"), PLACE, "type-changed"),
    "string to enum": (just(enum("A")), just("string"), PLACE, "type-changed"),
    "enum to string": (just("string"), just(enum("A")), PLACE, "type-changed"),
    "fixed to bytes": (just("bytes"), just(fixed(4)), PLACE, "type-changed"),
    "record to map": (just(mapping("int")), just(line(field("a", "int"))), PLACE, "type-changed"),
    "array to item": (just("int"), just(array("int")), PLACE, "type-changed"),
    "no longer nullable": (just("string"), just(["null", "string"]), f"{PLACE}|null", "type-changed"),
    "branch removed": (
        just(["null", "int"]),
        just(["null", "int", "string"]),
        f"{PLACE}|string",
        "union-branch-missing",
    ),
    "branch narrowed": (just(["null", "int"]), just(["null", "long"]), f"{PLACE}|long", "union-branch-missing"),
    "type put into a union without it": (just(["null", "int"]), just("string"), PLACE, "union-branch-missing"),
    "bytes read as text in a union": (
        just(["null", "string"]),
        just(["null", "bytes"]),
        f"{PLACE}|bytes",
        "type-changed",
    ),
    "branch hidden by a wider one": (just(["double", "long"]), just("long"), PLACE, "union-branch-hidden"),
    "text hidden by bytes": (
        just(["null", "bytes", "string"]),
        just(["null", "string"]),
        f"{PLACE}|string",
        "union-branch-hidden",
    ),
    "bytes hidden by text": (just(["string", "bytes"]), just("bytes"), PLACE, "union-branch-hidden"),
    "record hidden by another with its name as alias": (
        just([line(field("a", "int", default=0), name="New", aliases=["Line"]), line(field("a", "int"))]),
        just(line(field("a", "int"))),
        f"{PLACE}|New",
        "alias-taken",
    ),
    "record in a union renamed": (
        just(["null", line(field("a", "int"), name="other.Line")]),
        just(["null", line(field("a", "int"))]),
        f"{PLACE}|Line",
        "name-changed",
    ),
    "record became an enum of the same name in a union": (
        just(["null", enum("A", name="Line")]),
        just(line(field("a", "int"))),
        PLACE,
        "type-changed",
    ),
    "scale changed": (just(decimal(18, 3)), just(DECIMAL), PLACE, "scale-changed"),
    "scale left out": (
        just({"type": "bytes", "logicalType": "decimal", "precision": 18}),
        just(DECIMAL),
        PLACE,
        "scale-changed",
    ),
    "precision reduced": (just(decimal(17, 2)), just(DECIMAL), PLACE, "precision-reduced"),
    "precision of a branch reduced": (
        just(["null", decimal(9, 2)]),
        just(["null", DECIMAL]),
        f"{PLACE}|bytes",
        "precision-reduced",
    ),
    "millis to micros": (just(MICROS), just(MILLIS), PLACE, "logical-type-changed"),
    "logical type added": (just(MILLIS), just("long"), PLACE, "logical-type-changed"),
    "logical type removed": (just("long"), just(MILLIS), PLACE, "logical-type-changed"),
    "date to timestamp": (just(MILLIS), just({"type": "int", "logicalType": "date"}), PLACE, "logical-type-changed"),
    "text to decimal": (just(DECIMAL), just("string"), PLACE, "logical-type-changed"),
    "uuid to text": (just("string"), just({"type": "string", "logicalType": "uuid"}), PLACE, "logical-type-changed"),
    "symbol removed": (just(enum("A")), just(enum("A", "B")), PLACE, "enum-symbol-removed"),
    "symbol renamed": (just(enum("A", "C")), just(enum("A", "B")), PLACE, "enum-symbol-removed"),
    "enum renamed": (just(enum("A", name="Way")), just(enum("A")), PLACE, "name-changed"),
    "fixed size changed": (just(fixed(8)), just(fixed(4)), PLACE, "fixed-size-changed"),
    "fixed renamed": (just(fixed(4, name="Sum")), just(fixed(4)), PLACE, "name-changed"),
    "items changed": (just(array("int")), just(array("string")), f"{PLACE}[]", "type-changed"),
    "values changed": (just(mapping("int")), just(mapping("string")), f"{PLACE}{{}}", "type-changed"),
    "nested field without default": (
        just(array(line(field("sku", "string"), field("n", "int")))),
        just(array(line(field("sku", "string")))),
        f"{PLACE}[].n",
        "field-without-default",
    ),
    "nested deep": (
        just(mapping(array(["null", line(field("sum", decimal(18, 4)))]))),
        just(mapping(array(["null", line(field("sum", DECIMAL))]))),
        f"{PLACE}{{}}[]|Line.sum",
        "scale-changed",
    ),
    "type by reference changed": (
        order(field("a", enum("A")), field("note", array("Channel"))),
        order(field("a", enum("A")), field("note", array("string"))),
        f"{PLACE}[]",
        "type-changed",
    ),
    "default of another type": (just("int", default="0"), just("int"), PLACE, "default-mismatch"),
    "null default on the second branch": (
        just(["string", "null"], default=None),
        just(["string", "null"]),
        PLACE,
        "default-mismatch",
    ),
    "field twice": (order(ID, ID), order(ID), "OrderPlaced.order_id", "field-twice"),
    "enum default that is no symbol": (just(enum("A", default="B")), just(enum("A")), PLACE, "default-mismatch"),
    "recursive": (just(["null", "OrderPlaced"], default=None), order(ID), f"{PLACE}|OrderPlaced", "recursive-schema"),
    "recursive of old": (order(ID), just(["null", "OrderPlaced"]), f"{PLACE}|OrderPlaced", "recursive-schema"),
}


@pytest.mark.parametrize("case", COMPATIBLE)
def test_change_that_reads_old_records_passes(case):
    reader, writer = COMPATIBLE[case]
    assert check(reader, writer) == []


@pytest.mark.parametrize("case", BREAKING)
def test_change_that_breaks_is_refused_with_path_and_rule(case):
    reader, writer, path, rule = BREAKING[case]
    [found] = check(reader, writer)
    assert (found.path, found.rule) == (path, rule)
    assert found.reason
    assert found.fix


@pytest.mark.parametrize("case", [*COMPATIBLE, *BREAKING])
def test_every_schema_reads_itself_unless_it_is_wrong_in_itself(case):
    wrong = {"alias-taken", "default-mismatch", "field-twice", "recursive-schema", "union-branch-hidden"}
    for schema in {**COMPATIBLE, **BREAKING}[case][:2]:
        assert {one.rule for one in check(schema, schema)} <= wrong


def test_all_breakages_are_found_not_only_the_first():
    reader = order(field("a", "int"), field("b", decimal(18, 3)), field("c", array("int")), field("d", "int"))
    writer = order(field("a", "string"), field("b", DECIMAL), field("c", array("string")))
    assert [one.path for one in check(reader, writer)] == [f"OrderPlaced.{at}" for at in ("a", "b", "c[]", "d")]


def test_type_used_often_is_reported_where_it_is_first_used():
    def two(of):
        return order(field("a", line(field("x", of))), field("b", "Line"))

    assert [one.path for one in check(two("int"), two("string"))] == ["OrderPlaced.a.x"]


def test_types_that_double_with_each_use_are_compared_in_no_time():
    def doubling(leaf):
        steps = [line(field("a", leaf), field("b", leaf), name="L0")]
        steps += [line(field("a", f"L{n}"), field("b", f"L{n}"), name=f"L{n + 1}") for n in range(10)]
        return order(*(field(f"f{n}", step) for n, step in enumerate(steps)))

    assert check(doubling("long"), doubling("int")) == []
    assert [one.rule for one in check(doubling("int"), doubling("long"))] == ["type-changed", "type-changed"]


def test_version_is_checked_against_every_older_one():
    v1, v2, v3 = (
        order(ID, field("note", "string")),
        order(ID),
        order(ID, field("note", "int", default=0)),
    )
    assert check(v3, v2) == []
    conflicts = check_backward_transitive([(1, v1), (2, v2), (3, v3)])
    assert [(one.reader, one.writer, one.breakage.rule) for one in conflicts] == [(3, 1, "type-changed")]
    assert str(conflicts[0]) == (
        "v3 cannot read v1: OrderPlaced.note: type-changed: it was string, and int cannot read that. "
        "Fix: make it a new field with a default, and leave this one as it was."
    )


@pytest.mark.parametrize(
    "second",
    [
        just("int", doc="other words"),
        just("int", aliases=["remark"]),
        {**just({"type": "int"}), "doc": "wrapped"},
        json.loads(json.dumps(just("int"), sort_keys=True)),
    ],
)
def test_version_that_a_registry_cannot_tell_from_another_is_refused(second):
    [conflict] = check_backward_transitive([(1, just("int")), (2, second)])
    assert conflict.breakage.rule == "no-change"
    assert "v2 is no other version than v1" in str(conflict)


def test_version_with_another_default_is_a_version():
    assert check_backward_transitive([(1, just("int", default=0)), (2, just("int", default=1))]) == []
