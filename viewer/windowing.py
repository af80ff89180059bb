"""From stored values to colours on screen: what is black, what is white, and what suits an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewer.image import Image

COLOUR_MAPS = ("grey", "hot", "cividis-like")
"""Grey; black over red and yellow to white; and blue over grey to yellow, which every colour vision sees alike."""

OVERLAY_COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
"""Colours of an overlay's labels, 1 first and over again: Okabe and Ito's set, which is safe for any colour vision."""

_BINS = 256
_SAMPLES = 1 << 18
_ALPHA = np.uint32(0xFF000000)
_ROBUST = (2.0, 99.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What is black and what is white, in values (after slope and intercept)."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Statistics:
    """What is known of an image's values, without padding and what is no number.

    Attributes
    ----------
    minimum, maximum
        Of a sample of the voxels, values.
    counts, edges
        How often values occur: 256 counts between 257 edges.
    robust
        The window that suits it: from the 2nd to the 99.5th percentile of what is not empty.
    is_signed
        True if values may lie on both sides of zero by nature, as in CT and phase images.
    """

    minimum: float
    maximum: float
    counts: NDArray[np.int64]
    edges: NDArray[np.float64]
    robust: Window
    is_signed: bool = False


def measure(image: Image) -> Statistics:
    """Measure an image's values on a regular sample of at most a quarter of a million voxels."""
    voxels = image.voxels
    if image.is_colour:
        return Statistics(
            minimum=0.0,
            maximum=255.0,
            counts=np.histogram(_sampled(voxels), _BINS, (0, 256))[0],
            edges=np.linspace(0, 256, _BINS + 1),
            robust=Window(low=0.0, high=255.0),
        )
    stored = _sampled(voxels)
    if stored.dtype.kind == "f":
        stored = stored[np.isfinite(stored)]
    if image.padding is not None:
        stored = stored[stored != image.padding]
    if not stored.size:
        edges = np.linspace(0, 1, _BINS + 1)
        return Statistics(
            minimum=0.0, maximum=1.0, counts=np.zeros(_BINS, np.int64), edges=edges, robust=Window(low=0.0, high=1.0)
        )
    values = stored.astype(np.float32) * np.float32(image.slope) + np.float32(image.intercept)
    minimum, maximum = float(values.min()), float(values.max())
    # What was set to the lowest value, the air around a defaced head say, tells nothing of the tissue.
    tissue = values[values > minimum] if np.count_nonzero(values == minimum) < values.size else values
    low, high = (float(one) for one in np.percentile(tissue, _ROBUST))
    if minimum >= 0:
        low = 0.0 if low < 0.25 * high else low
    if not high > low:
        low, high = minimum, maximum if maximum > minimum else minimum + 1.0
    top = maximum if maximum > minimum else minimum + 1.0
    counts, edges = np.histogram(values, _BINS, (minimum, top))
    return Statistics(
        minimum=minimum,
        maximum=maximum,
        counts=counts,
        edges=edges,
        robust=Window(low=low, high=high),
        is_signed=minimum < 0,
    )


def _sampled(voxels: NDArray[Any]) -> NDArray[Any]:
    """Take every so-manieth voxel along each axis of space, and a few volumes."""
    volumes = voxels.shape[3]
    every = max(1, math.ceil(volumes / 4))
    count = math.prod(voxels.shape[:3]) * math.ceil(volumes / every)
    step = max(1, math.ceil((count / _SAMPLES) ** (1 / 3)))
    return np.ascontiguousarray(voxels[::step, ::step, ::step, ::every]).ravel()


def presets(statistics: Statistics) -> dict[str, Window]:
    """List the windows that a reader steps through, by name: those of CT only where values can be Hounsfield units."""
    robust = statistics.robust
    middle, width = (robust.low + robust.high) / 2, robust.high - robust.low
    found = {
        "robust": robust,
        "full range": Window(low=statistics.minimum, high=max(statistics.maximum, statistics.minimum + 1e-6)),
        "bright": Window(low=robust.low, high=robust.low + width / 2),
        "flat": Window(low=middle - width, high=middle + width),
    }
    if statistics.minimum <= -500 and statistics.maximum >= 500:
        found |= {
            "CT brain": Window(low=0.0, high=80.0),
            "CT subdural": Window(low=-50.0, high=150.0),
            "CT bone": Window(low=-400.0, high=1600.0),
            "CT soft tissue": Window(low=-135.0, high=215.0),
        }
    return found


# -- colours -----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def colour_table(name: str) -> NDArray[np.uint32]:
    """Give 256 colours as 0xffRRGGBB.

    Raises
    ------
    KeyError
        If there is no such map.
    """
    stops: dict[str, Sequence[tuple[float, int, int, int]]] = {
        "grey": ((0.0, 0, 0, 0), (1.0, 255, 255, 255)),
        "hot": ((0.0, 0, 0, 0), (0.37, 230, 0, 0), (0.75, 255, 210, 0), (1.0, 255, 255, 255)),
        "cividis-like": ((0.0, 0, 30, 80), (0.5, 124, 123, 120), (1.0, 255, 234, 70)),
    }
    chosen = np.array(stops[name])
    places = np.linspace(0, 1, 256)
    red, green, blue = (
        np.rint(np.interp(places, chosen[:, 0], chosen[:, part])).astype(np.uint32) for part in (1, 2, 3)
    )
    table = np.asarray(_ALPHA | red << 16 | green << 8 | blue, np.uint32)
    table.setflags(write=False)
    return table


def value_table(image: Image, window: Window, colour_map: str = COLOUR_MAPS[0]) -> NDArray[np.uint32]:
    """Give the colour of every stored value of an image of integers of at most 16 bits.

    Returns
    -------
    array
        65,536 colours, by the value's 16 bits read without a sign; 256 by its 8 bits.
    """
    kind = image.voxels.dtype
    return _value_table(
        kind.str, image.slope, image.intercept, image.inverted, image.padding, window.low, window.high, colour_map
    )


@lru_cache(maxsize=16)
def _value_table(  # noqa: PLR0917 - the parts of a cache's key
    kind: str,
    slope: float,
    intercept: float,
    inverted: bool,  # noqa: FBT001 - a part of the cache's key
    padding: float | None,
    low: float,
    high: float,
    colour_map: str,
) -> NDArray[np.uint32]:
    dtype = np.dtype(kind)
    bits = 8 * dtype.itemsize
    stored = np.arange(1 << bits, dtype=f"u{dtype.itemsize}").view(dtype).astype(np.float32)
    table = colour_table(colour_map)[_shades(stored, slope, intercept, low, high, inverted=inverted)]
    if padding is not None and np.iinfo(dtype).min <= padding <= np.iinfo(dtype).max:
        table[int(np.array(int(padding), dtype).view(f"u{dtype.itemsize}"))] = _ALPHA
    return table


def _shades(
    stored: NDArray[Any], slope: float, intercept: float, low: float, high: float, *, inverted: bool
) -> NDArray[np.uint8]:
    """Scale stored values to 0 to 255; what is no number is black."""
    scale = 255.0 / max(high - low, 1e-30)
    shades = stored * np.float32(slope * scale) + np.float32((intercept - low) * scale)
    np.clip(shades, 0, 255, out=shades)
    if inverted:
        np.subtract(255, shades, out=shades)
    if stored.dtype.kind == "f":
        np.nan_to_num(shades, copy=False, nan=0.0)
    shades += 0.5
    return np.asarray(shades.astype(np.uint8))


def paint(plane: NDArray[Any], window: Window, image: Image, *, colour_map: str = COLOUR_MAPS[0]) -> NDArray[np.uint32]:
    """Give the colours of a plane.

    Parameters
    ----------
    plane
        Stored values of the image, (rows, columns), or (rows, columns, 3) of unsigned 8 bit for colour.

    Returns
    -------
    array
        (rows, columns) of 0xffRRGGBB, in C order.
    """
    if image.is_colour:
        parts = _shades(plane.astype(np.float32), 1.0, 0.0, window.low, window.high, inverted=False).astype(np.uint32)
        return np.ascontiguousarray(_ALPHA | parts[..., 0] << 16 | parts[..., 1] << 8 | parts[..., 2])
    if plane.dtype.kind in "iu" and plane.dtype == image.voxels.dtype and plane.dtype.itemsize <= 2:
        table = value_table(image, window, colour_map)
        straight = np.ascontiguousarray(plane)
        return table.take(straight.view(f"u{plane.dtype.itemsize}"))
    values = np.ascontiguousarray(plane, np.float32)
    shades = _shades(values, image.slope, image.intercept, window.low, window.high, inverted=image.inverted)
    painted = colour_table(colour_map).take(shades)
    if image.padding is not None:
        painted[values == np.float32(image.padding)] = _ALPHA
    return painted


@lru_cache(maxsize=2)
def _label_colours() -> NDArray[np.float32]:
    colours = np.zeros((256, 3), np.float32)
    for label in range(1, 256):
        colours[label] = OVERLAY_COLOURS[(label - 1) % len(OVERLAY_COLOURS)]
    return colours


def blend(base: NDArray[np.uint32], labels: NDArray[Any], *, opacity: float = 0.5) -> NDArray[np.uint32]:
    """Lay the labels of a mask or segmentation over a picture; where the label is 0, nothing changes.

    Parameters
    ----------
    base
        (rows, columns) of 0xffRRGGBB.
    labels
        (rows, columns); rounded to whole numbers, and those beyond 255 begin anew at 1.
    opacity
        From 0 to 1.
    """
    whole = np.nan_to_num(np.rint(labels)).astype(np.int64)
    chosen = np.flatnonzero(whole.ravel())
    result = base.copy()
    if not chosen.size:
        return result
    under = base.ravel()[chosen]
    parts = np.stack([under >> shift & 255 for shift in (16, 8, 0)], axis=1).astype(np.float32)
    over = _label_colours()[(np.abs(whole.ravel()[chosen]) - 1) % 255 + 1]
    mixed = np.rint(parts + opacity * (over - parts)).astype(np.uint32)
    result.ravel()[chosen] = _ALPHA | mixed[:, 0] << 16 | mixed[:, 1] << 8 | mixed[:, 2]
    return result
