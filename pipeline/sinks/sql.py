"""The store: one row per order in a SQL table, written so that doing it twice changes nothing.

Idempotent on `order_id`: a row is replaced only by a newer version of its order, so a redelivered record never undoes a newer
one (promise P2). In one partition the higher offset is newer; where a topic has grown or was made anew, the later event time.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache, partial
from itertools import chain
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Engine,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    and_,
    false,
    inspect,
    or_,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.types import TypeDecorator

from pipeline.core.record import Record
from pipeline.errors import HandlerFailed, Reject, SettingsRefused, SinkRefused, SinkUnavailable
from pipeline.orders import OrderPlaced, refuse_unsellable
from pipeline.sinks import database_errors, sqlite_file
from pipeline.sinks.database_errors import Meaning, Said
from pipeline.sinks.engine import engine_for, where

_INSERTS: dict[str, Callable[[Table], Any]] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}
_PENNY = Decimal("0.01")
# As SQLAlchemy writes it and reads it back; `isoformat` takes twice as long, most of it for the zone.
_SQLITE_TIME = "%04d-%02d-%02d %02d:%02d:%02d.%06d"
# Rows in one statement, where SQLite takes 32 766 values; before version 3.32 it takes 999.
_SQLITE_ROWS_MAX = 4_096


class _Money(TypeDecorator[Decimal]):
    """NUMERIC(18,2) where the database has decimals; decimal text on SQLite, whose numbers are binary floats."""

    impl = Numeric(18, 2)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        return dialect.type_descriptor(String(21) if dialect.name == "sqlite" else Numeric(18, 2))

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:  # noqa: ARG002
        return None if value is None else Decimal(value)


class _Utc(TypeDecorator[datetime]):
    """A point in time, in UTC; SQLite keeps no zone, so it is put on again when read."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


orders = Table(
    "orders",
    MetaData(),
    Column("order_id", String(256), primary_key=True),
    Column("customer_id", String(256), nullable=False),
    Column("amount", _Money, nullable=False),
    Column("timestamp_utc", _Utc, nullable=False),
    Column("source_partition", Integer, nullable=False),
    Column("source_offset", BigInteger, nullable=False),
)


class OrderStore:
    """The table `orders` behind a SQLAlchemy URL, SQLite or PostgreSQL; made if absent."""

    def __init__(self, url: str, silence_s: float = 15) -> None:
        """Nothing is connected yet. A server that says nothing for `silence_s` seconds counts as away."""
        self.engine: Engine = engine_for(url, silence_s)
        self._where = where(self.engine)
        self._ready = False
        backend = self.engine.dialect.name
        insert = _INSERTS[backend](orders)
        upsert = str(_on_conflict(insert).compile(self.engine, column_keys=list(orders.c.keys())))
        self._statements = (
            partial(_sqlite_statements, upsert, _sqlite_rows_max(len(orders.c)))
            if backend == "sqlite"
            else lambda rows: [(upsert, rows)]
        )
        self._row = _sqlite_row if backend == "sqlite" else _row
        self._upsert_nothing = _on_conflict(insert.from_select(list(orders.c.keys()), select(orders).where(false())))

    def inspect(self) -> None:
        """Make the table if it is absent, and refuse a store that could never take a row: `SettingsRefused`.

        Raises `SinkUnavailable` when the database does not answer, or takes nothing now.
        """
        try:
            try:
                extra = self._try_out()
            except SQLAlchemyError as error:
                if database_errors.read(error).meaning is Meaning.OUTAGE:
                    raise
                extra = self._try_out()  # another worker may have made the table at the same moment
        except SQLAlchemyError as error:
            said = database_errors.read(error)
            if said.meaning is Meaning.OUTAGE and not database_errors.is_hopeless(error):
                raise self._unavailable(said) from said.cause
            raise self._refused(said.words) from said.cause
        if extra:
            raise self._refused(f"its table orders asks for {', '.join(extra)}, which no order has")

    def _try_out(self) -> list[str]:
        """Upsert no row at all, which needs what every upsert needs; the columns that want more than an order has."""
        with self.engine.begin() as connection:
            orders.create(connection, checkfirst=True)
            connection.execute(self._upsert_nothing)
            return [
                column["name"]
                for column in inspect(connection).get_columns(orders.name)
                if column["name"] not in orders.c
                and not (column["nullable"] or column["default"] or column.get("identity") or column.get("computed"))
            ]

    def _unavailable(self, said: Said) -> SinkUnavailable:
        # A server that was made read-only, or a standby by now, stays that to a connection that is kept.
        self.engine.dispose()
        return SinkUnavailable(f"The store {self._where} does not answer, or takes nothing now: {said.words}.")

    def _refused(self, why: str) -> SettingsRefused:
        return SettingsRefused(
            f"The store {self._where} can take no order: {why}. Name another one with PIPELINE_STORE__URL, or mend this "
            "one: a database that this user may write to, its table orders as the pipeline makes it (or none yet)."
        )

    def upsert(self, pairs: Iterable[tuple[OrderPlaced, Record]]) -> None:
        """Store all of them or none, in one database transaction.

        Raises `SinkUnavailable` when the database does not answer, takes nothing now, or its file is gone; `SinkRefused`
        when it refuses the data of one; and `HandlerFailed` (which stops the worker) when it refuses the statement itself.
        """
        rows = [self._row(order, record) for order, record in _one_row_per_order(pairs)]
        if not rows:
            return
        try:
            with self.engine.begin() as connection:
                if not self._ready:
                    orders.create(connection, checkfirst=True)
                for statement, values in self._statements(rows):
                    connection.exec_driver_sql(statement, values)
                file = connection.connection.dbapi_connection
                self._require_in_place(file, connection)
        except SQLAlchemyError as error:
            said = database_errors.read(error)
            raise self._failed(said, f"of {len(rows)} orders") from said.cause
        # Its file may have gone while it was committed. Done again, in the one that is there now, it changes nothing.
        self._require_in_place(file)
        self._ready = True

    def get(self, order_id: str) -> OrderPlaced | None:
        """The order of this id; None when it is not stored, or nothing is yet. `SinkUnavailable` when nobody answers."""
        if "\0" in order_id:
            return None  # no order has it, and PostgreSQL refuses to be asked
        fields = [orders.c[name] for name in OrderPlaced.model_fields]
        try:
            with self.engine.connect() as connection:
                self._require_in_place(connection.connection.dbapi_connection, connection)
                if not self._ready and not inspect(connection).has_table(orders.name):
                    return None
                row = connection.execute(select(*fields).where(orders.c.order_id == order_id)).mappings().one_or_none()
        except SQLAlchemyError as error:
            said = database_errors.read(error)
            raise self._failed(said, "asked for an order") from said.cause
        self._ready = True
        return None if row is None else OrderPlaced.model_construct(**row)

    def _require_in_place(self, file: object, using: Connection | None = None) -> None:
        """Raise when the file that a connection writes to was removed, moved or replaced; it is given up then."""
        if not isinstance(file, sqlite_file.Connection):
            return
        try:
            gone = file.gone()
        except OSError as error:
            raise SinkUnavailable(
                f"The file of the store {self._where} cannot be looked at: {error.strerror}."
            ) from error
        if gone is None:
            return
        self._ready = False
        if using is not None:
            using.invalidate()
        self.engine.dispose()
        if gone.reopen:
            raise SinkUnavailable(
                f"The file of the store {self._where} is gone: {gone.what}. What was in it is not there any more; the store "
                "goes on in a new file of that name, or in the one that is there now."
            )
        raise HandlerFailed(
            f"The store {self._where} is gone: {gone.what}. Is a volume not mounted? Nothing more is stored, and nothing "
            "committed that was not. Put it back and start again; started without it, the store begins empty."
        )

    def _failed(self, said: Said, what: str) -> Exception:
        if said.meaning is Meaning.OUTAGE:
            return self._unavailable(said)
        if said.meaning is Meaning.DATA:
            return SinkRefused(f"The store {self._where} refuses the data {what}: {said.words}")
        return HandlerFailed(
            f"The store {self._where}, {what}, was used wrongly: {said.words}. That is a bug, a right that this user lacks, "
            "or a table of another shape: mend it and start again. Nothing is skipped."
        )

    def close(self) -> None:
        """Let go of the connections."""
        self.engine.dispose()


class StoreOrders:
    """The default handler: applies the business rule and stores the rest, a batch at a time."""

    def __init__(self, store: OrderStore) -> None:
        self._store = store

    def __call__(self, batch: list[tuple[OrderPlaced, Record]]) -> list[tuple[Record, Exception]]:
        rejected: list[tuple[Record, Exception]] = []
        sellable: list[tuple[OrderPlaced, Record]] = []
        for pair in batch:
            try:
                refuse_unsellable(pair[0])
            except Reject as error:
                rejected.append((pair[1], error))
            else:
                sellable.append(pair)
        self._store.upsert(sellable)
        return rejected


def _sqlite_rows_max(columns: int) -> int:
    """The largest power of two that this SQLite takes, and not more than is of use."""
    with closing(sqlite3.connect(":memory:")) as connection:
        rows = connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) // columns
    return min(_SQLITE_ROWS_MAX, 1 << rows.bit_length() - 1)


def _sqlite_statements(
    upsert: str, rows_max: int, rows: list[tuple[Any, ...]]
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """An upsert of all these rows in few statements, each with its values.

    With one statement a row, SQLite's driver lets go of the interpreter and wants it back for each: beside a thread that
    decodes, that is a wait per row. PostgreSQL's driver sends rows by themselves in half the time of one long statement.
    """
    start, count = 0, rows_max
    while start < len(rows):
        # By powers of two there are thirteen statements, or fewer, which the driver keeps compiled: that takes longest.
        while count > len(rows) - start:
            count //= 2
        yield _of_many_rows(upsert, count), tuple(chain.from_iterable(rows[start : start + count]))
        start += count


@cache
def _of_many_rows(upsert: str, count: int) -> str:
    head, values, rest = upsert.partition(" VALUES ")
    row, conflict, tail = rest.partition(" ON CONFLICT ")
    return head + values + ", ".join([row] * count) + conflict + tail


def _on_conflict(insert: Any) -> Any:
    """A row is replaced by a newer version of its order alone (decision 0014); `_is_newer` says the same of a list."""
    new = insert.excluded
    return insert.on_conflict_do_update(
        index_elements=[orders.c.order_id],
        set_={column.name: insert.excluded[column.name] for column in orders.c if not column.primary_key},
        where=or_(
            and_(orders.c.source_partition == new.source_partition, orders.c.source_offset < new.source_offset),
            orders.c.timestamp_utc < new.timestamp_utc,
            and_(orders.c.timestamp_utc == new.timestamp_utc, orders.c.source_partition < new.source_partition),
        ),
    )


def _is_newer(pair: tuple[OrderPlaced, Record], than: tuple[OrderPlaced, Record]) -> bool:
    """In one partition the higher offset; else the later event time; at the same time the higher partition.

    Keys that move when a topic grows by a multiple move to a higher partition.
    """
    (order, record), (other, before) = pair, than
    return (
        (record.partition == before.partition and record.offset > before.offset)
        or order.timestamp_utc > other.timestamp_utc
        or (order.timestamp_utc == other.timestamp_utc and record.partition > before.partition)
    )


def _one_row_per_order(pairs: Iterable[tuple[OrderPlaced, Record]]) -> Iterable[tuple[OrderPlaced, Record]]:
    """One statement must not touch a row twice (PostgreSQL refuses it): settle the batch here as the table would."""
    kept: dict[str, tuple[OrderPlaced, Record]] = {}
    for pair in pairs:
        order_id = pair[0].order_id
        earlier = kept.setdefault(order_id, pair)
        if earlier is not pair and _is_newer(pair, earlier):
            kept[order_id] = pair
    return kept.values()


def _row(order: OrderPlaced, record: Record) -> tuple[Any, ...]:
    """The columns, in the table's order."""
    moment = order.timestamp_utc.astimezone(UTC)
    return order.order_id, order.customer_id, order.amount, moment, record.partition, record.offset


def _sqlite_row(order: OrderPlaced, record: Record) -> tuple[Any, ...]:
    """The same as SQLite keeps it: amounts and times as text, which reads back to the digit."""
    moment, amount = order.timestamp_utc, order.amount
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    if not amount.same_quantum(_PENNY):
        amount = amount.quantize(_PENNY)
    day = moment.year, moment.month, moment.day
    written = _SQLITE_TIME % (*day, moment.hour, moment.minute, moment.second, moment.microsecond)
    return order.order_id, order.customer_id, str(amount), written, record.partition, record.offset
