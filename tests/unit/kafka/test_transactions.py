"""What the transactional producer notices of its connections, and when it may be used again."""

import logging
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from pipeline.errors import PipelineError, TimestampRefused, TooLarge
from pipeline.kafka import transactions
from pipeline.kafka.transactions import TransactionalProducer, _ConnectionWatch


def test_broken_connection_is_noticed_by_its_log_line_alone() -> None:
    watch = _ConnectionWatch()
    watch.logger.info("TXNSTATE [orders-pipeline#producer-1] [thrd:main]: FAIL is only mentioned")
    assert not watch.broken
    watch.logger.log(
        logging.INFO, "FAIL [%s] [thrd:host:9092/1]: Disconnected (after 12 ms)", "orders-pipeline#producer-1"
    )
    assert watch.broken


class Client:
    """The client's producer, whose commits fail as told; `reports` are the delivery errors that it tells of before."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.calls: list[str] = []
        self.reports: list[KafkaError] = []
        self._report: Any = None

    def init_transactions(self, timeout_s: float) -> None: ...

    def begin_transaction(self) -> None:
        self.calls.append("begin")

    def produce(self, topic: str, value: Any, key: Any, partition: int, report: Any, *_: Any) -> None:
        self._report = report

    def commit_transaction(self) -> None:
        self.calls.append("commit")
        for error in self.reports:
            self._report(error, Message())
        raise KafkaException(KafkaError(KafkaError._INCONSISTENT, "no", False, False, True))

    def abort_transaction(self) -> None:
        self.calls.append("abort")

    def poll(self, timeout_s: float) -> None: ...

    def close(self) -> None: ...


class Message:
    def topic(self) -> str:
        return "orders.v1"

    def offset(self) -> None: ...


@pytest.fixture
def producer(monkeypatch: pytest.MonkeyPatch) -> TransactionalProducer:
    monkeypatch.setattr(transactions, "Producer", Client)
    it = TransactionalProducer({}, "id")
    it.begin()
    it.publish("orders.v1", b"k", b"v")
    return it


@pytest.mark.parametrize(
    ("code", "error"),
    [(KafkaError.MSG_SIZE_TOO_LARGE, TooLarge), (KafkaError.INVALID_TIMESTAMP, TimestampRefused)],
)
def test_producer_whose_record_was_refused_goes_on_after_one_abort(
    producer: TransactionalProducer, code: int, error: type[PipelineError]
) -> None:
    client: Any = producer._producer
    client.reports = [KafkaError(code)]
    with pytest.raises(error):
        producer.commit()
    assert (producer.abort(), producer.usable) == (True, True)
    producer.begin()
    assert producer.abort()
    assert client.calls == ["begin", "commit", "abort", "begin", "abort"]


@pytest.mark.parametrize(
    "reports", [[], [KafkaError(KafkaError._MSG_TIMED_OUT)], [KafkaError(KafkaError.INVALID_REQUIRED_ACKS)]]
)
def test_producer_whose_commit_failed_for_another_reason_is_not_used_again(
    producer: TransactionalProducer, reports: list[KafkaError]
) -> None:
    """Nobody knows what is still under way of it: an EndTxn that comes late would end the next transaction."""
    client: Any = producer._producer
    client.reports = reports
    with pytest.raises(PipelineError):
        producer.commit()
    assert (producer.abort(), producer.usable) == (True, False)
    assert client.calls == ["begin", "commit", "abort"]
