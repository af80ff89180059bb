"""Write the demo dump: one flat folder of a believable scanner's export, made of nobody's data.

    python -m tests.builders.demo_dump DIR [--seed N] [--small]

Beside DIR a file DIR.demo.json keeps what was planted; it also tells a later call that DIR is already the demo dump.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import enum
import json
import random
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom.charset
import pydicom.data
from numpy.typing import NDArray
from pydicom.valuerep import PersonName

from tasks.errors import ScanwardError, UsageError
from tasks.files import write_json
from tests.builders.cast import (
    CAST,
    DIFFUSION,
    EPI,
    FULL,
    LOCALIZER,
    SMALL,
    SMALL_CAST,
    T1,
    Role,
    draw_head,
    draw_person,
    jitter,
    oblique_grid,
    spread_directions,
    t1_grid,
)
from tests.builders.head import (
    Floats,
    Grid,
    Head,
    add_noise,
    diffusion_factor,
    sample_tissue,
    t1_weighted,
    t2_weighted,
)
from tests.builders.mr_headers import (
    Pixels,
    Scanner,
    Series,
    Vector,
    Visit,
    Volume,
    classic_image,
    classic_series,
    enhanced_image,
    person_age,
)

VERSION = 1
"""Raise it when the same seed no longer gives the same bytes."""


class DumpTakenError(UsageError):
    """The folder for the demo dump holds something else."""

    sentence = "The folder {path} holds other files, so the demo dump was not written: name an empty or a new folder."
    hint = ""


class FileKind(enum.StrEnum):
    """What a file of the dump is."""

    PATIENT_IMAGE = "patient image"
    PYDICOM_FILE = "pydicom's file"
    DUPLICATE = "exact duplicate"
    CONFLICT = "same SOP Instance UID, other content"
    TRUNCATED = "truncated DICOM"
    EMPTY = "zero-length file"
    THUMBNAILS = "Thumbs.db"
    PDF = "PDF"
    TEXT = "text file"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoFile:
    """One written file.

    Attributes
    ----------
    name
        Its name in the flat folder.
    patient
        Number of the synthetic patient it shows, from 1; 0 for none.
    visit
        Number of that patient's time point, from 1; 0 for none.
    series
        "t1", "epi", "dwi" or "localizer"; empty for none.
    enhanced
        Whether it holds many frames.
    sop_instance_uid
        Of the synthetic images; empty elsewhere.
    original
        For a duplicate or a conflict, the name of the file it repeats; for pydicom's files, their path there.
    """

    name: str
    kind: FileKind
    patient: int = 0
    visit: int = 0
    series: str = ""
    enhanced: bool = False
    sop_instance_uid: str = ""
    original: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticPatient:
    """All that the headers of one synthetic patient tell, for a search for leaks.

    Dates are DICOM dates (YYYYMMDD). `marks` is the middle of the bright ball at each visit, LPS millimetres.
    """

    number: int
    character_set: tuple[str, ...]
    names: tuple[str, ...]
    patient_ids: tuple[str, ...]
    birth_date: str
    ages: tuple[str, ...]
    study_dates: tuple[str, ...]
    accession_numbers: tuple[str, ...]
    study_ids: tuple[str, ...]
    device_serial_numbers: tuple[str, ...]
    station_names: tuple[str, ...]
    institutions: tuple[str, ...]
    people: tuple[str, ...]
    contacts: tuple[str, ...]
    uids: tuple[str, ...]
    marks: tuple[Vector, ...]

    def identifying_values(self) -> frozenset[str]:
        """Gather every planted value that must not leave: whole values, and the groups of names."""
        values = {self.birth_date, *self.patient_ids, *self.study_dates, *self.accession_numbers, *self.study_ids}
        values |= {*self.device_serial_numbers, *self.station_names, *self.institutions, *self.contacts, *self.uids}
        for name in (*self.names, *self.people):
            values.add(name)
            values.update(name.split("="))
        return frozenset(values)

    def identifying_bytes(self) -> dict[str, frozenset[bytes]]:
        """Encode every identifying value as it may stand in a file: in the patient's character set, and in UTF-8."""
        encodings = pydicom.charset.convert_encodings(list(self.character_set) or [""])
        forms = {}
        for value in self.identifying_values():
            # Escape sequences start anew behind each delimiter of a name (PS3.5 6.1.2.5.3).
            coded = (
                PersonName(value).encode(encodings) if "^" in value else pydicom.charset.encode_string(value, encodings)
            )
            forms[value] = frozenset({coded, value.encode()})
        return forms


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoContents:
    """What a demo dump holds."""

    version: int
    seed: int
    small: bool
    files: tuple[DemoFile, ...]
    patients: tuple[SyntheticPatient, ...]

    def of_kind(self, kind: FileKind) -> tuple[DemoFile, ...]:
        """Pick the files of one kind."""
        return tuple(file for file in self.files if file.kind is kind)

    def counts(self) -> dict[FileKind, int]:
        """Count the files of each kind that occurs."""
        counted = collections.Counter(file.kind for file in self.files)
        return {kind: counted[kind] for kind in FileKind if counted[kind]}


def write_demo_dump(folder: Path, *, seed: int = 1, small: bool = False) -> DemoContents:
    """Write the demo dump into `folder`, or find it there already.

    Parameters
    ----------
    folder
        New, empty, or holding this very dump.
    seed
        Everything follows from it: names, bytes, UIDs.
    small
        Two patients with few slices, about 150 files, for tests.

    Raises
    ------
    DumpTakenError
        If the folder holds anything else.
    """
    folder = Path(folder).absolute()
    record = record_path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        contents = read_contents(folder)
        wanted = (VERSION, seed, small)
        if contents is None or (contents.version, contents.seed, contents.small) != wanted:
            raise DumpTakenError(path=folder)
        if {path.name for path in folder.iterdir()} != {file.name for file in contents.files}:
            raise DumpTakenError(path=folder)
        return contents

    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir()
    writer = _DumpWriter(unfinished, seed=seed, small=small)
    contents = writer.write()
    write_json(record, dataclasses.asdict(contents))
    unfinished.replace(folder)
    return contents


def record_path(folder: Path) -> Path:
    """Name the file beside a demo dump that tells what was planted in it."""
    return folder.with_name(folder.name + ".demo.json")


def read_contents(folder: Path) -> DemoContents | None:
    """Read what was planted in a demo dump; None if there is no record that reads."""
    try:
        told = json.loads(record_path(folder).read_text(encoding="utf-8"))
        return DemoContents(
            version=told["version"],
            seed=told["seed"],
            small=told["small"],
            files=tuple(DemoFile(**{**file, "kind": FileKind(file["kind"])}) for file in told["files"]),
            patients=tuple(
                SyntheticPatient(**{key: _frozen(value) for key, value in patient.items()})
                for patient in told["patients"]
            ),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _frozen(value: Any) -> Any:
    return tuple(_frozen(part) for part in value) if isinstance(value, list) else value


class _DumpWriter:
    """Write one dump into an empty folder, noting each file."""

    def __init__(self, folder: Path, *, seed: int, small: bool) -> None:
        self.folder = folder
        self.seed = seed
        self.small = small
        self.size = SMALL if small else FULL
        self.cast = [role for role in CAST if not small or role.number in SMALL_CAST]
        self.names = random.Random(f"{seed} names")
        self.files: list[DemoFile] = []
        self.taken: set[str] = set()

    def write(self) -> DemoContents:
        patients = tuple(self._write_patient(role) for role in self.cast)
        self._copy_pydicom_files()
        self._repeat_files()
        self._write_junk(patients)
        return DemoContents(
            version=VERSION,
            seed=self.seed,
            small=self.small,
            files=tuple(sorted(self.files, key=lambda file: file.name)),
            patients=patients,
        )

    def _put(self, content: bytes, kind: FileKind, *, name: str = "", **facts: Any) -> None:
        while not name or name in self.taken:
            name = f"{self.names.getrandbits(64):016x}"
        self.taken.add(name)
        (self.folder / name).write_bytes(content)
        self.files.append(DemoFile(name=name, kind=kind, **facts))

    def _write_patient(self, role: Role) -> SyntheticPatient:
        chance = random.Random(f"{self.seed} patient {role.number}")
        person = draw_person(role, chance)
        serial = str(chance.randrange(30000, 99999))
        station = f"SYNMR{role.number}{chance.randrange(100, 999)}"
        visits = []
        heads = []
        base = draw_head(role, chance)
        for order, month in enumerate(role.months[:2] if self.small else role.months):
            start = datetime.datetime.combine(role.first_visit, datetime.time(9)) + datetime.timedelta(
                days=30 * month + chance.randrange(14), minutes=chance.randrange(420), seconds=chance.randrange(60)
            )
            visit = Visit(
                person=person,
                scanner=role.scanner,
                serial=serial,
                station=station,
                start=start,
                accession=f"SYNACC{chance.randrange(10**8):08d}",
                study_id=f"SYNST{chance.randrange(10**6):06d}",
                chance=chance,
            )
            # The same head lies a little differently, and shines a little differently, each time.
            head = dataclasses.replace(
                base,
                shift=jitter(base.shift, 3.0, chance),
                nod=base.nod + chance.uniform(-2, 2),
                turn=base.turn + chance.uniform(-2, 2),
                gain=base.gain * chance.uniform(0.95, 1.05),
            )
            self._write_visit(role, visit, head, order)
            visits.append(visit)
            heads.append(head)
        return _planted(role, visits, heads)

    def _write_visit(self, role: Role, visit: Visit, head: Head, order: int) -> None:
        size = self.size
        noise = np.random.default_rng([self.seed, role.number, order])
        facts = {"patient": role.number, "visit": order + 1}
        if role.number == self.cast[0].number and order == 0:
            self._write_truncated(visit, facts)

        description = f"T1 3D {visit.person.spoken_name}" if role.name_in_description else T1.description
        t1 = Series(
            visit=visit,
            number=2,
            contrast=dataclasses.replace(T1, description=description),
            grid=t1_grid(size, axial=role.t1_axial),
            volumes=1,
            start=visit.start + datetime.timedelta(minutes=4),
        )
        tissue = sample_tissue(head, t1.grid)
        pixels = _stored(add_noise(t1_weighted(tissue), 12, noise), visit.scanner)
        self._write_classic(t1, [Volume(index=0, pixels=pixels)], facts)

        epi = Series(
            visit=visit,
            number=3,
            contrast=EPI,
            grid=oblique_grid(size.epi_shape, size.epi_spacing, role.tilt),
            volumes=size.epi_volumes,
            start=visit.start + datetime.timedelta(minutes=11),
            reference_uid=t1.first_instance_uid,
        )
        tissue = sample_tissue(head, epi.grid)
        signal = t2_weighted(tissue)
        # Warming gradients let the signal drift; the heart and the breath add to it as a whole.
        volumes = [
            Volume(
                index=index,
                pixels=_stored(
                    add_noise(signal * np.float32(1 + 0.006 * index + noise.normal(0, 0.002)), 8, noise), visit.scanner
                ),
            )
            for index in range(size.epi_volumes)
        ]
        if role.epi == "classic":
            self._write_classic(epi, volumes, facts)
        elif role.epi == "enhanced":
            self._write_enhanced(epi, [volumes], facts, volume_fastest=True)
        else:
            self._write_enhanced(epi, [[volume] for volume in volumes], facts, volume_fastest=False)

        count = size.enhanced_directions if role.enhanced_diffusion else size.directions
        dwi = Series(
            visit=visit,
            number=4,
            contrast=DIFFUSION,
            grid=oblique_grid(size.diffusion_shape, size.diffusion_spacing, role.tilt / 2),
            volumes=count + 1,
            start=visit.start + datetime.timedelta(minutes=19),
            reference_uid=t1.first_instance_uid,
        )
        tissue = sample_tissue(head, dwi.grid)
        signal = t2_weighted(tissue)
        weightings: list[tuple[float, Vector | None]] = [(0.0, None)]
        weightings += [(1000.0, direction) for direction in spread_directions(count)]
        volumes = [
            Volume(
                index=index,
                pixels=_stored(
                    add_noise(signal * diffusion_factor(tissue, b_value, direction), 8, noise), visit.scanner
                ),
                b_value=b_value,
                direction=direction,
            )
            for index, (b_value, direction) in enumerate(weightings)
        ]
        if role.enhanced_diffusion:
            fastest = role.scanner.uid_style == "random"
            self._write_enhanced(dwi, [volumes], facts, volume_fastest=fastest)
        else:
            self._write_classic(dwi, volumes, facts)

    def _write_classic(self, series: Series, volumes: Sequence[Volume], facts: dict[str, int]) -> None:
        dataset = classic_series(series)
        for volume in volumes:
            for index in range(series.grid.shape[0]):
                content, uid = classic_image(dataset, series, volume, index)
                kind = FileKind.PATIENT_IMAGE
                self._put(content, kind, series=series.contrast.kind, sop_instance_uid=uid, **facts)

    def _write_enhanced(
        self, series: Series, files: Sequence[Sequence[Volume]], facts: dict[str, int], *, volume_fastest: bool
    ) -> None:
        for number, volumes in enumerate(files, start=1):
            content, uid = enhanced_image(series, volumes, number=number, volume_fastest=volume_fastest)
            self._put(
                content,
                FileKind.PATIENT_IMAGE,
                series=series.contrast.kind,
                enhanced=True,
                sop_instance_uid=uid,
                **facts,
            )

    def _write_truncated(self, visit: Visit, facts: dict[str, int]) -> None:
        """Write a localizer whose transfer broke off: once in the pixels, once in the header."""
        grid = Grid(shape=(2, 64, 64), spacing=(10.0, 4.0, 4.0), row_direction=(1, 0, 0), column_direction=(0, 0, -1))
        series = Series(visit=visit, number=1, contrast=LOCALIZER, grid=grid, volumes=1, start=visit.start)
        pixels = _stored(np.full(grid.shape, 100, dtype=np.float32), visit.scanner)
        dataset = classic_series(series)
        for index, share in enumerate((0.8, 0.15)):
            content, uid = classic_image(dataset, series, Volume(index=0, pixels=pixels), index)
            begun = content[: int(len(content) * share) | 1]
            self._put(begun, FileKind.TRUNCATED, series="localizer", sop_instance_uid=uid, **facts)

    def _copy_pydicom_files(self) -> None:
        for path in pydicom_files()[:: self.size.every_pydicom_file]:
            self._put(path.read_bytes(), FileKind.PYDICOM_FILE, original=path.relative_to(PYDICOM_FOLDER).as_posix())

    def _repeat_files(self) -> None:
        """Repeat some images exactly, and one with a changed pixel."""
        images = [file for file in self.files if file.kind is FileKind.PATIENT_IMAGE]
        chosen = random.Random(f"{self.seed} repeats")
        for file in chosen.sample(images, self.size.duplicates):
            self._repeat(file, FileKind.DUPLICATE, (self.folder / file.name).read_bytes())
        file = chosen.choice([file for file in images if file.series == "epi" and not file.enhanced])
        content = bytearray((self.folder / file.name).read_bytes())
        content[-2] ^= 1
        self._repeat(file, FileKind.CONFLICT, bytes(content))

    def _repeat(self, file: DemoFile, kind: FileKind, content: bytes) -> None:
        facts = {key: value for key, value in dataclasses.asdict(file).items() if key not in ("name", "kind")}
        self._put(content, kind, **{**facts, "original": file.name})

    def _write_junk(self, patients: Sequence[SyntheticPatient]) -> None:
        self._put(_thumbnails(), FileKind.THUMBNAILS, name="Thumbs.db")
        self._put(_small_pdf(f"Consent of {patients[-1].patient_ids[0]}"), FileKind.PDF)
        self._put(b"", FileKind.EMPTY)
        told = "".join(f"{patient.patient_ids[0]}\t{patient.names[0]}\n" for patient in patients)
        self._put(f"operator's list, all synthetic\n{told}".encode(), FileKind.TEXT)


PYDICOM_FOLDER = Path(pydicom.data.__file__).parent / "test_files"


def pydicom_files() -> list[Path]:
    """List the DICOM files that pydicom's package itself carries; nothing is fetched."""
    beside = {".txt", ".json", ".dump", ".icc", ".gz"}
    return sorted(
        path
        for path in PYDICOM_FOLDER.rglob("*")
        if path.is_file() and path.suffix not in beside and path.name != "README"
    )


def _stored(signal: Floats, scanner: Scanner) -> Pixels:
    units: NDArray[np.float32] = np.clip(np.rint(signal / np.float32(scanner.rescale_slope)), 0, 4095)
    return units.astype("<i2") if scanner.signed else units.astype("<u2")


def _planted(role: Role, visits: Sequence[Visit], heads: Sequence[Head]) -> SyntheticPatient:
    person = visits[0].person
    return SyntheticPatient(
        number=role.number,
        character_set=role.character_set,
        names=(person.name, person.former_name, person.spoken_name),
        patient_ids=(person.patient_id, person.other_id),
        birth_date=f"{person.birth_date:%Y%m%d}",
        ages=tuple(person_age(person.birth_date, visit.start.date()) for visit in visits),
        study_dates=tuple(f"{visit.start:%Y%m%d}" for visit in visits),
        accession_numbers=tuple(visit.accession for visit in visits),
        study_ids=tuple(visit.study_id for visit in visits),
        device_serial_numbers=(visits[0].serial,),
        station_names=(visits[0].station,),
        institutions=(person.institution, person.institution_address, person.department),
        people=(person.referrer, person.performer, person.operator),
        contacts=(person.address, person.telephone),
        uids=tuple(uid for visit in visits for uid in visit.uids),
        marks=tuple(head.mark for head in heads),
    )


def _thumbnails() -> bytes:
    """Make what Windows leaves in folders of pictures: the head of an OLE compound file, and little else."""
    return bytes.fromhex("d0cf11e0a1b11ae1").ljust(24, b"\0") + bytes.fromhex("3e000300feff0900") + b"\xff" * 2016


def _small_pdf(text: str) -> bytes:
    drawing = f"BT /F1 18 Tf 40 40 Td ({text}) Tj ET".encode("ascii")
    objects = (
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 400 99] /Contents 4 0 R /Resources << /Font << /F1 5 0 R>> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(drawing), drawing),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    )
    content = b"%PDF-1.4\n"
    places = []
    for number, body in enumerate(objects, start=1):
        places.append(len(content))
        content += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    trailer = b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, len(content))
    return content + b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1) + table + trailer


def summary(contents: DemoContents) -> Iterator[str]:
    """Say in a few lines what a dump holds."""
    yield f"{len(contents.files)} files of {len(contents.patients)} synthetic patients and others:"
    for kind, count in contents.counts().items():
        yield f"{count:7d}  {kind}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the demo dump as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.builders.demo_dump", description="Write the demo dump.")
    parser.add_argument("folder", type=Path, metavar="DIR", help="a new or empty folder")
    parser.add_argument("--seed", type=int, default=1, help="everything in the dump follows from it (default 1)")
    parser.add_argument("--small", action="store_true", help="two patients, about 150 files")
    given = parser.parse_args(arguments)
    try:
        contents = write_demo_dump(given.folder, seed=given.seed, small=given.small)
    except ScanwardError as fault:
        sys.stderr.write(f"{fault}\n")
        return fault.exit_code
    sys.stdout.write("\n".join(summary(contents)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
