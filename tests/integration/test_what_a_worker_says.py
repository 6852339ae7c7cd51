"""What a running worker and forwarder say, and when a run that ends does end, on a real broker."""

import json
from typing import Any

import pytest

from pipeline.core.dead_letter import TRACEBACK
from tests.integration.conftest import Pipe, order
from tests.integration.test_consume import letters
from tests.integration.test_forward import decoded, forwarded, forwarder

pytestmark = pytest.mark.integration
__all__ = ["forwarder"]

SHOP = """
import logging
from pipeline.core.record import Keyed, Record

def price_of(event):
    return {}[event["order_id"]]

def handle(event: dict, record: Record) -> None:
    logging.getLogger("shop").info("charged", extra={"order": event["order_id"]})
    if event["order_id"] == "A-1" or (event["order_id"] == "A-2" and record.attempt < 3):
        price_of(event)

def transform(event: dict, record: Record) -> Keyed:
    handle(event, record)
    return Keyed(event["customer_id"], event)
"""


def objects(text: str) -> list[dict[str, Any]]:
    """Every line has to be an object."""
    return [json.loads(line) for line in text.splitlines()]


def at(level: str, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if line["level"] == level and "failure" in line]


def test_worker_until_all_is_settled_says_every_failure_as_json_and_keeps_the_traceback(pipe: Pipe) -> None:
    (pipe.home / "shop.py").write_text(SHOP)
    pipe.env |= {"PIPELINE_LOG__FORMAT": "json", "PIPELINE_RETRY__ATTEMPTS": "1", "PIPELINE_RETRY__TIERS": "1s,2s"}
    pipe.produce([order(n) for n in range(4)])
    left = pipe.run("consume", "--handler", "shop:handle", "--until-end")
    assert left.code == 0, left.stderr
    [waiting] = [line for line in objects(left.stderr) if "retry_pending" in line]
    assert (waiting["retry_pending"], waiting["level"]) == (2, "warning")
    ended = pipe.run("consume", "--handler", "shop:handle", "--until-settled", "-v")
    assert ended.code == 0, ended.stderr
    assert json.loads(ended.stdout)["dead_lettered"] == 1
    lines = objects(ended.stderr)
    assert all(line["group"] == pipe.group and line["pid"] for line in lines)
    assert [line["attempt"] for line in at("warning", lines) if line["key"] == "A-1"] == [2, 3]
    [dead] = at("error", lines)
    assert (dead["topic"], dead["key"], dead["error_class"]) == (pipe.topic, "A-1", "KeyError")
    assert "in price_of" in dead["exception"]
    assert {line["order"] for line in lines if line["logger"] == "shop"} == {"A-1", "A-2"}
    assert [line["consumed"] for line in lines if line["message"].startswith("ended")] != []
    [letter] = letters(pipe)
    assert (letter["key"], letter["attempts"]) == (b"A-1", 3)
    [record] = pipe.records(pipe.dead_letter_topic)
    assert b"in price_of" in (dict(record.headers)[TRACEBACK] or b"")
    shown = pipe.run("deadletters", "show", f"{record.partition}:{record.offset}")
    assert "in price_of" in shown.stdout
    assert pipe.lag() == 0


def test_forwarder_until_all_is_settled_says_every_failure_and_ends(forwarder: Pipe) -> None:
    (forwarder.home / "shop.py").write_text(SHOP)
    forwarder.env |= {"PIPELINE_LOG__FORMAT": "json", "PIPELINE_RETRY__TIERS": "1s,2s"}
    forwarder.produce([order(n) for n in range(4)])
    ended = forwarder.run("forward", "--transform", "shop:transform", "--until-settled", "--instance", "one")
    assert ended.code == 0, ended.stderr
    lines = objects(ended.stderr)
    assert sorted(line["attempt"] for line in at("warning", lines) if line["key"] == "A-1") == [1, 2, 3]
    [dead] = at("error", lines)
    assert (dead["key"], dead["tier"], "in price_of" in dead["exception"]) == ("A-1", 2, True)
    assert {decoded(record)["order_id"] for record in forwarded(forwarder)} == {"A-0", "A-2", "A-3"}


def test_refusal_at_the_start_is_one_object_too(pipe: Pipe) -> None:
    pipe.env |= {"PIPELINE_LOG__FORMAT": "json", "PIPELINE_LOG__LEVEL": "loud"}
    ended = pipe.run("consume", "--until-end")
    [line] = objects(ended.stderr)
    assert (ended.code, line["exit_code"], line["level"]) == (2, 2, "error")
    assert "PIPELINE_LOG__LEVEL" in line["message"]
