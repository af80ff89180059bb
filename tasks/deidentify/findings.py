"""What was collected from every sorted file of what points at its patient: a SQLite file in `identified/`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.database import Database
from tasks.deidentify.harvest import HARVEST_VERSION, Harvest, harvest
from tasks.errors import DamagedRecordError
from tasks.files import write_atomically

_SCHEMA_VERSION = 1
_SCHEMA = (
    "CREATE TABLE finding (number INTEGER PRIMARY KEY, content TEXT NOT NULL UNIQUE)",
    """CREATE TABLE file (source TEXT PRIMARY KEY, identity TEXT NOT NULL,
    finding INTEGER NOT NULL REFERENCES finding (number))""",
    "CREATE TABLE fact (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """What was collected from a list of files; most files of a series hold the same.

    Attributes
    ----------
    harvests
        Each once.
    files
        Source, identity of the content, and index into `harvests`.
    """

    harvests: tuple[Harvest, ...]
    files: tuple[tuple[str, str, int], ...]


class Findings(Database):
    """The open store; one process writes it.

    Parameters
    ----------
    path
        The SQLite file; made on first use.

    Raises
    ------
    DamagedRecordError
        If the file is none of ours, or one of another version.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, _SCHEMA, _SCHEMA_VERSION)

    def known(self) -> dict[str, str]:
        """Return the files that were read the way they would be read now: source to identity."""
        if self._read("SELECT value FROM fact WHERE name = 'way'") != [(HARVEST_VERSION,)]:
            return {}
        return dict(self._read("SELECT source, identity FROM file"))

    def keep(self, gathered: Iterable[Gathered], removed: Iterable[str]) -> None:
        """Take in what was collected and forget files that are no more, in one transaction."""
        with self._transaction():
            self._connection.execute("INSERT OR REPLACE INTO fact VALUES ('way', ?)", (HARVEST_VERSION,))
            self._connection.executemany("DELETE FROM file WHERE source = ?", ((source,) for source in removed))
            for one in gathered:
                numbers = [self._number(harvested) for harvested in one.harvests]
                self._connection.executemany(
                    "INSERT OR REPLACE INTO file VALUES (?, ?, ?)",
                    ((source, identity, numbers[index]) for source, identity, index in one.files),
                )
            self._connection.execute("DELETE FROM finding WHERE number NOT IN (SELECT finding FROM file)")

    def by_source(self) -> Mapping[str, Harvest]:
        """Return what each file holds; files that hold the same share one record."""
        harvests = {number: _unpack(content) for number, content in self._read("SELECT number, content FROM finding")}
        return {source: harvests[finding] for source, finding in self._read("SELECT source, finding FROM file")}

    def digest(self) -> str:
        """Name everything that was collected, whatever the order it came in."""
        hasher = hashlib.sha256()
        query = "SELECT source, identity, content FROM file JOIN finding ON finding = number ORDER BY source"
        for row in self._stream(query):
            hasher.update(json.dumps(row).encode("ascii"))
        return hasher.hexdigest()

    def _number(self, harvested: Harvest) -> int:
        content = _pack(harvested)
        self._connection.execute("INSERT OR IGNORE INTO finding (content) VALUES (?)", (content,))
        ((number,),) = self._read("SELECT number FROM finding WHERE content = ?", (content,))
        return int(number)


def gather(files: Sequence[tuple[str, str]], sorted_tree: Path, advance: Callable[[int], None]) -> Gathered:
    """Read files and collect what points at their patients.

    Parameters
    ----------
    files
        Source below the sorted tree, and the identity of its content.
    sorted_tree
        Where they lie. A file that is no longer there holds nothing.
    advance
        Called with the number of files done since the last call.
    """
    numbers: dict[Harvest, int] = {}
    rows: list[tuple[str, str, int]] = []
    for source, identity in files:
        try:
            harvested = harvest((sorted_tree / source).read_bytes())
        except FileNotFoundError:
            harvested = Harvest()
        rows.append((source, identity, numbers.setdefault(harvested, len(numbers))))
        advance(1)
    return Gathered(harvests=tuple(numbers), files=tuple(rows))


def write_gathered(path: Path, gathered: Gathered) -> None:
    """Keep what one chunk collected until it is merged."""
    content = {"harvests": [_pack(one) for one in gathered.harvests], "files": gathered.files}
    write_atomically(path, json.dumps(content).encode("ascii"), mode=0o600)


def read_gathered(path: Path) -> Gathered:
    """Read what `write_gathered` wrote."""
    try:
        content = json.loads(path.read_bytes())
        return Gathered(
            harvests=tuple(map(_unpack, content["harvests"])),
            files=tuple((source, identity, int(index)) for source, identity, index in content["files"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise DamagedRecordError(path=path, problem="it is not there or was cut") from fault


def _pack(harvested: Harvest) -> str:
    return json.dumps([sorted(harvested.identifiers), sorted(harvested.dates)])


def _unpack(content: str) -> Harvest:
    identifiers, dates = json.loads(content)
    return Harvest(identifiers=frozenset(identifiers), dates=frozenset(dates))
