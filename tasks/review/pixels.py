"""Decode the stored pixel values of one instance, or say why that is not possible."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import struct
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pydicom
import pydicom.config
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from tasks.review.finding import Finding, finding
from tasks.review.plane import READING_FAULTS, frame_count, items, number, texts, uid_text

LARGEST_INSTANCE = 1 << 33
"""An instance whose decoded pixels would need more bytes than this is refused: its header is damaged."""

_UNDEFINED = 0xFFFFFFFF

_ELEMENTS = {
    (0x7FE0, 0x0010): "PixelData",
    (0x7FE0, 0x0008): "FloatPixelData",
    (0x7FE0, 0x0009): "DoubleFloatPixelData",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelFormat:
    """How an instance stores its pixels.

    Attributes
    ----------
    element
        "PixelData", "FloatPixelData", "DoubleFloatPixelData", or empty if there are none.
    offset, length
        Where the value begins in the file and how many bytes it has; length None if encapsulated.
    transfer_syntax
        Its UID.
    frames, rows, columns, samples
        Sizes; samples is 1, or 3 for colour.
    photometric
        PhotometricInterpretation.
    bits_allocated, bits_stored, signed
        The stored type.
    rescales
        (slope, intercept) for each frame, or one pair for all.
    has_table
        True if a Modality LUT stands in place of slope and intercept.
    padding
        PixelPaddingValue, or None.
    """

    element: str
    offset: int
    length: int | None
    transfer_syntax: str
    frames: int
    rows: int
    columns: int
    samples: int
    photometric: str
    bits_allocated: int
    bits_stored: int
    signed: bool
    rescales: tuple[tuple[float, float], ...]
    has_table: bool
    padding: float | None

    @property
    def is_colour(self) -> bool:
        """True if a decoded pixel is red, green and blue."""
        return self.samples == 3 or self.photometric == "PALETTE COLOR"

    @property
    def is_native(self) -> bool:
        """True if pixels stand in the file uncompressed and in little-endian order."""
        return self.length is not None and self.transfer_syntax in _NATIVE

    @property
    def expected_length(self) -> int:
        """How many bytes the uncompressed pixels take."""
        return math.ceil(self.frames * self.rows * self.columns * self.samples * self.bits_allocated / 8)


_NATIVE = (str(ImplicitVRLittleEndian), str(ExplicitVRLittleEndian))


@contextlib.contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Keep pydicom from warning or logging: its messages quote values, and a header's values are not for a log.

    Every access to a value has to stand inside, since values are only parsed, and complained about, when asked for.
    """
    settings, voice = pydicom.config.settings, logging.getLogger("pydicom")
    mode, disabled = settings.reading_validation_mode, voice.disabled
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings.reading_validation_mode = pydicom.config.IGNORE
        voice.disabled = True
        try:
            yield
        finally:
            settings.reading_validation_mode = mode
            voice.disabled = disabled


def read_header(path: Path) -> tuple[Dataset, int] | Finding:
    """Read everything that stands before the pixels.

    Returns
    -------
    (Dataset, int) or Finding
        The header and the offset in the file at which the pixel element begins; or why it cannot be read.
    """
    try:
        with quiet_pydicom(), path.open("rb") as stream:
            dataset = pydicom.dcmread(stream, stop_before_pixels=True)
            return dataset, stream.tell()
    except OSError as fault:
        if fault.errno is None:  # pydicom's own, about what is in the file
            return finding("not-dicom", f"{path.name} cannot be read as DICOM ({type(fault).__name__}).", [path.name])
        return finding("unreadable", f"{path.name} cannot be opened ({fault.strerror}).", [path.name])
    except READING_FAULTS as fault:
        return finding("not-dicom", f"{path.name} cannot be read as DICOM ({type(fault).__name__}).", [path.name])


def transfer_syntax(dataset: Dataset) -> str:
    """Return the UID of a file's transfer syntax; empty if it is not stated or is no UID."""
    return uid_text(dataset.file_meta, "TransferSyntaxUID")


def pixel_format(path: Path, dataset: Dataset, offset: int) -> PixelFormat | Finding:
    """Describe the pixels of an instance, and check that an uncompressed instance holds all of them.

    Parameters
    ----------
    path, dataset, offset
        The file, and what `read_header` returned for it.
    """
    rows, columns, frames = number(dataset, "Rows"), number(dataset, "Columns"), frame_count(dataset)
    bits = number(dataset, "BitsAllocated")
    photometric = texts(dataset, "PhotometricInterpretation")
    syntax = transfer_syntax(dataset) or str(ImplicitVRLittleEndian)
    element, start, length = _pixel_element(path, dataset, offset, syntax)
    name = path.name
    if not element:
        return finding("no-pixels", f"{name} holds no pixel data.", [name])
    if element == "FloatPixelData":
        bits = 32
    elif element == "DoubleFloatPixelData":
        bits = 64
    if not rows or not columns or not frames or not bits or rows < 1 or columns < 1 or bits < 1:
        return finding("unsupported-pixels", f"{name} does not state the size of its pixels.", [name])
    samples = int(number(dataset, "SamplesPerPixel") or 1)
    if samples not in (1, 3) or int(bits) not in (1, 8, 16, 32, 64):
        return finding("unsupported-pixels", f"{name} stores pixels in an unusual form.", [name])
    described = PixelFormat(
        element=element,
        offset=start,
        length=length,
        transfer_syntax=syntax,
        frames=frames,
        rows=int(rows),
        columns=int(columns),
        samples=samples,
        photometric=photometric[0] if photometric else "MONOCHROME2",
        bits_allocated=int(bits),
        bits_stored=max(1, min(int(number(dataset, "BitsStored") or bits), int(bits))),
        signed=number(dataset, "PixelRepresentation") == 1,
        rescales=_rescales(dataset, frames),
        has_table=bool(items(dataset, "ModalityLUTSequence")),
        padding=number(dataset, "PixelPaddingValue"),
    )
    if described.expected_length > LARGEST_INSTANCE:
        return finding("unsupported-pixels", f"{name} claims more pixels than can be.", [name])
    if described.is_native and described.photometric != "YBR_FULL_422":
        present = min(described.length or 0, path.stat().st_size - described.offset)
        if present < described.expected_length:
            share = max(0.0, present / described.expected_length)
            return finding("truncated-pixels", f"{name} holds only {share:.0%} of its pixel data.", [name])
    return described


def _pixel_element(path: Path, dataset: Dataset, offset: int, syntax: str) -> tuple[str, int, int | None]:
    """Find the pixel element's keyword, the offset of its value, and its length (None if undefined)."""
    with path.open("rb") as stream:
        stream.seek(offset)
        head = stream.read(12)
    if syntax in _NATIVE and len(head) >= 8:
        tag = struct.unpack("<HH", head[:4])
        if tag in _ELEMENTS:
            if syntax == ImplicitVRLittleEndian:
                start, (length,) = offset + 8, struct.unpack("<L", head[4:8])
            else:
                start, (length,) = offset + 12, struct.unpack("<L", head[8:12].ljust(4, b"\0"))
            return _ELEMENTS[tag], start, None if length == _UNDEFINED else length
        return "", 0, None
    if syntax in _NATIVE or not dataset:
        return "", 0, None
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    tag = struct.unpack(f"{order}HH", head[:4]) if len(head) >= 4 else (0, 0)
    if tag in _ELEMENTS:
        return _ELEMENTS[tag], offset + 12, None
    # A deflated data set is only readable as a whole, so whether pixels follow shows when they are decoded.
    return ("PixelData" if syntax == DeflatedExplicitVRLittleEndian else ""), 0, None


def _rescales(dataset: Dataset, frames: int) -> tuple[tuple[float, float], ...]:
    """Read slope and intercept of each frame (PS3.3 C.11.1, C.7.6.16.2.9); one pair if they are all the same."""
    plain = _rescale(dataset) or (1.0, 0.0)
    shared = items(dataset, "SharedFunctionalGroupsSequence")
    each = items(dataset, "PerFrameFunctionalGroupsSequence")
    common = (_transformation(shared[0]) if shared else None) or plain
    rescales = tuple((_transformation(each[index]) if index < len(each) else None) or common for index in range(frames))
    return rescales[:1] if len(set(rescales)) == 1 else rescales


def _transformation(groups: Dataset) -> tuple[float, float] | None:
    found = items(groups, "PixelValueTransformationSequence")
    return _rescale(found[0]) if found else None


def _rescale(dataset: Dataset) -> tuple[float, float] | None:
    slope, intercept = number(dataset, "RescaleSlope"), number(dataset, "RescaleIntercept")
    if slope is None and intercept is None:
        return None
    # A slope of zero would make the picture one grey; the standard forbids it, and some exporters write it for "none".
    return (slope or 1.0), (intercept or 0.0)


# -- decoding ----------------------------------------------------------------------------------------------------------


def decode(path: Path, described: PixelFormat) -> NDArray[Any] | Finding:
    """Decode the stored values of all frames of one instance, before any rescale.

    Returns
    -------
    array of shape (frames, rows, columns), or (frames, rows, columns, 3) of unsigned 8 bit for colour
        Or the finding "codec-missing", "truncated-pixels" or "undecodable-pixels".
    """
    name = path.name
    try:
        with quiet_pydicom():
            stored = _stored(path, described)
            if isinstance(stored, Finding):
                return stored
            shape: tuple[int, ...] = (described.frames, described.rows, described.columns)
            if described.is_colour:
                shape = (*shape, 3)
                if stored.dtype != np.uint8:
                    stored = (stored >> max(0, described.bits_stored - 8)).astype(np.uint8)
    except READING_FAULTS as fault:
        return finding("undecodable-pixels", f"{name} cannot be decoded ({type(fault).__name__}).", [name])
    if stored.size != math.prod(shape):
        return finding("undecodable-pixels", f"{name} decodes to another size than its header states.", [name])
    return stored.reshape(shape)


def _stored(path: Path, described: PixelFormat) -> NDArray[Any] | Finding:
    if described.is_native and described.samples == 1:
        stored = _read_native(path, described) if described.bits_allocated >= 8 else pixel_array(path, raw=False)
    else:
        missing = None if described.length is not None else _decoder_missing(described.transfer_syntax)
        if missing:
            text = f"{path.name} needs a decoder for {missing}, which is not installed."
            return finding("codec-missing", text, [path.name])
        # Given a path, pydicom looks for the pixels in the file, where a deflated data set does not show them.
        deflated = described.transfer_syntax == DeflatedExplicitVRLittleEndian
        stored = pixel_array(pydicom.dcmread(path) if deflated else path, raw=False)
    if isinstance(stored, Finding) or described.photometric != "PALETTE COLOR":
        return stored
    header = read_header(path)
    if isinstance(header, Finding):
        return header
    coloured = apply_color_lut(stored, header[0])
    return coloured if coloured.dtype == np.uint8 else (coloured >> 8).astype(np.uint8)


def _decoder_missing(syntax: str) -> str:
    """Name the compression whose decoder is not installed; empty if it can be decoded."""
    try:
        decoder = get_decoder(syntax)
    except (NotImplementedError, ValueError, KeyError):
        return UID(syntax).name if UID(syntax).is_transfer_syntax else "an unknown transfer syntax"
    return "" if decoder.is_available else UID(syntax).name


def _read_native(path: Path, described: PixelFormat) -> NDArray[Any] | Finding:
    count = described.frames * described.rows * described.columns
    if described.element == "FloatPixelData":
        kind = "<f4"
    elif described.element == "DoubleFloatPixelData":
        kind = "<f8"
    else:
        kind = f"<{'i' if described.signed else 'u'}{described.bits_allocated // 8}"
    with path.open("rb") as stream:
        stored = _read_array(stream, described.offset, np.dtype(kind), count)
    if stored is None:
        return finding("truncated-pixels", f"{path.name} holds only a part of its pixel data.", [path.name])
    spare = described.bits_allocated - described.bits_stored
    if spare > 0 and described.element == "PixelData":
        # Unused high bits may hold an overlay; shifting up and down again also extends the sign.
        stored <<= spare
        stored >>= spare
    return stored


def _read_array(stream: BinaryIO, offset: int, kind: np.dtype[Any], count: int) -> NDArray[Any] | None:
    stream.seek(0, os.SEEK_END)
    if stream.tell() < offset + count * kind.itemsize:
        return None
    stream.seek(offset)
    return np.fromfile(stream, dtype=kind, count=count)


# -- values ------------------------------------------------------------------------------------------------------------


def value_type(formats: Sequence[PixelFormat]) -> np.dtype[Any]:
    """Choose the smallest type that holds the rescaled values of all instances exactly.

    Returns
    -------
    dtype
        An integer of 8, 16 or 32 bits as long as slopes and intercepts are whole; else float32. Never float64.
    """
    if any(one.is_colour for one in formats):
        return np.dtype(np.uint8)
    lowest, highest = 0, 0
    for one in formats:
        if one.element != "PixelData" or one.has_table:
            return np.dtype(np.float32)
        low, high = (
            (-(1 << one.bits_stored - 1), (1 << one.bits_stored - 1) - 1)
            if one.signed
            else (0, (1 << one.bits_stored) - 1)
        )
        for slope, intercept in one.rescales:
            if not (slope.is_integer() and intercept.is_integer()):
                return np.dtype(np.float32)
            ends = (low * int(slope) + int(intercept), high * int(slope) + int(intercept))
            lowest, highest = min(lowest, *ends), max(highest, *ends)
    for kind in (np.uint8, np.uint16, np.int8, np.int16, np.uint32, np.int32):
        limits = np.iinfo(kind)
        if limits.min <= lowest and highest <= limits.max:
            return np.dtype(kind)
    return np.dtype(np.float32)


def rescale(
    stored: NDArray[Any], described: PixelFormat, frame: int, kind: np.dtype[Any], table: Dataset | None = None
) -> NDArray[Any] | Finding:
    """Apply the modality transformation of one frame.

    Parameters
    ----------
    stored
        One decoded frame, (rows, columns) or (rows, columns, 3).
    described, frame
        Its format, and its zero-based number in the instance.
    kind
        The type to return, from `value_type`.
    table
        The header, needed only if `described.has_table`.

    Returns
    -------
    array
        Of the same shape; the same array if there is nothing to do. Or the finding "undecodable-pixels", if the
        table cannot be applied.

    References
    ----------
    PS3.3 C.11.1 (Modality LUT).
    """
    if described.is_colour:
        return stored
    with np.errstate(all="ignore"):
        if described.has_table and table is not None:
            try:
                with quiet_pydicom():
                    return np.asarray(apply_modality_lut(stored, table)).astype(kind)
            except READING_FAULTS as fault:
                return finding("undecodable-pixels", f"A modality table cannot be applied ({type(fault).__name__}).")
        slope, intercept = described.rescales[frame if len(described.rescales) > 1 else 0]
        if slope == 1 and intercept == 0:
            return stored.astype(kind, copy=False)
        if kind.kind == "f":
            return stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
        return (stored.astype(np.int64) * int(slope) + int(intercept)).astype(kind)
