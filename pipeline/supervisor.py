"""Several members of a group under one command (`--processes N`): one interpreter uses one core.

Each member is a process of its own: the same command with the same arguments, as `<instance>-<n>`. The supervisor starts
them, starts those that crashed again, passes a stop on, and makes one result of theirs. A member writes its result to a pipe of
its own (`--result-fd`); its standard output belongs to the handlers and passes through, line by line. What follows from an
end is decided in `core.members`. On Linux members stop, as by SIGTERM, when the supervisor dies.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO, Any

from pipeline import logs, metrics, telemetry
from pipeline.core.members import Life, Over, StartAgain, merged, worst
from pipeline.errors import SettingsRefused
from pipeline.lifeline import ends_with_parent
from pipeline.settings import Metrics

PORT_MAX = 2**16 - 1
# After that, one that was asked to stop is killed: longer than a worker takes for what it has in hand and its last commit.
STOP_S = 60.0
_LOOK_EVERY_S = 0.05
# A process that ended may have left a child that holds its standard output open: that is not waited for any longer.
_LAST_LINES_S = 1.0
_LINE_BYTES_MAX = 65_536
_RESULT_BYTES_MAX = 65_536
_writing = threading.Lock()
_log = logging.getLogger(__name__)


class Member:
    """One member: its process, and those before it."""

    def __init__(self, number: int, command: Sequence[str], environment: dict[str, str], *, once: bool) -> None:
        self.number = number
        self.life = Life(once)
        self.summary: dict[str, float] = {}
        self.start_at: float | None = 0.0
        self._command = command
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._readers: list[threading.Thread] = []
        self._started_at = 0.0
        self._result_fd = -1

    @property
    def runs(self) -> bool:
        """Whether it has a process."""
        return self._process is not None

    def start(self) -> None:
        """Give it a process. A terminal's Ctrl-C does not reach it: the stop is passed on, once."""
        self.start_at = None
        self._started_at = time.monotonic()
        # A live bar for each would leave none of them readable, so on a terminal their lines pass through here. JSON has
        # its pid in every line, and stays whole.
        relayed = sys.stderr.isatty() and not logs.json_lines()
        self._result_fd, result = os.pipe()
        os.set_blocking(self._result_fd, False)
        try:
            self._process = subprocess.Popen(  # noqa: S603  # this very command
                ends_with_parent([*self._command, f"--result-fd={result}"], signal.SIGTERM),
                env={**os.environ, "PIPELINE_LOG__FORMAT": _format(), **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE if relayed else None,
                pass_fds=[result],
                process_group=0,
            )
        finally:
            os.close(result)
        self._readers = [_relay(self._process.stdout, _to_stdout)]
        if relayed:
            self._readers.append(_relay(self._process.stderr, self._to_stderr))

    def _to_stderr(self, line: bytes) -> None:
        telemetry.say(f"[{self.number}] {line.decode('utf-8', 'backslashreplace').rstrip()}")

    def signal(self, number: signal.Signals) -> None:
        """Send it to the process, if there is one."""
        if self._process is not None:
            self._process.send_signal(number)

    def reap(self) -> tuple[int, float] | None:
        """Exit code, and how many seconds it ran, once it has ended; its result is counted."""
        if self._process is None or (code := self._process.poll()) is None:
            return None
        deadline = time.monotonic() + _LAST_LINES_S
        for reader in self._readers:
            reader.join(max(0.0, deadline - time.monotonic()))
        self._process = None
        self._count()
        return code, time.monotonic() - self._started_at

    def _count(self) -> None:
        """A process that was killed wrote nothing: what it did is in nobody's result."""
        written = b""
        with suppress(BlockingIOError):  # what it has started holds the other end
            written = os.read(self._result_fd, _RESULT_BYTES_MAX)
        os.close(self._result_fd)
        if written:
            self.summary = merged([self.summary, json.loads(written)])


def _format() -> str:
    """Of a member's log: as ours, whatever its own stderr is; by name only where it was asked for by name."""
    if not logs.json_lines():
        return "console"
    return "json" if logs.json_results() else "auto"


def _relay(stream: IO[bytes] | None, take: Callable[[bytes], None]) -> threading.Thread:
    """Pass every line on until the stream ends, from a thread; a reader that has gone must not stop the writer."""
    assert stream is not None

    def lines() -> None:
        with stream:
            while line := stream.readline(_LINE_BYTES_MAX):
                with suppress(OSError, ValueError):
                    take(line)

    reader = threading.Thread(target=lines, daemon=True)
    reader.start()
    return reader


def _to_stdout(line: bytes) -> None:
    """Bytes as they came: what a handler prints need not be UTF-8. Whole lines, so that members do not cut each other's."""
    if sys.stdout is not None:
        with _writing:
            sys.stdout.flush()
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()


class Supervisor:
    """Runs members until all have ended, or are told to."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = members
        self._stopping_since: float | None = None

    def run(self, stopping: Callable[[], bool]) -> int:
        """The exit code of all, the worst. None of them is left when this returns or raises."""
        try:
            while self._turn():
                if stopping():
                    self._stop()
                time.sleep(_LOOK_EVERY_S)
        finally:
            for member in self._members:
                member.signal(signal.SIGKILL)
        return worst(member.life.code for member in self._members)

    def running(self) -> list[int]:
        """The numbers of those that have a process now."""
        return [member.number for member in self._members if member.runs]

    def restarts(self) -> dict[int, int]:
        """How often each was started again."""
        return {member.number: member.life.restarts for member in self._members}

    def summary(self) -> dict[str, Any]:
        """What all of them did."""
        return merged(member.summary for member in self._members) | {"restarts": sum(self.restarts().values())}

    def _turn(self) -> bool:
        """Look after each; whether any of them runs or will."""
        now = time.monotonic()
        for member in self._members:
            if (ended := member.reap()) is not None:
                self._after(member, *ended)
            if member.start_at is not None and member.start_at <= now:
                member.start()
        if self._stopping_since is not None and now - self._stopping_since > STOP_S:
            for member in self._members:
                member.signal(signal.SIGKILL)
        return any(member.runs or member.start_at is not None for member in self._members)

    def _after(self, member: Member, code: int, ran_s: float) -> None:
        if self._stopping_since is not None:
            member.life.stopped(code)
            return
        decision = member.life.ended(code, ran_s)
        if isinstance(decision, StartAgain):
            member.start_at = time.monotonic() + decision.delay_s
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            _log.warning("member %d %s: starting it again in %g s", member.number, how, decision.delay_s)
        elif decision is Over.ALL:
            self._stop()

    def _stop(self) -> None:
        if self._stopping_since is not None:
            return
        self._stopping_since = time.monotonic()
        for member in self._members:
            member.start_at = None
            member.signal(signal.SIGTERM)


def run(
    door: str,
    processes: int,
    *,
    instance: str | None,
    until_end: bool,
    labels: dict[str, str],
    served: Metrics,
    as_json: bool,
) -> int:
    """Run `processes` members of `python -m pipeline.<door>` with the arguments of this process; the exit code of all.

    Each gets the instance `<instance>-<n>`, or none. Ends when all of them have, or when asked to by SIGINT or SIGTERM.
    Metrics of all are served on the one port, each series with the label `process`; for that, members serve their own on the
    `processes` ports after it, on 127.0.0.1. `SettingsRefused` when these are no ports.
    """
    port = served.port
    if port is not None and port + processes > PORT_MAX:
        raise SettingsRefused(f"metrics.port {port} leaves no {processes} ports after it: each process needs one.")
    members = []
    for number in range(1, processes + 1):
        name = () if instance is None else ("--instance", f"{instance}-{number}")
        own = (
            {}
            if port is None
            else {"PIPELINE_METRICS__PORT": str(port + number), "PIPELINE_METRICS__HOST": "127.0.0.1"}
        )
        # What comes last counts.
        command = [sys.executable, "-m", f"pipeline.{door}", *sys.argv[1:], *name, "--processes", "1"]
        members.append(Member(number, command, own, once=until_end))
    supervisor = Supervisor(members)

    def sources() -> dict[int, str]:
        return (
            {} if port is None else {each: f"http://127.0.0.1:{port + each}/metrics" for each in supervisor.running()}
        )

    with (
        telemetry.stop_signals() as stopping,
        metrics.of_members(sources, supervisor.restarts, labels, served.host, port),
    ):
        code = supervisor.run(stopping)
    summary = supervisor.summary()
    words = ", ".join(f"{value:g} {name.replace('_', ' ')}" for name, value in summary.items())
    telemetry.result(words, summary, as_json=as_json)
    return code
