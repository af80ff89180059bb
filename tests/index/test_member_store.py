"""The store is private, holds what is wanted and nothing more, and survives a crash and a full disk."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from tasks.errors import DiskFullError
from tasks.files import TEMPORARY_PREFIX, temporary_name
from tasks.index.archive import ArchiveLimits, Member, settle_store, unpack_container
from tasks.index.row import Container
from tests.builders.disks import tiny_disk
from tests.index.packing import KEY, Bench, gzipped, image, tarred, zipped


def test_store_is_private(bench: Bench) -> None:
    bench.unpack("x", zipped({"1": image(1), "2": tarred({"3": image(2, 2 << 20)})}))
    assert bench.stored() == [f"ab/{KEY}-000000", f"ab/{KEY}-000001"]
    for path in (bench.store, bench.store / "ab"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for name in bench.stored():
        assert stat.S_IMODE((bench.store / name).stat().st_mode) == 0o600


def test_strangers_are_never_written(bench: Bench) -> None:
    bench.unpack("x", zipped({"x": b"text", "y": bytes(3 << 20)}))
    assert not bench.store.exists()


def test_doing_it_again_mends_what_a_crash_left(bench: Bench) -> None:
    content = zipped({f"{number}": image(number) for number in range(5)})
    first = bench.unpack("x", content)
    below = bench.store / "ab"
    (below / f"{KEY}-000001").unlink()
    (below / f"{KEY}-000002").write_bytes(b"half")
    (below / f"{KEY}-000017").write_bytes(b"of an attempt with other limits")
    dead = subprocess.Popen(["true"])
    dead.wait()
    (below / temporary_name(f"{KEY}-000003", process=dead.pid)).write_bytes(b"never finished")
    assert bench.unpack("x", content) == first
    # What belongs to others stays.
    (below / "abother00-000000").write_bytes(b"of another")
    (below / temporary_name("abother00-000001", process=os.getppid())).write_bytes(b"being written")
    members = unpack_container(
        os.fsencode(bench.dump),
        Container(path=b"x", kind="zip"),
        store=bench.store,
        key=KEY,
        limits=ArchiveLimits(members=1),
    )
    assert members == [Member(path=b"x", reason="archive-limit")]
    assert sorted(os.listdir(below)) == [temporary_name("abother00-000001", process=os.getppid()), "abother00-000000"]


def test_files_are_replaced_and_never_written_again(bench: Bench) -> None:
    """What was linked from the store into a tree keeps its content whatever happens to the store."""
    bench.unpack("x", gzipped(image(1)))
    linked = bench.dump / "linked"
    linked.hardlink_to(bench.store / "ab" / f"{KEY}-000000")
    bench.unpack("x", gzipped(image(2)))
    assert linked.read_bytes() == image(1)


def test_settling(bench: Bench) -> None:
    """Nobody can cut the power here; but it goes through every file and folder, and does not mind what is gone."""
    contents = {}
    members: list[Member] = []
    for number in range(40):
        found = bench.unpack_only(f"{number}.gz", gzipped(image(number)), key=f"{number:08d}")
        contents[found[0].stored] = image(number)
        members += found
    (bench.store / members[0].stored).unlink()
    del contents[members[0].stored]
    members.append(Member(path=b"x", reason="not-dicom"))
    settle_store(bench.store, members)
    assert {name: (bench.store / name).read_bytes() for name in bench.stored()} == contents
    settle_store(bench.store.with_name("nowhere"), members[-1:])


def test_full_disk(tmp_path: Path) -> None:
    content = tarred({"1": image(1, 30_000), "nested": tarred({"2": image(2, 30_000)}), "3": image(3, 30_000)})
    (tmp_path / "x").write_bytes(content)
    large = {"large": tarred({"4": image(4, 2 << 20)})}
    (tmp_path / "y").write_bytes(tarred(large))

    def unpack(name: bytes, store: Path) -> list[Member]:
        container = Container(path=name, kind="tar")
        return unpack_container(os.fsencode(tmp_path), container, store=store, key=KEY, limits=ArchiveLimits())

    with tiny_disk(tmp_path / "disk", kilobytes=64) as disk:
        for name in (b"x", b"y"):
            with pytest.raises(DiskFullError):
                unpack(name, disk / "store")
            assert not [path for path in disk.rglob(f"{TEMPORARY_PREFIX}*") if path.is_file()]
        subprocess.run(["mount", "-o", "remount,size=8M", str(disk)], check=True)
        members = unpack(b"x", disk / "store")
        assert [(disk / "store" / member.stored).read_bytes() for member in members] == [
            image(number, 30_000) for number in (1, 2, 3)
        ]
