"""What a person or a log collector sees of a run: all of it on stderr, stdout is for results alone."""

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Protocol

from pipeline import logs
from pipeline.core.visible import one_message, visible_json, visible_lines
from pipeline.errors import PipelineError

PROGRESS_EVERY_S = 5.0
IDLE_EVERY_S = 60.0
INTERRUPTED = 128 + signal.SIGINT


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn an error of ours, and Ctrl-C, into a line on stderr and an exit code; leave every other one its traceback."""
    try:
        yield
    except PipelineError as error:
        say(f"✖ {error}", logging.ERROR, exit_code=error.exit_code, error_class=type(error).__name__)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        say("✖ interrupted", logging.ERROR, exit_code=INTERRUPTED)
        sys.exit(INTERRUPTED)


def say(line: str, level: int = logging.INFO, **fields: Any) -> None:
    """One message for a person, on stderr; foreign text in it moves no cursor and forges no second message.

    Where every line of this process is JSON it is one too, with these fields.
    """
    if logs.json_lines():
        logging.getLogger("pipeline").log(level, "%s", line, extra=fields)
    else:
        sys.stderr.write(one_message(line) + "\n")


def result(text: str, values: Mapping[str, Any] | list[Any], *, as_json: bool, fd: int | None = None) -> None:
    """The result on stdout: text for a person, or exactly one line of JSON; no character of either acts on a terminal.

    With `fd`, JSON into that pipe alone. A long-running command whose log is JSON says it there too.
    """
    if logs.json_lines() and isinstance(values, Mapping):
        logging.getLogger("pipeline").info("ended: %s", text, extra=dict(values))
    as_json = as_json or logs.json_results()
    line = json.dumps(values, ensure_ascii=False, default=str) if as_json or fd is not None else text
    if fd is not None:
        with suppress(OSError):  # a supervisor that has died reads no result
            os.write(fd, line.encode())
        return
    if sys.stdout is None:
        raise PipelineError("The result cannot be written: standard output is closed.")
    sys.stdout.write((visible_json(line) if as_json else visible_lines(text)) + "\n")
    sys.stdout.flush()


def start_logging(level: str | int = "info", form: str = "", *, service: bool = False, **facts: Any) -> None:
    """Log to stderr (see `pipeline.logs.start`); without a `form` what the environment asks for, else by the terminal.

    Called once before the settings are read, so that their refusal is in the right form, and once with them.
    """
    asked = os.environ.get("PIPELINE_LOG__FORMAT", "auto").lower()
    logs.start(level, form or (asked if asked in logs.FORMATS else "auto"), service=service, **facts)


class _Gauged(Protocol):
    def gauges(self) -> Mapping[str, float]: ...


def waiting(stage: _Gauged, *, once: bool) -> str:
    """After a run that ends at the end: what waits in retry topics, in words for the result, and as a warning in the log."""
    count = int(stage.gauges().get("parked_records", 0)) if once else 0
    if not count:
        return ""
    logging.getLogger(__name__).warning(
        "%d records wait in retry topics: they are tried by the next run or worker of the group; --until-settled waits for them",
        count,
        extra={"retry_pending": count},
    )
    return f"; {count} wait in retry topics"


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """A function that says whether SIGINT or SIGTERM asked for a clean stop; a second one ends the process."""
    asked: list[int] = []

    def ask(number: int, _: FrameType | None) -> None:
        if asked:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        asked.append(number)
        say("shutting down: what is in flight is finished first (once more to stop at once)")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def progress(
    what: str, counts: Callable[[], tuple[int, str]], total: int | None = None
) -> Iterator[Callable[[], None]]:
    """A function to call now and then: a live bar on a terminal, a log line elsewhere, the less often the less happens.

    `counts` gives how many are done and a few words on what became of them.
    """
    if not sys.stderr.isatty():
        yield _progress_lines(what, counts)
        return
    from rich.console import Console  # noqa: PLC0415  # for terminals only
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[words]}"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), refresh_per_second=8) as bar:
        task = bar.add_task(what, total=total, words="")

        def update() -> None:
            done, words = counts()
            bar.update(task, completed=done, words=words)

        yield update
        update()


def _progress_lines(what: str, counts: Callable[[], tuple[int, str]]) -> Callable[[], None]:
    log = logging.getLogger(__name__)
    looked_at = said_at = time.monotonic()
    said: tuple[int, str] | None = None

    def update() -> None:
        nonlocal looked_at, said_at, said
        now = time.monotonic()
        if now - looked_at < PROGRESS_EVERY_S:
            return
        looked_at = now
        found = counts()
        if found != said or now - said_at >= IDLE_EVERY_S:
            said, said_at = found, now
            log.info("%s: %d so far, %s", what, *found, extra={"count": found[0]})

    return update
