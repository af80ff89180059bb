"""Turn a slice the way radiologists look at it, and say which side of the patient each border is.

The patient's right is on the viewer's left in axial and coronal views; the front is up in axial views; the head is up
in coronal and sagittal views; the front is on the viewer's left in sagittal views. An oblique slice is turned like the
nearest of the three.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.review.geometry import slice_normal
from tasks.review.plane import Orientation

SECOND_LETTER = 0.34
"""A border is given a second letter if it points that way too, by more than 20 degrees (sine 0.34)."""

TIE = 1e-6
"""Directions this alike are taken as equal, so that rounding never decides how an exact diagonal is turned."""

_LETTERS = (("L", "R"), ("P", "A"), ("S", "I"))
"""For each axis of LPS: the side its positive and its negative end point to."""

_SCREEN = {
    "sagittal": ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0)),
    "coronal": ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0)),
    "axial": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
}
"""For each view: the LPS direction that runs to the right of the screen, and the one that runs down it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How a slice is turned to be looked at: first transposed, then flipped.

    Attributes
    ----------
    plane
        "axial", "coronal" or "sagittal", whichever is nearest.
    transpose, flip_rows, flip_columns
        What is done to an array of (rows, columns); the flips hold for the transposed array.
    left, right, top, bottom
        The side of the patient at each border, one or two of R L A P S I.
    reverse_slices
        True if slices in their own order run against the standard: from right to left, front to back, feet to head.
    """

    plane: str
    transpose: bool
    flip_rows: bool
    flip_columns: bool
    left: str
    right: str
    top: str
    bottom: str
    reverse_slices: bool

    def turn(self, image: NDArray[Any]) -> NDArray[Any]:
        """Turn an array (rows, columns) or (rows, columns, colours); a view, no copy."""
        if self.transpose:
            image = np.swapaxes(image, 0, 1)
        if self.flip_rows:
            image = image[::-1]
        if self.flip_columns:
            image = image[:, ::-1]
        return image

    def turned_spacing(self, spacing: tuple[float, float]) -> tuple[float, float]:
        """Return (between rows, between columns) as they are after `turn`."""
        return (spacing[1], spacing[0]) if self.transpose else spacing


def standard_view(orientation: Orientation) -> View:
    """Choose how a plane of this orientation is turned.

    Parameters
    ----------
    orientation
        Direction cosines in LPS.
    """
    normal = slice_normal(orientation)
    along, down = np.array(orientation[:3]), np.array(orientation[3:])
    # The last axis wins a tie: a slice halfway between axial and coronal is looked at as axial.
    axis = max(range(3), key=lambda one: (round(abs(float(normal[one])) / TIE), one))
    plane = ("sagittal", "coronal", "axial")[axis]
    rightward, downward = (np.array(direction) for direction in _SCREEN[plane])
    kept = abs(float(along @ rightward)) + abs(float(down @ downward))
    swapped = abs(float(along @ downward)) + abs(float(down @ rightward))
    transpose = swapped > kept + TIE
    across, downwards = (down, along) if transpose else (along, down)
    flip_columns, flip_rows = float(across @ rightward) < -TIE, float(downwards @ downward) < -TIE
    across = -across if flip_columns else across
    downwards = -downwards if flip_rows else downwards
    return View(
        plane=plane,
        transpose=transpose,
        flip_rows=flip_rows,
        flip_columns=flip_columns,
        left=side(-across),
        right=side(across),
        top=side(-downwards),
        bottom=side(downwards),
        reverse_slices=float(normal[axis]) < 0,
    )


def side(direction: NDArray[np.float64]) -> str:
    """Name where a unit vector in LPS points, by the letters R L A P S I: the nearest first, at most two."""
    order = sorted(range(3), key=lambda axis: (-round(abs(float(direction[axis])) / TIE), axis))
    named = [axis for place, axis in enumerate(order[:2]) if place == 0 or abs(direction[axis]) > SECOND_LETTER]
    return "".join(_LETTERS[axis][0 if direction[axis] > 0 else 1] for axis in named)
