"""A run is taken back whole, nothing is lost by it, and the dump stays as it is."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.sort.undo import Undone
from tests.conftest import REPOSITORY
from tests.sort.library import Library, happenings

WAYS = ("copy", "hardlink", "symlink")


@pytest.fixture(params=WAYS)
def library(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Library]:
    made = Library(tmp_path, how=request.param)
    with made.store:
        yield made


def names_of(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Tell what stands in a folder, and whether it was touched."""
    return {
        os.fspath(path.relative_to(folder)): (path.lstat().st_ino, path.lstat().st_mtime_ns, path.lstat().st_size)
        for path in folder.rglob("*")
        if not path.is_dir()
    }


def test_only_the_last_run_is_taken_back_and_then_the_one_before(library: Library) -> None:
    for number in range(3):
        library.write(f"{number}", f"2.25.{number}", "first night")
    one = library.night()
    first = library.shown()
    library.write("3", "2.25.3", "second night")
    two = library.night()
    dump = names_of(library.dump)
    assert len(library.shown()) == 4

    assert library.undo() == Undone(run=two, taken=1, restored=0, kept=0)
    assert library.shown() == first
    assert library.placed() == set(first)
    assert library.undo() == Undone(run=one, taken=3, restored=0, kept=0)
    assert library.shown() == {}
    assert list(library.tree.iterdir()) == [], "no empty folder is left"
    assert library.undo() == Undone(run=0, taken=0, restored=0, kept=0)
    assert names_of(library.dump) == dump
    assert [bool(run.undone) for run in library.store.runs()] == [True, True]


def test_after_an_undo_the_same_run_makes_the_same_tree(library: Library) -> None:
    for number in range(3):
        library.write(f"{number}", f"2.25.{number}", "x")
    library.night()
    library.write("3", "2.25.2", "conflict")
    library.night()
    whole = library.shown()
    for undone in (1, 2):
        for _ in range(undone):
            library.undo()
        library.night()
        assert library.shown() == whole
        assert library.placed() == set(whole)


def test_what_a_run_had_moved_is_put_back(library: Library) -> None:
    """A second content for a UID gives the first one another name; so does another layout."""
    library.write("1", "2.25.1", "one")
    library.write("2", "2.25.2", "two")
    library.night()
    before = library.shown()
    library.write("3", "2.25.1", "another")
    library.layout = "b"
    run = library.night()
    assert not set(library.shown()) & set(before)
    assert library.undo() == Undone(run=run, taken=3, restored=2, kept=0)
    assert library.shown() == before
    # What was put back is the first run's again, and goes with it.
    assert library.undo().taken == 2
    assert library.shown() == {}


def test_what_was_put_back_belongs_to_the_run_that_placed_it(library: Library) -> None:
    """Not to the one before the one that was undone: that may have been undone as well."""
    library.write("1", "2.25.1", "one")
    library.night()
    first = library.shown()
    library.write("2", "2.25.2", "two")
    library.night()
    library.layout = "b"
    library.night()
    assert library.undo().restored == 2
    assert library.undo().taken == 1
    assert library.shown() == first
    library.layout = "c"
    library.night()
    library.undo()
    assert library.shown() == first
    assert library.undo().taken == 1
    assert library.shown() == {}


def test_a_place_that_stood_before_is_not_the_work_of_the_run_that_found_it(library: Library) -> None:
    """A second copy takes the part of the first one, which is gone: its place stays where it is."""
    library.write("a", "2.25.1", "same")
    library.write("b", "2.25.1", "same")
    library.write("c", "2.25.3", "other")
    one = library.night()
    before = library.shown()
    (library.dump / "a").unlink()
    if library.how == "symlink":
        # The link leads nowhere now: it has to be placed anew, and that is a change.
        (library.tree / "a" / "2.25.1.dcm").unlink()
    library.night()
    assert library.shown() == before
    if library.how != "symlink":
        assert [run.run for run in library.store.runs()] == [one], "a run that changed nothing leaves no line"
    library.write("d", "2.25.4", "new")
    library.night()
    assert library.undo().taken == 1
    assert library.shown() == before


# --- the last copy


@pytest.mark.parametrize("how", ["copy", "hardlink", "auto"])
def test_a_file_that_left_the_dump_stays(how: str, tmp_path: Path) -> None:
    with (library := Library(tmp_path, how=how)).store:
        library.write("1", "2.25.1", "stays")
        gone = library.write("2", "2.25.2", "leaves")
        unseen = library.write("3", "2.25.3", "leaves unseen")
        run = library.night()
        gone.unlink()
        library.index()
        unseen.unlink()
        before = library.contents()
        assert library.undo() == Undone(run=run, taken=1, restored=0, kept=2)
        assert library.contents() == before
        assert sorted(library.shown().values()) == ["2.25.2\nleaves", "2.25.3\nleaves unseen"]


def test_a_file_that_was_written_over_stays_as_the_copy_shows_it(tmp_path: Path) -> None:
    with (library := Library(tmp_path, how="copy")).store:
        seen = library.write("1", "2.25.1", "first")
        unseen = library.write("2", "2.25.2", "first")
        library.night()
        for path in (seen, unseen):
            before = path.stat()
            path.write_text(path.read_text().replace("first", "worst"))
            # Even with the time of before, as some senders set it: the bytes are what counts.
            os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns + (path == seen)))
        library.index()
        assert library.undo().kept == 2
        assert {path.read_text() for path in library.tree.rglob("*.dcm")} == {"2.25.1\nfirst", "2.25.2\nfirst"}


@pytest.mark.parametrize("how", ["copy", "hardlink", "symlink"])
def test_the_last_copy_goes_back_to_where_it_stood(how: str, tmp_path: Path) -> None:
    """A file that left the dump was moved inside the tree: only there it is, before and after."""
    with (library := Library(tmp_path, how="copy")).store:
        gone = library.write("1", "2.25.1", "leaves")
        library.night()
        before = library.shown()
        gone.unlink()
        library.how, library.layout = how, "b"
        run = library.night()
        assert list(library.shown().values()) == list(before.values())
        assert not any(path.is_symlink() for path in library.tree.rglob("*")), "a link to itself would hold nothing"
        assert library.undo() == Undone(run=run, taken=1, restored=1, kept=0)
        assert library.shown() == before
        assert library.undo().kept == 1
        assert library.shown() == before


@pytest.mark.parametrize("harmless", [True, False])
@pytest.mark.parametrize("how", ["copy", "hardlink"])
@pytest.mark.parametrize("seed", range(4))
def test_whatever_happened_nothing_is_lost(seed: int, how: str, harmless: bool, tmp_path: Path) -> None:
    chance = random.Random(f"{seed}{how}")
    with (library := Library(tmp_path, how=how)).store:
        trees = [library.shown()]
        for _ in range(4):
            happenings(library, chance, harmless=harmless)
            library.night()
            trees.append(library.shown())
            assert library.placed() == set(trees[-1])
        runs = len(library.store.runs())
        dump = names_of(library.dump)
        for number in range(runs):
            before = library.contents()
            library.undo()
            assert library.contents() >= before
            assert library.placed() == set(library.shown())
            if harmless and runs == 4:
                assert library.shown() == trees[3 - number]
        assert names_of(library.dump) == dump
        assert library.undo().run == 0


# --- cut off


KILLED = """
import os, signal, sys
from pathlib import Path
from tasks.sort import undo
from tests.sort.library import Library

folder, how, moment = sys.argv[1:]

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

library = Library(Path(folder), how=how)
if moment == "before the index knows":
    library.store.put_back = die
elif moment == "before anything is taken":
    undo.take_away = die
elif moment == "half way":
    whole = undo.take_away
    undo.take_away = lambda targets, tree: (whole(targets[::2], tree), die())
elif moment == "at the end":
    library.store.keep_undo = die
library.undo()
"""


@pytest.mark.parametrize(
    "moment", ["before the index knows", "before anything is taken", "half way", "at the end", "never"]
)
@pytest.mark.parametrize("how", ["copy", "hardlink"])
def test_killed_half_way_and_done_again(how: str, moment: str, tmp_path: Path) -> None:
    with (library := Library(tmp_path, how=how)).store:
        for number in range(4):
            library.write(f"{number}", f"2.25.{number}", "first")
        gone = library.write("gone", "2.25.9", "leaves")
        library.night()
        before = library.shown()
        gone.unlink()
        for number in range(6):
            library.write(f"new{number}", f"2.25.{number}", "second")
        library.layout = "b"
        run = library.night()
        after = library.contents()

    command = [sys.executable, "-c", KILLED, str(tmp_path), how, moment]
    code = subprocess.run(command, cwd=REPOSITORY, check=False).returncode
    assert code == (0 if moment == "never" else -signal.SIGKILL)
    with (library := Library(tmp_path, how=how)).store:
        assert library.contents() >= after, "at no moment anything is lost"
        if moment != "never":
            assert library.undo().run == run
        assert library.shown() == before
        assert library.placed() == set(before)
        assert library.contents() >= after


def test_a_run_that_was_cut_off_is_taken_back(library: Library) -> None:
    library.write("1", "2.25.1", "first")
    library.night()
    before = library.shown()
    for number in range(4):
        library.write(f"new{number}", f"2.25.{number}", "second")
    library.layout = "b"
    library.index()
    library.plan()
    run = library.place(stop_after=3)
    assert len(library.shown()) == 4
    assert library.undo() == Undone(run=run, taken=3, restored=0, kept=0)
    assert library.shown() == before
    assert library.night() == run + 1
    assert len(library.shown()) == 5
