"""The members of a group that one command runs: what follows when the process of one of them ends."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto

FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 30.0
# Who ran so long has got over what ended it before.
STEADY_S = 60.0
DONE, FAILED, REFUSED, FENCED = 0, 1, 2, 4
_FROM_HARMLESS_TO_WORST = (DONE, FENCED, FAILED, REFUSED)


@dataclass(frozen=True, slots=True)
class StartAgain:
    """It crashed; a new process under the same name goes on where it was, after so many seconds."""

    delay_s: float


class Over(Enum):
    """Nothing is started in its place: it alone has ended, or all of them have to."""

    ALONE = auto()
    ALL = auto()


@dataclass(slots=True)
class Life:
    """One member's processes, one after the other; `once`: it works off what there is and then ends.

    `code` is the last exit code, as a shell would say it: killed by a signal is 1.
    """

    once: bool
    code: int = DONE
    restarts: int = 0
    _delay_s: float = 0.0

    def ended(self, code: int, ran_s: float) -> StartAgain | Over:
        """What follows. Negative codes are signals.

        - done: nothing
        - refused: the others would be refused as well, now or when they start again, so all of them end
        - fenced by a twin: nothing, for a new process would only fence the twin in its turn
        - failed while running: started again, the later the oftener; with `once` its failure is the result
        - killed, whether by a signal or for want of memory: started again
        """
        self.code = FAILED if code < 0 else code
        if code == REFUSED:
            return Over.ALL
        if code in {DONE, FENCED} or (self.once and code > 0):
            return Over.ALONE
        self._delay_s = FIRST_DELAY_S if ran_s >= STEADY_S else min(self._delay_s * 2 or FIRST_DELAY_S, LONGEST_DELAY_S)
        self.restarts += 1
        return StartAgain(self._delay_s)

    def stopped(self, code: int) -> None:
        """It was asked to stop, and did; one that was killed by that had nothing in hand yet."""
        self.code = DONE if code < 0 else code


def worst(codes: Iterable[int]) -> int:
    """The exit code of all: refused before failed, failed before fenced, fenced before done."""
    known = _FROM_HARMLESS_TO_WORST
    return max(codes, key=lambda code: known.index(code) if code in known else known.index(FAILED), default=DONE)


def merged(summaries: Iterable[dict[str, float]]) -> dict[str, float]:
    """What all of them did: sums; `seconds` is the longest of them, for they ran side by side."""
    total: dict[str, float] = {}
    for summary in summaries:
        for name, value in summary.items():
            total[name] = max(total.get(name, 0), value) if name == "seconds" else total.get(name, 0) + value
    return total
