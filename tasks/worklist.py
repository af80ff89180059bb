"""The frozen work lists of a stage: what is to be done, in chunks, and what became of each.

A folder below `identified/plans` holds a list for each chunk, the outcomes of those that are done, and, written last,
what all of them are. Whoever reads that may take any chunk, on any host.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.errors import DamagedRecordError
from tasks.files import write_json

_LIST = ".list"
_OUTCOME = ".done"
_FROZEN = "frozen"
_MOST_CHUNKS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkList:
    """What all chunks of a folder of lists are.

    Attributes
    ----------
    session
        The run that froze them.
    title
        What the stage does, as progress shows it.
    units
        How many units of work (files, series) each chunk holds.
    facts
        What the stage wants to find again when all chunks are done.
    """

    session: str
    title: str
    units: Sequence[int]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Advance:
    """How far a stage is whose work is frozen.

    Attributes
    ----------
    stage, title
        Its names: the receipt's, and the one for people.
    chunks, chunks_done, units, units_done
        How much there is, and how much of it is finished.
    per_second
        Units finished a second, from the first outcome to the last; 0 while that cannot be told.
    """

    stage: str
    title: str
    chunks: int
    chunks_done: int
    units: int
    units_done: int
    per_second: float


def list_path(folder: Path, chunk: int) -> Path:
    """Return where the list of a chunk stands in a folder of lists."""
    return folder / f"{chunk:05d}{_LIST}"


def outcome_path(folder: Path, chunk: int) -> Path:
    """Return where the outcome of a chunk stands."""
    return folder / f"{chunk:05d}{_OUTCOME}"


def all_lists(folder: Path) -> Iterator[Path]:
    """Yield the lists of a folder of lists."""
    return folder.glob(f"*{_LIST}")


def chunk_size(asked: int, units: int) -> int:
    """Return how many units of work a chunk gets: as asked, or more where that would make too many chunks.

    A scheduler's work grows with the square of the tasks that wait.
    """
    return max(asked, -(-units // _MOST_CHUNKS))


def is_frozen(folder: Path) -> bool:
    """Tell whether the lists in a folder are complete."""
    return (folder / _FROZEN).exists()


def frozen_folders(plans: Path, stage: str) -> Iterator[Path]:
    """Yield the folders with complete lists of a stage."""
    for frozen in plans.glob(f"{stage}-*/{_FROZEN}"):
        yield frozen.parent


def freeze(folder: Path, work: WorkList) -> None:
    """Declare the lists in a folder complete."""
    content = {"session": work.session, "title": work.title, "units": list(work.units), "facts": dict(work.facts)}
    write_json(folder / _FROZEN, content, mode=0o600)


def read_frozen(folder: Path) -> WorkList:
    """Read what the chunks of a folder are.

    Raises
    ------
    DamagedRecordError
        If it is not there, or was changed.
    """
    try:
        return WorkList(**json.loads((folder / _FROZEN).read_bytes()))
    except (OSError, ValueError, TypeError) as fault:
        raise DamagedRecordError(path=folder / _FROZEN, problem="it is not there or was changed") from fault


def forget(folder: Path) -> None:
    """Remove one folder of work lists."""
    # First of all, or a run after a crash would take what is left of the lists for all of them.
    (folder / _FROZEN).unlink(missing_ok=True)
    # Another host may see what is removed here for a while longer, and remove it, too.
    shutil.rmtree(folder, ignore_errors=True)


def read_advance(plans: Path) -> list[Advance]:
    """Tell how far every stage is that has frozen work, whoever does it; sorted by the stage's name."""
    found = []
    for frozen in sorted(plans.glob(f"*/{_FROZEN}")):
        try:
            work = read_frozen(frozen.parent)
            with os.scandir(frozen.parent) as entries:
                done = {
                    int(entry.name[: -len(_OUTCOME)]): entry.stat().st_mtime
                    for entry in entries
                    if entry.name.endswith(_OUTCOME) and entry.name[: -len(_OUTCOME)].isdigit()
                }
        except (OSError, DamagedRecordError):
            # The stage ended a moment ago.
            continue
        finished = {chunk: moment for chunk, moment in done.items() if chunk < len(work.units)}
        units_done = sum(work.units[chunk] for chunk in finished)
        moments = sorted(finished.values())
        span = moments[-1] - moments[0] if moments else 0.0
        # What the first outcome took is not known, so it is not counted.
        first = min(finished, key=finished.__getitem__) if finished else 0
        counted = units_done - (work.units[first] if finished else 0)
        found.append(
            Advance(
                stage=frozen.parent.name.rpartition("-")[0],
                title=work.title,
                chunks=len(work.units),
                chunks_done=len(finished),
                units=sum(work.units),
                units_done=units_done,
                per_second=counted / span if span > 0 else 0.0,
            )
        )
    return found
