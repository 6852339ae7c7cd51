"""The dashboard: one page and what it asks for. Its addresses are the page's own business and may change with it."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from pipeline import wiring
from pipeline.api import contract
from pipeline.api.orders import require_type
from pipeline.api.problems import Problem, busy
from pipeline.api.service import Service
from pipeline.api.shares import Aside, Places, client
from pipeline.core.redrive import Selection, selection
from pipeline.errors import Refused

STREAMS_MAX = 100
# Of one client, by its address.
CLIENT_STREAMS_MAX = 50
ROWS_MAX = 200
IDS_MAX = 10_000
# Of what a letter says of itself in a list; of a text, of the bytes and of the decoded value of one letter in full.
CELL_CHARACTERS_MAX = 340  # a long key's beginning and digest, by which it can be chosen
TEXT_CHARACTERS_MAX = 16_384
VALUE_CHARACTERS_MAX = 262_144
HEADERS_MAX = 200
ANSWER_S = 30.0
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


class _Chosen(BaseModel):
    """Which letters; as `pipeline.deadletters` has its options."""

    ids: Annotated[list[str], Field(max_length=IDS_MAX)] = []
    reason: str | None = None
    key: str | None = None
    source: str | None = None
    since: str | None = None
    until: str | None = None
    group: str | None = None
    error_class: str | None = None
    error_contains: str | None = None


class _Asked(BaseModel):
    """A redrive, shown with `dry_run`, or done for exactly `expect` letters."""

    model_config = ConfigDict(strict=True)

    selection: _Chosen
    dry_run: bool
    everything: bool = False
    expect: Annotated[int | None, Field(ge=0, le=2**53)] = None


class Page:
    """What the page asks for, each an answer of its own. What takes long takes no thread that an order needs."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._streams = Places(STREAMS_MAX, CLIENT_STREAMS_MAX, lambda: busy("overloaded", "Too many people watch."))
        self._look_up = Aside(at_once=3, waiting=16, within_s=ANSWER_S)
        self._preview = Aside(at_once=1, waiting=4, within_s=ANSWER_S)
        self._redrive = Aside(at_once=2, waiting=0, within_s=None)

    async def document(self) -> Response:
        """The page itself."""
        return FileResponse(_PAGE, headers={"Cache-Control": "no-cache"})

    async def events(self, request: Request) -> Response:
        """Server-sent events: `history` once, then a `look` a second."""
        return _Stream(self._told(), self._streams.one(client(request.scope)))

    async def letters(self, request: Request) -> Response:
        """A page of the list, newest first, and how many the filters leave."""
        asked = request.query_params
        state = asked.get("state", "due")
        if state not in {"due", "redriven", "all"}:
            raise Problem(422, "bad-filter", "state is due, redriven or all.")
        offset, limit = _number(asked.get("offset", "0")), min(ROWS_MAX, _number(asked.get("limit", "50")))
        index = self._service.watch.index
        found = await self._look_up(index.page, _selection(_chosen(dict(asked))), state, offset, limit)
        return JSONResponse({"rows": [_cut(row) for row in found.rows], "total": found.total})

    async def letter(self, letter: str) -> Response:
        """One letter in full."""
        try:
            found = await self._look_up(self._service.watch.index.show, letter)
        except Refused as error:
            raise Problem(404, "no-letter", str(error)) from None
        said = json.dumps(bounded(found), ensure_ascii=False, default=str)
        return Response(said.encode("utf-8", "backslashreplace"), media_type="application/json")

    async def redrive(self, request: Request) -> Response:
        """A redrive, shown or done."""
        # A page of another origin cannot send this type.
        require_type(request, contract.JSON)
        try:
            asked = _Asked.model_validate_json(await request.body())
        except ValidationError:
            asked = None
        if asked is None or (asked.expect is None and not asked.dry_run):
            raise Problem(400, "bad-json", "A redrive has selection, dry_run, and expect unless it is dry.")
        meant = _selection(asked.selection)
        if meant == Selection() and not asked.everything:
            raise Problem(422, "bad-filter", "Which letters? Choose some, a filter, or everything.")
        work = self._service.redriving
        if asked.dry_run or asked.expect is None:
            return JSONResponse(await self._preview(work.preview, meant))
        return JSONResponse(await self._redrive(work.run, meant, asked.expect))

    async def contracts(self) -> Response:
        """Topics and schemas: what is declared, and what is there."""
        return JSONResponse(await self._look_up(wiring.contracts, self._service.settings))

    async def _told(self) -> AsyncIterator[bytes]:
        self._service.watch.watched(1)
        try:
            async for piece in _events(self._service):
                yield piece
        finally:
            self._service.watch.watched(-1)


class _Stream(StreamingResponse):
    """A stream of events that has a place as long as it lasts."""

    def __init__(self, pieces: AsyncIterator[bytes], place: AbstractContextManager[None]) -> None:
        super().__init__(pieces, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self._place = place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._place:
            await super().__call__(scope, receive, send)


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


def _chosen(asked: dict[str, str]) -> _Chosen:
    return _Chosen.model_validate({name: value for name, value in asked.items() if value and name != "ids"})


def _selection(asked: _Chosen) -> Selection:
    texts = {name: text for name, text in asked.model_dump(exclude={"ids"}).items() if text}
    try:
        return selection(asked.ids, **texts)
    except Refused as error:
        raise Problem(422, "bad-filter", str(error).removeprefix("--")) from None


def _cut(row: dict[str, Any]) -> dict[str, Any]:
    return {name: short(value, CELL_CHARACTERS_MAX) for name, value in row.items()}


def short(value: Any, most: int) -> Any:
    """A text of at most so many characters, the last of them an ellipsis where more were there; anything else as it is."""
    return value[: most - 1] + "…" if isinstance(value, str) and len(value) > most else value


def bounded(letter: dict[str, Any]) -> dict[str, Any]:
    """A letter in full as far as a page can show it; `pipeline.deadletters show` has all of it, and `cut` names what it cut."""
    shown = {name: short(value, TEXT_CHARACTERS_MAX) for name, value in letter.items() if name != "value_hex"}
    for name in ("headers", "letter_headers"):
        shown[name] = [[short(each, TEXT_CHARACTERS_MAX // 8) for each in one] for one in letter[name][:HEADERS_MAX]]
    shown["value_hex"] = letter["value_hex"] and letter["value_hex"][: 2 * TEXT_CHARACTERS_MAX]
    if len(json.dumps(letter["value"], default=str)) > VALUE_CHARACTERS_MAX:
        shown["value"] = None
        shown["value_undecoded_because"] = f"it is longer than {VALUE_CHARACTERS_MAX} characters"
    return {**shown, "cut": [name for name in shown if shown[name] != letter[name]]}


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise Problem(422, "bad-filter", "offset and limit are numbers.")
    return int(text)
