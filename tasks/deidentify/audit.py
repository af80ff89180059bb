"""Re-read an exported file and look for everything that must not be in it.

Written to share nothing with the rewriter: it reads with pydicom, has its own list of what identifies, its own
arithmetic of dates, and goes by what stands in the source rather than by what the profile wanted. A fault in the
rewriter, its walker or its table shows here.
"""

from __future__ import annotations

import datetime as dt
import io
import re
import warnings
import zlib
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydicom
from pydicom._dicom_dict import DicomDictionary
from pydicom._uid_dict import UID_dictionary
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.hooks import raw_element_vr
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag

FINDINGS = {
    "age": "An age above 89 years stands in the export.",
    "codes": "The codes of the de-identification method are not those of the profile.",
    "date": "A date of the source stands in the export, or is not moved by the patient's shift.",
    "extra-element": "The export holds an element that its source does not.",
    "file-meta": "The file meta information is not the one this software writes.",
    "identifier": "An identifier of the patient stands in the export.",
    "lost": "A number that describes the acquisition or the pixels is missing from the export.",
    "overlay": "An overlay, a curve or an icon stands in the export.",
    "pixel-data": "The pixel data are not those of the source.",
    "preamble": "The preamble is not empty.",
    "private": "A private element stands in the export that should not, or is neither as it was nor cleaned.",
    "pseudonym": "Name or ID are not the subject's pseudonym.",
    "stamps": "The stamps that say a file was de-identified are missing.",
    "structure": "A length or a reserved field in the export is not what it has to be.",
    "uid": "A UID of the source stands in the export, or stands for two.",
    "unreadable": "The export cannot be read.",
    "value": "A value is neither the source's nor one that the profile may write.",
}
"""What an audit can find: code to sentence."""

_IDENTIFYING = frozenset(
    {
        0x00080050,  # Accession Number
        0x00080080,  # Institution Name
        0x00080081,  # Institution Address
        0x00080092,  # Referring Physician's Address
        0x00080094,  # Referring Physician's Telephone Numbers
        0x00081010,  # Station Name
        0x00081040,  # Institutional Department Name
        0x00100020,  # Patient ID
        0x00100021,  # Issuer of Patient ID
        0x00101000,  # Other Patient IDs
        0x00101040,  # Patient's Address
        0x00101080,  # Military Rank
        0x00101090,  # Medical Record Locator
        0x00102154,  # Patient's Telephone Numbers
        0x00102155,  # Patient's Telecom Information
        0x00181000,  # Device Serial Number
        0x00181002,  # Device UID
        0x00181008,  # Gantry ID
        0x00200010,  # Study ID
        0x00324000,  # Study Comments
        0x00104000,  # Patient Comments
        0x00380010,  # Admission ID
        0x00380300,  # Current Patient Location
        0x00400241,  # Performed Station AE Title
        0x00400242,  # Performed Station Name
        0x00400243,  # Performed Location
        0x00400253,  # Performed Procedure Step ID
        0x00401001,  # Requested Procedure ID
        0x00402016,  # Placer Order Number / Imaging Service Request
        0x00402017,  # Filler Order Number / Imaging Service Request
    }
)
"""Attributes whose values point at the patient, the visit or the machine; beside all PN, UI, DA and DT."""

_TEXT_VRS = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
_HARVESTED_VRS = frozenset({None, "DA", "DT", "PN", "SQ", "UI"})
"""VRs whose values identify wherever they stand; None is a VR that the syntax leaves out."""

_BINARY_VRS = frozenset({"OB", "OW", "UN"})
_NUMBER_VRS = frozenset({"AT", "DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV"})
_DESCRIBING_GROUPS = (0x0018, 0x0020, 0x0028)
"""Acquisition, relationship and image presentation (PS3.6)."""

_RETAIN_PRIVATE = "113111"
_RETAIN_UIDS = "113110"
_FULL_DATES = "113106"
_MODIFIED_DATES = "113107"
_RETAINED = {
    # Device: station, serial and gantry numbers, who performed; institution: name, address, department.
    "113109": {0x00081010, 0x00181000, 0x00181002, 0x00181008, 0x00400241, 0x00400242},
    "113112": {0x00080080, 0x00080081, 0x00081040},
}
"""What an option leaves in the export although it points at a machine or a hospital."""

_PRIVATE_IDENTIFYING = frozenset(
    {
        ("SIEMENS CSA HEADER", 0x0029, 0x09),  # header version: the date of acquisition
        ("SIEMENS CSA HEADER", 0x0029, 0x19),
        ("SIEMENS MR SDI 02", 0x0021, 0x60),  # frame date and time
        ("SIEMENS MR SDS 01", 0x0021, 0x01),  # a protocol report
        ("GEMS_IDEN_01", 0x0009, 0x30),  # station
        ("GEMS_IDEN_01", 0x0009, 0xE3),  # equipment UID
        ("GEMS_SERS_01", 0x0025, 0x1A),  # station
        ("GEMS_PARM_01", 0x0043, 0x28),  # study ID
        ("GEMS_PARM_01", 0x0043, 0x61),  # UIDs
        ("GEMS_PARM_01", 0x0043, 0x62),
        ("GEMS_PARM_01", 0x0043, 0x88),
        ("GEMS_PARM_01", 0x0043, 0x98),
    }
)
"""Private elements in which scanners were seen to repeat dates, stations, IDs and UIDs: none may stand as it was."""

_GZIP = b"\x1f\x8b\x08"
_LARGEST_BLOCK = 1 << 24
_SILENT = np.frombuffer(b"\0 0X", np.uint8)

_RESERVING_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN", "UT", "UC", "UR"})
"""VRs with two reserved bytes in their explicit head (PS3.5 table 7.1-1); sequences aside, which pydicom has parsed."""

_UNDEFINED = 0xFFFFFFFF

_PIXELS = (0x7FE00010, 0x7FE00008, 0x7FE00009)
"""Pixel Data, Float Pixel Data, Double Float Pixel Data: compared apart, and not searched."""

_STAMPS = (0x00120062, 0x00120063, 0x00120064, 0x00280303)
"""What says that, and how, a file was de-identified: checked word by word instead of searched."""

_METHODS = {
    "113100": "Basic Application Confidentiality Profile",
    "113106": "Retain Longitudinal Temporal Information Full Dates Option",
    "113109": "Retain Device Identity Option",
    "113110": "Retain UIDs Option",
    "113111": "Retain Safe Private Option",
    "113112": "Retain Institution Identity Option",
    "113107": "Retain Longitudinal Temporal Information Modified Dates Option",
    "113108": "Retain Patient Characteristics Option",
}
"""Codes of CID 7050 (PS3.16) with the meanings that may stand beside them."""

_UNDIVIDED_VRS = frozenset({"LT", "ST", "UR", "UT"})
"""Text VRs in which a backslash is a letter (PS3.5 table 6.2-1)."""

_DATE = re.compile(r"(?<!\d)(\d{4})[.-]?(\d{2})[.-]?(\d{2})")
_SHORTEST_SEARCHED = 4
"""Characters below which a text is too common to be searched inside others; it is then compared with whole values."""

_WRITTEN_TEXTS = frozenset({"", "REMOVED", "000Y", "090Y", "19000101", "19000101000000", "000000", "0"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What an exported file has to be.

    Attributes
    ----------
    pseudonym, shift_days
        The subject's.
    identifiers
        Texts that are known of the patient from all their files: names, IDs, numbers.
    uids
        UIDs of the patient's files.
    codes
        Code values of the method, in their order.
    """

    pseudonym: str
    shift_days: int
    identifiers: frozenset[str]
    uids: frozenset[str]
    codes: tuple[str, ...]


def audit_file(source: bytes, export: bytes, expected: Expectation) -> list[str]:
    """Look through one exported file.

    Parameters
    ----------
    source, export
        Both files, whole.
    expected
        What the export has to be.

    Returns
    -------
    list of str
        Codes of `FINDINGS`, sorted, without repetition; empty if nothing was found. Values are never told.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            after = pydicom.dcmread(io.BytesIO(export))
            before = pydicom.dcmread(io.BytesIO(source), force=True)
            return sorted(set(_Audit(before, after, export, expected).findings()))
        except Exception:  # noqa: BLE001 - whatever cannot be read to its end is not released
            return ["unreadable"]


class _Audit:
    """One comparison of a source and its export."""

    def __init__(self, before: FileDataset, after: FileDataset, export: bytes, expected: Expectation) -> None:
        self._before = before
        self._after = after
        self._export = export
        self._expected = expected
        codes = set(expected.codes)
        self._keeps_uids = _RETAIN_UIDS in codes
        self._told_of_dates = "REMOVED"
        if _FULL_DATES in codes:
            self._told_of_dates = "UNMODIFIED"
        elif _MODIFIED_DATES in codes:
            self._told_of_dates = "MODIFIED"
        self._retained = frozenset[int]().union(*(tags for code, tags in _RETAINED.items() if code in codes))
        self._is_explicit = after.original_encoding[0] is False
        self._source_is_little_endian = before.original_encoding[1] is not False
        self._new = dict(_flatten(after))
        private = {place[-1] for place in self._new if place[-1] >> 16 & 1}
        self._old = dict(_flatten(before, private_vrs=_HARVESTED_VRS, private_tags=private))

    def findings(self) -> Iterator[str]:
        """Yield the code of everything found."""
        yield from self._look_at_frame()
        yield from self._look_at_stamps()
        yield from self._look_at_elements()
        yield from self._search()
        if not self._same_pixels():
            yield "pixel-data"

    def _look_at_frame(self) -> Iterator[str]:
        """Check what stands before the data set."""
        if self._export[:128] != bytes(128):
            yield "preamble"
        meta = self._after.file_meta
        allowed = {0x00020000, 0x00020001, 0x00020002, 0x00020003, 0x00020010, 0x00020012, 0x00020013}
        if {int(element.tag) for element in meta} - allowed:
            yield "file-meta"
        if meta.get("MediaStorageSOPInstanceUID") != self._after.get("SOPInstanceUID"):
            yield "file-meta"
        if meta.get("MediaStorageSOPClassUID") != self._after.get("SOPClassUID"):
            yield "file-meta"

    def _look_at_stamps(self) -> Iterator[str]:
        """Check who the export says it is, and what it says was done."""
        after = self._after
        if any(str(after.get(name, "")) != self._expected.pseudonym for name in ("PatientID", "PatientName")):
            yield "pseudonym"
        if after.get("PatientIdentityRemoved") != "YES":
            yield "stamps"
        if not re.fullmatch(r"scanward [0-9]+(\.[0-9]+)*", str(after.get("DeidentificationMethod", ""))):
            yield "stamps"
        if after.get("LongitudinalTemporalInformationModified") != self._told_of_dates:
            yield "stamps"
        codes = [
            tuple((int(element.tag), element.value) for element in item)
            for item in after.get("DeidentificationMethodCodeSequence", [])
        ]
        if codes != [
            ((0x00080100, code), (0x00080102, "DCM"), (0x00080104, _METHODS.get(code))) for code in self._expected.codes
        ]:
            yield "codes"

    def _look_at_elements(self) -> Iterator[str]:
        """Compare every element with the one at the same place in the source."""
        stands_for: dict[str, str] = {}
        for place, element in self._new.items():
            tag = place[-1]
            if tag >> 16 & 1:
                yield from self._look_at_private(place, element)
                if element.vr not in ("DA", "DT", "UI"):
                    continue
            if tag >> 24 in (0x50, 0x60) or tag in (0x00880200, 0x00091001):
                yield "overlay"
            if place[0] in _STAMPS or place in ((0x00100010,), (0x00100020,)):
                continue
            if element.length not in (_UNDEFINED, len(element.raw or b"")):
                yield "structure"
            if element.vr in _RESERVING_VRS and self._is_explicit and element.offset and len(place) == 1:
                reserved = self._export[element.offset - 6 : element.offset - 4]
                if reserved != b"\0\0":
                    yield "structure"
            old = self._old.get(place)
            if old is None:
                yield "extra-element"
            elif element.vr != old.vr:
                yield "value"
            elif tag in (0x00100010, 0x00100020) and element.texts == [self._expected.pseudonym]:
                continue
            elif element.vr == "UI":
                yield from _compare_uids(old, element, stands_for, kept=self._keeps_uids)
            elif element.vr in ("DA", "DT"):
                yield from self._compare_dates(old, element)
            elif element.vr == "AS":
                yield from _compare_ages(old, element)
            elif not self._is_kept_or_hidden(old, element):
                yield "value"
        if any(_describes(place, element) and place not in self._new for place, element in self._old.items()):
            yield "lost"
        if len(set(stands_for.values())) != len(stands_for):
            yield "uid"

    def _look_at_private(self, place: tuple[int, ...], new: _Piece) -> Iterator[str]:
        """Check that a private element is as it was or cleaned, and none of those that are known to identify."""
        old = self._old.get(place)
        if _RETAIN_PRIVATE not in self._expected.codes or old is None or new.vr == "PN":
            yield "private"
            return
        tag = place[-1]
        number = tag & 0xFFFF
        if number < 0x1000 or new.vr in ("SQ", "DA", "DT", "UI"):
            if number < 0x1000 and new.raw != old.raw:
                yield "private"
            return
        creator = self._new.get((*place[:-1], tag & 0xFFFF0000 | number >> 8))
        was, now = old.raw or b"", new.raw or b""
        known = creator is not None and (creator.texts[0].upper(), tag >> 16, number & 0xFF) not in _PRIVATE_IDENTIFYING
        if not known or not (now == was or _is_blanked(was, now) or _is_shortened_block(was, now)):
            yield "private"

    def _is_kept_or_hidden(self, old: _Piece, new: _Piece) -> bool:
        """Tell whether a value is the source's, to the byte, or one that says nothing."""
        if new.vr == "SQ" or new.tag in _PIXELS or (new.raw is not None and new.raw == old.raw):
            return True
        if new.raw is not None and not new.raw.strip(b"\0 "):
            return True
        if new.vr in _TEXT_VRS or new.vr in ("DS", "IS", "TM"):
            return set(new.texts) <= _WRITTEN_TEXTS or new.texts == old.texts
        if new.raw is not None and self._source_is_little_endian:
            return False
        # pydicom decodes a few elements while it reads, and the bytes differ where the source's byte order was another:
        # then the numbers have to be the same.
        return bool(np.all(new.value == old.value))

    def _compare_dates(self, old: _Piece, new: _Piece) -> Iterator[str]:
        shift = dt.timedelta(days=self._expected.shift_days)
        if len(new.texts) > len(old.texts):
            yield "date"
        for was, now in zip(old.texts, new.texts, strict=False):
            if now in _WRITTEN_TEXTS:
                continue
            if self._told_of_dates != "MODIFIED":
                if self._told_of_dates == "REMOVED" or now != was:
                    yield "date"
                continue
            try:
                moved = _day(was) + shift
            except (ValueError, OverflowError):
                yield "date"
                continue
            if now != _moved_text(was, moved):
                # The time of day has to stay as it was, too: slice timing hangs on it.
                yield "date"

    def _search(self) -> Iterator[str]:
        """Search the whole export, pixel data apart, for what is known of the patient."""
        identifiers, uids, dates = self._harvest()
        moved = {_shifted(date, self._expected.shift_days) for date in dates}
        texts: list[str] = []
        terms: list[str] = []
        blobs: list[str] = []
        for place, element in self._new.items():
            if place in ((0x00100010,), (0x00100020,)) or place[0] in _STAMPS or element.tag in _PIXELS:
                continue
            if element.tag in self._retained:
                # A station's name may well hold another number that is known of it; both are meant to be read.
                continue
            if element.vr == "UI":
                if any(uid in uids for uid in element.texts):
                    yield "uid"
            elif element.tag >> 16 & 1 and element.vr in _BINARY_VRS and element.raw:
                blobs += [element.raw.decode("latin-1"), element.raw.decode("utf-16-le", "ignore")]
                blobs += _unpacked(element.raw)
            elif element.vr == "CS" or element.tag >> 16 & 1:
                terms += element.texts if element.vr in _TEXT_VRS else []
            elif element.vr in _TEXT_VRS:
                texts += element.texts
            elif element.vr in _BINARY_VRS and element.raw:
                texts += [element.raw.decode("latin-1"), element.raw.decode("utf-16-le", "ignore")]
        whole = "\n".join(texts).casefold()
        whole_terms = "\n".join(terms).casefold()
        whole_blobs = "\n".join(blobs).casefold()
        found_dates = {
            "".join(match.groups()) for text in (whole, whole_terms, whole_blobs) for match in _DATE.finditer(text)
        }
        if (found_dates & dates) - moved and self._told_of_dates != "UNMODIFIED":
            yield "date"
        values = {text.casefold() for text in texts}
        raw = self._bytes_without_pixels()
        for identifier in identifiers:
            if len(identifier) < _SHORTEST_SEARCHED:
                # Defined terms (CS) are left out: "M" or "MR" as a part of a name says nothing there.
                if identifier in values and not identifier.isdigit():
                    yield "identifier"
            elif _stands_in(identifier, whole) or _stands_alone_in(identifier, whole_terms):
                # Inside a defined term a name is chance: every PRIMARY image holds a MARY.
                yield "identifier"
            elif _stands_apart_in(identifier, whole_blobs) or (
                len(identifier) >= 6 and any(_stands_alone_in_bytes(form, raw) for form in _encoded(identifier))
            ):
                yield "identifier"
        if any(token.decode("ascii") in uids for token in re.findall(rb"[0-9]+(?:\.[0-9]+){3,}", raw)):
            yield "uid"

    def _harvest(self) -> tuple[set[str], set[str], set[str]]:
        """Collect what identifies the patient in this file, on top of what is known from all their files."""
        identifiers = {text.casefold() for text in self._expected.identifiers}
        uids = set(self._expected.uids)
        dates: set[str] = set()
        for place, element in self._old.items():
            if element.vr == "PN":
                for name in element.texts:
                    identifiers |= {part.casefold() for part in name_parts(name)}
            elif place[-1] in _IDENTIFYING:
                identifiers |= {text.casefold() for text in element.texts}
            elif element.vr == "UI":
                uids |= {uid for uid in element.texts if uid not in UID_dictionary}
            elif element.vr in ("DA", "DT"):
                dates |= {"".join(match.groups()) for text in element.texts for match in _DATE.finditer(text)}
        uids |= {str(self._before.file_meta.get("MediaStorageSOPInstanceUID", ""))} if self._before.file_meta else set()
        pseudonym = self._expected.pseudonym.casefold()
        retained = {
            text.casefold()
            for place, element in self._old.items()
            if place[-1] in self._retained and element.vr not in ("SQ", "UI")
            for text in element.texts
        }
        identifiers = {text.strip() for text in identifiers} - {"", pseudonym} - _COMMON - retained
        return identifiers, set() if self._keeps_uids else uids - {""}, dates - {"19000101"}

    def _bytes_without_pixels(self) -> bytes:
        for tag in _PIXELS:
            if tag in self._after:
                raw: Any = self._after.get_item(tag)
                value = raw.value
                if isinstance(value, bytes) and value:
                    begin = self._export.rfind(value)
                    return self._export[:begin] + b"\n" + self._export[begin + len(value) :]
        return self._export

    def _same_pixels(self) -> bool:
        for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"):
            old, new = self._before.get(name), self._after.get(name)
            if old == new:
                continue
            if old is None or new is None or self._source_is_little_endian:
                return False
            # A big-endian source was written anew: then the numbers have to be the same.
            if not np.array_equal(self._before.pixel_array, self._after.pixel_array):
                return False
        return True


_COMMON = frozenset(
    {"anonymous", "anonymized", "none", "unknown", "n/a", "other", "yes", "brain", "head"}
    | {"dti", "dwi", "fmri", "phantom", "resting", "slice", "timing"}
    | {"canon", "ge", "ge medical systems", "hitachi", "philips", "siemens", "toshiba", "uih"}
)
"""Values that stand where an identifier should and mean none, are the field's own words and phantoms' names, or name
the maker."""


def name_parts(name: str) -> set[str]:
    """Split a person's name into what may be searched for: each component of each group, and the whole."""
    parts = {part for group in name.split("=") for part in re.split(r"[\^\s,]+", group)}
    return {part for part in parts | {name, name.replace("^", " ").strip()} if len(part) > 1}


class _Piece:
    """One element as it stands, decoded no further than a question needs: decoding is what takes the time."""

    __slots__ = ("_dataset", "_texts", "length", "offset", "raw", "tag", "vr")

    def __init__(self, dataset: Dataset, tag: BaseTag) -> None:
        item: Any = dataset.get_item(tag)
        raw = isinstance(item, RawDataElement)
        self._dataset = dataset
        self.tag = tag
        self._texts: list[str] | None = None
        self.raw: bytes | None = (item.value or b"") if raw else None
        self.length: int = item.length if raw else _UNDEFINED
        self.offset: int = item.value_tell if raw else 0
        self.vr: str = _find_vr(dataset, item) if raw and item.VR in (None, "UN") else item.VR

    @property
    def value(self) -> Any:
        """The value as pydicom decodes it."""
        return self._dataset[self.tag].value

    @property
    def texts(self) -> list[str]:
        """The values as texts, without padding; one empty text if there is none."""
        if self._texts is None:
            raw = self.raw
            if raw is not None and raw.isascii() and b"\x1b" not in raw:
                text = raw.decode("ascii")
                parts: list[Any] = [text] if self.vr in _UNDIVIDED_VRS else text.split("\\")
            else:
                value = self.value
                # A PersonName is iterable, too, letter by letter: only true lists are several values.
                parts = list(value) if isinstance(value, list | MultiValue) else [value]
            self._texts = [str("" if part is None else part).strip(" \0") for part in parts] or [""]
        return self._texts


def _find_vr(dataset: Dataset, item: RawDataElement) -> str:
    """Look up a VR that the file does not state, without decoding the value: that fails where a value is damaged."""
    told: dict[str, str] = {}
    raw_element_vr(item, told, ds=dataset)
    vr = told["VR"]
    return str(dataset[item.tag].VR) if " or " in vr else str(vr)


def _flatten(
    dataset: Dataset,
    place: tuple[int, ...] = (),
    *,
    private_vrs: frozenset[str | None] | None = None,
    private_tags: AbstractSet[int] = frozenset(),
) -> Iterator[tuple[tuple[int, ...], _Piece]]:
    """Yield every element with its place: the tags and item numbers (zero-based) that lead to it.

    With `private_vrs`, only those private elements whose VR is among them or whose tag is among `private_tags`: the
    others are not in the export, and none tells more of the patient.
    """
    for tag in dataset.keys():  # noqa: SIM118 - a data set iterates over elements, not over its keys
        number = int(tag)
        if (
            private_vrs is not None
            and number >> 16 & 1
            and number not in private_tags
            and dataset.get_item(tag).VR not in private_vrs
        ):
            continue
        piece = _Piece(dataset, tag)
        here = (*place, number)
        yield here, piece
        if piece.vr == "SQ":
            for item_number, item in enumerate(piece.value):
                yield from _flatten(item, (*here, item_number), private_vrs=private_vrs, private_tags=private_tags)


def _is_blanked(old: bytes, new: bytes) -> bool:
    """Tell whether every byte is what it was, or says nothing: nothing at all, zero, or the mark of a masked word."""
    if len(old) != len(new):
        return False
    was, now = np.frombuffer(old, np.uint8), np.frombuffer(new, np.uint8)
    return bool(np.all((was == now) | np.isin(now, _SILENT)))


def _is_shortened_block(old: bytes, new: bytes) -> bool:
    """Tell whether a compressed block holds nothing but lines of the one before, and a head that tells nothing."""
    if new[4:7] != _GZIP or any(new[7:12]) or int.from_bytes(new[:4], "little") > len(new) - 4:
        return False
    before, after = _unpacked(old), _unpacked(new)
    if not before or not after:
        return False
    lines = set(before[0].splitlines())
    return all(not line.strip(" \0") or line in lines for line in after[0].splitlines())


def _unpacked(value: bytes) -> list[str]:
    """Return the text of a compressed block, wherever in a value it begins; nothing where there is none."""
    begin = value.find(_GZIP, 0, 64)
    if begin < 0:
        return []
    try:
        return [zlib.decompressobj(31).decompress(value[begin:], _LARGEST_BLOCK).decode("latin-1")]
    except zlib.error:
        return []


def _compare_uids(old: _Piece, new: _Piece, stands_for: dict[str, str], *, kept: bool) -> Iterator[str]:
    if len(new.texts) > len(old.texts):
        yield "uid"
    for was, now in zip(old.texts, new.texts, strict=False):
        if kept or was in UID_dictionary or not was:
            if now != was:
                yield "uid"
        elif now and (now == was or stands_for.setdefault(was, now) != now):
            yield "uid"


def _describes(place: tuple[int, ...], piece: _Piece) -> bool:
    """Tell whether a number describes the acquisition or the pixels; nothing in the standard asks to take one out."""
    tag = place[-1]
    known = tag & 0xFFFF != 0 and tag in DicomDictionary
    return len(place) == 1 and known and tag >> 16 in _DESCRIBING_GROUPS and piece.vr in _NUMBER_VRS


def _compare_ages(old: _Piece, new: _Piece) -> Iterator[str]:
    for now in new.texts:
        match = re.fullmatch(r"(\d+)([DWMY])", now)
        if match and int(match[1]) > 90 * {"Y": 1, "M": 12, "W": 53, "D": 366}[match[2]]:
            yield "age"
        elif now not in old.texts and now not in _WRITTEN_TEXTS:
            yield "value"


def _day(text: str) -> dt.date:
    digits = _digits(text)
    return dt.date(int(digits[:4]), int(digits[4:6] or 1), int(digits[6:8] or 1))


def _digits(text: str) -> str:
    """Return the date's part of a DA or DT value, up to eight digits, without the dots of the old form."""
    if text[4:5] == "." and text[7:8] == ".":
        text = text.replace(".", "", 2)
    return re.split(r"[+.-]", text)[0][:8]


def _moved_text(was: str, moved: dt.date) -> str:
    """Spell a moved date as precisely as it was, with the time and zone it had."""
    digits = _digits(was)
    rest = was.replace(".", "", 2)[8:] if was[4:5] == "." and was[7:8] == "." else was[len(digits) :]
    return f"{moved.year:04d}{moved.month:02d}{moved.day:02d}"[: len(digits)] + rest


def _shifted(date: str, days: int) -> str:
    try:
        moved = dt.date(int(date[:4]), int(date[4:6]), int(date[6:8])) + dt.timedelta(days=days)
    except (ValueError, OverflowError):
        return ""
    return f"{moved.year:04d}{moved.month:02d}{moved.day:02d}"


def _stands_in(identifier: str, text: str) -> bool:
    """Find an identifier anywhere in a text; one of digits alone only where it stands alone."""
    return identifier in text and (not identifier.isdigit() or _stands_alone_in(identifier, text))


def _stands_alone_in(identifier: str, text: str) -> bool:
    """Find an identifier where no letter or digit adjoins it, and no decimal point one of digits alone."""
    if identifier not in text:
        return False
    pattern = rf"(?<![\w.]){identifier}(?!\.?\w)" if identifier.isdigit() else rf"(?<!\w){re.escape(identifier)}(?!\w)"
    return re.search(pattern, text) is not None


def _stands_apart_in(identifier: str, text: str) -> bool:
    """Find an identifier in a blob where no letter or digit adjoins it: keys run together, as in sSliceArray."""
    if identifier not in text:
        return False
    if identifier.isdigit():
        return re.search(rf"(?<![0-9a-z.]){identifier}(?!\.?[0-9a-z])", text) is not None
    return re.search(rf"(?<![0-9a-z]){re.escape(identifier)}(?![0-9a-z])", text) is not None


def _stands_alone_in_bytes(form: bytes, raw: bytes) -> bool:
    if form not in raw:
        return False
    if form.isdigit():
        return re.search(rb"(?<![0-9A-Za-z.])" + form + rb"(?!\.?[0-9A-Za-z])", raw) is not None
    return re.search(rb"(?<![0-9A-Za-z])" + re.escape(form) + rb"(?![0-9A-Za-z])", raw) is not None


def _encoded(identifier: str) -> Iterator[bytes]:
    """Spell an identifier as it may stand in bytes: both cases in the encodings that occur."""
    for text in {identifier, identifier.upper(), identifier.title()}:
        for codec in ("utf-8", "latin-1", "utf-16-le", "shift_jis", "iso2022_jp", "euc_kr"):
            try:
                yield text.encode(codec)
            except UnicodeEncodeError:
                continue
