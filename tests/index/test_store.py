"""The index takes everything in once, survives being killed, and refuses what is not an index."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import DamagedRecordError, DiskFullError, WorkspaceError
from tasks.index.header import read_header
from tasks.index.row import FileStamp, IndexRow, Reject
from tasks.index.scan import scan_dump
from tasks.index.store import (
    SCHEMA_VERSION,
    IndexedFile,
    IndexStore,
    read_chunk,
    read_outcomes,
    write_chunk,
    write_outcomes,
)
from tests import strategies
from tests.builders.disks import tiny_disk, unprivileged
from tests.builders.world import make_dump, make_instance, write_instance
from tests.conftest import REPOSITORY

Chunk = tuple[list[FileStamp], list[IndexRow | Reject]]


def _stamp(number: int, *, path: bytes = b"") -> FileStamp:
    return FileStamp(path=path or b"%03d" % number, size=number, mtime_ns=number, device=1, inode=number)


def _outcome(stamp: FileStamp, row: IndexRow) -> IndexRow:
    return replace(row, path=stamp.path)


def _index(dump: Path) -> Chunk:
    seen = scan_dump(os.fsencode(dump))
    return list(seen.stamps), [read_header(os.fsencode(dump), stamp.path) for stamp in seen.stamps]


def _everything(store: IndexStore) -> tuple[list[IndexedFile], list[Reject], dict[str, int]]:
    return list(store.instances()), store.rejects(), store.counts()


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    folder = tmp_path / "dump"
    make_dump(folder, patients=2, studies=1, series=2, instances=3)
    (folder / "junk").write_bytes(b"junk")
    (folder / "empty").write_bytes(b"")
    (folder / "link").symlink_to("junk")
    return folder


@strategies.FEWER
@given(st.lists(st.tuples(strategies.stamps(), st.one_of(strategies.index_rows(), strategies.rejects())), max_size=6))
def test_what_goes_in_comes_out(
    tmp_path_factory: pytest.TempPathFactory, files: list[tuple[FileStamp, IndexRow | Reject]]
) -> None:
    """Any text in any field and any bytes in a name, through the chunk's files and through SQLite."""
    folder = tmp_path_factory.mktemp("index")
    files = [(stamp, replace(outcome, path=stamp.path)) for stamp, outcome in dict(files).items()]
    stamps = [stamp for stamp, _ in files]
    outcomes = [_decodable(outcome) for _, outcome in files]
    write_chunk(folder / "chunk", stamps)
    write_outcomes(folder / "outcomes", outcomes)
    assert read_chunk(folder / "chunk") == stamps
    assert read_outcomes(folder / "outcomes") == outcomes

    with IndexStore(folder / "index.db") as store:
        store.merge(read_chunk(folder / "chunk"), read_outcomes(folder / "outcomes"))
        kept = {file.stamp: file.row for file in store.instances()}
        assert kept == {s: o for s, o in zip(stamps, outcomes, strict=True) if isinstance(o, IndexRow)}
        rejects = [outcome for outcome in outcomes if isinstance(outcome, Reject)]
        assert sorted(store.rejects(), key=str) == sorted(rejects, key=str)
        assert store.known_stamps() == set(stamps)


def _decodable(outcome: IndexRow | Reject) -> IndexRow | Reject:
    """Lone surrogates cannot come out of `decode_text` (test_syntax_and_text proves it), and SQLite takes none."""
    if isinstance(outcome, Reject):
        return outcome
    names = [name for name in IndexRow.__slots__ if name != "path"]
    clean = {name: getattr(outcome, name).encode("utf-8", "replace").decode("utf-8") for name in names}
    return replace(outcome, **clean)


def test_merging_twice_changes_nothing(dump: Path, tmp_path: Path) -> None:
    stamps, outcomes = _index(dump)
    with IndexStore(tmp_path / "index.db") as store:
        store.merge(stamps, outcomes)
        store.finish_scan(stamps, scan_dump(os.fsencode(dump)).rejects)
        once = _everything(store)
        store.merge(stamps, outcomes)
        assert _everything(store) == once
        store.merge(reversed(stamps), reversed(outcomes))
        assert _everything(store) == once
        assert once[2] == {"files": 15, "dicom": 12, "slow_path": 0}
        assert [(reject.path, reject.reason) for reject in once[1]] == [
            (b"empty", "empty"),
            (b"junk", "not-dicom"),
            (b"link", "symlink"),
        ]
    with IndexStore(tmp_path / "index.db") as store:
        assert _everything(store) == once


KILLED = """
import os, signal, sys
from pathlib import Path
from tasks.index.store import IndexStore, read_chunk, read_outcomes

folder = Path(sys.argv[1])

def dying(stamps):
    for number, stamp in enumerate(stamps):
        if number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        yield stamp

with IndexStore(folder / "index.db") as store:
    store.merge(read_chunk(folder / "0"), read_outcomes(folder / "0.read"))
    store.merge(dying(read_chunk(folder / "1")), read_outcomes(folder / "1.read"))
"""


def test_killed_in_the_middle_of_a_merge(dump: Path, tmp_path: Path) -> None:
    """The chunk before stands, of the chunk being merged there is nothing, and a second run ends as an undisturbed."""
    stamps, outcomes = _index(dump)
    for number, part in enumerate((slice(0, 6), slice(6, None))):
        write_chunk(tmp_path / f"{number}", stamps[part])
        write_outcomes(tmp_path / f"{number}.read", outcomes[part])
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=REPOSITORY, check=False)
    assert done.returncode == -signal.SIGKILL

    with IndexStore(tmp_path / "index.db") as store:
        assert store.known_stamps() == set(stamps[:6])
        for number in range(2):
            store.merge(read_chunk(tmp_path / f"{number}"), read_outcomes(tmp_path / f"{number}.read"))
        store.finish_scan(stamps, [])
        after = _everything(store)
    with IndexStore(tmp_path / "undisturbed.db") as store:
        store.merge(stamps, outcomes)
        store.finish_scan(stamps, [])
        assert _everything(store) == after


def test_fault_in_the_middle_of_a_merge_leaves_nothing(dump: Path, tmp_path: Path) -> None:
    stamps, outcomes = _index(dump)
    with IndexStore(tmp_path / "index.db") as store:
        with pytest.raises(ValueError, match="shorter"):
            store.merge(stamps, outcomes[:-1])
        assert store.known_stamps() == set()
        store.merge(stamps, outcomes)
        assert store.known_stamps() == set(stamps)


def test_changed_and_vanished_files(dump: Path, tmp_path: Path) -> None:
    """A changed file gets a second row; the row of what is gone stays, because its copy may be placed."""
    with IndexStore(tmp_path / "index.db") as store:
        stamps, outcomes = _index(dump)
        store.merge(stamps, outcomes)
        store.finish_scan(stamps, [])

        gone, changed = (Path(os.fsdecode(stamp.path)) for stamp in stamps[:2])
        (dump / gone).unlink()
        write_instance(dump / changed, make_instance(9, 9, 9, 9, PatientID="SYNCHANGED"))
        again, _ = _index(dump)
        fresh = [stamp for stamp in again if stamp not in store.known_stamps()]
        assert [stamp.path for stamp in fresh] == [os.fsencode(changed)]
        store.merge(fresh, [read_header(os.fsencode(dump), stamp.path) for stamp in fresh])
        store.finish_scan(again, [])

        files = list(store.instances())
        assert len(files) == 13
        of_changed = [(file.present, file.row.patient_id) for file in files if file.stamp.path == os.fsencode(changed)]
        assert of_changed == [(False, "SYNWORLD0001"), (True, "SYNCHANGED")] or of_changed[1] == (True, "SYNCHANGED")
        assert [file.present for file in files if file.stamp.path == os.fsencode(gone)] == [False]
        assert store.counts()["dicom"] == 11


def test_file_that_could_not_be_read_is_read_again(tmp_path: Path) -> None:
    """Its stamp does not change when somebody mends the rights or the network; a lasting reject stays known."""
    stamps = [_stamp(1), _stamp(2), _stamp(3)]
    row = _row_of(tmp_path)
    with IndexStore(tmp_path / "index.db") as store:
        store.merge(stamps, [Reject(path=s.path, reason=r) for s, r in zip(stamps, PASSING_AND_LASTING, strict=True)])
        store.finish_scan(stamps, [])
        assert store.known_stamps() == {stamps[2]}
        assert len(store.rejects()) == 3

        store.merge(stamps, [_outcome(stamp, row) for stamp in stamps])
        assert [file.stamp for file in store.instances()] == stamps[:2]
        assert store.rejects() == [Reject(path=stamps[2].path, reason="not-dicom")]
        assert store.known_stamps() == set(stamps)

        # Once read, a file that cannot be read for a while keeps its row.
        store.merge(stamps[:1], [Reject(path=stamps[0].path, reason="unreadable")])
        assert [file.stamp for file in store.instances()] == stamps[:2]


PASSING_AND_LASTING = ("unreadable", "vanished", "not-dicom")


def _row_of(folder: Path) -> IndexRow:
    write_instance(folder / "one", make_instance())
    row = read_header(os.fsencode(folder), b"one")
    assert isinstance(row, IndexRow)
    return row


def test_digests_and_placements_are_kept(dump: Path, tmp_path: Path) -> None:
    stamps, outcomes = _index(dump)
    with IndexStore(tmp_path / "index.db") as store:
        store.merge(stamps, outcomes)
        first, second, *_ = store.instances()
        store.keep_digests([(first.file, "ab" * 32)])
        store.keep_placements([("a/1.dcm", first.file, "link"), ("a/2.dcm", second.file, "")], [])
        store.keep_placements([("a/2.dcm", second.file, "copy")], ["a/1.dcm", "never/there.dcm"])
    with IndexStore(tmp_path / "index.db") as store:
        assert next(store.instances()).digest == "ab" * 32
        assert store.placements() == {"a/2.dcm": second.file}


def test_census_counts_what_is_present(dump: Path, tmp_path: Path) -> None:
    stamps, outcomes = _index(dump)
    with IndexStore(tmp_path / "index.db") as store:
        store.merge(stamps, outcomes)
        store.finish_scan(stamps, [])
        census = {"patients": 2, "dicom_studies": 2, "series": 4, "instances": 12, "dicom_files": 12}
        assert store.census() == census


# --- what is refused


def test_index_is_for_its_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with IndexStore(tmp_path / "index.db"):
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes["index.db"] == 0o600
    assert set(modes.values()) == {0o600}


def test_another_programs_database_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    before = path.read_bytes()
    with pytest.raises(DamagedRecordError, match="another program"):
        IndexStore(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["index.db"]


def test_another_version_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    IndexStore(path).__exit__()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    before = path.read_bytes()
    with pytest.raises(DamagedRecordError, match=f"format {SCHEMA_VERSION + 1}"):
        IndexStore(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
def test_file_that_is_no_database_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    path.write_bytes(content)
    with pytest.raises(DamagedRecordError):
        IndexStore(path)
    assert path.read_bytes() == content


def test_damaged_pages_are_named_and_quote_nobody(dump: Path, tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    stamps, outcomes = _index(dump)
    with IndexStore(path) as store:
        store.merge(stamps, outcomes)
    whole = path.read_bytes()
    for damaged in (whole.replace(b"SYNWORLD0001", b"SYN\xff\xfeLD0001"), whole[:8192] + b"\xa5" * (len(whole) - 8192)):
        path.write_bytes(damaged)
        with pytest.raises(DamagedRecordError) as caught, IndexStore(path) as store:
            list(store.instances())
        assert "SYN" not in str(caught.value)


def test_another_run_that_writes_is_named(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    with IndexStore(path) as store, closing(sqlite3.connect(path, isolation_level=None)) as other:
        store._connection.execute("PRAGMA busy_timeout = 50")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(WorkspaceError, match="another run"):
            store.keep_digests([(1, "x")])
        other.execute("ROLLBACK")
        store.keep_digests([(1, "x")])


def test_full_disk_is_named_and_loses_nothing(tmp_path: Path) -> None:
    row = _row_of(tmp_path)
    with tiny_disk(tmp_path / "disk", kilobytes=256) as disk:
        done: set[FileStamp] = set()

        def fill() -> None:
            with IndexStore(disk / "index.db") as store:
                for begin in range(0, 4000, 20):
                    stamps = [_stamp(number) for number in range(begin, begin + 20)]
                    store.merge(stamps, [_outcome(stamp, row) for stamp in stamps])
                    done.update(stamps)

        with pytest.raises(DiskFullError):
            fill()
        assert done
        # What a person does then: make room. The index has every chunk whose merge had returned.
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        with IndexStore(disk / "index.db") as store:
            assert done <= store.known_stamps()


def test_folder_that_may_not_be_written() -> None:
    with unprivileged() as folder:
        (folder / "locked").mkdir()
        IndexStore(folder / "locked" / "index.db").__exit__()
        (folder / "locked" / "index.db").chmod(0o400)
        (folder / "locked").chmod(0o500)
        try:
            for name in ("index.db", "new.db"):
                with pytest.raises(WorkspaceError, match="cannot be written"):
                    IndexStore(folder / "locked" / name)
        finally:
            (folder / "locked").chmod(0o700)


@pytest.mark.parametrize(
    "content", [b"", b"[", b"{}", b"3", b'[{"path": "a"}]', b'[{"path": "a", "reason": "x", "more": 1}]', b"[[1, 2]]"]
)
def test_damaged_chunk_files_are_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "chunk"
    path.write_bytes(content)
    for read in (read_outcomes, read_chunk):
        with pytest.raises(DamagedRecordError):
            read(path)


def test_missing_chunk_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DamagedRecordError):
        read_outcomes(tmp_path / "none")


def _orders(count: int) -> Iterator[list[int]]:
    yield list(range(count))
    yield list(reversed(range(count)))
    yield [*range(0, count, 2), *range(1, count, 2)]


def test_order_of_arrival_does_not_show(dump: Path, tmp_path: Path) -> None:
    stamps, outcomes = _index(dump)
    found = []
    for number, order in enumerate(_orders(len(stamps))):
        with IndexStore(tmp_path / f"{number}.db") as store:
            for place in order:
                store.merge([stamps[place]], [outcomes[place]])
            store.finish_scan(stamps, [])
            found.append([(file.stamp, file.row, file.present) for file in store.instances()])
    assert found[0] == found[1] == found[2]
