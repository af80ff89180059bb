"""Dumps of many sites and days: each is sorted once, the newest first, and none stops or delays another."""

from __future__ import annotations

import datetime as dt
import re
import shutil
from pathlib import Path

import pytest

from tests.builders.world import make_dump, make_instance, write_instance
from tests.pipelines.command import Ended, digests, luigi, luigi_words, started, wait_until

DAYS = ("2026-03-01", "2026-03-02", "2026-03-03")
SITES = ("north", "south")
RANGE = ("--since", DAYS[0], "--until", DAYS[-1])
_LINE = re.compile(r"^(\w+), (\d{4}-\d\d-\d\d): ", re.MULTILINE)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Make three days of two sites, on one of which nothing came to the second site."""
    for site in SITES:
        for day in DAYS:
            if (site, day) != ("south", DAYS[1]):
                make_dump(tmp_path / "dump" / site / day)
    path = tmp_path / "study.toml"
    path.write_text(f'dump = "dump"\nworkspace = "w"\n[days]\nsites = ["{SITES[0]}", "{SITES[1]}"]\n')
    return path


def sort_days(study: Path, *words: str) -> Ended:
    return luigi("SortDays", "--study", study, *words, cwd=study.parent)


def sorted_days(ended: Ended) -> list[tuple[str, str]]:
    """List the sites and days that were sorted now, in their order."""
    return _LINE.findall(ended.err)


def tree_of(study: Path, site: str, day: str) -> dict[str, str]:
    return digests(study.parent / "workspace" / site / day / "identified" / "sorted")


def test_every_day_is_sorted_once_and_the_newest_first(study: Path) -> None:
    ended = sort_days(study, *RANGE)
    assert ended.code == 0, ended.said
    done = sorted_days(ended)
    assert sorted(done) == sorted((site, day) for site in SITES for day in DAYS if (site, day) != ("south", DAYS[1]))
    assert [day for _, day in done] == sorted((day for _, day in done), reverse=True)
    assert all(tree_of(study, site, day) for site, day in done)
    again = sort_days(study, *RANGE)
    assert again.code == 0, again.said
    assert again.said == ""


def test_a_day_that_comes_late_and_one_that_grows_are_taken_by_the_next_run(study: Path) -> None:
    assert sort_days(study, *RANGE).code == 0
    make_dump(study.parent / "dump" / "south" / DAYS[1])
    write_instance(study.parent / "dump" / "north" / DAYS[0] / "more", make_instance(1, 1, 1, 9))
    before = tree_of(study, "north", DAYS[0])
    ended = sort_days(study, *RANGE)
    assert ended.code == 0, ended.said
    assert sorted_days(ended) == [("south", DAYS[1]), ("north", DAYS[0])]
    assert before.items() < tree_of(study, "north", DAYS[0]).items()


def test_a_bad_day_stops_no_other_and_is_named(study: Path) -> None:
    (study.parent / "workspace" / "north").mkdir(parents=True)
    (study.parent / "workspace" / "north" / DAYS[2]).write_text("in the way")
    ended = sort_days(study, *RANGE)
    assert ended.code == 30
    assert "Traceback" not in ended.said
    (told,) = ended.lines_with("ERROR: ")
    assert told.startswith(f"ERROR: north, {DAYS[2]}: "), told
    assert len(sorted_days(ended)) == 4
    (study.parent / "workspace" / "north" / DAYS[2]).unlink()
    ended = sort_days(study, *RANGE)
    assert ended.code == 0, ended.said
    assert sorted_days(ended) == [("north", DAYS[2])]


def test_a_site_that_is_not_mounted_is_a_fault_and_no_empty_day(study: Path) -> None:
    shutil.move(study.parent / "dump" / "south", study.parent / "away")
    ended = sort_days(study, *RANGE)
    assert ended.code == 30
    assert len(ended.lines_with("may not be mounted")) == len(DAYS), ended.said
    assert {site for site, _ in sorted_days(ended)} == {"north"}
    shutil.move(study.parent / "away", study.parent / "dump" / "south")
    assert sort_days(study, *RANGE).code == 0


def test_the_nightly_run_does_not_wait_for_a_long_one(study: Path) -> None:
    """The long one is still at work when the nightly one, started later, has ended."""
    for number in range(40):
        day = dt.date(2025, 1, 1) + dt.timedelta(days=number)
        make_dump(study.parent / "dump" / "north" / day.isoformat())
    words = luigi_words("SortDays", "--study", study, "--since", "2025-01-01", "--until", "2025-12-31")
    with started(words, cwd=study.parent) as long_one:
        workspaces = study.parent / "workspace" / "north"
        wait_until(lambda: workspaces.exists() and any(workspaces.glob("2025-*")), what="the long one to begin")
        ended = sort_days(study, *RANGE)
        assert ended.code == 0, ended.said
        assert len(sorted_days(ended)) == 5
        assert long_one.poll() is None
        assert long_one.wait(timeout=120) == 0
    assert len([path for path in workspaces.glob("2025-*") if digests(path / "identified" / "sorted")]) == 40


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--since", "yesterday"), "'yesterday' is no day"),
        (("--since", "2026-03-02", "--until", "2026-03-01"), "2026-03-02 is behind 2026-03-01"),
        (("--site", "west"), "[days] does not name this site"),
    ],
)
def test_what_cannot_be_asked_is_told_in_one_sentence(words: tuple[str, ...], sentence: str, study: Path) -> None:
    ended = sort_days(study, *words)
    assert ended.code == 2
    assert ended.lines_with(sentence), ended.said
    assert "Traceback" not in ended.said


@pytest.mark.parametrize(
    "line", ['dump = "dump/{site}"', 'workspace = "w/{date}"', 'dump = "d/{site}/{date}/{x}"', 'sites = ["a", "a"]']
)
def test_places_that_would_mix_days_are_refused(line: str, tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    sites = "" if "sites" in line else 'sites = ["a"]'
    path.write_text(f'dump = "dump"\nworkspace = "w"\n[days]\n{sites}\n{line}\n')
    ended = luigi("SortDays", "--study", path, cwd=tmp_path)
    assert ended.code == 3, ended.said
    assert "days" in ended.said
