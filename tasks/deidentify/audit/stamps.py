"""Check what an export says of its de-identification, with what an earlier one left in its source."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tasks.deidentify.audit.read import Piece, Reading, Span
from tasks.deidentify.audit.words import is_cleaned

METHODS = {
    "113100": "Basic Application Confidentiality Profile",
    "113101": "Clean Pixel Data Option",
    "113102": "Clean Recognizable Visual Features Option",
    "113103": "Clean Graphics Option",
    "113104": "Clean Structured Content Option",
    "113105": "Clean Descriptors Option",
    "113106": "Retain Longitudinal Temporal Information Full Dates Option",
    "113107": "Retain Longitudinal Temporal Information Modified Dates Option",
    "113108": "Retain Patient Characteristics Option",
    "113109": "Retain Device Identity Option",
    "113110": "Retain UIDs Option",
    "113111": "Retain Safe Private Option",
    "113112": "Retain Institution Identity Option",
}
"""Codes of CID 7050 (PS3.16) with the meanings that may stand beside them."""

IDENTITY_REMOVED, METHOD, METHOD_CODES, TEMPORAL = 0x00120062, 0x00120063, 0x00120064, 0x00280303
STAMPS = frozenset({IDENTITY_REMOVED, METHOD, METHOD_CODES, TEMPORAL})
"""What says that, and how, a file was de-identified: checked word by word instead of searched."""

_LONGEST_MEANING = 64
_OWN_METHOD = re.compile(r"scanward [0-9]+(\.[0-9]+)*")
_OWN_UID = re.compile(r"2\.25\.([1-9][0-9]{0,38})")


class Earlier(NamedTuple):
    """What a source says of an earlier de-identification.

    Attributes
    ----------
    codes
        Of CID 7050, in their order.
    methods
        As they stand.
    told_of_dates
        (0028,0303), or empty.
    """

    codes: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    told_of_dates: str = ""

    @property
    def is_ours(self) -> bool:
        """Whether this software did it."""
        return any(map(_OWN_METHOD.fullmatch, self.methods))


def read_earlier(source: Reading, spans: dict[int, Span]) -> Earlier:
    """Read what was done to a source before; nothing if it does not say that identity was removed."""

    def texts(tag: int) -> list[str]:
        return Piece(source, spans[tag].element).texts if tag in spans else [""]

    if IDENTITY_REMOVED not in spans or "\\".join(texts(IDENTITY_REMOVED)).upper() != "YES":
        return Earlier()
    items = Piece(source, spans[METHOD_CODES].element).items if METHOD_CODES in spans else []
    codes = [str(item.get("CodeValue", "")) for item in items]
    return Earlier(
        codes=tuple(code for code in codes if code in METHODS),
        methods=tuple(text for text in texts(METHOD) if text),
        told_of_dates="\\".join(texts(TEMPORAL)).upper(),
    )


def stamp_findings(
    export: Reading, spans: dict[int, Span], codes: Sequence[str], told_of_dates: str, earlier: Earlier
) -> Iterator[str]:
    """Check all four stamps.

    Parameters
    ----------
    codes
        What this export's profile does, in order; earlier ones stand in front.
    told_of_dates
        What has to stand in (0028,0303).
    """
    pieces = {tag: Piece(export, spans[tag].element) for tag in STAMPS if tag in spans}
    if len(pieces) < len(STAMPS):
        yield "stamps"
        return
    if pieces[IDENTITY_REMOVED].texts != ["YES"] or pieces[TEMPORAL].texts != [told_of_dates]:
        yield "stamps"
    methods = pieces[METHOD].texts
    foreign = [text for text in methods if not _OWN_METHOD.fullmatch(text)]
    if len(foreign) == len(methods) or not is_cleaned("\\".join(earlier.methods), "\\".join(foreign)):
        yield "stamps"
    told = [
        tuple((int(element.tag), element.value) for element in item)
        for item in (pieces[METHOD_CODES].items if pieces[METHOD_CODES].vr == "SQ" else [])
    ]
    if told != [
        ((0x00080100, code), (0x00080102, "DCM"), (0x00080104, METHODS.get(code, "")[:_LONGEST_MEANING]))
        for code in dict.fromkeys((*earlier.codes, *codes))
    ]:
        yield "codes"


def is_made_by_us(uid: str) -> bool:
    """Tell whether a UID has the form of those that this software makes: a UUID of version 8 (RFC 9562) below 2.25."""
    match = _OWN_UID.fullmatch(uid)
    return match is not None and int(match[1]) >> 76 & 0xF == 8 and int(match[1]) >> 62 & 3 == 2
