"""The offsets of a worker's partitions on their way to the broker."""

import logging
from collections.abc import Callable, Mapping, Sequence

from pipeline.core.ports import Commit, Source
from pipeline.core.record import TopicPartition
from pipeline.core.visible import sentence
from pipeline.errors import MembershipLost, PipelineError, Unavailable
from pipeline.stages.back_off import BackOff
from pipeline.stages.partitions import Partitions, Stream

COMMIT_EVERY_S = 0.1
LAST_COMMIT_S = 10.0
LAST_COMMIT_POLL_S = 0.005
_log = logging.getLogger(__name__)


class Commits:
    """One commit is asked for at a time; what settles meanwhile goes with the next.

    `acknowledged` and `failed` count commits, `last_at` is when the last acknowledged one was asked for (seconds of the clock).
    `dirty` is whether anything changed since; `refused` is a broker's answer that no waiting mends. `confirmed` is told how
    many records were settled by what the broker has confirmed. `outage` is the broker's.
    """

    def __init__(
        self,
        source: Source,
        partitions: Partitions,
        clock: Callable[[], float],
        outage: BackOff,
        confirmed: Callable[[int], None],
    ) -> None:
        self._source = source
        self._partitions = partitions
        self._clock = clock
        self._outage = outage
        self._confirmed = confirmed
        self._asked: Mapping[TopicPartition, Commit] | None = None
        self._asked_records = 0
        self._settled_records = 0
        self._not_before = 0.0
        self._asked_at = 0.0
        self.dirty = False
        self.refused: PipelineError | None = None
        self.acknowledged = self.failed = 0
        self.last_at: float | None = None

    @property
    def pending(self) -> bool:
        """Whether anything is to be asked for, or is asked for and not answered."""
        return self.dirty or self._asked is not None

    def settled(self, count: int) -> None:
        """So many records more."""
        self._settled_records += count
        self.dirty = True

    def serve(self, *, busy: bool) -> None:
        """Ask for a commit of all that changed: at once where nothing goes on, from time to time while it does."""
        if not self.dirty or self._asked is not None:
            return
        now = self._clock()
        if now < self._not_before and (busy or self._outage):
            return
        self._asked_at = now
        self._ask(lambda _: False)
        self._not_before = now + COMMIT_EVERY_S

    def answered(self, error: PipelineError | None) -> None:
        """The broker's word on the commit that was asked for."""
        asked, records = self._asked or {}, self._asked_records
        self._asked, self._asked_records = None, 0
        self.acknowledged += error is None
        self.failed += error is not None
        if error is None:
            self.last_at = self._asked_at
            self._outage.end()
            self._note(asked)
            self._confirmed(records)
        elif isinstance(error, Unavailable):
            self.dirty = True
            self._settled_records += records
            self._not_before = self._clock() + self._outage.delay(error)
        elif isinstance(error, MembershipLost):
            self._note(asked)  # not ours to commit again, either
            _log.warning("%s Another member processes these records again.", sentence(str(error)))
        else:
            self.refused = error

    def leave(self, streams: Sequence[Stream], ends_clean: Callable[[Stream], bool]) -> None:
        """Commit what is settled of these, which belong to another member from now on."""
        try:
            self._source.commit_now({stream.where: stream.commit(clean=ends_clean(stream)) for stream in streams})
        except PipelineError as error:
            _log.warning("%s Another member processes these records again.", sentence(str(error)))
        else:
            # What was asked for before is counted when its own answer comes.
            self._confirmed(self._settled_records)
            self._settled_records = 0

    def last(self, ends_clean: Callable[[Stream], bool]) -> None:
        """Ask once more, and wait for the broker's word within `LAST_COMMIT_S`."""
        deadline = self._clock() + LAST_COMMIT_S
        asked_once = False
        while True:
            if self._asked is None:
                if asked_once and not self.dirty:
                    return
                asked_once = True
                self._ask(ends_clean)
                if self._asked is None:
                    return
            if self._clock() > deadline:
                _log.warning("the last commit was not acknowledged in time: its records may be processed again")
                return
            self._source.poll(1, LAST_COMMIT_POLL_S)

    def now(self, streams: Sequence[Stream]) -> None:
        """Commit these before going on. Raises `Unavailable` and `MembershipLost`."""
        commits = {stream.where: stream.commit(clean=False) for stream in streams}
        self._source.commit_now(commits)
        self._note(commits)

    def _ask(self, ends_clean: Callable[[Stream], bool]) -> None:
        self.dirty = False
        wanted = {
            stream.where: (stream, stream.commit(clean=ends_clean(stream))) for stream in self._partitions.open.values()
        }
        changed = {where: commit for where, (stream, commit) in wanted.items() if stream.committed != commit}
        if changed:
            self._asked, self._asked_records = changed, self._settled_records
            self._settled_records = 0
            self._source.commit(changed)

    def _note(self, commits: Mapping[TopicPartition, Commit]) -> None:
        for where, commit in commits.items():
            if stream := self._partitions.open.get(where):
                stream.committed = commit
