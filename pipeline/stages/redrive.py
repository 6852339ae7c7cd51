"""deadletters redrive: letters back to the group that gave them up, or to their source topic, each exactly once.

One transaction carries the republished records, a mark for each in the ledger, and the redrive group's offsets. The
transactional id belongs to the dead-letter topic, so a second redrive fences the first before it reads the ledger: no
letter is sent by both. See docs/decisions/0006-redriven-letters-are-kept-in-a-ledger.md.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple, Protocol

from pipeline.core.ports import Decoder, InTransaction
from pipeline.core.record import Record, TopicPartition
from pipeline.core.redrive import (
    REDRIVEN,
    LetterId,
    Mark,
    Selection,
    Watermarks,
    mark_of,
)
from pipeline.errors import (
    BrokerUnavailable,
    Fenced,
    RecordError,
    Refused,
    SchemaUnknown,
    TimestampRefused,
    TooLarge,
    TopicRefused,
)
from pipeline.stages.letters import Ledger, LetterReader, StoredLetter, marked
from pipeline.stages.outgoing import Addressing, Outgoing

_PAUSE_S_MAX = 0.2
# Letters left for the same reason that are named one by one; the rest is counted.
_NAMED_MAX = 20


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


class Outlook(NamedTuple):
    """What would become of a letter: a word to count by, the reason, and the topic it would go to."""

    letter: StoredLetter
    outcome: str
    why: str
    to: str | None


class Redrive:
    """Redrives letters of one topic. `addressing` says what is published of each, and where.

    `take_over` gives the transactional producer, once every other redrive of the topic is fenced; `group` the metadata
    of the group whose offsets move.
    """

    def __init__(
        self,
        *,
        topic: str,
        ends: Mapping[int, int],
        reader: LetterReader,
        addressing: Addressing,
        take_over: Callable[[], Transactions],
        group: Callable[[], Any],
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        say: Callable[[str], None],
        batch: int = 100,
        rate: float | None = None,
    ) -> None:
        self._topic = topic
        self._ends = ends
        self._reader = reader
        self._addressing = addressing
        self._take_over = take_over
        self._group = group
        self._clock = clock
        self._sleep = sleep
        self._say = say
        # A transaction never stays open to wait for its rate: at most a second's letters make one.
        self._batch = batch if rate is None else max(1, min(batch, int(rate)))
        self._rate = rate
        self._marks: Ledger = {}
        self._left: Counter[str] = Counter()
        self.totals = Totals()

    def plan(self, selection: Selection, limit: int = 0) -> Plan:
        """Choose among the letters that are due; `Refused` where an id does not exist or the parking topic is missing.

        Nothing is written and no other redrive is disturbed. `limit` 0 is no limit.
        """
        due: dict[LetterId, int | None] = {}
        chosen: list[LetterId] = []
        missing = set(selection.ids)
        self._marks = self._reader.ledger()
        for letter in replace(self._reader, ledger=lambda: self._marks).letters():
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
                # A schema that is not registered is refused now, not half-way.
                self._require_parking(self._addressing.of(letter, self._marks))
        if missing:
            raise Refused(
                f"There is no letter {', '.join(map(str, sorted(missing)))} in {self._topic}. Nothing was redriven. "
                "`deadletters list` names them."
            )
        self.totals.selected = len(chosen)
        return Plan(due, frozenset(chosen))

    def preview(self, plan: Plan) -> Iterator[Outlook]:
        """Each chosen letter with what would become of it. Nothing is written."""
        for letter in self._chosen(plan.chosen):
            outcome = self._addressing.of(letter, self._marks)
            if isinstance(outcome, str):
                yield Outlook(letter, "skipped", outcome, None)
            elif outcome.parked:
                yield Outlook(
                    letter, "parked", f"redriven {self._addressing.max_redrives} times already", outcome.topic
                )
            else:
                yield Outlook(letter, *_decoded(self._reader.originals(outcome.source), outcome), outcome.topic)

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
        self._marks = self._reader.ledger()
        due = {letter for letter, written in plan.due.items() if not marked(self._marks, letter, written)}
        watermarks = Watermarks(self._ends, due)
        chosen = plan.chosen & due
        self.totals.selected = len(chosen)
        batch: list[Outgoing] = []
        for letter in self._chosen(chosen):
            if stopping():
                return
            outcome = self._addressing.of(letter, self._marks)
            if isinstance(outcome, str):
                self._leave(letter, outcome)
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
        for reason, count in self._left.items():
            if count > _NAMED_MAX:
                self._say(f"{count - _NAMED_MAX} more letters were left: {reason}")
        tick()

    def _leave(self, letter: StoredLetter, reason: str) -> None:
        self.totals.skipped += 1
        self._left[reason] += 1
        if self._left[reason] <= _NAMED_MAX:
            self._say(f"{letter.id} was left: {reason}")

    def _send(self, producer: Transactions, batch: list[Outgoing], watermarks: Watermarks) -> None:
        if not batch:
            return
        if not producer.usable:
            raise BrokerUnavailable(
                f"The connection to the broker broke. {self.totals.redriven} letters are redriven for good; run it "
                "again to go on with the rest."
            )
        try:
            self._commit(producer, batch, watermarks)
        except TimestampRefused as error:
            if not self._addressing.stamps.refuses(error.topic):
                raise
            again = [self._addressing.of(each.letter, self._marks) for each in batch]
            self._send(producer, [each for each in again if isinstance(each, Outgoing)], watermarks)
            return
        except TooLarge as error:
            if len(batch) == 1:
                self._leave(batch[0].letter, f"it does not fit: {error}")
                return
            # One that does not fit keeps no other back.
            for each in batch:
                self._send(producer, [each], watermarks)
            return
        watermarks.confirm(each.letter.id for each in batch)
        parked = sum(each.parked for each in batch)
        self.totals.parked += parked
        self.totals.redriven += len(batch) - parked

    def _commit(self, producer: Transactions, batch: list[Outgoing], watermarks: Watermarks) -> None:
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
                producer.publish(self._topic + REDRIVEN, str(each.letter.id).encode(), each.mark.value(outcome))
            offsets = watermarks.after(each.letter.id for each in batch)
            producer.send_offsets(
                {TopicPartition(self._topic, partition): offset for partition, offset in offsets.items()}, self._group()
            )

    def _chosen(self, chosen: frozenset[LetterId]) -> Iterator[StoredLetter]:
        # A selection without ids is one of everything.
        return self._reader.letters(Selection(ids=chosen)) if chosen else iter(())

    def _require_parking(self, outcome: Outgoing | str) -> None:
        if isinstance(outcome, Outgoing) and outcome.parked and self._addressing.partitions(outcome.topic) is None:
            raise TopicRefused(
                f"Letter {outcome.letter.id} was redriven {self._addressing.max_redrives} times already and goes to "
                f"{outcome.topic}, which is not there. Declare it in schemas/topics.toml and run make topics, or raise "
                "--max-redrives. Nothing was redriven."
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


def ledger(records: Iterable[Record], passed_over: Callable[[int], None] = lambda _: None) -> dict[LetterId, Mark]:
    """What the ledger topic says: the letters that were redriven or parked.

    What is no mark (a tombstone, another tool's record) is passed over; `passed_over` is told how many, if any.
    """
    marks: dict[LetterId, Mark] = {}
    others = 0
    for record in records:
        found = mark_of(record)
        if found is None:
            others += 1
        else:
            marks[found[0]] = found[1]
    if others:
        passed_over(others)
    return marks


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
