"""Recovery mode: how a worker goes after another one died, so that whoever comes after its own death knows what it had in flight.

Every record is named in a commit's metadata before it is touched. Several may be in flight, one of each key: their death
makes all of them suspects, and a suspect is touched alone, in its next life. So the record that killed its workers was alone
in flight at the last death, and no other is given up for it (decisions 0008 and 0021).
"""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from pipeline.core.offsets import Note
from pipeline.core.record import TopicPartition, listed
from pipeline.errors import MembershipLost, Unavailable
from pipeline.stages.back_off import BackOff
from pipeline.stages.commits import Commits
from pipeline.stages.partitions import Partitions, Stream
from pipeline.stages.work import Work

CAREFUL_RECORDS = 1_000
CAREFUL_S = 60.0
# Named at once, so that the names have room in a commit's metadata beside what is done ahead.
COMPANY_MAX = 40
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Suspects:
    """What is known of records that had a worker die, by where they lie: how many deaths, the first (unnamed) one not counted.

    `found` is what the notes of others said, `named` what this worker has in flight now, this try counted.
    """

    found: dict[tuple[TopicPartition, int], int] = field(default_factory=dict)
    named: dict[tuple[Stream, int], int] = field(default_factory=dict)

    def of(self, stream: Stream) -> list[tuple[int, int]]:
        """Offsets and deaths of one partition, what is in flight first."""
        named = {offset: tries for (each, offset), tries in self.named.items() if each is stream}
        found = {offset: tries for (where, offset), tries in self.found.items() if where == stream.where}
        return [*named.items(), *((offset, tries) for offset, tries in found.items() if offset not in named)]

    def forget(self, stream: Stream) -> None:
        """What was said of this partition before."""
        self.found = {key: tries for key, tries in self.found.items() if key[0] != stream.where}

    def open(self, streams: Collection[Stream]) -> bool:
        """Whether a record of these is a suspect still."""
        places = {stream.where: stream.progress for stream in streams}
        return any(where in places and offset >= places[where].committable for where, offset in self.found)


class Care:
    """For `CAREFUL_RECORDS` records or `careful_s` seconds, and as long as a suspect is left. True while it lasts.

    `limit` is how many deaths with it in flight a record is granted, 0 for any number. Partitions that this very worker lost
    and got back are no death: their notes carry its own `life`, a name that no other worker has, nor it after a restart.
    """

    def __init__(
        self,
        limit: int,
        commits: Commits,
        partitions: Partitions,
        clock: Callable[[], float],
        outage: BackOff,
        careful_s: float = CAREFUL_S,
    ) -> None:
        self._limit = limit
        self._commits = commits
        self._partitions = partitions
        self._clock = clock
        self._outage = outage
        self._careful_s = careful_s
        self._left = 0
        self._until = 0.0
        self._suspects = Suspects()

    def __bool__(self) -> bool:
        return self._left > 0

    @property
    def watches(self) -> bool:
        """Whether what is settled or put back may be named: in recovery mode, and a while after it."""
        return bool(self._left or self._suspects.named)

    def opened(self, streams: Sequence[Stream]) -> None:
        """Look at the notes of these."""
        if not self._limit:
            return
        self._suspects.named = {key: tries for key, tries in self._suspects.named.items() if not key[0].shard.closed}
        died: list[Stream] = []
        for stream in streams:
            found = stream.found
            if not found.clean and found.owner and found.owner == self._partitions.owner:
                self._write(stream)  # lost and got back: what we had in flight then killed nobody
                continue
            self._suspects.forget(stream)
            if not found.clean:
                died.append(stream)
                self._suspects.found |= {(stream.where, offset): tries for offset, tries in found.suspects}
        if died:
            self._begin([stream.where for stream in died])

    def _begin(self, places: Sequence[TopicPartition]) -> None:
        self._left, self._until = CAREFUL_RECORDS, self._clock() + self._careful_s
        _log.warning(
            "the previous owner of %s did not shut down cleanly: for the next %d records, %g s at most, each record is named "
            "in a commit before it is processed, and a suspect is processed alone",
            listed(places),
            CAREFUL_RECORDS,
            self._careful_s,
            extra={"recovery_mode": True, "suspects": len(self._suspects.found)},
        )

    def settled(self, work: Work) -> None:
        """One record more: processed, in a retry topic, or a dead letter."""
        self._suspects.found.pop((work.stream.where, work.offset), None)
        self.put_back(work)
        if self._left > 1:
            self._left -= 1
        self.look()

    def put_back(self, work: Work) -> None:
        """It is not in flight for now: a death in the meantime is none of its doing."""
        if self._suspects.named.pop((work.stream, work.offset), None) is not None and work.alive():
            self._write(work.stream)

    def look(self) -> None:
        """Leave recovery mode when it has lasted long enough and no suspect is left."""
        if self._left and (self._left == 1 or self._clock() >= self._until):
            streams = self._partitions.open.values()
            if not self._suspects.open(streams):
                self._left = 0
                self._suspects.found.clear()
                for stream in streams:
                    self._write(stream)
                self._commits.dirty = True
                _log.info("recovery mode is over", extra={"recovery_mode": False})

    def has_killed(self, work: Work) -> bool:
        """Whether the record was in flight at as many deaths as it is granted."""
        if not work.tries:
            # Deaths that were named, and the one before anybody took care; it counts once, however often it is tried here.
            work.tries = 1 + self._deaths(work)
        return work.tries >= self._limit

    def would_kill_again(self, work: Work) -> bool:
        """Whether the next worker would give it up, were this one to end with it now: then it can as well, knowing why."""
        return bool(self) and work.tries > 0 and work.tries + 1 >= self._limit

    def admits(self, work: Work, others: Collection[Work], sending: int) -> bool:
        """Whether it may be in flight together with these: a suspect is alone, or its death would be another's fault.

        It waits for what is being sent too: after its death, a letter that is not acknowledged would be written again.
        """
        if not others:
            return not (sending and self._deaths(work))
        # With a limit of two, a record is given up for its first named death: it has to be alone in that.
        alone = self._limit == 2 or self._deaths(work) or any(map(self._deaths, others))  # noqa: PLR2004
        return not alone and len(others) < COMPANY_MAX

    def name(self, works: Sequence[Work]) -> bool:
        """Commit that these are touched next; false when they have to wait because that could not be made known."""
        before = {work.stream: work.stream.note for work in works}
        for work in works:
            self._suspects.named[work.stream, work.offset] = work.tries
        for stream in before:
            self._write(stream)
        changed = [stream for stream, note in before.items() if stream.note != note]
        try:
            if changed:
                self._commits.now(changed)
        except (Unavailable, MembershipLost) as error:
            for work in works:
                del self._suspects.named[work.stream, work.offset]
                if isinstance(error, Unavailable):
                    work.due = self._clock() + self._outage.delay(error)
            for stream, note in before.items():
                stream.note = note
            return False
        return True

    def _deaths(self, work: Work) -> int:
        """Named ones, in workers before this one."""
        return self._suspects.found.get((work.stream.where, work.offset), 0)

    def _write(self, stream: Stream) -> None:
        """Its suspects into the note that goes with its next commit."""
        stream.note = Note(clean=False, owner=self._partitions.owner).naming(self._suspects.of(stream))
