"""What an error of a database means, by its code alone, and what may be said of it.

SQLSTATE classes (PostgreSQL, appendix A; ISO/IEC 9075-2) and SQLite's result codes. An outage is waited for, whoever has
to mend it; data that a row is refused for is that row's fault; everything else stops the worker.

A database quotes the row in its messages ("Failing row contains (…)"), SQLAlchemy the statement and its parameters: of
refused data only names are told, of the rest the first line. Nothing here keeps a hold of the error it was made from.
"""

import sqlite3
from enum import Enum
from typing import Any, NamedTuple

WORDS_MAX = 300


class Meaning(Enum):
    """What can be done about it."""

    OUTAGE = "outage"
    DATA = "data"
    WRONG = "wrong"


class Said(NamedTuple):
    """What a database said: its meaning, harmless words, and an error of the driver's class that holds no more than them."""

    meaning: Meaning
    words: str
    cause: Exception


# Classes: connection, rollback (deadlock, serialization), resources (disk, memory, connections), operator (shutdown,
# cancelled), system (I/O), snapshot too old, internal error. Codes: read-only (a standby after a failover, a full disk),
# idle or transaction time-out, object in use, lock not available, a foreign server that is away.
_OUTAGE_CLASSES = frozenset({"08", "40", "53", "57", "58", "72", "XX", "F0"})
_OUTAGE_CODES = frozenset({"25006", "25P03", "25P04", "55006", "55P03", "HV00N"})
# Data, integrity, a view's check, conditions of the user's own; and what a trigger raises about the row.
_DATA_CLASSES = frozenset({"22", "23", "44", "45"})
_DATA_CODES = frozenset({"P0001"})

_SQLITE_DATA = frozenset({sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG})
_SQLITE_OUTAGES = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_INTERNAL,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_SCHEMA,
    }
)
# At the start a person is there to mend it: the path cannot be opened or written to.
_SQLITE_HOPELESS = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY})


def meaning(sqlstate: str) -> Meaning:
    """Of a SQLSTATE."""
    if sqlstate[:2] in _OUTAGE_CLASSES or sqlstate in _OUTAGE_CODES:
        return Meaning.OUTAGE
    if sqlstate[:2] in _DATA_CLASSES or sqlstate in _DATA_CODES:
        return Meaning.DATA
    return Meaning.WRONG


def sqlite_meaning(code: int) -> Meaning:
    """Of a result code, with or without its finer distinctions."""
    primary = code & 0xFF
    if primary in _SQLITE_OUTAGES:
        return Meaning.OUTAGE
    return Meaning.DATA if primary in _SQLITE_DATA else Meaning.WRONG


def read(error: Exception) -> Said:
    """What this error says, as SQLAlchemy or the driver raised it."""
    origin: Any = getattr(error, "orig", None) or error
    code = getattr(origin, "sqlite_errorcode", None)
    if code is not None:
        said = sqlite_meaning(int(code))
        by_trigger = int(code) == sqlite3.SQLITE_CONSTRAINT_TRIGGER  # its words are of somebody's making
        words = str(origin.sqlite_errorname) if by_trigger else _first_line(origin)
        return _said(said, words, origin)
    state = getattr(origin, "sqlstate", None)
    if state:
        said = meaning(str(state))
        return _said(said, _names(origin, str(state)) if said is Meaning.DATA else _primary(origin, str(state)), origin)
    # No answer, or none of the database: the driver's own class tells what it was about.
    kinds = {each.__name__ for each in type(origin).__mro__}
    if "DataError" in kinds:
        return _said(Meaning.DATA, type(origin).__name__, origin)
    away = kinds & {"OperationalError", "InterfaceError", "OSError"}
    return _said(Meaning.OUTAGE if away else Meaning.WRONG, _first_line(origin), origin)


def is_hopeless(error: Exception) -> bool:
    """Whether a start is refused for it: an outage of SQLite that is a person's to mend."""
    code = getattr(getattr(error, "orig", None), "sqlite_errorcode", None)
    return code is not None and int(code) & 0xFF in _SQLITE_HOPELESS


def _said(said: Meaning, words: str, origin: BaseException) -> Said:
    return Said(said, words, _copy(origin, words))


def _copy(origin: BaseException, words: str) -> Exception:
    """An error of the same class with these words alone, so that neither a log nor a traceback shows more."""
    kind = type(origin)
    try:
        made = kind(words)
    except Exception:  # noqa: BLE001  # a driver's class may ask for whatever it likes
        return RuntimeError(words)
    return made if isinstance(made, Exception) else RuntimeError(words)


def _names(origin: object, state: str) -> str:
    """The kind of refusal and what it is about, none of its values."""
    diag = getattr(origin, "diag", None)
    about = [
        f"{what} {name}"
        for what in ("constraint", "column", "table")
        if (name := getattr(diag, f"{what}_name", None)) is not None
    ]
    return f"{type(origin).__name__} ({', '.join([f'SQLSTATE {state}', *about])})"


def _primary(origin: BaseException, state: str) -> str:
    """The server's own sentence; inside of a function (it has a context then) it may be a user's, with the row in it."""
    diag = getattr(origin, "diag", None)
    if state.startswith("P0") or getattr(diag, "context", None):
        return _names(origin, state)
    words = getattr(diag, "message_primary", None)
    return str(words)[:WORDS_MAX] if words else _first_line(origin)


def _first_line(origin: BaseException) -> str:
    """Connection failures say it all in one line; what follows quotes data."""
    return (str(origin).strip().splitlines() or [type(origin).__name__])[0][:WORDS_MAX]
