"""Ratings as tables: BIDS-style TSV with a data dictionary, CSV, and JSON lines; equal ratings give equal bytes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import tasks
from tasks.files import make_folder, write_atomically, write_json
from tasks.review.manifest import Manifest
from tasks.review.ratings import Event, standing
from tasks.review.reading import ReadingProtocol

FORMATS: Final = ("tsv", "csv", "jsonl")
"""How ratings can be written."""

_MISSING = "n/a"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_COLUMNS: Final = {
    "entry_id": "The case: the manifest's entry id.",
    "participant_id": "BIDS subject label of the pseudonym.",
    "session_id": "The visit.",
    "series": "The series folder in the export.",
    "group": "What kind of acquisition it is, the same at every visit.",
    "reader": "Who read it.",
    "presentation": "1 for the first reading, 2 for a hidden repeat.",
    "verdict": "The verdict that stands.",
    "artefacts": "What was ticked beside it, separated by commas.",
    "note": "The reader's note.",
    "marks": "How many places were marked; marks.tsv lists them.",
    "status": "rated, stale (the image changed since), or skipped.",
    "rated_at": "When the verdict was given, UTC.",
    "dwell_s": "Seconds the reader spent on the case, pauses left out.",
    "changes": "How many verdicts were given before this one, those taken back included.",
    "quality_shown": "Whether metrics and flags were on screen when the verdict was given.",
    "digest": "SHA-256 of what was on screen.",
}
_MARK_COLUMNS: Final = {
    "entry_id": "The case: the manifest's entry id.",
    "reader": "Who set it.",
    "presentation": "1 for the first reading, 2 for a hidden repeat.",
    "x_mm": "To the right, RAS+ millimetres.",
    "y_mm": "To the front, RAS+ millimetres.",
    "z_mm": "To the head, RAS+ millimetres.",
    "volume": "Zero-based.",
    "text": "What was said of it.",
}


def rating_rows(manifest: Manifest, events: Mapping[str, Sequence[Event]]) -> list[dict[str, Any]]:
    """Put what stands for each case and reader into rows, by case, presentation and reader.

    Parameters
    ----------
    manifest
        Tells which verdicts are stale.
    events
        The acts of each reader, by name.

    Returns
    -------
    list of dict
        Keys as in the data dictionary; cases that the manifest no longer lists are there, without what it would tell.
    """
    entries = {entry.entry_id: entry for entry in manifest.entries}
    rows = []
    for reader, acts in events.items():
        given: dict[tuple[str, int], int] = {}
        for act in acts:
            if act.kind == "rate":
                given[act.case, act.presentation] = given.get((act.case, act.presentation), 0) + 1
        for (case, presentation), found in standing(acts).items():
            if not (found.verdict or found.note or found.marks or found.artefacts or found.is_skipped):
                continue
            entry = entries.get(case)
            is_current = entry is not None and entry.digest == found.digest
            status = ("rated" if is_current else "stale") if found.verdict else ("skipped" if found.is_skipped else "")
            subject = entry.subject if entry else ""
            label = "".join(letter for letter in subject if letter.isascii() and letter.isalnum())
            rows.append(
                {
                    "entry_id": case,
                    "participant_id": f"sub-{label}" if label else "",
                    "session_id": entry.visit if entry else "",
                    "series": entry.series if entry else "",
                    "group": entry.group if entry else "",
                    "reader": reader,
                    "presentation": presentation,
                    "verdict": found.verdict,
                    "artefacts": list(found.artefacts),
                    "note": found.note,
                    "marks": len(found.marks),
                    "status": status,
                    "rated_at": found.at,
                    "dwell_s": found.dwell_s,
                    "changes": max(given.get((case, presentation), 0) - 1, 0),
                    "quality_shown": found.view.get("quality_shown"),
                    "digest": found.digest,
                }
            )
    return sorted(rows, key=lambda row: (row["entry_id"], row["presentation"], row["reader"]))


def mark_rows(events: Mapping[str, Sequence[Event]]) -> list[dict[str, Any]]:
    """Put the marks that stand into rows, by case, presentation, reader, and as they were set."""
    rows = []
    for reader in sorted(events):
        for (case, presentation), found in standing(events[reader]).items():
            for mark in found.marks.values():
                x, y, z = mark.mm
                place = {"x_mm": x, "y_mm": y, "z_mm": z, "volume": mark.volume, "text": mark.text}
                rows.append({"entry_id": case, "reader": reader, "presentation": presentation, **place})
    return sorted(rows, key=lambda row: (row["entry_id"], row["presentation"], row["reader"]))


def export_ratings(
    folder: Path,
    manifest: Manifest,
    events: Mapping[str, Sequence[Event]],
    protocol: ReadingProtocol,
    *,
    formats: Sequence[str] = FORMATS,
) -> int:
    """Write the ratings of a study into a folder, as a BIDS derivative.

    Parameters
    ----------
    folder
        Made if needed; files of the same names are replaced.
    formats
        Of `FORMATS`.

    Returns
    -------
    int
        How many rows were written.

    Raises
    ------
    DiskFullError, WorkspaceError
        If the folder cannot be written.
    """
    make_folder(folder)
    rows, marks = rating_rows(manifest, events), mark_rows(events)
    write_json(
        folder / "dataset_description.json",
        {
            "Name": "Ratings",
            "BIDSVersion": "1.10.0",
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "scanward", "Version": tasks.__version__}],
        },
    )
    if "tsv" in formats:
        write_atomically(folder / "ratings.tsv", _table(_COLUMNS, rows, "\t"))
        write_json(folder / "ratings.json", _dictionary(protocol))
        write_atomically(folder / "marks.tsv", _table(_MARK_COLUMNS, marks, "\t"))
        write_json(folder / "marks.json", {name: {"Description": text} for name, text in _MARK_COLUMNS.items()})
    if "csv" in formats:
        write_atomically(folder / "ratings.csv", _table(_COLUMNS, rows, ","))
    if "jsonl" in formats:
        lines = [json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows]
        write_atomically(folder / "ratings.jsonl", "".join(lines).encode("utf-8"))
    return len(rows)


def _dictionary(protocol: ReadingProtocol) -> dict[str, Any]:
    """Describe every column, and the levels of those that have some."""
    described: dict[str, Any] = {name: {"Description": text} for name, text in _COLUMNS.items()}
    described["verdict"]["Levels"] = {grade.name: grade.meaning for grade in protocol.scale}
    described["artefacts"]["Levels"] = {grade.name: grade.meaning for grade in protocol.artefacts}
    described["dwell_s"]["Units"] = "s"
    return described


def _table(columns: Iterable[str], rows: Sequence[Mapping[str, Any]], separator: str) -> bytes:
    names = list(columns)
    if separator == "\t":
        lines = ["\t".join(names), *("\t".join(_plain(row[name]) for name in names) for row in rows)]
        return ("\n".join(lines) + "\n").encode("utf-8")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(names)
    writer.writerows([_harmless(_text(row[name]), row[name]) for name in names] for row in rows)
    return text.getvalue().encode("utf-8")


def _text(value: Any) -> str:
    if value is None or value in ("", []):
        return _MISSING
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(value) if isinstance(value, list) else str(value)


def _plain(value: Any) -> str:
    """Write a cell of a TSV, which knows no quotes: what would end a cell or a line becomes a space."""
    return " ".join(_text(value).split())


def _harmless(text: str, value: Any) -> str:
    """Keep a spreadsheet from taking a reader's words for a formula."""
    return f"'{text}" if isinstance(value, str) and text.startswith(_FORMULA) else text
