"""deadletters redrive: letters back to the group that gave them up, or to their source topic, each exactly once.

One transaction carries the republished records, a mark for each in the ledger, and the redrive group's offsets. The
transactional id belongs to the dead-letter topic, so a second redrive fences the first before it reads the ledger: no
letter is sent by both. See docs/decisions/0006-redriven-letters-are-kept-in-a-ledger.md.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, Protocol

from pipeline.core.ports import Decoder, InTransaction
from pipeline.core.record import Headers, Record, TopicPartition
from pipeline.core.redrive import PARKED, REDRIVEN, LetterId, Selection, Watermarks, letter_id, original
from pipeline.core.retry import Journey
from pipeline.errors import BrokerUnavailable, Fenced, RecordError, Refused, SchemaUnknown, TopicRefused
from pipeline.stages.letters import LetterReader, StoredLetter, marked

_PAUSE_S_MAX = 0.2
Patch = Callable[[str, bytes | None], bytes]


class Transactions(InTransaction, Protocol):
    """A transactional producer that holds the id of this dead-letter topic."""

    usable: bool

    def transaction(self) -> AbstractContextManager[None]: ...


@dataclass(slots=True)
class Totals:
    """What one redrive did; selected = redriven + parked + skipped, once it has ended by itself."""

    selected: int = 0
    redriven: int = 0
    skipped: int = 0
    parked: int = 0
    seconds: float = 0.0

    def summary(self) -> dict[str, Any]:
        """As the door prints it."""
        return asdict(self) | {"seconds": round(self.seconds, 3)}


@dataclass(frozen=True, slots=True)
class Plan:
    """Which letters are due at all, with their timestamps, and which of them are chosen."""

    due: dict[LetterId, int | None] = field(default_factory=dict)
    chosen: frozenset[LetterId] = frozenset()


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


class Redrive:
    """Redrives letters of one topic. `partitions` tells how many a topic has, None where it is not there.

    `take_over` gives the transactional producer, once every other redrive of the topic is fenced; `group` the metadata
    of the group whose offsets move. `patch` makes the new value of a source topic's record. `retry_topic` names the first
    retry topic of a source topic and a group, where no other group sees the record; without it letters go to the source.
    """

    def __init__(
        self,
        *,
        topic: str,
        ends: Mapping[int, int],
        reader: LetterReader,
        partitions: Callable[[str], int | None],
        take_over: Callable[[], Transactions],
        group: Callable[[], Any],
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        say: Callable[[str], None],
        retry_topic: Callable[[str, str], str | None] | None = None,
        patch: Patch | None = None,
        max_redrives: int = 3,
        batch: int = 100,
        rate: float | None = None,
    ) -> None:
        self._topic = topic
        self._ends = ends
        self._reader = reader
        self._partitions = cache(partitions)
        self._take_over = take_over
        self._group = group
        self._clock = clock
        self._sleep = sleep
        self._say = say
        self._retry_topic = retry_topic
        self._patch = patch
        self._max_redrives = max_redrives
        # A transaction never stays open to wait for its rate: at most a second's letters make one.
        self._batch = batch if rate is None else max(1, min(batch, int(rate)))
        self._rate = rate
        self.totals = Totals()

    def plan(self, selection: Selection, limit: int = 0) -> Plan:
        """Choose among the letters that are due; `Refused` where an id does not exist or the parking topic is missing.

        Nothing is written and no other redrive is disturbed. `limit` 0 is no limit.
        """
        due: dict[LetterId, int | None] = {}
        chosen: list[LetterId] = []
        missing = set(selection.ids)
        for letter in self._reader.letters():
            missing.discard(letter.id)
            if not letter.redriven:
                due[letter.id] = letter.record.timestamp_ms
            if not selection.matches(letter.id, letter.reason, letter.key, letter.envelope):
                continue
            if letter.redriven:
                if selection.ids:
                    self._say(f"{letter.id} was redriven already")
            elif not limit or len(chosen) < limit:
                chosen.append(letter.id)
                self._require_parking(letter)
                if self._patch is not None:
                    self._outgoing(letter)  # a schema that is not registered is refused now, not half-way
        if missing:
            raise Refused(
                f"There is no letter {', '.join(map(str, sorted(missing)))} in {self._topic}. Nothing was redriven. "
                "`deadletters list` names them."
            )
        self.totals.selected = len(chosen)
        return Plan(due, frozenset(chosen))

    def preview(self, plan: Plan) -> Iterator[tuple[StoredLetter, str, str]]:
        """Each chosen letter with what it would come to: a word to count by, and the reason. Nothing is written."""
        for letter in self._chosen(plan.chosen):
            outcome = self._outgoing(letter)
            if isinstance(outcome, str):
                yield letter, "skipped", outcome
            elif outcome.parked:
                yield letter, "parked", f"redriven {self._max_redrives} times already"
            else:
                yield letter, *_decoded(self._reader.originals(outcome.source), outcome)

    def run(self, plan: Plan, stopping: Callable[[], bool], tick: Callable[[], None]) -> Totals:
        """Redrive the plan's letters until they are done or `stopping()`; `skipped` counts those that were left.

        Raises `Fenced` when another redrive took over, `BrokerUnavailable` when the outcome of a batch is not known: in
        each case what was committed is in the ledger, and the next redrive goes on from there.
        """
        started = self._clock()
        try:
            self._run(plan, stopping, tick, started)
        except Fenced as error:
            done = self.totals.redriven + self.totals.parked
            raise Fenced(
                f"Another redrive of {self._topic} took over ({error}) The {done} letters that this one sent are done; "
                "the other one, or the next, goes on with the rest."
            ) from error
        finally:
            self.totals.seconds = self._clock() - started
        return self.totals

    def _run(self, plan: Plan, stopping: Callable[[], bool], tick: Callable[[], None], started: float) -> None:
        if not plan.chosen:
            return
        producer = self._take_over()
        # Only now: whoever was at it before has committed or is fenced.
        marks = self._reader.ledger()
        due = {letter for letter, written in plan.due.items() if not marked(marks, letter, written)}
        watermarks = Watermarks(self._ends, due)
        chosen = plan.chosen & due
        self.totals.selected = len(chosen)
        batch: list[Outgoing] = []
        for letter in self._chosen(chosen):
            if stopping():
                return
            outcome = self._outgoing(letter)
            if isinstance(outcome, str):
                self.totals.skipped += 1
                self._say(f"{letter.id} was left: {outcome}")
                continue
            batch.append(outcome)
            if len(batch) >= self._batch:
                self._send(producer, batch, watermarks)
                batch = []
                self._pace(started, stopping, tick)
        self._send(producer, batch, watermarks)
        it = self.totals
        gone = it.selected - it.redriven - it.parked - it.skipped
        if gone:
            it.skipped += gone
            self._say(f"{gone} letters were left: they left the topic meanwhile (expired or purged)")
        tick()

    def _send(self, producer: Transactions, batch: list[Outgoing], watermarks: Watermarks) -> None:
        if not batch:
            return
        if not producer.usable:
            raise BrokerUnavailable(
                f"The connection to the broker broke. {self.totals.redriven} letters are redriven for good; run it "
                "again to go on with the rest."
            )
        with producer.transaction():
            for each in batch:
                producer.publish(
                    each.topic,
                    each.key,
                    each.value,
                    headers=each.headers,
                    partition=each.partition,
                    timestamp_ms=each.timestamp_ms,
                )
                outcome = "parked" if each.parked else "redriven"
                mark = {"timestamp_ms": each.letter.record.timestamp_ms, "outcome": outcome}
                producer.publish(self._topic + REDRIVEN, str(each.letter.id).encode(), json.dumps(mark).encode())
            offsets = watermarks.after(each.letter.id for each in batch)
            producer.send_offsets(
                {TopicPartition(self._topic, partition): offset for partition, offset in offsets.items()}, self._group()
            )
        parked = sum(each.parked for each in batch)
        self.totals.parked += parked
        self.totals.redriven += len(batch) - parked

    def _chosen(self, chosen: frozenset[LetterId]) -> Iterator[StoredLetter]:
        # A selection without ids is one of everything.
        return self._reader.letters(Selection(ids=chosen)) if chosen else iter(())

    def _outgoing(self, letter: StoredLetter) -> Outgoing | str:
        """What is published for the letter, or why it has to be left."""
        if letter.envelope is None:
            return f"it cannot be read: {letter.error}"
        it = original(letter.envelope)
        record = letter.record
        if it.redrives >= self._max_redrives:
            parked = self._topic + PARKED
            partition = record.partition if record.partition < (self._partitions(parked) or 0) else None
            return Outgoing(
                letter,
                it.topic,
                parked,
                partition,
                record.key,
                record.value,
                record.headers,
                record.timestamp_ms,
                parked=True,
            )
        try:
            value = it.value if self._patch is None else self._patch(it.topic, it.value)
        except RecordError as error:
            return f"the patch does not fit: {error}"
        if self._retry_topic is not None:
            return self._to_group(letter, self._retry_topic, value)
        there = None if it.topic.startswith("__") else self._partitions(it.topic)
        if there is None:
            return f"its topic {it.topic} is not there"
        partition = it.partition if it.partition < there else None
        headers = it.counted()
        return Outgoing(letter, it.topic, it.topic, partition, it.key, value, headers, it.timestamp_ms, parked=False)

    def _to_group(
        self, letter: StoredLetter, retry_topic: Callable[[str, str], str | None], value: bytes | None
    ) -> Outgoing | str:
        """Into the group's own retry topic, as if it failed there for the first time and were due now."""
        assert letter.envelope is not None
        it, group = original(letter.envelope), letter.envelope["consumer_group"]
        topic = retry_topic(it.topic, group)
        if topic is None:
            return f"the group {group} has no retry topic for {it.topic}; --to-source sends it to all groups"
        if it.partition >= (self._partitions(topic) or 0):
            return f"{topic} has no partition {it.partition}; start a worker of {group}, which adds it"
        travelled = Journey(it.topic, it.partition, letter.envelope["source_offset"], it.timestamp_ms)
        headers = travelled.headers(it.counted())
        return Outgoing(letter, it.topic, topic, it.partition, it.key, value, headers, None, parked=False)

    def _require_parking(self, letter: StoredLetter) -> None:
        parked = self._topic + PARKED
        often = letter.envelope is not None and original(letter.envelope).redrives >= self._max_redrives
        if often and self._partitions(parked) is None:
            raise TopicRefused(
                f"Letter {letter.id} was redriven {self._max_redrives} times already and goes to {parked}, which is not "
                "there. Declare it in schemas/topics.toml and run make topics, or raise --max-redrives. "
                "Nothing was redriven."
            )

    def _pace(self, started: float, stopping: Callable[[], bool], tick: Callable[[], None]) -> None:
        tick()
        if self._rate is None:
            return
        due = started + (self.totals.redriven + self.totals.parked) / self._rate
        while (wait := due - self._clock()) > 0 and not stopping():
            self._sleep(min(wait, _PAUSE_S_MAX))
            tick()

    def counts(self) -> tuple[int, str]:
        """How many are done, and what became of them, in words."""
        it = self.totals
        return (
            it.redriven + it.parked + it.skipped,
            f"{it.redriven} redriven, {it.parked} parked, {it.skipped} left, of {it.selected}",
        )


def ledger(records: Iterable[Record]) -> dict[LetterId, int | None]:
    """What the ledger topic says: the letters that were redriven or parked, with the timestamp of each."""
    return {letter_id((each.key or b"").decode()): json.loads(each.value or b"{}")["timestamp_ms"] for each in records}


def _decoded(decoder: Decoder | None, outgoing: Outgoing) -> tuple[str, str]:
    if decoder is None:
        return "no_schema", f"there is no schema file for {outgoing.source}"
    try:
        decoder.decode(outgoing.value)
    except SchemaUnknown as error:
        return "schema_unknown", str(error)
    except RecordError as error:
        return "undecodable", str(error)
    return "decodes", f"as {outgoing.source} is read now"
