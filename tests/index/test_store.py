"""The index takes everything in once, survives being killed, and tells what became of each file of the dump."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.errors import DamagedRecordError, DiskFullError, WorkspaceError
from tasks.index.chunk import Opened, Outcome, Stored, pack, read_chunk, write_chunk
from tasks.index.header import read_header, read_headers
from tasks.index.row import PASSING_REASONS, FileStamp, IndexRow, Reject
from tasks.index.scan import scan_dump
from tasks.index.store import CHANGES, SCHEMA_VERSION, IndexedFile, IndexStore
from tasks.parcel import Parcel
from tests import strategies
from tests.builders.disks import tiny_disk, unprivileged
from tests.builders.world import make_dump, make_instance, write_instance
from tests.conftest import REPOSITORY
from tests.strategies import make_row

Same = Callable[[IndexedFile, IndexedFile], bool]
NOTHING_CHANGED = dict.fromkeys(CHANGES, 0)


def never(*_: IndexedFile) -> bool:
    return False


def stamp_of(number: int, **more: object) -> FileStamp:
    """Make up a file."""
    stamp = FileStamp(path=b"%03d" % number, size=number, mtime_ns=number, device=1, inode=number)
    return stamp._replace(**more)


def read(dump: Path, stamps: Iterable[FileStamp]) -> list[Outcome]:
    outcomes = read_headers(os.fsencode(dump), [stamp.path for stamp in stamps])
    assert all(isinstance(outcome, IndexRow | Reject) for outcome in outcomes)
    return [outcome for outcome in outcomes if isinstance(outcome, IndexRow | Reject)]


def take_in(store: IndexStore, stamps: Sequence[FileStamp], outcomes: Sequence[Outcome], chunk: str = "0") -> None:
    """Merge what was read, as the first scan of all."""
    store.take_scan(stamps)
    store.merge(chunk, pack(stamps, outcomes))


def night(store: IndexStore, dump: Path, *, same: Same = never, files: int = 1000) -> dict[str, int]:
    """Bring an index up to the present state of a dump; return what became of the files."""
    seen = scan_dump(os.fsencode(dump), dump.parent / "spool")
    unread = list(store.take_scan(seen.stamps()))
    store.expect(len(unread))
    for begin in range(0, len(unread), files):
        part = unread[begin : begin + files]
        store.merge(f"{begin}", pack(part, read(dump, part)))
    return store.finish_scan(seen.refused, same)


def told(**counts: int) -> dict[str, int]:
    """Spell out what a scan found, for comparison with `night`."""
    return NOTHING_CHANGED | counts


def everything(store: IndexStore) -> tuple[list[IndexedFile], list[Reject], dict[str, int], dict[str, int]]:
    return list(store.instances()), list(store.rejects()), store.counts(), store.census()


def without_numbers(store: IndexStore) -> list[tuple[FileStamp, IndexRow, bool]]:
    return [(file.stamp, file.row, file.present) for file in store.instances()]


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    folder = tmp_path / "dump"
    make_dump(folder, patients=2, studies=1, series=2, instances=3)
    (folder / "junk").write_bytes(b"junk")
    (folder / "empty").write_bytes(b"")
    (folder / "link").symlink_to("junk")
    return folder


@settings(max_examples=25)
@given(st.lists(st.tuples(strategies.stamps(), st.one_of(strategies.index_rows(), strategies.rejects())), max_size=6))
def test_what_goes_in_comes_out(
    tmp_path_factory: pytest.TempPathFactory, files: list[tuple[FileStamp, IndexRow | Reject]]
) -> None:
    """Any text in any field and any bytes in a name, through the chunk's files and through SQLite."""
    folder = tmp_path_factory.mktemp("index")
    known = {stamp.path: (stamp, strategies.decodable(replace(outcome, path=stamp.path))) for stamp, outcome in files}
    stamps = [stamp for stamp, _ in known.values()]
    outcomes = [outcome for _, outcome in known.values()]
    write_chunk(folder / "chunk", stamps)
    pack(read_chunk(folder / "chunk"), outcomes).write(folder / "outcomes")

    with IndexStore(folder / "index.db") as store:
        store.take_scan(stamps)
        assert store.merge("0", Parcel.read(folder / "outcomes")) == len(stamps)
        store.finish_scan([], never)
        kept = {file.stamp: file.row for file in store.instances()}
        assert kept == {s: o for s, o in zip(stamps, outcomes, strict=True) if isinstance(o, IndexRow)}
        rejects = [outcome for outcome in outcomes if isinstance(outcome, Reject)]
        assert sorted(store.rejects(), key=str) == sorted(rejects, key=str)
        assert list(store.take_scan(stamps)) == [], "nothing has to be read again"


def test_headers_that_differ_only_in_where_one_value_ends_are_two(tmp_path: Path) -> None:
    """A header is found again by a digest of its values: no value may run into the next one."""
    rows = [
        make_row(b"000", patient_id="a", patient_name="bc"),
        make_row(b"001", patient_id="ab", patient_name="c"),
        make_row(b"002", patient_id="a:1:b", patient_name="c"),
        make_row(b"003", patient_id="", patient_name="abc"),
    ]
    with IndexStore(tmp_path / "index.db") as store:
        take_in(store, [stamp_of(number) for number in range(4)], rows)
        assert [file.row for file in store.instances()] == rows
        assert len(store.headers()) == 4


def test_merging_twice_changes_nothing(dump: Path, tmp_path: Path) -> None:
    with IndexStore(tmp_path / "index.db") as store:
        seen = scan_dump(os.fsencode(dump), tmp_path / "spool")
        stamps = list(store.take_scan(seen.stamps()))
        packed = pack(stamps, read(dump, stamps))
        for chunk in ("0", "0"):
            assert store.merge(chunk, packed) == 14
        found = store.finish_scan(seen.refused, never)
        once = everything(store)
        assert found == told(new=14)
        assert once[2] == {"files": 15, "opened": 0, "members": 0, "dicom": 12, "slow_path": 0, "rejects": 3}
        assert [(reject.path, reject.reason) for reject in once[1]] == [
            (b"empty", "empty"),
            (b"junk", "not-dicom"),
            (b"link", "symlink"),
        ]
        assert store.reject_counts() == {"empty": 1, "not-dicom": 1, "symlink": 1}
        # A run that was cut off after the last line of the stage does all of it again.
        store.expect(len(stamps))
        store.merge("0", packed)
        assert store.finish_scan(seen.refused, never) == found
        assert everything(store) == once
    with IndexStore(tmp_path / "index.db") as store:
        assert everything(store) == once
        assert store.finish_scan(seen.refused, never) == found


KILLED = """
import os, signal, sys
from pathlib import Path
from tasks.index.store import IndexStore
from tasks.parcel import Parcel

folder = Path(sys.argv[1])

def die(statement):
    if statement.startswith("UPDATE last_number"):
        os.kill(os.getpid(), signal.SIGKILL)

with IndexStore(folder / "index.db") as store:
    store.expect(14)
    store.merge("0", Parcel.read(folder / "0.read"))
    store._connection.set_trace_callback(die)
    store.merge("1", Parcel.read(folder / "1.read"))
"""


def write_two_chunks(dump: Path, folder: Path) -> list[FileStamp]:
    """Leave what two chunks read, and an index that waits for it; return the stamps."""
    seen = scan_dump(os.fsencode(dump), folder / "spool")
    with IndexStore(folder / "index.db") as store:
        stamps = list(store.take_scan(seen.stamps()))
    for number, part in enumerate((slice(0, 6), slice(6, None))):
        pack(stamps[part], read(dump, stamps[part])).write(folder / f"{number}.read")
    return stamps


def merge_both(store: IndexStore, folder: Path) -> None:
    for number in range(2):
        store.merge(f"{number}", Parcel.read(folder / f"{number}.read"))


def test_killed_in_the_middle_of_a_merge(dump: Path, tmp_path: Path) -> None:
    """The chunk before stands, of the chunk being merged there is nothing, and a second run ends as an undisturbed."""
    stamps = write_two_chunks(dump, tmp_path)
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=REPOSITORY, check=False)
    assert done.returncode == -signal.SIGKILL

    with IndexStore(tmp_path / "index.db") as store:
        of_first = [s for s, o in zip(stamps[:6], read(dump, stamps[:6]), strict=True) if isinstance(o, IndexRow)]
        assert {file.stamp for file in store.instances()} == set(of_first)
        merge_both(store, tmp_path)
        found = store.finish_scan([], never)
        after = everything(store)
    with IndexStore(tmp_path / "undisturbed.db") as store:
        store.take_scan(stamps)
        merge_both(store, tmp_path)
        assert store.finish_scan([], never) == found == told(new=14)
        assert everything(store) == after


def test_killed_before_the_end_and_the_dump_changed_meanwhile(dump: Path, tmp_path: Path) -> None:
    """What a run that never finished had read is forgotten, and not taken for what the dump held before."""
    stamps = write_two_chunks(dump, tmp_path)
    with IndexStore(tmp_path / "index.db") as store:
        store.merge("0", Parcel.read(tmp_path / "0.read"))
        for stamp in stamps[:3]:
            (dump / os.fsdecode(stamp.path)).unlink()
        assert night(store, dump, files=4) == told(new=11)
        after = everything(store)
    with IndexStore(tmp_path / "undisturbed.db") as store:
        night(store, dump)
        assert without_numbers(store) == [(file.stamp, file.row, file.present) for file in after[0]]
        assert everything(store)[1:] == after[1:]


def test_fault_in_the_middle_of_a_merge_leaves_nothing(dump: Path, tmp_path: Path) -> None:
    stamps = list(scan_dump(os.fsencode(dump), tmp_path / "spool").stamps())
    outcomes = read(dump, stamps)
    with IndexStore(tmp_path / "index.db") as store:
        with pytest.raises(ValueError, match="shorter"):
            take_in(store, stamps, outcomes[:-1])
        assert everything(store)[:2] == ([], [])
        store.merge("0", pack(stamps, outcomes))
        assert len(everything(store)[0]) == 12


def test_what_could_not_be_read_is_read_again(tmp_path: Path) -> None:
    """Its stamp does not change when somebody mends the rights or the network; a lasting reject stays known."""
    stamps = [stamp_of(number) for number in range(4)]
    reasons = (*sorted(PASSING_REASONS), "not-dicom")
    assert len(reasons) == 4
    with IndexStore(tmp_path / "index.db") as store:
        take_in(store, stamps, [Reject(path=s.path, reason=r) for s, r in zip(stamps, reasons, strict=True)])
        store.finish_scan([], never)
        assert len(list(store.rejects())) == 4

        assert list(store.take_scan(stamps)) == stamps[:3]
        store.merge("1", pack(stamps[:3], (make_row(stamp.path, patient_id="x") for stamp in stamps[:3])))
        assert store.finish_scan([], never) == told(unchanged=1, new=3)
        assert [file.stamp for file in store.instances()] == stamps[:3]
        assert list(store.rejects()) == [Reject(path=stamps[3].path, reason="not-dicom")]
        assert list(store.take_scan(stamps)) == []
        # Once read, a file that cannot be read for a while keeps its row: nobody asks for it again.
        assert store.finish_scan([], never) == told(unchanged=4)
        assert len(list(store.instances())) == 3


def test_a_number_is_never_given_twice(tmp_path: Path) -> None:
    """Or what the sorter noted of a file that is forgotten (its place, its frames) would be believed of another."""
    stamps = [stamp_of(number) for number in range(3)]
    with IndexStore(tmp_path / "index.db") as store:
        take_in(store, stamps, [make_row(stamp.path) for stamp in stamps])
        store.finish_scan([], never)
        given_before = {file.file for file in store.instances()}
        store.refuse([max(given_before)], "vanished")
        assert list(store.take_scan(stamps)) == stamps[2:]
        store.merge("1", pack(stamps[2:], [make_row(b"002")]))
        store.finish_scan([], never)
        assert len({file.file for file in store.instances()} - given_before) == 1


# --- what became of each file, told on real folders


@pytest.fixture
def store(dump: Path, tmp_path: Path) -> Iterator[IndexStore]:
    """Give an index of the dump after a first night."""
    with IndexStore(tmp_path / "index.db") as opened:
        assert night(opened, dump) == told(new=14)
        yield opened


def images(dump: Path) -> list[Path]:
    return sorted(path for path in dump.iterdir() if path.is_file() and path.stat().st_size > 100)


def number_of(store: IndexStore, path: Path) -> dict[int, bool]:
    """Tell the numbers under which the index knows a path, and which of them it believes to be there."""
    name = os.fsencode(path.name)
    return {file.file: file.present for file in store.instances() if file.stamp.path.rpartition(b"/")[2] == name}


def test_nothing_happened(dump: Path, store: IndexStore) -> None:
    before = everything(store)
    assert night(store, dump) == told(unchanged=14)
    assert everything(store) == before


def test_moved_and_renamed_files_keep_their_numbers(dump: Path, store: IndexStore) -> None:
    moved, renamed, both, *_ = images(dump)
    before = {path: number_of(store, path) for path in (moved, renamed, both)}
    (dump / "folder").mkdir()
    moved.rename(dump / "folder" / moved.name)
    renamed.rename(dump / "new name")
    both.rename(dump / "folder" / "other name")
    (dump / "junk").rename(dump / "folder" / "junk")
    assert night(store, dump) == told(unchanged=10, moved=3, renamed=1)
    assert number_of(store, moved) == before[moved]
    assert number_of(store, dump / "new name") == before[renamed]
    assert number_of(store, dump / "other name") == before[both]
    assert [reject.path for reject in store.rejects()] == [b"empty", b"folder/junk", b"link"]
    assert store.counts()["dicom"] == 12
    assert night(store, dump) == told(unchanged=14)


def copy_over(source: Path, target: Path) -> None:
    """Send a file again: the same bytes and name, another inode and time."""
    beside = target.with_name("beside")
    beside.write_bytes(source.read_bytes())
    assert beside.stat().st_ino != target.stat().st_ino
    os.replace(beside, target)


def test_sent_again_is_told_from_changed_by_content(dump: Path, store: IndexStore) -> None:
    again, other, *_ = images(dump)
    before = number_of(store, again)
    asked: list[tuple[FileStamp, FileStamp]] = []
    old_stamps = {file.stamp.path: file.stamp for file in store.instances()}

    def same(old: IndexedFile, fresh: IndexedFile) -> bool:
        asked.append((old.stamp, fresh.stamp))
        return old.stamp.path == os.fsencode(again.name)

    copy_over(again, again)
    pixels = bytearray(other.read_bytes())
    pixels[-1] ^= 1
    (dump / "beside").write_bytes(pixels)
    os.replace(dump / "beside", other)
    assert night(store, dump, same=same) == told(unchanged=12, re_sent=1, changed=1)
    assert {old.path for old, _ in asked} == {os.fsencode(again.name), os.fsencode(other.name)}
    assert all(old == old_stamps[fresh.path] != fresh for old, fresh in asked)
    assert number_of(store, again) == before
    assert sorted(number_of(store, other).values()) == [False, True]
    assert store.counts()["dicom"] == 12


def test_only_touched_is_told_by_content(dump: Path, store: IndexStore) -> None:
    """The same inode under the same name with another time: what it holds has to be looked at."""
    same, rewritten, *_ = images(dump)
    for path in (same, rewritten):
        os.utime(path, ns=(1, 1))
    assert night(store, dump, same=lambda old, _: old.stamp.path == os.fsencode(same.name)) == told(
        unchanged=12, re_sent=1, changed=1
    )
    assert list(number_of(store, same).values()) == [True]


def test_another_header_or_size_is_changed_and_nobody_is_asked(dump: Path, store: IndexStore) -> None:
    """A changed file gets a second row; the row of what is gone stays, because its copy may be placed."""
    header, size, gone, *_ = images(dump)

    def fail(*_: IndexedFile) -> bool:
        raise AssertionError

    write_instance(header, make_instance(9, 9, 9, 9, PatientID="SYNCHANGED"))
    with size.open("ab") as stream:
        stream.write(b"\0\0")
    (dump / "junk").write_bytes(b"other junk")
    (dump / "empty").write_bytes((dump / header).read_bytes())
    gone.unlink()
    assert night(store, dump, same=fail) == told(unchanged=9, changed=4, vanished=1)
    files = list(store.instances())
    assert len(files) == 15
    of_changed = [(f.present, f.row.shared.patient_id) for f in files if f.stamp.path == os.fsencode(header.name)]
    assert sorted(of_changed) == [(False, of_changed[0][1]), (True, "SYNCHANGED")]
    assert list(number_of(store, gone).values()) == [False]
    assert store.counts()["dicom"] == 12


def test_vanished_and_come_back(dump: Path, store: IndexStore, tmp_path: Path) -> None:
    """A file that was away for a night is the one that it was."""
    path = images(dump)[0]
    before = everything(store)
    path.rename(tmp_path / "away")
    (dump / "junk").rename(tmp_path / "junk")
    assert night(store, dump) == told(unchanged=12, vanished=2)
    assert store.counts()["dicom"] == 11
    assert night(store, dump) == told(unchanged=12), "what is gone is told once"
    (tmp_path / "away").rename(path)
    (tmp_path / "junk").rename(dump / "junk")
    assert night(store, dump) == told(unchanged=12, new=2)
    assert everything(store) == before


def test_inode_that_was_given_to_another_image(dump: Path, store: IndexStore) -> None:
    """Equal size and time as well, as when a sender sets times: only the header tells that it is no move."""
    path = images(dump)[0]
    status = path.stat()
    other = make_instance(2, 1, 1, 1, PatientName="Synthetic^Xerson2")
    other.SOPInstanceUID = other.SOPInstanceUID[:-1] + "9"
    write_instance(path, other)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    path.rename(dump / "new name")
    now = (dump / "new name").stat()
    assert (now.st_ino, now.st_size, now.st_mtime_ns) == (status.st_ino, status.st_size, status.st_mtime_ns)
    assert night(store, dump) == told(unchanged=13, new=1, vanished=1)
    assert list(number_of(store, path).values()) == [False]
    assert list(number_of(store, dump / "new name").values()) == [True]


def test_hard_links_of_one_inode(dump: Path, store: IndexStore) -> None:
    """Two names of one file that are both gone, for one new name: one moved, and one vanished."""
    one = images(dump)[0]
    os.link(one, dump / "second name")
    assert night(store, dump) == told(unchanged=14, new=1)
    one.rename(dump / "third name")
    (dump / "second name").unlink()
    assert night(store, dump) == told(unchanged=13, renamed=1, vanished=1)
    os.link(dump / "third name", dump / "fourth name")
    os.link(dump / "third name", dump / "fifth name")
    (dump / "third name").unlink()
    assert night(store, dump) == told(unchanged=13, renamed=1, new=1)
    assert night(store, dump) == told(unchanged=15)


def test_names_that_were_swapped_are_two_moves(dump: Path, store: IndexStore) -> None:
    one, other, *_ = images(dump)
    before = number_of(store, one), number_of(store, other)
    one.rename(dump / "aside")
    other.rename(one)
    (dump / "aside").rename(other)
    assert night(store, dump) == told(unchanged=12, renamed=2)
    assert (number_of(store, other), number_of(store, one)) == before


def test_moved_over_another_file_is_one_move_and_one_loss(dump: Path, store: IndexStore) -> None:
    one, other, *_ = images(dump)
    lost = number_of(store, other)
    one.rename(other)
    assert night(store, dump) == told(unchanged=12, renamed=1, vanished=1)
    assert {number: present for number, present in number_of(store, other).items() if number in lost} == dict.fromkeys(
        lost, False
    )
    assert store.counts()["dicom"] == 11


def test_digest_stays_with_a_file_that_moved_and_not_with_one_that_changed(dump: Path, store: IndexStore) -> None:
    moved, changed, *_ = images(dump)
    store.keep_digests((file.file, f"{file.file:064x}") for file in store.instances())
    moved.rename(dump / "new name")
    write_instance(changed, make_instance(9, 9, 9, 9))
    night(store, dump)
    now = {file.stamp.path: file.digest for file in store.instances() if file.present}
    (number,) = number_of(store, dump / "new name")
    assert now[b"new name"] == f"{number:064x}"
    assert now[os.fsencode(changed.name)] == ""


# --- the arithmetic of it, over nights that nobody would think of


@dataclass(frozen=True)
class Image:
    """A file of a made-up dump: where it lies, what it holds, and how often it was sent."""

    inode: int
    content: int


FEW_PATHS = (b"a", b"b", b"c/a", b"c/b")
DUMPS = st.dictionaries(
    st.sampled_from(FEW_PATHS), st.builds(Image, inode=st.integers(1, 4), content=st.integers(0, 5))
)


def stamps_of(dump: Mapping[bytes, Image]) -> list[FileStamp]:
    # Content 4 and 5 have the header of 0 and 1: only a look at the bytes tells them apart.
    return [
        FileStamp(path=path, size=1, mtime_ns=1, device=1, inode=image.inode) for path, image in sorted(dump.items())
    ]


def outcomes_of(dump: Mapping[bytes, Image], stamps: Iterable[FileStamp]) -> list[Outcome]:
    return [
        make_row(stamp.path, sop_instance_uid=f"2.25.{dump[stamp.path].content % 4}")
        if dump[stamp.path].content % 4
        else Reject(path=stamp.path, reason="not-dicom")
        for stamp in stamps
    ]


@settings(max_examples=40)
@given(st.lists(DUMPS, min_size=2, max_size=4), st.randoms(use_true_random=False))
@example([{b"a": Image(1, 1), b"b": Image(2, 2)}, {b"a": Image(2, 2), b"b": Image(1, 1)}], random.Random(1))
@example([{b"a": Image(1, 1), b"b": Image(2, 2)}, {b"b": Image(1, 1)}], random.Random(1))
def test_the_sums_close_on_any_night(nights: list[dict[bytes, Image]], chance: random.Random) -> None:
    """Each file of either night is told once; and what the index holds then is what the dump holds."""
    with tempfile.TemporaryDirectory() as folder, IndexStore(Path(folder) / "index.db") as store:
        # What was read of a stamp stays true: with equal path, inode, size and time nothing tells of another content.
        known: dict[FileStamp, Outcome] = {}
        before = 0
        for dump in nights:
            stamps = stamps_of(dump)
            unread = list(store.take_scan(stamps))
            store.expect(len(unread))
            outcomes = outcomes_of(dump, unread)
            known |= zip(unread, outcomes, strict=True)
            store.merge("0", pack(unread, outcomes))
            found = store.finish_scan([], lambda *_: chance.random() < 0.5)
            assert min(found.values()) >= 0, found
            assert sum(found.values()) - found["new"] == before
            assert sum(found.values()) - found["vanished"] == len(dump) == store.counts()["files"]
            expected = {stamp: known[stamp] for stamp in stamps}
            there = {file.stamp: file.row for file in store.instances() if file.present}
            assert there == {stamp: row for stamp, row in expected.items() if isinstance(row, IndexRow)}
            rejects = sorted(stamp.path for stamp, reject in expected.items() if isinstance(reject, Reject))
            assert [reject.path for reject in store.rejects()] == rejects
            before = len(dump)


# --- archives


def opened(archive: FileStamp, *members: IndexRow | str) -> Opened:
    """Make up what an archive held: rows, and the reasons of what was not taken."""
    found = []
    for number, member in enumerate(members):
        path = archive.path + b"!/%d" % number
        if isinstance(member, str):
            found.append(Stored(stored="", size=1, outcome=Reject(path=path, reason=member)))
        else:
            found.append(Stored(stored=f"k{archive.inode}/{number}", size=9, outcome=replace(member, path=path)))
    return Opened(path=archive.path, members=tuple(found))


ONE, OTHER = make_row(sop_instance_uid="2.25.1"), make_row(sop_instance_uid="2.25.2")


def next_night(store: IndexStore, files: Mapping[FileStamp, Outcome], **how: bool) -> tuple[dict[str, int], int]:
    """Take in a made-up dump; return what became of the files, and how many had to be read."""
    unread = list(store.take_scan(sorted(files), **how))
    store.expect(len(unread))
    store.merge("0", pack(unread, (files[stamp] for stamp in unread)))
    return store.finish_scan([], never), len(unread)


def test_an_archive_is_not_counted_as_a_file_and_its_members_are(tmp_path: Path) -> None:
    archive = stamp_of(1, path=b"a.zip")
    with IndexStore(tmp_path / "index.db") as store:
        assert next_night(store, {archive: opened(archive, ONE, "not-dicom", OTHER)}) == (told(new=1), 1)
        assert store.counts() == {"files": 1, "opened": 1, "members": 3, "dicom": 2, "slow_path": 0, "rejects": 1}
        assert list(store.opened()) == [(b"a.zip", 3)]
        assert [(file.row.path, file.stored) for file in store.instances()] == [
            (b"a.zip!/0", "k1/0"),
            (b"a.zip!/2", "k1/2"),
        ]
        assert list(store.rejects()) == [Reject(path=b"a.zip!/1", reason="not-dicom")]
        assert sorted(store.stored_names()) == ["k1/0", "k1/2"]
        assert next_night(store, {archive: opened(archive)}) == (told(unchanged=1), 0)


def test_what_a_moved_archive_holds_moves_with_it(tmp_path: Path) -> None:
    archive = stamp_of(1, path=b"a.zip")
    moved = archive._replace(path=b"folder/b.zip")
    with IndexStore(tmp_path / "index.db") as store:
        next_night(store, {archive: opened(archive, ONE, "not-dicom", OTHER)})
        numbers = [file.file for file in store.instances()]
        assert next_night(store, {moved: opened(moved, ONE, "not-dicom", OTHER)}) == (told(moved=1), 1)
        assert [file.file for file in store.instances()] == numbers
        assert [file.row.path for file in store.instances()] == [b"folder/b.zip!/0", b"folder/b.zip!/2"]
        assert all(file.present for file in store.instances())
        assert list(store.rejects()) == [Reject(path=b"folder/b.zip!/1", reason="not-dicom")]
        assert list(store.opened()) == [(b"folder/b.zip", 3)]
        assert store.counts()["members"] == 3


@pytest.mark.parametrize("members", [(OTHER, ONE), (ONE,), (ONE, "not-dicom"), (ONE, OTHER, OTHER)])
def test_inode_that_was_given_to_another_archive(members: tuple[IndexRow | str, ...], tmp_path: Path) -> None:
    """Equal size and time as well, as tar files of one sender often have: what is in it tells."""
    archive = stamp_of(1, path=b"a.tar")
    other = archive._replace(path=b"b.tar")
    with IndexStore(tmp_path / "index.db") as store:
        next_night(store, {archive: opened(archive, ONE, OTHER)})
        assert next_night(store, {other: opened(other, *members)}) == (told(new=1, vanished=1), 1)
        there = [(file.row.path, file.row.sop_instance_uid) for file in store.instances() if file.present]
        assert there == [
            (b"b.tar!/%d" % number, member.sop_instance_uid)
            for number, member in enumerate(members)
            if isinstance(member, IndexRow)
        ]
        assert len([file for file in store.instances() if not file.present]) == 2


def test_what_a_vanished_archive_held_vanishes_and_comes_back_with_it(tmp_path: Path) -> None:
    archive, other = stamp_of(1, path=b"a.zip"), stamp_of(2)
    files: dict[FileStamp, Outcome] = {archive: opened(archive, ONE, "empty"), other: replace(OTHER, path=other.path)}
    with IndexStore(tmp_path / "index.db") as store:
        next_night(store, files)
        before = everything(store)
        assert next_night(store, {other: files[other]}) == (told(unchanged=1, vanished=1), 0)
        assert (store.counts()["members"], list(store.rejects()), list(store.stored_names())) == (0, [], [])
        assert next_night(store, files) == (told(unchanged=1, new=1), 0)
        assert everything(store) == before


@pytest.mark.parametrize("reason", ["archive-limit", "archive-nested"])
def test_other_limits_open_again_what_they_had_shut_out(reason: str, tmp_path: Path) -> None:
    """The archive that was refused as a whole, and the one in which something was; no other."""
    whole, part, sound, plain = (stamp_of(number) for number in range(4))
    files: dict[FileStamp, Outcome] = {
        whole: Reject(path=whole.path, reason=reason),
        part: opened(part, ONE, reason),
        sound: opened(sound, OTHER, "not-dicom"),
        plain: Reject(path=plain.path, reason="not-dicom"),
    }
    with IndexStore(tmp_path / "index.db") as store:
        next_night(store, files)
        assert next_night(store, files)[1] == 0
        files |= {whole: opened(whole, ONE), part: opened(part, ONE, OTHER)}
        assert next_night(store, files, limits_changed=True) == (told(unchanged=2, changed=2), 2)
        there = [file.row.path for file in store.instances() if file.present]
        assert there == [b"000!/0", b"001!/0", b"001!/1", b"002!/0"]
        assert store.reject_counts() == {"not-dicom": 2}
        assert next_night(store, files) == (told(unchanged=4), 0)


@pytest.mark.parametrize("reason", sorted(PASSING_REASONS))
def test_an_archive_that_could_not_be_read_to_its_end_is_opened_again(reason: str, tmp_path: Path) -> None:
    archive = stamp_of(1, path=b"a.zip")
    with IndexStore(tmp_path / "index.db") as store:
        for _ in range(2):
            assert next_night(store, {archive: opened(archive, ONE, reason)})[1] == 1
            assert list(store.rejects()) == [Reject(path=b"a.zip!/1", reason=reason)]
        assert next_night(store, {archive: opened(archive, ONE, OTHER)}) == (told(changed=1), 1)
        assert list(store.rejects()) == []
        assert [file.row.path for file in store.instances() if file.present] == [b"a.zip!/0", b"a.zip!/1"]
        assert next_night(store, {}) == (told(vanished=1), 0)


# --- what is counted


def test_census_counts_what_is_present(dump: Path, tmp_path: Path) -> None:
    with IndexStore(tmp_path / "index.db") as store:
        night(store, dump)
        census = {"patients": 2, "dicom_studies": 2, "series": 4, "instances": 12, "dicom_files": 12}
        assert store.census() == census
        duplicate, *_ = images(dump)
        (dump / "copy").write_bytes(duplicate.read_bytes())
        night(store, dump)
        assert store.census() == census | {"dicom_files": 13}
        for path in images(dump):
            if read_header(os.fsencode(dump), os.fsencode(path.name)).shared.patient_id == "SYNWORLD0001":
                path.unlink()
        night(store, dump)
        assert {name: store.census()[name] for name in ("patients", "dicom_studies", "series")} == {
            "patients": 1,
            "dicom_studies": 1,
            "series": 2,
        }


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


@pytest.mark.parametrize("version", [1, SCHEMA_VERSION + 1])
def test_another_version_is_refused_and_stays_as_it_is(version: int, tmp_path: Path) -> None:
    """The one of the release before, too: it is made anew, and the sorted tree is found as it stands."""
    path = tmp_path / "index.db"
    IndexStore(path).__exit__()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    before = path.read_bytes()
    with pytest.raises(DamagedRecordError, match=f"cannot be read: it has the format {version}, not {SCHEMA_VERSION}"):
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
    with IndexStore(path) as store:
        night(store, dump)
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
    with tiny_disk(tmp_path / "disk", kilobytes=300) as disk:
        done: set[FileStamp] = set()

        def fill() -> None:
            with IndexStore(disk / "index.db") as store:
                for begin in range(0, 4000, 20):
                    stamps = [stamp_of(number) for number in range(begin, begin + 20)]
                    rows = [make_row(stamp.path, patient_id=f"{stamp.inode}") for stamp in stamps]
                    store.merge(f"{begin}", pack(stamps, rows))
                    done.update(stamps)

        with pytest.raises(DiskFullError):
            fill()
        assert done
        # What a person does then: make room. The index has every chunk whose merge had returned.
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        with IndexStore(disk / "index.db") as store:
            assert done <= {file.stamp for file in store.instances()}


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


def orders_of(count: int) -> Iterator[list[int]]:
    yield list(range(count))
    yield list(reversed(range(count)))
    yield [*range(0, count, 2), *range(1, count, 2)]


def test_order_of_arrival_does_not_show(dump: Path, tmp_path: Path) -> None:
    """Nor whether the index was sorted at the end, as it is for a large dump."""
    stamps = list(scan_dump(os.fsencode(dump), tmp_path / "spool").stamps())
    outcomes = read(dump, stamps)
    found = []
    for number, order in enumerate(orders_of(len(stamps))):
        with IndexStore(tmp_path / f"{number}.db") as store:
            store.take_scan(stamps)
            store.expect(len(stamps) if number else 0)
            for place in order:
                store.merge(f"{place}", pack([stamps[place]], [outcomes[place]]))
            store.finish_scan([], never)
            found.append((without_numbers(store), *everything(store)[1:]))
    assert found[0] == found[1] == found[2]
