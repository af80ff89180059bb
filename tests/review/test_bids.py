"""Names of images in the BIDS data set: where they come from, what tells images apart, and that BIDS knows them."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.review.bids import BidsName, ImageFacts, NamingRule, bids_sidecar, distinct_labels, name_images
from tasks.review.bids_standard import ENTITIES, KNOWN_NAMES, naming_fault
from tests.review.bids_validator import NAME_CODES, validate
from tests.strategies import NASTY_TEXTS

EPI = {
    "ScanningSequence": "EP",
    "RepetitionTime": 2.0,
    "EchoTime": 0.03,
    "PhaseEncodingDirection": "j-",
    "TotalReadoutTime": 0.02,
}


def facts(
    number: int,
    description: str = "",
    *,
    sidecar: Mapping[str, Any] | None = None,
    kind: str = "",
    subject: str = "SUB-0001",
    visit: str = "ses-20240312",
    **others: Any,
) -> ImageFacts:
    """Make an image of one series: by default an EPI of 100 volumes with directions, so that any name may fit."""
    given_fields = {**EPI, "ProtocolName": description, "SeriesDescription": description, **(sidecar or {})}
    return ImageFacts(
        **{
            "key": f"{subject}_{visit}_{number:03d}_{kind}",
            "subject": subject,
            "visit": visit,
            "series_number": number,
            "kind": kind,
            "sidecar": given_fields,
            "has_directions": True,
            "volumes": 1 if "anat" in description or "fmap" in description else 100,
            **others,
        }
    )


def names(*images: ImageFacts, rules: tuple[NamingRule, ...] = ()) -> list[BidsName]:
    """Name images, and return the names in the images' order."""
    found = name_images(images, rules)
    return [found[image.key] for image in images]


def tails(*images: ImageFacts, rules: tuple[NamingRule, ...] = ()) -> list[str]:
    """Name images, and return data type and name without subject and session."""
    return [
        name.path.replace("sub-SUB0001/ses-20240312/", "").replace("sub-SUB0001_ses-20240312_", "")
        for name in names(*images, rules=rules)
    ]


# -- where a name comes from -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "tail"),
    [
        ("func-bold_task-rest", "func/task-rest_bold"),
        ("func_task-rest_run-01", "func/task-rest_run-01_bold"),
        ("func_run-01_acq-mb4_task-faces_dir-AP", "func/task-faces_acq-mb4_dir-AP_run-01_bold"),
        ("func_task-rest_run+", "func/task-rest_bold"),
        ("func_ses-baseline_task-rest__with a comment_task-other", "func/task-rest_bold"),
        ("PI:func-sbref_task-rest", "func/task-rest_sbref"),
        ("WIP func-bold_task-X", "func/task-X_bold"),
        ("X:X func-bold_task-X_X", "func/task-X_bold"),
        ("bids_func-bold_task-rest", "func/task-rest_bold"),
        ("func-bold_task-rest state", "func/task-reststate_bold"),
        ("dwi", "dwi/dwi"),
        ("dwi_dir-PA_acq-b1000", "dwi/acq-b1000_dir-PA_dwi"),
        ("fmap-epi_dir-AP", "fmap/dir-AP_epi"),
        ("fmap_dir-AP", "fmap/dir-AP_epi"),
        ("anat", "anat/T1w"),
        ("anat-T2w_acq-highres_rec-norm", "anat/acq-highres_rec-norm_T2w"),
        ("anat_T1w", "anat/T1w"),
        # An entity that BIDS does not know for the suffix is left out.
        ("anat-T1w_dir-AP_acq-x", "anat/acq-x_T1w"),
        ("func-bold_task-", "func/task-unnamed_bold"),
        ("func-bold_acq-rest", "func/task-rest_acq-rest_bold"),
    ],
)
def test_reproin_names(protocol: str, tail: str) -> None:
    assert tails(facts(3, protocol)) == [tail]
    assert names(facts(3, protocol))[0].source == "reproin"


def test_the_protocol_counts_before_the_description_and_both_before_rules() -> None:
    image = facts(3, sidecar={"ProtocolName": "fMRI X", "SeriesDescription": "func-bold_task-words"})
    rule = NamingRule(bids="func/task-rest_bold", description="*")
    assert tails(image, rules=(rule,)) == ["func/task-words_bold"]


@pytest.mark.parametrize(
    "text", ["dwi-64dir", "t1_mprage_sag", "functional", "anatomy_T1w", "", "perf-usion", "_", "X"]
)
def test_other_names_are_no_reproin(text: str) -> None:
    assert names(facts(3, text))[0].source == "none"


def test_a_reproin_name_that_bids_does_not_know_may_have_a_rule() -> None:
    image = facts(3, "anat-mystery_acq-1")
    assert names(image)[0].source == "none"
    assert "suffix" in names(image)[0].reason
    assert "mystery" not in names(image)[0].reason
    assert tails(image, rules=(NamingRule(bids="anat/T2w", description="anat-m*"),)) == ["anat/T2w"]


def test_the_first_rule_that_fits_counts() -> None:
    rules = (
        NamingRule(bids="func/task-rest_bold", description="*rest*", image_type="*\\M\\*"),
        NamingRule(bids="anat/FLAIR", sequence="SE*IR", description="*"),
        NamingRule(bids="func/task-two_echo-2_bold", description="rs[12]", echo=2),
        NamingRule(bids="dwi/acq-last_dwi", description="*"),
    )
    original = {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"]}
    assert tails(
        facts(1, "My REST scan", sidecar=original),
        facts(2, "My rest scan"),
        facts(3, "xyz", sidecar={"ScanningSequence": "SE\\IR"}),
        facts(4, "RS2", sidecar={"EchoNumber": 2}),
        facts(5, "RS2"),
        rules=rules,
    ) == [
        "func/task-rest_bold",
        "dwi/acq-last_run-1_dwi",
        "anat/FLAIR",
        "func/task-two_echo-2_bold",
        "dwi/acq-last_run-2_dwi",
    ]


@pytest.mark.parametrize(
    ("bids", "word"),
    [
        ("anat/mprage", "suffix"),
        ("brain/T1w", "data type"),
        ("anat/dir-AP_T1w", "entity 'dir'"),
        ("func/task-a_task-b_bold", "twice"),
        ("func/task-a b_bold", "label"),
        ("anat/part-magnitude_T1w", "label"),
        ("anat/sub-1_T1w", "Subject"),
        ("T1w", "data type"),
        ("", "data type"),
    ],
)
def test_a_rule_whose_name_bids_does_not_know(bids: str, word: str) -> None:
    assert word in naming_fault(bids)
    guessed = facts(3, "x", sidecar={"BidsGuess": ["anat", "_T1w"]}, volumes=1)
    (name,) = names(guessed, rules=(NamingRule(bids=bids, description="*"),))
    assert (name.source, name.reason) == ("none", naming_fault(bids))


def test_guesses_are_marked_and_lose_their_run() -> None:
    guess = {"BidsGuess": ["func", "_acq-epfid2p2_dir-AP_run-3_bold"]}
    (name,) = names(facts(3, "ep2d_bold", sidecar=guess))
    assert (name.source, name.reason) == ("guess", "The task is not known.")
    assert name.path.endswith("_task-unnamed_acq-epfid2p2_dir-AP_bold")
    assert names(facts(3, "ep2d_Resting", sidecar=guess))[0].entities["task"] == "rest"


@pytest.mark.parametrize(
    "guess",
    [
        *(["discard", "_acq-x_run-1_localizer"], ["derived", "_acq-x"], ["ct", "_ct"], ["func", ""], ["func"], "func"),
        *(None, ["func", "_bold", "x"], [1, 2], ["func", "_acq-x_run-2"], ["anat", "_Unknown"]),
    ],
)
def test_guesses_without_a_place(guess: object) -> None:
    (name,) = names(facts(3, "x", sidecar={"BidsGuess": guess}))
    assert (name.source, name.datatype) == ("none", "other")
    assert name.reason


@pytest.mark.parametrize(
    ("kind", "image_type"),
    [
        *[(kind, ["ORIGINAL"]) for kind in ("eq", "tilt", "adc", "moco", "roi", "roi1", "e1-eq", "ph-tilt")],
        *[("", types) for types in (["DERIVED ", "PRIMARY"], ["ORIGINAL", "PRIMARY", "M", "MOCO"])],
        *[("", ["ORIGINAL", "PRIMARY", "DIFFUSION", word]) for word in ("ADC", "FA", "TRACEW")],
    ],
)
def test_computed_images_have_no_place(kind: str, image_type: list[str]) -> None:
    sidecar = {"ImageType": image_type, "BidsGuess": ["dwi", "_dwi"]}
    rule = NamingRule(bids="dwi/dwi", description="*")
    for description in ("dwi", "x"):
        (name,) = names(facts(3, description, sidecar=sidecar, kind=kind), rules=(rule,))
        assert name.datatype == "other"
        assert "computed" in name.reason


def test_a_rule_may_place_what_the_scanner_computed() -> None:
    adc = facts(3, "x", sidecar={"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]})
    assert tails(adc, rules=(NamingRule(bids="dwi/ADC", description="x"),)) == ["dwi/ADC"]
    filtered = facts(3, "x", sidecar={"ImageType": ["DERIVED", "PRIMARY", "M", "FILTERED"]}, volumes=1)
    assert tails(filtered, rules=(NamingRule(bids="anat/T1w", image_type="*filtered"),)) == ["anat/T1w"]


@pytest.mark.parametrize(
    ("image", "word"),
    [
        (facts(3, "anat-scout"), "localizer"),
        (facts(3, "scout"), "localizer"),
        (facts(3, "func_task-rest", kind="norf"), "special kind"),
        (facts(3, "AAHead_Scout", sidecar={"BidsGuess": ["anat", "_T1w"]}), "localizer"),
        (facts(3, "x", sidecar={"BidsGuess": ["anat", "_T1w"]}, slices=1, volumes=1), "single slice"),
        (facts(3, "anat-T1w", volumes=2), "several volumes"),
        (facts(3, "func_task-rest", volumes=1), "single volume"),
        (facts(3, "func_task-rest", sidecar={"RepetitionTime": 0}), "RepetitionTime"),
        (facts(3, "dwi", has_directions=False), "directions"),
        (facts(3, "fmap-epi", sidecar={"PhaseEncodingDirection": None}), "PhaseEncodingDirection"),
        (facts(3, "fmap-epi", sidecar={"TotalReadoutTime": None}), "TotalReadoutTime"),
        (facts(3, "fmap-phasediff"), "EchoTime1, EchoTime2"),
        (facts(3, "fmap-phasediff", sidecar={"EchoTime1": 0.005, "EchoTime2": 0.05}), "echo times"),
        (facts(3, "fmap-fieldmap", sidecar={"Units": "Hz"}), "magnitude"),
        (facts(3, "anat-MP2RAGE"), "inv"),
        (facts(3, "anat-MP2RAGE", sidecar={"InversionTime": 1}), "NumberShots"),
        (facts(3, "fmap-epi", sidecar={"TotalReadoutTime": 190.7}), "TotalReadoutTime"),
        (facts(3, "perf-asl"), "ArterialSpinLabelingType"),
        (facts(3, "anat-T1w", sidecar={"Modality": "CT"}), "magnetic resonance"),
    ],
)
def test_what_bids_would_refuse_has_no_place(image: ImageFacts, word: str) -> None:
    (name,) = names(image)
    assert (name.source, name.datatype) == ("none", "other")
    assert word in name.reason


# -- what tells images apart -------------------------------------------------------------------------------------------


def test_images_of_one_name_are_counted_in_the_order_of_their_series() -> None:
    later, earlier, alone = facts(12, "anat-T1w"), facts(4, "anat-T1w"), facts(5, "anat-T2w")
    assert tails(later, earlier, alone) == ["anat/run-2_T1w", "anat/run-1_T1w", "anat/T2w"]


def test_stated_runs_stay_and_repeats_are_counted_on() -> None:
    first, again, second = (facts(n, f"func_task-a_run-{r}") for n, r in ((3, "01"), (4, "01"), (5, "02")))
    unstated = facts(6, "func_task-a")
    assert tails(first, again, second, unstated) == [
        "func/task-a_run-01_bold",
        "func/task-a_run-03_bold",
        "func/task-a_run-02_bold",
        "func/task-a_run-04_bold",
    ]


def test_echoes_and_parts_share_a_run() -> None:
    images = []
    for number in (3, 8):
        for echo in (1, 2):
            fields = {"EchoNumber": echo, "EchoTime": 0.012 * echo}
            images.append(facts(number, "func_task-a", sidecar=fields, kind=f"e{echo}"))
            images.append(facts(number + 1, "func_task-a", sidecar=fields, kind=f"e{echo}-ph"))
    assert tails(*images) == [
        f"func/task-a_run-{run}_echo-{echo}_part-{part}_bold"
        for run in (1, 2)
        for echo in (1, 2)
        for part in ("mag", "phase")
    ]


def test_echoes_alone_need_no_run() -> None:
    echoes = [
        facts(3, "func_task-a", kind=f"e{echo}", sidecar={"EchoNumber": echo, "EchoTime": 0.01 * echo})
        for echo in (1, 2, 3)
    ]
    assert tails(*echoes) == [f"func/task-a_echo-{echo}_bold" for echo in (1, 2, 3)]


def test_an_aborted_run_does_not_take_the_phase_of_the_next() -> None:
    aborted, magnitude, phase = (facts(3, "func_task-a"), facts(4, "func_task-a"), facts(5, "func_task-a", kind="ph"))
    assert tails(aborted, magnitude, phase) == [
        "func/task-a_run-1_part-mag_bold",
        "func/task-a_run-2_part-mag_bold",
        "func/task-a_run-2_part-phase_bold",
    ]


def test_a_reference_shares_the_run_of_its_series() -> None:
    images = [
        facts(3, "func_task-a_SBRef", volumes=1),
        facts(4, "func_task-a"),
        facts(5, "func_task-a_SBRef", volumes=1),
        facts(6, "func_task-a"),
    ]
    assert tails(*images) == [f"func/task-a_run-{run}_{suffix}" for run in (1, 2) for suffix in ("sbref", "bold")]


def test_complex_images_and_inversions_and_flip_angles() -> None:
    rules = (
        NamingRule(bids="anat/MP2RAGE", description="mp2rage*"),
        NamingRule(bids="anat/VFA", description="vfa*"),
        NamingRule(bids="anat/MTR", description="mt*"),
        NamingRule(bids="anat/MEGRE", description="gre*"),
    )
    one = {"volumes": 1}
    excited = {"RepetitionTimeExcitation": 0.006, "PulseSequenceType": "Spoiled Gradient Echo"}
    prepared = {
        **excited,
        "FlipAngle": 5,
        "NumberShots": 96,
        "RepetitionTimePreparation": 5,
        "MagneticFieldStrength": 3,
    }
    images = [
        facts(2, "mp2rage_INV2", sidecar={**prepared, "InversionTime": 2.5}, **one),
        facts(3, "mp2rage_INV1", sidecar={**prepared, "InversionTime": 0.7}, **one),
        facts(4, "vfa20", sidecar={**excited, "FlipAngle": 20}, **one),
        facts(5, "vfa3", sidecar={**excited, "FlipAngle": 3}, **one),
        facts(6, "mt", sidecar={"MTState": True}, **one),
        facts(7, "mt", sidecar={"MTState": False}, **one),
        # Each echo in a series of its own, none of which states its number.
        facts(8, "gre", sidecar={"EchoTime": 0.010}, kind="real", **one),
        facts(9, "gre", sidecar={"EchoTime": 0.004}, kind="imaginary", **one),
    ]
    assert tails(*images, rules=rules) == [
        "anat/inv-2_MP2RAGE",
        "anat/inv-1_MP2RAGE",
        "anat/flip-2_VFA",
        "anat/flip-1_VFA",
        "anat/mt-on_MTR",
        "anat/mt-off_MTR",
        "anat/echo-2_part-real_MEGRE",
        "anat/echo-1_part-imag_MEGRE",
    ]


def test_a_gradient_echo_fieldmap() -> None:
    magnitude = {"ScanningSequence": "GR", "EchoTime": 0.00492, "EchoNumber": 1}
    second = {**magnitude, "EchoTime": 0.00738, "EchoNumber": 2}
    phase = {"ScanningSequence": "GR", "EchoTime1": 0.00492, "EchoTime2": 0.00738, "EchoNumber": 2}
    images = []
    for number in (3, 13):
        images += [
            facts(number, "fmap", sidecar=magnitude, kind="e1"),
            facts(number, "fmap", sidecar=second, kind="e2"),
            facts(number + 1, "fmap", sidecar=phase, kind="e2-ph"),
        ]
    assert tails(*images) == [
        f"fmap/run-{run}_{suffix}" for run in (1, 2) for suffix in ("magnitude1", "magnitude2", "phasediff")
    ]


def test_a_fieldmap_in_hertz_needs_its_magnitude() -> None:
    guess = {"BidsGuess": ["fmap", "_acq-x_run-801_magnitude"], "EchoNumber": 1}
    other = {"BidsGuess": ["fmap", "_acq-x_run-801_fieldmap"], "EchoNumber": 2, "Units": "Hz"}
    assert tails(facts(3, "B0", sidecar=guess, kind="e1"), facts(3, "B0", sidecar=other, kind="e2-fieldmaphz")) == [
        "fmap/acq-x_magnitude",
        "fmap/acq-x_fieldmap",
    ]


def test_a_direction_that_a_rule_does_not_tell() -> None:
    rule = NamingRule(bids="fmap/epi", description="topup*")
    images = [
        facts(number, "topup", sidecar={"BidsGuess": ["fmap", f"_acq-epse2_dir-{direction}_run-3_epi"]})
        for number, direction in ((3, "AP"), (4, "PA"))
    ]
    assert tails(*images, rules=(rule,)) == ["fmap/dir-AP_epi", "fmap/dir-PA_epi"]


def test_images_without_a_place_are_told_apart_by_kind_and_number() -> None:
    images = [facts(3, "x"), facts(3, "x", kind="e2-ph"), facts(3, "x", key="z"), facts(1234, "x")]
    assert tails(*images) == [
        "other/series-003_image",
        "other/series-003_e2ph",
        "other/series-003_image-2",
        "other/series-1234_image",
    ]


# -- labels ------------------------------------------------------------------------------------------------------------


def test_labels_of_subjects_and_visits() -> None:
    assert distinct_labels(["SUB-0001", "P017", "0042"], "sub-") == {
        "SUB-0001": "SUB0001",
        "P017": "P017",
        "0042": "0042",
    }
    assert distinct_labels(["ses-20240312", "ses-02", "ses-unknown"], "ses-") == {
        "ses-20240312": "20240312",
        "ses-02": "02",
        "ses-unknown": "unknown",
    }


@pytest.mark.parametrize(
    "texts", [("A-1", "A1"), ("a1", "A1"), ("sub-1", "1"), ("Ä-1", "-1"), ("A_1", "A-1"), ("", "-"), ("A-1-2", "A1-2")]
)
def test_pseudonyms_that_would_meet(texts: tuple[str, str]) -> None:
    labels = distinct_labels(texts, "sub-")
    assert len({label.casefold() for label in labels.values()}) == 2
    assert all(re.fullmatch("[A-Za-z0-9]+", label) for label in labels.values())


PSEUDONYMS = st.one_of(
    st.text(alphabet="aA1-_. xé", max_size=8),
    st.text(max_size=80),
    st.sampled_from(NASTY_TEXTS),
    st.from_regex(r"(sub-)?[aA]x?[0-9a-f]{9,11}", fullmatch=True),
)


@given(st.sets(PSEUDONYMS, max_size=12))
def test_no_two_subjects_share_a_label(texts: set[str]) -> None:
    labels = distinct_labels(texts, "sub-")
    assert labels.keys() == texts
    assert len({label.casefold() for label in labels.values()}) == len(texts)
    assert all(re.fullmatch("[A-Za-z0-9]{1,48}", label) for label in labels.values())


# -- any images --------------------------------------------------------------------------------------------------------

NUMBERS = st.one_of(st.sampled_from((0, 1, 2, 0.03, 2.5, -1, True, None, "1", 1e999, 10**400)), st.floats())
DESCRIPTIONS = st.one_of(
    st.sampled_from(
        (
            *("func_task-a", "func_task-A_run-1", "func_task-a_run-01", "anat", "anat-MEGRE", "anat-MP2RAGE", "dwi"),
            *("fmap", "fmap-magnitude", "fmap-fieldmap", "func_task-a_SBRef", "perf", "anat-T1w_echo-1", "rest", "xyz"),
        )
    ),
    st.builds(
        "{}{}_{}-{}_run-{}".format,
        st.sampled_from(("", "WIP ", "X:")),
        st.sampled_from(sorted(f"{datatype}-{suffix}" for datatype, known in KNOWN_NAMES.items() for suffix in known)),
        st.sampled_from(ENTITIES),
        st.sampled_from(("1", "on", "mag", "a+b", "é", "../x", "x" * 70)),
        st.sampled_from(("1", "2", "+", "0", "9" * 9)),
    ),
    st.sampled_from(NASTY_TEXTS),
    st.text(max_size=20),
)
SIDECARS = st.fixed_dictionaries(
    {"SeriesDescription": DESCRIPTIONS},
    optional={
        "ProtocolName": DESCRIPTIONS,
        "ImageType": st.lists(st.sampled_from(("ORIGINAL", "DERIVED", "M", "PHASE", "REAL", "ADC")), max_size=4),
        "BidsGuess": st.one_of(
            st.tuples(
                st.sampled_from(("func", "anat", "fmap", "discard", "")),
                st.sampled_from(("_acq-x_run-3_bold", "_T1w", "_magnitude", "_fieldmap", "_dir-AP_epi", "__-_", "")),
            ).map(list),
            st.lists(st.text(max_size=9), max_size=3),
        ),
        "Units": st.sampled_from(("Hz", 3)),
        "PhaseEncodingDirection": st.sampled_from(("j", "j-", "?")),
        "SliceTiming": st.lists(NUMBERS, max_size=3),
        **dict.fromkeys(
            (
                *("EchoNumber", "EchoTime", "EchoTime1", "EchoTime2", "InversionTime", "FlipAngle", "RepetitionTime"),
                *("MTState", "TotalReadoutTime", "EffectiveEchoSpacing"),
            ),
            NUMBERS,
        ),
    },
)
RULES = st.lists(
    st.builds(
        NamingRule,
        bids=st.sampled_from(
            ("func/task-rest_bold", "anat/T1w", "anat/echo-1_MEGRE", "dwi/ADC", "anat/Foo", "fmap/epi")
        ),
        description=st.sampled_from((None, "*", "x*", "[", "func*")),
        image_type=st.sampled_from((None, "*M*")),
        echo=st.sampled_from((None, 1, 2)),
    ),
    max_size=2,
)


@st.composite
def studies(draw: st.DrawFn) -> list[ImageFacts]:
    images = draw(
        st.lists(
            st.builds(
                dict,
                subject=st.sampled_from(("SUB-0001", "sub-0001", "../x", "")),
                visit=st.sampled_from(("ses-2", "2", "ses-unknown", "..")),
                series_number=st.sampled_from((3, 3, 4, 5, -4, 0, 10**12)),
                kind=st.one_of(st.sampled_from(("", "", "e1", "e2", "ph", "e2-ph", "real", "eq")), st.text(max_size=5)),
                sidecar=SIDECARS,
                has_directions=st.booleans(),
                volumes=st.sampled_from((1, 1, 20)),
            ),
            max_size=14,
        )
    )
    return [ImageFacts(key=f"e{number}", **image) for number, image in enumerate(images)]


def assert_known_to_bids(name: BidsName) -> None:
    """Hold a name against the specification's form: entities in order, each allowed once, the required there."""
    *folders, last = name.path.split("/")
    *pieces, suffix = last.split("_")
    entities = dict(piece.split("-") for piece in pieces)
    assert folders == [f"sub-{entities['sub']}", f"ses-{entities['ses']}", name.datatype]
    assert (entities, suffix) == (dict(name.entities), name.suffix)
    shape = KNOWN_NAMES[name.datatype][suffix]
    assert shape.required <= entities.keys() <= shape.allowed
    assert list(entities) == sorted(entities, key=ENTITIES.index)
    assert all(re.fullmatch("[A-Za-z0-9+]+", label) for label in entities.values())


@given(studies(), RULES, st.randoms(use_true_random=False))
def test_every_image_has_one_safe_name_of_its_own_whatever_the_order(
    images: list[ImageFacts], rules: list[NamingRule], chance: random.Random
) -> None:
    found = name_images(images, rules)
    assert found.keys() == {image.key for image in images}
    assert max(Counter(name.path.casefold() for name in found.values()).values(), default=1) == 1
    for key, name in found.items():
        assert all(re.fullmatch("[A-Za-z0-9][A-Za-z0-9_+-]{0,250}", part) for part in name.path.split("/"))
        if name.datatype == "other":
            assert name.source == "none"
            assert name.reason
        else:
            assert_known_to_bids(name)
        sidecar = next(image.sidecar for image in images if image.key == key)
        assert ("TaskName" in bids_sidecar(name, sidecar)) == (name.datatype == "func")
    chance.shuffle(images)
    assert name_images(images, rules) == found


@given(studies())
def test_images_of_one_session_do_not_change_the_names_of_another(images: list[ImageFacts]) -> None:
    found = name_images(images)
    sessions = {(image.subject, image.visit) for image in images}
    for session in sessions:
        inside = [image for image in images if (image.subject, image.visit) == session]
        # The labels of subject and session hang on what else there is; the rest of the name does not.
        alone = {key: re.sub(r"(sub|ses)-[A-Za-z0-9]+", "", name.path) for key, name in name_images(inside).items()}
        assert alone == {image.key: re.sub(r"(sub|ses)-[A-Za-z0-9]+", "", found[image.key].path) for image in inside}


def test_two_images_with_one_key_are_refused() -> None:
    with pytest.raises(ValueError, match="one key"):
        name_images([facts(3), facts(3)])


# -- the sidecar -------------------------------------------------------------------------------------------------------


def test_a_sidecar_has_what_bids_requires_and_loses_what_it_rejects() -> None:
    fields = {
        "EchoTime": 0,
        "FlipAngle": 400,
        "MTState": "yes",
        "TablePosition": [1, 2],
        "SliceTiming": [0, 2.5],
        "EffectiveEchoSpacing": 0.5,
        "Unheard": {"of": 1},
        "BidsGuess": ["func", "_bold"],
    }
    image = facts(3, "func_task-a", sidecar=fields, kind="ph")
    (name,) = names(image)
    assert bids_sidecar(name, image.sidecar) == {
        "ProtocolName": "func_task-a",
        "SeriesDescription": "func_task-a",
        "ScanningSequence": "EP",
        "RepetitionTime": 2.0,
        "PhaseEncodingDirection": "j-",
        "Unheard": {"of": 1},
        "TaskName": "a",
        "Units": "arbitrary",
    }


def test_a_guess_and_an_assumed_task_show_in_the_sidecar() -> None:
    image = facts(3, "x", sidecar={"BidsGuess": ["func", "_bold"]})
    (name,) = names(image)
    written = bids_sidecar(name, image.sidecar)
    assert (written["TaskName"], written["TaskDescription"]) == ("unnamed", "The task is not known.")
    assert written["BidsGuess"] == ["func", "_bold"]


# -- the tables --------------------------------------------------------------------------------------------------------

_LABELS = {"part": "phase", "mt": "on", "run": "1", "echo": "2", "flip": "1", "inv": "1", "chunk": "3"}


def _spelled(datatype: str, suffix: str, entities: set[str]) -> str:
    parts = [f"{entity}-{_LABELS.get(entity, 'a')}" for entity in ENTITIES if entity in entities]
    return f"sub-a/ses-a/{datatype}/{'_'.join((*parts, suffix))}.nii.gz"


def test_the_table_says_what_the_validator_says(tmp_path: Path) -> None:
    """Every suffix with each entity of all there are, one at a time: the validator takes it just if the table does."""
    known, unknown = set(), set()
    for datatype, suffixes in KNOWN_NAMES.items():
        for suffix, shape in suffixes.items():
            base = {"sub", "ses", *shape.required}
            known.add(_spelled(datatype, suffix, base))
            known.add(_spelled(datatype, suffix, set(shape.allowed)))
            unknown.update(_spelled(datatype, suffix, base - {entity}) for entity in shape.required)
            for entity in set(ENTITIES) - base:
                (known if entity in shape.allowed else unknown).add(_spelled(datatype, suffix, base | {entity}))
    assert len(known) > 250
    assert len(unknown) > 150
    for path in known | unknown:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"x")
    (tmp_path / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.11.1", "DatasetType": "raw"}')
    issues = validate(tmp_path, "--ignoreNiftiHeaders", "--ignoreWarnings")
    refused = {issue.location.lstrip("/") for issue in issues if issue.code in NAME_CODES}
    assert refused == unknown
