"""consume: `orders.v1` → decode → validate → handle → commit, at least once, in order.

A record is settled when its handler returned or its dead letter is acknowledged, and only then its offset is committed.
While the environment is down (registry, sink, broker) nothing settles: the partitions are paused, the member stays in
its group, and the same records are tried again with back-off. A bug in a handler stops the worker where it is.
"""

import logging
from collections import deque
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from pipeline.core.dead_letter import Letter, Worker
from pipeline.core.failures import DATA_AT_FAULT, Failure, classify
from pipeline.core.ports import Decoder, Listener, Source
from pipeline.core.record import Record, TopicPartition
from pipeline.errors import (
    DeliveryFailed,
    HandlerFailed,
    MembershipLost,
    PipelineError,
    RecordError,
    SchemaPending,
    Unavailable,
)
from pipeline.serde.wire import schema_id_or_none
from pipeline.stages.dead_letters import DeadLetterBox
from pipeline.stages.handlers import Handler, Pair

BATCH_RECORDS_MAX = 500
POLL_TIMEOUT_S = 0.25
LAST_COMMIT_S = 10.0
BACK_OFF_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Totals:
    """What one run did. `seconds` counts from the first record to the last commit."""

    consumed: int = 0
    handled: int = 0
    dead_lettered: int = 0
    committed: int = 0
    seconds: float = 0.0

    def summary(self) -> dict[str, Any]:
        """As the door prints it."""
        return asdict(self) | {"seconds": round(self.seconds, 3)}


class Consume:
    """One worker of a group. `run` is the stage; everything it touches comes in by the constructor.

    `clock` gives seconds that never go back, `now_ms` milliseconds since 1970; `seen` is told of every settled record
    and of why it was given up, if it was. `until` names the offset of each partition at which to stop.
    """

    def __init__(
        self,
        *,
        source: Callable[[Listener], Source],
        decoder: Decoder,
        handler: Handler,
        letters: DeadLetterBox,
        worker: Worker,
        clock: Callable[[], float],
        now_ms: Callable[[], int],
        seen: Callable[[Record, Failure | None], None] = lambda _record, _failure: None,
        until: Mapping[TopicPartition, int] | None = None,
    ) -> None:
        self._decoder = decoder
        self._handler = handler
        self._letters = letters
        self._worker = worker
        self._clock = clock
        self._now_ms = now_ms
        self._seen = seen
        self._until = until
        self._pending: deque[Record] = deque()
        self._settled: dict[TopicPartition, int] = {}
        self._settled_records = 0
        self._asked: dict[TopicPartition, int] = {}
        self._asked_records = 0
        self._passed: dict[TopicPartition, int] = {}
        self._broken: PipelineError | None = None
        self._outages = 0
        self._try_again_at = 0.0
        self._started_at: float | None = None
        self.totals = Totals()
        self._source = source(self)

    def run(self, stopping: Callable[[], bool], tick: Callable[[], None] = lambda: None) -> Totals:
        """Work, with a `tick` after every poll, until `stopping()` or the end in `until`.

        What was settled is committed when it returns.
        Raises `HandlerFailed` (a bug), `DeliveryFailed` (a letter refused for good), `Fenced`, and authorisation
        errors; an environment that is down is waited for without end.
        """
        try:
            self._work(stopping, tick)
        except (HandlerFailed, DeliveryFailed):
            # The worker stops at one record; what was settled before it is not worked off again.
            self._wait_for_the_last_commit()
            raise
        self._wait_for_the_last_commit()
        return self.totals

    def _work(self, stopping: Callable[[], bool], tick: Callable[[], None]) -> None:
        while not stopping():
            self._poll()
            if (self._pending or self._letters or self._settled) and self._clock() >= self._try_again_at:
                self._step()
            tick()
            if not self._busy:
                self._pass_markers()
            if not self._busy and self._at_the_end():
                return

    @property
    def _busy(self) -> bool:
        return bool(self._pending or self._letters or self._settled or self._asked)

    def _pass_markers(self) -> None:
        """Commit the end of a partition where it is not the last record's: markers of transactions take offsets, too.

        Without this, lag stays at 1 for ever on a topic that transactions write to (librdkafka issue 3917). Everything that
        was handed out is settled when this is called.
        """
        ends = self._source.positions() or {}
        self._settled = {where: end for where, end in ends.items() if end > self._passed.get(where, -1)}
        self._commit()

    def _poll(self) -> None:
        records = self._source.poll(BATCH_RECORDS_MAX, POLL_TIMEOUT_S)
        if self._broken is not None:
            raise self._broken
        if records and self._started_at is None:
            self._started_at = self._clock()
        self._pending.extend(records)

    def _wait_for_the_last_commit(self) -> None:
        deadline = self._clock() + LAST_COMMIT_S
        while self._asked or (self._settled and not self._letters):
            self._source.pause()
            if self._clock() > deadline:
                _log.warning("the last commit was not confirmed in time: its records may be worked off again")
                return
            self._commit()
            self._poll()

    def _step(self) -> None:
        """Settle all that is pending and commit it, or put it off while the environment is down."""
        try:
            trouble = self._settle()
            self._letters.deliver()
            self._commit()
            if trouble is not None:
                raise trouble
        except Unavailable as outage:
            self._put_off(outage)
        else:
            if not (self._settled or self._asked):
                self._back_to_work()

    def _put_off(self, outage: Unavailable) -> None:
        delay = BACK_OFF_S[min(self._outages, len(BACK_OFF_S) - 1)]
        self._outages += 1
        self._try_again_at = self._clock() + delay
        self._source.pause()
        _log.warning("%s Trying again in %g s; nothing is lost or skipped.", outage, delay)

    def _back_to_work(self) -> None:
        if self._outages:
            _log.info("back to work")
            self._outages = 0
            self._source.resume()

    def _settle(self) -> Exception | None:
        """Hand the pending records to the handler, in order; return what kept some of them from being settled."""
        pairs: list[Pair] = []
        failures: dict[int, Failure] = {}
        reach = len(self._pending)
        trouble: Exception | None = None
        for number, record in enumerate(self._pending):
            try:
                pairs.append((self._handler.event(self._decoder.decode(record.value)), record))
            except RecordError as error:
                failures[id(record)] = classify(error)
            except Unavailable as outage:
                reach, trouble = number, outage
                self._look_ahead(outage, number + 1)
                break
        outcome = self._handler.call(pairs) if pairs else None
        if outcome is not None:
            failures |= {id(record): classify(error) for record, error in outcome.rejected}
            if outcome.stopped_by is not None:
                stuck = pairs[outcome.resolved][1]
                reach = next(number for number, record in enumerate(self._pending) if record is stuck)
                trouble = self._trouble(outcome.stopped_by, stuck)
        for _ in range(reach):
            record = self._pending.popleft()
            self._settle_one(record, failures.get(id(record)))
        return trouble

    def _look_ahead(self, outage: Unavailable, start: int) -> None:
        """Let the waiting for every unknown schema begin now, not one after the other."""
        if isinstance(outage, SchemaPending):
            for record in islice(self._pending, start, None):
                with suppress(RecordError, Unavailable):
                    self._decoder.decode(record.value)

    def _trouble(self, error: Exception, record: Record) -> Exception:
        if isinstance(error, PipelineError):
            return error
        failed = HandlerFailed(
            f"The handler {self._handler.name} failed at {record.where}: {type(error).__name__}: {error}. "
            "That is a bug: neither the record nor the environment is at fault, so the worker stops there. "
            "Mend it and start again; everything before is committed, nothing is skipped."
        )
        failed.__cause__ = error
        return failed

    def _settle_one(self, record: Record, failure: Failure | None) -> None:
        self.totals.consumed += 1
        if failure is None:
            self.totals.handled += 1
        else:
            assert failure.kind in DATA_AT_FAULT, failure
            self._letters.put(
                Letter(record, failure, self._worker, self._now_ms(), schema_id_or_none(record.value)),
            )
            self.totals.dead_lettered += 1
        self._settled[record.source] = record.offset + 1
        self._settled_records += 1
        self._seen(record, failure)

    def _commit(self) -> None:
        """Ask for a commit of all that is settled; one at a time, what settles meanwhile goes with the next.

        While a letter is not acknowledged, nothing is: its own offset is among the settled ones.
        """
        if not self._settled or self._asked or self._letters:
            return
        self._asked, self._asked_records = self._settled, self._settled_records
        self._settled, self._settled_records = {}, 0
        self._source.commit(self._asked)

    def committed(self, error: PipelineError | None) -> None:
        """The broker's word on the commit that was asked for; called inside a poll."""
        asked, records = self._asked, self._asked_records
        self._asked, self._asked_records = {}, 0
        if error is None:
            self._passed |= asked
            self._count_committed(records)
            if not (self._pending or self._letters):
                self._back_to_work()
        elif isinstance(error, Unavailable):
            self._settled = asked | self._settled
            self._settled_records += records
            self._put_off(error)
        elif isinstance(error, MembershipLost):
            self._passed |= asked  # not ours to commit again, either
            _log.warning("%s Another member works these records off again.", error)
        else:
            self._broken = error

    def _count_committed(self, records: int) -> None:
        self.totals.committed += records
        if self._started_at is not None:
            self.totals.seconds = self._clock() - self._started_at

    def given_up(self, partitions: Collection[TopicPartition], lost: bool) -> None:
        """Called inside a poll: what is unsettled of these partitions is another member's from now on."""
        if not lost and not len(self._letters) and (due := self._asked | self._settled):
            try:
                self._source.commit_now(due)
            except PipelineError as error:
                _log.warning("%s Another member works these records off again.", error)
            else:
                # What was asked for before is counted when its own answer comes.
                self._count_committed(self._settled_records)
                self._settled, self._settled_records = {}, 0
        self._pending = deque(record for record in self._pending if record.source not in partitions)
        self._letters.drop(partitions)
        for where in partitions:
            self._settled.pop(where, None)
            self._passed.pop(where, None)

    def _at_the_end(self) -> bool:
        if self._until is None:
            return False
        positions = self._source.positions()
        if positions is None:
            return False
        return all(position >= self._until.get(where, 0) for where, position in positions.items())

    def counts(self) -> tuple[int, str]:
        """How many were consumed, and what became of them, in words."""
        it = self.totals
        return it.consumed, f"{it.handled} handled, {it.dead_lettered} dead letters, {it.committed} committed"
