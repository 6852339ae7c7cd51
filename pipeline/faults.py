"""Points at which tests stop a process to kill it there: nothing happens unless the environment asks for it."""

import os
import signal
from collections.abc import Callable

STOP_AT = "FAULT_STOP_AT"


def from_environment() -> Callable[[str], None]:
    """`FAULT_STOP_AT=commit:3`: the process stops itself (SIGSTOP) when it comes to that point for the third time."""
    point, _, times = os.environ.get(STOP_AT, "").partition(":")
    if not point:
        return lambda _: None
    left = [int(times or 1)]

    def reached(name: str) -> None:
        if name == point:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGSTOP)

    return reached
