"""Answers of many systems are read rightly, and no bytes at all make the reader fail or tell more than was asked."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.monitor.answer import (
    MAXIMUM_BYTES,
    PROBLEMS,
    SECTIONS,
    Answer,
    clock_offset,
    harmless,
    is_finished,
    read_answer,
)
from tasks.monitor.probe import ExtraQuestion, InboxQuestion, Questions

ANSWERS = Path(__file__).with_name("answers")
SYSTEMS = sorted(path.stem for path in ANSWERS.glob("*.txt"))
NONCE = "0123456789abcdef"
QUESTIONS = Questions(
    services=("receiver.service", "watcher.service"),
    processes=("storescp", "sorter"),
    ports=(22, 11110),
    inboxes=(InboxQuestion(folder="/data/inbox", failed="/data/failed"),),
    certificates=("/etc/ssl/pacs.pem",),
    extras=(ExtraQuestion(command="check_queue"),),
)
CANARIES = ("DOE^JANE", "DOE", "JANE", "19610203", "AUTHORISED")


def answer_of(system: str) -> bytes:
    return (ANSWERS / f"{system}.txt").read_bytes()


def read(system: str, questions: Questions = QUESTIONS) -> Answer:
    return read_answer(answer_of(system), NONCE, questions)


def texts(record: object) -> Iterator[str]:
    """Every text anywhere in a record."""
    if isinstance(record, str):
        yield record
    elif dataclasses.is_dataclass(record):
        for field in dataclasses.fields(record):
            yield from texts(getattr(record, field.name))
    elif isinstance(record, tuple):
        for part in record:
            yield from texts(part)


def codes(answer: Answer) -> set[tuple[str, str]]:
    return {(problem.section, problem.code) for problem in answer.problems}


def test_there_are_answers_of_at_least_eight_systems() -> None:
    assert len(SYSTEMS) >= 8


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_whole_answer_is_complete_and_every_line_of_it_is_understood(system: str) -> None:
    answer = read(system)
    assert answer.is_complete
    assert {code for _, code in codes(answer)} <= {"tool-missing", "late"}
    assert answer.digest == "00112233445566ff"
    assert answer.started is not None
    assert int(answer.started) == 1795471200
    assert answer.uptime
    assert answer.cores
    assert answer.memory
    assert 0 < answer.memory.available <= answer.memory.total
    assert answer.mounts
    for mount in answer.mounts:
        assert 0 <= mount.used <= mount.size
        assert 0 <= mount.available <= mount.size
    assert is_finished(answer_of(system), NONCE)


@pytest.mark.parametrize(
    ("system", "kind", "name"),
    [
        ("centos-7", "linux", "CentOS Linux release 7.9.2009 (Core)"),
        ("rocky-9", "linux", "Rocky Linux 9.5 (Blue Onyx)"),
        ("ubuntu-18.04", "linux", "Ubuntu 18.04.6 LTS"),
        ("ubuntu-24.04", "linux", "Ubuntu 24.04.1 LTS"),
        ("debian-12", "linux", "Debian GNU/Linux 12 (bookworm)"),
        ("synology-dsm-7", "nas", "Synology DSM 7.2.2"),
        ("qnap-busybox", "nas", "QNAP QTS 4.3.3"),
        ("macos-14", "macos", "macOS 14.6.1"),
        ("windows-server-2022", "windows", "Microsoft Windows Server 2022 Standard"),
    ],
)
def test_the_system_is_named(system: str, kind: str, name: str) -> None:
    told = read(system).system
    assert told is not None
    assert (told.kind, told.name) == (kind, name)


def mounts_of(system: str) -> dict[str, tuple[str, int, int, int | None]]:
    return {mount.point: (mount.type, mount.size, mount.available, mount.inodes_free) for mount in read(system).mounts}


def test_mounts_are_read_from_stat() -> None:
    # /srv/export is a second place of /data's device; /mnt/archive is stuck.
    assert mounts_of("centos-7") == {
        "/": ("xfs", 13100800 * 4096, 4420112 * 4096, 52230104),
        "/boot": ("xfs", 259584 * 4096, 201033 * 4096, 523931),
        "/data": ("xfs", 4882808832 * 4096, 97656176 * 4096, 1920111002),
        "/srv/old scans": ("ext4", 480589544 * 4096, 95683834 * 4096, 121988112),
    }
    assert [(silent.point, silent.reason, silent.is_network) for silent in read("centos-7").silent_mounts] == [
        ("/mnt/archive", "stuck", True)
    ]


def test_what_is_kept_for_root_is_not_available_and_counts_as_df_counts_it() -> None:
    root = next(mount for mount in read("ubuntu-18.04").mounts if mount.point == "/")
    assert root.available == 0
    assert root.used == (57405440 - 2870272) * 4096
    assert root.used_fraction == 1.0
    assert root.inodes_used_fraction == 1.0


def test_mounts_are_read_from_df_where_stat_is_missing() -> None:
    assert mounts_of("synology-dsm-7") == {
        "/": ("ext4", 2385528 * 1024, 852776 * 1024, 118948),
        "/volume1": ("btrfs", 11244554752 * 1024, 1124455476 * 1024, None),
    }
    assert mounts_of("qnap-busybox") == {
        "/mnt/HDA_ROOT": ("ext3", 521684 * 1024, 372652 * 1024, None),
        "/share/MD0_DATA": ("ext4", 1918218320 * 1024, 38218320 * 1024, None),
        "/share/external/My Share": ("cifs", 976284628 * 1024, 476284628 * 1024, None),
    }
    assert mounts_of("macos-14") == {
        "/": ("apfs", 482797652 * 1024, 120000000 * 1024, 1200000000),
        "/System/Volumes/Data": ("apfs", 482797652 * 1024, 120000000 * 1024, 1200000000),
        "/Volumes/Scan Disk": ("apfs", 1953309696 * 1024, 1853309696 * 1024, 4294967267),
    }
    assert [silent.point for silent in read("macos-14").silent_mounts] == ["/Volumes/research"]


def test_mounts_of_windows_are_read() -> None:
    assert mounts_of("windows-server-2022") == {
        "C:\\": ("ntfs", 255953203200, 12797660160, None),
        "D:\\Scan Archive\\": ("refs", 4000000000000, 2000000000000, None),
    }


def test_blanks_tabs_and_backslashes_in_names_of_mounts_are_undone() -> None:
    # A tab has no place in a report, so it is shown as a blank; where it is wanted, the name is the study file's.
    assert "/net/back\\slash tab" in mounts_of("debian-12")
    wanted = dataclasses.replace(QUESTIONS, mounts=("/net/back\\slash\ttab", "/home", "/data"))
    answer = read("debian-12", wanted)
    points = {mount.point for mount in answer.mounts}
    assert "/net/back\\slash\ttab" in points
    # The wanted place of a device that is mounted twice is the one that is told.
    assert "/home" in points
    assert "/" not in points
    assert [(silent.point, silent.reason) for silent in answer.silent_mounts] == [("/data", "absent")]


def test_a_remount_is_seen_beside_what_fstab_wishes() -> None:
    def modes(system: str) -> dict[str, tuple[bool, str]]:
        return {mount.point: (mount.is_read_only, mount.wish) for mount in read(system).mounts}

    assert modes("rocky-9")["/data"] == (True, "rw")
    assert modes("centos-7")["/srv/old scans"] == (True, "rw")
    assert modes("ubuntu-24.04")["/media/atlas"] == (True, "ro")
    assert modes("macos-14")["/"] == (True, "")


def test_a_mount_that_fails_is_not_a_stuck_one() -> None:
    assert [(silent.point, silent.reason) for silent in read("ubuntu-24.04").silent_mounts] == [("/mnt/東京", "failed")]


@pytest.mark.parametrize(
    ("system", "means", "cores", "kills"),
    [
        ("centos-7", (3.15, 2.90, 2.75), 16, None),
        ("rocky-9", (0.10, 0.05, 0.01), 8, 3),
        ("ubuntu-18.04", (12.0, 11.5, 9.75), 4, 17),
        ("macos-14", (2.43, 2.10, 1.99), 10, None),
        ("windows-server-2022", None, 8, None),
    ],
)
def test_load_and_kills(system: str, means: tuple[float, float, float] | None, cores: int, kills: int | None) -> None:
    answer = read(system)
    assert (answer.load and (answer.load.one, answer.load.five, answer.load.fifteen)) == means
    assert answer.cores == cores
    assert answer.oom_kills == kills


def test_memory() -> None:
    centos, qnap, mac = (read(system).memory for system in ("centos-7", "qnap-busybox", "macos-14"))
    assert centos is not None
    assert qnap is not None
    assert mac is not None
    assert (centos.available, centos.is_estimated) == (40210032 * 1024, False)
    # Before Linux 3.14: what is free or can be given up, without what is shared memory.
    assert (qnap.available, qnap.is_estimated) == ((20000 + 40000 + 300000 + 10000 - 60000) * 1024, True)
    assert mac.available == (10000 + 300000 + 5000 + 1000) * 16384
    assert mac.swap_total == 2048 << 20


def test_starts() -> None:
    assert read("macos-14").uptime == pytest.approx(471200.812345)
    assert read("rocky-9").boot_id == "7f0a2d8e-55d2-4e0b-b8bb-1d6be3d3a0c7"
    reboots = {system: read(system).needs_reboot for system in SYSTEMS}
    assert [system for system, needed in reboots.items() if needed] == ["ubuntu-18.04", "windows-server-2022"]
    assert [system for system, needed in reboots.items() if needed is False] == ["ubuntu-24.04"]


def test_time_servers() -> None:
    told = {
        system: sync and (sync.is_synchronised, sync.source) for system in SYSTEMS if (sync := read(system).time_sync)
    }
    assert told == {
        "centos-7": (True, "chrony"),
        "debian-12": (True, "ntpd"),
        "macos-14": (None, ""),
        "qnap-busybox": (None, ""),
        "rocky-9": (False, "chrony"),
        "synology-dsm-7": (False, "ntpd"),
        "ubuntu-18.04": (True, "timedatectl"),
        "ubuntu-24.04": (True, "timedatectl"),
        "windows-server-2022": (False, "w32time"),
    }


def test_services() -> None:
    told = {
        system: [(service.state, service.detail, service.restarts) for service in read(system).services]
        for system in SYSTEMS
    }
    assert told == {
        "centos-7": [("active", "running", None), ("not-found", "", None)],
        "debian-12": [("active", "running", 0), ("unknown", "", None)],
        "macos-14": [("active", "", None), ("failed", "exit 78", None)],
        "qnap-busybox": [("active", "status 0", None), ("inactive", "status 3", None)],
        "rocky-9": [("starting", "auto-restart", 412), ("failed", "exit-code", 5)],
        "synology-dsm-7": [("active", "running", None), ("not-found", "", None)],
        "ubuntu-18.04": [("active", "exited", 0), ("inactive", "dead", None)],
        "ubuntu-24.04": [("active", "running", 2), ("inactive", "dead", 0)],
        "windows-server-2022": [("active", "Automatic", None), ("not-found", "", None)],
    }
    assert [service.name for service in read("centos-7").services] == list(QUESTIONS.services)


def test_processes_and_ports() -> None:
    assert [(found.text, found.count) for found in read("centos-7").processes] == [("storescp", 4), ("sorter", 0)]
    assert [found.count for found in read("debian-12").processes] == [None, None]
    told = {system: [(port.is_listening, port.is_loopback_only) for port in read(system).ports] for system in SYSTEMS}
    assert told == {
        "centos-7": [(True, False), (True, False)],
        "debian-12": [(False, False), (True, False)],
        "macos-14": [(True, False), (True, True)],
        "qnap-busybox": [(None, False), (None, False)],
        "rocky-9": [(True, False), (True, True)],
        "synology-dsm-7": [(True, False), (True, False)],
        "ubuntu-18.04": [(True, False), (False, False)],
        "ubuntu-24.04": [(True, False), (True, True)],
        "windows-server-2022": [(True, False), (True, True)],
    }


def test_arrays() -> None:
    told = {
        system: [(array.name, array.level, array.state, array.working, array.progress) for array in read(system).arrays]
        for system in SYSTEMS
    }
    assert told == {
        "centos-7": [("md127", "raid5", "degraded", 2, None)],
        "debian-12": [("md0", "raid1", "ok", 2, None)],
        "macos-14": [],
        "qnap-busybox": [("md0", "raid1", "ok", 2, None), ("md9", "raid1", "ok", 2, None)],
        "rocky-9": [("tank", "zfs", "degraded", None, None), ("scratch", "zfs", "ok", None, None)],
        "synology-dsm-7": [
            ("md2", "raid5", "ok", 4, None),
            ("md1", "raid1", "ok", 4, None),
            ("md0", "raid1", "ok", 4, None),
        ],
        "ubuntu-18.04": [
            ("md0", "raid1", "rebuilding", 1, 12.6),
            ("md1", "raid0", "ok", None, None),
            ("md9", "", "failed", None, None),
        ],
        "ubuntu-24.04": [],
        "windows-server-2022": [
            ("disk 0", "disk", "ok", None, None),
            ("disk 1", "disk", "degraded", None, None),
            ("disk 2", "disk", "failed", None, None),
        ],
    }


def test_a_mirror_that_is_no_nas_is_degraded_when_most_of_it_is_missing() -> None:
    content = answer_of("synology-dsm-7").replace(b'synology "7.2.2"\n', b"")
    assert [array.state for array in read_answer(content, NONCE, QUESTIONS).arrays] == ["ok", "degraded", "degraded"]


def test_inboxes() -> None:
    (inbox,) = read("centos-7").inboxes
    assert (inbox.folder, inbox.waiting.state, inbox.waiting.count, inbox.waiting.from_the_future) == (
        "/data/inbox",
        "ok",
        1523,
        2,
    )
    assert inbox.waiting.newest_age == pytest.approx(300, abs=1)
    assert inbox.waiting.oldest_age == pytest.approx(171200, abs=1)
    assert inbox.failed is not None
    assert inbox.failed.count == 7
    empty = read("rocky-9").inboxes[0]
    assert (empty.waiting.count, empty.waiting.newest_age, empty.failed and empty.failed.state) == (0, None, "absent")
    cut = read("ubuntu-18.04").inboxes[0]
    assert (cut.waiting.is_truncated, cut.waiting.is_partly_unreadable) == (True, False)
    assert cut.failed is not None
    assert cut.failed.state == "unreadable"
    assert read("debian-12").inboxes[0].waiting.is_partly_unreadable
    assert read("qnap-busybox").inboxes[0].waiting.state == "tool-missing"


def test_certificates() -> None:
    told = {system: [(found.state, found.expires) for found in read(system).certificates] for system in SYSTEMS}
    assert told == {
        "centos-7": [("ok", datetime(2026, 12, 1, 12, tzinfo=UTC))],
        "debian-12": [("ok", None)],
        "macos-14": [("ok", datetime(2027, 1, 15, tzinfo=UTC))],
        "qnap-busybox": [("tool-missing", None)],
        "rocky-9": [("unreadable", None)],
        "synology-dsm-7": [("tool-missing", None)],
        "ubuntu-18.04": [("absent", None)],
        "ubuntu-24.04": [("ok", datetime(2027, 6, 1, 10, tzinfo=UTC))],
        "windows-server-2022": [("ok", datetime(2027, 1, 1, tzinfo=UTC))],
    }


def test_commands_of_the_site() -> None:
    told = {system: [(extra.state, extra.code, extra.line) for extra in read(system).extras] for system in SYSTEMS}
    assert told == {
        "centos-7": [("ok", 1, "WARNING - 2 disks are hot")],
        "debian-12": [("ok", 0, "")],
        "macos-14": [("ok", 2, "CRITICAL")],
        "qnap-busybox": [("tool-missing", None, "")],
        "rocky-9": [("late", None, "")],
        "synology-dsm-7": [("ok", 3, "UNKNOWN")],
        "ubuntu-18.04": [("ok", 0, "OK: queue empty")],
        "ubuntu-24.04": [("ok", 127, "sh: 1: check_queue: not found")],
        "windows-server-2022": [("ok", 0, "正常")],
    }


def test_missing_programs_and_late_parts_are_said() -> None:
    assert codes(read("qnap-busybox")) == {
        (section, "tool-missing") for section in ("jobs", "time_sync", "ports", "processes")
    }
    assert codes(read("debian-12")) == {("processes", "tool-missing"), ("services", "late")}


# ---- what is not an answer, or not a whole one


@pytest.mark.parametrize("system", SYSTEMS)
def test_an_answer_torn_anywhere_is_known_to_be_torn_and_tells_nothing_else(system: str) -> None:
    content = answer_of(system)
    whole = read(system)
    end = content.rindex(b" done ") + len(b" done 1")
    for length in range(0, end, 37):
        torn = read_answer(content[: min(length, end - 2)], NONCE, QUESTIONS)
        assert not torn.is_complete
        assert not is_finished(content[:length], NONCE)
        assert {code for _, code in codes(torn)} & {"no-answer", "torn"}
        for name in ("boot_id", "uptime", "load", "cores", "oom_kills", "needs_reboot"):
            told = getattr(torn, name)
            assert told in (getattr(whole, name), None, "")
        # A torn list of mounts is never a list of stuck ones; and figures are whole or not there.
        assert {silent.point for silent in torn.silent_mounts} <= {silent.point for silent in whole.silent_mounts}
        assert {mount.available for mount in torn.mounts} <= {mount.available for mount in whole.mounts}


@pytest.mark.parametrize("section", SECTIONS)
def test_a_part_without_its_end_is_named(section: str) -> None:
    content = answer_of("centos-7").replace(f"{NONCE} end {section}\n".encode(), b"")
    answer = read_answer(content, NONCE, QUESTIONS)
    assert not answer.is_complete
    assert codes(answer) == {(section, "section-torn")}


@pytest.mark.parametrize("section", SECTIONS)
def test_a_part_that_is_missing_is_named(section: str) -> None:
    content = answer_of("centos-7").decode()
    without = re.sub(rf"{NONCE} section {section}\n.*?{NONCE} end {section}\n", "", content, flags=re.DOTALL)
    answer = read_answer(without.encode(), NONCE, QUESTIONS)
    assert not answer.is_complete
    assert codes(answer) == {(section, "section-missing")}


def test_noise_before_the_fence_changes_nothing_and_names_nobody() -> None:
    content = answer_of("rocky-9")
    noise = "Last login: DOE^JANE\n陳 大文 19610203\n".encode("big5") + b"\x1b[31m\x00\xff\xfe no line end here"
    assert read_answer(noise + content, NONCE, QUESTIONS) == read("rocky-9")


@pytest.mark.parametrize(
    "noise", [b"DOE^JANE 19610203", b"mount DOE^JANE", b"\xff\xfe\x00DOE", "東\u202eJANE".encode()]
)
@pytest.mark.parametrize("system", SYSTEMS)
def test_noise_between_the_lines_is_thrown_away(system: str, noise: bytes) -> None:
    lines = answer_of(system).split(b"\n")
    noisy = b"\n".join(part for line in lines for part in (line, noise))
    answer = read_answer(noisy, NONCE, QUESTIONS)
    assert "not-understood" in {code for _, code in codes(answer)} or noise.startswith(b"mount")
    told = " ".join(texts(answer))
    assert not [canary for canary in CANARIES if canary in told]
    assert dataclasses.replace(answer, problems=()) == dataclasses.replace(read(system), problems=())


@pytest.mark.parametrize("system", SYSTEMS)
def test_no_record_holds_what_stood_in_the_banner(system: str) -> None:
    told = " ".join(texts(read(system)))
    assert not [canary for canary in CANARIES if canary in told]


def test_the_answer_of_another_run_or_version_is_none() -> None:
    content = answer_of("centos-7")
    assert codes(read_answer(content, "f" * 16, QUESTIONS)) == {("", "no-answer")}
    other = content.replace(b" scanward 1 ", b" scanward 2 ")
    assert codes(read_answer(other, NONCE, QUESTIONS)) == {("", "other-version")}
    assert codes(read_answer(b"", NONCE, QUESTIONS)) == {("", "no-answer")}


def test_an_endless_answer_is_cut() -> None:
    content = answer_of("centos-7")
    endless = content[: content.rindex(b"section processes")] + b"section processes\n" + b"x" * MAXIMUM_BYTES
    answer = read_answer(endless, NONCE, QUESTIONS)
    assert ("", "too-large") in codes(answer)
    assert ("", "torn") in codes(answer)
    assert answer.mounts == read("centos-7").mounts


HOSTILE_LINES = [
    "9" * 5000,
    "mount 0 " + "9" * 100_000 + " rw xfs /",
    "value 0 " + " ".join(["9" * 4400] * 6),
    "value 0 -1 -1 -1 -1 -1 -1",
    "MemTotal: " + "9" * 4000 + " kB",
    "MemTotal: 0 kB",
    "loadavg nan inf 1e999",
    "uptime 1e400",
    "boottime { sec = 99999999999999999999 }",
    "cores 0",
    "certificate 0 until Foo 99 99:99:99 9999 GMT",
    "certificate 0 until epoch 999999999999",
    "certificate 0 until 9999-99-99T99:99:99",
    "certificate 0 until \u0663\u0663\u0663",
    "inbox 0 counted 1 2 3 4 5 6",
    "extra 0 999 \u202e\x1b]0;owned\x07<script>",
    "mdstat md0 : active raid1 [9999/0] resync = 999.9%",
    "mdstat md0 : ",
    "process 0 \u0661",
    "service \ud800",
    "zpool \tx",
    "hex GG:00",
    "netstat tcp 0 0 *.99999 *.* LISTEN",
    " " * 100_000 + "1 1 1 9% /",
    "Filesystem Inodes" + " 1" * 1000,
]


def framed(lines: list[str], sections: list[str]) -> bytes:
    text = f"{NONCE} scanward 1 00112233445566ff 1795471200\n"
    for section in sections:
        text += f"{NONCE} section {section}\n" + "\n".join(lines) + f"\n{NONCE} end {section}\n"
    return f"{text}{NONCE} done 1795471201\n".encode("utf-8", "surrogatepass")


@settings(deadline=None)
@given(st.binary(max_size=3000))
def test_any_bytes_give_a_record(content: bytes) -> None:
    answer = read_answer(content, NONCE, QUESTIONS)
    assert not answer.is_complete


WORDS = """mount value stuck failed Filesystem more missing late uname pretty loadavg cores MemTotal: kB wish rw ro
inbox certificate extra until counted 0 1 -1 f0 i0 4096 99999999999999999999 0.5 / /data \\040 xfs 8:1 50% - epoch
chrony mdstat md0 : active raid1 [2/1] recovery = hex 0100007F:0016 netstat listen process service initd windows
launchd-exit memsize boottime sec { } \u0661 \x00 \x1b[0m"""
words = st.sampled_from(WORDS.split())
lines = st.one_of(st.lists(words, max_size=9).map(" ".join), st.text(max_size=80), st.sampled_from(HOSTILE_LINES))


@settings(deadline=None)
@given(st.lists(lines, max_size=12), st.lists(st.sampled_from(SECTIONS), max_size=12))
def test_any_lines_between_the_fences_give_a_record_that_is_fit_to_show(said: list[str], sections: list[str]) -> None:
    answer = read_answer(framed(said, sections), NONCE, QUESTIONS)
    assert answer.is_complete == (set(sections) >= set(SECTIONS))
    for text in texts(answer):
        assert text == harmless(text, 200)
    for mount in answer.mounts:
        assert 0.0 <= mount.used_fraction <= 1.0
    assert {problem.code for problem in answer.problems} <= PROBLEMS.keys()


@pytest.mark.parametrize("system", SYSTEMS)
@settings(deadline=None)
@given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=20))
def test_an_answer_with_flipped_bytes_gives_a_record(system: str, flips: list[tuple[float, int]]) -> None:
    content = bytearray(answer_of(system))
    for place, value in flips:
        content[int(place * len(content))] = value
    for text in texts(read_answer(bytes(content), NONCE, QUESTIONS)):
        assert text == harmless(text, 200)


# ---- text and time


@settings(deadline=None)
@given(st.text(), st.integers(1, 50))
def test_harmless_text_is_one_short_line_without_anything_that_steers(text: str, limit: int) -> None:
    shown = harmless(text, limit)
    assert len(shown) <= limit
    assert shown == harmless(shown, limit)
    assert shown.isprintable()


def test_harmless_text_keeps_what_people_write() -> None:
    assert harmless("  Hôpital  臺北 <b>&amp;  ", 40) == "Hôpital 臺北 <b>&amp;"
    assert harmless("a\x1b[31mb\u202ec\r\nd\x00e\u2028f", 40) == "a [31mb c d e f"
    assert harmless("x" * 50, 10) == "x" * 9 + "…"


@settings(deadline=None)
@given(
    st.floats(-1e6, 1e6),
    st.floats(0, 60),
    st.floats(0, 60),
    st.floats(0, 60),
    st.booleans(),
)
def test_the_true_offset_of_a_clock_lies_within_its_bounds(
    ahead: float, there: float, probing: float, back: float, is_coarse: bool
) -> None:
    sent = 1_795_471_200.25
    started, ended = sent + there + ahead, sent + there + probing + ahead
    if is_coarse:
        started, ended = float(int(started)), float(int(ended))
    answer = Answer(is_complete=True, started=started, ended=ended)
    offset = clock_offset(answer, sent, sent + there + probing + back)
    assert offset is not None
    assert abs(offset.ahead - ahead) <= offset.uncertainty + 1e-5
    assert offset.uncertainty <= (there + back) / 2 + 1.0 + 1e-5


def test_a_clock_that_was_set_meanwhile_has_no_offset() -> None:
    assert clock_offset(Answer(is_complete=True, started=5.0, ended=3.0), 4.0, 5.0) is None
    assert clock_offset(Answer(is_complete=True), 4.0, 5.0) is None
