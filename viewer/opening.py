"""From files to images: DICOM as scanners and exports hold it, and every format that nibabel reads."""

from __future__ import annotations

import gzip
import importlib
import io
import math
import os
import warnings
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import MissingPackageError, OpeningError
from tasks.files import TEMPORARY_PREFIX
from tasks.review.finding import Finding
from tasks.review.pixels import quiet_pydicom, read_header
from tasks.review.plane import Plane, uid_text
from tasks.review.volume import Volume, load_voxels, read_series
from viewer.image import Image, from_memory

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_NIBABEL = (".nii", ".nii.gz", ".hdr", ".img", ".hdr.gz", ".img.gz", ".mgh", ".mgz", ".mnc", ".par", ".rec")
_ANOTHER = "Look at it with the program that made it, or make it anew"
_SAME = 1e-4
_READ_BYTES = 1 << 22


def open_images(path: Path | Sequence[Path], *, label: str = "") -> tuple[Image, ...]:
    """Open what one path, or the files of one DICOM series, hold.

    Parameters
    ----------
    path
        A folder of DICOM files, which may hold several series; a DICOM file; an image in a format of nibabel's
        (NIfTI, Analyze, MGH, MINC, PAR/REC) or of numpy's (.npy); or several paths, which are the files of one DICOM
        series.
    label
        What stands over the images.

    Returns
    -------
    tuple of Image
        At least one. Pictures of several orientations, such as a localizer's, come as one image an orientation.

    Raises
    ------
    OpeningError
        If nothing of it can be shown; it names the file, and what is missing for it.
    MissingPackageError
        If a package that the format needs is not installed.
    """
    paths = [path] if isinstance(path, Path) else list(path)
    if not paths:
        raise OpeningError(name="An empty list", problem="it names no file", remedy="Give a file or a folder")
    try:
        if len(paths) > 1:
            return _series(paths, label)
        (only,) = paths
        if only.is_dir():
            return _folder(only, label)
        if not only.exists():
            raise OpeningError(name=only.name, problem="it is not there", remedy="Give a file or a folder that is")
        if only.name.lower().endswith(_NIBABEL):
            return (_with_nibabel(only, label),)
        if only.suffix.lower() == ".npy":
            return (_numpy_file(only, label),)
        return _series(paths, label)
    except OSError as fault:
        raise OpeningError(
            name=Path(fault.filename).name if fault.filename else paths[0].name,
            problem=f"it cannot be read ({fault.strerror or type(fault).__name__})",
            remedy="Look whether it is whole and may be read",
        ) from fault
    except MemoryError as fault:
        raise OpeningError(
            name=paths[0].name, problem="it is larger than the memory", remedy="Close other programs first"
        ) from fault


def image_of_array(
    array: NDArray[Any],
    affine: NDArray[np.float64] | None = None,
    *,
    label: str = "",
    is_colour: bool | None = None,
) -> Image:
    """Make an image of an array.

    Parameters
    ----------
    array
        (i, j), (i, j, k), (i, j, k, t), or with a last axis of three unsigned bytes (i, j, k, 3) for colour.
    affine
        Four by four, to RAS+ millimetres; without it voxels are 1 mm and nothing is known of the sides.
    is_colour
        Whether a last axis of three unsigned bytes is red, green and blue; if None, it is unless k has no more than
        three voxels either.

    Raises
    ------
    OpeningError
        If the array has another shape, or holds no numbers.
    """
    name = label or "The array"
    values = np.asarray(array)
    may_be = values.dtype == np.uint8 and values.ndim in (3, 4, 5) and values.shape[-1] == 3
    if may_be and values.ndim == 5 and is_colour:
        stored, slope, intercept = values, 1.0, 0.0
    elif may_be and values.ndim < 5 and (values.shape[-2] > 3 if is_colour is None else is_colour):
        block = values if values.ndim == 4 else values[:, :, np.newaxis]
        block = block[:, :, :, np.newaxis, :]
        stored, slope, intercept = block, 1.0, 0.0
    else:
        if values.ndim == 5 and values.shape[3] == 1:
            values = values[:, :, :, 0]
        if not 1 <= values.ndim <= 4 or not values.size:
            raise OpeningError(
                name=name,
                problem=f"it has the shape {values.shape}, which is no image or stack of images",
                remedy="Give two to four axes: i, j, slices and volumes",
            )
        values = values.reshape((*values.shape, *((1,) * (4 - values.ndim))))
        stored, slope, intercept = _small(values, name), 1.0, 0.0
    return Image(
        voxels=stored,
        affine=np.eye(4) if affine is None else _checked(affine, name),
        slope=slope,
        intercept=intercept,
        label=label,
        is_placed=affine is not None,
    )


def _checked(affine: Any, name: str) -> NDArray[np.float64]:
    matrix = np.array(affine, np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:3, :3])) < 1e-12:
        raise OpeningError(
            name=name, problem="its matrix does not place voxels in space", remedy="Give one of four by four numbers"
        )
    return matrix


def _small(values: NDArray[Any], name: str) -> NDArray[Any]:
    """Hold values in at most 16 bits or as float32, exactly where that is possible."""
    kind = values.dtype
    if kind.kind == "b":
        return np.asarray(values.astype(np.uint8))
    if kind.kind == "c":
        return np.asarray(np.abs(values), np.float32)
    if kind.kind not in "iuf":
        raise OpeningError(name=name, problem=f"its values ({kind}) are no numbers", remedy=_ANOTHER)
    if not kind.isnative:
        values = values.astype(kind.newbyteorder("="))
    if kind.kind == "f":
        return values if kind == np.float32 else values.astype(np.float32)
    if kind.itemsize <= 2:
        return values
    low, high = int(values.min()), int(values.max())
    for small in (np.int16, np.uint16):
        if np.iinfo(small).min <= low and high <= np.iinfo(small).max:
            return values.astype(small)
    return values.astype(np.float32)


# -- formats of nibabel ------------------------------------------------------------------------------------------------


def _with_nibabel(path: Path, label: str) -> Image:
    try:
        nibabel = importlib.import_module("nibabel")
    except ImportError:
        raise MissingPackageError(purpose=path.name, package="nibabel", extra="viewer") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _read(path, nibabel, label)
        except (OpeningError, MissingPackageError, OSError, MemoryError):
            raise
        except ImportError as fault:
            package = fault.name or "another package"
            raise OpeningError(
                name=path.name, problem=f"it needs {package}", remedy=f"Install {package}, or convert the file"
            ) from None
        except Exception as fault:
            # A damaged file makes the reader fail in any way whatever.
            raise OpeningError(
                name=path.name, problem=f"it cannot be read as an image ({type(fault).__name__})", remedy=_ANOTHER
            ) from fault


def _read(path: Path, nibabel: Any, label: str) -> Image:
    if path.name.lower().endswith(".nii.gz"):
        header, values = _unpacked(path, nibabel)
        slope, intercept = header.get_slope_inter()
        scale = (1.0, 0.0) if slope is None else (float(slope), float(intercept))
        return replace(_image_of(values, header, header.get_best_affine(), scale, path.name), label=label)
    return image_of_nibabel(nibabel.load(path), label=label, name=path.name)


def image_of_nibabel(opened: Any, *, label: str = "", name: str = "") -> Image:
    """Make an image of one of nibabel's.

    Parameters
    ----------
    opened
        Any of its spatial images; its values are copied.
    label
        What stands over the image.
    name
        How a fault names it.

    Raises
    ------
    OpeningError
        If its values are no image.
    """
    proxy = opened.dataobj
    # PAR/REC scales each slice for itself, and says so in another place.
    is_plain = all(hasattr(proxy, name) for name in ("slope", "inter", "get_unscaled"))
    # The reader holds its file open as long as anybody holds its array.
    values = np.array(proxy.get_unscaled() if is_plain else np.asanyarray(proxy), order="K")
    scale = (float(proxy.slope), float(proxy.inter)) if is_plain else (1.0, 0.0)
    affine = np.eye(4) if opened.affine is None else opened.affine
    image = replace(_image_of(values, opened.header, affine, scale, name or "The image"), label=label)
    return image if opened.affine is not None else replace(image, is_placed=False)


def _unpacked(path: Path, nibabel: Any) -> tuple[Any, NDArray[Any]]:
    """Read header and stored values of a packed NIfTI file, the values straight to where they stay.

    A run that fills half the memory can be opened that way; isal takes half the time of the standard library.
    """
    try:
        opener = importlib.import_module("isal.igzip").open
    except ImportError:
        opener = gzip.open
    cut_off = OpeningError(name=path.name, problem="it is cut off or damaged", remedy="Fetch it again")
    try:
        with opener(path, "rb") as stream:
            start = stream.read(4)
            is_second = start in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c")
            kind = nibabel.Nifti2Header if is_second else nibabel.Nifti1Header
            start += stream.read(kind.sizeof_hdr - len(start))
            if len(start) < kind.sizeof_hdr:
                raise cut_off
            header = kind.from_fileobj(io.BytesIO(start))
            shape = header.get_data_shape()
            values = np.empty(shape, header.get_data_dtype(), order="F")
            gap = (header.get_data_offset() or kind.single_vox_offset) - len(start)
            while gap > 0 and (passed := len(stream.read(min(gap, _READ_BYTES)))):
                gap -= passed
            room = values.reshape(-1, order="F").view(np.uint8).data
            done = 0
            while done < len(room) and (more := stream.readinto(room[done : done + _READ_BYTES])):
                done += more
            if done < len(room):
                raise cut_off
    except (EOFError, zlib.error, gzip.BadGzipFile) as fault:
        raise cut_off from fault
    return header, values


def _image_of(values: NDArray[Any], header: Any, affine: Any, scale: tuple[float, float], name: str) -> Image:
    is_colour = bool(values.dtype.names)
    if values.dtype.names:
        values = np.stack([np.asarray(values[name], np.uint8) for name in values.dtype.names[:3]], axis=-1)
    image = image_of_array(values, np.asarray(affine, np.float64), label=name, is_colour=is_colour)
    seconds = None
    if image.volumes > 1 and hasattr(header, "get_zooms") and len(header.get_zooms()) > 3:
        unit = header.get_xyzt_units()[1] if hasattr(header, "get_xyzt_units") else "sec"
        step = float(header.get_zooms()[3]) * {"msec": 1e-3, "usec": 1e-6}.get(unit, 1.0)
        seconds = step if math.isfinite(step) and step > 0 else None
    slope, intercept = scale
    return replace(
        image,
        slope=slope,
        intercept=intercept,
        is_placed=_is_placed(header),
        volume_seconds=seconds,
    )


def _is_placed(header: Any) -> bool:
    """Tell whether a header says where the sides are: NIfTI by a code, MGH by a flag, Analyze never."""
    if hasattr(header, "get_sform"):
        return int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
    kind = type(header).__name__
    if kind == "MGHHeader":
        return bool(int(header["goodRASFlag"]) == 1)
    return kind not in ("AnalyzeHeader", "Spm99AnalyzeHeader", "Spm2AnalyzeHeader")


def _numpy_file(path: Path, label: str) -> Image:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as fault:
        raise OpeningError(name=path.name, problem="it is no array of numbers", remedy=_ANOTHER) from fault
    return image_of_array(array, label=label or path.name)


# -- DICOM -------------------------------------------------------------------------------------------------------------


def _folder(folder: Path, label: str) -> tuple[Image, ...]:
    """Open every series of a folder; those that cannot be shown are named in the findings of the first that can."""
    files = sorted(
        Path(entry.path)
        for entry in os.scandir(folder)
        if entry.is_file() and not entry.name.startswith((TEMPORARY_PREFIX, "."))
    )
    if not files:
        raise OpeningError(name=folder.name, problem="it holds no file", remedy="Give a folder with one series")
    known = [file for file in files if file.name.lower().endswith((*_NIBABEL, ".npy"))]
    if known and len(known) == len(files):
        raise OpeningError(
            name=folder.name, problem="it holds images of their own, no DICOM series", remedy="Give one of the files"
        )
    series: dict[str, list[Path]] = defaultdict(list)
    with quiet_pydicom():
        for file in files:
            header = read_header(file)
            if not isinstance(header, Finding):
                series[uid_text(header[0], "SeriesInstanceUID")].append(file)
    if not series:
        raise OpeningError(name=folder.name, problem="it holds no DICOM file", remedy="Give a folder with one series")
    images: list[Image] = []
    faults: list[OpeningError] = []
    for number, uid in enumerate(sorted(series, key=lambda one: series[one][0]), 1):
        told = f"{label} {number}".strip() if len(series) > 1 else label
        try:
            images += _series(series[uid], told)
        except OpeningError as fault:
            faults.append(fault)
    if not images:
        raise faults[0]
    return tuple(images)


def _series(paths: Sequence[Path], label: str) -> tuple[Image, ...]:
    volume = load_voxels(read_series(paths))
    findings = (*volume.geometry.findings, *volume.problems)
    if not any(image is not None for image in volume.images):
        raise _why_not(paths, findings)
    frame = _frame_of_reference(paths[0])
    if volume.array is not None:
        block = _block(volume.array, is_colour=volume.is_colour)
        affine, is_placed = _affine(volume.planes)
        return (_made(block, affine, volume, label, findings, frame, is_placed=is_placed),)
    return tuple(
        _made(block, affine, volume, label, findings, frame, is_placed=is_placed)
        for block, affine, is_placed in _stacks(volume)
    )


def _made(  # noqa: PLR0917 - what every image of a series shares
    block: NDArray[Any],
    affine: NDArray[np.float64],
    volume: Volume,
    label: str,
    findings: Iterable[Finding],
    frame: str,
    *,
    is_placed: bool,
) -> Image:
    image = from_memory(
        block,
        affine=affine,
        label=label,
        inverted=volume.inverted,
        padding=volume.padding,
        frame_of_reference=frame if is_placed else "",
        is_placed=is_placed,
        findings=tuple(findings),
    )
    return image if block.ndim == 5 else replace(image, voxels=_small(image.voxels, label))


def _block(array: NDArray[Any], *, is_colour: bool) -> NDArray[Any]:
    """Give (t, k, j, i) or (t, k, j, i, 3)."""
    return array if array.ndim == (5 if is_colour else 4) else array[np.newaxis]


def _why_not(paths: Sequence[Path], findings: Iterable[Finding]) -> OpeningError:
    name = paths[0].name if len(paths) == 1 else f"The series with {paths[0].name}"
    faults = [one for one in findings if one.is_fault]
    if not faults:
        return OpeningError(name=name, problem="it holds no picture", remedy="Give a series with pictures")
    first = faults[0]
    remedy = _ANOTHER
    if first.code == "codec-missing":
        remedy = "Install the decoders: pip install 'scanward[codecs]'"
    return OpeningError(name=name, problem=first.text.rstrip("."), remedy=remedy)


def _frame_of_reference(path: Path) -> str:
    with quiet_pydicom():
        header = read_header(path)
        return "" if isinstance(header, Finding) else uid_text(header[0], "FrameOfReferenceUID")


def _affine(planes: Sequence[Plane]) -> tuple[NDArray[np.float64], bool]:
    """Give the matrix of a stack in RAS+ from where its planes lie, and whether that is known (PS3.3 C.7.6.2.1.1)."""
    first, last = planes[0], planes[-1]
    between_rows, between_columns = first.pixel_spacing or (1.0, 1.0)
    step = first.spacing_between or first.thickness or 1.0
    matrix = np.eye(4)
    if first.orientation is None or first.position is None:
        matrix[0, 0], matrix[1, 1], matrix[2, 2] = between_columns, between_rows, step
        return matrix, False
    along, down = np.array(first.orientation[:3], float), np.array(first.orientation[3:], float)
    matrix[:3, 0], matrix[:3, 1] = along * between_columns, down * between_rows
    matrix[:3, 2] = np.cross(along, down) * step
    matrix[:3, 3] = first.position
    if len(planes) > 1 and last.position is not None:
        way = (np.array(last.position, float) - np.array(first.position, float)) / (len(planes) - 1)
        if abs(way @ np.cross(along, down)) > _SAME:
            matrix[:3, 2] = way
    return np.asarray(_LPS_TO_RAS @ matrix), True


def _stacks(volume: Volume) -> list[tuple[NDArray[Any], NDArray[np.float64], bool]]:
    """Put single planes of the same size and direction together, in the order in which they lie."""
    groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for number, (image, plane) in enumerate(zip(volume.images, volume.planes, strict=True)):
        if image is not None:
            direction = None if plane.orientation is None else tuple(round(one, 3) for one in plane.orientation)
            groups[image.shape, image.dtype.str, direction, plane.pixel_spacing].append(number)
    stacks = []
    for members in groups.values():
        planes = [volume.planes[number] for number in members]
        order = list(range(len(members)))
        places = _depths(planes)
        if places is not None:
            order.sort(key=lambda one: places[one])
            # Slices that do not follow each other evenly are no volume that could be cut: each stands alone.
            steps = np.diff([places[one] for one in order])
            if len(steps) and (steps.min() < _SAME or steps.max() - steps.min() > 0.01 * steps.max()):
                stacks += [_stack(volume, [members[one]]) for one in order]
                continue
        elif len(members) > 1:
            stacks += [_stack(volume, [one]) for one in members]
            continue
        stacks.append(_stack(volume, [members[one] for one in order]))
    return stacks


def _depths(planes: Sequence[Plane]) -> list[float] | None:
    if any(plane.orientation is None or plane.position is None for plane in planes):
        return None
    orientation = planes[0].orientation
    assert orientation is not None
    normal = np.cross(np.array(orientation[:3]), np.array(orientation[3:]))
    return [float(np.array(plane.position) @ normal) for plane in planes]


def _stack(volume: Volume, members: Sequence[int]) -> tuple[NDArray[Any], NDArray[np.float64], bool]:
    images = [image for number in members if (image := volume.images[number]) is not None]
    affine, is_placed = _affine([volume.planes[number] for number in members])
    return np.stack(images)[np.newaxis], affine, is_placed
