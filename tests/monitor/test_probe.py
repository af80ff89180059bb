"""The real probe in three real shells: on full, stuck, read-only and bare machines, and with hostile settings."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pygments.lexers import PowerShellLexer
from pygments.token import Token

from tasks.monitor.answer import SECTIONS, Answer, is_finished, read_answer
from tasks.monitor.probe import (
    ExtraQuestion,
    InboxQuestion,
    Questions,
    installed_probe,
    posix_probe,
    questions_digest,
    windows_command,
    windows_probe,
)
from tests.builders.disks import NOBODY, tiny_disk
from tests.monitor.bad_mounts import automount_trap, dead_server, mount_dead

NONCE = "0123456789abcdef0123456789abcdef"
SHELLS = {"dash": ["dash"], "bash": ["bash", "--posix"], "busybox": ["busybox", "sh"]}
PATIENT = "DOE^JANE_19610203"
LONG = 1_000_000 + os.getpid()
"""Seconds of a sleep that only this process's tests begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    content: bytes
    stderr: bytes
    answer: Answer


def listen(command: Sequence[str], text: bytes, questions: Questions, *, pass_fds: Sequence[int] = ()) -> Told:
    """Run the probe as the watch does: until the last fence, and not until the last of its children is gone."""
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
        pass_fds=pass_fds,
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(text)
            process.stdin.close()
        content = b""
        try:
            while not is_finished(content, NONCE):
                assert select.select([process.stdout], [], [], 120)[0], "the probe hangs"
                part = os.read(process.stdout.fileno(), 1 << 16)
                if not part:
                    break
                content += part
            assert process.wait(timeout=60) == 0
            stderr = os.read(process.stderr.fileno(), 1 << 16) if select.select([process.stderr], [], [], 0)[0] else b""
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return Told(content=content, stderr=stderr, answer=read_answer(content, NONCE, questions))


@pytest.fixture(params=sorted(SHELLS))
def shell(request: pytest.FixtureRequest, program: Callable[[str], str]) -> list[str]:
    words = SHELLS[request.param]
    return [program(words[0]), *words[1:], "-s"]


@pytest.fixture
def dash(program: Callable[[str], str]) -> list[str]:
    return [program("dash"), "-s"]


def ask(shell: Sequence[str], questions: Questions, *, pass_fds: Sequence[int] = ()) -> Told:
    told = listen(shell, posix_probe(questions, NONCE), questions, pass_fds=pass_fds)
    assert told.answer.is_complete, told.content.decode(errors="replace")
    assert told.stderr == b""
    assert {problem.code for problem in told.answer.problems} <= {"tool-missing", "late"}, told.content.decode()
    return told


def in_own_mounts(shell: Sequence[str], *preparations: str) -> list[str]:
    """Return a command that runs a shell after mounts were changed that only it can see."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("only root may change the mounts that this test changes")
    return ["unshare", "-m", "bash", "-e", "-c", "\n".join([*preparations, 'exec "$@"']), "bash", *shell]


def tool(folder: Path, name: str, text: str) -> Path:
    """Write a program that stands in for one of the machine's."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


# ---- a machine as it should be


def test_it_tells_what_the_kernel_tells(shell: list[str]) -> None:
    told = ask(shell, Questions(mounts=("/",))).answer
    assert told.system is not None
    assert told.system.kind == "linux"
    assert told.system.kernel == f"Linux {os.uname().release}"
    assert told.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert told.cores == os.cpu_count() or told.cores == len(os.sched_getaffinity(0))
    assert told.load is not None
    assert told.uptime is not None
    assert told.uptime > 0
    assert told.memory is not None
    assert told.memory.total == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert told.oom_kills is not None
    assert told.started is not None
    assert told.ended is not None
    assert told.started <= told.ended
    assert told.digest == questions_digest(Questions(mounts=("/",)))
    (root,) = told.mounts
    reference = os.statvfs("/")
    assert root.size == reference.f_blocks * reference.f_frsize
    assert root.inodes == (reference.f_files or None)


def test_every_word_of_an_unhappy_machine_is_still_an_answer(shell: list[str]) -> None:
    questions = Questions(
        mounts=("/nowhere",),
        services=("no-such-service", "-v", "../../bin/true"),
        processes=("no such process",),
        ports=(1,),
        inboxes=(InboxQuestion(folder="/nowhere", failed="/etc/passwd"),),
        certificates=("/nowhere", "/etc/passwd"),
        extras=(ExtraQuestion(command="no-such-command"), ExtraQuestion(command="'"), ExtraQuestion(command="exit 3")),
    )
    answer = ask(shell, questions).answer
    assert [(silent.point, silent.reason) for silent in answer.silent_mounts] == [("/nowhere", "absent")]
    assert [process.count for process in answer.processes] == [0]
    assert answer.inboxes[0].waiting.state == "absent"
    assert answer.inboxes[0].failed is not None
    assert answer.inboxes[0].failed.state == "unreadable"
    assert [certificate.state for certificate in answer.certificates] == ["absent", "unreadable"]
    assert [extra.code for extra in answer.extras] == [127, 2, 3]


# ---- disks


@pytest.mark.parametrize("name", ["disk", "scan disk", "a\\b\tc", "臺北 100%", "-x", "a'b\"c$HOME"])
def test_a_nearly_full_disk_is_measured_under_any_name(shell: list[str], tmp_path: Path, name: str) -> None:
    with tiny_disk(tmp_path / name, kilobytes=1024) as disk:
        (disk / PATIENT).write_bytes(bytes(960 << 10))
        told = ask(shell, Questions(mounts=(str(disk),)))
        reference = os.statvfs(disk)
        (mount,) = told.answer.mounts
    assert told.answer.silent_mounts == ()
    assert (mount.point, mount.type, mount.is_read_only) == (str(disk), "tmpfs", False)
    assert mount.size == 1 << 20
    assert mount.available == reference.f_bavail * reference.f_frsize <= 64 << 10
    assert mount.used_fraction > 0.9
    assert (mount.inodes, mount.inodes_free) == (reference.f_files, reference.f_favail)
    assert PATIENT.encode() not in told.content


def test_disks_of_memory_and_images_are_not_asked_unless_they_are_wanted(shell: list[str], tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk") as disk:
        points = {mount.point for mount in ask(shell, Questions()).answer.mounts}
        assert str(disk) not in points
        assert not {point for point in points if point.startswith(("/proc", "/sys", "/dev", "/run"))}


def test_a_second_place_of_a_disk_is_dropped_and_the_topmost_of_a_pile_is_measured(
    shell: list[str], tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    shell = in_own_mounts(
        shell,
        f"mount -t tmpfs -o size=64k lower {first}",
        f"mount -t tmpfs -o size=128k upper {first}",
        f"mount --bind {first} {second}",
    )
    wanted = ask(shell, Questions(mounts=(str(first),))).answer.mounts
    assert [(mount.point, mount.size) for mount in wanted] == [(str(first), 128 << 10)]


def test_a_read_only_machine_is_measured_and_nothing_is_written_to_it(shell: list[str], tmp_path: Path) -> None:
    shell = in_own_mounts(shell, "mount -o remount,bind,ro /")
    answer = ask(shell, Questions(extras=(ExtraQuestion(command="touch /scanward 2>/dev/null || echo cannot"),))).answer
    assert [mount.is_read_only for mount in answer.mounts if mount.point == "/"] == [True]
    assert answer.extras[0].line == "cannot"


def test_without_stat_it_asks_df(dash: list[str], tmp_path: Path) -> None:
    broken = tool(tmp_path, "broken", "exit 1")
    with tiny_disk(tmp_path / "scan disk", kilobytes=1024) as disk:
        (disk / "file").write_bytes(bytes(512 << 10))
        reference = ask(dash, Questions(mounts=(str(disk),)))
        command = in_own_mounts(dash, f"mount --bind {broken} /usr/bin/stat")
        told = ask(command, Questions(mounts=(str(disk),)))
    assert b"\nFilesystem " in told.content
    assert told.answer.mounts == reference.answer.mounts


# ---- mounts that hang


@pytest.mark.parametrize("is_deadly", [False, True])
def test_a_dead_mount_takes_nothing_else_with_it(shell: list[str], tmp_path: Path, is_deadly: bool) -> None:
    questions = Questions(
        mounts=("/", str(tmp_path / "dead")),
        inboxes=(InboxQuestion(folder=str(tmp_path / "dead"), seconds=1),),
        certificates=(str(tmp_path / "dead" / "certificate.pem"),),
        extras=(
            ExtraQuestion(command=f"ls {tmp_path}/dead", seconds=1),
            ExtraQuestion(command="echo fine; exit 1", seconds=5),
        ),
    )
    (tmp_path / "dead").mkdir()
    with dead_server(is_deadly=is_deadly) as server:
        command = in_own_mounts(shell, *mount_dead(server, tmp_path / "dead"))
        answer = ask(command, questions, pass_fds=(server,)).answer
    assert [(silent.point, silent.reason, silent.is_network) for silent in answer.silent_mounts] == [
        (str(tmp_path / "dead"), "stuck", True)
    ]
    assert [mount.point for mount in answer.mounts] == ["/"]
    assert answer.inboxes[0].waiting.state == "late"
    assert answer.certificates[0].state == "late"
    assert [(extra.state, extra.line) for extra in answer.extras] == [("late", ""), ("ok", "fine")]


def test_an_automount_point_is_never_touched_even_if_it_is_wanted(shell: list[str], tmp_path: Path) -> None:
    with automount_trap(tmp_path / "trap") as visitors:
        for mounts in ((), (str(tmp_path / "trap"),)):
            ask(shell, Questions(mounts=mounts))
        assert not select.select([visitors], [], [], 0)[0]
        # The trap is known to snap.
        with subprocess.Popen(["stat", "-f", str(tmp_path / "trap")], start_new_session=True) as visitor:
            assert select.select([visitors], [], [], 60)[0]
            visitor.kill()


# ---- inboxes


def test_ten_thousand_files_are_counted_and_none_is_named(shell: list[str], tmp_path: Path) -> None:
    inbox, failed = tmp_path / "in box", tmp_path / "failed"
    for folder in (inbox, failed):
        (folder / PATIENT / "deep" / "too deep").mkdir(parents=True)
    now = datetime.now(UTC).timestamp()
    for number in range(10_000):
        path = inbox / f"{PATIENT}_{number}.dcm"
        path.touch()
        os.utime(path, (now, now - 1000 - number))
    (inbox / PATIENT / "deep" / f"{PATIENT}\n1 2 3").touch()
    os.utime(inbox / PATIENT / "deep" / f"{PATIENT}\n1 2 3", (now, now - 500))
    (inbox / PATIENT / "deep" / "too deep" / "file").touch()
    (inbox / f"{PATIENT} of tomorrow").touch()
    os.utime(inbox / f"{PATIENT} of tomorrow", (now, now + 86_400))
    (failed / PATIENT / "file").touch()
    questions = Questions(inboxes=(InboxQuestion(folder=str(inbox), failed=str(failed), seconds=60),), seconds=100)
    told = ask(shell, questions)
    (answered,) = told.answer.inboxes
    assert answered.waiting.state == "ok"
    assert (answered.waiting.count, answered.waiting.from_the_future) == (10_002, 1)
    assert answered.waiting.newest_age is not None
    assert answered.waiting.oldest_age is not None
    assert 499 <= answered.waiting.newest_age <= 800
    assert 10_998 <= answered.waiting.oldest_age <= 11_300
    assert not answered.waiting.is_truncated
    assert answered.failed is not None
    assert answered.failed.count == 1
    for part in (PATIENT, "DOE", "JANE", "19610203"):
        assert part.encode() not in told.content


def test_a_count_that_takes_too_long_is_told_as_far_as_it_came(tmp_path: Path, program: Callable[[str], str]) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    for number in range(7):
        (inbox / f"{number}").touch()
    real = program("find")
    shutil.copy(real, tmp_path / "real-find")
    slow = tool(
        tmp_path,
        "slow-find",
        f'{tmp_path}/real-find "$@" || exit\ncase $1 in {inbox}/) exec sleep 600 ;; esac',
    )
    command = in_own_mounts(["dash", "-s"], f"mount --bind {slow} {real}")
    answer = ask(command, Questions(inboxes=(InboxQuestion(folder=str(inbox), seconds=1),))).answer
    assert (answer.inboxes[0].waiting.count, answer.inboxes[0].waiting.is_truncated) == (7, True)


def test_a_folder_that_may_not_be_read_is_said_to_be_so(shell: list[str]) -> None:
    if os.geteuid() == 0:
        shell = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *shell]
    with tempfile.TemporaryDirectory(prefix="scanward-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "closed").mkdir(mode=0)
        (folder / "open" / "closed").mkdir(parents=True)
        (folder / "open" / "file").touch()
        (folder / "open" / "closed").chmod(0)
        questions = Questions(
            inboxes=(InboxQuestion(folder=str(folder / "closed")), InboxQuestion(folder=str(folder / "open")))
        )
        closed, partly = ask(shell, questions).answer.inboxes
        for path in (folder / "closed", folder / "open" / "closed"):
            path.chmod(0o700)
    assert closed.waiting.state == "unreadable"
    assert (partly.waiting.state, partly.waiting.count, partly.waiting.is_partly_unreadable) == ("ok", 1, True)


# ---- processes, ports, services, certificates


def test_processes_are_counted_by_plain_text_and_the_probe_does_not_count_itself(shell: list[str]) -> None:
    words = ["sleep.*[0-9] 'x' $(id) 1", "no-such-process-anywhere"]
    code = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, words[0]], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdin
        process.stdout.readline()
        told = ask(shell, Questions(processes=tuple(words)))
        process.stdin.close()
    assert [found.count for found in told.answer.processes] == [1, 0]
    # A command line can hold a patient's name: only the number leaves the machine.
    assert b"python" not in told.content


def test_listening_ports_are_told(shell: list[str]) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as near,
        socket.create_server(("0.0.0.0", 0)) as far,
        socket.socket() as shut,
    ):
        shut.bind(("127.0.0.1", 0))  # taken, and nobody listens
        numbers = tuple(end.getsockname()[1] for end in (near, far, shut))
        ports = ask(shell, Questions(ports=numbers)).answer.ports
    assert [(port.is_listening, port.is_loopback_only) for port in ports] == [
        (True, True),
        (True, False),
        (False, False),
    ]


def test_services_are_asked_of_systemd_where_it_runs(tmp_path: Path) -> None:
    systemctl = tool(
        tmp_path,
        "systemctl",
        'for fact in LoadState=loaded ActiveState=failed SubState=failed NRestarts=3 "Asked=$*"; do echo "$fact"; done',
    )
    command = in_own_mounts(
        ["dash", "-s"],
        "mount -t tmpfs none /run",
        "mkdir -p /run/systemd/system",
        "mount -t tmpfs none /usr/local/sbin",
        f"cp {systemctl} /usr/local/sbin/systemctl",
        f"[ ! -e /usr/bin/systemctl ] || mount --bind {systemctl} /usr/bin/systemctl",
    )
    questions = Questions(services=("scan receiver@1.service",))
    told = ask(command, questions)
    assert b"-- scan receiver@1.service" in told.content
    assert [(found.state, found.restarts) for found in told.answer.services] == [("failed", 3)]


def test_a_service_manager_that_hangs_is_left_behind(tmp_path: Path) -> None:
    systemctl = tool(tmp_path, "systemctl", f"trap '' TERM\nsleep {LONG} | sleep {LONG}")
    command = in_own_mounts(
        ["dash", "-s"],
        "mount -t tmpfs none /run",
        "mkdir -p /run/systemd/system",
        "mount -t tmpfs none /usr/local/sbin",
        f"cp {systemctl} /usr/local/sbin/systemctl",
        f"[ ! -e /usr/bin/systemctl ] || mount --bind {systemctl} /usr/bin/systemctl",
    )
    answer = ask(command, Questions(services=("receiver",))).answer
    assert [found.state for found in answer.services] == ["unknown"]
    assert ("services", "late") in {(problem.section, problem.code) for problem in answer.problems}
    assert f"sleep {LONG}" not in running()


def running() -> str:
    """Return the command lines of all processes."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return "\n".join(lines)


def test_certificates_are_read_on_the_machine(shell: list[str], tmp_path: Path, program: Callable[[str], str]) -> None:
    path = tmp_path / "pacs certificate.pem"
    subprocess.run(
        [
            *(
                program("openssl"),
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
            ),
            *("-days", "30", "-subj", f"/CN={PATIENT}", "-keyout", path, "-out", tmp_path / "only.pem"),
        ],
        check=True,
        capture_output=True,
    )
    with path.open("a") as both:
        both.write((tmp_path / "only.pem").read_text())
    told = ask(shell, Questions(certificates=(str(path),)))
    (certificate,) = told.answer.certificates
    assert certificate.state == "ok"
    assert certificate.expires is not None
    assert timedelta(days=29) < certificate.expires - datetime.now(UTC) <= timedelta(days=30)
    assert b"PRIVATE" not in told.content
    assert PATIENT.encode() not in told.content


# ---- commands of the site


def test_commands_give_their_code_and_first_line_however_much_they_say(shell: list[str]) -> None:
    commands = {
        "echo; echo '  WARNING:  x '; echo more; exit 1": ("ok", 1, "WARNING: x"),
        "printf 'no line end'; exit 2": ("ok", 2, "no line end"),
        "echo on stderr >&2": ("ok", 0, "on stderr"),
        "printf '\\033[31m\\377\\tred'; exit 4": ("ok", 4, "[31m\ufffd red"),
        "head -c 3000000 /dev/zero | tr '\\0' 'y'": ("ok", 0, "y" * 199 + "…"),
        "cat": ("ok", 0, ""),
        f"echo '{NONCE[:16]} done'": ("ok", 0, f"{NONCE[:16]} done"),
    }
    extras = tuple(ExtraQuestion(command=command) for command in commands)
    answer = ask(shell, Questions(extras=extras)).answer
    told = {extra.command: (extra.state, extra.code, extra.line) for extra in answer.extras}
    assert told == commands
    (killed,) = ask(shell, Questions(extras=(ExtraQuestion(command="kill -9 $$"),))).answer.extras
    assert killed.code == 137


def test_a_command_that_hangs_is_killed_with_all_that_it_started(shell: list[str]) -> None:
    command = f"echo first; sleep {LONG} & (sleep {LONG}; true) | cat; true"
    answer = ask(shell, Questions(extras=(ExtraQuestion(command=command, seconds=1),))).answer
    assert [(extra.state, extra.code) for extra in answer.extras] == [("late", None)]
    assert f"sleep {LONG}" not in running()


def test_the_whole_answer_is_due_in_time_even_if_everything_hangs(shell: list[str]) -> None:
    extras = tuple(ExtraQuestion(command=f"sleep {LONG}", seconds=600) for _ in range(5))
    told = ask(shell, Questions(extras=extras, seconds=2)).answer
    assert [extra.state for extra in told.extras] == ["late"] * 5
    assert f"sleep {LONG}" not in running()


# ---- machines that have next to nothing


@pytest.fixture
def bare_root(tmp_path: Path, program: Callable[[str], str]) -> Callable[[str], list[str]]:
    """Give a function that makes a machine with a few words of busybox and nothing else."""

    def make(applets: str) -> list[str]:
        root = tmp_path / "root"
        for folder in ("bin", "etc", "proc", "dev", "data"):
            (root / folder).mkdir(parents=True)
        shutil.copy(program("busybox"), root / "bin" / "busybox")
        for applet in applets.split():
            (root / "bin" / applet).symlink_to("busybox")
        (root / "data" / PATIENT).touch()
        (root / "etc" / "fstab").write_text(
            f"# {PATIENT}\n//nas/x /data cifs username={PATIENT},password=secret,rw 0 0\n/dev/x /y\\040z ext4 ro 0 0\n"
        )
        return in_own_mounts(
            ["chroot", str(root), "/bin/sh", "-s"], f"mount -t proc proc {root}/proc", f"mount --bind /dev {root}/dev"
        )

    return make


BARE = Questions(
    mounts=("/proc",),
    processes=("sh",),
    ports=(80,),
    services=("receiver",),
    inboxes=(InboxQuestion(folder="/data"),),
    certificates=("/etc/fstab",),
    extras=(ExtraQuestion(command="true"),),
)


def test_a_machine_without_tools_says_so_part_by_part(bare_root: Callable[[str], list[str]]) -> None:
    # Debian's busybox finds its applets even without names for them, except where another program asks for a path.
    told = ask(bare_root("sh"), BARE)
    assert set(SECTIONS) <= {line.split()[2].decode() for line in told.content.split(b"\n") if b" section " in line}
    assert told.answer.certificates[0].state == "tool-missing"
    assert told.answer.services[0].state == "unknown"
    assert ("services", "tool-missing") in {(problem.section, problem.code) for problem in told.answer.problems}


def test_a_small_machine_of_busybox_answers(bare_root: Callable[[str], list[str]]) -> None:
    told = ask(
        bare_root("sh cat df stat find awk grep sed head sort date sleep uname ps tr mount nproc cut kill"), BARE
    )
    assert told.answer.inboxes[0].waiting.count == 1
    assert told.answer.inboxes[0].waiting.newest_age is not None
    assert [process.count for process in told.answer.processes] != [None]
    assert told.answer.load is not None
    # An entry of fstab can hold a password: only the place and the wish leave.
    assert b"wish rw cifs /data" in told.content
    assert b"wish ro ext4 /y\\040z" in told.content
    assert b"secret" not in told.content
    assert PATIENT.encode() not in told.content


def test_a_kernel_without_mountinfo_is_read_from_its_older_list(tmp_path: Path) -> None:
    (tmp_path / "scan disk").mkdir()
    command = in_own_mounts(
        ["dash", "-s"],
        f"mount -t tmpfs -o size=64k old '{tmp_path}/scan disk'",
        f"cat /proc/mounts >{tmp_path}/mounts",
        "mount -t tmpfs none /proc",
        f"cp {tmp_path}/mounts /proc/mounts",
    )
    questions = Questions(mounts=(str(tmp_path / "scan disk"),))
    told = listen(command, posix_probe(questions, NONCE), questions).answer
    assert told.is_complete
    assert [(mount.point, mount.size, mount.device) for mount in told.mounts] == [
        (str(tmp_path / "scan disk"), 64 << 10, "")
    ]


def test_a_mac_is_asked_in_its_own_words(tmp_path: Path) -> None:
    """What macOS lacks (/proc, `stat -f` with a form) is taken away, and its words are stood in for."""
    tool(tmp_path, "sw_vers", "echo 14.6.1")
    tool(
        tmp_path,
        "sysctl",
        """case $2 in
        kern.boottime) echo '{ sec = 1795000000, usec = 0 } Wed Nov 18 12:26:40 2026' ;;
        kern.bootsessionuuid) echo 6B29FC40 ;;
        vm.loadavg) echo '{ 2.43 2.10 1.99 }' ;;
        hw.memsize) echo 17179869184 ;;
        vm.swapusage) echo 'total = 0.00M  used = 0.00M  free = 0.00M  (encrypted)' ;;
        esac""",
    )
    tool(
        tmp_path,
        "vm_stat",
        "echo 'Mach Virtual Memory Statistics: (page size of 16384 bytes)'; echo 'Pages free:   1000.'",
    )
    tool(tmp_path, "uname", "case $1:$2 in -s:) echo Darwin ;; *) echo Darwin 23.6.0 arm64 ;; esac")
    tool(
        tmp_path,
        "mount",
        """cat <<'END'
/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)
devfs on /dev (devfs, local, nobrowse)
/dev/disk3s6 on /System/Volumes/VM (apfs, local, noexec, journaled, noatime, nobrowse)
/dev/disk3s5 on /System/Volumes/Data (apfs, local, journaled, nobrowse)
map auto_home on /System/Volumes/Data/home (autofs, automounted, nobrowse)
/dev/disk5s2 on /Volumes/Scan Disk (1) (apfs, local, nodev, nosuid, journaled, noowners)
//me@nas/research on /Volumes/research (smbfs, nodev, nosuid, mounted by me)
END""",
    )
    tool(
        tmp_path,
        "df",
        f"""case $2 in /Volumes/research) sleep {LONG} ;; esac
        echo 'Filesystem 1024-blocks Used Available Capacity iused ifree %iused  Mounted on'
        echo "/dev/disk9 1000 600 300 67% 10 90 10%   $2" """,
    )
    tool(tmp_path, "launchctl", """[ "$2" = org.receiver ] && echo '	"PID" = 512;'""")
    kernel = tmp_path / "kernel"
    kernel.mkdir()
    tool(
        tmp_path,
        "ps",
        f"for process in {kernel}/[0-9]*/status; do "
        """sed -n 's/^Pid:\t//p; s/^PPid:\t//p' "$process" | """
        '{ read -r pid; read -r parent; echo "$pid $parent"; }; done',
    )
    command = in_own_mounts(
        ["dash", "-s"],
        "mount -t tmpfs none /usr/local/sbin",
        *(f"cp {tmp_path}/{name} /usr/local/sbin/" for name in ("sw_vers", "sysctl", "vm_stat", "launchctl")),
        f"[ ! -e /usr/sbin/sysctl ] || mount --bind {tmp_path}/sysctl /usr/sbin/sysctl",
        f"mount --bind {tmp_path}/uname /usr/bin/uname",
        f"mount --bind {tmp_path}/df /usr/bin/df",
        f"mount --bind {tmp_path}/ps /usr/bin/ps",
        f"mount -t proc proc {kernel}",
        "mount -t tmpfs none /proc",
        f"mount -n --bind {tmp_path}/mount /usr/bin/mount",
    )
    questions = Questions(services=("org.receiver", "org.nobody"))
    answer = listen(command, posix_probe(questions, NONCE), questions).answer
    assert answer.is_complete
    assert answer.system is not None
    assert (answer.system.kind, answer.system.name, answer.system.architecture) == ("macos", "macOS 14.6.1", "arm64")
    assert answer.boot_id == "6B29FC40"
    assert answer.load is not None
    assert answer.memory is not None
    assert [(mount.point, mount.is_read_only, mount.available) for mount in answer.mounts] == [
        ("/", True, 300 << 10),
        ("/System/Volumes/Data", False, 300 << 10),
        ("/Volumes/Scan Disk (1)", False, 300 << 10),
    ]
    assert [(silent.point, silent.reason) for silent in answer.silent_mounts] == [("/Volumes/research", "stuck")]
    assert f"sleep {LONG}" not in running()
    assert [service.state for service in answer.services] == ["active", "not-found"]


# ---- the text


@pytest.mark.parametrize("is_installed", [False, True])
def test_shellcheck_finds_nothing(program: Callable[[str], str], tmp_path: Path, is_installed: bool) -> None:
    questions = replace(BARE, mounts=("/", "/data"), processes=("it's", 'a "b"'))
    path = tmp_path / "probe.sh"
    path.write_bytes(installed_probe(questions) if is_installed else posix_probe(questions, NONCE))
    done = subprocess.run([program("shellcheck"), "-s", "sh", str(path)], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("", 0)


def test_a_text_that_was_cut_on_its_way_does_nothing(shell: list[str], tmp_path: Path) -> None:
    questions = Questions(extras=(ExtraQuestion(command=f"touch {tmp_path}/done"),))
    text = posix_probe(questions, NONCE)
    for length in [*range(0, len(text) - 2, len(text) // 25), len(text) - 2]:
        done = subprocess.run(shell, input=text[:length], capture_output=True, check=False)
        assert done.stdout == b""
    assert not (tmp_path / "done").exists()
    assert ask(shell, questions).answer.extras[0].code == 0
    assert (tmp_path / "done").exists()


@settings(max_examples=15, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30))
def test_no_text_of_a_setting_can_become_a_command(text: str) -> None:
    # `printf` gives back what the shell made of the text; every other place takes the same quoting.
    questions = Questions(
        mounts=(text,),
        services=(text,),
        processes=(text,),
        inboxes=(InboxQuestion(folder=text, failed=text),),
        certificates=(text,),
    )
    script = posix_probe(questions, NONCE)
    head = script[: script.index(b"# The questions stand above")]
    show = b'show() { for word in "$@"; do printf "%s\\0" "$word"; done; }\n'
    calls = b"each_mount show; each_service show; each_process show; each_inbox show; each_certificate show\n"
    done = subprocess.run(["dash", "-s"], input=head + show + calls, capture_output=True, check=True)
    words = done.stdout.decode().split("\0")[:-1]
    assert words == ["0", text] * 3 + ["0", "8", "3", text, text] + ["0", text]


def test_texts_that_no_shell_takes_are_refused() -> None:
    with pytest.raises(ValueError, match="zero byte"):
        posix_probe(Questions(services=("a\0b",)), NONCE)
    for nonce in ("", "short", "g" * 16, "a" * 65, "0123456789abcdef\n", "$(id)aaaaaaaaaaaaaaaa"):
        for write in (posix_probe, windows_probe):
            with pytest.raises(ValueError, match="nonce"):
                write(Questions(), nonce)


def test_an_installed_probe_takes_the_nonce_and_nothing_else(shell: list[str], tmp_path: Path) -> None:
    questions = Questions(mounts=("/",), extras=(ExtraQuestion(command="echo installed"),))
    path = tmp_path / "probe"
    path.write_bytes(installed_probe(questions))
    command = [*shell[:-1], str(path)]
    told = listen(command, f"{NONCE}\n".encode(), questions)
    assert told.answer.is_complete
    assert told.answer.extras[0].line == "installed"
    # The digest tells whether it still asks what the study file wants.
    assert told.answer.digest == questions_digest(questions)
    assert told.answer.digest != questions_digest(Questions(mounts=("/",)))
    for given_nonce in ("", "\n", "$(id)\n", "; id\n", "a b\n", "a" * 65 + "\n"):
        done = subprocess.run(command, input=given_nonce.encode(), capture_output=True, check=False)
        assert (done.returncode, done.stdout) == (2, b"")


def test_the_text_for_windows_fits_through_cmd_and_every_code_page() -> None:
    questions = replace(BARE, mounts=("D:\\掃描\\",), services=("it's ‘quoted’ $(x) `n",))
    command = windows_command(NONCE)
    assert len(command) < 8191
    assert re.fullmatch(r"powershell [-A-Za-z]+ [-A-Za-z]+ -EncodedCommand [A-Za-z0-9+/=]+", command)
    start = base64.b64decode(command.split()[-1]).decode("utf-16-le")
    assert f"'# {NONCE}'" in start
    text = windows_probe(questions, NONCE).decode("ascii")
    assert text.endswith(f"\n# {NONCE}\n")
    assert text.count(f"# {NONCE}\n") == 1
    encoded = re.search(r"^\$asked = '([A-Za-z0-9+/=]+)'$", text, re.MULTILINE)
    assert encoded
    asked = json.loads(base64.b64decode(encoded[1]))
    assert asked["mounts"] == ["D:\\掃描\\"]
    assert asked["services"] == ["it's ‘quoted’ $(x) `n"]
    assert set(re.findall(r"^Section '(\w+)'", text, re.MULTILINE)) == set(SECTIONS)
    # There is no PowerShell here: the words are told apart by a highlighter, which also knows what stands in quotes.
    tokens = list(PowerShellLexer().get_tokens(text))
    assert not [value for kind, value in tokens if kind is Token.Error]
    code = "".join(value for kind, value in tokens if kind not in Token.Literal.String and kind not in Token.Comment)
    for opening, closing in ("()", "{}", "[]"):
        assert code.count(opening) == code.count(closing)
