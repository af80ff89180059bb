"""What became of every sorted file on its way to the export: a SQLite file in `identified/`."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tasks.errors import DamagedRecordError
from tasks.files import refusals_named

_SCHEMA_VERSION = 1
_SCHEMA = (
    """CREATE TABLE outcome (source TEXT PRIMARY KEY, identity TEXT NOT NULL, target TEXT NOT NULL,
    reason TEXT NOT NULL, digest TEXT NOT NULL, by_pydicom TEXT NOT NULL)""",
    "CREATE TABLE fact (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    f"PRAGMA user_version = {_SCHEMA_VERSION}",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRow:
    """What became of one file; nothing in it but `source` identifies anybody.

    Attributes
    ----------
    source
        The file below the sorted tree.
    identity
        Names the content the source had: its number in the index.
    target
        The file below the export, or where it would have stood.
    reason
        Empty if it was exported, else why it is in quarantine.
    digest
        SHA-256 of the exported file, or empty.
    by_pydicom
        Why pydicom had to read it, or empty.
    """

    source: str
    identity: str
    target: str
    reason: str
    digest: str
    by_pydicom: str


class Ledger:
    """The open ledger; one process writes it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with refusals_named(path.parent):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        try:
            self._connection = sqlite3.connect(path, isolation_level=None)
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            if version == 0:
                with self._transaction():
                    for statement in _SCHEMA:
                        self._connection.execute(statement)
            elif version != _SCHEMA_VERSION:
                raise DamagedRecordError(path=path, problem=f"it has the format {version}, not {_SCHEMA_VERSION}")
        except sqlite3.DatabaseError as fault:
            raise DamagedRecordError(path=path, problem="it is no ledger") from fault

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        with refusals_named(self._path.parent):
            self._connection.execute("COMMIT")

    def settings(self) -> str:
        """Return the digest of the settings that the outcomes were made with."""
        row = self._connection.execute("SELECT value FROM fact WHERE name = 'settings'").fetchone()
        return row[0] if row else ""

    def rows(self) -> list[ExportRow]:
        """List every outcome, sorted by source."""
        cursor = self._connection.execute(
            "SELECT source, identity, target, reason, digest, by_pydicom FROM outcome ORDER BY source"
        )
        return [
            ExportRow(source=s, identity=i, target=t, reason=r, digest=d, by_pydicom=b) for s, i, t, r, d, b in cursor
        ]

    def keep(self, settings: str, added: Iterable[ExportRow], removed: Iterable[str]) -> None:
        """Take in new outcomes and forget those of sources that are no more, in one transaction."""
        with self._transaction():
            self._connection.execute("INSERT OR REPLACE INTO fact VALUES ('settings', ?)", (settings,))
            self._connection.executemany("DELETE FROM outcome WHERE source = ?", ((source,) for source in removed))
            self._connection.executemany(
                "INSERT OR REPLACE INTO outcome VALUES (?, ?, ?, ?, ?, ?)",
                ((r.source, r.identity, r.target, r.reason, r.digest, r.by_pydicom) for r in added),
            )
