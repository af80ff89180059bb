"""`scanward plan` says what the sort then does, to the byte; `scanward undo` takes a sort back and loses nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import sys
import zipfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.index.chunk import pack
from tasks.index.row import FileStamp
from tasks.sort.layout import parse_layout
from tasks.sort.names import short_hash
from tasks.sort.store import SortStore
from tasks.sort.tree import TreeNames, plan_tree
from tests.builders.disks import other_device
from tests.builders.world import make_dump, make_instance, write_instance
from tests.pipelines.command import (
    Ended,
    contents,
    counts_of,
    digests,
    luigi,
    luigi_words,
    rows_of,
    run,
    scanward,
    times,
    unfinished,
    write_study,
)
from tests.strategies import make_row

LONG = pytest.mark.long


class Study:
    """A dump with everything that shows in a plan, a study file and a workspace."""

    def __init__(self, folder: Path, *, workspace: Path | None = None, more: str = "") -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.dump, self.workspace = folder, folder / "dump", workspace or folder / "w"
        self.file = folder / "study.toml"
        self.settle(more)
        files = make_dump(self.dump, patients=2, series=2, instances=3)
        shutil.copy(files[0], self.dump / "duplicate")
        write_instance(self.dump / "conflict", make_instance(1, 1, 1, 2, ImageComments="another"))
        (self.dump / "junk").write_bytes(b"junk")
        write_instance(folder / "member", make_instance(3, 1, 1, 1))
        with zipfile.ZipFile(self.dump / "a.zip", "w") as archive:
            archive.write(folder / "member", "IM1")

    def settle(self, more: str) -> None:
        """Write the study file."""
        write_study(self.file, dump=self.dump, workspace=self.workspace, files=5, more=more)

    def scanward(self, *words: object) -> Ended:
        """Run a command on the study, and expect it to end well."""
        ended = scanward(*words, "--study", self.file, cwd=self.folder)
        assert ended.code == 0, ended.said
        return ended

    def sort(self) -> None:
        """Sort the dump, and expect it to end well."""
        ended = luigi("SortStudy", "--study", self.file, cwd=self.folder)
        assert ended.code == 0, ended.said
        assert unfinished(self.workspace) == []

    @property
    def tree(self) -> Path:
        return self.workspace / "identified" / "sorted"

    @property
    def names(self) -> set[str]:
        """Name all that stands in the sorted tree."""
        return {path.relative_to(self.tree).as_posix() for path in self.tree.rglob("*") if not path.is_dir()}

    @property
    def shown(self) -> dict[str, bytes]:
        """Read the sorted tree through its links."""
        return {name: (self.tree / name).read_bytes() for name in self.names}

    @property
    def plan_bytes(self) -> bytes:
        return (self.workspace / "identified" / "lists" / "plan.tsv").read_bytes()


def facts_of(dump: Path) -> dict[str, tuple[int, int, int, int]]:
    """Tell what an owner would look at of each file of a dump."""
    return {
        os.fspath(path): (path.lstat().st_ino, path.lstat().st_mode, path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in dump.rglob("*")
    }


# --- the plan


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=LONG)])
def test_the_sort_does_what_the_plan_said(workers: int, tmp_path: Path) -> None:
    study = Study(tmp_path)
    before = facts_of(study.dump)
    ended = study.scanward("plan", "--workers", workers)
    path = study.workspace / "identified" / "lists" / "plan.tsv"
    assert ended.out == f"{path}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert study.names == set(), "a plan places nothing"
    planned, rows = study.plan_bytes, rows_of(study.workspace, "plan")
    assert len(rows) == 14
    assert [row["target"] for row in rows] == sorted(row["target"] for row in rows)

    study.sort()
    assert study.plan_bytes == planned
    assert study.names == {row["target"] for row in rows}
    came_in = digests(study.dump) | {"a.zip!/IM1": digests(study.folder)["member"]}
    placed = digests(study.tree)
    assert {row["target"]: came_in[row["file"]] for row in rows} == placed
    assert facts_of(study.dump) == before
    # And a plan of what is sorted is the plan that it was sorted by.
    study.scanward("plan")
    assert study.plan_bytes == planned


def test_the_plan_tells_what_will_be_set_aside(tmp_path: Path) -> None:
    study = Study(tmp_path)
    study.scanward("plan")
    duplicate, *_ = rows_of(study.workspace, "duplicates")
    assert "duplicate" in duplicate.values()
    assert {row["file"] for row in rows_of(study.workspace, "conflicts")} >= {"conflict"}
    planned = {row["target"] for row in rows_of(study.workspace, "plan")}
    assert {row["kept_as"] for row in rows_of(study.workspace, "conflicts")} <= planned


def test_the_next_plan_tells_what_the_next_sort_will_do(tmp_path: Path) -> None:
    """The tree stays as it is until then, also where the new plan wants it otherwise."""
    study = Study(tmp_path)
    study.sort()
    before = study.shown
    write_instance(study.dump / "new", make_instance(1, 1, 1, 1, ImageComments="a conflict"))
    study.settle('[sort]\nlayout = "patient-id"')
    study.scanward("plan")
    assert study.shown == before
    planned = study.plan_bytes
    study.sort()
    assert study.plan_bytes == planned
    assert study.names == {row["target"] for row in rows_of(study.workspace, "plan")}
    assert not study.names & set(before)


KILLED = """
import os, signal, sys
from luigi.cmdline import luigi_run
import pipelines.sort as sort
from tasks.sort.store import SortStore

moment = sys.argv[1]

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

if moment == "while the plan is written":
    whole = SortStore.write_plan
    def half(self, planned, rest):
        def cut():
            for number, one in enumerate(rest):
                if number == 4:
                    die()
                yield one
        whole(self, planned, cut())
    SortStore.write_plan = half
elif moment == "when the lists are written":
    written = sort.write_list
    def some(path, *rest):
        written(path, *rest)
        if path.name == "plan.tsv":
            die()
    sort.write_list = some
else:
    sort.PlanSort.finish = die
luigi_run(sys.argv[2:])
"""


@pytest.mark.parametrize(
    "moment",
    [
        "while the plan is written",
        pytest.param("when the lists are written", marks=LONG),
        pytest.param("before its receipt", marks=LONG),
    ],
)
def test_a_plan_that_was_killed_is_made_again(moment: str, tmp_path: Path) -> None:
    study, undisturbed = Study(tmp_path / "a"), Study(tmp_path / "b")
    words = luigi_words("PlanSort", "--study", study.file)[1:]
    assert run([sys.executable, "-c", KILLED, moment, *words], cwd=tmp_path).code == -signal.SIGKILL
    assert study.names == set()
    study.scanward("plan")
    undisturbed.scanward("plan")
    assert study.plan_bytes == undisturbed.plan_bytes
    study.sort()
    assert study.plan_bytes == undisturbed.plan_bytes
    assert study.names == {row["target"] for row in rows_of(study.workspace, "plan")}


def test_faults_of_a_plan_have_the_codes_of_a_sort(tmp_path: Path) -> None:
    ended = scanward("plan", "--dump", tmp_path / "nowhere", "--workspace", tmp_path / "w", cwd=tmp_path)
    assert (ended.code, ended.out, len(ended.err.splitlines())) == (4, "", 1)
    (tmp_path / "dump").mkdir()
    words = ("--dump", tmp_path / "dump", "--workspace", tmp_path / "w")
    ended = scanward("plan", *words, "--workers", 0, cwd=tmp_path)
    assert ended.code == 2
    assert "Traceback" not in ended.err
    (tmp_path / "w" / "identified").mkdir(parents=True)
    (tmp_path / "w" / "identified" / "index.db").write_bytes(b"no index")
    ended = scanward("plan", *words, cwd=tmp_path)
    assert ended.code != 0
    assert "Traceback" not in ended.said


def first_pair_of_equal_hashes(texts: Iterable[str]) -> tuple[str, str]:
    seen: dict[str, str] = {}
    for text in texts:
        other = seen.setdefault(short_hash(text), text)
        if other != text:
            return other, text
    raise AssertionError("no two short hashes are equal")


@pytest.mark.parametrize("order", [1, -1])
def test_short_hashes_that_meet_by_chance_become_long(order: int, tmp_path: Path) -> None:
    """Among some hundred thousand instances two hashes of 32 bits do meet."""
    one, other = first_pair_of_equal_hashes(f"2.25.{number}" for number in range(500_000))
    rows = [make_row(b"%d" % number, sop_instance_uid=uid) for number, uid in enumerate((one, other, "2.26.1"))][
        ::order
    ]
    stamps = [FileStamp(path=row.path, size=1, mtime_ns=1, device=1, inode=number) for number, row in enumerate(rows)]
    with SortStore(tmp_path / "index.db") as store:
        store.take_scan(stamps)
        store.merge("0", pack(stamps, rows))
        store.finish_scan([], lambda *_: False)
        names = TreeNames(store, parse_layout("patient-date-series"), 4, {})
        files = {file.path: file for file in store.candidates()}
        short = {path: names.target(file, "") for path, file in files.items()}
        assert short[b"0"] == short[b"1"] != short[b"2"]
        plan_tree(store, names, lambda kept: [""] * len(kept), watched=iter)
        planned = {path: target for path, target, _ in store.planned()}
        assert len(set(planned.values())) == 3
        assert planned[b"2"] == short[b"2"], "the others keep their names"
        assert [planned[path] for path in (b"0", b"1")] == [
            names.place(files[path].header, files[path].values, digits=32) for path in (b"0", b"1")
        ]


def test_digests_that_begin_alike_become_long(tmp_path: Path) -> None:
    """As of two contents that have one SOP Instance UID, or none."""
    rows = [replace(make_row(), path=b"%d" % number) for number in range(2)]
    stamps = [FileStamp(path=row.path, size=1, mtime_ns=1, device=1, inode=number) for number, row in enumerate(rows)]
    with SortStore(tmp_path / "index.db") as store:
        store.take_scan(stamps)
        store.merge("0", pack(stamps, rows))
        store.finish_scan([], lambda *_: False)
        store.keep_digests(
            zip((one.file for one in store.candidates()), ("ab" * 32, "ab" * 4 + "cd" * 28), strict=True)
        )
        names = TreeNames(store, parse_layout("patient-date-series"), 4, {})
        short = {names.target(one, one.digest) for one in store.candidates()}
        assert len(short) == 1
        plan_tree(store, names, lambda kept: [""] * len(kept), watched=iter)
        assert store.contested_targets() == []
        assert len({target for _, target, _ in store.planned()} - short) == 2


# --- the ways


@pytest.mark.parametrize("place", ["copy", "hardlink", "symlink"])
def test_files_are_placed_the_way_the_study_file_says(place: str, tmp_path: Path) -> None:
    study = Study(tmp_path, more=f'[sort]\nplace = "{place}"')
    before = facts_of(study.dump)
    study.sort()
    rows = [row for row in rows_of(study.workspace, "plan") if "!" not in row["file"]]
    assert len(rows) == 13
    for row in rows:
        source, target = study.dump / row["file"], study.tree / row["target"]
        assert target.is_symlink() == (place == "symlink")
        assert os.path.samefile(source, target) == (place != "copy")
        assert target.read_bytes() == source.read_bytes()
    assert facts_of(study.dump) == before
    assert (
        set(contents(study.dump)) - set(contents(study.tree))
        <= {digests(study.dump)[name] for name in ("junk", "a.zip")}
        or place == "symlink"
    )


@pytest.mark.parametrize("place", ["hardlink", "reflink"])
def test_a_way_there_is_not_ends_in_one_sentence(place: str, tmp_path: Path) -> None:
    """Between two file systems there is neither; and nothing is copied behind anybody's back."""
    with other_device(tmp_path) as elsewhere:
        study = Study(tmp_path / "a", workspace=elsewhere / "w", more=f'[sort]\nplace = "{place}"')
        ended = luigi("SortStudy", "--study", study.file, cwd=tmp_path)
        assert ended.code != 0
        assert "Traceback" not in ended.said
        (sentence,) = ended.lines_with("cannot take files of the dump")
        assert f"cannot take files of the dump by {place}." in sentence
        assert study.names == set()
        study.settle('[sort]\nplace = "auto"')
        study.sort()
        assert len(study.names) == 14


@LONG
def test_another_way_places_nothing_anew_that_stands(tmp_path: Path) -> None:
    """What was linked stays linked when copies are asked for later: the tree holds the right bytes."""
    study = Study(tmp_path, more='[sort]\nplace = "hardlink"')
    study.sort()
    before = times(study.tree)
    study.settle('[sort]\nplace = "copy"')
    study.sort()
    assert times(study.tree) == before


# --- taking back


WAYS = pytest.mark.parametrize("place", ["copy", *(pytest.param(way, marks=LONG) for way in ("hardlink", "symlink"))])


@WAYS
def test_undo_takes_back_the_last_sort_and_then_the_one_before(place: str, tmp_path: Path) -> None:
    study = Study(tmp_path, more=f'[sort]\nplace = "{place}"')
    study.sort()
    first = study.shown
    for number in range(3):
        write_instance(study.dump / f"new{number}", make_instance(4, 1, 1, 1 + number))
    # One that gives two files other names: they are moved, and have to be moved back.
    write_instance(study.dump / "another", make_instance(2, 1, 1, 1, ImageComments="another"))
    study.sort()
    second, plan = study.shown, study.plan_bytes
    before = facts_of(study.dump)
    assert len(second) == 18

    ended = study.scanward("undo")
    assert ended.out == ("Undid run 2: 5 files taken out of the sorted tree, 1 put back where they were before.\n")
    assert study.shown == first
    assert study.scanward("undo").out.startswith("Undid run 1: 14 files taken out of the sorted tree")
    assert list(study.tree.iterdir()) == []
    assert study.scanward("undo").out == "There is no run left to undo.\n"
    assert facts_of(study.dump) == before

    # The same command makes the same tree, by the same plan.
    study.sort()
    assert study.shown == second
    assert study.plan_bytes == plan
    study.scanward("undo")
    assert study.names == set()
    status = json.loads(study.scanward("status", "--json").out)
    assert [(run["run"], bool(run["undone"])) for run in status["runs"]] == [(3, True), (2, True), (1, True)]


def test_undo_keeps_what_the_dump_no_longer_holds(tmp_path: Path) -> None:
    """A file that is gone, one that was written over, and what an archive held that is gone."""
    study = Study(tmp_path, more='[sort]\nplace = "copy"')
    study.sort()
    by_file = {row["file"]: row["target"] for row in rows_of(study.workspace, "plan")}
    gone, over = sorted(path for path in study.dump.iterdir() if len(path.name) == 8 and path.name in by_file)[:2]
    before = study.shown
    gone.unlink()
    (study.dump / "a.zip").unlink()
    write_instance(over, make_instance(5, 1, 1, 1))
    ended = study.scanward("undo")
    kept = {by_file[name] for name in (gone.name, over.name, "a.zip!/IM1")}
    assert study.shown == {name: content for name, content in before.items() if name in kept}
    assert ended.out.splitlines()[1:] == ["3 files stayed, because the dump no longer holds them."]
    study.sort()
    assert study.shown.items() >= {name: before[name] for name in kept}.items()
    assert set(contents(study.tree)) >= set(contents(study.dump)) - {digests(study.dump)["junk"]}
    study.scanward("undo")
    assert study.shown.items() >= {name: before[name] for name in kept}.items()


CUT_OFF = """
import os, signal, sys
from luigi.cmdline import luigi_run
import pipelines.sort as sort

whole = sort.place_all
asked = []

def cut(orders, *rest, **more):
    def some():
        for order in orders:
            if len(asked) == 6:
                os.kill(os.getpid(), signal.SIGKILL)
            asked.append(order)
            yield order
    return whole(some(), *rest, **more)

sort.place_all = cut
luigi_run(sys.argv[1:])
"""


def test_undo_of_a_sort_that_was_killed_takes_back_what_it_placed(tmp_path: Path) -> None:
    """Also what it had no time to note."""
    study = Study(tmp_path)
    words = luigi_words("SortStudy", "--study", study.file)[1:]
    assert run([sys.executable, "-c", CUT_OFF, *words], cwd=tmp_path).code == -signal.SIGKILL
    assert len(study.names) == 6
    assert study.scanward("undo").out.startswith("Undid run 1: 6 files taken out of the sorted tree")
    assert study.names == set()
    study.sort()
    assert len(study.names) == 14


@pytest.mark.parametrize("place", ["hardlink", "copy"])
def test_what_a_killed_sort_placed_and_the_dump_lost_is_kept(place: str, tmp_path: Path) -> None:
    """Nobody had time to note the place, and it holds the last copy."""
    study = Study(tmp_path, more=f'[sort]\nplace = "{place}"')
    words = luigi_words("SortStudy", "--study", study.file)[1:]
    assert run([sys.executable, "-c", CUT_OFF, *words], cwd=tmp_path).code == -signal.SIGKILL
    placed = study.shown
    by_target = {row["target"]: row["file"] for row in rows_of(study.workspace, "plan")}
    lost = sorted(target for target in placed if "!" not in by_target[target])[1:3]
    assert len(lost) == 2, "and neither is the one that lies in the dump twice"
    for target in lost:
        (study.dump / by_target[target]).unlink()
    study.sort()
    assert study.shown.items() >= placed.items()
    assert len(study.names) == 14
    assert counts_of(study.workspace, "sort")["gone_from_the_dump"] == len(lost)


def test_a_tree_taken_away_after_a_killed_sort_is_made_anew(tmp_path: Path) -> None:
    """Whoever wants to begin from scratch removes what there is; lists of what was done are not believed then."""
    study = Study(tmp_path)
    words = luigi_words("SortStudy", "--study", study.file)[1:]
    assert run([sys.executable, "-c", CUT_OFF, *words], cwd=tmp_path).code == -signal.SIGKILL
    shutil.rmtree(study.tree)
    study.tree.mkdir(mode=0o700)
    study.sort()
    assert len(study.names) == 14
    assert not list((study.workspace / "identified" / "plans").iterdir())


UNDO_KILLED = """
import os, signal, sys
from pipelines.__main__ import main
from tasks.sort import undo

whole = undo.take_away

def half(targets, tree):
    whole(targets[::2], tree)
    os.kill(os.getpid(), signal.SIGKILL)

undo.take_away = half
main(sys.argv[1:])
"""


def test_undo_that_was_killed_half_way_is_done_again(tmp_path: Path) -> None:
    study = Study(tmp_path)
    study.sort()
    first = study.shown
    write_instance(study.dump / "another", make_instance(2, 1, 1, 1, ImageComments="another"))
    for number in range(3):
        write_instance(study.dump / f"new{number}", make_instance(4, 1, 1, 1 + number))
    study.sort()
    second = study.shown
    words = ["undo", "--study", str(study.file)]
    assert run([sys.executable, "-c", UNDO_KILLED, *words], cwd=tmp_path).code == -signal.SIGKILL
    assert study.scanward("undo").out.startswith("Undid run 2: ")
    assert study.shown == first
    study.sort()
    assert study.shown == second


@LONG
def test_a_sort_behind_an_undo_that_was_killed_makes_the_tree_whole(tmp_path: Path) -> None:
    study = Study(tmp_path)
    study.sort()
    whole = study.shown
    words = ["undo", "--study", str(study.file)]
    assert run([sys.executable, "-c", UNDO_KILLED, *words], cwd=tmp_path).code == -signal.SIGKILL
    assert 0 < len(study.names) < 14
    study.sort()
    assert study.shown == whole


def test_undo_where_nothing_was_sorted(tmp_path: Path) -> None:
    (tmp_path / "dump").mkdir()
    words = ("--dump", tmp_path / "dump", "--workspace", tmp_path / "w")
    ended = scanward("undo", *words, cwd=tmp_path)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == "Nothing was sorted into this workspace yet. There is nothing to undo.\n"
    make_dump(tmp_path / "dump")
    assert scanward("plan", *words, cwd=tmp_path).code == 0
    assert scanward("undo", *words, cwd=tmp_path).out == "There is no run left to undo.\n"


def test_undo_does_not_take_what_is_not_scanwards(tmp_path: Path) -> None:
    study = Study(tmp_path)
    study.sort()
    name = min(study.names)
    note = study.tree / Path(name).parent / "note.txt"
    note.write_text("mine")
    study.scanward("undo")
    assert study.names == {note.relative_to(study.tree).as_posix()}
    assert note.read_text() == "mine"
