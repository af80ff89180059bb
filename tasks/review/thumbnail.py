"""Draw a series into a picture so small that thousands of them fit on one page.

The middle slice stands large, and beside it those at a quarter and three quarters of the way: enough to tell one kind
of series from another, an empty one from a whole one, and a head that lies askew. The same volume gives the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import MissingPackageError
from tasks.files import make_folder, write_atomically
from tasks.review.montage import Tile, arrange_tiles, robust_window, shown
from tasks.review.volume import Volume

if TYPE_CHECKING:
    from PIL import Image

WIDTH, HEIGHT = 160, 120
"""The picture fits into so many pixels; it is as small as what it shows."""

MOST_BYTES = 6000
"""No thumbnail is larger: fewer shades are used until it is not."""

SHADES = (64, 48, 32, 24, 16, 12, 8, 4, 2)
"""How many shades are tried, of grey or colour; two always suffice."""

_GAP = 2


def compose_thumbnail(volume: Volume) -> bytes:
    """Draw a volume's middle slices into a small PNG picture.

    Parameters
    ----------
    volume
        With at least one plane that could be decoded.

    Returns
    -------
    bytes
        A PNG file with a palette, at most `MOST_BYTES` long.

    Raises
    ------
    MissingPackageError
        If Pillow is not installed.
    ValueError
        If no plane could be decoded.
    """
    try:
        from PIL import Image  # noqa: PLC0415 - pictures are an extra
    except ImportError:
        raise MissingPackageError(purpose="Drawing pictures", package="Pillow", extra="review") from None
    tiles = [tile for tile in arrange_tiles(volume) if tile.image is not None]
    if not tiles:
        raise ValueError("there is nothing to draw")
    chosen = [tiles[len(tiles) // 2]]
    if len(tiles) >= 4:
        chosen += [tiles[len(tiles) // 4], tiles[(3 * len(tiles)) // 4]]
    boxes = _boxes(chosen)
    window = (0.0, 255.0) if volume.is_colour else robust_window(volume.images, volume.padding)
    right, bottom = (max(box[axis] + box[axis + 2] for box in boxes) for axis in range(2))
    sheet = Image.new("RGB" if volume.is_colour else "L", (right, bottom))
    for tile, (left, top, width, height) in zip(chosen, boxes, strict=True):
        assert tile.image is not None
        picture = tile.image if volume.is_colour else shown(tile.image, window, inverted=volume.inverted)
        drawn = Image.fromarray(np.ascontiguousarray(picture))
        sheet.paste(drawn.resize((width, height), Image.Resampling.BILINEAR), (left, top))
    return _smallest(sheet)


def render_thumbnail(volume: Volume, path: Path) -> None:
    """Draw a volume's middle slices into a small PNG file, written whole or not at all.

    Parameters
    ----------
    volume
        As for `compose_thumbnail`.
    path
        The file; its folder is made if needed.

    Raises
    ------
    MissingPackageError, ValueError
        As `compose_thumbnail`.
    DiskFullError, WorkspaceError
        If the file cannot be written.
    """
    content = compose_thumbnail(volume)
    make_folder(path.parent)
    write_atomically(path, content)


def _boxes(tiles: Sequence[Tile]) -> list[tuple[int, int, int, int]]:
    """Place the middle slice, and two of half its size in a column at its right: (left, top, width, height)."""
    wide, high = max(tile.width for tile in tiles), max(tile.height for tile in tiles)
    if len(tiles) == 1:
        scale = min(WIDTH / wide, HEIGHT / high)
        return [(0, 0, _pixels(wide * scale, WIDTH), _pixels(high * scale, HEIGHT))]
    scale = min((WIDTH - _GAP) / (1.5 * wide), HEIGHT / high)
    boxes = []
    column, half = round(wide * scale) + _GAP, round(high * scale / 2)
    for place, tile in enumerate(tiles):
        share = scale if place == 0 else scale / 2
        left, top = (0, 0) if place == 0 else (column, (place - 1) * half)
        boxes.append((left, top, _pixels(tile.width * share, WIDTH - left), _pixels(tile.height * share, HEIGHT - top)))
    return boxes


def _pixels(length: float, most: int) -> int:
    return max(1, min(round(length), most))


def _smallest(sheet: Image.Image) -> bytes:
    """Write as PNG with as many shades as fit."""
    content = b""
    for shades in SHADES:
        stream = io.BytesIO()
        _with_shades(sheet, shades).save(stream, format="PNG", optimize=True)
        content = stream.getvalue()
        if len(content) <= MOST_BYTES:
            break
    return content


def _with_shades(sheet: Image.Image, shades: int) -> Image.Image:
    from PIL import Image  # noqa: PLC0415 - pictures are an extra

    if sheet.mode == "RGB":
        return sheet.quantize(shades, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    grey: NDArray[Any] = np.asarray(sheet).astype(np.uint16)
    reduced = Image.fromarray(((grey * (shades - 1) + 127) // 255).astype(np.uint8)).convert("L")
    indexed = Image.frombytes("P", reduced.size, reduced.tobytes())
    indexed.putpalette([round(one * 255 / (shades - 1)) for one in range(shades) for _ in range(3)])
    return indexed
