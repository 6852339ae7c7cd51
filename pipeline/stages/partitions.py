"""What a worker holds of its topics: each partition of the source together with the same partition of every retry topic.

Such a *shard* opens when all of it is assigned: the offsets that were committed are read with their notes, and the fence is
built from what lies parked. Until then its partitions stay paused. It closes as a whole, whichever part of it goes.
"""

import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace

from pipeline.core import log_position
from pipeline.core.fence import Fence
from pipeline.core.offsets import Note, Progress
from pipeline.core.ports import Commit, Log, Source
from pipeline.core.record import Record, TopicPartition
from pipeline.errors import NotTogether
from pipeline.stages.findings import Findings

# KIP-848 hands partitions over one by one, each when its last owner has let go of it (which drains first).
TOGETHER_S = 60.0
# After so long the group is asked to assign anew, once: it may not have looked at which topics there are now.
REJOIN_S = 5.0
# So often it is looked whether a topic is still the one that was opened: the client reads on in another one of that name.
LOOK_EVERY_S = 10.0
_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Stream:
    """One partition of one topic; `tier` 0 is the source.

    `waiting` are records of a retry topic that are not due, `due` is when the first of them is (seconds of the clock).
    `holds` are the reasons for which it is paused. `found` is the note that lay there when it was opened, `topic_id` that of
    the topic then.
    """

    where: TopicPartition
    tier: int
    shard: "Shard"
    progress: Progress
    note: Note
    found: Note
    topic_id: str = ""
    waiting: deque[Record] = field(default_factory=deque)
    due: float | None = None
    holds: set[str] = field(default_factory=set)
    committed: Commit | None = None

    @property
    def read(self) -> int:
        """The offset after all that was read of it, as far as that waits here or was delivered."""
        return max(self.progress.next, self.waiting[-1].offset + 1) if self.waiting else self.progress.next

    def commit(self, *, clean: bool) -> Commit:
        """What to commit of it now."""
        offset = self.progress.committable
        done = self.progress.ahead()
        note = Note(done=done) if clean else replace(self.note, clean=False, done=done)
        return Commit(offset, note.text(offset, self.topic_id))


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
    `findings` are the positions that the logs did not hold; the ends in `until`, if any, follow a log that is another one now.
    What goes with a source of `provided` partitions is there; `provide` makes it for more, and tells for how many now.
    """

    def __init__(
        self,
        topics: Sequence[str],
        log: Log,
        clock: Callable[[], float],
        *,
        together: bool,
        owner: str = "",
        provide: Callable[[], int] | None = None,
        provided: int = 0,
        until: MutableMapping[TopicPartition, int] | None = None,
    ) -> None:
        self.owner = owner
        self._tiers = {topic: tier for tier, topic in enumerate(topics)}
        self._source = topics[0]
        self._rejoined = False
        self._torn_since: float | None = None
        self._provide = provide
        self._provided = provided
        self._log = log
        self._clock = clock
        self._together = together and len(topics) > 1
        self._assigned: dict[TopicPartition, float] = {}
        self._until = until
        self._looked_at: float | None = None
        # Those to look at, and whether the broker said so; of those in `_ending` the log is another one.
        self._displaced: dict[TopicPartition, bool] = {}
        self._ending: set[TopicPartition] = set()
        self.findings = Findings()
        self.open: dict[tuple[str, int], Stream] = {}

    def came(self, partitions: Collection[TopicPartition]) -> None:
        """These were assigned."""
        now = self._clock()
        self._assigned |= dict.fromkeys(partitions, now)

    def went(self, partitions: Collection[TopicPartition]) -> None:
        """These are gone, and what was closed because of them stays closed until they come back."""
        for where in partitions:
            self._assigned.pop(where, None)
            self._forget(where)
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

    def open_what_is_whole(self, source: Source, *, mark: bool = True) -> list[Stream]:
        """Open every shard that is whole by now; the new streams, not resumed yet.

        With `mark` the offset of each is committed again, marked as being worked on; where the log does not hold what was
        committed, the offset that reading begins with is committed in any case. Raises `Unavailable` when it has to be tried
        again, `NotTogether` when a shard does not become whole.
        """
        highest = max((where.partition for where in self._assigned if where.topic == self._source), default=-1)
        if self._provide is not None and highest >= self._provided:
            self._provided = self._provide()
            _log.warning("%s has %d partitions now: what goes with the new ones is there", self._source, self._provided)
        parts = [part for part in self._whole() if not any(where in self.open for where in part)]
        self._have_torn_ones_assigned_anew(source)
        if not parts:
            return []
        wanted = [where for part in parts for where in part]
        committed = source.committed(wanted)
        # After the commits: whatever of this log was committed lies below its end.
        bounds = self._log.bounds(wanted)
        streams: list[Stream] = []
        found: list[log_position.Finding] = []
        for part in parts:
            shard = Shard(part[0].partition)
            for where in part:
                start = log_position.start(
                    where, *committed[where], bounds[where], displaced=self._displaced.get(where, False)
                )
                if start.finding is not None:
                    found.append(start.finding)
                progress, tier = Progress(start.offset, start.note.done), self._tiers[where.topic]
                note, topic_id = replace(start.note, owner=self.owner), bounds[where].topic_id
                streams.append(Stream(where, tier, shard, progress, note, start.note, topic_id))
        self._build_fences(streams)
        self._take_note(found)
        starts = {stream.where: stream.commit(clean=False) for stream in streams}
        news = {finding.where for finding in found}
        if marked := {where: commit for where, commit in starts.items() if mark or where in news}:
            source.commit_now(marked)
        source.rewind({where: commit.offset for where, commit in starts.items()})
        for stream in streams:
            self._forget(stream.where)
            stream.committed = starts[stream.where]
            self.open[stream.where] = stream
        return streams

    def displaced(self, partitions: Collection[TopicPartition], *, surely: bool = True) -> None:
        """The broker says that the logs of these do not hold what would be read next; or, not `surely`, they may not."""
        for where in partitions:
            self._displaced[where] = self._displaced.get(where, False) or surely

    def look_for_topics_made_anew(self, now: float) -> None:
        """Take note of topics that were made anew since they were opened; at most every `LOOK_EVERY_S`, without waiting."""
        if self._looked_at is None or not self.open:
            self._looked_at = now
        if now - self._looked_at < LOOK_EVERY_S:
            return
        ids = self._log.topic_ids(self._tiers)
        if ids is None:
            return
        self._looked_at = now
        for stream in self.open.values():
            if stream.topic_id and ids.get(stream.where.topic, stream.topic_id) != stream.topic_id:
                self.displaced([stream.where], surely=False)

    @property
    def any_displaced(self) -> bool:
        """Whether `to_reopen` has anything to do."""
        return any(where in self.open for where in self._displaced)

    def to_reopen(self, source: Source) -> list[tuple[Stream, bool]]:
        """Go on where the log of an open stream moved; the streams whose log is another one, once all that was read is done.

        With each whether the broker said so: to be told again (`displaced`) once it is closed and came back. Where records
        were only deleted, what was read of them is worked off as usual. Raises `Unavailable` when it has to be tried again.
        """
        fresh = [stream for where in self._displaced if where not in self._ending and (stream := self.open.get(where))]
        bounds = self._log.bounds([stream.where for stream in fresh]) if fresh else {}
        for stream in fresh:
            finding = log_position.moved(stream.where, stream.read, stream.topic_id, bounds[stream.where])
            if finding is None or finding.again:
                self._ending.add(stream.where)
                self.hold(source, [stream], "another log")
                continue
            source.rewind({stream.where: finding.bounds.beginning})
            self._forget(stream.where)
            self._take_note([finding])
        ending = [stream for where in self._ending if (stream := self.open.get(where))]
        return [
            (stream, self._displaced[stream.where])
            for stream in ending
            if not stream.progress.open and not stream.waiting
        ]

    def _forget(self, where: TopicPartition) -> None:
        self._displaced.pop(where, None)
        self._ending.discard(where)

    def _take_note(self, found: Iterable[log_position.Finding]) -> None:
        for finding in found:
            self.findings.add(finding)
            if finding.again and self._until is not None and finding.where in self._until:
                self._until[finding.where] = min(self._until[finding.where], finding.bounds.end)

    def _have_torn_ones_assigned_anew(self, source: Source) -> None:
        if self._torn_since is None:
            self._rejoined = False
        elif not self._rejoined and self._clock() - self._torn_since > REJOIN_S:
            self._rejoined = True
            source.rejoin()

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
        self._torn_since = None
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
            self._torn_since = min(since, since if self._torn_since is None else self._torn_since)
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
