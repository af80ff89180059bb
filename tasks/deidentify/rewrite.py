"""Rewrite one DICOM file's bytes: what the profile keeps is copied as it stands, what it names is replaced or left out.

Lengths of the sequences and items around a change are made right; pixel data are copied and never decoded. The file
meta information is made anew and the preamble is zeros (PS3.10 section 7.1), for both can hide anything.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType

from pydicom.datadict import DicomDictionary  # type: ignore[attr-defined] # documented, yet not re-exported by name

from tasks import __version__
from tasks.deidentify.ge import clean_protocol_block, clean_raw_data_header
from tasks.deidentify.identity import Identity, Subject, cap_age, shift_date, shift_date_time
from tasks.deidentify.private import PrivateAction, PrivateTable, load_private_table
from tasks.deidentify.profile import (
    STAMPED_TAGS,
    Action,
    Profile,
    Rules,
    character_set_verdict,
    keeps_private,
    sop_class_verdict,
)
from tasks.deidentify.siemens import clean_csa, clean_protocol
from tasks.dicom.elements import (
    ITEM,
    ITEM_END,
    LONG_LENGTH_VRS,
    SEQUENCE_END,
    UNDEFINED,
    Element,
    WalkError,
    walk,
)
from tasks.dicom.normalise import open_data_set
from tasks.dicom.syntax import SyntaxRefusalError
from tasks.dicom.text import decode_ascii

REFUSALS = {
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

_CHARACTER_SET = 0x00080005
_SOP_CLASS = 0x00080016
_SOP_INSTANCE = 0x00080018
_STUDY_INSTANCE = 0x0020000D
_SERIES_INSTANCE = 0x0020000E
_IMAGE_TYPE = 0x00080008
_MODALITY = 0x00080060
_CONVERSION_TYPE = 0x00080064
_BURNED_IN_ANNOTATION = 0x00280301
_JUDGED_BY = frozenset({_SOP_CLASS, _SOP_INSTANCE, _STUDY_INSTANCE, _SERIES_INSTANCE})
_JUDGED_BY |= {_IMAGE_TYPE, _MODALITY, _CONVERSION_TYPE, _BURNED_IN_ANNOTATION}

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

_LONGEST_TERM = 64
"""Bytes of one value of VR CS, for which the standard has 16 and scanners write more; no term of theirs is as long."""


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
    """

    content: bytes
    sop_instance_uid: str
    by_pydicom: str


def rewrite(source: bytes, *, profile: Profile, identity: Identity, subject: Subject) -> Rewritten:
    """De-identify one file.

    Parameters
    ----------
    source
        The whole file.
    profile
        What is kept, replaced and left out.
    identity, subject
        By what.

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
        elements = list(islice(walk(data, start.offset, explicit=start.explicit), MOST_ELEMENTS + 1))
    except WalkError as fault:
        raise RefusalError("truncated" if fault.reason == "truncated" else "malformed") from fault
    if len(elements) > MOST_ELEMENTS:
        raise RefusalError("malformed")
    private = load_private_table() if keeps_private(profile.options) else None
    job = _Job(
        data, elements, identity, subject, private, keeps_uids=profile.keeps_uids, dates=profile.temporal_information()
    )
    top = job.top_level_texts()
    verdict = job.character_set_verdict() or sop_class_verdict(
        top.get(_SOP_CLASS, ""),
        top.get(_IMAGE_TYPE, "").split("\\"),
        top.get(_MODALITY, ""),
        top.get(_CONVERSION_TYPE, ""),
        top.get(_BURNED_IN_ANNOTATION, ""),
        overlay_in_pixels=job.has_overlay_in_pixels(),
    )
    if verdict is not None:
        raise RefusalError(verdict)
    uids = [top.get(tag, "") for tag in (_SOP_INSTANCE, _STUDY_INSTANCE, _SERIES_INSTANCE)]
    if not all(uids) or (profile.keeps_uids and not all(map(_UID.fullmatch, uids))):
        raise RefusalError("uid-missing")
    body = job.data_set(profile.actions(top[_SOP_CLASS]), _stamps(profile, explicit=start.explicit))
    new_uid = top[_SOP_INSTANCE] if profile.keeps_uids else identity.new_uid(top[_SOP_INSTANCE])
    head = _file_meta(top[_SOP_CLASS], new_uid, start.transfer_syntax)
    return Rewritten(content=b"".join([head, *body]), sop_instance_uid=new_uid, by_pydicom=by_pydicom)


class _Job:
    """One pass over one file's elements."""

    def __init__(
        self,
        data: bytes,
        elements: list[Element],
        identity: Identity,
        subject: Subject,
        private: PrivateTable | None,
        *,
        keeps_uids: bool,
        dates: str,
    ) -> None:
        self._dates = dates
        self._private = private
        self._keeps_uids = keeps_uids
        self._data = data
        self._elements = elements
        self._identity = identity
        self._subject = subject

    def top_level_texts(self) -> dict[int, str]:
        """Return what says whether the file may be exported, in whatever VR it is written."""
        return {
            element.tag: decode_ascii(self._data[element.value : element.end])
            for element in self._elements
            if element.depth == 0 and element.tag in _JUDGED_BY and element.vr != "SQ"
        }

    def character_set_verdict(self) -> str | None:
        """Tell whether a character set is none of the standard's, in the data set or in any item: it is copied."""
        for element in self._elements:
            if element.tag == _CHARACTER_SET and element.vr != "SQ":
                values = decode_ascii(self._data[element.value : element.end]).split("\\")
                if (verdict := character_set_verdict(values)) is not None:
                    return verdict
        return None

    def has_overlay_in_pixels(self) -> bool:
        """Tell whether unused bits of the pixel data carry an overlay (PS3.5 section 8.1.2, retired)."""
        for element in self._elements:
            if element.tag >> 24 == 0x60 and element.tag & 0xFFFF in (0x0100, 0x0102):
                value = int.from_bytes(self._data[element.value : element.end], "little")
                if value > (1 if element.tag & 0xFFFF == 0x0100 else 0):
                    return True
        return False

    def data_set(self, rules: Rules, stamps: Sequence[tuple[int, bytes]]) -> list[bytes]:
        """Return the pieces of the rewritten data set, with the stamps put in at their places."""
        _, pieces = self._level(0, 0, rules, stamps)
        if pieces is None:
            raise AssertionError("stamps are always put in")
        return pieces

    def _level(
        self, index: int, depth: int, rules: Rules, stamps: Sequence[tuple[int, bytes]] = ()
    ) -> tuple[int, list[bytes] | None]:
        """Rewrite the elements of one data set or item from `index` on.

        Returns
        -------
        index, pieces
            Where the level ends, and its new bytes; None if they are the old ones.
        """
        data, elements = self._data, self._elements
        listed = rules.by_tag
        repertoires, keep = _REPERTOIRES, Action.KEEP
        pending = list(stamps)
        pieces: list[bytes] = []
        run = -1
        changed = bool(stamps)
        private = self._private if rules.keeps_private else None
        creators: dict[int, str] = {}
        count = len(elements)
        position = elements[index].start if index < count else len(data)
        while index < count:
            element = elements[index]
            if element.depth < depth:
                break
            tag = element.tag
            while pending and pending[0][0] < tag:
                if run >= 0:
                    pieces.append(data[run:position])
                    run = -1
                pieces.append(pending.pop(0)[1])
            cleaned = None
            if tag & 0x10000:
                action = Action.REMOVE
                if private is not None:
                    action, cleaned = self._private_action(element, private, creators)
            elif stamps and tag in STAMPED_TAGS:
                action = Action.REMOVE
            else:
                found = listed.get(tag)
                vr = element.vr
                action = rules.unlisted(tag, vr) if found is None else found
                if action == keep:
                    allowed = repertoires.get(vr)
                    if found is not None or vr == "UN":
                        if not self._is_of_its_vr(element):
                            action = Action.EMPTY
                    elif allowed is not None:
                        value = data[element.value : element.end]
                        if value.translate(None, allowed) or (vr == "CS" and not _holds_terms(value)):
                            action = Action.EMPTY
            if element.vr == "SQ":
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
            if action == Action.KEEP:
                if run < 0:
                    run = element.start
            else:
                changed = True
                if run >= 0:
                    pieces.append(data[run : element.start])
                    run = -1
                if replacement is not None:
                    pieces.append(replacement)
            position = end
            index = following
        if run >= 0:
            pieces.append(data[run:position])
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
        rule = private.rule(creators.get(group << 16 | number >> 8, ""), group, number & 0xFF)
        if rule is None:
            return Action.REMOVE, None
        if rule.action == PrivateAction.KEEP:
            return (Action.KEEP if rule.admits(value, element.vr or "UN") else Action.REMOVE), None
        if rule.action == PrivateAction.UID and self._keeps_uids:
            return (Action.REMOVE if value.translate(None, _REPERTOIRES["UI"]) else Action.KEEP), None
        if rule.action == PrivateAction.DATE and self._dates != "MODIFIED":
            kept = self._dates == "UNMODIFIED" and not value.translate(None, _REPERTOIRES["DT"])
            return (Action.KEEP if kept else Action.REMOVE), None
        cleaner = _CLEANERS.get(rule.action)
        if cleaner is None:
            return _LIKE_STANDARD_ONES[rule.action], None
        cleaned = cleaner(value)
        return (Action.REMOVE, None) if cleaned is None else (Action.DUMMY, _pad(cleaned, b"\0"))

    def _is_of_its_vr(self, element: Element) -> bool:
        """Tell whether what the table keeps by tag, or what is written as UN, can be what the dictionary says it is."""
        entry = DicomDictionary.get(element.tag)
        vr = entry[0] if entry is not None and element.vr == "UN" else element.vr
        if entry is not None and vr not in entry[0]:
            return False
        value = self._data[element.value : element.end]
        return not value.translate(None, _REPERTOIRES.get(vr, value)) and (vr != "CS" or _holds_terms(value))

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
            index, content = self._level(index + 1, sequence.depth + 1, rules)
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
        if action == Action.UID:
            return self._new_uids(value)
        if action == Action.DATE:
            shift = shift_date_time if element.vr == "DT" else shift_date
            moved = [shift(part, self._subject.shift_days) or b"" for part in value.split(b"\\")]
            return _pad(b"\\".join(moved), b" ")
        if action == Action.AGE:
            return _pad(b"\\".join(cap_age(part) for part in value.split(b"\\")), b" ")
        return self._dummy(element, value)

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


_DUMMY_TEXTS = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
_DUMMIES = {"DA": b"19000101", "DT": b"19000101000000", "TM": b"000000", "IS": b"0 ", "DS": b"0 ", "AS": b"000Y"}
_BLANK_IS_EMPTY = _DUMMY_TEXTS | _DUMMIES.keys() | {"UI"}


def _holds_terms(value: bytes) -> bool:
    return len(value) <= _LONGEST_TERM or max(map(len, value.split(b"\\"))) <= _LONGEST_TERM


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


def _stamps(profile: Profile, *, explicit: bool) -> list[tuple[int, bytes]]:
    """Write what says that, and how, the file was de-identified (PS3.15 section E.1.1, PS3.3 section C.7.1.1)."""
    items = b""
    for code, meaning in profile.codes():
        item = b"".join(
            _element(tag, vr, text.encode("ascii"), explicit=explicit)
            for tag, vr, text in (
                (0x00080100, b"SH", code),
                (0x00080102, b"SH", "DCM"),
                (0x00080104, b"LO", meaning[:64]),
            )
        )
        items += b"\xfe\xff\x00\xe0" + struct.pack("<L", len(item)) + item
    method = f"scanward {__version__}"
    return [
        (0x00120062, _element(0x00120062, b"CS", b"YES", explicit=explicit)),
        (0x00120063, _element(0x00120063, b"LO", method.encode("ascii"), explicit=explicit)),
        (0x00120064, _element(0x00120064, b"SQ", items, explicit=explicit)),
        (0x00280303, _element(0x00280303, b"CS", profile.temporal_information().encode("ascii"), explicit=explicit)),
    ]


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
