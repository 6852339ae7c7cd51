"""Orders from a file or a pipe: NDJSON or CSV, plain or gzip, line by line, never more than one line in memory."""

import csv
import gzip
import io
import os
import select
import stat
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from pipeline.errors import InputBroken, InputRefused, Invalid, Stopped
from pipeline.orders import OrderPlaced, from_fields, from_json, generate

LINE_BYTES_MAX = 1 << 20
_GZIP_MAGIC = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_SNIFF_BYTES = 4096
_PIPE_BYTES = 1 << 16
_LOOK_UP_EVERY_S = 0.2
# As a CSV header may spell them, with or without `_`, in any case.
_FIELDS = {"orderid": "order_id", "customerid": "customer_id", "amount": "amount", "timestamputc": "timestamp_utc"}
# What else a file may be, by its first bytes; for each what to do.
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"[", "a JSON array. Make lines of it: jq -c '.[]' FILE"),
    (b"\xff\xfe", "UTF-16. Convert it: iconv -f UTF-16 -t UTF-8 FILE"),
    (b"\xfe\xff", "UTF-16. Convert it: iconv -f UTF-16 -t UTF-8 FILE"),
    (b"PK\x03\x04", "a zip archive (a workbook is one too). Take the lines out of it: unzip -p FILE"),
    (b"\x28\xb5\x2f\xfd", "zstd. Unpack it: zstdcat FILE"),
    (b"BZh", "bzip2. Unpack it: bzcat FILE"),
    (b"\xfd7zXZ", "xz. Unpack it: xzcat FILE"),
)


class Refusal(NamedTuple):
    """A line that is no order, and why; `text` is the line, None where it was too long to be held."""

    line: int
    reason: str
    text: str | None


class Intake:
    """An input, opened and its format known; iterating gives an order or a refusal for every line that is not blank.

    While a pipe or a terminal is silent, `meanwhile` is called now and then; `stopping()` then raises `Stopped`, and what
    came of a line that has not ended is not read. `file` tells the input from other files, where it is one; `is_csv` its
    format.
    """

    def __init__(self, source: BinaryIO, name: str, stopping: Callable[[], bool] = lambda: False) -> None:
        self._name = name
        self._stopping = stopping
        self.meanwhile: Callable[[], None] = lambda: None
        self.file = _stat(source)
        self._bytes = self._buffered(source)
        head = self._peek()
        if head.startswith(_GZIP_MAGIC):
            self._bytes = cast("io.BufferedReader", gzip.GzipFile(fileobj=self._bytes, mode="rb"))
            head = self._peek()
        if head.startswith(_BOM):
            self._bytes.read(len(_BOM))
            head = head[len(_BOM) :]
        self.line = 0
        self._text = b""
        self.is_csv = False
        self._parse = self._format(head)

    def __iter__(self) -> Iterator[OrderPlaced | Refusal]:
        for line in self._lines():
            if line is None:
                yield Refusal(self.line, f"longer than {LINE_BYTES_MAX} bytes", None)
            elif not line.isspace():
                self._text = line
                try:
                    yield self._parse(line)
                except Invalid as error:
                    yield self.refusal(str(error))
            elif self._stopping():
                raise Stopped  # an input of blank lines gives nothing after which anybody could ask

    def refusal(self, reason: str) -> Refusal:
        """Of the line that was read last."""
        return Refusal(self.line, reason, self._text.decode("utf-8", "backslashreplace").rstrip("\r\n"))

    def rest(self) -> str:
        """What was not read, in words, for one who stopped before the end."""
        return f"after line {self.line}: the rest of {self._name} was not read"

    def _lines(self) -> Iterator[bytes | None]:
        """Each line, None where it was too long to be held; `line` is its number."""
        while True:
            try:
                text = self._bytes.readline(LINE_BYTES_MAX + 1)
                whole = len(text) <= LINE_BYTES_MAX
                while not whole and text and not text.endswith(b"\n"):
                    if self._stopping():
                        raise Stopped
                    text = self._bytes.readline(LINE_BYTES_MAX)
            except (EOFError, OSError, zlib.error) as error:
                raise InputBroken(
                    f"{self._name} ends in the middle, after line {self.line}: {error}. What was read before is "
                    "published; mend the file and run it again: orders published twice are stored once."
                ) from error
            if not text and whole:
                return
            self.line += 1
            yield text if whole else None

    def _buffered(self, source: BinaryIO) -> io.BufferedReader:
        if self.file is not None and not stat.S_ISREG(self.file.st_mode):
            raw = _Patient(cast("io.FileIO", getattr(source, "raw", source)), self._wait)
            return io.BufferedReader(raw, _PIPE_BYTES)
        return source if isinstance(source, io.BufferedReader) else io.BufferedReader(cast("io.RawIOBase", source))

    def _wait(self) -> None:
        if self._stopping():
            raise Stopped
        self.meanwhile()

    def _peek(self) -> bytes:
        try:
            return self._bytes.peek(_SNIFF_BYTES)
        except (EOFError, OSError, zlib.error) as error:
            raise InputRefused(f"{self._name} cannot be read: {error}. Is it whole?") from error

    def _format(self, head: bytes) -> Callable[[bytes], OrderPlaced]:
        start = head.lstrip()
        self._refuse_others(start)
        if start[:1] in {b"{", b""}:
            return from_json
        self.is_csv = True
        first = next(self._lines())
        columns: list[str] = []
        with suppress(Invalid):
            columns = _cells(first or b"")
        columns = [_FIELDS.get(plain := _plain(name), name if plain else "") for name in columns]
        self._refuse_header(columns, first or b"")
        return lambda line: from_fields(_row(columns, line))

    def _refuse_others(self, start: bytes) -> None:
        """`InputRefused` for what is not read here, with the way to make lines of it."""
        other = next((words for magic, words in _OTHERS if start.startswith(magic)), None)
        if start.split(b"\n", 1)[0].strip() == b"{" and b"\n" in start:
            other = "JSON objects that take several lines each. Make one line of each: jq -c . FILE"
        if other:
            raise InputRefused(
                f"{self._name} is {other} | python -m pipeline.produce --input -. What is read is NDJSON (a JSON object a "
                "line) or CSV, plain or gzip. Nothing was published."
            )

    def _refuse_header(self, columns: list[str], first: bytes) -> None:
        """`InputRefused` once, where otherwise every row would be refused; a column without a name is passed over."""
        fields, named = list(_FIELDS.values()), [name for name in columns if name]
        missing, unknown = (
            [each for each in fields if each not in named],
            [each for each in named if each not in fields],
        )
        twice = [each for each in fields if named.count(each) > 1]
        if len(missing) == len(fields):
            # A header that names none of the fields is no header: the file is something else.
            apart = next((char for char in (";", "\t", "|") if first.decode("utf-8", "replace").count(char) > 2), None)  # noqa: PLR2004
            reason = "" if apart is None else f" Its columns seem to be separated by {apart!r}: write commas."
            raise InputRefused(
                f"{self._name} is neither NDJSON (a JSON object a line) nor CSV (a first line that names order_id, "
                f"customer_id, amount, timestamp_utc).{reason} Nothing was published."
            )
        reasons = [
            *([f"names a column twice: {', '.join(twice)}. Which of them is meant?"] if twice else ()),
            *([f"does not name {', '.join(missing)}."] if missing else ()),
            *([f"names what an order does not have: {', '.join(unknown)}."] if unknown else ()),
        ]
        if reasons:
            raise InputRefused(f"The first line of {self._name} {' It '.join(reasons)} Nothing was published.")


class Made:
    """So many made-up orders, as an input."""

    file: os.stat_result | None = None
    is_csv = False

    def __init__(self, count: int, seed: int | None) -> None:
        self._orders = generate(count, seed)
        self._done = 0
        self.meanwhile: Callable[[], None] = lambda: None

    def __iter__(self) -> Iterator[OrderPlaced | Refusal]:
        for order in self._orders:
            self._done += 1
            yield order

    def rest(self) -> str:
        """What was not made, in words, for one who stopped before the end."""
        return f"after order {self._done}: the rest was not made up"


@contextmanager
def open_orders(
    name: str | None, generated: int | None, seed: int | None, stopping: Callable[[], bool] = lambda: False
) -> Iterator[Intake | Made]:
    """The orders of a file, of standard input (`-`), or `generated` made-up ones; exactly one of both is asked for.

    `InputRefused` when the input cannot be read, or is neither NDJSON nor CSV. `Stopped` when `stopping()` before a first
    line came.
    """
    if (name is None) == (generated is None):
        raise InputRefused("Say where orders come from: either --input FILE (- is standard input) or --generate N.")
    if name is None:
        yield Made(generated or 0, seed)
        return
    if seed is not None:
        raise InputRefused("--seed is for made-up orders: it goes with --generate N, not with --input.")
    with _open(name) as source:
        yield Intake(source, "standard input" if name == "-" else name, stopping)


def _open(name: str) -> BinaryIO:
    if not name:
        raise InputRefused('--input "" names no file. Name one, or - for standard input.')
    if name == "-":
        if sys.stdin is None:
            raise InputRefused("Standard input is closed. Give it a pipe or a file, or name a file: --input FILE.")
        return sys.stdin.buffer
    try:
        # Opening a named pipe would wait for its writer, deaf to signals; the first read waits for it.
        return open(name, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK))
    except OSError as error:
        raise InputRefused(f"{name} cannot be opened: {error.strerror}. Nothing was published.") from error


class _Patient(io.RawIOBase):
    """A pipe or a terminal, read once it has something; `wait` is called now and then until it does."""

    def __init__(self, source: io.FileIO, wait: Callable[[], None]) -> None:
        self._source = source
        self._wait = wait

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        # Looked up at once where nothing is there, and then every time-out: a slow writer's reports come in between.
        timeout_s = 0.0
        while True:
            ready, _, _ = select.select([self._source], [], [], timeout_s)
            if ready and (count := self._source.readinto(buffer)) is not None:
                return count
            self._wait()
            timeout_s = _LOOK_UP_EVERY_S


def is_same_file(name: str, opened: os.stat_result) -> bool:
    """Whether the file of this name is the opened one, by whatever name; a terminal or /dev/null may be both."""
    try:
        return not stat.S_ISCHR(opened.st_mode) and os.path.samestat(opened, Path(name).stat())
    except OSError:
        return False


def _stat(source: BinaryIO) -> os.stat_result | None:
    try:
        return os.fstat(source.fileno())
    except OSError:
        return None


def _plain(name: str) -> str:
    return name.strip().replace("_", "").lower()


def _cells(line: bytes) -> list[str]:
    try:
        # One line is one order: a quote that is never closed must not swallow the lines after it.
        return next(csv.reader([line.decode().rstrip("\r\n")], strict=True), [])
    except UnicodeDecodeError as error:
        raise Invalid(f"not UTF-8: byte {error.start} is 0x{line[error.start]:02x}") from None
    except csv.Error as error:
        raise Invalid(f"not valid CSV: {error}") from None


def _row(columns: list[str], line: bytes) -> dict[str, Any]:
    cells = _cells(line)
    if len(cells) != len(columns):
        raise Invalid(f"{len(cells)} values in a line, {len(columns)} names in the header")
    row = dict(zip(columns, cells, strict=True))
    with suppress(KeyError):
        del row[""]
    # An empty cell is CSV's way of saying that there is no value.
    return {name: cell or None for name, cell in row.items()}
