"""What a person or a log collector sees of a run: all of it on stderr, stdout is for results alone."""

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from pipeline.core.visible import one_message, visible_json, visible_lines
from pipeline.errors import PipelineError

PROGRESS_EVERY_S = 5.0
IDLE_EVERY_S = 60.0
REPEAT_EVERY_S = 10.0
INTERRUPTED = 128 + signal.SIGINT


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn an error of ours, and Ctrl-C, into a line on stderr and an exit code; leave every other one its traceback."""
    try:
        yield
    except PipelineError as error:
        say(f"✖ {error}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        say("✖ interrupted")
        sys.exit(INTERRUPTED)


def say(line: str) -> None:
    """One message for a person, on stderr; foreign text in it moves no cursor and forges no second message."""
    sys.stderr.write(one_message(line) + "\n")


def result(text: str, values: Mapping[str, Any] | list[Any], *, as_json: bool, fd: int | None = None) -> None:
    """The result on stdout: text for a person, or exactly one line of JSON; no character of either acts on a terminal.

    With `fd`, JSON into that pipe alone.
    """
    line = json.dumps(values, ensure_ascii=False, default=str) if as_json or fd is not None else text
    if fd is not None:
        with suppress(OSError):  # a supervisor that has died reads no result
            os.write(fd, line.encode())
        return
    if sys.stdout is None:
        raise PipelineError("The result cannot be written: standard output is closed.")
    sys.stdout.write((visible_json(line) if as_json else visible_lines(text)) + "\n")
    sys.stdout.flush()


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


def _visible_values(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Every text of a log line, escaped before the renderer colours it; a second line of a text is indented."""
    return {name: one_message(value) if isinstance(value, str) else value for name, value in event.items()}


def start_logging(level: int = logging.INFO) -> None:
    """Log to stderr: readable on a terminal, a JSON object a line elsewhere; librdkafka's lines from warnings up."""
    # Imported here because it costs 100 ms and `--help` logs nothing.
    import structlog  # noqa: PLC0415

    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    on_terminal = sys.stderr.isatty()
    render: list[Any] = (
        [_visible_values, structlog.dev.ConsoleRenderer()]
        if on_terminal
        else [structlog.processors.JSONRenderer(serializer=_json, ensure_ascii=False, default=str)]
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
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("pipeline").setLevel(level)
    # What passes by itself it logs as warnings; what does not reaches us as errors too, through its callbacks.
    librdkafka = logging.getLogger("librdkafka")
    librdkafka.setLevel(logging.ERROR)
    librdkafka.filters = [_seldom]


def _seldom(record: logging.LogRecord, said: dict[str, float] = {}) -> bool:  # noqa: B006  # the memory of this process
    """Pass the same line once in `REPEAT_EVERY_S`: while a broker is away, librdkafka says so twenty times a second."""
    line = record.getMessage().partition(" (")[0]
    now = time.monotonic()
    if now - said.get(line, -REPEAT_EVERY_S) < REPEAT_EVERY_S:
        return False
    said[line] = now
    return True


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """A function that says whether SIGINT or SIGTERM asked for a clean stop; a second one ends the process."""
    asked: list[int] = []

    def ask(number: int, _: FrameType | None) -> None:
        if asked:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        asked.append(number)
        say("stopping: finishing what is in hand (once more to stop at once)")

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
            log.info("%s: %d so far, %s", what, *found)

    return update
