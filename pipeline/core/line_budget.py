"""How many log lines of one kind may be written: a burst of ten thousand failing records must not write ten thousand lines.

A token bucket for each kind, with the clock passed in. What is left out is counted, so that a line can say how much that was.
"""

from collections import Counter
from dataclasses import dataclass, field

KINDS_MAX = 200
_ALL_OTHERS = "others"


@dataclass(slots=True)
class LineBudget:
    """`burst` lines of a kind at once, and then one every `every_s` seconds.

    Kinds beyond `KINDS_MAX` share one bucket, so that no stream of ever new kinds fills the memory or the log.
    """

    burst: int = 10
    every_s: float = 1.0
    _left: dict[str, tuple[float, float]] = field(default_factory=dict)
    _left_out: Counter[str] = field(default_factory=Counter)

    def admits(self, kind: str, now: float) -> bool:
        """Whether a line of this kind may be written at `now` (seconds that never go back); it counts as written then."""
        if kind not in self._left and len(self._left) >= KINDS_MAX:
            kind = _ALL_OTHERS
        left, since = self._left.get(kind, (float(self.burst), now))
        left = min(float(self.burst), left + (now - since) / self.every_s)
        admitted = left >= 1
        self._left[kind] = (left - admitted, now)
        if not admitted:
            self._left_out[kind] += 1
        return admitted

    @property
    def has_left_out(self) -> bool:
        """Whether there is something to say of."""
        return bool(self._left_out)

    def left_out(self) -> dict[str, int]:
        """By kind, how many lines were left out since this was asked last."""
        found, self._left_out = dict(self._left_out), Counter()
        return found
