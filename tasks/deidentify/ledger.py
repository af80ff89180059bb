"""What became of every sorted file on its way to the export: a SQLite file in `identified/`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tasks.database import Database

_SCHEMA_VERSION = 1
_SCHEMA = (
    """CREATE TABLE outcome (source TEXT PRIMARY KEY, identity TEXT NOT NULL, target TEXT NOT NULL,
    reason TEXT NOT NULL, digest TEXT NOT NULL, by_pydicom TEXT NOT NULL)""",
    "CREATE TABLE fact (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
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


class Ledger(Database):
    """The open ledger; one process writes it.

    Parameters
    ----------
    path
        The SQLite file; made on first use.

    Raises
    ------
    DamagedRecordError
        If the file is no ledger, or one of another version.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, _SCHEMA, _SCHEMA_VERSION)

    def settings(self) -> str:
        """Return the digest of the settings that the outcomes were made with."""
        rows = self._read("SELECT value FROM fact WHERE name = 'settings'")
        return str(rows[0][0]) if rows else ""

    def rows(self) -> list[ExportRow]:
        """List every outcome, sorted by source."""
        cursor = self._read("SELECT source, identity, target, reason, digest, by_pydicom FROM outcome ORDER BY source")
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
