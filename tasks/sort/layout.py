"""Where a file belongs in the sorted tree: templates of names made of header values, safe on every file system.

A template is a path of folders with fields in braces, such as `{patient}/{visit_date}/{series_number:03}_{protocol}`.
A field that is missing is left out with the text before it; a name of which nothing is left says `unknown-` and the
field. What a field may be given as a format stands at `Field.kind`.
Values come from strangers: whatever they hold, a name never leaves the tree, and no system takes it for something else.
Fields that end in a hash name an identity, so that two things with equal names never merge.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal

from tasks.dicom.text import plain_name
from tasks.index.row import ROW_FIELDS, SHARED_FIELDS, SharedHeader
from tasks.index.subgroup import name_orientation, subgroup_of
from tasks.sort.visit import Visit, parse_date, parse_date_time, parse_time, patient_key, study_key

LAYOUT_VERSION = 3
"""Raised when the same template gives other names, so that the next run sorts again."""

UNKNOWN_PATIENT = "unknown-patient"

LONGEST_NAME = 255
"""Bytes that ext4, XFS, NTFS and APFS all allow in one name."""

LONGEST_PATH = 1000
"""Bytes of a place in the tree; APFS and many tools take 1024 with what stands above the tree."""

DEEPEST = 8
"""Folders that a template may lay into each other."""

_LONGEST_PART = 80
"""Bytes that one header value may take of a name."""

_SHORTEST_PART = 8
"""Bytes below which a value tells nothing any more."""

_LONG_HASH = 32
"""Digits that a hash takes where a short one is not enough; room is kept for it."""

_RESERVED = re.compile(r"(?is)^(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?$")
_KEPT_MARKS = frozenset("-+.,=")
_UNSAFE_ASCII = re.compile(r"[^0-9A-Za-z+.,=-]+")
_PLAIN_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z_+,=-]*[0-9A-Za-z]").fullmatch
"""A name that `safe_part` would return as it is."""

_INVISIBLE = dict.fromkeys(
    map(
        ord,
        "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0"
        + "".join(map(chr, range(0xFE00, 0xFE10)))
        + "".join(map(chr, range(0xE0100, 0xE01F0))),
    )
)
"""Letters and marks that show nothing: ext4 with case folding leaves them out when it compares names.

Source: Unicode, DerivedCoreProperties, Default_Ignorable_Code_Point, of the categories Lo and Mn.
"""


# Pieces of names -----------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=8192)
def safe_part(text: str, *, limit: int = _LONGEST_PART) -> str:
    """Turn a header value into a piece of a file name.

    Letters and digits of every script stay; everything else (separators, control and format characters, spaces)
    becomes an underscore. The result never begins with a dot, dash or underscore, never ends with a dot, is no name
    that Windows reserves, and may be empty.

    Parameters
    ----------
    text
        The value, decoded.
    limit
        The most bytes of UTF-8 the piece may take; one more for a reserved name.
    """
    kept = _replace_unsafe(text).strip("._- ")
    cut = kept.encode("utf-8", "replace")[:limit].decode("utf-8", "ignore").strip("._- ")
    # Windows looks at what stands before the first dot: "con.1" is as reserved as "con".
    return _RESERVED.sub(r"\1_\2", cut)


def short_hash(*identity: str, digits: int = 8) -> str:
    """Name an identity by the first hexadecimal digits of its SHA-256."""
    text = "\0".join(identity)
    if "\1" in text or text.count("\0") >= len(identity):
        # A value holds the separator: escaped, or two identities with shifted borders would be one.
        text = "\0".join(part.replace("\1", "\1\1").replace("\0", "\1\0") for part in identity)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:digits]


def fold(path: str) -> str:
    """Return what a case-folding, composition-blind file system takes a path for."""
    if path.isascii():
        return path.lower()
    visible = path.translate(_INVISIBLE)
    return unicodedata.normalize("NFC", unicodedata.normalize("NFKD", visible).casefold())


def _replace_unsafe(text: str) -> str:
    if text.isascii():
        kept = _UNSAFE_ASCII.sub("_", text)
    else:
        composed = unicodedata.normalize("NFC", text.translate(_INVISIBLE))
        kept = "".join(mark if mark.isalnum() or mark in _KEPT_MARKS or _combines(mark) else "_" for mark in composed)
        kept = re.sub(r"_+", "_", kept)
    return re.sub(r"\.{2,}", "_", kept) if ".." in kept else kept


def _combines(mark: str) -> bool:
    """Tell whether a mark belongs to the letter before it, as vowel signs do in many scripts."""
    return unicodedata.category(mark) in ("Mn", "Mc")


def _number(text: str, width: int) -> str:
    """Pad a number of 0 or more; empty if the value is none (IS has at most twelve characters, PS3.5 table 6.2-1)."""
    digits = text if text.isdecimal() else text.strip().removeprefix("+")
    if not (digits.isdecimal() and digits.isascii() and len(digits) <= 12):
        return ""
    return (digits.lstrip("0") or "0").zfill(width)


# What names are made of ----------------------------------------------------------------------------------------------


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
_Own = Sequence[str]
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
    read: Callable[[Facts, _Own], str] = lambda _facts, _own: ""
    identity: Callable[[Facts, _Own], tuple[str, ...]] = lambda _facts, _own: ()
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


def _uid(meaning: str, varies: Literal["series", "file"], read: Callable[[Facts, _Own], str]) -> Field:
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


def _acquisition_date(facts: Facts, own: _Own) -> str:
    return _date(facts.own.acquisition_date) or _date(own[_ACQUISITION_DATETIME])


def _acquisition_time(_: Facts, own: _Own) -> str:
    moment = None if parse_time(own[_ACQUISITION_TIME]) else parse_date_time(own[_ACQUISITION_DATETIME])
    return moment.strftime("%H%M%S") if moment is not None else _time(own[_ACQUISITION_TIME])


def _scan_type(facts: Facts, _: _Own) -> str:
    series = facts.series
    values = (series.series_description, series.protocol_name, series.modality)
    return next((value for value in values if safe_part(value)), "")


def _sop_class(facts: Facts, _: _Own) -> str:
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

_SERIES_FOLDER = "{series_number:03}_{series_description}_{series_hash}"
_INSTANCE = "{instance_number:05}_{instance_hash}"
_SERIES_AND_INSTANCE = "{series_number:03}_" + _INSTANCE

PRESETS = {
    "patient-date-series": ("{patient}/{visit_date}/" + _SERIES_FOLDER, _INSTANCE),
    "patient-date-type": ("{patient}/{visit_date}/{scan_type}", _SERIES_AND_INSTANCE),
    "patient-id": ("{patient_id}", _SERIES_AND_INSTANCE),
    "flat-series": ("{patient_id}_{visit_date}_" + _SERIES_FOLDER, _INSTANCE),
}
"""Templates that have a name: of the folders, and of the files."""

DEFAULT_FILE_NAME = _INSTANCE


# Templates -----------------------------------------------------------------------------------------------------------

_Render = Callable[[Facts, _Own, int], str]
"""Makes a field's piece of a name from facts, the file's own attributes and the digits of a hash; empty if missing."""

_FIELD = re.compile(r"\{([^{}]*)\}")
_HASHED = 1 + _LONG_HASH
_ENDING = ".dcm"


class LayoutError(ValueError):
    """The templates cannot be used; `faults` says why, a sentence each, all of them at once."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = list(faults)
        super().__init__("; ".join(self.faults))


@dataclass(frozen=True, slots=True)
class _Part:
    """A field within a name, and the text before it, which goes with it."""

    before: str
    render: _Render
    varies: str


@dataclass(frozen=True, slots=True)
class _Name:
    """The template of one folder's or file's name."""

    parts: tuple[_Part, ...]
    after: str
    unknown: str

    def fill(self, facts: Facts, own: _Own, digits: int) -> str:
        text = ""
        for part in self.parts:
            value = part.render(facts, own, digits)
            if value:
                text += part.before + value
        if self.parts and not text:
            return self.unknown
        return _finish(text + self.after)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What the sorted tree looks like; made by `parse_layout`.

    Attributes
    ----------
    canonical
        The two templates, and the version of what they mean.
    varies
        How often the folder has to be asked for: once a "series", "header" or "file".
    """

    canonical: str
    varies: Literal["series", "header", "file"]
    _folders: tuple[_Name, ...]
    _file: _Name

    @property
    def folder_needs_row(self) -> bool:
        """Tell whether files that share their header can lie in different folders."""
        return self.varies == "file"

    def folder_of(self, facts: Facts, own: Sequence[str] = ("",) * len(ROW_FIELDS), *, digits: int = 8) -> str:
        """Return the folder, relative to the sorted tree, with forward slashes.

        Parameters
        ----------
        facts
            Of the files that share a header.
        own
            The file's own attributes in the order of `ROW_FIELDS`; only if `folder_needs_row`.
        digits
            How long the hashes are, at most 32.
        """
        return "/".join(name.fill(facts, own, digits) for name in self._folders)

    def file_namer(self, facts: Facts, *, digits: int = 8) -> Callable[[Sequence[str], str], str]:
        """Return what names the files that share a header; what is the same for all is worked out once.

        Returns
        -------
        callable
            Takes a file's own attributes in the order of `ROW_FIELDS`, and its content's SHA-256 where the SOP Instance
            UID alone does not name it, or nothing; returns the name with its ending.
        """
        nobody = ("",) * len(ROW_FIELDS)
        pieces: list[tuple[str, str, _Render | None]] = []
        for part in self._file.parts:
            if part.varies == "file":
                pieces.append((part.before, "", part.render))
            elif value := part.render(facts, nobody, digits):
                pieces.append((part.before, value, None))
        after = self._file.after

        def name(own: Sequence[str], digest: str) -> str:
            text = ""
            for before, known, render in pieces:
                value = known if render is None else render(facts, own, digits)
                if value:
                    text += before + value
            text += after
            if not _PLAIN_NAME(text):
                text = _finish(text)
            return f"{text}_{digest[:digits]}{_ENDING}" if digest else text + _ENDING

        return name

    def file_name_of(self, own: Sequence[str], facts: Facts, *, digest: str = "", digits: int = 8) -> str:
        """Name one file; see `file_namer`, which is faster for many."""
        return self.file_namer(facts, digits=digits)(own, digest)


def parse_layout(layout: str, file_name: str = "") -> Layout:
    """Read the templates of the study file.

    Parameters
    ----------
    layout
        The name of a preset, or a template of folders.
    file_name
        A template of file names without their ending; empty for the preset's own.

    Raises
    ------
    LayoutError
        With every fault of both.
    """
    folders, own_file_name = PRESETS.get(layout, (layout, DEFAULT_FILE_NAME))
    file_name = file_name or own_file_name
    reader = _TemplateReader()
    names = reader.read_folders(folders)
    file = reader.read_file_name(file_name)
    if reader.faults or file is None:
        raise LayoutError(reader.faults)
    used = {part.varies for name in names for part in name.parts}
    return Layout(
        canonical=f"{LAYOUT_VERSION}\n{folders}\n{file_name}",
        varies="file" if "file" in used else "header" if "header" in used else "series",
        _folders=tuple(names),
        _file=file,
    )


class _TemplateReader:
    """Reads templates and collects what is wrong with them."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self._where = ""
        self._room = 0
        self._unlisted = ", ".join(FIELDS)

    def read_folders(self, template: str) -> list[_Name]:
        self._where = "layout"
        if not template.strip():
            self._complain("is empty")
            return []
        if "{" not in template and "}" not in template:
            self._complain(f"is neither a preset ({', '.join(PRESETS)}) nor a template with a field in braces")
            return []
        if re.match(r"[/~\\]|[A-Za-z]:", template):
            self._complain("begins like an absolute path; it is relative to the sorted tree")
        if "\\" in template:
            self._complain("has a backslash; folders are separated by /")
        names = template.split("/")
        if "" in names[1:]:
            self._complain("has a folder without a name")
        if len(names) > DEEPEST:
            self._complain(f"has more than {DEEPEST} folders in each other")
        self._room = min(LONGEST_NAME, LONGEST_PATH // (min(len(names), DEEPEST) + 1) - 1)
        return [self._read_name(name, extension=_HASHED) for name in names if name]

    def read_file_name(self, template: str) -> _Name | None:
        self._where = "file_name"
        if not template.strip():
            self._complain("is empty")
            return None
        if "/" in template or "\\" in template:
            self._complain("names a folder; folders belong in layout")
        if template.lower().endswith(_ENDING):
            self._complain(f"ends in {_ENDING}, which every file gets anyway")
        if "{instance_hash}" not in template:
            self._complain("must hold {instance_hash}, so that no two files get one name")
        self._room = self._room or LONGEST_NAME
        return self._read_name(template, extension=_HASHED + len(_ENDING))

    def _complain(self, fault: str) -> None:
        self.faults.append(f"{self._where} {fault}")

    def _read_name(self, template: str, *, extension: int) -> _Name:
        """Read the template of one name, leaving room for what may have to be added to it."""
        *pieces, after = _FIELD.split(template)
        literals = [_replace_unsafe(piece) for piece in (*pieces[::2], after)]
        if any(mark in literal for literal in (*pieces[::2], after) for mark in "{}"):
            self._complain("has a brace that is not closed, not opened, or within another")
        if any(".." in literal for literal in (*pieces[::2], after)):
            self._complain("must not hold '..'")
        elif not pieces and not safe_part(after):
            self._complain("has a folder whose name holds no letter and no digit")
        found = [named for piece in pieces[1::2] if (named := self._read_field(piece)) is not None]
        texts = sum(2 if field.kind == "patient" else field.kind in ("text", "name") for _, field, _ in found)
        fixed = len("".join(literals).encode("utf-8")) + sum(_fixed_size(field, spec) for _, field, spec in found)
        # Two bytes more, in case that a reserved name and the joints of letters ask for them.
        share = (self._room - extension - fixed - 2) // max(texts, 1)
        if share < (_SHORTEST_PART if texts else 0):
            self._complain("has a name that can grow too long; take fewer fields, or spread them over folders")
        parts = tuple(
            _Part(before, _compile(field, spec, share), field.varies)
            for before, (_, field, spec) in zip(literals, found, strict=False)
        )
        return _Name(parts, literals[-1], f"unknown-{found[0][0]}" if found else "")

    def _read_field(self, text: str) -> tuple[str, Field, int] | None:
        """Read what stands in braces: name, field, and the number its format gives (0 for none)."""
        name, colon, spec = text.partition(":")
        field = FIELDS.get(name)
        if field is None:
            close = difflib.get_close_matches(name, FIELDS, n=1)
            remedy = f"did you mean {{{close[0]}}}?" if close else f"there are {self._unlisted or 'those above'}"
            self._unlisted = self._unlisted if close else ""
            self._complain(f"has a field {{{name}}} that does not exist ({remedy})")
            return None
        if not colon:
            return name, field, 0
        if field.kind == "number":
            match = re.fullmatch(r"0([1-9])", spec)
            grammar = "takes the width with zeros as its format, like {" + name + ":03}"
        elif field.kind in ("text", "name"):
            match = re.fullmatch(r"\.([1-9][0-9]?|1[0-9]{2}|200)", spec)
            grammar = "takes its greatest length (1 to 200) as its format, like {" + name + ":.20}"
        else:
            match = None
            grammar = "takes no format"
        if match is None:
            self._complain(f"gives {{{name}}} a format it does not take: it {grammar}")
            return None
        return name, field, int(match[1])


def _fixed_size(field: Field, spec: int) -> int:
    """Return how many bytes of a name a field can take beside its text."""
    hashed = _LONG_HASH if field.kind in ("hash", "name", "patient") else 0
    joints = {"name": 1, "patient": 2}.get(field.kind, 0)
    return hashed + joints + field.longest + (max(spec, 12) if field.kind == "number" else 0)


def _compile(field: Field, spec: int, share: int) -> _Render:
    """Return what makes a field's piece of a name.

    Parameters
    ----------
    spec
        What the format says: width of a number, greatest length of a text; 0 if it says nothing.
    share
        The bytes that one text may take.
    """
    read, identity = field.read, field.identity
    limit = min(share, max(_LONGEST_PART, spec))

    def text(value: str) -> str:
        part = safe_part(value, limit=limit)
        return safe_part(part[:spec], limit=limit) if spec else part

    def name(facts: Facts, own: _Own, digits: int) -> str:
        value = read(facts, own)
        part = text(value)
        if part == value and not part.lower().startswith("unknown-"):
            return part
        return "_".join(filter(None, (part, short_hash(value, digits=digits))))

    def patient(facts: Facts, _: _Own, digits: int) -> str:
        series = facts.series
        parts = [part for part in (text(series.patient_id), text(plain_name(series.patient_name))) if part]
        return "_".join([*(parts or [UNKNOWN_PATIENT]), short_hash(*patient_key(series), digits=digits)])

    renders: dict[str, _Render] = {
        "text": lambda facts, own, _: text(read(facts, own)),
        "name": name,
        "number": lambda facts, own, _: _number(read(facts, own), spec),
        "plain": lambda facts, own, _: read(facts, own),
        "hash": lambda facts, own, digits: short_hash(*identity(facts, own), digits=digits),
        "patient": patient,
    }
    return renders[field.kind]


def _finish(name: str) -> str:
    """Make a whole name safe: pieces that are can form one that is not."""
    return safe_part(name, limit=LONGEST_NAME)


# Folders that a file system could take for one -----------------------------------------------------------------------


def unfold(folders: Iterable[str]) -> dict[str, str]:
    """Rename folders, so that no file system takes two of them for one.

    Of names that stand in one folder and differ in case, composition or compatible forms only (`fold`), each gets the
    hash of its exact spelling. The order in which folders are given does not matter.

    Parameters
    ----------
    folders
        All folders of a plan, with forward slashes; no name ends in a slash or is empty.

    Returns
    -------
    dict
        Each folder that has to be renamed, and its new name.
    """
    paths = {folder: folder.split("/") for folder in set(folders)}
    inside: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for path in paths.values():
        for depth, name in enumerate(path):
            inside[tuple(path[:depth])].add(name)
    apart = {parent: _tell_apart(names) for parent, names in inside.items()}
    unfolded = {}
    for folder, path in paths.items():
        renamed = "/".join(apart[tuple(path[:depth])].get(name, name) for depth, name in enumerate(path))
        if renamed != folder:
            unfolded[folder] = renamed
    return unfolded


def _tell_apart(names: set[str]) -> dict[str, str]:
    """Return new names for those of one folder that another one folds to."""
    renamed: dict[str, str] = {}
    digits = 8
    while alike := _alike({name: renamed.get(name, name) for name in names}):
        if alike <= renamed.keys():
            digits = _LONG_HASH
        renamed = {name: _name_with_hash(name, digits) for name in alike | renamed.keys()}
    return renamed


def _alike(names: dict[str, str]) -> set[str]:
    """Return the keys whose values fold together."""
    groups: dict[str, list[str]] = defaultdict(list)
    for key, name in names.items():
        groups[fold(name)].append(key)
    return {key for group in groups.values() if len(group) > 1 for key in group}


def _name_with_hash(name: str, digits: int) -> str:
    room = LONGEST_NAME - 1 - digits
    cut = name.encode("utf-8", "surrogatepass")[:room].decode("utf-8", "ignore")
    return f"{cut}_{short_hash(name, digits=digits)}"
