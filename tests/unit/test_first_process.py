"""A command as process 1: in a PID namespace of its own where that is allowed, else in a process that takes itself for it."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNSHARE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
IS_REAL = (
    bool(shutil.which("unshare"))
    and subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0
)
# A child subreaper gets orphans as process 1 does (prctl 36).
SIMULATED = "" if IS_REAL else "import ctypes; ctypes.CDLL(None).prctl(36, 1); os.getpid = lambda: 1"
SCRIPT = f"""
import os, signal, subprocess, sys, time
assert os.getpid() == 1 or {bool(SIMULATED)}
{SIMULATED}
from pipeline.first_process import become_a_child_of_process_1
become_a_child_of_process_1()
"""


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    found: list[subprocess.Popen[str]] = []
    yield found
    for popen in found:
        popen.kill()
        popen.communicate()


def start(started: list[subprocess.Popen[str]], then: str) -> subprocess.Popen[str]:
    command = [*(UNSHARE if IS_REAL else ()), sys.executable, "-c", SCRIPT + then]
    popen = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    started.append(popen)
    return popen


def first_process(popen: subprocess.Popen[str]) -> int:
    if not IS_REAL:
        return popen.pid
    children = Path(f"/proc/{popen.pid}/task/{popen.pid}/children").read_text().split()
    return int(children[0])


def wait_for_line(popen: subprocess.Popen[str], line: str) -> None:
    assert popen.stdout is not None
    assert popen.stdout.readline() == line + "\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_command_that_has_no_handler_yet_ends_at_a_signal(
    number: signal.Signals, started: list[subprocess.Popen[str]]
) -> None:
    popen = start(
        started, "signal.signal(signal.SIGINT, signal.SIG_DFL); print('waiting', flush=True); time.sleep(120)"
    )
    wait_for_line(popen, "waiting")
    asked_at = time.monotonic()
    subprocess.run(["kill", f"-{int(number)}", str(first_process(popen))], check=True)
    assert popen.wait(60) == 128 + number
    assert time.monotonic() - asked_at < 60, "and not when the command has ended by itself"


def test_command_that_stops_cleanly_gets_the_signal_once_and_its_exit_code_is_passed_on(
    started: list[subprocess.Popen[str]],
) -> None:
    popen = start(
        started,
        "got = []; signal.signal(signal.SIGTERM, lambda *_: got.append(1)); print('waiting', flush=True)\n"
        "while not got: time.sleep(0.01)\n"
        "time.sleep(0.2); print('stopped', len(got), flush=True); sys.exit(3)",
    )
    wait_for_line(popen, "waiting")
    subprocess.run(["kill", "-15", str(first_process(popen))], check=True)
    wait_for_line(popen, "stopped 1")
    assert popen.wait(60) == 3


def test_orphans_are_reaped_while_the_command_goes_on(started: list[subprocess.Popen[str]]) -> None:
    popen = start(
        started,
        "orphan = int(subprocess.run([sys.executable, '-c', \"import os; pid = os.fork(); print(pid or '') if pid else None\"],"
        " capture_output=True, text=True).stdout)\n"
        "while os.path.exists(f'/proc/{orphan}'): time.sleep(0.01)\n"
        "print('reaped', flush=True)",
    )
    wait_for_line(popen, "reaped")
    assert popen.wait(60) == 0


def test_command_that_is_not_process_1_is_left_alone() -> None:
    script = "import os; before = os.getpid(); from pipeline import door; assert os.getpid() == before"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0
