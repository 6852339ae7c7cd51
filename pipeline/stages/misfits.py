"""What a topic refused for its size inside a transaction, so that the next try goes without it.

One record that does not fit aborts its whole transaction, and would abort every one after it. So its place is remembered
until a transaction is committed: an output that was refused makes its record a dead letter, a dead letter goes without the
record's value, and a record that a retry topic refused is given up.
"""

from collections import Counter
from collections.abc import Callable

from pipeline.core.dead_letter import Letter
from pipeline.core.failures import Failure, unfit
from pipeline.core.record import TopicPartition
from pipeline.errors import TooLarge

# Smaller ones travel with others in a batch of `batch.size`, which is never too large for a topic.
LARGE_BYTES = 60_000
Place = tuple[TopicPartition, int]


class Misfits:
    """By the place where a record was read."""

    def __init__(self) -> None:
        self.outputs: dict[Place, Failure] = {}
        self.parks: set[Place] = set()
        self._letters: Counter[Place] = Counter()
        self._is_new = False

    def __bool__(self) -> bool:
        """Whether anything was refused since the last commit."""
        return bool(self.outputs or self.parks or self._letters)

    def output(self, place: Place, topic: str) -> Callable[[TooLarge], None]:
        """To be told that an output of this record is too large."""

        def refused(error: TooLarge) -> None:
            self.outputs[place], self._is_new = unfit(error, topic), True

        return refused

    def park(self, place: Place) -> Callable[[TooLarge], None]:
        """To be told that a retry topic does not take this record."""

        def refused(_: TooLarge) -> None:
            self.parks.add(place)
            self._is_new = True

        return refused

    def letter(self, place: Place, letter: Letter) -> tuple[Letter, Callable[[TooLarge], None]]:
        """The letter as it is tried now, and whom to tell that it is too large; the smallest one is tried for good."""
        for _ in range(self._letters[place]):
            letter = letter.smaller() or letter
        last = letter.smaller() is None

        def refused(_: TooLarge) -> None:
            self._letters[place] += 1
            self._is_new = not last

        return letter, refused

    def learned(self) -> bool:
        """Whether anything is known since the last time that was asked: then another try is worth it."""
        found, self._is_new = self._is_new, False
        return found

    def committed(self) -> None:
        """All of it is done with."""
        self.outputs.clear()
        self.parks.clear()
        self._letters.clear()
