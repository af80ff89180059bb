"""The measurements measure what they say: their dump is of real headers, the same each time, and all of it is sorted.

No time is asserted here: `benchmarks/README.md` has the figures.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pydicom
import pytest

from tasks.dicom.elements import walk
from tests.conftest import REPOSITORY

FILES = 250
SEED = 3


def _run(script: str, scanner_data: Path, *arguments: str | Path) -> str:
    return subprocess.run(
        [sys.executable, REPOSITORY / "benchmarks" / script, *arguments],
        env={**os.environ, "SCANWARD_TEST_DATA": str(scanner_data)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def _build(scanner_data: Path, dump: Path, *options: str) -> str:
    return _run("dump.py", scanner_data, dump, "--files", str(FILES), "--seed", str(SEED), *options)


@pytest.fixture(scope="module")
def dump(scanner_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    dump = tmp_path_factory.mktemp("built") / "dump"
    _build(scanner_data, dump)
    return dump


def test_one_seed_gives_one_dump(scanner_data: Path, dump: Path, tmp_path: Path) -> None:
    _build(scanner_data, tmp_path / "again")
    _run("dump.py", scanner_data, tmp_path / "other", "--files", str(FILES), "--seed", str(SEED + 1))
    first = {path.name: path.read_bytes() for path in dump.iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == first
    assert not {path.name for path in (tmp_path / "other").iterdir()} & first.keys()


def test_built_files_are_whole_images_with_names_of_their_own(dump: Path) -> None:
    instances = set()
    numbers = defaultdict(set)
    for path in dump.iterdir():
        dataset = pydicom.dcmread(path)
        assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
        for uid in (dataset.SOPInstanceUID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID):
            assert uid.is_valid
        assert dataset.pixel_array.shape == (dataset.Rows, dataset.Columns)
        instances.add(dataset.SOPInstanceUID)
        numbers[dataset.SeriesInstanceUID].add(int(dataset.InstanceNumber))
    assert len(instances) == FILES
    assert all(found == set(range(1, len(found) + 1)) for found in numbers.values())


def test_group_lengths_count_what_follows(dump: Path) -> None:
    seen = 0
    for path in dump.iterdir():
        data = path.read_bytes()
        begin = 144 + int.from_bytes(data[140:144], "little")
        elements = [one for one in walk(data, begin, explicit=True) if one.depth == 0 and one.tag >> 16 != 0xFFFE]
        for one in (one for one in elements if not one.tag & 0xFFFF):
            next_group = min((other.start for other in elements if other.tag >> 16 > one.tag >> 16), default=len(data))
            assert one.end + int.from_bytes(data[one.value : one.end], "little") == next_group
            seen += 1
    assert seen


def test_folders_part_the_same_files(scanner_data: Path, dump: Path, tmp_path: Path) -> None:
    _build(scanner_data, tmp_path / "parted", "--folders")
    parted = {path.name: path.read_bytes() for path in (tmp_path / "parted").rglob("*") if path.is_file()}
    assert parted == {path.name: path.read_bytes() for path in dump.iterdir()}
    assert all(path.is_dir() for path in (tmp_path / "parted").iterdir())


def test_headers_alone_are_small_and_say_the_same(scanner_data: Path, dump: Path, tmp_path: Path) -> None:
    _build(scanner_data, tmp_path / "headers", "--headers-only")
    for path in (tmp_path / "headers").iterdir():
        assert path.stat().st_size <= 4096
        small, whole = pydicom.dcmread(path), pydicom.dcmread(dump / path.name, stop_before_pixels=True)
        for keyword in ("PatientID", "SOPInstanceUID", "SeriesInstanceUID", "InstanceNumber", "ImageType", "EchoTime"):
            assert small.get(keyword) == whole.get(keyword)


def test_every_way_of_sorting_gives_all_files_back(scanner_data: Path, dump: Path, tmp_path: Path) -> None:
    options = ("--parts", "sort", "--rounds", "1", "--sample", "20")
    chart = tmp_path / "chart.png"
    printed = _run("sort.py", scanner_data, "--dump", dump, "--folder", tmp_path, "--chart", chart, *options)
    rows = re.findall(r"^\| (.*?) \(.*\| ([\d,]+) of ([\d,]+) \|$", printed, re.MULTILINE)
    assert {"cp -al", "scanward", "scanward, unchanged dump"} <= {name for name, _, _ in rows}
    assert all(out == given for _, out, given in rows)
    assert chart.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chart.png"]
    assert len(list(dump.iterdir())) == FILES


@pytest.mark.long
def test_the_viewers_times_are_measured(scanner_data: Path) -> None:
    out = _run("viewer.py", scanner_data, "--cases", "4", "--rounds", "3", "--dwell", "0.5")
    rows = dict(re.findall(r"^\| ([^|]+) \| ([0-9.]+) ?\w* \|", out, re.MULTILINE))
    assert len(rows) == 9
    assert all(float(value) > 0 for value in rows.values())
