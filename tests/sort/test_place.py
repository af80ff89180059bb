"""Files are placed by the cheapest way there is, nothing is overwritten, and a fault quotes no name of the tree."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.errors import CollisionError, DiskFullError, WorkspaceError
from tasks.files import TEMPORARY_PREFIX, sweep_temporaries
from tasks.sort.place import Order, Placer, place_all, take_away
from tests.builders.disks import other_device, tiny_disk, unprivileged
from tests.conftest import REPOSITORY

CANARY = "SYNCANARY"
"""Stands in every name below the tree, where patients' names would."""


def _orders(source: Path, tree: Path, count: int, *, size: int = 10) -> list[Order]:
    source.mkdir(exist_ok=True)
    tree.mkdir(exist_ok=True)
    orders = []
    for number in range(count):
        path = source / f"{number:04d}"
        path.write_bytes(f"{number:04d}".encode() * size)
        orders.append(Order(source=path, target=tree / f"{CANARY}_{number % 3}" / "2001-01-01" / f"{number}.dcm"))
    return orders


def _place(orders: list[Order], tree: Path) -> tuple[dict[Path, str], list[Path], int]:
    advanced: list[int] = []
    ways, vanished = place_all(orders, tree, advance=advanced.append)
    return ways, vanished, sum(advanced)


def _names(tree: Path) -> list[str]:
    return sorted(path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file())


def test_files_are_placed_and_a_second_time_are_there(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    orders = _orders(tmp_path / "dump", tree, 10)
    ways, vanished, advanced = _place(orders, tree)
    assert set(ways) == {order.target for order in orders}
    assert set(ways.values()) <= {"reflink", "link", "copy"}
    assert (vanished, advanced) == ([], 10)
    for order in orders:
        assert order.target.read_bytes() == order.source.read_bytes()
    listed = _names(tree)
    ways, vanished, advanced = _place(orders, tree)
    assert set(ways.values()) == {"there"}
    assert _names(tree) == listed


def test_one_device_shares_the_bytes(tmp_path: Path) -> None:
    """By reflink where the file system knows it, else by hard link: never by a copy."""
    tree = tmp_path / "tree"
    (order,) = _orders(tmp_path / "dump", tree, 1)
    ways, _, _ = _place([order], tree)
    way = ways[order.target]
    assert way in ("reflink", "link")
    assert (order.source.stat().st_ino == order.target.stat().st_ino) == (way == "link")


def test_other_device_is_copied_to(tmp_path: Path) -> None:
    with other_device(tmp_path) as elsewhere:
        tree = elsewhere / "tree"
        orders = _orders(tmp_path / "dump", tree, 5, size=300_000)
        os.utime(orders[0].source, ns=(1, 1_234_567_890_000_000_000))
        ways, _, _ = _place(orders, tree)
        assert set(ways.values()) == {"copy"}
        for order in orders:
            assert order.target.read_bytes() == order.source.read_bytes()
            assert order.target.stat().st_mtime_ns == order.source.stat().st_mtime_ns
        assert not [name for name in _names(tree) if TEMPORARY_PREFIX in name]
        assert set(_place(orders, tree)[0].values()) == {"there"}


def _exhaust_links(path: Path, folder: Path) -> bool:
    """Link a file until the file system refuses; tell whether it did."""
    for number in range(66_000):
        try:
            os.link(path, folder / str(number))
        except OSError as refusal:
            if refusal.errno != errno.EMLINK:
                raise
            return True
    return False


def test_one_file_that_cannot_be_linked_does_not_make_the_rest_copies(tmp_path: Path) -> None:
    """A file may have no more links than its file system allows (65,000 on ext4)."""
    tree = tmp_path / "tree"
    orders = _orders(tmp_path / "dump", tree, 3)
    (tmp_path / "links").mkdir()
    if not _exhaust_links(orders[1].source, tmp_path / "links"):
        pytest.skip("this file system allows more links than the test can make")
    ways, _, _ = _place(orders, tree)
    first, middle, last = (ways[order.target] for order in orders)
    assert first == last != "copy"
    assert middle == ("copy" if first == "link" else first)


def _taken(target: Path) -> Iterator[str]:
    """Take a place in every way there is."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(b"theirs")
    yield "a file"
    target.unlink()
    target.mkdir()
    yield "a folder"
    target.rmdir()
    target.symlink_to("nowhere")
    yield "a dangling link"
    target.unlink()
    target.symlink_to(__file__)
    yield "a link"
    target.unlink()
    os.mkfifo(target)
    yield "a pipe"
    target.unlink()


@pytest.mark.parametrize("device", ["same", "other"])
def test_taken_place_is_left_alone_and_counted(device: str, tmp_path: Path) -> None:
    with other_device(tmp_path) if device == "other" else contextlib.nullcontext(tmp_path) as base:
        tree = base / "tree"
        orders = _orders(tmp_path / "dump", tree, 6)
        for kind in _taken(orders[2].target):
            before = os.lstat(orders[2].target)
            with pytest.raises(CollisionError) as caught:
                _place(orders, tree)
            assert caught.value.facts == {"count": 1, "path": tree}, kind
            assert CANARY not in str(caught.value)
            after = os.lstat(orders[2].target)
            assert (after.st_ino, after.st_size, after.st_mtime_ns) == (
                before.st_ino,
                before.st_size,
                before.st_mtime_ns,
            )
            # The others got their places all the same.
            assert all(order.target.is_file() for order in orders if order is not orders[2])


def test_all_collisions_are_counted(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    orders = _orders(tmp_path / "dump", tree, 9)
    for order in orders[::3]:
        order.target.parent.mkdir(parents=True, exist_ok=True)
        order.target.write_bytes(b"theirs")
    with pytest.raises(CollisionError, match=r"^3 places in"):
        _place(orders, tree)
    assert [order.target.read_bytes() for order in orders[::3]] == [b"theirs"] * 3


def test_equal_content_in_a_place_is_no_collision(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (order,) = _orders(tmp_path / "dump", tree, 1)
    order.target.parent.mkdir(parents=True)
    order.target.write_bytes(order.source.read_bytes())
    assert _place([order], tree)[0] == {order.target: "there"}


def test_vanished_sources_are_reported(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    orders = _orders(tmp_path / "dump", tree, 6)
    orders[1].source.unlink()
    # What became a link or a folder since the scan is not followed.
    orders[3].source.unlink()
    orders[3].source.symlink_to(orders[0].source)
    orders[4].source.unlink()
    orders[4].source.mkdir()
    ways, vanished, advanced = _place(orders, tree)
    assert vanished == [orders[1].target, orders[3].target, orders[4].target]
    assert set(ways) == {orders[0].target, orders[2].target, orders[5].target}
    assert advanced == 6
    assert len(_names(tree)) == 3


def test_full_disk_is_named_and_leaves_nothing_half(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", kilobytes=256) as disk:
        tree = disk / "tree"
        orders = _orders(tmp_path / "dump", tree, 30, size=5_000)
        with pytest.raises(DiskFullError) as caught:
            _place(orders, tree)
        assert CANARY not in str(caught.value)
        placed = [order for order in orders if order.target.exists()]
        assert 0 < len(placed) < 30
        assert len(_names(tree)) == len(placed)
        assert all(order.target.read_bytes() == order.source.read_bytes() for order in placed)
        # With room made, the same orders go on where they stopped.
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        ways, _, _ = _place(orders, tree)
        assert [ways[order.target] for order in placed] == ["there"] * len(placed)
        assert len(_names(tree)) == 30


def test_folder_that_may_not_be_written() -> None:
    with unprivileged() as folder:
        tree = folder / "tree"
        orders = _orders(folder / "dump", tree, 3)
        tree.chmod(0o500)
        try:
            with pytest.raises(WorkspaceError) as caught:
                _place(orders, tree)
            assert CANARY not in str(caught.value)
        finally:
            tree.chmod(0o700)
        assert _names(tree) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from tasks.sort.place import Order, place_all

dump, tree = map(Path, sys.argv[1:3])
names = sorted(os.listdir(dump))
orders = [Order(source=dump / name, target=tree / name[:2] / name) for name in names]
placed = 0

def advance(units):
    global placed
    placed += units
    if placed == 7:
        os.kill(os.getpid(), signal.SIGKILL)

place_all(orders, tree, advance=advance if sys.argv[3] == "killed" else lambda units: None)
"""


@pytest.mark.parametrize("device", ["same", "other"])
def test_killed_and_started_again_gives_the_undisturbed_tree(device: str, tmp_path: Path) -> None:
    with other_device(tmp_path) if device == "other" else contextlib.nullcontext(tmp_path) as base:
        _orders(tmp_path / "dump", tmp_path / "unused", 12)

        def run(tree: str, mode: str) -> int:
            command = [sys.executable, "-c", KILLED, str(tmp_path / "dump"), str(base / tree), mode]
            return subprocess.run(command, cwd=REPOSITORY, check=False).returncode

        assert run("disturbed", "killed") == -9
        assert len(_names(base / "disturbed")) == 7
        assert run("disturbed", "whole") == run("undisturbed", "whole") == 0
        trees = [
            {name: (base / tree / name).read_bytes() for name in _names(base / tree)}
            for tree in ("disturbed", "undisturbed")
        ]
        assert trees[0] == trees[1]
        assert len(trees[0]) == 12


def test_what_a_killed_copy_leaves_is_swept(tmp_path: Path) -> None:
    """A half-written copy has a hidden name of its process, which the next run knows as unfinished."""
    with other_device(tmp_path) as elsewhere:
        tree = elsewhere / "tree"
        (order,) = _orders(tmp_path / "dump", tree, 1)
        order.target.parent.mkdir(parents=True)
        gone = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True, check=True).stdout.strip()
        (order.target.parent / f"{TEMPORARY_PREFIX}{gone}-{order.target.name}").write_bytes(b"half")
        assert sweep_temporaries(tree) == 1
        _place([order], tree)
        assert _names(tree) == [order.target.relative_to(tree).as_posix()]


def test_take_away_removes_names_and_empty_folders_only(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    orders = _orders(tmp_path / "dump", tree, 9)
    _place(orders, tree)
    theirs = orders[0].target.parent / "note.txt"
    theirs.write_text("keep")
    # Every file of two of the three folders, and one name that is gone already.
    gone = [order.target for number, order in enumerate(orders) if number % 3 != 1]
    take_away([*gone, tree / "never" / "there.dcm"], tree)
    left = [order.target.relative_to(tree).as_posix() for order in orders[1::3]]
    assert _names(tree) == sorted([*left, theirs.relative_to(tree).as_posix()])
    assert sorted(path.name for path in tree.iterdir()) == [f"{CANARY}_0", f"{CANARY}_1"]
    # The dump's own names are all there.
    assert all(order.source.is_file() for order in orders)
    take_away([theirs, *(order.target for order in orders)], tree)
    assert list(tree.iterdir()) == []


def test_placer_is_told_apart_by_devices(tmp_path: Path) -> None:
    """What does not work towards one device may work towards another."""
    with other_device(tmp_path) as elsewhere:
        placer = Placer(tmp_path)
        orders = _orders(tmp_path / "dump", tmp_path / "tree", 2)
        far = Order(source=orders[0].source, target=elsewhere / "far.dcm")
        near = Order(source=orders[1].source, target=tmp_path / "near.dcm")
        assert placer.place(far) == "copy"
        assert placer.place(near) in ("reflink", "link")
