"""A connection of the server, bounded in what it may cost before anybody looked at its request: bytes, headers, time, places.

uvicorn's own protocol, which takes a head of any size: httptools has no bounds, and uvicorn sets none for it. What is used of
it is what asyncio and httptools call (`data_received`, `on_header`, ...), and `send_400_response`.
"""

import asyncio
import json
from collections import OrderedDict
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from pipeline.api.problems import MEDIA_TYPE, Problem

# Of a request's line and headers together, and of the trailers after a body in pieces.
HEAD_BYTES_MAX = 65_536
HEADERS_MAX = 100
# An answer came before its request was read to the end: so long the rest is read and thrown away, that the client sees it.
LINGER_S = 5.0
# So much is parsed before the bytes are counted again.
_PIECE = 16_384
_LINE_BYTES = len(b": \r\n")


class _TooLarge(Exception):
    """The head or the trailers are beyond a bound."""


class Crowd:
    """The connections of a server: one that comes when there are too many takes the place of one without a request.

    First of one that never sent a whole request, the oldest first: a client that sends its own at once is served beside
    thousands of connections that somebody holds half open. (uvicorn's `limit_concurrency` refuses whoever comes, probes too.)
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._fresh: OrderedDict[Hasty, None] = OrderedDict()
        self._idle: OrderedDict[Hasty, None] = OrderedDict()
        self._busy: set[Hasty] = set()

    def __len__(self) -> int:
        return len(self._fresh) + len(self._idle) + len(self._busy)

    def enter(self, it: "Hasty") -> bool:
        """A connection came; False when there is no place, because all others have a request in hand."""
        if len(self) >= self._limit:
            waiting = self._fresh or self._idle
            if not waiting:
                return False
            oldest, _ = waiting.popitem(last=False)
            oldest.transport.abort()
        self._fresh[it] = None
        return True

    def busy(self, it: "Hasty") -> None:
        """It sent the head of a request."""
        if it in self._fresh or it in self._idle:
            self.leave(it)
            self._busy.add(it)

    def idle(self, it: "Hasty") -> None:
        """Its request was answered."""
        if it in self._busy:
            self._busy.remove(it)
            self._idle[it] = None

    def leave(self, it: "Hasty") -> None:
        """It is closed."""
        self._fresh.pop(it, None)
        self._idle.pop(it, None)
        self._busy.discard(it)


class Hasty(HttpToolsProtocol):
    """Cuts a connection off whose next request is not at the end of its head in time, or is too large before that.

    A request in the absolute form (`GET http://host/path`) is one to that host, whatever its Host header says (RFC 9112, 3.2.2).
    """

    head_s = 10.0
    crowd = Crowd(2_000)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._waits: asyncio.TimerHandle | None = None
        self._read = True
        self._refused = False
        self._in_head = True
        # Bytes of the head and trailers so far, and how many headers; bytes since anything of a message came to its end.
        self._named_bytes = self._headers = self._open_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first request has its time from here on."""
        super().connection_made(transport)
        if self.crowd.enter(self):
            self._wait(self.head_s, _answer(408))
        else:
            self._refused = True
            transport.write(_answer(503, "overloaded", "Too many connections."))
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._wait_no_more()
        self.crowd.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Between two requests the first byte starts the time, whatever it is."""
        for at in range(0, len(data), _PIECE):
            if self._refused or self.transport.is_closing():
                return
            self._parse(data[at : at + _PIECE] if len(data) > _PIECE else data)
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self._waits is None and self.parser is not None:
            self._wait(self.head_s, _answer(408))

    def _parse(self, piece: bytes) -> None:
        self._open_bytes += len(piece)
        super().data_received(piece)
        # The parser keeps a header until it is whole.
        if self._open_bytes > HEAD_BYTES_MAX and not self._refused:
            self._refuse(431)

    def on_message_begin(self) -> None:
        """A request line begins."""
        self._in_head, self._headers, self._named_bytes = True, 0, 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A piece of it."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Of the head. What comes after the body could no longer be judged with it, so it is not added to it (RFC 9110, 6.5)."""
        self._headers += 1
        self._count(len(name) + len(value) + _LINE_BYTES)
        if self._headers > HEADERS_MAX:
            raise _TooLarge
        if self._in_head:
            super().on_header(name, value)

    def _count(self, size: int) -> None:
        self._named_bytes += size
        if self._named_bytes > HEAD_BYTES_MAX:
            raise _TooLarge

    def on_headers_complete(self) -> None:
        """From here on the body is waited for, by the app."""
        self._wait_no_more()
        self._open_bytes = 0
        self._in_head = self._read = False
        if not self.url.startswith(b"/"):
            self._read_absolute_form()
        super().on_headers_complete()
        self.crowd.busy(self)

    def _read_absolute_form(self) -> None:
        parsed = httptools.parse_url(self.url)
        given = [name for name, _ in self.headers].count(b"host")
        if parsed.host is None or given != 1:
            return
        user = parsed.userinfo + b"@" if parsed.userinfo else b""
        host = b"[%b]" % parsed.host if b":" in parsed.host else parsed.host
        port = b":%d" % parsed.port if parsed.port else b""
        # The same list: it is the one in the request's scope.
        self.headers[:] = [(name, user + host + port if name == b"host" else value) for name, value in self.headers]

    def on_chunk_header(self) -> None:
        """The size of a piece was read; after the last one come trailers."""
        self._open_bytes = 0

    def on_body(self, body: bytes) -> None:
        """Bytes of it."""
        self._open_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is read to its end."""
        self._open_bytes = 0
        self._read = True
        self._wait_no_more()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """What is left of a request that was answered early is read for a while, then cut off."""
        super().on_response_complete()
        if not self.pipeline and (self.cycle is None or self.cycle.response_complete):
            self.crowd.idle(self)
        if not self._read and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._wait(LINGER_S, b"")

    def send_400_response(self, msg: str) -> None:
        """What was sent is no HTTP, or too much of it."""
        error = self._named_bytes > HEAD_BYTES_MAX or self._headers > HEADERS_MAX
        self._refuse(431 if error else 400, msg)

    def _refuse(self, status: int, why: str = "") -> None:
        """Answer so, where no other answer is under way, and read what comes for a while, so that the client sees it."""
        self._refused = True
        self._wait_no_more()
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if cycle.response_started or self.pipeline or self._in_head:
                self.transport.close()
                return
            # Its body will not come to an end: for the app, as if the client had gone.
            cycle.disconnected = True
            cycle.message_event.set()
        self.flow.resume_reading()
        words = f"A head has at most {HEAD_BYTES_MAX} bytes and {HEADERS_MAX} headers, trailers included."
        answer = _answer(431, "head-too-large", words) if status == 431 else _answer(status, "bad-request", why)  # noqa: PLR2004
        self.transport.write(answer)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._wait(LINGER_S, b"")

    def _wait(self, seconds: float, farewell: bytes) -> None:
        self._wait_no_more()
        self._waits = self.loop.call_later(seconds, self._cut, farewell)

    def _wait_no_more(self) -> None:
        if self._waits is not None:
            self._waits.cancel()
            self._waits = None

    def _cut(self, farewell: bytes) -> None:
        self._waits = None
        if not self.transport.is_closing():
            if farewell:
                self.transport.write(farewell)
            self.transport.close()


def _answer(status: int, name: str = "", detail: str = "") -> bytes:
    """An answer that no app gives, after which the connection is closed."""
    body = json.dumps(Problem(status, name, detail).members).encode() if name else b""
    kind = f"content-type: {MEDIA_TYPE}\r\n" if body else ""
    return STATUS_LINE[status] + f"{kind}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body
