"""Each field of a template shows what it says, and a series shows one thing however its files disagree."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID_dictionary

from tasks.index.row import ROW_FIELDS, SHARED_FIELDS, SharedHeader
from tasks.sort.fields import FIELDS, SOP_CLASSES, Facts, canonical_header, series_key
from tasks.sort.layout import parse_layout
from tasks.sort.names import short_hash
from tasks.sort.visit import Visit, patient_key, study_key
from tests import strategies
from tests.sort.places import DEFAULT, SCAN, facts_of, own_values, show
from tests.strategies import make_row


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
    assert show(f"{{{field}}}") == shown
    field_varies = FIELDS[field].varies
    assert parse_layout(f"{{{field}}}").folder_needs_row == (field_varies == "file")
    # A missing value is named as a whole folder, and left out of a part of one.
    empty = make_row()
    if field not in ("visit", "visit_date", "patient") and FIELDS[field].kind != "hash":
        assert show(f"{{{field}}}", empty) == f"unknown-{field}"
        assert show(f"a-{{{field}}}_{{visit}}", empty) == "1"
        assert show(f"v{{visit}}_{{{field}}}_{{visit}}", empty) == "v1_1"


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


def test_scan_type_takes_what_there_is() -> None:
    protocol = replace(SCAN, shared=replace(SCAN.shared, series_description="^"))
    modality = replace(SCAN, shared=replace(SCAN.shared, series_description="", protocol_name=""))
    assert [show("{scan_type}", row) for row in (SCAN, protocol, modality)] == ["t1_mprage", "t1_mprage_sag", "MR"]


@pytest.mark.parametrize("uid", SOP_CLASSES)
def test_short_names_are_those_of_the_sop_classes(uid: str) -> None:
    keyword = UID_dictionary[uid][4]
    assert keyword.removesuffix("Storage").removesuffix("Image") == SOP_CLASSES[uid]


def test_an_unheard_of_sop_class_shows_its_uid() -> None:
    assert show("{sop_class}", make_row(sop_class_uid="1.3.12.2.1107.5.9.1")) == "1.3.12.2.1107.5.9.1"


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
