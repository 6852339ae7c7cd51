"""Reading orders from files and pipes: every line counts, none is held whole when it is too long."""

import gzip
import io
import json
import tracemalloc
from pathlib import Path

import pytest

from pipeline.errors import InputBroken, InputRefused
from pipeline.orders import OrderPlaced
from pipeline.stages.intake import LINE_BYTES_MAX, Intake, Refusal, open_orders

ORDER = {"order_id": "1", "customer_id": "c", "amount": "139.12", "timestamp_utc": "2010-12-01T08:26:00Z"}
LINE = json.dumps(ORDER).encode() + b"\n"
HEADER = b"order_id,customer_id,amount,timestamp_utc\n"
ROW = b"1,c,139.12,2010-12-01T08:26:00Z\n"


def read(content: bytes) -> list[OrderPlaced | Refusal]:
    return list(Intake(io.BufferedReader(io.BytesIO(content)), "input"))  # type: ignore[type-var]


def refusals(content: bytes) -> list[tuple[int, str]]:
    return [(each.line, each.reason) for each in read(content) if isinstance(each, Refusal)]


@pytest.mark.parametrize(
    "content",
    [
        LINE,
        gzip.compress(LINE, mtime=0),
        LINE.rstrip(),
        b"\xef\xbb\xbf" + LINE,
        b"\n\n" + LINE + b"  \r\n",
        HEADER + ROW,
        gzip.compress(HEADER + ROW, mtime=0),
        b"\xef\xbb\xbf" + HEADER + ROW,
        b"OrderId,CustomerId,Amount,TimestampUtc\r\n1,c,139.12,2010-12-01T08:26:00Z\r\n",
    ],
)
def test_every_format_gives_the_same_order(content: bytes) -> None:
    assert read(content) == [OrderPlaced.model_validate(ORDER)]


def test_empty_input_has_no_orders() -> None:
    assert read(b"") == []


def test_bad_line_is_refused_by_number_and_the_next_one_read() -> None:
    found = read(LINE + b"{nope\n" + LINE)
    assert [type(each) for each in found] == [OrderPlaced, Refusal, OrderPlaced]
    assert isinstance(found[1], Refusal)
    assert (found[1].line, found[1].text) == (2, "{nope")


@pytest.mark.parametrize("ending", [b"\n", b""])
def test_line_over_the_limit_is_refused_by_number_and_never_held_whole(ending: bytes) -> None:
    huge = b'{"order_id": "' + b"x" * (32 * LINE_BYTES_MAX) + b'"}' + ending
    source = io.BytesIO(LINE + huge + (LINE if ending else b""))
    tracemalloc.start()
    try:
        found = list(Intake(io.BufferedReader(source), "input"))  # type: ignore[type-var]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [type(each) for each in found] == [OrderPlaced, Refusal, OrderPlaced][: len(found)]
    assert found[1] == Refusal(2, f"longer than {LINE_BYTES_MAX} bytes", None)
    assert len(found) == (3 if ending else 2)
    assert peak < 8 * LINE_BYTES_MAX


def test_line_of_exactly_the_limit_is_read() -> None:
    padded = LINE.rstrip() + b" " * (LINE_BYTES_MAX - len(LINE)) + b"\n"
    assert len(padded) == LINE_BYTES_MAX
    assert read(padded + LINE) == [OrderPlaced.model_validate(ORDER)] * 2


def test_csv_line_with_another_number_of_values_is_refused() -> None:
    assert refusals(HEADER + b"1,c\n" + ROW) == [(2, "2 values in a line, 4 names in the header")]


def test_csv_quote_that_is_never_closed_takes_only_its_own_line() -> None:
    found = read(HEADER + b'"1,c,139.12,2010-12-01T08:26:00Z\n' + ROW)
    assert [type(each) for each in found] == [Refusal, OrderPlaced]


def test_csv_empty_cell_is_a_missing_value() -> None:
    assert refusals(HEADER + b"1,,139.12,2010-12-01T08:26:00Z\n") == [(2, "customer_id: must not be empty")]


def test_truncated_gzip_gives_what_was_whole_and_says_after_which_line() -> None:
    lines = b"".join(json.dumps(ORDER | {"order_id": str(number)}).encode() + b"\n" for number in range(5000))
    packed = gzip.compress(lines)
    found: list[OrderPlaced | Refusal] = []
    cut = Intake(io.BufferedReader(io.BytesIO(packed[: len(packed) // 2])), "input")  # type: ignore[type-var]
    with pytest.raises(InputBroken, match=r"input ends in the middle, after line \d+"):
        found.extend(cut)
    assert 0 < len(found) < 5000
    assert all(isinstance(each, OrderPlaced) for each in found), "no half line is taken for an order or refused"


@pytest.mark.parametrize("content", [b"\x00\x01\x02 binary", b"hello world\n", b"a,b,c\n1,2,3\n", "{".encode("utf-16")])
def test_input_of_another_kind_is_refused_before_anything_is_sent(content: bytes) -> None:
    with pytest.raises(InputRefused, match="neither NDJSON"):
        read(content)


def test_unknown_file_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(InputRefused, match="cannot be opened: No such file"),
        open_orders(str(tmp_path / "x"), None, None),
    ):
        pass


@pytest.mark.parametrize(("name", "generated"), [(None, None), ("-", 3)])
def test_no_input_or_two_are_refused(name: str | None, generated: int | None) -> None:
    with pytest.raises(InputRefused, match="either --input"), open_orders(name, generated, None):
        pass
