"""What belongs to one visit is filed as one visit, whatever the scanner's clock and operator did."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.index.row import SHARED_FIELDS, SharedHeader
from tasks.sort.names import short_hash
from tasks.sort.visit import (
    UNKNOWN_DATE,
    Acquired,
    StudyTimes,
    Visit,
    VisitOverride,
    VisitTableError,
    correct_patients,
    group_visits,
    parse_date,
    parse_date_time,
    parse_time,
    patient_key,
    read_visit_overrides,
    study_key,
    study_times,
)
from tests import strategies

ANNA = {"patient_id": "P1", "patient_name": "TEST^ANNA"}


def header(study: str = "1.1", **values: str) -> SharedHeader:
    return SharedHeader(
        **{**dict.fromkeys(SHARED_FIELDS, ""), **(ANNA | {"study_instance_uid": study} | values)},
    )


def visits_of(
    *acquired: Acquired | SharedHeader, gap_hours: float = 4, overrides: dict[str, VisitOverride] | None = None
) -> dict[str, tuple[int, str]]:
    """Group, and return for each DICOM study the number and date of its visit."""
    given = [one if isinstance(one, Acquired) else Acquired(shared=one) for one in acquired]
    found = group_visits(study_times(given), gap_hours=gap_hours, overrides=overrides or {})
    return {study: (visit.number, visit.date) for (_, study), visit in found.items()}


# What a clock says ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("20240229", "2024-02-29"),
        (" 20240229", "2024-02-29"),
        ("2024.02.29", "2024-02-29"),
        ("2024-02-29", "2024-02-29"),
        ("20230301080000.000000+1000", "2023-03-01"),
        ("20230301\\20240301", "2023-03-01"),
        ("99991231", "9999-12-31"),
        ("20230229", ""),
        ("2024.0229", ""),
        ("2020111", ""),
        ("202011 1", ""),
        ("٢٠٢٤٠٢٢٩", ""),
        ("00000000", ""),
        ("", ""),
    ],
)
def test_dates(text: str, date: str) -> None:
    found = parse_date(text)
    assert (found.isoformat() if found else "") == date


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("101112", "10:11:12"),
        ("101112.123456", "10:11:12"),
        ("101112.", "10:11:12"),
        ("1011", "10:11:00"),
        ("10", "10:00:00"),
        ("10:11:12", "10:11:12"),
        ("10:11:12.5", "10:11:12"),
        ("10:11", "10:11:00"),
        (" 101112 ", "10:11:12"),
        ("235960", "23:59:59"),
        ("101112\\111213", "10:11:12"),
        ("240000", ""),
        ("106000", ""),
        ("1", ""),
        ("101", ""),
        ("-10112", ""),
        ("١٠١١١٢", ""),
        ("", ""),
    ],
)
def test_times(text: str, time: str) -> None:
    found = parse_time(text)
    assert (found.isoformat() if found else "") == time


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("20230301080000.000000+1000", "2023-03-01T08:00:00"),
        ("2023030108-0500", "2023-03-01T08:00:00"),
        ("20230301", ""),
        ("2023", ""),
        ("20230301250000", ""),
    ],
)
def test_dates_with_times(text: str, moment: str) -> None:
    found = parse_date_time(text)
    assert (found.isoformat() if found else "") == moment


@given(strategies.header_texts())
def test_no_text_breaks_the_clock(text: str) -> None:
    shared = header(**dict.fromkeys(SHARED_FIELDS, text))
    (times,) = study_times([Acquired(shared=shared, times=(text,), date_times=(text,))])
    assert set(group_visits([times], gap_hours=4, overrides={})) == {(patient_key(shared), study_key(shared))}


# When a DICOM study was ----------------------------------------------------------------------------------------------


def _span(*acquired: Acquired) -> str:
    (times,) = study_times(acquired)
    if times.begin is None or times.end is None:
        return str(times.date)
    return f"{times.begin:%Y%m%d-%H%M} {times.end:%Y%m%d-%H%M}"


def test_a_study_lasts_from_its_first_to_its_last_known_moment() -> None:
    shared = header(study_date="20240229", study_time="101500", acquisition_date="20240229")
    other = replace(shared, series_date="20240229", series_time="1100")
    assert (
        _span(Acquired(shared=shared, times=("101800", "104000.5")), Acquired(shared=other))
        == "20240229-1015 20240229-1100"
    )
    stated = Acquired(shared=header(), date_times=("20240229080000+0100", "20240229090000+0100"))
    assert _span(stated) == "20240229-0800 20240229-0900"


def test_a_time_without_date_after_midnight_is_the_next_day() -> None:
    shared = header(study_date="20240229", study_time="2330")
    assert _span(Acquired(shared=shared, times=("2340", "0020"))) == "20240229-2330 20240301-0020"
    end_of_time = replace(shared, study_date="99991231")
    assert _span(Acquired(shared=end_of_time, times=("2340", "0020"))).endswith(" 99991231-2340")


def test_what_was_made_days_later_does_not_stretch_a_study() -> None:
    scan = header(study_date="20240229", study_time="1000")
    of_the_next_week = replace(scan, series_date="20240307", series_time="0900", series_description="map")
    assert (
        _span(Acquired(shared=scan, times=("1030",)), Acquired(shared=of_the_next_week))
        == "20240229-1000 20240229-1030"
    )
    # A map keeps the acquisition's time; that of its series says when it was computed.
    computed = replace(scan, acquisition_date="20240229", series_date="20240229", series_time="1900")
    assert _span(Acquired(shared=computed, times=("1010",))) == "20240229-1000 20240229-1010"


@pytest.mark.parametrize(
    ("values", "date"),
    [
        ({"study_date": "20240229", "series_date": "20240301"}, "2024-02-29"),
        ({"study_date": "20230229", "series_date": "20230301"}, "2023-03-01"),
        ({"acquisition_date": "20230301", "content_date": "20230302"}, "2023-03-01"),
        ({"content_date": "20230301\\20240301"}, "2023-03-01"),
        ({"study_time": "1000"}, "None"),
    ],
)
def test_the_date_of_a_study_without_a_time(values: dict[str, str], date: str) -> None:
    assert _span(Acquired(shared=header(**values))) == date


def test_acnema_and_dicom_forms_say_the_same() -> None:
    old = header(study_date="2024.02.29", study_time="10:15:00")
    new = header(study_date="20240229", study_time="101500.000000")
    assert _span(Acquired(shared=old)) == _span(Acquired(shared=new)) == "20240229-1015 20240229-1015"


# Visits --------------------------------------------------------------------------------------------------------------


def test_a_restart_is_one_visit() -> None:
    before = Acquired(shared=header("1.1", study_date="20240229", study_time="1000"), times=("1055",))
    after = header("1.2", study_date="20240229", study_time="1430")
    assert visits_of(before, after) == {"1.1": (1, "2024-02-29"), "1.2": (1, "2024-02-29")}
    # Counted from the last image: the beginnings lie further apart than the gap.
    assert visits_of(before, after, gap_hours=3) == {"1.1": (1, "2024-02-29"), "1.2": (2, "2024-02-29")}


def test_a_scan_past_midnight_is_one_visit_with_the_date_it_began() -> None:
    late = header("1.1", study_date="20240229", study_time="2330")
    early = header("1.2", study_date="20240301", study_time="0015")
    assert visits_of(early, late) == {"1.1": (1, "2024-02-29"), "1.2": (1, "2024-02-29")}


def test_two_visits_on_one_day_and_one_on_another() -> None:
    found = visits_of(
        header("1.3", study_date="20240307", study_time="0900"),
        header("1.2", study_date="20240229", study_time="1700"),
        header("1.1", study_date="20240229", study_time="0900"),
    )
    assert found == {"1.1": (1, "2024-02-29"), "1.2": (2, "2024-02-29"), "1.3": (3, "2024-03-07")}


def test_visits_join_in_a_chain() -> None:
    times = ("0800", "1100", "1400", "1700")
    found = visits_of(
        *(header(f"1.{n}", study_date="20240229", study_time=time) for n, time in enumerate(times)), gap_hours=3
    )
    assert set(found.values()) == {(1, "2024-02-29")}


def test_a_visit_lasts_as_long_as_its_longest_study() -> None:
    long = Acquired(shared=header("1.1", study_date="20240229", study_time="0800"), times=("1500",))
    within = header("1.2", study_date="20240229", study_time="0900")
    after = header("1.3", study_date="20240229", study_time="1600")
    assert set(visits_of(long, within, after).values()) == {(1, "2024-02-29")}


def test_a_study_without_time_joins_the_visit_of_its_date() -> None:
    morning = header("1.1", study_date="20240229", study_time="0900")
    evening = header("1.2", study_date="20240229", study_time="2000")
    found = visits_of(
        evening, morning, header("1.3", study_date="20240229"), header("1.4", study_date="20240301"), header("1.5")
    )
    assert found["1.3"] == found["1.1"] == (1, "2024-02-29")
    assert found["1.2"] == (2, "2024-02-29")
    assert found["1.4"] == (3, "2024-03-01")
    assert found["1.5"] == (4, UNKNOWN_DATE)


def test_a_study_without_time_joins_the_visit_that_lasted_into_its_date() -> None:
    night = Acquired(shared=header("1.1", study_date="20240229", study_time="2330"), times=("0020",))
    assert visits_of(night, header("1.2", study_date="20240301"))["1.2"] == (1, "2024-02-29")


def test_studies_without_date_stay_apart_and_come_last() -> None:
    assert visits_of(header("1.2"), header("1.1"), header("1.3", study_date="20240229")) == {
        "1.3": (1, "2024-02-29"),
        "1.1": (2, UNKNOWN_DATE),
        "1.2": (3, UNKNOWN_DATE),
    }


def test_patients_share_no_visit() -> None:
    anna = header("1.1", study_date="20240229", study_time="1000")
    for other in ({"patient_id": "P2"}, {"patient_name": "TEST^BERT"}):
        assert visits_of(anna, replace(anna, study_instance_uid="1.2", study_time="0900", **other)) == {
            "1.1": (1, "2024-02-29"),
            "1.2": (1, "2024-02-29"),
        }
    # Decoration of a name makes no other patient.
    found = visits_of(anna, replace(anna, study_instance_uid="1.2", study_time="0100", patient_name="TEST^ANNA^^^"))
    assert found["1.1"][0] == 2


def test_two_studies_that_name_nobody_are_two_patients() -> None:
    nobody = {"patient_id": "", "patient_name": "^^"}
    one, other = (header(uid, study_date="20240229", study_time="1000", **nobody) for uid in ("1.1", "1.2"))
    assert patient_key(one) != patient_key(other)
    assert short_hash(*patient_key(one)) != short_hash(*patient_key(other))
    assert visits_of(one, other) == {"1.1": (1, "2024-02-29"), "1.2": (1, "2024-02-29")}


def test_files_without_study_uid_keep_their_dates() -> None:
    one, other = (header("", study_date=date) for date in ("20240229", "20240307"))
    assert sorted(visits_of(one, other).values()) == [(1, "2024-02-29"), (2, "2024-03-07")]


@st.composite
def acquired(draw: st.DrawFn) -> list[Acquired]:
    """Headers of few patients and studies, at few times, and what a person says of them."""
    clock = st.sampled_from(("", "0010", "0100", "0900", "1200", "12:30:00", "2000", "2350", "nonsense"))
    day = st.sampled_from(("", "20240228", "20240229", "20240301", "2024.03.01", "19000101", "nonsense"))
    made = []
    for _ in range(draw(st.integers(1, 8))):
        shared = header(
            draw(st.sampled_from(("", "1.1", "1.2", "1.3", "1.4", "1.5"))),
            patient_id=draw(st.sampled_from(("", "P1", "P2"))),
            patient_name=draw(st.sampled_from(("", "A", "A^^"))),
            study_date=draw(day),
            study_time=draw(clock),
            series_date=draw(day),
            series_time=draw(clock),
            acquisition_date=draw(day),
        )
        made.append(Acquired(shared=shared, times=tuple(draw(st.lists(clock, max_size=3)))))
    return made


overrides = st.dictionaries(
    st.sampled_from(("1.1", "1.2", "1.9")),
    st.builds(
        VisitOverride,
        patient_id=st.sampled_from(("", "P1", "P2", "P9")),
        visit_date=st.sampled_from(("", "2024-02-29", "2030-01-01")),
    ),
)


@given(acquired(), st.sampled_from((0, 1, 4, 240)), overrides, st.randoms(use_true_random=False))
def test_order_decides_nothing(
    found: list[Acquired], gap_hours: float, given_overrides: dict[str, VisitOverride], random: object
) -> None:
    def run(headers: list[Acquired]) -> dict[tuple[tuple[str, ...], str], Visit]:
        correct = correct_patients((one.shared for one in headers), given_overrides)
        right = [replace(one, shared=correct(one.shared)) for one in headers]
        return group_visits(study_times(right), gap_hours=gap_hours, overrides=given_overrides)

    shuffled = list(found)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert run(found) == run(shuffled + found)


@given(acquired(), st.sampled_from((0, 1, 4, 240)), overrides)
def test_every_study_has_a_visit_and_visits_are_numbered_by_time(
    found: list[Acquired], gap_hours: float, given_overrides: dict[str, VisitOverride]
) -> None:
    times = study_times(found)
    visits = group_visits(times, gap_hours=gap_hours, overrides=given_overrides)
    assert set(visits) == {(patient_key(one.shared), study_key(one.shared)) for one in found}
    for patient in {key[0] for key in visits}:
        own = sorted({(visit.number, visit.date) for key, visit in visits.items() if key[0] == patient})
        assert [number for number, _ in own] == list(range(1, len(own) + 1))
        assert [date for _, date in own] == sorted(date for _, date in own)
    for one in times:
        named = given_overrides.get(one.study, VisitOverride()).visit_date
        if named and not any(_lasts_into(other, named, gap_hours) for other in times):
            assert visits[one.patient, one.study].date == named


def _lasts_into(study: StudyTimes, date: str, gap_hours: float) -> bool:
    """Tell whether a visit with this study may have begun before a date and lasted into it."""
    day = datetime.date.fromisoformat(date)
    return study.begin is not None and abs((study.begin.date() - day).days) <= 1 + 5 * (1 + gap_hours // 24)


# What a person has put right -----------------------------------------------------------------------------------------


def test_a_given_date_joins_what_the_gap_parts() -> None:
    late = header("1.1", study_date="20240229", study_time="2000")
    resumed = header("1.2", study_date="20240301", study_time="0700")
    afterwards = header("1.3", study_date="20240301", study_time="0800")
    assert visits_of(late, resumed)["1.2"] == (2, "2024-03-01")
    found = visits_of(late, resumed, afterwards, overrides={"1.2": VisitOverride(visit_date="2024-02-29")})
    assert found == {"1.1": (1, "2024-02-29"), "1.2": (1, "2024-02-29"), "1.3": (2, "2024-03-01")}


def test_a_given_date_holds_where_the_header_has_none_or_a_wrong_one() -> None:
    override = VisitOverride(visit_date="2024-02-29")
    assert visits_of(header("1.1"), overrides={"1.1": override}) == {"1.1": (1, "2024-02-29")}
    stopped_clock = header("1.1", study_date="20000101", study_time="0000")
    assert visits_of(stopped_clock, overrides={"1.1": override}) == {"1.1": (1, "2024-02-29")}


def test_a_mistyped_patient_comes_home_under_the_name_known_there() -> None:
    wrong = header("1.1", patient_id="P11", patient_name="TEST^ANA", patient_birth_date="19800101")
    at_home = header("1.2")
    correct = correct_patients([wrong, at_home], {"1.1": VisitOverride(patient_id="P1")})
    right = correct(wrong)
    assert patient_key(right) == patient_key(at_home)
    assert right.patient_birth_date == "19800101"
    assert correct(at_home) is at_home


def test_names_of_a_corrected_patient() -> None:
    to_p1 = {"1.1": VisitOverride(patient_id="P1"), "1.2": VisitOverride(patient_id="P1", visit_date="2024-02-29")}

    def keys(*headers: SharedHeader) -> list[tuple[str, ...]]:
        correct = correct_patients(headers, to_p1)
        return [patient_key(correct(one)) for one in headers]

    def one(study: str, number: str, name: str) -> SharedHeader:
        return header(study, patient_id=number, patient_name=name)

    # Nobody carries the ID yet: those who come to it are one patient.
    assert keys(one("1.1", "x", "B"), one("1.2", "y", "A^^")) == [("P1", "A")] * 2
    assert keys(one("1.1", "x", ""), one("1.2", "y", "B")) == [("P1", "B")] * 2
    # Two patients carry it: the one of the same name, else the first.
    home = (one("1.7", "P1", "C"), one("1.8", "P1", "B"))
    assert keys(one("1.1", "x", "C^"), one("1.2", "x", "D"), *home)[:2] == [("P1", "C"), ("P1", "B")]
    # A study that carries the ID already is at home there, whatever it is called.
    assert keys(one("1.1", "P1", "Z"), one("1.2", "y", "A")) == [("P1", "Z")] * 2
    # Nobody has a name.
    assert keys(one("1.1", "x", ""), one("1.8", "P1", "")) == [("P1", "")] * 2


def test_a_corrected_patient_joins_the_visit() -> None:
    wrong = header("1.1", patient_id="P11", study_date="20240229", study_time="0900")
    at_home = header("1.2", study_date="20240229", study_time="1000")
    given_overrides = {"1.1": VisitOverride(patient_id="P1")}
    correct = correct_patients([wrong, at_home], given_overrides)
    times = study_times(Acquired(shared=correct(one)) for one in (wrong, at_home))
    visits = group_visits(times, gap_hours=4, overrides=given_overrides)
    assert set(visits.values()) == {Visit(number=1, date="2024-02-29")}
    assert len({patient for patient, _ in visits}) == 1


def test_the_table_of_visits_is_read(tmp_path: Path) -> None:
    table = tmp_path / "visits.csv"
    table.write_bytes(
        b"\xef\xbb\xbfstudy_instance_uid, visit_date ,patient_id\r\n"
        b'1.1,20240229,"P 1, the first"\r\n\r\n1.2,2024-03-01\r\n,,\r\n1.3,,J\xc3\xb6rg\r\n'
    )
    assert read_visit_overrides(table) == {
        "1.1": VisitOverride(patient_id="P 1, the first", visit_date="2024-02-29"),
        "1.2": VisitOverride(visit_date="2024-03-01"),
        "1.3": VisitOverride(patient_id="Jörg"),
    }
    table.write_text("study_instance_uid\n1.1\n")
    assert read_visit_overrides(table) == {"1.1": VisitOverride()}


@pytest.mark.parametrize(
    ("content", "faults"),
    [
        (b"", ["its first line must name the columns study_instance_uid, patient_id, visit_date, separated by commas"]),
        (b"study_instance_uid;patient_id\n", ["separated by commas"]),
        (
            b"study_instance_uid,SECRET\n1.1,SECRET\n",
            ["column 2 is none of study_instance_uid, patient_id, visit_date"],
        ),
        (
            b"study_instance_uid,patient_id,patient_id\n",
            ["names the column patient_id twice"],
        ),
        (
            b"study_instance_uid,patient_id,visit_date\nSECRET,SECRET,2024-02-30\n,SECRET,\nSECRET,,SECRET\nx,y,z,SECRET\n",
            [
                "line 2 has a visit_date that is no date",
                "line 3 has no study_instance_uid",
                "line 4 has the study_instance_uid of line 2",
                "line 4 has a visit_date that is no date",
                "line 5 has 4 cells under 3 columns",
            ],
        ),
        (b"study_instance_uid,visit_date\nSECRET,2024.02.29\n", ["line 2 has a visit_date"]),
        (b"study_instance_uid,visit_date\nSECRET,202402291200\n", ["line 2 has a visit_date"]),
        (b"study_instance_uid,patient_id\n1.1,SECRET\xff\n", ["it is not in UTF-8"]),
        (b'study_instance_uid,patient_id\n1.1,"SECRET\n', ["it is not CSV"]),
        (b"study_instance_uid,patient_id\n,x\n" + b"x" * 200_000, ["line 2 has no", "it is not CSV"]),
    ],
)
def test_every_fault_of_the_table_is_told_without_a_value(tmp_path: Path, content: bytes, faults: list[str]) -> None:
    table = tmp_path / "visits.csv"
    table.write_bytes(content)
    with pytest.raises(VisitTableError) as caught:
        read_visit_overrides(table)
    assert len(caught.value.faults) == len(faults)
    for told, expected in zip(caught.value.faults, faults, strict=True):
        assert expected in told
    assert "SECRET" not in str(caught.value)


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(VisitTableError, match="cannot be read"):
        read_visit_overrides(tmp_path / "none.csv")
