"""A file is the old one or the new one, whatever happens in between; each refusal of the file system has its fault."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import DiskFullError, WorkspaceError
from tasks.files import (
    TEMPORARY_PREFIX,
    file_digest,
    held,
    make_folder,
    refusals_named,
    same_content,
    sweep_temporaries,
    temporary_name,
    temporary_sibling,
    this_machine,
    write_atomically,
    write_json,
    written_atomically,
)
from tests import strategies
from tests.builders.disks import tiny_disk, unprivileged
from tests.conftest import REPOSITORY


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_writing_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old", mode=0o600)
    write_atomically(path, b"new", mode=0o600)
    assert path.read_bytes() == b"new"
    assert _mode(path) == 0o600
    assert os.listdir(tmp_path) == ["file"]


def test_failure_leaves_the_old_content(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk") as disk:
        path = disk / "file"
        write_atomically(path, b"old" * 1000)
        with pytest.raises(DiskFullError):
            write_atomically(path, b"new" * 100_000)
        assert path.read_bytes() == b"old" * 1000
        assert os.listdir(disk) == ["file"]


def test_forbidden_folder_leaves_the_old_content() -> None:
    with unprivileged() as folder:
        path = folder / "locked" / "file"
        path.parent.mkdir()
        write_atomically(path, b"old")
        path.parent.chmod(0o500)
        with pytest.raises(WorkspaceError, match="permission denied"):
            write_atomically(path, b"new")
        path.parent.chmod(0o700)
        assert path.read_bytes() == b"old"
        assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("obstacle", ["a file for a folder", "a folder for a file"])
def test_obstacles_are_not_overwritten(obstacle: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"theirs")
    (tmp_path / "folder").mkdir()
    path = tmp_path / "file" / "ours" if obstacle == "a file for a folder" else tmp_path / "folder"
    with pytest.raises((WorkspaceError, IsADirectoryError)):
        write_atomically(path, b"ours")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
    assert (tmp_path / "file").read_bytes() == b"theirs"


def test_what_is_written_piece_by_piece_is_seen_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with written_atomically(path, mode=0o600) as stream:
        stream.write(b"n")
        stream.flush()
        assert path.read_bytes() == b"old"
        stream.write(b"ew")
    assert path.read_bytes() == b"new"
    assert _mode(path) == 0o600
    with pytest.raises(ZeroDivisionError), written_atomically(path) as stream:  # noqa: PT012 - both must be within
        stream.write(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_disk_that_fills_up_while_it_is_written_leaves_the_old_content(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk") as disk:
        path = disk / "file"
        write_atomically(path, b"old")
        with pytest.raises(DiskFullError), written_atomically(path) as stream:  # noqa: PT012 - which write it is, none knows
            for _ in range(100):
                stream.write(bytes(1 << 12))
        assert path.read_bytes() == b"old"
        assert os.listdir(disk) == ["file"]


KILLED = """
import os, signal, sys
from pathlib import Path
from tasks import files

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

setattr(os, sys.argv[2], die)
files.write_atomically(Path(sys.argv[1]), b"new" * 50_000)
"""


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_killed_while_writing_leaves_the_old_content(moment: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), moment], cwd=REPOSITORY, check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert len(os.listdir(tmp_path)) == 2
    assert sweep_temporaries(tmp_path) == 1
    assert os.listdir(tmp_path) == ["file"]


def test_sweep_looks_no_deeper_than_it_is_told(tmp_path: Path) -> None:
    """What lies below may be a tree of a million files that another sweep looks after."""
    (tmp_path / "below").mkdir()
    for folder in (tmp_path, tmp_path / "below"):
        (folder / temporary_name("x", process=os.getpid())).touch()
    assert sweep_temporaries(tmp_path, deep=False) == 1
    assert os.listdir(tmp_path) == ["below"]
    assert len(os.listdir(tmp_path / "below")) == 1
    assert sweep_temporaries(tmp_path) == 1


def test_what_other_hosts_left_is_swept_only_where_none_can_be_at_work(tmp_path: Path) -> None:
    """A process number says nothing of another host: the same number may be at work there."""
    theirs = temporary_name("x", process=1).replace(this_machine(), "0" * 8)
    for name in (theirs, f"{TEMPORARY_PREFIX}1-x"):
        (tmp_path / name).touch()
    assert sweep_temporaries(tmp_path, foreign=False) == 0
    assert sweep_temporaries(tmp_path) == 2
    assert os.listdir(tmp_path) == []


def test_what_this_process_holds_is_not_swept_by_it(tmp_path: Path) -> None:
    beside = temporary_sibling(tmp_path / "x")
    beside.touch()
    with held(beside):
        assert sweep_temporaries(tmp_path) == 0
    assert sweep_temporaries(tmp_path) == 1


def test_written_once_whoever_tries(tmp_path: Path) -> None:
    """Many processes at the same moment: one writes, and what it wrote is what all of them read."""
    code = "import os, sys; from pathlib import Path; from tasks.files import write_once; sys.stdin.read(1)\n"
    code += "print(write_once(Path(sys.argv[1]), b'%d' % os.getpid(), mode=0o600))"
    command = [sys.executable, "-c", code, str(tmp_path / "file")]
    tried = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
        for _ in range(8)
    ]
    said = {one.pid: one.communicate("x", timeout=60)[0].strip() for one in tried}
    (winner,) = [process for process, answer in said.items() if answer == "True"]
    assert (tmp_path / "file").read_text("ascii") == str(winner)
    assert list(said.values()).count("False") == len(tried) - 1
    assert os.listdir(tmp_path) == ["file"]


def test_sweep_spares_what_lives_and_what_is_not_ours(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    gone = int(subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True, check=True).stdout)
    living = subprocess.Popen(["sleep", "600"])
    try:
        swept = [
            temporary_name("x", process=gone),
            temporary_name("x", process=os.getpid()),
            f"{TEMPORARY_PREFIX}x-y",
        ]
        spared = [temporary_name("x", process=living.pid), temporary_name("init", process=1), "file", ".hidden"]
        for name in swept + spared:
            (deep / name).touch()
        assert sweep_temporaries(tmp_path) == 3
        assert sorted(os.listdir(deep)) == sorted(spared)
        for name in (swept[0], spared[0]):
            folder = tmp_path / name
            folder.mkdir()
            (folder / "link").symlink_to(deep)
            (folder / temporary_name("inside", process=gone)).touch()
        assert sweep_temporaries(tmp_path) == 1, "a folder goes as a whole, and nobody looks into one in use"
        assert sorted(os.listdir(tmp_path)) == sorted(["a", spared[0]])
        assert len(os.listdir(tmp_path / spared[0])) == 2
        assert len(os.listdir(deep)) == len(spared), "what a link led to is still there"
    finally:
        living.kill()
        living.wait()


@given(strategies.file_names())
def test_unfinished_form_of_any_name_can_be_written(tmp_path_factory: pytest.TempPathFactory, name: bytes) -> None:
    folder = tmp_path_factory.getbasetemp() / "names"
    folder.mkdir(exist_ok=True)
    path = folder / os.fsdecode(name)
    beside = temporary_sibling(path)
    assert beside.parent == folder
    assert len(os.fsencode(beside.name)) <= 255
    write_atomically(path, b"x")
    assert os.listdir(os.fsencode(folder)) == [name]
    path.unlink()


def test_json_of_equal_content_is_equal_bytes(tmp_path: Path) -> None:
    write_json(tmp_path / "one", {"b": 1, "a": "山"})
    write_json(tmp_path / "other", {"a": "山", "b": 1})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    assert "山" in (tmp_path / "one").read_text("utf-8")


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_same_content_and_digest_compare_bytes(
    tmp_path_factory: pytest.TempPathFactory, left: bytes, right: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp()
    one, other = folder / "one", folder / "other"
    one.write_bytes(left)
    other.write_bytes(right)
    assert same_content(one, other) == (left == right)
    assert same_content(os.fsencode(one), os.fsencode(other)) == (left == right)
    assert file_digest(one) == file_digest(os.fsencode(one)) == hashlib.sha256(left).hexdigest()


def test_same_content_sees_the_last_bit_of_a_large_file(tmp_path: Path) -> None:
    content = bytearray(os.urandom(3 << 20))
    (tmp_path / "one").write_bytes(content)
    content[-1] ^= 1
    (tmp_path / "other").write_bytes(content)
    assert not same_content(tmp_path / "one", tmp_path / "other")


def test_folder_gets_the_mode_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "private"
    make_folder(folder, mode=0o700)
    assert _mode(folder) == 0o700
    folder.chmod(0o777)
    make_folder(folder, mode=0o700)
    assert _mode(folder) == 0o700


@pytest.mark.parametrize("mode", [0o700, 0o2775, 0o750])
def test_folder_of_the_user_keeps_its_mode(mode: int, tmp_path: Path) -> None:
    """Somebody may have closed it to the others, or opened it to the group, on purpose."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    folder.chmod(mode)
    make_folder(folder)
    assert _mode(folder) == mode


@pytest.mark.parametrize(
    ("number", "fault"),
    [
        (errno.ENOSPC, DiskFullError),
        (errno.EDQUOT, DiskFullError),
        (errno.EROFS, WorkspaceError),
        (errno.EACCES, WorkspaceError),
        (errno.EIO, OSError),
    ],
)
def test_refusals_have_their_fault(number: int, fault: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(fault) as caught, refusals_named(tmp_path):
        raise OSError(number, "SYNCANARY", "SYNCANARY")
    assert fault is OSError or "SYNCANARY" not in str(caught.value)


def test_what_a_dead_process_left_is_swept_although_nobody_collected_it(tmp_path: Path) -> None:
    """In a container the first process often collects nobody, and a killed worker keeps its number for ever."""
    child = subprocess.Popen(["true"])
    deadline = time.monotonic() + 30
    while b") Z" not in Path(f"/proc/{child.pid}/stat").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    left = tmp_path / temporary_name("half", process=child.pid)
    left.touch()
    try:
        assert sweep_temporaries(tmp_path) == 1
        assert not left.exists()
    finally:
        child.wait()
