"""`make demo`, where more happens than a quiet run to its end; its figures: tests/integration/test_consume.py."""

import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.integration.test_local_stack import ROOT, Machine, machine, wait_until

__all__ = ["machine"]
pytestmark = pytest.mark.integration
DEMO = [sys.executable, str(ROOT / "examples/demo.py")]


def said(path: Path) -> str:
    return path.read_text(errors="replace")


def processes_that_name(folder: Path) -> list[str]:
    """On Linux: those that a pid file does not know as well."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            command = path.read_text(errors="replace").replace("\0", " ")
            found += [command] if str(folder) in command else []
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_demo_leaves_nothing_behind_and_says_so_in_a_line(machine: Machine, number: int) -> None:
    log = machine.folder / "demo.log"
    # Where the tests run in the background, SIGINT may be ignored, and what they start would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with log.open("w") as stderr:
        demo = subprocess.Popen(DEMO, env=machine.env, cwd=machine.folder, stderr=stderr)
    signal.signal(signal.SIGINT, before)
    wait_until(lambda: "starting registry" in said(log), "the stack starting")
    demo.send_signal(number)
    assert demo.wait(60) == 130
    assert "Traceback" not in said(log)
    assert said(log).endswith("✖ interrupted\n")
    assert {state["state"] for state in machine.states().values()} == {"stopped"}
    assert processes_that_name(machine.folder) == []


@pytest.mark.long
@pytest.mark.timeout(400)
def test_demo_beside_another_worker_of_its_group_is_content(machine: Machine) -> None:
    assert machine.run("up").returncode == 0
    env = machine.env | dict(
        line.removeprefix("export ").split("=", 1) for line in machine.run("env").stdout.splitlines()
    )
    for door, action in (("topics", "apply"), ("schemas", "register")):
        subprocess.run([sys.executable, "-m", f"pipeline.{door}", action], env=env, check=True, capture_output=True)
    log = machine.folder / "worker.log"
    with log.open("w") as stderr:
        worker = subprocess.Popen(
            [sys.executable, "-m", "pipeline.consume", "--json"], env=env, cwd=machine.folder, stderr=stderr,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
    try:
        # It joins before the demo publishes, so that both have partitions.
        wait_until((machine.folder / "orders.db").exists, "the worker joining")
        demo = subprocess.run(
            DEMO, env=env, cwd=machine.folder, capture_output=True, text=True, timeout=200, check=False
        )
        assert demo.returncode == 0, demo.stderr
        figures = {line[:20].strip(): line[20:35].replace(" ", "") for line in demo.stdout.splitlines()}
        assert (figures["stored"], figures["dead letters"], figures["lag"]) == ("18528", "3658", "0")
        assert "next: make topics" not in demo.stderr
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.communicate(timeout=60)


@pytest.mark.long
@pytest.mark.timeout(400)
def test_two_demos_at_once_count_each_its_own(machine: Machine) -> None:
    logs = [machine.folder / f"demo-{number}.log" for number in range(2)]
    demos = []
    for log in logs:
        with log.open("w") as both:
            demos.append(subprocess.Popen(DEMO, env=machine.env, cwd=machine.folder, stdout=both, stderr=both))
    assert [demo.wait(180) for demo in demos] == [0, 0], [said(log) for log in logs]
    for log in logs:
        figures = {line[:20].strip(): line[20:35].replace(" ", "") for line in said(log).splitlines()}
        assert (figures["stored"], figures["dead letters"], figures["lag"]) == ("18528", "3658", "0")
    assert sum("another demo is at work" in said(log) for log in logs) == 1
