"""Rewrite one DICOM file's bytes: what the profile keeps is copied as it stands, what it names is replaced or left out.

Lengths of the sequences and items around a change are made right; pixel data are copied, but for what lies beside the
pixels (`tasks.deidentify.pixels`). The file meta information is made anew and the preamble is zeros (PS3.10 section
7.1), for both can hide anything.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from pydicom.datadict import DicomDictionary  # type: ignore[attr-defined] # documented, yet not re-exported by name

from tasks import __version__
from tasks.deidentify.descriptors import MASK, clean_value, mask_known
from tasks.deidentify.ge import clean_protocol_block, clean_raw_data_header
from tasks.deidentify.identity import Identity, Subject, cap_age, shift_date, shift_date_time
from tasks.deidentify.pixels import (
    DOUBLE_PIXEL_DATA,
    EXTENDED_LENGTHS,
    EXTENDED_OFFSETS,
    FLOAT_PIXEL_DATA,
    LAYOUT_TAGS,
    PIXEL_DATA,
    PIXEL_REFUSALS,
    REGION_RULE,
    SIGNATURE_TAGS,
    Area,
    PixelRefusalError,
    clean_encapsulated,
    clean_native,
    read_layout,
)
from tasks.deidentify.private import TEXT_VRS, PrivateAction, PrivateTable, load_private_table
from tasks.deidentify.profile import (
    CLEAN_PIXEL_DATA,
    METHODS,
    Action,
    Option,
    Profile,
    Rules,
    character_set_verdict,
    keeps_private,
    load_decisions,
    sop_class_verdict,
)
from tasks.deidentify.siemens import clean_csa, clean_protocol
from tasks.deidentify.structured import ANNOTATIONS
from tasks.deidentify.terms import is_term, is_word_of_terms
from tasks.dicom.along import Walker
from tasks.dicom.elements import (
    ITEM,
    ITEM_END,
    LONG_LENGTH_VRS,
    SEQUENCE_END,
    UNDEFINED,
    Element,
    WalkError,
)
from tasks.dicom.normalise import open_data_set
from tasks.dicom.syntax import EXPLICIT_LITTLE, IMPLICIT_LITTLE, SyntaxRefusalError
from tasks.dicom.text import SPECIFIC_CHARACTER_SET, decode_ascii, decode_text

REFUSALS = PIXEL_REFUSALS | {
    "malformed": "Its bytes cannot be followed to the end, so nothing can be promised about them.",
    "private-syntax": "It is in a transfer syntax that the standard does not define.",
    "truncated": "The file ends too early.",
    "uid-missing": "It lacks a study, series or SOP instance UID.",
}
"""Why the rewriter itself refuses a file: code to sentence. The profile's verdict on SOP classes has its own."""

IMPLEMENTATION_CLASS_UID = "2.25.195420376618744139325190184367013487912"
"""(0002,0012): names this software, drawn once."""

_IMPLEMENTATION_VERSION = f"SCANWARD_{__version__.replace('.', '_')}"[:16]
MOST_ELEMENTS = 4_000_000
"""More elements, items counted, are taken for an attack on the memory; 10,000 enhanced frames have half of it."""

_MARKERS = frozenset({ITEM, ITEM_END, SEQUENCE_END})

_STANDARD_SYNTAX = re.compile(r"1\.2\.840\.10008\.1\.2(\.\d{1,3}){0,3}")

_UID = re.compile(r"[0-9.]{1,64}")

_SOP_CLASS = 0x00080016
_SOP_INSTANCE = 0x00080018
_STUDY_INSTANCE = 0x0020000D
_SERIES_INSTANCE = 0x0020000E
_IMAGE_TYPE = 0x00080008
_MODALITY = 0x00080060
_CONVERSION_TYPE = 0x00080064
_BURNED_IN_ANNOTATION = 0x00280301
_RECOGNIZABLE_FEATURES = 0x00280302
_BODY_PART = 0x00180015
_JUDGED_BY = frozenset({_SOP_CLASS, _SOP_INSTANCE, _STUDY_INSTANCE, _SERIES_INSTANCE})
_JUDGED_BY |= {_IMAGE_TYPE, _MODALITY, _CONVERSION_TYPE, _BURNED_IN_ANNOTATION, _RECOGNIZABLE_FEATURES, _BODY_PART}

_IDENTITY_REMOVED = 0x00120062
_METHOD = 0x00120063
_METHOD_CODES = 0x00120064
_TEMPORAL_INFORMATION = 0x00280303
_CODE_VALUE = 0x00080100
_JUDGED_BY |= {_IDENTITY_REMOVED, _METHOD, _TEMPORAL_INFORMATION}

_PIXEL_TAGS = frozenset({PIXEL_DATA, FLOAT_PIXEL_DATA, DOUBLE_PIXEL_DATA, EXTENDED_OFFSETS, EXTENDED_LENGTHS})
_TELLING = _JUDGED_BY | LAYOUT_TAGS | SIGNATURE_TAGS
"""What says whether the file may be exported, how its pixel data are laid out, and which device made them."""

_OVERLAY_BITS = frozenset(0x60000000 | group << 16 | number for group in range(256) for number in (0x0100, 0x0102))
"""Overlay Bits Allocated and Overlay Bit Position, in each of the repeating groups."""

_LOOKED_AT = _TELLING | _PIXEL_TAGS | _OVERLAY_BITS | {SPECIFIC_CHARACTER_SET}
"""What decides on the file as a whole, and on its pixel data."""

_PIXEL_GROUP = 0x7FE0

_FACE_REMOVED = "113102"
_SHOWING_A_FACE = frozenset(
    {"BRAIN", "EAR", "EYE", "FACE", "HEAD", "HEADNECK", "IAC", "JAW", "MAXILLA", "NOSE", "ORBIT"}
)
_SHOWING_A_FACE |= {"PAROTID", "SELLA", "SINUS", "SKULL", "TMJ", "WHOLEBODY", "ZYGOMA", "HEAD_NECK", "HEAD NECK"}
"""Values of Body Part Examined (PS3.16 annex L) by which a face may be rebuilt from the slices."""

_REPERTOIRES = {
    "CS": bytes(range(0x20, 0x7F)) + b"\0",
    "DS": b"0123456789+-Ee. \\\0",
    "IS": b"0123456789+- \\\0",
    "TM": b"0123456789.: \\\0",
    "DA": b"0123456789. \\\0",
    "DT": b"0123456789.+- \\\0",
    "UI": b"0123456789. \\\0",
}
"""The bytes that a value may hold where its VR leaves no room for words (PS3.5 table 6.2-1). Wider than the standard
where scanners are: lower case in CS, colons in TM (as in ACR-NEMA), NUL as padding."""

_CLEANERS: Mapping[PrivateAction, Callable[[bytes], bytes | None]] = MappingProxyType(
    {
        PrivateAction.CSA: clean_csa,
        PrivateAction.PROTOCOL: clean_protocol,
        PrivateAction.GE_BLOCK: clean_protocol_block,
        PrivateAction.GE_HEADER: clean_raw_data_header,
    }
)
"""What cleans the inside of a private element; nothing comes back where the element cannot be understood to its end."""

_LIKE_STANDARD_ONES = MappingProxyType(
    {
        PrivateAction.UID: Action.UID,
        PrivateAction.DATE: Action.DATE,
        PrivateAction.RECURSE: Action.CLEAN_SEQUENCE,
    }
)

_WORDY_VRS = (TEXT_VRS | {"UN"}) - {"CS"}
"""VRs in which a kept value may hold what is known of the patient; in a defined term a name is chance."""

_DESCRIBING_VRS = frozenset({"LO", "LT", "SH", "ST", "UC", "UT"})

_OWN_METHOD = re.compile(r"scanward [0-9]+(?:\.[0-9]+)*")

_BINARY_NUMBERS = frozenset({"AT", "FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"})
_TABLES = frozenset(load_decisions().bulk)
"""Long runs of numbers that may look like anything."""

_BINARY_VALUES = frozenset({"OB", "OD", "OF", "OL", "OV", "OW"})
_LETTERS = re.compile(rb"[\x20-\x7e]{16}")
_EIGHT_LETTERS = re.compile(rb"[\x20-\x7e]{8}")
_WORD = re.compile(r"[^\W_]+")


class RefusalError(Exception):
    """The file must not be exported; `reason` is a code of `REFUSALS` or of the profile's refusals."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """One de-identified file.

    Attributes
    ----------
    content
        The whole file.
    sop_instance_uid
        The new one.
    by_pydicom
        Why pydicom had to put the file into a syntax the walker reads, or empty.
    tally
        How many attributes met each action, by its name in lower case; `private_kept` and `private_cleaned` of those
        under `private` that stayed, `masked_words` of descriptors, and `moved_before` is 1 if the file came with dates
        that somebody had moved. Of pixel data: see `CleanPixels`; and `REGION_RULE` with the number of each region
        rule, from 1 on, that fits.
    codes
        The codes of what was done to it, earlier ones first: PS3.16 CID 7050.
    """

    content: bytes
    sop_instance_uid: str
    by_pydicom: str
    tally: Mapping[str, int]
    codes: tuple[str, ...]


_walker = Walker()


def rewrite(
    source: bytes, *, profile: Profile, identity: Identity, subject: Subject, known: frozenset[str] = frozenset()
) -> Rewritten:
    """De-identify one file.

    A file that says it is de-identified already keeps the codes of what was done to it in front of ours, and dates that
    it says were moved are not moved a second time.

    Parameters
    ----------
    source
        The whole file.
    profile
        What is kept, replaced and left out.
    identity, subject
        By what.
    known
        What is known of the patient from all their files: it is masked in texts, even those that are kept. Give the
        same object with each of a patient's files; results are remembered by it.

    Raises
    ------
    RefusalError
        With the reason why the file cannot be exported.
    """
    try:
        data, start, by_pydicom = open_data_set(source)
    except SyntaxRefusalError as refusal:
        raise RefusalError(refusal.reason if refusal.reason in REFUSALS else "malformed") from refusal
    if not _STANDARD_SYNTAX.fullmatch(start.transfer_syntax):
        # It begins like one of the standard's; what follows could be anything, and would stand in the export.
        raise RefusalError("private-syntax")
    try:
        elements = _walker.elements(data, start.offset, explicit=start.explicit, most=MOST_ELEMENTS + 1)
    except WalkError as fault:
        raise RefusalError("truncated" if fault.reason == "truncated" else "malformed") from fault
    if len(elements) > MOST_ELEMENTS:
        raise RefusalError("malformed")
    job = _Job(data, elements, profile=profile, identity=identity, subject=subject, known=known)
    top = job.top_level_texts()
    values = job.top_level_values()
    regions = [rule for rule in profile.regions if rule.fits(values)]
    areas = [area for rule in regions for area in rule.areas_in(values)]
    verdict = job.character_set_verdict() or sop_class_verdict(
        top.get(_SOP_CLASS, ""),
        top.get(_IMAGE_TYPE, "").split("\\"),
        top.get(_MODALITY, ""),
        top.get(_CONVERSION_TYPE, ""),
        top.get(_BURNED_IN_ANNOTATION, ""),
        overlay_in_pixels=job.has_overlay_in_image_bits(values),
        released=any(rule.release and rule.areas_in(values) for rule in regions),
    )
    if verdict is not None:
        raise RefusalError(verdict)
    uids = [top.get(tag, "") for tag in (_SOP_INSTANCE, _STUDY_INSTANCE, _SERIES_INSTANCE)]
    if not all(uids) or (profile.keeps_uids and not all(map(_UID.fullmatch, uids))):
        raise RefusalError("uid-missing")
    earlier = job.earlier_methods(top)
    ours = sorted({code for code, _ in profile.codes()} | ({CLEAN_PIXEL_DATA} if areas else set()))
    codes = tuple(dict.fromkeys((*earlier.codes, *ours)))
    try:
        job.clean_pixels(values, start.transfer_syntax, areas)
    except PixelRefusalError as refusal:
        raise RefusalError(refusal.reason) from refusal
    about_pixels = _tell_of_pixels(top, earlier, are_blacked_out=bool(areas))
    dates = profile.temporal_information()
    stamps = _stamps(dates, earlier.methods, codes, tuple(about_pixels), explicit=start.explicit)
    body = job.data_set(profile.actions(top[_SOP_CLASS]), stamps)
    new_uid = top[_SOP_INSTANCE] if profile.keeps_uids else identity.new_uid(top[_SOP_INSTANCE])
    head = _file_meta(top[_SOP_CLASS], new_uid, start.transfer_syntax)
    content = b"".join([head, *body])
    tally = job.tally()
    tally |= {f"{REGION_RULE}{number}": 1 for number, rule in enumerate(profile.regions, 1) if rule in regions}
    return Rewritten(content=content, sop_instance_uid=new_uid, by_pydicom=by_pydicom, tally=tally, codes=codes)


class _Earlier(NamedTuple):
    """What an earlier de-identification says it did: its methods, cleaned, and codes of PS3.16 CID 7050."""

    methods: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()


class _Job:
    """One pass over one file's elements."""

    def __init__(
        self,
        data: bytes,
        elements: list[Element],
        *,
        profile: Profile,
        identity: Identity,
        subject: Subject,
        known: frozenset[str],
    ) -> None:
        self._dates = profile.temporal_information()
        self._private = load_private_table() if keeps_private(profile.options) else None
        self._keeps_uids = profile.keeps_uids
        self._cleans_descriptors = Option.CLEAN_DESCRIPTORS in profile.options
        self._vocabulary = profile.vocabulary
        self._known = known
        self._known_words = _long_words(known)
        self._counts = [0] * len(Action)
        self._private_kept = 0
        self._private_cleaned = 0
        self._masked_words = 0
        self._moved_before = False
        self._data = data
        self._elements = elements
        looked_at = [(index, one) for index, one in enumerate(elements) if one[0] in _LOOKED_AT]
        self._top = [found for found in looked_at if found[1].depth == 0]
        self._character_sets = [one for _, one in looked_at if one.tag == SPECIFIC_CHARACTER_SET]
        self._overlay_bits = [one for _, one in looked_at if one.tag in _OVERLAY_BITS]
        self._overlays = 0
        self._new_pixels: dict[int, bytes] = {}
        self._done_to_pixels: dict[str, int] = {}
        self._profile = profile
        self._identity = identity
        self._subject = subject

    def top_level_texts(self) -> dict[int, str]:
        """Return what says whether the file may be exported, in whatever VR it is written."""
        return {
            element.tag: decode_ascii(self._data[element.value : element.end])
            for _, element in self._top
            if element.tag in _JUDGED_BY and element.vr != "SQ"
        }

    def top_level_values(self) -> dict[int, bytes]:
        """Return what says how the pixel data are laid out, and which device made them, as it stands."""
        return {
            element.tag: self._data[element.value : element.end]
            for _, element in self._top
            if element.tag in _TELLING and element.vr != "SQ"
        }

    def tally(self) -> dict[str, int]:
        """Return how often each action was taken, those left out that never were."""
        counts = {action.name.lower(): self._counts[action] for action in Action}
        counts |= {"private_kept": self._private_kept, "private_cleaned": self._private_cleaned}
        counts |= {"masked_words": self._masked_words, "moved_before": int(self._moved_before)} | self._done_to_pixels
        return {name: count for name, count in counts.items() if count}

    def earlier_methods(self, top: Mapping[int, str]) -> _Earlier:
        """Return what was done to the file before, if it says so, and do not move its dates again if it says that."""
        if top.get(_IDENTITY_REMOVED, "").upper() != "YES":
            return _Earlier()
        if top.get(_TEMPORAL_INFORMATION, "").upper() == self._dates == "MODIFIED":
            self._moved_before = True
            self._subject = Subject(pseudonym=self._subject.pseudonym, shift_days=0)
        methods = [
            text if _OWN_METHOD.fullmatch(text) else clean_value(text, "LO", self._vocabulary, self._known).text
            for text in map(str.strip, top.get(_METHOD, "").split("\\"))
            if text
        ]
        codes: list[str] = []
        inside = False
        for element in self._elements:
            if element.depth == 0 and element.tag not in _MARKERS:
                inside = element.tag == _METHOD_CODES
            elif inside and element.depth == 1 and element.tag == _CODE_VALUE:
                codes.append(decode_ascii(self._data[element.value : element.end]))
        return _Earlier(tuple(methods), tuple(code for code in codes if code in METHODS))

    def character_set_verdict(self) -> str | None:
        """Tell whether a character set is none of the standard's, in the data set or in any item: it is copied."""
        for element in self._character_sets:
            if element.vr != "SQ":
                values = decode_ascii(self._data[element.value : element.end]).split("\\")
                if (verdict := character_set_verdict(values)) is not None:
                    return verdict
        return None

    def _overlays_in_pixels(self) -> int:
        """Return the bits of the pixel data in which overlays lie, as a mask (PS3.5 section 8.1.2, retired).

        An overlay that shares its words with the image and gives no position lies in the lowest bit.
        """
        mask = 0
        placed: set[int] = set()
        shared: set[int] = set()
        for element in self._overlay_bits:
            value = int.from_bytes(self._data[element.value : element.end][:2], "little")
            if element.tag & 0xFFFF == 0x0102 and value:
                placed.add(element.tag >> 16)
                mask |= 1 << value
            elif value > 1:
                shared.add(element.tag >> 16)
        return mask | bool(shared - placed)

    def has_overlay_in_image_bits(self, values: Mapping[int, bytes]) -> bool:
        """Tell whether an overlay lies in the pixel data elsewhere than in unused bits of native words."""
        mask = self._overlays = self._overlays_in_pixels()
        if not mask:
            return False
        return bool(mask & ~read_layout(values).unused) or any(self._is_encapsulated(index) for index, _ in self._top)

    def _is_encapsulated(self, index: int) -> bool:
        """Tell whether an element holds fragments: their delimiter follows."""
        elements = self._elements
        if elements[index].vr == "SQ" or index + 1 == len(elements):
            return False
        return elements[index + 1].tag == SEQUENCE_END and elements[index + 1].depth == elements[index].depth

    def clean_pixels(self, values: Mapping[int, bytes], transfer_syntax: str, areas: Sequence[Area]) -> None:
        """Clean the pixel data, to be put into the data set where they stood; the source's own are not touched."""
        data = self._data
        found = [(index, element) for index, element in self._top if element.tag in _PIXEL_TAGS]
        places = {element.tag: index for index, element in found}
        if len(places) < len(found) or any(element.vr == "SQ" for _, element in found):
            raise PixelRefusalError("pixel-data")
        if areas and not places:
            raise PixelRefusalError("pixel-data")
        # Tables that nothing can be checked against go.
        self._new_pixels = {tag: b"" for tag in (EXTENDED_OFFSETS, EXTENDED_LENGTHS) if tag in places}
        for tag, index in places.items():
            if tag in (EXTENDED_OFFSETS, EXTENDED_LENGTHS):
                continue
            element = self._elements[index]
            value = memoryview(data)[element.value : element.end]
            allocated = {FLOAT_PIXEL_DATA: 32, DOUBLE_PIXEL_DATA: 64}.get(tag, 0)
            layout = read_layout(values, allocated=allocated)
            if self._is_encapsulated(index):
                tables = [self._elements[places[one]] for one in (EXTENDED_OFFSETS, EXTENDED_LENGTHS) if one in places]
                told = [data[table.value : table.end] for table in tables]
                extended = (told[0], told[1]) if len(told) == 2 else None
                clean = clean_encapsulated(value, layout, transfer_syntax, areas, extended=extended)
                if extended is not None:
                    self._new_pixels.clear()
            elif transfer_syntax in (EXPLICIT_LITTLE, IMPLICIT_LITTLE):
                clean = clean_native(value, layout, areas, overlays=self._overlays)
            else:
                raise PixelRefusalError("pixel-data")
            self._done_to_pixels |= clean.tally
            if clean.value is not None and self._is_encapsulated(index):
                close = self._elements[index + 1]
                head, tail = data[element.start : element.value], data[close.start : close.end]
                self._new_pixels[tag] = b"".join([head, clean.value, tail])
            elif clean.value is not None:
                self._new_pixels[tag] = self._head(element, len(clean.value)) + clean.value
            for one, table in ((EXTENDED_OFFSETS, clean.offsets), (EXTENDED_LENGTHS, clean.lengths)):
                if table is not None:
                    self._new_pixels[one] = self._head(self._elements[places[one]], len(table)) + table

    def data_set(self, rules: Rules, stamps: Sequence[tuple[int, bytes]]) -> list[_Piece]:
        """Return the pieces of the rewritten data set, with the stamps put in at their places."""
        _, pieces = self._level(0, 0, rules, stamps)
        if pieces is None:
            raise AssertionError("stamps are always put in")
        return pieces

    def _level(
        self, index: int, depth: int, rules: Rules, stamps: Sequence[tuple[int, bytes]] = ()
    ) -> tuple[int, list[_Piece] | None]:
        """Rewrite the elements of one data set or item from `index` on.

        Returns
        -------
        index, pieces
            Where the level ends, and its new bytes; None if they are the old ones.
        """
        data, elements = self._data, self._elements
        listed = rules.by_tag
        repertoires, keep = _REPERTOIRES, Action.KEEP
        known, counts = self._known, self._counts
        pending = list(stamps)
        stamped = {tag for tag, _ in stamps}
        pieces: list[_Piece] = []
        run = -1
        changed = bool(stamps)
        private = self._private if rules.keeps_private else None
        creators: dict[int, str] = {}
        count = len(elements)
        position = elements[index].start if index < count else len(data)
        outcomes: dict[_Key, _Outcome] = {}
        if index < count:
            explicit = elements[index].explicit
            context = _Context(rules, explicit, self._profile, self._identity, self._subject, known)
            outcomes = _outcomes_of(context)
        while index < count:
            element = elements[index]
            tag, vr, start, _, end, element_depth, _ = element
            if element_depth < depth:
                break
            while pending and pending[0][0] < tag:
                if run >= 0:
                    pieces.append(_stretch(data, run, position))
                    run = -1
                pieces.append(pending.pop(0)[1])
            key: _Key | None = None
            if vr == "SQ" or end - start > _REMEMBERED_BYTES or tag in stamped or tag >> 16 == _PIXEL_GROUP:
                outcome = None
            else:
                key = data[start:end]
                if tag & 0x10000:
                    number = tag & 0xFFFF
                    key = (creators.get(tag & 0xFFFF0000 | number >> 8, ""), vr, key) if number > 0xFF else None
                outcome = outcomes.get(key) if key is not None else None
            if outcome is not None:
                action, replacement, masked, kept, cleaned_inside = outcome
                self._masked_words += masked
                self._private_kept += kept
                self._private_cleaned += cleaned_inside
                if action == keep and replacement is None:
                    if run < 0:
                        run = start
                else:
                    changed = True
                    if action != keep:
                        counts[action] += 1
                    if run >= 0:
                        pieces.append(_stretch(data, run, start))
                        run = -1
                    if replacement is not None:
                        pieces.append(replacement)
                position = end
                index += 1
                continue
            before = (self._masked_words, self._private_kept, self._private_cleaned)
            cleaned = None
            if tag & 0x10000:
                action = Action.REMOVE
                if private is not None:
                    action, cleaned = self._private_action(element, private, creators)
            elif tag in stamped:
                action = Action.REMOVE
            else:
                found = listed.get(tag)
                action = rules.unlisted(tag, vr) if found is None else found
                if action == keep:
                    allowed = repertoires.get(vr)
                    if found is not None or vr == "UN":
                        if not self._is_of_its_vr(element):
                            action = Action.EMPTY
                    elif allowed is not None:
                        value = data[element.value : element.end]
                        if value.translate(None, allowed):
                            action = Action.EMPTY
                        elif vr == "CS" and tag != SPECIFIC_CHARACTER_SET:
                            cleaned = self._cleaned_terms(element)
                            if cleaned is not None:
                                action = Action.DESCRIPTOR if cleaned else Action.EMPTY
                    elif vr in _BINARY_NUMBERS and tag not in _TABLES:
                        if _are_words(vr, data[element.value : element.end]):
                            action = Action.EMPTY
                    elif known and vr in _WORDY_VRS and self._holds_known(element):
                        action = Action.DESCRIPTOR if self._cleans_descriptors else Action.EMPTY
            if vr == "SQ":
                following, end = self._after(index)
                replacement = None
                if action == Action.EMPTY:
                    replacement = self._head(element, 0)
                elif action == Action.CLEAN_SEQUENCE:
                    replacement = self._sequence(index, end, rules.nested(tag))
                    action = Action.KEEP if replacement is None else Action.CLEAN_SEQUENCE
                else:
                    # Items where a value should be: there is no telling what they hold.
                    action = Action.REMOVE
            else:
                following, end = index + 1, element.end
                if following < count and elements[following].tag == SEQUENCE_END and elements[following].depth == depth:
                    # Encapsulated pixel data and their delimiter; that of the sequence around stands a level higher.
                    end = elements[following].end
                    following += 1
                replacement = None
                if action == Action.CLEAN_SEQUENCE:
                    # A sequence's tag on something that is none: there is no telling what it holds.
                    action = Action.REMOVE
                if action not in (Action.KEEP, Action.REMOVE):
                    value = self._replace(element, action) if cleaned is None else cleaned
                    replacement = self._head(element, len(value)) + value
            if action == keep and stamps and tag in self._new_pixels:
                replacement = self._new_pixels[tag]
            if action == keep and replacement is None:
                if run < 0:
                    run = element.start
            else:
                changed = True
                if action != keep:
                    counts[action] += 1
                if run >= 0:
                    pieces.append(_stretch(data, run, element.start))
                    run = -1
                if replacement is not None:
                    pieces.append(replacement)
            if key is not None and end == element.end and self._means_the_same_anywhere(element):
                if len(outcomes) >= _MOST_REMEMBERED:
                    outcomes.clear()
                after = (self._masked_words, self._private_kept, self._private_cleaned)
                masked, kept, cleaned_inside = (new - old for new, old in zip(after, before, strict=True))
                outcomes[key] = (action, replacement, masked, kept, cleaned_inside)
            position = end
            index = following
        if run >= 0:
            pieces.append(_stretch(data, run, position))
        pieces += [stamp for _, stamp in pending]
        return index, (pieces if changed else None)

    def _private_action(
        self, element: Element, private: PrivateTable, creators: dict[int, str]
    ) -> tuple[Action, bytes | None]:
        """Decide on a private element; return its new value as well where its inside was cleaned.

        Parameters
        ----------
        creators
            By group and block, who reserved the blocks of this data set or item so far (PS3.5 section 7.8.1).
        """
        group, number = element.tag >> 16, element.tag & 0xFFFF
        value = self._data[element.value : element.end]
        if 0x10 <= number <= 0xFF:
            creator = decode_ascii(value)
            creators[element.tag] = creator
            return (Action.KEEP if (creator, group) in private.reserved else Action.REMOVE), None
        creator = creators.get(group << 16 | number >> 8, "")
        rule = private.rule(creator, group, number & 0xFF)
        if rule is None:
            return Action.REMOVE, None
        if rule.action is PrivateAction.KEEP:
            if not rule.admits(value, element.vr or "UN"):
                return Action.REMOVE, None
            self._private_kept += 1
            if self._known and rule.vr in TEXT_VRS and self._holds_known(element):
                masked = mask_known(value.decode("latin-1"), self._known)
                return Action.DESCRIPTOR, masked.encode("latin-1")
            return Action.KEEP, None
        if rule.action == PrivateAction.UID and self._keeps_uids:
            return (Action.REMOVE if value.translate(None, _REPERTOIRES["UI"]) else Action.KEEP), None
        if rule.action == PrivateAction.DATE and self._dates != "MODIFIED":
            kept = self._dates == "UNMODIFIED" and not value.translate(None, _REPERTOIRES["DT"])
            return (Action.KEEP if kept else Action.REMOVE), None
        cleaner = _CLEANERS.get(rule.action)
        if cleaner is None:
            return _LIKE_STANDARD_ONES[rule.action], None
        cleaned = cleaner(value)
        if cleaned is None:
            return Action.REMOVE, None
        self._private_cleaned += 1
        return Action.DUMMY, _pad(cleaned, b"\0")

    def _means_the_same_anywhere(self, element: Element) -> bool:
        """Tell whether an element's bytes alone say what it means: no character set has to."""
        if element.vr in _BINARY_NUMBERS or element.vr in _BINARY_VALUES:
            return True
        value = self._data[element.value : element.end]
        return value.isascii() and b"\x1b" not in value

    def _is_of_its_vr(self, element: Element) -> bool:
        """Tell whether what the table keeps by tag, or what is written as UN, can be what the dictionary says it is."""
        entry = DicomDictionary.get(element.tag)
        vr = entry[0] if entry is not None and element.vr == "UN" else element.vr
        if entry is not None and vr not in entry[0]:
            return False
        value = self._data[element.value : element.end]
        if vr == "CS":
            return not value.translate(None, _REPERTOIRES["CS"]) and all(
                _are_terms(value, element.tag, self._known_words)
            )
        if vr in _BINARY_NUMBERS:
            return not _are_words(vr, value)
        return not value.translate(None, _REPERTOIRES.get(vr, value))

    def _after(self, index: int) -> tuple[int, int]:
        """Return the index of the element after a sequence, and the offset where the sequence ends."""
        elements = self._elements
        sequence = elements[index]
        depth = sequence.depth
        following = index + 1
        while following < len(elements):
            element = elements[following]
            if element.depth < depth or (element.depth == depth and element.tag not in _MARKERS):
                break
            following += 1
        if sequence.end != UNDEFINED:
            return following, sequence.end
        return following, elements[following - 1].end

    def _sequence(self, index: int, end: int, rules: Rules) -> bytes | None:
        """Rewrite a sequence; None if its bytes stay as they are."""
        data, elements = self._data, self._elements
        sequence = elements[index]
        pieces: list[bytes] = []
        changed = False
        index += 1
        while index < len(elements) and elements[index].tag == ITEM and elements[index].depth == sequence.depth:
            item = elements[index]
            inside: Rules | None = rules
            if rules.judges_items:
                inside = rules.for_item(
                    data,
                    elements,
                    index + 1,
                    sequence.depth + 1,
                    is_known=self._is_known,
                    is_annotation=sequence.tag == ANNOTATIONS,
                )
            if inside is None:
                index = self._after_item(index)
                changed = True
                continue
            index, content = self._level(index + 1, sequence.depth + 1, inside)
            if item.end == UNDEFINED:
                close = elements[index]
                index += 1
                item_end = close.end
                new_head, tail = data[item.start : item.value], data[close.start : close.end]
            else:
                item_end = item.end
                new_head, tail = b"", b""
            if content is None:
                pieces.append(data[item.start : item_end])
                continue
            changed = True
            body = b"".join(content)
            pieces += [new_head or b"\xfe\xff\x00\xe0" + struct.pack("<L", len(body)), body, tail]
        if not changed:
            return None
        if sequence.end == UNDEFINED:
            return b"".join([data[sequence.start : sequence.value], *pieces, data[end - 8 : end]])
        body = b"".join(pieces)
        return self._head(sequence, len(body)) + body

    def _after_item(self, index: int) -> int:
        """Return the index of what follows an item."""
        elements = self._elements
        item = elements[index]
        index += 1
        while index < len(elements) and elements[index].depth > item.depth:
            index += 1
        return index + (item.end == UNDEFINED)

    def _head(self, element: Element, length: int) -> bytes:
        """Write an element's head with another length."""
        data, start = self._data, element.start
        if not element.explicit:
            return data[start : start + 4] + struct.pack("<L", length)
        if data[start + 4 : start + 6] in LONG_LENGTH_VRS:
            return data[start : start + 6] + b"\0\0" + struct.pack("<L", length)
        if length > 0xFFFF:
            # New UIDs are longer than many old ones; what outgrows its VR is written as UN (PS3.5 section 6.2.2).
            return data[start : start + 4] + b"UN\0\0" + struct.pack("<L", length)
        return data[start : start + 6] + struct.pack("<H", length)

    def _replace(self, element: Element, action: Action) -> bytes:
        """Return the new value of an element that is neither kept nor removed, padded to even length."""
        if action == Action.EMPTY:
            return b""
        value = self._data[element.value : element.end]
        if action == Action.PSEUDONYM:
            return _pad(self._subject.pseudonym.encode("ascii"), b" ")
        if not value.strip(b" \0"):
            # Empty stays empty, even where the standard demands a value: there was none to hide. Zero is a number.
            return b"" if element.vr in _BLANK_IS_EMPTY else bytes(len(value))
        if action == Action.DESCRIPTOR:
            return self._describe(element)
        if action == Action.UID:
            return self._new_uids(value)
        if action == Action.DATE:
            shift = shift_date_time if element.vr == "DT" else shift_date
            moved = [shift(part, self._subject.shift_days) or b"" for part in value.split(b"\\")]
            return _pad(b"\\".join(moved), b" ")
        if action == Action.AGE:
            return _pad(b"\\".join(cap_age(part) for part in value.split(b"\\")), b" ")
        return self._dummy(element, value)

    def _text(self, element: Element) -> str:
        """Decode a text by the character set that is in force where it stands (PS3.5 section 7.5.3)."""
        value = self._data[element.value : element.end]
        if value.isascii() and b"\x1b" not in value:
            return decode_ascii(value)
        depth = element.depth
        for earlier in reversed(self._elements[: bisect(self._elements, element.start, key=_start)]):
            depth = min(depth, earlier.depth)
            if earlier.depth == depth and earlier.tag == SPECIFIC_CHARACTER_SET:
                return decode_text(value, decode_ascii(self._data[earlier.value : earlier.end]))
        return decode_text(value)

    def _holds_known(self, element: Element) -> bool:
        """Tell whether something that is known of the patient stands in a text."""
        return self._is_known(self._text(element))

    def _is_known(self, text: str) -> bool:
        return bool(self._known) and mask_known(text, self._known) != text

    def _cleaned_terms(self, element: Element) -> bytes | None:
        """Return a coded string's values with those masked that are no terms; None if all are.

        Without Clean Descriptors nothing is left of it. The position of each value stays, as in Image Type.
        """
        value = self._data[element.value : element.end]
        good = _are_terms(value, element.tag, self._known_words)
        if all(good):
            return None
        if not self._cleans_descriptors:
            return b""
        self._masked_words += good.count(False)
        return _pad(
            b"\\".join(one if fits else MASK.encode() for one, fits in zip(value.split(b"\\"), good, strict=True)), b" "
        )

    def _describe(self, element: Element) -> bytes:
        """Clean a descriptor; what comes out is plain ASCII in every character set."""
        entry = DicomDictionary.get(element.tag)
        vr = entry[0] if entry is not None and element.vr == "UN" else element.vr
        if vr not in _DESCRIBING_VRS:
            # A text under another VR is not what it says it is, and would be no value of that VR.
            return b""
        cleaned = clean_value(self._text(element), vr, self._vocabulary, self._known)
        self._masked_words += cleaned.masked
        return _pad(cleaned.text.encode("ascii"), b" ")

    def _new_uids(self, value: bytes) -> bytes:
        # Each padding is stripped, or the same UID would become another one where it stands in the middle.
        uids = [uid.strip(" \0") for uid in decode_ascii(value).split("\\")]
        return _pad("\\".join(self._identity.new_uid(uid) if uid else "" for uid in uids).encode("ascii"), b"\0")

    def _dummy(self, element: Element, value: bytes) -> bytes:
        """Return a value that is valid for the VR and says nothing (PS3.15 section E.1.1, action D)."""
        vr = element.vr
        if vr == "UI":
            return self._new_uids(value)
        if vr in _DUMMIES:
            return _DUMMIES[vr]
        if vr in _DUMMY_TEXTS:
            return b"REMOVED "
        return bytes(len(value))


_REMEMBERED_BYTES = 136
"""Of an element, head and all, up to which what became of it is remembered."""

_MOST_REMEMBERED = 4096
_MOST_CONTEXTS = 48
"""So many elements in each of so many contexts are remembered: 80 MB at the very most, two or three as a rule."""

_Key = bytes | tuple[str, str, bytes]
"""An element's bytes; those of a private one with its creator, and with its VR, which may have been looked up."""

_Outcome = tuple[Action, bytes | None, int, int, int]
"""What was done, the new bytes if there are any, and by how much the counts of words and private elements rose."""


class _Context(NamedTuple):
    """Everything that decides on an element, but for the element itself."""

    rules: Rules
    explicit: bool
    profile: Profile
    identity: Identity
    subject: Subject
    known: frozenset[str]


_remembered: dict[_Context, dict[_Key, _Outcome]] = {}


def _outcomes_of(context: _Context) -> dict[_Key, _Outcome]:
    """Return what became of short elements: files of a series, and frames of a file, share most of them."""
    outcomes = _remembered.get(context)
    if outcomes is None:
        if len(_remembered) >= _MOST_CONTEXTS:
            del _remembered[next(iter(_remembered))]
        outcomes = _remembered[context] = {}
    return outcomes


_DUMMY_TEXTS = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
_DUMMIES = {"DA": b"19000101", "DT": b"19000101000000", "TM": b"000000", "IS": b"0 ", "DS": b"0 ", "AS": b"000Y"}
_BLANK_IS_EMPTY = _DUMMY_TEXTS | _DUMMIES.keys() | {"UI"}


def _start(element: Element) -> int:
    return element.start


@lru_cache(maxsize=16)
def _long_words(known: frozenset[str]) -> frozenset[str]:
    """Return what is known of the patient in single words, but for those that terms are made of, too."""
    words = {text.casefold() for text in known}
    return frozenset(word for word in words if len(word) > 3 and _WORD.fullmatch(word) and not is_word_of_terms(word))


@lru_cache(maxsize=1 << 14)
def _are_terms(value: bytes, tag: int, known: frozenset[str]) -> list[bool]:
    """Tell of each value of a coded string whether it can be a term, and none of the words known of the patient."""
    texts = [one.strip(" \0") for one in value.decode("ascii").split("\\")]
    return [is_term(text, tag) and known.isdisjoint(_WORD.findall(text.casefold())) for text in texts]


def _are_words(vr: str, value: bytes) -> bool:
    """Tell whether binary numbers are a text: letters in a row that no measurement makes."""
    if len(value) < 8:
        return False
    if _LETTERS.search(value):
        return True
    if vr != "FD":
        return False
    places = range(0, len(value) - 7, 8)
    return any(
        _EIGHT_LETTERS.match(value, at) and not 1e-30 < abs(struct.unpack_from("<d", value, at)[0]) < 1e30
        for at in places
    )


_Piece = bytes | memoryview
_LONG_STRETCH = 1 << 16


def _stretch(data: bytes, start: int, end: int) -> _Piece:
    """Return a stretch of the source; a long one without copying it, since that costs as much as all else."""
    return data[start:end] if end - start < _LONG_STRETCH else memoryview(data)[start:end]


def _pad(value: bytes, filler: bytes) -> bytes:
    return value + filler if len(value) & 1 else value


def _element(tag: int, vr: bytes, value: bytes, *, explicit: bool) -> bytes:
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    value = _pad(value, b"\0" if vr in (b"UI", b"OB") else b" ")
    if not explicit:
        return head + struct.pack("<L", len(value)) + value
    if vr in LONG_LENGTH_VRS:
        return head + vr + b"\0\0" + struct.pack("<L", len(value)) + value
    return head + vr + struct.pack("<H", len(value)) + value


def _tell_of_pixels(top: Mapping[int, str], earlier: _Earlier, *, are_blacked_out: bool) -> list[tuple[int, str]]:
    """Say what is true of burned-in text and of faces, where it is known; an empty text takes back what nobody knows.

    Nothing here removes a face. So NO stays only if the file also bears the code for removing it; YES is written where
    the part of the body says that a face may be seen, and stays (PS3.3 section C.7.6.1, PS3.15 section E.3.2).
    """
    told: list[tuple[int, str]] = []
    if are_blacked_out:
        told.append((_BURNED_IN_ANNOTATION, "NO"))
    stated = top.get(_RECOGNIZABLE_FEATURES)
    if stated == "NO" and _FACE_REMOVED in earlier.codes:
        return told
    if top.get(_BODY_PART, "").upper() in _SHOWING_A_FACE:
        told.append((_RECOGNIZABLE_FEATURES, "YES"))
    elif stated not in (None, "YES"):
        told.append((_RECOGNIZABLE_FEATURES, ""))
    return told


@lru_cache(maxsize=64)
def _stamps(
    dates: str,
    methods: tuple[str, ...],
    codes: tuple[str, ...],
    about_pixels: tuple[tuple[int, str], ...],
    *,
    explicit: bool,
) -> tuple[tuple[int, bytes], ...]:
    """Write what says that, and how, the file was de-identified (PS3.15 section E.1.1, PS3.3 section C.7.1.1)."""
    items = b""
    for code in codes:
        meaning = METHODS[code]
        item = b"".join(
            _element(tag, vr, text.encode("ascii"), explicit=explicit)
            for tag, vr, text in (
                (0x00080100, b"SH", code),
                (0x00080102, b"SH", "DCM"),
                (0x00080104, b"LO", meaning[:64]),
            )
        )
        items += b"\xfe\xff\x00\xe0" + struct.pack("<L", len(item)) + item
    method = "\\".join(dict.fromkeys((*methods, f"scanward {__version__}")))
    return (
        (0x00120062, _element(0x00120062, b"CS", b"YES", explicit=explicit)),
        (0x00120063, _element(0x00120063, b"LO", method.encode("ascii"), explicit=explicit)),
        (0x00120064, _element(0x00120064, b"SQ", items, explicit=explicit)),
        *((tag, _element(tag, b"CS", term.encode("ascii"), explicit=explicit)) for tag, term in about_pixels),
        (0x00280303, _element(0x00280303, b"CS", dates.encode("ascii"), explicit=explicit)),
    )


def _file_meta(sop_class: str, sop_instance: str, transfer_syntax: str) -> bytes:
    """Write preamble, prefix and group 2 from nothing (PS3.10 section 7.1)."""
    group = b"".join(
        _element(tag, vr, value, explicit=True)
        for tag, vr, value in (
            (0x00020001, b"OB", b"\0\x01"),
            (0x00020002, b"UI", sop_class.encode("ascii")),
            (0x00020003, b"UI", sop_instance.encode("ascii")),
            (0x00020010, b"UI", transfer_syntax.encode("ascii")),
            (0x00020012, b"UI", IMPLEMENTATION_CLASS_UID.encode("ascii")),
            (0x00020013, b"SH", _IMPLEMENTATION_VERSION.encode("ascii")),
        )
    )
    return bytes(128) + b"DICM" + _element(0x00020000, b"UL", struct.pack("<L", len(group)), explicit=True) + group
