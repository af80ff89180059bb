"""Where every voxel lies, others say as well: dcm2niix, nibabel and SimpleITK, on every series and orientation."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from pipelines.deidentify import find_dcm2niix
from tasks.review.convert import convert_series
from tasks.review.volume import load_voxels, read_series
from tests.deidentify.conversion import OTHERS, SAMPLE, files_of
from tests.review import phantom

WORLD_TOLERANCE_MM = 1e-3

TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From our axes of the patient (left, back, head) to those of NIfTI (right, front, head)."""

SERIES = [*SAMPLE, *(pytest.param(one, marks=pytest.mark.long) for one in OTHERS)]

SLOPES = ("dcm_qa_enh/In/Philips", "dcm_qa_philips")
"""Here dcm2niix scales by Philips' private slope, to signal instead of display values: proportional, and not equal."""


@pytest.mark.parametrize("folder", SERIES)
def test_voxels_lie_where_dcm2niix_and_simpleitk_put_them(folder: str, scanner_data: Path, tmp_path: Path) -> None:
    files = files_of(scanner_data / folder)
    series = read_series(files)
    assert series.geometry.verdict == "volume"
    assert "assumed-mosaic" not in {one.code for one in series.geometry.findings}
    array = load_voxels(series).array
    assert array is not None
    volumes = array if array.ndim == 4 else array[np.newaxis]
    ours = TO_RAS @ np.array(series.geometry.affine)
    conversion = convert_series(files, tmp_path, program=find_dcm2niix())
    assert conversion.images
    slices, rows, columns = volumes.shape[1:]
    corners = np.array([[c, r, s, 1] for c in (0, columns - 1) for r in (0, rows - 1) for s in (0, slices - 1)]).T
    compared = 0
    for made in conversion.images:
        image = nibabel.load(made.image)
        step = np.rint(np.linalg.inv(image.affine) @ ours)
        assert np.abs(image.affine @ (step @ corners) - ours @ corners).max() < WORLD_TOLERANCE_MM
        judge = SimpleITK.ReadImage(str(made.image))
        for corner in (step @ corners)[:3].T.astype(int).tolist():
            place = judge.TransformContinuousIndexToPhysicalPoint(
                [float(one) for one in corner][: judge.GetDimension()] + [0.0] * (judge.GetDimension() - 3)
            )
            assert np.abs(np.array(place[:3]) - (TO_RAS @ image.affine @ [*corner, 1])[:3]).max() < WORLD_TOLERANCE_MM
        data = np.asanyarray(image.dataobj)
        first = data[..., 0] if data.ndim == 4 else data
        places = np.indices((columns, rows, slices)).reshape(3, -1)
        at = (step @ np.vstack([places, np.ones(places.shape[1])]))[:3].astype(int)
        values = first[tuple(at)]
        mine = [volume[places[2], places[1], places[0]] for volume in volumes]
        if folder.startswith(SLOPES):
            compared += any(np.corrcoef(values, one)[0, 1] > 0.99999 for one in mine if one.any())
        else:
            compared += any(np.allclose(values, one, rtol=1e-4, atol=1e-3) for one in mine)
    assert compared == len(conversion.images) or (folder.startswith(SLOPES) and compared)


@pytest.mark.parametrize("number", range(48))
def test_no_way_of_storing_comes_out_mirrored(number: int, tmp_path: Path) -> None:
    """The body is another on each side, so that a mirror image of it is no turned one."""
    storage = phantom.ALL_STORAGES[number]
    files = phantom.write(tmp_path / "dicom", phantom.instances(storage, seed=number), seed=number)
    conversion = convert_series(sorted(files), tmp_path / "work", program=find_dcm2niix())
    (made,) = conversion.images
    image = nibabel.as_closest_canonical(nibabel.load(made.image))
    # Canonical axes grow to the right, front and head; the body's to the left, back and head.
    assert np.array_equal(np.asanyarray(image.dataobj), phantom.body()[::-1, ::-1, :])
    far = phantom.ORIGIN + np.array(phantom.SPACING) * (np.array(phantom.SHAPE) - 1)
    corner = [-far[0], -far[1], phantom.ORIGIN[2]]
    assert np.abs(image.affine[:3, 3] - corner).max() < WORLD_TOLERANCE_MM
    assert np.abs(np.diag(image.affine)[:3] - phantom.SPACING).max() < WORLD_TOLERANCE_MM
