"""A broker small enough to be read: topics as lists, one group's offsets, members that come, go and die.

What it does not do: group protocols, transactions, compaction, or anything by itself. A member hears of what
happened to it at its next poll, so that until then it works on what another one owns already.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from random import Random
from typing import Any

from pipeline.core.log_position import Bounds
from pipeline.core.ports import Commit, Delivery, Listener
from pipeline.core.record import Headers, Record, TopicPartition
from pipeline.errors import BrokerUnavailable, MembershipLost, PipelineError
from pipeline.stages.crew import Done, Work, run_each
from pipeline.stages.handlers import Handler


class FakeBroker:
    """Also a `Log` and an `Encoder` of letters, whose envelopes it keeps in `envelopes`."""

    def __init__(self) -> None:
        self.logs: dict[TopicPartition, list[Record]] = {}
        self.commits: dict[TopicPartition, Commit] = {}
        self.owners: dict[TopicPartition, Member] = {}
        self.begins: dict[TopicPartition, int] = {}
        self.ids_of: dict[str, str] = {}
        self.envelopes: list[dict[str, Any]] = []

    def write(
        self,
        where: TopicPartition,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        timestamp_ms: int | None = 1_600_000_000_000,
    ) -> Record:
        log = self.logs.setdefault(where, [])
        log.append(Record(*where, len(log), key, value, headers, timestamp_ms))
        return log[-1]

    def bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        return {where: self.bounds_of(where) for where in partitions}

    def bounds_of(self, where: TopicPartition) -> Bounds:
        begins = self.begins.get(where, 0)
        return Bounds(begins, max(begins, len(self.logs.get(where, []))), self.ids_of.get(where.topic, ""))

    def topic_ids(self, topics: Collection[str]) -> Mapping[str, str] | None:
        return {topic: self.ids_of.get(topic, "") for topic in topics}

    def tail(self, starts: Mapping[TopicPartition, int]) -> Iterable[Record]:
        return [record for where, start in starts.items() for record in self.logs.get(where, [])[start:]]

    def retain(self, where: TopicPartition, beginning: int) -> None:
        """What lies below is deleted."""
        self.begins[where] = beginning

    def truncate(self, where: TopicPartition, end: int) -> None:
        """What lies from there on is lost: an unclean leader election."""
        del self.logs[where][end:]

    def make_anew(self, topic: str, topic_id: str) -> None:
        """The topic is deleted and made again; what the group committed stays, as by a commit that came late."""
        self.ids_of[topic] = topic_id
        for where in [where for where in self.logs if where.topic == topic]:
            self.logs[where] = []
            self.begins.pop(where, None)

    def encode(self, datum: Mapping[str, Any]) -> bytes:
        self.envelopes.append(dict(datum))
        return str(len(self.envelopes) - 1).encode()

    def letters(self, topic: str = "orders.dlq.v1") -> list[dict[str, Any]]:
        """The envelopes that were acknowledged."""
        lying = [record for where, log in self.logs.items() if where.topic == topic for record in log]
        return [self.envelopes[int(record.value or b"")] for record in lying]

    def give(self, member: "Member", *partitions: TopicPartition) -> None:
        """Nobody else has them."""
        assert not [where for where in partitions if where in self.owners]
        self.owners |= dict.fromkeys(partitions, member)
        member.told.append(lambda: member.came(partitions))

    def take(self, *partitions: TopicPartition) -> None:
        """Their owner lets go of them in its next poll, and may commit before."""
        for member in {self.owners[where] for where in partitions}:
            went = [where for where in partitions if self.owners[where] is member]
            member.told.append(lambda member=member, went=went: self._let_go(member, went))

    def _let_go(self, member: "Member", partitions: list[TopicPartition]) -> None:
        member.went(partitions, lost=False)
        for where in partitions:
            del self.owners[where]

    def lose(self, *partitions: TopicPartition) -> None:
        """They have no owner from now on; the one that had them is told in its next poll."""
        for where in partitions:
            member = self.owners.pop(where)
            member.told.append(lambda member=member, where=where: member.went([where], lost=True))

    def bury(self, member: "Member") -> None:
        """It died; the group noticed."""
        self.owners = {where: owner for where, owner in self.owners.items() if owner is not member}


class Member:
    """A `Source`."""

    def __init__(self, broker: FakeBroker, listener: Listener) -> None:
        self._broker = broker
        self._listener = listener
        self._answers: deque[PipelineError | None] = deque()
        self._positions: dict[TopicPartition, int] = {}
        self.told: deque[Callable[[], None]] = deque()
        self.assigned: set[TopicPartition] = set()
        self.paused: set[TopicPartition] = set()
        self.stalled: set[TopicPartition] = set()
        self.commit_errors: deque[PipelineError] = deque()
        self.polls = self.rejoins = 0

    def poll(self, limit: int, timeout_s: float) -> Sequence[Record]:
        self.polls += 1
        while self.told:
            self.told.popleft()()
        while self._answers:
            self._listener.committed(self._answers.popleft())
        found: list[Record] = []
        for where in sorted(self.assigned - self.paused - self.stalled):
            # Nobody reads before it was said from where.
            at, bounds = self._positions[where], self._broker.bounds_of(where)
            if not bounds.beginning <= at <= bounds.end:
                self.stalled.add(where)
                self._listener.displaced([where])
                continue
            found += self._broker.logs.get(where, [])[at : at + limit - len(found)]
        self._positions |= {record.source: record.offset + 1 for record in found}
        return found

    def came(self, partitions: Collection[TopicPartition]) -> None:
        self.assigned |= set(partitions)
        self.paused |= set(partitions)
        self.stalled -= set(partitions)
        for where in partitions:
            self._positions.pop(where, None)
        self._listener.assigned(partitions)

    def went(self, partitions: Collection[TopicPartition], *, lost: bool) -> None:
        self._listener.given_up(partitions, lost)
        self.assigned -= set(partitions)

    def positions(self) -> Mapping[TopicPartition, int]:
        return {where: self._positions.get(where, -1) for where in self.assigned}

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        self.paused |= set(partitions)

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        self.paused -= set(partitions)

    def rewind(self, offsets: Mapping[TopicPartition, int]) -> None:
        self._positions |= offsets
        self.stalled -= offsets.keys()

    def rejoin(self) -> None:
        self.rejoins += 1

    def commit(self, offsets: Mapping[TopicPartition, Commit]) -> None:
        try:
            self.commit_now(offsets)
        except PipelineError as error:
            self._answers.append(error)
        else:
            self._answers.append(None)

    def commit_now(self, offsets: Mapping[TopicPartition, Commit]) -> None:
        if self.commit_errors:
            raise self.commit_errors.popleft()
        if not all(self._broker.owners.get(where) is self for where in offsets):
            raise MembershipLost("illegal generation.")
        assert all(len(commit.metadata) <= 4096 for commit in offsets.values())
        self._broker.commits |= offsets

    def committed(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, tuple[int | None, str]]:
        return {where: self._broker.commits.get(where, (None, "")) for where in partitions}


class BrokerPublisher:
    """Writes to the broker when it is served. `fails` says of a topic what becomes of the next message.

    "lost" is not written; "unknown" is written and its acknowledgement lost; both are told as the same error.
    """

    def __init__(self, broker: FakeBroker) -> None:
        self._broker = broker
        self._queue: list[tuple[TopicPartition, tuple[Any, ...], Callable[[Delivery], None]]] = []
        self.fails: Callable[[str], str | None] = lambda topic: None
        self.refused: PipelineError | None = None

    def publish(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        *,
        headers: Headers = (),
        partition: int | None = None,
        on_delivery: Callable[[Delivery], None],
    ) -> None:
        assert partition is not None
        self._queue.append((TopicPartition(topic, partition), (key, value, headers), on_delivery))

    def serve(self, timeout_s: float = 0) -> None:
        queue, self._queue = self._queue, []
        for where, message, on_delivery in queue:
            fate = self.fails(where.topic)
            error = self.refused or (BrokerUnavailable("no acknowledgement in time.") if fate else None)
            offset = -1
            if self.refused is None and fate != "lost":
                offset = self._broker.write(where, *message).offset
            on_delivery(Delivery(*where, offset, message[0], error))

    def flush(self) -> None:
        self.serve()

    def is_missing(self, topic: str) -> bool:
        return False


class HeldCrew:
    """Hands that hold what they were given until `let_go` says so."""

    list_max = 1
    in_order = False

    def __init__(self, handler: Handler, hands: int = 1) -> None:
        self._handler = handler
        self._hands = hands
        self.held: list[Work] = []
        self.let_go = False
        self.asked = 0

    @property
    def room(self) -> int:
        return self._hands - len(self.held)

    def submit(self, works: Sequence[Work]) -> None:
        self.held += works

    def finished(self, timeout_s: float) -> list[Done]:
        self.asked += 1
        if not self.let_go:
            return []
        held, self.held = self.held, []
        return run_each(self._handler.function, held)

    def recall(self) -> list[Done]:
        return []

    def close(self) -> None:
        return None


class RandomCrew:
    """Hands of which each takes its time: any of the lists in hand may end next."""

    def __init__(self, handler: Handler, hands: int, list_max: int, random: Random) -> None:
        self.list_max = list_max
        self.in_order = hands == 1 and list_max > 1
        self._handler = handler
        self._hands = hands
        self._random = random
        self._lists: list[Sequence[Work]] = []

    @property
    def room(self) -> int:
        return self._hands - len(self._lists)

    def submit(self, works: Sequence[Work]) -> None:
        self._lists.append(works)

    def finished(self, timeout_s: float) -> list[Done]:
        done: list[Done] = []
        while self._lists and self._random.random() < 0.6:
            works = self._lists.pop(self._random.randrange(len(self._lists)))
            done += run_each(self._handler.function, works)
        return done

    def recall(self) -> list[Done]:
        if not self._lists or self._random.random() < 0.5:
            return []
        return [Done(work, ran=False) for work in self._lists.pop()]

    def close(self) -> None:
        return None
