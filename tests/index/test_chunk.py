"""What one task read comes whole to the one that merges it, or is refused as damaged."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import DamagedRecordError
from tasks.index.chunk import Opened, Outcome, Stored, pack, read_chunk, write_chunk
from tasks.index.row import ROW_FIELDS, SHARED_FIELDS, FileStamp, IndexRow, Reject, SharedHeader
from tasks.parcel import Parcel
from tests import strategies
from tests.strategies import make_row

STAMPS = [FileStamp(path=b"%d" % number, size=1, mtime_ns=1, device=1, inode=number) for number in (1, 2, 3)]


@st.composite
def outcomes(draw: st.DrawFn) -> list[Outcome]:
    """Make rows that share headers and some that do not, rejects, and archives with members of both kinds."""
    shared = draw(st.lists(strategies.index_rows(), min_size=1, max_size=3))
    rows = st.builds(
        lambda row, other: replace(row, shared=other.shared), strategies.index_rows(), st.sampled_from(shared)
    )
    taken = st.builds(
        Stored, stored=st.just("ab/1"), size=st.integers(0, 2**62), outcome=rows.map(strategies.decodable)
    )
    refused = st.builds(Stored, stored=st.just(""), size=st.integers(0, 2**62), outcome=strategies.rejects())
    members = st.lists(st.one_of(taken, refused), max_size=3)
    single = st.one_of(rows.map(strategies.decodable), strategies.rejects())
    opened = st.builds(Opened, path=strategies.file_names(), members=members.map(tuple))
    return draw(st.lists(st.one_of(single, opened), max_size=4))


def unpack(packed: Parcel) -> list[tuple[FileStamp, Outcome]]:
    """Read what `pack` wrote."""
    with packed.opened() as connection:
        headers = {
            number: SharedHeader(**dict(zip(SHARED_FIELDS, values, strict=True)))
            for number, key, subgroup, *values in connection.execute("SELECT * FROM header")
        }
        rows = connection.execute("SELECT * FROM file ORDER BY number").fetchall()
    found: dict[int, tuple[FileStamp, Any]] = {}
    for number, path, size, mtime_ns, device, inode, reason, container, stored, header, *values in rows:
        outcome: Any = None
        if reason:
            outcome = Reject(path=path, reason=reason)
        elif header is not None:
            outcome = IndexRow(path=path, shared=headers[header], **dict(zip(ROW_FIELDS, values, strict=True)))
        if container is None:
            stamp = FileStamp(path=path, size=size, mtime_ns=mtime_ns, device=device, inode=inode)
            found[number] = stamp, outcome or Opened(path=path, members=())
        else:
            stamp, opened = found[container]
            member = Stored(stored=stored, size=size, outcome=outcome)
            found[container] = stamp, replace(opened, members=(*opened.members, member))
    return list(found.values())


@settings(max_examples=25)
@given(outcomes())
def test_what_was_read_comes_back(tmp_path_factory: pytest.TempPathFactory, read: list[Outcome]) -> None:
    """Any text in any field and any bytes in a name, and archives with what they hold."""
    path = tmp_path_factory.getbasetemp() / "outcomes"
    stamps = [FileStamp(path=one.path, size=n, mtime_ns=-n, device=1, inode=2**62 + n) for n, one in enumerate(read)]
    pack(stamps, read).write(path)
    assert unpack(Parcel.read(path)) == list(zip(stamps, read, strict=True))


def test_a_list_and_what_was_read_of_it_are_of_one_length() -> None:
    row = make_row(b"a")
    for rows in ([row], [row, row, row]):
        with pytest.raises(ValueError, match=r"shorter|longer"):
            pack(STAMPS[:2], rows)


def headers_of(packed: Parcel) -> tuple[list[str], list[int | None]]:
    """Return the patient of each header, and the number of each file's header."""
    with packed.opened() as connection:
        patients = [patient for (patient,) in connection.execute("SELECT patient_id FROM header ORDER BY number")]
        return patients, [number for (number,) in connection.execute("SELECT header FROM file ORDER BY number")]


def test_a_header_that_files_share_is_kept_once() -> None:
    """Told by what it says: the reader hands in one object for a series as a rule, and not always."""
    one, other = make_row(b"a", patient_id="1"), make_row(b"b", patient_id="2")
    same = replace(one, shared=replace(one.shared), path=b"c")
    assert same.shared is not one.shared
    inside = Opened(path=b"z", members=(Stored(stored="k/1", size=1, outcome=replace(other, path=b"z!/d")),))
    packed = pack([STAMPS[0]] * 5, [one, other, same, one, inside])
    assert headers_of(packed) == (["1", "2"], [1, 2, 1, 1, None, 2])


def test_headers_of_rows_that_come_one_by_one_are_not_mixed_up() -> None:
    """An object that was given back to Python leaves its number to the next one; its header must not follow."""
    packed = pack([STAMPS[0]] * 2000, (make_row(b"%d" % number, patient_id=f"{number}") for number in range(2000)))
    assert headers_of(packed) == ([f"{number}" for number in range(2000)], list(range(1, 2001)))


@given(st.lists(strategies.stamps(), max_size=6))
def test_a_list_of_files_comes_back(tmp_path_factory: pytest.TempPathFactory, stamps: list[FileStamp]) -> None:
    path = tmp_path_factory.getbasetemp() / "chunk"
    write_chunk(path, stamps)
    assert read_chunk(path) == stamps


def test_files_between_tasks_are_for_their_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_chunk(tmp_path / "chunk", [])
        pack([], []).write(tmp_path / "read")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


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


@pytest.mark.parametrize("content", [b"", b"[", b"3", b"a\0001:1:1:1\0002"])
def test_damaged_lists_are_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "chunk"
    path.write_bytes(content)
    with pytest.raises(DamagedRecordError, match=str(path)):
        read_chunk(path)


def test_missing_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(DamagedRecordError, match="not there"):
        read_chunk(tmp_path / "none")
