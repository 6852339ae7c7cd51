"""Unknown schema ids: a grace, then a memory, and no registry call for each record of a flood."""

import pytest

from pipeline.errors import RegistryUnavailable, SchemaPending, SchemaUnknown, Undecodable
from pipeline.serde.writer_schemas import FORGET_S, GRACE_S, IDS_MAX, WriterSchemas


class World:
    """A registry and a clock in the test's hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.known: dict[int, str] = {}
        self.down = False
        self.asked: list[int] = []
        self.schemas = WriterSchemas(self.ask, lambda: self.now)

    def ask(self, schema_id: int) -> str:
        self.asked.append(schema_id)
        if self.down:
            raise RegistryUnavailable("no answer")
        if schema_id not in self.known:
            raise SchemaUnknown(f"Schema {schema_id} is PROTOBUF, not Avro.")
        return self.known[schema_id]


def test_schema_registered_within_the_grace_is_found() -> None:
    world = World()
    with pytest.raises(SchemaPending):
        world.schemas(7)
    world.now += GRACE_S - 1
    world.known[7] = "text"
    assert world.schemas(7) == "text"


def test_unknown_id_is_given_up_after_the_grace_and_not_asked_for_again_for_a_while() -> None:
    world = World()
    with pytest.raises(SchemaPending):
        world.schemas(7)
    world.now += GRACE_S
    with pytest.raises(SchemaUnknown, match="Schema 7 is PROTOBUF, not Avro"):
        world.schemas(7)
    asked = len(world.asked)
    for _ in range(1000):
        with pytest.raises(SchemaUnknown, match="Schema 7 is PROTOBUF, not Avro"):
            world.schemas(7)
    assert len(world.asked) == asked
    world.known[7] = "text"
    world.now += FORGET_S
    assert world.schemas(7) == "text"


def test_graces_of_all_ids_run_side_by_side() -> None:
    world = World()
    for schema_id in range(50):
        with pytest.raises(SchemaPending):
            world.schemas(schema_id)
    world.now += GRACE_S
    for schema_id in range(50):
        with pytest.raises(SchemaUnknown):
            world.schemas(schema_id)


def test_registry_outage_neither_starts_nor_ends_a_grace() -> None:
    world = World()
    world.down = True
    with pytest.raises(RegistryUnavailable):
        world.schemas(7)
    world.now += 10 * GRACE_S
    world.down = False
    with pytest.raises(SchemaPending):
        world.schemas(7)


def test_flood_of_made_up_ids_does_not_fill_the_memory() -> None:
    world = World()
    for schema_id in range(IDS_MAX + 100):
        with pytest.raises(SchemaPending):
            world.schemas(schema_id)
    assert len(world.schemas._first_seen) == IDS_MAX


def test_schema_that_nobody_may_read_by_is_not_asked_for_again_for_a_while() -> None:
    asked = []

    def ask(schema_id: int) -> str:
        asked.append(schema_id)
        raise Undecodable("Schema 7 has rules")

    now = [0.0]
    schemas = WriterSchemas(ask, lambda: now[0])
    for _ in range(1000):
        with pytest.raises(Undecodable, match="Schema 7 has rules"):
            schemas(7)
    assert asked == [7]
    now[0] += FORGET_S
    with pytest.raises(Undecodable):
        schemas(7)
    assert asked == [7, 7]
