"""The files between the chunks that read headers and the index that takes in what they read."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from operator import attrgetter
from pathlib import Path
from typing import Any

from tasks.errors import DamagedRecordError
from tasks.files import write_atomically
from tasks.index.row import (
    ROW_FIELDS,
    SHARED_FIELDS,
    STAMP_RECORD,
    FileStamp,
    IndexRow,
    Reject,
    SharedHeader,
    unpack_stamps,
)
from tasks.index.subgroup import subgroup_of
from tasks.parcel import Parcel

FILE_COLUMNS = (
    *("number", "path", "size", "mtime_ns", "device", "inode", "reject", "container", "stored", "header"),
    *ROW_FIELDS,
)
"""What a chunk tells of each file; it counts files, and headers, from one."""

HEADER_COLUMNS = ("number", "key", "subgroup", *SHARED_FIELDS)
"""What a chunk tells of each header that files share."""

_row_values = attrgetter(*ROW_FIELDS)
_shared_values = attrgetter(*SHARED_FIELDS)
_NOTHING = (None,) * (len(ROW_FIELDS) + 1)
_INSERT_FILE = f"INSERT INTO file VALUES ({', '.join('?' * len(FILE_COLUMNS))})"  # noqa: S608 - question marks
_INSERT_HEADER = f"INSERT INTO header VALUES ({', '.join('?' * len(HEADER_COLUMNS))})"  # noqa: S608


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A file that lay compressed or in an archive, and what its header says.

    Attributes
    ----------
    stored
        Its name below the store of unpacked files; empty if it was not taken.
    size
        In bytes, unpacked.
    """

    stored: str
    size: int
    outcome: IndexRow | Reject


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A compressed file or an archive that was opened: its members, each with a path of its own."""

    path: bytes
    members: tuple[Stored, ...]


Outcome = IndexRow | Reject | Opened


def pack(stamps: Iterable[FileStamp], outcomes: Iterable[Outcome]) -> Parcel:
    """Pack what was read, as rows that the index can take in without looking at them one by one.

    Parameters
    ----------
    stamps, outcomes
        Of the same length and in the same order.
    """
    headers: dict[SharedHeader, int] = {}
    # The reader hands in one object for all files that share a header; looking it up by its values costs far more.
    at_hand: dict[int, int] = {}

    def number_of(shared: SharedHeader) -> int:
        number = at_hand.get(id(shared))
        if number is None:
            number = at_hand[id(shared)] = headers.setdefault(shared, len(headers) + 1)
        return number

    def rows() -> Iterator[tuple[Any, ...]]:
        number = 0
        for stamp, outcome in zip(stamps, kept, strict=True):
            number += 1
            if isinstance(outcome, IndexRow):
                yield (number, *stamp, "", None, "", number_of(outcome.shared), *_row_values(outcome))
            elif isinstance(outcome, Reject):
                yield (number, *stamp, outcome.reason, None, "", *_NOTHING)
            else:
                container = number
                yield (number, *stamp, "", None, "", *_NOTHING)
                for member in outcome.members:
                    number += 1
                    inner = member.outcome
                    place = (number, inner.path, member.size, *stamp[2:])
                    if isinstance(inner, Reject):
                        yield (*place, inner.reason, container, "", *_NOTHING)
                    else:
                        own = _row_values(inner)
                        yield (*place, "", container, member.stored, number_of(inner.shared), *own)

    # Held for as long as their headers are known by their ids.
    kept = list(outcomes)

    def fill(connection: sqlite3.Connection) -> None:
        for table, columns in (("file", FILE_COLUMNS), ("header", HEADER_COLUMNS)):
            connection.execute(f"CREATE TABLE {table} (number INTEGER PRIMARY KEY, {', '.join(columns[1:])})")
        connection.executemany(_INSERT_FILE, rows())
        connection.executemany(
            _INSERT_HEADER,
            (
                (number, header_key(shared), subgroup_of(shared), *_shared_values(shared))
                for shared, number in headers.items()
            ),
        )

    return Parcel.of(fill)


def header_key(shared: SharedHeader) -> bytes:
    """Name a header by 16 bytes that no other has."""
    # Each value with its length: a value may hold whatever would stand between them.
    text = "".join(f"{len(value)}:{value}" for value in _shared_values(shared))
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def write_chunk(path: Path, stamps: Sequence[FileStamp]) -> None:
    """Freeze the list of files that one index chunk will read; how many they are stands at its end."""
    write_atomically(path, b"".join(STAMP_RECORD % stamp for stamp in stamps) + b"%d" % len(stamps), mode=0o600)


def read_chunk(path: Path) -> list[FileStamp]:
    """Read what `write_chunk` wrote."""
    try:
        content = path.read_bytes()
    except OSError as fault:
        raise DamagedRecordError(path=path, problem="it is not there or was cut") from fault
    changed = DamagedRecordError(path=path, problem="it is of another version or was changed")
    try:
        stamps, count = unpack_stamps(content)
    except (TypeError, ValueError, IndexError) as cause:
        raise changed from cause
    if count != b"%d" % len(stamps):
        raise changed
    return stamps
