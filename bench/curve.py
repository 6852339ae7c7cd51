"""What more processes bring: `consume --processes N`, the command itself, on topics of few and of many partitions."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.handlers import NOTES
from bench.place import PARTITIONS, PARTITIONS_MAX, TOPIC, Place
from bench.programs import LONGEST_S, ROOT
from pipeline.errors import BrokerUnavailable

MEMBERS = (1, 2, 4)
PARTITIONS_OF = (PARTITIONS, 12, PARTITIONS_MAX)
FIRST_ORDERS = 1_000
_LOOK_EVERY_S = 0.25


def measure(place: Place, say: Callable[[str], None]) -> dict[str, Any]:
    """Orders a second, by partitions and by members: from when they begin to come to the last one that any of them handled.

    The members wait for them, their partitions open: how long they take to join is not what grows with them.
    """
    rates: dict[str, dict[str, float]] = {}
    for partitions in PARTITIONS_OF:
        rates[str(partitions)] = {}
        for members in MEMBERS:
            rate = _rate(place, partitions, members)
            rates[str(partitions)][str(members)] = rate
            say(f"{partitions} partitions, {members} processes: {rate:,.0f} a second")
    return {"rates": rates, "cores": os.cpu_count()}


def _rate(place: Place, partitions: int, members: int) -> float:
    topic, group = place.topic(TOPIC, partitions=partitions), place.fresh()
    with tempfile.TemporaryDirectory(prefix="bench-notes-") as folder:
        command = [sys.executable, "-m", "pipeline.consume", "--handler", "bench.handlers:noted", "--json"]
        workers = subprocess.Popen(
            [*command, "--processes", str(members)],
            env={**os.environ, **place.environment(topic, group), NOTES: folder},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            _wait_until(lambda: _are_in(place, group, members), workers)
            # Every partition has given something: all of them are open.
            place.refill(topic, FIRST_ORDERS)
            _wait_until(lambda: not sum(place.cluster.lag(group, topic).values()), workers)
            began = time.monotonic()
            place.refill(topic)
            _wait_until(lambda: not sum(place.cluster.lag(group, topic).values()), workers)
            workers.send_signal(signal.SIGTERM)
            said, _ = workers.communicate(timeout=LONGEST_S)
        finally:
            workers.kill()
            workers.wait()
        notes = [json.loads(path.read_text()) for path in Path(folder).glob("*.json")]
    assert json.loads(said)["committed"] >= place.orders
    return float(place.orders / (max(note["last"] for note in notes) - began))


def _are_in(place: Place, group: str, members: int) -> bool:
    found = place.cluster.group(group)
    return found is not None and found.state == "stable" and len(found.members) == members


def _wait_until(there: Callable[[], bool], workers: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + LONGEST_S
    while not _is_so(there):
        if workers.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("The members ended, or did not come to an end.")
        time.sleep(_LOOK_EVERY_S)


def _is_so(there: Callable[[], bool]) -> bool:
    """Whom a coordinator that was made a moment ago does not answer asks again."""
    try:
        return there()
    except BrokerUnavailable:
        return False


def show(found: dict[str, Any]) -> None:
    """The table, on stdout."""
    print(f"\n{'processes, orders a second':<28}" + "".join(f"{each:>10}" for each in MEMBERS))
    for partitions, rates in found["rates"].items():
        print(f"{partitions + ' partitions':<28}" + "".join(f"{rate:>10,.0f}" for rate in rates.values()))
    print(f"{found['cores']} cores, which the broker shares.")
