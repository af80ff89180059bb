"""Planes are put where they lie, and what is wrong with them is named."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.review.geometry import Geometry, arrange_planes
from tasks.review.plane import Plane
from tasks.review.view import standard_view
from tasks.review.volume import Series, load_voxels, read_series
from tests.review import phantom
from tests.review.phantom import ALL_STORAGES, ORIGIN, SHAPE, SPACING, Storage

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
WORLD_TOLERANCE_MM = 1e-3


def _plane(z: float, **more: object) -> Plane:
    given: dict[str, object] = {
        "source": f"at{z:+07.2f}.dcm",
        "file": 0,
        "rows": 4,
        "columns": 6,
        "position": (-10.0, -20.0, z),
        "orientation": AXIAL,
        "pixel_spacing": (2.0, 1.0),
        "spacing_between": 3.0,
        **more,
    }
    return Plane(**given)  # type: ignore[arg-type]


def _stack(count: int = 8, step: float = 3.0, **more: object) -> list[Plane]:
    return [_plane(step * index, **more) for index in range(count)]


def _codes(geometry: Geometry) -> set[str]:
    return {one.code for one in geometry.findings}


def _text(geometry: Geometry, code: str) -> str:
    (found,) = [one for one in geometry.findings if one.code == code]
    return found.text


# -- one volume --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ALL_STORAGES, ids=str)
def test_every_voxel_is_where_it_was_stored_from(storage: Storage, tmp_path: Path) -> None:
    seed = ALL_STORAGES.index(storage)
    series = read_series(phantom.write(tmp_path, phantom.instances(storage, seed=seed), seed=seed))
    volume = load_voxels(series)
    assert series.geometry.verdict == "volume"
    assert series.geometry.findings == ()
    assert series.geometry.affine is not None
    assert volume.array is not None
    slices, rows, columns = np.indices(volume.array.shape)
    indices = np.stack([columns, rows, slices, np.ones_like(slices)]).reshape(4, -1)
    world = (np.array(series.geometry.affine) @ indices)[:3]
    found = (world.T - ORIGIN) / SPACING
    assert np.abs(found - np.rint(found)).max() < 1e-6
    x, y, z = np.rint(found).astype(int).T
    assert np.array_equal(phantom.body()[x, y, z], volume.array.ravel())


def test_spacing_is_in_the_order_of_the_array_axes(tmp_path: Path) -> None:
    series = read_series(phantom.write(tmp_path, phantom.instances(phantom.SAGITTAL)))
    assert series.geometry.spacing == pytest.approx((SPACING[0], SPACING[2], SPACING[1]))
    assert series.geometry.shape == (1, SHAPE[0], SHAPE[2], SHAPE[1])


@given(st.randoms(use_true_random=False), st.integers(1, 6), st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_the_order_of_the_files_changes_nothing(shuffler: random.Random, slices: int, volumes: int) -> None:
    planes = [
        _plane(3.0 * k, source=f"{v}-{k}.dcm", temporal_position=float(v), instance_number=float(v * slices + k))
        for v in range(volumes)
        for k in range(slices)
    ]
    shuffled = list(planes)
    shuffler.shuffle(shuffled)
    one, other = arrange_planes(planes), arrange_planes(shuffled)
    assert one.geometry == other.geometry
    names = [[[a.planes[i].source for i in volume] for volume in a.volumes] for a in (one, other)]
    assert names[0] == names[1] == [[f"{v}-{k}.dcm" for k in range(slices)] for v in range(volumes)]


def test_instance_numbers_never_order_slices() -> None:
    planes = [replace(one, instance_number=float(-index)) for index, one in enumerate(_stack())]
    arranged = arrange_planes(planes)
    assert [planes[i].position for i in arranged.volumes[0]] == [one.position for one in planes]


def test_a_single_slice_takes_its_depth_from_the_header() -> None:
    stated = arrange_planes([_plane(5.0)]).geometry
    assert stated.spacing == (3.0, 2.0, 1.0)
    assert stated.findings == ()
    assumed = arrange_planes([_plane(5.0, spacing_between=None, thickness=4.0)]).geometry
    assert assumed.spacing == (4.0, 2.0, 1.0)
    assert _codes(assumed) == {"assumed-spacing"}
    unknown = arrange_planes([_plane(5.0, spacing_between=None)]).geometry
    assert unknown.spacing == (None, 2.0, 1.0)
    assert unknown.affine is None


# -- what is wrong with a stack ----------------------------------------------------------------------------------------


def test_a_missing_slice_is_named_with_its_neighbours(tmp_path: Path) -> None:
    paths = phantom.write(tmp_path, phantom.instances(phantom.SAGITTAL))
    geometry = read_series([*paths[:3], *paths[4:]]).geometry
    assert geometry.verdict == "stack"
    assert geometry.affine is None
    (found,) = geometry.findings
    assert found.code == "gap"
    assert found.is_fault
    assert set(found.files) == {paths[2].name, paths[4].name}
    assert found.text.startswith("1 slice missing where slices usually lie 2.00 mm apart: 4.00 mm between ")


def test_several_gaps_are_counted() -> None:
    planes = [one for index, one in enumerate(_stack(20)) if index not in (3, 7, 8, 15)]
    assert _text(arrange_planes(planes).geometry, "gap").startswith("4 slices missing")


def test_a_doubled_position_is_named(tmp_path: Path) -> None:
    made = phantom.instances()
    again = phantom.instances()[2]
    again.SOPInstanceUID = phantom.uid("again")
    again.InstanceNumber = 99
    paths = phantom.write(tmp_path, [*made, again])
    series = read_series(paths)
    assert series.geometry.verdict == "volume"
    assert series.geometry.shape == (1, SHAPE[2], SHAPE[1], SHAPE[0])
    (found,) = series.geometry.findings
    assert found.code == "double-position"
    assert set(found.files) == {paths[2].name, paths[-1].name}
    assert series.ordered_files()[-1] == paths[-1]


def test_a_double_that_was_acquired_later_is_a_double_all_the_same() -> None:
    planes = [replace(one, acquired=100.0 + index) for index, one in enumerate(_stack())]
    again = replace(planes[4], source="again.dcm", acquired=500.0)
    arranged = arrange_planes([again, *planes])
    assert _codes(arranged.geometry) == {"double-position"}
    assert [arranged.planes[i].source for i in arranged.left_out] == ["again.dcm"]


def test_a_double_in_a_series_of_several_volumes_is_named() -> None:
    planes = [
        replace(one, temporal_position=float(v), instance_number=1.0, source=f"{v}{one.source}")
        for v in (1, 2, 3)
        for one in _stack()
    ]
    again = replace(planes[10], source="zz-again.dcm", instance_number=9.0)
    arranged = arrange_planes([*planes, again])
    assert _codes(arranged.geometry) == {"double-position"}
    assert arranged.geometry.shape == (3, 8, 4, 6)
    assert arranged.geometry.findings[0].files == ("zz-again.dcm", planes[10].source)


def test_another_orientation_makes_single_planes(tmp_path: Path) -> None:
    made = [*phantom.instances(phantom.AXIAL)[:3], *phantom.instances(phantom.CORONAL)[:3]]
    for number, dataset in enumerate(made):
        dataset.SOPInstanceUID = phantom.uid("localizer", number)
        phantom.set_pixels(dataset, np.full((8, 8), number + 1, np.int16))
    for dataset in made:
        dataset.PixelSpacing = [1, 1]
    series = read_series(phantom.write(tmp_path, made))
    assert series.geometry.verdict == "planes"
    assert series.geometry.shape is None
    assert _codes(series.geometry) == {"orientations-differ"}
    assert not any(one.is_fault for one in series.geometry.findings)
    planes = [series.arrangement.planes[i] for i in series.arrangement.volumes[0]]
    assert [standard_view(one.orientation).plane for one in planes if one.orientation] == ["axial"] * 3 + [
        "coronal"
    ] * 3


def test_uneven_slices_are_told_from_gaps() -> None:
    planes = [_plane(z) for z in (0, 3, 6, 10.3, 13.3, 16.3)]
    geometry = arrange_planes(planes).geometry
    assert _codes(geometry) == {"uneven-spacing"}
    assert geometry.verdict == "stack"
    assert "4.30 mm between at+006.00.dcm and at+010.30.dcm" in _text(geometry, "uneven-spacing")


@pytest.mark.parametrize("degrees", [2.0, 15.0, -20.0])
def test_a_tilted_gantry_is_measured_and_kept_in_the_matrix(degrees: float) -> None:
    shear = np.tan(np.radians(degrees))
    planes = [replace(one, position=(0.0, shear * 3.0 * k, 3.0 * k)) for k, one in enumerate(_stack())]
    geometry = arrange_planes(planes).geometry
    assert geometry.verdict == "volume"
    assert _codes(geometry) == {"tilted"}
    assert f"{abs(degrees):.1f} degrees" in _text(geometry, "tilted")
    last = np.array(geometry.affine) @ [0, 0, 7, 1]
    assert last[:3] == pytest.approx(planes[-1].position)


def test_slices_shifted_sideways_are_named() -> None:
    planes = _stack()
    planes[3] = replace(planes[3], position=(-10.0, -18.5, 9.0))
    geometry = arrange_planes(planes).geometry
    assert _codes(geometry) == {"not-in-line"}
    assert geometry.affine is None


def test_a_spacing_that_the_headers_belie_is_noted() -> None:
    assert _codes(arrange_planes(_stack(spacing_between=1.5)).geometry) == {"spacing-differs"}


def test_different_sizes_and_spacings_make_single_planes() -> None:
    sizes = arrange_planes([*_stack(3), _plane(9.0, rows=5)]).geometry
    assert (sizes.verdict, _codes(sizes)) == ("planes", {"sizes-differ"})
    spacings = arrange_planes([*_stack(3), _plane(9.0, pixel_spacing=(2.0, 1.1))]).geometry
    assert (spacings.verdict, _codes(spacings)) == ("planes", {"pixel-spacing-differs"})


def test_places_that_are_not_stated_are_named() -> None:
    some = arrange_planes([*_stack(3), _plane(9.0, position=None)]).geometry
    assert (some.verdict, _codes(some)) == ("planes", {"positions-missing"})
    assert "1 of 4 images" in _text(some, "positions-missing")
    none = arrange_planes([_plane(9.0, position=None, orientation=None, pixel_spacing=None)]).geometry
    assert _codes(none) == {"positions-missing", "orientation-missing", "spacing-missing"}
    assert arrange_planes([]).geometry.verdict == "nothing"


@pytest.mark.parametrize(
    "cosines", [[1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0], [0.5, 0, 0, 0, 1, 0], [9e99, 0, 0, 0, 1, 0]]
)
def test_impossible_directions_are_refused(cosines: list[float], tmp_path: Path) -> None:
    made = phantom.instances()
    for dataset in made:
        dataset.ImageOrientationPatient = cosines
    geometry = read_series(phantom.write(tmp_path, made)).geometry
    assert geometry.verdict == "planes"
    assert _codes(geometry) & {"orientation-invalid", "orientation-missing"}


# -- several volumes ---------------------------------------------------------------------------------------------------


def _repeat(vary: str, values: list[object]) -> list[Plane]:
    planes = [replace(one, **{vary: value}) for value in values for one in _stack()]
    named = [replace(one, source=f"{index:03d}.dcm") for index, one in enumerate(planes)]
    random.Random(7).shuffle(named)
    return named


@pytest.mark.parametrize(
    ("vary", "values", "told"),
    [
        ("temporal_position", [1.0, 2.0, 3.0], "temporal position"),
        ("acquired", [10.0, 12.5, 15.0], "acquisition time"),
        ("trigger_time", [0.0, 400.0, 800.0], "trigger time"),
        ("acquisition_number", [1.0, 2.0, 3.0], "acquisition number"),
        ("echo_time", [2.0, 4.5, 7.0], "echo time"),
        ("b_value", [0.0, 500.0, 1000.0], "b-value"),
        ("gradient", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)], "b-value"),
        ("inversion_time", [100.0, 500.0, 900.0], "inversion time"),
        ("kind", [("M",), ("P",), ("R",)], "image type"),
    ],
)
def test_what_tells_volumes_apart_is_found(vary: str, values: list[object], told: str) -> None:
    arranged = arrange_planes(_repeat(vary, values))
    assert arranged.geometry.shape == (3, 8, 4, 6)
    assert arranged.geometry.volumes_by == (told,)
    assert arranged.geometry.findings == ()
    for volume, value in zip(arranged.volumes, values, strict=True):
        assert {getattr(arranged.planes[i], vary) for i in volume} == {value} or vary == "gradient"


def test_slice_wise_times_do_not_split_a_volume() -> None:
    planes = [
        replace(one, acquired=100.0 * v + k * 3 % 8, source=f"{v}-{k}.dcm")
        for v in range(4)
        for k, one in enumerate(_stack())
    ]
    arranged = arrange_planes(planes)
    assert arranged.geometry.shape == (4, 8, 4, 6)
    assert [arranged.planes[i].source[0] for volume in arranged.volumes for i in volume] == [
        c for c in "0123" for _ in "8" * 8
    ]


def test_magnitude_comes_before_phase_and_echoes_in_order() -> None:
    planes = [
        replace(one, kind=(kind,), echo_time=echo, acquired=time, source=f"{kind}{echo}{time}{one.source}")
        for kind in ("P", "M")
        for echo in (7.0, 2.0)
        for time in (30.0, 10.0)
        for one in _stack()
    ]
    arranged = arrange_planes(planes)
    order = [(p.kind[0], p.echo_time, p.acquired) for p in (arranged.planes[volume[0]] for volume in arranged.volumes)]
    assert order == [(kind, echo, time) for kind in "MP" for echo in (2.0, 7.0) for time in (10.0, 30.0)]
    assert arranged.geometry.volumes_by == ("image type", "echo time", "acquisition time")


def test_volumes_that_only_numbers_tell_apart_are_noted() -> None:
    planes = _repeat("instance_number", [1.0, 2.0, 3.0])
    geometry = arrange_planes(planes).geometry
    assert geometry.shape == (3, 8, 4, 6)
    assert _codes(geometry) == {"volumes-by-number"}


@pytest.mark.parametrize("vary", ["temporal_position", "acquired"])
def test_an_incomplete_volume_is_left_out_and_named(vary: str) -> None:
    planes = _repeat(vary, [1.0, 2.0, 3.0])
    lost = next(one for one in planes if getattr(one, vary) == 3.0 and one.position and one.position[2] == 9.0)
    planes.remove(lost)
    arranged = arrange_planes(planes)
    assert arranged.geometry.shape == (2, 8, 4, 6)
    assert _codes(arranged.geometry) == {"incomplete-volume"}
    assert len(arranged.left_out) == 7


# -- real scanners, other judges ---------------------------------------------------------------------------------------

CLASSIC = {
    "a sagittal 3D T1, oblique": "dcm_qa_uih/In/DTI_132225/t1_gre_fsp_3d_sag__132750",
    "Philips diffusion, doubly oblique": "dcm_qa_philips/In/Vanderbilt_2018/601_WIP_dti_ax",
    "Philips EPI, oblique": "dcm_qa_philips/In/Magdeburg_2014/fmri",
    "GE EPI, head to feet": "dcm_qa_nih/In/20180918GE/mr_0006",
    "GE EPI with trigger times": "dcm_qa_stc/In/GE/TriggerTime/4_epi_ascending",
}


def _first_volume(series: Series) -> list[Path]:
    return [series.paths[series.arrangement.planes[index].file] for index in series.arrangement.volumes[0]]


def _corners(shape: tuple[int, int, int, int]) -> list[tuple[int, int, int]]:
    _, slices, rows, columns = shape
    return [(c, r, k) for c in (0, columns - 1) for r in (0, rows - 1) for k in (0, slices - 1)]


def _assert_same_world(geometry: Geometry, image: SimpleITK.Image) -> None:
    assert geometry.affine is not None
    assert geometry.shape is not None
    for corner in _corners(geometry.shape):
        ours = (np.array(geometry.affine) @ [*corner, 1])[:3]
        theirs = image.TransformContinuousIndexToPhysicalPoint([float(one) for one in corner])
        assert np.abs(ours - theirs).max() < WORLD_TOLERANCE_MM, corner


@pytest.mark.parametrize("folder", CLASSIC.values(), ids=CLASSIC)
def test_the_world_is_where_simpleitk_has_it(folder: str, scanner_data: Path, tmp_path: Path) -> None:
    paths = [path for path in (scanner_data / folder).iterdir() if path.is_file() and path.suffix != ".json"]
    series = read_series(paths)
    assert series.geometry.verdict == "volume"
    assert not any(one.is_fault for one in series.geometry.findings)
    chosen = _first_volume(series)
    for number, path in enumerate(random.Random(3).sample(chosen, len(chosen))):
        (tmp_path / f"{number:04d}.dcm").symlink_to(path)
    # Which slice comes first is the other reader's own decision: it sorts the folder itself.
    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path))
    image = SimpleITK.ReadImage(names)
    _assert_same_world(series.geometry, image)
    array = load_voxels(series, first_only=True).array
    assert array is not None
    assert np.allclose(array, SimpleITK.GetArrayFromImage(image), rtol=1e-5, atol=1e-3)


def test_the_world_of_an_enhanced_instance_is_where_simpleitk_has_it(scanner_data: Path) -> None:
    for path in sorted((scanner_data / "dcm_qa_enh/In/Siemens/XA10").glob("*.dcm")):
        series = read_series([path])
        image = SimpleITK.ReadImage(str(path))
        _assert_same_world(series.geometry, image)
        array = load_voxels(series).array
        assert array is not None
        assert np.array_equal(array, SimpleITK.GetArrayFromImage(image))


def _protocol_centres(dataset: pydicom.Dataset) -> np.ndarray:
    """Read the slice centres, LPS mm, from the text protocol in a Siemens private header."""
    text = dataset[0x0029, 0x1020].value.decode("latin-1").partition("### ASCCONV BEGIN")[2]
    count = int(re.search(r"sSliceArray\.lSize\s*=\s*(\w+)", text)[1], 0)  # type: ignore[index]

    def coordinate(index: int, axis: str) -> float:
        found = re.search(rf"sSliceArray\.asSlice\[{index}\]\.sPosition\.d{axis}\s*=\s*(\S+)", text)
        return float(found[1]) if found else 0.0

    return np.array([[coordinate(index, axis) for axis in ("Sag", "Cor", "Tra")] for index in range(count)])


MOSAICS = {
    "B12": "dcm_qa_stc/In/Siemens/B12/2_FMRI_AX_ASC",
    "B13, 36 of 36 tiles": "dcm_qa_stc/In/Siemens/B13/4_fMRIcontin",
    "B15 diffusion, 60 of 64 tiles": "dcm_qa_stc/In/Siemens/B15/2_ep2d_DTI_20_dir_AP",
    "B17": "dcm_qa_stc/In/Siemens/B17/6_ax_asc_35sl",
    "D13": "dcm_qa_stc/In/Siemens/D13/ep2d_Asc_2",
    "E11 multiband, 51 of 64 tiles": "dcm_qa_stc/In/Siemens/E11/7_Rest_fMRI_AP",
    "phase along rows, 5 of 9 tiles": "dcm_qa_nih/In/20180918Si/mr_0005",
}


@pytest.mark.parametrize("folder", MOSAICS.values(), ids=MOSAICS)
def test_a_mosaic_without_private_header_is_cut_and_placed(folder: str, scanner_data: Path, tmp_path: Path) -> None:
    originals = sorted((scanner_data / folder).glob("*.dcm"))[:2]
    bare = []
    for path in originals:
        dataset = pydicom.dcmread(path)
        dataset.remove_private_tags()
        bare.append(phantom.save(dataset, tmp_path / f"{path.stem}.dcm"))
    series = read_series(bare)
    expected = _protocol_centres(pydicom.dcmread(originals[0]))
    assert _codes(series.geometry) == {"assumed-mosaic"}
    assert series.geometry.shape is not None
    _, slices, rows, columns = series.geometry.shape
    assert slices == len(expected)
    middles = [np.array(series.geometry.affine) @ [columns / 2, rows / 2, k, 1] for k in range(slices)]
    assert np.abs(np.array(middles)[:, :3] - expected).max() < 0.01


def _without_private(folder: Path, target: Path) -> list[Path]:
    bare = []
    for path in sorted(folder.glob("*.dcm")):
        dataset = pydicom.dcmread(path)
        dataset.remove_private_tags()
        bare.append(phantom.save(dataset, target / path.name))
    return bare


def test_a_mosaic_numbered_the_other_way_round_is_placed_by_its_private_header(
    scanner_data: Path, tmp_path: Path
) -> None:
    """Here the scanner numbered from head to feet, which no public attribute tells."""
    folder = scanner_data / "dcm_qa_stc/In/Siemens/D13/ep2d_Asc_HF_10"
    series = read_series(folder.glob("*.dcm"))
    assert _codes(series.geometry) == set()
    centres = _protocol_centres(pydicom.dcmread(next(folder.glob("*.dcm"))))
    assert series.geometry.shape is not None
    _, slices, rows, columns = series.geometry.shape
    middles = [np.array(series.geometry.affine) @ [columns / 2, rows / 2, k, 1] for k in range(slices)]
    assert sorted(np.array(middles)[:, 2]) == pytest.approx(sorted(centres[:, 2]), abs=0.01)
    bare = read_series(_without_private(folder, tmp_path))
    assert _codes(bare.geometry) == {"assumed-mosaic"}, "all there can be is the note"
    assert load_voxels(bare, first_only=True).count == 2


def test_a_grid_whose_place_is_private_is_cut_without_a_matrix_if_that_was_removed(
    scanner_data: Path, tmp_path: Path
) -> None:
    folder = scanner_data / "dcm_qa_stc/In/UIH/R002/12_dti_tra_dir16_PA_rot"
    geometry = read_series(folder.glob("*.dcm")).geometry
    assert (geometry.verdict, geometry.shape) == ("volume", (17, 20, 64, 64))
    assert not _codes(geometry) & {"assumed-mosaic", "positions-missing"}
    bare = read_series(_without_private(folder, tmp_path)).geometry
    assert bare.affine is None
    assert {"assumed-mosaic", "positions-missing"} <= _codes(bare)
