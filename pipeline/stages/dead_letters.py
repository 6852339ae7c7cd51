"""Giving a record up: its letter is acknowledged in the dead-letter topic before its offset is committed (P5)."""

from collections.abc import Callable, Collection

from pipeline.core.dead_letter import Letter
from pipeline.core.ports import Delivery, Encoder, Publisher
from pipeline.core.record import TopicPartition
from pipeline.errors import DeliveryFailed, PipelineError


class DeadLetterBox:
    """Letters on their way to the dead-letter topic. A letter stays in the box until it is acknowledged."""

    def __init__(self, publisher: Publisher, topic: str, encoder: Encoder) -> None:
        self._publisher = publisher
        self._topic = topic
        self._encoder = encoder
        self._letters: list[Letter] = []

    def __len__(self) -> int:
        return len(self._letters)

    def put(self, letter: Letter) -> None:
        """Take a letter; `deliver` sends it."""
        self._letters.append(letter)

    def drop(self, partitions: Collection[TopicPartition]) -> None:
        """Forget the letters of partitions that another member works off now."""
        self._letters = [letter for letter in self._letters if letter.record.source not in partitions]

    def deliver(self) -> None:
        """Return once every letter is acknowledged.

        Raises `BrokerUnavailable` when that took too long (the unacknowledged stay in the box: call it again) and
        `DeliveryFailed` when the topic refuses one for good: it is missing, denied, or the letter is too large for it.
        """
        if not self._letters:
            return
        errors: dict[int, PipelineError] = {}
        for number, letter in enumerate(self._letters):
            self._publisher.publish(
                self._topic,
                letter.record.key,
                self._encoder.encode(letter.envelope()),
                headers=letter.headers(),
                # The source's own partition: what shares a key and an order there does so here.
                partition=letter.record.partition,
                on_delivery=_note(errors, number),
            )
        self._publisher.flush()
        unacknowledged = [self._letters[number] for number in errors]
        self._letters = unacknowledged
        refused = next((error for error in errors.values() if isinstance(error, DeliveryFailed)), None)
        if refused is None and errors and self._publisher.is_missing(self._topic):
            # The client only says that time ran out: a topic that is gone does not come back by waiting.
            refused = DeliveryFailed("there is no such topic")
        if refused is not None:
            raise DeliveryFailed(
                f"The dead letter of {unacknowledged[0].record.where} cannot be written: {refused}. "
                f"Nothing after it was committed. Is {self._topic} there, with as many partitions as the source "
                "(make topics), may this user write to it, and does its max.message.bytes leave room for the envelope?"
            )
        if errors:
            raise next(iter(errors.values()))


def _note(errors: dict[int, PipelineError], number: int) -> Callable[[Delivery], None]:
    def note(delivery: Delivery) -> None:
        if delivery.error is not None:
            errors[number] = delivery.error

    return note
