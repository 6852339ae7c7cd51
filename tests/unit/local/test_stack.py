"""What the local stack decides without starting anything. The rest: tests/integration/test_local_stack.py."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest

from pipeline.local import broker
from pipeline.local.artifacts import NOTHING
from pipeline.local.ports import Ports
from pipeline.local.process import started_at
from pipeline.local.stack import LocalStack


def test_cluster_id_never_begins_with_a_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of 64 would, and `StorageTool format -t -abc` is refused: the first `make up` on a machine failed."""
    drawn = iter([UUID(bytes=b"\xf8" + bytes(15)), UUID(bytes=b"\xfb" * 16), UUID(bytes=bytes(16))])
    monkeypatch.setattr(broker.uuid, "uuid4", lambda: next(drawn))
    assert broker.new_cluster_id() == "A" * 22


def test_formatting_that_is_interrupted_is_ended_before_anything_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A JVM that still formatted the storage was found after a demo had said that it was interrupted."""
    started: list[subprocess.Popen[str]] = []

    def interrupted(popen: "subprocess.Popen[str]") -> None:
        started.append(popen)
        raise KeyboardInterrupt

    sleeping = [sys.executable, "-c", "import time; time.sleep(600)"]
    monkeypatch.setattr(broker.Broker, "formatting", lambda *_: sleeping)
    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    stack = LocalStack(tmp_path, Ports((1, 2, 3), 4, (5, 6, 7), (8, 9, 10), 11), NOTHING)
    with pytest.raises(KeyboardInterrupt):
        stack._make_storage()
    [first] = started
    assert first.returncode == -signal.SIGKILL
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    left = [] if not children.exists() else [started_at(int(pid)) for pid in children.read_text().split()]
    assert not any(left), "of the three none is left"
