"""What leaves the worker: nothing counts before it is acknowledged, and nothing is sent for a partition that is gone."""

from collections.abc import Mapping
from typing import Any

import pytest

from pipeline.core.dead_letter import Letter, Worker
from pipeline.core.failures import Failure, FailureKind
from pipeline.core.ports import Delivery
from pipeline.core.record import Record, TopicPartition
from pipeline.errors import BrokerUnavailable, DeliveryFailed, PipelineError, TooLarge
from pipeline.stages.outbox import SEND_AGAIN_S, Outbox
from tests.stages.broker import BrokerPublisher, FakeBroker
from tests.stages.fakes import FakeClock

RETRY = TopicPartition("retry-5s", 3)


class Bench:
    def __init__(self) -> None:
        self.broker: FakeBroker = FakeBroker()
        self.publisher: BrokerPublisher = BrokerPublisher(self.broker)
        self.clock = FakeClock()
        self.outbox = Outbox(self.publisher, "orders.dlq.v1", self.broker, self.clock)
        self.acknowledged: list[tuple[str, int]] = []
        self.wanted = {"a": True, "b": True}

    def park(self, key: str) -> None:
        self.outbox.park(
            *RETRY,
            key.encode(),
            b"v",
            (("n", None),),
            lambda offset: self.acknowledged.append((key, offset)),
            lambda: self.wanted[key],
        )

    def serve_until(self, now: float) -> None:
        while self.clock.now < now:
            self.outbox.serve()
            self.clock()


def test_record_is_told_of_with_its_offset_when_it_lies_there_and_not_before() -> None:
    bench = Bench()
    bench.park("a")
    bench.park("b")
    assert (bench.acknowledged, len(bench.outbox)) == ([], 2)
    bench.outbox.serve()
    assert (bench.acknowledged, len(bench.outbox)) == ([("a", 0), ("b", 1)], 0)
    assert bench.broker.logs[RETRY][0][:6] == (*RETRY, 0, b"a", b"v", (("n", None),))


def test_letter_goes_to_the_records_own_partition_under_its_own_key() -> None:
    bench = Bench()
    record = Record("orders.v1", 5, 42, b"k", None, (("n", b"1"),), 7)
    letter = Letter(record, Failure(FailureKind.REJECTED, "E", "no"), Worker("g", "one"), 9)
    bench.outbox.give_up(letter, lambda offset: bench.acknowledged.append(("letter", offset)), lambda: True)
    bench.outbox.serve()
    [written] = bench.broker.logs[TopicPartition("orders.dlq.v1", 5)]
    assert (written.key, written.headers) == (b"k", letter.headers())
    assert bench.broker.envelopes == [letter.envelope()]
    assert bench.acknowledged == [("letter", 0)]


def test_message_without_acknowledgement_is_sent_again_after_a_while_until_it_has_one() -> None:
    bench = Bench()
    bench.publisher.fails = lambda topic: "lost"
    bench.park("a")
    bench.outbox.serve()
    assert (bench.acknowledged, len(bench.outbox)) == ([], 1)
    bench.serve_until(5 * SEND_AGAIN_S)
    assert (bench.acknowledged, len(bench.outbox)) == ([], 1)
    bench.publisher.fails = lambda topic: None
    bench.serve_until(8 * SEND_AGAIN_S)
    assert (bench.acknowledged, len(bench.outbox)) == ([("a", 0)], 0)


def test_message_for_a_partition_that_is_gone_is_neither_told_of_nor_sent_again() -> None:
    bench = Bench()
    bench.park("a")
    bench.publisher.fails = lambda topic: "lost"
    bench.park("b")
    bench.wanted["a"] = False
    bench.publisher.serve()
    bench.publisher.fails = lambda topic: None
    bench.outbox.serve()
    bench.wanted["b"] = False
    bench.serve_until(5 * SEND_AGAIN_S)
    assert (bench.acknowledged, len(bench.outbox)) == ([], 0)
    assert RETRY not in bench.broker.logs


@pytest.mark.parametrize(
    ("error", "missing", "words"),
    [(DeliveryFailed("denied"), False, "denied"), (BrokerUnavailable("time out"), True, "there is no such topic")],
)
def test_topic_that_refuses_for_good_stops_and_names_what_and_where(
    error: PipelineError, missing: bool, words: str
) -> None:
    bench = Bench()
    bench.publisher.refused = error
    bench.publisher.is_missing = lambda topic: missing  # type: ignore[method-assign]
    bench.park("a")
    with pytest.raises(DeliveryFailed, match=rf"A record of retry-5s \[3\] cannot be written to retry-5s: {words}"):
        bench.outbox.serve()
    assert bench.acknowledged == []


class Small(BrokerPublisher):
    """Its topics take no value longer than this."""

    most = 100

    def serve(self, timeout_s: float = 0) -> None:
        queue, self._queue = self._queue, []
        for where, message, on_delivery in queue:
            size = len(message[1] or b"") + sum(len(value or b"") for _, value in message[2])
            if size > self.most:
                on_delivery(Delivery(*where, -1, message[0], TooLarge("MSG_SIZE_TOO_LARGE")))
            else:
                offset = self._broker.write(where, *message).offset
                on_delivery(Delivery(*where, offset, message[0], None))


class Raw(FakeBroker):
    """Its envelopes are as large as what they hold."""

    def encode(self, datum: Mapping[str, Any]) -> bytes:
        self.envelopes.append(dict(datum))
        return (datum["value"] or b"") + b"".join(each["value"] or b"" for each in datum["headers"])


def small_bench(most: int) -> Bench:
    bench = Bench()
    bench.broker = Raw()
    bench.publisher = publisher = Small(bench.broker)
    publisher.most = most
    bench.outbox = Outbox(bench.publisher, "orders.dlq.v1", bench.broker, bench.clock)
    return bench


def give_up(bench: Bench, **changes: Any) -> None:
    record = Record("orders.v1", 5, 42, b"k", b"v" * 5000, (("n", b"1"),), 7)._replace(**changes)
    letter = Letter(record, Failure(FailureKind.REJECTED, "E", "no"), Worker("g", "one"), 9)
    bench.outbox.give_up(letter, lambda offset: bench.acknowledged.append(("letter", offset)), lambda: True)
    for _ in range(4):
        bench.outbox.serve()


def test_letter_that_does_not_fit_is_written_without_its_value_and_then_acknowledged() -> None:
    bench = small_bench(1000)
    give_up(bench)
    assert (bench.acknowledged, len(bench.outbox)) == ([("letter", 0)], 0)
    [written] = bench.broker.logs[TopicPartition("orders.dlq.v1", 5)]
    assert (written.key, dict(written.headers)["original-value-bytes"]) == (b"k", b"5000")
    assert (bench.broker.envelopes[-1]["value"], bench.broker.envelopes[-1]["source_offset"]) == (None, 42)


def test_letter_whose_headers_do_not_fit_either_is_written_without_them() -> None:
    bench = small_bench(1000)
    give_up(bench, headers=(("n", b"x" * 5000),))
    [written] = bench.broker.logs[TopicPartition("orders.dlq.v1", 5)]
    assert (bench.acknowledged, dict(written.headers)["left-out"]) == ([("letter", 0)], b"value, headers")


def test_topic_that_takes_no_letter_at_all_stops_the_worker() -> None:
    bench = small_bench(10)
    with pytest.raises(DeliveryFailed, match=r"cannot be written to orders\.dlq\.v1: MSG_SIZE_TOO_LARGE"):
        give_up(bench)
    assert bench.acknowledged == []


def test_record_that_a_retry_topic_does_not_take_is_handed_back() -> None:
    bench = small_bench(10)
    told: list[TooLarge] = []

    def too_large(error: TooLarge) -> bool:
        told.append(error)
        return True

    bench.outbox.park(*RETRY, b"k", b"v" * 50, (), lambda _: None, lambda: True, too_large)
    bench.outbox.serve()
    assert (len(told), len(bench.outbox)) == (1, 0)
