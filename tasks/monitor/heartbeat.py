"""Let somebody else notice that the watch is silent: a URL that waits to be asked, and a file on remote machines."""

from __future__ import annotations

import contextlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Iterable
from typing import Final

from tasks.monitor.fleet import Machine, ask_machine
from tasks.monitor.ssh import SshFault

START, WELL, FAILED = "/start", "", "/fail"
"""What is put behind the URL, as Healthchecks and its like have it."""

_TIMEOUT_S = 10.0
_TRIES = 3
_TOUCH: Final = b'umask 077; mkdir -p "$HOME/.scanward" && date +%s > "$HOME/.scanward/heartbeat"\n'


def ping(url: str, what: str) -> bool:
    """Ask a URL; it learns nothing but that we asked.

    Returns
    -------
    bool
        False if it could not be asked: that it is not is what makes it cry out.
    """
    for _ in range(_TRIES):
        with contextlib.suppress(urllib.error.URLError, http.client.HTTPException, OSError, ValueError):
            # The study file takes http and https alone.
            with urllib.request.urlopen(url.rstrip("/") + what, timeout=_TIMEOUT_S) as answer:  # noqa: S310
                answer.read(1)
            return True
    return False


def leave_files(machines: Iterable[Machine], **how: object) -> list[str]:
    """Write the time into a file on machines; a cron job there mails when it is old.

    Returns
    -------
    list of str
        The machines on which that could not be done.
    """
    failed = []
    for machine in machines:
        try:
            answer = ask_machine(machine.path, "sh -s", _TOUCH, **how)  # type: ignore[arg-type]
        except SshFault:
            failed.append(machine.name)
        else:
            if answer.status != 0:
                failed.append(machine.name)
    return failed
