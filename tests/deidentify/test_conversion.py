"""What a converter reads from an export is what it reads from the source, but for identity; else nothing leaves."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.deidentify import export as exporting
from tasks.deidentify.audit.conversion import (
    IDENTITY_FIELDS,
    Converter,
    Sought,
    Verdict,
    converter_version,
    differences,
    promises_same_conversion,
    read_sidecar,
)
from tasks.deidentify.reasons import explain
from tasks.deidentify.rewrite import Rewritten, rewrite
from tasks.errors import DiskFullError
from tasks.files import TEMPORARY_PREFIX, sweep_temporaries
from tests.builders.disks import tiny_disk
from tests.deidentify.conversion import OTHERS, SAMPLE, Place, convert, files_of
from tests.deidentify.oracle import SUBJECT

SIEMENS, XA, UIH, GE = SAMPLE[2], SAMPLE[1], SAMPLE[5], SAMPLE[3]

CRITICAL = {
    *("EchoTime", "RepetitionTime", "InversionTime", "FlipAngle", "SliceTiming", "SliceThickness", "ImageType"),
    *("PhaseEncodingDirection", "PhaseEncodingAxis", "TotalReadoutTime", "EffectiveEchoSpacing", "DwellTime"),
    *("PartialFourier", "MultibandAccelerationFactor", "ParallelReductionFactorInPlane", "PatientPosition"),
    *("AcquisitionTime", "SeriesNumber", "EchoNumber", "PhilipsScaleSlope", "ImagingFrequency"),
}
"""What nobody can analyse a scan without: none of it may ever be taken for identity."""

IDENTIFYING = (
    *("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "StudyID", "ReferringPhysicianName"),
    *("StudyInstanceUID", "SeriesInstanceUID", "AcquisitionDateTime"),
    *("InstitutionName", "InstitutionAddress", "StationName", "DeviceSerialNumber"),
)
"""Fields that tell who, where, when, or on which machine, and hold nothing else."""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(root=tmp_path / "workspace")


@pytest.fixture
def siemens(scanner_data: Path) -> list[Path]:
    return files_of(scanner_data / SIEMENS)


@pytest.fixture
def converter_that(dcm2niix: str, tmp_path: Path) -> Callable[[str], str]:
    """Write a program that does as the converter, and something before; `$last` is the folder it is to read."""

    def write(does: str) -> str:
        path = tmp_path / "program"
        path.write_text(f'#!/bin/sh\nfor last; do :; done\n{does}\nexec {shlex.quote(dcm2niix)} "$@"\n')
        path.chmod(0o700)
        return str(path)

    return write


# ---- real series


@pytest.mark.parametrize("series", [*SAMPLE, *(pytest.param(name, marks=pytest.mark.long) for name in OTHERS)])
def test_the_export_converts_to_the_same_images_vectors_and_parameters(
    series: str, scanner_data: Path, dcm2niix: str, place: Place, tmp_path: Path
) -> None:
    paths = files_of(scanner_data / series)
    rows = place.run(paths, dcm2niix)
    assert {(row.reason, row.conversion) for row in rows} == {("", Verdict.EQUAL)}
    assert len(place.exported()) == len(rows) == len(paths)
    assert list(place.identified.iterdir()) == []

    before = convert(dcm2niix, scanner_data / series, tmp_path / "before")
    after = convert(dcm2niix, place.exported()[0].parent, tmp_path / "after")
    assert before.keys() == after.keys()
    assert any(name.endswith(".nii") for name in before)
    for name in before:
        if name.endswith(".json"):
            old, new = json.loads(before[name]), json.loads(after[name])
            assert new["PatientName"] == new["PatientID"] == SUBJECT.pseudonym
            assert not {
                field for field in IDENTIFYING if old.get(field) not in (None, "") and old[field] == new.get(field)
            }
            lost = old.keys() - new.keys() - set(IDENTIFYING)
            assert lost <= {"WipMemBlock"}


@pytest.mark.parametrize("series", SAMPLE)
def test_a_sidecar_is_read_as_a_reader_of_json_reads_it(
    series: str, scanner_data: Path, dcm2niix: str, tmp_path: Path
) -> None:
    for name, content in convert(dcm2niix, scanner_data / series, tmp_path / "out").items():
        if name.endswith(".json"):
            fields = read_sidecar(tmp_path / "out" / name)
            assert {field: json.loads(value) for field, value in fields.items()} == json.loads(content)
            assert len(fields) > 30


def test_numbers_that_no_reader_of_json_takes_are_compared(tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text('{\n\t"SAR": nan,\n\t"SliceTiming": [\n\t\t0,\n\t\t-inf\t],\n\t"EchoTime": 0.03\n}\n')
    assert read_sidecar(old) == {"SAR": "nan", "SliceTiming": "[\n\t\t0,\n\t\t-inf\t]", "EchoTime": "0.03"}
    new.write_text(old.read_text().replace("inf", "1"))
    assert differences(old, new) == {"SliceTiming"}
    new.write_text("")
    assert {"SAR", "EchoTime"} < differences(old, new)
    old.write_text("no sidecar")
    assert differences(old, new) == {".json"}


def test_nothing_critical_is_taken_for_identity() -> None:
    assert not CRITICAL & IDENTITY_FIELDS.keys()
    assert set(IDENTIFYING) <= IDENTITY_FIELDS.keys()
    assert all(reason.endswith(".") for reason in IDENTITY_FIELDS.values())


def test_what_a_profile_promises() -> None:
    assert promises_same_conversion({"113100", "113111", "113107"})
    assert promises_same_conversion({"113100", "113111", "113106"})
    assert not promises_same_conversion({"113100", "113111"})
    assert not promises_same_conversion({"113100", "113107", "113108"})


# ---- images


@pytest.fixture(scope="module")
def image(scanner_data: Path, dcm2niix: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("image")
    convert(dcm2niix, scanner_data / SIEMENS, folder / "out")
    return folder / "out" / "3_1.nii"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(position=st.one_of(st.integers(0, 351), st.integers(352, 104_031)), bit=st.integers(0, 7))
def test_every_bit_of_an_image_counts_but_those_of_its_texts(image: Path, position: int, bit: int) -> None:
    content = bytearray(image.read_bytes())
    content[position] ^= 1 << bit
    flipped = image.with_name("flipped.nii")
    flipped.write_bytes(content)
    is_text = any(begin <= position < end for begin, end in ((14, 32), (148, 252), (328, 344)))
    assert differences(image, flipped) == (set() if is_text else {".nii"})


def test_a_longer_image_is_another(image: Path, tmp_path: Path) -> None:
    (tmp_path / "longer.nii").write_bytes(image.read_bytes() + b"\0")
    assert differences(image, tmp_path / "longer.nii") == {".nii"}


# ---- sabotage of the export


def _blank_slice_times(content: bytes) -> bytes:
    """Write zeros for the times in the CSA image header."""
    at = content.index(b"MosaicRefAcqTimes\0")
    return content[:at] + _zeros(content[at : at + 500]) + content[at + 500 :]


def _zeros(content: bytes) -> bytes:
    return re.sub(rb"\d+\.\d{3,}", lambda match: b"0" * len(match[0]), content)


def _turn_phase(content: bytes) -> bytes:
    """Turn the sign of the phase encoding in the CSA image header, where a value begins 100 bytes behind its name."""
    at = content.index(b"PhaseEncodingDirectionPositive\0") + 100
    return content[:at] + {b"0": b"1", b"1": b"0"}[content[at : at + 1]] + content[at + 1 :]


def _edited(change: Callable[[pydicom.Dataset], None]) -> Callable[[bytes], bytes]:
    def edit(content: bytes) -> bytes:
        dataset = pydicom.dcmread(io.BytesIO(content))
        change(dataset)
        stream = io.BytesIO()
        dataset.save_as(stream)
        return stream.getvalue()

    return edit


def _remove_directions(dataset: pydicom.Dataset) -> None:
    del dataset[0x0065, 0x1037]


def _turn_polarity(dataset: pydicom.Dataset) -> None:
    """Turn the sign of the phase encoding, (0021,xx1C), in every frame of Siemens XA."""
    turned = 0
    for element in dataset.iterall():
        if element.tag.group == 0x0021 and element.tag.element & 0xFF == 0x1C:
            element.value = 1 - int(element.value)
            turned += 1
    assert turned


def _change_echo_time(dataset: pydicom.Dataset) -> None:
    dataset.EchoTime = float(dataset.EchoTime) + 1


def _flip_a_voxel(content: bytes) -> bytes:
    at = content.index(b"\xe0\x7f\x10\x00OW") + 12 + 20_000
    return content[:at] + bytes([content[at] ^ 0x01]) + content[at + 1 :]


SABOTAGE = {
    "slice times blanked": (SIEMENS, _blank_slice_times, "SliceTiming"),
    "phase encoding turned, Siemens V": (SIEMENS, _turn_phase, "PhaseEncodingDirection"),
    "phase encoding turned, Siemens XA": (XA, _edited(_turn_polarity), "PhaseEncodingDirection"),
    "directions removed": (UIH, _edited(_remove_directions), ".bvec"),
    "another echo time": (SIEMENS, _edited(_change_echo_time), "EchoTime"),
    "a voxel flipped": (SIEMENS, _flip_a_voxel, ".nii"),
}


@pytest.fixture
def without_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch off the audit of single files: what is noticed is noticed by the conversion alone."""
    monkeypatch.setattr(exporting, "audit_file", lambda *_: [])


def spoil(monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes]) -> None:
    """Make of the rewriter a faulty one."""

    def faulty(source: bytes, **how: object) -> Rewritten:
        result = rewrite(source, **how)  # type: ignore[arg-type]
        spoiled = damage(result.content)
        assert spoiled != result.content
        return dataclasses.replace(result, content=spoiled)

    monkeypatch.setattr(exporting, "rewrite", faulty)


@pytest.mark.parametrize("name", SABOTAGE)
@pytest.mark.usefixtures("without_audit")
def test_what_is_lost_on_the_way_is_noticed_and_the_series_does_not_leave(
    name: str, scanner_data: Path, dcm2niix: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    series, damage, differing = SABOTAGE[name]
    spoil(monkeypatch, damage)
    rows = place.run(files_of(scanner_data / series), dcm2niix)
    assert {row.reason for row in rows} == {"audit-conversion"}
    verdict, _, told = rows[0].conversion.partition(": ")
    assert verdict == Verdict.DIFFERENT
    assert differing in told.split()
    assert {row.digest for row in rows} == {""}
    assert place.exported() == []
    refused = [path for path in place.quarantine.rglob("*") if path.is_file()]
    assert len(refused) == len(rows)
    assert all(path.parent.stat().st_mode & 0o077 == 0 for path in refused)
    assert list(place.identified.iterdir()) == [place.quarantine]
    assert explain(rows[0].reason).startswith("The audit refused it: A converter makes other images")


@pytest.mark.usefixtures("without_audit")
def test_what_is_refused_now_is_taken_out_of_the_export(
    scanner_data: Path, dcm2niix: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = files_of(scanner_data / SIEMENS)
    place.run(paths, dcm2niix)
    assert len(place.exported()) == len(paths)
    with monkeypatch.context() as patch:
        spoil(patch, _flip_a_voxel)
        place.run(paths, dcm2niix)
    assert place.exported() == []
    place.run(paths, dcm2niix)
    assert len(place.exported()) == len(paths)
    assert [path for path in place.quarantine.rglob("*") if path.is_file()] == []


def test_files_that_the_audit_refused_before_are_not_compared(
    scanner_data: Path, dcm2niix: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two files is refused; the other is compared with its own source and may leave."""
    paths = files_of(scanner_data / SIEMENS)
    bad = paths[1].read_bytes()
    monkeypatch.setattr(exporting, "audit_file", lambda source, *_: ["value"] if source == bad else [])
    rows = place.run(paths, dcm2niix)
    assert [(row.reason, row.conversion) for row in rows] == [("", Verdict.EQUAL), ("audit-value", "")]
    assert len(place.exported()) == 1


# ---- identity in what a converter tells


def _describe(text: str) -> Callable[[bytes], bytes]:
    def change(dataset: pydicom.Dataset) -> None:
        dataset.SeriesDescription = text

    return _edited(change)


@pytest.mark.usefixtures("without_audit")
def test_a_name_in_a_description_is_noticed(
    scanner_data: Path, dcm2niix: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, _describe("EPI of Canaryfamily"))
    rows = place.run(files_of(scanner_data / SIEMENS), dcm2niix, identifiers=("CANARYFAMILY", "Jane"))
    assert {row.reason for row in rows} == {"audit-converted-identifier"}
    assert {row.conversion for row in rows} == {"different"}
    assert place.exported() == []
    assert "canary" not in explain(rows[0].reason).casefold()


@pytest.mark.parametrize(
    "case",
    [
        ("EPI of Canaryfamily", {"canaryfamily"}, set(), True),
        ("EPI_Canaryfamily_2", {"CANARYFAMILY"}, set(), True),
        ("EPI 47110815", {"47110815"}, set(), True),
        ("EPI_47110815", {"47110815"}, set(), True),
        ("EPI of Jo", {"Jo"}, set(), False),  # too short
        ("EPI Janet", {"Jane"}, set(), False),  # another word
        ("EPI 1.4711", {"4711"}, set(), False),  # another number
        ("EPI", {SUBJECT.pseudonym, "2018", "1224"}, set(), False),  # the subject's own name; a year, a moment
        ("EPI", {"AWP45160"}, set(), True),  # the station, which stands in the source
        ("EPI", {"AWP45160"}, {"113109"}, False),  # and may, if devices are retained
    ],
)
def test_which_identifiers_are_found(
    case: tuple[str, set[str], set[str], bool], siemens: list[Path], dcm2niix: str, tmp_path: Path
) -> None:
    text, identifiers, codes, found = case

    def change(dataset: pydicom.Dataset) -> None:
        dataset.SeriesDescription = text
        dataset.PatientName = dataset.PatientID = SUBJECT.pseudonym

    path = siemens[0]
    subjects = Sought(pseudonym=SUBJECT.pseudonym, identifiers=identifiers, codes=codes)
    with Converter(program=dcm2niix, folder=tmp_path).comparison() as comparison:
        comparison.keep(_edited(change)(path.read_bytes()), source=path)
        compared = comparison.run(subjects)
    assert compared.findings == (("converted-identifier",) if found else ())
    assert compared.differing == ()


# ---- a converter that fails


@pytest.mark.parametrize(
    ("does", "conversion"),
    [
        ("case $last in */export) kill -SEGV $$;; esac", "different"),
        ("case $last in */source) kill -SEGV $$;; esac", "not-convertible"),
        ("case $last in */export) exit 2;; esac", "different"),
        ("case $last in */source) exit 2;; esac", "not-convertible"),
        ('case $last in */export) "$0" "$@" x; exit 1;; esac', "different"),
        ("exit 0", "not-convertible"),
    ],
)
@pytest.mark.usefixtures("without_audit")
def test_a_converter_that_crashes_over_the_export_alone_is_a_difference(
    does: str, conversion: str, siemens: list[Path], place: Place, converter_that: Callable[[str], str]
) -> None:
    rows = place.run(siemens, converter_that(does))
    assert {row.conversion.partition(":")[0] for row in rows} == {conversion}
    passes = conversion == "not-convertible"
    assert {row.reason for row in rows} == {"" if passes else "audit-conversion"}
    assert len(place.exported()) == (len(rows) if passes else 0)
    assert TEMPORARY_PREFIX not in " ".join(path.name for path in place.identified.iterdir())


@pytest.mark.parametrize(("folder", "conversion"), [("source", "not-convertible"), ("export", "different")])
@pytest.mark.usefixtures("without_audit")
def test_a_converter_that_hangs_is_ended_with_all_it_started(
    folder: str, conversion: str, siemens: list[Path], place: Place, converter_that: Callable[[str], str]
) -> None:
    note = place.root.with_name("sleeper")
    program = converter_that(f"case $last in */{folder}) sleep 1000 & echo $! > {note}; wait;; esac")
    rows = place.run(siemens, program, seconds=2)
    assert {row.conversion.partition(":")[0] for row in rows} == {conversion}
    sleeper = int(note.read_text())
    assert not psutil.pid_exists(sleeper) or psutil.Process(sleeper).status() == psutil.STATUS_ZOMBIE


def test_a_series_that_is_no_image_is_not_convertible(scanner_data: Path, dcm2niix: str, tmp_path: Path) -> None:
    nobody = Sought(pseudonym="SUB-0001", identifiers=frozenset(), codes=frozenset())
    with Converter(program=dcm2niix, folder=tmp_path).comparison() as comparison:
        (tmp_path / "report").write_bytes(b"no image")
        comparison.keep(b"no image", source=tmp_path / "report")
        assert comparison.run(nobody).verdict is Verdict.NOT_CONVERTIBLE
    with Converter(program=dcm2niix, folder=tmp_path).comparison() as comparison:
        comparison.keep(b"refused before", source=None)
        assert comparison.run(nobody).verdict is Verdict.NOT_RUN


def test_a_program_that_is_none_has_no_version(dcm2niix: str, tmp_path: Path) -> None:
    assert converter_version(dcm2niix).startswith("v1.0.")
    assert converter_version(str(tmp_path / "nowhere")) == ""
    (tmp_path / "text").write_text("no program")
    (tmp_path / "text").chmod(0o700)
    assert converter_version(str(tmp_path / "text")) == ""
    assert converter_version("/bin/true") == ""


# ---- where it works


@pytest.mark.usefixtures("without_audit")
def test_names_tell_nothing_and_only_the_owner_may_look(
    siemens: list[Path], place: Place, tmp_path: Path, converter_that: Callable[[str], str]
) -> None:
    seen = tmp_path / "seen"
    program = converter_that(f'echo "$@" >> {seen}; find "$last/.." -printf "%f %m\\n" >> {seen}')
    place.run(siemens, program)
    said = seen.read_text()
    assert said.count("0000001.dcm") == said.count("0000002.dcm") == 4
    assert not any(path.name in said or path.stem in said for path in siemens)
    assert str(place.identified) in said
    assert str(place.export) not in said
    assert {line for line in said.splitlines() if line.startswith((".scanward", "export ", "source "))} == {
        "source 700", "export 700",
    }  # fmt: skip


def test_killed_while_it_converts_nothing_has_left_and_the_next_run_sweeps(
    siemens: list[Path], place: Place, converter_that: Callable[[str], str]
) -> None:
    program = converter_that("case $last in */export) kill -KILL $PPID; exit 1;; esac")
    words = [str(place.root), program, *map(str, siemens)]
    script = (
        "import sys\nfrom pathlib import Path\nfrom tasks.deidentify import export\n"
        "from tests.deidentify.conversion import Place\nexport.audit_file = lambda *_: []\n"
        "Place(root=Path(sys.argv[1])).run([Path(one) for one in sys.argv[3:]], sys.argv[2])\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert place.exported() == []
    assert len(list(place.identified.glob(f"{TEMPORARY_PREFIX}*"))) == 1
    assert sweep_temporaries(place.identified, deep=False) == 1
    assert list(place.identified.iterdir()) == []
    assert all(path.is_file() for path in siemens), "what the links led to is still there"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with tiny_disk(tmp_path / "disk", kilobytes=1600) as disk:
        yield disk


def test_a_full_disk_is_no_series_that_cannot_be_converted(
    small_disk: Path, scanner_data: Path, dcm2niix: str, tmp_path: Path
) -> None:
    paths = files_of(scanner_data / XA)
    nobody = Sought(pseudonym="SUB-0001", identifiers=frozenset(), codes=frozenset())
    left = 0
    while True:
        with Converter(program=dcm2niix, folder=small_disk).comparison() as comparison:
            try:
                for path in paths:
                    comparison.keep(path.read_bytes(), source=path)
                verdict = comparison.run(nobody).verdict
            except DiskFullError:
                break
            assert verdict is Verdict.EQUAL
        left += 1
        (small_disk / f"{left}").write_bytes(bytes(40_000))
    assert left > 5
    assert [path.name for path in small_disk.iterdir() if path.name.startswith(TEMPORARY_PREFIX)] == []
