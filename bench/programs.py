"""How a contender's program is started, and whether it can be started here at all."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Protocol, TypeVar

from bench.task import Outcome, Task

ROOT = Path(__file__).parents[1]
LONGEST_S = 600.0


@dataclass(frozen=True)
class Program:
    """One contender's program; the task comes last. `missing` says in words what it lacks here, or nothing."""

    command: tuple[str, ...]
    missing: Callable[[], str] = lambda: ""


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


def without_missing(contenders: Iterable[T], say: Callable[[str], None]) -> list[T]:
    """Those that can run here; of the others it is said what is missing."""
    found = []
    for each in contenders:
        if missing := each.program.missing():
            say(f"{each.name} is left out: {missing}.")
        else:
            found.append(each)
    return found


def run(program: Program, task: Task) -> Outcome:
    """Let it do its task, alone, and say what it measured; `CalledProcessError` when it failed."""
    done = subprocess.run(
        [*program.command, json.dumps(asdict(task))],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=LONGEST_S,
    )
    return Outcome(**json.loads(done.stdout.splitlines()[-1]))
