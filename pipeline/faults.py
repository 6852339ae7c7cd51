"""Points at which tests stop a process to kill it there: nothing happens unless the environment asks for it."""

import os
import signal
from collections.abc import Callable

STOP_AT = "FAULT_STOP_AT"


def from_environment() -> Callable[[str], None]:
    """With `FAULT_STOP_AT=commit:3,publish:60` the process stops itself (SIGSTOP) where it comes to `commit` for the third
    time, and to `publish` for the sixtieth.
    """
    left: dict[str, int] = {}
    for each in filter(None, os.environ.get(STOP_AT, "").split(",")):
        point, _, times = each.partition(":")
        left[point] = int(times or 1)
    if not left:
        return lambda _: None

    def reached(name: str) -> None:
        if name in left:
            left[name] -= 1
            if left[name] == 0:
                os.kill(os.getpid(), signal.SIGSTOP)

    return reached
