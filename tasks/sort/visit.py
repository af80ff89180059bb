"""Which DICOM studies of a patient are one visit, when it was, and what a person has put right by hand.

A scanner that is restarted gives one visit several DICOM studies, and a scan past midnight has two dates. Times are the
scanner's wall clock, as written: a zone that a header states is left aside, so that all times of a visit stay
comparable (PS3.3 section C.12.1.1.8: dates and times are local unless stated otherwise).
"""

from __future__ import annotations

import csv
import datetime
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tasks.dicom.text import plain_name
from tasks.index.row import SharedHeader

UNKNOWN_DATE = "unknown-date"

LONGEST_STUDY = datetime.timedelta(hours=24)
"""How far from a DICOM study's beginning a time may lie and be one of its scans.

Beyond lie reports and maps that were made days later, studies that were opened again, and dates no clock showed.
"""

PatientKey = tuple[str, ...]
"""Tells patients apart: Patient ID and plain name; without both, two empty texts and the DICOM study."""

_BORROWED_BACK = datetime.timedelta(hours=12)
"""A time this much before the moment whose date it borrows belongs to the next day."""

_DATE = re.compile(r"([0-9]{4})([.-]?)([0-9]{2})\2([0-9]{2})")
_TIME = re.compile(r"([0-9]{2})(?::?([0-9]{2})(?::?([0-9]{2})(?:[.,][0-9]*)?)?)?")

_COLUMNS = ("study_instance_uid", "patient_id", "visit_date")


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One visit of a patient.

    Attributes
    ----------
    number
        From 1, by time; visits without a date come last.
    date
        When it began, YYYY-MM-DD, or `UNKNOWN_DATE`.
    """

    number: int
    date: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VisitOverride:
    """What a person says of one DICOM study.

    Attributes
    ----------
    patient_id
        Whose it is; empty if the header is right.
    visit_date
        The visit it belongs to, YYYY-MM-DD; empty if the header is right.
    """

    patient_id: str = ""
    visit_date: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquired:
    """A header that files share, and when they were acquired.

    Attributes
    ----------
    times, date_times
        (0008,0032) and (0008,002A) of those files, as written; the first and the last are enough.
    """

    shared: SharedHeader
    times: tuple[str, ...] = ()
    date_times: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyTimes:
    """When one DICOM study was scanned.

    Attributes
    ----------
    study
        As `study_key` names it.
    begin, end
        The earliest and the latest moment known; None if no time is.
    date
        The date of its beginning; None if no date is known.
    """

    patient: PatientKey
    study: str
    begin: datetime.datetime | None
    end: datetime.datetime | None
    date: datetime.date | None


class VisitTableError(ValueError):
    """The table of visits cannot be used; `faults` says why, a sentence each, without a value of the table."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = list(faults)
        super().__init__("; ".join(self.faults))


def study_key(shared: SharedHeader) -> str:
    """Tell DICOM studies of a patient apart: by UID, and where that is absent by date."""
    return shared.study_instance_uid or f"without UID {shared.study_date}"


def patient_key(shared: SharedHeader) -> PatientKey:
    """Tell patients apart; of two DICOM studies that name nobody, nothing says that they are of one patient."""
    name = plain_name(shared.patient_name)
    if shared.patient_id or name:
        return (shared.patient_id, name)
    return ("", "", study_key(shared))


def parse_date(text: str) -> datetime.date | None:
    """Read the date that a value of VR DA or DT begins with; also as YYYY.MM.DD (ACR-NEMA) and YYYY-MM-DD."""
    match = _DATE.match(text.lstrip())
    if match is None:
        return None
    try:
        return datetime.date(int(match[1]), int(match[3]), int(match[4]))
    except ValueError:
        return None


def parse_time(text: str) -> datetime.time | None:
    """Read a value of VR TM to the second; also as HH:MM:SS (ACR-NEMA). Of several values the first counts."""
    match = _TIME.fullmatch(text.split("\\", 1)[0].strip())
    if match is None:
        return None
    # PS3.5 table 6.2-1 allows the leap second; Python's clock has none.
    seconds = "59" if match[3] == "60" else match[3]
    try:
        return datetime.time(int(match[1]), int(match[2] or 0), int(seconds or 0))
    except ValueError:
        return None


def parse_date_time(text: str) -> datetime.datetime | None:
    """Read a value of VR DT that states at least the hour, to the second and without its zone."""
    value = text.split("\\", 1)[0].strip()
    date = parse_date(value)
    time = parse_time(re.split(r"[+-]", value[8:], maxsplit=1)[0])
    return None if date is None or time is None else datetime.datetime.combine(date, time)


# When DICOM studies were ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Moments:
    """What the headers of one DICOM study say of its time."""

    study: set[datetime.datetime] = field(default_factory=set)
    scans: set[datetime.datetime] = field(default_factory=set)
    dates: tuple[set[datetime.date], ...] = field(default_factory=lambda: (set(), set(), set(), set()))
    """Of the study, the series, the acquisition, the content."""


def study_times(acquired: Iterable[Acquired]) -> list[StudyTimes]:
    """Find when each DICOM study of each patient was scanned.

    It begins with the earliest moment that study, series or acquisition state, and ends with the latest, as far as
    they lie within `LONGEST_STUDY` of the study's own date and time. A series' own date and time count where no
    acquisition is known: of a map they say when it was computed.

    Parameters
    ----------
    acquired
        In any order; the same header may come several times.
    """
    studies: dict[tuple[PatientKey, str], _Moments] = defaultdict(_Moments)
    for one in acquired:
        _collect(studies[patient_key(one.shared), study_key(one.shared)], one)
    return [_summarise(patient, study, moments) for (patient, study), moments in studies.items()]


def _collect(moments: _Moments, one: Acquired) -> None:
    shared = one.shared
    study_date, series_date, acquisition_date, content_date = (
        parse_date(value)
        for value in (shared.study_date, shared.series_date, shared.acquisition_date, shared.content_date)
    )
    stated = [moment for moment in map(parse_date_time, one.date_times) if moment is not None]
    stated_dates = [date for date in map(parse_date, one.date_times) if date is not None]
    for kept, found in zip(
        moments.dates, ([study_date], [series_date], [acquisition_date, *stated_dates], [content_date]), strict=True
    ):
        kept.update(date for date in found if date is not None)
    study = _combine(study_date, parse_time(shared.study_time))
    series = _combine(series_date or study_date, parse_time(shared.series_time))
    if study is not None:
        moments.study.add(study)
    for time in map(parse_time, one.times):
        moment = _combine(acquisition_date or series_date or study_date, time)
        if moment is None:
            continue
        lender = series if series_date else study
        if acquisition_date is None and lender is not None and lender - moment > _BORROWED_BACK:
            moment = _next_day(moment)
        stated.append(moment)
    if not stated and series is not None:
        stated.append(series)
    moments.scans.update(stated)


def _summarise(patient: PatientKey, study: str, moments: _Moments) -> StudyTimes:
    known: set[datetime.datetime] = set()
    date = None
    if moments.study:
        start = min(moments.study)
        known = {start} | {moment for moment in moments.scans if abs(moment - start) <= LONGEST_STUDY}
    elif moments.dates[0]:
        date = min(moments.dates[0])
        known = {moment for moment in moments.scans if 0 <= (moment.date() - date).days <= 1}
    elif moments.scans:
        start = min(moments.scans)
        known = {moment for moment in moments.scans if moment - start <= LONGEST_STUDY}
    else:
        date = next((min(dates) for dates in moments.dates if dates), None)
    begin, end = (min(known), max(known)) if known else (None, None)
    return StudyTimes(
        patient=patient, study=study, begin=begin, end=end, date=begin.date() if begin is not None else date
    )


def _combine(date: datetime.date | None, time: datetime.time | None) -> datetime.datetime | None:
    return None if date is None or time is None else datetime.datetime.combine(date, time)


def _next_day(moment: datetime.datetime) -> datetime.datetime:
    try:
        return moment + datetime.timedelta(days=1)
    except OverflowError:
        return moment


# Visits --------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Group:
    date: datetime.date
    begin: datetime.datetime
    end: datetime.datetime
    studies: list[str]


def group_visits(
    studies: Iterable[StudyTimes], *, gap_hours: float, overrides: Mapping[str, VisitOverride]
) -> dict[tuple[PatientKey, str], Visit]:
    """Group the DICOM studies of each patient into visits.

    A study that begins within `gap_hours` of the latest time known of a visit belongs to it. A study with a date alone
    belongs to the first visit that began on this date, else to one that lasted into it, else to one of its own with all
    others of this date. A study whose date a person has set counts as one with this date alone. A study without a date
    is a visit of its own.

    Parameters
    ----------
    studies
        Each patient and study once, in any order; the patients already put right (`correct_patients`).
    overrides
        By Study Instance UID.

    Returns
    -------
    dict
        By `patient_key` and `study_key`.
    """
    gap = datetime.timedelta(hours=gap_hours)
    by_patient: dict[PatientKey, list[StudyTimes]] = defaultdict(list)
    for study in studies:
        given = overrides[study.study].visit_date if study.study in overrides else ""
        if given:
            study = replace(study, begin=None, end=None, date=datetime.date.fromisoformat(given))  # noqa: PLW2901
        by_patient[study.patient].append(study)
    visits: dict[tuple[PatientKey, str], Visit] = {}
    for patient, found in by_patient.items():
        groups = _group_one_patient(found, gap)
        for number, group in enumerate(groups, 1):
            for name in group.studies:
                visits[patient, name] = Visit(number=number, date=group.date.isoformat())
        undated = sorted(study.study for study in found if study.date is None)
        for number, name in enumerate(undated, len(groups) + 1):
            visits[patient, name] = Visit(number=number, date=UNKNOWN_DATE)
    return visits


def _group_one_patient(studies: list[StudyTimes], gap: datetime.timedelta) -> list[_Group]:
    """Return the dated visits of one patient in the order of time."""
    groups: list[_Group] = []
    timed = [(study.begin, study.end, study.study) for study in studies if study.begin and study.end]
    for begin, end, name in sorted(timed):
        if groups and begin - groups[-1].end <= gap:
            groups[-1].end = max(groups[-1].end, end)
            groups[-1].studies.append(name)
        else:
            groups.append(_Group(begin.date(), begin, end, [name]))
    dated = [(study.date, study.study) for study in studies if study.date is not None and study.begin is None]
    for date, name in sorted(dated):
        that_day = next((group for group in groups if group.date == date), None)
        that_day = that_day or next((group for group in groups if group.date <= date <= group.end.date()), None)
        if that_day is None:
            midnight = datetime.datetime.combine(date, datetime.time.min)
            that_day = _Group(date, midnight, midnight, [])
            groups.append(that_day)
        that_day.studies.append(name)
    return sorted(groups, key=lambda group: (group.begin, group.studies))


# What a person has put right -----------------------------------------------------------------------------------------


def read_visit_overrides(path: Path) -> dict[str, VisitOverride]:
    """Read the table that puts DICOM studies under another patient ID or visit date.

    CSV in UTF-8 with a head: study_instance_uid, and patient_id, visit_date (YYYY-MM-DD or YYYYMMDD) or both; a cell
    may be empty, and so may a line.

    Raises
    ------
    VisitTableError
        With every fault: its line (from 1, the head's) and its column, never a value.
    """
    faults: list[str] = []
    overrides: dict[str, VisitOverride] = {}
    lines: dict[str, int] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.reader(stream, strict=True)
            head = [cell.strip() for cell in next(rows, [])]
            faults = _check_head(head)
            if faults:
                raise VisitTableError(faults)
            for cells in rows:
                line = rows.line_num
                values = [cell.strip() for cell in cells]
                if not any(values):
                    continue
                if len(values) > len(head):
                    faults.append(f"line {line} has {len(values)} cells under {len(head)} columns")
                    continue
                row = dict(zip(head, values, strict=False))
                study, patient, date = (row.get(column, "") for column in _COLUMNS)
                if not study:
                    faults.append(f"line {line} has no study_instance_uid")
                elif study in lines:
                    faults.append(f"line {line} has the study_instance_uid of line {lines[study]}")
                lines.setdefault(study, line)
                day = _whole_date(date)
                if date and day is None:
                    faults.append(f"line {line} has a visit_date that is no date like 2024-02-29 or 20240229")
                overrides[study] = VisitOverride(patient_id=patient, visit_date=day.isoformat() if day else "")
    except OSError:
        faults.append("it cannot be read")
    except UnicodeDecodeError:
        faults.append("it is not in UTF-8")
    except csv.Error:
        faults.append("it is not CSV: a quotation mark is not closed, or a cell is too long")
    if faults:
        raise VisitTableError(faults)
    return overrides


def _check_head(head: list[str]) -> list[str]:
    if _COLUMNS[0] not in head:
        return [f"its first line must name the columns {', '.join(_COLUMNS)}, separated by commas"]
    # What stands there instead of a column's name may be a value.
    faults = [
        f"column {number} is none of {', '.join(_COLUMNS)}"
        for number, name in enumerate(head, 1)
        if name not in _COLUMNS
    ]
    return faults + [f"its first line names the column {name} twice" for name in _COLUMNS if head.count(name) > 1]


def _whole_date(text: str) -> datetime.date | None:
    return parse_date(text) if re.fullmatch(r"[0-9]{8}|[0-9]{4}-[0-9]{2}-[0-9]{2}", text) else None


def correct_patients(
    headers: Iterable[SharedHeader], overrides: Mapping[str, VisitOverride]
) -> Callable[[SharedHeader], SharedHeader]:
    """Return what puts the patient of a header right.

    Patients are told apart by ID and name, so a study that comes to another ID takes the name which the files have that
    carry this ID already: its own name if that is among them, else the first of them in the order of text. If no file
    carries the ID, all studies that come to it take the first of their names. Nothing else of the header changes.

    Parameters
    ----------
    headers
        All headers of the dump, as they were read.
    """
    at_home: dict[str, set[str]] = defaultdict(set)
    moved: dict[str, set[str]] = defaultdict(set)
    for shared in headers if overrides else ():
        meant = _meant_patient(shared, overrides)
        (moved if meant else at_home)[meant or shared.patient_id].add(plain_name(shared.patient_name))

    def correct(shared: SharedHeader) -> SharedHeader:
        meant = _meant_patient(shared, overrides)
        if not meant:
            return shared
        names = at_home.get(meant)
        if names is not None and plain_name(shared.patient_name) in names:
            return replace(shared, patient_id=meant)
        name = min(names or moved[meant], key=lambda name: (not name, name))
        return replace(shared, patient_id=meant, patient_name=name)

    return correct


def _meant_patient(shared: SharedHeader, overrides: Mapping[str, VisitOverride]) -> str:
    """Return the ID a person has given the study's patient, if it is another than the header's."""
    override = overrides.get(shared.study_instance_uid)
    return override.patient_id if override is not None and override.patient_id != shared.patient_id else ""
