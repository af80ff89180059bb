"""What BIDS knows of magnetic resonance images: data types, suffixes, entities, and the sidecar fields it requires.

The tables are those of BIDS 1.11.1 (https://bids-specification.readthedocs.io, its schema), as far as they are about
images that a converter writes. Suffixes that BIDS has deprecated are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

BIDS_VERSION = "1.11.1"
"""The version of the specification that the tables here are taken from."""

ENTITIES = ("sub", "ses", "task", "acq", "ce", "rec", "dir", "run", "echo", "flip", "inv", "mt", "part", "chunk")
"""Entities in the order in which they stand in a name (rules.entities of the schema)."""

LONGEST_LABEL = 48
"""Characters a label may have; a limit of ours, so that names stay below what file systems take."""


# -- names -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class NameShape:
    """Which entities a name has to have, and which it may have; `required` are among the `allowed`."""

    required: frozenset[str]
    allowed: frozenset[str]


def _shape(allowed: str = "", required: str = "") -> NameShape:
    """Make a shape; sub, ses, acq and run may stand in every name."""
    needed = frozenset(required.split())
    return NameShape(required=needed, allowed=frozenset(("sub", "ses", "acq", "run", *allowed.split(), *needed)))


PARAMETRIC_MAPS = (
    *("T1map", "T2map", "T2starmap", "R1map", "R2map", "R2starmap", "PDmap", "MTRmap", "MTsat", "UNIT1", "T1rho"),
    *("MWFmap", "MTVmap", "Chimap", "S0map", "M0map"),
)
DIFFUSION_MAPS = ("ADC", "FA", "S0map", "colFA", "expADC", "trace")
GRADIENT_ECHO_FIELDMAPS = ("phasediff", "phase1", "phase2", "magnitude1", "magnitude2", "magnitude", "fieldmap")

KNOWN_NAMES: dict[str, dict[str, NameShape]] = {
    "anat": {
        **dict.fromkeys(
            ("T1w", "T2w", "PDw", "T2starw", "FLAIR", "inplaneT1", "inplaneT2", "PDT2", "angio"),
            _shape("task ce rec echo part chunk"),
        ),
        **dict.fromkeys(PARAMETRIC_MAPS, _shape("task ce rec chunk")),
        "MEGRE": _shape("task ce rec part chunk", required="echo"),
        "MESE": _shape("task ce rec dir part chunk", required="echo"),
        "VFA": _shape("task ce rec echo part chunk", required="flip"),
        "IRT1": _shape("task ce rec part chunk", required="inv"),
        "MP2RAGE": _shape("task ce rec echo flip part chunk", required="inv"),
        **dict.fromkeys(("MPM", "MTS"), _shape("task ce rec echo part chunk", required="flip mt")),
        "MTR": _shape("task ce rec part chunk", required="mt"),
    },
    "func": dict.fromkeys(("bold", "cbv", "sbref"), _shape("ce rec dir echo part chunk", required="task")),
    "dwi": {
        **dict.fromkeys(("dwi", "sbref"), _shape("rec dir part chunk")),
        **dict.fromkeys(DIFFUSION_MAPS, _shape("rec dir chunk")),
    },
    "fmap": {
        **dict.fromkeys(GRADIENT_ECHO_FIELDMAPS, _shape("chunk")),
        **dict.fromkeys(("epi", "m0scan"), _shape("ce rec dir part chunk")),
        "TB1DAM": _shape("ce rec inv part chunk", required="flip"),
        "TB1EPI": _shape("ce rec inv part chunk", required="echo flip"),
        "TB1SRGE": _shape("ce rec echo part chunk", required="flip inv"),
        **dict.fromkeys(("TB1AFI", "TB1TFL", "TB1RFM", "RB1COR"), _shape("ce rec echo flip inv part chunk")),
        **dict.fromkeys(("TB1map", "RB1map"), _shape("ce rec chunk")),
    },
    "perf": dict.fromkeys(("asl", "m0scan"), _shape("rec dir echo part")),
}
"""Data type to suffix to entities (rules.files.raw of the schema)."""

COMPUTED_SUFFIXES = frozenset((*PARAMETRIC_MAPS, *DIFFUSION_MAPS, "phasediff", "fieldmap", "TB1map", "RB1map"))
"""Suffixes of what scanners compute from images: such images may be DERIVED."""

SINGLE_VOLUME_SUFFIXES = frozenset(("T1w", "magnitude1", "magnitude2"))
"""Suffixes of images that may have no fourth axis (rules.checks of the schema)."""

INDEX_FIELDS = {"echo": "EchoTime", "flip": "FlipAngle", "inv": "InversionTime", "mt": "MTState"}
"""Entities that count, or tell, the values of a sidecar field, which BIDS then requires."""

_COUNTED = frozenset(("run", "echo", "flip", "inv", "chunk"))
_CHOICES = {"part": ("mag", "phase", "real", "imag"), "mt": ("on", "off")}


def is_label(entity: str, label: str) -> bool:
    """Tell whether an entity may have a label (objects.entities of the schema)."""
    if entity in _CHOICES:
        return label in _CHOICES[entity]
    if entity in _COUNTED:
        return re.fullmatch(r"[0-9]{1,6}", label) is not None
    return len(label) <= LONGEST_LABEL and re.fullmatch(r"[A-Za-z0-9+]+", label) is not None


def naming_fault(bids: str) -> str:
    """Say in a sentence why no image can be called `bids`, such as `func/task-rest_bold`; empty if one can."""
    datatype, _, rest = bids.partition("/")
    *pieces, suffix = rest.split("_")
    if datatype not in KNOWN_NAMES:
        return f"BIDS knows no data type {datatype!r} of magnetic resonance images; it knows {', '.join(KNOWN_NAMES)}."
    if suffix not in KNOWN_NAMES[datatype]:
        return f"BIDS knows no suffix {suffix!r} in {datatype}; it knows {', '.join(KNOWN_NAMES[datatype])}."
    seen = set()
    for piece in pieces:
        entity, _, label = piece.partition("-")
        if entity in ("sub", "ses"):
            return "Subject and session are those of the export, and stand in no rule."
        if entity not in KNOWN_NAMES[datatype][suffix].allowed:
            return f"BIDS knows no entity {entity!r} of {datatype}/{suffix}."
        if entity in seen:
            return f"The entity {entity!r} stands there twice."
        if not is_label(entity, label):
            return f"The entity {entity!r} cannot have the label {label!r}."
        seen.add(entity)
    return ""


# -- sidecars ----------------------------------------------------------------------------------------------------------

_LARGEST = 1e300


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST < value < _LARGEST


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_not_negative(value: Any) -> bool:
    return _is_number(value) and value >= 0


def _is_angle(value: Any) -> bool:
    return _is_number(value) and 0 < value <= 360


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool)


def _one_of(*choices: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in choices


def _list_of(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and bool(value) and all(map(check, value))


def _one_or_list_of(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    several = _list_of(check)
    return lambda value: check(value) or several(value)


_CHECKS: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (
        _is_positive,
        (
            "AcquisitionDuration EchoTime1 EchoTime2 EffectiveEchoSpacing InversionTime RepetitionTime SliceThickness "
            "TotalAcquiredPairs"
        ),
    ),
    (
        _is_number,
        (
            "DelayTime DwellTime MagneticFieldStrength MixingTime MTOffsetFrequency MultibandAccelerationFactor "
            "ParallelReductionFactorInPlane ParallelReductionFactorOutOfPlane PartialFourier"
        ),
    ),
    (
        _is_text,
        (
            "BodyPart BolusCutOffTechnique CoilCombinationMethod DeviceSerialNumber InstitutionAddress InstitutionName "
            "InstitutionalDepartmentName Manufacturer ManufacturersModelName MatrixCoilMode PartialFourierDirection "
            "ParallelAcquisitionTechnique PulseSequenceDetails PulseSequenceType ReceiveCoilActiveElements "
            "ReceiveCoilName SequenceName SoftwareVersions StationName TaskDescription TaskName Units"
        ),
    ),
    (_is_truth, "BackgroundSuppression BolusCutOffFlag MTState NonlinearGradientCorrection SpoilingState"),
    (_one_or_list_of(_is_text), "ScanOptions ScanningSequence SequenceVariant"),
    # dcm2niix takes one maker's value for seconds where it is none; BIDS warns of more than ten.
    (lambda value: _is_positive(value) and value <= 10, "TotalReadoutTime"),
    (_is_not_negative, "RepetitionTimeExcitation"),
    (_one_or_list_of(_is_number), "NumberShots"),
    (_one_or_list_of(_is_positive), "EchoTime"),
    (_one_or_list_of(_is_angle), "FlipAngle"),
    (
        _one_or_list_of(_is_not_negative),
        "BolusCutOffDelayTime LabelingDuration PostLabelingDelay RepetitionTimePreparation",
    ),
    (_list_of(_is_not_negative), "SliceTiming"),
    (lambda value: _list_of(_is_number)(value) and len(value) == 3, "TablePosition"),
    (_one_of("1D", "2D", "3D"), "MRAcquisitionType"),
    (_one_of("i", "i-", "j", "j-", "k", "k-"), "PhaseEncodingDirection SliceEncodingDirection"),
    (_one_of("RF", "GRADIENT", "COMBINED"), "SpoilingType"),
    (_one_of("CASL", "PCASL", "PASL"), "ArterialSpinLabelingType"),
    (_one_of("Separate", "Included", "Estimate", "Absent"), "M0Type"),
)
_FIELD_CHECKS = {name: check for check, names in _CHECKS for name in names.split()}
"""Fields of BIDS that a converter may write, with what their values must be (objects.metadata of the schema)."""


def accepted_fields(sidecar: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a sidecar without those whose values BIDS rejects; fields it does not know stay."""
    fields = {name: value for name, value in sidecar.items() if name not in _FIELD_CHECKS or _FIELD_CHECKS[name](value)}
    if "SliceTiming" in fields and max(fields["SliceTiming"]) > fields.get("RepetitionTime", _LARGEST):
        del fields["SliceTiming"]
    if fields.get("EffectiveEchoSpacing", 0) >= fields.get("TotalReadoutTime", _LARGEST):
        # One of the two is wrong, and nothing tells which.
        del fields["EffectiveEchoSpacing"], fields["TotalReadoutTime"]
    return fields


_EXCITED = ("FlipAngle", "RepetitionTimeExcitation")
_PREPARED = (*_EXCITED, "InversionTime", "NumberShots", "RepetitionTimePreparation")
_REQUIRED_FIELDS: dict[tuple[str, str], tuple[str, ...]] = {
    ("anat", "VFA"): (*_EXCITED, "PulseSequenceType"),
    ("anat", "MTS"): _EXCITED,
    ("anat", "MPM"): _EXCITED,
    ("anat", "MP2RAGE"): (*_PREPARED, "MagneticFieldStrength"),
    ("fmap", "TB1AFI"): ("RepetitionTimeExcitation",),
    ("fmap", "TB1SRGE"): _PREPARED,
    ("func", "bold"): ("RepetitionTime",),
    ("fmap", "phasediff"): ("EchoTime1", "EchoTime2"),
    ("fmap", "phase1"): ("EchoTime",),
    ("fmap", "phase2"): ("EchoTime",),
    ("fmap", "fieldmap"): ("Units",),
    ("fmap", "epi"): ("PhaseEncodingDirection",),
    ("fmap", "TB1EPI"): ("EchoTime", "FlipAngle", "MixingTime", "TotalReadoutTime"),
    ("perf", "asl"): (
        *("ArterialSpinLabelingType", "BackgroundSuppression", "EchoTime", "M0Type", "MagneticFieldStrength"),
        *("MRAcquisitionType", "PostLabelingDelay", "RepetitionTimePreparation", "TotalAcquiredPairs"),
    ),
    ("perf", "m0scan"): ("EchoTime", "IntendedFor", "RepetitionTimePreparation"),
}


def missing_fields(datatype: str, suffix: str, entities: Mapping[str, str], sidecar: Mapping[str, Any]) -> list[str]:
    """List the fields that BIDS requires of such an image and that its sidecar lacks (rules.sidecars of the schema).

    TaskName of functional images and Units of phase images are not among them: the name tells these.
    """
    required = list(_REQUIRED_FIELDS.get((datatype, suffix), ()))
    required += [name for entity, name in INDEX_FIELDS.items() if entity in entities]
    if suffix == "epi" and "EffectiveEchoSpacing" not in sidecar:
        required.append("TotalReadoutTime")
    if suffix == "asl":
        pulsed = sidecar.get("ArterialSpinLabelingType") == "PASL"
        required.append("BolusCutOffFlag" if pulsed else "LabelingDuration")
        if pulsed and sidecar.get("BolusCutOffFlag"):
            required += ["BolusCutOffDelayTime", "BolusCutOffTechnique"]
        if sidecar.get("M0Type") == "Estimate":
            required.append("M0Estimate")
        if sidecar.get("MRAcquisitionType") == "2D":
            required.append("SliceTiming")
    return sorted({name for name in required if name not in sidecar})
