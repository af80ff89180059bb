"""A person names areas in the study file: they are black in the export, and whatever cannot be so is held back."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from tasks.config import RegionSettings, StudySettings, read_study
from tasks.errors import StudyFileError
from tasks.lists import read_list
from tests.conftest import REPOSITORY
from tests.deidentify.burnt_in import (
    BANNER,
    CAPTURE_WORDS,
    JPEG_2000,
    JPEG_LS,
    MR,
    RLE,
    ULTRASOUND,
    ULTRASOUND_FRAMES,
    Form,
    burnt_in,
    look,
)
from tests.pipelines.command import Ended, luigi, write_study

FORMS = {
    "mono": Form(sop_class=ULTRASOUND),
    "inverted": Form(photometric="MONOCHROME1"),
    "rgb": Form(photometric="RGB", sop_class=ULTRASOUND),
    "rgb planar": Form(photometric="RGB", planar=1, sop_class=ULTRASOUND_FRAMES, frames=2),
    "ybr": Form(photometric="YBR_FULL"),
    "ybr planar": Form(photometric="YBR_FULL", planar=1),
    "palette": Form(photometric="PALETTE COLOR", sop_class=ULTRASOUND),
    "12 bits": Form(allocated=16, stored=12),
    "high bits": Form(allocated=16, stored=12, high=15),
    "signed": Form(allocated=16, stored=16, is_signed=True),
    "rle": Form(syntax=RLE, photometric="RGB", frames=2, sop_class=ULTRASOUND_FRAMES),
    "jpeg-ls": Form(syntax=JPEG_LS, allocated=16, stored=12, frames=2, sop_class=CAPTURE_WORDS),
    "jpeg 2000": Form(syntax=JPEG_2000, photometric="YBR_RCT", sop_class=ULTRASOUND),
    "mr": Form(sop_class=MR, allocated=16, stored=12),
}

RULE = """
[[deidentify.regions]]
manufacturer = "echo*"
model = "Fan ?"
rows = 200
columns = 320
areas = [[0, 0, 999, 40]]
release = true
checked = "one of us, today"
"""


def run(base: Path, more: str) -> Ended:
    study = write_study(base / "study.toml", dump=base / "dump", workspace=base / "w", more=more)
    return luigi("DeidentifyStudy", "--study", study, cwd=base)


def make_forms(base: Path, names: list[str]) -> dict[int, Path]:
    (base / "dump").mkdir()
    paths = {}
    for number, name in enumerate(names, 1):
        paths[number] = base / "dump" / f"{number}.dcm"
        paths[number].write_bytes(burnt_in(FORMS[name], number=number))
    return paths


def exported(base: Path) -> list[Path]:
    return sorted((base / "w" / "released" / "export").rglob("*.dcm"))


def report_of(base: Path) -> dict[str, object]:
    return json.loads((base / "w" / "released" / "export" / "deidentification.json").read_text())


def reasons(base: Path) -> list[str]:
    return sorted(row["reason"] for row in read_list(base / "w" / "identified" / "lists" / "quarantine.tsv"))


def errors_of(dciodvfy: str, path: Path) -> set[str]:
    done = subprocess.run([dciodvfy, "-new", path], capture_output=True, text=True, check=False)
    return {line for line in (done.stderr + done.stdout).splitlines() if line.startswith("Error")}


def test_named_areas_are_black_for_foreign_readers_and_the_rest_is_as_it_was(
    tmp_path: Path, program: Callable[[str], str]
) -> None:
    sources = make_forms(tmp_path, list(FORMS))
    ended = run(tmp_path, "[deidentify]" + RULE)
    assert ended.code == 0, ended.said
    assert len(exported(tmp_path)) == len(FORMS)
    x0, y0, x1, y1 = BANNER
    for path in exported(tmp_path):
        after = pydicom.dcmread(path)
        source = sources[int(after.SeriesNumber)]
        before = pydicom.dcmread(source)
        outside = np.ones((after.Rows, after.Columns), bool)
        outside[y0:y1, x0:x1] = False
        was, now = look(before), look(after)
        assert np.array_equal(was[:, outside], now[:, outside])
        assert len(np.unique(now[:, ~outside].reshape(-1, now.shape[3] if now.ndim > 3 else 1), axis=0)) == 1
        assert after.file_meta.TransferSyntaxUID == before.file_meta.TransferSyntaxUID
        assert after.LossyImageCompression == "00"
        assert after.BurnedInAnnotation == "NO"
        assert "RecognizableVisualFeatures" not in after
        assert "113101" in [item.CodeValue for item in after.DeidentificationMethodCodeSequence]
        assert errors_of(program("dciodvfy"), path) <= errors_of(program("dciodvfy"), source)
        if str(after.file_meta.TransferSyntaxUID) not in (JPEG_LS, JPEG_2000):
            picture = tmp_path / "seen.pgm"
            subprocess.run([program("dcm2pnm"), "+op", "+G", path, picture], check=True)
            seen = read_pgm(picture)
            assert seen[y0:y1, x0:x1].max() <= 1
            assert seen[y1:].max() > 100
    report = report_of(tmp_path)
    assert report["profile"]["files_by_area_rule"] == [len(FORMS)]
    assert "one of us" not in json.dumps(report)


def read_pgm(path: Path) -> np.ndarray:
    head = re.match(rb"P5\s+(?:#.*\s+)*(\d+)\s+(\d+)\s+255\s", path.read_bytes())
    assert head is not None
    columns, rows = int(head[1]), int(head[2])
    return np.frombuffer(path.read_bytes(), "u1", rows * columns, head.end()).reshape(rows, columns)


def test_without_a_rule_that_releases_them_they_are_held_back_and_an_idle_rule_is_told(tmp_path: Path) -> None:
    make_forms(tmp_path, ["mono", "12 bits", "mr"])
    idle = RULE.replace("echo*", "Ecco*")
    masking = RULE.replace('release = true\nchecked = "one of us, today"\n', "").replace("40]]", "30]]")
    ended = run(tmp_path, "[deidentify]" + idle + masking)
    assert ended.code == 0, ended.said
    assert reasons(tmp_path) == ["secondary-capture", "ultrasound"]
    assert len(exported(tmp_path)) == 1
    assert "The region rule 1 of the study file fits none of the exported images." in ended.said
    assert "region rule 2" not in ended.said
    assert report_of(tmp_path)["profile"]["files_by_area_rule"] == [0, 1]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (("manufacturer", "maker"), "deidentify.regions.0.maker is no key of a study file"),
        (("[[0, 0, 999, 40]]", "[]"), "deidentify.regions.0.areas"),
        (("[[0, 0, 999, 40]]", "[[0, 0, 0, 40]]"), "has an area without a pixel"),
        (("[[0, 0, 999, 40]]", "[[-1, 0, 9, 40]]"), "deidentify.regions.0.areas.0.0"),
        (("[[0, 0, 999, 40]]", "[[0, 0, 9]]"), "deidentify.regions.0.areas.0.3 is missing"),
        (("[[0, 0, 999, 40]]", "[[320, 0, 330, 40]]"), "has an area beside the image"),
        (('manufacturer = "echo*"\n', ""), "has to name manufacturer, model, rows and columns"),
        (('"Fan ?"', '"*"'), "its manufacturer and model have to say more"),
        (("rows = 200\n", ""), "has to name manufacturer, model, rows and columns"),
        (("rows = 200", 'rows = "200"'), "deidentify.regions.0.rows"),
        (('"one of us, today"', '" "'), "regions.0 releases images unseen"),
        (("[[deidentify.regions]]", '[deidentify]\nocr = "some"\n[[deidentify.regions]]'), "deidentify.ocr"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_rule_that_makes_no_sense_is_told_by_its_place(change: tuple[str, str], fault: str, tmp_path: Path) -> None:
    (tmp_path / "dump").mkdir()
    path = write_study(tmp_path / "study.toml", dump=tmp_path / "dump", workspace=tmp_path / "w", more="")
    assert change[0] in RULE
    path.write_text(path.read_text() + RULE.replace(*change, 1))
    with pytest.raises(StudyFileError) as refusal:
        read_study(path)
    assert fault in str(refusal.value)


def test_the_example_shows_every_key_of_a_rule_and_its_rule_holds_when_uncommented() -> None:
    text = (REPOSITORY / "configs" / "example.toml").read_text("utf-8")
    keys = "|".join(RegionSettings.model_fields)
    own, other, rest = text.partition("\n[review]\n")
    shown = re.sub(rf"^# (\[\[deidentify\.regions\]\]|(?:{keys}) = )", r"\1", own, flags=re.MULTILINE) + other + rest
    settings = StudySettings.model_validate_json(json.dumps(tomllib.loads(shown)))
    (rule,) = settings.deidentify.regions
    assert rule.model_fields_set == set(RegionSettings.model_fields)
    for name in ("release", "checked"):
        assert getattr(rule, name) == RegionSettings.model_fields[name].default


def test_without_an_engine_nothing_begins(tmp_path: Path) -> None:
    make_forms(tmp_path, ["mr"])
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['rapidocr_onnxruntime'] = None\n")
    (tmp_path / "bin").mkdir()
    study = write_study(
        tmp_path / "study.toml", dump=tmp_path / "dump", workspace=tmp_path / "w", more='[deidentify]\nocr = "all"'
    )
    env = {"PATH": str(tmp_path / "bin"), "PYTHONPATH": str(tmp_path)}
    ended = luigi("DeidentifyStudy", "--study", study, cwd=tmp_path, env=env)
    assert ended.code == 7, ended.said
    assert "rapidocr-onnxruntime or the program tesseract" in ended.err
    assert "Traceback" not in ended.said
    assert not list((tmp_path / "w").rglob("*.dcm"))


def test_what_still_shows_writing_goes_to_quarantine_and_the_report_names_the_engine(
    tmp_path: Path, program: Callable[[str], str]
) -> None:
    program("tesseract")
    make_forms(tmp_path, ["mono", "rle"])
    beside = RULE.replace("[[0, 0, 999, 40]]", "[[0, 60, 999, 200]]").replace('checked = "one of us, today"\n', "")
    ended = run(tmp_path, '[deidentify]\nocr = "suspects"' + beside)
    assert ended.code == 0, ended.said
    assert reasons(tmp_path) == ["burned-in-text"] * 2
    shutil.rmtree(tmp_path / "w")
    whole = beside.replace("[[0, 60, 999, 200]]", "[[0, 0, 999, 200]]")
    ended = run(tmp_path, '[deidentify]\nocr = "suspects"' + whole)
    assert ended.code == 0, ended.said
    assert reasons(tmp_path) == []
    audit = report_of(tmp_path)["audit"]
    assert audit["text_recognition"] == "suspects"
    ((engine, files),) = audit["text_read_by"].items()
    assert engine.split()[0] in ("tesseract", "rapidocr-onnxruntime")
    assert files == 2
    page = (tmp_path / "w" / "released" / "export" / "deidentification.html").read_text("utf-8")
    assert f"2 files by {engine}" in page
