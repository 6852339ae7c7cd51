"""The background worker of the app: the consume stage on a thread of its own, begun and ended with the app."""

import logging
import threading
from collections.abc import Callable

from pipeline import wiring
from pipeline.core.failures import Failure
from pipeline.core.record import Record
from pipeline.errors import PipelineError, Stopped
from pipeline.settings import Settings
from pipeline.stages.consume import Consume

_log = logging.getLogger(__name__)


class Worker:
    """One worker of the group. `ready` is told of the stage once it joined, `seen` of every settled record."""

    def __init__(
        self, settings: Settings, ready: Callable[[Consume], None], seen: Callable[[Record, Failure | None], None]
    ) -> None:
        self._settings = settings
        self._ready = ready
        self._seen = seen
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self.error: BaseException | None = None
        self.state = "starting"

    def start(self) -> None:
        """Begin; broker, registry and store may be away still."""
        self._thread.start()

    def stop(self) -> None:
        """Return once what is in hand has ended and is committed; see `Consume.run`."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            with wiring.consume(
                self._settings,
                handler=None,
                until_end=False,
                stopping=self._stopping.is_set,
                verbose=False,
                seen=self._seen,
            ) as stage:
                self._ready(stage)
                self.state = "running"
                stage.run(self._stopping.is_set)
            self.state = "stopped"
        except Stopped:
            self.state = "stopped"
        except PipelineError as error:
            self.state, self.error = "failed", error
            _log.error("The worker ended: %s", error)
        except Exception as error:  # noqa: BLE001  # kept: the process ends with it
            self.state, self.error = "failed", error
            _log.exception("The worker ended")
