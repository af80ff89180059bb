"""What a machine's answer means: findings by the thresholds, and the numbers that are kept for nights to come."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from tasks.monitor.answer import Answer, Certificate, ClockOffset, Extra, Inbox, Mount
from tasks.monitor.dicom_echo import VERDICTS, Echo
from tasks.monitor.finding import Finding, Severity
from tasks.monitor.forecast import Forecast, Horizon, forecast
from tasks.monitor.ssh import KINDS, SshFault

_OK, _NOTICE, _WARNING, _CRITICAL, _UNKNOWN = (
    Severity.OK,
    Severity.NOTICE,
    Severity.WARNING,
    Severity.CRITICAL,
    Severity.UNKNOWN,
)
_DAY_S: Final = 86_400.0
_CLOCK_CRITICAL_S: Final = 300.0
_CRASHES: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskLimit:
    """How full a file system may be.

    Attributes
    ----------
    warning, critical
        Share that is taken of what users may fill, or of the inodes, 0 to 1.
    least_free
        Bytes that must be left; fewer are critical. 0 for no such limit.
    """

    warning: float = 0.85
    critical: float = 0.95
    least_free: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxLimit:
    """What is usual for a folder into which scans arrive.

    Attributes
    ----------
    name
        What it is called in reports, in place of its path.
    newest_h
        The newest file may be so many hours old on a scan day; None for any age.
    oldest_h
        No file may wait for longer, in hours; None for any time.
    most_waiting, most_failed
        So many files may wait, or lie in the folder of failures.
    """

    name: str
    newest_h: float | None = None
    oldest_h: float | None = None
    most_waiting: int | None = None
    most_failed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """From when on something is a finding.

    Attributes
    ----------
    disk
        For every file system that `disks` does not name.
    disks
        By mount point.
    horizon
        For forecasts.
    memory
        Share of the memory that may be in use, 0 to 1.
    load_per_core
        Mean of 15 minutes.
    clock_s
        Seconds by which a clock may be wrong beyond what the measurement leaves open.
    certificate_warning_days, certificate_critical_days
        Before a certificate ends.
    inboxes
        By folder.
    extras
        Names of the site's own checks, by command; with True if the line that they write may be shown.
    """

    disk: DiskLimit = field(default_factory=DiskLimit)
    disks: Mapping[str, DiskLimit] = field(default_factory=dict)
    horizon: Horizon = field(default_factory=Horizon)
    memory: float = 0.95
    load_per_core: float = 2.0
    clock_s: float = 2.0
    certificate_warning_days: float = 30.0
    certificate_critical_days: float = 7.0
    inboxes: Mapping[str, InboxLimit] = field(default_factory=dict)
    extras: Mapping[str, tuple[str, bool]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What is remembered of a machine.

    Attributes
    ----------
    course
        Gives what was measured of a thing, by its name and subject: when, and the value; the oldest first.
    fact
        Gives what the machine said of itself last, by its name; empty if it never did.
    """

    course: Callable[[str, str], list[tuple[datetime, float]]] = lambda _name, _subject: []
    fact: Callable[[str], str] = lambda _name: ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a night brings for one machine.

    Attributes
    ----------
    findings
        One for each thing that was looked at.
    observations
        Numbers to keep, by name and subject.
    facts
        Texts to keep, by name.
    forecasts
        By mount point.
    """

    findings: tuple[Finding, ...]
    observations: Mapping[tuple[str, str], float]
    facts: Mapping[str, str]
    forecasts: Mapping[str, Forecast]


def judge_silence(site: str, machine: str, fault: SshFault, tries: int) -> Finding:
    """Say that a machine could not be asked, and why."""
    text = f"cannot be reached over SSH: {KINDS[fault.kind]}"
    if fault.kind == "timeout":
        text += f" ({fault.phase})"
    elif fault.kind in ("host-unknown", "host-key-changed", "host-key-type", "key-missing", "key-locked"):
        text += f" ({fault.detail})" if fault.detail else ""
    if tries > 1:
        text += f"; asked {tries} times"
    severity = _UNKNOWN if fault.kind == "jump-failed" else _CRITICAL
    return Finding(
        site=site, machine=machine, check="ssh", subject="", severity=severity, code=fault.kind, text=f"{text}."
    )


def judge_jump(site: str, jump: str, behind: int) -> Finding:
    """Say once that the machine on the way to others cannot be passed."""
    what = "one machine" if behind == 1 else f"{behind} machines"
    text = f"cannot be passed, so nothing is known of {what} behind it."
    return Finding(site=site, machine=jump, check="ssh", subject="", severity=_CRITICAL, code="jump-failed", text=text)


def judge_answer(
    site: str,
    machine: str,
    answer: Answer,
    echoes: Mapping[str, Echo],
    thresholds: Thresholds,
    *,
    past: Past,
    now: datetime,
    clock: ClockOffset | None = None,
    tries: int = 1,
    is_scan_day: bool = True,
    digest: str = "",
) -> Judged:
    """Judge what a machine and its targets answered.

    Parameters
    ----------
    echoes
        By the target's name.
    past
        What is remembered of the machine, without this night.
    now
        When it was asked, UTC.
    clock
        How far its clock is off; None if that could not be told.
    tries
        How often it had to be asked.
    is_scan_day
        Whether files should have come.
    digest
        Of the questions, where the probe lies on the machine as a file; empty where it is sent each time.
    """
    observations: dict[tuple[str, str], float] = {}
    facts: dict[str, str] = {}
    forecasts: dict[str, Forecast] = {}

    def said(check: str, subject: str, severity: Severity, code: str, text: str, **more: object) -> Finding:
        return Finding(
            site=site,
            machine=machine,
            check=check,
            subject=subject,
            severity=severity,
            code=code,
            text=text,
            **more,  # type: ignore[arg-type]
        )

    def judge() -> Iterator[Finding]:
        late = "answered at once." if tries == 1 else f"answered only when it was asked {tries} times."
        yield said("ssh", "", _OK if tries == 1 else _NOTICE, "answered" if tries == 1 else "answered-late", late)
        if not answer.is_complete:
            yield said("probe", "", _WARNING, "torn", "the answer of the probe was cut off; what came before counts.")
        elif digest and answer.digest != digest:
            text = "the probe that lies there asks something else than the study file: install it anew."
            yield said("probe", "", _WARNING, "outdated", text)
        for mount in answer.mounts:
            observations["disk.used", mount.point] = float(mount.used)
            observations["disk.share", mount.point] = mount.used_fraction
            if mount.inodes and mount.inodes_free is not None:
                observations["inodes.used", mount.point] = float(mount.inodes - mount.inodes_free)
            expected = _forecast(mount, past, now)
            if expected is not None:
                forecasts[mount.point] = expected
            yield said("disk", mount.point, *_disk(mount, thresholds, expected))
            if mount.inodes_used_fraction is not None:
                yield said("inodes", mount.point, *_inodes(mount, thresholds))
            was = past.fact(f"mount {mount.point}")
            facts[f"mount {mount.point}"] = "ro" if mount.is_read_only else "rw"
            if mount.is_read_only and (mount.wish == "rw" or (was == "rw" and mount.wish != "ro")):
                text = f"{mount.point} can only be read, though it is meant to be written."
                yield said("mount", mount.point, _CRITICAL, "read-only", text)
        for silent in answer.silent_mounts:
            words = {
                "stuck": "does not answer: whoever touches it hangs.",
                "failed": "answers with an error.",
                "absent": "is not mounted.",
            }[silent.reason]
            code = f"mount-{silent.reason}"
            yield said("mount", silent.point, _CRITICAL, code, f"{silent.point} {words}")
        yield from (said(*one) for one in _of_the_machine(answer, thresholds, past))
        if answer.boot_id:
            facts["boot"] = answer.boot_id
        if answer.oom_kills is not None:
            observations["oom-kills", ""] = float(answer.oom_kills)
        if clock is not None:
            yield said("clock", "", *_clock(clock, thresholds))
        if answer.time_sync is not None and answer.time_sync.is_synchronised is False:
            yield said("clock", "synchronisation", _WARNING, "not-synchronised", "the clock is not synchronised.")
        for box in answer.inboxes:
            limit = thresholds.inboxes.get(box.folder) or InboxLimit(name=box.folder)
            yield said("inbox", limit.name, *_inbox(box, limit, is_scan_day=is_scan_day))
        for certificate in answer.certificates:
            yield said("certificate", certificate.path, *_certificate(certificate, thresholds, now))
        for extra in answer.extras:
            name, is_shown = thresholds.extras.get(extra.command, (extra.command, False))
            yield said("extra", name, *_extra(extra, is_shown=is_shown))
        for name, found in echoes.items():
            yield said("pacs", name, *_pacs(found, past.fact(f"version {name}")), value=found.latency_s, unit="s")
            if found.version:
                facts[f"version {name}"] = found.version

    return Judged(findings=tuple(judge()), observations=observations, facts=facts, forecasts=forecasts)


Said = tuple[Severity, str, str]


def _forecast(mount: Mount, past: Past, now: datetime) -> Forecast | None:
    course = [(when, value) for when, value in past.course("disk.used", mount.point) if when < now]
    course.append((now, float(mount.used)))
    first = course[0][0]
    days = [(when - first).total_seconds() / _DAY_S for when, _ in course]
    return forecast(days, [value for _, value in course], float(mount.available))


def _disk(mount: Mount, thresholds: Thresholds, expected: Forecast | None) -> Said:
    limit = thresholds.disks.get(mount.point, thresholds.disk)
    share = mount.used_fraction
    state = f"{mount.point} is {share:.0%} full, {size(mount.available)} are left"
    words, horizon = "", thresholds.horizon
    soon = math.inf
    if expected is not None and share > horizon.least_used and expected.days <= horizon.notice_days:
        soon = expected.days
        words = f"; full in {_range(expected)} at {size(expected.per_day)} a day"
    if share >= limit.critical or mount.available < limit.least_free:
        return _CRITICAL, "disk-full", f"{state}{words}."
    if soon <= horizon.critical_days:
        return _CRITICAL, "disk-soon-full", f"{state}{words}."
    if share >= limit.warning:
        return _WARNING, "disk-nearly-full", f"{state}{words}."
    if soon <= horizon.warning_days:
        return _WARNING, "disk-soon-full", f"{state}{words}."
    return (_NOTICE, "disk-filling", f"{state}{words}.") if words else (_OK, "disk", f"{state}.")


def _range(expected: Forecast) -> str:
    soonest, latest = max(round(expected.soonest), 0), expected.latest
    if soonest == 0 and expected.days < 1:
        return "less than a day"
    if math.isinf(latest) or latest > 3 * expected.days:
        return f"about {max(round(expected.days), 1)} days"
    return f"{soonest} to {round(latest)} days" if round(latest) != soonest else f"{soonest} days"


def _inodes(mount: Mount, thresholds: Thresholds) -> Said:
    limit, share = thresholds.disks.get(mount.point, thresholds.disk), mount.inodes_used_fraction or 0.0
    text = f"{mount.point} has used {share:.0%} of the files that it can hold."
    if share >= limit.critical:
        return _CRITICAL, "inodes-full", text
    return (_WARNING, "inodes-nearly-full", text) if share >= limit.warning else (_OK, "inodes", text)


def _of_the_machine(
    answer: Answer, thresholds: Thresholds, past: Past
) -> Iterator[tuple[str, str, Severity, str, str]]:
    """Judge what there is but once on a machine, and what it was asked to run."""
    memory = answer.memory
    if memory is not None and memory.total:
        share = 1 - memory.available / memory.total
        text = f"{share:.0%} of {size(memory.total)} memory are in use."
        yield "memory", "", _WARNING if share > thresholds.memory else _OK, "memory", text
    if answer.load is not None and answer.cores:
        share = answer.load.fifteen / answer.cores
        text = f"the load is {answer.load.fifteen:.1f} on {answer.cores} cores."
        yield "load", "", _WARNING if share > thresholds.load_per_core else _OK, "load", text
    was_boot = past.fact("boot")
    has_restarted = bool(answer.boot_id and was_boot and answer.boot_id != was_boot)
    if has_restarted:
        up = f", up for {answer.uptime / 3600:.0f} h" if answer.uptime is not None else ""
        yield "reboot", "", _NOTICE, "restarted", f"it was restarted since the last night{up}."
    elif answer.needs_reboot:
        yield "reboot", "", _NOTICE, "needs-reboot", "an update waits for a restart."
    if answer.oom_kills is not None:
        before = past.course("oom-kills", "")
        since = answer.oom_kills - (int(before[-1][1]) if before and not has_restarted else 0)
        if since > 0 and (before or has_restarted):
            yield "memory", "kills", _WARNING, "oom-kill", f"for want of memory {since} processes were ended."
    for service in answer.services:
        text = f"{service.name} is {service.state}."
        if service.state == "active" and (service.restarts or 0) >= _CRASHES:
            yield (
                "service",
                service.name,
                _WARNING,
                "restarting",
                f"{service.name} was restarted {service.restarts} times.",
            )
        elif service.state in ("active", "starting"):
            yield "service", service.name, _OK if service.state == "active" else _WARNING, service.state, text
        else:
            yield "service", service.name, _UNKNOWN if service.state == "unknown" else _CRITICAL, service.state, text
    for process in answer.processes:
        severity = _UNKNOWN if process.count is None else _OK if process.count else _CRITICAL
        text = "processes could not be listed." if process.count is None else f"{process.count} of {process.text} run."
        yield "process", process.text, severity, "process", text
    for port in answer.ports:
        subject = str(port.number)
        if port.is_listening is None:
            yield "port", subject, _UNKNOWN, "port", "which ports are open could not be told."
        elif not port.is_listening:
            yield "port", subject, _CRITICAL, "port-closed", f"nothing listens on port {subject}."
        elif port.is_loopback_only:
            yield (
                "port",
                subject,
                _WARNING,
                "port-local",
                f"port {subject} can be reached from the machine itself only.",
            )
        else:
            yield "port", subject, _OK, "port", f"port {subject} is open."
    for array in answer.arrays:
        severity = {"ok": _OK, "rebuilding": _WARNING}.get(array.state, _CRITICAL)
        members = f" ({array.working} of {array.members} disks)" if array.members and array.working is not None else ""
        yield "raid", array.name, severity, f"raid-{array.state}", f"{array.name} is {array.state}{members}."


def _clock(clock: ClockOffset, thresholds: Thresholds) -> Said:
    off = abs(clock.ahead) - clock.uncertainty
    where = "ahead" if clock.ahead > 0 else "behind"
    text = f"the clock is {abs(clock.ahead):.1f} s {where}, give or take {clock.uncertainty:.1f} s."
    if off > _CLOCK_CRITICAL_S:
        return _CRITICAL, "clock-wrong", text
    return (_WARNING, "clock-wrong", text) if off > thresholds.clock_s else (_OK, "clock", text)


def _inbox(box: Inbox, limit: InboxLimit, *, is_scan_day: bool) -> Said:
    """Judge a folder; its files are counted, never named."""
    waiting, failed = box.waiting, box.failed
    if waiting.state != "ok":
        return _CRITICAL, "inbox-unreadable", f"{limit.name} could not be read."
    more = " or more" if waiting.is_truncated else ""
    state = f"{limit.name}: {waiting.count}{more} files wait"
    if failed is not None and failed.state == "ok" and failed.count > limit.most_failed:
        return _WARNING, "inbox-failed", f"{state}, {failed.count} could not be processed."
    if limit.most_waiting is not None and waiting.count > limit.most_waiting:
        return _WARNING, "inbox-queue", f"{state}, more than {limit.most_waiting}."
    if limit.oldest_h is not None and waiting.oldest_age is not None and waiting.oldest_age > limit.oldest_h * 3600:
        return _WARNING, "inbox-stuck", f"{state}, the oldest for {waiting.oldest_age / 3600:.0f} h."
    if is_scan_day and limit.newest_h is not None and not waiting.is_truncated:
        if waiting.newest_age is None:
            return _WARNING, "inbox-empty", f"{limit.name}: nothing has come."
        if waiting.newest_age > limit.newest_h * 3600:
            return _WARNING, "inbox-old", f"{limit.name}: nothing has come for {waiting.newest_age / 3600:.0f} h."
    return _OK, "inbox", f"{state}."


def _certificate(certificate: Certificate, thresholds: Thresholds, now: datetime) -> Said:
    if certificate.state != "ok":
        return _WARNING, "certificate-unreadable", f"{certificate.path} could not be read."
    if certificate.expires is None:
        return _OK, "certificate", f"{certificate.path} never ends."
    days = (certificate.expires - now).total_seconds() / _DAY_S
    text = f"{certificate.path} ends in {days:.0f} days." if days >= 0 else f"{certificate.path} has ended."
    if days < thresholds.certificate_critical_days:
        return _CRITICAL, "certificate-ends", text
    return (
        (_WARNING, "certificate-ends", text)
        if days < thresholds.certificate_warning_days
        else (_OK, "certificate", text)
    )


def _extra(extra: Extra, *, is_shown: bool) -> Said:
    if extra.state != "ok" or extra.code is None:
        return _UNKNOWN, "extra-unfinished", "the check did not end in time."
    severity = {0: _OK, 1: _WARNING, 2: _CRITICAL}.get(extra.code, _UNKNOWN)
    return severity, "extra", f"{extra.line}." if is_shown and extra.line else f"the check ended with {extra.code}."


def _pacs(found: Echo, version_before: str) -> Said:
    text = VERDICTS[found.verdict] + (f" ({found.detail})" if found.detail else "") + "."
    if found.verdict == "ok":
        if found.version and version_before and found.version != version_before:
            return _NOTICE, "version-changed", "answers to C-ECHO; it is another version than before."
        return _OK, "ok", text
    if found.verdict == "unknown":
        return _UNKNOWN, found.verdict, text
    is_mild = found.verdict in ("port-open", "forward-prohibited", "find-refused") or found.may_pass
    return _WARNING if is_mild else _CRITICAL, found.verdict, text


def size(count: float) -> str:
    """Write bytes for people, in powers of ten."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 999.5 or unit == "TB":
            return f"{count:.0f} {unit}" if unit in ("B", "kB") or abs(count) >= 99.5 else f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError("unreachable")
