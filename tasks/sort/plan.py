"""Decide where every file goes, as a pure function of the index: the order of arrival never matters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tasks.index.store import IndexedFile
from tasks.sort.layout import fold, place_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """One file of the index and its place below the sorted tree."""

    target: str
    file: IndexedFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate:
    """A file whose bytes equal those of one that is kept."""

    path: bytes
    kept: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """A file that shares its SOP Instance UID with files of other content; all of them are kept."""

    path: bytes
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SortPlan:
    """What a sort will do.

    `placements` and `duplicates` together name every file that was handed in, each once.
    """

    placements: tuple[Placement, ...]
    duplicates: tuple[Duplicate, ...]
    conflicts: tuple[Conflict, ...]


def files_to_digest(files: Iterable[IndexedFile]) -> list[IndexedFile]:
    """List the files whose header does not tell them apart, so that their content must: a repeated or absent UID."""
    groups = _by_identity(files)
    return [
        member
        for identity, group in groups.items()
        if len(group) > 1 or not identity
        for member in group
        if not member.digest
    ]


def plan_sort(files: Sequence[IndexedFile], digests: Mapping[int, str]) -> SortPlan:
    """Plan the sorted tree.

    Parameters
    ----------
    files
        Every DICOM file to be placed.
    digests
        Content digests by file number, for at least those that `files_to_digest` names.

    Returns
    -------
    SortPlan
        Sorted by target; no two targets are equal, on file systems that fold case as well.
    """
    kept_files: list[tuple[IndexedFile, str]] = []
    duplicates: list[Duplicate] = []
    contested: set[int] = set()
    for identity, group in _by_identity(files).items():
        if identity and len(group) == 1:
            kept_files.append((group[0], ""))
            continue
        by_content: dict[str, list[IndexedFile]] = defaultdict(list)
        for member in group:
            by_content[digests[member.file]].append(member)
        for digest, same in by_content.items():
            kept, *others = sorted(same, key=_preference)
            kept_files.append((kept, digest if len(by_content) > 1 or not identity else ""))
            duplicates += [Duplicate(path=other.stamp.path, kept=kept.stamp.path) for other in others]
            if identity and len(by_content) > 1:
                contested.add(kept.file)
    placements = sorted(_give_targets(kept_files), key=lambda placement: placement.target)
    return SortPlan(
        placements=tuple(placements),
        duplicates=tuple(sorted(duplicates, key=lambda duplicate: duplicate.path)),
        conflicts=tuple(
            Conflict(path=placement.file.stamp.path, target=placement.target)
            for placement in placements
            if placement.file.file in contested
        ),
    )


def _by_identity(files: Iterable[IndexedFile]) -> dict[str, list[IndexedFile]]:
    groups: dict[str, list[IndexedFile]] = defaultdict(list)
    for file in files:
        groups[file.row.sop_instance_uid].append(file)
    return groups


def _preference(file: IndexedFile) -> tuple[bool, bytes, int]:
    """Order equal files: those still in the dump first, then by name."""
    return (not file.present, file.stamp.path, file.file)


def _give_targets(kept: Iterable[tuple[IndexedFile, str]]) -> list[Placement]:
    """Name the targets; where two short hashes met by chance, use the long ones."""
    wanted: dict[str, list[tuple[IndexedFile, str]]] = defaultdict(list)
    for file, digest in kept:
        wanted[fold(place_of(file.row, digest=digest))].append((file, digest))
    return [
        Placement(target=place_of(file.row, digest=digest, digits=8 if len(group) == 1 else 32), file=file)
        for group in wanted.values()
        for file, digest in group
    ]
