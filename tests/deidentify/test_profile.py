"""Every attribute that a file can hold gets an action, and none that could identify a person is kept unexamined."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydicom.datadict import DicomDictionary, RepeatersDictionary, dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.sr.codedict import codes
from pydicom.uid import UID_dictionary

from tasks.deidentify.profile import (
    DEFAULT_PROFILE,
    EXPORTED_CLASSES,
    REFUSAL_REASONS,
    STAMPED_TAGS,
    SUPPORTED_OPTIONS,
    Action,
    Option,
    Profile,
    Rules,
    load_decisions,
    sop_class_verdict,
)
from tasks.deidentify.standard import load_attribute_types, load_confidentiality_table
from tasks.errors import UsageError
from tests.conftest import REPOSITORY

MR = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
PET = "1.2.840.10008.5.1.4.1.1.128"
ENHANCED_PET = "1.2.840.10008.5.1.4.1.1.130"

BASIC = Profile(options=frozenset())
DATES = Profile(options=frozenset({Option.RETAIN_LONGITUDINAL_MODIFIED_DATES}))
CHARACTERISTICS = Profile(options=frozenset({Option.RETAIN_PATIENT_CHARACTERISTICS}))
PROFILES = (BASIC, DATES, CHARACTERISTICS, DEFAULT_PROFILE)

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
    rules = DEFAULT_PROFILE.actions(MR)
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
    assert at(DEFAULT_PROFILE, MR, "EthnicGroupCodeSequence", "CodeMeaning") is Action.KEEP
    assert at(DEFAULT_PROFILE, MR, "PatientBodyMassIndex") is Action.KEEP
    assert at(DATES, MR, "PatientBodyMassIndex") is Action.REMOVE
    assert at(DATES, MR, "PatientAge") is Action.REMOVE


def test_an_option_that_is_not_done_is_refused_by_name() -> None:
    for option in set(Option) - SUPPORTED_OPTIONS:
        with pytest.raises(UsageError, match=option.meaning):
            Profile(options=frozenset({option}))


def test_the_codes_say_exactly_what_is_done() -> None:
    assert DEFAULT_PROFILE.codes() == [
        ("113100", "Basic Application Confidentiality Profile"),
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
    retained = {
        number
        for number, rule in table.items()
        if rule.under("retain_patient_characteristics") == "K"
        and Option.RETAIN_PATIENT_CHARACTERISTICS in profile.options
    }
    shifted = Option.RETAIN_LONGITUDINAL_MODIFIED_DATES in profile.options
    assert len(DicomDictionary) > 5000
    for name, rules in levels(profile).items():
        top = rules.action(tag("DeidentificationMethod"), "LO") is Action.KEEP
        may_keep = examined | retained | (STAMPED_TAGS if top else set())
        if name == "examined codes":
            may_keep = may_keep | decisions.code_text.keys()
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
                ), where
            elif vr == "PN":
                assert action in (Action.REMOVE, Action.EMPTY, Action.DUMMY, Action.PSEUDONYM), where
            elif vr in ("DA", "DT"):
                assert action is not Action.KEEP, where
                assert action is not Action.DATE or shifted, where
            elif vr == "UI":
                assert action in (Action.UID, Action.REMOVE), where
            elif vr == "AS":
                assert action is not Action.KEEP, where
            elif vr == "TM":
                assert action is not Action.KEEP or shifted, where
            if action is Action.UID:
                assert vr == "UI", where
            if action is Action.DATE:
                assert vr in ("DA", "DT"), where
            if action is Action.AGE:
                assert vr == "AS", where


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
        ("SequenceName", "OB", Action.REMOVE),  # examined as text, not as anything else
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
    again = Profile(options=SUPPORTED_OPTIONS).actions(MR + "\0")  # padded as in the file
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
                if action is not Action.KEEP:
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
    by_name = {row.name: row for row in DEFAULT_PROFILE.describe()}
    assert by_name["Study Date"].options == "retain_longitudinal_modified_dates: C"
    assert by_name["Patient's Age"].options == "retain_patient_characteristics: K"
    assert by_name["Sequence Name"].reason


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
