"""What is asked of the app is answered, whatever it is: never by a traceback, and never by more than was asked. No server."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipeline import settings
from pipeline.api.app import application
from pipeline.api.dashboard import bounded
from pipeline.api.orders import read_order
from pipeline.api.problems import Problem
from pipeline.api.service import Service

HOME = "http://localhost:8000"
ORDER = {"orderId": "A-1", "customerId": "c", "amount": "1.00", "timestampUtc": "2026-01-01T00:00:00Z"}
JSON = {"content-type": "application/json"}


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[httpx.Response]]:
    """What the app answers to each of these requests; nothing of it is open: no broker, no thread."""
    monkeypatch.chdir(tmp_path)

    def asked(*requests: dict[str, Any], api: dict[str, Any] | None = None) -> list[httpx.Response]:
        service = Service(settings.Settings(api=settings.Api(worker=False, **(api or {}))))
        transport = httpx.ASGITransport(application(service), client=("192.0.2.1", 1))

        async def ask() -> list[httpx.Response]:
            async with httpx.AsyncClient(transport=transport, base_url=HOME) as http:
                return [await http.request(**each) for each in requests]

        return asyncio.run(ask())

    return asked


def get(path: str = "/docs", **headers: str) -> dict[str, Any]:
    return {"method": "GET", "url": path, "headers": headers}


def post(path: str = "/api/orders", content: Any = b"{}", **headers: str) -> dict[str, Any]:
    return {"method": "POST", "url": path, "content": content, "headers": JSON | headers}


Answers = Callable[..., list[httpx.Response]]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.:9", "a.localhost:8000", "127.0.0.1", "[::1]:8000"])
def test_this_machines_own_names_are_answered(answers: Answers, host: str) -> None:
    assert [each.status_code for each in answers(get(host=host), post(host=host))] == [200, 422]


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "127.1"],
)
def test_page_that_points_its_own_name_here_reads_and_changes_nothing(answers: Answers, host: str) -> None:
    asked = answers(get(host=host), get("/dashboard/letters", host=host), get("/metrics", host=host), post(host=host),
                    post("/dashboard/redrive", host=host), get("/api/orders/A-1", host=host))  # fmt: skip
    assert {each.status_code for each in asked} == {421}
    assert {each.json()["type"] for each in asked} == {"urn:orders-pipeline:problem:other-host"}
    [probe] = answers(get("/healthz/live", host=host))
    assert probe.status_code == 200, "a probe asks by an address"


@pytest.mark.parametrize("host", ["", "user@localhost", "localhost:x", "localhost, localhost", "local host"])
def test_host_that_is_malformed_is_a_bad_request(answers: Answers, host: str) -> None:
    assert [each.status_code for each in answers(get(host=host), get("/healthz/live", host=host))] == [400, 400]


def test_two_hosts_are_a_bad_request_and_so_is_none(answers: Answers) -> None:
    twice = {"method": "GET", "url": "/", "headers": [("host", "localhost"), ("host", "localhost")]}
    assert [each.status_code for each in answers(twice)] == [400]


def test_hosts_of_the_settings_are_answered(answers: Answers) -> None:
    api = {"allowed_hosts": "orders.example, *.shop.example, 10.0.0.0/8"}
    hosts = ("orders.example", "a.shop.example:443", "10.2.3.4:8000", "localhost", "other.example")
    assert [each.status_code for each in answers(*(get(host=host) for host in hosts), api=api)] == [200] * 4 + [421]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 422),
        ({"origin": HOME}, 422),
        ({"origin": "http://LOCALHOST:8000"}, 422),
        ({"sec-fetch-site": "same-origin"}, 422),
        ({"sec-fetch-site": "none"}, 422),
        ({"origin": "http://localhost:3000"}, 403),
        ({"origin": "http://127.0.0.1:8000"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"origin": "file://"}, 403),
        ({"origin": f"{HOME}, {HOME}"}, 403),
        ({"origin": "http://localhost:8000@evil.example"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
)
def test_change_comes_from_a_page_of_ours_or_from_none(answers: Answers, headers: dict[str, str], status: int) -> None:
    found = answers(post(**headers), get(**headers))
    assert [each.status_code for each in found] == [status, 200]


def test_origin_that_a_proxy_has_is_named_in_the_settings(answers: Answers) -> None:
    asked = [post(origin="https://orders.example"), post(origin="https://evil.example")]
    assert [each.status_code for each in answers(*asked, api={"allowed_hosts": "orders.example"})] == [422, 403]


DEEP = b"[" * 100_000
DIGITS = "9" * 5_000
REDRIVES = {
    "deep": b'{"selection": ' + DEEP,
    "deep in a name": b'{"selection": {"key": ' + DEEP + b"]" * 100_000 + b'}, "dry_run": true}',
    "letter of 5 000 digits": json.dumps({"selection": {"ids": [f"0:{DIGITS}"]}, "dry_run": True}).encode(),
    "partition of 5 000 digits": json.dumps({"selection": {"ids": [f"{DIGITS}:0"]}, "dry_run": True}).encode(),
    "number of 5 000 digits": b'{"selection": {"ids": [' + DIGITS.encode() + b']}, "dry_run": true}',
    "source of 5 000 digits": json.dumps({"selection": {"source": f"a:{DIGITS}"}, "dry_run": True}).encode(),
    "source offsets": json.dumps({"selection": {"source": f"a:0:{DIGITS}-{DIGITS}"}, "dry_run": True}).encode(),
    "expect of 5 000 digits": b'{"selection": {"key": "a"}, "dry_run": false, "expect": ' + DIGITS.encode() + b"}",
    "expect as a text": json.dumps({"selection": {"key": "a"}, "dry_run": False, "expect": DIGITS}).encode(),
    "expect without end": b'{"selection": {"key": "a"}, "dry_run": false, "expect": 1e999}',
    "expect NaN": b'{"selection": {"key": "a"}, "dry_run": false, "expect": NaN}',
    "negative": b'{"selection": {"key": "a"}, "dry_run": false, "expect": -1}',
    "reason as a number": b'{"selection": {"reason": ' + DIGITS.encode() + b'}, "dry_run": true}',
    "selection of pairs": b'{"selection": [["key", "a"]], "dry_run": true}',
    "time beyond the years": json.dumps(
        {"selection": {"since": "9999-12-31T23:59:59-23:59"}, "dry_run": False}
    ).encode(),
    "time of digits": json.dumps({"selection": {"since": DIGITS}, "dry_run": True}).encode(),
    "half a character": b'{"selection": {"key": "\\ud800"}, "dry_run": true}',
    "no UTF-8": b"\xff\xfe",
    "nothing": b"",
    "many ids": json.dumps({"selection": {"ids": ["0:1"] * 20_000}, "dry_run": True}).encode(),
}


@pytest.mark.parametrize("body", REDRIVES.values(), ids=REDRIVES)
def test_redrive_that_is_none_is_refused_in_words(answers: Answers, body: bytes) -> None:
    [answer] = answers(post("/dashboard/redrive", body))
    assert answer.status_code in {400, 422}, answer.text
    assert len(answer.content) < 4_000


@pytest.mark.parametrize(
    "path",
    [
        f"/dashboard/letters/0:{DIGITS}", f"/dashboard/letters/{DIGITS}:0", "/dashboard/letters/x", "/dashboard/letters/%00",
        f"/dashboard/letters?offset={DIGITS}", "/dashboard/letters?state=x", f"/dashboard/letters?source=a:{DIGITS}",
        f"/dashboard/letters?since={DIGITS}", "/dashboard/letters?since=2026-01-01", "/dashboard/letters?limit=-1",
        f"/api/orders/{'x' * 60_000}", "/api/orders/%ff%00%1b", "/dashboard/letters?key=%ff%00",
    ],
)  # fmt: skip
def test_question_that_makes_no_sense_is_answered_in_a_few_words(answers: Answers, path: str) -> None:
    [answer] = answers(get(path))
    assert answer.status_code in {404, 422, 503}, answer.text
    assert len(answer.content) < 4_000


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({f"name{n}": n for n in range(60_000)}),
        json.dumps({"x" * 100_000 + str(n): n for n in range(9)}),
        json.dumps(ORDER | {f"name{n}": n for n in range(15)}),
        json.dumps({"orderId": {"a": ["b"] * 100_000}}),
    ],
    ids=["many names", "long names", "some names", "deep values"],
)
def test_answer_to_what_is_no_order_is_bounded(body: str) -> None:
    with pytest.raises(Problem) as refused:
        read_order(body.encode())
    said = refused.value.response("id").body
    assert refused.value.status == 422
    assert len(said) < 8_000, len(said)
    assert len(refused.value.members["errors"]) <= 20


def test_stream_beyond_a_clients_share_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.api.dashboard.CLIENT_STREAMS_MAX", 2)
    service = Service(settings.Settings(api=settings.Api(worker=False)))
    app = application(service)

    async def open_stream(address: str) -> int:
        started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        scope = {
            "type": "http", "http_version": "1.1", "method": "GET", "path": "/dashboard/events", "raw_path": b"",
            "scheme": "http", "query_string": b"", "headers": [(b"host", b"localhost")], "client": (address, 1),
            "server": ("x", 1), "root_path": "",
        }  # fmt: skip

        async def receive() -> Any:
            await asyncio.Event().wait()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                started.set_result(message["status"])

        tasks.append(asyncio.create_task(app(scope, receive, send)))
        return await started

    tasks: list[asyncio.Task[None]] = []

    async def watch() -> None:
        statuses = [await open_stream("192.0.2.1") for _ in range(3)] + [await open_stream("192.0.2.2")]
        assert statuses == [200, 200, 503, 200]
        service.stopping.set()
        await asyncio.wait(tasks, timeout=30)
        assert all(task.done() for task in tasks), "streams end with the process"
        service.stopping.clear()
        assert await open_stream("192.0.2.1") == 200, "their places are free again"
        tasks.pop().cancel()

    asyncio.run(watch())


def test_letter_of_megabytes_is_shown_as_far_as_a_page_can() -> None:
    large = "x" * 3_000_000
    letter = {
        "id": "0:1", "key": large, "error": large, "value": {"a": large}, "value_hex": "00" * 3_000_000,
        "value_undecoded_because": None, "headers": [[large, large]] * 5_000, "letter_headers": [["a", None]],
    }  # fmt: skip
    shown = bounded(letter)
    assert len(json.dumps(shown)) < 1_100_000
    assert set(shown["cut"]) == {"key", "error", "headers", "value_hex", "value", "value_undecoded_because"}
    small = letter | {"key": "k", "error": "e", "value": {"a": 1}, "value_hex": None, "headers": [["a", "b"]]}
    assert bounded(small) == small | {"cut": []}
