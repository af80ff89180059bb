"""Prepare one series for review: describe it, digest its files, and draw its picture.

A series depends on nothing but its own folder, so any number may be prepared at the same time; `merge_entries` then
makes one manifest of them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from tasks.files import TEMPORARY_PREFIX, digest_of_part, file_digest
from tasks.review.finding import Finding, counted, finding
from tasks.review.geometry import Geometry
from tasks.review.manifest import MONTAGES, THUMBNAILS, Entry, InstanceRecord
from tasks.review.montage import render_montage
from tasks.review.pixels import PixelFormat
from tasks.review.plane import Plane
from tasks.review.thumbnail import render_thumbnail
from tasks.review.volume import Acquisition, Instance, Series, Volume, load_voxels, read_series


def series_folders(export: Path) -> list[Path]:
    """List the folders `subject/visit/series` of an export that hold files, sorted."""
    return sorted(folder for folder in export.glob("*/*/*") if folder.is_dir() and series_files(folder))


def series_files(folder: Path) -> list[Path]:
    """List the files of one series, sorted by name; what an interrupted write left behind is none of them."""
    return sorted(
        Path(entry.path)
        for entry in os.scandir(folder)
        if entry.is_file() and not entry.name.startswith(TEMPORARY_PREFIX)
    )


def prepare_series(released: Path, series_folder: Path, review_folder: Path) -> Entry:
    """Describe a series, digest its files and draw its pictures to `review_folder/*/<entry id>.png`.

    Parameters
    ----------
    released
        The folder that holds `export`.
    series_folder
        `released/export/subject/visit/series`.
    review_folder
        Where the manifest will lie; paths in the entry are relative to it.

    Returns
    -------
    Entry
        A bad image is a problem in the entry, never an exception.

    Raises
    ------
    MissingPackageError
        If Pillow is not installed.
    DiskFullError, WorkspaceError
        If the picture cannot be written.
    """
    paths = series_files(series_folder)
    series = read_series(paths)
    volume = load_voxels(series, first_only=True)
    subject, visit, name = series_folder.relative_to(released / "export").parts
    entry_id = f"{subject}_{visit}_{name}"
    problems = volume.problems
    if not paths:
        problems = (finding("series-empty", "The series holds no instance."),)
    montage, thumbnail, no_montage = None, None, ""
    picture, small = (review_folder / kind / f"{entry_id}.png" for kind in (MONTAGES, THUMBNAILS))
    if any(image is not None for image in volume.images):
        render_montage(volume, picture, title=entry_id)
        render_thumbnail(volume, small)
        montage, thumbnail = (_relative(one, review_folder) for one in (picture, small))
    else:
        no_montage = _why_no_picture(problems)
        for one in (picture, small):
            one.unlink(missing_ok=True)
    readable = [one for one in series.instances if isinstance(one, Instance)]
    return Entry(
        entry_id=entry_id,
        subject=subject,
        visit=visit,
        series=name,
        modality=readable[0].acquisition.modality if readable else "OT",
        description=describe_series(series),
        sop_class=readable[0].sop_class if readable else "",
        transfer_syntax=readable[0].transfer_syntax if readable else "",
        instances=tuple(
            InstanceRecord(path=_relative(path, review_folder), sha256=file_digest(path), size=path.stat().st_size)
            for path in series.ordered_files()
        ),
        geometry=series.geometry,
        montage=montage,
        no_montage=no_montage,
        thumbnail=thumbnail,
        problems=problems,
        digest=_digest_of_pictures(series),
    )


def _digest_of_pictures(series: Series) -> str:
    """Digest the stored pixels in order, how they become values, and where they lie; no other part of a header."""
    known = dict(zip(series.paths, series.instances, strict=True))
    total = hashlib.sha256()
    for path in series.ordered_files():
        instance = known[path]
        if isinstance(instance, Instance) and isinstance(instance.pixels, PixelFormat) and instance.pixels.offset:
            pixels = instance.pixels
            total.update(repr((pixels.photometric, pixels.signed, pixels.bits_stored, pixels.rescales)).encode("ascii"))
            total.update(digest_of_part(path, pixels.offset, pixels.length).encode("ascii"))
        else:  # nothing can be told apart from the rest of the file
            total.update(file_digest(path).encode("ascii"))
    lies = {name: value for name, value in series.geometry.to_json().items() if name != "findings"}
    total.update(json.dumps(lies, sort_keys=True).encode("ascii"))
    return total.hexdigest()


def render_series(paths: Iterable[Path], picture: Path, *, title: str) -> Volume:
    """Draw the picture of one series to a place of one's own choice.

    Returns
    -------
    Volume
        Of the first volume. If none of its `images` could be decoded, no picture was written.

    Raises
    ------
    MissingPackageError, DiskFullError, WorkspaceError
        As `prepare_series`.
    """
    volume = load_voxels(read_series(paths), first_only=True)
    if any(image is not None for image in volume.images):
        render_montage(volume, picture, title=title)
    return volume


def _relative(path: Path, start: Path) -> str:
    return Path(os.path.relpath(path, start)).as_posix()


def _why_no_picture(problems: tuple[Finding, ...]) -> str:
    codes = sorted({one.code for one in problems})
    return f"nothing could be decoded: {', '.join(codes)}" if codes else "the series holds no picture"


# -- the description ---------------------------------------------------------------------------------------------------

_VALUES_NAMED = 4


def describe_series(series: Series) -> str:
    r"""Say in a line what was acquired, such as "MR 3D GR\IR TR 2300 TE 2.98 TI 900, 176 slices".

    Only measured numbers and the standard's own terms go in: no text that a person typed at the scanner.
    """
    instances = [one for one in series.instances if isinstance(one, Instance)]
    if not instances:
        return "nothing that can be read"
    planes = series.arrangement.planes
    return f"{_acquired(instances[0].acquisition, planes)}, {_extent(series.geometry, planes)}"


def _acquired(first: Acquisition, planes: tuple[Plane, ...]) -> str:
    words = [first.modality]
    if first.dimensions:
        words.append(first.dimensions)
    if first.sequence:
        words.append("\\".join(first.sequence))
    if first.repetition_time:
        words.append(f"TR {_short(first.repetition_time)}")
    echoes = {plane.echo_time for plane in planes if plane.echo_time}
    words += _several("TE", echoes or ({first.echo_time} if first.echo_time else set()))
    words += _several("TI", {plane.inversion_time for plane in planes if plane.inversion_time})
    weights = {plane.b_value for plane in planes if plane.b_value is not None}
    if weights - {0.0}:
        words += _several("b", weights)
    if first.peak_kilovoltage:
        words.append(f"{_short(first.peak_kilovoltage)} kV")
    return " ".join(words)


def _several(name: str, values: Iterable[float | None]) -> list[str]:
    ordered = sorted({round(value, 2) for value in values if value is not None})
    if not ordered:
        return []
    if len(ordered) > _VALUES_NAMED:
        return [f"{name} {_short(ordered[0])}-{_short(ordered[-1])}"]
    return [f"{name} {'/'.join(_short(value) for value in ordered)}"]


def _short(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _extent(geometry: Geometry, planes: tuple[Plane, ...]) -> str:
    if geometry.shape is None:
        return counted(len(planes), "picture")
    volumes, slices = geometry.shape[:2]
    text = counted(slices, "slice")
    return text if volumes == 1 else f"{text} x {volumes} volumes"
