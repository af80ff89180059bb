"""Pictures show every slice the right way round, in its true proportions, with the right letters."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset

from tasks.errors import MissingPackageError
from tasks.review.montage import BORDER, arrange_tiles, compose_montage, render_montage, robust_window, shown
from tasks.review.view import standard_view
from tasks.review.volume import Volume, load_volume
from tests.review import phantom
from tests.review.phantom import ALL_STORAGES, SHAPE, SPACING, Storage

SIDES = {0: ("A", "P", "S", "I"), 1: ("R", "L", "S", "I"), 2: ("R", "L", "A", "P")}
"""For slices stacked along x, y or z: the sides at the left, right, upper and lower border."""


def _volume(storage: Storage, folder: Path, *, seed: int = 0) -> Volume:
    return load_volume(phantom.write(folder, phantom.instances(storage, seed=seed), seed=seed))


def _standard_slices(axis: int) -> list[np.ndarray]:
    """Cut the body the way a radiologist looks at it, straight from its array (x, y, z)."""
    voxels = phantom.body()
    if axis == 0:  # sagittal, from right to left; the front at the left, the head up
        return [voxels[x, :, ::-1].T for x in range(SHAPE[0])]
    if axis == 1:  # coronal, from front to back; the right at the left, the head up
        return [voxels[:, y, ::-1].T for y in range(SHAPE[1])]
    return [voxels[:, :, z].T for z in range(SHAPE[2])]  # axial, from the feet up; the right at the left, the front up


def _picture(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture)


def _contains(picture: np.ndarray, text: str) -> bool:
    """Tell whether a text stands in a part of a picture, written in the montage's font at twice its size."""
    font = ImageFont.load_default_imagefont()
    width, height = (int(one) for one in font.getbbox(text)[2:])
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).text((0, 0), text, fill=255, font=font)
    stamp = np.asarray(mask.resize((2 * width, 2 * height), Image.Resampling.NEAREST)) > 0
    if stamp.shape[0] > picture.shape[0] or stamp.shape[1] > picture.shape[1]:
        return False
    windows = np.lib.stride_tricks.sliding_window_view(picture == 255, stamp.shape)
    return bool((windows == stamp).all(axis=(2, 3)).any())


def _border(picture: np.ndarray, lines: int) -> dict[str, np.ndarray]:
    """Cut the four margins out of a picture whose caption has so many lines."""
    body = picture[: picture.shape[0] - 13 * lines - 4]
    lit = np.flatnonzero((body[BORDER:-BORDER] > 0).any(axis=0))
    right = lit[lit >= BORDER].max() if lit.size else body.shape[1] - 1
    return {
        "left": body[BORDER:-BORDER, :BORDER],
        "right": body[BORDER:-BORDER, right - BORDER :],
        "top": body[:BORDER],
        "bottom": body[-BORDER:],
    }


# -- orientation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ALL_STORAGES, ids=str)
def test_every_way_of_storing_is_shown_alike(storage: Storage, tmp_path: Path) -> None:
    tiles = arrange_tiles(_volume(storage, tmp_path, seed=ALL_STORAGES.index(storage)))
    expected = _standard_slices(storage.slice_axis)
    assert len(tiles) == len(expected)
    for tile, image in zip(tiles, expected, strict=True):
        assert tile.image is not None
        assert np.array_equal(tile.image, image)
        view = tile.view
        assert view is not None
        assert (view.left, view.right, view.top, view.bottom) == SIDES[storage.slice_axis]
        across, down = ((1, 2), (0, 2), (0, 1))[storage.slice_axis]
        assert (tile.width, tile.height) == pytest.approx(
            (SHAPE[across] * SPACING[across], SHAPE[down] * SPACING[down])
        )


@pytest.mark.parametrize("axis", [0, 1, 2], ids=["sagittal", "coronal", "axial"])
def test_pictures_of_all_ways_of_storing_are_the_same_bytes(axis: int, tmp_path: Path) -> None:
    storages = [one for one in ALL_STORAGES if one.slice_axis == axis]
    pictures = {
        compose_montage(_volume(storage, tmp_path / str(number), seed=number), title="case")
        for number, storage in enumerate(storages)
    }
    assert len(storages) == 16
    assert len(pictures) == 1
    borders = _border(_picture(pictures.pop()), lines=2)
    for place, letter in zip(("left", "right", "top", "bottom"), SIDES[axis], strict=True):
        for other in "RLAPSI":
            assert _contains(borders[place], other) == (other == letter), (place, other)


def test_each_marker_is_on_its_side(tmp_path: Path) -> None:
    """The marker of a side is brightest at the border that carries its letter, or in the outermost slice."""
    for axis, storage in ((0, phantom.SAGITTAL), (1, phantom.CORONAL), (2, phantom.AXIAL)):
        images = [tile.image for tile in arrange_tiles(_volume(storage, tmp_path / str(axis)))]
        stack = np.stack([image for image in images if image is not None])
        places = {"left": stack[:, :, 0], "right": stack[:, :, -1], "top": stack[:, 0], "bottom": stack[:, -1]}
        for place, letter in zip(places, SIDES[axis], strict=True):
            assert places[place].max() // 1000 * 1000 == phantom.MARKERS[letter], (axis, place)
        ends = {0: "RL", 1: "AP", 2: "IS"}[axis]
        for image, letter in zip((stack[0], stack[-1]), ends, strict=True):
            assert image.max() // 1000 * 1000 == phantom.MARKERS[letter]


@pytest.mark.parametrize(
    ("orientation", "plane", "letters"),
    [
        ((1, 0, 0, 0, 1, 0), "axial", ("R", "L", "A", "P")),
        ((0, 1, 0, 0, 0, -1), "sagittal", ("A", "P", "S", "I")),
        ((1, 0, 0, 0, 0, -1), "coronal", ("R", "L", "S", "I")),
        ((0.9397, 0.3420, 0, -0.3420, 0.9397, 0), "axial", ("RA", "LP", "AL", "PR")),
        ((0.9848, 0.1736, 0, -0.1736, 0.9848, 0), "axial", ("R", "L", "A", "P")),
        ((1, 0, 0, 0, 0.8, -0.6), "axial", ("R", "L", "AS", "PI")),
        ((1, 0, 0, 0, 0.6, -0.8), "coronal", ("R", "L", "SA", "IP")),
    ],
)
def test_oblique_planes_are_turned_like_the_nearest(
    orientation: tuple[float, float, float, float, float, float], plane: str, letters: tuple[str, ...]
) -> None:
    view = standard_view(orientation)
    assert view.plane == plane
    assert (view.left, view.right, view.top, view.bottom) == letters


@pytest.mark.parametrize("noise", [0.0, 1e-9, -1e-9])
def test_an_exact_diagonal_is_not_turned_by_rounding(noise: float) -> None:
    half = 0.5**0.5
    view = standard_view((1, 0, 0, 0, half + noise, half - noise))
    assert (view.plane, view.transpose, view.flip_rows, view.flip_columns) == ("axial", False, False, False)


# -- the picture -------------------------------------------------------------------------------------------------------


def _flat(rows: int, columns: int, spacing: list[float], count: int = 1) -> list[Dataset]:
    made = []
    for number in range(count):
        dataset = phantom.mr_instance(np.full((rows, columns), 500, np.int16), number=number + 1)
        dataset.ImageOrientationPatient, dataset.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 4.0 * number]
        dataset.PixelSpacing, dataset.SpacingBetweenSlices = spacing, 4
        made.append(dataset)
    return made


@pytest.mark.parametrize(("rows", "columns", "spacing"), [(64, 64, [1, 3]), (20, 90, [4, 0.5]), (50, 50, [2, 2])])
def test_the_proportions_are_those_of_the_body(rows: int, columns: int, spacing: list[float], tmp_path: Path) -> None:
    volume = load_volume(phantom.write(tmp_path, _flat(rows, columns, spacing)))
    picture = _picture(compose_montage(volume, numbers=False))
    # From the tile's corner, light runs to its far borders; letters lie beyond them.
    assert picture[BORDER, BORDER] == 255
    wide, high = (int(np.argmin(line)) for line in (picture[BORDER, BORDER:], picture[BORDER:, BORDER]))
    assert wide / high == pytest.approx(columns * spacing[1] / (rows * spacing[0]), rel=0.02)
    assert (picture[BORDER : BORDER + high, BORDER : BORDER + wide] == 255).all()


@pytest.mark.parametrize("count", [1, 2, 7, 64, 65, 200])
def test_every_slice_is_there(count: int, tmp_path: Path) -> None:
    volume = load_volume(phantom.write(tmp_path, _flat(12, 12, [2, 2], count)))
    picture = _picture(compose_montage(volume, numbers=False))
    lit = picture == 255
    assert lit[BORDER, BORDER]
    side = int(np.argmin(lit[BORDER, BORDER:]))
    corners = np.lib.stride_tricks.sliding_window_view(lit[BORDER:, BORDER:], (side, side))
    # Tiles have one size and stand two pixels apart, so their corners are where whole squares of light begin.
    assert corners[:: side + 2, :: side + 2].all(axis=(2, 3)).sum() == count


def test_the_same_volume_gives_the_same_bytes(tmp_path: Path) -> None:
    paths = phantom.write(tmp_path / "a", phantom.instances())
    one, other = (compose_montage(load_volume(paths), title="case") for _ in range(2))
    assert one == other
    render_montage(load_volume(paths), tmp_path / "out" / "case.png", title="case")
    assert (tmp_path / "out" / "case.png").read_bytes() == one
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["case.png"]


def test_low_values_may_be_meant_to_be_bright(tmp_path: Path) -> None:
    volume = _volume(phantom.AXIAL, tmp_path)
    window = robust_window(volume.images)
    image = volume.images[0]
    assert image is not None
    assert np.array_equal(shown(image, window, inverted=True), 255 - shown(image, window))


def test_the_window_leaves_out_air_padding_and_outliers() -> None:
    image = np.random.default_rng(4).normal(1000, 100, (100, 100)).astype(np.float32)
    clean = robust_window([image])
    image[:40] = 0
    image[40:60] = -2000
    image[60, :5] = 1e6
    image[61, :5] = np.nan
    assert robust_window([image], padding=-2000.0) == pytest.approx(clean, rel=0.1)


@pytest.mark.parametrize("value", [0, 7, -7])
def test_a_window_always_has_a_width(value: int) -> None:
    low, high = robust_window([np.full((4, 4), value, np.int16)])
    assert high > low
    assert robust_window([]) == (0.0, 1.0)


def test_not_a_number_is_black() -> None:
    image = np.array([[np.nan, np.inf, -np.inf, 5.0]], np.float32)
    assert shown(image, (0.0, 10.0)).tolist() == [[0, 255, 0, 128]]


def test_a_slice_that_cannot_be_decoded_is_crossed_out(tmp_path: Path) -> None:
    paths = phantom.write(tmp_path, phantom.instances())
    whole = _picture(compose_montage(load_volume(paths)))
    paths[1].write_bytes(paths[1].read_bytes()[:-20])
    cut = _picture(compose_montage(load_volume(paths)))
    assert cut.shape[1] == whole.shape[1]
    assert (cut == 150).sum() > (whole == 150).sum() + 200


def test_a_localizer_carries_letters_in_each_picture(tmp_path: Path) -> None:
    made = [phantom.instances(storage)[2] for storage in (phantom.SAGITTAL, phantom.AXIAL, phantom.CORONAL)]
    for number, dataset in enumerate(made):
        dataset.SOPInstanceUID = phantom.uid("localizer", number)
    volume = load_volume(phantom.write(tmp_path, made))
    views = [tile.view for tile in arrange_tiles(volume)]
    assert [view.plane for view in views if view] == ["axial", "coronal", "sagittal"]
    assert compose_montage(volume)


def test_colour_is_drawn_in_colour(tmp_path: Path) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, :4] = (200, 30, 40)
    dataset = phantom.mr_instance(image[..., 0])
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.PixelData = image.tobytes()
    picture = _picture(compose_montage(load_volume([phantom.save(dataset, tmp_path / "one.dcm")])))
    assert (picture == (200, 30, 40)).all(axis=2).sum() > 1000


def test_nothing_decodable_is_refused(tmp_path: Path) -> None:
    path = phantom.save(phantom.instances()[0], tmp_path / "one.dcm")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="nothing to draw"):
        compose_montage(load_volume([path]))


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingPackageError, match=r"scanward\[review\]"):
        render_montage(_volume(phantom.AXIAL, tmp_path), tmp_path / "case.png")
    assert not (tmp_path / "case.png").exists()


# -- real heads --------------------------------------------------------------------------------------------------------


def test_a_real_head_is_upright_with_its_face_to_the_left(scanner_data: Path) -> None:
    """A sagittal head: air in front of the face, neck cut off below, and the crown round above."""
    folder = scanner_data / "dcm_qa_uih/In/DTI_132225/t1_gre_fsp_3d_sag__132750"
    volume = load_volume(sorted(folder.glob("*.dcm"))[60:100:4])
    images = [tile.image for tile in arrange_tiles(volume) if tile.image is not None]
    head = np.mean([image > 60 for image in images], axis=0) > 0.3
    rows, columns = np.flatnonzero(head.any(axis=1)), np.flatnonzero(head.any(axis=0))
    assert rows[0] > 2 * (head.shape[0] - 1 - rows[-1])  # free above the crown, none below the neck
    upper = head[: head.shape[0] // 3].any(axis=0).nonzero()[0]
    assert columns[0] < upper[0]  # the nose stands out in front of the forehead
    assert tuple(getattr(arrange_tiles(volume)[0].view, one) for one in ("left", "right", "top", "bottom")) == SIDES[0]


def test_real_eyes_are_in_front(scanner_data: Path) -> None:
    """In a diffusion series without weighting, the two brightest spots of a low slice are the eyes."""
    folder = scanner_data / "dcm_qa_stc/In/Siemens/B15/2_ep2d_DTI_20_dir_AP"
    image = arrange_tiles(load_volume([min(folder.glob("*.dcm"))]))[8].image
    assert image is not None
    rows, columns = np.nonzero(image > 0.45 * image.max())
    middle = image.shape[1] / 2
    for eye in (columns < middle, columns > middle):
        assert eye.sum() > 20
        assert np.quantile(rows[eye], 0.8) < image.shape[0] / 5
