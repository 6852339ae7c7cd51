"""Several event types in one topic: a letter for every record of another type, or passed over by choice; never silently."""

import json
import logging
from typing import Any

import pytest

from pipeline.core.record import Record, TopicPartition
from pipeline.core.retry import RetryPolicy
from pipeline.errors import OtherEvent, Undecodable
from pipeline.serde.avro import AvroReader, AvroWriter
from pipeline.stages import other_events
from pipeline.stages.other_events import OtherEvents
from tests.stages.test_consume import TOPIC, Bench

P0 = TopicPartition(TOPIC, 0)


def schema(name: str) -> dict[str, Any]:
    return {"type": "record", "name": name, "namespace": "shop", "fields": [{"name": "id", "type": "string"}]}


SCHEMAS = {1: schema("Order"), 2: schema("Refund"), 3: schema("Parcel")}
WRITERS = {number: AvroWriter(it, number) for number, it in SCHEMAS.items()}


def mixed(*kinds: int) -> list[Record]:
    return [
        Record(
            TOPIC, 0, offset, str(offset).encode(), WRITERS[kind].encode({"id": f"{kind}-{offset}"}) if kind else b"no"
        )
        for offset, kind in enumerate(kinds)
    ]


def bench(given: list[Record], **changes: Any) -> tuple[Bench, list[str]]:
    handled: list[str] = []

    def handle(event: dict, record: Record) -> None:
        handled.append(event["id"])

    reader = AvroReader(SCHEMAS[1], lambda number: json.dumps(SCHEMAS[number]))
    return Bench(given, handle, decoder=reader, **changes), handled


def test_records_of_other_types_become_letters_and_each_type_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    it, handled = bench(mixed(1, 2, 2, 3, 1, 2))
    with caplog.at_level(logging.WARNING):
        it.run()
    assert handled == ["1-0", "1-4"]
    assert it.letters() == [b"1", b"2", b"3", b"5"]
    assert [line.getMessage() for line in caplog.records if line.name == other_events.__name__] == [
        f"Schema {number} is shop.{name}, not shop.Order. Its records become dead letters. "
        "Where several event types share the topic, --only passes others over."
        for number, name in ((2, "Refund"), (3, "Parcel"))
    ]
    assert "passed_over" not in it.stage.totals.summary() | it.stage.outcomes()
    assert "passed over" not in it.stage.counts()[1]


@pytest.mark.parametrize("policy", [RetryPolicy(tiers=()), RetryPolicy(tiers=(1.0,))], ids=["no tiers", "tiers"])
@pytest.mark.parametrize("keep_order", [True, False])
def test_records_of_other_types_are_passed_over_by_choice_counted_and_committed(
    caplog: pytest.LogCaptureFixture, policy: RetryPolicy, keep_order: bool
) -> None:
    kinds = (1, 2, 2, 3, 1, 2, 0, *(1,) * 300, 2)
    it, handled = bench(mixed(*kinds), only=True, policy=policy, keep_order=keep_order)
    with caplog.at_level(logging.WARNING):
        it.run()
    assert len(handled) == kinds.count(1)
    assert it.letters() == [b"6"], "what cannot be read is no other event"
    totals = it.stage.totals.summary()
    assert (totals["consumed"], totals["passed_over"], totals["dead_lettered"]) == (len(kinds), 5, 1)
    assert it.stage.outcomes()["passed_over"] == 5
    assert it.stage.counts()[1].endswith("5 of other types passed over")
    assert it.source.committed_offsets == {P0: len(kinds)}
    assert len([line for line in caplog.records if "are passed over, as --only says" in line.getMessage()]) == 2
    assert [failure.message for _, failure in it.seen if failure is not None and "shop.Parcel" in failure.message]


def test_choice_is_said_in_the_totals_where_nothing_was_passed_over() -> None:
    it, _ = bench(mixed(1), only=True)
    it.run()
    assert it.stage.totals.summary()["passed_over"] == 0


def test_other_event_is_no_other_failure(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(other_events, "SAID_MAX", 3)
    others = OtherEvents(only=True)
    assert not others.passes_over(Undecodable("7 bytes are too few"))
    assert not others.passes_over(KeyError("x"))
    assert all(others.passes_over(OtherEvent(f"Schema {number} is another")) for number in range(10))
    assert len(caplog.records) == 3
