"""Put a reader, a manifest and a store together, and open the window on them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TextIO, cast

import tasks
from tasks.errors import ManifestError, ScanwardError, UsageError
from tasks.files import file_digest, make_folder, write_json
from tasks.review.advice import read_advice
from tasks.review.assemble import describe_flag, show_metric
from tasks.review.manifest import Manifest, read_manifest
from tasks.review.ratings import RATINGS, Event, open_store, read_events, store_path
from tasks.review.reading import read_protocol
from viewer.commands import EXIT_FAULTS, EXIT_WELL, Outcome
from viewer.display import Habits
from viewer.doctor import diagnose
from viewer.keys import COMMANDS, key_table, markdown, reading_commands
from viewer.looking import images_of, shown_of
from viewer.opening import open_images
from viewer.session import Only, Session

EXIT_LEFT = 3
"""The sitting ended, and cases are left."""

CACHE_BYTES = 1 << 30
"""How much memory the cases that were opened ahead may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What only the command itself may look up.

    Attributes
    ----------
    now, monotonic
        The clocks.
    host
        The machine's name.
    habits
        The file in which a reader's habits are kept, or None.
    is_dark
        Whether windows are dark, as the rooms are in which images are read.
    """

    now: Callable[[], datetime]
    monotonic: Callable[[], float]
    host: str = ""
    habits: Path | None = None
    is_dark: bool = True


def review(
    path: Path,
    *,
    reader: str,
    only: str | None,
    case: str | None,
    screenshots: Path | None,
    overlays: Path | None,
    around: Surroundings,
    out: TextIO,
) -> Outcome:
    """Let a reader read what a manifest lists, in a window.

    Parameters
    ----------
    path
        The manifest.
    reader
        Whose ratings they are.
    only
        "unrated", "flagged", "disagreed", "stale", or None for all.
    case
        The entry id to begin with; None to go on where the reader stopped.
    screenshots
        The folder for pictures of the window, or None.
    overlays
        The folder with a mask or segmentation for each case, named by its entry id, or None.

    Raises
    ------
    ManifestError, RatingsError, UsageError, MissingPackageError, DiskFullError, WorkspaceError
        If the manifest or the ratings cannot be used, there is nothing to read, or Qt is not installed.
    """
    manifest, review_folder = read_manifest(path), path.parent
    protocol = read_protocol(review_folder)
    key_table(protocol)
    file = store_path(review_folder, reader)
    from viewer.prefetch import Loader  # noqa: PLC0415 - what only the window needs
    from viewer.qt.application import application, run  # noqa: PLC0415 - Qt, which other commands do without
    from viewer.qt.reading import ReadingWindow  # noqa: PLC0415

    if overlays is not None and not overlays.is_dir():
        raise UsageError(problem=f"There is no folder {overlays}.", remedy="Give the folder with the masks.")
    if screenshots is not None:
        make_folder(screenshots)
    quality, flagged = quality_lines(manifest, review_folder)
    digest = file_digest(path)
    habits = read_habits(around.habits)
    with open_store(
        file,
        reader=reader,
        protocol=protocol,
        software=tasks.__version__,
        manifest_sha256=digest,
        now=around.now,
        monotonic=around.monotonic,
        host=around.host,
    ) as store:
        session = Session(
            manifest,
            store,
            protocol,
            reader=reader,
            only=cast("Only | None", only),
            flagged=flagged,
            others=_others(review_folder, reader) if only == "disagreed" else {},
            monotonic=around.monotonic,
        )
        started = around.monotonic()
        session.resume(case)
        with Loader(CACHE_BYTES) as loader:
            application(is_dark=around.is_dark)
            window = ReadingWindow(
                session,
                manifest,
                review_folder,
                loader,
                habits=habits,
                quality=quality,
                screenshots=screenshots,
                overlays=overlays,
            )
            run(window)
        write_habits(around.habits, habits)
        progress, fault = session.progress, session.fault
    if fault is not None:
        raise fault
    left = progress.total - progress.done
    out.write(f"{progress.done} of {progress.total} cases have a verdict; everything is saved in {file.name}.\n")
    return Outcome(
        exit_code=EXIT_LEFT if left else EXIT_WELL,
        facts={
            "command": "review",
            "manifest_sha256": digest,
            "ratings": f"{RATINGS}/{file.name}",
            "done": progress.done,
            "left": left,
            "stale": progress.stale,
            "seconds": round(around.monotonic() - started, 1),
        },
    )


def _others(review_folder: Path, reader: str) -> dict[str, Sequence[Event]]:
    files = sorted((review_folder / RATINGS).glob("*.db"))
    return {file.stem: read_events(file) for file in files if file.stem != reader}


def quality_lines(manifest: Manifest, folder: Path) -> tuple[dict[str, list[str]], frozenset[str]]:
    """Read what was measured of each case: lines for the panel, and the entry ids with flags."""
    if manifest.quality is None:
        return {}, frozenset()
    try:
        advice = read_advice(folder / manifest.quality)
    except ManifestError:
        return {}, frozenset()
    lines: dict[str, list[str]] = {}
    flagged = set()
    for entry_id, images in advice.items():
        told = [check.text for image in images for check in image.quality.checks]
        told += [describe_flag(flag) for image in images for flag in image.flags]
        if told:
            flagged.add(entry_id)
        told += [f"{one.name}: {show_metric(one)}" for image in images[:1] for one in image.quality.metrics]
        lines[entry_id] = told
    return lines, frozenset(flagged)


def look(paths: Sequence[Path], *, overlay: Path | None, around: Surroundings, out: TextIO) -> Outcome:
    """Open images in a window, without reading.

    Parameters
    ----------
    paths
        Folders of DICOM files, or images; each is an image, or several, to be seen side by side.
    overlay
        A mask or segmentation, or None.

    Raises
    ------
    OpeningError, MissingPackageError
        If one cannot be shown, or Qt is not installed.
    """
    shown = shown_of(images_of(paths))
    over = open_images(overlay)[0] if overlay is not None else None
    from viewer.qt.application import application, run, show_images  # noqa: PLC0415 - Qt, which others do without

    application(is_dark=around.is_dark)
    habits = read_habits(around.habits)
    run(show_images(shown, title=paths[0].name, overlay=over, habits=habits))
    write_habits(around.habits, habits)
    out.write(f"{len(shown)} images were shown.\n")
    return Outcome(exit_code=EXIT_WELL, facts={"command": "view", "images": len(shown)})


def read_habits(path: Path | None) -> Habits:
    """Read what is remembered of earlier sittings; nothing if there is nothing."""
    if path is None:
        return Habits()
    try:
        return Habits.from_json(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError):
        return Habits()


def write_habits(path: Path | None, habits: Habits) -> None:
    """Remember for the next sitting; that this cannot be done is no fault of the sitting."""
    if path is not None:
        with contextlib.suppress(ScanwardError):
            make_folder(path.parent)
            write_json(path, habits.to_json())


def keys(manifest: Path | None, *, out: TextIO) -> Outcome:
    """Print the table of keys, with a study's verdicts where a manifest is given."""
    protocol = read_protocol(manifest.parent) if manifest is not None else None
    out.write(markdown((*COMMANDS, *reading_commands(protocol))))
    return Outcome(exit_code=EXIT_WELL, facts={"command": "keys", "keys": len(key_table(protocol))})


def doctor(*, out: TextIO) -> Outcome:
    """Say what works on this machine."""
    found = diagnose()
    width = max(len(one.what) for one in found)
    out.writelines(
        f"{one.what:<{width}}  {'ok' if not one.problem else one.problem}  ({one.good_for})\n" for one in found
    )
    missing = {one.what: one.problem for one in found if one.problem}
    return Outcome(exit_code=EXIT_FAULTS if missing else EXIT_WELL, facts={"command": "doctor", "missing": missing})
