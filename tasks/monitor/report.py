"""The morning's report: what is wrong first, then what changed, then one quiet line for each site that is well.

The text part says everything by itself. The HTML says the same with inline styles, as mail programs take nothing else,
and small pictures of how full disks were. What machines say of themselves is escaped; everything is capped, so that a
thousand machines on a bad day still make a mail that is shown whole.
"""

from __future__ import annotations

import csv
import io
import json
import struct
import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.resources import files
from typing import Any, Final

import numpy as np

from tasks.monitor.finding import Key, Severity
from tasks.monitor.history import Change, State

MOST_ROWS: Final = 150
"""So many problems, and of each other kind a third of it, are written out; the attachments hold all."""

MOST_PICTURES: Final = 30

_MOST_SITES = 200
_TEXT_LIMIT = 240
_WORDS: Final = {
    Severity.CRITICAL: "critical",
    Severity.WARNING: "warning",
    Severity.NOTICE: "notice",
    Severity.UNKNOWN: "unknown",
    Severity.OK: "well",
}
_SIGNS: Final = {
    Severity.CRITICAL: "\u2716",
    Severity.WARNING: "\u25b2",
    Severity.NOTICE: "\u25cf",
    Severity.UNKNOWN: "?",
    Severity.OK: "\u2713",
}
_COLOURS: Final = {
    Severity.CRITICAL: "#b3261e",
    Severity.WARNING: "#9a5b00",
    Severity.NOTICE: "#5f6368",
    Severity.UNKNOWN: "#5f6368",
    Severity.OK: "#1b7f4d",
}
# Dark enough on white and, beside their word and sign, on what mail programs make of it in the dark.


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A site as the report names it.

    Attributes
    ----------
    name
        Of the site.
    machines
        How many it has.
    """

    name: str
    machines: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A report, ready to be mailed or put on a disk.

    Attributes
    ----------
    subject, text, html
        As the mail has them.
    pictures
        PNG files by content ID.
    csv, json
        Every finding of the night.
    worst
        The gravest that is told.
    counts
        How many machines have problems, and how many are well.
    """

    subject: str
    text: str
    html: str
    pictures: Mapping[str, bytes]
    csv: bytes
    json: bytes
    worst: Severity
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Occasion:
    """What a report is about.

    Attributes
    ----------
    fleet
        The name in the subject.
    date
        Of the night, ISO 8601.
    when
        When the machines were asked, in the reader's own zone.
    places
        Every site.
    is_cut_off
        True if this machine had no network.
    names
        What is shown in place of a machine's or a target's own name.
    notes
        What else is to be said: of the study, of mails that did not go out; one sentence each.
    trends
        How full a disk was, 0 to 1, in the nights up to this one, by the key of its finding.
    seconds
        How long asking took.
    software
        The version that asked.
    """

    fleet: str
    date: str
    when: datetime
    places: Sequence[Place]
    is_cut_off: bool = False
    names: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    trends: Mapping[Key, Sequence[float]] = field(default_factory=dict)
    seconds: float = 0.0
    software: str = ""


def build_report(states: Sequence[State], occasion: Occasion) -> Report:
    """Write the report on a night.

    Parameters
    ----------
    states
        As `tasks.monitor.history.judge_nights` gives them.
    """
    problems = [one for one in states if one.change in (Change.NEW, Change.STILL) and one.is_told]
    problems.sort(
        key=lambda one: (-int(one.finding.severity), one.change is not Change.NEW, one.finding.site, one.finding.key)
    )
    groups = {
        "problems": problems,
        "recovered": [one for one in states if one.change is Change.RECOVERED and one.is_told],
        "unknown": [one for one in states if one.is_told and _is_unknown(one)],
        "notices": [
            one
            for one in states
            if one.change is Change.NONE and one.finding.severity is Severity.NOTICE and one.is_told
        ],
        "muted": [one for one in states if not one.is_told and one.is_open],
    }
    machines = {name for place in occasion.places for name in place.machines}
    troubled = {one.finding.machine for one in problems} & machines
    unknown = {one.finding.machine for one in groups["unknown"]} & machines - troubled
    well = len(machines) - len(troubled) - len(unknown)
    subject = _subject(occasion, problems, well, len(machines), len(unknown))
    pictures, shown = _pictures(problems, occasion)
    quiet, more_sites = _quiet(occasion.places, troubled | unknown)
    rows = {name: [_row(one, occasion, shown) for one in group[: _most(name)]] for name, group in groups.items()}
    left_out = {name: max(len(group) - _most(name), 0) for name, group in groups.items()}
    content = {
        "subject": subject,
        "headline": subject.partition("] ")[2] or subject,
        "occasion": occasion,
        "rows": rows,
        "left_out": left_out,
        "quiet": quiet,
        "more_sites": more_sites,
        "muted": len(groups["muted"]),
    }
    worst = max((one.finding.severity for one in problems), default=Severity.OK)
    if occasion.is_cut_off:
        worst = Severity.UNKNOWN
    return Report(
        subject=subject,
        text=_text(content),
        html=_html(content),
        pictures=pictures,
        csv=_csv(states),
        json=_json(states, occasion),
        worst=worst,
        counts={"problems": len(troubled), "unknown": len(unknown), "well": well, "machines": len(machines)},
    )


def _most(group: str) -> int:
    return MOST_ROWS if group == "problems" else MOST_ROWS // 3


def _is_unknown(state: State) -> bool:
    return state.change is Change.UNKNOWN or (
        state.change is Change.NONE and state.finding.severity is Severity.UNKNOWN
    )


_GROUPS: Final = {
    "down": ("ssh",),
    "disk": ("disk", "inodes", "mount", "raid"),
    "PACS": ("pacs",),
    "inbox": ("inbox",),
}


def _subject(occasion: Occasion, problems: Sequence[State], well: int, machines: int, unknown: int) -> str:
    """Say it all in one line: what is wrong, by kind, and how many are well."""
    head = f"[{occasion.fleet}]"
    if occasion.is_cut_off:
        return f"{head} NO NETWORK HERE: nothing is known of {machines} machines"
    kinds: Counter[str] = Counter()
    for one in problems:
        kinds[next((name for name, checks in _GROUPS.items() if one.finding.check in checks), "other")] += 1
    new = sum(one.change is Change.NEW for one in problems)
    words = [f"{count} {name}" for name in (*_GROUPS, "other") if (count := kinds[name])]
    if unknown:
        words.append(f"{unknown} unknown")
    if not words:
        return f"{head} all {machines} well"
    fresh = f" ({new} new)" if new else ""
    return f"{head} {', '.join(words)}{fresh}; {well}/{machines} well"


def _row(state: State, occasion: Occasion, shown: Mapping[Key, str]) -> dict[str, Any]:
    """Put one finding into words for either part of the mail."""
    finding, severity = state.finding, state.finding.severity
    if state.change is Change.RECOVERED:
        severity = Severity.OK
    elif state.change is Change.UNKNOWN:
        severity = Severity.UNKNOWN
    return {
        "sign": _SIGNS[severity],
        "word": _WORDS[severity],
        "colour": _COLOURS[severity],
        "site": finding.site,
        "machine": occasion.names.get(finding.machine, finding.machine),
        "text": _short(_with_subject(state, occasion)),
        "history": _history(state),
        "picture": shown.get(finding.key, ""),
        "pardon": _pardon(state),
    }


def _with_subject(state: State, occasion: Occasion) -> str:
    finding = state.finding
    if state.change is Change.RECOVERED:
        what = "answers again" if finding.check == "ssh" else f"is well again: {_name(state, occasion)}"
        return f"{what} (it was: {finding.text.rstrip('.')})."
    if state.change is Change.UNKNOWN:
        return f"{_name(state, occasion)}: not known this night; it was: {finding.text}"
    if finding.check in ("pacs", "extra"):
        return f"{occasion.names.get(finding.subject, finding.subject)}: {finding.text}"
    return finding.text


def _name(state: State, occasion: Occasion) -> str:
    subject = occasion.names.get(state.finding.subject, state.finding.subject)
    return f"{state.finding.check} {subject}".strip()


def _short(text: str) -> str:
    kept = "".join(letter if letter.isprintable() else " " for letter in text)
    return kept if len(kept) <= _TEXT_LIMIT else kept[: _TEXT_LIMIT - 1] + "\u2026"


def _history(state: State) -> str:
    nights = "1 night" if state.nights == 1 else f"{state.nights} nights"
    words = {
        Change.NEW: "new",
        Change.STILL: f"still, {nights}, since {state.since}",
        Change.RECOVERED: f"recovered after {nights}",
        Change.UNKNOWN: f"open since {state.since}" if state.since else "",
        Change.NONE: "",
    }[state.change]
    if state.change is Change.STILL and state.was is not None and state.finding.severity > state.was:
        words += f", worse: was {_WORDS[state.was]}"
    return f"{words}, comes and goes" if state.is_flapping else words


def _pardon(state: State) -> str:
    pardon = state.pardon
    if pardon is None:
        return ""
    what = "known to" if pardon.kind == "ack" else "muted by"
    return _short(f"{what} {pardon.who} until {pardon.until:%Y-%m-%d}: {pardon.why}")


def _quiet(places: Sequence[Place], loud: set[str]) -> tuple[list[str], int]:
    """Give one line for each site of which every machine is well."""
    lines = [
        f"{place.name}: "
        + ("its machine is" if len(place.machines) == 1 else f"all {len(place.machines)} machines are")
        + " well"
        for place in places
        if place.machines and not loud & set(place.machines)
    ]
    return lines[:_MOST_SITES], max(len(lines) - _MOST_SITES, 0)


# -- the parts of the mail ---------------------------------------------------------------------------------------------

_TITLES: Final = {
    "problems": "Problems",
    "recovered": "Well again",
    "unknown": "Not known",
    "notices": "Worth knowing",
    "muted": "Muted",
}


def _text(content: Mapping[str, Any]) -> str:
    occasion: Occasion = content["occasion"]
    lines = [
        content["headline"],
        f"Night of {occasion.date}; asked {occasion.when:%Y-%m-%d %H:%M %Z}, in {occasion.seconds:.0f} s.",
        "",
    ]
    if occasion.is_cut_off:
        lines += ["The machine that watches has no network itself. Look there first: no alarm below is news.", ""]
    for group, title in _TITLES.items():
        rows = content["rows"][group]
        if not rows:
            continue
        lines.append(f"{title.upper()} ({len(rows) + content['left_out'][group]})")
        for row in rows:
            where = f"{row['site']} / {row['machine']}"
            lines.append(f"  {row['sign']} {row['word']:<8} {where}: {row['text']}")
            told = "; ".join(part for part in (row["history"], row["pardon"]) if part)
            if told:
                lines.append(f"      {told}")
        if content["left_out"][group]:
            lines.append(f"  ... and {content['left_out'][group]} more: see findings.csv")
        lines.append("")
    if occasion.notes:
        lines += ["ALSO", *(f"  {_short(note)}" for note in occasion.notes), ""]
    if content["quiet"]:
        lines += ["WELL", *(f"  {_SIGNS[Severity.OK]} {line}" for line in content["quiet"])]
        if content["more_sites"]:
            lines.append(f"  ... and {content['more_sites']} more sites")
        lines.append("")
    lines.append(f"scanward {occasion.software}; all findings stand in findings.csv and findings.json.")
    return "\n".join(lines) + "\n"


def _html(content: Mapping[str, Any]) -> str:
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415 - loaded where it is used

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = files("tasks.monitor").joinpath("data", "mail.html").read_text(encoding="utf-8")
    return environment.from_string(source).render(titles=_TITLES, **content)


def _pictures(problems: Sequence[State], occasion: Occasion) -> tuple[dict[str, bytes], dict[Key, str]]:
    """Draw how full the disks with problems were."""
    pictures: dict[str, bytes] = {}
    shown: dict[Key, str] = {}
    for state in problems[:MOST_ROWS]:
        trend = occasion.trends.get(state.finding.key)
        if trend is not None and len(trend) > 1 and len(pictures) < MOST_PICTURES:
            cid = f"trend{len(pictures)}"
            pictures[cid], shown[state.finding.key] = draw_trend(trend), cid
    return pictures, shown


def draw_trend(shares: Sequence[float], *, wide: int = 120, high: int = 24) -> bytes:
    """Draw how full a disk was, night by night, as a PNG of a few hundred bytes.

    Parameters
    ----------
    shares
        0 to 1, the oldest first; the picture's height is the whole disk.
    """
    columns = np.minimum((np.arange(wide) * len(shares)) // wide, len(shares) - 1)
    tops = np.round(high * (1 - np.clip(np.asarray(shares, float), 0, 1)[columns])).astype(int)
    # Palette: paper, what is taken, what is taken where it is nearly full.
    rows = np.arange(high)[:, None] >= tops[None, :]
    pixels = np.where(rows, np.where(tops[None, :] <= 0.1 * high, 2, 1), 0).astype(np.uint8)
    raw = b"".join(b"\0" + row.tobytes() for row in pixels)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", wide, high, 8, 3, 0, 0, 0)
    palette = bytes((0xEE, 0xEE, 0xEE, 0x56, 0x8B, 0xC8, 0xB3, 0x26, 0x1E))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"PLTE", palette)
        + chunk(b"IDAT", zlib.compress(raw, 9))
        + chunk(b"IEND", b"")
    )


# -- attachments -------------------------------------------------------------------------------------------------------

_COLUMNS: Final = (
    "site", "machine", "check", "subject", "severity", "code", "text", "value", "unit", "change", "since", "nights",
    "is_flapping", "pardon",
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def _facts(state: State) -> dict[str, Any]:
    finding = state.finding
    return {
        "site": finding.site,
        "machine": finding.machine,
        "check": finding.check,
        "subject": finding.subject,
        "severity": _WORDS[finding.severity],
        "code": finding.code,
        "text": finding.text,
        "value": finding.value,
        "unit": finding.unit,
        "change": state.change.value,
        "since": state.since,
        "nights": state.nights,
        "is_flapping": state.is_flapping,
        "pardon": _pardon(state),
    }


def _csv(states: Sequence[State]) -> bytes:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, _COLUMNS, lineterminator="\r\n")
    writer.writeheader()
    for state in states:
        # No spreadsheet is to take what a machine says for a formula.
        facts = {
            name: f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
            for name, value in _facts(state).items()
        }
        writer.writerow(facts)
    return stream.getvalue().encode("utf-8")


def _json(states: Sequence[State], occasion: Occasion) -> bytes:
    by_site: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for state in states:
        by_site[state.finding.site].append(_facts(state))
    content = {
        "fleet": occasion.fleet,
        "date": occasion.date,
        "asked": occasion.when.isoformat(),
        "is_cut_off": occasion.is_cut_off,
        "sites": by_site,
    }
    return json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False).encode("utf-8")
