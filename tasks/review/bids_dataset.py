"""The BIDS data set on disk: what of it is wanted, what is there, and the steps from one to the other.

The images themselves lie elsewhere, as their series were converted; the data set holds hard links to them under the
names that BIDS wants. What the data set was last told to hold stands in a record outside of it, so that a file of
somebody else's is told from one of ours and is never touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tasks.errors import DamagedRecordError
from tasks.files import (
    TEMPORARY_PREFIX,
    fsync_folder,
    make_folder,
    refusals_named,
    same_content,
    sweep_temporaries,
    temporary_sibling,
    write_atomically,
    written_atomically,
)
from tasks.review.bids import OTHER, BidsName, bids_sidecar
from tasks.review.bids_standard import BIDS_VERSION

RECORD_VERSION = 1

OLDEST = 89
"""Age in years at which ages are capped, as BIDS asks for (objects.columns.age of the schema)."""

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+.-]*")

_README = """\
This data set was made by scanward from de-identified DICOM files with dcm2niix. It follows BIDS, the Brain Imaging Data
Structure (https://bids.neuroimaging.io).

participants.tsv lists the subjects. Labels are made of the pseudonyms' letters and digits; where a pseudonym has other
characters, it stands in a column of its own. A session is a visit.

What an image is called was taken from the protocol's name where that follows ReproIn, else from the study's own rules,
else from the converter's guess. A guess is marked: only such an image's JSON file has the field BidsGuess. The task
"unnamed" stands where the task of a functional image is not known.

The folders "other" hold images that have no place in BIDS: localizers, images that the scanner or the converter
computed from others, and what no rule names. Programs for BIDS pass them over, because .bidsignore says so.

The files are kept as they are by the program that made them: a change is undone when the data set is next prepared.
Files of your own that stand beside them are left alone.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetImage:
    """One image that the data set is to hold.

    Attributes
    ----------
    name
        What it is called.
    pseudonym
        The subject, as the export calls it.
    image
        The compressed image (.nii.gz), in a folder of the same file system if it is to be linked.
    sidecar
        What is released of its sidecar.
    bval, bvec
        Files of b-values and directions, or None.
    age, sex
        Years, and F, M or O, as the export states them; None and empty if it does not, or if they are not released.
    """

    name: BidsName
    pseudonym: str
    image: Path
    sidecar: Mapping[str, Any]
    bval: Path | None = None
    bvec: Path | None = None
    age: float | None = None
    sex: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetOutcome:
    """What `write_dataset` did; paths are relative to the data set, sorted.

    Attributes
    ----------
    placed, kept, removed
        How many files were written or linked, were right already, and were no longer wanted.
    taken
        Wanted files whose places are taken by something that scanward did not put there; they are missing.
    strangers
        All files that scanward did not put there.
    """

    placed: int
    kept: int
    removed: int
    taken: tuple[str, ...]
    strangers: tuple[str, ...]


def write_dataset(
    folder: Path, images: Iterable[DatasetImage], *, record: Path, title: str, version: str
) -> DatasetOutcome:
    """Make `folder` the BIDS data set of the given images, and of no others.

    A file that is right already is not touched. Each step is atomic: whenever the process is killed, the next call ends
    with the same files. Files that scanward did not put there stay, and what they stand in the way of is left out.

    Parameters
    ----------
    folder
        The data set; made if it is not there.
    images
        All that it is to hold.
    record
        File that lists what scanward has put into `folder`; not inside of it.
    title
        Name of the data set.
    version
        Of scanward, for `GeneratedBy`.

    Raises
    ------
    ValueError
        If two images have one path, or a path is not safe.
    DamagedRecordError
        If the record cannot be read, or a converted image is not there.
    DiskFullError, WorkspaceError
        If the file system refuses.
    """
    wanted = _wanted(images, title=title, version=version)
    ours = _read_record(record)
    make_folder(folder)
    sweep_temporaries(folder)
    sweep_temporaries(record.parent, deep=False)
    present = _present(folder)

    # From here on a file may be ours that was not before; a process that dies must not leave it as a stranger.
    _write_record(record, ours | wanted.keys())
    unwanted = sorted((ours & present) - wanted.keys())
    # First what goes: where case is ignored, the new name of an image may be the old one.
    _remove(folder, unwanted)
    taken, placed = _place(folder, wanted, ours=ours, present=present)
    _remove_empty_folders(folder, ours | wanted.keys())
    _write_record(record, wanted.keys() - taken)
    return DatasetOutcome(
        placed=placed,
        kept=len(wanted) - placed - len(taken),
        removed=len(unwanted),
        taken=tuple(sorted(taken)),
        strangers=tuple(sorted(present - ours - (wanted.keys() - taken))),
    )


# -- what is wanted ----------------------------------------------------------------------------------------------------


def _wanted(images: Iterable[DatasetImage], *, title: str, version: str) -> dict[str, bytes | Path]:
    """List every file of the data set: its content, or the file whose content it is to have."""
    ordered = sorted(images, key=lambda image: image.name.path)
    wanted: dict[str, bytes | Path] = {
        "dataset_description.json": _json_bytes(_description(title, version)),
        "README": _README.encode(),
        ".bidsignore": f"**/{OTHER}\n".encode(),
    }
    if ordered:
        rows, meanings = _participants(ordered)
        wanted["participants.tsv"] = "".join("\t".join(row) + "\n" for row in rows).encode()
        wanted["participants.json"] = _json_bytes(meanings)
    for image in ordered:
        path = image.name.path
        if not all(map(_SAFE_NAME.fullmatch, path.split("/"))):
            raise ValueError("the path of an image is not safe")
        if f"{path}.nii.gz" in wanted:
            raise ValueError("two images have one path")
        wanted[f"{path}.nii.gz"] = image.image
        wanted[f"{path}.json"] = _json_bytes(bids_sidecar(image.name, image.sidecar))
        if image.name.suffix == "dwi" or image.name.datatype == OTHER:
            wanted.update({f"{path}.bval": image.bval} if image.bval else {})
            wanted.update({f"{path}.bvec": image.bvec} if image.bvec else {})
    return wanted


def _json_bytes(content: Any) -> bytes:
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False).encode("utf-8") + b"\n"


def _description(title: str, version: str) -> dict[str, Any]:
    return {
        "Name": title,
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "raw",
        "GeneratedBy": [{"Name": "scanward", "Version": version}],
    }


_COLUMNS: dict[str, dict[str, Any]] = {
    "pseudonym": {"Description": "The pseudonym, where the subject's label is not its letters and digits alone"},
    "age": {
        "Description": f"Age at the first visit in completed years; {OLDEST} stands for {OLDEST} and above",
        "Units": "year",
    },
    "sex": {"Description": "Sex as the scanner was told", "Levels": {"F": "female", "M": "male", "O": "other"}},
}


def _participants(images: Iterable[DatasetImage]) -> tuple[list[list[str]], dict[str, Any]]:
    """Return the lines of participants.tsv, its head first, and what its columns mean.

    A column in which no subject has a value is left out. Of an age only whole years are told, and only the first.
    """
    ages: dict[str, set[int]] = defaultdict(set)
    sexes: dict[str, set[str]] = defaultdict(set)
    pseudonyms: dict[str, str] = {}
    for image in images:
        subject = f"sub-{image.name.entities['sub']}"
        plain = re.sub(r"[^A-Za-z0-9]", "", image.pseudonym.removeprefix("sub-"))
        pseudonyms[subject] = "" if subject == f"sub-{plain}" else image.pseudonym
        # Scanners write 000Y where nobody entered an age.
        if image.age is not None and 0 < image.age < 200:
            ages[subject].add(min(int(image.age), OLDEST))
        if image.sex in ("F", "M", "O"):
            sexes[subject].add(image.sex)
    columns: dict[str, dict[str, str]] = {
        "pseudonym": {subject: _cell(name) for subject, name in pseudonyms.items() if name},
        "age": {subject: str(min(known)) for subject, known in ages.items()},
        "sex": {subject: min(known) for subject, known in sexes.items() if len(known) == 1},
    }
    told = {name: cells for name, cells in columns.items() if cells}
    rows = [["participant_id", *told]]
    rows += [[subject, *(cells.get(subject, "n/a") for cells in told.values())] for subject in sorted(pseudonyms)]
    return rows, {name: _COLUMNS[name] for name in told}


def _cell(text: str) -> str:
    return "".join(sign if sign.isprintable() else " " for sign in text)


# -- what is there -----------------------------------------------------------------------------------------------------


def _present(folder: Path) -> set[str]:
    """List all files, links and the like below the data set; a link to a folder is listed, and not followed."""
    found = set()
    for parent, folders, names in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        for name in (*names, *links):
            if not name.startswith(TEMPORARY_PREFIX):
                found.add(Path(parent, name).relative_to(folder).as_posix())
    return found


def _read_record(record: Path) -> set[str]:
    """Return what scanward has put into the data set, or was about to put there."""
    try:
        content = json.loads(record.read_bytes())
    except FileNotFoundError:
        return set()
    except (OSError, ValueError):
        raise DamagedRecordError(path=record, problem="it is not there as a whole") from None
    files = content.get("files") if isinstance(content, dict) and content.get("version") == RECORD_VERSION else None
    if not isinstance(files, list) or not all(isinstance(path, str) for path in files):
        raise DamagedRecordError(path=record, problem="it does not list the files of a data set")
    # What it says is removed from the disk, so it may not point out of the data set.
    return {path for path in files if not {"", ".", ".."} & set(path.split("/"))}


def _write_record(record: Path, files: Iterable[str]) -> None:
    content = _json_bytes({"version": RECORD_VERSION, "files": sorted(files)})
    if not _holds(record, content):
        write_atomically(record, content)


def _holds(path: Path, content: bytes) -> bool:
    with contextlib.suppress(OSError):
        return path.stat().st_size == len(content) and path.read_bytes() == content
    return False


# -- the steps ---------------------------------------------------------------------------------------------------------


def _remove(folder: Path, paths: Sequence[str]) -> None:
    with refusals_named(folder):
        for path in paths:
            os.unlink(folder / path)
        # A name that came back after a power cut would no longer be known as ours.
        for parent in sorted({(folder / path).parent for path in paths}):
            fsync_folder(parent)


def _place(
    folder: Path, wanted: Mapping[str, bytes | Path], *, ours: set[str], present: set[str]
) -> tuple[set[str], int]:
    """Write or link what is wanted and not there; return the places that are taken, and how many were filled."""
    taken, changed, placed = set(), set(), 0
    strangers = present - ours
    for path, content in wanted.items():
        target = folder / path
        parents = [parent.as_posix() for parent in PurePosixPath(path).parents]
        if any(parent in present for parent in parents) or target.is_dir():
            taken.add(path)
        elif path in present and _is_right(target, content):
            continue
        elif path in strangers:
            taken.add(path)
        else:
            make_folder(target.parent)
            _fill(target, content)
            changed.add(target.parent)
            placed += 1
    for parent in sorted(changed):
        fsync_folder(parent)
    return taken, placed


def _is_right(target: Path, content: bytes | Path) -> bool:
    if target.is_symlink() or not target.is_file():
        return False
    if isinstance(content, bytes):
        return _holds(target, content)
    try:
        return os.path.samefile(target, content) or same_content(target, content)
    except FileNotFoundError:
        raise DamagedRecordError(path=content, problem="it is not there") from None


def _fill(target: Path, content: bytes | Path) -> None:
    """Put a file in its place in one step, over whatever is there."""
    if isinstance(content, bytes):
        write_atomically(target, content)
        return
    beside = temporary_sibling(target)
    try:
        os.link(content, beside)
    except FileNotFoundError:
        raise DamagedRecordError(path=content, problem="it is not there") from None
    except OSError:
        # Another file system, or one without hard links, or a file with too many.
        with open(content, "rb") as source, written_atomically(target) as stream:
            shutil.copyfileobj(source, stream, 1 << 20)
        return
    with refusals_named(target.parent):
        os.replace(beside, target)


def _remove_empty_folders(folder: Path, files: Iterable[str]) -> None:
    """Remove the folders in which files of ours are, or were, if nothing is left in them."""
    parents = {parent for path in files for parent in PurePosixPath(path).parents} - {PurePosixPath()}
    for parent in sorted(parents, key=lambda one: len(one.parts), reverse=True):
        if not (folder / parent).is_symlink():
            with contextlib.suppress(OSError):
                os.rmdir(folder / parent)
