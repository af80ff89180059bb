"""The whole graph, from a dump to a manifest: nothing is lost, nothing is done twice, and nothing depends on order."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pytest

from tests.builders.demo_dump import DemoContents, FileKind, write_demo_dump
from tests.builders.world import make_dump, make_instance, write_instance
from tests.pipelines.command import (
    Ended,
    contents,
    counts_of,
    digests,
    exported_images,
    luigi,
    rows_of,
    scanward,
    times,
    unfinished,
    use_secret,
    viewer,
    write_study,
)
from tests.review.bids_validator import errors, validate


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A dump and what one run made of it."""

    dump: Path
    workspace: Path
    ended: Ended
    before: dict[str, tuple[int, ...]]
    """The dump's files before the run, as `facts_of` tells them."""
    content: dict[str, str]
    """Their digests then."""

    @property
    def sorted_tree(self) -> Path:
        return self.workspace / "identified" / "sorted"

    @property
    def export(self) -> Path:
        return self.workspace / "released" / "export"


def facts_of(dump: Path) -> dict[str, tuple[int, ...]]:
    """Tell all of each file and folder that a careful owner would look at; names may be added to an inode."""
    facts = {}
    for path in [dump, *dump.rglob("*")]:
        status = path.lstat()
        facts[str(path)] = (
            status.st_ino,
            status.st_mode,
            status.st_uid,
            status.st_gid,
            status.st_size,
            status.st_mtime_ns,
        )
    return facts


def prepare(dump: Path, workspace: Path, *, workers: int = 1, files: int = 40, series: int = 5) -> Ended:
    """Run the whole graph with small chunks, and expect it to end well."""
    study = write_study(workspace.with_suffix(".toml"), dump=dump, workspace=workspace, files=files, series=series)
    ended = luigi("PrepareReview", "--study", study, "--workers", workers, cwd=workspace.parent)
    assert ended.code == 0, ended.said
    assert ended.out == ""
    return ended


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DemoContents]:
    """Write the small demo dump once; tests that change a dump take a copy."""
    folder = tmp_path_factory.mktemp("demo") / "dump"
    return folder, write_demo_dump(folder, small=True)


@pytest.fixture(scope="module")
def whole(demo: tuple[Path, DemoContents], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run the whole graph once on the small demo dump."""
    dump, _ = demo
    workspace = tmp_path_factory.mktemp("whole") / "w"
    use_secret(workspace)
    before, content = facts_of(dump), digests(dump)
    return Run(dump=dump, workspace=workspace, ended=prepare(dump, workspace), before=before, content=content)


def assert_accounted_for(dump: Path, workspace: Path) -> None:
    """Do the arithmetic by content: what went in is placed or rejected; what was placed is exported or quarantined."""
    came_in = digests(dump)
    sorted_tree = digests(workspace / "identified" / "sorted")
    rejected = {came_in[row["file"]] for row in rows_of(workspace, "rejects")}
    assert len(set(sorted_tree.values())) == len(sorted_tree), "equal contents are placed once"
    assert set(came_in.values()) == set(sorted_tree.values()) | rejected
    assert not set(sorted_tree.values()) & rejected

    duplicates = rows_of(workspace, "duplicates")
    assert len(came_in) == len(sorted_tree) + len(duplicates) + len(rows_of(workspace, "rejects"))
    assert all(came_in[row["file"]] == came_in[row["same_as"]] and row["file"] != row["same_as"] for row in duplicates)
    for row in rows_of(workspace, "conflicts"):
        assert sorted_tree[row["kept_as"]] == came_in[row["file"]]

    exported = exported_images(workspace)
    quarantined = rows_of(workspace, "quarantine")
    assert len(sorted_tree) == len(exported) + len(quarantined)
    assert {row["file"] for row in quarantined} <= set(sorted_tree)
    assert not {row["would_be"] for row in quarantined} & set(exported)
    assert_counted(workspace, seen=len(came_in), placed=len(sorted_tree), exported=len(exported))


def assert_counted(workspace: Path, *, seen: int, placed: int, exported: int) -> None:
    """Check that receipts, lists, `scanward status` and the manifest tell the same numbers."""
    index, plan, sort = (counts_of(workspace, stage) for stage in ("index", "plan", "sort"))
    harvest, deidentify, review = (counts_of(workspace, stage) for stage in ("harvest", "deidentify", "prepare-review"))
    assert index["files_seen"] == sort["files_seen"] == seen
    assert (sort["placed"], deidentify["exported"]) == (placed, exported)
    for name, count in (
        ("rejects", sort["rejected"]),
        ("duplicates", sort["duplicates"]),
        ("conflicts", sort["conflicts"]),
    ):
        assert len(rows_of(workspace, name)) == count, name
    assert len(rows_of(workspace, "quarantine")) == deidentify["quarantined"]
    came_in = sort["files_seen"] + sort["in_archives"] + sort["gone_from_the_dump"]
    assert came_in == sort["placed"] + sort["duplicates"] + sort["rejected"] + sort["archives_opened"]
    assert harvest["files"] == deidentify["sorted_files"] == placed == exported + deidentify["quarantined"]

    status = json.loads(scanward("status", "--workspace", workspace, "--json", cwd=workspace).out)
    assert [stage["counts"] for stage in status["stages"].values()] == [
        *(index, plan, sort),
        *(harvest, deidentify, review),
    ]
    reasons = status["stages"]["Sort"]["reasons"]
    assert sum(reasons.values()) == sort["rejected"]
    assert sum(status["stages"]["De-identify"]["reasons"].values()) == deidentify["quarantined"]

    manifest = json.loads((workspace / "released" / "review" / "manifest.json").read_bytes())
    listed = {instance["path"]: instance["sha256"] for entry in manifest["entries"] for instance in entry["instances"]}
    assert listed == {f"../export/{name}": digest for name, digest in exported_images(workspace).items()}
    assert len(manifest["entries"]) == review["series"]
    assert len(list((workspace / "released" / "review" / "montage").iterdir())) == review["pictures"]
    check = viewer("check", workspace / "released" / "review" / "manifest.json", "--json", cwd=workspace)
    facts = json.loads(check.out.splitlines()[-1])
    assert facts["instances"] == exported
    assert not [code for code in facts["findings"] if code.startswith(("file-", "digest", "size", "unlisted"))], (
        check.out
    )


def test_every_file_of_the_demo_is_accounted_for(whole: Run) -> None:
    assert_accounted_for(whole.dump, whole.workspace)


def test_the_demo_comes_out_as_it_was_planted(demo: tuple[Path, DemoContents], whole: Run) -> None:
    _, planted = demo
    kinds = planted.counts()
    junk = sum(kinds[kind] for kind in (FileKind.EMPTY, FileKind.THUMBNAILS, FileKind.PDF, FileKind.TEXT))
    reasons = [row["reason"] for row in rows_of(whole.workspace, "rejects")]
    assert reasons.count("not-dicom") + reasons.count("empty") == junk
    assert len(rows_of(whole.workspace, "duplicates")) >= kinds[FileKind.DUPLICATE]
    came_in = digests(whole.dump)
    kept_as = {row["file"]: row["kept_as"] for row in rows_of(whole.workspace, "conflicts")}
    for file in planted.of_kind(FileKind.CONFLICT):
        assert kept_as[file.name] != kept_as[file.original]
        assert came_in[file.name] != came_in[file.original]


def test_the_end_says_what_was_done_and_where_the_lists_are(whole: Run) -> None:
    said = whole.ended.err
    for stage, title in {
        "index": "Indexed",
        "plan": "Planned",
        "sort": "Sorted",
        "deidentify": "De-identified",
        "prepare-review": "Prepared",
    }.items():
        (line,) = [line for line in said.splitlines() if line.startswith(f"{title}: ")]
        for name, count in counts_of(whole.workspace, stage).items():
            assert not count or f"{count:,} {name.replace('_', ' ')}" in line
    for name in ("rejects", "duplicates", "conflicts", "quarantine"):
        assert f"  {name}: {whole.workspace}/identified/lists/{name}.tsv" in said
    assert f"  manifest: {whole.workspace}/released/review/manifest.json" in said


def test_the_dump_is_left_as_it_was(whole: Run) -> None:
    assert facts_of(whole.dump) == whole.before
    assert digests(whole.dump) == whole.content


def test_only_the_owner_may_open_what_identifies(whole: Run) -> None:
    identified = whole.workspace / "identified"
    assert stat.S_IMODE(identified.stat().st_mode) == 0o700
    for folder in ("sorted", "plans", "receipts", "lists", "logs"):
        assert stat.S_IMODE((identified / folder).stat().st_mode) == 0o700, folder
    for name in ("secret", "keymap.db", "index.db", "export.db", "workspace-key"):
        assert stat.S_IMODE((identified / name).stat().st_mode) == 0o600, name
    for path in (identified / "lists").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name
    assert {path.name for path in whole.workspace.iterdir()} == {"identified", "released"}
    assert {path.name for path in (whole.workspace / "released").iterdir()} == {"export", "nifti", "review"}


def test_the_data_set_is_one_for_the_validator(whole: Run) -> None:
    assert errors(validate(whole.workspace / "released" / "nifti")) == []
    assert counts_of(whole.workspace, "prepare-review")["images"] > 15


def test_nothing_is_left_over(whole: Run) -> None:
    assert unfinished(whole.workspace) == []
    assert list((whole.workspace / "identified" / "plans").iterdir()) == []
    assert not (whole.workspace / "identified" / "logs" / "faults.log").exists()


def test_a_second_run_does_nothing_and_says_so(whole: Run) -> None:
    before = times(whole.workspace)
    ended = prepare(whole.dump, whole.workspace)
    assert times(whole.workspace) == before
    said = ended.err.splitlines()
    assert said[0].startswith("Indexed (nothing new): ")
    assert [line for line in said if "(nothing new)" in line] == [line for line in said if not line.startswith("  ")]
    assert "now" not in ended.err.replace("nothing new", "")


@pytest.mark.parametrize(("workers", "seed"), [(2, 8), pytest.param(1, 7, marks=pytest.mark.long)])
def test_neither_workers_nor_order_change_a_byte(whole: Run, workers: int, seed: int, tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    dump.mkdir()
    names = sorted(os.listdir(whole.dump))
    random.Random(seed).shuffle(names)
    for name in names:
        shutil.copy(whole.dump / name, dump / name)
    use_secret(tmp_path / "w")
    prepare(dump, tmp_path / "w", workers=workers, files=55 + workers, series=9)
    assert digests(tmp_path / "w" / "identified" / "sorted") == digests(whole.sorted_tree)
    assert digests(tmp_path / "w" / "released") == digests(whole.workspace / "released")
    for name in ("rejects", "duplicates", "conflicts", "quarantine"):
        assert rows_of(tmp_path / "w", name) == rows_of(whole.workspace, name)


@pytest.mark.parametrize("workers", [1, 2])
def test_every_chunk_is_done_once(workers: int, tmp_path: Path) -> None:
    make_dump(tmp_path / "dump", series=2, instances=3)
    study = write_study(tmp_path / "s.toml", dump=tmp_path / "dump", workspace=tmp_path / "w", files=3, series=1)
    ended = luigi("PrepareReview", "--study", study, "--workers", workers, "--log-level", "INFO", cwd=tmp_path)
    assert ended.code == 0, ended.said
    for task in ("IndexChunk", "ExportChunk", "ReviewChunk"):
        assert len(ended.lines_with(f"done      {task}(")) == 2, task


def test_what_comes_later_is_all_that_is_done(tmp_path: Path) -> None:
    """Fifty files more: half of them for a series that is there, half for a new patient."""
    dump, workspace = tmp_path / "dump", tmp_path / "w"
    make_dump(dump, patients=2, series=2, instances=10)
    prepare(dump, workspace)
    first = times(workspace)

    (dump / "later").mkdir()
    for number in range(25):
        write_instance(dump / "later" / f"a{number}", make_instance(2, 1, 2, 11 + number))
        write_instance(dump / "later" / f"b{number}", make_instance(3, 1, 1, 1 + number))
    prepare(dump, workspace)
    assert counts_of(workspace, "index")["read_now"] == 50
    assert counts_of(workspace, "sort")["placed_now"] == 50
    assert counts_of(workspace, "deidentify")["exported_now"] == 50
    assert counts_of(workspace, "prepare-review")["prepared_now"] == 2
    assert_accounted_for(dump, workspace)

    second = times(workspace)
    touched = {name for name in second if first.get(name) != second[name]}
    trees = [name for name in touched if name.startswith(("identified/sorted/", "released/export/SUB-"))]
    assert len(trees) == 100
    assert not [name for name in trees if name in first], "what stood was left alone"
    assert len([name for name in touched if name.startswith("released/review/montage/")]) == 2


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_file_that_changes_or_vanishes_loses_nothing(workers: int, tmp_path: Path) -> None:
    dump, workspace = tmp_path / "dump", tmp_path / "w"
    replaced, rewritten, vanished, renamed, *_ = make_dump(dump, instances=8)
    prepare(dump, workspace)
    before = contents(workspace / "identified" / "sorted")
    exported = exported_images(workspace)
    gone_content = hashlib.sha256(vanished.read_bytes()).hexdigest()

    # Another file under the same name, as a second transfer writes it; and one written over, which a hard link shows.
    write_instance(tmp_path / "new", make_instance(instance=1, ImageComments="sent again"))
    os.replace(tmp_path / "new", replaced)
    write_instance(rewritten, make_instance(instance=2, PatientName="Synthetic^Corrected"))
    vanished.unlink()
    renamed.rename(dump / "another name")
    prepare(dump, workspace, workers=workers)

    after = contents(workspace / "identified" / "sorted")
    shared = rewritten.stat().st_nlink > 1
    assert gone_content in after
    assert set(contents(dump)) <= set(after)
    assert len(set(before) - set(after)) == (1 if shared else 0), (
        "only what was written over through a hard link is gone"
    )
    assert counts_of(workspace, "sort")["gone_from_the_dump"] == (2 if shared else 3)
    assert rows_of(workspace, "duplicates") == []
    assert len(rows_of(workspace, "conflicts")) == (2 if shared else 4)

    now = exported_images(workspace)
    assert len(now) == len(after)
    # Six were not touched; the patient whose name was corrected is the same subject, so that export has the same bytes.
    assert len(set(now.items()) & set(exported.items())) == (7 if shared else 6)
    assert not unfinished(workspace)
    check = viewer("check", workspace / "released" / "review" / "manifest.json", cwd=workspace)
    assert "unlisted" not in check.out
    assert prepare(dump, workspace).err.count("(nothing new)") == 6


def test_a_file_written_over_in_the_dump_is_exported_anew(tmp_path: Path) -> None:
    """With hard links the sorted tree shows the new bytes under the old name: the export must follow."""
    dump, workspace = tmp_path / "dump", tmp_path / "w"
    *_, last = make_dump(dump, instances=3)
    prepare(dump, workspace)
    first = exported_images(workspace)
    write_instance(last, make_instance(instance=3, RepetitionTime="4711"))
    prepare(dump, workspace)

    exported = sorted((workspace / "released" / "export").rglob("*.dcm"))
    assert "4711" in {str(pydicom.dcmread(path).RepetitionTime) for path in exported}
    assert len(set(first.items()) & set(exported_images(workspace).items())) == 2
    assert counts_of(workspace, "deidentify")["exported_now"] == len(exported) - 2


def test_a_patient_written_over_in_the_dump_leaves_no_export_behind(tmp_path: Path) -> None:
    """The file now shows somebody else: it moves in both trees, and nothing unlisted stays in the export."""
    dump, workspace = tmp_path / "dump", tmp_path / "w"
    *_, last = make_dump(dump, instances=3)
    prepare(dump, workspace)
    write_instance(last, make_instance(2, 1, 1, 3))
    prepare(dump, workspace)
    assert set(contents(dump)) <= set(contents(workspace / "identified" / "sorted"))
    assert len(exported_images(workspace)) == len(digests(workspace / "identified" / "sorted"))
    assert viewer("check", workspace / "released" / "review" / "manifest.json", cwd=workspace).code == 0


def test_a_dump_that_moved_to_another_disk_is_not_exported_again(tmp_path: Path) -> None:
    dump, workspace = tmp_path / "dump", tmp_path / "w"
    make_dump(dump, instances=5)
    prepare(dump, workspace)
    before = times(workspace / "released" / "export")
    shutil.copytree(dump, tmp_path / "copy")
    shutil.rmtree(dump)
    (tmp_path / "copy").rename(dump)
    prepare(dump, workspace)
    assert counts_of(workspace, "index")["read_now"] == 5
    assert counts_of(workspace, "sort")["placed_now"] == 0
    assert times(workspace / "released" / "export") == before
    assert counts_of(workspace, "deidentify")["exported_now"] == 0


def test_a_dump_without_a_single_image_ends_well(tmp_path: Path) -> None:
    (tmp_path / "dump").mkdir()
    (tmp_path / "dump" / "Thumbs.db").write_bytes(b"no image")
    (tmp_path / "dump" / "empty").touch()
    (tmp_path / "dump" / "link").symlink_to("empty")
    prepare(tmp_path / "dump", tmp_path / "w")
    assert counts_of(tmp_path / "w", "sort")["rejected"] == 3
    assert json.loads((tmp_path / "w" / "released" / "review" / "manifest.json").read_bytes())["entries"] == []
    assert prepare(tmp_path / "dump", tmp_path / "w").err.count("(nothing new)") == 6


def test_an_empty_dump_ends_well(tmp_path: Path) -> None:
    (tmp_path / "dump").mkdir()
    prepare(tmp_path / "dump", tmp_path / "w")
    assert counts_of(tmp_path / "w", "sort")["files_seen"] == 0
