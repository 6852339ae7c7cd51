"""A redrive from the page: planned and shown first, then done for exactly as many letters as were shown."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from pipeline import wiring
from pipeline.core.redrive import LetterId, Selection
from pipeline.core.spelling import clipped
from pipeline.errors import Refused, Unavailable
from pipeline.settings import Settings
from pipeline.stages.redrive import Redrive

ROWS_MAX = 20
LISTED_WITHIN_S = 10.0


class Redriving:
    """One redrive of the dead-letter topic at a time in this process; another process that begins one takes over."""

    def __init__(
        self, settings: Settings, stopping: Callable[[], bool], due_of: Callable[[Iterable[LetterId]], int]
    ) -> None:
        self._settings = settings
        self._stopping = stopping
        self._due_of = due_of
        self._one = threading.Lock()
        self._stage: Redrive | None = None

    def preview(self, selection: Selection) -> dict[str, Any]:
        """What would become of the selection's letters, counted, and of the first ones by name. Nothing is written."""
        outcomes: Counter[str] = Counter()
        rows: list[dict[str, Any]] = []
        with wiring.redrive(self._settings, selection=selection) as stage:
            for it in stage.preview(stage.plan(selection)):
                if self._stopping():
                    break
                outcomes[it.outcome] += 1
                if len(rows) < ROWS_MAX:
                    key = None if it.letter.key is None else clipped(it.letter.key)
                    rows.append(
                        {"id": str(it.letter.id), "key": key, "outcome": it.outcome, "to": it.to, "why": it.why}
                    )
        return {"selected": outcomes.total(), "outcomes": dict(outcomes.most_common()), "rows": rows}

    def run(self, selection: Selection, expected: int) -> dict[str, Any]:
        """Redrive the selection; returns when it is done or the process ends, and what was done is done for good.

        A list that is asked for afterwards has it, unless the broker shows it later than `LISTED_WITHIN_S`. Raises
        `Refused` when another one runs, or when other than `expected` letters are meant by now.
        """
        if not self._one.acquire(blocking=False):
            raise Refused("Another redrive runs. Nothing was redriven.")
        try:
            with wiring.redrive(self._settings, selection=selection) as self._stage:
                plan = self._stage.plan(selection)
                if len(plan.chosen) != expected:
                    raise Refused(
                        f"By now {len(plan.chosen)} letters are meant, not {expected}. Nothing was redriven; look again."
                    )
                totals = self._stage.run(plan, self._stopping, lambda: None)
            left = len(plan.chosen) - totals.redriven - totals.parked
            self._await_listed(plan.chosen, left)
            return totals.summary()
        finally:
            self._stage = None
            self._one.release()

    def progress(self) -> str | None:
        """How far it is, in words; None when none runs."""
        stage = self._stage
        return None if stage is None else stage.counts()[1]

    def _await_listed(self, letters: Iterable[LetterId], left: int) -> None:
        # A commit is answered before every partition has its marker, and only then a reader sees the marks.
        deadline = time.monotonic() + LISTED_WITHIN_S
        with suppress(Unavailable):
            while self._due_of(letters) > left and time.monotonic() < deadline and not self._stopping():
                time.sleep(0.1)
