"""What a reviewer gets: the data set, the measures, the page and the manifest agree, night after night, and alone."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from pydicom import dcmread

from tasks.files import file_digest
from tasks.review.manifest import SCHEMA, read_manifest
from tests.builders.network import no_network
from tests.builders.world import make_dump, make_instance, write_instance
from tests.pipelines.command import counts_of, digests, luigi, luigi_words, run, times, viewer, write_study
from tests.review.bids_validator import errors, validate

RULES = """\
[[review.series]]
description = "series 1"
bids = "anat/T1w"
tr_ms = 500
slices = 4

[[review.series]]
description = "series 2"
bids = "anat/T2w"
"""


class Review:
    """A dump, a study file, and what PrepareReview makes of them."""

    def __init__(self, folder: Path, **world: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.dump, self.workspace, self.file = folder, folder / "dump", folder / "w", folder / "study.toml"
        make_dump(self.dump, **world)
        self.settle(RULES)

    def settle(self, more: str) -> None:
        write_study(self.file, dump=self.dump, workspace=self.workspace, more=more, series=2)

    def prepare(self) -> dict[str, int]:
        ended = luigi("PrepareReview", "--study", self.file, cwd=self.folder)
        assert ended.code == 0, ended.said
        return counts_of(self.workspace, "prepare-review")

    @property
    def released(self) -> Path:
        return self.workspace / "released"

    @property
    def manifest(self) -> Path:
        return self.released / "review" / "manifest.json"

    def entries(self) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = json.loads(self.manifest.read_bytes())["entries"]
        return entries

    def images(self) -> dict[str, str]:
        """Map the images of the data set to their digests."""
        nifti = self.released / "nifti"
        return {name: digest for name, digest in digests(nifti).items() if name.endswith(".nii.gz")}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Review:
    """Two patients, two visits, two series of four slices each; looked at, never changed."""
    review = Review(tmp_path_factory.mktemp("review"), patients=2, studies=2, series=2, instances=4)
    review.prepare()
    return review


@pytest.fixture
def review(prepared: Review, tmp_path: Path) -> Review:
    """Give a copy of it, of which hard links are hard links still."""
    for name in ("dump", "w"):
        subprocess.run(["cp", "-a", prepared.folder / name, tmp_path / name], check=True)
    copied = Review.__new__(Review)
    copied.folder, copied.dump, copied.workspace = tmp_path, tmp_path / "dump", tmp_path / "w"
    copied.file = tmp_path / "study.toml"
    copied.settle(RULES)
    return copied


def test_every_image_is_named_listed_and_measured(prepared: Review) -> None:
    entries = prepared.entries()
    assert len(entries) == 8
    assert {entry["group"] for entry in entries} == {"anat/T1w", "anat/T2w"}
    listed = {image["path"].removeprefix("../nifti/"): image for entry in entries for image in entry["images"]}
    assert {name: image["sha256"] for name, image in listed.items()} == prepared.images()
    assert {image["named_by"] for image in listed.values()} == {"rule"}
    quality = json.loads((prepared.released / "review" / "quality.json").read_bytes())["entries"]
    assert quality.keys() == {entry["entry_id"] for entry in entries}
    told = {check["text"] for images in quality.values() for image in images for check in image["quality"]["checks"]}
    assert any(text.startswith("Repetition time: ") and "where the study wants 500 ms" in text for text in told)
    assert not any("slices" in text for text in told), "there are four, as the study wants"
    page = (prepared.released / "review" / "index.html").read_text("utf-8")
    assert all(entry["entry_id"] in page for entry in entries)
    groups = {(one["subject"], one["group"]): one["entries"] for one in _content(prepared)["time_points"]}
    assert len(groups) == 4
    assert all(len(together) == 2 for together in groups.values())


def _content(review: Review) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(review.manifest.read_bytes())
    return content


def test_the_voxels_are_those_of_the_source(prepared: Review) -> None:
    for entry in prepared.entries():
        (image,) = entry["images"]
        opened = nibabel.load(prepared.manifest.parent / image["path"])
        values = np.asanyarray(opened.dataobj)
        assert list(values.shape) == image["shape"] == [8, 8, 4]
        assert values.any()
        assert gzip.decompress((prepared.manifest.parent / image["path"]).read_bytes())[148:252] == bytes(104)


def test_the_validator_and_the_check_find_nothing(prepared: Review) -> None:
    assert errors(validate(prepared.released / "nifti")) == []
    assert viewer("check", prepared.manifest, cwd=prepared.folder).code == 0
    assert json.loads(SCHEMA.read_bytes())["properties"].keys() == _content(prepared).keys()


def test_the_same_dump_gives_the_same_bytes(prepared: Review, tmp_path: Path) -> None:
    again = Review(tmp_path / "again", patients=2, studies=2, series=2, instances=4)
    shutil.rmtree(again.workspace, ignore_errors=True)
    again.workspace.joinpath("identified").mkdir(parents=True, mode=0o700)
    shutil.copy2(prepared.workspace / "identified" / "secret", again.workspace / "identified" / "secret")
    again.prepare()
    assert digests(again.released / "nifti") == digests(prepared.released / "nifti")
    assert digests(again.released / "review") == digests(prepared.released / "review")


def test_a_new_visit_adds_its_cases_and_leaves_the_rest(review: Review) -> None:
    before = times(review.released / "nifti")
    entries = {entry["entry_id"]: entry for entry in review.entries()}
    for instance in range(1, 5):
        write_instance(review.dump / f"new{instance}", make_instance(1, 3, 1, instance))
    counts = review.prepare()
    assert (counts["series"], counts["prepared_now"]) == (9, 1)
    after = {entry["entry_id"]: entry for entry in review.entries()}
    assert {name: after[name] for name in entries} == entries
    kept = times(review.released / "nifti")
    assert {name: kept[name] for name in before if name.endswith(".nii.gz")} == {
        name: time for name, time in before.items() if name.endswith(".nii.gz")
    }


def test_a_changed_image_changes_its_digest_and_no_other(review: Review) -> None:
    before = {entry["entry_id"]: entry["digest"] for entry in review.entries()}
    changed = make_instance(2, 1, 2, 3)
    changed.PixelData = bytes(reversed(changed.PixelData))
    victim = next(path for path in review.dump.iterdir() if dcmread(path).SOPInstanceUID == changed.SOPInstanceUID)
    write_instance(victim, changed)
    assert review.prepare()["prepared_now"] == 1
    after = {entry["entry_id"]: entry["digest"] for entry in review.entries()}
    assert before.keys() == after.keys()
    assert sum(before[name] != after[name] for name in before) == 1
    # Both are kept, since nobody knows which of two images under one UID is the right one.
    checked = viewer("check", review.manifest, cwd=review.folder)
    assert checked.code == 4
    assert "double-position 1." in checked.out


def test_another_name_needs_no_new_conversion(review: Review) -> None:
    before = sorted(review.images().values())
    review.settle(RULES.replace("anat/T2w", "anat/acq-fast_T2w"))
    assert review.prepare()["prepared_now"] == 0
    assert sorted(review.images().values()) == before
    names = sorted(review.images())
    assert sum("acq-fast_T2w" in name for name in names) == 4
    assert not any(name.endswith("ses-20010412_T2w.nii.gz") for name in names)
    assert viewer("check", review.manifest, cwd=review.folder).code == 0


def test_another_protocol_measures_again(review: Review) -> None:
    review.settle(RULES.replace("tr_ms = 500", "tr_ms = 700"))
    assert review.prepare()["prepared_now"] == 8


def test_what_no_longer_is_to_be_shown_is_taken_away(review: Review) -> None:
    for instance in (1, 2, 4):
        write_instance(review.dump / f"new{instance}", make_instance(1, 3, 1, instance))
    counts = review.prepare()
    assert (counts["series"], counts["incomplete"]) == (9, 1)
    assert len(review.images()) > 8, "dcm2niix makes a second one with equal distances of it"
    review.settle('[review]\nincomplete = "wait"\n' + RULES)
    counts = review.prepare()
    assert (counts["series"], counts["prepared_now"], counts["waiting_for_files"]) == (8, 0, 1)
    assert len(review.images()) == 8
    known = {entry["entry_id"] for entry in review.entries()}
    assert {path.name for path in (review.workspace / "identified" / "converted").iterdir()} == known
    for kind in ("montage", "thumbnail"):
        assert {path.stem for path in (review.released / "review" / kind).iterdir()} == known
    checked = viewer("check", review.manifest, cwd=review.folder)
    assert checked.code == 0, "what waits lies in the export, and the manifest says so"
    (waiting,) = _content(review)["waiting"]
    (review.manifest.parent / waiting / "more.dcm").write_bytes(b"")
    assert viewer("check", review.manifest, cwd=review.folder).code == 0
    (review.manifest.parent / waiting).parent.joinpath("more.dcm").write_bytes(b"")
    assert "not-listed 1." in viewer("check", review.manifest, cwd=review.folder).out


@pytest.mark.parametrize(
    "lost", ["review/manifest.json", "review/quality.json", "review/index.html", "nifti/dataset_description.json"]
)
def test_what_was_taken_away_is_made_again(lost: str, review: Review) -> None:
    before = digests(review.released)
    (review.released / lost).unlink()
    review.prepare()
    assert digests(review.released) == before


def test_fields_of_other_programs_and_files_of_other_people_stay(review: Review) -> None:
    content = _content(review)
    content["x-trial"] = {"phase": 2}
    content["entries"][0]["x-reader"] = "B"
    review.manifest.write_text(json.dumps(content), "utf-8")
    own = review.released / "nifti" / "sub-SYN" / "notes.txt"
    own.parent.mkdir()
    own.write_text("mine", "utf-8")
    write_instance(review.dump / "new", make_instance(1, 3, 1, 1))
    review.prepare()
    assert _content(review)["x-trial"] == {"phase": 2}
    assert _content(review)["entries"][0]["x-reader"] == "B"
    assert own.read_text("utf-8") == "mine"
    assert read_manifest(review.manifest).extra == {"x-trial": {"phase": 2}}


def test_a_name_that_bids_does_not_know_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    review = Review(tmp_path)
    review.settle(RULES.replace("anat/T2w", "anat/T9w"))
    ended = luigi("PrepareReview", "--study", review.file, cwd=tmp_path)
    assert ended.code == 3, ended.said
    assert "review.series.1.bids" in ended.err
    assert "Traceback" not in ended.said
    assert not review.released.joinpath("export").exists()


def test_it_needs_no_network_and_leaves_nothing_elsewhere(tmp_path: Path) -> None:
    alone = no_network()
    if not alone:
        pytest.skip("this machine does not let a program be without a network")
    review = Review(tmp_path / "study", instances=3)
    home, elsewhere = tmp_path / "home", tmp_path / "tmp"
    for folder in (home, elsewhere):
        folder.mkdir()
    secret = "c4nary-of-the-environment"
    env = {"HOME": str(home), "TMPDIR": str(elsewhere), "SMTP_PASSWORD": secret}
    words = luigi_words("PrepareReview", "--study", review.file, "--workers", 2)
    ended = run([*alone, *words], cwd=review.folder, env=env)
    assert ended.code == 0, ended.said
    left = [path for folder in (home, elsewhere) for path in folder.rglob("*") if path.is_file()]
    assert [path for path in left if path.suffix != ".pid"] == [], "Luigi's own lock apart"
    assert sorted(path.name for path in review.folder.iterdir()) == ["dump", "study.toml", "w"]
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path
    for path in review.released.rglob("*"):
        if path.is_file():
            content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            assert os.fsencode(tmp_path) not in content, path
    assert file_digest(review.manifest)


def test_a_series_that_does_not_convert_is_an_entry_with_its_reason(tmp_path: Path) -> None:
    """The converter is broken: everything else is there all the same."""
    review = Review(tmp_path / "study", instances=3)
    broken = tmp_path / "bin"
    broken.mkdir()
    (broken / "dcm2niix").write_text("#!/bin/sh\necho 'Chris Rorden dcm2niiX version v1.0.20260724'\nkill -9 $$\n")
    (broken / "dcm2niix").chmod(0o755)
    shim = tmp_path / "sitecustomize.py"
    shim.write_text(
        "import importlib.util\n"
        "found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: None if name == 'dcm2niix' else found(name, *more)\n"
        "import sysconfig\n"
        "path = sysconfig.get_path\n"
        "sysconfig.get_path = lambda name, *more, **most: (\n"
        f"    {str(broken)!r} if name == 'scripts' else path(name, *more, **most))\n"
    )
    review.settle('[deidentify]\ncompare_conversion = "never"\n' + RULES)
    ended = luigi("PrepareReview", "--study", review.file, cwd=review.folder, env={"PYTHONPATH": str(tmp_path)})
    assert ended.code == 0, ended.said
    (entry,) = review.entries()
    assert entry["images"] == []
    assert "not-converted" in {problem["code"] for problem in entry["problems"]}
    assert entry["no_images"]
    assert entry["montage"] is not None
    assert counts_of(review.workspace, "prepare-review")["not_converted"] == 1
