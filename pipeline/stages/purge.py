"""deadletters purge: letters that nobody needs any more, deleted for good; and what `pipeline.deadletters` prints of it.

Letters that came after the plan was made stay. The ledger keeps the marks of those that are gone, as of those that expire.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from pipeline.core.purge import Cut, Lying, Rule, plan
from pipeline.core.record import TopicPartition
from pipeline.errors import Refused, TopicRefused
from pipeline.stages.letters import LetterReader, StoredLetter
from pipeline.stages.table import table

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Cluster(Protocol):
    """What this asks of a cluster; `pipeline.kafka.admin.Cluster` is one."""

    def topic_configs(self, names: Sequence[str]) -> dict[str, dict[str, str]]: ...

    def delete_records(self, up_to: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]: ...


@dataclass(frozen=True, slots=True)
class Purged:
    """A purge planned and, once it was done, where the partitions begin that lost letters."""

    topic: str
    cuts: tuple[Cut, ...]
    begins: Mapping[int, int] | None = None

    @property
    def letters(self) -> int:
        """How many go."""
        return sum(cut.letters for cut in self.cuts)

    @property
    def due(self) -> int:
        """How many of these were never redriven."""
        return sum(cut.due for cut in self.cuts)


@dataclass(frozen=True, slots=True)
class Purge:
    """Purges a topic of letters that lay in it up to `ends`, the offset after the last one by partition."""

    topic: str
    ends: Mapping[int, int]
    reader: LetterReader
    cluster: Cluster

    def plan(self, rule: Rule) -> Purged:
        """What would go; deletes nothing. Raises `TopicRefused` where Kafka would not delete it."""
        policy = self.cluster.topic_configs([self.topic])[self.topic]["cleanup.policy"]
        if "delete" not in policy.split(","):
            raise TopicRefused(
                f"{self.topic} has cleanup.policy={policy}: Kafka deletes records up to an offset only where it is delete. "
                "Nothing was changed"
            )
        letters = (Lying(it.id, it.redriven, _failed_at(it)) for it in self.reader.letters())
        return Purged(self.topic, tuple(plan(rule, letters, self.ends)))

    def act(self, planned: Purged, *, including_due: bool) -> Purged:
        """Delete what was planned; raises `Refused` before anything where letters are due that were not asked for."""
        if planned.due and not including_due:
            raise Refused(
                f"{planned.due} of the {planned.letters} letters were never redriven and would be gone for good. Nothing was "
                "changed. Redrive or export them first, or say --including-due"
            )
        begins = self.cluster.delete_records(
            {TopicPartition(self.topic, cut.partition): cut.up_to for cut in planned.cuts if cut.up_to is not None}
        )
        return Purged(self.topic, planned.cuts, {source.partition: offset for source, offset in begins.items()})


def text(it: Purged, *, including_due: bool) -> str:
    """Every partition: what goes or went, up to which offset, and what stays."""
    rows = [("  partition", "letters", "due", "up to", "stay", "oldest of them", "")]
    rows += [
        (
            f"  {cut.partition}", str(cut.letters), str(cut.due), _or_dash(cut.up_to), str(cut.stay),
            _or_dash(cut.oldest), "" if begins is None else f"begins now: {begins}",
        )
        for cut in it.cuts
        for begins in [(it.begins or {}).get(cut.partition)]
    ]  # fmt: skip
    lost = f"{it.letters} letters, {it.due} of them due:"
    if it.begins is not None:
        return "\n".join([f"{it.topic} lost {lost}", *table(rows)])
    return "\n".join([f"{it.topic} would lose {lost}", *table(rows), _what_next(it, including_due=including_due)])


def values(it: Purged) -> dict[str, Any]:
    """The same for JSON."""
    return {
        "topic": it.topic,
        "done": it.begins is not None,
        "letters": it.letters,
        "due": it.due,
        "partitions": [
            {
                "partition": cut.partition, "letters": cut.letters, "due": cut.due, "up_to": cut.up_to,
                "stay": cut.stay, "oldest": None if cut.oldest is None else str(cut.oldest),
                "begins": None if it.begins is None else it.begins.get(cut.partition),
            }
            for cut in it.cuts
        ],
    }  # fmt: skip


def _what_next(it: Purged, *, including_due: bool) -> str:
    if it.due and not including_due:
        return (
            "Nothing was changed. Redrive or export those that are due first; --including-due --yes deletes them too."
        )
    return "Nothing was changed. --yes does it." if it.letters else "Nothing was changed: no letter may go."


def _failed_at(letter: StoredLetter) -> datetime | None:
    """Of what is no letter, nothing but the record's own time is known, which its producer may have made up."""
    if letter.envelope is not None:
        failed_at: datetime | None = letter.envelope["failed_at"]
        return failed_at
    written = letter.record.timestamp_ms
    try:
        return None if written is None else _EPOCH + timedelta(milliseconds=written)
    except OverflowError:
        return None


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)
