"""A PostgreSQL connection that gives up on a server that says nothing.

A server may accept and be silent: its process stopped, its disk hanging, a proxy before it without a server behind. The
kernel answers for it, so neither TCP's keep-alive nor its time-outs notice, and the driver would wait for ever, deaf to a
stop. What bounds it is the time since the server's last byte, so a long transaction that goes on is never cut off.
"""

import time
from collections.abc import Generator
from typing import Any, TypeVar

import psycopg
from psycopg.waiting import Ready, Wait

T = TypeVar("T")

CONNECT_S = 10
_CANCEL_S = 2.0


class SilentServer(psycopg.OperationalError):
    """Nothing came for too long. The connection is closed: what it had under way may have been done, or not."""


class Connection(psycopg.Connection[Any]):
    """As psycopg's, but every wait ends with `SilentServer` after `silence_s` seconds without a byte from the server."""

    silence_s = 15.0

    def wait(self, gen: Generator[Wait, Ready | int, T], *args: Any, **kwargs: Any) -> T:
        """Run one exchange with the server (see `psycopg.Connection.wait`)."""
        return super().wait(self._not_silent(gen), *args, **kwargs)

    def _not_silent(self, gen: Generator[Wait, Ready | int, T]) -> Generator[Wait, Ready | int, T]:
        heard = time.monotonic()
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if ready:
                    heard = time.monotonic()
                elif time.monotonic() - heard > self.silence_s:
                    self._leave()
                    raise SilentServer(f"no word from the server for {self.silence_s:g} s")
                wanted = gen.send(ready)
        except StopIteration as end:
            value: T = end.value
            return value

    def _leave(self) -> None:
        """Ask the server to cancel (it may wait for a lock), then close: a statement must not go on unheard."""
        try:
            if psycopg.capabilities.has_cancel_safe():
                self.cancel_safe(timeout=_CANCEL_S)
        except psycopg.Error:
            pass
        finally:
            self.pgconn.finish()
