"""Codes are held against their schemes: what anybody can look up stays, what somebody typed does not."""

from __future__ import annotations

import re
import string
from collections.abc import Collection

import pydicom.sr._snomed_dict
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as pydicoms

from tasks.deidentify.audit.content import is_foreign
from tasks.deidentify.codes import Code, is_published, renewed, says_the_schemes_words
from tests.deidentify.content import alarms, code, exported, in_form, picture, proved, read, written
from tests.deidentify.images import nested, text
from tests.dicom.encoder import Node

DESCRIPTORS = "clean_descriptors"
ANATOMIC_REGION, VIEW, MODIFIERS = 0x00082218, 0x00540220, 0x00082220
SEQUENCES = (ANATOMIC_REGION, VIEW)
"""Anatomic Region Sequence and View Code Sequence, which stand in images of the classes that are exported."""


def item_of(stated: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = stated[:2]
    return item


def published(value: str, scheme: str) -> bool:
    return is_published(Code(value, scheme, ""))


# ---- what the schemes have

REAL = [
    ("T-A0100", "SRT"),  # brain
    ("T-D1100", "SNM3"),  # head
    ("R-10242", "99SDM"),  # cranio-caudal
    ("C-B1031", "SRT"),  # fluorodeoxyglucose
    ("G-A138", "SRT"),  # coronal
    ("F-61FDB", "SRT"),
    ("12738006", "SCT"),  # brain
    ("69536005", "SCT"),  # head
    ("399348003", "SCT"),
    ("1149217004", "SCT"),
    ("113100", "DCM"),
    ("121071", "DCM"),
    ("130884", "DCM"),
    ("18782-3", "LN"),  # study observation
    ("29463-7", "LN"),  # body weight
    ("8302-2", "LN"),  # body height
    ("21112-8", "LN"),
    ("mm", "UCUM"),
    ("mm2/s", "UCUM"),
    ("um2/s", "UCUM"),
    ("10*-6.mm2/s", "UCUM"),
    ("Bq/ml", "UCUM"),
    ("kBq/ml", "UCUM"),
    ("mg/min/ml", "UCUM"),
    ("cm2/ml", "UCUM"),
    ("g/ml", "UCUM"),
    ("[hnsf'U]", "UCUM"),
    ("{counts}", "UCUM"),
    ("1", "UCUM"),
    ("%", "UCUM"),
    ("ms", "UCUM"),
    ("T", "UCUM"),
    ("Cel", "UCUM"),
    ("RID10312", "RADLEX"),
    ("RID1301", "RADLEX"),
    ("50801", "FMA"),
    ("7088", "FMA"),
    ("C54627", "NCIt"),
    ("C94970", "NCIt"),
    ("C2348792", "UMLS"),
    ("52", "NCDR [2.0b]"),
]


@pytest.mark.parametrize(("value", "scheme"), REAL)
def test_codes_of_the_schemes_that_images_use_are_published(value: str, scheme: str) -> None:
    assert published(value, scheme)


def test_every_code_that_pydicom_knows_is_published_in_its_own_words() -> None:
    """PS3.16 as pydicom offers it to its users, by name; nor does the audit, by its own lists, ring for any of them."""
    checked = 0
    for scheme in ("DCM", "LN", "UCUM", "RADLEX", "FMA", "NCIt", "NEU", "UMLS"):
        collection = getattr(pydicoms, scheme)
        for name in collection.dir()[::3]:
            one = getattr(collection, name)
            stated = Code(one.value, one.scheme_designator, one.meaning)
            assert is_published(stated), stated
            assert says_the_schemes_words(stated), stated
            assert not is_foreign(item_of(stated)), stated
            checked += 1
    assert checked > 500


def test_snomeds_old_codes_say_what_their_identifiers_say() -> None:
    mapping = pydicom.sr._snomed_dict.mapping["SRT"]
    for old, identifier in list(mapping.items())[::50]:
        for scheme in ("SRT", "SNM3", "99SDM"):
            assert published(old, scheme)
            assert renewed(Code(old, scheme, "")) == (identifier, "SCT")
        assert published(identifier, "SCT")
    assert says_the_schemes_words(Code("T-A0100", "SRT", "Brain"))
    assert renewed(Code("ZWIEBEL", "SRT", "")) == ("ZWIEBEL", "SRT")
    assert renewed(Code("T-A0100", "99LOCAL", "")) == ("T-A0100", "99LOCAL")


def test_every_snomed_identifier_that_pydicom_knows_fits_its_check_digit() -> None:
    """So the check digit is computed as SNOMED computes it; that those are listed is not asked."""
    identifiers = set(pydicom.sr._snomed_dict.mapping["SRT"].values())
    wrong = [one for one in identifiers if verhoeff(one[:-1]) != int(one[-1])]
    assert len(identifiers) > 5000
    assert len(wrong) < 5


# ---- check digits, computed here in another way


def verhoeff(digits: str) -> int:
    """Return the check digit of Verhoeff's scheme: the dihedral group of ten elements, by its definition."""

    def times(one: int, other: int) -> int:
        turned = other % 5 if one < 5 else -other % 5
        return (one + turned) % 5 + 5 * ((one >= 5) ^ (other >= 5))

    permutation = [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]
    check = 0
    for place, letter in enumerate(reversed(digits), start=1):
        digit = int(letter)
        for _ in range(place % 8):
            digit = permutation[digit]
        check = times(check, digit)
    return next(digit for digit in range(10) if times(check, digit) == 0)


def modulo_ten(digits: str) -> int:
    """Return the check digit of a LOINC number: every second digit from the right is doubled, as on a bank card."""
    total = 0
    for place, letter in enumerate(reversed(digits)):
        doubled = int(letter) * (1 if place % 2 else 2)
        total += sum(map(int, str(doubled)))
    return -total % 10


# SNOMED's reserve the digits before the check digit: 00 and 10 are a concept's partition.
CONCEPTS = st.builds(
    lambda digits, partition: digits + partition,
    st.from_regex(r"[1-9][0-9]{2,14}", fullmatch=True),
    st.sampled_from(["00", "10"]),
)
NUMBERS = st.from_regex(r"[1-9][0-9]{0,5}", fullmatch=True)


@given(CONCEPTS)
def test_exactly_one_check_digit_makes_a_snomed_identifier(digits: str) -> None:
    fitting = [digit for digit in range(10) if published(f"{digits}{digit}", "SCT")]
    assert fitting == [verhoeff(digits)]


@given(NUMBERS)
def test_exactly_one_check_digit_makes_a_loinc_number(digits: str) -> None:
    fitting = [digit for digit in range(10) if published(f"{digits}-{digit}", "LN")]
    assert fitting == [modulo_ten(digits)]


@given(CONCEPTS, st.data())
def test_one_wrong_digit_of_a_snomed_identifier_is_always_noticed(digits: str, data: st.DataObject) -> None:
    """As are two neighbours that changed places."""
    right = f"{digits}{verhoeff(digits)}"
    assert published(right, "SCT")
    place = data.draw(st.integers(0, len(right) - 1))
    digit = data.draw(st.sampled_from([one for one in string.digits if one != right[place]]))
    wrong = right[:place] + digit + right[place + 1 :]
    swapped = right[:place] + right[place : place + 2][::-1] + right[place + 2 :]
    assert not published(wrong, "SCT")
    assert swapped == right or not published(swapped, "SCT")


@given(NUMBERS, st.data())
def test_one_wrong_digit_of_a_loinc_number_is_always_noticed(digits: str, data: st.DataObject) -> None:
    """And two neighbours that changed places, but for 0 and 9, which modulo 10 cannot tell."""
    number = f"{digits}{modulo_ten(digits)}"
    place = data.draw(st.integers(0, len(number) - 1))
    digit = data.draw(st.sampled_from([one for one in string.digits if one != number[place]]))
    wrong = number[:place] + digit + number[place + 1 :]
    assert published(f"{number[:-1]}-{number[-1]}", "LN")
    assert not published(f"{wrong[:-1]}-{wrong[-1]}", "LN")
    pair = number[place : place + 2]
    swapped = number[:place] + pair[::-1] + number[place + 2 :]
    if pair not in ("09", "90") and swapped != number:
        assert not published(f"{swapped[:-1]}-{swapped[-1]}", "LN")


# ---- what somebody typed

NAMES = st.text(string.ascii_letters + " ^-'.", min_size=1, max_size=16)
IDS = st.text(string.ascii_uppercase + string.digits + "-/._ ", min_size=1, max_size=16)
SCHEMES = ("SCT", "LN", "DCM", "RADLEX", "FMA", "NCIt", "UMLS")


LETTERS = frozenset(value for name in pydicoms.DCM.dir() if (value := getattr(pydicoms.DCM, name).value).isalpha())
"""Codes of DICOM's own that are letters: sexes and modalities."""


@given(NAMES, st.sampled_from(SCHEMES))
def test_a_name_is_a_code_of_no_scheme(name: str, scheme: str) -> None:
    assert not published(name, scheme) or (scheme == "DCM" and name in LETTERS)


@given(st.text(max_size=24), st.sampled_from(["SCT", "LN"]))
def test_a_text_is_refused_unless_its_check_digit_fits(typed: str, scheme: str) -> None:
    assert not published(typed, scheme) or typed.isascii()
    check_typed(typed, scheme)


@given(IDS, st.sampled_from(["SCT", "LN"]))
def test_a_typed_id_is_refused_unless_its_check_digit_fits(typed: str, scheme: str) -> None:
    check_typed(typed, scheme)


def check_typed(typed: str, scheme: str) -> None:
    if re.fullmatch("[0-9]+" if scheme == "SCT" else "[0-9]+-[0-9]", typed, re.ASCII):
        digits, check = (typed[:-1], typed[-1]) if scheme == "SCT" else typed.split("-")
        fits = int(check) == (verhoeff(digits) if scheme == "SCT" else modulo_ten(digits))
        assume(fits)
        return
    assert not published(typed, scheme)


@given(st.from_regex(r"[1-9][0-9]{5,8}", fullmatch=True))
def test_a_patients_number_is_no_snomed_identifier_as_a_rule(digits: str) -> None:
    """Of all numbers one in fifty ends with a partition of concepts, and of those one in ten fits its check digit."""
    if published(digits, "SCT"):
        assert digits[-3:-1] in ("00", "10")
        assert verhoeff(digits[:-1]) == int(digits[-1])


@pytest.mark.parametrize("scheme", ["99LOCAL", "99GEMS", "L", "", "sct", "SCT ", "ICD10", "HOSPITAL", "99SDM2"])
def test_a_scheme_of_nobodys_has_no_codes(scheme: str) -> None:
    for value in ("12738006", "T-A0100", "121071", "18782-3", "mm"):
        assert not published(value, scheme)


@given(st.from_regex(r"[A-Z][a-z]{3,11}", fullmatch=True))
@example("Emin")
@example("Grad")
@example("Mosm")
def test_a_name_is_no_unit(name: str) -> None:
    assert not published(name, "UCUM")


@pytest.mark.parametrize(
    "value", ["PATIENT", "4815162342", "19550203", "1955-02-03", "MRN/4711", "Dr. Ott", "SN.70001"]
)
def test_numbers_and_dates_are_no_units(value: str) -> None:
    assert not published(value, "UCUM")


WORDS = [
    (Code("10200004", "SCT", "Liver"), True),
    (Code("10200004", "SCT", "LIVER"), True),
    (Code("10200004", "SCT", "Liver of Zwiebelhuber"), False),
    (Code("10200004", "SCT", ""), False),
    (Code("10200004", "SCT", "Brain"), False),
    (Code("10200004", "SCT", "Liver", "20200229"), False),
    (Code("10200004", "SCT", "Liver", "Zwiebelhuber"), False),
    (Code("10200004", "SCT", "Liver", "1.5"), True),
    (Code("113100", "DCM", "Basic Application Confidentiality Profile", "01"), True),
    (Code("10200004", "SCT", "Liver", "", "DICOM Content Mapping Resource"), True),
    (Code("10200004", "SCT", "Liver", "", "Ward of Dr. Zwiebelhuber"), False),
]


@pytest.mark.parametrize(("stated", "says"), WORDS)
def test_the_schemes_words_are_known(stated: Code, says: bool) -> None:
    assert is_published(stated)
    assert says_the_schemes_words(stated) is says


# ---- in images


def item_in(content: tuple[Node, ...], options: Collection[str], sequence: int, **form: bool) -> Dataset:
    (found,) = proved(picture(*in_form([nested(sequence, content)], **form)), options)[sequence].value
    return found


BRAIN = code("12738006", "SCT", "Brain", text(0x00080103, "SH", "1.0"))
LEFT = nested(MODIFIERS, code("7771000", "SCT", "Left"))


@pytest.mark.parametrize("options", [(), (DESCRIPTORS,)])
@pytest.mark.parametrize("sequence", SEQUENCES)
@pytest.mark.parametrize("explicit", [True, False])
def test_a_published_code_stays_to_the_byte(explicit: bool, sequence: int, options: tuple[str, ...]) -> None:
    more = (LEFT,) if sequence == ANATOMIC_REGION else ()
    node = nested(sequence, tuple(sorted((*BRAIN, *more), key=lambda one: one.tag)))
    source = picture(node, explicit=explicit)
    export = exported(source, options)
    assert alarms(source, export, options) == []
    start = source.index(sequence.to_bytes(4)[1::-1] + sequence.to_bytes(4)[:1:-1])
    meaning = b"Left" if more else b"Brain "
    whole = source[start : source.index(meaning, start) + len(meaning)]
    assert len(whole) > 60
    assert whole in export


FORMS = [{}, {"undefined": True}, {"items_undefined": True}, {"undefined": True, "items_undefined": True}]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("options", [(), (DESCRIPTORS,), ("retain_device_identity", "retain_uids", DESCRIPTORS)])
@pytest.mark.parametrize("sequence", SEQUENCES)
@pytest.mark.parametrize(
    "foreign",
    [
        ("MRI-07", "99LOCAL", "Zwiebelhuber head"),
        ("12738007", "SCT", "Brain"),
        ("18782-4", "LN", "Brain"),
        ("ZWIEBELHUBER", "DCM", "Brain"),
        ("12738006\\4711", "SCT", "Brain"),
    ],
)
def test_of_a_foreign_code_dummies_stay(
    foreign: tuple[str, str, str], sequence: int, options: tuple[str, ...], form: dict[str, bool]
) -> None:
    found = item_in(code(*foreign, text(0x00080103, "SH", "20200229")), options, sequence, **form)
    assert {str(element.value) for element in found} == {"REMOVED"}
    # Code Meaning is of type 1, value and scheme of type 1C (PS3.3 table 8.8-1).
    assert found.CodeMeaning == "REMOVED"


def test_a_foreign_code_beside_a_published_one_goes_alone() -> None:
    modifiers = nested(MODIFIERS, code("MRI-07", "99LOCAL", "x"), code("7771000", "SCT", "Left"))
    content = tuple(sorted((*BRAIN, modifiers), key=lambda one: one.tag))
    found = item_in(content, (DESCRIPTORS,), ANATOMIC_REGION)
    assert (found.CodeValue, found.CodeMeaning) == ("12738006", "Brain")
    first, second = found.AnatomicRegionModifierSequence
    assert first.CodeMeaning == "REMOVED"
    assert second.CodeMeaning == "Left"


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_another_meaning_is_cleaned(sequence: int) -> None:
    content = code("12738006", "SCT", "Brain of Zwiebelhuber", text(0x00080103, "SH", "1.0"))
    found = item_in(content, (DESCRIPTORS,), sequence)
    assert (found.CodeValue, found.CodingSchemeDesignator) == ("12738006", "SCT")
    assert found.CodeMeaning == "Brain X"
    found = item_in(content, (), sequence)
    assert (found.CodeValue, found.CodingSchemeDesignator) == ("12738006", "SCT")
    assert found.CodeMeaning == "REMOVED"


@pytest.mark.parametrize("options", [(), (DESCRIPTORS,)])
@pytest.mark.parametrize("sequence", SEQUENCES)
def test_a_version_or_a_resource_that_is_none_does_not_stay(sequence: int, options: tuple[str, ...]) -> None:
    versioned = code("12738006", "SCT", "Brain", text(0x00080103, "SH", "20200229"))
    mapped = code("12738006", "SCT", "Brain", text(0x00080122, "LO", "Ward of Dr. Zwiebelhuber"))
    for content in (versioned, mapped):
        found = item_in(content, options, sequence)
        assert found.CodeValue == "12738006"
        assert "20200229" not in str(found)
        assert "Zwiebelhuber" not in str(found)


def test_a_published_code_that_is_known_of_the_patient_does_not_stay() -> None:
    source = picture(nested(ANATOMIC_REGION, BRAIN))
    (found,) = proved(source, (DESCRIPTORS,), frozenset({"12738006"}))[ANATOMIC_REGION].value
    assert found.CodeMeaning == "REMOVED"
    assert "12738006" not in str(found)


def test_codes_of_nobodys_sequence_do_not_stay() -> None:
    """Requested Procedure Code Sequence: the codes are a hospital's own even where they look like SNOMED's."""
    for sequence in (0x00321064, 0x00081032):
        assert sequence not in proved(picture(nested(sequence, BRAIN)), (DESCRIPTORS,))


@pytest.mark.parametrize(
    "foreign",
    [
        ("MRI-07", "99LOCAL", "Zwiebelhuber head"),
        ("ZWIEBELHUBER", "DCM", "Brain"),
        ("MRN4711", "SCT", "Brain"),
        ("MRN4711", "LN", "Brain"),
    ],
)
@pytest.mark.parametrize("sequence", SEQUENCES)
def test_the_audit_rings_for_a_foreign_code_that_is_put_back(sequence: int, foreign: tuple[str, str, str]) -> None:
    source = picture(nested(sequence, code(*foreign)))
    export = exported(source, (DESCRIPTORS,))
    assert alarms(source, export, (DESCRIPTORS,)) == []
    dataset = read(export)
    (found,) = dataset[sequence].value
    found.CodeValue, found.CodingSchemeDesignator, _ = foreign
    assert alarms(source, written(dataset), (DESCRIPTORS,)) == ["value"]


def test_an_institutions_own_codes_stay_where_an_option_retains_them() -> None:
    source = picture(nested(0x00080082, code("WARD-7", "99LOCAL", "Ward seven")))
    (found,) = proved(source, (DESCRIPTORS, "retain_institution_identity"))[0x00080082].value
    assert (found.CodeValue, found.CodeMeaning) == ("WARD-7", "Ward seven")
    assert 0x00080082 not in proved(source, (DESCRIPTORS,))
