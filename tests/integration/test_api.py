"""The orders API on a real broker: what it promises, its edges, and its contract."""

import json
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

from tests.integration.conftest import ROOT, Pipe, wait_until
from tests.integration.web import CAMEL, Web, free_port, running

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("api")]
MEDIA = "application/problem+json"


@pytest.fixture(scope="module")
def shared(stack: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """One API for the tests that do it no harm; slow clients have two seconds."""
    pipe = Pipe(stack.bootstrap_servers, stack.registry_url, tmp_path_factory.mktemp("api"))
    pipe.create_topics()
    pipe.register_schemas()
    pipe.env["PIPELINE_API__READ_TIMEOUT"] = "2"
    with running(pipe) as web:
        yield web
    ended = web.process.end()
    pipe.stop_all()
    assert ended.code == 0, ended.stderr


def keys(pipe: Pipe) -> list[str]:
    return [(record.key or b"").decode() for record in pipe.records(pipe.topic)]


def problem(answer: httpx.Response, status: int, name: str) -> dict[str, Any]:
    """What it says; every problem has the same members, and the request's id."""
    said: dict[str, Any] = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (status, MEDIA), answer.text
    assert said["type"] == f"urn:orders-pipeline:problem:{name}"
    assert (said["status"], said["requestId"]) == (status, answer.headers["x-request-id"])
    return said


def test_curl_line_of_the_readme_is_accepted_and_read_by_the_clients_own_deserializer(shared: Web) -> None:
    text = re.search(r"^\$ (curl .*?[^\\])$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert text, "the README has a curl line"
    line = text[1].replace("\\\n", " ").replace("localhost:8000", f"localhost:{shared.port}")
    ended = subprocess.run(shlex.split(line), capture_output=True, text=True, timeout=30, check=True)
    answer = json.loads(ended.stdout)
    assert set(answer) == {"orderId", "topic"}, ended.stdout
    [record] = [it for it in shared.pipe.records(shared.pipe.topic) if it.key == answer["orderId"].encode()]
    with SchemaRegistryClient({"url": shared.pipe.registry_url}) as registry:
        deserialize = AvroDeserializer(registry)
        datum = deserialize(record.value, SerializationContext(record.topic, MessageField.VALUE))
    assert datum is not None
    assert datum["order_id"] == answer["orderId"]
    found = wait_until(lambda: _stored(shared, answer["orderId"]), "the order stored by the worker")
    assert found["amount"] == str(datum["amount"])


def _stored(web: Web, order_id: str) -> Any:
    answer = web.http.get(f"/api/orders/{order_id}")
    return answer.json() if answer.status_code == 200 else None


def test_order_in_each_spelling_is_accepted_with_the_seven_digits_of_dotnet(shared: Web) -> None:
    snake = {"order_id": "S-2", "customer_id": "c", "amount": 1, "timestamp_utc": "2026-01-01T01:00:00.1234567+01:00"}
    pascal = {"OrderId": "S-3/ü 3", "CustomerId": "c", "Amount": 0.1, "TimestampUtc": "2026-01-01T00:00:00.9999999Z"}
    answers = [shared.http.post("/api/orders", json=each) for each in (CAMEL | {"orderId": "S-1"}, snake, pascal)]
    assert [answer.status_code for answer in answers] == [202, 202, 202]
    assert answers[1].json() == {"orderId": "S-2", "topic": shared.pipe.topic}
    read = wait_until(lambda: _stored(shared, "S-2"), "S-2 stored")
    assert read == {
        "orderId": "S-2",
        "customerId": "c",
        "amount": "1.00",
        "timestampUtc": "2026-01-01T00:00:00.123000Z",
    }
    location = answers[2].headers["location"]
    found = wait_until(lambda: shared.http.get(location).json().get("orderId"), "an id with slash and blank is found")
    assert found == "S-3/ü 3"


def test_request_at_every_edge_is_refused_in_the_same_words_and_reaches_no_topic(shared: Web) -> None:
    http, before = shared.http, shared.pipe.end_of(shared.pipe.topic)
    as_json = {"content-type": "application/json"}

    def post(content: Any, headers: dict[str, str] = as_json) -> httpx.Response:
        return http.post("/api/orders", content=content, headers=headers)

    valid = json.dumps(CAMEL).encode()
    problem(post(valid, {}), 415, "wrong-type")
    problem(post(valid, {"content-type": "text/plain"}), 415, "wrong-type")
    problem(post(valid, {"content-type": "application/json; charset=utf-16"}), 415, "wrong-type")
    problem(post(valid, as_json | {"content-encoding": "gzip"}), 415, "wrong-encoding")
    problem(post(b" " * 1_048_577), 413, "too-large")
    problem(post(iter([b" " * 65_536] * 17)), 413, "too-large")
    for bad in (b"", b"{", b"\xff", b"\xef\xbb\xbf{}", b'{"a": NaN}', b'{"a":1,"a":2}', b"[" * 100_000):
        problem(post(bad), 400, "bad-json")
    for bad in (b"[]", b"null", b'"x"'):
        problem(post(bad), 422, "invalid-order")
    said = problem(shared.send(amount="1.234", extra=1), 422, "invalid-order")
    assert [each["field"] for each in said["errors"]] == ["amount", "extra"]
    assert "1.234" not in json.dumps(said), "a reason never holds the value: it may be personal"
    problem(shared.send(amount="1e400"), 422, "invalid-order")
    problem(post(valid.replace(b'"139.12"', b"1e400")), 422, "invalid-order")
    problem(shared.send(orderId="x" * 257), 422, "invalid-order")
    problem(shared.send(timestampUtc="2026-01-01T00:00:00"), 422, "invalid-order")
    for method in ("PUT", "DELETE", "TRACE"):
        answer = http.request(method, "/api/orders")
        problem(answer, 405, "method-not-allowed")
        assert answer.headers["allow"] == "POST"
    problem(http.get("/api/nothing"), 404, "not-found")
    problem(http.get("/api/orders/none-of-this-id"), 404, "no-order")
    problem(http.get("/api/orders/%00"), 404, "no-order")
    problem(http.get("/api/orders/..%2f..%2fetc%0dX:1"), 404, "no-order")
    problem(http.get("/api/orders/a%0d%0aX:1"), 404, "not-found")
    problem(post(valid, as_json | {"idempotency-key": "k" * 256}), 400, "bad-key")
    assert http.get("/api/orders/ping").text == "pong"
    assert shared.pipe.end_of(shared.pipe.topic) == before


def test_answers_carry_the_request_id_and_what_keeps_browsers_safe(shared: Web) -> None:
    answer = shared.http.get("/api/orders/ping", headers={"x-request-id": "abc-1"})
    assert answer.headers["x-request-id"] == "abc-1"
    assert shared.http.get("/api/orders/ping", headers={"x-request-id": "a b"}).headers["x-request-id"] != "a b"
    for header in ("content-security-policy", "x-content-type-options", "referrer-policy", "x-frame-options"):
        assert answer.headers[header]
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert "server" not in answer.headers


def raw(web: Web, *pieces: bytes) -> bytes:
    """What comes back on a connection that sends this, each piece once the one before was answered, until it is closed."""
    with socket.create_connection(("127.0.0.1", web.port), timeout=20) as connection:
        for piece in pieces[:-1]:
            connection.sendall(piece)
            connection.recv(65_536)
        connection.sendall(pieces[-1])
        answer = b""
        while received := connection.recv(65_536):
            answer += received
        return answer


def test_slow_client_is_let_go_wherever_it_is_slow(shared: Web) -> None:
    head = b"POST /api/orders HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n"
    ping = b"GET /api/orders/ping HTTP/1.1\r\nhost: localhost\r\n\r\n"
    slow = {
        "says nothing": (b"",),
        "stops in the head": (head,),
        "stops in the body": (head + b'\r\n{"orderId":',),
        "sends a blank line after an answer": (ping, b"\r\n"),
    }
    with ThreadPoolExecutor(len(slow)) as pool:
        answers = dict(zip(slow, pool.map(lambda pieces: raw(shared, *pieces), slow.values()), strict=True))
    for how, answer in answers.items():
        assert b"HTTP/1.1 408" in answer, how
    assert b"too-slow" in answers["stops in the body"]


def test_key_sent_twice_is_done_once(shared: Web) -> None:
    def send(order_id: str, key: str) -> httpx.Response:
        return shared.http.post("/api/orders", json=CAMEL | {"orderId": order_id}, headers={"idempotency-key": key})

    first, again = send("I-1", "key-1"), send("I-1", "key-1")
    assert [first.status_code, again.status_code] == [202, 202]
    assert first.json() == again.json()
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    problem(send("I-2", "key-1"), 422, "other-body")
    assert keys(shared.pipe).count("I-1") == 1
    with ThreadPoolExecutor(8) as pool:
        twins = list(pool.map(lambda _: send("I-3", "key-3"), range(8)))
    assert {answer.status_code for answer in twins} <= {202, 409}
    assert 202 in {answer.status_code for answer in twins}
    assert keys(shared.pipe).count("I-3") == 1


def test_batch_answers_line_by_line_whatever_becomes_of_the_others(shared: Web) -> None:
    lines = [
        json.dumps(CAMEL | {"orderId": "B-1"}), "", "{", json.dumps(CAMEL | {"orderId": "B-2", "amount": "x"}),
        "[" + " " * 1_100_000 + "]", json.dumps(CAMEL | {"orderId": "B-3"}),
    ]  # fmt: skip
    ndjson = {"content-type": "application/x-ndjson"}
    answer = shared.http.post("/api/orders/batch", content="\n".join(lines).encode(), headers=ndjson)
    assert answer.status_code == 200
    said = [json.loads(line) for line in answer.text.splitlines()]
    found = [(each["line"], each["status"], each.get("orderId")) for each in said]
    assert found == [(1, 202, "B-1"), (3, 400, None), (4, 422, None), (5, 413, None), (6, 202, "B-3")]
    assert {"B-1", "B-3"} <= set(keys(shared.pipe))
    problem(shared.http.post("/api/orders/batch", content=b"{}"), 415, "wrong-type")


def test_batch_that_is_sent_before_anything_is_read_comes_through_up_to_its_last_line(shared: Web) -> None:
    body = "".join(json.dumps(CAMEL | {"orderId": f"L-{n}"}) + "\n" for n in range(10_100)).encode()
    ndjson = {"content-type": "application/x-ndjson"}
    answer = shared.http.post("/api/orders/batch", content=body, headers=ndjson)
    said = [json.loads(line) for line in answer.text.splitlines()]
    assert [each["status"] for each in said] == [202] * 10_000 + [413]
    assert len({key for key in keys(shared.pipe) if key.startswith("L-")}) == 10_000


def test_trace_context_of_the_request_travels_on_the_record(shared: Web) -> None:
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    shared.http.post(
        "/api/orders", json=CAMEL | {"orderId": "T-1"}, headers={"traceparent": parent, "tracestate": "a=b"}
    )
    [record] = [it for it in shared.pipe.records(shared.pipe.topic) if it.key == b"T-1"]
    assert dict(record.headers) == {"traceparent": parent.encode(), "tracestate": b"a=b"}


def test_metrics_count_requests_orders_and_the_worker(shared: Web) -> None:
    shared.send(orderId="M-1")
    text = shared.http.get("/metrics").text
    assert 'pipeline_api_orders_total{outcome="accepted"}' in text
    assert 'route="/api/orders"' in text
    wait_until(lambda: 'outcome="handled"' in shared.http.get("/metrics").text, "the worker's own counts")


def test_documentation_needs_no_other_host(shared: Web) -> None:
    page = shared.http.get("/docs").text
    assert "http" not in page.replace('"http-equiv"', "")
    for path in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert shared.http.get(path).status_code == 200, path
    assert shared.http.get("/openapi.json").json()["paths"]["/api/orders"]["post"]["requestBody"]


def test_api_with_keys_lets_in_who_has_one(pipe: Pipe) -> None:
    pipe.env["PIPELINE_API__KEYS"] = "the-first-of-all-keys, another-of-the-keys"
    with running(pipe, "--no-worker") as web:
        refused = web.send()
        problem(refused, 401, "no-key")
        assert refused.headers["www-authenticate"].startswith("Basic")
        for path in ("/", "/docs", "/openapi.json", "/metrics", "/api/orders/x"):
            assert web.http.get(path).status_code == 401, path
        assert web.http.get("/api/orders/ping").text == "pong"
        problem(web.http.post("/api/orders", json=CAMEL, headers={"x-api-key": "wrong"}), 401, "no-key")
        for headers in ({"x-api-key": "the-first-of-all-keys"}, {"authorization": "Bearer another-of-the-keys"}):
            assert web.http.post("/api/orders", json=CAMEL, headers=headers).status_code == 202
        assert web.http.post("/api/orders", json=CAMEL, auth=("anybody", "another-of-the-keys")).status_code == 202
        ended = web.process.end()
    assert ended.code == 0
    assert "the-first-of-all-keys" not in ended.stderr


def test_api_begins_without_topic_and_schema_and_refuses_for_good_what_is_not_registered(bare_pipe: Pipe) -> None:
    web = Web(bare_pipe, "--no-worker")
    ended = web.process.ended()
    web.http.close()
    assert ended.code == 2, ended.stderr
    assert "make register-schemas" in ended.stderr


def test_api_without_broker_and_registry_is_live_says_that_it_is_not_ready_and_ends_with_exit_0(
    bare_pipe: Pipe,
) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    bare_pipe.env |= {"PIPELINE_KAFKA__BOOTSTRAP_SERVERS": nobody, "PIPELINE_REGISTRY__URL": f"http://{nobody}"}
    web = Web(bare_pipe)
    wait_until(lambda: web.status("/healthz/live") == 200, "the API is live")
    problem(web.http.get("/healthz/ready"), 503, "unready")
    refused = web.send()
    assert problem(refused, 503, "not-ready")["outcome"] == "not_accepted"
    assert refused.headers["retry-after"] == "1"
    problem(web.http.get("/api/orders/A-1"), 404, "no-order")
    problem(web.http.get("/dashboard/letters"), 503, "away")
    web.http.close()
    ended = web.process.end()
    assert ended.code == 0, ended.stderr
    assert "Traceback" not in ended.stderr


def test_uvicorn_itself_serves_the_same_app_and_ends_beside_an_open_stream(pipe: Pipe) -> None:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", "pipeline.api.app:create", "--port", str(port)]
    with (
        subprocess.Popen(command, env=pipe.env, cwd=pipe.home, stderr=subprocess.DEVNULL) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http,
    ):
        try:

            def accepted() -> bool:
                try:
                    return http.post("/api/orders", json=CAMEL).status_code == 202
                except httpx.TransportError:
                    return False

            wait_until(accepted, "an order is accepted")
            wait_until(lambda: pipe.rows("select order_id from orders") == [("A-1",)], "the worker stored it")
            with http.stream("GET", "/dashboard/events") as stream:
                next(stream.iter_lines())
                server.terminate()
                server.wait(timeout=60)
        finally:
            server.kill()
    assert keys(pipe) == ["A-1"]
    assert pipe.lag() == 0, "and the worker committed what it did"


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_api_that_others_reach_without_a_key_does_not_start(bare_pipe: Pipe, host: str) -> None:
    ended = bare_pipe.run("api", "--host", host, "--port", str(free_port()))
    assert ended.code == 2
    assert "PIPELINE_API__KEYS" in ended.stderr


def test_heads_held_half_open_keep_nobody_out(pipe: Pipe) -> None:
    pipe.env["PIPELINE_API__CONNECTIONS"] = "20"
    with running(pipe, "--no-worker") as web, ExitStack() as held:
        for _ in range(100):
            half = held.enter_context(socket.create_connection(("127.0.0.1", web.port), timeout=20))
            half.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n")
        for number in range(5):
            with httpx.Client(base_url=web.url, timeout=20) as http:
                assert http.post("/api/orders", json=CAMEL | {"orderId": f"H-{number}"}).status_code == 202
                assert http.get("/healthz/live").status_code == 200


def test_head_without_end_is_cut_off_and_the_client_sees_why(shared: Web) -> None:
    head = b"GET / HTTP/1.1\r\nhost: localhost\r\na: " + b"x" * 1_000_000
    assert raw(shared, head).startswith(b"HTTP/1.1 431 ")
    assert raw(shared, b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert raw(shared, b"GET http://evil.example/ HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").startswith(
        b"HTTP/1.1 421 "
    )


def test_port_that_is_taken_is_refused(pipe: Pipe) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = pipe.run("api", "--port", str(taken.getsockname()[1]), "--no-worker")
    assert ended.code == 2
    assert "--port" in ended.stderr


def test_full_queue_is_said_and_what_was_refused_is_in_no_topic(pipe: Pipe) -> None:
    pipe.env["PIPELINE_API__QUEUE"] = "5"
    with running(pipe, "--no-worker") as web, ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda n: web.send(orderId=f"Q-{n}"), range(400)))
    refused = {f"Q-{n}" for n, answer in enumerate(answers) if answer.status_code == 503}
    for answer in answers:
        if answer.status_code == 503:
            said = problem(answer, 503, "queue-full")
            assert (said["outcome"], answer.headers["retry-after"]) == ("not_accepted", "1")
    assert {answer.status_code for answer in answers} == {202, 503}
    assert sorted(keys(pipe)) == sorted({f"Q-{n}" for n in range(400)} - refused)


def test_schemathesis_finds_no_failure_of_the_server_and_no_answer_that_the_document_does_not_name(shared: Web) -> None:
    ended = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "run", f"{shared.url}/openapi.json",
            "--phases", "examples,coverage,fuzzing", "--max-examples", "40", "--seed", "1",
            "--workers", "1", "--no-color", "--generation-database", "none",
        ],
        env=shared.pipe.env | {"SCHEMATHESIS_HOOKS": "tests.integration.schemathesis_hooks"},
        cwd=shared.pipe.home, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
