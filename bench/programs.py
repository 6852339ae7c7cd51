"""How a contender's program is started, and whether it can be started here at all."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Protocol, TypeVar

from bench.task import Outcome, Task
from pipeline.local.artifacts import default_cache

ROOT = Path(__file__).parents[1]
LONGEST_S = 600.0


@dataclass(frozen=True)
class Program:
    """One contender's program; the task comes last. `prepare` makes it ready, and says in words what it lacks here."""

    command: tuple[str, ...]
    prepare: Callable[[], str] = lambda: ""


class Contender(Protocol):
    """Whoever takes part."""

    @property
    def name(self) -> str: ...

    @property
    def program(self) -> Program: ...


T = TypeVar("T", bound=Contender)


def ours(module: str, work: str) -> Program:
    """A program in the project's own environment."""
    return Program((sys.executable, "-m", f"bench.contenders.{module}", work))


def peer(environment: str, needs: str, module: str, work: str) -> Program:
    """A program in an environment of its own beside the checkout's, where the module `needs` can be imported."""
    python = str(ROOT / environment / "bin/python")
    command = (python, "-m", f"bench.contenders.{module}", work)
    return Program(command, lambda: _not_importable(python, needs))


@cache
def _not_importable(python: str, module: str) -> str:
    try:
        asked = subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False)
    except OSError:
        pass
    else:
        if asked.returncode == 0:
            return ""
    return f"{module.partition('.')[0]} is not installed: make peers installs it, apart from .venv"


def kafka_streams() -> Program:
    """`kafka_streams/Forward.java`, built once into the cache by the machine's own javac and Maven, as an anchor alone."""
    sources = ROOT / "bench/kafka_streams"
    version = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(sources.iterdir()))).hexdigest()[:12]
    built = default_cache() / f"bench-kafka-streams-{version}"
    class_path = os.pathsep.join([str(built / "lib/*"), str(built)])
    quiet = ("-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-Xmx1g")
    return Program(("java", *quiet, "-cp", class_path, "Forward"), lambda: _build(sources, built))


def _build(sources: Path, built: Path) -> str:
    absent = [tool for tool in ("java", "javac", "mvn") if shutil.which(tool) is None]
    if absent:
        return f"it is built and run with a Java kit and Maven, and there is no {' and no '.join(absent)}"
    if built.exists():
        return ""
    staging = built.with_suffix(".building")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    libraries = f"-DoutputDirectory={staging}/lib"
    fetch = ["mvn", "-q", "-B", "-f", str(sources / "pom.xml"), "dependency:copy-dependencies", libraries]
    compiling = ["javac", "-cp", f"{staging}/lib/*", "-d", str(staging), str(sources / "Forward.java")]
    for command in (fetch, compiling):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines() or ["nothing was said"]
            return f"{command[0]} could not build it: {said[0]}"
    staging.rename(built)
    return ""


def without_missing(contenders: Iterable[T], say: Callable[[str], None]) -> list[T]:
    """Those that can run here; of the others it is said what is missing."""
    found = []
    for each in contenders:
        if missing := each.program.prepare():
            say(f"{each.name} is left out: {missing}.")
        else:
            found.append(each)
    return found


def start(program: Program, task: Task) -> "subprocess.Popen[str]":
    """Let it begin its task."""
    command = [*program.command, json.dumps(asdict(task))]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def outcome(started: "subprocess.Popen[str]", longest_s: float = LONGEST_S) -> Outcome:
    """What it measured; `RuntimeError` when it failed or took too long. It has ended when this returns or raises."""
    try:
        said, _ = started.communicate(timeout=longest_s)
    except BaseException:
        started.kill()
        started.wait()
        raise
    if started.returncode:
        raise RuntimeError(f"A contender ended with {started.returncode}: {started.args!r}")
    return Outcome(**json.loads(said.splitlines()[-1]))


def run(program: Program, task: Task, longest_s: float = LONGEST_S) -> Outcome:
    """Let it do its task, alone, and say what it measured."""
    return outcome(start(program, task), longest_s)
