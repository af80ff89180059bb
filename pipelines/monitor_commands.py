"""`scanward monitor`: get to know hosts, see the last report, say that a problem is known."""

from __future__ import annotations

import argparse
import datetime as dt
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.base import now, user_name
from pipelines.monitor import load_watch
from pipelines.watch import as_machine, known_hosts_path, limits_of, passphrases_of, report_on, watched_machines
from tasks.errors import UsageError
from tasks.files import write_atomically
from tasks.monitor.finding import Severity
from tasks.monitor.fleet import Machine
from tasks.monitor.history import History, Pardon
from tasks.monitor.probe import installed_probe
from tasks.monitor.report import Report
from tasks.monitor.ssh import (
    Deadline,
    SshFault,
    Watchdog,
    check_host_key,
    fetch_host_key,
    fingerprint,
    read_known_hosts,
)


def add_commands(commands: Any) -> None:
    """Add `monitor` and its commands to a parser."""
    monitor = commands.add_parser("monitor", help="the night watch: hosts' keys, the last report, known problems")
    kinds = monitor.add_subparsers(dest="monitor_command", required=True, metavar="COMMAND")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--study", metavar="FILE.toml", help="default: study.toml in this folder")
    shared.add_argument("--workspace", metavar="DIR", help="stands in for the key of the study file")

    enrol = kinds.add_parser(
        "enrol",
        parents=[shared],
        help="show the host keys that are not known yet, and keep those that you confirm",
        description="Ask every machine of the study file, and those on the way to it, for its host key. Compare the "
        "fingerprint with the one that the site tells you: `ssh-keygen -l -f /etc/ssh/ssh_host_ed25519_key.pub` there.",
    )
    enrol.add_argument("machines", nargs="*", metavar="MACHINE", help="these only; all if none is named")
    enrol.add_argument("--yes", action="store_true", help="keep every new key without asking; you have compared them")
    enrol.set_defaults(act=_enrol)

    status = kinds.add_parser(
        "status",
        parents=[shared],
        help="print the last report; ends with 0, 1, 2 or 3 as Nagios has it",
        description="Print the text of the last report. Ends with 0 if all is well, 1 with warnings, 2 if something is "
        "critical, 3 if nothing is known, or the last night is more than 26 hours ago.",
    )
    status.add_argument("--short", action="store_true", help="one line")
    status.add_argument("--prometheus", metavar="FILE", type=Path, help="write a text file for node_exporter, too")
    status.set_defaults(act=_status)

    for kind, what in (("ack", "say that somebody looks after a problem"), ("mute", "do not tell a problem")):
        pardon = kinds.add_parser(kind, parents=[shared], help=f"{what}, until a date")
        pardon.add_argument("machine", metavar="MACHINE")
        pardon.add_argument("--check", default="", metavar="NAME", help="such as disk or pacs; all if left out")
        pardon.add_argument("--subject", default="", metavar="NAME", help="such as a mount point; all if left out")
        pardon.add_argument("--until", required=True, metavar="YYYY-MM-DD", type=_date, help="the first day it is news")
        pardon.add_argument("--why", required=True, metavar="TEXT")
        pardon.set_defaults(act=_pardon, kind=kind)

    probe = kinds.add_parser(
        "probe",
        parents=[shared],
        help="print the probe as a file to install on a machine, so that the key may run nothing else",
        description="Print the probe as a shell script. Put it on the machine as ~/.scanward/probe, set installed = "
        "true for it in the study file, and `authorize` prints a line that runs this file and nothing else. The "
        "watch tells when the study file asks something new.",
    )
    probe.add_argument("machine", metavar="MACHINE")
    probe.set_defaults(act=_probe)

    authorize = kinds.add_parser(
        "authorize",
        parents=[shared],
        help="print the line for authorized_keys on a machine, which lets the watch in and nothing more",
        description="Print the line for ~/.ssh/authorized_keys of the watch's account on a machine: no terminal, no "
        "agent, and forwarding to the machine's own targets alone.",
    )
    authorize.add_argument("machine", metavar="MACHINE")
    authorize.add_argument("--public-key", metavar="FILE.pub", type=Path, required=True)
    authorize.set_defaults(act=_authorize)


def _chosen(options: argparse.Namespace) -> tuple[Any, Any, list[Machine]]:
    settings, place = load_watch(options.study, options.workspace)
    machines = [as_machine(one, settings.monitor) for one in watched_machines(settings.monitor)]
    wanted: Sequence[str] = getattr(options, "machines", None) or (
        [options.machine] if getattr(options, "machine", None) else []
    )
    unknown = sorted(set(wanted) - {machine.name for machine in machines})
    if unknown:
        raise UsageError(
            problem=f"The study file has no machine {unknown[0]}.",
            remedy=f"It has: {', '.join(machine.name for machine in machines) or 'none'}.",
        )
    return settings, place, [machine for machine in machines if not wanted or machine.name in wanted]


def _enrol(options: argparse.Namespace) -> int:
    settings, place, machines = _chosen(options)
    path = known_hosts_path(settings.monitor, place)
    limits, passphrases = limits_of(settings.monitor), passphrases_of(settings.monitor, machines)
    ways = dict.fromkeys(machine.path[: end + 1] for machine in machines for end in range(len(machine.path)))
    failed = 0
    with Watchdog() as watchdog:
        for way in sorted(ways, key=len):
            known = read_known_hosts(path)
            name = way[-1].known_as
            try:
                key = fetch_host_key(
                    way,
                    Deadline(limits.machine_s),
                    watchdog,
                    known=known,
                    passphrases=passphrases,
                    step_s=limits.step_s,
                )
                try:
                    check_host_key(known, name, key)
                except SshFault as fault:
                    if fault.kind == "host-key-changed":
                        raise
                else:
                    sys.stdout.write(f"{name}: known, {fingerprint(key)}\n")
                    continue
            except SshFault as fault:
                failed += 1
                remedy = (
                    f" Once you know why: ssh-keygen -R '{name}' -f {path}" if fault.kind == "host-key-changed" else ""
                )
                sys.stdout.write(f"{name}: {fault}.{remedy}\n")
                continue
            sys.stdout.write(f"{name}: new, {key.get_name()} {fingerprint(key)}\n")
            if not options.yes and not _is_confirmed():
                failed += 1
                sys.stdout.write(f"{name}: not kept.\n")
                continue
            known.add(name, key.get_name(), key)
            lines = [_line(host, kind, one) for host in known for kind, one in known[host].items()]
            write_atomically(path, "".join(lines).encode("ascii"), mode=0o600)
    return 1 if failed else 0


def _line(host: str, kind: str, key: Any) -> str:
    return f"{host} {kind} {key.get_base64()}\n"


def _is_confirmed() -> bool:
    sys.stdout.write("Is that the fingerprint that the site has told you? [yes/no] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() == "yes"


def _status(options: argparse.Namespace) -> int:
    settings, place = load_watch(options.study, options.workspace)
    path = place.monitor / "nights.db"
    if not path.exists():
        sys.stdout.write("No night was measured yet.\n")
        return Severity.UNKNOWN.exit_code
    with History(path) as history:
        nights = history.nights(most=1)
        if not nights:
            sys.stdout.write("No night was measured yet.\n")
            return Severity.UNKNOWN.exit_code
        report, night = report_on(settings.monitor, history, night_of=nights[-1].date)
    age = (now() - night.begun).total_seconds()
    sys.stdout.write(f"{report.subject}\n" if options.short else report.text)
    if options.prometheus is not None:
        _write_prometheus(options.prometheus, report, night.begun.timestamp())
    if age > 26 * 3600:
        sys.stdout.write(f"The last night is {age / 3600:.0f} hours ago: the watch does not run.\n")
        return Severity.UNKNOWN.exit_code
    return report.worst.exit_code


def _write_prometheus(path: Path, report: Report, when: float) -> None:
    lines = [
        "# HELP scanward_monitor_machines Machines of the fleet by how they are.",
        "# TYPE scanward_monitor_machines gauge",
        *(
            f'scanward_monitor_machines{{state="{name}"}} {report.counts[name]}'
            for name in ("problems", "unknown", "well")
        ),
        "# HELP scanward_monitor_last_night_timestamp_seconds When the fleet was asked last.",
        "# TYPE scanward_monitor_last_night_timestamp_seconds gauge",
        f"scanward_monitor_last_night_timestamp_seconds {when:.0f}",
    ]
    write_atomically(path.absolute(), ("\n".join(lines) + "\n").encode("ascii"))


def _date(text: str) -> dt.datetime:
    try:
        return dt.datetime.combine(dt.date.fromisoformat(text), dt.time(), dt.UTC)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no date such as 2026-03-01") from None


def _pardon(options: argparse.Namespace) -> int:
    _, place, _ = _chosen(options)
    moment = now()
    if options.until <= moment:
        raise UsageError(problem=f"{options.until:%Y-%m-%d} has passed.", remedy="Give a day to come.")
    with History(place.monitor / "nights.db") as history:
        history.pardon(
            Pardon(
                kind=options.kind,
                machine=options.machine,
                check=options.check,
                subject=options.subject,
                who=user_name(),
                why=options.why,
                made=moment,
                until=options.until,
            )
        )
    what = " ".join(part for part in (options.machine, options.check, options.subject) if part)
    said = "is known" if options.kind == "ack" else "is not told"
    sys.stdout.write(f"{what} {said} until {options.until:%Y-%m-%d}.\n")
    return 0


def _probe(options: argparse.Namespace) -> int:
    settings, _, _ = _chosen(options)
    watched = next(one for one in watched_machines(settings.monitor) if one.own.name == options.machine)
    if watched.own.system != "posix":
        raise UsageError(problem=f"{options.machine} has no POSIX shell.", remedy="There the probe is sent each time.")
    sys.stdout.write(installed_probe(watched.questions).decode("utf-8"))
    return 0


def _authorize(options: argparse.Namespace) -> int:
    settings, _, machines = _chosen(options)
    try:
        key = options.public_key.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as fault:
        raise UsageError(
            problem=f"{options.public_key} cannot be read.", remedy="Give the public key's file."
        ) from fault
    if "PRIVATE KEY" in key or len(key.splitlines()) != 1:
        raise UsageError(problem=f"{options.public_key} is no public key.", remedy="Give the file that ends in .pub.")
    watched = next(one for one in watched_machines(settings.monitor) if one.own.name == options.machine)
    forced = ',command="sh .scanward/probe"' if watched.own.installed else ""
    targets = machines[0].targets
    opens = "".join(f',permitopen="{one.host}:{one.port}"' for one in targets)
    forwarding = f",port-forwarding{opens}" if targets else ""
    sys.stdout.write(f"restrict{forced}{forwarding} {key}{os.linesep}")
    return 0
