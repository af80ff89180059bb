"""Every name in a dump is listed once, as a file or with a reason, and nothing outside the dump is touched."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import DumpError
from tasks.index.row import REJECT_REASONS, Reject
from tasks.index.scan import scan_dump
from tests import strategies
from tests.builders.disks import deep_folder, make_socket, unprivileged


def test_every_kind_of_name(tmp_path: Path) -> None:
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

    seen = scan_dump(os.fsencode(dump))
    assert [(stamp.path, stamp.size) for stamp in seen.stamps] == [(b"a/b/file", 5), (b"hard link", 5), (b"none", 0)]
    assert seen.stamps[0].inode == seen.stamps[1].inode
    assert {reject.path: reject.reason for reject in seen.rejects} == {
        b"a/up": "symlink",
        b"away": "symlink",
        b"dangling": "symlink",
        b"file link": "symlink",
        b"loop": "symlink",
        b"pipe": "special-file",
        b"socket": "special-file",
    }


def test_stamps_say_what_the_file_system_says(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    os.utime(path, ns=(1, 1_600_000_000_123_456_789))
    (stamp,) = scan_dump(os.fsencode(tmp_path)).stamps
    status = path.stat()
    assert (stamp.size, stamp.mtime_ns) == (3, 1_600_000_000_123_456_789)
    assert (stamp.device, stamp.inode) == (status.st_dev, status.st_ino)


@given(st.lists(strategies.file_names(), max_size=6, unique=True))
def test_any_name_is_listed_as_it_is(tmp_path_factory: pytest.TempPathFactory, names: list[bytes]) -> None:
    """No UTF-8, 255 bytes, line breaks: names are bytes."""
    folder = os.fsencode(tmp_path_factory.mktemp("dump"))
    for name in names:
        os.close(os.open(folder + b"/" + name, os.O_CREAT | os.O_WRONLY))
    assert [stamp.path for stamp in scan_dump(folder).stamps] == sorted(names)


def test_locked_folder_is_reported_and_the_rest_is_listed() -> None:
    with unprivileged() as folder:
        (folder / "locked").mkdir()
        (folder / "locked" / "file").write_bytes(b"x")
        (folder / "open").write_bytes(b"x")
        (folder / "locked").chmod(0)
        seen = scan_dump(os.fsencode(folder))
        (folder / "locked").chmod(0o700)
        assert [stamp.path for stamp in seen.stamps] == [b"open"]
        assert seen.rejects == (Reject(path=b"locked", reason="folder-unreadable"),)


def test_folder_deeper_than_the_kernel_follows(tmp_path: Path) -> None:
    """A path has 4096 bytes at most; what lies deeper is reported, and the walk goes on."""
    (tmp_path / "file").write_bytes(b"x")
    with deep_folder(tmp_path, 4200) as bottom:
        (bottom / "lost").write_bytes(b"x")
        seen = scan_dump(os.fsencode(tmp_path))
    assert [stamp.path for stamp in seen.stamps] == [b"file"]
    (reject,) = seen.rejects
    assert reject.reason == "folder-unreadable"


def test_file_whose_path_is_too_long_is_unreadable(tmp_path: Path) -> None:
    with deep_folder(tmp_path, 4000) as bottom:
        (bottom / ("f" * 200)).write_bytes(b"x")
        seen = scan_dump(os.fsencode(tmp_path))
    assert seen.stamps == ()
    (reject,) = seen.rejects
    assert (reject.reason, reject.path[-200:]) == ("unreadable", b"f" * 200)


@pytest.mark.parametrize(("kind", "problem"), [("missing", "does not exist"), ("file", "is not a folder")])
def test_dump_that_cannot_be_opened(kind: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "dump"
    if kind == "file":
        path.write_bytes(b"")
    with pytest.raises(DumpError, match=problem):
        scan_dump(os.fsencode(path))


def test_locked_dump() -> None:
    with unprivileged() as folder:
        (folder / "dump").mkdir(mode=0)
        with pytest.raises(DumpError, match="cannot be read"):
            scan_dump(os.fsencode(folder / "dump"))


def test_digest_names_the_state_and_not_the_order(tmp_path: Path) -> None:
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
        digests.add(scan_dump(os.fsencode(folder)).digest)
    assert len(digests) == 1

    folder = tmp_path / "dump0"
    states = [scan_dump(os.fsencode(folder)).digest]

    def changed() -> bool:
        states.append(scan_dump(os.fsencode(folder)).digest)
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
    assert scan_dump(os.fsencode(folder)).digest == states[-1]


def test_every_reason_given_here_is_explained() -> None:
    assert {"symlink", "special-file", "folder-unreadable", "vanished", "unreadable"} <= set(REJECT_REASONS)
