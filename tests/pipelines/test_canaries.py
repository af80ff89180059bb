"""Every text of every header, every folder and every file name carries a canary; none of them gets out."""

from __future__ import annotations

import gzip
import itertools
import os
import re
import subprocess
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pydicom
import pydicom.datadict
import pytest
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from tests.builders.world import make_instance, write_instance
from tests.pipelines.command import (
    DEADLINE_SECONDS,
    CentralScheduler,
    Ended,
    central_scheduler,
    counts_of,
    digests,
    faults_of,
    luigi,
    luigi_words,
    members_of_group,
    rows_of,
    started,
    use_secret,
    viewer,
    write_study,
)

TEXT_VRS = ("AE", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT")
NUMBERS = itertools.count(1)
UID_ROOT = "2.999.31337"
CANARY = re.compile(
    rb"zqx[0-9]{5}k|2\.999\.31337\.|(?<![0-9a-f])1787[-.]?[01][0-9][-.]?[0-3][0-9]|\xd0\x96\xd0\xa9\xd0\xaa"
)
"""Matches every canary in lower case: the tokens, the UIDs, the dates, and the Cyrillic letters of the names."""

MALFORMED = (
    *("ImagePositionPatient", "SliceThickness", "PixelSpacing", "Rows", "SeriesNumber", "InstanceNumber"),
    *("StudyTime", "PatientBirthDate", "PatientAge", "StudyInstanceUID", "SpecificCharacterSet"),
)

_KEPT = """
SpecificCharacterSet Manufacturer ManufacturerRelatedModelGroup ManufacturerModelName SoftwareVersions EthnicGroup
SequenceName PulseSequenceName ImagedNucleus ReceiveCoilName TransmitCoilName ReceiveCoilManufacturerName
TransmitCoilManufacturerName MultiCoilConfiguration MultiCoilElementName TriggerSourceOrType CardiacFramingType
PVCRejection FilterType TypeOfFilters ImageFilter CollimatorGridName ConvolutionKernel MetaboliteMapDescription
ApplicableSafetyStandardDescription ASLTechniqueDescription ASLCrusherDescription ASLBolusCutoffTechnique
ApplicationName ApplicationVersion ApplicationManufacturer AlgorithmName AlgorithmVersion Radiopharmaceutical
PositionReferenceIndicator StackID DimensionIndexPrivateCreator FunctionalGroupPrivateCreator
DimensionDescriptionLabel RescaleType WindowCenterWidthExplanation LUTExplanation ModalityLUTType LUTLabel
EnergyWindowName AttenuationCorrectionMethod ReconstructionMethod DetectorLinesOfResponseUsed ScatterCorrectionMethod
"""
KEPT = frozenset(_KEPT.split())
"""What the profile keeps because it tells of the machine, the acquisition or the kind of patient, and nothing else."""


def token() -> str:
    """Make the next canary: short enough for every VR, and like nothing else."""
    return f"ZQX{next(NUMBERS):05d}K"


def plant(dataset: Dataset) -> Dataset:
    """Put a canary into every text, date and UID of a data set, after adding every text that the standard knows."""
    for tag, (vr, multiplicity, _, retired, keyword) in pydicom.datadict.DicomDictionary.items():
        if vr in TEXT_VRS and keyword and not retired and multiplicity.startswith("1") and 0x0008 <= tag >> 16 < 0x6000:
            dataset.add_new(tag, vr, token())
    item = Dataset()
    for keyword in ("RequestedProcedureDescription", "ScheduledProcedureStepID", "RequestedProcedureID"):
        setattr(item, keyword, token())
    dataset.RequestAttributesSequence = [item]
    block = dataset.private_block(0x0029, f"{token()} MAKER", create=True)
    block.add_new(0x10, "LO", token())
    block.add_new(0x11, "UN", token().encode())
    for element in dataset:
        if element.VR == "PN":
            element.value = f"{token()}^{token()}=ЖЩЪ^{token()}"
        elif element.VR == "DA":
            element.value = f"1787{1 + next(NUMBERS) % 12:02d}{1 + next(NUMBERS) % 28:02d}"
        elif element.VR == "UI" and element.keyword != "SOPClassUID":
            element.value = f"{UID_ROOT}.{next(NUMBERS)}"
    return dataset


def write_canaries(dump: Path) -> None:
    """Write images that can be exported, images that cannot, and files that cannot even be read."""
    sop_class = {"SOPClassUID": SecondaryCaptureImageStorage}
    kinds: list[tuple[int, dict[str, object]]] = [(6, {}), (2, sop_class), (2, {"BurnedInAnnotation": "YES"})]
    for number, (count, overrides) in enumerate(kinds):
        study = series = f"{UID_ROOT}.{next(NUMBERS)}"
        for instance in range(count):
            dataset = plant(make_instance(1, 1, 1 + number, 1 + instance, **overrides))
            dataset.StudyInstanceUID, dataset.SeriesInstanceUID = f"{study}.1", f"{series}.2"
            dataset.PatientID, dataset.StudyDate = f"ZQX9000{number}K", "17870511"
            write_instance(new_place(dump), dataset)
    for keyword in MALFORMED:
        write_malformed(new_place(dump), keyword)
    whole = write_instance(new_place(dump), plant(make_instance(3, 1, 1, 1)))
    for end in (200, 700, 2000):
        new_place(dump).write_bytes(whole.read_bytes()[:end])
    new_place(dump).write_text(f"{token()} is no image")
    (dump / token()).symlink_to(token())


def new_place(dump: Path) -> Path:
    """Make a place for a file below the dump, two folders deep; all names are canaries."""
    folder = dump / token() / f"{token()} ЖЩЪ"
    folder.mkdir(parents=True)
    return folder / f"{token()}.dcm"


def write_malformed(path: Path, keyword: str) -> None:
    """Write an image in which one value is a canary where there must be a number, a date, a UID or a defined term."""
    dataset = plant(make_instance(2, 1, 1, 1 + next(NUMBERS) % 1000))
    tag = pydicom.datadict.tag_for_keyword(keyword)
    assert tag is not None
    vr = pydicom.datadict.dictionary_VR(tag)
    if keyword != "SpecificCharacterSet":
        dataset[tag] = DataElement(tag, "LO", token())
    content = write_instance(path, dataset).read_bytes()
    if keyword == "SpecificCharacterSet":
        path.write_bytes(content.replace(b"ISO_IR 192", token().encode() + b" ", 1))
        return
    coded = (tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little")
    assert content.count(coded + b"LO") == 1
    path.write_bytes(content.replace(coded + b"LO", coded + (b"CS" if vr == "US" else vr.encode())))


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """One run on a dump of canaries, with all that could be seen of it from outside."""

    base: Path
    workspace: Path
    ended: Ended
    titles: frozenset[str]
    """Every command line that a process of the run showed."""
    answers: str
    """Everything the central scheduler's API tells."""
    scheduler: Path
    """The folder in which the central scheduler left its state and its log."""


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("canaries") / "dump"
    folder.mkdir()
    write_canaries(folder)
    return folder


def outside(base: Path) -> dict[str, str]:
    """Give a home and a folder for temporary files that only this run uses."""
    for name in ("home", "tmp"):
        (base / name).mkdir()
    return {"HOME": str(base / "home"), "TMPDIR": str(base / "tmp"), "XDG_CACHE_HOME": str(base / "home" / "cache")}


def fly(base: Path, dump: Path, scheduler: CentralScheduler, *, workers: int) -> tuple[Ended, frozenset[str]]:
    """Run the graph against a central scheduler, watching the titles of all its processes."""
    study = write_study(base / "study.toml", dump=dump, workspace=base / "w", files=8, series=2)
    words = luigi_words("PrepareReview", "--study", study, "--workers", workers, "--log-level", "DEBUG")
    titles: set[str] = set()
    words += ["--scheduler-url", scheduler.url]
    with (
        (base / "said").open("wb") as said,
        started(words, cwd=base, env=outside(base), stdout=said, stderr=subprocess.STDOUT) as process,
    ):
        deadline = time.monotonic() + DEADLINE_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            titles.update(titles_of(process.pid))
            time.sleep(0.02)
        code = process.poll()
    assert code is not None, "the run hangs"
    return Ended(code=code, out="", err=(base / "said").read_text("utf-8", "replace")), frozenset(titles)


def titles_of(group: int) -> Iterator[str]:
    for process in members_of_group(group):
        try:
            yield " ".join([process.name(), *process.cmdline()])
        except psutil.NoSuchProcess:
            continue


def everything_told(scheduler: CentralScheduler) -> str:
    """Ask the central scheduler for all it would show to anybody."""
    tasks = scheduler.tasks()
    assert tasks
    answers: list[object] = [tasks]
    answers += [scheduler.ask(call) for call in ("worker_list", "resource_list", "graph")]
    for task in tasks:
        answers += [scheduler.ask(call, task_id=task) for call in ("dep_graph", "inverse_dep_graph", "fetch_error")]
        answers += [
            scheduler.ask(call, task_id=task) for call in ("get_task_status_message", "get_task_progress_percentage")
        ]
    return repr(answers)


@pytest.fixture(scope="module", params=[2, pytest.param(1, marks=pytest.mark.long)])
def flight(request: pytest.FixtureRequest, dump: Path, tmp_path_factory: pytest.TempPathFactory) -> Flight:
    base = tmp_path_factory.mktemp("flight")
    use_secret(base / "w")
    with central_scheduler(base / "luigid") as scheduler:
        ended, titles = fly(base, dump, scheduler, workers=request.param)
        answers = everything_told(scheduler)
    return Flight(
        base=base, workspace=base / "w", ended=ended, titles=titles, answers=answers, scheduler=base / "luigid"
    )


def found_in(text: str | bytes) -> list[bytes]:
    """List the canaries in a text, whatever their case."""
    content = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    return sorted(set(CANARY.findall(content.lower())))


def test_the_dump_is_full_of_canaries_and_goes_through(dump: Path, flight: Flight) -> None:
    """Else the tests below would prove nothing: each way out of the graph has been taken."""
    assert flight.ended.code == 0, flight.ended.said[-3000:]
    assert counts_of(flight.workspace, "deidentify")["exported"] >= 6
    assert counts_of(flight.workspace, "deidentify")["quarantined"] >= 4
    assert len(rows_of(flight.workspace, "rejects")) >= 5
    assert next(NUMBERS) > 10_000
    for path in itertools.islice(dump.rglob("*.dcm"), 5):
        assert len(found_in(path.read_bytes())) > 5
    assert found_in((flight.workspace / "identified" / "lists" / "rejects.tsv").read_bytes())


def test_nothing_that_is_printed_holds_one(flight: Flight) -> None:
    assert "DEBUG" in flight.ended.said
    assert "DoPortion" in flight.ended.said
    assert found_in(flight.ended.said) == []


def test_nothing_outside_identified_holds_one(flight: Flight) -> None:
    looked_at = converted = 0
    # What an export keeps of the scanner, its sidecars and the record of its quality may repeat.
    exported = list((flight.workspace / "released").rglob("*.dcm"))
    of_scanner = {one for path in exported for one in kept_in(path)}
    for path in flight.base.rglob("*"):
        if path.is_relative_to(flight.workspace / "identified"):
            continue
        assert found_in(os.fsencode(path.relative_to(flight.base))) == []
        if path.is_file():
            looked_at += 1
            kept = set(kept_in(path)) if path.suffix == ".dcm" else of_scanner if path.suffix == ".json" else set()
            content = path.read_bytes()
            if path.suffix == ".gz":
                content = gzip.decompress(content)
                converted += 1
            assert set(found_in(content)) <= kept, path
    assert looked_at > 10
    assert converted


def kept_in(path: Path) -> list[bytes]:
    """List the canaries of those elements of an exported file that the profile keeps; each stands in one alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the malformed ones
        dataset = pydicom.dcmread(path)
        values = [str(element.value) for element in dataset if element.keyword in KEPT]
    return found_in("\n".join(values))


def test_the_scheduler_was_told_of_none(flight: Flight) -> None:
    assert "PrepareReview" in flight.answers
    assert "DoPortion" in flight.answers
    assert found_in(flight.answers) == []
    assert (flight.scheduler / "state").stat().st_size > 1000
    for path in flight.scheduler.iterdir():
        assert found_in(path.read_bytes()) == [], path.name


def test_no_process_shows_one(flight: Flight) -> None:
    assert flight.titles
    assert [title for title in flight.titles if found_in(title)] == []


def test_temporary_folders_stay_empty_of_them(flight: Flight) -> None:
    for name in ("home", "tmp"):
        for path in (flight.base / name).rglob("*"):
            assert found_in(os.fsencode(path)) == []
            assert not path.is_file() or found_in(path.read_bytes()) == []


def test_the_viewer_says_none(flight: Flight) -> None:
    manifest = flight.workspace / "released" / "review" / "manifest.json"
    for words in (["check", manifest, "--json"], ["render", manifest, "--out", flight.base / "pictures"]):
        assert found_in(viewer(*words, cwd=flight.base).said) == []


def test_a_fault_tells_none(dump: Path, flight: Flight, tmp_path: Path) -> None:
    """Somebody's file stands where a patient's folder belongs, and another where an image does."""
    targets = sorted(digests(flight.workspace / "identified" / "sorted"))
    assert found_in(targets[0])
    for taken in (targets[-1], Path(targets[0]).parts[0]):
        base = tmp_path / f"{len(taken)}"
        place = base / "w" / "identified" / "sorted" / taken
        place.parent.mkdir(parents=True)
        place.write_bytes(b"somebody's own")
        with central_scheduler(base / "luigid") as scheduler:
            ended = luigi(
                "SortStudy", "--dump", dump, "--workspace", base / "w", "--log-level", "DEBUG",
                "--scheduler-url", scheduler.url, cwd=base,
            )  # fmt: skip
            assert ended.code == 30, ended.said
            answers = everything_told(scheduler)
        assert found_in(ended.said) == []
        assert found_in(answers) == []
        assert "scanward did not put there" in answers or "cannot be written" in answers
        assert "Traceback" in faults_of(base / "w")
