"""Structured content: what becomes of each content item, by the concept that names it and the type of its value.

Content items say everything in one form: `concept name = value`. So the attribute that holds a value tells nothing of
what it means, and table E.3.4-1 of PS3.15 goes by the concept's code instead (Clean Structured Content Option, section
E.3.4). What the table does not list stays only in forms in which nobody can write: numbers with a unit, codes of
published schemes with the scheme's own words, references, coordinates; texts are cleaned as descriptors, names go.
"""

from __future__ import annotations

import enum
import re
import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from tasks.deidentify.codes import Code, is_published, renewed
from tasks.deidentify.standard import ContentItemRule, load_content_item_table
from tasks.dicom.elements import ITEM, ITEM_END, SEQUENCE_END, Element
from tasks.dicom.text import decode_ascii

STRUCTURED_VERSION = "structured 1"
"""Raised when other items stay, or others become other values."""

CONTENT = 0x0040A730
ANNOTATIONS = 0x0040B020
CONTENT_SEQUENCES = frozenset(
    {
        CONTENT,
        0x00400555,  # Acquisition Context Sequence
        0x00400612,  # Specimen Preparation Step Content Item Sequence, in the items of Specimen Preparation Sequence
        ANNOTATIONS,  # Waveform Annotation Sequence
        0x00400440,  # Protocol Context Sequence
        0x00400441,  # Content Item Modifier Sequence
    }
)
"""Sequences whose items are content items. The first four are the table's, the others hold the same."""

CONCEPT_NAME = 0x0040A043
CONCEPT_CODE = 0x0040A168
MEASURED_VALUE = 0x0040A300
UNITS = 0x004008EA
CODE_SEQUENCES = frozenset(
    {
        CONCEPT_NAME,
        CONCEPT_CODE,
        UNITS,
        0x0040A195,  # Modifier Code Sequence
        0x0040A301,  # Numeric Value Qualifier Code Sequence
    }
)
"""Sequences of codes inside content items."""

RELATIONSHIP_TYPE = 0x0040A010
VALUE_TYPE = 0x0040A040
DATE_TIME, DATE, TIME = 0x0040A120, 0x0040A121, 0x0040A122
PERSON_NAME = 0x0040A123
UID = 0x0040A124
TEXT_VALUE = 0x0040A160
NUMERIC_VALUE = 0x0040A30A
FLOATING_POINT_VALUE, RATIONAL_NUMERATOR = 0x0040A161, 0x0040A162
UNFORMATTED_TEXT = 0x00700006

CODE_VALUE, CODING_SCHEME, CODING_SCHEME_VERSION, CODE_MEANING = 0x00080100, 0x00080102, 0x00080103, 0x00080104
LONG_CODE_VALUE = 0x00080119
MAPPING_RESOURCE_NAME = 0x00080122
REWORDED = frozenset({CODE_MEANING, CODING_SCHEME_VERSION, MAPPING_RESOURCE_NAME})
"""What is cleaned of a code that does not say its scheme's words."""

_HOLDING: Mapping[int, str] = MappingProxyType(
    {
        DATE_TIME: "DATETIME",
        DATE: "DATE",
        TIME: "TIME",
        PERSON_NAME: "PNAME",
        UID: "UIDREF",
        TEXT_VALUE: "TEXT",
        UNFORMATTED_TEXT: "TEXT",
        CONCEPT_CODE: "CODE",
        NUMERIC_VALUE: "NUM",
        FLOATING_POINT_VALUE: "NUM",
        RATIONAL_NUMERATOR: "NUM",
        MEASURED_VALUE: "NUM",
    }
)
"""The value type that an attribute stands for where Value Type is left out (PS3.3 section 10.2)."""

_REFERENCES = frozenset({"COMPOSITE", "IMAGE", "WAVEFORM"})
_COORDINATES = frozenset({"SCOORD", "SCOORD3D", "TCOORD"})
_DATES = frozenset({"DATE", "DATETIME", "TIME"})
_UNNAMED = _REFERENCES | _COORDINATES | {"CONTAINER"}
"""Value types whose items may stand without a concept name (PS3.3 table C.17.3-1)."""

_VALUE_TYPES = _UNNAMED | _DATES | {"CODE", "NUM", "PNAME", "TEXT", "UIDREF"}
_RELATIONSHIPS = frozenset(
    {
        "CONTAINS",
        "HAS ACQ CONTEXT",
        "HAS CONCEPT MOD",
        "HAS OBS CONTEXT",
        "HAS PROPERTIES",
        "INFERRED FROM",
        "SELECTED FROM",
    }
)

_RETAIN_CHARACTERISTICS = "retain_patient_characteristics"
_FULL_DATES = "retain_longitudinal_full_dates"
_MODIFIED_DATES = "retain_longitudinal_modified_dates"
_CLEAN_DESCRIPTORS = "clean_descriptors"

_AGES = frozenset({("121033", "DCM"), ("30525-0", "LN"), ("397669002", "SCT")})
_OF_THE_DEVICE = frozenset({("113723", "DCM")})
"""Concepts of dates that a device's patients have in common: moved by each one's days, they would tell these days."""

_BIRTH = frozenset({("121031", "DCM"), ("21112-8", "LN"), ("184099003", "SCT")})
"""Concepts of when somebody was born, which no option keeps."""

_CHARACTERISTICS = _AGES | frozenset(
    {
        ("121032", "DCM"),  # subject sex
        ("46098-0", "LN"),  # sex
        ("29463-7", "LN"),  # body weight
        ("8302-2", "LN"),  # body height
        ("39156-5", "LN"),  # body mass index
        ("8277-6", "LN"),  # body surface area
        ("263495000", "SCT"),  # gender
        ("27113001", "SCT"),  # body weight
        ("50373000", "SCT"),  # body height
        ("60621009", "SCT"),  # body mass index
        ("301898006", "SCT"),  # body surface area
    }
)
"""Concepts that measure the patient, as attributes of group 0010 do: they stay if these do."""

_OLDEST_YEARS = 89
_YEARS: Mapping[str, float] = MappingProxyType(
    {"a": 1, "mo": 1 / 12, "wk": 7 / 365.25, "d": 1 / 365.25, "h": 1 / 8766, "min": 1 / 525_960, "s": 1 / 31_557_600}
)
"""Units of time (UCUM) in years."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentItem:
    """What decides on a content item.

    Attributes
    ----------
    value_type
        Value Type (0040,A040), or the one that its only value stands for; empty if there is none.
    is_sound
        Whether nothing that decides is stated twice, value type and relationship are the standard's, and no value is of
        another type.
    concepts, codes, units
        The items of Concept Name, Concept Code and Measurement Units Code Sequence, the latter also of measured values.
    numbers
        Numeric Value (0040,A30A) and the same as a binary number, also of measured values; a fraction is NaN.
    """

    value_type: str
    is_sound: bool
    concepts: tuple[Code, ...]
    codes: tuple[Code, ...]
    units: tuple[Code, ...]
    numbers: tuple[str, ...]


class Treatment(enum.Enum):
    """What is done with a content item."""

    REMOVE = 0
    """Nothing of it stays."""
    CLEAN = 1
    """It stays: its text cleaned as a descriptor, its dates and UIDs replaced as everywhere."""
    KEEP = 2
    """It stays as it stands, for an option retains what it says."""
    DUMMY = 3
    """It stays, its value replaced by one that says nothing."""


# ---- reading


def read_item(data: bytes, elements: Sequence[Element], begin: int, depth: int) -> ContentItem:
    """Read what decides on a content item.

    Parameters
    ----------
    data, elements
        The whole stream and its elements.
    begin
        The index of the item's first element.
    depth
        The item's own: elements of less depth are not its own any more.
    """
    texts: dict[int, list[str]] = {}
    codes: dict[int, list[dict[int, list[str]]]] = {CONCEPT_NAME: [], CONCEPT_CODE: [], UNITS: []}
    numbers: list[str] = []
    path: list[int] = []
    for element in _own(elements, begin, depth):
        tag, level = element.tag, element.depth - depth
        if tag == ITEM:
            holder = _holder(path[: level + 1])
            if holder is not None:
                codes[holder].append({})
            continue
        if tag in (ITEM_END, SEQUENCE_END):
            continue
        del path[level:]
        path.append(tag)
        value = "" if element.vr == "SQ" else decode_ascii(data[element.value : element.end])
        if level == 0:
            texts.setdefault(tag, []).append(value)
        holder = _holder(path[:-1])
        if holder is not None and codes[holder]:
            codes[holder][-1].setdefault(tag, []).append(value)
        if path[:-1] in ([], [MEASURED_VALUE]):
            if tag == NUMERIC_VALUE:
                numbers += value.split("\\")
            elif tag in (FLOATING_POINT_VALUE, RATIONAL_NUMERATOR):
                numbers += _binary_numbers(data[element.value : element.end], tag)
    stated = texts.get(VALUE_TYPE)
    held = sorted({_HOLDING[tag] for tag in texts.keys() & _HOLDING.keys()})
    value_type = stated[0].upper() if stated else held[0] if len(held) == 1 else ""
    decisive = {VALUE_TYPE, RELATIONSHIP_TYPE} | CODE_SEQUENCES | _HOLDING.keys()
    return ContentItem(
        value_type=value_type,
        is_sound=(
            all(len(values) == 1 for tag, values in texts.items() if tag in decisive)
            and (value_type in _VALUE_TYPES or not (stated or held))
            and held in ([], [value_type])
            and texts.get(RELATIONSHIP_TYPE, ["CONTAINS"])[0].upper() in _RELATIONSHIPS
        ),
        concepts=tuple(map(_code, codes[CONCEPT_NAME])),
        codes=tuple(map(_code, codes[CONCEPT_CODE])),
        units=tuple(map(_code, codes[UNITS])),
        numbers=tuple(numbers),
    )


def read_code(data: bytes, elements: Sequence[Element], begin: int, depth: int) -> Code:
    """Read an item of a code sequence; parameters as of `read_item`."""
    texts: dict[int, list[str]] = {}
    for element in _own(elements, begin, depth):
        if element.depth == depth and element.vr != "SQ":
            texts.setdefault(element.tag, []).append(decode_ascii(data[element.value : element.end]))
    return _code(texts)


def _own(elements: Sequence[Element], begin: int, depth: int) -> Iterator[Element]:
    for index in range(begin, len(elements)):
        element = elements[index]
        if element.depth < depth:
            return
        yield element


def _holder(path: Sequence[int]) -> int | None:
    """Return which of the three code sequences that decide a path leads into."""
    if len(path) == 1 and path[0] in (CONCEPT_NAME, CONCEPT_CODE, UNITS):
        return path[0]
    return UNITS if list(path) == [MEASURED_VALUE, UNITS] else None


def _binary_numbers(value: bytes, tag: int) -> list[str]:
    """Write binary numbers in digits; those of a fraction say nothing without its denominator."""
    if tag == RATIONAL_NUMERATOR or len(value) % 8:
        return ["NaN"] if value else []
    return [f"{number:.6f}" for (number,) in struct.iter_unpack("<d", value)]


def _code(texts: Mapping[int, Sequence[str]]) -> Code:
    def stated(*tags: int) -> str:
        values = [value for tag in tags for value in texts.get(tag, ())]
        return "\\".join(values)

    return Code(
        value=stated(CODE_VALUE, LONG_CODE_VALUE),
        scheme=stated(CODING_SCHEME),
        meaning=stated(CODE_MEANING),
        version=stated(CODING_SCHEME_VERSION),
        resource=stated(MAPPING_RESOURCE_NAME),
    )


# ---- deciding


def judge(
    item: ContentItem,
    options: Collection[str],
    *,
    is_known: Callable[[str], bool] = lambda _: False,
    is_annotation: bool = False,
) -> Treatment:
    """Decide on a content item.

    Parameters
    ----------
    item
        As `read_item` gives it.
    options
        The names of the chosen options, such as `retain_uids`.
    is_known
        Tells whether a text is known of the patient.
    is_annotation
        Whether the item is one of Waveform Annotation Sequence, whose texts need no concept.
    """
    if not item.is_sound or len(item.concepts) > 1 or len(item.codes) > 1:
        return Treatment.REMOVE
    stated = (*item.concepts, *item.codes)
    if not all(is_published(code) for code in stated) or any(is_known(code.value) for code in stated):
        return Treatment.REMOVE
    if not item.concepts:
        if item.value_type in _UNNAMED:
            return Treatment.CLEAN
        cleans = is_annotation and item.value_type == "TEXT" and _CLEAN_DESCRIPTORS in options
        return Treatment.CLEAN if cleans else Treatment.REMOVE
    if not item.value_type:
        # An annotation whose concept says all; elsewhere it is a name for nothing.
        return Treatment.CLEAN if is_annotation else Treatment.REMOVE
    return _judge_by_concept(item, options)


def _judge_by_concept(item: ContentItem, options: Collection[str]) -> Treatment:
    concept = renewed(item.concepts[0])
    if concept in _BIRTH:
        return Treatment.REMOVE
    if concept in _CHARACTERISTICS and _RETAIN_CHARACTERISTICS not in options:
        return Treatment.REMOVE
    if concept in _OF_THE_DEVICE and _MODIFIED_DATES in options:
        return Treatment.DUMMY
    rows = load_content_item_table().by_concept.get(concept, ())
    for row in rows:
        if row.value_type == item.value_type:
            listed = judge_row(row, options)
            return listed if listed in (Treatment.REMOVE, Treatment.DUMMY) or _can_stay(item) else Treatment.REMOVE
    if rows and all(row.under(_CLEAN_DESCRIPTORS) is None for row in rows):
        # What identifies as one type of value does as another, too; a finding's text says nothing against its code.
        return Treatment.REMOVE
    stays = judge_type(item.value_type, options) is Treatment.CLEAN and _can_stay(item)
    return Treatment.CLEAN if stays else Treatment.REMOVE


def judge_row(row: ContentItemRule, options: Collection[str]) -> Treatment:
    """Say what a row of table E.3.4-1 asks for: options first, then the Basic Profile, whose X/D removes here."""
    codes = {code for option, code in row.options if option in options}
    if "K" in codes:
        return Treatment.KEEP
    if "C" in codes:
        return Treatment.CLEAN
    return Treatment.DUMMY if row.basic == "D" else Treatment.REMOVE


def judge_type(value_type: str, options: Collection[str]) -> Treatment:
    """Say what becomes of items of a value type whose concept the table does not list."""
    if value_type == "TEXT":
        stays = _CLEAN_DESCRIPTORS in options
    elif value_type in _DATES:
        stays = _FULL_DATES in options or _MODIFIED_DATES in options
    else:
        stays = value_type in _UNNAMED or value_type in ("CODE", "NUM", "UIDREF")
    return Treatment.CLEAN if stays else Treatment.REMOVE


def _can_stay(item: ContentItem) -> bool:
    """Tell whether the value is of the kind that its type promises, and tells no age above 89."""
    if item.value_type == "CODE":
        return len(item.codes) == 1
    if item.value_type != "NUM":
        return True
    units = [unit for unit in item.units if unit.scheme == "UCUM" and is_published(unit)]
    if len(units) != len(item.units) or len(units) > 1:
        return False
    unit = units[0].value if units else ""
    is_age = renewed(item.concepts[0]) in _AGES
    if is_age and unit not in _YEARS:
        return False
    if not (is_age or unit == "a"):
        return bool(units) or not item.numbers
    return all(
        _NUMBER.fullmatch(number) and float(number) * _YEARS[unit] < _OLDEST_YEARS + 1 for number in item.numbers
    )


_NUMBER = re.compile(r"[+-]?[0-9]{1,12}(\.[0-9]{0,12})?", re.ASCII)
