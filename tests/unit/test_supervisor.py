"""The supervisor and its members: real processes, each a script of a few lines."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.supervisor import Member, Supervisor

RESULT = 'import json, os, sys; os.write(int(sys.argv[-1].rpartition("=")[2]), json.dumps(SUMMARY).encode())'


def run(*scripts: str) -> tuple[int, dict[str, Any]]:
    """Members that each run one script, all of them to their end."""
    members = [
        Member(number, [sys.executable, "-c", script], {}, once=True) for number, script in enumerate(scripts, 1)
    ]
    supervisor = Supervisor(members)
    return supervisor.run(lambda: False), supervisor.summary()


def says(**summary: float) -> str:
    return RESULT.replace("SUMMARY", repr(summary))


def test_what_a_handler_prints_passes_through_and_is_no_result(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    printed = 'import sys; print(\'{"order": "o-1", "tags": ["a"]}\'); sys.stdout.buffer.write(b"\\xff no UTF-8\\n");'
    code, summary = run(f"{printed} sys.stdout.flush(); {says(handled=2, seconds=0.5)}", says(handled=3, seconds=1.5))
    assert (code, summary) == (0, {"handled": 5, "seconds": 1.5, "restarts": 0})
    assert capfdbinary.readouterr().out == b'{"order": "o-1", "tags": ["a"]}\n\xff no UTF-8\n'


def test_member_killed_after_its_handler_printed_json_is_started_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    once = tmp_path / "died"
    script = (
        f"import os, pathlib, signal; once = pathlib.Path({str(once)!r})\n"
        "if not once.exists():\n"
        "    once.touch()\n"
        '    print(\'{"order": "o-1"}\', flush=True)\n'
        f"    os.kill(os.getpid(), {int(signal.SIGKILL)})\n"
        f"{says(handled=1)}"
    )
    assert run(script) == (0, {"handled": 1, "restarts": 1})
    assert capfd.readouterr().out == '{"order": "o-1"}\n'


def test_member_whose_child_keeps_its_output_open_is_seen_to_end(capfd: pytest.CaptureFixture[str]) -> None:
    child = "import time; time.sleep(30)"
    script = (
        f"import subprocess, sys; it = subprocess.Popen([sys.executable, '-c', {child!r}]); print(it.pid, flush=True)"
    )
    code, _ = run(f"{script}; {says(handled=1)}")
    pid = int(capfd.readouterr().out)
    assert Path(f"/proc/{pid}").exists(), "it holds the member's standard output still"
    assert code == 0
    os.kill(pid, signal.SIGKILL)


def test_long_output_without_a_line_end_holds_no_member_up(capfd: pytest.CaptureFixture[str]) -> None:
    code, summary = run(f"import sys; sys.stdout.write('x' * 300_000); sys.stdout.flush(); {says(handled=1)}")
    assert (code, summary["handled"], len(capfd.readouterr().out)) == (0, 1, 300_000)


def test_result_is_one_line_of_json_whatever_the_number_of_members(capfd: pytest.CaptureFixture[str]) -> None:
    _, summary = run(*[says(consumed=10, handled=9, dead_lettered=1)] * 3)
    assert json.dumps(summary) == '{"consumed": 30, "handled": 27, "dead_lettered": 3, "restarts": 0}'
    assert capfd.readouterr().out == ""
