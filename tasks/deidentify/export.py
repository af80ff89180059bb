"""De-identify a list of files: rewrite each, audit what was written, and only then move it into the export."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from tasks.deidentify.audit import Expectation, audit_file
from tasks.deidentify.identity import Identity, Subject
from tasks.deidentify.ledger import ExportRow
from tasks.deidentify.plan import ExportOrder, Person
from tasks.deidentify.profile import Profile
from tasks.deidentify.rewrite import RefusalError, rewrite
from tasks.errors import DamagedRecordError
from tasks.files import fsync_folder, make_folder, refusals_named, temporary_sibling, write_atomically

VANISHED = "vanished"
AUDIT_PREFIX = "audit-"
"""What the reason codes of files that the audit refused begin with; its findings follow."""


def export_files(
    orders: Sequence[ExportOrder],
    people: dict[str, Person],
    *,
    sorted_tree: Path,
    export: Path,
    quarantine: Path,
    profile: Profile,
    identity: Identity,
    advance: Callable[[int], None],
) -> list[ExportRow]:
    """Carry out export orders.

    A file stands in the export only after its audit passed; one that fails is kept in quarantine, inside `identified/`.
    The same orders give the same bytes, so doing them again after a crash changes nothing.

    Parameters
    ----------
    orders, people
        As `plan_export` makes them.
    sorted_tree, export, quarantine
        Where sources lie, and where results go.
    profile, identity
        How.
    advance
        Called with the number of files done since the last call.

    Returns
    -------
    list of ExportRow
        One for each order, in their order.
    """
    codes = tuple(code for code, _ in profile.codes())
    expectations = {
        name: Expectation(
            pseudonym=name,
            shift_days=person.shift_days,
            identifiers=frozenset(person.identifiers),
            uids=frozenset(person.uids),
            codes=codes,
        )
        for name, person in people.items()
    }
    rows: list[ExportRow] = []
    folders: set[Path] = set()
    for order in orders:
        expected = expectations[order.pseudonym]
        subject = Subject(pseudonym=order.pseudonym, shift_days=expected.shift_days)
        content, reason, by_pydicom = _make(sorted_tree / order.source, subject, expected, profile, identity)
        target = export / order.target
        if content is not None and not reason:
            _put(content, target, folders)
            with contextlib.suppress(FileNotFoundError):
                (quarantine / order.target).unlink()
        else:
            with contextlib.suppress(FileNotFoundError):
                # An earlier run may have exported this very name under other settings.
                target.unlink()
            if content is not None:
                _put(content, quarantine / order.target, folders, private=True)
        rows.append(
            ExportRow(
                source=order.source,
                identity=order.identity,
                target=order.target,
                reason=reason,
                digest=hashlib.sha256(content).hexdigest() if content is not None and not reason else "",
                by_pydicom=by_pydicom,
            )
        )
        advance(1)
    for folder in sorted(folders):
        fsync_folder(folder)
    return rows


def _make(
    source: Path, subject: Subject, expected: Expectation, profile: Profile, identity: Identity
) -> tuple[bytes | None, str, str]:
    """Return the new content, the reason why it may not be exported, and why pydicom had to read it."""
    try:
        original = source.read_bytes()
    except FileNotFoundError:
        return None, VANISHED, ""
    try:
        result = rewrite(original, profile=profile, identity=identity, subject=subject)
    except RefusalError as refusal:
        return None, refusal.reason, ""
    findings = audit_file(original, result.content, expected)
    reason = AUDIT_PREFIX + "+".join(findings) if findings else ""
    return result.content, reason, result.by_pydicom


def _put(content: bytes, target: Path, folders: set[Path], *, private: bool = False) -> None:
    """Write beside, fsync, rename; the folder is made durable once, at the end."""
    with refusals_named(target.parent):
        if target.parent not in folders:
            make_folder(target.parent, mode=0o700 if private else 0o755)
            folders.add(target.parent)
        beside = temporary_sibling(target)
        try:
            with open(beside, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(beside, target)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                beside.unlink()
            raise


def write_rows(path: Path, rows: Sequence[ExportRow]) -> None:
    """Keep one chunk's outcomes until they are merged."""
    write_atomically(path, json.dumps([asdict(row) for row in rows]).encode("ascii"), mode=0o600)


def read_rows(path: Path) -> list[ExportRow]:
    """Read what `write_rows` wrote."""
    try:
        return [ExportRow(**row) for row in json.loads(path.read_bytes())]
    except (OSError, ValueError, TypeError) as fault:
        raise DamagedRecordError(path=path, problem="it is not there or was cut") from fault
