"""What the dashboard sees: one look at the cluster a second while somebody watches, seldom while nobody does.

Everything is asked of the stages that the commands use. What does not answer is said, with since when; what was seen last
stays, with its time. Nothing here is needed to take an order.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from decimal import Decimal
from typing import Any, TypeVar

from pipeline import wiring
from pipeline.core.failures import Failure
from pipeline.core.record import Record
from pipeline.core.redrive import LetterId
from pipeline.errors import BrokerUnavailable, PipelineError, RecordError, Unavailable
from pipeline.kafka.admin import Cluster
from pipeline.kafka.follow import Follower
from pipeline.serde.avro import AvroReader
from pipeline.serde.writer_schemas import WriterSchemas
from pipeline.settings import Settings
from pipeline.stages import groups
from pipeline.stages.groups import Progress
from pipeline.stages.letter_index import LetterIndex

LOOK_EVERY_S = 1.0
UNWATCHED_EVERY_S = 5.0
LAST_LOOK_S = 3.0
HISTORY_POINTS = 600
# What passed before this process began is shown too, as far as it is not too much to read at once.
BACK_MS = 15 * 60_000
BACK_RECORDS_MAX = 2_000
# A second's records that are looked at one by one; what is beyond is counted by offsets only, and said so.
RECORDS_MAX = 4_000
# What passed before this process began is looked at in so many looks, before what is beyond is left out.
CATCHING_UP_MAX = 10
LATEST_MAX = 30
MINUTES_MAX = 60
LATENCIES_MAX = 20_000
# Reasons and sources are what letters say: somebody may write a hundred thousand of them.
KINDS_MAX = 20
KIND_CHARACTERS_MAX = 256
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Watch:
    """Looks, on a thread of its own, from `start` to `stop`. `state` is the last look, as JSON has it."""

    def __init__(self, settings: Settings, failures: Callable[[], Mapping[str, int] | None]) -> None:
        self._settings = settings
        self._failures = failures
        self._over = threading.Event()
        self._wanted = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dashboard", daemon=True)
        self._watchers = 0
        self._cluster: Cluster | None = None
        self._flow = Flow(settings)
        self._rates = Rates(settings)
        self._letters_problem: str | None = "not read yet"
        self._index: LetterIndex | None = None
        self._away_since: float | None = None
        self._why: str | None = None
        # What could not be told at the last look, though the broker answers: "groups", "rates", "orders", and why.
        self._problems: dict[str, str] = {}
        self._groups: list[dict[str, Any]] = []
        self._found: list[Progress] = []
        self._seen_at: float | None = None
        self.number = 0
        self.state: dict[str, Any] = {}

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """End; a look that a broker does not answer is not waited for: it changes nothing."""
        self._over.set()
        self._wanted.set()
        if self._thread.ident is not None:
            self._thread.join(LAST_LOOK_S)

    def settled(self, record: Record, failure: Failure | None) -> None:
        """The worker of this process settled a record. Called by its thread, for each: it must cost nothing."""
        if failure is None and record.timestamp_ms is not None:
            self._flow.latencies.append((time.time(), time.time() * 1000 - record.timestamp_ms))

    def watched(self, by: int) -> None:
        """So many more watch (or fewer)."""
        self._watchers += by
        self._wanted.set()

    @property
    def history(self) -> list[list[float | None]]:
        """Seconds, orders in, orders out, lag: a column each, a point for each look."""
        points = list(self._rates.points)
        return [list(column) for column in zip(*points, strict=True)] if points else [[], [], [], []]

    @property
    def index(self) -> LetterIndex:
        """The letters; `Unavailable` until they were read for the first time."""
        if self._index is None or self._letters_problem:
            raise Unavailable(f"The dead letters cannot be told: {self._letters_problem}")
        return self._index

    def due_of(self, letters: Iterable[LetterId]) -> int:
        """How many of these letters are due, by a reading of now; raises `Unavailable` when they cannot be read."""
        if self._index is not None:
            self._read_letters(self._index)
        return self.index.due(letters)

    def _run(self) -> None:
        with wiring.letter_index(self._settings) as index, wiring.registry(self._settings) as writers:
            self._index = index
            schemas = WriterSchemas(writers.schema_by_id, time.monotonic)
            while not self._over.is_set():
                began = time.monotonic()
                try:
                    self._look(index, schemas)
                except Exception:  # noqa: BLE001  # a look that failed is no reason to end: the next one may not
                    _log.exception("the dashboard could not look")
                took_s = time.monotonic() - began
                # A cluster with many groups is not asked without a pause.
                rest = max(took_s, (LOOK_EVERY_S if self._watchers else UNWATCHED_EVERY_S) - took_s)
                self._wanted.clear()
                if not self._over.is_set():
                    self._wanted.wait(rest)
                    # Somebody came: at most once a second all the same.
                    self._over.wait(max(0.0, LOOK_EVERY_S - (time.monotonic() - began)))
            self._flow.close()

    def _look(self, index: LetterIndex, schemas: WriterSchemas) -> None:
        now = time.time()
        try:
            self._reach()
            self._problems = {}
            self._part("groups", self._survey, now)
            self._part("rates", self._count, now)
            self._part("orders", self._flow.follow, schemas)
            self._seen_at = now
            self._away_since = self._why = None
        except PipelineError as error:
            # A client that was made before the outage may keep what it learnt then.
            self._cluster = None
            self._flow.close()
            self._away_since = self._away_since or now
            self._why = str(error)
        if self._away_since is None and self._watchers:
            self._read_letters(index)
        self.state = self._said(now, index)
        self.number += 1

    def _part(self, name: str, look: Callable[[_T], None], at: _T) -> None:
        """Look at this much. What is refused, or waits for the registry, costs only this; a broker that is away costs all."""
        try:
            look(at)
        except BrokerUnavailable:
            raise
        except PipelineError as error:
            self._problems[name] = str(error)
            if name == "orders":
                self._flow.close()

    def _reach(self) -> None:
        if self._cluster is None:
            self._cluster = wiring.cluster(self._settings)
            self._cluster.wait_until_reachable(LOOK_EVERY_S)

    def _survey(self, now: float) -> None:
        assert self._cluster is not None
        self._found = groups.survey(self._cluster, int(now * 1000))
        self._groups = [{**groups.values(each), "problem": each.problem} for each in self._found]
        self._flow.committed(self._found, self._settings.kafka.consumer_group)

    def _count(self, now: float) -> None:
        assert self._cluster is not None
        self._rates.saw(now, self._cluster.end_offsets(self._settings.kafka.topic), self._found)

    def _read_letters(self, index: LetterIndex) -> None:
        try:
            index.refresh()
            self._letters_problem = None
        except (PipelineError, RecordError) as error:
            self._letters_problem = str(error)

    def _said(self, now: float, index: LetterIndex) -> dict[str, Any]:
        kafka = self._settings.kafka
        return {
            "at": now,
            "seen_at": self._seen_at,
            "broker": {"where": kafka.bootstrap_servers, "away_since": self._away_since, "why": self._why},
            "topic": kafka.topic,
            "group": kafka.consumer_group,
            "point": self._rates.points[-1] if self._rates.points and self._away_since is None else None,
            "latency": self._flow.latency(now),
            "groups": self._groups,
            "problems": dict(self._problems),
            "letters": {**_most(index.stats()), "problem": self._letters_problem},
            "failures": self._failures(),
            "orders": list(self._flow.latest),
            "sampled": self._flow.is_sampled(now),
            "revenue": [[minute, str(amount)] for minute, amount in sorted(self._flow.revenue.items())],
        }


def _most(stats: Mapping[str, Any]) -> dict[str, Any]:
    """The most frequent reasons, sources and groups, and how many letters have others."""
    said = dict(stats)
    for name in ("by_reason", "by_source", "by_group"):
        counts = sorted(stats.get(name, {}).items(), key=lambda each: each[1], reverse=True)
        said[name] = {}
        for kind, count in counts[:KINDS_MAX]:
            kept = kind[:KIND_CHARACTERS_MAX]
            said[name][kept] = said[name].get(kept, 0) + count
        said[f"{name}_others"] = sum(count for _, count in counts[KINDS_MAX:])
    return said


class Rates:
    """Orders per second into the topic and out of it, and the lag of its group, look by look."""

    def __init__(self, settings: Settings) -> None:
        self._topic = settings.kafka.topic
        self._group = settings.kafka.consumer_group
        self._last: tuple[float, int, int | None] | None = None
        self.points: deque[tuple[float, float | None, float | None, float | None]] = deque(maxlen=HISTORY_POINTS)

    def saw(self, now: float, ends: Mapping[int, int], found: Iterable[Progress]) -> None:
        """The ends of the topic, and how far every group is."""
        mine = next((each for each in found if each.group.name == self._group and not each.problem), None)
        standings = [each for each in mine.standings if each.source.topic == self._topic] if mine else []
        end, lag = sum(ends.values()), mine.lag if mine else None
        out = sum(each.end - each.lag for each in standings) if standings else None
        last, self._last = self._last, (now, end, out)
        if last is None:
            return
        seconds = max(0.001, now - last[0])
        came = max(0.0, (end - last[1]) / seconds)
        went = None if out is None or last[2] is None else max(0.0, (out - last[2]) / seconds)
        self.points.append((now, came, went, lag))


class Flow:
    """The orders themselves as they pass: the latest, revenue by minute, and how long each took to be worked off."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._began_ms = time.time() * 1000
        self._follower: Follower | None = None
        self._decoder: AvroReader | None = None
        # (partition, offset, milliseconds when it was written) of what is not known to be committed yet.
        self._open: deque[tuple[int, int, int]] = deque(maxlen=LATENCIES_MAX)
        self.latencies: deque[tuple[float, float]] = deque(maxlen=LATENCIES_MAX)
        self._at_most: deque[tuple[float, float]] = deque(maxlen=LATENCIES_MAX)
        self.latest: deque[dict[str, Any]] = deque(maxlen=LATEST_MAX)
        self.revenue: dict[int, Decimal] = {}
        self._last_seen: dict[int, int] = {}
        # By partition, offset and seconds of the first record that was looked at; how many looks before all was seen.
        self._first_seen: dict[int, tuple[int, float]] = {}
        self._catching_up = CATCHING_UP_MAX
        self._whole_since = 0.0

    def follow(self, schemas: WriterSchemas) -> None:
        """Look at what came; raises what following and the registry raise."""
        if self._follower is None:
            self._decoder = wiring.decoder(self._settings, self._settings.kafka.topic, schemas)
            back_ms, most = (BACK_MS, BACK_RECORDS_MAX) if not self._last_seen else (LOOK_EVERY_S * 5000, RECORDS_MAX)
            self._follower = wiring.follower(self._settings, int(back_ms), most)
        records = self._follower.poll(RECORDS_MAX, 0.2)
        for record in records:
            self._first_seen.setdefault(record.partition, (record.offset, (record.timestamp_ms or 0) / 1000))
            if record.offset > self._last_seen.get(record.partition, -1):
                self._last_seen[record.partition] = record.offset
                self._look_at(record)
        if len(records) < RECORDS_MAX:
            self._caught_up()
        elif self._catching_up:
            self._catching_up -= 1
        else:
            # More comes than is looked at one by one: go on at the end.
            self._whole_since = time.time()
            self.close()

    def is_sampled(self, now: float) -> bool:
        """Whether records of the last whole minute were left out, so that its revenue is a lower bound."""
        return now // 60 * 60 - 60 < self._whole_since

    def _caught_up(self) -> None:
        if not self._catching_up:
            return
        self._catching_up = 0
        for partition, (offset, first_s) in self._first_seen.items():
            # As many as are read back at most: there may have been earlier ones.
            if self._last_seen[partition] - offset + 1 >= BACK_RECORDS_MAX:
                self._whole_since = max(self._whole_since, first_s)

    def _look_at(self, record: Record) -> None:
        assert self._decoder is not None
        # Of what was written before this looked on, nobody knows when it was committed.
        if record.timestamp_ms is not None and record.timestamp_ms >= self._began_ms:
            self._open.append((record.partition, record.offset, record.timestamp_ms))
        with suppress(RecordError, Unavailable):
            order = self._decoder.decode(record.value)
            written_s = (record.timestamp_ms or 0) / 1000
            amount = order.get("amount")
            if isinstance(amount, Decimal) and amount > 0 and written_s:
                minute = int(written_s // 60 * 60)
                self.revenue[minute] = self.revenue.get(minute, Decimal(0)) + amount
                for old in sorted(self.revenue)[:-MINUTES_MAX]:
                    del self.revenue[old]
            self.latest.append(
                {
                    "id": f"{record.partition}:{record.offset}",
                    "at": written_s,
                    "order_id": str(order.get("order_id", "")),
                    "customer_id": str(order.get("customer_id", "")),
                    "amount": None if amount is None else str(amount),
                }
            )

    def committed(self, found: Iterable[Progress], group: str) -> None:
        """What the group committed by now took this long at most."""
        mine = next((each for each in found if each.group.name == group), None)
        topic = self._settings.kafka.topic
        done = {
            each.source.partition: each.committed or 0
            for each in (mine.standings if mine else ())
            if each.source.topic == topic
        }
        now = time.time()
        left = [each for each in self._open if each[1] >= done.get(each[0], 0)]
        self._at_most.extend((now, now * 1000 - each[2]) for each in self._open if each[1] < done.get(each[0], 0))
        self._open = deque(left, LATENCIES_MAX)

    def latency(self, now: float, window_s: float = 60) -> dict[str, Any] | None:
        """Milliseconds from written to worked off, of the last minute: measured where the worker is in this process."""
        for kind, found in (("measured", self.latencies), ("at most", self._at_most)):
            recent = sorted(ms for at, ms in list(found) if now - at < window_s)
            if recent:
                return {
                    "kind": kind,
                    "p50": max(0.0, recent[len(recent) // 2]),
                    "p95": max(0.0, recent[int(len(recent) * 0.95)]),
                    "count": len(recent),
                }
        return None

    def close(self) -> None:
        """Let go of the connection; the next look makes a new one."""
        if self._follower is not None:
            self._follower.close()
            self._follower = None
