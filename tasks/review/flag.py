"""Tell which images stand out among their like: advice on where to look first, never a verdict."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

THRESHOLD = 3.5
"""From which modified z-score on a value is flagged (Iglewicz and Hoaglin 1993, How to Detect and Handle Outliers)."""

FEWEST = 6
"""Images a group must have: among fewer, one that is ordinary stands out too easily."""

_MAD_TO_SD, _MEAN_TO_SD = 0.6745, 0.7979
# What the median and the mean of the absolute deviations of a normal distribution are, as shares of its SD.

_NO_SPREAD = 1e-9
# Deviations smaller than this share of the median are rounding.


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was measured of one image.

    Attributes
    ----------
    key
        Names the image.
    scanner
        Which scanner it comes from, as far as an export tells: images are compared with those of the same one.
    sequence
        What kind of acquisition it is: likewise.
    metrics
        Name to value; what is not defined is not there.
    """

    key: str
    scanner: str
    sequence: str
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One metric of one image that is far from what its like have.

    Attributes
    ----------
    metric
        Its name.
    value, median
        Of this image, and of its group.
    score
        The modified z-score: how many standard deviations of an undisturbed group it is away, with its sign.
    others
        How many other images it was compared with.
    """

    metric: str
    value: float
    median: float
    score: float
    others: int

    def to_json(self) -> dict[str, Any]:
        """Return plain data for a JSON file."""
        return {name: getattr(self, name) for name in ("metric", "value", "median", "score", "others")}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Flag:
        """Rebuild from `to_json`.

        Raises
        ------
        KeyError, TypeError, ValueError
            If a field is missing or not what it must be.
        """
        return cls(
            metric=str(content["metric"]),
            value=float(content["value"]),
            median=float(content["median"]),
            score=float(content["score"]),
            others=int(content["others"]),
        )


def flag_outliers(images: Iterable[Measured]) -> dict[str, tuple[Flag, ...]]:
    """Flag what is far from the median of its scanner and sequence, in units of the median absolute deviation.

    No threshold is absolute: good data sets differ from each other by more than good and bad images of one of them.
    Where more than half of a group have the very same value, the mean absolute deviation stands in (Iglewicz and
    Hoaglin again).

    Returns
    -------
    dict
        Key to flags, the gravest first; every image is in it.
    """
    groups: dict[tuple[str, str, str], list[tuple[str, float]]] = defaultdict(list)
    flags: dict[str, list[Flag]] = {}
    for image in images:
        flags[image.key] = []
        for metric, value in image.metrics.items():
            groups[image.scanner, image.sequence, metric].append((image.key, value))
    for (_, _, metric), members in groups.items():
        if len(members) < FEWEST:
            continue
        median = statistics.median(value for _, value in members)
        deviations = [abs(value - median) for _, value in members]
        spread = statistics.median(deviations) / _MAD_TO_SD
        if spread <= _NO_SPREAD * abs(median):
            spread = statistics.fmean(deviations) / _MEAN_TO_SD
        if spread <= _NO_SPREAD * abs(median):
            continue
        for key, value in members:
            score = (value - median) / spread
            if abs(score) > THRESHOLD:
                told = {"value": value, "median": median, "score": round(score, 2)}
                flags[key].append(Flag(metric=metric, others=len(members) - 1, **told))
    return {key: tuple(sorted(found, key=lambda flag: (-abs(flag.score), flag.metric))) for key, found in flags.items()}
