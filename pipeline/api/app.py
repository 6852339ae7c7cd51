"""The ASGI app: routes on what the process holds, inside the edges.

`uvicorn --factory pipeline.api.app:create` serves it as well; `python -m pipeline.api` adds what bounds connections and heads,
time-outs for slow clients, and a stop that is exit 0.
"""

import logging
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib.resources import files
from pathlib import Path
from types import FrameType
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

from pipeline import settings
from pipeline.api import contract, dashboard, orders
from pipeline.api.edges import OPEN, Body, Envelope, Gate
from pipeline.api.hosts import Hosts
from pipeline.api.problems import Problem, busy
from pipeline.api.service import Service
from pipeline.errors import (
    BrokerUnavailable,
    PipelineError,
    Refused,
    RegistryUnavailable,
    SinkUnavailable,
    Unavailable,
)

_PAGES = Path(__file__).parent / "static"
_log = logging.getLogger(__name__)


def create() -> FastAPI:
    """The app with the settings of the environment, for a server that handles signals itself."""
    return application(Service(settings.load(uses=settings.CONSUMES)), listens_to_signals=True)


def application(service: Service, *, listens_to_signals: bool = False) -> FastAPI:
    """The app of what this process holds, which begins and ends with it.

    A server waits for its answers before it ends the app, and an event stream has no end: with `listens_to_signals` streams
    end by the signal that the server ends by.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if listens_to_signals:
            _end_by_signal(service)
        await service.open()
        try:
            yield
        finally:
            await service.close()

    app = FastAPI(
        title="Orders",
        description=contract.DESCRIPTION,
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    api = service.settings.api
    # The last one added is the outermost.
    app.add_middleware(Body, read_s=api.read_timeout)
    app.add_middleware(Gate, keys=api.secrets, limit=api.requests)
    app.add_middleware(Hosts, allowed=api.hosts, origins=api.named_hosts, open_to_all=OPEN)
    app.add_middleware(Envelope, figures=service.figures)
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(PipelineError, _ours)
    app.include_router(orders.routes(service))
    app.include_router(dashboard.routes(service))
    _add_health(app, service)
    _add_documentation(app, locked=bool(api.secrets))
    return app


def _end_by_signal(service: Service) -> None:
    """What is called on SIGTERM and SIGINT is called still, after it was said that the process ends."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        before = signal.getsignal(number)

        def ending(signum: int, frame: FrameType | None, before: Any = before) -> None:
            service.stopping.set()
            if callable(before):
                before(signum, frame)
            elif before == signal.SIG_DFL:
                raise SystemExit(128 + signum)

        signal.signal(number, ending)


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/healthz/live", tags=["health"], summary="Liveness probe", responses=contract.answers(503))
    async def live() -> dict[str, str]:
        if service.failure is not None:
            raise busy("failed", "This process cannot go on; its log says why.")
        return {"status": "live"}

    @app.get("/healthz/ready", tags=["health"], summary="Readiness probe", responses=contract.answers(503))
    async def ready() -> dict[str, str]:
        if why := service.unready():
            raise busy("unready", f"Not ready: {why}.")
        return {"status": "ready", "worker": service.worker.state if service.worker else "elsewhere"}

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(service.figures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_documentation(app: FastAPI, *, locked: bool) -> None:
    # The vendor's files, served from here: no other host is asked, and no script stands in a page.
    app.mount("/static/docs", StaticFiles(directory=str(files("fastapi_offline") / "static")))
    app.mount("/static", StaticFiles(directory=_PAGES))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return FileResponse(_PAGES / "docs.html")

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            said = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            parts = said.setdefault("components", {})
            problem = contract.ProblemDetails.model_json_schema(ref_template="#/components/schemas/{model}")
            parts.setdefault("schemas", {}).update(problem.pop("$defs", {}))
            parts["schemas"]["ProblemDetails"] = problem
            parts["securitySchemes"] = {"key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}}
            if locked:
                said["security"] = [{"key": []}]
            app.openapi_schema = said
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response(request.scope["request_id"])


async def _http(request: Request, error: Exception) -> Response:
    """What the framework itself answers: no such path, another method."""
    assert isinstance(error, HTTPException)
    name = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
    problem = Problem(
        error.status_code, name, f"{request.method} {request.url.path}: {name.replace('-', ' ')}", headers=error.headers
    )
    return problem.response(request.scope["request_id"])


def _who_is_away(error: Unavailable) -> str:
    for kind, words in (
        (BrokerUnavailable, "Kafka is unreachable."),
        (RegistryUnavailable, "The schema registry is unreachable."),
        (SinkUnavailable, "The store is unreachable."),
    ):
        if isinstance(error, kind):
            return words
    return "Not available now."


async def _ours(request: Request, error: Exception) -> Response:
    """What is away is told as such; anything else of ours is told to the one who asked only where it is about the question."""
    if isinstance(error, Unavailable):
        _log.warning("%s", error)
        return busy("away", f"{_who_is_away(error)} Retry.").response(request.scope["request_id"])
    if isinstance(error, Refused):
        return Problem(409, "refused", str(error)).response(request.scope["request_id"])
    raise error
