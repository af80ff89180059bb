"""Print the rules of de-identification in effect, for people and for machines: `scanward profile`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pipelines.deidentify import profile_of
from tasks import __version__
from tasks.config import read_study
from tasks.errors import UsageError

if TYPE_CHECKING:
    from tasks.deidentify.profile import PolicyRow, Profile

MEANINGS: Mapping[str, str] = MappingProxyType(
    {
        "keep": "stays as it is",
        "date": "moves by the patient's number of days",
        "age": "stays; from 90 years on it is 90",
        "uid": "becomes a new UID, everywhere the same one",
        "pseudonym": "becomes the pseudonym",
        "descriptor": "keeps the words of the vocabulary; others are masked",
        "clean_sequence": "stays, with the same rules inside",
        "recurse": "stays, with the same rules inside",
        "csa": "is taken apart; what a list allows stays, the rest is blanked",
        "protocol": "is taken apart; what a list allows stays, the rest is blanked",
        "ge_block": "is unpacked; what a list allows stays, the rest goes",
        "ge_header": "keeps the numbers of the scan, the rest is zeros",
        "dummy": "becomes a value that says nothing",
        "empty": "becomes empty",
        "remove": "is removed",
    }
)
"""What becomes of an attribute, by action, in the order in which the actions are told."""


def print_policy(options: argparse.Namespace) -> int:
    """Print what becomes of each attribute under the options of a study, or under those that a new study has."""
    # De-identification needs pydicom and the standard's tables; the other commands start without.
    from pydicom.uid import UID  # noqa: PLC0415

    from tasks.deidentify.profile import DEFAULT_PROFILE, REFUSAL_REASONS, sop_class_verdict  # noqa: PLC0415

    profile = DEFAULT_PROFILE
    if options.study is not None:
        profile = profile_of(read_study(options.study).deidentify)
    refusal = sop_class_verdict(options.sop_class, [], "", "", "")
    if refusal is not None:
        name = f"No object of the class {options.sop_class!r} is exported."
        raise UsageError(problem=name, remedy=REFUSAL_REASONS[refusal])
    rows = profile.describe(options.sop_class)
    facts = {"scanward": __version__, "sop_class": options.sop_class, **_facts_of(profile)}
    if options.format == "json":
        rules = [
            asdict(row) | {"options": dict(code.split(": ") for code in row.options.split(", ") if code)}
            for row in rows
        ]
        sys.stdout.write(json.dumps(facts | {"rules": rules}) + "\n")
    elif options.format == "tsv":
        columns = tuple(field.name for field in fields(rows[0]))
        sys.stdout.writelines("\t".join(cells) + "\n" for cells in (columns, *map(astuple, rows)))
    elif options.format == "markdown":
        sys.stdout.writelines(f"{line}\n" for line in markdown_lines(rows))
    else:
        # Plain lines, each whole however narrow the screen is, so that they can be searched and copied.
        head = f"{'tag':<11}  {'code':<6}  {'action':<14}  name [codes of the options] (reason)"
        lines = [*_head_of(facts, UID(options.sop_class).name), "", head, *map(_line_of, rows)]
        sys.stdout.writelines(f"{line}\n" for line in lines)
    return 0


def markdown_lines(rows: Sequence[PolicyRow]) -> Iterator[str]:
    """Yield a table of how many attributes have which action, and below it their names, folded away."""
    of_table = {action: [row.name for row in rows if row.basic and row.action == action] for action in MEANINGS}
    of_private = {
        action: [row.name for row in rows if "xx" in row.tag and not row.basic and row.action == action]
        for action in MEANINGS
    }
    others = {
        action: [row for row in rows if not row.basic and "xx" not in row.tag and row.action.split(" (")[0] == action]
        for action in MEANINGS
    }
    by_name = {action: [row.name for row in found if row.tag.startswith("(")] for action, found in others.items()}
    yield "| what becomes of it | action | rows of table E.1-1 | decided one by one | private elements |"
    yield "| --- | --- | ---: | ---: | ---: |"
    for action, meaning in MEANINGS.items():
        counts = [len(found[action]) for found in (of_table, by_name, of_private)]
        if any(counts):
            yield f"| {meaning} | `{action}` | {' | '.join(str(count or '') for count in counts)} |"
    counts = [sum(map(len, found.values())) for found in (of_table, by_name, of_private)]
    yield f"| all of them | | {' | '.join(map(str, counts))} |"
    yield ""
    yield "| what no row names | action | reason |"
    yield "| --- | --- | --- |"
    for row in rows:
        if not row.basic and not row.tag.startswith("("):
            yield f"| {row.name} ({row.tag}) | {row.action} | {row.reason} |"
    for head, found in (("Rows of table E.1-1", of_table), ("Decided one by one", by_name)):
        yield ""
        yield f"<details><summary>{head}, by what becomes of them</summary>"
        for action, names in found.items():
            if names:
                yield ""
                yield f"**{action}** ({len(names)}): {'; '.join(names)}."
        yield ""
        yield "</details>"


def _facts_of(profile: Profile) -> dict[str, Any]:
    from tasks.deidentify.profile import CLEAN_PIXEL_DATA, WITHOUT_A_COLUMN, Option  # noqa: PLC0415
    from tasks.deidentify.standard import load_confidentiality_table  # noqa: PLC0415

    with_a_column = [
        (option.column, option.code, option.meaning, "chosen" if option in profile.options else "not chosen")
        for option in Option
    ]
    # The one without a column that is done follows from region rules, file by file; see CLEAN_PIXEL_DATA.
    states = {CLEAN_PIXEL_DATA: "chosen" if profile.regions else "not chosen"}
    without = [("", code, meaning, states.get(code, "not done")) for code, meaning in WITHOUT_A_COLUMN.items()]
    return {
        "edition": load_confidentiality_table().edition,
        "digest": profile.digest(),
        "codes": [{"code": code, "meaning": meaning} for code, meaning in profile.codes()],
        "options": [
            dict(zip(("name", "code", "meaning", "state"), option, strict=True))
            for option in (*with_a_column, *without)
        ],
        "temporal_information": profile.temporal_information(),
        "keeps_uids": profile.keeps_uids,
    }


def _head_of(facts: dict[str, Any], sop_class: str) -> Iterator[str]:
    yield f"De-identification by DICOM PS3.15 annex E, edition {facts['edition']}: {sop_class} ({facts['sop_class']})"
    for code in facts["codes"]:
        yield f"  {code['code']}  {code['meaning']}"
    for state in ("chosen", "not chosen", "not done"):
        names = [option["name"] or option["meaning"] for option in facts["options"] if option["state"] == state]
        yield f"{state.capitalize()}: {', '.join(names) or 'none'}"
    yield f"Dates and times: {facts['temporal_information']}"
    if facts["keeps_uids"] and facts["temporal_information"] != "UNMODIFIED":
        yield "Take care: scanners write the date into UIDs, so those that are kept tell what is hidden elsewhere."


def _line_of(row: PolicyRow) -> str:
    line = f"{row.tag:<11}  {row.basic or '-':<6}  {row.action:<14}  {row.name}"
    line += f" [{row.options}]" if row.options else ""
    return f"{line} ({row.reason})" if row.reason else line
