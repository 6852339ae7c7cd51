"""A command as process 1 of a container, where no init is: what an init does, and the command as its only child.

The kernel drops every signal for which process 1 has no handler of its own (`pid_namespaces(7)`), so that a command which
still loads, or waits for a broker, would be deaf to SIGTERM until it is killed; and what orphans leave behind is its to reap.
As a child the command is like anywhere else. With an init (`docker run --init`, tini) this does nothing.
"""

import os
import signal
from contextlib import suppress

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def become_a_child_of_process_1() -> None:
    """Return in the command's process. In process 1 do not return: pass signals on, reap, exit as the command did."""
    if os.getpid() != 1:
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    command = os.fork()
    if command == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        return
    for number in PASSED_ON:
        # A terminal's Ctrl-C reaches the command by itself, and a second one would stop it at once.
        by_itself = number == signal.SIGINT and os.isatty(0)
        signal.signal(number, signal.SIG_IGN if by_itself else lambda number, _: _pass_on(command, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    os._exit(_reap_until(command))


def _pass_on(command: int, number: int) -> None:
    with suppress(ProcessLookupError):  # it has ended, and is reaped next
        os.kill(command, number)


def _reap_until(command: int) -> int:
    """Reap whatever ends until the command does; its exit code, 128 and the signal's number for one that a signal ended."""
    while True:
        ended, status = os.wait()
        if ended == command:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
