"""Compare how a series was acquired with how the study wants it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.review.finding import Finding, finding

PLANES = ("sagittal", "coronal", "axial")
"""The plane of a slice by the patient axis (x, y, z) that its normal is nearest to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the study wants of one kind of series; None where it does not say.

    Attributes
    ----------
    tr_ms, te_ms
        Repetition and echo time.
    voxel_mm, fov_mm, matrix
        Along rows, columns and slices; along rows and columns. Rows and columns may be exchanged.
    orientation
        One of `PLANES`.
    slices, volumes, directions
        How many there are.
    tolerance
        How far lengths and times may be off, as a share.
    """

    tr_ms: float | None = None
    te_ms: float | None = None
    voxel_mm: tuple[float, float, float] | None = None
    fov_mm: tuple[float, float] | None = None
    matrix: tuple[int, int] | None = None
    orientation: str | None = None
    slices: int | None = None
    volumes: int | None = None
    directions: int | None = None
    tolerance: float = 0.01


def check_protocol(
    expected: Expected,
    shape: tuple[int, ...],
    affine: NDArray[Any],
    sidecar: Mapping[str, Any],
    directions: float | None,
) -> Iterator[Finding]:
    """Name everything that is not as the study wants it, with both numbers.

    Parameters
    ----------
    shape, affine
        Of the image: slices run along the third axis.
    sidecar
        dcm2niix's: times in seconds.
    directions
        How many were measured; None if the image has none.
    """
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    counts = (*shape, 1, 1, 1)[:3]
    for name, wanted, key in (
        ("Repetition time", expected.tr_ms, "RepetitionTime"),
        ("Echo time", expected.te_ms, "EchoTime"),
    ):
        if wanted is not None:
            seconds = sidecar.get(key)
            if not isinstance(seconds, int | float) or isinstance(seconds, bool):
                yield _differs(name, "not stated", f"{wanted:g} ms")
            elif abs(seconds * 1000 - wanted) > expected.tolerance * wanted:
                yield _differs(name, f"{seconds * 1000:g} ms", f"{wanted:g} ms")
    if expected.voxel_mm is not None and not _fits(tuple(sizes), expected.voxel_mm, expected.tolerance):
        yield _differs("Voxel size", _joined(sizes, "mm"), _joined(expected.voxel_mm, "mm"))
    if expected.fov_mm is not None:
        field = (float(sizes[0] * counts[0]), float(sizes[1] * counts[1]))
        if not _fits(field, expected.fov_mm, expected.tolerance):
            yield _differs("Field of view", _joined(field, "mm"), _joined(expected.fov_mm, "mm"))
    if expected.matrix is not None and sorted(counts[:2]) != sorted(expected.matrix):
        yield _differs("Matrix", _joined(counts[:2], "voxels"), _joined(expected.matrix, "voxels"))
    if expected.orientation is not None:
        plane = slice_plane(affine)
        if plane != expected.orientation:
            yield _differs("Orientation", plane, expected.orientation)
    volumes = shape[3] if len(shape) > 3 else 1
    for name, number, required in (
        ("Number of slices", counts[2], expected.slices),
        ("Number of volumes", volumes, expected.volumes),
        ("Number of directions", int(directions or 0), expected.directions),
    ):
        if required is not None and number != required:
            yield _differs(name, str(number), str(required))


def slice_plane(affine: NDArray[Any]) -> str:
    """Return the plane of the slices, the nearest one for oblique ones; the third axis runs through them."""
    # Across both axes of a slice, for a tilted gantry shears the third one.
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    return PLANES[int(np.argmax(np.abs(normal)))]


def _fits(measured: tuple[float, ...], wanted: tuple[float, ...], tolerance: float) -> bool:
    """Compare lengths; the first two may be exchanged, for which of them runs along a row a converter decides."""
    exchanged = (measured[1], measured[0], *measured[2:])
    return any(
        all(abs(one - other) <= tolerance * other for one, other in zip(given, wanted, strict=True))
        for given in (measured, exchanged)
    )


def _joined(numbers: Any, unit: str) -> str:
    return " x ".join(f"{float(number):.4g}" for number in numbers) + f" {unit}"


def _differs(name: str, found: str, wanted: str) -> Finding:
    return finding("protocol-differs", f"{name}: {found}, where the study wants {wanted}.")
