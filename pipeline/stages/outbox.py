"""What leaves the worker: dead letters and records on their way to a retry topic.

Nothing here waits. A message stays in the box until it is acknowledged, and only then its record is settled (P5): while
the broker is away it is sent again with back-off, and one that a topic refuses for good stops the worker.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.core.dead_letter import Letter
from pipeline.core.ports import Delivery, Encoder, Publisher
from pipeline.core.record import Headers
from pipeline.core.visible import sentence
from pipeline.errors import DeliveryFailed, PipelineError, TooLarge

SEND_AGAIN_S = 1.0
_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Message:
    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    partition: int
    what: str
    acknowledged: Callable[[int], None]
    wanted: Callable[[], bool]
    too_large: Callable[[TooLarge], bool]


class Outbox:
    """Messages on their way. `acknowledged(offset)` is called from `serve` alone.

    A message whose `wanted()` is false (its partition belongs to another member by now) is neither sent again nor told of.
    """

    def __init__(
        self,
        publisher: Publisher,
        dead_letter_topic: str,
        encoder: Encoder,
        clock: Callable[[], float],
    ) -> None:
        self._publisher = publisher
        self._dead_letter_topic = dead_letter_topic
        self._encoder = encoder
        self._clock = clock
        self._sent: set[_Message] = set()
        self._again: list[_Message] = []
        self._again_at = 0.0
        self._fates: list[tuple[_Message, Delivery]] = []

    def __len__(self) -> int:
        """How many are not acknowledged."""
        return len(self._sent) + len(self._again)

    def give_up(self, letter: Letter, acknowledged: Callable[[int], None], wanted: Callable[[], bool]) -> None:
        """Send a letter to the dead-letter topic, under the record's own key and partition.

        One that the topic refuses for its size is sent again without the record's value, then without its headers.
        """

        def too_large(error: TooLarge) -> bool:
            smaller = letter.smaller()
            if smaller is None:
                return False
            _log.warning("The dead letter of %s is written without its value: %s", letter.record.where, error)
            self.give_up(smaller, acknowledged, wanted)
            return True

        # The source's own partition: what shares a key and an order there does so here.
        record = letter.record
        value = self._encoder.encode(letter.envelope())
        what = f"The dead letter of {record.where}"
        topic, headers = self._dead_letter_topic, letter.headers()
        self._send(_Message(topic, record.key, value, headers, record.partition, what, acknowledged, wanted, too_large))

    def park(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        acknowledged: Callable[[int], None],
        wanted: Callable[[], bool],
        too_large: Callable[[TooLarge], bool] = lambda _: False,
    ) -> None:
        """Send a record to a retry topic. `too_large` is told when the topic refuses it for its size: true if it sees to it."""
        what = f"A record of {topic} [{partition}]"
        self._send(_Message(topic, key, value, headers, partition, what, acknowledged, wanted, too_large))

    def serve(self) -> None:
        """Take in what the broker said, tell of it, and send again what is due.

        Raises `DeliveryFailed` when a topic refuses one for good: it is missing, denied, or the message is too large.
        """
        if not self:
            return
        self._publisher.serve()
        fates, self._fates = self._fates, []
        for message, delivery in fates:
            self._sent.discard(message)
            if not message.wanted():
                continue
            if delivery.error is None:
                message.acknowledged(delivery.offset)
            else:
                self._failed(message, delivery.error)
        if self._again and self._clock() >= self._again_at:
            again, self._again = self._again, []
            for message in again:
                if message.wanted():
                    self._send(message)

    def _failed(self, message: _Message, error: PipelineError) -> None:
        if isinstance(error, TooLarge) and message.too_large(error):
            return
        missing = not isinstance(error, DeliveryFailed) and self._publisher.is_missing(message.topic)
        if missing or isinstance(error, DeliveryFailed):
            # The client only says that time ran out: a topic that is gone does not come back by waiting.
            reason = "there is no such topic" if missing else error
            raise DeliveryFailed(
                f"{message.what} cannot be written to {message.topic}: {reason}. Its offset is not committed. Is the "
                "topic there, with as many partitions as the source (make topics), may this user write to it, and does its "
                "max.message.bytes leave room?"
            )
        if not self._again:
            _log.warning("%s Trying again in %g s; nothing is lost or skipped.", sentence(str(error)), SEND_AGAIN_S)
            self._again_at = self._clock() + SEND_AGAIN_S
        self._again.append(message)

    def _send(self, message: _Message) -> None:
        self._sent.add(message)
        self._publisher.publish(
            message.topic,
            message.key,
            message.value,
            headers=message.headers,
            partition=message.partition,
            on_delivery=lambda delivery: self._fates.append((message, delivery)),
        )
