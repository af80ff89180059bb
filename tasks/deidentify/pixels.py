"""Clean pixel data of what is no pixel, and black out areas that a study names.

What lies beside the pixels is taken away without decoding them: bits that no stored value uses, fragments beyond the
last frame, bytes behind the end of a frame, and the segments of a codestream in which writers put texts. Only where an
area is blacked out is a compressed frame decoded and, losslessly, encoded again.

Source: PS3.5 sections 8.1.1 (unused bits), 8.1.2 (overlays in them, retired), 8.2 and A.4 (encapsulated pixel data),
annex G (RLE); ITU-T T.81 annex B (JPEG), T.87 annex C (JPEG-LS), T.800 annex A (JPEG 2000).
"""

from __future__ import annotations

import re
import struct
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.dicom.text import decode_ascii

PIXEL_DATA = 0x7FE00010
FLOAT_PIXEL_DATA = 0x7FE00008
DOUBLE_PIXEL_DATA = 0x7FE00009
EXTENDED_OFFSETS = 0x7FE00001
EXTENDED_LENGTHS = 0x7FE00002

SAMPLES_PER_PIXEL = 0x00280002
PHOTOMETRIC_INTERPRETATION = 0x00280004
PLANAR_CONFIGURATION = 0x00280006
NUMBER_OF_FRAMES = 0x00280008
ROWS = 0x00280010
COLUMNS = 0x00280011
BITS_ALLOCATED = 0x00280100
BITS_STORED = 0x00280101
HIGH_BIT = 0x00280102
PIXEL_REPRESENTATION = 0x00280103

_PALETTES = ((0x00281101, 0x00281201), (0x00281102, 0x00281202), (0x00281103, 0x00281203))
"""Red, green and blue: Palette Color Lookup Table Descriptor and Data."""

LAYOUT_TAGS = frozenset(
    {
        SAMPLES_PER_PIXEL,
        PHOTOMETRIC_INTERPRETATION,
        PLANAR_CONFIGURATION,
        NUMBER_OF_FRAMES,
        ROWS,
        COLUMNS,
        BITS_ALLOCATED,
        BITS_STORED,
        HIGH_BIT,
        PIXEL_REPRESENTATION,
        *(tag for pair in _PALETTES for tag in pair),
    }
)
"""What says how pixel data are laid out, and what a palette shows."""

MANUFACTURER = 0x00080070
MODEL_NAME = 0x00081090
SOFTWARE_VERSIONS = 0x00181020
MODALITY = 0x00080060
IMAGE_TYPE = 0x00080008

SIGNATURE_TAGS = frozenset({MANUFACTURER, MODEL_NAME, SOFTWARE_VERSIONS, MODALITY, IMAGE_TYPE})
"""What a region rule may go by, beside the size of the image."""

PIXEL_REFUSALS = {
    "lossy-stream": "An area of it has to be blacked out, and compressing with loss once more would change the rest.",
    "no-codec": "An area of it has to be blacked out, or unused bits cleaned, and nothing here writes its kind of "
    "pixel data anew: JPEG-LS and JPEG 2000 need the extra `codecs`, JPEG lossless cannot be written.",
    "pixel-data": "Its pixel data do not follow their format to the end, so something else could lie in them.",
    "wide-values": "Its stored values use more bits than it says, so cleaning unused bits would change the image.",
}
"""Why pixel data keep a file out of the export: code to sentence."""

REGION_RULE = "region_rule_"
"""What the counts of files that a region rule fits are called, before its number."""

PIXELS_VERSION = "pixels 2"
"""Raised when the same pixel data are cleaned into other bytes."""

RLE_LOSSLESS = "1.2.840.10008.1.2.5"
_JPEG = re.compile(r"1\.2\.840\.10008\.1\.2\.4\.(5\d|6[0-6]|70)")
_JPEG_LS = re.compile(r"1\.2\.840\.10008\.1\.2\.4\.8[01]")
_JPEG_2000 = re.compile(r"1\.2\.840\.10008\.1\.2\.4\.(9[0-3]|20[1-3])")
_ENCODED_AGAIN: Mapping[str, str] = MappingProxyType(
    {
        RLE_LOSSLESS: "pydicom",
        "1.2.840.10008.1.2.4.80": "pyjpegls",
        "1.2.840.10008.1.2.4.90": "pylibjpeg",
    }
)
"""The lossless syntaxes that a frame can be put back into, with the one encoder that does: others give other bytes."""

_LOSSY = re.compile(r"1\.2\.840\.10008\.1\.2\.4\.(5[0-6]|59|6[0-4]|81|91|93|203)")
"""Syntaxes in which values may have been lost: what is decoded of them and encoded again is not what was there."""

Area = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels, 0-based, half-open: columns x0 to x1 - 1, rows y0 to y1 - 1."""

_Words = npt.NDArray[np.integer[Any]]


class PixelRefusalError(Exception):
    """The pixel data keep the file out of the export; `reason` is a code of `PIXEL_REFUSALS`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionRule:
    """What to black out in the images of one kind of device.

    Attributes
    ----------
    manufacturer, model, software_version, modality, image_type
        Patterns (`*`, `?`, `[...]`) of (0008,0070), (0008,1090), (0018,1020), (0008,0060) and (0008,0008), case
        ignored; several values are joined by backslashes. None fits anything, the empty one what is absent or empty.
    rows, columns
        The size of the image; None fits any.
    areas
        What is blacked out, in every frame; what reaches past the image is cut there.
    release
        Whether the rule releases images that are otherwise refused since text may stand in their pixels.
    checked
        Who looked at such images and when, for releasing them without text recognition; never leaves the study file.
    """

    manufacturer: str | None = None
    model: str | None = None
    software_version: str | None = None
    modality: str | None = None
    image_type: str | None = None
    rows: int | None = None
    columns: int | None = None
    areas: tuple[Area, ...]
    release: bool = False
    checked: str = ""

    def fits(self, values: Mapping[int, bytes]) -> bool:
        """Tell whether an image is of this kind, by the raw values of its top-level attributes."""
        for tag, pattern in (
            (MANUFACTURER, self.manufacturer),
            (MODEL_NAME, self.model),
            (SOFTWARE_VERSIONS, self.software_version),
            (MODALITY, self.modality),
            (IMAGE_TYPE, self.image_type),
        ):
            if pattern is not None and not fnmatchcase(_spell(values.get(tag, b"")), pattern.casefold()):
                return False
        return all(
            wanted is None or wanted == int.from_bytes(values.get(tag, b"")[:2], "little")
            for tag, wanted in ((ROWS, self.rows), (COLUMNS, self.columns))
        )

    def areas_in(self, values: Mapping[int, bytes]) -> list[Area]:
        """Return the areas that have a pixel in common with an image."""
        rows, columns = (int.from_bytes(values.get(tag, b"")[:2], "little") for tag in (ROWS, COLUMNS))
        return [area for area in self.areas if area[0] < columns and area[1] < rows]


def _spell(value: bytes) -> str:
    return "\\".join(part.strip(" \0") for part in decode_ascii(value).split("\\")).casefold()


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How pixel data are laid out (PS3.3 section C.7.6.3).

    `allocated`, `stored` and `high` count bits; `darkest` is the stored value that a palette shows darkest.
    """

    rows: int
    columns: int
    samples: int
    frames: int
    allocated: int
    stored: int
    high: int
    is_signed: bool
    photometric: str
    is_planar: bool
    darkest: int = 0

    @property
    def unused(self) -> int:
        """The bits of one word that no stored value uses, as a mask; 0 where the attributes do not fit together."""
        if self.allocated not in (8, 16, 32) or not 0 < self.stored <= self.high + 1 <= self.allocated:
            return 0
        return (1 << self.allocated) - 1 - (((1 << self.stored) - 1) << (self.high - self.stored + 1))

    @property
    def frame_samples(self) -> int:
        """Stored values of one frame."""
        samples = self.rows * self.columns * self.samples
        # Two columns share their color here (PS3.3 section C.7.6.3.1.2).
        return samples * 2 // 3 if self.photometric == "YBR_FULL_422" else samples

    @property
    def size(self) -> int:
        """Bytes of native pixel data, without padding."""
        return (self.frame_samples * self.frames * self.allocated + 7) // 8


def read_layout(values: Mapping[int, bytes], *, allocated: int = 0) -> Layout:
    """Read the layout from the raw values of the top-level attributes; `allocated` where none states it."""

    def number(tag: int, absent: int) -> int:
        value = values.get(tag, b"")
        return int.from_bytes(value[:2], "little") if len(value) >= 2 else absent

    frames = decode_ascii(values.get(NUMBER_OF_FRAMES, b"")).strip("+ ")
    bits = allocated or number(BITS_ALLOCATED, 0)
    stored = allocated or number(BITS_STORED, bits)
    photometric = decode_ascii(values.get(PHOTOMETRIC_INTERPRETATION, b"")).upper()
    return Layout(
        rows=number(ROWS, 0),
        columns=number(COLUMNS, 0),
        samples=number(SAMPLES_PER_PIXEL, 1) or 1,
        frames=int(frames) if frames.isdigit() and len(frames) < 10 and int(frames) else 1,
        allocated=bits,
        stored=stored,
        high=number(HIGH_BIT, stored - 1) if not allocated else allocated - 1,
        is_signed=bool(number(PIXEL_REPRESENTATION, 0) & 1) and not allocated,
        photometric=photometric,
        is_planar=number(PLANAR_CONFIGURATION, 0) == 1,
        darkest=_darkest_of_palette(values, 1 << stored) if photometric == "PALETTE COLOR" else 0,
    )


def _darkest_of_palette(values: Mapping[int, bytes], end: int) -> int:
    """Return the stored value below `end` with the least light; 0 if the tables are segmented or do not fit together.

    An entry has 8 or 16 bits, and those of 8 may stand alone or in words (PS3.3 sections C.7.6.3.1.5 and .6).
    """
    light: npt.NDArray[np.int64] | None = None
    first = 0
    for descriptor, table in _PALETTES:
        if len(values.get(descriptor, b"")) != 6:
            return 0
        count, first, _ = struct.unpack("<3H", values[descriptor])
        count = count or 1 << 16
        content = values.get(table, b"")
        if len(content) < count:
            return 0
        entries = np.frombuffer(content, "<u2" if len(content) >= 2 * count else "u1", count).astype(np.int64)
        light = entries if light is None else light + entries if len(light) == count else None
        if light is None:
            return 0
    reachable = light[: max(end - first, 0)] if light is not None else ()
    return first + int(np.argmin(reachable)) if len(reachable) else 0


class CleanPixels(NamedTuple):
    """Pixel data as they may be exported.

    Attributes
    ----------
    value
        The new value of Pixel Data, padded, without the delimiter of encapsulated data; None if it is the old one.
    offsets, lengths
        The new Extended Offset Table (7FE0,0001) and its Lengths (7FE0,0002); None if they are as they were.
    tally
        What was done: `pixel_unused_bits` and `pixel_offset_tables` in files, `pixel_bytes_cut`, `pixel_fragments_cut`,
        `pixel_segments_cut` and `pixel_areas` in what they name.
    """

    value: bytes | None = None
    offsets: bytes | None = None
    lengths: bytes | None = None
    tally: Mapping[str, int] = MappingProxyType({})


def clean_native(
    value: bytes | memoryview, layout: Layout, areas: Sequence[Area] = (), *, overlays: int = 0
) -> CleanPixels:
    """Clean native pixel data, little endian.

    Parameters
    ----------
    value
        The value of Pixel Data, or of its floating point sisters.
    layout
        How it is laid out.
    areas
        What is blacked out.
    overlays
        The bits of a word in which overlays lie, by the overlays' own word: known to be no part of the image.

    Raises
    ------
    PixelRefusalError
        `pixel-data` if attributes and bytes do not fit together where an area has to be found, `wide-values` if the
        unused bits seem to be numbers.
    """
    tally: Counter[str] = Counter()
    size = layout.size
    if not size and len(value):
        raise PixelRefusalError("pixel-data")
    content = memoryview(value)[:size]
    if len(value) > size + (size & 1) or any(value[size:]):
        tally["pixel_bytes_cut"] = len(value) - size
    if areas and len(value) < size:
        raise PixelRefusalError("pixel-data")
    if areas and not (layout.allocated in (8, 16, 32) and 0 < layout.stored <= layout.high + 1 <= layout.allocated):
        raise PixelRefusalError("no-codec")
    words: _Words | None = None
    if layout.unused and not _is_clean(content, layout):
        words = _clean_unused(_as_words(content, layout), layout, overlays)
        tally["pixel_unused_bits"] += words is not None
    if areas:
        words = _as_words(content, layout).copy() if words is None else words
        _black_out(words, layout, areas)
        tally["pixel_areas"] = len(areas)
    if words is not None:
        rest = bytes(content[words.nbytes :])
        return CleanPixels(value=_even(words.tobytes() + rest), tally=+tally)
    return CleanPixels(value=_even(bytes(content)), tally=+tally) if tally["pixel_bytes_cut"] else CleanPixels()


def _even(value: bytes) -> bytes:
    return value + b"\0" if len(value) & 1 else value


# ---- stored values


def _as_words(content: bytes | memoryview, layout: Layout) -> _Words:
    kind = f"<u{layout.allocated // 8}"
    return np.frombuffer(content, kind, count=len(content) * 8 // layout.allocated)


def _is_clean(content: bytes | memoryview, layout: Layout) -> bool:
    """Tell whether the unused bits of all values are zero, or all extend the sign; looks at eight bytes at once."""
    mask = layout.unused
    repeated = int.from_bytes(mask.to_bytes(layout.allocated // 8, "little") * (64 // layout.allocated), "little")
    whole = len(content) // 8
    union = int(np.bitwise_or.reduce(np.frombuffer(content, "<u8", count=whole))) if whole else 0
    rest = content[whole * 8 :]
    union |= int.from_bytes(bytes(rest) + bytes(8 - len(rest)), "little")
    if not union & repeated:
        return True
    if not layout.is_signed:
        return False
    words = _as_words(content, layout)
    return bool(np.array_equal(words, _extended(words, layout)))


def _extended(words: _Words, layout: Layout) -> _Words:
    """Return the stored values with their unused bits zero, or equal to the sign where there is one."""
    used = words & np.array(layout.unused ^ (1 << layout.allocated) - 1, words.dtype)
    if not layout.is_signed:
        return used
    by = layout.allocated - 1 - layout.high
    signed = words.dtype.newbyteorder("<").str.replace("u", "i")
    extended: _Words = ((used << by).view(signed) >> by).view(words.dtype)
    return extended


def _clean_unused(words: _Words, layout: Layout, overlays: int) -> _Words | None:
    """Return the values with clean unused bits; None if what stands there is a plain mark, and stays.

    A box filled with one value, in each frame at most one, is no writing. Somebody's own mark of that kind, or a single
    value that is too large, shall not be torn out of an image.

    Raises
    ------
    PixelRefusalError
        `wide-values` if the image is smoother with these bits than without: then they are a part of its numbers, which
        its header understates.
    """
    clean = _extended(words, layout)
    unused = words ^ clean
    width = layout.columns * (1 if layout.is_planar else layout.samples)
    undeclared = unused & np.array(~overlays & (1 << layout.allocated) - 1, words.dtype)
    if undeclared.any():
        height = layout.rows * layout.frames * (layout.samples if layout.is_planar else 1)
        if len(words) == width * height:
            planes = unused.reshape(-1, layout.rows, width)
            if not overlays and all(map(_is_plain_box, planes)):
                return None
        if _are_numbers(words, clean, unused):
            raise PixelRefusalError("wide-values")
    return clean


def _is_plain_box(plane: _Words) -> bool:
    rows, columns = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
    if not len(rows):
        return True
    box = plane[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return bool((box == box[0, 0]).all())


def _are_numbers(words: _Words, clean: _Words, unused: _Words) -> bool:
    """Tell whether neighbors whose unused bits differ are closer to each other with these bits than without."""
    border = np.flatnonzero(unused[1:] != unused[:-1])
    steps = [np.abs(_at(part, border + 1) - _at(part, border)).sum() for part in (words, clean)]
    return bool(steps[0] < steps[1])


def _at(words: _Words, places: npt.NDArray[np.intp]) -> npt.NDArray[np.int64]:
    return words[places].astype(np.int64)


def _black_out(words: _Words, layout: Layout, areas: Sequence[Area]) -> None:
    """Write one dark value into the areas of every frame, in place."""
    rows, columns, samples = layout.rows, layout.columns, layout.samples
    if layout.photometric == "YBR_FULL_422" and len(words) * 3 == rows * columns * samples * layout.frames * 2:
        # Two pixels side by side have their light each, then their color in common (PS3.3 section C.7.6.3.1.2).
        if columns % 2 or layout.is_planar:
            raise PixelRefusalError("no-codec")
        middle = 1 << (layout.stored - 1)
        pairs = words.reshape(-1, rows, columns // 2, 4)
        for x0, y0, x1, y1 in areas:
            pairs[:, y0:y1, x0 // 2 : (x1 + 1) // 2] = (0, 0, middle, middle)
        return
    shape = (-1, samples, rows, columns) if layout.is_planar else (-1, rows, columns, samples)
    frames = words.reshape(shape)
    dark = _dark_values(words, layout)
    for x0, y0, x1, y1 in areas:
        for sample, value in enumerate(dark):
            if layout.is_planar:
                frames[:, sample, y0:y1, x0:x1] = value
            else:
                frames[:, y0:y1, x0:x1, sample] = value


def _dark_values(words: _Words, layout: Layout) -> tuple[int, ...]:
    """Return the stored value of each sample that shows as black, or as near to it as the image goes.

    Unsigned values: the end of their range. Signed ones: the darkest that the image itself holds, since the end of the
    range would upset every automatic window. Palette color: its darkest entry. YBR: no light and neutral color.
    """
    if layout.photometric.startswith("YBR") and layout.photometric not in ("YBR_RCT", "YBR_ICT"):
        middle = 1 << (layout.stored - 1)
        return (0, middle, middle)[: layout.samples] if layout.samples == 3 else (0,) * layout.samples
    if layout.photometric == "PALETTE COLOR":
        return (layout.darkest << (layout.high - layout.stored + 1),)
    is_inverted = layout.photometric == "MONOCHROME1"
    shift = layout.high - layout.stored + 1
    if layout.is_signed and layout.samples == 1:
        signed = (words << (layout.allocated - 1 - layout.high)).view(words.dtype.str.replace("u", "i"))
        return (int(words[signed.argmax() if is_inverted else signed.argmin()]),)
    return (((1 << layout.stored) - 1) << shift if is_inverted else 0,) * layout.samples


# ---- encapsulated


def clean_encapsulated(
    value: bytes | memoryview,
    layout: Layout,
    transfer_syntax: str,
    areas: Sequence[Area] = (),
    *,
    extended: tuple[bytes, bytes] | None = None,
) -> CleanPixels:
    """Clean encapsulated pixel data.

    Parameters
    ----------
    value
        All fragments with their heads, the offset table first, without the delimiter that ends them.
    layout
        How the frames are laid out.
    transfer_syntax
        In what they are compressed.
    areas
        What is blacked out.
    extended
        Extended Offset Table and its Lengths, where the data set has them.

    Raises
    ------
    PixelRefusalError
        `pixel-data` if anything does not follow its format, `no-codec` if frames have to change and cannot.
    """
    tally: Counter[str] = Counter()
    data = bytes(value)
    fragments = list(_fragments(data))
    if not fragments:
        raise PixelRefusalError("pixel-data")
    table, *fragments = fragments
    clean_stream = _family(transfer_syntax, layout)
    if clean_stream is None:
        raise PixelRefusalError("pixel-data")
    groups = _group(fragments, is_rle=transfer_syntax == RLE_LOSSLESS)
    if len(groups) > layout.frames:
        tally["pixel_fragments_cut"] += sum(map(len, groups[layout.frames :]))
        del groups[layout.frames :]
    if not groups and fragments:
        raise PixelRefusalError("pixel-data")
    frames: list[list[bytes]] = []
    for group in groups:
        stream = b"".join(group)
        cleaned, precision = clean_stream(stream, tally)
        if areas or precision > layout.stored:
            # With more bits than stored values need, what stands in the others is seen only by decoding.
            cleaned = _change_frame(cleaned, layout, transfer_syntax, areas, tally)
        frames.append(group if cleaned == stream else [cleaned])
    if areas:
        tally["pixel_areas"] = len(areas)
    starts, sizes, content = _lay_out(frames)
    offsets = struct.pack(f"<{len(starts)}L", *starts) if table and (not starts or starts[-1] < 1 << 32) else b""
    new = _item(offsets) + content
    if table != offsets:
        tally["pixel_offset_tables"] = 1
    told = (struct.pack(f"<{len(starts)}Q", *starts), struct.pack(f"<{len(sizes)}Q", *sizes))
    changed = None if new == data else new
    if extended is not None and extended != told:
        return CleanPixels(value=changed, offsets=told[0], lengths=told[1], tally=+tally)
    return CleanPixels(value=changed, tally=+tally)


def _fragments(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        if data[at : at + 4] != b"\xfe\xff\x00\xe0" or at + 8 > len(data):
            raise PixelRefusalError("pixel-data")
        end = at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")
        if end > len(data):
            raise PixelRefusalError("pixel-data")
        yield data[at + 8 : end]
        at = end


_CODESTREAM_BEGIN = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51")


def _group(fragments: Sequence[bytes], *, is_rle: bool) -> list[list[bytes]]:
    """Put fragments together to frames: RLE has one each, a codestream begins with its first marker."""
    groups: list[list[bytes]] = []
    for fragment in fragments:
        if is_rle or fragment.startswith(_CODESTREAM_BEGIN):
            groups.append([fragment])
        elif not groups:
            raise PixelRefusalError("pixel-data")
        else:
            groups[-1].append(fragment)
    return groups


def _lay_out(frames: Sequence[Sequence[bytes]]) -> tuple[list[int], list[int], bytes]:
    """Return where each frame begins, how long it is (as the extended table counts) and the items."""
    starts: list[int] = []
    sizes: list[int] = []
    pieces: list[bytes] = []
    at = 0
    for fragments in frames:
        starts.append(at)
        sizes.append(sum(map(len, fragments)))
        for fragment in fragments:
            pieces.append(_item(fragment))
            at += len(pieces[-1])
    return starts, sizes, b"".join(pieces)


def _item(content: bytes) -> bytes:
    return b"\xfe\xff\x00\xe0" + struct.pack("<L", len(content)) + content


_StreamCleaner = Callable[[bytes, "Counter[str]"], tuple[bytes, int]]
"""Takes one frame's bytes and a tally; returns them clean, and how many bits a sample has in them."""


def _family(transfer_syntax: str, layout: Layout) -> _StreamCleaner | None:
    if transfer_syntax == RLE_LOSSLESS:
        return lambda stream, tally: _clean_rle(stream, layout, tally)
    if _JPEG_LS.fullmatch(transfer_syntax):
        return lambda stream, tally: _clean_jpeg(stream, _LS_MARKER, tally)
    if _JPEG.fullmatch(transfer_syntax):
        return lambda stream, tally: _clean_jpeg(stream, _MARKER, tally)
    return _clean_jpeg_2000 if _JPEG_2000.fullmatch(transfer_syntax) else None


def _finish(stream: bytes, kept: Sequence[bytes], end: int, tally: Counter[str]) -> bytes:
    """Put what is kept together; what follows the end is cut, unless it is one byte of padding."""
    if stream[end:] not in (b"", b"\0", b"\xff"):
        tally["pixel_bytes_cut"] += len(stream) - end
        return _even(b"".join(kept))
    content = b"".join(kept)
    return stream if content == stream[:end] else _even(content)


_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_LS_MARKER = re.compile(rb"\xff[\x80-\xfe]")
"""What ends entropy-coded data: in JPEG-LS every byte below 80 after FF belongs to them (T.87 annex A)."""

_FRAME_HEADS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_TABLES = frozenset({0xC4, 0xCC, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF, 0xF8})


def _clean_jpeg(stream: bytes, marker: re.Pattern[bytes], tally: Counter[str]) -> tuple[bytes, int]:
    """Take comments and applications' segments out of a JPEG or JPEG-LS codestream, but for what colors need."""
    kept = [stream[:2]]
    at, precision = 2, 0
    while True:
        begin = at
        while stream[at : at + 2] == b"\xff\xff":
            at += 1
        if stream[at : at + 1] != b"\xff" or at + 2 > len(stream):
            raise PixelRefusalError("pixel-data")
        code = stream[at + 1]
        if code == _END_OF_IMAGE:
            kept.append(stream[begin : at + 2])
            return _finish(stream, kept, at + 2, tally), precision
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        if end < at + 4 or end > len(stream):
            raise PixelRefusalError("pixel-data")
        body = stream[at + 4 : end]
        if code == 0xFE or 0xE0 <= code <= 0xEF:
            plain = _plain_segment(code, body)
            tally["pixel_segments_cut"] += plain != body
            if plain == body:
                kept.append(stream[begin:end])
            elif plain is not None:
                kept.append(b"\xff" + bytes([code]) + (len(plain) + 2).to_bytes(2, "big") + plain)
        elif code in _FRAME_HEADS:
            if len(body) < 6 or len(body) != 6 + 3 * body[5]:
                raise PixelRefusalError("pixel-data")
            precision = max(precision, body[0])
            kept.append(stream[begin:end])
        elif code in _TABLES and _holds_tables(code, body):
            kept.append(stream[begin:end])
        elif code == _START_OF_SCAN and body and len(body) == 4 + 2 * body[0]:
            found = marker.search(stream, end)
            if found is None:
                raise PixelRefusalError("pixel-data")
            kept.append(stream[begin : found.start()])
            end = found.start()
        else:
            raise PixelRefusalError("pixel-data")
        at = end


def _holds_tables(code: int, body: bytes) -> bool:
    """Tell whether a segment of tables is filled by them to its end (T.81 section B.2.4)."""
    if code in (0xC4, 0xDB):
        at = 0
        while at < len(body):
            at += 17 + sum(body[at + 1 : at + 17]) if code == 0xC4 else 129 if body[at] >> 4 else 65
        return at == len(body)
    fixed = {0xDC: 2, 0xDD: 2, 0xDF: 1}
    # JPEG-LS has restart intervals of up to four bytes and tables of several kinds; the first sets five thresholds.
    return len(body) == fixed.get(code, len(body)) and (code != 0xF8 or body[:1] != b"\1" or len(body) == 11)


def _plain_segment(code: int, body: bytes) -> bytes | None:
    """Return the form of an application's segment that says how colors are coded and nothing else; None if it goes."""
    if code == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 14 and body[5] == 1 and body[7] < 3:
        return body[:12] + b"\0\0"  # no thumbnail
    if code == 0xEE and body.startswith(b"Adobe") and len(body) >= 12 and body[11] < 3:
        return b"Adobe\0\x64\0\0\0\0" + body[11:12]
    if code == 0xE8 and body.startswith(b"mrfx") and len(body) == 5 and body[4] < 4:
        return body
    return None


_J2K_FIRST, _J2K_COMMENT, _J2K_LENGTHS, _J2K_TILE, _J2K_DATA, _J2K_END = 0x51, 0x64, 0x55, 0x90, 0x93, b"\xff\xd9"
_J2K_HEAD = frozenset({0x50, 0x51, 0x52, 0x53, 0x56, 0x57, 0x59, 0x5C, 0x5D, 0x5E, 0x5F, 0x60, 0x63, 0x55})
_J2K_TILE_HEAD = frozenset({0x52, 0x53, 0x58, 0x5C, 0x5D, 0x5E, 0x5F, 0x61})


def _clean_jpeg_2000(stream: bytes, tally: Counter[str]) -> tuple[bytes, int]:
    """Take comments out of a JPEG 2000 codestream, in its main head and in those of its tile-parts."""
    head: list[tuple[int, bytes]] = []
    tiles: list[bytes] = []
    precision, at, shortened = 0, 2, False
    while (code := _marker_at(stream, at)) != _J2K_TILE:
        end = _segment_end(stream, at)
        if code == _J2K_COMMENT:
            tally["pixel_segments_cut"] += 1
        elif code not in _J2K_HEAD:
            raise PixelRefusalError("pixel-data")
        else:
            head.append((code, stream[at:end]))
        if code == _J2K_FIRST:
            precision = max((byte & 0x7F) + 1 for byte in stream[at + 40 : end : 3])
        at = end
    while stream[at : at + 2] != _J2K_END:
        tile, at, is_shorter = _clean_tile_part(stream, at, tally)
        tiles.append(tile)
        shortened |= is_shorter
    # Lengths of tile-parts stand in the main head as well; that table may be left out (T.800 section A.7.1).
    kept = [stream[:2], *(part for code, part in head if code != _J2K_LENGTHS or not shortened), *tiles, _J2K_END]
    return _finish(stream, kept, at + 2, tally), precision


def _clean_tile_part(stream: bytes, at: int, tally: Counter[str]) -> tuple[bytes, int, bool]:
    """Return a tile-part without comments, where it ends, and whether it became shorter."""
    if _marker_at(stream, at) != _J2K_TILE or _segment_end(stream, at) != at + 12:
        raise PixelRefusalError("pixel-data")
    length = int.from_bytes(stream[at + 6 : at + 10], "big")
    finish = at + length if length else stream.rfind(_J2K_END)
    if finish > len(stream):
        raise PixelRefusalError("pixel-data")
    kept = []
    place = at + 12
    while (code := _marker_at(stream, place)) != _J2K_DATA:
        end = _segment_end(stream, place)
        if code == _J2K_COMMENT:
            tally["pixel_segments_cut"] += 1
        elif code in _J2K_TILE_HEAD:
            kept.append(stream[place:end])
        else:
            raise PixelRefusalError("pixel-data")
        place = end
    if place + 2 > finish:
        raise PixelRefusalError("pixel-data")
    body = b"".join(kept) + stream[place:finish]
    is_shorter = len(body) + 12 < finish - at
    told = (len(body) + 12).to_bytes(4, "big") if length else bytes(4)
    return stream[at : at + 6] + told + stream[at + 10 : at + 12] + body, finish, is_shorter


def _marker_at(stream: bytes, at: int) -> int:
    if stream[at : at + 1] != b"\xff" or at + 2 > len(stream):
        raise PixelRefusalError("pixel-data")
    return stream[at + 1]


def _segment_end(stream: bytes, at: int) -> int:
    end = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    if end < at + 4 or end > len(stream):
        raise PixelRefusalError("pixel-data")
    return end


def _clean_rle(stream: bytes, layout: Layout, tally: Counter[str]) -> tuple[bytes, int]:
    """Cut what the segments of an RLE frame do not need, and look at the unused bits of its values."""
    words, bare = _read_rle(stream, layout)
    if bare != stream:
        tally["pixel_bytes_cut"] += len(stream) - len(bare)
    dirty = layout.unused and not _is_clean(words.tobytes(), layout)
    return bare, layout.allocated if dirty else 0


def _read_rle(stream: bytes, layout: Layout) -> tuple[_Words, bytes]:
    """Return the stored values of an RLE frame, planar, and the frame with nothing between its segments.

    A segment holds one byte of all values of one sample, the highest byte first (PS3.5 section G.2).
    """
    if len(stream) < 64 or layout.allocated not in (8, 16, 32):
        raise PixelRefusalError("pixel-data")
    number, *offsets = struct.unpack_from("<16L", stream)
    width = layout.allocated // 8
    if number != layout.samples * width or number > 15 or offsets[0] != 64:
        raise PixelRefusalError("pixel-data")
    ends = [*offsets[1:number], len(stream)]
    pixels = layout.rows * layout.columns
    planes = np.zeros((layout.samples, pixels, width), np.uint8)
    segments = []
    for index, (begin, end) in enumerate(zip(offsets, ends, strict=False)):
        if not 64 <= begin <= end <= len(stream):
            raise PixelRefusalError("pixel-data")
        plane, used = _unpack(stream[begin:end], pixels)
        planes[index // width, :, width - 1 - index % width] = np.frombuffer(plane, np.uint8)
        segment = stream[begin : begin + used]
        segments.append(stream[begin:end] if stream[begin + used : end] in (b"", b"\0") else _even(segment))
    places = [64 + sum(map(len, segments[:index])) for index in range(number)]
    head = struct.pack("<16L", number, *places, *([0] * (15 - number)))
    return planes.view(f"<u{width}").reshape(-1), head + b"".join(segments)


def _unpack(segment: bytes, expected: int) -> tuple[bytes, int]:
    """Return the bytes that a segment stands for and how many of its own it needs (PS3.5 section G.3.2)."""
    out = bytearray()
    at = 0
    while len(out) < expected and at < len(segment):
        count = segment[at]
        if count < 128:
            out += segment[at + 1 : at + 2 + count]
            at += count + 2
        elif count > 128:
            out += segment[at + 1 : at + 2] * (257 - count)
            at += 2
        else:
            at += 1
    if len(out) != expected or at > len(segment):
        raise PixelRefusalError("pixel-data")
    return bytes(out), at


def _change_frame(
    stream: bytes, layout: Layout, transfer_syntax: str, areas: Sequence[Area], tally: Counter[str]
) -> bytes:
    """Decode one frame, clean its unused bits, black out its areas and encode it again; the same stream if all is well.

    What was encoded is decoded once more: only what comes out as it went in is taken.
    """
    if areas and _LOSSY.fullmatch(transfer_syntax):
        raise PixelRefusalError("lossy-stream")
    try:
        words = _decode(stream, layout, transfer_syntax)
    except Exception as fault:  # a codec raises anything on damaged input, in words that may quote it
        raise PixelRefusalError("no-codec") from fault
    # A decoder gives all samples of a pixel together, whatever the frame's own order.
    one = _with(layout, frames=1, is_planar=False)
    wanted = words
    if layout.unused and not _is_clean(words.tobytes(), one):
        cleaned = _clean_unused(words, one, 0)
        if cleaned is not None:
            wanted = cleaned
            tally["pixel_unused_bits"] = 1
    if areas:
        wanted = wanted.copy()
        _black_out(wanted, one, areas)
    if np.array_equal(wanted, words):
        return stream
    if transfer_syntax not in _ENCODED_AGAIN:
        raise PixelRefusalError("lossy-stream" if _LOSSY.fullmatch(transfer_syntax) else "no-codec")
    try:
        again = _encode(wanted, layout, transfer_syntax)
        clean_stream = _family(transfer_syntax, layout)
        if clean_stream is not None:
            again = _even(clean_stream(again, Counter())[0])  # encoders sign their work
        is_same = np.array_equal(_decode(again, layout, transfer_syntax), wanted)
    except Exception as fault:
        raise PixelRefusalError("no-codec") from fault
    if not is_same:
        raise PixelRefusalError("no-codec")
    return again


def _with(layout: Layout, *, frames: int, is_planar: bool) -> Layout:
    fields = {name: getattr(layout, name) for name in Layout.__slots__}
    return Layout(**(fields | {"frames": frames, "is_planar": is_planar}))


def _decode(stream: bytes, layout: Layout, transfer_syntax: str) -> _Words:
    """Decode one frame into unsigned words, all samples of a pixel together."""
    if transfer_syntax == RLE_LOSSLESS:
        planar, _ = _read_rle(stream, layout)
        return np.ascontiguousarray(planar.reshape(layout.samples, -1).T).reshape(-1)
    from pydicom.encaps import encapsulate  # noqa: PLC0415 - most files are never decoded
    from pydicom.pixels import get_decoder  # type: ignore[attr-defined] # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frame, _ = get_decoder(transfer_syntax).as_array(encapsulate([stream]), index=0, raw=True, **_facts(layout))
    kind = f"<u{layout.allocated // 8}"
    words: _Words = np.ascontiguousarray(frame).astype(frame.dtype.newbyteorder("<")).reshape(-1).view(kind)
    if words.size != layout.rows * layout.columns * layout.samples:
        raise PixelRefusalError("no-codec")
    return words


def _encode(words: _Words, layout: Layout, transfer_syntax: str) -> bytes:
    """Encode one frame, losslessly."""
    from pydicom.pixels import get_encoder  # type: ignore[attr-defined] # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stream: bytes = get_encoder(transfer_syntax).encode(
            words.tobytes(), encoding_plugin=_ENCODED_AGAIN[transfer_syntax], **_facts(layout)
        )
    return stream


def _facts(layout: Layout) -> dict[str, Any]:
    """Say how one frame is laid out, in pydicom's words."""
    return {
        "pixel_keyword": "PixelData",
        "rows": layout.rows,
        "columns": layout.columns,
        "number_of_frames": 1,
        "samples_per_pixel": layout.samples,
        "bits_allocated": layout.allocated,
        "bits_stored": layout.stored,
        "photometric_interpretation": layout.photometric,
        "pixel_representation": int(layout.is_signed),
        "planar_configuration": 0,
    }
