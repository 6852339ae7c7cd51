"""What a contender is asked for and what it answers, both as one line of JSON: each runs in a process of its own."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

from pipeline import settings


@dataclass(frozen=True)
class Task:
    """Handle so many orders of the topic, in a new group. `keyed`: note the order of keys on the way."""

    bootstrap_servers: str
    registry_url: str
    schemas: str
    topic: str
    group: str
    orders: int
    at_once: int
    keyed: bool

    def settings(self) -> settings.Settings:
        """As the pipeline's own."""
        return settings.load(
            {
                "kafka.bootstrap_servers": self.bootstrap_servers,
                "kafka.topic": self.topic,
                "kafka.consumer_group": self.group,
                "registry.url": self.registry_url,
                "schemas.dir": self.schemas,
                "consume.concurrency": str(self.at_once),
            }
        )


@dataclass(frozen=True)
class Outcome:
    """`seconds` from the first record read to the last one settled; `overtaken` records began before their turn."""

    orders: int
    seconds: float
    overtaken: int
    version: str = ""


def run(work: Callable[[Task], Outcome]) -> None:
    """The whole life of a contender's process."""
    outcome = work(Task(**json.loads(sys.argv[1])))
    print(json.dumps(asdict(outcome)))
