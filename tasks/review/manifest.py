"""The review manifest: which series there are to look at, what they consist of, and where they lie in the patient.

One JSON file, `review/manifest.json`, format version 1; `data/manifest-1.schema.json` describes it to other programs.
Every path in it is relative to the folder that holds it, with forward slashes, so that the released tree can be moved
as a whole. Fields that this version does not know are kept when a manifest is read and written again.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import tasks
from tasks.errors import ManifestError
from tasks.files import write_json
from tasks.review.finding import Finding, counted
from tasks.review.geometry import Geometry

FORMAT = "scanward-review-manifest"
"""What the file calls itself."""

VERSION = 1
"""The only version this module reads and writes."""

EXPORT = "../export"
"""Where the de-identified files lie, seen from the manifest's folder."""

NIFTI = "../nifti"
"""Where the converted images lie, seen from the manifest's folder."""

QUALITY = "quality.json"
"""What was measured and what stands out, apart from the images; seen from the manifest's folder."""

MONTAGES, THUMBNAILS, COURSES = "montage", "thumbnail", "course"
"""Where the pictures lie, seen from the manifest's folder: all slices, a small one, and what changes over time."""

SCHEMA = Path(__file__).parent / "data" / "manifest-1.schema.json"
"""The JSON Schema (draft 2020-12) of the format."""

_DIGEST_LENGTH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRecord:
    """One file of a series.

    Attributes
    ----------
    path
        Relative to the manifest's folder.
    sha256
        64 hexadecimal digits.
    size
        Bytes.
    extra
        Fields that this version does not know.
    """

    path: str
    sha256: str
    size: int
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def to_json(self) -> dict[str, Any]:
        """Return plain data for a JSON file."""
        return {**self.extra, "path": self.path, "sha256": self.sha256, "size": self.size}

    @classmethod
    def from_json(cls, content: Any) -> InstanceRecord:
        """Rebuild from `to_json`.

        Raises
        ------
        KeyError, TypeError, ValueError
            If a field is missing or not what it must be.
        """
        fields = _fields(content)
        digest, size = _digest_and_size(fields)
        return cls(path=_relative(fields["path"]), sha256=digest, size=size, extra=_unknown(fields, cls))


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """One NIfTI image that a series was converted to.

    Attributes
    ----------
    path
        The image below the BIDS data set, relative to the manifest's folder.
    sha256, size
        Of the file as it lies there, compressed: 64 hexadecimal digits, and bytes.
    shape
        Voxels along each axis of the file; the fourth counts volumes.
    sidecar, bval, bvec
        Files beside it, or None.
    kind
        What tells it from other images of the series, such as `e2` or `ph`; empty if nothing does.
    named_by
        What its name was taken from: a key of `bids.SOURCES`.
    extra
        Fields that this version does not know.
    """

    path: str
    sha256: str
    size: int
    shape: tuple[int, ...]
    sidecar: str | None = None
    bval: str | None = None
    bvec: str | None = None
    kind: str = ""
    named_by: str = "none"
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def to_json(self) -> dict[str, Any]:
        """Return plain data for a JSON file."""
        return {
            **self.extra,
            "path": self.path,
            "sha256": self.sha256,
            "size": self.size,
            "shape": list(self.shape),
            "sidecar": self.sidecar,
            "bval": self.bval,
            "bvec": self.bvec,
            "kind": self.kind,
            "named_by": self.named_by,
        }

    @classmethod
    def from_json(cls, content: Any) -> ImageRecord:
        """Rebuild from `to_json`.

        Raises
        ------
        KeyError, TypeError, ValueError
            If a field is missing or not what it must be.
        """
        fields = _fields(content)
        shape = _list(fields["shape"])
        if not all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in shape):
            raise TypeError("a shape is a list of whole numbers")
        digest, size = _digest_and_size(fields)
        return cls(
            path=_relative(fields["path"]),
            sha256=digest,
            size=size,
            shape=tuple(shape),
            sidecar=_relative_or_none(fields["sidecar"]),
            bval=_relative_or_none(fields["bval"]),
            bvec=_relative_or_none(fields["bvec"]),
            kind=_text(fields["kind"]),
            named_by=_text(fields["named_by"]),
            extra=_unknown(fields, cls),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One series, which is what a reviewer looks at as one case.

    Attributes
    ----------
    entry_id
        Subject, visit and series folder, joined by underscores: the same as long as these are called the same.
    subject, visit, series
        Names of the folders in the export.
    modality
        A term of the standard.
    description
        What was acquired, in a line, from measured or coded attributes alone.
    sop_class, transfer_syntax
        UIDs of the first readable instance; empty if there is none.
    instances
        In slice order, volume by volume; then those that belong to no volume.
    geometry
        Size, spacing, place and findings.
    images
        What it was converted to, in dcm2niix's order: echoes, phase and derived images each stand alone.
    no_images
        Why it was not converted; empty if it was.
    group
        What a subject's series have in common that are the same acquisition at several visits.
    montage, thumbnail, course
        Paths of the pictures relative to the manifest's folder, or None: of all slices, a small one, and of what
        changes over time, which only images with several volumes have.
    no_montage
        Why there is no picture; empty if there is one.
    problems
        What could not be read, decoded or converted.
    digest
        SHA-256 of what a reviewer sees, 64 hexadecimal digits: the stored pixels in slice order, and where they lie.
        A verdict given on another digest was given on another picture. Headers that change nothing do not matter.
    extra
        Fields that this version does not know.
    """

    entry_id: str
    subject: str
    visit: str
    series: str
    modality: str
    description: str
    sop_class: str
    transfer_syntax: str
    instances: tuple[InstanceRecord, ...]
    geometry: Geometry
    montage: str | None
    no_montage: str = ""
    thumbnail: str | None = None
    course: str | None = None
    images: tuple[ImageRecord, ...] = ()
    no_images: str = ""
    group: str = ""
    problems: tuple[Finding, ...] = ()
    digest: str
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def faults(self) -> tuple[Finding, ...]:
        """What somebody should look at, of the geometry's findings and the problems."""
        return tuple(one for one in (*self.geometry.findings, *self.problems) if one.is_fault)

    def to_json(self) -> dict[str, Any]:
        """Return plain data for a JSON file."""
        return {
            **self.extra,
            "entry_id": self.entry_id,
            "subject": self.subject,
            "visit": self.visit,
            "series": self.series,
            "modality": self.modality,
            "description": self.description,
            "sop_class": self.sop_class,
            "transfer_syntax": self.transfer_syntax,
            "instances": [one.to_json() for one in self.instances],
            "geometry": self.geometry.to_json(),
            "montage": self.montage,
            "no_montage": self.no_montage,
            "thumbnail": self.thumbnail,
            "course": self.course,
            "images": [one.to_json() for one in self.images],
            "no_images": self.no_images,
            "group": self.group,
            "problems": [one.to_json() for one in self.problems],
            "digest": self.digest,
        }

    @classmethod
    def from_json(cls, content: Any) -> Entry:
        """Rebuild from `to_json`.

        Raises
        ------
        KeyError, TypeError, ValueError
            If a field is missing or not what it must be.
        """
        fields = _fields(content)
        return cls(
            entry_id=_name(fields["entry_id"]),
            subject=_text(fields["subject"]),
            visit=_text(fields["visit"]),
            series=_text(fields["series"]),
            modality=_text(fields["modality"]),
            description=_text(fields["description"]),
            sop_class=_text(fields["sop_class"]),
            transfer_syntax=_text(fields["transfer_syntax"]),
            instances=tuple(InstanceRecord.from_json(one) for one in _list(fields["instances"])),
            geometry=Geometry.from_json(_fields(fields["geometry"])),
            montage=_relative_or_none(fields["montage"]),
            no_montage=_text(fields["no_montage"]),
            thumbnail=_relative_or_none(fields["thumbnail"]),
            course=_relative_or_none(fields["course"]),
            images=tuple(ImageRecord.from_json(one) for one in _list(fields["images"])),
            no_images=_text(fields["no_images"]),
            group=_text(fields["group"]),
            problems=tuple(Finding.from_json(one) for one in _list(fields["problems"])),
            digest=_text(fields["digest"]),
            extra=_unknown(fields, cls),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything there is to review.

    Attributes
    ----------
    entries
        Sorted by entry id, each id once.
    export, nifti
        The folders with the de-identified files and with the converted images, relative to the manifest's folder.
    quality
        The file with metrics and flags, relative to the manifest's folder; None if nothing was measured.
    waiting
        Folders of the export, relative to the manifest's folder, that are not shown until missing files come.
    software
        The version of scanward that wrote it.
    extra
        Fields that this version does not know.
    """

    entries: tuple[Entry, ...]
    export: str = EXPORT
    nifti: str = NIFTI
    quality: str | None = None
    waiting: tuple[str, ...] = ()
    software: str = tasks.__version__
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def time_points(self) -> list[dict[str, Any]]:
        """Group the entries of one subject that are the same acquisition at several visits, in the visits' order.

        Returns
        -------
        list of dict
            Each with `subject`, `group` and `entries`, which are ids; sorted, and without entries that stand alone.
        """
        groups: dict[tuple[str, str], list[Entry]] = defaultdict(list)
        for entry in self.entries:
            if entry.group:
                groups[entry.subject, entry.group].append(entry)
        return [
            {"subject": subject, "group": group, "entries": [entry.entry_id for entry in members]}
            for (subject, group), members in sorted(groups.items())
            if len({entry.visit for entry in members}) > 1
        ]

    def to_json(self) -> dict[str, Any]:
        """Return plain data for a JSON file."""
        return {
            **self.extra,
            "format": FORMAT,
            "version": VERSION,
            "software": self.software,
            "export": self.export,
            "nifti": self.nifti,
            "quality": self.quality,
            "waiting": list(self.waiting),
            "entries": [one.to_json() for one in self.entries],
            "time_points": self.time_points(),
        }


def merge_entries(entries: Iterable[Entry]) -> Manifest:
    """Make one manifest of entries that were prepared apart, in any order.

    Raises
    ------
    ManifestError
        If two different series came to the same entry id.
    """
    ordered = sorted(dict.fromkeys(entries), key=lambda entry: entry.entry_id)
    counts = Counter(entry.entry_id for entry in ordered)
    doubled = sorted(entry_id for entry_id, count in counts.items() if count > 1)
    if doubled:
        problem = f"{counted(len(doubled), 'entry id')} given to different series, the first {doubled[0]}"
        raise ManifestError(path="in the making", problem=problem)
    return Manifest(entries=tuple(ordered))


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest, whole or not at all; equal manifests give equal bytes.

    Raises
    ------
    DiskFullError, WorkspaceError
        If the file system refuses.
    """
    write_json(path, manifest.to_json())


def read_manifest(path: Path) -> Manifest:
    """Read a manifest and check its form; `check_manifest` checks what it promises.

    Raises
    ------
    ManifestError
        If it is not there, is no JSON, is of another format or version, or lacks a field.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise ManifestError(path=path, problem="it is not there") from None
    except IsADirectoryError:
        raise ManifestError(path=path, problem="it is a folder") from None
    except OSError as fault:
        raise ManifestError(path=path, problem=f"it cannot be opened ({fault.strerror})") from None
    except UnicodeDecodeError:
        raise ManifestError(path=path, problem="it is not UTF-8 text") from None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise ManifestError(path=path, problem="it is not JSON, or only a part of it") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ManifestError(path=path, problem="it is no review manifest")
    if content.get("version") != VERSION:
        raise ManifestError(path=path, problem=f"its version is not {VERSION}, the only one this software reads")
    try:
        export, nifti = _relative(content["export"]), _relative(content["nifti"])
        quality, software = _relative_or_none(content["quality"]), _text(content["software"])
        waiting = tuple(_relative(one) for one in _list(content["waiting"]))
        listed = _list(content["entries"])
    except KeyError as fault:
        raise ManifestError(path=path, problem=f"the field {fault.args[0]} is missing") from None
    except (TypeError, ValueError) as fault:
        raise ManifestError(path=path, problem=f"a field is not what it must be: {fault}") from None
    entries = tuple(_entry(path, number, one) for number, one in enumerate(listed, 1))
    if len({entry.entry_id for entry in entries}) < len(entries):
        raise ManifestError(path=path, problem="two entries have the same id")
    extra = {name: one for name, one in content.items() if name not in _WRITTEN}
    return Manifest(
        entries=entries,
        export=export,
        nifti=nifti,
        quality=quality,
        waiting=waiting,
        software=software,
        extra=extra,
    )


def _entry(path: Path, number: int, content: Any) -> Entry:
    try:
        return Entry.from_json(content)
    except KeyError as fault:
        raise ManifestError(path=path, problem=f"entry {number} lacks the field {fault.args[0]}") from None
    except (TypeError, ValueError) as fault:
        raise ManifestError(path=path, problem=f"entry {number} is not what it must be: {fault}") from None


# -- single values -----------------------------------------------------------------------------------------------------

_WRITTEN = frozenset(Manifest(entries=()).to_json())


def _unknown(fields: dict[str, Any], kind: type) -> dict[str, Any]:
    """Return the fields that a record does not have."""
    return {name: one for name, one in fields.items() if name not in kind.__slots__}  # type: ignore[attr-defined] # a record


def _digest_and_size(fields: dict[str, Any]) -> tuple[str, int]:
    size, digest = fields["size"], _text(fields["sha256"])
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise TypeError("a size is a whole number")
    if len(digest) != _DIGEST_LENGTH or set(digest) - set("0123456789abcdef"):
        raise ValueError("a SHA-256 is 64 hexadecimal digits")
    return digest, size


def _fields(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise TypeError("a record is a set of named fields")
    return content


def _list(content: Any) -> list[Any]:
    if not isinstance(content, list):
        raise TypeError("a list is wanted")
    return content


def _text(content: Any) -> str:
    if not isinstance(content, str):
        raise TypeError("text is wanted")
    return content


def _name(content: Any) -> str:
    """Accept what may become a file name: an entry id names the pictures that are written."""
    name = _text(content)
    if not name or name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise ValueError("an entry id must be usable as a file name")
    return name


def _relative(content: Any) -> str:
    """Accept a path below the manifest's folder, or below the folder that holds that one."""
    path = PurePosixPath(_text(content))
    inner = path.parts[1:] if path.parts[:1] == ("..",) else path.parts
    if path.is_absolute() or ".." in inner or not inner:
        raise ValueError("a path must be relative and stay inside the released folder")
    return str(path)


def _relative_or_none(content: Any) -> str | None:
    return None if content is None else _relative(content)
