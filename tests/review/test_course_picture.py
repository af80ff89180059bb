"""The course of an image is drawn from right numbers, the right way round, and volumes stand where they belong."""

from __future__ import annotations

import io
import itertools
import subprocess
import sys
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from tasks.errors import MissingPackageError
from tasks.review import course_picture
from tasks.review.course_picture import (
    DEPTH_ROWS,
    PLOT_WIDTH,
    SLICE_ROWS,
    WIDEST_PLOT,
    compose_course,
    render_course,
)

SPACING = np.array([3.0, 3.5, 4.0])
ORIENTATIONS = [
    (axes, signs) for axes in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)
]
AXIAL = np.diag([*SPACING, 1.0])


def _palette_picture(content: bytes) -> np.ndarray:
    """Return the indices into the palette, of which the first 240 are greys."""
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.mode == "P"
        return np.asarray(picture)


def _carpets(picture: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut both carpet plots out of a picture of so many volumes: they stand at the same distance above its end."""
    left, width = course_picture._LEFT, min(max(PLOT_WIDTH, count), WIDEST_PLOT)
    end = picture.shape[0] - (3 * 13 + 22 + 2 * 13 + 8 - 10) + 13
    bottom = next(row for row in range(end, 0, -1) if (picture[row, left : left + width] == 48).all())
    second = picture[bottom - DEPTH_ROWS : bottom, left : left + width]
    first_end = bottom - DEPTH_ROWS - 13 - 12
    return picture[first_end - SLICE_ROWS : first_end, left : left + width], second


def _run(shape: tuple[int, int, int, int] = (16, 18, 8, 40), seed: int = 1) -> np.ndarray:
    chance = np.random.default_rng(seed)
    data = np.zeros(shape, np.int16, order="F")
    data[3:-3, 3:-3, 1:-1] = 800
    return (data + chance.integers(0, 20, shape)).astype(np.int16, order="F")


def _save(data: np.ndarray, path: Path, *, affine: np.ndarray = AXIAL, seconds: float = 2.0) -> Path:
    image = nibabel.Nifti1Image(data, affine)
    image.header.set_zooms((*SPACING, seconds))
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, path)
    return path


# -- orientation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS, ids=str)
def test_the_body_is_the_right_way_round_however_it_is_stored(
    axes: tuple[int, int, int], signs: tuple[int, int, int]
) -> None:
    """A body whose right, front, upper octant alone is bright, stored with its axes in any order and direction."""
    body = np.full((20, 24, 16, 3), 100, np.int16)
    body[10:, 12:, 8:] = 1000  # RAS+: the right, the front and the head are where the indices are high
    body[..., 1] += 5  # what is quite constant has no deviation to draw
    stored, affine = body, np.zeros((4, 4))
    affine[3, 3] = 1
    for place, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        affine[axis, place] = sign * SPACING[axis]
    stored = np.transpose(stored, (*axes, 3))
    for place, sign in enumerate(signs):
        stored = np.flip(stored, place) if sign < 0 else stored
    picture = _palette_picture(compose_course(stored, affine=affine))

    run = course_picture._run(stored, affine, None)
    width = picture.shape[1]
    mosaic = course_picture._Mosaic.lay_out(run, width - (width + course_picture._APART) // 2)
    wide, high = mosaic.tile
    plane = axes[2]
    across, down = {0: (1, 2), 1: (0, 2), 2: (0, 1)}[plane]
    shape, spacing = np.array([20, 24, 16]), SPACING
    assert wide / high == pytest.approx(shape[across] * spacing[across] / (shape[down] * spacing[down]), rel=0.05)
    bright = []
    for number in range(shape[plane]):
        left = 24 + number % mosaic.across * (wide + 2)
        top = 2 * 13 - 13 + 6 + 24 + number // mosaic.across * (high + 2)
        tile = picture[top : top + high, left : left + wide] > 150
        # Numbers stand in the upper left corner; the rest of that quadrant tells.
        quadrants = [
            tile[high // 4 : high // 2 - 2, wide // 4 : wide // 2 - 2],
            tile[: high // 2 - 2, wide // 2 + 2 :],
            tile[high // 2 + 2 :],
        ]
        bright.append(quadrants[0].all())
        assert not quadrants[1].any()
        assert not quadrants[2].any()
    # From right to left, front to back, feet to head: the bright half comes first, but for the feet.
    expected = [False] * 8 + [True] * 8 if plane == 2 else [True] * (shape[plane] // 2) + [False] * (shape[plane] // 2)
    assert bright == expected
    sides = {0: "APSI", 1: "RLSI", 2: "RLAP"}[plane]
    frame = picture[13 + 6 : 13 + 6 + mosaic.height, : 48 + mosaic.across * (wide + 2)]
    strips = (frame[:, :22], frame[:, -26:], frame[:23], frame[-23:])
    for letter, strip in zip(sides, strips, strict=True):
        for other in "RLAPSI":
            assert _contains(strip, other) == (other == letter), (letter, other)


def _contains(picture: np.ndarray, text: str) -> bool:
    font = ImageFont.load_default_imagefont()
    width, height = (int(one) for one in font.getbbox(text)[2:])
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).text((0, 0), text, fill=255, font=font)
    stamp = np.asarray(mask.resize((2 * width, 2 * height), Image.Resampling.NEAREST)) > 0
    windows = np.lib.stride_tricks.sliding_window_view(picture == 239, stamp.shape)
    return bool((windows == stamp).all(axis=(2, 3)).any())


def test_without_a_place_no_side_is_named(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(_run(), None)
    assert int(image.header["qform_code"]) == int(image.header["sform_code"]) == 0
    nibabel.save(image, tmp_path / "run.nii")
    placed = _palette_picture(compose_course(_save(_run(), tmp_path / "placed.nii")))
    picture = _palette_picture(compose_course(tmp_path / "run.nii"))
    for letter in "RLAPSI":
        assert _contains(placed[:, :540], letter)
        assert not _contains(picture[:, :540], letter)


# -- the numbers -------------------------------------------------------------------------------------------------------


@given(
    arrays.arrays(
        st.sampled_from([np.int16, np.uint8, np.int32, np.float32]),
        (3, 4, 2, 7),
        elements=st.integers(0, 200),
    ),
    st.sampled_from([0, 10_000, 30_000]),
)
def test_mean_and_deviation_are_those_of_every_voxel(data: np.ndarray, offset: int) -> None:
    data = data if data.dtype == np.uint8 else data + data.dtype.type(offset)
    run = course_picture._run(data, AXIAL, None)
    mean, deviation = course_picture._moments(run)
    np.testing.assert_allclose(mean, data.mean(axis=3, dtype=np.float64), rtol=1e-6, atol=1e-3)
    np.testing.assert_allclose(deviation, data.std(axis=3, dtype=np.float64), rtol=1e-5, atol=1e-3)


def test_a_file_is_scaled_as_its_header_says(tmp_path: Path) -> None:
    stored = _run()
    content = bytearray(_save(stored, tmp_path / "run.nii").read_bytes())
    content[112:120] = np.array([0.25, -100], "<f4").tobytes()  # scl_slope and scl_inter
    (tmp_path / "run.nii").write_bytes(content)
    run = course_picture._open(tmp_path / "run.nii", None)
    mean, deviation = course_picture._moments(run)
    expected = nibabel.load(tmp_path / "run.nii").get_fdata()
    np.testing.assert_allclose(mean, expected.mean(axis=3), rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(deviation, expected.std(axis=3), rtol=1e-4, atol=1e-3)
    assert (run.slope, run.intercept) == (0.25, -100)


def test_what_is_no_number_counts_as_zero() -> None:
    data = _run().astype(np.float32)
    data[5, 5, 3, 2] = np.nan
    data[6, 5, 3, 2] = np.inf
    changed = data.copy()
    changed[5:7, 5, 3, 2] = 0
    assert compose_course(data, affine=AXIAL) == compose_course(changed, affine=AXIAL)


@given(arrays.arrays(np.bool_, (7, 6, 5)))
def test_depth_is_the_distance_to_the_edge_in_steps(inside: np.ndarray) -> None:
    expected = ndimage.distance_transform_cdt(np.pad(inside, 1), metric="taxicab")[1:-1, 1:-1, 1:-1]
    assert np.array_equal(course_picture._depth(inside), expected)


def test_units_of_time_are_minded(tmp_path: Path) -> None:
    seconds = _save(_run(), tmp_path / "seconds.nii", seconds=1.5)
    image = nibabel.load(seconds)
    image.header.set_zooms((*SPACING, 1500))
    image.header.set_xyzt_units("mm", "msec")
    nibabel.save(image, tmp_path / "milliseconds.nii")
    assert course_picture._open(tmp_path / "milliseconds.nii", None).repetition_time == pytest.approx(1.5)
    assert compose_course(seconds) == compose_course(tmp_path / "milliseconds.nii")
    assert compose_course(seconds) != compose_course(seconds, repetition_time=2.5)


def test_a_file_is_never_copied_whole(tmp_path: Path) -> None:
    path = _save(_run((64, 64, 24, 80)), tmp_path / "run.nii")
    size = path.stat().st_size
    tracemalloc.start()
    compose_course(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size > 15e6
    assert peak < 0.8 * size  # as float64 it would be four times as large as it is


# -- what stands where -------------------------------------------------------------------------------------------------


def test_a_changed_volume_darkens_its_column_and_no_other() -> None:
    data = _run()
    data[..., 25] //= 2
    picture = _palette_picture(compose_course(data, affine=AXIAL))
    for carpet in _carpets(picture, 40):
        columns = carpet.mean(axis=0).reshape(40, -1).mean(axis=1)
        assert columns[25] < 20
        assert np.delete(columns, 25).min() > 90


def test_a_changed_slice_darkens_its_rows_and_no_others() -> None:
    data = _run()
    data[:, :, 4, 25] //= 2
    inside = np.zeros(data.shape[:3], bool)
    inside[3:-3, 3:-3, 1:-1] = True  # six slices of as many voxels
    by_slice, _ = _carpets(_palette_picture(compose_course(data, affine=AXIAL, mask=inside)), 40)
    column = by_slice[:, 25 * 24 + 12].reshape(6, -1).mean(axis=1)
    # The head is above, so the slices stand from the sixth (index 6) to the first (index 1).
    assert column[2] < 20
    assert np.delete(column, 2).min() > 60


def test_the_edge_is_above_the_middle() -> None:
    data = _run()
    data[5:-5, 5:-5, 3:-3, 30:] += 400
    _, by_depth = _carpets(_palette_picture(compose_course(data, affine=AXIAL)), 40)
    late, early = by_depth[:, 31 * 24 :].mean(axis=1), by_depth[:, : 29 * 24].mean(axis=1)
    assert (late - early)[-8:].min() > 100
    assert abs((late - early)[: DEPTH_ROWS // 2].mean()) < 20


def test_traces_and_carpet_share_the_time_axis() -> None:
    data = _run()
    data[..., 25] //= 2
    values = [1.0] * 40
    values[25] = 9.0
    picture = _palette_picture(
        compose_course(data, affine=AXIAL, motion_index=values, dvars=values[1:], global_mean=values)
    )
    _, carpet = _carpets(picture, 40)
    dark = np.flatnonzero(carpet.mean(axis=0) < 20)
    for number, at in enumerate((25, 25, 25)):  # a trace with one value fewer begins at the second volume
        full = course_picture._GREYS + course_picture._RAMP * (number + 1) - 1
        rows, columns = np.nonzero(picture[:, course_picture._LEFT :] == full)
        plot = rows > rows.min() + 14  # below the trace's name, which is written in its colour
        top = rows[plot].min()
        peak = columns[plot & (rows <= top + 2)].mean()
        assert abs(peak - (at + 0.5) * 24) <= 2, number
    assert (dark.min(), dark.max()) == (25 * 24, 26 * 24 - 1)


def test_values_that_are_not_there_are_gaps() -> None:
    values: list[float | None] = [None, *[1.0] * 9, None, *[float("nan")] * 10, 2.0, *[None] * 8, *[1.5] * 8, None, 1.0]
    assert len(values) == 40
    picture = _palette_picture(compose_course(_run(), affine=AXIAL, dvars=values))
    drawn = (picture >= course_picture._GREYS + 5) & (picture < course_picture._GREYS + 10)
    rows = np.flatnonzero(drawn.any(axis=1))
    plot = drawn[rows.min() + 12 : rows.max() + 1, course_picture._LEFT : course_picture._LEFT + PLOT_WIDTH]
    has = plot.any(axis=0).reshape(40, -1).any(axis=1)
    expected = [number in range(1, 10) or number == 21 or (number >= 30 and number != 38) for number in range(40)]
    assert has.tolist() == expected


def test_nothing_known_draws_no_trace() -> None:
    bare = compose_course(_run(), affine=AXIAL)
    assert bare == compose_course(_run(), affine=AXIAL, dvars=[None] * 40, motion_index=[float("nan")] * 3)
    assert (_palette_picture(bare) < course_picture._GREYS).all()


def test_one_volume_of_thousands_is_not_lost() -> None:
    count = 2 * WIDEST_PLOT + 100
    data = np.random.default_rng(2).integers(90, 110, (4, 4, 2, count)).astype(np.int16)
    data[..., 1002] = 200
    picture = _palette_picture(compose_course(data, affine=AXIAL, mask=np.ones((4, 4, 2))))
    for carpet in _carpets(picture, count):
        assert carpet.shape[1] == WIDEST_PLOT
        assert np.flatnonzero((carpet == 239).all(axis=0)).tolist() == [(1003 * WIDEST_PLOT - 1) // count]


@pytest.mark.parametrize("count", [2, 3, 41, 960, 961])
def test_any_number_of_volumes_is_drawn(count: int) -> None:
    values = [float(number) for number in range(count)]
    assert compose_course(_run((6, 6, 3, count)), affine=AXIAL, dvars=values, motion_index=values[1:])


def test_many_slices_are_thinned() -> None:
    content = compose_course(_run((12, 12, 200, 3)), affine=AXIAL)
    run = course_picture._run(_run((12, 12, 200, 3)), AXIAL, None)
    assert course_picture._Mosaic.lay_out(run, 500).slices == tuple(range(0, 200, 4))
    assert _palette_picture(content).shape[0] < 1500


# -- the file ----------------------------------------------------------------------------------------------------------


def test_the_same_image_gives_the_same_bytes(tmp_path: Path) -> None:
    data = _run()
    path = _save(data, tmp_path / "run.nii")
    one = compose_course(path, title="SUB-0001", dvars=[1.0] * 39)
    for array in (data, np.ascontiguousarray(data)):
        assert one == compose_course(array, affine=AXIAL, repetition_time=2.0, title="SUB-0001", dvars=[1.0] * 39)
    nibabel.save(nibabel.load(path), tmp_path / "run.nii.gz")
    assert one == compose_course(tmp_path / "run.nii.gz", title="SUB-0001", dvars=[1.0] * 39)
    render_course(path, tmp_path / "out" / "case.png", title="SUB-0001", dvars=[1.0] * 39)
    assert (tmp_path / "out" / "case.png").read_bytes() == one
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["case.png"]


@pytest.mark.parametrize("value", [0, 700])
def test_a_constant_image_is_grey(value: int) -> None:
    picture = _palette_picture(compose_course(np.full((8, 8, 4, 5), value, np.int16), affine=AXIAL))
    for carpet in _carpets(picture, 5):
        assert set(np.unique(carpet)) == {128 * 239 // 255}


def test_any_title_can_be_written() -> None:
    assert compose_course(_run(), affine=AXIAL, title="Überprüfung 東京 \udcff\n<b>")


@pytest.mark.parametrize(
    ("data", "details", "reason"),
    [
        (np.zeros((4, 4, 4)), {"affine": AXIAL}, "several volumes"),
        (np.zeros((4, 4, 4, 1)), {"affine": AXIAL}, "several volumes"),
        (np.zeros((4, 4, 0, 5)), {"affine": AXIAL}, "several volumes"),
        (np.zeros((4, 4, 4, 5), np.complex64), {"affine": AXIAL}, "real numbers"),
        (np.zeros((4, 4, 4, 5)), {}, "affine"),
        (np.zeros((4, 4, 4, 5)), {"affine": AXIAL, "mask": np.ones((4, 4, 5))}, "mask"),
        (np.zeros((4, 4, 4, 5)), {"affine": AXIAL, "dvars": [1.0, 2.0]}, "one value for each volume"),
    ],
)
def test_what_has_no_course_is_refused(data: np.ndarray, details: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        compose_course(data, **details)


@pytest.mark.parametrize(("module", "package"), [("PIL", "Pillow"), ("nibabel", "nibabel")])
def test_a_missing_package_is_named(module: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _save(_run(), tmp_path / "run.nii")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackageError, match=package):
        render_course(path, tmp_path / "case.png")
    assert not (tmp_path / "case.png").exists()


# -- real heads --------------------------------------------------------------------------------------------------------


def test_a_real_run_is_upright(scanner_data: Path, dcm2niix: str, tmp_path: Path) -> None:
    """In a diffusion series without weighting, the two brightest spots of a low slice are the eyes, in front."""
    folder = scanner_data / "dcm_qa_stc/In/Siemens/B15/2_ep2d_DTI_20_dir_AP"
    words = [dcm2niix, "-z", "n", "-b", "n", "-f", "run", "-o", str(tmp_path), str(folder)]
    subprocess.run(words, check=True, capture_output=True)
    content = compose_course(tmp_path / "run.nii", title="a real run")
    assert content == compose_course(tmp_path / "run.nii", title="a real run")
    run = course_picture._open(tmp_path / "run.nii", None)
    view, is_reversed = course_picture._view(run)
    assert view is not None
    assert (view.left, view.right, view.top[0], view.bottom[0], is_reversed) == ("R", "L", "A", "P", False)
    eyes = view.turn(np.asarray(run.voxels[:, :, 8, 0]).T)
    rows, columns = np.nonzero(eyes > 0.45 * eyes.max())
    for eye in (columns < eyes.shape[1] / 2, columns > eyes.shape[1] / 2):
        assert eye.sum() > 20
        assert np.quantile(rows[eye], 0.8) < eyes.shape[0] / 5
