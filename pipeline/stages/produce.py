"""produce: orders → validated → serialised → `orders.v1`, keyed by order id; each ends acknowledged, refused or given back.

A refused line never reaches the topic. An order that was not acknowledged is given back whole (promise P1): refused by the
broker means that it is not in the topic, no acknowledgement in time that it may be there, once.

While the broker acknowledges nothing, nothing more is read, and nothing times out: what is in flight is sent in its order
when the broker is back, each order once (KIP-98's idempotence holds as long as the client does not give up by itself).
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.core.ports import Delivery, Encoder, Publisher
from pipeline.errors import DeliveryFailed, Invalid, Stopped
from pipeline.orders import OrderPlaced
from pipeline.stages.intake import Intake, Refusal

LOT = 256
# Without any acknowledgement for this long, while some are outstanding, reading pauses.
PAUSE_AFTER_S = 2.0
# How long a stop waits for the acknowledgements that are outstanding: below the 30 s after which Kubernetes kills.
STOP_S = 20.0
_SLICE_S = 0.2
_SAID_EVERY_S = 30.0
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Totals:
    """What one run did; read = refused + published + failed, once it has ended by itself."""

    read: int = 0
    refused: int = 0
    published: int = 0
    failed: int = 0
    seconds: float = 0.0

    def summary(self) -> dict[str, Any]:
        """As the door prints it."""
        return asdict(self) | {"seconds": round(self.seconds, 3)}


class NoAcknowledgement(Exception):
    """The broker acknowledged nothing for as long as this run waits."""


class Produce:
    """Publishes orders to one topic. `delivered` is told of every delivery, `refused` of every refusal.

    Orders are handed over in lots, and in every `meanwhile`, which an input calls before it waits; one by one with a `rate`.
    In lots that takes a tenth less of all the time: the code for it stays in the processor's cache.
    The run gives up after `give_up_after_s` seconds without any acknowledgement while some are outstanding; 0 for never.
    """

    def __init__(
        self,
        *,
        publisher: Publisher,
        topic: str,
        encoder: Encoder,
        clock: Callable[[], float],
        delivered: Callable[[Delivery], None],
        refused: Callable[[Refusal], None],
        rate: float | None = None,
        give_up_after_s: float = 0.0,
    ) -> None:
        self._publisher = publisher
        self._topic = topic
        self._encoder = encoder
        self._clock = clock
        self._tell_delivered = delivered
        # Bound once: the publisher needs one report for all that are told to the same.
        self._told = self._on_delivery
        self._tell_refused = refused
        self._rate = rate
        self._give_up_after_s = give_up_after_s
        self._lot: list[tuple[bytes, bytes]] = []
        self._handed_over = 0
        self._answers = _Answers()
        self._is_ending = False
        self._end_at: float | None = None
        self._stopping: Callable[[], bool] = lambda: False
        self._tick: Callable[[], None] = lambda: None
        self.totals = Totals()
        # Of what was read last; only lines of an input have a text.
        self._refusal: Callable[[str], Refusal] = lambda reason: Refusal(self.totals.read, reason, None)
        self.stopped = False
        self.gave_up = False
        self.read_all = False

    def run(
        self, orders: Iterable[OrderPlaced | Refusal], stopping: Callable[[], bool], tick: Callable[[], None]
    ) -> Totals:
        """Publish, with a `tick` now and then, until the input ends, `stopping()` (then it is `stopped`), or it `gave_up`.

        In each case, also when the input breaks off (`InputBroken` passes through), every order that was read has its
        report before this returns: after `STOP_S` seconds, or without an acknowledgement for `give_up_after_s`, that its
        outcome is unknown.
        """
        self._stopping, self._tick = stopping, tick
        if isinstance(orders, Intake):
            self._refusal = orders.refusal
        started = self._clock()
        self._answers.begin(started)
        try:
            if stopping():
                raise Stopped  # noqa: TRY301  # as an input does that is waiting
            for order in orders:
                self.totals.read += 1
                if isinstance(order, Refusal):
                    self._refuse(order)
                else:
                    self._publish(order, started)
                if self.totals.read % LOT == 0:
                    self.meanwhile()
                if stopping():
                    raise Stopped  # noqa: TRY301  # only now: what was read is published, the rest was not read
            self.read_all = True
        except Stopped:
            self.stopped = True
        except NoAcknowledgement:
            self.gave_up = True
        finally:
            self._await_reports()
            self.totals.seconds = self._clock() - started
        return self.totals

    def meanwhile(self) -> None:
        """For the time in which an input is silent: nothing waits here, and the delivery reports that have come are told."""
        self._hand_over()
        self._publisher.serve()
        self._tick()

    @property
    def _outstanding(self) -> int:
        """How many orders were handed over and have no report yet."""
        return self._handed_over - self.totals.published - self.totals.failed

    def _publish(self, order: OrderPlaced, started: float) -> None:
        if self._rate is None:
            self._encode(order)
            return
        self._pace(started, self._rate)
        self._encode(order)
        self._hand_over()

    def _encode(self, order: OrderPlaced) -> None:
        try:
            self._lot.append((order.order_id.encode(), self._encoder.encode(order.__dict__)))
        except Invalid as error:
            self._refuse(self._refusal(str(error)))

    def _hand_over(self) -> None:
        """Give the lot to the publisher, then wait while nothing is acknowledged. Raises `Stopped`, `NoAcknowledgement`."""
        lot, topic, offer = self._lot, self._topic, self._publisher.offer
        taken = 0
        try:
            for key, value in lot:
                while not offer(topic, key, value, on_delivery=self._told):
                    self._wait()
                self._handed_over += 1
                taken += 1
        finally:
            self._lot = lot[taken:]
        while self._outstanding and self._silent_s() >= PAUSE_AFTER_S:
            self._wait()

    def _silent_s(self) -> float:
        return self._answers.silent_s(self._clock(), self.totals.published + self.totals.failed, self._outstanding)

    def _wait(self) -> None:
        """Spend a moment on delivery reports. Raises `Stopped` and `NoAcknowledgement` when it is time."""
        if self._is_over():
            raise Stopped
        self._publisher.serve(_SLICE_S)
        self._tick()
        silent_s = self._silent_s()
        self._answers.say(silent_s, self._outstanding)
        if 0 < self._give_up_after_s <= silent_s:
            raise NoAcknowledgement

    def _is_over(self) -> bool:
        """Whether a signal ends the wait: at once while there is more to read, `STOP_S` after it where there is not."""
        if not self._stopping():
            return False
        if self._end_at is None:
            self._end_at = self._clock() + STOP_S
        return not self._is_ending or self._clock() >= self._end_at

    def _await_reports(self) -> None:
        """Wait until each order has its report; what has none when it is time to end gets one that says unknown."""
        self._is_ending = True
        try:
            while not self.gave_up and (self._lot or self._outstanding):
                self._hand_over()
                if self._outstanding:
                    self._wait()
        except Stopped:
            pass  # all was read: nothing but the rest of the wait is left out
        except NoAcknowledgement:
            self.gave_up = True
        if self._outstanding:
            self._publisher.abandon()
        # After those, so that what is kept of a key is in its order.
        lot, self._lot = self._lot, []
        for key, value in lot:
            error = DeliveryFailed(f"it was not sent to {self._topic}: too many before it were not acknowledged")
            self._handed_over += 1
            self._told(Delivery(self._topic, -1, -1, key, error, value))

    def _on_delivery(self, delivery: Delivery) -> None:
        if delivery.error is None:
            self.totals.published += 1
        else:
            self.totals.failed += 1
        self._tell_delivered(delivery)

    def _refuse(self, refusal: Refusal) -> None:
        self.totals.refused += 1
        self._tell_refused(refusal)

    def _pace(self, started: float, rate: float) -> None:
        """Spend the time until the next order is due on delivery reports."""
        due = started + (self.totals.read - 1) / rate
        while (wait := due - self._clock()) > 0 and not self._stopping():
            self._publisher.serve(min(wait, _SLICE_S))
            self._tick()

    def counts(self) -> tuple[int, str]:
        """How many were read, and what became of them, in words."""
        it = self.totals
        return it.read, f"{it.published} published, {it.refused} refused, {it.failed} not acknowledged"


class _Answers:
    """How long no delivery report has come, and what is said of that."""

    def __init__(self) -> None:
        self._count = 0
        self._since = 0.0
        self._said_at: float | None = None

    def begin(self, now: float) -> None:
        """From now on."""
        self._since = now

    def silent_s(self, now: float, count: int, outstanding: int) -> float:
        """Seconds since the count of reports last grew, or since nothing was outstanding."""
        if count != self._count or not outstanding:
            if self._said_at is not None and count != self._count:
                _log.warning("acknowledged again after %.0f s: reading goes on", now - self._since)
                self._said_at = None
            self._count, self._since = count, now
        return now - self._since

    def say(self, silent_s: float, outstanding: int) -> None:
        """That nothing is acknowledged: when reading pauses, and now and then while it does."""
        now = self._since + silent_s
        if silent_s < PAUSE_AFTER_S or (self._said_at is not None and now - self._said_at < _SAID_EVERY_S):
            return
        self._said_at = now
        _log.warning(
            "no acknowledgement for %.0f s: %d orders wait for theirs, nothing more is read until the broker answers",
            silent_s,
            outstanding,
        )
