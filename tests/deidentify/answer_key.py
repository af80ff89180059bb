"""An answer key in the form of the MIDI-B challenge: what each export must and must not hold, and the score for it.

The key is worked out from the sources, from table E.1-1 of PS3.15, from the image IODs and from what converters read;
it knows nothing of our rewriter, and scores any tool. It is a SQLite file with one table, `answer_data`, one row an
instance; `AnswerData` is JSON with one entry a check. Free of pytest.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.resources
import io
import json
import re
import sqlite3
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom._uid_dict import UID_dictionary
from pydicom.datadict import DicomDictionary, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.tag import BaseTag
from pydicom.valuerep import PersonName

from tests.deidentify.canary_set import Canary

Area = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels, 0-based and half-open."""

Instance = tuple[bytes, Iterable[Canary], Area | None]
"""A file, what was planted in it, and where text stands in its pixels."""

ACTIONS = (
    "tag_retained",
    "text_notnull",
    "text_retained",
    "text_removed",
    "date_shifted",
    "uid_changed",
    "uid_consistent",
    "patid_consistent",
    "pixels_hidden",
    "pixels_retained",
)

OPTIONS = ("retain_patient_characteristics", "retain_longitudinal_modified_dates", "clean_descriptors")
"""The options with columns in table E.1-1 that the key is for, beside Retain Safe Private."""

_SCHEMA = """
CREATE TABLE answer_data (
    id INTEGER PRIMARY KEY, PatientID TEXT, StudyInstanceUID TEXT, SeriesInstanceUID TEXT, SOPInstanceUID TEXT UNIQUE,
    SOPClassUID TEXT, Modality TEXT, Digest TEXT, AnswerData TEXT
)
"""

_TEXT_VRS = frozenset({"AE", "LO", "LT", "SH", "ST", "UC", "UT"})
_NUMBER_VRS = frozenset({"DS", "FD", "FL", "IS", "SL", "SS", "UL", "US"})
_REFUSED_TAGS = frozenset({0x0008_0005, 0x0012_0062, 0x0012_0063, 0x0012_0064, 0x0028_0301, 0x0028_0302, 0x0028_0303})
"""What a tool writes or checks itself."""

_ACQUISITION_GROUPS = frozenset({0x0018, 0x0020, 0x0028, 0x5200})
"""Acquisition, relationship, image presentation, and the functional groups of enhanced images."""

_TYPE_1 = """
SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID Modality ImageType SamplesPerPixel
PhotometricInterpretation Rows Columns BitsAllocated BitsStored HighBit PixelRepresentation PixelData
ImagePositionPatient ImageOrientationPatient PixelSpacing ScanningSequence SequenceVariant FrameOfReferenceUID
InstanceNumber ContentDate ContentTime NumberOfFrames SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence
DimensionIndexSequence AcquisitionDateTime
"""
"""Type 1 in an MR image, classic (PS3.3 A.4) or enhanced (A.36), except what the file may lack; checked if present."""

_TYPE_2 = """
PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime AccessionNumber ReferringPhysicianName StudyID
SeriesNumber Manufacturer ScanOptions MRAcquisitionType EchoTime EchoTrainLength RepetitionTime SliceThickness
PositionReferenceIndicator
"""

_ACQUISITION_PRIVATE = """
SIEMENS MR HEADER|0019|0A 0C 0E 14 18 27 28 29
SIEMENS MR HEADER|0051|0B 0E 0F 11
SIEMENS MR SDS 01|0021|05 5A 5B 5C
SIEMENS MR SDI 02|0021|04 06 1C 42 4F 53 58 5B 75 76 8A
GEMS_ACQU_01|0019|17 1B 5A 7F 9C 9E A2 A9 B2 B3 B6 BB BC BD DF E0 E2
GEMS_RELA_01|0021|4F 5E
GEMS_IMAG_01|0027|60 61 62
GEMS_PARM_01|0043|02 03 04 2C 2F 30 39 7C 83 95 A3 A4 A5 B2 B6 B7 CA
Philips Imaging DD 001|2001|03 08 0A 0B 10 13 18 19 1B 1C 1F 22 81
Philips MR Imaging DD 001|2005|0E 30 63 6F 71 72 73 78 79 7A A0 B0 B1 B2
Philips MR Imaging DD 002|2005|10
Philips MR Imaging DD 005|2005|12 13 29 3C 96
Image Private Header|0065|05 09 0D 37 50 58
"""
"""Private elements that a converter reads to get diffusion, timing, phase encoding and scaling right."""

_CONTAINER_PRIVATE = """
SIEMENS CSA HEADER|0029|10 20
SIEMENS MR SDS 01|0021|19 FE
SIEMENS MR SDI 02|0021|FE
GEMS_SERS_01|0025|1B
GEMS_PARM_01|0043|2A
Philips MR Imaging DD 005|2005|0F
Image Private Header|0065|51
"""
"""Private elements that a converter looks into: they must be there, and not be empty."""

_LEAKING_PRIVATE = """
SIEMENS CSA HEADER|0029|09 19
SIEMENS MR SDI 02|0021|60
GEMS_IDEN_01|0009|27 30 E3
GEMS_SERS_01|0025|1A
GEMS_PARM_01|0043|28 61 62 88 98
Philips MR Imaging DD 005|2005|11
"""
"""Private elements in which scanners repeat dates, stations, exam numbers and UIDs."""

_HIPAA = {
    "B": "InstitutionAddress PatientAddress ReferringPhysicianAddress CountryOfResidence RegionOfResidence "
    "InstitutionName InstitutionalDepartmentName CurrentPatientLocation PatientInstitutionResidence",
    "D": "PatientTelephoneNumbers ReferringPhysicianTelephoneNumbers OrderCallbackPhoneNumber",
    "F": "PatientTelecomInformation",
    "H": "PatientID OtherPatientIDs IssuerOfPatientID MedicalRecordLocator",
    "I": "InsurancePlanIdentification",
    "M": "DeviceSerialNumber StationName GantryID DetectorID PlateID GeneratorID CassetteID StationAETitle "
    "PerformedStationName PerformedStationAETitle ScheduledStationAETitle",
    "R": "AccessionNumber StudyID AdmissionID ServiceEpisodeID RequestedProcedureID ScheduledProcedureStepID "
    "PerformedProcedureStepID PlacerOrderNumberImagingServiceRequest FillerOrderNumberImagingServiceRequest",
}
"""The letters of 45 CFR 164.514(b)(2)(i) by attribute: places, telephone, mail, record and plan numbers, devices."""

_KIND_CATEGORIES = {
    "name": "HIPAA-A",
    "date": "HIPAA-C",
    "age": "HIPAA-C",
    "epoch": "HIPAA-C",
    "id": "HIPAA-R",
    "serial": "HIPAA-M",
}
_STOP_WORDS = frozenset({"a", "an", "and", "at", "by", "for", "in", "is", "of", "on", "or", "the", "to", "with"})
_PIXELS = "<(7FE0,0010)>"
_KEPT_WORDS = ("t1", "sag")
"""Words of imaging that the canary set puts into descriptors beside what must go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One demand on one attribute.

    Attributes
    ----------
    action
        One of `ACTIONS`.
    tag_ds
        Where: `<(0008,1140)>[<0000>]<(0008,1155)>`, items counted from 0, private as `<(0019,"CREATOR",92)>`.
    value
        What the source has there.
    action_text
        The part of the value that the demand is about.
    answer_category
        Whose demand: HIPAA with a letter, the profile of PS3.15, the IOD, or the private elements.
    """

    action: str
    tag_ds: str
    value: str
    action_text: str
    answer_category: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """The score of an export.

    Attributes
    ----------
    passed, required
        Correct and all actions, by category.
    failed
        What failed, with the SOP instance UID of its source.
    """

    passed: Counter[str]
    required: Counter[str]
    failed: tuple[tuple[str, Check], ...]

    @property
    def total(self) -> int:
        """How many checks there were."""
        return self.required.total()

    @property
    def share(self) -> float:
        """Correct actions over required actions, in percent."""
        return 100 * self.passed.total() / self.total

    def of(self, category: str) -> float:
        """Return the share of the categories that begin with a text, in percent."""
        required = sum(count for name, count in self.required.items() if name.startswith(category))
        passed = sum(count for name, count in self.passed.items() if name.startswith(category))
        return 100 * passed / required


# ---- the table, read anew


@dataclass(frozen=True, slots=True)
class _Row:
    basic: str
    codes: Mapping[str, str]


def _read_table() -> dict[int, _Row]:
    """Read the standard's table: of a row the code of the profile and of the options that the key is for."""
    content = importlib.resources.files("tasks.deidentify").joinpath("data", "ps315_e1_1.json").read_bytes()
    rows = {}
    for rule in json.loads(content)["rules"]:
        if re.fullmatch(r"[0-9A-F]{8}", rule["tag"]):
            codes = {option: code for option, code in rule["options"].items() if option in OPTIONS}
            rows[int(rule["tag"], 16)] = _Row(rule["basic"], codes)
    return rows


TABLE = _read_table()


def _listed(text: str) -> frozenset[tuple[str, int, int]]:
    found = set()
    for line in text.strip().splitlines():
        creator, group, lows = line.split("|")
        found |= {(creator, int(group, 16), int(low, 16)) for low in lows.split()}
    return frozenset(found)


ACQUISITION_PRIVATE, CONTAINER_PRIVATE = _listed(_ACQUISITION_PRIVATE), _listed(_CONTAINER_PRIVATE)
LEAKING_PRIVATE = _listed(_LEAKING_PRIVATE)
_HIPAA_TAGS = {
    tag_for_keyword(keyword): f"HIPAA-{letter}" for letter, text in _HIPAA.items() for keyword in text.split()
}
_TYPE_1_TAGS = frozenset(map(tag_for_keyword, _TYPE_1.split()))
_TYPE_2_TAGS = frozenset(map(tag_for_keyword, _TYPE_2.split()))


# ---- making the key


@dataclass(frozen=True, slots=True)
class _Place:
    """An element of a source.

    Its data set and path; whether nothing of it has to stay, whether it is part of a code, whether the file says that
    its dates were moved before, and of a binary number its bytes as Latin-1.
    """

    dataset: Dataset
    element: DataElement
    path: str
    depth: int
    is_dropped: bool
    is_in_code: bool
    was_moved: bool
    written: str

    @property
    def tag(self) -> int:
        return int(self.element.tag)

    @property
    def text(self) -> str:
        return _text(self.element)


def checks_of(source: bytes, canaries: Iterable[Canary] = (), hidden: Area | None = None) -> list[Check]:
    """Work out what the export of a file must and must not hold.

    Parameters
    ----------
    source
        A file with an image.
    canaries
        What was planted in it: it must go from wherever it stands, and the rules for what must stay leave it out.
    hidden
        Where text stands in its pixels.
    """
    tokens = {canary.token: canary for canary in canaries}
    every = [canary.token for canary in canaries]
    checks: list[Check] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(io.BytesIO(source))
        moved = dataset.get("PatientIdentityRemoved") == "YES"
        moved = moved and dataset.get("LongitudinalTemporalInformationModified") == "MODIFIED"
        for place in _walk(dataset, was_moved=moved):
            text = place.text
            planted = [canary for token, canary in tokens.items() if token in text]
            if planted:
                checks += _planted_checks(place, planted)
            elif not any(token in text or token in place.written for token in every):
                checks += _natural_checks(place)
        if "PixelData" in dataset:
            area = "" if hidden is None else ",".join(map(str, hidden))
            digest = digest_of_pixels(dataset, outside=hidden)
            checks.append(_check("pixels_retained", _PIXELS, digest, area, "TCIA-P15-PIX-K"))
            if hidden is not None:
                checks.append(_check("pixels_hidden", _PIXELS, "", area, "HIPAA-PIX"))
    return checks


def _check(action: str, path: str, value: str, text: str, category: str) -> Check:
    return Check(action=action, tag_ds=path, value=value, action_text=text, answer_category=category)


def _walk(
    dataset: Dataset,
    above: str = "",
    depth: int = 0,
    *,
    is_dropped: bool = False,
    is_in_code: bool = False,
    was_moved: bool,
) -> Iterator[_Place]:
    for tag in list(dataset.keys()):
        raw = dataset.get_item(tag)
        is_number = raw.VR in _NUMBER_VRS and isinstance(raw.value, bytes)
        written = raw.value.decode("latin-1") if is_number else ""
        path = above + _step(dataset, tag)
        try:
            element = dataset[tag]
        except Exception:  # noqa: BLE001 - what pydicom cannot turn into a value has none to check
            continue
        if not path.endswith(">") or tag.element == 0:
            continue
        yield _Place(dataset, element, path, depth, is_dropped, is_in_code, was_moved, written)
        for number, item in enumerate(element.value if element.VR == "SQ" else ()):
            yield from _walk(
                item,
                f"{path}[<{number:04d}>]",
                depth + 1,
                is_dropped=is_dropped or _drops(dataset, element),
                is_in_code=element.keyword.endswith("CodeSequence") or 0x00080100 in item,
                was_moved=was_moved,
            )


def _step(dataset: Dataset, tag: BaseTag) -> str:
    """Write one step of a path; empty for a private element without a creator."""
    if not tag.is_private:
        return f"<({tag.group:04X},{tag.element:04X})>"
    if tag.element <= 0xFF:
        return ""
    creator = dataset.get((tag.group, tag.element >> 8))
    if creator is None or not isinstance(creator.value, str):
        return ""
    return f'<({tag.group:04X},"{creator.value.strip()}",{tag.element & 0xFF:02X})>'


def _drops(dataset: Dataset, element: DataElement) -> bool:
    """Tell whether nothing in a sequence has to stay: it is not about the acquisition, or the table may remove it."""
    if element.tag.is_private:
        return _private_of(dataset, element.tag) not in CONTAINER_PRIVATE
    return int(element.tag) in TABLE or element.tag.group not in _ACQUISITION_GROUPS


def _private_of(dataset: Dataset, tag: BaseTag) -> tuple[str, int, int] | None:
    creator = dataset.get((tag.group, tag.element >> 8))
    if creator is None or not isinstance(creator.value, str):
        return None
    return creator.value.strip(), tag.group, tag.element & 0xFF


def _text(element: DataElement) -> str:
    """Spell a value: several are separated by backslashes, bytes are Latin-1."""
    value = element.value
    if element.VR == "SQ" or value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("latin-1").rstrip("\0 ")
    if isinstance(value, str | PersonName) or not isinstance(value, Iterable):
        return str(value)
    return "\\".join(map(str, value))


def _planted_checks(place: _Place, planted: list[Canary]) -> Iterator[Check]:
    """Demand that what was planted goes, and that the words of imaging beside it stay where a descriptor is cleaned."""
    text = place.text
    for canary in planted:
        category = _KIND_CATEGORIES.get(canary.kind, _HIPAA_TAGS.get(place.tag, "TCIA-REV"))
        if canary.kind == "date" and not place.was_moved:
            yield _check("date_shifted", place.path, text, canary.token, category)
        elif canary.kind == "uid":
            yield _check("uid_changed", place.path, text, canary.token, "DICOM-P15-BASIC-U")
            if place.element.VR == "UI" and text == canary.token and _is_replaced(place):
                yield _check("uid_consistent", place.path, text, text, "DICOM-P15-BASIC-U")
        else:
            yield _check("text_removed", place.path, text, canary.token, category)
    if place.tag == 0x00100020 and place.depth == 0:
        yield _check("patid_consistent", place.path, text, text, "HIPAA-H")
    row = TABLE.get(place.tag)
    if (
        row is not None
        and row.codes.get("clean_descriptors") == "C"
        and not place.is_dropped
        and place.element.VR != "SQ"
    ):
        kept = [word for word in _KEPT_WORDS if re.search(rf"\b{word}\b", text.replace("_", " "))]
        if kept:
            yield _check("text_retained", place.path, text, " ".join(kept), "TCIA-P15-DESC-C")
    if place.element.VR in _TEXT_VRS or {canary.kind for canary in planted} & {"date", "name", "uid"}:
        # A word where a date, a term or a number belongs leaves nothing that could stay.
        yield from _iod_checks(place)


def _is_replaced(place: _Place) -> bool:
    row = TABLE.get(place.tag)
    return row is not None and row.basic == "U" and not place.is_dropped


def _natural_checks(place: _Place) -> Iterator[Check]:
    """Demand of a value that a scanner wrote what the standard and the scan ask for."""
    if place.element.tag.is_private:
        yield from _private_checks(place)
        return
    yield from _iod_checks(place)
    text, vr = place.text, place.element.VR
    if not text.strip() or place.tag in _REFUSED_TAGS or place.tag >> 16 >= 0x6000 or vr in ("SQ", "OB", "OW", "UN"):
        return
    row = TABLE.get(place.tag)
    if vr == "UI":
        yield from _uid_checks(place, row)
    elif row is not None:
        yield from _listed_checks(place, row)
    elif vr in ("DA", "DT"):
        yield _check("date_shifted", place.path, text, text, "HIPAA-C")
    elif vr == "PN":
        yield _check("text_removed", place.path, text, text, "HIPAA-A")
    elif vr == "UR":
        yield _check("text_removed", place.path, text, text, "HIPAA-N")
    elif not place.is_dropped and not place.is_in_code and (vr in _NUMBER_VRS or vr == "CS"):
        group = place.tag >> 16
        if group in _ACQUISITION_GROUPS or place.tag in (0x00080008, 0x00080060):
            yield _check("tag_retained", place.path, text, "", "DICOM-P15-BASIC-K")
            yield _check("text_retained", place.path, text, text, "DICOM-P15-BASIC-K")


def _uid_checks(place: _Place, row: _Row | None) -> Iterator[Check]:
    text = place.text
    if any(uid in UID_dictionary for uid in text.split("\\")) or (row is None and _is_class(place.tag)):
        return
    yield _check("uid_changed", place.path, text, text, "DICOM-P15-BASIC-U")
    if _is_replaced(place) and "\\" not in text:
        yield _check("uid_consistent", place.path, text, text, "DICOM-P15-BASIC-U")


def _is_class(tag: int) -> bool:
    entry = DicomDictionary.get(tag)
    return entry is not None and ("ClassUID" in entry[4] or "TransferSyntax" in entry[4] or "CodingScheme" in entry[4])


def _listed_checks(place: _Place, row: _Row) -> Iterator[Check]:
    """Demand what table E.1-1 says of an attribute."""
    text, vr, tag = place.text, place.element.VR, place.tag
    category = _HIPAA_TAGS.get(tag, "DICOM-P15-BASIC-X")
    dates = row.codes.get("retain_longitudinal_modified_dates")
    if place.is_dropped and vr not in ("DA", "DT", "PN"):
        if vr in _TEXT_VRS:
            yield _check("text_removed", place.path, text, text, category)
    elif vr in ("DA", "DT") and place.was_moved and dates == "C":
        # Moved a second time, dates would no longer fit those of the same patient's other files.
        yield _check("text_retained", place.path, text, text, "TCIA-P15-MOD-C")
    elif vr in ("DA", "DT"):
        yield _check("date_shifted", place.path, text, text, "HIPAA-C")
    elif vr == "TM":
        if dates == "C":
            yield _check("text_retained", place.path, text, text, "TCIA-P15-MOD-C")
    elif vr == "PN":
        yield _check("text_removed", place.path, text, text, "HIPAA-A")
    elif row.codes.get("retain_patient_characteristics") == "K":
        if vr == "AS" and _is_old(text):
            yield _check("text_removed", place.path, text, text, "HIPAA-C")
        elif vr != "AS" or re.fullmatch(r"\d{3}[DWMY]", text):
            yield _check("text_retained", place.path, text, text, "TCIA-P15-PAT-K")
    elif row.codes.get("clean_descriptors") == "C":
        if place.depth == 0:
            yield _check("text_notnull", place.path, text, "", "TCIA-P15-DESC-C")
    elif tag == 0x00100020:
        yield _check("patid_consistent", place.path, text, text, "HIPAA-H")
        yield _check("text_removed", place.path, text, text, "HIPAA-H")
    elif vr in _TEXT_VRS:
        yield _check("text_removed", place.path, text, text, category)


def _is_old(age: str) -> bool:
    return age.endswith("Y") and age[:-1].isdigit() and int(age[:-1]) > 89


def _iod_checks(place: _Place) -> Iterator[Check]:
    if place.depth:
        return
    if place.element.VR in ("DA", "DT", "TM") and not place.text[:1].isdigit():
        return
    if place.tag in _TYPE_1_TAGS and (place.text.strip() or place.element.VR == "SQ"):
        yield _check("text_notnull", place.path, "", "", "DICOM-IOD-1")
    elif place.tag in _TYPE_2_TAGS:
        yield _check("tag_retained", place.path, "", "", "DICOM-IOD-2")


def _private_checks(place: _Place) -> Iterator[Check]:
    """Demand that the acquisition stays and that what repeats the identity goes."""
    known = _private_of(place.dataset, place.element.tag)
    text, vr = place.text, place.element.VR
    if known in CONTAINER_PRIVATE and not place.is_dropped and (vr == "SQ" or text):
        yield _check("tag_retained", place.path, "", "", "TCIA-PTKB")
        yield _check("text_notnull", place.path, "", "", "TCIA-PTKB")
    elif not text.strip() or vr == "SQ":
        return
    elif known in LEAKING_PRIVATE:
        action = {"UI": "uid_changed", "DT": "date_shifted"}.get(vr, "text_removed")
        yield _check(action, place.path, text, text, "TCIA-PTKB")
    elif known in ACQUISITION_PRIVATE and not place.is_dropped:
        yield _check("tag_retained", place.path, text, "", "TCIA-PTKB")
        yield _check("text_retained", place.path, text, text, "TCIA-PTKB")
    elif vr in ("DA", "DT"):
        yield _check("date_shifted", place.path, text, text, "HIPAA-C")
    elif vr == "PN":
        yield _check("text_removed", place.path, text, text, "HIPAA-A")
    elif vr == "UI" and not any(uid in UID_dictionary for uid in text.split("\\")):
        yield _check("uid_changed", place.path, text, text, "DICOM-P15-BASIC-U")


def write_key(path: Path, instances: Iterable[Instance]) -> int:
    """Write the key of some files and what was planted in each; return the number of checks."""
    count = 0
    with contextlib.closing(sqlite3.connect(path)) as base, base:
        base.execute(_SCHEMA)
        for source, canaries, hidden in instances:
            checks = checks_of(source, canaries, hidden)
            count += len(checks)
            dataset = read(source)
            fields = [
                str(dataset.get(keyword, ""))
                for keyword in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
            ]
            answers = {str(number): asdict(check) for number, check in enumerate(checks, 1)}
            base.execute(
                "INSERT INTO answer_data (PatientID, StudyInstanceUID, SeriesInstanceUID, SOPInstanceUID, SOPClassUID, "
                "Modality, Digest, AnswerData) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (*fields, str(dataset.get("Modality", "")), digest_of_pixels(dataset), json.dumps(answers)),
            )
    return count


def read(content: bytes) -> FileDataset:
    """Read a file with pydicom."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(io.BytesIO(content), force=True)


def digest_of_pixels(dataset: Dataset, outside: Area | None = None) -> str:
    """Return MD5 of the pixels, as far as bits are stored and pixels counted: what lies beyond shows nothing.

    Parameters
    ----------
    dataset
        With pixel data of any syntax; where none can decode it, their bytes count.
    outside
        An area that does not count.
    """
    try:
        pixels = _pixels(dataset)
        if outside is not None:
            _part(pixels, outside)[...] = 0
        content = pixels.tobytes()
    except Exception:  # noqa: BLE001 - no decoder, or no pixels
        content = dataset.get("PixelData") or b""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _pixels(dataset: Dataset) -> npt.NDArray[np.int64]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dataset.pixel_array.astype(np.int64) & (1 << dataset.BitsStored) - 1


def _part(pixels: npt.NDArray[np.int64], area: Area) -> npt.NDArray[np.int64]:
    x0, y0, x1, y1 = area
    return pixels[y0:y1, x0:x1]


# ---- scoring an export


def validate(
    key: Path,
    exports: Mapping[str, bytes | None],
    *,
    uids: Mapping[str, str] | Callable[[str], str] | None = None,
    patients: Mapping[str, str] | None = None,
) -> Marks:
    """Score an export against a key.

    Parameters
    ----------
    key
        As `write_key` wrote it.
    exports
        By the SOP instance UID of the source, the exported file. A file that is not there passes what asks for removal
        and fails what asks for retention.
    uids, patients
        The tool's own account of what UID and what Patient ID became which. Without, the first sight of each is it.
    """
    passed: Counter[str] = Counter()
    required: Counter[str] = Counter()
    failed: list[tuple[str, Check]] = []
    submitted = uids if callable(uids) else None if uids is None else lambda uid: uids.get(uid, "")
    seen_uids: dict[str, str] = {}
    seen_patients: dict[str, str] = {}
    with contextlib.closing(sqlite3.connect(key)) as base:
        rows = base.execute("SELECT SOPInstanceUID, AnswerData FROM answer_data ORDER BY id").fetchall()
    for instance, answers in rows:
        content = exports.get(instance)
        dataset = None if content is None else read(content)
        for fields in json.loads(answers).values():
            check = Check(**fields)
            found = None if dataset is None else find(dataset, check.tag_ds)
            required[check.answer_category] += 1
            if check.action == "uid_consistent":
                good = _is_consistent(check, found, submitted, seen_uids)
            elif check.action == "patid_consistent":
                told = None if patients is None else lambda patient: patients.get(patient, "")
                good = _is_consistent(check, found, told, seen_patients)
            else:
                good = _JUDGES[check.action](check, found, dataset)
            if good:
                passed[check.answer_category] += 1
            else:
                failed.append((instance, check))
    return Marks(passed=passed, required=required, failed=tuple(failed))


_STEP = re.compile(r'<\(([0-9A-F]{4}),(?:([0-9A-F]{4})|"([^"]*)",([0-9A-F]{2}))\)>(?:\[<(\d{4})>\])?')


def find(dataset: Dataset, path: str) -> DataElement | None:
    """Find the element of a path, whatever block a private creator has reserved."""
    element: DataElement | None = None
    for group, number, creator, low, item in _STEP.findall(path):
        tag = (int(group, 16), int(number, 16)) if number else _reserved(dataset, int(group, 16), creator, int(low, 16))
        if tag is None or tag not in dataset:
            return None
        try:
            element = dataset[tag]
        except Exception:  # noqa: BLE001 - a value that cannot be read is none
            return None
        if item:
            if element.VR != "SQ" or int(item) >= len(element.value):
                return None
            dataset = element.value[int(item)]
    return element


def _reserved(dataset: Dataset, group: int, creator: str, low: int) -> tuple[int, int] | None:
    for block in range(0x10, 0x100):
        element = dataset.get((group, block))
        if element is not None and isinstance(element.value, str) and element.value.strip() == creator:
            return group, block << 8 | low
    return None


def _is_consistent(
    check: Check, found: DataElement | None, submitted: Callable[[str], str] | None, seen: dict[str, str]
) -> bool:
    """Tell whether what stands in the place of an identifier is what always does, and stands for nothing else."""
    if found is None or not (new := _text(found).strip()):
        return False
    if submitted is not None:
        return new == submitted(check.value)
    is_new = check.value not in seen and new not in seen.values()
    return seen.setdefault(check.value, new) == new and (is_new or seen[check.value] == new)


def _value(found: DataElement | None) -> str:
    return "" if found is None else _text(found)


def _tokens(text: str) -> list[str]:
    return [word for word in re.split(r"[\s\\^=,;:/_()\[\]]+", text.lower()) if word and word not in _STOP_WORDS]


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def _holds(tokens: list[str], word: str) -> bool:
    if word in tokens:
        return True
    number = _number(word)
    return number is not None and any(_number(token) == number for token in tokens)


def _is_present(check: Check, found: DataElement | None, dataset: Dataset | None) -> bool:
    return found is not None


def _is_not_null(check: Check, found: DataElement | None, dataset: Dataset | None) -> bool:
    return found is not None and (len(found.value) > 0 if found.VR == "SQ" else bool(_text(found).strip("\0 ")))


def _is_retained(check: Check, found: DataElement | None, dataset: Dataset | None) -> bool:
    tokens = _tokens(_value(found))
    return found is not None and all(_holds(tokens, word) for word in _tokens(check.action_text))


def _is_removed(check: Check, found: DataElement | None, dataset: Dataset | None) -> bool:
    value = _value(found).lower()
    tokens = _tokens(value)
    return (
        not any(_holds(tokens, word) for word in _tokens(check.action_text)) and check.action_text.lower() not in value
    )


def _is_changed(check: Check, found: DataElement | None, dataset: Dataset | None) -> bool:
    return check.action_text not in _value(found)


def _is_same_picture(check: Check, found: DataElement | None, dataset: Dataset | None) -> bool:
    area = tuple(map(int, check.action_text.split(","))) if check.action_text else None
    return dataset is not None and digest_of_pixels(dataset, outside=area) == check.value


def _is_hidden(check: Check, found: DataElement | None, dataset: Dataset | None) -> bool:
    x0, y0, x1, y1 = map(int, check.action_text.split(","))
    return dataset is None or len(np.unique(_part(_pixels(dataset), (x0, y0, x1, y1)))) == 1


_JUDGES: dict[str, Callable[[Check, DataElement | None, Dataset | None], Any]] = {
    "tag_retained": _is_present,
    "text_notnull": _is_not_null,
    "text_retained": _is_retained,
    "text_removed": _is_removed,
    "date_shifted": _is_changed,
    "uid_changed": _is_changed,
    "pixels_hidden": _is_hidden,
    "pixels_retained": _is_same_picture,
}
