"""When a disk will be full, said only where the nights so far bear it out.

The line is that of Theil and Sen, the median of all slopes between two nights, which a migration or an odd night does
not move; the quartiles of these slopes give the range. A purge begins a new line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

NIGHTS: Final = 28
"""So many nights are looked back at."""

FEWEST: Final = 6
"""With fewer nights since the last purge nothing is said."""

_PURGE_SHARE, _PURGE_BYTES = 0.02, 5e9
_JUMP = 8.0
# A night that adds so many times the usual is a migration, not a rate.


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """When nothing is left, if it goes on like this.

    Attributes
    ----------
    days
        Until then, from the last night.
    soonest, latest
        The range by the quartiles of the slopes; `latest` may be infinite.
    per_day
        Bytes, or inodes, that are taken a day.
    nights
        How many nights it rests on.
    """

    days: float
    soonest: float
    latest: float
    per_day: float
    nights: int


def forecast(days: Sequence[float], used: Sequence[float], available: float) -> Forecast | None:
    """Say when a disk will be full.

    Parameters
    ----------
    days
        When each measurement was taken, in days, ascending.
    used
        What was taken then.
    available
        What is left at the last of them.

    Returns
    -------
    Forecast or None
        None with too few nights since the last purge, or if it is not filling.
    """
    when, taken = np.asarray(days, float)[-NIGHTS:], np.asarray(used, float)[-NIGHTS:]
    capacity = taken[-1] + available if len(taken) else 0.0
    start = _after_last_purge(taken, capacity)
    when, taken = when[start:], taken[start:]
    if len(taken) < FEWEST or not capacity > 0:
        return None
    slopes = _slopes(when, _without_jumps(when, taken))
    low, middle, high = np.quantile(slopes, (0.25, 0.5, 0.75))
    if not middle > 0:
        return None
    return Forecast(
        days=available / middle,
        soonest=available / high,
        latest=available / low if low > 0 else math.inf,
        per_day=float(middle),
        nights=len(taken),
    )


def _after_last_purge(used: NDArray[np.float64], capacity: float) -> int:
    """Give the first night after the last drop that is more than the usual coming and going."""
    drops = np.flatnonzero(-np.diff(used) > max(_PURGE_SHARE * capacity, min(_PURGE_BYTES, 0.05 * capacity)))
    return int(drops[-1]) + 1 if drops.size else 0


def _without_jumps(when: NDArray[np.float64], used: NDArray[np.float64]) -> NDArray[np.float64]:
    """Take a night in which far more came than ever else for what it is: a step, not a rate."""
    steps = np.diff(used)
    rates = steps / np.maximum(np.diff(when), 1e-9)
    usual = np.median(np.abs(rates))
    if usual > 0:
        steps = np.where(rates > _JUMP * usual, usual * np.diff(when), steps)
    return np.concatenate([used[:1], used[0] + np.cumsum(steps)])


def _slopes(when: NDArray[np.float64], used: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the slope between every two nights; those of whole weeks count alone once there are enough of them.

    What is scanned on working days only fills a disk in steps of weeks: slopes over whole weeks do not see the weekend.
    """
    first, second = np.triu_indices(len(when), 1)
    apart = when[second] - when[first]
    slopes = (used[second] - used[first]) / np.maximum(apart, 1e-9)
    weeks = np.abs(apart / 7 - np.round(apart / 7)) < 0.08
    return np.asarray(slopes[weeks] if len(when) >= 14 and np.count_nonzero(weeks) >= 7 else slopes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Horizon:
    """From when on a forecast is a finding.

    Attributes
    ----------
    critical_days, warning_days, notice_days
        If it is full within so many days.
    least_used
        And already so full, from 0 to 1: an empty disk that fills quickly is no alarm.
    """

    critical_days: float = 3.0
    warning_days: float = 10.0
    notice_days: float = 30.0
    least_used: float = 0.6
