"""What is said of a machine in one night: a check, how grave it is, and a plain sentence."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Severity(enum.IntEnum):
    """How grave a finding is; from `WARNING` on it is a problem that somebody should look at."""

    OK = 0
    NOTICE = 1
    WARNING = 2
    CRITICAL = 3
    UNKNOWN = 4

    @property
    def is_problem(self) -> bool:
        """True if somebody should look at it; what is not known is neither a problem nor the end of one."""
        return self in (Severity.WARNING, Severity.CRITICAL)

    @property
    def exit_code(self) -> int:
        """The exit code that Nagios and its like take for it."""
        return {Severity.WARNING: 1, Severity.CRITICAL: 2, Severity.UNKNOWN: 3}.get(self, 0)


Key = tuple[str, str, str]
"""Machine, check and subject: what makes findings of two nights the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check of one thing on one machine.

    Attributes
    ----------
    site, machine
        As the study file calls them.
    check
        What was looked at: "ssh", "disk", "inodes", "mount", "memory", "load", "clock", "service", "process", "port",
        "raid", "inbox", "certificate", "pacs", "reboot", "extra" or "probe".
    subject
        Which of several: a mount point, a service, a target; empty if there is but one.
    severity
        How grave it is.
    code
        A word for programs, such as "disk-nearly-full".
    text
        One plain sentence without the machine's name.
    value, unit
        What was measured, if a number says it.
    """

    site: str
    machine: str
    check: str
    subject: str
    severity: Severity
    code: str
    text: str
    value: float | None = None
    unit: str = ""

    @property
    def key(self) -> Key:
        """What makes it the same as a finding of another night."""
        return self.machine, self.check, self.subject
