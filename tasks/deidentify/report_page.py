"""Turn a report into one page that a person reads and prints: no scripts, nothing fetched, every text escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MOST_NAMED = 50
"""So many pseudonyms stand in a line of the page; the JSON has all."""

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #5a6472; --paper: #ffffff; --line: #d9dee5; --tint: #f4f6f9;
 --good: #17663a; --good-tint: #e7f4ec; --care: #8a4b00; --care-tint: #fdf3e1; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --soft: #a3adba; --paper: #14181e; --line: #333b46;
 --tint: #1c222a; --good: #7fd3a1; --good-tint: #16291e; --care: #f0bd72; --care-tint: #2c2314; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, "Segoe UI", "Liberation Sans",
 Arial, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .3rem; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .5rem; padding-top: .9rem; border-top: 1px solid var(--line); }
p { margin: .5rem 0; max-width: 46rem; }
.soft { color: var(--soft); }
.box { border: 1px solid var(--line); border-left: .35rem solid var(--good); background: var(--good-tint);
 padding: .6rem .9rem; margin: .7rem 0; border-radius: .25rem; }
.box.care { border-left-color: var(--care); background: var(--care-tint); }
.box strong { color: var(--good); } .box.care strong { color: var(--care); }
dl.figures { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1.2rem 0; }
dl.figures div { flex: 1 1 8rem; background: var(--tint); border: 1px solid var(--line); border-radius: .25rem;
 padding: .6rem .8rem; }
dl.figures dt { color: var(--soft); font-size: .85rem; }
dl.figures dd { margin: 0; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: .7rem 0; font-size: .93rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .7rem .35rem 0; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; }
td.number, th.number { text-align: right; padding-right: 1.2rem; font-variant-numeric: tabular-nums;
 white-space: nowrap; }
code { font: .88em/1.4 ui-monospace, "Liberation Mono", Consolas, monospace; overflow-wrap: anywhere; }
pre { background: var(--tint); border: 1px solid var(--line); border-radius: .25rem; padding: .6rem .8rem;
 overflow-x: auto; }
li { margin: .3rem 0; max-width: 46rem; }
@media print { :root { --ink: #000; --paper: #fff; --line: #999; --tint: #fff; --good-tint: #fff; --care-tint: #fff;
 --good: #000; --care: #000; --soft: #333; } body { font-size: 10.5pt; } main { max-width: none; padding: 0; }
 h2 { break-after: avoid; } tr, .box, dl.figures div { break-inside: avoid; } }
"""

_DATES = {
    "MODIFIED": (
        "Moved by a number of whole days that is the same for all scans of a subject and that only the key map knows."
    ),
    "UNMODIFIED": "Left as they are.",
    "REMOVED": "Removed, or replaced where an image must have one.",
}
_FACTS = {"age": "age in years", "sex": "sex", "site": "site", "date": "month"}


def render_page(report: Mapping[str, Any], *, digest: str) -> str:
    """Render a report of `report.build_report`.

    Parameters
    ----------
    report
        As it stands in the JSON.
    digest
        SHA-256 of the JSON file.
    """
    body = "\n".join(
        (
            _summary(report),
            _rules(report["profile"], report["software"]),
            _actions(report),
            _held_back(report["quarantine"]),
            _audit(report["audit"]),
            _conversion(report["conversion"]),
            _cohort(report["cohort"], report["warnings"]),
            _section("What is not promised", _bullets(report["not_promised"])),
            _integrity(report["integrity"], digest),
            _digests(report["profile"], report["software"]),
            _series(report["series"]),
        )
    )
    return (
        "<!DOCTYPE html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>De-identification report</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _summary(report: Mapping[str, Any]) -> str:
    counts, audit, warnings = report["counts"], report["audit"], report["warnings"]
    figures = (
        ("Files released", counts["exported"]),
        ("Subjects", counts["subjects"]),
        ("Visits", counts["visits"]),
        ("Series", counts["series"]),
        ("Files held back", counts["quarantined"]),
    )
    shown = "".join(f"<div><dt>{_text(name)}</dt><dd>{count:,}</dd></div>" for name, count in figures)
    sentences = [
        _box(
            f"Every one of the {audit['passed']:,} released files passed the audit.",
            "Each was read again by code that shares nothing with the code that wrote it.",
        )
        if audit["passed"]
        else _box("Nothing was released.", "The export holds no image.", care=True)
    ]
    if warnings:
        sentences.append(
            _box(
                f"{_counted(len(warnings), 'warning')} about subjects who stand out.",
                "See “Who could be singled out” below before the data is passed on.",
                care=True,
            )
        )
    return (
        "<h1>De-identification report</h1>\n"
        '<p class="soft">What was done to the images in this folder so that they can be shared, what was held back, '
        "how it was checked, and what remains. Nothing on this page identifies anybody; subjects are called by their "
        "pseudonyms.</p>\n"
        f'<dl class="figures">{shown}</dl>\n' + "\n".join(sentences)
    )


def _rules(profile: Mapping[str, Any], software: Mapping[str, Any]) -> str:
    methods = _table(
        ("Code", "Method", "Files"),
        [(_code(one["code"]), _text(one["meaning"]), one["files"]) for one in profile["methods"]],
    )
    made_by = ", ".join(f"{_text(name)} ({count:,} files)" for name, count in software["made_by"].items()) or "nothing"
    words = profile["own_words"]
    own = f" The study allows {_counted(words, 'word')} of its own in descriptions." if words else ""
    return _section(
        "By which rules",
        f"<p>{_text(profile['name'])} of {_text(profile['standard'])}, edition {_text(profile['edition'])}. The codes "
        "below stand in the files themselves, each only where it was done (attribute 0012,0064; PS3.16 CID 7050).</p>\n"
        f"{methods}\n<p><b>Dates:</b> {_text(_DATES.get(profile['dates'], profile['dates']))}{_text(own)}</p>\n"
        f'<p class="soft">Files made by {made_by}; report by scanward {_text(software["scanward"])}, pydicom '
        f"{_text(software['pydicom'])}, Python {_text(software['python'])}.</p>",
    )


def _actions(report: Mapping[str, Any]) -> str:
    rows = [(_text(one["meaning"] or one["action"]), one["count"]) for one in report["actions"]]
    slow = report["counts"]["read_by_pydicom"]
    note = ""
    if slow:
        told = ", ".join(f"{_text(reason)} {count:,}" for reason, count in slow.items())
        note = f'<p class="soft">Files in a form that had to be converted first: {told}.</p>'
    return _section(
        "What was done", _table(("In all released files", "Times"), rows) + note if rows else "<p>Nothing.</p>"
    )


def _held_back(quarantine: Sequence[Mapping[str, Any]]) -> str:
    if not quarantine:
        return _section("What was held back", "<p>Nothing: every sorted file was released.</p>")
    rows = [(_text(one["meaning"]), _code(one["reason"]), one["files"]) for one in quarantine]
    return _section(
        "What was held back",
        "<p>These files are not in the export. They are listed one by one inside the workspace, where only its owner "
        f"can look.</p>\n{_table(('Why', 'Code', 'Files'), rows)}",
    )


def _audit(audit: Mapping[str, Any]) -> str:
    rows = [(_text(one["meaning"]), _code(one["code"]), one["files"]) for one in audit["checks"]]
    return _section(
        "How it was checked",
        f"<p>{audit['audited']:,} files were audited: {audit['passed']:,} passed and are released, "
        f"{audit['stopped']:,} did not and are held back. {audit['not_audited']:,} more were refused before they were "
        "rewritten. The audit looks for each of these faults, with the patient's names, IDs, numbers, dates and UIDs "
        "from all their files in hand; one fault is enough to hold a file back.</p>\n"
        + _text_recognition(audit)
        + _table(("A fault that is looked for", "Code", "Files stopped"), rows),
    )


def _text_recognition(audit: Mapping[str, Any]) -> str:
    """Say by what pictures were searched for writing."""
    if audit["text_recognition"] == "off":
        return "<p>No text recognition looked at the pictures.</p>\n"
    told = "; ".join(f"{count:,} files by {_text(name)}" for name, count in audit["text_read_by"].items())
    which = "All pictures" if audit["text_recognition"] == "all" else "Pictures of kinds that often show writing"
    return f"<p>{which} were searched by text recognition. Released after that: {told or 'none'}.</p>\n"


def _conversion(conversion: Mapping[str, Any]) -> str:
    if not conversion["ran"]:
        return _section(
            "Whether science gets the same",
            "<p>No series was converted and compared: the study does not ask for it, or no converter is there. That "
            "what describes the scan is unchanged rests on the audit's comparison of values and pixels.</p>",
        )
    rows = [
        ("Same images, vectors, timing and parameters", conversion["equal"]),
        ("Different, therefore held back", conversion["different"]),
        ("Not convertible before either", conversion["not_convertible"]),
        ("Not compared", conversion["not_run"]),
    ]
    return _section(
        "Whether science gets the same",
        "<p>Each series was converted by dcm2niix before and after de-identification, and what came out was compared."
        f"</p>\n{_table(('Outcome', 'Series'), rows)}",
    )


def _cohort(cohort: Mapping[str, Any], warnings: Sequence[Mapping[str, Any]]) -> str:
    boxes = "\n".join(_box(one["meaning"], _named(one["subjects"]), care=True) for one in warnings)
    if not warnings:
        judged = ", ".join(_FACTS.get(name, name) for name in cohort["judged"]["facts"]) or "being in the export"
        boxes = _box(
            "Nobody stands out.",
            f"Every subject shares {judged} with at least {cohort['asked_for'] - 1:,} others, and no scanner or "
            "measure points at one alone.",
        )
    rows = [
        (
            _text(", ".join(_FACTS.get(name, name) for name in one["facts"])),
            one["groups"],
            one["smallest_group"],
            one["subjects_in_small_groups"],
            _text(_FACTS.get(one["driven_by"], one["driven_by"])),
        )
        for one in cohort["combinations"]
    ]
    head = ("Known facts", "Groups", "Smallest group", f"Subjects in groups below {cohort['asked_for']:,}", "Driven by")
    moved = (
        "<p>The month is that of the moved date: nobody without the key can compare it with a real one, so the warning "
        "goes by the other facts.</p>"
        if cohort["dates"] == "MODIFIED" and "date" in cohort["facts"]
        else ""
    )
    return _section(
        "Who could be singled out",
        "<p>Whoever already knows some facts of a person, such as their age and sex, can look for those who share "
        "them. The fewer there are, the closer that comes to a name. The facts are read from the released files; a "
        "subject with several scans has all their values.</p>\n" + boxes + (_table(head, rows) if rows else "") + moved,
    )


def _integrity(integrity: Mapping[str, Any], digest: str) -> str:
    return _section(
        "How to verify the files",
        f"<p>{_code(integrity['list'])} beside this page has the SHA-256 of each of the {integrity['files']:,} "
        "released files. In this folder, the first command says nothing if all are as they were released; the second "
        "gives the digest of one series, as the table at the end has it:</p>\n"
        f"<pre><code>{_text(integrity['verify'])}\n{_text(integrity['verify_series'])}</code></pre>\n"
        f"<p>SHA-256 of that list: {_code(integrity['sha256'])}<br>SHA-256 of the same report for machines, "
        f"{_code('deidentification.json')}: {_code(digest)}</p>\n"
        "<p>Whoever passes these two digests on by another way than the data, on paper for one, lets the receiver "
        "prove that nothing was changed.</p>",
    )


def _digests(profile: Mapping[str, Any], software: Mapping[str, Any]) -> str:
    rows = [
        ("The rules in effect", _code(profile["digest"])),
        ("The settings", _code(profile["settings_digest"])),
        *((_code(name), _code(digest)) for name, digest in profile["tables"].items()),
    ]
    return _section(f"Which tables decided (scanward {software['scanward']})", _table(("What", "SHA-256"), rows))


def _series(series: Sequence[Mapping[str, Any]]) -> str:
    rows = [(_code(one["folder"]), one["files"], _code(one["sha256"])) for one in series]
    return _section("All series", _table(("Folder", "Files", "SHA-256"), rows) if rows else "<p>None.</p>")


def _section(title: str, content: str) -> str:
    return f"<section>\n<h2>{_text(title)}</h2>\n{content}\n</section>"


def _box(said: str, more: str, *, care: bool = False) -> str:
    return f'<div class="box{" care" if care else ""}"><strong>{_text(said)}</strong> {_text(more)}</div>'


def _bullets(sentences: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{_text(sentence)}</li>" for sentence in sentences) + "</ul>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str | int]]) -> str:
    """Lay out rows whose texts are escaped already; numbers stand to the right."""
    numbers = [bool(rows) and isinstance(cell, int) for cell in rows[0]] if rows else [False] * len(head)
    top = "".join(f"<th{_number(is_number)}>{_text(name)}</th>" for name, is_number in zip(head, numbers, strict=True))
    lines = "".join(
        "<tr>"
        + "".join(
            f"<td{_number(is_number)}>{f'{cell:,}' if isinstance(cell, int) else cell}</td>"
            for cell, is_number in zip(row, numbers, strict=True)
        )
        + "</tr>\n"
        for row in rows
    )
    return f'<div class="wide"><table>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{lines}</tbody>\n</table></div>'


def _number(is_number: bool) -> str:  # noqa: FBT001 - a column is one of numbers or is not
    return ' class="number"' if is_number else ""


def _named(subjects: Sequence[str]) -> str:
    named = ", ".join(subjects[:MOST_NAMED])
    return f"{named} and {len(subjects) - MOST_NAMED:,} more" if len(subjects) > MOST_NAMED else named


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _code(text: str) -> str:
    return f"<code>{_text(text)}</code>"


def _text(text: str) -> str:
    return html.escape(text, quote=True)
