"""Write the demo dump: one flat folder of a believable scanner's export, made of nobody's data.

    python -m tests.builders.demo_dump DIR [--seed N] [--small]

Beside DIR a file DIR.demo.json keeps what was planted; it also tells a later call that DIR is already the demo dump.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import enum
import json
import random
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom.charset
import pydicom.data
import pydicom.uid
from numpy.typing import NDArray
from pydicom.valuerep import PersonName

from tasks.errors import ScanwardError, UsageError
from tasks.files import write_json
from tests.builders.head import (
    Floats,
    Grid,
    Head,
    add_noise,
    diffusion_factor,
    sample_tissue,
    t1_weighted,
    t2_weighted,
)
from tests.builders.mr_headers import (
    Contrast,
    Person,
    Pixels,
    Scanner,
    Series,
    Vector,
    Visit,
    Volume,
    classic_image,
    classic_series,
    enhanced_image,
    person_age,
)

VERSION = 1
"""Raise it when the same seed no longer gives the same bytes."""


class DumpTakenError(UsageError):
    """The folder for the demo dump holds something else."""

    sentence = "The folder {path} holds other files, so the demo dump was not written: name an empty or a new folder."
    hint = ""


class FileKind(enum.StrEnum):
    """What a file of the dump is."""

    PATIENT_IMAGE = "patient image"
    PYDICOM_FILE = "pydicom's file"
    DUPLICATE = "exact duplicate"
    CONFLICT = "same SOP Instance UID, other content"
    TRUNCATED = "truncated DICOM"
    EMPTY = "zero-length file"
    THUMBNAILS = "Thumbs.db"
    PDF = "PDF"
    TEXT = "text file"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoFile:
    """One written file.

    Attributes
    ----------
    name
        Its name in the flat folder.
    patient
        Number of the synthetic patient it shows, from 1; 0 for none.
    visit
        Number of that patient's time point, from 1; 0 for none.
    series
        "t1", "epi", "dwi" or "localizer"; empty for none.
    enhanced
        Whether it holds many frames.
    sop_instance_uid
        Of the synthetic images; empty elsewhere.
    original
        For a duplicate or a conflict, the name of the file it repeats; for pydicom's files, their path there.
    """

    name: str
    kind: FileKind
    patient: int = 0
    visit: int = 0
    series: str = ""
    enhanced: bool = False
    sop_instance_uid: str = ""
    original: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticPatient:
    """All that the headers of one synthetic patient tell, for a search for leaks.

    Dates are DICOM dates (YYYYMMDD). `marks` is the middle of the bright ball at each visit, LPS millimetres.
    """

    number: int
    character_set: tuple[str, ...]
    names: tuple[str, ...]
    patient_ids: tuple[str, ...]
    birth_date: str
    ages: tuple[str, ...]
    study_dates: tuple[str, ...]
    accession_numbers: tuple[str, ...]
    study_ids: tuple[str, ...]
    device_serial_numbers: tuple[str, ...]
    station_names: tuple[str, ...]
    institutions: tuple[str, ...]
    people: tuple[str, ...]
    contacts: tuple[str, ...]
    uids: tuple[str, ...]
    marks: tuple[Vector, ...]

    def identifying_values(self) -> frozenset[str]:
        """Gather every planted value that must not leave: whole values, and the groups of names."""
        values = {self.birth_date, *self.patient_ids, *self.study_dates, *self.accession_numbers, *self.study_ids}
        values |= {*self.device_serial_numbers, *self.station_names, *self.institutions, *self.contacts, *self.uids}
        for name in (*self.names, *self.people):
            values.add(name)
            values.update(name.split("="))
        return frozenset(values)

    def identifying_bytes(self) -> frozenset[bytes]:
        """Encode every planted value as it may stand in a file: in the patient's character set, and in UTF-8."""
        encodings = pydicom.charset.convert_encodings(list(self.character_set) or [""])
        values = self.identifying_values()
        # Escape sequences start anew behind each delimiter of a name (PS3.5 6.1.2.5.3).
        names = {value for value in values if "^" in value}
        found = {PersonName(name).encode(encodings) for name in names}
        found |= {pydicom.charset.encode_string(value, encodings) for value in values - names}
        return frozenset(found | {value.encode() for value in values})


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoContents:
    """What a demo dump holds."""

    version: int
    seed: int
    small: bool
    files: tuple[DemoFile, ...]
    patients: tuple[SyntheticPatient, ...]

    def of_kind(self, kind: FileKind) -> tuple[DemoFile, ...]:
        """Pick the files of one kind."""
        return tuple(file for file in self.files if file.kind is kind)

    def counts(self) -> dict[FileKind, int]:
        """Count the files of each kind that occurs."""
        counted = collections.Counter(file.kind for file in self.files)
        return {kind: counted[kind] for kind in FileKind if counted[kind]}


def write_demo_dump(folder: Path, *, seed: int = 1, small: bool = False) -> DemoContents:
    """Write the demo dump into `folder`, or find it there already.

    Parameters
    ----------
    folder
        New, empty, or holding this very dump.
    seed
        Everything follows from it: names, bytes, UIDs.
    small
        Two patients with few slices, about 150 files, for tests.

    Raises
    ------
    DumpTakenError
        If the folder holds anything else.
    """
    folder = Path(folder).absolute()
    record = record_path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        contents = read_contents(folder)
        wanted = (VERSION, seed, small)
        if contents is None or (contents.version, contents.seed, contents.small) != wanted:
            raise DumpTakenError(path=folder)
        if {path.name for path in folder.iterdir()} != {file.name for file in contents.files}:
            raise DumpTakenError(path=folder)
        return contents

    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir()
    writer = _DumpWriter(unfinished, seed=seed, small=small)
    contents = writer.write()
    write_json(record, dataclasses.asdict(contents))
    unfinished.replace(folder)
    return contents


def record_path(folder: Path) -> Path:
    """Name the file beside a demo dump that tells what was planted in it."""
    return folder.with_name(folder.name + ".demo.json")


def read_contents(folder: Path) -> DemoContents | None:
    """Read what was planted in a demo dump; None if there is no record that reads."""
    try:
        told = json.loads(record_path(folder).read_text(encoding="utf-8"))
        return DemoContents(
            version=told["version"],
            seed=told["seed"],
            small=told["small"],
            files=tuple(DemoFile(**{**file, "kind": FileKind(file["kind"])}) for file in told["files"]),
            patients=tuple(
                SyntheticPatient(**{key: _frozen(value) for key, value in patient.items()})
                for patient in told["patients"]
            ),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _frozen(value: Any) -> Any:
    return tuple(_frozen(part) for part in value) if isinstance(value, list) else value


# --- The cast -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Role:
    """One patient's part in the dump; the identifiers are drawn from the seed."""

    number: int
    character_set: tuple[str, ...]
    name: str
    former_name: str
    birth_date: datetime.date
    sex: str
    institution: str
    department: str
    referrer: str
    scanner: Scanner
    first_visit: datetime.date
    months: tuple[int, ...]
    t1_axial: bool
    epi: str
    """ "classic", "enhanced" (one file) or "enhanced by volume"."""
    enhanced_diffusion: bool
    tilt: float
    name_in_description: bool = False


CAST = (
    _Role(
        number=1,
        character_set=(),
        name="Synthetic^Alpha",
        former_name="Synthetic^Alfa",
        birth_date=datetime.date(1961, 7, 23),
        sex="F",
        institution="Synthetic Hospital Alpha",
        department="Imaging 1",
        referrer="Synthetic^Physician^One",
        scanner=Scanner(
            manufacturer="SIEMENS", model="Synthetic V 3T", software="syngo synthetic E11", uid_style="stamped"
        ),
        first_visit=datetime.date(2018, 9, 4),
        months=(0, 6, 12),
        t1_axial=False,
        epi="classic",
        enhanced_diffusion=False,
        tilt=-8.0,
    ),
    _Role(
        number=2,
        character_set=("", "ISO 2022 IR 87"),
        name="Gosei^Shiken=合成^試験=ごうせい^しけん",
        former_name="Gousei^Shiken=合成^試驗=ごうせい^しけん",
        birth_date=datetime.date(1978, 2, 11),
        sex="M",
        institution="合成病院",
        department="画像診断部",
        referrer="Gosei^Ishi=合成^医師=ごうせい^いし",
        scanner=Scanner(
            manufacturer="GE MEDICAL SYSTEMS",
            model="SYNTHETIC MR750",
            software="27\\LX\\MR Software release:SYN27",
            uid_style="serial",
            transfer_syntax=pydicom.uid.ImplicitVRLittleEndian,
            signed=True,
            descending=True,
        ),
        first_visit=datetime.date(2020, 1, 21),
        months=(0, 5),
        t1_axial=True,
        epi="classic",
        enhanced_diffusion=False,
        tilt=6.0,
    ),
    _Role(
        number=3,
        character_set=("ISO_IR 126",),
        name="Συνθετικός^Γάμμα",
        former_name="Συνθετικος^Γαμμα",
        birth_date=datetime.date(1925, 11, 30),
        sex="F",
        institution="Συνθετικό Νοσοκομείο",
        department="Ακτινολογία",
        referrer="Συνθετικός^Ιατρός",
        scanner=Scanner(
            manufacturer="Philips Medical Systems",
            model="Synthetic Ingenia",
            software="5.4.0-synthetic",
            uid_style="random",
            rescale_slope=1.75,
        ),
        first_visit=datetime.date(2019, 2, 12),
        months=(0, 6),
        t1_axial=False,
        epi="enhanced",
        enhanced_diffusion=True,
        tilt=-5.0,
        name_in_description=True,
    ),
    _Role(
        number=4,
        character_set=("ISO_IR 100",),
        name="Synthétique^Élève^Été",
        former_name="Synthetique^Eleve",
        birth_date=datetime.date(1989, 12, 5),
        sex="M",
        institution="Hôpital synthétique",
        department="Résonance",
        referrer="Synthétique^Médecin",
        scanner=Scanner(
            manufacturer="Siemens Healthineers",
            model="Synthetic XA 3T",
            software="syngo synthetic XA30",
            uid_style="stamped",
            preamble_tells=True,
        ),
        first_visit=datetime.date(2021, 3, 9),
        months=(0, 4, 9),
        t1_axial=False,
        epi="enhanced by volume",
        enhanced_diffusion=True,
        tilt=-11.0,
    ),
    _Role(
        number=5,
        character_set=("ISO_IR 192",),
        name="Hecheng^Ceshi=合成^測試",
        former_name="Hecheng^Ceyan=合成^測驗",
        birth_date=datetime.date(1997, 4, 18),
        sex="O",
        institution="合成醫院",
        department="放射科",
        referrer="Hecheng^Yishi=合成^醫師",
        scanner=Scanner(
            manufacturer="GE MEDICAL SYSTEMS",
            model="SYNTHETIC PREMIER",
            software="29\\LX\\MR Software release:SYN29",
            uid_style="serial",
            signed=True,
        ),
        first_visit=datetime.date(2022, 6, 14),
        months=(0, 7),
        t1_axial=True,
        epi="classic",
        enhanced_diffusion=True,
        tilt=9.0,
    ),
)
"""Roots of the names mean "synthetic" and "test" in their languages."""

SMALL_CAST = (2, 3)
"""Who plays in the small dump: classic and enhanced, two scripts, implicit and explicit, the patient over 89."""

LEFT_MARKS = ((-44.0, 8.0, 22.0), (-36.0, -24.0, 30.0), (-46.0, -8.0, 12.0), (-38.0, 30.0, 18.0), (-42.0, -32.0, 14.0))
"""Where each patient's bright ball lies, in the template's RAS millimetres; all on the left, no two alike."""

T1 = Contrast(
    kind="t1",
    description="T1 3D",
    protocol="T1_3D",
    sequence=("GR", "IR"),
    variant=("SP", "MP"),
    dimensions="3D",
    repetition=2300,
    echo=2.98,
    flip=9,
    inversion=900,
)
EPI = Contrast(
    kind="epi",
    description="EPI rest",
    protocol="EPI_REST",
    sequence=("EP", "GR"),
    variant=("SK",),
    dimensions="2D",
    repetition=2000,
    echo=30,
    flip=80,
    echo_train=56,
)
DIFFUSION = Contrast(
    kind="dwi",
    description="DTI b1000",
    protocol="DTI",
    sequence=("EP", "SE"),
    variant=("SK",),
    dimensions="2D",
    repetition=6400,
    echo=88,
    flip=90,
    echo_train=56,
    image_type=("ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"),
)
LOCALIZER = Contrast(
    kind="localizer",
    description="localizer",
    protocol="localizer",
    sequence=("GR",),
    variant=("SP",),
    dimensions="2D",
    repetition=8.6,
    echo=4,
    flip=20,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Size:
    """How much of everything: matrices, spacing in mm (between slices, in plane), and counts."""

    t1_shape: tuple[int, int, int]
    t1_spacing: tuple[float, float]
    epi_shape: tuple[int, int, int]
    epi_spacing: tuple[float, float]
    epi_volumes: int
    diffusion_shape: tuple[int, int, int]
    diffusion_spacing: tuple[float, float]
    directions: int
    enhanced_directions: int
    duplicates: int
    every_pydicom_file: int


FULL = _Size(
    t1_shape=(72, 160, 160),
    t1_spacing=(2.4, 1.6),
    epi_shape=(18, 56, 56),
    epi_spacing=(7.0, 4.0),
    epi_volumes=5,
    diffusion_shape=(16, 56, 56),
    diffusion_spacing=(8.0, 4.0),
    directions=6,
    enhanced_directions=12,
    duplicates=12,
    every_pydicom_file=1,
)
SMALL = _Size(
    t1_shape=(12, 64, 64),
    t1_spacing=(13.0, 4.0),
    epi_shape=(5, 32, 32),
    epi_spacing=(20.0, 7.0),
    epi_volumes=3,
    diffusion_shape=(4, 32, 32),
    diffusion_spacing=(20.0, 7.0),
    directions=3,
    enhanced_directions=4,
    duplicates=3,
    every_pydicom_file=7,
)


def spread_directions(count: int) -> list[Vector]:
    """Spread unit vectors (LPS) evenly over half a sphere, along a spiral of golden angles."""
    vectors = []
    for index in range(count):
        height = (index + 0.5) / count
        angle = index * np.pi * (3 - np.sqrt(5))
        radius = np.sqrt(1 - height**2)
        vectors.append((float(radius * np.cos(angle)), float(radius * np.sin(angle)), float(height)))
    return vectors


# --- The writing --------------------------------------------------------------------------------------------------


class _DumpWriter:
    """Write one dump into an empty folder, noting each file."""

    def __init__(self, folder: Path, *, seed: int, small: bool) -> None:
        self.folder = folder
        self.seed = seed
        self.small = small
        self.size = SMALL if small else FULL
        self.cast = [role for role in CAST if not small or role.number in SMALL_CAST]
        self.names = random.Random(f"{seed} names")
        self.files: list[DemoFile] = []
        self.taken: set[str] = set()

    def write(self) -> DemoContents:
        patients = tuple(self._write_patient(role) for role in self.cast)
        self._copy_pydicom_files()
        self._repeat_files()
        self._write_junk(patients)
        return DemoContents(
            version=VERSION,
            seed=self.seed,
            small=self.small,
            files=tuple(sorted(self.files, key=lambda file: file.name)),
            patients=patients,
        )

    def _put(self, content: bytes, kind: FileKind, *, name: str = "", **facts: Any) -> None:
        while not name or name in self.taken:
            name = f"{self.names.getrandbits(64):016x}"
        self.taken.add(name)
        (self.folder / name).write_bytes(content)
        self.files.append(DemoFile(name=name, kind=kind, **facts))

    def _write_patient(self, role: _Role) -> SyntheticPatient:
        chance = random.Random(f"{self.seed} patient {role.number}")
        person = _draw_person(role, chance)
        serial = str(chance.randrange(30000, 99999))
        station = f"SYNMR{role.number}{chance.randrange(100, 999)}"
        visits = []
        heads = []
        base = _draw_head(role, chance)
        for order, month in enumerate(role.months[:2] if self.small else role.months):
            start = datetime.datetime.combine(role.first_visit, datetime.time(9)) + datetime.timedelta(
                days=30 * month + chance.randrange(14), minutes=chance.randrange(420), seconds=chance.randrange(60)
            )
            visit = Visit(
                person=person,
                scanner=role.scanner,
                serial=serial,
                station=station,
                start=start,
                accession=f"SYNACC{chance.randrange(10**8):08d}",
                study_id=f"SYNST{chance.randrange(10**6):06d}",
                chance=chance,
            )
            # The same head lies a little differently, and shines a little differently, each time.
            head = dataclasses.replace(
                base,
                shift=_jitter(base.shift, 3.0, chance),
                nod=base.nod + chance.uniform(-2, 2),
                turn=base.turn + chance.uniform(-2, 2),
                gain=base.gain * chance.uniform(0.95, 1.05),
            )
            self._write_visit(role, visit, head, order)
            visits.append(visit)
            heads.append(head)
        return _planted(role, visits, heads)

    def _write_visit(self, role: _Role, visit: Visit, head: Head, order: int) -> None:
        size = self.size
        noise = np.random.default_rng([self.seed, role.number, order])
        facts = {"patient": role.number, "visit": order + 1}
        if role.number == self.cast[0].number and order == 0:
            self._write_truncated(visit, facts)

        description = f"T1 3D {visit.person.spoken_name}" if role.name_in_description else T1.description
        t1 = Series(
            visit=visit,
            number=2,
            contrast=dataclasses.replace(T1, description=description),
            grid=_t1_grid(size, axial=role.t1_axial),
            volumes=1,
            start=visit.start + datetime.timedelta(minutes=4),
        )
        tissue = sample_tissue(head, t1.grid)
        pixels = _stored(add_noise(t1_weighted(tissue), 12, noise), visit.scanner)
        self._write_classic(t1, [Volume(index=0, pixels=pixels)], facts)

        epi = Series(
            visit=visit,
            number=3,
            contrast=EPI,
            grid=_oblique_grid(size.epi_shape, size.epi_spacing, role.tilt),
            volumes=size.epi_volumes,
            start=visit.start + datetime.timedelta(minutes=11),
            reference_uid=t1.first_instance_uid,
        )
        tissue = sample_tissue(head, epi.grid)
        signal = t2_weighted(tissue)
        # Warming gradients let the signal drift; the heart and the breath add to it as a whole.
        volumes = [
            Volume(
                index=index,
                pixels=_stored(
                    add_noise(signal * np.float32(1 + 0.006 * index + noise.normal(0, 0.002)), 8, noise), visit.scanner
                ),
            )
            for index in range(size.epi_volumes)
        ]
        if role.epi == "classic":
            self._write_classic(epi, volumes, facts)
        elif role.epi == "enhanced":
            self._write_enhanced(epi, [volumes], facts, volume_fastest=True)
        else:
            self._write_enhanced(epi, [[volume] for volume in volumes], facts, volume_fastest=False)

        count = size.enhanced_directions if role.enhanced_diffusion else size.directions
        dwi = Series(
            visit=visit,
            number=4,
            contrast=DIFFUSION,
            grid=_oblique_grid(size.diffusion_shape, size.diffusion_spacing, role.tilt / 2),
            volumes=count + 1,
            start=visit.start + datetime.timedelta(minutes=19),
            reference_uid=t1.first_instance_uid,
        )
        tissue = sample_tissue(head, dwi.grid)
        signal = t2_weighted(tissue)
        weightings: list[tuple[float, Vector | None]] = [(0.0, None)]
        weightings += [(1000.0, direction) for direction in spread_directions(count)]
        volumes = [
            Volume(
                index=index,
                pixels=_stored(
                    add_noise(signal * diffusion_factor(tissue, b_value, direction), 8, noise), visit.scanner
                ),
                b_value=b_value,
                direction=direction,
            )
            for index, (b_value, direction) in enumerate(weightings)
        ]
        if role.enhanced_diffusion:
            fastest = role.scanner.uid_style == "random"
            self._write_enhanced(dwi, [volumes], facts, volume_fastest=fastest)
        else:
            self._write_classic(dwi, volumes, facts)

    def _write_classic(self, series: Series, volumes: Sequence[Volume], facts: dict[str, int]) -> None:
        dataset = classic_series(series)
        for volume in volumes:
            for index in range(series.grid.shape[0]):
                content, uid = classic_image(dataset, series, volume, index)
                kind = FileKind.PATIENT_IMAGE
                self._put(content, kind, series=series.contrast.kind, sop_instance_uid=uid, **facts)

    def _write_enhanced(
        self, series: Series, files: Sequence[Sequence[Volume]], facts: dict[str, int], *, volume_fastest: bool
    ) -> None:
        for number, volumes in enumerate(files, start=1):
            content, uid = enhanced_image(series, volumes, number=number, volume_fastest=volume_fastest)
            self._put(
                content,
                FileKind.PATIENT_IMAGE,
                series=series.contrast.kind,
                enhanced=True,
                sop_instance_uid=uid,
                **facts,
            )

    def _write_truncated(self, visit: Visit, facts: dict[str, int]) -> None:
        """Write a localizer whose transfer broke off: once in the pixels, once in the header."""
        grid = Grid(shape=(2, 64, 64), spacing=(10.0, 4.0, 4.0), row_direction=(1, 0, 0), column_direction=(0, 0, -1))
        series = Series(visit=visit, number=1, contrast=LOCALIZER, grid=grid, volumes=1, start=visit.start)
        pixels = _stored(np.full(grid.shape, 100, dtype=np.float32), visit.scanner)
        dataset = classic_series(series)
        for index, share in enumerate((0.8, 0.15)):
            content, uid = classic_image(dataset, series, Volume(index=0, pixels=pixels), index)
            begun = content[: int(len(content) * share) | 1]
            self._put(begun, FileKind.TRUNCATED, series="localizer", sop_instance_uid=uid, **facts)

    def _copy_pydicom_files(self) -> None:
        for path in pydicom_files()[:: self.size.every_pydicom_file]:
            self._put(path.read_bytes(), FileKind.PYDICOM_FILE, original=path.relative_to(PYDICOM_FOLDER).as_posix())

    def _repeat_files(self) -> None:
        """Repeat some images exactly, and one with a changed pixel."""
        images = [file for file in self.files if file.kind is FileKind.PATIENT_IMAGE]
        chosen = random.Random(f"{self.seed} repeats")
        for file in chosen.sample(images, self.size.duplicates):
            self._repeat(file, FileKind.DUPLICATE, (self.folder / file.name).read_bytes())
        file = chosen.choice([file for file in images if file.series == "epi" and not file.enhanced])
        content = bytearray((self.folder / file.name).read_bytes())
        content[-2] ^= 1
        self._repeat(file, FileKind.CONFLICT, bytes(content))

    def _repeat(self, file: DemoFile, kind: FileKind, content: bytes) -> None:
        facts = {key: value for key, value in dataclasses.asdict(file).items() if key not in ("name", "kind")}
        self._put(content, kind, **{**facts, "original": file.name})

    def _write_junk(self, patients: Sequence[SyntheticPatient]) -> None:
        self._put(_thumbnails(), FileKind.THUMBNAILS, name="Thumbs.db")
        self._put(_small_pdf(f"Consent of {patients[-1].patient_ids[0]}"), FileKind.PDF)
        self._put(b"", FileKind.EMPTY)
        told = "".join(f"{patient.patient_ids[0]}\t{patient.names[0]}\n" for patient in patients)
        self._put(f"operator's list, all synthetic\n{told}".encode(), FileKind.TEXT)


PYDICOM_FOLDER = Path(pydicom.data.__file__).parent / "test_files"


def pydicom_files() -> list[Path]:
    """List the DICOM files that pydicom's package itself carries; nothing is fetched."""
    beside = {".txt", ".json", ".dump", ".icc", ".gz"}
    return sorted(
        path
        for path in PYDICOM_FOLDER.rglob("*")
        if path.is_file() and path.suffix not in beside and path.name != "README"
    )


def _draw_person(role: _Role, chance: random.Random) -> Person:
    number = role.number
    return Person(
        number=number,
        character_set=role.character_set,
        name=role.name,
        former_name=role.former_name,
        patient_id=f"SYNID{number}{chance.randrange(10**6):06d}",
        other_id=f"SYNOLD{number}{chance.randrange(10**6):06d}",
        birth_date=role.birth_date,
        sex=role.sex,
        weight=str(chance.randrange(48, 96)),
        height=f"1.{chance.randrange(52, 92)}",
        address=f"{chance.randrange(100, 999)} Invented Street, Nowhere",
        telephone=f"+000 {chance.randrange(10**8):08d}",
        institution=role.institution,
        institution_address=f"{chance.randrange(100, 999)} Invented Square, Nowhere",
        department=role.department,
        referrer=role.referrer,
        performer=f"Synthetic^Performer{number}",
        operator=f"Synthetic^Operator{number}",
    )


def _draw_head(role: _Role, chance: random.Random) -> Head:
    return Head(
        scale=_jitter((1.0, 1.0, 1.0), 0.05, chance),
        shift=_jitter((-4.0, 4.0, -8.0), 6.0, chance),
        nod=chance.uniform(-6, 6),
        turn=chance.uniform(-5, 5),
        gain=chance.uniform(0.85, 1.1),
        shade=_jitter((0.0, 0.0, 0.0), 2.0, chance),
        mark_ras=LEFT_MARKS[role.number - 1],
        mark_radius=11.0,
    )


def _jitter(vector: Vector, size: float, chance: random.Random) -> Vector:
    x, y, z = (part + chance.uniform(-size, size) for part in vector)
    return (x, y, z)


def _t1_grid(size: _Size, *, axial: bool) -> Grid:
    between, within = size.t1_spacing
    return Grid(
        shape=size.t1_shape,
        spacing=(between, within, within),
        row_direction=(1.0, 0.0, 0.0) if axial else (0.0, 1.0, 0.0),
        column_direction=(0.0, 1.0, 0.0) if axial else (0.0, 0.0, -1.0),
        centre=(0.0, 0.0, 2.0),
    )


def _oblique_grid(shape: tuple[int, int, int], spacing: tuple[float, float], degrees: float) -> Grid:
    """Lay axial slices, tilted about the left-right axis."""
    angle = np.radians(degrees)
    return Grid(
        shape=shape,
        spacing=(spacing[0], spacing[1], spacing[1]),
        row_direction=(1.0, 0.0, 0.0),
        column_direction=(0.0, float(np.cos(angle)), float(np.sin(angle))),
        centre=(0.0, 0.0, 2.0),
    )


def _stored(signal: Floats, scanner: Scanner) -> Pixels:
    units: NDArray[np.float32] = np.clip(np.rint(signal / np.float32(scanner.rescale_slope)), 0, 4095)
    return units.astype("<i2") if scanner.signed else units.astype("<u2")


def _planted(role: _Role, visits: Sequence[Visit], heads: Sequence[Head]) -> SyntheticPatient:
    person = visits[0].person
    return SyntheticPatient(
        number=role.number,
        character_set=role.character_set,
        names=(person.name, person.former_name, person.spoken_name),
        patient_ids=(person.patient_id, person.other_id),
        birth_date=f"{person.birth_date:%Y%m%d}",
        ages=tuple(person_age(person.birth_date, visit.start.date()) for visit in visits),
        study_dates=tuple(f"{visit.start:%Y%m%d}" for visit in visits),
        accession_numbers=tuple(visit.accession for visit in visits),
        study_ids=tuple(visit.study_id for visit in visits),
        device_serial_numbers=(visits[0].serial,),
        station_names=(visits[0].station,),
        institutions=(person.institution, person.institution_address, person.department),
        people=(person.referrer, person.performer, person.operator),
        contacts=(person.address, person.telephone),
        uids=tuple(uid for visit in visits for uid in visit.uids),
        marks=tuple(head.mark for head in heads),
    )


def _thumbnails() -> bytes:
    """Make what Windows leaves in folders of pictures: the head of an OLE compound file, and little else."""
    return bytes.fromhex("d0cf11e0a1b11ae1").ljust(24, b"\0") + bytes.fromhex("3e000300feff0900") + b"\xff" * 2016


def _small_pdf(text: str) -> bytes:
    drawing = f"BT /F1 18 Tf 40 100 Td ({text}) Tj ET".encode("ascii")
    objects = (
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 420 200] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(drawing), drawing),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    )
    content = b"%PDF-1.4\n"
    places = []
    for number, body in enumerate(objects, start=1):
        places.append(len(content))
        content += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    trailer = b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, len(content))
    return content + b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1) + table + trailer


def summary(contents: DemoContents) -> Iterator[str]:
    """Say in a few lines what a dump holds."""
    yield f"{len(contents.files)} files of {len(contents.patients)} synthetic patients and others:"
    for kind, count in contents.counts().items():
        yield f"{count:7d}  {kind}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the demo dump as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.builders.demo_dump", description="Write the demo dump.")
    parser.add_argument("folder", type=Path, metavar="DIR", help="a new or empty folder")
    parser.add_argument("--seed", type=int, default=1, help="everything in the dump follows from it (default 1)")
    parser.add_argument("--small", action="store_true", help="two patients, about 150 files")
    given = parser.parse_args(arguments)
    try:
        contents = write_demo_dump(given.folder, seed=given.seed, small=given.small)
    except ScanwardError as fault:
        sys.stderr.write(f"{fault}\n")
        return fault.exit_code
    sys.stdout.write("\n".join(summary(contents)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
