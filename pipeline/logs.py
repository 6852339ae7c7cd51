"""The log of a process: one line an event on stderr, readable on a terminal, one JSON object elsewhere.

A long-running command (`service`) says nothing in any other form once its lines are JSON: what it tells a person, warnings of
Python and an exception that nobody caught become such objects too. Which fields there are: docs/howto/logs.md.
"""

import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any, ClassVar

from pipeline.core.line_budget import LineBudget
from pipeline.core.visible import one_message, visible_json

FORMATS = ("auto", "console", "json")
LEVELS = ("debug", "info", "warning", "error")
REPEAT_EVERY_S = 10.0
# They tell every request of theirs at INFO.
_TALKATIVE = ("httpx", "httpx2", "httpcore", "httpcore2", "urllib3", "asyncio", "sqlalchemy", "watchfiles")
_ABOUT_PEOPLE = frozenset({"event", "level", "timestamp", "exception"})
_log = logging.getLogger(__name__)


class _State:
    """Of this process: whether a person's lines become JSON, whether results do, and the fields that every line has."""

    json_lines = False
    json_results = False
    facts: ClassVar[dict[str, Any]] = {}


def start(level: str | int = "info", form: str = "auto", *, service: bool = False, **facts: Any) -> None:
    """Log to stderr from now on: `form` auto is console on a terminal and JSON elsewhere.

    `facts` are fields of every JSON line; those that are None are left out.
    """
    # Imported here because it costs 100 ms and `--help` logs nothing.
    import structlog  # noqa: PLC0415

    as_json = form == "json" or (form == "auto" and not sys.stderr.isatty())
    _State.json_lines = service and as_json
    _State.json_results = service and form == "json"
    _State.facts = {name: value for name, value in facts.items() if value is not None}
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render: list[Any] = (
        [_fields, structlog.processors.JSONRenderer(serializer=_json, ensure_ascii=False, default=str)]
        if as_json
        else [_for_people, _visible_values, structlog.dev.ConsoleRenderer()]
    )
    handler = _Stderr()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                *render,
            ],
        )
    )
    _set_levels(level.upper() if isinstance(level, str) else level, handler, service=service)
    if service:
        logging.captureWarnings(as_json)
        sys.excepthook = _uncaught if as_json else sys.__excepthook__
        threading.excepthook = _uncaught_in_thread if as_json else threading.__excepthook__


def _set_levels(level: str | int, handler: logging.Handler, *, service: bool) -> None:
    root = logging.getLogger()
    root.handlers = [handler]
    # What a handler of the user's logs is shown as well; one-shot commands run no code of theirs.
    root.setLevel(level if service else logging.WARNING)
    logging.getLogger("pipeline").setLevel(level)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.NOTSET if root.level <= logging.DEBUG else logging.WARNING)
    # What passes by itself librdkafka logs as warnings; what does not reaches us as errors too, through its callbacks.
    librdkafka = logging.getLogger("librdkafka")
    librdkafka.setLevel(max(logging.ERROR, logging.getLogger("pipeline").level))
    librdkafka.filters = [Seldom()]


def json_lines() -> bool:
    """Whether every line of this process is one JSON object."""
    return _State.json_lines


def json_results() -> bool:
    """Whether the result on stdout is to be JSON too: where the format was asked for by name."""
    return _State.json_results


def fields_of_lines() -> dict[str, Any]:
    """What `start` was given for every line."""
    return dict(_State.facts)


class Seldom:
    """Passes the same line of librdkafka once in `REPEAT_EVERY_S`: while a broker is away it says so twenty times a second.

    A connection that failed is a warning: the client makes it again by itself.
    """

    def __init__(self) -> None:
        self._budget = LineBudget(burst=1, every_s=REPEAT_EVERY_S)

    def __call__(self, record: logging.LogRecord) -> bool:
        line = record.getMessage()
        if line.startswith("FAIL ["):
            record.levelno, record.levelname = logging.WARNING, "WARNING"
        # Times and counts in it make no other line of it.
        return self._budget.admits(re.sub(r"\d+", "0", line.partition(" (")[0]), time.monotonic())


class _Stderr(logging.Handler):
    """Writes to what stderr is at that moment: a live bar puts itself there, and prints lines above it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            # Not by `say`: the renderer colours on a terminal, and what it is given was escaped before.
            sys.stderr.write(self.format(record) + "\n")
        except Exception:  # noqa: BLE001  # as every handler of the standard library: a log line ends no program
            self.handleError(record)


def _json(values: Any, **options: Any) -> str:
    return visible_json(json.dumps(values, **options))


def _fields(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """One object a line: when, how bad, what, who, and then the facts, of which a line's own come before the process's."""
    first = {
        "timestamp": event.pop("timestamp", None),
        "level": event.pop("level", None),
        "message": event.pop("event", None),
        "logger": event.pop("logger", None),
        "pid": os.getpid(),
    }
    return {**first, **_State.facts, **event}


def _for_people(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A sentence of ours says what its fields say; a line of a handler keeps its own."""
    name = str(event.pop("logger", ""))
    if name != "pipeline" and not name.startswith("pipeline."):
        return event
    return {key: value for key, value in event.items() if key in _ABOUT_PEOPLE}


def _visible_values(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Every text of a log line, escaped before the renderer colours it; a second line of a text is indented."""
    return {name: one_message(value) if isinstance(value, str) else value for name, value in event.items()}


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    _log.critical("%s: the process ends", kind.__name__, exc_info=(kind, error, trace))


def _uncaught_in_thread(about: threading.ExceptHookArgs) -> None:
    if about.exc_value is not None and about.exc_type is not SystemExit:
        name = about.thread.name if about.thread else "?"
        _log.critical(
            "%s in thread %s",
            about.exc_type.__name__,
            name,
            exc_info=(about.exc_type, about.exc_value, about.exc_traceback),
        )
