"""The answer of a remote machine: bytes that nobody vouches for in, plain records out."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from tasks.monitor.probe import VERSION, InboxQuestion, Questions

MAXIMUM_BYTES: Final = 1 << 20
"""More than this is never an answer; what lies behind is not looked at."""

SECTIONS: Final = (
    "system",
    "load",
    "memory",
    "fstab",
    "mounts",
    "jobs",
    "time_sync",
    "raid",
    "ports",
    "processes",
    "services",
)
"""The parts of an answer, in the order in which a whole one brings them."""

PROBLEMS: Final = {
    "no-answer": "the machine sent nothing that is an answer of the probe",
    "other-version": "an installed probe answers in the form of another version",
    "too-large": "the answer was longer than 1 MiB, and its end was thrown away",
    "torn": "the answer breaks off before its end",
    "section-missing": "a part of the answer is missing",
    "section-torn": "a part of the answer breaks off before its end",
    "tool-missing": "the machine lacks a program that this part needs",
    "late": "the machine did not say it in time",
    "not-understood": "lines of this part could not be understood and were thrown away",
    "too-many-mounts": "the machine has more mounts than are asked in one night",
}
"""Every code of a `Problem`, with its meaning."""

TextState = Literal["ok", "absent", "unreadable", "late", "tool-missing", "unknown"]

_TEXT_LIMIT = 120
_LINE_LIMIT = 200
_MANY = 256
_LONGEST = 2000

_NETWORK_TYPES = re.compile(
    "nfs4?|cifs|smb3|smbfs|afs|afpfs|webdav|davfs|9p|ceph|glusterfs|lustre|beegfs|gpfs|ocfs2|gfs2|ncpfs|coda"
    # All of FUSE runs in a program that may wait for a network; nearly all that is mounted on servers does.
    r"|fuse|fuse\..*|macfuse|osxfuse",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that is missing from an answer.

    Attributes
    ----------
    section
        The part it is about, one of `SECTIONS`, or empty for the whole.
    code
        A key of `PROBLEMS`.
    text
        One sentence; it holds counts and names of programs, nothing else that the machine said.
    """

    section: str
    code: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """What kind of machine it is.

    Attributes
    ----------
    kind
        `linux`, `nas`, `macos`, `windows` or `other`.
    name
        The product and its version, such as `Ubuntu 24.04.1 LTS`.
    kernel, architecture
        As the machine names them.
    """

    kind: Literal["linux", "nas", "macos", "windows", "other"]
    name: str
    kernel: str
    architecture: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One file system, as an ordinary user meets it.

    Attributes
    ----------
    point, type, device
        Where it stands, what it is, and the kernel's number of its device (empty if there is none).
    is_network
        True if it lives on another machine.
    is_read_only
        True if nothing can be written now.
    wish
        `rw` or `ro` as fstab wants it, or empty.
    size, used, available
        Bytes; `available` is what a user may still write, without what is kept for root.
    inodes, inodes_free
        How many files it can hold, and how many more; both None where there is no such limit.
    """

    point: str
    type: str
    device: str
    is_network: bool
    is_read_only: bool
    wish: Literal["", "rw", "ro"]
    size: int
    used: int
    available: int
    inodes: int | None
    inodes_free: int | None

    @property
    def used_fraction(self) -> float:
        """The part of what users may fill that is full, from 0 to 1, as `df` reckons it."""
        reachable = self.used + self.available
        return self.used / reachable if reachable else 0.0

    @property
    def inodes_used_fraction(self) -> float | None:
        """The part of the inodes that is taken, from 0 to 1."""
        if not self.inodes or self.inodes_free is None:
            return None
        return (self.inodes - self.inodes_free) / self.inodes


@dataclass(frozen=True, slots=True, kw_only=True)
class SilentMount:
    """A mount that told nothing.

    Attributes
    ----------
    point, type
        Where it stands and what it is.
    is_network
        True if it lives on another machine.
    reason
        `stuck`: it did not answer in time. `failed`: it answered with an error, such as a stale handle.
        `absent`: it is wanted and not mounted.
    """

    point: str
    type: str
    is_network: bool
    reason: Literal["stuck", "failed", "absent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Mean numbers of waiting processes over 1, 5 and 15 minutes."""

    one: float
    five: float
    fifteen: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Main memory and swap, in bytes.

    Attributes
    ----------
    total, available
        What there is, and what a program could still take without swapping.
    swap_total, swap_free
        None where the machine does not say.
    is_estimated
        True if the kernel (before 3.14) names no available memory, and it was reckoned from its parts.
    """

    total: int
    available: int
    swap_total: int | None
    swap_free: int | None
    is_estimated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeSync:
    """Whether the machine's clock follows a time server.

    Attributes
    ----------
    is_synchronised
        None if nothing on the machine can tell.
    source
        Who says so: `chrony`, `timedatectl`, `ntpd`, `timesyncd`, `w32time`, or empty.
    """

    is_synchronised: bool | None
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service that was asked for.

    Attributes
    ----------
    name
        As it was asked for.
    state
        `active`, `starting`, `inactive`, `failed`, `not-found` or `unknown`.
    detail
        The machine's own words, such as `auto-restart`.
    restarts
        How often it was started anew by itself since it was last started by hand; None where nobody counts.
    """

    name: str
    state: Literal["active", "starting", "inactive", "failed", "not-found", "unknown"]
    detail: str
    restarts: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessCount:
    """How many processes have a text in their command line; `count` is None if it is not known."""

    text: str
    count: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """Whether something listens on a TCP port.

    Attributes
    ----------
    number
        The port.
    is_listening
        None if it is not known.
    is_loopback_only
        True if only the machine itself can reach it.
    """

    number: int
    is_listening: bool | None
    is_loopback_only: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Array:
    """A RAID array, a ZFS pool, or a disk that Windows judges.

    Attributes
    ----------
    name, level
        `md0` and `raid5`; a pool is of the level `zfs`, a disk of `disk`.
    state
        `ok`; `rebuilding`: a member is being filled again; `degraded`: members are missing; `failed`: it does not work.
    members, working
        How many it should have and how many work; None where it is not said.
    progress
        Per cent of the rebuilding, or None.
    """

    name: str
    level: str
    state: Literal["ok", "rebuilding", "degraded", "failed"]
    members: int | None
    working: int | None
    progress: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCount:
    """The files in a folder, counted on the machine itself; no name ever leaves it.

    Attributes
    ----------
    state
        `ok` if it was counted; only then the rest means anything.
    count
        How many files.
    newest_age, oldest_age
        Seconds since the newest and the oldest were written, by the machine's own clock; None without files.
    from_the_future
        How many were written more than five minutes ahead of the machine's clock; they have no part in the ages.
    is_truncated
        True if the time was up before all were counted.
    is_partly_unreadable
        True if a folder in it could not be read, or files went away meanwhile.
    """

    state: TextState
    count: int = 0
    newest_age: float | None = None
    oldest_age: float | None = None
    from_the_future: int = 0
    is_truncated: bool = False
    is_partly_unreadable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbox:
    """A folder into which scans arrive.

    Attributes
    ----------
    folder
        As it was asked for.
    waiting
        What lies in it.
    failed
        What lies in the folder of what could not be processed; None if there is none.
    """

    folder: str
    waiting: FileCount
    failed: FileCount | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A certificate file.

    Attributes
    ----------
    path
        As it was asked for.
    state
        `ok` if it was read.
    expires
        Its last moment; None if it was not read or never ends.
    """

    path: str
    state: TextState
    expires: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """What a command of the site said.

    Attributes
    ----------
    command
        As it was asked.
    state
        `ok` if it ended by itself.
    code
        Its exit code; None if it did not end.
    line
        The first line it wrote, made harmless.
    """

    command: str
    state: TextState
    code: int | None
    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """All that a machine said in one night.

    Attributes
    ----------
    is_complete
        True if the answer has its beginning, all its parts and its end.
    digest
        Which questions the probe was made for; see `tasks.monitor.probe.questions_digest`.
    started, ended
        The machine's clock in seconds since 1970 when the probe began and ended; None if it was not said.
    system
        None if it was not said; so with all below.
    boot_id
        Another one after each start of the machine; empty if it was not said.
    uptime
        Seconds since then.
    needs_reboot
        True if an update waits for it; None where the machine does not keep a note of it.
    cores
        Of the processor.
    oom_kills
        How many processes the kernel has killed for want of memory since the start.
    """

    is_complete: bool
    digest: str = ""
    started: float | None = None
    ended: float | None = None
    system: System | None = None
    boot_id: str = ""
    uptime: float | None = None
    needs_reboot: bool | None = None
    load: Load | None = None
    cores: int | None = None
    memory: Memory | None = None
    oom_kills: int | None = None
    time_sync: TimeSync | None = None
    mounts: tuple[Mount, ...] = ()
    silent_mounts: tuple[SilentMount, ...] = ()
    services: tuple[Service, ...] = ()
    processes: tuple[ProcessCount, ...] = ()
    ports: tuple[Port, ...] = ()
    arrays: tuple[Array, ...] = ()
    inboxes: tuple[Inbox, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    extras: tuple[Extra, ...] = ()
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockOffset:
    """How far a machine's clock is ahead of ours, and how sure that is; both in seconds."""

    ahead: float
    uncertainty: float


def harmless(text: str, limit: int) -> str:
    """Make text of a remote machine fit for a report: one line, nothing that steers a terminal, `limit` characters.

    Control characters, marks that turn the direction of writing, line separators and unassigned code points become
    blanks; runs of blanks become one.
    """
    kept = "".join(
        " " if (kind := unicodedata.category(character))[0] == "C" or kind[0] == "Z" else character
        for character in text[: 4 * limit]
    )
    line = " ".join(kept.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def is_finished(answer: bytes, nonce: str) -> bool:
    """Tell whether all has arrived that will arrive.

    Whoever reads the connection stops here and does not wait for its end: a child of the probe that hangs in a dead
    mount keeps it open, maybe for days.
    """
    tail = answer.rfind(f"{nonce} done ".encode())
    return tail >= 0 and b"\n" in answer[tail:]


def clock_offset(answer: Answer, sent: float, received: float) -> ClockOffset | None:
    """Bound how far the machine's clock is ahead of ours.

    Parameters
    ----------
    answer
        What the machine said.
    sent, received
        Our clock, in seconds since 1970, before the first byte of the probe was sent and after the last of the answer
        was read.

    Returns
    -------
    ClockOffset or None
        None if the machine told no time, or its clock was set while the probe ran.
    """
    if answer.started is None or answer.ended is None or answer.ended < answer.started:
        return None
    # The probe began after `sent` and ended before `received`; a clock without fractions is up to a second late.
    coarse = 1.0 if answer.started.is_integer() and answer.ended.is_integer() else 0.0
    highest, lowest = answer.started + coarse - sent, answer.ended - received
    if highest < lowest:
        return None
    return ClockOffset(ahead=(highest + lowest) / 2, uncertainty=(highest - lowest) / 2)


def read_answer(answer: bytes, nonce: str, questions: Questions) -> Answer:
    """Read what came back from a machine; any bytes at all give a record.

    Parameters
    ----------
    answer
        Everything that was received: also what a login shell wrote before the answer, and what broke off.
    nonce
        The fence that was handed to the probe.
    questions
        What was asked. Names in the record come from here wherever they can.
    """
    problems: list[Problem] = []
    if len(answer) > MAXIMUM_BYTES:
        problems.append(_problem("", "too-large"))
        answer = answer[:MAXIMUM_BYTES]
    # A login banner, or a command, may leave a line open just before a fence.
    text = answer.decode("utf-8", "replace").replace(f"{nonce} ", f"\n{nonce} ").replace("\r", "")
    head = re.search(rf"^{nonce} scanward (\d{{1,6}}) ([0-9a-f]{{16}})(?: (\S*))?$", text, re.MULTILINE | re.ASCII)
    if head is None:
        return Answer(is_complete=False, problems=(*problems, _problem("", "no-answer")))
    if int(head[1]) != VERSION:
        return Answer(is_complete=False, digest=head[2], problems=(*problems, _problem("", "other-version")))
    text = text[head.end() :]
    tail = re.search(rf"^{nonce} done(?: (\S*))?$", text, re.MULTILINE)
    parts, torn = _parts(text[: tail.start()] if tail else text, nonce)
    if tail is None:
        problems.append(_problem("", "torn"))
    for section in SECTIONS:
        if section not in parts:
            problems.append(_problem(section, "section-missing"))
        elif section in torn:
            problems.append(_problem(section, "section-torn"))
        problems.extend(_complaints(section, parts.get(section, ())))

    started = _instant(head[3])
    system = parts.get("system", ())
    uptime = _number(_value(system, "uptime").partition(" ")[0])
    if uptime is None and started is not None and (boot := re.search(r"sec = (\d{1,12})", _value(system, "boottime"))):
        uptime = max(0.0, started - int(boot[1]))
    needs_reboot = {"yes": True, "no": False}.get(_value(system, "reboot-required"))
    has_list = "mounts" in parts and "mounts" not in torn and "missing mounts" not in parts["mounts"]
    mounts, silent = _mounts(parts.get("mounts", ()), parts.get("fstab", ()), questions, is_whole=has_list)
    kind = _system(system)
    jobs = _jobs(parts.get("jobs", ()))
    memory = parts.get("memory", ())
    return Answer(
        is_complete=tail is not None and not torn and all(section in parts for section in SECTIONS),
        digest=head[2],
        started=started,
        ended=_instant(tail[1]) if tail else None,
        system=kind,
        boot_id=harmless(_value(system, "boot-id"), 40),
        uptime=uptime,
        needs_reboot=needs_reboot,
        load=_load(parts.get("load", ())),
        cores=_whole(_value(parts.get("load", ()), "cores")) or None,
        memory=_memory(memory),
        oom_kills=_whole(_value(memory, "oom_kill")),
        time_sync=_time_sync(parts["time_sync"]) if "time_sync" in parts else None,
        mounts=mounts,
        silent_mounts=silent,
        services=_services(parts.get("services", ()), questions.services),
        processes=_processes(parts.get("processes", ()), questions.processes),
        ports=_ports(parts.get("ports"), questions.ports),
        arrays=_arrays(parts.get("raid", ()), is_nas=kind is not None and kind.kind == "nas"),
        inboxes=tuple(_inbox(box, str(place), jobs, started) for place, box in enumerate(questions.inboxes)),
        certificates=tuple(_certificate(path, str(place), jobs) for place, path in enumerate(questions.certificates)),
        extras=tuple(_extra(extra.command, str(place), jobs) for place, extra in enumerate(questions.extras)),
        problems=tuple(problems),
    )


def _problem(section: str, code: str, text: str = "") -> Problem:
    return Problem(section=section, code=code, text=text or PROBLEMS[code])


def _parts(text: str, nonce: str) -> tuple[dict[str, tuple[str, ...]], set[str]]:
    """Cut an answer at its fences; return the lines of each part, and which parts have no end."""
    parts: dict[str, tuple[str, ...]] = {}
    torn = set()
    section = ""
    lines: list[str] = []
    for line in text.split("\n"):
        if line.startswith(f"{nonce} section "):
            if section:
                torn.add(section)
                parts.setdefault(section, tuple(lines))
            section, lines = line.removeprefix(f"{nonce} section "), []
        elif section and line == f"{nonce} end {section}":
            parts.setdefault(section, tuple(lines))
            section = ""
        elif section and line.strip() and not line.startswith(nonce):
            lines.append(line[:_LONGEST])
    if section:
        torn.add(section)
        # The last line of what broke off can be half a number.
        parts.setdefault(section, tuple(lines[:-1]))
    known = {name: content for name, content in parts.items() if name in SECTIONS}
    return known, torn & known.keys()


_GRAMMAR = {
    "system": r"(uname|pretty|redhat|debian|synology|qnap|macos|windows|boottime|boot-id|uptime|reboot-required) ",
    "load": r"(loadavg|cores) ",
    "memory": r"\w[\w()]*:|oom_kill \d|memsize |swapusage |Mach Virtual|Pages |\"?[\w -]+\"?:",
    "fstab": r"wish (ro|rw) ",
    "mounts": r"(mount|value|stuck|failed) |more$|Filesystem ",
    "jobs": r"(inbox|certificate|extra) \S+ ",
    "time_sync": r"(chrony|timedatectl|ntpq|timesyncd|w32tm) ",
    "raid": r"(mdstat|zpool|disk) |mdstat$",
    "ports": r"(hex|netstat|listen) ",
    "processes": r"process \d+ \d+$",
    "services": r"service \d+$|\w+=|launchd|initd |windows ",
}
_COMPLAINT = re.compile(r"missing ([\w-]{1,40})|late(?: \w+ \w+)?", re.ASCII)


def _complaints(section: str, lines: Iterable[str]) -> Iterator[Problem]:
    strange, tools, is_late = 0, [], False
    for line in lines:
        if complaint := _COMPLAINT.fullmatch(line):
            if complaint[1]:
                tools.append(complaint[1])
            is_late = is_late or not complaint[1]
        elif section == "mounts" and line == "more":
            yield _problem(section, "too-many-mounts")
        elif not re.match(_GRAMMAR[section], line, re.ASCII) and not (section == "mounts" and _df_row(line)):
            strange += 1
    for tool in list(dict.fromkeys(tools))[:8]:
        yield _problem(section, "tool-missing", f"the machine has no {tool} that can be used for this")
    if is_late:
        yield _problem(section, "late")
    if strange:
        yield _problem(section, "not-understood", f"lines that could not be understood and were thrown away: {strange}")


def _value(lines: Iterable[str], word: str) -> str:
    """Return what stands behind the first line's first word, or nothing."""
    for line in lines:
        first, _, rest = line.partition(" ")
        if first == word:
            return rest.strip()
    return ""


def _whole(text: str) -> int | None:
    """Read a whole number of a sane length."""
    return int(text) if re.fullmatch(r"\d{1,20}", text, re.ASCII) else None


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d{1,15}(\.\d{1,12})?", text, re.ASCII) else None


def _instant(text: str | None) -> float | None:
    """Read seconds since 1970; dates that do not know fractions write `.N` or `.%N` in their place."""
    found = re.match(r"\d{1,12}(\.\d{1,9})?", text or "", re.ASCII)
    return float(found[0]) if found else None


def _system(lines: tuple[str, ...]) -> System | None:
    words = [harmless(word, 80) for word in _value(lines, "uname").split()]
    if not words:
        return None
    vendors: tuple[tuple[str, Literal["linux", "nas", "macos", "windows"], str], ...] = (
        ("synology", "nas", "Synology DSM "),
        ("qnap", "nas", "QNAP QTS "),
        ("macos", "macos", "macOS "),
        ("windows", "windows", ""),
        ("pretty", "linux", ""),
        ("redhat", "linux", ""),
        ("debian", "linux", "Debian "),
    )
    told = [(vendor, value) for vendor in vendors if (value := _value(lines, vendor[0]).strip("\"' "))]
    if not told:
        kind_of_rest: dict[str, Literal["linux", "macos"]] = {"Linux": "linux", "Darwin": "macos"}
        return System(
            kind=kind_of_rest.get(words[0], "other"),
            name=words[0],
            kernel=" ".join(words[:-1]),
            architecture=words[-1],
        )
    (word, kind, prefix), value = told[0]
    name = harmless(prefix + value, 80)
    # CentOS 7 calls itself 7 in os-release; only the older file names the minor release.
    release = harmless(_value(lines, "redhat"), 80)
    if word == "pretty" and len(release) > len(name) and release.startswith("CentOS"):
        name = release
    return System(kind=kind, name=name, kernel=" ".join(words[:-1]), architecture=words[-1])


def _load(lines: tuple[str, ...]) -> Load | None:
    means = [_number(word.replace(",", ".")) for word in _value(lines, "loadavg").strip("{ }").split()[:3]]
    one, five, fifteen = [*means, None, None, None][:3]
    if one is None or five is None or fifteen is None:
        return None
    return Load(one=one, five=five, fifteen=fifteen)


def _memory(lines: tuple[str, ...]) -> Memory | None:
    kilobytes = {
        found[1]: int(found[2]) * 1024
        for line in lines
        if (found := re.match(r"(\w+): +(\d{1,15}) kB$", line, re.ASCII))
    }
    if total := kilobytes.get("MemTotal"):
        available = kilobytes.get("MemAvailable")
        parts = [kilobytes.get(name, 0) for name in ("MemFree", "Buffers", "Cached", "SReclaimable")]
        reckoned = max(0, sum(parts) - kilobytes.get("Shmem", 0))
        return Memory(
            total=total,
            available=min(total, reckoned if available is None else available),
            swap_total=kilobytes.get("SwapTotal"),
            swap_free=kilobytes.get("SwapFree"),
            is_estimated=available is None,
        )
    return _mac_memory(lines)


def _mac_memory(lines: tuple[str, ...]) -> Memory | None:
    total = _whole(_value(lines, "memsize"))
    text = "\n".join(lines)
    page = re.search(r"page size of (\d{1,6}) bytes", text, re.ASCII)
    pages = {
        found[1]: int(found[2])
        for found in re.finditer(r'^"?([\w -]+)"?: +(\d{1,12})\.$', text, re.MULTILINE | re.ASCII)
    }
    if not total or page is None or "Pages free" not in pages:
        return None
    names = ("Pages free", "Pages inactive", "Pages speculative", "Pages purgeable")
    available = int(page[1]) * sum(pages.get(name, 0) for name in names)
    swap = {
        found[1]: int(float(found[2]) * (1 << 20))
        for found in re.finditer(r"(total|free) = (\d{1,9}\.\d{1,3})M", _value(lines, "swapusage"), re.ASCII)
    }
    return Memory(
        total=total,
        available=min(total, available),
        swap_total=swap.get("total"),
        swap_free=swap.get("free"),
        is_estimated=True,
    )


def _time_sync(lines: tuple[str, ...]) -> TimeSync:
    text = "\n".join(lines)
    signs = (
        ("chrony", r"^chrony Leap status *: (?!Not synchronised)\w", r"^chrony Leap status *: Not synchronised"),
        ("timedatectl", r"^timedatectl .*synchronized: *yes", r"^timedatectl .*synchronized: *no"),
        ("ntpd", r"^ntpq .*leap_(none|add_sec|del_sec)", r"^ntpq .*leap_alarm"),
        ("timesyncd", r"^timesyncd synchronized", r"(?!)"),
        ("w32time", r"^w32tm leap [012]$", r"^w32tm (leap 3|stopped)$"),
    )
    for source, yes, no in signs:
        if re.search(yes, text, re.MULTILINE):
            return TimeSync(is_synchronised=True, source=source)
        if re.search(no, text, re.MULTILINE):
            return TimeSync(is_synchronised=False, source=source)
    return TimeSync(is_synchronised=None, source="")


def _unescaped(name: str) -> str:
    r"""Undo what the kernel does to blanks in names: `\040`; the bytes are UTF-8."""

    def plain(found: re.Match[str]) -> str:
        return chr(int(found[1], 8))

    return re.sub(r"\\([0-3][0-7][0-7])", plain, name)


_MAC_INODES = re.compile(r"(\d{1,20}) +(\d{1,20}) +(?:\d{1,4}%|-) +(/.*)", re.ASCII)
_Sizes = tuple[int, int, int, int, int]
"""Bytes in all, free and available; inodes in all and free."""


def _df_row(line: str) -> tuple[list[int], str] | None:
    """Cut a row of `df` into its three figures and what stands behind the per cent; blanks may stand in both names."""
    words = list(re.finditer(r"\S+", line))
    for place in range(1, len(words) - 4):
        figures = [words[place + step][0] for step in range(3)]
        if all(re.fullmatch(r"-?\d{1,20}", figure, re.ASCII) for figure in figures) and re.fullmatch(
            r"\d{1,4}%|-", words[place + 3][0], re.ASCII
        ):
            return [int(figure) for figure in figures], line[words[place + 4].start() :]
    return None


def _df_rows(lines: tuple[str, ...]) -> dict[str, _Sizes]:
    """Read what `df` says of mounts, in its three forms: blocks, inodes, and both at once as on macOS."""
    blocks: dict[str, tuple[int, int, int]] = {}
    inodes: dict[str, tuple[int, int]] = {}
    head = ""
    for line in lines:
        if line.startswith("Filesystem "):
            head = line
        elif head and (row := _df_row(line)):
            (first, second, third), point = row
            if "iused" in head and (rest := _MAC_INODES.fullmatch(point)):
                used, free, point = int(rest[1]), int(rest[2]), rest[3]
                inodes[point] = (used + free, free)
            if "Inodes" in head:
                inodes[point] = (first, third)
            else:
                # `df` does not tell what is kept for root: what is not used counts as free, or the used part is wrong.
                blocks[point] = (first * 1024, (first - second) * 1024, third * 1024)
    return {point: (*sizes, *inodes.get(point, (0, 0))) for point, sizes in blocks.items()}


@dataclass(slots=True, kw_only=True)
class _Seen:
    """A mount line, and what was said of it later."""

    number: str
    device: str
    mode: str
    type: str
    point: str
    sizes: _Sizes | None = None
    reason: Literal["stuck", "failed"] = "stuck"


def _seen(lines: tuple[str, ...]) -> dict[str, _Seen]:
    """Return the mounts by their point. Of those that lie on top of one another the last is the one that is met."""
    seen: dict[str, _Seen] = {}
    for line in lines:
        if found := re.fullmatch(r"mount (\d{1,3}) (\S+) (rw|ro) (\S+) (\S+)", line, re.ASCII):
            point = _unescaped(found[5])
            seen[point] = _Seen(number=found[1], device=found[2], mode=found[3], type=found[4], point=point)
    numbers = {entry.number: entry for entry in seen.values()}
    for line in lines:
        words = line.split()
        entry = numbers.get(words[1].removeprefix("i")) if len(words) > 1 else None
        if entry is None:
            continue
        if words[0] == "failed" and not words[1].startswith("i"):
            entry.reason = "failed"
        figures = [_whole(word) for word in words[2:]]
        if words[0] == "value" and len(figures) == 6:
            block, size, free, available, inodes, inodes_free = (figure or 0 for figure in figures)
            entry.sizes = (block * size, block * free, block * available, inodes, inodes_free)
    for point, sizes in _df_rows(lines).items():
        if point in seen and seen[point].sizes is None:
            seen[point].sizes = sizes
    return seen


def _mounts(
    lines: tuple[str, ...], fstab: tuple[str, ...], questions: Questions, *, is_whole: bool
) -> tuple[tuple[Mount, ...], tuple[SilentMount, ...]]:
    wishes: dict[str, Literal["rw", "ro"]] = {}
    for line in fstab:
        if found := re.fullmatch(r"wish (rw|ro) \S+ (/\S*)", line):
            wishes[_unescaped(found[2])] = "ro" if found[1] == "ro" else "rw"
    seen = _seen(lines)
    mounts: list[Mount] = []
    silent: list[SilentMount] = []
    devices: set[str] = set()
    # A device that is mounted twice is told once: where it is wanted, or else at the shortest name.
    order = sorted(seen.values(), key=lambda entry: (entry.point not in questions.mounts, len(entry.point)))
    for entry in order:
        is_wanted = entry.point in questions.mounts
        if entry.device != "-" and entry.device in devices and not is_wanted:
            continue
        devices.add(entry.device)
        point = entry.point if is_wanted else harmless(entry.point, _TEXT_LIMIT)
        kind = harmless(entry.type, 40)
        network = _NETWORK_TYPES.fullmatch(entry.type) is not None
        if entry.sizes is None:
            # Where the answer breaks off, silence says nothing about the mount.
            if is_whole:
                silent.append(SilentMount(point=point, type=kind, is_network=network, reason=entry.reason))
            continue
        size, free, available, inodes, inodes_free = entry.sizes
        if size <= 0:
            continue
        mounts.append(
            Mount(
                point=point,
                type=kind,
                device="" if entry.device == "-" else harmless(entry.device, _TEXT_LIMIT),
                is_network=network,
                is_read_only=entry.mode == "ro",
                wish=wishes.get(entry.point, ""),
                size=size,
                used=max(0, size - free),
                available=max(0, available),
                inodes=inodes or None,
                inodes_free=inodes_free if inodes else None,
            )
        )
    if is_whole:
        missing = (point for point in questions.mounts if point not in seen)
        silent.extend(SilentMount(point=point, type="", is_network=False, reason="absent") for point in missing)
    return tuple(sorted(mounts, key=lambda mount: mount.point)), tuple(sorted(silent, key=lambda mount: mount.point))


_LSB_STATES: dict[int, Literal["active", "inactive", "failed"]] = {0: "active", 1: "failed", 2: "failed", 3: "inactive"}


def _services(lines: tuple[str, ...], names: tuple[str, ...]) -> tuple[Service, ...]:
    told: dict[str, list[str]] = {}
    current: list[str] = []
    for line in lines:
        if line.startswith("service "):
            current = told.setdefault(line.removeprefix("service ").strip(), [])
        else:
            current.append(line)
    return tuple(_service(name, told.get(str(place), [])) for place, name in enumerate(names))


def _service(name: str, lines: list[str]) -> Service:
    facts = dict(line.split("=", 1) for line in lines if "=" in line)
    state: Literal["active", "starting", "inactive", "failed", "not-found", "unknown"] = "unknown"
    detail, restarts = "", None
    if facts:
        detail = facts.get("SubState", "")
        restarts = _whole(facts.get("NRestarts", ""))
        active = facts.get("ActiveState", "")
        if facts.get("LoadState") == "not-found":
            state, detail, restarts = "not-found", "", None
        elif active in {"active", "reloading"}:
            state = "active"
        elif active == "activating":
            state = "starting"
        elif active == "failed":
            state, detail = "failed", facts.get("Result") or detail
        elif active in {"inactive", "deactivating"}:
            state = "inactive"
    elif _value(lines, "initd") == "absent":
        state = "not-found"
    elif (code := _whole(_value(lines, "initd"))) is not None:
        state, detail = _LSB_STATES.get(code, "unknown"), f"status {code}"
    elif listed := _value(lines, "launchd"):
        last = _whole(_value(lines, "launchd-exit"))
        if listed != "listed":
            state = "not-found"
        elif _value(lines, "launchd-pid"):
            state = "active"
        else:
            state = "failed" if last else "inactive"
            detail = f"exit {last}" if last else ""
    elif status := _value(lines, "windows"):
        word, _, detail = status.partition(" ")
        windows: dict[str, Literal["active", "starting", "inactive", "not-found"]] = {
            "Running": "active",
            "StartPending": "starting",
            "ContinuePending": "starting",
            "Stopped": "inactive",
            "StopPending": "inactive",
            "Paused": "inactive",
            "not-found": "not-found",
        }
        state = windows.get(word, "unknown")
    return Service(name=name, state=state, detail=harmless(detail, 60), restarts=restarts)


def _processes(lines: tuple[str, ...], texts: tuple[str, ...]) -> tuple[ProcessCount, ...]:
    counts: dict[str, int] = {}
    for line in lines:
        if found := re.fullmatch(r"process (\d{1,4}) (\d{1,9})", line, re.ASCII):
            counts[found[1]] = int(found[2])
    return tuple(ProcessCount(text=text, count=counts.get(str(place))) for place, text in enumerate(texts))


_LOOPBACK_HEX = re.compile(r"[0-9A-F]{6}7F|0{24}01000000|0{16}FFFF0000[0-9A-F]{6}7F")


def _ports(lines: tuple[str, ...] | None, numbers: tuple[int, ...]) -> tuple[Port, ...]:
    reached: dict[int, bool] = {}
    is_known = False
    for line in lines or ():
        loopback, number = False, None
        if found := re.fullmatch(r"hex ([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4})", line):
            loopback, number = _LOOPBACK_HEX.fullmatch(found[1]) is not None, int(found[2], 16)
        elif found := re.match(r"(?:netstat tcp\S* +\d+ +\d+|listen) +(\S+)[.: ](\d{1,5})(?: |$)", line, re.ASCII):
            loopback, number = found[1].startswith(("127.", "::1")), int(found[2])
        if number is not None:
            is_known = True
            reached[number] = reached.get(number, True) and loopback
    # A machine that was asked over SSH listens somewhere: no line at all means that it could not be read.
    return tuple(
        Port(
            number=number,
            is_listening=number in reached if is_known else None,
            is_loopback_only=reached.get(number, False),
        )
        for number in numbers
    )


def _arrays(lines: tuple[str, ...], *, is_nas: bool) -> tuple[Array, ...]:
    arrays: list[Array] = []
    block: list[str] = []
    for line in [*(line.removeprefix("mdstat").strip() for line in lines if line.startswith("mdstat")), "unused"]:
        if re.match(r"md\S* : ", line) or line.startswith("unused"):
            arrays.extend(_linux_array(block, is_nas=is_nas))
            block = []
        if block or re.match(r"md\S* : ", line):
            block.append(line)
    for line in lines:
        if found := re.fullmatch(r"zpool ([^\t]{1,200})\t(\w{1,20})", line):
            state: Literal["ok", "degraded", "failed"] = "failed"
            if found[2] in {"ONLINE", "DEGRADED"}:
                state = "ok" if found[2] == "ONLINE" else "degraded"
            arrays.append(_array(found[1], "zfs", state))
        elif found := re.fullmatch(r"disk ([0-9]) (.{1,200})", line):
            health: dict[str, Literal["ok", "degraded", "failed"]] = {"0": "ok", "1": "degraded", "2": "failed"}
            if found[1] in health:
                arrays.append(_array(found[2], "disk", health[found[1]]))
    return tuple(arrays[:_MANY])


def _array(name: str, level: str, state: Literal["ok", "degraded", "failed"]) -> Array:
    return Array(name=harmless(name, 60), level=level, state=state, members=None, working=None, progress=None)


def _linux_array(block: list[str], *, is_nas: bool) -> Iterator[Array]:
    if not block:
        return
    head = re.match(r"(md\S*) : (\w+)(?: \([\w-]+\))? ?(\S*)", block[0])
    if head is None:
        return
    text = " ".join(block)
    level = head[3] if re.fullmatch(r"raid\d+|linear|multipath|faulty", head[3]) else ""
    slots = re.search(r"\[(\d{1,4})/(\d{1,4})\]", text, re.ASCII)
    members, working = (int(slots[1]), int(slots[2])) if slots else (None, None)
    running = re.search(r"(recovery|resync|reshape) *= *(\d{1,3}(?:\.\d+)?)%", text, re.ASCII)
    has_failed_member = "(F)" in block[0]
    state: Literal["ok", "rebuilding", "degraded", "failed"] = "ok"
    # A NAS mirrors its system over as many slots as it has bays, and most stay empty for ever.
    has_empty_bays = is_nas and level == "raid1" and (members or 0) >= 4 and (working or 0) >= 2
    if head[2] != "active":
        state = "failed"
    elif running and running[1] in {"recovery", "reshape"}:
        state = "rebuilding"
    elif has_failed_member or ((working or 0) < (members or 0) and not has_empty_bays):
        state = "degraded"
    yield Array(
        name=harmless(head[1], 60),
        level=level,
        state=state,
        members=members,
        working=working,
        progress=min(100.0, float(running[2])) if running else None,
    )


def _jobs(lines: tuple[str, ...]) -> dict[tuple[str, str], str]:
    """Return what was said of each inbox, certificate and command; an answer wins over the remark that it was late."""
    jobs: dict[tuple[str, str], str] = {}
    for line in lines:
        if found := re.fullmatch(r"(inbox|certificate|extra) (f?\d{1,4}) (.*)", line, re.ASCII):
            jobs.setdefault((found[1], found[2]), found[3])
    for line in lines:
        if found := re.fullmatch(r"late (inbox|certificate|extra) (f?\d{1,4})", line, re.ASCII):
            jobs.setdefault((found[1], found[2]), "late")
        elif line == "missing find":
            jobs["inbox", ""] = "missing"
        elif line == "missing awk":
            jobs["extra", ""] = "missing"
    return jobs


def _state(word: str) -> TextState:
    states: dict[str, TextState] = {
        "absent": "absent",
        "unreadable": "unreadable",
        "late": "late",
        "missing": "tool-missing",
    }
    return states.get(word, "unknown")


def _said(jobs: dict[tuple[str, str], str], kind: str, number: str) -> str:
    return jobs.get((kind, number)) or jobs.get((kind, ""), "")


def _inbox(box: InboxQuestion, number: str, jobs: dict[tuple[str, str], str], started: float | None) -> Inbox:
    failed = _file_count(_said(jobs, "inbox", f"f{number}"), started) if box.failed else None
    return Inbox(folder=box.folder, waiting=_file_count(_said(jobs, "inbox", number), started), failed=failed)


def _file_count(said: str, started: float | None) -> FileCount:
    found = re.fullmatch(r"counted (\d{1,12}) (-?\d{1,12}) (-?\d{1,12}) (\d{1,12}) (\d{1,5})", said, re.ASCII)
    if found is None:
        return FileCount(state=_state(said))
    count, newest, oldest, ahead, code = (int(figure) for figure in found.groups())
    has_ages = count > ahead and started is not None
    return FileCount(
        state="ok",
        count=count,
        newest_age=max(0.0, (started or 0.0) - newest) if has_ages else None,
        oldest_age=max(0.0, (started or 0.0) - oldest) if has_ages else None,
        from_the_future=ahead,
        is_truncated=code > 128,
        is_partly_unreadable=0 < code <= 128,
    )


_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


def _certificate(path: str, number: str, jobs: dict[tuple[str, str], str]) -> Certificate:
    said = _said(jobs, "certificate", number)
    word, _, rest = said.partition(" ")
    if word != "until":
        return Certificate(path=path, state=_state(word), expires=None)
    if rest == "forever":
        return Certificate(path=path, state="ok", expires=None)
    expires = _date(rest)
    return Certificate(path=path, state="ok" if expires else "unreadable", expires=expires)


def _date(text: str) -> datetime | None:
    """Read a moment as openssl, ssh-keygen or PowerShell writes it."""
    # By hand, since the month names of strptime follow our own locale.
    try:
        if found := re.fullmatch(r"(\w{3}) +(\d{1,2}) (\d\d):(\d\d):(\d\d) (\d{4}) GMT", text, re.ASCII):
            month = _MONTHS.index(found[1]) + 1
            day, hour, minute, second, year = (int(figure) for figure in found.groups()[1:])
            return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        if found := re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)", text, re.ASCII):
            return datetime.fromisoformat(found[1]).replace(tzinfo=UTC)
        if found := re.fullmatch(r"epoch (\d{1,12})", text, re.ASCII):
            return datetime.fromtimestamp(int(found[1]), UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return None


def _extra(command: str, number: str, jobs: dict[tuple[str, str], str]) -> Extra:
    said = _said(jobs, "extra", number)
    found = re.fullmatch(r"(\d{1,3})(?: (.*))?", said, re.ASCII)
    if found is None:
        return Extra(command=command, state=_state(said), code=None, line="")
    return Extra(command=command, state="ok", code=int(found[1]), line=harmless(found[2] or "", _LINE_LIMIT))
