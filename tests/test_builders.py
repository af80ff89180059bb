"""The builders keep their promises: the demo dump and the world of four numbers are what they say."""

from __future__ import annotations

import datetime
import hashlib
import random
import subprocess
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from tests.builders import cast, demo_dump, mr_headers, world
from tests.builders.demo_dump import DemoContents, DemoFile, FileKind
from tests.builders.head import Grid


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DemoContents]:
    """Write the small demo dump once."""
    folder = tmp_path_factory.mktemp("demo") / "dump"
    return folder, demo_dump.write_demo_dump(folder, small=True)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def stacks(folder: Path, contents: DemoContents, kind: str) -> dict[tuple[int, int], list[Dataset]]:
    """Read the images of one kind of series, by patient and visit."""
    found: dict[tuple[int, int], list[Dataset]] = defaultdict(list)
    for file in contents.of_kind(FileKind.PATIENT_IMAGE):
        if file.series == kind:
            found[file.patient, file.visit].append(pydicom.dcmread(folder / file.name))
    return found


def frame_geometry(datasets: list[Dataset]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """List position, orientation (2 x 3), in-plane spacing and pixels of every slice, classic or enhanced."""
    planes = []
    for dataset in datasets:
        if dataset.SOPClassUID != EnhancedMRImageStorage:
            groups = [(dataset, dataset, dataset)]
        else:
            shared = dataset.SharedFunctionalGroupsSequence[0]
            orientation = shared.PlaneOrientationSequence[0]
            measures = shared.PixelMeasuresSequence[0]
            groups = [
                (frame.PlanePositionSequence[0], orientation, measures)
                for frame in dataset.PerFrameFunctionalGroupsSequence
            ]
        pixels = dataset.pixel_array.reshape(len(groups), dataset.Rows, dataset.Columns)
        for (position, orientation, measures), image in zip(groups, pixels, strict=True):
            planes.append(
                (
                    np.array(position.ImagePositionPatient, dtype=float),
                    np.array(orientation.ImageOrientationPatient, dtype=float).reshape(2, 3),
                    np.array(measures.PixelSpacing, dtype=float),
                    image,
                )
            )
    return planes


def brightest_place(datasets: list[Dataset]) -> np.ndarray:
    """Find the middle of the brightest voxels, LPS mm, by the equation of PS3.3 C.7.6.2.1.1."""
    planes = frame_geometry(datasets)
    limit = 0.75 * max(image.max() for *_, image in planes)
    places = []
    for position, (along_row, along_column), (row_spacing, column_spacing), image in planes:
        rows, columns = np.nonzero(image > limit)
        places.append(
            position + np.outer(columns * column_spacing, along_row) + np.outer(rows * row_spacing, along_column)
        )
    return np.concatenate(places).mean(axis=0)


# --- The demo dump ------------------------------------------------------------------------------------------------


def test_small_dump_has_every_kind_and_nothing_unlisted(dump: tuple[Path, DemoContents]) -> None:
    folder, contents = dump
    assert set(contents.counts()) == set(FileKind)
    assert {path.name for path in folder.iterdir()} == {file.name for file in contents.files}
    assert 120 <= len(contents.files) <= 180
    assert all(path.is_file() for path in folder.iterdir())
    assert {file.name for file in contents.files if "." in file.name} == {"Thumbs.db"}
    series = {(file.series, file.enhanced) for file in contents.of_kind(FileKind.PATIENT_IMAGE)}
    assert series == {("t1", False), ("epi", False), ("epi", True), ("dwi", False), ("dwi", True)}


def test_same_seed_gives_same_bytes(dump: tuple[Path, DemoContents], tmp_path: Path) -> None:
    folder, contents = dump
    again = demo_dump.write_demo_dump(tmp_path / "again", small=True)
    assert again == contents
    assert digests(tmp_path / "again") == digests(folder)


def test_other_seed_gives_other_names_and_uids(dump: tuple[Path, DemoContents], tmp_path: Path) -> None:
    _, contents = dump
    other = demo_dump.write_demo_dump(tmp_path, seed=2, small=True)
    assert {file.name for file in other.files} & {file.name for file in contents.files} == {"Thumbs.db"}
    for mine, theirs in zip(contents.patients, other.patients, strict=True):
        assert not set(mine.uids) & set(theirs.uids)
        assert mine.patient_ids != theirs.patient_ids


def test_every_patient_image_opens_and_is_the_instance_listed(dump: tuple[Path, DemoContents]) -> None:
    folder, contents = dump
    uids = []
    for file in contents.of_kind(FileKind.PATIENT_IMAGE):
        dataset = pydicom.dcmread(folder / file.name)
        assert dataset.SOPInstanceUID == file.sop_instance_uid
        assert (dataset.SOPClassUID == EnhancedMRImageStorage) is file.enhanced
        assert dataset.pixel_array.size > 0
        uids.append(file.sop_instance_uid)
    assert len(set(uids)) == len(uids)


def test_names_decode(dump: tuple[Path, DemoContents]) -> None:
    folder, contents = dump
    names = {role.number: role.name for role in cast.CAST}
    for file in contents.of_kind(FileKind.PATIENT_IMAGE):
        assert str(pydicom.dcmread(folder / file.name, stop_before_pixels=True).PatientName) == names[file.patient]


@pytest.mark.parametrize("role", cast.CAST, ids=lambda role: f"patient {role.number}")
def test_every_script_survives_a_file(role: cast.Role, tmp_path: Path) -> None:
    chance = random.Random(1)
    start = datetime.datetime.combine(role.first_visit, datetime.time(9))
    visit = mr_headers.Visit(
        person=cast.draw_person(role, chance),
        scanner=role.scanner,
        serial="1",
        station="S",
        start=start,
        accession="A",
        study_id="I",
        chance=chance,
    )
    grid = Grid(shape=(1, 4, 4), spacing=(1, 1, 1), row_direction=(1, 0, 0), column_direction=(0, 1, 0))
    series = mr_headers.Series(visit=visit, number=1, contrast=cast.T1, grid=grid, volumes=1, start=start)
    volume = mr_headers.Volume(index=0, pixels=np.zeros(grid.shape, dtype="<u2"))
    content, _ = mr_headers.classic_image(mr_headers.classic_series(series), series, volume, 0)
    (tmp_path / "image").write_bytes(content)
    dataset = pydicom.dcmread(tmp_path / "image")
    assert str(dataset.PatientName) == role.name
    assert dataset.InstitutionName == role.institution
    assert str(dataset.OriginalAttributesSequence[0].ModifiedAttributesSequence[0].PatientName) == role.former_name
    assert visit.person.spoken_name in dataset.PatientComments


def test_t1_slices_form_a_regular_stack(dump: tuple[Path, DemoContents]) -> None:
    folder, contents = dump
    for datasets in stacks(folder, contents, "t1").values():
        planes = frame_geometry(datasets)
        along_row, along_column = planes[0][1]
        assert np.allclose([along_row @ along_row, along_column @ along_column, along_row @ along_column], [1, 1, 0])
        assert all(np.array_equal(plane[1], planes[0][1]) for plane in planes)
        normal = np.cross(along_row, along_column)
        positions = np.array(sorted((plane[0] for plane in planes), key=lambda place: float(place @ normal)))
        assert len(positions) == cast.SMALL.t1_shape[0]
        steps = np.diff(positions, axis=0)
        assert np.allclose(steps, normal * float(datasets[0].SpacingBetweenSlices), atol=1e-6)
        assert sorted(int(dataset.InstanceNumber) for dataset in datasets) == list(range(1, len(datasets) + 1))


def test_ball_lies_on_the_left_where_it_was_put(dump: tuple[Path, DemoContents]) -> None:
    folder, contents = dump
    marks = {patient.number: patient.marks for patient in contents.patients}
    found = stacks(folder, contents, "t1")
    assert len(found) == 4
    for (patient, visit), datasets in found.items():
        place = brightest_place(datasets)
        assert place[0] > 20  # LPS: positive is left
        # Slices lie further apart than the ball is wide across, so only half of that is known along the normal.
        assert np.linalg.norm(place - marks[patient][visit - 1]) < cast.SMALL.t1_spacing[0] / 2 + 2


def test_diffusion_tells_weighting_in_every_frame(dump: tuple[Path, DemoContents]) -> None:
    folder, contents = dump
    for datasets in stacks(folder, contents, "dwi").values():
        frames = []
        for dataset in datasets:
            if dataset.SOPClassUID == EnhancedMRImageStorage:
                for frame in dataset.PerFrameFunctionalGroupsSequence:
                    group = frame.MRDiffusionSequence[0]
                    nested = group.get("DiffusionGradientDirectionSequence")
                    frames.append((group.DiffusionBValue, nested and nested[0].DiffusionGradientOrientation))
            else:
                frames.append((dataset.DiffusionBValue, dataset.get("DiffusionGradientOrientation")))
        assert {b_value for b_value, _ in frames} == {0.0, 1000.0}
        for b_value, direction in frames:
            assert (direction is None) == (b_value == 0)
            assert direction is None or np.isclose(np.linalg.norm(np.array(direction, dtype=float)), 1)


def test_patient_over_89_is_there(dump: tuple[Path, DemoContents]) -> None:
    _, contents = dump
    assert {age for patient in contents.patients for age in patient.ages if age > "089Y"} == {"093Y"}


def test_every_value_listed_is_planted(dump: tuple[Path, DemoContents]) -> None:
    """A search for leaks is worth nothing if what it looks for was never there."""
    folder, contents = dump
    for patient in contents.patients:
        heap = b"".join((folder / file.name).read_bytes() for file in contents.files if file.patient == patient.number)
        forms = patient.identifying_bytes()
        assert set(forms) == patient.identifying_values()
        missing = [value for value, coded in forms.items() if not any(form in heap for form in coded)]
        assert missing == []


def test_duplicates_conflict_and_truncated_are_what_they_say(dump: tuple[Path, DemoContents]) -> None:
    folder, contents = dump
    found = digests(folder)
    for file in contents.of_kind(FileKind.DUPLICATE):
        assert file.name != file.original
        assert found[file.name] == found[file.original]
    (conflict,) = contents.of_kind(FileKind.CONFLICT)
    one, other = (pydicom.dcmread(folder / name) for name in (conflict.name, conflict.original))
    assert one.SOPInstanceUID == other.SOPInstanceUID
    assert (one.pixel_array != other.pixel_array).sum() == 1
    for file in contents.of_kind(FileKind.TRUNCATED):
        # pydicom reads a cut file to its end; what it then lacks are the pixels, or the whole of them.
        with pytest.raises((EOFError, AttributeError, ValueError)):
            _ = pydicom.dcmread(folder / file.name).pixel_array


def test_pydicom_files_are_copied_as_they_are(dump: tuple[Path, DemoContents]) -> None:
    folder, contents = dump
    for file in contents.of_kind(FileKind.PYDICOM_FILE):
        assert (folder / file.name).read_bytes() == (demo_dump.PYDICOM_FOLDER / file.original).read_bytes()


def test_dciodvfy_finds_no_error(dump: tuple[Path, DemoContents], program: Callable[[str], str]) -> None:
    folder, contents = dump
    samples: dict[tuple[int, str, bool], DemoFile] = {}
    for file in contents.of_kind(FileKind.PATIENT_IMAGE):
        samples.setdefault((file.patient, file.series, file.enhanced), file)
    for file in samples.values():
        told = subprocess.run([program("dciodvfy"), folder / file.name], capture_output=True, check=False)
        lines = (told.stdout + told.stderr).decode("utf-8", errors="replace").splitlines()
        assert [line for line in lines if "Error" in line] == []
        assert any(line.strip() in ("MRImage", "EnhancedMRImage") for line in lines)


def test_command_finds_its_dump_again(dump: tuple[Path, DemoContents], capsys: pytest.CaptureFixture[str]) -> None:
    folder, contents = dump
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert demo_dump.main([str(folder), "--small"]) == 0
    assert f"{len(contents.files)} files" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert demo_dump.read_contents(folder) == contents


def test_command_refuses_a_folder_with_other_files(
    dump: tuple[Path, DemoContents], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").write_text("kept")
    assert demo_dump.main([str(tmp_path), "--small"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert demo_dump.main([str(dump[0]), "--small", "--seed", "2"]) == 2


@pytest.mark.long
def test_full_dump(tmp_path: Path) -> None:
    contents = demo_dump.write_demo_dump(tmp_path / "dump")
    assert 1500 <= len(contents.files) <= 3000
    assert sum(path.stat().st_size for path in (tmp_path / "dump").iterdir()) < 120e6
    assert len(contents.patients) == len(cast.CAST)
    assert {len(patient.study_dates) for patient in contents.patients} == {2, 3}
    marks = {patient.number: patient.marks for patient in contents.patients}
    for kind, tolerance in (("t1", 1.5), ("epi", 4.0)):
        found = stacks(tmp_path / "dump", contents, kind)
        assert len(found) == sum(len(patient.study_dates) for patient in contents.patients)
        for (patient, visit), datasets in found.items():
            assert np.linalg.norm(brightest_place(datasets) - marks[patient][visit - 1]) < tolerance


# --- The world of four numbers ------------------------------------------------------------------------------------


def test_equal_numbers_give_equal_instances() -> None:
    assert world.make_instance(2, 1, 3, 4) == world.make_instance(2, 1, 3, 4)
    seen = set()
    for numbers in np.ndindex(2, 2, 2, 2):
        instance = world.make_instance(*(number + 1 for number in numbers))
        seen.add((instance.SOPInstanceUID, instance.SeriesInstanceUID, instance.StudyInstanceUID, instance.PatientID))
    for level, count in enumerate((16, 8, 4, 2)):
        assert len({entry[level] for entry in seen}) == count


def test_instances_stack() -> None:
    planes = frame_geometry([_with_meta(world.make_instance(instance=number)) for number in (1, 2, 3)])
    steps = np.diff([plane[0] for plane in planes], axis=0)
    assert np.array_equal(steps, [[0, 0, world.SLICE_SPACING]] * 2)


def _with_meta(dataset: Dataset) -> Dataset:
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def test_overrides_replace_and_remove() -> None:
    instance = world.make_instance(PatientName="Synthetic^Other", SeriesNumber=None, PatientComments=None)
    assert str(instance.PatientName) == "Synthetic^Other"
    assert "SeriesNumber" not in instance
    assert "PatientComments" not in instance


@pytest.mark.parametrize("preamble", [True, False])
@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_every_syntax_reads_back(syntax: str, preamble: bool, tmp_path: Path) -> None:
    instance = world.make_instance(patient=3, instance=5)
    pixels = _with_meta(world.make_instance(patient=3, instance=5)).pixel_array
    path = world.write_instance(tmp_path / "image", instance, transfer_syntax=syntax, preamble=preamble)
    assert (path.read_bytes()[128:132] == b"DICM") is preamble
    read = pydicom.dcmread(path, force=not preamble)
    assert read.file_meta.TransferSyntaxUID == syntax
    assert np.array_equal(read.pixel_array, pixels)
    del read.PixelData, instance.PixelData
    assert read == instance


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_bare_data_set_reads_back(syntax: str, tmp_path: Path) -> None:
    instance = world.make_instance()
    path = world.write_instance(tmp_path / "bare", instance, transfer_syntax=syntax, preamble=False, meta=False)
    read = pydicom.dcmread(path, force=True)
    assert not read.file_meta
    del read.PixelData, instance.PixelData
    assert read == instance


def test_dump_of_a_world(tmp_path: Path) -> None:
    paths = world.make_dump(tmp_path / "one", patients=2, studies=2, series=1, instances=3)
    assert len(paths) == 12
    assert sorted(paths) != paths
    read = [pydicom.dcmread(path) for path in paths]
    assert [dataset.SOPInstanceUID for dataset in read] == [
        world.world_uid(patient, study, 1, instance) for patient in (1, 2) for study in (1, 2) for instance in (1, 2, 3)
    ]
    world.make_dump(tmp_path / "two", patients=2, studies=2, series=1, instances=3)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
