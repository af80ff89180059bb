"""What is exported under which name follows from the files alone, and what became of each is kept."""

from __future__ import annotations

import dataclasses
import itertools
import random
import re
import sqlite3
import stat
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.deidentify.export import read_rows, write_rows
from tasks.deidentify.harvest import Harvest
from tasks.deidentify.identity import Identity, Subject
from tasks.deidentify.ledger import ExportRow, Ledger
from tasks.deidentify.plan import (
    ExportOrder,
    Person,
    SortedFile,
    patients_of,
    plan_export,
    read_orders,
    split_orders,
    write_orders,
)
from tasks.errors import DamagedRecordError, WorkspaceError
from tasks.index.row import SHARED_FIELDS, IndexRow
from tests import strategies

IDENTITY = Identity(bytes(range(32)))

TARGET = re.compile(
    r"SUB-\d{4}/ses-(\d{8}|unknown)/\d{3,6}_[0-9a-f]{8}/\d{5,6}_[0-9a-f]{8}(_[0-9a-f]{8})?\.dcm", re.ASCII
)


a_row = strategies.make_row


def sorted_files(rows: list[IndexRow]) -> list[SortedFile]:
    return [
        SortedFile(source=f"place/{number:05d}.dcm", identity=str(number), row=row, owner=row.shared)
        for number, row in enumerate(rows)
    ]


def subjects_of(patients: dict[str, list[SortedFile]]) -> dict[str, Subject]:
    return {
        patient: Subject(pseudonym=f"SUB-{number:04d}", shift_days=IDENTITY.shift_for(patient))
        for number, patient in enumerate(sorted(patients, key=IDENTITY.rank), 1)
    }


def plan(files: list[SortedFile]) -> tuple[list[ExportOrder], dict[str, Person]]:
    patients = patients_of(files)
    return plan_export(patients, subjects_of(patients), IDENTITY, {}, dates="MODIFIED")


# ---- names


@given(st.lists(strategies.index_rows(), max_size=12), st.randoms())
def test_the_plan_is_the_same_whatever_the_order_of_the_files(rows: list[IndexRow], chance: random.Random) -> None:
    files = sorted_files(rows)
    orders, people = plan(files)
    chance.shuffle(files)
    again, same_people = plan(files)
    assert (again, same_people) == (orders, people)
    assert [order.target for order in orders] == sorted(order.target for order in orders)
    assert sorted(order.source for order in orders) == sorted(file.source for file in files)
    assert len({order.target.casefold() for order in orders}) == len(files)
    assert {order.pseudonym for order in orders} == people.keys()


@given(st.lists(strategies.index_rows(), max_size=12))
def test_names_hold_a_pseudonym_a_moved_date_numbers_and_keyed_tags(rows: list[IndexRow]) -> None:
    for order in plan(sorted_files(rows))[0]:
        assert TARGET.fullmatch(order.target), "the name has another form"
        assert order.target.startswith(f"{order.pseudonym}/")


FREE = ("series_description", "protocol_name", "accession_number", "study_id", "institution_name", "station_name")
FREE += ("referring_physician_name", "device_serial_number", "manufacturer", "patient_birth_date", "other_patient_ids")
FREE += ("modality", "image_type", "study_time", "acquisition_time", "transfer_syntax_uid", "slow_path")


@given(strategies.index_rows(), strategies.index_rows())
def test_names_do_not_depend_on_what_is_not_in_them(row: IndexRow, other: IndexRow) -> None:
    shared = {name: getattr(other.shared, name) for name in FREE if name in SHARED_FIELDS}
    own = {name: getattr(other, name) for name in FREE if name not in SHARED_FIELDS}
    changed = dataclasses.replace(row, shared=dataclasses.replace(row.shared, **shared), **own)
    (order,), _ = plan(sorted_files([row]))
    (same,), _ = plan(sorted_files([changed]))
    assert order.target == same.target


def test_names_of_another_secret_share_nothing() -> None:
    row = a_row(patient_id="P", study_instance_uid="1.2", series_instance_uid="1.3", sop_instance_uid="1.4")
    patients = patients_of(sorted_files([row]))
    subjects = {"id:P": Subject(pseudonym="SUB-0001", shift_days=-400)}
    (one,), _ = plan_export(patients, subjects, IDENTITY, {}, dates="MODIFIED")
    (other,), _ = plan_export(patients, subjects, Identity(bytes(32)), {}, dates="MODIFIED")
    tags = [set(re.findall(r"[0-9a-f]{8}", order.target)) for order in (one, other)]
    assert not tags[0] & tags[1]


@pytest.mark.parametrize(
    ("fields", "target"),
    [
        ({"study_date": "20240229"}, "SUB-0001/ses-20230125/000_~/00000_~.dcm"),
        ({"study_date": "2024.02.29"}, "SUB-0001/ses-20230125/000_~/00000_~.dcm"),
        ({"study_date": "nonsense", "series_date": "20240229"}, "SUB-0001/ses-20230125/000_~/00000_~.dcm"),
        ({"acquisition_datetime": "20240229101112+0800"}, "SUB-0001/ses-20230125/000_~/00000_~.dcm"),
        ({"content_date": "20240229"}, "SUB-0001/ses-20230125/000_~/00000_~.dcm"),
        ({"study_date": "00010101"}, "SUB-0001/ses-unknown/000_~/00000_~.dcm"),
        ({"series_number": "7", "instance_number": "12"}, "SUB-0001/ses-unknown/007_~/00012_~.dcm"),
        ({"series_number": "123456", "instance_number": "123456"}, "SUB-0001/ses-unknown/123456_~/123456_~.dcm"),
        ({"series_number": "1234567", "instance_number": "19450508"}, "SUB-0001/ses-unknown/000_~/00000_~.dcm"),
        ({"series_number": "-1", "instance_number": "1.5"}, "SUB-0001/ses-unknown/000_~/00000_~.dcm"),
        ({"series_number": "٣", "instance_number": "²"}, "SUB-0001/ses-unknown/000_~/00000_~.dcm"),
        ({"series_number": "../..", "instance_number": "DOE"}, "SUB-0001/ses-unknown/000_~/00000_~.dcm"),
    ],
)
def test_names_word_by_word(fields: dict[str, str], target: str) -> None:
    patients = patients_of(sorted_files([a_row(patient_id="P", **fields)]))
    (order,), _ = plan_export(
        patients, {"id:P": Subject(pseudonym="SUB-0001", shift_days=-400)}, IDENTITY, {}, dates="MODIFIED"
    )
    assert re.sub(r"_[0-9a-f]{8}", "_~", order.target) == target


def test_two_contents_with_one_sop_instance_uid_both_have_a_name() -> None:
    same = {"patient_id": "P", "study_instance_uid": "1.2", "series_instance_uid": "1.3", "sop_instance_uid": "1.4"}
    files = sorted_files([a_row(**same), a_row(**same), a_row(**{**same, "sop_instance_uid": "1.5"})])
    orders, _ = plan(files)
    assert len({order.target for order in orders}) == 3
    by_source = {order.source: order.target for order in orders}
    # Which is which hangs on where it stands, so a third one changes neither; one that stands alone has the short name.
    more, _ = plan([*files, dataclasses.replace(files[0], source="place/another.dcm", identity="9")])
    assert by_source.items() <= {order.source: order.target for order in more}.items()
    assert sorted(target.count("_") for target in by_source.values()) == [2, 3, 3]


def test_patients_are_kept_apart_and_one_patients_studies_together() -> None:
    rows = [
        a_row(patient_id="P", study_instance_uid="1", study_date="20240101"),
        a_row(patient_id="P", study_instance_uid="2", study_date="20240601"),
        a_row(patient_name="P", study_instance_uid="3"),
        a_row(study_instance_uid="4"),
        a_row(study_instance_uid="5"),
    ]
    orders, people = plan(sorted_files(rows))
    assert len(people) == 4
    folders: dict[str, set[str]] = defaultdict(set)
    for order in orders:
        folders[order.target.split("/")[0]].add(order.target.split("/")[1])
    assert sorted(map(len, folders.values())) == [1, 1, 1, 2]


def test_a_person_is_what_all_files_of_the_patient_hold_and_what_the_index_knows() -> None:
    rows = [
        a_row(patient_id="P1", patient_name="Doe^Jane", sop_instance_uid="1.1", study_instance_uid="1.2"),
        a_row(patient_id="P1", series_instance_uid="1.4"),
        a_row(patient_id="P2", patient_name="Roe^Rick", sop_instance_uid="1.5"),
    ]
    files = sorted_files(rows)
    harvests = {
        files[0].source: Harvest(identifiers=frozenset({"ACC1"}), dates=frozenset({"20240101"})),
        files[1].source: Harvest(identifiers=frozenset({"Old name"}), dates=frozenset({"19600101"})),
    }
    patients = patients_of(files)
    _, people = plan_export(patients, subjects_of(patients), IDENTITY, harvests, dates="MODIFIED")
    one, other = sorted(people.values(), key=lambda person: person.uids)
    assert set(one.identifiers) == {"ACC1", "Old name", "P1", "Doe Jane", "Doe", "Jane"}
    assert (one.dates, one.uids) == (("19600101", "20240101"), ("1.1", "1.2", "1.4"))
    assert one.shift_days == IDENTITY.shift_for("id:P1")
    assert set(other.identifiers) == {"P2", "Roe Rick", "Roe", "Rick"}


def test_when_more_is_known_of_a_patient_the_files_of_this_patient_are_made_again() -> None:
    files = sorted_files(
        [a_row(patient_id="P1", sop_instance_uid="1.1"), a_row(patient_id="P2", sop_instance_uid="1.2")]
    )
    patients = patients_of(files)
    subjects = subjects_of(patients)
    more = {files[0].source: Harvest(identifiers=frozenset({"A new name"}))}
    days = {files[0].source: Harvest(dates=frozenset({"20240101"}))}

    def identities(harvests: dict[str, Harvest]) -> dict[str, str]:
        orders, _ = plan_export(patients, subjects, IDENTITY, harvests, dates="MODIFIED")
        return {order.source: order.identity for order in orders}

    before, after = identities({}), identities(more)
    assert before[files[0].source] != after[files[0].source]
    assert before[files[1].source] == after[files[1].source]
    assert identities(days) == before


@pytest.mark.parametrize(
    ("dates", "visits"),
    [
        ("REMOVED", ["ses-01", "ses-02", "ses-unknown"]),
        ("UNMODIFIED", ["ses-20240101", "ses-20240601", "ses-unknown"]),
        ("MODIFIED", ["ses-20221127", "ses-20230428", "ses-unknown"]),
    ],
)
def test_a_visit_is_named_no_more_than_the_export_tells(dates: str, visits: list[str]) -> None:
    rows = [
        a_row(patient_id="P", study_instance_uid="2", study_date="20240601"),
        a_row(patient_id="P", study_instance_uid="1", study_date="20240101"),
        a_row(patient_id="P", study_instance_uid="3"),
    ]
    subjects = {"id:P": Subject(pseudonym="SUB-0001", shift_days=-400)}
    orders, _ = plan_export(patients_of(sorted_files(rows)), subjects, IDENTITY, {}, dates=dates)
    assert [order.target.split("/")[1] for order in orders] == visits


# ---- portions


@given(st.lists(strategies.index_rows(), max_size=20), st.integers(1, 8))
def test_chunks_hold_everything_once_and_never_split_a_series(rows: list[IndexRow], size: int) -> None:
    orders, _ = plan(sorted_files(rows))
    chunks = split_orders(orders, size)
    assert [order for chunk in chunks for order in chunk] == orders
    homes: dict[str, set[int]] = defaultdict(set)
    for number, chunk in enumerate(chunks):
        series = {order.target.rpartition("/")[0] for order in chunk}
        assert chunk
        assert len(chunk) <= size or len(series) == 1
        for folder in series:
            homes[folder].add(number)
    assert all(len(numbers) == 1 for numbers in homes.values())
    # No two neighbours would have fitted into one.
    for one, other in itertools.pairwise(chunks):
        first = [order for order in other if order.target.rpartition("/")[0] == other[0].target.rpartition("/")[0]]
        assert len(one) + len(first) > size


@given(st.lists(strategies.index_rows(), min_size=1, max_size=6))
def test_a_work_list_comes_back_as_it_was_and_holds_no_other_patients(
    tmp_path_factory: pytest.TempPathFactory, rows: list[IndexRow]
) -> None:
    orders, people = plan(sorted_files(rows))
    path = tmp_path_factory.mktemp("plan") / "00000.json"
    for chunk in split_orders(orders, 2):
        write_orders(path, chunk, people)
        read, needed = read_orders(path)
        assert read == chunk
        assert needed == {name: people[name] for name in {order.pseudonym for order in chunk}}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


ROW = ExportRow(source="a/b.dcm", identity="1", target="SUB/x.dcm", reason="", digest="0" * 64, by_pydicom="")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'{"orders": [{}], "people": {}}', b"\xff", b"null", b"7"]
)
def test_a_work_list_or_outcome_that_was_cut_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "00000.json"
    with pytest.raises(DamagedRecordError):
        read_orders(path)
    with pytest.raises(DamagedRecordError):
        read_rows(path)
    path.write_bytes(content)
    with pytest.raises(DamagedRecordError):
        read_orders(path)
    if content not in (b"[]", b"{}"):
        with pytest.raises(DamagedRecordError):
            read_rows(path)


def test_outcomes_come_back_as_they_were(tmp_path: Path) -> None:
    rows = [ROW, dataclasses.replace(ROW, source="山田/b.dcm", reason="malformed", digest="")]
    write_rows(tmp_path / "done.json", rows)
    assert read_rows(tmp_path / "done.json") == rows
    assert stat.S_IMODE((tmp_path / "done.json").stat().st_mode) == 0o600


# ---- the ledger


def test_the_ledger_keeps_the_last_outcome_of_each_source(tmp_path: Path) -> None:
    path = tmp_path / "export.db"
    with Ledger(path) as ledger:
        assert (ledger.rows(), ledger.settings()) == ([], "")
        ledger.keep("one", [ROW, dataclasses.replace(ROW, source="a/a.dcm")], [])
    with Ledger(path) as ledger:
        assert [row.source for row in ledger.rows()] == ["a/a.dcm", "a/b.dcm"]
        assert ledger.settings() == "one"
        changed = dataclasses.replace(ROW, reason="audit-date", digest="")
        ledger.keep("two", [changed], ["a/a.dcm", "never there"])
        assert (ledger.rows(), ledger.settings()) == ([changed], "two")
        # What is forgotten and made anew in one act is there.
        ledger.keep("two", [ROW], [ROW.source])
        assert ledger.rows() == [ROW]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_many_files_share_is_kept_once_and_goes_with_the_last(tmp_path: Path) -> None:
    told = {"tally": '{"keep":3}', "cohort": '{"sex":"F"}', "conversion": "equal"}
    rows = [dataclasses.replace(ROW, source=f"a/{number}.dcm", **told) for number in range(50)]

    def notes() -> list[str]:
        connection = sqlite3.connect(tmp_path / "export.db")
        found = [content for (content,) in connection.execute("SELECT content FROM note ORDER BY content")]
        connection.close()
        return found

    with Ledger(tmp_path / "export.db") as ledger:
        ledger.keep("one", rows, [])
        assert ledger.rows() == sorted(rows, key=lambda row: row.source)
        assert notes() == ["", '{"keep":3}', '{"sex":"F"}']
        other = dataclasses.replace(rows[0], tally='{"keep":4}', cohort='{"keep":3}')
        ledger.keep("one", [other, rows[1]], [row.source for row in rows[2:]])
        assert ledger.rows() == [other, rows[1]]
        assert notes() == ["", '{"keep":3}', '{"keep":4}', '{"sex":"F"}']
        ledger.keep("one", [], [row.source for row in rows])
        assert (ledger.rows(), notes()) == ([], [""])


def test_a_ledger_of_the_first_version_is_taken_over_and_its_files_are_made_again(tmp_path: Path) -> None:
    """Rows stay, for they tell what stands in the export; the settings go, so that none of them counts as done."""
    path = tmp_path / "export.db"
    connection = sqlite3.connect(path)
    connection.executescript(
        """CREATE TABLE outcome (source TEXT PRIMARY KEY, identity TEXT NOT NULL, target TEXT NOT NULL,
        reason TEXT NOT NULL, digest TEXT NOT NULL, by_pydicom TEXT NOT NULL);
        CREATE TABLE fact (name TEXT PRIMARY KEY, value TEXT NOT NULL);
        INSERT INTO fact VALUES ('settings', 'one'); PRAGMA user_version = 1;"""
    )
    values = (ROW.source, ROW.identity, ROW.target, ROW.reason, ROW.digest, ROW.by_pydicom)
    with connection:
        connection.execute("INSERT INTO outcome VALUES (?, ?, ?, ?, ?, ?)", values)
    connection.close()
    for _ in range(2):
        with Ledger(path) as ledger:
            assert (ledger.rows(), ledger.settings()) == ([ROW], "")
    told = dataclasses.replace(ROW, tally='{"keep":3}')
    with Ledger(path) as ledger:
        ledger.keep("two", [told], [])
        assert (ledger.rows(), ledger.settings()) == ([told], "two")


def test_the_ledger_takes_in_everything_or_nothing(tmp_path: Path) -> None:
    class InterruptionError(Exception):
        pass

    def interrupted() -> object:
        yield dataclasses.replace(ROW, source="other")
        raise InterruptionError

    with Ledger(tmp_path / "export.db") as ledger:
        ledger.keep("one", [ROW], [])
        with pytest.raises(InterruptionError):
            ledger.keep("two", interrupted(), [ROW.source])  # type: ignore[arg-type]
        assert (ledger.rows(), ledger.settings()) == ([ROW], "one")


def test_a_run_killed_while_it_keeps_leaves_the_ledger_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "export.db"
    with Ledger(path) as ledger:
        ledger.keep("one", [ROW], [])
    dying = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from tasks.deidentify.ledger import ExportRow, Ledger\n"
        "def rows():\n"
        "    for n in range(60_000):\n"
        "        source = f'{n}' * 9\n"
        "        yield ExportRow(source=source, identity='1', target='t', reason='', digest='0' * 64, by_pydicom='')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "Ledger(Path(sys.argv[1])).keep('two', rows(), ['a/b.dcm'])\n"
    )
    ended = subprocess.run([sys.executable, "-c", dying, str(path)], capture_output=True, check=False)
    assert ended.returncode == -9, ended.stderr.decode()
    # More than SQLite's cache holds: part of it had reached the disk.
    assert sum(entry.stat().st_size for entry in tmp_path.iterdir()) > 1_000_000
    with Ledger(path) as ledger:
        assert (ledger.rows(), ledger.settings()) == ([ROW], "one")


@pytest.mark.parametrize("content", [b"not a database" * 999, b"SQLite format 3\0" + b"\xff" * 4000])
def test_a_ledger_that_is_none_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "export.db"
    path.write_bytes(content)
    with pytest.raises(DamagedRecordError):
        Ledger(path)
    assert path.read_bytes() == content


def test_a_ledger_of_another_version_or_program_is_not_touched(tmp_path: Path) -> None:
    for name, statement in (
        ("newer", "PRAGMA user_version = 9"),
        ("stranger", "CREATE TABLE bookmarks (address TEXT)"),
    ):
        path = tmp_path / name
        connection = sqlite3.connect(path)
        connection.execute(statement)
        connection.close()
        content = path.read_bytes()
        with pytest.raises(DamagedRecordError):
            Ledger(path)
        assert path.read_bytes() == content
    (tmp_path / "file").touch()
    with pytest.raises(WorkspaceError):
        Ledger(tmp_path / "file" / "export.db")
