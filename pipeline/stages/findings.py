"""Positions that a worker's logs did not hold any more: said once each, and counted."""

import logging
from collections import Counter

from pipeline.core.log_position import Finding, Kind

_log = logging.getLogger(__name__)


class Findings:
    """What was found, as far as this process goes. Counts are read by other threads."""

    def __init__(self) -> None:
        self._said: set[tuple[object, ...]] = set()
        self.partitions: Counter[Kind] = Counter()
        self.missed = 0

    def add(self, it: Finding) -> None:
        """Say it, unless the same was found a moment ago and could not be acted on."""
        same = it.where, it.kind, it.position, it.bounds.topic_id
        if same in self._said:
            return
        self._said.add(same)
        self.partitions[it.kind] += 1
        self.missed += it.missed
        _log.warning("%s", it)

    def by_kind(self) -> dict[str, int]:
        """How many partitions, by what was found; kinds that did not occur count zero."""
        return {str(kind): self.partitions[kind] for kind in Kind}

    def summary(self) -> dict[str, int]:
        """For a result: `missed` records at most, `read_again` partitions; nothing where there was nothing."""
        again = self.partitions[Kind.BEYOND_THE_END] + self.partitions[Kind.ANOTHER_LOG]
        return {name: count for name, count in (("missed", self.missed), ("read_again", again)) if count}

    def words(self) -> str:
        """The same in words, to be put behind others."""
        words = {"missed": "missed (deleted before they were read)", "read_again": "partitions read again"}
        return "".join(f", {count} {words[name]}" for name, count in self.summary().items())
