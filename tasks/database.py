"""Open our SQLite files: made with their schema on first use, refused when they are of another version."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from tasks.errors import DamagedRecordError
from tasks.files import TEMPORARY_PREFIX, database_refusals_named, refusals_named

_AT_ONCE = 500
"""Rows that a stream takes from SQLite at a time."""


class Database:
    """A SQLite file that one process writes; the base of the stores that know what is in it.

    Parameters
    ----------
    path
        Made on first use, mode 0600.
    schema
        The statements that make its tables.
    version
        Of the schema; a file of another version is refused, not guessed at.
    upgrades
        By older version that is not refused: the statements that make the present tables of it.
    look_only
        Change nothing, and make no file beside it either.

    Raises
    ------
    DamagedRecordError
        If the file is none of SQLite, or one of another version.
    DiskFullError, WorkspaceError
        If the file system refuses, or another run is writing; every method may raise these.
    """

    def __init__(
        self,
        path: Path,
        schema: Sequence[str],
        version: int,
        upgrades: Mapping[int, Sequence[str]] | None = None,
        *,
        look_only: bool = False,
    ) -> None:
        self._path = path
        self._look_only = look_only
        if not look_only:
            with refusals_named(path.parent):
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._private = path.parent.name.startswith(TEMPORARY_PREFIX)
        with database_refusals_named(path):
            self._connection = connect_to_look(path) if look_only else _connect(path, private=self._private)
        problem = ""
        try:
            ((found,),) = self._read("PRAGMA user_version")
            ((tables,),) = self._read("SELECT count(*) FROM sqlite_master")
            if found == 0 and tables:
                problem = "it is a database of another program"
            else:
                statements = schema if found == 0 else (upgrades or {}).get(found)
                if statements is not None:
                    if look_only:
                        self._look_at_copy()
                    with self._transaction():
                        for statement in statements:
                            self._connection.execute(statement)
                        self._connection.execute(f"PRAGMA user_version = {version:d}")
                    found = version
        except BaseException:
            self._connection.close()
            raise
        if not problem and found != version:
            problem = f"it has the format {found}, not {version}"
        if problem:
            self._connection.close()
            raise DamagedRecordError(path=path, problem=problem)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._private and not self._look_only:
                # Whole in one file, and with no word in it of a journal that would lie beside.
                self._read("PRAGMA journal_mode = DELETE")
        finally:
            self._connection.close()

    def _look_at_copy(self) -> None:
        """Look at a copy in memory, because the file would have to be brought to the present format."""
        copy = sqlite3.connect(":memory:", isolation_level=None)
        with contextlib.closing(self._connection), database_refusals_named(self._path):
            self._connection.backup(copy)
        self._connection = copy

    def write_ahead(self) -> None:
        """Write changes into a journal beside first, so that others can read meanwhile and large ones cost less."""
        if self._look_only:
            return
        self._read("PRAGMA journal_mode = WAL")
        self._read(f"PRAGMA synchronous = {'OFF' if self._private else 'NORMAL'}")

    def _read(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return all rows of a query."""
        with database_refusals_named(self._path):
            return self._connection.execute(query, values).fetchall()

    def _stream(self, query: str, values: Sequence[Any] = ()) -> Iterator[Any]:
        """Yield the rows of a query one by one, for tables that may be larger than memory."""
        with database_refusals_named(self._path):
            cursor = self._connection.execute(query, values)
            rows = cursor.fetchmany(_AT_ONCE)
        while rows:
            yield from rows
            with database_refusals_named(self._path):
                rows = cursor.fetchmany(_AT_ONCE)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """Do everything inside or nothing of it."""
        with database_refusals_named(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.DatabaseError):
                    # SQLite may have rolled back by itself, as it does when the disk is full.
                    self._connection.execute("ROLLBACK")
                raise


def _connect(path: Path, *, private: bool) -> sqlite3.Connection:
    """Open a database; one in a private folder (`tasks.desk`) without locks, which its file system may not have."""
    if not private:
        return sqlite3.connect(path, isolation_level=None)
    # SQLite, "The SQLite OS Interface or VFS": unix-none does no locking at all.
    name = f"file:{quote(os.fspath(path))}?vfs=unix-none"
    connection = sqlite3.connect(name, isolation_level=None, uri=True)
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    # If the machine goes down, nobody misses the copy.
    connection.execute("PRAGMA synchronous = OFF")
    return connection


def connect_to_look(path: Path, *, timeout: float = 5.0) -> sqlite3.Connection:
    """Open a database without writing anything, not even the side files of a journal where there is none."""
    mode = "ro" if path.with_name(f"{path.name}-wal").exists() else "ro&immutable=1"
    name = f"file:{quote(os.fspath(path.absolute()))}?mode={mode}"
    return sqlite3.connect(name, isolation_level=None, uri=True, timeout=timeout)


def fold_journal(path: Path) -> None:
    """Bring into a database what a process that was cut off left in the journal beside it."""
    if not path.with_name(f"{path.name}-wal").exists():
        return
    with database_refusals_named(path), contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE").fetchall()
