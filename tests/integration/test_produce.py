"""`python -m pipeline.produce` as a user runs it, on a real broker and registry."""

import gzip
import json
import os
import random
import signal
import socket
import string
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

from tests.integration.conftest import Pipe, order, wait_until

pytestmark = pytest.mark.integration


def lines(*orders: dict) -> bytes:
    return "".join(json.dumps(each) + "\n" for each in orders).encode()


def test_orders_are_acknowledged_one_by_one_and_read_by_the_clients_own_deserializer(pipe: Pipe) -> None:
    ended = pipe.run("produce", "-v", "--json", "--input", "-", stdin=lines(*(order(n) for n in range(20))))
    assert ended.code == 0, ended.stderr
    assert ended.json | {"seconds": 0} == {"read": 20, "refused": 0, "published": 20, "failed": 0, "seconds": 0}
    assert len(ended.stdout.splitlines()) == 1
    found = pipe.records(pipe.topic)
    for record in found:
        assert f"✔ {pipe.topic} [{record.partition}] @ {record.offset} {record.key.decode()}" in ended.stderr
    with SchemaRegistryClient({"url": pipe.registry_url}) as registry:
        deserializer = AvroDeserializer(registry, conf={"subject.name.strategy.type": "TOPIC"})
        context = SerializationContext(pipe.topic, MessageField.VALUE)
        read = {record.key: deserializer(record.value, context) for record in found}
    assert {key.decode() for key in read} == {f"A-{n}" for n in range(20)}
    assert str(read[b"A-3"]["amount"]) == "4.50"


def test_same_key_always_lands_where_java_would_put_it(pipe: Pipe) -> None:
    pipe.produce([order(n) for n in range(50)])
    for record in pipe.records(pipe.topic):
        assert record.partition == murmur2(record.key) % pipe.partitions


def murmur2(data: bytes) -> int:
    """Kafka's Java partitioner (`org.apache.kafka.common.utils.Utils.murmur2`), made positive."""
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    h = (0x9747B28C ^ len(data)) & mask
    for at in range(0, len(data) // 4 * 4, 4):
        k = int.from_bytes(data[at : at + 4], "little") * m & mask
        h = (h * m & mask) ^ ((k ^ k >> 24) * m & mask)
    if tail := data[len(data) // 4 * 4 :]:
        h = (h ^ int.from_bytes(tail, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return (h ^ h >> 15) & 0x7FFFFFFF


def test_bad_lines_go_to_the_rejects_file_and_the_others_are_published(pipe: Pipe) -> None:
    bad = [
        b"{broken\n",
        lines({key: value for key, value in order(1).items() if key != "amount"}),
        lines(order(2, amount="1.234")),
        lines(order(3)).replace(b'"4.50"', b"NaN"),
        lines(order(4, timestamp_utc="2026-01-01T00:00:00")),
        b'{"order_id": "' + b"x" * (1 << 20) + b'"}\n',
    ]
    source = pipe.home / "orders.ndjson.gz"
    source.write_bytes(gzip.compress(lines(order(0)) + b"".join(bad) + lines(order(9))))
    ended = pipe.run("produce", "--json", "--input", str(source), "--rejects", "rejects.ndjson")
    assert ended.code == 3, ended.stderr
    assert (ended.json["published"], ended.json["refused"]) == (2, 6)
    rejects = [json.loads(line) for line in (pipe.home / "rejects.ndjson").read_text().splitlines()]
    assert [each["line"] for each in rejects] == [2, 3, 4, 5, 6, 7]
    says = ["not valid JSON", "amount: Field required", "2 decimal places", "expected value", "timezone", "longer than"]
    assert all(words in each["reason"] for words, each in zip(says, rejects, strict=True)), rejects
    assert sorted(record.key for record in pipe.records(pipe.topic)) == [b"A-0", b"A-9"]


def test_without_a_rejects_file_the_reason_is_said(pipe: Pipe) -> None:
    ended = pipe.run("produce", "--input", "-", stdin=lines(order(2, amount="1.234")))
    assert ended.code == 3
    assert "line 1 refused: amount" in ended.stderr


def test_truncated_gzip_publishes_what_was_whole_and_says_where_it_broke(pipe: Pipe) -> None:
    source = pipe.home / "cut.ndjson.gz"
    packed = gzip.compress(lines(*(order(n, customer_id=f"{n * 7919 % 10007}") for n in range(20_000))))
    source.write_bytes(packed[: len(packed) // 2])
    ended = pipe.run("produce", "--json", "--input", str(source))
    assert ended.code == 1
    assert "ends in the middle, after line" in ended.stderr
    assert ended.json["refused"] == ended.json["failed"] == 0
    assert len(pipe.records(pipe.topic)) == ended.json["published"] > 0


def test_csv_is_published_like_ndjson(pipe: Pipe) -> None:
    text = b"OrderId,CustomerId,Amount,TimestampUtc\nA-1,C-1,1.50,2026-01-01T00:00:00Z\n"
    assert pipe.run("produce", "--input", "-", stdin=text).code == 0
    assert [record.key for record in pipe.records(pipe.topic)] == [b"A-1"]


def test_generated_orders_are_published(pipe: Pipe) -> None:
    ended = pipe.run("produce", "--generate", "500", "--seed", "1", "--json")
    assert (ended.code, ended.json["published"]) == (0, 500)


def test_unregistered_schema_is_refused_before_anything_is_sent(bare_pipe: Pipe) -> None:
    bare_pipe.create_topics()
    ended = bare_pipe.run("produce", "--generate", "1")
    assert ended.code == 2
    assert "make register-schemas" in ended.stderr
    assert bare_pipe.records(bare_pipe.topic) == []


def test_absent_topic_is_refused(bare_pipe: Pipe) -> None:
    bare_pipe.register_schemas()
    ended = bare_pipe.run("produce", "--generate", "1")
    assert ended.code == 2
    assert f"{bare_pipe.topic} is not there" in ended.stderr
    assert "make topics" in ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--input", "nowhere.ndjson"],
        [],
        ["--input", "-", "--generate", "1"],
        ["--generate", "0"],
        ["--nonsense"],
        ["--input", ""],
        ["--input", "-", "--seed", "1"],
    ],
)
def test_wrong_usage_is_refused_with_exit_2(bare_pipe: Pipe, arguments: list[str]) -> None:
    ended = bare_pipe.run("produce", *arguments)
    assert ended.code == 2
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr


def free_port() -> int:
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


def test_absent_registry_absent_broker_and_wrong_port_are_given_up_with_exit_1_and_their_address(pipe: Pipe) -> None:
    """Each takes its 30 s, so they take them together. The third port is the registry's: it answers, but is no Kafka."""
    registry, broker = f"http://127.0.0.1:{free_port()}/apis/ccompat/v7", f"127.0.0.1:{free_port()}"
    no_kafka = pipe.registry_url.split("/")[2]
    flags = [["-b", pipe.bootstrap_servers], ["-b", broker], ["-b", no_kafka]]
    waiting = []
    for number, flag in enumerate(flags):
        pipe.env["PIPELINE_REGISTRY__URL"] = registry if number == 0 else pipe.registry_url
        waiting.append(pipe.start("produce", "--generate", "1", *flag))
    for process, address in zip(waiting, [registry, broker, no_kafka], strict=True):
        ended = process.ended()
        assert ended.code == 1
        assert address in ended.stderr
        assert "Traceback" not in ended.stderr


def test_order_too_large_for_the_topic_is_named_as_not_there(bare_pipe: Pipe) -> None:
    bare_pipe.create_topics(**{"max.message.bytes": "250"})
    bare_pipe.register_schemas()
    # Compression must not make it small enough after all.
    noise = "".join(random.Random(1).choices(string.ascii_letters + string.digits, k=256))
    ended = bare_pipe.run("produce", "--json", "--input", "-", stdin=lines(order(1), order(2, customer_id=noise)))
    assert ended.code == 1
    assert (ended.json["published"], ended.json["failed"]) == (1, 1)
    assert "✖ A-2 is not acknowledged (it is not in the topic)" in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_reading_and_waits_for_the_acknowledgements(pipe: Pipe, number: int) -> None:
    process = pipe.start("produce", "--generate", "100000", "--rate", "200", "-v", "--json")
    process.wait_for_line("✔")
    ended = process.end(number)
    assert ended.code == 0, ended.stderr
    assert ended.json["published"] == len(wait_until(lambda: pipe.records(pipe.topic), "records"))
    assert ended.json["failed"] == 0
    # Whatever was read when the signal came is acknowledged; that it is not all is said, since the exit code does not.
    assert f"✖ stopped after order {ended.json['read']}: the rest was not made up" in ended.stderr


def test_stopped_in_the_middle_of_a_file_it_says_after_which_line(pipe: Pipe) -> None:
    source = pipe.home / "orders.ndjson"
    pipe.write_orders(source, [order(n) for n in range(2000)])
    process = pipe.start("produce", "--input", str(source), "--rate", "200", "-v", "--json")
    process.wait_for_line("✔")
    ended = process.end()
    assert ended.code == 0, ended.stderr
    assert set(ended.json) == {"read", "refused", "published", "failed", "seconds"}
    assert 0 < ended.json["published"] < 2000
    assert f"✖ stopped after line {ended.json['published']}: the rest of {source} was not read" in ended.stderr


def test_order_from_a_pipe_that_stays_open_is_said_at_once_and_one_signal_ends_it(pipe: Pipe) -> None:
    reading, writing = os.pipe()
    try:
        process = pipe.start("produce", "-i", "-", "-v", "--json", stdin=reading)
        os.write(writing, lines(order(1)) + b'{"order_id": "half')
        process.wait_for_line("A-1", timeout_s=20)
        ended = process.end(signal.SIGINT, timeout_s=10)
    finally:
        os.close(reading)
        os.close(writing)
    assert (ended.code, ended.json["read"], ended.json["published"]) == (0, 1, 1), ended.stderr
    assert "✖ stopped after line 1: the rest of standard input was not read" in ended.stderr


def test_silent_pipe_is_left_at_the_first_signal_with_a_result_of_zeros(pipe: Pipe) -> None:
    reading, writing = os.pipe()
    try:
        process = pipe.start("produce", "-i", "-", "--json", stdin=reading)
        wait_until(lambda: catches(process.popen.pid, signal.SIGINT), "the handler of signals")
        ended = process.end(signal.SIGINT, timeout_s=10)
    finally:
        os.close(reading)
        os.close(writing)
    assert (ended.code, ended.json) == (0, ZEROS), ended.stderr
    assert "nothing was published" in ended.stderr


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler of its own for this signal and one more: Python's own is for SIGINT alone."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt:")).split()[1], 16)
    return all(caught >> (each - 1) & 1 for each in (number, signal.SIGTERM))


ZEROS = {"read": 0, "refused": 0, "published": 0, "failed": 0, "seconds": 0}


def test_absent_broker_is_said_to_be_waited_for_and_the_first_signal_ends_the_wait(pipe: Pipe) -> None:
    process = pipe.start("produce", "--generate", "1", "--json", "-b", f"127.0.0.1:{free_port()}")
    process.wait_for_line("Waiting for it", timeout_s=15)
    ended = process.end(signal.SIGINT, timeout_s=10)
    assert (ended.code, ended.json) == (0, ZEROS), ended.stderr
    assert ended.stderr.count("Waiting for it") == 1


def test_rejects_file_that_is_the_input_on_standard_input_is_refused_and_kept(pipe: Pipe) -> None:
    source = pipe.home / "orders.ndjson"
    source.write_bytes(b"{broken\n")
    with source.open("rb") as stdin:
        ended = pipe.start("produce", "-i", "-", "--rejects", str(source), stdin=stdin).ended()
    assert (ended.code, source.read_bytes()) == (2, b"{broken\n"), ended.stderr
    assert "is the input itself" in ended.stderr


def test_topic_of_another_event_is_refused_once_with_the_name_of_its_schema(bare_pipe: Pipe) -> None:
    bare_pipe.create_topics()
    file = bare_pipe.schemas / f"{bare_pipe.topic}-value/v1.avsc"
    file.write_text(file.read_text().replace('"OrderPlaced"', '"PaymentTaken"'))
    bare_pipe.register_schemas()
    ended = bare_pipe.run("produce", "--generate", "3", "--json")
    assert (ended.code, ended.stdout) == (2, "")
    assert "produce writes orders (shop.orders.OrderPlaced)" in ended.stderr
    assert f"the schema of {bare_pipe.topic}-value is shop.orders.PaymentTaken" in ended.stderr


def test_closed_standard_streams_are_said_in_words(pipe: Pipe) -> None:
    for arguments, code, says in [("-i - <&-", 2, "Standard input"), ("--generate 1 --json >&-", 1, "standard output")]:
        done = subprocess.run(
            ["bash", "-c", f'exec "$0" -m pipeline.produce {arguments}', sys.executable],
            env=pipe.env, cwd=pipe.home, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert f"{says} is closed" in done.stderr
        assert "Traceback" not in done.stderr
