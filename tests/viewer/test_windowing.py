"""What is black and what is white follows one formula, whichever way it is worked out; defaults suit the image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from viewer.image import Image, from_memory
from viewer.windowing import COLOUR_MAPS, OVERLAY_COLOURS, Window, blend, colour_table, measure, paint, presets

KINDS = ("u1", "i1", "u2", "i2", "f4")


def _image(values: np.ndarray, **more: object) -> Image:
    return from_memory(values.reshape(1, 1, *values.shape), affine=np.eye(4), **more)  # type: ignore[arg-type]


def _grey(colours: np.ndarray) -> np.ndarray:
    red, green, blue = ((colours >> shift & 255).astype(int) for shift in (16, 8, 0))
    assert (red == green).all()
    assert (green == blue).all()
    return red


@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 1 << 16),
    slope=st.floats(0.01, 50),
    intercept=st.floats(-2000, 2000),
    low=st.floats(-3000, 3000),
    width=st.floats(1, 5000),
    inverted=st.booleans(),
)
def test_every_type_is_painted_by_the_same_formula(
    *, kind: str, seed: int, slope: float, intercept: float, low: float, width: float, inverted: bool
) -> None:
    chance = np.random.default_rng(seed)
    stored = chance.integers(0, 256, (5, 7)).astype("u1").view("u1") if kind.endswith("1") else None
    values = stored.view(kind) if stored is not None else chance.integers(-32768, 32768, (5, 7)).astype(kind)
    image = _image(values, slope=slope, intercept=intercept, inverted=inverted)
    real = values.astype(np.float64) * slope + intercept
    expected = np.clip((real - low) / width, 0, 1) * 255
    expected = 255 - expected if inverted else expected
    found = _grey(paint(values, Window(low=low, high=low + width), image))
    # Single precision: a hundred-thousandth of what is subtracted from each other, on the scale of 255 greys.
    slack = 0.51 + 255 / width * 1e-6 * (np.abs(real).max() + abs(low) + abs(intercept))
    assert np.abs(found - expected).max() <= slack


def test_what_is_no_number_and_what_is_padding_is_black() -> None:
    values = np.array([[np.nan, np.inf, -np.inf, 5.0]], np.float32)
    assert list(_grey(paint(values, Window(low=0, high=10), _image(values)))[0]) == [0, 255, 0, 128]
    padded = np.array([[-2000, 0, 100]], np.int16)
    image = _image(padded, padding=-2000.0, inverted=True)
    assert list(_grey(paint(padded, Window(low=0, high=100), image))[0]) == [0, 255, 0]


def test_colour_is_shown_as_it_is() -> None:
    values = np.array([[[255, 128, 0], [1, 2, 3]]], np.uint8)
    image = from_memory(values.reshape(1, 1, 1, 2, 3), affine=np.eye(4))
    assert [f"{one:08x}" for one in paint(values, Window(low=0, high=255), image)[0]] == ["ffff8000", "ff010203"]


def test_colour_maps_grow_brighter_from_end_to_end() -> None:
    for name in COLOUR_MAPS:
        table = colour_table(name)
        red, green, blue = ((table >> shift & 255).astype(float) for shift in (16, 8, 0))
        luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
        assert (np.diff(luminance) >= -1.5).all(), name
        assert luminance[-1] - luminance[0] > 150, name


def test_the_default_keeps_the_tissue_between_black_and_white() -> None:
    chance = np.random.default_rng(0)
    head = np.concatenate([np.zeros(60_000), chance.normal(500, 60, 40_000), [30_000.0] * 20]).astype(np.float32)
    chance.shuffle(head)
    found = measure(_image(head[:100_000].reshape(250, 400)))
    assert found.robust.low == pytest.approx(0, abs=400)
    assert 600 < found.robust.high < 900, "a few voxels of a vessel do not darken the brain"
    assert found.maximum == 30_000


@given(st.sampled_from(KINDS), st.integers(-100, 100), st.integers(1, 30), st.integers(1, 30))
def test_an_image_of_one_value_has_a_contrast_too(kind: str, value: int, rows: int, columns: int) -> None:
    values = np.full((rows, columns), abs(value) if kind[0] == "u" else value).astype(kind)
    found = measure(_image(values))
    assert found.robust.high > found.robust.low
    assert found.counts.sum() > 0
    for window in presets(found).values():
        assert window.high > window.low


def test_windows_of_ct_are_offered_for_hounsfield_units_only() -> None:
    ct = measure(_image(np.array([[-1000, 0, 40, 1500]], np.int16)))
    assert presets(ct)["CT brain"] == Window(low=0, high=80)
    mr = measure(_image(np.array([[0, 900, 1500]], np.int16)))
    assert not any(name.startswith("CT") for name in presets(mr))


@given(st.integers(0, 255), st.floats(0, 1), st.integers(1, 600))
def test_overlays_mix_as_they_say(grey: int, opacity: float, label: int) -> None:
    base = np.full((2, 2), 0xFF000000 | grey << 16 | grey << 8 | grey, np.uint32)
    labels = np.array([[0, label], [0, 0]])
    mixed = blend(base, labels, opacity=opacity)
    assert (mixed.ravel()[[0, 2, 3]] == base.ravel()[[0, 2, 3]]).all(), "where there is no label nothing changes"
    colour = OVERLAY_COLOURS[((label - 1) % 255) % len(OVERLAY_COLOURS)]
    for shift, part in zip((16, 8, 0), colour, strict=True):
        assert int(mixed[0, 1]) >> shift & 255 == pytest.approx(grey + opacity * (part - grey), abs=0.51)
