"""What a contender is asked for and what it answers, both as one line of JSON: each runs in a process of its own.

Nothing here needs the pipeline: a peer runs in an environment that does not have it.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.settings import Settings


@dataclass(frozen=True)
class Task:
    """Move so many orders. `topic` is read, or written by those who produce; `output` is where a forwarder writes.

    `orders_file` holds the orders as NDJSON, `bytes_file` the same as the keys and values that lie in the topic. `keyed`:
    note the order of keys on the way. `rate` orders a second are sent, where that is not as fast as it goes; the first
    `warm_up` of them are not measured.
    """

    bootstrap_servers: str
    registry_url: str
    schemas: str
    topic: str
    group: str
    orders: int
    output: str = ""
    orders_file: str = ""
    bytes_file: str = ""
    at_once: int = 1
    keyed: bool = False
    rate: float = 0.0
    warm_up: int = 0

    def settings(self, **more: object) -> "Settings":
        """As the pipeline's own; `more` are settings by name, with `__` for the dot."""
        from pipeline import settings  # noqa: PLC0415  # peers run without it

        return settings.load(
            {
                "kafka.bootstrap_servers": self.bootstrap_servers,
                "kafka.topic": self.topic,
                "kafka.consumer_group": self.group,
                "registry.url": self.registry_url,
                "schemas.dir": self.schemas,
                "consume.concurrency": str(self.at_once),
                **{name.replace("__", "."): value for name, value in more.items()},
            }
        )


@dataclass(frozen=True)
class Outcome:
    """`seconds` from the first record to the last one settled, `cpu_s` of all threads meanwhile, the peak memory in bytes.

    `overtaken` records began before their turn; `detail` is what this kind of work measures beside.
    """

    orders: int
    seconds: float
    cpu_s: float = 0.0
    peak_rss: int = 0
    overtaken: int = 0
    version: str = ""
    detail: dict[str, Any] = field(default_factory=dict)


class Span:
    """The stopwatch: wall clock, and the processor time of this process."""

    def __init__(self) -> None:
        self.began = self._cpu_began = self._cpu_ended = self.ended = 0.0

    def start(self) -> None:
        """From now on."""
        self._cpu_began = time.process_time()
        self.began = time.monotonic()

    def stop(self) -> None:
        """Until now."""
        self.ended = time.monotonic()
        self._cpu_ended = time.process_time()

    def outcome(self, orders: int, seconds: float | None = None, **more: Any) -> Outcome:
        """What was measured; `seconds` where somebody else measured them better; `more` are the other fields."""
        return Outcome(
            orders,
            self.ended - self.began if seconds is None else seconds,
            self._cpu_ended - self._cpu_began,
            peak_rss(),
            **more,
        )


def peak_rss() -> int:
    """The most memory this process ever held, in bytes.

    Not by `getrusage` where it can be helped: a child's counter begins with what its parent held when it was started.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def rss() -> int:
    """The memory that this process holds now, in bytes; the peak where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return peak_rss()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def run(works: dict[str, Callable[[Task], Outcome]]) -> None:
    """The whole life of a contender's process: `NAME TASK`, one line of JSON on stdout."""
    outcome = works[sys.argv[1]](Task(**json.loads(sys.argv[2])))
    print(json.dumps(asdict(outcome)))
