"""An image in memory as the viewer holds it: voxels as they are stored, and where in the patient each of them lies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.review.finding import Finding

Place = Sequence[float] | NDArray[np.float64]
"""Three numbers."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Image:
    """One image: a stack of slices or a single one, at one time or many.

    Attributes
    ----------
    voxels
        Stored values of shape (i, j, k, t), or (i, j, k, t, 3) of unsigned 8 bit for colour; integers of at most 16
        bits, or float32. Any layout in memory; `from_memory` gives the one that is quickest to cut.
    affine
        Four by four: from a voxel's zero-based (i, j, k) to millimetres, RAS+ (to the right, front and head), of the
        voxel's centre.
    slope, intercept
        What a stored value is worth: value = slope * stored + intercept.
    label
        How it is called on screen; never anything that identifies.
    inverted
        True if low values are meant to be bright (MONOCHROME1).
    padding
        The stored value that stands for "no measurement", or None.
    frame_of_reference
        Images with the same text, unless it is empty, lie in the same millimetres.
    is_placed
        False if nothing told where the patient's sides are, so that no letters may be shown.
    volume_seconds
        The time between volumes, or None.
    findings
        What is wrong with it, or could not be read.
    """

    voxels: NDArray[Any]
    affine: NDArray[np.float64]
    slope: float = 1.0
    intercept: float = 0.0
    label: str = ""
    inverted: bool = False
    padding: float | None = None
    frame_of_reference: str = ""
    is_placed: bool = True
    volume_seconds: float | None = None
    findings: tuple[Finding, ...] = ()

    def __post_init__(self) -> None:
        if self.voxels.ndim not in (4, 5) or (self.voxels.ndim == 5 and self.voxels.shape[4] != 3):
            raise ValueError(f"voxels have the shape {self.voxels.shape}; (i, j, k, t) or (i, j, k, t, 3) is needed")

    @property
    def is_colour(self) -> bool:
        """True if voxels are red, green and blue."""
        return self.voxels.ndim == 5

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along i, j and k."""
        i, j, k = self.voxels.shape[:3]
        return i, j, k

    @property
    def volumes(self) -> int:
        """How many times it was measured."""
        return int(self.voxels.shape[3])

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres from voxel to voxel along i, j and k."""
        i, j, k = (float(length) for length in np.linalg.norm(self.affine[:3, :3], axis=0))
        return i, j, k

    @property
    def is_sheared(self) -> bool:
        """True if the axes do not stand at right angles, as under a tilted gantry."""
        axes = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        return bool(np.abs(axes.T @ axes - np.eye(3)).max() > 1e-3)

    @property
    def centre(self) -> NDArray[np.float64]:
        """The middle of the box of voxels, in RAS+ millimetres."""
        middle = (np.array(self.shape, float) - 1) / 2
        return np.asarray(self.affine[:3, :3] @ middle + self.affine[:3, 3])

    def to_mm(self, index: Place) -> NDArray[np.float64]:
        """Give the RAS+ millimetres of a place in voxels, of shape (3,)."""
        return np.asarray(self.affine[:3, :3] @ np.asarray(index, float) + self.affine[:3, 3])

    def to_index(self, place: Place) -> NDArray[np.float64]:
        """Give the place in voxels, not rounded, of RAS+ millimetres, of shape (3,)."""
        return np.asarray(np.linalg.solve(self.affine[:3, :3], np.asarray(place, float) - self.affine[:3, 3]))

    def nearest(self, place: Place) -> tuple[int, int, int] | None:
        """Give the voxel in which a place in RAS+ millimetres lies; None outside the image."""
        index = [math.floor(one + 0.5) for one in self.to_index(place)]
        if all(0 <= one < size for one, size in zip(index, self.shape, strict=True)):
            return index[0], index[1], index[2]
        return None

    def value(self, index: tuple[int, int, int], volume: int = 0) -> float | tuple[int, ...]:
        """Give what was measured at a voxel: a number, or red, green and blue."""
        stored = self.voxels[(*index, volume)]
        if self.is_colour:
            return tuple(int(part) for part in stored)
        return float(stored) * self.slope + self.intercept

    def course(self, index: tuple[int, int, int]) -> NDArray[np.float32]:
        """Give the values of a voxel over time, of shape (t,)."""
        return np.asarray(self.voxels[index], np.float32) * np.float32(self.slope) + np.float32(self.intercept)


def from_memory(block: NDArray[Any], **more: Any) -> Image:
    """Make an image of a block in C order, of shape (t, k, j, i) or (t, k, j, i, 3), without copying it.

    That is the order in which both DICOM series and NIfTI files hold their voxels.
    """
    axes = (3, 2, 1, 0, 4) if block.ndim == 5 else (3, 2, 1, 0)
    return Image(voxels=block.transpose(axes), **more)
