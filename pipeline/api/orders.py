"""The way of an order through the API: read, judged, published, and answered after the broker's word.

202 says that it is in the topic. Everything else says what is known: refused at the edge or `not_accepted` (surely not in
the topic), or `unknown` (there at most once; sent again with the same order id, it is stored once).
"""

import asyncio
import hashlib
import json
import logging
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from pydantic.alias_generators import to_camel
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from pipeline import orders
from pipeline.api import contract
from pipeline.api.edges import ORDER_BYTES_MAX, with_headers
from pipeline.api.idempotency import KEY_CHARACTERS_MAX, Entry, Handed, OtherBody, Twin
from pipeline.api.problems import NOT_ACCEPTED, UNKNOWN, Problem, busy
from pipeline.api.publishing import QueueFull, Unacknowledged, word
from pipeline.api.service import Service
from pipeline.core.record import Headers
from pipeline.errors import Invalid, Misfit, Unavailable

_log = logging.getLogger(__name__)
BATCH_LINES_MAX = 10_000
BATCHES_MAX = 16
# Of one batch, so that single orders find room beside it.
BATCH_PENDING_MAX = 1_000
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?", re.ASCII)
_TRACESTATE_MAX = 512
_KEY = re.compile(rf"[!-~]{{1,{KEY_CHARACTERS_MAX}}}", re.ASCII)


def routes(service: Service) -> APIRouter:
    """The routes of orders, on what this process holds."""
    router = APIRouter(prefix="/api/orders", tags=["orders"])
    counter = Counter(service)
    batches = Batches(counter)

    @router.get("/ping", summary="Is anybody there?", response_class=PlainTextResponse, **contract.PING)
    async def ping() -> PlainTextResponse:
        return PlainTextResponse("pong")

    @router.post("", summary="Send one order", status_code=202, **contract.SEND)
    async def send(request: Request) -> Response:
        require_type(request, contract.JSON)
        key = idempotency_key(request)
        body = await request.body()
        if key is None:
            with counter.counted():
                return await counter.accept(counter.begin(body, trace_headers(request)))
        entry = claim(service, key, body)
        replayed = entry.answered
        try:
            with counter.counted():
                if entry.handed is None:
                    entry.handed = counter.begin(body, trace_headers(request))
                answer = await counter.accept(entry.handed)
        finally:
            service.keys.release(key, entry)
        return with_headers(answer, Idempotency_Replayed="true") if replayed else answer

    @router.post("/batch", summary="Send many orders, one a line", response_class=Response, **contract.BATCH)
    async def batch(request: Request) -> Response:
        require_type(request, contract.NDJSON)
        return batches.answer(request)

    @router.get("/{order_id:path}", summary="One order, as the worker stored it", **contract.READ)
    async def read(order_id: str) -> Response:
        order = await asyncio.to_thread(service.store.get, order_id)
        if order is None:
            raise Problem(
                404, "no-order", "No order of this id is stored. One that was accepted may be on its way still."
            )
        said = order.model_dump(mode="json")
        return _json(200, {to_camel(name): value for name, value in said.items()})

    return router


class Counter:
    """Where orders are handed over: on to the topic, or back with what is known."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.timeout_s = service.settings.api.publish_timeout
        self.topic = service.settings.kafka.topic

    def begin(self, body: bytes, headers: Headers) -> Handed:
        """Hand the order over that the body says; a problem when it surely is not in the topic."""
        order = read_order(body)
        try:
            return Handed(order.order_id, self.service.publishing.begin(order, headers))
        except QueueFull:
            raise queue_full() from None
        except Invalid as error:
            raise Problem(422, "invalid-order", str(error)) from None

    async def accept(self, handed: Handed) -> Response:
        """202 once the broker said that the order is in the topic."""
        await self.settle(handed, self.timeout_s)
        where = {"Location": f"/api/orders/{quote(handed.order_id, safe='')}"}
        return _json(202, {"orderId": handed.order_id, "topic": self.topic}, where)

    async def settle(self, handed: Handed, timeout_s: float) -> None:
        """Return once the order is in the topic, says the broker; a problem for every other word, and for none in time."""
        try:
            error = (await word(handed.delivery, timeout_s)).error
        except Unacknowledged:
            error = Unavailable()
        if isinstance(error, Unavailable):
            raise busy(
                "unacknowledged",
                "The broker did not say in time that it has the order: it may be there, once. Send it again with the "
                "same order id.",
                **UNKNOWN,
            )
        if error is not None:
            _log.error("%s", error)
            raise busy("refused-by-broker", "The broker refuses the order for good; the log says why.", **NOT_ACCEPTED)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count what becomes of one order."""
        try:
            yield
        except Problem as problem:
            self.count(problem)
            raise
        self.count(None)

    def count(self, problem: Problem | None) -> None:
        """One order was answered so."""
        outcome = "accepted" if problem is None else problem.members.get("outcome", "invalid")
        self.service.figures.order(outcome)


class Batches:
    """Orders line by line: each is published as it comes and answered in its turn, whatever becomes of the others.

    What was answered and not yet taken by the client is kept, so lines are bounded: a client that first sends everything
    and then reads never stands still.
    """

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._open = 0

    def answer(self, request: Request) -> Response:
        """The results, streamed; 503 when too many batches are in hand."""
        if self._open >= BATCHES_MAX:
            raise busy("overloaded", "Too many batches are in hand.", **NOT_ACCEPTED)
        return _Duplex(self._results(request))

    async def _results(self, request: Request) -> AsyncIterator[bytes]:
        self._open += 1
        taken: asyncio.Queue[_Line | None] = asyncio.Queue()
        reading = asyncio.create_task(self._read(request, taken))
        try:
            while (line := await taken.get()) is not None:
                yield await self._result(line)
        finally:
            reading.cancel()
            self._open -= 1

    async def _read(self, request: Request, taken: "asyncio.Queue[_Line | None]") -> None:
        number, headers = 0, trace_headers(request)
        room = asyncio.Semaphore(BATCH_PENDING_MAX)
        patience_s = self._counter.timeout_s
        try:
            async for text in _lines(request):
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


class _Duplex(Response):
    """An answer that streams while the request's body is still read: Starlette's own listens to the body for a farewell."""

    media_type = "application/x-ndjson"

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._pieces = pieces

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for piece in self._pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of a batch, until its result is written: handed over, or a problem already."""

    number: int
    handed: Handed | None = None
    deadline: float = 0.0
    problem: Problem | None = None


async def _lines(request: Request) -> AsyncIterator[bytes | None]:
    """The lines of the body as they come; None for each one that is too long."""
    left, too_long = bytearray(), False
    async for piece in request.stream():
        *whole, rest = bytes(left + piece).split(b"\n")
        for line in whole:
            yield None if too_long or len(line) > ORDER_BYTES_MAX else line
            too_long = False
        left = bytearray(rest)
        if len(left) > ORDER_BYTES_MAX:
            left, too_long = bytearray(), True
    if left or too_long:
        yield None if too_long else bytes(left)


def require_type(request: Request, wanted: frozenset[str]) -> None:
    """415 unless the body is of one of these types, in UTF-8 and not compressed."""
    kind, _, parameters = request.headers.get("content-type", "").partition(";")
    charset = re.search(r"charset\s*=\s*\"?([\w-]+)", parameters, re.IGNORECASE)
    if kind.strip().lower() not in wanted or (charset and charset[1].lower() not in {"utf-8", "utf8"}):
        raise Problem(
            415,
            "wrong-type",
            f"Send {' or '.join(sorted(wanted))}, in UTF-8.",
            headers={"Accept-Post": ", ".join(sorted(wanted))},
        )
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem(
            415,
            "wrong-encoding",
            "Send it as it is: no Content-Encoding is read.",
            headers={"Accept-Encoding": "identity"},
        )


def idempotency_key(request: Request) -> str | None:
    """The request's `Idempotency-Key`; 400 when it is none."""
    key = request.headers.get("idempotency-key")
    if key is not None and not _KEY.fullmatch(key):
        raise Problem(
            400, "bad-key", f"An Idempotency-Key has 1 to {KEY_CHARACTERS_MAX} printable characters of ASCII."
        )
    return key


def trace_headers(request: Request) -> Headers:
    """The W3C trace context of the request, to travel on the record; nothing where it is malformed."""
    parent = request.headers.get("traceparent", "")
    if not _TRACEPARENT.fullmatch(parent):
        return ()
    state = request.headers.get("tracestate", "")
    kept = (("tracestate", state.encode()),) if 0 < len(state) <= _TRACESTATE_MAX else ()
    return (("traceparent", parent.encode()), *kept)


def read_order(body: bytes) -> orders.OrderPlaced:
    """The order that the body says: 400 when it is no JSON, 422 with each field and the reason when it is no order."""
    try:
        said = orders.fields(body)
    except Invalid as error:
        raise Problem(400, "bad-json", str(error)) from None
    try:
        return orders.from_fields(said)
    except Misfit as error:
        found = [{"field": field, "reason": reason} for field, reason in error.problems]
        raise Problem(422, "invalid-order", str(error), more={"errors": found}) from None


def queue_full() -> Problem:
    """503: surely not in the topic."""
    return busy("queue-full", "Too many orders wait for the broker's word. This one was not taken.", **NOT_ACCEPTED)


def _too_many_lines() -> Problem:
    return Problem(413, "too-many-lines", f"A batch has at most {BATCH_LINES_MAX} lines. Nothing more was read.")


def claim(service: Service, key: str, body: bytes) -> Entry:
    """The entry of an `Idempotency-Key`: 422 for another body, 409 beside a twin."""
    try:
        return service.keys.claim(key, hashlib.sha256(body).digest())
    except OtherBody:
        raise Problem(422, "other-body", "This Idempotency-Key came with another body before.") from None
    except Twin:
        raise Problem(
            409, "twin", "A request with this Idempotency-Key is in hand right now.", headers={"Retry-After": "1"}
        ) from None


def _json(status: int, values: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    return Response(json.dumps(values, ensure_ascii=False).encode(), status, headers, "application/json")
