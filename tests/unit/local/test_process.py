"""A server's process: what the system refuses. Real starts and stops: tests/integration/test_local_stack.py."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import pytest

from pipeline.errors import PipelineError, StackRefused
from pipeline.local import process
from pipeline.local.process import Server, started_at


@pytest.fixture
def server(tmp_path: Path) -> Server:
    """One whose pid file names a process that runs: this one."""
    it = Server("kafka", tmp_path, [], {}, lambda: True)
    it.pid_path.write_text(json.dumps({"pid": os.getpid(), "started": started_at(os.getpid())}))
    return it


def test_server_of_another_user_is_said_to_be_his(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_pid: int, _number: int) -> NoReturn:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(process.os, "kill", refuse)
    with pytest.raises(StackRefused, match=f"kafka is process {os.getpid()} of another user"):
        server.stop()
    assert server.pid_path.exists()


def test_pid_file_that_may_not_be_read_is_not_called_broken(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> NoReturn:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(StackRefused, match=r"cannot be read: Permission denied\. Is .* yours"):
        server.stop()


def test_server_that_ended_while_it_started_leaves_no_zombie(tmp_path: Path) -> None:
    """As one whose port was taken: another stack is started in its place, and this one is forgotten."""
    server = Server("kafka", tmp_path, [sys.executable, "-c", ""], {}, lambda: False)
    server.start()
    with pytest.raises(PipelineError, match="kafka ended while it started"):
        server.wait_until_ready()
    pid = json.loads(server.pid_path.read_text())["pid"]
    server.stop()
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def test_signal_that_comes_while_a_server_is_started_leaves_none_that_nobody_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = subprocess.Popen

    def start_and_interrupt(*args: Any, **options: Any) -> Any:
        started = start(*args, **options)
        os.kill(os.getpid(), signal.SIGINT)
        return started

    monkeypatch.setattr(process.subprocess, "Popen", start_and_interrupt)
    server = Server("kafka", tmp_path, [sys.executable, "-c", "import signal; signal.pause()"], {}, lambda: True)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            server.start()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert server.pid == json.loads(server.pid_path.read_text())["pid"]
    server.kill()


def test_process_that_a_pid_file_names_but_that_is_no_server_is_never_signalled(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process.os, "kill", lambda *_: pytest.fail("it was signalled"))
    server.mark = "-Djava.io.tmpdir=/of/a/stack"
    assert server.pid is None
    assert server.stop(0)
    server.kill()


def test_server_is_found_by_its_argument_inherits_no_setting_and_its_files_are_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPELINE_REGISTRY__PASSWORD", "S3CRET")
    monkeypatch.setenv("KAFKA_CONFIG_FILE", "S3CRET")
    program = "import os, time; print(dict(os.environ), flush=True); open('made', 'w').close(); time.sleep(60)"
    server = Server(
        "kafka", tmp_path / "data", [sys.executable, "-c", program, "mark"], {"OWN": "1"}, lambda: True, mark="mark"
    )
    server.start()
    try:
        deadline = time.monotonic() + 30
        while not (server.folder / "made").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        found = Server("kafka", tmp_path / "data", [], {}, lambda: True, mark="mark")
        assert found.pid == server.pid
        written = server.log_path.read_text()
        assert "S3CRET" not in written
        assert "'OWN': '1'" in written
        modes = {path.name: path.stat().st_mode & 0o777 for path in (server.folder, *server.folder.iterdir())}
        assert modes == {"data": 0o700, "kafka.log": 0o600, "kafka.pid": 0o600, "made": 0o600}
    finally:
        server.kill()
