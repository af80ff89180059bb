"""One image plane: what a header says of its size, its place in the patient and its place in time.

A plane is one picture: a classic instance, one frame of a multi-frame instance, or one tile of a
mosaic. Reading is forgiving: a value that is missing, malformed or impossible is None, and judged elsewhere.
"""

from __future__ import annotations

import datetime
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError

READING_FAULTS = (
    InvalidDicomError,
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    NotImplementedError,
    OverflowError,
    RecursionError,
    RuntimeError,
    AssertionError,
    struct.error,
    BytesLengthException,
)
"""What pydicom and its decoders raise on damaged input."""

Vector = tuple[float, float, float]
"""A point or direction in the patient, in LPS millimetres (+x to the left, +y to the back, +z to the head)."""

Orientation = tuple[float, float, float, float, float, float]
"""ImageOrientationPatient: the direction along a row (increasing column), then down a column (increasing row)."""

ORTHONORMAL_TOLERANCE = 1e-2
"""How far the direction cosines may be from unit length and from a right angle before they are refused.

Real headers are rounded to as few as four digits; what is accepted is normalised afterwards."""

LARGEST_NUMBER = 1e12
"""No attribute that is read here means anything beyond this; a larger number is a damaged one."""

MOST_FRAMES = 65_536
"""More frames than this in one instance are a damaged header, not a picture."""

_ATTRIBUTE_FAULTS = (
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
    OverflowError,
    IndexError,
    NotImplementedError,
    EOFError,
    OSError,
    RecursionError,
    struct.error,
    BytesLengthException,
)
# What pydicom raises when a raw value cannot be turned into its type.


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """Where one picture lies, and which moment and kind it shows.

    Attributes
    ----------
    source
        The file's name.
    file, frame, tile
        Zero-based: which file of the series, which frame in it, which tile of the frame (None if it is no mosaic).
    rows, columns
        Size in pixels.
    position
        Centre of the first pixel, LPS mm, or None.
    orientation
        Direction cosines, normalised, or None.
    pixel_spacing
        Millimetres between rows, then between columns (the order of PixelSpacing), or None.
    thickness, spacing_between
        SliceThickness and SpacingBetweenSlices in mm, or None.
    kind
        The values of ImageType after the second, and the complex component: magnitude, phase, a derived map.
    echo_time, inversion_time, trigger_time
        Milliseconds.
    b_value, gradient
        Diffusion weighting in s/mm2 and its direction.
    temporal_position
        TemporalPositionIdentifier or TemporalPositionIndex.
    acquired
        Acquisition date and time as seconds on a scale of its own, good for comparing only.
    acquisition_number, instance_number
        As stated. They never order slices in space.
    assumptions
        Codes of findings for what had to be assumed to place this plane.
    tiles
        Of a mosaic: what the private header says of its tiles; None if nothing.
    """

    source: str
    file: int
    frame: int = 0
    tile: int | None = None
    rows: int
    columns: int
    position: Vector | None = None
    orientation: Orientation | None = None
    pixel_spacing: tuple[float, float] | None = None
    thickness: float | None = None
    spacing_between: float | None = None
    kind: tuple[str, ...] = ()
    echo_time: float | None = None
    inversion_time: float | None = None
    trigger_time: float | None = None
    b_value: float | None = None
    gradient: Vector | None = None
    temporal_position: float | None = None
    acquired: float | None = None
    acquisition_number: float | None = None
    instance_number: float | None = None
    assumptions: frozenset[str] = frozenset()
    tiles: Tiles | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """What a scanner's private header says of where the tiles of a mosaic lie.

    Attributes
    ----------
    count
        How many tiles hold slices.
    normal
        The direction in which the slices follow each other, tile by tile; None if `corners` are known.
    corners
        Where each slice's first pixel lies, LPS mm; empty if `normal` is known.
    """

    count: int
    normal: Vector | None = None
    corners: tuple[Vector, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MosaicGrid:
    """How the slices of one volume lie in a mosaic, row by row from the upper left corner.

    Attributes
    ----------
    down, across
        Tiles in a column, tiles in a row.
    rows, columns
        Size of one tile in pixels.
    used
        How many tiles hold slices; the others, at the end, are empty.
    """

    down: int
    across: int
    rows: int
    columns: int
    used: int


# -- reading single values ---------------------------------------------------------------------------------------------


def number(dataset: Dataset, keyword: str) -> float | None:
    """Read one number; None if it is missing or not one."""
    return _first(numbers(dataset, keyword))


def numbers(dataset: Dataset, keyword: str, count: int | None = None) -> tuple[float, ...] | None:
    """Read numbers; None if missing, malformed, beyond all measure, or not exactly `count` of them."""
    try:
        value = dataset.get(keyword)
        if value is None or isinstance(value, str | bytes):
            return None
        values = tuple(float(one) for one in (value if isinstance(value, Iterable) else (value,)))
    except _ATTRIBUTE_FAULTS:
        return None
    if not values or not all(abs(one) < LARGEST_NUMBER for one in values) or (count and len(values) != count):
        return None
    return values


def texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """Read the values of a code string, in capitals; empty if missing."""
    try:
        value = dataset.get(keyword)
    except _ATTRIBUTE_FAULTS:
        return ()
    if value is None:
        return ()
    values = (value,) if isinstance(value, str) else value
    return tuple(str(one).strip().upper() for one in values) if isinstance(values, Iterable) else ()


def uid_text(dataset: Dataset, keyword: str) -> str:
    """Read a UID; empty if missing or made of anything but digits and points (PS3.5 section 9.1)."""
    values = texts(dataset, keyword)
    text = values[0] if values else ""
    return text if len(text) <= 64 and not set(text) - set("0123456789.") else ""


def items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """Read the items of a sequence; empty if missing."""
    try:
        value = dataset.get(keyword)
    except _ATTRIBUTE_FAULTS:
        return []
    return list(value) if value is not None and not isinstance(value, str | bytes) else []


def _first(values: tuple[float, ...] | None) -> float | None:
    return values[0] if values else None


def _positive(value: float | None) -> float | None:
    return value if value is not None and value > 0 else None


def frame_count(dataset: Dataset) -> int:
    """Return how many frames a header claims: one for a classic instance, 0 if the claim is impossible."""
    claimed = number(dataset, "NumberOfFrames")
    if claimed is None:
        return 1
    return int(claimed) if 1 <= claimed <= MOST_FRAMES else 0


def _orientation(dataset: Dataset) -> tuple[Orientation | None, frozenset[str]]:
    values = numbers(dataset, "ImageOrientationPatient", 6)
    if values is None:
        return None, frozenset()
    along, down = np.array(values[:3]), np.array(values[3:])
    lengths = float(np.linalg.norm(along)), float(np.linalg.norm(down))
    skew = abs(float(along @ down))
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), skew) > ORTHONORMAL_TOLERANCE:
        return None, frozenset({"orientation-invalid"})
    x, y = along / lengths[0], down / lengths[1]
    return (float(x[0]), float(x[1]), float(x[2]), float(y[0]), float(y[1]), float(y[2])), frozenset()


def _vector(dataset: Dataset, keyword: str) -> Vector | None:
    values = numbers(dataset, keyword, 3)
    return None if values is None else (values[0], values[1], values[2])


def _pixel_spacing(dataset: Dataset) -> tuple[float, float] | None:
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        values = numbers(dataset, keyword, 2)
        if values is not None and min(values) > 0:
            return values[0], values[1]
    return None


def _moment(date: str, time: str) -> float | None:
    """Turn a DICOM date (may be empty) and time into seconds, for comparing only (PS3.5 section 6.2, DA and TM)."""
    time = time.replace(":", "")
    whole, _, fraction = time.partition(".")
    if not whole.isdigit() or len(whole) not in (2, 4, 6) or (fraction and not fraction.isdigit()):
        return None
    whole = whole.ljust(6, "0")
    seconds = int(whole[:2]) * 3600 + int(whole[2:4]) * 60 + int(whole[4:6]) + float(f"0.{fraction or 0}")
    date = date.replace(".", "")
    if len(date) == 8 and date.isdigit():
        try:
            seconds += datetime.date(int(date[:4]), int(date[4:6]), int(date[6:])).toordinal() * 86400.0
        except ValueError:
            return None
    return seconds


def _acquired(dataset: Dataset, stamp: str = "AcquisitionDateTime") -> float | None:
    both = _raw_text(dataset, stamp)
    if len(both) >= 10:
        return _moment(both[:8], both[8:].split("+")[0].split("-")[0])
    return _moment(_raw_text(dataset, "AcquisitionDate"), _raw_text(dataset, "AcquisitionTime"))


def _raw_text(dataset: Dataset, keyword: str) -> str:
    try:
        value = dataset.get(keyword)
    except _ATTRIBUTE_FAULTS:
        return ""
    return "" if value is None else str(value).strip()


# -- planes of an instance ---------------------------------------------------------------------------------------------


def planes_in(dataset: Dataset, *, source: str, file: int) -> list[Plane]:
    """List the planes of one instance, one for each frame, in the order in which their pixels are stored.

    Parameters
    ----------
    dataset
        The header; pixel data is not needed.
    source, file
        The file's name and its zero-based place in the list of the series' files.

    Returns
    -------
    list of Plane
        Empty if the header describes no picture. A mosaic is one plane until `cut_plane` cuts it.

    References
    ----------
    PS3.3 C.7.6.2 (image plane), C.7.6.16 (multi-frame functional groups).
    """
    rows, columns, frames = number(dataset, "Rows"), number(dataset, "Columns"), frame_count(dataset)
    if not rows or not columns or rows < 1 or columns < 1 or not frames:
        return []
    shared = items(dataset, "SharedFunctionalGroupsSequence")
    each = items(dataset, "PerFrameFunctionalGroupsSequence")
    plain = _plane_of(dataset, dataset, source=source, file=file, rows=int(rows), columns=int(columns))
    if shared or each:
        common = _with_groups(plain, shared[0], dataset) if shared else plain
        return [
            _with_groups(replace(common, frame=index), each[index], dataset)
            if index < len(each)
            else replace(common, frame=index)
            for index in range(frames)
        ]
    if frames > 1:
        # Without functional groups, one position cannot hold for all frames; whichever frame it meant is unknown.
        return [replace(plain, frame=index, position=None) for index in range(frames)]
    return [plain]


def _plane_of(dataset: Dataset, timing: Dataset, *, source: str, file: int, rows: int, columns: int) -> Plane:
    orientation, assumptions = _orientation(dataset)
    diffusion = items(dataset, "MRDiffusionSequence")
    weighted = diffusion[0] if diffusion else dataset
    return Plane(
        source=source,
        file=file,
        rows=rows,
        columns=columns,
        position=_vector(dataset, "ImagePositionPatient"),
        orientation=orientation,
        pixel_spacing=_pixel_spacing(dataset),
        thickness=_positive(number(dataset, "SliceThickness")),
        spacing_between=_positive(_magnitude(number(dataset, "SpacingBetweenSlices"))),
        kind=_kind(dataset, "ImageType"),
        echo_time=number(dataset, "EchoTime"),
        inversion_time=_positive(number(dataset, "InversionTime")),
        trigger_time=number(dataset, "TriggerTime"),
        b_value=number(weighted, "DiffusionBValue"),
        gradient=_vector(weighted, "DiffusionGradientOrientation"),
        temporal_position=number(dataset, "TemporalPositionIdentifier"),
        acquired=_acquired(timing),
        acquisition_number=number(dataset, "AcquisitionNumber"),
        instance_number=number(dataset, "InstanceNumber"),
        assumptions=assumptions,
        tiles=_tiles(dataset) if is_mosaic(dataset) else None,
    )


def _magnitude(value: float | None) -> float | None:
    return None if value is None else abs(value)


def _kind(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    component = texts(dataset, "ComplexImageComponent")
    # The last value MOSAIC or VFRAME is about storage, not about what the picture shows.
    return tuple(value for value in (*texts(dataset, keyword)[2:], *component) if value not in _MOSAICS)


def _with_groups(plane: Plane, groups: Dataset, whole: Dataset) -> Plane:
    """Lay what one item of the functional groups says over a plane (PS3.3 C.7.6.16.2)."""
    found: dict[str, Any] = {}
    for item in _group(groups, "PlanePositionSequence"):
        found["position"] = _vector(item, "ImagePositionPatient")
    for item in _group(groups, "PlaneOrientationSequence"):
        found["orientation"], assumed = _orientation(item)
        found["assumptions"] = plane.assumptions | assumed
    for item in _group(groups, "PixelMeasuresSequence"):
        found["pixel_spacing"] = _pixel_spacing(item)
        found["thickness"] = _positive(number(item, "SliceThickness"))
        found["spacing_between"] = _positive(_magnitude(number(item, "SpacingBetweenSlices"))) or plane.spacing_between
    for item in _group(groups, "FrameContentSequence"):
        found["temporal_position"] = number(item, "TemporalPositionIndex")
        found["acquired"] = _acquired(item, "FrameAcquisitionDateTime") or plane.acquired
        found["acquisition_number"] = number(item, "FrameAcquisitionNumber") or plane.acquisition_number
    for item in _group(groups, "MREchoSequence"):
        found["echo_time"] = number(item, "EffectiveEchoTime")
    for item in _group(groups, "MRDiffusionSequence"):
        found["b_value"] = number(item, "DiffusionBValue")
        for direction in _group(item, "DiffusionGradientDirectionSequence"):
            found["gradient"] = _vector(direction, "DiffusionGradientOrientation")
    for item in _group(groups, "CardiacSynchronizationSequence"):
        found["trigger_time"] = number(item, "NominalCardiacTriggerDelayTime")
    for keyword in ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence"):
        for item in _group(groups, keyword):
            found["kind"] = _kind(item, "FrameType") or _kind(whole, "ImageType")
    return replace(plane, **found)


def _group(groups: Dataset, keyword: str) -> Iterator[Dataset]:
    yield from items(groups, keyword)[:1]


# -- mosaics -----------------------------------------------------------------------------------------------------------

_MOSAICS = ("MOSAIC", "VFRAME")


def is_mosaic(dataset: Dataset) -> bool:
    """Tell whether one frame holds all slices of a volume side by side, as ImageType says."""
    return any(value in _MOSAICS for value in texts(dataset, "ImageType"))


def _tiles(dataset: Dataset) -> Tiles | None:
    """Read what the private headers of Siemens (CSA) and UIH say of a mosaic; None if they say nothing."""
    try:
        block = dataset.private_block(0x0065, "Image Private Header")
        found = [_vector(item, "ImagePositionPatient") for item in block[0x51].value]
        corners = tuple(one for one in found if one is not None)
        if corners and len(corners) == len(found):
            return Tiles(count=len(corners), corners=corners)
    except READING_FAULTS:
        pass
    try:
        content = dataset.private_block(0x0029, "SIEMENS CSA HEADER")[0x10].value
        from nibabel.nicom import csareader  # noqa: PLC0415 - an extra

        reader: Any = csareader
        header = reader.read(content)
        count, normal = reader.get_n_mosaic(header), reader.get_slice_normal(header)
    except (ImportError, *READING_FAULTS):
        return None
    if not count or normal is None or not np.isfinite(normal).all() or not np.any(normal):
        return None
    return Tiles(count=int(count), normal=(float(normal[0]), float(normal[1]), float(normal[2])))


def mosaic_grid(dataset: Dataset) -> MosaicGrid | None:
    """Find how a mosaic is cut: the size of a tile from public attributes alone.

    The number of frequency-encoding samples in AcquisitionMatrix is the tile's size in the direction that is not
    phase encoded. A grid of type MOSAIC has as many tiles across as down; one of type VFRAME need not.

    Returns
    -------
    MosaicGrid or None
        With every tile counted as used (see `settle_grid`); None if the attributes do not fit together.

    References
    ----------
    PS3.3 C.8.3.1 (Acquisition Matrix, 0018,1310: frequency rows, frequency columns, phase rows, phase columns).
    """
    rows, columns = number(dataset, "Rows"), number(dataset, "Columns")
    matrix = numbers(dataset, "AcquisitionMatrix", 4)
    if not rows or not columns or matrix is None:
        return None
    frequency, phase = int(max(matrix[:2])), int(max(matrix[2:]))
    direction = texts(dataset, "InPlanePhaseEncodingDirection")
    attempts = [(int(columns), int(rows), False), (int(rows), int(columns), True)]
    if direction[:1] == ("ROW",):
        attempts.reverse()
    for size, other, swapped in attempts:
        if frequency < 2 or size % frequency:
            continue
        count = size // frequency
        square = "MOSAIC" in texts(dataset, "ImageType")
        if square:
            other_count = count
        else:
            fitting = [side for side in (phase, frequency) if side > 1 and other % side == 0]
            other_count = other // fitting[0] if fitting else 0
        if not other_count or other % other_count or count * other_count < 2:
            continue
        down, across = (count, other_count) if swapped else (other_count, count)
        grid = MosaicGrid(
            down=down, across=across, rows=int(rows) // down, columns=int(columns) // across, used=down * across
        )
        tiles = _tiles(dataset)
        stated = number(dataset, "NumberOfSlices") if tiles is None else tiles.count
        if stated and 1 < stated <= grid.used:
            return replace(grid, used=int(stated))
        return grid
    return None


def cut(image: NDArray[Any], grid: MosaicGrid, tile: int) -> NDArray[Any]:
    """Return one tile (zero-based, row by row) of a mosaic as a view of shape (rows, columns)."""
    top, left = (tile // grid.across) * grid.rows, (tile % grid.across) * grid.columns
    return image[top : top + grid.rows, left : left + grid.columns]


def settle_grid(grid: MosaicGrid, images: Iterable[NDArray[Any]]) -> MosaicGrid:
    """Settle from the pixels how many tiles are used, and whether the tile is twice the acquisition matrix.

    Parameters
    ----------
    grid
        From `mosaic_grid`.
    images
        Every mosaic of the series, each of shape (rows, columns).

    Returns
    -------
    MosaicGrid
        `used` is the last tile, counted from one, that is not empty in every image. If neighbouring tiles look like
        halves of one picture (interpolated to twice the matrix), tiles are doubled first.
    """
    used, doubled, first = 0, grid, True
    for image in images:
        if first:
            doubled = _doubled(grid, image)
            first = False
        candidate = doubled.down * doubled.across
        while candidate > used and not np.any(cut(image, doubled, candidate - 1)):
            candidate -= 1
        used = max(used, candidate)
    if first or used == 0 or (doubled is grid and grid.used < grid.down * grid.across):
        return grid
    return replace(doubled, used=used)


LIKENESS_LOST = 0.5
"""Neighbouring slices of a head correlate above this; the halves of one slice do not reach what whole slices do."""


def _doubled(grid: MosaicGrid, image: NDArray[Any]) -> MosaicGrid:
    if grid.down % 2 or grid.across % 2 or grid.across < 4:
        return grid
    middle = (grid.down // 4) * 2 * grid.across
    nearest = _likeness(image, grid, middle, 1)
    if nearest > LIKENESS_LOST or _likeness(image, grid, middle, 2) < nearest + (1 - LIKENESS_LOST) / 2:
        return grid
    down, across = grid.down // 2, grid.across // 2
    return MosaicGrid(down=down, across=across, rows=grid.rows * 2, columns=grid.columns * 2, used=down * across)


def _likeness(image: NDArray[Any], grid: MosaicGrid, start: int, lag: int) -> float:
    found = []
    for tile in range(start, start + grid.across - lag):
        one = cut(image, grid, tile).astype(np.float32).ravel()
        other = cut(image, grid, tile + lag).astype(np.float32).ravel()
        one, other = one - one.mean(), other - other.mean()
        strength = float(np.linalg.norm(one) * np.linalg.norm(other))
        if strength > 0:
            found.append(float(one @ other) / strength)
    return float(np.median(found)) if found else 1.0


def cut_plane(plane: Plane, grid: MosaicGrid) -> Iterator[Plane]:
    """Cut the plane of a mosaic into one plane for each slice, and place them.

    The stated position is that of a picture as large as the whole mosaic around the centre of the slice, so the
    slice's own corner lies half the difference of the sizes further in. Slices follow each other as the private header
    says. Where that was removed, they are taken to follow each other towards left, back or head, whichever is nearest:
    the order when the numbering of slices was not reversed at the scanner.
    """
    tiles = plane.tiles
    assumed = plane.assumptions if tiles is not None else plane.assumptions | {"assumed-mosaic"}
    between = plane.spacing_between
    if between is None and plane.thickness is not None:
        between = plane.thickness
        assumed |= {"assumed-spacing"}
    corner, step = None, None
    if plane.orientation is not None and plane.pixel_spacing is not None and between is not None:
        along, down = np.array(plane.orientation[:3]), np.array(plane.orientation[3:])
        normal = np.cross(along, down)
        stated = None if tiles is None else tiles.normal
        towards = normal[np.argmax(np.abs(normal))] if stated is None else float(normal @ np.array(stated))
        step = normal * between * (1.0 if towards > 0 else -1.0)
        origin = np.zeros(3)
        if plane.position is None:
            assumed |= {"positions-missing"} if tiles is None or not tiles.corners else set()
        else:
            origin = np.array(plane.position)
        across_mm = plane.pixel_spacing[1] * (plane.columns - grid.columns) / 2
        down_mm = plane.pixel_spacing[0] * (plane.rows - grid.rows) / 2
        corner = origin + along * across_mm + down * down_mm
    for tile in range(grid.used):
        position = None
        if tiles is not None and tile < len(tiles.corners):
            position = tiles.corners[tile]
        elif corner is not None and step is not None:
            place = corner + step * tile
            position = (float(place[0]), float(place[1]), float(place[2]))
        yield replace(
            plane,
            tile=tile,
            rows=grid.rows,
            columns=grid.columns,
            position=position,
            spacing_between=between,
            assumptions=assumed,
        )
