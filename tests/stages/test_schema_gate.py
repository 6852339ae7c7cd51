"""schemas: what is checked, what is registered, what is refused before anything is written."""

import ast
import json
from pathlib import Path

import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryError

import pipeline
from pipeline.errors import RegistryUnavailable, SchemaRefused
from pipeline.serde import schema_files
from pipeline.stages import schema_gate, schema_report
from pipeline.stages.schema_gate import Entry
from tests.stages.registry_double import registry

ID = {"name": "id", "type": "string", "doc": "Which."}
CHANNEL = {"name": "channel", "type": "string", "default": "web"}
NO_DEFAULT = {"name": "channel", "type": "string"}
LEVEL = ("level", "a-value", "BACKWARD_TRANSITIVE")


def text(*fields, **more):
    return json.dumps({"type": "record", "name": "Order", "namespace": "shop", "fields": list(fields), **more})


@pytest.fixture
def registered():
    registry_, client = registry()
    with registry_:
        yield registry_, client


@pytest.fixture
def files(tmp_path):
    """Writes versions of subjects and loads all of them."""

    def load(**subjects):
        for name, versions in subjects.items():
            folder = tmp_path / f"{name}-value"
            folder.mkdir(exist_ok=True)
            for number, one in enumerate(versions, start=1):
                (folder / f"v{number}.avsc").write_text(one)
        return schema_files.load(tmp_path)

    return load


def run(schemas, registry_):
    said = []
    return schema_gate.register(schemas, registry_, said.append), said


def test_versions_that_read_each_other_pass(files):
    schemas = files(a=[text(ID), text(ID, CHANNEL)])
    schema_gate.check(schemas)
    assert schema_report.checked_text(schemas) == "1 subject, 2 versions: each one reads every older one."


def test_new_field_without_default_is_refused_with_subject_path_rule_and_fix(files):
    with pytest.raises(SchemaRefused) as refused:
        schema_gate.check(files(a=[text(ID), text(ID, NO_DEFAULT)], b=[text(ID), text(ID, NO_DEFAULT)]))
    first, second = str(refused.value).splitlines()
    assert first.startswith("a-value v2 cannot read v1: Order.channel: field-without-default: ")
    assert "Fix: give it a default" in first
    assert second.strip().startswith("b-value v2 cannot read v1")


def test_everything_is_registered_once_in_order(files, registered):
    registry_, client = registered
    schemas = files(a=[text(ID), text(ID, CHANNEL)], b=[text({"name": "x", "type": "int"})])
    entries, said = run(schemas, registry_)
    assert [(one.subject, one.version, one.registered_as, one.new) for one in entries] == [
        ("a-value", 1, 1, True),
        ("a-value", 2, 2, True),
        ("b-value", 1, 1, True),
    ]
    assert client.writes[:2] == [LEVEL, ("level", "b-value", "BACKWARD_TRANSITIVE")]
    assert said[0] == "a-value: compatibility set to BACKWARD_TRANSITIVE (was not set)"

    client.writes.clear()
    again, said = run(schemas, registry_)
    assert again == [Entry(*one[:4], new=False) for one in map(_values, entries)]
    assert (client.writes, said) == ([], [])


def _values(entry):
    return entry.subject, entry.version, entry.id, entry.registered_as


def test_only_what_is_missing_is_registered(files, registered):
    registry_, client = registered
    run(files(a=[text(ID)]), registry_)
    client.writes.clear()
    entries, _ = run(files(a=[text(ID), text(ID, CHANNEL)]), registry_)
    assert client.writes == [("schema", "a-value")]
    assert [one.new for one in entries] == [False, True]
    assert schema_report.entries_text(entries).splitlines() == [
        f"a-value  v1  id {entries[0].id}  already there",
        f"a-value  v2  id {entries[1].id}  registered",
    ]


def test_reader_of_everything_that_was_written_passes_registered_or_not(files, registered):
    registry_, client = registered
    subject = files(a=[text(ID), text(ID, CHANNEL)]).subject("a-value")
    schema_gate.check_reader(subject, registry_)
    client.put("a-value", text(ID))
    client.put("a-value", text(ID, {"name": "price", "type": "int"}))
    schema_gate.check_reader(subject, registry_)
    assert client.writes == []


def test_reader_that_differs_in_words_alone_passes(files, registered):
    registry_, _ = registered
    schema_gate.check_reader(files(a=[text(ID), text(ID, doc="The same.")]).subject("a-value"), registry_)


def test_reader_that_cannot_read_an_older_file_is_refused(files, registered):
    registry_, _ = registered
    subject = files(a=[text(ID), text(ID, NO_DEFAULT)]).subject("a-value")
    with pytest.raises(SchemaRefused, match=r"a-value: v2 cannot read v1: Order\.channel: field-without-default"):
        schema_gate.check_reader(subject, registry_)


def test_reader_that_cannot_read_a_registered_version_is_refused(files, registered):
    registry_, client = registered
    subject = files(a=[text(ID, NO_DEFAULT)]).subject("a-value")
    client.put("a-value", text(ID))
    with pytest.raises(SchemaRefused, match=r"as the registry has it: v1 cannot read v1: Order\.channel") as refused:
        schema_gate.check_reader(subject, registry_)
    assert "would become dead letters" in str(refused.value)


@pytest.mark.parametrize(("level", "kept"), [("FULL_TRANSITIVE", True), ("BACKWARD", False), ("NONE", False)])
def test_level_is_raised_never_lowered(files, registered, level, kept):
    registry_, client = registered
    client.levels["a-value"] = level
    run(files(a=[text(ID)]), registry_)
    assert client.levels["a-value"] == (level if kept else "BACKWARD_TRANSITIVE")


def test_level_that_does_not_stay_is_refused(files, registered, monkeypatch):
    registry_, client = registered
    monkeypatch.setattr(client, "set_compatibility", lambda *_: None)
    client.levels["a-value"] = "NONE"
    with pytest.raises(SchemaRefused, match="says NONE"):
        run(files(a=[text(ID)]), registry_)


def test_one_bad_subject_keeps_all_from_being_registered(files, registered):
    registry_, client = registered
    client.put("z-value", text(ID, {"name": "n", "type": "string"}))
    schemas = files(a=[text(ID)], z=[text(ID), text(ID, CHANNEL)])
    with pytest.raises(SchemaRefused, match="z-value v1 is not what was released"):
        run(schemas, registry_)
    with pytest.raises(SchemaRefused, match="cannot read"):
        run(files(b=[text(ID), text(ID, NO_DEFAULT)]), registry_)
    assert client.writes == []


@pytest.mark.parametrize("change", [{"doc": "new words"}, {"aliases": ["Old"]}])
def test_released_version_that_was_changed_is_refused_even_if_only_in_words(files, registered, change):
    registry_, client = registered
    there = client.put("a-value", text(ID))
    with pytest.raises(SchemaRefused) as refused:
        run(files(a=[text(ID, **change)]), registry_)
    assert f"a-value v1 is not what was released: the registry has another v1 (id {there})" in str(refused.value)
    assert "Fix: restore " in str(refused.value)
    assert client.writes == []


def test_same_schema_in_another_spelling_is_the_same(files, registered):
    registry_, client = registered
    client.put("a-value", text(ID))
    spelt = {"fields": [{**ID, "type": {"type": "string"}}], "name": "shop.Order", "type": "record"}
    entries, _ = run(files(a=[json.dumps(spelt, indent=4)]), registry_)
    assert [one.new for one in entries] == [False]


def test_new_version_must_read_what_others_registered(files, registered):
    registry_, client = registered
    client.put("a-value", text(ID))
    client.put("a-value", text(ID, {"name": "n", "type": "int", "default": 0}))
    client.put("a-value", text(ID, {"name": "channel", "type": "int", "default": 0}))
    client._store.remove_by_schema(client._store.get_version("a-value", 2))
    with pytest.raises(SchemaRefused) as refused:
        run(files(a=[text(ID), text(ID, CHANNEL)]), registry_)
    assert str(refused.value).startswith(
        "a-value, as the registry has it: v2 cannot read v3: Order.channel: type-changed"
    )
    assert client.writes == []


def test_older_checkout_registers_nothing_and_says_so(files, registered):
    registry_, client = registered
    client.put("a-value", text(ID))
    client.put("a-value", text(ID, CHANNEL))
    client.levels["a-value"] = "BACKWARD_TRANSITIVE"
    entries, said = run(files(a=[text(ID)]), registry_)
    assert [one.new for one in entries] == [False]
    assert said == ["! a-value: version 2 (id 2) of the registry has no file here. An older checkout?"]
    assert client.writes == []


def test_refusal_of_the_registry_is_passed_on_in_its_words(files, registered):
    registry_, client = registered
    client.refuse = SchemaRegistryError(409, 409, "Incompatible: channel at /fields/4")
    with pytest.raises(SchemaRefused, match=r"HTTP 409\): Incompatible: channel at /fields/4"):
        run(files(a=[text(ID)]), registry_)


def test_version_that_the_registry_does_not_list_afterwards_is_an_error(files, registered, monkeypatch):
    registry_, client = registered
    monkeypatch.setattr(client, "register_schema", lambda *_: 7)
    with pytest.raises(SchemaRefused, match="does not list it as it was sent"):
        run(files(a=[text(ID)]), registry_)


def test_outage_is_no_refusal(files, registered):
    registry_, client = registered
    client.refuse = SchemaRegistryError(500, 50001, "no leader")
    with pytest.raises(RegistryUnavailable):
        run(files(a=[text(ID)]), registry_)


def test_registered_text_that_is_no_json_is_refused(files, registered):
    registry_, client = registered
    client.put("a-value", "{")
    with pytest.raises(SchemaRefused, match="in the registry is no JSON"):
        run(files(a=[text(ID)]), registry_)


def test_differences_are_told_field_by_field(files, registered):
    registry_, client = registered
    for version in (text(ID, {"name": "n", "type": ["null", "int"]}), text(ID), text(ID, NO_DEFAULT)):
        client.put("a-value", version)
    amount = {"name": "n", "type": ["null", {"type": "bytes", "logicalType": "decimal", "precision": 4}]}
    new = {"name": "new", "type": {"type": "array", "items": "int"}, "default": []}
    schemas = files(a=[text(ID, amount, new), text(ID)], b=[text(ID)])
    assert schema_report.differences_text(schema_gate.survey(schemas, registry_)).splitlines() == [
        "a-value: v1 differs from the registry's (id 1); - registry, + file",
        "    - Order.n: union of null, int",
        "    + Order.n: union of null, bytes",
        '    + Order.n|bytes: bytes, logicalType "decimal", precision 4',
        "    + Order.new: array, default []",
        "    + Order.new[]: int",
        "a-value: version 3 (id 3) is only in the registry",
        "a-value: its compatibility is NONE, not BACKWARD_TRANSITIVE",
        "b-value: v1 is only in the files",
        "b-value: its compatibility is not set, not BACKWARD_TRANSITIVE",
    ]
    values = schema_report.differences_values(schema_gate.survey(schemas, registry_))
    assert len(values["differences"]) == 5
    assert client.writes == []


def test_version_under_another_number_is_a_difference_but_no_refusal(files, registered):
    registry_, client = registered
    client.put("a-value", text(ID))
    client.put("a-value", text(ID, CHANNEL))
    client._store.remove_by_schema(client._store.get_version("a-value", 1))
    schemas = files(a=[text(ID, CHANNEL)])
    entries, _ = run(schemas, registry_)
    assert "already there (as version 2)" in schema_report.entries_text(entries)
    assert "v1 is version 2 in the registry" in schema_report.differences_text(schema_gate.survey(schemas, registry_))


def test_same_registry_has_no_differences_and_is_listed(files, registered):
    registry_, client = registered
    schemas = files(a=[text(ID)])
    run(schemas, registry_)
    client.put("other-value", text(CHANNEL))
    assert schema_report.differences(schema_gate.survey(schemas, registry_)) == []
    rows = schema_report.listing(schemas, registry_, everything=False)
    assert rows == [
        {"subject": "a-value", "compatibility": "BACKWARD_TRANSITIVE", "versions": [{"version": 1, "id": 1}]}
    ]
    assert schema_report.listing_text(rows) == "a-value  BACKWARD_TRANSITIVE  v1 id 1"
    assert len(schema_report.listing(schemas, registry_, everything=True)) == 2
    unregistered = schema_report.listing(files(n=[text(ID)]), registry_, everything=False)
    assert "n-value  not registered (make register-schemas)" in schema_report.listing_text(unregistered)


def test_nothing_else_in_the_package_registers_a_schema():
    root = Path(pipeline.__file__).parent
    calls = {
        path.relative_to(root).as_posix(): names & {"register", "register_schema", "register_schema_full_response"}
        for path in root.rglob("*.py")
        if (names := _attributes_called(path))
    }
    # Metrics register with Prometheus' own registry.
    registering = {path for path, names in calls.items() if names} - {"metrics.py", "api/figures.py"}
    assert {path for path in registering if "register_schema" in calls[path]} == {"kafka/registry.py"}
    assert registering == {"kafka/registry.py", "stages/schema_gate.py", "schemas.py"}


def _attributes_called(path):
    nodes = ast.walk(ast.parse(path.read_text()))
    return {one.func.attr for one in nodes if isinstance(one, ast.Call) and isinstance(one.func, ast.Attribute)}


# --- levels are never lowered


@pytest.mark.parametrize(
    ("level", "becomes"),
    [
        (None, "BACKWARD_TRANSITIVE"),
        ("NONE", "BACKWARD_TRANSITIVE"),
        ("BACKWARD", "BACKWARD_TRANSITIVE"),
        ("BACKWARD_TRANSITIVE", None),
        ("FORWARD", "FULL_TRANSITIVE"),
        ("FORWARD_TRANSITIVE", "FULL_TRANSITIVE"),
        ("FULL", "FULL_TRANSITIVE"),
        ("FULL_TRANSITIVE", None),
    ],
)
@pytest.mark.parametrize("whose", ["a-value", None], ids=["its own", "the registry's"])
def test_level_becomes_one_that_contains_what_was_asked_for(files, registered, level, becomes, whose):
    registry_, client = registered
    if level is not None:
        client.levels[whose] = level
    _, said = run(files(a=[text(ID)]), registry_)
    set_ = [one for one in client.writes if one[0] == "level"]
    assert set_ == ([("level", "a-value", becomes)] if becomes else [])
    if becomes == "FULL_TRANSITIVE":
        assert said == [
            f"a-value: compatibility set to FULL_TRANSITIVE (was {level}): BACKWARD_TRANSITIVE does not contain {level}"
        ]
    client.writes.clear()
    assert run(files(a=[text(ID)]), registry_)[1] == []
    assert client.writes == []


def test_level_that_is_not_known_stays_and_is_said(files, registered):
    registry_, client = registered
    client.levels["a-value"] = "SIDEWAYS"
    _, said = run(files(a=[text(ID)]), registry_)
    assert said == ["! a-value: its compatibility is SIDEWAYS, which is not known here; it stays."]
    assert client.levels["a-value"] == "SIDEWAYS"


def test_level_to_be_raised_is_a_difference(files, registered):
    registry_, client = registered
    client.levels["a-value"] = "FULL"
    assert "a-value: its compatibility is FULL, not FULL_TRANSITIVE" in schema_report.differences_text(
        schema_gate.survey(files(a=[text(ID)]), registry_)
    )


@pytest.mark.parametrize("mode", ["READONLY", "IMPORT", "READONLY_OVERRIDE"])
def test_registry_that_takes_nothing_is_refused_before_anything_is_written(files, registered, mode):
    registry_, client = registered
    client.mode = mode
    with pytest.raises(SchemaRefused, match=f"takes nothing for a-value now: its mode is {mode}"):
        run(files(a=[text(ID)]), registry_)
    assert client.writes == []


def test_registry_that_takes_nothing_is_no_matter_where_nothing_is_to_be_written(files, registered):
    registry_, client = registered
    run(files(a=[text(ID)]), registry_)
    client.mode = "READONLY"
    entries, said = run(files(a=[text(ID)]), registry_)
    assert ([one.new for one in entries], said) == ([False], [])


# --- versions that were deleted


def test_old_version_that_was_deleted_stays_deleted(files, registered):
    registry_, client = registered
    schemas = files(a=[text(ID), text(ID, CHANNEL)])
    run(schemas, registry_)
    client.delete("a-value", 1)
    client.writes.clear()
    entries, said = run(schemas, registry_)
    assert [(one.version, one.new) for one in entries] == [(2, False)]
    assert said == ["! a-value v1 was deleted in the registry, and stays deleted"]
    assert client.writes == []
    assert schema_report.differences_text(schema_gate.survey(schemas, registry_)) == (
        "a-value: v1 was deleted in the registry, and stays deleted"
    )
    run(
        files(a=[text(ID), text(ID, CHANNEL), text(ID, CHANNEL, {"name": "n", "type": "int", "default": 0})]), registry_
    )
    assert client.writes == [("schema", "a-value")]


def test_old_version_that_the_registry_forgot_is_not_registered_after_the_newer_one(files, registered):
    registry_, client = registered
    client.put("a-value", text({"name": "x", "type": "int", "default": 0}))
    client.put("a-value", text(ID, CHANNEL))
    client._store.remove_by_schema(client._store.get_version("a-value", 1))
    client.levels["a-value"] = "BACKWARD_TRANSITIVE"
    entries, said = run(files(a=[text(ID), text(ID, CHANNEL)]), registry_)
    assert [(one.version, one.new) for one in entries] == [(2, False)]
    assert said == [
        "! a-value v1 is not in the registry, and stays so: registered now, it would be later than the newer ones"
    ]
    assert client.writes == []


def test_newest_version_that_was_deleted_is_refused(files, registered):
    registry_, client = registered
    schemas = files(a=[text(ID), text(ID, CHANNEL)])
    run(schemas, registry_)
    client.delete("a-value", 2)
    client.writes.clear()
    with pytest.raises(
        SchemaRefused, match=r"a-value v2 was deleted in the registry, and stays deleted\. Fix: .* v3\.avsc"
    ):
        run(schemas, registry_)
    assert client.writes == []


def test_subject_that_was_deleted_as_a_whole_begins_anew(files, registered):
    registry_, client = registered
    schemas = files(a=[text(ID), text(ID, CHANNEL)])
    run(schemas, registry_)
    for version in (1, 2):
        client.delete("a-value", version)
    entries, _ = run(schemas, registry_)
    assert [one.new for one in entries] == [True, True]


# --- what an id stands for


def test_id_that_stands_for_another_order_of_fields_is_never_written_with(files, registered):
    registry_, client = registered
    file = files(a=[text(ID, NO_DEFAULT)]).subject("a-value").newest
    id_ = client.put("a-value", file.text)
    assert schema_gate.registered_id(file, registry_) == id_
    for there in (
        text(NO_DEFAULT, ID),
        text(ID),
        text(ID, {"name": "channel", "type": "bytes"}),
        text(ID, NO_DEFAULT, name="Other"),
    ):
        client.answers[id_] = Schema(there, "AVRO")
        with pytest.raises(SchemaRefused, match=f"says that a-value v1 has id {id_}, but id {id_} is another schema: "):
            schema_gate.registered_id(file, registry_)


def test_id_whose_schema_differs_in_words_alone_is_written_with(files, registered):
    registry_, client = registered
    file = files(a=[text(ID, CHANNEL)]).subject("a-value").newest
    id_ = client.put("a-value", file.text)
    client.answers[id_] = Schema(text({**ID, "doc": "Other words."}, NO_DEFAULT, doc="d", aliases=["Old"]), "AVRO")
    assert schema_gate.registered_id(file, registry_) == id_


def test_id_that_is_not_there_yet_is_waited_for_and_one_that_cannot_be_read_is_refused(files, registered):
    registry_, client = registered
    file = files(a=[text(ID)]).subject("a-value").newest
    client.put("a-value", file.text)
    client.get_schema = lambda *_, **__: Schema("{", "AVRO")
    with pytest.raises(SchemaRefused, match="which cannot be read"):
        schema_gate.registered_id(file, registry_)
    client.get_schema = _unknown
    with pytest.raises(RegistryUnavailable, match="does not have that yet"):
        schema_gate.registered_id(file, registry_)


def _unknown(*_, **__):
    raise SchemaRegistryError(404, 40403, "Schema not found")


# --- versions that others registered, which nobody can mend


ILL = [
    {"name": "note", "type": ["string", "null"], "default": None},
    {"name": "note", "type": {"type": "string", "logicalType": "date"}},
    {"name": "note", "type": "int", "default": "x"},
    {"name": "note", "type": {"type": "bytes", "logicalType": "decimal"}},
    {"name": "note", "type": {"type": "fixed", "name": "F", "size": 4, "logicalType": "uuid"}},
    {"name": "note", "type": "int", "order": "up"},
    {"name": "note", "type": "int", "aliases": ["id"]},
]


@pytest.mark.parametrize("field", ILL)
def test_registered_version_with_a_flaw_that_no_reader_sees_keeps_nobody_from_starting(files, registered, field):
    registry_, client = registered
    subject = files(a=[text(ID)]).subject("a-value")
    client.put("a-value", text(ID, field))
    said = []
    schema_gate.check_reader(subject, registry_, said.append)
    assert said == []
    client.put("a-value", text(ID))
    entries, _ = run(files(a=[text(ID)]), registry_)
    assert [one.new for one in entries] == [False]


@pytest.mark.parametrize(
    ("there", "words"),
    [
        (text(ID, {"name": "self", "type": ["null", "Order"]}), "recursive-schema"),
        (text(ID, {"name": "n", "type": {"type": "array", "items": "null"}}), "zero-width-items"),
        ("{", "no JSON"),
    ],
)
def test_registered_version_that_nobody_can_read_is_said_and_keeps_nobody_from_starting(
    files, registered, there, words
):
    registry_, client = registered
    client.put("a-value", there)
    said = []
    schema_gate.check_reader(files(a=[text(ID)]).subject("a-value"), registry_, said.append)
    [line] = said
    assert line.startswith("! a-value: version 1 (id 1) of the registry cannot be read by anybody: ")
    assert words in line
    assert line.endswith("Its records become dead letters.")


def test_own_older_file_is_judged_strictly(files):
    with pytest.raises(SchemaRefused, match=r"v1\.avsc: no sound Avro schema"):
        files(a=[text(ID, ILL[0]), text(ID)])


def test_other_event_in_the_subject_is_refused_until_it_is_passed_over_by_choice(files, registered):
    registry_, client = registered
    subject = files(a=[text(ID)]).subject("a-value")
    client.put("a-value", text(ID, name="Refund"))
    with pytest.raises(
        SchemaRefused, match="Where they are other events that share the topic, --only passes them over"
    ):
        schema_gate.check_reader(subject, registry_)
    said = []
    schema_gate.check_reader(subject, registry_, said.append, only=True)
    assert said == [
        "! a-value: version 1 (id 1) of the registry is shop.Refund, not shop.Order. Its records are passed over, as you chose."
    ]
    client.put("a-value", text({"name": "price", "type": "int"}))
    client.put("a-value", text({"name": "id", "type": "int"}))
    with pytest.raises(SchemaRefused, match="as the registry has it: v1 cannot read v"):
        schema_gate.check_reader(subject, registry_, said.append, only=True)


def test_first_version_that_no_later_one_could_read_is_refused_unless_it_is_released(files, registered):
    registry_, client = registered
    schemas = files(a=[text(ID, {"name": "n", "type": ["double", "long"]})])
    with pytest.raises(SchemaRefused, match=r"a-value v1 can be read by no later version: Order\.n\|long"):
        schema_gate.check(schemas)
    with pytest.raises(SchemaRefused, match="v1 can be read by no later version"):
        run(schemas, registry_)
    assert client.writes == []
    client.put("a-value", schemas.subject("a-value").newest.text)
    entries, _ = run(schemas, registry_)
    assert [one.new for one in entries] == [False]


@pytest.mark.parametrize("whose", ["a-value", None], ids=["the subject's", "the registry's"])
@pytest.mark.parametrize("kind", ["defaultRuleSet", "overrideRuleSet"])
def test_rules_that_the_registry_would_add_are_refused_before_anything_is_written(files, registered, whose, kind):
    registry_, client = registered
    client.configs[whose] = {
        kind: {"domainRules": [{"name": "pii", "kind": "TRANSFORM", "type": "ENCRYPT", "mode": "WRITEREAD"}]}
    }
    with pytest.raises(SchemaRefused, match=r"adds rules to whatever is registered for a-value \(ENCRYPT pii\)"):
        run(files(a=[text(ID)]), registry_)
    assert client.writes == []
