"""Check that everything a review manifest says is still so."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.files import TEMPORARY_PREFIX, file_digest
from tasks.review.finding import Finding, finding
from tasks.review.geometry import Geometry
from tasks.review.manifest import Entry, Manifest, read_manifest
from tasks.review.volume import read_series
from tasks.workspace import EXPORT_PAPERS

GEOMETRY_TOLERANCE = 1e-6
"""How far, in millimetres, a number of the geometry may differ after it was written and read again."""

_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryReport:
    """What was found about one series.

    Attributes
    ----------
    entry_id
        Of the manifest.
    findings
        What is not as the manifest says, then the faults that the manifest itself records.
    """

    entry_id: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What was found about a manifest.

    Attributes
    ----------
    manifest_sha256
        The digest of the manifest file itself.
    entries, instances, images, pictures
        How many of each the manifest lists.
    reports
        The entries about which something was found, in the manifest's order.
    findings
        What belongs to no entry: files in the export that the manifest does not list.
    """

    manifest_sha256: str
    entries: int
    instances: int
    images: int
    pictures: int
    reports: tuple[EntryReport, ...]
    findings: tuple[Finding, ...]

    @property
    def is_sound(self) -> bool:
        """True if nothing was found that somebody should look at."""
        return not self.reports and not self.findings

    def counts(self) -> dict[str, int]:
        """Count the findings by code, sorted."""
        found = [one for report in self.reports for one in report.findings] + list(self.findings)
        return dict(sorted(Counter(one.code for one in found).items()))


def check_manifest(path: Path, *, progress: Callable[[int, int], None] | None = None) -> CheckReport:
    """Read a manifest back and verify it against the files, all of them, whatever is found on the way.

    Every instance and every image has to be there with the size and the digest that are listed; the geometry is worked
    out again and compared; every picture has to be a whole PNG file; the export may hold no file that is not listed.

    Parameters
    ----------
    path
        The manifest.
    progress
        Called after each entry with the number done and the number in all.

    Raises
    ------
    ManifestError
        If the manifest cannot be read at all.
    """
    manifest = read_manifest(path)
    folder = path.parent
    reports = []
    for done, entry in enumerate(manifest.entries, 1):
        found = (
            *_instances(folder, entry),
            *_geometry(folder, entry),
            *_images(folder, entry),
            *_pictures(folder, entry),
            *entry.faults,
        )
        if found:
            reports.append(EntryReport(entry_id=entry.entry_id, findings=found))
        if progress is not None:
            progress(done, len(manifest.entries))
    return CheckReport(
        manifest_sha256=file_digest(path),
        entries=len(manifest.entries),
        instances=sum(len(entry.instances) for entry in manifest.entries),
        images=sum(len(entry.images) for entry in manifest.entries),
        pictures=sum(
            name is not None for entry in manifest.entries for name in (entry.montage, entry.thumbnail, entry.course)
        ),
        reports=tuple(reports),
        findings=tuple(_not_listed(folder, manifest)),
    )


def _instances(folder: Path, entry: Entry) -> Iterator[Finding]:
    for record in entry.instances:
        path = folder / record.path
        try:
            size = path.stat().st_size
            digest = file_digest(path) if size == record.size else ""
        except FileNotFoundError:
            yield finding("instance-missing", f"{path.name} is not there.", [record.path])
            continue
        except OSError as fault:
            yield finding("unreadable", f"{path.name} cannot be opened ({fault.strerror}).", [record.path])
            continue
        if size != record.size:
            text = f"{path.name} has {size} bytes where {record.size} are listed."
            yield finding("size-differs", text, [record.path])
        elif digest != record.sha256:
            yield finding("digest-differs", f"{path.name} has another content than was listed.", [record.path])


def _geometry(folder: Path, entry: Entry) -> Iterator[Finding]:
    paths = [folder / record.path for record in entry.instances]
    series = read_series(path for path in paths if path.is_file())
    different = _differences(series.geometry, entry.geometry)
    if different:
        text = f"What the instances give differs from what is listed: {', '.join(different)}."
        yield finding("geometry-differs", text)
    elif series.ordered_files() != paths:
        yield finding("geometry-differs", "The instances are listed in another order than their places give.")


def _differences(now: Geometry, listed: Geometry) -> list[str]:
    one, other = now.to_json(), listed.to_json()
    return [key.replace("_", " ") for key in one if not _same(one[key], other[key])]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=0, abs_tol=GEOMETRY_TOLERANCE)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def _images(folder: Path, entry: Entry) -> Iterator[Finding]:
    for image in entry.images:
        beside = [name for name in (image.sidecar, image.bval, image.bvec) if name is not None]
        missing = [name for name in (image.path, *beside) if not (folder / name).is_file()]
        if missing:
            yield finding("image-missing", f"{Path(missing[0]).name} is not there.", missing)
        if image.path in missing:
            continue
        path = folder / image.path
        try:
            is_same = path.stat().st_size == image.size and file_digest(path) == image.sha256
        except OSError as fault:
            yield finding("unreadable", f"{path.name} cannot be opened ({fault.strerror}).", [image.path])
            continue
        if not is_same:
            yield finding("image-differs", f"{path.name} has another content than was listed.", [image.path])


def _pictures(folder: Path, entry: Entry) -> Iterator[Finding]:
    for picture in (entry.montage, entry.thumbnail, entry.course):
        if picture is not None:
            yield from _picture(folder, picture)


def _picture(folder: Path, name: str) -> Iterator[Finding]:
    path = folder / name
    try:
        with path.open("rb") as stream:
            start = stream.read(len(_PNG_START))
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - len(_PNG_END)))
            end = stream.read()
    except FileNotFoundError:
        yield finding("picture-missing", f"{path.name} is not there.", [name])
        return
    except OSError as fault:
        yield finding("unreadable", f"{path.name} cannot be opened ({fault.strerror}).", [name])
        return
    if start != _PNG_START or end != _PNG_END:
        yield finding("picture-damaged", f"{path.name} is not a whole PNG picture.", [name])


def _not_listed(folder: Path, manifest: Manifest) -> Iterator[Finding]:
    export = folder / manifest.export
    if not export.is_dir():
        yield finding("export-missing", "The export folder is not there.", [manifest.export])
        return
    listed = {os.path.normpath(folder / record.path) for entry in manifest.entries for record in entry.instances}
    waiting = {os.path.normpath(folder / one) for one in manifest.waiting}
    for parent, folders, names in os.walk(export):
        folders[:] = sorted(one for one in folders if os.path.normpath(Path(parent) / one) not in waiting)
        for name in sorted(names):
            if name.startswith(TEMPORARY_PREFIX) or (parent == os.fspath(export) and name in EXPORT_PAPERS):
                continue
            path = os.path.normpath(Path(parent) / name)
            if path not in listed:
                shown = Path(os.path.relpath(path, folder)).as_posix()
                yield finding("not-listed", f"{shown} lies in the export and is not listed.", [shown])
