"""Coefficients of agreement are what other programs and the literature say they are, odd tables included."""

from __future__ import annotations

import csv
import importlib.util
import json
import warnings
from pathlib import Path

import numpy as np
import pandas
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import cohen_kappa_score
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.inter_rater import fleiss_kappa as judge_fleiss

from tasks.review.agreement import (
    MEASURES,
    NO_VERDICT,
    Undefined,
    agreement,
    cohen_kappa,
    compare,
    fleiss_kappa,
    gwet_coefficient,
    intraclass_correlation,
    kappa_of_worst,
    krippendorff_alpha,
    raw_agreement,
)
from tests.viewer.test_session import PLAIN, manifest, store_at
from viewer.session import Session

CLOSE = 1e-9
GRADES = 4

# Twelve units and four observers: Krippendorff, Computing Krippendorff's alpha-reliability, 2011, part C.
OBSERVERS = np.array(
    [
        [1, 1, 0, 1],
        [2, 2, 3, 2],
        [3, 3, 3, 3],
        [3, 3, 3, 3],
        [2, 2, 2, 2],
        [1, 2, 3, 4],
        [4, 4, 4, 4],
        [1, 1, 2, 1],
        [2, 2, 2, 2],
        [0, 5, 5, 5],
        [0, 0, 1, 1],
        [0, 0, 3, 0],
    ]
)
OBSERVERS = np.where(OBSERVERS == 0, NO_VERDICT, OBSERVERS - 1)


def tables(readers: int, *, grades: int = GRADES, lowest: int = 0) -> st.SearchStrategy[NDArray[np.int64]]:
    row = st.lists(st.integers(lowest, grades - 1), min_size=readers, max_size=readers)
    return st.lists(row, min_size=1, max_size=25).map(lambda rows: np.array(rows, dtype=np.int64))


def abide() -> NDArray[np.int64]:
    found = importlib.util.find_spec("mriqc_learn")
    assert found is not None
    assert found.origin is not None
    place = {"1.0": 0, "0.0": 1, "-1.0": 2}
    with (Path(found.origin).parent / "datasets" / "abide.tsv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    return np.array([[place.get(row[name], NO_VERDICT) for name in ("rater_1", "rater_2")] for row in rows])


@given(tables(2))
def test_cohen_is_that_of_scikit_learn(table: NDArray[np.int64]) -> None:
    for distance, judge in (("nominal", None), ("linear", "linear"), ("quadratic", "quadratic")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = cohen_kappa_score(table[:, 0], table[:, 1], labels=list(range(GRADES)), weights=judge)
        if np.isnan(expected):
            with pytest.raises(Undefined, match="one and the same grade"):
                cohen_kappa(table, GRADES, distance)  # type: ignore[arg-type]
        else:
            assert cohen_kappa(table, GRADES, distance) == pytest.approx(expected, abs=CLOSE)  # type: ignore[arg-type]


@given(tables(2))
def test_cohen_is_that_of_statsmodels(table: NDArray[np.int64]) -> None:
    crossed = np.zeros((GRADES, GRADES))
    np.add.at(crossed, (table[:, 0], table[:, 1]), 1)
    for distance, judge in (("nominal", None), ("linear", "linear"), ("quadratic", "quadratic")):
        try:
            ours = cohen_kappa(table, GRADES, distance)  # type: ignore[arg-type]
        except Undefined:
            continue
        with np.errstate(all="ignore"):
            assert ours == pytest.approx(cohens_kappa(crossed, wt=judge, return_results=False), abs=CLOSE)


@given(st.integers(2, 5).flatmap(tables))
def test_fleiss_is_that_of_statsmodels(table: NDArray[np.int64]) -> None:
    counts = (table[:, :, None] == np.arange(GRADES)).sum(axis=1)
    if len(np.unique(table)) == 1:
        with pytest.raises(Undefined, match="the same grade"):
            fleiss_kappa(table, GRADES)
    else:
        assert fleiss_kappa(table, GRADES) == pytest.approx(judge_fleiss(counts, method="fleiss"), abs=CLOSE)


@given(st.integers(2, 4).flatmap(tables))
@settings(max_examples=30, deadline=None)
def test_intraclass_correlation_is_that_of_an_analysis_of_variance(table: NDArray[np.int64]) -> None:
    cases, readers = table.shape
    assume(cases > 1)
    assume(len(np.unique(table.mean(axis=1))) > 1)
    case, reader = np.indices(table.shape)
    long = pandas.DataFrame({"case": case.ravel(), "reader": reader.ravel(), "value": table.ravel().astype(float)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = anova_lm(ols("value ~ C(case) + C(reader)", data=long).fit(), typ=2)
    squares = found["sum_sq"] / found["df"]
    of_cases, of_readers, of_rest = squares["C(case)"], squares["C(reader)"], squares["Residual"]
    agreeing = of_cases + (readers - 1) * of_rest + readers * (of_readers - of_rest) / cases
    consistent = of_cases + (readers - 1) * of_rest
    assume(min(agreeing, consistent) > 1e-6)
    assert intraclass_correlation(table, GRADES) == pytest.approx((of_cases - of_rest) / agreeing, abs=1e-7)
    assert intraclass_correlation(table, GRADES, "C,1") == pytest.approx((of_cases - of_rest) / consistent, abs=1e-7)


def test_published_examples_come_out() -> None:
    assert raw_agreement(OBSERVERS, 5) == pytest.approx(0.81818, abs=5e-6)
    assert gwet_coefficient(OBSERVERS, 5) == pytest.approx(0.77544, abs=5e-6)
    assert krippendorff_alpha(OBSERVERS, 5) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(OBSERVERS, 5, "ordinal") == pytest.approx(0.815, abs=5e-4)
    assert krippendorff_alpha(OBSERVERS, 5, "interval") == pytest.approx(0.849, abs=5e-4)
    # Shrout and Fleiss, Psychol Bull 1979, 86:420-428, tables 2 and 4.
    judges = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]])
    assert intraclass_correlation(judges, 11) == pytest.approx(0.29, abs=5e-3)
    assert intraclass_correlation(judges, 11, "C,1") == pytest.approx(0.71, abs=5e-3)


def test_the_double_ratings_of_abide_come_out() -> None:
    found = compare(abide(), 3, resamples=200)
    assert found.cases == 99
    expected = {
        "cohen": 0.393,
        "cohen_linear": 0.481,
        "cohen_quadratic": 0.568,
        "cohen_worst": 0.526,
        "alpha": 0.366,
        "alpha_ordinal": 0.560,
    }
    for name, value in expected.items():
        one = found.measures[name]
        assert one.value == pytest.approx(value, abs=5e-4), name
        assert one.low is not None
        assert one.high is not None
        assert one.low < value < one.high


@given(st.integers(2, 4).flatmap(lambda readers: tables(readers, lowest=NO_VERDICT)), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_names_and_order_of_cases_and_readers_change_nothing(table: NDArray[np.int64], random: object) -> None:
    found = compare(table, GRADES, resamples=20)
    cases = np.array(random.sample(range(len(table)), len(table)))  # type: ignore[attr-defined]
    assert compare(table[cases], GRADES, resamples=20) == found
    swapped = compare(table[:, ::-1], GRADES, resamples=0)
    for name, one in swapped.measures.items():
        assert one.reason or one.value is not None
        if one.value is None:
            assert found.measures[name].value is None
        else:
            assert one.value == pytest.approx(found.measures[name].value, abs=1e-9), name
            assert one.value <= 1 + 1e-9


@given(st.integers(2, 4).flatmap(lambda readers: tables(readers, lowest=0)))
def test_readers_of_one_mind_agree_wholly(table: NDArray[np.int64]) -> None:
    table[:] = table[:, :1]
    for name, one in compare(table, GRADES, resamples=0).measures.items():
        if one.value is None:
            assert len(np.unique(table)) == 1 or len(table) == 1 or (table == GRADES - 1).sum() in {0, table.size}, name
        else:
            assert one.value == pytest.approx(1, abs=1e-12), name


@pytest.mark.parametrize(
    ("table", "grades", "reasons"),
    [
        (np.empty((0, 2), dtype=np.int64), 3, dict.fromkeys(("raw", "cohen", "alpha", "gwet_ac1"), "read twice")),
        (np.array([[0, -1], [-1, 2]]), 3, dict.fromkeys(("raw", "cohen", "alpha", "gwet_ac1"), "read twice")),
        (np.zeros((9, 2), dtype=np.int64), 3, {"cohen": "one and the same", "fleiss": "the same", "alpha": "the same"}),
        (np.zeros((9, 2), dtype=np.int64), 3, {"icc_agreement": "do not vary", "cohen_worst": "one and the same"}),
        (np.zeros((9, 2), dtype=np.int64), 1, {"cohen": "single grade", "gwet_ac1": "single grade"}),
        (np.array([[0, 1]]), 3, {"icc_agreement": "fewer than two cases"}),
        (np.array([[0, 1, -1], [-1, 2, 1]]), 3, {"fleiss": "by every reader", "icc_consistency": "by every reader"}),
    ],
)
def test_what_cannot_be_computed_says_why(table: NDArray[np.int64], grades: int, reasons: dict[str, str]) -> None:
    found = compare(table, grades, resamples=10)
    for name, why in reasons.items():
        assert found.measures[name].value is None, name
        assert why in found.measures[name].reason, name
    json.dumps([one.value for one in found.measures.values()], allow_nan=False)


def test_readers_who_pass_nearly_everything_show_why_kappa_is_not_enough() -> None:
    table = np.zeros((100, 2), dtype=np.int64)
    table[0], table[1] = (0, 2), (2, 0)
    found = compare(table, 3, resamples=100).measures
    values = {name: one.value for name, one in found.items()}
    assert values["raw"] == pytest.approx(0.98)
    assert values["cohen"] is not None
    assert values["cohen"] < 0
    assert values["gwet_ac1"] is not None
    assert values["gwet_ac1"] > 0.97
    table[1] = 0
    lone = compare(table, 3, resamples=100).measures["cohen"]
    assert (lone.value, lone.low) == (0, None), "about 37 % of resamples do not hold the one case"
    assert "resamples define it" in lone.reason


def test_the_worst_grade_is_asked_for_by_itself() -> None:
    table = np.array([[0, 1], [1, 0], [2, 2], [0, 0], [2, 1]])
    assert kappa_of_worst(table, 3) == pytest.approx(cohen_kappa_score([0, 0, 1, 0, 1], [0, 0, 1, 0, 0]))


def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(5)
    truth = 0.7 + 0.3 / 3
    held = 0
    for number in range(200):
        first = random.integers(3, size=60)
        second = np.where(random.random(60) < 0.7, first, random.integers(3, size=60))
        one = compare(np.stack([first, second], axis=1), 3, resamples=200, seed=number).measures["raw"]
        assert one.low is not None
        assert one.high is not None
        held += one.low <= truth <= one.high
    assert 0.88 <= held / 200 <= 0.99


def test_repeats_stale_verdicts_and_lost_grades_are_told_apart(tmp_path: Path) -> None:
    said = {}
    repeating = manifest(6)
    protocol = PLAIN.from_json({**PLAIN.to_json(), "seed": 3, "repeat_share": 1.0})
    for reader, verdicts in (("ann", ["accept", "reject"]), ("bob", ["accept", "query"])):
        with store_at(tmp_path / f"{reader}.db", protocol=protocol) as store:
            session = Session(repeating, store, protocol, reader=reader)
            session.resume()
            while not session.is_finished:
                session.rate(verdicts[int(session.current.case.split("_")[0][-1]) % 2])
            said[reader] = store.events()
    digests = {entry.entry_id: entry.digest for entry in repeating.entries}
    found = agreement(said, ["accept", "query", "reject"], digests=digests, resamples=50)
    assert found.between is not None
    assert (found.between.cases, found.between.measures["raw"].value) == (6, 0.5)
    assert found.between.crossed == ((3, 0, 0), (0, 0, 0), (0, 3, 0))
    assert found.pairs == ()
    assert [(one.readers, one.cases, one.measures["raw"].value) for one in found.within] == [
        (("ann",), 6, 1.0),
        (("bob",), 6, 1.0),
    ]
    assert found.left_out == {"stale": 0, "not-on-scale": 0}
    digests[repeating.entries[0].entry_id] = "f" * 64
    changed = agreement(said, ["accept", "reject"], digests=digests, resamples=0)
    assert changed.left_out == {"stale": 4, "not-on-scale": 4}
    json.dumps(found.to_json(), allow_nan=False)


def test_every_measure_has_a_name_of_its_own() -> None:
    assert len({one.name for one in MEASURES.values()}) == len(MEASURES)
