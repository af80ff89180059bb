"""What can be measured of an image: names, units, meanings and sources, and a value or the reason why there is none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

METRICS: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        # name: unit, meaning, source
        "efc": ("", "entropy of the image, 0 to 1: higher with ghosts and motion", "Atkinson 1997"),
        "fber_median": ("", "median energy of the head over that of the air around it", "Shehzad 2015, with medians"),
        "snr_air": ("", "median of the head over the noise of the air (factor 0.655)", "Dietrich 2007"),
        "background_p95": ("", "95th percentile of the air, as a share of the head's median", "Mortamet 2009"),
        "background_mad": (
            "",
            "median absolute deviation of the air, as a share of the head's median",
            "Mortamet 2009",
        ),
        "background_kurtosis": ("", "kurtosis of the air above that of a normal distribution", "Mortamet 2009"),
        "head_volume": ("ml", "volume of the head mask", ""),
        "clipped_share": ("", "share of the voxels that hold the greatest value", ""),
        "tsnr": ("", "median over the head of mean over SD in time; motion is not corrected", "Parrish 2000"),
        "dvars_std": ("", "mean over time of DVARS over what an undisturbed run would have", "Nichols 2013"),
        "dvars": ("per mille", "mean over time of DVARS, in thousandths of the median signal", "Power 2012"),
        "drift": ("percent", "linear trend of the mean signal over the run", ""),
        "motion_index": ("mm", "mean distance of the centre of mass from its median place; no FD", ""),
        "spikes": ("", "slices of single volumes that are far from their neighbours in time", ""),
        "unsteady_volumes": ("", "volumes at the beginning that are not in the steady state", "nipype"),
        "gsr": ("", "ghost in the air half a field of view away over the signal", "Giannelli 2010"),
        "b0_volumes": ("", "volumes without diffusion weighting", ""),
        "shells": ("", "different b-values above zero", ""),
        "directions": ("", "different directions over all shells; a direction and its opposite are one", ""),
        "dropout_slices": ("", "slices of single volumes that have lost signal within their shell", "Andersson 2016"),
    }
)
"""Every metric; the README's table is printed from here.

Values depend on scanner and sequence: none is good or bad by itself; `tasks.review.flag` compares like with like.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One number.

    Attributes
    ----------
    name
        A key of `METRICS`.
    value
        None if it is not defined for this image.
    reason
        Why it is not; empty if it is.
    """

    name: str
    value: float | None
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain data for a JSON file."""
        return {"name": self.name, "value": self.value, "unit": METRICS[self.name][0], "reason": self.reason}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Metric:
        """Rebuild from `to_json`.

        Raises
        ------
        KeyError, TypeError, ValueError
            If a field is missing, not what it must be, or the metric is unknown.
        """
        name, value = content["name"], content["value"]
        if name not in METRICS:
            raise ValueError("an unknown metric")
        return cls(name=name, value=None if value is None else float(value), reason=str(content["reason"]))


def metric(name: str, value: float | None, reason: str = "not defined for this image") -> Metric:
    """Make a metric; what is no finite number is not defined, for the reason given."""
    if value is None or not math.isfinite(value):
        return Metric(name=name, value=None, reason=reason)
    # Six digits are more than any of these numbers mean, and equal on every machine.
    return Metric(name=name, value=float(f"{float(value):.6g}"))


def undefined(names: tuple[str, ...], reason: str) -> list[Metric]:
    """Say of several metrics that they are not defined, and why."""
    return [Metric(name=name, value=None, reason=reason) for name in names]
