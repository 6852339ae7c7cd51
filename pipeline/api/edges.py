"""The edges of the API, as plain ASGI: what holds for each request, before it is looked at and while its body is read.

From outside to inside: `Envelope` (request id, security headers, counts, no internals in an answer), `Gate` (API keys, how
many requests at once), `Body` (how large it may be and how long it may take, with or without a Content-Length).
"""

import asyncio
import base64
import binascii
import hmac
import logging
import re
import time
from collections.abc import Sequence
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.api.figures import Figures
from pipeline.api.problems import NOT_ACCEPTED, Problem, busy

ORDER_BYTES_MAX = 1_048_576
# Of all bodies that are being read: a thousand of the largest would be a gigabyte.
BODIES_BYTES_MAX = 64 * ORDER_BYTES_MAX
# A client that does not take its answer is let go.
WRITE_S = 30.0
STREAMED = frozenset({"/api/orders/batch"})
OPEN = frozenset({"/healthz/live", "/healthz/ready", "/api/orders/ping"})
_REQUEST_ID = re.compile(r"[\w.-]{1,128}", re.ASCII)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
_SECURITY = {
    # Scripts and styles are files of ours; nothing is embedded, framed or sent elsewhere. The documentation page has
    # its icons as data.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_SECURITY_RAW = [(name.lower().encode(), value.encode()) for name, value in _SECURITY.items()]
_log = logging.getLogger(__name__)


class Envelope:
    """Gives each request its id (the client's `X-Request-ID` where it is harmless), and each answer what all have."""

    def __init__(self, app: ASGIApp, figures: Figures) -> None:
        self._app = app
        self._figures = figures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"").decode("latin-1")
        request_id = given if _REQUEST_ID.fullmatch(given) else str(uuid4())
        scope["request_id"] = request_id
        started, status = time.perf_counter(), 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    *_SECURITY_RAW,
                    (b"x-request-id", request_id.encode()),
                    *(() if b"cache-control" in dict(message["headers"]) else [(b"cache-control", b"no-store")]),
                ]
            elif message.get("more_body"):
                try:
                    async with asyncio.timeout(WRITE_S):
                        await send(message)
                except TimeoutError:
                    raise ClientDisconnect from None
                return
            await send(message)

        try:
            await self._app(scope, receive, sent)
        except Problem as problem:
            await self._answer(problem, scope, receive, sent, started=bool(status))
        except ClientDisconnect:
            status = status or 499  # as nginx counts a client that went away
        except Exception:  # noqa: BLE001  # logged, and answered without what it says
            _log.exception("request %s failed", request_id)
            unexpected = Problem(500, "internal", "Something unexpected happened; the log has it under the request id.")
            await self._answer(unexpected, scope, receive, sent, started=bool(status))
        finally:
            method = scope["method"] if scope["method"] in _METHODS else "other"
            route = getattr(scope.get("route"), "path", "none")
            self._figures.request(method, route, status, time.perf_counter() - started)

    async def _answer(self, problem: Problem, scope: Scope, receive: Receive, send: Send, *, started: bool) -> None:
        if started:
            raise ConnectionError("the answer broke off")  # the server cuts the connection: half an answer is none
        await problem.response(scope["request_id"])(scope, receive, send)


class Gate:
    """Lets in who has a key, and so many at once."""

    def __init__(self, app: ASGIApp, keys: Sequence[str], limit: int) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]
        self._limit = limit
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        if self._keys and not self._knows(Headers(raw=scope["headers"])):
            # Basic is what a browser asks its user for, and sends with an event stream too.
            challenge = {"WWW-Authenticate": 'Basic realm="orders pipeline", charset="UTF-8"'}
            raise Problem(
                401,
                "no-key",
                "A key is needed: X-API-Key, a bearer token, or the password of Basic.",
                headers=challenge,
            )
        if self._inside >= self._limit:
            raise busy("overloaded", "Too many requests are in progress.", **NOT_ACCEPTED)
        self._inside += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._inside -= 1

    def _knows(self, headers: Headers) -> bool:
        given = headers.get("x-api-key") or _credentials(headers.get("authorization", ""))
        # All are compared, each in constant time: how long it takes tells nothing of any.
        return bool(sum(hmac.compare_digest(key, given.encode()) for key in self._keys))


def _credentials(authorization: str) -> str:
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""


class Body:
    """Bounds a body while it is read: 1 MiB in all, within `read_s` seconds; streamed ones so long from piece to piece."""

    def __init__(self, app: ASGIApp, read_s: float) -> None:
        self._app = app
        self._read_s = read_s
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        streamed = scope["path"] in STREAMED
        size, more, deadline = 0, True, time.monotonic() + self._read_s
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if not streamed and int(length) > ORDER_BYTES_MAX:
            raise _too_large()

        async def bounded() -> Message:
            nonlocal size, more
            if not more:  # what is waited for now is that the client goes
                return await receive()
            try:
                async with asyncio.timeout(self._read_s if streamed else deadline - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                raise Problem(
                    408,
                    "too-slow",
                    f"The body did not come within {self._read_s:g} s.",
                    headers={"Connection": "close"},
                ) from None
            more = bool(message.get("more_body"))
            if not streamed:
                piece = len(message.get("body", b""))
                size += piece
                self._held += piece
                if size > ORDER_BYTES_MAX:
                    raise _too_large()
                if self._held > BODIES_BYTES_MAX:
                    raise busy("overloaded", "Too many large bodies are being read.", **NOT_ACCEPTED)
            return message

        try:
            await self._app(scope, bounded, send)
        finally:
            self._held -= size


def _too_large() -> Problem:
    return Problem(413, "too-large", f"A body has at most {ORDER_BYTES_MAX} bytes.")


def with_headers(response: Response, **headers: str) -> Response:
    """The response with these headers, whose names are written with `_` for `-`."""
    found = MutableHeaders(raw=response.raw_headers)
    for name, value in headers.items():
        found[name.replace("_", "-")] = value
    return response
