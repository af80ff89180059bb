"""The probe: what a remote machine is asked, as one text for the shell's standard input."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Final

VERSION: Final = 1
"""The version of the answer's form; `tasks.monitor.answer` reads exactly this one."""

POSIX_COMMAND: Final = "sh -s"
"""What is run on a machine with a POSIX shell; the text of `posix_probe` goes to its standard input."""

_NONCE = re.compile(r"[0-9a-f]{16,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxQuestion:
    """A folder into which scans arrive.

    Attributes
    ----------
    folder
        Its absolute path on the remote machine.
    failed
        The absolute path of the folder for what could not be processed, or empty.
    depth
        How many levels below the folder files are counted; 1 is the folder itself.
    seconds
        How long counting may take; what was counted until then is reported as truncated.
    """

    folder: str
    failed: str = ""
    depth: int = 3
    seconds: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtraQuestion:
    """A command of the site, which answers with a Nagios exit code and one line.

    Attributes
    ----------
    command
        A line for the remote machine's shell.
    seconds
        How long it may take before it is killed.
    """

    command: str
    seconds: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """Everything one machine is asked beside what every machine is asked.

    The answer refers to these by their place, so that a remote machine cannot put names into the report.

    Attributes
    ----------
    mounts
        The mount points that are wanted; none means all that hold data of their own.
    services
        Units of systemd, or the service names of what the machine has in its stead.
    processes
        Texts of which at least one process should have each in its command line.
    ports
        TCP ports on which something should listen.
    inboxes
        Folders into which scans arrive.
    certificates
        Absolute paths of certificate files (PEM, or an OpenSSH certificate).
    extras
        Commands of the site.
    seconds
        After how long the probe stops asking and sends what it has.
    """

    mounts: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    processes: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    inboxes: tuple[InboxQuestion, ...] = ()
    certificates: tuple[str, ...] = ()
    extras: tuple[ExtraQuestion, ...] = ()
    seconds: int = 18


def posix_probe(questions: Questions, nonce: str) -> bytes:
    """Write the probe for `sh -s`.

    Parameters
    ----------
    questions
        What is asked.
    nonce
        16 to 64 hexadecimal digits, fresh for each run: the fence that no login banner can know.

    Raises
    ------
    ValueError
        If the nonce is of another form, or a text cannot be handed to a shell.
    """
    return (_assignment("nonce", _checked(nonce)) + _posix_body(questions)).encode("utf-8", "surrogateescape")


def installed_probe(questions: Questions) -> bytes:
    """Write the probe as a file for the remote machine, to be named in `command=` of its `authorized_keys`.

    It takes nothing from the caller but the nonce, as one line on standard input, and tells by the digest in its answer
    whether it still asks what the study file wants (`questions_digest`).
    """
    refuse = 'IFS= read -r nonce || exit 2\ncase $nonce in "" | *[!0-9a-f]* | ?????????????????????????????????????????????????????????????????*) exit 2 ;; esac\n'  # noqa: E501 - one line of shell
    return ("#!/bin/sh\n" + refuse + _posix_body(questions)).encode("utf-8", "surrogateescape")


def questions_digest(questions: Questions) -> str:
    """Return the 16 hexadecimal digits by which an installed probe is known to ask just this, in just this way."""
    content = json.dumps(asdict(questions), sort_keys=True) + _script("probe.sh")
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def windows_command(nonce: str) -> str:
    """Return the command for Windows; the text of `windows_probe` goes to its standard input.

    A command line of cmd.exe ends at 8,191 characters, which the probe would not fit into. So the command only reads
    standard input, until a last line that it knows: not every OpenSSH of Windows hands on that the input has ended.
    """
    start = (
        "$t=New-Object Text.StringBuilder;"
        f"while(($l=[Console]::In.ReadLine()) -ne $null -and $l -ne '# {_checked(nonce)}'){{[void]$t.AppendLine($l)}};"
        "& ([ScriptBlock]::Create($t.ToString()))"
    )
    encoded = base64.b64encode(start.encode("utf-16-le")).decode("ascii")
    return f"powershell -NoProfile -NonInteractive -EncodedCommand {encoded}"


def windows_probe(questions: Questions, nonce: str) -> bytes:
    """Write the probe for PowerShell 5.1 and later, in plain ASCII, so that no code page can change it.

    Raises
    ------
    ValueError
        If the nonce is not 16 to 64 hexadecimal digits.
    """
    asked = base64.b64encode(json.dumps(asdict(questions)).encode("ascii")).decode("ascii")
    head = f"$nonce = '{_checked(nonce)}'\n$digest = '{questions_digest(questions)}'\n$asked = '{asked}'\n"
    return f"{head}{_script('probe.ps1')}\n# {nonce}\n".encode("ascii")


def _checked(nonce: str) -> str:
    if not _NONCE.fullmatch(nonce):
        raise ValueError("a nonce is 16 to 64 hexadecimal digits")
    return nonce


def _script(name: str) -> str:
    return files("tasks.monitor").joinpath("data", name).read_text(encoding="utf-8")


def _assignment(name: str, value: str | int) -> str:
    return f"{name}={shlex.quote(str(value))}\n"


def _each(name: str, rows: Iterable[Sequence[str | int]]) -> str:
    """Write a shell function that calls its words once for each row, with the row's place and its values."""
    calls = [f'  "$@" {place} {" ".join(_word(value) for value in row)}' for place, row in enumerate(rows)]
    return "\n".join([f"{name}() {{", *(calls or ["  :"]), "}\n"])


def _word(value: str | int) -> str:
    if "\0" in str(value):
        raise ValueError("a shell takes no text with a zero byte")
    return shlex.quote(str(value))


def _posix_body(questions: Questions) -> str:
    parts = [
        _assignment("digest", questions_digest(questions)),
        _assignment("soft", questions.seconds),
        _each("each_mount", [[point] for point in questions.mounts]),
        _each("each_service", [[name] for name in questions.services]),
        _each("each_process", [[text] for text in questions.processes]),
        _each("each_inbox", [[box.seconds, box.depth, box.folder, box.failed] for box in questions.inboxes]),
        _each("each_certificate", [[path] for path in questions.certificates]),
        _each("each_extra", [[extra.seconds, extra.command] for extra in questions.extras]),
        _script("probe.sh"),
    ]
    return "".join(parts)
