"""Write the headers of synthetic MR images: classic ones (one slice a file) and enhanced ones (many frames a file).

The private creators are invented. The UID root 1.3.6.1.4.1.32473 belongs to the enterprise number that RFC 5612 keeps
for examples.
"""

from __future__ import annotations

import datetime
import io
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    UID,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
)

from tests.builders.head import Grid

EXAMPLE_ROOT = "1.3.6.1.4.1.32473"
PRIVATE_HEADER = "SYNTHETIC MR HEADER"
PRIVATE_PROTOCOL = "SYNTHETIC MR PROTOCOL"
PRIVATE_FRAME = "SYNTHETIC MR FRAME"

STUDY_MANAGEMENT = "1.2.840.10008.3.1.2.3.1"
PERFORMED_PROCEDURE_STEP = "1.2.840.10008.3.1.2.3.3"

Pixels = NDArray[np.uint16] | NDArray[np.int16]
Vector = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanner:
    """One machine: what it writes about itself, and how it lays out its files.

    Attributes
    ----------
    uid_style
        "stamped" UIDs carry serial number, date and time; "serial" ones the serial number; "random" ones lie
        below 2.25 (PS3.5 B.2).
    signed
        Whether pixels are 16 bit signed (else 12 of 16 bit unsigned).
    rescale_slope
        Value of one stored unit; 1 leaves the rescale elements out of classic images.
    descending
        Whether Instance Number counts against the direction of the slices.
    preamble_tells
        Whether the 128 bytes before "DICM" hold the Patient ID, as some software leaves there.
    """

    manufacturer: str
    model: str
    software: str
    uid_style: Literal["stamped", "serial", "random"]
    transfer_syntax: UID = ExplicitVRLittleEndian
    signed: bool = False
    rescale_slope: float = 1.0
    descending: bool = False
    preamble_tells: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """What the header says of one synthetic patient, whichever visit."""

    number: int
    character_set: tuple[str, ...]
    name: str
    former_name: str
    patient_id: str
    other_id: str
    birth_date: datetime.date
    sex: str
    weight: str
    height: str
    address: str
    telephone: str
    institution: str
    institution_address: str
    department: str
    referrer: str
    performer: str
    operator: str

    @property
    def spoken_name(self) -> str:
        """The name as people write it in a comment: the ideographic group if there is one, given name first."""
        groups = self.name.split("=")
        family, given = (groups[1] if len(groups) > 1 else groups[0]).split("^")[:2]
        return f"{given} {family}"


@dataclass(slots=True, kw_only=True)
class Visit:
    """One DICOM study of one patient, with the UIDs handed out so far."""

    person: Person
    scanner: Scanner
    serial: str
    station: str
    start: datetime.datetime
    accession: str
    study_id: str
    chance: random.Random
    uids: list[str] = field(default_factory=list)
    study_uid: str = ""
    frame_of_reference: str = ""
    step_uid: str = ""

    def __post_init__(self) -> None:
        self.study_uid = self.new_uid(self.start)
        self.frame_of_reference = self.new_uid(self.start)
        self.step_uid = self.new_uid(self.start)

    def new_uid(self, moment: datetime.datetime) -> str:
        """Hand out a UID as this scanner would, and note it."""
        if self.scanner.uid_style == "stamped":
            tail = self.chance.randrange(10**9, 10**10)
            uid = f"{EXAMPLE_ROOT}.2.{self.serial}.{moment:%Y%m%d%H%M%S}{tail}"
        elif self.scanner.uid_style == "serial":
            parts = [str(self.chance.randrange(1, 10**9)) for _ in range(3)]
            uid = ".".join([EXAMPLE_ROOT, "3", self.serial, *parts])
        else:
            uid = f"2.25.{self.chance.getrandbits(127)}"
        self.uids.append(uid)
        return uid


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """How a series weights its images; times in milliseconds, angles in degrees."""

    kind: Literal["t1", "epi", "dwi", "localizer"]
    description: str
    protocol: str
    sequence: tuple[str, ...]
    variant: tuple[str, ...]
    dimensions: Literal["2D", "3D"]
    repetition: float
    echo: float
    flip: float
    inversion: float | None = None
    echo_train: int = 1
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "M", "ND")


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """One stack of stored pixels [slice, row, column], and how it was weighted by diffusion.

    Attributes
    ----------
    index
        From 0, in the order of acquisition.
    b_value
        s/mm²; None where diffusion is not measured.
    direction
        Unit vector (LPS); None at b = 0.
    """

    index: int
    pixels: Pixels
    b_value: float | None = None
    direction: Vector | None = None


@dataclass(slots=True, kw_only=True)
class Series:
    """One series of a visit, ready to be written."""

    visit: Visit
    number: int
    contrast: Contrast
    grid: Grid
    volumes: int
    start: datetime.datetime
    first_instance_uid: str = ""
    reference_uid: str = ""
    uid: str = ""

    def __post_init__(self) -> None:
        self.uid = self.visit.new_uid(self.start)


def decimal_string(value: float) -> str:
    """Write a number as DS: at most 16 characters, no needless zeros, no minus zero (PS3.5 6.2)."""
    text = f"{value:.8f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def time_string(moment: datetime.datetime) -> str:
    """Write a time of day as TM with microseconds."""
    return f"{moment:%H%M%S.%f}"


def person_age(birth: datetime.date, day: datetime.date) -> str:
    """Write a person's age on a day as AS, in whole years."""
    years = day.year - birth.year - ((day.month, day.day) < (birth.month, birth.day))
    return f"{years:03d}Y"


def encode_file(dataset: Dataset, visit: Visit) -> bytes:
    """Encode a data set as a DICOM file, with the scanner's own file meta information."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = visit.scanner.transfer_syntax
    meta.ImplementationClassUID = f"{EXAMPLE_ROOT}.1.1"
    meta.ImplementationVersionName = "SYNTHETIC_MR_1"
    meta.SourceApplicationEntityTitle = visit.station
    dataset.file_meta = meta
    told = visit.person.patient_id.encode("ascii") if visit.scanner.preamble_tells else b""
    dataset.preamble = told.ljust(128, b"\0")
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


def classic_series(series: Series) -> Dataset:
    """Fill in all that the classic images of a series have in common (MR Image IOD, PS3.3 A.4)."""
    contrast, grid = series.contrast, series.grid
    dataset = _common(series)
    dataset.SOPClassUID = MRImageStorage
    dataset.ImageType = list(contrast.image_type)
    dataset.ScanningSequence = list(contrast.sequence)
    dataset.SequenceVariant = list(contrast.variant)
    dataset.ScanOptions = "FS" if contrast.kind in ("epi", "dwi") else None
    dataset.MRAcquisitionType = contrast.dimensions
    dataset.SequenceName = f"*syn{contrast.kind[:3]}"
    dataset.SliceThickness = decimal_string(grid.spacing[0])
    dataset.SpacingBetweenSlices = decimal_string(grid.spacing[0])
    dataset.RepetitionTime = decimal_string(contrast.repetition)
    dataset.EchoTime = decimal_string(contrast.echo)
    if contrast.inversion is not None:
        dataset.InversionTime = decimal_string(contrast.inversion)
    dataset.NumberOfAverages = "1"
    dataset.ImagingFrequency = "123.25"
    dataset.ImagedNucleus = "1H"
    dataset.EchoNumbers = "1"
    dataset.EchoTrainLength = str(contrast.echo_train)
    dataset.PercentSampling = "100"
    dataset.PercentPhaseFieldOfView = "100"
    dataset.PixelBandwidth = "2232" if contrast.kind in ("epi", "dwi") else "240"
    dataset.ReceiveCoilName = "SYN_HEAD_20"
    dataset.AcquisitionMatrix = [grid.shape[1], 0, 0, grid.shape[2]]
    dataset.InPlanePhaseEncodingDirection = "COL"
    dataset.FlipAngle = decimal_string(contrast.flip)
    dataset.VariableFlipAngleFlag = "N"
    dataset.SAR = "0.05"
    if series.volumes > 1:
        dataset.NumberOfTemporalPositions = str(series.volumes)
        dataset.TemporalResolution = decimal_string(contrast.repetition)
    dataset.ImageOrientationPatient = [decimal_string(part) for part in (*grid.row_direction, *grid.column_direction)]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelSpacing = [decimal_string(part) for part in grid.spacing[1:]]
    dataset.BurnedInAnnotation = "NO"
    dataset.WindowCenter = "500"
    dataset.WindowWidth = "1000"
    if series.visit.scanner.rescale_slope != 1:
        dataset.RescaleIntercept = "0"
        dataset.RescaleSlope = decimal_string(series.visit.scanner.rescale_slope)
        dataset.RescaleType = "US"
    _describe_pixels(dataset, series)
    if series.reference_uid:
        dataset.ReferencedImageSequence = [_reference(MRImageStorage, series.reference_uid)]
    # Encoded once and read back, what stays the same is copied byte by byte into every image, which is far faster.
    dataset.SOPInstanceUID = series.uid
    return pydicom.dcmread(io.BytesIO(encode_file(dataset, series.visit)))


def classic_image(dataset: Dataset, series: Series, volume: Volume, slice_index: int) -> tuple[bytes, str]:
    """Turn the common part into one image of the series, in place; return its file and its SOP Instance UID.

    Every element that differs between images is set anew, so one data set serves the whole series.
    """
    grid, visit = series.grid, series.visit
    slices = grid.shape[0]
    shown = slices - 1 - slice_index if visit.scanner.descending else slice_index
    moment = _slice_moment(series, volume.index, slice_index)
    pixels = volume.pixels[slice_index]
    position = grid.position(slice_index)
    normal = np.cross(grid.row_direction, grid.column_direction)
    dataset.SOPInstanceUID = visit.new_uid(moment)
    if not series.first_instance_uid:
        series.first_instance_uid = str(dataset.SOPInstanceUID)
    dataset.InstanceNumber = str(volume.index * slices + shown + 1)
    dataset.AcquisitionNumber = str(volume.index + 1)
    dataset.InstanceCreationTime = time_string(moment + datetime.timedelta(seconds=20))
    dataset.AcquisitionTime = time_string(moment)
    dataset.ContentTime = time_string(moment + datetime.timedelta(seconds=10))
    dataset.ImagePositionPatient = [decimal_string(part) for part in position]
    dataset.SliceLocation = decimal_string(float(position @ normal))
    if series.volumes > 1:
        dataset.TemporalPositionIdentifier = str(volume.index + 1)
    if volume.b_value is not None:
        dataset.DiffusionBValue = float(volume.b_value)
        dataset.DiffusionDirectionality = "NONE" if volume.direction is None else "DIRECTIONAL"
        if volume.direction is not None:
            dataset.DiffusionGradientOrientation = list(volume.direction)
        elif "DiffusionGradientOrientation" in dataset:
            del dataset.DiffusionGradientOrientation
    whole = "SS" if visit.scanner.signed else "US"
    dataset.add_new("SmallestImagePixelValue", whole, int(pixels.min()))
    dataset.add_new("LargestImagePixelValue", whole, int(pixels.max()))
    dataset.add_new("PixelData", "OW", pixels.tobytes())
    _tell_of_image(dataset, moment, volume)
    return encode_file(dataset, visit), str(dataset.SOPInstanceUID)


def enhanced_image(
    series: Series, volumes: Sequence[Volume], *, number: int, volume_fastest: bool
) -> tuple[bytes, str]:
    """Make an Enhanced MR Image (PS3.3 A.36) of every slice of `volumes`; return its file and SOP Instance UID.

    Parameters
    ----------
    number
        Instance Number, from 1.
    volume_fastest
        Whether successive frames run through the volumes first (else through the slices first).
    """
    visit, grid, contrast = series.visit, series.grid, series.contrast
    begin = _slice_moment(series, volumes[0].index, 0)
    dataset = _common(series)
    dataset.SOPClassUID = EnhancedMRImageStorage
    dataset.SOPInstanceUID = visit.new_uid(begin)
    if not series.first_instance_uid:
        series.first_instance_uid = str(dataset.SOPInstanceUID)
    image_type = ["ORIGINAL", "PRIMARY", "DIFFUSION" if contrast.kind == "dwi" else "FMRI", "NONE"]
    dataset.ImageType = image_type
    dataset.InstanceNumber = str(number)
    dataset.AcquisitionNumber = str(number)
    dataset.ContentTime = time_string(begin)
    dataset.InstanceCreationTime = time_string(begin + datetime.timedelta(seconds=20))
    dataset.AcquisitionDateTime = f"{begin:%Y%m%d%H%M%S.%f}"
    dataset.AcquisitionDuration = contrast.repetition * len(volumes) / 1000
    _enhanced_sequence(dataset, contrast)
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    dataset.PresentationLUTShape = "IDENTITY"
    dataset.AcquisitionContextSequence = []
    _describe_pixels(dataset, series)
    if series.reference_uid:
        dataset.ReferencedImageEvidenceSequence = [
            _item(
                StudyInstanceUID=visit.study_uid,
                ReferencedSeriesSequence=[
                    _item(
                        SeriesInstanceUID=series.uid,
                        ReferencedSOPSequence=[_reference(MRImageStorage, series.reference_uid)],
                    )
                ],
            )
        ]

    organization = visit.new_uid(begin)
    stack, frame_content = Tag("StackID"), Tag("FrameContentSequence")
    pointers: list[tuple[BaseTag, BaseTag]] = [
        (stack, frame_content),
        (Tag("InStackPositionNumber"), frame_content),
    ]
    if contrast.kind == "dwi":
        diffusion = Tag("MRDiffusionSequence")
        pointers.append((Tag("DiffusionBValue"), diffusion))
        pointers.append((Tag("DiffusionGradientOrientation"), diffusion))
    else:
        pointers.append((Tag("TemporalPositionIndex"), frame_content))
    dataset.DimensionOrganizationSequence = [_item(DimensionOrganizationUID=organization)]
    dataset.DimensionIndexSequence = [
        _item(DimensionOrganizationUID=organization, DimensionIndexPointer=pointer, FunctionalGroupPointer=group)
        for pointer, group in pointers
    ]

    dataset.SharedFunctionalGroupsSequence = [_shared_groups(series, image_type)]
    slices = range(grid.shape[0])
    order = (
        [(volume, index) for index in slices for volume in volumes]
        if volume_fastest
        else [(volume, index) for volume in volumes for index in slices]
    )
    b_values = sorted({volume.b_value or 0.0 for volume in volumes})
    frames = []
    for volume, index in order:
        dimensions = [1, index + 1]
        if contrast.kind == "dwi":
            dimensions += [b_values.index(volume.b_value or 0.0) + 1, max(1, volume.index)]
        else:
            dimensions.append(volume.index + 1)
        frames.append(_frame_groups(series, volume, index, dimensions))
    dataset.PerFrameFunctionalGroupsSequence = frames
    dataset.NumberOfFrames = str(len(frames))
    pixels = np.stack([volume.pixels[index] for volume, index in order])
    dataset.add_new("PixelData", "OW", pixels.tobytes())
    _tell_of_image(dataset, begin, volumes[0])
    return encode_file(dataset, visit), str(dataset.SOPInstanceUID)


def _item(**elements: object) -> Dataset:
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    return _item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def _reference(sop_class: str, instance: str) -> Dataset:
    return _item(
        ReferencedSOPClassUID=sop_class,
        ReferencedSOPInstanceUID=instance,
        PurposeOfReferenceCodeSequence=[_code("121311", "DCM", "Localizer")],
    )


def _slice_moment(series: Series, volume: int, slice_index: int) -> datetime.datetime:
    """Tell when a slice was acquired: even slices first, then odd ones, spread over the repetition time."""
    if series.contrast.dimensions == "3D":
        return series.start
    slices = series.grid.shape[0]
    turn = slice_index // 2 if slice_index % 2 == 0 else (slices + 1) // 2 + slice_index // 2
    seconds = series.contrast.repetition / 1000 * (volume + turn / slices)
    return series.start + datetime.timedelta(seconds=round(seconds, 4))


def _describe_pixels(dataset: Dataset, series: Series) -> None:
    dataset.Rows, dataset.Columns = series.grid.shape[1:]
    dataset.BitsAllocated = 16
    dataset.BitsStored = 16 if series.visit.scanner.signed else 12
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(series.visit.scanner.signed)


def _common(series: Series) -> Dataset:
    """Fill in patient, study, series and equipment: everything that tells who, when and where."""
    visit, contrast = series.visit, series.contrast
    person, scanner = visit.person, visit.scanner
    today = f"{visit.start:%Y%m%d}"
    dataset = Dataset()
    if person.character_set:
        dataset.SpecificCharacterSet = list(person.character_set)
    dataset.InstanceCreationDate = today
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = today
    dataset.StudyTime = time_string(visit.start)
    dataset.SeriesTime = time_string(series.start)
    dataset.AccessionNumber = visit.accession
    dataset.Modality = "MR"
    dataset.Manufacturer = scanner.manufacturer
    dataset.InstitutionName = person.institution
    dataset.InstitutionAddress = person.institution_address
    dataset.InstitutionalDepartmentName = person.department
    dataset.ReferringPhysicianName = person.referrer
    dataset.PerformingPhysicianName = person.performer
    dataset.OperatorsName = person.operator
    dataset.StationName = visit.station
    dataset.StudyDescription = "SYNTHETIC BRAIN"
    dataset.SeriesDescription = contrast.description
    dataset.ManufacturerModelName = scanner.model
    dataset.ReferencedStudySequence = [
        _item(ReferencedSOPClassUID=STUDY_MANAGEMENT, ReferencedSOPInstanceUID=visit.study_uid)
    ]
    dataset.ReferencedPerformedProcedureStepSequence = [
        _item(ReferencedSOPClassUID=PERFORMED_PROCEDURE_STEP, ReferencedSOPInstanceUID=visit.step_uid)
    ]

    dataset.PatientName = person.name
    dataset.PatientID = person.patient_id
    dataset.IssuerOfPatientID = person.institution
    dataset.PatientBirthDate = f"{person.birth_date:%Y%m%d}"
    dataset.PatientSex = person.sex
    dataset.OtherPatientNames = person.former_name
    dataset.OtherPatientIDsSequence = [_item(PatientID=person.other_id, TypeOfPatientID="TEXT")]
    dataset.PatientAge = person_age(person.birth_date, visit.start.date())
    dataset.PatientSize = person.height
    dataset.PatientWeight = person.weight
    dataset.PatientAddress = person.address
    dataset.PatientTelephoneNumbers = person.telephone
    dataset.PatientComments = (
        f"{person.spoken_name}, ID {person.patient_id}, born {person.birth_date:%Y%m%d}: "
        f"plainly synthetic, seen on {today} by {person.operator}."
    )

    dataset.BodyPartExamined = "BRAIN"
    dataset.MagneticFieldStrength = "3"
    dataset.DeviceSerialNumber = visit.serial
    dataset.SoftwareVersions = scanner.software
    dataset.ProtocolName = contrast.protocol
    dataset.PatientPosition = "HFS"
    dataset.ContributingEquipmentSequence = [
        _item(
            PurposeOfReferenceCodeSequence=[_code("109101", "DCM", "Acquisition Equipment")],
            Manufacturer=scanner.manufacturer,
            InstitutionName=person.institution,
            InstitutionAddress=person.institution_address,
            StationName=visit.station,
            OperatorsName=person.operator,
            DeviceSerialNumber=visit.serial,
            ContributionDateTime=f"{visit.start:%Y%m%d%H%M%S}",
        )
    ]

    dataset.StudyInstanceUID = visit.study_uid
    dataset.SeriesInstanceUID = series.uid
    dataset.StudyID = visit.study_id
    dataset.SeriesNumber = str(series.number)
    dataset.FrameOfReferenceUID = visit.frame_of_reference
    dataset.PositionReferenceIndicator = None
    dataset.PerformedProcedureStepStartDate = today
    dataset.PerformedProcedureStepStartTime = time_string(visit.start)
    dataset.PerformedProcedureStepID = visit.study_id
    dataset.PerformedProcedureStepDescription = f"brain of {person.spoken_name}"
    dataset.RequestAttributesSequence = [
        _item(RequestedProcedureID=visit.accession, ScheduledProcedureStepID=visit.accession)
    ]
    dataset.OriginalAttributesSequence = [
        _item(
            SourceOfPreviousValues=person.institution,
            AttributeModificationDateTime=f"{visit.start:%Y%m%d%H%M%S}",
            ModifyingSystem=visit.station,
            ReasonForTheAttributeModification="CORRECT",
            ModifiedAttributesSequence=[_item(PatientName=person.former_name, PatientID=person.other_id)],
        )
    ]
    _tell_privately(dataset, visit)
    return dataset


def _tell_privately(dataset: Dataset, visit: Visit) -> None:
    """Plant what vendors plant: identity in private elements, in private sequences, and in text inside binary ones."""
    person = visit.person
    birth = f"{person.birth_date:%Y%m%d}"
    header = dataset.private_block(0x0019, PRIVATE_HEADER, create=True)
    header.add_new(0x01, "PN", person.name)
    header.add_new(0x02, "LO", person.patient_id)
    header.add_new(0x03, "DA", birth)
    header.add_new(0x06, "LO", f"{person.spoken_name} {visit.accession}")
    nested = _item(StudyInstanceUID=visit.study_uid, PatientName=person.former_name, StudyDate=f"{visit.start:%Y%m%d}")
    nested.private_block(0x0019, PRIVATE_HEADER, create=True).add_new(0x02, "LO", person.other_id)
    header.add_new(0x20, "SQ", [nested])
    protocol = dataset.private_block(0x0029, PRIVATE_PROTOCOL, create=True)
    text = (
        f"### SYNTHETIC BEGIN ###\ntPatientID\t= {person.patient_id}\ntSerial\t= {visit.serial}\n"
        f"tStudyUID\t= {visit.study_uid}\ntBirth\t= {birth}\ntName\t= {person.spoken_name}\n### SYNTHETIC END ###\n"
    ).encode()
    protocol.add_new(0x10, "OB", text + b"\0" * (len(text) % 2))


def _tell_of_image(dataset: Dataset, moment: datetime.datetime, volume: Volume) -> None:
    """Plant the private elements that differ from image to image: identity beside acquisition, as vendors do."""
    header = dataset.private_block(0x0019, PRIVATE_HEADER)
    header.add_new(0x04, "UI", str(dataset.SOPInstanceUID))
    header.add_new(0x05, "DT", f"{moment:%Y%m%d%H%M%S.%f}")
    if volume.b_value is not None:
        header.add_new(0x0C, "IS", str(round(volume.b_value)))
        header.add_new(0x0E, "FD", list(volume.direction or (0.0, 0.0, 0.0)))


def _enhanced_sequence(dataset: Dataset, contrast: Contrast) -> None:
    """Fill in the Enhanced MR Image and MR Pulse Sequence modules (PS3.3 C.8.13.1 and C.8.13.4)."""
    dataset.ContentQualification = "PRODUCT"
    dataset.ResonantNucleus = "1H"
    dataset.KSpaceFiltering = "NONE"
    dataset.ApplicableSafetyStandardAgency = "IEC"
    dataset.PixelPresentation = "MONOCHROME"
    dataset.VolumetricProperties = "VOLUME"
    dataset.VolumeBasedCalculationTechnique = "NONE"
    dataset.ComplexImageComponent = "MAGNITUDE"
    dataset.AcquisitionContrast = "DIFFUSION" if contrast.kind == "dwi" else "T2_STAR"
    dataset.PulseSequenceName = f"*syn{contrast.kind}"
    dataset.MRAcquisitionType = contrast.dimensions
    dataset.EchoPulseSequence = "SPIN" if contrast.kind == "dwi" else "GRADIENT"
    if contrast.kind == "dwi":
        dataset.MultipleSpinEcho = "NO"
    dataset.MultiPlanarExcitation = "NO"
    dataset.PhaseContrast = "NO"
    dataset.TimeOfFlightContrast = "NO"
    dataset.SteadyStatePulseSequence = "NONE"
    dataset.EchoPlanarPulseSequence = "YES"
    dataset.SaturationRecovery = "NO"
    dataset.SpectrallySelectedSuppression = "FAT"
    dataset.OversamplingPhase = "NONE"
    dataset.GeometryOfKSpaceTraversal = "RECTILINEAR"
    dataset.SegmentedKSpaceTraversal = "SINGLE"
    dataset.RectilinearPhaseEncodeReordering = "LINEAR"
    dataset.NumberOfKSpaceTrajectories = 1
    dataset.CardiacSynchronizationTechnique = "NONE"
    dataset.RespiratoryMotionCompensationTechnique = "NONE"


def _shared_groups(series: Series, image_type: list[str]) -> Dataset:
    """Build the functional groups that hold for every frame (PS3.3 C.7.6.16 and C.8.13.5)."""
    contrast, grid, scanner = series.contrast, series.grid, series.visit.scanner
    spin = contrast.kind == "dwi"
    shared = _item(
        PixelMeasuresSequence=[
            _item(
                PixelSpacing=[decimal_string(part) for part in grid.spacing[1:]],
                SliceThickness=decimal_string(grid.spacing[0]),
                SpacingBetweenSlices=decimal_string(grid.spacing[0]),
            )
        ],
        PlaneOrientationSequence=[
            _item(
                ImageOrientationPatient=[decimal_string(part) for part in (*grid.row_direction, *grid.column_direction)]
            )
        ],
        FrameAnatomySequence=[
            _item(
                AnatomicRegionSequence=[_code("12738006", "SCT", "Brain")],
                FrameLaterality="B",
            )
        ],
        PixelValueTransformationSequence=[
            _item(
                RescaleIntercept="0",
                RescaleSlope=decimal_string(scanner.rescale_slope),
                RescaleType="US",
            )
        ],
        FrameVOILUTSequence=[_item(WindowCenter="500", WindowWidth="1000")],
        MRImageFrameTypeSequence=[
            _item(
                FrameType=image_type,
                PixelPresentation="MONOCHROME",
                VolumetricProperties="VOLUME",
                VolumeBasedCalculationTechnique="NONE",
                ComplexImageComponent="MAGNITUDE",
                AcquisitionContrast="DIFFUSION" if spin else "T2_STAR",
            )
        ],
        MRTimingAndRelatedParametersSequence=[
            _item(
                RepetitionTime=decimal_string(contrast.repetition),
                FlipAngle=decimal_string(contrast.flip),
                EchoTrainLength=str(contrast.echo_train),
                RFEchoTrainLength=1 if spin else 0,
                GradientEchoTrainLength=contrast.echo_train,
                SpecificAbsorptionRateSequence=[
                    _item(
                        SpecificAbsorptionRateDefinition="IEC_WHOLE_BODY",
                        SpecificAbsorptionRateValue=0.05,
                    )
                ],
                GradientOutputType="PER_NERVE_STIM",
                GradientOutput=0.5,
                OperatingModeSequence=[
                    _item(OperatingModeType="GRADIENT", OperatingMode="IEC_NORMAL"),
                    _item(OperatingModeType="RF", OperatingMode="IEC_NORMAL"),
                ],
            )
        ],
        MRFOVGeometrySequence=[
            _item(
                InPlanePhaseEncodingDirection="COLUMN",
                MRAcquisitionFrequencyEncodingSteps=grid.shape[2],
                MRAcquisitionPhaseEncodingStepsInPlane=grid.shape[1],
                PercentSampling="100",
                PercentPhaseFieldOfView="100",
            )
        ],
        MREchoSequence=[_item(EffectiveEchoTime=contrast.echo)],
        MRModifierSequence=[
            _item(
                InversionRecovery="NO",
                FlowCompensation="NONE",
                Spoiling="NONE",
                T2Preparation="NO",
                SpectrallySelectedExcitation="NONE",
                SpatialPresaturation="NONE",
                PartialFourier="NO",
                ParallelAcquisition="NO",
            )
        ],
        MRImagingModifierSequence=[
            _item(
                MagnetizationTransfer="NONE",
                BloodSignalNulling="NO",
                Tagging="NONE",
                TransmitterFrequency=123.25,
                PixelBandwidth="2232",
            )
        ],
        MRReceiveCoilSequence=[
            _item(
                ReceiveCoilName="SYN_HEAD_20",
                ReceiveCoilManufacturerName=None,
                ReceiveCoilType="VOLUME",
                QuadratureReceiveCoil="NO",
            )
        ],
        MRTransmitCoilSequence=[
            _item(
                TransmitCoilName="SYN_BODY",
                TransmitCoilManufacturerName=None,
                TransmitCoilType="BODY",
            )
        ],
        MRAveragesSequence=[_item(NumberOfAverages="1")],
        MRSpatialSaturationSequence=[],
    )
    if series.reference_uid:
        shared.ReferencedImageSequence = [_reference(MRImageStorage, series.reference_uid)]
    return shared


def _frame_groups(series: Series, volume: Volume, slice_index: int, dimensions: list[int]) -> Dataset:
    """Build the functional groups of one frame."""
    visit, contrast = series.visit, series.contrast
    moment = _slice_moment(series, volume.index, slice_index)
    content = _item(
        FrameAcquisitionNumber=volume.index + 1,
        FrameReferenceDateTime=f"{moment:%Y%m%d%H%M%S.%f}",
        FrameAcquisitionDateTime=f"{moment:%Y%m%d%H%M%S.%f}",
        FrameAcquisitionDuration=contrast.repetition / series.grid.shape[0],
        StackID="1",
        InStackPositionNumber=slice_index + 1,
        DimensionIndexValues=dimensions,
    )
    if contrast.kind == "epi":
        content.TemporalPositionIndex = volume.index + 1
    frame = _item(
        FrameContentSequence=[content],
        PlanePositionSequence=[
            _item(ImagePositionPatient=[decimal_string(part) for part in series.grid.position(slice_index)])
        ],
    )
    if volume.b_value is not None:
        diffusion = _item(
            DiffusionBValue=float(volume.b_value),
            DiffusionDirectionality="NONE" if volume.direction is None else "DIRECTIONAL",
        )
        if volume.direction is not None:
            diffusion.DiffusionGradientDirectionSequence = [_item(DiffusionGradientOrientation=list(volume.direction))]
        frame.MRDiffusionSequence = [diffusion]
    private = frame.private_block(0x0021, PRIVATE_FRAME, create=True)
    private.add_new(0x01, "UI", visit.study_uid)
    private.add_new(0x02, "LO", visit.person.patient_id)
    private.add_new(0x03, "DT", f"{moment:%Y%m%d%H%M%S.%f}")
    return frame
