"""Whatever a header says, its place in the tree is safe on every file system and belongs to one identity only."""

from __future__ import annotations

import itertools
import ntpath
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from operator import attrgetter
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydicom.uid import UID_dictionary

from tasks.index.header import read_header
from tasks.index.row import ROW_FIELDS, SHARED_FIELDS, IndexRow, SharedHeader
from tasks.sort.layout import (
    DEEPEST,
    FIELDS,
    LONGEST_NAME,
    LONGEST_PATH,
    PRESETS,
    SOP_CLASSES,
    UNKNOWN_PATIENT,
    Facts,
    Layout,
    LayoutError,
    canonical_header,
    fold,
    parse_layout,
    safe_part,
    series_key,
    short_hash,
    unfold,
)
from tasks.sort.visit import (
    UNKNOWN_DATE,
    Acquired,
    Visit,
    group_visits,
    parse_date,
    patient_key,
    study_key,
    study_times,
)
from tests import strategies
from tests.strategies import make_row

own_values = attrgetter(*ROW_FIELDS)

DEFAULT = parse_layout("patient-date-series")


def facts_of(row: IndexRow) -> Facts:
    date = parse_date(row.shared.study_date)
    visit = Visit(number=1, date=date.isoformat() if date else UNKNOWN_DATE)
    return Facts(series=row.shared, own=row.shared, visit=visit)


def place_of(row: IndexRow, layout: Layout = DEFAULT, *, digest: str = "", digits: int = 8) -> str:
    facts, own = facts_of(row), own_values(row)
    name = layout.file_name_of(own, facts, digest=digest, digits=digits)
    return f"{layout.folder_of(facts, own, digits=digits)}/{name}"


FORBIDDEN = set('<>:"/\\|?*')
"""What Windows allows in no name; Linux forbids the slash alone."""

RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{name}{n}" for name in ("COM", "LPT") for n in "0123456789¹²³")}


# Python 3.13 moved the function.
_reserved_on_windows = getattr(ntpath, "isreserved", None) or (lambda name: PureWindowsPath(name).is_reserved())


def _faults(name: str) -> list[str]:
    """Say why a name is not safe somewhere."""
    found = []
    if name in ("", ".", ".."):
        found.append("no name")
    if len(os.fsencode(name)) > LONGEST_NAME:
        found.append("too long")
    if name.split(".", maxsplit=1)[0].rstrip(" ").upper() in RESERVED:
        found.append("reserved")
    if _reserved_on_windows(name):
        found.append("reserved, says pathlib")
    if name[-1:] in (".", " "):
        found.append("ends with a dot or space")
    if name[:1] in ("-", ".", "~", " "):
        found.append("begins like an option, a hidden file or a home")
    for mark in name:
        if mark in FORBIDDEN:
            found.append(f"holds {mark}")
        if unicodedata.category(mark) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zs", "Zl", "Zp"):
            found.append(f"holds U+{ord(mark):04X}")
    if unicodedata.normalize("NFC", name) != name:
        found.append("another name on a file system that composes")
    return found


def test_the_judge_finds_what_is_unsafe() -> None:
    for name in ("..", "a" * 256, "con", "LPT1.txt", "com¹", "a.", "a ", "-rf", "a:b", "a\nb", "\u202egnp", "u\u0308"):
        assert _faults(name), name
    assert _faults("SYN_Müller_山田_0123abcd") == []


def _templates() -> list[tuple[str, str]]:
    """Make templates that hold every field, alone in a name and beside others, with and without formats."""
    formats = {"number": ":09", "text": ":.200", "name": ":.3"}
    names = list(FIELDS)
    alone = [("/".join(f"{{{name}}}" for name in names[n : n + 5]), "") for n in range(0, len(names), 5)]
    beside = [
        (
            "/".join(f"{{{name}{formats.get(FIELDS[name].kind, '')}}}.{{modality}}" for name in names[n : n + 4]),
            "{series_description}.{" + names[n] + "}-{instance_hash}=",
        )
        for n in range(0, len(names), 4)
    ]
    odd = [
        ("x~{modality}{series_description}{protocol}", "= {station}={series_description}{instance_hash}{protocol} ."),
        ("con.{visit}/con/aux /Mu\u0308 :{patient_name:.3}", "{series_description:.3}{instance_hash}"),
    ]
    return [*((preset, "") for preset in PRESETS), *alone, *beside, *odd]


LAYOUTS = [parse_layout(*templates) for templates in _templates()]


@given(
    strategies.index_rows(),
    st.sampled_from(LAYOUTS),
    st.sampled_from(("", "ab" * 32)),
    st.sampled_from((8, 32)),
)
def test_every_place_is_safe(
    tmp_path_factory: pytest.TempPathFactory, row: IndexRow, layout: Layout, digest: str, digits: int
) -> None:
    place = place_of(row, layout, digest=digest, digits=digits)
    names = place.split("/")
    assert len(names) == layout.canonical.split("\n")[1].count("/") + 2
    assert {name: _faults(name) for name in names if _faults(name)} == {}
    assert len(place.encode()) <= LONGEST_PATH
    root = PurePosixPath("/tree")
    assert os.path.normpath(root / place) == str(root / place)
    assert names[-1].endswith(".dcm")

    # And the file system of this machine takes it.
    target = tmp_path_factory.getbasetemp() / "tree" / place
    target.parent.mkdir(parents=True, exist_ok=True)
    target.touch()


@pytest.mark.parametrize("text", strategies.NASTY_TEXTS, ids=ascii)
def test_nasty_texts_in_every_field(text: str) -> None:
    row = make_row(**dict.fromkeys((*SHARED_FIELDS, *ROW_FIELDS), text))
    hashed = short_hash(text)
    for layout in LAYOUTS:
        for digits in (8, 32):
            place = place_of(row, layout, digest="ab" * 32, digits=digits)
            assert [fault for name in place.split("/") for fault in _faults(name)] == []
            assert len(place.encode()) <= LONGEST_PATH
            # No value was so long that it cost the name its hash.
            assert hashed in place.split("/")[-1]
            longer = unfold([place, place.upper()])
            assert all(len(os.fsencode(name)) <= LONGEST_NAME for path in longer.values() for name in path.split("/"))


@given(strategies.header_texts(), st.integers(8, 80))
def test_parts_keep_their_limit(text: str, limit: int) -> None:
    part = safe_part(text, limit=limit)
    assert len(part.encode("utf-8")) <= limit + 1
    assert part == "" or _faults(part) == []


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("Müller^Jürgen", "Müller_Jürgen"),
        ("Mu\u0308ller", "Müller"),
        ("山田^太郎", "山田_太郎"),
        ("हिन्दी", "हिन्दी"),
        ("t1_mprage 1.0mm", "t1_mprage_1.0mm"),
        ("../../etc", "etc"),
        ("a...b", "a_b"),
        ("-rf", "rf"),
        ("con", "con_"),
        ("con.x", "con_.x"),
        ("console", "console"),
        ("\u202e\u2066", ""),
        ("", ""),
        ("é" * 60, "é" * 40),
        ("a\ufe0fb\u3164\u034f", "ab"),
    ],
)
def test_parts_stay_readable(text: str, part: str) -> None:
    assert safe_part(text) == part


@given(st.lists(st.text(max_size=6), min_size=2, max_size=2), st.lists(st.text(max_size=6), min_size=2, max_size=2))
@example(["a\0b", "c"], ["a", "b\0c"])
@example(["a\1", "b"], ["a", "\1b"])
@example(["\0", ""], ["", "\0"])
def test_hashes_of_two_identities_differ(one: list[str], other: list[str]) -> None:
    assert (short_hash(*one, digits=64) == short_hash(*other, digits=64)) == (one == other)


SPELLINGS = (
    "Müller",
    "Mu\u0308ller",
    "MÜLLER",
    "müller",
    "Mueller",
    "straße",
    "STRASSE",
    "strasse",
    "ﬁ",
    "fi",
    "a/b",
    "a:b",
)
SPELLINGS += ("K", "\u212a", "a ", "a", "İ", "i̇", "ſ", "s", "山田", "\u0130", "Σ", "ς", "σ")


def _seen_by_file_systems(name: str) -> set[str]:
    return {
        unicodedata.normalize(form, unicodedata.normalize(form, name).casefold())
        for form in ("NFC", "NFD", "NFKC", "NFKD")
    }


def test_two_patients_never_share_a_folder() -> None:
    """Not on a file system that folds case, nor on one that decomposes letters: every pair of IDs and names."""
    seen: dict[str, tuple[str, str]] = {}
    patients = set()
    for number, name in itertools.product(SPELLINGS, SPELLINGS):
        # Spaces at the end of a name are padding (PS3.5 section 6.2); at the end of an ID the reader took them away.
        patient = (number, name.rstrip(" "))
        patients.add(patient)
        folder = place_of(make_row(patient_id=number, patient_name=name)).split("/")[0]
        for form in (fold(folder), *_seen_by_file_systems(folder)):
            assert seen.setdefault(form, patient) == patient
    assert len({short_hash(*patient) for patient in patients}) == len(patients)


@given(st.sets(st.sampled_from((*SPELLINGS, *strategies.NASTY_TEXTS)), min_size=2))
def test_two_patient_ids_never_share_a_folder_without_the_patients_hash(numbers: set[str]) -> None:
    layout = parse_layout("patient-id")
    folders = {number: place_of(make_row(patient_id=number), layout).split("/")[0] for number in numbers}
    renamed = unfold(folders.values())
    final = {fold(renamed.get(folder, folder)) for folder in folders.values()}
    assert len(final) == len(numbers)


@given(
    strategies.index_rows(),
    strategies.index_rows(),
    st.sets(st.sampled_from((*SHARED_FIELDS, *ROW_FIELDS))),
    st.sampled_from(("patient-date-series", "flat-series", "{modality}/{series_hash}")),
)
def test_equal_places_mean_equal_identities(one: IndexRow, other: IndexRow, kept: set[str], template: str) -> None:
    layout = parse_layout(template)
    values = {name: getattr(one.shared, name) for name in SHARED_FIELDS}
    values |= {name: getattr(one, name) for name in ROW_FIELDS}
    values |= {name: getattr(other if name in ROW_FIELDS else other.shared, name) for name in kept}
    other = make_row(**values)
    same = series_key(one.shared) == series_key(other.shared) and one.sop_instance_uid == other.sop_instance_uid
    if fold(place_of(one, layout)) == fold(place_of(other, layout)):
        assert same
    if same:
        # What is said of the series is said of all its files.
        series = canonical_header([one.shared, other.shared])
        visit = Visit(number=1, date=UNKNOWN_DATE)
        folders = {layout.folder_of(Facts(series=series, own=row.shared, visit=visit)) for row in (one, other)}
        assert len(folders) == 1


@given(strategies.index_rows())
def test_place_depends_on_nothing_else(row: IndexRow) -> None:
    shared = replace(row.shared, slow_path="big-endian", transfer_syntax_uid="1.2", image_type="OTHER", echo_time="3")
    moved = replace(row, path=b"elsewhere", shared=shared, acquisition_time="1000")
    assert place_of(moved) == place_of(row)


@given(strategies.index_rows(), st.sampled_from(LAYOUTS), st.sampled_from(("", "ab" * 32)))
def test_the_fast_way_of_naming_many_files_names_them_alike(row: IndexRow, layout: Layout, digest: str) -> None:
    facts = facts_of(row)
    namer = layout.file_namer(facts, digits=32)
    for number in ("1", "2", row.instance_number):
        own = own_values(replace(row, instance_number=number))
        assert namer(own, digest) == layout.file_name_of(own, facts, digest=digest, digits=32)


def test_two_series_of_one_name_stay_two() -> None:
    row = make_row(series_number="12", series_description="dti", series_instance_uid="2.25.1")
    twin = replace(row.shared, series_instance_uid="2.25.2")
    copied = replace(row.shared, study_instance_uid="2.25.9")
    folders = {place_of(replace(row, shared=shared)).split("/")[2] for shared in (row.shared, twin, copied)}
    assert len(folders) == 3
    assert all(re.fullmatch(r"012_dti_[0-9a-f]{8}", folder) for folder in folders)


def test_one_series_uid_under_two_patients_stays_two() -> None:
    row = make_row(patient_id="1", study_instance_uid="2.25.1", series_instance_uid="2.25.2")
    stranger = replace(row, shared=replace(row.shared, patient_id="2"))
    for layout in map(parse_layout, ("patient-date-series", "flat-series", "patient-id", "{series_hash}")):
        assert place_of(row, layout).split("/")[0] != place_of(stranger, layout).split("/")[0]


def test_two_patients_that_nobody_named_stay_two() -> None:
    rows = [make_row(study_instance_uid=uid, study_date="20240229") for uid in ("2.25.1", "2.25.2")]
    folders = {place_of(row).split("/")[0] for row in rows}
    assert len(folders) == 2
    assert all(re.fullmatch(UNKNOWN_PATIENT + r"_[0-9a-f]{8}", folder) for folder in folders)


# Values --------------------------------------------------------------------------------------------------------------

SCAN = make_row(
    sop_class_uid="1.2.840.10008.5.1.4.1.1.4",
    patient_id="P 7",
    patient_name="Müller^Jürgen^^",
    patient_birth_date="19800229",
    study_date="20240229",
    study_time="101112.345",
    study_id="4711",
    study_description="Brain^Routine",
    study_instance_uid="1.2.3",
    series_instance_uid="1.2.3.4",
    series_date="2024.02.29",
    series_time="10:15",
    series_number="3",
    series_description="t1 mprage",
    protocol_name="t1_mprage_sag",
    sequence_name="*tfl3d1",
    accession_number="A-1",
    modality="MR",
    manufacturer="ACME",
    manufacturer_model_name="One",
    station_name="MR1",
    device_serial_number="0815",
    institution_name="Clinic",
    referring_physician_name="Doe^J",
    image_type="ORIGINAL\\PRIMARY\\P\\ND",
    echo_numbers="2",
    echo_time="4.92",
    image_orientation_patient="1\\0\\0\\0\\1\\0",
    sop_instance_uid="1.2.3.4.5",
    instance_number="17",
    acquisition_number="1",
    acquisition_datetime="20240301000102.5+0100",
)


def _show(template: str, row: IndexRow = SCAN) -> str:
    return parse_layout(template).folder_of(facts_of(row), own_values(row))


@pytest.mark.parametrize(
    ("field", "shown"),
    [
        ("patient", f"P_7_Müller_Jürgen_{short_hash('P 7', 'Müller^Jürgen')}"),
        ("patient_id", f"P_7_{short_hash('P 7')}"),
        ("patient_name", "Müller_Jürgen"),
        ("patient_hash", short_hash("P 7", "Müller^Jürgen")),
        ("patient_birth_date", "1980-02-29"),
        ("visit", "1"),
        ("visit_date", "2024-02-29"),
        ("study_date", "2024-02-29"),
        ("study_time", "101112"),
        ("study_id", "4711"),
        ("study_description", "Brain_Routine"),
        ("study_uid", "1.2.3"),
        ("study_hash", short_hash("P 7", "Müller^Jürgen", "1.2.3")),
        ("accession_number", "A-1"),
        ("referring_physician", "Doe_J"),
        ("institution", "Clinic"),
        ("modality", "MR"),
        ("manufacturer", "ACME"),
        ("model", "One"),
        ("station", "MR1"),
        ("device_serial", "0815"),
        ("series_number", "3"),
        ("series_description", "t1_mprage"),
        ("series_date", "2024-02-29"),
        ("series_time", "101500"),
        ("protocol", "t1_mprage_sag"),
        ("sequence", "tfl3d1"),
        ("scan_type", "t1_mprage"),
        ("series_uid", "1.2.3.4"),
        ("series_hash", short_hash("P 7", "Müller^Jürgen", "1.2.3", "1.2.3.4")),
        ("image_type", "ORIGINAL-PRIMARY-P-ND"),
        ("echo", "2"),
        ("echo_time", "4.92"),
        ("orientation", "axial"),
        ("subgroup", "echo-2_phase_axial"),
        ("sop_class", "MR"),
        ("acquisition_number", "1"),
        ("acquisition_date", "2024-03-01"),
        ("acquisition_time", "000102"),
        ("instance_number", "17"),
        ("instance_uid", "1.2.3.4.5"),
        ("instance_hash", short_hash("1.2.3.4.5")),
    ],
)
def test_each_field_shows_what_it_says(field: str, shown: str) -> None:
    assert _show(f"{{{field}}}") == shown
    field_varies = FIELDS[field].varies
    assert parse_layout(f"{{{field}}}").folder_needs_row == (field_varies == "file")
    # A missing value is named as a whole folder, and left out of a part of one.
    empty = make_row()
    if field not in ("visit", "visit_date", "patient") and FIELDS[field].kind != "hash":
        assert _show(f"{{{field}}}", empty) == f"unknown-{field}"
        assert _show(f"a-{{{field}}}_{{visit}}", empty) == "1"
        assert _show(f"v{{visit}}_{{{field}}}_{{visit}}", empty) == "v1_1"


def test_every_field_is_shown_above() -> None:
    (mark,) = (one for one in test_each_field_shows_what_it_says.pytestmark if one.name == "parametrize")
    assert {case[0] for case in mark.args[1]} == set(FIELDS)


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_varies_only_as_it_says(field: str) -> None:
    """What a folder is asked for once a series or header must not be read from anything that differs within."""
    other = make_row(**dict.fromkeys((*SHARED_FIELDS, *ROW_FIELDS), "20200101"))
    facts, strange = facts_of(SCAN), facts_of(other)
    layout = parse_layout(f"{{{field}}}")
    shown = layout.folder_of(facts, own_values(SCAN))
    others = {
        "series": layout.folder_of(strange, own_values(SCAN)) != shown,
        "header": layout.folder_of(replace(facts, own=other.shared), own_values(SCAN)) != shown,
        "file": layout.folder_of(facts, own_values(other)) != shown,
    }
    varies = FIELDS[field].varies
    if varies == "series":
        assert not others["header"]
    if varies != "file":
        assert not others["file"]
    assert others[varies] or field == "visit"


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("{series_number:03}_{series_description}_{series_hash}", "003_t1_mprage_"),
        ("{series_description:.2}", "t1"),
        ("{series_description:.3}", "t1"),
        ("{series_description:.200}", "t1_mprage"),
        ("sub-{patient_name}_ses-{visit:02}", "sub-Müller_Jürgen_ses-01"),
        ("a b:{modality}?", "a_b_MR"),
        ("{patient_id:.1}", f"P_{short_hash('P 7')}"),
        ("dicom/{modality}", "dicom/MR"),
    ],
)
def test_templates(template: str, shown: str) -> None:
    assert _show(template).startswith(shown)


@pytest.mark.parametrize(
    ("missing", "shown"),
    [
        ({"series_description": ""}, r"003_[0-9a-f]{8}"),
        ({"series_description": "///"}, r"003_[0-9a-f]{8}"),
        ({"series_number": ""}, r"t1_mprage_[0-9a-f]{8}"),
        ({"series_number": "-3"}, r"t1_mprage_[0-9a-f]{8}"),
        ({"series_number": "1.5"}, r"t1_mprage_[0-9a-f]{8}"),
        ({"series_number": "٣"}, r"t1_mprage_[0-9a-f]{8}"),
        ({"series_number": "9" * 13}, r"t1_mprage_[0-9a-f]{8}"),
        ({"series_number": " +3 "}, r"003_t1_mprage_[0-9a-f]{8}"),
        ({"series_number": "0003"}, r"003_t1_mprage_[0-9a-f]{8}"),
        ({"series_number": "0"}, r"000_t1_mprage_[0-9a-f]{8}"),
        ({"series_number": "123456"}, r"123456_t1_mprage_[0-9a-f]{8}"),
        ({"series_number": "", "series_description": ""}, r"[0-9a-f]{8}"),
    ],
)
def test_what_is_missing_leaves_no_gap(missing: dict[str, str], shown: str) -> None:
    row = replace(SCAN, shared=replace(SCAN.shared, **missing))
    assert re.fullmatch(shown, _show("{series_number:03}_{series_description}_{series_hash}", row))


def test_scan_type_takes_what_there_is() -> None:
    protocol = replace(SCAN, shared=replace(SCAN.shared, series_description="^"))
    modality = replace(SCAN, shared=replace(SCAN.shared, series_description="", protocol_name=""))
    assert [_show("{scan_type}", row) for row in (SCAN, protocol, modality)] == ["t1_mprage", "t1_mprage_sag", "MR"]


@pytest.mark.parametrize("uid", SOP_CLASSES)
def test_short_names_are_those_of_the_sop_classes(uid: str) -> None:
    keyword = UID_dictionary[uid][4]
    assert keyword.removesuffix("Storage").removesuffix("Image") == SOP_CLASSES[uid]


def test_an_unheard_of_sop_class_shows_its_uid() -> None:
    assert _show("{sop_class}", make_row(sop_class_uid="1.3.12.2.1107.5.9.1")) == "1.3.12.2.1107.5.9.1"


def test_nothing_known_has_a_place() -> None:
    patient, date, series, instance = place_of(make_row()).split("/")
    assert patient.startswith(UNKNOWN_PATIENT)
    assert date == UNKNOWN_DATE
    assert re.fullmatch(r"[0-9a-f]{8}", series)
    assert re.fullmatch(r"[0-9a-f]{8}\.dcm", instance)


def test_digest_tells_two_contents_apart() -> None:
    names = [place_of(SCAN, digest=digest).split("/")[-1] for digest in ("", "a" * 64, "b" * 64)]
    plain = f"00017_{short_hash('1.2.3.4.5')}"
    assert names == [f"{plain}.dcm", f"{plain}_aaaaaaaa.dcm", f"{plain}_bbbbbbbb.dcm"]
    longer = place_of(SCAN, digest="a" * 64, digits=32).split("/")[-1]
    assert longer == f"00017_{short_hash('1.2.3.4.5', digits=32)}_{'a' * 32}.dcm"


# Presets and templates -----------------------------------------------------------------------------------------------


def test_presets() -> None:
    patient = f"P_7_Müller_Jürgen_{short_hash('P 7', 'Müller^Jürgen')}"
    number = f"P_7_{short_hash('P 7')}"
    series = f"003_t1_mprage_{short_hash('P 7', 'Müller^Jürgen', '1.2.3', '1.2.3.4')}"
    instance = f"00017_{short_hash('1.2.3.4.5')}.dcm"
    assert {name: place_of(SCAN, parse_layout(name)) for name in PRESETS} == {
        "patient-date-series": f"{patient}/2024-02-29/{series}/{instance}",
        "patient-date-type": f"{patient}/2024-02-29/t1_mprage/003_{instance}",
        "patient-id": f"{number}/003_{instance}",
        "flat-series": f"{number}_2024-02-29_{series}/{instance}",
    }


def test_a_given_file_name_wins() -> None:
    layout = parse_layout("patient-id", "{modality}.{instance_hash}")
    assert place_of(SCAN, layout).endswith(f"/MR.{short_hash('1.2.3.4.5')}.dcm")


def test_a_preset_and_its_template_are_one_layout() -> None:
    for folders, file_name in PRESETS.values():
        (preset,) = (name for name, templates in PRESETS.items() if templates == (folders, file_name))
        assert parse_layout(folders, file_name).canonical == parse_layout(preset).canonical
    assert len({parse_layout(*templates).canonical for templates in _templates()}) == len(_templates())


@pytest.mark.parametrize(
    ("layout", "faults"),
    [
        ("", ["layout is empty"]),
        (" ", ["layout is empty"]),
        ("patient-date-serie", ["neither a preset (patient-date-series, "]),
        ("a/b", ["neither a preset"]),
        ("/{patient}", ["absolute"]),
        ("~data/{patient}", ["absolute"]),
        ("C:{patient}", ["absolute"]),
        ("{patient}\\{visit}", ["backslash"]),
        ("{patient}//{visit}", ["folder without a name"]),
        ("{patient}/", ["folder without a name"]),
        ("{patient}/../{visit}", ["must not hold '..'"]),
        ("{patient}/a..{visit}", ["must not hold '..'"]),
        ("{patient}/./{visit}", ["no letter and no digit"]),
        ("{patient}/ /{visit}", ["no letter and no digit"]),
        ("{patient", ["brace"]),
        ("patient}", ["brace"]),
        ("{patient}}", ["brace"]),
        ("{{patient}}", ["brace"]),
        ("{}", ["field {} that does not exist"]),
        ("{patient_hsh}", ["did you mean {patient_hash}?"]),
        ("{xyzzy}", ["there are patient, patient_id"]),
        ("{patient!r}", ["does not exist"]),
        ("{patient.path}", ["does not exist"]),
        ("{patient[0]}", ["does not exist"]),
        ("{ patient }", ["does not exist"]),
        ("{series_number:3}", ["{series_number:03}"]),
        ("{series_number:03d}", ["{series_number:03}"]),
        ("{series_number:00}", ["{series_number:03}"]),
        ("{series_number:}", ["{series_number:03}"]),
        ("{series_number:.3}", ["{series_number:03}"]),
        ("{series_description:20}", ["{series_description:.20}"]),
        ("{series_description:.0}", ["{series_description:.20}"]),
        ("{series_description:.201}", ["{series_description:.20}"]),
        ("{series_description:.{visit}}", ["brace"]),
        ("{visit_date:03}", ["takes no format"]),
        ("{series_hash:.4}", ["takes no format"]),
        ("{patient:.4}", ["takes no format"]),
        ("/".join(["{visit}"] * (DEEPEST + 1)), ["more than 8 folders"]),
        ("{patient}" * 4 + "x" * 40, ["too long"]),
        ("x" * 250 + "{visit}", ["too long"]),
        ("é" * 110 + "{modality}", ["too long"]),
        (
            "/{patient}/{foo}/../{series_number:3}}//x",
            ["absolute", "folder without a name", "{foo}", "'..'", "{series_number:03}", "brace"],
        ),
    ],
)
def test_every_fault_of_a_layout_is_told(layout: str, faults: list[str]) -> None:
    with pytest.raises(LayoutError) as caught:
        parse_layout(layout)
    told = caught.value.faults
    assert all(fault.startswith("layout ") for fault in told)
    assert len(told) == len(faults)
    for expected in faults:
        assert any(expected in fault for fault in told), (expected, told)


@pytest.mark.parametrize(
    ("file_name", "faults"),
    [
        (" ", ["file_name is empty"]),
        ("{instance_number}", ["must hold {instance_hash}"]),
        ("x/{instance_hash}", ["folder"]),
        ("x\\{instance_hash}", ["folder"]),
        ("{instance_hash}.DCM", ["ends in .dcm"]),
        ("{instance_hash}{", ["brace"]),
        ("{instance_hash}_{echo:3}", ["{echo:03}"]),
        ("{instance_hash}..{echo}", ["'..'"]),
        ("{instance_hash}" + "x" * 200, ["too long"]),
    ],
)
def test_every_fault_of_a_file_name_is_told_beside_those_of_the_layout(file_name: str, faults: list[str]) -> None:
    with pytest.raises(LayoutError) as caught:
        parse_layout("nonsense", file_name)
    layout, *told = caught.value.faults
    assert layout.startswith("layout is neither")
    assert len(told) == len(faults)
    for fault, expected in zip(told, faults, strict=True):
        assert fault.startswith("file_name ")
        assert expected in fault


@given(st.text(alphabet=st.sampled_from("{}:/._-0123 apvisit~\\é"), max_size=40), strategies.index_rows())
@example("{patient}/{visit}", make_row())
def test_any_template_is_refused_or_safe(template: str, row: IndexRow) -> None:
    try:
        layout = parse_layout(template.replace("v", "{visit}").replace("p", "{patient_name}"))
    except LayoutError:
        return
    assert [fault for name in place_of(row, layout).split("/") for fault in _faults(name)] == []


# Series whose files disagree -----------------------------------------------------------------------------------------


@st.composite
def headers_of_a_series(draw: st.DrawFn) -> list[SharedHeader]:
    """Headers that say the same of patient, study and series, and anything of the rest."""
    rows = draw(st.lists(strategies.index_rows(), min_size=1, max_size=4))
    first = rows[0].shared
    same = {
        name: getattr(first, name)
        for name in ("patient_id", "study_instance_uid", "series_instance_uid", "study_date")
        + (() if first.series_instance_uid else ("modality", "series_number", "series_description"))
    }
    names = st.sampled_from((first.patient_name, first.patient_name + "^^", first.patient_name + "="))
    return [replace(row.shared, **same, patient_name=draw(names)) for row in rows]


@strategies.FEWER
@given(headers_of_a_series(), st.randoms(use_true_random=False))
def test_a_series_has_one_header_whatever_the_order(headers: list[SharedHeader], random: object) -> None:
    canonical = canonical_header(headers)
    shuffled = headers * 2
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert canonical_header(shuffled) == canonical
    assert canonical_header([canonical]) == canonical
    assert {series_key(one) for one in (*headers, canonical)} == {series_key(canonical)}
    assert patient_key(canonical) == patient_key(headers[0])
    assert study_key(canonical) == study_key(headers[0])
    for name in SHARED_FIELDS:
        values = {getattr(one, name) for one in headers}
        assert getattr(canonical, name) in values
        assert getattr(canonical, name) or values == {""}


def test_a_series_that_arrives_on_two_nights_is_one_folder() -> None:
    first = replace(SCAN.shared, study_date="20240301", series_description="")
    second = replace(SCAN.shared, echo_numbers="1", manufacturer="")
    series = canonical_header([first, second])
    assert (series.study_date, series.series_description, series.manufacturer) == ("20240229", "t1 mprage", "ACME")
    visit = Visit(number=1, date="2024-02-29")
    assert len({DEFAULT.folder_of(Facts(series=series, own=own, visit=visit)) for own in (first, second)}) == 1
    echoes = parse_layout("{series_number}/{echo}")
    assert echoes.varies == "header"
    assert {echoes.folder_of(Facts(series=series, own=own, visit=visit)) for own in (first, second)} == {"3/1", "3/2"}


def test_series_without_uid_are_told_apart_by_what_names_them() -> None:
    row = make_row(study_instance_uid="2.25.1", series_number="1", series_description="t1")
    others = [replace(row.shared, series_number="2"), replace(row.shared, series_description="t2")]
    assert len({series_key(shared) for shared in (row.shared, *others)}) == 3


# Folders that fold together ------------------------------------------------------------------------------------------


def _apply(folders: Iterable[str]) -> dict[str, str]:
    folders = list(folders)
    renamed = unfold(folders)
    assert set(renamed) <= set(folders)
    return {folder: renamed.get(folder, folder) for folder in folders}


_spelled = st.sampled_from([part for part in map(safe_part, SPELLINGS) if part] + ["b", "B", "c"])


@given(
    st.sets(st.lists(_spelled, min_size=2, max_size=3).map("/".join), max_size=12), st.randoms(use_true_random=False)
)
def test_no_two_folders_fold_together(folders: set[str], random: object) -> None:
    final = _apply(sorted(folders))
    assert len({fold(name) for name in final.values()}) == len(folders)
    # At every level: two folders share a parent if and only if they did.
    for one in folders:
        for other in folders:
            for depth in (1, 2):
                before = one.split("/")[:depth] == other.split("/")[:depth]
                after = [fold("/".join(final[folder].split("/")[:depth])) for folder in (one, other)]
                assert before == (after[0] == after[1])
    shuffled = sorted(folders)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert unfold(shuffled) == unfold(sorted(folders))
    # Once is enough.
    assert unfold(final.values()) == {}


def test_only_what_collides_is_renamed() -> None:
    final = _apply(["P/a/x", "p/a/x", "q/straße/x", "q/STRASSE/x", "q/z/x", "r/a", "s/A"])
    assert final == {
        "P/a/x": f"P_{short_hash('P')}/a/x",
        "p/a/x": f"p_{short_hash('p')}/a/x",
        "q/straße/x": f"q/straße_{short_hash('straße')}/x",
        "q/STRASSE/x": f"q/STRASSE_{short_hash('STRASSE')}/x",
        "q/z/x": "q/z/x",
        "r/a": "r/a",
        "s/A": "s/A",
    }


def test_a_folder_that_is_called_like_a_renamed_one_gives_way() -> None:
    taken = f"a_{short_hash('a')}"
    for folders in (["a", "A", taken], ["a", "A", taken, taken.upper()]):
        final = _apply(folders)
        assert final == {name: f"{name}_{short_hash(name)}" for name in folders}
        assert len({fold(name) for name in final.values()}) == len(folders)


def test_spellings_whose_short_hashes_meet_get_long_ones() -> None:
    one, other = "ReStinG-staTe-boLd-run", "reStING-STAtE-boLd-run"
    assert short_hash(one) == short_hash(other)
    assert unfold([one, other]) == {name: f"{name}_{short_hash(name, digits=32)}" for name in (one, other)}


def test_renamed_names_are_not_too_long() -> None:
    long = "é" * 127
    final = _apply([long, long.upper()])
    assert len({fold(name) for name in final.values()}) == 2
    assert all(len(name.encode()) <= LONGEST_NAME for name in final.values())


def test_letters_that_show_nothing_make_no_other_name() -> None:
    """They do not count on ext4 with case folding."""
    assert fold("a\ufe0f") == fold("a\u034f") == fold("A\u3164") == "a"
    assert len(set(_apply(["a", "a\ufe0f"]).values())) == 2


# Real files ----------------------------------------------------------------------------------------------------------


def test_files_of_real_scanners_have_safe_places_of_their_own(scanner_data: Path) -> None:
    root = os.fsencode(scanner_data)
    files = sorted(os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names)
    outcomes = [read_header(root, os.path.relpath(file, root)) for file in files[::8]]
    rows = [outcome for outcome in outcomes if isinstance(outcome, IndexRow) and outcome.sop_instance_uid]
    assert len(rows) > 100
    headers: dict[tuple[str, ...], list[SharedHeader]] = defaultdict(list)
    for row in rows:
        headers[series_key(row.shared)].append(row.shared)
    visits = group_visits(study_times(Acquired(shared=row.shared) for row in rows), gap_hours=4, overrides={})
    series = {key: canonical_header(found) for key, found in headers.items()}
    identities = {(series_key(row.shared), row.sop_instance_uid) for row in rows}
    for preset in PRESETS:
        layout = parse_layout(preset)
        places = set()
        for row in rows:
            visit = visits[patient_key(row.shared), study_key(row.shared)]
            facts = Facts(series=series[series_key(row.shared)], own=row.shared, visit=visit)
            places.add(f"{layout.folder_of(facts)}/{layout.file_name_of(own_values(row), facts)}")
        final = _apply({place.rpartition("/")[0] for place in places})
        assert len({fold(final[place.rpartition("/")[0]] + place) for place in places}) == len(identities)
        assert [fault for place in places for name in place.split("/") for fault in _faults(name)] == []
