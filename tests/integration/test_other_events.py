"""Several event types in one topic, on a real broker and registry: said, passed over by choice, and what is made to cost."""

import json
from typing import Any

import pytest

from pipeline.kafka.registry import Registry
from pipeline.serde.avro import AvroWriter
from tests.integration.conftest import ROOT, Pipe, order
from tests.integration.test_consume import letters, publish
from tests.integration.test_forward import forwarder, output

__all__ = ["forwarder"]
pytestmark = pytest.mark.integration

REFUND = {
    "type": "record",
    "name": "Refund",
    "namespace": "shop.orders",
    "fields": [{"name": "order_id", "type": "string"}],
}


def refund(pipe: Pipe, subject: str) -> bytes:
    with Registry(pipe.registry_url) as registry:
        return AvroWriter(REFUND, registry.register(subject, json.dumps(REFUND))).encode({"order_id": "A-1"})


def test_other_events_are_letters_or_passed_over_by_choice_in_consume_and_forward(forwarder: Pipe) -> None:
    pipe, subject = forwarder, f"{forwarder.topic}-shop.orders.Refund"
    other = refund(pipe, subject)
    publish(pipe, *[(b"k", value, []) for each in range(20) for value in (pipe.encoded(order(each)), other)])
    passed = pipe.run("forward", "--until-end", "--json", "--instance", "one", "--only")
    assert passed.code == 0, passed.stderr
    told = {name: passed.json[name] for name in ("consumed", "forwarded", "dead_lettered", "passed_over")}
    assert told == {"consumed": 40, "forwarded": 20, "dead_lettered": 0, "passed_over": 20}
    assert f"The registry has other events of {pipe.topic} ({subject}): their records are passed over" in passed.stderr
    assert passed.stderr.count("is shop.orders.Refund, not shop.orders.OrderPlaced.") == 1
    assert (pipe.lag(), pipe.end_of(output(pipe)) > 20, letters(pipe)) == (0, True, [])

    consumed = pipe.run("consume", "--until-end", "--json", "--only", "--group", f"{pipe.group}-2")
    assert consumed.code == 0, consumed.stderr
    assert (consumed.json["handled"], consumed.json["passed_over"], consumed.json["dead_lettered"]) == (20, 20, 0)

    given_up = pipe.run("consume", "--until-end", "--json", "--group", f"{pipe.group}-3")
    assert (given_up.json["handled"], given_up.json["dead_lettered"]) == (20, 20)
    assert "passed_over" not in given_up.json
    assert "their records become dead letters, unless --only passes them over" in given_up.stderr
    assert given_up.stderr.count("Its records become dead letters.") == 1


def levels(many: int, **more: Any) -> dict[str, Any]:
    """Each has ten fields of the one below: a datum of no byte takes ten to the power of `many` steps."""
    inner: dict[str, Any] = {"type": "record", "name": "R0", "fields": []}
    for level in range(1, many):
        uses = [inner, *[f"R{level - 1}"] * 9]
        fields = [{"name": f"f{number}", "type": use, **more} for number, use in enumerate(uses)]
        inner = {"type": "record", "name": f"R{level}", "fields": fields}
    return inner


# Of thirty levels with defaults the registry itself does not come back.
@pytest.mark.parametrize(("many", "more"), [(30, {}), (6, {"default": {}})], ids=["steps", "defaults"])
def test_record_of_a_schema_made_to_cost_is_a_letter_that_can_be_shown_and_redriven(
    pipe: Pipe, many: int, more: dict[str, Any]
) -> None:
    bomb = json.loads((ROOT / "schemas/orders.v1-value/v1.avsc").read_text())
    bomb["fields"].append({"name": "r", "type": levels(many, **more)})
    with Registry(pipe.registry_url) as registry:
        # Whichever subject it is from, the id in the frame is believed.
        id_ = registry.register(f"someone-elses-{pipe.topic}", json.dumps(bomb))
    publish(pipe, (b"bad", b"\x00" + id_.to_bytes(4, "big") + b"\x02A" * 8, []))
    pipe.produce([order(1)])
    ended = pipe.run("consume", "--until-end", "--json")
    assert (ended.code, ended.json["handled"], ended.json["dead_lettered"]) == (0, 1, 1), ended.stderr
    [letter] = letters(pipe)
    assert (letter["reason"], "too-large-expanded" in letter["error"]) == ("undecodable", True)
    listed = pipe.run("deadletters", "list", "--json")
    shown = pipe.run("deadletters", "show", json.loads(listed.stdout.splitlines()[-1])[0]["id"], "--json")
    assert "too-large-expanded" in shown.json["value_undecoded_because"]
    dry = pipe.run("deadletters", "redrive", "--all", "--dry-run", "--json")
    assert dry.json["outcomes"] == {"undecodable": 1}, dry.stderr
