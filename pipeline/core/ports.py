"""What the stages ask of the world outside, so that each runs on a real broker and on a fake alike."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from pipeline.core.log_position import Bounds
from pipeline.core.record import Headers, Record, TopicPartition
from pipeline.errors import PipelineError, TooLarge


class Delivery(NamedTuple):
    """The broker's word on one published record; `offset` counts only where `error` is None.

    An `Unavailable` error means *unknown*: the record may be in the topic, once. Any other means it is not. `value` is
    the record's, kept only where there is an error: for whoever wants to send it again.
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    error: PipelineError | None
    value: bytes | None = None


class Publisher(Protocol):
    """A keyed, idempotent producer with one callback for every delivery."""

    def publish(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        *,
        headers: Headers = (),
        partition: int | None = None,
        on_delivery: Callable[[Delivery], None],
    ) -> None: ...

    def offer(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        *,
        headers: Headers = (),
        partition: int | None = None,
        on_delivery: Callable[[Delivery], None],
    ) -> bool: ...

    def serve(self, timeout_s: float = 0) -> None: ...

    def abandon(self) -> None: ...

    def is_missing(self, topic: str) -> bool: ...


class Commit(NamedTuple):
    """The next offset to read of a partition, and the words that are committed with it."""

    offset: int
    metadata: str = ""


class Listener(Protocol):
    """What a member of a group is told while it polls: partitions that come and go, the broker's word on its commits.

    `displaced` partitions give nothing until they are rewound: the broker says that their log does not hold the next offset.
    """

    def assigned(self, partitions: Collection[TopicPartition]) -> None: ...

    def given_up(self, partitions: Collection[TopicPartition], lost: bool) -> None: ...

    def displaced(self, partitions: Collection[TopicPartition]) -> None: ...

    def committed(self, error: PipelineError | None) -> None: ...


class Source(Protocol):
    """A member of a consumer group. What is assigned comes paused, until `resume`; `rewind` reads on from these offsets.

    Nothing else decides where reading begins: no committed offset, no reset policy.

    `commit` only starts: the listener's `committed` is told, once for each, in order. `committed` gives what the group
    committed, the offset None where it never did.
    """

    def poll(self, limit: int, timeout_s: float) -> Sequence[Record]: ...

    def positions(self) -> Mapping[TopicPartition, int] | None: ...

    def pause(self, partitions: Collection[TopicPartition]) -> None: ...

    def resume(self, partitions: Collection[TopicPartition]) -> None: ...

    def rewind(self, offsets: Mapping[TopicPartition, int]) -> None: ...

    def rejoin(self) -> None: ...

    def commit(self, offsets: Mapping[TopicPartition, Commit]) -> None: ...

    def commit_now(self, offsets: Mapping[TopicPartition, Commit]) -> None: ...

    def committed(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, tuple[int | None, str]]: ...


class Log(Protocol):
    """Topics as they lie there, read in no group: what they hold, and all that lies from an offset on to the end.

    `topic_ids` gives the ids of topics without waiting: those that were asked for by an earlier call, or None; topics that are
    not there are left out.
    """

    def bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Bounds]: ...

    def topic_ids(self, topics: Collection[str]) -> Mapping[str, str] | None: ...

    def tail(self, starts: Mapping[TopicPartition, int]) -> Iterable[Record]: ...


class InTransaction(Protocol):
    """What can be done inside a transaction: it is seen with the rest of it, or not at all.

    `on_offset` is told where a record lies, `on_refused` that it is too large; both at the latest while the transaction is
    committed.
    """

    def publish(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        *,
        headers: Headers = (),
        partition: int | None = None,
        timestamp_ms: int | None = None,
        on_offset: Callable[[int], None] | None = None,
        on_refused: Callable[[TooLarge], None] | None = None,
    ) -> None: ...

    def send_offsets(
        self, offsets: Mapping[TopicPartition, int], group: Any, notes: Mapping[TopicPartition, str] = {}
    ) -> None: ...


class Decoder(Protocol):
    """Bytes to datum: one of any types that its writer's schema resolves to; or, of many, exactly of the reader's types.

    Where that is not so, or not known yet, a run ends with an exception.
    """

    def decode(self, value: bytes | None) -> dict[str, Any]: ...

    def decode_run(self, values: Iterable[bytes | None]) -> Iterator[dict[str, Any]]: ...


class Encoder(Protocol):
    """Datum to bytes."""

    def encode(self, datum: Mapping[str, Any]) -> bytes: ...
