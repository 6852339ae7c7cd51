"""Records that a topic refuses for their size or their timestamp, on a real broker: they keep nothing else back."""

import hashlib
import random
import shutil
import time

import pytest
from confluent_kafka import Producer

from tests.integration.conftest import ROOT, Pipe, create, declared, order
from tests.integration.test_forward import forwarder, output

__all__ = ["forwarder"]
pytestmark = pytest.mark.integration
DAY_MS = 86_400_000


def publish(pipe: Pipe, *values: bytes, stamp: int = 0, **properties: str) -> None:
    """Into one batch, all into partition 0."""
    producer = Producer({"bootstrap.servers": pipe.bootstrap_servers, "linger.ms": 200, **properties})
    for value in values:
        producer.produce(pipe.topic, value, b"large", 0, timestamp=stamp)
    assert producer.flush(30) == 0
    producer.close()


def test_letter_that_does_not_fit_goes_without_its_value_in_consume_and_in_forward(forwarder: Pipe) -> None:
    """Five times the same 800 KB, compressed in one window by their sender: 4 MB in a topic that takes 1 MB."""
    value = b"\xff" + random.Random(1).randbytes(800_000) * 5
    publish(forwarder, value, **{"compression.type": "zstd", "message.max.bytes": "10000000"})
    forwarder.produce([order(1)])
    for door in ("consume", "forward"):
        ended = forwarder.run(door, "--until-end", "--json")
        assert (ended.code, ended.json["dead_lettered"]) == (0, 1), ended.stderr
    letters = forwarder.records(forwarder.dead_letter_topic)
    assert len(letters) == 2
    for letter in letters:
        headers = dict(letter.headers)
        assert headers["original-value-sha256"] == hashlib.sha256(value).hexdigest().encode()
        assert headers["original-value-bytes"] == str(len(value)).encode()
    assert len(forwarder.records(output(forwarder))) == 1
    left = forwarder.run("deadletters", "redrive", "--all", "--to-source", "--json")
    assert (left.code, left.json["skipped"]) == (3, 2)
    assert "its value did not fit into the letter" in left.stderr


def test_topic_as_it_is_declared_refuses_what_is_small_only_while_it_is_compressed(bare_pipe: Pipe) -> None:
    bare_pipe.create_topics(**{"compression.type": "uncompressed"})
    producer = Producer(
        {"bootstrap.servers": bare_pipe.bootstrap_servers, "compression.type": "zstd", "message.max.bytes": 100_000_000}
    )
    refused: list[str] = []
    producer.produce(
        bare_pipe.topic, b"a" * 40_000_000, on_delivery=lambda error, _: refused.append(error.name() if error else "")
    )
    assert producer.flush(60) == 0
    producer.close()
    assert refused == ["MSG_SIZE_TOO_LARGE"]


def test_record_from_the_future_or_older_than_the_output_keeps_is_forwarded_with_the_present_time(
    bare_pipe: Pipe,
) -> None:
    """KIP-1030: a broker refuses what is an hour ahead. The source takes it here, and keeps what is old."""
    taken = {"message.timestamp.after.max.ms": str(2**63 - 1), "retention.ms": "-1"}
    bare_pipe.partitions = 1
    bare_pipe.create_topics(**taken)
    shutil.copytree(ROOT / "schemas/orders.by-customer.v1-value", bare_pipe.schemas / f"{output(bare_pipe)}-value")
    bare_pipe.register_schemas()
    create(bare_pipe.cluster, declared(output(bare_pipe), 1, {"retention.ms": str(30 * DAY_MS)}))
    now = time.time_ns() // 1_000_000
    stamps = [now - 60_000, now + 10 * DAY_MS, now - 400 * DAY_MS, now - 30_000]
    for number, stamp in enumerate(stamps):
        publish(bare_pipe, bare_pipe.encoded(order(number)), stamp=stamp)
    bare_pipe.env |= {"PIPELINE_FORWARD__TOPIC": output(bare_pipe), "PIPELINE_FORWARD__GROUP": bare_pipe.group}
    ended = bare_pipe.run("forward", "--until-end", "--json")
    assert (ended.code, ended.json["forwarded"]) == (0, 4), ended.stderr
    out = bare_pipe.records(output(bare_pipe))
    olds = [dict(record.headers).get("original-timestamp") for record in out]
    assert olds == [None, str(stamps[1]).encode(), str(stamps[2]).encode(), None]
    assert [record.timestamp_ms for record in out if not record.headers] == [stamps[0], stamps[3]]
    assert all(abs((record.timestamp_ms or 0) - now) < DAY_MS for record in out)
