"""What is done with the readers' verdicts afterwards: verified, written as tables, compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from tasks.errors import RatingsError, UsageError
from tasks.files import file_digest
from tasks.review.agreement import CONFIDENCE, MEASURES, Comparison, agreement
from tasks.review.finding import counted
from tasks.review.manifest import read_manifest
from tasks.review.ratings import RATINGS, Verified, read_events, verify_store
from tasks.review.ratings_export import FORMATS, export_ratings
from tasks.review.reading import read_protocol
from viewer.commands import EXIT_FAULTS, EXIT_WELL, Outcome


def verify(path: Path, *, out: TextIO) -> Outcome:
    """Work out the chains of every reader's ratings again.

    Parameters
    ----------
    path
        The manifest, or one reader's file.

    Raises
    ------
    RatingsError
        If there are no ratings.
    """
    files = [path] if path.suffix == ".db" else _stores(path)
    found: dict[str, Verified] = {}
    for file in files:
        found[file.stem] = told = verify_store(file)
        out.write(f"{file.stem}: {told.problem}.\n" if told.problem else f"{file.stem}: {told.rows} rows, all sound.\n")
    facts: Mapping[str, Any] = {
        reader: {"rows": one.rows, "first_bad": one.first_bad, "problem": one.problem} for reader, one in found.items()
    }
    is_sound = all(one.is_sound for one in found.values())
    return Outcome(exit_code=EXIT_WELL if is_sound else EXIT_FAULTS, facts={"command": "verify", "readers": facts})


def export(path: Path, folder: Path, *, formats: Sequence[str] | None, out: TextIO) -> Outcome:
    """Write the ratings of all readers as tables.

    Parameters
    ----------
    path
        The manifest.
    folder
        Where the tables go.
    formats
        "tsv", "csv", "jsonl"; all if None.

    Raises
    ------
    ManifestError, RatingsError, DiskFullError, WorkspaceError
        If the manifest or a reader's file cannot be read, nobody has read yet, or the folder cannot be written.
    """
    manifest = read_manifest(path)
    events = {file.stem: read_events(file) for file in _stores(path)}
    rows = export_ratings(folder, manifest, events, read_protocol(path.parent), formats=formats or FORMATS)
    out.write(f"{counted(rows, 'row')} of {counted(len(events), 'reader')} written to {folder}.\n")
    facts = {"command": "export", "manifest_sha256": file_digest(path), "rows": rows, "readers": sorted(events)}
    return Outcome(exit_code=EXIT_WELL, facts=facts)


def agree(path: Path, *, group: str | None, resamples: int, seed: int, out: TextIO) -> Outcome:
    """Say how well readers agree with each other, and with themselves on the hidden repeats.

    Parameters
    ----------
    path
        The manifest.
    group
        Compare the cases of this kind of acquisition only; all if None.
    resamples, seed
        Of the bootstrap over cases that gives the intervals.
    out
        Where the lines for a person go.

    Raises
    ------
    ManifestError, RatingsError, UsageError
        If the manifest or a reader's file cannot be read, nobody has read yet, or no case is of that group.
    """
    manifest = read_manifest(path)
    digests = {entry.entry_id: entry.digest for entry in manifest.entries if group in {None, entry.group}}
    if not digests:
        groups = ", ".join(sorted({entry.group for entry in manifest.entries if entry.group}))
        raise UsageError(
            problem=f"The manifest {path} has no entry of the group {group}.", remedy=f"Its groups are: {groups}."
        )
    events = {file.stem: read_events(file) for file in _stores(path)}
    scale = [grade.name for grade in read_protocol(path.parent).scale]
    found = agreement(events, scale, digests=digests, resamples=resamples, seed=seed)
    if found.between is not None:
        _write_comparison(out, f"Between {' and '.join(found.between.readers)}", found.between, scale)
    for pair in found.pairs:
        _write_comparison(out, f"Between {' and '.join(pair.readers)}", pair, scale)
    for own in found.within:
        _write_comparison(out, f"{own.readers[0]}, first reading and repeat", own, scale)
    if found.between is None and not found.within:
        out.write("One reader and no repeats: there is nothing to compare.\n")
    if found.left_out["stale"]:
        out.write(f"Left out: {counted(found.left_out['stale'], 'verdict')} on images that changed since.\n")
    if found.left_out["not-on-scale"]:
        out.write(f"Left out: {counted(found.left_out['not-on-scale'], 'verdict')} no longer on the scale.\n")
    facts = {"command": "agree", "manifest_sha256": file_digest(path), "group": group, **found.to_json()}
    return Outcome(exit_code=EXIT_WELL, facts=facts)


def _write_comparison(out: TextIO, title: str, found: Comparison, scale: Sequence[str]) -> None:
    given = ", ".join(f"{name} {count}" for name, count in zip(scale, found.verdicts, strict=True))
    out.write(f"{title}: {counted(found.cases, 'case')} read twice or more ({given})\n")
    for name, one in found.measures.items():
        if one.value is None:
            value = f"    -   ({one.reason})"
        elif one.low is None or one.high is None:
            value = f"{one.value:8.3f}  ({one.reason})"
        else:
            value = f"{one.value:8.3f}  {CONFIDENCE:.0%} interval {one.low:.3f} to {one.high:.3f}"
        out.write(f"  {MEASURES[name].name:<36} {value}\n")


def _stores(manifest: Path) -> list[Path]:
    """List the readers' files of a manifest."""
    files = sorted((manifest.parent / RATINGS).glob("*.db"))
    if not files:
        where = manifest.parent / RATINGS
        raise RatingsError(path=where, problem="nobody has read yet", remedy="Read with `review` first")
    return files
