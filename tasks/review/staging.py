"""What a series was converted to, before it has a name in the data set: a folder of its own in `identified/`.

Names hang on all series of a visit, so they are given when all are converted; until then, and for as long as the series
is exported, its images lie here under numbers, and the data set links to them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tasks.files import file_digest, make_folder, refusals_named, temporary_sibling, write_json
from tasks.review.bids import ImageFacts, NamingRule
from tasks.review.convert import WARNINGS, ConvertedImage, compress_image, convert_series, time_course
from tasks.review.course_picture import render_course
from tasks.review.finding import Finding, finding
from tasks.review.quality.measure import FEWEST_VOLUMES, Course, Maps, Quality, measure_image
from tasks.review.quality.protocol import Expected
from tasks.review.sidecar import read_sidecar, released_sidecar

RECORD = "conversion.json"
"""What the folder of a series says of it; written last."""

RECORD_VERSION = 1

IMAGE, BVAL, BVEC = ".nii.gz", ".bval", ".bvec"
"""Endings of the files of an image."""

_SCANNER_FIELDS = (
    *("Manufacturer", "ManufacturersModelName", "MagneticFieldStrength", "SoftwareVersions"),
    # These are in an export only if the study file retains them.
    *("InstitutionName", "StationName", "DeviceSerialNumber"),
)
_AGE = re.compile(r"(\d{1,3})([YMWD])")
_DAYS = {"Y": 365.25, "M": 30.44, "W": 7.0, "D": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedImage:
    """One image of a series, as it lies in the series' folder.

    Attributes
    ----------
    stem
        The files' name without ending.
    sha256, size, shape
        Of the compressed image: digest, bytes, and voxels along each axis.
    kind
        As `ConvertedImage.kind`.
    sidecar
        What is released of its sidecar.
    scanner
        Which scanner it comes from, as far as the export tells.
    age, sex
        Of the subject, in years, and as DICOM codes it; None and empty if the export does not tell.
    has_directions
        Whether b-values and directions lie beside it.
    quality
        What was measured.
    """

    stem: str
    sha256: str
    size: int
    shape: tuple[int, ...]
    kind: str
    sidecar: Mapping[str, Any]
    scanner: str
    age: float | None
    sex: str
    has_directions: bool
    quality: Quality

    def facts(self, entry_id: str, subject: str, visit: str, series: str) -> ImageFacts:
        """Return what its name is made from."""
        number = self.sidecar.get("SeriesNumber")
        digits = re.match(r"\d+", series)
        if not isinstance(number, int) or isinstance(number, bool):
            number = int(digits[0]) if digits else 0
        return ImageFacts(
            key=f"{entry_id}/{self.stem}",
            subject=subject,
            visit=visit,
            series_number=number,
            kind=self.kind,
            sidecar=self.sidecar,
            has_directions=self.has_directions,
            volumes=self.shape[3] if len(self.shape) > 3 else 1,
            slices=self.shape[2] if len(self.shape) > 2 else 1,
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain data for a JSON file."""
        return {
            "stem": self.stem,
            "sha256": self.sha256,
            "size": self.size,
            "shape": list(self.shape),
            "kind": self.kind,
            "sidecar": dict(self.sidecar),
            "scanner": self.scanner,
            "age": self.age,
            "sex": self.sex,
            "has_directions": self.has_directions,
            "quality": self.quality.to_json(),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> StagedImage:
        """Rebuild from `to_json`.

        Raises
        ------
        KeyError, TypeError, ValueError
            If a field is missing or not what it must be.
        """
        return cls(
            stem=str(content["stem"]),
            sha256=str(content["sha256"]),
            size=int(content["size"]),
            shape=tuple(int(count) for count in content["shape"]),
            kind=str(content["kind"]),
            sidecar=dict(content["sidecar"]),
            scanner=str(content["scanner"]),
            age=None if content["age"] is None else float(content["age"]),
            sex=str(content["sex"]),
            has_directions=bool(content["has_directions"]),
            quality=Quality.from_json(content["quality"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """What became of one series.

    Attributes
    ----------
    images
        In the converter's order.
    reason
        Why there is no image, or not all of them; empty if nothing is missing.
    problems
        What the converter warned of, and whether it did not come to its end.
    has_course
        Whether a picture was drawn of what changes over time.
    """

    images: tuple[StagedImage, ...]
    reason: str
    problems: tuple[Finding, ...]
    has_course: bool

    def to_json(self) -> dict[str, Any]:
        """Return plain data for a JSON file."""
        return {
            "version": RECORD_VERSION,
            "images": [image.to_json() for image in self.images],
            "reason": self.reason,
            "problems": [problem.to_json() for problem in self.problems],
            "has_course": self.has_course,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Workbench:
    """What series are converted and measured with.

    Attributes
    ----------
    program
        dcm2niix.
    protocol
        What the study wants of its series: for each kind of series a rule that tells it, and how it is to be acquired.
    """

    program: str
    protocol: tuple[tuple[NamingRule, Expected], ...] = ()

    def expected(self, image: ImageFacts) -> Expected | None:
        """Return what the study wants of an image: the first rule that fits counts."""
        return next((expected for rule, expected in self.protocol if rule.fits(image)), None)


def stage_series(
    files: Sequence[Path], folder: Path, bench: Workbench, *, place: tuple[str, str, str], course: Path
) -> Staged:
    """Convert a series, measure what comes out, and leave it in a folder of its own, whole or not at all.

    Parameters
    ----------
    files
        The exported DICOM files, in an order that is the same each time.
    folder
        Where the images go; what was there before is replaced.
    bench
        What to do it with.
    place
        Subject, visit and series, as the export's folders are called.
    course
        Where the picture goes of what changes over time; removed if there is nothing to draw.

    Raises
    ------
    MissingPackageError, DiskFullError, WorkspaceError
        As `convert_series`.
    """
    beside, work = temporary_sibling(folder), temporary_sibling(folder.with_name(f"{folder.name}-work"))
    for one in (beside, work):
        shutil.rmtree(one, ignore_errors=True)
        make_folder(one, mode=0o700)
    try:
        conversion = convert_series(files, work, program=bench.program)
        images = []
        has_course = False
        for number, image in enumerate(conversion.images):
            where = _Where(folder=beside, work=work, stem=f"{number:03d}", place=place)
            staged, traces = _stage_image(image, where, bench)
            if traces is not None and not has_course:
                _draw_course(image.image, course, traces, title="_".join(place))
                has_course = True
            images.append(_compressed(staged, image, where))
        if not has_course:
            course.unlink(missing_ok=True)
        problems = [finding("conversion-warning", WARNINGS[code]) for code in conversion.warnings]
        if conversion.outcome == "failed":
            problems.append(finding("not-converted", conversion.reason))
        elif conversion.outcome == "partial":
            problems.append(finding("half-converted", conversion.reason))
        outcome = Staged(
            images=tuple(images), reason=conversion.reason, problems=tuple(problems), has_course=has_course
        )
        write_json(beside / RECORD, outcome.to_json(), mode=0o600)
        with refusals_named(folder.parent):
            shutil.rmtree(folder, ignore_errors=True)
            os.rename(beside, folder)
    finally:
        for one in (beside, work):
            shutil.rmtree(one, ignore_errors=True)
    return outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class _Where:
    """The folder for results, the one for work, the name of an image's files, and subject, visit and series."""

    folder: Path
    work: Path
    stem: str
    place: tuple[str, str, str]


def _stage_image(image: ConvertedImage, where: _Where, bench: Workbench) -> tuple[StagedImage, Course | None]:
    """Describe and measure one image, which is not compressed yet; give its course if there is one to draw."""
    told = read_sidecar(image.sidecar) if image.sidecar is not None else {}
    shape = _shape(image.image)
    bare = StagedImage(
        stem=where.stem,
        sha256="",
        size=0,
        shape=shape,
        kind=image.kind,
        sidecar=released_sidecar(told),
        scanner=", ".join(str(told[field]) for field in _SCANNER_FIELDS if told.get(field)),
        age=_years(told.get("PatientAge")),
        sex=str(told["PatientSex"]) if told.get("PatientSex") in ("F", "M", "O") else "",
        has_directions=image.bval is not None and image.bvec is not None,
        quality=Quality(),
    )
    is_run = len(shape) == 4 and shape[3] >= FEWEST_VOLUMES
    maps = _maps(image.image, where.work / "course") if is_run and not bare.has_directions else None
    expected = bench.expected(bare.facts("_".join(where.place), *where.place))
    quality = measure_image(image.image, told, bval=image.bval, bvec=image.bvec, expected=expected, maps=maps)
    shutil.rmtree(where.work / "course", ignore_errors=True)
    return replace(bare, quality=quality), quality.course if is_run else None


def _maps(image: Path, work: Path) -> Maps | None:
    try:
        over_time = time_course(image, work)
    except ValueError:
        return None
    return Maps(tsnr=over_time.tsnr, unsteady=over_time.unsteady)


def _draw_course(image: Path, picture: Path, course: Course, *, title: str) -> None:
    traces = {"motion_index": course.motion_index, "dvars": course.dvars, "global_mean": course.global_mean}
    render_course(image, picture, title=title, **traces)


def _compressed(staged: StagedImage, image: ConvertedImage, where: _Where) -> StagedImage:
    """Leave the compressed image, and what lies beside it, in the folder for results."""
    target = where.folder / f"{where.stem}{IMAGE}"
    compress_image(image.image, target)
    for source, ending in ((image.bval, BVAL), (image.bvec, BVEC)):
        if source is not None:
            with refusals_named(where.folder):
                shutil.copyfile(source, where.folder / f"{where.stem}{ending}")
    image.image.unlink()
    return replace(staged, sha256=file_digest(target), size=target.stat().st_size)


def _shape(image: Path) -> tuple[int, ...]:
    import nibabel  # noqa: PLC0415 - an extra

    opened: Any = nibabel.load(image)
    return tuple(int(count) for count in opened.shape)


def _years(age: Any) -> float | None:
    """Read an age as DICOM writes it (VR AS, PS3.5 6.2), or as a number of years."""
    if isinstance(age, int | float) and not isinstance(age, bool):
        return float(age)
    found = _AGE.fullmatch(str(age).strip()) if age else None
    return int(found[1]) * _DAYS[found[2]] / _DAYS["Y"] if found else None


def read_staged(folder: Path) -> Staged | None:
    """Read what became of a series; None if it is not there, not whole, or of another version."""
    path = folder / RECORD
    try:
        content = json.loads(path.read_bytes())
        if content["version"] != RECORD_VERSION:
            return None
        return Staged(
            images=tuple(StagedImage.from_json(image) for image in content["images"]),
            reason=str(content["reason"]),
            problems=tuple(Finding.from_json(problem) for problem in content["problems"]),
            has_course=bool(content["has_course"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
