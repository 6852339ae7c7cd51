"""What the schema gate lets pass is really read: old bytes, new schema, fastavro; and no JSON makes it fall over."""

import copy
import io

import fastavro
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from pipeline.serde.avro_schema import resolve
from pipeline.serde.compatibility import check
from pipeline.serde.fastavro_schema import for_fastavro

PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
WIDER = {"int": ["long", "float", "double"], "long": ["float", "double"], "float": ["double"], "string": ["bytes"]}
DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}
MILLIS = {"type": "long", "logicalType": "timestamp-millis"}


@st.composite
def types(draw, named, depth):  # noqa: PLR0911  # one for each kind
    """A type; `named` collects the definitions so far, which later places may name."""
    kinds = ["primitive", "primitive", "logical", "enum", "fixed"]
    kinds += ["record", "array", "map", "union", "union"] if depth else []
    kinds += ["reference"] if named else []
    kind = draw(st.sampled_from(kinds))
    if kind == "reference":
        return draw(st.sampled_from(sorted(named)))
    if kind == "primitive":
        return draw(st.sampled_from(PRIMITIVES))
    if kind == "logical":
        return draw(st.sampled_from([DECIMAL, MILLIS]))
    if kind == "array":
        return {"type": "array", "items": draw(types(named, depth - 1))}
    if kind == "map":
        return {"type": "map", "values": draw(types(named, depth - 1))}
    if kind == "union":
        return draw(st.lists(types(named, depth - 1), min_size=1, max_size=3))
    name = f"{kind.title()}{len(named)}"
    if kind == "record":
        made = {"type": "record", "name": name, "fields": draw(fields(named, depth - 1))}
    elif kind == "enum":
        made = {"type": "enum", "name": name, "symbols": draw(st.sampled_from([["A"], ["A", "B"], ["B", "C", "A"]]))}
    else:
        made = {"type": "fixed", "name": name, "size": draw(st.integers(1, 3))}
    named.add(name)
    return made


@st.composite
def fields(draw, named, depth):
    names = draw(st.lists(st.sampled_from("abcd"), unique=True, min_size=1, max_size=3))
    return [{"name": name, "type": draw(types(named, depth))} for name in names]


@st.composite
def records(draw):
    """A sound record schema."""
    named = set()
    schema = {"type": "record", "name": "Event", "namespace": "shop", "fields": draw(fields(named, 2))}
    return schema if not resolve(schema).flaws else {**schema, "fields": [{"name": "a", "type": "int"}]}


def evolve(draw, node):  # noqa: PLR0911  # one for each kind
    """The type after somebody worked on it: mostly in ways that old readers bear, sometimes not."""
    step = draw(st.sampled_from(["keep", "keep", "wider", "nullable", "inside", "inside", "other"]))
    kind = node["type"] if isinstance(node, dict) else node
    if step == "wider" and isinstance(node, str) and node in WIDER:
        return draw(st.sampled_from(WIDER[node]))
    if step == "nullable" and not isinstance(node, list) and kind != "null":
        return draw(st.sampled_from([["null", node], [node, "null"], ["string", node]]))
    if step == "other":
        return draw(st.sampled_from(PRIMITIVES))
    if step == "inside" and isinstance(node, list):
        return draw(st.permutations([evolve(draw, one) for one in node] + draw(st.sampled_from([[], ["long"]]))))
    if step == "inside" and kind in ("array", "map"):
        key = "items" if kind == "array" else "values"
        return {**node, key: evolve(draw, node[key])}
    if step == "inside" and kind == "record":
        return evolve_record(draw, node)
    if step == "inside" and kind == "enum":
        return {
            **node,
            "symbols": draw(st.permutations(["A", "B", "D"])),
            **draw(st.sampled_from([{}, {"default": "A"}])),
        }
    return node


def evolve_record(draw, schema):
    changed = []
    for one in schema["fields"]:
        step = draw(st.sampled_from(["keep", "type", "type", "rename", "drop"]))
        if step == "rename":
            changed.append({**one, "name": one["name"] * 2, "aliases": [one["name"]]})
        elif step != "drop":
            changed.append({**one, "type": evolve(draw, one["type"])} if step == "type" else one)
    added = draw(
        st.sampled_from(
            [
                [],
                [{"name": "new", "type": "int"}],
                [{"name": "new", "type": ["null", "string"], "default": None}],
                [{"name": "new", "type": DECIMAL, "default": "\u0001"}],
                [{"name": "new", "type": {"type": "array", "items": "bytes"}, "default": ["\u00ff"]}],
            ]
        )
    )
    return {**schema, "fields": draw(st.permutations(changed + added))}


@st.composite
def pairs(draw):
    writer = draw(records())
    return evolve_record(draw, copy.deepcopy(writer)), writer


def without_logic(node):
    """The schema with raw values: the same bytes, and data that are quick to draw."""
    if isinstance(node, list):
        return [without_logic(one) for one in node]
    if not isinstance(node, dict):
        return node
    kept = {key: value for key, value in node.items() if key not in ("logicalType", "precision", "scale")}
    for key in ("type", "items", "values"):
        if isinstance(kept.get(key), dict | list):
            kept[key] = without_logic(kept[key])
    if "fields" in kept:
        kept["fields"] = [without_logic(one) for one in kept["fields"]]
    return kept


def data(node):
    """Any datum of a schema in which every type stands in full."""
    if isinstance(node, list):
        # fastavro writes a pair as (branch name, datum); without a name it would guess among numbers.
        return st.one_of([data(one) for one in node])
    kind = node["type"] if isinstance(node, dict) else node
    if kind in ("array", "map"):
        inner = data(node["items" if kind == "array" else "values"])
        return (
            st.lists(inner, max_size=2) if kind == "array" else st.dictionaries(st.text(max_size=2), inner, max_size=2)
        )
    if kind == "record":
        return st.fixed_dictionaries({one["name"]: data(one["type"]) for one in node["fields"]})
    if kind == "enum":
        return st.sampled_from(node["symbols"])
    if kind == "fixed":
        return st.binary(min_size=node["size"], max_size=node["size"])
    return {
        "null": st.none(),
        "boolean": st.booleans(),
        "int": st.integers(-(1 << 31), (1 << 31) - 1),
        "long": st.integers(-(1 << 63), (1 << 63) - 1),
        "float": st.floats(width=32, allow_nan=False),
        "double": st.floats(allow_nan=False),
        "bytes": st.binary(max_size=3),
        "string": st.text(max_size=3),
    }[kind]


def read(datum, writer, reader):
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, for_fastavro(writer), datum)
    buffer.seek(0)
    found = fastavro.schemaless_reader(buffer, for_fastavro(writer), for_fastavro(reader))
    assert buffer.read() == b""
    return found


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(pairs(), st.data())
def test_old_bytes_are_read_with_every_schema_that_the_gate_lets_pass(pair, draw):
    reader, writer = pair
    refused = check(reader, writer)
    event("refused" if refused else "passed")
    event("changed" if reader != writer else "the same")
    if refused:
        assert all(one.path.startswith("Event") and one.reason and one.fix for one in refused)
        return
    reader, writer = without_logic(reader), without_logic(writer)
    found = read(draw.draw(data(for_fastavro(writer))), writer, reader)
    assert set(found) == {one["name"] for one in reader["fields"]}
    # What was read is a datum of the new schema: it can be written with it.
    fastavro.schemaless_writer(io.BytesIO(), for_fastavro(reader), found)


@settings(max_examples=200, deadline=None)
@given(records())
def test_schema_reads_its_own_records(schema):
    assert {one.rule for one in check(schema, schema)} <= {"union-branch-hidden"}


WORDS = ["type", "name", "namespace", "fields", "items", "values", "symbols", "size", "default", "aliases", "scale"]
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["record", "enum", "fixed", "array", "map", "int", "bytes", "decimal", "A", ".", "", "a.b"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*WORDS, "precision", "logicalType", "doc"]), inner, max_size=5)
    ),
    max_leaves=12,
)


@settings(max_examples=500, deadline=None)
@given(json_values, json_values)
def test_no_json_makes_the_gate_fall_over(one, other):
    for breakage in check(one, other):
        assert breakage.rule
    resolve(one).text(words=False)


@pytest.mark.parametrize("depth", [99, 101, 900])
def test_deep_nesting_is_refused_before_it_overflows(depth):
    node = "int"
    for _ in range(depth - 2):
        node = {"type": "array", "items": node}
    schema = {"type": "record", "name": "Deep", "fields": [{"name": "a", "type": node}]}
    assert {one.rule for one in resolve(schema).flaws} == ({"nested-too-deep"} if depth > 100 else set())


def test_nesting_by_reference_counts_as_deep():
    steps = [{"type": "record", "name": "T0", "fields": [{"name": "a", "type": "int"}]}]
    steps += [
        {"type": "record", "name": f"T{n}", "fields": [{"name": "a", "type": f"T{n - 1}"}]} for n in range(1, 200)
    ]
    schema = {
        "type": "record",
        "name": "Deep",
        "fields": [{"name": f"f{n}", "type": step} for n, step in enumerate(steps)],
    }
    assert {one.rule for one in resolve(schema).flaws} == {"nested-too-deep"}
