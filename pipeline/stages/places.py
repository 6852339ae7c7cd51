"""Where records of a group's retry topics come from, believed as far as it can be checked.

Their headers say at which place of the source a record was read, and that place decides which of two events of a key is the
newer one. Whoever may write to a retry topic may write any place there: what cannot be is not believed.
"""

import logging

from pipeline.core.ports import Log
from pipeline.core.record import Record, TopicPartition
from pipeline.core.retry import Journey, journey, taken_from_here

_log = logging.getLogger(__name__)


class Places:
    """`source` is the topic whose retry topics are read."""

    def __init__(self, source: str, log: Log) -> None:
        self._source = source
        self._log = log
        self._ends: dict[int, int] = {}
        self._said = False

    def journey(self, record: Record) -> Journey:
        """What the record carries. Its place counts only in the same partition of the source, before the end of that.

        Raises `Unavailable` where the end has to be asked for and the broker does not answer.
        """
        its = journey(record)
        if self._can_be(its, record):
            return its
        if its.topic != record.topic and not self._said:
            self._said = True
            _log.warning(
                "%s says that it was read at %s [%d] @ %d, which cannot be: it is taken as if it came from where it lies",
                record.where, its.topic, its.partition, its.offset,
            )  # fmt: skip
        return taken_from_here(its, record)

    def _can_be(self, its: Journey, record: Record) -> bool:
        if its.topic != self._source or its.partition != record.partition or its.offset < 0:
            return False
        if its.offset >= self._ends.get(its.partition, 0):
            # It has grown since; a record comes into a retry topic after it was read from the source.
            where = TopicPartition(self._source, its.partition)
            self._ends[its.partition] = self._log.bounds([where])[where].end
        return its.offset < self._ends[its.partition]
