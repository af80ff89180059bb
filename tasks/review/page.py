"""Write the page on which a study's series are looked through: one file, no network, every text shown as text.

The page is `review/index.html` beside the manifest. It holds the facts of all cases as JSON, its style and its script;
the pictures are files below its folder, which the browser reads when they come into view. Its Content-Security-Policy
forbids everything else. Rows are made as they are scrolled to, so that thousands of cases open at once.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from tasks.files import make_folder, write_atomically
from tasks.review.finding import CODES, Finding
from tasks.review.geometry import VERDICTS
from tasks.review.manifest import Entry

MOST_COLUMNS = 14
"""So many kinds of series have a column of their own in the table of visits; what is rarer shares the last one."""

COMMAND = "python -m viewer review {manifest} --case {entry} --reviewer NAME"
"""How a case is opened in the viewer; the page fills in where its own folder lies when it is opened."""

INCOMPLETE = "incomplete-series"
"""The finding that says that files of a series are missing."""

_DATA = Path(__file__).parent / "data"


RARE_SHARE = 0.2
"""Kinds that fewer visits have than this share of the commonest kind's stand behind the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageImage:
    """One converted image of a case.

    Attributes
    ----------
    name
        Its path below the BIDS data set; without an ending.
    named_by
        What the name was taken from: "reproin", "rule", "guess" or "none".
    shape
        Voxels along each axis; the fourth counts volumes.
    """

    name: str
    named_by: str
    shape: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PageCase:
    """Everything that the page shows of one series; nothing else may stand on it.

    Attributes
    ----------
    entry_id, subject, visit, series, modality, description
        As in the manifest's entry.
    label
        What the series is called, if that is known: the cleaned Series Description.
    kind
        What the same acquisition at other visits has in common: the column that the case stands in. If empty, `label`.
    verdict
        A key of `geometry.VERDICTS`.
    is_complete
        Whether all files of the series are there; None if that cannot be told.
    faults, notes
        What was found, without what `is_complete` says already.
    images
        What it was converted to.
    no_images
        Why there is no image, or not all of them; empty if nothing is missing.
    flags
        Sentences on what stands out from other series; advice, which the page hides until it is asked for.
    metrics
        What was measured, as names and figures with their units; hidden together with the flags.
    montage, thumbnail, course
        Paths of the pictures relative to the page, or None.
    no_montage
        Why there is no picture; empty if there is one.
    """

    entry_id: str
    subject: str
    visit: str
    series: str
    modality: str
    description: str
    verdict: str
    label: str = ""
    kind: str = ""
    is_complete: bool | None = True
    faults: tuple[Finding, ...] = ()
    notes: tuple[Finding, ...] = ()
    images: tuple[PageImage, ...] = ()
    no_images: str = ""
    flags: tuple[str, ...] = ()
    metrics: tuple[tuple[str, str], ...] = ()
    montage: str | None = None
    thumbnail: str | None = None
    course: str | None = None
    no_montage: str = ""

    @property
    def column(self) -> str:
        """The kind of series that the case is shown as."""
        return self.kind or self.label or self.modality


def page_case(
    entry: Entry,
    *,
    data_set: str,
    label: str = "",
    flags: Sequence[str] = (),
    metrics: Sequence[tuple[str, str]] = (),
) -> PageCase:
    """Make a case of a manifest's entry.

    Parameters
    ----------
    entry
        The entry.
    data_set
        Where the BIDS data set lies, as in the manifest; names are given from there.
    label, flags, metrics
        As in `PageCase`.
    """
    found = [one for one in (*entry.geometry.findings, *entry.problems) if one.code != INCOMPLETE]
    return PageCase(
        entry_id=entry.entry_id,
        subject=entry.subject,
        visit=entry.visit,
        series=entry.series,
        modality=entry.modality,
        description=entry.description,
        label=label,
        kind=entry.group,
        verdict=entry.geometry.verdict,
        is_complete=all(one.code != INCOMPLETE for one in entry.problems),
        faults=tuple(one for one in found if one.is_fault),
        notes=tuple(one for one in found if not one.is_fault),
        images=tuple(
            PageImage(
                name=image.path.removeprefix(f"{data_set}/").removesuffix(".gz").removesuffix(".nii"),
                named_by=image.named_by,
                shape=image.shape,
            )
            for image in entry.images
        ),
        no_images=entry.no_images,
        flags=tuple(flags),
        metrics=tuple(metrics),
        montage=entry.montage,
        thumbnail=entry.thumbnail,
        course=entry.course,
        no_montage=entry.no_montage,
    )


def render_page(cases: Iterable[PageCase], *, study: str = "", manifest: str = "manifest.json") -> str:
    """Render the page; the same cases in any order give the same text.

    Parameters
    ----------
    cases
        Each with an entry id of its own.
    study
        What the study is called; must identify nobody.
    manifest
        The manifest's name in the page's folder, for the viewer's command.

    Raises
    ------
    ValueError
        If a picture does not lie below the page's folder, or two cases have the same entry id.
    """
    ordered = sorted(cases, key=lambda case: (case.subject, case.visit, case.series, case.entry_id))
    if len({case.entry_id for case in ordered}) < len(ordered):
        raise ValueError("two cases have the same entry id")
    columns = _columns(ordered)
    facts: dict[str, Any] = {
        "manifest": manifest,
        "command": COMMAND,
        "columns": columns,
        "verdicts": VERDICTS,
        "codes": {
            one.code: CODES[one.code][1] for case in ordered for one in (*case.faults, *case.notes) if one.code in CODES
        },
        "metrics": sorted({name for case in ordered for name, _ in case.metrics}),
        "cases": [],
    }
    numbers = {name: number for number, name in enumerate(facts["metrics"])}
    places = {name: place for place, name in enumerate(columns)}
    facts["cases"] = [_facts(case, places, numbers) for case in ordered]
    title = f"Review of {study}" if study else "Review"
    style, script = ((_DATA / name).read_text("utf-8") for name in ("page.css", "page.js"))
    template = (_DATA / "page.html").read_text("utf-8")
    policy = (
        "default-src 'none'; img-src 'self' file: data:; "
        f"style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
    filled = {
        "policy": html.escape(policy, quote=True).replace("&#x27;", "'"),
        "title": html.escape(title, quote=True),
        "style": style,
        "facts": _json(facts),
        "script": script,
    }
    # Cut first and joined then, so that nothing that is filled in can be taken for a place to be filled in.
    pieces = template.split("{{")
    rest = (piece.split("}}", 1) for piece in pieces[1:])
    return pieces[0] + "".join(filled[name] + after for name, after in rest)


def write_page(path: Path, cases: Iterable[PageCase], *, study: str = "", manifest: str = "manifest.json") -> None:
    """Write the page, whole or not at all; equal cases give equal bytes.

    Parameters
    ----------
    path
        The file; its folder is made if needed.
    cases, study, manifest
        As for `render_page`.

    Raises
    ------
    ValueError
        As `render_page`.
    DiskFullError, WorkspaceError
        If the file cannot be written.
    """
    content = render_page(cases, study=study, manifest=manifest).encode("utf-8", "replace")
    make_folder(path.parent)
    write_atomically(path, content)


def _columns(cases: Sequence[PageCase]) -> list[str]:
    """Choose the kinds of series that most visits have, in the order in which a visit has them; rare ones last."""
    visits: Counter[str] = Counter()
    ranks: dict[str, list[int]] = {}
    before, rank = ("", ""), 0
    seen: set[str] = set()
    for case in cases:
        if (case.subject, case.visit) != before:
            before, rank, seen = (case.subject, case.visit), 0, set()
        if case.column not in seen:
            visits[case.column] += 1
            ranks.setdefault(case.column, []).append(rank)
            seen.add(case.column)
        rank += 1
    chosen = sorted(visits, key=lambda name: (-visits[name], name))[:MOST_COLUMNS]
    usual = RARE_SHARE * max(visits.values(), default=0)
    return sorted(chosen, key=lambda name: (visits[name] < usual, sorted(ranks[name])[len(ranks[name]) // 2], name))


def _facts(case: PageCase, places: Mapping[str, int], numbers: Mapping[str, int]) -> dict[str, Any]:
    """Return what the script reads of a case; what is empty is left out."""
    facts: dict[str, Any] = {
        "id": case.entry_id,
        "subject": case.subject,
        "visit": case.visit,
        "series": case.series,
        "modality": case.modality,
        "description": case.description,
        "label": case.label,
        "kind": case.column,
        "verdict": case.verdict,
        "incomplete": case.is_complete is False,
        "unknown": case.is_complete is None,
        "faults": [[one.code, one.text, list(one.files)] for one in case.faults],
        "notes": [[one.code, one.text, list(one.files)] for one in case.notes],
        "images": [[one.name, one.named_by, list(one.shape)] for one in case.images],
        "why": case.no_images,
        "flags": list(case.flags),
        "metrics": [[numbers[name], figure] for name, figure in case.metrics],
        "thumbnail": _address(case.thumbnail),
        "montage": _address(case.montage),
        "course": _address(case.course),
        "bare": case.no_montage,
    }
    return {"column": places.get(case.column, len(places)), **{name: one for name, one in facts.items() if one}}


def _address(path: str | None) -> str:
    """Turn a picture's path into an address that stays below the page's folder."""
    if path is None:
        return ""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path:
        raise ValueError("a picture must lie below the page's folder")
    return quote("/".join(parts), safe="/")


def _hash(text: str) -> str:
    """Name an inline style or script so that the policy lets it alone run (CSP level 2, hash sources)."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _json(facts: Mapping[str, Any]) -> str:
    """Write JSON in which nothing can end the script element that holds it (HTML, script data states)."""
    text = json.dumps(facts, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text
