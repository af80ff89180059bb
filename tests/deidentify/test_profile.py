"""Every attribute that a file can hold gets an action, and none that could identify a person is kept unexamined."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pydicom
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydicom.charset import convert_encodings, python_encoding
from pydicom.datadict import DicomDictionary, RepeatersDictionary, dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.sr.codedict import codes
from pydicom.uid import UID_dictionary

from tasks.deidentify.profile import (
    CHARACTER_SETS,
    DEFAULT_OPTIONS,
    DEFAULT_PROFILE,
    EXPORTED_CLASSES,
    MISSPELT_CHARACTER_SETS,
    REFUSAL_REASONS,
    STAMPED_TAGS,
    Action,
    Option,
    Profile,
    Rules,
    Surroundings,
    character_set_verdict,
    load_decisions,
    sop_class_verdict,
)
from tasks.deidentify.standard import attribute_type, load_attribute_types, load_confidentiality_table
from tasks.errors import UsageError
from tests.conftest import REPOSITORY

MR = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
PET = "1.2.840.10008.5.1.4.1.1.128"
ENHANCED_PET = "1.2.840.10008.5.1.4.1.1.130"

BASIC = Profile(options=frozenset())
DATES = Profile(options=frozenset({Option.RETAIN_LONGITUDINAL_MODIFIED_DATES}))
DESCRIPTORS = Profile(options=frozenset({Option.CLEAN_DESCRIPTORS}))
CHARACTERISTICS = Profile(options=frozenset({Option.RETAIN_PATIENT_CHARACTERISTICS}))
FULL_DATES = Profile(options=frozenset({Option.RETAIN_LONGITUDINAL_FULL_DATES}))
DEVICE = Profile(options=frozenset({Option.RETAIN_DEVICE_IDENTITY}))
INSTITUTION = Profile(options=frozenset({Option.RETAIN_INSTITUTION_IDENTITY}))
UIDS = Profile(options=frozenset({Option.RETAIN_UIDS}))
EVERYTHING = Profile(options=frozenset(Option) - {Option.RETAIN_LONGITUDINAL_MODIFIED_DATES})
EVERYTHING_MOVED = Profile(options=frozenset(Option) - {Option.RETAIN_LONGITUDINAL_FULL_DATES})
PROFILES = (
    *(BASIC, DATES, CHARACTERISTICS, DEFAULT_PROFILE, FULL_DATES, DEVICE, INSTITUTION, UIDS),
    *(DESCRIPTORS, EVERYTHING, EVERYTHING_MOVED),
)

DESCRIPTIVE = {"LO", "LT", "SH", "ST", "UC", "UT"}
TEXT = {"AE", "LO", "LT", "SH", "ST", "UC", "UR", "UT"}
BULK = {"OB", "OD", "OF", "OL", "OV", "OW", "UN"}


def tag(keyword: str) -> int:
    found = tag_for_keyword(keyword)
    assert found is not None, keyword
    return found


def at(profile: Profile, sop_class: str, *path: str) -> Action:
    """Return the action for the last keyword of a path."""
    rules = profile.actions(sop_class)
    for sequence in path[:-1]:
        rules = rules.nested(tag(sequence))
    return rules.action(tag(path[-1]), dictionary_VR(path[-1]))


def levels(profile: Profile) -> dict[str, Rules]:
    """Return a level of each kind: known to an IOD or not, plain, of examined codes, kept for conformance alone."""
    mr, enhanced = profile.actions(MR), profile.actions(ENHANCED_MR)
    return {
        "MR": mr,
        "enhanced MR": enhanced,
        "PET": profile.actions(PET),
        "a class without types": profile.actions("1.2.3"),
        "a functional group": enhanced.nested(tag("PerFrameFunctionalGroupsSequence")).nested(
            tag("FrameContentSequence")
        ),
        "examined codes": mr.nested(tag("AnatomicRegionSequence")),
        "other codes": mr.nested(tag("ProcedureCodeSequence")),
        "a sequence the IOD does not know": mr.nested(tag("WaveformSequence")),
        "persons": mr.nested(tag("PersonIdentificationCodeSequence")),
        "a required reference": enhanced.nested(tag("ReferencedPerformedProcedureStepSequence")),
    }


ONLY_REQUIRED = ("persons", "other codes", "a required reference")
"""The levels that only an IOD's demand keeps."""


def judged_levels(profile: Profile) -> dict[str, Rules]:
    """Return what a code or a content item is cleaned by, once it has been judged."""
    codes_of = profile.actions(MR).nested(tag("AnatomicRegionSequence"))
    kinds = {
        "a published code": Surroundings.PUBLISHED_CODE,
        "a reworded code": Surroundings.REWORDED_CODE,
        "a code that is none": Surroundings.DUMMY,
    }
    found = {name: codes_of._as(kind) for name, kind in kinds.items()}
    if Option.CLEAN_STRUCTURED_CONTENT in profile.options:
        items = profile.actions(ENHANCED_MR).nested(tag("AcquisitionContextSequence"))
        kinds = {
            "a cleaned content item": Surroundings.CLEANED_CONTENT,
            "a kept content item": Surroundings.KEPT_CONTENT,
            "a content item with a dummy": Surroundings.DUMMY_CONTENT,
        }
        found |= {name: items._as(kind) for name, kind in kinds.items()}
    return found


# ---- what each compound code becomes


@pytest.mark.parametrize(
    ("sop_class", "path", "expected"),
    [
        (MR, ("StudyID",), Action.EMPTY),  # Z, type 2
        (MR, ("AccessionNumber",), Action.EMPTY),
        (MR, ("AcquisitionDate",), Action.REMOVE),  # X/Z, type 3
        (PET, ("AcquisitionDate",), Action.EMPTY),  # X/Z, type 2
        (MR, ("SeriesDate",), Action.REMOVE),  # X/D, type 3
        (PET, ("SeriesDate",), Action.DUMMY),  # X/D, type 1
        (MR, ("ContentDate",), Action.EMPTY),  # Z/D, type 2C
        (ENHANCED_MR, ("ContentDate",), Action.DUMMY),  # Z/D, type 1
        (MR, ("AcquisitionDateTime",), Action.REMOVE),  # X/Z/D, type 3
        (ENHANCED_MR, ("AcquisitionDateTime",), Action.DUMMY),  # X/Z/D, type 1C
        (MR, ("DeviceSerialNumber",), Action.REMOVE),
        (ENHANCED_MR, ("DeviceSerialNumber",), Action.DUMMY),
        (MR, ("ContrastBolusAgent",), Action.EMPTY),  # Z/D, type 2
        (MR, ("ReferencedImageSequence",), Action.REMOVE),  # X/Z/U*, type 3
        (ENHANCED_MR, ("SharedFunctionalGroupsSequence", "ReferencedImageSequence"), Action.EMPTY),  # type 2
        (ENHANCED_MR, ("ReferencedPerformedProcedureStepSequence",), Action.CLEAN_SEQUENCE),  # X/Z/D, type 1C
        (ENHANCED_MR, ("AcquisitionContextSequence",), Action.EMPTY),  # X/Z, type 2
        (MR, ("PatientBirthDate",), Action.EMPTY),  # Z, type 2
        (MR, ("PatientAge",), Action.REMOVE),
        (MR, ("PatientSex",), Action.EMPTY),
        (MR, ("SOPInstanceUID",), Action.UID),
        (MR, ("PatientName",), Action.PSEUDONYM),
        (MR, ("SeriesDescription",), Action.REMOVE),
        (MR, ("ClinicalTrialSubjectID",), Action.DUMMY),  # D
    ],
)
def test_a_compound_code_is_resolved_by_the_type_in_the_iod(
    sop_class: str, path: tuple[str, ...], expected: Action
) -> None:
    assert at(BASIC, sop_class, *path) is expected


def test_every_row_of_the_table_has_an_action_its_code_allows() -> None:
    """Over every level of every exported class: what the IOD requires stays, and no code is exceeded."""
    allowed = {
        "X": {Action.REMOVE},
        "Z": {Action.EMPTY, Action.DUMMY, Action.PSEUDONYM, Action.CLEAN_SEQUENCE},
        "D": {Action.DUMMY, Action.CLEAN_SEQUENCE, Action.UID},
        "U": {Action.UID},
    }
    known, table = load_attribute_types(), load_confidentiality_table().by_tag
    for rules, node in walked_levels(BASIC):
        types = known.types_at(node)
        for number, rule in table.items():
            action, kind = rules.by_tag[number], types.get(number, "3")
            letters = rule.basic.replace("*", "").split("/")
            if number in STAMPED_TAGS:
                continue
            fits = {fitting for letter in letters for fitting in allowed.get(letter, ())}
            if kind in ("2", "2C") and letters == ["X", "D"]:
                fits.add(Action.EMPTY)  # zero length satisfies type 2 and says less than a dummy
            if rule.basic == "X/Z/U*":
                fits = {Action.REMOVE, Action.EMPTY, Action.CLEAN_SEQUENCE}
            assert action in fits, (rule, kind, action)
            if len(letters) > 1 and kind in ("1", "1C"):
                assert action not in (Action.REMOVE, Action.EMPTY), (rule, kind)
            if len(letters) > 1 and kind in ("2", "2C"):
                assert action is not Action.REMOVE, (rule, kind)


def walked_levels(profile: Profile) -> list[tuple[Rules, int]]:
    """Return the rules of every level of every exported class with its node of the type table."""
    known = load_attribute_types()
    found: dict[tuple[int, int], tuple[Rules, int]] = {}
    waiting = [(profile.actions(uid), known.roots[uid]) for uid in EXPORTED_CLASSES]
    while waiting:
        rules, node = waiting.pop()
        if (id(rules), node) in found:
            continue
        found[id(rules), node] = (rules, node)
        waiting += [(rules.nested(sequence), inside) for sequence, inside in known.items[node].items()]
    return list(found.values())


# ---- every row under every option

LETTERS = {
    "X": "XXX",
    "Z": "DZZ",
    "D": "DDD",
    "U": "UUU",
    "Z/D": "DZZ",
    "X/Z": "DZX",
    "X/D": "DZX",
    "X/Z/D": "DZX",
    "X/Z/U*": "DZX",
}
"""What each code of the Basic Profile is where the IOD has type 1, type 2, and anything else. With the code Z, a type-1
attribute gets a dummy, which Z allows; with X/D, a type-2 one gets zero length, which says less than a dummy."""

WRITTEN = {"X": Action.REMOVE, "Z": Action.EMPTY, "U": Action.UID}

YOUNGER_VRS = {
    "00100043": "SQ",
    "00100046": "SQ",
    "00100047": "UR",
    "0040A034": "DT",
    "0040A035": "DT",
    "0040B034": "DT",
    "0040B036": "DT",
}
"""VRs by PS3.6 of attributes that pydicom's dictionary lacks, where the VR counts."""

PLACES: list[tuple[str, tuple[str, ...]]] = [
    (MR, ()),
    (ENHANCED_MR, ()),
    (PET, ()),
    (ENHANCED_PET, ()),
    (MR, ("RequestAttributesSequence",)),
    (ENHANCED_MR, ("SharedFunctionalGroupsSequence",)),
    (ENHANCED_MR, ("PerFrameFunctionalGroupsSequence", "FrameContentSequence")),
    (ENHANCED_MR, ("ContributingEquipmentSequence",)),
]

RAW_TABLE = json.loads((REPOSITORY / "tasks/deidentify/data/ps315_e1_1.json").read_text(encoding="utf-8"))["rules"]


def vr_of(row: dict) -> str:
    number = int(row["tag"], 16)
    if number in DicomDictionary:
        return dictionary_VR(number).split(" or ")[-1]
    return YOUNGER_VRS.get(row["tag"], "UN")


VALUES_OF_ITEMS = ("0040A120", "0040A121", "0040A122", "00700006")
"""Date and time of content items, and the text of an annotation: of whom, no attribute around them tells."""


def stated_action(row: dict, kind: str | None, chosen: set[str], *, demanded: bool) -> Action:
    """Say what a row of the table asks for: the rules in words, for comparison.

    K keeps, and cleans inside a sequence; a kept age is capped. Modified dates move what is the patient's own date and
    leave the time of day, and decide alone where they have a code. Clean Descriptors cleans texts, and walks into the
    sequences that are no codes; so do Clean Structured Content and Clean Graphics. Whatever else has a C is not
    cleaned, so that row follows the Basic Profile, as a link does. In a sequence that only its IOD demands, the dates
    and the text of content items and annotations are dummies whatever is chosen.
    """
    vr, options = vr_of(row), row["options"]
    if row["tag"] in ("00100010", "00100020"):
        return Action.PSEUDONYM
    if demanded and row["tag"] in VALUES_OF_ITEMS:
        return Action.DUMMY
    ours = int(row["tag"], 16) in load_decisions().not_the_patients_dates
    if "retain_longitudinal_modified_dates" in chosen & options.keys():
        if vr in ("DA", "DT", "TM") and "retain_device_identity" not in options and not ours:
            return Action.KEEP if vr == "TM" else Action.DATE
    elif "K" in {options.get(name) for name in chosen} and vr != "UR":
        return {"SQ": Action.CLEAN_SEQUENCE, "AS": Action.AGE}.get(vr, Action.KEEP)
    if "clean_descriptors" in chosen & options.keys():
        if vr in DESCRIPTIVE:
            return Action.DESCRIPTOR
        if vr == "SQ" and row["name"] in ("Request Attributes Sequence", "Prescription Notes Sequence"):
            return Action.CLEAN_SEQUENCE
    if {"clean_structured_content", "clean_graphics"} & chosen & options.keys():
        return Action.CLEAN_SEQUENCE
    column = 0 if kind in ("1", "1C") else 1 if kind in ("2", "2C") else 2
    letter = LETTERS[row["basic"]][column]
    if letter == "D":
        return {"SQ": Action.CLEAN_SEQUENCE, "UI": Action.UID}.get(vr, Action.DUMMY)
    return WRITTEN[letter]


SETS_OF_OPTIONS = [
    *(frozenset(some) for count in (0, 1, 2) for some in itertools.combinations(sorted(Option, key=str), count)),
    DEFAULT_OPTIONS,
    EVERYTHING.options,
    EVERYTHING_MOVED.options,
]
BOTH_DATES = {Option.RETAIN_LONGITUDINAL_FULL_DATES, Option.RETAIN_LONGITUDINAL_MODIFIED_DATES}


@pytest.mark.parametrize(
    "options",
    [options for options in SETS_OF_OPTIONS if not options >= BOTH_DATES],
    ids=lambda options: "+".join(sorted(option.code for option in options)) or "basic",
)
def test_every_row_does_what_its_codes_say_under_every_option(options: frozenset[Option]) -> None:
    """All rows, each option alone and each two that go together, on levels of different IODs."""
    profile, chosen = Profile(options=options), {option.column for option in options}
    assert len(RAW_TABLE) == 657
    for sop_class, path in PLACES:
        rules = profile.actions(sop_class)
        for keyword in path:
            rules = rules.nested(tag(keyword))
        for row in RAW_TABLE:
            if "x" in row["tag"] or row["tag"] == "PRIVATE":
                example = row["tag"].replace("PRIVATE", "00291010").replace("x", "2")
                assert rules.action(int(example, 16), "UN") is Action.REMOVE
                continue
            number = int(row["tag"], 16)
            if number in STAMPED_TAGS and not path:
                assert rules.by_tag[number] is Action.KEEP
                continue
            kind = attribute_type(sop_class, number, tuple(map(tag, path)))
            demanded = path == ("RequestAttributesSequence",) and Option.CLEAN_DESCRIPTORS not in options
            assert rules.by_tag[number] is stated_action(row, kind, chosen, demanded=demanded), (row, kind, path)


def test_each_option_changes_every_row_it_has_a_code_for() -> None:
    """Counted by the table: what a K keeps, what a C cleans, and that a C without a cleaner keeps nothing."""
    kept = (Action.KEEP, Action.CLEAN_SEQUENCE, Action.AGE, Action.DESCRIPTOR)
    found = {}
    for option in set(Option) - {Option.RETAIN_SAFE_PRIVATE, Option.RETAIN_LONGITUDINAL_MODIFIED_DATES}:
        by_tag = Profile(options=frozenset({option})).actions(MR).by_tag
        rows = [
            (row["options"][option.column], by_tag[int(row["tag"], 16)])
            for row in RAW_TABLE
            if option.column in row["options"] and "x" not in row["tag"]
        ]
        if not option.column.startswith("clean_"):
            assert not any(action in kept for code, action in rows if code == "C")
        found[option.column] = sum(action in kept for _, action in rows)
    assert found == {
        "retain_uids": 60,
        "retain_device_identity": 48,
        "retain_institution_identity": 10,
        "retain_patient_characteristics": 13,  # of 14: a link is not kept
        "retain_longitudinal_full_dates": 169,
        # Of 141: six sequences of diagnoses and reasons, ten that are no text or in no dictionary yet.
        "clean_descriptors": 125,
        "clean_structured_content": 4,
        "clean_graphics": 1,  # of 4: planes of bits, whose rows name no single tag, are removed
    }


# ---- what the options change


def test_dates_of_the_patient_are_shifted_and_times_kept() -> None:
    table, decisions = load_confidentiality_table(), load_decisions()
    for number, rule in table.by_tag.items():
        if rule.under("retain_longitudinal_modified_dates") is None:
            continue
        for rules in (DEFAULT_PROFILE.actions(MR), DATES.actions(ENHANCED_PET)):
            action = rules.by_tag[number]
            vr = dictionary_VR(number) if number in DicomDictionary else "DT"  # those the dictionary lacks are all DT
            if rule.under("retain_device_identity") or number in decisions.not_the_patients_dates:
                assert action in (Action.REMOVE, Action.EMPTY, Action.DUMMY), rule
            elif vr in ("DA", "DT"):
                assert action is Action.DATE, rule
            elif vr == "TM":
                assert action is Action.KEEP, rule
            else:
                assert action in (Action.REMOVE, Action.DUMMY), rule


@pytest.mark.parametrize(
    "keyword",
    [
        "ContextGroupVersion",  # the same in every file that uses the code list: its shifted value would tell the shift
        "EthicsCommitteeApprovalEffectivenessStartDate",
        "DateOfLastCalibration",  # the same for every patient of a scanner: it would tell how their shifts differ
        "DateOfManufacture",
        "DateOfLastDetectorCalibration",
        "TimezoneOffsetFromUTC",  # tells the continent, and by daylight saving the season
        "PatientBirthDate",
        "PatientBirthTime",
    ],
)
@pytest.mark.parametrize("sop_class", sorted(EXPORTED_CLASSES))
def test_a_date_that_would_give_the_shift_away_is_neither_kept_nor_shifted(sop_class: str, keyword: str) -> None:
    action = at(DEFAULT_PROFILE, sop_class, keyword)
    assert action in (Action.REMOVE, Action.EMPTY, Action.DUMMY)


def test_patient_characteristics_are_kept_but_not_their_free_text() -> None:
    rules = CHARACTERISTICS.actions(MR)
    found = {
        rule.name: (rule.under("retain_patient_characteristics"), rules.by_tag[number])
        for number, rule in load_confidentiality_table().by_tag.items()
        if rule.under("retain_patient_characteristics")
    }
    assert len(found) == 19
    link = "Sex Parameters for Clinical Use Category Reference"
    text = {name for name, (code, _) in found.items() if code == "C"}
    assert len(text) == 5
    assert {name for name, (_, action) in found.items() if action is Action.REMOVE} == text | {link}
    assert found["Patient's Age"][1] is Action.AGE
    assert found["Patient's Weight"][1] is Action.KEEP
    assert found["Ethnic Group Code Sequence"][1] is Action.CLEAN_SEQUENCE
    # With descriptors cleaned, two of these texts are, too.
    for keyword in ("Allergies", "PatientState"):
        assert at(DEFAULT_PROFILE, MR, keyword) is Action.DESCRIPTOR
    assert at(DEFAULT_PROFILE, MR, "EthnicGroupCodeSequence", "CodeMeaning") is Action.KEEP
    assert at(DEFAULT_PROFILE, MR, "PatientBodyMassIndex") is Action.KEEP
    assert at(DATES, MR, "PatientBodyMassIndex") is Action.REMOVE
    assert at(DATES, MR, "PatientAge") is Action.REMOVE


def test_descriptors_are_cleaned_wherever_they_stand() -> None:
    """At every level, those of items that only an IOD's demand keeps included: cleaned, they say nothing of anybody.

    But for an annotation's text, which is a dummy in such items, as the dates of content items are.
    """
    texts = [
        number
        for number, rule in load_confidentiality_table().by_tag.items()
        if rule.under("clean_descriptors") and number in DicomDictionary and dictionary_VR(number) in DESCRIPTIVE
    ]
    assert len(texts) > 100
    annotation = tag("UnformattedTextValue")
    assert annotation in texts
    for name, rules in levels(DESCRIPTORS).items():
        expected = Action.DUMMY if name in ONLY_REQUIRED else Action.DESCRIPTOR
        assert rules.action(annotation, "ST") is expected, name
        others = {rules.action(number, dictionary_VR(number)) for number in texts if number != annotation}
        assert others == {Action.DESCRIPTOR}, name
    for number in texts:
        assert BASIC.actions(MR).by_tag[number] is not Action.DESCRIPTOR
    for sop_class, path in (
        (MR, ("SeriesDescription",)),
        (PET, ("StudyDescription",)),
        (MR, ("RequestAttributesSequence", "ScheduledProcedureStepDescription")),
        (ENHANCED_MR, ("MRTimingAndRelatedParametersSequence", "ProtocolName")),
        (MR, ("SequenceName",)),
        (ENHANCED_MR, ("PulseSequenceName",)),
    ):
        assert at(DESCRIPTORS, sop_class, *path) is Action.DESCRIPTOR


def test_what_only_looks_like_a_descriptor_follows_the_basic_profile() -> None:
    for keyword in (
        "ReasonForRequestedProcedureCodeSequence",  # a diagnosis says what nobody asked for
        "AdmittingDiagnosesCodeSequence",
        "ReasonForVisitCodeSequence",
        "MakerNote",
        "DeviceSettingDescription",
    ):
        assert at(DEFAULT_PROFILE, MR, keyword) is Action.REMOVE
    assert at(DEFAULT_PROFILE, MR, "RequestAttributesSequence") is Action.CLEAN_SEQUENCE
    inside = ("RequestAttributesSequence", "RequestedProcedureCodeSequence")
    assert at(DEFAULT_PROFILE, MR, *inside) is Action.REMOVE
    assert at(DEFAULT_PROFILE, MR, "RequestAttributesSequence", "RequestedProcedureID") is Action.REMOVE
    assert at(DEFAULT_PROFILE, MR, "RequestAttributesSequence", "AccessionNumber") is not Action.KEEP
    assert at(DEFAULT_PROFILE, MR, "RequestAttributesSequence", "ScheduledProcedureStepID") is Action.REMOVE
    assert DEFAULT_PROFILE.actions(MR).nested(tag("RequestAttributesSequence")).keeps_private


def test_a_studys_own_words_are_part_of_its_profile() -> None:
    own = Profile.of(["clean_descriptors"], ["Zebrafish", "alphawave", "Zebrafish"])
    assert own.words == ("Zebrafish", "alphawave")
    assert own == Profile.of(["clean_descriptors"], ["alphawave", "Zebrafish"])
    assert own.vocabulary.allows("ZEBRAFISH")
    assert not DESCRIPTORS.vocabulary.allows("ZEBRAFISH")
    assert own.digest() != DESCRIPTORS.digest()
    # Without the option no text is cleaned, so that they change nothing.
    assert Profile.of([], ["alphawave"]).digest() == BASIC.digest()
    with pytest.raises(UsageError, match="Entry 2 of the study's vocabulary"):
        Profile.of(["clean_descriptors"], ["alphawave", "sub 4711"])


def test_full_dates_stay_wherever_they_stand() -> None:
    for profile in (FULL_DATES, EVERYTHING):
        for name, rules in levels(profile).items():
            if name in ONLY_REQUIRED:
                continue
            gone = {
                entry[4]
                for number, entry in DicomDictionary.items()
                if entry[0] in ("DA", "DT", "TM") and rules.action(number, entry[0]) is not Action.KEEP
            }
            # No option keeps when somebody was born or where an image was taken.
            assert gone == {"PatientBirthDate", "PatientBirthTime", "GPSTimeStamp"}, name
    for keyword in ("StudyDate", "AcquisitionTime", "FrameAcquisitionDateTime", "TimezoneOffsetFromUTC"):
        assert at(FULL_DATES, MR, keyword) is Action.KEEP
        assert at(BASIC, MR, keyword) is not Action.KEEP
    # Nothing is shifted, so that these dates tell no shift.
    for keyword in ("DateOfLastCalibration", "ContextGroupVersion", "DateOfGainCalibration", "ContributionDateTime"):
        assert at(FULL_DATES, MR, keyword) is Action.KEEP
    assert at(FULL_DATES, MR, "PatientAge") is Action.REMOVE
    assert at(EVERYTHING, MR, "PatientAge") is Action.AGE


def test_full_and_modified_dates_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="exclude each other: dates either stay or are moved"):
        Profile(options=frozenset(BOTH_DATES))


def test_the_profile_says_what_became_of_dates() -> None:
    for options in SETS_OF_OPTIONS:
        if options >= BOTH_DATES:
            continue
        stays, moves = Option.RETAIN_LONGITUDINAL_FULL_DATES in options, DATES.options <= options
        expected = "UNMODIFIED" if stays else "MODIFIED" if moves else "REMOVED"
        assert Profile(options=options).temporal_information() == expected
        assert Profile(options=options).keeps_uids is (Option.RETAIN_UIDS in options)


def test_dates_of_the_scanner_stay_only_where_nothing_is_shifted() -> None:
    dates = [
        number
        for number, rule in load_confidentiality_table().by_tag.items()
        if rule.under("retain_device_identity") and rule.under("retain_longitudinal_full_dates")
    ]
    assert len(dates) == 11
    for profile in PROFILES:
        by_tag = profile.actions(MR).by_tag
        moved = Option.RETAIN_LONGITUDINAL_MODIFIED_DATES in profile.options
        stays = not moved and profile.options & {Option.RETAIN_DEVICE_IDENTITY, Option.RETAIN_LONGITUDINAL_FULL_DATES}
        for number in dates:
            assert (by_tag[number] is Action.KEEP) is bool(stays)
            assert by_tag[number] is not Action.DATE


def test_uids_stay_in_every_place() -> None:
    for name, rules in levels(UIDS).items():
        for number, entry in DicomDictionary.items():
            if entry[0] == "UI" and rules.action(number, "UI") is not Action.KEEP:
                # Two that the option has no code for, and what belongs to no data set.
                assert entry[4] in ("UID", "DigitalSignatureUID") or number >> 16 in (0, 2, 4), (name, entry)
    assert at(UIDS, MR, "ReferencedImageSequence") is Action.CLEAN_SEQUENCE
    assert at(UIDS, MR, "ReferencedImageSequence", "ReferencedSOPInstanceUID") is Action.KEEP
    assert at(UIDS, MR, "ReferencedStudySequence", "ReferencedSOPClassUID") is Action.KEEP
    # A number, too, may stand in such a sequence; words about its patient still may not.
    assert at(UIDS, MR, "ReferencedPatientSequence", "PatientID") is Action.PSEUDONYM
    assert at(UIDS, MR, "SourceImageSequence", "PurposeOfReferenceCodeSequence", "CodeMeaning") is Action.KEEP
    assert at(UIDS, MR, "ReferencedStudySequence", "CodeMeaning") is Action.REMOVE
    # What says it is something else is not a UID.
    assert UIDS.actions(MR).action(tag("SOPClassUID"), "LO") is not Action.KEEP


def test_a_retained_sequence_has_the_same_profile_inside() -> None:
    assert at(INSTITUTION, MR, "InstitutionCodeSequence") is Action.CLEAN_SEQUENCE
    for keyword in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning"):
        assert at(INSTITUTION, MR, "InstitutionCodeSequence", keyword) is Action.KEEP
        assert at(DEVICE, MR, "PerformedStationNameCodeSequence", keyword) is Action.KEEP
        assert at(UIDS, MR, "PerformedStationNameCodeSequence", keyword) is not Action.KEEP
    assert at(INSTITUTION, MR, "InstitutionCodeSequence", "SeriesDescription") is Action.REMOVE
    assert at(INSTITUTION, MR, "InstitutionCodeSequence", "PatientName") is Action.PSEUDONYM
    assert at(DEVICE, MR, "UDISequence", "UniqueDeviceIdentifier") is Action.KEEP
    assert at(DEVICE, MR, "UDISequence", "DeviceDescription") is Action.KEEP
    assert at(DEVICE, MR, "UDISequence", "InstitutionName") is Action.REMOVE
    assert at(DEVICE, MR, "UDISequence", "CodeMeaning") is Action.REMOVE
    assert at(DEVICE, ENHANCED_MR, "ContributingEquipmentSequence", "DeviceSerialNumber") is Action.KEEP
    assert at(INSTITUTION, ENHANCED_MR, "ContributingEquipmentSequence", "InstitutionName") is Action.KEEP


def test_an_option_keeps_nothing_of_another() -> None:
    assert at(DEVICE, MR, "DeviceUID") is at(UIDS, MR, "DeviceUID") is Action.KEEP
    assert at(DEVICE, MR, "SOPInstanceUID") is Action.UID
    assert at(DEVICE, MR, "InstitutionName") is Action.REMOVE
    assert at(INSTITUTION, MR, "StationName") is Action.REMOVE
    for profile in (DEVICE, INSTITUTION, UIDS):
        assert at(profile, MR, "PatientSex") is Action.EMPTY
        assert at(profile, MR, "StudyDate") is Action.EMPTY
        assert at(profile, MR, "PatientName") is Action.PSEUDONYM


def test_options_are_chosen_by_name() -> None:
    assert Profile.of([]) == BASIC
    assert Profile.of(["retain_uids"]) == UIDS
    assert Profile.of(option.column for option in DEFAULT_OPTIONS) == DEFAULT_PROFILE
    assert Profile.of(["clean_graphics"]).options == {Option.CLEAN_GRAPHICS}
    with pytest.raises(UsageError, match="no option of the name retain_uid, x"):
        Profile.of(["x", "retain_uid", "retain_uids"])


def test_every_option_is_done_and_says_so() -> None:
    """Each can be chosen by its column's name, states its code, and leads to rules of its own."""
    digests = {BASIC.digest()}
    for option in Option:
        profile = Profile.of([option.column])
        assert profile.codes() == [*BASIC.codes(), (option.code, option.meaning)]
        digests.add(profile.digest())
    assert len(digests) == len(Option) + 1


def test_the_codes_say_exactly_what_is_done() -> None:
    assert DEFAULT_PROFILE.codes() == [
        ("113100", "Basic Application Confidentiality Profile"),
        ("113105", "Clean Descriptors Option"),
        ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
        ("113108", "Retain Patient Characteristics Option"),
        ("113111", "Retain Safe Private Option"),
    ]
    assert [code for code, _ in BASIC.codes()] == ["113100"]


def test_code_values_and_meanings_are_those_of_cid_7050() -> None:
    known = {code.value: code.meaning for code in (getattr(codes.cid7050, name) for name in codes.cid7050.dir())}
    ours = dict([*BASIC.codes(), *((option.code, option.meaning) for option in Option)])
    assert ours.items() <= known.items()
    assert known.keys() - ours.keys() == {"113101", "113102"}  # pixels and faces have no column in the table


def test_the_options_are_the_columns_of_the_table() -> None:
    assert {option.column for option in Option} == set(load_confidentiality_table().options)


# ---- what the table does not list


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: " + ".join(c for c, _ in profile.codes()))
def test_nothing_that_could_identify_is_kept_unexamined(profile: Profile) -> None:
    """Every attribute of the dictionary, at a level of each kind: text, names, dates, UIDs, links, binary values."""
    table, decisions = load_confidentiality_table().by_tag, load_decisions()
    examined = decisions.text.keys() | decisions.bulk.keys()
    described = {number for number, rule in table.items() if rule.under("clean_descriptors")}
    described |= decisions.descriptors.keys()
    cleans = Option.CLEAN_DESCRIPTORS in profile.options
    shifted = Option.RETAIN_LONGITUDINAL_MODIFIED_DATES in profile.options
    stays = Option.RETAIN_LONGITUDINAL_FULL_DATES in profile.options
    retained = {
        number
        for number, rule in table.items()
        if any(rule.under(option.column) == "K" for option in profile.options)
        and not (shifted and rule.under("retain_longitudinal_modified_dates"))
    }
    assert len(DicomDictionary) > 5000
    text_value, unformatted, uid = tag("TextValue"), tag("UnformattedTextValue"), tag("UID")
    reworded = {tag(keyword) for keyword in ("CodeMeaning", "CodingSchemeVersion", "MappingResourceName")}
    for name, rules in (levels(profile) | judged_levels(profile)).items():
        top = rules.action(tag("DeidentificationMethod"), "LO") is Action.KEEP
        may_keep = examined | retained | (STAMPED_TAGS if top else set())
        may_clean = described
        if name in ("examined codes", "a published code"):
            may_keep = may_keep | decisions.code_text.keys()
        elif name == "a reworded code":
            may_keep, may_clean = may_keep | (decisions.code_text.keys() - reworded), may_clean | reworded
        elif name == "a cleaned content item":
            may_clean = may_clean | {text_value}
        elif name == "a kept content item":
            may_keep = may_keep | {text_value, uid}
        for number, entry in DicomDictionary.items():
            vr = entry[0]
            kinds = set(vr.split(" or "))
            action = rules.action(number, vr)
            where = (name, entry[4], vr, action)
            if vr == "SQ":
                assert action in (Action.REMOVE, Action.EMPTY, Action.CLEAN_SEQUENCE) or number in STAMPED_TAGS, where
                continue
            assert action is not Action.CLEAN_SEQUENCE, where
            if kinds & TEXT or kinds & BULK:
                assert action is not Action.KEEP or number in may_keep, where
                assert action in (
                    Action.KEEP,
                    Action.REMOVE,
                    Action.EMPTY,
                    Action.DUMMY,
                    Action.PSEUDONYM,
                    Action.DESCRIPTOR,
                ), where
            elif vr == "PN":
                assert action in (Action.REMOVE, Action.EMPTY, Action.DUMMY, Action.PSEUDONYM), where
            elif vr in ("DA", "DT"):
                assert action is not Action.KEEP or stays or number in retained, where
                assert action is not Action.DATE or shifted, where
            elif vr == "UI":
                kept = profile.keeps_uids or number in may_keep
                assert action in (Action.UID, Action.REMOVE, Action.KEEP if kept else Action.UID), where
            elif vr == "AS":
                assert action is not Action.KEEP, where
            elif vr == "TM":
                assert action is not Action.KEEP or shifted or stays or number in retained, where
            if action is Action.UID:
                assert vr == "UI", where
            if action is Action.DATE:
                assert vr in ("DA", "DT"), where
            if action is Action.AGE:
                assert vr == "AS", where
            if action is Action.DESCRIPTOR:
                assert cleans, where
                assert kinds <= DESCRIPTIVE, where
                assert number in may_clean, where
            elif cleans and vr in DESCRIPTIVE and number in decisions.descriptors:
                assert action is not Action.KEEP, where
            if "dummy" in name and number in (text_value, unformatted):
                assert action in (Action.DUMMY, Action.REMOVE), where


def test_no_sequence_is_given_a_dummy_value() -> None:
    for profile in PROFILES:
        for rules, _ in walked_levels(profile):
            for number, action in rules.by_tag.items():
                if number in DicomDictionary and dictionary_VR(number) == "SQ" and number not in STAMPED_TAGS:
                    assert action in (Action.REMOVE, Action.EMPTY, Action.CLEAN_SEQUENCE)


@given(number=st.integers(0, 0xFFFF_FFFF), vr=st.sampled_from(["LO", "UN", "OB", "SQ", "US", "CS", "UI", "DA", "??"]))
def test_what_nobody_knows_is_removed(number: int, vr: str) -> None:
    rules = DEFAULT_PROFILE.actions(MR)
    assume(number not in DicomDictionary and number not in rules.by_tag)
    assert rules.action(number, vr) is Action.REMOVE


@pytest.mark.parametrize(
    "number",
    [
        0x0009_0010,  # private creator
        0x0029_1020,  # private
        0x7FE1_1010,
        0x0010_0000,  # group length
        0x0008_0001,  # length to end
        0x0000_0002,  # command
        0x0002_0016,  # file meta information
        0x0004_1500,  # directory record
        0xFFFC_FFFC,  # padding
        0xFFFA_FFFA,  # digital signatures
        0x5000_0022,  # curve
        0x6000_0022,  # overlay
        0x6002_3000,
        0x601E_1500,
        0x0020_3101,  # source image IDs, a repeating element
        0x7F02_0010,  # variable pixel data, a repeating group
        0x0400_0500,  # encrypted attributes
        0x0008_0110,  # coding schemes, which name their institutions
        0x0008_0300,  # descriptions of private elements
        0x0028_2000,  # color profile, which has texts in it
    ],
)
def test_what_has_no_place_in_an_export_is_removed(number: int) -> None:
    for rules in levels(DEFAULT_PROFILE).values():
        for vr in ("LO", "UN", "OB", "SQ", "UL", "CS"):
            assert rules.action(number, vr) is Action.REMOVE


def test_repeating_groups_are_removed_whole() -> None:
    rules = DEFAULT_PROFILE.actions(MR)
    for mask, entry in RepeatersDictionary.items():
        assert rules.action(int(mask.replace("x", "2"), 16), entry[0]) is Action.REMOVE


@pytest.mark.parametrize(
    ("keyword", "stated", "expected"),
    [
        ("EchoTime", "DS", Action.KEEP),
        ("EchoTime", "UN", Action.KEEP),
        ("EchoTime", "FD", Action.KEEP),  # a number under another number's VR is no text
        ("EchoTime", "LT", Action.EMPTY),  # type 2: text where a number belongs
        ("RepetitionTime", "PN", Action.EMPTY),
        ("FlipAngle", "OB", Action.REMOVE),  # type 3
        ("ScanningSequence", "UT", Action.DUMMY),  # type 1
        ("SequenceName", "SH", Action.DESCRIPTOR),
        ("SequenceName", "UN", Action.DESCRIPTOR),
        ("SequenceName", "OB", Action.REMOVE),  # examined as text, not as anything else
        ("SequenceName", "PN", Action.REMOVE),
        ("AnatomicRegionSequence", "LT", Action.REMOVE),
        ("SmallestImagePixelValue", "SS", Action.KEEP),
        ("SmallestImagePixelValue", "US or SS", Action.KEEP),
        ("PixelData", "OB", Action.KEEP),
        ("PixelData", "OB or OW", Action.KEEP),
        ("PixelData", "UT", Action.DUMMY),
    ],
)
def test_a_lie_about_the_vr_does_not_bring_text_through(keyword: str, stated: str, expected: Action) -> None:
    assert DEFAULT_PROFILE.actions(MR).action(tag(keyword), stated) is expected


# ---- nested items


def test_codes_from_published_lists_are_kept_and_others_are_not() -> None:
    """Where such codes stand; that each is one of its list is judged item by item."""
    assert DEFAULT_PROFILE.actions(MR).nested(tag("AnatomicRegionSequence")).judges_items
    assert not DEFAULT_PROFILE.actions(MR).nested(tag("ProcedureCodeSequence")).judges_items
    for keyword in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning"):
        assert at(DEFAULT_PROFILE, MR, "AnatomicRegionSequence", keyword) is Action.KEEP
        assert (
            at(DEFAULT_PROFILE, MR, "AnatomicRegionSequence", "AnatomicRegionModifierSequence", keyword) is Action.KEEP
        )
        assert at(DEFAULT_PROFILE, MR, keyword) is Action.REMOVE
        for sequence in ("ProcedureCodeSequence", "PersonIdentificationCodeSequence", "DeviceSequence"):
            assert at(DEFAULT_PROFILE, MR, sequence, keyword) is not Action.KEEP
    for sequence in ("ProcedureCodeSequence", "RequestedProcedureCodeSequence", "PerformedProtocolCodeSequence"):
        assert at(DEFAULT_PROFILE, MR, sequence) is Action.REMOVE
    assert at(DEFAULT_PROFILE, MR, "AnatomicRegionSequence", "EquivalentCodeSequence") is Action.REMOVE


def test_of_a_judged_code_as_much_is_kept_as_was_recognised() -> None:
    reworded = {"CodeMeaning", "CodingSchemeVersion", "MappingResourceName"}
    for keyword in ("CodeValue", "LongCodeValue", "CodingSchemeDesignator", *sorted(reworded)):
        vr = dictionary_VR(keyword)
        found = {name: rules.action(tag(keyword), vr) for name, rules in judged_levels(DEFAULT_PROFILE).items()}
        assert found["a published code"] is Action.KEEP
        assert found["a reworded code"] is (Action.DESCRIPTOR if keyword in reworded else Action.KEEP)
        assert found["a code that is none"] in (Action.DUMMY, Action.REMOVE)
        without = judged_levels(CHARACTERISTICS)["a reworded code"].action(tag(keyword), vr)
        assert (without is Action.KEEP) is (keyword not in reworded)


@pytest.mark.parametrize("profile", [DEFAULT_PROFILE, EVERYTHING, EVERYTHING_MOVED, BASIC])
def test_content_items_are_judged_only_under_their_option(profile: Profile) -> None:
    chosen = Option.CLEAN_STRUCTURED_CONTENT in profile.options
    for sequence in ("AcquisitionContextSequence", "ContentSequence", "WaveformAnnotationSequence"):
        rules = profile.actions(ENHANCED_MR).nested(tag(sequence))
        assert rules.judges_items is chosen
        if not chosen:
            for keyword in ("TextValue", "PersonName", "DateTime", "NumericValue", "CodeMeaning"):
                assert rules.action(tag(keyword), dictionary_VR(keyword)) not in (Action.KEEP, Action.DESCRIPTOR)


def test_a_required_sequence_of_persons_keeps_nothing_that_says_who() -> None:
    """The Basic Profile's D on a sequence keeps the items, and nothing anywhere inside them."""
    inside = BASIC.actions(MR).nested(tag("PersonIdentificationCodeSequence"))
    for rules in (inside, inside.nested(tag("AnatomicRegionSequence"))):
        for number, entry in DicomDictionary.items():
            assert rules.unlisted(number, entry[0]) is not Action.KEEP or number in rules.by_tag, entry


def test_the_same_attribute_has_another_action_where_it_has_another_type() -> None:
    nested = ("PerFrameFunctionalGroupsSequence", "FrameContentSequence", "FrameAcquisitionDateTime")
    assert at(DEFAULT_PROFILE, ENHANCED_MR, *nested) is Action.DATE
    assert at(BASIC, ENHANCED_MR, *nested) is Action.DUMMY
    assert at(BASIC, ENHANCED_MR, "StationName") is Action.REMOVE
    assert at(BASIC, ENHANCED_MR, "DeviceSerialNumber") is Action.DUMMY
    assert at(BASIC, ENHANCED_MR, "ContributingEquipmentSequence", "DeviceSerialNumber") is Action.REMOVE
    assert at(BASIC, ENHANCED_MR, "ContributingEquipmentSequence", "InstitutionName") is Action.REMOVE


def test_the_stamps_are_left_to_the_rewriter_at_the_top_level_only() -> None:
    top, nested = DEFAULT_PROFILE.actions(MR), DEFAULT_PROFILE.actions(MR).nested(tag("WaveformSequence"))
    assert {top.by_tag[number] for number in STAMPED_TAGS} == {Action.KEEP}
    assert nested.action(tag("DeidentificationMethod"), "LO") is Action.REMOVE
    assert at(DEFAULT_PROFILE, MR, "DeidentificationMethodCodeSequence", "CodeMeaning") is Action.KEEP


def test_rules_are_made_once() -> None:
    again = Profile(options=DEFAULT_OPTIONS).actions(MR + "\0")  # padded as in the file
    assert again is DEFAULT_PROFILE.actions(MR)
    assert again.nested(tag("AnatomicRegionSequence")) is again.nested(tag("AnatomicRegionSequence"))


ACQUISITION = frozenset(
    """
    ImageType Modality Manufacturer ManufacturerModelName SoftwareVersions MagneticFieldStrength
    ScanningSequence SequenceVariant ScanOptions MRAcquisitionType SequenceName PulseSequenceName EchoTime
    EffectiveEchoTime RepetitionTime InversionTime FlipAngle EchoTrainLength PixelBandwidth ReceiveCoilName
    TransmitCoilName InPlanePhaseEncodingDirection DiffusionBValue DiffusionGradientOrientation AcquisitionTime
    ContentTime SeriesTime StudyTime AcquisitionNumber InstanceNumber SeriesNumber TemporalPositionIndex StackID
    InStackPositionNumber ImagePositionPatient ImageOrientationPatient PixelSpacing SliceThickness
    SpacingBetweenSlices RescaleSlope RescaleIntercept RescaleType Rows Columns BitsStored PatientPosition
    PatientWeight PatientSex TriggerTime NominalCardiacTriggerDelayTime DimensionIndexValues
    """.split()  # noqa: SIM905 - fifty quoted lines would be harder to read
)
"""Public attributes that a converter to NIfTI reads."""

DESCRIBED = frozenset({"SequenceName", "PulseSequenceName"})
"""Those among them that a person may have typed."""


def test_the_scanners_parameters_come_through(scanner_data: Path) -> None:
    """On real files: what a converter reads from public elements is kept wherever it stands."""
    table = load_confidentiality_table().by_tag
    seen: set[str] = set()
    lost: set[str] = set()

    def walk(dataset: pydicom.Dataset, rules: Rules) -> None:
        for element in dataset:
            if element.tag.is_private:
                continue
            keyword = keyword_for_tag(element.tag)
            action = rules.action(int(element.tag), element.VR)
            if keyword in ACQUISITION:
                seen.add(keyword)
                if action is not Action.KEEP and not (action is Action.DESCRIPTOR and keyword in DESCRIBED):
                    lost.add(keyword)
            # The table's own sequences refer to orders and procedures; nothing in them was measured.
            if action is Action.CLEAN_SEQUENCE and int(element.tag) not in table:
                for item in element.value:
                    walk(item, rules.nested(int(element.tag)))

    for path in sampled_files(scanner_data):
        dataset = pydicom.dcmread(path, stop_before_pixels=True, force=False)
        if verdict_of(dataset) is None:
            walk(dataset, DEFAULT_PROFILE.actions(dataset.SOPClassUID))
    assert lost == set()
    assert len(seen) > 40


def sampled_files(folder: Path) -> list[Path]:
    """Return the first two DICOM files of each folder of scanner data."""
    found = []
    for parent, _, names in os.walk(folder):
        readable = (Path(parent, name) for name in sorted(names))
        found += [path for path in readable if path.read_bytes()[128:132] == b"DICM"][:2]
    assert found
    return found


# ---- which objects are taken at all


def verdict_of(dataset: pydicom.Dataset) -> str | None:
    return sop_class_verdict(
        str(dataset.get("SOPClassUID", "")),
        list(dataset.get("ImageType") or []),
        str(dataset.get("Modality") or ""),
        str(dataset.get("ConversionType") or ""),
        str(dataset.get("BurnedInAnnotation") or ""),
    )


def test_real_images_are_taken_and_captures_refused(scanner_data: Path) -> None:
    verdicts: dict[str, set[str | None]] = {}
    for path in sampled_files(scanner_data):
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        if "SOPClassUID" in dataset:
            verdicts.setdefault(dataset.SOPClassUID.name, set()).add(verdict_of(dataset))
    assert verdicts["MR Image Storage"] == {None}
    assert verdicts["Enhanced MR Image Storage"] == {None}
    assert verdicts["Secondary Capture Image Storage"] == {"secondary-capture"}
    assert verdicts["Ultrasound Image Storage"] == {"ultrasound"}


def test_every_storage_class_of_the_standard_has_a_verdict() -> None:
    classes = {uid: entry[0] for uid, entry in UID_dictionary.items() if entry[1] == "SOP Class"}
    taken = {name for uid, name in classes.items() if sop_class_verdict(uid, [], "", "", "") is None}
    assert taken == {
        "MR Image Storage",
        "Enhanced MR Image Storage",
        "Enhanced MR Color Image Storage",
        "Legacy Converted Enhanced MR Image Storage",
        "CT Image Storage",
        "Enhanced CT Image Storage",
        "Legacy Converted Enhanced CT Image Storage",
        "Positron Emission Tomography Image Storage",
        "Enhanced PET Image Storage",
        "Legacy Converted Enhanced PET Image Storage",
        "Nuclear Medicine Image Storage",
    }
    verdicts = {sop_class_verdict(uid, [], "", "", "") for uid in classes} - {None}
    assert verdicts <= REFUSAL_REASONS.keys()


@pytest.mark.parametrize(
    ("uid", "expected"),
    [
        ("1.2.840.10008.5.1.4.1.1.7", "secondary-capture"),
        ("1.2.840.10008.5.1.4.1.1.7.4", "secondary-capture"),
        ("1.2.840.10008.5.1.4.1.1.88.67", "report"),
        ("1.2.840.10008.5.1.4.1.1.88.59", "report"),
        ("1.2.840.10008.5.1.4.1.1.11.1", "presentation-state"),
        ("1.2.840.10008.5.1.4.1.1.104.1", "encapsulated-document"),
        ("1.2.840.10008.5.1.4.1.1.66", "raw-data"),
        ("1.2.840.10008.5.1.4.1.1.66.4", "no-rule"),
        ("1.2.840.10008.5.1.4.1.1.4.2", "spectroscopy"),
        ("1.2.840.10008.5.1.4.1.1.6.1", "ultrasound"),
        ("1.2.840.10008.5.1.4.1.1.3.1", "ultrasound"),
        ("1.2.840.10008.5.1.4.1.1.77.1.4", "photograph"),
        ("1.2.840.10008.5.1.4.1.1.9.1.1", "waveform"),
        ("1.2.840.10008.5.1.4.1.1.9.100.1", "presentation-state"),
        ("1.2.840.10008.5.1.4.1.1.1.1", "no-rule"),  # digital X-ray: nothing of the sort is in the trial
        ("1.2.840.10008.5.1.4.1.1.481.3", "no-rule"),
        ("1.2.840.10008.1.3.10", "no-rule"),
        ("1.3.12.2.1107.5.9.1", "no-rule"),
        ("", "no-rule"),
        ("1.2.840.10008.5.1.4.1.1.4\0", None),  # padded as in the file
    ],
)
def test_a_refused_class_is_refused_for_its_own_reason(uid: str, expected: str | None) -> None:
    assert sop_class_verdict(uid, ["ORIGINAL", "PRIMARY"], "", "", "NO") == expected


@pytest.mark.parametrize(
    ("image_type", "modality", "conversion", "burned_in", "expected"),
    [
        (["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"], "MR", "", "", None),
        (["DERIVED", "SECONDARY", "MPR", "CSA MPR", "", "CSA RESAMPLED"], "MR", "", "NO", None),
        (["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW"], "MR", " ", "NO ", None),
        ([], "", "", "", None),
        (["DERIVED", "SECONDARY", "SCREEN SAVE"], "MR", "", "", "screen-save"),
        (["DERIVED", "SECONDARY", "screen_save "], "MR", "", "", "screen-save"),
        (["DERIVED", "SECONDARY", "SCREENSHOT"], "MR", "", "", "screen-save"),
        (["DERIVED", "SECONDARY", "OTHER", "CSA REPORT"], "MR", "", "", "screen-save"),
        (["DERIVED", "SECONDARY", "DOSE_INFO"], "MR", "", "", "screen-save"),
        (["ORIGINAL", "PRIMARY"], "MR", "", "YES", "burned-in-annotation"),
        (["ORIGINAL", "PRIMARY"], "MR", "", "yes ", "burned-in-annotation"),
        (["DERIVED", "SECONDARY"], "MR", "WSD", "", "secondary-capture"),
        (["ORIGINAL", "PRIMARY"], "OT", "", "", "modality-mismatch"),
    ],
)
def test_an_image_of_a_taken_class_is_still_looked_at(
    image_type: list[str], modality: str, conversion: str, burned_in: str, expected: str | None
) -> None:
    assert sop_class_verdict(MR, image_type, modality, conversion, burned_in) == expected


def test_an_overlay_in_the_pixel_data_is_refused() -> None:
    assert sop_class_verdict(MR, [], "MR", "", "", overlay_in_pixels=True) == "overlay-in-pixel-data"


def test_every_reason_is_a_sentence() -> None:
    for code, sentence in REFUSAL_REASONS.items():
        assert code == code.lower().replace(" ", "-")
        assert sentence[0].isupper()
        assert sentence.endswith(".")


# ---- the character set, which is copied


def test_the_defined_terms_are_those_of_part_3() -> None:
    """Against pydicom, which lists the terms by itself; it lacks Latin alphabet number 9 and has more spellings."""
    known = set(python_encoding)
    assert CHARACTER_SETS - known == {"ISO_IR 203", "ISO 2022 IR 203"}
    assert known - CHARACTER_SETS == {"", "ISO_IR 6", "ISO 2022 GBK", "ISO 2022 58"}
    for term in CHARACTER_SETS:
        assert character_set_verdict([term]) is None
        assert len(term) <= 16  # as its VR, CS, has it


def test_a_misspelling_is_read_as_the_term_it_stands_for() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom tells of each
        for spelling, term in MISSPELT_CHARACTER_SETS.items():
            assert spelling not in CHARACTER_SETS
            assert term in CHARACTER_SETS
            assert convert_encodings([spelling]) == convert_encodings([term]), spelling
            assert character_set_verdict([spelling]) is None
    for spelling in ("ISO IR 100", "ISO-IR 192", "ISO_2022_IR_87", "ISO-2022-IR-100", "ISO 2022-IR 100"):
        assert spelling in MISSPELT_CHARACTER_SETS


@pytest.mark.parametrize(
    "values",
    [
        [],
        [""],
        ["  "],
        ["ISO_IR 100"],
        ["ISO_IR 100 "],
        ["ISO_IR 192\0"],
        ["", "ISO 2022 IR 87"],
        ["ISO 2022 IR 13", "ISO 2022 IR 87"],
        ["ISO_IR 13 ", " ISO 2022 IR 87\0"],
        ["GB18030"],
        ["", "ISO 2022 IR 149 ", ""],
    ],
)
def test_what_scanners_write_is_taken(values: list[str]) -> None:
    assert character_set_verdict(values) is None


@pytest.mark.parametrize(
    "values",
    [
        ["MUELLER^HEINZ"],
        ["ISO_IR 100", "MUELLER"],
        ["ISO_IR 100 MUELLER"],
        ["ISO_IR 19580412"],
        ["ISO_IR 100\0MUELLER"],
        ["ISO_IR 14"],
        ["ISO 2022 IR 192"],  # Unicode has no escape sequences
        ["ISO_IR  100"],
        ["ISO_IR"],
        ["iso_ir 192"],  # read as the default repertoire, so names in it would not be recognised
        ["UNKNOWN"],
        ["ISO_IR 100\ufffd"],
    ],
)
def test_what_is_no_term_is_refused(values: list[str]) -> None:
    assert character_set_verdict(values) == "character-set"


@given(values=st.lists(st.text(max_size=20) | st.sampled_from(sorted(CHARACTER_SETS)), max_size=4))
def test_no_text_comes_through_as_a_character_set(values: list[str]) -> None:
    taken = character_set_verdict(values) is None
    harmless = {"", *CHARACTER_SETS, *MISSPELT_CHARACTER_SETS}
    assert taken == all(value.strip(" \0") in harmless for value in values)


def test_the_character_sets_of_real_files_are_taken(scanner_data: Path) -> None:
    seen: set[str] = set()
    for path in sampled_files(scanner_data):
        dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SpecificCharacterSet"])
        stated = dataset.get("SpecificCharacterSet") or ""
        values = [stated] if isinstance(stated, str) else list(stated)
        assert character_set_verdict(values) is None, path
        seen.update(values)
    assert "ISO_IR 100" in seen


# ---- the policy as a person and a receipt see it


def test_the_policy_prints_every_row_as_it_is_applied() -> None:
    for sop_class in (MR, ENHANCED_MR):
        rows = DEFAULT_PROFILE.describe(sop_class)
        rules, table = DEFAULT_PROFILE.actions(sop_class), load_confidentiality_table()
        printed = {row.tag: row.action for row in rows if row.basic}
        assert len(printed) == len(table.rules)
        for number, rule in table.by_tag.items():
            assert printed[f"({rule.pattern[:4]},{rule.pattern[4:]})"] == rules.by_tag[number].name.lower()
        assert printed["private"] == printed["(60xx,3000)"] == printed["(50xx,xxxx)"] == "remove"


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: " + ".join(c for c, _ in profile.codes()))
def test_the_policy_of_every_profile_is_what_it_does(profile: Profile) -> None:
    rules, rows = profile.actions(MR), profile.describe()
    for row in rows:
        assert not any(mark in text for text in dataclasses.astuple(row) for mark in "\t\n\r")
        if re.fullmatch(r"\([0-9A-F]{4},[0-9A-F]{4}\)", row.tag) and "(in the" not in row.action:
            number = int(row.tag[1:5] + row.tag[6:10], 16)
            vr = DicomDictionary[number][0] if number in DicomDictionary else "UN"
            assert row.action == rules.action(number, vr).name.lower(), row
        assert not row.reason or row.options.startswith("retain_safe_private") or row.reason.endswith("."), row
    closing = {row.name: row.action for row in rows if row.tag in ("UI", "TM", "AS", "DA DT")}
    assert closing["all other UIDs"] == rules.unlisted(tag("SOPClassUID"), "UI").name.lower()
    temporal = {"UNMODIFIED": ("keep", "keep"), "MODIFIED": ("date", "keep")}
    by_type = "dummy, empty or remove by type"
    told = (closing["all other dates"], closing["all other times"])
    assert told == temporal.get(profile.temporal_information(), (by_type, by_type))
    private = [row for row in rows if re.match(r"\([0-9A-F]{4},xx", row.tag)]
    assert bool(private) is (Option.RETAIN_SAFE_PRIVATE in profile.options)


def test_the_policy_says_where_an_option_keeps_nothing() -> None:
    """A C that nothing cleans, a link, a date that would tell a shift: each is removed, and the reason is told."""
    rows = {row.name: row for row in EVERYTHING_MOVED.describe() if row.basic}
    for name in ("Station AE Title", "Principal Diagnosis Code Sequence", "Maker Note", "Retrieve AE Title"):
        assert rows[name].action == "remove"
        assert "not done" in rows[name].reason
    assert rows["Date of Last Calibration"].action == "remove"
    assert "date of the scanner" in rows["Date of Last Calibration"].reason
    assert "Moving days" in rows["Timezone Offset From UTC"].reason
    assert rows["Sex Parameters for Clinical Use Category Reference"].reason == "A link leads to a place."
    assert "retain_device_identity: K" in rows["Date of Last Calibration"].options
    full = {row.name: row for row in EVERYTHING.describe() if row.basic}
    assert (full["Date of Last Calibration"].action, full["Date of Last Calibration"].reason) == ("keep", "")
    by_name = {row.name: row for row in DEFAULT_PROFILE.describe()}
    assert by_name["Study Date"].options == "retain_longitudinal_modified_dates: C"
    assert by_name["Patient's Age"].options == "retain_patient_characteristics: K"
    assert by_name["Sequence Name"].reason
    assert (by_name["Series Description"].action, by_name["Series Description"].reason) == ("descriptor", "")
    assert by_name["Request Attributes Sequence"].reason == "Kept for the descriptors in its items."
    assert by_name["Sequence Name"].action == "descriptor"
    dated = {row.name: row.action for row in DATES.describe()}
    assert dated["Series Description"] == "remove"
    assert dated["Sequence Name"] == "keep"


def test_the_digest_is_the_same_in_every_process_and_another_for_other_rules() -> None:
    program = "from tasks.deidentify.profile import DEFAULT_PROFILE; print(DEFAULT_PROFILE.digest())"
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        assert done.stdout.strip() == DEFAULT_PROFILE.digest()
    assert len({profile.digest() for profile in PROFILES}) == len(PROFILES)


def test_each_decision_names_its_attribute_and_its_reason() -> None:
    sections = json.loads((REPOSITORY / "tasks/deidentify/data/decisions.json").read_text(encoding="utf-8"))
    table = load_confidentiality_table().by_tag
    vrs = {
        "text": TEXT,
        "code_text": TEXT,
        "descriptors": DESCRIPTIVE,
        "bulk": BULK,
        "code_sequences": {"SQ"},
        "not_the_patients_dates": {"DA", "DT", "TM"},
    }
    assert sections.pop("version") == 1
    for section, rows in sections.items():
        numbers = [int(row["tag"], 16) for row in rows]
        assert numbers == sorted(set(numbers)), section
        for number, row in zip(numbers, rows, strict=True):
            assert keyword_for_tag(number) == row["keyword"]
            assert row["reason"][0].isupper()
            assert row["reason"].endswith(".")
            if section in vrs:
                assert set(dictionary_VR(number).split(" or ")) & vrs[section], row
            if section != "not_the_patients_dates":
                assert number not in table, row
