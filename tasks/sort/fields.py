"""What a template's fields show: of a file, of the header it shares with others, and of the series it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal

from tasks.dicom.text import plain_name
from tasks.index.row import ROW_FIELDS, SHARED_FIELDS, SharedHeader
from tasks.index.subgroup import name_orientation, subgroup_of
from tasks.sort.names import safe_part
from tasks.sort.visit import Visit, parse_date, parse_date_time, parse_time, patient_key, study_key


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of the files that share a header.

    Attributes
    ----------
    series
        What all files of the series agree on (`canonical_header`).
    own
        The header itself, its patient put right as that of the series is.
    """

    series: SharedHeader
    own: SharedHeader
    visit: Visit


def series_key(shared: SharedHeader) -> tuple[str, ...]:
    """Tell series apart: by patient, DICOM study and UID, and where that is absent by what else names a series."""
    key = (*patient_key(shared), study_key(shared), shared.series_instance_uid)
    if shared.series_instance_uid:
        return key
    return (*key, shared.modality, shared.series_number, shared.series_description)


def canonical_header(headers: Iterable[SharedHeader]) -> SharedHeader:
    """Return one header for a series whose files disagree: of each attribute the first value, in the order of text.

    An empty value comes last, so what only some files say is kept; of dates and times the earliest is taken.
    """
    values = zip(*map(_shared_values, set(headers)), strict=True)
    chosen = (min(found, key=lambda value: (not value, value)) for found in values)
    return SharedHeader(**dict(zip(SHARED_FIELDS, chosen, strict=True)))


_shared_values = attrgetter(*SHARED_FIELDS)
OwnValues = Sequence[str]
"""A file's own attributes, in the order of `ROW_FIELDS`."""

_SOP_INSTANCE_UID, _INSTANCE_NUMBER, _ACQUISITION_NUMBER, _ACQUISITION_TIME, _ACQUISITION_DATETIME = map(
    ROW_FIELDS.index,
    ("sop_instance_uid", "instance_number", "acquisition_number", "acquisition_time", "acquisition_datetime"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of a template.

    Attributes
    ----------
    meaning
        For people.
    kind
        How its value becomes a name, and which format it takes: "text" is made safe and may be cut (`{x:.20}`), "name"
        likewise but a hash follows if anything of it was lost, "number" is padded with zeros (`{x:03}`), "plain" is
        taken as it is, "hash" is hashed, and "patient" is ID, name and hash.
    varies
        Between whom it can differ: series, headers of one series, or files of one header.
    read
        Returns the value, empty if it is missing; of a hash the identity is read.
    longest
        Bytes, of a plain one.
    """

    meaning: str
    kind: Literal["text", "name", "number", "plain", "hash", "patient"]
    varies: Literal["series", "header", "file"]
    read: Callable[[Facts, OwnValues], str] = lambda _facts, _own: ""
    identity: Callable[[Facts, OwnValues], tuple[str, ...]] = lambda _facts, _own: ()
    longest: int = 0


def _series_text(meaning: str, attribute: str) -> Field:
    read = attrgetter(attribute)
    return Field(meaning=meaning, kind="text", varies="series", read=lambda facts, _: str(read(facts.series)))


def _series_date(meaning: str, attribute: str) -> Field:
    read = attrgetter(attribute)
    return Field(
        meaning=meaning, kind="plain", varies="series", longest=10, read=lambda facts, _: _date(read(facts.series))
    )


def _series_time(meaning: str, attribute: str) -> Field:
    read = attrgetter(attribute)
    return Field(
        meaning=meaning, kind="plain", varies="series", longest=6, read=lambda facts, _: _time(read(facts.series))
    )


def _uid(meaning: str, varies: Literal["series", "file"], read: Callable[[Facts, OwnValues], str]) -> Field:
    # At most 64 characters (PS3.5 section 9.1); a longer one is none.
    return Field(
        meaning=meaning,
        kind="plain",
        varies=varies,
        longest=65,
        read=lambda facts, own: safe_part(read(facts, own), limit=64),
    )


def _own_number(meaning: str, position: int) -> Field:
    return Field(meaning=meaning, kind="number", varies="file", read=lambda _, own: own[position])


def _date(text: str) -> str:
    date = parse_date(text)
    return date.isoformat() if date is not None else ""


def _time(text: str) -> str:
    time = parse_time(text)
    return time.strftime("%H%M%S") if time is not None else ""


def _acquisition_date(facts: Facts, own: OwnValues) -> str:
    return _date(facts.own.acquisition_date) or _date(own[_ACQUISITION_DATETIME])


def _acquisition_time(_: Facts, own: OwnValues) -> str:
    moment = None if parse_time(own[_ACQUISITION_TIME]) else parse_date_time(own[_ACQUISITION_DATETIME])
    return moment.strftime("%H%M%S") if moment is not None else _time(own[_ACQUISITION_TIME])


def _scan_type(facts: Facts, _: OwnValues) -> str:
    series = facts.series
    values = (series.series_description, series.protocol_name, series.modality)
    return next((value for value in values if safe_part(value)), "")


def _sop_class(facts: Facts, _: OwnValues) -> str:
    uid = facts.own.sop_class_uid
    return SOP_CLASSES.get(uid) or safe_part(uid, limit=64)


def _several(text: str) -> str:
    return "-".join(filter(None, (value.strip() for value in text.split("\\"))))


SOP_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.1": "ComputedRadiography",
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "EnhancedCT",
    "1.2.840.10008.5.1.4.1.1.2.2": "LegacyConvertedEnhancedCT",
    "1.2.840.10008.5.1.4.1.1.3.1": "UltrasoundMultiFrame",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "EnhancedMR",
    "1.2.840.10008.5.1.4.1.1.4.2": "MRSpectroscopy",
    "1.2.840.10008.5.1.4.1.1.4.3": "EnhancedMRColor",
    "1.2.840.10008.5.1.4.1.1.4.4": "LegacyConvertedEnhancedMR",
    "1.2.840.10008.5.1.4.1.1.6.1": "Ultrasound",
    "1.2.840.10008.5.1.4.1.1.7": "SecondaryCapture",
    "1.2.840.10008.5.1.4.1.1.7.1": "MultiFrameSingleBitSecondaryCapture",
    "1.2.840.10008.5.1.4.1.1.7.2": "MultiFrameGrayscaleByteSecondaryCapture",
    "1.2.840.10008.5.1.4.1.1.7.3": "MultiFrameGrayscaleWordSecondaryCapture",
    "1.2.840.10008.5.1.4.1.1.7.4": "MultiFrameTrueColorSecondaryCapture",
    "1.2.840.10008.5.1.4.1.1.11.1": "GrayscaleSoftcopyPresentationState",
    "1.2.840.10008.5.1.4.1.1.12.1": "XRayAngiographic",
    "1.2.840.10008.5.1.4.1.1.20": "NuclearMedicine",
    "1.2.840.10008.5.1.4.1.1.30": "ParametricMap",
    "1.2.840.10008.5.1.4.1.1.66": "RawData",
    "1.2.840.10008.5.1.4.1.1.66.1": "SpatialRegistration",
    "1.2.840.10008.5.1.4.1.1.66.4": "Segmentation",
    "1.2.840.10008.5.1.4.1.1.66.5": "SurfaceSegmentation",
    "1.2.840.10008.5.1.4.1.1.66.6": "TractographyResults",
    "1.2.840.10008.5.1.4.1.1.67": "RealWorldValueMapping",
    "1.2.840.10008.5.1.4.1.1.88.11": "BasicTextSR",
    "1.2.840.10008.5.1.4.1.1.88.22": "EnhancedSR",
    "1.2.840.10008.5.1.4.1.1.88.33": "ComprehensiveSR",
    "1.2.840.10008.5.1.4.1.1.88.59": "KeyObjectSelectionDocument",
    "1.2.840.10008.5.1.4.1.1.88.67": "XRayRadiationDoseSR",
    "1.2.840.10008.5.1.4.1.1.104.1": "EncapsulatedPDF",
    "1.2.840.10008.5.1.4.1.1.128": "PositronEmissionTomography",
    "1.2.840.10008.5.1.4.1.1.130": "EnhancedPET",
    "1.2.840.10008.5.1.4.1.1.481.2": "RTDose",
    "1.2.840.10008.5.1.4.1.1.481.3": "RTStructureSet",
    "1.2.840.10008.5.1.4.1.1.481.5": "RTPlan",
}
"""What the field sop_class shows (PS3.4 table B.5-1); of others it shows the UID."""

FIELDS = {
    "patient": Field(meaning="patient ID and name, and the patient's hash", kind="patient", varies="series"),
    "patient_id": Field(
        meaning="patient ID; a hash follows if it had to be changed",
        kind="name",
        varies="series",
        read=lambda facts, _: facts.series.patient_id,
    ),
    "patient_name": Field(
        meaning="patient's name",
        kind="text",
        varies="series",
        read=lambda facts, _: plain_name(facts.series.patient_name),
    ),
    "patient_hash": Field(
        meaning="hash of patient ID and name",
        kind="hash",
        varies="series",
        identity=lambda facts, _: patient_key(facts.series),
    ),
    "patient_birth_date": _series_date("birth date, YYYY-MM-DD", "patient_birth_date"),
    "visit": Field(
        meaning="number of the visit, from 1 for each patient",
        kind="number",
        varies="series",
        read=lambda facts, _: str(facts.visit.number),
    ),
    "visit_date": Field(
        meaning="date on which the visit began, YYYY-MM-DD",
        kind="plain",
        varies="series",
        longest=12,
        read=lambda facts, _: facts.visit.date,
    ),
    "study_date": _series_date("date of the DICOM study, YYYY-MM-DD", "study_date"),
    "study_time": _series_time("time of the DICOM study, HHMMSS", "study_time"),
    "study_id": _series_text("study ID", "study_id"),
    "study_description": _series_text("study description", "study_description"),
    "study_uid": _uid("Study Instance UID", "series", lambda facts, _: facts.series.study_instance_uid),
    "study_hash": Field(
        meaning="hash of the patient and the DICOM study",
        kind="hash",
        varies="series",
        identity=lambda facts, _: (*patient_key(facts.series), study_key(facts.series)),
    ),
    "accession_number": _series_text("accession number", "accession_number"),
    "referring_physician": _series_text("referring physician's name", "referring_physician_name"),
    "institution": _series_text("institution", "institution_name"),
    "modality": _series_text("modality, such as MR", "modality"),
    "manufacturer": _series_text("the scanner's manufacturer", "manufacturer"),
    "model": _series_text("the scanner's model", "manufacturer_model_name"),
    "station": _series_text("the scanner's station name", "station_name"),
    "device_serial": _series_text("the scanner's serial number", "device_serial_number"),
    "series_number": Field(
        meaning="series number", kind="number", varies="series", read=lambda facts, _: facts.series.series_number
    ),
    "series_description": _series_text("series description", "series_description"),
    "series_date": _series_date("date of the series, YYYY-MM-DD", "series_date"),
    "series_time": _series_time("time of the series, HHMMSS", "series_time"),
    "protocol": _series_text("protocol name", "protocol_name"),
    "sequence": _series_text("sequence name", "sequence_name"),
    "scan_type": Field(
        meaning="series description, else protocol name, else modality", kind="text", varies="series", read=_scan_type
    ),
    "series_uid": _uid("Series Instance UID", "series", lambda facts, _: facts.series.series_instance_uid),
    "series_hash": Field(
        meaning="hash of the patient, the DICOM study and the series",
        kind="hash",
        varies="series",
        identity=lambda facts, _: series_key(facts.series),
    ),
    "image_type": Field(
        meaning="image type, its values joined by dashes",
        kind="text",
        varies="header",
        read=lambda facts, _: _several(facts.own.image_type),
    ),
    "echo": Field(meaning="echo number", kind="number", varies="header", read=lambda facts, _: facts.own.echo_numbers),
    "echo_time": Field(
        meaning="echo time, milliseconds", kind="text", varies="header", read=lambda facts, _: facts.own.echo_time
    ),
    "orientation": Field(
        meaning="axial, coronal, sagittal or oblique",
        kind="plain",
        varies="header",
        longest=8,
        read=lambda facts, _: name_orientation(facts.own.image_orientation_patient),
    ),
    "subgroup": Field(
        meaning="echo, component, map and orientation in words, such as echo-2_phase_axial",
        kind="text",
        varies="header",
        read=lambda facts, _: subgroup_of(facts.own),
    ),
    "sop_class": Field(
        meaning="kind of DICOM object, such as MR, EnhancedMR or RawData",
        kind="plain",
        varies="header",
        longest=65,
        read=_sop_class,
    ),
    "acquisition_number": _own_number("acquisition number", _ACQUISITION_NUMBER),
    "acquisition_date": Field(
        meaning="date of the acquisition, YYYY-MM-DD", kind="plain", varies="file", longest=10, read=_acquisition_date
    ),
    "acquisition_time": Field(
        meaning="time of the acquisition, HHMMSS", kind="plain", varies="file", longest=6, read=_acquisition_time
    ),
    "instance_number": _own_number("instance number", _INSTANCE_NUMBER),
    "instance_uid": _uid("SOP Instance UID", "file", lambda _, own: own[_SOP_INSTANCE_UID]),
    "instance_hash": Field(
        meaning="hash of the SOP Instance UID",
        kind="hash",
        varies="file",
        identity=lambda _, own: (own[_SOP_INSTANCE_UID],),
    ),
}
"""Every field a template may hold."""
