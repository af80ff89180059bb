"""Make small, valid MR images from four numbers: patient, study, series, instance.

Equal numbers give equal data sets, so a test states only what matters to it.
"""

from __future__ import annotations

import copy
import datetime
import io
import itertools
import random
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, MRImageStorage

from tests.builders.mr_headers import EXAMPLE_ROOT

ROWS = COLUMNS = 8
PIXEL_SPACING = 2.0
SLICE_SPACING = 3.0
FIRST_POSITION = (-7.0, -7.0, 0.0)
"""LPS millimetres: the middle of the first voxel of instance 1."""

PREAMBLE_LENGTH = 132
"""128 bytes of preamble and "DICM" (PS3.10 7.1)."""


def world_uid(*numbers: int) -> str:
    """Return the UID of a patient's study, series or instance: as many numbers as the level is deep, plus one."""
    return ".".join([EXAMPLE_ROOT, "9", *map(str, numbers)])


def study_date(patient: int, study: int) -> datetime.date:
    """Return the day of a study: patients start on different days, their studies lie 100 days apart."""
    return datetime.date(2001, 1, 1) + datetime.timedelta(days=3 * patient + 100 * study)


def make_instance(patient: int = 1, study: int = 1, series: int = 1, instance: int = 1, **overrides: object) -> Dataset:
    """Make a valid classic MR image (PS3.3 A.4) of 8 x 8 unsigned pixels; all four numbers count from 1.

    Slices are axial; instance n lies `SLICE_SPACING` millimetres above instance n - 1.

    Parameters
    ----------
    overrides
        Values by DICOM keyword, set last; None takes the element out.
    """
    day = f"{study_date(patient, study):%Y%m%d}"
    clock = datetime.datetime(2001, 1, 1, 8) + datetime.timedelta(minutes=10 * series, seconds=instance)  # noqa: DTZ001
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    dataset.SOPClassUID = MRImageStorage
    dataset.SOPInstanceUID = world_uid(patient, study, series, instance)
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = day
    dataset.StudyTime = "080000"
    dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = f"{clock:%H%M%S}"
    dataset.AccessionNumber = f"ACC{patient:03d}{study:03d}"
    dataset.Modality = "MR"
    dataset.Manufacturer = "WORLD MAKER"
    dataset.InstitutionName = f"Synthetic Institution {patient}"
    dataset.ReferringPhysicianName = f"Synthetic^Referrer{patient}"
    dataset.StationName = f"SYNWORLD{patient}"
    dataset.StudyDescription = f"study {study}"
    dataset.SeriesDescription = f"series {series}"
    dataset.ManufacturerModelName = "WORLD"
    dataset.PatientName = f"Synthetic^Person{patient}"
    dataset.PatientID = f"SYNWORLD{patient:04d}"
    dataset.PatientBirthDate = f"{1940 + patient % 50}0{1 + patient % 9}15"
    dataset.PatientSex = "FMO"[patient % 3]
    dataset.PatientWeight = str(50 + patient % 50)
    dataset.BodyPartExamined = "BRAIN"
    dataset.ScanningSequence = "GR"
    dataset.SequenceVariant = "SP"
    dataset.ScanOptions = ""
    dataset.MRAcquisitionType = "3D"
    dataset.SliceThickness = f"{SLICE_SPACING:g}"
    dataset.RepetitionTime = "2300"
    dataset.EchoTime = "2.5"
    dataset.EchoTrainLength = "1"
    dataset.DeviceSerialNumber = f"{70000 + patient}"
    dataset.SoftwareVersions = "world 1"
    dataset.ProtocolName = f"protocol {series}"
    dataset.PatientPosition = "HFS"
    dataset.StudyInstanceUID = world_uid(patient, study)
    dataset.SeriesInstanceUID = world_uid(patient, study, series)
    dataset.StudyID = f"ST{study}"
    dataset.SeriesNumber = str(series)
    dataset.AcquisitionNumber = "1"
    dataset.InstanceNumber = str(instance)
    left, back, up = FIRST_POSITION
    height = up + SLICE_SPACING * (instance - 1)
    dataset.ImagePositionPatient = [f"{left:g}", f"{back:g}", f"{height:g}"]
    dataset.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    dataset.FrameOfReferenceUID = world_uid(patient, study, 0)
    dataset.PositionReferenceIndicator = ""
    dataset.SliceLocation = f"{height:g}"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = ROWS, COLUMNS
    dataset.PixelSpacing = [f"{PIXEL_SPACING:g}"] * 2
    dataset.BitsAllocated = 16
    dataset.BitsStored = 12
    dataset.HighBit = 11
    dataset.PixelRepresentation = 0
    start = 1000 * patient + 300 * study + 100 * series + 10 * instance
    dataset.add_new("PixelData", "OW", ((start + np.arange(ROWS * COLUMNS)) % 4096).astype("<u2").tobytes())
    for keyword, value in overrides.items():
        if value is not None:
            setattr(dataset, keyword, value)
        elif keyword in dataset:
            delattr(dataset, keyword)
    return dataset


def write_instance(
    path: Path,
    dataset: Dataset,
    *,
    transfer_syntax: UID | str = ExplicitVRLittleEndian,
    preamble: bool = True,
    meta: bool = True,
) -> Path:
    """Write a data set whose pixels are not compressed, in any of the four uncompressed transfer syntaxes.

    Parameters
    ----------
    transfer_syntax
        Explicit or implicit little endian, explicit big endian (retired), or deflated explicit little endian.
    preamble
        Whether the file begins with the 128 bytes and "DICM".
    meta
        Whether it holds group 2; without, a reader has to guess.

    Returns
    -------
    The path, for a test to go on with.
    """
    whole = copy.deepcopy(dataset)
    if transfer_syntax == ExplicitVRBigEndian and "PixelData" in whole and whole.BitsAllocated == 16:
        # pydicom hands pixel bytes through as they are; the words have to be turned here (PS3.5 7.3).
        whole["PixelData"].value = np.frombuffer(whole.PixelData, dtype="<u2").byteswap().tobytes()
    information = FileMetaDataset()
    information.FileMetaInformationGroupLength = 0
    information.FileMetaInformationVersion = b"\0\1"
    information.MediaStorageSOPClassUID = whole.get("SOPClassUID", MRImageStorage)
    information.MediaStorageSOPInstanceUID = whole.get("SOPInstanceUID", world_uid(0))
    information.TransferSyntaxUID = UID(transfer_syntax)
    information.ImplementationClassUID = f"{EXAMPLE_ROOT}.1.2"
    whole.file_meta = information
    stream = io.BytesIO()
    whole.preamble = b"\0" * 128
    # Not enforced, so that a test may leave out what a valid file needs.
    pydicom.dcmwrite(stream, whole, enforce_file_format=False)
    content = stream.getvalue()
    head, rest = content[:PREAMBLE_LENGTH], content[PREAMBLE_LENGTH:]
    if not meta:
        # (0002,0000) is 12 bytes long; its last four count the bytes of group 2 behind it (PS3.10 7.1).
        rest = rest[12 + int.from_bytes(rest[8:12], "little") :]
    path.write_bytes((head if preamble else b"") + rest)
    return path


def make_dump(
    folder: Path,
    *,
    patients: int = 1,
    studies: int = 1,
    series: int = 1,
    instances: int = 1,
    seed: int = 1,
    overrides: Mapping[str, object] | None = None,
) -> list[Path]:
    """Write every instance of a world into one flat folder under meaningless names without extensions.

    Returns
    -------
    The paths, in the order of the numbers: patient, study, series, instance.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(seed)
    counts = (patients, studies, series, instances)
    worlds = list(itertools.product(*(range(1, count + 1) for count in counts)))
    names = [f"{number:08x}" for number in chance.sample(range(2**32), len(worlds))]
    return [
        write_instance(folder / name, make_instance(*numbers, **(overrides or {})))
        for name, numbers in zip(names, worlds, strict=True)
    ]


def make_mixed_dump(folder: Path, *, series: int, instances: int) -> None:
    """Write three patients with two studies each, and among them duplicates, conflicts, refused images and junk."""
    paths = make_dump(folder, patients=3, studies=2, series=series, instances=instances)
    for number, path in enumerate(paths[::40]):
        shutil.copyfile(path, folder / f"duplicate {number}")
        write_instance(folder / f"conflict {number}", make_instance(1 + number % 3, 1, 1, 1, ImageComments=f"{number}"))
        write_instance(folder / f"refused {number}", make_instance(1, 1, 9, number, BurnedInAnnotation="YES"))
        (folder / f"junk {number}").write_bytes(b"no image" * number)
