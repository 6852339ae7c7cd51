"""A broker's and a registry's behaviour as far as the stages see it. Their real twins are in tests/integration."""

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from pipeline.core.log_position import Bounds
from pipeline.core.ports import Commit, Delivery, Listener
from pipeline.core.record import Headers, Record, TopicPartition
from pipeline.errors import BrokerUnavailable, PipelineError
from pipeline.stages.crew import Done, Work, run_batch, run_each
from pipeline.stages.handlers import Handler, Kind


class FakeSource:
    """One member of a group that is given every record once, unless a rebalance takes it back; all of it is assigned."""

    def __init__(self, records: list[Record], topics: Sequence[str] = ()) -> None:
        self.listener: Listener | None = None
        self._answers: deque[tuple[Mapping[TopicPartition, Commit], PipelineError | None]] = deque()
        self.waiting = deque(records)
        self.commits: dict[TopicPartition, Commit] = {}
        self.ends: dict[TopicPartition, int] = {}
        self.paused: set[TopicPartition] = set()
        self.before_poll: deque[Callable[[], None]] = deque()
        self.commit_errors: deque[PipelineError] = deque()
        self._positions: dict[TopicPartition, int] = {}
        partitions = {record.partition for record in records} | {0}
        every = {record.topic for record in records} | set(topics)
        self._to_assign = {TopicPartition(topic, partition) for topic in every for partition in partitions}
        self.assigned: set[TopicPartition] = set()

    @property
    def committed_offsets(self) -> dict[TopicPartition, int]:
        """Without those that only say that nothing was done yet."""
        return {where: commit.offset for where, commit in self.commits.items() if commit.offset > 0}

    def poll(self, limit: int, timeout_s: float) -> list[Record]:
        if self._to_assign:
            assert self.listener is not None
            self.assign(self._to_assign)
            self._to_assign = set()
        if self.before_poll:
            self.before_poll.popleft()()
        while self._answers:
            offsets, error = self._answers.popleft()
            if error is None:
                self.commits |= offsets
            assert self.listener is not None
            self.listener.committed(error)
        taken: list[Record] = []
        kept: deque[Record] = deque()
        while self.waiting:
            record = self.waiting.popleft()
            ours = record.source in self.assigned and record.source not in self.paused and len(taken) < limit
            (taken if ours else kept).append(record)
        self.waiting = kept
        self._positions |= {record.source: record.offset + 1 for record in taken}
        return taken

    def positions(self) -> Mapping[TopicPartition, int]:
        return dict.fromkeys(self.assigned, -1) | self._positions | self.ends

    def assign(self, partitions: Collection[TopicPartition]) -> None:
        assert self.listener is not None
        self.assigned |= set(partitions)
        self.paused |= set(partitions)
        self.listener.assigned(partitions)

    def take_back(self, *partitions: TopicPartition, lost: bool) -> None:
        """A rebalance: the partitions go, and their positions with them."""
        assert self.listener is not None
        self.listener.given_up(partitions, lost)
        for where in partitions:
            self.assigned.discard(where)
            self._positions.pop(where, None)

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        self.paused |= set(partitions)

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        self.paused -= set(partitions)

    def rewind(self, offsets: Mapping[TopicPartition, int]) -> None:
        assert all(offset >= self._positions.get(where, 0) for where, offset in offsets.items()), (
            "given once, each of them"
        )

    def rejoin(self) -> None: ...

    def commit(self, offsets: Mapping[TopicPartition, Commit]) -> None:
        self._answers.append((dict(offsets), self.commit_errors.popleft() if self.commit_errors else None))

    def commit_now(self, offsets: Mapping[TopicPartition, Commit]) -> None:
        if self.commit_errors:
            raise self.commit_errors.popleft()
        self.commits |= offsets

    def committed(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, tuple[int | None, str]]:
        return {where: self.commits.get(where, (None, "")) for where in partitions}


class FakeLog:
    """Topics that begin at their first record and end nowhere; `parked` lies behind every offset."""

    def __init__(self, records: list[Record]) -> None:
        self._records = records
        self.parked: list[Record] = []

    def bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        return {
            where: Bounds(min((record.offset for record in self._records if record.source == where), default=0), 2**62)
            for where in partitions
        }

    def topic_ids(self, topics: Collection[str]) -> Mapping[str, str] | None:
        return {}

    def tail(self, starts: Mapping[TopicPartition, int]) -> list[Record]:
        return [record for record in self.parked if record.source in starts and record.offset >= starts[record.source]]


class NowCrew:
    """Runs what it is given at once, in the thread that submits it."""

    def __init__(self, handler: Handler, list_max: int = 500) -> None:
        self.list_max = list_max
        self.in_order = list_max > 1
        self._handler = handler
        self._done: list[Done] = []

    @property
    def room(self) -> int:
        return 0 if self._done else 1

    def submit(self, works: Sequence[Work]) -> None:
        run = run_batch if self._handler.kind is Kind.BATCH else run_each
        self._done += run(self._handler.function, works)

    def finished(self, timeout_s: float) -> list[Done]:
        done, self._done = self._done, []
        return done

    def recall(self) -> list[Done]:
        return []

    def close(self) -> None:
        return None


class FakePublisher:
    """Acknowledges everything at `flush` and `serve`, except what `fail` says of a key, and nothing while it is `away`.

    It takes no more than `room` that is not acknowledged; `turn` is called whenever it is served.
    """

    def __init__(self) -> None:
        self.away = False
        self.room = 1_000_000
        self.turn: Callable[[float], None] = lambda seconds: None
        self.missing: set[str] = set()
        self.taken: list[bytes | None] = []
        self.published: list[tuple[str, bytes | None, bytes | None, Headers, int | None]] = []
        self.fail: Callable[[bytes | None], PipelineError | None] = lambda key: None
        self._offsets: dict[str, int] = {}
        self._queue: list[
            tuple[tuple[str, bytes | None, bytes | None, Headers, int | None], Callable[[Delivery], None]]
        ] = []

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
        self.taken.append(key)
        self._queue.append(((topic, key, value, headers, partition), on_delivery))

    def offer(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        *,
        headers: Headers = (),
        partition: int | None = None,
        on_delivery: Callable[[Delivery], None],
    ) -> bool:
        if len(self._queue) >= self.room:
            return False
        self.publish(topic, key, value, headers=headers, partition=partition, on_delivery=on_delivery)
        return True

    def serve(self, timeout_s: float = 0) -> None:
        self.turn(timeout_s)
        if not self.away:
            self.flush()

    def abandon(self) -> None:
        self.fail = lambda key: BrokerUnavailable("purged")
        self.flush()

    def is_missing(self, topic: str) -> bool:
        return topic in self.missing

    def flush(self) -> None:
        for message, on_delivery in self._queue:
            topic, key, *_ = message
            error = self.fail(key)
            if error is None:
                self.published.append(message)
                self._offsets[topic] = self._offsets.get(topic, -1) + 1
            offset = self._offsets.get(topic, -1)
            on_delivery(Delivery(topic, 0, offset, key, error, None if error is None else message[2]))
        self._queue.clear()


class FakeClock:
    """Seconds that pass only when somebody asks."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.05
        return self.now


class PlainEncoder:
    """Keeps the datum readable."""

    def encode(self, datum: Mapping[str, Any]) -> bytes:
        return repr(dict(datum)).encode()
