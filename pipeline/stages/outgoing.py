"""What is published for a letter that is redriven, and where: or why it has to be left.

A letter names its topic, its group and its place itself. None of it is believed further than `Destinations` and the cluster
allow: see docs/decisions/0015-a-letter-is-believed-as-far-as-it-can-be-checked.md.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache

from pipeline.core.destinations import Destinations
from pipeline.core.record import Headers
from pipeline.core.redrive import PARKED, Mark, Original, digest_of, original
from pipeline.core.redrive_targets import Targets
from pipeline.core.retry import Journey, NotRead
from pipeline.errors import RecordError
from pipeline.stages.letters import Ledger, StoredLetter
from pipeline.stages.stamps import Stamps

Patch = Callable[[str, bytes | None], bytes]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One letter on its way: what is published where; `partition` None leaves it to the partitioner.

    `source` is the topic that the record was first read from, whose schema it has.
    """

    letter: StoredLetter
    source: str
    topic: str
    partition: int | None
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int | None
    parked: bool
    redrives: int

    @property
    def mark(self) -> Mark:
        """What the ledger is to say of it."""
        return Mark(self.letter.record.timestamp_ms, digest_of(self.source, self.key, self.value), self.redrives)


class Addressing:
    """Says of each letter of a topic what is published for it, and where.

    `patch` makes the new value of a source topic's record. Without `to_source` a letter goes to the retry topic that its
    group reads, where no other group sees it; after `max_redrives` it is parked.
    """

    def __init__(
        self,
        *,
        topic: str,
        cluster: Targets,
        destinations: Destinations,
        now_ms: Callable[[], int],
        to_source: bool = False,
        patch: Patch | None = None,
        max_redrives: int = 3,
    ) -> None:
        self._topic = topic
        self.partitions = cache(cluster.partitions)
        self._ends_of = cache(cluster.ends)
        self._retry_topic = cache(cluster.retry_topic)
        self.stamps = Stamps(cluster.window, now_ms)
        self._read: Ledger | None = None
        self._known: Collection[tuple[str, int]] = ()
        self._destinations = destinations
        self._to_source = to_source
        self._patch = patch
        self.max_redrives = max_redrives

    def _redriven(self, marks: Ledger) -> Collection[tuple[str, int]]:
        """The records that the ledger knows of; gathered once for each reading of it."""
        if self._read is not marks:
            self._read = marks
            self._known = {(mark.record, mark.redrives) for mark in marks.values()}
        return self._known

    def of(self, letter: StoredLetter, marks: Ledger) -> Outgoing | str:
        """What is published for the letter, or why it has to be left; `marks` is the ledger."""
        if letter.envelope is None:
            return f"it cannot be read: {letter.error}"
        it = original(letter.envelope)
        if refusal := letter.left_out or self._destinations.refusal_of_topic(it.topic):
            return refusal
        redrives = it.redrives(self._redriven(marks))
        if redrives >= self.max_redrives:
            return self._parked(letter, it, redrives)
        try:
            value = it.value if self._patch is None else self._patch(it.topic, it.value)
        except RecordError as error:
            return f"the patch does not fit: {error}"
        headers = it.counted(redrives + 1)
        if self._to_source:
            return self._to_all(letter, it, headers, value, redrives + 1)
        return self._to_group(letter, it, headers, value, redrives + 1)

    def _to_all(
        self, letter: StoredLetter, it: Original, headers: Headers, value: bytes | None, redrives: int
    ) -> Outgoing | str:
        """Into its source topic, where every group sees it."""
        there = self.partitions(it.topic)
        if there is None:
            return f"its topic {it.topic} is not there"
        partition = it.partition if 0 <= it.partition < there else None
        timestamp_ms, headers = self.stamps.fitting(it.topic, it.timestamp_ms, headers)
        return Outgoing(
            letter, it.topic, it.topic, partition, it.key, value, headers, timestamp_ms, parked=False,
            redrives=redrives,
        )  # fmt: skip

    def _parked(self, letter: StoredLetter, it: Original, redrives: int) -> Outgoing:
        """As it is, to where a person looks at it."""
        record, topic = letter.record, self._topic + PARKED
        partition = record.partition if record.partition < (self.partitions(topic) or 0) else None
        timestamp_ms, headers = record.timestamp_ms, record.headers
        if self.partitions(topic) is not None:
            timestamp_ms, headers = self.stamps.fitting(topic, timestamp_ms, headers)
        return Outgoing(
            letter, it.topic, topic, partition, record.key, record.value, headers, timestamp_ms, parked=True,
            redrives=redrives,
        )  # fmt: skip

    def _to_group(
        self, letter: StoredLetter, it: Original, headers: Headers, value: bytes | None, redrives: int
    ) -> Outgoing | str:
        """Into the group's own retry topic, as if it failed there for the first time and were due now."""
        assert letter.envelope is not None
        group, offset = letter.envelope["consumer_group"], letter.envelope["source_offset"]
        if refusal := self._destinations.refusal_of_group(group):
            return refusal
        topic = self._retry_topic(it.topic, group)
        if isinstance(topic, NotRead):
            return topic
        # What the group takes for its place decides which of two events of a key is the newer one.
        end = self._ends_of(it.topic).get(it.partition)
        if end is None or not 0 <= offset < end:
            return (
                f"it says that it was read at {it.topic} [{it.partition}] @ {offset}, which is not there "
                f"({'no such partition' if end is None else f'the end is {end}'}); --to-source sends it to all groups"
            )
        if it.partition >= (self.partitions(topic) or 0):
            return f"{topic} has no partition {it.partition}; start a worker of {group}, which adds it"
        travelled = Journey(it.topic, it.partition, offset, it.timestamp_ms)
        return Outgoing(
            letter, it.topic, topic, it.partition, it.key, value, travelled.headers(headers), None, parked=False,
            redrives=redrives,
        )  # fmt: skip
