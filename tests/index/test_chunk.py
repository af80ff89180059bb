"""What one task read comes whole to the one that merges it, or is refused as damaged."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import DamagedRecordError
from tasks.index.chunk import (
    Opened,
    Outcome,
    Packed,
    Stored,
    pack,
    read_chunk,
    read_outcomes,
    write_chunk,
    write_outcomes,
)
from tasks.index.row import ROW_FIELDS, SHARED_FIELDS, FileStamp, IndexRow, Reject
from tests import strategies
from tests.strategies import make_row


@st.composite
def outcomes(draw: st.DrawFn) -> list[Outcome]:
    """Make rows that share headers and some that do not, rejects, and archives with members of both kinds."""
    shared = draw(st.lists(strategies.index_rows(), min_size=1, max_size=3))
    rows = st.builds(
        lambda row, other: replace(row, shared=other.shared), strategies.index_rows(), st.sampled_from(shared)
    )
    single = st.one_of(rows, strategies.rejects())
    members = st.lists(st.builds(Stored, stored=st.sampled_from(("", "ab/1")), size=st.integers(0), outcome=single))
    opened = st.builds(Opened, path=strategies.file_names(), members=members.map(tuple))
    return draw(st.lists(st.one_of(single, opened), max_size=6))


def unpack(packed: Packed, paths: list[bytes]) -> list[Outcome]:
    """Read what `pack` describes."""

    def single(row: Any, path: bytes) -> IndexRow | Reject:
        if isinstance(row, str):
            return Reject(path=path, reason=row)
        header, *values = row
        return IndexRow(path=path, shared=packed.headers[header], **dict(zip(ROW_FIELDS, values, strict=True)))

    read: list[Outcome] = []
    for row, path in zip(packed.rows, paths, strict=True):
        if isinstance(row, str) or (row and isinstance(row[0], int)):
            read.append(single(row, path))
        else:
            members = tuple(
                Stored(stored=stored, size=size, outcome=single(inner, os.fsencode(name)))
                for name, stored, size, inner in row
            )
            read.append(Opened(path=path, members=members))
    return read


@settings(max_examples=25)
@given(outcomes())
def test_what_was_read_comes_back(tmp_path_factory: pytest.TempPathFactory, read: list[Outcome]) -> None:
    """Any text in any field, half of a surrogate pair as well, and any bytes in a name."""
    path = tmp_path_factory.getbasetemp() / "outcomes"
    packed = pack(read)
    write_outcomes(path, packed)
    assert read_outcomes(path) == packed
    assert unpack(read_outcomes(path), [outcome.path for outcome in read]) == read


def test_a_header_that_files_share_is_kept_once() -> None:
    """Told by what it says: the reader hands in one object for a series as a rule, and not always."""
    one, other = make_row(b"a", patient_id="1"), make_row(b"b", patient_id="2")
    same = replace(one, shared=replace(one.shared), path=b"c")
    assert same.shared is not one.shared
    inside = Opened(path=b"z", members=(Stored(stored="k/1", size=1, outcome=replace(other, path=b"z!/d")),))
    packed = pack([one, other, same, one, inside])
    assert packed.headers == [one.shared, other.shared]
    assert [row[0] for row in packed.rows[:4]] == [0, 1, 0, 0]
    assert packed.rows[4][0][3][0] == 1


def test_headers_of_rows_that_come_one_by_one_are_not_mixed_up() -> None:
    """An object that was given back to Python leaves its number to the next one; its header must not follow."""
    packed = pack(make_row(b"%d" % number, patient_id=f"{number}") for number in range(2000))
    assert [packed.headers[row[0]].patient_id for row in packed.rows] == [f"{number}" for number in range(2000)]


@given(st.lists(strategies.stamps(), max_size=6))
def test_a_list_of_files_comes_back(tmp_path_factory: pytest.TempPathFactory, stamps: list[FileStamp]) -> None:
    path = tmp_path_factory.getbasetemp() / "chunk"
    write_chunk(path, stamps)
    assert read_chunk(path) == stamps


def test_files_between_tasks_are_for_their_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_chunk(tmp_path / "chunk", [])
        write_outcomes(tmp_path / "read", pack([]))
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


STAMPS = [FileStamp(path=b"%d" % number, size=1, mtime_ns=1, device=1, inode=number) for number in (1, 2, 3)]


def test_a_list_that_was_cut_is_refused_wherever_it_was_cut(tmp_path: Path) -> None:
    """Also between two files, where what is left reads well: a file that is not listed would not be read."""
    path = tmp_path / "chunk"
    write_chunk(path, STAMPS)
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with pytest.raises(DamagedRecordError):
            read_chunk(path)
    for wrong in (whole + b"\0", whole.replace(b":", b"", 1), whole.replace(b":1", b":x", 1), whole[:-1] + b"4"):
        path.write_bytes(wrong)
        with pytest.raises(DamagedRecordError):
            read_chunk(path)
    path.write_bytes(whole)
    assert read_chunk(path) == STAMPS


@pytest.mark.parametrize(
    "content", [b"", b"[", b"{}", b"3", b'[{"path": "a"}]', b'[{"path": "a", "reason": "x", "more": 1}]', b"[[1, 2]]"]
)
def test_damaged_chunk_files_are_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "chunk"
    path.write_bytes(content)
    for read in (read_outcomes, read_chunk):
        with pytest.raises(DamagedRecordError, match=str(path)):
            read(path)


def changed(**more: Any) -> bytes:
    """Write outcomes as `write_outcomes` does, with another list of headers or rows."""
    return json.dumps({"headers": [[""] * len(SHARED_FIELDS)], "rows": [ROW, "empty"]} | more).encode()


ROW = [0, *[""] * len(ROW_FIELDS)]


def test_the_content_that_the_next_test_changes_is_good(tmp_path: Path) -> None:
    (tmp_path / "read").write_bytes(changed(rows=[ROW, "empty", [["a", "k/1", 1, ROW], ["b", "", 1, "empty"]], []]))
    assert len(read_outcomes(tmp_path / "read").rows) == 4


@pytest.mark.parametrize(
    "more",
    [
        {"headers": [[""]]},
        {"headers": [3]},
        {"headers": []},
        {"rows": [["", *ROW[1:]]]},
        {"rows": [[1, *ROW[1:]]]},
        {"rows": [[-1, *ROW[1:]]]},
        {"rows": [ROW[:-1]]},
        {"rows": [[*ROW, ""]]},
        {"rows": ["no reason of ours"]},
        {"rows": [None]},
        {"rows": [[["a", "k/1", 1]]]},
        {"rows": [[["a", "k/1", "1", ROW]]]},
        {"rows": [[["a", "k/1", 1, "no reason of ours"]]]},
        {"rows": 3},
    ],
)
def test_outcomes_of_another_shape_are_refused(more: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "read"
    path.write_bytes(changed(**more))
    with pytest.raises(DamagedRecordError, match="was changed"):
        read_outcomes(path)


def test_missing_chunk_file_is_named(tmp_path: Path) -> None:
    for read in (read_outcomes, read_chunk):
        with pytest.raises(DamagedRecordError, match="not there"):
            read(tmp_path / "none")
