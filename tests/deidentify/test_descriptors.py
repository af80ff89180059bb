"""What stays of a description and what never does: real ones, names of many countries, dates, IDs, properties."""

from __future__ import annotations

import json
import pickle
import re
import string
import warnings
from pathlib import Path

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.deidentify import descriptors
from tasks.deidentify.descriptors import Cleaned, Vocabulary, clean, clean_value, load_vocabulary, propose
from tasks.errors import UsageError

VOCABULARY = load_vocabulary()

DATA = json.loads((Path(descriptors.__file__).parent / "data" / descriptors.VOCABULARY_FILE).read_text("ascii"))


def _listed(words: str) -> list[str]:
    return words.split()


SURNAMES = _listed("""
Smith Johnson Williams Brown Jones Garcia Miller Davis Rodriguez Martinez Hernandez Lopez Gonzalez Wilson Anderson
Thomas Taylor Moore Jackson Martin Lee Perez Thompson White Harris Sanchez Clark Ramirez Lewis Robinson Walker Young
Allen King Wright Scott Torres Nguyen Hill Flores Green Adams Nelson Baker Hall Rivera Campbell Mitchell Carter
Roberts Stone Cross Dixon Fields Field Long Short Small Bravo Swan Post Gray Grey Black Pace Price Marks Stern Rose
Kidney Corr Bone Cord Real Maxwell Hahn Locker Buxton Stroud Chan Bright Fast Sharp Rest-Smith Eddy Den Clear Constant
Star Tower Raven Block Kay Art Müller Schmidt Schneider Fischer Weber Meyer Wagner Becker Schulz Hoffmann Schäfer Koch
Bauer Richter Klein Wolf Schröder Neumann Schwarz Zimmermann Braun Krüger Hofmann Hartmann Lange Krause Werner Köhler
Herrmann König Weiß Huber Lehmann Bernard Dubois Durand Moreau Laurent Simon Michel Lefebvre Leroy Roux Bertrand Morel
Fournier Girard Bonnet Dupont Lambert Rossi Russo Ferrari Esposito Bianchi Romano Colombo Ricci Marino Greco Bruno
Gallo Conti Costa Giordano Mancini Sella Silva Santos Oliveira Souza Pereira Ferreira Alves Ribeiro Gomes Carvalho
Vargas Castillo Cortez Coronado Vidal Medina DeJong Jansen Bakker Visser Smit Meijer Mulder Bos Vos Peeters Janssens
Maes Claes Wouters Andersson Johansson Karlsson Nilsson Eriksson Larsson Hansen Olsen Larsen Nielsen Jensen Korhonen
Virtanen Mäkinen Novak Svoboda Kowalski Wisniewski Nowak Kaminski Ivanov Petrov Sidorov Popov Smirnov Horvath Nagy
Kovacs Szabo Popescu Ionescu Papadopoulos Yilmaz Kaya Demir Wang Li Zhang Liu Chen Yang Huang Zhao Wu Zhou Xu Sun Ma
Zhu Hu Guo He Lin Gao Luo Zheng Tang Xie Han Cao Deng Ng Ho Ko Kim Park Choi Jung Kang Cho Yoon Jang Lim Oh Sato
Suzuki Takahashi Tanaka Watanabe Ito Yamamoto Nakamura Kobayashi Kato Tran Le Pham Hoang Phan Vu Vo Dang Bui Do Ngo Ly
Singh Kumar Sharma Patel Gupta Khan Das Reddy Iyer Banerjee Ahmed Hussain Cohen Levy Mizrahi Katz Mohamed Hassan
Ibrahim Abdullah Okafor Mensah Dlamini Hariri Sternberg Petersen Friston Sokoloff
""")

FIRST_NAMES = _listed("""
James Mary John Patricia Robert Jennifer Michael Linda William Elizabeth David Barbara Richard Susan Joseph Jessica
Thomas Sarah Charles Karen Christopher Nancy Daniel Lisa Matthew Betty Anthony Mark Margaret Donald Sandra Steven
Ashley Paul Tim Max Will Pat Ray Tom Sue Dan Ian Eva Ida Ivy Ned Per Eve Grace Dora Ana Rosa Sal Al Ed Jan Jean Petra
Ute Uwe Uli Udo Kai Peter Hans Klaus Jürgen Günter Ursula Helga Renate Karin Sabine Andreas Stefan Marie Sophie
Camille Louis Hugo Léa Giulia Marco Paolo Sofia Alessandro José Juan Carlos María Carmen Lucía Pedro João Ana Wei Fang
Lei Jing Jun Yuki Haruto Mohammed Fatima Ali Omar Aisha Priya Rahul Olga Dmitri Natasha Sven Lars Ingrid Bjørn
Søren Ångström Łukasz Meg Mid Vida
""")

PLACES = _listed("""
London Paris Berlin Hamburg Leipzig Wien Vienna Zürich Basel Rom Roma Madrid Lisboa Oslo Bergen Stockholm Lund Aarhus
Boston Houston Chicago Iowa Stanford Rochester Duke Oxford Cambridge Cardiff Leuven Gent Split Tokyo Kyoto Osaka
Beijing Shanghai Seoul Taipei Singapore Sydney Perth Toronto Montreal Charite Mayo Clinic Klinikum Hospital
Universitätsklinikum Kinderklinik Radiologie Station Ward Department Institute Mercy Memorial Saint Praxis Ambulanz
UKE MGH UCSF NHS Siemens Philips Monday Dienstag January Februar Mar May Juni Oktober
""")

NEEDED = {
    "Head": "names half of all localizers and every head coil; as a surname it is rare",
    "Brain": "names half of all studies; as a surname it is very rare",
    "Bold": "names functional imaging; a surname of few people, common in Mongolia as a first name",
    "Tse": "names the turbo spin echo of three vendors; a surname in Hong Kong",
    "Dwi": "names diffusion imaging; a first name on Java",
    "Trace": "names the diffusion image that everybody reads; a rare first name",
    "Echo": "an entity of BIDS; a rare first name",
    "Ge": "names the gradient echo; a surname, 200th in China",
    "Gaba": "names what edited spectroscopy measures; a rare surname in India",
    "Cor": "names a plane; a Dutch first name",
    "Mean": "names a derived image; a place",
    "Press": "names a spectroscopy sequence; a rare surname",
    "Pa": "names the phase encoding direction; a rare surname",
    "Fa": "names the fractional anisotropy; a rare first name",
    "Mag": "names the magnitude image; a rare first name",
    "Sag": "names a plane; a rare first name",
    "Run": "an entity of BIDS; a rare first name",
}
"""Words of the vocabulary that are people's names, too, and why they stay."""

IDENTIFYING = [*SURNAMES, *FIRST_NAMES, *PLACES]


def cleaned(text: str, *identifiers: str, limit: int | None = 64) -> str:
    return clean(text, VOCABULARY, frozenset(identifiers), limit=limit).text


# ---- what a scientist needs

REAL = {
    # As the public sets have them: what stays to the letter, and what is masked in the others.
    "Axial EPI-FMRI (Interleaved I to S)": None,
    "Axial EPI-FMRI (Sequential S to I)": None,
    "ep2d_DTI_20_dir_AP": None,
    "dti_tra_dir16_PA_rot_SaveBySlc": None,
    "t1_gre_fsp_3d_sag": None,
    "epiRT ascending": None,
    "EPI PE=RL": None,
    "ep2d_Asc_HF": None,
    "ax_asc_35sl": None,
    "FMRI_AX_ASC": None,
    "Rest_fMRI_AP": None,
    "*epfid2d1_64": None,
    "*ep_b1000#20": None,
    "epi_dti": None,
    "WIP dti_ax": None,
    "Brain: Routine": None,
    "BRAIN SEQ  4.8  H31s": None,
    "CT BRAIN WO IVCON": None,
    "32Ch Head": None,
    "HeadNeck_20_TCS": None,
    "8HRBRAIN": None,
    "T1TFE": None,
    "DwiSE": None,
    "5/5mm Plain": None,
    "REST1 w SMS PF7-8": "REST1 X SMS PF7-8",
    "fMRIcontin_30x30x36": "X_30x30x36",
    "EPI_asc CLEAR": "EPI_asc X",
    "Zugfahrt test/4": "X test/4",
    "DCM2NIIX regression test": "X test",
    "Research^Rorden_Prisma": "Research^X_Prisma",
    "Rorden^test": "X^test",
}

USUAL = """
t1_mprage_sag_p2_iso_1.0mm
AAHead_Scout_64ch-head-coil_MPR_sag
cmrr_mbep2d_bold_mb4_p2_2.4mm_AP_SBRef
ep2d_diff_mddw_64_p2_s2_TRACEW
gre_field_mapping_2mm
SpinEchoFieldMap_AP
t1mprageSag
MoCoSeries
Perfusion_Weighted
func-bold_task-rest_acq-mb4_dir-AP_run-01
anat-T1w_acq-mprage_run-01
ABCD_T1w_MPR_vNav_setter
3D SAG T1 BRAVO post gd
Ax DWI b=1000 TRACE
DWI b0_1000_2000 60dir AP
WIP sT1W_3D_TFE SENSE
*tfl3d1_16ns
*spc_314ns
*ep_b50_1000
*ep_b1000t
*fl3d1_ns
t2_space_dark-fluid_sag_p2_iso
t1_vibe_dixon_tra
MP2RAGE_0p75mm_UNI-DEN
MP2RAGE INV1 TI 900
TR 2000 TE=30 FA 8 3 T
epi 2 x 2 x 2.5 mm
fMRI 300 vols 5 min eyes open
Ax 3D pCASL PLD 1800
MRI brain w/o contrast
localizer_haste_cor
dMRI_dir98_AP
multishell_b700_b2500_30dir
Ax T2 FLAIR PROPELLER
""".strip().splitlines()


def test_descriptions_of_the_public_sets_keep_what_counts(scanner_data: Path) -> None:
    found: set[str] = set()
    keywords = ["SeriesDescription", "ProtocolName", "StudyDescription", "SequenceName", "PulseSequenceName",
        "ReceiveCoilName", "PerformedProcedureStepDescription"]  # fmt: skip
    folders = sorted({path.parent for path in scanner_data.rglob("*") if path.is_file()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for folder in folders:
            for path in sorted(path for path in folder.iterdir() if path.is_file())[:40]:
                try:
                    image = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=keywords)
                except (pydicom.errors.InvalidDicomError, OSError):
                    continue
                found.update(str(image.get(keyword) or "") for keyword in keywords)
    assert len(found) > 40
    # The T1TFE and some coils are nested in enhanced images; the rest must have been met.
    assert len(set(REAL) - found) < 8, set(REAL) - found
    for text in found:
        result = clean(text, VOCABULARY, limit=None)
        assert "rorden" not in result.text.lower()
        assert text in REAL or result.masked or result.text == text


@pytest.mark.parametrize(("text", "expected"), REAL.items())
def test_a_real_description(text: str, expected: str | None) -> None:
    assert cleaned(text) == (text if expected is None else expected)


@pytest.mark.parametrize("text", USUAL)
def test_a_usual_description_stays_as_it_is(text: str) -> None:
    assert clean(text, VOCABULARY) == Cleaned(text=text, masked=0)


def test_the_count_is_of_tokens_not_of_masks() -> None:
    assert clean("Smith_John-Paul t1 Weber", VOCABULARY) == Cleaned(text="X t1 X", masked=4)


# ---- people and places


@pytest.mark.parametrize("kind", ["surnames", "first names", "places"])
def test_names_are_masked(kind: str) -> None:
    names = {"surnames": SURNAMES, "first names": FIRST_NAMES, "places": PLACES}[kind]
    let_through = []
    for name in names:
        if "-" in name:  # Rest-Smith: only the part that is a name goes
            assert cleaned(name) == "Rest-X"
            continue
        forms = (name, name.upper(), name.lower(), name.title())
        around = ("{0}", "{0}1", "{0}_1", "12{0}", "{0}12", "1_{0}_2", "{0}{0}", "{0}_01_T", "mr{0}")
        let_through += [text for form in forms for text in map(str.format, around, [form] * 9) if cleaned(text) != "X"]
    assert not let_through


@pytest.mark.parametrize("name", [name for name in SURNAMES if name not in ("Post", "Bravo", "Rest-Smith")][::3])
def test_names_beside_words_leave_the_words(name: str) -> None:
    assert cleaned(f"t1_mprage_{name}") == "t1_mprage_X"
    assert cleaned(f"{name.upper()}^T2 TSE") == "X^T2 TSE"
    assert cleaned(f"T1{name.title()}") == "X"
    assert cleaned(f"epi{name.title()}_2mm") == "X_2mm"


@pytest.mark.parametrize("name", NEEDED)
def test_a_name_that_the_vocabulary_needs_goes_if_it_is_the_patients(name: str) -> None:
    assert VOCABULARY.allows(name)
    assert cleaned(name) == name
    for form in (name, name.upper(), name.lower(), f"{name}^"):
        assert cleaned(f"t1 {form}", name).rstrip("^") == "t1 X"


def test_only_the_needed_names_are_in_the_vocabulary() -> None:
    allowed = {name for name in IDENTIFYING if VOCABULARY.allows(name)}
    assert not allowed
    # Each needed one names its reason; what is no longer needed has to leave the list.
    assert all(VOCABULARY.allows(name) and reason for name, reason in NEEDED.items())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dixon", "X"),
        ("t1_vibe_dixon", "t1_vibe_dixon"),
        ("Field", "X"),
        ("Min", "X"),
        ("fMRI 5 min", "fMRI 5 min"),
        ("T1 Post", "T1 Post"),
        ("Post", "X"),
        ("Field Map", "Field Map"),
        ("A.P. Smith", "X"),
        ("A P Smith", "X"),
        ("EPI A-P", "EPI A-P"),
        ("J S", "X"),
        ("Dr. Head", "X"),
        ("Name: Brain, T1", "X, T1"),
        ("sub-01_T1w", "sub-X_T1w"),
        ("sub-rest_ses-3t_bold", "sub-X_ses-X_bold"),
        ("sub01 ses_02 T1w", "X T1w"),
        ("sub-sub-01", "sub-X"),
        ("patient head", "X"),
        ("McBold", "X"),
        ("Tra Trang", "Tra X"),
    ],
)
def test_context_decides(text: str, expected: str) -> None:
    assert cleaned(text) == expected


# ---- numbers

DATES = _listed("""
20210312 2021-03-12 2021/03/12 2021.03.12 2021_03_12 12.03.2021 12.3.2021 12.03.21 12/03/2021 12/03/21 12-03-21
12_03_21 03/12 12/85 12Mar2021 Mar-12-2021 12-MAR-21 210312 2021 12.3 12.3. 4.8. 3.12 9.04 2021-071 2021W10 19850412
12:30:15
""")

IDS = _listed("""
0012345 1234 12345 123456789 A123456 AB12345 MRN0012345 B12345 T1234 TE1234 TR12345 MR123456 PAT-0042 E12345678
123-45-6789 123-456 12-345 007 030-123-456 0170/1234567 +49-30-1234567 555-1234 (555)-123-4567 01.42.68.53.00
1.2.840.10008 10.0.0.12 a1b2c3d4 P2V1 9f8e7d 12A345 VE11C-0042 TR2021 2021ms b2021 b12345 run-1234 TI1987
""")


@pytest.mark.parametrize("text", DATES)
def test_a_date_leaves_no_digit(text: str) -> None:
    assert not re.search("[0-9]", cleaned(text))
    assert not re.search("[0-9]", cleaned(f"t_{text}").replace("t_", ""))


@pytest.mark.parametrize(
    "text", ["12. März 2021", "12 March", "March 12, 2021", "12 03 2021", "12 03 21", "am 4. Mai 85"]
)
def test_a_date_in_words_leaves_no_digit(text: str) -> None:
    assert cleaned(text).strip(".+() ") == "X"


@pytest.mark.parametrize("text", IDS)
def test_an_id_or_telephone_number_leaves_no_digit(text: str) -> None:
    assert not re.search("[0-9]", cleaned(text))


@pytest.mark.parametrize("text", ["Smith 12", "AB 12 34", "12_Weber_3", "MRN 12", "tel 030 12 34 56", "Zimmer 4"])
def test_a_number_beside_a_mask_goes_with_it(text: str) -> None:
    assert cleaned(text) == "X"


# ---- the patient's own identifiers


@pytest.mark.parametrize(
    ("text", "identifier", "expected"),
    [
        ("t1_mprage_sag", "SAG", "t1_mprage_X"),
        ("t1mprageSag_2mm", "Sag", "X_2mm"),
        ("b1000_64dir", "1000", "X_64dir"),
        ("epi_256x256", "256", "epi_X"),
        ("epi T1_64 2mm", "T1/64", "epi X 2mm"),
        ("epi_64_T1_2mm", "T1/64", "epi_64_T1_2mm"),
        ("T1 Müller", "Mueller", "T1 X"),
        ("T1 flair", "Fläir", "T1 X"),
        ("localizers", "Calizer", "X"),
        ("1.125mm iso", "125", "X iso"),
        ("sub-01_T1w", "Sub", "X_T1w"),
    ],
)
def test_what_identifies_the_patient_is_masked_though_it_is_listed(text: str, identifier: str, expected: str) -> None:
    assert cleaned(text, identifier) == expected


# ---- the study's own words


def test_own_words_pass_and_change_the_digest() -> None:
    own = load_vocabulary(("Zugfahrt", "Café-Test", "Quux_task"))
    assert clean("Zugfahrt_CAFÉ_quux", own) == Cleaned(text="Zugfahrt_CAFE_quux", masked=0)
    assert clean("Zugfahrt", VOCABULARY).text == "X"
    assert clean("Zugfahrt", own, frozenset({"zugfahrt"})).text == "X"
    assert own.digest != VOCABULARY.digest
    assert own.digest == load_vocabulary(("quux", "cafe", "ZUGFAHRT", "task", "test")).digest
    assert VOCABULARY.digest == load_vocabulary().digest
    assert re.fullmatch("[0-9a-f]{64}", VOCABULARY.digest)


@pytest.mark.parametrize("entry", ["1234", "T1 2021", "x", "李", "study 12"])
def test_own_words_must_be_words(entry: str) -> None:
    with pytest.raises(UsageError) as fault:
        load_vocabulary(("Zugfahrt", entry))
    assert "Entry 2" in str(fault.value)
    assert entry not in str(fault.value).replace("Entry 2", "") or entry == "x"


def test_a_vocabulary_travels_to_another_process() -> None:
    copy: Vocabulary = pickle.loads(pickle.dumps(VOCABULARY))
    assert copy.digest == VOCABULARY.digest
    assert clean("t1_mprage_Smith", copy).text == "t1_mprage_X"


# ---- the data file


def test_every_group_gives_its_reason_and_every_pattern_its_examples() -> None:
    assert all(group["reason"].endswith(".") for group in DATA["groups"])
    for row in DATA["patterns"]:
        assert row["reason"].endswith(".")
        for example in row["examples"]:
            assert re.fullmatch(row["pattern"], example, re.IGNORECASE), example
            assert cleaned(example) == example


def test_words_are_listed_once_in_lower_case_and_all_of_them_pass() -> None:
    words = [word for group in DATA["groups"] for line in group["words"] for word in line.split()]
    assert len(words) == len(set(words))
    assert all(re.fullmatch("[a-z0-9]{2,}", word) for word in words)
    assert not [word for word in words if cleaned(word) != word or cleaned(word.upper()) != word.upper()]
    announced = {word for line in DATA["introducers"]["words"] for word in line.split()}
    assert announced.isdisjoint(words)
    assert {"sub", "ses"} <= announced


@pytest.mark.parametrize("phrase", DATA["phrases"]["words"])
def test_phrases_pass_together_and_not_all_alone(phrase: str) -> None:
    assert cleaned(phrase) == phrase
    assert cleaned(phrase.replace(" ", "_").title()) == phrase.replace(" ", "_").title()
    assert not all(cleaned(word) == word for word in phrase.split()), "each of these words is on the list already"


# ---- values


def test_each_of_several_values_is_cleaned_for_itself() -> None:
    assert clean_value("T1\\Smith\\\\12 Weber", "LO", VOCABULARY) == Cleaned(text="T1\\X\\\\X", masked=3)
    assert clean_value("T1\\Smith", "LT", VOCABULARY) == Cleaned(text="T1_X", masked=1)
    assert clean_value("", "SH", VOCABULARY) == Cleaned(text="", masked=0)


def test_what_is_too_long_is_cut_between_tokens() -> None:
    assert clean_value("t1_mprage_sagittal", "SH", VOCABULARY).text == "t1_mprage"
    long = " ".join(["mprage"] * 100)
    assert len(clean_value(long, "LO", VOCABULARY).text) == 62
    assert clean_value(long, "UT", VOCABULARY).text == long
    assert clean("susceptibility", VOCABULARY, limit=5).text == "X"


@pytest.mark.parametrize(
    "text", ["李", "***", "'", "\r\n", "ΑΒΓ", "é", "\u200b", "\ud800", "²", "½", "TR ٢٠", "ＳＭＩＴＨ"]
)
def test_nothing_becomes_empty_or_leaves_ascii(text: str) -> None:
    result = cleaned(text)
    assert result
    assert result.isascii()


def test_typographic_signs_read_as_plain_ones() -> None:
    assert cleaned("T1–T2 2×2×2 mm³") == "T1-T2 2x2x2 mm3"
    assert cleaned("Séquence\xa0FLAIR") == "Sequence FLAIR"


# ---- proposals


def test_unknown_words_are_proposed_by_the_patients_that_have_them() -> None:
    texts = [
        ("1", "Zugfahrt_T1"), ("2", "ZUGFAHRT T2"), ("3", "Zugfahrt 3"), ("3", "zugfahrt 4"),
        ("1", "Kopf"), ("2", "Kopf"), ("1", "Once"),
        ("1", "SmithTask"), ("2", "SmithTask"), ("1", "Weber"), ("2", "Weber"),
        ("1", "März 2021"), ("2", "März 2021"), ("1", "AB12"), ("2", "AB12"), ("1", "20210312"), ("2", "20210312"),
        ("1", "Dr. Who"), ("2", "Dr. Who"), ("1", "sub-abc"), ("2", "sub-abc"), ("1", "李"), ("2", "李"),
    ]  # fmt: skip
    assert propose(texts, VOCABULARY, {"Smith", "Weber", "WHOEVER"}) == [("zugfahrt", 3), ("kopf", 2)]
    assert ("once", 1) in propose(texts, VOCABULARY, {"Smith"}, at_least=1)


def test_a_proposal_can_be_added() -> None:
    texts = [("1", "Zugfahrt_T1"), ("2", "Zugfahrt_T1")]
    more = load_vocabulary(tuple(word for word, _ in propose(texts, VOCABULARY, ())))
    assert clean("Zugfahrt_T1", more).masked == 0
    assert propose(texts, more, ()) == []


# ---- what holds of every text

WORDS = sorted(VOCABULARY.words)
PIECES = st.one_of(
    st.sampled_from(WORDS),
    st.sampled_from(WORDS).map(str.title),
    st.sampled_from(IDENTIFYING),
    st.sampled_from([*DATES, *IDS, *USUAL, *DATA["phrases"]["words"]]),
    st.sampled_from([word for line in DATA["introducers"]["words"] for word in line.split()]),
    st.sampled_from([*DATA["numbers"]["after"], *DATA["numbers"]["before"], "x", "X", "t", "b"]),
    st.integers(0, 99999).map(str),
    st.decimals(0, 99, places=2).map(str),
    st.sampled_from(string.ascii_letters),
    st.text(max_size=4),
)
SEPARATORS = st.sampled_from(["", "", " ", "_", "-", ".", "/", "^", "=", ": ", ", ", " - ", "\\", "\n", "'", "(", ")"])
TEXTS = st.lists(st.tuples(PIECES, SEPARATORS), max_size=9).map(lambda parts: "".join(map("".join, parts)))
IDENTIFIERS = st.frozensets(
    st.one_of(
        st.sampled_from(WORDS), st.sampled_from(IDENTIFYING), st.integers(0, 99999).map(str), st.text(max_size=5)
    ),
    max_size=4,
)
LIMITS = st.sampled_from([1, 16, 64, None])


@settings(max_examples=400)
@given(TEXTS, IDENTIFIERS, LIMITS)
def test_cleaning_what_is_clean_changes_nothing(text: str, identifiers: frozenset[str], limit: int | None) -> None:
    once = clean(text, VOCABULARY, identifiers, limit=limit)
    assert clean(once.text, VOCABULARY, identifiers, limit=limit) == Cleaned(text=once.text, masked=0)


@settings(max_examples=400)
@given(TEXTS, IDENTIFIERS, LIMITS)
def test_the_output_is_ascii_no_longer_than_allowed_and_never_empty(
    text: str, identifiers: frozenset[str], limit: int | None
) -> None:
    result = clean(text, VOCABULARY, identifiers, limit=limit)
    assert result.text.isascii()
    assert result.text.isprintable()
    assert limit is None or len(result.text) <= limit
    assert bool(result.text) == bool(text)
    assert result.masked >= 0


@settings(max_examples=400)
@given(TEXTS, IDENTIFIERS)
def test_every_token_of_the_output_is_allowed_or_the_mask(text: str, identifiers: frozenset[str]) -> None:
    result = clean(text, VOCABULARY, identifiers, limit=None).text
    beside = {word for phrase in VOCABULARY.phrases for word in phrase} | {"sub", "ses", "x", "b", "t"}
    beside |= VOCABULARY.after.keys() | VOCABULARY.before.keys()
    for token in re.findall(r"(?:[A-Za-z0-9]|(?<=[0-9])\.(?=[0-9]))+", result):
        # Numbers that only a neighbour explains: as many digits as that may have, and round from four on.
        explained = token.isdigit() and (len(token) <= 3 or int(token) % 50 == 0)
        assert token == "X" or VOCABULARY.allows(token) or token.lower() in beside or explained


@settings(max_examples=400)
@given(TEXTS, IDENTIFIERS)
def test_no_identifier_is_a_token_of_the_output(text: str, identifiers: frozenset[str]) -> None:
    tokens = {token.lower() for token in re.findall("[A-Za-z0-9]+", clean(text, VOCABULARY, identifiers).text)}
    assert not {own for own in map(str.casefold, identifiers) if len(own) >= 3} & tokens


@settings(max_examples=300)
@given(st.sampled_from(IDENTIFYING), TEXTS, TEXTS)
def test_no_name_survives_whatever_stands_around_it(name: str, before: str, after: str) -> None:
    """Set off by separators, and not in a phrase that gives the word another meaning."""
    together = {word for phrase in VOCABULARY.phrases for word in phrase}
    if name.lower() in together or name.lower() in VOCABULARY.before or "-" in name:
        return
    result = clean(f"{before}^{name}^{after}", VOCABULARY, limit=None).text
    kept = clean(f"{before}^{after}", VOCABULARY, limit=None).text
    tokens = [token.lower() for token in re.findall("[A-Za-z]+", result)]
    assert name.lower() not in tokens or name.lower() in re.findall("[a-z]+", kept.lower())


@settings(max_examples=200)
@given(st.dates(), st.sampled_from(["%Y%m%d", "%d.%m.%Y", "%m/%d/%y", "%Y-%m-%d", "%d %b %Y", "%d%b%y", "%y%m%d"]))
def test_no_date_survives_in_any_form(day: object, form: str) -> None:
    text = f"t1_mprage {format(day, form)}"  # type: ignore[str-format]
    assert cleaned(text) == "t1_mprage X"


@settings(max_examples=200)
@given(st.from_regex(r"[0-9]{4,16}|[A-Z]{1,3}[0-9]{6,10}|[0-9]{2,4}-[0-9]{3,5}-[0-9]{2,4}", fullmatch=True))
def test_no_number_of_a_record_survives(number: str) -> None:
    assert cleaned(number) == "X"
