"""An archive server, Orthanc, takes an export in by C-STORE, shows its images, and shows them under pseudonyms only."""

from __future__ import annotations

import datetime as dt
import functools
import io
import json
import re
import shutil
import sqlite3
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)

from tests.builders.traps import compressed
from tests.builders.world import make_instance, write_instance
from tests.deidentify.canary_score import survivors
from tests.deidentify.canary_set import Canary
from tests.deidentify.conversion import OTHERS, SAMPLE, files_of
from tests.orthanc import Orthanc, orthanc
from tests.pipelines.command import Ended, digests, luigi, rows_of, use_secret

LEVELS = ("patient", "study", "series", "instance")

PLANTED = (
    {
        "PatientName": "Kanärienvogel-Ædøn^Ännchen^Zitrinella",
        "PatientID": "VOLIERE-4471902",
        "OtherPatientIDs": "KFG4471902\\KFG7781203",
        "PatientBirthDate": "19611103",
        "PatientAddress": "Schwungfederweg 17",
        "AccessionNumber": "AZ-5550142-7",
        "ReferringPhysicianName": "Überflieger^Zweig",
        "InstitutionName": "Vogelwarte Äußerstes Nest",
        "PatientComments": "Kanärienvogel-Ædøn, geboren am 03.11.1961",
        "SeriesDescription": "t1 von Ännchen",
    },
    {
        "PatientName": "Канарейкина^Вторая=金糸雀^二号機関",
        "PatientID": "КЛЕТКА-2281",
        "OtherPatientIDs": "KLETKA002281",
        "PatientBirthDate": "19440229",
        "PatientAddress": "улица Птичья 9",
        "AccessionNumber": "GNEZDO-000981",
        "ReferringPhysicianName": "Перелётная^Стая",
        "InstitutionName": "Дом за рекой",
        "PatientComments": "Вторая Канарейкина, 29.02.1944",
        "SeriesDescription": "dti Вторая",
    },
)
"""Two patients as their headers tell of them: in letters of Latin-1, and in others."""

CHARACTER_SETS = ("ISO_IR 100", "ISO_IR 192")

NUMBERED = (
    *("PatientID", "OtherPatientIDs", "AccessionNumber", "StudyID", "DeviceSerialNumber", "PerformedProcedureStepID"),
    *("InstitutionName", "InstitutionAddress", "StationName", "PatientAddress"),
)
"""Besides names, dates and UIDs, the attributes whose values identify somebody, some place or a machine."""

SHORTEST, SHORTEST_NUMBER = 5, 6
"""What is shorter stands in many files by chance: a name `Test`, a study 27018."""

NOBODY = ("phantom",)
"""What is called so is nobody, and descriptions may say what it is."""

SIEMENS = "dcm_qa_stc/In/Siemens"
SERIES_OF_FIRST = (f"{SIEMENS}/B17/6_ax_asc_35sl", f"{SIEMENS}/D13/ep2d_Asc_2", f"{SIEMENS}/D13/ep2d_Asc_HF_10")
SERIES_OF_SECOND = ("dcm_qa_philips/In/Vanderbilt_2018/601_WIP_dti_ax", "dcm_qa_enh/In/Philips")
"""Each of two visits: mosaics of 2014 and 2017, and classic and enhanced images of 2018."""

SERIES_AS_THEY_ARE = (
    "dcm_qa_enh/In/Siemens/XA10",
    "dcm_qa_stc/In/GE/ProtocolDataBlock/mr_0004",
    "dcm_qa_stc/In/GE/ProtocolDataBlock/mr_0005",
    "dcm_qa_stc/In/UIH/R002/12_dti_tra_dir16_PA_rot",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an image stands, in a header or in a server: its IDs on four levels, and the day of the study."""

    patient: str
    study: str
    series: str
    instance: str
    day: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A dump and its export, each in a server of its own.

    Attributes
    ----------
    came_from
        Exported file to the file of the dump that it was made of.
    export, sources
        The server with the exported images, and the one with the sources.
    accepted
        Sent file to its server's answer.
    people
        What identifies each patient of the dump, by the ID that stands there.
    """

    dump: Path
    workspace: Path
    ended: Ended
    came_from: Mapping[Path, Path]
    export: Orthanc
    sources: Orthanc
    accepted: Mapping[Path, str]
    people: Mapping[str, frozenset[Canary]]

    def pairs(self) -> list[tuple[Place, Place]]:
        """Pair the place of each source with the one at which its export is shown."""
        return paired(self.came_from, self.export)


def paired(came_from: Mapping[Path, Path], server: Orthanc) -> list[tuple[Place, Place]]:
    """Pair the place of each source with the one at which a server shows what was sent, by the UID of the instance."""
    places = places_in(server)
    assert len(places) == len(came_from)
    return [(place_of(source), places[place_of(sent).instance]) for sent, source in came_from.items()]


# ---- what goes in


def write_synthetic(dump: Path, _: Path | None) -> None:
    """Write two visits of two series for each of two patients, in every form that images of scanners come in."""
    syntaxes = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless, JPEGLSLossless)
    others = (DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian, RLELossless)
    for patient, planted in enumerate(PLANTED, 1):
        for number, syntax in enumerate((syntaxes, others)[patient - 1]):
            for instance in (1, 2):
                dataset = make_instance(patient, 1 + number // 2, 1 + number % 2, instance)
                plant(dataset, planted, "ISO_IR 192")
                path = dump / f"{patient}{number}{instance}"
                if syntax.is_compressed and syntax.is_encapsulated:
                    path.write_bytes(compressed(dataset, syntax))
                else:
                    write_instance(path, dataset, transfer_syntax=syntax)


def write_scanners(dump: Path, data: Path | None) -> None:
    """Write a few files of each maker: two patients with planted identities, the others as they are."""
    _write_series(dump, data, SERIES_AS_THEY_ARE, a_series=3)


def write_every_series(dump: Path, data: Path | None) -> None:
    """Write some files of every series that there is; two of the sets hold the same files."""
    planted = {*SERIES_OF_FIRST, *SERIES_OF_SECOND}
    _write_series(dump, data, [series for series in (*SAMPLE, *OTHERS) if series not in planted], a_series=4)


def _write_series(dump: Path, data: Path | None, as_they_are: Iterable[str], *, a_series: int) -> None:
    assert data is not None
    for number, series in enumerate(as_they_are):
        for path in files_of(data / series)[:a_series]:
            shutil.copy(path, dump / f"{number}-{path.name}")
    for planted, character_set, all_series in zip(
        PLANTED, CHARACTER_SETS, (SERIES_OF_FIRST, SERIES_OF_SECOND), strict=True
    ):
        for number, series in enumerate(all_series):
            for path in files_of(data / series)[:a_series]:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # scanners do not always keep to the value representations
                    dataset = pydicom.dcmread(path)
                    plant(dataset, planted, character_set)
                    dataset.save_as(dump / f"{character_set[-3:]}-{number}-{path.name}")


def plant(dataset: Dataset, planted: Mapping[str, str], character_set: str) -> None:
    """Give an image the identity of somebody; it also stands in a request, in a private element and in the padding."""
    dataset.SpecificCharacterSet = character_set
    for keyword, value in planted.items():
        setattr(dataset, keyword, value)
    request = Dataset()
    request.ScheduledProcedureStepDescription = f"head of {planted['PatientID']}"
    request.RequestedProcedureID = planted["AccessionNumber"]
    dataset.RequestAttributesSequence = [request]
    block = dataset.private_block(0x0029, "SYNTHETIC NESTBOX", create=True)
    block.add_new(0x10, "LO", planted["PatientName"].split("=", maxsplit=1)[0])
    dataset.add_new(0xFFFCFFFC, "OB", planted["PatientID"].encode() + b"\0" * (len(planted["PatientID"].encode()) % 2))


# ---- what is looked for


def header(path: Path) -> FileDataset:
    """Read a file without its pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(path, stop_before_pixels=True)


@functools.cache
def place_of(path: Path) -> Place:
    """Read where a file says that it belongs."""
    dataset = header(path)
    return Place(
        patient=str(dataset.PatientID),
        study=str(dataset.StudyInstanceUID),
        series=str(dataset.SeriesInstanceUID),
        instance=str(dataset.SOPInstanceUID),
        day=str(dataset.StudyDate),
    )


def identifiers(dataset: Dataset) -> Iterator[Canary]:
    """Yield what a header holds in names, dates, UIDs that are not the standard's, and numbers, however deep."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for element in dataset.iterall():
            values = re.split(r"\\|', '", str(element.value).strip("[]'"))
            for value in map(str.strip, values):
                if element.VR == "PN":
                    yield from (_canary("name", part) for part in re.split(r"[\^=]", value) if is_telling(part))
                elif element.VR in ("DA", "DT") and re.match(r"(18|19|20)\d{6}", value):
                    yield _canary("date", value[:8])
                elif element.VR == "UI" and not value.startswith("1.2.840.10008.") and len(value) > SHORTEST:
                    yield _canary("uid", value)
                elif element.keyword in NUMBERED and is_telling(value):
                    yield _canary("id", value)


def people_of(paths: Iterable[Path]) -> dict[str, frozenset[Canary]]:
    """Gather what identifies each patient of a dump, by the ID that stands there."""
    found: dict[str, set[Canary]] = defaultdict(set)
    for path in paths:
        found[place_of(path).patient].update(identifiers(header(path)))
    return {patient: frozenset(those) for patient, those in found.items()}


def is_telling(value: str) -> bool:
    """Tell a value that means somebody, or something, and stands in no file by chance."""
    shortest = SHORTEST_NUMBER if value.isdecimal() else SHORTEST
    return len(value.encode()) >= shortest and value.casefold() not in NOBODY


def _canary(kind: str, token: str) -> Canary:
    return Canary(place="a header", kind=kind, token=token, vendor="")


def places_in(server: Orthanc) -> dict[str, Place]:
    """Ask a server where it shows each instance, by the UID that it shows."""
    patients, studies, series = (
        {each["ID"]: each for each in server.ask(f"{level}?expand")} for level in ("patients", "studies", "series")
    )
    found = {}
    for instance in server.ask("instances?expand"):
        its_series = series[instance["ParentSeries"]]
        its_study = studies[its_series["ParentStudy"]]
        uid = instance["MainDicomTags"]["SOPInstanceUID"]
        assert uid not in found
        found[uid] = Place(
            patient=patients[its_study["ParentPatient"]]["MainDicomTags"]["PatientID"],
            study=its_study["MainDicomTags"]["StudyInstanceUID"],
            series=its_series["MainDicomTags"]["SeriesInstanceUID"],
            instance=uid,
            day=its_study["MainDicomTags"].get("StudyDate", ""),
        )
    return found


def people_in(server: Orthanc) -> set[tuple[str, str]]:
    """List the patients' IDs and names that a server shows, in its own list and in every instance's tags."""
    found = {(each["PatientID"], each["PatientName"]) for each in main_tags(server, "patients")}
    for instance in server.ask("instances"):
        tags = server.ask(f"instances/{instance}/tags?simplify")
        found.add((tags["PatientID"], tags["PatientName"]))
    return found


def main_tags(server: Orthanc, level: str) -> list[dict[str, str]]:
    return [each["MainDicomTags"] for each in server.ask(f"{level}?expand")]


def numbers_in(server: Orthanc) -> dict[str, str]:
    """List by SOP Instance UID what a server calls its instances."""
    return {each["MainDicomTags"]["SOPInstanceUID"]: each["ID"] for each in server.ask("instances?expand")}


def identifiers_in(
    server: Orthanc, people: Mapping[str, frozenset[Canary]], person_of: Mapping[str, str]
) -> set[Canary]:
    """Look for identifiers in all that a server tells: its own lists, each instance's tags, and the files it hands out.

    Dates and bare numbers count in images of their own patient: a moved date may well be another patient's, and six
    digits are part of many a scale factor.

    Parameters
    ----------
    people
        What identifies each patient of the dump.
    person_of
        SOP Instance UID that the server shows, to the ID of the patient in the dump.
    """
    everywhere = {canary for those in people.values() for canary in those if not re.fullmatch(r"[\d.]+", canary.token)}
    everywhere |= {canary for those in people.values() for canary in those if canary.kind == "uid"}
    lists = [main_tags(server, level) for level in ("patients", "studies", "series")]
    found = set(survivors(json.dumps(lists, ensure_ascii=False).encode(), everywhere))
    for instance in server.ask("instances?expand"):
        wanted = everywhere | people[person_of[instance["MainDicomTags"]["SOPInstanceUID"]]]
        tags = server.ask(f"instances/{instance['ID']}/tags?simplify")
        found.update(survivors(json.dumps(tags, ensure_ascii=False).encode(), wanted))
        found.update(survivors(without_pixels(server.read(f"instances/{instance['ID']}/file")), wanted))
    return found


def without_pixels(content: bytes) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return content.replace(pydicom.dcmread(io.BytesIO(content)).PixelData, b"")


def misplaced(pairs: Iterable[tuple[Place, Place]]) -> set[str]:
    """Name the levels on which something of the source was split or merged in what is shown."""
    pairs = list(pairs)
    found = set()
    for level in LEVELS:
        of_source, of_shown = defaultdict(set), defaultdict(set)
        for source, shown in pairs:
            of_source[getattr(source, level)].add(getattr(shown, level))
            of_shown[getattr(shown, level)].add(getattr(source, level))
        if any(len(others) > 1 for others in (*of_source.values(), *of_shown.values())):
            found.add(level)
    return found


def shifts(pairs: Iterable[tuple[Place, Place]]) -> dict[str, set[dt.timedelta]]:
    """List by how much each patient's studies were moved in time, as far as they have a date."""
    found = defaultdict(set)
    for source, shown in pairs:
        assert bool(_day(source.day)) == bool(_day(shown.day))
        if (before := _day(source.day)) and (after := _day(shown.day)):
            found[source.patient].add(after - before)
    return found


def _day(text: str) -> dt.date | None:
    return dt.datetime.strptime(text, "%Y%m%d").date() if re.fullmatch(r"\d{8}", text) else None  # noqa: DTZ007


# ---- the servers


WRITERS: dict[str, Callable[[Path, Path | None], None]] = {
    "synthetic": write_synthetic,
    "scanners": write_scanners,
    "every series": write_every_series,
}


@pytest.fixture(scope="module", params=["synthetic", "scanners", pytest.param("every series", marks=pytest.mark.long)])
def shown(
    request: pytest.FixtureRequest, program: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shown]:
    """De-identify a dump with the real command, and send sources and export to two servers."""
    server, dcmsend = program("Orthanc"), program("dcmsend")
    data = None if request.param == "synthetic" else request.getfixturevalue("scanner_data")
    base = tmp_path_factory.mktemp("archive")
    dump, workspace = base / "dump", base / "workspace"
    dump.mkdir()
    WRITERS[request.param](dump, data)
    use_secret(workspace)
    ended = luigi("DeidentifyStudy", "--dump", dump, "--workspace", workspace, cwd=base)
    came_from = origins(dump, workspace)
    with orthanc(server, base / "export") as export, orthanc(server, base / "sources") as sources:
        with ThreadPoolExecutor() as both:
            answers = both.map(
                lambda to, files: to.store(dcmsend, files, base), (export, sources), (came_from, came_from.values())
            )
            accepted = {path: status for those in answers for path, status in those.items()}
        yield Shown(
            dump=dump,
            workspace=workspace,
            ended=ended,
            came_from=came_from,
            export=export,
            sources=sources,
            accepted=accepted,
            people=people_of(came_from.values()),
        )


def origins(dump: Path, workspace: Path) -> dict[Path, Path]:
    """Find for each exported file the one of the dump that it was made of, by the stage's own book and by content."""
    by_content = {digest: dump / name for name, digest in digests(dump).items()}
    in_sorted_tree = digests(workspace / "identified" / "sorted")
    connection = sqlite3.connect(workspace / "identified" / "export.db")
    try:
        exported = connection.execute("SELECT source, target FROM outcome WHERE reason = ''").fetchall()
    finally:
        connection.close()
    return {
        workspace / "released" / "export" / target: by_content[in_sorted_tree[source]] for source, target in exported
    }


# ---- what is promised


def test_every_exported_file_is_accepted(shown: Shown) -> None:
    assert shown.ended.code == 0, shown.ended.said[-3000:]
    assert rows_of(shown.workspace, "quarantine") == []
    images = set((shown.workspace / "released" / "export").rglob("*.dcm"))
    assert images == set(shown.came_from)
    content = digests(shown.dump)
    assert {content[source.name] for source in shown.came_from.values()} == set(content.values())
    assert {path: shown.accepted.get(path) for path in images} == dict.fromkeys(images, "0x0000 (Success)")


def test_patients_are_shown_under_their_pseudonyms(shown: Shown) -> None:
    subject_of = {path: path.relative_to(shown.workspace / "released" / "export").parts[0] for path in shown.came_from}
    subjects = set(subject_of.values())
    assert len(subjects) == len(shown.people) >= 2
    assert all(re.fullmatch(r"SUB-\d{4}", subject) for subject in subjects)
    assert people_in(shown.export) == {(subject, subject) for subject in subjects}
    places = places_in(shown.export)
    assert {path: places[place_of(path).instance].patient for path in shown.came_from} == subject_of


def test_nothing_is_merged_and_nothing_split(shown: Shown) -> None:
    assert misplaced(shown.pairs()) == set()
    counts = shown.export.ask("statistics")
    for level, name in zip(LEVELS, ("Patients", "Studies", "Series", "Instances"), strict=True):
        assert counts[f"Count{name}"] == len({getattr(place_of(path), level) for path in shown.came_from.values()}), (
            level
        )
        assert counts[f"Count{name}"] == len({getattr(place_of(path), level) for path in shown.came_from}), level


def test_intervals_between_visits_are_kept(shown: Shown) -> None:
    days = defaultdict(set)
    for source, _ in shown.pairs():
        days[source.patient].add(source.day)
    assert all(len(days[planted["PatientID"]]) == 2 for planted in PLANTED)
    moved = shifts(shown.pairs())
    assert all(len(those) == 1 for those in moved.values())
    assert not any(dt.timedelta() in those for those in moved.values())


def test_no_identifier_is_shown(shown: Shown) -> None:
    person_of = {after.instance: before.patient for before, after in shown.pairs()}
    assert identifiers_in(shown.export, shown.people, person_of) == set()


def test_images_are_shown_as_those_of_the_sources(shown: Shown) -> None:
    after, before = numbers_in(shown.export), numbers_in(shown.sources)
    native = 0
    for path, source in shown.came_from.items():
        image, original = (
            f"instances/{after[place_of(path).instance]}",
            f"instances/{before[place_of(source).instance]}",
        )
        frame = shown.export.read(f"{image}/frames/0/raw")
        assert frame == shown.sources.read(f"{original}/frames/0/raw")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(source)
        if not (syntax := dataset.file_meta.TransferSyntaxUID).is_encapsulated and syntax != ExplicitVRBigEndian:
            native += 1
            assert frame == dataset.PixelData[: dataset.Rows * dataset.Columns * dataset.BitsAllocated // 8]
        picture = shown.export.read(f"{image}/preview")
        assert picture.startswith(b"\x89PNG")
        assert picture == shown.sources.read(f"{original}/preview")
    assert native >= 2


# ---- the alarm rings


def test_the_same_search_finds_the_identifiers_of_sources(shown: Shown) -> None:
    person_of = {place_of(path).instance: place_of(path).patient for path in shown.came_from.values()}
    found = identifiers_in(shown.sources, shown.people, person_of)
    assert {canary for those in shown.people.values() for canary in those} - found == set()
    for planted in PLANTED:
        tokens = {canary.token for canary in shown.people[planted["PatientID"]]}
        assert tokens >= {planted["PatientID"], planted["PatientBirthDate"], planted["PatientName"].split("^")[0]}
    assert {patient for patient, _ in people_in(shown.sources)} == set(shown.people)


@pytest.mark.parametrize("shown", ["synthetic"], indirect=True)
@pytest.mark.parametrize(
    ("keyword", "level"), [("PatientID", "patient"), ("StudyInstanceUID", "study"), ("SeriesInstanceUID", "series")]
)
def test_an_image_in_the_wrong_place_is_seen(keyword, level, shown, program, tmp_path):
    altered = {tmp_path / f"{number}.dcm": path for number, path in enumerate(sorted(shown.came_from))}
    first, *_, last = altered.values()
    for copy, path in altered.items():
        dataset = pydicom.dcmread(path)
        if path == last:
            setattr(dataset, keyword, getattr(header(first), keyword))
        dataset.save_as(copy)
    with orthanc(program("Orthanc"), tmp_path / "server") as server:
        server.store(program("dcmsend"), altered, tmp_path)
        pairs = paired({copy: shown.came_from[path] for copy, path in altered.items()}, server)
    assert misplaced(pairs) == {level}


@pytest.mark.parametrize("shown", ["synthetic"], indirect=True)
def test_a_study_on_the_wrong_day_is_seen(shown, program, tmp_path):
    altered = {tmp_path / f"{number}.dcm": path for number, path in enumerate(sorted(shown.came_from))}
    study = place_of(next(iter(shown.came_from))).study
    for copy, path in altered.items():
        dataset = pydicom.dcmread(path)
        if dataset.StudyInstanceUID == study:
            dataset.StudyDate = "19991231"
        dataset.save_as(copy)
    with orthanc(program("Orthanc"), tmp_path / "server") as server:
        server.store(program("dcmsend"), altered, tmp_path)
        pairs = paired({copy: shown.came_from[path] for copy, path in altered.items()}, server)
    assert sorted(len(those) for those in shifts(pairs).values()) == [1, 2]
