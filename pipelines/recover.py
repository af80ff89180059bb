"""Put the originals back that exported files hold for the owner of a key: `scanward recover`."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import RecoveryError, UsageError, WorkspaceError
from tasks.files import make_folder, write_atomically

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import rsa


def recover_files(options: argparse.Namespace) -> int:
    """Recover each file into a folder that its owner alone may open; one that cannot be is told, and the rest go on."""
    # It needs the package cryptography, and the other commands do not.
    from tasks.deidentify.recovery import RecoveryRefusalError, load_certificate, recover_file  # noqa: PLC0415

    certificate = load_certificate(options.certificate)
    key = _load_key(options.key)
    targets = _targets(options.files, options.output.absolute())
    try:
        if not options.output.exists():
            make_folder(options.output, mode=0o700)
        faults = 0
        for target, source in targets.items():
            try:
                content = recover_file(source.read_bytes(), key, certificate)
            except OSError:
                faults += _tell(source, "it cannot be read", "It was left out; the other files go on")
            except RecoveryRefusalError as refusal:
                faults += _tell(source, refusal.problem, "It was left out; the other files go on")
            else:
                make_folder(target.parent, mode=None if target.parent.exists() else 0o700)
                write_atomically(target, content, mode=0o600)
    except WorkspaceError as fault:
        remedy = "Give a place where you may write."
        raise UsageError(problem=f"{options.output} cannot be written.", remedy=remedy) from fault
    done = len(targets) - faults
    sys.stdout.write(f"Recovered {done:,} of {len(targets):,} files into {options.output}.")
    sys.stdout.write(" Patients can be read in them.\n" if done else "\n")
    return RecoveryError.exit_code if faults else 0


def _tell(source: Path, problem: str, remedy: str) -> int:
    sys.stderr.write(f"{RecoveryError(what='file', path=source, problem=problem, remedy=remedy)}\n")
    return 1


def _targets(names: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """Say for each file where it goes: under its own name, or under its path below the folder that was given."""
    targets: dict[Path, Path] = {}
    for name in names:
        for source, below in _files(name):
            target = folder / below
            if target in targets:
                problem = f"Two of the files would become {target}."
                raise UsageError(problem=problem, remedy="Give them in two commands, with two folders.")
            if os.path.lexists(target):
                raise UsageError(problem=f"{target} is there already.", remedy="Give another folder with -o.")
            targets[target] = source
    return targets


def _files(name: Path) -> Iterator[tuple[Path, Path]]:
    if not name.is_dir():
        yield name, Path(name.name)
        return
    for path in sorted(name.rglob("*.dcm")):
        if path.is_file():
            yield path, path.relative_to(name)


def _load_key(path: Path) -> rsa.RSAPrivateKey:
    """Read the private key; the passphrase of one that has one is asked for, or read from what is piped in."""
    from tasks.deidentify.recovery import PassphraseNeededError, load_private_key  # noqa: PLC0415

    try:
        return load_private_key(path)
    except PassphraseNeededError:
        if sys.stdin.isatty():
            given = getpass.getpass(f"Passphrase of {path}: ")
        else:
            given = sys.stdin.readline().rstrip("\r\n")
        return load_private_key(path, os.fsencode(given))
