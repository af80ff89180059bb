"""A scan whose header says everything, the place a layout gives it, and the judge of whether a name is safe."""

from __future__ import annotations

import ntpath
import os
import unicodedata
from collections.abc import Iterable
from operator import attrgetter
from pathlib import PureWindowsPath

from tasks.index.row import ROW_FIELDS, IndexRow
from tasks.sort.fields import Facts
from tasks.sort.layout import Layout, parse_layout
from tasks.sort.names import LONGEST_NAME, unfold
from tasks.sort.visit import UNKNOWN_DATE, Visit, parse_date
from tests.strategies import make_row

own_values = attrgetter(*ROW_FIELDS)

DEFAULT = parse_layout("patient-date-series")

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
"""Names of which file systems take some for one another."""

FORBIDDEN = set('<>:"/\\|?*')
"""What Windows allows in no name; Linux forbids the slash alone."""

RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{name}{n}" for name in ("COM", "LPT") for n in "0123456789¹²³")}

# Python 3.13 moved the function.
_reserved_on_windows = getattr(ntpath, "isreserved", None) or (lambda name: PureWindowsPath(name).is_reserved())


def facts_of(row: IndexRow) -> Facts:
    """Return the facts of a file that is alone in its series."""
    date = parse_date(row.shared.study_date)
    visit = Visit(number=1, date=date.isoformat() if date else UNKNOWN_DATE)
    return Facts(series=row.shared, own=row.shared, visit=visit)


def place_of(row: IndexRow, layout: Layout = DEFAULT, *, digest: str = "", digits: int = 8) -> str:
    """Return where a layout puts a file that is alone in its series."""
    facts, own = facts_of(row), own_values(row)
    name = layout.file_name_of(own, facts, digest=digest, digits=digits)
    return f"{layout.folder_of(facts, own, digits=digits)}/{name}"


def show(template: str, row: IndexRow = SCAN) -> str:
    """Return the folder that a template makes of a file."""
    return parse_layout(template).folder_of(facts_of(row), own_values(row))


def told_apart(folders: Iterable[str]) -> dict[str, str]:
    """Return what each of some folders is called in the end."""
    folders = list(folders)
    renamed = unfold(folders)
    assert set(renamed) <= set(folders)
    return {folder: renamed.get(folder, folder) for folder in folders}


def unsafe_in(name: str) -> list[str]:
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
