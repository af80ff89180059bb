"""What is released of a converter's sidecar: the fields named here, and nothing else.

The export that is converted is de-identified, yet a sidecar is a second way out: a converter gathers what it finds in
private elements as well, and a later version may gather more. So a field is released because it is listed; whatever
tells a moment, a person, a place or one single machine is not.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

_FIELDS_BY_REASON = {
    "The scanner and its coils, as any of their kind.": (
        "Modality Manufacturer ManufacturersModelName MagneticFieldStrength ImagingFrequency SoftwareVersions "
        "ReceiveCoilName ReceiveCoilActiveElements CoilString TransmitCoilName MatrixCoilMode CoilCombinationMethod "
        "NonlinearGradientCorrection ShimSetting TxRefAmp ResonantNucleus SpectrometerFrequency SpectralWidth"
    ),
    "What the series is called, and what it is.": (
        "SeriesNumber SeriesDescription ProtocolName ImageType ImageTypeText RawImage BidsGuess AcquisitionNumber "
        "BodyPart Units"
    ),
    "The sequence and its contrast.": (
        "ScanningSequence SequenceVariant ScanOptions SequenceName PulseSequenceName PulseSequenceType "
        "InternalPulseSequenceName MRAcquisitionType MRSpectroscopyAcquisitionType EchoNumber EchoTime EchoTime1 "
        "EchoTime2 InversionTime FlipAngle VariableFlipAngleFlag RepetitionTime RepetitionTimeExcitation "
        "RepetitionTimeInversion RepetitionTimePreparation MTState SpoilingState SpoilingType WaterSuppressed "
        "NumberOfAverages AveragesDouble NumberOfExcitations NumberOfTransients NumberOfSpectralPoints MultiEchoShots "
        "CompressedSensingFactor DeepLearning DeepLearningDetails"
    ),
    "When slices and volumes were taken, from the series' own beginning.": (
        "SliceTiming AcquisitionDuration DelayTime TriggerDelayTime FrameDuration FrameTimesStart FrameReferenceTime "
        "ScanStart MultibandAccelerationFactor"
    ),
    "How the planes lie, and how they were sampled.": (
        "PatientPosition Quadruped ImageOrientationPatientDICOM ImageOrientationText SliceThickness "
        "SpacingBetweenSlices AcquisitionVoxelSize VOI TablePosition BaseResolution ReconMatrixPE AcquisitionMatrixPE "
        "PercentPhaseFOV PercentSampling PhaseResolution PhaseOversampling Interpolation2D Interpolation3D "
        "FrequencyEncodingSteps NumberOfKSpaceTrajectories NumberOfArms NumberOfPointsPerArm PixelBandwidth DwellTime"
    ),
    "How phase was encoded, by which distortion is corrected.": (
        "PhaseEncodingDirection PhaseEncodingAxis PhaseEncodingDirectionDisplayed PhaseEncodingPolarityGE "
        "InPlanePhaseEncodingDirectionDICOM PhaseEncodingSteps PhaseEncodingStepsNoPartialFourier "
        "PhaseEncodingStepsOutOfPlane EchoTrainLength EffectiveEchoSpacing EstimatedEffectiveEchoSpacing "
        "DerivedVendorReportedEchoSpacing VendorReportedEchoSpacing TotalReadoutTime EstimatedTotalReadoutTime "
        "BandwidthPerPixelPhaseEncode WaterFatShift PartialFourier PartialFourierDirection PartialFourierEnabled "
        "ParallelAcquisitionTechnique ParallelReductionFactorInPlane ParallelReductionFactorOutOfPlane RefLinesPE"
    ),
    "Diffusion.": (
        "DiffusionScheme DiffGradientCyclingGE NumberOfDiffusionDirectionGE NumberOfDiffusionT2GE TensorFileNumberGE "
        "PhiAdjust"
    ),
    "Perfusion by spin labelling.": (
        "ArterialSpinLabelingType PASLType M0Type BolusDuration InitialPostLabelDelay PostLabelingDelay "
        "PostInversionDelay LabelingDistance LabelingDuration LabelingPulseAverageGradient LabelingPulseDuration "
        "LabelingPulseFlipAngle LabelingPulseMaximumGradient MaximumT1Opt MeanGzx10 NumRFBlocks RFGap T1 Tag0 Tag1 "
        "Tag2 Tag3 TagDuration TagPlaneDThickness TagPlaneSNormalDTra TagPlaneSPositionDTra TagPlaneUlShape "
        "TagRFDuration TagRFFlipAngle TagRFSeparation"
    ),
    "Emission tomography.": (
        "AttenuationCorrection AttenuationCorrectionMethod DecayCorrection DecayCorrectionFactor DecayFactor "
        "DoseCalibrationFactor Dosage ImageDecayCorrected ImageDecayCorrectionTime InjectedRadioactivity "
        "InjectedRadioactivityUnits InjectedVolume IsotopeHalfLife MolarActivity MolarActivityUnits "
        "RadionuclideHalfLife RadionuclidePositronFraction RandomsCorrectionMethod ScatterCorrectionMethod "
        "ScatterFraction TracerName TracerRadionuclide ReconFilterSize ReconFilterType ReconMethodName "
        "ReconMethodParameterLabels ReconMethodParameterValues ReconstructionMethod"
    ),
    "Computed tomography.": "ConvolutionKernel ExposureTime XRayExposure XRayTubeCurrent",
    "How stored values become measured ones.": (
        "PhilipsRWVIntercept PhilipsRWVSlope PhilipsRescaleIntercept PhilipsRescaleSlope PhilipsScaleSlope "
        "UsePhilipsFloatNotDisplayScaling"
    ),
    "What made the image.": "ConversionSoftware ConversionSoftwareVersion",
}

RELEASED_FIELDS: Mapping[str, str] = MappingProxyType(
    {field: reason for reason, fields in _FIELDS_BY_REASON.items() for field in fields.split()}
)
"""Every field that is released, with what it is good for; names as dcm2niix and BIDS 1.10 have them."""

_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|-?\b(?:nan|inf)(?:inity)?\b', re.IGNORECASE)
"""A whole string, so that nothing is looked for inside of it, or one of the numbers that JSON does not know."""


def released_sidecar(sidecar: Mapping[str, Any]) -> dict[str, Any]:
    """Return what may be released of a sidecar, in its order.

    A listed field is left out as well if its value is no plain one: JSON has no not-a-number, and what is nested in a
    field that never was could be anything.
    """
    return {field: value for field, value in sidecar.items() if field in RELEASED_FIELDS and _is_plain(value)}


def read_sidecar(path: Path) -> dict[str, Any]:
    """Read a sidecar as dcm2niix writes it: numbers as C prints them, nan and inf among them, which become None.

    Raises
    ------
    ValueError
        If it is cut off, or no JSON object. The text quotes nothing of it.
    """
    text = path.read_bytes().decode("utf-8", "replace")
    try:
        content = json.loads(_TOKENS.sub(_as_json, text), strict=False)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ValueError("the sidecar is no JSON object")  # noqa: TRY004 - it is what the file holds
    return content


def _as_json(token: re.Match[str]) -> str:
    return token[0] if token[0].startswith('"') else "null"


def _is_plain(value: Any) -> bool:
    """Tell whether a value is text, a finite number, a truth value, or a list (of lists) of such."""
    if isinstance(value, list):
        return bool(value) and all(map(_is_plain, value))
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str | int)
