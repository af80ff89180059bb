"""A body whose every voxel differs, written as DICOM in any orientation: what a picture of it shows can be worked out.

Its array is indexed (x, y, z): x grows to the patient's left, y to the back, z to the head (LPS), so the index alone
says where in the body a voxel is.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

SHAPE = (9, 7, 5)
"""Voxels along x, y and z."""

SPACING = (2.0, 1.25, 3.5)
"""Millimetres along x, y and z."""

ORIGIN = np.array([-31.0, 12.5, 40.0])
"""Where voxel (0, 0, 0) lies, LPS mm."""

SIDES = {"R": (0, 0), "L": (0, -1), "A": (1, 0), "P": (1, -1), "I": (2, 0), "S": (2, -1)}
"""For each side: the axis it lies on, and the index of the outermost voxels there."""

MARKERS = {"R": 6000, "L": 7000, "A": 8000, "P": 9000, "I": 10000, "S": 11000}
"""A marker's value, added in the middle of its side's face."""


def body() -> np.ndarray[Any, np.dtype[np.int16]]:
    """Make the array (x, y, z): every voxel another value, and on each of the six faces a marker of its own."""
    voxels = (np.arange(np.prod(SHAPE)) + 1).reshape(SHAPE).astype(np.int16)
    for side, (axis, index) in SIDES.items():
        place = [size // 2 for size in SHAPE]
        place[axis] = index
        voxels[tuple(place)] += MARKERS[side]
    return voxels


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """Which body axis runs along a row, down a column and from slice to slice, and which way (+1 or -1)."""

    axes: tuple[int, int, int]
    signs: tuple[int, int, int]

    @property
    def orientation(self) -> list[float]:
        return [*self._direction(0), *self._direction(1)]

    @property
    def slice_axis(self) -> int:
        return self.axes[2]

    def _direction(self, which: int) -> list[float]:
        direction = [0.0, 0.0, 0.0]
        direction[self.axes[which]] = float(self.signs[which])
        return direction

    def slices(self) -> Iterator[tuple[np.ndarray[Any, Any], list[float]]]:
        """Give each slice's pixels (rows, columns) and position."""
        voxels = body()
        for which, sign in enumerate(self.signs):
            if sign < 0:
                voxels = np.flip(voxels, self.axes[which])
        stored = np.transpose(voxels, (self.axes[2], self.axes[1], self.axes[0]))
        corner = ORIGIN.copy()
        for which, sign in enumerate(self.signs):
            if sign < 0:
                corner[self.axes[which]] += SPACING[self.axes[which]] * (SHAPE[self.axes[which]] - 1)
        for index, image in enumerate(stored):
            place = corner.copy()
            place[self.slice_axis] += self.signs[2] * SPACING[self.slice_axis] * index
            yield np.ascontiguousarray(image), [float(one) for one in place]

    @property
    def pixel_spacing(self) -> list[float]:
        return [SPACING[self.axes[1]], SPACING[self.axes[0]]]


ALL_STORAGES = [
    Storage(axes=axes, signs=signs)
    for axes in itertools.permutations((0, 1, 2))
    for signs in itertools.product((1, -1), repeat=3)
]
"""The 48 ways to store a body along its own axes."""

AXIAL = Storage(axes=(0, 1, 2), signs=(1, 1, 1))
SAGITTAL = Storage(axes=(1, 2, 0), signs=(1, -1, 1))
CORONAL = Storage(axes=(0, 2, 1), signs=(1, -1, 1))


def uid(*parts: object) -> str:
    return generate_uid(entropy_srcs=["phantom", *map(str, parts)])


def mr_instance(image: np.ndarray[Any, Any], *, number: int = 1, sop_class: str = MRImageStorage) -> Dataset:
    """Make a header that fits the pixels, with nothing said about where they lie."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = sop_class
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = uid(number)
    dataset.SeriesInstanceUID, dataset.StudyInstanceUID = uid("series"), uid("study")
    dataset.FrameOfReferenceUID = uid("frame")
    dataset.Modality = "CT" if sop_class == CTImageStorage else "MR"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M"]
    dataset.InstanceNumber = number
    set_pixels(dataset, image)
    return dataset


def set_pixels(dataset: Dataset, image: np.ndarray[Any, Any]) -> None:
    dataset.Rows, dataset.Columns = image.shape[-2:]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = image.dtype.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(image.dtype.kind == "i")
    content = image.tobytes()
    dataset.PixelData = content + b"\0" * (len(content) % 2)
    dataset["PixelData"].VR = "OW"


def save(dataset: Dataset, path: Path) -> Path:
    dataset.save_as(path, enforce_file_format=True)
    return path


def instances(storage: Storage = AXIAL, *, seed: int = 0) -> list[Dataset]:
    """Make one instance for each slice, numbered at random."""
    slices = list(storage.slices())
    numbers = list(range(1, len(slices) + 1))
    random.Random(seed).shuffle(numbers)
    made = []
    for (image, position), number in zip(slices, numbers, strict=True):
        dataset = mr_instance(image, number=number)
        dataset.ImageOrientationPatient = storage.orientation
        dataset.ImagePositionPatient = position
        dataset.PixelSpacing = storage.pixel_spacing
        dataset.SliceThickness = dataset.SpacingBetweenSlices = SPACING[storage.slice_axis]
        made.append(dataset)
    return made


def write(
    folder: Path, made: list[Dataset], *, seed: int = 0, change: Callable[[int, Dataset], None] | None = None
) -> list[Path]:
    """Write instances under names that say nothing of their order; return the paths in the order of the instances."""
    folder.mkdir(parents=True, exist_ok=True)
    names = random.Random(seed).sample(range(10_000, 100_000), len(made))
    paths = []
    for index, (dataset, name) in enumerate(zip(made, names, strict=True)):
        if change is not None:
            change(index, dataset)
        paths.append(save(dataset, folder / f"{name}.dcm"))
    return paths


def enhanced(storage: Storage = AXIAL, *, seed: int = 0) -> Dataset:
    """Make one multi-frame instance whose frames lie in a random order."""
    slices = list(storage.slices())
    random.Random(seed).shuffle(slices)
    dataset = mr_instance(np.stack([image for image, _ in slices]), sop_class=EnhancedMRImageStorage)
    dataset.NumberOfFrames = len(slices)
    shared, measures, turned = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = storage.pixel_spacing, SPACING[storage.slice_axis]
    turned.ImageOrientationPatient = storage.orientation
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([measures]), Sequence([turned])
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for _, position in slices:
        groups, place = Dataset(), Dataset()
        place.ImagePositionPatient = position
        groups.PlanePositionSequence = Sequence([place])
        frames.append(groups)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    return dataset


def release(released: Path, made: dict[str, list[Dataset]]) -> list[Path]:
    """Write series under `released/export`; keys are `subject/visit/series`."""
    folders = []
    for name, datasets in made.items():
        folder = released / "export" / name
        write(folder, datasets)
        folders.append(folder)
    return folders
