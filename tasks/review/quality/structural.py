"""Measure one volume of magnitudes: sharpness, noise and ghosts as far as they show without knowing the tissues."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.review.finding import Finding, counted, finding
from tasks.review.quality.metric import Metric, metric, undefined

DIETRICH_FACTOR = math.sqrt((4 - math.pi) / 2)
"""0.655: the SD that noise has in air, where magnitudes follow Rayleigh's law, over the SD that it has in the head."""

_MAD_TO_SD = 1.4826

_AIR = ("fber_median", "snr_air", "background_p95", "background_mad", "background_kurtosis")

_ZERO_SHARE = 0.5
# Of the air, more than this is exactly zero: somebody, or the scanner, has blanked it, and what is left is no sample.

_FEWEST_AIR, _FEWEST_HEAD = 1000, 100
# Voxels below which a percentile of air, or a median of the head, is a matter of chance.

_FEWEST_CLIPPED = 10
_PILE = 10
# So many voxels at the greatest value, and ten times as many as at the values of the hundredth of the range below it,
# each by itself: in an image that is not clipped they thin out towards the top.


def measure_volume(volume: NDArray[Any], mask: NDArray[np.bool_], voxel_mm: tuple[float, float, float]) -> list[Metric]:
    """Measure one volume.

    Parameters
    ----------
    volume
        (x, y, z), magnitudes, in any unit: the metrics do not depend on it.
    mask
        Where the head is, of the same shape.
    voxel_mm
        Size of a voxel.
    """
    ml = float(np.count_nonzero(mask)) * math.prod(voxel_mm) / 1000
    metrics = [metric("efc", entropy_focus(volume), "the image is empty"), metric("head_volume", ml)]
    head, air = volume[mask], volume[~mask]
    present = air[air != 0]
    if head.size < _FEWEST_HEAD:
        return metrics + undefined(_AIR, "no head can be told from the air")
    if air.size < _FEWEST_AIR:
        return metrics + undefined(_AIR, "there is no air in the image")
    if present.size < (1 - _ZERO_SHARE) * air.size:
        return metrics + undefined(_AIR, "the air was set to zero (defaced, skull-stripped or masked by the scanner)")
    signal = float(np.median(head))
    air_median = float(np.median(present))
    mad = float(np.median(np.abs(present - air_median)))
    flat = "the air does not vary"
    energy = air_median**2
    squares = (present.astype(np.float64) - present.mean(dtype=np.float64)) ** 2
    variance = float(np.mean(squares))
    # A product, because a power of four takes twenty times as long.
    kurtosis = float(np.mean(squares * squares)) / variance**2 - 3 if variance else None
    return [
        *metrics,
        metric("fber_median", signal**2 / energy if energy else None, flat),
        metric("snr_air", DIETRICH_FACTOR * signal / (_MAD_TO_SD * mad) if mad else None, flat),
        metric("background_p95", float(np.percentile(present, 95)) / signal if signal else None),
        metric("background_mad", mad / signal if signal else None),
        metric("background_kurtosis", kurtosis, flat),
    ]


def entropy_focus(volume: NDArray[Any]) -> float | None:
    """Return the entropy focus criterion, over the greatest that so many voxels may have.

    Atkinson et al. 1997, IEEE Trans. Med. Imaging 16:903. Voxels that are exactly zero are left out: rotating,
    defacing and masking make them, and they hold no signal.
    """
    values = np.abs(volume[volume != 0]).astype(np.float32).ravel()
    if values.size < 2:
        return None
    root = math.sqrt(float(np.dot(values, values)))
    shares = values / np.float32(root)
    greatest = values.size / math.sqrt(values.size) * math.log(1 / math.sqrt(values.size))
    return float(np.sum(shares * np.log(shares), dtype=np.float64) / greatest)


def look_for_clipping(stored: NDArray[Any]) -> tuple[Metric, list[Finding]]:
    """Tell whether bright voxels were cut off at a greatest value.

    Parameters
    ----------
    stored
        Values as they are stored: a limit is one of the stored type, or of the bits of which it was made.
    """
    top = stored.max()
    at_top = int(np.count_nonzero(stored == top))
    share = metric("clipped_share", at_top / stored.size)
    low = float(stored.min())
    below = stored[(stored >= float(top) - (float(top) - low) / 100) & (stored < top)]
    usual = below.size / max(1, np.unique(below).size)
    if at_top < _FEWEST_CLIPPED or at_top < _PILE * max(1.0, usual) or float(top) <= low or at_top > stored.size / 2:
        return share, []
    text = f"{counted(at_top, 'voxel')} hold the greatest value there is, and hardly any a little less: cut off."
    return share, [finding("clipped", text)]
