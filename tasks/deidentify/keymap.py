"""The key map: which patient is which subject. A SQLite file in `identified/`, readable by its owner alone.

With a passphrase that file holds the same database encrypted (`tasks.deidentify.sealed`), and it is opened in memory.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import os
import re
import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tasks.deidentify.identity import Identity, Subject
from tasks.deidentify.sealed import SHORTEST_PASSPHRASE, UnsealError, is_sealed, seal, unseal
from tasks.errors import KeyMapError
from tasks.files import refusals_named, write_atomically

_SCHEMA_VERSION = 2
_SCHEMA = (
    "CREATE TABLE subject (patient TEXT PRIMARY KEY, pseudonym TEXT NOT NULL UNIQUE, shift_days INTEGER NOT NULL)",
    "CREATE TABLE fact (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
)
_ADDED_BY_2 = (
    # The other keys of a patient whose IDs were joined; `same_as` is the one in the table of subjects.
    "CREATE TABLE alias (patient TEXT PRIMARY KEY, same_as TEXT NOT NULL)",
    """CREATE TABLE inquiry (number INTEGER PRIMARY KEY AUTOINCREMENT, moment TEXT NOT NULL, person TEXT NOT NULL,
    kind TEXT NOT NULL, pseudonym TEXT NOT NULL)""",
    # Against mistakes; the owner of the file can do with it what they like.
    "CREATE TRIGGER inquiry_stays BEFORE UPDATE ON inquiry BEGIN SELECT RAISE(ABORT, 'append-only'); END",
    "CREATE TRIGGER inquiry_remains BEFORE DELETE ON inquiry BEGIN SELECT RAISE(ABORT, 'append-only'); END",
)
_PSEUDONYM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
"""What may stand in a folder's name, and in a value of VR LO (PS3.5 table 6.2-1: at most 64 characters)."""

_RESTORE = "Restore it from a copy; a new one would give every patient another pseudonym"
_CORRECT = "Correct the list; nothing was changed"
_WHERE_TO_LOOK = "key_map_passphrase_file or key_map_passphrase_variable under [deidentify] in the study file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbering:
    """How pseudonyms are found.

    Attributes
    ----------
    prefix
        What numbered ones begin with.
    given
        Patient ID to pseudonym, for those that the study names itself.
    joined
        Patient ID to the one it is the same as: `read_joined_patients`.
    whole_weeks
        Whether dates move by multiples of 7 days.
    """

    prefix: str
    given: Mapping[str, str]
    joined: Mapping[str, str] = field(default_factory=dict)
    whole_weeks: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownPatient:
    """Whom a pseudonym stands for.

    Attributes
    ----------
    pseudonym, shift_days
        See `Subject`.
    patients
        Keys as `patient_key` makes them; more than one if IDs were joined.
    """

    pseudonym: str
    shift_days: int
    patients: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inquiry:
    """That somebody asked who somebody is.

    Attributes
    ----------
    moment
        When, ISO 8601.
    person
        Who asked.
    kind
        What was asked about: "pseudonym", "patient" or "uid".
    pseudonym
        Whom the answer was about; empty if there was none.
    """

    moment: str
    person: str
    kind: str
    pseudonym: str


def assign_subjects(
    path: Path, patients: Iterable[str], identity: Identity, numbering: Numbering, *, passphrase: bytes | None = None
) -> dict[str, Subject]:
    """Give every patient a subject; one that has one keeps it for ever.

    New patients are numbered in an order drawn from the secret, so that numbers tell nothing of names, IDs or arrival
    within one run.

    Parameters
    ----------
    path
        The key map.
    patients
        Keys as `patient_key` makes them, IDs as `Numbering.joined` joins them.
    identity
        Gives shifts and the order.
    numbering
        Gives names.
    passphrase
        The map is encrypted under it; one that is not yet becomes so. The disk blocks of the map that was not encrypted
        are not wiped.

    Raises
    ------
    KeyMapError
        If the map was made with another secret, is damaged, is encrypted and the passphrase does not open it, or
        contradicts what the study file says of pseudonyms, joined patients or whole weeks.
    MissingPackageError
        If it is to be encrypted and the package for it is not installed.
    """
    ordered = sorted(set(patients), key=identity.rank)
    with _opened(path, passphrase) as connection:
        return _assign(connection, path, ordered, identity, numbering)


def look_up(
    path: Path,
    *,
    kind: str,
    pseudonym: str,
    patients: Collection[str],
    person: str,
    moment: str,
    passphrase: bytes | None = None,
) -> list[KnownPatient]:
    """Return the patients that bear a pseudonym or a key, and write down that somebody asked.

    Parameters
    ----------
    path
        The key map; it must be there.
    kind
        What `Inquiry.kind` says if the answer is not by the pseudonym.
    pseudonym, patients
        What was asked may be one or the other: the pseudonym, or any of these keys.
    person, moment
        Who asks, and when.
    passphrase
        As for `assign_subjects`.

    Raises
    ------
    KeyMapError, MissingPackageError
        If the map cannot be opened. Nobody gets an answer that was not written down.
    """
    with _opened(path, passphrase) as connection:
        keys = defaultdict(list)
        for alias, same_as in connection.execute("SELECT patient, same_as FROM alias ORDER BY patient"):
            keys[same_as].append(alias)
        found = []
        for patient, name, shift in connection.execute("SELECT patient, pseudonym, shift_days FROM subject"):
            known = KnownPatient(pseudonym=name, shift_days=shift, patients=(patient, *keys[patient]))
            if name == pseudonym or not set(patients).isdisjoint(known.patients):
                found.append(known)
        found.sort(key=lambda known: known.pseudonym)
        for name in [known.pseudonym for known in found] or [""]:
            told = (moment, person, "pseudonym" if name == pseudonym else kind, name)
            connection.execute("INSERT INTO inquiry (moment, person, kind, pseudonym) VALUES (?, ?, ?, ?)", told)
    return found


def read_inquiries(path: Path, *, passphrase: bytes | None = None) -> list[Inquiry]:
    """Return who asked whom they wanted to know, oldest first; raises as `look_up` does."""
    with _opened(path, passphrase) as connection:
        rows = connection.execute("SELECT moment, person, kind, pseudonym FROM inquiry ORDER BY number").fetchall()
    return [Inquiry(moment=row[0], person=row[1], kind=row[2], pseudonym=row[3]) for row in rows]


def is_encrypted(path: Path) -> bool:
    """Tell whether a key map is encrypted; one that is not there is not."""
    try:
        with path.open("rb") as stream:
            return is_sealed(stream.read(64))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _opened(path: Path, passphrase: bytes | None) -> Iterator[sqlite3.Connection]:
    """Open the map for one transaction: what the block did is written when it ends well, and forgotten when not."""
    try:
        if passphrase is None:
            with contextlib.closing(_open_plain(path)) as connection:
                yield _with_schema(connection, path)
                connection.execute("COMMIT")
        else:
            with _alone(path), _opened_sealed(path, passphrase) as connection:
                yield _with_schema(connection, path)
    except sqlite3.DatabaseError as fault:
        problem = "it cannot be read or written"
        raise KeyMapError(what="key map", path=path, problem=problem, remedy=_RESTORE) from fault


def _open_plain(path: Path) -> sqlite3.Connection:
    """Open a map that is not encrypted, and begin a transaction."""
    with refusals_named(path.parent):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    _refuse_sealed(path)
    file = path.stat().st_ino
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
    except BaseException:
        connection.close()
        _refuse_sealed(path)
        raise
    # Another run may have encrypted it while this one waited for its turn. The file must not be opened to see that:
    # when a process closes a file, its locks on it are gone, SQLite's as well (fcntl(2)).
    if path.stat().st_ino != file:
        connection.close()
        _refuse_sealed(path)
        raise sqlite3.DatabaseError
    return connection


def _refuse_sealed(path: Path) -> None:
    if is_encrypted(path):
        remedy = f"Name where the passphrase is, with {_WHERE_TO_LOOK}"
        raise KeyMapError(what="key map", path=path, problem="it is encrypted", remedy=remedy)


@contextlib.contextmanager
def _opened_sealed(path: Path, passphrase: bytes) -> Iterator[sqlite3.Connection]:
    """Open a map in memory, in a transaction, and write it back encrypted."""
    with contextlib.ExitStack() as held:
        before = b""
        was_plain = not is_encrypted(path)
        if was_plain:
            # Its transaction stays open to the end, so that no run without the passphrase writes meanwhile.
            plain = held.enter_context(contextlib.closing(_open_plain(path)))
            if os.path.getsize(path):
                before = plain.serialize()
        else:
            try:
                before = unseal(path.read_bytes(), passphrase)
            except UnsealError as fault:
                remedy = f"Look at the passphrase ({_WHERE_TO_LOOK}); if it is right, restore the map from a copy"
                raise KeyMapError(what="key map", path=path, problem=fault.problem, remedy=remedy) from fault
        connection = held.enter_context(contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)))
        if before:
            connection.deserialize(before)
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        connection.execute("COMMIT")
        if was_plain or connection.total_changes:
            write_atomically(path, seal(connection.serialize(), passphrase), mode=0o600)
        if was_plain:
            with contextlib.suppress(FileNotFoundError):
                # In which SQLite may have left pages of the map as it was.
                os.unlink(f"{path}-journal")


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other run has an encrypted map open, which nothing else would tell."""
    with refusals_named(path.parent):
        descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _with_schema(connection: sqlite3.Connection, path: Path) -> sqlite3.Connection:
    """Make the tables that are not there yet, inside the transaction that is open."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0:
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables:
            problem = "it is a database of another program"
            raise KeyMapError(what="key map", path=path, problem=problem, remedy=_RESTORE)
    elif version not in (1, _SCHEMA_VERSION):
        problem = f"it has the format {version}, not {_SCHEMA_VERSION}"
        raise KeyMapError(what="key map", path=path, problem=problem, remedy="Use the release that wrote it")
    missing = {0: _SCHEMA + _ADDED_BY_2, 1: _ADDED_BY_2}.get(version, ())
    for statement in missing:
        connection.execute(statement)
    if missing:
        connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
    return connection


def _assign(
    connection: sqlite3.Connection, path: Path, patients: list[str], identity: Identity, numbering: Numbering
) -> dict[str, Subject]:
    _compare_secret(connection, path, identity)
    known = {
        patient: Subject(pseudonym=pseudonym, shift_days=shift)
        for patient, pseudonym, shift in connection.execute("SELECT patient, pseudonym, shift_days FROM subject")
    }
    owned = {subject.pseudonym for subject in known.values()}
    taken = owned | set(numbering.given.values())
    members = _members(numbering.joined)
    owners = _owners(members, known, path)
    number = 0
    subjects: dict[str, Subject] = {}
    for patient in patients:
        given = numbering.given.get(patient.removeprefix("id:")) if patient.startswith("id:") else None
        owner = owners.get(patient, patient)
        if owner in known:
            if given is not None and given != known[owner].pseudonym:
                raise _contradiction("list of pseudonyms", path, "it gives a patient another pseudonym than before")
            if numbering.whole_weeks and known[owner].shift_days % 7:
                raise KeyMapError(
                    what="key map",
                    path=path,
                    problem="it was made without whole_weeks, and the dates of its patients stay as they were moved",
                    remedy="Take whole_weeks out of the study file, or begin a new workspace",
                )
            subjects[patient] = known[owner]
            continue
        if given in owned:
            raise _contradiction("list of pseudonyms", path, "it gives a patient a pseudonym that another one has")
        pseudonym = given
        while pseudonym is None or (given is None and pseudonym in taken):
            number += 1
            pseudonym = f"{numbering.prefix}-{number:04d}"
        taken.add(pseudonym)
        shift = identity.shift_for(patient, whole_weeks=numbering.whole_weeks)
        subjects[patient] = known[patient] = Subject(pseudonym=pseudonym, shift_days=shift)
        owners[patient] = patient
        connection.execute("INSERT INTO subject VALUES (?, ?, ?)", (patient, pseudonym, shift))
    # Only for those who look a patient up: the study's list is what counts.
    aliases = {
        (member, owners[patient])
        for patient, group in members.items()
        for member in group
        if patient in owners and member != owners[patient]
    }
    if aliases != set(connection.execute("SELECT patient, same_as FROM alias")):
        connection.execute("DELETE FROM alias")
        connection.executemany("INSERT INTO alias VALUES (?, ?)", sorted(aliases))
    return subjects


def _compare_secret(connection: sqlite3.Connection, path: Path, identity: Identity) -> None:
    """Refuse a map that was made with another secret; one that is new gets the name of this one."""
    fact = connection.execute("SELECT value FROM fact WHERE name = 'secret'").fetchone()
    if fact is None:
        (subjects,) = connection.execute("SELECT count(*) FROM subject").fetchone()
        if subjects:
            raise sqlite3.DatabaseError
        connection.execute("INSERT INTO fact VALUES ('secret', ?)", (identity.fingerprint(),))
    elif fact[0] != identity.fingerprint():
        raise KeyMapError(
            what="secret for",
            path=path,
            problem="the secret is another than the map was made with",
            remedy="Restore the secret from a copy; a new one would give every patient another pseudonym",
        )


def _members(joined: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the keys of each patient with several IDs, by the one that stands for all."""
    members: dict[str, list[str]] = defaultdict(list)
    for patient_id, same_as in sorted(joined.items()):
        members[f"id:{same_as}"].append(f"id:{patient_id}")
    return {patient: [patient, *others] for patient, others in members.items()}


def _owners(members: Mapping[str, list[str]], known: Mapping[str, Subject], path: Path) -> dict[str, str]:
    """Find under which of its keys a joined patient is in the map already."""
    owners = {}
    for patient, group in members.items():
        there = [member for member in group if member in known]
        if len(there) > 1:
            raise KeyMapError(
                what="list of joined patients for",
                path=path,
                problem="it joins IDs that have different pseudonyms already, under which images were exported",
                remedy="Take them out of the list, or begin a new workspace with it; see `scanward lookup`",
            )
        if there:
            owners[patient] = there[0]
    return owners


def _contradiction(what: str, path: Path, problem: str) -> KeyMapError:
    return KeyMapError(what=f"{what} for", path=path, problem=problem, remedy=_CORRECT)


def load_passphrase(path: Path) -> bytes:
    """Read a passphrase from a file that its owner alone may read; a line's end after it is not part of it.

    Raises
    ------
    KeyMapError
        If it cannot be read, others may read it, or it is too short.
    """
    what = "passphrase of the key map in"
    try:
        mode, content = path.stat().st_mode, path.read_bytes()
    except OSError as fault:
        remedy = "Put it there, or name another file"
        raise KeyMapError(what=what, path=path, problem="it cannot be read", remedy=remedy) from fault
    if mode & 0o077:
        remedy = "Make it mode 0600, if you are sure that nobody has read it"
        raise KeyMapError(what=what, path=path, problem="others than its owner may read it", remedy=remedy)
    return checked_passphrase(content.removesuffix(b"\n").removesuffix(b"\r"), path)


def checked_passphrase(passphrase: bytes, place: Path | str) -> bytes:
    """Return a passphrase that is long enough, or refuse it with the place where it stands."""
    if len(passphrase) < SHORTEST_PASSPHRASE:
        problem = f"it has fewer than {SHORTEST_PASSPHRASE} bytes" if passphrase else "there is none"
        remedy = "Choose a longer one; if the map is encrypted under it, restore it from where you keep it"
        raise KeyMapError(what="passphrase of the key map in", path=place, problem=problem, remedy=remedy)
    return passphrase


def read_joined_patients(path: Path | None) -> dict[str, str]:
    """Read which patients have several IDs: CSV in UTF-8 with the columns patient_id and same_as, and no others.

    Chains are followed to their end: of A as B and B as C both become C.

    Returns
    -------
    dict
        Patient ID to the ID that stands for the patient; that one itself is not in it.

    Raises
    ------
    KeyMapError
        If it cannot be read, has other columns, says of a patient twice whom they are the same as, or goes round in a
        circle.
    """
    links: dict[str, tuple[str, int]] = {}
    for line, patient, same_as in _rows(path, "list of joined patients", ("patient_id", "same_as"), strict=True):
        if not patient or not same_as:
            raise _fault_in_list("list of joined patients", path, f"line {line} needs a patient_id and a same_as")
        if patient in links:
            problem = f"line {line} says of a patient a second time whom they are the same as"
            raise _fault_in_list("list of joined patients", path, problem)
        links[patient] = same_as, line
    joined = {}
    for patient in links:
        end, seen = patient, {patient}
        while end in links:
            end, line = links[end]
            if end in seen:
                problem = f"line {line} closes a circle: one ID has to stand for the patient"
                raise _fault_in_list("list of joined patients", path, problem)
            seen.add(end)
        joined[patient] = end
    return joined


def read_given_pseudonyms(path: Path | None, joined: Mapping[str, str] | None = None) -> dict[str, str]:
    """Read the study's own list: CSV in UTF-8 with the columns patient_id and pseudonym.

    Parameters
    ----------
    path
        The list, if there is one.
    joined
        `read_joined_patients`; a patient may then be named under each of their IDs, with one pseudonym.

    Returns
    -------
    dict
        Patient ID, joined, to pseudonym.

    Raises
    ------
    KeyMapError
        If it cannot be read, lacks a column, names a patient or a pseudonym twice, or a pseudonym could not stand in a
        file name.
    """
    what = "list of pseudonyms"
    given: dict[str, str] = {}
    named: set[str] = set()
    taken: dict[str, str] = {}
    for line, patient_id, pseudonym in _rows(path, what, ("patient_id", "pseudonym"), strict=False):
        if not patient_id or not _PSEUDONYM.fullmatch(pseudonym):
            problem = f"line {line} needs a patient_id and a pseudonym of letters, digits, - and _"
            raise _fault_in_list(what, path, problem)
        patient = (joined or {}).get(patient_id, patient_id)
        # Pseudonyms name folders, and many file systems take upper and lower case for the same.
        if patient_id in named or taken.get(pseudonym.casefold(), patient) != patient:
            raise _fault_in_list(what, path, f"line {line} names a patient or a pseudonym a second time")
        if given.get(patient, pseudonym) != pseudonym:
            problem = f"line {line} gives a patient another pseudonym than a line before, under an ID that was joined"
            raise _fault_in_list(what, path, problem)
        given[patient] = pseudonym
        named.add(patient_id)
        taken[pseudonym.casefold()] = patient
    return given


def _rows(path: Path | None, what: str, columns: tuple[str, str], *, strict: bool) -> list[tuple[int, str, str]]:
    """Return the rows of a list of two columns, with their lines; if `strict`, there may be no other column."""
    if path is None:
        return []
    found = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream, strict=True)
            names = rows.fieldnames or ()
            if not set(columns) <= set(names) or (strict and len(names) != len(columns)):
                only = "and no other, " if strict else ""
                problem = (
                    f"its first line must name the columns {columns[0]} and {columns[1]}, {only}separated by a comma"
                )
                raise _fault_in_list(what, path, problem)
            for row in rows:
                if strict and None in row:
                    problem = f"line {rows.line_num} has more than {len(columns)} values"
                    raise _fault_in_list(what, path, problem)
                found.append((rows.line_num, (row[columns[0]] or "").strip(), (row[columns[1]] or "").strip()))
    except (OSError, UnicodeDecodeError, csv.Error) as fault:
        raise _fault_in_list(what, path, "it cannot be read") from fault
    return found


def _fault_in_list(what: str, path: Path | None, problem: str) -> KeyMapError:
    return KeyMapError(what=what, path=path, problem=problem, remedy=_CORRECT)
