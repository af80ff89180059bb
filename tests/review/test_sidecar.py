"""What a sidecar may tell outside is on a list; a moment, a person, a place or a machine is on none."""

from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.deidentify.audit.conversion import IDENTITY_FIELDS
from tasks.review.sidecar import RELEASED_FIELDS, read_sidecar, released_sidecar

CLEANED_IN_THE_EXPORT = {"BidsGuess", "ProtocolName", "PulseSequenceName", "SequenceName", "SeriesDescription"}
"""What the audit lets differ because words in it are masked; without it no series has a name."""

DROPPED = {
    *("AccessionNumber", "AcquisitionDateTime", "AcquisitionTime", "ConsistencyInfo", "DeviceSerialNumber"),
    *("ImageComments", "InstitutionAddress", "InstitutionName", "InstitutionalDepartmentName", "PatientAge"),
    *("PatientBirthDate", "PatientID", "PatientName", "PatientSex", "PatientSize", "PatientWeight"),
    *("PrescanReuseString", "ProcedureStepDescription", "PulseSequenceDetails", "ReferringPhysicianName", "SAR"),
    *("SeriesInstanceUID", "StationName", "StudyDescription", "StudyID", "StudyInstanceUID", "WipMemBlock"),
}
"""All that dcm2niix writes of the real series and that is not released."""

SERIES = (
    "dcm_qa_enh/In/Philips",
    "dcm_qa_enh/In/Siemens/XA10",
    "dcm_qa_nih/In/20180918GE/mr_0004",
    "dcm_qa_nih/In/20180918Si/mr_0003",
    "dcm_qa_philips/In/Vanderbilt_2018/601_WIP_dti_ax",
    "dcm_qa_stc/In/Siemens/B15/2_ep2d_DTI_20_dir_AP",
    "dcm_qa_stc/In/Siemens/E11/7_Rest_fMRI_AP",
    "dcm_qa_stc/In/UIH/R002/12_dti_tra_dir16_PA_rot",
)

NEEDED = {
    *("EchoTime", "RepetitionTime", "FlipAngle", "MagneticFieldStrength", "SliceThickness", "SeriesDescription"),
    *("ProtocolName", "SeriesNumber", "ImageType", "Manufacturer", "PatientPosition"),
}
"""What every one of them has, and what nobody can do without."""

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)
fields = st.sampled_from([*RELEASED_FIELDS, *DROPPED, *IDENTITY_FIELDS]) | st.text(max_size=12)


@pytest.fixture(scope="module")
def sidecars(scanner_data: Path, dcm2niix: str, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    found = []
    for number, series in enumerate(SERIES):
        folder = tmp_path_factory.mktemp(f"series{number}")
        command = [dcm2niix, "-b", "o", "-ba", "n", "-g", "i", "-f", "%s", "-o", folder, scanner_data / series]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        found += sorted(folder.glob("*.json"))
    assert len(found) >= len(SERIES)
    return found


def test_nothing_that_identifies_is_on_the_list() -> None:
    assert RELEASED_FIELDS.keys() & IDENTITY_FIELDS.keys() == CLEANED_IN_THE_EXPORT
    assert not RELEASED_FIELDS.keys() & DROPPED
    # What a later version of the converter may add under a name of this sort is not to be let in by mistake.
    for word in ("UID", "Date", "Serial", "Institution", "Station", "Operator", "Physician", "Birth", "Name", "ID"):
        harmless = {"ProtocolName", "PulseSequenceName", "SequenceName", "InternalPulseSequenceName", "ReceiveCoilName"}
        harmless |= {"TransmitCoilName", "TracerName", "ReconMethodName", "ManufacturersModelName"}
        assert not {field for field in RELEASED_FIELDS if field.endswith(word)} - harmless


def test_of_real_sidecars_just_what_is_named_here_is_dropped(sidecars: list[Path]) -> None:
    dropped = set()
    for path in sidecars:
        whole = read_sidecar(path)
        released = released_sidecar(whole)
        assert released.keys() >= NEEDED & whole.keys()
        assert {field: whole[field] for field in released} == released
        assert list(released) == [field for field in whole if field in released]
        dropped |= whole.keys() - released.keys()
    assert dropped
    assert dropped <= DROPPED


@given(st.dictionaries(fields, values, max_size=12))
def test_only_listed_fields_with_plain_values_come_out(sidecar: dict[str, object]) -> None:
    released = released_sidecar(sidecar)
    assert released.keys() <= RELEASED_FIELDS.keys() & sidecar.keys()
    assert json.loads(json.dumps(released, allow_nan=False)) == released
    assert released_sidecar(released) == released
    kept = {
        field
        for field, value in sidecar.items()
        if field in RELEASED_FIELDS
        and (isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)))
    }
    assert kept <= released.keys()
    assert "{" not in json.dumps([value for value in released.values() if not isinstance(value, str | list)])


@pytest.mark.parametrize("value", [None, {}, {"a": 1}, [], [[]], [1, None], [{"a": "b"}], math.nan, [1.0, math.inf]])
def test_a_listed_field_with_no_plain_value_is_left_out(value: object) -> None:
    assert released_sidecar({"EchoTime": value, "FlipAngle": 90}) == {"FlipAngle": 90}


def test_numbers_are_read_as_c_prints_them(tmp_path: Path) -> None:
    path = tmp_path / "image.json"
    path.write_bytes(
        b'{"EchoTime": nan, "FlipAngle": -nan, "SliceTiming": [0, inf, -inf, -1.5e-3],\n'
        b'"SeriesDescription": "-nan, \\"inf\\": nan", "ProtocolName": "tab\there \xff"}'
    )
    assert read_sidecar(path) == {
        "EchoTime": None,
        "FlipAngle": None,
        "SliceTiming": [0, None, None, -0.0015],
        "SeriesDescription": '-nan, "inf": nan',
        "ProtocolName": "tab\there \ufffd",
    }


def test_a_sidecar_that_is_cut_off_anywhere_is_refused_without_quoting_it(sidecars: list[Path], tmp_path: Path) -> None:
    whole = sidecars[0].read_bytes()
    assert read_sidecar(sidecars[0])
    for end in range(0, len(whole.rstrip()) - 1, 7):
        path = tmp_path / "image.json"
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"^the sidecar is no JSON object$"):
            read_sidecar(path)
    for other in (b"[1]", b'"text"', b"1", b"[" * 100_000):
        path.write_bytes(other)
        with pytest.raises(ValueError, match=r"^the sidecar is no JSON object$"):
            read_sidecar(path)


def test_the_sidecar_of_a_missing_file_is_the_callers_fault(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_sidecar(tmp_path / f"nothing{os.sep}image.json")
