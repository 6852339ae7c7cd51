"""Folders of the local stack: what the system refuses in one is said in words, and only one start is at work in it."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import StackRefused

PRIVATE = 0o600
PRIVATE_FOLDER = 0o700
OWN_ONLY = 0o077  # as a umask


@contextmanager
def usable(folder: Path, setting: str) -> Iterator[None]:
    """What the system refuses in there becomes `StackRefused`, which names the setting for another folder."""
    try:
        yield
    except OSError as error:
        why = "it is no folder" if isinstance(error, FileExistsError) else error.strerror or error
        raise StackRefused(
            f"{error.filename or folder} cannot be used: {why}. Mend that, or name another folder: {setting}."
        ) from error


def write_private(path: Path, text: str) -> None:
    """Write it so that nobody else may read it, whoever wrote it before."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, PRIVATE), "w") as file:
        os.fchmod(file.fileno(), PRIVATE)
        file.truncate()
        file.write(text)


def inherited() -> dict[str, str]:
    """The environment for a server, which has no business with the pipeline's settings and their secrets."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith("PIPELINE_") and name.upper() != "KAFKA_CONFIG_FILE"
    }


@contextmanager
def alone(folder: Path, say: Callable[[str], None], what: str = "start") -> Iterator[None]:
    """Make the folder, and wait until nobody else is in here with it; the lock goes with the process at the latest."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another {what} is at work in {folder}: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
