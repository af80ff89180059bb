"""Re-read an exported file and look for everything that must not be in it.

Written to share nothing with the rewriter: it reads with pydicom, has its own list of what identifies, its own
arithmetic of dates, and goes by what stands in the source rather than by what the profile wanted. A fault in the
rewriter, its walker or its table shows here.

Most elements of a series' exports are the same, file by file. Of an element in a file in which nothing was found, it
is remembered for the patient that it is right: by all that this depends on, its bytes and its source's to begin with.
So every byte is read and compared in every file, but not always judged anew. At most 4 patients are remembered: of
each an export and its source without their pixels, no more than 4 MiB each, 4 MiB of what was collected from sources,
and 4 times 8 MiB of elements.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from typing import NamedTuple, TypeVar

import numpy as np
from pydicom._uid_dict import UID_dictionary
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from tasks.deidentify.audit.content import (
    CONTENT_TEXTS,
    CONTENT_UID,
    IDENTIFYING,
    OF_CONTENT,
    OWN_CODES,
    RETAINED,
    Concept,
    concept_of,
    is_foreign,
    kind_of,
)
from tasks.deidentify.audit.dates import WRITTEN_TEXTS, Days, age_findings, is_moved, moved
from tasks.deidentify.audit.memory import Memory
from tasks.deidentify.audit.pixels import (
    PIXEL_FINDINGS,
    SHAPE_TAGS,
    Region,
    Shape,
    areas_of,
    claim_findings,
    native_findings,
    pixel_findings,
)
from tasks.deidentify.audit.private import PRIVATE_IDENTIFYING, is_clean_copy, unpacked
from tasks.deidentify.audit.read import (
    PIXELS,
    TEXT_VRS,
    UNDEFINED,
    Frame,
    Piece,
    Reading,
    Span,
    creators_of,
    dictionary_vr,
    read_file,
)
from tasks.deidentify.audit.search import SHORTEST_SOUGHT, Blob, Harvest, Harvester, Search, together, worth_searching
from tasks.deidentify.audit.stamps import METHOD, STAMPS, Earlier, is_made_by_us, read_earlier, stamp_findings
from tasks.deidentify.audit.words import DESCRIPTORS, are_masked, is_cleaned, is_described

FINDINGS = PIXEL_FINDINGS | {
    "age": "An age above 89 years stands in the export.",
    "codes": "The codes of the de-identification method are not those of the profile.",
    "date": "A date of the source stands in the export, or is not moved by the patient's shift.",
    "extra-element": "The export holds an element that its source does not.",
    "file-meta": "The file meta information is not the one this software writes.",
    "identifier": "An identifier of the patient stands in the export.",
    "lost": "A number that describes the acquisition or the pixels is missing from the export.",
    "overlay": "An overlay, a curve or an icon stands in the export.",
    "preamble": "The preamble is not empty.",
    "private": "A private element stands in the export that should not, or is neither as it was nor cleaned.",
    "pseudonym": "Name or ID are not the subject's pseudonym.",
    "sealed": "The encrypted identity is not allowed, or is not encrypted.",
    "stamps": "The stamps that say a file was de-identified are missing.",
    "structure": "A length or a reserved field in the export is not what it has to be.",
    "uid": "A UID of the source stands in the export, or stands for two.",
    "unreadable": "The export cannot be read.",
    "value": "A value is neither the source's nor one that the profile may write.",
}
"""What an audit can find: code to sentence."""

_BINARY_VRS = frozenset({"OB", "OW", "UN"})
_NUMBER_VRS = frozenset({"AT", "DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV"})
_CLEANED_VRS = frozenset({"LO", "LT", "SH", "ST", "UC", "UT"})
_DESCRIBING_GROUPS = (0x0018, 0x0020, 0x0028)
"""Acquisition, relationship and image presentation (PS3.6)."""

_FULL_DATES = "113106"
_MODIFIED_DATES = "113107"
_CLEAN_DESCRIPTORS = "113105"
_CLEAN_PIXELS = "113101"
_RETAIN_UIDS = "113110"
_RETAIN_PRIVATE = "113111"
_RETAINED = {
    # Device: station, serial and gantry numbers, who performed; institution: name, address, department.
    "113109": {0x00081010, 0x00181000, 0x00181002, 0x00181008, 0x00400241, 0x00400242},
    "113112": {0x00080080, 0x00080081, 0x00081040},
}
"""What an option leaves in the export although it points at a machine or a hospital."""

_CLEANED_TERMS = frozenset({0x04000565})  # Reason for the Attribute Modification
"""Defined terms that Clean Descriptors cleans."""

_RESERVING_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN", "UT", "UC", "UR"})
"""VRs with two reserved bytes in their explicit head (PS3.5 table 7.1-1); sequences aside, which pydicom has parsed."""

_FLOAT_PIXELS = PIXELS - {0x7FE00010}
_PIXEL_TABLES = frozenset({0x7FE00001, 0x7FE00002})
"""Where the frames of compressed pixel data begin and how long they are: compared with them."""

_PIXEL_CLAIMS = frozenset({0x00280301, 0x00280302})
"""What is said of burned-in text and of faces: checked apart."""

_PSEUDONYMOUS = frozenset({0x00100010, 0x00100020})
_BY_THEIR_CONCEPT = CONTENT_TEXTS | {CONTENT_UID}
"""What is judged by the name of the content item that it stands in, too."""

_SPELLED_BY_US = STAMPS | _PIXEL_TABLES | _PIXEL_CLAIMS
_ENCRYPTED_ATTRIBUTES = 0x04000500
_ENCRYPTED_SYNTAX, _ENCRYPTED_CONTENT = 0x04000510, 0x04000520
_ENVELOPED = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03"
"""The object identifier of CMS enveloped data in DER (RFC 5652 section 6)."""

_NOT_REMEMBERED = frozenset({"SQ", "UI", "UN", None})
"""VRs of elements of items that are looked at in each file anew: what is made of them hangs on more than the bytes."""

_REPRESENTATION = 0x00280103
"""Pixel Representation: which VR many an element has if its file tells none (PS3.5 section A.1)."""

_MOST_PATIENTS, _MOST_WORDS = 4, 4
_MOST_REMEMBERED = 1 << 23
_MOST_KEPT = 64


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
    regions
        What has to be black in which images.
    dates
        Days of the patient's files, as YYYYMMDD.
    recoverable
        Whether the file may hold the patient's identity, encrypted (PS3.15 section E.1.1).
    """

    pseudonym: str
    shift_days: int
    identifiers: frozenset[str]
    uids: frozenset[str]
    codes: tuple[str, ...]
    regions: tuple[Region, ...] = ()
    dates: frozenset[str] = frozenset()
    recoverable: bool = False


def audit_file(source: bytes, export: bytes, expected: Expectation) -> list[str]:
    """Look through one exported file.

    Parameters
    ----------
    source, export
        Both files, whole.
    expected
        What the export has to be. What is found of a patient's files is remembered by it.

    Returns
    -------
    list of str
        Codes of `FINDINGS`, sorted, without repetition; empty if nothing was found. Values are never told.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            patient = _patient(expected)
            last = patient.last
            after = read_file(export, last and last.after)
            before = read_file(source, last.before if last else after, after, force=True)
            audit = _Audit(before, after, export, expected, patient)
            found = sorted(set(audit.findings()))
        except Exception:  # noqa: BLE001 - whatever cannot be read to its end is not released
            return ["unreadable"]
        if not found:
            # A damaged file's elements may end too early, and would do so in the next file, too.
            audit.remember()
        return found


class _Uids:
    """What stands in an element and looks like a UID, and which of its source's stands for which there."""

    __slots__ = ("pairs", "seen")

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.pairs: set[tuple[str, str]] = set()

    def update(self, others: _Uids) -> None:
        self.seen |= others.seen
        self.pairs |= others.pairs


class _Verdict(NamedTuple):
    """What was found of one element, and its UIDs: which of them are known, and what else they stand for, differs."""

    findings: frozenset[str]
    seen: frozenset[str]
    pairs: frozenset[tuple[str, str]]


_GOOD = _Verdict(frozenset(), frozenset(), frozenset())
_Key = tuple[Hashable, ...]


def _verdict(findings: set[str], uids: _Uids) -> _Verdict:
    if not findings and not uids.seen and not uids.pairs:
        return _GOOD
    return _Verdict(frozenset(findings), frozenset(uids.seen), frozenset(uids.pairs))


class _Words:
    """Everything that one file's elements are searched for, and what was found of them so far."""

    def __init__(self, identifiers: frozenset[str], dates: frozenset[str]) -> None:
        self.search = Search(identifiers)
        self.days = Days(dates)
        self.verdicts: Memory[_Verdict] = Memory(_MOST_REMEMBERED)


class _Last(NamedTuple):
    """The file of a patient in which nothing was found last.

    Attributes
    ----------
    after, before
        The export and its source.
    harvest, parts
        What was collected from the source, altogether and by element.
    earlier, circumstances, retained, words
        What it was judged by.
    verdicts
        Of those elements that hold UIDs, by their tags.
    """

    after: Frame
    before: Frame
    harvest: Harvest
    parts: dict[int, Harvest]
    earlier: Earlier
    circumstances: _Key
    retained: frozenset[str]
    words: _Words
    verdicts: dict[int, _Verdict]


class _Patient:
    """What the audits of one patient's files have in common."""

    def __init__(self) -> None:
        self.harvester = Harvester()
        self.last: _Last | None = None
        self.stamps: dict[_Key, frozenset[str]] = {}
        self.shapes: dict[_Key, Shape] = {}
        self.claims: dict[_Key, frozenset[str]] = {}
        self.words = lru_cache(maxsize=_MOST_WORDS)(_words)


@lru_cache(maxsize=_MOST_PATIENTS)
def _patient(_: Expectation) -> _Patient:
    return _Patient()


def _words(identifiers: frozenset[str], dates: frozenset[str], *_: object) -> _Words:
    return _Words(identifiers, dates)


class _Audit:
    """One comparison of a source and its export."""

    def __init__(
        self, before: Reading, after: Reading, export: bytes, expected: Expectation, patient: _Patient
    ) -> None:
        self._before = before
        self._after = after
        self._export = export
        self._expected = expected
        self._patient = patient
        codes = set(expected.codes)
        self._areas = areas_of(before.dataset, expected.regions) if expected.regions else []
        self._codes = sorted({*codes, _CLEAN_PIXELS}) if self._areas else list(expected.codes)
        self._keeps_uids = _RETAIN_UIDS in codes
        self._keeps_private = _RETAIN_PRIVATE in codes
        self._cleans_descriptors = _CLEAN_DESCRIPTORS in codes
        self._told_of_dates = "REMOVED"
        if _FULL_DATES in codes:
            self._told_of_dates = "UNMODIFIED"
        elif _MODIFIED_DATES in codes:
            self._told_of_dates = "MODIFIED"
        self._retained = frozenset[int]().union(*(tags for code, tags in _RETAINED.items() if code in codes))
        self._retained_concepts = frozenset[Concept]().union(
            *(concepts for code, concepts in RETAINED.items() if code in codes)
        )
        self._own_codes = frozenset[int]().union(*(tags for code, tags in OWN_CODES.items() if code in codes))
        self._is_explicit = not after.is_implicit
        self._source_is_little_endian = before.is_little_endian
        self._old = before.by_tag
        self._new = after.by_tag
        last = patient.last
        goes_along = last is not None and after.along is last.after and before.along is last.before
        self._last = last if goes_along else None
        self._earlier = self._read_earlier()
        # Dates that an earlier de-identification moved are not moved again.
        is_moved_before = self._earlier.told_of_dates == self._told_of_dates == "MODIFIED"
        self._shift = 0 if is_moved_before else expected.shift_days
        self._parts = patient.harvester.parts(before, self._last.parts if self._last else None)
        self._harvest = together(before, self._parts.values())
        self._retained_words = frozenset(text.casefold() for text in self._retained_texts(after, after.spans))
        representations = [one.get(_REPRESENTATION) for one in (self._old, self._new)]
        self._circumstances: _Key = (
            before.character_set,
            after.character_set,
            before.is_implicit,
            after.is_implicit,
            self._source_is_little_endian,
            self._shift,
            self._earlier,
            *(span.content if span else b"" for span in representations),
        )
        self._words = self._known_words()
        if self._last is not None and (self._last.words is not self._words or self._has_other_creators()):
            self._last = None
        self._stands_for: dict[str, str] = {}
        self._seen: set[str] = set()
        self._verdicts: dict[int, _Verdict] = {}
        self._found_now: dict[Hashable, tuple[_Verdict, int]] = {}
        self._is_entangled = False
        self._was_entangled = False

    def _read_earlier(self) -> Earlier:
        last, old = self._last, self._old
        if last is not None and all(old.get(tag) is last.before.by_tag.get(tag) for tag in STAMPS):
            return last.earlier
        return read_earlier(self._before, old)

    def _has_other_creators(self) -> bool:
        """Tell whether the block of a private element may be another's than in the last file."""
        changed = [self._before.spans[index].tag for index in self._before.changed]
        changed += [self._after.spans[index].tag for index in self._after.changed]
        return any(tag & 0x10000 and 0x10 <= tag & 0xFFFF < 0x1000 for tag in changed)

    def _known_words(self) -> _Words:
        last, harvest, retained = self._last, self._harvest, self._retained_words
        if (
            last is not None
            and (last.harvest.identifiers, last.harvest.dates) == (harvest.identifiers, harvest.dates)
            and (last.circumstances, last.retained) == (self._circumstances, retained)
        ):
            return last.words
        pseudonym = self._expected.pseudonym.casefold()
        identifiers = worth_searching(self._expected.identifiers | harvest.identifiers, {pseudonym, *retained})
        dates = harvest.dates | self._expected.dates - {"19000101"}
        others = dates - harvest.dates if self._shift != self._expected.shift_days else dates
        # A moved date may be another of the patient's.
        dates -= {moved(date, self._shift) for date in harvest.dates}
        dates -= {moved(date, self._expected.shift_days) for date in others}
        if self._told_of_dates == "UNMODIFIED":
            dates = frozenset()
        return self._patient.words(identifiers, frozenset(dates), *self._circumstances)

    def _stand_known_uids(self) -> bool:
        """Tell whether a UID of the patient's files stands in the export, in plain sight."""
        if self._keeps_uids:
            return False
        found = (self._seen & self._expected.uids) | (self._seen & self._harvest.uids)
        return any(not (self._earlier.is_ours and is_made_by_us(uid)) for uid in found)

    def remember(self) -> None:
        """Remember what was found of the elements, and the file itself for the next to be read along it."""
        self._words.verdicts.remember_all(self._found_now)
        after, before = Frame.of(self._after), Frame.of(self._before)
        if after is None or before is None or self._was_entangled or not self._new.keys().isdisjoint(_BY_THEIR_CONCEPT):
            self._patient.last = None
            return
        self._patient.last = _Last(
            after=after,
            before=before,
            harvest=self._harvest,
            parts=self._parts,
            earlier=self._earlier,
            circumstances=self._circumstances,
            retained=self._retained_words,
            words=self._words,
            verdicts=self._verdicts,
        )

    def _retained_texts(self, export: Reading, spans: list[Span]) -> Iterator[str]:
        """Yield what the export holds of machine and institution because an option says so, in all items."""
        if not (self._retained or self._retained_concepts):
            return
        for span in spans:
            if span.tag in self._retained or span.element.VR in _NOT_REMEMBERED:
                yield from self._retained_in(Piece(export, span.element))

    def _retained_in(self, piece: Piece) -> Iterator[str]:
        if piece.vr == "SQ":
            for item in piece.items:
                for element in item.values():
                    yield from self._retained_in(Piece(item, element))
        elif self._is_retained(piece):
            yield from piece.texts

    def _is_retained(self, piece: Piece) -> bool:
        """Tell whether a value points at a machine or a hospital, and an option leaves it."""
        if piece.tag in self._retained:
            return True
        is_content = piece.tag in CONTENT_TEXTS or piece.tag == CONTENT_UID
        return is_content and bool(self._retained_concepts) and concept_of(piece.dataset) in self._retained_concepts

    def findings(self) -> Iterator[str]:
        """Yield the code of everything found."""
        yield from self._look_at_frame()
        yield from self._look_at_stamps()
        yield from self._look_at_elements()
        yield from self._look_at_pixels()
        yield from self._look_at_claims()

    def _look_at_pixels(self) -> Iterator[str]:
        """Compare the pixel data, of most images as they stand."""
        new, old = (self._native_pixels(one) for one in (self._after, self._before))
        if new is None or old is None or self._areas or not self._source_is_little_endian:
            yield from pixel_findings(self._before.dataset, self._after.dataset, self._areas)
            return
        key = tuple(span.content if (span := self._new.get(tag)) is not None else b"" for tag in SHAPE_TAGS)
        shape = self._patient.shapes.get(key)
        if shape is None:
            shape = Shape(self._after.dataset)
            _keep(self._patient.shapes, key, shape)
        yield from native_findings(old, new, shape)

    def _look_at_claims(self) -> Iterator[str]:
        if self._new.keys().isdisjoint(_PIXEL_CLAIMS):
            return
        spans = [one.get(tag) for tag in sorted(_PIXEL_CLAIMS | STAMPS) for one in (self._old, self._new)]
        key = (*(span.content if span is not None else None for span in spans), bool(self._areas))
        found = self._patient.claims.get(key) if b"" not in key else None
        if found is None:
            found = frozenset(claim_findings(self._before.dataset, self._after.dataset, self._areas))
            _keep(self._patient.claims, key, found)
        yield from found

    def _native_pixels(self, image: Reading) -> bytes | memoryview | None:
        """Return Pixel Data that is no fragments, where there is no other."""
        span = image.by_tag.get(0x7FE00010)
        if span is None or not image.by_tag.keys().isdisjoint(_FLOAT_PIXELS):
            return None
        element = span.element
        is_native = isinstance(element, RawDataElement) and element.length != UNDEFINED
        return element.value if is_native and isinstance(element.value, bytes | memoryview) and element.value else None

    def _look_at_frame(self) -> Iterator[str]:
        """Check what stands around the data set."""
        if self._export[:128] != bytes(128):
            yield "preamble"
        if not self._after.is_whole:
            yield "structure"
        allowed = {0x00020000, 0x00020001, 0x00020002, 0x00020003, 0x00020010, 0x00020012, 0x00020013}
        if not self._after.meta.keys() <= allowed:
            yield "file-meta"
        for own, other in ((0x00020003, 0x00080018), (0x00020002, 0x00080016)):
            in_data = self._new.get(other)
            told = self._after.meta_texts(own)
            if not told or in_data is None or told != Piece(self._after, in_data.element).texts:
                yield "file-meta"
        yield from self._search_bytes(self._after.around, self._seen)

    def _look_at_stamps(self) -> Iterator[str]:
        """Check who the export says it is, and what it says was done."""
        spans = self._after.spans
        if len(self._new) == len(spans):
            spans = [self._new[tag] for tag in _PSEUDONYMOUS if tag in self._new]
        for span in spans:
            if span.tag in _PSEUDONYMOUS and Piece(self._after, span.element).texts != [self._expected.pseudonym]:
                yield "pseudonym"
        if not self._new.keys() >= _PSEUDONYMOUS:
            yield "pseudonym"
        told = (self._new[tag].content if tag in self._new else b"" for tag in sorted(STAMPS))
        key = (*told, self._earlier, tuple(self._codes))
        found = self._patient.stamps.get(key) if all(key[:-2]) else None
        if found is None:
            found = frozenset(self._stamp_findings())
            _keep(self._patient.stamps, key, found)
        yield from found

    def _stamp_findings(self) -> Iterator[str]:
        yield from stamp_findings(self._after, self._new, self._codes, self._told_of_dates, self._earlier)
        if METHOD in self._new:
            texts = Piece(self._after, self._new[METHOD].element).texts
            if any(map(self._words.search.finds_in_text, texts)) or any(map(self._words.days.stand_in, texts)):
                yield "identifier"

    def _look_at_elements(self) -> Iterator[str]:
        """Compare every element with the one at the same place in the source, and search it."""
        last, old_spans, verdicts = self._last, self._old, self._verdicts
        found: set[str] = set()
        if last is None:
            places: Iterable[int] = range(len(self._after.spans))
            creators = creators_of(self._after.spans)
            old_changed: Iterable[int] = old_spans
        else:
            # Of the elements that stand in both files as they stood in the last one, nothing was found.
            verdicts |= last.verdicts
            old_changed = [self._before.spans[index].tag for index in self._before.changed]
            at = last.after.places
            changed = {*self._after.changed, *(at[tag] for tag in old_changed if tag in at)}
            tail = range(len(last.after.spans), len(self._after.spans))
            places = (*sorted(changed), *tail)
            creators = [*last.after.creators, *[""] * len(tail)]
        for place in places:
            span = self._after.spans[place]
            verdict = self._judge(span, old_spans.get(span.tag), creators[place])
            found |= verdict.findings
            if verdict.seen or verdict.pairs:
                verdicts[span.tag] = verdict
                # Two elements with the same tag, of which only one would be kept.
                self._seen |= verdict.seen
                found |= self._find_others(verdict.pairs)
            else:
                verdicts.pop(span.tag, None)
        yield from found
        for verdict in verdicts.values():
            self._seen |= verdict.seen
            yield from self._find_others(verdict.pairs)
        if self._stand_known_uids():
            yield "uid"
        for tag in old_changed:
            if tag not in self._new and tag >> 16 in _DESCRIBING_GROUPS and _describes(self._before, old_spans[tag]):
                yield "lost"
        if len(set(self._stands_for.values())) != len(self._stands_for):
            yield "uid"

    def _find_others(self, pairs: Iterable[tuple[str, str]]) -> set[str]:
        """Take in which UID stands for which; find those for which another one stands elsewhere."""
        stands_for = self._stands_for
        return {"uid" for was, now in pairs if stands_for.setdefault(was, now) != now}

    def _judge(self, span: Span, old: Span | None, creator: str) -> _Verdict:
        """Look at one element of the data set, or remember what was found of it."""
        tag, content, _ = span
        if old is not None and old.content != content:
            key: _Key = (creator, content, old.content)
        else:
            key = (creator, content, old is not None)
        is_remembered = content and tag not in PIXELS and tag not in _BY_THEIR_CONCEPT
        if is_remembered and (known := self._words.verdicts.get(key)) is not None:
            return known
        self._is_entangled = False
        verdict = self._look_at_span(span, old, creator.partition("\\")[0].strip(" \0").upper())
        self._was_entangled |= self._is_entangled
        if is_remembered and not self._is_entangled:
            self._found_now[key] = verdict, len(content) + (len(old.content) if old is not None else 0)
        return verdict

    def _look_at_span(self, span: Span, old: Span | None, creator: str) -> _Verdict:
        """Look at one element of the data set."""
        tag, content, element = span
        new_piece = Piece(self._after, element)
        old_piece = Piece(self._before, old.element) if old is not None else None
        uids = _Uids()
        if tag in _SPELLED_BY_US or (tag == _ENCRYPTED_ATTRIBUTES and self._expected.recoverable):
            # Checked apart, and written by us word by word: the reserved bytes are zeros there, too.
            found = set(self._look_at_sealed(new_piece)) if tag == _ENCRYPTED_ATTRIBUTES else set()
        else:
            found = set(self._look_at(new_piece, old_piece, creator, uids, is_top=True))
            has_reserved = new_piece.vr in _RESERVING_VRS and self._is_explicit and content
            if has_reserved and not tag & 0x10000 and isinstance(element, RawDataElement) and content[6:8] != b"\0\0":
                found.add("structure")
            if tag not in PIXELS and tag not in self._retained and new_piece.vr == "SQ":
                # What stands between the elements of items is searched, too.
                found |= self._search_bytes(self._without_retained(content, new_piece), uids.seen)
        return _verdict(found, uids)

    def _without_retained(self, content: bytes, piece: Piece) -> bytes:
        for text in self._retained_in(piece) if self._retained or self._retained_concepts else ():
            content = content.replace(text.encode("latin-1", "replace"), b"\n") if text else content
        return content

    def _look_at_sealed(self, piece: Piece) -> Iterator[str]:
        """Check that an identity is encrypted: nothing beside CMS enveloped data, to its last byte."""
        for item in piece.items:
            parts = {int(element.tag): Piece(item, element) for element in item.values()}
            if parts.keys() != {_ENCRYPTED_SYNTAX, _ENCRYPTED_CONTENT}:
                yield "sealed"
                continue
            syntax, content = parts[_ENCRYPTED_SYNTAX], parts[_ENCRYPTED_CONTENT].raw or b""
            if syntax.vr != "UI" or any(uid not in UID_dictionary for uid in syntax.texts):
                yield "sealed"
            if parts[_ENCRYPTED_CONTENT].vr != "OB" or not _is_enveloped(content):
                yield "sealed"
        if piece.vr != "SQ" or not piece.items:
            yield "sealed"

    def _look_at(
        self, new: Piece, old: Piece | None, creator: str, uids: _Uids, *, is_top: bool = False
    ) -> Iterator[str]:
        """Compare and search an element of the data set or of an item."""
        yield from self._compare(new, old, creator, uids, is_top=is_top)
        if new.vr == "SQ":
            yield from self._look_into(new, old, uids)
        elif new.tag not in PIXELS and not self._is_retained(new):
            # A station's name may well hold another number that is known of it; both are meant to be read.
            is_pseudonym = new.tag in _PSEUDONYMOUS and new.texts == [self._expected.pseudonym]
            if not is_pseudonym:
                yield from self._search(new, uids.seen)

    def _look_into(self, new: Piece, old: Piece | None, uids: _Uids) -> Iterator[str]:
        """Compare the items of two sequences, one by one; of content items some may have gone."""
        new_items, old_items = new.items, old.items if old is not None else []
        if not new.tag & 0x10000 and new.tag not in self._own_codes and any(map(is_foreign, new_items)):
            yield "value"
        if len(new_items) == len(old_items) or new.tag not in OF_CONTENT:
            if 0 < len(new_items) < len(old_items):
                yield "lost"
            for item, old_item in zip_longest(new_items, old_items[: len(new_items)]):
                yield from self._look_at_item(item, old_item, uids)
            return
        # Which of the source's items one was is told by the UIDs that stand for others elsewhere, too.
        self._is_entangled = True
        place = 0
        for item in new_items:
            kind = kind_of(item)
            found: set[str] | None = None
            for index in range(place, len(old_items)):
                if kind_of(old_items[index]) != kind:
                    continue
                inside = _Uids()
                this = self._look_at_item(item, old_items[index], inside)
                stands_for = {**self._stands_for, **dict(uids.pairs)}
                if any(stands_for.setdefault(was, now) != now for was, now in inside.pairs):
                    this.add("uid")
                if found is None or not this:
                    found, best = this, inside
                    place = index + 1
                if not this:
                    break
            if found is None:
                yield from self._look_at_item(item, None, uids)
            else:
                uids.update(best)
                yield from found

    def _look_at_item(self, item: Dataset, old_item: Dataset | None, uids: _Uids) -> set[str]:
        """Compare an item with the one that it was."""
        memory, found_now = self._words.verdicts, self._found_now
        elements = {int(element.tag): element for element in old_item.values()} if old_item is not None else {}
        all_found: set[str] = set()
        creators: dict[int, str] = {}
        for element in item.values():
            tag = int(element.tag)
            creator = ""
            if tag & 0x10000:
                if tag & 0xFFFF < 0x1000:
                    creators[tag] = _creator(element)
                else:
                    creator = creators.get(tag & 0xFFFF0000 | (tag & 0xFFFF) >> 8, "")
            other = elements.get(tag)
            # A content item's text is judged by its concept, too.
            key = _key_of(element, other, creator) if tag not in CONTENT_TEXTS else ()
            verdict = memory.get(key) if key else None
            if verdict is None and key in found_now:
                verdict = found_now[key][0]
            if verdict is None:
                inside = _Uids()
                old_piece = Piece(old_item, other) if other is not None and old_item is not None else None
                verdict = _verdict(set(self._look_at(Piece(item, element), old_piece, creator, inside)), inside)
                if key:
                    found_now[key] = verdict, 2 * len(element.value or b"")
            if verdict is not _GOOD:
                all_found |= verdict.findings
                uids.seen |= verdict.seen
                uids.pairs |= verdict.pairs
        return all_found

    # ---- comparison

    def _compare(self, new: Piece, old: Piece | None, creator: str, uids: _Uids, *, is_top: bool) -> Iterator[str]:
        tag = new.tag
        if tag & 0x10000:
            yield from self._compare_private(new, old, creator)
            if new.vr not in ("DA", "DT", "UI"):
                return
        if tag >> 24 in (0x50, 0x60) or tag in (0x00880200, 0x00091001):
            yield "overlay"
        if tag in _PSEUDONYMOUS and is_top:
            return
        if new.length not in (UNDEFINED, len(new.raw or b"")):
            yield "structure"
        if old is None:
            yield "extra-element"
        elif new.vr != old.vr:
            yield "value"
        elif tag in _PSEUDONYMOUS and new.texts == [self._expected.pseudonym]:
            return
        elif new.vr == "UI":
            yield from self._compare_uids(old, new, uids)
        elif new.vr in ("DA", "DT"):
            yield from self._compare_dates(old, new)
        elif new.vr == "AS":
            yield from age_findings(old.texts, new.texts)
        elif not self._is_kept_or_hidden(old, new):
            yield "value"

    def _compare_private(self, new: Piece, old: Piece | None, creator: str) -> Iterator[str]:
        """Check that a private element is as it was or cleaned, and none of those that are known to identify."""
        if not self._keeps_private or old is None or new.vr == "PN":
            yield "private"
            return
        number = new.tag & 0xFFFF
        if number < 0x1000:
            # pydicom decodes a creator where it looks up what is in its block, so the bytes may be gone.
            if new.texts != old.texts:
                yield "private"
        elif new.vr not in ("SQ", "DA", "DT", "UI"):
            known = creator and (creator, new.tag >> 16, number & 0xFF) not in PRIVATE_IDENTIFYING
            if not known or not is_clean_copy(old.raw or b"", new.raw or b""):
                yield "private"

    def _compare_uids(self, old: Piece, new: Piece, uids: _Uids) -> Iterator[str]:
        if len(new.texts) > len(old.texts):
            yield "uid"
        for was, now in zip(old.texts, new.texts, strict=False):
            stays = self._keeps_uids or was in UID_dictionary or not was or self._is_retained(new)
            if stays or (now == was and self._earlier.is_ours and is_made_by_us(was)):
                if now != was:
                    yield "uid"
            elif now == was:
                yield "uid"
            elif now:
                uids.pairs.add((was, now))

    def _compare_dates(self, old: Piece, new: Piece) -> Iterator[str]:
        if len(new.texts) > len(old.texts):
            yield "date"
        for was, now in zip(old.texts, new.texts, strict=False):
            if now in WRITTEN_TEXTS:
                continue
            is_right = {
                "REMOVED": False,
                "UNMODIFIED": now == was,
                "MODIFIED": is_moved(was, now, self._shift),
            }[self._told_of_dates]
            if not is_right:
                yield "date"

    def _is_kept_or_hidden(self, old: Piece, new: Piece) -> bool:
        """Tell whether a value is the source's, to the byte, or one that says nothing, or a cleaned form of it."""
        if new.vr == "SQ" or new.tag in PIXELS:
            return True
        if new.tag in CONTENT_TEXTS and not self._is_retained(new) and not set(new.texts) <= WRITTEN_TEXTS:
            may_stand = self._cleans_descriptors and concept_of(new.dataset) not in IDENTIFYING
            return may_stand and is_described("\\".join(old.texts), "\\".join(new.texts))
        if self._cleans_descriptors and new.vr in _CLEANED_VRS and new.tag in DESCRIPTORS:
            return is_described("\\".join(old.texts), "\\".join(new.texts)) or set(new.texts) <= WRITTEN_TEXTS
        if new.raw is not None and (new.raw == old.raw or not new.raw.strip(b"\0 ")):
            return True
        if new.vr in TEXT_VRS or new.vr in ("DS", "IS", "TM"):
            if set(new.texts) <= WRITTEN_TEXTS or new.texts == old.texts:
                return True
            if not self._cleans_descriptors:
                return False
            if new.vr == "CS" and are_masked(old.texts, new.texts):
                return True
            may_be_cleaned = new.vr in _CLEANED_VRS or new.tag in _CLEANED_TERMS
            return may_be_cleaned and is_cleaned("\\".join(old.texts), "\\".join(new.texts))
        if new.raw is not None and self._source_is_little_endian:
            return False
        # pydicom decodes a few elements while it reads, and the bytes differ where the source's byte order was another:
        # then the numbers have to be the same.
        return bool(np.all(new.value == old.value))

    # ---- search

    def _search(self, piece: Piece, seen: set[str]) -> Iterator[str]:
        """Search an element's value for what is known of the patient."""
        search, days = self._words.search, self._words.days
        raw, vr = piece.raw, piece.vr
        is_private = bool(piece.tag & 0x10000)
        if vr == "UI":
            seen.update(piece.texts)
        elif vr in TEXT_VRS:
            for text in filter(None, piece.texts):
                if is_private or vr == "CS":
                    found = search.finds_in_term(text, is_private=is_private and vr != "CS")
                else:
                    found = search.finds_in_text(text)
                if found:
                    # Inside a defined term a name is chance: every PRIMARY image holds a MARY.
                    yield "identifier"
                if days.stand_in(text) or (is_private and days.are_counted_in_text(text)):
                    yield "date"
        elif vr in _BINARY_VRS and raw:
            packed = unpacked(raw)
            for one in (raw, packed) if packed else (raw,):
                blob = Blob(one)
                if search.finds_in_blob(blob, anywhere=not is_private):
                    yield "identifier"
                if days.stand_in(blob.figures) or (blob.is_wide and days.stand_in(one.decode("utf-16-le", "ignore"))):
                    yield "date"
                if is_private and (days.are_counted_in_text(blob.figures) or days.are_counted_in_blob(one)):
                    yield "date"
                if one is raw:
                    yield from self._search_blob(blob, seen)
            return
        elif is_private and raw:
            text = raw.decode("latin-1")
            if days.are_counted_in_text(text) if vr in ("DS", "IS") else days.are_counted_in_value(vr, raw):
                yield "date"
        if raw:
            yield from self._search_bytes(raw, seen)

    def _search_bytes(self, raw: bytes, seen: set[str]) -> set[str]:
        if len(raw) < SHORTEST_SOUGHT:
            return set()
        return self._search_blob(Blob(raw), seen)

    def _search_blob(self, blob: Blob, seen: set[str]) -> set[str]:
        seen.update(blob.uids)
        return {"identifier"} if self._words.search.finds_in_bytes(blob) else set()


_Kept = TypeVar("_Kept")


def _keep(memory: dict[_Key, _Kept], key: _Key, found: _Kept) -> None:
    if len(memory) >= _MOST_KEPT:
        memory.clear()
    memory[key] = found


def _creator(element: object) -> str:
    value = getattr(element, "value", None)
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value or "")
    return text.split("\\")[0].strip(" \0").upper()


def _key_of(new: object, old: object, creator: str) -> _Key:
    """Name what an item's element is judged by; empty if that is more than its value and its source's."""
    if not isinstance(new, RawDataElement) or new.VR in _NOT_REMEMBERED:
        return ()
    if isinstance(old, RawDataElement):
        return (creator, int(new.tag), new.VR, new.length, new.value, old.VR, old.value)
    return (creator, int(new.tag), new.VR, new.length, new.value) if old is None else ()


def _describes(source: Reading, span: Span) -> bool:
    """Tell whether a number describes the acquisition or the pixels; nothing in the standard asks to take one out."""
    if not span.tag & 0xFFFF or not dictionary_vr(span.tag):
        return False
    return Piece(source, span.element).vr in _NUMBER_VRS


def _is_enveloped(content: bytes) -> bool:
    """Tell whether CMS enveloped data fill an element, but for a byte that makes its length even."""
    if content[:1] != b"\x30" or len(content) < 2:
        return False
    size = content[1] & 0x7F if content[1] > 0x80 else 0
    length = int.from_bytes(content[2 : 2 + size], "big") if size else content[1]
    rest = content[2 + size + length :]
    begin = content[2 + size :]
    return len(begin) >= length and rest in (b"", b"\0") and begin.startswith(_ENVELOPED)
