"""What one process of the API holds, and the order in which it begins and ends.

It begins without broker, registry or store: it is live at once, ready when it found them. It ends so that nothing that was
answered is lost: the worker drains and commits, then the last orders get the broker's word.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from pipeline import metrics, wiring
from pipeline.api.figures import Figures
from pipeline.api.idempotency import Keys
from pipeline.api.problems import NOT_ACCEPTED, busy
from pipeline.api.publishing import Publisher, Publishing
from pipeline.api.redriving import Redriving
from pipeline.api.watch import Watch
from pipeline.api.worker import Worker
from pipeline.core.ports import Encoder
from pipeline.errors import PipelineError, Stopped
from pipeline.settings import Settings
from pipeline.sinks.sql import OrderStore
from pipeline.stages.consume import Consume

# The oldest order waits as long for the broker's word: no more are asked for.
UNHEARD_S = 5.0
Connect = Callable[[Settings, Callable[[], bool]], tuple[Publisher, Encoder]]
_log = logging.getLogger(__name__)


class Service:
    """Made before the event loop runs, opened and closed in it. `connect` finds what orders are published with."""

    def __init__(self, settings: Settings, connect: Connect = wiring.order_publisher) -> None:
        self.settings = settings
        self.figures = Figures()
        self.keys = Keys(settings.api.idempotency_keys, settings.api.idempotency_ttl, time.monotonic)
        self.store: OrderStore = wiring.order_store(settings)
        self.stopping = threading.Event()
        self.watch = Watch(settings, self._failures)
        self.worker = Worker(settings, self._joined, self.watch.settled) if settings.api.worker else None
        self.redriving = Redriving(settings, self.stopping.is_set, self.watch.due_of)
        self._stage: Consume | None = None
        self._connect = connect
        self._publishing: Publishing | None = None
        self._refusal: BaseException | None = None
        self._finding: asyncio.Task[None] | None = None

    @property
    def failure(self) -> BaseException | None:
        """Why this process cannot go on: what it needs is refused, or its worker ended by itself."""
        return self._refusal or (self.worker.error if self.worker else None)

    @property
    def publishing(self) -> Publishing:
        """Where orders go; raises a `Problem` while there is nothing yet, or the process ends."""
        if self._publishing is None:
            raise busy("not-ready", "Broker or registry were not found yet.", **NOT_ACCEPTED)
        if self.stopping.is_set():
            raise busy("stopping", "This process is about to end.", **NOT_ACCEPTED)
        return self._publishing

    def unready(self) -> str | None:
        """Why no order should be sent here now; None when there is no reason."""
        if self.stopping.is_set():
            return "stopping"
        if self.failure is not None:
            return "failed: see the log"
        if self._publishing is None:
            return "broker or registry not found yet"
        if self._publishing.waiting_s > UNHEARD_S:
            return f"no word of the broker for {self._publishing.waiting_s:.0f} s"
        return None

    async def open(self) -> None:
        """Begin: returns at once, what is away is waited for in the background."""
        self._finding = asyncio.create_task(self._find())
        if self.worker is not None:
            self.worker.start()
        self.watch.start()

    async def close(self) -> None:
        """End, in this order: the worker drains and commits, the last orders get their word, everything is let go."""
        self.stopping.set()
        if self.worker is not None:
            await asyncio.to_thread(self.worker.stop)
        if self._finding is not None:
            await self._finding
        if self._publishing is not None:
            await self._publishing.close(self.settings.kafka.message_timeout_ms / 1000)
        await asyncio.to_thread(self.watch.stop)
        self.store.close()

    async def _find(self) -> None:
        try:
            publisher, encoder = await asyncio.to_thread(self._connect, self.settings, self.stopping.is_set)
        except Stopped:
            return
        except PipelineError as error:
            self._refusal = error
            _log.error("No order can be taken: %s", error)
            return
        except Exception as error:  # noqa: BLE001  # kept: the process ends with it
            self._refusal = error
            _log.exception("No order can be taken")
            return
        self._publishing = Publishing(publisher, self.settings.kafka.topic, encoder, self.settings.api.queue)
        self.figures.watch_pending(lambda: self._publishing.pending if self._publishing else 0)

    def _failures(self) -> Mapping[str, int] | None:
        return None if self._stage is None else self._stage.failures_by_kind()

    def _joined(self, stage: Consume) -> None:
        self._stage, kafka = stage, self.settings.kafka
        with suppress(ValueError):  # it is there already
            self.figures.add(metrics.collector(stage, {"topic": kafka.topic, "group": kafka.consumer_group}))
