"""The run that this process takes part in: alone, or with others that a central scheduler hands work to.

Several hosts must agree on what the dump held, though it may grow while they work, and though one joins hours after
the others. So the first of them leaves a mark in the workspace, and whoever comes later goes by that: one under way is
finished before the dump is looked at again.
"""

from __future__ import annotations

import ipaddress
import json
import os
import secrets
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import luigi
from luigi.configuration import get_config
from luigi.retcodes import retcode
from luigi.rpc import RemoteScheduler

from tasks import __version__
from tasks.config import HostsSettings
from tasks.errors import SchedulerError
from tasks.files import write_once
from tasks.workspace import Workspace

_MARK = "run.json"
_GO_ON = "Give the scheduler an address of this host (a tunnel), or https:// (README, Growing)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What the hosts of one run agree on.

    Attributes
    ----------
    token
        Names the run.
    dump
        Digest of the dump for which the index was found complete when the run began; empty if it was not.
    software
        The version of scanward that began it.
    """

    token: str
    dump: str = ""
    software: str = __version__


@lru_cache(maxsize=1)
def has_central_scheduler() -> bool:
    """Tell whether a scheduler outside this process hands out the work; once a process, and alike in its children."""
    return not _core().local_scheduler


def _core() -> Any:
    return luigi.interface.core()  # type: ignore[no-untyped-call] # Luigi's


def check_scheduler(*, plain_http: bool) -> None:
    """Refuse a scheduler whom anybody between here and there can read and steer.

    Raises
    ------
    SchedulerError
        If it is on another host, is reached by plain HTTP, and the study file does not allow that.
    """
    known = _core()
    url = urlsplit(known.scheduler_url or f"http://{known.scheduler_host}:{known.scheduler_port}/")
    host = url.hostname or ""
    if url.scheme != "http" or plain_http or host == "localhost":
        return
    try:
        if ipaddress.ip_address(host).is_loopback:
            return
    except ValueError:
        pass
    problem = f"on {host} would be asked by plain HTTP: anybody on the way could read and steer the work"
    raise SchedulerError(problem=problem, remedy=f"{_GO_ON}, or allow it in the study file ([hosts] plain_http)")


def limit(hosts: HostsSettings) -> None:
    """Tell the scheduler how many tasks may use a shared thing at once; it takes what it is not told of for one."""
    limits = {name: number for name in ("writers", "associations") if (number := getattr(hosts, name))}
    if not limits:
        return
    if not has_central_scheduler():
        for name, number in limits.items():
            get_config().set("resources", name, str(number))  # type: ignore[no-untyped-call] # Luigi's
        return
    known = _core()
    url = known.scheduler_url or f"http://{known.scheduler_host}:{known.scheduler_port}/"
    RemoteScheduler(url).update_resources(**limits)  # type: ignore[no-untyped-call,attr-defined] # made by Luigi as it starts


_joined: dict[str, Run] = {}
"""By workspace, the run that this process takes part in; what is forked later takes part in the same."""


def joined(place: Workspace) -> Run | None:
    """Return the run that this process takes part in."""
    return _joined.get(place.key)


def join(place: Workspace) -> Run | None:
    """Take part in the run that is under way, if there is one.

    Raises
    ------
    SchedulerError
        If another version of scanward began it.
    """
    run = _joined.get(place.key) or _read(place)
    if run is not None:
        if run.software != __version__:
            problem = f"hands out the work of scanward {run.software}, and this host has {__version__}"
            raise SchedulerError(problem=problem, remedy="Install the same version on all hosts")
        _joined[place.key] = run
    return run


def begin(place: Workspace, dump: str) -> Run:
    """Begin a run, or take part in one that another host has begun a moment ago."""
    run = Run(token=secrets.token_hex(8), dump=dump)
    if not write_once(place.plans / _MARK, json.dumps(asdict(run)).encode("ascii"), mode=0o600):
        # It may be gone already, if it was the mark of a run that ends just now.
        run = _read(place) or run
    _joined[place.key] = run
    return run


def is_under_way(place: Workspace) -> bool:
    """Tell whether no other run was begun since this process took part in its own."""
    run = joined(place)
    return run is None or _read(place) in (run, None)


def is_marked(place: Workspace) -> bool:
    """Tell whether a run of several hosts is under way, or was cut off."""
    return _read(place) is not None


def end(place: Workspace) -> None:
    """Take away the mark of the run that this process takes part in, or, alone, of any that was cut off."""
    run = joined(place)
    if run is None or _read(place) == run:
        (place.plans / _MARK).unlink(missing_ok=True)


def leave(place: Workspace) -> None:
    """Take part in no run any more."""
    _joined.pop(place.key, None)


def _read(place: Workspace) -> Run | None:
    try:
        return Run(**json.loads((place.plans / _MARK).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def tell_luigi_that_all_is_done() -> None:
    """Have this process end with 0, although other hosts have done much of what it asked for.

    Luigi ends with a code of its own where a task that was asked for here was done elsewhere. It keeps the codes in an
    object that it makes once and looks into at the very end.
    """
    codes = retcode()  # type: ignore[no-untyped-call] # Luigi's
    for name in ("already_running", "not_run", "task_failed"):
        setattr(codes, name, 0)


def name_process() -> str:
    """Name this process among those of all hosts."""
    return f"{os.uname().nodename}-{os.getpid()}-{secrets.token_hex(2)}"
