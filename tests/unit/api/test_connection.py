"""What a connection may send before anybody looked at its request, and which one goes when there are too many. No sockets."""

import asyncio
import resource
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from pipeline.api import server
from pipeline.api.connection import HEAD_BYTES_MAX, HEADERS_MAX, Crowd
from pipeline.api.server import Hasty


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 1), "sockname": ("127.0.0.1", 8000)})
        self.sent = b""
        self.closed = self.ended = False

    def write(self, data: Any) -> None:
        self.sent += bytes(data)

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Ends:
    """Both ends of connections to one server."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int) -> None:
        self.loop = loop
        self.seen: list[Scope] = []
        self.crowd = Crowd(limit)
        self._config = uvicorn.Config(
            self.app, interface="asgi3", proxy_headers=False, loop="asyncio", log_config=None, ws="none", lifespan="off"
        )
        self._config.load()
        self._state = ServerState()

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.seen.append(scope)
        while (message := await receive())["type"] == "http.request" and message["more_body"]:
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    def connect(self) -> tuple[Hasty, Wire]:
        kind = type("Bounded", (Hasty,), {"crowd": self.crowd})
        it, wire = kind(self._config, self._state, {}, self.loop), Wire()
        it.connection_made(wire)
        return it, wire

    def send(self, *pieces: bytes) -> bytes:
        """What is answered to these pieces."""
        it, wire = self.connect()
        for piece in pieces:
            it.data_received(piece)
            self.run()
        return wire.sent

    def run(self) -> None:
        """Let everything happen that is due."""
        for _ in range(20):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()


@pytest.fixture
def ends() -> Iterator[Callable[..., Ends]]:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield lambda limit=100: Ends(loop, limit)
    for task in asyncio.all_tasks(loop):
        task.cancel()
        loop.run_until_complete(asyncio.wait([task]))
    asyncio.set_event_loop(None)
    loop.close()


GET = b"GET /x HTTP/1.1\r\nhost: a\r\n"
IN_PIECES = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n"
BIG = b"x" * 10_000
TOO_LARGE = {
    "many headers in one piece": [GET + b"a: b\r\n" * 10_000],
    "many headers in many pieces": [GET, *[b"a: b\r\n"] * HEADERS_MAX, b"\r\n"],
    "one value that never ends": [GET + b"a: ", *[BIG] * 8],
    "one name that never ends": [GET, *[BIG] * 8],
    "a path that never ends": [b"GET /", *[BIG] * 8],
    "a path in one piece": [b"GET /" + BIG * 8],
    "a method that is none": [b"\r\n" * 40_000],
    "values that are large together": [GET + b"".join(b"a%d: " % n + BIG + b"\r\n" for n in range(7))],
    "many trailers": [IN_PIECES, b"0\r\n" + b"a: b\r\n" * 10_000],
    "a trailer that never ends": [IN_PIECES, b"0\r\na: ", *[BIG] * 8],
    "a size of a piece that never ends": [IN_PIECES, b"1;", *[BIG] * 8],
}


@pytest.mark.parametrize("pieces", TOO_LARGE.values(), ids=TOO_LARGE)
def test_head_or_trailer_beyond_its_bound_is_answered_431_and_read_no_further(
    ends: Callable[..., Ends], pieces: list[bytes]
) -> None:
    it = ends()
    answer = it.send(*pieces)
    assert answer.startswith(b"HTTP/1.1 431 "), answer
    assert b"application/problem+json" in answer
    assert answer.count(b"HTTP/1.1") == 1, "and nothing else is answered"


def test_head_at_its_bounds_is_taken(ends: Callable[..., Ends]) -> None:
    full = GET + b"a: b\r\n" * (HEADERS_MAX - 1) + b"\r\n"
    large = GET + b"a: " + b"x" * (HEAD_BYTES_MAX - 200) + b"\r\n\r\n"
    for head in (full, large):
        assert ends().send(head).startswith(b"HTTP/1.1 200")
    assert ends().send(*(large[at : at + 700] for at in range(0, len(large), 700))).startswith(b"HTTP/1.1 200")


def test_bound_is_for_each_request_of_a_connection(ends: Callable[..., Ends]) -> None:
    it = ends()
    one = GET + b"a: " + BIG * 6 + b"\r\n\r\n"
    assert it.send(*[one] * 5).count(b"HTTP/1.1 200") == 5
    body = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 200000\r\n\r\n"
    assert it.send(body, *[BIG] * 20).startswith(b"HTTP/1.1 200"), "a body has bounds of its own"


def test_trailer_is_no_header_of_the_request(ends: Callable[..., Ends]) -> None:
    it = ends()
    assert it.send(IN_PIECES, b"0\r\nhost: b\r\nx-api-key: k\r\n\r\n").startswith(b"HTTP/1.1 200")
    assert it.seen[0]["headers"] == [(b"host", b"a"), (b"transfer-encoding", b"chunked")]


@pytest.mark.parametrize(
    ("line", "host"),
    [
        (b"GET http://evil.example/x HTTP/1.1", b"evil.example"),
        (b"GET http://evil.example:81/x?y HTTP/1.1", b"evil.example:81"),
        (b"GET http://localhost@evil.example/ HTTP/1.1", b"localhost@evil.example"),
        (b"GET http://[::1]:80/ HTTP/1.1", b"[::1]:80"),
        (b"GET /http://evil.example/ HTTP/1.1", b"localhost"),
    ],
)
def test_absolute_form_names_the_host_and_not_its_header(ends: Callable[..., Ends], line: bytes, host: bytes) -> None:
    it = ends()
    it.send(line + b"\r\nHost: localhost\r\n\r\n")
    assert [value for name, value in it.seen[0]["headers"] if name == b"host"] == [host]


def test_connection_held_half_open_makes_place_for_one_that_comes(ends: Callable[..., Ends]) -> None:
    it = ends(limit=3)
    held = [it.connect() for _ in range(3)]
    for connection, _ in held:
        connection.data_received(GET)
    for number in range(10):
        assert it.send(GET + b"\r\n").startswith(b"HTTP/1.1 200"), f"request {number} beside half heads"
    assert len(it.crowd) == 3
    assert held[0][1].closed, "the one that had waited longest went"


def test_connection_with_a_request_in_hand_keeps_its_place(ends: Callable[..., Ends]) -> None:
    it = ends(limit=2)
    busy = [it.connect() for _ in range(2)]
    for connection, _ in busy:
        connection.data_received(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\n")
    it.run()
    assert it.send(GET + b"\r\n").startswith(b"HTTP/1.1 503"), "all places have work"
    for connection, wire in busy:
        connection.data_received(b"x")
        it.run()
        assert wire.sent.startswith(b"HTTP/1.1 200")
    assert it.send(GET + b"\r\n").startswith(b"HTTP/1.1 200"), "one that is answered and idle makes place"
    busy[1][0].connection_lost(None)
    assert len(it.crowd) == 1


def test_what_is_no_http_is_answered_once_and_nothing_after_it_is_read(ends: Callable[..., Ends]) -> None:
    it = ends()
    answer = it.send(b"nonsense\r\n\r\n" + GET + b"\r\n", GET + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 400")
    assert (answer.count(b"HTTP/1.1"), it.seen) == (1, [])


def test_answer_under_way_is_not_broken_into_by_another(ends: Callable[..., Ends]) -> None:
    it = ends()
    connection, wire = it.connect()
    connection.data_received(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\n")
    it.run()
    connection.data_received(b"x" + b"nonsense\r\n\r\n")
    assert (wire.sent, wire.closed) == (b"", True), "cut off: words would stand where the first answer should"


@pytest.mark.parametrize(
    ("files", "wanted", "given", "asked_for"),
    [
        ((1024, 1024), 2000, 448, None),
        ((1024, 1_000_000), 2000, 2000, 4128),
        ((1024, 2048), 2000, 960, 2048),
        ((-1, -1), 2000, 2000, None),
        ((1024, -1), 2000, 2000, 4128),
        ((100, 100), 2000, 1, None),
        ((65_536, 65_536), 50, 50, None),
    ],
)
def test_connections_are_as_many_as_there_are_files_for(
    monkeypatch: pytest.MonkeyPatch, files: tuple[int, int], wanted: int, given: int, asked_for: int | None
) -> None:
    found: list[int] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: files)
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: found.append(limits[0]))
    assert server.connections(wanted) == given
    assert [each for each in found if each != files[0]] == ([asked_for] if asked_for else [])
