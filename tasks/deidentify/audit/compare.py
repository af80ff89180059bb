"""Re-read an exported file and look for everything that must not be in it.

Written to share nothing with the rewriter: it reads with pydicom, has its own list of what identifies, its own
arithmetic of dates, and goes by what stands in the source rather than by what the profile wanted. A fault in the
rewriter, its walker or its table shows here.

Most elements of a series' exports are the same, file by file; what was found of one is remembered for the patient.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from typing import NamedTuple

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
from tasks.deidentify.audit.pixels import PIXEL_FINDINGS, Region, areas_of, claim_findings, pixel_findings
from tasks.deidentify.audit.private import PRIVATE_IDENTIFYING, is_clean_copy, unpacked
from tasks.deidentify.audit.read import TEXT_VRS, UNDEFINED, Piece, Reading, Span, dictionary_vr, read_file
from tasks.deidentify.audit.search import UID, Harvest, Harvester, Search, worth_searching
from tasks.deidentify.audit.stamps import METHOD, STAMPS, is_made_by_us, read_earlier, stamp_findings
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

_PIXELS = frozenset({0x7FE00010, 0x7FE00008, 0x7FE00009})
"""Pixel Data, Float Pixel Data, Double Float Pixel Data: compared apart, and not searched."""

_PIXEL_TABLES = frozenset({0x7FE00001, 0x7FE00002})
"""Where the frames of compressed pixel data begin and how long they are: compared with them."""

_PIXEL_CLAIMS = frozenset({0x00280301, 0x00280302})
"""What is said of burned-in text and of faces: checked apart."""

_PSEUDONYMOUS = frozenset({0x00100010, 0x00100020})
_SPELLED_BY_US = STAMPS | _PIXEL_TABLES | _PIXEL_CLAIMS
_ENCRYPTED_ATTRIBUTES = 0x04000500
_ENCRYPTED_SYNTAX, _ENCRYPTED_CONTENT = 0x04000510, 0x04000520
_ENVELOPED = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03"
"""The object identifier of CMS enveloped data in DER (RFC 5652 section 6)."""

_NOT_REMEMBERED = frozenset({"SQ", "UI", "UN", None})
"""VRs of elements that are looked at in each file anew where they changed: how UIDs are replaced is a file's matter."""

_SHORT = 4096
_MOST_SHORT, _MOST_LONG = 50_000, 64
"""How many short and long values are remembered."""


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
            after = read_file(export, patient.last_export)
            before = read_file(source, after, patient.last_source, force=True)
            found = sorted(set(_Audit(before, after, export, expected, patient).findings()))
        except Exception:  # noqa: BLE001 - whatever cannot be read to its end is not released
            return ["unreadable"]
        if not found:
            # A damaged file's elements may end too early, and would do so in the next file, too.
            patient.last_export, patient.last_source = after, before
        return found


class _Verdict(NamedTuple):
    """What was found of one element, and what looks like a UID in it: those known of the patient differ by file."""

    findings: frozenset[str]
    uids: frozenset[str]


_GOOD = _Verdict(frozenset(), frozenset())
_Key = tuple[object, ...]


class _Words:
    """Everything that one file's elements are searched for, with what was found of them so far."""

    def __init__(self, identifiers: frozenset[str], dates: frozenset[str]) -> None:
        self.search = Search(identifiers)
        self.days = Days(dates)
        self.short: dict[_Key, _Verdict] = {}
        self.long: dict[_Key, _Verdict] = {}

    def remember(self, key: _Key, verdict: _Verdict, size: int) -> None:
        memory, most = (self.short, _MOST_SHORT) if size <= _SHORT else (self.long, _MOST_LONG)
        if len(memory) >= most:
            memory.clear()
        memory[key] = verdict


class _Patient:
    """What the audits of one patient's files have in common."""

    def __init__(self) -> None:
        self.harvester = Harvester()
        self.last_export: Reading | None = None
        self.last_source: Reading | None = None
        self.stamps: dict[_Key, frozenset[str]] = {}
        self.words = lru_cache(maxsize=8)(_words)


@lru_cache(maxsize=4)
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
        self._areas = areas_of(before.dataset, expected.regions)
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
        self._is_explicit = after.dataset.original_encoding[0] is False
        self._source_is_little_endian = before.dataset.original_encoding[1] is not False
        self._old = {span.tag: span for span in before.spans}
        self._new = {span.tag: span for span in after.spans}
        self._earlier = read_earlier(before.dataset, self._old)
        # Dates that an earlier de-identification moved are not moved again.
        is_moved_before = self._earlier.told_of_dates == self._told_of_dates == "MODIFIED"
        self._shift = 0 if is_moved_before else expected.shift_days
        harvest = patient.harvester.harvest(before)
        self._uids = self._known_uids(harvest)
        self._words = self._known_words(harvest)
        self._stands_for: dict[str, str] = {}
        self._seen: set[str] = set()

    def _known_uids(self, harvest: Harvest) -> frozenset[str]:
        if self._keeps_uids:
            return frozenset()
        uids = self._expected.uids | harvest.uids
        return frozenset(uid for uid in uids if not is_made_by_us(uid)) if self._earlier.is_ours else uids

    def _known_words(self, harvest: Harvest) -> _Words:
        retained = {text.casefold() for text in self._retained_texts(self._after.dataset, self._after.spans)}
        pseudonym = self._expected.pseudonym.casefold()
        identifiers = worth_searching(self._expected.identifiers | harvest.identifiers, {pseudonym, *retained})
        dates = harvest.dates | self._expected.dates - {"19000101"}
        others = dates - harvest.dates if self._shift != self._expected.shift_days else dates
        # A moved date may be another of the patient's.
        dates -= {moved(date, self._shift) for date in harvest.dates}
        dates -= {moved(date, self._expected.shift_days) for date in others}
        if self._told_of_dates == "UNMODIFIED":
            dates = frozenset()
        surroundings = (self._after.character_set, self._is_explicit, self._shift, self._earlier.is_ours)
        return self._patient.words(identifiers, frozenset(dates), *surroundings)

    def _retained_texts(self, dataset: Dataset, spans: list[Span]) -> Iterator[str]:
        """Yield what the export holds of machine and institution because an option says so, in all items."""
        if not (self._retained or self._retained_concepts):
            return
        for span in spans:
            yield from self._retained_in(Piece(dataset, span.element))

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
        yield from pixel_findings(self._before.dataset, self._after.dataset, self._areas)
        yield from claim_findings(self._before.dataset, self._after.dataset, self._areas)

    def _look_at_frame(self) -> Iterator[str]:
        """Check what stands around the data set."""
        if self._export[:128] != bytes(128):
            yield "preamble"
        if not self._after.is_whole:
            yield "structure"
        meta = self._after.dataset.file_meta
        allowed = {0x00020000, 0x00020001, 0x00020002, 0x00020003, 0x00020010, 0x00020012, 0x00020013}
        if {int(tag) for tag in meta.keys()} - allowed:  # noqa: SIM118 - it iterates over elements, not over its keys
            yield "file-meta"
        for own, other in ((0x00020003, 0x00080018), (0x00020002, 0x00080016)):
            in_data = self._new.get(other)
            told = Piece(meta, meta.get_item(own)).texts if own in meta else None
            if told is None or in_data is None or told != Piece(self._after.dataset, in_data.element).texts:
                yield "file-meta"
        around = self._after.around
        if self._words.search.finds_in_bytes(around):
            yield "identifier"
        self._seen.update(UID.findall(around.decode("latin-1")))

    def _look_at_stamps(self) -> Iterator[str]:
        """Check who the export says it is, and what it says was done."""
        dataset = self._after.dataset
        for span in self._after.spans:
            if span.tag in _PSEUDONYMOUS and Piece(dataset, span.element).texts != [self._expected.pseudonym]:
                yield "pseudonym"
        if not self._new.keys() >= _PSEUDONYMOUS:
            yield "pseudonym"
        told = (self._new[tag].content if tag in self._new else b"" for tag in sorted(STAMPS))
        key = (*told, self._earlier, tuple(self._codes))
        found = self._patient.stamps.get(key) if all(key[:-2]) else None
        if found is None:
            found = frozenset(self._stamp_findings())
            if len(self._patient.stamps) > _MOST_LONG:
                self._patient.stamps.clear()
            self._patient.stamps[key] = found
        yield from found

    def _stamp_findings(self) -> Iterator[str]:
        dataset = self._after.dataset
        yield from stamp_findings(dataset, self._new, self._codes, self._told_of_dates, self._earlier)
        if METHOD in self._new:
            texts = Piece(dataset, self._new[METHOD].element).texts
            if any(map(self._words.search.finds_in_text, texts)) or any(map(self._words.days.stand_in, texts)):
                yield "identifier"

    def _look_at_elements(self) -> Iterator[str]:
        """Compare every element with the one at the same place in the source, and search it."""
        words, old_spans = self._words, self._old
        short, long = words.short, words.long
        creators: dict[int, str] = {}
        found: set[str] = set()
        for span in self._after.spans:
            tag, content, element = span
            creator = ""
            if tag & 0x10000:
                if tag & 0xFFFF < 0x1000:
                    creators[tag] = _creator(element)
                else:
                    creator = creators.get(tag & 0xFFFF0000 | (tag & 0xFFFF) >> 8, "")
            old = old_spans.get(tag)
            key: _Key = (creator, content) if old is span else (creator, content, old.content if old else None)
            verdict = short.get(key) or long.get(key) if content else None
            if verdict is None:
                verdict = self._judge(span, old, creator)
                # How UIDs are replaced is compared over a whole file, and pixels have their own comparison.
                is_changed = old is not span and element.VR in _NOT_REMEMBERED
                if content and not is_changed and tag not in _PIXELS:
                    words.remember(key, verdict, len(content))
            if verdict is not _GOOD:
                found |= verdict.findings
                self._seen |= verdict.uids
        yield from found
        if not self._seen.isdisjoint(self._uids):
            yield "uid"
        for tag, span in old_spans.items():
            if tag not in self._new and tag >> 16 in _DESCRIBING_GROUPS and _describes(self._before.dataset, span):
                yield "lost"
        if len(set(self._stands_for.values())) != len(self._stands_for):
            yield "uid"

    def _judge(self, span: Span, old: Span | None, creator: str) -> _Verdict:
        """Look at one element of the data set."""
        tag, content, element = span
        new_piece = Piece(self._after.dataset, element)
        old_piece = Piece(self._before.dataset, old.element) if old is not None else None
        seen: set[str] = set()
        if tag in _SPELLED_BY_US or (tag == _ENCRYPTED_ATTRIBUTES and self._expected.recoverable):
            # Checked apart, and written by us word by word: the reserved bytes are zeros there, too.
            found = set(self._look_at_sealed(new_piece)) if tag == _ENCRYPTED_ATTRIBUTES else set()
        else:
            found = set(self._look_at(new_piece, old_piece, creator, seen, is_top=True))
            has_reserved = new_piece.vr in _RESERVING_VRS and self._is_explicit and content
            if has_reserved and not tag & 0x10000 and isinstance(element, RawDataElement) and content[6:8] != b"\0\0":
                found.add("structure")
            if tag not in _PIXELS and tag not in self._retained and new_piece.vr == "SQ":
                # What stands between the elements of items is searched, too.
                found |= self._search_bytes(self._without_retained(content, new_piece), seen)
        return _Verdict(frozenset(found), frozenset(seen)) if found or seen else _GOOD

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
        self, new: Piece, old: Piece | None, creator: str, seen: set[str], *, is_top: bool = False
    ) -> Iterator[str]:
        """Compare and search an element of the data set or of an item."""
        yield from self._compare(new, old, creator, is_top=is_top)
        if new.vr == "SQ":
            yield from self._look_into(new, old, seen)
        elif new.tag not in _PIXELS and not self._is_retained(new):
            # A station's name may well hold another number that is known of it; both are meant to be read.
            is_pseudonym = new.tag in _PSEUDONYMOUS and new.texts == [self._expected.pseudonym]
            if not is_pseudonym:
                yield from self._search(new, seen)

    def _look_into(self, new: Piece, old: Piece | None, seen: set[str]) -> Iterator[str]:
        """Compare the items of two sequences, one by one; of content items some may have gone."""
        new_items, old_items = new.items, old.items if old is not None else []
        if not new.tag & 0x10000 and new.tag not in self._own_codes and any(map(is_foreign, new_items)):
            yield "value"
        if len(new_items) == len(old_items) or new.tag not in OF_CONTENT:
            if 0 < len(new_items) < len(old_items):
                yield "lost"
            for item, old_item in zip_longest(new_items, old_items[: len(new_items)]):
                yield from self._look_at_item(item, old_item, seen)
            return
        place = 0
        for item in new_items:
            kind = kind_of(item)
            found: set[str] | None = None
            for index in range(place, len(old_items)):
                if kind_of(old_items[index]) != kind:
                    continue
                stands_for, inside = dict(self._stands_for), set[str]()
                this = self._look_at_item(item, old_items[index], inside)
                if found is None or not this:
                    found = this
                    seen |= inside
                    place = index + 1
                if not this:
                    break
                self._stands_for = stands_for
            yield from self._look_at_item(item, None, seen) if found is None else found

    def _look_at_item(self, item: Dataset, old_item: Dataset | None, seen: set[str]) -> set[str]:
        """Compare an item with the one that it was."""
        short, long = self._words.short, self._words.long
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
            verdict = short.get(key) or long.get(key) if key else None
            if verdict is None:
                inside: set[str] = set()
                old_piece = Piece(old_item, other) if other is not None and old_item is not None else None
                found = frozenset(self._look_at(Piece(item, element), old_piece, creator, inside))
                verdict = _Verdict(found, frozenset(inside)) if found or inside else _GOOD
                if key:
                    self._words.remember(key, verdict, len(element.value or b""))
            all_found |= verdict.findings
            seen |= verdict.uids
        return all_found

    # ---- comparison

    def _compare(self, new: Piece, old: Piece | None, creator: str, *, is_top: bool) -> Iterator[str]:
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
            yield from self._compare_uids(old, new)
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

    def _compare_uids(self, old: Piece, new: Piece) -> Iterator[str]:
        if len(new.texts) > len(old.texts):
            yield "uid"
        for was, now in zip(old.texts, new.texts, strict=False):
            stays = self._keeps_uids or was in UID_dictionary or not was or self._is_retained(new)
            if stays or (now == was and self._earlier.is_ours and is_made_by_us(was)):
                if now != was:
                    yield "uid"
            elif now and (now == was or self._stands_for.setdefault(was, now) != now):
                yield "uid"

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
        if new.vr == "SQ" or new.tag in _PIXELS:
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
            for blob in filter(None, (raw, unpacked(raw))):
                if search.finds_in_blob(blob, anywhere=not is_private):
                    yield "identifier"
                text = blob.decode("latin-1")
                if days.stand_in(text) or days.stand_in(blob.decode("utf-16-le", "ignore")):
                    yield "date"
                if is_private and (days.are_counted_in_text(text) or days.are_counted_in_blob(blob)):
                    yield "date"
        elif is_private and raw:
            text = raw.decode("latin-1")
            if days.are_counted_in_text(text) if vr in ("DS", "IS") else days.are_counted_in_value(vr, raw):
                yield "date"
        if raw:
            yield from self._search_bytes(raw, seen)

    def _search_bytes(self, raw: bytes, seen: set[str]) -> set[str]:
        if raw.count(b".") > 1:
            seen.update(UID.findall(raw.decode("latin-1")))
        return {"identifier"} if self._words.search.finds_in_bytes(raw) else set()


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


def _describes(dataset: Dataset, span: Span) -> bool:
    """Tell whether a number describes the acquisition or the pixels; nothing in the standard asks to take one out."""
    if not span.tag & 0xFFFF or not dictionary_vr(span.tag):
        return False
    return Piece(dataset, span.element).vr in _NUMBER_VRS


def _is_enveloped(content: bytes) -> bool:
    """Tell whether CMS enveloped data fill an element, but for a byte that makes its length even."""
    if content[:1] != b"\x30" or len(content) < 2:
        return False
    size = content[1] & 0x7F if content[1] > 0x80 else 0
    length = int.from_bytes(content[2 : 2 + size], "big") if size else content[1]
    rest = content[2 + size + length :]
    begin = content[2 + size :]
    return len(begin) >= length and rest in (b"", b"\0") and begin.startswith(_ENVELOPED)
