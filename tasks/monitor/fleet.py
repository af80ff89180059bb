"""Ask a whole fleet at once: bounded, each machine within its deadline, and no "down" on a single missed answer."""

from __future__ import annotations

import contextlib
import queue
import random
import re
import shlex
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from tasks.monitor.dicom_echo import Echo, echo
from tasks.monitor.ssh import Address, Answer, Connection, Deadline, KnownHosts, SshFault, Watchdog, connect

PASSING: Final = frozenset({"timeout", "no-route", "refused", "closed", "no-ssh", "name-unknown", "jump-failed"})
"""Kinds of fault that a second try may not meet again; all others are the same an hour later."""

_NETWORK: Final = frozenset({"timeout", "no-route", "name-unknown", "refused"})
_TOOL_MISSING = 127
_TARGET_S = 12.0
_AGAIN_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A PACS or scanner, as the machine beside it reaches it.

    Attributes
    ----------
    name
        What it is called in reports.
    host, port
        As the remote machine knows them.
    called, calling
        AE titles: its own, and that of the remote machine.
    with_find
        Whether a query that matches nothing is sent, too.
    """

    name: str
    host: str
    port: int
    called: str
    calling: str
    with_find: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A remote machine and what it is asked.

    Attributes
    ----------
    name, site
        What it and its site are called in reports.
    path
        Where to log in one after the other; the last is the machine.
    command
        What is run there.
    stdin
        What the command reads.
    until
        Tells whether an answer is whole.
    targets
        What it should reach.
    """

    name: str
    site: str
    path: tuple[Address, ...]
    command: str
    stdin: bytes
    until: Callable[[bytes], bool] | None = None
    targets: tuple[Target, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long, how many at once, how often again.

    Attributes
    ----------
    step_s
        Seconds for each of connecting, greeting and login on each machine on the way.
    probe_s
        Seconds for the probe's answer.
    machine_s
        Seconds for one try at a machine, everything in it.
    fleet_s
        Seconds for all of it; who has not answered by then has not answered in time.
    workers
        Machines that are asked at once.
    behind_one
        Machines behind the same one on the way that are asked at once; an SSH server turns away more than about ten
        logins that have just begun.
    again_after_s
        Seconds to wait before each further try of those that failed.
    workers_again
        Machines that are tried again at once, or a quarter of them: too many at once may be why they failed.
    """

    step_s: float = 10.0
    probe_s: float = 25.0
    machine_s: float = 45.0
    fleet_s: float = 600.0
    workers: int = 32
    behind_one: int = 8
    again_after_s: tuple[float, ...] = (5.0, 12.0)
    workers_again: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What came of asking one machine.

    Attributes
    ----------
    machine
        Its name.
    answer
        Of the probe; None if there is none.
    fault
        Why there is no answer; None if there is one.
    echoes
        What each target answered, by its name.
    tries
        How often it was asked.
    seconds
        How long the last try took.
    server
        What its SSH server calls itself; written by the other side.
    """

    machine: str
    answer: Answer | None = None
    fault: SshFault | None = None
    echoes: Mapping[str, Echo] = field(default_factory=dict)
    tries: int = 1
    seconds: float = 0.0
    server: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What came of asking the fleet.

    Attributes
    ----------
    asked
        By the machine's name.
    is_cut_off
        True if it is this machine that has no network: what it says of the others is worth nothing.
    seconds
        How long it took.
    """

    asked: Mapping[str, Asked]
    is_cut_off: bool
    seconds: float


def ask_fleet(
    machines: Sequence[Machine],
    *,
    known: KnownHosts,
    passphrases: Mapping[Path, str] | None = None,
    limits: Limits | None = None,
    references: Sequence[tuple[str, int]] = (),
    progress: Callable[[int, int], None] | None = None,
    seed: int = 0,
) -> Round:
    """Ask every machine, and those that do not answer again.

    Parameters
    ----------
    known
        The host keys.
    references
        (host, port) of what answers whenever this machine has its network, such as the gateway; without any, the
        fleet itself tells: it is not the others that are gone if nearly all are.
    progress
        Called with how many are done and how many there are.
    seed
        Of the order in which machines are asked.

    Returns
    -------
    Round
        Whatever happens, with one entry for each machine.
    """
    limits = limits or Limits()
    begun, whole = time.monotonic(), Deadline(limits.fleet_s)
    found: dict[str, Asked] = {}
    with Watchdog() as watchdog:
        one_try = _Try(known=known, passphrases=passphrases or {}, limits=limits, watchdog=watchdog)
        waiting = list(machines)
        # Neighbours in the study file often stand behind one line: they are not asked in one breath.
        random.Random(seed).shuffle(waiting)
        for number, pause in enumerate((0.0, *limits.again_after_s), 1):
            if number > 1 and (not waiting or whole.left < pause):
                break
            if number > 1 and _is_cut_off(machines, found, references, limits.step_s):
                break
            time.sleep(pause)
            one_try.forget_the_way()
            workers = limits.workers if number == 1 else max(limits.workers_again, len(waiting) // 4)
            for asked in _in_parallel(one_try, waiting, workers, whole):
                found[asked.machine] = replace(asked, tries=number)
                if progress is not None:
                    progress(len(found), len(machines))
            waiting = [one for one in waiting if _may_pass(found[one.name])]
    return Round(
        asked=found,
        is_cut_off=_is_cut_off(machines, found, references, limits.step_s),
        seconds=time.monotonic() - begun,
    )


def _may_pass(asked: Asked) -> bool:
    return asked.fault is not None and asked.fault.kind in PASSING


def _is_cut_off(
    machines: Sequence[Machine],
    found: Mapping[str, Asked],
    references: Sequence[tuple[str, int]],
    step_s: float,
) -> bool:
    """Tell whether it is this machine that is off the network."""
    lost = [asked for asked in found.values() if asked.fault is not None and asked.fault.kind in _NETWORK]
    if not lost:
        return False
    if references:
        return len(lost) * 2 > len(found) and not any(_answers(host, port, step_s) for host, port in references)
    sites = {machine.name: machine.site for machine in machines}
    reached = {sites[asked.machine] for asked in found.values() if asked.fault is None}
    gone = {sites[asked.machine] for asked in lost} - reached
    return len(gone) > 3 and len(gone) * 5 > 4 * len(set(sites.values()))


def _answers(host: str, port: int, step_s: float) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection((host, port), timeout=min(step_s, 3.0)).close()
        return True
    return False


def _in_parallel(one_try: _Try, machines: Sequence[Machine], workers: int, whole: Deadline) -> Iterator[Asked]:
    """Ask machines by so many threads at once, and give what came of each, until the deadline for all."""
    waiting: queue.SimpleQueue[Machine] = queue.SimpleQueue()
    done: queue.SimpleQueue[Asked] = queue.SimpleQueue()
    for machine in machines:
        waiting.put(machine)

    def work() -> None:
        while not whole.is_over:
            try:
                machine = waiting.get_nowait()
            except queue.Empty:
                return
            done.put(one_try.ask(machine, whole))

    for number in range(min(workers, len(machines))):
        # A thread that hangs in the system's resolver cannot be ended: it must not keep the process, either.
        threading.Thread(target=work, name=f"ask-{number}", daemon=True).start()
    left = {machine.name for machine in machines}
    while left:
        try:
            asked = done.get(timeout=whole.left + 1.0)
        except queue.Empty:
            break
        left.discard(asked.machine)
        yield asked
    for name in sorted(left):
        yield Asked(machine=name, fault=SshFault("timeout", "fleet"))


class _Try:
    """One attempt at each of many machines; what they share while it lasts."""

    def __init__(
        self, *, known: KnownHosts, passphrases: Mapping[Path, str], limits: Limits, watchdog: Watchdog
    ) -> None:
        self._known, self._passphrases, self._limits, self._watchdog = known, passphrases, limits, watchdog
        self._lock = threading.Lock()
        self._gates: dict[Address, threading.Semaphore] = {}
        self._blocked: dict[Address, SshFault] = {}
        self._targets: dict[tuple[str, int], threading.Lock] = {}

    def forget_the_way(self) -> None:
        """Try machines on the way anew."""
        self._blocked.clear()

    def ask(self, machine: Machine, whole: Deadline) -> Asked:
        """Log in, ask, and let it ask its targets; never raises."""
        begun = time.monotonic()
        try:
            with self._gate(machine, whole):
                begun = time.monotonic()
                asked = self._ask(machine, whole.within(self._limits.machine_s))
        except SshFault as fault:
            asked = Asked(machine=machine.name, fault=fault)
        except Exception as fault:  # noqa: BLE001 - one machine's oddity must not cost the report on the others
            asked = Asked(machine=machine.name, fault=SshFault("closed", "command", type(fault).__name__))
        return replace(asked, seconds=time.monotonic() - begun)

    @contextlib.contextmanager
    def _gate(self, machine: Machine, whole: Deadline) -> Iterator[None]:
        """Wait for a place behind the first machine on the way; where that one is known to be gone, do not knock."""
        if len(machine.path) < 2:
            yield
            return
        first = machine.path[0]
        with self._lock:
            gate = self._gates.setdefault(first, threading.Semaphore(self._limits.behind_one))
        if not gate.acquire(timeout=whole.left):
            raise SshFault("timeout", "fleet")
        try:
            if first in self._blocked:
                raise self._blocked[first]
            yield
        except SshFault as fault:
            if fault.kind == "jump-failed":
                self._blocked[first] = fault
            raise
        finally:
            gate.release()

    def _ask(self, machine: Machine, deadline: Deadline) -> Asked:
        with connect(
            machine.path,
            deadline,
            self._watchdog,
            known=self._known,
            passphrases=self._passphrases,
            step_s=self._limits.step_s,
        ) as connection:
            fault, answer = None, None
            try:
                answer = connection.run(
                    machine.command, machine.stdin, deadline.within(self._limits.probe_s), until=machine.until
                )
            except SshFault as reason:
                if reason.kind == "closed":
                    raise
                fault = reason
            echoes = {one.name: self._reach(connection, one, deadline) for one in machine.targets}
            return Asked(machine=machine.name, answer=answer, fault=fault, echoes=echoes, server=connection.server)

    def _reach(self, connection: Connection, target: Target, deadline: Deadline) -> Echo:
        """Ask a target from the machine's place; scanners often take one association at a time, so nobody else does."""
        with self._lock:
            turn = self._targets.setdefault((target.host, target.port), threading.Lock())
        if not turn.acquire(timeout=deadline.left):
            return Echo(verdict="unknown")
        try:
            found = _echo_from(connection, target, deadline.within(_TARGET_S))
            if found.may_pass and deadline.left > _AGAIN_S + _TARGET_S:
                time.sleep(_AGAIN_S)
                found = _echo_from(connection, target, deadline.within(_TARGET_S))
        except SshFault as fault:
            return Echo(verdict="unknown", detail=fault.kind)
        else:
            return found
        finally:
            turn.release()


def _echo_from(connection: Connection, target: Target, deadline: Deadline) -> Echo:
    """Try the ways to ask, the one that tells most first."""
    try:
        with connection.forward(target.host, target.port, deadline) as (host, port):
            return echo(
                host,
                port,
                called=target.called,
                calling=target.calling,
                with_find=target.with_find,
                step_s=max(min(deadline.left / 2, 5.0), 0.5),
            )
    except SshFault as fault:
        if fault.kind != "forward-prohibited":
            return Echo(verdict=fault.kind if fault.kind in _NETWORK else "unknown", detail="")
    return _remote_echo(connection, target, deadline)


_ASK_THERE = """\
LC_ALL=C; export LC_ALL
PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin:$PATH
if command -v echoscu >/dev/null 2>&1; then
  echoscu -to 4 -ta 4 -td 4 -aet {calling} -aec {called} {host} {port} 2>&1; echo "ended echoscu $?"
elif command -v nc >/dev/null 2>&1; then
  nc -z -w 4 {host} {port} </dev/null 2>&1; echo "ended nc $?"
elif command -v bash >/dev/null 2>&1 && command -v timeout >/dev/null 2>&1; then
  timeout 4 bash -c 'exec 3<>"/dev/tcp/$0/$1"' {host} {port} 2>&1; echo "ended bash $?"
else
  echo "ended none 127"
fi
"""

_ENDED = re.compile(rb"^ended (\w+) (\d{1,3})\s*$", re.MULTILINE)
_SAID: Final = {
    rb"Association Rejected": "rejected",
    rb"Calling AE Title Not Recognized|Called AE Title Not Recognized": "rejected",
    rb"Aborted|Peer aborted": "aborted",
    rb"refused": "refused",
    rb"not known|Name or service|resolve": "name-unknown",
    rb"No route|unreachable": "no-route",
    rb"timed out|Timeout|TCP Initialization Error": "timeout",
}


def _remote_echo(connection: Connection, target: Target, deadline: Deadline) -> Echo:
    """Ask with what the machine has of its own: DCMTK's echoscu, or else whether the port is open."""
    words = {name: shlex.quote(str(getattr(target, name))) for name in ("host", "port", "called", "calling")}
    begun = time.monotonic()
    answer = connection.run("sh -s", _ASK_THERE.format(**words).encode(), deadline, most=1 << 16)
    ended = _ENDED.search(answer.out)
    tool, status = (ended[1].decode(), int(ended[2])) if ended else ("none", _TOOL_MISSING)
    if tool == "none":
        return Echo(verdict="forward-prohibited")
    if status == 0:
        verdict = "ok" if tool == "echoscu" else "port-open"
        return Echo(verdict=verdict, latency_s=time.monotonic() - begun if verdict == "ok" else None)
    said = next((verdict for words_, verdict in _SAID.items() if re.search(words_, answer.out)), None)
    if said is None:
        said = "timeout" if tool == "bash" and status == 124 else "no-answer" if tool == "echoscu" else "refused"
    return Echo(verdict=said)


def down_behind(round_: Round, machines: Sequence[Machine]) -> dict[str, list[str]]:
    """Group machines that are out of reach because the one on the way to them is: by that one's address."""
    gone: dict[str, list[str]] = {}
    for machine in machines:
        fault = round_.asked[machine.name].fault
        if fault is not None and fault.kind == "jump-failed":
            gone.setdefault(machine.path[0].known_as, []).append(machine.name)
    return gone


def ask_machine(
    path: Sequence[Address],
    command: str,
    stdin: bytes,
    *,
    known: KnownHosts,
    passphrases: Mapping[Path, str] | None = None,
    limits: Limits | None = None,
) -> Answer:
    """Run one command on one machine, within the limits of a single try.

    Raises
    ------
    SshFault
        If that cannot be done.
    """
    limits = limits or Limits()
    deadline = Deadline(limits.machine_s)
    with (
        Watchdog() as watchdog,
        connect(
            path, deadline, watchdog, known=known, passphrases=passphrases or {}, step_s=limits.step_s
        ) as connection,
    ):
        return connection.run(command, stdin, deadline.within(limits.probe_s))
