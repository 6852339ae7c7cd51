"""What a registry's answer may take of us: so much time from the request to its last byte, and so many bytes.

The client's HTTP library counts its time-out from one byte to the next, so that an answer that drips never ends, and reads
an answer whole before anybody sees how large it is. A worker that asks polls nothing meanwhile. So time is measured where
bytes are received, size where they are put together, and nothing is asked for in compressed form.
"""

import threading
import time
from collections.abc import Iterator
from typing import Any

try:  # those that the client takes: see confluent_kafka.schema_registry.common._httpx_compat
    import httpcore2 as httpcore
    import httpx2 as httpx
except ImportError:  # pragma: no cover
    import httpcore  # type: ignore[no-redef]
    import httpx  # type: ignore[no-redef]

# The largest schema that is read, which may be escaped in an answer.
SCHEMA_CHARACTERS_MAX = 1 << 20
ANSWER_BYTES_MAX = 2 * SCHEMA_CHARACTERS_MAX


class AnswerTooLarge(Exception):
    """The answer has more than `ANSWER_BYTES_MAX` bytes, or is compressed, so that nobody knows how many."""


def bound(session: Any, limit_s: float) -> None:
    """From now on every answer of this client's session ends within so many seconds, or fails as a time-out does.

    One that is too large raises `AnswerTooLarge`.
    """
    deadline = _Deadline(limit_s)
    session.headers["Accept-Encoding"] = "identity"
    session.event_hooks = {"request": [lambda _: deadline.begin()], "response": [_measure]}
    for transport in (session._transport, *session._mounts.values()):  # noqa: SLF001  # there is no other way in
        pool = getattr(transport, "_pool", None)
        if pool is not None:
            pool._network_backend = _Backend(pool._network_backend, deadline)  # noqa: SLF001


def _measure(response: Any) -> None:
    length = response.headers.get("content-length", "")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise AnswerTooLarge("the answer is compressed, which was not asked for")
    if length.isdecimal() and int(length[:20]) > ANSWER_BYTES_MAX:
        raise AnswerTooLarge(f"the answer has {length[:20]} bytes, more than {ANSWER_BYTES_MAX}")
    response.stream = _Counted(response.stream)


class _Counted(httpx.SyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for part in self._stream:
            size += len(part)
            if size > ANSWER_BYTES_MAX:
                raise AnswerTooLarge(f"the answer has more than {ANSWER_BYTES_MAX} bytes")
            yield part

    def close(self) -> None:
        self._stream.close()


class _Deadline(threading.local):
    """Each thread's own: when what it asked for last has to be there."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._at = time.monotonic() + limit_s

    def begin(self) -> None:
        self._at = time.monotonic() + self._limit_s

    def left(self, timeout_s: float | None) -> float:
        left = self._at - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout(f"no whole answer within {self._limit_s:g} s")
        return left if timeout_s is None else min(left, timeout_s)


class _Backend:
    """A network backend whose connections know the deadline."""

    def __init__(self, backend: Any, deadline: _Deadline) -> None:
        self._backend = backend
        self._deadline = deadline

    def connect_tcp(self, *place: Any, timeout: float | None = None, **more: Any) -> Any:
        left = self._deadline.left(timeout)
        return _Stream(self._backend.connect_tcp(*place, timeout=left, **more), self._deadline)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


class _Stream:
    def __init__(self, stream: Any, deadline: _Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        found: bytes = self._stream.read(max_bytes, timeout=self._deadline.left(timeout))
        return found

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, timeout=self._deadline.left(timeout))

    def start_tls(self, *context: Any, timeout: float | None = None, **more: Any) -> "_Stream":
        left = self._deadline.left(timeout)
        return _Stream(self._stream.start_tls(*context, timeout=left, **more), self._deadline)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
