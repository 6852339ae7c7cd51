"""produce: orders → validated → serialised → `orders.v1`, keyed by order id; each ends acknowledged, refused or named.

A refused line never reaches the topic. An order that was not acknowledged is named with its key: refused by the broker
means that it is not in the topic, no acknowledgement in time that it may be there, once (promise P1).
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.core.ports import Delivery, Encoder, Publisher
from pipeline.errors import Invalid, Stopped
from pipeline.orders import OrderPlaced
from pipeline.stages.intake import Refusal

LOT = 256
_PAUSE_S_MAX = 0.2


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


class Produce:
    """Publishes orders to one topic. `delivered` is told of every delivery, `refused` of every refusal.

    Orders are handed over in lots, and in every `meanwhile`, which an input calls before it waits; one by one with a `rate`.
    In lots that takes a tenth less of all the time: the code for it stays in the processor's cache.
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
        self._lot: list[tuple[bytes, bytes]] = []
        self._tick: Callable[[], None] = lambda: None
        self.totals = Totals()
        self.stopped = False

    def run(
        self, orders: Iterable[OrderPlaced | Refusal], stopping: Callable[[], bool], tick: Callable[[], None]
    ) -> Totals:
        """Publish, with a `tick` now and then, until the input ends or `stopping()`: then it is `stopped`.

        Then, also when the input breaks off (`InputBroken` passes through), waits for every delivery report.
        """
        self._tick = tick
        started = self._clock()
        try:
            for order in orders:
                if stopping():
                    raise Stopped  # noqa: TRY301  # as an input does that is waiting
                self.totals.read += 1
                if isinstance(order, Refusal):
                    self._refuse(order)
                    continue
                if self._rate is not None:
                    self._pace(started, self._rate, stopping)
                self._encode(order)
                if self._rate is not None:
                    self._hand_over()
                if self.totals.read % LOT == 0:
                    self.meanwhile()
        except Stopped:
            self.stopped = True
        finally:
            self._hand_over()
            self._publisher.flush()
            self.totals.seconds = self._clock() - started
        return self.totals

    def meanwhile(self) -> None:
        """For the time in which an input is silent: nothing waits here, and the delivery reports that have come are told."""
        self._hand_over()
        self._publisher.serve()
        self._tick()

    def _encode(self, order: OrderPlaced) -> None:
        try:
            self._lot.append((order.order_id.encode(), self._encoder.encode(order.__dict__)))
        except Invalid as error:
            self._refuse(Refusal(self.totals.read, str(error), None))

    def _hand_over(self) -> None:
        lot, self._lot = self._lot, []
        for key, value in lot:
            self._publisher.publish(self._topic, key, value, on_delivery=self._told)

    def _on_delivery(self, delivery: Delivery) -> None:
        if delivery.error is None:
            self.totals.published += 1
        else:
            self.totals.failed += 1
        self._tell_delivered(delivery)

    def _refuse(self, refusal: Refusal) -> None:
        self.totals.refused += 1
        self._tell_refused(refusal)

    def _pace(self, started: float, rate: float, stopping: Callable[[], bool]) -> None:
        """Spend the time until the next order is due on delivery reports."""
        due = started + (self.totals.read - 1) / rate
        while (wait := due - self._clock()) > 0 and not stopping():
            self._publisher.serve(min(wait, _PAUSE_S_MAX))
            self._tick()

    def counts(self) -> tuple[int, str]:
        """How many were read, and what became of them, in words."""
        it = self.totals
        return it.read, f"{it.published} published, {it.refused} refused, {it.failed} not acknowledged"
