"""Orders that were read and not acknowledged, kept in the input's own format, so that they can be sent again."""

import csv
import io
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from pipeline.core.ports import Delivery
from pipeline.errors import InputRefused, Unavailable
from pipeline.orders import OrderPlaced
from pipeline.stages.intake import is_same_file

FIELDS = tuple(OrderPlaced.model_fields)


class Unacknowledged:
    """A file that begins to be when its first order comes; `name` is where. What cannot be written there is said whole.

    `decode` gives the order of the bytes that were published. `unknown` counts those that may be in the topic, once;
    `absent` those that surely are not.
    """

    def __init__(
        self,
        name: Path,
        *,
        is_csv: bool,
        decode: Callable[[bytes | None], Mapping[str, Any]],
        say: Callable[[str], None],
    ) -> None:
        self.name = name
        self._is_csv = is_csv
        self._decode = decode
        self._say = say
        self._file: TextIO | None = None
        self._failed = ""
        self.unknown = self.absent = 0

    @property
    def count(self) -> int:
        """How many orders it was given."""
        return self.unknown + self.absent

    def add(self, delivery: Delivery) -> None:
        """Keep the order of a delivery that has an error."""
        if isinstance(delivery.error, Unavailable):
            self.unknown += 1
        else:
            self.absent += 1
        line = self._line(delivery.value)
        try:
            if not self._failed:
                self._opened().write(line)
                return
        except OSError as error:
            self._failed = error.strerror or str(error)
            self._say(f"✖ {self.name} cannot be written ({self._failed}): orders that are not acknowledged follow here")
        self._say(line.rstrip("\n"))

    def close(self) -> None:
        """Have it on the disk, and say what is in it and what to do with it."""
        if self._file is not None:
            with self._file as file:
                file.flush()
                os.fsync(file.fileno())
        if self.count:
            place = f"in {self.name}" if self._file is not None and not self._failed else "above, whole"
            again = f": python -m pipeline.produce --input {self.name}" if self._file is not None else ""
            self._say(
                f"✖ {self.count} orders are not acknowledged: {self.unknown} may be in the topic, once, {self.absent} are not "
                f"there. They are kept {place}. Sending them again is safe, each is stored once{again}"
            )

    def _opened(self) -> TextIO:
        if self._file is None:
            self._file = self.name.open("a", encoding="utf-8", newline="")
            if self._is_csv:
                self._file.write(_row(FIELDS))
        return self._file

    def _line(self, value: bytes | None) -> str:
        order = OrderPlaced.model_validate(self._decode(value))
        if self._is_csv:
            written = order.model_dump(mode="json")
            return _row(written[field] for field in FIELDS)
        return order.model_dump_json() + "\n"


@contextmanager
def unacknowledged_file(
    name: str | None,
    default: str,
    source: os.stat_result | None,
    *,
    is_csv: bool,
    decode: Callable[[bytes | None], Mapping[str, Any]],
    say: Callable[[str], None],
) -> Iterator[Unacknowledged]:
    """Where orders go that are not acknowledged: `name`, or `default` in the current folder where none is given.

    `InputRefused` when the named file cannot be written, is the input itself, or holds something already: orders of an
    earlier run, perhaps, that are nowhere else. It is left out again when nothing came.
    """
    path = Path(name or f"{default}.{'csv' if is_csv else 'ndjson'}")
    is_made = False
    if name is not None:
        if source is not None and is_same_file(name, source):
            raise InputRefused(
                f"--unacknowledged {name} is the input itself. Name another file. Nothing was published."
            )
        try:
            is_made = not path.exists()
            with path.open("a", encoding="utf-8") as file:
                used = file.tell()
        except OSError as error:
            raise InputRefused(
                f"--unacknowledged {name} cannot be written: {error.strerror}. Nothing was published."
            ) from error
        if used:
            raise InputRefused(
                f"--unacknowledged {name} is not empty: it may hold orders of an earlier run. Publish them (--input {name}), or "
                "name another file. Nothing was published."
            )
    kept = Unacknowledged(path, is_csv=is_csv, decode=decode, say=say)
    try:
        yield kept
    finally:
        kept.close()
        if is_made and not kept.count:
            path.unlink(missing_ok=True)


def _row(cells: Any) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()
