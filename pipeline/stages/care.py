"""How a worker goes after another one died: slowly, and so that whoever comes after its own death knows what it had in hand."""

import logging
from collections.abc import Callable, Sequence

from pipeline.core.offsets import Note
from pipeline.errors import MembershipLost, Unavailable
from pipeline.stages.back_off import BackOff
from pipeline.stages.commits import Commits
from pipeline.stages.partitions import Partitions, Stream
from pipeline.stages.work import Work

CAREFUL_RECORDS = 1_000
_log = logging.getLogger(__name__)


class Care:
    """For `CAREFUL_RECORDS` records, of which one is in hand at a time, each named in a commit before it is touched.

    True while it lasts. `limit` is how many deaths with it in hand a record is granted, 0 for any number.
    """

    def __init__(
        self, limit: int, commits: Commits, partitions: Partitions, clock: Callable[[], float], outage: BackOff
    ) -> None:
        self._limit = limit
        self._commits = commits
        self._partitions = partitions
        self._clock = clock
        self._outage = outage
        self._left = 0

    def __bool__(self) -> bool:
        return self._left > 0

    def opened(self, streams: Sequence[Stream]) -> None:
        """Look at the notes of these."""
        if self._limit and any(not stream.note.clean for stream in streams):
            self._left = CAREFUL_RECORDS
            _log.warning("the last worker here did not stop in good order: going one record at a time for a while")

    def settled(self) -> None:
        """One record more."""
        self._left -= 1
        if not self._left:
            for stream in self._partitions.open.values():
                stream.note = Note(clean=False)
            self._commits.dirty = True

    def has_killed(self, work: Work) -> bool:
        """Whether the record is in hand for the last time that it is granted."""
        if not work.tries:
            # Those of the workers before; this one's counts once, however often it tries the record again.
            found = work.stream.found
            work.tries = 1 + (found.tries if found.suspect == work.offset else 0)
        # Those tries, and the death before anybody took care.
        return work.tries >= self._limit

    def name(self, work: Work) -> bool:
        """Commit that this record is touched next; false when it has to wait because that could not be made known."""
        stream = work.stream
        before, stream.note = stream.note, Note(clean=False, suspect=work.offset, tries=work.tries)
        if stream.note == before:
            return True
        try:
            self._commits.now(stream)
        except (Unavailable, MembershipLost) as error:
            stream.note = before
            if isinstance(error, Unavailable):
                work.due = self._clock() + self._outage.delay(error)
            return False
        return True
