"""Progress of the fetching, in the shape that jgo asks for: a bar for each file on a terminal, a line elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.local.artifacts import Progress
from pipeline.telemetry import say

_WORTH_A_LINE = 5_000_000


@contextmanager
def fetch_progress() -> Iterator[Progress]:
    """A function that shows one file's progress; what it shows is gone from the terminal afterwards."""
    if not sys.stderr.isatty():
        yield _line
        return
    from rich.console import Console  # noqa: PLC0415  # for terminals only
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn  # noqa: PLC0415
    from rich.progress import Progress as Bars  # noqa: PLC0415

    columns = (TextColumn("{task.description:<44}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:

        @contextmanager
        def bar(name: str, size: int) -> Iterator[Callable[[int], None]]:
            task = bars.add_task(name, total=size)
            yield lambda count: bars.advance(task, count)
            bars.remove_task(task)

        yield bar


@contextmanager
def _line(name: str, size: int) -> Iterator[Callable[[int], None]]:
    if size > _WORTH_A_LINE:
        say(f"  {name}, {size / 1e6:.0f} MB")
    yield lambda _count: None
