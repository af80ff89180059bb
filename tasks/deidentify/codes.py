"""Codes of published schemes: whether a code is one, and whether its meaning is the scheme's own words.

A code sequence is kept because its codes come from lists that anybody can look up. Nothing keeps a person from typing
a name there, so each code is held against such a list, or against the form of its scheme's codes.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from tasks.deidentify.standard import load_content_item_table


class Code(NamedTuple):
    """A code as its item states it: what is missing is empty, what is stated twice is both, and so no scheme's."""

    value: str
    scheme: str
    meaning: str
    version: str = ""
    resource: str = ""


def is_published(code: Code) -> bool:
    """Tell whether a code is one of a published scheme, as far as its form and its check digit tell."""
    if not code.value:
        return False
    if (code.value, code.scheme) in _meanings():
        return True
    form = _FORMS.get(code.scheme)
    return form is not None and form(code.value)


def says_the_schemes_words(code: Code) -> bool:
    """Tell whether a code's meaning is the one that the standard has for it (PS3.16 annex D and its context groups).

    A version of the scheme has to be a number of few digits, for a date could be anybody's; and the resource that its
    context group is from has to bear the standard's name (PS3.3 section 8.4).
    """
    if code.version and _VERSION.fullmatch(code.version) is None:
        return False
    if code.resource.casefold() not in _RESOURCES:
        return False
    return code.meaning.casefold() in _meanings().get((code.value, code.scheme), ())


def renewed(code: Code) -> tuple[str, str]:
    """Return value and scheme of a code, of SNOMED's old ones those of the concept identifier that took their place."""
    identifier = _identifiers().get(code.value) if code.scheme in _OLD_SNOMED else None
    return (code.value, code.scheme) if identifier is None else (identifier, "SCT")


@functools.cache
def codes_digest() -> str:
    """Return SHA-256 over the codes that are known, with their meanings."""
    hasher = hashlib.sha256()
    for code, meanings in sorted(_meanings().items()):
        hasher.update(f"{code} {sorted(meanings)}\n".encode())
    return hasher.hexdigest()


@functools.cache
def _meanings() -> Mapping[tuple[str, str], Collection[str]]:
    # pydicom carries the codes of PS3.16 with their meanings; it offers them by name only.
    from pydicom.sr import _concepts_dict  # noqa: PLC0415 - takes a while, and few files have any codes

    concepts: Any = _concepts_dict.concepts
    found: dict[tuple[str, str], set[str]] = {}
    for scheme, names in concepts.items():
        for codes in names.values():
            for value, (meaning, *_) in codes.items():
                if value:
                    found.setdefault((value, scheme), set()).add(meaning.casefold())
    for rule in load_content_item_table().rules:
        found.setdefault((rule.code, rule.scheme), set()).add(rule.meaning.casefold())
    for value, identifier in _identifiers().items():
        for scheme in _OLD_SNOMED:
            found.setdefault((value, scheme), set()).update(found.get((identifier, "SCT"), ()))
    return found


@functools.cache
def _identifiers() -> Mapping[str, str]:
    """Return SNOMED's concept identifiers by the codes that stood for the same before."""
    from pydicom.sr import _snomed_dict  # noqa: PLC0415 - as above

    codes: Mapping[str, str] = _snomed_dict.mapping["SRT"]
    return codes


_OLD_SNOMED = ("99SDM", "SNM3", "SRT")
"""Designators under which SNOMED's codes were written before its concept identifiers (PS3.16 section 8.1)."""

_RESOURCES = frozenset({"", "dicom content mapping resource", "snomed dicom microglossary"})

_VERSION = re.compile(r"[0-9]{1,2}(?:\.[0-9]{1,4}){0,2}", re.ASCII)


def _like(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern, re.ASCII)
    return lambda value: compiled.fullmatch(value) is not None


_SNOMED = re.compile(r"[1-9][0-9]{2,15}[01]0[0-9]", re.ASCII)
_LOINC = re.compile(r"([1-9][0-9]{0,5})-([0-9])", re.ASCII)
_DIHEDRAL = (
    "0123456789",
    "1234067895",
    "2340178956",
    "3401289567",
    "4012395678",
    "5987604321",
    "6598710432",
    "7659821043",
    "8765932104",
    "9876543210",
)
_PERMUTED = (
    "0123456789",
    "1576283094",
    "5803796142",
    "8916043527",
    "9453126870",
    "4286573901",
    "2793806415",
    "7046913258",
)


def _is_snomed(value: str) -> bool:
    """Tell whether digits are an identifier of a SNOMED CT concept: partition 00 or 10, and Verhoeff's check digit."""
    if _SNOMED.fullmatch(value) is None:
        return False
    check = 0
    for place, digit in enumerate(reversed(value)):
        check = int(_DIHEDRAL[check][int(_PERMUTED[place % 8][int(digit)])])
    return check == 0


def _is_loinc(value: str) -> bool:
    """Tell whether a text is a LOINC number with its check digit, modulo 10."""
    match = _LOINC.fullmatch(value)
    if match is None:
        return False
    total = 0
    for place, digit in enumerate(reversed(match[1])):
        doubled = int(digit) * (2 - place % 2)
        total += doubled // 10 + doubled % 10
    return (total + int(match[2])) % 10 == 0


_SHORT = "m|g|s|Hz|N|Pa|J|W|A|V|F|S|Wb|C|T|H|Bq|Gy|Sv|Ci|l|L|t|u|eV|R|B|U|eq"
_METRIC = rf"{_SHORT}|rad|K|cd|mol|sr|Ohm|Cel|lm|lx|bar|kat|osm|m\[Hg\]|m\[H2O\]|\[iU\]|\[IU\]"
_PLAIN = (
    r"h|min|d|wk|mo|a|deg|%|\[in_i\]|\[ft_i\]|\[lb_av\]|\[degF\]|\[hnsf'U\]|\[arb'U\]|\[pH\]"
    r"|\[ppm\]|\[ppth\]|\[ppb\]|ppm"
)
# Only metric units take a prefix (UCUM section 4), and a capital one only short units: Emin, Grad and Mosm are names.
_UNIT = rf"(?:{_PLAIN}|(?:da|[khdcmunpfazy])?(?:{_METRIC})|[YZEPTGM](?:{_SHORT}))"
_PART = rf"(?:[0-9]{{1,3}}|10[*^]?-?[0-9]{{1,2}}|{_UNIT}-?[0-9]?)"
_FORMS: Mapping[str, Callable[[str], bool]] = MappingProxyType(
    {
        "DCM": _like(r"1[0-3][0-9]{4}"),
        "FMA": _like(r"[0-9]{4,6}"),
        "LN": _is_loinc,
        "NCIt": _like(r"C[0-9]{4,6}"),
        "RADLEX": _like(r"RID[0-9]{1,5}"),
        "SCT": _is_snomed,
        **dict.fromkeys(_OLD_SNOMED, _like(r"[A-Z][0-9A-F]?-[0-9A-F]{4,5}")),
        "UCUM": _like(rf"/?{_PART}(?:[./]{_PART}){{0,4}}"),
        "UMLS": _like(r"C[0-9]{7}"),
    }
)
"""How codes look in the schemes whose lists are not at hand whole (PS3.16 section 8); diagnoses' own are left out."""
