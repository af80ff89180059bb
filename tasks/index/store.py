"""The index: a SQLite file in `identified/` with a row, or a reject, for every file ever seen in the dump.

Only one process writes it; the chunks that read headers leave their results in files which that process merges.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tasks.database import Database
from tasks.errors import DamagedRecordError
from tasks.files import write_atomically
from tasks.index.row import PASSING_REASONS, FileStamp, IndexRow, Reject

SCHEMA_VERSION = 1
"""Raised when a table changes; an index of another version is refused, not guessed at."""

_ROW_FIELDS = tuple(field.name for field in fields(IndexRow) if field.name != "path")

_PASSING = ", ".join(f"'{reason}'" for reason in sorted(PASSING_REASONS))

_SCHEMA = f"""
CREATE TABLE file (
    id INTEGER PRIMARY KEY,
    path BLOB NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    device INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    present INTEGER NOT NULL DEFAULT 1,
    digest TEXT NOT NULL DEFAULT '',
    reject TEXT NOT NULL DEFAULT '',
    UNIQUE (path, size, mtime_ns, device, inode)
);
CREATE TABLE instance (
    file INTEGER PRIMARY KEY REFERENCES file (id),
    {", ".join(f"{name} TEXT NOT NULL" for name in _ROW_FIELDS)}
);
CREATE INDEX instance_sop ON instance (sop_instance_uid);
CREATE TABLE refused (path BLOB PRIMARY KEY, reason TEXT NOT NULL);
CREATE TABLE placement (
    target TEXT PRIMARY KEY,
    file INTEGER NOT NULL REFERENCES file (id),
    way TEXT NOT NULL
);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedFile:
    """One DICOM file of the index: its number, its stamp, what its header says, and its digest once it was needed.

    Attributes
    ----------
    file
        The file's number in the index.
    present
        Whether the last scan of the dump still saw it.
    digest
        SHA-256 of the content, or empty if nothing needed it so far.
    """

    file: int
    stamp: FileStamp
    present: bool
    digest: str
    row: IndexRow


class IndexStore(Database):
    """The open index.

    Parameters
    ----------
    path
        The SQLite file; made on first use, mode 0600.

    Raises
    ------
    DamagedRecordError
        If the file is no index, or one of another version.
    DiskFullError, WorkspaceError
        If the file system refuses, or another run is writing; every method may raise these.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, [statement for statement in _SCHEMA.split(";") if statement.strip()], SCHEMA_VERSION)
        self._read("PRAGMA journal_mode = WAL")
        self._read("PRAGMA synchronous = NORMAL")

    def known_stamps(self) -> set[FileStamp]:
        """Return the stamps of all files that have a row, or a reject that reading them again would not change."""
        rows = self._read(f"SELECT path, size, mtime_ns, device, inode FROM file WHERE reject NOT IN ({_PASSING})")  # noqa: S608 - our own codes
        return {FileStamp(path=p, size=s, mtime_ns=m, device=d, inode=i) for p, s, m, d, i in rows}

    def merge(self, stamps: Iterable[FileStamp], outcomes: Iterable[IndexRow | Reject]) -> None:
        """Take in one chunk's results, in one transaction; taking the same chunk in twice changes nothing.

        A file that has a row or a reject already keeps it, unless the reject was a passing one.

        Parameters
        ----------
        stamps, outcomes
            Of the same length and in the same order.
        """
        names = ", ".join(("file", *_ROW_FIELDS))
        marks = ", ".join("?" * (len(_ROW_FIELDS) + 1))
        with self._transaction():
            for stamp, outcome in zip(stamps, outcomes, strict=True):
                reason = outcome.reason if isinstance(outcome, Reject) else ""
                new = self._connection.execute(
                    "INSERT INTO file (path, size, mtime_ns, device, inode, reject) VALUES (?, ?, ?, ?, ?, ?) "  # noqa: S608
                    "ON CONFLICT (path, size, mtime_ns, device, inode) DO UPDATE SET reject = excluded.reject "
                    f"WHERE file.reject IN ({_PASSING}) RETURNING id",
                    (stamp.path, stamp.size, stamp.mtime_ns, stamp.device, stamp.inode, reason),
                ).fetchone()
                if new and isinstance(outcome, IndexRow):
                    values = [getattr(outcome, name) for name in _ROW_FIELDS]
                    self._connection.execute(
                        f"INSERT INTO instance ({names}) VALUES ({marks})",  # noqa: S608 - names of our own fields
                        [*new, *values],
                    )

    def finish_scan(self, stamps: Iterable[FileStamp], refused: Iterable[Reject]) -> None:
        """Note which files the dump holds now, and what in it is no ordinary file."""
        with self._transaction():
            self._connection.execute("UPDATE file SET present = 0")
            self._connection.executemany(
                "UPDATE file SET present = 1 WHERE path = ? AND size = ? AND mtime_ns = ? AND device = ? AND inode = ?",
                ((s.path, s.size, s.mtime_ns, s.device, s.inode) for s in stamps),
            )
            self._connection.execute("DELETE FROM refused")
            self._connection.executemany(
                "INSERT OR REPLACE INTO refused VALUES (?, ?)", ((reject.path, reject.reason) for reject in refused)
            )

    def instances(self) -> Iterator[IndexedFile]:
        """Yield every DICOM file ever seen, sorted by path, then by the order of arrival."""
        names = ", ".join(f"instance.{name}" for name in _ROW_FIELDS)
        rows = self._read(
            "SELECT file.id, file.path, size, mtime_ns, device, inode, present, digest, "  # noqa: S608 - own fields
            f"{names} FROM instance JOIN file ON file.id = instance.file ORDER BY file.path, file.id"
        )
        for number, path, size, mtime_ns, device, inode, present, digest, *values in rows:
            yield IndexedFile(
                file=number,
                stamp=FileStamp(path=path, size=size, mtime_ns=mtime_ns, device=device, inode=inode),
                present=bool(present),
                digest=digest,
                row=IndexRow(path=path, **dict(zip(_ROW_FIELDS, values, strict=True))),
            )

    def rejects(self) -> list[Reject]:
        """List what the dump holds now and is not taken, sorted by path."""
        rows = self._read(
            "SELECT path, reject FROM file WHERE reject != '' AND present UNION ALL SELECT path, reason FROM refused"
        )
        return sorted((Reject(path=path, reason=reason) for path, reason in rows), key=lambda reject: reject.path)

    def keep_digests(self, digests: Iterable[tuple[int, str]]) -> None:
        """Note the content digests of files, given as (file, SHA-256)."""
        with self._transaction():
            self._connection.executemany(
                "UPDATE file SET digest = ? WHERE id = ?", ((digest, file) for file, digest in digests)
            )

    def placements(self) -> dict[str, int]:
        """Return what was placed: path below the sorted tree -> file."""
        return dict(self._read("SELECT target, file FROM placement WHERE way != ''"))

    def unfinished_placements(self) -> dict[str, int]:
        """Return what was noted with an empty way and never confirmed: it may stand in the tree or not."""
        return dict(self._read("SELECT target, file FROM placement WHERE way = ''"))

    def keep_placements(self, added: Iterable[tuple[str, int, str]], removed: Iterable[str]) -> None:
        """Note placements made, as (target, file, way), and targets taken away.

        An empty way notes what is about to be placed.
        """
        with self._transaction():
            self._connection.executemany("DELETE FROM placement WHERE target = ?", ((target,) for target in removed))
            self._connection.executemany("INSERT OR REPLACE INTO placement VALUES (?, ?, ?)", added)

    def counts(self) -> dict[str, int]:
        """Count what the index holds of the present dump."""
        (files,) = self._read("SELECT (SELECT count(*) FROM file WHERE present) + (SELECT count(*) FROM refused)")
        (rows,) = self._read(
            "SELECT count(*), count(nullif(slow_path, '')) FROM instance JOIN file ON id = file WHERE present"
        )
        return {"files": files[0], "dicom": rows[0], "slow_path": rows[1]}

    def census(self) -> dict[str, int]:
        """Count patients, DICOM studies, series and instances of the present dump."""
        (counted,) = self._read(
            "SELECT count(DISTINCT patient_id || char(0) || patient_name), count(DISTINCT study_instance_uid), "
            "count(DISTINCT study_instance_uid || char(0) || series_instance_uid), count(DISTINCT sop_instance_uid), "
            "count(*) FROM instance JOIN file ON id = file WHERE present"
        )
        names = ("patients", "dicom_studies", "series", "instances", "dicom_files")
        return dict(zip(names, counted, strict=True))


def write_chunk(path: Path, stamps: Iterable[FileStamp]) -> None:
    """Freeze the list of files that one index chunk will read."""
    content = [[os.fsdecode(s.path), s.size, s.mtime_ns, s.device, s.inode] for s in stamps]
    write_atomically(path, json.dumps(content).encode("ascii"), mode=0o600)


def read_chunk(path: Path) -> list[FileStamp]:
    """Read what `write_chunk` wrote."""
    with _shape_checked(path):
        return [
            FileStamp(path=os.fsencode(p), size=s, mtime_ns=m, device=d, inode=i) for p, s, m, d, i in _read_list(path)
        ]


def write_outcomes(path: Path, outcomes: Iterable[IndexRow | Reject]) -> None:
    """Keep what one index chunk read, until it is merged."""
    content: list[dict[str, Any]] = []
    for outcome in outcomes:
        record = asdict(outcome)
        record["path"] = os.fsdecode(outcome.path)
        content.append(record)
    write_atomically(path, json.dumps(content).encode("ascii"), mode=0o600)


def read_outcomes(path: Path) -> list[IndexRow | Reject]:
    """Read what `write_outcomes` wrote."""
    with _shape_checked(path):
        records = [{**record, "path": os.fsencode(record["path"])} for record in _read_list(path)]
        return [Reject(**record) if "reason" in record else IndexRow(**record) for record in records]


def _read_list(path: Path) -> list[Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as fault:
        raise DamagedRecordError(path=path, problem="it is not there or was cut") from fault
    if not isinstance(content, list):
        raise DamagedRecordError(path=path, problem="it holds no list")
    return content


@contextlib.contextmanager
def _shape_checked(path: Path) -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError, KeyError) as fault:
        raise DamagedRecordError(path=path, problem="it is of another version or was changed") from fault
