"""Many orders in one request: each line is published as it comes and answered in its turn, whatever becomes of the others."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pipeline.api.edges import ORDER_BYTES_MAX
from pipeline.api.idempotency import Handed
from pipeline.api.problems import NOT_ACCEPTED, Problem, busy, queue_full
from pipeline.api.publishing import QueueFull
from pipeline.api.shares import Places, client
from pipeline.api.trace_context import trace_of
from pipeline.core.record import Headers

if TYPE_CHECKING:
    from pipeline.api.orders import Counter

BATCH_LINES_MAX = 10_000
BATCHES_MAX = 32
# Of one client, by its address.
CLIENT_BATCHES_MAX = 16
# However its lines come: one that trickles would keep its place for ever.
BATCH_S = 900.0
# Of one batch, so that single orders find room beside it.
BATCH_PENDING_MAX = 1_000
_log = logging.getLogger(__name__)


class Batches:
    """Orders line by line: each is published as it comes and answered in its turn, whatever becomes of the others.

    What was answered and not yet taken by the client is kept, so lines are bounded: a client that first sends everything
    and then reads never stands still.
    """

    def __init__(self, counter: "Counter") -> None:
        self._counter = counter
        self._line_s = counter.service.settings.api.read_timeout
        self._places = Places(BATCHES_MAX, CLIENT_BATCHES_MAX, _too_many_batches)

    @asynccontextmanager
    async def results(self, request: Request) -> AsyncIterator[AsyncIterator[bytes]]:
        """The results, to be streamed; 503 when too many batches are in hand."""
        with self._places.one(client(request.scope)):
            taken: asyncio.Queue[_Line | None] = asyncio.Queue()
            reading = asyncio.create_task(self._read(request, taken))
            try:
                yield self._results(taken)
            finally:
                reading.cancel()

    async def _results(self, taken: "asyncio.Queue[_Line | None]") -> AsyncIterator[bytes]:
        while (line := await taken.get()) is not None:
            yield await self._result(line)

    async def _read(self, request: Request, taken: "asyncio.Queue[_Line | None]") -> None:
        number, headers = 0, trace_of(request)
        room = asyncio.Semaphore(BATCH_PENDING_MAX)
        patience_s = self._counter.timeout_s
        try:
            async for text in _lines(request, self._line_s):
                number += 1
                if number > BATCH_LINES_MAX:
                    taken.put_nowait(_Line(number, problem=_too_many_lines()))
                    return
                if text is not None and not text.strip():
                    continue
                line = await self._take(number, text, headers, room, patience_s)
                taken.put_nowait(line)
                full = line.problem is not None and line.problem.status == HTTPStatus.SERVICE_UNAVAILABLE
                # An outage is waited for once, not for each line.
                patience_s = 0.0 if full else self._counter.timeout_s
                if full and self._counter.service.stopping.is_set():
                    return
        except Problem as problem:  # the body came too slowly, or went on for too long
            taken.put_nowait(_Line(number + 1, problem=problem))
        except ClientDisconnect:
            pass
        except Exception:  # noqa: BLE001  # whatever it was: the lines before have their results
            _log.exception("a batch broke off at line %s", number)
            taken.put_nowait(_Line(number, problem=Problem(500, "internal", "Something unexpected happened.")))
        finally:
            taken.put_nowait(None)

    async def _take(
        self, number: int, text: bytes | None, headers: Headers, room: asyncio.Semaphore, patience_s: float
    ) -> "_Line":
        if text is None:
            return _Line(number, problem=Problem(413, "too-large", f"An order has at most {ORDER_BYTES_MAX} bytes."))
        try:
            await self._room(room, patience_s)
            try:
                handed = self._counter.begin(text, headers)
            except BaseException:
                room.release()
                raise
        except Problem as problem:
            return _Line(number, problem=problem)
        if handed.delivery is not None:
            handed.delivery.add_done_callback(lambda _: room.release())
        return _Line(number, handed, asyncio.get_running_loop().time() + self._counter.timeout_s)

    async def _room(self, room: asyncio.Semaphore, patience_s: float) -> None:
        try:
            await self._counter.service.publishing.room(patience_s)
            if room.locked() and not patience_s:
                raise QueueFull  # noqa: TRY301
            async with asyncio.timeout(patience_s or None):
                await room.acquire()
        except (QueueFull, TimeoutError):
            raise queue_full() from None

    async def _result(self, line: "_Line") -> bytes:
        said: dict[str, Any] = {"line": line.number}
        problem = line.problem
        if line.handed is not None:
            said["orderId"] = line.handed.order_id
            try:
                left_s = max(0.0, line.deadline - asyncio.get_running_loop().time())
                await self._counter.settle(line.handed, left_s)
                said |= {"status": 202, "topic": self._counter.topic}
            except Problem as missing:
                problem = missing
        self._counter.count(problem)
        if problem is not None:
            said |= problem.members
        return json.dumps(said, ensure_ascii=False).encode() + b"\n"


class Duplex(Response):
    """An answer that streams while the request's body is still read: Starlette's own listens to the body for a farewell."""

    media_type = "application/x-ndjson"

    def __init__(self, results: AbstractAsyncContextManager[AsyncIterator[bytes]]) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._results = results

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        async with self._results as pieces:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of a batch, until its result is written: handed over, or a problem already."""

    number: int
    handed: Handed | None = None
    deadline: float = 0.0
    problem: Problem | None = None


async def _lines(request: Request, line_s: float) -> AsyncIterator[bytes | None]:
    """The lines of the body as they come; None for each one that is too long.

    Raises 408 when one line was waited for longer than `line_s`, or all of them longer than a batch may take; what the
    server itself takes is not counted.
    """
    left, too_long = bytearray(), False
    line_waited_s, waited_s, asked_at = 0.0, 0.0, time.monotonic()
    async for piece in request.stream():
        waited_s += (took_s := time.monotonic() - asked_at)
        line_waited_s = 0.0 if b"\n" in piece else line_waited_s + took_s
        if line_waited_s > line_s or waited_s > BATCH_S:
            raise _too_slow()
        *whole, rest = bytes(left + piece).split(b"\n")
        for line in whole:
            yield None if too_long or len(line) > ORDER_BYTES_MAX else line
            too_long = False
        left = bytearray(rest)
        if len(left) > ORDER_BYTES_MAX:
            left, too_long = bytearray(), True
        asked_at = time.monotonic()
    if left or too_long:
        yield None if too_long else bytes(left)


def _too_many_lines() -> Problem:
    return Problem(413, "too-many-lines", f"A batch has at most {BATCH_LINES_MAX} lines. Nothing more was read.")


def _too_many_batches() -> Problem:
    return busy("overloaded", "Too many batches are in hand, of all clients or of this one.", **NOT_ACCEPTED)


def _too_slow() -> Problem:
    return Problem(408, "too-slow", f"The lines came too slowly: a whole batch has {BATCH_S:g} s.")
