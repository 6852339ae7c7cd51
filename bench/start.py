"""How long the commands take until they are of use."""

import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.handlers import NOTES
from bench.place import TOPIC, Place
from bench.programs import ROOT
from pipeline.local.ports import free_port

TIMES = 5
STACKS = 3
HELP, READY, FIRST, STACK = "--help", "worker ready to poll", "worker's first order handled", "local stack up"
_LONGEST_S = 60.0
_LOOK_EVERY_S = 0.002


def stack(say: Callable[[str], None]) -> dict[str, Any]:
    """`python -m pipeline.local up` with cached jars in an empty folder, in seconds, until both servers answer."""
    taken = []
    for _ in range(STACKS):
        with tempfile.TemporaryDirectory(prefix="bench-stack-") as folder:
            environment = {
                **os.environ,
                "PIPELINE_LOCAL__DIR": f"{folder}/local",
                "PIPELINE_LOCAL__KAFKA_PORT": str(free_port()),
                "PIPELINE_LOCAL__REGISTRY_PORT": str(free_port()),
            }
            began = time.monotonic()
            _local("up", environment)
            taken.append(time.monotonic() - began)
            _local("down", environment)
            say(f"{STACK}: {taken[-1]:.1f} s")
    return {STACK: statistics.median(taken)}


def _local(what: str, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "pipeline.local", what]
    subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, check=True, timeout=_LONGEST_S)


def measure(place: Place, say: Callable[[str], None]) -> dict[str, Any]:
    """Help and a worker against the running stack, medians in seconds. The group and its retry topics are there already."""
    helps = []
    for _ in range(TIMES):
        began = time.monotonic()
        subprocess.run([sys.executable, "-m", "pipeline.consume", "--help"], cwd=ROOT, capture_output=True, check=True)
        helps.append(time.monotonic() - began)
    group = place.fresh()
    _worker(place, group)  # makes the retry topics
    ready, first = zip(*(_worker(place, group) for _ in range(TIMES)), strict=True)
    found = {HELP: statistics.median(helps), READY: statistics.median(ready), FIRST: statistics.median(first)}
    for name, seconds in found.items():
        say(f"{name}: {seconds:.2f} s")
    return found


def _worker(place: Place, group: str) -> tuple[float, float]:
    """Seconds until it serves its metrics, which is when it begins to poll, and until its first order was handled."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-notes-") as folder:
        environment = {**place.environment(TOPIC, group), "PIPELINE_METRICS__PORT": str(port), NOTES: folder}
        began = time.monotonic()
        worker = subprocess.Popen(
            [sys.executable, "-m", "pipeline.consume", "--instance", "start", "--handler", "bench.handlers:noted"],
            env={**os.environ, **environment},
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            ready = _until(lambda: _listens(port), began)
            first = _until(lambda: any(Path(folder).glob("*.json")), began)
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait(_LONGEST_S)
    return ready, first


def _until(there: Callable[[], bool], began: float) -> float:
    while not there():
        if time.monotonic() - began > _LONGEST_S:
            raise TimeoutError(f"A worker was not there after {_LONGEST_S:g} s.")
        time.sleep(_LOOK_EVERY_S)
    return time.monotonic() - began


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def show(found: dict[str, Any]) -> None:
    """The table, on stdout."""
    print(f"\n{'start':<32} {'s':>8}")
    for name, seconds in found.items():
        print(f"{name:<32} {seconds:>8.2f}")
