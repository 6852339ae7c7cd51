"""Purge, decided: which letters go for good.

Kafka deletes the records of a partition only from its beginning up to an offset. So what goes is the longest prefix of
letters that may all go: the first one that may not keeps itself and every letter behind it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from pipeline.core.redrive import LetterId, zoned_time
from pipeline.errors import Refused


class Lying(NamedTuple):
    """A letter where it lies; `failed_at` is None where nothing tells when it failed."""

    id: LetterId
    redriven: bool
    failed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Rule:
    """Which letters may go: with `before` those that failed before it, due or not; without, those that were redriven."""

    before: datetime | None = None

    def allows(self, letter: Lying) -> bool:
        """Whether this letter may go."""
        if self.before is None:
            return letter.redriven
        return letter.failed_at is not None and letter.failed_at < self.before


@dataclass(slots=True)
class Cut:
    """One partition: how many letters go, how many of these are due, and how many stay.

    Every record below the offset `up_to` goes; it is None where no letter does. `oldest` is the first letter that stays.
    """

    partition: int
    letters: int = 0
    due: int = 0
    stay: int = 0
    up_to: int | None = None
    oldest: LetterId | None = None


def rule(*, redriven: bool, before: str | None, including_due: bool) -> Rule:
    """What a user typed; `Refused` unless it is exactly one selection, or when it contradicts itself."""
    if redriven == (before is not None):
        raise Refused("Which letters? Give either --redriven or --before TIME.")
    if redriven and including_due:
        raise Refused("--redriven takes no letter that is due: --including-due goes with --before TIME.")
    return Rule(None if before is None else zoned_time("--before", before))


def plan(rule: Rule, letters: Iterable[Lying], ends: Mapping[int, int]) -> list[Cut]:
    """The cut of every partition in `ends`, the offsets up to which the letters were read, each partition's in order.

    Where no letter stays, everything up to that end goes: what was written since lies at or above it.
    """
    cuts = {partition: Cut(partition) for partition in sorted(ends)}
    for letter in letters:
        cut = cuts[letter.id.partition]
        if cut.oldest is None and rule.allows(letter):
            cut.letters += 1
            cut.due += not letter.redriven
        else:
            cut.oldest = cut.oldest or letter.id
            cut.stay += 1
    for cut in cuts.values():
        if cut.letters:
            cut.up_to = ends[cut.partition] if cut.oldest is None else cut.oldest.offset
    return list(cuts.values())
