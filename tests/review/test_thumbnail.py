"""Thumbnails are small, whatever they show, and show the middle slices upright in their true proportions."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from tasks.errors import MissingPackageError
from tasks.review import thumbnail
from tasks.review.montage import arrange_tiles, robust_window, shown
from tasks.review.thumbnail import HEIGHT, MOST_BYTES, WIDTH, compose_thumbnail, render_thumbnail
from tasks.review.volume import Volume, load_volume, load_voxels, read_series
from tests.review import phantom
from tests.review.phantom import ALL_STORAGES

REAL = (
    "dcm_qa_nih/In/20180918GE/mr_0004",
    "dcm_qa_stc/In/Siemens/B15/2_ep2d_DTI_20_dir_AP",
    "dcm_qa_uih/In/DTI_132225/t1_gre_fsp_3d_sag__132750",
    "dcm_qa_philips/In/Vanderbilt_2018/601_WIP_dti_ax",
    "dcm_qa_enh/In/Siemens/XA10",
)


def _picture(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture.convert("RGB"))


def _stack(images: list[np.ndarray], spacing: list[float], folder: Path) -> Volume:
    made: list[Dataset] = []
    for number, image in enumerate(images):
        dataset = phantom.mr_instance(image, number=number + 1)
        dataset.ImageOrientationPatient, dataset.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 4.0 * number]
        dataset.PixelSpacing, dataset.SpacingBetweenSlices = spacing, 4
        made.append(dataset)
    return load_volume(phantom.write(folder, made))


@pytest.mark.parametrize("axis", [0, 1, 2], ids=["sagittal", "coronal", "axial"])
def test_all_ways_of_storing_give_the_same_bytes(axis: int, tmp_path: Path) -> None:
    storages = [one for one in ALL_STORAGES if one.slice_axis == axis]
    made = set()
    for number, storage in enumerate(storages):
        paths = phantom.write(tmp_path / str(number), phantom.instances(storage, seed=number), seed=number)
        made.add(compose_thumbnail(load_volume(paths)))
    assert len(storages) == 16
    assert len(made) == 1


def test_the_quarters_and_the_middle_are_shown_where_they_belong(tmp_path: Path) -> None:
    """Of eight slices the fifth stands large, the third small above the seventh; each has its own bright quadrant."""
    images = [np.full((40, 40), 100, np.int16) for _ in range(8)]
    images[4][:20, :20] = 1000  # front, right
    images[2][20:, :20] = 1000  # back, right
    images[6][20:, 20:] = 1000  # back, left
    picture = _picture(compose_thumbnail(_stack(images, [2, 2], tmp_path)))[..., 0]
    assert picture.shape == (106, 160)
    small = 53
    bright = picture > 128
    assert bright[2:50, 2:50].all()
    assert not bright[57:, :100].any()
    assert not bright[:, 57:105].any()
    assert not bright[:22, 110:].any()
    assert bright[30 : small - 2, 110:130].all()
    assert not bright[30 : small + 22, 138:].any()
    assert bright[small + 30 : 104, 138:156].all()


@pytest.mark.parametrize(("rows", "columns", "spacing"), [(64, 64, [1, 3]), (20, 90, [4, 0.5]), (50, 50, [2, 2])])
@pytest.mark.parametrize("count", [1, 9])
def test_the_proportions_are_those_of_the_body(
    rows: int, columns: int, spacing: list[float], count: int, tmp_path: Path
) -> None:
    volume = _stack([np.full((rows, columns), 500, np.int16)] * count, spacing, tmp_path)
    picture = _picture(compose_thumbnail(volume))[..., 0]
    assert picture.shape[0] <= HEIGHT
    assert picture.shape[1] <= WIDTH
    first = picture[0] if count == 1 else picture[0][: np.argmin(picture[0])]
    high = picture.shape[0] if count == 1 else int(np.argmin(np.append(picture[:, 0], 0)))
    assert (picture[:high, : len(first)] == 255).all()
    assert len(first) / high == pytest.approx(columns * spacing[1] / (rows * spacing[0]), rel=0.04)


def test_noise_stays_small(tmp_path: Path) -> None:
    chance = np.random.default_rng(5)
    images = [chance.integers(0, 4000, (120, 160)).astype(np.int16) for _ in range(9)]
    content = compose_thumbnail(_stack(images, [1, 1], tmp_path / "grey"))
    assert len(content) <= MOST_BYTES
    assert _picture(content).std() > 30
    colours = chance.integers(0, 256, (120, 160, 3)).astype(np.uint8)
    dataset = phantom.mr_instance(colours[..., 0])
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.PixelData = colours.tobytes()
    content = compose_thumbnail(load_volume([phantom.save(dataset, tmp_path / "one.dcm")]))
    assert len(content) <= MOST_BYTES
    assert _picture(content).shape == (120, 160, 3)


def test_colour_stays_colour(tmp_path: Path) -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    image[:, :20] = (200, 30, 40)
    dataset = phantom.mr_instance(image[..., 0])
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.PixelData = image.tobytes()
    picture = _picture(compose_thumbnail(load_volume([phantom.save(dataset, tmp_path / "one.dcm")])))
    assert (np.abs(picture[:, :50].astype(int) - (200, 30, 40)) <= 4).all()


@pytest.mark.parametrize("folder", REAL)
def test_real_series_fit_and_show_their_middle(folder: str, scanner_data: Path) -> None:
    files = [path for path in (scanner_data / folder).iterdir() if path.is_file()]
    volume = load_voxels(read_series(files), first_only=True)
    content = compose_thumbnail(volume)
    assert len(content) <= MOST_BYTES
    assert content == compose_thumbnail(volume)
    whole = [tile for tile in arrange_tiles(volume) if tile.image is not None]
    _, _, width, height = thumbnail._boxes([whole[len(whole) // 2]] * 3)[0]
    tiles = [tile.image for tile in whole]
    side = _picture(content)[:height, :width, 0].astype(np.float32)
    # The large one is like the middle slice, more than like that one seen in a mirror.
    like = []
    for image in (tiles[len(tiles) // 2], tiles[len(tiles) // 2][:, ::-1], tiles[len(tiles) // 2][::-1]):
        grey = np.ascontiguousarray(shown(image, robust_window(volume.images, volume.padding)))
        seen = Image.fromarray(grey).resize((side.shape[1], side.shape[0]), Image.Resampling.BILINEAR)
        like.append(float(np.corrcoef(np.asarray(seen).ravel(), side.ravel())[0, 1]))
    assert like[0] > 0.97
    assert like[0] > max(like[1:])


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    volume = load_volume(phantom.write(tmp_path / "in", phantom.instances()))
    render_thumbnail(volume, tmp_path / "out" / "case.png")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["case.png"]
    assert (tmp_path / "out" / "case.png").read_bytes() == compose_thumbnail(volume)


def test_nothing_decodable_is_refused(tmp_path: Path) -> None:
    path = phantom.save(phantom.instances()[0], tmp_path / "one.dcm")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="nothing to draw"):
        compose_thumbnail(load_volume([path]))


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = load_volume(phantom.write(tmp_path / "in", phantom.instances()))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingPackageError, match=r"scanward\[review\]"):
        render_thumbnail(volume, tmp_path / "case.png")
    assert not (tmp_path / "case.png").exists()
