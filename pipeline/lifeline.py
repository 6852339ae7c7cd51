"""A process that ends with its parent, however that ends: nothing is left behind by a kill -9.

It is a small program of its own because code between fork and exec is not safe in a process that has threads. Linux alone
has the wish (PR_SET_PDEATHSIG); elsewhere a process outlives a parent that was killed. The wish is bound to the thread that
starts the process: start it from one that lasts.
"""

import os
import signal
import sys
from collections.abc import Sequence

# The parent is looked at once more afterwards: it may have died before the wish was made.
_ENDS_WITH_PARENT = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, int(sys.argv[1]))
if os.getppid() != int(sys.argv[2]):
    sys.exit(1)
os.execv(sys.argv[3], sys.argv[3:])
"""


def ends_with_parent(command: Sequence[str], number: signal.Signals) -> list[str]:
    """The command that runs `command`, an absolute path first, and sends it `number` when this process dies."""
    return [sys.executable, "-c", _ENDS_WITH_PARENT, str(int(number)), str(os.getpid()), *command]
