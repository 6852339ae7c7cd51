"""A forwarder that keeps a journal of its transactions: `python -m tests.chaos.child JOURNAL [MUTANT] -- <options of forward>`.

Each record that it publishes gets the name of its transaction as a header, and the journal says before each commit what was
published, and after it what came of it. A mutant is a forwarder with one mistake, for tests of the checker.
"""

import faulthandler
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from pipeline import faults, wiring
from pipeline.core.record import Headers, TopicPartition
from pipeline.forward import app
from pipeline.kafka import transactions
from pipeline.kafka.transactions import GroupOffsets, TransactionalProducer
from pipeline.stages.forward import Forward

ID, TRANSACTION = "chaos-id", "chaos-transaction"
# Points of its own at which it can be stopped: all outputs are written; the offsets are committed, the outputs are not.
WRITTEN, BETWEEN = "written", "between"


class Journaled(TransactionalProducer):
    """Tells the journal."""

    journal: int
    source: str
    _reached = staticmethod(faults.from_environment())
    _numbers = 0

    def begin(self) -> None:
        super().begin()
        Journaled._numbers += 1
        self._name = f"{self.transactional_id}/{os.getpid()}/{Journaled._numbers}"
        self._published: list[tuple[str, str]] = []
        self._offsets: dict[int, int] = {}

    def publish(
        self, topic: str, key: bytes | None, value: bytes | None, *, headers: Headers = (), **rest: Any
    ) -> None:
        stamped = [*(each for each in headers if each[0] != TRANSACTION), (TRANSACTION, self._name.encode())]
        super().publish(topic, key, value, headers=tuple(stamped), **rest)
        self._published.append((topic, (dict(headers)[ID] or b"").decode()))

    def send_offsets(self, offsets: Mapping[TopicPartition, int], group: Any, *notes: Any) -> None:
        if WRITTEN in os.environ.get(faults.STOP_AT, ""):
            self._producer.flush(10)
        self._reached(WRITTEN)
        self._offsets |= {where.partition: offset for where, offset in offsets.items() if where.topic == self.source}
        super().send_offsets(offsets, group, *notes)

    def commit(self) -> None:
        self._tell(asked=True, published=self._published, offsets=self._offsets)
        super().commit()
        self._tell(outcome="ok")

    def abort(self) -> bool:
        confirmed = super().abort()
        if confirmed:
            self._tell(outcome="failed")
        return confirmed

    def _tell(self, **what: Any) -> None:
        os.write(self.journal, (json.dumps({"transaction": self._name} | what) + "\n").encode())


# --- mutants


def without_the_guard() -> None:
    """Late requests are not reckoned with."""
    transactions._LATE = ()


def offsets_before_outputs() -> None:
    """The offsets are committed, then what was forwarded; it can be stopped between both."""

    class Hasty(Journaled):
        def begin(self) -> None:
            super().begin()
            self._later: list[Callable[[], None]] = []

        def publish(self, *what: Any, **rest: Any) -> None:
            self._later.append(lambda: Journaled.publish(self, *what, **rest))

        def commit(self) -> None:
            super().commit()
            later = self._later
            self._reached(BETWEEN)
            super().begin()
            for publish in later:
                publish()
            super().commit()

    _use(Hasty)


def group_name_alone() -> None:
    """An id by chance, and a group's name without a generation: nothing fences a zombie."""
    known: dict[str, GroupOffsets] = {}

    class Anonymous(Journaled):
        def __init__(self, properties: Any, transactional_id: str, **rest: Any) -> None:
            super().__init__(properties, f"{transactional_id}-{uuid4()}", **rest)
            self._group = transactional_id.rpartition("-")[0]
            self._connection = {"bootstrap.servers": properties["bootstrap.servers"]}

        def send_offsets(self, offsets: Mapping[TopicPartition, int], group: Any, *notes: Any) -> None:
            if self._group not in known:
                known[self._group] = GroupOffsets(self._connection, self._group)
            super().send_offsets(offsets, known[self._group].metadata(), *notes)

    _use(Anonymous)


def no_rewind() -> None:
    """After an abort it goes on with the next record."""

    def abort(self: Any) -> None:
        if self._begun_at is not None:
            self._producer.abort()
            self._begun_at = None
            self.totals.aborted += 1

    Forward._abort = abort  # type: ignore[method-assign]


def offsets_of_lost_partitions() -> None:
    """It sends every offset that it ever had, whoever's partition it is by now."""

    ever: dict[TopicPartition, int] = {}

    class Possessive(Journaled):
        def send_offsets(self, offsets: Mapping[TopicPartition, int], group: Any, *notes: Any) -> None:
            ever.update(offsets)
            super().send_offsets(dict(ever), group, *notes)

    _use(Possessive)


MUTANTS = {it.__name__.replace("_", "-"): it for it in (
    without_the_guard, offsets_before_outputs, group_name_alone, no_rewind, offsets_of_lost_partitions,
)}  # fmt: skip


def _use(producer: type[TransactionalProducer]) -> None:
    wiring.TransactionalProducer = producer  # type: ignore[misc]


def main() -> None:
    faulthandler.register(signal.SIGUSR1)
    own, options = sys.argv[1 : sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1 :]
    Journaled.journal = os.open(Path(own[0]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    Journaled.source = os.environ["PIPELINE_KAFKA__TOPIC"]
    _use(Journaled)
    for mutant in own[1:]:
        MUTANTS[mutant]()
    app(options)


if __name__ == "__main__":
    main()
