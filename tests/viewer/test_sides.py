"""No picture shows a wrong side or aspect: 48 orientations, DICOM and NIfTI, both conventions, cuts included."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from numpy.typing import NDArray

from tests.review import phantom
from viewer.image import Image
from viewer.opening import open_images
from viewer.reslice import CONVENTIONS, NOSES, PLANES, Oblique, nearest_axes, oblique_like, plane_view, sample

WORLD_TOLERANCE_MM = 1e-3

SCREEN = {
    ("axial", "radiological"): "RLAP",
    ("axial", "neurological"): "LRAP",
    ("coronal", "radiological"): "RLSI",
    ("coronal", "neurological"): "LRSI",
}
"""What stands at the left, right, top and bottom border."""


def _dicom(storage: phantom.Storage, folder: Path) -> Image:
    for number, dataset in enumerate(phantom.instances(storage)):
        phantom.save(dataset, folder / f"{number:03d}.dcm")
    (image,) = open_images(folder)
    return image


def _nifti(storage: phantom.Storage, folder: Path) -> Image:
    """Write the phantom with voxel axes that run as the storage says."""
    voxels = phantom.body()
    matrix = np.eye(4)
    matrix[:3, 3] = phantom.ORIGIN
    for axis, step in enumerate(phantom.SPACING):
        matrix[axis, axis] = step
    for which, sign in enumerate(storage.signs):
        if sign < 0:
            axis = storage.axes[which]
            voxels = np.flip(voxels, axis)
            matrix[axis, 3] += matrix[axis, axis] * (phantom.SHAPE[axis] - 1)
            matrix[axis, axis] *= -1
    voxels, matrix[:, :3] = voxels.transpose(storage.axes), matrix[:, :3][:, list(storage.axes)]
    image = nibabel.Nifti1Image(voxels, np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix)
    image.set_sform(image.affine, 1)
    nibabel.save(image, folder / "a.nii.gz")
    (opened,) = open_images(folder / "a.nii.gz")
    return opened


def _sides(plane: str, convention: str, nose: str) -> str:
    if plane == "sagittal":
        return "APSI" if nose == "left" else "PASI"
    return SCREEN[plane, convention]


def _outermost(picture: NDArray[np.int16], border: int) -> NDArray[np.int16]:
    return (picture[:, 0], picture[:, -1], picture[0], picture[-1])[border]


@pytest.mark.parametrize("kind", ["dicom", "nifti"])
@pytest.mark.parametrize("storage", phantom.ALL_STORAGES, ids=lambda one: f"{one.axes}{one.signs}")
def test_each_side_is_where_its_letter_stands(storage: phantom.Storage, kind: str, tmp_path: Path) -> None:
    image = (_dicom if kind == "dicom" else _nifti)(storage, tmp_path)
    middle = {side: phantom.body()[tuple(_marker(side))] for side in phantom.MARKERS}
    for plane, convention, nose in itertools.product(PLANES, CONVENTIONS, NOSES):
        view = plane_view(image, plane, convention, nose)
        letters = view.left + view.right + view.top + view.bottom
        assert letters == _sides(plane, convention, nose)
        number = round(view.to_screen(image.to_index(_ras(_centre())))[2])
        picture = view.cut(image, number)
        for border, letter in enumerate(letters):
            assert middle[letter] in _outermost(picture, border), (plane, convention, letter)
        # Aspect: the borders are as far apart as the body is large.
        size = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}
        across, down = size[letters[0]], size[letters[2]]
        assert picture.shape == (phantom.SHAPE[down], phantom.SHAPE[across])
        assert view.spacing == pytest.approx((phantom.SPACING[down], phantom.SPACING[across]))
        up = {"axial": "S", "coronal": "A", "sagittal": "R"}[plane]
        assert middle[up] in view.cut(image, view.count - 1), "slices count towards head, front and right"


def _marker(side: str) -> list[int]:
    axis, index = phantom.SIDES[side]
    place = [size // 2 for size in phantom.SHAPE]
    place[axis] = index if index >= 0 else phantom.SHAPE[axis] - 1
    return place


def _centre() -> NDArray[np.float64]:
    return np.asarray(phantom.ORIGIN + np.array([size // 2 for size in phantom.SHAPE]) * phantom.SPACING)


def _ras(place: NDArray[np.float64]) -> NDArray[np.float64]:
    return place * [-1, -1, 1]


@pytest.mark.parametrize("storage", phantom.ALL_STORAGES, ids=lambda one: f"{one.axes}{one.signs}")
def test_a_cut_shows_the_same_place_however_it_is_stored(storage: phantom.Storage, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "other")]
    for folder in folders:
        folder.mkdir()
    image, plain = _nifti(storage, folders[0]), _dicom(phantom.AXIAL, folders[1])
    assert np.allclose(image.centre, plain.centre, atol=WORLD_TOLERANCE_MM)
    for convention in CONVENTIONS:
        cut = oblique_like(plain, plane_view(plain, "axial", convention), plain.centre, pixels=64)
        cut = cut.rotated("across", 31).rotated("down", -17).rotated("normal", 8)
        np.testing.assert_allclose(sample(image, 0, cut), sample(plain, 0, cut), rtol=1e-4, atol=1e-2)
        # The letters are those of the place that a pixel of the border has in the patient.
        left, right, top, bottom = cut.letters()
        for letters, (row, column) in ((left, (32, 0)), (right, (32, 63)), (top, (0, 32)), (bottom, (63, 32))):
            way = cut.to_mm(row, column) - cut.to_mm(31.5, 31.5)
            axis = int(np.argmax(np.abs(way)))
            assert letters[0] == ("RAS" if way[axis] > 0 else "LPI")[axis]


@pytest.mark.parametrize("angles", [(0, 0, 0), (23, 0, 0), (0, -41, 0), (12, 34, 56), (90, 45, -80)])
def test_a_cut_is_what_simpleitk_samples(angles: tuple[float, float, float], tmp_path: Path) -> None:
    """Its linear interpolation, between voxels of different sizes and axes that do not follow the patient's."""
    rng = np.random.default_rng(5)
    judge = SimpleITK.GetImageFromArray(rng.integers(0, 4000, (11, 15, 13)).astype(np.int16))
    judge.SetSpacing((0.8, 1.3, 3.1))
    judge.SetOrigin((-12.0, 7.0, 30.0))
    turn = SimpleITK.VersorTransform((1.0, 2.0, 0.5), 0.4).GetMatrix()
    judge.SetDirection(turn)
    SimpleITK.WriteImage(judge, str(tmp_path / "a.nii"))
    (image,) = open_images(tmp_path / "a.nii")
    cut = oblique_like(image, plane_view(image, "coronal"), image.centre, pixels=48)
    for axis, degrees in zip(("across", "down", "normal"), angles, strict=True):
        cut = cut.rotated(axis, degrees)
    ours = sample(image, 0, cut)
    to_lps = np.array([-1.0, -1.0, 1.0])
    grid = SimpleITK.Image(cut.shape[1], cut.shape[0], 1, SimpleITK.sitkFloat32)
    grid.SetSpacing((cut.spacing, cut.spacing, 1.0))
    grid.SetOrigin((cut.to_mm(0, 0) * to_lps).tolist())
    axes = np.stack([cut.across, cut.down, cut.normal], axis=1)
    grid.SetDirection((axes * to_lps[:, np.newaxis]).ravel().tolist())
    theirs = SimpleITK.GetArrayFromImage(
        SimpleITK.Resample(judge, grid, SimpleITK.Transform(), SimpleITK.sitkLinear, -1.0, SimpleITK.sitkFloat32)
    )[0]
    rows, columns = np.indices(cut.shape)
    pixels = zip(rows.ravel(), columns.ravel(), strict=True)
    index = np.stack([image.to_index(cut.to_mm(row, column)) for row, column in pixels]).reshape(*cut.shape, 3)
    within = ((index >= 0.01) & (index <= np.array(image.shape) - 1.01)).all(axis=-1)
    assert within.sum() > 100
    np.testing.assert_allclose(ours[within], theirs[within], rtol=1e-3, atol=0.05)
    assert np.isnan(ours[((index < -0.6) | (index > np.array(image.shape) - 0.4)).any(axis=-1)]).all()


def test_a_slab_is_what_its_layers_come_to(tmp_path: Path) -> None:
    image = _dicom(phantom.AXIAL, tmp_path)
    cut = oblique_like(image, plane_view(image, "axial"), image.centre, pixels=32).rotated("across", 20)
    thick = Oblique(
        centre=cut.centre,
        across=cut.across,
        down=cut.down,
        spacing=cut.spacing,
        shape=cut.shape,
        thickness=4.0,
        mode="max",
    )
    count = int(np.ceil(4.0 / min(image.spacing))) + 1
    layers = np.stack([sample(image, 0, cut.moved(shift)) for shift in np.linspace(-2, 2, max(2, count))])
    np.testing.assert_array_equal(sample(image, 0, thick), np.fmax.reduce(layers))


def test_axes_are_named_once_each() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        turned, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        assert sorted(nearest_axes(turned)) == [0, 1, 2]


def test_what_is_not_known_gets_no_letter(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(phantom.body(), None), tmp_path / "a.nii")
    image = nibabel.load(tmp_path / "a.nii")
    image.header["sform_code"] = image.header["qform_code"] = 0
    nibabel.save(image, tmp_path / "b.nii")
    (opened,) = open_images(tmp_path / "b.nii")
    view = plane_view(opened, "axial")
    assert not opened.is_placed
    assert view.left + view.right + view.top + view.bottom == ""
