"""The API as a process, and what asks it."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tests.integration.conftest import Pipe, Process, wait_until

CAMEL = {"orderId": "A-1", "customerId": "17850", "amount": "139.12", "timestampUtc": "2010-12-01T08:26:00Z"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as it:
        return int(it.getsockname()[1])


class Web:
    """A running API. `url` is where, `http` asks it."""

    def __init__(self, pipe: Pipe, *flags: str) -> None:
        self.pipe = pipe
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: Process = pipe.start("api", "--port", str(self.port), *flags)
        # Asked by many threads: httpx closes what it has to spare, even where another thread was just given it.
        unlimited = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self.http = httpx.Client(base_url=self.url, timeout=30, limits=unlimited)

    def status(self, path: str) -> int:
        """0 when nobody answers."""
        try:
            return self.http.get(path).status_code
        except httpx.TransportError:
            return 0

    def until_ready(self) -> "Web":
        def ready() -> bool:
            assert self.process.popen.poll() is None, self.process.said()
            return self.status("/healthz/ready") == 200

        wait_until(ready, "the API is ready")
        return self

    def send(self, **changes: object) -> httpx.Response:
        return self.http.post("/api/orders", json=CAMEL | changes)


@contextmanager
def running(pipe: Pipe, *flags: str) -> Iterator[Web]:
    """An API that is ready; its connections are closed afterwards, its process ends with the pipe."""
    web = Web(pipe, *flags)
    try:
        yield web.until_ready()
    finally:
        web.http.close()
