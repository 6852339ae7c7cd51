"""A worker and a forwarder whose logs change under them: retention, truncation, topics made anew. Twins on a real broker:
tests/integration/test_log_positions.py.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import pytest

from pipeline.core.dead_letter import Worker
from pipeline.core.offsets import Note
from pipeline.core.ports import Commit
from pipeline.core.record import Keyed, Record, TopicPartition
from pipeline.core.retry import RetryPolicy
from pipeline.errors import BrokerUnavailable
from pipeline.stages.consume import Consume
from pipeline.stages.forward import Forward
from pipeline.stages.handlers import adapt
from pipeline.stages.outbox import Outbox
from tests.stages.broker import BrokerPublisher, FakeBroker, Member
from tests.stages.fakes import FakeClock, NowCrew
from tests.stages.test_consume import Decoder

P0 = TopicPartition("orders.v1", 0)
TOPICS = ("orders.v1", "retry-5s")
NO_RETRIES = RetryPolicy(attempts=1, tiers=())


class World:
    """A broker, its clock, and one worker or forwarder with partition 0; `effects` are the values that it was given."""

    def __init__(self) -> None:
        self.broker = FakeBroker()
        self.clock = FakeClock()
        self.effects: list[str] = []
        self.holds_up = False

    def write(self, *values: str) -> None:
        for value in values:
            self.broker.write(P0, value[:1].encode(), value.encode())

    def turns(self, stage: Any, count: int = 60) -> None:
        for _ in range(count):
            stage._turn()

    def consume(self, **changes: Any) -> Consume:
        def handle(event: dict, record: Record) -> None:
            self.effects.append(event["id"])

        handler = adapt(handler_of(self, handle), "test")
        stage = Consume(
            **{
                "source": self.join,
                "log": self.broker,
                "topics": ["orders.v1"],
                "decoder": Decoder(),
                "handler": handler,
                "crew": NowCrew(handler),
                "outbox": Outbox(BrokerPublisher(self.broker), "orders.dlq.v1", self.broker, self.clock),
                "worker": Worker("orders-workers", "one"),
                "policy": NO_RETRIES,
                "clock": self.clock,
                "now_ms": lambda: 1_700_000_000_000,
                "jitter": lambda: 0.0,
            }
            | changes
        )
        self.broker.give(self.member, P0)
        return stage

    def join(self, listener: Any) -> Member:
        self.member = Member(self.broker, listener)
        self.member.group_metadata = lambda: self.member  # type: ignore[attr-defined]
        return self.member

    def forward(self, **changes: Any) -> Forward:
        def transform(event: dict[str, Any], record: Record) -> Keyed:
            return Keyed("c", {"id": event["id"]})

        stage = Forward(
            **{
                "source": self.join,
                "log": self.broker,
                "connect": lambda: Transactions(self.broker),
                "topics": ["orders.v1"],
                "output": "out.v1",
                "dead_letters": "orders.dlq.v1",
                "decoder": Decoder(),
                "event": lambda datum: datum,
                "transform": transform,
                "encoder": lambda topic: Values(self.effects),
                "envelope": self.broker,
                "worker": Worker("orders-forwarder", "one"),
                "policy": NO_RETRIES,
                "clock": self.clock,
                "now_ms": lambda: 1_700_000_000_000,
                "jitter": lambda: 0.0,
            }
            | changes
        )
        self.broker.give(self.member, P0)
        return stage


def handler_of(world: World, handle: Callable[..., None]) -> Callable[..., None]:
    def handle_unless_held_up(event: dict, record: Record) -> None:
        if world.holds_up:
            raise BrokerUnavailable("held up.")
        handle(event, record)

    return handle_unless_held_up


class Values:
    """Notes what is encoded: all of it is published."""

    def __init__(self, effects: list[str]) -> None:
        self._effects = effects

    def encode(self, datum: Mapping[str, Any]) -> bytes:
        self._effects.append(datum["id"])
        return b""


class Transactions:
    """A transactional producer that is always usable; offsets are the group's with the commit."""

    usable = True

    def __init__(self, broker: FakeBroker) -> None:
        self._broker = broker
        self._offsets: dict[TopicPartition, Commit] = {}

    def begin(self) -> None:
        self._offsets = {}

    def publish(self, *_: Any, **__: Any) -> None: ...

    def send_offsets(
        self, offsets: Mapping[TopicPartition, int], group: Any, notes: Mapping[TopicPartition, str] = {}
    ) -> None:
        self._offsets = {where: Commit(offset, notes.get(where, "")) for where, offset in offsets.items()}

    def commit(self) -> None:
        self._broker.commits |= self._offsets

    def abort(self) -> bool:
        return True

    def close(self) -> None: ...


STAGES = pytest.mark.parametrize("make", [World.consume, World.forward], ids=["consume", "forward"])
Make = Callable[..., Any]


@STAGES
def test_offset_of_another_log_is_no_reason_to_drop_what_is_new(make: Make) -> None:
    world = World()
    world.write("a1", "b1", "a2")
    world.broker.commits[P0] = Commit(1000, Note(done=((1001, 1005),)).text(1000))
    stage = make(world)
    world.turns(stage)
    assert world.effects == ["a1", "b1", "a2"]
    assert world.broker.commits[P0].offset == 3
    assert stage.summary()["read_again"] == 1
    assert stage.counts()[1].endswith("1 partitions read again")


@STAGES
def test_new_log_that_has_grown_past_the_committed_offset_is_read_from_its_beginning(make: Make) -> None:
    world = World()
    world.broker.ids_of["orders.v1"] = "second"
    world.write("a1", "b1", "a2")
    world.broker.commits[P0] = Commit(2, Note().text(2, "first"))
    stage = make(world)
    world.turns(stage)
    assert world.effects == ["a1", "b1", "a2"]


@STAGES
def test_empty_log_is_not_left_to_grow_up_to_what_was_committed_of_another_one(make: Make) -> None:
    world = World()
    world.broker.commits[P0] = Commit(3)
    stage = make(world)
    world.turns(stage, 3)
    assert world.broker.commits[P0].offset == 0
    world.write("a1", "b1", "a2", "b2", "a3")
    world.turns(stage)
    assert world.effects == ["a1", "b1", "a2", "b2", "a3"]


@STAGES
def test_topic_made_anew_under_the_worker_is_read_from_its_beginning(make: Make) -> None:
    world = World()
    world.broker.ids_of["orders.v1"] = "first"
    world.write("a1", "b1", "a2")
    stage = make(world)
    world.turns(stage)
    world.broker.make_anew("orders.v1", "second")
    world.write("c1")
    world.turns(stage)
    assert world.effects == ["a1", "b1", "a2", "c1"]
    assert world.broker.commits[P0].offset == 1
    # It grows past what was read at once: only its id tells.
    world.broker.make_anew("orders.v1", "third")
    world.write("d1", "d2", "d3")
    world.turns(stage, 400)
    assert world.effects[4:] in (["d1", "d2", "d3"], ["d2", "d3", "d1", "d2", "d3"])
    assert world.broker.commits[P0].offset == 3
    assert stage.summary()["read_again"] == 2


@STAGES
def test_position_that_retention_passes_under_the_worker_is_said_with_its_count(make: Make) -> None:
    world = World()
    world.write("a1", "b1")
    stage = make(world)
    world.turns(stage)
    world.member.pause([P0])
    world.write("a2", "b2", "a3", "b3")
    world.broker.retain(P0, 5)
    world.member.resume([P0])
    world.turns(stage)
    assert world.effects == ["a1", "b1", "b3"]
    assert stage.summary()["missed"] == 3
    assert stage.findings()[0]["deleted"] == 1
    assert world.broker.commits[P0].offset == 6


def test_what_was_read_before_retention_passed_it_is_still_handled() -> None:
    world = World()
    stage = world.consume()
    world.turns(stage, 3)
    world.holds_up = True
    world.write("a1", "b1", "a2")
    world.turns(stage, 3)
    world.broker.retain(P0, 4)
    world.broker.logs[P0] += [Record(*P0, 3, b"x", b"x"), Record(*P0, 4, b"c", b"c1")]
    world.turns(stage, 3)
    world.holds_up = False
    world.turns(stage, 200)
    assert world.effects == ["a1", "b1", "a2", "c1"]
    assert stage.summary()["missed"] == 1


@STAGES
def test_log_that_lost_its_end_is_read_again_from_its_beginning(make: Make) -> None:
    world = World()
    world.write("a1", "b1", "a2", "b2")
    stage = make(world)
    world.turns(stage)
    world.broker.truncate(P0, 2)
    world.write("c1")
    world.turns(stage)
    assert world.effects == ["a1", "b1", "a2", "b2", "a1", "b1", "c1"]
    assert world.broker.commits[P0].offset == 3


@STAGES
def test_run_until_the_end_ends_at_the_end_of_the_log_that_is_there_now(make: Make) -> None:
    world = World()
    world.write("a1", "b1")
    world.broker.commits[P0] = Commit(50)
    stage = make(world, until={P0: 100})
    with suppress(StopIteration):
        stage.run(iter([False] * 100).__next__)
    assert world.effects == ["a1", "b1"]
    assert stage._at_the_end()


@STAGES
def test_outage_while_a_displaced_log_is_looked_at_is_waited_for(make: Make) -> None:
    world = World()
    world.write("a1", "b1")
    stage = make(world)
    world.turns(stage)
    bounds, asked = world.broker.bounds, iter([True, True])

    def away(partitions: Iterable[TopicPartition]) -> Any:
        if next(asked, False):
            raise BrokerUnavailable("away.")
        return bounds(list(partitions))

    world.broker.bounds = away  # type: ignore[method-assign]
    world.broker.make_anew("orders.v1", "")
    world.write("c1")
    world.turns(stage, 200)
    assert world.effects == ["a1", "b1", "c1"]


def test_worker_that_two_topics_of_one_shard_are_made_anew_of_opens_it_once_more() -> None:
    world = World()
    retry = TopicPartition("retry-5s", 0)
    world.broker.ids_of = dict.fromkeys(TOPICS, "first")
    stage = world.consume(topics=TOPICS, policy=RetryPolicy(attempts=1, tiers=(5.0,)))
    world.broker.give(world.member, retry)
    world.write("a1", "b1")
    world.turns(stage)
    for topic in TOPICS:
        world.broker.make_anew(topic, "second")
    world.write("c1")
    world.turns(stage, 400)
    assert world.effects == ["a1", "b1", "c1"]
    assert {where: stream.topic_id for where, stream in stage._partitions.open.items()} == {
        P0: "second",
        retry: "second",
    }


def test_record_of_a_tier_that_is_not_configured_any_more_is_tried_and_its_key_waits() -> None:
    world = World()
    tiers = ("orders.v1", "retry-5s", "retry-600s")
    old = TopicPartition("retry-600s", 0)
    world.broker.write(old, b"a", b"a1")
    world.write("a2", "b1")
    policy = RetryPolicy(attempts=1, tiers=(5.0, 600.0), closed=frozenset({2}))
    stage = world.consume(topics=tiers, policy=policy)
    world.broker.give(world.member, TopicPartition("retry-5s", 0), old)
    world.turns(stage, 400)
    assert [effect for effect in world.effects if effect[0] == "a"] == ["a1", "a2"]
    assert len(world.effects) == 3
    assert world.broker.commits[old].offset == len(world.broker.logs[old])
