"""The transactional producer: what is published in a transaction, and the offsets of a group, are all seen or none is.

A new producer with the same transactional id fences the one before and aborts what it left open (KIP-98).
"""

import logging
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer
from confluent_kafka import TopicPartition as ClientPartition

from pipeline.core.record import Headers, TopicPartition
from pipeline.errors import (
    BrokerUnavailable,
    MembershipLost,
    PipelineError,
    ProducerFenced,
    SettingsRefused,
    TimestampRefused,
    TooLarge,
)
from pipeline.kafka.errors import translate
from pipeline.kafka.log import librdkafka_logger
from pipeline.kafka.producer import ANY_PARTITION, failure

TRANSACTION_S = 60.0
_RETRY_EVERY_S = 0.1
_FULL_QUEUE_WAIT_S = 0.1
# librdkafka's facilities for a connection that broke and for a request that timed out: either may still arrive.
_LATE = ("FAIL", "REQTMOUT")
# Delivery reports are called back this often, in records.
_SERVE_EVERY = 128
_FENCED = frozenset({"_FENCED", "INVALID_PRODUCER_EPOCH", "PRODUCER_FENCED"})
_MEMBERSHIP_LOST = frozenset({"FENCED_INSTANCE_ID", "FENCED_MEMBER_EPOCH", "ILLEGAL_GENERATION", "UNKNOWN_MEMBER_ID"})
# A delivery report that follows from what became of the transaction, or from our own abort: never the reason.
_FOLLOWS = _FENCED | {
    "_FATAL",
    "_PURGE_INFLIGHT",
    "_PURGE_QUEUE",
    "_STATE",
    "INVALID_PRODUCER_ID_MAPPING",
    "INVALID_TXN_STATE",
    "OUT_OF_ORDER_SEQUENCE_NUMBER",
    "UNKNOWN_PRODUCER_ID",
}


class TransactionalProducer:
    """One transactional id; `properties` are `kafka.config.producer`'s.

    The constructor returns once the id is ours: whoever held it is fenced, and its open transaction is aborted. Raises
    `BrokerUnavailable` when that took longer than `timeout_s` seconds. A transaction that is open for `transaction_s` seconds
    is aborted by the broker.
    """

    def __init__(
        self,
        properties: Mapping[str, Any],
        transactional_id: str,
        *,
        timeout_s: float = 30,
        transaction_s: float = TRANSACTION_S,
    ) -> None:
        self.transactional_id = transactional_id
        self._transaction_s = transaction_s
        limit_ms = int(transaction_s * 1000)
        # A delivery may not outlast its transaction: librdkafka refuses such properties.
        delivery_ms = min(limit_ms, int(properties.get("message.timeout.ms", limit_ms)))
        self._watch = _ConnectionWatch()
        own = {"transaction.timeout.ms": limit_ms, "message.timeout.ms": delivery_ms}
        try:
            self._producer = Producer(
                {**properties, "transactional.id": transactional_id, **own}, logger=self._watch.logger
            )
        except KafkaException as error:
            raise SettingsRefused(
                f"{error.args[0].str()}. Look at the settings, and at those under kafka.extra."
            ) from None
        self._refused: PipelineError | None = None
        self._failed = False  # the transaction that is open: it can only be aborted
        self._aborted = False  # by the commit that failed
        self._handed = 0
        self._stuck = False
        self.usable = True
        self._retried(lambda: self._producer.init_transactions(timeout_s), "taking over", timeout_s)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit on the way out; on any exception abort and pass it on. Raises what `commit` does."""
        self.begin()
        try:
            yield
        except BaseException:
            self.abort()
            raise
        self.commit()

    def begin(self) -> None:
        """Begin a transaction. Not where `usable` is false."""
        assert self.usable, "a producer that is not usable any more"
        self._refused = None
        self._failed = False
        self._aborted = False
        self._watch.broken = False
        self._retried(self._producer.begin_transaction, "beginning a transaction")

    def commit(self) -> None:
        """Everything of it is seen, or nothing.

        Raises `ProducerFenced` when a twin took the id over, `BrokerUnavailable` when the outcome is not known,
        `DeliveryFailed` and others when nothing was committed. Look at `usable` before the next one: where it is false the
        producer has to be made anew, after a fatal error, after a commit that failed for any other reason than a record that its
        topic refuses, and after a connection that broke meanwhile. A request that the client sent twice could otherwise arrive
        late, in the next transaction (it speaks EndTxn v1).
        """
        try:
            # No time-out of ours: the transaction's own bounds it, any other could lose track of the outcome.
            self._retried(self._producer.commit_transaction, "committing a transaction")
        except PipelineError as error:
            if self._failed:
                self._aborted = self.abort()
                # Where a topic refused a record, the broker answered, and nothing is under way any more. Whatever else ended the
                # transaction may have left a request that arrives late, in the next one: only a new producer's epoch fences it.
                self.usable = self.usable and isinstance(self._refused, (TooLarge, TimestampRefused))
                raise self._refused or error from error
            # Nobody knows what became of it: the next holder of the id does.
            self.usable = False
            raise
        self._look_at_connections()

    def abort(self) -> bool:
        """Whether the broker confirmed it; otherwise the next holder of the id aborts it, or its time-out does."""
        if self._aborted or not self.usable:
            return self._aborted
        try:
            self._retried(self._producer.abort_transaction, "aborting a transaction")
        except PipelineError:
            self.usable = False
            return False
        self._look_at_connections()
        return True

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
    ) -> None:
        """Hand one record over, inside a transaction. The broker's refusal comes out of the commit.

        `on_offset` is told where it lies, `on_refused` that it is too large, at the latest while committing. Without a timestamp
        the record gets the present one; so does the year 1970's first millisecond, which means that to the client.
        """
        plain = on_offset is None and on_refused is None
        report = self._report if plain else partial(self._report_told, on_offset, on_refused)
        where = ANY_PARTITION if partition is None else partition
        named: list[Any] | None = list(headers) if headers else None
        while True:
            try:
                # By their places, as in `producer`.
                self._producer.produce(topic, value, key, where, report, None, timestamp_ms or 0, named)
            except BufferError:
                self._serve(_FULL_QUEUE_WAIT_S)
            except KafkaException as error:
                problem = error.args[0]
                if problem.fatal() or problem.name() == "_FATAL":
                    raise self._fatal(problem) from error
                if problem.name() == "_STATE":
                    raise self._failed_already(topic) from error
                refused = failure(problem, topic)
                if on_refused is not None and isinstance(refused, TooLarge):
                    on_refused(refused)
                raise refused from error
            else:
                self._handed += 1
                if self._handed % _SERVE_EVERY == 0:
                    self._serve()
                return

    def _failed_already(self, topic: str) -> PipelineError:
        """Why nothing can be published in this transaction any more; the reports tell, if any was for good."""
        self._serve()
        return self._refused or BrokerUnavailable(
            f"The transaction of {self.transactional_id} failed before all of it was handed over to {topic}."
        )

    def _report(self, error: KafkaError | None, message: Message) -> None:
        if error is not None and error.name() not in _FOLLOWS and self._refused is None:
            self._refused = failure(error, message.topic() or "a topic")

    def _report_told(
        self,
        on_offset: Callable[[int], None] | None,
        on_refused: Callable[[TooLarge], None] | None,
        error: KafkaError | None,
        message: Message,
    ) -> None:
        self._report(error, message)
        offset = message.offset()
        if error is None and offset is not None and on_offset is not None:
            on_offset(offset)
        if error is not None and on_refused is not None:
            refused = failure(error, message.topic() or "a topic")
            if isinstance(refused, TooLarge):
                on_refused(refused)

    def send_offsets(
        self, offsets: Mapping[TopicPartition, int], group: Any, notes: Mapping[TopicPartition, str] = {}
    ) -> None:
        """Commit these offsets, with words beside them, in the transaction; `group` is a consumer's metadata, fresh each time.

        Raises `MembershipLost` when the group went on without that consumer: abort, its partitions are another's.
        """
        wanted = [ClientPartition(*where, offset, notes.get(where, "")) for where, offset in offsets.items()]
        self._retried(
            lambda: self._given_time(lambda: self._producer.send_offsets_to_transaction(wanted, group)),
            "sending offsets",
        )

    def _given_time(self, operation: Callable[[], Any]) -> None:
        """Run it on a thread of its own, and give it up where it outlasts the transaction.

        librdkafka 2.16 ignores the time-out of `send_offsets_to_transaction`, and where the group's coordinator went away it
        may never return (its issues 5456 and 5511).
        """
        outcome: Future[None] = Future()

        def run() -> None:
            try:
                operation()
            except BaseException as error:  # noqa: BLE001  # told to whoever waits
                outcome.set_exception(error)
            else:
                outcome.set_result(None)

        threading.Thread(target=run, name="sending-offsets", daemon=True).start()
        try:
            outcome.result(self._transaction_s)
        except TimeoutError:
            self.usable, self._stuck = False, True
            raise BrokerUnavailable(
                f"sending offsets of {self.transactional_id}: the client gave no answer within {self._transaction_s:g} s"
            ) from None

    def close(self) -> None:
        """Let go of the connections; a transaction that is open is left to the next holder of the id."""
        if self._stuck:
            return  # would wait for the same answer; its epoch is over with the next producer
        # A fatal error is told once more here, as a KafkaError and as a warning; whoever met it knows.
        with suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._producer.close()

    def _look_at_connections(self) -> None:
        with suppress(PipelineError):
            self._serve()  # hands over the log lines that gathered
        if self._watch.broken:
            self.usable = False

    def _serve(self, timeout_s: float = 0) -> None:
        """Run the callbacks that are due. Here the client also raises a fatal error that it has met meanwhile."""
        try:
            self._producer.poll(timeout_s)
        except KafkaException as error:
            raise self._fatal(error.args[0]) from error

    def _retried(self, operation: Callable[[], Any], doing: str, timeout_s: float | None = None) -> None:
        """Run it again with the same arguments while the client says so; the order of the checks is the client's."""
        limit_s = self._transaction_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + limit_s
        while True:
            try:
                operation()
            except KafkaException as error:
                problem = error.args[0]
                if problem.fatal():
                    raise self._fatal(problem) from error
                if problem.name() in _MEMBERSHIP_LOST:
                    raise MembershipLost(f"{doing} of {self.transactional_id}: {problem.str()}.") from error
                if problem.txn_requires_abort() or not problem.retriable():
                    # What is neither is treated as fatal: librdkafka's INTRODUCTION.md.
                    self._failed = problem.txn_requires_abort()
                    self.usable = self.usable and self._failed
                    raise _passing(problem, f"{doing} of {self.transactional_id}") from error
                if time.monotonic() >= deadline:
                    # It may still be under way: no other call is taken before it ends.
                    self.usable = False
                    raise BrokerUnavailable(
                        f"{doing} of {self.transactional_id}: no end of it within {limit_s:g} s ({problem.name()})"
                    ) from error
                time.sleep(_RETRY_EVERY_S)
            else:
                return

    def _fatal(self, problem: KafkaError) -> PipelineError:
        self.usable = False
        if problem.name() == "_FATAL":
            # The client tells the reason of a fatal error only to the next call.
            try:
                self._producer.abort_transaction()
            except KafkaException as error:
                problem = error.args[0]
        if problem.name() in _FENCED:
            return ProducerFenced(f"Another process took over the transactional id {self.transactional_id}.")
        return _passing(problem, f"the transactional producer {self.transactional_id} cannot go on")


def _passing(problem: KafkaError, doing: str) -> PipelineError:
    """A denied user or an absent topic stays one. Whatever else ends a transaction ends with it: a new producer goes on."""
    error = translate(problem, doing)
    return BrokerUnavailable(str(error)) if type(error) is PipelineError else error


class GroupOffsets:
    """The metadata of a group that nobody joins: its offsets are only ever committed in transactions.

    Without a member there is no generation to fence by; the transactional id must do that alone.
    """

    def __init__(self, properties: Mapping[str, Any], group: str) -> None:
        self._consumer = Consumer(
            {**properties, "group.id": group, "enable.auto.commit": False}, logger=librdkafka_logger()
        )

    def metadata(self) -> Any:
        """What `send_offsets` takes."""
        return self._consumer.consumer_group_metadata()

    def close(self) -> None:
        """Let go of the connections."""
        self._consumer.close()


class _ConnectionWatch(logging.Handler):
    """Notices a broken connection or a request without an answer, told in log lines alone, and passes every line on."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = False
        self.logger = logging.Logger("librdkafka.transactions", logging.DEBUG)  # noqa: LOG001  # its own, with its own handler
        self.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith(_LATE):
            self.broken = True
        target = librdkafka_logger()
        if target.isEnabledFor(record.levelno):
            target.handle(record)
