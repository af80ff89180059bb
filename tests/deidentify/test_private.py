"""The table of private elements keeps what converters need and nothing that tells who was scanned, when or where."""

from __future__ import annotations

import datetime as dt
import os
import re
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.datadict import private_dictionaries
from pydicom.dataset import Dataset

from tasks.deidentify.ge import clean_protocol_block, clean_raw_data_header
from tasks.deidentify.private import TEXT_VRS, PrivateAction, PrivateRule, load_private_table
from tasks.dicom.elements import ITEM, ITEM_END, SEQUENCE_END, UNDEFINED, WalkError, walk
from tasks.dicom.normalise import open_data_set
from tasks.dicom.syntax import SyntaxRefusalError
from tests.deidentify.conversion import OTHERS, SAMPLE, convert

TABLE = load_private_table()

SIEMENS = "SIEMENS MR HEADER"
SHARED, FRAME = "SIEMENS MR SDS 01", "SIEMENS MR SDI 02"
PHILIPS = "Philips MR Imaging DD "

READ_BY_DCM2NIIX = {
    "Siemens V": [
        (SIEMENS, 0x0019, "0A 0C 0E 14 18 27 28 29"),
        (SIEMENS, 0x0051, "0B 0E 0F 11"),
        ("SIEMENS CSA HEADER", 0x0029, "10 20"),
        ("SIEMENS CSA NON-IMAGE", 0x7FE1, "10"),
    ],
    "Siemens XA": [
        (SHARED, 0x0021, "05 09 19 5A 5B 5C FE"),
        (FRAME, 0x0021, "04 06 1C 42 4F 53 58 75 76 8A 8E FE"),
    ],
    "GE": [
        ("GEMS_ACQU_01", 0x0019, "17 1B 5A 7F 9C 9E A2 A9 B2 B3 B6 BB BC BD DF E0 E2"),
        ("GEMS_RELA_01", 0x0021, "4F 5E"),
        ("GEMS_SERS_01", 0x0025, "1B"),
        ("GEMS_IMAG_01", 0x0027, "60 61 62"),
        ("GEMS_PARM_01", 0x0043, "02 03 04 2A 2C 2F 30 39 7C 83 95 A3 A4 A5 B2 B6 B7 CA"),
    ],
    "Philips": [
        ("Philips Imaging DD 001", 0x2001, "03 08 0A 0B 10 13 18 19 1B 1C 1F 22 81"),
        (PHILIPS + "001", 0x2005, "0E 30 63 6F 71 72 73 78 79 7A A0 B0 B1 B2"),
        (PHILIPS + "002", 0x2005, "10"),
        (PHILIPS + "005", 0x2005, "0F 12 13 29 3C 96"),
    ],
    "UIH": [("Image Private Header", 0x0065, "05 09 0D 37 50 51 58")],
}
"""Creator, group, low bytes: what dcm2niix reads of private elements, as its source names them."""

IDENTIFYING = {
    ("SIEMENS CSA HEADER", 0x0029, 0x09): "the header version is the date of the scan",
    ("SIEMENS CSA HEADER", 0x0029, 0x19): "the header version is the date of the scan",
    ("SIEMENS CSA HEADER", 0x0029, 0x21): "a date written as a number",
    (SHARED, 0x0021, 0x01): "an attached protocol report",
    (SHARED, 0x0021, 0x2B): "the patient's registration",
    ("GEMS_IDEN_01", 0x0009, 0x27): "the date and time of the image, in seconds since 1970",
    ("GEMS_IDEN_01", 0x0009, 0xE9): "the date and time of the series, in seconds since 1970",
    ("GEMS_IDEN_01", 0x0009, 0x30): "station or institution",
    ("GEMS_IDEN_01", 0x0009, 0xE3): "the UID of the scanner itself",
    ("GEMS_SERS_01", 0x0025, 0x1A): "station",
    ("GEMS_ACQU_01", 0x0019, 0x9D): "a public build date, which would tell by how much dates are shifted",
    ("GEMS_PARM_01", 0x0043, 0x28): "the exam number",
    ("GEMS_PARM_01", 0x0043, 0x62): "the exam number",
    ("GEMS_PARM_01", 0x0043, 0x70): "a description typed by people",
    ("GEMS_PARM_01", 0x0043, 0x80): "serial numbers of coils",
    (PHILIPS + "001", 0x2005, 0x2A): "the date and time of the scan, in seconds since 2000 if every month had 31 days",
    (PHILIPS + "004", 0x2005, 0x91): "a person's name",
    ("Image Private Header", 0x0065, 0x00): "the date and time of the scan, in seconds since 1970",
    ("TOSHIBA_MEC_MR3", 0x700D, 0x19): "the series description",
}
"""What must never be in the table, with the reason."""

IDENTIFYING_TEXT = {
    *(0x00080050, 0x00080080, 0x00080081, 0x00081010, 0x00081030, 0x0008103E, 0x00081040, 0x00100020, 0x00101000),
    *(0x00181000, 0x00181030, 0x00200010, 0x00321060, 0x00400254, 0x00400275),
}
"""Public text that identifies: accession, institution, station, descriptions, patient ID, serial, study ID."""

KNOWN_IN_DATA = {
    ("SIEMENS CSA HEADER", 0x0029, 0x09),
    ("SIEMENS CSA HEADER", 0x0029, 0x19),
    ("GEMS_IDEN_01", 0x0009, 0x27),
    ("GEMS_IDEN_01", 0x0009, 0xE9),
    ("GEMS_SERS_01", 0x0025, 0x1A),
    ("GEMS_PARM_01", 0x0043, 0x28),
    ("GEMS_PARM_01", 0x0043, 0x62),
    (PHILIPS + "001", 0x2005, 0x2A),
    ("Image Private Header", 0x0065, 0x00),
}
"""Those of them whose content the sample files repeat in their public elements."""

OTHER_VR = {
    ("ELSCINT1", 0x01F1, 0x26): "the dictionary has DS and, for one fixed block, FD",
    ("SIEMENS CSA NON-IMAGE", 0x7FE1, 0x10): "of its uses only spectra are kept, and they are 32-bit numbers",
}
"""Rows whose VR the public dictionary does not state, with the reason."""

STRUCTURE_VRS = {
    PrivateAction.RECURSE: {"SQ"},
    PrivateAction.UID: {"UI"},
    PrivateAction.DATE: {"DA", "DT"},
    PrivateAction.CSA: {"OB"},
    PrivateAction.PROTOCOL: {"OB"},
    PrivateAction.GE_BLOCK: {"OB"},
    PrivateAction.GE_HEADER: {"OB"},
}
NUMBER_VRS = {"DS", "IS", "FD", "FL", "OF", "SL", "SS", "UL", "US"}

SOME_OF_A_FOLDER = 3

WORDS = ["SMITH^JOHN", "Müller", "doe", "19870523", "2018-09-18", "MRC35006", "St. Mary", "Zugfahrt", "O'Neill", "JSM"]


def row_name(rule: PrivateRule) -> str:
    return f"{rule.creator} {rule.group:04X} {rule.low:02X}"


def test_rows_are_well_formed() -> None:
    places = [(rule.creator, rule.group, rule.low) for rule in TABLE.rules]
    assert places == sorted(set(places))
    assert re.fullmatch("[0-9a-f]{64}", TABLE.digest)
    for rule in TABLE.rules:
        assert rule.creator == rule.creator.strip(" \0"), row_name(rule)
        assert rule.creator, row_name(rule)
        assert rule.group & 1, row_name(rule)
        assert 0 <= rule.low <= 0xFF, row_name(rule)
        assert rule.name.isascii(), row_name(rule)
        assert len(rule.name) > 3, row_name(rule)
        assert len(rule.evidence) > 10, row_name(rule)
        if rule.action is PrivateAction.KEEP:
            assert rule.vr in NUMBER_VRS | TEXT_VRS, row_name(rule)
            assert (rule.pattern is not None) == (rule.vr in TEXT_VRS), row_name(rule)
        else:
            assert rule.vr in STRUCTURE_VRS[rule.action], row_name(rule)
            assert rule.pattern is None, row_name(rule)


def test_the_vr_is_that_of_the_public_dictionary() -> None:
    different = {}
    for rule in TABLE.rules:
        stated = {
            entry[0]
            for key, entry in private_dictionaries.get(rule.creator, {}).items()
            if key[:4].upper() == f"{rule.group:04X}" and key[6:].upper() == f"{rule.low:02X}" and entry[0] != "UN"
        }
        if stated and (rule.vr not in stated or len(stated) > 1):
            different[rule.creator, rule.group, rule.low] = stated
    assert different.keys() == OTHER_VR.keys(), different


def test_the_elements_that_converters_read_are_covered() -> None:
    pairs = [
        (creator, group, int(low, 16))
        for vendor in READ_BY_DCM2NIIX.values()
        for creator, group, lows in vendor
        for low in lows.split()
    ]
    assert len(pairs) == len(set(pairs)) == 116
    assert not [pair for pair in pairs if TABLE.rule(*pair) is None]


@pytest.mark.parametrize("place", IDENTIFYING, ids=lambda place: f"{place[0]} {place[1]:04X} {place[2]:02X}")
def test_identifying_elements_are_not_in_the_table(place: tuple[str, int, int]) -> None:
    assert TABLE.rule(*place) is None, IDENTIFYING[place]


def test_a_creator_is_found_with_padding_and_in_older_spelling() -> None:
    rule = TABLE.rule("Philips Imaging DD 001", 0x2001, 0x03)
    assert rule is not None
    assert TABLE.rule(" Philips Imaging DD 001 \0", 0x2001, 0x03) is rule
    assert TABLE.rule("PHILIPS IMAGING DD 001", 0x2001, 0x03) is rule
    assert TABLE.rule("PHILIPS IMAGING DD 009", 0x2001, 0x03) is None
    assert TABLE.rule("", 0x2001, 0x03) is None
    assert TABLE.rule("Philips Imaging DD 001", 0x2003, 0x03) is None


@pytest.mark.parametrize("word", WORDS)
def test_no_row_keeps_words(word: str) -> None:
    """Text rows by their patterns; numbers because the file states a text VR, or because the bytes read as text."""
    value = word.encode("latin-1")
    long = (value * 16)[: 16 * 8]
    for rule in TABLE.rules:
        if rule.vr in TEXT_VRS:
            assert not rule.admits(value, "UN"), row_name(rule)
            assert not rule.admits(b"ND\\" + value + b" ", rule.vr), row_name(rule)
        elif rule.vr not in ("DS", "IS"):
            assert not rule.admits(value * 8, "LO"), row_name(rule)
            assert not rule.admits(long, "UN") or not long.isascii(), row_name(rule)
        elif not re.fullmatch(r"[0-9+\-Ee. \\]+", word):
            assert not rule.admits(value, rule.vr), row_name(rule)


@given(st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=6, max_size=6), st.integers(1, 4))
def test_no_row_keeps_a_word_of_no_vocabulary(word: str, number: int) -> None:
    token = f"Xq{word}{number}z".encode()
    for rule in TABLE.rules:
        assert not rule.admits(token, rule.vr) or rule.vr not in TEXT_VRS, row_name(rule)


def test_patterns_come_to_an_end_on_long_values() -> None:
    for rule in TABLE.rules:
        if rule.pattern is not None:
            for piece in (b"1 \\", b"1", b"\\", b"ND_", b"A", b"ND", b"HE1-2;", b"FM_", b"EP\\", b"X_1_", b" "):
                assert not rule.admits((piece * 400)[:400] + b"!"), row_name(rule)
                assert not rule.admits((piece * 4000)[:4000] + b"!"), row_name(rule)


def test_only_what_is_kept_is_admitted() -> None:
    for rule in TABLE.rules:
        assert rule.admits(b"", rule.vr) == (rule.action is PrivateAction.KEEP), row_name(rule)


def test_numbers_are_admitted_by_their_size() -> None:
    b_matrix = TABLE.rule(SIEMENS, 0x0019, 0x27)
    assert b_matrix is not None
    value = struct.pack("<6d", 993.0, 5.0, -5.0, 1.0, -1.0, 1.0)
    assert b_matrix.admits(value, "FD")
    assert b_matrix.admits(value, "UN")
    assert not b_matrix.admits(value[:-1], "FD")
    assert not b_matrix.admits(value, "OB")
    assert not b_matrix.admits(b"Examined in haste by somebody", "UN")
    spectrum = TABLE.rule("SIEMENS CSA NON-IMAGE", 0x7FE1, 0x10)
    assert spectrum is not None
    assert spectrum.admits(struct.pack("<4f", 1e-5, -3e-4, 0.0, 0.25), "OB")
    assert not spectrum.admits(struct.pack("<2f", float("nan"), 1.0), "OB")
    assert not spectrum.admits(struct.pack("<2f", 1e30, 1.0), "OB")
    assert not spectrum.admits(b"Name^of a person", "OB")


class PrivateElement(NamedTuple):
    creator: str
    group: int
    low: int
    vr: str
    value: bytes


def image_files(folder: Path, most: int | None) -> Iterator[tuple[Path, bytes, int, bool]]:
    """Yield the files that the walker reads, with their bytes, where the data set begins and whether VRs are stated."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        step = 1 if most is None else max(1, len(names) // most)
        for name in sorted(names)[::step]:
            path = Path(parent, name)
            try:
                data, start, _ = open_data_set(path.read_bytes())
            except SyntaxRefusalError:
                continue
            yield path, data, start.offset, start.explicit


def private_elements(data: bytes, offset: int, *, explicit: bool) -> Iterator[PrivateElement]:
    """Yield the private elements of a file that are no sequences, at every depth, with the creators of their blocks."""
    creators: dict[int, dict[int, str]] = {0: {}}
    for element in walk(data, offset, explicit=explicit):
        group, number = element.tag >> 16, element.tag & 0xFFFF
        if element.tag == ITEM:
            creators[element.depth + 1] = {}
        if not group & 1 or element.tag in (ITEM, ITEM_END, SEQUENCE_END) or element.end == UNDEFINED:
            continue
        value = data[element.value : element.end]
        if 0x10 <= number <= 0xFF:
            creators[element.depth][group << 8 | number] = value.decode("latin-1")
        elif element.vr != "SQ":
            creator = creators[element.depth].get(group << 8 | number >> 8, "")
            vr = data[element.start + 4 : element.start + 6].decode("latin-1") if element.explicit else ""
            yield PrivateElement(creator, group, number & 0xFF, vr, value)


def identifiers(data: bytes, offset: int, *, explicit: bool) -> tuple[set[bytes], set[dt.date]]:
    """Collect from the public elements of a file what identifies, in small letters, and the dates in it."""
    found: set[bytes] = set()
    dates: set[dt.date] = set()
    for element in walk(data, offset, explicit=explicit):
        if element.tag >> 16 & 1 or element.end == UNDEFINED or element.vr in ("", "SQ"):
            continue
        value = data[element.value : element.end].strip(b" \0")
        if element.vr == "PN":
            found |= {part for part in re.split(rb"[\^= ,]+", value) if len(part) > 2}
        elif element.vr == "UI":
            found |= {uid for uid in value.split(b"\\") if not uid.startswith(b"1.2.840.10008.")}
        elif element.vr in ("DA", "DT"):
            day = re.match(rb"(\d{4})(\d\d)(\d\d)", value)
            if day:
                dates.add(dt.date(*map(int, day.groups())))
        elif element.tag in IDENTIFYING_TEXT and len(value) > 3:
            found.add(value)
    found |= {form for day in dates for form in date_forms(day)}
    return {token.lower() for token in found if len(token) > 2}, dates


def date_forms(day: dt.date) -> set[bytes]:
    forms = {day.strftime(form) for form in ("%Y%m%d", "%Y-%m-%d", "%Y.%m.%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y")}
    return {form.encode() for form in forms | {f"{day:%m/%d/}{day.year - 1900}"}}


def hidden_seconds(element: PrivateElement, vr: str, dates: set[dt.date]) -> list[int]:
    """Find the integers in a value that count the seconds to one of the dates, from one of the usual beginnings."""
    if vr in ("IS", "DS"):
        numbers = [int(part) for part in re.findall(rb"\d{8,11}", element.value)]
    elif vr in ("SL", "UL") and len(element.value) % 4 == 0:
        numbers = [number for (number,) in struct.iter_unpack("<L", element.value)]
    else:
        return []
    epochs = [dt.date(year, 1, 1) for year in (1970, 1980, 1990, 2000)]
    days = [(day - epoch).days for day in dates for epoch in epochs]
    days += [((day.year - epoch.year) * 12 + day.month) * 31 + day.day for day in dates for epoch in epochs]
    return [number for number in numbers if any(abs(number / 86400 - day) < 2 for day in days if day > 0)]


@pytest.mark.parametrize("most", [SOME_OF_A_FOLDER, pytest.param(None, marks=pytest.mark.long)], ids=["some", "all"])
def test_no_kept_value_of_a_real_file_tells_who_when_or_where(scanner_data: Path, most: int | None) -> None:
    kept: dict[str, int] = {}
    removed = 0
    leaks = []
    for path, data, offset, explicit in image_files(scanner_data, most):
        try:
            tokens, dates = identifiers(data, offset, explicit=explicit)
            elements = list(private_elements(data, offset, explicit=explicit))
        except WalkError:
            continue
        for element in elements:
            rule = TABLE.rule(element.creator, element.group, element.low)
            if rule is None or not rule.admits(element.value, element.vr):
                removed += 1
                continue
            kept[rule.creator] = kept.get(rule.creator, 0) + 1
            text = element.value.lower()
            if any(token in text for token in tokens) or hidden_seconds(element, rule.vr, dates):
                leaks.append(f"{row_name(rule)} in {path.relative_to(scanner_data)}")
    assert not leaks
    assert removed > 500
    vendors = ("SIEMENS MR HEADER", FRAME, "GEMS_ACQU_01", "GEMS_PARM_01", PHILIPS + "001", "Image Private Header")
    assert all(kept[creator] > 50 for creator in vendors), kept


def test_the_search_finds_what_is_not_kept(scanner_data: Path) -> None:
    """The same search over the elements that are not in the table: what it cannot find there it would miss above."""
    found = set()
    for _, data, offset, explicit in image_files(scanner_data, SOME_OF_A_FOLDER):
        try:
            tokens, dates = identifiers(data, offset, explicit=explicit)
            elements = list(private_elements(data, offset, explicit=explicit))
        except WalkError:
            continue
        for element in elements:
            text = element.value.lower()
            seconds = [hidden_seconds(element, vr, dates) for vr in ("IS", "UL")]
            if any(token in text for token in tokens) or any(seconds):
                found.add((element.creator.strip(" \0"), element.group, element.low))
    assert found >= KNOWN_IN_DATA, KNOWN_IN_DATA - found
    assert IDENTIFYING.keys() >= KNOWN_IN_DATA


@pytest.mark.parametrize("series", [*SAMPLE, *(pytest.param(one, marks=pytest.mark.long) for one in OTHERS)])
def test_a_series_without_the_other_private_elements_converts_the_same(
    series: str, scanner_data: Path, dcm2niix: str, tmp_path: Path
) -> None:
    """Nested elements included; CSA headers and protocol texts stay whole here: other tests are about those."""
    folders = {}
    left_out = 0
    for name in ("before", "after"):
        folders[name] = tmp_path / name
        folders[name].mkdir()
    for path, _, _, _ in image_files(scanner_data / series, None):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path)
            dataset.save_as(folders["before"] / path.name)
            left_out += leave_out(dataset)
            dataset.save_as(folders["after"] / path.name)
    assert left_out
    before, after = (convert(dcm2niix, folder, folder.with_name(f"{folder.name}-out")) for folder in folders.values())
    assert before
    assert after == before


def leave_out(dataset: Dataset) -> int:
    """Remove the private elements that the table does not keep, clean those of GE, and count the removed ones."""
    removed = 0
    for tag in list(dataset.keys()):
        if tag.is_private_creator:
            continue
        if not tag.is_private:
            if dataset.get_item(tag).VR == "SQ":
                removed += sum(map(leave_out, dataset[tag].value))
            continue
        raw = dataset.get_item(tag)
        creator = str(dataset.get((tag.group, tag.element >> 8), pydicom.DataElement(0x00091001, "LO", "")).value)
        rule = TABLE.rule(creator, tag.group, tag.element & 0xFF)
        value = raw.value
        if rule is not None and rule.action is PrivateAction.RECURSE and dataset[tag].VR == "SQ":
            removed += sum(map(leave_out, dataset[tag].value))
        elif rule is not None and rule.action in (PrivateAction.CSA, PrivateAction.PROTOCOL):
            continue
        elif rule is not None and rule.action is PrivateAction.GE_BLOCK:
            dataset[tag].value = clean_protocol_block(value)
        elif rule is not None and rule.action is PrivateAction.GE_HEADER:
            dataset[tag].value = clean_raw_data_header(value)
        elif rule is None or not isinstance(value, bytes) or not rule.admits(value, raw.VR or ""):
            if value is None and rule is not None:
                continue
            del dataset[tag]
            removed += 1
    return removed
