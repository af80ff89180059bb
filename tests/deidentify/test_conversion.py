"""What a converter reads from an export is what it reads from the source, but for what identifies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.deidentify.profile import DEFAULT_PROFILE
from tasks.deidentify.rewrite import rewrite
from tests.deidentify.conversion import OTHERS, SAMPLE, convert
from tests.deidentify.oracle import IDENTITY, SUBJECT

IDENTIFYING = {
    *("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "StudyID", "ReferringPhysicianName"),
    *("StudyInstanceUID", "SeriesInstanceUID", "AcquisitionDateTime"),
    *("InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "StationName", "DeviceSerialNumber"),
}
"""Keys of a sidecar that tell who, where, when, or on which machine."""

DESCRIPTIONS = {"ImageComments", "ProcedureStepDescription", "ProtocolName", "SeriesDescription", "StudyDescription"}
"""Text that people type."""

ADDED = {"DeidentificationMethod", "DeidentificationMethodCodeSequence"}

OF_THE_SEQUENCE = {
    "dcm_qa_nih/In/20180918Si": "PulseSequenceDetails",  # a sequence that begins with its hospital's name
    "dcm_qa_stc/In/Siemens/E11": "WipMemBlock",  # its author, and the moment of the run
}
"""What else changes, and where."""


def without_words(image: bytes) -> bytes:
    """Blank the text of a NIfTI header: db_name, descrip and aux_file, intent_name (nifti1.h); comments stand there."""
    blank = bytearray(image)
    for begin, end in ((14, 32), (148, 252), (328, 344)):
        blank[begin:end] = bytes(end - begin)
    return bytes(blank)


@pytest.mark.parametrize("series", [*SAMPLE, *(pytest.param(name, marks=pytest.mark.long) for name in OTHERS)])
def test_the_export_converts_to_the_same_images_vectors_and_parameters(
    series: str, scanner_data: Path, dcm2niix: str, tmp_path: Path
) -> None:
    for name in ("source", "export"):
        (tmp_path / name).mkdir()
    for path in sorted((scanner_data / series).iterdir()):
        content = path.read_bytes()
        if content[128:132] == b"DICM":
            (tmp_path / "source" / path.name).write_bytes(content)
            exported = rewrite(content, profile=DEFAULT_PROFILE, identity=IDENTITY, subject=SUBJECT)
            (tmp_path / "export" / path.name).write_bytes(exported.content)
    before = convert(dcm2niix, tmp_path / "source", tmp_path / "before")
    after = convert(dcm2niix, tmp_path / "export", tmp_path / "after")
    assert before.keys() == after.keys()
    assert any(name.endswith(".nii") for name in before)
    allowed = IDENTIFYING | DESCRIPTIONS | ADDED
    allowed |= {key for folder, key in OF_THE_SEQUENCE.items() if series.startswith(folder)}
    for name, content in before.items():
        if not name.endswith(".json"):
            # Not `a == b`: pytest would take long to spell out the difference of two images.
            same = (
                without_words(after[name]) == without_words(content)
                if name.endswith(".nii")
                else after[name] == content
            )
            assert same, f"{name}: voxels, place in space, b-values and directions have to be the same bytes"
            continue
        old, new = json.loads(content), json.loads(after[name])
        assert {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)} <= allowed
        assert new["PatientName"] == new["PatientID"] == SUBJECT.pseudonym
        assert len(new.keys() - ADDED) >= len(old) - len(IDENTIFYING & old.keys()) - len(DESCRIPTIONS & old.keys()) - 1
