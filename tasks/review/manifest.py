"""The review manifest: which series there are to look at, what they consist of, and where they lie in the patient.

One JSON file, `review/manifest.json`, format version 1. Every path in it is relative to the folder that holds it, with
forward slashes, so that the released tree can be moved as a whole.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
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

MONTAGES = "montage"
"""Where the pictures lie, seen from the manifest's folder."""

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
    """

    path: str
    sha256: str
    size: int

    def to_json(self) -> dict[str, Any]:
        """Return plain data for a JSON file."""
        return {"path": self.path, "sha256": self.sha256, "size": self.size}

    @classmethod
    def from_json(cls, content: Any) -> InstanceRecord:
        """Rebuild from `to_json`.

        Raises
        ------
        KeyError, TypeError, ValueError
            If a field is missing or not what it must be.
        """
        fields = _fields(content)
        size, digest = fields["size"], _text(fields["sha256"])
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise TypeError("a size is a whole number")
        if len(digest) != _DIGEST_LENGTH or set(digest) - set("0123456789abcdef"):
            raise ValueError("a SHA-256 is 64 hexadecimal digits")
        return cls(path=_relative(fields["path"]), sha256=digest, size=size)


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
    montage
        The picture's path relative to the manifest's folder, or None.
    no_montage
        Why there is no picture; empty if there is one.
    problems
        What could not be read or decoded.
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
    problems: tuple[Finding, ...] = ()

    @property
    def faults(self) -> tuple[Finding, ...]:
        """What somebody should look at, of the geometry's findings and the problems."""
        return tuple(one for one in (*self.geometry.findings, *self.problems) if one.is_fault)

    def to_json(self) -> dict[str, Any]:
        """Return plain data for a JSON file."""
        return {
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
            "problems": [one.to_json() for one in self.problems],
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
        montage = fields["montage"]
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
            montage=None if montage is None else _relative(montage),
            no_montage=_text(fields["no_montage"]),
            problems=tuple(Finding.from_json(one) for one in _list(fields["problems"])),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything there is to review.

    Attributes
    ----------
    entries
        Sorted by entry id, each id once.
    export
        The folder with the de-identified files, relative to the manifest's folder.
    software
        The version of scanward that wrote it.
    """

    entries: tuple[Entry, ...]
    export: str = EXPORT
    software: str = tasks.__version__

    def to_json(self) -> dict[str, Any]:
        """Return plain data for a JSON file."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "software": self.software,
            "export": self.export,
            "entries": [one.to_json() for one in self.entries],
        }


def merge_entries(entries: Iterable[Entry]) -> Manifest:
    """Make one manifest of entries that were prepared apart, in any order.

    Raises
    ------
    ManifestError
        If two different series came to the same entry id.
    """
    ordered = sorted(set(entries), key=lambda entry: entry.entry_id)
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
        export, software = _relative(content["export"]), _text(content["software"])
        listed = _list(content["entries"])
    except KeyError as fault:
        raise ManifestError(path=path, problem=f"the field {fault.args[0]} is missing") from None
    except (TypeError, ValueError) as fault:
        raise ManifestError(path=path, problem=f"a field is not what it must be: {fault}") from None
    entries = tuple(_entry(path, number, one) for number, one in enumerate(listed, 1))
    if len({entry.entry_id for entry in entries}) < len(entries):
        raise ManifestError(path=path, problem="two entries have the same id")
    return Manifest(entries=entries, export=export, software=software)


def _entry(path: Path, number: int, content: Any) -> Entry:
    try:
        return Entry.from_json(content)
    except KeyError as fault:
        raise ManifestError(path=path, problem=f"entry {number} lacks the field {fault.args[0]}") from None
    except (TypeError, ValueError) as fault:
        raise ManifestError(path=path, problem=f"entry {number} is not what it must be: {fault}") from None


# -- single values -----------------------------------------------------------------------------------------------------


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
