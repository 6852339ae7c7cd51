"""How long a stage waits for what is down before it tries again."""

import logging
from collections.abc import Callable

from pipeline.core.failures import classify
from pipeline.core.visible import sentence
from pipeline.errors import Unavailable

DELAYS_S = (0.2, 0.5, 1.0, 2.0, 5.0)
_log = logging.getLogger(__name__)


class BackOff:
    """The waits for something that is down, each longer than the one before; true while it is. Each is said once."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._times = 0
        self._until = 0.0

    def __bool__(self) -> bool:
        return self._times > 0

    def delay(self, outage: Unavailable) -> float:
        """Seconds until the next try; what is left of them while one is being waited for."""
        now = self._clock()
        if now < self._until:
            return self._until - now
        delay = DELAYS_S[min(self._times, len(DELAYS_S) - 1)]
        self._times += 1
        self._until = now + delay
        problem = sentence(classify(outage).message)
        _log.warning(
            "%s Trying again in %g s; nothing is lost or skipped.", problem, delay, extra={"retry_in_s": delay}
        )
        return delay

    def end(self) -> None:
        """It answered."""
        if self._times:
            self._times = 0
            _log.info("back to work")
