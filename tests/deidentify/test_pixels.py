"""What lies beside the pixels goes, the pixels stay; areas turn black; and the audit, by code of its own, sees both.

Codestreams are made here with real encoders, or written marker by marker; what is planted in them is looked for in the
bytes that leave.
"""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import FileDataset
from pydicom.encaps import generate_fragments, generate_frames, parse_basic_offsets
from pydicom.pixels import get_encoder

from tasks.deidentify import pixels
from tasks.deidentify.audit.compare import audit_file
from tasks.deidentify.audit.pixels import PIXEL_FINDINGS, Region, areas_of, claim_findings, pixel_findings
from tasks.deidentify.pixels import (
    PIXEL_REFUSALS,
    REGION_RULE,
    Layout,
    PixelRefusalError,
    RegionRule,
    clean_encapsulated,
    clean_native,
    read_layout,
)
from tasks.deidentify.profile import DEFAULT_PROFILE, Profile
from tasks.deidentify.rewrite import RefusalError, Rewritten, rewrite
from tasks.dicom.syntax import EXPLICIT_LITTLE, IMPLICIT_LITTLE
from tests.deidentify.images import PIXELS, encapsulated, image, jpeg, nested, number, text
from tests.deidentify.oracle import IDENTITY, SUBJECT
from tests.deidentify.test_audit_alarms import expectation
from tests.dicom.encoder import Leaf, Node
from tests.dicom.oracle import data_files

JPEG = "1.2.840.10008.1.2.4.50"
JPEG_LS = "1.2.840.10008.1.2.4.80"
JPEG_2000 = "1.2.840.10008.1.2.4.90"
RLE = "1.2.840.10008.1.2.5"
ENCODED = (RLE, JPEG_LS, JPEG_2000)
PLUGINS = {RLE: "pydicom", JPEG_LS: "pyjpegls", JPEG_2000: "pylibjpeg"}

MARK = b"Canary^Jane"
AREA = (2, 3, 9, 7)
RULE = RegionRule(manufacturer="world*", rows=16, columns=16, areas=(AREA,))
ANY_SIZE = replace(RULE, rows=None, columns=None)
SIDE = 64
"""Pixels; JPEG 2000 makes smaller pictures of a picture, five times over, and needs some room for it."""


def made(source: bytes, *rules: RegionRule) -> Rewritten:
    profile = Profile(options=DEFAULT_PROFILE.options, regions=rules)
    return rewrite(source, profile=profile, identity=IDENTITY, subject=SUBJECT)


def refused(source: bytes, *rules: RegionRule) -> str:
    with pytest.raises(RefusalError) as refusal:
        made(source, *rules)
    return refusal.value.reason


def read(content: bytes) -> FileDataset:
    return pydicom.dcmread(io.BytesIO(content))


def region_of(rule: RegionRule) -> Region:
    return Region(*(getattr(rule, name) for name in Region._fields))


def found(source: bytes, export: bytes, *rules: RegionRule) -> list[str]:
    """List what the audit's own comparison of pixels finds."""
    before, after = read(source), read(export)
    areas = areas_of(before, [region_of(rule) for rule in rules])
    return sorted({*pixel_findings(before, after, areas), *claim_findings(before, after, areas)})


def layout(**more: object) -> Layout:
    plain = Layout(
        rows=16,
        columns=16,
        samples=1,
        frames=1,
        allocated=16,
        stored=12,
        high=11,
        is_signed=False,
        photometric="MONOCHROME2",
        is_planar=False,
    )
    return replace(plain, **more)


def native(values: np.ndarray, where: Layout) -> bytes | str | None:
    """Clean values; a reason if they are refused, None if they stay."""
    try:
        return clean_native(values.tobytes(), where).value
    except PixelRefusalError as refusal:
        return refusal.reason


def words(*values: int, rows: int = 16, columns: int = 16, ground: int = 100) -> np.ndarray:
    plane = np.full((rows, columns), ground, "<u2")
    plane.reshape(-1)[: len(values)] = values
    return plane


# ---- native: unused bits


def hidden_text(plane: np.ndarray, message: bytes = MARK, shift: int = 12) -> np.ndarray:
    """Write a text into the upper bits of the first words, four bits in each."""
    nibbles = np.array([nibble for byte in message for nibble in (byte >> 4, byte & 15)], "<u2")
    spoiled = plane.copy()
    spoiled.reshape(-1)[: len(nibbles)] |= nibbles << shift
    return spoiled


def pixel_element(value: bytes | np.ndarray) -> Leaf:
    raw = value if isinstance(value, bytes) else value.tobytes()
    return Leaf(tag=0x7FE00010, vr="OW", value=raw)


@pytest.mark.parametrize("explicit", [True, False])
def test_text_in_unused_bits_goes_and_the_image_stays(explicit: bool) -> None:
    plane = np.arange(256, dtype="<u2").reshape(16, 16) * 9
    source = image(pixel_element(hidden_text(plane)), explicit=explicit)
    result = made(source)
    assert read(result.content).PixelData == plane.tobytes()
    assert result.tally["pixel_unused_bits"] == 1
    assert found(source, result.content) == []
    assert found(source, made(image(explicit=explicit)).content) == ["pixel-data"]


def test_clean_pixel_data_are_the_same_bytes_and_counted_nowhere() -> None:
    result = made(image())
    assert read(result.content).PixelData == PIXELS
    assert not [name for name in result.tally if name.startswith("pixel")]
    assert clean_native(PIXELS, layout()).value is None


def test_bits_left_in_are_an_audit_finding() -> None:
    source = image(pixel_element(hidden_text(words())))
    untouched = made(image()).content.replace(PIXELS, hidden_text(words()).tobytes())
    assert found(source, untouched) == ["pixel-bits"]


@pytest.mark.parametrize(("stored", "high"), [(12, 11), (12, 15), (10, 12), (1, 0), (15, 14)])
def test_values_may_lie_anywhere_in_their_words(stored: int, high: int) -> None:
    where = layout(stored=stored, high=high)
    mask = ((1 << stored) - 1) << (high - stored + 1)
    values = np.random.default_rng(1).integers(0, 1 << 16, 256).astype("<u2")
    clean = (values & mask).astype("<u2")
    assert clean_native(clean.tobytes(), where).value is None
    assert where.unused == mask ^ 0xFFFF
    spoiled = clean | np.where(np.arange(256) % 7 == 0, mask ^ 0xFFFF, 0).astype("<u2")
    # Of few bits, noise may look smoother with the others.
    assert native(spoiled, where) in (clean.tobytes(), "wide-values")


def test_signed_values_extend_their_sign_or_leave_the_bits_zero() -> None:
    signed = layout(is_signed=True)
    values = np.arange(-128, 128, dtype="<i2") * 10
    extended = values.tobytes()
    bare = (values.view("<u2") & 0x0FFF).astype("<u2")
    assert clean_native(extended, signed).value is None
    assert clean_native(bare.tobytes(), signed).value is None
    spoiled = bare | np.where(np.arange(256) % 5 == 0, 0x5000, 0).astype("<u2")
    cleaned = clean_native(spoiled.tobytes(), signed)
    assert cleaned.value == extended


@given(values=st.lists(st.integers(0, 4095), min_size=256, max_size=256), marks=st.binary(min_size=6, max_size=100))
@settings(max_examples=60, deadline=None)
def test_whatever_hides_above_twelve_bits_goes_or_keeps_the_file_back(values: list[int], marks: bytes) -> None:
    plane = np.array(values, "<u2").reshape(16, 16)
    spoiled = hidden_text(plane, marks)
    cleaned = native(spoiled, layout())
    if cleaned is None:
        upper = spoiled >> 12
        assert len(set(upper[upper > 0])) <= 1
    else:
        assert cleaned in (plane.tobytes(), "wide-values")


def test_numbers_wider_than_the_header_says_keep_the_file_back() -> None:
    """A ramp up to 16 bits, said to have 12: cut off, it would fold into itself."""
    ramp = np.linspace(0, 60_000, 256).astype("<u2")
    assert refused(image(pixel_element(ramp))) == "wide-values"
    assert made(image(pixel_element(ramp), number(0x00280101, "US", 16), number(0x00280102, "US", 15)))


def test_a_plain_mark_or_one_value_too_large_stays() -> None:
    """A filled box is no writing; one drawn into a scanner's image shall not be torn out of it."""
    plane = words(ground=20)
    plane[5:12, 3:5] = 0x1111
    plane[5:12, 3] += np.arange(7, dtype="<u2")
    source = image(pixel_element(plane))
    assert read(made(source).content).PixelData == plane.tobytes()
    assert found(source, made(source).content) == []
    plane[14, 14] = 0x2111
    assert read(made(image(pixel_element(plane))).content).PixelData == (plane & 0x0FFF).tobytes()


def test_an_overlay_in_unused_bits_goes_with_its_bits() -> None:
    plane = words(ground=300)
    picture = np.random.default_rng(2).integers(0, 2, (16, 16)).astype("<u2")
    nodes: list[Node] = [number(0x60000100, "US", 16), number(0x60000102, "US", 12)]
    source = image(*nodes, pixel_element(plane | picture << 12))
    result = made(source)
    assert read(result.content).PixelData == plane.tobytes()
    assert b"\0\x60" not in result.content[result.content.index(b"\x28\0\x03\x03") : -len(PIXELS) - 12]
    assert found(source, result.content) == []


def test_an_overlay_that_fills_all_is_no_plain_mark() -> None:
    plane = words(ground=300)
    source = image(number(0x60000102, "US", 13), pixel_element(plane | 0x2000))
    assert read(made(source).content).PixelData == plane.tobytes()


@pytest.mark.parametrize(
    "nodes",
    [
        (number(0x60000100, "US", 16),),
        (number(0x60000102, "US", 3),),
        (number(0x60000102, "US", 16),),
        (number(0x60000102, "US", 13), number(0x60020102, "US", 11)),
        (number(0x60000102, "US", 13), number(0x60020100, "US", 16)),
    ],
    ids=["no position", "in the image", "beyond the word", "one of two", "one of two without position"],
)
@pytest.mark.parametrize("explicit", [True, False])
def test_an_overlay_in_the_images_own_bits_keeps_the_file_back(nodes: tuple[Node, ...], explicit: bool) -> None:
    assert refused(image(*nodes, explicit=explicit)) == "overlay-in-pixel-data"


def test_an_overlay_in_compressed_pixel_data_keeps_the_file_back() -> None:
    source = compressed(RLE, [words() | 0x1000], number(0x60000102, "US", 12))
    assert refused(source) == "overlay-in-pixel-data"


# ---- native: bytes


def test_bytes_behind_the_last_frame_are_cut() -> None:
    source = image(pixel_element(PIXELS + MARK + b"\0"))
    result = made(source)
    assert MARK not in result.content
    assert read(result.content).PixelData == PIXELS
    assert result.tally["pixel_bytes_cut"] == 12
    assert found(source, result.content) == []
    longer = read(result.content)
    longer.PixelData = PIXELS + MARK + b"\0"
    assert list(pixel_findings(read(source), longer, [])) == ["pixel-excess"]


def test_padding_holds_nothing() -> None:
    odd = [number(0x00280010, "US", 3), number(0x00280011, "US", 3), *eight_bits()]
    assert read(made(image(*odd, pixel_element(bytes(range(9)) + b"J"))).content).PixelData == bytes(range(9)) + b"\0"
    plain = image(*odd, pixel_element(bytes(range(9)) + b"\0"))
    assert not [name for name in made(plain).tally if name.startswith("pixel")]


def eight_bits() -> list[Node]:
    return [number(0x00280100, "US", 8), number(0x00280101, "US", 8), number(0x00280102, "US", 7)]


def test_floats_are_cut_behind_the_last_frame() -> None:
    floats = np.arange(256, dtype="<f4").tobytes()
    source = image(Leaf(tag=0x7FE00008, vr="OF", value=floats + b"Jane"), without=[0x7FE00010])
    result = made(source)
    assert read(result.content).FloatPixelData == floats
    assert found(source, result.content) == []


def test_pixel_data_without_a_size_keep_the_file_back() -> None:
    assert refused(image(without=[0x00280010])) == "pixel-data"
    assert refused(image(syntax=JPEG)) == "pixel-data"
    assert refused(image(encapsulated(b"", jpeg()))) == "pixel-data"
    twice = image()
    assert refused(twice + twice[twice.index(b"\xe0\x7f\x10\0OW") :]) == "pixel-data"


def test_offset_tables_without_frames_go() -> None:
    source = image(Leaf(tag=0x7FE00001, vr="OV", value=MARK[:8]), Leaf(tag=0x7FE00002, vr="OV", value=MARK[:8]))
    assert MARK[:8] not in made(source).content


# ---- encapsulated


def encode_frame(plane: np.ndarray, syntax: str, **more: object) -> bytes:
    facts = {
        "rows": plane.shape[0],
        "columns": plane.shape[1],
        "number_of_frames": 1,
        "samples_per_pixel": plane.shape[2] if plane.ndim == 3 else 1,
        "bits_allocated": plane.itemsize * 8,
        "bits_stored": 12 if plane.itemsize == 2 else 8,
        "photometric_interpretation": "RGB" if plane.ndim == 3 else "MONOCHROME2",
        "pixel_representation": 0,
        "planar_configuration": 0,
    } | more
    return get_encoder(syntax).encode(plane.tobytes(), encoding_plugin=PLUGINS[syntax], **facts)


def compressed(syntax: str, frames: Sequence[np.ndarray], *more: Node, table: bool = True) -> bytes:
    # Encoded as 16 bits, so that what stands in unused bits is encoded, too.
    streams = [encode_frame(plane, syntax, bits_stored=plane.itemsize * 8) for plane in frames]
    streams = [stream + b"\0" * (len(stream) % 2) for stream in streams]
    return with_streams(syntax, streams, *more, table=table)


def with_streams(syntax: str, streams: Sequence[bytes], *more: Node, table: bool = True, frames: int = 0) -> bytes:
    begins = [sum(len(stream) + 8 for stream in streams[:index]) for index in range(len(streams))]
    offsets = struct.pack(f"<{len(begins)}L", *begins) if table else b""
    count = text(0x00280008, "IS", str(frames or len(streams)))
    size = [number(0x00280010, "US", SIDE), number(0x00280011, "US", SIDE)]
    return image(count, *size, encapsulated(offsets, *streams), *more, syntax=syntax)


def planes(count: int = 3) -> list[np.ndarray]:
    generator = np.random.default_rng(3)
    return [generator.integers(0, 4096, (SIDE, SIDE)).astype("<u2") for _ in range(count)]


def fragments_of(content: bytes) -> list[bytes]:
    return list(generate_fragments(read(content).PixelData))[1:]


@pytest.mark.parametrize("syntax", ENCODED)
@pytest.mark.parametrize("table", [True, False])
def test_clean_frames_are_the_same_bytes(syntax: str, table: bool) -> None:
    streams = [bare(encode_frame(plane, syntax), syntax) for plane in planes()]
    source = with_streams(syntax, streams, table=table)
    result = made(source)
    assert read(result.content).PixelData == read(source).PixelData
    assert not [name for name in result.tally if name.startswith("pixel")]
    assert found(source, result.content) == []


def bare(stream: bytes, syntax: str) -> bytes:
    """Take the encoder's own comment out of a codestream, which is right behind its main head's last table."""
    if syntax == JPEG_2000:
        at = stream.index(b"\xff\x64")
        stream = stream[:at] + stream[at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big") :]
    return stream + b"\0" * (len(stream) % 2)


def segment(code: int, body: bytes) -> bytes:
    return bytes([0xFF, code]) + (len(body) + 2).to_bytes(2, "big") + body


@pytest.mark.parametrize("syntax", [JPEG, JPEG_LS, JPEG_2000])
@pytest.mark.parametrize("where", ["head", "end", "fragment"])
def test_a_text_beside_the_pixels_of_a_frame_goes(syntax: str, where: str) -> None:
    streams = [jpeg(bytes([7 * number % 200] * 30)) for number in range(3)]
    extra: list[Node] = [*eight_bits()]
    if syntax != JPEG:
        streams, extra = [bare(encode_frame(plane, syntax), syntax) for plane in planes()], []
    spoiled = list(streams)
    if where == "head":
        code = 0x64 if syntax == JPEG_2000 else 0xFE
        at = streams[1].index(b"\xff\x52") if syntax == JPEG_2000 else 2
        spoiled[1] = streams[1][:at] + segment(code, b"\0\1" + MARK) + streams[1][at:]
    elif where == "end":
        spoiled[1] = streams[1] + MARK + b"\0"
    else:
        spoiled.append(streams[0][:4] + MARK)
    source = with_streams(syntax, [one + b"\0" * (len(one) % 2) for one in spoiled], *extra, frames=3)
    assert MARK in source
    result = made(source)
    assert MARK not in result.content
    assert [one.rstrip(b"\0") for one in fragments_of(result.content)] == [one.rstrip(b"\0") for one in streams]
    begins = [sum(len(one) + 8 for one in fragments_of(result.content)[:index]) for index in range(3)]
    assert parse_basic_offsets(read(result.content).PixelData) == begins
    assert found(source, result.content) == []
    kind = {"head": "pixel_segments_cut", "end": "pixel_bytes_cut", "fragment": "pixel_fragments_cut"}[where]
    assert result.tally[kind]
    assert "pixel-excess" in found(source, with_pixels(result.content, read(source).PixelData))


def with_pixels(content: bytes, value: bytes) -> bytes:
    return content.replace(read(content).PixelData, value)


@pytest.mark.parametrize(
    ("segments", "kept"),
    [
        (segment(0xE0, b"JFIF\0\1\2\1\0\x48\0\x48\0\0"), True),
        (segment(0xE0, b"JFIF\0\1\2\1\0\x48\0\x48\1\1" + b"Doe"), False),
        (segment(0xE0, b"JFXX\0\x10Jane"), False),
        (segment(0xE1, b"Exif\0\0Jane Doe"), False),
        (segment(0xEE, b"Adobe\0\x64\0\0\0\0\1"), True),
        (segment(0xEE, b"Adobe\0\x64\x4a\x61\x6e\x65\1"), False),
        (segment(0xEE, b"Adobe\0\x64\0\0\0\0\1Jane"), False),
        (segment(0xE2, b"ICC_PROFILE\0\1\1Jane"), False),
        (segment(0xFE, b"LEAD Technologies"), False),
    ],
    ids=["JFIF", "thumbnail", "JFXX", "Exif", "Adobe", "Adobe's flags", "Adobe's end", "profile", "comment"],
)
def test_only_what_colors_need_stays_of_the_applications_segments(segments: bytes, kept: bool) -> None:
    plain = jpeg()
    source = with_streams(JPEG, [plain[:2] + segments + plain[2:] + b"\0" * (len(segments) % 2)], *eight_bits())
    result = made(source)
    (stream,) = fragments_of(result.content)
    assert (segments in stream) is kept
    assert b"Jane" not in stream
    assert b"Doe" not in stream
    assert (b"JFIF\0" in stream) is (b"JFIF\0" in segments)
    assert (b"Adobe\0" in stream) is (b"Adobe\0" in segments)
    assert found(source, result.content) == []


def test_a_frame_in_several_fragments_stays_so_if_nothing_changes() -> None:
    stream = jpeg(bytes(100))
    source = image(encapsulated(b"", stream[:40], stream[40:]), *eight_bits(), syntax=JPEG)
    assert fragments_of(made(source).content) == [stream[:40], stream[40:]]
    spoiled = image(encapsulated(b"", stream[:40], stream[40:] + MARK + b"\0"), *eight_bits(), syntax=JPEG)
    assert fragments_of(made(spoiled).content) == [stream]


def test_comments_of_tile_parts_go_and_their_lengths_are_right() -> None:
    stream = bare(encode_frame(planes()[0], JPEG_2000), JPEG_2000)
    at = stream.index(b"\xff\x90")
    comment = segment(0x64, b"\0\1" + MARK)
    told = int.from_bytes(stream[at + 6 : at + 10], "big")
    spoiled = stream[: at + 6] + (told + len(comment)).to_bytes(4, "big") + stream[at + 10 : at + 12] + comment
    spoiled += stream[at + 12 :]
    source = with_streams(JPEG_2000, [spoiled + b"\0" * (len(spoiled) % 2)])
    result = made(source)
    assert [one.rstrip(b"\0") for one in fragments_of(result.content)] == [stream.rstrip(b"\0")]
    assert found(source, result.content) == []


@pytest.mark.parametrize("syntax", ENCODED)
def test_extended_offsets_follow_what_was_cut(syntax: str) -> None:
    streams = [bare(encode_frame(plane, syntax), syntax) for plane in planes()]
    spoiled = [streams[0] + MARK + b"\0", *streams[1:]]
    begins = [sum(len(one) + 8 for one in spoiled[:index]) for index in range(3)]
    tables = [
        Leaf(tag=0x7FE00001, vr="OV", value=struct.pack("<3Q", *begins)),
        Leaf(tag=0x7FE00002, vr="OV", value=struct.pack("<3Q", *map(len, spoiled))),
    ]
    source = with_streams(syntax, spoiled, *tables, table=False)
    after = read(made(source).content)
    assert [
        bytes(frame)
        for frame in generate_frames(
            after.PixelData,
            number_of_frames=3,
            extended_offsets=(after.ExtendedOffsetTable, after.ExtendedOffsetTableLengths),
        )
    ] == streams
    assert found(source, made(source).content) == []
    spoiled_table = made(source).content.replace(after.ExtendedOffsetTable, MARK.ljust(24))
    assert "pixel-offsets" in found(source, spoiled_table)


def test_an_offset_table_holds_nothing_but_offsets() -> None:
    stream = jpeg()
    for table in (b"Jane", b"Canary^Jane ", bytes(4) + b"Jane"):
        source = image(encapsulated(table, stream), *eight_bits(), syntax=JPEG)
        assert parse_basic_offsets(read(made(source).content).PixelData) == [0]


@pytest.mark.parametrize(
    "stream",
    [
        b"\xff\xd8" + bytes(50),
        jpeg()[:-4],
        jpeg().replace(b"\xff\xc0\0\x0b", b"\xff\xc0\0\x0f"),
        jpeg()[:2] + segment(0xDB, bytes(65) + b"Jane") + jpeg()[2:],
        jpeg()[:2] + segment(0xC4, bytes(17) + b"Jane") + jpeg()[2:],
        jpeg()[:2] + segment(0xDD, b"Jane") + jpeg()[2:],
        jpeg()[:2] + segment(0x02, b"Jane") + jpeg()[2:],
        jpeg()[:2] + b"Jane" + jpeg()[2:],
    ],
    ids=["garbage", "no end", "frame", "quantization", "Huffman", "restart", "reserved", "no marker"],
)
def test_a_codestream_that_cannot_be_followed_keeps_the_file_back(stream: bytes) -> None:
    padded = stream + b"\0" * (len(stream) % 2)
    assert refused(image(encapsulated(b"", padded), *eight_bits(), syntax=JPEG)) == "pixel-data"


@pytest.mark.parametrize("syntax", [JPEG_LS, JPEG_2000, RLE])
def test_a_cut_or_broken_frame_is_refused_or_clean(syntax: str) -> None:
    stream = bare(encode_frame(planes()[0], syntax), syntax)
    reasons = set()
    for at in range(2, len(stream), len(stream) // 40):
        for broken in (stream[:at], stream[:at] + b"\xff" + stream[at + 1 :], stream[:at] + b"Ja" + stream[at:]):
            source = with_streams(syntax, [broken + b"\0" * (len(broken) % 2)])
            try:
                result = made(source)
            except RefusalError as refusal:
                reasons.add(refusal.reason)
            else:
                assert found(source, result.content) == []
    assert reasons <= PIXEL_REFUSALS.keys()


def test_rle_holds_nothing_between_its_segments_or_in_its_head() -> None:
    stream = bare(encode_frame(planes()[0], RLE), RLE)
    second = int.from_bytes(stream[8:12], "little")
    gap = MARK + b"\0"
    spoiled = stream[:8] + (second + len(gap)).to_bytes(4, "little") + stream[12:second] + gap + stream[second:]
    named = stream[:20] + b"Jane" + stream[24:]
    for one in (spoiled, named, stream + gap):
        source = with_streams(RLE, [one])
        result = made(source)
        assert fragments_of(result.content) == [stream]
        assert found(source, result.content) == []
        assert "pixel-excess" in found(source, with_pixels(result.content, read(source).PixelData))


@pytest.mark.parametrize("syntax", ENCODED)
def test_text_in_unused_bits_of_compressed_frames_goes(syntax: str) -> None:
    plane = np.arange(SIDE * SIDE, dtype="<u2").reshape(SIDE, SIDE)
    source = compressed(syntax, [plane, hidden_text(plane)])
    result = made(source)
    assert np.array_equal(read(result.content).pixel_array, np.stack([plane, plane]))
    assert result.tally["pixel_unused_bits"] == 1
    assert found(source, result.content) == []
    assert "pixel-bits" in found(source, with_pixels(result.content, read(source).PixelData))


# ---- areas


def blackened(values: np.ndarray, *areas: tuple[int, int, int, int], value: int = 0) -> np.ndarray:
    black = values.copy()
    for x0, y0, x1, y1 in areas:
        black[..., y0:y1, x0:x1] = value
    return black


@pytest.mark.parametrize("explicit", [True, False])
def test_an_area_turns_black_and_nothing_else_changes(explicit: bool) -> None:
    source = image(explicit=explicit)
    result = made(source, RULE)
    before = np.frombuffer(PIXELS, "<u2").reshape(16, 16)
    assert np.array_equal(read(result.content).pixel_array, blackened(before, AREA))
    assert result.tally["pixel_areas"] == 1
    assert found(source, result.content, RULE) == []
    assert found(source, result.content) == ["pixel-claims", "pixel-data"]
    assert found(source, made(source).content, RULE) == ["pixel-area"]


def test_such_a_file_says_so_and_others_do_not() -> None:
    after = read(made(image(), RULE).content)
    assert after.BurnedInAnnotation == "NO"
    codes = [item.CodeValue for item in after.DeidentificationMethodCodeSequence]
    assert codes == sorted(codes)
    assert "113101" in codes
    assert made(image(), RULE).codes == tuple(codes)
    other = made(image(text(0x00080070, "LO", "OTHER MAKER")), RULE)
    assert "113101" not in other.codes
    assert "BurnedInAnnotation" not in read(other.content)


def test_the_whole_audit_agrees() -> None:
    source = image(text(0x00080070, "LO", "WORLD MAKER"))
    expected = replace(expectation(), pseudonym=SUBJECT.pseudonym, shift_days=SUBJECT.shift_days)
    asked = replace(expected, regions=(region_of(RULE),))
    assert audit_file(source, made(source, RULE).content, asked) == []
    assert audit_file(source, made(source).content, expected) == []
    assert set(audit_file(source, made(source).content, asked)) == {"codes", "pixel-area"}
    assert set(audit_file(source, made(source, RULE).content, expected)) == {"codes", "pixel-claims", "pixel-data"} | (
        set(audit_file(source, made(source, RULE).content, expected)) & {"extra-element"}
    )


@pytest.mark.parametrize("syntax", ENCODED)
def test_areas_of_compressed_frames_turn_black_in_each(syntax: str) -> None:
    frames = planes()
    source = compressed(syntax, frames)
    result = made(source, ANY_SIZE)
    after = read(result.content)
    assert str(after.file_meta.TransferSyntaxUID) == syntax
    assert np.array_equal(after.pixel_array, blackened(np.stack(frames), AREA))
    assert found(source, result.content, ANY_SIZE) == []
    assert result.content == made(source, ANY_SIZE).content
    spoiled = compressed(syntax, [blackened(plane, AREA) for plane in [frames[1], *frames[1:]]])
    assert "pixel-data" in found(source, with_pixels(result.content, read(spoiled).PixelData), ANY_SIZE)


@pytest.mark.parametrize("syntax", ENCODED)
def test_areas_of_colored_compressed_frames_turn_black(syntax: str) -> None:
    plane = np.random.default_rng(5).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    color = [number(0x00280002, "US", 3), text(0x00280004, "CS", "RGB"), number(0x00280006, "US", 0), *eight_bits()]
    source = compressed(syntax, [plane], *color)
    result = made(source, ANY_SIZE)
    assert np.array_equal(
        read(result.content).pixel_array, np.moveaxis(blackened(np.moveaxis(plane, -1, 0), AREA), 0, -1)
    )
    assert found(source, result.content, ANY_SIZE) == []


def test_what_was_compressed_with_loss_is_refused_and_never_compressed_anew() -> None:
    assert refused(with_streams(JPEG, [jpeg()], *eight_bits()), ANY_SIZE) == "lossy-stream"
    near_lossless = compressed(JPEG_LS, planes()).replace(b"1.2.4.80", b"1.2.4.81")
    assert refused(near_lossless, ANY_SIZE) == "lossy-stream"
    assert made(near_lossless).tally.keys().isdisjoint({"pixel_areas"})


def test_what_nothing_here_encodes_is_refused() -> None:
    for syntax in ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"):
        assert refused(with_streams(syntax, [jpeg()], *eight_bits()), ANY_SIZE) == "no-codec"


WITHOUT_CODECS = """
import sys
for name in ("jpeg_ls", "pylibjpeg"):
    sys.modules[name] = None
from tests.deidentify.test_pixels import ANY_SIZE, JPEG_2000, JPEG_LS, RLE, made, refused
sources = {syntax: open(path, "rb").read() for syntax, path in zip((RLE, JPEG_LS, JPEG_2000), sys.argv[1:])}
assert "pixel_areas" in made(sources[RLE], ANY_SIZE).tally
for syntax in (JPEG_LS, JPEG_2000):
    assert refused(sources[syntax], ANY_SIZE) == "no-codec"
    assert made(sources[syntax]).content
"""


def test_without_the_packages_of_codecs_only_rle_turns_black(tmp_path: Path) -> None:
    paths = []
    for syntax in ENCODED:
        # As many bits as the words have, or whoever leaves the pixels alone would have to decode them, too.
        bits = [number(0x00280101, "US", 16), number(0x00280102, "US", 15)]
        paths.append(tmp_path / syntax)
        paths[-1].write_bytes(compressed(syntax, planes(), *bits))
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT_CODECS, *map(str, paths)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert ended.returncode == 0, ended.stderr


def test_native_pixels_that_share_their_color_turn_black_in_pairs() -> None:
    values = np.random.default_rng(8).integers(1, 256, (2, 16, 8, 4)).astype("u1")
    nodes = [
        text(0x00280004, "CS", "YBR_FULL_422"),
        number(0x00280002, "US", 3),
        number(0x00280006, "US", 0),
        text(0x00280008, "IS", "2"),
        *eight_bits(),
    ]
    source = image(*nodes, pixel_element(values))
    rule = replace(RULE, areas=((3, 2, 8, 5),))
    result = made(source, rule)
    expected = values.copy()
    expected[:, 2:5, 1:4] = (0, 0, 128, 128)
    after = np.frombuffer(read(result.content).PixelData, "u1").reshape(values.shape)
    assert np.array_equal(after, expected)
    assert found(source, result.content, rule) == []
    assert found(source, result.content, RULE) == ["pixel-area", "pixel-data"]
    assert refused(image(*nodes, number(0x00280011, "US", 17), pixel_element(bytes(1000))), ANY_SIZE) != ""


PALETTE = np.roll(np.arange(256), 30)
"""Its darkest entry is number 30."""


@pytest.mark.parametrize(
    ("count", "first", "bits", "table", "dark"),
    [
        (256, 0, 16, (PALETTE * 257).astype("<u2").tobytes(), 30),
        (256, 0, 8, PALETTE.astype("u1").tobytes(), 30),
        (256, 0, 8, PALETTE.astype("<u2").tobytes(), 30),
        (200, 40, 16, (PALETTE * 257).astype("<u2").tobytes()[:400], 70),
        (256, 240, 16, (PALETTE[::-1] * 257).astype("<u2").tobytes(), 255),
        (256, 300, 16, (PALETTE * 257).astype("<u2").tobytes(), 0),
        (256, 0, 16, b"", 0),
    ],
    ids=["16 bits", "8 bits", "8 bits in words", "first mapped", "cut by the bits", "beyond the bits", "no table"],
)
def test_black_is_the_darkest_entry_of_a_palette(count: int, first: int, bits: int, table: bytes, dark: int) -> None:
    values = np.random.default_rng(7).integers(0, 256, (16, 16)).astype("u1")
    nodes = [text(0x00280004, "CS", "PALETTE COLOR"), *eight_bits()]
    for place in (1, 2, 3):
        nodes.append(Leaf(tag=0x00281100 + place, vr="US", value=struct.pack("<3H", count, first, bits)))
        nodes.append(Leaf(tag=0x00281200 + place, vr="OW", value=table))
    source = image(*nodes, pixel_element(values))
    result = made(source, RULE)
    after = np.frombuffer(read(result.content).PixelData, "u1").reshape(16, 16)
    assert np.array_equal(after, blackened(values, AREA, value=dark))
    assert found(source, result.content, RULE) == []


@pytest.mark.parametrize(
    ("allocated", "stored", "high"), [(16, 17, 16), (16, 0, 0), (16, 12, 20), (1, 1, 0), (12, 12, 11), (64, 64, 63)]
)
def test_bits_that_make_no_sense_keep_a_file_with_areas_back(allocated: int, stored: int, high: int) -> None:
    bits = [number(0x00280100, "US", allocated), number(0x00280101, "US", stored), number(0x00280102, "US", high)]
    assert refused(image(*bits, pixel_element(bytes(4096))), RULE) in ("no-codec", "pixel-data")


@pytest.mark.parametrize("syntax", ENCODED)
def test_a_cut_frame_with_areas_is_refused(syntax: str) -> None:
    stream = fragments_of(compressed(syntax, planes(1)))[0]
    for end in (len(stream) // 2 & ~1, len(stream) - 20 & ~1, 70):
        assert refused(with_streams(syntax, [stream[:end]]), ANY_SIZE) in ("no-codec", "pixel-data")


@pytest.mark.parametrize("syntax", ENCODED)
def test_the_number_of_frames_may_be_wrong_and_each_frame_turns_black(syntax: str) -> None:
    frames = planes(2)
    for told in (1, 2, 5):
        streams = fragments_of(compressed(syntax, frames))
        source = with_streams(syntax, streams, frames=told)
        result = made(source, ANY_SIZE)
        left = [blackened(plane, AREA) for plane in frames[:told]]
        after = read(result.content)
        assert len(fragments_of(result.content)) == len(left)
        after.NumberOfFrames = len(left)
        assert np.array_equal(after.pixel_array.reshape(-1, SIDE, SIDE), np.stack(left))
        assert found(source, result.content, ANY_SIZE) == []
    native = image(text(0x00280008, "IS", "3"))
    assert refused(native, RULE) == "pixel-data"


@pytest.mark.parametrize(
    ("nodes", "samples", "dark"),
    [
        ([text(0x00280004, "CS", "MONOCHROME1")], 1, (4095,)),
        ([text(0x00280004, "CS", "PALETTE COLOR"), *eight_bits()], 1, (0,)),
        ([text(0x00280004, "CS", "RGB"), number(0x00280006, "US", 0), *eight_bits()], 3, (0, 0, 0)),
        ([text(0x00280004, "CS", "RGB"), number(0x00280006, "US", 1), *eight_bits()], 3, (0, 0, 0)),
        ([text(0x00280004, "CS", "YBR_FULL"), number(0x00280006, "US", 0), *eight_bits()], 3, (0, 128, 128)),
        ([text(0x00280004, "CS", "YBR_FULL"), number(0x00280006, "US", 1), *eight_bits()], 3, (0, 128, 128)),
    ],
    ids=["MONOCHROME1", "palette", "RGB", "RGB planar", "YBR", "YBR planar"],
)
def test_black_is_what_shows_dark(nodes: list[Node], samples: int, dark: tuple[int, ...]) -> None:
    is_planar = any(node.tag == 0x00280006 and node.value == b"\1\0" for node in nodes if isinstance(node, Leaf))
    kind = "<u2" if samples == 1 and dark == (4095,) else "u1"
    shape = (2, 3, 16, 16) if is_planar else (2, 16, 16, samples)
    values = np.random.default_rng(6).integers(1, 256, shape).astype(kind)
    two = text(0x00280008, "IS", "2")
    source = image(*nodes, two, number(0x00280002, "US", samples), pixel_element(values))
    result = made(source, RULE)
    after = np.frombuffer(read(result.content).PixelData, kind).reshape(shape)
    expected = values.transpose(0, 2, 3, 1).copy() if is_planar else values.copy()
    x0, y0, x1, y1 = AREA
    expected[:, y0:y1, x0:x1] = dark
    assert np.array_equal(after.transpose(0, 2, 3, 1) if is_planar else after, expected)
    assert found(source, result.content, RULE) == []


def test_signed_values_turn_into_the_darkest_there_is() -> None:
    values = np.arange(-100, 156, dtype="<i2").reshape(16, 16)
    signed = number(0x00280103, "US", 1)
    source = image(signed, pixel_element(values.tobytes()))
    assert np.array_equal(read(made(source, RULE).content).pixel_array, blackened(values, AREA, value=-100))
    inverted = image(signed, text(0x00280004, "CS", "MONOCHROME1"), pixel_element(values.tobytes()))
    assert np.array_equal(read(made(inverted, RULE).content).pixel_array, blackened(values, AREA, value=155))
    assert found(source, made(source, RULE).content, RULE) == []


def test_what_reaches_past_the_image_is_cut_there_and_areas_may_overlap() -> None:
    rule = replace(RULE, areas=((0, 0, 500, 2), (10, 0, 500, 500)))
    before = np.frombuffer(PIXELS, "<u2").reshape(16, 16)
    result = made(image(), rule)
    assert np.array_equal(read(result.content).pixel_array, blackened(before, (0, 0, 16, 2), (10, 0, 16, 16)))
    assert found(image(), result.content, rule) == []


def test_an_area_beside_the_image_does_nothing_and_releases_nothing() -> None:
    beside = replace(RELEASE, rows=None, columns=None, areas=((16, 0, 20, 4), (0, 16, 4, 20)))
    result = made(image(), beside)
    assert "113101" not in result.codes
    assert "pixel_areas" not in result.tally
    assert "BurnedInAnnotation" not in read(result.content)
    assert found(image(), result.content, beside) == []
    assert refused(image(text(0x00080064, "CS", "WSD")), beside) == "secondary-capture"
    half = replace(beside, areas=(*beside.areas, AREA))
    assert made(image(text(0x00080064, "CS", "WSD")), half).tally["pixel_areas"] == 1


def test_several_rules_may_fit_and_each_is_counted() -> None:
    other = replace(RULE, areas=((10, 10, 16, 16),))
    rules = (RULE, replace(RULE, manufacturer="other"), other)
    before = np.frombuffer(PIXELS, "<u2").reshape(16, 16)
    result = made(image(), *rules)
    assert np.array_equal(read(result.content).pixel_array, blackened(before, AREA, (10, 10, 16, 16)))
    assert {name for name in result.tally if name.startswith(REGION_RULE)} == {REGION_RULE + "1", REGION_RULE + "3"}
    assert found(image(), result.content, *rules) == []


@pytest.mark.parametrize(
    ("rule", "fits"),
    [
        ({"manufacturer": "WORLD MAKER"}, True),
        ({"manufacturer": "world*"}, True),
        ({"manufacturer": "world"}, False),
        ({"manufacturer": ""}, False),
        ({"model": ""}, True),
        ({"model": "*"}, True),
        ({"model": "?*"}, False),
        ({"modality": "MR", "image_type": "original\\primary\\*"}, True),
        ({"modality": "CT"}, False),
        ({"image_type": "*secondary*"}, False),
        ({"software_version": "4\\5*"}, True),
        ({"software_version": "4"}, False),
        ({"rows": 16, "columns": 16}, True),
        ({"rows": 16, "columns": 17}, False),
    ],
    ids=str,
)
def test_rules_go_by_the_device_and_both_readers_agree(rule: dict[str, object], fits: bool) -> None:
    source = image(text(0x00181020, "LO", "4\\5.1"))
    region = RegionRule(areas=(AREA,), **rule)
    assert areas_of(read(source), [region_of(region)]) == ([AREA] if fits else [])
    assert ("pixel_areas" in made(source, region).tally) is fits


RELEASE = replace(RULE, model="", release=True, checked="looked at ten of them")
ULTRASOUND = "1.2.840.10008.5.1.4.1.1.6.1"
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([text(0x00080016, "UI", ULTRASOUND), text(0x00080060, "CS", "US")], "ultrasound"),
        ([text(0x00080016, "UI", "1.2.840.10008.5.1.4.1.1.3.1"), text(0x00080060, "CS", "US")], "ultrasound"),
        ([text(0x00080016, "UI", CAPTURE), text(0x00080064, "CS", "WSD")], "secondary-capture"),
        ([text(0x00080016, "UI", CAPTURE + ".3"), text(0x00080060, "CS", "OT")], "secondary-capture"),
        ([text(0x00080008, "CS", "DERIVED\\SECONDARY\\SCREEN SAVE")], "screen-save"),
        ([text(0x00280301, "CS", "YES")], "burned-in-annotation"),
        ([text(0x00080064, "CS", "WSD")], "secondary-capture"),
    ],
    ids=str,
)
def test_a_rule_releases_only_if_it_says_so(nodes: list[Node], reason: str) -> None:
    source = image(*nodes)
    assert refused(source) == reason
    assert refused(source, RULE) == reason
    assert refused(source, replace(RELEASE, manufacturer="other")) == reason
    result = made(source, RELEASE)
    assert read(result.content).BurnedInAnnotation == "NO"
    assert "113101" in result.codes
    assert found(source, result.content, RELEASE) == []
    expected = replace(expectation(), pseudonym=SUBJECT.pseudonym, shift_days=SUBJECT.shift_days)
    assert audit_file(source, result.content, replace(expected, regions=(region_of(RELEASE),))) == []


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([text(0x00080016, "UI", "1.2.840.10008.5.1.4.1.1.88.22")], "report"),
        ([text(0x00080016, "UI", "1.2.840.10008.5.1.4.1.1.104.1")], "encapsulated-document"),
        ([text(0x00080016, "UI", "1.2.840.10008.5.1.4.1.1.77.1.4")], "photograph"),
        ([text(0x00080060, "CS", "OT")], "modality-mismatch"),
        ([number(0x60000102, "US", 3)], "overlay-in-pixel-data"),
        ([text(0x00080005, "CS", "Jane")], "character-set"),
    ],
    ids=str,
)
def test_no_rule_releases_anything_else(nodes: list[Node], reason: str) -> None:
    assert refused(image(*nodes), RELEASE) == reason


def test_an_area_without_pixels_to_black_out_keeps_the_file_back() -> None:
    assert refused(image(without=[0x7FE00010]), RULE) == "pixel-data"
    assert refused(image(pixel_element(PIXELS[:100])), RULE) == "pixel-data"


def test_rules_are_part_of_the_profiles_digest_and_who_looked_is_not() -> None:
    plain = Profile(options=DEFAULT_PROFILE.options)
    one = Profile(options=plain.options, regions=(RULE,))
    assert one.digest() != plain.digest()
    assert one.digest() != Profile(options=plain.options, regions=(replace(RULE, areas=((0, 0, 1, 1),)),)).digest()
    assert one.digest() == Profile(options=plain.options, regions=(replace(RULE, checked="somebody"),)).digest()


# ---- faces, icons, overlays


def method(*codes: str) -> Node:
    return nested(0x00120064, *([text(0x00080100, "SH", code), text(0x00080102, "SH", "DCM")] for code in codes))


HEAD = text(0x00180015, "CS", "HEAD")
NO_FACE = text(0x00280302, "CS", "NO")
REMOVED = text(0x00120062, "CS", "YES")


@pytest.mark.parametrize(
    ("nodes", "told"),
    [
        ([], None),
        ([HEAD], "YES"),
        ([text(0x00180015, "CS", "KNEE")], None),
        ([text(0x00280302, "CS", "YES")], "YES"),
        ([NO_FACE], ""),
        ([HEAD, NO_FACE], "YES"),
        ([HEAD, NO_FACE, REMOVED, method("113100")], "YES"),
        ([HEAD, NO_FACE, method("113102")], "YES"),
        ([HEAD, NO_FACE, REMOVED, method("113100", "113102")], "NO"),
        ([HEAD, text(0x00280302, "CS", "JANE")], "YES"),
        ([text(0x00280302, "CS", "JANE")], ""),
    ],
    ids=str,
)
def test_nothing_is_told_of_faces_that_is_not_known(nodes: list[Node], told: str | None) -> None:
    source = image(*nodes)
    result = made(source)
    after = read(result.content)
    assert (after.RecognizableVisualFeatures or "" if "RecognizableVisualFeatures" in after else None) == told
    assert found(source, result.content) == []


def test_a_false_claim_about_faces_is_an_audit_finding() -> None:
    source = image(HEAD)
    after = read(made(source).content)
    after.RecognizableVisualFeatures = "NO"
    assert list(claim_findings(read(source), after, [])) == ["pixel-claims"]


def test_icons_go_wherever_they_hide() -> None:
    """The standard's icon sequence, one in a sequence's item, and Siemens's own elements of VR OB and OW."""
    icon = [number(0x00280010, "US", 2), Leaf(tag=0x7FE00010, vr="OW", value=MARK + b"\0")]
    source = image(
        nested(0x00880200, icon),
        nested(0x00089215, icon),
        nested(0x00400275, [Leaf(tag=0x7FE00010, vr="OW", value=MARK + b"\0"), nested(0x00880200, icon)]),
        text(0x00090010, "LO", "SIEMENS CM VA0  CMS"),
        text(0x00091010, "OB", MARK),
        text(0x00290010, "LO", "SIEMENS MEDCOM HEADER"),
        text(0x00291040, "OB", MARK),
        text(0x00291052, "OB", MARK),
        nested(0x00291140, icon),
        text(0x70010010, "LO", "SIEMENS MEDCOM OOG"),
        text(0x70011010, "OB", MARK),
        text(0x50003000, "OW", MARK),
        text(0x60003000, "OW", MARK),
        text(0x60020022, "LO", MARK),
    )
    assert MARK not in made(source).content


# ---- real files


def test_no_pixel_of_a_scanners_file_changes(scanner_data: Path) -> None:
    """All files, straight through the cleaners: whatever is native stays to the byte."""
    same = 0
    changed = []
    for path in data_files(scanner_data):
        if path.stat().st_size > 3_000_000:
            continue
        try:
            dataset = pydicom.dcmread(path, force=True)
            value = dataset.get_item("PixelData").value
            is_native = str(dataset.file_meta.TransferSyntaxUID) in (EXPLICIT_LITTLE, IMPLICIT_LITTLE)
        except Exception:  # noqa: BLE001 - files made to be unreadable are no scanner's
            continue
        if not is_native or not isinstance(value, bytes):
            continue
        raw = {tag: dataset.get_item(tag) for tag in pixels.LAYOUT_TAGS if tag in dataset}
        values = {tag: element_bytes(element) for tag, element in raw.items()}
        try:
            cleaned = clean_native(value, read_layout(values))
        except PixelRefusalError as refusal:
            changed.append((path.name, refusal.reason))
            continue
        same += cleaned.value is None
        if cleaned.value is not None:
            changed.append((path.name, dict(cleaned.tally)))
    # One test image of a modality table really is made of words that are wider than it says.
    assert changed == [("mlut_18.dcm", "wide-values")]
    assert same > 1900


def element_bytes(element: object) -> bytes:
    value = element.value  # type: ignore[attr-defined]
    if isinstance(value, bytes):
        return value
    return struct.pack("<H", value) if isinstance(value, int) else str(value).encode()


@pytest.mark.parametrize("name", ["MR2_J2KR", "MR2_J2KI", "693_J2KR", "emri_small_RLE", "emri_small_jpeg_ls_lossless"])
def test_compressed_files_of_scanners_lose_comments_alone(scanner_data: Path, name: str) -> None:
    (path,) = [
        Path(folder) / file for folder, _, files in os.walk(scanner_data) for file in files if file == name + ".dcm"
    ]
    source = path.read_bytes()
    result = made(source)
    before, after = read(source), read(result.content)
    assert np.array_equal(before.pixel_array, after.pixel_array)
    assert found(source, result.content) == []
    assert b"Kakadu" not in result.content
    assert b"OpenJPEG" not in result.content


# ---- the words


def test_every_reason_has_its_sentence() -> None:
    assert all(sentence.endswith(".") for sentence in (*PIXEL_REFUSALS.values(), *PIXEL_FINDINGS.values()))


def test_encapsulated_data_need_a_table_and_a_known_format() -> None:
    for value, syntax in ((b"", JPEG), (b"\xfe\xff\x00\xe0\0\0\0\0", "1.2.840.10008.1.2.4.100"), (b"Jane", JPEG)):
        with pytest.raises(PixelRefusalError):
            clean_encapsulated(value, layout(), syntax)
