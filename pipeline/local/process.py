"""One server process of the local stack: started detached, found again by its pid file, never mistaken for another.

A pid alone says nothing: the process may be gone and its number given to somebody else's. A process is ours when its pid
and its start time are those in the pid file. Nothing else is ever signalled.
"""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import PipelineError, StackRefused
from pipeline.lifeline import ends_with_parent
from pipeline.local.folder import OWN_ONLY, PRIVATE, PRIVATE_FOLDER, inherited, write_private

_POLL_S = 0.05
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND


@dataclass
class Server:
    """A server and where its things are; `command` is complete, `is_ready` asks it something real."""

    name: str
    folder: Path
    command: Sequence[str]
    environment: dict[str, str]
    is_ready: Callable[[], bool]
    dies_with_parent: bool = False
    mark: str = ""
    """An argument that only its process has: a pid file may name anybody's."""
    _child: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def log_path(self) -> Path:
        """What it writes."""
        return self.folder / f"{self.name}.log"

    @property
    def log_paths(self) -> tuple[Path, ...]:
        """What it printed and, where it keeps one, its own log."""
        return self.log_path, *(path for path in (self.folder / f"{self.name}-server.log",) if path.exists())

    @property
    def pid_path(self) -> Path:
        """`{"pid": …, "started": …}` of the process that was started last."""
        return self.folder / f"{self.name}.pid"

    @property
    def pid(self) -> int | None:
        """The pid of the running process that is ours; None when there is none."""
        # A child is asked itself, which also takes leave of one that ended: it would stay a zombie.
        if self._child is not None and self._child.poll() is None:
            return self._child.pid
        recorded = self._recorded()
        if recorded is None or started_at(recorded[0]) != recorded[1] or not _has_argument(recorded[0], self.mark):
            return None
        return recorded[0]

    @property
    def is_stale(self) -> bool:
        """A pid file without its process: it was killed, or the machine was restarted."""
        return self.pid_path.exists() and self.pid is None

    def start(self) -> None:
        """Start it, detached from the terminal unless it is to die with its parent. Does not wait."""
        self.folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        command = list(self.command)
        if self.dies_with_parent:
            command = ends_with_parent(command, signal.SIGKILL)
        with uninterrupted(), os.fdopen(os.open(self.log_path, _APPEND, PRIVATE), "ab") as log:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**inherited(), **self.environment},
                cwd=self.folder,
                umask=OWN_ONLY,
                start_new_session=not self.dies_with_parent,
                process_group=0 if self.dies_with_parent else None,
            )
            started = started_at(self._child.pid)
            write_private(self.pid_path, json.dumps({"pid": self._child.pid, "started": started}))

    def wait_until_ready(self, timeout_s: float = 60) -> None:
        """Return once it answers; `PipelineError` with the end of its log when it died or stayed silent."""
        deadline = time.monotonic() + timeout_s
        while not self.is_ready():
            if self.pid is None:
                raise PipelineError(f"{self.name} ended while it started. The end of {self.log_path}:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise PipelineError(
                    f"{self.name} does not answer after {timeout_s:g} s. The end of {self.log_path}:\n{self.tail()}"
                )
            time.sleep(_POLL_S)

    def stop(self, timeout_s: float = 20) -> bool:
        """Ask it to end, and insist after `timeout_s` seconds; false when it had to be killed."""
        asked = self._signal(signal.SIGTERM)
        in_time = not asked or self._wait_gone(timeout_s)
        if not in_time:
            self.kill()
        self.pid_path.unlink(missing_ok=True)
        return in_time

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone; its pid file stays, as after a crash."""
        if self._signal(signal.SIGKILL):
            self._wait_gone(10)

    def pause(self) -> None:
        """SIGSTOP: it is there and does not answer."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def tail(self, lines: int = 20) -> str:
        """The last lines of its logs."""
        texts = (path.read_text(errors="replace") for path in self.log_paths if path.exists())
        return "\n".join("\n".join(text.splitlines()[-lines:]) for text in texts)

    def _recorded(self) -> tuple[int, str] | None:
        try:
            recorded = json.loads(self.pid_path.read_text())
            return int(recorded["pid"]), str(recorded["started"])
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StackRefused(f"{self.pid_path} cannot be read: {error.strerror}. Is {self.folder} yours?") from error
        except (ValueError, KeyError, TypeError) as error:
            raise StackRefused(
                f"{self.pid_path} cannot be read ({error}). If no {self.name} of this stack runs, delete that file."
            ) from error

    def _signal(self, number: int) -> bool:
        pid = self.pid
        if pid is None:
            return False
        try:
            os.kill(pid, number)
        except PermissionError as error:
            raise StackRefused(f"{self.name} is process {pid} of another user: only that user can stop it.") from error
        return True

    def _wait_gone(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while self.pid is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        return True


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Signals wait until a process that is being started is known: nobody would end it otherwise."""
    if threading.current_thread() is not threading.main_thread():
        yield  # what a signal raises, it raises in the main thread
        return
    came: list[int] = []
    numbers = [each for each in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(each) is not signal.SIG_IGN]
    before = [(each, signal.signal(each, lambda number, _: came.append(number))) for each in numbers]
    try:
        yield
    finally:
        for each, handler in before:
            signal.signal(each, handler)
        for number in came:
            signal.raise_signal(number)


def _has_argument(pid: int, mark: str) -> bool:
    """Whether this argument is among those of the process; where that cannot be read, it is taken for another's."""
    if not mark:
        return True
    try:
        return os.fsencode(mark) in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        if Path("/proc/self/cmdline").exists():
            return False
    said = subprocess.run(["ps", "-o", "command=", "-ww", "-p", str(pid)], capture_output=True, text=True, check=False)  # noqa: S607
    return mark in said.stdout


def started_at(pid: int) -> str | None:
    """When a process started, as the system counts it; None when it is gone or only a zombie."""
    try:
        # After the command's name, which may hold anything: the state is the first field, the start time the twentieth.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    said = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)  # noqa: S607
    return said.stdout.strip() or None
