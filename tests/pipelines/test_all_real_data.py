"""The whole graph on scanners' real files, all vendors in one dump: nothing is lost, nobody can be found outside."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import warnings
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import nibabel
import pydicom
import pytest
from pydicom.datadict import DicomDictionary

from pipelines.deidentify import find_dcm2niix
from tests.pipelines.command import (
    Ended,
    counts_of,
    digests,
    exported_images,
    luigi,
    rows_of,
    unfinished,
    use_secret,
    viewer,
    with_members,
    write_study,
)

DATES = ("patient_birth_date", "study_date", "series_date", "acquisition_date", "content_date", "acquisition_datetime")
UIDS = ("study_instance_uid", "series_instance_uid", "sop_instance_uid")
NAMES = ("patient_name", "referring_physician_name")
OTHERS = (
    "patient_id",
    "other_patient_ids",
    "accession_number",
    "study_id",
    "institution_name",
    "station_name",
    "device_serial_number",
)

VENDORS = frozenset(
    {"agfa", "general electric", "ge", "hitachi", "philips", "siemens", "toshiba", "uih", "united imaging"}
)
"""Names that stand in identifying attributes of some files and in the manufacturer's of most."""

WORDS = frozenset(word.casefold() for entry in DicomDictionary.values() for word in entry[2].split())
"""The standard's own: test images are made for patients called *Name^Patient* or *Modality^LUT*."""

SHORTEST = 4
ENCODINGS = ("utf-8", "latin-1", "gb18030", "iso2022_jp", "euc_kr")


@dataclass(frozen=True, slots=True, kw_only=True)
class RealRun:
    """One run on real files, and all that it said with Luigi's most talkative log."""

    dump: Path
    workspace: Path
    ended: Ended
    content: dict[str, str]
    """Digests of the dump's files before the run."""


@pytest.fixture(scope="module")
def real(scanner_data: Path, tmp_path_factory: pytest.TempPathFactory) -> RealRun:
    """Run the graph on all real files at once."""
    base = tmp_path_factory.mktemp("real")
    workspace = base / "w"
    use_secret(workspace)
    content = digests(scanner_data)
    study = write_study(base / "study.toml", dump=scanner_data, workspace=workspace, files=1000, series=10)
    ended = luigi("PrepareReview", "--study", study, "--workers", 2, "--log-level", "DEBUG", cwd=base)
    return RealRun(dump=scanner_data, workspace=workspace, ended=ended, content=content)


def test_it_ends_well_and_leaves_the_dump_alone(real: RealRun) -> None:
    assert real.ended.code == 0, real.ended.said[-3000:]
    assert "Traceback" not in real.ended.said
    assert digests(real.dump) == real.content
    assert unfinished(real.workspace) == []
    assert not (real.workspace / "identified" / "logs" / "faults.log").exists()


def test_the_sums_close(real: RealRun) -> None:
    sorted_tree = digests(real.workspace / "identified" / "sorted")
    assert rows_of(real.workspace, "opened"), "there is a zip among the real files"
    came_in = with_members(real.dump, real.workspace)
    rejected = {came_in[row["file"]] for row in rows_of(real.workspace, "rejects")}
    assert len(set(sorted_tree.values())) == len(sorted_tree)
    assert set(came_in.values()) == set(sorted_tree.values()) | rejected
    assert not set(sorted_tree.values()) & rejected
    duplicates, rejects = rows_of(real.workspace, "duplicates"), rows_of(real.workspace, "rejects")
    assert len(came_in) == len(sorted_tree) + len(duplicates) + len(rejects)

    exported = exported_images(real.workspace)
    quarantined = rows_of(real.workspace, "quarantine")
    assert len(sorted_tree) == len(exported) + len(quarantined)
    counts = counts_of(real.workspace, "deidentify")
    assert (counts["exported"], counts["quarantined"]) == (len(exported), len(quarantined))
    assert len(exported) > len(sorted_tree) // 2
    for row in quarantined:
        assert row["meaning"], row["reason"]


def test_every_exported_image_opens(real: RealRun) -> None:
    seen = set()
    for path in sorted((real.workspace / "released" / "export").rglob("*.dcm")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom warns of what the original has as well
            dataset = pydicom.dcmread(path)
            for _ in dataset.iterall():
                pass
        assert dataset.PatientIdentityRemoved == "YES"
        assert dataset.PatientID == path.relative_to(real.workspace / "released" / "export").parts[0]
        seen.add(dataset.SOPInstanceUID)
    assert len(seen) > 1000


def test_the_manifest_is_sound(real: RealRun) -> None:
    ended = viewer("check", real.workspace / "released" / "review" / "manifest.json", "--json", cwd=real.workspace)
    assert ended.code in (0, 4), ended.said  # 4: some of the sets hold series with gaps and the like
    assert "Traceback" not in ended.said


def identifying_values(row: sqlite3.Row) -> set[str]:
    """Gather what one row of the index tells that must not be found in an export."""
    found: set[str] = set()
    for column in (*DATES, *UIDS, *NAMES, *OTHERS):
        for part in row[column].split("\\"):
            found.add(part)
            if column in DATES:
                found.add(part[:8])
            if column in NAMES:
                found.update(re.split(r"[\^=]", part))
    found = {value.strip().casefold() for value in found}
    uids_of_the_standard = {value for value in found if value in pydicom.uid.UID_dictionary}
    told = found - VENDORS - WORDS - uids_of_the_standard
    return {value for value in told if len(value) >= SHORTEST and len(set(value)) > 1}


def index_of(workspace: Path) -> dict[str, set[str]]:
    """Read the index: place in the sorted tree -> what identifies the file there."""
    connection = sqlite3.connect(workspace / "identified" / "index.db")
    connection.row_factory = sqlite3.Row
    try:
        rows = connection.execute(
            "SELECT target, file.*, header.* FROM placement JOIN file ON file.id = placement.file "
            "JOIN header ON header.id = file.header"
        ).fetchall()
    finally:
        connection.close()
    return {row["target"]: identifying_values(row) for row in rows}


def is_short_number(value: str) -> bool:
    """Tell a number that other files may hold by chance, such as a Study ID of 1115."""
    return value.isdecimal() and len(value) < 6


def identifiers_of(workspace: Path) -> set[str]:
    """Gather from the index every value that must be found nowhere outside `identified/`."""
    return {value for values in index_of(workspace).values() for value in values if not is_short_number(value)}


def leaks(identifiers: set[str], content: bytes) -> set[str]:
    """List the identifiers that occur in some bytes, whatever their case.

    A number counts where digits end around it, a short number or a word of letters alone where letters and digits do:
    *Ward* is not in *afterwards*, nor 1897 in the tag 1897be31.
    """
    # In a digest any six digits come up some day.
    lower = re.sub(rb"[0-9a-f]{64}", b"", content.lower())
    found = set()
    for value in identifiers:
        for form in {value.encode(encoding, "ignore") for encoding in ENCODINGS}:
            if len(form) < SHORTEST or form not in lower:
                continue
            around = rb"%s"
            if value.isdecimal() and len(value) >= 6:
                around = rb"(?<![0-9])%s(?![0-9])"
            elif value.isdecimal() or (value.isascii() and value.isalpha()):
                around = rb"(?<![0-9a-z])%s(?![0-9a-z])"
            if re.search(around % re.escape(form), lower):
                found.add(value)
    return found


def without_pixels(path: Path) -> bytes:
    """Read a DICOM file and leave the value of its pixel data out."""
    content = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path)
        for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"):
            if keyword in dataset:
                element = dataset.get_item(keyword)
                begin = element.value_tell if hasattr(element, "value_tell") else element.file_tell
                content = content[:begin] + content[begin + len(element.value) :]
    return content


def test_the_search_finds_what_it_searches_for(real: RealRun) -> None:
    """The alarm rings: nearly every identifier is found in the dump, so a search that finds none means something."""
    identifiers = identifiers_of(real.workspace)
    assert len(identifiers) > 1000
    sorted_files = sorted((real.workspace / "identified" / "sorted").rglob("*.dcm"))
    blob = b"\n".join(without_pixels(path) for path in random.Random(1).sample(sorted_files, 40))
    assert len(leaks(identifiers, blob)) > 40


def test_no_identifier_is_found_outside(real: RealRun) -> None:
    identifiers = identifiers_of(real.workspace)
    released = real.workspace / "released"
    names = "\n".join(os.fspath(path.relative_to(released)) for path in released.rglob("*"))
    texts = {"names": names.encode(), "said": real.ended.said.encode()}
    files = [path for path in sorted(released.rglob("*")) if path.is_file()]
    texts["export"] = b"\n".join(without_pixels(path) for path in files if path.suffix == ".dcm")
    texts["others"] = b"\n".join(path.read_bytes() for path in files if path.suffix not in (".dcm", ".png", ".gz"))
    images = [path for path in files if path.suffix == ".gz"]
    assert images
    # An image's own words stand in its header; four letters of a name stand among its voxels by chance.
    texts["images"] = b"\n".join(gzip.decompress(path.read_bytes())[:352] for path in images)
    assert all(gzip.decompress(path.read_bytes())[348:352] == bytes(4) for path in images), "no header extensions"
    found = {name: leaks(identifiers, text) for name, text in texts.items()}
    assert not any(found.values()), found


def test_no_file_tells_its_own_numbers(real: RealRun) -> None:
    """A short number is searched for where it would mean something: in the export of its own file."""
    export = real.workspace / "released" / "export"
    connection = sqlite3.connect(real.workspace / "identified" / "export.db")
    try:
        exported = dict(connection.execute("SELECT source, target FROM outcome WHERE reason = ''"))
    finally:
        connection.close()
    searched = 0
    for source, values in index_of(real.workspace).items():
        numbers = {value for value in values if is_short_number(value)}
        if numbers and source in exported:
            searched += 1
            assert not leaks(numbers, without_pixels(export / exported[source])), exported[source]
    assert searched


def test_no_name_of_the_dump_is_found_outside(real: RealRun) -> None:
    """Folders and files are often called after patients; their names are in the lists of `identified/` alone."""
    names = {part.casefold() for name in real.content for part in Path(name).parts}
    names = {name for name in names if len(name) >= 8 and not Path(name).stem.isdecimal()}
    said = "\n".join(line for line in real.ended.said.splitlines() if os.fspath(real.workspace) not in line)
    assert not [name for name in names if name in said.casefold()]
    released = real.workspace / "released"
    below = "\n".join(os.fspath(path.relative_to(released)) for path in released.rglob("*")).casefold()
    manifest = (released / "review" / "manifest.json").read_text("utf-8").casefold()
    assert not [name for name in names if name in below or name in manifest]


def test_every_series_has_the_voxels_that_a_person_gets_from_the_source(real: RealRun, tmp_path: Path) -> None:
    """What does not convert, does not for anybody, and says why."""
    with closing(sqlite3.connect(real.workspace / "identified" / "export.db")) as connection:
        sources = dict(connection.execute("SELECT target, source FROM outcome WHERE reason = ''"))
    review = real.workspace / "released" / "review"
    entries = json.loads((review / "manifest.json").read_bytes())["entries"]
    assert len(entries) > 25
    converted = 0
    for number, entry in enumerate(entries):
        by_hand = tmp_path / str(number)
        (by_hand / "in").mkdir(parents=True)
        for place, record in enumerate(entry["instances"]):
            source = sources[record["path"].removeprefix("../export/")]
            (by_hand / "in" / f"{place:06d}.dcm").symlink_to(real.workspace / "identified" / "sorted" / source)
        command = [find_dcm2niix(), "-z", "n", "-b", "n", "-g", "i", "-f", "%s_%e", "-o", by_hand, by_hand / "in"]
        subprocess.run(command, check=False, capture_output=True)
        wanted = sorted(_voxels(path) for path in by_hand.glob("*.nii"))
        images = [review / image["path"] for image in entry["images"]]
        found = sorted(_voxels(path) for path in images)
        codes = {problem["code"] for problem in entry["problems"]}
        if "half-converted" in codes:
            assert set(found) <= set(wanted), entry["entry_id"]
        elif "not-converted" in codes or not wanted:
            assert entry["no_images"] or entry["images"] or not wanted, entry["entry_id"]
        else:
            assert found == wanted, entry["entry_id"]
            converted += 1
        if not images:
            assert entry["no_images"], entry["entry_id"]
        shutil.rmtree(by_hand)
    assert converted > 20


def _voxels(path: Path) -> str:
    image = nibabel.load(path)
    content = image.dataobj.get_unscaled().tobytes()
    return f"{image.shape} {hashlib.sha256(content).hexdigest()}"


def test_pictures_hold_no_text(real: RealRun) -> None:
    """A PNG can carry texts beside its pixels; ours carry none."""
    for path in (real.workspace / "released" / "review" / "montage").glob("*.png"):
        kinds = re.findall(rb"(tEXt|zTXt|iTXt|eXIf|tIME)", path.read_bytes()[:200])
        assert not kinds, hashlib.sha256(path.read_bytes()).hexdigest()
