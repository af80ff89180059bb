"""Night after night: what became of each file is told, nothing is done twice, and what failed is tried again."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import signal
import sqlite3
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tasks.index.store import CHANGES
from tests.builders.world import make_dump, make_instance, write_instance
from tests.pipelines.command import (
    Ended,
    contents,
    counts_of,
    digests,
    luigi,
    luigi_words,
    of_anybody,
    rows_of,
    run,
    times,
    unfinished,
    write_study,
)


class Study:
    """A dump, a study file and a workspace."""

    def __init__(self, folder: Path, more: str = "") -> None:
        self.dump, self.workspace, self.folder = folder / "dump", folder / "w", folder
        self.file = folder / "study.toml"
        folder.mkdir(exist_ok=True)
        self.settle(more)

    def settle(self, more: str) -> None:
        """Write the study file; `more` stands before its last section."""
        write_study(self.file, dump=self.dump, workspace=self.workspace, more=more, files=5)

    def sort(self, *words: object) -> Ended:
        """Sort the dump and expect it to end well."""
        ended = luigi("SortStudy", "--study", self.file, *words, cwd=self.folder)
        assert ended.code == 0, ended.said
        assert unfinished(self.workspace) == []
        return ended

    @property
    def tree(self) -> dict[str, str]:
        return digests(self.workspace / "identified" / "sorted")

    @property
    def found(self) -> dict[str, int]:
        """Tell what the last scan found, without what it found none of."""
        counts = counts_of(self.workspace, "index")
        return {name: counts[f"{name}_now"] for name in CHANGES if counts.get(f"{name}_now")}

    @property
    def placed_now(self) -> int:
        return counts_of(self.workspace, "sort")["placed_now"]

    @property
    def reasons(self) -> dict[str, str]:
        return {row["file"]: row["reason"] for row in rows_of(self.workspace, "rejects")}


def send_again(path: Path) -> None:
    """Replace a file by one of the same bytes: another inode, another time."""
    content = path.read_bytes()
    beside = path.with_name("beside")
    beside.write_bytes(content)
    os.replace(beside, path)


LONG = pytest.mark.long


def through_links(tree: Path) -> list[str]:
    """List the digests of a tree's files, read through its links; one that leads nowhere fails."""
    return sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in tree.rglob("*.dcm"))


@pytest.mark.parametrize("place", ["copy", "hardlink", pytest.param("symlink", marks=LONG)])
def test_what_became_of_each_file_is_told(place: str, tmp_path: Path) -> None:
    study = Study(tmp_path, f'[sort]\nplace = "{place}"')
    moved, renamed, sent_again, changed, vanished, touched, *rest = make_dump(study.dump, instances=9)
    study.sort()
    assert study.found == {"new": 9}
    before = study.tree

    (study.dump / "folder").mkdir()
    moved.rename(study.dump / "folder" / moved.name)
    renamed.rename(study.dump / "new name")
    send_again(sent_again)
    write_instance(tmp_path / "other", make_instance(instance=4, ImageComments="another"))
    os.replace(tmp_path / "other", changed)
    vanished.rename(tmp_path / "away")
    os.utime(touched, ns=(1, 1))
    write_instance(study.dump / "new", make_instance(instance=10))
    study.sort()
    # Where files are linked nobody can tell what stood in one before it was touched; nor, behind a symbolic link, what
    # stood at a path before another file took it.
    unsure = {"copy": 0, "hardlink": 1, "symlink": 2}[place]
    expected = {"new": 1, "moved": 1, "renamed": 1, "re_sent": 2 - unsure, "changed": 1 + unsure, "vanished": 1}
    assert study.found == {change: count for change, count in expected.items() if count}
    after = study.tree
    if place == "symlink":
        assert through_links(study.workspace / "identified" / "sorted") == contents(study.dump)
    else:
        # What was only moved or sent again has its place; of what changed both are kept; what vanished stays.
        assert len({name for name, digest in before.items() if after.get(name) == digest}) == 8
        assert study.placed_now == 3 + unsure
        assert set(after.values()) == set(contents(study.dump)) | set(before.values())
        assert counts_of(study.workspace, "sort")["gone_from_the_dump"] == 2

    (tmp_path / "away").rename(vanished)
    rest[0].rename(tmp_path / "away for good")
    study.sort()
    assert study.found == {"new": 1, "vanished": 1}, "what comes back is the file that it was"
    if place == "symlink":
        assert through_links(study.workspace / "identified" / "sorted") == contents(study.dump)
    else:
        assert study.placed_now == 0
        assert study.tree == after
    assert study.sort().err.count("(nothing new)") == 3


def test_links_follow_the_files_that_move(tmp_path: Path) -> None:
    """One by one, and when the whole dump is found elsewhere."""
    study = Study(tmp_path, '[sort]\nplace = "symlink"')
    first, *_ = make_dump(study.dump, instances=3)
    study.sort()
    (study.dump / "deep" / "folder").mkdir(parents=True)
    first.rename(study.dump / "deep" / "folder" / "name")
    study.sort()
    assert study.found == {"moved": 1}
    assert study.placed_now == 0
    tree = study.workspace / "identified" / "sorted"
    assert through_links(tree) == contents(study.dump)
    study.dump.rename(tmp_path / "other")
    study.dump = tmp_path / "other"
    study.settle('[sort]\nplace = "symlink"')
    study.sort()
    assert through_links(tree) == contents(study.dump)


@LONG
def test_two_nights_make_the_tree_of_one(tmp_path: Path) -> None:
    """Series whose files arrive on two nights join; a duplicate and a conflict that come later change no content."""
    whole, parts = Study(tmp_path / "a"), Study(tmp_path / "b")
    files = make_dump(whole.dump, patients=2, series=2, instances=3)
    write_instance(whole.dump / "conflict", make_instance(1, 1, 1, 1, ImageComments="another"))
    shutil.copy(files[4], whole.dump / "duplicate")
    (whole.dump / "junk").write_bytes(b"junk")
    whole.sort()
    names = sorted(path.name for path in whole.dump.iterdir())
    parts.dump.mkdir(parents=True)
    for night in range(3):
        for name in names[night::3]:
            shutil.copy(whole.dump / name, parts.dump / name)
        parts.sort("--workers", 1 + night % 2)
    assert parts.tree == whole.tree
    for name in ("plan", "rejects", "duplicates", "conflicts", "incomplete"):
        assert rows_of(parts.workspace, name) == rows_of(whole.workspace, name), name


# --- killed between two acts of a stage

KILLED = """
import os, signal, sys
from luigi.cmdline import luigi_run
import pipelines.base as base

moment, stage = sys.argv[1:3]
whole, forget = base.write_receipt, base.StageTask.forget_plans

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

if moment == "before":
    base.write_receipt = lambda folder, receipt: die() if receipt.stage == stage else whole(folder, receipt)
else:
    base.StageTask.forget_plans = lambda self, **but: die() if self.stage == stage and not but else forget(self, **but)
luigi_run(sys.argv[3:])
"""


def deadly(moment: str, stage: str, study: Study) -> Ended:
    """Sort, and be killed before a stage's receipt is written, or right behind it."""
    words = luigi_words("SortStudy", "--study", study.file)[1:]
    return run([sys.executable, "-c", KILLED, moment, stage, *words], cwd=study.folder)


@pytest.mark.parametrize(
    ("moment", "stage"),
    [
        ("before", "index"),
        pytest.param("behind", "index", marks=LONG),
        pytest.param("before", "plan", marks=LONG),
        pytest.param("before", "sort", marks=LONG),
    ],
)
def test_killed_at_a_receipt_and_started_again_tells_the_same(moment: str, stage: str, tmp_path: Path) -> None:
    """What the scan found is counted once and told to the run that comes to its end; the journal has one line."""
    studies = [Study(tmp_path / name) for name in ("disturbed", "undisturbed")]
    for study in studies:
        make_dump(study.dump, instances=6)
        study.sort()
        first, second, third, *_ = sorted(study.dump.iterdir())
        first.unlink()
        second.rename(study.dump / "new name")
        third.write_bytes(third.read_bytes()[:-2] + b"xx")
        write_instance(study.dump / "new", make_instance(instance=7))
    disturbed, undisturbed = studies
    undisturbed.sort()
    assert deadly(moment, stage, disturbed).code == -signal.SIGKILL
    disturbed.sort()
    assert disturbed.found == undisturbed.found == {"new": 1, "renamed": 1, "changed": 1, "vanished": 1}
    assert disturbed.tree == undisturbed.tree
    for name in ("plan", "rejects", "duplicates", "conflicts", "incomplete"):
        assert rows_of(disturbed.workspace, name) == rows_of(undisturbed.workspace, name), name
    journals = [journal_of(study.workspace) for study in studies]
    assert journals[0] == journals[1]
    assert len(journals[0]) == 2
    assert disturbed.sort().err.count("(nothing new)") == 3


def journal_of(workspace: Path) -> list[tuple[int, int, int]]:
    with closing(sqlite3.connect(workspace / "identified" / "index.db")) as connection:
        return connection.execute("SELECT id, placed, removed FROM run WHERE finished != '' ORDER BY id").fetchall()


# --- what could not be read


def sort_as_anybody(study: Study) -> Ended:
    ended = run(of_anybody(luigi_words("SortStudy", "--study", study.file)), cwd=study.folder)
    assert ended.code == 0, ended.said
    return ended


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[tuple[Study, Path, Path]]:
    """Give a dump with a file and a folder that may not be read."""
    study = Study(tmp_path, '[sort]\nplace = "copy"')
    file, other, *_ = make_dump(study.dump, instances=4)
    folder = study.dump / "folder"
    folder.mkdir()
    other.rename(folder / other.name)
    file.chmod(0)
    folder.chmod(0)
    yield study, file, folder
    folder.chmod(0o700)


def test_what_could_not_be_read_is_tried_again_though_nothing_changed(locked: tuple[Study, Path, Path]) -> None:
    study, file, folder = locked
    for _ in range(2):
        sort_as_anybody(study)
        assert study.reasons == {file.name: "unreadable", "folder": "folder-unreadable"}
        assert len(study.tree) == 2
        assert counts_of(study.workspace, "index")["read_now"] in (3, 1)
    # Somebody mends the rights, of which size, time and inode say nothing.
    file.chmod(0o600)
    sort_as_anybody(study)
    assert study.reasons == {"folder": "folder-unreadable"}
    assert len(study.tree) == 3
    assert sort_as_anybody(study).err.count("(nothing new)") == 3, "what is known is not read again"
    folder.chmod(0o700)
    sort_as_anybody(study)
    assert study.reasons == {}
    assert sorted(study.tree.values()) == contents(study.dump)


@pytest.mark.parametrize("when", [pytest.param("after indexing", marks=LONG), "after planning"])
def test_what_could_be_read_once_and_then_not_is_tried_again(when: str, tmp_path: Path) -> None:
    """A file that is needed whole, for its digest or its copy, and may not be read any more, stops nobody."""
    study = Study(tmp_path, '[sort]\nplace = "copy"')
    file, *_ = make_dump(study.dump, instances=3)
    shutil.copy(file, study.dump / "duplicate")
    assert (
        luigi(
            {"after indexing": "IndexDump", "after planning": "PlanSort"}[when], "--study", study.file, cwd=tmp_path
        ).code
        == 0
    )
    kept = min(file, study.dump / "duplicate")
    kept.chmod(0)
    sort_as_anybody(study)
    assert study.reasons == {kept.name: "unreadable"}
    sort_as_anybody(study)
    assert study.reasons == {kept.name: "unreadable"}
    assert len(study.tree) == 3, "the other copy is placed"
    kept.chmod(0o600)
    sort_as_anybody(study)
    assert study.reasons == {}
    assert set(study.tree.values()) == set(contents(study.dump))
    assert counts_of(study.workspace, "sort")["duplicates"] == 1
    assert sort_as_anybody(study).err.count("(nothing new)") == 3


# --- what is still arriving


def test_a_file_waits_until_it_is_quiet(tmp_path: Path) -> None:
    study = Study(tmp_path, "[index]\nquiet_seconds = 3600")
    arriving, ahead, *quiet = make_dump(study.dump, instances=4)
    hour = 3600 * 10**9
    now = time.time_ns()
    for path in quiet:
        os.utime(path, ns=(now, now - 2 * hour))
    os.utime(ahead, ns=(now, now + hour // 2))
    study.sort()
    assert study.reasons == {arriving.name: "still-arriving", ahead.name: "still-arriving"}
    assert len(study.tree) == 2
    assert study.sort().err.count("(nothing new)") == 3
    # The day after, as the clock of the file system tells it.
    for path in (arriving, ahead):
        os.utime(path, ns=(now, now - hour - 1))
    study.sort()
    assert study.reasons == {}
    assert sorted(study.tree.values()) == contents(study.dump)


@pytest.mark.parametrize("place", ["copy", pytest.param("hardlink", marks=LONG), pytest.param("symlink", marks=LONG)])
def test_a_file_that_changed_since_it_was_indexed_waits(place: str, tmp_path: Path) -> None:
    """The plan stands, and what it was made for is another file by now: it is not placed under the old one's name.

    The dump is scanned when a run begins, so what changes while it runs is seen by the next one.
    """
    study = Study(tmp_path, f'[sort]\nplace = "{place}"')
    first, *_ = make_dump(study.dump, instances=3)
    code = run(
        [sys.executable, "-c", CHANGED, str(first), *luigi_words("SortStudy", "--study", study.file)[1:]], cwd=tmp_path
    )
    assert code.code == 0, code.said
    assert study.reasons == {first.name: "still-arriving"}
    tree = study.workspace / "identified" / "sorted"
    assert len(list(tree.rglob("*.dcm"))) == 2
    study.sort()
    assert study.reasons == {}
    assert through_links(tree) == contents(study.dump)


CHANGED = """
import sys
from luigi.cmdline import luigi_run
from pipelines.sort import SortStudy

whole = SortStudy.work

def change_first(self):
    with open(sys.argv[1], "ab") as stream:
        stream.write(bytes(2))
    return whole(self)

SortStudy.work = change_first
luigi_run(sys.argv[2:])
"""


# --- archives


def zipped(path: Path, *instances: int, **overrides: object) -> Path:
    """Write a zip of images."""
    with zipfile.ZipFile(path, "w") as archive:
        for number in instances:
            stream = path.with_name("member")
            write_instance(stream, make_instance(instance=number, **overrides))
            archive.writestr(f"IM{number}", stream.read_bytes())
            stream.unlink()
    return path


def test_an_archive_that_moved_is_not_unpacked_twice(tmp_path: Path) -> None:
    study = Study(tmp_path)
    make_dump(study.dump, instances=2)
    archive = zipped(study.dump / "a.zip", 3, 4)
    study.sort()
    before, unpacked = study.tree, times(study.workspace / "identified" / "unpacked")
    assert len(before) == 4
    (study.dump / "folder").mkdir()
    archive.rename(study.dump / "folder" / "b.zip")
    study.sort()
    assert study.found == {"moved": 1}
    assert (study.placed_now, study.tree) == (0, before)
    assert set(times(study.workspace / "identified" / "unpacked")) == set(unpacked)
    assert {row["file"] for row in rows_of(study.workspace, "plan") if "!" in row["file"]} == {
        "folder/b.zip!/IM3",
        "folder/b.zip!/IM4",
    }
    assert rows_of(study.workspace, "opened") == [{"file": "folder/b.zip", "members": "2"}]


def test_an_archive_that_left_the_dump_leaves_its_images_in_the_tree(tmp_path: Path) -> None:
    study = Study(tmp_path)
    make_dump(study.dump, instances=2)
    archive = zipped(study.dump / "a.zip", 3, 4)
    with gzip.open(study.dump / "image.gz", "wb") as stream:
        write_instance(tmp_path / "image", make_instance(instance=5))
        stream.write((tmp_path / "image").read_bytes())
    study.sort()
    before = study.tree
    assert len(before) == 5
    archive.unlink()
    (study.dump / "image.gz").unlink()
    study.sort()
    assert study.tree == before
    assert study.found == {"vanished": 2}
    assert counts_of(study.workspace, "sort")["gone_from_the_dump"] == 3
    unpacked = study.workspace / "identified" / "unpacked"
    assert not unpacked.exists() or list(unpacked.rglob("*.dcm")) == []


@LONG
def test_an_archive_that_was_sent_again_adds_what_is_new_in_it(tmp_path: Path) -> None:
    study = Study(tmp_path)
    study.dump.mkdir()
    zipped(study.dump / "a.zip", 3, 4)
    study.sort()
    before = study.tree
    zipped(study.dump / "b.zip", 4, 5)
    os.replace(study.dump / "b.zip", study.dump / "a.zip")
    study.sort()
    assert study.found == {"changed": 1}
    assert {name: digest for name, digest in study.tree.items() if name in before} == before
    assert len(study.tree) == 3
    assert study.placed_now == 2


def test_higher_limits_open_the_archives_that_were_refused(tmp_path: Path) -> None:
    """And no others; nothing in the dump changed, so only the study file tells."""
    study = Study(tmp_path, "[archives]\nmembers = 2\ndepth = 1")
    make_dump(study.dump, instances=2)
    zipped(study.dump / "small.zip", 3)
    zipped(study.dump / "large.zip", 4, 5, 6)
    inner = io.BytesIO(zipped(tmp_path / "inner.zip", 7).read_bytes())
    with zipfile.ZipFile(study.dump / "nested.zip", "w") as archive:
        archive.writestr("inner.zip", inner.getvalue())
    study.sort()
    assert study.reasons == {"large.zip": "archive-limit", "nested.zip!/inner.zip": "archive-nested"}
    assert len(study.tree) == 3
    study.settle("[archives]\nmembers = 3\ndepth = 2")
    study.sort()
    assert study.reasons == {}
    assert len(study.tree) == 7
    assert counts_of(study.workspace, "index")["read_now"] == 2
    assert study.sort().err.count("(nothing new)") == 3


# --- workspaces of another version


def test_a_workspace_of_the_version_before_is_refused_in_one_sentence(tmp_path: Path) -> None:
    study = Study(tmp_path)
    make_dump(study.dump, instances=2)
    study.sort()
    before = study.tree
    index = study.workspace / "identified" / "index.db"
    for name in ("index.db-wal", "index.db-shm"):
        index.with_name(name).unlink(missing_ok=True)
    index.unlink()
    with closing(sqlite3.connect(index)) as connection:
        connection.execute("CREATE TABLE file (id INTEGER PRIMARY KEY, path BLOB NOT NULL)")
        connection.execute("PRAGMA user_version = 1")
    write_instance(study.dump / "new", make_instance(instance=3))
    ended = luigi("SortStudy", "--study", study.file, cwd=tmp_path)
    assert ended.code != 0
    assert "Traceback" not in ended.said
    sentence = (
        "which scanward wrote, cannot be read: it has the format 1, not 4. Delete it and start the same command again"
    )
    assert ended.lines_with(sentence), ended.said
    assert study.tree == before
    # What it says to do helps, and what stands in the tree is found again.
    index.unlink()
    study.sort()
    assert {name: digest for name, digest in study.tree.items() if name in before} == before
    assert sorted(study.tree.values()) == contents(study.dump)
