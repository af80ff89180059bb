"""Every run leaves a report beside the export: the same however it was made, and never one of another export."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest

from tasks.lists import read_list
from tasks.workspace import EXPORT_CHECKSUMS, EXPORT_PAPERS, EXPORT_REPORT, EXPORT_REPORT_PAGE
from tests.builders.world import make_dump, make_instance, write_instance
from tests.pipelines.command import (
    Ended,
    counts_of,
    exported_images,
    luigi,
    times,
    unfinished,
    use_secret,
    viewer,
    write_study,
)

CANARY = "Zanarykestrel"
OPTIONS = '["retain_patient_characteristics", "retain_longitudinal_modified_dates", "retain_safe_private"]'


def run(base: Path, *, workers: int = 1, more: str = "") -> Ended:
    """De-identify `base/dump` into `base/w`."""
    more = f'[deidentify]\noptions = {OPTIONS}\ncompare_conversion = "never"\n{more}'
    study = write_study(base / "study.toml", dump=base / "dump", workspace=base / "w", files=7, series=2, more=more)
    ended = luigi("DeidentifyStudy", "--study", study, "--workers", workers, cwd=base)
    assert ended.code == 0, ended.said
    return ended


def make_place(base: Path) -> Path:
    """Put a dump of six patients under a canary's name into a new folder, and give its workspace a secret."""
    make_dump(base / "dump", patients=6, studies=2, series=2, instances=3)
    for number in range(1, 4):
        dataset = make_instance(7, 1, 1, number, PatientName=CANARY, PatientID=f"{CANARY}7", PatientAge="087Y")
        dataset.InstitutionName = f"Site {CANARY}"
        write_instance(base / "dump" / f"{CANARY} {number}", dataset)
    write_instance(base / "dump" / "refused", make_instance(1, 1, 9, 1, BurnedInAnnotation="YES"))
    use_secret(base / "w")
    return base


def export_of(base: Path) -> Path:
    return base / "w" / "released" / "export"


def papers(base: Path) -> dict[str, bytes]:
    return {name: (export_of(base) / name).read_bytes() for name in sorted(EXPORT_PAPERS)}


def report_of(base: Path) -> dict:
    return json.loads((export_of(base) / EXPORT_REPORT).read_bytes())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = make_place(tmp_path_factory.mktemp("report"))
    ended = run(base)
    assert ended.lines_with(f"report: {export_of(base) / EXPORT_REPORT_PAGE}")
    return base


def test_the_report_tells_what_is_there(place: Path, program: Callable[[str], str]) -> None:
    report, images = report_of(place), exported_images(place / "w")
    counts, receipt = report["counts"], counts_of(place / "w", "deidentify")
    assert len(images) == counts["exported"] == receipt["exported"] > 70
    for name in ("sorted_files", "quarantined", "subjects"):
        assert counts[name] == receipt[name], name
    reasons = [row["reason"] for row in read_list(place / "w" / "identified" / "lists" / "quarantine.tsv")]
    assert {one["reason"]: one["files"] for one in report["quarantine"]} == {
        reason: reasons.count(reason) for reason in reasons
    }
    assert "burned-in-annotation" in reasons
    listed = (export_of(place) / EXPORT_CHECKSUMS).read_text("ascii")
    assert listed == "".join(f"{images[name]}  {name}\n" for name in sorted(images))
    words = [program("sha256sum"), "--check", "--quiet", "--strict", EXPORT_CHECKSUMS]
    assert subprocess.run(words, cwd=export_of(place), capture_output=True, check=False).returncode == 0
    assert report["software"]["made_by"] == {f"scanward {report['software']['scanward']}": len(images)}
    actions = {one["action"]: one["count"] for one in report["actions"]}
    assert actions["pseudonym"] == 2 * len(images)


def test_the_codes_and_the_cohort_are_those_of_the_exported_files(place: Path) -> None:
    report = report_of(place)
    codes: dict[str, int] = {}
    told: dict[str, tuple] = {}
    for name in sorted(exported_images(place / "w")):
        dataset = pydicom.dcmread(export_of(place) / name)
        for item in dataset.DeidentificationMethodCodeSequence:
            codes[item.CodeValue] = codes.get(item.CodeValue, 0) + 1
        told[dataset.PatientID] = (dataset.PatientSex, dataset.get("PatientAge"))
    assert {one["code"]: one["files"] for one in report["profile"]["methods"]} == codes
    cohort = report["cohort"]
    assert cohort["subjects"] == len(told) == counts_of(place / "w", "deidentify")["subjects"]
    assert cohort["facts"] == ["age", "sex", "date"]
    assert cohort["judged"]["facts"] == ["age", "sex"], "the dates are moved"
    alike = [pseudonym for pseudonym in told if sum(other == told[pseudonym] for other in told.values()) < 5]
    assert cohort["in_small_groups"] == sorted(alike)
    assert "087Y" in {age for _, age in told.values()}
    assert next(one["code"] for one in report["warnings"]) == "small-groups"


def test_neither_workers_nor_chunks_change_a_byte(place: Path, tmp_path: Path) -> None:
    run(make_place(tmp_path), workers=4)
    assert exported_images(tmp_path / "w") == exported_images(place / "w")
    assert papers(tmp_path) == papers(place)


def test_nobody_is_in_it(place: Path) -> None:
    assert any(CANARY in path.name for path in (place / "dump").iterdir())
    for name, content in papers(place).items():
        text = content.decode("utf-8").casefold()
        for planted in (CANARY, "Synthetic", "SYNWORLD", "WORLD MAKER", "Institution 1", "ACC001", str(place)):
            assert planted.casefold() not in text, (name, planted)


def test_it_comes_back_when_it_was_taken_away_and_nothing_else_is_done(tmp_path: Path) -> None:
    make_dump(tmp_path / "dump", patients=2, instances=2)
    use_secret(tmp_path / "w")
    run(tmp_path)
    first, images = papers(tmp_path), times(export_of(tmp_path))
    (export_of(tmp_path) / EXPORT_REPORT_PAGE).unlink()
    run(tmp_path)
    assert papers(tmp_path) == first
    now = times(export_of(tmp_path))
    assert {name for name in images if images[name] != now[name]} == {EXPORT_REPORT_PAGE}
    assert counts_of(tmp_path / "w", "deidentify")["exported_now"] == 0
    assert "(nothing new)" in run(tmp_path).lines_with("De-identified")[0]


def test_another_size_of_groups_changes_the_report_alone(tmp_path: Path) -> None:
    make_dump(tmp_path / "dump", patients=3)
    run(tmp_path)
    before = {name: time for name, time in times(export_of(tmp_path)).items() if name not in EXPORT_PAPERS}
    assert report_of(tmp_path)["warnings"]
    run(tmp_path, more="smallest_cohort = 1\n")
    assert report_of(tmp_path)["warnings"] == []
    assert {name: time for name, time in times(export_of(tmp_path)).items() if name not in EXPORT_PAPERS} == before


def test_a_run_that_is_cut_off_leaves_no_report_of_another_export(tmp_path: Path) -> None:
    """A folder stands where a new file belongs: the run fails, and the report of before would no longer be true."""
    make_dump(tmp_path / "dump", instances=2)
    use_secret(tmp_path / "w")
    run(tmp_path)
    image = min(exported_images(tmp_path / "w"))
    write_instance(tmp_path / "dump" / "more", make_instance(2))
    (export_of(tmp_path) / "SUB-0002").write_bytes(b"in the way")
    (export_of(tmp_path) / image).unlink()
    study = tmp_path / "study.toml"
    assert luigi("DeidentifyStudy", "--study", study, cwd=tmp_path).code == 30
    assert [path.name for path in export_of(tmp_path).iterdir() if path.name in EXPORT_PAPERS] == []
    (export_of(tmp_path) / "SUB-0002").unlink()
    run(tmp_path)
    assert report_of(tmp_path)["counts"]["exported"] == 3
    assert unfinished(tmp_path) == []


def test_the_viewer_takes_the_report_for_no_image(place: Path, tmp_path: Path) -> None:
    make_dump(tmp_path / "dump", instances=2)
    run(tmp_path)
    assert luigi("PrepareReview", "--study", tmp_path / "study.toml", cwd=tmp_path).code == 0
    manifest = tmp_path / "w" / "released" / "review" / "manifest.json"
    assert len(json.loads(manifest.read_bytes())["entries"]) == 1
    assert "not-listed" not in viewer("check", manifest, cwd=tmp_path).out
    # Only where it belongs.
    (export_of(tmp_path) / "SUB-0001" / EXPORT_REPORT).write_bytes(b"{}")
    assert "not-listed" in viewer("check", manifest, cwd=tmp_path).out


def test_an_export_of_nothing_has_a_report(tmp_path: Path) -> None:
    (tmp_path / "dump").mkdir()
    run(tmp_path)
    assert report_of(tmp_path)["counts"]["exported"] == 0
    empty = hashlib.sha256(b"").hexdigest()
    assert report_of(tmp_path)["integrity"]["sha256"] == empty
    assert "(nothing new)" in run(tmp_path).lines_with("De-identified")[0]
