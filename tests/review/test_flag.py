"""What stands out among its like is flagged, whatever the units; what is merely different elsewhere is not."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.review.flag import FEWEST, THRESHOLD, Flag, Measured, flag_outliers


def _images(values: list[float], scanner: str = "one", sequence: str = "T1w") -> list[Measured]:
    return [
        Measured(key=f"{scanner}-{sequence}-{number}", scanner=scanner, sequence=sequence, metrics={"snr": value})
        for number, value in enumerate(values)
    ]


USUAL = [10.0, 10.4, 9.8, 10.1, 9.7, 10.2, 10.3]


def test_the_one_that_stands_out_is_named_with_what_it_stands_out_from() -> None:
    flags = flag_outliers(_images([*USUAL, 4.0]))
    (flag,) = flags.pop("one-T1w-7")
    assert not any(flags.values())
    median = statistics.median([*USUAL, 4.0])
    mad = statistics.median(abs(value - median) for value in [*USUAL, 4.0])
    assert flag.metric == "snr"
    assert (flag.value, flag.median, flag.others) == (4.0, median, 7)
    # Iglewicz and Hoaglin 1993, equation of the modified z-score.
    assert flag.score == pytest.approx(0.6745 * (4.0 - median) / mad, abs=0.006)
    assert Flag.from_json(flag.to_json()) == flag


def test_each_scanner_and_sequence_has_its_own_measure() -> None:
    """Two good data sets differ by a factor of five, and none of their images is a bad one."""
    apart = _images(USUAL) + _images([value * 5 for value in USUAL], scanner="two")
    apart += _images([value * 9 for value in USUAL], sequence="bold")
    assert not any(flag_outliers(apart).values())
    mixed = _images([*USUAL, *(value * 5 for value in USUAL[:2])])
    assert sum(map(bool, flag_outliers(mixed).values())) == 2


def test_few_images_say_nothing_of_each_other() -> None:
    few = [*USUAL[: FEWEST - 2], 1000.0]
    assert not any(flag_outliers(_images(few)).values())
    assert any(flag_outliers(_images([*few, USUAL[-1]])).values())


def test_where_most_are_equal_the_odd_one_is_flagged_and_rounding_is_not() -> None:
    assert [key for key, found in flag_outliers(_images([2.0] * 20 + [3.0])).items() if found] == ["one-T1w-20"]
    assert not any(flag_outliers(_images([2.0] * 20 + [2.0 + 1e-14])).values())
    assert not any(flag_outliers(_images([0.0] * 20)).values())


@given(
    st.lists(st.floats(-1e3, 1e3).map(lambda one: round(one, 3)), min_size=1, max_size=30),
    st.sampled_from([1e-3, 0.5, 7.0, 1e4]),
    st.randoms(use_true_random=False),
)
def test_flags_depend_on_neither_the_unit_nor_the_order(values: list[float], unit: float, shuffle: object) -> None:
    def flagged(images: list[Measured]) -> dict[str, bool]:
        # A score on the very edge may fall to either side when it is computed in other units.
        found = flag_outliers(images)
        assert found.keys() == {image.key for image in images}
        return {key: bool(one) and abs(one[0].score) > THRESHOLD + 0.01 for key, one in found.items()}

    once = flagged(_images(values))
    other = _images([value * unit for value in values])
    shuffle.shuffle(other)  # type: ignore[attr-defined]
    again = flagged(other)
    edge = {key for key in once if once[key] != again[key]}
    scores = flag_outliers(_images(values))
    assert all(not scores[key] or abs(abs(scores[key][0].score) - THRESHOLD) < 0.02 for key in edge)
