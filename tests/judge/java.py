"""Avro's Java library as a process to ask: built on demand with Maven and a JDK, kept outside of the checkout's tracked files."""

import json
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BUILT = HERE.parents[1] / ".judge"
_CLASSPATH = f"{BUILT}:{BUILT}/*"


def build() -> None:
    """The jars of `pom.xml` and the compiled judge, where they are not there yet or the source is newer."""
    compiled = BUILT / "Judge.class"
    source = HERE / "Judge.java"
    if compiled.is_file() and compiled.stat().st_mtime >= source.stat().st_mtime:
        return
    for tool in ("mvn", "javac", "java"):
        if shutil.which(tool) is None:
            raise FileNotFoundError(f"The judge needs {tool}: a JDK of 17 or newer and Maven.")
    fetch = ["mvn", "-q", "-B", "-f", HERE / "pom.xml", "dependency:copy-dependencies", f"-DoutputDirectory={BUILT}"]
    subprocess.run(fetch, check=True)  # our own arguments
    subprocess.run(["javac", "-cp", f"{BUILT}/*", "-d", BUILT, source], check=True)


class Judge:
    """Asks one question after the other."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def ask(self, writer: Any, reader: Any, data: Iterable[bytes]) -> Mapping[str, Any]:
        """What `Judge.java` says: `compatible` and `data`, or `error` where a schema is refused."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        question = {"writer": writer, "reader": reader, "data": [datum.hex() for datum in data]}
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


@contextmanager
def judge() -> Iterator[Judge]:
    """The process, built first; it ends with the block."""
    build()
    with subprocess.Popen(
        ["java", "-Xmx256m", "-cp", _CLASSPATH, "Judge"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as process:
        try:
            yield Judge(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
