"""Rows on their way from one process to another: a small SQLite database in one file, taken whole or refused.

The index is written by one process only. What the others find out they pack as tables, which that process takes in by
one statement for all rows: many times faster than row by row. A parcel is a plain file, so it passes over any file
system, whatever that knows of locks.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tasks.errors import DamagedRecordError
from tasks.files import write_atomically

_MAGIC = b"scanward parcel 1\n"
_DIGEST = hashlib.sha256
_HEAD = len(_MAGIC) + _DIGEST().digest_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """A database as the bytes that SQLite would write to a disk."""

    image: bytes

    @classmethod
    def of(cls, fill: Callable[[sqlite3.Connection], None]) -> Self:
        """Make a parcel of the tables that `fill` makes and fills."""
        with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = OFF")
            connection.execute("BEGIN")
            fill(connection)
            connection.execute("COMMIT")
            return cls(image=connection.serialize())

    @classmethod
    def of_query(
        cls, connection: sqlite3.Connection, query: str, values: Sequence[Any]
    ) -> tuple[Self, int, tuple[Any, ...]]:
        """Make a parcel of what a query finds, as its table `rows`; return how many they are, and the last, as well."""
        connection.execute("ATTACH ':memory:' AS parcel")
        try:
            connection.execute(f"CREATE TABLE parcel.rows AS {query}", values)
            ((count,),) = connection.execute("SELECT count(*) FROM parcel.rows")
            last = connection.execute("SELECT * FROM parcel.rows ORDER BY rowid DESC LIMIT 1").fetchone()
            return cls(image=connection.serialize(name="parcel")), int(count), last or ()
        finally:
            connection.execute("DETACH parcel")

    def write(self, path: Path) -> None:
        """Write the parcel to a file.

        Raises
        ------
        DiskFullError, WorkspaceError
            If the file system refuses.
        """
        write_atomically(path, _MAGIC + _DIGEST(self.image).digest() + self.image, mode=0o600)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a parcel from a file.

        Raises
        ------
        DamagedRecordError
            If it is not there, was cut or changed, or is none.
        """
        try:
            content = path.read_bytes()
        except OSError as fault:
            raise DamagedRecordError(path=path, problem="it is not there or cannot be read") from fault
        image = content[_HEAD:]
        if content[:_HEAD] != _MAGIC + _DIGEST(image).digest():
            raise DamagedRecordError(path=path, problem="it was cut or changed, or is of another version")
        return cls(image=image)

    @contextlib.contextmanager
    def opened(self) -> Iterator[sqlite3.Connection]:
        """Offer the tables by themselves."""
        with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
            connection.deserialize(self.image)
            yield connection

    def count(self, table: str) -> int:
        """Count the rows of a table."""
        with self.opened() as connection:
            ((count,),) = connection.execute(f"SELECT count(*) FROM {table}")  # noqa: S608 - a name of our own
            return int(count)

    @contextlib.contextmanager
    def attached(self, connection: sqlite3.Connection) -> Iterator[None]:
        """Offer the tables under the name `parcel` beside those of a database, outside of transactions."""
        connection.execute("ATTACH ':memory:' AS parcel")
        try:
            connection.deserialize(self.image, name="parcel")
            yield
        finally:
            connection.execute("DETACH parcel")
