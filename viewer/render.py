"""Pictures of an image as files, without a window: three planes, a cut at any angle, a run through time or slices."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from tasks.errors import MissingPackageError
from tasks.files import write_atomically
from viewer.display import Display, Habits, Picture, Shown
from viewer.reslice import PLANES
from viewer.windowing import measure

if TYPE_CHECKING:
    from viewer.image import Image

KINDS: Final = {
    "mosaic": "the slices side by side",
    "ortho": "three planes through one place",
    "oblique": "a cut at any angle",
    "gif": "the volumes one after the other, or the slices of a single volume",
}
"""What can be drawn."""

_MARGIN = 4
_TEXT, _CAPTION, _CROSS = (255, 255, 255), (200, 200, 200), (86, 180, 233)
_FRAME_MS = 80
_MOST_FRAMES = 400
_MOST_SLICES, _ACROSS = 48, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How an image is to be drawn.

    Attributes
    ----------
    at
        RAS+ millimetres that the planes go through; None for the image's middle.
    turn, tilt, spin
        Degrees by which the cut is turned to the right, tilted forwards, and spun in its own plane, out of the axial
        plane.
    slab_mm, slab_mode
        How thick the cut is, and "mean", "max" or "min" through it.
    window
        Lowest and highest value that is told apart; None for what suits the image.
    volume
        Zero-based.
    convention
        "radiological" or "neurological".
    height
        Pixels of each plane from top to bottom.
    """

    at: tuple[float, float, float] | None = None
    turn: float = 0.0
    tilt: float = 0.0
    spin: float = 0.0
    slab_mm: float = 0.0
    slab_mode: str = "mean"
    window: tuple[float, float] | None = None
    volume: int = 0
    convention: str = "radiological"
    height: int = 400


def draw(image: Image, kind: str, look: Look | None = None, *, title: str = "") -> bytes:
    """Draw an image.

    Parameters
    ----------
    kind
        A key of `KINDS`; "gif" gives an animation, the others a PNG file.
    title
        Stands above the picture.

    Returns
    -------
    bytes
        Of the file; equal images and looks give equal bytes.

    Raises
    ------
    MissingPackageError
        If Pillow is not installed.
    """
    look = look or Look()
    display = _display(image, look)
    if kind == "gif":
        return _gif(_frames(display, look.height))
    if kind == "oblique":
        display.slab_mm, display.slab_mode = look.slab_mm, look.slab_mode
        for axis, degrees in (("down", look.turn), ("across", look.tilt), ("normal", look.spin)):
            if degrees:
                display.turn_cut(axis, degrees)
        pictures = [display.cut_picture()]
    elif kind == "mosaic":
        sheets = [_sheet(one, look.height // 2, has_cross=False) for one in display.lightbox(_MOST_SLICES)]
        return _png(_below([_beside(sheets[at : at + _ACROSS]) for at in range(0, len(sheets), _ACROSS)], title))
    else:
        pictures = [display.picture(plane) for plane in PLANES]
    return _png(_below([_beside([_sheet(one, look.height, has_cross=kind == "ortho") for one in pictures])], title))


def render(image: Image, path: Path, kind: str, look: Look | None = None, *, title: str = "") -> None:
    """Draw an image to a file, which is replaced if it is there.

    Raises
    ------
    MissingPackageError, DiskFullError, WorkspaceError
        If Pillow is not installed, or the file system refuses.
    """
    write_atomically(path, draw(image, kind, look, title=title))


def _display(image: Image, look: Look) -> Display:
    display = Display(Habits(convention=look.convention, layout="ortho"))
    display.show([Shown(image=image, statistics=measure(image))])
    if look.at is not None:
        display.look_at_place(look.at)
    if look.window is not None:
        display.set_window(*look.window)
    display.step_volume(look.volume)
    return display


def _frames(display: Display, height: int) -> Iterable[Any]:
    """Draw every volume of the active plane, or every slice where there is but one volume."""
    volumes = display.image.volumes
    count = volumes if volumes > 1 else display.view(display.plane).count
    chosen = sorted({round(one) for one in np.linspace(0, count - 1, min(count, _MOST_FRAMES))})
    for number in chosen:
        if volumes > 1:
            display.volume = number
        else:
            display.step(number - display.slice_number(display.plane))
        picture = display.picture(display.plane)
        yield _sheet(picture, height, has_cross=False, more=f"volume {number + 1}/{volumes}" if volumes > 1 else "")


# -- Pillow ------------------------------------------------------------------------------------------------------------


def _pillow() -> tuple[Any, Any, Any]:
    try:
        from PIL import Image, ImageDraw, ImageFont  # noqa: PLC0415 - pictures are an extra
    except ImportError:
        raise MissingPackageError(purpose="Drawing pictures", package="Pillow", extra="review") from None
    return Image, ImageDraw, ImageFont


def _colours(pixels: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """Turn 0xffRRGGBB into red, green, blue."""
    return np.stack([(pixels >> shift & 0xFF).astype(np.uint8) for shift in (16, 8, 0)], axis=-1)


def _sheet(picture: Picture, height: int, *, has_cross: bool, more: str = "") -> Any:
    """Draw a plane in true proportions with its letters and its caption."""
    images, drawing, fonts = _pillow()
    rows, columns = picture.pixels.shape
    across = columns * picture.spacing[1] / (rows * picture.spacing[0])
    # What is far wider than high is made no wider than six times the height, so that no image makes a huge file.
    factor = min(1.0, 6.0 / across)
    high, wide = max(1, round(height * factor)), max(1, round(height * across * factor))
    sheet = images.fromarray(_colours(picture.pixels)).resize((wide, high), images.Resampling.BILINEAR)
    pen, font = drawing.Draw(sheet), fonts.load_default_imagefont()
    if has_cross:
        row, column = picture.cross
        x, y = (column + 0.5) / columns * wide, (row + 0.5) / rows * high
        gap = 8
        for line in ((0, y, x - gap, y), (x + gap, y, wide, y), (x, 0, x, y - gap), (x, y + gap, x, high)):
            if line[0] <= line[2] and line[1] <= line[3]:
                pen.line(tuple(round(one) for one in line), fill=_CROSS)

    def write(text: str, x: float, y: float, colour: tuple[int, int, int]) -> None:
        """Write around a place: 0 is the left or upper border, 1 the right or lower one."""
        _, _, width, size = pen.textbbox((0, 0), text, font=font)
        left = round(_MARGIN + x * (wide - 2 * _MARGIN - width))
        upper = round(_MARGIN + y * (high - 2 * _MARGIN - size))
        for shift in (1, 0):
            pen.text((left + shift, upper + shift), text, font=font, fill=(0, 0, 0) if shift else colour)

    for text, x, y, colour in (
        (picture.left, 0, 0.5, _TEXT),
        (picture.right, 1, 0.5, _TEXT),
        (picture.top, 0.5, 0, _TEXT),
        (picture.bottom, 0.5, 1, _TEXT),
        (picture.caption, 0, 0, _CAPTION),
        (more, 0, 1, _CAPTION),
    ):
        if text:
            write(text, x, y, colour)
    return sheet


def _beside(sheets: Sequence[Any]) -> Any:
    """Put planes side by side on black, their middles at one height."""
    images, _, _ = _pillow()
    high = max(one.height for one in sheets)
    whole = images.new("RGB", (sum(one.width for one in sheets) + _MARGIN * (len(sheets) - 1), high))
    left = 0
    for one in sheets:
        whole.paste(one, (left, (high - one.height) // 2))
        left += one.width + _MARGIN
    return whole


def _below(rows: Sequence[Any], title: str) -> Any:
    """Put rows of planes one below the other, under a title."""
    images, drawing, fonts = _pillow()
    upper = 20 if title else 0
    size = (max(one.width for one in rows), upper + sum(one.height + _MARGIN for one in rows) - _MARGIN)
    whole = images.new("RGB", size)
    if title:
        drawing.Draw(whole).text((_MARGIN, _MARGIN), title, font=fonts.load_default_imagefont(), fill=_CAPTION)
    for one in rows:
        whole.paste(one, (0, upper))
        upper += one.height + _MARGIN
    return whole


def _png(sheet: Any) -> bytes:
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    return stream.getvalue()


def _gif(frames: Iterable[Any]) -> bytes:
    images, _, _ = _pillow()
    grey = [frame.convert("L") for frame in frames]
    stream = io.BytesIO()
    # One palette for all frames: greys stay the greys that they are.
    first, *rest = [images.frombytes("P", one.size, one.tobytes()) for one in grey]
    palette = bytes(level for level in range(256) for _ in range(3))
    for one in (first, *rest):
        one.putpalette(palette)
    first.save(stream, "GIF", save_all=True, append_images=rest, duration=_FRAME_MS, loop=0, optimize=False)
    return stream.getvalue()
