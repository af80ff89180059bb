"""A patient keeps the subject that they were given, whatever happens between two runs."""

from __future__ import annotations

import os
import random
import re
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.deidentify.identity import Identity, Subject
from tasks.deidentify.keymap import Numbering, assign_subjects, read_given_pseudonyms
from tasks.errors import KeyMapError, WorkspaceError

IDENTITY = Identity(bytes(range(32)))
PLAIN = Numbering(prefix="SUB", given={})
PATIENTS = [f"id:P{number}" for number in range(30)]


def assign(
    path: Path, patients: list[str], numbering: Numbering = PLAIN, identity: Identity = IDENTITY
) -> dict[str, Subject]:
    return assign_subjects(path, patients, identity, numbering)


# ---- who gets what


def test_a_patient_keeps_the_subject_in_every_run(tmp_path: Path) -> None:
    path = tmp_path / "keymap"
    first = assign(path, PATIENTS[:10])
    assert assign(path, PATIENTS[:10]) == first
    more = assign(path, PATIENTS)
    assert {patient: more[patient] for patient in PATIENTS[:10]} == first
    # Patients who are not asked for are not forgotten, and their numbers are not given away.
    assert assign(path, PATIENTS[20:]) == {patient: more[patient] for patient in PATIENTS[20:]}
    assert assign(path, PATIENTS[:10]) == first
    assert assign(path, ["id:new"])["id:new"].pseudonym == "SUB-0031"


def test_pseudonyms_are_numbered_without_gaps_and_shifts_are_the_secrets(tmp_path: Path) -> None:
    subjects = assign(tmp_path / "keymap", PATIENTS)
    assert {subject.pseudonym for subject in subjects.values()} == {f"SUB-{number:04d}" for number in range(1, 31)}
    assert all(subject.shift_days == IDENTITY.shift_for(patient) for patient, subject in subjects.items())
    # Numbers follow an order drawn from the secret: neither that of names, nor that of arrival.
    order = sorted(PATIENTS, key=lambda patient: subjects[patient].pseudonym)
    assert order not in (PATIENTS, sorted(PATIENTS), PATIENTS[::-1])
    other = assign(tmp_path / "other", PATIENTS, identity=Identity(bytes(32)))
    assert sorted(PATIENTS, key=lambda patient: other[patient].pseudonym) != order


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=10), max_size=12), st.randoms())
def test_within_one_run_the_order_of_patients_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], chance: random.Random
) -> None:
    patients = [f"name:{name}" for name in names]
    folder = tmp_path_factory.mktemp("keymap")
    first = assign(folder / "one", patients)
    shuffled = patients + patients[:3]
    chance.shuffle(shuffled)
    assert assign(folder / "other", shuffled) == first
    assert len({subject.pseudonym for subject in first.values()}) == len(set(patients))


def test_more_than_9999_patients_have_a_number(tmp_path: Path) -> None:
    subjects = assign(tmp_path / "keymap", [f"id:{number}" for number in range(10_050)])
    assert {subject.pseudonym for subject in subjects.values()} >= {"SUB-0001", "SUB-9999", "SUB-10050"}


def test_nobody_gives_nothing(tmp_path: Path) -> None:
    assert assign(tmp_path / "keymap", []) == {}


# ---- pseudonyms that the study gives itself


def test_given_pseudonyms_are_used_and_numbers_go_around_them(tmp_path: Path) -> None:
    numbering = Numbering(prefix="SUB", given={"P0": "TRIAL-A", "P1": "SUB-0001", "unseen": "SUB-0002"})
    subjects = assign(tmp_path / "keymap", PATIENTS[:4], numbering)
    assert subjects["id:P0"].pseudonym == "TRIAL-A"
    assert subjects["id:P1"].pseudonym == "SUB-0001"
    assert {subjects[patient].pseudonym for patient in PATIENTS[2:4]} == {"SUB-0003", "SUB-0004"}


def test_a_given_pseudonym_is_for_a_patient_id_and_not_for_a_name(tmp_path: Path) -> None:
    numbering = Numbering(prefix="SUB", given={"P0": "TRIAL-A", "name:P0": "TRIAL-B"})
    subjects = assign(tmp_path / "keymap", ["name:P0", "study:P0", "id:name:P0"], numbering)
    assert subjects["name:P0"].pseudonym == "SUB-0001" or subjects["study:P0"].pseudonym == "SUB-0001"
    assert subjects["id:name:P0"].pseudonym == "TRIAL-B"


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"P0": "TRIAL-B"}, "another pseudonym than before"),
        ({"P1": "TRIAL-B"}, "another pseudonym than before"),
        ({"P2": "TRIAL-A"}, "a pseudonym that another one has"),
        ({"P2": "SUB-0001"}, "a pseudonym that another one has"),
    ],
)
def test_a_given_pseudonym_that_contradicts_the_map_is_refused_and_changes_nothing(
    tmp_path: Path, given: dict[str, str], problem: str
) -> None:
    path = tmp_path / "keymap"
    before = assign(path, PATIENTS[:2], Numbering(prefix="SUB", given={"P0": "TRIAL-A"}))
    assert before["id:P1"].pseudonym == "SUB-0001"
    with pytest.raises(KeyMapError, match=problem) as fault:
        assign(path, PATIENTS[:3], Numbering(prefix="SUB", given=given))
    assert not re.search(r"P[012]|TRIAL|SUB-", str(fault.value).replace(str(path), ""))
    assert assign(path, PATIENTS[:2], Numbering(prefix="SUB", given={"P0": "TRIAL-A"})) == before
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM subject").fetchone() == (2,)
    connection.close()


def write_list(folder: Path, content: str | bytes) -> Path:
    path = folder / "pseudonyms.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_list_is_read_as_spreadsheets_write_it(tmp_path: Path) -> None:
    assert read_given_pseudonyms(None) == {}
    assert read_given_pseudonyms(write_list(tmp_path, "patient_id,pseudonym\n")) == {}
    plain = "patient_id,pseudonym\nP0,TRIAL-A\nP 1,b_2\n"
    expected = {"P0": "TRIAL-A", "P 1": "b_2"}
    forms = [
        plain,
        "\ufeff" + plain,
        plain.replace("\n", "\r\n"),
        "site,pseudonym,patient_id\nNZ,TRIAL-A, P0 \nTW,b_2,P 1\n",
        'patient_id,pseudonym\n"P0","TRIAL-A"\n\n"P 1",b_2,and more\n',
    ]
    for form in forms:
        assert read_given_pseudonyms(write_list(tmp_path, form)) == expected
    umlaut = read_given_pseudonyms(write_list(tmp_path, 'patient_id,pseudonym\n"Ä,1",X\n山田,Y\n'))
    assert umlaut == {"Ä,1": "X", "山田": "Y"}
    assert read_given_pseudonyms(write_list(tmp_path, f"patient_id,pseudonym\nP0,{'x' * 63}\n")) == {"P0": "x" * 63}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "first line must name the columns"),
        ("P0,TRIAL-A\n", "first line must name the columns"),
        ("patient_id;pseudonym\nP0;TRIAL-A\n", "first line must name the columns"),
        ("patient,pseudonym\n", "first line must name the columns"),
        ("patient_id\nP0\n", "first line must name the columns"),
        ("patient_id,pseudonym\nP0\n", "line 2 needs"),
        ("patient_id,pseudonym\nP0,\n", "line 2 needs"),
        ("patient_id,pseudonym\n,TRIAL-A\n", "line 2 needs"),
        ("patient_id,pseudonym\nP0,A\n\nP1,../up\n", "line 4 needs"),
        ("patient_id,pseudonym\nP0,a/b\n", "line 2 needs"),
        ("patient_id,pseudonym\nP0,-rf\n", "line 2 needs"),
        ("patient_id,pseudonym\nP0,.hidden\n", "line 2 needs"),
        ("patient_id,pseudonym\nP0,a b\n", "line 2 needs"),
        ("patient_id,pseudonym\nP0,Doe^J\n", "line 2 needs"),
        ("patient_id,pseudonym\nP0,Ä\n", "line 2 needs"),
        (f"patient_id,pseudonym\nP0,{'x' * 64}\n", "line 2 needs"),
        ("patient_id,pseudonym\nP0,A\nP0,B\n", "line 3 names .* second time"),
        ("patient_id,pseudonym\nP0,A\nP1,A\n", "line 3 names .* second time"),
        ("patient_id,pseudonym\nP0,Sub1\nP1,sUB1\n", "line 3 names .* second time"),
        (b"patient_id,pseudonym\nP\xe9,A\n", "cannot be read"),
        ('patient_id,pseudonym\n"P0,A\n', "cannot be read"),
        ('patient_id,pseudonym\n"P0"x,A\n', "cannot be read"),
    ],
)
def test_every_fault_of_a_list_is_named(tmp_path: Path, content: str | bytes, problem: str) -> None:
    path = write_list(tmp_path, content)
    with pytest.raises(KeyMapError, match=problem) as fault:
        read_given_pseudonyms(path)
    # The list names patients; the fault says where to look and not whom it found.
    assert not re.search(r"P[01]|TRIAL|Doe|Sub1", str(fault.value).replace(str(path), ""))


def test_a_list_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(KeyMapError, match="cannot be read"):
            read_given_pseudonyms(path)


# ---- the file


def test_the_map_is_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        assign(tmp_path / "keymap", PATIENTS)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "keymap").stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["keymap"]


def test_another_secret_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keymap"
    before = assign(path, PATIENTS[:3])
    with pytest.raises(KeyMapError, match="secret is another") as fault:
        assign(path, PATIENTS, identity=Identity(bytes(32)))
    assert IDENTITY.fingerprint() not in str(fault.value)
    assert assign(path, PATIENTS[:3]) == before


def _another_format(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 9")
    connection.close()


def _of_another_program(path: Path) -> None:
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE bookmarks (address TEXT)")
    connection.close()


def _without_the_secrets_name(path: Path) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("DELETE FROM fact")
    connection.close()


def _without_its_table(path: Path) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("DROP TABLE subject")
    connection.close()


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda path: path.write_bytes(b"no database at all, but some text" * 99), "cannot be read or written"),
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "cannot be read or written"),
        (lambda path: path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 8192), "cannot be read or written"),
        (_another_format, "format 9, not 1"),
        (_of_another_program, "another program"),
        (_without_the_secrets_name, "cannot be read or written"),
        (_without_its_table, "cannot be read or written"),
    ],
    ids=["text", "cut", "overwritten", "format", "stranger", "no fact", "no table"],
)
def test_a_damaged_map_is_refused_and_left_as_it_is(tmp_path: Path, damage: object, problem: str) -> None:
    path = tmp_path / "keymap"
    assign(path, PATIENTS)
    assert callable(damage)
    damage(path)
    content = path.read_bytes()
    with pytest.raises(KeyMapError, match=problem):
        assign(path, PATIENTS)
    assert path.read_bytes() == content


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WorkspaceError):
        assign(tmp_path / "file" / "keymap", PATIENTS)


# ---- kill -9

DYING = """
import os, signal, sys
from pathlib import Path
from tasks.deidentify.identity import Identity
from tasks.deidentify.keymap import Numbering, assign_subjects

class Dying(Identity):
    left = int(sys.argv[2])
    def shift_for(self, patient):
        Dying.left -= 1
        if Dying.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().shift_for(patient)

patients = [f"id:{'x' * 60}{number}" for number in range(int(sys.argv[3]))]
assign_subjects(Path(sys.argv[1]), patients, Dying(bytes(range(32))), Numbering(prefix="SUB", given={}))
"""


@pytest.mark.parametrize(("killed_after", "patients"), [(0, 10), (5, 10), (35_000, 40_000)])
def test_a_run_killed_while_it_assigns_leaves_the_map_as_it_was(
    tmp_path: Path, killed_after: int, patients: int
) -> None:
    """The last case has more patients than the cache of SQLite holds, so part of them is in the file already."""
    path = tmp_path / "keymap"
    for known in ([], PATIENTS):
        before = assign(path, known) if known else {}
        ended = subprocess.run(
            [sys.executable, "-c", DYING, str(path), str(killed_after), str(patients)], capture_output=True, check=False
        )
        assert ended.returncode == -9, ended.stderr.decode()
        if patients > 30_000:
            assert path.stat().st_size > 1_000_000
        assert assign(path, known) == before
        with sqlite3.connect(path) as connection:
            assert connection.execute("SELECT count(*) FROM subject").fetchone() == (len(known),)
        connection.close()
    # SQLite may leave an empty journal lying until somebody writes again.
    left = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in tmp_path.iterdir()}
    assert left.items() <= {"keymap": 0o600, "keymap-journal": 0o600}.items()


def test_runs_that_assign_at_the_same_time_agree(tmp_path: Path) -> None:
    """Two people start the same study: each patient gets one subject, and no number goes to two."""
    told = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tasks.deidentify.identity import Identity\n"
        "from tasks.deidentify.keymap import Numbering, assign_subjects\n"
        "first = int(sys.argv[2])\n"
        "identity, numbering = Identity(bytes(range(32))), Numbering(prefix='SUB', given={})\n"
        "for number in range(first, first + 20):\n"
        "    assign_subjects(Path(sys.argv[1]), [f'id:{number}'], identity, numbering)\n"
    )
    path = tmp_path / "keymap"
    started = [
        subprocess.Popen([sys.executable, "-c", told, str(path), str(first)], stderr=subprocess.PIPE)
        for first in (0, 10)
    ]
    for process in started:
        assert process.communicate()[1] == b""
    subjects = assign(path, [f"id:{number}" for number in range(30)])
    assert {subject.pseudonym for subject in subjects.values()} == {f"SUB-{number:04d}" for number in range(1, 31)}


def test_a_map_whose_making_was_interrupted_is_made(tmp_path: Path) -> None:
    """The file is there before its first table is."""
    expected = assign(tmp_path / "whole", PATIENTS)
    (tmp_path / "begun").touch(mode=0o600)
    assert assign(tmp_path / "begun", PATIENTS) == expected
