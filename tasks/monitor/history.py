"""What was found, night by night, and what that comes to: new, still there, gone, or not known.

What is kept are the findings as they were; every state is worked out from them, so that a report on a past night says
what it said then. Nights in which this machine itself had no network are kept, and pass for no night at all.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from tasks.database import Database
from tasks.monitor.finding import Finding, Key, Severity

NIGHTS_KEPT: Final = 400

FLAPPING_NIGHTS: Final = 21
"""So many of the last known results decide whether something comes and goes."""

FLAPPING_FROM: Final = 0.30
"""It does if so large a share of them differ from the one before, the later ones weighing more."""

_VERSION = 1
_SCHEMA = (
    """CREATE TABLE nights (
        night INTEGER PRIMARY KEY, date TEXT NOT NULL, begun TEXT NOT NULL, software TEXT NOT NULL,
        is_cut_off INTEGER NOT NULL
    ) STRICT""",
    "CREATE INDEX nights_by_date ON nights (date)",
    """CREATE TABLE machines (
        night INTEGER NOT NULL, machine TEXT NOT NULL, is_asked INTEGER NOT NULL, PRIMARY KEY (night, machine)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE findings (
        night INTEGER NOT NULL, machine TEXT NOT NULL, "check" TEXT NOT NULL, subject TEXT NOT NULL,
        site TEXT NOT NULL, severity INTEGER NOT NULL, code TEXT NOT NULL, text TEXT NOT NULL, value REAL,
        unit TEXT NOT NULL,
        PRIMARY KEY (night, machine, "check", subject)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE observations (
        machine TEXT NOT NULL, name TEXT NOT NULL, subject TEXT NOT NULL, night INTEGER NOT NULL, value REAL NOT NULL,
        PRIMARY KEY (machine, name, subject, night)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE facts (
        machine TEXT NOT NULL, name TEXT NOT NULL, night INTEGER NOT NULL, text TEXT NOT NULL,
        PRIMARY KEY (machine, name, night)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE pardons (
        pardon INTEGER PRIMARY KEY, kind TEXT NOT NULL, machine TEXT NOT NULL, "check" TEXT NOT NULL,
        subject TEXT NOT NULL, who TEXT NOT NULL, why TEXT NOT NULL, made TEXT NOT NULL, until TEXT NOT NULL
    ) STRICT""",
)


class Change(enum.Enum):
    """What a night says of a problem against the nights before."""

    NEW = "NEW"
    STILL = "STILL"
    RECOVERED = "RECOVERED"
    UNKNOWN = "UNKNOWN"
    NONE = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Night:
    """One run of the watch.

    Attributes
    ----------
    number
        Counts up.
    date
        Of the report, ISO 8601.
    begun
        UTC.
    is_cut_off
        True if this machine itself had no network.
    asked
        Machines that answered their probe.
    findings
        By key; what is well may be left out.
    """

    number: int
    date: str
    begun: datetime
    is_cut_off: bool
    asked: frozenset[str]
    findings: Mapping[Key, Finding]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pardon:
    """A problem that is known, or of which nothing is to be heard for a time.

    Attributes
    ----------
    kind
        "ack" if somebody looks after it, "mute" if it is not to be told.
    machine, check, subject
        What it is about; an empty one stands for any.
    who, why
        Who said so, and the reason.
    made, until
        UTC; it ends by itself.
    """

    kind: str
    machine: str
    check: str
    subject: str
    who: str
    why: str
    made: datetime
    until: datetime

    def covers(self, key: Key, at: datetime) -> bool:
        """Tell whether it holds for a problem at a moment."""
        own = (self.machine, self.check, self.subject)
        return self.made <= at < self.until and all(not mine or mine == its for mine, its in zip(own, key, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A finding of a night, and how it stands to the nights before.

    Attributes
    ----------
    finding
        As it is this night; of what recovered or is not known, as it was last.
    change
        Against the nights before.
    since
        The date on which the problem began; empty if there is none.
    nights
        How many nights it has been there, those included in which nothing was known.
    was
        How grave it was the last time it was known; None if it is new.
    is_flapping
        True if it comes and goes.
    pardon
        What holds for it this night, or None.
    """

    finding: Finding
    change: Change
    since: str = ""
    nights: int = 0
    was: Severity | None = None
    is_flapping: bool = False
    pardon: Pardon | None = None

    @property
    def is_open(self) -> bool:
        """True if the problem is there, or was there when it was last known."""
        return self.change in (Change.NEW, Change.STILL, Change.UNKNOWN)

    @property
    def is_told(self) -> bool:
        """True unless it was muted."""
        return self.pardon is None or self.pardon.kind != "mute"


def judge_nights(nights: Sequence[Night], pardons: Iterable[Pardon] = ()) -> list[State]:
    """Say what the last night comes to.

    Parameters
    ----------
    nights
        In their order; the last one is told.
    pardons
        All there are.

    Returns
    -------
    list of State
        Of every problem that is there, was there the night before or cannot be known, and of every other finding of
        the night; by site, machine, check and subject.
    """
    if not nights:
        return []
    last = nights[-1]
    known = [night for night in nights if not night.is_cut_off]
    keys = {key for night in known for key, one in night.findings.items() if one.severity.is_problem}
    keys |= set(last.findings)
    standing = list(pardons)
    states = []
    for key in keys:
        state = _judge(key, known, is_told=not last.is_cut_off)
        if state is not None:
            pardon = next((one for one in standing if one.covers(key, last.begun)), None)
            states.append(replace(state, pardon=pardon))
    return sorted(states, key=lambda one: (one.finding.site, *one.finding.key))


def _result(night: Night, key: Key) -> Severity | None:
    """Give what a night knew of a thing; None if it knew nothing."""
    found = night.findings.get(key)
    if found is not None:
        return None if found.severity is Severity.UNKNOWN else found.severity
    machine, check, _ = key
    # Whoever did not answer says nothing of its disks; that it did not answer is itself a finding.
    return Severity.OK if machine in night.asked or check == "ssh" else None


def _judge(key: Key, nights: Sequence[Night], *, is_told: bool) -> State | None:
    begun, count, was, last_problem = "", 0, None, None
    changes: list[bool] = []
    state: State | None = None
    before: Severity | None = None
    for night in nights:
        now = _result(night, key)
        found = night.findings.get(key)
        state = None
        if now is None:
            if last_problem is not None and begun:
                count += 1
                state = State(finding=last_problem, change=Change.UNKNOWN, since=begun, nights=count, was=was)
            elif found is not None:
                state = State(finding=found, change=Change.NONE)
            continue
        if before is not None:
            changes.append(now.is_problem != before.is_problem)
        before = now
        if now.is_problem and found is not None:
            change = Change.STILL if begun else Change.NEW
            begun, count = begun or night.date, count + 1
            state = State(finding=found, change=change, since=begun, nights=count, was=was)
            was, last_problem = now, found
        elif begun and last_problem is not None:
            state = State(finding=last_problem, change=Change.RECOVERED, since=begun, nights=count, was=was)
            begun, count, was, last_problem = "", 0, None, None
        elif found is not None:
            state = State(finding=found, change=Change.NONE)
    if state is None:
        return None
    if not is_told and state.change is not Change.NONE:
        state = State(
            finding=state.finding, change=Change.UNKNOWN, since=state.since, nights=state.nights, was=state.was
        )
    return _with_flapping(state, changes)


def _with_flapping(state: State, changes: Sequence[bool]) -> State:
    """Weigh the changes of the last nights, the oldest by 0.8 and the newest by 1.2, as Nagios does."""
    recent = changes[-(FLAPPING_NIGHTS - 1) :]
    if len(recent) < 5:
        return state
    weights = [0.8 + 0.4 * place / (len(recent) - 1) for place in range(len(recent))]
    share = sum(weight for weight, differs in zip(weights, recent, strict=True) if differs) / len(recent)
    if share < FLAPPING_FROM:
        return state
    return replace(state, is_flapping=True)


class History(Database):
    """The file in which the nights are kept; no value of a patient ever gets here.

    Parameters
    ----------
    path
        Made on first use, mode 0600.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, _SCHEMA, _VERSION)

    def add_night(
        self,
        *,
        date: str,
        begun: datetime,
        software: str,
        is_cut_off: bool,
        machines: Mapping[str, bool],
        findings: Iterable[Finding],
        observations: Mapping[tuple[str, str, str], float],
        facts: Mapping[tuple[str, str], str],
    ) -> int:
        """Keep a night, whole or not at all; nights beyond `NIGHTS_KEPT` go.

        Parameters
        ----------
        machines
            Whether each answered.
        observations
            Numbers by (machine, name, subject), such as ("mri-1", "disk.used", "/data").
        facts
            Texts by (machine, name), such as the id of a machine's boot.

        Returns
        -------
        int
            The night's number.
        """
        with self._transaction():
            ((last,),) = self._read("SELECT coalesce(max(night), 0) FROM nights")
            night = int(last) + 1
            row = (night, date, begun.isoformat(), software, int(is_cut_off))
            self._connection.execute("INSERT INTO nights VALUES (?, ?, ?, ?, ?)", row)
            self._connection.executemany(
                "INSERT INTO machines VALUES (?, ?, ?)", [(night, name, int(asked)) for name, asked in machines.items()]
            )
            self._connection.executemany(
                "INSERT OR REPLACE INTO findings VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (night, *one.key, one.site, int(one.severity), one.code, one.text, one.value, one.unit)
                    for one in findings
                ],
            )
            self._connection.executemany(
                "INSERT INTO observations VALUES (?, ?, ?, ?, ?)",
                [(*key, night, value) for key, value in observations.items()],
            )
            self._connection.executemany(
                "INSERT INTO facts VALUES (?, ?, ?, ?)", [(*key, night, text) for key, text in facts.items()]
            )
            for table in ("nights", "machines", "findings", "observations", "facts"):
                self._connection.execute(f"DELETE FROM {table} WHERE night <= ?", (night - NIGHTS_KEPT,))  # noqa: S608
        return night

    def nights(self, *, date: str | None = None, most: int = 60) -> list[Night]:
        """Read the last nights, up to the last one of a date.

        Parameters
        ----------
        date
            ISO 8601; the newest night if None.
        most
            How many.

        Returns
        -------
        list of Night
            The oldest first; none if there is no night of that date.
        """
        if date is None:
            ((last,),) = self._read("SELECT coalesce(max(night), 0) FROM nights")
        else:
            ((last,),) = self._read("SELECT coalesce(max(night), 0) FROM nights WHERE date = ?", (date,))
        rows = list(
            self._read("SELECT * FROM nights WHERE night <= ? AND night > ? ORDER BY night", (last, last - most))
        )
        asked: defaultdict[int, set[str]] = defaultdict(set)
        findings: defaultdict[int, dict[Key, Finding]] = defaultdict(dict)
        span = (rows[0][0], rows[-1][0]) if rows else (1, 0)
        for night, machine in self._read(
            "SELECT night, machine FROM machines WHERE is_asked AND night BETWEEN ? AND ?", span
        ):
            asked[night].add(machine)
        for night, machine, check, subject, site, severity, code, text, value, unit in self._read(
            "SELECT * FROM findings WHERE night BETWEEN ? AND ?", span
        ):
            one = Finding(
                site=site,
                machine=machine,
                check=check,
                subject=subject,
                severity=Severity(severity),
                code=code,
                text=text,
                value=value,
                unit=unit,
            )
            findings[night][one.key] = one
        return [
            Night(
                number=night,
                date=when,
                begun=datetime.fromisoformat(begun),
                is_cut_off=bool(is_cut_off),
                asked=frozenset(asked[night]),
                findings=findings[night],
            )
            for night, when, begun, _, is_cut_off in rows
        ]

    def course(
        self, machine: str, name: str, subject: str, *, until: int | None = None
    ) -> list[tuple[datetime, float]]:
        """Read what was measured of one thing, the oldest first: when the night began, and the value."""
        rows = self._read(
            "SELECT nights.begun, value FROM observations JOIN nights USING (night)"
            " WHERE machine = ? AND name = ? AND subject = ? AND night <= ? ORDER BY night",
            (machine, name, subject, until if until is not None else 1 << 62),
        )
        return [(datetime.fromisoformat(begun), float(value)) for begun, value in rows]

    def last_fact(self, machine: str, name: str) -> str:
        """Read what a machine said of itself last; empty if it never did."""
        rows = list(
            self._read(
                "SELECT text FROM facts WHERE machine = ? AND name = ? ORDER BY night DESC LIMIT 1", (machine, name)
            )
        )
        return str(rows[0][0]) if rows else ""

    def pardon(self, pardon: Pardon) -> None:
        """Keep that something is known, or not to be told."""
        with self._transaction():
            self._connection.execute(
                'INSERT INTO pardons (kind, machine, "check", subject, who, why, made, until)'
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    pardon.kind,
                    pardon.machine,
                    pardon.check,
                    pardon.subject,
                    pardon.who,
                    pardon.why,
                    pardon.made.isoformat(),
                    pardon.until.isoformat(),
                ),
            )

    def pardons(self) -> list[Pardon]:
        """Read all that were ever given."""
        return [
            Pardon(
                kind=kind,
                machine=machine,
                check=check,
                subject=subject,
                who=who,
                why=why,
                made=datetime.fromisoformat(made),
                until=datetime.fromisoformat(until),
            )
            for _, kind, machine, check, subject, who, why, made, until in self._read(
                "SELECT * FROM pardons ORDER BY pardon"
            )
        ]
