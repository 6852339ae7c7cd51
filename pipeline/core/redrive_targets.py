"""What a redrive asks of a cluster."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline.core.retry import NotRead
from pipeline.core.timestamps import Window


@dataclass(frozen=True, slots=True)
class Targets:
    """Asked only of topics that `Destinations` lets through, and of our own.

    `partitions`: how many a topic has, None where it is not there. `ends`: by partition of a topic, the end of all that was
    written. `window`: which timestamps a topic takes and keeps. `retry_topic`: of a source topic and a group, the retry topic
    that the group reads now, or why none is known.
    """

    partitions: Callable[[str], int | None]
    ends: Callable[[str], Mapping[int, int]]
    window: Callable[[str], Window]
    retry_topic: Callable[[str, str], str | NotRead]
