"""The report tells what became of every file, the same from the same outcomes, and of nobody who it was."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import re
import subprocess
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.deidentify.audit.conversion import Verdict
from tasks.deidentify.ledger import ExportRow
from tasks.deidentify.ocr import OCR_REASONS
from tasks.deidentify.profile import DEFAULT_PROFILE, METHODS, Option, Profile
from tasks.deidentify.reasons import QUARANTINE_REASONS, explain
from tasks.deidentify.report import ReportSettings, build_report, checksum_list, withdraw_report, write_report
from tasks.deidentify.report_page import render_page
from tasks.errors import WorkspaceError
from tasks.workspace import EXPORT_CHECKSUMS, EXPORT_PAPERS, EXPORT_REPORT, EXPORT_REPORT_PAGE

SETTINGS = ReportSettings(profile=DEFAULT_PROFILE, prefix="SUB", smallest_cohort=5)
CANARY = "Zanarykestrel"
VOID = {"meta", "br", "link", "img", "hr", "input"}


def a_row(number: int = 1, **changes: str) -> ExportRow:
    """Make an outcome: three files a series, two series a visit, two visits a subject."""
    subject, visit, series = number // 12 + 1, number // 6 % 2, number // 3 % 2
    target = f"SUB-{subject:04d}/ses-2001010{visit}/00{series}_00000000/{number:05d}_00000000.dcm"
    codes = "113100 113107" if number % 2 else "113100 113101 113107"
    told = {"codes": codes, "software": "scanward 0.1.0", "sex": "FM"[subject % 2], "age": "34", "date": "2001-01"}
    row = ExportRow(
        source=f"{CANARY}/{number:05d}.dcm",
        identity=f"{CANARY}-{number}",
        target=target,
        reason="",
        digest=hashlib.sha256(str(number).encode()).hexdigest(),
        by_pydicom="",
        conversion=Verdict.EQUAL,
        tally=json.dumps({"remove": 2, "uid": number % 3, "masked_words": 1}),
        cohort=json.dumps(told),
    )
    return dataclasses.replace(row, **changes)


def refused(number: int, reason: str) -> ExportRow:
    return a_row(number, reason=reason, digest="", tally="", cohort="", conversion="")


@st.composite
def outcomes(draw: st.DrawFn) -> list[ExportRow]:
    rows = []
    for number in range(draw(st.integers(0, 30))):
        reason = draw(st.sampled_from(["", "", *QUARANTINE_REASONS, "audit-date+identifier"]))
        rows.append(refused(number, reason) if reason else a_row(number))
    return rows


def papers(export: Path) -> dict[str, bytes]:
    return {name: (export / name).read_bytes() for name in EXPORT_PAPERS}


# ---- the numbers


@settings(deadline=None)
@given(outcomes())
def test_the_sums_close(rows: list[ExportRow]) -> None:
    report = build_report(rows, SETTINGS)
    counts, audit = report["counts"], report["audit"]
    reasons = Counter(row.reason for row in rows if row.reason)
    assert counts["sorted_files"] == len(rows) == counts["exported"] + counts["quarantined"]
    assert counts["quarantined"] == sum(one["files"] for one in report["quarantine"]) == sum(reasons.values())
    assert {one["reason"]: one["files"] for one in report["quarantine"]} == reasons
    assert all(one["meaning"] == explain(one["reason"]) for one in report["quarantine"])
    assert audit["passed"] == counts["exported"] == sum(one["files"] for one in report["series"])
    assert audit["audited"] + audit["not_audited"] == len(rows)
    assert audit["audited"] == audit["passed"] + audit["stopped"]
    stopped = {
        tuple(reason.removeprefix("audit-").split("+")): count
        for reason, count in reasons.items()
        if reason.startswith("audit-") or reason in OCR_REASONS
    }
    assert audit["stopped"] == sum(stopped.values())
    for check in audit["checks"]:
        assert check["files"] == sum(count for codes, count in stopped.items() if check["code"] in codes)
    places = {tuple(row.target.split("/")[:3]) for row in rows if not row.reason}
    assert counts["series"] == len(places) == len(report["series"])
    assert counts["visits"] == len({place[:2] for place in places})
    assert counts["subjects"] == len({place[0] for place in places}) == report["cohort"]["subjects"]


def test_actions_are_added_up_and_told_in_words() -> None:
    rows = [a_row(number) for number in range(9)]
    rows[3] = dataclasses.replace(rows[3], tally='{"remove":10,"of_tomorrow":1}')
    actions = {one["action"]: one for one in build_report(rows, SETTINGS)["actions"]}
    assert {name: one["count"] for name, one in actions.items() if one["count"]} == {
        "remove": 26,
        "uid": 9,
        "masked_words": 8,
        "of_tomorrow": 1,
    }
    assert actions["remove"]["meaning"]
    assert "of_tomorrow" in render_page(whole(rows), digest="")


def test_the_codes_are_those_that_stand_in_the_files() -> None:
    methods = build_report([a_row(number) for number in range(6)] + [refused(7, "malformed")], SETTINGS)["profile"]
    assert {one["code"]: one["files"] for one in methods["methods"]} == {"113100": 6, "113101": 3, "113107": 6}
    assert all(one["meaning"] == METHODS[one["code"]] for one in methods["methods"])


def test_series_are_counted_by_what_their_conversions_gave() -> None:
    rows = [a_row(number) for number in range(24)]
    for first, verdict in ((0, "different: EchoTime .bval"), (3, "not-convertible"), (6, "not-run")):
        rows[first : first + 3] = [dataclasses.replace(row, conversion=verdict) for row in rows[first : first + 3]]
    rows[0] = dataclasses.replace(rows[0], conversion="equal")
    rows[9] = dataclasses.replace(rows[9], conversion="", reason="malformed")
    assert build_report(rows, SETTINGS)["conversion"] == {
        "ran": True,
        "different": 1,
        "equal": 5,
        "not_convertible": 1,
        "not_run": 1,
        "differing": {".bval": 1, "EchoTime": 1},
    }
    rows = [dataclasses.replace(row, conversion="not-run") for row in rows]
    assert build_report(rows, SETTINGS)["conversion"]["ran"] is False


def test_every_option_that_retains_something_says_what_remains() -> None:
    bare = build_report([], dataclasses.replace(SETTINGS, profile=Profile(options=frozenset())))["not_promised"]
    for option in sorted(set(Option) - {Option.RETAIN_SAFE_PRIVATE, Option.CLEAN_GRAPHICS}, key=str):
        if option.column.startswith("retain"):
            profile = Profile(options=frozenset({option}))
            told = build_report([], dataclasses.replace(SETTINGS, profile=profile))["not_promised"]
            assert len(told) == len(bare) + 1, option
    assert any("face" in sentence for sentence in bare)


# ---- small groups


def cohort_rows(*told: dict[str, str]) -> list[ExportRow]:
    return [a_row(12 * number, cohort=json.dumps(facts)) for number, facts in enumerate(told)]


def test_a_subject_who_is_the_only_one_is_warned_of() -> None:
    alike = [{"age": "34", "sex": "F", "date": f"2001-{month:02d}"} for month in range(1, 7)]
    rows = cohort_rows(*alike, {"age": "87", "sex": "F", "date": "2001-01"})
    report = build_report(rows, SETTINGS)
    (warning,) = report["warnings"]
    assert warning["code"] == "small-groups"
    assert warning["subjects"] == ["SUB-0007"]
    assert warning["meaning"].startswith("1 of 7 subjects shares age in years and sex with fewer than 4 others;")
    assert "removing age in years" in warning["meaning"]
    # Moved dates can be compared with nothing outside; true ones can.
    full = Profile(options=frozenset({Option.RETAIN_LONGITUDINAL_FULL_DATES, Option.RETAIN_PATIENT_CHARACTERISTICS}))
    (warning,) = build_report(rows, dataclasses.replace(SETTINGS, profile=full))["warnings"]
    assert len(warning["subjects"]) == 7
    assert build_report(rows, dataclasses.replace(SETTINGS, smallest_cohort=1))["warnings"] == []


def test_rare_scanners_and_measures_are_warned_of() -> None:
    told = [{"scanner": "A", "weight": str(60 + number)} for number in range(6)]
    rows = cohort_rows(*told, {"scanner": "B", "weight": "66"}, {"scanner": "A", "weight": "190"})
    warnings = {one["code"]: one["subjects"] for one in build_report(rows, SETTINGS)["warnings"]}
    assert warnings == {"alone-scanner": ["SUB-0007"], "outlying-weight": ["SUB-0008"]}


# ---- the same bytes, and nothing of anybody


@given(outcomes(), st.randoms())
def test_the_order_of_the_outcomes_changes_nothing(rows: list[ExportRow], chance: random.Random) -> None:
    report = json.dumps(build_report(rows, SETTINGS))
    listed = checksum_list(rows)
    chance.shuffle(rows)
    assert (json.dumps(build_report(rows, SETTINGS)), checksum_list(rows)) == (report, listed)


def test_nothing_is_told_of_sources_or_headers(tmp_path: Path) -> None:
    """Sources, identities and all that files tell of their subjects hold a canary; what is told holds none."""
    facts = dict.fromkeys(("age", "sex", "site", "date", "scanner", "ethnic_group", "height", "weight"), CANARY)
    rows = [a_row(number, cohort=json.dumps(facts)) for number in range(20)] + [refused(20, "malformed")]
    rows[3] = dataclasses.replace(rows[3], cohort=json.dumps(facts | {"site": f"{CANARY} 2", "codes": CANARY}))
    assert CANARY in repr(rows[-1])
    write_report(tmp_path, rows, SETTINGS)
    assert json.loads((tmp_path / EXPORT_REPORT).read_bytes())["warnings"], "the facts were looked at"
    for name, content in papers(tmp_path).items():
        assert CANARY.casefold() not in content.decode().casefold(), name


def test_what_stays_the_same_is_not_written_again(tmp_path: Path) -> None:
    rows = [a_row(number) for number in range(4)]
    write_report(tmp_path, rows, SETTINGS)
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in EXPORT_PAPERS}
    first = papers(tmp_path)
    write_report(tmp_path, list(reversed(rows)), SETTINGS)
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in EXPORT_PAPERS} == before
    write_report(tmp_path, rows[:3], SETTINGS)
    assert all(content != first[name] for name, content in papers(tmp_path).items())
    withdraw_report(tmp_path)
    assert list(tmp_path.iterdir()) == []
    withdraw_report(tmp_path)


def test_a_folder_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / EXPORT_REPORT).mkdir()
    for act in (lambda: withdraw_report(tmp_path), lambda: write_report(tmp_path, [], SETTINGS)):
        with pytest.raises(WorkspaceError):
            act()


# ---- the list of checksums


def sha256sum(find: Callable[[str], str], export: Path) -> subprocess.CompletedProcess[bytes]:
    words = [find("sha256sum"), "--check", "--quiet", "--strict", EXPORT_CHECKSUMS]
    return subprocess.run(words, cwd=export, capture_output=True, check=False)


def test_the_real_command_finds_a_flipped_bit(tmp_path: Path, program: Callable[[str], str]) -> None:
    rows = []
    for number in range(30):
        row = a_row(number)
        path = tmp_path / row.target
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(number).randbytes(900))
        rows.append(dataclasses.replace(row, digest=hashlib.sha256(path.read_bytes()).hexdigest()))
    write_report(tmp_path, rows, SETTINGS)
    report = json.loads((tmp_path / EXPORT_REPORT).read_bytes())
    assert report["integrity"]["sha256"] == hashlib.sha256((tmp_path / EXPORT_CHECKSUMS).read_bytes()).hexdigest()
    page = (tmp_path / EXPORT_REPORT_PAGE).read_text("utf-8")
    assert hashlib.sha256((tmp_path / EXPORT_REPORT).read_bytes()).hexdigest() in page

    sound = sha256sum(program, tmp_path)
    assert (sound.returncode, sound.stdout) == (0, b""), sound.stderr
    said = subprocess.run(report["integrity"]["verify"], shell=True, cwd=tmp_path, capture_output=True, check=False)
    assert said.returncode == 0, said.stderr
    for one in report["series"]:
        words = report["integrity"]["verify_series"].replace("SERIES", one["folder"])
        said = subprocess.run(words, shell=True, cwd=tmp_path, capture_output=True, check=True)
        assert said.stdout.split()[0].decode() == one["sha256"], one["folder"]

    path = tmp_path / rows[17].target
    content = bytearray(path.read_bytes())
    content[450] ^= 1
    path.write_bytes(content)
    spoiled = sha256sum(program, tmp_path)
    assert spoiled.returncode == 1
    assert rows[17].target.encode() in spoiled.stdout
    assert len(spoiled.stdout.splitlines()) == 1


# ---- the page


class Page(HTMLParser):
    """Read a page as strictly as it was written: every element is closed where it has to be."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)


def whole(rows: list[ExportRow], settings: ReportSettings = SETTINGS) -> dict[str, Any]:
    report = build_report(rows, settings)
    report["integrity"]["sha256"] = "0" * 64
    return report


@given(outcomes(), st.integers(1, 6))
def test_the_page_is_well_formed_and_fetches_nothing(rows: list[ExportRow], smallest: int) -> None:
    text = render_page(whole(rows, dataclasses.replace(SETTINGS, smallest_cohort=smallest)), digest="1" * 64)
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert page.tags["html"] == page.tags["title"] == page.tags["h1"] == 1
    assert not page.tags.keys() & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "svg"}
    assert {name for _, name, _ in page.attributes} <= {"lang", "charset", "name", "content", "http-equiv", "class"}
    assert not re.search(r"https?:|url\(|@import|//", text)
    said = " ".join(page.text)
    for row in rows:
        assert row.reason.partition("+")[0] in said
    for sentence in whole(rows)["not_promised"]:
        assert sentence in said


def test_every_text_of_the_report_is_escaped() -> None:
    """Where a text could stand, one that would break the page is put: all of it must come out as text."""
    hostile = "<b title='\"'>&amp;--></style>"

    def spoil(value: Any) -> Any:
        if isinstance(value, dict):
            return {(name if name in looked_up else name + hostile): spoil(one) for name, one in value.items()}
        if isinstance(value, list):
            return [spoil(one) for one in value]
        return value + hostile if isinstance(value, str) else value

    rows = cohort_rows(*({"age": str(n), "scanner": str(n), "date": "2001-01"} for n in range(3)))
    rows += [dataclasses.replace(a_row(50), by_pydicom="deflated"), refused(51, "malformed")]
    looked_up = keys_of(whole(rows))
    page = Page(render_page(spoil(whole(rows)), digest=hostile))
    assert page.tags["b"] == 1, "only the one of the page itself"
    assert " ".join(page.text).count(hostile) > 50


def keys_of(value: Any) -> set[str]:
    """List the keys that the page looks up, as against those that are values: reasons, programs, files."""
    values = {"made_by", "tables", "read_by_pydicom", "alone", "outlying", "differing"}
    if isinstance(value, list):
        return set().union(*map(keys_of, value))
    if not isinstance(value, dict):
        return set()
    return {*value, *(key for name, one in value.items() if name not in values for key in keys_of(one))}
