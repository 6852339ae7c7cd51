"""forward: `orders.v1` → transform → `orders.by-customer.v1`, exactly once for `read_committed` readers (promise P3).

One Kafka transaction carries what the transform gave, the dead letters, the records that go to a retry topic, and the
offsets of all that was read. Whatever goes wrong in it, it is aborted and every partition is read again from what was
committed. The order of a key is kept as in `consume`: a record whose key waits in a later retry topic follows it there.

One thread does all of it, record by record: a transform computes, it does not wait. One that is slow all the same is left
between two records, to commit, to poll, and to stop. Sources: KIP-98, KIP-447, librdkafka's
INTRODUCTION.md ("Transactional producer").
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from typing import Any, Protocol

from pipeline.core.dead_letter import Letter, Worker
from pipeline.core.failures import Failure, FailureKind, Verdict, classify, exhausted, retry_after, unparkable, verdict
from pipeline.core.ports import Decoder, Encoder, InTransaction, Listener, Log, Source
from pipeline.core.record import Keyed, Record, TopicPartition, place_of, value_of
from pipeline.core.retry import GiveUp, InPlace, Journey, RetryPolicy, failed, journey, original
from pipeline.core.timestamps import Window
from pipeline.core.visible import sentence
from pipeline.errors import (
    HandlerFailed,
    MembershipLost,
    PipelineError,
    ProducerFenced,
    Refused,
    TimestampRefused,
    TooLarge,
    Unavailable,
)
from pipeline.serde.wire import schema_id_or_none
from pipeline.stages.ages import ages
from pipeline.stages.back_off import BackOff
from pipeline.stages.bugs import LongCalls, beside, bug
from pipeline.stages.calls import Call
from pipeline.stages.failure_log import FailureLog
from pipeline.stages.misfits import LARGE_BYTES, Misfits
from pipeline.stages.other_events import OtherEvents
from pipeline.stages.partitions import Partitions, Stream
from pipeline.stages.places import Places
from pipeline.stages.returns import outputs
from pipeline.stages.stamps import Stamps
from pipeline.stages.tracebacks import traceback_of

POLL_RECORDS_MAX = 2_000
IDLE_POLL_S = 0.1
# A heartbeat (3 s) in which a consumer that was fenced hears of it.
FENCED_PAUSE_S = 4.0
# So long records are worked at a time before it is looked whether to commit or to stop; at least so long where a transaction
# is due, so that quick ones are not cut.
SLICE_S = 0.1
SLICE_MIN_S = 0.05
# What took longer is remembered while its transaction lasts. Where that is ended by the coordinator, for it took too long, each
# of these is worked on before the next one begins.
SLOW_S = 1.0
# By the decoder, or by what the transform needs: their tracebacks show nothing of its code.
_NOT_RAISED_BY_TRANSFORMS = frozenset(
    {FailureKind.UNDECODABLE, FailureKind.SCHEMA_UNKNOWN, FailureKind.INVALID, FailureKind.UNAVAILABLE}
)
_log = logging.getLogger(__name__)


class Transactions(InTransaction, Protocol):
    """A transactional producer; where `usable` is false it has to be made anew before the next transaction."""

    usable: bool

    def begin(self) -> None: ...

    def commit(self) -> None: ...

    def abort(self) -> bool: ...

    def close(self) -> None: ...


class Member(Source, Protocol):
    """A member of a group that can say, for each commit anew, which generation of it is."""

    def group_metadata(self) -> Any: ...


Transform = Callable[[Any, Record], Iterable[Keyed] | Keyed | None]


@dataclass(slots=True)
class Totals:
    """What one run did, as far as it is committed. `seconds` counts from the first record to the last commit.

    `passed_over` are the records of other event types, None where they are not passed over by choice.
    """

    consumed: int = 0
    forwarded: int = 0
    dead_lettered: int = 0
    transactions: int = 0
    aborted: int = 0
    seconds: float = 0.0
    passed_over: int | None = None

    def summary(self) -> dict[str, Any]:
        """As the door prints it."""
        it = asdict(self) | {"seconds": round(self.seconds, 3)}
        return {name: it[name] for name in it if it[name] is not None}


@dataclass(slots=True)
class _Slice:
    """How far the work is: it is left between two records (`cut`), and goes on with another partition (`first`).

    `since` is when the work on the first record of this transaction began, `slow` are its records that took long. `alone` are
    those that took a transaction beyond its time: before each of them the transaction `ends_before_the_next`. The first record
    that waits in the stream of `at` is worked on, since that second; a thread beside cuts it short when it is `until`.
    """

    at: tuple[Stream, float] | None = None
    since: float = 0.0
    until: float = 0.0
    cut: bool = False
    first: int = 0
    ends_before_the_next: bool = False
    slow: set[tuple[TopicPartition, int]] = field(default_factory=set)
    alone: set[tuple[TopicPartition, int]] = field(default_factory=set)


class Forward:
    """One instance of a forwarder. `run` is the stage.

    `topics` are the source and then the retry topics of `policy.tiers`. `encoder` gives the encoder of an output topic.
    `connect` gives the transactional producer once whoever held its id is fenced. `event` makes the transform's event of a
    datum. A transaction ends after `batch` records or `interval_s` seconds, whichever comes first. With `settle` it does not end
    at `until` before what went to retry topics meanwhile is settled too. `bugs` is what becomes of a record
    whose transform has a bug.
    """

    def __init__(  # noqa: PLR0915  # one name for each thing that it holds
        self,
        *,
        source: Callable[[Listener], Member],
        log: Log,
        connect: Callable[[], Transactions],
        topics: Sequence[str],
        output: str,
        dead_letters: str,
        decoder: Decoder,
        event: Callable[[dict[str, Any]], Any],
        transform: Transform,
        encoder: Callable[[str], Encoder],
        envelope: Encoder,
        worker: Worker,
        policy: RetryPolicy,
        clock: Callable[[], float],
        now_ms: Callable[[], int],
        jitter: Callable[[], float],
        window: Callable[[str], Window] = lambda _: Window(),
        keep_order: bool = True,
        only: bool = False,
        batch: int = 10_000,
        interval_s: float = 0.1,
        bugs: Verdict = Verdict.STOP,
        until: Mapping[TopicPartition, int] | None = None,
        settle: bool = False,
        provide: Callable[[], int] | None = None,
        provided: int = 0,
        pause_at: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._connect = connect
        self._topics = topics
        self._output = output
        self._dead_letters = dead_letters
        self._decoder = decoder
        self._event = event
        self._transform = transform
        self._encoder = encoder
        self._encodes: dict[str, Callable[[Mapping[str, Any]], bytes]] = {}
        self._envelope = envelope
        self._worker = worker
        self._policy = policy
        self._clock = clock
        self._now_ms = now_ms
        self._jitter = jitter
        self._keep_order = keep_order
        self._batch = batch
        self._interval_s = interval_s
        self._bugs = bugs
        self._until = None if until is None else dict(until)
        self._settle_all = settle
        self._pause_at = pause_at
        self._places = Places(topics[0], log)
        # A loop without an end, or letters that nobody can read.
        self._no_outputs = {*topics, dead_letters}
        self._partitions = Partitions(
            topics, log, clock, together=keep_order, until=self._until, provide=provide, provided=provided
        )
        self._tries: dict[tuple[TopicPartition, int], int] = {}
        self._first_failed: dict[tuple[TopicPartition, int], int] = {}
        self._stamps = Stamps(window, now_ms)
        self._misfits = Misfits()
        self._producer: Transactions | None = None
        self._begun_at: float | None = None
        self._slice = _Slice()
        self._broken: HandlerFailed | None = None
        self._long_calls = LongCalls("The transform", self._calls, clock, None)
        self._moved: set[TopicPartition] = set()
        self._in_transaction = Totals()
        self._provisional = 0
        self._not_before = self._open_at = 0.0
        self._outage = BackOff(clock)
        self._started_at: float | None = None
        self._over = False
        self._failure_log = FailureLog(clock)
        self._polled_at: float | None = None
        self._committed_at: float | None = None
        self._counters = Counter({"retries": 0, "assignments": 0, "revocations": 0})
        # Dead letters of the transaction: they are said once it is committed.
        self._dead: list[tuple[Record, Failure, int]] = []
        self.failures: Counter[FailureKind] = Counter()
        self.renewed = 0
        self._others = OtherEvents(only=only)
        self.totals = Totals(passed_over=0 if only else None)
        self._source = source(self)

    def run(self, stopping: Callable[[], bool], tick: Callable[[], None] = lambda: None) -> Totals:
        """Forward, with a `tick` after every turn, until `stopping()` or the end in `until`; the last transaction is ended.

        Raises `HandlerFailed` (a bug in the transform), `DeliveryFailed` (an output or a letter refused for good), `Fenced` (a
        live twin), `NotTogether`, authorisation errors. An environment that is down is waited for without end.
        """
        try:
            with beside(self.look):
                while not stopping():
                    self._turn()
                    tick()
                    if self._at_the_end():
                        break
                self._attempt(self._end_transaction)
        except PipelineError:
            self._abort()
            raise
        finally:
            self._over = True
            self._failure_log.summarize()
            if self._producer is not None:
                self._producer.close()
        return self.totals

    def _turn(self) -> None:
        left = 1 if self._slice.cut else self._batch - self._in_transaction.consumed
        records = self._source.poll(max(1, min(left, POLL_RECORDS_MAX)), self._patience())
        if records and self._started_at is None:
            self._started_at = self._clock()
        self._accept(records)
        self._attempt(self._open)
        self._attempt(self._reopen)
        self._polled_at = self._clock()
        self._partitions.look_for_topics_made_anew(self._polled_at)
        if self._polled_at >= self._not_before:
            self._attempt(self._work)
        if self._broken is not None:
            # What came before it is forwarded.
            self._attempt(self._end_transaction)
            raise self._broken
        if (
            not records
            and not self._waiting()
            and self._partitions.reached(self._source.positions() or {}, self._until)
        ):
            # Markers of transactions take offsets too; without this, lag would never be zero.
            self._moved |= {stream.where for stream in self._partitions.open.values()}
        if self._is_due():
            self._attempt(self._end_transaction)
        self._failure_log.serve()

    def _attempt(self, step: Callable[[], None]) -> None:
        """Do it; where that fails in a way that passes, abort and read again from what was committed."""
        try:
            step()
        except ProducerFenced as error:
            # A live twin fences the consumer too, which tells within a heartbeat and ends this one. The producer alone: its
            # transaction was ended by the coordinator after its time-out.
            self._not_before = self._open_at = self._clock() + FENCED_PAUSE_S
            _log.warning("%s A new producer goes on from what was committed.", sentence(str(error)))
            self._slice.alone |= self._slice.slow
            self._abort()
        except Unavailable as outage:
            self._not_before = self._open_at = self._clock() + self._outage.delay(outage)
            self._abort()
        except TooLarge as error:
            if not self._misfits.learned():
                raise
            _log.warning(
                "%s It is given up, or its dead letter goes without its value; the others are forwarded.", error
            )
            self._abort()
        except TimestampRefused as error:
            if not self._stamps.refuses(error.topic):
                raise
            _log.warning("%s From now on %s gets the present time.", error, error.topic)
            self._abort()
        except MembershipLost as error:
            _log.warning("%s Another member forwards these records.", sentence(str(error)))
            self._abort()

    def _waiting(self) -> bool:
        return any(stream.waiting for stream in self._partitions.open.values())

    def _patience(self) -> float:
        if self._slice.cut:
            return 0.0
        if self._begun_at is not None:
            return max(0.0, min(IDLE_POLL_S, self._slice.since + self._interval_s - self._clock()))
        dues = [s.due - self._clock() for s in self._partitions.open.values() if s.waiting and s.due is not None]
        return max(0.0, min([IDLE_POLL_S, *dues]))

    def _is_due(self) -> bool:
        if self._begun_at is None:
            # Only offsets moved, over markers or records without an output: committed when nothing else is to do.
            return bool(self._moved)
        it = self._in_transaction
        return (
            it.consumed >= self._batch
            or self._slice.ends_before_the_next
            or self._clock() - self._slice.since >= self._interval_s
        )

    def _at_the_end(self) -> bool:
        if self._until is None or self._waiting() or self._begun_at is not None or self._moved:
            return False
        if self._partitions.any_displaced:
            return False
        positions = self._source.positions()
        if positions is None or not self._partitions.all_open:
            return False
        if self._settle_all and any(len(stream.shard.fence) for stream in self._partitions.open.values()):
            return False  # parked by a member that had the partition before
        return all(position >= self._until.get(where, 0) for where, position in positions.items())

    # --- records

    def _accept(self, records: Sequence[Record]) -> None:
        """Line them up, partition by partition; what is not ours, or lies beyond the end, is passed over."""
        for place, run in groupby(records, place_of):
            stream = self._partitions.open.get(place)
            if stream is None:
                continue
            news = list(run)
            if news[0].offset < stream.read:
                # Nobody rewound it: whether this is the same log is looked at before anything of it is forwarded.
                self._partitions.displaced([stream.where], surely=False)
                continue
            stream.waiting.extend(news)
            bounded = self._until is not None and not (self._settle_all and stream.tier)
            if (
                bounded
                and self._until is not None
                and stream.waiting[-1].offset >= (end := self._until.get(stream.where, 0))
            ):
                while stream.waiting and stream.waiting[-1].offset >= end:
                    stream.waiting.pop()
                self._partitions.hold(self._source, [stream], "the end")

    def _work(self) -> None:
        """Forward what waits and is due; each partition in its order, until the time of a slice is over."""
        self._stamps.moved_on()
        now = self._clock()
        if self._begun_at is None:
            self._slice.since = now
        self._slice.cut = False
        self._slice.until = min(now + SLICE_S, max(now + SLICE_MIN_S, self._slice.since + self._interval_s))
        streams = list(self._partitions.open.values())
        first = self._slice.first % len(streams) if streams else 0
        for number, stream in enumerate(streams[first:] + streams[:first]):
            self._slice.at = stream, now
            try:
                self._work_on(stream)
            finally:
                self._slice.at = None
            if self._slice.cut or self._broken is not None:
                self._slice.first = first + number + 1
                return

    def _work_on(self, stream: Stream) -> None:
        waiting, its = stream.waiting, self._slice
        # Those of a retry topic wait for their time, one by one.
        ahead = iter(()) if stream.tier else self._decoder.decode_run(list(map(value_of, waiting)))
        done, reached, read = 0, 0, None
        try:
            while waiting:
                read = waiting[0]
                if its.alone and self._begun_at is not None and (stream.where, read.offset) in its.alone:
                    its.cut = its.ends_before_the_next = True
                    break
                # Of the source nothing waits, unless it failed.
                if (stream.tier or stream.due is not None) and not self._due(stream, read):
                    break
                try:
                    datum = next(ahead, None)
                except BaseException:  # noqa: BLE001  # a closer look tells why; what it would give next is another record's
                    datum, ahead = None, iter(())
                self._forward(stream, read, datum)
                if stream.due is not None:
                    break
                waiting.popleft()
                done, reached = done + 1, read.offset + 1
                if its.cut:
                    break
        finally:
            self._left(stream, done, reached, read)

    def _left(self, stream: Stream, done: int, reached: int, last: Record | None) -> None:
        """The work on it is over for now, or failed: so many are done, up to there; `last` is the one that was begun last."""
        if done:
            stream.progress.reached(reached)
            self._moved.add(stream.where)
            self._in_transaction.consumed += done
        if self._slice.cut:
            # All that came before it took no longer than the slice.
            if last is not None and self._clock() - self._slice.until > SLOW_S:
                self._slice.slow.add((stream.where, last.offset))
            return
        if stream.waiting:
            self._partitions.hold(self._source, [stream], "not due")
        else:
            self._partitions.free(self._source, [stream], "not due")

    def look(self) -> None:
        """Called by a thread beside, now and then: whether the work has to be left after this record, or goes on for long."""
        if self._slice.at is not None and self._clock() >= self._slice.until:
            self._slice.cut = True
        self._long_calls.look()

    def _calls(self) -> list[Call]:
        """The call of the transform that goes on, as another thread sees it."""
        at = self._slice.at
        try:
            return [] if at is None else [Call(at[0].waiting[0], 1, at[1])]
        except IndexError:  # it ended meanwhile
            return []

    def _due(self, stream: Stream, read: Record) -> bool:
        now = self._clock()
        if stream.due is None and stream.tier and (stream.where, read.offset) not in self._tries:
            # By the wall clocks of two machines, but never longer than the tier's own delay.
            left = max(0.0, (journey(read).due_ms - self._now_ms()) / 1000)
            stream.due = now + min(left, self._policy.tiers[stream.tier - 1])
        if stream.due is not None and stream.due > now:
            return False
        stream.due = None
        return True

    def _forward(self, stream: Stream, read: Record, datum: dict[str, Any] | None) -> None:
        """Into the transaction: outputs, a letter, or the record itself for a retry topic. `stream.due` set: try it again.

        `datum` is what was decoded together with others already.
        """
        record, its = read, None
        if stream.tier:
            its = self._places.journey(read)
            record = original(read, its)
        if self._tries and (tries := self._tries.get((stream.where, read.offset), 0)):
            record = record._replace(attempt=record.attempt + tries)
        fence = stream.shard.fence
        if fence and (tier := fence.tier_after(stream.tier, record.key)) is not None:
            self._park(stream, read, record, its, tier, None)
            return
        try:
            given = self._outputs(record, self._decoder.decode(record.value) if datum is None else datum)
        except BaseException as error:  # noqa: BLE001  # its class decides
            self._failed(stream, read, record, its, error)
            return
        if self._misfits and (misfit := self._misfits.outputs.get((stream.where, read.offset))):
            self.failures[misfit.kind] += 1
            self._give_up(stream, read, record, its, misfit)
            return
        publish = self._begun().publish
        self._pause_at("publish")
        written = record.timestamp_ms
        for topic, key, value in given:
            first, last = self._stamps.span(topic)
            if len(value) <= LARGE_BYTES and (written is None or first <= written <= last):
                publish(topic, key, value, headers=record.headers, timestamp_ms=written)
            else:
                stamp, headers = self._stamps.fitting(topic, written, record.headers)
                refused = self._misfits.output((stream.where, read.offset), topic)
                publish(topic, key, value, headers=headers, timestamp_ms=stamp, on_refused=refused)
        self._in_transaction.forwarded += len(given)
        self._settled(stream, read)

    def _outputs(self, record: Record, datum: dict[str, Any]) -> list[tuple[str, bytes, bytes]]:
        """All of it, before any of it is published: whatever fails on the way, nothing partial goes out."""
        given = self._transform(self._event(datum), record)
        if given is None:
            return []
        # What most transforms give, as long as all is well with it; else the longer way tells what is not.
        if type(given) is Keyed and (encode := self._encodes.get(self._output)) is not None:
            key, value, topic = given
            if topic is None and type(key) is str and type(value) is dict:
                try:
                    return [(self._output, key.encode(), encode(value))]
                except Exception:  # noqa: BLE001, S110
                    pass
        return [
            (topic or self._output, key, self._encoded(topic or self._output, value))
            for topic, key, value in outputs(given)
        ]

    def _encoded(self, topic: str, value: Mapping[str, Any]) -> bytes:
        encode = self._encodes.get(topic) or self._encode_for(topic)
        try:
            return encode(value)
        except Exception as error:
            # Not the record's fault: the transform promised what the schema of its output says.
            raise TypeError(f"what it gave does not fit {topic}: {classify(error).message}") from error

    def _encode_for(self, topic: str) -> Callable[[Mapping[str, Any]], bytes]:
        if topic in self._no_outputs:
            raise TypeError(f"it gave a record for {topic}, which is read here, or holds the dead letters")
        try:
            encode = self._encodes[topic] = self._encoder(topic).encode
        except Refused as error:
            raise TypeError(f"it gave a record for {topic}: {error}") from error
        return encode

    def _failed(self, stream: Stream, read: Record, record: Record, its: Journey | None, error: BaseException) -> None:
        failure = classify(error)
        if self._others.passes_over(error):
            self._in_transaction.passed_over = (self._in_transaction.passed_over or 0) + 1
            self._settled(stream, read)
            return
        if failure.kind not in _NOT_RAISED_BY_TRANSFORMS:
            failure = replace(failure, traceback=traceback_of(error))
        self.failures[failure.kind] += 1
        what = verdict(error, failure, self._bugs)
        if what is Verdict.GIVE_UP:
            self._give_up(stream, read, record, its, failure)
            return
        if what is Verdict.WAIT:
            # Only this partition waits, and no attempt is counted: what was read before it is committed meanwhile.
            stream.due = self._clock() + self._outage.delay(Unavailable(failure.message))
            return
        if what is Verdict.STOP:
            self._failure_log.bug(record, failure, stream.tier)
            stream.due = self._clock()
            self._broken = bug(
                "The transform", record.where, error, stops="forwarder", rest="what came before it is forwarded, "
            )
            return
        tries = self._tries.get((stream.where, read.offset), 0) + 1
        attempts = tries + (its.attempts if its else 0)
        now = self._clock()
        self._first_failed.setdefault((stream.where, read.offset), self._now_ms())
        decision = self._policy.decide(stream.tier, attempts, self._jitter(), retry_after(error))
        if isinstance(decision, InPlace):
            # The partition waits with it: one thread, one transaction, contiguous offsets.
            self._tries[stream.where, read.offset] = tries
            stream.due = now + decision.delay_s
            self._counters["retries"] += 1
            self._failure_log.retried(record, failure, stream.tier, f"is tried again in {decision.delay_s:.1f} s", now)
        elif isinstance(decision, GiveUp):
            self._failure_log.retried(record, failure, stream.tier, "was tried often enough", now)
            self.failures[FailureKind.RETRIES_EXHAUSTED] += 1
            self._give_up(stream, read, record, its, exhausted(failure, attempts))
        else:
            self._counters["retries"] += 1
            self._failure_log.retried(record, failure, stream.tier, f"goes to {self._topics[decision.tier]}", now)
            self._park(stream, read, record, its, decision.tier, failure)

    def _give_up(self, stream: Stream, read: Record, record: Record, its: Journey | None, failure: Failure) -> None:
        attempts = self._tries.get((stream.where, read.offset), 0) + (its.attempts if its else 0) + 1
        place = (stream.where, read.offset)
        first = (its.first_failed_ms if its else None) or self._first_failed.get(place)
        letter = Letter(
            record._replace(attempt=attempts),
            failure,
            self._worker,
            self._now_ms(),
            schema_id_or_none(record.value),
            first,
        )
        letter, refused = self._misfits.letter(place, letter)
        self._begun().publish(
            self._dead_letters,
            letter.record.key,
            self._envelope.encode(letter.envelope()),
            headers=letter.headers(),
            partition=record.partition,
            on_refused=refused,
        )
        self._in_transaction.dead_lettered += 1
        self._dead.append((letter.record, failure, stream.tier))
        self._settled(stream, read)

    def _park(
        self, stream: Stream, read: Record, record: Record, its: Journey | None, tier: int, failure: Failure | None
    ) -> None:
        read_at = (stream.where, read.offset)
        if self._misfits and read_at in self._misfits.parks:
            self.failures[FailureKind.RETRIES_EXHAUSTED] += 1
            self._give_up(stream, read, record, its, unparkable(failure, self._topics[tier]))
            return
        producer = self._begun()
        it = its or Journey(record.topic, record.partition, record.offset, record.timestamp_ms)
        now_ms = self._now_ms()
        due_ms = now_ms + int(self._policy.tiers[tier - 1] * 1000) if failure is not None else now_ms
        tries = self._tries.get((stream.where, read.offset), 0)
        attempts = it.attempts + tries + (failure is not None)
        if it.first_failed_ms is None:
            it = replace(it, first_failed_ms=self._first_failed.get(read_at))
        headers = failed(it, failure, now_ms, due_ms, attempts).headers(record.headers)
        fence = stream.shard.fence
        # Known by a number of its own until the broker says where it lies.
        self._provisional -= 1
        place = self._provisional
        if self._keep_order:
            fence.park(tier, place, record.key)

        def lies(offset: int) -> None:
            fence.settle(tier, place)
            if self._keep_order:
                fence.park(tier, offset, record.key)
            if self._settle_all and self._until is not None:
                parked = TopicPartition(self._topics[tier], stream.where.partition)
                self._until[parked] = max(self._until.get(parked, 0), offset + 1)

        producer.publish(
            self._topics[tier],
            record.key,
            record.value,
            headers=headers,
            partition=stream.where.partition,
            on_offset=lies,
            on_refused=self._misfits.park(read_at),
        )
        self._settled(stream, read)

    def _settled(self, stream: Stream, read: Record) -> None:
        if self._tries or self._first_failed:
            self._tries.pop((stream.where, read.offset), None)
            self._first_failed.pop((stream.where, read.offset), None)
        if stream.tier:
            stream.shard.fence.settle(stream.tier, read.offset)

    # --- transactions

    def _begun(self) -> Transactions:
        """The producer, in a transaction."""
        if self._begun_at is None:
            producer = self._usable_producer()
            self._pause_at("begin")
            producer.begin()
            self._begun_at = self._clock()
        assert self._producer is not None
        return self._producer

    def _usable_producer(self) -> Transactions:
        """The one there is, or a new one: then whatever the id has left open is ended, by an epoch of its own."""
        if self._producer is not None and not self._producer.usable:
            self._producer.close()
            self._producer = None
            self.renewed += 1
        if self._producer is None:
            self._producer = self._connect()
        return self._producer

    def _end_transaction(self) -> None:
        """Commit what was forwarded with the offsets of partitions that are ours now; nothing open is no matter."""
        commits = {
            where: self._partitions.open[where].commit(clean=True)
            for where in self._moved
            if where in self._partitions.open
        }
        if not commits and self._begun_at is None:
            self._moved.clear()
            return
        producer = self._begun()
        self._pause_at("send-offsets")
        offsets = {where: commit.offset for where, commit in commits.items()}
        notes = {where: commit.metadata for where, commit in commits.items()}
        producer.send_offsets(offsets, self._source.group_metadata(), notes)
        self._pause_at("commit")
        producer.commit()
        self._pause_at("committed")
        self._begun_at = None
        self._moved.clear()
        self._misfits.committed()
        self._outage.end()
        done, self._in_transaction = self._in_transaction, Totals()
        self._slice.alone -= self._slice.slow
        self._slice.slow.clear()
        self._slice.ends_before_the_next = False
        it = self.totals
        it.consumed += done.consumed
        it.forwarded += done.forwarded
        it.dead_lettered += done.dead_lettered
        if it.passed_over is not None:
            it.passed_over += done.passed_over or 0
        it.transactions += 1
        self._committed_at = self._clock()
        for record, failure, tier in self._dead:
            self._failure_log.dead(record, failure, tier)
        self._dead.clear()
        if self._started_at is not None and done.consumed:
            it.seconds = self._clock() - self._started_at

    def _abort(self) -> None:
        """End the transaction without effect, and read everything that is ours again from what was committed."""
        if self._begun_at is not None:
            assert self._producer is not None
            self._producer.abort()
            self._begun_at = None
            self.totals.aborted += 1
        self._in_transaction = Totals()
        self._dead.clear()
        self._slice.slow.clear()
        self._slice.cut = self._slice.ends_before_the_next = False
        self._moved.clear()
        streams = list(self._partitions.open.values())
        self._source.pause([stream.where for stream in streams])
        self._partitions.close(streams)

    # --- partitions that come and go

    def assigned(self, partitions: Collection[TopicPartition]) -> None:
        """Called inside a poll: they are opened in the next turn."""
        self._counters["assignments"] += 1
        self._partitions.came(partitions)
        self._open_at = 0.0

    def committed(self, error: PipelineError | None) -> None:
        """Never called: offsets are committed with transactions alone."""
        raise AssertionError(error)

    def _open(self) -> None:
        if self._partitions.all_open or self._clock() < self._open_at:
            return
        # First of all: the offsets of a transaction that the last holder of the id left open are not to be had before.
        self._usable_producer()
        opened = self._partitions.open_what_is_whole(self._source, mark=False)
        self._source.resume([stream.where for stream in opened])

    def displaced(self, partitions: Collection[TopicPartition]) -> None:
        """Called inside a poll: the broker's logs do not hold what comes next; they are looked at in the next turn."""
        self._partitions.displaced([where for where in partitions if where in self._partitions.open])

    def _reopen(self) -> None:
        """Go on where retention passed a position; open anew what is another log now, in the next turn."""
        if not self._partitions.any_displaced or self._clock() < self._open_at:
            return
        for stream, sure in self._partitions.to_reopen(self._source):
            if not stream.shard.closed:
                self.given_up([stream.where], lost=False)
                self.assigned([stream.where])
                self._partitions.displaced([stream.where], surely=sure)

    def given_up(self, partitions: Collection[TopicPartition], lost: bool) -> None:
        """Called inside a poll: the whole transaction is ended before anything goes; aborted when it went already."""
        self._counters["revocations"] += 1
        streams = self._partitions.touched(partitions)
        if not self._over:
            if lost:
                self._abort()
            else:
                try:
                    self._end_transaction()
                except PipelineError as error:
                    _log.warning("%s What it held is forwarded again by the next owner.", sentence(str(error)))
                    self._abort()
        self._partitions.close(streams)
        self._partitions.went(partitions)
        self._source.pause([stream.where for stream in streams if stream.where not in partitions])

    def outcomes(self) -> dict[str, int]:
        """Records by what became of them, as far as it is committed; producers made anew; transactions."""
        it = self.totals
        passed_over = {} if it.passed_over is None else {"passed_over": it.passed_over}
        return passed_over | {
            "forwarded": it.forwarded,
            "dead_lettered": it.dead_lettered,
            "transactions": it.transactions,
            "aborted": it.aborted,
            "renewed": self.renewed,
        }

    def failures_by_kind(self) -> dict[str, int]:
        """Every failure so far, by its class; classes that did not occur count zero."""
        return {str(kind): self.failures[kind] for kind in FailureKind}

    def counters(self) -> dict[str, int]:
        """What happened so far beside records and failures."""
        commits = {"commits": self.totals.transactions, "commit_failures": self.totals.aborted}
        return {**self._counters, **commits}

    def summary(self) -> dict[str, Any]:
        """What this run did, as the door prints it."""
        return self.totals.summary() | self._partitions.findings.summary()

    def findings(self) -> tuple[dict[str, int], int]:
        """Partitions by what was found of their positions, and how many records were deleted unread at most."""
        return self._partitions.findings.by_kind(), self._partitions.findings.missed

    def gauges(self) -> dict[str, float]:
        """How it stands now."""
        streams = list(self._partitions.open.values())
        return {
            "in_flight_records": sum(len(stream.waiting) for stream in streams),
            "parked_records": sum(len(shard.fence) for shard in {stream.shard for stream in streams}),
            **ages(self._clock, last_poll=self._polled_at, last_commit=self._committed_at),
            "handlers_running": self._long_calls.running(),
            "oldest_in_flight_seconds": self._long_calls.oldest_s(),
        }

    def counts(self) -> tuple[int, str]:
        """How many were consumed, and what became of them, in words."""
        it = self.totals
        words = f"{it.forwarded} forwarded, {it.dead_lettered} dead letters, {it.transactions} transactions"
        words += f", {it.aborted} aborted" if it.aborted else ""
        words += "" if it.passed_over is None else f", {it.passed_over} of other types passed over"
        return it.consumed, words + self._partitions.findings.words()
