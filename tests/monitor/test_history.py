"""Whatever happens over the nights, a problem is new once, still there until it is gone, and gone once."""

from __future__ import annotations

import itertools
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.monitor.finding import Finding, Severity
from tasks.monitor.history import NIGHTS_KEPT, Change, History, Night, Pardon, State, judge_nights

FIRST = datetime(2026, 3, 1, 20, tzinfo=UTC)
KEY = ("mri-1", "disk", "/data")


def found(severity: Severity, machine: str = "mri-1", check: str = "disk", subject: str = "/data") -> Finding:
    return Finding(
        site="perth", machine=machine, check=check, subject=subject, severity=severity, code="disk-full", text="full."
    )


def night(number: int, severity: Severity | None, *, is_asked: bool = True, is_cut_off: bool = False) -> Night:
    findings = [found(severity)] if severity is not None else []
    if not is_asked:
        findings = [found(Severity.CRITICAL, check="ssh", subject="")]
    begun = FIRST + timedelta(days=number)
    return Night(
        number=number + 1,
        date=begun.date().isoformat(),
        begun=begun,
        is_cut_off=is_cut_off,
        asked=frozenset(["mri-1"] if is_asked else []),
        findings={one.key: one for one in findings},
    )


def told(nights: list[Night], key: tuple[str, str, str] = KEY) -> State | None:
    return next((state for state in judge_nights(nights) if state.finding.key == key), None)


CHANCE = st.sampled_from([None, Severity.OK, Severity.NOTICE, Severity.WARNING, Severity.CRITICAL, "silent", "cut off"])


def _night(number: int, what: Severity | str | None) -> Night:
    if isinstance(what, str):
        return night(number, None, is_asked=what != "silent", is_cut_off=what == "cut off")
    return night(number, what)


@given(st.lists(CHANCE, min_size=30, max_size=30))
@settings(max_examples=300)
def test_each_problem_is_new_once_then_still_there_and_gone_once(history: list[Severity | str | None]) -> None:
    nights = [_night(number, what) for number, what in enumerate(history)]
    is_there, begun, count = False, "", 0
    for number, what in enumerate(history):
        state = told(nights[: number + 1])
        if isinstance(what, str):
            if is_there:
                assert state is not None
                assert state.change is Change.UNKNOWN, "nobody could say that it is gone"
                assert state.since == begun
            else:
                assert state is None or state.change in (Change.NONE, Change.UNKNOWN)
            count += is_there and what == "silent"
            continue
        is_problem = what is not None and what.is_problem
        if is_problem:
            count += 1
            assert state is not None
            assert state.change is (Change.STILL if is_there else Change.NEW)
            begun = begun if is_there else nights[number].date
            assert (state.since, state.nights) == (begun, count)
        elif is_there:
            assert state is not None
            assert (state.change, state.since, state.nights) == (Change.RECOVERED, begun, count)
            count = 0
        else:
            assert state is None or state.change is Change.NONE
        is_there = is_problem


def test_a_machine_that_is_down_is_found_so_and_its_disks_are_unknown() -> None:
    nights = [night(0, Severity.CRITICAL), night(1, None, is_asked=False), night(2, Severity.CRITICAL)]
    states = {state.finding.check: state.change for state in judge_nights(nights[:2])}
    assert states == {"ssh": Change.NEW, "disk": Change.UNKNOWN}
    states = {state.finding.check: state.change for state in judge_nights(nights)}
    assert states == {"ssh": Change.RECOVERED, "disk": Change.STILL}


def test_a_night_without_a_network_changes_nothing() -> None:
    nights = [night(0, Severity.WARNING), night(1, None, is_asked=False, is_cut_off=True), night(2, Severity.WARNING)]
    assert [state.change for state in judge_nights(nights[:2])] == [Change.UNKNOWN]
    state = told(nights)
    assert state is not None
    assert (state.change, state.nights) == (Change.STILL, 2)


def test_what_grows_worse_says_what_it_was() -> None:
    state = told([night(0, Severity.WARNING), night(1, Severity.CRITICAL)])
    assert state is not None
    assert (state.change, state.was, state.finding.severity) == (Change.STILL, Severity.WARNING, Severity.CRITICAL)


def test_what_comes_and_goes_is_said_to() -> None:
    every_other = [night(number, Severity.WARNING if number % 2 else Severity.OK) for number in range(12)]
    state = told(every_other)
    assert state is not None
    assert state.is_flapping
    calm = [*every_other, *(night(12 + number, Severity.WARNING) for number in range(20))]
    state = told(calm)
    assert state is not None
    assert not state.is_flapping


@given(
    st.integers(0, 5),
    st.integers(0, 5),
    st.integers(-3, 8),
    st.sampled_from([*itertools.product((True, False), repeat=3)]),
)
def test_a_pardon_holds_for_its_time_and_for_what_it_names(
    made: int, length: int, at: int, named: tuple[bool, bool, bool]
) -> None:
    words = [word if is_named else "" for word, is_named in zip(KEY, named, strict=True)]
    begin = FIRST + timedelta(days=made)
    pardon = Pardon(
        kind="mute",
        machine=words[0],
        check=words[1],
        subject=words[2],
        who="ann",
        why="a new disk is ordered",
        made=begin,
        until=begin + timedelta(days=length),
    )
    moment = FIRST + timedelta(days=at)
    assert pardon.covers(KEY, moment) == (made <= at < made + length)
    assert not any(named) or not pardon.covers(("other", "other", "other"), begin)


# -- the file ----------------------------------------------------------------------------------------------------------


def _add(history: History, number: int, severity: Severity | None, *, date: str = "") -> int:
    begun = FIRST + timedelta(days=number)
    return history.add_night(
        date=date or begun.date().isoformat(),
        begun=begun,
        software="0",
        is_cut_off=False,
        machines={"mri-1": severity is not None, "mri-2": True},
        findings=[found(severity)] if severity is not None else [found(Severity.CRITICAL, check="ssh", subject="")],
        observations={("mri-1", "disk.used", "/data"): float(number)},
        facts={("mri-1", "boot"): f"boot {number // 2}"},
    )


def test_nights_come_back_as_they_were(tmp_path: Path) -> None:
    with History(tmp_path / "nights.db") as history:
        for number, severity in enumerate([Severity.OK, Severity.WARNING, None, Severity.CRITICAL]):
            assert _add(history, number, severity) == number + 1
        history.pardon(
            Pardon(
                kind="ack",
                machine="mri-1",
                check="disk",
                subject="",
                who="ann",
                why="ordered",
                made=FIRST,
                until=FIRST + timedelta(days=30),
            )
        )
    with History(tmp_path / "nights.db") as history:
        nights = history.nights()
        assert [one.date for one in nights] == ["2026-03-01", "2026-03-02", "2026-03-03", "2026-03-04"]
        assert nights[2].asked == {"mri-2"}
        states = judge_nights(nights, history.pardons())
        assert [(one.finding.check, one.change.value) for one in states] == [("disk", "STILL"), ("ssh", "RECOVERED")]
        assert states[0].pardon is not None
        assert states[0].nights == 3
        assert [value for _, value in history.course("mri-1", "disk.used", "/data")] == [0, 1, 2, 3]
        assert [value for _, value in history.course("mri-1", "disk.used", "/data", until=2)] == [0, 1]
        assert history.last_fact("mri-1", "boot") == "boot 1"
        assert history.last_fact("mri-2", "boot") == ""
        past = history.nights(date="2026-03-02")
        assert [(one.finding.check, one.change.value) for one in judge_nights(past)] == [("disk", "NEW")]
        assert history.nights(date="2026-02-28") == []


def test_two_runs_of_one_day_are_two_nights(tmp_path: Path) -> None:
    with History(tmp_path / "nights.db") as history:
        _add(history, 0, Severity.WARNING)
        _add(history, 1, Severity.WARNING, date="2026-03-01")
        assert [one.number for one in history.nights(date="2026-03-01")] == [1, 2]


def test_old_nights_go_and_a_night_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    with History(tmp_path / "nights.db") as history:
        for number in range(NIGHTS_KEPT + 5):
            _add(history, number, Severity.OK)
        assert len(history.nights(most=1000)) == NIGHTS_KEPT
        assert len(history.course("mri-1", "disk.used", "/data")) == NIGHTS_KEPT
        before = history.nights()
        with pytest.raises(sqlite3.Error):
            history.add_night(
                date="2027-01-01", begun=FIRST, software="0", is_cut_off=False, machines={"a": True},
                findings=[found(Severity.OK)], observations={("a", "b", "c"): None}, facts={},  # type: ignore[dict-item]
            )  # fmt: skip
        assert history.nights() == before
