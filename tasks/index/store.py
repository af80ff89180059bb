"""The index: a SQLite file in `identified/` with a row, or a reject, for every file ever seen in the dump.

Only one process writes it; the chunks that read headers leave their results in files which that process merges. Rows
come by the million, so whatever goes over all of them is a stream.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.database import Database
from tasks.index.chunk import FILE_COLUMNS
from tasks.index.row import PASSING_REASONS, ROW_FIELDS, SHARED_FIELDS, FileStamp, IndexRow, Reject, SharedHeader
from tasks.parcel import Parcel

SCHEMA_VERSION = 4
"""Raised when a table changes; an index of another version is refused, not guessed at."""

_UPGRADES = {
    # Until then the devices had the kernel's numbers, which are others on each machine.
    3: ("UPDATE file SET device = 0",),
}

_IS_FRESH = "{}.id > (SELECT file FROM fresh_from)"
"""Holds for files that were read since the last scan was finished; they have the highest numbers."""

_NONE_FRESH = 2**63 - 1

_CACHE_KIB = 32 << 10

_PASSING = ", ".join(f"'{reason}'" for reason in sorted(PASSING_REASONS))
_NOTHING = (None,) * (len(ROW_FIELDS) + 1)
_LIMITED = "'archive-limit', 'archive-nested'"
_NO_TIME = -(2**63)
_STAMP = "path, size, mtime_ns, device, inode"
_IDENTITY = "inode, device, size, mtime_ns"
_SAME_STAMP = " AND ".join(f"{{0}}.{name} = {{1}}.{name}" for name in _STAMP.split(", "))
_SAME_HEADER = " AND ".join(f"old.{name} IS fresh.{name}" for name in ("reject", "header", *ROW_FIELDS))
_REWRITTEN = (
    "FROM gone JOIN file AS old ON old.id = gone.id JOIN file AS fresh ON fresh.path = old.path "
    f"WHERE {_IS_FRESH.format('fresh')} AND fresh.container IS NULL"
)
_SERIES = "patient_id, patient_name, study_instance_uid, series_instance_uid"
_TAKE_SERIES = f"INSERT OR IGNORE INTO series ({_SERIES}) SELECT {_SERIES} FROM parcel.header"  # noqa: S608 - own names
_TAKE_HEADERS = (
    f"INSERT OR IGNORE INTO header (key, series, subgroup, {', '.join(SHARED_FIELDS)}) "  # noqa: S608
    f"SELECT key, series.id, subgroup, {', '.join(f'new.{name}' for name in SHARED_FIELDS)} "
    f"FROM parcel.header AS new CROSS JOIN series USING ({_SERIES}) ORDER BY new.number"
)
_TAKE_FILES = (
    f"INSERT INTO file (id, {', '.join(FILE_COLUMNS[1:])}) "  # noqa: S608
    "SELECT ? + new.number, path, size, mtime_ns, device, inode, reject, ? + container, stored, header.id, "
    f"{', '.join(f'new.{name}' for name in ROW_FIELDS)} FROM parcel.file AS new "
    "LEFT JOIN parcel.header AS told ON told.number = new.header LEFT JOIN header ON header.key = told.key "
    "ORDER BY new.number"
)

_INDEXED = (
    f"SELECT file.id, {_STAMP}, present, digest, stored, "  # noqa: S608 - names of our own fields
    f"{', '.join(f'file.{name}' for name in ROW_FIELDS)}, {', '.join(f'header.{name}' for name in SHARED_FIELDS)} "
    "FROM file JOIN header ON header.id = file.header"
)

_FILE_INDEXES = {
    "file_path": "file (path)",
    "file_sop": "file (sop_instance_uid, path) WHERE header IS NOT NULL",
    "file_header": "file (header) WHERE header IS NOT NULL",
    "file_container": "file (container) WHERE container IS NOT NULL",
}
_FILE_INDEX_SCHEMA = ";\n".join(f"CREATE INDEX IF NOT EXISTS {name} ON {what}" for name, what in _FILE_INDEXES.items())

_SCHEMA = f"""
CREATE TABLE series (
    id INTEGER PRIMARY KEY,
    patient_id TEXT NOT NULL,
    patient_name TEXT NOT NULL,
    study_instance_uid TEXT NOT NULL,
    series_instance_uid TEXT NOT NULL,
    UNIQUE (study_instance_uid, series_instance_uid, patient_id, patient_name)
);
CREATE TABLE header (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    series INTEGER NOT NULL REFERENCES series (id),
    subgroup TEXT NOT NULL,
    {", ".join(f"{name} TEXT NOT NULL" for name in SHARED_FIELDS)}
);
CREATE INDEX header_series ON header (series);
CREATE TABLE file (
    id INTEGER PRIMARY KEY,
    path BLOB NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    device INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    reject TEXT NOT NULL,
    container INTEGER,
    stored TEXT NOT NULL,
    header INTEGER,
    {", ".join(f"{name} TEXT" for name in ROW_FIELDS)},
    present INTEGER NOT NULL DEFAULT TRUE,
    digest TEXT NOT NULL DEFAULT ''
);
{_FILE_INDEX_SCHEMA};
CREATE TABLE last_number (file INTEGER NOT NULL);
INSERT INTO last_number VALUES (0);
CREATE TABLE fresh_from (file INTEGER NOT NULL);
INSERT INTO fresh_from VALUES ({_NONE_FRESH});
CREATE TABLE seen (path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, device INTEGER, inode INTEGER) WITHOUT ROWID;
CREATE TABLE gone (inode INTEGER, device INTEGER, size INTEGER, mtime_ns INTEGER, id INTEGER,
    PRIMARY KEY (inode, device, size, mtime_ns, id)) WITHOUT ROWID;
CREATE TABLE merged (chunk TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE found (change TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE refused (path BLOB PRIMARY KEY, reason TEXT NOT NULL) WITHOUT ROWID
"""  # noqa: S608 - names of our own fields

CHANGES = ("unchanged", "new", "moved", "renamed", "re_sent", "changed", "vanished")
"""What a scan can find of a file, compared with the scan before; the order in which they are told."""


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
    stored
        Its name below the store of unpacked files, if it lay compressed or in an archive.
    """

    file: int
    stamp: FileStamp
    present: bool
    digest: str
    stored: str
    row: IndexRow


class IndexStore(Database):
    """The open index.

    Parameters
    ----------
    path
        The SQLite file; made on first use, mode 0600.
    look_only
        Change nothing.

    Raises
    ------
    DamagedRecordError
        If the file is no index, or one of another version.
    DiskFullError, WorkspaceError
        If the file system refuses, or another run is writing; every method may raise these.
    """

    def __init__(self, path: Path, more_schema: str = "", *, look_only: bool = False) -> None:
        statements = [statement for statement in (_SCHEMA + more_schema).split(";") if statement.strip()]
        super().__init__(path, statements, SCHEMA_VERSION, _UPGRADES, look_only=look_only)
        self.write_ahead()
        # With SQLite's own 2 MiB, the pages of large tables are read over and over.
        self._read(f"PRAGMA cache_size = -{_CACHE_KIB}")
        # What SQLite sorts is read from headers and must not leave `identified/`, and of a large study it is more than
        # memory holds. (SQLite, "Temporary Files Used By SQLite", section 5: the name is taken away at once.)
        os.putenv("SQLITE_TMPDIR", os.fspath(path.parent))
        self._read(f"PRAGMA temp_store = {'MEMORY' if look_only else 'FILE'}")

    # What the dump holds now -----------------------------------------------------------------------------------------

    def take_scan(self, stamps: Iterable[FileStamp], *, limits_changed: bool = False) -> Iterator[FileStamp]:
        """Take in a new list of what the dump holds, and yield the files of it that have to be read.

        Parameters
        ----------
        stamps
            The ordinary files.
        limits_changed
            Whether archives that were refused, or opened in part, have to be opened again.
        """
        with self._transaction():
            execute = self._connection.execute
            for table in ("seen", "merged", "found"):
                execute(f"DELETE FROM {table}")  # noqa: S608
            # Such files are read again, and those that a run read which never finished: nothing may be known of them.
            execute(
                f"DELETE FROM file WHERE {_IS_FRESH.format('file')} "  # noqa: S608 - own codes
                f"OR (reject IN ({_PASSING}) AND container IS NULL)"
            )
            execute("UPDATE fresh_from SET file = (SELECT file FROM last_number)")
            again = f"{_PASSING}, {_LIMITED}" if limits_changed else _PASSING
            # A stamp that no file has, so that the archive is opened again; what was placed from it stands.
            execute(
                f"UPDATE file SET mtime_ns = {_NO_TIME} WHERE reject IN ({again}) AND container IS NULL "  # noqa: S608
                f"OR id IN (SELECT container FROM file WHERE reject IN ({again}))"
            )
            ((nothing_known,),) = execute("SELECT NOT EXISTS (SELECT 1 FROM file)")
            if not nothing_known:
                self._connection.executemany("INSERT INTO seen VALUES (?, ?, ?, ?, ?)", stamps)
        if nothing_known:
            return iter(stamps)
        same = _SAME_STAMP.format("file", "seen")
        rows = self._stream(
            f"SELECT {_STAMP} FROM seen WHERE NOT EXISTS (SELECT 1 FROM file WHERE {same} AND container IS NULL)"  # noqa: S608
        )
        return map(FileStamp._make, rows)

    def expect(self, files: int) -> None:
        """Get ready to merge so many files: where they are most of all, the index is sorted once at the end."""
        ((known,),) = self._read("SELECT count(*) FROM file")
        if files > known:
            with self._transaction():
                for name in _FILE_INDEXES:
                    self._connection.execute(f"DROP INDEX IF EXISTS {name}")

    def merge(self, chunk: str, parcel: Parcel) -> int:
        """Take in what one chunk read (`tasks.index.chunk.pack`), in one transaction, and count its files of the dump.

        Taking in the chunk of the same name twice changes nothing.
        """
        with parcel.attached(self._connection), self._transaction():
            execute = self._connection.execute
            if execute("INSERT OR IGNORE INTO merged VALUES (?)", (chunk,)).rowcount:
                ((last,),) = execute("SELECT file FROM last_number")
                execute(_TAKE_SERIES)
                execute(_TAKE_HEADERS)
                # A number is given once: others may speak of a file by it that is forgotten here.
                execute("UPDATE last_number SET file = file + ?", (execute(_TAKE_FILES, (last, last)).rowcount,))
            ((files,),) = execute("SELECT count(*) FROM parcel.file WHERE container IS NULL")
            return int(files)

    def finish_scan(
        self, refused: Iterable[Reject], same_content: Callable[[IndexedFile, IndexedFile], bool]
    ) -> dict[str, int]:
        """Note which files the dump holds now, and tell what became of those it held before.

        A file that only moved, or was sent again, keeps its number, so that its place in the sorted tree stands.
        Doing it again for the same scan changes nothing.

        Parameters
        ----------
        refused
            What in the dump is no ordinary file.
        same_content
            Tells whether a file that is gone and the one that took its path hold the same bytes; asked only where
            size and header are equal.

        Returns
        -------
        dict
            A count for each of `CHANGES`.
        """
        counts = dict.fromkeys(CHANGES, 0)
        seen = f"EXISTS (SELECT 1 FROM seen WHERE {_SAME_STAMP.format('seen', 'file')})"  # noqa: S608 - our own names
        fresh = _IS_FRESH.format("file")
        with self._transaction():
            execute = self._connection.execute
            # Before anything else: a run that was cut off behind this point drops them again when it goes on.
            for statement in _FILE_INDEX_SCHEMA.split(";"):
                execute(statement)
            if found := execute("SELECT change, count FROM found").fetchall():
                return counts | dict(found)
            execute(
                f"INSERT INTO gone SELECT inode, device, size, mtime_ns, id FROM file WHERE present "  # noqa: S608
                f"AND container IS NULL AND NOT {fresh} AND NOT {seen}"
            )
            ((vanished,),) = execute("SELECT count(*) FROM gone")
            ((before,),) = execute(
                f"SELECT count(*) FROM file WHERE present AND container IS NULL AND NOT {fresh}"  # noqa: S608
            )
            counts["unchanged"] = before - vanished
            if vanished:
                counts["re_sent"] = self._settle_sent_again(same_content)
                counts["moved"], counts["renamed"] = self._settle_moved()
                # Only now: a path may hold what had another one, and what it held may have got another one.
                ((counts["changed"],),) = execute(f"SELECT count(*) {_REWRITTEN}")
                execute(
                    "UPDATE file SET present = FALSE WHERE id IN (SELECT id FROM gone) "
                    "OR container IN (SELECT id FROM gone)"
                )
                ((left,),) = execute("SELECT count(*) FROM gone")
                counts["vanished"] = left - counts["changed"]
            back = f"NOT present AND container IS NULL AND {seen}"
            execute(f"UPDATE file SET present = TRUE WHERE container IN (SELECT id FROM file WHERE {back})")  # noqa: S608
            counts["new"] = execute(f"UPDATE file SET present = TRUE WHERE {back}").rowcount  # noqa: S608
            ((read,),) = execute(f"SELECT count(*) FROM file WHERE {fresh} AND container IS NULL")  # noqa: S608
            counts["new"] += read - counts["changed"]
            execute("UPDATE fresh_from SET file = ?", (_NONE_FRESH,))
            for table in ("gone", "seen", "refused"):
                execute(f"DELETE FROM {table}")  # noqa: S608
            self._connection.executemany("INSERT INTO found VALUES (?, ?)", counts.items())
            self._connection.executemany(
                "INSERT OR REPLACE INTO refused VALUES (?, ?)", ((reject.path, reject.reason) for reject in refused)
            )
        return counts

    def _settle_sent_again(self, same_content: Callable[[IndexedFile, IndexedFile], bool]) -> int:
        """Find the paths that hold another file with the bytes of the one before; return how many they are."""
        pairs = self._connection.execute(
            f"SELECT old.id, fresh.id {_REWRITTEN} AND {_SAME_HEADER} AND old.size = fresh.size "
            "AND old.header IS NOT NULL"
        ).fetchall()
        sent_again = 0
        for old, fresh in pairs:
            if same_content(self._indexed(old), self._indexed(fresh)):
                self._adopt(old, fresh)
                sent_again += 1
        return sent_again

    def _settle_moved(self) -> tuple[int, int]:
        """Find the files that have another path now; return how many changed their folder, and only their name.

        An inode is given to a new file when the old one is removed, so the header has to agree as well, and of an
        archive the headers of all that is in it.
        """
        moved = renamed = 0
        settled: set[int] = set()
        pairs = self._connection.execute(
            f"SELECT old.id, fresh.id, old.path, fresh.path FROM file AS fresh JOIN gone USING ({_IDENTITY}) "  # noqa: S608
            f"JOIN file AS old ON old.id = gone.id WHERE {_IS_FRESH.format('fresh')} AND fresh.container IS NULL "
            f"AND {_SAME_HEADER} ORDER BY fresh.path, old.path"
        ).fetchall()
        for old, fresh, old_path, new_path in pairs:
            if old in settled or fresh in settled or not self._same_members(old, fresh):
                continue
            settled |= {old, fresh}
            self._adopt(old, fresh)
            if old_path.rpartition(b"/")[0] == new_path.rpartition(b"/")[0]:
                renamed += 1
            else:
                moved += 1
        return moved, renamed

    def _same_members(self, old: int, fresh: int) -> bool:
        """Tell whether what two archives hold has equal headers, in the same order; any other file holds nothing."""
        one, other = (
            self._connection.execute(
                f"SELECT size, reject, header, {', '.join(ROW_FIELDS)} FROM file WHERE container = ? ORDER BY id",  # noqa: S608
                (container,),
            ).fetchall()
            for container in (old, fresh)
        )
        return bool(one == other)

    def _adopt(self, old: int, fresh: int) -> None:
        """Let a known file, and what it holds, go on under the stamps of the ones that were taken for new."""
        execute = self._connection.execute
        # By its whole key, as the table has no other; and before the stamp in it becomes another.
        execute(
            f"DELETE FROM gone WHERE ({_IDENTITY}, id) = (SELECT {_IDENTITY}, id FROM file WHERE id = ?)",  # noqa: S608
            (old,),
        )
        of_container = "SELECT id FROM file WHERE container = ? ORDER BY id"
        members = zip(execute(of_container, (old,)).fetchall(), execute(of_container, (fresh,)).fetchall(), strict=True)
        for known, new in [(old, fresh), *((known, new) for (known,), (new,) in members)]:
            execute(
                f"UPDATE file SET ({_STAMP}, stored, present) = "  # noqa: S608
                f"(SELECT {_STAMP}, stored, TRUE FROM file WHERE id = ?) WHERE id = ?",
                (new, known),
            )
        execute("DELETE FROM file WHERE id = ? OR container = ?", (fresh, fresh))

    # What is known of files --------------------------------------------------------------------------------------

    def _indexed(self, number: int) -> IndexedFile:
        (row,) = self._connection.execute(f"{_INDEXED} WHERE file.id = ?", (number,)).fetchall()
        return _make_indexed(row)

    def instances(self) -> Iterator[IndexedFile]:
        """Yield every DICOM file ever seen, sorted by path, then by the order of arrival."""
        return map(_make_indexed, self._stream(f"{_INDEXED} WHERE file.header IS NOT NULL ORDER BY file.path, file.id"))

    def headers(self) -> dict[int, tuple[int, SharedHeader]]:
        """Return each header that files share: number -> (number of its series, header)."""
        rows = self._stream(f"SELECT id, series, {', '.join(SHARED_FIELDS)} FROM header")  # noqa: S608 - own fields
        return {
            number: (series, SharedHeader(**dict(zip(SHARED_FIELDS, values, strict=True))))
            for number, series, *values in rows
        }

    def rejects(self) -> Iterator[Reject]:
        """Yield what the dump holds now and is not taken, sorted by path."""
        rows = self._stream(
            "SELECT path, reject FROM file WHERE reject != '' AND present "
            "UNION ALL SELECT path, reason FROM refused ORDER BY 1"
        )
        return (Reject(path=path, reason=reason) for path, reason in rows)

    def reject_counts(self) -> dict[str, int]:
        """Count the rejects of the present dump by reason."""
        return dict(
            self._read(
                "SELECT reason, count(*) FROM (SELECT reject AS reason FROM file WHERE reject != '' AND present "
                "UNION ALL SELECT reason FROM refused) GROUP BY reason ORDER BY reason"
            )
        )

    def keep_digests(self, digests: Iterable[tuple[int, str]]) -> None:
        """Note the content digests of files, given as (file, SHA-256)."""
        with self._transaction():
            self._connection.executemany(
                "UPDATE file SET digest = ? WHERE id = ?", ((digest, file) for file, digest in digests)
            )

    def opened(self) -> Iterator[tuple[bytes, int]]:
        """Yield the archives and compressed files that were opened, sorted by path: (file, members)."""
        return self._stream(
            "SELECT opened.path, count(member.id) FROM file AS opened LEFT JOIN file AS member "
            "ON member.container = opened.id WHERE opened.header IS NULL AND opened.reject = '' AND opened.present "
            "GROUP BY opened.id ORDER BY opened.path"
        )

    def refuse(self, files: Iterable[int], reason: str) -> None:
        """Turn rows into rejects: the files can no longer be read."""
        nothing = ", ".join(f"{name} = NULL" for name in ("header", *ROW_FIELDS))
        with self._transaction():
            self._connection.executemany(
                f"UPDATE file SET reject = ?, {nothing} WHERE id = ?",  # noqa: S608 - names of our own fields
                ((reason, file) for file in files),
            )

    def stored_names(self) -> Iterator[str]:
        """Yield the names of all unpacked files that belong to the present dump."""
        return (name for (name,) in self._stream("SELECT stored FROM file WHERE stored != '' AND present"))

    def counts(self) -> dict[str, int]:
        """Count what the index holds of the present dump.

        Returns
        -------
        dict
            `files` of the dump (not in archives), `opened` archives and compressed files among them, `members` in
            those, `dicom` files, how many of them pydicom had to read (`slow_path`), and `rejects`.
        """
        ((files, opened, members, dicom, rejects),) = self._read(
            "SELECT count(*) FILTER (WHERE container IS NULL), "
            "count(*) FILTER (WHERE header IS NULL AND reject = ''), count(container), count(header), "
            "count(*) FILTER (WHERE reject != '') FROM file WHERE present"
        )
        ((refused,),) = self._read("SELECT count(*) FROM refused")
        ((slow,),) = self._read(
            "SELECT count(*) FROM header CROSS JOIN file ON file.header = header.id WHERE slow_path != '' AND present"
        )
        return {
            "files": files + refused,
            "opened": opened,
            "members": members,
            "dicom": dicom,
            "slow_path": slow,
            "rejects": rejects + refused,
        }

    def census(self) -> dict[str, int]:
        """Count patients, DICOM studies, series and instances of the present dump."""
        used = "FROM series WHERE id IN (SELECT series FROM header WHERE id IN (SELECT header FROM file WHERE present))"
        patients, studies, series = (
            self._read(f"SELECT count(*) FROM (SELECT DISTINCT {columns} {used})")[0][0]  # noqa: S608 - our own names
            for columns in (
                "patient_id, patient_name",
                "study_instance_uid",
                "study_instance_uid, series_instance_uid",
            )
        )
        ((instances, files),) = self._read(
            "SELECT count(DISTINCT sop_instance_uid), count(*) FROM file WHERE header IS NOT NULL AND present"
        )
        return {
            "patients": patients,
            "dicom_studies": studies,
            "series": series,
            "instances": instances,
            "dicom_files": files,
        }


def _make_indexed(row: tuple[Any, ...]) -> IndexedFile:
    number, path, size, mtime_ns, device, inode, present, digest, stored, *values = row
    own = values[: len(ROW_FIELDS)]
    shared = SharedHeader(**dict(zip(SHARED_FIELDS, values[len(ROW_FIELDS) :], strict=True)))
    return IndexedFile(
        file=number,
        stamp=FileStamp(path=path, size=size, mtime_ns=mtime_ns, device=device, inode=inode),
        present=bool(present),
        digest=digest,
        stored=stored,
        row=IndexRow(path=path, shared=shared, **dict(zip(ROW_FIELDS, own, strict=True))),
    )
