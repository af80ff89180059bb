"""The sorter's tables in the index: the plan, what was placed, and the journal of the runs that placed it."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from tasks.files import database_refusals_named
from tasks.index.completeness import FrameCount
from tasks.index.row import ROW_FIELDS
from tasks.index.store import IndexStore
from tasks.index.subgroup import tell_apart
from tasks.parcel import Parcel

_SCHEMA = """;
CREATE TABLE plan (
    file INTEGER NOT NULL,
    target TEXT NOT NULL,
    kept INTEGER,
    differs TEXT NOT NULL
);
CREATE INDEX plan_file ON plan (file);
CREATE INDEX plan_target ON plan (target, file) WHERE kept IS NULL;
CREATE TABLE placement (
    target TEXT PRIMARY KEY,
    file INTEGER NOT NULL,
    way TEXT NOT NULL,
    run INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX placement_file ON placement (file);
CREATE TABLE removed (run INTEGER NOT NULL, target TEXT NOT NULL, file INTEGER NOT NULL, placed_by INTEGER NOT NULL);
CREATE INDEX removed_run ON removed (run, target);
CREATE TABLE run (
    id INTEGER PRIMARY KEY,
    started TEXT NOT NULL,
    finished TEXT NOT NULL DEFAULT '',
    software TEXT NOT NULL,
    placed INTEGER NOT NULL DEFAULT 0,
    removed INTEGER NOT NULL DEFAULT 0,
    undone TEXT NOT NULL DEFAULT ''
);
CREATE TABLE comparison (reference TEXT NOT NULL, other TEXT NOT NULL, differs TEXT NOT NULL,
    PRIMARY KEY (reference, other)) WITHOUT ROWID;
CREATE TABLE frames (file INTEGER PRIMARY KEY, declared INTEGER, held INTEGER, truncated INTEGER);
CREATE TABLE gap (series INTEGER PRIMARY KEY, reasons TEXT NOT NULL)
"""

# The plus keeps SQLite from taking the index on headers for a query that goes over all of them.
_MAY_BE_PLACED = "+file.header IS NOT NULL AND (file.present OR file.id IN (SELECT file FROM placement))"
# SQLite knows nothing of how many rows tables have; where it would begin with the larger one, CROSS JOIN tells it the
# order (SQLite, "The Query Optimizer Overview", section 8.2).
_SOURCE = (
    "file.id, file.path, stored, present, file.size, file.mtime_ns, file.device, file.inode, "
    "CASE WHEN present THEN '' ELSE coalesce((SELECT p.target FROM placement AS p WHERE p.file = file.id LIMIT 1), '') "
    "END, ''"
)
_CANDIDATE = f"id, path, present, digest, header, {', '.join(ROW_FIELDS)}"
_REPEATED = "SELECT sop_instance_uid FROM file WHERE header IS NOT NULL GROUP BY sop_instance_uid HAVING count(*) > 1"
_STILL_TO_PLACE = "kept IS NULL AND (placement.file IS NULL OR placement.file != plan.file)"
_TO_PLACE = (
    f"SELECT plan.target, {_SOURCE} FROM plan JOIN file ON file.id = plan.file "  # noqa: S608 - names of our own fields
    f"LEFT JOIN placement ON placement.target = plan.target WHERE {_STILL_TO_PLACE}"
)

_SERIES_TEXTS = (
    "patient_id",
    "patient_name",
    "study_date",
    "study_time",
    "series_number",
    "study_instance_uid",
    "series_instance_uid",
    "modality",
    "manufacturer",
    "manufacturer_model_name",
    "series_description",
    "protocol_name",
    "sequence_name",
    "sop_class_uid",
    "transfer_syntax_uid",
)
SERIES_NUMBERS = ("files", "duplicates", "conflicts")
SERIES_COLUMNS = (*_SERIES_TEXTS, *SERIES_NUMBERS, "subgroups", "incomplete", "folder")
"""The columns of the table of series."""


class Candidate(NamedTuple):
    """A file that the plan has to find a place for, or to tell why not.

    Attributes
    ----------
    present
        Whether the dump still holds it; else its only place is in the sorted tree.
    header
        The number of the header it shares.
    values
        Its own attributes, in the order of `ROW_FIELDS`.
    """

    file: int
    path: bytes
    present: bool
    digest: str
    header: int
    sop_instance_uid: str
    values: tuple[str, ...]


class Planned(NamedTuple):
    """What the plan says of one file.

    Attributes
    ----------
    target
        Its place below the sorted tree; for a duplicate the place of the file that is kept.
    kept
        For a duplicate the number of the file that is kept.
    differs
        For a file that shares its SOP Instance UID with others of other content: how it differs from the first.
    """

    file: int
    target: str
    kept: int | None
    differs: str


class Member(NamedTuple):
    """A file of a series, in the plan or about to be.

    Attributes
    ----------
    planned
        The file's number if the plan speaks of it already, with `kept` and `differs` as it says; else None.
    declared, held, truncated
        What was counted of its frames, None where nothing was.
    number, ...
        The next fields are those of `CompletenessRow`, in their order.
    sop_instance_uid, ...
        Its own attributes: the last fields are those of `ROW_FIELDS`, in their order.
    """

    series: int
    file: int
    header: int
    planned: int | None
    kept: int | None
    differs: str | None
    declared: int | None
    held: int | None
    truncated: int | None
    number: str
    position: str
    orientation: str
    subgroup: str
    frames: str
    sop_class: str
    sop_instance_uid: str
    instance_number: str
    acquisition_number: str
    acquisition_time: str
    acquisition_datetime: str
    image_position_patient: str
    number_of_frames: str


class Source(NamedTuple):
    """A file to be placed, and where its bytes can be had."""

    target: str
    file: int
    path: bytes
    stored: str
    present: bool
    size: int
    mtime_ns: int
    device: int
    inode: int
    placed_at: str
    way: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One line of the journal.

    Attributes
    ----------
    started, finished, undone
        In ISO 8601 with the offset; empty for what did not happen.
    placed, removed
        How many files it placed, and how many places it took away because their files moved.
    """

    run: int
    started: str
    finished: str
    software: str
    placed: int
    removed: int
    undone: str


def _make_candidate(row: tuple[Any, ...]) -> Candidate:
    file, path, present, digest, header, *values = row
    return Candidate(file, path, bool(present), digest, header, values[_SOP_INSTANCE_UID], tuple(values))


_SOP_INSTANCE_UID = ROW_FIELDS.index("sop_instance_uid")


def pack_placements(rows: Iterable[tuple[str, int, str, bool, str]]) -> Parcel:
    """Pack what became of places: (target, file, way or nothing, whether it stood there already, reason)."""

    def fill(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE placed (target, file, way, stood, reason)")
        connection.executemany("INSERT INTO placed VALUES (?, ?, ?, ?, ?)", rows)

    return Parcel.of(fill)


class SortStore(IndexStore):
    """The open index with the sorter's tables; see `IndexStore`."""

    def __init__(self, path: Path, *, look_only: bool = False) -> None:
        super().__init__(path, _SCHEMA, look_only=look_only)

    def acquisition_spans(self) -> Iterator[tuple[int, tuple[str, ...], tuple[str, ...]]]:
        """Yield each header's number with the first and the last acquisition time and date-time of its files."""
        rows = self._stream(
            "SELECT header, min(nullif(acquisition_time, '')), max(acquisition_time), "
            "min(nullif(acquisition_datetime, '')), max(acquisition_datetime) "
            "FROM file WHERE +header IS NOT NULL GROUP BY +header"
        )
        for header, *spans in rows:
            first, last, first_moment, last_moment = (span or "" for span in spans)
            yield header, tuple(filter(None, (first, last))), tuple(filter(None, (first_moment, last_moment)))

    # The plan --------------------------------------------------------------------------------------------------------

    def candidates(self, *, grouped: bool = False) -> Iterator[Candidate]:
        """Yield every file that has to be in the plan, sorted by SOP Instance UID, then by path.

        Parameters
        ----------
        grouped
            Only those that share their SOP Instance UID with others, or have none.
        """
        only = f"AND (sop_instance_uid = '' OR sop_instance_uid IN ({_REPEATED}))" if grouped else ""
        rows = self._stream(
            f"SELECT {_CANDIDATE} FROM file "  # noqa: S608 - names of our own fields
            f"WHERE {_MAY_BE_PLACED} AND header IS NOT NULL {only} ORDER BY sop_instance_uid, path"
        )
        return (_make_candidate(row) for row in rows)

    def undigested(self) -> list[Source]:
        """List the files that their headers do not tell apart, so that their contents must: repeated or absent UIDs."""
        other = _MAY_BE_PLACED.replace("file.", "other.")
        rows = self._read(
            f"SELECT '', {_SOURCE} FROM file WHERE digest = '' AND {_MAY_BE_PLACED} AND header IS NOT NULL "  # noqa: S608
            f"AND (sop_instance_uid = '' OR sop_instance_uid IN ({_REPEATED}) AND EXISTS (SELECT 1 FROM file AS other "
            f"WHERE other.sop_instance_uid = file.sop_instance_uid AND other.id != file.id AND {other} "
            "AND other.header IS NOT NULL)) ORDER BY path"
        )
        return [Source(*row) for row in rows]

    def write_plan(self, planned: Iterable[Planned], rest: Iterable[Planned] = ()) -> None:
        """Put a plan in the place of the one before.

        Parameters
        ----------
        planned, rest
            The plan. While `rest` is read, what `planned` said shows in `members`.
        """
        with self._transaction():
            execute = self._connection.execute
            execute("DELETE FROM plan")
            # Files come in the order of their UIDs: sorting all of them once is faster than finding each its place.
            execute("DROP INDEX plan_file")
            execute("DROP INDEX plan_target")
            self._connection.executemany("INSERT INTO plan VALUES (?, ?, ?, ?)", planned)
            execute("CREATE TEMP TABLE planned AS SELECT file, kept, differs FROM plan")
            execute("CREATE UNIQUE INDEX temp.planned_file ON planned (file)")
            self._connection.executemany("INSERT INTO plan VALUES (?, ?, ?, ?)", rest)
            execute("DROP TABLE temp.planned")
            execute("CREATE INDEX plan_file ON plan (file)")
            execute("CREATE INDEX plan_target ON plan (target, file) WHERE kept IS NULL")

    def members(self) -> Iterator[tuple[int, Iterator[Member]]]:
        """Yield the files of each series that the plan speaks of or has yet to: those that share no UID; see there."""
        rows = self._stream(
            "SELECT header.series, file.id, file.header, planned.file, planned.kept, planned.differs, "  # noqa: S608
            "declared, held, truncated, file.instance_number, file.image_position_patient, "
            "header.image_orientation_patient, header.subgroup, file.number_of_frames, header.sop_class_uid, "
            f"{', '.join(f'file.{name}' for name in ROW_FIELDS)} "
            "FROM header INDEXED BY header_series CROSS JOIN file INDEXED BY file_header ON file.header = header.id "
            "LEFT JOIN temp.planned ON planned.file = file.id LEFT JOIN frames ON frames.file = file.id "
            f"WHERE file.header IS NOT NULL AND {_MAY_BE_PLACED} AND (planned.file IS NOT NULL "
            f"OR sop_instance_uid != '' AND sop_instance_uid NOT IN ({_REPEATED})) ORDER BY header.series"
        )
        for series, group in groupby(rows, itemgetter(0)):
            yield series, map(Member._make, group)

    def contested_targets(self) -> list[tuple[str, list[int]]]:
        """List the places that the plan gives to more than one file."""
        rows = self._read(
            "SELECT target, file FROM plan WHERE kept IS NULL AND target IN "
            "(SELECT target FROM plan WHERE kept IS NULL GROUP BY target HAVING count(*) > 1) ORDER BY target, file"
        )
        return [(target, [file for _, file in group]) for target, group in groupby(rows, itemgetter(0))]

    def replan(self, targets: Mapping[int, str]) -> None:
        """Give some files of the plan another target."""
        with self._transaction():
            self._connection.executemany(
                "UPDATE plan SET target = ? WHERE file = ? OR kept = ?",
                ((target, file, file) for file, target in targets.items()),
            )

    def planned(self) -> Iterator[tuple[bytes, str, int]]:
        """Yield what is placed, by target: (path, target, file)."""
        return self._stream(
            "SELECT file.path, target, file.id FROM plan JOIN file ON file.id = plan.file WHERE kept IS NULL "
            "ORDER BY target"
        )

    def conflicts(self) -> Iterator[tuple[bytes, str, str]]:
        """Yield what shares its SOP Instance UID with other contents, by target: (file, target, how it differs)."""
        return self._stream(
            "SELECT file.path, target, differs FROM plan JOIN file ON file.id = plan.file WHERE differs != '' "
            "ORDER BY target"
        )

    def duplicates(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield what is not placed, sorted by path: (file, the file with the same bytes that is placed)."""
        return self._stream(
            "SELECT file.path, kept.path FROM plan JOIN file ON file.id = plan.file JOIN file AS kept "
            "ON kept.id = plan.kept WHERE plan.kept IS NOT NULL ORDER BY file.path, file.id"
        )

    def gaps(self) -> Iterator[tuple[str, int, str]]:
        """Yield the incomplete series: (a folder of it in the sorted tree, files, reason codes)."""
        return self._stream(
            "SELECT min(target), count(*), reasons FROM gap CROSS JOIN header ON header.series = gap.series "
            "CROSS JOIN file ON file.header = header.id CROSS JOIN plan ON plan.file = file.id WHERE kept IS NULL "
            "GROUP BY gap.series ORDER BY 1"
        )

    def incomplete_targets(self) -> list[tuple[str, str]]:
        """List the places of all files of incomplete series, each with the reason codes."""
        return self._read(
            "SELECT target, reasons FROM gap CROSS JOIN header ON header.series = gap.series "
            "CROSS JOIN file ON file.header = header.id CROSS JOIN plan ON plan.file = file.id WHERE kept IS NULL"
        )

    def gap_counts(self) -> dict[str, int]:
        """Count the incomplete series by what is missing."""
        return dict(self._read("SELECT reasons, count(*) FROM gap GROUP BY reasons ORDER BY reasons"))

    def plan_counts(self) -> dict[str, int]:
        """Count what the plan places, the duplicates, and the files in conflict."""
        ((placed, duplicates, conflicts),) = self._read(
            "SELECT count(*) FILTER (WHERE kept IS NULL), count(kept), count(nullif(differs, '')) FROM plan"
        )
        ((away,),) = self._read(
            "SELECT count(*) FROM file CROSS JOIN plan ON plan.file = file.id WHERE NOT present AND kept IS NULL"
        )
        return {"placed": placed, "duplicates": duplicates, "conflicts": conflicts, "gone_from_the_dump": away}

    def plan_rows(self) -> Iterator[tuple[str, int]]:
        """Yield each place of the plan and the file that fills it, by target."""
        return self._stream("SELECT target, file FROM plan WHERE kept IS NULL ORDER BY target")

    def count_candidates(self) -> int:
        """Count what `candidates` yields."""
        ((count,),) = self._read(f"SELECT count(*) FROM file WHERE {_MAY_BE_PLACED}")  # noqa: S608
        return int(count)

    def count_unplanned(self) -> int:
        """Count DICOM files of the dump that the plan says nothing of."""
        ((count,),) = self._read(
            "SELECT count(*) FROM file WHERE header IS NOT NULL AND present AND id NOT IN (SELECT file FROM plan)"
        )
        return int(count)

    def candidates_of(self, files: Sequence[int]) -> list[tuple[Candidate, str]]:
        """Return some files of the plan, each with the digest that stands in its name, or nothing."""
        found = []
        for number in files:
            (row,) = self._read(
                f"SELECT {_CANDIDATE}, differs != '' OR sop_instance_uid = '' FROM file "  # noqa: S608 - own names
                "JOIN plan ON plan.file = file.id WHERE id = ?",
                (number,),
            )
            candidate = _make_candidate(row[:-1])
            found.append((candidate, candidate.digest if row[-1] else ""))
        return found

    def source(self, file: int) -> Source:
        """Return where one file's bytes can be had."""
        (row,) = self._read(f"SELECT '', {_SOURCE} FROM file WHERE id = ?", (file,))  # noqa: S608
        return Source(*row)

    def refuse_planned(self, lost: Iterable[tuple[int, str]]) -> None:
        """Turn files of the plan that could not be placed into rejects, given as (file, reason)."""
        for file, reason in lost:
            self.refuse([file], reason)
            with self._transaction():
                self._connection.execute("DELETE FROM plan WHERE file = ?", (file,))

    def comparison(self, reference: str, other: str) -> str:
        """Return how two contents, named by their digests, differ; empty if they were not compared yet."""
        rows = self._read("SELECT differs FROM comparison WHERE reference = ? AND other = ?", (reference, other))
        return str(rows[0][0]) if rows else ""

    def note_comparisons(self, found: Iterable[tuple[str, str, str]]) -> None:
        """Note how contents differ, given as (digest, digest, kind): files are large, and nights are many.

        Called while a plan is being written, so it is part of that transaction.
        """
        self._connection.executemany("INSERT OR REPLACE INTO comparison VALUES (?, ?, ?)", found)

    def series_table(self) -> Iterator[tuple[str | int, ...]]:
        """Yield a row of `SERIES_COLUMNS` for each series; where its files disagree, the lowest value."""
        texts = ", ".join(f"coalesce(min(nullif(header.{name}, '')), '')" for name in _SERIES_TEXTS)
        rows = self._stream(
            f"SELECT {texts}, count(*) FILTER (WHERE kept IS NULL), count(kept), "  # noqa: S608 - names of our own
            "count(nullif(coalesce(differs, ''), '')), "
            "group_concat(DISTINCT subgroup), coalesce(reasons, ''), coalesce(min(target), '') "
            "FROM header JOIN file ON file.header = header.id LEFT JOIN plan ON plan.file = file.id "
            "LEFT JOIN gap ON gap.series = header.series GROUP BY header.series ORDER BY 1, 2, 3, 4, 5, 6, 7"
        )
        for *values, subgroups, reasons, target in rows:
            short = sorted(filter(None, tell_apart(subgroups.split(",")).values()))
            yield (*values, ", ".join(short), reasons, target.rpartition("/")[0])

    # What is missing -------------------------------------------------------------------------------------------------

    def uncounted(self) -> list[Source]:
        """List the multi-frame files whose frames were not counted yet."""
        rows = self._read(
            f"SELECT '', {_SOURCE} FROM file WHERE {_MAY_BE_PLACED} AND number_of_frames != '' "  # noqa: S608
            "AND NOT EXISTS (SELECT 1 FROM frames WHERE frames.file = file.id)"
        )
        return [Source(*row) for row in rows]

    def keep_frames(self, counts: Iterable[tuple[int, FrameCount | None]]) -> None:
        """Note how many frames files hold; None where that could not be told."""
        with self._transaction():
            self._connection.executemany(
                "INSERT OR REPLACE INTO frames VALUES (?, ?, ?, ?)",
                ((file, *(count or (None, None, None))) for file, count in counts),
            )

    def keep_gaps(self, gaps: Iterable[tuple[int, str]]) -> None:
        """Note what is missing of series, given as (series, reason codes)."""
        with self._transaction():
            self._connection.execute("DELETE FROM gap")
            self._connection.executemany("INSERT INTO gap VALUES (?, ?)", gaps)

    # Placing ---------------------------------------------------------------------------------------------------------

    def cut_off_run(self) -> int | None:
        """Return the run that did not come to its end, if there is one."""
        rows = self._read("SELECT id FROM run WHERE finished = '' AND undone = ''")
        return int(rows[0][0]) if rows else None

    def begin_run(self, started: str, software: str) -> int:
        """Open the journal for a run; one that was cut off is gone on with."""
        cut_off = self.cut_off_run()
        if cut_off is not None:
            return cut_off
        with self._transaction():
            cursor = self._connection.execute("INSERT INTO run (started, software) VALUES (?, ?)", (started, software))
            return int(cursor.lastrowid or 0)

    def to_place(self) -> Iterator[Source]:
        """Yield what the plan wants and the sorted tree does not have yet, by target."""
        return (Source(*row) for row in self._stream(f"{_TO_PLACE} ORDER BY plan.target"))

    def count_to_place(self) -> int:
        """Count what `to_place` yields."""
        ((count,),) = self._read(
            "SELECT count(*) FROM plan LEFT JOIN placement ON placement.target = plan.target "  # noqa: S608
            f"WHERE {_STILL_TO_PLACE}"
        )
        return int(count)

    def placement_rows(self) -> Iterator[tuple[str, int]]:
        """Yield each place that was filled and the file that fills it, by target."""
        return self._stream("SELECT target, file FROM placement ORDER BY target")

    def placed_and_gone(self) -> list[Source]:
        """List what stands in the sorted tree and no longer in the dump, by target; `placed_at` is the target."""
        rows = self._read(
            "SELECT target, file.id, path, stored, present, size, mtime_ns, device, inode, target, way "
            "FROM placement JOIN file ON file.id = placement.file WHERE NOT present ORDER BY target"
        )
        return [Source(*row) for row in rows]

    def linked(self) -> Iterator[Source]:
        """Yield what stands in the sorted tree by a symbolic link and is in the dump, by target."""
        rows = self._stream(
            "SELECT target, file.id, path, stored, present, size, mtime_ns, device, inode, target, way "
            "FROM placement CROSS JOIN file ON file.id = placement.file WHERE way = 'symlink' AND present "
            "ORDER BY target"
        )
        return (Source(*row) for row in rows)

    def place_of(self, file: int) -> str:
        """Return where a file stands in the sorted tree, or nothing."""
        rows = self._read("SELECT target FROM placement WHERE file = ? LIMIT 1", (file,))
        return str(rows[0][0]) if rows else ""

    def placements(self) -> dict[str, int]:
        """Return what was placed: path below the sorted tree -> file."""
        return dict(self._read("SELECT target, file FROM placement"))

    def obsolete(self) -> list[tuple[str, int]]:
        """List what stands in the sorted tree and the plan does not want there: (target, file)."""
        return self._read(
            "SELECT target, placement.file FROM placement WHERE NOT EXISTS "
            "(SELECT 1 FROM plan WHERE plan.target = placement.target AND kept IS NULL) ORDER BY target"
        )

    def pack_work(self, files: int) -> Iterator[tuple[Parcel, int]]:
        """Yield what `to_place` does as parcels of so many files, each with how many it holds."""
        last, count = "", files
        while count == files:
            with database_refusals_named(self._path):
                parcel, count, row = Parcel.of_query(
                    self._connection, f"{_TO_PLACE} AND plan.target > ? ORDER BY plan.target LIMIT ?", (last, files)
                )
            if count:
                last = row[0]
                yield parcel, count

    def keep_placements(
        self, run: int, ways: Iterable[tuple[str, int, str]], *, stood: Collection[str] = frozenset()
    ) -> None:
        """Note what was placed, given as (target, file, way).

        Parameters
        ----------
        stood
            The targets where nothing had to be done. Where the index knows how such a place was filled it stays the
            work of that run, also if the plan wants another file of the same content there now.
        """
        rows = ((target, file, way, target in stood, "") for target, file, way in ways)
        self.merge_placements(run, pack_placements(rows))

    def merge_placements(self, run: int, parcel: Parcel) -> list[tuple[int, str]]:
        """Note what `pack_placements` packed; return what was not placed: (file, reason).

        What is noted already stays the work of the run that noted it, so that doing it again changes nothing.
        """
        note = (
            "INSERT INTO placement SELECT target, file, way, ? FROM parcel.placed AS new "
            "WHERE way != '' AND {which} AND NOT EXISTS "
            "(SELECT 1 FROM placement WHERE placement.target = new.target AND placement.file = new.file) "
            "ORDER BY target ON CONFLICT (target) DO UPDATE SET file = excluded.file"
        )
        with parcel.attached(self._connection), self._transaction():
            execute = self._connection.execute
            execute(note.format(which="stood"), (run,))
            execute(note.format(which="NOT stood") + ", way = excluded.way, run = excluded.run", (run,))
            return execute("SELECT file, reason FROM parcel.placed WHERE way = ''").fetchall()

    def expect_placements(self, files: int) -> None:
        """Get ready to note so many places: where they are most of all, the index is sorted once at the end."""
        ((known,),) = self._read("SELECT count(*) FROM placement")
        if files > known:
            with self._transaction():
                self._connection.execute("DROP INDEX IF EXISTS placement_file")

    def placements_noted(self) -> None:
        """Sort the index again, if it is not."""
        with self._transaction():
            self._connection.execute("CREATE INDEX IF NOT EXISTS placement_file ON placement (file)")

    def forget_placements(self, run: int, targets: Iterable[str]) -> None:
        """Note what was taken away from the sorted tree."""
        with self._transaction():
            for target in targets:
                self._connection.execute(
                    "INSERT INTO removed SELECT ?, target, file, run FROM placement WHERE target = ?", (run, target)
                )
                self._connection.execute("DELETE FROM placement WHERE target = ?", (target,))

    def lose_placements(self, targets: Iterable[str]) -> None:
        """Note which places no longer hold what was put there; what stands there under the same name is no file's."""
        with self._transaction():
            self._connection.executemany(
                "UPDATE placement SET file = 0 WHERE target = ?", ((target,) for target in targets)
            )

    def finish_run(self, run: int, finished: str) -> None:
        """Close the journal of a run; one that changed nothing leaves no line."""
        with self._transaction():
            execute = self._connection.execute
            ((placed,),) = execute("SELECT count(*) FROM placement WHERE run = ?", (run,))
            ((removed,),) = execute("SELECT count(*) FROM removed WHERE run = ?", (run,))
            if placed or removed:
                execute(
                    "UPDATE run SET finished = ?, placed = ?, removed = ? WHERE id = ?",
                    (finished, placed, removed, run),
                )
            else:
                execute("DELETE FROM run WHERE id = ?", (run,))

    # The journal -----------------------------------------------------------------------------------------------------

    def runs(self) -> list[Run]:
        """List the runs, the oldest first."""
        rows = self._read("SELECT id, started, finished, software, placed, removed, undone FROM run ORDER BY id")
        names = ("run", "started", "finished", "software", "placed", "removed", "undone")
        return [Run(**dict(zip(names, row, strict=True))) for row in rows]

    def placed_by(self, run: int) -> list[Source]:
        """List what a run placed and still stands."""
        rows = self._read(
            "SELECT target, file.id, path, stored, present, size, mtime_ns, device, inode, target, way "
            "FROM placement JOIN file ON file.id = placement.file WHERE run = ? ORDER BY target",
            (run,),
        )
        return [Source(*row) for row in rows]

    def removed_by(self, run: int) -> list[Source]:
        """List what a run took away."""
        rows = self._read(
            f"SELECT removed.target, {_SOURCE} "  # noqa: S608
            "FROM removed JOIN file ON file.id = removed.file WHERE removed.run = ? ORDER BY removed.target",
            (run,),
        )
        return [Source(*row) for row in rows]

    def put_back(self, run: int, restored: Iterable[tuple[str, int, str]]) -> None:
        """Note that places which a run had taken away are filled again, given as (target, file, way)."""
        with self._transaction():
            for target, file, way in restored:
                self._connection.execute(
                    "INSERT OR REPLACE INTO placement SELECT target, file, ?, placed_by FROM removed "
                    "WHERE run = ? AND target = ? AND file = ?",
                    (way, run, target, file),
                )
                self._connection.execute("DELETE FROM removed WHERE run = ? AND target = ?", (run, target))

    def placed_twice(self, run: int) -> set[int]:
        """Return the files that a run placed and that stand elsewhere in the sorted tree as well."""
        rows = self._read(
            "SELECT file FROM placement AS new WHERE run = ? AND EXISTS "
            "(SELECT 1 FROM placement AS old WHERE old.file = new.file AND old.run != new.run)",
            (run,),
        )
        return {file for (file,) in rows}

    def container_path(self, file: int) -> bytes:
        """Return the path of the archive, or compressed file, that a file came from; else nothing."""
        rows = self._read(
            "SELECT opened.path FROM file JOIN file AS opened ON opened.id = file.container WHERE file.id = ?", (file,)
        )
        return bytes(rows[0][0]) if rows else b""

    def keep_undo(self, run: int, undone: str, taken: Iterable[str]) -> None:
        """Note that a run was taken back, and what was taken away for it."""
        with self._transaction():
            execute = self._connection.execute
            self._connection.executemany("DELETE FROM placement WHERE target = ?", ((target,) for target in taken))
            execute("DELETE FROM removed WHERE run = ?", (run,))
            execute("DELETE FROM plan")
            execute("UPDATE run SET undone = ? WHERE id = ?", (undone, run))
