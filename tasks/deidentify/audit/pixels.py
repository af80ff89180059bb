"""Compare the pixel data of an export with its source's, and look for what is no pixel.

Shares nothing with the code that cleans: fragments are taken apart with pydicom, frames are decoded with pydicom, and
what may differ is worked out here once more.
"""

from __future__ import annotations

import fnmatch
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate, generate_fragments, parse_basic_offsets
from pydicom.pixels import get_decoder  # type: ignore[attr-defined]

PIXEL_FINDINGS = {
    "pixel-data": "The pixel data are not those of the source.",
    "pixel-area": "An area that had to be blacked out shows more than one value.",
    "pixel-bits": "Bits that no stored value uses are not clean.",
    "pixel-excess": "The pixel data hold fragments, segments or bytes that no frame needs.",
    "pixel-offsets": "A table of offsets does not tell where the frames begin.",
    "pixel-claims": "What the export says of burned-in text or of faces is not what is known.",
}
"""What this comparison can find: code to sentence."""

Area = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels, 0-based, half-open."""

_RLE = "1.2.840.10008.1.2.5"
_FACE_REMOVED = "113102"
_SHAPE_NAMES = (
    *("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", "BitsAllocated"),
    *("BitsStored", "HighBit", "PixelRepresentation", "PlanarConfiguration", "PhotometricInterpretation"),
)


class Region(NamedTuple):
    """What has to be black in the images of one kind of device: patterns, None for any, and the areas."""

    manufacturer: str | None
    model: str | None
    software_version: str | None
    modality: str | None
    image_type: str | None
    rows: int | None
    columns: int | None
    areas: tuple[Area, ...]


def areas_of(image: FileDataset, regions: Sequence[Region]) -> list[Area]:
    """Return what has to be black in an image, going by what its source says of itself; not what lies beside it."""
    areas: list[Area] = []
    for region in regions:
        told = {
            "Manufacturer": region.manufacturer,
            "ManufacturerModelName": region.model,
            "SoftwareVersions": region.software_version,
            "Modality": region.modality,
            "ImageType": region.image_type,
        }
        sizes = {"Rows": region.rows, "Columns": region.columns}
        if all(pattern is None or _is_like(image.get(name), pattern) for name, pattern in told.items()) and all(
            size is None or image.get(name) == size for name, size in sizes.items()
        ):
            height, width = int(image.get("Rows") or 0), int(image.get("Columns") or 0)
            areas += [(x0, y0, x1, y1) for x0, y0, x1, y1 in region.areas if x0 < width and y0 < height]
    return areas


def _is_like(value: Any, pattern: str) -> bool:
    parts = [] if value is None else [value] if isinstance(value, str) else list(value)
    spelled = "\\".join(str(part).strip(" \0") for part in parts)
    return fnmatch.fnmatchcase(spelled.lower(), pattern.lower())


def claim_findings(before: FileDataset, after: FileDataset, areas: Sequence[Area]) -> Iterator[str]:
    """Check Burned In Annotation (0028,0301) and Recognizable Visual Features (0028,0302), both at the top level."""
    expected = "NO" if areas else before.get("BurnedInAnnotation", "")
    if (after.get("BurnedInAnnotation", "") or "") not in (expected, ""):
        yield "pixel-claims"
    told = after.get("RecognizableVisualFeatures", "") or ""
    if told not in ("", "YES", "NO"):
        yield "pixel-claims"
    if told == "NO":
        codes = {item.get("CodeValue") for item in before.get("DeidentificationMethodCodeSequence", None) or []}
        was_done_before = before.get("PatientIdentityRemoved") == "YES" and _FACE_REMOVED in codes
        if before.get("RecognizableVisualFeatures") != "NO" or not was_done_before:
            yield "pixel-claims"


def pixel_findings(before: FileDataset, after: FileDataset, areas: Sequence[Area]) -> Iterator[str]:
    """Compare the pixel data of two images.

    Parameters
    ----------
    before, after
        The source and its export, as pydicom reads them.
    areas
        What has to be black in every frame, and may differ.

    Yields
    ------
    str
        Codes of `PIXEL_FINDINGS`.
    """
    for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"):
        old, new = before.get(name), after.get(name)
        if old is None and new is None:
            continue
        if not isinstance(old, bytes) or not isinstance(new, bytes) or not Shape(after).is_told:
            yield "pixel-data"
        elif after[name].is_undefined_length:
            yield from _Encapsulated(before, after, areas).findings(old, new)
        else:
            width = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}.get(name, 0)
            yield from _compare_native(before, after, width, areas)


# ---- native


SHAPE_TAGS = (
    *(0x00280010, 0x00280011, 0x00280002, 0x00280008, 0x00280100),
    *(0x00280101, 0x00280102, 0x00280103, 0x00280006, 0x00280004),
)
"""Everything that `Shape` reads."""


class Shape:
    """The layout of an image's pixel data, as the export says it is; not known where it says several things."""

    def __init__(self, image: FileDataset, width: int = 0) -> None:
        told = {name: image.get(name) for name in _SHAPE_NAMES}
        several = [name for name, value in told.items() if isinstance(value, Sequence) and not isinstance(value, str)]
        told |= dict.fromkeys(several)
        self.is_told = not several
        self.rows, self.columns = int(told["Rows"] or 0), int(told["Columns"] or 0)
        self.samples = int(told["SamplesPerPixel"] or 1)
        frames = str(told["NumberOfFrames"] or 1)
        self.frames = max(1, int(frames)) if frames.strip("+ ").isdigit() else 1
        self.bits = width or int(told["BitsAllocated"] or 0)
        stored = width or int(told["BitsStored"] or self.bits)
        high = width - 1 if width else told["HighBit"]
        self.high = stored - 1 if high is None else int(high)
        self.low = self.high + 1 - stored
        self.is_signed = not width and told["PixelRepresentation"] == 1
        self.is_planar = told["PlanarConfiguration"] == 1
        self.stored = stored
        self.photometric = str(told["PhotometricInterpretation"] or "")
        count = self.rows * self.columns * self.samples * self.frames
        self.count = count * 2 // 3 if self.photometric == "YBR_FULL_422" else count
        self.is_known = self.bits in (8, 16, 32) and self.low >= 0 and stored > 0 and self.high < self.bits

    @property
    def size(self) -> int:
        """Bytes that the frames take."""
        return -(-self.count * self.bits // 8)

    def cube(self, words: npt.NDArray[Any], *, planar: bool) -> npt.NDArray[Any]:
        """Arrange values by frame, row, column and sample."""
        if planar:
            return words.reshape(-1, self.samples, self.rows, self.columns).transpose(0, 2, 3, 1)
        return words.reshape(-1, self.rows, self.columns, self.samples)


def _compare_native(before: FileDataset, after: FileDataset, width: int, areas: Sequence[Area]) -> Iterator[str]:
    name = {0: "PixelData", 32: "FloatPixelData", 64: "DoubleFloatPixelData"}[width]
    old, new = before[name].value, after[name].value
    shape = Shape(after, width)
    size = shape.size
    if before.original_encoding[1] is not False:
        yield from native_findings(old, new, shape, areas)
        return
    if len(new) > size + size % 2 or any(new[size:]):
        yield "pixel-excess"
    # A big-endian source was written anew: then the numbers have to be the same.
    cube = shape.cube
    one, other = (cube(np.asarray(image.pixel_array), planar=False) for image in (before, after))
    yield from _compare_cubes(one, other, shape, areas)


def native_findings(
    old: bytes | memoryview, new: bytes | memoryview, shape: Shape, areas: Sequence[Area] = ()
) -> Iterator[str]:
    """Compare pixel data that are no fragments, both in little endian.

    Parameters
    ----------
    old, new
        The values of the source and of its export.
    shape
        What the export says of its own.
    areas
        What has to be black in every frame, and may differ.
    """
    if not shape.is_told:
        yield "pixel-data"
        return
    size = shape.size
    if len(new) > size + size % 2 or any(new[size:]):
        yield "pixel-excess"
    if len(new[:size]) != len(old[:size]):
        yield "pixel-data"
        return
    is_same = _are_same(old[:size], new[:size])
    if is_same and not areas and (not shape.is_known or _has_plain_bits(new[:size], shape)):
        return
    if not shape.is_known or (len(new) < size and areas):
        if not is_same or areas:
            yield "pixel-data"
        return
    kind = f"<u{shape.bits // 8}"
    count = len(new[:size]) * 8 // shape.bits
    was, now = np.frombuffer(old, kind, count), np.frombuffer(new, kind, count)
    if count == shape.count and shape.photometric != "YBR_FULL_422":
        yield from _compare_cubes(
            shape.cube(was, planar=shape.is_planar), shape.cube(now, planar=shape.is_planar), shape, areas
        )
    elif count == shape.count and areas and not shape.is_planar and shape.columns % 2 == 0:
        yield from _compare_pairs(was, now, shape, areas)
    elif not np.array_equal(_values(was, shape), _values(now, shape)) or areas:
        yield "pixel-data"


def _compare_pairs(was: npt.NDArray[Any], now: npt.NDArray[Any], shape: Shape, areas: Sequence[Area]) -> Iterator[str]:
    """Compare YBR_FULL_422, where two columns share their color: an area takes both or neither."""
    one, other = (words.reshape(-1, shape.rows, shape.columns // 2, 4) for words in (was, now))
    is_black = np.zeros(other.shape[1:3], bool)
    for x0, y0, x1, y1 in areas:
        is_black[y0:y1, x0 // 2 : -(-x1 // 2)] = True
    if not np.array_equal(one[:, ~is_black], other[:, ~is_black]):
        yield "pixel-data"
    if any(len(np.unique(other[:, is_black, place])) > 1 for place in range(4)):
        yield "pixel-area"


def _are_same(one: bytes | memoryview, other: bytes | memoryview) -> bool:
    """Compare by words of eight bytes: memory views alone go byte by byte, and bytes would have to be copied first."""
    count = len(one) // 8
    if len(one) != len(other) or bytes(one[8 * count :]) != bytes(other[8 * count :]):
        return False
    return bool(np.array_equal(np.frombuffer(one, np.uint64, count), np.frombuffer(other, np.uint64, count)))


def _has_plain_bits(content: bytes | memoryview, shape: Shape) -> bool:
    """Tell at once what is true of most images: no bit is set but those of the values, the sign's or a plain area's.

    Parameters
    ----------
    content
        Pixel data that are the source's.
    """
    if shape.bits == shape.stored:
        return True
    words = np.frombuffer(content, f"<u{shape.bits // 8}", len(content) * 8 // shape.bits)
    if not len(words):
        return True
    others = (1 << shape.bits) - 1 & ~((1 << shape.high + 1) - (1 << shape.low))
    if int(np.bitwise_or.reduce(words)) & others == 0:
        return True
    if shape.is_signed and shape.low == 0:
        above = shape.bits - shape.stored
        signed = words.view(f"<i{shape.bits // 8}")
        return bool(np.array_equal(signed << above >> above, signed))
    if shape.is_signed or shape.samples > 1 or shape.frames > 1 or len(words) != shape.count:
        return False
    rest = words & words.dtype.type(others)
    (places,) = np.nonzero(rest != 0)
    rows, columns = np.divmod(places, shape.columns)
    height, width = (int(np.ptp(along)) + 1 for along in (rows, columns))
    return len(places) == height * width and len(np.unique(rest[places])) == 1


def _values(words: npt.NDArray[Any], shape: Shape) -> npt.NDArray[Any]:
    """Return the stored values as numbers, whatever the other bits hold."""
    if not shape.is_known:
        return words
    wide = words.astype(np.int64) >> shape.low & (1 << shape.stored) - 1
    if shape.is_signed:
        wide = np.where(wide >> (shape.stored - 1) & 1, wide - (1 << shape.stored), wide)
    return wide


def _compare_cubes(was: npt.NDArray[Any], now: npt.NDArray[Any], shape: Shape, areas: Sequence[Area]) -> Iterator[str]:
    """Compare frames x rows x columns x samples: outside the areas the same, inside one value."""
    if was.shape != now.shape:
        yield "pixel-data"
        return
    outside = np.ones(now.shape[1:3], bool)
    for x0, y0, x1, y1 in areas:
        outside[y0:y1, x0:x1] = False
    if not np.array_equal(_values(was[:, outside], shape), _values(now[:, outside], shape)):
        yield "pixel-data"
    inside = now[:, ~outside]
    if inside.size and any(len(np.unique(inside[..., sample])) > 1 for sample in range(shape.samples)):
        yield "pixel-area"
    if shape.is_known and now.dtype.kind == "u":
        yield from _look_at_bits(was, now, shape, outside)


def _look_at_bits(
    was: npt.NDArray[Any], now: npt.NDArray[Any], shape: Shape, outside: npt.NDArray[np.bool_]
) -> Iterator[str]:
    """Check the bits that no value uses: none is set, or all repeat the sign, or they are the source's and plain."""
    rest = now.astype(np.int64) & ~((1 << shape.high + 1) - (1 << shape.low))
    if not rest.any():
        return
    if shape.is_signed:
        above = (1 << shape.bits) - (1 << shape.high + 1)
        wanted = np.where(_values(now, shape) < 0, above, 0)
        rest = rest ^ wanted
        if not rest.any():
            return
    if (rest & ~was.astype(np.int64)).any():
        yield "pixel-data"  # they were not in the source either
    if not np.array_equal(was[:, outside], now[:, outside]):
        yield "pixel-bits"
        return
    for plane in rest.transpose(0, 3, 1, 2).reshape(-1, shape.rows, shape.columns):
        places = np.argwhere(plane)
        if len(places):
            height, width = places.max(axis=0) - places.min(axis=0) + 1
            if len(places) != height * width or len(np.unique(plane[plane != 0])) > 1:
                yield "pixel-bits"
                return


# ---- encapsulated


class _Encapsulated:
    """One comparison of compressed frames."""

    def __init__(self, before: FileDataset, after: FileDataset, areas: Sequence[Area]) -> None:
        self._before = before
        self._after = after
        self._areas = areas
        self._shape = Shape(after)
        self._syntax = str(after.file_meta.TransferSyntaxUID)

    def findings(self, old: bytes, new: bytes) -> Iterator[str]:
        """Yield what is wrong with the export's fragments."""
        was, now = self._frames(old), self._frames(new)
        if len(now) > self._shape.frames:
            yield "pixel-excess"
        if len(now) != min(len(was), self._shape.frames):
            yield "pixel-data"
            return
        yield from self._look_at_tables(new, now)
        for one, other in zip(was, now, strict=False):
            yield from self._compare(b"".join(one), b"".join(other))

    def _frames(self, value: bytes) -> list[list[bytes]]:
        """Take the fragments apart, those of a frame together; the offset table, always first, is left out."""
        fragments = list(generate_fragments(value))[1:]
        frames: list[list[bytes]] = []
        for fragment in fragments:
            if self._syntax == _RLE or fragment[:3] in (b"\xff\xd8\xff", b"\xff\x4f\xff") or not frames:
                frames.append([])
            frames[-1].append(fragment)
        return frames

    def _look_at_tables(self, value: bytes, frames: Sequence[Sequence[bytes]]) -> Iterator[str]:
        begins, lengths, at = [], [], 0
        for fragments in frames:
            begins.append(at)
            lengths.append(sum(len(fragment) for fragment in fragments))
            at += sum(len(fragment) + 8 for fragment in fragments)
        if parse_basic_offsets(value) not in ([], begins):
            yield "pixel-offsets"
        told = [self._after.get(name) for name in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")]
        if told != [None, None] and told != [struct.pack(f"<{len(begins)}Q", *part) for part in (begins, lengths)]:
            yield "pixel-offsets"

    def _compare(self, old: bytes, new: bytes) -> Iterator[str]:
        """Compare one frame: the same parts without comments, or the same values."""
        parts, bits, is_bare = _take_apart(new, self._syntax, self._shape)
        if not is_bare:
            yield "pixel-excess"
        hides = bits > self._shape.stored
        if not self._areas and not hides and parts == _take_apart(old, self._syntax, self._shape)[0]:
            return
        try:
            was, now = self._decode(old), self._decode(new)
        except Exception:  # noqa: BLE001 - what nobody here can decode was not compared
            yield "pixel-data"
            return
        yield from _compare_cubes(was, now, self._shape, self._areas)

    def _decode(self, stream: bytes) -> npt.NDArray[Any]:
        shape = self._shape
        if self._syntax == _RLE:
            stream = _put_rle_together(_take_rle_apart(stream, shape)[0])
        facts: dict[str, Any] = {
            "pixel_keyword": "PixelData",
            "rows": shape.rows,
            "columns": shape.columns,
            "number_of_frames": 1,
            "samples_per_pixel": shape.samples,
            "bits_allocated": shape.bits,
            # Of RLE, the decoder would take away the very bits that are looked for.
            "bits_stored": shape.bits if self._syntax == _RLE else shape.stored,
            "photometric_interpretation": shape.photometric,
            "pixel_representation": int(shape.is_signed),
            "planar_configuration": 0,
        }
        frame, _ = get_decoder(self._syntax).as_array(encapsulate([stream]), index=0, raw=True, **facts)
        return shape.cube(frame.view(f"u{shape.bits // 8}"), planar=False)


def _take_apart(stream: bytes, syntax: str, shape: Shape) -> tuple[list[bytes], int, bool]:
    """Return the parts of a frame that images are made of, how many bits it has for a sample, and if that is all."""
    if syntax == _RLE:
        return _take_rle_apart(stream, shape)
    if stream[:2] == b"\xff\x4f":
        return _take_j2k_apart(stream)
    return _take_jpeg_apart(stream, ends_below=0x80 if syntax[-3:] in (".80", ".81") else 0x01)


_COLOR_MARKS = (b"\xff\xe0\x00\x10JFIF\0\1", b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0", b"\xff\xe8\x00\x07mrfx")


def _take_jpeg_apart(stream: bytes, *, ends_below: int) -> tuple[list[bytes], int, bool]:
    parts: list[bytes] = []
    bits, at, is_bare = 0, 2, True
    while stream[at : at + 2] != b"\xff\xd9":
        if stream[at] != 0xFF:
            raise ValueError("no marker")
        if stream[at + 1] == 0xFF:
            at += 1
            continue
        code, end = stream[at + 1], at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        segment = stream[at:end]
        if code == 0xFE or code & 0xF0 == 0xE0:
            is_thumbnail = code == 0xE0 and segment[-2:] != b"\0\0"
            is_bare &= segment.startswith(_COLOR_MARKS) and not is_thumbnail
        else:
            parts.append(segment)
        if code in (0xC0, 0xC1, 0xC2, 0xC3, 0xF7):
            bits = segment[4]
        if code == 0xDA:
            begin = end
            while True:
                end = stream.index(b"\xff", end)
                following = stream[end + 1]
                if following >= ends_below and not 0xD0 <= following <= 0xD7 and following != 0xFF:
                    break
                end += 1 if following == 0xFF else 2
            parts.append(stream[begin:end])
        at = end
    return parts, bits, is_bare and stream[at + 2 :] in (b"", b"\0", b"\xff")


def _take_j2k_apart(stream: bytes) -> tuple[list[bytes], int, bool]:
    parts: list[bytes] = []
    bits, at, is_bare = 0, 2, True
    while stream[at : at + 2] != b"\xff\xd9":
        code, length = stream[at + 1], int.from_bytes(stream[at + 2 : at + 4], "big")
        if stream[at] != 0xFF:
            raise ValueError("no marker")
        if code == 0x90:
            told = int.from_bytes(stream[at + 6 : at + 10], "big")
            finish = at + told if told else len(stream.rstrip(b"\0")) - 2
            parts.append(stream[at : at + 6] + stream[at + 10 : at + 12])
        elif code == 0x93:
            parts.append(stream[at:finish])
            at = finish
            continue
        elif code == 0x64:
            is_bare = False
        elif code not in (0x55, 0x57, 0x58):  # lengths of parts, which only help to find them
            parts.append(stream[at : at + 2 + length])
        if code == 0x51:
            bits = max(stream[at + 40 : at + 2 + length : 3]) % 128 + 1
        at += 2 + length
    return parts, bits, is_bare and stream[at + 2 :] in (b"", b"\0", b"\xff")


def _put_rle_together(parts: Sequence[bytes]) -> bytes:
    """Write an RLE frame with nothing else in it, for a decoder that stumbles over what a source may hold."""
    begins = [64 + sum(len(part) for part in parts[:index]) for index in range(len(parts))]
    return struct.pack("<16L", len(parts), *begins, *[0] * (15 - len(parts))) + b"".join(parts)


def _take_rle_apart(stream: bytes, shape: Shape) -> tuple[list[bytes], int, bool]:
    count, *begins = struct.unpack_from("<16L", stream)
    begins = begins[:count]
    is_bare = not any(stream[4 + 4 * count : 64])
    parts: list[bytes] = []
    at = 64
    for begin, end in zip(begins, [*begins[1:], len(stream)], strict=True):
        is_bare &= begin == at
        made, place = 0, begin
        while made < shape.rows * shape.columns and place < end:
            byte = stream[place]
            made += byte + 1 if byte < 128 else (257 - byte) % 129
            place += byte + 2 if byte < 128 else 1 if byte == 128 else 2
        is_bare &= stream[place:end] in (b"", b"\0")
        parts.append(stream[begin:place])
        at = end
    # The upper byte of a word may hold bits that no value uses: then the words themselves are looked at.
    return parts, shape.bits if shape.stored < shape.bits else 0, is_bare
