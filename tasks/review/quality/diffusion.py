"""Measure a set of diffusion-weighted volumes: shells, directions, and slices that motion has blanked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.review.finding import Finding, counted, finding
from tasks.review.quality.functional import DROPPED_SHARE, Run
from tasks.review.quality.metric import Metric, metric, undefined

NO_WEIGHTING = 50.0
"""s/mm2 below which a volume counts as not weighted: gradients for imaging alone give that much."""

SHELL_GAP = 100.0
"""s/mm2 between neighbouring b-values from which they are two shells; scanners' own vary by less within one."""

SAME_DIRECTION_DEGREES = 1.0
"""Directions nearer than this are one; the nearest of any scheme in use are several degrees apart."""

_UNIT_TOLERANCE = 0.01
_NAMES = ("b0_volumes", "shells", "directions", "dropout_slices")
_NAMED = 8
_DROPOUT_SD = 4.0
# Robust SDs below the shell's median; the share of the signal has to be lost, too.
_DROPOUT_SHARE = 0.75


def read_gradients(bval: Path, bvec: Path) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Read b-values (n,) in s/mm2 and directions (n, 3) as FSL writes them; None if they do not fit."""
    try:
        values = np.array([float(word) for word in bval.read_text("ascii").split()])
        rows = [[float(word) for word in line.split()] for line in bvec.read_text("ascii").splitlines() if line.strip()]
        vectors = np.array(rows, dtype=np.float64).T
    except (OSError, ValueError):
        return None
    if vectors.ndim != 2 or vectors.shape != (len(values), 3) or not np.isfinite(values).all():
        return None
    return values, vectors


def shell_numbers(values: NDArray[Any]) -> NDArray[np.intp]:
    """Return for each volume the number of its shell, 0 for no weighting, ascending with the b-value."""
    order = np.argsort(values, kind="stable")
    numbers = np.zeros(len(values), np.intp)
    shell, last = 0, -np.inf
    for index in order:
        if values[index] >= NO_WEIGHTING:
            if shell == 0 or values[index] - last > SHELL_GAP:
                shell += 1
            last = values[index]
            numbers[index] = shell
    return numbers


def distinct_directions(vectors: NDArray[Any]) -> list[int]:
    """Return which vectors, by number, point where none before them does; opposite ones point the same way."""
    near = np.cos(np.radians(SAME_DIRECTION_DEGREES))
    kept: list[int] = []
    for index, vector in enumerate(vectors):
        length = float(np.linalg.norm(vector))
        if length == 0 or not np.isfinite(length):
            continue
        others = vectors[kept] / np.linalg.norm(vectors[kept], axis=1, keepdims=True) if kept else np.zeros((0, 3))
        if not len(others) or np.abs(others @ (vector / length)).max() < near:
            kept.append(index)
    return kept


def measure_gradients(bval: Path | None, bvec: Path | None, run: Run) -> tuple[list[Metric], list[Finding]]:
    """Measure the directions and, within each shell, which slices have lost signal.

    A slice that the head moved in during the gradients is dark in that volume alone: Andersson et al. 2016, NeuroImage
    141:556. It counts if it is below three quarters of the shell's median for that slice, and four robust SDs below it.
    """
    gradients = read_gradients(bval, bvec) if bval is not None and bvec is not None else None
    count = len(run.slice_all)
    if gradients is None or len(gradients[0]) != count:
        text = "The b-values and directions cannot be read, or are not as many as the volumes."
        return undefined(_NAMES, "no b-values and directions that fit"), [finding("gradients-differ", text)]
    values, vectors = gradients
    shells = shell_numbers(values)
    checks: list[Finding] = []
    lengths = np.linalg.norm(vectors, axis=1)
    odd = [int(one) for one in np.nonzero((shells > 0) & ~(np.abs(lengths - 1) < _UNIT_TOLERANCE))[0]]
    if odd:
        text = f"{counted(len(odd), 'weighted volume')} without a direction of length 1, the first {odd[0]}."
        checks.append(finding("direction-invalid", text))
    directions = 0
    repeated = 0
    for shell in range(1, int(shells.max(initial=0)) + 1):
        members = vectors[shells == shell]
        found = len(distinct_directions(members))
        repeated += len(members) - found
        directions += found
    slices = find_dropout(run, shells)
    if slices:
        named = "; ".join(f"volume {volume}, slice {place}" for volume, place in slices[:_NAMED])
        more = f" and {len(slices) - _NAMED} more" if len(slices) > _NAMED else ""
        checks.append(finding("signal-dropout", f"Signal is missing in {named}{more}."))
    if run.doubles:
        numbers = ", ".join(str(volume) for volume in run.doubles[:_NAMED])
        text = f"The same, voxel by voxel, as the one before: volumes {numbers}."
        checks.append(finding("double-volume", text))
    if repeated:
        text = f"{counted(repeated, 'weighted volume')} repeat a direction of their shell."
        checks.append(finding("direction-repeated", text))
    metrics = [
        metric("b0_volumes", int(np.count_nonzero(shells == 0))),
        metric("shells", int(shells.max(initial=0))),
        metric("directions", directions),
        metric("dropout_slices", len(slices)),
    ]
    return metrics, checks


def find_dropout(run: Run, shells: NDArray[np.intp]) -> list[tuple[int, int]]:
    """Name volume and slice, counted from 0, where a slice is darker than its shell lets expect."""
    found = []
    for shell in np.unique(shells):
        members = np.nonzero(shells == shell)[0]
        if len(members) < 5:
            continue
        means = run.slice_means[members]
        usual = np.median(means, axis=0)
        spread = 1.4826 * np.median(np.abs(means - usual), axis=0)
        solid = np.nan_to_num(usual) > DROPPED_SHARE * np.nanmedian(usual)
        low = (means < _DROPOUT_SHARE * usual) & (means < usual - _DROPOUT_SD * spread) & solid
        found += [(int(members[row]), int(place)) for row, place in zip(*np.nonzero(low), strict=True)]
    return sorted(found)
