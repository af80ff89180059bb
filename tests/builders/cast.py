"""Who plays in the demo dump, on which scanners, with which sequences."""

from __future__ import annotations

import datetime
import random
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pydicom.uid

from tests.builders.head import Grid, Head
from tests.builders.mr_headers import Contrast, Person, Scanner, Vector


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """One patient's part in the dump; identifiers, dates and the head are drawn from the seed.

    Attributes
    ----------
    first_visit, months
        Earliest day of the first visit, and months from it to each visit; up to two weeks are added by chance.
    epi
        Whether the EPI is one file a slice, one enhanced file, or one enhanced file a volume.
    tilt
        Degrees by which the EPI slices lean about the left-right axis; the diffusion slices lean half of it.
    name_in_description
        Whether the patient's name stands in the T1's Series Description.
    """

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
    epi: Literal["classic", "enhanced", "enhanced by volume"]
    enhanced_diffusion: bool
    tilt: float
    name_in_description: bool = False


CAST = (
    Role(
        number=1,
        character_set=(),
        name="Synthetic^Alpha",
        former_name="Synthetic^Alfa",
        birth_date=datetime.date(1961, 7, 23),
        sex="F",
        institution="Synthetic Hospital Alpha",
        department="Imaging 1",
        referrer="Synthetic^Physician^One",
        scanner=Scanner(manufacturer="SIEMENS", model="DEMO V 3T", software="syngo demo E11", uid_style="stamped"),
        first_visit=datetime.date(2018, 9, 4),
        months=(0, 6, 12),
        t1_axial=False,
        epi="classic",
        enhanced_diffusion=False,
        tilt=-8.0,
    ),
    Role(
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
            model="DEMO MR750",
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
    Role(
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
            model="DEMO Ingenia",
            software="5.4.0-demo",
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
    Role(
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
            model="DEMO XA 3T",
            software="syngo demo XA30",
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
    Role(
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
            model="DEMO PREMIER",
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
class Size:
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


FULL = Size(
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
SMALL = Size(
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


def draw_person(role: Role, chance: random.Random) -> Person:
    """Draw the identifiers of a role."""
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


def draw_head(role: Role, chance: random.Random) -> Head:
    """Draw the size and the lie of a role's head."""
    return Head(
        scale=jitter((1.0, 1.0, 1.0), 0.05, chance),
        shift=jitter((-4.0, 4.0, -8.0), 6.0, chance),
        nod=chance.uniform(-6, 6),
        turn=chance.uniform(-5, 5),
        gain=chance.uniform(0.85, 1.1),
        shade=jitter((0.0, 0.0, 0.0), 2.0, chance),
        mark_ras=LEFT_MARKS[role.number - 1],
        mark_radius=11.0,
    )


def jitter(vector: Vector, size: float, chance: random.Random) -> Vector:
    """Move each part of a vector by up to `size`."""
    x, y, z = (part + chance.uniform(-size, size) for part in vector)
    return (x, y, z)


def t1_grid(size: Size, *, axial: bool) -> Grid:
    """Lay axial slices from the feet to the head, or sagittal ones from left to right."""
    between, within = size.t1_spacing
    return Grid(
        shape=size.t1_shape,
        spacing=(between, within, within),
        row_direction=(1.0, 0.0, 0.0) if axial else (0.0, 1.0, 0.0),
        column_direction=(0.0, 1.0, 0.0) if axial else (0.0, 0.0, -1.0),
        centre=(0.0, 0.0, 2.0),
    )


def oblique_grid(shape: tuple[int, int, int], spacing: tuple[float, float], degrees: float) -> Grid:
    """Lay axial slices, tilted about the left-right axis."""
    angle = np.radians(degrees)
    return Grid(
        shape=shape,
        spacing=(spacing[0], spacing[1], spacing[1]),
        row_direction=(1.0, 0.0, 0.0),
        column_direction=(0.0, float(np.cos(angle)), float(np.sin(angle))),
        centre=(0.0, 0.0, 2.0),
    )
