"""The sub-group of a file names what it is of its series: on real scanners' values, and stable on any other."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.index.row import SharedHeader
from tasks.index.subgroup import OBLIQUE_ANGLE, name_orientation, subgroup_of, tell_apart
from tests.dicom.oracle import data_files, sampled

AXIAL = "1\\0\\0\\0\\1\\0"
CORONAL = "1\\0\\0\\0\\0\\-1"
SAGITTAL = "0\\1\\0\\0\\0\\-1"


def header(**values: str) -> SharedHeader:
    return SharedHeader(**({field.name: "" for field in fields(SharedHeader)} | {"modality": "MR"} | values))


ON_REAL_FILES = {
    ("CT", "DERIVED\\PRIMARY\\AXIAL", ""): {"derived axial"},
    ("CT", "DERIVED\\PRIMARY\\PERFUSION\\RCBF", ""): {"derived rcbf"},
    ("CT", "ORIGINAL\\PRIMARY\\AXIAL", ""): {"axial"},
    ("CT", "ORIGINAL\\PRIMARY\\AXIAL\\CT_SOM5 SPI", ""): {"axial"},
    ("MR", "DERIVED\\PRIMARY\\OTHER\\M\\SE", "1"): {"echo-1 magnitude oblique"},
    ("MR", "DERIVED\\SECONDARY\\MPR\\CSA MPR\\\\CSAPARALLEL\\M\\ND\\NORM", "0"): {
        "te-2.81 magnitude derived mpr axial"
    },
    ("MR", "ORIGINAL\\PRIMARY\\EPI\\NONE", "1"): {"echo-1 axial"},
    ("MR", "ORIGINAL\\PRIMARY\\M\\MB\\ND\\MOSAIC", "1"): {"echo-1 magnitude axial"},
    ("MR", "ORIGINAL\\PRIMARY\\M\\ND\\ECHO_00\\MOSAIC", "1"): {"echo-1 magnitude axial"},
    ("MR", "ORIGINAL\\PRIMARY\\M\\ND\\MOSAIC", "0"): {"te-30.00 magnitude axial"},
    ("MR", "ORIGINAL\\PRIMARY\\M\\ND\\MOSAIC", "1"): {"echo-1 magnitude axial"},
    ("MR", "ORIGINAL\\PRIMARY\\M\\NONE", ""): {"magnitude"},
    ("MR", "ORIGINAL\\PRIMARY\\M\\UCA\\IF", ""): {"te-3.10 magnitude sagittal"},
    ("MR", "ORIGINAL\\PRIMARY\\M\\VFRAME", ""): {"te-70.70 magnitude axial"},
    ("MR", "ORIGINAL\\PRIMARY\\M_FFE\\M\\FFE", "1"): {"echo-1 magnitude axial"},
    ("MR", "ORIGINAL\\PRIMARY\\M_SE\\M\\SE", "1"): {"echo-1 magnitude axial"},
    ("MR", "ORIGINAL\\PRIMARY\\OTHER", "1"): {"echo-1 axial"},
    ("MR", "ORIGINAL\\PRIMARY\\OTHER\\M\\SE", "1"): {"echo-1 magnitude oblique"},
    ("MR", "ORIGINAL\\PRIMARY\\T1\\MIXED", ""): {""},
    ("MR", "ORIGINAL\\PRIMARY\\T1\\NONE", ""): {""},
    ("US", "DERIVED\\PRIMARY\\SMALL PARTS", ""): {"derived"},
    ("US", "ORIGINAL\\PRIMARY\\SMALL PARTS", ""): {""},
}
"""Modality, image type and echo numbers of the shared real files, and the sub-groups they give."""


def _text(dataset: pydicom.Dataset, keyword: str) -> str:
    if keyword not in dataset or dataset[keyword].is_empty:
        return ""
    value = dataset[keyword].value
    return str(value) if dataset[keyword].VM == 1 else "\\".join(map(str, value))


@pytest.mark.filterwarnings("ignore::UserWarning")  # some of the real files break rules, and pydicom says so
def test_real_files(scanner_data: Path) -> None:
    """Every image type of CT, MR and ultrasound among the shared files means what is listed here."""
    keywords = ["Modality", "ImageType", "EchoNumbers", "EchoTime", "ImageOrientationPatient"]
    found: dict[tuple[str, str, str], set[str]] = {}
    for path in sampled(data_files(scanner_data)):
        try:
            dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=keywords)
        except pydicom.errors.InvalidDicomError:
            continue
        shared = header(
            modality=_text(dataset, "Modality"),
            image_type=_text(dataset, "ImageType"),
            echo_numbers=_text(dataset, "EchoNumbers"),
            echo_time=_text(dataset, "EchoTime"),
            image_orientation_patient=_text(dataset, "ImageOrientationPatient"),
        )
        key = shared.modality, "\\".join(map(str.strip, shared.image_type.split("\\"))), shared.echo_numbers
        found.setdefault(key, set()).add(subgroup_of(shared))
    assert {key: found.get(key) for key in ON_REAL_FILES} == ON_REAL_FILES
    maps = ("mpr", "rcbf")
    assert not [
        key for key, names in found.items() if key not in ON_REAL_FILES and any(m in "".join(names) for m in maps)
    ]


@pytest.mark.parametrize(
    ("image_type", "expected"),
    [
        ("ORIGINAL\\PRIMARY\\M\\ND", "magnitude"),
        ("ORIGINAL\\PRIMARY\\P\\ND", "phase"),
        ("ORIGINAL\\PRIMARY\\R\\ND", "real"),
        ("ORIGINAL\\PRIMARY\\I\\ND", "imaginary"),
        ("ORIGINAL\\PRIMARY\\PHASE MAP\\P\\FFE", "phase"),
        ("ORIGINAL\\PRIMARY\\R_IR\\R\\IR", "real"),
        ("ORIGINAL\\PRIMARY\\I_FFE\\I\\FFE", "imaginary"),
        ("ORIGINAL\\PRIMARY\\VELOCITY MAP\\P\\PCA", "velocity"),
        ("ORIGINAL\\PRIMARY\\T1\\NONE\\MAGNITUDE", "magnitude"),
        ("ORIGINAL\\PRIMARY\\B0 MAP\\B0\\UNSPECIFIED", "derived b0-map"),
        ("DERIVED\\PRIMARY\\DIFFUSION\\ADC\\ND\\NORM", "derived adc"),
        ("DERIVED\\PRIMARY\\DIFFUSION\\TRACEW\\ND", "derived trace"),
        ("DERIVED\\PRIMARY\\DIFFUSION\\FA\\ND", "derived fa"),
        ("DERIVED\\PRIMARY\\DIFFUSION\\COLFA\\ND", "derived color-fa"),
        ("DERIVED\\PRIMARY\\M\\ND\\MOCO\\MOSAIC", "magnitude derived moco"),
        ("DERIVED\\SECONDARY\\MNIP\\SWI\\ND", "derived minip swi"),
        ("DERIVED\\PRIMARY\\M\\ND\\UNI", "magnitude uniform"),
        ("DERIVED\\PRIMARY\\M\\ND\\NORM\\WATER", "magnitude water"),
        ("DERIVED\\SECONDARY\\PROJECTION IMAGE\\COLLAPSE", "derived projection"),
        ("DERIVED\\SECONDARY\\SUBTRACTION", "derived subtraction"),
        ("DERIVED\\SECONDARY\\REFORMATTED\\AVERAGE", "derived mpr"),
        ("DERIVED\\SECONDARY\\M", "magnitude derived"),
        ("DERIVED\\PRIMARY\\M\\FFE", "magnitude"),
        ("derived \\ primary \\ adc ", "derived adc"),
        ("DERIVED", "derived"),
        ("ORIGINAL\\PRIMARY", ""),
        ("ADC", ""),
        ("", ""),
    ],
)
def test_image_type(image_type: str, expected: str) -> None:
    """Components, contrasts and maps as the vendors write them."""
    assert subgroup_of(header(image_type=image_type)) == expected


def test_single_letters_mean_a_component_in_mr_only() -> None:
    assert subgroup_of(header(modality="US", image_type="ORIGINAL\\PRIMARY\\M\\P")) == ""


@pytest.mark.parametrize(
    ("numbers", "time", "expected"),
    [
        ("1", "4.92", "echo-1"),
        ("2", "7.38", "echo-2"),
        ("02", "7.38", "echo-2"),
        ("1\\2", "", "echo-1-2"),
        ("0", "4.92", "te-4.92"),
        ("", "7.3800001", "te-7.38"),
        ("x", "", ""),
        ("", "0", ""),
        ("", "nan", ""),
        ("", "inf", ""),
    ],
)
def test_echo(numbers: str, time: str, expected: str) -> None:
    assert subgroup_of(header(echo_numbers=numbers, echo_time=time)) == expected


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (AXIAL, "axial"),
        ("-1\\0\\0\\0\\-1\\0", "axial"),
        ("0\\1\\0\\1\\0\\0", "axial"),
        (CORONAL, "coronal"),
        (SAGITTAL, "sagittal"),
        ("1\\0\\0\\0\\0.7071\\0.7071", "oblique"),
        ("", ""),
        ("1\\0\\0", ""),
        ("1\\0\\0\\1\\0\\0", ""),
        ("0\\0\\0\\0\\0\\0", ""),
        ("nan\\0\\0\\0\\1\\0", ""),
        ("1e300\\0\\0\\0\\1e300\\0", ""),
        ("a\\b\\c\\d\\e\\f", ""),
    ],
)
def test_orientation(orientation: str, expected: str) -> None:
    assert name_orientation(orientation) == expected


@given(st.floats(0, 45))
def test_a_slice_is_oblique_from_the_named_angle(degrees: float) -> None:
    """Tilting an axial slice towards coronal keeps its name up to the tolerance."""
    tilt = math.radians(degrees)
    name = name_orientation(f"1\\0\\0\\0\\{math.cos(tilt):.9f}\\{math.sin(tilt):.9f}")
    if abs(degrees - OBLIQUE_ANGLE) > 1e-3:
        assert name == ("axial" if degrees < OBLIQUE_ANGLE else "oblique")


WORDS = ("ORIGINAL", "DERIVED", "PRIMARY", "SECONDARY", "M", "P", "M_FFE", "ADC", "SWI", "W", "LOCALIZER", "OTHER", "")

subgroups = st.builds(
    lambda image_type, echo, orientation: subgroup_of(
        header(image_type="\\".join(image_type), echo_numbers=echo, image_orientation_patient=orientation)
    ),
    st.lists(st.sampled_from(WORDS), max_size=6),
    st.sampled_from(("", "1", "2", "1\\2")),
    st.sampled_from((AXIAL, CORONAL, SAGITTAL, "")),
)


@given(st.sets(subgroups, max_size=6))
def test_short_names_tell_the_same_apart(names: set[str]) -> None:
    """Leaving out what all share never makes two sub-groups one, and never brings in a word."""
    short = tell_apart(names)
    assert set(short) == names
    assert len(set(short.values())) == len(names)
    assert all(set(name.split()) <= set(full.split()) for full, name in short.items())
    if len(names) == 1:
        assert list(short.values()) == [""]


def test_short_names_of_a_localizer_and_of_a_field_map() -> None:
    planes = {f"echo-1 magnitude {plane}" for plane in ("axial", "coronal", "sagittal")}
    assert set(tell_apart(planes).values()) == {"axial", "coronal", "sagittal"}
    echoes = {"echo-1 magnitude axial", "echo-2 magnitude axial"}
    assert set(tell_apart(echoes).values()) == {"echo-1", "echo-2"}


@given(st.text(), st.text(), st.text(), st.text())
def test_any_header_has_a_subgroup(image_type: str, echo_numbers: str, echo_time: str, orientation: str) -> None:
    """A name is made of our own words and of numbers, never of a header's text."""
    shared = header(
        image_type=image_type,
        echo_numbers=echo_numbers,
        echo_time=echo_time,
        image_orientation_patient=orientation,
    )
    name = subgroup_of(shared)
    assert name == " ".join(name.split())
    assert name.isascii()
