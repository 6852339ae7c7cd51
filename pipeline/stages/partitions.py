"""What a worker holds of its topics: each partition of the source together with the same partition of every retry topic.

Such a *shard* opens when all of it is assigned: the offsets that were committed are read with their notes, and the fence is
built from what lies parked. Until then its partitions stay paused. It closes as a whole, whichever part of it goes.
"""

import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipeline.core.fence import Fence
from pipeline.core.offsets import Note, Progress, read_note
from pipeline.core.ports import Commit, Log, Source
from pipeline.core.record import Record, TopicPartition
from pipeline.errors import NotTogether

# KIP-848 hands partitions over one by one, each when its last owner has let go of it (which drains first).
TOGETHER_S = 60.0
_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Stream:
    """One partition of one topic; `tier` 0 is the source.

    `waiting` are records of a retry topic that are not due, `due` is when the first of them is (seconds of the clock).
    `holds` are the reasons for which it is paused. `found` is the note that lay there when it was opened.
    """

    where: TopicPartition
    tier: int
    shard: "Shard"
    progress: Progress
    note: Note
    found: Note
    waiting: deque[Record] = field(default_factory=deque)
    due: float | None = None
    holds: set[str] = field(default_factory=set)
    committed: Commit | None = None

    def commit(self, *, clean: bool) -> Commit:
        """What to commit of it now."""
        offset = self.progress.committable
        done = self.progress.ahead()
        note = Note(done=done) if clean else replace(self.note, clean=False, done=done)
        return Commit(offset, note.text(offset))


@dataclass(eq=False, slots=True)
class Shard:
    """One partition number, in all topics or, where no order is kept, in one. `closed` fences what comes back late.

    `bytes` are the values that were read of it and are not settled.
    """

    partition: int
    fence: Fence = field(default_factory=Fence)
    closed: bool = False
    bytes: int = 0


class Partitions:
    """The streams that are open, by topic and partition; `topics` are the source and its retry topics, by delay.

    With `together` false each partition is a shard of its own, and there is no fence. `owner` goes into every note.
    """

    def __init__(
        self, topics: Sequence[str], log: Log, clock: Callable[[], float], *, together: bool, owner: str = ""
    ) -> None:
        self.owner = owner
        self._tiers = {topic: tier for tier, topic in enumerate(topics)}
        self._log = log
        self._clock = clock
        self._together = together and len(topics) > 1
        self._assigned: dict[TopicPartition, float] = {}
        # Closed and still ours: the client would read on behind what was read and dropped.
        self._read_on: set[TopicPartition] = set()
        self.open: dict[tuple[str, int], Stream] = {}

    def came(self, partitions: Collection[TopicPartition]) -> None:
        """These were assigned."""
        now = self._clock()
        self._assigned |= dict.fromkeys(partitions, now)

    def went(self, partitions: Collection[TopicPartition]) -> None:
        """These are gone, and what was closed because of them stays closed until they come back."""
        for where in partitions:
            self._assigned.pop(where, None)
        self._read_on.difference_update(partitions)
        now, numbers = self._clock(), {where.partition for where in partitions}
        self._assigned |= {where: now for where in self._assigned if where.partition in numbers}

    @property
    def all_open(self) -> bool:
        """Whether everything that is assigned has been opened."""
        return len(self.open) == len(self._assigned)

    def reached(self, positions: Mapping[TopicPartition, int], until: Mapping[TopicPartition, int] | None) -> bool:
        """Take note of offsets that no record has (see `Progress.reached`); whether that changed what may be committed.

        From `until` on, records were passed over and not worked off, so nothing is taken note of there.
        """
        moved = False
        for where, position in positions.items():
            stream = self.open.get(where)
            if stream is None:
                continue
            before = stream.progress.committable
            stream.progress.reached(position if until is None else min(position, until.get(where, 0)))
            moved = moved or stream.progress.committable != before
        return moved

    def touched(self, partitions: Collection[TopicPartition]) -> list[Stream]:
        """The open streams of every shard that has one of these."""
        shards = {stream.shard for where in partitions if (stream := self.open.get(where))}
        return [stream for stream in self.open.values() if stream.shard in shards]

    def close(self, streams: Iterable[Stream]) -> None:
        """They belong to another member now."""
        for stream in streams:
            stream.shard.closed = True
            self.open.pop(stream.where, None)
            self._read_on.add(stream.where)

    def open_what_is_whole(self, source: Source, *, mark: bool = True) -> list[Stream]:
        """Open every shard that is whole by now; the new streams, not resumed yet.

        With `mark` the offset of each is committed again, marked as being worked on. Raises `Unavailable` when it has to be
        tried again, `NotTogether` when a shard does not become whole.
        """
        parts = [part for part in self._whole() if not any(where in self.open for where in part)]
        if not parts:
            return []
        wanted = [where for part in parts for where in part]
        committed = source.committed(wanted)
        beginnings = self._log.beginnings([where for where in wanted if committed[where][0] is None])
        streams: list[Stream] = []
        for part in parts:
            shard = Shard(part[0].partition)
            for where in part:
                offset, text = committed[where]
                start = beginnings[where] if offset is None else offset
                note = Note() if offset is None else read_note(text, start)
                progress = Progress(start, note.done)
                streams.append(
                    Stream(where, self._tiers[where.topic], shard, progress, replace(note, owner=self.owner), note)
                )
        self._build_fences(streams)
        starts = {stream.where: stream.commit(clean=False) for stream in streams}
        if mark:
            source.commit_now(starts)
        source.rewind({where: commit.offset for where, commit in starts.items() if where in self._read_on})
        self._read_on.difference_update(starts)
        for stream in streams:
            stream.committed = starts[stream.where]
            self.open[stream.where] = stream
        return streams

    def hold(self, source: Source, streams: Collection[Stream], reason: str) -> None:
        """Read no more of these for now; there may be several reasons at a time."""
        fresh = [stream.where for stream in streams if not stream.holds]
        for stream in streams:
            stream.holds.add(reason)
        if fresh:
            source.pause(fresh)

    def free(self, source: Source, streams: Collection[Stream], reason: str) -> None:
        """Read on where there is no other reason."""
        freed = [stream.where for stream in streams if stream.holds == {reason}]
        for stream in streams:
            stream.holds.discard(reason)
        if freed:
            source.resume(freed)

    def _whole(self) -> Iterator[list[TopicPartition]]:
        if not self._together:
            yield from ([where] for where in self._assigned)
            return
        for partition in sorted({where.partition for where in self._assigned}):
            part = [TopicPartition(topic, partition) for topic in self._tiers]
            missing = [where for where in part if where not in self._assigned]
            if not missing:
                yield part
                continue
            since = max(self._assigned[where] for where in part if where in self._assigned)
            if self._clock() - since > TOGETHER_S:
                raise NotTogether(
                    f"Partition {partition} of {missing[0].topic} is not assigned to the member that has the same partition "
                    f"of {next(where.topic for where in part if where in self._assigned)}, so the order of a key cannot be "
                    "kept through retries. Do all members of the group have the same retry.tiers, and all these topics the "
                    "same number of partitions? Without order: PIPELINE_RETRY__KEEP_ORDER=false."
                )

    def _build_fences(self, streams: Iterable[Stream]) -> None:
        by_place = {stream.where: stream for stream in streams if stream.tier}
        if not self._together or not by_place:
            return
        starts = {where: stream.progress.committable for where, stream in by_place.items()}
        for record in self._log.tail(starts):
            stream = by_place[record.source]
            if not any(first <= record.offset < last for first, last in stream.note.done):
                stream.shard.fence.park(stream.tier, record.offset, record.key)
        parked = sum(len(shard.fence) for shard in {stream.shard for stream in by_place.values()})
        if parked:
            _log.info("%d records wait in retry topics; later ones of their keys wait behind them", parked)
