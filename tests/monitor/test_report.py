"""The report says what is wrong first, what changed, and that the rest is well; whatever machines write stays text."""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tasks.monitor.finding import Finding, Severity
from tasks.monitor.history import Night, Pardon, judge_nights
from tasks.monitor.report import MOST_ROWS, Occasion, Place, Report, build_report, draw_trend

GOLDEN = Path(__file__).parent / "golden" / "three-nights.txt"
FIRST = datetime(2026, 3, 1, 19, tzinfo=UTC)
PLACES = (
    Place(name="Perth", machines=("perth-1", "perth-2")),
    Place(name="Auckland", machines=("auckland-1",)),
    Place(name="台中", machines=("taichung-1", "taichung-2", "taichung-3")),
)
MACHINES = [name for place in PLACES for name in place.machines]


def finding(machine: str, check: str, subject: str, severity: Severity, text: str, *, code: str = "code") -> Finding:
    site = next((place.name for place in PLACES if machine in place.machines), "Perth")
    return Finding(site=site, machine=machine, check=check, subject=subject, severity=severity, code=code, text=text)


def night(number: int, *findings: Finding, down: tuple[str, ...] = (), is_cut_off: bool = False) -> Night:
    begun = FIRST + timedelta(days=number)
    found = list(findings)
    found += [
        finding(
            name, "ssh", "", Severity.CRITICAL, "cannot be reached over SSH: there was no answer in time (connect)."
        )
        for name in down
    ]
    return Night(
        number=number + 1,
        date=(begun + timedelta(hours=11)).date().isoformat(),
        begun=begun,
        is_cut_off=is_cut_off,
        asked=frozenset(MACHINES) - set(down),
        findings={one.key: one for one in found},
    )


def report(nights: list[Night], *, pardons: tuple[Pardon, ...] = (), **more: object) -> Report:
    last = nights[-1]
    occasion = Occasion(
        fleet="imaging",
        date=last.date,
        when=last.begun.astimezone(ZoneInfo("Australia/Melbourne")),
        places=PLACES,
        is_cut_off=last.is_cut_off,
        seconds=41.0,
        software="0.1.0",
    )
    return build_report(judge_nights(nights, pardons), replace(occasion, **more))  # type: ignore[arg-type]


FILLING = finding(
    "perth-1", "disk", "/data", Severity.WARNING, "/data is 88% full, 480 GB are left.", code="disk-nearly-full"
)
FULL = replace(
    FILLING, severity=Severity.CRITICAL, text="/data is 96% full, 160 GB are left; full in 2 to 3 days at 60 GB a day."
)
DEAF = finding("taichung-2", "pacs", "PACS", Severity.CRITICAL, "nothing listens on its port.", code="refused")
LATE = finding(
    "auckland-1", "ssh", "", Severity.NOTICE, "answered only when it was asked 2 times.", code="answered-late"
)


def test_three_nights_read_as_they_should() -> None:
    nights = [
        night(0, FILLING, DEAF),
        night(1, FULL, DEAF, LATE, down=("perth-2",)),
        night(2, FULL, down=("auckland-1",)),
    ]
    ordered = Pardon(
        kind="ack", machine="perth-1", check="disk", subject="", who="ann", why="a new disk is ordered",
        made=FIRST + timedelta(days=1, hours=2), until=FIRST + timedelta(days=9),
    )  # fmt: skip
    told = []
    for number in range(1, 4):
        made = report(nights[:number], pardons=(ordered,), notes=("Study: 3 series are not complete yet.",))
        told.append(f"Subject: {made.subject}\n\n{made.text}")
    text = "\n----\n".join(told)
    if os.environ.get("WRITE_GOLDEN"):
        GOLDEN.write_text(text, "utf-8")
    assert text == GOLDEN.read_text("utf-8")


def test_a_good_night_says_so_in_its_subject() -> None:
    made = report([night(0)])
    assert made.subject == "[imaging] all 6 well"
    assert made.worst is Severity.OK
    assert "Perth: all 2 machines are well" in made.text


def test_a_watch_without_a_network_raises_no_alarm() -> None:
    made = report([night(0, FULL), night(1, down=tuple(MACHINES), is_cut_off=True)])
    assert "NO NETWORK HERE" in made.subject
    assert made.worst is Severity.UNKNOWN
    assert "PROBLEMS" not in made.text


def test_what_is_muted_is_counted_and_not_in_the_subject() -> None:
    mute = Pardon(
        kind="mute", machine="perth-1", check="", subject="", who="ann", why="moving",
        made=FIRST - timedelta(days=1), until=FIRST + timedelta(days=9),
    )  # fmt: skip
    made = report([night(0, FULL)], pardons=(mute,))
    assert made.subject == "[imaging] all 6 well"
    assert "MUTED (1)" in made.text
    assert "moving" in made.text


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.data = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.data += data


@given(st.text(max_size=80), st.text(max_size=2000))
def test_what_a_machine_writes_stays_text(subject: str, text: str) -> None:
    hostile = finding("perth-1", "disk", subject, Severity.CRITICAL, f"<script>x</script>{text}")
    made = report([night(0, hostile)])
    parser = _Tags()
    parser.feed(made.html)
    assert "script" not in parser.tags
    assert "<script>" in parser.data
    assert all(letter.isprintable() or letter == "\n" for letter in made.text)
    assert max(len(line) for line in made.text.split("\n")) < 400
    rows = list(csv.DictReader(io.StringIO(made.csv.decode("utf-8"))))
    assert len(rows) == 1
    assert json.loads(made.json)["sites"]["Perth"][0]["subject"] == subject


def test_no_spreadsheet_takes_a_machines_words_for_a_formula() -> None:
    made = report([night(0, finding("perth-1", "extra", "=1+1", Severity.CRITICAL, "@SUM(A1)"))])
    (row,) = csv.DictReader(io.StringIO(made.csv.decode("utf-8")))
    assert (row["subject"], row["text"]) == ("'=1+1", "'@SUM(A1)")


@pytest.mark.parametrize("is_bad", [False, True])
def test_a_thousand_machines_make_a_mail_that_is_shown_whole(*, is_bad: bool) -> None:
    places = [
        Place(name=f"Site {number}", machines=tuple(f"m{number}-{one}" for one in range(4))) for number in range(250)
    ]
    machines = [name for place in places for name in place.machines]
    text = "/data is 96% full, 160 GB are left; full in 2 to 3 days at 60 GB a day. " * 3
    findings = [
        Finding(
            site=place.name,
            machine=name,
            check="disk",
            subject="/data",
            severity=Severity.CRITICAL,
            code="x",
            text=text,
        )
        for place in places
        for name in place.machines
    ]
    made_of = Night(
        number=1, date="2026-03-01", begun=FIRST, is_cut_off=False, asked=frozenset(machines),
        findings={one.key: one for one in findings} if is_bad else {},
    )  # fmt: skip
    trends = {one.key: [0.5 + 0.01 * step for step in range(30)] for one in findings}
    made = report([made_of], places=places, trends=trends)
    assert len(made.html.encode("utf-8")) < 100_000
    assert made.counts["machines"] == 1000
    if is_bad:
        assert f"and {1000 - MOST_ROWS} more" in made.text
        assert made.csv.count(b"\r\n") == 1001, "the attachment holds all"
        assert 0 < len(made.pictures) <= 30


@given(st.lists(st.floats(-1, 2), min_size=1, max_size=60))
def test_a_trend_is_a_small_picture_of_what_was_taken(shares: list[float]) -> None:
    picture = Image.open(io.BytesIO(content := draw_trend(shares)))
    assert picture.size == (120, 24)
    assert len(content) < 1500
    taken = [sum(picture.getpixel((column, row)) != 0 for row in range(24)) for column in (0, 119)]
    for count, share in zip(taken, (shares[0], shares[-1]), strict=True):
        assert count == pytest.approx(24 * min(max(share, 0), 1), abs=0.51)
