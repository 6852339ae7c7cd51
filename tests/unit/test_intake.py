"""Reading orders from files and pipes: every line counts, none is held whole when it is too long."""

import gzip
import io
import json
import os
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import pytest

from pipeline.errors import InputBroken, InputRefused, Stopped
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


@pytest.mark.parametrize("content", [b"\x00\x01\x02 binary", b"hello world\n", b"a,b,c\n1,2,3\n"])
def test_input_of_another_kind_is_refused_before_anything_is_sent(content: bytes) -> None:
    with pytest.raises(InputRefused, match="neither NDJSON"):
        read(content)


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (b" [\n" + LINE + b"]", r"jq -c '\.\[\]'"),
        (b"[" + LINE.strip() + b"]", r"jq -c '\.\[\]'"),
        (gzip.compress(b"[" + LINE + b"]"), r"jq -c '\.\[\]'"),
        (json.dumps(ORDER, indent=2).encode(), r"jq -c \. "),
        (LINE.decode().encode("utf-16"), "iconv -f UTF-16"),
        (HEADER.decode().encode("utf-16-be").join([b"\xfe\xff", b""]), "iconv -f UTF-16"),
        (b"PK\x03\x04....", "unzip -p"),
        (b"\x28\xb5\x2f\xfd....", "zstdcat"),
        (HEADER.replace(b",", b";") + ROW.replace(b",", b";"), "separated by ';'"),
        (HEADER.replace(b",", b"\t") + ROW.replace(b",", b"\t"), "separated by '.t'"),
    ],
)
def test_input_of_another_kind_is_refused_with_the_way_to_make_lines_of_it(content: bytes, advice: str) -> None:
    with pytest.raises(InputRefused, match=advice):
        read(content)


@pytest.mark.parametrize(
    "header",
    [
        b"ORDER_ID,CUSTOMER_ID,AMOUNT,TIMESTAMP_UTC",
        b"order_id, customer_id, amount , timestamp_utc",
        b'"Order_Id",customerId,Amount,TimestampUtc',
        b"\xef\xbb\xbf order_id\t,CustomerID,AMOUNT,timestamputc",
    ],
)
def test_header_in_another_spelling_is_read_with_all_its_rows(header: bytes) -> None:
    assert read(header + b"\n" + ROW * 2) == [OrderPlaced.model_validate(ORDER)] * 2


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (
            b"order_id,customer_id,amount,when",
            "does not name timestamp_utc. It names what an order does not have: when",
        ),
        (b"order_id,customer_id,amount,timestamp_utc,currency", "names what an order does not have: currency"),
        (b"order_id,customer_id,amount", "does not name timestamp_utc"),
    ],
)
def test_header_by_which_every_row_would_be_refused_is_refused_once(header: bytes, reason: str) -> None:
    with pytest.raises(InputRefused, match=reason):
        read(header + b"\n" + ROW)


@pytest.mark.parametrize(
    "content", [b"x" * (64 * LINE_BYTES_MAX), b"\0" * (64 * LINE_BYTES_MAX), LINE + b"\n" * 10_000]
)
def test_input_that_never_gives_an_order_stops_when_asked(content: bytes) -> None:
    looks = iter(range(1_000_000))
    with pytest.raises(Stopped):
        list(Intake(io.BufferedReader(io.BytesIO(content)), "input", lambda: next(looks) > 3))  # type: ignore[type-var,arg-type]


@pytest.mark.parametrize("twins", [b"order_id,order_id", b"order_id,OrderId", b"amount,Amount,order_id"])
def test_header_that_names_a_column_twice_is_refused_before_anything_is_sent(twins: bytes) -> None:
    with pytest.raises(InputRefused, match="names a column twice: "):
        read(twins + b",timestamp_utc\n1,2,3,4\n")


def test_columns_without_a_name_are_passed_over() -> None:
    assert read(b"order_id,,customer_id,amount,,timestamp_utc\n1,x,c,139.12,y,2010-12-01T08:26:00Z\n") == [
        OrderPlaced.model_validate(ORDER)
    ]


class Quiet:
    """The reading end of a pipe whose writer is silent after `content`; stops after three looks while it waited."""

    def __init__(self, content: bytes) -> None:
        reading, self.writing = os.pipe()
        os.write(self.writing, content)
        self.source = os.fdopen(reading, "rb", buffering=0)
        self.looks = 0

    def stopping(self) -> bool:
        self.looks += 1
        return self.looks > 3

    def close(self) -> None:
        self.source.close()
        os.close(self.writing)


def test_silent_pipe_lets_other_things_happen_and_stops_when_asked() -> None:
    quiet = Quiet(LINE * 2)
    try:
        intake = Intake(quiet.source, "input", quiet.stopping)  # type: ignore[arg-type]
        served: list[float] = []
        intake.meanwhile = lambda: served.append(time.monotonic())
        found: list[OrderPlaced | Refusal] = []
        with pytest.raises(Stopped):
            found.extend(intake)
        assert found == [OrderPlaced.model_validate(ORDER)] * 2
        assert intake.rest() == "after line 2: the rest of input was not read"
        assert len(served) == 3
        assert served[-1] - served[0] > 0.3, "no busy loop"
    finally:
        quiet.close()


def test_silent_gzip_pipe_stops_when_asked() -> None:
    quiet = Quiet(gzip.compress(LINE)[:-8])
    try:
        with pytest.raises(Stopped):
            list(Intake(quiet.source, "input", quiet.stopping))  # type: ignore[arg-type]
    finally:
        quiet.close()


def test_half_line_is_not_taken_for_an_order_when_reading_stops() -> None:
    quiet = Quiet(LINE + LINE.rstrip())
    try:
        intake = Intake(quiet.source, "input", quiet.stopping)  # type: ignore[arg-type]
        found: list[OrderPlaced | Refusal] = []
        with pytest.raises(Stopped):
            found.extend(intake)
        assert found == [OrderPlaced.model_validate(ORDER)]
    finally:
        quiet.close()


def test_pipe_that_is_written_in_pieces_is_read_to_its_end() -> None:
    quiet = Quiet(b"")
    content = LINE * 50

    def write() -> None:
        for at in range(0, len(content), 37):
            os.write(quiet.writing, content[at : at + 37])
        os.close(quiet.writing)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert list(Intake(quiet.source, "input")) == [OrderPlaced.model_validate(ORDER)] * 50  # type: ignore[arg-type]
    finally:
        writer.join()
        quiet.source.close()


def test_named_pipe_without_a_writer_is_waited_for_until_asked_to_stop(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    looks = iter([False, False, True])
    with pytest.raises(Stopped), open_orders(str(tmp_path / "fifo"), None, None, lambda: next(looks)):
        pass


def test_stopping_in_a_file_names_the_last_line_that_was_read() -> None:
    intake = Intake(io.BufferedReader(io.BytesIO(LINE + b"\n{nope\n" + LINE)), "input")  # type: ignore[type-var]
    orders = iter(intake)
    assert intake.rest() == "after line 0: the rest of input was not read"
    next(orders)
    next(orders)
    assert intake.rest().startswith("after line 3:"), "what was handed out is published or refused by whoever took it"
    next(orders)
    assert intake.rest().startswith("after line 4:")


def test_closed_standard_input_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InputRefused, match="Standard input is closed"), open_orders("-", None, None):
        pass


def test_input_without_a_name_is_refused() -> None:
    with pytest.raises(InputRefused, match="names no file"), open_orders("", None, None):
        pass


def test_seed_without_made_up_orders_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="--seed"), open_orders(str(tmp_path), None, 1):
        pass


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
