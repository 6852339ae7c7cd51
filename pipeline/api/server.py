"""The server: uvicorn, run by ourselves so that a stop is exit 0, and with the time-outs that it does not have."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pipeline.api.service import Service
from pipeline.errors import SettingsRefused

BACKLOG = 2048
# An answer came before its request was read to the end: so long the rest is read and thrown away, that the client sees it.
LINGER_S = 5.0
# Above the time that an order waits for the broker's word: after it what is still in hand is cut off.
GRACE_S = 5.0
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Server(uvicorn.Server):
    """Serves until `stopping()`, or until the service cannot go on. Signals are the door's business."""

    def __init__(self, config: uvicorn.Config, service: Service, stopping: Callable[[], bool]) -> None:
        super().__init__(config)
        self._service = service
        self._stopping = stopping

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if self._stopping() or self._service.failure is not None:
            self._service.stopping.set()  # not ready from now on, and event streams end
            self.should_exit = True
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None: uvicorn would send the signal to us once more at the end, which is exit 143."""
        yield


class Hasty(HttpToolsProtocol):
    """Cuts a connection off whose next request does not get to the end of its head in time."""

    head_s = 10.0

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._waits: asyncio.TimerHandle | None = None
        self._read = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first request has its time from here on."""
        super().connection_made(transport)
        self._wait(self.head_s, _TOO_SLOW)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._wait_no_more()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Between two requests the first byte starts the time, whatever it is."""
        super().data_received(data)
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self._waits is None and self.parser is not None:
            self._wait(self.head_s, _TOO_SLOW)

    def on_headers_complete(self) -> None:
        """From here on the body is waited for, by the app."""
        self._wait_no_more()
        self._read = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is read to its end."""
        self._read = True
        self._wait_no_more()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """What is left of a request that was answered early is read for a while, then cut off."""
        super().on_response_complete()
        if not self._read and not self.transport.is_closing():
            self._unset_keepalive_if_required()
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
            self.transport.write(farewell)
            self.transport.close()


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; `SettingsRefused` when that cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise SettingsRefused(
            f"api.port {port} on {host} cannot be used: {error.strerror}. Choose another one: --port N."
        ) from error


def serve(app: FastAPI, service: Service, listening: socket.socket, stopping: Callable[[], bool]) -> None:
    """Serve until asked to stop, then end in good order. Raises why the service could not go on, where it could not."""
    api = service.settings.api
    config = uvicorn.Config(
        app,
        http=type("HastyProtocol", (Hasty,), {"head_s": api.read_timeout}),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(api.publish_timeout + GRACE_S),
    )
    Server(config, service, stopping).run([listening])
    if service.failure is not None:
        raise service.failure
