"""Plant texts, names, dates, numbers and UIDs wherever a file of any vendor can hold some, each place under a name.

A canary is a value that stands in a source and must not stand in its export, in no encoding and no case, be it in a
file's bytes or its name. Tokens are drawn from a seed and are like nothing else. `canary_score` looks for them in what
any tool made of the files; both are free of pytest and of the rules that our own rewriter goes by.
"""

from __future__ import annotations

import datetime as dt
import functools
import io
import random
import struct
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.data import get_testdata_file
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import encapsulate, generate_fragments
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from tests.builders.world import make_instance, write_instance

SEED = 20261123

FIRST_DAY = dt.date(1931, 7, 1)
MOST_DAYS = 60
"""All planted dates lie within two months, so that no shift by more lands on another one."""

LEVELS = (0x00189112, 0x00189114, 0x00189117, 0x00189125)
"""Sequences of an MR image that describe the acquisition, used one inside the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """One planted value.

    Attributes
    ----------
    place
        Where it stands, the same words for the same place of every file; or places, where it stands in several.
    kind
        `word`, `name`, `id`, `uid`, `date`, `time`, `age`, `serial` (a number) or `epoch` (seconds since 1970).
    token
        What to look for; a date as YYYYMMDD.
    vendor
        Whose base it stands in, or `synthetic`.
    """

    place: str
    kind: str
    token: str
    vendor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """One file full of canaries.

    Attributes
    ----------
    path
        Relative path of the file; folder and name are canaries, too.
    vendor, base
        Whose base, and a few words on which.
    content
        The file.
    canaries
        What stands in it.
    may_be_refused
        Whether it is right to keep the whole file out of the export.
    """

    path: str
    vendor: str
    base: str
    content: bytes
    canaries: tuple[Canary, ...]
    may_be_refused: bool


class Aviary:
    """Draws tokens for one file and keeps a list of what was planted where."""

    def __init__(self, vendor: str, base: str, seed: int = SEED) -> None:
        self.vendor = vendor
        self.base = base
        self.canaries: list[Canary] = []
        self.aliases: list[str] = []
        self._chance = random.Random(f"{seed}/{vendor}/{base}")
        self._places: set[str] = set()
        self._day = 0

    @property
    def planted(self) -> dict[str, str]:
        """Tokens by place."""
        return {canary.place: canary.token for canary in self.canaries}

    def word(self, place: str) -> str:
        """Make a word of ten letters that fits every text VR."""
        return self._keep(place, "word", self._syllables(5).upper())

    def short_word(self, place: str, syllables: int) -> str:
        """Make a word that fits a place of a few bytes."""
        return self._keep(place, "word", self._syllables(syllables).upper())

    def ident(self, place: str) -> str:
        """Make an ID of ten letters and digits."""
        first, last = self._letters(2), self._letters(2)
        return self._keep(place, "id", f"{first}{self._chance.randrange(10**5, 10**6)}{last}".upper())

    def serial(self, place: str) -> str:
        """Make a number of nine digits."""
        return self._keep(place, "serial", str(self._chance.randrange(6 * 10**8, 10**9)))

    def epoch(self, place: str) -> int:
        """Make a time as seconds since 1970."""
        return int(self._keep(place, "epoch", str(self._chance.randrange(1_000_000_000, 1_150_000_000))))

    def uid(self, place: str) -> str:
        """Make a UID with a serial number and a time in it, as scanners do."""
        chance = self._chance
        return self._keep(place, "uid", f"1.2.840.99999.{chance.randrange(10**9)}.{chance.randrange(10**15, 10**16)}")

    def date(self, place: str) -> str:
        """Make a date, YYYYMMDD."""
        day = FIRST_DAY + dt.timedelta(days=self._day)
        self._day += 1
        if self._day > MOST_DAYS:
            raise ValueError("more dates than days")
        return self._keep(place, "date", f"{day:%Y%m%d}")

    def time(self, place: str) -> str:
        """Make a time of day, to the microsecond."""
        chance = self._chance
        return self._keep(
            place, "time", f"{chance.randrange(10, 24)}{chance.randrange(10, 60)}47.{chance.randrange(10**5, 10**6)}"
        )

    def name(self, place: str) -> str:
        """Make a name of a family and a given part."""
        family = self._keep(f"{place}, family", "name", self._syllables(5).capitalize())
        return f"{family}^{self._keep(f'{place}, given', 'name', self._syllables(5).capitalize())}"

    def letters(self, place: str, repertoire: str, count: int) -> str:
        """Make a part of a name of the given letters."""
        return self._keep(place, "name", "".join(self._chance.sample(repertoire, count)))

    def alias(self, place: str) -> str:
        """Make a word that `plant` also puts among the patient's other names, where it can be learnt."""
        self.aliases.append(self._keep(f"{place}, a name of the patient", "name", self._syllables(5).upper()))
        return self.aliases[-1]

    def keep(self, place: str, kind: str, token: str) -> str:
        """Plant a given token."""
        return self._keep(place, kind, token)

    def _syllables(self, count: int) -> str:
        return "".join(self._chance.choice("qxzvkwjhgpfb") + self._chance.choice("aeiouy") for _ in range(count))

    def _letters(self, count: int) -> str:
        return "".join(self._chance.choice("qxzvkwj") for _ in range(count))

    def _keep(self, place: str, kind: str, token: str) -> str:
        if place in self._places:
            raise ValueError(f"{place} is planted already")
        self._places.add(place)
        self.canaries.append(Canary(place=place, kind=kind, token=token, vendor=self.vendor))
        return token


# ---- writing


def put(dataset: Dataset, tag: int, vr: str, value: str | bytes) -> None:
    """Set a raw value, valid or not; texts are UTF-8."""
    raw = value.encode() if isinstance(value, str) else value
    raw += (b"\0" if vr in ("UI", "OB", "UN") else b" ") * (len(raw) % 2)
    dataset._dict[Tag(tag)] = RawDataElement(Tag(tag), vr, len(raw), raw, 0, False, True)  # type: ignore[index]


def put_items(dataset: Dataset, tag: int, *items: Dataset) -> None:
    """Set a sequence."""
    dataset.add_new(tag, "SQ", list(items))


def put_all(dataset: Dataset, keywords: str, make: Callable[[str], str], before: str = "", after: str = "") -> None:
    """Set a row of attributes, each to a value of its own."""
    for keyword in keywords.split():
        tag = tag_for_keyword(keyword)
        assert tag is not None, keyword
        put(dataset, tag, dictionary_VR(tag), make(f"{before}{keyword}{after}"))


def read(source: bytes) -> FileDataset:
    """Read a base."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(io.BytesIO(source))


def write(dataset: FileDataset) -> bytes:
    """Write a file in the syntax that it had."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = io.BytesIO()
        pydicom.dcmwrite(out, dataset, enforce_file_format=False)
    return out.getvalue()


def use_character_set(dataset: FileDataset, term: str) -> None:
    """Declare in which character set everything that is put is."""
    dataset.SpecificCharacterSet = term.split("\\")
    # Else pydicom would decode what is put here in the character set that it read, and write it in this one.
    dataset.set_original_encoding(*dataset.original_encoding, dataset._character_set)


def put_group_length(content: bytes, value: int) -> bytes:
    """Put a length of group 8 that is none in front of a data set; pydicom writes no such elements."""
    start = 144 + int.from_bytes(content[140:144], "little")
    head = content[132:start]
    if ExplicitVRBigEndian.encode() in head:
        element = struct.pack(">HH2sHL", 8, 0, b"UL", 4, value)
    elif content[start + 4 : start + 6].isalpha():
        element = struct.pack("<HH2sHL", 8, 0, b"UL", 4, value)
    else:
        element = struct.pack("<HHLL", 8, 0, 4, value)
    return content[:start] + element + content[start:]


# ---- places that every file has

IDS = """
AccessionNumber StudyID OtherPatientIDs IssuerOfPatientID MedicalRecordLocator AdmissionID IssuerOfAdmissionID
ServiceEpisodeID InsurancePlanIdentification RequestedProcedureID ScheduledProcedureStepID PerformedProcedureStepID
PlacerOrderNumberImagingServiceRequest FillerOrderNumberImagingServiceRequest SpecimenAccessionNumber
ClinicalTrialSubjectID ClinicalTrialProtocolID ClinicalTrialSiteID DetectorID GantryID PlateID GeneratorID CassetteID
"""
WORDS_OF_THE_PATIENT = """
InstitutionName InstitutionAddress InstitutionalDepartmentName StationName PatientAddress MilitaryRank BranchOfService
PatientTelephoneNumbers PatientTelecomInformation ReferringPhysicianTelephoneNumbers ReferringPhysicianAddress
CountryOfResidence RegionOfResidence CurrentPatientLocation PatientInstitutionResidence ResponsibleOrganization
PerformedStationName PerformedLocation PerformedStationAETitle ScheduledStationAETitle StationAETitle RetrieveAETitle
ScheduledStudyLocation RequestingService OrderCallbackPhoneNumber ClinicalTrialSiteName ClinicalTrialSponsorName
"""
WORDS_ON_THE_PATIENT = """
Occupation AdditionalPatientHistory MedicalAlerts Allergies PatientReligiousPreference PatientState SpecialNeeds
SmokingStatus AdmittingDiagnosesDescription ReasonForStudy ReasonForTheRequestedProcedure PreMedication VisitComments
"""
NAMES = """
ReferringPhysicianName OperatorsName PerformingPhysicianName NameOfPhysiciansReadingStudy PhysiciansOfRecord
ConsultingPhysicianName RequestingPhysician PatientBirthName PatientMotherBirthName ResponsiblePerson OrderEnteredBy
ScheduledPerformingPhysicianName
"""
SHORT_DESCRIPTORS = "SequenceName PulseSequenceName"
DESCRIPTORS = """
SeriesDescription ProtocolName StudyDescription RequestedProcedureDescription StudyComments
PerformedProcedureStepDescription CommentsOnThePerformedProcedureStep RequestedProcedureComments AcquisitionComments
AcquisitionProtocolDescription DerivationDescription FrameComments ContrastBolusAgent
"""
UNLISTED_TEXTS = """
PatientBirthDateInAlternativeCalendar ReconstructionDescription ProcessingFunction ModifyingDeviceManufacturer
PaddleDescription ResourceDescription MaterialNotes CalibrationNotes GridAbsorbingMaterial DetectorDescription
TransactionStatusComment CouplingMedium InterventionDescription EnvironmentalConditions DocumentTitle InformationSummary
TimeSource RecognitionCode HangingProtocolName LongCodeValue PrivateDataElementName PrivateDataElementDescription
ReferenceLocationDescription InstructionDescription TextValue TrackingID StrainDescription SecondaryReviewerName
EvaluatorName
"""
MACHINE_TEXTS = """
Manufacturer ManufacturerModelName SoftwareVersions ReceiveCoilName TransmitCoilName MultiCoilConfiguration FilterType
StackID PositionReferenceIndicator ConvolutionKernel LUTExplanation WindowCenterWidthExplanation RescaleType
"""
"""Filled in by the machine: a word in them is no identifier, so they get what is known of the patient."""

LINKS = "RetrieveURL RetrieveURI PixelDataProviderURL CodingSchemeURL ContactURI StorageURL"
DATES = """
StudyDate SeriesDate AcquisitionDate ContentDate InstanceCreationDate PatientBirthDate PerformedProcedureStepStartDate
DateOfLastCalibration LastMenstrualDate ScheduledStudyStartDate
"""
DATE_TIMES = """
AcquisitionDateTime FrameReferenceDateTime FrameAcquisitionDateTime StartAcquisitionDateTime InstanceCoercionDateTime
"""
UIDS = """
FrameOfReferenceUID InstanceCreatorUID DeviceUID SynchronizationFrameOfReferenceUID ConcatenationUID IrradiationEventUID
StorageMediaFileSetUID TransactionUID SOPInstanceUIDOfConcatenationSource PaletteColorLookupTableUID
SourceFrameOfReferenceUID TrackingUID
"""
TERMS = """
BodyPartExamined ScanningSequence SequenceVariant ScanOptions Laterality ContentQualification AcquisitionContrast
PatientSex EchoPulseSequence
"""
CODES = """
AnatomicRegionSequence ProcedureCodeSequence RequestedProcedureCodeSequence PerformedProtocolCodeSequence
AdmittingDiagnosesCodeSequence InstitutionCodeSequence ViewCodeSequence DerivationCodeSequence
PatientSpeciesCodeSequence ContrastBolusAgentSequence PatientPrimaryLanguageCodeSequence
"""
SEQUENCES = """
RequestAttributesSequence OriginalAttributesSequence ContributingEquipmentSequence OtherPatientIDsSequence
AcquisitionContextSequence ContentSequence GraphicAnnotationSequence ReferencedStudySequence ReferencedImageSequence
SourceImageSequence ReferencedPatientSequence OperatorIdentificationSequence EncryptedAttributesSequence
DigitalSignaturesSequence WaveformSequence IssuerOfAccessionNumberSequence
"""

KANJI = "".join(bytes((row, cell)).decode("euc_jp") for row in range(0xB0, 0xC0) for cell in range(0xA1, 0xFF, 3))
KANA = "".join(bytes((0xA4, cell)).decode("euc_jp") for cell in range(0xA1, 0xF3))
HANGUL = "".join(bytes((row, cell)).decode("euc_kr") for row in range(0xB0, 0xC8) for cell in range(0xA1, 0xFF, 5))
HANZI = "".join(bytes((row, cell)).decode("gb2312") for row in range(0xB0, 0xD0) for cell in range(0xA1, 0xFF, 5))
CYRILLIC, GREEK, WESTERN = "бвгджзийклмнпртфцчшщыэюя", "βγδεζηθκλμνξπρτφχψω", "äöüßéñøåçîðþ"


def plant_patient(dataset: Dataset, birds: Aviary) -> None:
    """Plant what points at the patient, the staff, the hospital and the machine."""
    kanji = birds.letters("PatientName, ideographic", KANJI, 4)
    kana = birds.letters("PatientName, phonetic", KANA, 5)
    more = "^".join(birds.word(f"PatientName, {part}") for part in ("middle name", "prefix", "suffix"))
    put(dataset, 0x00100010, "PN", f"{birds.name('PatientName')}^{more}={kanji}={kana}")
    put(dataset, 0x00100020, "LO", birds.ident("PatientID"))
    put(dataset, 0x00100012, "LT", birds.letters("NameToUse", WESTERN, 6))
    put_all(dataset, IDS, birds.ident)
    put_all(dataset, WORDS_OF_THE_PATIENT, birds.word)
    put_all(dataset, WORDS_ON_THE_PATIENT, birds.word)
    put_all(dataset, NAMES, birds.name)
    put(dataset, 0x00181000, "LO", birds.serial("DeviceSerialNumber"))
    put(dataset, 0x00100032, "TM", birds.time("PatientBirthTime"))
    put(dataset, 0x00101010, "AS", birds.keep("PatientAge above 89", "age", "097Y"))


def plant_descriptors(dataset: Dataset, birds: Aviary) -> None:
    """Plant words in what people type, and names of the patient there and in what machines fill in."""
    put_all(dataset, SHORT_DESCRIPTORS, lambda place: f"t1_{birds.word(place)}")

    def describe(place: str) -> str:
        return f"t1 sag {birds.word(f'{place}, a word')}_{birds.alias(place)}"

    put_all(dataset, DESCRIPTORS, describe)
    put(dataset, 0x00204000, "LT", f"seen {birds.date('a date in ImageComments')}, {describe('ImageComments')}")
    day = birds.date("a dotted date in PatientComments")
    put(dataset, 0x00104000, "LT", f"born {day[6:]}.{day[4:6]}.{day[:4]}, {describe('PatientComments')}")
    put_all(dataset, MACHINE_TEXTS, birds.alias)
    put(dataset, 0x00101001, "PN", "\\".join(birds.aliases))


def plant_values(dataset: Dataset, birds: Aviary) -> None:
    """Plant by VR: texts that the standard's table lists or not, dates, UIDs, terms, and words where numbers belong."""
    put_all(dataset, UNLISTED_TEXTS, birds.word)
    put_all(dataset, LINKS, lambda place: f"https://{birds.word(place).lower()}.example")
    put_all(dataset, DATES, birds.date)
    put_all(dataset, DATE_TIMES, lambda place: birds.date(place) + "101112.123456+0100")
    put_all(dataset, UIDS, birds.uid)
    for tag, place in (
        (0x00080018, "SOPInstanceUID"),
        (0x0020000D, "StudyInstanceUID"),
        (0x0020000E, "SeriesInstanceUID"),
    ):
        put(dataset, tag, "UI", birds.uid(place))
    put(dataset, 0x00080058, "UI", f"{birds.uid('first UID of several')}\\{birds.uid('second UID of several')}")
    day = birds.date("a DA with dots")
    put(dataset, 0x00080025, "DA", f"{day[:4]}.{day[4:6]}.{day[6:]}")
    put_all(dataset, TERMS, birds.word, after=", a word where a term belongs")
    put(dataset, 0x00185100, "CS", "a term longer than any, " * 3 + birds.word("CS that is too long"))
    put(dataset, 0x00181314, "CS", f"Ü {birds.word('CS of other letters')}")
    put(dataset, 0x00180080, "DS", birds.word("a word where a DS belongs"))
    put(dataset, 0x00180086, "IS", birds.word("a word where an IS belongs"))
    put(dataset, 0x00189087, "FD", f"patient {birds.word('a word where an FD belongs')}".ljust(24))
    put(dataset, 0x00189182, "FD", f"patient {birds.word('a word where a second FD belongs')}".ljust(24))
    put(dataset, 0x00189240, "US", f"patient {birds.word('a word where a US belongs')}")
    put(dataset, 0x00101030, "LO", birds.word("a word, as LO, where a number belongs"))
    put(dataset, 0x54001010, "OW", birds.word("WaveformData"))
    put(dataset, 0x00402400, "UN", birds.word("UN where a text belongs"))
    put(dataset, 0x00720FF0, "UN", birds.word("an unknown element, as UN"))
    put(dataset, 0x00760FF0, "LO", birds.word("an unknown element, as LO"))
    put(dataset, 0x00040002, "LO", birds.word("an element of a DICOMDIR"))
    put(dataset, 0x00280303, "CS", birds.word("LongitudinalTemporalInformationModified"))
    put(dataset, 0x00120062, "CS", "NO")
    put(dataset, 0x00120063, "LO", birds.word("DeidentificationMethod"))
    put(dataset, 0x00282000, "OB", b"\0\0\2\0" + bytes(124) + f"desc {birds.word('ICCProfile')}".encode())
    put(dataset, 0x00080201, "SH", birds.word("TimezoneOffsetFromUTC"))


def plant_no_dates(dataset: Dataset, birds: Aviary) -> None:
    """Plant in dates and times that are none: some tools give up on such a file and all else in it."""
    day = birds.date("a DA with hyphens")
    put(dataset, 0x00400250, "DA", f"{day[:4]}-{day[4:6]}-{day[6:]}")
    put(dataset, 0x00400002, "DA", f"of {birds.date('a DA with a word')}")
    put(dataset, 0x00080024, "DA", birds.word("a word where a date belongs"))
    put(dataset, 0x00181078, "UT", birds.word("a word, as UT, where a date belongs"))
    put(dataset, 0x00080033, "TM", f"noon {birds.word('a word where a time belongs')}")


def plant_document(dataset: Dataset, birds: Aviary) -> None:
    """Plant in a document, which does not belong into an image, so that a tool may well refuse the file."""
    put(dataset, 0x00420011, "OB", birds.word("EncapsulatedDocument"))


def plant_sequences(dataset: Dataset, birds: Aviary) -> None:
    """Plant in the items of code sequences and of sequences about people, studies, signatures and texts."""
    for keyword in CODES.split():
        inside = Dataset()
        put(inside, 0x00080100, "SH", birds.ident(f"code value in {keyword}"))
        put(inside, 0x00080102, "SH", birds.ident(f"coding scheme in {keyword}"))
        put(inside, 0x00080103, "SH", birds.ident(f"coding scheme version in {keyword}"))
        put(inside, 0x00080104, "LO", birds.word(f"code meaning in {keyword}"))
        put(inside, 0x0008010D, "UI", birds.uid(f"context group extension creator UID in {keyword}"))
        deeper = Dataset()
        put(deeper, 0x00080104, "LO", birds.word(f"code meaning in an equivalent code in {keyword}"))
        put_items(inside, 0x00080121, deeper)
        put_items(dataset, Tag(keyword), inside)
    for keyword in SEQUENCES.split():
        inside = Dataset()
        put(inside, 0x00100020, "LO", birds.ident(f"PatientID in {keyword}"))
        put(inside, 0x00080080, "LO", birds.word(f"InstitutionName in {keyword}"))
        put(inside, 0x00081155, "UI", birds.uid(f"ReferencedSOPInstanceUID in {keyword}"))
        put(inside, 0x00321060, "LO", f"t1 {birds.word(f'RequestedProcedureDescription in {keyword}')}")
        put(inside, 0x0040A160, "UT", birds.word(f"TextValue in {keyword}"))
        put(inside, 0x04000520, "OB", birds.word(f"EncryptedContent in {keyword}"))
        put_items(dataset, Tag(keyword), inside)
    earlier = Dataset()
    put(earlier, 0x00080104, "LO", birds.word("code meaning in DeidentificationMethodCodeSequence"))
    put_items(dataset, 0x00120064, earlier)


def plant_private(dataset: Dataset, birds: Aviary, where: str) -> None:
    """Plant in a block that nobody knows, and under a number that no creator claims."""
    inside = Dataset()
    put(inside, 0x00100010, "PN", birds.name(f"PatientName in a private sequence, {where}"))
    put(inside, 0x00080018, "UI", birds.uid(f"SOPInstanceUID in a private sequence, {where}"))
    put(dataset, 0x00110010, "LO", birds.word(f"private creator, {where}"))
    put(dataset, 0x00111001, "LO", birds.word(f"private LO, {where}"))
    put(dataset, 0x00111002, "UN", birds.word(f"private UN, {where}"))
    put(dataset, 0x00111003, "OB", birds.word(f"private OB in two-byte letters, {where}").encode("utf-16-le"))
    put(dataset, 0x00111004, "DA", birds.date(f"private DA, {where}"))
    put_items(dataset, 0x00111005, inside)
    put(dataset, 0x00111006, "UL", struct.pack("<L", birds.epoch(f"private UL, {where}")))
    put(dataset, 0x00111007, "OB", zlib.compress(birds.word(f"private OB, zlib, {where}").encode() * 9))
    put(dataset, 0x00111008, "OW", swapped(birds.word(f"private OW in words of the other order, {where}")))
    put(dataset, 0x00111009, "FD", struct.pack("<d", birds.epoch(f"private FD, {where}")))
    put(dataset, 0x00112001, "LO", birds.word(f"private element that nobody claims, {where}"))


def swapped(text: str) -> bytes:
    """Write a text of an even number of letters in words of the other byte order."""
    raw = text.encode()
    return b"".join(raw[at : at + 2][::-1] for at in range(0, len(raw), 2))


def plant_levels(dataset: Dataset, birds: Aviary) -> None:
    """Plant in items four deep, the second of each sequence."""
    level = dataset
    for depth, tag in enumerate(LEVELS, 1):
        after = f", depth {depth}"
        inside = Dataset()
        put_items(level, tag, Dataset(), inside)
        put(inside, 0x00180050, "DS", f"{depth}")
        put(inside, 0x00100010, "PN", birds.name(f"PatientName{after}"))
        put_all(inside, "AccessionNumber PerformedStationAETitle InstitutionAddress", birds.ident, after=after)
        put_all(inside, "ReconstructionDescription TimeSource TextValue MaterialNotes", birds.word, after=after)
        put_all(inside, "SeriesDescription ImageComments", birds.word, "t1 ", after)
        put_all(inside, "ReferencedSOPInstanceUID ConcatenationUID", birds.uid, after=after)
        put(inside, 0x00080020, "DA", birds.date(f"StudyDate{after}"))
        put(inside, 0x0008002A, "DT", birds.date(f"AcquisitionDateTime{after}") + "101112.5")
        put(inside, 0x00081190, "UR", f"https://{birds.word(f'RetrieveURL{after}')}.example")
        put(inside, 0x00720FF0, "UN", birds.word(f"an unknown element{after}"))
        put(inside, 0x00180080, "DS", birds.word(f"a word where a DS belongs{after}"))
        plant_private(inside, birds, f"depth {depth}")
        level = inside


def plant_pictures(dataset: Dataset, birds: Aviary) -> None:
    """Plant in curves, overlays and an icon, and behind everything."""
    put(dataset, 0x50003000, "OW", birds.word("curve data"))
    put(dataset, 0x50000022, "LO", birds.word("curve description"))
    for group in (0x60000000, 0x601E0000):
        where = f"overlay {group >> 16:04X}"
        put(dataset, group | 0x0022, "LO", birds.word(f"{where}, description"))
        put(dataset, group | 0x0100, "US", b"\1\0" if dataset.original_encoding[1] is not False else b"\0\1")
        put(dataset, group | 0x0102, "US", b"\0\0")
        put(dataset, group | 0x1500, "LO", birds.word(f"{where}, label"))
        put(dataset, group | 0x3000, "OW", birds.word(f"{where}, data"))
        put(dataset, group | 0x4000, "LT", birds.word(f"{where}, comments"))
    icon = Dataset()
    put(icon, 0x7FE00010, "OW", birds.word("pixels of an icon"))
    put(icon, 0x00104000, "LT", birds.word("comments of an icon"))
    put_items(dataset, 0x00880200, icon)
    put(dataset, 0xFFFCFFFC, "OB", birds.word("trailing padding"))


def plant_head(dataset: FileDataset, birds: Aviary) -> None:
    """Plant in the preamble and in the file meta information."""
    dataset.preamble = (b"MZ" + birds.word("preamble").encode() * 13)[:128]
    meta = dataset.file_meta
    meta.MediaStorageSOPInstanceUID = UID(birds.planted["SOPInstanceUID"])
    keywords = "SourceApplicationEntityTitle SendingApplicationEntityTitle ReceivingApplicationEntityTitle"
    put_all(meta, f"{keywords} ImplementationVersionName", birds.word, "file meta, ")
    put_all(meta, "ImplementationClassUID PrivateInformationCreatorUID", birds.uid, "file meta, ")
    put(meta, 0x00020026, "UR", f"https://{birds.word('file meta, SourcePresentationAddress')}.example")
    put(meta, 0x00020102, "OB", birds.word("file meta, PrivateInformation"))
    put(meta, 0x000201F0, "UN", birds.word("file meta, an unknown element"))


def plant(dataset: FileDataset, birds: Aviary) -> None:
    """Plant in every place that a file of any vendor has; it stays one that may be exported."""
    use_character_set(dataset, "ISO_IR 192")
    for step in (plant_patient, plant_descriptors, plant_values, plant_sequences, plant_levels, plant_pictures):
        step(dataset, birds)
    plant_private(dataset, birds, "top")
    plant_head(dataset, birds)


def plant_file(source: bytes, vendor: str = "synthetic", base: str = "a file") -> tuple[bytes, Aviary]:
    """Plant in a file, and write it in the syntax that it had."""
    birds = Aviary(vendor, base)
    dataset = read(source)
    plant(dataset, birds)
    return write(dataset), birds


# ---- Siemens


@dataclass(slots=True, kw_only=True)
class CsaTag:
    """One tag of a CSA header: the 84 bytes of its head, and of each item four words and the text."""

    name: bytes
    head: list[int | bytes]
    items: list[tuple[bytes, bytes]]


def read_csa(value: bytes) -> list[CsaTag]:
    """Read a CSA2 header."""
    tags = []
    (count,) = struct.unpack_from("<I", value, 8)
    at = 16
    for _ in range(count):
        name = value[at : at + 64]
        head = list(struct.unpack_from("<i4siii", value, at + 64))
        at += 84
        items = []
        for _ in range(head[3]):
            words, at = value[at : at + 16], at + 16
            length = struct.unpack_from("<i", words, 4)[0]
            items.append((words, value[at : at + length]))
            at += length + 3 & ~3
        tags.append(CsaTag(name=name, head=head, items=items))
    return tags


def write_csa(
    tags: list[CsaTag], *, unused: bytes = b"\4\3\2\1", behind: bytes = bytes(4), filler: bytes = b"\0"
) -> bytes:
    """Write a CSA2 header; `filler` stands between items where a length is no multiple of four."""
    out = [b"SV10" + unused + struct.pack("<2I", len(tags), 77)]
    for tag in tags:
        multiplicity, vr, syngo, _, mark = tag.head
        out.append(struct.pack("<64si4siii", tag.name, multiplicity, vr, syngo, len(tag.items), mark))
        for words, text in tag.items:
            first, _, third, fourth = struct.unpack("<4i", words)
            size = len(text)
            out.append(struct.pack("<4i", size if first else 0, size, third, size if fourth else fourth))
            out.append(text + (filler * 4)[: -size % 4])
    return b"".join(out) + behind


def _item(text: bytes) -> tuple[bytes, bytes]:
    return struct.pack("<4i", len(text), len(text), 77, len(text)), text


def _tag(name: str, vr: bytes, *texts: bytes) -> CsaTag:
    head = [1, vr, 0, len(texts), 77]
    return CsaTag(name=name.encode(), head=head, items=[_item(text) for text in texts])


def plant_csa(value: bytes, birds: Aviary, header: str) -> bytes:
    """Plant in every kind of place of a CSA header."""
    tags = {tag.name.partition(b"\0")[0].decode(): tag for tag in read_csa(value)}
    names = list(tags)

    def at(place: str) -> str:
        return f"CSA {header} header, {place}"

    def fill(name: str, text: str) -> None:
        tag = tags[name]
        tag.items[:1] = [_item(text.encode() + b"\0")]
        tag.head[4] = 77

    if header == "image":
        fill("ICE_Dims", birds.word(at("a word where ICE_Dims belong")))
        fill("ImaCoilString", birds.word(at("a word where ImaCoilString belongs")))
        fill("B_value", birds.word(at("a word where B_value belongs")))
        fill("ProtocolSliceNumber", birds.date(at("a date where ProtocolSliceNumber belongs")))
        fill("SequenceName", birds.word(at("SequenceName")))
        fill("Comp_AutoParam", birds.word(at("Comp_AutoParam")))
        fill("PixelFileName", birds.word(at("PixelFileName")))
        slack_after, slack_item = "PhaseEncodingDirectionPositive", "BandwidthPerPixelPhaseEncode"
    else:
        fill("CoilString", birds.word(at("a word where CoilString belongs")))
        fill("SequenceFileOwner", birds.word(at("a word where SequenceFileOwner belongs")))
        fill("LongModelName", birds.word(at("a word where LongModelName belongs")))
        fill("CoilId", birds.serial(at("serial number in CoilId")))
        fill("AutoAlignData", birds.word(at("AutoAlignData")))
        fill("PatReinPattern", birds.word(at("PatReinPattern")))
        fill("RepresentativeImage", birds.uid(at("RepresentativeImage")))
        fill("FmriExternalInfo", f"{birds.name(at('FmriExternalInfo'))}")
        protocol = tags["MrPhoenixProtocol"]
        text = protocol.items[0][1]
        protocol.items[0] = _item(plant_protocol(text, birds, "CSA MrPhoenixProtocol"))
        slack_after, slack_item = "GradientMode", "FlowCompensation"
    named = tags[slack_after]
    named.name = (slack_after.encode() + b"\0" + birds.word(at("behind the end of a tag's name")).encode()).ljust(
        64, b"\0"
    )
    text = tags[slack_item].items[0][1].partition(b"\0")[0]
    tags[slack_item].items[0] = _item(b"%b\0%b\0" % (text, birds.word(at("behind the end of a value")).encode()))
    letters = birds.short_word(at("behind the VR of a tag, and reserved words"), 3)
    tags[names[2]].head[1] = b"UN" + letters[:2].encode()
    tags[names[2]].head[2] = int.from_bytes(letters[2:6].encode(), "little")
    unknown = _tag(
        birds.word(at("name of an unknown tag")), b"LO", birds.word(at("value of an unknown tag")).encode() + b"\0"
    )
    serial = _tag("DeviceSerialNumber", b"LO", birds.serial(at("DeviceSerialNumber")).encode() + b"\0")
    planted = write_csa(
        [*tags.values(), unknown, serial],
        unused=birds.short_word(at("unused word"), 2).encode(),
        behind=birds.word(at("behind the last tag")).encode() * 2,
    )
    return planted + b"\0" * (len(planted) % 2)


def plant_protocol(text: bytes, birds: Aviary, where: str) -> bytes:
    """Plant in a measurement protocol: before, inside and behind its ASCCONV block."""

    def word(place: str) -> bytes:
        return birds.word(f"{where}, {place}").encode()

    begin, end = b"### ASCCONV BEGIN", b"### ASCCONV END ###"
    before, _, rest = text.partition(begin)
    block, _, after = rest.partition(end)
    first, _, lines = block.partition(b"\n")
    planted = [
        b'tProtocolName = ""t1_sag_%b""' % word("tProtocolName"),
        b'tSequenceFileName = ""%%CustomerSeq%%\\%b_bold""' % word("tSequenceFileName"),
        b'tReferenceImage0 = ""%b""' % birds.uid(f"{where}, tReferenceImage0").encode(),
        b'sWipMemBlock.tFree = ""%b""' % word("sWipMemBlock.tFree"),
        b'sWiPMemBlock.tFree = ""%b""' % word("sWiPMemBlock.tFree"),
        b'sPatient.tName = ""%b""' % birds.name(f"{where}, sPatient.tName").encode(),
        b'sCoilSelectMeas.aRxCoilSelectData[0].asList[0].sCoilElementID.tCoilID = ""%b""' % word("tCoilID"),
        b"sCoilSelectMeas.tSerial = %b" % birds.serial(f"{where}, a serial number").encode(),
        b'sTXSPEC.asNucleusInfo[0].tNucleus = ""%b""' % word("a word where a nucleus belongs"),
        b"lRepetitions = %b" % word("a word where a number belongs"),
        b"sKSpace.lPhaseEncodingLines = %b" % birds.date(f"{where}, a date where a number belongs").encode(),
        b"%b.lValue = 1" % word("name of a key"),
        b"lContrasts = 1 # %b" % word("comment behind a value"),
        b"# %b" % word("comment line"),
        b'sAdjData.tTime = ""%d""' % birds.epoch(f"{where}, adjustment time"),
    ]
    xml = b'<ParamString."PatientID"> { "%b" } <ParamDouble."flUsedPatientWeight"> { %b }\n' % (
        word("XProtocol before the block"),
        birds.serial(f"{where}, XProtocol, a number").encode(),
    )
    head = first.replace(b" ###", b" object=%b ###" % word("first line of the block"))
    lines = b"\n".join(
        line for line in lines.split(b"\n") if not line.startswith((b"tProtocolName", b"tSequenceFileName"))
    )
    tail = b"\n%b\n%b %b ###\n%b\n%b" % (
        word("behind the block"),
        begin,
        word("first line of a second block"),
        b'tProtocolName = ""%b""' % word("tProtocolName in a second block"),
        end,
    )
    return (
        before
        + xml
        + begin
        + head
        + b"\n"
        + b"\n".join(planted)
        + b"\n"
        + lines
        + end
        + after.rstrip(b"\0")
        + tail
        + b"\0"
    )


def plant_siemens_v(dataset: FileDataset, birds: Aviary) -> None:
    """Plant in what Siemens V scanners write."""
    put(dataset, 0x00291009, "LO", birds.date("0029,xx09, version of the CSA image header"))
    put(dataset, 0x00291019, "LO", birds.date("0029,xx19, version of the CSA series header"))
    put(dataset, 0x00291010, "OB", plant_csa(dataset[0x00291010].value, birds, "image"))
    put(dataset, 0x00291020, "OB", plant_csa(dataset[0x00291020].value, birds, "series"))
    put(dataset, 0x00191008, "CS", birds.word("0019,xx08, a word where a term belongs"))
    put(dataset, 0x0019100A, "US", f"patient {birds.word('0019,xx0A, text where a number belongs')}")
    put(dataset, 0x0019100C, "LO", birds.word("0019,xx0C, another VR"))
    put(dataset, 0x0019100F, "SH", birds.word("0019,xx0F"))
    put(dataset, 0x00191029, "FD", f"patient {birds.word('0019,xx29, text where numbers belong')}".ljust(24))
    put(dataset, 0x001910F7, "LO", birds.word("0019,xxF7, not known"))
    put(dataset, 0x0051100E, "UN", birds.word("0051,xx0E, as UN"))
    put(dataset, 0x0051100F, "LO", birds.word("0051,xx0F"))
    put(dataset, 0x00511011, "LO", f"p2 {birds.word('0051,xx11')}")
    put(dataset, 0x00291160, "LO", birds.word("0029,xx60 of SIEMENS MEDCOM HEADER2"))
    put(dataset, 0x7FE10010, "LO", "SIEMENS CSA NON-IMAGE")
    put(dataset, 0x7FE11010, "OF", f"patient {birds.word('7FE1,xx10, text in the data of spectroscopy')}".ljust(24))
    put(dataset, 0x00210011, "LO", f"SIEMENS MR HEADER {birds.word('behind the name of a known creator')}")
    put(dataset, 0x00211108, "CS", birds.word("element of a creator that is almost known"))
    put(dataset, 0x00290012, "LO", "SIEMENS CSA HEADER")
    put(dataset, 0x00291210, "OB", birds.word("CSA header, a second one that is none"))


def plant_siemens_xa(dataset: FileDataset, birds: Aviary) -> None:
    """Plant in what Siemens XA scanners write, in the functional groups of an enhanced image."""
    shared, frame = dataset[0x52009229].value[0], dataset[0x52009230].value[0]
    frame_content = frame[0x00209111].value[0]
    put(frame_content, 0x00189074, "DT", birds.date("FrameAcquisitionDateTime, functional groups") + "101112.5")
    put(frame_content, 0x00209158, "LT", birds.word("FrameComments, functional groups"))
    put(frame_content, 0x00209453, "LO", birds.word("FrameLabel, functional groups"))
    coil = shared[0x00189042].value[0]
    put(coil, 0x00189041, "LO", birds.alias("ReceiveCoilManufacturerName"))
    put(coil[0x00189045].value[0], 0x00189047, "SH", birds.alias("MultiCoilElementName"))
    anatomy = shared[0x00209071].value[0][0x00082218].value[0]
    put(anatomy, 0x00080104, "LO", birds.word("code meaning of an anatomic region, functional groups"))
    reference = shared[0x00081140].value[0]
    put(reference, 0x00081155, "UI", birds.uid("ReferencedSOPInstanceUID, functional groups"))
    own = shared[0x002110FE].value[0]
    put(own, 0x00211019, "OB", plant_protocol(bytes(own[0x00211019].value), birds, "XA 0021,xx19"))
    put(own, 0x00211009, "LO", birds.word("XA 0021,xx09"))
    put(own, 0x00211001, "OB", birds.word("XA 0021,xx01, protocol report"))
    put(own, 0x00211022, "SH", birds.word("XA 0021,xx22, sequence owner"))
    put(own, 0x0021102B, "ST", birds.word("XA 0021,xx2B"))
    put(own, 0x0021105A, "CS", birds.word("XA 0021,xx5A, a word where a term belongs"))
    put(own, 0x00100010, "PN", birds.name("XA shared private sequence, PatientName"))
    each = frame[0x002111FE].value[0]
    put(each, 0x00211160, "DT", birds.date("XA 0021,xx60, frame date") + "101112.5")
    put(each, 0x00211106, "LO", birds.word("XA 0021,xx06"))
    put(each, 0x0021114F, "LO", birds.word("XA 0021,xx4F"))
    put(each, 0x00211153, "FD", f"patient {birds.word('XA 0021,xx53, text where numbers belong')}".ljust(24))
    put(each, 0x00211171, "UT", birds.word("XA 0021,xx71"))
    put(each, 0x00211176, "LO", birds.word("XA 0021,xx76"))
    put(each, 0x0021111A, "SH", birds.word("XA 0021,xx1A"))
    put(each, 0x00080018, "UI", birds.uid("XA private sequence of a frame, SOPInstanceUID"))
    put(each, 0x00081030, "LO", birds.word("XA private sequence of a frame, StudyDescription"))
    put(dataset, 0x00211201, "LO", birds.word("XA 0021,xx01 of SIEMENS MR SDR 01"))
    put(dataset, 0x00710010, "LO", "SIEMENS MED PT")
    put(dataset, 0x00711022, "DT", birds.date("0071,xx22 of SIEMENS MED PT") + "101112.5")


# ---- GE, Philips, UIH, Canon


def plant_block(birds: Aviary) -> bytes:
    """Write a GE protocol data block with something in each part of its gzip header and lines."""

    def word(place: str) -> str:
        return birds.word(f"GE protocol block, {place}")

    lines = [
        f'SEDESC "t1 sag {word("SEDESC")}"',
        f'NOTES "{birds.name("GE protocol block, NOTES")}"',
        f'COIL "{word("COIL")}"',
        f'PSDNAME "{word("PSDNAME")}"',
        f'PDGMUID "{birds.uid("GE protocol block, PDGMUID")}"',
        f'PDGMSTR "{word("PDGMSTR")}"',
        f'{word("an unknown key")} "1"',
        f'TE "{word("a word where a term belongs")}"',
        f'IOPT "EPI, {word("a word among terms")}"',
        f'USERCV3 "{birds.date("GE protocol block, a date where a number belongs")}"',
        f'SLICEORDER "{birds.serial("GE protocol block, a serial number where a number belongs")}"',
        f'MBACCEL "1" {word("behind a value")}',
        f"{word('a line that is none')}",
        'VIEWORDER "1"',
        'NOSLC "15"',
        'DELACQNOAV "0"',
    ]
    content = "\n".join(lines).encode()
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    extra = word("extra field of the gzip header").encode()
    packed = (
        b"\x1f\x8b\x08\x1c" + struct.pack("<L", birds.epoch("GE protocol block, time of the gzip header")) + b"\0\3"
    )
    packed += struct.pack("<H2sH", len(extra) + 4, b"EX", len(extra)) + extra
    packed += f"Ex{word('name in the gzip header')}Ser4".encode() + b"\0"
    packed += word("comment of the gzip header").encode() + b"\0"
    packed += packer.compress(content) + packer.flush() + struct.pack("<LL", zlib.crc32(content), len(content))
    packed += word("behind the gzip stream").encode()
    return struct.pack("<L", len(packed)) + packed + word("padding").encode() + bytes(len(packed) & 1)


def plant_ge(dataset: FileDataset, birds: Aviary) -> None:
    """Plant in what GE scanners write."""
    put(dataset, 0x0025101B, "OB", plant_block(birds))
    header = bytearray(dataset[0x0043102A].value)
    start = int.from_bytes(header[24:26], "little")
    for place, offset in (
        ("first bytes", 2),
        ("before the header", 30),
        ("in the header", start + 0x100),
        ("end", len(header) - 10),
    ):
        token = birds.word(f"GE raw data header, {place}").encode()
        header[offset : offset + 10] = token
    put(dataset, 0x0043102A, "OB", bytes(header))
    put(dataset, 0x00091002, "SH", birds.word("0009,xx02, suite"))
    put(dataset, 0x00091027, "SL", struct.pack("<L", birds.epoch("0009,xx27, time of the image")))
    put(dataset, 0x00091030, "SH", birds.word("0009,xx30, station"))
    put(dataset, 0x000910E3, "UI", birds.uid("0009,xxE3, equipment UID"))
    put(dataset, 0x0019109C, "LO", birds.word("0019,xx9C, pulse sequence"))
    put(dataset, 0x0019109D, "DT", birds.date("0019,xx9D, date of the pulse sequence") + "101112")
    put(dataset, 0x0019109E, "LO", birds.word("0019,xx9E"))
    put(dataset, 0x001910BB, "DS", birds.word("0019,xxBB, a word where a DS belongs"))
    put(dataset, 0x001910D3, "SH", birds.word("0019,xxD3"))
    put(dataset, 0x00231070, "FD", struct.pack("<d", birds.epoch("0023,xx70, start of the scan")))
    inside = Dataset()
    put(inside, 0x00400255, "LO", birds.word("0023,xx80, item, PerformedProcedureStepDescription"))
    put_items(dataset, 0x00231080, inside)
    put(dataset, 0x0025101A, "SH", birds.word("0025,xx1A, station"))
    put(dataset, 0x00271040, "SH", birds.word("0027,xx40, a word where a term belongs"))
    put(dataset, 0x00271060, "FL", f"patient {birds.word('0027,xx60, text where numbers belong')}".ljust(20))
    put(dataset, 0x00431028, "OB", f"MR1/{birds.ident('0043,xx28, exam')}/4/1".encode())
    put(dataset, 0x00431039, "IS", f"1000\\{birds.word('0043,xx39, a word where an IS belongs')}")
    for low in (0x61, 0x88, 0x98):
        put(dataset, 0x00431000 | low, "UI", birds.uid(f"0043,xx{low:02X}"))
    put(dataset, 0x00431062, "SH", birds.ident("0043,xx62, exam"))
    put(dataset, 0x00431080, "LO", birds.word("0043,xx80"))
    put(dataset, 0x00431081, "LO", birds.word("0043,xx81, coil"))
    put(dataset, 0x00431082, "LO", f"SRMode=200\\{birds.word('0043,xx82')}")
    put(dataset, 0x00431095, "LO", f"TG/s3\\{birds.word('0043,xx95')}")
    put(dataset, 0x004310B2, "LO", f"956.1\\{birds.word('0043,xxB2')}")
    put(dataset, 0x00430011, "LO", "GEMS_PARM_01")
    put(dataset, 0x0043112A, "OB", birds.word("GE raw data header, a second one that is none"))


def plant_philips(dataset: FileDataset, birds: Aviary) -> None:
    """Plant in what Philips scanners write."""
    inner = dataset[0x2005140F].value[0]
    put(inner, 0x00080018, "UI", birds.uid("2005,xx0F, SOPInstanceUID"))
    put(inner, 0x00080023, "DA", birds.date("2005,xx0F, ContentDate"))
    put(inner, 0x0008002A, "DT", birds.date("2005,xx0F, AcquisitionDateTime") + "101112")
    put(inner, 0x00100010, "PN", birds.name("2005,xx0F, PatientName"))
    put(inner, 0x0008103E, "LO", f"t1 {birds.word('2005,xx0F, SeriesDescription')}")
    put(inner, 0x00189005, "SH", f"t1_{birds.word('2005,xx0F, PulseSequenceName')}")
    put(inner, 0x00081010, "SH", birds.word("2005,xx0F, StationName"))
    put(inner, 0x00110010, "LO", birds.word("2005,xx0F, private creator"))
    put(inner, 0x00111001, "LO", birds.word("2005,xx0F, private LO"))
    put(inner, 0x00409210, "SH", birds.alias("2005,xx0F, LUTLabel"))
    deeper = Dataset()
    put(deeper, 0x00081155, "UI", birds.uid("2005,xx0F, sequence, ReferencedSOPInstanceUID"))
    put(deeper, 0x00080080, "LO", birds.word("2005,xx0F, sequence, InstitutionName"))
    put_items(inner, 0x00081140, deeper)
    stack = dataset[0x2001105F].value[0]
    put(stack, 0x20011033, "CS", birds.word("2001,xx5F, a word where a term belongs"))
    put(stack, 0x200110F7, "LO", birds.word("2001,xx5F, not known"))
    put(stack, 0x00104000, "LT", birds.word("2001,xx5F, PatientComments"))
    put(dataset, 0x2001100B, "CS", birds.word("2001,xx0B, a word where a term belongs"))
    put(dataset, 0x20011020, "LO", birds.word("2001,xx20"))
    put(dataset, 0x20011023, "DS", birds.word("2001,xx23, a word where a DS belongs"))
    put(dataset, 0x200110C8, "LO", birds.word("2001,xxC8, exam card"))
    put(dataset, 0x200110CC, "ST", birds.word("2001,xxCC"))
    put(dataset, 0x2001116B, "LO", birds.word("2001,xx6B"))
    put(dataset, 0x2005100E, "FL", f"patient {birds.word('2005,xx0E, text where numbers belong')}".ljust(20))
    put(dataset, 0x200510A1, "CS", birds.word("2005,xxA1"))
    put(dataset, 0x20051134, "LT", birds.word("2005,xx34"))
    put(dataset, 0x20051391, "PN", birds.name("2005,xx91"))
    put(dataset, 0x20051395, "ST", birds.word("2005,xx95"))
    put(dataset, 0x20051397, "LO", birds.word("2005,xx97"))
    put(dataset, 0x20051411, "UI", birds.uid("2005,xx11"))
    put(dataset, 0x20051412, "OB", birds.word("2005,xx12, another VR"))


def plant_uih(dataset: FileDataset, birds: Aviary) -> None:
    """Plant in what UIH scanners write."""
    for number, inner in enumerate(dataset[0x00651051].value[:2], 1):
        put(inner, 0x00080022, "DA", birds.date(f"0065,xx51, item {number}, AcquisitionDate"))
        put(inner, 0x0008002A, "DT", birds.date(f"0065,xx51, item {number}, AcquisitionDateTime") + "101112.5")
        put(inner, 0x00080018, "UI", birds.uid(f"0065,xx51, item {number}, SOPInstanceUID"))
        put(inner, 0x00100020, "LO", birds.ident(f"0065,xx51, item {number}, PatientID"))
        put(inner, 0x0065100F, "SH", birds.word(f"0065,xx51, item {number}, xx0F"))
        put(inner, 0x00651015, "DS", birds.word(f"0065,xx51, item {number}, a word where a DS belongs"))
    put(dataset, 0x00651000, "UL", struct.pack("<L", birds.epoch("0065,xx00, time of the scan")))
    put(dataset, 0x00651002, "LO", birds.word("0065,xx02"))
    put(dataset, 0x00651003, "LO", birds.word("0065,xx03"))
    put(dataset, 0x00651005, "SH", birds.word("0065,xx05"))
    put(dataset, 0x00651007, "OB", birds.word("0065,xx07"))
    put(dataset, 0x0065100D, "SH", birds.word("0065,xx0D"))
    put(dataset, 0x0065102B, "LT", birds.word("0065,xx2B"))
    put(dataset, 0x00651036, "OB", birds.word("0065,xx36"))
    put(dataset, 0x00651037, "FD", f"patient {birds.word('0065,xx37, text where numbers belong')}".ljust(24))
    put(dataset, 0x00651040, "LO", birds.word("0065,xx40"))
    put(dataset, 0x00651041, "LT", birds.word("0065,xx41"))
    put(dataset, 0x00650011, "LO", f"Image Private Header{birds.word('behind the name of the creator')}")
    put(dataset, 0x00651102, "LO", birds.word("element of a creator that is almost known"))


def plant_canon(dataset: FileDataset, birds: Aviary) -> None:
    """Plant in what Toshiba and Canon scanners write; the base has none of it."""
    put(dataset, 0x00080070, "LO", "TOSHIBA_MEC")
    put(dataset, 0x700D0010, "LO", "TOSHIBA_MEC_MR3")
    put(dataset, 0x700D1000, "DS", birds.word("700D,xx00, a word where a DS belongs"))
    put(dataset, 0x700D1003, "SS", f"patient {birds.word('700D,xx03, text where a number belongs')}")
    put(dataset, 0x700D1009, "LO", birds.word("700D,xx09, another VR"))
    xml = f"<Series><Description>{birds.word('700D,xx19, XML')}</Description></Series>"
    put(dataset, 0x700D1019, "OB", xml)
    put(dataset, 0x700D10F0, "UN", birds.word("700D,xxF0, not known"))


# ---- pixel data, character sets, and what an earlier tool wrote


def plant_pixels(dataset: FileDataset, birds: Aviary) -> None:
    """Plant in the bits above those stored, and behind the last pixel."""
    pixels = np.frombuffer(dataset.PixelData, "<u2").copy()
    text = birds.word("unused high bits of the pixels").encode() * 2
    nibbles = [half for letter in text for half in (letter >> 4, letter & 15)]
    pixels[: len(nibbles)] = pixels[: len(nibbles)] & 0x0FFF | np.array(nibbles, np.uint16) << 12
    put(dataset, 0x7FE00010, "OW", pixels.tobytes() + birds.word("behind the last pixel").encode())


def plant_fragments(dataset: FileDataset, birds: Aviary) -> None:
    """Plant in RLE compressed pixel data: the offset table, behind a frame's end, and in a fragment of no frame."""
    *_, frame = generate_fragments(dataset.PixelData)
    frame += birds.word("behind the end of an RLE frame").encode()
    table = birds.word("basic offset table").encode() + b"\0\0"
    extra = birds.word("a fragment of no frame").encode()
    value = b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<L", len(part)) + part for part in (table, frame, extra))
    dataset.PixelData = value
    dataset["PixelData"].is_undefined_length = True


def plant_jpeg(dataset: FileDataset, birds: Aviary) -> None:
    """Plant in the segments of a JPEG codestream that are texts, and behind its end."""
    *_, frame = generate_fragments(dataset.PixelData)
    comment = birds.word("comment segment of a JPEG frame").encode() + b"\0\0"
    application = birds.word("application segment of a JPEG frame").encode()
    segments = b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment
    segments += b"\xff\xe5" + struct.pack(">H", len(application) + 2) + application
    frame = frame[:2] + segments + frame[2:].rstrip(b"\0") + birds.word("behind the end of a JPEG frame").encode()
    dataset.PixelData = encapsulate([frame + bytes(len(frame) % 2)])
    dataset["PixelData"].is_undefined_length = True


def plant_jpeg_2000(dataset: FileDataset, birds: Aviary) -> None:
    """Plant in the comment of a JPEG 2000 codestream, and behind its end."""
    *_, frame = generate_fragments(dataset.PixelData)
    size = 4 + int.from_bytes(frame[4:6], "big")
    comment = b"\0\1" + birds.word("comment of a JPEG 2000 frame").encode()
    segment = b"\xff\x64" + struct.pack(">H", len(comment) + 2) + comment
    frame = (
        frame[:size] + segment + frame[size:].rstrip(b"\0") + birds.word("behind the end of a JPEG 2000 frame").encode()
    )
    dataset.PixelData = encapsulate([frame + bytes(len(frame) % 2)])
    dataset["PixelData"].is_undefined_length = True


CHARACTER_SETS = (
    ("ISO_IR 100", "latin_1", WESTERN, 6),
    ("ISO_IR 144", "iso8859_5", CYRILLIC, 6),
    ("ISO_IR 126", "iso8859_7", GREEK, 6),
    ("\\ISO 2022 IR 87", "iso2022_jp", KANJI, 4),
    ("\\ISO 2022 IR 149", "euc_kr", HANGUL, 4),
    ("GB18030", "gb18030", HANZI, 4),
    ("ISO_IR 192", "utf-8", KANJI + HANGUL, 4),
)


def plant_letters(dataset: FileDataset, birds: Aviary, number: int) -> None:
    """Plant names in the letters of a character set, and what is known of the patient in texts that are kept."""
    term, codec, letters, count = CHARACTER_SETS[number]
    use_character_set(dataset, term)

    def spell(text: str) -> bytes:
        raw = text.encode(codec)
        # In DICOM each component starts anew: Korean has to be announced (PS3.5 annex I), Japanese is by the codec.
        return b"\x1b$)C" + raw if codec == "euc_kr" else raw

    def name(place: str) -> str:
        return birds.letters(f"{place}, {term.strip(chr(92))}", letters, count)

    family = name("PatientName")
    put(dataset, 0x00100010, "PN", b"Known^Nobody=" + spell(family))
    put(dataset, 0x00080090, "PN", b"=" + spell(name("ReferringPhysicianName")))
    put(dataset, 0x00080080, "LO", spell(name("InstitutionName")))
    put(dataset, 0x00102000, "LO", spell(name("MedicalAlerts")))
    put(dataset, 0x0008103E, "LO", b"t1 " + spell(name("SeriesDescription, a word")))
    alias = name("ProtocolName and ReceiveCoilName, a name of the patient")
    put(dataset, 0x00101005, "PN", b"=" + spell(alias))
    put(dataset, 0x00181030, "LO", b"t1 " + spell(alias))
    put(dataset, 0x00181250, "SH", spell(alias))
    inside = Dataset()
    inside.set_original_encoding(*dataset.original_encoding, dataset._character_set)
    put(inside, 0x00321060, "LO", spell(name("RequestedProcedureDescription in an item")))
    put(inside, 0x00181251, "SH", spell(alias))
    put_items(dataset, LEVELS[0], inside)


def plant_earlier(dataset: FileDataset, birds: Aviary) -> None:
    """Plant in what says that a file was de-identified before."""
    put(dataset, 0x00120062, "CS", "YES")
    put(dataset, 0x00120063, "LO", f"tool 1\\by {birds.name('DeidentificationMethod of an earlier tool')}")
    item = Dataset()
    put(item, 0x00080100, "SH", "113100")
    put(item, 0x00080102, "SH", birds.word("coding scheme in DeidentificationMethodCodeSequence of an earlier tool"))
    put(item, 0x00080104, "LO", birds.word("code meaning in DeidentificationMethodCodeSequence of an earlier tool"))
    other = Dataset()
    put(other, 0x00080100, "SH", birds.ident("code value in DeidentificationMethodCodeSequence of an earlier tool"))
    put_items(dataset, 0x00120064, item, other)
    put(dataset, 0x00280303, "CS", "MODIFIED")
    put(dataset, 0x00080080, "LO", birds.word("InstitutionName that an earlier tool left"))


# ---- text in the pixels

BURNT_AREA = (4, 6, 100, 20)
"""Where text stands in the pixels of `burnt_in_files`: x0, y0, x1, y1, 0-based and half-open."""

BURNT_TEXT = "JANE DOE"
_GLYPHS = {
    "J": (1, 1, 1, 5, 7),
    "A": (2, 5, 7, 5, 5),
    "N": (7, 5, 5, 5, 5),
    "E": (7, 4, 6, 4, 7),
    "D": (6, 5, 5, 5, 6),
    "O": (7, 5, 5, 5, 7),
    " ": (0, 0, 0, 0, 0),
}
"""Letters of three times five dots, a number a row."""


def burnt_in_files(seed: int = SEED) -> Iterator[Planted]:
    """Make a secondary capture and an ultrasound image with a name in their pixels, to be refused or cleaned."""
    rows, columns = 64, 128
    x0, y0, _, _ = BURNT_AREA
    picture = (np.add.outer(np.arange(rows), np.arange(columns)) % 100).astype(np.uint8)
    for place, letter in enumerate(BURNT_TEXT):
        glyph = np.array([[row >> bit & 1 for bit in (2, 1, 0)] for row in _GLYPHS[letter]], np.uint8)
        dots = np.kron(glyph, np.ones((2, 3), np.uint8)).astype(bool)
        left = x0 + 1 + 11 * place
        picture[y0 + 2 : y0 + 12, left : left + 9][dots] = 255
    classes = (("OT", "1.2.840.10008.5.1.4.1.1.7"), ("US", "1.2.840.10008.5.1.4.1.1.6.1"))
    for number, (modality, sop_class) in enumerate(classes, 40):
        birds = Aviary("synthetic", f"text in the pixels, {modality}", seed)
        dataset = _instance(
            number,
            SOPClassUID=sop_class,
            Modality=modality,
            Rows=rows,
            Columns=columns,
            BitsAllocated=8,
            BitsStored=8,
            HighBit=7,
            PixelData=picture.tobytes(),
        )
        put(dataset, 0x00080018, "UI", birds.uid("SOPInstanceUID"))
        put(dataset, 0x00100010, "PN", birds.name("PatientName"))
        yield _planted(dataset, birds, may_be_refused=True)


# ---- the set

Bases = dict[str, tuple[str, Callable[[FileDataset, Aviary], None]]]

BASES: Bases = {
    "Siemens V": ("dcm_qa_stc/In/Siemens/B17/6_ax_asc_35sl/*", plant_siemens_v),
    "Siemens XA": ("dcm_qa_enh/In/Siemens/XA10/6_2.dcm", plant_siemens_xa),
    "GE": ("dcm_qa_stc/In/GE/ProtocolDataBlock/mr_0004/*-00001.dcm", plant_ge),
    "Philips": ("dcm_qa_philips/In/Magdeburg_2014/fmri/*_0001_13.dcm", plant_philips),
    "UIH": ("dcm_qa_stc/In/UIH/R002/12_dti_tra_dir16_PA_rot/0001.dcm", plant_uih),
}
"""Real files: where the first of them lies below the folder of scanner data, and what plants in their private data."""

MORE_BASES: Bases = {
    "Siemens V": ("dcm_qa_stc/In/Siemens/E11/7_Rest_fMRI_AP/0001.dcm", plant_siemens_v),
    "Siemens XA": ("dcm_qa_stc/In/Siemens/XA10/6_REST1_w_SMS_PF7-8/6_1.dcm", plant_siemens_xa),
    "GE": ("dcm_qa_stc/In/GE/RTIA/2_epiRT_ascending/*.dcm", plant_ge),
    "Philips": ("dcm_qa_philips/In/Vanderbilt_2018/601_WIP_dti_ax/0016.dcm", plant_philips),
    "UIH": ("dcm_qa_uih/In/DTI_132225/dti_tra_dir16_PA_rot_SaveBySlc__134057/00000005.dcm", plant_uih),
}
"""Other scanners and releases of the same vendors."""

SYNTAXES = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
}


def find_base(scanner_data: Path, pattern: str) -> Path:
    """Find the first file of a pattern."""
    return min(path for path in scanner_data.glob(pattern) if path.is_file())


def real_files(scanner_data: Path, seed: int = SEED, *, bases: Bases = BASES) -> Iterator[Planted]:
    """Plant in one real file of each vendor: everywhere, and in its private data."""
    for vendor, (pattern, plant_vendor) in bases.items():
        birds = Aviary(vendor, "scanner", seed)
        dataset = read(find_base(scanner_data, pattern).read_bytes())
        plant_vendor(dataset, birds)
        plant(dataset, birds)
        yield _planted(dataset, birds)


def synthetic_files(seed: int = SEED) -> Iterator[Planted]:
    """Plant in made-up files: every syntax, character sets, pixel data, and what may be refused as a whole."""
    for number, (name, syntax) in enumerate(SYNTAXES.items(), 1):
        birds = Aviary("synthetic", name, seed)
        dataset = _instance(number, syntax)
        plant(dataset, birds)
        yield _planted(dataset, birds)
    steps: list[tuple[str, str, Callable[[FileDataset, Aviary], None], FileDataset]] = [
        *(
            ("synthetic", f"letters of {term}", functools.partial(plant_letters, number=number), _instance(10 + number))
            for number, (term, *_) in enumerate(CHARACTER_SETS)
        ),
        ("Canon", "private data", plant_canon, _instance(20)),
        ("synthetic", "pixels", plant_pixels, _instance(21)),
        ("synthetic", "RLE", plant_fragments, _compressed("MR_small_RLE.dcm")),
        ("synthetic", "JPEG-LS", plant_jpeg, _compressed("MR_small_jpeg_ls_lossless.dcm")),
        ("synthetic", "JPEG 2000", plant_jpeg_2000, _compressed("MR_small_jp2klossless.dcm")),
        ("synthetic", "de-identified before", plant_earlier, _instance(22)),
        ("synthetic", "dates that are none", plant_no_dates, _instance(23)),
        ("synthetic", "a document in an image", plant_document, _instance(24)),
    ]
    for vendor, name, step, dataset in steps:
        birds = Aviary(vendor, name, seed)
        step(dataset, birds)
        put(dataset, 0x00080018, "UI", birds.uid("SOPInstanceUID"))
        yield _planted(dataset, birds)
    for number, keyword in enumerate(("SpecificCharacterSet", "behind the data set", "ConversionType"), 30):
        birds = Aviary("synthetic", f"refused, {keyword}", seed)
        dataset = _instance(number)
        behind = b""
        if keyword == "SpecificCharacterSet":
            put(dataset, 0x00080005, "CS", birds.word(keyword))
        elif keyword == "ConversionType":
            put(dataset, 0x00080064, "CS", birds.word(keyword))
        else:
            behind = birds.word("bytes behind the data set").encode() * 2
        yield _planted(dataset, birds, behind, may_be_refused=True)


def canary_set(scanner_data: Path | None, seed: int = SEED) -> list[Planted]:
    """Make the whole set; without scanner data, the made-up files alone."""
    files = [*(real_files(scanner_data, seed) if scanner_data else ()), *synthetic_files(seed)]
    tokens = [canary.token for file in files for canary in file.canaries if canary.kind not in ("date", "age", "time")]
    if scanner_data and len(tokens) != len(set(tokens)):
        raise ValueError("a token was drawn twice")
    return files


def places(files: Iterable[Planted]) -> set[str]:
    """Return the distinct places, each once however many files and vendors have it."""
    return {canary.place for file in files for canary in file.canaries}


def _planted(dataset: FileDataset, birds: Aviary, behind: bytes = b"", *, may_be_refused: bool = False) -> Planted:
    content = write(dataset) + behind
    if "preamble" in birds.planted and dataset.file_meta.TransferSyntaxUID != DeflatedExplicitVRLittleEndian:
        content = put_group_length(content, birds.epoch("a group length"))
    folder, name = birds.word("name of the folder"), birds.word("name of the file")
    return Planted(
        path=f"{folder.lower()}/{name}.dcm",
        vendor=birds.vendor,
        base=birds.base,
        content=content,
        canaries=tuple(birds.canaries),
        may_be_refused=may_be_refused,
    )


def _instance(number: int, syntax: UID = ExplicitVRLittleEndian, **overrides: object) -> FileDataset:
    with tempfile.TemporaryDirectory() as folder:
        path = write_instance(
            Path(folder) / "made", make_instance(instance=number, **overrides), transfer_syntax=syntax
        )
        return read(path.read_bytes())


def _compressed(name: str) -> FileDataset:
    path = get_testdata_file(name)
    assert isinstance(path, str)
    return read(Path(path).read_bytes())
