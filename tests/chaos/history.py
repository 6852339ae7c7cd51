"""What was done and seen in one run: all that the checker knows."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple


class Outcome(StrEnum):
    """What whoever did it was told; nobody knows what became of an `UNKNOWN` one: killed, or no answer."""

    OK = "ok"
    FAILED = "failed"
    UNKNOWN = "unknown"


class Sent(NamedTuple):
    """One order handed to the source topic; each has an id of its own."""

    id: str
    outcome: Outcome


class Seen(NamedTuple):
    """One record as a reader got it. `transaction` is the one that published it; the source topic's have none."""

    topic: str
    partition: int
    offset: int
    key: str
    id: str
    transaction: str = ""


class Published(NamedTuple):
    """One record handed over inside a transaction."""

    topic: str
    id: str


@dataclass
class Transaction:
    """As the forwarder told it. One that was killed before it asked for the commit has published nothing that counts.

    `outcome` is the commit's: `FAILED` was aborted. `offsets` are those it wanted to commit, by source partition.
    """

    name: str
    asked_to_commit: bool = False
    outcome: Outcome = Outcome.UNKNOWN
    published: list[Published] = field(default_factory=list)
    offsets: dict[int, int] = field(default_factory=dict)


@dataclass
class History:
    """One run. `polls` are those of a `read_committed` reader during the faults, in its order, `final` is what one finds that
    begins anew once all is healed; both of every topic that transactions publish to. `commits` are the group's committed
    offsets by source partition as they were looked at, one after the other."""

    sent: list[Sent] = field(default_factory=list)
    source: list[Seen] = field(default_factory=list)
    transactions: dict[str, Transaction] = field(default_factory=dict)
    polls: list[list[Seen]] = field(default_factory=list)
    final: list[Seen] = field(default_factory=list)
    commits: list[dict[int, int]] = field(default_factory=list)
    # Outputs of these topics keep the order of their source partition for each key of theirs.
    ordered: Sequence[str] = ()
    # Records of these do not count as an outcome: they are still on their way.
    passing: Sequence[str] = ()

    def as_json(self) -> Mapping[str, Any]:
        """For a file."""
        return asdict(self)
