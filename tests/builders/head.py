"""Make images of synthetic heads from the averaged head that pydeface carries.

Coordinates are DICOM's patient coordinates (LPS, millimetres) unless a name says RAS; arrays are indexed
[slice, row, column].
"""

from __future__ import annotations

import functools
import importlib.resources
from dataclasses import dataclass

import nibabel
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""NIfTI counts to the right, the front and the top; DICOM to the left, the back and the top."""

BRAIN_CENTRE_RAS = np.array([-4.0, 3.0, 10.0])
"""Roughly the middle of the template's brain, in millimetres."""

BRAIN_RADII = np.array([70.0, 88.0, 68.0])
"""Half axes of an ellipsoid that holds the template's brain, in millimetres: across, along, up."""

SCALP = 646.0
"""The template's largest value; white matter lies near 420, grey matter near 290, fluid near 140."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Where the voxels of one stack of slices lie.

    Attributes
    ----------
    shape
        Slices, rows, columns.
    spacing
        Millimetres between slices, between rows, between columns.
    row_direction, column_direction
        Unit vectors (LPS) along which the column index and the row index grow, as in Image Orientation (Patient),
        PS3.3 C.7.6.2.1.1. Slices follow each other along row_direction x column_direction.
    centre
        Middle of the stack (LPS, mm).
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    row_direction: tuple[float, float, float]
    column_direction: tuple[float, float, float]
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def affine(self) -> NDArray[np.float64]:
        """Matrix (4 x 4) from [slice, row, column] to LPS millimetres."""
        along_row = np.array(self.row_direction)
        along_column = np.array(self.column_direction)
        affine = np.eye(4)
        axes = np.stack([np.cross(along_row, along_column), along_column, along_row], axis=1)
        affine[:3, :3] = axes * np.array(self.spacing)
        affine[:3, 3] = np.array(self.centre) - affine[:3, :3] @ ((np.array(self.shape) - 1) / 2)
        return affine

    def position(self, index: int) -> NDArray[np.float64]:
        """Middle of the first voxel of slice `index` (from 0), LPS mm: Image Position (Patient)."""
        affine = self.affine
        return affine[:3, 3] + index * affine[:3, 0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """How one patient's head differs from the template, and how it lies in the scanner at one visit.

    Attributes
    ----------
    scale
        Size against the template, across, along and up.
    shift
        Millimetres (LPS) from the template's place.
    nod, turn
        Degrees about the left-right axis, and about the axis of the body.
    gain, shade
        Overall brightness; relative change of brightness per metre along L, P and S (a coil's uneven reception).
    mark_ras
        Middle of the bright synthetic ball, in the template's coordinates (RAS mm): negative x is left.
    mark_radius
        Its radius in the template's millimetres.
    """

    scale: tuple[float, float, float]
    shift: tuple[float, float, float]
    nod: float
    turn: float
    gain: float
    shade: tuple[float, float, float]
    mark_ras: tuple[float, float, float]
    mark_radius: float

    @property
    def lps_from_template(self) -> NDArray[np.float64]:
        """Matrix (4 x 4) from the template's RAS millimetres to the patient's LPS millimetres."""
        nod, turn = np.radians(self.nod), np.radians(self.turn)
        about_x = np.array([[1, 0, 0], [0, np.cos(nod), -np.sin(nod)], [0, np.sin(nod), np.cos(nod)]])
        about_z = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
        pose = np.eye(4)
        pose[:3, :3] = about_z @ about_x @ np.diag(self.scale)
        pose[:3, 3] = self.shift
        return pose @ LPS_FROM_RAS

    @property
    def mark(self) -> tuple[float, float, float]:
        """Middle of the bright ball in the patient's coordinates (LPS mm)."""
        x, y, z, _ = self.lps_from_template @ np.array([*self.mark_ras, 1.0])
        return (float(x), float(y), float(z))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tissue:
    """What lies at each voxel of a grid; every array has the grid's shape.

    Attributes
    ----------
    brightness
        The template's T1 weighting, 0 to `SCALP`, without the ball.
    brain
        1 well inside the brain, 0 well outside.
    mark
        1 inside the bright ball, falling to 0 at its rim.
    shade
        Factor of the coil's uneven reception and the patient's gain.
    fibre
        Three arrays: the direction (LPS, unit length) water moves along most easily.
    """

    brightness: Floats
    brain: Floats
    mark: Floats
    shade: Floats
    fibre: tuple[Floats, Floats, Floats]


@functools.cache
def template() -> tuple[Floats, NDArray[np.float64]]:
    """Read the averaged head: T1 brightness [x, y, z], and the matrix from its indices to RAS millimetres."""
    source = importlib.resources.files("pydeface") / "data" / "mean_reg2mean.nii.gz"
    with importlib.resources.as_file(source) as path:
        image = nibabel.load(path)
        volume = np.asarray(image.dataobj).astype(np.float32)
    return np.ascontiguousarray(volume), np.asarray(image.affine, dtype=np.float64)


@functools.cache
def _thinned(factor: int) -> tuple[Floats, NDArray[np.float64]]:
    """Average the template over cubes of `factor` voxels, so that a coarse grid does not skip over detail."""
    volume, affine = template()
    if factor == 1:
        return volume, affine
    shape = [length // factor for length in volume.shape]
    whole = volume[tuple(slice(length * factor) for length in shape)]
    cubes = whole.reshape(shape[0], factor, shape[1], factor, shape[2], factor)
    thin_affine = affine.copy()
    thin_affine[:3, :3] *= factor
    thin_affine[:3, 3] += affine[:3, :3] @ np.full(3, (factor - 1) / 2)
    return np.ascontiguousarray(cubes.mean(axis=(1, 3, 5), dtype=np.float32)), thin_affine


def sample_tissue(head: Head, grid: Grid) -> Tissue:
    """Look up, for every voxel of `grid`, what the patient's head holds there."""
    factor = max(1, min(4, round(min(grid.spacing[1:]) / 1.2)))
    volume, ras_from_index = _thinned(factor)
    template_from_grid = np.linalg.inv(head.lps_from_template) @ grid.affine
    brightness = _trilinear(volume, np.linalg.inv(ras_from_index) @ template_from_grid, grid.shape)

    across, along, up = _coordinates(template_from_grid, grid.shape)
    radius = sum(
        ((axis - np.float32(middle)) / np.float32(half)) ** 2
        for axis, middle, half in zip((across, along, up), BRAIN_CENTRE_RAS, BRAIN_RADII, strict=True)
    )
    brain = np.clip((np.float32(1.1) - radius) * np.float32(5), 0, 1)
    distance = np.sqrt(
        sum((axis - np.float32(middle)) ** 2 for axis, middle in zip((across, along, up), head.mark_ras, strict=True))
    )
    mark = np.clip(np.float32(head.mark_radius) - distance, 0, 1)
    shade = np.float32(head.gain) * (
        1
        + sum(
            axis * np.float32(slope / 1000)
            for axis, slope in zip(_coordinates(grid.affine, grid.shape), head.shade, strict=True)
        )
    )
    # Callosal near the middle, association fibres to the poles, projection fibres at the sides: crude, but the
    # attenuation then differs by place and direction as it does in a head.
    sideways = np.exp(-(((across + 4) / 25) ** 2))
    lengthwise = np.float32(0.15) + np.abs(along) / 110
    upwards = np.float32(0.1) + np.abs(across) / 80
    length = np.sqrt(sideways**2 + lengthwise**2 + upwards**2)
    return Tissue(
        brightness=brightness,
        brain=brain,
        mark=mark,
        shade=shade,
        fibre=(sideways / length, lengthwise / length, upwards / length),
    )


def t1_weighted(tissue: Tissue) -> Floats:
    """Weight by T1: the template's own contrast, the ball brighter than anything in a head."""
    return np.maximum(tissue.brightness, tissue.mark * np.float32(1.9 * SCALP)) * tissue.shade


def t2_weighted(tissue: Tissue) -> Floats:
    """Weight by T2, fat suppressed: fluid brightest, white matter darkest, scalp nearly gone."""
    inside = np.clip(np.float32(820) - np.float32(1.4) * tissue.brightness, 0, None)
    inside *= np.clip((tissue.brightness - 40) / 40, 0, 1)
    signal = tissue.brain * inside + (1 - tissue.brain) * np.float32(0.08) * tissue.brightness
    return np.maximum(signal, tissue.mark * np.float32(1200)) * tissue.shade


def diffusion_factor(tissue: Tissue, b_value: float, direction: tuple[float, float, float] | None) -> Floats:
    """Attenuate by diffusion: exp(-b D), b in s/mm², D along `direction` (LPS, unit length; None for b = 0)."""
    if b_value == 0 or direction is None:
        return np.ones_like(tissue.brightness)
    along = sum(axis * np.float32(part) for axis, part in zip(tissue.fibre, direction, strict=True))
    fluid = np.clip((220 - tissue.brightness) / 150, 0, 1)
    white = np.clip((tissue.brightness - 280) / 130, 0, 1)
    diffusivity = np.float32(0.7e-3) + np.float32(2.0e-3) * fluid
    diffusivity = diffusivity + white * np.float32(1.1e-3) * (along**2 - np.float32(0.35))
    return np.exp(np.float32(-b_value) * diffusivity)


def add_noise(signal: Floats, sigma: float, generator: np.random.Generator) -> Floats:
    """Add the noise of a magnitude image (Rice's distribution): both channels noisy, then the length."""
    real = signal + np.float32(sigma) * generator.standard_normal(signal.shape, dtype=np.float32)
    imaginary = np.float32(sigma) * generator.standard_normal(signal.shape, dtype=np.float32)
    return np.hypot(real, imaginary)


def _coordinates(affine: NDArray[np.float64], shape: tuple[int, int, int]) -> tuple[Floats, Floats, Floats]:
    """Apply `affine` to every index of an array of `shape`; one array of that shape for each axis."""
    indices = np.meshgrid(*(np.arange(length, dtype=np.float32) for length in shape), indexing="ij", sparse=True)
    x, y, z = (
        row[0] * indices[0] + row[1] * indices[1] + row[2] * indices[2] + row[3]
        for row in affine[:3].astype(np.float32)
    )
    return (x, y, z)


def _trilinear(volume: Floats, index_from_grid: NDArray[np.float64], shape: tuple[int, int, int]) -> Floats:
    """Interpolate `volume` at every voxel of the grid, slice by slice; 0 outside."""
    result = np.zeros(shape, dtype=np.float32)
    flat = volume.ravel()
    step = (volume.shape[1] * volume.shape[2], volume.shape[2], 1)
    for number in range(shape[0]):
        offset = index_from_grid.copy()
        offset[:3, 3] += number * index_from_grid[:3, 0]
        coordinates = _coordinates(offset, (1, *shape[1:]))
        inside = np.ones(coordinates[0].shape, dtype=bool)
        base = np.zeros(coordinates[0].shape, dtype=np.intp)
        fractions = []
        for axis, length, stride in zip(coordinates, volume.shape, step, strict=True):
            inside &= (axis >= 0) & (axis < length - 1)
            whole = np.clip(np.floor(axis), 0, length - 2)
            fractions.append(axis - whole)
            base += whole.astype(np.intp) * stride
        total = np.zeros(base.shape, dtype=np.float32)
        for corner in range(8):
            weight = np.float32(1)
            shift = 0
            for axis in range(3):
                upper = corner >> axis & 1
                weight = weight * (fractions[axis] if upper else 1 - fractions[axis])
                shift += upper * step[axis]
            total += weight * flat[base + shift]
        result[number] = np.where(inside, total, 0)[0]
    return result
