"""Measure one image, as far as its kind allows: what is not defined says why, and no image is too strange."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.review.finding import Finding, finding
from tasks.review.quality.diffusion import measure_gradients
from tasks.review.quality.functional import dvars, ghost_ratio, measure_run, walk
from tasks.review.quality.mask import head_mask
from tasks.review.quality.metric import Metric, metric
from tasks.review.quality.protocol import Expected, check_protocol
from tasks.review.quality.structural import look_for_clipping, measure_volume

FEWEST_VOLUMES = 5
"""Volumes from which an image is a run over time; fewer are echoes, phases, or a repeated picture."""

_DIGITS = 6
_PHASE_AXES = {"i": 0, "j": 1, "k": 2}
_MAGNITUDES = ("P", "PHASE", "R", "REAL", "I", "IMAGINARY", "FIELD MAP")
_STATISTICS_OF = 400  # volumes at most that a mean is made of: more change it in no digit that matters


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What changes from volume to volume.

    Attributes
    ----------
    dvars
        Standardised, for each volume but the first.
    motion_index
        Distance of the centre of mass from its median place, in mm, for each volume.
    global_mean
        Mean over the head for each volume, in the image's unit.
    """

    dvars: tuple[float | None, ...] = ()
    motion_index: tuple[float | None, ...] = ()
    global_mean: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """What was measured of one image.

    Attributes
    ----------
    metrics
        In the order of `METRICS`, those that this kind of image may have.
    checks
        What stands out by itself, with the volumes and slices it is about.
    course
        What changes from volume to volume; None for a single volume. It is drawn, and not kept.
    note
        Why nothing was measured; empty if something was.
    """

    metrics: tuple[Metric, ...] = ()
    checks: tuple[Finding, ...] = ()
    course: Course | None = None
    note: str = ""

    def values(self) -> dict[str, float]:
        """Return the metrics that are defined."""
        return {one.name: one.value for one in self.metrics if one.value is not None}

    def to_json(self) -> dict[str, Any]:
        """Return plain data for a JSON file."""
        return {
            "metrics": [one.to_json() for one in self.metrics],
            "checks": [one.to_json() for one in self.checks],
            "note": self.note,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Quality:
        """Rebuild from `to_json`, without the course.

        Raises
        ------
        KeyError, TypeError, ValueError
            If a field is missing or not what it must be.
        """
        return cls(
            metrics=tuple(Metric.from_json(one) for one in content["metrics"]),
            checks=tuple(Finding.from_json(one) for one in content["checks"]),
            note=str(content["note"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Maps:
    """What nipype made of a run beforehand.

    Attributes
    ----------
    tsnr
        Image of the ratio of mean and SD over time.
    unsteady
        Volumes at the beginning that are not in the steady state.
    """

    tsnr: Path
    unsteady: int


def measure_image(
    image: Path,
    sidecar: Mapping[str, Any],
    *,
    bval: Path | None = None,
    bvec: Path | None = None,
    expected: Expected | None = None,
    maps: Maps | None = None,
) -> Quality:
    """Measure one NIfTI image.

    Parameters
    ----------
    image
        Best not compressed: then it is read where it lies, and never whole into memory.
    sidecar
        dcm2niix's.
    bval, bvec
        Of a diffusion series.
    expected
        What the study wants of such a series.
    maps
        Of a run over time.

    Returns
    -------
    Quality
        An image that cannot be read or measured has a note instead of metrics.

    Raises
    ------
    MissingPackageError
        If nibabel is not installed.
    """
    import nibabel  # noqa: PLC0415 - an extra

    try:
        opened: Any = nibabel.load(image)
        stored = opened.dataobj.get_unscaled()
        slope, intercept = (float(one) for one in (opened.dataobj.slope, opened.dataobj.inter))
        affine = np.asarray(opened.affine, np.float64)
    except Exception:  # noqa: BLE001 - a damaged file fails in as many ways as there are bytes
        return Quality(note="the image cannot be read")
    if stored.dtype.fields is not None or stored.dtype.kind not in "iuf":
        return Quality(note="the image is in colour, or of complex numbers")
    while stored.ndim > 4 and stored.shape[-1] == 1:
        stored = stored[..., 0]
    if stored.ndim == 2:
        stored = stored[..., np.newaxis]
    if stored.ndim not in (3, 4) or not stored.size or not np.isfinite(affine).all():
        return Quality(note="the image has no three or four axes")
    if stored.ndim == 4 and stored.shape[3] == 1:
        stored = stored[..., 0]
    quality = _measured(stored, (slope, intercept), affine, sidecar, gradients=(bval, bvec), maps=maps)
    if expected is not None:
        directions = quality.values().get("directions")
        found = tuple(check_protocol(expected, stored.shape, affine, sidecar, directions))
        quality = replace(quality, checks=(*found, *quality.checks))
    return quality


def _measured(
    stored: NDArray[Any],
    scale: tuple[float, float],
    affine: NDArray[Any],
    sidecar: Mapping[str, Any],
    *,
    gradients: tuple[Path | None, Path | None],
    maps: Maps | None,
) -> Quality:
    """Measure what is known to be an array of three or four axes of real numbers."""
    if not is_magnitude(sidecar) or scale[1] < 0:
        return Quality(note="only magnitudes are measured, and this image is none")
    reference = _reference(stored, scale)
    if stored.shape[2] == 1 and stored.ndim == 3:
        return Quality(note="a single slice is not measured")
    if not np.any(reference != reference.flat[0]):
        return Quality(checks=(finding("constant-image", "Every voxel has the same value."),))
    clipped, checks = look_for_clipping(stored if stored.ndim == 3 else _thinned(stored))
    mask = head_mask(reference)
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    first = reference if stored.ndim == 3 else _scaled(stored[..., 0], scale)
    metrics = measure_volume(first, mask, (float(sizes[0]), float(sizes[1]), float(sizes[2])))
    metrics.append(clipped)
    if stored.ndim == 3 or stored.shape[3] < FEWEST_VOLUMES or not mask.any():
        return Quality(metrics=tuple(metrics), checks=tuple(checks))
    # Slope and intercept change none of what follows but the intercept, which magnitudes do not have.
    run = walk(stored if scale == (1.0, 0.0) else _Scaled(stored, scale), mask, affine)  # type: ignore[arg-type]
    course = _course(run.centres, run.slice_means, mask)
    if gradients != (None, None):
        more, found = measure_gradients(*gradients, run)
        return Quality(metrics=(*metrics, *more), checks=(*checks, *found), course=course)
    plain, standardised = dvars(stored, mask) if scale[1] == 0 else dvars(_scaled(stored, scale), mask)
    tsnr, unsteady = _from_maps(maps, mask)
    more, found = measure_run(run, plain, standardised, tsnr=tsnr, unsteady=unsteady)
    ghost, why = _ghost(reference, mask, sidecar)
    metrics += [*more, metric("gsr", ghost, why)]
    course = replace(course, dvars=_rounded(standardised))
    return Quality(metrics=tuple(metrics), checks=(*checks, *found), course=course)


def is_magnitude(sidecar: Mapping[str, Any]) -> bool:
    """Tell whether an image holds magnitudes, by Image Type (PS3.3 C.8.3.1.1.1) and dcm2niix's own words."""
    kinds = sidecar.get("ImageType")
    words = {str(one).upper() for one in kinds[2:]} if isinstance(kinds, list) else set()
    return words.isdisjoint(_MAGNITUDES) and not sidecar.get("IsPhase")


class _Scaled:
    """An image whose volumes are scaled when they are asked for, so that the whole is never in memory."""

    def __init__(self, stored: NDArray[Any], scale: tuple[float, float]) -> None:
        self._stored, self._scale = stored, scale
        self.shape = stored.shape

    def __getitem__(self, place: Any) -> NDArray[Any]:
        return _scaled(self._stored[place], self._scale)


def _scaled(values: NDArray[Any], scale: tuple[float, float]) -> NDArray[Any]:
    slope, intercept = scale
    single = np.asarray(values, np.float32) * np.float32(slope) + np.float32(intercept)
    return np.asarray(np.nan_to_num(single, nan=0.0, posinf=0.0, neginf=0.0))


def _reference(stored: NDArray[Any], scale: tuple[float, float]) -> NDArray[Any]:
    """Return the volume, or the mean of the volumes."""
    if stored.ndim == 3:
        return _scaled(stored, scale)
    step = -(-stored.shape[3] // _STATISTICS_OF)
    total = np.zeros(stored.shape[:3], np.float64)
    chosen = range(0, stored.shape[3], step)
    for index in chosen:
        total += _scaled(stored[..., index], scale)
    return np.asarray(total / len(chosen), np.float32)


def _thinned(stored: NDArray[Any]) -> NDArray[Any]:
    """Return some of the volumes: cut off is what all of them are."""
    return stored[..., :: max(1, stored.shape[3] // 4)]


def _course(centres: NDArray[Any], slice_means: NDArray[Any], mask: NDArray[np.bool_]) -> Course:
    away = np.linalg.norm(centres - np.nanmedian(centres, axis=0), axis=1)
    weights = mask.sum(axis=(0, 1))
    level = np.nansum(slice_means * weights, axis=1) / weights.sum()
    return Course(motion_index=_rounded(away), global_mean=_rounded(level))


def _rounded(values: NDArray[Any]) -> tuple[float | None, ...]:
    return tuple(float(f"{one:.{_DIGITS}g}") if np.isfinite(one) else None for one in values)


def _from_maps(maps: Maps | None, mask: NDArray[np.bool_]) -> tuple[float | None, int | None]:
    import nibabel  # noqa: PLC0415 - an extra

    if maps is None:
        return None, None
    ratio: Any = nibabel.load(maps.tsnr)
    values = np.asanyarray(ratio.dataobj)[mask]
    values = values[np.isfinite(values) & (values > 0)]
    return (float(np.median(values)) if values.size else None), maps.unsteady


def _ghost(reference: NDArray[Any], mask: NDArray[np.bool_], sidecar: Mapping[str, Any]) -> tuple[float | None, str]:
    direction = str(sidecar.get("PhaseEncodingDirection") or sidecar.get("PhaseEncodingAxis") or "")[:1]
    if direction not in _PHASE_AXES:
        return None, "the phase direction is not known"
    return ghost_ratio(reference, mask, _PHASE_AXES[direction]), "there is no air where a ghost would lie"
