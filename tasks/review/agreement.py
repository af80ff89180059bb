"""How well readers agree, with each other and with themselves: chance-corrected coefficients and their intervals.

Verdicts are positions on the study's ordinal scale, counted from 0 for the best. A table of them has shape (cases,
readers) and holds -1 where a reader gave none. Every coefficient takes the whole scale into account, also grades that
nobody gave.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.review.ratings import Event, standing

Table = NDArray[np.int64]
Distance = Literal["nominal", "linear", "quadratic"]

NO_VERDICT: Final = -1
"""Stands in a table where a reader gave no verdict."""

CONFIDENCE: Final = 0.95
"""The share of resamples that lies within an interval."""

_FEWEST_DEFINED = 0.9
# An interval out of fewer resamples would be that of another question: "given that the coefficient can be computed".


class Undefined(Exception):  # noqa: N818 - no fault, but an answer: this table has no such coefficient
    """A coefficient cannot be computed from a table; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A coefficient and how sure it is.

    Attributes
    ----------
    value
        None if it is not defined for these verdicts.
    low, high
        Percentile bootstrap interval over cases at `CONFIDENCE`; None if too few resamples define the coefficient.
    cases
        How many cases it rests on.
    reason
        Why value or interval is missing; empty if neither is.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    cases: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two or more columns of verdicts compared.

    Attributes
    ----------
    readers
        Whose they are; one name if it is a reader against the own hidden repeats.
    cases
        How many have verdicts of at least two of them.
    verdicts
        How often each grade was given in those cases, best first.
    crossed
        Of two columns, how often each pair of grades was given: shape (grades, grades), the first reader's in rows.
    measures
        By the keys of `MEASURES`.
    """

    readers: tuple[str, ...]
    cases: int
    verdicts: tuple[int, ...]
    crossed: tuple[tuple[int, ...], ...] | None
    measures: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What `agreement` found.

    Attributes
    ----------
    scale
        The names of the grades, best first.
    between
        All readers together; None if there is only one.
    pairs
        Each pair of readers, if there are more than two.
    within
        Each reader against the own hidden repeats.
    left_out
        How many verdicts do not count, by reason: the image changed since, or the grade is no longer on the scale.
    """

    scale: tuple[str, ...]
    between: Comparison | None
    pairs: tuple[Comparison, ...] = ()
    within: tuple[Comparison, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain data for a JSON file."""
        return asdict(self)


def agreement(
    events: Mapping[str, Sequence[Event]],
    scale: Sequence[str],
    *,
    digests: Mapping[str, str],
    resamples: int = 2000,
    seed: int = 0,
) -> Agreement:
    """Compare the standing verdicts of readers, and each reader's with those on the hidden repeats.

    Parameters
    ----------
    events
        The acts of each reader, by name.
    scale
        The names of the grades, best first.
    digests
        Of the cases to compare as they are now, by entry id: verdicts on other pictures, and on other cases, do not
        count.
    resamples
        How often cases are drawn anew for the intervals; 0 for no intervals.
    seed
        Of the draws.
    """
    grades = {name: place for place, name in enumerate(scale)}
    given: dict[tuple[str, int], dict[str, int]] = {}
    left_out = {"stale": 0, "not-on-scale": 0}
    for reader in sorted(events):
        for (case, presentation), found in standing(events[reader]).items():
            if not found.verdict or case not in digests:
                continue
            if found.digest != digests[case]:
                left_out["stale"] += 1
            elif found.verdict not in grades:
                left_out["not-on-scale"] += 1
            else:
                given.setdefault((reader, presentation), {})[case] = grades[found.verdict]
    readers = sorted({reader for reader, presentation in given if presentation == 1})

    def compared(names: tuple[str, ...], columns: Sequence[tuple[str, int]]) -> Comparison:
        cases = sorted({case for column in columns for case in given.get(column, {})})
        table = np.array(
            [[given.get(column, {}).get(case, NO_VERDICT) for column in columns] for case in cases], dtype=np.int64
        ).reshape(len(cases), len(columns))
        return compare(table, len(scale), readers=names, resamples=resamples, seed=seed)

    repeated = [reader for reader in readers if (reader, 2) in given]
    return Agreement(
        scale=tuple(scale),
        between=compared(tuple(readers), [(reader, 1) for reader in readers]) if len(readers) > 1 else None,
        pairs=tuple(compared(pair, [(one, 1) for one in pair]) for pair in combinations(readers, 2))
        if len(readers) > 2
        else (),
        within=tuple(compared((reader,), [(reader, 1), (reader, 2)]) for reader in repeated),
        left_out=left_out,
    )


def compare(
    table: Table, grades: int, *, readers: Sequence[str] = (), resamples: int = 2000, seed: int = 0
) -> Comparison:
    """Work out every coefficient that fits a table of verdicts, each with a bootstrap interval by case.

    Parameters
    ----------
    table
        Shape (cases, readers), 0 for the best grade, `NO_VERDICT` where there is none.
    grades
        How many steps the scale has.
    readers
        The names of the columns.
    resamples, seed
        As for `agreement`. Equal tables give equal intervals, in whatever order the cases stand.
    """
    read = table[(table != NO_VERDICT).sum(axis=1) >= 2]
    read = read[np.lexsort(read.T[::-1])] if read.size else read
    chosen = {
        name: measure.compute for name, measure in MEASURES.items() if table.shape[1] == 2 or not measure.needs_pair
    }
    measures = {name: _estimated(compute, read, grades, resamples, seed) for name, compute in chosen.items()}
    counts = np.bincount(read[read != NO_VERDICT], minlength=grades)
    crossed = None
    if table.shape[1] == 2:
        crossed = tuple(tuple(int(one) for one in row) for row in _crossed(read, grades))
    return Comparison(
        readers=tuple(readers),
        cases=len(read),
        verdicts=tuple(int(one) for one in counts),
        crossed=crossed,
        measures=measures,
    )


def _estimated(
    compute: Callable[[Table, int], float], table: Table, grades: int, resamples: int, seed: int
) -> Estimate:
    try:
        value = compute(table, grades)
    except Undefined as why:
        return Estimate(value=None, cases=len(table), reason=str(why))
    if not resamples:
        return Estimate(value=value, cases=len(table), reason="no interval was asked for")
    # The same draws for every coefficient, so that two of them can be compared.
    draws = np.random.default_rng(seed).integers(len(table), size=(resamples, len(table)))
    found = []
    for draw in draws:
        try:
            found.append(compute(table[draw], grades))
        except Undefined:
            continue
    if len(found) < _FEWEST_DEFINED * resamples:
        reason = f"only {len(found)} of {resamples} resamples define it"
        return Estimate(value=value, cases=len(table), reason=reason)
    low, high = np.quantile(found, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value=value, low=float(low), high=float(high), cases=len(table))


# -- coefficients ------------------------------------------------------------------------------------------------------


def raw_agreement(table: Table, grades: int) -> float:
    """Compute the share of pairs of verdicts on a case that are alike, averaged over cases."""
    return _observed(_counts(_read(table), grades), np.eye(grades))


def cohen_kappa(table: Table, grades: int, distance: Distance = "nominal") -> float:
    """Compute Cohen's kappa of two readers, plain or weighted by how far apart the grades are.

    Cohen, Educ Psychol Meas 1960, 20:37-46, and Psychol Bull 1968, 70:213-220.
    """
    _require_scale(grades)
    crossed = _crossed(_read(table), grades).astype(np.float64)
    apart = _apart(grades, distance)
    expected = np.outer(crossed.sum(axis=1), crossed.sum(axis=0)) / crossed.sum()
    by_chance = float((apart * expected).sum())
    if by_chance == 0:
        raise Undefined("both readers gave one and the same grade throughout")
    return 1.0 - float((apart * crossed).sum()) / by_chance


def kappa_of_worst(table: Table, grades: int) -> float:
    """Compute Cohen's kappa of two readers on the one question whether an image gets the worst grade."""
    _require_scale(grades)
    return cohen_kappa(np.where(table == NO_VERDICT, NO_VERDICT, (table == grades - 1).astype(np.int64)), 2)


def fleiss_kappa(table: Table, grades: int) -> float:
    """Compute Fleiss' kappa over the cases that every reader read; Fleiss, Psychol Bull 1971, 76:378-382."""
    counts = _counts(_complete(table), grades)
    shares = counts.sum(axis=0) / counts.sum()
    by_chance = float((shares**2).sum())
    if by_chance == 1:
        raise Undefined("all verdicts are the same grade")
    return (_observed(counts, np.eye(grades)) - by_chance) / (1.0 - by_chance)


def gwet_coefficient(table: Table, grades: int, distance: Distance = "nominal") -> float:
    """Compute Gwet's AC1, or AC2 if grades are weighted; cases of a single reader tell how common grades are.

    Gwet, Br J Math Stat Psychol 2008, 61:29-48, and Handbook of Inter-Rater Reliability, 4th edition 2014, chapter 5.
    Stays close to the raw agreement where nearly all verdicts are alike and kappa collapses.
    """
    _require_scale(grades)
    read = _read(table)
    likeness = 1.0 - _apart(grades, distance)
    rated = _counts(table[(table != NO_VERDICT).any(axis=1)], grades)
    shares = (rated / rated.sum(axis=1, keepdims=True)).mean(axis=0)
    by_chance = float(likeness.sum() / (grades * (grades - 1)) * (shares * (1.0 - shares)).sum())
    return (_observed(_counts(read, grades), likeness) - by_chance) / (1.0 - by_chance)


def krippendorff_alpha(
    table: Table, grades: int, level: Literal["nominal", "ordinal", "interval"] = "nominal"
) -> float:
    """Compute Krippendorff's alpha, missing verdicts allowed; Content Analysis, 2nd edition 2004, chapter 11."""
    counts = _counts(_read(table), grades)
    readers = counts.sum(axis=1)
    coincidences = np.einsum("ic,ik->ck", counts / (readers - 1)[:, None], counts)
    coincidences -= np.diag((counts / (readers - 1)[:, None]).sum(axis=0))
    totals = coincidences.sum(axis=0)
    if np.count_nonzero(totals) < 2:
        raise Undefined("all verdicts are the same grade")
    places = np.arange(grades, dtype=np.float64)
    if level == "nominal":
        apart = 1.0 - np.eye(grades)
    elif level == "interval":
        apart = (places[:, None] - places[None, :]) ** 2
    else:
        # As far apart as verdicts lie between two grades, half of those of either grade included.
        middles = np.cumsum(totals) - totals / 2
        apart = (middles[:, None] - middles[None, :]) ** 2
    by_chance = float((np.outer(totals, totals) * apart).sum()) / float(totals.sum() - 1)
    return 1.0 - float((coincidences * apart).sum()) / by_chance


def intraclass_correlation(table: Table, grades: int, kind: Literal["A,1", "C,1"] = "A,1") -> float:
    """Compute the intraclass correlation of single verdicts, over the cases that every reader read.

    "A,1" asks for the same grade, "C,1" lets a reader be stricter throughout; both are two-way: McGraw and Wong,
    Psychol Methods 1996, 1:30-46, table 4. Takes the steps of the scale as equally wide.
    """
    del grades  # only the distances count
    values: NDArray[np.float64] = _complete(table).astype(np.float64)
    cases, readers = values.shape
    if cases < 2:
        raise Undefined("fewer than two cases were read by every reader")
    middle = values.mean()
    by_case, by_reader = values.mean(axis=1) - middle, values.mean(axis=0) - middle
    of_cases = readers * float((by_case**2).sum()) / (cases - 1)
    of_readers = cases * float((by_reader**2).sum()) / (readers - 1)
    rest = values - middle - by_case[:, None] - by_reader[None, :]
    of_rest = float((rest**2).sum()) / ((cases - 1) * (readers - 1))
    whole = of_cases + (readers - 1) * of_rest
    if kind == "A,1":
        whole += readers * (of_readers - of_rest) / cases
    # What is left by rounding when nothing varies is no variance.
    if not whole > 1e-12:
        raise Undefined("the verdicts do not vary")
    return float((of_cases - of_rest) / whole)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One way to say how well readers agree.

    Attributes
    ----------
    name
        For people.
    compute
        Takes a table and the number of grades; raises `Undefined`.
    needs_pair
        True if it is made for two readers.
    """

    name: str
    compute: Callable[[Table, int], float]
    needs_pair: bool = False


MEASURES: Final[dict[str, Measure]] = {
    "raw": Measure(name="raw agreement", compute=raw_agreement),
    "cohen": Measure(name="Cohen's kappa", compute=cohen_kappa, needs_pair=True),
    "cohen_linear": Measure(
        name="Cohen's kappa, linear weights", compute=lambda table, k: cohen_kappa(table, k, "linear"), needs_pair=True
    ),
    "cohen_quadratic": Measure(
        name="Cohen's kappa, quadratic weights",
        compute=lambda table, k: cohen_kappa(table, k, "quadratic"),
        needs_pair=True,
    ),
    "cohen_worst": Measure(name="Cohen's kappa, worst grade or not", compute=kappa_of_worst, needs_pair=True),
    "fleiss": Measure(name="Fleiss' kappa", compute=fleiss_kappa),
    "gwet_ac1": Measure(name="Gwet's AC1", compute=gwet_coefficient),
    "gwet_ac2": Measure(
        name="Gwet's AC2, quadratic weights", compute=lambda table, k: gwet_coefficient(table, k, "quadratic")
    ),
    "alpha": Measure(name="Krippendorff's alpha, nominal", compute=krippendorff_alpha),
    "alpha_ordinal": Measure(
        name="Krippendorff's alpha, ordinal", compute=lambda table, k: krippendorff_alpha(table, k, "ordinal")
    ),
    "icc_agreement": Measure(name="ICC(A,1), absolute agreement", compute=intraclass_correlation),
    "icc_consistency": Measure(
        name="ICC(C,1), consistency", compute=lambda table, k: intraclass_correlation(table, k, "C,1")
    ),
}
"""Every coefficient, by the name it has in JSON."""


# -- tables ------------------------------------------------------------------------------------------------------------


def _read(table: Table) -> Table:
    read: Table = table[(table != NO_VERDICT).sum(axis=1) >= 2]
    if not len(read):
        raise Undefined("no case was read twice")
    return read


def _complete(table: Table) -> Table:
    complete: Table = table[(table != NO_VERDICT).all(axis=1)]
    if not len(complete) or table.shape[1] < 2:
        raise Undefined("no case was read by every reader")
    return complete


def _require_scale(grades: int) -> None:
    if grades < 2:
        raise Undefined("the scale has a single grade")


def _counts(table: Table, grades: int) -> NDArray[np.float64]:
    """Count how many readers gave each grade: shape (cases, grades)."""
    counts: NDArray[np.float64] = (table[:, :, None] == np.arange(grades)).sum(axis=1).astype(np.float64)
    return counts


def _crossed(table: Table, grades: int) -> NDArray[np.int64]:
    """Count each pair of grades: shape (grades, grades), the first column's in rows."""
    first, second = table.T
    return np.bincount(first * grades + second, minlength=grades * grades).reshape(grades, grades)


def _apart(grades: int, distance: Distance) -> NDArray[np.float64]:
    """Give how far apart grades are, 0 for the same and 1 for the ends of the scale."""
    if distance == "nominal":
        return 1.0 - np.eye(grades)
    places = np.arange(grades, dtype=np.float64) / (grades - 1)
    linear = np.abs(places[:, None] - places[None, :])
    return linear if distance == "linear" else linear**2


def _observed(counts: NDArray[np.float64], likeness: NDArray[np.float64]) -> float:
    """Average over cases how alike two verdicts on the same case are."""
    readers = counts.sum(axis=1)
    alike = (counts * (counts @ likeness - 1.0)).sum(axis=1)
    return float((alike / (readers * (readers - 1))).mean())
