"""From the study file to a fleet and back: who is asked what, and what their answers come to."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.base import now, secret_of
from tasks import __version__
from tasks.config import MachineSettings, MonitorSettings, SiteSettings
from tasks.errors import UsageError
from tasks.logs import LOGGER
from tasks.monitor.answer import clock_offset, is_finished, read_answer
from tasks.monitor.calendar import WEEKDAYS, Calendar, parse_window, zone_of
from tasks.monitor.finding import Finding, Key
from tasks.monitor.fleet import Asked, Limits, Machine, Round, Target, ask_fleet, down_behind
from tasks.monitor.history import History, Night, Pardon, State, judge_nights
from tasks.monitor.judge import (
    DiskLimit,
    InboxLimit,
    Judged,
    Past,
    Thresholds,
    judge_answer,
    judge_jump,
    judge_silence,
)
from tasks.monitor.probe import (
    POSIX_COMMAND,
    ExtraQuestion,
    InboxQuestion,
    Questions,
    posix_probe,
    questions_digest,
    windows_command,
    windows_probe,
)
from tasks.monitor.report import Occasion, Place, Report, build_report
from tasks.monitor.ssh import Address, read_known_hosts, read_ssh_config
from tasks.review.manifest import read_manifest
from tasks.review.ratings import RATINGS, read_events, standing
from tasks.workspace import Workspace

_GB = 1e9
_TREND_NIGHTS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A machine of the study file, ready to be asked and judged.

    Attributes
    ----------
    site, own
        Its settings.
    questions, nonce
        What it is asked, and the fence of the answer.
    thresholds, calendar
        By what it is judged.
    """

    site: SiteSettings
    own: MachineSettings
    questions: Questions
    nonce: str
    thresholds: Thresholds
    calendar: Calendar


def watched_machines(settings: MonitorSettings) -> list[Watched]:
    """Put the study file's machines into words.

    Raises
    ------
    UsageError
        If a time zone or a country is not known.
    """
    found = []
    for site in settings.sites:
        calendar = Calendar(
            zone=zone_of(site.time_zone),
            scan_days=frozenset(WEEKDAYS.index(day) for day in site.scan_days),
            holidays=site.holidays,
            closed=frozenset(date.fromisoformat(day) for day in site.closed),
            maintenance=tuple(parse_window(text) for text in site.maintenance),
        )
        found += [
            Watched(
                site=site,
                own=own,
                questions=_questions(own),
                nonce=secrets.token_hex(16),
                thresholds=_thresholds(settings, own),
                calendar=calendar,
            )
            for own in site.machines
        ]
    return found


def _questions(own: MachineSettings) -> Questions:
    return Questions(
        mounts=own.mounts,
        services=own.services,
        processes=own.processes,
        ports=own.ports,
        inboxes=tuple(InboxQuestion(folder=one.folder, failed=one.failed) for one in own.inboxes),
        certificates=own.certificates,
        extras=tuple(ExtraQuestion(command=one.command) for one in own.extras),
    )


def _thresholds(settings: MonitorSettings, own: MachineSettings) -> Thresholds:
    return Thresholds(
        disk=DiskLimit(warning=settings.disk_warning, critical=settings.disk_critical),
        disks={
            one.mount: DiskLimit(warning=one.warning, critical=one.critical, least_free=one.least_free_gb * _GB)
            for one in own.disks
        },
        inboxes={
            one.folder: InboxLimit(
                name=one.name,
                newest_h=one.newest_hours,
                oldest_h=one.oldest_hours,
                most_waiting=one.most_waiting,
                most_failed=one.most_failed,
            )
            for one in own.inboxes
        },
        extras={one.command: (one.name, one.shows_line) for one in own.extras},
    )


def path_to(own: MachineSettings, settings: MonitorSettings) -> tuple[Address, ...]:
    """Say where to log in one after the other, by the study file and by OpenSSH's configuration."""
    config = read_ssh_config(settings.ssh_config)
    key_files = (own.key_file,) if own.key_file is not None else ()
    last = config.address(own.host, port=own.port, user=own.user, key_files=key_files)
    way = own.jump or config.jumps(own.host)
    return (*(config.address(name, port=None, user=own.user, key_files=key_files) for name in way), last)


def as_machine(watched: Watched, settings: MonitorSettings) -> Machine:
    """Make what the fleet is asked with."""
    own, questions, nonce = watched.own, watched.questions, watched.nonce
    if own.installed:
        # What authorized_keys names is run, whatever is asked for; it reads the fence alone.
        command, stdin = POSIX_COMMAND, f"{nonce}\n".encode("ascii")
    elif own.system == "posix":
        command, stdin = POSIX_COMMAND, posix_probe(questions, nonce)
    else:
        command, stdin = windows_command(nonce), windows_probe(questions, nonce)
    return Machine(
        name=own.name,
        site=watched.site.name,
        path=path_to(own, settings),
        command=command,
        stdin=stdin,
        until=partial(_is_whole, nonce=nonce),
        targets=tuple(
            Target(
                name=f"{one.name}",
                host=one.host,
                port=one.port,
                called=one.called,
                calling=one.calling,
                with_find=one.with_find,
            )
            for one in own.targets
        ),
    )


def _is_whole(answer: bytes, *, nonce: str) -> bool:
    return is_finished(answer, nonce)


def known_hosts_path(settings: MonitorSettings, workspace: Workspace) -> Path:
    """Say where host keys are kept."""
    return settings.known_hosts or workspace.monitor / "known_hosts"


def limits_of(settings: MonitorSettings) -> Limits:
    """Give the study file's deadlines."""
    return Limits(
        step_s=settings.step_seconds,
        probe_s=settings.probe_seconds,
        machine_s=settings.machine_seconds,
        fleet_s=settings.fleet_seconds,
        workers=settings.workers,
        again_after_s=settings.again_after_seconds,
    )


def passphrases_of(settings: MonitorSettings, machines: Sequence[Machine]) -> dict[Path, str]:
    """Give the passphrase of every key file; none where the study file names no place for it.

    Raises
    ------
    UsageError
        If it is not there.
    """
    passphrase = secret_of(None, settings.passphrase_variable)
    files = {file for machine in machines for address in machine.path for file in address.key_files}
    return dict.fromkeys(files, passphrase) if passphrase else {}


def measure_night(settings: MonitorSettings, workspace: Workspace, history: History, *, night_of: str) -> int:
    """Ask the whole fleet, judge the answers and keep the night.

    Returns
    -------
    int
        The night's number.

    Raises
    ------
    UsageError
        If the study file names no machine, or something that cannot be used.
    """
    watched = watched_machines(settings)
    if not watched:
        raise UsageError(
            problem="The study file names no machine to watch.",
            remedy="Add [[monitor.sites]] as `scanward init` shows.",
        )
    machines = [as_machine(one, settings) for one in watched]
    begun, tick = now(), time.monotonic()
    found = ask_fleet(
        machines,
        known=read_known_hosts(known_hosts_path(settings, workspace)),
        passphrases=passphrases_of(settings, machines),
        limits=limits_of(settings),
        references=[(host, int(port)) for host, _, port in (one.rpartition(":") for one in settings.references)],
        seed=begun.toordinal(),
    )
    LOGGER.info("Asked %d machines in %.0f s.", len(machines), found.seconds)
    findings, observations, facts = _judge_round(watched, machines, found, history, begun, tick)
    return history.add_night(
        date=night_of,
        begun=begun,
        software=__version__,
        is_cut_off=found.is_cut_off,
        machines={one.own.name: found.asked[one.own.name].fault is None for one in watched},
        findings=findings,
        observations={**observations, ("", "seconds", ""): found.seconds},
        facts=facts,
    )


def _judge_round(  # noqa: PLR0917 - a night's whole yield
    watched: Sequence[Watched],
    machines: Sequence[Machine],
    found: Round,
    history: History,
    begun: datetime,
    tick: float,
) -> tuple[list[Finding], dict[tuple[str, str, str], float], dict[tuple[str, str], str]]:
    findings: list[Finding] = []
    observations: dict[tuple[str, str, str], float] = {}
    facts: dict[tuple[str, str], str] = {}
    sites = {machine.name: machine.site for machine in machines}
    for jump, behind in down_behind(found, machines).items():
        findings.append(judge_jump(sites[behind[0]], jump, len(behind)))
    for one in watched:
        name = one.own.name
        asked = found.asked[name]
        if asked.answer is None:
            if asked.fault is not None:
                findings.append(judge_silence(one.site.name, name, asked.fault, asked.tries))
            continue
        judged = _judge_one(one, asked, history, begun, tick)
        findings += judged.findings
        observations |= {(name, *key): value for key, value in judged.observations.items()}
        facts |= {(name, key): text for key, text in judged.facts.items()}
    return findings, observations, facts


def _judge_one(one: Watched, asked: Asked, history: History, begun: datetime, tick: float) -> Judged:
    assert asked.answer is not None
    name, answer = one.own.name, read_answer(asked.answer.out, one.nonce, one.questions)
    at = begun.timestamp() - tick
    clock = clock_offset(answer, at + asked.answer.started, at + asked.answer.ended)
    return judge_answer(
        one.site.name,
        name,
        answer,
        asked.echoes,
        one.thresholds,
        past=Past(
            course=lambda what, subject: history.course(name, what, subject),
            fact=lambda what: history.last_fact(name, what),
        ),
        now=begun,
        clock=clock,
        tries=asked.tries,
        is_scan_day=one.calendar.expects_scans(begun),
        digest=questions_digest(one.questions) if one.own.installed else "",
    )


# -- the report --------------------------------------------------------------------------------------------------------


def states_of(settings: MonitorSettings, history: History, *, night_of: str | None) -> tuple[list[State], Night | None]:
    """Say what the nights up to one come to, with pardons, and with maintenance as one."""
    nights = history.nights(date=night_of)
    if not nights:
        return [], None
    last = nights[-1]
    calendars = {one.own.name: one.calendar for one in watched_machines(settings)}
    states = []
    for state in judge_nights(nights, history.pardons()):
        calendar = calendars.get(state.finding.machine)
        if state.pardon is None and calendar is not None and calendar.is_in_maintenance(last.begun):
            state = replace(state, pardon=_maintenance(state, last.begun))  # noqa: PLW2901
        states.append(state)
    return states, last


def _maintenance(state: State, moment: datetime) -> Pardon:
    return Pardon(
        kind="mute",
        machine=state.finding.machine,
        check="",
        subject="",
        who="maintenance",
        why="it is the site's time for it",
        made=moment,
        until=moment,
    )


def report_on(
    settings: MonitorSettings, history: History, *, night_of: str, notes: Sequence[str] = ()
) -> tuple[Report, Night]:
    """Build the report on a night that was measured.

    Raises
    ------
    UsageError
        If there is no such night.
    """
    states, night = states_of(settings, history, night_of=night_of)
    if night is None:
        raise UsageError(
            problem=f"Nothing was measured on {night_of}.",
            remedy="What was not asked then cannot be asked now; leave --date out to ask today.",
        )
    trends: dict[Key, list[float]] = {}
    for state in states:
        if state.finding.check == "disk" and state.is_open:
            course = history.course(state.finding.machine, "disk.share", state.finding.subject, until=night.number)
            trends[state.finding.key] = [value for _, value in course[-_TREND_NIGHTS:]]
    took = history.course("", "seconds", "", until=night.number)
    occasion = Occasion(
        fleet=settings.fleet,
        date=night.date,
        when=night.begun.astimezone(zone_of(settings.time_zone)),
        places=[Place(name=site.name, machines=tuple(one.name for one in site.machines)) for site in settings.sites],
        is_cut_off=night.is_cut_off,
        notes=notes,
        trends=trends,
        seconds=took[-1][1] if took else 0.0,
        software=__version__,
    )
    return build_report(states, occasion), night


def notes_on_reading(review: Path) -> list[str]:
    """Say how many cases of a study have no verdict of anybody's yet; nothing if there is nothing to read."""
    path = review / "manifest.json"
    if not path.exists():
        return []
    digests = {entry.entry_id: entry.digest for entry in read_manifest(path).entries}
    rated = {
        case
        for store in (review / RATINGS).glob("*.db")
        for (case, _), found in standing(read_events(store)).items()
        if found.verdict and found.digest == digests.get(case)
    }
    left = len(digests) - len(rated)
    return [f"Study: {left:,} of {len(digests):,} cases have no verdict yet."] if left else []


def notes_on_study(status: Mapping[str, Any]) -> list[str]:
    """Say where the study stands, in counts alone."""
    holds, stages = status["holds"], status["stages"]
    words = {
        "incomplete_series": "series are not complete yet",
        "conflicts": "files are in conflict",
        "rejected": "files of the dump were rejected",
    }
    notes = [f"{holds[name]:,} {said}." for name, said in words.items() if holds.get(name)]
    held = sum(int(count) for count in stages.get("De-identify", {}).get("reasons", {}).values())
    if held:
        notes.append(f"{held:,} files were held back from the export.")
    return [f"Study: {note}" for note in notes]
