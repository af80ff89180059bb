"""Voxels come out as the scanner meant them, and what cannot be decoded is named and does no other harm."""

from __future__ import annotations

import logging
import random
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tasks.review.plane import MosaicGrid, cut, mosaic_grid, settle_grid
from tasks.review.volume import Volume, load_volume, load_voxels, read_series
from tests.review import phantom
from tests.review.phantom import SHAPE


def _expected() -> np.ndarray:
    """Give the body as an axial series stores it: (slices, rows, columns) = (z, y, x)."""
    return phantom.body().transpose(2, 1, 0)


def _codes(volume: Volume) -> list[str]:
    return [one.code for one in volume.problems]


def _array(volume: Volume) -> np.ndarray:
    assert volume.array is not None
    return volume.array


def _one(dataset: Dataset, folder: Path) -> Volume:
    return load_volume([phantom.save(dataset, folder / "one.dcm")])


def _packaged(*names: str) -> list[Path]:
    """Find files that pydicom's package carries."""
    return [Path(str(get_testdata_file(name, download=False))) for name in names]


# -- values ------------------------------------------------------------------------------------------------------------


def test_integers_stay_the_integers_they_are(tmp_path: Path) -> None:
    volume = load_volume(phantom.write(tmp_path, phantom.instances()))
    assert _array(volume).dtype == np.int16
    assert np.array_equal(_array(volume), _expected())
    assert volume.count == 1
    assert not volume.problems


def test_each_slice_has_its_own_slope(tmp_path: Path) -> None:
    def rescale(index: int, dataset: Dataset) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = 0.5 + index, -10.25 * index

    array = _array(load_volume(phantom.write(tmp_path, phantom.instances(), change=rescale)))
    assert array.dtype == np.float32
    for index, plane in enumerate(_expected()):
        assert array[index] == pytest.approx(plane * (0.5 + index) - 10.25 * index)


def test_hounsfield_units_are_whole_numbers(tmp_path: Path) -> None:
    image = np.array([[0, 1024], [4095, 1000]], np.uint16)
    dataset = phantom.mr_instance(image, sop_class=CTImageStorage)
    dataset.BitsStored, dataset.HighBit = 12, 11
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.PixelPaddingValue = 0
    volume = _one(dataset, tmp_path)
    (found,) = volume.images
    assert found is not None
    assert found.dtype == np.int16
    assert found.tolist() == [[-1024, 0], [3071, -24]]
    assert volume.padding == -1024


def test_unused_high_bits_are_not_values(tmp_path: Path) -> None:
    """Older scanners keep an overlay in the bits above those that are stored."""
    values = np.array([[-2048, -1], [0, 2047]], np.int16)
    dirty = ((values & 0x0FFF) | np.int16(0x5000)).astype(np.int16)
    dataset = phantom.mr_instance(dirty)
    dataset.BitsStored, dataset.HighBit = 12, 11
    (found,) = _one(dataset, tmp_path).images
    assert found is not None
    assert found.tolist() == values.tolist()
    phantom.set_pixels(dataset, dirty.view(np.uint16))
    dataset.BitsStored, dataset.HighBit = 12, 11
    (found,) = _one(dataset, tmp_path).images
    assert found is not None
    assert found.tolist() == (values & 0x0FFF).tolist()


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32])
def test_every_whole_number_type_comes_through(kind: type[np.generic], tmp_path: Path) -> None:
    limits = np.iinfo(kind)
    image = np.array([[limits.min, limits.max], [0, 1]], kind)
    (found,) = _one(phantom.mr_instance(image), tmp_path).images
    assert found is not None
    assert found.tolist() == image.tolist()
    assert found.dtype.itemsize == image.dtype.itemsize


@pytest.mark.parametrize("name", ["parametric_map_float.dcm", "parametric_map_double_float.dcm"])
def test_floating_point_pixels_become_single_precision(name: str, scanner_data: Path) -> None:
    path = scanner_data / "pydicom-data/data_store/data" / name
    array = _array(load_volume([path]))
    assert array.dtype == np.float32
    assert array[0] == pytest.approx(dcmread(path).pixel_array, rel=1e-6)


def test_low_values_that_are_meant_to_be_bright_are_marked(tmp_path: Path) -> None:
    dataset = phantom.mr_instance(np.arange(4, dtype=np.uint16).reshape(2, 2))
    dataset.PhotometricInterpretation = "MONOCHROME1"
    assert _one(dataset, tmp_path).inverted


def test_a_modality_table_is_applied(scanner_data: Path) -> None:
    path = scanner_data / "pydicom-data/data_store/data/mlut_18.dcm"
    dataset = dcmread(path)
    (found,) = load_volume([path]).images
    table = dataset.ModalityLUTSequence[0]
    first, values = table.LUTDescriptor[1], np.asarray(table.LUTData)
    expected = values[np.clip(dataset.pixel_array.astype(int) - first, 0, len(values) - 1)]
    assert np.array_equal(found, expected)


def test_colour_is_red_green_and_blue(tmp_path: Path) -> None:
    image = np.random.default_rng(1).integers(0, 256, (6, 8, 3), np.uint8)
    dataset = phantom.mr_instance(image[..., 0])
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.PixelData = image.tobytes()
    volume = _one(dataset, tmp_path)
    assert volume.is_colour
    assert np.array_equal(volume.images[0], image)
    dataset.PlanarConfiguration = 1
    dataset.PixelData = image.transpose(2, 0, 1).tobytes()
    assert np.array_equal(_one(dataset, tmp_path).images[0], image)


def test_a_palette_is_turned_into_colour() -> None:
    (path,) = _packaged("examples_palette.dcm")
    (image,) = load_volume([path]).images
    assert image is not None
    dataset = dcmread(path)
    red = np.frombuffer(dataset.RedPaletteColorLookupTableData, "<u2")
    first = dataset.RedPaletteColorLookupTableDescriptor[1]
    assert np.array_equal(image[..., 0], red[np.clip(dataset.pixel_array.astype(int) - first, 0, len(red) - 1)] >> 8)


# -- ways of storing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_an_enhanced_instance_is_put_in_order(seed: int, tmp_path: Path) -> None:
    array = _array(_one(phantom.enhanced(seed=seed), tmp_path))
    assert np.array_equal(array, _expected())


def test_each_frame_has_its_own_slope(tmp_path: Path) -> None:
    dataset = phantom.enhanced(seed=5)
    for index, groups in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        values = Dataset()
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1.5 + index, 3.0 * index, "US"
        groups.PixelValueTransformationSequence = Sequence([values])
    array = _array(_one(dataset, tmp_path))
    for index, groups in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        z = groups.PlanePositionSequence[0].ImagePositionPatient[2]
        k = round((z - phantom.ORIGIN[2]) / phantom.SPACING[2])
        assert array[k] == pytest.approx(_expected()[k] * (1.5 + index) + 3.0 * index)


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian], ids=lambda one: one.name
)
def test_every_uncompressed_encoding_gives_the_same_voxels(syntax: str, tmp_path: Path) -> None:
    def encode(_: int, dataset: Dataset) -> None:
        dataset.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<i2").astype(">i2").tobytes()

    assert np.array_equal(_array(load_volume(phantom.write(tmp_path, phantom.instances(), change=encode))), _expected())


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless], ids=lambda one: one.name)
def test_every_lossless_compression_gives_the_same_voxels(syntax: str, tmp_path: Path) -> None:
    def compress(_: int, dataset: Dataset) -> None:
        dataset.compress(syntax, generate_instance_uid=False)

    volume = load_volume(phantom.write(tmp_path, phantom.instances(), change=compress))
    assert not volume.problems
    assert np.array_equal(_array(volume), _expected())


@pytest.mark.parametrize("name", ["jp2klossless", "jpeg_ls_lossless", "RLE", "bigendian", "implicit"])
def test_one_picture_in_many_encodings_is_one_picture(name: str) -> None:
    one, other = (load_volume([path]) for path in _packaged("MR_small.dcm", f"MR_small_{name}.dcm"))
    assert not other.problems
    assert np.array_equal(_array(one), _array(other))
    assert one.geometry == other.geometry


def _smooth_slice(index: int, size: int) -> np.ndarray:
    """Draw a bright ellipse with a darker one inside, a little another one in each slice."""
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    outer = (x / 0.42) ** 2 + ((y + 0.02) / (0.3 + index * 0.004)) ** 2 < 1
    inner = ((x - 0.11) / 0.1) ** 2 + ((y - 0.1) / 0.12) ** 2 < 1
    return (outer * 700 - inner * 400 + (outer * 200 * x)).astype(np.uint16)


def _mosaic(tiles: list[np.ndarray], across: int) -> np.ndarray:
    size = tiles[0].shape[0]
    sheet = np.zeros((across * size, across * size), np.uint16)
    for index, tile in enumerate(tiles):
        top, left = index // across * size, index % across * size
        sheet[top : top + size, left : left + size] = tile
    return sheet


@pytest.mark.parametrize(("slices", "samples"), [(23, 32), (25, 32), (17, 32), (33, 16), (36, 16)])
def test_a_mosaic_is_cut_even_if_its_tiles_were_interpolated(slices: int, samples: int, tmp_path: Path) -> None:
    tiles = [_smooth_slice(index, 32) for index in range(slices)]
    across = int(np.ceil(np.sqrt(slices)))
    dataset = phantom.mr_instance(_mosaic(tiles, across))
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    dataset.AcquisitionMatrix = [samples, 0, 0, samples]
    dataset.InPlanePhaseEncodingDirection = "COL"
    dataset.ImageOrientationPatient, dataset.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-100, -100, 0]
    dataset.PixelSpacing, dataset.SpacingBetweenSlices = [2, 2], 3
    volume = _one(dataset, tmp_path)
    assert _array(volume).shape == (slices, 32, 32)
    assert np.array_equal(_array(volume), np.stack(tiles))


def test_a_mosaic_that_does_not_fit_is_shown_whole_and_named(tmp_path: Path) -> None:
    dataset = phantom.mr_instance(np.ones((96, 96), np.uint16))
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    dataset.AcquisitionMatrix = [64, 0, 0, 64]
    volume = _one(dataset, tmp_path)
    assert "mosaic-unresolved" in {one.code for one in volume.geometry.findings}
    assert [image.shape for image in volume.images if image is not None] == [(96, 96)]


def test_tiles_are_counted_over_all_images_of_a_series() -> None:
    """One image may end in slices that are empty in it alone."""
    grid = MosaicGrid(down=3, across=3, rows=4, columns=4, used=9)
    full, half = np.ones((12, 12)), np.ones((12, 12))
    for tile in (7, 8):
        cut(full, grid, tile)[:] = 0
    for tile in range(4, 9):
        cut(half, grid, tile)[:] = 0
    assert settle_grid(grid, [half, full]).used == 7
    assert settle_grid(grid, [full, half]).used == 7


def test_a_rectangular_field_of_view_is_cut_by_the_frequency_direction() -> None:
    dataset = Dataset()
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]
    dataset.Rows, dataset.Columns = 4 * 48, 4 * 64
    dataset.AcquisitionMatrix, dataset.InPlanePhaseEncodingDirection = [64, 0, 0, 48], "COL"
    assert mosaic_grid(dataset) == MosaicGrid(down=4, across=4, rows=48, columns=64, used=16)
    dataset.Rows, dataset.Columns = 4 * 64, 4 * 48
    dataset.AcquisitionMatrix, dataset.InPlanePhaseEncodingDirection = [0, 64, 48, 0], "ROW"
    assert mosaic_grid(dataset) == MosaicGrid(down=4, across=4, rows=64, columns=48, used=16)


# -- several volumes, several planes -----------------------------------------------------------------------------------


def _repeated(count: int) -> list[Dataset]:
    made = []
    for volume in range(count):
        for dataset in phantom.instances(seed=volume):
            dataset.TemporalPositionIdentifier = volume + 1
            dataset.SOPInstanceUID = phantom.uid(volume, dataset.InstanceNumber)
            phantom.set_pixels(dataset, dataset.pixel_array + np.int16(volume))
            made.append(dataset)
    random.Random(2).shuffle(made)
    return made


def test_several_volumes_are_four_dimensional(tmp_path: Path) -> None:
    series = read_series(phantom.write(tmp_path, _repeated(4)))
    volume = load_voxels(series)
    assert _array(volume).shape == (4, *_expected().shape)
    for index in range(4):
        assert np.array_equal(_array(volume)[index], _expected() + index)
    first = load_voxels(series, first_only=True)
    assert first.count == 4
    assert np.array_equal(_array(first), _expected())


def test_a_localizer_is_a_list_of_planes(tmp_path: Path) -> None:
    made = [phantom.instances(storage)[2] for storage in (phantom.SAGITTAL, phantom.AXIAL, phantom.CORONAL)]
    for number, dataset in enumerate(made):
        dataset.SOPInstanceUID = phantom.uid("localizer", number)
    volume = load_volume(phantom.write(tmp_path, made))
    assert volume.array is None
    assert {one.code for one in volume.geometry.findings} >= {"orientations-differ", "sizes-differ"}
    shapes = [image.shape for image in volume.images if image is not None]
    assert shapes == [(SHAPE[1], SHAPE[0]), (SHAPE[2], SHAPE[0]), (SHAPE[2], SHAPE[1])]
    assert not volume.problems


def test_memory_is_that_of_the_array_and_one_instance(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 4096, (512, 512), np.uint16)
    made = []
    for number in range(24):
        dataset = phantom.mr_instance(image, number=number + 1)
        dataset.ImageOrientationPatient, dataset.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, number * 2.0]
        dataset.PixelSpacing = [1, 1]
        made.append(dataset)
    paths = phantom.write(tmp_path, made)
    tracemalloc.start()
    volume = load_volume(paths)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.25 * _array(volume).nbytes


# -- what cannot be decoded --------------------------------------------------------------------------------------------


def test_cut_off_pixels_are_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    paths = phantom.write(tmp_path, phantom.instances())
    whole = paths[2].read_bytes()
    paths[2].write_bytes(whole[:-30])
    volume = load_volume(paths)
    (problem,) = volume.problems
    assert (problem.code, problem.files) == ("truncated-pixels", (paths[2].name,))
    assert volume.geometry.verdict == "volume"
    assert volume.images[2] is None
    for index in (0, 1, 3, 4):
        assert np.array_equal(_array(volume)[index], _expected()[index])
    assert not _array(volume)[2].any()


def test_pixels_shorter_than_the_header_claims_are_named(tmp_path: Path) -> None:
    dataset = phantom.mr_instance(np.zeros((8, 8), np.int16))
    dataset.Rows = 16
    assert _codes(_one(dataset, tmp_path)) == ["truncated-pixels"]


def test_a_missing_decoder_is_named(tmp_path: Path) -> None:
    dataset = phantom.mr_instance(np.zeros((8, 8), np.int16))
    dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    dataset.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
    dataset["PixelData"].VR = "OB"
    (problem,) = _one(dataset, tmp_path).problems
    assert problem.code == "codec-missing"
    assert "JPEG Lossless" in problem.text


def test_a_damaged_compressed_picture_is_named(tmp_path: Path) -> None:
    made = phantom.instances()
    for dataset in made:
        dataset.compress(RLELossless, generate_instance_uid=False)
    made[1].PixelData = encapsulate([b"\x01\x00\x00\x00" + b"\xff" * 60])
    volume = load_volume(phantom.write(tmp_path, made))
    assert _codes(volume) == ["undecodable-pixels"]
    assert volume.images[1] is None
    assert np.array_equal(_array(volume)[3], _expected()[3])


def test_a_damaged_picture_of_a_later_volume_is_named_too(tmp_path: Path) -> None:
    made = _repeated(2)
    for dataset in made:
        dataset.compress(RLELossless, generate_instance_uid=False)
    later = next(one for one in made if one.TemporalPositionIdentifier == 2)
    later.PixelData = encapsulate([b"\x01\x00\x00\x00" + b"\xff" * 60])
    series = read_series(phantom.write(tmp_path, made))
    assert _codes(load_voxels(series, first_only=True)) == ["undecodable-pixels"]


def test_an_instance_without_pixels_is_named(tmp_path: Path) -> None:
    dataset = phantom.mr_instance(np.zeros((8, 8), np.int16))
    del dataset.PixelData
    assert _codes(_one(dataset, tmp_path)) == ["no-pixels"]


@pytest.mark.parametrize("content", [b"", b"junk" * 100, b"\0" * 128 + b"DICM"], ids=["empty", "junk", "preamble"])
def test_a_file_that_is_no_picture_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "one.dcm").write_bytes(content)
    volume = load_volume([tmp_path / "one.dcm"])
    assert _codes(volume) in (["not-dicom"], ["no-pixels"])
    assert volume.geometry.verdict == "nothing"
    assert volume.images == ()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert _codes(load_volume([tmp_path / "gone.dcm"])) == ["unreadable"]


@pytest.mark.parametrize("frames", ["2147483647", "-3", "0"])
def test_an_impossible_number_of_frames_is_refused(frames: str, tmp_path: Path) -> None:
    dataset = phantom.mr_instance(np.zeros((8, 8), np.int16))
    dataset.NumberOfFrames = frames
    volume = _one(dataset, tmp_path)
    assert _codes(volume) == ["unsupported-pixels"]
    assert volume.array is None


def test_damaged_files_never_stop_the_loading(tmp_path: Path) -> None:
    """Every byte of a header may be wrong; each file is loaded or named, and no value of it is logged."""
    luck = random.Random(20040119)
    sources = [phantom.instances()[0], phantom.enhanced()]
    compressed = phantom.instances()[1]
    compressed.compress(RLELossless, generate_instance_uid=False)
    contents = []
    for number, dataset in enumerate([*sources, compressed]):
        contents.append(phantom.save(dataset, tmp_path / f"{number}.dcm").read_bytes())
    damaged = tmp_path / "damaged.dcm"
    outcomes = set()
    for _ in range(400):
        content = bytearray(luck.choice(contents))
        for _ in range(luck.choice((1, 2, 8))):
            content[luck.randrange(132, len(content))] = luck.randrange(256)
        if luck.random() < 0.2:
            del content[luck.randrange(132, len(content)) :]
        damaged.write_bytes(content)
        volume = load_volume([damaged])
        outcomes |= set(_codes(volume)) or {"loaded"}
    assert {"loaded", "not-dicom", "truncated-pixels", "unsupported-pixels"} <= outcomes


def test_no_value_of_a_header_is_logged_or_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Left alone, pydicom would quote the character set in a warning and in the log."""
    dataset = phantom.instances()[0]
    dataset.SpecificCharacterSet = "ISO_IR 100"
    path = phantom.save(dataset, tmp_path / "one.dcm")
    path.write_bytes(path.read_bytes().replace(b"ISO_IR 100", b"CANARY SET").replace(b"ORIGINAL", b"canary!!"))
    with caplog.at_level(logging.DEBUG), pytest.warns(UserWarning, match="CANARY SET"):
        dcmread(path)
    assert "CANARY SET" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.DEBUG):
        volume = load_volume([path])
    assert volume.images[0] is not None
    assert caplog.text == ""
