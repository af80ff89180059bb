"""What became of every sorted file on its way to the export: a SQLite file in `identified/`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tasks.database import Database

_SCHEMA_VERSION = 2
_NOTES = (
    # What many files share is kept once and told by its number.
    "CREATE TABLE note (number INTEGER PRIMARY KEY, content TEXT NOT NULL UNIQUE)",
    "INSERT INTO note VALUES (0, '')",
)
_SCHEMA = (
    """CREATE TABLE outcome (source TEXT PRIMARY KEY, identity TEXT NOT NULL, target TEXT NOT NULL,
    reason TEXT NOT NULL, digest TEXT NOT NULL, by_pydicom TEXT NOT NULL, conversion TEXT NOT NULL DEFAULT '',
    tally INTEGER NOT NULL DEFAULT 0, cohort INTEGER NOT NULL DEFAULT 0)""",
    "CREATE TABLE fact (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    *_NOTES,
)
_UPGRADES = {
    1: (
        *_NOTES,
        "ALTER TABLE outcome ADD COLUMN conversion TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE outcome ADD COLUMN tally INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE outcome ADD COLUMN cohort INTEGER NOT NULL DEFAULT 0",
        # Too little is known of how these files were made: every one is made again. The rows stay, for they tell what
        # earlier runs put into the export.
        "DELETE FROM fact WHERE name = 'settings'",
    )
}


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
    conversion
        What comparing the conversions of its series gave: a word of `conversion.Verdict`, and behind a colon what
        differs; empty if the file was refused before.
    tally
        `Rewritten.tally` as a JSON object; empty if the file was not exported.
    cohort
        What the exported file tells of its subject, by `cohort.read_facts`; empty if it was not exported.
    """

    source: str
    identity: str
    target: str
    reason: str
    digest: str
    by_pydicom: str
    conversion: str = ""
    tally: str = ""
    cohort: str = ""


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
        super().__init__(path, _SCHEMA, _SCHEMA_VERSION, _UPGRADES)

    def settings(self) -> str:
        """Return the digest of the settings that the outcomes were made with."""
        rows = self._read("SELECT value FROM fact WHERE name = 'settings'")
        return str(rows[0][0]) if rows else ""

    def rows(self) -> list[ExportRow]:
        """List every outcome, sorted by source; rows that tell the same share one text."""
        notes = dict(self._read("SELECT number, content FROM note"))
        rows = self._read(
            "SELECT source, identity, target, reason, digest, by_pydicom, conversion, tally, cohort "
            "FROM outcome ORDER BY source"
        )
        return [
            ExportRow(
                source=source,
                identity=identity,
                target=target,
                reason=reason,
                digest=digest,
                by_pydicom=by_pydicom,
                conversion=conversion,
                tally=notes[tally],
                cohort=notes[cohort],
            )
            for source, identity, target, reason, digest, by_pydicom, conversion, tally, cohort in rows
        ]

    def keep(self, settings: str, added: Iterable[ExportRow], removed: Iterable[str]) -> None:
        """Take in new outcomes and forget those of sources that are no more, in one transaction."""
        with self._transaction():
            self._connection.execute("INSERT OR REPLACE INTO fact VALUES ('settings', ?)", (settings,))
            self._connection.executemany("DELETE FROM outcome WHERE source = ?", ((source,) for source in removed))
            numbers = {content: number for number, content in self._read("SELECT number, content FROM note")}
            self._connection.executemany(
                "INSERT OR REPLACE INTO outcome VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    (
                        *(row.source, row.identity, row.target, row.reason, row.digest, row.by_pydicom, row.conversion),
                        *(self._number(row.tally, numbers), self._number(row.cohort, numbers)),
                    )
                    for row in added
                ),
            )
            self._connection.execute(
                "DELETE FROM note WHERE number AND number NOT IN "
                "(SELECT tally FROM outcome UNION SELECT cohort FROM outcome)"
            )

    def _number(self, content: str, numbers: dict[str, int]) -> int:
        """Return the number of a note, which is taken in if it is new."""
        if content not in numbers:
            added = self._connection.execute("INSERT INTO note (content) VALUES (?)", (content,))
            numbers[content] = int(added.lastrowid or 0)
        return numbers[content]
