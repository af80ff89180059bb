"""A workspace keeps what identifies people to its owner, and never lies in the dump."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tasks.errors import DamagedRecordError, DiskFullError, WorkspaceError
from tasks.workspace import open_workspace
from tests.builders.disks import tiny_disk, unprivileged


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_first_opening_makes_it_and_the_second_changes_nothing(tmp_path: Path) -> None:
    workspace = open_workspace(tmp_path / "deep" / "workspace")
    listed = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    again = open_workspace(tmp_path / "deep" / "workspace")
    assert again == workspace
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == listed
    assert len(workspace.key) == 8
    assert open_workspace(tmp_path / "other").key != workspace.key


def test_identified_is_for_its_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        workspace = open_workspace(tmp_path / "workspace")
    finally:
        os.umask(before)
    assert _mode(workspace.identified) == 0o700
    for path in workspace.identified.rglob("*"):
        assert _mode(path) == (0o700 if path.is_dir() else 0o600), path
    # Somebody opened it; the next run closes it again.
    workspace.identified.chmod(0o755)
    open_workspace(tmp_path / "workspace")
    assert _mode(workspace.identified) == 0o700


def test_everything_that_identifies_lies_in_identified(tmp_path: Path) -> None:
    workspace = open_workspace(tmp_path / "workspace")
    places = {name: getattr(workspace, name) for name in dir(type(workspace)) if not name.startswith("_")}
    released = {
        name for name, place in places.items() if isinstance(place, Path) and workspace.released in place.parents
    }
    assert released == {"export", "nifti", "review"}
    for name, place in places.items():
        if isinstance(place, Path) and name not in released | {"root", "identified", "released"}:
            assert workspace.identified in place.parents, name


@pytest.mark.parametrize("mode", [0o700, 0o2770])
def test_folder_of_the_user_keeps_its_mode(mode: int, tmp_path: Path) -> None:
    root = tmp_path / "workspace"
    root.mkdir()
    root.chmod(mode)
    workspace = open_workspace(root)
    assert _mode(root) == mode
    assert _mode(workspace.identified) == 0o700


@pytest.mark.parametrize("case", ["same", "inside", "around", "linked"])
def test_dump_and_workspace_lie_apart(case: str, tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    dump.mkdir()
    (tmp_path / "alias").symlink_to(dump)
    root = {"same": dump, "inside": dump / "a" / "w", "around": tmp_path, "linked": tmp_path / "alias" / "w"}[case]
    with pytest.raises(WorkspaceError, match="inside one another"):
        open_workspace(root, dump=dump)
    assert list(dump.iterdir()) == []


def test_names_that_only_begin_alike_lie_apart(tmp_path: Path) -> None:
    (tmp_path / "dump").mkdir()
    open_workspace(tmp_path / "dump2", dump=tmp_path / "dump")


def test_folder_that_may_not_be_written() -> None:
    with unprivileged() as folder:
        folder.chmod(0o500)
        with pytest.raises(WorkspaceError, match="permission denied"):
            open_workspace(folder / "workspace")
        folder.chmod(0o700)
        open_workspace(folder / "workspace")
        (folder / "workspace" / "released").rmdir()
        (folder / "workspace").chmod(0o500)
        with pytest.raises(WorkspaceError, match="permission denied"):
            open_workspace(folder / "workspace")
        (folder / "workspace").chmod(0o700)


def test_file_in_the_place_of_a_workspace(tmp_path: Path) -> None:
    (tmp_path / "workspace").write_bytes(b"theirs")
    with pytest.raises(WorkspaceError):
        open_workspace(tmp_path / "workspace")
    assert (tmp_path / "workspace").read_bytes() == b"theirs"


def test_full_disk(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk") as disk:
        with pytest.raises(OSError, match="No space"):
            (disk / "filler").write_bytes(b"\0" * 100_000)
        with pytest.raises(DiskFullError):
            open_workspace(disk / "workspace")


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 8, b"0123456g", b"0123456789"])
def test_damaged_key_is_named(content: bytes, tmp_path: Path) -> None:
    workspace = open_workspace(tmp_path / "workspace")
    (workspace.identified / "workspace-key").write_bytes(content)
    with pytest.raises(DamagedRecordError, match="hexadecimal"):
        open_workspace(tmp_path / "workspace")
