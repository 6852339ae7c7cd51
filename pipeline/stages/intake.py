"""Orders from a file or a pipe: NDJSON or CSV, plain or gzip, line by line, never more than one line in memory."""

import csv
import gzip
import io
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from pipeline.errors import InputBroken, InputRefused, Invalid
from pipeline.orders import OrderPlaced, from_fields, from_json, generate

LINE_BYTES_MAX = 1 << 20
_GZIP_MAGIC = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_SNIFF_BYTES = 4096
_FIELDS = {"orderid", "customerid", "amount", "timestamputc"}


class Refusal(NamedTuple):
    """A line that is no order, and why; `text` is the line, None where it was too long to be held."""

    line: int
    reason: str
    text: str | None


class Line(NamedTuple):
    """One line of the input; `text` is None where it was longer than `LINE_BYTES_MAX`."""

    number: int
    text: bytes | None


class Intake:
    """An input, opened and its format known; iterating gives an order or a refusal for every line that is not blank."""

    def __init__(self, source: BinaryIO, name: str) -> None:
        self._name = name
        self._bytes = _buffered(source)
        head = self._peek()
        if head.startswith(_GZIP_MAGIC):
            self._bytes = cast("io.BufferedReader", gzip.GzipFile(fileobj=self._bytes, mode="rb"))
            head = self._peek()
        if head.startswith(_BOM):
            self._bytes.read(len(_BOM))
            head = head[len(_BOM) :]
        self.line = 0
        self._parse = self._format(head)

    def __iter__(self) -> Iterator[OrderPlaced | Refusal]:
        for line in self._lines():
            if line.text is None:
                yield Refusal(line.number, f"longer than {LINE_BYTES_MAX} bytes", None)
                continue
            if line.text.isspace():
                continue
            try:
                yield self._parse(line.text)
            except Invalid as error:
                yield Refusal(line.number, str(error), line.text.decode("utf-8", "backslashreplace").rstrip("\r\n"))

    def _lines(self) -> Iterator[Line]:
        while True:
            try:
                text = self._bytes.readline(LINE_BYTES_MAX + 1)
                whole = len(text) <= LINE_BYTES_MAX
                while not whole and text and not text.endswith(b"\n"):
                    text = self._bytes.readline(LINE_BYTES_MAX)
            except (EOFError, OSError, zlib.error) as error:
                raise InputBroken(
                    f"{self._name} ends in the middle, after line {self.line}: {error}. What was read before is "
                    "published; mend the file and run it again: orders published twice are stored once."
                ) from error
            if not text and whole:
                return
            self.line += 1
            yield Line(self.line, text if whole else None)

    def _peek(self) -> bytes:
        try:
            return self._bytes.peek(_SNIFF_BYTES)
        except (EOFError, OSError, zlib.error) as error:
            raise InputRefused(f"{self._name} cannot be read: {error}. Is it whole?") from error

    def _format(self, head: bytes) -> Callable[[bytes], OrderPlaced]:
        start = head.lstrip()[:1]
        if start in {b"{", b""}:
            return from_json
        first = next(self._lines())
        columns: list[str] = []
        with suppress(Invalid):
            columns = _cells(first.text or b"")
        # A header that names none of the fields is no header: the file is something else.
        if not _FIELDS & {name.replace("_", "").lower() for name in columns}:
            raise InputRefused(
                f"{self._name} is neither NDJSON (a JSON object a line) nor CSV (a first line that names order_id, "
                "customer_id, amount, timestamp_utc). Nothing was published."
            )
        return lambda line: from_fields(_row(columns, line))


@contextmanager
def open_orders(name: str | None, generated: int | None, seed: int | None) -> Iterator[Iterable[OrderPlaced | Refusal]]:
    """The orders of a file, of standard input (`-`), or `generated` made-up ones; exactly one of both is asked for.

    `InputRefused` when the input cannot be read, or is neither NDJSON nor CSV.
    """
    if (name is None) == (generated is None):
        raise InputRefused("Say where orders come from: either --input FILE (- is standard input) or --generate N.")
    if name is None:
        yield generate(generated or 0, seed)
        return
    try:
        source = sys.stdin.buffer if name == "-" else Path(name).open("rb")  # noqa: SIM115  # entered below
    except OSError as error:
        raise InputRefused(f"{name} cannot be opened: {error.strerror}. Nothing was published.") from error
    with source:
        yield Intake(source, "standard input" if name == "-" else name)


def _buffered(source: BinaryIO) -> io.BufferedReader:
    if isinstance(source, io.BufferedReader):
        return source
    return io.BufferedReader(cast("io.RawIOBase", source))


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
