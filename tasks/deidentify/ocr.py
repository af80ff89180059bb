"""Read exported images as a person would, and tell which of them still show writing.

An optional last look, by whichever engine is there: the package rapidocr-onnxruntime, which brings its models along, or
the program tesseract. Nothing that is read is kept or told: the answer is a reason to keep the image back, or none.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import re
import shutil
import subprocess
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from tasks.errors import MissingPackageError

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset

OCR_REASONS = {
    "burned-in-text": "Text recognition found writing in its pixels; a person has to look.",
    "text-unchecked": "Text recognition was asked for, and its pixels could not be decoded or read.",
}
"""Why text recognition keeps an image back: code to sentence."""

OcrMode = Literal["off", "suspects", "all"]

Picture = npt.NDArray[np.uint8]
"""Rows x columns, 0 is black."""

PACKAGE = "rapidocr-onnxruntime"
PROGRAM = "tesseract"
_MODULE = "rapidocr_onnxruntime"
_LOWEST_CONFIDENCE = 0.6
_SECONDS = 120

_WORD = re.compile(r"[^\W_]{3,}")
"""Fewer letters or digits in a row are marks of orientation, or noise taken for writing."""

_LOOPS = frozenset("0689oae")
"""What engines read in the slices of a mosaic, and in rings of noise."""

_MOST_TIMES = 4
_SMALLEST_SIDE = 768
"""Pixels; smaller pictures are enlarged by a whole number, for engines learned from print at 300 dots an inch."""

_CAPTURES = re.compile(r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.(3|6|7)(\.\d+)*")
"""Secondary capture and ultrasound (PS3.6 annex A): text may stand in any of their frames."""


READ_BY = "text_read_by "
"""What the counts of files that were read are called, before the engine's name and version."""


class TextReader(Protocol):
    """An engine that recognizes text; `name` tells which, and its version."""

    name: str

    def read(self, picture: Picture) -> list[str]:
        """Return what stands in a picture, each line or word by itself."""
        ...


class _Rapid:
    """The package rapidocr-onnxruntime."""

    def __init__(self) -> None:
        self.name = f"{PACKAGE} {importlib.metadata.version(PACKAGE)}"
        self._engine: Any = importlib.import_module(_MODULE).RapidOCR(intra_op_num_threads=1, inter_op_num_threads=1)

    def read(self, picture: Picture) -> list[str]:
        found, _ = self._engine(np.repeat(picture[:, :, np.newaxis], 3, axis=2))
        return [text for _, text, confidence in found or () if float(confidence) >= _LOWEST_CONFIDENCE]


class _Tesseract:
    """The program tesseract, looking for sparse text."""

    def __init__(self, program: str, version: str) -> None:
        self.name = f"{PROGRAM} {version}"
        # Its threads cost more than they bring, and every worker has a core's work already.
        self._command = ["env", "OMP_THREAD_LIMIT=1", program]
        self._command += ["stdin", "stdout", "--psm", "11", "--dpi", "300", "tsv"]

    def read(self, picture: Picture) -> list[str]:
        rows, columns = picture.shape
        image = f"P5 {columns} {rows} 255\n".encode("ascii") + picture.tobytes()
        done = subprocess.run(self._command, input=image, capture_output=True, check=True, timeout=_SECONDS)
        found = []
        for line in done.stdout.decode("utf-8", "replace").splitlines()[1:]:
            *_, confidence, text = line.split("\t")
            if text.strip() and float(confidence) >= 100 * _LOWEST_CONFIDENCE:
                found.append(text.strip())
        return found


def open_reader() -> TextReader:
    """Return the engine that is there, the package before the program.

    Raises
    ------
    MissingPackageError
        If neither is.
    """
    with contextlib.suppress(ImportError):
        # A part of it that is not there, or does not fit this machine, shows only here.
        return _Rapid()
    program = shutil.which(PROGRAM)
    version = tesseract_version(program) if program is not None else ""
    if program is None or not version:
        raise MissingPackageError(
            purpose="Text recognition (`ocr` in the study file)",
            package=f"{PACKAGE} or the program {PROGRAM} with its English data (Debian: tesseract-ocr)",
            extra="ocr",
        )
    return _Tesseract(program, version)


def tesseract_version(program: str) -> str:
    """Return the version of tesseract; empty if it does not run, or has not learned to read English."""
    try:
        languages, version = (
            subprocess.run([program, word], capture_output=True, text=True, check=True, timeout=_SECONDS).stdout.split()
            for word in ("--list-langs", "--version")
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
    return version[1] if "eng" in languages and len(version) > 1 else ""


class Look(NamedTuple):
    """What came of looking at a file: a code of `OCR_REASONS` or empty, and whether it was read at all."""

    reason: str
    was_read: bool


def look_for_text(content: bytes, reader: TextReader, mode: OcrMode, *, codes: Sequence[str] = ()) -> Look:
    """Look at an exported file.

    Parameters
    ----------
    content
        The whole file.
    reader
        The engine.
    mode
        Whether all files are looked at, or those in which text is likely.
    codes
        What was done to the file: one in which areas were blacked out is likely to have had more.

    Returns
    -------
    Look
        What came of it; only with `suspects` are there files that are not read.
    """
    if mode == "off":
        return Look("", was_read=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import pydicom  # noqa: PLC0415 - only where text recognition is asked for

            image = pydicom.dcmread(io.BytesIO(content))
            if mode == "suspects" and "113101" not in codes and not is_suspect(image):
                return Look("", was_read=False)
            for picture in pictures_of(image):
                if shows_text(picture, reader):
                    return Look("burned-in-text", was_read=True)
        except Exception:  # noqa: BLE001 - decoders and engines raise anything; what was not read is not released
            return Look("text-unchecked", was_read=False)
    return Look("", was_read=True)


def is_suspect(image: FileDataset) -> bool:
    """Tell whether text is likely in an image: captured, derived or secondary, or a single picture in color."""
    if _CAPTURES.fullmatch(str(image.get("SOPClassUID", ""))):
        return True
    kinds = image.get("ImageType") or []
    first_two = [str(kind).upper() for kind in ([kinds] if isinstance(kinds, str) else kinds)][:2]
    if "DERIVED" in first_two or "SECONDARY" in first_two:
        return True
    return int(image.get("SamplesPerPixel") or 1) > 1 and int(image.get("NumberOfFrames") or 1) == 1


def pictures_of(image: FileDataset) -> Iterator[Picture]:
    """Yield what a person may see of an image: the first, middle and last frame, of captures all; in three contrasts.

    The whole range of values; from the 2nd to the 98th percentile; and all values spread evenly, which shows writing
    hardly brighter than its ground. (Only what is bright, in black and white, makes more false alarms than finds.)
    """
    from pydicom.pixels import apply_color_lut, iter_pixels  # type: ignore[attr-defined] # noqa: PLC0415

    if not any(name in image for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        return
    count = int(image.get("NumberOfFrames") or 1)
    is_capture = _CAPTURES.fullmatch(str(image.get("SOPClassUID", ""))) is not None
    chosen = range(count) if is_capture else sorted({0, count // 2, count - 1})
    for frame in iter_pixels(image, indices=list(chosen)):
        if image.get("PhotometricInterpretation") == "PALETTE COLOR":
            frame = apply_color_lut(frame, image)  # noqa: PLW2901
        yield from _contrasts(frame)


def _contrasts(frame: npt.NDArray[Any]) -> Iterator[Picture]:
    values = frame.astype(np.float64)
    if values.ndim == 3:
        values = values[:, :, :3].mean(axis=2)
    values = np.nan_to_num(values)
    if values.min() == values.max():
        return
    yield _enlarged(_windowed(values, values.min(), values.max()))
    low, high = np.percentile(values, (2, 98))
    if low < high and (low, high) != (values.min(), values.max()):
        yield _enlarged(_windowed(values, low, high))
    _, ranks = np.unique(values, return_inverse=True)
    if ranks.max() > 2:
        yield _enlarged(_windowed(ranks.reshape(values.shape).astype(np.float64), 0, float(ranks.max())))


def _windowed(values: npt.NDArray[np.float64], low: float, high: float) -> Picture:
    return ((values.clip(low, high) - low) * (255 / (high - low))).round().astype(np.uint8)


def _enlarged(picture: Picture) -> Picture:
    """Return the picture larger by a whole number, with smooth steps: engines take blocks for corners."""
    times = min(-(-_SMALLEST_SIDE // min(picture.shape)), _MOST_TIMES)
    values = picture.astype(np.float64)
    for axis in (0, 1) if times > 1 else ():
        size = picture.shape[axis]
        places = (np.arange(size * times) + 0.5) / times - 0.5
        before = np.floor(places).clip(0, size - 1).astype(int)
        after = (before + 1).clip(0, size - 1)
        part = (places - before).clip(0, 1).reshape((-1, 1) if axis == 0 else (1, -1))
        values = values.take(before, axis) * (1 - part) + values.take(after, axis) * part
    return values.round().astype(np.uint8) if times > 1 else picture


def shows_text(picture: Picture, reader: TextReader) -> bool:
    """Tell whether an engine reads writing in a picture; it is shown the negative, since print is dark on light.

    Writing has words of three letters or digits, and in them three different ones that are not all loops.
    """
    lines = reader.read(255 - picture)
    characters = {letter for line in lines for word in _WORD.findall(line) for letter in word.lower()}
    return len(characters) > 2 and not characters <= _LOOPS
