"""Draw all slices of a volume into one picture, turned the way radiologists look at them.

Only this module uses Pillow, and only when a picture is drawn. The same volume gives the same bytes: nothing of the
machine or the moment goes in, and letters come from a fixed bitmap font.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import MissingPackageError
from tasks.files import make_folder, write_atomically
from tasks.review.finding import counted
from tasks.review.view import View, standard_view
from tasks.review.volume import Volume

if TYPE_CHECKING:
    from PIL import Image, ImageFont

WIDEST = 1920
"""The picture aims at this width in pixels; it grows beyond only when the smallest tiles would not fit."""

LARGEST_TILE = 256
"""Longest side of a tile in pixels when there are few slices."""

SMALLEST_TILE = 48
"""Longest side of a tile in pixels when there are very many: below this nothing can be recognised."""

WINDOW_PERCENTILES = (1.0, 99.0)
"""The darkest and the brightest value shown, as percentiles of all values that are neither zero nor padding."""

MOST_SAMPLES = 1 << 21
"""How many voxels are looked at for the window; more are thinned out evenly."""

BORDER = 26
"""Pixels around the tiles that hold the side letters, two of them beside each other at most."""

NUMBERED_FROM = 64
"""Tiles narrower than this get no slice number: it would cover too much of the picture."""

_LINE = 13  # pixels from one line of text to the next
_GAP = 2  # pixels between tiles


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tile:
    """One slice, turned and ready to be drawn.

    Attributes
    ----------
    image
        (rows, columns) or (rows, columns, 3) after turning; None if it could not be decoded.
    width, height
        Millimetres, or pixels where the spacing is unknown.
    view
        How it was turned; None if its orientation is not known.
    """

    image: NDArray[Any] | None
    width: float
    height: float
    view: View | None


def arrange_tiles(volume: Volume) -> list[Tile]:
    """Turn every slice of the first volume, and bring them into the order in which they are looked at.

    Parallel slices go from the patient's right to left, front to back, or feet to head, however they are stored;
    single planes stay in the order of the series.

    Returns
    -------
    list of Tile
        One for each plane, undecodable ones included.
    """
    tiles = []
    for image, plane in zip(volume.images, volume.planes, strict=True):
        rows_apart, columns_apart = plane.pixel_spacing or (1.0, 1.0)
        view = None if plane.orientation is None else standard_view(plane.orientation)
        rows, columns = plane.rows, plane.columns
        if view is not None:
            image = None if image is None else view.turn(image)  # noqa: PLW2901 - the turned one is the one meant
            rows_apart, columns_apart = view.turned_spacing((rows_apart, columns_apart))
            rows, columns = (columns, rows) if view.transpose else (rows, columns)
        tiles.append(Tile(image=image, width=columns * columns_apart, height=rows * rows_apart, view=view))
    parallel = volume.geometry.verdict in ("volume", "stack")
    return tiles[::-1] if parallel and tiles and tiles[0].view and tiles[0].view.reverse_slices else tiles


def robust_window(images: Sequence[NDArray[Any] | None], padding: float | None = None) -> tuple[float, float]:
    """Choose the darkest and the brightest value to show.

    Parameters
    ----------
    images
        Grey slices.
    padding
        A value that means "not measured" and is left out, as zero is.

    Returns
    -------
    (low, high)
        With high > low, whatever the values are.
    """
    present = [image for image in images if image is not None and image.ndim == 2]
    total = sum(image.size for image in present)
    thin = max(1, math.ceil(total / MOST_SAMPLES))
    # Whole rows are thinned: a stride over single voxels could fall in step with the row length.
    samples = [image[::thin].ravel() for image in present]
    values = np.concatenate(samples).astype(np.float32) if samples else np.zeros(0, np.float32)
    values = values[np.isfinite(values) & (values != 0)]
    if padding is not None:
        values = values[values != np.float32(padding)]
    if not values.size:
        return 0.0, 1.0
    low, high = (float(one) for one in np.percentile(values, WINDOW_PERCENTILES))
    if high <= low:
        # One value only, as in a mask: let zero be black and the value white.
        low, high = (min(low, 0.0), max(high, 0.0))
    return (low, high) if high > low else (low, low + 1.0)


def shown(image: NDArray[Any], window: tuple[float, float], *, inverted: bool = False) -> NDArray[np.uint8]:
    """Map values to grey: the window's low end to 0, its high end to 255; not a number is black."""
    low, high = window
    with np.errstate(all="ignore"):
        grey = (image.astype(np.float32) - np.float32(low)) * np.float32(255.0 / (high - low))
        mapped = np.nan_to_num(np.clip(np.rint(grey), 0, 255), nan=0.0).astype(np.uint8)
    return np.asarray(255 - mapped, dtype=np.uint8) if inverted else mapped


def compose_montage(volume: Volume, *, title: str = "", numbers: bool = True) -> bytes:
    """Draw a volume's slices into a PNG picture.

    Parameters
    ----------
    volume
        With at least one plane that could be decoded.
    title
        First words of the caption; must identify nobody.
    numbers
        Whether tiles carry slice numbers, counted from 1 in the order shown.

    Returns
    -------
    bytes
        A PNG file, grey, or in colour if the volume is.

    Raises
    ------
    MissingPackageError
        If Pillow is not installed.
    ValueError
        If no plane could be decoded.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont  # noqa: PLC0415 - pictures are an extra
    except ImportError:
        raise MissingPackageError(purpose="Drawing pictures", package="Pillow", extra="review") from None
    tiles = arrange_tiles(volume)
    if all(tile.image is None for tile in tiles):
        raise ValueError("there is nothing to draw")
    colour = volume.is_colour
    mode, white, dim = ("RGB", (255, 255, 255), (150, 150, 150)) if colour else ("L", 255, 150)
    scale, side = _scale(tiles)
    sizes = [(max(1, round(tile.width * scale)), max(1, round(tile.height * scale))) for tile in tiles]
    wide, high = max(size[0] for size in sizes), max(size[1] for size in sizes)
    across = _tiles_across(len(tiles), wide, high)
    down = math.ceil(len(tiles) / across)
    lines = [one for one in (title, _caption(volume), _faults(volume)) if one]
    font = ImageFont.load_default_imagefont()
    text_width = max((round(font.getlength(line)) for line in lines), default=0) + 2 * BORDER
    width = max(2 * BORDER + across * (wide + _GAP) - _GAP, text_width)
    height = 2 * BORDER + down * (high + _GAP) - _GAP + _LINE * len(lines) + 4
    sheet = Image.new(mode, (width, height))
    draw = ImageDraw.Draw(sheet)
    window = (0.0, 255.0) if colour else robust_window(volume.images, volume.padding)
    common, letters = _common_view(tiles), _Letters(sheet=sheet, font=font, fill=white)
    for place, (tile, size) in enumerate(zip(tiles, sizes, strict=True)):
        left = BORDER + (place % across) * (wide + _GAP) + (wide - size[0]) // 2
        top = BORDER + (place // across) * (high + _GAP) + (high - size[1]) // 2
        if tile.image is None:
            draw.line([(left, top), (left + size[0] - 1, top + size[1] - 1)], fill=dim)
            draw.line([(left, top + size[1] - 1), (left + size[0] - 1, top)], fill=dim)
            draw.rectangle([(left, top), (left + size[0] - 1, top + size[1] - 1)], outline=dim)
        else:
            grey = tile.image if colour else shown(tile.image, window, inverted=volume.inverted)
            picture = Image.fromarray(np.ascontiguousarray(grey))
            sheet.paste(picture.resize(size, Image.Resampling.BILINEAR), (left, top))
        if numbers and wide >= NUMBERED_FROM and len(tiles) > 1:
            letters.stamp(str(place + 1), (left + 2, top + 1), times=1, fill=dim)
        if common is None and tile.view is not None and side >= NUMBERED_FROM:
            letters.write(tile.view, (left + 1, top + 1, left + size[0] - 1, top + size[1] - 1), times=1)
    if common is not None:
        frame = (1, 1, 2 * BORDER + across * (wide + _GAP) - _GAP - 1, 2 * BORDER + down * (high + _GAP) - _GAP - 1)
        letters.write(common, frame, times=2)
    for row, line in enumerate(lines):
        draw.text((BORDER, height - _LINE * (len(lines) - row) - 2), line, fill=white, font=font)
    return _png(sheet)


def render_montage(volume: Volume, path: Path, *, title: str = "", numbers: bool = True) -> None:
    """Draw a volume's slices into a PNG file, written whole or not at all.

    Parameters
    ----------
    volume, title, numbers
        As for `compose_montage`.
    path
        The file; its folder is made if needed.

    Raises
    ------
    MissingPackageError, ValueError
        As `compose_montage`.
    DiskFullError, WorkspaceError
        If the file cannot be written.
    """
    content = compose_montage(volume, title=title, numbers=numbers)
    make_folder(path.parent)
    write_atomically(path, content)


def _scale(tiles: Sequence[Tile]) -> tuple[float, int]:
    """Return screen pixels per millimetre, the same for all tiles, and the longest side this gives."""
    # A square grid of tiles is the widest that is ever needed.
    side = int(WIDEST / math.ceil(math.sqrt(len(tiles)))) - _GAP
    side = min(LARGEST_TILE, max(SMALLEST_TILE, side))
    longest = max(max(tile.width, tile.height) for tile in tiles)
    return side / longest, side


def _tiles_across(count: int, wide: int, high: int) -> int:
    """Choose how many tiles stand in a row so that the whole is about as wide as a screen (4:3)."""
    ideal = math.sqrt(count * high / wide * 4 / 3)
    fitting = max(1, (WIDEST + _GAP) // (wide + _GAP))
    return max(1, min(count, round(ideal), max(fitting, math.ceil(math.sqrt(count)))))


def _common_view(tiles: Sequence[Tile]) -> View | None:
    views = {tile.view for tile in tiles}
    return views.pop() if len(views) == 1 else None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Letters:
    sheet: Image.Image
    font: ImageFont.ImageFont
    fill: int | tuple[int, int, int]

    def write(self, view: View, frame: tuple[int, int, int, int], *, times: int) -> None:
        """Write each side's letters inside its border of a frame, `times` the size of the font."""
        left, top, right, bottom = frame
        middle, centre = (left + right) // 2, (top + bottom) // 2
        for text, x, y in (
            (view.left, left, centre),
            (view.right, right, centre),
            (view.top, middle, top),
            (view.bottom, middle, bottom),
        ):
            width, height = self._mask(text, times).size
            place = (min(max(left, x - width // 2), right - width), min(max(top, y - height // 2), bottom - height))
            self.stamp(text, place, times=times, fill=self.fill)

    def stamp(self, text: str, place: tuple[int, int], *, times: int, fill: int | tuple[int, int, int]) -> None:
        """Write a text with a thin black rim, so that it can be read on any picture."""
        mask = self._mask(text, times)
        x, y = place
        for right, down in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            self.sheet.paste(0 if self.sheet.mode == "L" else (0, 0, 0), (x + right, y + down), mask)
        self.sheet.paste(fill, (x, y), mask)

    def _mask(self, text: str, times: int) -> Image.Image:
        from PIL import Image, ImageDraw  # noqa: PLC0415 - pictures are an extra

        width, height = (round(one) for one in self.font.getbbox(text)[2:])
        mask = Image.new("L", (width, height))
        ImageDraw.Draw(mask).text((0, 0), text, fill=255, font=self.font)
        # Enlarging the fixed font needs no font file, and its pixels are the same everywhere.
        return mask.resize((width * times, height * times), Image.Resampling.NEAREST)


def _caption(volume: Volume) -> str:
    plane, geometry = volume.planes[0], volume.geometry
    if geometry.shape is None:
        sizes = {(one.columns, one.rows) for one in volume.planes}
        return f"{counted(len(volume.planes), 'plane')}, " + (
            f"{plane.columns} x {plane.rows} pixels" if len(sizes) == 1 else "of several sizes"
        )
    size, spacing = (plane.rows, plane.columns), plane.pixel_spacing
    view = None if plane.orientation is None else standard_view(plane.orientation)
    if view is not None and view.transpose:
        # The caption gives width before height as they are seen, not as they are stored.
        size, spacing = size[::-1], spacing[::-1] if spacing else None
    between = geometry.spacing[0]
    known = [f"{one:.2f}" if one is not None else "?" for one in (*(spacing or (None, None))[::-1], between)]
    parts = [f"{size[1]} x {size[0]} x {geometry.shape[1]} voxels", " x ".join(known) + " mm"]
    if view is not None:
        parts.append(view.plane)
    if volume.count > 1:
        parts.append(f"the first of {volume.count} volumes")
    if any(one.code == "assumed-mosaic" for one in geometry.findings):
        parts.append("slice order assumed")
    return ", ".join(parts)


def _faults(volume: Volume) -> str:
    found = (*volume.geometry.findings, *volume.problems)
    codes = sorted({one.code for one in found if one.is_fault})
    return f"Look at: {', '.join(codes)}" if codes else ""


def _png(sheet: Image.Image) -> bytes:
    stream = io.BytesIO()
    sheet.save(stream, format="PNG", compress_level=6)
    return stream.getvalue()
