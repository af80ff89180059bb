"""Everything opens, or says in a sentence why not: formats, real scanners' files, damaged ones."""

from __future__ import annotations

import gzip
import random
import shutil
from collections import defaultdict
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import OpeningError, ScanwardError
from tasks.review.pixels import quiet_pydicom, read_header
from tasks.review.plane import uid_text
from tests.deidentify.conversion import OTHERS, SAMPLE, files_of
from tests.review import phantom
from viewer.image import Image
from viewer.opening import image_of_array, open_images

AFFINE = np.array([[0.0, -2.0, 0.1, 5.0], [1.5, 0.0, 0.0, -7.0], [0.0, 0.2, 3.0, 9.0], [0.0, 0.0, 0.0, 1.0]])


def _values(image: Image) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.asarray(image.voxels, np.float64) * image.slope + image.intercept


# The judge, nibabel, leaves some files to the garbage collector: hence the warnings that two tests ignore.


def _voxels(kind: str, shape: tuple[int, ...] = (6, 5, 4)) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    return (np.arange(np.prod(shape)).reshape(shape) * 3 - 20 * (np.dtype(kind).kind != "u")).astype(kind)


@pytest.mark.parametrize("kind", ["int16", "uint8", "uint16", "int32", "float32", "float64", "int8"])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_nifti_of_every_type_is_what_nibabel_says(name: str, kind: str, tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(_voxels(kind, (6, 5, 4, 3)), AFFINE)
    image.header.set_slope_inter(2.5, -10)
    image.header.set_zooms((*image.header.get_zooms()[:3], 2.0))
    nibabel.save(image, tmp_path / name)
    judge = nibabel.load(tmp_path / name)
    (opened,) = open_images(tmp_path / name)
    np.testing.assert_allclose(_values(opened), judge.get_fdata(), rtol=1e-6, atol=1e-4)
    np.testing.assert_allclose(opened.affine, judge.affine, atol=1e-6)
    assert opened.voxels.dtype.itemsize <= 4
    assert opened.voxels.dtype != np.float64
    assert (opened.volumes, opened.volume_seconds) == (3, 2.0)


@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (0, 0), (1, 2)])
def test_where_a_nifti_lies_is_known_only_if_it_says_so(codes: tuple[int, int], tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(_voxels("int16"), None)
    image.header.set_sform(AFFINE, codes[0])
    image.header.set_qform(np.diag([2, 2, 2, 1]), codes[1])
    nibabel.save(image, tmp_path / "a.nii")
    (opened,) = open_images(tmp_path / "a.nii")
    assert opened.is_placed is any(codes)
    np.testing.assert_allclose(opened.affine, nibabel.load(tmp_path / "a.nii").affine, atol=1e-5)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_other_formats_are_what_nibabel_says(tmp_path: Path) -> None:
    voxels = _voxels("int16")
    nibabel.save(nibabel.MGHImage(voxels.astype(np.int32), AFFINE), tmp_path / "a.mgz")
    nibabel.save(nibabel.MGHImage(voxels.astype(np.float32), AFFINE), tmp_path / "b.mgh")
    nibabel.save(nibabel.AnalyzeImage(voxels, np.diag([2, 2, 2, 1])), tmp_path / "c.img")
    nibabel.save(nibabel.Nifti1Pair(voxels, AFFINE), tmp_path / "d.hdr")
    nibabel.save(nibabel.Nifti2Image(voxels, AFFINE), tmp_path / "e.nii.gz")
    np.save(tmp_path / "f.npy", voxels)
    for name in ("a.mgz", "b.mgh", "c.img", "d.hdr", "e.nii.gz", "f.npy"):
        (opened,) = open_images(tmp_path / name)
        np.testing.assert_array_equal(_values(opened)[..., 0], voxels.astype(float))
        assert opened.is_placed is (name not in ("c.img", "f.npy"))
        if opened.is_placed:
            np.testing.assert_allclose(opened.affine, nibabel.load(tmp_path / name).affine, atol=1e-5)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_minc_and_parrec_are_what_nibabel_says(tmp_path: Path) -> None:
    data = Path(nibabel.__file__).parent / "tests" / "data"
    names = [
        name for name in ("tiny.mnc", "minc1_1_scale.mnc", "phantom_EPI_asc_CLEAR_2_1.PAR") if (data / name).exists()
    ]
    assert names
    for name in names:
        (opened,) = open_images(data / name)
        judge = nibabel.load(data / name)
        np.testing.assert_allclose(_values(opened).squeeze(), judge.get_fdata().squeeze(), rtol=1e-5, atol=1e-3)
        np.testing.assert_allclose(opened.affine, judge.affine, atol=1e-4)


def test_colours_complex_numbers_and_what_is_no_number(tmp_path: Path) -> None:
    colours = np.zeros((6, 5, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    colours["G"] = 9
    nibabel.save(nibabel.Nifti1Image(colours, AFFINE), tmp_path / "rgb.nii")
    (opened,) = open_images(tmp_path / "rgb.nii")
    assert opened.is_colour
    assert opened.value((1, 1, 1)) == (0, 9, 0)
    nibabel.save(nibabel.Nifti1Image(np.full((6, 5, 4), 3 + 4j, np.complex64), AFFINE), tmp_path / "c.nii")
    (opened,) = open_images(tmp_path / "c.nii")
    assert opened.value((1, 1, 1)) == 5.0
    holes = _voxels("float32")
    holes[0, 0, 0], holes[1, 1, 1] = np.nan, np.inf
    nibabel.save(nibabel.Nifti1Image(holes, AFFINE), tmp_path / "nan.nii")
    (opened,) = open_images(tmp_path / "nan.nii")
    assert np.isnan(opened.voxels[0, 0, 0, 0])


@pytest.mark.parametrize("folder", [*SAMPLE, *(pytest.param(one, marks=pytest.mark.long) for one in OTHERS)])
def test_real_series_are_what_pydicom_holds(folder: str, scanner_data: Path) -> None:
    files = files_of(scanner_data / folder)
    images = open_images(files)
    assert images
    assert all(image.is_placed for image in images)
    stored = sum(pydicom.dcmread(file, specific_tags=["Rows", "Columns"]).Rows > 0 for file in files)
    assert stored == len(files)
    assert sum(int(np.count_nonzero(image.voxels)) for image in images) > 1000


def _told(files: list[Path]) -> str:
    """Open files and return nothing, or why they cannot be shown."""
    try:
        assert open_images(files)
    except ScanwardError as fault:
        return str(fault)
    return ""


@pytest.mark.long
def test_everything_of_the_scanners_opens_or_says_why(scanner_data: Path) -> None:
    series: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path in sorted(scanner_data.rglob("*")):
        with quiet_pydicom():
            header = read_header(path) if path.is_file() else None
            if isinstance(header, tuple):
                series[path.parent, uid_text(header[0], "SeriesInstanceUID")].append(path)
    assert len(series) > 40
    for files in series.values():
        told = _told(files)
        assert not told or files[0].name in told


def test_a_folder_with_several_series_gives_each_of_them(tmp_path: Path) -> None:
    for number, storage in enumerate((phantom.AXIAL, phantom.SAGITTAL)):
        for place, dataset in enumerate(phantom.instances(storage)):
            dataset.SeriesInstanceUID = phantom.uid("series", number)
            phantom.save(dataset, tmp_path / f"{place}-{number}.dcm")
    assert len(open_images(tmp_path)) == 2


def test_a_localizer_is_an_image_for_each_direction(tmp_path: Path) -> None:
    for number, storage in enumerate((phantom.AXIAL, phantom.SAGITTAL, phantom.CORONAL)):
        dataset = phantom.instances(storage)[2]
        dataset.SOPInstanceUID = phantom.uid(number)
        phantom.save(dataset, tmp_path / f"{number}.dcm")
    images = open_images(tmp_path)
    assert len(images) == 3
    assert all(image.shape[2] == 1 and image.is_placed for image in images)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("absent.nii", None, "it is not there"),
        ("empty.nii.gz", b"", "cannot be shown"),
        ("text.nii", b"hello " * 100, "cannot be read as an image"),
        ("cut.nii.gz", gzip.compress(b"\0" * 5000, mtime=0)[:20], "cut off or damaged"),
        ("text.npy", b"hello", "no array of numbers"),
        ("text.dcm", b"hello", "cannot be"),
    ],
)
def test_what_cannot_be_shown_is_named(name: str, content: bytes | None, sentence: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(OpeningError, match=sentence) as fault:
        open_images(tmp_path / name)
    assert name in str(fault.value)


def test_an_empty_folder_and_an_empty_list_are_told(tmp_path: Path) -> None:
    with pytest.raises(OpeningError, match="holds no file"):
        open_images(tmp_path)
    with pytest.raises(OpeningError, match="names no file"):
        open_images([])
    with pytest.raises(OpeningError, match="no image or stack"):
        image_of_array(np.zeros((2, 2, 2, 2, 2)))
    with pytest.raises(OpeningError, match="no numbers"):
        image_of_array(np.array([["a", "b"]]))
    with pytest.raises(OpeningError, match="matrix"):
        image_of_array(np.zeros((2, 2, 2)), np.zeros((4, 4)))


@given(st.integers(0, 1 << 30), st.sampled_from(["nii", "nii.gz", "mgz", "dcm"]))
@settings(max_examples=60, deadline=None)
def test_damaged_files_are_no_tracebacks(tmp_path_factory: pytest.TempPathFactory, seed: int, kind: str) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    path = folder / f"a.{kind}"
    if kind == "dcm":
        phantom.save(phantom.instances()[0], path)
    elif kind == "mgz":
        nibabel.save(nibabel.MGHImage(_voxels("float32"), AFFINE), path)
    else:
        nibabel.save(nibabel.Nifti1Image(_voxels("int16"), AFFINE), path)
    rng = random.Random(seed)
    content = bytearray(path.read_bytes())
    for _ in range(rng.randrange(1, 8)):
        content[rng.randrange(min(len(content), 400))] = rng.randrange(256)
    path.write_bytes(content[: rng.randrange(1, len(content) + 1)] if rng.random() < 0.4 else content)
    told = _told([path])
    assert not told or path.name in told
    shutil.rmtree(folder)
