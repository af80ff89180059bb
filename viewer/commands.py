"""What the viewer does without a screen: check a manifest, and draw the pictures of its series."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tasks.errors import OpeningError, UsageError
from tasks.files import file_digest, make_folder
from tasks.review.check import check_manifest
from tasks.review.finding import Finding, counted
from tasks.review.manifest import Entry, read_manifest
from tasks.review.prepare import render_series
from viewer.opening import open_images
from viewer.render import Look
from viewer.render import render as render_image

EXIT_WELL = 0
"""Everything is as it should be."""

EXIT_FAULTS = 4
"""The command did its work, and found series that somebody should look at or that cannot be shown."""

_LINES_EACH = 10
# So many findings of one series are written out; the rest is counted.


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a command ended.

    Attributes
    ----------
    exit_code
        `EXIT_WELL` or `EXIT_FAULTS`.
    facts
        What the last line says with `--json`.
    """

    exit_code: int
    facts: dict[str, Any]


def check(manifest: Path, *, out: TextIO) -> Outcome:
    """Verify a manifest against the files, and write down what was found.

    Parameters
    ----------
    manifest
        The manifest file.
    out
        Where the lines for a person go.

    Raises
    ------
    ManifestError
        If the manifest itself cannot be read.
    """
    with _progress("checking") as advance:
        report = check_manifest(manifest, progress=advance)
    for about in report.reports:
        _write_findings(out, about.entry_id, about.findings)
    if report.findings:
        _write_findings(out, "export", report.findings)
    seen = (
        f"{report.entries} series, {counted(report.instances, 'instance')}, {counted(report.images, 'image')}, "
        f"{counted(report.pictures, 'picture')}"
    )
    if report.is_sound:
        out.write(f"{seen}: all as the manifest says.\n")
    else:
        found = ", ".join(f"{code} {count}" for code, count in report.counts().items())
        out.write(f"{seen}; something was found in {len(report.reports)} series: {found}.\n")
    return Outcome(
        exit_code=EXIT_WELL if report.is_sound else EXIT_FAULTS,
        facts={
            "command": "check",
            "manifest_sha256": report.manifest_sha256,
            "entries": report.entries,
            "instances": report.instances,
            "images": report.images,
            "pictures": report.pictures,
            "entries_with_findings": len(report.reports),
            "findings": report.counts(),
        },
    )


def render(manifest: Path, folder: Path, *, only: Sequence[str], out: TextIO) -> Outcome:
    """Draw one picture for each series, with all its slices, to `folder/<entry id>.png`.

    Parameters
    ----------
    manifest
        The manifest file.
    folder
        Where the pictures go; made if needed, and a picture of the same name is replaced.
    only
        Entry ids to draw; all if empty.
    out
        Where the lines for a person go.

    Raises
    ------
    ManifestError, UsageError, MissingPackageError, DiskFullError, WorkspaceError
        If the manifest cannot be read, an entry is not in it, Pillow is not installed, or the folder cannot be written.
    """
    entries = _chosen(manifest, read_manifest(manifest).entries, only)
    make_folder(folder)
    drawn, codes = 0, Counter[str]()
    faulty = 0
    with _progress("drawing") as advance:
        for done, entry in enumerate(entries, 1):
            paths = [manifest.parent / record.path for record in entry.instances]
            volume = render_series(paths, folder / f"{entry.entry_id}.png", title=entry.entry_id)
            faults = [one for one in (*volume.geometry.findings, *volume.problems) if one.is_fault]
            if any(image is not None for image in volume.images):
                drawn += 1
            elif not faults:
                faults = [Finding(code="no-pixels", text="The series holds no picture.")]
            if faults:
                faulty += 1
                codes.update(one.code for one in faults)
                _write_findings(out, entry.entry_id, faults)
            advance(done, len(entries))
    out.write(f"{drawn} of {len(entries)} series drawn in {folder}.\n")
    return Outcome(
        exit_code=EXIT_FAULTS if faulty else EXIT_WELL,
        facts={
            "command": "render",
            "manifest_sha256": file_digest(manifest),
            "entries": len(entries),
            "drawn": drawn,
            "entries_with_findings": faulty,
            "findings": dict(sorted(codes.items())),
        },
    )


def draw_images(source: Path, folder: Path, kind: str, look: Look, *, only: Sequence[str], out: TextIO) -> Outcome:
    """Draw images to files `folder/<name>_<kind>.png`, or `<name>.gif`; a case's further images get a number.

    Parameters
    ----------
    source
        A manifest (.json), or a DICOM folder or image as `viewer.opening` opens them.
    folder
        Where the pictures go; made if needed, and a picture of the same name is replaced.
    kind
        A key of `viewer.render.KINDS`.
    look
        Which place, which angle, which contrast.
    only
        Entry ids of the manifest to draw; all if empty.

    Raises
    ------
    ManifestError, UsageError, OpeningError, MissingPackageError, DiskFullError, WorkspaceError
        If the manifest cannot be read, an entry is not in it, a single image cannot be opened, Pillow is not
        installed, or the folder cannot be written.
    """
    facts: dict[str, Any] = {"command": "render", "kind": kind}
    named: list[tuple[str, Path | list[Path]]]
    if source.suffix == ".json":
        entries = _chosen(source, read_manifest(source).entries, only)
        named = [(entry.entry_id, [source.parent / one.path for one in entry.instances]) for entry in entries]
        facts["manifest_sha256"] = file_digest(source)
    else:
        named = [(source.name.split(".")[0] or "image", source)]
    make_folder(folder)
    written: list[str] = []
    faulty = 0
    with _progress("drawing") as advance:
        for done, (name, paths) in enumerate(named, 1):
            try:
                for number, image in enumerate(open_images(paths), 1):
                    more = f"_{number}" if number > 1 else ""
                    written.append(f"{name}{more}.gif" if kind == "gif" else f"{name}_{kind}{more}.png")
                    render_image(image, folder / written[-1], kind, look, title=name)
            except OpeningError as fault:
                if len(named) == 1:
                    raise
                faulty += 1
                out.write(f"{name}\n  {fault}\n")
            advance(done, len(named))
    out.write(f"{counted(len(written), 'picture')} drawn in {folder}; {faulty} of {len(named)} could not be opened.\n")
    facts |= {"entries": len(named), "entries_with_findings": faulty, "pictures": written}
    return Outcome(exit_code=EXIT_FAULTS if faulty else EXIT_WELL, facts=facts)


def write_facts(outcome: Outcome, *, out: TextIO) -> None:
    """Write the one JSON object that a program reads, on a line of its own."""
    out.write(json.dumps({**outcome.facts, "exit_code": outcome.exit_code}, sort_keys=True) + "\n")


def _chosen(manifest: Path, entries: Sequence[Entry], only: Sequence[str]) -> list[Entry]:
    known = {entry.entry_id: entry for entry in entries}
    missing = [name for name in only if name not in known]
    if missing:
        raise UsageError(
            problem=f"The manifest {manifest} has no entry {missing[0]}.",
            remedy="Entry ids are subject, visit and series folder, joined by underscores.",
        )
    return [known[name] for name in dict.fromkeys(only)] if only else list(entries)


def _write_findings(out: TextIO, title: str, findings: Sequence[Finding]) -> None:
    out.write(f"{title}\n")
    out.writelines(f"  {one.code}: {one.text}\n" for one in findings[:_LINES_EACH])
    if len(findings) > _LINES_EACH:
        out.write(f"  and {len(findings) - _LINES_EACH} more\n")


@contextlib.contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar with the time left on a terminal's standard error, and nothing elsewhere."""
    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
