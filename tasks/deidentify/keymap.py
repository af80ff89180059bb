"""The key map: which patient is which subject. A SQLite file in `identified/`, readable by its owner alone."""

from __future__ import annotations

import csv
import os
import re
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tasks.deidentify.identity import Identity, Subject
from tasks.errors import KeyMapError
from tasks.files import refusals_named

_SCHEMA_VERSION = 1
_SCHEMA = (
    "CREATE TABLE subject (patient TEXT PRIMARY KEY, pseudonym TEXT NOT NULL UNIQUE, shift_days INTEGER NOT NULL)",
    "CREATE TABLE fact (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    f"PRAGMA user_version = {_SCHEMA_VERSION}",
)
_PSEUDONYM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
"""What may stand in a folder's name, and in a value of VR LO (PS3.5 table 6.2-1: at most 64 characters)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbering:
    """How pseudonyms are found.

    Attributes
    ----------
    prefix
        What numbered ones begin with.
    given
        Patient ID to pseudonym, for those that the study names itself.
    """

    prefix: str
    given: dict[str, str]


def assign_subjects(
    path: Path, patients: Iterable[str], identity: Identity, numbering: Numbering
) -> dict[str, Subject]:
    """Give every patient a subject; one that has one keeps it for ever.

    New patients are numbered in an order drawn from the secret, so that numbers tell nothing of names, IDs or arrival
    within one run.

    Parameters
    ----------
    path
        The key map.
    patients
        Keys as `patient_key` makes them.
    identity
        Gives shifts and the order.
    numbering
        Gives names.

    Raises
    ------
    KeyMapError
        If the map was made with another secret, is damaged, or a given pseudonym contradicts it.
    """
    with refusals_named(path.parent):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        return _assign(connection, path, sorted(set(patients), key=identity.rank), identity, numbering)
    except sqlite3.DatabaseError as fault:
        raise KeyMapError(what="key map", path=path, problem="it cannot be read or written") from fault
    finally:
        connection.close()


def _assign(
    connection: sqlite3.Connection, path: Path, patients: list[str], identity: Identity, numbering: Numbering
) -> dict[str, Subject]:
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("BEGIN IMMEDIATE")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0:
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables:
            raise KeyMapError(what="key map", path=path, problem="it is a database of another program")
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.execute("INSERT INTO fact VALUES ('secret', ?)", (identity.fingerprint(),))
    elif version != _SCHEMA_VERSION:
        raise KeyMapError(what="key map", path=path, problem=f"it has the format {version}, not {_SCHEMA_VERSION}")
    fact = connection.execute("SELECT value FROM fact WHERE name = 'secret'").fetchone()
    if fact is None:
        raise sqlite3.DatabaseError
    if fact[0] != identity.fingerprint():
        raise KeyMapError(what="secret for", path=path, problem="the secret is another than the map was made with")
    known = {
        patient: Subject(pseudonym=pseudonym, shift_days=shift)
        for patient, pseudonym, shift in connection.execute("SELECT patient, pseudonym, shift_days FROM subject")
    }
    owned = {subject.pseudonym for subject in known.values()}
    taken = owned | set(numbering.given.values())
    number = 0
    for patient in patients:
        given = numbering.given.get(patient.removeprefix("id:")) if patient.startswith("id:") else None
        if patient in known:
            if given is not None and given != known[patient].pseudonym:
                raise KeyMapError(
                    what="list of pseudonyms for", path=path, problem="it gives a patient another pseudonym than before"
                )
            continue
        if given in owned:
            raise KeyMapError(
                what="list of pseudonyms for", path=path, problem="it gives a patient a pseudonym that another one has"
            )
        pseudonym = given
        while pseudonym is None or (given is None and pseudonym in taken):
            number += 1
            pseudonym = f"{numbering.prefix}-{number:04d}"
        taken.add(pseudonym)
        known[patient] = Subject(pseudonym=pseudonym, shift_days=identity.shift_for(patient))
        connection.execute("INSERT INTO subject VALUES (?, ?, ?)", (patient, pseudonym, known[patient].shift_days))
    connection.execute("COMMIT")
    return {patient: known[patient] for patient in patients}


def read_given_pseudonyms(path: Path | None) -> dict[str, str]:
    """Read the study's own list: CSV in UTF-8 with the columns patient_id and pseudonym.

    Raises
    ------
    KeyMapError
        If it cannot be read, lacks a column, names a patient or a pseudonym twice, or a pseudonym could not stand in a
        file name.
    """
    if path is None:
        return {}
    given: dict[str, str] = {}
    taken: set[str] = set()
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream, strict=True)
            if not {"patient_id", "pseudonym"} <= set(rows.fieldnames or ()):
                problem = "its first line must name the columns patient_id and pseudonym, separated by a comma"
                raise KeyMapError(what="list of pseudonyms", path=path, problem=problem)
            for row in rows:
                patient, pseudonym = (row["patient_id"] or "").strip(), (row["pseudonym"] or "").strip()
                if not patient or not _PSEUDONYM.fullmatch(pseudonym):
                    problem = f"line {rows.line_num} needs a patient_id and a pseudonym of letters, digits, - and _"
                    raise KeyMapError(what="list of pseudonyms", path=path, problem=problem)
                # Pseudonyms name folders, and many file systems take upper and lower case for the same.
                if patient in given or pseudonym.casefold() in taken:
                    problem = f"line {rows.line_num} names a patient or a pseudonym a second time"
                    raise KeyMapError(what="list of pseudonyms", path=path, problem=problem)
                given[patient] = pseudonym
                taken.add(pseudonym.casefold())
    except (OSError, UnicodeDecodeError, csv.Error) as fault:
        raise KeyMapError(what="list of pseudonyms", path=path, problem="it cannot be read") from fault
    return given
