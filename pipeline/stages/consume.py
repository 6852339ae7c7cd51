"""consume: `orders.v1` → decode → validate → handle → commit, at least once, in order per key.

One thread polls, decides and commits; a crew of others runs the handlers. A record is settled when its handler returned,
its dead letter is acknowledged, or it is acknowledged in a retry topic; only then its offset may be committed. While the
environment is down (registry, sink, broker) nothing settles and no attempt is counted. A bug in a handler stops the worker
where it is. The decisions are `core`'s: which record may run (`ordering`, `fence`), what a failure is (`failures`), where
it is tried again (`retry`), what may be committed (`offsets`).
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from enum import Enum, auto
from itertools import groupby, takewhile
from operator import attrgetter
from typing import Any

from pipeline.core.dead_letter import Letter, Worker
from pipeline.core.failures import (
    Failure,
    FailureKind,
    Verdict,
    classify,
    crash_loop,
    exhausted,
    retry_after,
    unparkable,
    verdict,
)
from pipeline.core.ordering import Lanes
from pipeline.core.ports import Decoder, Listener, Log, Source
from pipeline.core.record import Record, TopicPartition, offset_of, place_of, value_of
from pipeline.core.retry import GiveUp, InPlace, Journey, RetryPolicy, failed, original
from pipeline.core.visible import sentence
from pipeline.errors import (
    DeliveryFailed,
    HandlerFailed,
    MembershipLost,
    NotTogether,
    PipelineError,
    RecordError,
    SchemaPending,
    TooLarge,
    Unavailable,
)
from pipeline.serde.wire import schema_id_or_none
from pipeline.stages.ages import ages
from pipeline.stages.back_off import BackOff
from pipeline.stages.bugs import LongCalls, bug
from pipeline.stages.care import CAREFUL_S, Care
from pipeline.stages.commits import Commits
from pipeline.stages.crew import Crew, Done
from pipeline.stages.failure_log import FailureLog
from pipeline.stages.handlers import Handler, Kind
from pipeline.stages.other_events import OtherEvents
from pipeline.stages.outbox import Outbox
from pipeline.stages.partitions import Partitions, Shard, Stream
from pipeline.stages.places import Places
from pipeline.stages.room import FULL_PATIENCE_S, Room
from pipeline.stages.tracebacks import traceback_of
from pipeline.stages.work import Run, Straight, Work

IDLE_POLL_S = 0.25
# While handlers run, what they finish is looked after this often.
BUSY_POLL_S = 0.005
# A hand is waited for so long when it gets a run: what is quick comes back at once, while all of it is in the cache, and two
# threads do not strive for the one interpreter.
HAND_OVER_S = 0.001
# For what is in hand when partitions are asked back; far below max.poll.interval.ms (300 s), which bounds a rebalance.
DRAIN_S = 10.0
# The same on the way out: below the 30 s after which Kubernetes kills.
STOP_S = 20.0
# For a coroutine that was cancelled because it took too long, to end.
CANCELLED_S = 10.0
SCHEMA_AGAIN_S = 0.5
# A schema that the registry does not know yet is said this often.
GRACE_SAID_EVERY_S = 10.0
_BEHIND = Failure(FailureKind.TRANSIENT, "", "waits behind an earlier record of its key")
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Totals:
    """What one run did. `consumed` = `handled` + `dead_lettered` + `parked` (sent to a retry topic) + `passed_over`.

    `passed_over` are the records of other event types, None where they are not passed over by choice.

    `seconds` counts from the first record to the last commit.
    """

    consumed: int = 0
    handled: int = 0
    dead_lettered: int = 0
    parked: int = 0
    committed: int = 0
    seconds: float = 0.0
    passed_over: int | None = None

    def summary(self) -> dict[str, Any]:
        """As the door prints it."""
        it = asdict(self) | {"seconds": round(self.seconds, 3)}
        return {name: it[name] for name in it if it[name] is not None}


class Consume:
    """One worker of a group. `run` is the stage; everything it touches comes in by the constructor.

    `topics` are the source and then the retry topics of `policy.tiers`. `clock` gives seconds that never go back, `now_ms`
    milliseconds since 1970, `jitter` random numbers in [0, 1). `life` is a name that no other worker ever has, nor this one
    after a restart; `careful_s` bounds how long it takes care after another one died. `seen` is told of every settled record,
    and of why it was given up or parked, if it was. `until` names the offset of each partition at which to stop;
    with `settle`, not before what went to retry topics meanwhile is settled too.
    `crash_limit` is how many deaths with it in hand a record is granted, 0 for any number. `bugs` is what becomes of a
    record whose handler has a bug. A call that takes longer than `handler_timeout_s`, and cannot be cancelled, stops the worker.
    """

    def __init__(
        self,
        *,
        source: Callable[[Listener], Source],
        log: Log,
        topics: Sequence[str],
        decoder: Decoder,
        handler: Handler,
        crew: Crew,
        outbox: Outbox,
        worker: Worker,
        policy: RetryPolicy,
        clock: Callable[[], float],
        now_ms: Callable[[], int],
        jitter: Callable[[], float],
        keep_order: bool = True,
        only: bool = False,
        crash_limit: int = 3,
        careful_s: float = CAREFUL_S,
        life: str = "",
        bugs: Verdict = Verdict.STOP,
        handler_timeout_s: float | None = None,
        seen: Callable[[Record, Failure | None], None] | None = None,
        until: Mapping[TopicPartition, int] | None = None,
        settle: bool = False,
    ) -> None:
        self._topics = topics
        self._decoder = decoder
        self._handler = handler
        self._crew = crew
        self._outbox = outbox
        self._worker = worker
        self._policy = policy
        self._clock = clock
        self._now_ms = now_ms
        self._jitter = jitter
        self._keep_order = keep_order
        self._bugs = bugs
        # A coroutine is cancelled by its crew, and has some time to end then.
        limit_s = handler_timeout_s and handler_timeout_s + (CANCELLED_S if handler.kind is Kind.ASYNC else 0.0)
        # Crews whose calls take no time have none to tell of.
        calls = getattr(crew, "calls", list)
        self._long_calls = LongCalls(f"The handler {handler.name}", calls, clock, limit_s)
        self._seen = seen
        self._until = None if until is None else dict(until)
        self._settle_all = settle
        self._lanes: Lanes[Work] = Lanes()
        self._straight = Straight(self._work_of)
        self._in_hand: Run | None = None
        self._places = Places(topics[0], log)
        self._let_in_at = 0.0
        self._partitions = Partitions(topics, log, clock, together=keep_order, owner=life, until=self._until)
        # While every hand has a list, one more gets ready.
        self._room = Room((crew.room + 1) * crew.list_max, self._partitions, clock)
        self._numbers = 0
        self._emptying_since: float | None = None
        self._sink_outage = BackOff(clock)
        self._registry_outage = BackOff(clock)
        self._broker_outage = BackOff(clock)
        self._not_before = 0.0
        self._warned_at: float | None = None
        self._open_at = 0.0
        self._broken: PipelineError | None = None
        # It stays named in its partition's note: the next worker knows what this one stopped at.
        self._stopped_at: Work | None = None
        self._started_at: float | None = None
        self._clean = True
        self._over = False
        self._failure_log = FailureLog(clock)
        self._polled_at: float | None = None
        self._counters = Counter({"retries": 0, "assignments": 0, "revocations": 0})
        self.failures: Counter[FailureKind] = Counter()
        self._others = OtherEvents(only=only)
        self.totals = Totals(passed_over=0 if only else None)
        self._source = source(self)
        self._commits = Commits(self._source, self._partitions, clock, self._broker_outage, self._count_committed)
        self._care = Care(crash_limit, self._commits, self._partitions, clock, self._broker_outage, careful_s)

    # --- the loop

    def run(self, stopping: Callable[[], bool], tick: Callable[[], None] = lambda: None) -> Totals:
        """Work, with a `tick` after every turn, until `stopping()` or the end in `until`.

        What was settled is committed when it returns.
        Raises `HandlerFailed` (a bug), `DeliveryFailed` (a letter refused for good), `NotTogether`, `Fenced`, and
        authorisation errors; an environment that is down is waited for without end.
        """
        try:
            self._work(stopping, tick)
            self._wind_down()
        except (DeliveryFailed, NotTogether):
            self._wind_down(deliver=False)
            raise
        except HandlerFailed:
            # The worker stops at one record; what was settled beside it is not worked off again.
            self._clean = False
            self._wind_down()
            raise
        finally:
            self._over = True
            self._failure_log.summarize()
        return self.totals

    def _work(self, stopping: Callable[[], bool], tick: Callable[[], None]) -> None:
        while not stopping():
            self._turn()
            tick()
            if self._at_the_end():
                return

    def _turn(self) -> None:
        self._intake()
        self._collect()
        self._outbox.serve()
        self._open()
        self._reopen()
        self._let_due_in()
        self._dispatch()
        self._commits.serve(busy=self._busy)
        self._failure_log.serve()
        self._broken = self._broken or self._long_calls.look()
        self._raise_what_broke()

    def _raise_what_broke(self) -> None:
        if broken := self._broken or self._commits.refused:
            raise broken

    @property
    def _busy(self) -> bool:
        return bool(self._unsettled or self._outbox)

    @property
    def _unsettled(self) -> int:
        """How many records wait or are in hand."""
        in_hand = 0 if self._in_hand is None else len(self._in_hand)
        return len(self._straight) + in_hand + len(self._lanes) + self._lanes.in_hand

    def _at_the_end(self) -> bool:
        if self._until is None or self._busy or self._commits.pending or self._partitions.any_displaced:
            return False
        positions = self._source.positions()
        if positions is None or not self._partitions.all_open or any(s.waiting for s in self._partitions.open.values()):
            return False
        if self._settle_all and any(len(stream.shard.fence) for stream in self._partitions.open.values()):
            return False  # parked by a member that had the partition before
        return all(position >= self._until.get(where, 0) for where, position in positions.items())

    # --- records in

    def _intake(self) -> None:
        size = self._unsettled + len(self._outbox)
        if self._room.is_full(size, self._source) or self._empties_the_lanes():
            self._collect(BUSY_POLL_S)
            return
        records = self._source.poll(self._room.poll_limit(size), self._patience())
        self._raise_what_broke()
        if records and self._started_at is None:
            self._started_at = self._clock()
        bytes_before = self._room.bytes
        for place, run in groupby(records, place_of):
            stream = self._partitions.open.get(place)
            if stream is not None:
                self._accept(stream, list(run))
        self._room.polled(len(records), bytes_before)
        if not records and self._partitions.reached(self._source.positions() or {}, self._until):
            self._commits.dirty = True

    def _empties_the_lanes(self) -> bool:
        """Whether to read nothing now, so that what comes next may go straight again: that takes a third of the time.

        Only while all that is in the lanes runs or may run, and no longer than partitions rest before they are paused.
        """
        now = self._clock()
        if (
            not (self._crew.in_order and (self._lanes or self._lanes.in_hand))
            or self._care
            or self._lanes.next_due is not None
            or now < self._not_before
            or any(work.away for work in self._lanes.taken)
        ):
            self._emptying_since = None
            return False
        if self._emptying_since is None:
            self._emptying_since = now
        return now - self._emptying_since < FULL_PATIENCE_S

    def _patience(self) -> float:
        if self._in_hand or self._lanes.in_hand or self._outbox or self._commits.pending:
            return BUSY_POLL_S
        now = self._clock()
        dues = [stream.due for stream in self._partitions.open.values() if stream.due is not None]
        if self._straight:
            dues.append(self._not_before)
        if self._lanes:
            dues.append(max(self._not_before, self._lanes.next_due or 0.0))
        return max(0.0, min([IDLE_POLL_S, *(due - now for due in dues)]))

    def _accept(self, stream: Stream, records: list[Record]) -> None:
        """Records of one partition, in their order."""
        bounded = self._until is not None and not (self._settle_all and stream.tier)
        if bounded and self._until is not None and records[-1].offset >= (end := self._until.get(stream.where, 0)):
            records = [record for record in records if record.offset < end]
            self._partitions.hold(self._source, [stream], "the end")
        progress = stream.progress
        if not progress.deliver_run(list(map(offset_of, records))):
            if records and records[0].offset < progress.next:
                # Nobody rewound it: whether this is the same log is looked at before anything of it counts as done.
                self._partitions.displaced([stream.where], surely=False)
                return
            # Some were done before the last restart, says the note.
            records = [record for record in records if progress.deliver(record.offset)]
        if stream.tier:
            stream.waiting.extend(records)
        elif records:
            for record in self._go_straight(stream, records):
                self._line_up(stream, record, record.offset, None)
        if progress.crowded:
            self._partitions.hold(self._source, [stream], "crowded")

    def _go_straight(self, stream: Stream, records: list[Record]) -> list[Record]:
        """Let these wait for the one hand together, as long as nothing else waits; gives back from where on they may not.

        What cannot be decoded, and never will be, is given up on the way: nothing waits for its letter.
        """
        fence, looked_at = stream.shard.fence, None
        while records and self._crew.in_order and not (self._care or self._lanes or self._lanes.in_hand):
            free = records
            if len(fence):
                free = list(takewhile(lambda record: fence.tier_after(stream.tier, record.key) is None, records))
            events = self._events(free)
            if events:
                straight = free[: len(events)]
                size = sum(map(len, filter(None, map(value_of, straight))))
                self._straight.add(stream, straight, events, size, self._numbers + 1)
                self._numbers += len(events)
                self._room.weigh(stream, size)
            records = records[len(events) :]
            if len(events) == len(free) or records[0] is looked_at:
                break
            looked_at = records[0]
            if self._is_given_up(stream, looked_at):
                records = records[1:]
        return records

    def _is_given_up(self, stream: Stream, record: Record) -> bool:
        """A closer look: it may also make its schema known."""
        try:
            self._fresh(record)
        except RecordError as error:
            # It takes no number, so that the run goes on behind it.
            work = self._work_of(stream, record, 0)
            self._room.weigh(stream, work.size)
            self._lanes.adopt(work.lane, work)
            self._refuse(work, error)
            return True
        except BaseException:  # noqa: BLE001, S110  # said, and waited for or stopped at, where it is looked at alone
            pass
        return False

    def _fresh(self, record: Record) -> Any:
        """Its event, made for one try; decoder and model may raise anything, the model being the user's."""
        return self._handler.event(self._decoder.decode(record.value))

    def _events(self, records: Sequence[Record]) -> list[Any]:
        """Of these, or of those before the first one that needs a closer look: it gets that when it is looked at alone."""
        events: list[Any] = []
        with suppress(BaseException):
            # What came before an exception is kept; a model of the user's may raise any.
            events.extend(map(self._handler.validate, self._decoder.decode_run(map(value_of, records))))
        return events

    def _line_up(self, stream: Stream, record: Record, offset: int, its: Journey | None) -> None:
        self._numbers += 1
        work = self._work_of(stream, record, self._numbers)
        work.offset, work.its = offset, its
        self._room.weigh(stream, work.size)
        self._lanes.add(work.lane, work)

    def _work_of(self, stream: Stream, record: Record, number: int) -> Work:
        ordered = self._keep_order and record.key is not None
        lane: Hashable = (stream.where.partition, record.key) if ordered else number
        return Work(record, stream, record.offset, lane, number, fresh=self._fresh)

    def _let_due_in(self) -> None:
        """Retry topics: the first record decides when its partition goes on; delays are equal, so it is the next due."""
        if self._let_in_at and self._clock() < self._let_in_at:
            return
        try:
            self._let_in()
        except Unavailable as outage:
            # Nobody says how far the source goes, and so where these records can come from.
            self._let_in_at = self._clock() + self._broker_outage.delay(outage)

    def _let_in(self) -> None:
        for stream in self._partitions.open.values():
            if not stream.waiting:
                continue
            now = self._clock()
            while stream.waiting:
                record = stream.waiting[0]
                its = self._places.journey(record)
                if stream.due is None:
                    # By the wall clocks of two machines, but never longer than the tier's own delay.
                    left = max(0.0, (its.due_ms - self._now_ms()) / 1000)
                    stream.due = now + min(left, self._policy.tiers[stream.tier - 1])
                if stream.due > now or self._room.rests:
                    break
                stream.due = None
                stream.waiting.popleft()
                self._line_up(stream, original(record, its), record.offset, its)
            if stream.waiting:
                self._partitions.hold(self._source, [stream], "not due")
            else:
                self._partitions.free(self._source, [stream], "not due")

    # --- handlers

    def _dispatch(self) -> None:
        """Give the crew what may run: what goes straight came before all that waits in lanes."""
        now = self._polled_at = self._clock()
        self._partitions.look_for_topics_made_anew(now)
        if self._straight or self._in_hand is not None:
            while self._straight and self._in_hand is None and self._crew.room > 0 and now >= self._not_before:
                self._in_hand = self._straight.take(self._crew.list_max)
                self._crew.submit(self._in_hand)
                self._collect(HAND_OVER_S)
            return
        self._lanes.wake(now)
        if self._care:
            self._dispatch_carefully(now)
        else:
            self._dispatch_lanes(now)

    def _dispatch_lanes(self, now: float) -> None:
        while now >= self._not_before and self._crew.room > 0 and self._broken is None:
            taken = self._lanes.take(self._crew.list_max)
            if not taken:
                return
            ready: list[Work] = []
            back: list[Work] = []
            blocked: set[Hashable] = set()
            for lane, work in taken:
                work.due = 0.0
                waits = lane in blocked or now < self._not_before
                next_ = _Next.WAIT if waits else self._prepare(work)
                if next_ is _Next.RUN:
                    ready.append(work)
                elif next_ is _Next.WAIT:
                    back.append(work)
                if next_ in _BLOCKS:
                    blocked.add(lane)
            self._put_back(back)
            if ready:
                self._crew.submit(ready)

    def _dispatch_carefully(self, now: float) -> None:
        """After a death: what runs is named before, several in one commit; a suspect runs alone."""
        self._care.look()
        chosen: list[Work] = []
        while now >= self._not_before and self._crew.room > len(chosen) and (taken := self._lanes.take(1)):
            [(_, work)] = taken
            work.due = 0.0
            tier = work.stream.shard.fence.tier_after(work.stream.tier, work.record.key)
            if tier is not None:
                self._park(work, tier, None)
            elif self._care.has_killed(work):
                self.failures[FailureKind.CRASH_LOOP] += 1
                self._give_up(work, crash_loop(work.tries))
            elif self._care.admits(work, [each for each in self._lanes.taken if each is not work], len(self._outbox)):
                chosen.append(work)
            else:
                self._put_back([work])
                break
        if chosen and not self._care.name(chosen):
            self._put_back(chosen)
            return
        back: list[Work] = []
        for work in chosen:
            waits = now < self._not_before or self._broken is not None
            next_ = _Next.WAIT if waits else self._prepare(work)
            if next_ is _Next.RUN:
                self._crew.submit([work])
            elif next_ is _Next.WAIT:
                back.append(work)
        self._put_back(back)

    def _prepare(self, work: Work) -> "_Next":
        """Whether the record may run now: is its key parked, can it be decoded?"""
        stream = work.stream
        tier = stream.shard.fence.tier_after(stream.tier, work.record.key)
        if tier is not None:
            self._park(work, tier, None)
            return _Next.AWAY
        if work.attempts + 1 != work.record.attempt:
            work.record = work.record._replace(attempt=work.attempts + 1)
        return self._decode(work)

    def _decode(self, work: Work) -> "_Next":
        """Its event; what fails on the way to it fails as if the handler had raised it: the model is the user's."""
        try:
            work.event = self._fresh(work.record)
        except RecordError as error:
            self._refuse(work, error)
            return _Next.GONE
        except SchemaPending as error:
            self._warn_of_grace(error)
            self._look_ahead(work)
            work.due = self._clock() + SCHEMA_AGAIN_S
            return _Next.WAIT
        except Unavailable as error:
            # Only what needs the registry waits for it; records of known schemas flow on.
            self.failures[FailureKind.UNAVAILABLE] += 1
            work.waited = True
            work.due = self._clock() + self._registry_outage.delay(Unavailable(classify(error).message))
            return _Next.WAIT
        except BaseException as error:  # noqa: BLE001  # its class decides
            return self._failed(work, error)
        if work.waited:
            self._registry_outage.end()
        return _Next.RUN

    def _refuse(self, work: Work, error: RecordError) -> None:
        failure = classify(error)
        if self._others.passes_over(error):
            self._lanes.release(work.lane, work)
            self.totals.passed_over = (self.totals.passed_over or 0) + 1
            self._settle(work, failure)
            return
        self.failures[failure.kind] += 1
        self._give_up(work, failure)

    def _look_ahead(self, work: Work) -> None:
        """Let the grace of every unknown schema begin now, not one after the other."""
        for other in self._lanes.of(work.lane):
            with suppress(RecordError, Unavailable):
                self._decoder.decode(other.record.value)

    def _collect(self, timeout_s: float = 0.0) -> None:
        """Take in what the crew finished."""
        self._take_back(self._crew.finished(timeout_s))

    def _take_back(self, finished: Sequence[Done]) -> None:
        """Each to where it goes on from here; what waits behind a run that did not end well lines up as well."""
        if not finished:
            return
        back: list[Work] = []
        for done in finished:
            if isinstance(done.work, Run):
                self._in_hand = None
                if done.ran:
                    self._settle_run(done.work)
                else:
                    self._straight.put_back(done.work)
                continue
            work: Work = done.work
            if work.of_run:
                self._in_hand, work.of_run = None, False
                self._lanes.adopt(work.lane, work)
            if self._outcome(done) is _Next.WAIT:
                back.append(work)
        self._put_back(back)
        if self._straight and (self._lanes or self._lanes.in_hand):
            for work in self._straight.clear():
                work.of_run, work.event = False, None
                self._lanes.add(work.lane, work)

    def _put_back(self, works: list[Work]) -> None:
        """To the front of their lanes, the last one first."""
        for work in sorted(works, key=_number, reverse=True):
            self._lanes.put_back(work.lane, work, work.due)
            if self._care.watches and work is not self._stopped_at:
                self._care.put_back(work)

    def _outcome(self, done: Done) -> "_Next":
        work: Work = done.work
        work.due, work.event = 0.0, None
        if not work.alive():
            # Late: another member works it off again.
            self._lanes.release(work.lane, work)
            return _Next.GONE
        if not done.ran:
            return _Next.WAIT
        if done.error is None:
            self._sink_outage.end()
            self.totals.handled += 1
            self._lanes.release(work.lane, work)
            self._settle(work, None)
            return _Next.GONE
        return self._failed(work, done.error)

    def _failed(self, work: Work, error: BaseException) -> "_Next":
        failure = classify(error)
        if failure.kind is not FailureKind.UNAVAILABLE:
            failure = replace(failure, traceback=traceback_of(error))
        self.failures[failure.kind] += 1
        what = verdict(error, failure, self._bugs)
        if what is Verdict.GIVE_UP:
            self._give_up(work, failure)
            return _Next.GONE
        if what is Verdict.WAIT:
            self._outage(Unavailable(failure.message))
            return _Next.WAIT
        if what is Verdict.STOP and self._care.would_kill_again(work):
            self.failures[FailureKind.CRASH_LOOP] += 1
            self._give_up(work, crash_loop(work.tries + 1, failure))
            return _Next.GONE
        if what is Verdict.STOP:
            if self._broken is None:
                self._failure_log.bug(work.record, failure, work.stream.tier)
            self._broken, self._stopped_at = self._bug(error, work.record), work
            return _Next.WAIT
        work.here += 1
        now = self._clock()
        if work.first_failed_ms is None:
            work.first_failed_ms = self._now_ms()
        decision = self._policy.decide(work.stream.tier, work.attempts, self._jitter(), retry_after(error))
        if isinstance(decision, InPlace):
            work.due = now + decision.delay_s
            self._retried(work, failure, now, f"is tried again in {decision.delay_s:.1f} s")
            return _Next.WAIT
        if isinstance(decision, GiveUp):
            self._retried(work, failure, now, "was tried often enough")
            self.failures[FailureKind.RETRIES_EXHAUSTED] += 1
            self._give_up(work, exhausted(failure, work.attempts), keep_lane=True)
        else:
            self._retried(work, failure, now, f"goes to {self._topics[decision.tier]}")
            self._park(work, decision.tier, failure)
        return _Next.AWAY

    def _retried(self, work: Work, failure: Failure, now: float, then: str) -> None:
        self._counters["retries"] += not then.startswith("was")
        self._failure_log.retried(work.record, failure, work.stream.tier, then, now)

    def _bug(self, error: BaseException, record: Record) -> HandlerFailed:
        batch = "a batch from here on: " if self._handler.kind is Kind.BATCH else ""
        rest = "everything else is committed, "
        return bug(f"The handler {self._handler.name}", batch + record.where, error, stops="worker", rest=rest)

    # --- records out

    def _give_up(self, work: Work, failure: Failure, *, keep_lane: bool = False) -> None:
        """Write a dead letter. With `keep_lane` later records of the key wait until it is acknowledged.

        They need not where the failure is the data's: after a crash in between it would be given up again.
        """
        first = (work.its.first_failed_ms if work.its else None) or work.first_failed_ms
        schema_id = schema_id_or_none(work.record.value)
        letter = Letter(work.record, failure, self._worker, self._now_ms(), schema_id, first)
        work.away = keep_lane
        if not keep_lane:
            self._lanes.release(work.lane, work)

        def acknowledged(_: int) -> None:
            if keep_lane:
                self._lanes.release(work.lane, work)
            self.totals.dead_lettered += 1
            self._failure_log.dead(letter.record, failure, work.stream.tier)
            self._settle(work, failure)

        self._outbox.give_up(letter, acknowledged, work.alive)

    def _park(self, work: Work, tier: int, failure: Failure | None) -> None:
        """Send it to a retry topic; without a failure it only follows an earlier record of its key."""
        record, now_ms = work.record, self._now_ms()
        its = work.its or Journey(record.topic, record.partition, record.offset, record.timestamp_ms)
        if its.first_failed_ms is None:
            its = replace(its, first_failed_ms=work.first_failed_ms)
        due_ms = now_ms + int(self._policy.tiers[tier - 1] * 1000) if failure is not None else now_ms
        travelled = failed(its, failure, now_ms, due_ms, work.attempts)
        partition = work.stream.where.partition

        def acknowledged(offset: int) -> None:
            if self._keep_order:
                work.stream.shard.fence.park(tier, offset, record.key)
            if self._settle_all and self._until is not None:
                place = TopicPartition(self._topics[tier], partition)
                self._until[place] = max(self._until.get(place, 0), offset + 1)
            self._lanes.release(work.lane, work)
            self.totals.parked += 1
            self._settle(work, failure or _BEHIND)

        def too_large(_: TooLarge) -> bool:
            self.failures[FailureKind.RETRIES_EXHAUSTED] += 1
            self._give_up(work, unparkable(failure, self._topics[tier]), keep_lane=True)
            return True

        work.away = True
        headers = travelled.headers(record.headers)
        self._outbox.park(
            self._topics[tier], partition, record.key, record.value, headers, acknowledged, work.alive, too_large
        )

    def _settle_run(self, run: Run) -> None:
        """All of it was handled."""
        self._sink_outage.end()
        for stream, start, stop, size in run.parts:
            if stream.shard.closed:
                continue  # late: another member works it off again
            records = run.records[start:stop]
            stream.progress.done_run(map(offset_of, records))
            self._room.weigh(stream, -size)
            self.totals.handled += len(records)
            self.totals.consumed += len(records)
            self._commits.settled(len(records))
            self._look_at_crowd(stream)
            if self._seen is not None:
                for record in records:
                    self._seen(record, None)

    def _look_at_crowd(self, stream: Stream) -> None:
        if "crowded" in stream.holds and not stream.progress.crowded:
            self._partitions.free(self._source, [stream], "crowded")

    def _settle(self, work: Work, failure: Failure | None) -> None:
        stream = work.stream
        stream.progress.done(work.offset)
        if stream.tier:
            stream.shard.fence.settle(stream.tier, work.offset)
        self._room.weigh(stream, -work.size)
        self.totals.consumed += 1
        self._commits.settled(1)
        self._look_at_crowd(stream)
        if self._care.watches:
            self._care.settled(work)
        if self._seen is not None:
            self._seen(work.record, failure)

    # --- outages

    def _outage(self, outage: Unavailable) -> None:
        """Nothing is given to handlers for a while; what is in hand comes back by itself."""
        now = self._clock()
        if now >= self._not_before:
            self._not_before = now + self._sink_outage.delay(outage)

    def _warn_of_grace(self, pending: SchemaPending) -> None:
        now = self._clock()
        if self._warned_at is None or now - self._warned_at >= GRACE_SAID_EVERY_S:
            self._warned_at = now
            _log.warning("%s Its records wait; nothing is lost or skipped.", sentence(str(pending)))

    # --- commits

    def committed(self, error: PipelineError | None) -> None:
        """The broker's word on the commit that was asked for; called inside a poll."""
        self._commits.answered(error)

    def _count_committed(self, records: int) -> None:
        self.totals.committed += records
        if self._started_at is not None:
            self.totals.seconds = self._clock() - self._started_at

    # --- partitions that come and go

    def assigned(self, partitions: Collection[TopicPartition]) -> None:
        """Called inside a poll: they are opened in the next turn."""
        self._counters["assignments"] += 1
        self._partitions.came(partitions)
        self._open_at = 0.0

    def _open(self) -> None:
        if self._partitions.all_open or self._clock() < self._open_at:
            return
        try:
            opened = self._partitions.open_what_is_whole(self._source)
        except Unavailable as outage:
            self._open_at = self._clock() + self._broker_outage.delay(outage)
            return
        except MembershipLost:
            return  # the group tells by a callback what is ours
        self._care.opened(opened)
        self._room.opened(opened, self._source)
        self._source.resume([stream.where for stream in opened if not stream.holds])

    def displaced(self, partitions: Collection[TopicPartition]) -> None:
        """Called inside a poll: the broker's logs do not hold what comes next; they are looked at in the next turn."""
        self._partitions.displaced([where for where in partitions if where in self._partitions.open])

    def _reopen(self) -> None:
        """Go on where retention passed a position; open anew what is another log now, in the next turn."""
        if not self._partitions.any_displaced or self._clock() < self._open_at:
            return
        try:
            ending = self._partitions.to_reopen(self._source)
        except Unavailable as outage:
            self._open_at = self._clock() + self._broker_outage.delay(outage)
            return
        for stream, sure in ending:
            if not stream.shard.closed:
                self.given_up([stream.where], lost=False)
                self.assigned([stream.where])
                self._partitions.displaced([stream.where], surely=sure)

    def given_up(self, partitions: Collection[TopicPartition], lost: bool) -> None:
        """Called inside a poll: what is unsettled of these partitions is another member's from now on."""
        self._counters["revocations"] += 1
        streams = self._partitions.touched(partitions)
        if streams and not lost and not self._over:
            self._drain(streams)
        self._partitions.close(streams)
        self._partitions.went(partitions)
        self._room.leave(streams)
        self._straight.drop_closed()
        self._lanes.remove(lambda work: not work.alive())
        # What a hand has still keeps its lane, should the partition come back before it ends.
        for work in [work for work in self._lanes.taken if work.away and not work.alive()]:
            self._lanes.release(work.lane, work)
        # What is left of a shard waits for the rest of it to come back.
        self._source.pause([stream.where for stream in streams if stream.where not in partitions])

    def _drain(self, streams: Sequence[Stream]) -> None:
        """Let what is in hand of these end, within one deadline, and commit."""
        self._take_back(self._crew.recall())
        unsettled = self._end_what_is_in_hand(DRAIN_S, {stream.shard for stream in streams})
        self._commits.leave(streams, self._ends_clean(unsettled))

    def _end_what_is_in_hand(self, limit_s: float, shards: Collection[Any], *, deliver: bool = True) -> set[Any]:
        """Wait for it; the shards that had something in hand still when time was up."""
        deadline = self._clock() + limit_s
        # Without delivery nothing comes of what is away.
        while (left := self._shards_in_hand(away=deliver) & set(shards)) or (deliver and self._outbox):
            if self._clock() >= deadline:
                places = self._long_calls.places()
                _log.warning(
                    "handlers or dead letters did not finish within %g s: their records will be redelivered%s",
                    limit_s,
                    f" ({places})" if places else "",
                )
                break
            self._collect(BUSY_POLL_S)
            if deliver:
                self._outbox.serve()
            elif not left:
                break
        return left

    def _shards_in_hand(self, *, away: bool) -> set[Shard]:
        """Whose records are in hand, those in the outbox too if `away`."""
        shards = {work.stream.shard for work in self._lanes.taken if away or not work.away}
        return shards if self._in_hand is None else shards | {part.stream.shard for part in self._in_hand.parts}

    def _wind_down(self, *, deliver: bool = True) -> None:
        """Stop reading, let what is in hand end, commit, and wait for the broker's word, each within its time."""
        self._source.pause([stream.where for stream in self._partitions.open.values()])
        self._take_back(self._crew.recall())
        shards = {stream.shard for stream in self._partitions.open.values()}
        unsettled = self._end_what_is_in_hand(STOP_S, shards, deliver=deliver)
        self._commits.last(self._ends_clean(unsettled))
        if self._clean:
            self._raise_what_broke()

    def _ends_clean(self, unsettled: Collection[Shard]) -> Callable[[Stream], bool]:
        return lambda stream: self._clean and stream.shard not in unsettled

    # --- what is told of it

    def outcomes(self) -> dict[str, int]:
        """Settled records, by what became of them."""
        it = self.totals
        outcomes = {"handled": it.handled, "dead_lettered": it.dead_lettered, "parked": it.parked}
        return outcomes if it.passed_over is None else outcomes | {"passed_over": it.passed_over}

    def failures_by_kind(self) -> dict[str, int]:
        """Every failure so far, by its class; classes that did not occur count zero."""
        return {str(kind): self.failures[kind] for kind in FailureKind}

    def counters(self) -> dict[str, int]:
        """What happened so far beside records and failures."""
        commits = {"commits": self._commits.acknowledged, "commit_failures": self._commits.failed}
        return {**self._counters, **commits}

    def summary(self) -> dict[str, Any]:
        """What this run did, as the door prints it."""
        return self.totals.summary() | self._partitions.findings.summary()

    def findings(self) -> tuple[dict[str, int], int]:
        """Partitions by what was found of their positions, and how many records were deleted unread at most."""
        return self._partitions.findings.by_kind(), self._partitions.findings.missed

    def gauges(self) -> dict[str, float]:
        """How it stands now. Asked by another thread: each number is right for some moment."""
        shards = {stream.shard for stream in list(self._partitions.open.values())}
        return {
            "in_flight_records": self._unsettled,
            "parked_records": sum(len(shard.fence) for shard in shards),
            "recovery_mode": float(bool(self._care)),
            **ages(self._clock, last_poll=self._polled_at, last_commit=self._commits.last_at),
            "handlers_running": self._long_calls.running(),
            "oldest_in_flight_seconds": self._long_calls.oldest_s(),
        }

    def counts(self) -> tuple[int, str]:
        """How many were consumed, and what became of them, in words."""
        it = self.totals
        words = f"{it.handled} handled, {it.dead_lettered} dead letters, {it.committed} committed"
        words += f", {it.parked} in retry topics" if it.parked else ""
        words += "" if it.passed_over is None else f", {it.passed_over} of other types passed over"
        return it.consumed, words + self._partitions.findings.words()


class _Next(Enum):
    """What happens to a record after a look at it: it runs, waits in its lane, is on its way out, or is done with."""

    RUN = auto()
    WAIT = auto()
    AWAY = auto()
    GONE = auto()


_BLOCKS = frozenset({_Next.WAIT, _Next.AWAY})
_number = attrgetter("number")
