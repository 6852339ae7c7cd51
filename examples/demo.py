"""`make demo`: the main job on 25 900 real invoices, end to end, with the same commands that a user runs.

Every figure is counted in this run: the commands' own totals, and then the store, the dead letters and the group's lag as
they lie there, restricted to what this run published (by the offsets that the topic had before).
"""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import and_, func, or_, select

from pipeline import settings, wiring
from pipeline.errors import PipelineError
from pipeline.kafka.admin import Cluster
from pipeline.local.folder import alone, usable
from pipeline.local.stack import DIR_SETTING, default_folder
from pipeline.sinks.sql import OrderStore, orders
from pipeline.telemetry import exit_codes, say

INPUT = Path(__file__).with_name("online-retail-orders.ndjson.gz")
# For another worker of the group, which may have taken a part of the partitions.
OTHERS_S = 60.0


def main() -> None:
    """The demo, once no other one is at work on the same stack: both would count what both do."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    stack = settings.load().local.dir or default_folder()
    lock = stack.with_name(f"{stack.name}.demo")
    with usable(lock, DIR_SETTING), alone(lock, say, "demo"):
        _demo()


def _demo() -> None:
    """Stack, topics, schemas, produce, consume, and the report."""
    started = time.monotonic()
    _run("pipeline.local", "up", "--no-hint")
    environment = _run("pipeline.local", "env", quiet=True)
    os.environ.update(line.removeprefix("export ").split("=", 1) for line in environment.splitlines())
    _run("pipeline.topics", "apply", quiet=True)
    _run("pipeline.schemas", "register", quiet=True)
    configured = settings.load()
    kafka = configured.kafka
    cluster = wiring.cluster(configured)
    if left := sum(cluster.lag(kafka.consumer_group, kafka.topic).values()):
        say(f"{left} records of an earlier run are still to be worked off: first those")
        _run("pipeline.consume", "--until-end")
    before, letters_before = cluster.end_offsets(kafka.topic), cluster.end_offsets(kafka.dead_letter_topic)

    produced = _run_json("pipeline.produce", "--input", str(INPUT), "--rejects", "rejects.ndjson", allowed=(0, 3))
    consumed = _run_json("pipeline.consume", "--until-end")

    lag = _lag_at_last(cluster, kafka.consumer_group, kafka.topic)
    letters = sum(cluster.end_offsets(kafka.dead_letter_topic).values()) - sum(letters_before.values())
    stored, total, customers = _stored_since(configured, before)
    rows = [
        ("read", produced["read"], INPUT.name),
        ("refused at the edge", produced["refused"], "rejects.ndjson says why, line by line"),
        ("published", produced["published"], f"acknowledged in {kafka.topic}"),
        ("stored", stored, f"rows in {_store_name(configured)}"),
        ("total", f"{total:,.2f}".replace(",", " "), "pounds in those rows"),
        ("customers", customers, "different ones in those rows"),
        ("dead letters", letters, f"acknowledged in {kafka.dead_letter_topic}"),
        ("lag", lag, f"of the group {kafka.consumer_group}"),
    ]
    for name, value, words in rows:
        figure = f"{value:,}".replace(",", " ") if isinstance(value, int) else value
        print(f"{name:<20} {figure:>14}   {words}")
    print(
        f"\nproduced in {produced['seconds']:.1f} s, consumed in {consumed['seconds']:.1f} s, "
        f"{time.monotonic() - started:.0f} s in all"
    )
    python = ".venv/bin/python" if Path(".venv/bin/python").exists() else sys.executable
    say(
        f"\nThe stack is still up. To look at next:\n"
        f"  {python} -m pipeline.deadletters stats     why letters were written, then: list, show ID\n"
        f"  {python} -m pipeline.topics describe       partitions, leaders, replicas in sync\n"
        f"  {python} -m pipeline.schemas list          subjects, versions, ids\n"
        f"  {python} -m pipeline.local down            stop it; the data is kept"
    )
    if lag:
        raise PipelineError(f"{lag} records are left: does another worker of {kafka.consumer_group} hold partitions?")
    if stored + letters != produced["published"]:
        raise PipelineError(
            f"{produced['published']} orders were published, but {stored} stored and {letters} given up. What is counted is what "
            f"lies in the topics and in {_store_name(configured)} since this run began: another producer, worker or redrive on "
            "this stack is counted too, and what another worker wrote to another store is not. Nothing is lost because of that: "
            "python -m pipeline.groups list shows who else is there. Rows of an earlier stack may lie there too: a store of "
            "its own for the demo is PIPELINE_STORE__URL=sqlite:///demo.db."
        )


def _lag_at_last(cluster: Cluster, group: str, topic: str) -> int:
    """What the group has left to do, once nothing is left, or the others have had their time."""
    deadline = time.monotonic() + OTHERS_S
    while (lag := sum(cluster.lag(group, topic).values())) and time.monotonic() < deadline:
        time.sleep(0.2)
    return lag


def _stored_since(configured: settings.Settings, before: dict[int, int]) -> tuple[int, Any, int]:
    """Rows, sum of amounts and customers of what this run stored: each row knows the offset it came from."""
    store = OrderStore(configured.store.url.get_secret_value())
    new = or_(
        *(and_(orders.c.source_partition == each, orders.c.source_offset >= start) for each, start in before.items())
    )
    try:
        with store.engine.connect() as connection:
            # Summed here: SQLite's own sum would be a binary float.
            found = connection.execute(select(orders.c.amount).where(new)).scalars().all()
            customers = connection.execute(select(func.count(orders.c.customer_id.distinct())).where(new)).scalar_one()
    finally:
        store.close()
    return len(found), sum(found), customers


def _store_name(configured: settings.Settings) -> str:
    return configured.store.url.get_secret_value().rpartition("@")[2].removeprefix("sqlite:///")


def _run_json(module: str, *arguments: str, allowed: tuple[int, ...] = (0,)) -> Any:
    return json.loads(_run(module, *arguments, "--json", allowed=allowed).splitlines()[-1])


def _run(module: str, *arguments: str, allowed: tuple[int, ...] = (0,), quiet: bool = False) -> str:
    """Run one command and return its stdout; what it says on stderr is shown, with `quiet` only when it fails.

    It has a process group of its own, so that Ctrl-C reaches it once, from here, and it ends in good order before we do.
    """
    command = [sys.executable, "-m", module, *arguments]
    if not quiet:
        say(f"$ python -m {module} {' '.join(arguments)}".replace(str(Path.cwd()) + "/", ""))
    stderr = subprocess.PIPE if quiet else None
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, process_group=0) as child:
        try:
            stdout, said = child.communicate()
        except KeyboardInterrupt:
            _interrupt(child)
            raise
    if child.returncode not in allowed:
        say(said or "")
        sys.exit(child.returncode)
    return stdout


def _interrupt(child: "subprocess.Popen[str]") -> None:
    """Pass Ctrl-C on, each time it is pressed, and stay until the command has ended."""
    while child.poll() is None:
        child.terminate()  # not SIGINT, which a job in the background may have been told to ignore
        with suppress(KeyboardInterrupt):
            child.wait()


if __name__ == "__main__":
    with exit_codes():
        main()
