"""Finds in a history what exactly-once forwarding forbids. After the Kafka workload of Jepsen (jepsen.tests.kafka, 2024).

Legal in Kafka and no violation: holes between offsets, interleaved records of several transactions, a record that is read
twice by a reader that went back.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import NamedTuple

from tests.chaos.history import History, Outcome, Seen


class Kind(StrEnum):
    """What is wrong, in Jepsen's words where it has one."""

    LOST_SEND = "lost send"  # acknowledged to whoever sent it, and not in the source topic
    DUPLICATE_SEND = "duplicate send"  # more than once in the source topic
    LOST_WRITE = "lost write"  # the group's offset is past it, and nothing came of it
    UNSEEN = "unseen"  # healed, and yet not forwarded
    DUPLICATE = "duplicate"  # outcomes of one record in two transactions, or more than were published
    ABORTED_READ = "aborted read"  # of a transaction that was aborted, or never asked for its commit (G1a)
    TORN = "torn transaction"  # part of it is seen, part is not
    ORDER = "order"  # a later record of a key came out first
    INCONSISTENT_OFFSET = "inconsistent offset"  # one offset, two records
    SKIPPED = "skipped by a poll"  # a reader passed over a record that is there
    NOT_MONOTONIC = "not monotonic"  # a reader got an earlier offset after a later one
    OFFSET_WENT_BACK = "offset went back"  # the group's committed offset
    AHEAD_OF_OFFSET = "output ahead of the offset"  # what came of a record is seen, the group's offset is not past it


class Violation(NamedTuple):
    """One of them, in words."""

    kind: Kind
    what: str


def check(history: History) -> list[Violation]:
    """Every violation; none for a history of exactly-once."""
    parts = (_sends, _outcomes, _transactions, _order, _offsets_of_records, _reads, _commits)
    return [violation for part in parts for violation in part(history)]


def summary(violations: Iterable[Violation]) -> dict[str, int]:
    """How many of each kind, those that there are."""
    return dict(Counter(str(violation.kind) for violation in violations))


def _sends(history: History) -> Iterator[Violation]:
    there = Counter(record.id for record in history.source)
    for sent in history.sent:
        if sent.outcome is Outcome.OK and not there[sent.id]:
            yield Violation(Kind.LOST_SEND, f"{sent.id} was acknowledged and is not in the source")
    for each, count in there.items():
        if count > 1:
            yield Violation(Kind.DUPLICATE_SEND, f"{each} is {count} times in the source")


def _outcomes(history: History) -> Iterator[Violation]:
    """The output set is the input set below the committed offset."""
    by_id: dict[str, set[str]] = defaultdict(set)
    for record in history.final:
        if record.topic not in history.passing:
            by_id[record.id].add(record.transaction)
    committed = history.commits[-1] if history.commits else {}
    sources = Counter(record.id for record in history.source)
    for record in history.source:
        past = record.offset < committed.get(record.partition, 0)
        if past and not by_id[record.id] and not _on_its_way(history, record.id):
            yield Violation(Kind.LOST_WRITE, f"{record.id} at {_at(record)}: the offset is past it, nothing came of it")
        elif not past and by_id[record.id] and sources[record.id] == 1:
            yield Violation(Kind.AHEAD_OF_OFFSET, f"{record.id} at {_at(record)} came out, the offset is not past it")
        elif not by_id[record.id]:
            yield Violation(Kind.UNSEEN, f"{record.id} at {_at(record)}: nothing came of it")
    for each, transactions in by_id.items():
        if len(transactions) > max(1, sources[each]):
            yield Violation(Kind.DUPLICATE, f"{each} came out in {', '.join(sorted(transactions))}")


def _on_its_way(history: History, record_id: str) -> bool:
    return any(record.id == record_id and record.topic in history.passing for record in history.final)


def _transactions(history: History) -> Iterator[Violation]:
    seen: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    everywhere = [*(record for poll in history.polls for record in poll), *history.final]
    for record in {(it.topic, it.partition, it.offset): it for it in everywhere}.values():
        seen[record.transaction][record.topic, record.id] += 1
    for name, records in seen.items():
        transaction = history.transactions.get(name)
        if transaction is None or not transaction.asked_to_commit:
            yield Violation(Kind.ABORTED_READ, f"{_some(records)} of {name}, which never asked for its commit")
            continue
        if transaction.outcome is Outcome.FAILED:
            yield Violation(Kind.ABORTED_READ, f"{_some(records)} of {name}, which was aborted")
            continue
        published = Counter((it.topic, it.id) for it in transaction.published)
        if missing := published - records:
            yield Violation(Kind.TORN, f"{_some(records)} of {name} are seen, {_some(missing)} are not")
        if more := records - published:
            yield Violation(Kind.DUPLICATE, f"{_some(more)} of {name} are there more often than published")
    for name, transaction in history.transactions.items():
        if transaction.outcome is Outcome.OK and transaction.published and name not in seen:
            yield Violation(Kind.TORN, f"nothing is seen of {name}, which was committed")


def _order(history: History) -> Iterator[Violation]:
    places = {record.id: record for record in history.source}
    last: dict[tuple[str, int, str, int], Seen] = {}
    for record in sorted(history.final, key=lambda it: (it.topic, it.partition, it.offset)):
        source = places.get(record.id)
        if source is None or record.topic not in history.ordered:
            continue
        lane = (record.topic, record.partition, record.key, source.partition)
        before = last.get(lane)
        if before is not None and places[before.id].offset > source.offset:
            yield Violation(
                Kind.ORDER,
                f"key {record.key}: {record.id} ({_at(source)}) came after {before.id} ({_at(places[before.id])})",
            )
        last[lane] = record


def _offsets_of_records(history: History) -> Iterator[Violation]:
    found: dict[tuple[str, int, int], str] = {}
    for record in [*(record for poll in history.polls for record in poll), *history.final]:
        where = (record.topic, record.partition, record.offset)
        if found.setdefault(where, record.id) != record.id:
            yield Violation(Kind.INCONSISTENT_OFFSET, f"{_at(record)} was {found[where]} and {record.id}")


def _reads(history: History) -> Iterator[Violation]:
    """The reader during the faults never leaves its partitions, so it may neither skip nor go back."""
    position: dict[tuple[str, int], int] = {}
    read = set()
    for record in (record for poll in history.polls for record in poll):
        where = (record.topic, record.partition)
        if record.offset <= position.get(where, -1):
            yield Violation(Kind.NOT_MONOTONIC, f"{_at(record)} after offset {position[where]}")
        position[where] = max(record.offset, position.get(where, -1))
        read.add((*where, record.offset))
    for record in history.final:
        where = (record.topic, record.partition)
        if record.offset <= position.get(where, -1) and (*where, record.offset) not in read:
            yield Violation(Kind.SKIPPED, f"{record.id} at {_at(record)}, which a reader passed over")


def _commits(history: History) -> Iterator[Violation]:
    highest: dict[int, int] = {}
    for committed in history.commits:
        for partition, offset in committed.items():
            if offset < highest.get(partition, 0):
                yield Violation(Kind.OFFSET_WENT_BACK, f"partition {partition}: from {highest[partition]} to {offset}")
            highest[partition] = max(offset, highest.get(partition, 0))


def _at(record: Seen) -> str:
    return f"{record.topic} [{record.partition}] @ {record.offset}"


def _some(records: Iterable[tuple[str, str]]) -> str:
    every = sorted(f"{topic}:{record_id}" for topic, record_id in records)
    return ", ".join(every[:3]) + (f" and {len(every) - 3} more" if len(every) > 3 else "")
