"""What a converter reads from an export is what it reads from the source, but for what identifies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.deidentify.profile import DEFAULT_PROFILE
from tasks.deidentify.rewrite import rewrite
from tests.deidentify.conversion import convert
from tests.deidentify.oracle import IDENTITY, SUBJECT

SAMPLE = (
    "dcm_qa_enh/In/Philips",
    "dcm_qa_enh/In/Siemens/XA10",
    "dcm_qa_nih/In/20180918Si/mr_0003",
    "dcm_qa_stc/In/GE/ProtocolDataBlock/mr_0004",
    "dcm_qa_stc/In/Siemens/B15/2_ep2d_DTI_20_dir_AP",
    "dcm_qa_stc/In/UIH/R002/12_dti_tra_dir16_PA_rot",
)
"""One series a maker and release; the others are long."""

OTHERS = (
    "dcm_qa_nih/In/20180918GE/mr_0004",
    "dcm_qa_nih/In/20180918GE/mr_0005",
    "dcm_qa_nih/In/20180918GE/mr_0006",
    "dcm_qa_nih/In/20180918GE/mr_0007",
    "dcm_qa_nih/In/20180918Si/mr_0004",
    "dcm_qa_nih/In/20180918Si/mr_0005",
    "dcm_qa_nih/In/20180918Si/mr_0006",
    "dcm_qa_philips/In/Magdeburg_2014/fmri",
    "dcm_qa_philips/In/Vanderbilt_2018/601_WIP_dti_ax",
    "dcm_qa_stc/In/GE/ProtocolDataBlock/mr_0005",
    "dcm_qa_stc/In/GE/ProtocolDataBlock/mr_0006",
    "dcm_qa_stc/In/GE/ProtocolDataBlock/mr_0007",
    "dcm_qa_stc/In/GE/RTIA/2_epiRT_ascending",
    "dcm_qa_stc/In/GE/RTIAold/15_Zugfahrt",
    "dcm_qa_stc/In/GE/TriggerTime/4_epi_ascending",
    "dcm_qa_stc/In/Siemens/B12/2_FMRI_AX_ASC",
    "dcm_qa_stc/In/Siemens/B13/4_fMRIcontin",
    "dcm_qa_stc/In/Siemens/B17/6_ax_asc_35sl",
    "dcm_qa_stc/In/Siemens/D13/ep2d_Asc_2",
    "dcm_qa_stc/In/Siemens/D13/ep2d_Asc_HF_10",
    "dcm_qa_stc/In/Siemens/E11/7_Rest_fMRI_AP",
    "dcm_qa_stc/In/Siemens/XA10/6_REST1_w_SMS_PF7-8",
    "dcm_qa_uih/In/DTI_132225/dti_tra_dir16_PA_rot_SaveBySlc__134057",
    "dcm_qa_uih/In/DTI_132225/t1_gre_fsp_3d_sag__132750",
)

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
