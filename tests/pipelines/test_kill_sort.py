"""`kill -9` at any moment of a large sort, and the same command again: tree, index and journal are as undisturbed."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.builders.world import make_instance, write_instance
from tests.pipelines.command import kill_group, luigi_words, run, started, unfinished, write_study

TABLES = {
    "series": "SELECT * FROM series ORDER BY id",
    "header": "SELECT * FROM header ORDER BY id",
    "file": "SELECT * FROM file ORDER BY id",
    "refused": "SELECT * FROM refused ORDER BY path",
    "plan": "SELECT * FROM plan ORDER BY file",
    "gap": "SELECT * FROM gap ORDER BY series",
    "placement": "SELECT * FROM placement ORDER BY target",
    "removed": "SELECT * FROM removed ORDER BY run, target",
    # When a run was is another matter.
    "run": "SELECT id, software, placed, removed, undone, finished != '' FROM run ORDER BY id",
}
LISTS = ("plan", "rejects", "duplicates", "conflicts", "incomplete", "opened")


@dataclass(frozen=True, slots=True, kw_only=True)
class Undisturbed:
    """What a run makes of a dump when nobody kills it."""

    dump: Path
    workspace: Path
    seconds: float


def words(dump: Path, workspace: Path, *, workers: int) -> list[str]:
    study = write_study(workspace.with_suffix(".toml"), dump=dump, workspace=workspace, files=500, series=4)
    return luigi_words("SortStudy", "--study", study, "--workers", workers)


def make_large_dump(dump: Path, files: int) -> None:
    """Write many small images: one of ours with another SOP Instance UID and number each, written over in place."""
    dump.mkdir()
    template = write_instance(dump / "template", make_instance(instance=10_000)).read_bytes()
    (dump / "template").unlink()
    uid = make_instance(instance=10_000).SOPInstanceUID.encode("ascii")
    uid += b"\0" * (len(uid) % 2)
    for number in range(files):
        own = b"2.25.9%05d" % number
        own += b"0" * (len(uid.rstrip(b"\0")) - len(own)) + uid[len(uid.rstrip(b"\0")) :]
        content = template.replace(uid, own).replace(b"10000 ", b"%-6d" % number)
        (dump / f"{number * 7919 % files:06d}").write_bytes(content)
    for number in range(0, files, files // 20):
        shutil.copyfile(dump / f"{number:06d}", dump / f"duplicate {number}")
        other = (dump / f"{number:06d}").read_bytes()
        (dump / f"conflict {number}").write_bytes(other[:-1] + bytes([other[-1] ^ 1]))
        (dump / f"junk {number}").write_bytes(b"no image")


def undisturbed_run(base: Path, files: int) -> Undisturbed:
    dump, workspace = base / "dump", base / "w"
    make_large_dump(dump, files)
    began = time.monotonic()
    ended = run(words(dump, workspace, workers=1), cwd=base)
    assert ended.code == 0, ended.said
    seconds = time.monotonic() - began
    assert len(listing(workspace)) == files + 20
    return Undisturbed(dump=dump, workspace=workspace, seconds=seconds)


def listing(workspace: Path) -> dict[str, int]:
    """List the sorted tree: place to inode, which names the dump's file by a hard link."""
    tree = workspace / "identified" / "sorted"
    return {os.fspath(path.relative_to(tree)): path.stat().st_ino for path in tree.rglob("*") if path.is_file()}


def tables(workspace: Path) -> dict[str, list[tuple[object, ...]]]:
    connection = sqlite3.connect(workspace / "identified" / "index.db")
    try:
        return {name: connection.execute(query).fetchall() for name, query in TABLES.items()}
    finally:
        connection.close()


def assert_same_end(here: Path, there: Path) -> None:
    assert listing(here) == listing(there)
    found, expected = tables(here), tables(there)
    for name in TABLES:
        assert found[name] == expected[name], name
    for name in LISTS:
        lists = [workspace / "identified" / "lists" / f"{name}.tsv" for workspace in (here, there)]
        assert lists[0].read_bytes() == lists[1].read_bytes(), name
    assert unfinished(here) == []
    assert list((here / "identified" / "plans").iterdir()) == []


def kill_once_and_go_on(undisturbed: Undisturbed, folder: Path, *, chance: random.Random, workers: int) -> bool:
    """Kill all of a run at a moment drawn by chance, let the next one end, compare; tell whether it still ran."""
    command = words(undisturbed.dump, folder / "w", workers=workers)
    moment = chance.uniform(0.3, 0.9 * undisturbed.seconds)
    with started(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=moment)
        running = process.poll() is None
        kill_group(process)
    ended = run(command, cwd=folder)
    assert ended.code == 0, ended.said
    assert_same_end(folder / "w", undisturbed.workspace)
    shutil.rmtree(folder / "w")
    return running


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return undisturbed_run(tmp_path_factory.mktemp("small"), 2_000)


@pytest.mark.parametrize("seed", range(3))
def test_killed_and_started_again(small: Undisturbed, seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    tries = (kill_once_and_go_on(small, tmp_path, chance=chance, workers=1 + seed % 2) for _ in range(5))
    assert any(tries), "a test in which nothing was killed proves nothing"


@pytest.mark.long
def test_killed_at_thirty_moments_of_twenty_thousand_files(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    large = undisturbed_run(tmp_path / "base", 20_000)
    chance = random.Random(30)
    killed = sum(kill_once_and_go_on(large, tmp_path, chance=chance, workers=1 + turn % 2) for turn in range(30))
    assert killed > 20, "most of the moments must lie within the run"
