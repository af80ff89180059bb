"""Every name in a dump is listed once, as a file or with a reason, and nothing outside the dump is touched."""

from __future__ import annotations

import errno
import os
import random
import stat
import subprocess
import tracemalloc
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.errors import DiskFullError, DumpError, WorkspaceError
from tasks.index.row import PASSING_REASONS, REJECT_REASONS, STAMP_RECORD, FileStamp, Reject, unpack_stamps
from tasks.index.scan import Inventory, Quiet, Spool, scan_dump
from tests import strategies
from tests.builders.disks import deep_folder, make_socket, tiny_disk, unprivileged

NOW = 1_700_000_000_000_000_000
SECOND = 1_000_000_000


@pytest.fixture
def spool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("identified") / "spool"


def stamps_of(dump: Path, spool: Path, **how: Quiet) -> list[FileStamp]:
    return list(scan_dump(os.fsencode(dump), spool, **how).stamps())


def test_every_kind_of_name(tmp_path: Path, spool: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"x")
    dump = tmp_path / "dump"
    (dump / "a" / "b").mkdir(parents=True)
    (dump / "empty").mkdir()
    (dump / "a" / "b" / "file").write_bytes(b"12345")
    (dump / "none").write_bytes(b"")
    (dump / "a" / "up").symlink_to("..")
    (dump / "loop").symlink_to("loop")
    (dump / "away").symlink_to(outside)
    (dump / "dangling").symlink_to("nowhere")
    (dump / "file link").symlink_to("a/b/file")
    os.link(dump / "a" / "b" / "file", dump / "hard link")
    os.mkfifo(dump / "pipe")
    make_socket(dump / "socket")

    seen = scan_dump(os.fsencode(dump), spool)
    stamps = sorted(seen.stamps())
    assert [(stamp.path, stamp.size) for stamp in stamps] == [(b"a/b/file", 5), (b"hard link", 5), (b"none", 0)]
    assert stamps[0].inode == stamps[1].inode
    assert seen.files == 3
    assert [(reject.path, reject.reason) for reject in seen.refused] == [
        (b"a/up", "symlink"),
        (b"away", "symlink"),
        (b"dangling", "symlink"),
        (b"file link", "symlink"),
        (b"loop", "symlink"),
        (b"pipe", "special-file"),
        (b"socket", "special-file"),
    ]


@pytest.mark.parametrize("moment", [1_600_000_000_123_456_789, -1, -(2**40)])
def test_stamps_say_what_the_file_system_says(moment: int, tmp_path: Path, spool: Path) -> None:
    """Also of files that claim to be older than 1970."""
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    os.utime(path, ns=(1, moment))
    (stamp,) = stamps_of(tmp_path, spool)
    status = path.stat()
    assert status.st_mtime_ns == moment
    assert stamp == FileStamp(path=b"file", size=3, mtime_ns=moment, device=0, inode=status.st_ino)


@given(st.lists(strategies.file_names(), max_size=6, unique=True))
@example([b"a:b", b"1:2:3:4", b"\n", b" ", b"\xff", b"f" * 255])
def test_any_name_is_listed_as_it_is(tmp_path_factory: pytest.TempPathFactory, names: list[bytes]) -> None:
    """No UTF-8, 255 bytes, line breaks, what stands between the words of the spool: names are bytes."""
    folder = os.fsencode(tmp_path_factory.mktemp("dump"))
    for name in names:
        os.close(os.open(folder + b"/" + name, os.O_CREAT | os.O_WRONLY))
    seen = scan_dump(folder, tmp_path_factory.getbasetemp() / "spool")
    assert sorted(stamp.path for stamp in seen.stamps()) == sorted(names)
    assert seen.files == len(names)


@given(st.lists(strategies.stamps(), max_size=8), st.data())
def test_a_list_comes_back_wherever_it_is_cut(stamps: list[FileStamp], data: st.DataObject) -> None:
    """A spool is read in blocks, whose ends fall anywhere."""
    records = b"".join(STAMP_RECORD % stamp for stamp in stamps)
    cut = data.draw(st.integers(0, len(records)))
    first, rest = unpack_stamps(records[:cut])
    second, left = unpack_stamps(rest + records[cut:])
    assert first + second == stamps
    assert left == b""


def write_spool(path: Path, count: int) -> Inventory:
    """Write the spool of a made-up dump."""
    spool = Spool(path)
    with os.fdopen(spool.descriptor, "wb", closefd=False) as stream:
        for number in range(count):
            stream.write(STAMP_RECORD % (b"%0150d" % number, number, NOW + number, 1, number))
    return Inventory(digest="", files=count, refused=(), spool=spool)


def test_a_long_spool_is_read_as_a_stream(spool: Path) -> None:
    """Three times as many files take no more memory; and none is lost where one block ends and the next begins."""
    peaks = []
    for count in (12_000, 36_000):
        seen = write_spool(spool, count)
        assert os.fstat(seen.spool.descriptor).st_size > 2 << 20
        tracemalloc.start()
        try:
            assert all(stamp.inode == number for number, stamp in enumerate(seen.stamps()))
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert sum(1 for _ in seen.stamps()) == count
    assert peaks[1] < 1.5 * peaks[0]


def test_a_large_folder_costs_little_more_than_its_names(tmp_path: Path, spool: Path) -> None:
    """What the file system says of a file takes about a thousand bytes as Python holds it, and one list of it 200."""
    (tmp_path / "0").touch()
    for number in range(1, 8000):
        os.link(tmp_path / "0", tmp_path / f"{number}")
    tracemalloc.start()
    try:
        seen = scan_dump(os.fsencode(tmp_path), spool)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seen.files == 8000
    assert peak < 400 * seen.files


def test_locked_folder_is_reported_and_the_rest_is_listed() -> None:
    with unprivileged() as folder:
        dump = folder / "dump"
        (dump / "locked").mkdir(parents=True)
        (dump / "locked" / "file").write_bytes(b"x")
        (dump / "open").write_bytes(b"x")
        (dump / "locked").chmod(0)
        seen = scan_dump(os.fsencode(dump), folder / "spool")
        (dump / "locked").chmod(0o700)
        assert [stamp.path for stamp in seen.stamps()] == [b"open"]
        assert seen.refused == (Reject(path=b"locked", reason="folder-unreadable"),)


def test_folder_deeper_than_the_kernel_follows(tmp_path: Path, spool: Path) -> None:
    """A path has 4096 bytes at most; what lies deeper is reported, and the walk goes on."""
    (tmp_path / "file").write_bytes(b"x")
    with deep_folder(tmp_path, 4200) as bottom:
        (bottom / "lost").write_bytes(b"x")
        seen = scan_dump(os.fsencode(tmp_path), spool)
    assert [stamp.path for stamp in seen.stamps()] == [b"file"]
    (reject,) = seen.refused
    assert reject.reason == "folder-unreadable"


def test_file_whose_path_is_too_long_is_unreadable(tmp_path: Path, spool: Path) -> None:
    with deep_folder(tmp_path, 4000) as bottom:
        (bottom / ("f" * 200)).write_bytes(b"x")
        seen = scan_dump(os.fsencode(tmp_path), spool)
    assert list(seen.stamps()) == []
    (reject,) = seen.refused
    assert (reject.reason, reject.path[-200:]) == ("unreadable", b"f" * 200)


@pytest.mark.parametrize(("kind", "problem"), [("missing", "does not exist"), ("file", "is not a folder")])
def test_dump_that_cannot_be_opened(kind: str, problem: str, tmp_path: Path, spool: Path) -> None:
    path = tmp_path / "dump"
    if kind == "file":
        path.write_bytes(b"")
    with pytest.raises(DumpError, match=problem):
        scan_dump(os.fsencode(path), spool)


def test_locked_dump() -> None:
    with unprivileged() as folder:
        (folder / "dump").mkdir(mode=0)
        with pytest.raises(DumpError, match="cannot be read"):
            scan_dump(os.fsencode(folder / "dump"), folder / "spool")


class Listing(AbstractContextManager["Listing"]):
    """What `os.scandir` gives, in another order; or broken off, as a disk or a file server does it."""

    def __init__(self, path: bytes, *, chance: random.Random | None = None, breaks_in: bytes = b"none") -> None:
        with SCANDIR(path) as entries:
            self._entries = list(entries)
        if chance:
            chance.shuffle(self._entries)
        self._breaks = path.endswith(breaks_in)

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[os.DirEntry[bytes]]:
        for number, entry in enumerate(self._entries):
            if self._breaks and number == 1:
                raise OSError(errno.EIO, "the disk is going")
            yield entry


SCANDIR = os.scandir


def test_folder_whose_listing_breaks_off_is_reported_and_the_rest_is_listed(
    tmp_path: Path, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("bad/1", "bad/2", "bad/3", "good/1", "good/2"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setattr(os, "scandir", lambda path: Listing(path, breaks_in=b"bad"))
    seen = scan_dump(os.fsencode(tmp_path), spool)
    assert seen.refused == (Reject(path=b"bad", reason="folder-unreadable"),)
    assert [stamp.path for stamp in seen.stamps() if stamp.path.startswith(b"good")] == [b"good/1", b"good/2"]
    assert seen.files == 3, "with the one that was seen before"
    monkeypatch.setattr(os, "scandir", lambda path: Listing(path, breaks_in=os.fsencode(tmp_path)))
    with pytest.raises(DumpError, match="cannot be read"):
        scan_dump(os.fsencode(tmp_path), spool)


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_the_file_system_does_not_show(
    seed: int, tmp_path: Path, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("b/c/1", "b/c/2", "b/1", "b.c/1", "b", "a/9", "a!/9", "10", "9", "B", "é", "z"):
        if not (tmp_path / name).is_dir():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        (tmp_path / f"{name} link").symlink_to("nowhere")
    usual = scan_dump(os.fsencode(tmp_path), spool)
    before = list(usual.stamps())
    assert len(before) == len(set(before)) == 11
    chance = random.Random(seed)
    monkeypatch.setattr(os, "scandir", lambda path: Listing(path, chance=chance))
    other = scan_dump(os.fsencode(tmp_path), spool)
    assert list(other.stamps()) == before
    assert other == usual


def test_digest_names_the_state_and_not_the_order(tmp_path: Path, spool: Path) -> None:
    """Whatever order a file system lists names in, and only if nothing changed."""
    names = [f"{number:03d}" for number in range(60)]
    digests = set()
    for seed in range(2):
        folder = tmp_path / f"dump{seed}"
        folder.mkdir()
        random.Random(seed).shuffle(names)
        for name in names:
            (folder / name).touch()
            # Links to one set of files: the stamps are the same in both folders.
            if seed:
                (folder / name).unlink()
                os.link(tmp_path / "dump0" / name, folder / name)
        digests.add(scan_dump(os.fsencode(folder), spool).digest)
    assert len(digests) == 1

    folder = tmp_path / "dump0"
    states = [scan_dump(os.fsencode(folder), spool).digest]

    def changed() -> bool:
        states.append(scan_dump(os.fsencode(folder), spool).digest)
        return states[-1] not in states[:-1]

    os.utime(folder / "001", ns=(1, 1))
    assert changed()
    (folder / "001").rename(folder / "new name")
    assert changed()
    (folder / "002").write_bytes(b"longer")
    assert changed()
    (folder / "003").unlink()
    assert changed()
    (folder / "link").symlink_to("004")
    assert changed()
    assert scan_dump(os.fsencode(folder), spool).digest == states[-1]


# --- files that may still be being written

QUIET = Quiet(begin_ns=NOW - 60 * SECOND, end_ns=NOW + 60 * SECOND)


@pytest.mark.parametrize(
    ("age_ns", "arriving"),
    [
        (3600 * SECOND, False),
        (60 * SECOND + 1, False),
        (60 * SECOND, True),
        (1, True),
        (0, True),
        # A file server's clock may be ahead of ours ...
        (-30 * SECOND, True),
        # ... but what claims to come from next year will not be quiet for a year, and is taken.
        (-86_400 * 365 * SECOND, False),
    ],
)
def test_what_changed_within_the_quiet_period_waits(age_ns: int, arriving: bool, tmp_path: Path, spool: Path) -> None:
    path = tmp_path / "a" / "file"
    path.parent.mkdir()
    path.write_bytes(b"x")
    os.utime(path, ns=(NOW, NOW - age_ns))
    seen = scan_dump(os.fsencode(tmp_path), spool, quiet=QUIET)
    assert [stamp.path for stamp in seen.stamps()] == ([] if arriving else [b"a/file"])
    assert list(seen.refused) == ([Reject(path=b"a/file", reason="still-arriving")] if arriving else [])
    assert seen.files == (0 if arriving else 1)
    assert [stamp.path for stamp in stamps_of(tmp_path, spool)] == [b"a/file"], "without a quiet period it is taken"


def test_digest_changes_when_a_file_becomes_quiet(tmp_path: Path, spool: Path) -> None:
    """Or a nightly run would believe that there was nothing new."""
    for name, age in (("old", 3600), ("young", 30)):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, ns=(NOW, NOW - age * SECOND))
    arriving = scan_dump(os.fsencode(tmp_path), spool, quiet=QUIET)
    assert [reject.path for reject in arriving.refused] == [b"young"]
    later = Quiet(begin_ns=QUIET.begin_ns + 3600 * SECOND, end_ns=QUIET.end_ns + 3600 * SECOND)
    quiet = scan_dump(os.fsencode(tmp_path), spool, quiet=later)
    assert quiet.refused == ()
    assert quiet.digest != arriving.digest
    assert quiet.digest == scan_dump(os.fsencode(tmp_path), spool).digest, "how long to wait is no state of the dump"


# --- the spool


def test_the_spool_is_for_its_owner_only_and_has_no_name(tmp_path: Path, spool: Path) -> None:
    for number in range(50):
        (tmp_path / f"{number}").touch()
    before = os.umask(0)
    try:
        seen = scan_dump(os.fsencode(tmp_path), spool)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.fstat(seen.spool.descriptor).st_mode) == 0o600
    assert os.listdir(spool.parent) == []
    for number in range(1, 50):
        (tmp_path / f"{number}").unlink()
    assert [stamp.path for stamp in stamps_of(tmp_path, spool)] == [b"0"]
    assert sum(1 for _ in seen.stamps()) == 50, "what was seen stays as it was seen"
    descriptor = seen.spool.descriptor
    del seen
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_devices_are_numbered_by_where_they_are_mounted(tmp_path: Path, spool: Path) -> None:
    """The kernel's numbers of file systems differ from host to host; a dump must not look like another one for that."""
    dump = tmp_path / "dump"
    (dump / "b").mkdir(parents=True)
    (dump / "a").write_bytes(b"a")
    seen = []
    for disk in ("one", "other"):
        with tiny_disk(tmp_path / disk, kilobytes=64) as mount:
            (mount / "c").write_bytes(b"c")
            os.utime(mount / "c", ns=(NOW, NOW))
            subprocess.run(["mount", "--bind", mount, dump / "b"], check=True)
            try:
                seen.append(stamps_of(dump, spool))
            finally:
                subprocess.run(["umount", dump / "b"], check=True)
    (first, second), (_, other) = seen
    assert first.device == 0
    assert second.device > 0
    assert second.device == other.device


def test_a_spool_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"{number:0200d}").touch()
    with tiny_disk(tmp_path / "disk", kilobytes=16) as disk, pytest.raises(DiskFullError) as full:
        scan_dump(os.fsencode(tmp_path), disk / "spool")
    assert "0000" not in str(full.value)
    with unprivileged() as folder:
        (folder / "dump").mkdir()
        (folder / "locked").mkdir(mode=0o500)
        with pytest.raises(WorkspaceError, match="permission denied"):
            scan_dump(os.fsencode(folder / "dump"), folder / "locked" / "spool")


def test_every_reason_given_here_is_explained() -> None:
    given_here = {"symlink", "special-file", "folder-unreadable", "vanished", "unreadable", "still-arriving"}
    assert given_here <= set(REJECT_REASONS)
    assert set(REJECT_REASONS) >= PASSING_REASONS
