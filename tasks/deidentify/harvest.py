"""Collect from a file everything that points at its patient, so that it can be looked for in all files of the patient.

What a table of attributes cannot know stands in one file of a patient and leaks in another: a name spelled in full in
the first visit, an old ID, the ward. So every file is read before any is written, names are taken apart, and what was
found goes to the rewriter and to the audit of each of the patient's files.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass

from pydicom.datadict import DicomDictionary  # type: ignore[attr-defined] # documented, yet not re-exported by name

from tasks.deidentify.descriptors import load_vocabulary
from tasks.deidentify.standard import load_confidentiality_table
from tasks.dicom.elements import ITEM, Element, WalkError, walk
from tasks.dicom.normalise import open_data_set
from tasks.dicom.syntax import SyntaxRefusalError
from tasks.dicom.text import SPECIFIC_CHARACTER_SET, decode_ascii, decode_text

HARVEST_VERSION = "harvest 1"
"""Raised when other things are collected, so that what was collected before is collected again."""

SHORTEST, SHORTEST_NUMBER = 2, 3
"""Characters below which a text, or one of digits alone, is not looked for: it stands in every value by chance."""

LONGEST = 128
"""Characters above which a text is prose, which is never kept and in which nobody's number stands alone."""

_TEXT_VRS = frozenset({"AE", "LO", "LT", "PN", "SH", "ST", "UC", "UT"})

_NOBODY_TEXT = (
    "anonymous anonymised anonymized de-identified deidentified none unknown unspecified other phantom test volunteer "
    "dti dwi fmri mri qa yes no "
    "canon elscint esaote fujifilm ge general electric hitachi healthcare medical mediso neusoft paravision philips "
    "samsung shimadzu siemens systems toshiba uih united imaging"
)
_NOBODY = frozenset(_NOBODY_TEXT.split())
"""What stands where a name or a place should and means nobody: phantoms, makers, words for having none."""

_MACHINES_AND_PLACES = frozenset(
    {
        0x00080080,  # Institution Name
        0x00081010,  # Station Name
        0x00081040,  # Institutional Department Name
        0x00400010,  # Scheduled Station Name
        0x00400011,  # Scheduled Procedure Step Location
        0x00400242,  # Performed Station Name
        0x00400243,  # Performed Location
    }
)
"""Attributes, beside AE titles and all of group 0018, whose values may be nothing but words of imaging."""

_SEPARATORS = re.compile(r"[\^=\s,;]+")
_DAY = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})")
_PIXELS = 0x7FE0


@dataclass(frozen=True, slots=True, kw_only=True)
class Harvest:
    """What one file, or all files of one patient, hold of the patient. Identifies: stays in `identified/`.

    Attributes
    ----------
    identifiers
        Names, whole and in parts, and IDs, numbers, places and addresses.
    dates
        Days as YYYYMMDD.
    """

    identifiers: frozenset[str] = frozenset()
    dates: frozenset[str] = frozenset()

    def __or__(self, other: Harvest) -> Harvest:
        return Harvest(identifiers=self.identifiers | other.identifiers, dates=self.dates | other.dates)


@functools.cache
def identifying_tags() -> frozenset[int]:
    """Return the text attributes that table E.1-1 of PS3.15 takes out because they point at somebody or something.

    Not among them are what Clean Descriptors speaks of, which is prose, and what describes a patient (sex, ethnic
    group), which is common to many.
    """
    found = set()
    for tag, rule in load_confidentiality_table().by_tag.items():
        entry = DicomDictionary.get(tag)
        if entry is None or entry[0] not in _TEXT_VRS:
            continue
        describes = rule.under("clean_descriptors") or rule.under("retain_patient_characteristics")
        if not describes:
            found.add(tag)
    return frozenset(found)


def harvest(source: bytes) -> Harvest:
    """Collect the identifiers of one file: of the data set and every item, of private elements by their VR.

    Parameters
    ----------
    source
        The whole file. Of one that cannot be read to its end, what stands before the fault is collected.
    """
    identifiers: set[str] = set()
    dates: set[str] = set()
    try:
        data, start, _ = open_data_set(source)
    except SyntaxRefusalError:
        return Harvest()
    tags = identifying_tags()
    character_sets = [(0, "")]
    try:
        for element in walk(data, start.offset, explicit=start.explicit):
            tag, vr = element.tag, element.vr
            if tag >> 16 == _PIXELS and element.depth == 0:
                break
            if tag == SPECIFIC_CHARACTER_SET:
                character_sets = [entry for entry in character_sets if entry[0] < element.depth]
                character_sets.append((element.depth, _value(data, element).decode("ascii", "replace").strip(" \0")))
            elif tag == ITEM:
                character_sets = [entry for entry in character_sets if entry[0] <= element.depth]
            elif vr in ("DA", "DT"):
                dates |= {"".join(day) for day in _DAY.findall(decode_ascii(_value(data, element)))}
            elif vr == "PN" or (tag in tags and vr != "SQ"):
                character_set = next(
                    (stated for depth, stated in reversed(character_sets) if depth <= element.depth), ""
                )
                known = DicomDictionary.get(tag)
                is_name = vr == "PN" or (known is not None and known[0] == "PN")
                identifiers |= _texts(_value(data, element), character_set, tag, is_name=is_name)
    except WalkError:
        pass
    return Harvest(identifiers=frozenset(identifiers), dates=frozenset(dates))


def _value(data: bytes, element: Element) -> bytes:
    return data[element.value : element.end]


@functools.lru_cache(maxsize=8192)
def _texts(value: bytes, character_set: str, tag: int, *, is_name: bool) -> frozenset[str]:
    """Return what is looked for of one value."""
    found: set[str] = set()
    for text in decode_text(value, character_set).split("\\"):
        found |= name_parts(text) if is_name else whole(text, is_patients=not _is_of_a_machine(tag))
    return frozenset(found)


def _is_of_a_machine(tag: int) -> bool:
    entry = DicomDictionary.get(tag)
    return tag >> 16 == 0x0018 or tag in _MACHINES_AND_PLACES or (entry is not None and entry[0] == "AE")


def name_parts(name: str) -> set[str]:
    """Take a person's name apart: the whole without its separators, each group, and each word of each group.

    Source: PS3.5 section 6.2.1 (three groups of five components).
    """
    groups = [" ".join(_SEPARATORS.split(group)).strip() for group in name.split("=")]
    return _wanted([*groups, *(word for group in groups for word in group.split(" "))])


def whole(text: str, *, is_patients: bool = True) -> set[str]:
    """Return a text to look for, unless it points at nobody."""
    text = text.strip()
    words = [word for word in re.split(r"[\W_]+", text) if word]
    allows = load_vocabulary().allows
    if not is_patients and all(word.casefold() in _NOBODY or allows(word) for word in words):
        # A station called PRISMA or MR1 points at nobody more than the model's name does.
        return set()
    return _wanted([text])


def _wanted(texts: Iterable[str]) -> set[str]:
    return {text for text in texts if _points_at_somebody(text)}


def _points_at_somebody(text: str) -> bool:
    """Leave out what is too short, too long, or stands for nobody."""
    shortest = 1 if not text.isascii() else SHORTEST_NUMBER if text.isdigit() else SHORTEST
    return shortest <= len(text) <= LONGEST and text.casefold() not in _NOBODY
