"""Content items leave as table E.3.4-1 of PS3.15 says of their concepts; what it does not list cannot hold a name.

What has to become of a row is worked out here from the table's codes alone; pydicom reads the exports, and the audit
has nothing to say of any of them.
"""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID

import tasks.deidentify
from tests.deidentify.content import (
    ACQUISITION_CONTEXT,
    ANNOTATIONS,
    CHARACTERISTICS,
    CLEANED_TEXT,
    CLOCK,
    CONCEPT_CODE,
    CONCEPT_NAME,
    CONTENT,
    DAY,
    DESCRIPTORS,
    FINDING,
    FREE_TEXT,
    FULL,
    IDENTITY,
    LENGTH,
    LIVER,
    MEASURED,
    MODIFIED,
    MOVED_DAY,
    PERSON,
    REFERENCED,
    STRUCTURED,
    UNIT,
    UNITS,
    YEARS,
    Code,
    alarms,
    code,
    exported,
    in_form,
    item,
    number_of,
    picture,
    proved,
    read,
    reference,
    value_of,
    written,
)
from tests.deidentify.images import nested, number, text
from tests.dicom.encoder import Leaf, Node

Row = dict[str, Any]

TABLE = json.loads((Path(tasks.deidentify.__file__).parent / "data" / "ps315_e3_4_1.json").read_text("utf-8"))
ROWS: list[Row] = TABLE["content_items"]
DEVICE, INSTITUTION, UIDS = "retain_device_identity", "retain_institution_identity", "retain_uids"
OPTIONS = (UIDS, DEVICE, INSTITUTION, CHARACTERISTICS, FULL, MODIFIED, DESCRIPTORS)

CALIBRATION = "113723"
"""Calibration DateTime: moved for each patient by their own days, a device's date would tell these days, so it is a
dummy where the table says C. In no other row is the rewriter stricter than the table."""

BEHIND = {"CODE": (CONCEPT_CODE, 0x00080100), "NUM": (MEASURED, 0x0040A30A)}
"""Where the value of a type stands that is not directly in its item."""
BEHIND |= dict.fromkeys(("COMPOSITE", "IMAGE", "WAVEFORM"), (0x00081199, 0x00081155))
DIRECTLY = {"TEXT": 0x0040A160, "UIDREF": 0x0040A124, "PNAME": 0x0040A123, "CONTAINER": 0x0040A050}
DIRECTLY |= {"DATE": 0x0040A121, "DATETIME": 0x0040A120, "TIME": 0x0040A122}

KEPT = {
    "CODE": LIVER[0],
    "COMPOSITE": REFERENCED,
    "CONTAINER": "SEPARATE",
    "DATE": DAY,
    "DATETIME": DAY + CLOCK,
    "IMAGE": REFERENCED,
    "NUM": "45",
    "PNAME": PERSON,
    "TEXT": FREE_TEXT,
    "TIME": CLOCK,
    "UIDREF": REFERENCED,
    "WAVEFORM": REFERENCED,
}
CLEANED = {"TEXT": CLEANED_TEXT, "DATE": MOVED_DAY, "DATETIME": MOVED_DAY + CLOCK, "TIME": CLOCK}
NEW_UID = IDENTITY.new_uid(REFERENCED)
DUMMIES = {"TEXT": "REMOVED", "PNAME": "REMOVED", "DATE": "19000101", "DATETIME": "19000101000000", "TIME": "000000"}
DUMMIES |= dict.fromkeys(("COMPOSITE", "IMAGE", "WAVEFORM", "UIDREF"), NEW_UID)


def becomes(row: Row, options: Collection[str]) -> str | None:
    """Say what has to stand in place of a row's value; None where its item has to go."""
    codes = {given for option, given in row["options"].items() if option in options}
    if "K" in codes:
        return KEPT[row["value_type"]]
    if "C" in codes and not (row["code"] == CALIBRATION and MODIFIED in options):
        return CLEANED[row["value_type"]]
    return DUMMIES[row["value_type"]] if "C" in codes or row["basic"] == "D" else None


def value_in(content: Dataset) -> str:
    """Read a content item's value."""
    value_type = str(content.ValueType)
    if value_type in BEHIND:
        sequence, tag = BEHIND[value_type]
        (inside,) = content[sequence].value
        return str(inside[tag].value)
    return str(content[DIRECTLY[value_type]].value)


def told(items: Collection[Dataset]) -> list[tuple[str, ...]]:
    """List of content items: concept, with its meaning, value type and value."""
    return [
        (name.CodeValue, name.CodingSchemeDesignator, name.CodeMeaning, one.ValueType, value_in(one))
        for one in items
        for name in one.ConceptNameCodeSequence
    ]


def concept(row: Row) -> Code:
    return row["code"], row["scheme"], row["meaning"]


def check_table(options: Collection[str], sequence: int, *, explicit: bool) -> None:
    source = picture(nested(sequence, *(item(row["value_type"], concept(row)) for row in ROWS)), explicit=explicit)
    expected = [
        (*concept(row), row["value_type"], value) for row in ROWS if (value := becomes(row, options)) is not None
    ]
    assert told(proved(source, [STRUCTURED, *options])[sequence].value) == expected


# ---- the table


def test_the_table_is_the_whole_one() -> None:
    assert len(ROWS) == 214
    assert set(TABLE["about"]["options"]) == set(OPTIONS)
    assert {row["value_type"] for row in ROWS} <= KEPT.keys()
    assert UID(NEW_UID).is_valid
    assert NEW_UID != REFERENCED


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("sequence", [ACQUISITION_CONTEXT, CONTENT])
@pytest.mark.parametrize("option", [None, *OPTIONS])
def test_every_row_says_what_becomes_of_its_items(option: str | None, sequence: int, explicit: bool) -> None:
    check_table([option] if option else [], sequence, explicit=explicit)


COMBINED = [
    chosen
    for count in range(2, len(OPTIONS) + 1)
    for chosen in itertools.combinations(OPTIONS, count)
    if not {FULL, MODIFIED} <= set(chosen)
]


@pytest.mark.parametrize("options", COMBINED[::13])
def test_options_add_up(options: tuple[str, ...]) -> None:
    check_table(options, CONTENT, explicit=True)


@pytest.mark.long
@pytest.mark.parametrize("sequence", [ACQUISITION_CONTEXT, CONTENT])
@pytest.mark.parametrize("options", COMBINED)
def test_all_options_add_up(options: tuple[str, ...], sequence: int) -> None:
    check_table(options, sequence, explicit=True)


# ---- single items

ALL = (STRUCTURED, DESCRIPTORS, MODIFIED, CHARACTERISTICS, UIDS, DEVICE, INSTITUTION)
"""As much as can be retained: what goes under these goes under all."""

LIKE_THE_TABLES = (0x00400440, CONTENT, ACQUISITION_CONTEXT)


def left(content: tuple[Node, ...], options: Collection[str], sequence: int = CONTENT) -> Dataset | None:
    """Return what is left of one content item, beside one that always stays."""
    witness = item("NUM", LENGTH, number_of("12", UNIT))
    found = proved(picture(nested(sequence, content, witness)), options)[sequence].value
    assert str(found[-1].MeasuredValueSequence[0].NumericValue) == "12"
    assert len(found) <= 2
    return found[0] if len(found) == 2 else None


def without(tag: int, content: tuple[Node, ...], *instead: Node) -> tuple[Node, ...]:
    kept = [node for node in content if node.tag != tag]
    return tuple(sorted([*kept, *instead], key=lambda node: node.tag))


@pytest.mark.parametrize("sequence", LIKE_THE_TABLES)
def test_a_text_that_the_table_does_not_list_stays_cleaned_and_only_so(sequence: int) -> None:
    content = item("TEXT", ("121110", "DCM", "Patient Presentation"))
    unlisted = item("TEXT", LIVER)
    for options in (ALL, (STRUCTURED, DESCRIPTORS)):
        for one in (content, unlisted):
            found = left(one, options, sequence)
            assert found is not None
            assert found.TextValue == CLEANED_TEXT
    assert left(unlisted, [option for option in ALL if option != DESCRIPTORS], sequence) is None


@pytest.mark.parametrize("name", [LIVER, FINDING, LENGTH, ("121106", "DCM", "Comment"), ("121110", "DCM", "x")])
def test_a_name_under_a_concept_that_is_none_of_a_person_goes(name: Code) -> None:
    assert left(item("PNAME", name), ALL) is None


def test_an_identifier_of_the_table_goes_in_every_type_of_value() -> None:
    """Placer number and accession number: TEXT in the table, and no better as a code or a number."""
    for number_name in (("121020", "DCM", "Placer Number"), ("121022", "DCM", "Accession Number")):
        for value_type in ("TEXT", "CODE", "NUM", "UIDREF", "PNAME", "DATE"):
            assert left(item(value_type, number_name), ALL) is None


def test_what_a_finding_says_as_a_code_stays() -> None:
    found = left(item("CODE", FINDING), [STRUCTURED])
    assert found is not None
    assert found.ConceptCodeSequence[0].CodeMeaning == "Liver"


NUMBERS: list[tuple[str, tuple[Node, ...], bool]] = [
    ("with a unit", (number_of("12.5", UNIT),), True),
    ("with a unit, as an acquisition context has it", (text(0x0040A30A, "DS", "12.5"),), False),
    ("without a unit", (number_of("48151623"),), False),
    ("a unit of nobody's", (number_of("48151623", ("MRN", "99LOCAL", "record")),), False),
    ("a unit that UCUM has not", (number_of("48151623", ("patient", "UCUM", "patient")),), False),
    ("two units", (number_of("48151623", UNIT, YEARS),), False),
    ("a binary number without a unit", (Leaf(tag=0x0040A161, vr="FD", value=struct.pack("<d", 48151623.0)),), False),
    ("a fraction without a unit", (Leaf(tag=0x0040A162, vr="SL", value=struct.pack("<l", 481516)),), False),
    ("years below 90", (number_of("89", YEARS),), True),
    ("years above 89", (number_of("90", YEARS),), False),
    ("years above 89 in another spelling", (number_of("9.1e1", YEARS),), False),
    ("no value at all", (nested(MEASURED),), True),
]


@pytest.mark.parametrize(("values", "stays"), [row[1:] for row in NUMBERS], ids=[row[0] for row in NUMBERS])
def test_a_number_stays_with_a_published_unit_only(values: tuple[Node, ...], stays: bool) -> None:
    assert (left(item("NUM", LENGTH, *values), ALL) is not None) is stays


def test_a_number_of_an_acquisition_context_stays_with_its_unit() -> None:
    values = (nested(UNITS, code(*UNIT)), text(0x0040A30A, "DS", "12.5"))
    found = left(item("NUM", LENGTH, *values), [STRUCTURED], ACQUISITION_CONTEXT)
    assert found is not None
    assert float(found.NumericValue) == 12.5


AGE = ("121033", "DCM", "Subject Age")
LOINC_AGE = ("30525-0", "LN", "Age")
AGES: list[tuple[str, str, Code, bool]] = [
    ("in years", "89", YEARS, True),
    ("in years, too old", "90", YEARS, False),
    ("in months", "1079", ("mo", "UCUM", "month"), True),
    ("in months, too old", "1081", ("mo", "UCUM", "month"), False),
    ("in weeks, too old", "4700", ("wk", "UCUM", "week"), False),
    ("in days, too old", "33000", ("d", "UCUM", "day"), False),
    ("in a unit of something else", "45", UNIT, False),
    ("in no unit", "45", ("1", "UCUM", "no units"), False),
]


@pytest.mark.parametrize("name", [AGE, LOINC_AGE, ("397669002", "SCT", "Age")], ids=["DCM", "LN", "SCT"])
@pytest.mark.parametrize(("value", "unit", "stays"), [row[1:] for row in AGES], ids=[row[0] for row in AGES])
def test_an_age_stays_below_90_years(value: str, unit: Code, stays: bool, name: Code) -> None:
    content = item("NUM", name, number_of(value, unit))
    assert (left(content, [STRUCTURED, CHARACTERISTICS]) is not None) is stays
    assert left(content, [STRUCTURED, DESCRIPTORS]) is None


@pytest.mark.parametrize(
    "more",
    [
        Leaf(tag=0x0040A161, vr="FD", value=struct.pack("<d", 95.0)),
        Leaf(tag=0x0040A161, vr="FD", value=struct.pack("<dd", 45.0, 95.0)),
        Leaf(tag=0x0040A162, vr="SL", value=struct.pack("<l", 190)),
    ],
    ids=["binary", "the second", "a fraction"],
)
def test_an_age_above_89_is_found_in_the_other_forms_of_the_number(more: Leaf) -> None:
    measured = nested(MEASURED, (nested(UNITS, code(*YEARS)), more, text(0x0040A30A, "DS", "45")))
    assert left(item("NUM", AGE, measured), ALL) is None
    direct = (nested(UNITS, code(*YEARS)), more)
    assert left(item("NUM", AGE, *direct), ALL) is None


CHARACTERISTIC_NUMBERS: list[tuple[Code, Code]] = [
    (("29463-7", "LN", "Body Weight"), ("kg", "UCUM", "kg")),
    (("27113001", "SCT", "Body weight"), ("kg", "UCUM", "kg")),
    (("8302-2", "LN", "Patient Height"), ("m", "UCUM", "m")),
    (("60621009", "SCT", "Body Mass Index"), ("kg/m2", "UCUM", "kg/m2")),
    (("F-01860", "SRT", "Body Mass Index"), ("kg/m2", "UCUM", "kg/m2")),
]


@pytest.mark.parametrize(("name", "unit"), CHARACTERISTIC_NUMBERS, ids=[name[0] for name, _ in CHARACTERISTIC_NUMBERS])
def test_measures_of_the_patient_stay_with_their_characteristics_only(name: Code, unit: Code) -> None:
    """Stricter than the table, which does not list them: table E.1-1 has the same as attributes (Patient's Weight)."""
    content = item("NUM", name, number_of("70", unit))
    assert left(content, [STRUCTURED, DESCRIPTORS, MODIFIED]) is None
    assert left(content, [STRUCTURED, CHARACTERISTICS]) is not None


@pytest.mark.parametrize("name", [("121031", "DCM", "x"), ("21112-8", "LN", "x"), ("184099003", "SCT", "x")])
@pytest.mark.parametrize("dates", [MODIFIED, FULL])
@pytest.mark.parametrize("value_type", ["DATE", "DATETIME", "TEXT", "NUM"])
def test_a_birth_never_stays(value_type: str, dates: str, name: Code) -> None:
    """Stricter than the table, which lists the first alone."""
    options = [option for option in ALL if option != MODIFIED]
    assert left(item(value_type, name), [*options, dates]) is None


FOREIGN = [
    ("a private scheme", ("MRI-07", "99LOCAL", "Zwiebelhuber")),
    ("no scheme", ("121071", "", "Finding")),
    ("a scheme of another name", ("121071", "dcm", "Finding")),
    ("a name as a code", ("ZWIEBELHUBER", "DCM", "Finding")),
    ("a number too long", ("4815162342", "DCM", "Finding")),
    ("SNOMED's check digit is wrong", ("10200005", "SCT", "Liver")),
    ("LOINC's check digit is wrong", ("18782-4", "LN", "Study observation")),
    ("two values", ("121071\\121072", "DCM", "Finding")),
    ("none", ("", "DCM", "Finding")),
]


@pytest.mark.parametrize("foreign", [one for _, one in FOREIGN], ids=[what for what, _ in FOREIGN])
def test_an_item_with_a_code_of_nobodys_goes(foreign: Code) -> None:
    assert left(item("TEXT", foreign), ALL) is None
    assert left(item("NUM", foreign, number_of("12", UNIT)), ALL) is None
    assert left(item("CONTAINER", foreign), ALL) is None
    assert left(item("CODE", FINDING, nested(CONCEPT_CODE, code(*foreign))), ALL) is None


def test_a_published_code_that_is_known_of_the_patient_goes() -> None:
    source = picture(nested(CONTENT, item("CODE", FINDING)))
    assert len(proved(source, ALL)[CONTENT].value) == 1
    assert len(proved(source, ALL, frozenset({LIVER[0]}))[CONTENT].value) == 0


def test_other_words_than_the_codes_own_are_cleaned() -> None:
    reworded = ("10200004", "SCT", "Liver of Zwiebelhuber")
    content = item("CODE", ("121071", "DCM", "Zwiebelhuber, brain"), nested(CONCEPT_CODE, code(*reworded)))
    found = left(content, [STRUCTURED, DESCRIPTORS])
    assert found is not None
    assert found.ConceptNameCodeSequence[0].CodeMeaning == "X, brain"
    assert found.ConceptCodeSequence[0].CodeMeaning == "Liver X"
    found = left(content, [STRUCTURED])
    assert found is not None
    for sequence in (found.ConceptNameCodeSequence, found.ConceptCodeSequence):
        assert sequence[0].CodeValue in ("121071", "10200004")
        assert sequence[0].get("CodeMeaning", "") in ("", "REMOVED")


def test_a_qualifier_that_is_none_goes_and_leaves_its_number() -> None:
    values = (number_of("12", UNIT), nested(0x0040A301, code("MRI-07", "99LOCAL", "Zwiebelhuber")))
    found = left(item("NUM", LENGTH, *values), ALL)
    assert found is not None
    assert "Zwiebelhuber" not in str(found)
    assert str(found.MeasuredValueSequence[0].NumericValue) == "12"


TWICE: list[tuple[str, tuple[Node, ...]]] = [
    ("value type", (*item("TEXT", FINDING), text(0x0040A040, "CS", "TEXT"))),
    ("relationship", (*item("TEXT", FINDING), text(0x0040A010, "CS", "CONTAINS"))),
    ("concept", (*item("TEXT", FINDING), nested(CONCEPT_NAME, code(*LENGTH)))),
    ("text", (*item("TEXT", FINDING), text(0x0040A160, "UT", FREE_TEXT))),
    ("code", (*item("CODE", FINDING), nested(CONCEPT_CODE, code(*LIVER)))),
    ("number", (*item("NUM", LENGTH, number_of("12", UNIT)), number_of("12", UNIT))),
    ("two concepts", without(CONCEPT_NAME, item("TEXT", FINDING), nested(CONCEPT_NAME, code(*LENGTH), code(*FINDING)))),
    ("two codes", item("CODE", FINDING, nested(CONCEPT_CODE, code(*LIVER), code(*LIVER)))),
    ("code value", item("CODE", FINDING, nested(CONCEPT_CODE, (text(0x00080100, "SH", "SMITH"), *code(*LIVER))))),
]


@pytest.mark.parametrize("content", [one for _, one in TWICE], ids=[what for what, _ in TWICE])
def test_an_item_that_states_something_twice_goes(content: tuple[Node, ...]) -> None:
    ordered = tuple(sorted(content, key=lambda node: node.tag))
    witness = item("NUM", LENGTH, number_of("12", UNIT))
    # pydicom cannot tell the same tag twice, so neither can the audit.
    export = read(exported(picture(nested(CONTENT, ordered, witness)), ALL))
    assert len(export[CONTENT].value) == 1


ODD: list[tuple[str, tuple[Node, ...]]] = [
    ("an unknown value type", item("ZWIEBEL", FINDING, *value_of("TEXT"))),
    ("no value type and no value", item("", FINDING, text(0x0040DB00, "CS", "1000"))),
    ("an unknown relationship", item("TEXT", FINDING, relationship="BY ZWIEBELHUBER")),
    ("a text without a concept", item("TEXT", None)),
    ("a code without a concept", item("CODE", None)),
    ("a number without a concept", item("NUM", None)),
    ("a date without a concept", item("DATE", None)),
    ("a text beside a code", item("CODE", FINDING, *value_of("CODE"), *value_of("TEXT"))),
    ("a name beside a number", item("NUM", LENGTH, number_of("12", UNIT), *value_of("PNAME"))),
    ("a date in a container", item("CONTAINER", FINDING, *value_of("DATE"))),
    ("a number that is said to be a code", item("CODE", LOINC_AGE, *value_of("CODE"), number_of("95", YEARS))),
    ("a code without one", item("CODE", FINDING, nested(CONCEPT_CODE))),
]


@pytest.mark.parametrize("content", [one for _, one in ODD], ids=[what for what, _ in ODD])
def test_an_item_that_is_not_what_it_says_goes(content: tuple[Node, ...]) -> None:
    assert left(content, ALL) is None


@pytest.mark.parametrize("value_type", ["IMAGE", "COMPOSITE", "WAVEFORM", "CONTAINER"])
def test_references_and_containers_may_stand_without_a_concept(value_type: str) -> None:
    found = left(item(value_type, None), [STRUCTURED])
    assert found is not None
    if value_type != "CONTAINER":
        assert value_in(found) == NEW_UID


def test_coordinates_stay() -> None:
    points = Leaf(tag=0x00700022, vr="FL", value=struct.pack("<4f", 1, 2, 3, 4.5))
    found = left(item("SCOORD", LENGTH, points, text(0x00700023, "CS", "POLYLINE")), [STRUCTURED])
    assert found is not None
    assert list(found.GraphicData) == [1, 2, 3, 4.5]
    assert found.GraphicType == "POLYLINE"


# ---- where and how they are written


DEEP = item(
    "CONTAINER",
    FINDING,
    text(0x0040A050, "CS", "SEPARATE"),
    nested(
        CONTENT,
        item("PNAME", LIVER),
        item(
            "CODE",
            FINDING,
            nested(CONCEPT_CODE, code(*LIVER)),
            nested(
                CONTENT,
                item("TEXT", ("121106", "DCM", "Comment")),
                item("TEXT", ("121022", "DCM", "Accession Number"), text(0x0040A160, "UT", "ACC4711")),
                item("DATE", ("111060", "DCM", "Study Date")),
                item("NUM", ("MRI-07", "99LOCAL", "Zwiebelhuber"), nested(CONTENT, item("CODE", FINDING))),
            ),
        ),
        item("UIDREF", ("112040", "DCM", "Tracking Unique Identifier")),
    ),
)


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize(
    "form",
    [
        {"undefined": undefined, "items_undefined": items_undefined, "unknown": unknown}
        for undefined, items_undefined, unknown in itertools.product((False, True), repeat=3)
    ],
)
def test_items_three_deep_are_judged_in_every_form_of_their_lengths(form: dict[str, bool], explicit: bool) -> None:
    if not explicit and form["unknown"]:
        return  # An implicit stream states no VR.
    around = item("NUM", LENGTH, number_of("12", UNIT))
    source = picture(*in_form([nested(ACQUISITION_CONTEXT, around, DEEP, around)], **form), explicit=explicit)
    export = proved(source, [STRUCTURED, DESCRIPTORS, MODIFIED])
    first, deep, last = export[ACQUISITION_CONTEXT].value
    assert first == last
    outer = deep[CONTENT].value
    assert [one.ValueType for one in outer] == ["CODE", "UIDREF"]
    assert value_in(outer[1]) == NEW_UID
    assert [value_in(one) for one in outer[0][CONTENT].value] == [CLEANED_TEXT, MOVED_DAY]
    for planted in (b"Zwiebel", b"ACC4711", DAY.encode(), REFERENCED.encode()):
        assert planted in source
        assert planted not in exported(source, [STRUCTURED, DESCRIPTORS, MODIFIED])


def test_content_items_in_an_ordinary_sequence_are_judged_too() -> None:
    inside = nested(0x00089124, (reference(), nested(0x00400440, item("TEXT", FINDING), item("PNAME", FINDING))))
    found = proved(picture(inside), [STRUCTURED, DESCRIPTORS])[0x00089124].value[0]
    assert told(found[0x00400440].value) == [(*FINDING, "TEXT", CLEANED_TEXT)]


def test_steps_of_specimen_preparation_are_judged() -> None:
    steps = nested(0x00400612, item("TEXT", ("111703", "DCM", "Processing step description")), item("PNAME", FINDING))
    source = picture(nested(0x00400610, (steps,)))
    (found,) = proved(source, [STRUCTURED, DESCRIPTORS])[0x00400610].value
    assert [value_in(one) for one in found[0x00400612].value] == [CLEANED_TEXT]
    assert len(proved(source, [DESCRIPTORS])[0x00400610].value) == 0


def test_annotations_may_be_texts_without_a_concept() -> None:
    """Waveform Annotation Sequence states neither value types nor relationships (PS3.3 section C.10.10)."""
    typed = (text(0x00700006, "ST", FREE_TEXT), number(0x0040A180, "US", 1))
    named = (nested(CONCEPT_NAME, code(*LIVER)), number(0x0040A180, "US", 2))
    foreign = (nested(CONCEPT_NAME, code("MRI-07", "99LOCAL", "Zwiebelhuber")), number(0x0040A180, "US", 3))
    identifying = (text(0x00700006, "ST", "ACC4711"), nested(CONCEPT_NAME, code("121022", "DCM", "Accession Number")))
    specimen = (
        text(0x00700006, "ST", "4711"),
        nested(CONCEPT_NAME, code("111705", "DCM", "Parent Specimen Identifier")),
    )
    ordered = [tuple(sorted(one, key=lambda node: node.tag)) for one in (typed, named, foreign, identifying, specimen)]
    source = picture(nested(ANNOTATIONS, *ordered))
    found = proved(source, [STRUCTURED, DESCRIPTORS])[ANNOTATIONS].value
    assert [one.get("UnformattedTextValue") for one in found] == [CLEANED_TEXT, None, "REMOVED"]
    found = proved(source, [STRUCTURED])[ANNOTATIONS].value
    assert [one.get("UnformattedTextValue") for one in found] == [None, "REMOVED"]


# ---- without the option

LEAKS = (b"Zwiebel", b"ACC4711", b"MRI-07", b"99LOCAL", REFERENCED.encode(), FREE_TEXT.encode(), DAY.encode())


@pytest.mark.parametrize("dates", [FULL, MODIFIED, None])
def test_without_the_option_the_basic_profile_holds(dates: str | None) -> None:
    """X/Z, Z, D and X/D for the four sequences of table E.1-1; what is there only because it has to be says nothing."""
    content = [item(row["value_type"], concept(row)) for row in ROWS]
    source = picture(
        nested(ACQUISITION_CONTEXT, DEEP),
        nested(0x00400610, (nested(0x00400612, DEEP),)),
        nested(CONTENT, DEEP, *content),
        nested(ANNOTATIONS, (text(0x00700006, "ST", FREE_TEXT),)),
    )
    export = proved(source, [DESCRIPTORS, CHARACTERISTICS, DEVICE, INSTITUTION, *([dates] if dates else [])])
    assert ACQUISITION_CONTEXT not in export
    assert ANNOTATIONS not in export
    assert len(export[0x00400610].value) == 0
    assert len(export[CONTENT].value) == 1 + len(ROWS)
    raw = written(export)
    assert [leak for leak in LEAKS if leak in raw and leak != DAY.encode()] == []
    said = {str(element.value) for element in export[CONTENT].value[0].iterall() if element.VR != "SQ"}
    for one in export[CONTENT].value:
        said |= {str(element.value) for element in one.iterall() if element.VR != "SQ"}
    assert said <= {"REMOVED", "19000101", "19000101000000", "000000", NEW_UID, "1.2.840.10008.5.1.4.1.1.4"}


def test_where_the_iod_demands_the_acquisition_context_it_is_emptied_without_the_option() -> None:
    enhanced = text(0x00080016, "UI", "1.2.840.10008.5.1.4.1.1.4.1")
    export = proved(picture(enhanced, nested(ACQUISITION_CONTEXT, DEEP)), [DESCRIPTORS])
    assert len(export[ACQUISITION_CONTEXT].value) == 0


# ---- graphics

GRAPHICS = "clean_graphics"
SHAPE = Leaf(tag=0x00700022, vr="FL", value=struct.pack("<4f", 10, 20, 30, 40))


def drawn() -> list[Node]:
    note = (
        text(0x00700006, "ST", FREE_TEXT),
        Leaf(tag=0x00700014, vr="FL", value=struct.pack("<2f", 5, 6)),
        text(0x00700015, "CS", "N"),
        nested(0x00700231, (text(0x00700227, "LO", "Zwiebelhuber Sans"), text(0x00700228, "CS", "DEFAULT"))),
    )
    shape = (
        text(0x00700005, "CS", "PIXEL"),
        number(0x00700020, "US", 2),
        number(0x00700021, "US", 2),
        SHAPE,
        text(0x00700023, "CS", "POLYLINE"),
        text(0x00700024, "CS", "N"),
    )
    annotation = (text(0x00700002, "CS", "LAYER1"), nested(0x00700008, note), nested(0x00700009, shape))
    planes = [
        number(0x60000010, "US", 4),
        Leaf(tag=0x60003000, vr="OW", value=b"Zwiebelh"),
        text(0x60004000, "LT", "x"),
    ]
    curves = [number(0x50000005, "US", 2), Leaf(tag=0x50003000, vr="OW", value=b"Zwiebelh")]
    return [*curves, nested(0x00700001, annotation), *planes]


@pytest.mark.parametrize(
    ("options", "words"), [((GRAPHICS, DESCRIPTORS), CLEANED_TEXT), ((GRAPHICS,), "REMOVED")], ids=["cleaned", "dummy"]
)
def test_graphics_stay_and_their_words_do_not(options: tuple[str, ...], words: str) -> None:
    export = proved(picture(*drawn()), options)
    (found,) = export[0x00700001].value
    assert found.GraphicLayer == "LAYER1"
    assert found.TextObjectSequence[0].UnformattedTextValue == words
    assert list(found.TextObjectSequence[0].AnchorPoint) == [5, 6]
    assert list(found.GraphicObjectSequence[0].GraphicData) == [10, 20, 30, 40]
    assert found.GraphicObjectSequence[0].GraphicType == "POLYLINE"
    assert "Zwiebel" not in str(export)


@pytest.mark.parametrize("options", [(), (GRAPHICS,), (GRAPHICS, DESCRIPTORS, STRUCTURED)])
def test_planes_of_bits_go_in_any_case(options: tuple[str, ...]) -> None:
    export = proved(picture(*drawn()), options)
    assert {element.tag >> 24 for element in export} & {0x50, 0x60} == set()
    assert b"Zwiebelh" not in written(export)


def test_without_the_option_graphics_are_items_that_say_nothing() -> None:
    (found,) = proved(picture(*drawn()), [DESCRIPTORS])[0x00700001].value
    said = {str(element.value) for element in found.iterall() if element.VR != "SQ"}
    assert said <= {"REMOVED", NEW_UID, "1.2.840.10008.5.1.4.1.1.4"}


# ---- the audit rings


def spoiled(export: bytes, tag: int, value: str, where: str) -> bytes:
    """Put a value into the content item of a concept."""
    dataset = read(export)
    (one,) = (found for found in dataset[CONTENT].value if found.ConceptNameCodeSequence[0].CodeValue == where)
    one[tag].value = value
    return written(dataset)


COMMENT, ACCESSION = ("121106", "DCM", "Comment"), ("121022", "DCM", "Accession Number")
SERIAL = ("113880", "DCM", "Device Serial Number")
TUBE = ("113832", "DCM", "Identification of the X-Ray Source")
CLEAN_ITEMS = (
    item("TEXT", ACCESSION, text(0x0040A160, "UT", "ACC-4711-B")),
    item("PNAME", ("121008", "DCM", "Person Observer Name")),
    item("TEXT", COMMENT),
    item("TEXT", SERIAL, text(0x0040A160, "UT", "SN70001")),
    item("TEXT", TUBE, text(0x0040A160, "UT", "TUBE 9")),
    item("DATE", ("111060", "DCM", "Study Date")),
    item("UIDREF", ("112040", "DCM", "Tracking Unique Identifier")),
    item("NUM", LENGTH, number_of("12", UNIT)),
)
PUT_BACK: list[tuple[str, tuple[str, ...], int, str, str, str]] = [
    ("a text, where texts are dummies", (), 0x0040A160, "TUBE 9", "113832", "value"),
    ("a text that is none of the source's", (DESCRIPTORS,), 0x0040A160, "Gruber, brain T1", "121106", "value"),
    ("a number from the text", (DESCRIPTORS,), 0x0040A160, "4815162342", "121106", "value"),
    ("the identifier of another item", (DESCRIPTORS,), 0x0040A160, "ACC-4711-B", "121106", "identifier"),
    ("a name that another item holds", (DESCRIPTORS,), 0x0040A160, FREE_TEXT, "121106", "identifier"),
    ("the name", (DESCRIPTORS,), 0x0040A123, PERSON, "121008", "identifier"),
    ("the date", (MODIFIED,), 0x0040A121, DAY, "111060", "date"),
    ("the UID", (), 0x0040A124, REFERENCED, "112040", "uid"),
    ("another serial number", (DEVICE,), 0x0040A160, "SN70002", "113880", "value"),
]


@pytest.mark.parametrize(
    ("more", "tag", "value", "where", "finding"), [row[1:] for row in PUT_BACK], ids=[row[0] for row in PUT_BACK]
)
def test_the_audit_rings_for_what_is_put_back(
    more: tuple[str, ...], tag: int, value: str, where: str, finding: str
) -> None:
    options = (STRUCTURED, *more)
    source = picture(nested(CONTENT, *CLEAN_ITEMS))
    export = exported(source, options)
    assert alarms(source, export, options) == []
    assert finding in alarms(source, spoiled(export, tag, value, where), options)


def test_the_audit_rings_for_an_item_that_the_source_has_not() -> None:
    source = picture(nested(CONTENT, *CLEAN_ITEMS))
    dataset = read(exported(source, [STRUCTURED]))
    stranger = Dataset()
    stranger.RelationshipType, stranger.ValueType, stranger.TextValue = "CONTAINS", "TEXT", "brain"
    dataset[CONTENT].value.append(stranger)
    assert alarms(source, written(dataset), [STRUCTURED]) != []
    dataset = read(exported(source, [STRUCTURED]))
    dataset[CONTENT].value.append(dataset[CONTENT].value[0])
    assert alarms(source, written(dataset), [STRUCTURED]) != []


def test_the_audit_rings_for_an_item_that_an_ordinary_sequence_has_lost() -> None:
    rows = [(text(0x00180050, "DS", str(thickness)),) for thickness in (1, 2, 3)]
    source = picture(nested(0x00189112, *rows))
    for lost in range(len(rows)):
        dataset = read(exported(source, [STRUCTURED]))
        del dataset[0x00189112].value[lost]
        assert "lost" in alarms(source, written(dataset), [STRUCTURED])


def test_the_audit_lets_a_devices_own_uid_stay_where_an_option_retains_it() -> None:
    source = picture(text(0x00181002, "UI", REFERENCED))
    assert proved(source, [DEVICE]).DeviceUID == REFERENCED
    assert proved(source, [DESCRIPTORS]).DeviceUID == NEW_UID
