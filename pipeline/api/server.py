"""The server: uvicorn, run by ourselves so that a stop is exit 0, and with the bounds that it does not have."""

import contextlib
import resource
import socket
from collections.abc import Callable, Iterator

import uvicorn
from fastapi import FastAPI

from pipeline.api.connection import Crowd, Hasty
from pipeline.api.service import Service
from pipeline.errors import SettingsRefused

BACKLOG = 2048
# Above the time that an order waits for the broker's word: after it what is still in hand is cut off.
GRACE_S = 5.0
# Files beside the connections: clients of the broker, the store, what is served.
_OTHER_FILES = 128


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


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; `SettingsRefused` when that cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise SettingsRefused(
            f"api.port {port} on {host} cannot be used: {error.strerror}. Choose another one: --port N."
        ) from error


def connections(wanted: int) -> int:
    """How many there may be: as many as wanted, where this process may open the files for them.

    As many again may be accepted at once before the first of them is looked at.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * wanted + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, (soft - _OTHER_FILES) // 2))


def serve(app: FastAPI, service: Service, listening: socket.socket, stopping: Callable[[], bool]) -> None:
    """Serve until asked to stop, then end in good order. Raises why the service could not go on, where it could not."""
    api = service.settings.api
    limit = connections(api.connections)
    config = uvicorn.Config(
        app,
        http=type("HastyProtocol", (Hasty,), {"head_s": api.read_timeout, "crowd": Crowd(limit)}),
        backlog=min(BACKLOG, limit),
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
