"""Measure a run of volumes over time: noise, jumps, drift, spikes, lost volumes, ghosts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.review.finding import Finding, finding
from tasks.review.quality.metric import Metric, metric

SPIKE_SCORE = 8.0
"""How many robust SDs a slice has to be away from its neighbours in time, beyond the other slices of its volume.

By chance one of 10^15 is so far away: nothing but an event is. Motion moves all slices of a volume and does not count.
"""

SPIKE_TIMES = 2.0
"""How many times its usual jump a slice has to jump, too, beyond what the other slices of the volume do of theirs."""

DROPPED_SHARE = 0.5
"""A volume or slice with less than this share of its usual signal was lost."""

_FEWEST_FOR_SPIKES = 8  # volumes of which a usual jump can be told
_NORM = 1000.0
_MAD_TO_SD = 1.4826
_SLAB_BYTES = 64 << 20
_LEAST_NOISE = 1e-4
# Where time courses hardly vary (a phantom of whole numbers), robust SDs are kept above this share of the signal.


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one pass over the volumes gives.

    Attributes
    ----------
    slice_means
        (t, z): mean of the voxels in the mask; not a number where a slice has none.
    slice_all
        (t, z): mean of all voxels.
    jumps
        (t, z): root mean square over all voxels of the difference to the mean of the volumes before and behind.
    centres
        (t, 3): centre of mass in mm.
    doubles
        Volumes that are the same, voxel by voxel, as the one before.
    """

    slice_means: NDArray[Any]
    slice_all: NDArray[Any]
    jumps: NDArray[Any]
    centres: NDArray[Any]
    doubles: tuple[int, ...]


def walk(data: NDArray[Any], mask: NDArray[np.bool_], affine: NDArray[Any]) -> Run:
    """Go through the volumes once, three of them in memory at a time.

    Parameters
    ----------
    data
        (x, y, z, t), as stored; a memory map will do.
    mask
        (x, y, z).
    affine
        Voxel to mm.
    """
    count, slices = data.shape[3], data.shape[2]
    inside = mask.sum(axis=(0, 1))
    weight = mask.astype(np.float32)
    axes = [np.arange(size, dtype=np.float64) for size in data.shape[:3]]
    means, everything, jumps = (np.zeros((count, slices)) for _ in range(3))
    centres = np.zeros((count, 3))
    doubles = []
    volumes = _three(data)
    for index, (before, now, behind) in enumerate(volumes):
        kept = now * weight
        sums = kept.sum(axis=(0, 1), dtype=np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            means[index] = sums / inside
        everything[index] = now.mean(axis=(0, 1), dtype=np.float64)
        total = sums.sum()
        if total > 0:
            along_x = kept.sum(axis=(1, 2), dtype=np.float64)
            along_y = kept.sum(axis=(0, 2), dtype=np.float64)
            centre = [along_x @ axes[0] / total, along_y @ axes[1] / total, sums @ axes[2] / total, 1]
            centres[index] = (affine @ centre)[:3]
        else:
            centres[index] = np.nan
        around = before if behind is None else behind if before is None else (before + behind) / 2
        if around is not None:
            difference = now - around
            jumps[index] = np.sqrt(np.einsum("xyz,xyz->z", difference, difference) / difference[:, :, 0].size)
            if before is None or behind is None:
                # Of noise alone, one neighbour leaves twice its variance, and the mean of two one and a half times.
                jumps[index] *= np.sqrt(0.75)
        if before is not None and np.array_equal(before, now):
            doubles.append(index)
    return Run(slice_means=means, slice_all=everything, jumps=jumps, centres=centres, doubles=tuple(doubles))


def _three(data: NDArray[Any]) -> Iterator[tuple[NDArray[Any] | None, NDArray[Any], NDArray[Any] | None]]:
    """Yield each volume with the ones before and behind it."""
    count = data.shape[3]

    def at(index: int) -> NDArray[Any]:
        return np.nan_to_num(np.asarray(data[..., index], np.float32), nan=0.0, posinf=0.0, neginf=0.0)

    before, now = None, at(0)
    for index in range(count):
        behind = at(index + 1) if index + 1 < count else None
        yield before, now, behind
        if behind is not None:
            before, now = now, behind


def dvars(data: NDArray[Any], mask: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return DVARS, plain and standardised.

    Power et al. 2012, NeuroImage 59:2142; standardised by what the voxels' robust SD (quartiles, the lower values) and
    their autocorrelation let expect of an undisturbed run: Nichols 2013, Notes on creating a standardized version of
    DVARS.

    Parameters
    ----------
    data
        (x, y, z, t), as stored.
    mask
        (x, y, z).

    Returns
    -------
    plain, standardised
        (t - 1,) each: plain in thousandths of the median over mask and time. Not a number where nothing varies.
    """
    count = data.shape[3]
    squares = np.zeros(count - 1)
    expected, voxels = 0.0, 0
    medians: list[NDArray[Any]] = []
    depth = max(1, int(_SLAB_BYTES // max(1, data.shape[0] * data.shape[1] * count * 4)))
    for begin in range(0, data.shape[2], depth):
        part = mask[:, :, begin : begin + depth]
        courses = np.asarray(data[:, :, begin : begin + depth, :][part], np.float32)
        if not courses.size:
            continue
        courses = np.nan_to_num(courses, nan=0.0, posinf=0.0, neginf=0.0)
        medians.append(courses[:, ::8].ravel() if courses.size > 1 << 22 else courses.ravel())
        steps = np.diff(courses, axis=1)
        squares += np.einsum("vt,vt->t", steps, steps, dtype=np.float64)
        low, high = np.partition(courses, (int(0.25 * (count - 1)), int(0.75 * (count - 1))), axis=1)[
            :, [int(0.25 * (count - 1)), int(0.75 * (count - 1))]
        ].T
        spread = (high - low).astype(np.float64) / 1.349
        centred = courses - courses.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
        own = np.einsum("vt,vt->v", centred, centred, dtype=np.float64)
        shifted = np.einsum("vt,vt->v", centred[:, 1:], centred[:, :-1], dtype=np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            autocorrelation = np.where(own > 0, shifted / own, 0.0)
        expected += float(np.sum(np.sqrt(2 * (1 - autocorrelation)) * spread))
        voxels += len(courses)
    if not voxels:
        nothing = np.full(count - 1, np.nan)
        return nothing, nothing
    root = np.sqrt(squares / voxels)
    median = float(np.median(np.concatenate(medians)))
    predicted = expected / voxels
    plain = root / median * _NORM if median > 0 else np.full(count - 1, np.nan)
    return plain, root / predicted if predicted > 0 else np.full(count - 1, np.nan)


def find_spikes(run: Run) -> list[tuple[int, int]]:
    """Name the slices of single volumes that differ from their neighbours in time as no other slice there does.

    Returns
    -------
    list of (volume, slice)
        Both counted from 0.
    """
    jumps = run.jumps
    if len(jumps) < _FEWEST_FOR_SPIKES:
        return []
    usual = np.median(jumps, axis=0)
    spread = _MAD_TO_SD * np.median(np.abs(jumps - usual), axis=0)
    level = np.maximum(np.median(np.abs(run.slice_all), axis=0), np.abs(run.slice_all).max() * 1e-3)
    floor = np.maximum(_LEAST_NOISE * level, 1e-12)
    scores = (jumps - usual) / np.maximum(spread, floor)
    apart = scores - np.median(scores, axis=1, keepdims=True) if jumps.shape[1] > 2 else scores
    times = jumps / np.maximum(usual, floor)
    alone = times > SPIKE_TIMES * np.maximum(1, np.median(times, axis=1, keepdims=True))
    found = []
    for volume, place in zip(*np.nonzero((apart > SPIKE_SCORE) & alone), strict=True):
        # The neighbours of a spike differ from it, too, by half.
        beside = jumps[max(0, volume - 1) : volume + 2, place]
        if jumps[volume, place] >= beside.max():
            found.append((int(volume), int(place)))
    return found


def find_losses(run: Run) -> tuple[list[int], list[tuple[int, int]]]:
    """Name volumes, and slices of other volumes, that have lost their signal.

    Returns
    -------
    volumes, slices
        Numbers of volumes, and pairs of volume and slice; counted from 0.
    """
    whole = np.nanmean(run.slice_all, axis=1)
    usual = float(np.median(whole))
    lost = [int(index) for index in np.nonzero(whole < DROPPED_SHARE * usual)[0]] if usual > 0 else []
    medians = np.median(run.slice_all, axis=0)
    # Slices at the edge hold hardly anything to lose.
    solid = medians > DROPPED_SHARE * float(np.median(medians))
    low = (run.slice_all < DROPPED_SHARE * medians) & solid
    gone = [(int(volume), int(place)) for volume, place in zip(*np.nonzero(low), strict=True) if volume not in lost]
    return lost, gone


def ghost_ratio(volume: NDArray[Any], mask: NDArray[np.bool_], axis: int) -> float | None:
    """Return the ghost-to-signal ratio of a mean volume.

    Giannelli et al. 2010, J. Appl. Clin. Med. Phys. 11:170: the mean of the air where a copy of the head would lie that
    is shifted by half the field of view along the phase direction, less the mean of the other air, over the head's
    median.

    Parameters
    ----------
    volume, mask
        (x, y, z).
    axis
        The phase direction.
    """
    shifted = np.roll(mask, mask.shape[axis] // 2, axis=axis) & ~mask
    air = ~shifted & ~mask
    signal = float(np.median(volume[mask])) if mask.any() else 0.0
    if not shifted.any() or not air.any() or signal <= 0:
        return None
    return float(volume[shifted].mean() - volume[air].mean()) / signal


def measure_run(
    run: Run, plain: NDArray[Any], standardised: NDArray[Any], *, tsnr: float | None, unsteady: int | None
) -> tuple[list[Metric], list[Finding]]:
    """Sum up a run: metrics, and what stands out in it.

    Parameters
    ----------
    run
        From `walk`.
    plain, standardised
        From `dvars`.
    tsnr, unsteady
        What nipype made of the run, or None.
    """
    spikes = find_spikes(run)
    lost, gone = find_losses(run)
    level = np.nanmean(run.slice_means, axis=1)
    mean = float(np.mean(level))
    slope = float(np.polyfit(np.linspace(0, 1, len(level)), level, 1)[0]) if np.isfinite(level).all() else None
    place = np.median(run.centres, axis=0)
    away = np.linalg.norm(run.centres - place, axis=1)
    still = "nothing varies over time"
    metrics = [
        metric("tsnr", tsnr, still),
        metric("dvars", float(np.mean(plain)), still),
        metric("dvars_std", float(np.mean(standardised)), still),
        metric("drift", 100 * slope / mean if slope is not None and mean else None),
        metric("motion_index", float(np.mean(away)), "a volume is empty"),
        metric("spikes", len(spikes)),
        metric("unsteady_volumes", unsteady),
    ]
    checks = []
    if lost:
        checks.append(finding("dropped-volume", f"Hardly any signal in {_places('volume', lost)}."))
    if gone:
        checks.append(finding("dropped-slice", f"Hardly any signal in {_pairs(gone)}."))
    spikes = [pair for pair in spikes if pair not in gone and pair[0] not in lost]
    if spikes:
        checks.append(finding("spike", f"A jump against the volumes before and behind in {_pairs(spikes)}."))
    if run.doubles:
        text = f"The same, voxel by voxel, as the one before: {_places('volume', run.doubles)}."
        checks.append(finding("double-volume", text))
    if unsteady:
        checks.append(finding("unsteady-volumes", f"The signal is not steady yet in the first {unsteady}."))
    return metrics, checks


_NAMED = 8


def _places(noun: str, numbers: list[int] | tuple[int, ...]) -> str:
    """Name volumes, counted from 0, the first few of them."""
    named = ", ".join(str(number) for number in numbers[:_NAMED])
    more = f" and {len(numbers) - _NAMED} more" if len(numbers) > _NAMED else ""
    return f"{noun if len(numbers) == 1 else noun + 's'} {named}{more}"


def _pairs(pairs: list[tuple[int, int]]) -> str:
    named = "; ".join(f"volume {volume}, slice {place}" for volume, place in pairs[:_NAMED])
    more = f" and {len(pairs) - _NAMED} more" if len(pairs) > _NAMED else ""
    return named + more
