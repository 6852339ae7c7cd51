"""What the local stack decides without starting anything. The rest: tests/integration/test_local_stack.py."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest

from pipeline.local import broker
from pipeline.local.__main__ import _exports
from pipeline.local.artifacts import NOTHING
from pipeline.local.ports import Ports
from pipeline.local.process import started_at
from pipeline.local.stack import LocalStack, recorded_ports


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


RECORDED = {"kafka": [9092], "registry": 8081, "internal": [1], "controllers": [2], "management": 3}


@pytest.mark.parametrize(
    "wrong",
    [
        {"registry": "$(touch x)"},
        {"registry": "8081"},
        {"registry": 0},
        {"registry": 65_536},
        {"registry": True},
        {"management": None},
        {"kafka": ["$(touch x)"]},
        {"kafka": []},
        {"kafka": 9092},
        {"internal": [1.5]},
        {"controllers": [-1]},
        {"more": 1},
    ],
)
def test_recorded_ports_that_are_none_are_not_believed(tmp_path: Path, wrong: dict[str, object]) -> None:
    mark = tmp_path / "local-stack.json"
    mark.write_text(json.dumps(RECORDED))
    assert recorded_ports(tmp_path) == Ports((9092,), 8081, (1,), (2,), 3)
    mark.write_text(json.dumps(RECORDED | wrong))
    assert recorded_ports(tmp_path) is None


def test_lines_for_a_shell_are_quoted(tmp_path: Path) -> None:
    stack = LocalStack(tmp_path, Ports((9092,), 8081, (1,), (2,), 3), NOTHING)
    stack.bootstrap_servers = "$(touch x)"
    exported = _exports(stack)
    assert exported == (
        "export PIPELINE_KAFKA__BOOTSTRAP_SERVERS='$(touch x)'\n"
        "export PIPELINE_REGISTRY__URL=http://127.0.0.1:8081/apis/ccompat/v7"
    )


def test_every_server_is_known_by_an_argument_of_its_own(tmp_path: Path) -> None:
    stack = LocalStack(tmp_path, Ports((1, 2), 8081, (3, 4), (5, 6), 7), NOTHING)
    marks = [server.mark for server in stack.servers]
    assert all(server.mark in server.command for server in stack.servers)
    assert len(set(marks)) == 3
    assert all(str(tmp_path) in mark for mark in marks)
