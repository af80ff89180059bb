"""The cleaners of GE's two blobs drop who was scanned and when, and nothing that a converter reads of the scan."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.deidentify.ge import (
    GZIP_HEADER,
    LARGEST_PROTOCOL,
    NUMBER_KEYS,
    TERM_KEYS,
    clean_protocol_block,
    clean_raw_data_header,
)
from tasks.dicom.elements import UNDEFINED, walk
from tasks.dicom.normalise import open_data_set
from tasks.dicom.syntax import SyntaxRefusalError
from tests.deidentify.conversion import convert

PROTOCOL_BLOCK = 0x0025_001B
RAW_DATA_HEADER = 0x0043_002A
"""Group and low byte; GE's blocks stand at 10 in these files."""

LEFT_OUT = {
    **dict.fromkeys(("SEDESC", "SEDESCFLAG", "NOTES"), "the series description and what people typed"),
    **dict.fromkeys(("PDGMUID", "PDGMSTR"), "the paradigm of the stimulation: a UID and a text"),
    **dict.fromkeys(
        ("CLINICALCOIL", "COIL", "COILCOMPONENT", "COILGROUP", "COILREGION"), "names that sites give coils"
    ),
    **dict.fromkeys(("PSDNAME", "RXMBLOB"), "file names on the scanner"),
    **dict.fromkeys(("ANATOMY", "ANREF"), "a code of the body part and a landmark"),
    **dict.fromkeys(("PLUG", "STATION"), "numbers of the installation"),
}
"""The keys of the real blocks that do not come through, with the reason."""

SAMPLE = """POSITION "Supine"
SEDESC "Doe, John 2018"
IOPT "EPI, FMRI"
PSEQ "Gradient Echo"
TE "Min Full"
DELACQNOAV "0"
SLICEORDER "1"
VIEWORDER "0"
MBACCEL "4"
NOSLC "37"
USERCV3 "20180918"
GRIP_SLGROUP1 "0.000000 25.219501 17.312536 -0.0 15 1"
SLOC1 "I17.7"
MULTIBVALUE "1000.0;2000.0;"
"""

SERIES = [
    "dcm_qa_stc/In/GE/ProtocolDataBlock/mr_0005",
    "dcm_qa_stc/In/GE/RTIA/2_epiRT_ascending",
    pytest.param("dcm_qa_nih/In/20180918GE/mr_0006", marks=pytest.mark.long),
    pytest.param("dcm_qa_stc/In/GE/RTIAold/15_Zugfahrt", marks=pytest.mark.long),
    pytest.param("dcm_qa_stc/In/GE/TriggerTime/4_epi_ascending", marks=pytest.mark.long),
]


def block(text: str | bytes, *, name: str = "Ex27018Ser4Rx", when: int = 1_537_271_359) -> bytes:
    """Write a protocol block as scanners do, with a name and a time in the gzip header."""
    content = text if isinstance(text, bytes) else text.encode("latin-1")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = (
        b"\x1f\x8b\x08\x08" + struct.pack("<L", when) + b"\0\x03" + name.encode() + b"\0" + packer.compress(content)
    )
    packed += packer.flush() + struct.pack("<LL", zlib.crc32(content), len(content) & 0xFFFFFFFF)
    return struct.pack("<L", len(packed)) + packed + bytes(len(packed) & 1)


def unpacked(value: bytes) -> str:
    """Read a block with another reader than the cleaner's own."""
    (length,) = struct.unpack_from("<L", value)
    return gzip.decompress(value[4 : 4 + length]).decode("latin-1")


def pairs(text: str) -> dict[str, str]:
    return dict(re.findall(r'^(?:set )?(\w+) "([^"]*)"', text, re.MULTILINE))


def blobs(folder: Path, element: int, most: int = 4) -> dict[bytes, Path]:
    """Collect the different values of a private element in the first files of each folder, with a file of each."""
    found: dict[bytes, Path] = {}
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names)[:most]:
            path = Path(parent, name)
            try:
                data, start, _ = open_data_set(path.read_bytes())
            except SyntaxRefusalError:
                continue
            for item in walk(data, start.offset, explicit=start.explicit):
                if item.tag & 0xFFFF_00FF == element and item.tag & 0xFF00 and item.end != UNDEFINED:
                    found.setdefault(data[item.value : item.end], path)
    return found


@pytest.fixture(scope="module")
def real_blocks(scanner_data: Path) -> dict[bytes, Path]:
    found = blobs(scanner_data / "dcm_qa_stc" / "In" / "GE", PROTOCOL_BLOCK)
    found |= blobs(scanner_data / "dcm_qa_nih" / "In" / "20180918GE", PROTOCOL_BLOCK)
    assert len(found) >= 7
    return found


@pytest.fixture(scope="module")
def real_headers(scanner_data: Path) -> dict[bytes, Path]:
    found = blobs(scanner_data / "dcm_qa_stc" / "In" / "GE", RAW_DATA_HEADER)
    assert len(found) >= 4
    return found


def test_a_block_keeps_what_describes_the_scan() -> None:
    cleaned = clean_protocol_block(block(SAMPLE))
    assert cleaned is not None
    kept = [line for line in SAMPLE.splitlines() if not line.startswith(("SEDESC", "USERCV3"))]
    assert unpacked(cleaned) == "\n".join(kept) + "\n"


def test_the_packed_form_tells_nothing_and_is_always_the_same() -> None:
    cleaned = clean_protocol_block(block(SAMPLE))
    assert cleaned is not None
    (length,) = struct.unpack_from("<L", cleaned)
    assert cleaned[4:14] == GZIP_HEADER == b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    assert len(cleaned) % 2 == 0
    assert len(cleaned) - 4 - length in (0, 1)
    assert cleaned[4 + length :] in (b"", b"\0")
    # The last four bytes of the gzip stream are how readers learn the size of the text.
    assert struct.unpack_from("<L", cleaned, length) == (len(unpacked(cleaned)),)
    clean_protocol_block.cache_clear()
    assert clean_protocol_block(block(SAMPLE, name="Ex1Ser1Rx", when=0)) == cleaned
    assert clean_protocol_block(cleaned) == cleaned


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ('IOPT "EPI, Jones, FMRI"', 'IOPT "EPI, FMRI"'),
        ('IOPT "Jones"', ""),
        ('PSEQ "Gradient Echo"', 'PSEQ "Gradient Echo"'),
        ('PSEQ "Gradient Echo Jones"', ""),
        ('TE "30.0"', 'TE "30.0"'),
        ('TE "Minimum"', 'TE "Minimum"'),
        ('SLICEORDER "1 Jones"', ""),
        ('SLICEORDER "20180918"', ""),
        ('NOSLC ""', 'NOSLC ""'),
        ('set NOSLC "37"', 'set NOSLC "37"'),
        ('NOSLC "37" Jones', ""),
        ('Jones "37"', ""),
        ('JONES "37"', ""),
        ("Jones", ""),
        ('NOSLC "1;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;x"', ""),
    ],
)
def test_each_line_is_judged_by_key_and_value(line: str, kept: str) -> None:
    cleaned = clean_protocol_block(block(f'HOS "0"\n{line}\nVIEWORDER "1"\n'))
    assert cleaned is not None
    expected = f"{kept}\n" if kept else ""
    assert unpacked(cleaned) == f'HOS "0"\n{expected}VIEWORDER "1"\n'


def test_a_line_break_stands_before_the_first_key_that_is_left() -> None:
    """dcm2niix looks for SLICEORDER behind a line break, because other keys may end with the same letters."""
    cleaned = clean_protocol_block(block('SEDESC "a"\nSLICEORDER "1"\n'))
    assert cleaned is not None
    assert unpacked(cleaned) == '\nSLICEORDER "1"\n'


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\0\0",
        b"\0\0\0\0",
        block(SAMPLE)[:100],
        struct.pack("<L", 5000) + block(SAMPLE)[4:],
        block(SAMPLE)[:30] + b"\xff\xff\xff" + block(SAMPLE)[33:],
        block(""),
        block('<?xml version="1.0"?><protocol><sedesc>Doe</sedesc></protocol>'),
        block("no key here\n"),
        block('SEDESC "Doe"\n'),
        struct.pack("<L", 4) + b"PK\x03\x04",
    ],
    ids=[
        "empty",
        "short",
        "no-gzip",
        "cut",
        "length-past-end",
        "damaged",
        "no-text",
        "xml",
        "prose",
        "nothing-left",
        "zip",
    ],
)
def test_what_is_no_block_is_refused(value: bytes) -> None:
    assert clean_protocol_block(value) is None


def test_bombs_are_refused() -> None:
    bomb = block(b'NOSLC "1"\n' + bytes(64 * LARGEST_PROTOCOL))
    assert len(bomb) < LARGEST_PROTOCOL
    assert clean_protocol_block(bomb) is None
    # Below the limit, yet nothing that could be kept in one stored piece.
    assert clean_protocol_block(block(b'NOSLC "1"\n' * 10_000)) is None


@given(st.data())
def test_mutated_blocks_give_nothing_or_a_clean_block(data: st.DataObject) -> None:
    value = bytearray(block(SAMPLE))
    for _ in range(data.draw(st.integers(0, 4))):
        value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(len(value) - 8, len(value)))
    assert_clean(clean_protocol_block(bytes(value[:cut])))


TEXTS = st.text(st.characters(max_codepoint=255), max_size=12)


@given(st.lists(st.one_of(TEXTS, st.sampled_from([*SAMPLE.splitlines(), 'TR "x"', 'NOSLC "1" "2"']))), st.data())
def test_any_text_gives_nothing_or_a_clean_block(lines: list[str], data: st.DataObject) -> None:
    separator = data.draw(st.sampled_from(["\n", "\r\n", "\n\n", "\0"]))
    assert_clean(clean_protocol_block(block(separator.join(lines))))


def assert_clean(cleaned: bytes | None) -> None:
    if cleaned is None:
        return
    assert cleaned[4:14] == GZIP_HEADER
    assert len(cleaned) % 2 == 0
    text = unpacked(cleaned)
    for line in text.split("\n"):
        key = re.fullmatch(r'(?:set )?([A-Z][A-Z0-9_]*) "[^"]*"[ \t\r]*', line)
        assert not line or (key and (NUMBER_KEYS.fullmatch(key[1]) or TERM_KEYS.fullmatch(key[1]))), line
    assert "Doe" not in text
    assert clean_protocol_block(cleaned) == cleaned


def test_real_blocks_lose_only_what_is_named(real_blocks: dict[bytes, Path]) -> None:
    lost: set[str] = set()
    for value in real_blocks:
        cleaned = clean_protocol_block(value)
        assert cleaned is not None
        before, after = pairs(unpacked(value)), pairs(unpacked(cleaned))
        assert after.items() <= before.items()
        lost |= before.keys() - after.keys()
        assert list(after) == [key for key in before if key in after]
    assert lost == LEFT_OUT.keys()


def test_real_blocks_no_longer_tell_exam_time_and_description(real_blocks: dict[bytes, Path]) -> None:
    for value in real_blocks:
        cleaned = clean_protocol_block(value)
        assert cleaned is not None
        name = value[14 : value.index(b"\0", 14)]
        exam = re.match(rb"Ex(\d+)Ser\d+", name)
        assert exam, "the real header names the exam"
        (seconds,) = struct.unpack_from("<L", value, 8)
        assert dt.datetime.fromtimestamp(seconds, dt.UTC).year > 2000, "the real header has a time"
        description = pairs(unpacked(value))["SEDESC"]
        text = unpacked(cleaned)
        assert exam[1].decode() not in text
        assert exam[1] not in cleaned
        assert value[8:12] not in cleaned
        assert description not in text
        assert name not in cleaned


def test_a_raw_data_header_keeps_five_numbers() -> None:
    for version, polarity, planar, views in ((11.0, 0x30, 0x3A, 0x394), (26.002, 0x7C, 0x86, 0x354)):
        value = bytearray(b"\xaa" * 2000)
        struct.pack_into("<H", value, 24, 100)
        struct.pack_into("<f", value, 100, version)
        for place, number in ((polarity, 4), (planar, 0x800), (views, 2)):
            struct.pack_into("<H", value, 100 + place, number)
        cleaned = clean_raw_data_header(bytes(value))
        assert cleaned is not None
        assert len(cleaned) == len(value)
        places = {24, 25, *range(100, 104)} | {
            100 + place + byte for place in (polarity, planar, views) for byte in (0, 1)
        }
        assert all(cleaned[at] == (value[at] if at in places else 0) for at in range(len(value)))


@pytest.mark.parametrize(
    "value",
    [
        b"",
        bytes(915),
        bytes(2000),
        struct.pack("<24xH", 1500) + bytes(1990),
        struct.pack("<24xHf", 26, 99.0) + bytes(2000),
    ],
    ids=["empty", "short", "no-version", "offset-past-end", "other-version"],
)
def test_what_is_no_raw_data_header_is_refused(value: bytes) -> None:
    assert clean_raw_data_header(value) is None


@given(st.binary(max_size=2100), st.integers(0, 0xFFFF), st.floats(0, 50, width=32))
def test_no_bytes_make_the_header_cleaner_fail(content: bytes, offset: int, version: float) -> None:
    value = bytearray(content.ljust(1000, b"J"))
    struct.pack_into("<H", value, 24, offset)
    if offset + 4 <= len(value):
        struct.pack_into("<f", value, offset, version)
    cleaned = clean_raw_data_header(bytes(value))
    if cleaned is not None:
        assert len(cleaned) == len(value)
        assert len(cleaned) - cleaned.count(0) <= 12
        assert clean_raw_data_header(cleaned) == cleaned


def test_real_headers_tell_date_time_and_coil_and_the_cleaned_ones_do_not(real_headers: dict[bytes, Path]) -> None:
    for value in real_headers:
        # Month and day, and the years since 1900.
        assert re.search(rb"\d\d/\d\d/1\d\d\0", value), "the real header has a date"
        cleaned = clean_raw_data_header(value)
        assert cleaned is not None
        assert not re.search(rb"[ -~]{4}", cleaned)
        assert len(cleaned) - cleaned.count(0) <= 12


@pytest.mark.parametrize("series", SERIES)
def test_a_series_converts_the_same_with_cleaned_blobs(
    series: str, scanner_data: Path, dcm2niix: str, tmp_path: Path
) -> None:
    """Not one key of the sidecar differs; emptying the blobs shows that the comparison sees what is in them."""
    cleaners: dict[int, Callable[[bytes], bytes | None]] = {
        PROTOCOL_BLOCK: clean_protocol_block,
        RAW_DATA_HEADER: clean_raw_data_header,
    }
    without: dict[int, Callable[[bytes], bytes | None]] = dict.fromkeys(cleaners, lambda _: b"")
    before = convert(dcm2niix, scanner_data / series, tmp_path / "before")
    after = convert(dcm2niix, with_blobs(scanner_data / series, tmp_path / "cleaned", cleaners), tmp_path / "after")
    lost = convert(dcm2niix, with_blobs(scanner_data / series, tmp_path / "emptied", without), tmp_path / "lost")
    assert len(before) == 2
    assert after == before
    (sidecar,) = (json.loads(content) for name, content in before.items() if name.endswith(".json"))
    (emptied,) = (json.loads(content) for name, content in lost.items() if name.endswith(".json"))
    differing = {key for key in sidecar.keys() | emptied.keys() if sidecar.get(key) != emptied.get(key)}
    assert {"SliceTiming", "PhaseEncodingDirection"} <= differing


def with_blobs(source: Path, target: Path, cleaners: dict[int, Callable[[bytes], bytes | None]]) -> Path:
    """Copy a series and replace the value of each blob; nothing else changes by a byte."""
    target.mkdir()
    for path in sorted(source.glob("*.dcm")):
        data, start, _ = open_data_set(path.read_bytes())
        pieces = []
        position = 0
        for element in walk(data, start.offset, explicit=start.explicit):
            cleaner = cleaners.get(element.tag & 0xFFFF_00FF)
            if cleaner is None or not element.tag & 0xFF00:
                continue
            value = cleaner(data[element.value : element.end])
            assert value is not None
            # OB has four bytes of length, directly before the value, in both syntaxes.
            pieces += [data[position : element.value - 4], struct.pack("<L", len(value)), value]
            position = element.end
        (target / path.name).write_bytes(b"".join([*pieces, data[position:]]))
    return target
