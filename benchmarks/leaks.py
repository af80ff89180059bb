"""What de-identifiers leak and what they lose: planted identifiers that survive, and what a converter still reads.

Each tool exports the files of the canary set, which are searched afterwards, and whole series of four makers, which the
real dcm2niix converts before and after.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from mosaics import dicom_files
from peers import run_tool

from tasks.deidentify.audit.conversion import IDENTITY_FIELDS, convert

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.deidentify.canary_score import score
from tests.deidentify.canary_set import Planted, canary_set, places

MOSAIC = "dcm_qa_stc/In/Siemens/B17/6_ax_asc_35sl"

SERIES = (
    "dcm_qa_stc/In/Siemens/B15/2_ep2d_DTI_20_dir_AP",
    MOSAIC,
    "dcm_qa_stc/In/Siemens/E11/7_Rest_fMRI_AP",
    "dcm_qa_enh/In/Siemens/XA10",
    "dcm_qa_philips/In/Vanderbilt_2018/601_WIP_dti_ax",
    "dcm_qa_stc/In/UIH/R002/12_dti_tra_dir16_PA_rot",
    "dcm_qa_stc/In/GE/ProtocolDataBlock/mr_0004",
    "dcm_qa_nih/In/20180918GE/mr_0004",
)
"""Eight series of four makers: diffusion and functional runs, mosaics, single slices and an enhanced image."""

FACTS = ("SliceTiming", "PhaseEncodingDirection", "PhaseEncodingAxis", "TotalReadoutTime")
"""Fields of a sidecar without which a functional or diffusion series cannot be analysed; its vectors count as well."""

TOLERANCE = 1e-3
"""By how much numbers may differ: of seconds, and of the components of unit vectors."""

SECONDS = 120.0

NAMES = frozenset({"name of the folder", "name of the file"})
"""Places that are not counted: the benchmark names the exports of most tools, not the tool."""

IDENTIFYING = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "InstitutionName",
    "InstitutionAddress",
    "InstitutionalDepartmentName",
    "StationName",
    "DeviceSerialNumber",
    "StudyDescription",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "FrameOfReferenceUID",
    "StudyDate",
)
"""What is looked for in the sidecar of the mosaic's export."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaks:
    """What became of the canary set.

    Attributes
    ----------
    surviving, places
        Distinct places of exported files: those of which something came out, and all.
    left_out, files
        How many files the tool did not export, and of how many.
    """

    surviving: int
    places: int
    left_out: int
    files: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What dcm2niix makes of one series.

    Attributes
    ----------
    facts
        Of the acquisition, by field and number of the sidecar.
    sidecar
        The first one, whole.
    """

    facts: Mapping[str, object]
    sidecar: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What an analysis still finds in the exports of the eight series.

    Attributes
    ----------
    facts
        How many are as in the source.
    keys, all_keys
        How many fields of the mosaic's sidecar are left, and how many there were.
    lost
        How many are lost that are no matter of identity.
    telling
        How many of those left hold an identifying value of the source.
    """

    facts: int
    keys: int
    all_keys: int
    lost: int
    telling: int


def write_canaries(data: Path, folder: Path) -> list[tuple[Planted, Path]]:
    """Write the canary set under names of their own, which are canaries, too."""
    written = []
    for planted in canary_set(data):
        path = folder / planted.path
        path.parent.mkdir(parents=True)
        path.write_bytes(planted.content)
        written.append((planted, path))
    return written


def find_leaks(tool: str, canaries: list[tuple[Planted, Path]], folder: Path) -> Leaks:
    """Have a tool export the canary set, and search what it wrote."""
    outcome = run_tool(tool, [path for _, path in canaries], folder)
    pairs = [(planted, target) for (planted, _), target in zip(canaries, outcome.targets, strict=True)]
    exported = {planted.content: target.read_bytes() for planted, target in pairs if target.exists()}
    found = score([planted for planted, _ in pairs if planted.content in exported], exported.get, check_sources=False)
    counted = places(planted for planted, _ in pairs if planted.content in exported)
    return Leaks(
        surviving=len(set(found.surviving_places()) - NAMES),
        places=len(counted - NAMES),
        left_out=len(pairs) - len(exported),
        files=len(pairs),
    )


def read_conversion(program: str, source: Path, target: Path) -> Conversion:
    """Convert a folder, and read what tells of the acquisition; nothing where it cannot be converted."""
    _, names = convert(program, source, target, seconds=SECONDS)
    sidecars = [json.loads((target / name).read_bytes()) for name in names if name.endswith(".json")]
    vectors = [(target / name).read_text().split() for name in names if name.endswith(".bvec")]
    facts = {f"{field} {number}": one[field] for number, one in enumerate(sidecars) for field in FACTS if field in one}
    facts |= {f"vectors {number}": [float(text) for text in texts] for number, texts in enumerate(vectors)}
    return Conversion(facts=facts, sidecar=sidecars[0] if sidecars else {})


def find_kept(tool: str, data: Path, before: Mapping[str, Conversion], program: str, folder: Path) -> Kept:
    """Have a tool export the series, and count what a conversion still tells."""
    same = 0
    after: Mapping[str, object] = {}
    for number, series in enumerate(before):
        export = folder / f"export-{number}"
        outcome = run_tool(tool, dicom_files(data / series), export)
        if not outcome.exported:
            continue
        found = read_conversion(program, export, folder / f"converted-{number}")
        same += sum(is_same(value, found.facts.get(fact)) for fact, value in before[series].facts.items())
        if series == MOSAIC:
            after = found.sidecar
    sought = identifying_texts(dicom_files(data / MOSAIC)[0])
    keys = before[MOSAIC].sidecar.keys()
    return Kept(
        facts=same,
        keys=len(keys & after.keys()),
        all_keys=len(keys),
        lost=len(keys - after.keys() - IDENTITY_FIELDS.keys()),
        telling=sum(tells(after[key], sought) for key in keys & after.keys()),
    )


def is_same(one: Any, other: Any) -> bool:
    """Compare two facts; numbers within the tolerance."""
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, float | int):
        return isinstance(other, float | int) and math.isclose(one, other, rel_tol=0, abs_tol=TOLERANCE)
    return bool(one == other)


def identifying_texts(source: Path) -> set[str]:
    """Collect from a file what must not be found again; dates also as dcm2niix writes them."""
    dataset = pydicom.dcmread(source, stop_before_pixels=True)
    found = {str(dataset.get(keyword, "")).strip() for keyword in IDENTIFYING} - {""}
    days = {text for text in found if len(text) == 8 and text.isdigit()}
    return {text.casefold() for text in found | {f"{day[:4]}-{day[4:6]}-{day[6:]}" for day in days}}


def tells(value: object, sought: set[str]) -> bool:
    """Tell whether an identifying text stands in a field."""
    text = json.dumps(value, ensure_ascii=False).casefold()
    return any(one in text for one in sought)
