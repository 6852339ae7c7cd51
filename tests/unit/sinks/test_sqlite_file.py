"""A store's file that is removed, moved or replaced while it is written to."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from pipeline.core.record import Record
from pipeline.errors import HandlerFailed, SinkUnavailable
from pipeline.orders import OrderPlaced
from pipeline.sinks.sql import OrderStore


def order(order_id: str) -> tuple[OrderPlaced, Record]:
    moment = datetime(2010, 12, 1, 8, 26, tzinfo=UTC)
    placed = OrderPlaced(order_id=order_id, customer_id="c", amount=Decimal("1.00"), timestamp_utc=moment)
    return placed, Record("orders.v1", 0, int(order_id), b"k", b"v")


def in_file(path: Path) -> list[str]:
    """What another program sees there."""
    reader = sqlite3.connect(path)
    try:
        return [row[0] for row in reader.execute("SELECT order_id FROM orders ORDER BY order_id")]
    finally:
        reader.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder / "orders.db"


@pytest.fixture
def store(file: Path) -> Iterator[OrderStore]:
    it = OrderStore(f"sqlite:///{file}")
    it.upsert([order("1")])
    yield it
    it.close()


def removed(file: Path) -> None:
    for each in list(file.parent.glob("orders.db*")):
        each.unlink()


def file_alone_removed(file: Path) -> None:
    file.unlink()


def moved(file: Path) -> None:
    for each in list(file.parent.glob("orders.db*")):
        each.rename(file.parent / f"old-{each.name}")


def replaced(file: Path) -> None:
    """As a restored backup is."""
    other = sqlite3.connect(f"{file}.new")
    with sqlite3.connect(file) as source:
        source.backup(other)
    source.close()
    other.close()
    removed_after = [file.with_name(file.name + suffix) for suffix in ("-wal", "-shm")]
    Path(f"{file}.new").replace(file)
    for each in removed_after:
        each.unlink(missing_ok=True)


def log_removed(file: Path) -> None:
    file.with_name("orders.db-wal").unlink()


def lock_table_removed(file: Path) -> None:
    file.with_name("orders.db-shm").unlink()


@pytest.mark.parametrize(
    "gone", [removed, file_alone_removed, moved, replaced, log_removed, lock_table_removed], ids=lambda it: it.__name__
)
def test_order_stored_after_the_file_went_is_in_the_file_that_is_there(
    store: OrderStore, file: Path, gone: Callable[[Path], None]
) -> None:
    gone(file)
    with pytest.raises(SinkUnavailable, match="is gone"):
        store.upsert([order("2")])
    store.upsert([order("2")])
    assert "2" in in_file(file)
    assert store.get("2") is not None


def test_file_that_goes_while_it_is_committed_to_is_noticed_before_its_offset_is_committed(
    store: OrderStore, file: Path
) -> None:
    from sqlalchemy import event  # noqa: PLC0415

    event.listen(store.engine, "commit", lambda _: removed(file), once=True)
    with pytest.raises(SinkUnavailable, match="is gone"):
        store.upsert([order("2")])
    store.upsert([order("2")])
    assert in_file(file) == ["2"]


@pytest.mark.parametrize("again", [False, True], ids=["removed", "another one"])
def test_folder_that_went_stops_the_worker(store: OrderStore, file: Path, *, again: bool) -> None:
    file.parent.rename(file.parent.with_name("elsewhere"))
    if again:
        file.parent.mkdir()
    with pytest.raises(HandlerFailed, match="volume not mounted"):
        store.upsert([order("2")])
    assert not file.exists()


def test_folder_that_cannot_be_looked_at_is_an_outage(store: OrderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_path: str) -> os.stat_result:
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.sinks.sqlite_file.os.stat", broken)
        with pytest.raises(SinkUnavailable, match="Stale file handle"):
            store.upsert([order("2")])
    store.upsert([order("2")])


def test_question_after_the_file_was_replaced_is_answered_from_the_new_one(store: OrderStore, file: Path) -> None:
    reader = OrderStore(f"sqlite:///{file}")
    assert reader.get("1") is not None
    removed(file)
    with pytest.raises(SinkUnavailable):
        store.upsert([order("2")])
    store.upsert([order("2")])
    with pytest.raises(SinkUnavailable):
        reader.get("1")
    assert reader.get("1") is None
    assert reader.get("2") is not None
    reader.close()


def test_connection_of_a_removed_file_leaves_the_new_ones_log_alone(store: OrderStore, file: Path) -> None:
    """SQLite's last connection deletes the log by its name, with orders of another program in it."""
    removed(file)
    other = OrderStore(f"sqlite:///{file}")
    other.upsert([order("7")])
    store.close()
    assert file.with_name("orders.db-wal").exists()
    copy = file.parent / "copy"
    copy.mkdir()
    for each in file.parent.glob("orders.db*"):
        shutil.copy(each, copy)
    assert in_file(copy / file.name) == ["7"]
    other.close()


def test_process_that_ends_after_its_file_was_replaced_leaves_the_new_ones_log_alone(file: Path) -> None:
    program = f"""
import sys
sys.path.insert(0, {str(Path.cwd())!r})
from tests.unit.sinks.test_sqlite_file import OrderStore, Path, order, removed
file = Path({str(file)!r})
store = OrderStore(f"sqlite:///{{file}}")
store.upsert([order("1")])
removed(file)
print("removed", flush=True)
sys.stdin.readline()
try:
    store.upsert([order("2")])
except Exception as error:
    print(type(error).__name__)
"""
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "removed\n"
    other = OrderStore(f"sqlite:///{file}")
    other.upsert([order("7")])
    said, _ = child.communicate("go on\n", timeout=60)
    assert said == "SinkUnavailable\n"
    assert file.with_name("orders.db-wal").exists()
    other.close()
    assert in_file(file) == ["7"]


def test_long_statement_needs_no_temporary_file(file: Path) -> None:
    store = OrderStore(f"sqlite:///{file}")
    with store.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA temp_store").scalar() == 2
    store.close()
