"""The files between the chunks that read headers and the index that takes in what they read."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from tasks.errors import DamagedRecordError
from tasks.files import write_atomically
from tasks.index.row import (
    REJECT_REASONS,
    ROW_FIELDS,
    SHARED_FIELDS,
    STAMP_RECORD,
    FileStamp,
    IndexRow,
    Reject,
    SharedHeader,
    unpack_stamps,
)

_row_values = attrgetter(*ROW_FIELDS)
_shared_values = attrgetter(*SHARED_FIELDS)
_ROW_LENGTH = 1 + len(ROW_FIELDS)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """What one chunk read, with each header that files share once.

    Attributes
    ----------
    headers
        The headers.
    rows
        For each file: a reason; or the number of its header and its own attributes in the order of `ROW_FIELDS`; or,
        for what was opened, a list of [path, stored, size, reason or row], one a member.
    """

    headers: list[SharedHeader]
    rows: list[Any]


def pack(outcomes: Iterable[Outcome]) -> Packed:
    """Pack what was read; paths of plain files are left out, because the chunk's list has them."""
    headers: list[SharedHeader] = []
    numbers: dict[SharedHeader, int] = {}
    # The reader hands in one object for all files that share a header; looking it up by its values costs far more.
    at_hand: dict[int, int] = {}

    def number_of(shared: SharedHeader) -> int:
        number = numbers.setdefault(shared, len(headers))
        if number == len(headers):
            headers.append(shared)
        return number

    def encode(outcome: Outcome) -> Any:
        if isinstance(outcome, IndexRow):
            shared = outcome.shared
            number = at_hand.get(id(shared))
            if number is None:
                number = at_hand[id(shared)] = number_of(shared)
            return [number, *_row_values(outcome)]
        if isinstance(outcome, Reject):
            return outcome.reason
        return [
            [os.fsdecode(member.outcome.path), member.stored, member.size, encode(member.outcome)]
            for member in outcome.members
        ]

    kept = list(outcomes)
    return Packed(headers=headers, rows=[encode(outcome) for outcome in kept])


def write_chunk(path: Path, stamps: Sequence[FileStamp]) -> None:
    """Freeze the list of files that one index chunk will read; how many they are stands at its end."""
    write_atomically(path, b"".join(STAMP_RECORD % stamp for stamp in stamps) + b"%d" % len(stamps), mode=0o600)


def read_chunk(path: Path) -> list[FileStamp]:
    """Read what `write_chunk` wrote."""
    try:
        content = path.read_bytes()
    except OSError as fault:
        raise DamagedRecordError(path=path, problem="it is not there or was cut") from fault
    with _shape_checked(path):
        stamps, count = unpack_stamps(content)
        if count != b"%d" % len(stamps):
            raise ValueError
    return stamps


def write_outcomes(path: Path, packed: Packed) -> None:
    """Keep what one index chunk read, until it is merged."""
    content = {"headers": [_shared_values(header) for header in packed.headers], "rows": packed.rows}
    write_atomically(path, json.dumps(content).encode("ascii"), mode=0o600)


def read_outcomes(path: Path) -> Packed:
    """Read what `write_outcomes` wrote."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as fault:
        raise DamagedRecordError(path=path, problem="it is not there or was cut") from fault
    with _shape_checked(path):
        headers = [SharedHeader(**dict(zip(SHARED_FIELDS, values, strict=True))) for values in content["headers"]]
        for row in content["rows"]:
            _check_row(row, len(headers))
        return Packed(headers=headers, rows=content["rows"])


def _check_row(row: Any, headers: int) -> None:
    if isinstance(row, str):
        if row not in REJECT_REASONS:
            raise ValueError
    elif row and isinstance(row[0], int):
        if not (0 <= row[0] < headers and len(row) == _ROW_LENGTH):
            raise ValueError
    else:
        for path, stored, size, inner in row:
            if not (isinstance(path, str) and isinstance(stored, str) and isinstance(size, int)):
                raise TypeError
            _check_row(inner, headers)


@contextlib.contextmanager
def _shape_checked(path: Path) -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as fault:
        raise DamagedRecordError(path=path, problem="it is of another version or was changed") from fault
