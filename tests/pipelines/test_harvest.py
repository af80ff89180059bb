"""What one file tells of a patient is looked for in all of them; what is no image never leaves; words are proposed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pydicom
import pytest

from tests.builders.world import make_instance, write_instance
from tests.pipelines.command import counts_of, digests, luigi, rows_of, scanward, write_study


def put(dump: Path, name: str, **fields: object) -> None:
    dump.mkdir(exist_ok=True)
    write_instance(dump / name, make_instance(**fields))  # type: ignore[arg-type]


def deidentify(dump: Path, workspace: Path) -> list[pydicom.FileDataset]:
    """Run the whole and return what was exported, in the order of its names."""
    ended = luigi("DeidentifyStudy", "--dump", dump, "--workspace", workspace, cwd=dump.parent)
    assert ended.code == 0, ended.said
    return [pydicom.dcmread(path) for path in sorted((workspace / "released" / "export").rglob("*.dcm"))]


def test_a_name_of_a_later_visit_is_taken_out_of_an_earlier_one(tmp_path: Path) -> None:
    dump, workspace = tmp_path / "dump", tmp_path / "w"
    put(dump, "a", instance=1, ManufacturerModelName="Scanner Quokka", SeriesDescription="T1 quokka sag")
    put(dump, "b", patient=2, ManufacturerModelName="Scanner Quokka")
    models = [dataset.ManufacturerModelName for dataset in deidentify(dump, workspace)]
    assert models == ["Scanner Quokka"] * 2

    put(dump, "c", study=2, PatientName="Quokka^Quentin", StudyDate="20030303")
    before = digests(workspace / "released" / "export")
    exported = deidentify(dump, workspace)
    by_subject = {str(dataset.PatientID): set() for dataset in exported}
    for dataset in exported:
        by_subject[str(dataset.PatientID)].add(str(dataset.ManufacturerModelName))
    assert sorted(map(sorted, by_subject.values())) == [["Scanner Quokka"], ["WORLD", "X"]]
    assert counts_of(workspace, "deidentify")["exported_now"] == 2
    assert counts_of(workspace, "harvest")["read_now"] == 1
    # The other patient's file is as it was.
    after = digests(workspace / "released" / "export")
    assert sum(1 for name, digest in before.items() if name.endswith(".dcm") and after.get(name) == digest) == 1


def test_a_sorted_file_that_is_gone_is_told_and_what_was_collected_may_be_made_again(tmp_path: Path) -> None:
    dump, workspace = tmp_path / "dump", tmp_path / "w"
    put(dump, "a")
    first = deidentify(dump, workspace)
    (workspace / "identified" / "findings.db").unlink()
    assert deidentify(dump, workspace) == first
    assert counts_of(workspace, "harvest") == {"files": 1, "read_now": 1}
    shutil.rmtree(workspace / "identified" / "receipts")
    assert deidentify(dump, workspace) == first


SIBLINGS = {
    "meas.dat": b"\x00\x00\x00\x00\x02\x00\x00\x00" + b"<XProtocol> PatientName Canary^Tweety" * 40,
    "spectrum.rda": b">>> Begin of header <<<\r\nPatientName: Canary^Tweety\r\n" * 20,
    "scan.PAR": b"# === DATA DESCRIPTION FILE\n.    Patient name : Canary Tweety\n" * 20,
    "scan.REC": bytes(4096),
    "P12345.7": b"\x00\x00\x80\x3fCanary Tweety" * 400,
    "voxel.SPAR": b"examination_name : Canary\n" * 50,
    "letter.pdf": b"%PDF-1.4 Canary Tweety" * 50,
    "brain.nii": b"\x5c\x01\x00\x00" + b"Canary" * 200,
    "notes.txt": b"Canary Tweety, 3 May\n" * 20,
    "subject.json": b'{"PatientName": "Canary^Tweety"}' * 20,
}
"""What scanners and people lay beside images: raw data, spectra, other formats, letters."""


def test_what_lies_beside_the_images_never_reaches_the_export(tmp_path: Path) -> None:
    dump, workspace = tmp_path / "dump", tmp_path / "w"
    put(dump, "image")
    for name, content in SIBLINGS.items():
        (dump / name).write_bytes(content)
    assert len(deidentify(dump, workspace)) == 1
    assert {Path(row["file"]).name for row in rows_of(workspace, "rejects")} == set(SIBLINGS)
    for path in (workspace / "released").rglob("*"):
        assert path.name not in SIBLINGS
        assert not path.is_file() or b"Canary" not in path.read_bytes()


def test_words_that_several_patients_share_are_proposed_and_then_kept(tmp_path: Path) -> None:
    dump, workspace = tmp_path / "dump", tmp_path / "w"
    for patient in (1, 2, 3):
        description = f"T1 zugfahrt person{patient} blick{'abc'[patient - 1]} synthetic"
        put(dump, f"p{patient}", patient=patient, SeriesDescription=description)
    put(dump, "alone", patient=3, instance=2, SeriesDescription="T1 einsam")
    study = write_study(tmp_path / "trial.toml", dump=dump, workspace=workspace)
    ended = scanward("vocabulary", "--study", study, cwd=tmp_path)
    assert ended.code == 2
    assert "Run SortStudy first" in ended.err
    masked = {dataset.SeriesDescription for dataset in deidentify(dump, workspace)}
    assert masked == {"T1 X"}

    ended = scanward("vocabulary", "--study", study, cwd=tmp_path)
    assert (ended.code, ended.out) == (0, "zugfahrt\t3\n")
    study.write_text(study.read_text() + '\n[deidentify]\nvocabulary = ["zugfahrt"]\n')
    ended = luigi("DeidentifyStudy", "--study", study, cwd=tmp_path)
    assert ended.code == 0, ended.said
    exported = [pydicom.dcmread(path) for path in (workspace / "released" / "export").rglob("*.dcm")]
    assert {dataset.SeriesDescription for dataset in exported} == {"T1 zugfahrt X", "T1 X"}
    ended = scanward("vocabulary", "--study", study, cwd=tmp_path)
    assert ended.code == 0
    assert "zugfahrt" not in ended.out


@pytest.mark.parametrize("words", ['["T1 2021"]', '["Q"]', '["李"]'])
def test_words_that_are_none_are_refused_without_being_told(words: str, tmp_path: Path) -> None:
    put(tmp_path / "dump", "a")
    study = write_study(tmp_path / "trial.toml", dump=tmp_path / "dump", workspace=tmp_path / "w")
    study.write_text(study.read_text() + f"\n[deidentify]\nvocabulary = {words}\n")
    ended = luigi("DeidentifyStudy", "--study", study, cwd=tmp_path)
    assert ended.code != 0
    assert "vocabulary" in ended.err
    assert words.strip('[]"') not in ended.err
