"""Files are placed the way asked for, nothing is overwritten, and a fault quotes no name of the tree."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from tasks.errors import DiskFullError, WorkspaceError
from tasks.files import TEMPORARY_PREFIX, sweep_temporaries, temporary_name
from tasks.sort.place import (
    TAKEN,
    WAYS,
    Order,
    is_there,
    lead_to,
    names_in,
    place_all,
    still_holds,
    take_away,
    way_of_gone,
)
from tests.builders.disks import other_device, tiny_disk, unprivileged
from tests.conftest import REPOSITORY

CANARY = "SYNCANARY"
"""Stands in every name below the tree, where patients' names would."""


def order_of(source: Path, target: str, number: int = 1) -> Order:
    """Make the order for a file as it is now."""
    status = source.stat()
    return Order(
        source=os.fsencode(source),
        target=target,
        file=number,
        device=status.st_dev,
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
    )


def make_orders(source: Path, tree: Path, count: int, *, size: int = 10) -> list[Order]:
    source.mkdir(exist_ok=True)
    tree.mkdir(exist_ok=True)
    orders = []
    for number in range(count):
        path = source / f"{number:04d}"
        path.write_bytes(f"{number:04d}".encode() * size)
        orders.append(order_of(path, f"{CANARY}_{number % 3}/2001-01-01/{number}.dcm", number))
    return orders


def place(orders: list[Order], tree: Path, how: str = "auto") -> tuple[dict[str, str], dict[str, str], int]:
    """Carry out orders; return the ways by target, the reasons of what was not placed, and how much was counted."""
    advanced: list[int] = []
    done = [one for batch in place_all(orders, str(tree), how=how, advance=advanced.append) for one in batch]
    assert [one.order for one in done] == orders, "all are told of, in their order"
    ways = {one.order.target: one.way for one in done if one.way}
    reasons = {one.order.target: one.reason for one in done if one.reason}
    assert not set(ways) & set(reasons)
    assert len(ways) + len(reasons) == len(orders)
    return ways, reasons, sum(advanced)


def content_of(order: Order, tree: Path) -> bytes:
    return (tree / order.target).read_bytes()


def names(tree: Path) -> list[str]:
    return sorted(path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file())


def test_files_are_placed_and_a_second_time_are_there(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    orders = make_orders(tmp_path / "dump", tree, 10)
    ways, reasons, advanced = place(orders, tree)
    assert set(ways.values()) <= {"reflink", "hardlink", "copy"}
    assert (reasons, advanced) == ({}, 10)
    for order in orders:
        assert content_of(order, tree) == Path(os.fsdecode(order.source)).read_bytes()
    listed = names(tree)
    ways, reasons, advanced = place(orders, tree)
    assert set(ways.values()) == {"there"}
    assert names(tree) == listed


# --- the ways


def reflinks(folder: Path) -> bool:
    """Tell whether the file system can share blocks, by asking a program that is not ours."""
    (folder / "one").write_bytes(b"x" * 5000)
    done = subprocess.run(
        ["cp", "--reflink=always", str(folder / "one"), str(folder / "other")], capture_output=True, check=False
    )
    (folder / "one").unlink()
    (folder / "other").unlink(missing_ok=True)
    return done.returncode == 0


def test_one_device_shares_the_bytes(tmp_path: Path) -> None:
    """By reflink where the file system knows it, else by hard link: never by a copy."""
    tree = tmp_path / "tree"
    (order,) = make_orders(tmp_path / "dump", tree, 1)
    ways, _, _ = place([order], tree)
    way = "reflink" if reflinks(tmp_path) else "hardlink"
    assert ways == {order.target: way}
    same = os.path.samefile(order.source, tree / order.target)
    assert same == (way == "hardlink")


@pytest.mark.parametrize("how", ["hardlink", "copy", "symlink"])
def test_each_way_does_what_it_says(how: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    orders = make_orders(tmp_path / "dump", tree, 4)
    source = Path(os.fsdecode(orders[0].source))
    source.chmod(0o640)
    assert set(place(orders, tree, how)[0].values()) == {how}
    for order in orders:
        target = tree / order.target
        assert content_of(order, tree) == Path(os.fsdecode(order.source)).read_bytes()
        assert target.is_symlink() == (how == "symlink")
        assert os.path.samefile(order.source, target) == (how != "copy")
        if how == "symlink":
            assert os.readlink(os.fsencode(target)) == order.source
    status = (tree / orders[0].target).stat()
    assert stat.S_IMODE(status.st_mode) == 0o640
    assert status.st_mtime_ns == source.stat().st_mtime_ns
    assert set(place(orders, tree, how)[0].values()) == {"there"}


def test_reflink_is_done_or_refused_in_one_sentence(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    orders = make_orders(tmp_path / "dump", tree, 2)
    if reflinks(tmp_path):
        assert set(place(orders, tree, "reflink")[0].values()) == {"reflink"}
        assert not os.path.samefile(orders[0].source, tree / orders[0].target)
    else:
        with pytest.raises(WorkspaceError, match="cannot take files of the dump by reflink"):
            place(orders, tree, "reflink")
        assert names(tree) == []


@pytest.mark.parametrize("how", ["hardlink", "reflink"])
def test_a_way_that_does_not_exist_between_two_devices_is_refused_in_one_sentence(how: str, tmp_path: Path) -> None:
    with other_device(tmp_path) as elsewhere:
        tree = elsewhere / "tree"
        orders = make_orders(tmp_path / "dump", tree, 2)
        with pytest.raises(WorkspaceError, match=f"cannot take files of the dump by {how}") as caught:
            place(orders, tree, how)
        assert CANARY not in str(caught.value)
        assert names(tree) == []


def test_other_device_is_copied_to(tmp_path: Path) -> None:
    with other_device(tmp_path) as elsewhere:
        tree = elsewhere / "tree"
        orders = make_orders(tmp_path / "dump", tree, 5, size=300_000)
        os.utime(orders[0].source, ns=(1, 1_234_567_890_000_000_000))
        orders[0] = order_of(Path(os.fsdecode(orders[0].source)), orders[0].target)
        assert set(place(orders, tree)[0].values()) == {"copy"}
        for order in orders:
            assert content_of(order, tree) == Path(os.fsdecode(order.source)).read_bytes()
            assert (tree / order.target).stat().st_mtime_ns == order.mtime_ns
        assert not [name for name in names(tree) if TEMPORARY_PREFIX in name]
        assert set(place(orders, tree)[0].values()) == {"there"}


def exhaust_links(path: Path, folder: Path) -> bool:
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
    orders = make_orders(tmp_path / "dump", tree, 3)
    (tmp_path / "links").mkdir()
    if not exhaust_links(Path(os.fsdecode(orders[1].source)), tmp_path / "links"):
        pytest.skip("this file system allows more links than the test can make")
    orders = [order_of(Path(os.fsdecode(order.source)), order.target, order.file) for order in orders]
    ways, _, _ = place(orders, tree)
    first, middle, last = (ways[order.target] for order in orders)
    assert first == last != "copy"
    assert middle == ("copy" if first == "hardlink" else first)
    with pytest.raises(WorkspaceError, match="by hardlink"):
        place(orders[1:2], tmp_path / "other tree", "hardlink")


def test_ways_are_told_apart_by_devices(tmp_path: Path) -> None:
    """What does not work from one device may work from another."""
    with other_device(tmp_path) as elsewhere:
        tree = tmp_path / "tree"
        near, also_near = make_orders(tmp_path / "dump", tree, 2)
        (far,) = make_orders(elsewhere / "dump", tree, 1)
        far = far._replace(target="far.dcm")
        ways, _, _ = place([near, far, also_near], tree)
        assert ways.pop("far.dcm") == "copy"
        assert set(ways.values()) <= {"reflink", "hardlink"}


def damage_copies(monkeypatch: pytest.MonkeyPatch, tail: bytes) -> None:
    """Let each copy arrive with other bytes at its end, as a failing cable or memory does it."""
    whole = shutil.copyfileobj

    def damaged(original: BinaryIO, copy: BinaryIO, length: int) -> None:
        whole(original, copy, length)
        copy.seek(-1, os.SEEK_CUR)
        copy.truncate()
        copy.write(tail)

    monkeypatch.setattr(shutil, "copyfileobj", damaged)


@pytest.mark.parametrize("tail", [b"x", b"", b"0x"])
def test_a_copy_is_verified(tail: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another byte, one too few, one too many."""
    tree = tmp_path / "tree"
    (order,) = make_orders(tmp_path / "dump", tree, 1, size=600_000)
    damage_copies(monkeypatch, tail)
    with pytest.raises(OSError, match="the copy differs from its source") as caught:
        place([order], tree, "copy")
    assert CANARY not in str(caught.value)
    assert names(tree) == []
    monkeypatch.undo()
    assert place([order], tree, "copy")[0] == {order.target: "copy"}


# --- sources that are not what they were


@pytest.mark.parametrize("how", sorted(set(WAYS) - {"reflink"}))
def test_a_source_that_changed_since_it_was_indexed_is_not_placed(how: str, tmp_path: Path) -> None:
    """It may still be being written; what the index knows of it is of another file."""
    tree = tmp_path / "tree"
    orders = make_orders(tmp_path / "dump", tree, 4)
    grown, touched = (Path(os.fsdecode(order.source)) for order in orders[:2])
    with grown.open("ab") as stream:
        stream.write(b"more")
    os.utime(grown, ns=(1, orders[0].mtime_ns))
    os.utime(touched, ns=(1, 1))
    ways, reasons, _ = place(orders, tree, how)
    assert reasons == {orders[0].target: "still-arriving", orders[1].target: "still-arriving"}
    assert set(ways) == {orders[2].target, orders[3].target}
    assert names(tree) == sorted(ways)
    assert touched.exists()
    assert grown.read_bytes().endswith(b"more"), "the dump's own file is not harmed"


def test_our_own_files_are_taken_whatever_their_times(tmp_path: Path) -> None:
    """What was unpacked from an archive has the archive's stamp in the index, and nobody writes it but us."""
    tree = tmp_path / "tree"
    orders = [order._replace(mtime_ns=-1) for order in make_orders(tmp_path / "unpacked", tree, 2)]
    os.utime(orders[0].source, ns=(1, 1))
    assert len(place(orders, tree)[0]) == 2


@pytest.mark.parametrize("how", sorted(set(WAYS) - {"reflink"}))
def test_vanished_sources_are_reported(how: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    orders = make_orders(tmp_path / "dump", tree, 6)
    for number in (1, 3, 4):
        os.unlink(orders[number].source)
    # What became a link or a folder since the scan is not followed.
    os.symlink(orders[0].source, orders[3].source)
    os.mkdir(orders[4].source)
    ways, reasons, advanced = place(orders, tree, how)
    assert reasons[orders[1].target] == "vanished"
    assert set(reasons) == {orders[1].target, orders[3].target, orders[4].target}
    assert set(reasons.values()) <= {"vanished", "still-arriving"}
    assert set(ways) == {orders[0].target, orders[2].target, orders[5].target}
    assert advanced == 6
    assert names(tree) == sorted(ways)


def test_a_source_that_may_no_longer_be_read_is_reported_and_is_no_fault_of_the_tree() -> None:
    with unprivileged() as folder:
        orders = make_orders(folder / "dump", folder / "tree", 3)
        os.chmod(orders[1].source, 0)
        ways, reasons, _ = place(orders, folder / "tree", "copy")
        assert reasons == {orders[1].target: "unreadable"}
        assert names(folder / "tree") == sorted(ways)


# --- places that are taken


def taken_in_every_way(target: Path) -> Iterator[str]:
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


@pytest.mark.parametrize("how", ["auto", "copy", "symlink"])
@pytest.mark.parametrize("device", ["same", "other"])
def test_taken_place_is_left_alone_and_counted(device: str, how: str, tmp_path: Path) -> None:
    with other_device(tmp_path) if device == "other" else contextlib.nullcontext(tmp_path) as base:
        tree = base / "tree"
        orders = make_orders(tmp_path / "dump", tree, 6)
        place_taken = tree / orders[2].target
        for kind in taken_in_every_way(place_taken):
            before = os.lstat(place_taken)
            assert place(orders, tree, how)[1] == {orders[2].target: TAKEN}, kind
            after = os.lstat(place_taken)
            assert (after.st_ino, after.st_size, after.st_mtime_ns) == (
                before.st_ino,
                before.st_size,
                before.st_mtime_ns,
            )
            # The others got their places all the same.
            assert all((tree / order.target).is_file() for order in orders if order is not orders[2])


def test_all_collisions_are_told(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    orders = make_orders(tmp_path / "dump", tree, 9)
    for order in orders[::3]:
        (tree / order.target).parent.mkdir(parents=True, exist_ok=True)
        (tree / order.target).write_bytes(b"theirs")
    assert place(orders, tree)[1] == {order.target: TAKEN for order in orders[::3]}
    assert [content_of(order, tree) for order in orders[::3]] == [b"theirs"] * 3


def test_equal_content_in_a_place_is_no_collision(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (order,) = make_orders(tmp_path / "dump", tree, 1)
    (tree / order.target).parent.mkdir(parents=True)
    (tree / order.target).write_bytes(Path(os.fsdecode(order.source)).read_bytes())
    assert place([order], tree)[0] == {order.target: "there"}


def test_what_was_placed_before_it_left_the_dump_is_known_again(tmp_path: Path) -> None:
    """By its inode, or by size and time; and no other file passes for it."""
    for how in WAYS:
        if how == "symlink":
            continue
        tree = tmp_path / how
        (order,) = make_orders(tmp_path / f"{how}-dump", tree, 1)
        known = os.stat(order.source)
        facts = {"inode": known.st_ino, "size": known.st_size, "mtime_ns": known.st_mtime_ns}
        try:
            ways, _, _ = place([order], tree, how)
        except WorkspaceError:
            assert how == "reflink", "which most file systems lack"
            continue
        os.unlink(order.source)
        target = os.fsencode(tree / order.target)
        assert way_of_gone(target, **facts) == ("hardlink" if ways[order.target] == "hardlink" else "copy")
        assert way_of_gone(target, **(facts | {"mtime_ns": -1})) != ""
        assert way_of_gone(target, **(facts | {"mtime_ns": 1})) == ""
        assert way_of_gone(target, **(facts | {"size": 1})) == ""
        os.unlink(target)
        os.symlink("/nowhere", target)
        assert way_of_gone(target, **facts) == ""


def test_what_is_there_is_told_by_content_and_by_way(tmp_path: Path) -> None:
    one, other, link, wrong = (tmp_path / name for name in ("one", "other", "link", "wrong"))
    for path in (one, other):
        path.write_bytes(b"same")
    link.symlink_to(one)
    wrong.symlink_to(other)
    source = os.fsencode(one)

    def found(path: Path, *, by_link: bool) -> bool:
        return is_there(source, os.fsencode(path), by_link=by_link)

    assert found(other, by_link=False)
    assert found(link, by_link=True)
    assert not found(link, by_link=False), "whoever asks for files is not given a link"
    assert not found(wrong, by_link=True)
    other.write_bytes(b"else")
    assert not found(other, by_link=False)


def test_whether_a_place_still_holds_what_was_put_there(tmp_path: Path) -> None:
    """A copy does whatever becomes of its source; a link only as long as nobody writes into the file."""
    source = tmp_path / "source"
    source.write_bytes(b"first")
    os.link(source, tmp_path / "hard")
    (tmp_path / "soft").symlink_to(source)
    shutil.copy2(source, tmp_path / "copy")
    was = source.stat()

    def held() -> list[str]:
        facts = {"inode": was.st_ino, "size": was.st_size, "mtime_ns": was.st_mtime_ns}
        return [name for name in ("hard", "soft", "copy") if still_holds(os.fsencode(tmp_path / name), **facts)]

    assert held() == ["hard", "soft", "copy"]
    os.utime(source, ns=(1, was.st_mtime_ns + 1))
    assert held() == ["copy"]
    os.utime(source, ns=(1, was.st_mtime_ns))
    source.unlink()
    assert held() == ["hard", "copy"]
    (tmp_path / "copy").unlink()
    (tmp_path / "hard").write_bytes(b"second, and longer")
    assert held() == []


def test_a_link_follows_its_file_and_nothing_else_is_touched(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    orders = make_orders(tmp_path / "dump", tree, 2)
    place(orders[:1], tree, "symlink")
    place(orders[1:], tree, "copy")
    for order in orders:
        os.rename(order.source, order.source + b" moved")
    assert not (tree / orders[0].target).exists()
    for order in orders:
        lead_to(order.source + b" moved", order.target, str(tree))
    assert os.readlink(os.fsencode(tree / orders[0].target)) == orders[0].source + b" moved"
    assert content_of(orders[0], tree) == b"0000" * 10
    assert not (tree / orders[1].target).is_symlink()
    lead_to(orders[0].source, "no such folder/name", str(tree))
    assert names(tree) == sorted(order.target for order in orders)


def test_names_in_a_folder_are_files_and_links(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "folder").mkdir()
    assert names_in(str(tmp_path)) == {"file", "link"}
    assert names_in(str(tmp_path / "nowhere")) == names_in(str(tmp_path / "file")) == frozenset()


# --- faults


def test_full_disk_is_named_and_leaves_nothing_half(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", kilobytes=256) as disk:
        tree = disk / "tree"
        orders = make_orders(tmp_path / "dump", tree, 30, size=5_000)
        with pytest.raises(DiskFullError) as caught:
            place(orders, tree)
        assert CANARY not in str(caught.value)
        placed = [order for order in orders if (tree / order.target).exists()]
        assert 0 < len(placed) < 30
        assert len(names(tree)) == len(placed)
        assert all(content_of(order, tree) == Path(os.fsdecode(order.source)).read_bytes() for order in placed)
        # With room made, the same orders go on where they stopped.
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        ways, _, _ = place(orders, tree)
        assert [ways[order.target] for order in placed] == ["there"] * len(placed)
        assert len(names(tree)) == 30


def test_folder_that_may_not_be_written() -> None:
    with unprivileged() as folder:
        tree = folder / "tree"
        orders = make_orders(folder / "dump", tree, 3)
        tree.chmod(0o500)
        try:
            with pytest.raises(WorkspaceError) as caught:
                place(orders, tree)
            assert CANARY not in str(caught.value)
        finally:
            tree.chmod(0o700)
        assert names(tree) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from tasks.sort.place import Order, place_all

dump, tree, mode, how = sys.argv[1:]
orders = []
for number, name in enumerate(sorted(os.listdir(dump))):
    source = os.fsencode(f"{dump}/{name}")
    status = os.stat(source)
    orders.append(Order(source, f"{name[:3]}/{name}", number, status.st_dev, status.st_size, status.st_mtime_ns))

def dying():
    for number, order in enumerate(orders):
        if number == 7 and mode == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        yield order

for _ in place_all(dying(), tree, how=how, advance=lambda units: None):
    pass
"""


@pytest.mark.parametrize(("device", "how"), [("same", "auto"), ("same", "symlink"), ("other", "auto")])
def test_killed_and_started_again_gives_the_undisturbed_tree(device: str, how: str, tmp_path: Path) -> None:
    with other_device(tmp_path) if device == "other" else contextlib.nullcontext(tmp_path) as base:
        make_orders(tmp_path / "dump", tmp_path / "unused", 12)

        def run(tree: str, mode: str) -> int:
            command = [sys.executable, "-c", KILLED, str(tmp_path / "dump"), str(base / tree), mode, how]
            return subprocess.run(command, cwd=REPOSITORY, check=False).returncode

        assert run("disturbed", "killed") == -9
        assert len(names(base / "disturbed")) == 7
        assert run("disturbed", "whole") == run("undisturbed", "whole") == 0
        trees = [
            {name: (base / tree / name).read_bytes() for name in names(base / tree)}
            for tree in ("disturbed", "undisturbed")
        ]
        assert trees[0] == trees[1]
        assert len(trees[0]) == 12


def test_what_a_killed_copy_leaves_is_swept(tmp_path: Path) -> None:
    """A half-written copy has a hidden name of its process, which the next run knows as unfinished."""
    with other_device(tmp_path) as elsewhere:
        tree = elsewhere / "tree"
        (order,) = make_orders(tmp_path / "dump", tree, 1)
        target = tree / order.target
        target.parent.mkdir(parents=True)
        gone = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True, check=True).stdout.strip()
        (target.parent / temporary_name(target.name, process=gone)).write_bytes(b"half")
        assert sweep_temporaries(tree) == 1
        place([order], tree)
        assert names(tree) == [order.target]


def test_what_this_process_left_half_done_does_not_stand_in_the_way(tmp_path: Path) -> None:
    """Process numbers come again: a file of that name may be there already."""
    tree = tmp_path / "tree"
    (order,) = make_orders(tmp_path / "dump", tree, 1)
    target = tree / order.target
    target.parent.mkdir(parents=True)
    (target.parent / temporary_name(target.name, process=os.getpid())).write_bytes(b"half")
    assert place([order], tree, "copy")[0] == {order.target: "copy"}
    assert names(tree) == [order.target]


# --- taking away


def test_take_away_removes_names_and_empty_folders_only(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    orders = make_orders(tmp_path / "dump", tree, 9)
    place(orders, tree)
    theirs = (tree / orders[0].target).parent / "note.txt"
    theirs.write_text("keep")
    # Every file of two of the three folders, and one name that is gone already.
    gone = [order.target for number, order in enumerate(orders) if number % 3 != 1]
    take_away([*gone, "never/there.dcm"], str(tree))
    left = [order.target for order in orders[1::3]]
    assert names(tree) == sorted([*left, theirs.relative_to(tree).as_posix()])
    assert sorted(path.name for path in tree.iterdir()) == [f"{CANARY}_0", f"{CANARY}_1"]
    # The dump's own names are all there.
    assert all(os.path.isfile(order.source) for order in orders)
    take_away([theirs.relative_to(tree).as_posix(), *(order.target for order in orders)], str(tree))
    assert list(tree.iterdir()) == []


def test_taking_away_a_link_leaves_what_it_points_to(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    orders = make_orders(tmp_path / "dump", tree, 2)
    place(orders, tree, "symlink")
    take_away([order.target for order in orders], str(tree))
    assert list(tree.iterdir()) == []
    assert all(os.path.isfile(order.source) for order in orders)


def test_a_tree_that_may_not_be_written_is_named_when_something_has_to_go() -> None:
    with unprivileged() as folder:
        tree = folder / "tree"
        (order,) = make_orders(folder / "dump", tree, 1)
        place([order], tree)
        (tree / order.target).parent.chmod(0o500)
        try:
            with pytest.raises(WorkspaceError) as caught:
                take_away([order.target], str(tree))
            assert CANARY not in str(caught.value)
            assert names(tree) == [order.target]
        finally:
            (tree / order.target).parent.chmod(0o700)
