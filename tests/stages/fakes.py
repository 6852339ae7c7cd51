"""A broker's and a registry's behaviour as far as the stages see it. Their real twins are in tests/integration."""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.core.ports import Delivery, Listener
from pipeline.core.record import Headers, Record, TopicPartition
from pipeline.errors import PipelineError


class FakeSource:
    """One member of a group that is given every record once, unless a rebalance takes it back."""

    def __init__(self, records: list[Record]) -> None:
        self.listener: Listener | None = None
        self._answers: deque[tuple[Mapping[TopicPartition, int], PipelineError | None]] = deque()
        self.waiting = deque(records)
        self.committed: dict[TopicPartition, int] = {}
        self.ends: dict[TopicPartition, int] = {}
        self.paused = False
        self.pauses = 0
        self.before_poll: deque[Callable[[], None]] = deque()
        self.commit_errors: deque[PipelineError] = deque()
        self._positions: dict[TopicPartition, int] = {}

    def poll(self, limit: int, timeout_s: float) -> list[Record]:
        if self.before_poll:
            self.before_poll.popleft()()
        while self._answers:
            offsets, error = self._answers.popleft()
            if error is None:
                self.committed |= offsets
            assert self.listener is not None
            self.listener.committed(error)
        if self.paused:
            return []
        taken = [self.waiting.popleft() for _ in range(min(limit, len(self.waiting)))]
        self._positions |= {record.source: record.offset + 1 for record in taken}
        return taken

    def positions(self) -> Mapping[TopicPartition, int]:
        return self._positions | self.ends

    def take_back(self, where: TopicPartition, *, lost: bool) -> None:
        """A rebalance: the partition goes, and its position with it."""
        assert self.listener is not None
        self.listener.given_up([where], lost)
        self._positions.pop(where, None)

    def pause(self) -> None:
        self.pauses += not self.paused
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        self._answers.append((dict(offsets), self.commit_errors.popleft() if self.commit_errors else None))

    def commit_now(self, offsets: Mapping[TopicPartition, int]) -> None:
        if self.commit_errors:
            raise self.commit_errors.popleft()
        self.committed |= offsets


class FakePublisher:
    """Acknowledges everything at `flush`, except what `fail` says of a key."""

    def __init__(self) -> None:
        self.missing: set[str] = set()
        self.published: list[tuple[str, bytes | None, bytes, Headers, int | None]] = []
        self.fail: Callable[[bytes | None], PipelineError | None] = lambda key: None
        self._queue: list[tuple[tuple[str, bytes | None, bytes, Headers, int | None], Callable[[Delivery], None]]] = []

    def publish(
        self,
        topic: str,
        key: bytes | None,
        value: bytes,
        *,
        headers: Headers = (),
        partition: int | None = None,
        on_delivery: Callable[[Delivery], None],
    ) -> None:
        self._queue.append(((topic, key, value, headers, partition), on_delivery))

    def serve(self, timeout_s: float = 0) -> None:
        return None

    def is_missing(self, topic: str) -> bool:
        return topic in self.missing

    def flush(self) -> None:
        for message, on_delivery in self._queue:
            topic, key, *_ = message
            error = self.fail(key)
            if error is None:
                self.published.append(message)
            on_delivery(Delivery(topic, 0, len(self.published) - 1, key, error))
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
