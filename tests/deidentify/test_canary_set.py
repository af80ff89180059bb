"""Nothing that was planted in any named place of any vendor's file comes out; and the search would find it."""

from __future__ import annotations

import gzip
import io
import os
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.datadict import tag_for_keyword

from tasks.deidentify import rewrite as rewriting
from tasks.deidentify.export import export_files
from tasks.deidentify.harvest import harvest
from tasks.deidentify.identity import Subject
from tasks.deidentify.plan import SortedFile, patients_of, plan_export
from tasks.deidentify.private import PrivateAction
from tasks.deidentify.profile import DEFAULT_PROFILE, MR_IMAGE_STORAGE, Action
from tasks.deidentify.rewrite import RefusalError, rewrite
from tasks.index.header import read_header
from tasks.index.row import IndexRow
from tests.deidentify.canary_score import Score, score, score_folder, survivors
from tests.deidentify.canary_set import (
    MORE_BASES,
    SEED,
    Canary,
    Planted,
    burnt_in_files,
    canary_set,
    places,
    real_files,
    swapped,
    synthetic_files,
)
from tests.deidentify.oracle import IDENTITY, SUBJECT

FEWEST_PLACES = 150
MOST_REFUSED_PLACES = 5
VENDORS = {"Siemens V", "Siemens XA", "GE", "Philips", "UIH", "Canon", "synthetic"}
NAMES = {"name of the folder", "name of the file"}


@pytest.fixture(scope="module")
def files(scanner_data: Path) -> list[Planted]:
    return canary_set(scanner_data)


def test_the_readme_tells_how_many_places_there_are(files: list[Planted]) -> None:
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text("utf-8")
    assert f"in {len(places(files))} places of" in " ".join(readme.split())


def of_base(files: list[Planted], vendor: str, base: str) -> Planted:
    return next(file for file in files if (file.vendor, file.base) == (vendor, base))


def ours(source: bytes) -> bytes | None:
    """Export a file as a run does, knowing of the patient what stands in this file."""
    known = harvest(source).identifiers
    try:
        return rewrite(source, profile=DEFAULT_PROFILE, identity=IDENTITY, subject=SUBJECT, known=known).content
    except RefusalError:
        return None


def check(files: list[Planted]) -> Score:
    """Export all, and find what is open and nothing else."""
    result = score(files, ours)
    assert result.unplanted == ()
    assert result.surviving_places() == []
    assert set(result.refused) == {f"{file.vendor}, {file.base}" for file in files if file.may_be_refused}
    return result


def test_nothing_planted_comes_out(files: list[Planted], capsys: pytest.CaptureFixture[str]) -> None:
    result = check(files)
    with capsys.disabled():
        sys.stdout.write(f"\n  canaries: {result}, {len(files)} files\n")
    assert result.places >= FEWEST_PLACES
    assert {file.vendor for file in files} == VENDORS
    only_refused = places(files) - places([file for file in files if not file.may_be_refused])
    assert 0 < len(only_refused) <= MOST_REFUSED_PLACES


def test_nothing_comes_out_by_way_of_names(files: list[Planted], tmp_path: Path) -> None:
    """Of a whole export with its audit: neither in the files, nor in the names of files and folders."""
    chosen = [file for file in files if not file.may_be_refused]
    tree, sorted_files, harvests = tmp_path / "sorted", [], {}
    for number, file in enumerate(chosen):
        (tree / file.path).parent.mkdir(parents=True)
        (tree / file.path).write_bytes(file.content)
        row = read_header(os.fsencode(tree), file.path.encode())
        assert isinstance(row, IndexRow)
        sorted_files.append(SortedFile(source=file.path, identity=str(number), row=row, owner=row.shared))
        harvests[file.path] = harvest(file.content)
    patients = patients_of(sorted_files)
    subjects = {
        patient: Subject(pseudonym=f"SUB-{number:04d}", shift_days=-1000) for number, patient in enumerate(patients, 1)
    }
    dates = DEFAULT_PROFILE.temporal_information()
    orders, people = plan_export(patients, subjects, IDENTITY, harvests, dates=dates)
    rows = export_files(
        orders,
        people,
        sorted_tree=tree,
        export=tmp_path / "export",
        quarantine=tmp_path / "quarantine",
        profile=DEFAULT_PROFILE,
        identity=IDENTITY,
        advance=lambda count: None,
    )
    assert {row.reason for row in rows} == {""}, "the audit raises no false alarm"
    result = score_folder(chosen, tmp_path / "export")
    assert result.surviving_places() == []


@pytest.mark.long
@pytest.mark.parametrize("seed", [SEED, 1, 2])
def test_nothing_planted_in_other_releases_with_other_tokens_comes_out(scanner_data: Path, seed: int) -> None:
    check([*real_files(scanner_data, seed, bases=MORE_BASES), *synthetic_files(seed)])
    check([*real_files(scanner_data, seed), *burnt_in_files(seed)])


def test_the_set_is_the_same_every_time_and_another_with_another_seed() -> None:
    first, again, other = (list(synthetic_files(seed)) for seed in (7, 7, 8))
    assert first == again
    assert places(first) == places(other)
    tokens, others = (
        {canary.token for file in made for canary in file.canaries if canary.kind in ("word", "id", "uid", "name")}
        for made in (first, other)
    )
    assert tokens & others == set()


# ---- sabotage: the search finds what is there


def test_all_is_found_where_the_export_is_the_source(files: list[Planted]) -> None:
    result = score(files, lambda source: source, check_sources=False)
    assert places(files) - set(result.surviving_places()) == NAMES
    assert len(result.survived) == result.planted - len(NAMES) * len(files)


def test_names_of_files_and_folders_are_searched(files: list[Planted], tmp_path: Path) -> None:
    file = of_base(files, "GE", "scanner")
    target = tmp_path / file.path
    target.parent.mkdir()
    target.write_bytes(b"nothing")
    assert set(score_folder([file], tmp_path).surviving_places()) == NAMES
    target.write_bytes(file.content)
    assert set(score_folder([file], tmp_path).surviving_places()) == places([file])


def _high_bits(token: bytes) -> bytes:
    """Write a tiny image whose pixels have 12 bits and spell the token in the four above."""
    stream = io.BytesIO()
    nibbles = [half for letter in token for half in (letter >> 4, letter & 15)]
    pixels = b"".join(struct.pack("<H", nibble << 12 | 0x123) for nibble in nibbles)
    stream.write(bytes(128) + b"DICM" + struct.pack("<HH2sH", 2, 0x10, b"UI", 20) + b"1.2.840.10008.1.2.1\0")
    for tag, value in ((0x00280100, 16), (0x00280101, 12)):
        stream.write(struct.pack("<HH2sHH", tag >> 16, tag & 0xFFFF, b"US", 2, value))
    stream.write(struct.pack("<HH2sHL", 0x7FE0, 0x10, b"OW", 0, len(pixels)) + pixels)
    return stream.getvalue()


PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda token: token,
    "lower": bytes.lower,
    "title": bytes.title,
    "UTF-16": lambda token: token.decode().encode("utf-16-le"),
    "UTF-16, other order": lambda token: token.decode().encode("utf-16-be"),
    "UTF-16, odd place": lambda token: b"x" + token.decode().encode("utf-16-le"),
    "swapped": lambda token: swapped(token.decode()),
    "swapped, odd place": lambda token: swapped(f"x{token.decode()}x"),
    "gzip": lambda token: b"odd" + gzip.compress(token * 9),
    "zlib, little": lambda token: b"odd" + zlib.compress(token * 9, 1),
    "zlib": lambda token: b"odd" + zlib.compress(token * 9, 9),
    "zlib in gzip": lambda token: gzip.compress(b"in" + zlib.compress(token * 9)),
    "cut gzip": lambda token: gzip.compress(token + bytes(range(256)) * 4)[:-9],
    "name in a gzip header": lambda token: b"\x1f\x8b\x08\x08\0\0\0\0\0\3" + token + b"\0",
    "high bits of pixels": _high_bits,
}


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_word_is_found_in_every_packing(packing: str) -> None:
    canary = Canary(place="here", kind="word", token="QUIXZORBLA", vendor="")
    other = Canary(place="nowhere", kind="word", token="ZORBLAQIUX", vendor="")
    content = bytes(100) + PACKINGS[packing](b"QUIXZORBLA") if packing[:4] != "high" else _high_bits(b"QUIXZORBLA")
    assert survivors(content, [canary, other]) == [canary]


@pytest.mark.parametrize(
    ("kind", "token", "content"),
    [
        ("date", "19310704", b"19310704"),
        ("date", "19310704", b"at 1931-07-04"),
        ("date", "19310704", b"4.7 or 04.07.1931"),
        ("date", "19310704", b"07/04/1931"),
        ("date", "19310704", b"1931.07.04"),
        ("date", "19310704", b"04 Jul 1931"),
        ("date", "19310704", "19310704101112".encode("utf-16-le")),
        ("epoch", "1048576123", b"1048576123"),
        ("epoch", "1048576123", struct.pack("<L", 1048576123)),
        ("epoch", "1048576123", struct.pack(">L", 1048576123)),
        ("epoch", "1048576123", struct.pack("<d", 1048576123)),
        ("epoch", "1048576123", b"0x3E80007B"),
        ("serial", "612345678", struct.pack("<L", 612345678)),
        ("name", "Mülléri", b"MULLERI"),
        ("name", "Mülléri", "MÜLLÉRI".encode("latin-1")),
        ("name", "山田金糸", "山田金糸".encode("iso2022_jp")),
        ("name", "山田金糸", "山田金糸".encode("shift_jis")),
        ("name", "김금사조", "김금사조".encode("euc_kr")),
    ],
)
def test_dates_numbers_and_names_are_found_in_every_spelling(kind: str, token: str, content: bytes) -> None:
    canary = Canary(place="here", kind=kind, token=token, vendor="")
    assert survivors(b"before " + content + b" behind", [canary]) == [canary]


def test_a_date_inside_a_longer_number_is_none() -> None:
    canary = Canary(place="here", kind="date", token="19310704", vendor="")
    assert survivors(b"2.25.7719310704999", [canary]) == []


# ---- sabotage: a part of the rewriter that is switched off shows


def leaks(files: list[Planted], vendor: str, base: str) -> set[str]:
    file = of_base(files, vendor, base)
    return set(score([file], ours, check_sources=False).surviving_places())


@pytest.mark.parametrize(
    ("keyword", "place"),
    [
        ("PatientAddress", "PatientAddress"),
        ("AccessionNumber", "AccessionNumber"),
        ("SeriesDescription", "SeriesDescription, a word"),
        ("FrameOfReferenceUID", "FrameOfReferenceUID"),
        ("AcquisitionDate", "AcquisitionDate"),
    ],
)
def test_a_rule_deleted_shows(files: list[Planted], monkeypatch: pytest.MonkeyPatch, keyword: str, place: str) -> None:
    monkeypatch.setattr(rewriting, "_remembered", {})
    monkeypatch.setitem(DEFAULT_PROFILE.actions(MR_IMAGE_STORAGE).by_tag, tag_for_keyword(keyword), Action.KEEP)
    assert place in leaks(files, "synthetic", "explicit")


@pytest.mark.parametrize(
    ("action", "vendor", "beginning"),
    [
        (PrivateAction.CSA, "Siemens V", "CSA "),
        (PrivateAction.PROTOCOL, "Siemens XA", "XA 0021,xx19"),
        (PrivateAction.GE_BLOCK, "GE", "GE protocol block"),
        (PrivateAction.GE_HEADER, "GE", "GE raw data header"),
    ],
)
def test_a_cleaner_switched_off_shows(
    files: list[Planted], monkeypatch: pytest.MonkeyPatch, action: PrivateAction, vendor: str, beginning: str
) -> None:
    switched = {**rewriting._CLEANERS, action: lambda value: value}
    monkeypatch.setattr(rewriting, "_remembered", {})
    monkeypatch.setattr(rewriting, "_CLEANERS", switched)
    found = leaks(files, vendor, "scanner")
    expected = {place for place in places([of_base(files, vendor, "scanner")]) if place.startswith(beginning)}
    assert found == expected
