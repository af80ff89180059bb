"""Decide which sorted files are de-identified, under which names, and in which portions of work.

Here rows that identify turn into orders: an order names its source by the place in the sorted tree, and carries what
the rewriter and the audit need of the patient.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

from tasks.deidentify.harvest import Harvest, name_parts, whole
from tasks.deidentify.identity import Identity, Subject, patient_key, shift_date
from tasks.errors import DamagedRecordError
from tasks.files import write_atomically
from tasks.index.row import IndexRow, SharedHeader
from tasks.receipt import digest_of


@dataclass(frozen=True, slots=True, kw_only=True)
class SortedFile:
    """One file of the sorted tree.

    Attributes
    ----------
    source
        Its place there.
    identity
        Names its content.
    row
        What its header says.
    owner
        The header with its patient put right, if a person said that another's ID stands in it; else the row's own.
    """

    source: str
    identity: str
    row: IndexRow
    owner: SharedHeader


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOrder:
    """One file to be de-identified.

    Attributes
    ----------
    source, target
        Below the sorted tree, and below the export.
    identity
        Names the source's content, and what is known of the patient: when that grows, the file is made again.
    pseudonym
        The subject; the key into the chunk's people.
    """

    source: str
    target: str
    identity: str
    pseudonym: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """What the rewriter and the audit need of one patient. Identifies: stays in `identified/`.

    Attributes
    ----------
    shift_days
        See `Subject`.
    identifiers, dates, uids
        Everything that is known of the patient and must not be found in the export.
    """

    shift_days: int
    identifiers: tuple[str, ...]
    dates: tuple[str, ...]
    uids: tuple[str, ...]


def patients_of(
    files: Iterable[SortedFile], joined: Mapping[str, str] = MappingProxyType({})
) -> dict[str, list[SortedFile]]:
    """Group files by patient; `joined` gives for the further IDs of a patient the one that stands for all."""
    groups: dict[str, list[SortedFile]] = defaultdict(list)
    for file in files:
        shared = file.owner
        patient_id = joined.get(shared.patient_id, shared.patient_id)
        groups[patient_key(patient_id, shared.patient_name, shared.study_instance_uid)].append(file)
    return groups


def plan_export(
    patients: Mapping[str, Sequence[SortedFile]],
    subjects: Mapping[str, Subject],
    identity: Identity,
    harvests: Mapping[str, Harvest],
    *,
    dates: str,
) -> tuple[list[ExportOrder], dict[str, Person]]:
    """Name the exported files and collect what is known of each patient.

    The export's tree is subject / visit / series / instance. A visit is named by its date as the export tells it, or
    by its number where the export tells none; a series by its number and a keyed tag: no name leads back.

    Parameters
    ----------
    patients, subjects
        By patient.
    identity
        Gives the keyed tags.
    harvests
        What each file holds of its patient, by source.
    dates
        What becomes of dates: `Profile.temporal_information`.

    Returns
    -------
    orders, people
        Sorted by target; people by pseudonym.
    """
    orders: list[ExportOrder] = []
    people: dict[str, Person] = {}
    for patient, files in patients.items():
        subject = subjects[patient]
        person = _describe(files, subject, harvests)
        people[subject.pseudonym] = person
        known = digest_of(person.identifiers)[:16]
        visits = _name_visits(files, subject, dates)
        by_target: dict[str, list[SortedFile]] = defaultdict(list)
        for file in files:
            by_target[_target(file.row, subject, visits[_day(file.row)], identity)].append(file)
        for target, group in by_target.items():
            for file in group:
                # Files that share a SOP Instance UID are told apart by a keyed tag of their place in the sorted tree.
                name = target if len(group) == 1 else f"{target}_{identity.tag(file.source)}"
                orders.append(
                    ExportOrder(
                        source=file.source,
                        target=f"{name}.dcm",
                        identity=f"{file.identity}-{known}",
                        pseudonym=subject.pseudonym,
                    )
                )
    return sorted(orders, key=lambda order: order.target), people


def split_orders(orders: Sequence[ExportOrder], size: int) -> list[list[ExportOrder]]:
    """Cut the work into chunks of about `size` files that never split a series."""
    series: dict[str, list[ExportOrder]] = defaultdict(list)
    for order in orders:
        series[order.target.rpartition("/")[0]].append(order)
    chunks: list[list[ExportOrder]] = []
    for members in series.values():
        if not chunks or len(chunks[-1]) + len(members) > size:
            chunks.append([])
        chunks[-1] += members
    return chunks


def write_orders(path: Path, orders: Sequence[ExportOrder], people: Mapping[str, Person]) -> None:
    """Freeze one chunk's work list; it identifies, so only its owner may read it."""
    needed = {order.pseudonym for order in orders}
    content = {
        "orders": [asdict(order) for order in orders],
        "people": {name: asdict(person) for name, person in people.items() if name in needed},
    }
    write_atomically(path, json.dumps(content).encode("ascii"), mode=0o600)


def read_orders(path: Path) -> tuple[list[ExportOrder], dict[str, Person]]:
    """Read what `write_orders` wrote."""
    try:
        content = json.loads(path.read_bytes())
        orders = [ExportOrder(**order) for order in content["orders"]]
        people = {
            name: Person(
                shift_days=person["shift_days"],
                identifiers=tuple(person["identifiers"]),
                dates=tuple(person["dates"]),
                uids=tuple(person["uids"]),
            )
            for name, person in content["people"].items()
        }
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise DamagedRecordError(path=path, problem="it is not there or was cut") from fault
    return orders, people


def _describe(files: Sequence[SortedFile], subject: Subject, harvests: Mapping[str, Harvest]) -> Person:
    known = Harvest()
    for harvest in {harvests.get(file.source, known) for file in files}:
        known |= harvest
    uids: set[str] = set()
    identifiers = set(known.identifiers)
    for file in files:
        uids.add(file.row.sop_instance_uid)
    for header in {header for file in files for header in (file.row.shared, file.owner)}:
        uids |= {header.study_instance_uid, header.series_instance_uid}
        # Whom a person said a file belongs to stands in no file.
        identifiers |= name_parts(header.patient_name) | whole(header.patient_id)
    return Person(
        shift_days=subject.shift_days,
        identifiers=tuple(sorted(identifiers - {""})),
        dates=tuple(sorted(known.dates)),
        uids=tuple(sorted(uids - {""})),
    )


def _day(row: IndexRow) -> str:
    """Return the date of a file's visit as it stands in the header, or nothing if it has none."""
    shared = row.shared
    dates = (
        shared.study_date,
        shared.series_date,
        shared.acquisition_date,
        row.acquisition_datetime[:8],
        shared.content_date,
    )
    days = (shift_date(date.encode("ascii", "replace"), 0) for date in dates)
    return next((day.decode() for day in days if day), "")


def _name_visits(files: Iterable[SortedFile], subject: Subject, dates: str) -> dict[str, str]:
    """Name each day on which a patient was scanned as far as the export may tell it."""
    days = sorted({_day(file.row) for file in files} - {""})
    names = {"": "ses-unknown"}
    for number, day in enumerate(days, 1):
        if dates == "REMOVED":
            names[day] = f"ses-{number:02d}"
        else:
            moved = shift_date(day.encode(), subject.shift_days if dates == "MODIFIED" else 0)
            names[day] = f"ses-{moved.decode()}" if moved else "ses-unknown"
    return names


def _target(row: IndexRow, subject: Subject, visit: str, identity: Identity) -> str:
    shared = row.shared
    series = f"{_number(shared.series_number, 3)}_{identity.tag(shared.study_instance_uid, shared.series_instance_uid)}"
    return (
        f"{subject.pseudonym}/{visit}/{series}/{_number(row.instance_number, 5)}_{identity.tag(row.sop_instance_uid)}"
    )


def _number(text: str, width: int) -> str:
    # A number of more digits is none that a scanner counts with, and may be anything.
    return text.zfill(width) if text.isascii() and text.isdigit() and len(text) <= 6 else "0" * width
