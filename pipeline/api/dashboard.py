"""The dashboard: one page and what it asks for. Its addresses are the page's own business and may change with it."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse

from pipeline import wiring
from pipeline.api import contract
from pipeline.api.orders import require_type
from pipeline.api.problems import Problem, busy
from pipeline.api.service import Service
from pipeline.core.redrive import Selection, selection
from pipeline.errors import Refused

STREAMS_MAX = 50
ROWS_MAX = 200
_LOOK_S = 0.2
# While a look takes long: the page calls a stream stale that says nothing for 8 s.
_SILENCE_S = 2.0
_PAGE = Path(__file__).parent / "static" / "index.html"


def routes(service: Service) -> APIRouter:
    """The page, its stream, letters and contracts."""
    router, page = APIRouter(include_in_schema=False), Page(service)
    router.add_api_route("/", page.document)
    router.add_api_route("/dashboard/events", page.events)
    router.add_api_route("/dashboard/letters", page.letters)
    router.add_api_route("/dashboard/letters/{letter}", page.letter)
    router.add_api_route("/dashboard/redrive", page.redrive, methods=["POST"])
    router.add_api_route("/dashboard/contracts", page.contracts)
    return router


class Page:
    """What the page asks for, each an answer of its own."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._streams = 0

    async def document(self) -> Response:
        """The page itself."""
        return FileResponse(_PAGE, headers={"Cache-Control": "no-cache"})

    async def events(self) -> Response:
        """Server-sent events: `history` once, then a `look` a second."""
        if self._streams >= STREAMS_MAX:
            raise busy("overloaded", "Too many people watch.")
        return StreamingResponse(self._told(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})

    async def letters(self, request: Request) -> Response:
        """A page of the list, newest first, and how many the filters leave."""
        asked = request.query_params
        state = asked.get("state", "due")
        if state not in {"due", "redriven", "all"}:
            raise Problem(422, "bad-filter", "state is due, redriven or all.")
        offset, limit = _number(asked.get("offset", "0")), min(ROWS_MAX, _number(asked.get("limit", "50")))
        index = self._service.watch.index
        found = await asyncio.to_thread(index.page, _selection(dict(asked)), state, offset, limit)
        return JSONResponse({"rows": found.rows, "total": found.total})

    async def letter(self, letter: str) -> Response:
        """One letter in full."""
        try:
            found = await asyncio.to_thread(self._service.watch.index.show, letter)
        except Refused as error:
            raise Problem(404, "no-letter", str(error)) from None
        return Response(json.dumps(found, ensure_ascii=False, default=str).encode(), media_type="application/json")

    async def redrive(self, request: Request) -> Response:
        """A redrive, shown or done."""
        # A page of another origin cannot send this type.
        require_type(request, contract.JSON)
        try:
            asked = json.loads(await request.body())
            chosen, everything = dict(asked["selection"]), bool(asked.get("everything"))
            expected = None if asked["dry_run"] else int(asked["expect"])
        except (ValueError, KeyError, TypeError):
            raise Problem(400, "bad-json", "A redrive has selection, dry_run, and expect unless it is dry.") from None
        meant = _selection(chosen)
        if meant == Selection() and not everything:
            raise Problem(422, "bad-filter", "Which letters? Choose some, a filter, or everything.")
        work = self._service.redriving
        if expected is None:
            return JSONResponse(await asyncio.to_thread(work.preview, meant))
        return JSONResponse(await asyncio.to_thread(work.run, meant, expected))

    async def contracts(self) -> Response:
        """Topics and schemas: what is declared, and what is there."""
        return JSONResponse(await asyncio.to_thread(wiring.contracts, self._service.settings))

    async def _told(self) -> AsyncIterator[bytes]:
        self._streams += 1
        self._service.watch.watched(1)
        try:
            async for piece in _events(self._service):
                yield piece
        finally:
            self._streams -= 1
            self._service.watch.watched(-1)


async def _events(service: Service) -> AsyncIterator[bytes]:
    """The history first, then each look as it comes; ends with the process."""
    watch, sent, silent_s = service.watch, -1, 0.0
    yield b"retry: 2000\n" + _event("history", watch.history)
    while not service.stopping.is_set():
        if watch.number != sent:
            sent, silent_s = watch.number, 0.0
            more = {
                "worker": service.worker.state if service.worker else "elsewhere",
                "redrive": service.redriving.progress(),
            }
            yield _event("look", {**watch.state, **more})
        elif silent_s >= _SILENCE_S:
            silent_s = 0.0
            yield _event("alive", {})
        await asyncio.sleep(_LOOK_S)
        silent_s += _LOOK_S


def _event(name: str, values: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps(values, ensure_ascii=False)}\n\n".encode()


def _selection(asked: dict[str, Any]) -> Selection:
    ids = asked.get("ids") or ()
    if not isinstance(ids, list | tuple):
        raise Problem(422, "bad-filter", "ids is a list.")
    texts = {name: str(asked[name]) for name in ("reason", "key", "source", "since", "until") if asked.get(name)}
    try:
        return selection([str(each) for each in ids], **texts)  # type: ignore[arg-type]  # by name, and each a text
    except Refused as error:
        raise Problem(422, "bad-filter", str(error).removeprefix("--")) from None


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise Problem(422, "bad-filter", "offset and limit are numbers.")
    return int(text)
