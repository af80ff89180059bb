"""Name the sub-group of a series that a file belongs to: echo, component, derived map, orientation.

Scanners put several kinds of image into one series: the echoes of a field map, magnitude and phase, the three
orientations of a localizer, a map beside the images it was computed from. Nothing is moved for it; the index only says
which file is of which kind.

Source: PS3.3 sections C.7.6.1.1.2 and C.8.3.1.1.1 (Image Type), C.8.13.3.1.1 (complex image component), C.7.6.2.1.1
(image orientation), and what Siemens, GE, Philips, UIH and Canon write into (0008,0008) beyond the standard.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from tasks.index.row import SharedHeader

OBLIQUE_ANGLE = 30.0
"""Degrees between the slice normal and the nearest axis of the patient from which a slice is called oblique.

Planning along the anatomy tilts brain slices by up to about 25 degrees and nobody calls them oblique for it.
"""

_COMPONENTS = {
    "M": "magnitude",
    "MAG": "magnitude",
    "MAGNITUDE": "magnitude",
    "P": "phase",
    "PHASE": "phase",
    "PHASE MAP": "phase",
    "PHASE_MAP": "phase",
    "VELOCITY": "velocity",
    "VELOCITY MAP": "velocity",
    "R": "real",
    "REAL": "real",
    "I": "imaginary",
    "IMAGINARY": "imaginary",
}

_CONTRASTS = {
    "W": "water",
    "WATER": "water",
    "F": "fat",
    "FAT": "fat",
    "IP": "in-phase",
    "IN_PHASE": "in-phase",
    "OP": "opposed-phase",
    "OPP_PHASE": "opposed-phase",
    "OUT_PHASE": "opposed-phase",
    "INV1": "inversion-1",
    "INV2": "inversion-2",
    "UNI": "uniform",
}
"""What one acquisition is reconstructed into and that is no map: the Dixon images and those of MP2RAGE."""

_MAPS = {
    "ADC": "adc",
    "EADC": "exponential",
    "EXP": "exponential",
    "FA": "fa",
    "COLFA": "color-fa",
    "TENSOR": "tensor",
    "TRACE": "trace",
    "TRACEW": "trace",
    "FF": "fat-fraction",
    "MPR": "mpr",
    "CSA MPR": "mpr",
    "REFORMATTED": "mpr",
    "PROJECTION IMAGE": "projection",
    "MIP": "mip",
    "MINIP": "minip",
    "MNIP": "minip",
    "MOCO": "moco",
    "SUB": "subtraction",
    "SUBTRACTION": "subtraction",
    "SWI": "swi",
    "MEAN": "mean",
    "STD_DEVIATION": "deviation",
    "CBF": "cbf",
    "RCBF": "rcbf",
    "RELCBF": "rcbf",
    "CBV": "cbv",
    "RCBV": "rcbv",
    "RELCBV": "rcbv",
    "MTT": "mtt",
    "RELMTT": "rmtt",
    "TTP": "ttp",
    "PBP": "pbp",
    "T-MAP": "t-map",
    "B0 MAP": "b0-map",
    "FIELD MAP": "b0-map",
    "T1 MAP": "t1-map",
    "T2 MAP": "t2-map",
    "T2_STAR MAP": "t2star-map",
    "R2 MAP": "r2-map",
    "R2_STAR MAP": "r2star-map",
}

_LEAST_COSINE = math.cos(math.radians(OBLIQUE_ANGLE))
_AXES = ("sagittal", "coronal", "axial")


def subgroup_of(shared: SharedHeader) -> str:
    r"""Name the sub-group of a file, such as "echo-2 phase axial" or "magnitude derived adc sagittal".

    The name is made of words, each of which stands for one property, always in this order: echo, component, contrast,
    "derived" with the maps, localizer, orientation. It names what is known, whether or not the rest of the series
    differs in it; `tell_apart` leaves the words that do. What tells nothing is left out, so it may be empty.

    Where Image Type says DERIVED and names no map, the word "derived" is used for SECONDARY images and for those of
    which nothing else is known: ``DERIVED\PRIMARY`` with a component is what filters on the scanner leave behind.
    """
    values = [value.strip().upper() for value in shared.image_type.split("\\")]
    special = values[2:]
    words = [_name_echo(shared)]
    component = contrast = ""
    if shared.modality.strip().upper() == "MR":  # elsewhere single letters have other meanings
        component = next(filter(None, map(_name_component, special)), "")
        contrast = next((_CONTRASTS[value] for value in special if value in _CONTRASTS), "")
        words += [component, contrast]
    maps = list(dict.fromkeys(_MAPS[value] for value in special if value in _MAPS))
    if maps:
        words += ["derived", *maps]
    elif values[0] == "DERIVED" and (values[1:2] == ["SECONDARY"] or not (component or contrast)):
        words.append("derived")
    if "LOCALIZER" in special:
        words.append("localizer")
    words.append(name_orientation(shared.image_orientation_patient))
    return " ".join(filter(None, words))


def tell_apart(subgroups: Iterable[str]) -> dict[str, str]:
    """Shorten the sub-groups of one series to the words that not all of them share.

    Returns
    -------
    dict
        Sub-group to its short name; no two short names are equal, one of them may be empty, and the only sub-group of
        a series always is.
    """
    words = {subgroup: subgroup.split() for subgroup in subgroups}
    common = set.intersection(*map(set, words.values())) if words else set()
    return {subgroup: " ".join(word for word in parts if word not in common) for subgroup, parts in words.items()}


def name_orientation(image_orientation_patient: str) -> str:
    """Name the plane of a slice from (0020,0037): "axial", "coronal", "sagittal" or "oblique"; empty if it says none.

    The plane is that of the patient's axis (LPS) nearest to the slice normal, unless that is `OBLIQUE_ANGLE` away.
    """
    normal = slice_normal(image_orientation_patient)
    if normal is None:
        return ""
    sizes = [abs(value) for value in normal]
    largest = max(sizes)
    return _AXES[sizes.index(largest)] if largest >= _LEAST_COSINE else "oblique"


def slice_normal(image_orientation_patient: str) -> tuple[float, float, float] | None:
    """Compute the unit normal of a slice in LPS from (0020,0037); None if the text is not six usable cosines."""
    try:
        a, b, c, d, e, f = map(float, image_orientation_patient.split("\\"))
    except ValueError:
        return None
    x, y, z = b * f - c * e, c * d - a * f, a * e - b * d
    length = math.hypot(x, y, z)
    if not 0.5 < length < 2:  # also false for what is not a number; true cosines give 1
        return None
    return x / length, y / length, z / length


def _name_echo(shared: SharedHeader) -> str:
    """Name the echo by (0018,0086), or by its time in milliseconds where the number says nothing.

    UIH writes no number, and old Siemens software writes 0 for every echo.
    """
    numbers = [number.strip() for number in shared.echo_numbers.split("\\")]
    known = [str(int(number)) for number in numbers if number.isascii() and number.isdigit() and len(number) < 13]
    if any(number != "0" for number in known):
        return "echo-" + "-".join(known)
    try:
        milliseconds = float(shared.echo_time)
    except ValueError:
        return ""
    return f"te-{milliseconds:.2f}" if 0 < milliseconds < 100_000 else ""


def _name_component(value: str) -> str:
    name = _COMPONENTS.get(value, "")
    if not name and value[1:2] == "_":  # Philips: M_FFE, M_SE, R_IR and their like
        name = _COMPONENTS.get(value[0], "")
    return name
