"""Whatever a header says, its place in the tree is safe on every file system and belongs to one identity only."""

from __future__ import annotations

import itertools
import os
import re
import unicodedata
from collections import defaultdict
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.index.header import read_header
from tasks.index.row import ROW_FIELDS, SHARED_FIELDS, IndexRow, SharedHeader
from tasks.sort.fields import FIELDS, Facts, canonical_header, series_key
from tasks.sort.layout import (
    DEEPEST,
    LONGEST_PATH,
    PRESETS,
    UNKNOWN_PATIENT,
    Layout,
    LayoutError,
    parse_layout,
)
from tasks.sort.names import LONGEST_NAME, fold, short_hash, unfold
from tasks.sort.visit import UNKNOWN_DATE, Acquired, Visit, group_visits, patient_key, study_key, study_times
from tests import strategies
from tests.sort.places import SCAN, SPELLINGS, facts_of, own_values, place_of, show, told_apart, unsafe_in
from tests.strategies import make_row


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
    assert {name: unsafe_in(name) for name in names if unsafe_in(name)} == {}
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
            assert [fault for name in place.split("/") for fault in unsafe_in(name)] == []
            assert len(place.encode()) <= LONGEST_PATH
            # No value was so long that it cost the name its hash.
            assert hashed in place.split("/")[-1]
            longer = unfold([place, place.upper()])
            assert all(len(os.fsencode(name)) <= LONGEST_NAME for path in longer.values() for name in path.split("/"))


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


# Presets and templates -----------------------------------------------------------------------------------------------


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
    assert show(template).startswith(shown)


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
    assert re.fullmatch(shown, show("{series_number:03}_{series_description}_{series_hash}", row))


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
    assert [fault for name in place_of(row, layout).split("/") for fault in unsafe_in(name)] == []


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
        final = told_apart({place.rpartition("/")[0] for place in places})
        assert len({fold(final[place.rpartition("/")[0]] + place) for place in places}) == len(identities)
        assert [fault for place in places for name in place.split("/") for fault in unsafe_in(name)] == []
