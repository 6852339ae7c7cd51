"""What a database's code means, and that nothing of a row gets out."""

import sqlite3
import traceback

import psycopg
import pytest
from sqlalchemy.exc import DBAPIError

from pipeline.sinks.database_errors import Meaning, is_hopeless, meaning, read, sqlite_meaning

ROW = "A-1, Jane Doe, 1 Main St"


@pytest.mark.parametrize(
    "state",
    [
        "08000", "08006", "08P01",  # no connection, a pooler's refusal
        "25006", "25P03", "25P04",  # a standby after a failover, idle or transaction time-out
        "40001", "40P01",  # serialization, deadlock
        "53000", "53100", "53200", "53300",  # disk, memory, connections
        "55006", "55P03",  # in use, locked
        "57000", "57014", "57P01", "57P02", "57P03", "57P04", "57P05",
        "58000", "58030", "72000", "F0000", "XX000", "XX001", "XX002",
    ],
)  # fmt: skip
def test_database_that_cannot_now_is_an_outage(state: str) -> None:
    assert meaning(state) is Meaning.OUTAGE


@pytest.mark.parametrize("state", ["22001", "22003", "22P02", "23502", "23505", "23514", "23P01", "44000", "P0001"])
def test_row_that_is_refused_is_the_rows_fault(state: str) -> None:
    assert meaning(state) is Meaning.DATA


@pytest.mark.parametrize(
    "state",
    ["0A000", "21000", "25001", "25P02", "28000", "3D000", "42501", "42601", "42703", "42P01", "54000", "P0004"],
)
def test_statement_that_is_refused_is_neither(state: str) -> None:
    assert meaning(state) is Meaning.WRONG


def test_every_code_that_the_driver_knows_has_one_meaning() -> None:
    for kind in set(psycopg.errors._sqlcodes.values()):
        state = str(kind.sqlstate)
        error = DBAPIError.instance("INSERT", (ROW,), kind(ROW), psycopg.Error, hide_parameters=True)
        said = read(error)  # type: ignore[arg-type]
        assert said.meaning is meaning(state)
        assert said.meaning is not Meaning.DATA or ROW not in said.words, state


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *(
            (name, Meaning.OUTAGE)
            for name in ("BUSY", "LOCKED", "READONLY", "FULL", "IOERR", "CANTOPEN", "NOMEM", "PERM")
        ),
        *((name, Meaning.OUTAGE) for name in ("IOERR_SHORT_READ", "BUSY_SNAPSHOT", "READONLY_DBMOVED", "PROTOCOL")),
        *((name, Meaning.DATA) for name in ("CONSTRAINT", "CONSTRAINT_CHECK", "MISMATCH", "TOOBIG")),
        *((name, Meaning.WRONG) for name in ("ERROR", "NOTADB", "CORRUPT", "MISUSE", "RANGE", "AUTH")),
    ],
)
def test_result_code_of_sqlite_has_its_meaning(name: str, expected: Meaning) -> None:
    assert sqlite_meaning(getattr(sqlite3, f"SQLITE_{name}")) is expected


def test_start_is_refused_for_what_a_person_has_to_mend() -> None:
    def error(code: int) -> sqlite3.OperationalError:
        it = sqlite3.OperationalError("x")
        it.sqlite_errorcode = code
        return it

    wrapped = [
        DBAPIError.instance("SELECT", (), error(code), sqlite3.Error)
        for code in (sqlite3.SQLITE_READONLY_DBMOVED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL)
    ]
    assert [is_hopeless(each) for each in wrapped] == [True, True, False, False]  # type: ignore[arg-type]


def test_driver_without_a_code_is_told_by_its_class() -> None:
    assert read(psycopg.OperationalError("connection refused")).meaning is Meaning.OUTAGE
    assert read(psycopg.InterfaceError("the connection is closed")).meaning is Meaning.OUTAGE
    refused = read(psycopg.DataError(f"text fields cannot contain NUL: {ROW}"))
    assert (refused.meaning, refused.words) == (Meaning.DATA, "DataError")
    assert read(psycopg.ProgrammingError("the query has 6 placeholders")).meaning is Meaning.WRONG


def test_words_are_a_line_and_the_cause_holds_no_more() -> None:
    said = read(psycopg.errors.DiskFull(f"could not extend file\nDETAIL:  Failing row contains ({ROW})."))
    assert said.words == "could not extend file"
    assert type(said.cause) is psycopg.errors.DiskFull
    assert ROW not in "".join(traceback.format_exception(said.cause))
    assert len(read(psycopg.OperationalError("x" * 10_000)).words) == 300
