"""Coded strings keep the standard's terms and the scanners' own; what somebody typed is masked at its place."""

from __future__ import annotations

import itertools
import string
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tasks.deidentify.rewrite import _are_terms
from tasks.deidentify.terms import LONGEST_TERM, is_term, is_word_of_terms, terms_digest
from tasks.dicom.elements import WalkError, walk
from tasks.dicom.normalise import open_data_set
from tasks.dicom.syntax import SyntaxRefusalError
from tests.deidentify.content import DESCRIPTORS, alarms, exported, in_form, picture, proved, read, written
from tests.deidentify.images import nested, text
from tests.dicom.oracle import data_files, sampled

CHARACTER_SET = 0x00080005
IMAGE_TYPE = 0x00080008
SCAN_OPTIONS, BODY_PART, VARIANT = 0x00180022, 0x00180015, 0x00180021

# ---- the standard's terms: PS3.3 sections C.7 and C.8 of the images that are exported, PS3.16 annex L

GENERAL = """
    ORIGINAL DERIVED PRIMARY SECONDARY MIXED MR CT PT NM M F O L R B HFS HFP FFS FFP HFDR HFDL FFDR FFDL BIPED QUADRUPED
    YES NO Y N 00 01 UNMODIFIED MODIFIED REMOVED MONOCHROME1 MONOCHROME2 RGB YBR_FULL YBR_FULL_422 YBR_PARTIAL_420
    YBR_ICT YBR_RCT ISO_10918_1 ISO_14495_1 ISO_15444_1 ISO_15444_15 ISO_13818_2 ISO_14496_10 ISO_23008_2 3D TILED_FULL
    TILED_SPARSE PRODUCT RESEARCH SERVICE COLOR MONOCHROME TRUE_COLOR LINEAR LINEAR_EXACT SIGMOID IDENTITY INVERSE
    ALTERED UNALTERED DCMR SDM UNKNOWN NONE OTHER PIXEL DISPLAY MATRIX POINT POLYLINE INTERPOLATED CIRCLE ELLIPSE
    ELLIPSOID POLYGON MULTIPOINT AUTOMATIC SEMIAUTOMATIC MANUAL VOLUME SAMPLED DISTORTED MAX_IP MIN_IP MEAN_IP
    VOLUME_RENDER SURFACE_RENDER MPR CURVED_MPR RESAMPLED ADDITION DIVISION MASKED MAXIMUM MEAN MEDIAN MINIMUM
    MULTIPLICATION STD_DEVIATION SUBTRACTION QUANTITY FILTERED TEXT NUM CODE DATETIME DATE TIME UIDREF PNAME COMPOSITE
    IMAGE WAVEFORM SCOORD SCOORD3D TCOORD CONTAINER SEPARATE CONTINUOUS CONTAINS VERIFIED PARTIAL COMPLETE
"""
MAGNETIC_RESONANCE = """
    SE IR GR EP RM SK MTC SS TRSS SP MP OSP PER RG CG PPG FC PFF PFP FS 2D SPIN GRADIENT BOTH FREE_PRECESSION TRANSVERSE
    TIME_REVERSED LONGITUDINAL FAT WATER FAT_AND_WATER SILICON_GEL SLAB GRID LINE 2D_3D RECTILINEAR RADIAL SPIRAL SINGLE
    FULL CENTRIC SEGMENTED REVERSE_LINEAR REVERSE_CENTRIC CYLINDRICAL ELLIPSOIDAL WEIGHTED PILS SENSE SMASH ACCELERATION
    VELOCITY PSEUDOCONTINUOUS PULSED DIRECTIONAL BMATRIX ISOTROPIC FRACTIONAL RELATIVE VOLUME_RATIO BODY SURFACE
    MULTICOIL EXTREMITY 1H 3HE 7LI 13C 19F 23NA 31P 129XE IEC FDA MHW IEC_NORMAL IEC_FIRST_LEVEL IEC_SECOND_LEVEL
    MAGNITUDE PHASE REAL IMAGINARY DIFFUSION FLOW_ENCODED FLUID_ATTENUATED PERFUSION PROTON_DENSITY STIR TAGGING T1 T2
    T2_STAR TOF ANGIO ANGIO_TIME CINE DIFFUSION_ANISO FLUOROSCOPY LOCALIZER MOTION MULTIECHO NON_PARALLEL PARALLEL
    POST_CONTRAST PRE_CONTRAST REALTIME REST SPECTROSCOPY STRESS WHOLE_BODY ADC TTP NEI PEI MTT RCBF RCBV COSINE
    COSINE_SQUARED GAUSSIAN HAMMING HANNING LORENTZIAN LRNTZ_GSS_TRNSFM RIESZ ROW COLUMN
"""
TOMOGRAPHY = """
    AXIAL CW CC ANGULAR SEQUENCED CONSTANT_ANGLE STATIONARY FREE FILTER_BACK_PROJ ITERATIVE BRAIN SOFT_TISSUE LUNG BONE
    ENERGY_PROP_WT STATIC DYNAMIC GATED REPROJECTION CNTS CM2 CM2ML PCNT CPS BQML MGMINML UMOLMINML MLMING MLG 1CM
    UMOLML PROPCNTS PROPCPS MLMINML MLML GML STDDEV BSA BW LBM LBMJAMES128 LBMJANMA IBW EMISSION TRANSMISSION SUM DLYD
    SING PROCESSED DECY RADL ATTN SCAT DTIM MOTN PMOT CLN RAN NORM DCAL BSUB START ADMIN RING WOBBLE CLAMSHELL DENS RDD
    MANU AUTO PARA FANB CONE PINH DIVG CVGB AP 1PS 2PS PCN MSP TOMO EPI RR RF TRANS ISOTOPE
"""
BODY_PARTS = """
    ABDOMEN ABDOMENPELVIS ADRENAL ANKLE AORTA AXILLA BACK BLADDER BRAIN BREAST BRONCHUS BUTTOCK CALCANEUS CALF CAROTID
    CEREBELLUM CHEST CHESTABDPELVIS CLAVICLE COCCYX COLON CORNEA CSPINE CTSPINE DUODENUM EAR ELBOW ESOPHAGUS EXTREMITY
    EYE EYELID FACE FEMUR FINGER FOOT FOREARM GALLBLADDER HAND HEAD HEADNECK HEART HIP HUMERUS IAC ILEUM ILIUM JAW
    JEJUNUM KIDNEY KNEE LARYNX LEG LIVER LSPINE LUNG MAXILLA MEDIASTINUM MOUTH NECK NECKCHESTABDOMEN NOSE ORBIT OVARY
    PANCREAS PAROTID PATELLA PELVIS PENIS PHARYNX PROSTATE RECTUM RIB SCALP SCAPULA SCLERA SCROTUM SELLA SHOULDER SKULL
    SPINE SPLEEN SSPINE STERNUM STOMACH TESTIS THIGH THORAX THUMB THYMUS THYROID TIBIA TLSPINE TMJ TOE TONGUE TRACHEA
    TSPINE URETER URETHRA UTERUS VAGINA VULVA WHOLEBODY WRIST ZYGOMA
"""
WITH_SPACES = [
    "FOR PRESENTATION",
    "FOR PROCESSING",
    "PALETTE COLOR",
    "WHOLE BODY",
    "GATED TOMO",
    "RECON TOMO",
    "RECON GATED TOMO",
    "STEP AND SHOOT",
    "HAS ACQ CONTEXT",
    "HAS CONCEPT MOD",
    "INFERRED FROM",
    "L INT JUG V",
    "CUL DE SAC",
]
SCANNERS = """
    MOSAIC ND NORM DIS2D DIS3D FM FIL MFSPLIT TENSOR FA TRACEW CSA CSAPARALLEL DIFFUSION P MIP SUB ASL T1_MAP
    T2_MAP B0_MAP FFE M_FFE PHASE_MAP R_SE ADC_UNSPECIFIED M_IR PCA PROPELLER EFGRE3D WATER_FAT MPR_THICK FLEX_MODE
    PFF_GEMS FAST_GEMS EDR_GEMS EPI_GEMS DIFF_GEMS ACC_GEMS PHASED CT_SOM5
"""
SCANNERS_WITH_SPACES = ["CT_SOM5 SPI", "CT_SOM5 SEQ", "B0 MAP"]

BURIED_IN_NAMES = ["FERMI", "TUKEY", "DIXON", "SMITH"]
"""Terms that are called by persons, the first three k-space filters and a technique: they are taken for names."""


@pytest.mark.parametrize(
    "terms",
    [
        *(names.split() for names in (GENERAL, MAGNETIC_RESONANCE, TOMOGRAPHY, BODY_PARTS)),
        WITH_SPACES,
        [*SCANNERS.split(), *SCANNERS_WITH_SPACES],
    ],
    ids=["general", "mr", "ct, pet and nm", "body parts", "with spaces", "scanners"],
)
def test_terms_of_the_standard_and_of_scanners_are_terms(terms: list[str]) -> None:
    assert len(terms) >= 10
    assert [term for term in terms if not is_term(term)] == []


@pytest.mark.parametrize("term", BURIED_IN_NAMES)
def test_a_term_that_is_a_persons_name_is_a_name(term: str) -> None:
    assert not is_term(term)


# ---- what somebody typed

PERSONS = ["SMITH", "MUELLER", "ZWIEBELHUBER", "JOHN SMITH", "MARY_ANN", "O'BRIEN", "HEAD OF MILLER", "CHEST-MEYER"]
PERSONS += ["Garcia^Ana", "KOWALSKI JAN", "WEST", "HILL", "YOUNG", "FRANK", "ROSE", "GRACE", "PARK", "NGUYEN"]
NUMBERS = ["X12345678", "4815162342", "MRN4711", "MRN 4711", "A1B2C3D4", "123-456", "48 15 16", "SN70001", "12345"]
NUMBERS += ["ACC0012345", "ACC 123 456", "HEAD 123 456", "BRAIN 4711", "555-12-34"]
DATES = ["20200229", "2020-02-29", "29.02.20", "02/29/20", "290220", "HEAD 29.02.20", "29FEB2020", "2020"]


@pytest.mark.parametrize("typed", PERSONS + NUMBERS + DATES)
def test_names_numbers_and_dates_are_no_terms(typed: str) -> None:
    assert not is_term(typed)


@given(st.dates())
def test_a_date_is_no_term_in_any_form(day) -> None:
    for form in ("%Y%m%d", "%Y-%m-%d", "%d.%m.%Y", "%d%m%y", "%d.%m.%y", "%m/%d/%y", "%y-%m-%d", "HEAD %d %m %y"):
        assert not is_term(day.strftime(form))


@given(st.text(string.digits + "-./ _", min_size=1, max_size=16))
def test_more_than_three_digits_are_no_term(typed: str) -> None:
    assume(sum(map(str.isdigit, typed)) > 3)
    assert not is_term(typed)
    assert not is_term("HEAD " + typed)


@given(st.text(min_size=1, max_size=80))
def test_a_term_is_of_known_words_or_short(typed: str) -> None:
    runs = "".join(one if one.isascii() and one.isalnum() else " " for one in typed).split()
    if is_term(typed):
        assert typed.isascii()
        assert len(typed) <= LONGEST_TERM
        assert len(typed) <= 8 or any(is_word_of_terms(part.lower()) for run in runs for part in pieces(run))


def pieces(run: str) -> list[str]:
    """Divide letters from digits."""
    return ["".join(group) for _, group in itertools.groupby(run, str.isalpha)]


@given(st.from_regex(r"[A-Z]{4,16}", fullmatch=True))
def test_letters_in_a_row_are_a_term_only_as_a_word_of_terms(typed: str) -> None:
    assert is_term(typed) is is_word_of_terms(typed.lower())


def test_such_a_term_stays_in_its_own_attribute_unless_the_patient_is_called_so() -> None:
    image_type = rb"DERIVED\PRIMARY\DIXON\WATER"
    assert _are_terms(image_type, 0x00080008, frozenset()) == [True, True, True, True]
    assert _are_terms(image_type, 0x00080008, frozenset({"dixon"})) == [True, True, False, True]
    assert _are_terms(b"DIXON ", 0x00189064, frozenset()) == [False]
    assert is_term("TUKEY", 0x00189064)


def test_the_digest_is_one() -> None:
    assert len(terms_digest()) == 64


# ---- the scanners' files

EXPLAINED = {
    "0001": "a maker's own of an ultrasound image, which is not exported",
    "0011": "the same",
    "ABDOM/RAD": "the preset of an ultrasound image",
    "35CMX35CM": "the size of a plate of computed radiography, which is not exported",
    "QIICR QIN IOWA": "the label of a segmentation, which is not exported",
}
"""Values of real files that are no terms, and why none of them is missed."""


def coded_strings(path: Path) -> set[str]:
    try:
        data, start, _ = open_data_set(path.read_bytes())
        elements = list(walk(data, start.offset, explicit=start.explicit))
    except (SyntaxRefusalError, WalkError):
        return set()
    values = [
        data[element.value : element.end].decode("latin-1")
        for element in elements
        if element.vr == "CS" and not element.tag & 0x10000 and element.tag != CHARACTER_SET
    ]
    return {one.strip(" \0") for value in values for one in value.split("\\")}


def check_files(files: list[Path]) -> None:
    found = set().union(*(coded_strings(path) for path in files if path.stat().st_size < 20_000_000))
    assert len(found) > 150
    assert {value for value in found if not is_term(value)} - EXPLAINED.keys() == set()


def test_every_coded_string_of_scanner_files_is_a_term(scanner_data: Path) -> None:
    check_files(sampled(data_files(scanner_data)))


@pytest.mark.long
def test_every_coded_string_of_all_scanner_files_is_a_term(scanner_data: Path) -> None:
    check_files(data_files(scanner_data))


# ---- in images

TYPED = ["ZWIEBELHUBER", "MRN4711", "20200229", "ACC0012345", "JOHN SMITH", "29.02.20"]
PLACES = [IMAGE_TYPE, SCAN_OPTIONS, VARIANT, BODY_PART]


@pytest.mark.parametrize("typed", TYPED)
@pytest.mark.parametrize("tag", PLACES)
@pytest.mark.parametrize("explicit", [True, False])
def test_what_is_typed_is_masked_at_its_place_and_the_others_stay(tag: int, typed: str, explicit: bool) -> None:
    for values in ([typed], [typed, "NONE"], ["NONE", typed], ["DERIVED", typed, "M", "", typed, "NORM"]):
        source = picture(text(tag, "CS", "\\".join(values)), explicit=explicit)
        left = proved(source, [DESCRIPTORS])[tag].value
        expected = ["X" if value == typed else value for value in values]
        assert ([left] if isinstance(left, str) else list(left)) == expected
        assert not proved(source, [])[tag].value


@pytest.mark.parametrize("form", [{}, {"undefined": True, "items_undefined": True}])
def test_in_items_too(form: dict[str, bool]) -> None:
    content = (text(SCAN_OPTIONS, "CS", "FS\\ZWIEBELHUBER"), text(0x00189008, "CS", "SPIN"))
    source = picture(*in_form([nested(0x00189112, content)], **form))
    (found,) = proved(source, [DESCRIPTORS])[0x00189112].value
    assert list(found.ScanOptions) == ["FS", "X"]
    assert found.EchoPulseSequence == "SPIN"
    (found,) = proved(source, [])[0x00189112].value
    assert not found.ScanOptions
    assert found.EchoPulseSequence == "SPIN"


def test_terms_stay_to_the_byte_whatever_pads_them() -> None:
    for value in (b"DERIVED\\PRIMARY\\M\\ND\\NORM ", b" ORIGINAL \\PRIMARY\\M\\MOSAIC\0"):
        source = picture(text(IMAGE_TYPE, "CS", value))
        for options in ([], [DESCRIPTORS]):
            assert value in exported(source, options)


def test_a_word_that_is_known_of_the_patient_is_masked_unless_terms_are_made_of_it() -> None:
    source = picture(text(IMAGE_TYPE, "CS", "DERIVED\\PRIMARY\\SE\\HEAD\\ZWI"))
    left = proved(source, [DESCRIPTORS], frozenset({"head", "zwi", "kowalski"}))[IMAGE_TYPE].value
    assert list(left) == ["DERIVED", "PRIMARY", "SE", "HEAD", "ZWI"]


def test_the_audit_rings_for_what_is_put_back() -> None:
    source = picture(text(IMAGE_TYPE, "CS", "DERIVED\\PRIMARY\\VLINDEROVA"), text(SCAN_OPTIONS, "CS", "FS\\MRN4711"))
    export = exported(source, [DESCRIPTORS])
    assert alarms(source, export, [DESCRIPTORS]) == []
    for keyword, value in (
        ("ImageType", ["DERIVED", "PRIMARY", "VLINDEROVA"]),
        ("ImageType", ["DERIVED", "X", "PRIMARY"]),
        ("ScanOptions", ["FS", "MRN4712"]),
        ("ScanOptions", ["MRN4711", "FS"]),
    ):
        dataset = read(export)
        setattr(dataset, keyword, value)
        assert alarms(source, written(dataset), [DESCRIPTORS]) != [], (keyword, value)
