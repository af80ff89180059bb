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

from tasks.deidentify.audit import name_parts
from tasks.deidentify.identity import Identity, Subject, patient_key, shift_date
from tasks.errors import DamagedRecordError
from tasks.files import write_atomically
from tasks.index.row import IndexRow, SharedHeader


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
        Names the source's content.
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
    identifiers, uids
        Everything the index knows of the patient that must not be found in the export.
    """

    shift_days: int
    identifiers: tuple[str, ...]
    uids: tuple[str, ...]


def patients_of(files: Iterable[SortedFile]) -> dict[str, list[SortedFile]]:
    """Group files by patient."""
    groups: dict[str, list[SortedFile]] = defaultdict(list)
    for file in files:
        shared = file.owner
        groups[patient_key(shared.patient_id, shared.patient_name, shared.study_instance_uid)].append(file)
    return groups


def plan_export(
    patients: Mapping[str, Sequence[SortedFile]], subjects: Mapping[str, Subject], identity: Identity
) -> tuple[list[ExportOrder], dict[str, Person]]:
    """Name the exported files and collect what is known of each patient.

    The export's tree is subject / visit / series / instance. A visit is named by its moved date, a series by its
    number and a keyed tag, so that nothing in a name leads back.

    Returns
    -------
    orders, people
        Sorted by target; people by pseudonym.
    """
    orders: list[ExportOrder] = []
    people: dict[str, Person] = {}
    for patient, files in patients.items():
        subject = subjects[patient]
        people[subject.pseudonym] = _describe(files, subject)
        by_target: dict[str, list[SortedFile]] = defaultdict(list)
        for file in files:
            by_target[_target(file.row, subject, identity)].append(file)
        for target, group in by_target.items():
            for file in group:
                # Files that share a SOP Instance UID are told apart by a keyed tag of their place in the sorted tree.
                name = target if len(group) == 1 else f"{target}_{identity.tag(file.source)}"
                orders.append(
                    ExportOrder(
                        source=file.source,
                        target=f"{name}.dcm",
                        identity=file.identity,
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
            name: Person(shift_days=p["shift_days"], identifiers=tuple(p["identifiers"]), uids=tuple(p["uids"]))
            for name, p in content["people"].items()
        }
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise DamagedRecordError(path=path, problem="it is not there or was cut") from fault
    return orders, people


def _describe(files: Iterable[SortedFile], subject: Subject) -> Person:
    identifiers: set[str] = set()
    uids: set[str] = set()
    headers: set[SharedHeader] = set()
    for file in files:
        uids.add(file.row.sop_instance_uid)
        headers |= {file.row.shared, file.owner}
    for header in headers:
        uids |= {header.study_instance_uid, header.series_instance_uid}
        identifiers |= name_parts(header.patient_name) | name_parts(header.referring_physician_name)
        identifiers |= set(header.other_patient_ids.split("\\"))
        identifiers |= {header.patient_id, header.accession_number, header.study_id, header.station_name}
        identifiers |= {header.institution_name, header.device_serial_number}
    return Person(
        shift_days=subject.shift_days,
        identifiers=tuple(sorted(identifiers - {""})),
        uids=tuple(sorted(uids - {""})),
    )


def _target(row: IndexRow, subject: Subject, identity: Identity) -> str:
    shared = row.shared
    dates = (
        shared.study_date,
        shared.series_date,
        shared.acquisition_date,
        row.acquisition_datetime[:8],
        shared.content_date,
    )
    shifted = (shift_date(date.encode("ascii", "replace"), subject.shift_days) for date in dates)
    moved = next((day for day in shifted if day), None)
    visit = f"ses-{moved.decode()}" if moved else "ses-unknown"
    series = f"{_number(shared.series_number, 3)}_{identity.tag(shared.study_instance_uid, shared.series_instance_uid)}"
    return (
        f"{subject.pseudonym}/{visit}/{series}/{_number(row.instance_number, 5)}_{identity.tag(row.sop_instance_uid)}"
    )


def _number(text: str, width: int) -> str:
    # A number of more digits is none that a scanner counts with, and may be anything.
    return text.zfill(width) if text.isascii() and text.isdigit() and len(text) <= 6 else "0" * width
