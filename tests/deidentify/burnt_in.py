"""Draw images that bear writing in their pixels, in every form in which native pixel data may lie."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_encoder
from pydicom.uid import ExplicitVRLittleEndian

ULTRASOUND = "1.2.840.10008.5.1.4.1.1.6.1"
ULTRASOUND_FRAMES = "1.2.840.10008.5.1.4.1.1.3.1"
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
CAPTURE_WORDS = "1.2.840.10008.5.1.4.1.1.7.3"
MR = "1.2.840.10008.5.1.4.1.1.4"

RLE = "1.2.840.10008.1.2.5"
JPEG_LS = "1.2.840.10008.1.2.4.80"
JPEG_2000 = "1.2.840.10008.1.2.4.90"
_ENCODERS = {RLE: "pydicom", JPEG_LS: "pyjpegls", JPEG_2000: "pylibjpeg"}

ROWS, COLUMNS = 200, 320
BANNER = (0, 0, 320, 40)
"""Where the writing stands: x0, y0, x1, y1."""

WRITING = "ZIMMER^ANNA 19500102"

Plane = npt.NDArray[np.uint8]


def speckle(rows: int = ROWS, columns: int = COLUMNS, *, seed: int = 1) -> Plane:
    """Draw what ultrasound looks like: a fan of Rayleigh noise in blobs, on black."""
    noise = np.random.default_rng(seed).rayleigh(1, (rows, columns))
    smooth = sum(np.roll(noise, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-2, -1, 0, 1, 2)) / 15
    depth = np.linspace(1.3, 0.5, rows)[:, None]
    y, x = np.mgrid[:rows, :columns]
    fan = np.abs(x - columns / 2) < 0.15 * columns + 0.5 * y
    return (np.clip((smooth - 0.5) * 140 * depth, 0, 230) * fan).astype(np.uint8)


def write_on(plane: Plane, text: str, place: tuple[int, int], size: int, light: int) -> Plane:
    """Return a plane with a text on it, its upper left corner at column and row `place`, `size` pixels high."""
    picture = Image.fromarray(plane)
    ImageDraw.Draw(picture).text(place, text, fill=light, font=ImageFont.load_default(size))
    return np.asarray(picture).copy()


def with_banner(*, seed: int = 1) -> Plane:
    """Draw speckle with a patient's name above it."""
    plane = speckle(seed=seed)
    plane[: BANNER[3]] = 0
    return write_on(plane, WRITING, (8, 6), 24, 255)


@dataclass(frozen=True, kw_only=True)
class Form:
    """In what form an image lies in its file; `stored` and `allocated` count bits."""

    photometric: str = "MONOCHROME2"
    allocated: int = 8
    stored: int = 8
    high: int | None = None
    is_signed: bool = False
    planar: int = 0
    frames: int = 1
    syntax: str = str(ExplicitVRLittleEndian)
    sop_class: str = CAPTURE
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """Values of one pixel."""
        return 3 if self.photometric.startswith(("RGB", "YBR")) else 1


PALETTE = np.roll(np.arange(256), 55) * 257
"""Entries of 16 bits: the first is not black, the darkest is number 55."""


def stored_values(gray: Plane, form: Form) -> npt.NDArray[Any]:
    """Return the stored values that show a picture, rows x columns, for colors x 3."""
    if form.photometric == "PALETTE COLOR":
        return ((gray.astype(int) + 55) % 256).astype(np.uint8)
    if form.samples == 3:
        rgb = np.stack([gray, (gray * 0.8).astype(np.uint8), (gray * 0.6).astype(np.uint8)], axis=-1)
        return np.asarray(Image.fromarray(rgb).convert("YCbCr")) if form.photometric.startswith("YBR_F") else rgb
    values = gray.astype(np.int64) << (form.stored - 8)
    if form.photometric == "MONOCHROME1":
        values = (1 << form.stored) - 1 - values
    if form.is_signed:
        values -= 1 << (form.stored - 1)
    high = form.stored - 1 if form.high is None else form.high
    values <<= high - form.stored + 1
    return values.astype(f"<{'i' if form.is_signed else 'u'}{form.allocated // 8}")


def burnt_in(form: Form, *, number: int = 1, patient: str = "BI0001", gray: Plane | None = None) -> bytes:
    """Write a file whose pixels bear a name."""
    frames = [with_banner(seed=seed) if gray is None else gray for seed in range(form.frames)]
    values = np.stack([stored_values(frame, form) for frame in frames])
    image = _header(form, number, patient, values.shape[1:3])
    if form.syntax in _ENCODERS:
        facts = {
            "rows": image.Rows,
            "columns": image.Columns,
            "number_of_frames": 1,
            "samples_per_pixel": form.samples,
            "bits_allocated": form.allocated,
            "bits_stored": form.stored,
            "photometric_interpretation": form.photometric,
            "pixel_representation": int(form.is_signed),
            "planar_configuration": 0,
        }
        encoder = get_encoder(form.syntax)
        plugin = _ENCODERS[form.syntax]
        image.PixelData = encapsulate(
            [encoder.encode(one.tobytes(), encoding_plugin=plugin, **facts) for one in values]
        )
        image["PixelData"].VR = "OB"
        image["PixelData"].is_undefined_length = True
    else:
        ordered = values.transpose(0, 3, 1, 2) if form.planar else values
        raw = ordered.tobytes()
        image.PixelData = raw + b"\0" * (len(raw) % 2)
        image["PixelData"].VR = "OW" if form.allocated > 8 else "OB"
    for name, value in form.more.items():
        setattr(image, name, value)
    return written(image)


def written(image: FileDataset) -> bytes:
    """Return the bytes of a file."""
    target = io.BytesIO()
    pydicom.dcmwrite(target, image, enforce_file_format=True)
    return target.getvalue()


def _header(form: Form, number: int, patient: str, size: tuple[int, ...]) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = form.syntax
    meta.MediaStorageSOPClassUID = form.sop_class
    root = "1.2.826.0.1.3680043.8.498.55"
    meta.MediaStorageSOPInstanceUID = f"{root}.{number}.1"
    image = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    image.SpecificCharacterSet = "ISO_IR 100"
    image.ImageType = ["DERIVED", "SECONDARY"] if form.sop_class.startswith(CAPTURE) else ["ORIGINAL", "PRIMARY"]
    image.SOPClassUID, image.SOPInstanceUID = form.sop_class, f"{root}.{number}.1"
    image.StudyDate = image.SeriesDate = image.ContentDate = "20200229"
    image.StudyTime = image.SeriesTime = image.ContentTime = "101112"
    image.AccessionNumber = ""
    image.Modality = "MR" if form.sop_class == MR else "US" if "1.1.7" not in form.sop_class else "OT"
    image.Manufacturer, image.ManufacturerModelName = "Echo Works", "Fan 3"
    image.SoftwareVersions = "4.5"
    image.ReferringPhysicianName = image.StudyID = ""
    image.PatientName, image.PatientID = "Zimmer^Anna", patient
    image.PatientBirthDate, image.PatientSex = "19500102", "F"
    image.StudyInstanceUID = f"{root}.1000"
    image.SeriesInstanceUID = f"{root}.{number}"
    image.SeriesNumber, image.InstanceNumber = str(number), "1"
    image.PatientOrientation = ""
    image.Laterality = ""
    if form.sop_class.startswith(CAPTURE):
        image.ConversionType = "WSD"
    image.SamplesPerPixel, image.PhotometricInterpretation = form.samples, form.photometric
    if form.samples == 3:
        image.PlanarConfiguration = 0 if form.syntax in _ENCODERS else form.planar
    image.Rows, image.Columns = size
    image.BitsAllocated, image.BitsStored = form.allocated, form.stored
    image.HighBit = form.stored - 1 if form.high is None else form.high
    image.PixelRepresentation = int(form.is_signed)
    image.LossyImageCompression = "00"
    if form.frames > 1:
        image.NumberOfFrames = form.frames
        image.FrameTime, image.FrameIncrementPointer = "40", 0x00181063
    if form.photometric == "PALETTE COLOR":
        for name in ("Red", "Green", "Blue"):
            setattr(image, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
            setattr(image, f"{name}PaletteColorLookupTableData", PALETTE.astype("<u2").tobytes())
    return image


def look(image: Dataset) -> npt.NDArray[Any]:
    """Return the pixels as pydicom reads them, raw: frames x rows x columns, for colors x 3."""
    image.pixel_array_options(raw=True)
    return image.pixel_array.reshape(-1, image.Rows, image.Columns, *([3] if image.SamplesPerPixel == 3 else []))
