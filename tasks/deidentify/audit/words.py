"""Tell whether a text is a cleaned form of another: its words in their order, X for others, plain separators."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

_PLAIN = re.compile(r"[0-9A-Za-z _\-.+/()\[\]:,;#*=<>^&%\\]*")
_TOKEN = re.compile(r"(?:[0-9A-Za-z]|[^\x00-\x7f]|(?<=[0-9])\.(?=[0-9]))+")
_MASK = "X"
_SPELLING = {0x2010: "-", 0x2011: "-", 0x2012: "-", 0x2013: "-", 0x2014: "-", 0x2212: "-"}
_SPELLING |= {0x00D7: "x", 0x03BC: "u", 0x00B0: " "}
"""Dashes and minus, multiplication sign, mu, degree sign."""

_LONG_NUMBER = re.compile(r"[0-9]{6}")

DESCRIPTORS = frozenset(
    {
        0x00081030,  # Study Description
        0x0008103E,  # Series Description
        0x00081080,  # Admitting Diagnoses Description
        0x00082111,  # Derivation Description
        0x00102180,  # Occupation
        0x001021B0,  # Additional Patient History
        0x00104000,  # Patient Comments
        0x00181030,  # Protocol Name
        0x00184000,  # Acquisition Comments
        0x00204000,  # Image Comments
        0x00321060,  # Requested Procedure Description
        0x00324000,  # Study Comments
        0x00380500,  # Patient State
        0x00400007,  # Scheduled Procedure Step Description
        0x00400254,  # Performed Procedure Step Description
        0x00400280,  # Comments on the Performed Procedure Step
        0x00401400,  # Requested Procedure Comments
        0x00402400,  # Imaging Service Request Comments
        0x00420010,  # Document Title
    }
)
"""Attributes into which people type: where Clean Descriptors is promised none may stand as it was typed."""


def plain(text: str) -> str:
    """Spell a text in ASCII as far as that goes: letters without their accents, plain signs for typographic ones."""
    if text.isascii():
        return text
    parts = unicodedata.normalize("NFKD", text.translate(_SPELLING)).translate(_SPELLING)
    return "".join(part for part in parts if not unicodedata.combining(part))


def tokens_of(text: str) -> list[str]:
    """Take a text apart into runs of letters and digits, in lower case; a decimal's point belongs to its number."""
    return _TOKEN.findall(plain(text).casefold())


@lru_cache(maxsize=4096)
def is_cleaned(was: str, now: str) -> bool:
    """Tell whether a text is nothing but words of another in their order, masks and plain separators.

    Parameters
    ----------
    was, now
        All values of the attribute, divided by backslashes.
    """
    if not _PLAIN.fullmatch(now) or now.count("\\") > was.count("\\"):
        return False
    rest = iter(tokens_of(was))
    return all(token == _MASK or token.casefold() in rest for token in _TOKEN.findall(now))


def are_masked(was: Sequence[str], now: Sequence[str]) -> bool:
    """Tell whether values are those of the source at their places, but for some that are masked whole."""
    return len(was) == len(now) and all(new in (old, _MASK) for old, new in zip(was, now, strict=True))


@lru_cache(maxsize=4096)
def is_described(was: str, now: str) -> bool:
    """Tell the same, and that no number is as long as those of persons, orders and telephones are."""
    return is_cleaned(was, now) and not _LONG_NUMBER.search(now)
