"""What the audit remembers of the files before hides no fault in the next one, and does not grow."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pydicom
import pytest
from pydicom.dataset import FileDataset

from tasks.deidentify.audit import compare
from tasks.deidentify.audit.compare import Expectation, audit_file
from tasks.deidentify.audit.memory import Memory
from tasks.deidentify.audit.read import Frame, read_file
from tasks.deidentify.harvest import harvest
from tasks.deidentify.identity import Identity, Subject
from tasks.deidentify.profile import DEFAULT_PROFILE
from tasks.deidentify.rewrite import rewrite
from tests.deidentify.images import image

SUBJECT = Subject(pseudonym="SUB-0009", shift_days=-777)
IDENTITY = Identity(bytes(range(32)))
CODES = tuple(code for code, _ in DEFAULT_PROFILE.codes())
STOWAWAY = "ZEBEDIAH"
SERIES = (
    "dcm_qa_stc/In/Siemens/B17/6_ax_asc_35sl",
    "dcm_qa_stc/In/Siemens/D13/ep2d_Asc_2",
    "dcm_qa_stc/In/GE/ProtocolDataBlock",
    "dcm_qa_stc/In/UIH/R002",
)
"""Siemens mosaics with CSA headers, GE's compressed blocks, and what UIH writes."""


class Pair(NamedTuple):
    """A source and its export."""

    source: bytes
    export: bytes


class Series(NamedTuple):
    """Files of one patient, and what their exports have to be."""

    pairs: list[Pair]
    expected: Expectation


@cache
def series_of(folder: Path) -> Series:
    """Rewrite the first files of a series, and add some with other instance numbers if they are few."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    files = [content for path in found if (content := path.read_bytes())[128:132] == b"DICM"]
    first = pydicom.dcmread(io.BytesIO(files[0])).SeriesInstanceUID
    sources = [file for file in files[:40] if pydicom.dcmread(io.BytesIO(file)).SeriesInstanceUID == first][:3]
    while len(sources) < 4:
        sources.append(spoil(sources[0], lambda dataset: setattr(dataset, "InstanceNumber", 900 + len(sources))))
    known = frozenset().union(*(harvest(source).identifiers for source in sources))
    expected = Expectation(
        pseudonym=SUBJECT.pseudonym,
        shift_days=SUBJECT.shift_days,
        identifiers=known | {STOWAWAY.lower()},
        uids=frozenset(),
        codes=CODES,
    )
    pairs = [
        Pair(source, rewrite(source, profile=DEFAULT_PROFILE, identity=IDENTITY, subject=SUBJECT, known=known).content)
        for source in sources
    ]
    return Series(pairs, expected)


@pytest.fixture(params=SERIES)
def series(request: pytest.FixtureRequest, scanner_data: Path) -> Series:
    return series_of(scanner_data / request.param)


def spoil(content: bytes, act: Callable[[FileDataset], None]) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(content))
    act(dataset)
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=False)
    return out.getvalue()


def forget() -> None:
    compare._patient.cache_clear()


def cold(pair: Pair, expected: Expectation) -> list[str]:
    """Audit with nothing remembered."""
    forget()
    return audit_file(*pair, expected)


def warm(pair: Pair, series: Series) -> list[str]:
    """Audit after the others of the series, in which nothing was found, and after the very same that was right."""
    forget()
    for other in series.pairs:
        assert audit_file(*other, series.expected) == []
    return audit_file(*pair, series.expected)


def places_of(export: bytes) -> Iterator[tuple[int, int]]:
    """Yield where each element of an export begins, and where it ends."""
    position = len(export) - sum(map(len, _data_set(export)))
    for content in _data_set(export):
        yield position, position + len(content)
        position += len(content)


def _data_set(export: bytes) -> list[bytes]:
    reading = read_file(export)
    contents = [span.content for span in reading.spans]
    begin = export.index(contents[-1]) if contents else 0
    return [*contents[:-1], export[begin:]]


def test_a_byte_flipped_in_any_element_is_found_after_files_that_were_right(series: Series) -> None:
    source, export = series.pairs[2]
    chance = random.Random(len(export))
    places = list(places_of(export))
    for begin, end in chance.sample(places, min(len(places), 25)):
        at = chance.randrange(begin, end)
        flipped = bytearray(export)
        flipped[at] ^= 1 << chance.randrange(8)
        pair = Pair(source, bytes(flipped))
        assert warm_once(pair, series) == cold(pair, series.expected), (begin, at)


def warm_once(pair: Pair, series: Series) -> list[str]:
    """Audit with what the file before it left, whatever it was; then the right one again."""
    forget()
    audit_file(*series.pairs[0], series.expected)
    audit_file(*series.pairs[2], series.expected)
    found = audit_file(*pair, series.expected)
    assert audit_file(*series.pairs[1], series.expected) == []
    return found


def test_a_flipped_pixel_is_found_after_files_that_were_right(series: Series) -> None:
    source, export = series.pairs[1]
    assert "pixel-data" in warm(Pair(source, export[:-40] + bytes([export[-40] ^ 1]) + export[-39:]), series)


def test_a_stowaway_is_found_in_what_was_right_before(series: Series) -> None:
    """In a text, in the blobs that repeat themselves within a series, and behind everything."""
    source, export = series.pairs[1]
    named = STOWAWAY.encode()
    blobs = [
        (begin, end)
        for begin, end in places_of(export)
        if 2000 < end - begin < 200_000 and not export.startswith(b"\xe0\x7f\x10\0", begin)
    ]
    rooms = [export.find(bytes(len(named) + 8), begin + 64, end) for begin, end in blobs]
    for room in rooms:
        if room >= 0:
            planted = export[: room + 4] + named + export[room + 4 + len(named) :]
            assert {"identifier", "private"} <= set(warm(Pair(source, planted), series)), room
    assert max(rooms) >= 0 or b"SIEMENS" not in source
    planted = spoil(export, lambda one: setattr(one, "SoftwareVersions", STOWAWAY))
    assert "identifier" in warm(Pair(source, planted), series)
    assert "identifier" in warm(Pair(source, export + b"\xfc\xff\xfc\xffOB\0\0\x08\0\0\0" + named), series)


def test_the_same_files_are_found_wanting_by_what_is_known_of_another_patient(series: Series) -> None:
    source, export = series.pairs[0]
    told = pydicom.dcmread(io.BytesIO(export))
    assert warm(series.pairs[0], series) == []
    expected = series.expected
    identifiers = expected.identifiers | {told.ManufacturerModelName.casefold()}
    others = {
        "pseudonym": replace(expected, pseudonym="SUB-0010"),
        "date": replace(expected, shift_days=SUBJECT.shift_days - 1),
        "uid": replace(expected, uids=frozenset({told.SeriesInstanceUID})),
        "identifier": replace(expected, identifiers=identifiers),
        "codes": replace(expected, codes=CODES[:-1]),
    }
    for code, other in others.items():
        assert code in audit_file(source, export, other), code
    assert audit_file(source, export, expected) == []


def test_what_one_file_alone_tells_of_the_patient_is_looked_for_in_what_was_right_before(series: Series) -> None:
    """Its physician has the name that stands in every export of the series, as the model of the scanner."""
    source, export = series.pairs[1]
    model = pydicom.dcmread(io.BytesIO(export)).ManufacturerModelName
    told = Pair(spoil(source, lambda one: setattr(one, "ReferringPhysicianName", model)), export)
    assert "identifier" in cold(told, series.expected)
    assert warm(told, series) == cold(told, series.expected)
    # The dates that it tells are those of the others, moved.
    day = pydicom.dcmread(io.BytesIO(export)).StudyDate
    told = Pair(spoil(source, lambda one: setattr(one, "SeriesDate", day)), export)
    assert warm(told, series) == cold(told, series.expected)
    assert "date" in cold(told, series.expected) or not day.isdigit()


def test_one_file_swapped_for_another_of_its_series_is_found(series: Series) -> None:
    """Every element of both was right, each beside its own source."""
    one, other = series.pairs[:2]
    assert warm(Pair(one.source, other.export), series) != []


def test_a_uid_that_stands_for_two_is_found_though_each_was_right_by_itself(series: Series) -> None:
    source, export = series.pairs[1]
    same = spoil(export, lambda one: setattr(one, "StudyInstanceUID", one.SeriesInstanceUID))
    assert "uid" in warm(Pair(source, same), series)


def doctored(series: Series) -> list[tuple[Pair, list[str]]]:
    """Return right and wrong pairs, with what is found of each with nothing remembered."""
    acts: Iterable[Callable[[FileDataset], None]] = (
        lambda one: setattr(one, "SeriesDate", "19990101"),
        lambda one: setattr(one, "InstanceNumber", "77777"),
        lambda one: delattr(one, "Rows"),
        lambda one: setattr(one, "SpecificCharacterSet", "ISO_IR 192"),
    )
    pairs = [*series.pairs, *(Pair(series.pairs[0].source, spoil(series.pairs[1].export, act)) for act in acts)]
    return [(pair, cold(pair, series.expected)) for pair in pairs]


def test_the_order_of_files_changes_no_verdict(series: Series) -> None:
    judged = doctored(series)
    assert {bool(found) for _, found in judged} == {True, False}
    chance = random.Random(len(judged[0][0].source))
    for _ in range(8):
        forget()
        for pair, found in chance.choices(judged, k=8):
            assert audit_file(*pair, series.expected) == found


@pytest.mark.parametrize("keyword", ["Rows", "SamplesPerPixel", "BitsAllocated", "HighBit", "NumberOfFrames"])
def test_a_size_with_two_values_is_a_finding_of_the_pixels(keyword: str) -> None:
    expected = Expectation(
        pseudonym=SUBJECT.pseudonym,
        shift_days=SUBJECT.shift_days,
        identifiers=frozenset(),
        uids=frozenset(),
        codes=CODES,
    )
    source = image()
    export = rewrite(source, profile=DEFAULT_PROFILE, identity=IDENTITY, subject=SUBJECT).content
    assert audit_file(source, export, expected) == []
    twice = [spoil(one, lambda image: setattr(image, keyword, [1, 1])) for one in (source, export)]
    assert "pixel-data" in audit_file(*twice, expected)


# ---- bounds


def test_a_memory_never_holds_more_than_it_may() -> None:
    memory: Memory[int] = Memory(100_000)
    for number in range(5000):
        memory.remember(number, number, number % 2000)
        assert memory.size <= 100_000
    memory.remember("large", 1, 50_000)
    assert memory.get("large") is None
    memory.remember("small", 1, 10)
    assert memory.get("small") == 1


def test_what_is_remembered_of_a_patient_stays_within_its_bounds(scanner_data: Path) -> None:
    series = series_of(scanner_data / SERIES[0])
    source, export = series.pairs[0]
    forget()
    for number in range(40):
        changed = [
            spoil(one, lambda dataset, n=number: setattr(dataset, "EchoTime", f"{n}.5" + "0" * 8))
            for one in (source, export)
        ]
        assert audit_file(*changed, series.expected) == []
    patient = compare._patient(series.expected)
    assert patient.last is not None
    assert patient.last.words.verdicts.size <= compare._MOST_REMEMBERED
    assert all(sum(len(span.content) for span in frame.spans) < len(export) - 200_000 for frame in patient.last[:2])
    assert compare._patient.cache_info().maxsize == compare._MOST_PATIENTS


def test_a_file_with_much_beside_its_pixels_is_not_kept() -> None:
    small = read_file(image())
    assert Frame.of(small) is not None
    large = read_file(spoil(image(), lambda dataset: setattr(dataset, "ImageComments", "x" * 10_000)))
    assert Frame.of(large) is not None
    large = read_file(spoil(image(), lambda dataset: dataset.add_new(0x00091010, "OB", bytes(5 << 20))))
    assert Frame.of(large) is None
