"""The contracts on disk: what is read, and how each unsound file is refused with what to do about it."""

import json
from importlib import resources
from pathlib import Path

import pytest

from pipeline.errors import SchemaRefused
from pipeline.serde import schema_files

SCHEMAS = Path(__file__).parents[3] / "schemas"


def record(*fields, name="Order", **more):
    return {"type": "record", "name": name, "namespace": "shop", "fields": list(fields), **more}


def field(of, **more):
    return {"name": "a", "type": of, **more}


@pytest.fixture
def write(tmp_path):
    def write(schema, version=1, subject="t-value"):
        path = tmp_path / subject / f"v{version}.avsc"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(schema if isinstance(schema, bytes) else json.dumps(schema).encode())
        return path

    return write


def test_schemas_of_the_project_load():
    schemas = schema_files.load(SCHEMAS)
    newest = schemas.subject("orders.v1-value").newest
    assert newest.schema["name"] == "OrderPlaced"
    assert newest.text == newest.path.read_text()
    assert newest.names == {"shop.orders.OrderPlaced"}
    assert {one.name for one in schemas} >= {"orders.v1-value", "orders.dlq.v1-value"}


def test_versions_are_in_order_of_their_numbers(tmp_path, write):
    for number in range(1, 12):
        write(record(*({"name": f"f{n}", "type": "int", "default": 0} for n in range(number))), number)
    subject = schema_files.load(tmp_path).subject("t-value")
    assert [one.version for one in subject.versions] == list(range(1, 12))
    assert subject.newest.version == 11


def test_files_beside_the_subjects_and_hidden_ones_are_left_alone(tmp_path, write):
    write(record(field("int")))
    (tmp_path / "topics.toml").write_text("")
    (tmp_path / ".git").mkdir()
    (tmp_path / "t-value" / ".v1.avsc.swp").write_text("")
    assert [one.name for one in schema_files.load(tmp_path)] == ["t-value"]


def test_unknown_subject_is_refused_with_those_that_are_there():
    with pytest.raises(SchemaRefused, match=r"No schema for nope-value: .* has .*orders\.v1-value.*Add nope-value/v1"):
        schema_files.load(SCHEMAS).subject("nope-value")


def test_absent_directory_is_refused_with_the_setting(tmp_path):
    with pytest.raises(SchemaRefused, match="PIPELINE_SCHEMAS__DIR"):
        schema_files.load(tmp_path / "nope")


def test_directory_without_subjects_is_refused(tmp_path):
    with pytest.raises(SchemaRefused, match="has no subject"):
        schema_files.load(tmp_path)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), "is empty. Put the schema there as v1.avsc"),
        (("v2.avsc",), "has no v1.avsc, but a v2.avsc"),
        (("v1.avsc", "v3.avsc"), "has no v2.avsc, but a v3.avsc"),
        (("v1.avsc", "v01.avsc"), "v01.avsc is not named like a version. Name it v2.avsc"),
        (("v1.avsc", "v2.json"), "v2.json is not named like a version"),
        (("v0.avsc",), "v0.avsc is not named like a version. Name it v1.avsc"),
    ],
)
def test_folder_whose_versions_do_not_count_from_one_is_refused(tmp_path, names, words):
    folder = tmp_path / "t-value"
    folder.mkdir()
    for name in names:
        (folder / name).write_text(json.dumps(record(field("int"))))
    with pytest.raises(SchemaRefused) as refused:
        schema_files.load(tmp_path)
    assert words in str(refused.value)


def test_folder_that_cannot_be_a_subject_is_refused(tmp_path, write):
    write(record(field("int")), subject="orders v1")
    with pytest.raises(SchemaRefused, match="named after its subject"):
        schema_files.load(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no valid JSON"),
        (b"{", "no valid JSON"),
        (b"\xff\xfe", "not UTF-8: byte 0 is 0xff"),
        (b'{"type": "record", "name": "A", "name": "B", "fields": []}', '"name" appears twice in one object'),
        (b'{"type": "record", "name": "A", "fields": [{"name": "a", "type": "double", "default": NaN}]}', "NaN"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b" " * (1 << 20) + b"{}", "more than a schema has"),
        (b'"string"', "an event is a record"),
        (b'["null", "int"]', "an event is a record"),
        (b'{"type": "enum", "name": "E", "symbols": ["A"]}', "an event is a record"),
        (b"5", "not-a-schema"),
        (b"null", "not-a-schema"),
    ],
)
def test_file_that_is_no_schema_is_refused_by_its_name(tmp_path, write, content, words):
    path = write(content)
    with pytest.raises(SchemaRefused) as refused:
        schema_files.load(tmp_path)
    assert words in str(refused.value)
    assert str(refused.value).startswith(f"{path}: ")


FLAWS = {
    "recursive": (record(field(["null", "Order"], default=None)), "Order.a|Order: recursive-schema"),
    "recursive by full name": (record(field({"type": "map", "values": "shop.Order"})), "Order.a{}: recursive-schema"),
    "recursive through another": (
        record(field({"type": "record", "name": "B", "fields": [{"name": "b", "type": ["null", "Order"]}]})),
        "Order.a.b|Order: recursive-schema",
    ),
    "array of null": (record(field({"type": "array", "items": "null"})), "Order.a[]: zero-width-items"),
    "array of nothing": (
        record(field({"type": "array", "items": {"type": "record", "name": "E", "fields": []}})),
        "Order.a[]: zero-width-items",
    ),
    "array of records of nulls": (
        record(
            field({"type": "record", "name": "N", "fields": [{"name": "n", "type": "null"}]}),
            {"name": "b", "type": {"type": "array", "items": "N"}},
        ),
        "Order.b[]: zero-width-items",
    ),
    "field twice": (record(field("int"), field("int")), "Order.a: field-twice"),
    "alias of another field": (
        record(field("int"), {"name": "b", "type": "int", "aliases": ["a"]}),
        "Order.b: field-twice: a is a name or an alias of two fields",
    ),
    "unknown type": (record(field("Nope")), "Order.a: unknown-type: shop.Nope is not defined"),
    "unknown kind": (record(field({"type": "Nope"})), "Order.a: unknown-type"),
    "error type": (record(field({"type": "error", "name": "X", "fields": []})), "Order.a: unknown-type"),
    "nested type": (record(field({"type": {"type": "int"}})), "Order.a: nested-type"),
    "defined twice": (
        record(
            field({"type": "enum", "name": "E", "symbols": ["A"]}),
            {"name": "b", "type": {"type": "enum", "name": "E", "symbols": ["A"]}},
        ),
        "Order.b: name-redefined",
    ),
    "no name": ({"type": "record", "fields": []}, "bad-name"),
    "bad name": (record(field("int"), name="Or-der"), "bad-name"),
    "bad namespace": (record(field("int"), namespace="my-shop"), "bad-name"),
    "a type's name": (record(field({"type": "enum", "name": "string", "symbols": ["A"]})), "Order.a: bad-name"),
    "no fields": ({"type": "record", "name": "A"}, "A: not-a-schema"),
    "field without a type": (record({"name": "a"}), "Order: bad-field"),
    "field with a bad name": (record({"name": "a b", "type": "int"}), "Order: bad-field"),
    "field that is none": (record("a"), "Order: bad-field"),
    "alias that is no list": (record(field("int", aliases="b")), "Order.a: bad-alias"),
    "empty union": (record(field([])), "Order.a: empty-union"),
    "union in a union": (record(field(["null", ["int"]])), "Order.a: nested-union"),
    "same branch twice": (record(field(["int", "int"])), "Order.a: union-ambiguous"),
    "same name twice": (
        record(
            field(
                [
                    {"type": "enum", "name": "x.E", "symbols": ["A"]},
                    {"type": "enum", "name": "y.E", "symbols": ["A"]},
                ]
            )
        ),
        "Order.a: union-ambiguous",
    ),
    "array without items": (record(field({"type": "array"})), "Order.a[]: not-a-schema"),
    "no symbols": (record(field({"type": "enum", "name": "E", "symbols": []})), "Order.a: bad-symbols"),
    "symbols as text": (record(field({"type": "enum", "name": "E", "symbols": "AB"})), "Order.a: bad-symbols"),
    "symbol twice": (record(field({"type": "enum", "name": "E", "symbols": ["A", "A"]})), "Order.a: bad-symbols"),
    "default symbol missing": (
        record(field({"type": "enum", "name": "E", "symbols": ["A"], "default": "B"})),
        "Order.a: default-mismatch",
    ),
    "size 0": (record(field({"type": "fixed", "name": "F", "size": 0})), "Order.a: bad-size"),
    "size as text": (record(field({"type": "fixed", "name": "F", "size": "4"})), "Order.a: bad-size"),
    "decimal without precision": (record(field({"type": "bytes", "logicalType": "decimal"})), "Order.a: bad-decimal"),
    "scale above precision": (
        record(field({"type": "bytes", "logicalType": "decimal", "precision": 2, "scale": 3})),
        "Order.a: bad-decimal",
    ),
    "precision as truth": (
        record(field({"type": "bytes", "logicalType": "decimal", "precision": True})),
        "Order.a: bad-decimal",
    ),
    "decimal too wide for its bytes": (
        record(field({"type": "fixed", "name": "F", "size": 1, "logicalType": "decimal", "precision": 20})),
        "Order.a: bad-decimal: 1 bytes hold 2 digits, not 20",
    ),
    "time on text": (
        record(field({"type": "string", "logicalType": "timestamp-millis"})),
        "Order.a: logical-type-misplaced",
    ),
    "uuid of 4 bytes": (
        record(field({"type": "fixed", "name": "F", "size": 4, "logicalType": "uuid"})),
        "Order.a: logical-type-misplaced",
    ),
    "logical type that is no name": (record(field({"type": "int", "logicalType": []})), "logical-type-misplaced"),
}


@pytest.mark.parametrize("case", FLAWS)
def test_unsound_avro_is_refused_with_path_and_rule(tmp_path, write, case):
    schema, words = FLAWS[case]
    write(schema)
    with pytest.raises(SchemaRefused) as refused:
        schema_files.load(tmp_path)
    assert words in str(refused.value)


FITTING = [
    ("null", None),
    ("boolean", False),
    ("int", -(1 << 31)),
    ("long", (1 << 63) - 1),
    ("double", 1),
    ("float", 1.5),
    ("string", "é"),
    ("bytes", "\u00ff"),
    (["null", "int"], None),
    (["int", "null"], 0),
    ({"type": "enum", "name": "E", "symbols": ["A"]}, "A"),
    ({"type": "fixed", "name": "F", "size": 2}, "ab"),
    ({"type": "array", "items": "int"}, [1, 2]),
    ({"type": "map", "values": ["null", "int"]}, {"x": None}),
    ({"type": "record", "name": "R", "fields": [{"name": "x", "type": "int", "default": 1}]}, {}),
    ({"type": "bytes", "logicalType": "decimal", "precision": 4}, "\u0001"),
]
MISFITTING = [
    ("null", 0),
    ("boolean", 0),
    ("int", 1 << 31),
    ("int", True),
    ("int", 1.0),
    ("long", 1 << 63),
    ("double", "1.5"),
    ("string", 1),
    ("bytes", "€"),
    (["null", "int"], 1),
    (["int", "null"], None),
    ({"type": "enum", "name": "E", "symbols": ["A"]}, "B"),
    ({"type": "fixed", "name": "F", "size": 2}, "abc"),
    ({"type": "array", "items": "int"}, ["a"]),
    ({"type": "map", "values": "int"}, {"x": None}),
    ({"type": "record", "name": "R", "fields": [{"name": "x", "type": "int"}]}, {}),
    ({"type": "record", "name": "R", "fields": []}, {"x": 1}),
]


@pytest.mark.parametrize(("of", "default"), FITTING)
def test_default_of_the_type_is_taken(tmp_path, write, of, default):
    write(record(field(of, default=default)))
    assert schema_files.load(tmp_path).subject("t-value")


@pytest.mark.parametrize(("of", "default"), MISFITTING)
def test_default_of_another_type_is_refused(tmp_path, write, of, default):
    write(record(field(of, default=default)))
    with pytest.raises(SchemaRefused, match=r"Order\.a: default-mismatch"):
        schema_files.load(tmp_path)


def test_every_flaw_of_a_file_is_said_at_once(tmp_path, write):
    write(record(field("Nope"), {"name": "b", "type": []}))
    with pytest.raises(SchemaRefused, match=r"(?s)Order\.a: unknown-type.*Order\.b: empty-union"):
        schema_files.load(tmp_path)


def test_record_that_changes_its_name_is_refused_until_the_old_one_is_an_alias(tmp_path, write):
    write(record(field("int"), name="Order"))
    path = write(record(field("long"), name="Placed"), 2)
    with pytest.raises(SchemaRefused) as refused:
        schema_files.load(tmp_path)
    assert str(refused.value).startswith(f"{path}: the record is called shop.Placed, but shop.Order in v1.")
    write(record(field("long"), name="Placed", aliases=["Order"]), 2)
    assert schema_files.load(tmp_path).subject("t-value").newest.names == {"shop.Placed", "shop.Order"}


def test_directory_is_the_setting_or_the_packed_schemas_or_those_of_the_checkout(tmp_path, monkeypatch):
    assert schema_files.directory(tmp_path) == tmp_path
    assert schema_files.directory(None) == SCHEMAS
    monkeypatch.setattr(resources, "files", lambda _: tmp_path)
    (tmp_path / "_schemas").mkdir()
    assert schema_files.directory(None) == tmp_path / "_schemas"


def test_schema_directory_that_may_not_be_looked_into_is_refused(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", refuse)
    with pytest.raises(SchemaRefused, match=r"cannot be read: .*Permission denied"):
        schema_files.load(tmp_path / "schemas")


@pytest.mark.parametrize(("levels", "is_taken"), [(700, True), (701, False), (400_000, False)])
@pytest.mark.parametrize("level", ["[]", "{}"])
def test_json_is_as_deep_as_this_project_says_and_not_as_an_interpreter_bears(
    levels: int, is_taken: bool, level: str
) -> None:
    opened = level[0] if level == "[]" else '{"[{":'
    text = opened * levels + "1" + level[1] * levels
    if is_taken:
        schema_files.parse(text)
    else:
        with pytest.raises(ValueError, match="nested too deeply"):
            schema_files.parse(text)


def test_text_of_quotes_that_are_never_closed_takes_no_time() -> None:
    with pytest.raises(ValueError, match=r"Unterminated string|Expecting"):
        schema_files.parse('\\"' * 300_000)
