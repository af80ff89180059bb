"""Answers become findings by the thresholds, each where it should and nowhere else; remote text stays out."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.monitor.answer import (
    Answer,
    Array,
    Certificate,
    ClockOffset,
    Extra,
    FileCount,
    Inbox,
    Load,
    Memory,
    Mount,
    Port,
    ProcessCount,
    Service,
    SilentMount,
    TimeSync,
)
from tasks.monitor.calendar import Calendar, parse_window, zone_of
from tasks.monitor.dicom_echo import VERDICTS, Echo
from tasks.monitor.finding import Finding, Severity
from tasks.monitor.judge import (
    DiskLimit,
    InboxLimit,
    Past,
    Thresholds,
    judge_answer,
    judge_jump,
    judge_silence,
    size,
)
from tasks.monitor.ssh import KINDS, SshFault
from tests.monitor.test_answer import ANSWERS, read

NOW = datetime(2026, 3, 4, 20, tzinfo=UTC)
TB = 1e12
WELL = Answer(
    is_complete=True,
    boot_id="b1",
    uptime=864000.0,
    load=Load(one=1.0, five=1.0, fifteen=1.0),
    cores=8,
    memory=Memory(total=int(64e9), available=int(32e9), swap_total=0, swap_free=0, is_estimated=False),
    time_sync=TimeSync(is_synchronised=True, source="chrony"),
    mounts=(
        Mount(
            point="/data",
            type="xfs",
            device="8:1",
            is_network=False,
            is_read_only=False,
            wish="rw",
            size=int(4 * TB),
            used=int(2 * TB),
            available=int(2 * TB),
            inodes=1000,
            inodes_free=900,
        ),
    ),
)


def judged(answer: Answer, **more: Any) -> dict[tuple[str, str], Finding]:
    found = judge_answer(
        "perth", "mri-1", answer, more.pop("echoes", {}), more.pop("thresholds", Thresholds()),
        past=more.pop("past", Past()), now=NOW, **more,
    )  # fmt: skip
    return {(one.check, one.subject): one for one in found.findings}


def bad(answer: Answer, **more: Any) -> dict[tuple[str, str], tuple[str, str]]:
    return {
        key: (one.severity.name, one.code)
        for key, one in judged(answer, **more).items()
        if one.severity is not Severity.OK
    }


def _mount(**more: Any) -> Answer:
    return replace(WELL, mounts=(replace(WELL.mounts[0], **more),))


def test_a_healthy_machine_has_nothing_to_tell() -> None:
    assert bad(WELL, clock=ClockOffset(ahead=0.4, uncertainty=0.2)) == {}


@pytest.mark.parametrize(
    ("answer", "more", "expected"),
    [
        (_mount(used=int(3.5 * TB), available=int(0.5 * TB)), {}, {("disk", "/data"): ("WARNING", "disk-nearly-full")}),
        (_mount(used=int(3.9 * TB), available=int(0.1 * TB)), {}, {("disk", "/data"): ("CRITICAL", "disk-full")}),
        (
            WELL,
            {"thresholds": Thresholds(disks={"/data": DiskLimit(least_free=3 * TB)})},
            {("disk", "/data"): ("CRITICAL", "disk-full")},
        ),
        (_mount(inodes_free=30), {}, {("inodes", "/data"): ("CRITICAL", "inodes-full")}),
        (_mount(inodes=None, inodes_free=None), {}, {}),
        (_mount(is_read_only=True), {}, {("mount", "/data"): ("CRITICAL", "read-only")}),
        (_mount(is_read_only=True, wish="ro"), {}, {}),
        (
            _mount(is_read_only=True, wish=""),
            {"past": Past(fact=lambda name: "rw" if name == "mount /data" else "")},
            {("mount", "/data"): ("CRITICAL", "read-only")},
        ),
        (_mount(is_read_only=True, wish=""), {}, {}),
        (
            replace(WELL, silent_mounts=(SilentMount(point="/nas", type="nfs4", is_network=True, reason="stuck"),)),
            {},
            {("mount", "/nas"): ("CRITICAL", "mount-stuck")},
        ),
        (
            replace(WELL, memory=replace(WELL.memory, available=int(1e9))) if WELL.memory else WELL,
            {},
            {("memory", ""): ("WARNING", "memory")},
        ),
        (replace(WELL, load=Load(one=0, five=0, fifteen=17.0)), {}, {("load", ""): ("WARNING", "load")}),
        (WELL, {"clock": ClockOffset(ahead=-9.0, uncertainty=1.0)}, {("clock", ""): ("WARNING", "clock-wrong")}),
        (WELL, {"clock": ClockOffset(ahead=9.0, uncertainty=8.0)}, {}),
        (WELL, {"clock": ClockOffset(ahead=-1.7e9, uncertainty=1.0)}, {("clock", ""): ("CRITICAL", "clock-wrong")}),
        (
            replace(WELL, time_sync=TimeSync(is_synchronised=False, source="ntpd")),
            {},
            {("clock", "synchronisation"): ("WARNING", "not-synchronised")},
        ),
        (WELL, {"past": Past(fact=lambda name: "b0")}, {("reboot", ""): ("NOTICE", "restarted")}),
        (replace(WELL, needs_reboot=True), {}, {("reboot", ""): ("NOTICE", "needs-reboot")}),
        (
            replace(WELL, oom_kills=7),
            {"past": Past(course=lambda name, _: [(NOW - timedelta(days=1), 4.0)] if name == "oom-kills" else [])},
            {("memory", "kills"): ("WARNING", "oom-kill")},
        ),
        (replace(WELL, oom_kills=7), {}, {}),
        (
            replace(
                WELL,
                services=(
                    Service(name="docker", state="failed", detail="", restarts=0),
                    Service(name="orthanc", state="active", detail="", restarts=9),
                    Service(name="ssh", state="active", detail="", restarts=0),
                ),
                processes=(ProcessCount(text="storescp", count=0), ProcessCount(text="sshd", count=3)),
                ports=(Port(number=104, is_listening=False, is_loopback_only=False),
                       Port(number=4242, is_listening=True, is_loopback_only=True)),
                arrays=(Array(name="md0", level="raid1", state="degraded", members=2, working=1, progress=None),),
            ),
            {},
            {
                ("service", "docker"): ("CRITICAL", "failed"),
                ("service", "orthanc"): ("WARNING", "restarting"),
                ("process", "storescp"): ("CRITICAL", "process"),
                ("port", "104"): ("CRITICAL", "port-closed"),
                ("port", "4242"): ("WARNING", "port-local"),
                ("raid", "md0"): ("CRITICAL", "raid-degraded"),
            },
        ),
        (WELL, {"tries": 2}, {("ssh", ""): ("NOTICE", "answered-late")}),
        (replace(WELL, is_complete=False), {}, {("probe", ""): ("WARNING", "torn")}),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found_and_nothing_else(
    answer: Answer, more: dict[str, Any], expected: dict[tuple[str, str], tuple[str, str]]
) -> None:
    assert bad(answer, **more) == expected


def _inbox(*, state: str = "ok", failed: int = 0, **more: Any) -> Answer:
    waiting = FileCount(**{"state": state, "count": 5, "newest_age": 3600.0, "oldest_age": 7200.0, **more})
    return replace(WELL, inboxes=(Inbox(folder="/in", waiting=waiting, failed=FileCount(state="ok", count=failed)),))


@pytest.mark.parametrize(
    ("answer", "is_scan_day", "code"),
    [
        (_inbox(), True, "inbox"),
        (_inbox(newest_age=40 * 3600.0), True, "inbox-old"),
        (_inbox(newest_age=40 * 3600.0), False, "inbox"),
        (_inbox(count=0, newest_age=None, oldest_age=None), True, "inbox-empty"),
        (_inbox(count=500), True, "inbox-queue"),
        (_inbox(oldest_age=99 * 3600.0), True, "inbox-stuck"),
        (_inbox(failed=1), True, "inbox-failed"),
        (_inbox(state="unreadable"), True, "inbox-unreadable"),
    ],
)
def test_inboxes_are_judged_by_age_and_number(answer: Answer, code: str, *, is_scan_day: bool) -> None:
    limit = InboxLimit(name="inbox", newest_h=30.0, oldest_h=72.0, most_waiting=100)
    found = judged(answer, thresholds=Thresholds(inboxes={"/in": limit}), is_scan_day=is_scan_day)
    assert found["inbox", "inbox"].code == code


@pytest.mark.parametrize(("days", "severity"), [(90, "OK"), (20, "WARNING"), (3, "CRITICAL"), (-2, "CRITICAL")])
def test_certificates_are_told_in_time(days: int, severity: str) -> None:
    certificate = Certificate(path="/etc/own.pem", state="ok", expires=NOW + timedelta(days=days))
    found = judged(replace(WELL, certificates=(certificate,)))
    assert found["certificate", "/etc/own.pem"].severity.name == severity


def test_a_forecast_is_told_where_it_is_believed() -> None:
    course = [(NOW - timedelta(days=day), 3.2 * TB - day * 0.1 * TB) for day in range(14, 0, -1)]
    past = Past(course=lambda name, _: course if name == "disk.used" else [])
    found = judged(_mount(used=int(3.2 * TB), available=int(0.8 * TB)), past=past)["disk", "/data"]
    assert (found.severity, found.code) == (Severity.WARNING, "disk-soon-full")
    assert "full in 8 days at 100 GB a day" in found.text
    half = judged(_mount(used=int(2 * TB), available=int(2 * TB)), past=past)["disk", "/data"]
    assert half.severity is Severity.OK


@pytest.mark.parametrize("verdict", VERDICTS)
def test_only_an_answered_echo_is_well(verdict: str) -> None:
    found = judged(WELL, echoes={"PACS": Echo(verdict=verdict)})["pacs", "PACS"]
    assert (found.severity is Severity.OK) == (verdict == "ok")
    newer = judged(
        WELL,
        echoes={"PACS": Echo(verdict="ok", version="2")},
        past=Past(fact=lambda name: "1" if "PACS" in name else ""),
    )
    assert newer["pacs", "PACS"].code == "version-changed"


@pytest.mark.parametrize("kind", KINDS)
def test_every_way_of_not_answering_has_its_sentence(kind: str) -> None:
    found = judge_silence("perth", "mri-1", SshFault(kind, "connect", "SHA256:abc"), 3)
    assert found.code == kind
    assert found.text.startswith("cannot be reached over SSH: ")
    assert (found.severity is Severity.UNKNOWN) == (kind == "jump-failed")
    assert "3 machines" in judge_jump("perth", "gate", 3).text


def test_the_line_of_a_sites_own_check_is_shown_only_if_the_study_file_says_so() -> None:
    extra = Extra(command="check_backup", state="ok", code=2, line="CRITICAL: SMITH^JOHN not saved")
    for shown in (False, True):
        limits = Thresholds(extras={"check_backup": ("backup", shown)})
        found = judged(replace(WELL, extras=(extra,)), thresholds=limits)["extra", "backup"]
        assert found.severity is Severity.CRITICAL
        assert ("SMITH" in found.text) == shown


@given(st.floats(0, 1e18))
def test_sizes_can_be_read(count: float) -> None:
    number, unit = size(count).split(" ")
    assert unit in ("B", "kB", "MB", "GB", "TB")
    assert float(number) >= 0


# -- the calendar ------------------------------------------------------------------------------------------------------


def test_scans_are_expected_on_the_sites_own_days() -> None:
    perth = Calendar(zone=zone_of("Australia/Perth"), holidays="AU-WA")
    assert perth.is_scan_day(datetime(2026, 3, 4, tzinfo=UTC).date())
    assert not perth.is_scan_day(datetime(2026, 3, 7, tzinfo=UTC).date()), "a Saturday"
    assert not perth.is_scan_day(datetime(2026, 3, 2, tzinfo=UTC).date()), "Labour Day in Western Australia"
    assert Calendar(zone=zone_of("Australia/Sydney"), holidays="AU-NSW").is_scan_day(
        datetime(2026, 3, 2, tzinfo=UTC).date()
    )
    assert not Calendar(zone=zone_of("Asia/Taipei"), holidays="TW").is_scan_day(
        datetime(2026, 2, 17, tzinfo=UTC).date()
    )
    # Asked at 20:00 UTC on Friday it is four in the morning of Saturday there: the day that has ended was a Friday.
    assert perth.expects_scans(datetime(2026, 3, 6, 20, tzinfo=UTC))
    assert not perth.expects_scans(datetime(2026, 3, 7, 20, tzinfo=UTC))


@pytest.mark.parametrize(
    ("text", "zone", "moment", "is_within"),
    [
        ("sun 02:00-06:00", "Australia/Sydney", datetime(2026, 3, 7, 16, tzinfo=UTC), True),
        ("sun 02:00-06:00", "Australia/Brisbane", datetime(2026, 3, 7, 15, 30, tzinfo=UTC), False),
        # The clocks go forward at 02:00 on 4 October 2026: 15:59 and 16:00 UTC are 01:59 and 03:00 there.
        ("sun 02:00-03:00", "Australia/Sydney", datetime(2026, 10, 3, 15, 59, tzinfo=UTC), False),
        ("sun 02:00-03:00", "Australia/Sydney", datetime(2026, 10, 3, 16, 0, tzinfo=UTC), False),
        # They go back at 03:00 on 5 April 2026: 02:30 comes twice.
        ("sun 02:00-03:00", "Australia/Sydney", datetime(2026, 4, 4, 15, 30, tzinfo=UTC), True),
        ("sun 02:00-03:00", "Australia/Sydney", datetime(2026, 4, 4, 16, 30, tzinfo=UTC), True),
        ("sun 02:00-03:00", "Australia/Sydney", datetime(2026, 4, 4, 17, 30, tzinfo=UTC), False),
        ("sat 22:00-04:00", "UTC", datetime(2026, 3, 8, 3, tzinfo=UTC), True),
        ("sat 22:00-04:00", "UTC", datetime(2026, 3, 8, 4, tzinfo=UTC), False),
    ],
)
def test_maintenance_is_by_the_sites_own_clock(text: str, zone: str, moment: datetime, *, is_within: bool) -> None:
    calendar = Calendar(zone=zone_of(zone), maintenance=(parse_window(text),))
    assert calendar.is_in_maintenance(moment) == is_within


@pytest.mark.parametrize("system", sorted(path.stem for path in ANSWERS.iterdir()))
def test_the_answers_of_real_systems_are_judged_whole(system: str) -> None:
    answer = read(system)
    found = judged(answer, clock=ClockOffset(ahead=0.0, uncertainty=1.0))
    assert {subject for check, subject in found if check == "disk"} == {mount.point for mount in answer.mounts}
    assert {subject for check, subject in found if check == "service"} == {one.name for one in answer.services}
    assert all(one.text.endswith(".") and one.text == one.text.strip() for one in found.values())
