"""A SQLite connection that knows whether the file it writes to is still the one at its path.

SQLite does not notice when its file is deleted, moved or replaced: it goes on writing to what was there, which nobody will
read again. And where a log (`-wal`) or a lock table (`-shm`) is made anew beside it, two connections no longer see each
other (sqlite.org/howtocorrupt.html, 2.4 to 2.6). So each of the files is known by its device and inode.
"""

import ctypes
import os
import sqlite3
from typing import Any, NamedTuple

_Identity = tuple[int, int]


class Gone(NamedTuple):
    """What happened to the file; `reopen`: its folder is the same, so what is there now, or nothing, is meant."""

    what: str
    reopen: bool


class _Files(NamedTuple):
    path: str
    folder: _Identity | None
    parts: tuple[_Identity | None, ...]


class Connection(sqlite3.Connection):
    """As `sqlite3`'s; `remember` is called once the file was opened."""

    _files: _Files | None = None

    def remember(self) -> None:
        """Take what is at the path now for what was opened."""
        cursor = self.cursor()
        path = next(str(row[2]) for row in cursor.execute("PRAGMA database_list") if row[1] == "main")
        cursor.execute("SELECT count(*) FROM sqlite_master").fetchone()  # so that its log and its lock table are there
        cursor.close()
        self._files = _look(path)

    def gone(self) -> Gone | None:
        """What happened to the file since, or None while it is in its place; `OSError` where that cannot be told."""
        return None if self._files is None else _difference(self._files, _look(self._files.path))

    def close(self) -> None:
        """Close it, unless another file, or none, is at its path.

        The last connection deletes log and lock table by their names, which are another database's by then: such a
        connection stays open until the process ends, and is not closed even then.
        """
        if self._is_another():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))
        else:
            super().close()

    def _is_another(self) -> bool:
        if self._files is None:
            return False
        try:
            return _identity(self._files.path) != self._files.parts[0]
        except OSError:
            return True


def _look(path: str) -> _Files:
    parts = tuple(_identity(path + suffix) for suffix in ("", "-wal", "-shm"))
    return _Files(path, _identity(os.path.dirname(path)), parts)  # noqa: PTH120  # per batch: no Path is made


def _difference(before: _Files, now: _Files) -> Gone | None:
    if now == before:
        return None
    path = before.path
    if now.folder != before.folder:
        return Gone(f"the folder of {path} was removed, or is another one", reopen=False)
    if now.parts[0] is None:
        return Gone(f"{path} was removed or moved", reopen=True)
    for suffix, was, is_ in zip(("", "-wal", "-shm"), before.parts, now.parts, strict=True):
        # A log that was not there before was made since: it is shared.
        if was is not None and was != is_:
            return Gone(f"{path}{suffix} was removed or replaced", reopen=True)
    return None


def _identity(path: str) -> _Identity | None:
    try:
        found = os.stat(path)  # noqa: PTH116  # follows links, as SQLite does
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def tune(connection: Any, _: Any) -> None:
    """Set up a connection just opened (a listener for SQLAlchemy's `connect`)."""
    cursor = connection.cursor()
    # Of a new file. Orders come in no order of their keys: a long list finds more of its rows on each page that it writes.
    cursor.execute("PRAGMA page_size=8192")
    # Readers do not block the writer; every commit is on disk before its offset is.
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    # Pages that many commits touch are carried over once in 64 MB of log, not in 8.
    cursor.execute("PRAGMA wal_autocheckpoint=8000")
    # Of a table that is larger than 2 MB, nearly every order would find its page outside of the default cache.
    cursor.execute("PRAGMA cache_size=-16000")
    # A long statement can be undone only from a journal, which a container without a writable /tmp has no place for.
    cursor.execute("PRAGMA temp_store=MEMORY")
    cursor.close()
    connection.remember()
