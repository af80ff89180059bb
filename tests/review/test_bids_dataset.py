"""The BIDS data set on disk: what the validator says of it, what is touched, and that a killed run leaves no trace."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from isal import igzip

from tasks.errors import DamagedRecordError
from tasks.review.bids import ImageFacts, NamingRule, name_images
from tasks.review.bids_dataset import DatasetImage, DatasetOutcome, write_dataset
from tasks.review.bids_standard import KNOWN_NAMES
from tasks.review.sidecar import read_sidecar, released_sidecar
from tests.review.bids_validator import errors, validate

REPOSITORY = Path(__file__).resolve().parents[2]


def write(folder: Path, images: list[DatasetImage]) -> DatasetOutcome:
    return write_dataset(folder / "nifti", images, record=folder / "record.json", title="A study", version="1.2.3")


def tree(folder: Path) -> dict[str, bytes]:
    """Read all files below a folder, hidden ones among them; empty folders end in a slash."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file():
            found[name] = path.read_bytes()
        elif not any(path.iterdir()):
            found[f"{name}/"] = b""
    return found


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """List inode and time of change of all files."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


# -- the validator's word ----------------------------------------------------------------------------------------------


def convert_all(source: Path, target: Path, dcm2niix: str) -> Iterator[tuple[ImageFacts, DatasetImage]]:
    """Convert all that converts below a folder as one visit, a subject a study; the names are still to be given."""
    target.mkdir()
    words = [dcm2niix, "-b", "y", "-ba", "n", "-z", "n", "-g", "i", "-d", "9", "-f", "%j_", "-o", target, source]
    subprocess.run(words, check=False, capture_output=True)
    for number, path in enumerate(sorted(target.glob("*.nii"))):
        sidecar = read_sidecar(path.with_suffix(".json")) if path.with_suffix(".json").exists() else {}
        shape = nibabel.load(path).shape
        ending = path.stem.rpartition("_")[2].lower()
        bval, bvec = path.with_suffix(".bval"), path.with_suffix(".bvec")
        packed = path.with_suffix(".nii.gz")
        packed.write_bytes(igzip.compress(path.read_bytes(), compresslevel=0, mtime=0))
        path.unlink()
        subject = f"{source.name}-{sidecar.get('StudyInstanceUID', '')[-5:]}"
        facts = ImageFacts(
            key=f"{source.name}_{number}",
            subject=subject,
            visit="ses-02",
            series_number=sidecar.get("SeriesNumber", 0),
            kind=ending if re.fullmatch(r"e[0-9]+|adc|roi[0-9]+|ph", ending) else "",
            sidecar=released_sidecar(sidecar),
            has_directions=bval.exists() and bvec.exists(),
            volumes=shape[3] if len(shape) > 3 else 1,
            slices=shape[2] if len(shape) > 2 else 1,
        )
        image = DatasetImage(
            name=name_images([facts])[facts.key],
            pseudonym=subject,
            image=packed,
            sidecar=facts.sidecar,
            bval=bval if bval.exists() else None,
            bvec=bvec if bvec.exists() else None,
            age=sidecar.get("PatientAge"),
            sex=sidecar.get("PatientSex", ""),
        )
        yield facts, image


Converted = list[tuple[ImageFacts, DatasetImage]]


@pytest.fixture(scope="module")
def converted(scanner_data: Path, dcm2niix: str, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    base = tmp_path_factory.mktemp("converted")
    return [
        pair
        for source in sorted(scanner_data.iterdir())
        if source.is_dir()
        for pair in convert_all(source, base / source.name, dcm2niix)
    ]


def named(pairs: Converted, rules: tuple[NamingRule, ...] = ()) -> list[DatasetImage]:
    names = name_images([facts for facts, _ in pairs], rules)
    return [replace(image, name=names[facts.key]) for facts, image in pairs]


UIH_RULES = (
    NamingRule(bids="dwi/dir-PA_dwi", description="dti_tra_dir16_PA*"),
    NamingRule(bids="anat/T1w", description="t1_gre_fsp_3d_sag"),
)


@pytest.mark.parametrize("rules", [(), UIH_RULES])
def test_real_series_make_a_valid_data_set(converted: Converted, rules: tuple[NamingRule, ...], tmp_path: Path) -> None:
    images = named(converted, rules)
    assert write(tmp_path, images).taken == ()
    assert errors(validate(tmp_path / "nifti")) == []

    placed = [image for image in images if image.name.datatype != "other"]
    assert len(images) > 60
    assert len(placed) == (31 if rules else 28)
    for image in images:
        path = tmp_path / "nifti" / image.name.path
        assert os.path.samefile(f"{path}.nii.gz", image.image)
        assert Path(f"{path}.json").exists()
        if image.name.suffix == "dwi":
            assert Path(f"{path}.bval").read_bytes() == image.bval.read_bytes()
            assert Path(f"{path}.bvec").read_bytes() == image.bvec.read_bytes()


def test_real_series_keep_their_warnings_to_what_nobody_can_know(converted: Converted, tmp_path: Path) -> None:
    write(tmp_path, named(converted, UIH_RULES))
    found = {issue.code for issue in validate(tmp_path / "nifti")}
    assert found <= {
        # Fields of a sidecar or of the description that are released nowhere, or that no header has.
        *("SIDECAR_KEY_RECOMMENDED", "JSON_KEY_RECOMMENDED", "B0_FIELD_IDENTIFIER_RECOMMENDED"),
        *("NO_AUTHORS", "TOO_FEW_AUTHORS"),
        # What was shown when is known to those who showed it.
        "EVENTS_TSV_MISSING",
    }


def synthetic(
    folder: Path,
    number: int,
    description: str,
    *,
    shape: tuple[int, ...] = (4, 4, 3),
    kind: str = "",
    visit: str = "ses-20240312",
    subject: str = "SUB-0001",
    sidecar: Mapping[str, Any] | None = None,
) -> tuple[ImageFacts, DatasetImage]:
    """Write a small image with the header that dcm2niix gives it, and b-values if it is called dwi."""
    fields = {
        "SeriesDescription": description,
        "ProtocolName": description,
        "Modality": "MR",
        "MagneticFieldStrength": 3,
        "ScanningSequence": "EP" if len(shape) > 3 or "epi" in description else "GR",
        "RepetitionTime": 1.5,
        "EchoTime": 0.03,
        "FlipAngle": 60,
        "PhaseEncodingDirection": "j",
        "TotalReadoutTime": 0.03,
        **(sidecar or {}),
    }
    key = f"{subject}_{visit}_{number:03d}_{kind or 'plain'}"
    rng = np.random.default_rng(sum(key.encode()))
    image = nibabel.Nifti1Image(rng.integers(0, 999, shape).astype(np.int16), np.diag([-2, 2, 2, 1]))
    image.header.set_xyzt_units("mm", "sec")
    if len(shape) > 3:
        image.header["pixdim"][4] = 1.5
    folder.mkdir(exist_ok=True)
    path = folder / f"{key}.nii.gz"
    path.write_bytes(igzip.compress(image.to_bytes(), mtime=0))
    bval, bvec = None, None
    if "dwi" in description:
        bval, bvec = folder / f"{key}.bval", folder / f"{key}.bvec"
        volumes = shape[3]
        bval.write_text(" ".join(["0", *["1000"] * (volumes - 1)]) + "\n")
        bvec.write_text("".join(" ".join(["0"] * volumes) + "\n" for _ in range(3)))
    facts = ImageFacts(
        key=key,
        subject=subject,
        visit=visit,
        series_number=number,
        kind=kind,
        sidecar=fields,
        has_directions=bval is not None,
        volumes=shape[3] if len(shape) > 3 else 1,
        slices=shape[2],
    )
    name = name_images([facts])[key]
    return facts, DatasetImage(name=name, pseudonym=subject, image=path, sidecar=fields, bval=bval, bvec=bvec)


def every_kind(folder: Path) -> Converted:
    """Make a session in which each data type has its images, and most of what tells images apart happens."""
    series, volume = (4, 4, 3, 5), (4, 4, 3)
    echo = [{"EchoNumber": number, "EchoTime": 0.005 * number} for number in range(4)]
    excited = {"RepetitionTimeExcitation": 0.006, "PulseSequenceType": "Spoiled Gradient Echo"}
    flip = [{**excited, "FlipAngle": angle} for angle in (3, 20)]
    inversion = {**excited, "FlipAngle": 5, "NumberShots": 96, "RepetitionTimePreparation": 5}
    phase = {"EchoTime1": 0.005, "EchoTime2": 0.0075, "EchoTime": None, "EchoNumber": 2}
    asl = {
        "ArterialSpinLabelingType": "PCASL",
        "PostLabelingDelay": 1.8,
        "LabelingDuration": 1.8,
        "BackgroundSuppression": True,
        "M0Type": "Absent",
        "TotalAcquiredPairs": 2,
        "RepetitionTimePreparation": 4,
        "MRAcquisitionType": "3D",
    }
    parts = [
        (1, "anat-scout", volume, "", {}),
        (2, "anat-T1w_acq-mprage", volume, "", {}),
        (3, "anat-T2w", volume, "", {}),
        (4, "anat-T2w", volume, "", {}),
        (5, "anat-FLAIR_ce-gd", volume, "", {}),
        *[(6, "anat-MEGRE", volume, f"e{number}", echo[number]) for number in (1, 2, 3)],
        *[(7, "anat-MEGRE", volume, f"e{number}-ph", echo[number]) for number in (1, 2, 3)],
        *[(8, "anat-MESE", volume, f"e{number}", echo[number]) for number in (1, 2)],
        (9, "anat-MP2RAGE", volume, "", {**inversion, "InversionTime": 0.7}),
        (10, "anat-MP2RAGE", volume, "", {**inversion, "InversionTime": 2.5}),
        (11, "anat-UNIT1", volume, "", {"ImageType": ["DERIVED", "PRIMARY", "M", "UNI"]}),
        (12, "anat-VFA", volume, "", flip[0]),
        (13, "anat-VFA", volume, "", flip[1]),
        (14, "anat-MTR", volume, "", {"MTState": True}),
        (15, "anat-MTR", volume, "", {"MTState": False}),
        (16, "anat-MP2RAGE_acq-bare", volume, "", {"InversionTime": 0.7}),
        (20, "func_task-rest_dir-AP_SBRef", volume, "", {}),
        (21, "func_task-rest_dir-AP", series, "", {}),
        (22, "func_task-rest_dir-AP", series, "ph", {}),
        *[(23, "func_task-words_run-01", series, f"e{number}", echo[number]) for number in (1, 2)],
        *[(24, "func_task-words_run-01", series, f"e{number}", echo[number]) for number in (1, 2)],
        (25, "func", series, "", {}),
        (26, "func_task-rest_dir-AP", series, "moco", {}),
        (30, "dwi_dir-AP", series, "", {}),
        (31, "dwi_dir-AP", series, "", {"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]}),
        *[(40, "fmap", volume, f"e{number}", echo[number]) for number in (1, 2)],
        (41, "fmap", volume, "e2-ph", phase),
        *[(42, "fmap_acq-two", volume, f"e{number}", echo[number]) for number in (1, 2)],
        *[(43, "fmap_acq-two", volume, f"e{number}-ph", echo[number]) for number in (1, 2)],
        (44, "fmap-magnitude_acq-hz", volume, "e1", {}),
        (44, "fmap-fieldmap_acq-hz", volume, "e2-fieldmaphz", {"Units": "Hz"}),
        (45, "fmap-epi_dir-AP", volume, "", {}),
        (46, "fmap-epi_dir-PA", series, "", {}),
        *[(47 + number, "fmap-TB1DAM", volume, "", flip[number]) for number in (0, 1)],
        (49, "fmap-TB1TFL_acq-famp", volume, "", {}),
        (50, "fmap-TB1map", volume, "", {}),
        (60, "perf-asl", series, "", asl),
        (61, "perf-asl", series, "", {}),
    ]
    return [
        synthetic(folder, number, description, shape=shape, kind=kind, sidecar=sidecar)
        for number, description, shape, kind, sidecar in parts
    ]


EVERY_KIND = """
anat/acq-mprage_T1w anat/run-1_T2w anat/run-2_T2w anat/ce-gd_FLAIR
anat/echo-1_part-mag_MEGRE anat/echo-2_part-mag_MEGRE anat/echo-3_part-mag_MEGRE
anat/echo-1_part-phase_MEGRE anat/echo-2_part-phase_MEGRE anat/echo-3_part-phase_MEGRE
anat/echo-1_MESE anat/echo-2_MESE anat/inv-1_MP2RAGE anat/inv-2_MP2RAGE anat/UNIT1
anat/flip-1_VFA anat/flip-2_VFA anat/mt-on_MTR anat/mt-off_MTR
func/task-rest_dir-AP_sbref func/task-rest_dir-AP_part-mag_bold func/task-rest_dir-AP_part-phase_bold
func/task-words_run-01_echo-1_bold func/task-words_run-01_echo-2_bold
func/task-words_run-02_echo-1_bold func/task-words_run-02_echo-2_bold func/task-unnamed_bold
dwi/dir-AP_dwi
fmap/magnitude1 fmap/magnitude2 fmap/phasediff
fmap/acq-two_magnitude1 fmap/acq-two_magnitude2 fmap/acq-two_phase1 fmap/acq-two_phase2
fmap/acq-hz_magnitude fmap/acq-hz_fieldmap fmap/dir-AP_epi fmap/dir-PA_epi
fmap/flip-1_TB1DAM fmap/flip-2_TB1DAM fmap/acq-famp_TB1TFL fmap/TB1map
perf/asl
other/series-001_image other/series-016_image other/series-026_moco other/series-031_image other/series-061_image
"""


def test_a_session_of_every_kind_is_valid(tmp_path: Path) -> None:
    images = named(every_kind(tmp_path / "staged"))
    short = {image.name.path.replace("sub-SUB0001_ses-20240312_", "").split("/", 2)[2] for image in images}
    assert short == set(EVERY_KIND.split())
    write(tmp_path, images)
    assert errors(validate(tmp_path / "nifti")) == []


RICH = {
    "EchoTime1": 0.005,
    "EchoTime2": 0.0075,
    "InversionTime": 0.9,
    "MTState": True,
    "Units": "arbitrary",
    "RepetitionTimeExcitation": 0.006,
    "RepetitionTimePreparation": 5,
    "NumberShots": 96,
    "MixingTime": 0.03,
    "PulseSequenceType": "GRE",
    "ArterialSpinLabelingType": "PASL",
    "PostLabelingDelay": 1.8,
    "M0Type": "Absent",
    "BackgroundSuppression": False,
    "BolusCutOffFlag": False,
    "TotalAcquiredPairs": 2,
    "MRAcquisitionType": "3D",
}


@pytest.mark.parametrize("volumes", [1, 5])
@pytest.mark.parametrize("fields", [RICH, {"EchoTime": None, "FlipAngle": None, "PhaseEncodingDirection": None}])
def test_whatever_a_rule_asks_for_is_valid(fields: Mapping[str, Any], volumes: int, tmp_path: Path) -> None:
    """Each suffix that the table has, for images with and without what BIDS requires of such: no error either way."""
    wishes = [f"{datatype}/{suffix}" for datatype, known in KNOWN_NAMES.items() for suffix in known]
    shape = (4, 4, 3, 5) if volumes > 1 else (4, 4, 3)
    pairs = [
        synthetic(
            tmp_path / "staged",
            number,
            f"s{number} dwi" if volumes > 1 else f"s{number} x",
            shape=shape,
            sidecar=fields,
        )
        for number, _ in enumerate(wishes, 1)
    ]
    rules = tuple(NamingRule(bids=bids, description=f"s{number} *") for number, bids in enumerate(wishes, 1))
    images = named(pairs, rules)
    write(tmp_path, images)
    assert errors(validate(tmp_path / "nifti")) == []
    asked = {(image.name.datatype, image.name.suffix) for image in images} - {("other", "")}
    assert len(asked) > 20
    if fields is RICH:
        assert len(asked) > 35


def test_the_validator_reads_the_images(tmp_path: Path) -> None:
    """The judge of the tests above is awake: a repetition time that the image contradicts is an error to it."""
    pair = synthetic(tmp_path / "staged", 3, "func_task-rest", shape=(4, 4, 3, 5), sidecar={"RepetitionTime": 9})
    write(tmp_path, named([pair]))
    assert {issue.code for issue in errors(validate(tmp_path / "nifti"))} == {"REPETITION_TIME_MISMATCH"}


def test_a_study_without_images_is_valid(tmp_path: Path) -> None:
    write(tmp_path, [])
    assert sorted(tree(tmp_path / "nifti")) == [".bidsignore", "README", "dataset_description.json"]
    assert errors(validate(tmp_path / "nifti")) == []


# -- who takes part ----------------------------------------------------------------------------------------------------


def test_participants(tmp_path: Path) -> None:
    people = [
        ("SUB-0001", "ses-20240312", 44.9, "F"),
        ("SUB-0001", "ses-20250312", 45.9, "F"),
        ("SUB-0002", "ses-1", 93.0, "M"),
        ("SUB-0003", "ses-1", 0, ""),
        ("SUB-0004", "ses-1", None, "M"),
        ("SUB-0004", "ses-2", None, "F"),
        ("odd\tname", "ses-1", 0.7, "O"),
    ]
    pairs = []
    for subject, visit, age, sex in people:
        facts, image = synthetic(tmp_path / "staged", 3, "anat-T1w", subject=subject, visit=visit)
        pairs.append((facts, replace(image, age=age, sex=sex)))
    write(tmp_path, named(pairs))
    head, *rows = (tmp_path / "nifti" / "participants.tsv").read_text().splitlines()
    assert head.split("\t") == ["participant_id", "pseudonym", "age", "sex"]
    assert [row.split("\t")[1:] for row in rows] == [
        ["n/a", "44", "F"],
        ["n/a", "89", "M"],
        ["n/a", "n/a", "n/a"],
        ["n/a", "n/a", "n/a"],
        ["odd name", "0", "O"],
    ]
    assert [row.split("\t")[0] for row in rows[:4]] == [f"sub-SUB000{number}" for number in (1, 2, 3, 4)]
    assert set(json.loads((tmp_path / "nifti" / "participants.json").read_text())) == {"pseudonym", "age", "sex"}
    assert errors(validate(tmp_path / "nifti")) == []


def test_columns_of_which_nothing_is_known_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, named([synthetic(tmp_path / "staged", 3, "anat-T1w")]))
    assert (tmp_path / "nifti" / "participants.tsv").read_text() == "participant_id\nsub-SUB0001\n"


# -- what is touched ---------------------------------------------------------------------------------------------------


@pytest.fixture
def session(tmp_path: Path) -> Converted:
    return [
        synthetic(tmp_path / "staged", 2, "anat-T1w"),
        synthetic(tmp_path / "staged", 3, "dwi", shape=(4, 4, 3, 5)),
        synthetic(tmp_path / "staged", 4, "whatever"),
        synthetic(tmp_path / "staged", 4, "anat-T1w", subject="SUB-0002"),
    ]


ANAT = "sub-SUB0001/ses-20240312/anat/sub-SUB0001_ses-20240312"


def test_a_second_run_touches_nothing(session: Converted, tmp_path: Path) -> None:
    first = write(tmp_path, named(session))
    before = stamps(tmp_path)
    second = write(tmp_path, named(session)[::-1])
    assert stamps(tmp_path) == before
    assert (first.kept, second.placed, second.removed) == (0, 0, 0)
    assert first.placed == second.kept == len(tree(tmp_path / "nifti"))


def test_a_new_series_moves_the_name_of_an_old_one(session: Converted, tmp_path: Path) -> None:
    write(tmp_path, named(session))
    old = (tmp_path / f"nifti/{ANAT}_T1w.nii.gz").stat().st_ino
    before = stamps(tmp_path / "nifti")
    session.append(synthetic(tmp_path / "staged", 7, "anat-T1w"))
    outcome = write(tmp_path, named(session))
    assert (outcome.placed, outcome.removed) == (4, 2)
    after = stamps(tmp_path / "nifti")
    assert after[f"{ANAT}_run-1_T1w.nii.gz"][0] == old
    assert f"{ANAT}_T1w.nii.gz" not in after
    unmoved = before.keys() & after.keys()
    assert len(unmoved) == len(before) - 2
    assert all(before[path] == after[path] for path in unmoved)


def test_names_that_two_images_exchange(session: Converted, tmp_path: Path) -> None:
    one, *others = named(session)
    other = others[-1]
    write(tmp_path, [one, other])
    write(tmp_path, [replace(one, name=other.name), replace(other, name=one.name)])
    assert os.path.samefile(tmp_path / f"nifti/{one.name.path}.nii.gz", other.image)
    assert os.path.samefile(tmp_path / f"nifti/{other.name.path}.nii.gz", one.image)


def test_what_is_no_longer_wanted_goes_with_its_folders(session: Converted, tmp_path: Path) -> None:
    write(tmp_path, named(session))
    write(tmp_path, named(session[:1]))
    assert sorted(tree(tmp_path / "nifti")) == [
        *(".bidsignore", "README", "dataset_description.json", "participants.json", "participants.tsv"),
        *(f"{ANAT}_T1w.json", f"{ANAT}_T1w.nii.gz"),
    ]
    write(tmp_path, [])
    assert sorted(tree(tmp_path / "nifti")) == [".bidsignore", "README", "dataset_description.json"]
    assert all(image.image.exists() for image in named(session))


def test_a_changed_image_or_file_is_put_right(session: Converted, tmp_path: Path) -> None:
    write(tmp_path, named(session))
    expected = tree(tmp_path / "nifti")
    (tmp_path / "nifti" / "README").write_text("mine")
    (tmp_path / f"nifti/{ANAT}_T1w.json").unlink()
    image = tmp_path / f"nifti/{ANAT}_T1w.nii.gz"
    image.unlink()
    image.write_bytes(b"another")
    assert write(tmp_path, named(session)).placed == 3
    assert tree(tmp_path / "nifti") == expected


def test_a_file_of_somebody_else_stays_and_is_named(session: Converted, tmp_path: Path) -> None:
    images = named(session)
    write(tmp_path, images)
    mine = {
        "participants.xlsx": b"table",
        f"{ANAT}_desc-mine_mask.nii.gz": b"mask",
        "sub-SUB0002/ses-20240312/anat/notes.txt": b"notes",
        "derivatives/.hidden": b"x",
    }
    for path, content in mine.items():
        (tmp_path / "nifti" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "nifti" / path).write_bytes(content)
    (tmp_path / "nifti" / "empty of mine").mkdir()
    for wanted in (images, images[:2], []):
        outcome = write(tmp_path, wanted)
        assert outcome.strangers == tuple(sorted(mine))
        assert outcome.taken == ()
        there = tree(tmp_path / "nifti")
        assert {path: there[path] for path in mine} == mine
        assert "empty of mine/" in there


@pytest.mark.parametrize("where", ["README", f"{ANAT}_T1w.nii.gz", "sub-SUB0001", f"{ANAT}_T1w.json/inside"])
def test_a_place_that_is_taken_is_left(session: Converted, where: str, tmp_path: Path) -> None:
    stranger = tmp_path / "nifti" / where
    stranger.parent.mkdir(parents=True)
    stranger.write_bytes(b"mine")
    outcome = write(tmp_path, named(session))
    assert stranger.read_bytes() == b"mine"
    assert outcome.strangers == (where,)
    assert outcome.taken
    assert all(path.startswith(where.removesuffix("/inside")) for path in outcome.taken)
    # Once it is gone, the next run fills the place.
    stranger.unlink()
    if where.endswith("/inside"):
        stranger.parent.rmdir()
    assert write(tmp_path, named(session)).taken == ()
    write(tmp_path / "fresh", named(session))
    assert tree(tmp_path / "nifti") == tree(tmp_path / "fresh" / "nifti")


def test_links_to_folders_are_not_followed(session: Converted, tmp_path: Path) -> None:
    images = named(session)
    write(tmp_path, images)
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "nifti" / "sub-SUB0001").rename(elsewhere)
    (tmp_path / "nifti" / "sub-SUB0001").symlink_to(elsewhere)
    before = tree(elsewhere)
    outcome = write(tmp_path, images[:1])
    assert tree(elsewhere) == before
    assert outcome.strangers == ("sub-SUB0001",)
    assert len(outcome.taken) == 2


def test_without_hard_links_it_holds_copies(
    session: Converted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(os, "link", refuse)
    images = named(session)
    write(tmp_path, images)
    before = stamps(tmp_path / "nifti")
    for image in images:
        copy = tmp_path / f"nifti/{image.name.path}.nii.gz"
        assert copy.read_bytes() == image.image.read_bytes()
        assert not os.path.samefile(copy, image.image)
    assert write(tmp_path, images).placed == 0
    assert stamps(tmp_path / "nifti") == before


def test_equal_images_give_equal_bytes_and_no_time(session: Converted, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / name, named(session))
    one = tree(tmp_path / "one")
    assert one == tree(tmp_path / "two")
    description = json.loads(one["nifti/dataset_description.json"])
    assert description == {
        "Name": "A study",
        "BIDSVersion": "1.11.1",
        "DatasetType": "raw",
        "GeneratedBy": [{"Name": "scanward", "Version": "1.2.3"}],
    }


def test_unsafe_paths_and_doubles_are_refused(session: Converted, tmp_path: Path) -> None:
    image = named(session)[0]
    with pytest.raises(ValueError, match="one path"):
        write(tmp_path, [image, image])
    for path in ("../x", "/x", "sub-a/../../x", "sub-a//x", "sub-a/.x", ""):
        with pytest.raises(ValueError, match="not safe"):
            write(tmp_path, [replace(image, name=replace(image.name, path=path))])
    assert not (tmp_path / "nifti").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 2, "files": []}', b'{"version": 1, "files": [1]}'])
def test_a_damaged_record_is_named(content: bytes, session: Converted, tmp_path: Path) -> None:
    (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(DamagedRecordError):
        write(tmp_path, named(session))
    assert not (tmp_path / "nifti").exists()


def test_a_record_that_points_out_of_the_data_set_removes_nothing_there(session: Converted, tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"x")
    files = ["../precious", os.fspath(tmp_path / "precious"), "sub-a/../../precious"]
    (tmp_path / "record.json").write_text(json.dumps({"version": 1, "files": files}))
    write(tmp_path, named(session))
    assert (tmp_path / "precious").read_bytes() == b"x"


def test_without_its_record_a_data_set_is_taken_over_where_it_is_right(session: Converted, tmp_path: Path) -> None:
    write(tmp_path, named(session))
    before = stamps(tmp_path / "nifti")
    (tmp_path / "record.json").unlink()
    outcome = write(tmp_path, named(session)[:3])
    # Nobody knows any longer whose the fourth image is.
    other = "sub-SUB0002/ses-20240312/anat/sub-SUB0002_ses-20240312_T1w"
    assert outcome.strangers == ("participants.tsv", f"{other}.json", f"{other}.nii.gz")
    assert outcome.taken == ("participants.tsv",)
    assert stamps(tmp_path / "nifti") == before


def test_an_image_that_is_not_there_is_named(session: Converted, tmp_path: Path) -> None:
    images = named(session)
    images[1].image.unlink()
    with pytest.raises(DamagedRecordError):
        write(tmp_path, images)


# -- killed ------------------------------------------------------------------------------------------------------------

_KILLED = """
import os, pickle, sys
from pathlib import Path
from tasks.review.bids_dataset import write_dataset

base = Path(sys.argv[1])
stages = pickle.loads((base / "stages").read_bytes())
moment = 0
while True:
    child = os.fork()
    if child == 0:
        steps = 0
        def counted(name):
            act = getattr(os, name)
            def step(*words, **named):
                global steps
                steps += 1
                if steps == moment:
                    os.kill(os.getpid(), 9)
                return act(*words, **named)
            setattr(os, name, step)
        for name in ("link", "replace", "unlink", "rmdir", "mkdir", "fsync"):
            counted(name)
        here = base / "killed" / str(moment)
        write_dataset(here / "nifti", stages[0], record=here / "record.json", title="A study", version="1.2.3")
        steps = 0
        moment += 1
        write_dataset(here / "nifti", stages[1], record=here / "record.json", title="A study", version="1.2.3")
        os._exit(0)
    moment += 1
    if os.waitpid(child, 0)[1] == 0:
        break
"""


def test_killed_at_every_step_and_started_again(session: Converted, tmp_path: Path) -> None:
    """From one study to another, with images that come, go and move; `kill -9` before each act on the disk in turn."""
    first = named(session)
    second = named([*session[1:2], session[3], synthetic(tmp_path / "staged", 9, "anat-T1w", subject="SUB-0002")])
    kill_at_every_step(tmp_path, first, second)
    for folder in (tmp_path / "killed").iterdir():
        write(folder, second)
    write(tmp_path / "fresh", second)
    expected = tree(tmp_path / "fresh")
    moments = list((tmp_path / "killed").iterdir())
    assert len(moments) > 30, "a test in which nothing was killed proves nothing"
    for folder in moments:
        assert tree(folder) == expected, folder.name


def kill_at_every_step(base: Path, first: list[DatasetImage], second: list[DatasetImage]) -> None:
    (base / "stages").write_bytes(pickle.dumps((first, second)))
    ended = subprocess.run(
        [sys.executable, "-c", _KILLED, os.fspath(base)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.fspath(REPOSITORY)},
    )
    assert ended.returncode == 0, ended.stderr
