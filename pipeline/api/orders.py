"""The way of an order through the API: read, judged, published, and answered after the broker's word.

202 says that it is in the topic. Everything else says what is known: refused at the edge or `not_accepted` (surely not in
the topic), or `unknown` (there at most once; sent again with the same order id, it is stored once).
"""

import asyncio
import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from pydantic.alias_generators import to_camel
from starlette.responses import PlainTextResponse, Response

from pipeline import orders
from pipeline.api import contract
from pipeline.api.batches import Batches, Duplex
from pipeline.api.edges import with_headers
from pipeline.api.idempotency import KEY_CHARACTERS_MAX, Entry, Handed, OtherBody, Twin
from pipeline.api.problems import NOT_ACCEPTED, UNKNOWN, Problem, busy, queue_full
from pipeline.api.publishing import QueueFull, Unacknowledged, word
from pipeline.api.service import Service
from pipeline.api.trace_context import trace_of
from pipeline.core.record import Headers
from pipeline.errors import Invalid, Misfit, Unavailable

_log = logging.getLogger(__name__)
_KEY = re.compile(rf"[!-~]{{1,{KEY_CHARACTERS_MAX}}}", re.ASCII)


def routes(service: Service) -> APIRouter:
    """The routes of orders, on what this process holds."""
    router = APIRouter(prefix="/api/orders", tags=["orders"])
    counter = Counter(service)
    batches = Batches(counter)

    @router.get("/ping", summary="Ping", response_class=PlainTextResponse, **contract.PING)
    async def ping() -> PlainTextResponse:
        return PlainTextResponse("pong")

    @router.post("", summary="Send one order", status_code=202, **contract.SEND)
    async def send(request: Request) -> Response:
        require_type(request, contract.JSON)
        key = idempotency_key(request)
        body = await request.body()
        if key is None:
            with counter.counted():
                return await counter.accept(counter.begin(body, trace_of(request)))
        entry = claim(service, key, body)
        replayed = entry.answered
        try:
            with counter.counted():
                if entry.handed is None:
                    entry.handed = counter.begin(body, trace_of(request))
                answer = await counter.accept(entry.handed)
        finally:
            service.keys.release(key, entry)
        return with_headers(answer, Idempotency_Replayed="true") if replayed else answer

    @router.post("/batch", summary="Send many orders, one a line", response_class=Response, **contract.BATCH)
    async def batch(request: Request) -> Response:
        require_type(request, contract.NDJSON)
        return Duplex(batches.results(request))

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
        if handed.delivery is None:
            return
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
