"""Rows in columns, as commands print them."""

from collections.abc import Iterable, Iterator, Sequence

from pipeline.core.visible import visible


def table(rows: Sequence[Iterable[str]]) -> Iterator[str]:
    """One line a row, each column as wide as its widest cell; every row has as many cells. A cell stays on its line."""
    cells = [list(map(visible, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
