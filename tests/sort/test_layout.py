"""Whatever a header says, its place in the tree is safe on every file system and belongs to one identity only."""

from __future__ import annotations

import ntpath
import os
import re
import unicodedata
from dataclasses import fields, replace
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.index.row import IndexRow
from tasks.sort.layout import (
    LONGEST_NAME,
    UNKNOWN_DATE,
    UNKNOWN_PATIENT,
    fold,
    place_of,
    safe_part,
    short_hash,
    visit_date,
)
from tests import strategies

EMPTY = IndexRow(path=b"x", **{field.name: "" for field in fields(IndexRow) if field.name != "path"})

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


@given(strategies.index_rows(), st.sampled_from(("", "ab" * 32)), st.sampled_from((8, 32)))
def test_every_place_is_safe(tmp_path_factory: pytest.TempPathFactory, row: IndexRow, digest: str, digits: int) -> None:
    place = place_of(row, digest=digest, digits=digits)
    names = place.split("/")
    assert len(names) == 4
    assert {name: _faults(name) for name in names if _faults(name)} == {}
    root = PurePosixPath("/tree")
    assert os.path.normpath(root / place) == str(root / place)

    # And the file system of this machine takes it.
    target = tmp_path_factory.getbasetemp() / "tree" / place
    target.parent.mkdir(parents=True, exist_ok=True)
    target.touch()


@pytest.mark.parametrize("text", strategies.NASTY_TEXTS, ids=ascii)
def test_nasty_texts_in_every_field(text: str) -> None:
    names = [field.name for field in fields(IndexRow) if field.name != "path"]
    row = replace(EMPTY, **dict.fromkeys(names, text))
    assert [fault for name in place_of(row).split("/") for fault in _faults(name)] == []


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


@given(
    st.tuples(st.sampled_from(SPELLINGS), st.sampled_from(SPELLINGS)),
    st.tuples(st.sampled_from(SPELLINGS), st.sampled_from(SPELLINGS)),
)
def test_two_patients_never_share_a_folder(one: tuple[str, str], other: tuple[str, str]) -> None:
    """Not on a file system that folds case, nor on one that decomposes letters."""
    folders = [
        place_of(replace(EMPTY, patient_id=number, patient_name=name)).split("/")[0] for number, name in (one, other)
    ]
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        seen = [unicodedata.normalize(form, unicodedata.normalize(form, name).casefold()) for name in folders]
        assert (seen[0] == seen[1]) == (one == other)
    assert (fold(folders[0]) == fold(folders[1])) == (one == other)


@given(
    strategies.index_rows(),
    strategies.index_rows(),
    st.sets(st.sampled_from([field.name for field in fields(IndexRow)])),
)
def test_equal_places_mean_equal_identities(one: IndexRow, other: IndexRow, kept: set[str]) -> None:
    other = replace(one, **{name: getattr(other, name) for name in kept})
    if fold(place_of(one)) == fold(place_of(other)):
        for name in ("patient_id", "patient_name", "study_instance_uid", "series_instance_uid", "sop_instance_uid"):
            assert getattr(one, name) == getattr(other, name)
        assert visit_date(one) == visit_date(other)


@given(strategies.index_rows())
def test_place_depends_on_nothing_else(row: IndexRow) -> None:
    moved = replace(row, path=b"elsewhere", slow_path="big-endian", transfer_syntax_uid="1.2", image_type="OTHER")
    assert place_of(moved) == place_of(row)


def test_two_series_of_one_name_stay_two() -> None:
    row = replace(EMPTY, series_number="12", series_description="dti", series_instance_uid="2.25.1")
    twin = replace(row, series_instance_uid="2.25.2")
    copied = replace(row, study_instance_uid="2.25.9")
    folders = {place_of(each).split("/")[2] for each in (row, twin, copied)}
    assert len(folders) == 3
    assert all(re.fullmatch(r"012_dti_[0-9a-f]{8}", folder) for folder in folders)


@pytest.mark.parametrize(
    ("given_dates", "date"),
    [
        ({"study_date": "20240229"}, "2024-02-29"),
        ({"study_date": "2024.02.29"}, "2024-02-29"),
        ({"study_date": "20230229", "series_date": "20230301"}, "2023-03-01"),
        ({"acquisition_date": "20230301"}, "2023-03-01"),
        ({"acquisition_datetime": "20230301080000.000000+1000"}, "2023-03-01"),
        ({"content_date": "20230301\\20240301"}, "2023-03-01"),
        ({"study_date": "2020111"}, UNKNOWN_DATE),
        ({"study_date": "202011 1"}, UNKNOWN_DATE),
        ({"study_date": "٢٠٢٤٠٢٢٩"}, UNKNOWN_DATE),
        ({"study_date": "00000000"}, UNKNOWN_DATE),
        ({"study_date": "99991231"}, "9999-12-31"),
        ({}, UNKNOWN_DATE),
    ],
)
def test_visit_date(given_dates: dict[str, str], date: str) -> None:
    assert visit_date(replace(EMPTY, **given_dates)) == date


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        ("7", "00007"),
        ("123456", "123456"),
        ("-1", "00000"),
        ("1.5", "00000"),
        ("٣", "00000"),
        ("", "00000"),
        ("9" * 40, "00000"),
    ],
)
def test_instance_number(number: str, shown: str) -> None:
    name = place_of(replace(EMPTY, instance_number=number)).split("/")[3]
    assert re.fullmatch(shown + r"_[0-9a-f]{8}\.dcm", name)


def test_nothing_known_has_a_place() -> None:
    patient, date, series, instance = place_of(EMPTY).split("/")
    assert patient.startswith(UNKNOWN_PATIENT)
    assert date == UNKNOWN_DATE
    assert re.fullmatch(r"000_[0-9a-f]{8}", series)
    assert re.fullmatch(r"00000_[0-9a-f]{8}\.dcm", instance)


def test_digest_tells_two_contents_apart(tmp_path: Path) -> None:
    places = {place_of(EMPTY, digest=digest) for digest in ("", "a" * 64, "b" * 64)}
    assert len(places) == 3
