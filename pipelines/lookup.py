"""Tell who is who, and write down who asked: `scanward lookup`."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.base import key_map_passphrase, load_study, now, user_name
from tasks.config import StudySettings
from tasks.errors import UsageError
from tasks.sort.store import SortStore
from tasks.sort.visit import correct_patients, read_visit_overrides
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from tasks.deidentify.keymap import KnownPatient

_NOBODY = 1
_UID = re.compile(r"[0-9]+(\.[0-9]+){2,}")
_KINDS_OF_KEYS = {"id": "patient ID", "name": "patient's name", "study": "Study Instance UID"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _KnownUid:
    """A UID of the index, and what it is in the export.

    Attributes
    ----------
    name
        What it names.
    original, new
        Before and after.
    patient
        Whose it is: a key as `patient_key` makes them.
    """

    name: str
    original: str
    new: str
    patient: str


def look_up_patient(options: argparse.Namespace) -> int:
    """Print whom a pseudonym stands for, or under which one a patient is, or what a UID became; or who asked so far.

    This is the one command that prints what identifies: to the terminal, and nowhere else.
    """
    # De-identification needs pydicom; the other commands start without.
    from tasks.deidentify.identity import patient_key  # noqa: PLC0415
    from tasks.deidentify.keymap import look_up, read_inquiries  # noqa: PLC0415

    if options.log == (options.question is not None):
        raise UsageError(problem="Give what you want to know, or --log.", remedy="One of them, and not both.")
    settings, workspace = load_study(options.study, options.dump, options.workspace)
    if not workspace.key_map.exists():
        raise UsageError(problem="Nobody was de-identified in this workspace yet.", remedy="Run DeidentifyStudy first.")
    passphrase = key_map_passphrase(settings.deidentify)
    if options.log:
        for inquiry in read_inquiries(workspace.key_map, passphrase=passphrase):
            told = (inquiry.moment, inquiry.person, inquiry.kind, inquiry.pseudonym or "(nobody)")
            sys.stdout.write("\t".join(map(_printable, told)) + "\n")
        return 0
    question = (sys.stdin.readline() if options.question == "-" else options.question).strip()
    if not question:
        raise UsageError(problem="There is nothing to look up.", remedy="Give a pseudonym, a patient ID or a UID.")
    uids = list(_find_uid(question, settings, workspace)) if _UID.fullmatch(question) else []
    keys = {patient_key(question, "", ""), patient_key("", question, ""), patient_key("", "", question)}
    found = look_up(
        workspace.key_map,
        kind="uid" if uids else "patient",
        pseudonym=question,
        patients=keys | {uid.patient for uid in uids},
        person=user_name(),
        moment=now().isoformat(timespec="seconds"),
        passphrase=passphrase,
    )
    for known in found:
        _print_patient(known)
    for uid in uids:
        sys.stdout.write(f"{uid.name:<20}{_printable(uid.original)}\n{'in the export':<20}{_printable(uid.new)}\n")
    if found or uids:
        return 0
    sys.stderr.write("Nobody is known by that: it is no pseudonym, patient ID or UID of this workspace.\n")
    return _NOBODY


def _find_uid(question: str, settings: StudySettings, workspace: Workspace) -> Iterator[_KnownUid]:
    """Find a UID among those of all images, as it was or as it is in the export; else say what it would become."""
    from tasks.deidentify.identity import Identity, load_secret, patient_key  # noqa: PLC0415
    from tasks.deidentify.keymap import read_joined_patients  # noqa: PLC0415

    # A secret that is not there would be drawn.
    if "retain_uids" in settings.deidentify.options or not workspace.secret.exists() or not workspace.index.exists():
        return
    identity = Identity(load_secret(workspace.secret))
    joined = read_joined_patients(settings.deidentify.same_patient)
    visits = settings.sort.visits
    seen = set()
    with SortStore(workspace.index, look_only=True) as store:
        headers = [shared for _, shared in store.headers().values()]
        correct = correct_patients(headers, read_visit_overrides(visits) if visits else {})
        for entry in store.instances():
            shared = entry.row.shared
            for name, uid in (
                ("Study Instance UID", shared.study_instance_uid),
                ("Series Instance UID", shared.series_instance_uid),
                ("SOP Instance UID", entry.row.sop_instance_uid),
            ):
                new = identity.new_uid(uid)
                if question not in (uid, new):
                    continue
                owner = correct(shared)
                patient_id = joined.get(owner.patient_id, owner.patient_id)
                patient = patient_key(patient_id, owner.patient_name, owner.study_instance_uid)
                if (name, uid, patient) not in seen:
                    seen.add((name, uid, patient))
                    yield _KnownUid(name=name, original=uid, new=new, patient=patient)
    if not seen and not identity.has_made(question):
        # Of a frame of reference and the like the index knows nothing; what they become follows from the secret.
        yield _KnownUid(name="UID of no image", original=question, new=identity.new_uid(question), patient="")


def _print_patient(known: KnownPatient) -> None:
    lines = [("pseudonym", known.pseudonym)]
    for patient in known.patients:
        kind, _, value = patient.partition(":")
        lines.append((_KINDS_OF_KEYS[kind], value))
    lines.append(("dates moved by", f"{known.shift_days} days"))
    sys.stdout.writelines(f"{name:<20}{_printable(value)}\n" for name, value in lines)


def _printable(text: str) -> str:
    """Replace what a terminal might obey instead of showing it."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
