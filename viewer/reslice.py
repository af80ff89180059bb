"""Planes through an image: the three of anatomy along its own voxels, and a cut at any angle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewer.image import Image

PLANES = ("axial", "coronal", "sagittal")
"""The planes of anatomy."""

CONVENTIONS = ("radiological", "neurological")
"""Whether the patient's left is on the viewer's right, as seen from the feet, or on the left, as seen from behind."""

NOSES = ("left", "right")
"""Where the nose points in sagittal planes."""

_AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
"""The RAS axis that each plane looks along."""

_LETTERS = (("R", "L"), ("A", "P"), ("S", "I"))
_SECOND_LETTER = 0.34
"""A border is given a second letter if it points that way too, by more than 20 degrees (sine 0.34)."""

_ROUNDING = 1e-6
"""Directions this alike are equal, so that rounding never decides which letter comes first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaneView:
    """How slices of an image are cut and turned to be looked at.

    Attributes
    ----------
    plane
        One of `PLANES`.
    axis
        The voxel axis that slices follow each other along: 0, 1 or 2.
    rows, columns
        The voxel axes that run down and across the screen.
    flip_slices, flip_rows, flip_columns
        True if an axis runs against the screen: slices count from feet, back or left on; rows from the top.
    sizes
        Voxels along the three axes of the image.
    spacing
        Millimetres between rows and between columns.
    left, right, top, bottom
        One or two of R L A P S I; empty if the image says nothing of the patient's sides.
    """

    plane: str
    axis: int
    rows: int
    columns: int
    flip_slices: bool
    flip_rows: bool
    flip_columns: bool
    sizes: tuple[int, int, int]
    spacing: tuple[float, float]
    left: str
    right: str
    top: str
    bottom: str

    @property
    def count(self) -> int:
        """How many slices there are."""
        return self.sizes[self.axis]

    def cut(self, image: Image, number: int, volume: int = 0) -> NDArray[Any]:
        """Give the stored values of a slice, (rows, columns) or (rows, columns, 3); a view, no copy.

        Parameters
        ----------
        image
            Of the sizes that the view was made for.
        number
            The slice, from 0 at feet, back or left.
        volume
            From 0.
        """
        picture = image.voxels[..., volume] if not image.is_colour else image.voxels[..., volume, :]
        place = self.count - 1 - number if self.flip_slices else number
        picture = picture[(slice(None),) * self.axis + (place,)]
        if self.rows > self.columns:
            picture = picture.swapaxes(0, 1)
        return picture[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]

    def to_screen(self, index: Sequence[float] | NDArray[np.float64]) -> tuple[float, float, float]:
        """Give (row, column, slice), not rounded, of a place in voxels."""
        return (
            self._turned(self.rows, float(index[self.rows]), is_flipped=self.flip_rows),
            self._turned(self.columns, float(index[self.columns]), is_flipped=self.flip_columns),
            self._turned(self.axis, float(index[self.axis]), is_flipped=self.flip_slices),
        )

    def to_index(self, row: float, column: float, number: float) -> tuple[float, float, float]:
        """Give the place in voxels, not rounded, of a pixel of a slice."""
        index = [0.0, 0.0, 0.0]
        index[self.rows] = self._turned(self.rows, row, is_flipped=self.flip_rows)
        index[self.columns] = self._turned(self.columns, column, is_flipped=self.flip_columns)
        index[self.axis] = self._turned(self.axis, number, is_flipped=self.flip_slices)
        return index[0], index[1], index[2]

    def _turned(self, axis: int, place: float, *, is_flipped: bool) -> float:
        return self.sizes[axis] - 1 - place if is_flipped else place


def plane_view(image: Image, plane: str, convention: str = CONVENTIONS[0], nose: str = NOSES[0]) -> PlaneView:
    """Choose how a plane of an image is turned: along the voxel axes that are nearest to those of anatomy.

    Head is up in coronal and sagittal planes, the front is up in axial ones.

    Raises
    ------
    ValueError
        If plane, convention or nose is none of those known.
    """
    if plane not in PLANES or convention not in CONVENTIONS or nose not in NOSES:
        raise ValueError(f"no view is called {plane}, {convention}, nose {nose}")
    return _view(
        plane, convention, nose, image.shape, tuple(map(tuple, image.affine[:3, :3].tolist())), image.is_placed
    )


@lru_cache(maxsize=256)
def _view(  # noqa: PLR0917 - the parts of a cache's key
    plane: str,
    convention: str,
    nose: str,
    sizes: tuple[int, int, int],
    matrix: tuple[tuple[float, ...], ...],
    is_placed: bool,  # noqa: FBT001 - a part of the cache's key
) -> PlaneView:
    directions = np.array(matrix)
    directions = directions / np.linalg.norm(directions, axis=0)
    along = nearest_axes(directions)  # RAS axis of each voxel axis
    voxel = {anatomy: axis for axis, anatomy in enumerate(along)}
    looked = _AXES[plane]
    # To the right of the screen and down it, as signed axes of RAS.
    sideways = -1.0 if convention == "radiological" else 1.0
    forwards = -1.0 if nose == "left" else 1.0
    across, down = {
        "axial": ((0, sideways), (1, -1.0)),
        "coronal": ((0, sideways), (2, -1.0)),
        "sagittal": ((1, forwards), (2, -1.0)),
    }[plane]
    axis, columns, rows = voxel[looked], voxel[across[0]], voxel[down[0]]
    flip_columns = directions[across[0], columns] * across[1] < 0
    flip_rows = directions[down[0], rows] * down[1] < 0
    right = directions[:, columns] * (-1 if flip_columns else 1)
    bottom = directions[:, rows] * (-1 if flip_rows else 1)
    letters = (side(-right), side(right), side(-bottom), side(bottom)) if is_placed else ("", "", "", "")
    spacing = np.linalg.norm(np.array(matrix), axis=0)
    return PlaneView(
        plane=plane,
        axis=axis,
        rows=rows,
        columns=columns,
        flip_slices=bool(directions[looked, axis] < 0),
        flip_rows=bool(flip_rows),
        flip_columns=bool(flip_columns),
        sizes=sizes,
        spacing=(float(spacing[rows]), float(spacing[columns])),
        left=letters[0],
        right=letters[1],
        top=letters[2],
        bottom=letters[3],
    )


def nearest_axes(directions: NDArray[np.float64]) -> tuple[int, int, int]:
    """Tell which RAS axis each voxel axis is nearest to, each one once: the assignment with the largest sum.

    Parameters
    ----------
    directions
        Three by three, a column a voxel axis, of length 1.
    """
    best, most = (0, 1, 2), -math.inf
    for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        total = sum(abs(float(directions[anatomy, axis])) for axis, anatomy in enumerate(order))
        if total > most + _ROUNDING:
            best, most = order, total
    return best


def side(direction: NDArray[np.float64]) -> str:
    """Name where a vector in RAS+ points, by the letters R L A P S I: the nearest first, at most two."""
    unit = np.asarray(direction, float) / np.linalg.norm(direction)
    order = sorted(range(3), key=lambda axis: (-round(abs(float(unit[axis])) / _ROUNDING), axis))
    named = [axis for place, axis in enumerate(order[:2]) if place == 0 or abs(unit[axis]) > _SECOND_LETTER]
    return "".join(_LETTERS[axis][0 if unit[axis] > 0 else 1] for axis in named)


# -- cuts at any angle -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Oblique:
    """A cut at any angle.

    Attributes
    ----------
    centre
        RAS+ millimetres of the picture's middle, of shape (3,).
    across, down
        Unit vectors in RAS+ to the right of the screen and down it; at right angles.
    spacing
        Millimetres between pixels, the same both ways.
    shape
        (rows, columns).
    thickness
        Of the slab, in millimetres; 0 for a plane.
    mode
        "mean", "max" or "min" through the slab.
    """

    centre: NDArray[np.float64]
    across: NDArray[np.float64]
    down: NDArray[np.float64]
    spacing: float = 1.0
    shape: tuple[int, int] = (256, 256)
    thickness: float = 0.0
    mode: str = "mean"
    normal: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        across = np.asarray(self.across, float) / np.linalg.norm(self.across)
        down = np.asarray(self.down, float)
        down = down - (down @ across) * across
        down = down / np.linalg.norm(down)
        for name, value in (("across", across), ("down", down), ("normal", np.cross(across, down))):
            object.__setattr__(self, name, value)

    @classmethod
    def through(
        cls,
        corner: NDArray[np.float64],
        *,
        across: NDArray[np.float64],
        down: NDArray[np.float64],
        shape: tuple[int, int],
    ) -> Grid:
        """Give the grid of a slice that exists: its first pixel's millimetres, and the steps to the next ones."""
        return Grid(
            corner=np.asarray(corner, float),
            across=np.asarray(across, float),
            down=np.asarray(down, float),
            shape=shape,
        )

    def grid(self) -> Grid:
        """Give the pixels' places."""
        rows, columns = self.shape
        across, down = self.across * self.spacing, self.down * self.spacing
        corner = self.centre - across * (columns - 1) / 2 - down * (rows - 1) / 2
        return Grid(corner=corner, across=across, down=down, shape=self.shape)

    def to_mm(self, row: float, column: float) -> NDArray[np.float64]:
        """Give the RAS+ millimetres of a pixel."""
        grid = self.grid()
        return np.asarray(grid.corner + grid.across * column + grid.down * row)

    def to_pixel(self, place: NDArray[np.float64]) -> tuple[float, float]:
        """Give (row, column), not rounded, of a place in RAS+ millimetres, or of the point of the cut nearest to it."""
        offset = np.asarray(place, float) - self.centre
        rows, columns = self.shape
        return (
            float(offset @ self.down) / self.spacing + (rows - 1) / 2,
            float(offset @ self.across) / self.spacing + (columns - 1) / 2,
        )

    def rotated(self, axis: str, degrees: float) -> Oblique:
        """Turn about one of its own axes through the centre: "across", "down" or "normal"."""
        about = {"across": self.across, "down": self.down, "normal": self.normal}[axis]
        turn = rotation(about, math.radians(degrees))
        return replace(self, across=turn @ self.across, down=turn @ self.down)

    def moved(self, millimetres: float) -> Oblique:
        """Move along the normal."""
        return replace(self, centre=self.centre + millimetres * self.normal)

    def coarser(self, factor: int) -> Oblique:
        """Show the same with fewer pixels."""
        rows, columns = self.shape
        fewer = max(rows // factor, 1)
        spacing = self.spacing * rows / fewer
        return replace(self, spacing=spacing, shape=(fewer, max(round(columns * fewer / rows), 1)))

    @property
    def key(self) -> tuple[object, ...]:
        """Tells equal cuts."""
        places = self.centre.tobytes() + self.across.tobytes() + self.down.tobytes()
        return places, self.spacing, self.shape, self.thickness, self.mode

    def letters(self) -> tuple[str, str, str, str]:
        """Name the sides at the left, right, top and bottom border."""
        return side(-self.across), side(self.across), side(-self.down), side(self.down)

    def name(self) -> str:
        """Name the plane that it is nearest to, and its angle to it in degrees."""
        axis = int(np.argmax(np.abs(self.normal)))
        plane = next(name for name, looked in _AXES.items() if looked == axis)
        angle = math.degrees(math.acos(min(abs(float(self.normal[axis])), 1.0)))
        return f"{plane} {angle:+.0f}°" if angle >= 0.5 else plane


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Grid:
    """Places of pixels: millimetres of the first one, and the steps to the next column and row, all of shape (3,)."""

    corner: NDArray[np.float64]
    across: NDArray[np.float64]
    down: NDArray[np.float64]
    shape: tuple[int, int]


def rotation(axis: NDArray[np.float64], radians: float) -> NDArray[np.float64]:
    """Give the matrix that turns about an axis, by the right hand (Rodrigues' formula)."""
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.asarray(np.eye(3) + math.sin(radians) * cross + (1 - math.cos(radians)) * cross @ cross)


def oblique_like(image: Image, view: PlaneView, centre: NDArray[np.float64], *, pixels: int = 512) -> Oblique:
    """Make a cut that shows what a view shows, wide enough for the image at any angle.

    Parameters
    ----------
    pixels
        Along each side. They are never finer than a third of the image's finest voxels.
    """
    origin, right, below = (image.to_mm(view.to_index(row, column, 0)) for row, column in ((0, 0), (0, 1), (1, 0)))
    extent = [size * step for size, step in zip(image.shape, image.spacing, strict=True)]
    # What sticks out at the corners of a cut at 45 degrees is air.
    longest = 1.15 * max(extent)
    finest = min(
        step for size, step in zip(image.shape, image.spacing, strict=True) if size > 1 or max(image.shape) == 1
    )
    side_pixels = max(1, min(pixels, math.ceil(3 * longest / finest)))
    return Oblique(
        centre=np.asarray(centre, float),
        across=right - origin,
        down=below - origin,
        spacing=longest / side_pixels,
        shape=(side_pixels, side_pixels),
    )


def sample(
    image: Image, volume: int, cut: Oblique | Grid, *, order: int = 1, fill: float | None = None
) -> NDArray[Any]:
    """Give the stored values along a cut.

    Parameters
    ----------
    order
        1 between the eight nearest voxels, 0 the nearest voxel.
    fill
        What stands outside the image, as a stored value; None for what is no number, which is painted black (0 where
        the type has no such thing).

    Returns
    -------
    array
        (rows, columns[, 3]): float32, or the stored type for order 0 and for colour. A place belongs to the image up
        to half a voxel beyond the outermost centres; there the border's value holds.
    """
    block = image.voxels[..., volume, :] if image.is_colour else image.voxels[..., volume]
    outside = (0.0 if order == 0 or image.is_colour else math.nan) if fill is None else fill
    grid = cut.grid() if isinstance(cut, Oblique) else cut
    shifts: list[float] = [0.0]
    mode = "mean"
    normal = np.cross(grid.across, grid.down)
    if isinstance(cut, Oblique) and cut.thickness > 0:
        # A sample each finest voxel through the slab, its ends included.
        count = max(2, min(64, math.ceil(cut.thickness / min(image.spacing)) + 1))
        shifts = list(np.linspace(-cut.thickness / 2, cut.thickness / 2, count))
        mode, normal = cut.mode, cut.normal
    inverse = np.linalg.inv(image.affine)
    steps = np.stack([inverse[:3, :3] @ grid.down, inverse[:3, :3] @ grid.across])
    layers = []
    for shift in shifts:
        start = inverse[:3, :3] @ (grid.corner + shift * normal) + inverse[:3, 3]
        layers.append(_sample_plane(block, start, steps, grid.shape, order, outside))
    values = layers[0] if len(layers) == 1 else _through(layers, mode)
    if image.is_colour and values.dtype != np.uint8:
        values = np.clip(np.nan_to_num(values) + 0.5, 0, 255).astype(np.uint8)
    return values


def _through(layers: list[NDArray[Any]], mode: str) -> NDArray[Any]:
    """Put the layers of a slab together; a place that lies outside the image in some of them is that of the others."""
    if mode in ("max", "min"):
        choose = np.fmax if mode == "max" else np.fmin
        total = layers[0].copy()
        for layer in layers[1:]:
            choose(total, layer, out=total)
        return total
    total, counts = np.zeros(layers[0].shape, np.float32), np.zeros(layers[0].shape, np.float32)
    for layer in layers:
        known = ~np.isnan(layer) if layer.dtype.kind == "f" else np.ones(layer.shape, bool)
        np.add(total, layer, out=total, where=known)
        counts += known
    with np.errstate(invalid="ignore"):
        return np.asarray(total / counts)


def _sample_plane(  # noqa: PLR0917 - in the order of its formula
    block: NDArray[Any],
    start: NDArray[np.float64],
    steps: NDArray[np.float64],
    shape: tuple[int, int],
    order: int,
    outside: float,
) -> NDArray[Any]:
    """Sample one plane: place in voxels = start + row * steps[0] + column * steps[1]."""
    rows, columns = shape
    down, across = np.arange(rows, dtype=np.float64)[:, None], np.arange(columns, dtype=np.float64)[None, :]
    flat, strides = _flat(block)
    size = block.shape[:3]
    colour = block.shape[3:]
    inside = np.ones(shape, bool)
    places = []
    for axis in range(3):
        place = (start[axis] + down * steps[0, axis]) + across * steps[1, axis]
        inside &= (place >= -0.5 - _ROUNDING) & (place <= size[axis] - 0.5 + _ROUNDING)
        places.append(place)
    if order == 0:
        offset = np.zeros(shape, np.intp)
        for axis, place in enumerate(places):
            nearest = np.floor(place + 0.5).astype(np.intp)
            np.clip(nearest, 0, size[axis] - 1, out=nearest)
            offset += nearest * strides[axis]
        found = flat[offset]
        found[~inside] = outside
        return found
    values = np.full((*shape, *colour), outside, np.float32)
    chosen = np.flatnonzero(inside)
    if not chosen.size:
        return values
    lower, parts, steps_up = np.zeros(chosen.size, np.intp), [], []
    for axis, place in enumerate(places):
        wanted = place.ravel()[chosen]
        np.clip(wanted, 0, size[axis] - 1, out=wanted)
        base = np.minimum(wanted.astype(np.intp), max(size[axis] - 2, 0))
        lower += base * strides[axis]
        parts.append((wanted - base).astype(np.float32))
        steps_up.append(strides[axis] if size[axis] > 1 else 0)
    result = _blend_corners(flat, lower, parts, steps_up)
    values.reshape(-1, *colour)[chosen] = result
    return values


def _blend_corners(
    flat: NDArray[Any], lower: NDArray[np.intp], parts: list[NDArray[np.float32]], up: list[int]
) -> NDArray[np.float32]:
    """Weigh the eight corners, an axis after the other."""
    first, second, third = (part if flat.ndim == 1 else part[:, None] for part in parts)

    def along_first(offset: int) -> NDArray[np.float32]:
        one = flat.take(lower + offset, axis=0).astype(np.float32)
        if not up[0]:
            return np.asarray(one)
        other = flat.take(lower + (offset + up[0]), axis=0).astype(np.float32)
        other -= one
        other *= first
        other += one
        return np.asarray(other)

    def along_second(offset: int) -> NDArray[np.float32]:
        one = along_first(offset)
        if not up[1]:
            return one
        other = along_first(offset + up[1])
        other -= one
        other *= second
        other += one
        return other

    one = along_second(0)
    if not up[2]:
        return one
    other = along_second(up[2])
    other -= one
    other *= third
    other += one
    return other


def _flat(block: NDArray[Any]) -> tuple[NDArray[Any], tuple[int, int, int]]:
    """Give the voxels as one row in memory order without copying, and how far apart neighbours of each axis lie.

    A block whose voxels do not lie next to each other is copied once.
    """
    if block.ndim == 4:
        turned = block.transpose(2, 1, 0, 3)
        if not turned.flags.c_contiguous:
            turned = np.ascontiguousarray(turned)
        return turned.reshape(-1, 3), (1, block.shape[0], block.shape[0] * block.shape[1])
    if block.transpose(2, 1, 0).flags.c_contiguous:
        return block.transpose(2, 1, 0).reshape(-1), (1, block.shape[0], block.shape[0] * block.shape[1])
    straight = np.ascontiguousarray(block)
    return straight.reshape(-1), (block.shape[1] * block.shape[2], block.shape[2], 1)
