"""A patient keeps the subject that they were given, whatever happens between two runs."""

from __future__ import annotations

import contextlib
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
from tasks.deidentify.keymap import (
    Inquiry,
    KnownPatient,
    Numbering,
    assign_subjects,
    is_encrypted,
    load_passphrase,
    look_up,
    read_given_pseudonyms,
    read_inquiries,
    read_joined_patients,
)
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
        (_another_format, "format 9, not 2"),
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
    def shift_for(self, patient, **how):
        Dying.left -= 1
        if Dying.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().shift_for(patient, **how)

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


def test_a_map_of_the_first_format_is_taken_on(tmp_path: Path) -> None:
    path = tmp_path / "keymap"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(
        "CREATE TABLE subject (patient TEXT PRIMARY KEY, pseudonym TEXT NOT NULL UNIQUE, shift_days INTEGER NOT NULL)"
    )
    connection.execute("CREATE TABLE fact (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
    connection.execute("INSERT INTO subject VALUES ('id:P0', 'SUB-0007', -400)")
    connection.execute("INSERT INTO fact VALUES ('secret', ?)", (IDENTITY.fingerprint(),))
    connection.execute("PRAGMA user_version = 1")
    connection.close()
    assert assign(path, ["id:P0"]) == {"id:P0": Subject(pseudonym="SUB-0007", shift_days=-400)}
    assert [known.pseudonym for known in ask(path, "P0")] == ["SUB-0007"]


# ---- whole weeks


def test_whole_weeks_are_for_a_map_that_began_with_them(tmp_path: Path) -> None:
    weeks = Numbering(prefix="SUB", given={}, whole_weeks=True)
    new = assign(tmp_path / "new", PATIENTS, weeks)
    assert all(subject.shift_days % 7 == 0 for subject in new.values())
    assert assign(tmp_path / "new", PATIENTS) == new
    old = assign(tmp_path / "old", PATIENTS)
    assert any(subject.shift_days % 7 for subject in old.values())
    with pytest.raises(KeyMapError, match=r"made without whole_weeks.*Take whole_weeks out"):
        assign(tmp_path / "old", PATIENTS, weeks)
    assert assign(tmp_path / "old", PATIENTS) == old


# ---- patients with two IDs


def joining(**joined: str) -> Numbering:
    return Numbering(prefix="SUB", given={}, joined=joined)


def ask(path: Path, question: str, *, passphrase: bytes | None = None) -> list[KnownPatient]:
    return look_up(
        path,
        kind="patient",
        pseudonym=question,
        patients={f"id:{question}"},
        person="somebody",
        moment="2026-01-02T03:04:05+00:00",
        passphrase=passphrase,
    )


def test_joined_ids_are_one_subject_who_is_found_under_each(tmp_path: Path) -> None:
    path = tmp_path / "keymap"
    subjects = assign(path, ["id:P0", "id:P9"], joining(P1="P0", P2="P0"))
    assert set(subjects) == {"id:P0", "id:P9"}
    for name in ("P0", "P1", "P2", subjects["id:P0"].pseudonym):
        (known,) = ask(path, name)
        assert known.patients == ("id:P0", "id:P1", "id:P2")
        assert (known.pseudonym, known.shift_days) == (subjects["id:P0"].pseudonym, subjects["id:P0"].shift_days)


def test_an_id_that_is_joined_later_keeps_what_the_patient_had_under_the_other(tmp_path: Path) -> None:
    path = tmp_path / "keymap"
    before = assign(path, ["id:P1"])["id:P1"]
    assert assign(path, ["id:P0"], joining(P1="P0")) == {"id:P0": before}
    assert ask(path, "P0") == ask(path, "P1") == ask(path, before.pseudonym)
    # Taken out of the list again, it is another patient's.
    apart = assign(path, ["id:P0", "id:P1"])
    assert apart["id:P1"] == before
    assert apart["id:P0"].pseudonym != before.pseudonym
    assert ask(path, "P0") != ask(path, "P1")


def test_ids_that_have_different_subjects_already_are_not_joined(tmp_path: Path) -> None:
    path = tmp_path / "keymap"
    before = assign(path, ["id:P0", "id:P1", "id:P2"])
    for asked in (["id:P0"], ["id:P2"]):
        with pytest.raises(KeyMapError, match=r"different pseudonyms already.*begin a new workspace") as fault:
            assign(path, asked, joining(P1="P0"))
        assert not re.search(r"P[012]|SUB-", str(fault.value).replace(str(path), ""))
    assert assign(path, list(before)) == before


def join_list(folder: Path, content: str | bytes) -> Path:
    path = folder / "joined.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_list_of_joined_patients_is_followed_to_the_end_of_each_chain(tmp_path: Path) -> None:
    assert read_joined_patients(None) == {}
    assert read_joined_patients(join_list(tmp_path, "patient_id,same_as\n")) == {}
    for text in (
        "patient_id,same_as\nA,B\nB,C\nD,B\n山,E\n",
        "\ufeffsame_as,patient_id\r\nB,A\r\nC, B\r\nB,D \r\nE,山\r\n",
    ):
        assert read_joined_patients(join_list(tmp_path, text)) == {"A": "C", "B": "C", "D": "C", "山": "E"}


@given(st.dictionaries(st.integers(0, 8), st.integers(0, 8)))
def test_any_list_is_resolved_or_refused(tmp_path_factory: pytest.TempPathFactory, links: dict[int, int]) -> None:
    rows = "".join(f"P{one},P{other}\n" for one, other in links.items())
    path = join_list(tmp_path_factory.getbasetemp(), "patient_id,same_as\n" + rows)
    try:
        joined = read_joined_patients(path)
    except KeyMapError:
        # Somebody is met again on the way from some patient.
        circles = 0
        for start in links:
            walked = [start]
            while walked[-1] in links and len(walked) < 20:
                walked.append(links[walked[-1]])
            circles += len(walked) == 20
        assert circles
        return
    assert joined.keys() == {f"P{one}" for one in links}
    assert joined.keys().isdisjoint(joined.values())
    assert all(joined[f"P{one}"] == joined.get(f"P{other}", f"P{other}") for one, other in links.items())


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "first line must name the columns patient_id and same_as, and no other"),
        ("patient_id;same_as\n", "first line must name"),
        ("patient_id\n", "first line must name"),
        ("patient_id,same_as,why\n", "first line must name"),
        ("patient_id,same_as,same_as\n", "first line must name"),
        ("patient_id,same_as\nP0,P1,P2\n", "line 2 has more than 2 values"),
        ("patient_id,same_as\nP0\n", "line 2 needs"),
        ("patient_id,same_as\nP0,\n", "line 2 needs"),
        ("patient_id,same_as\n ,P0\n", "line 2 needs"),
        ("patient_id,same_as\nP0,P1\nP0,P2\n", "line 3 says of a patient a second time"),
        ("patient_id,same_as\nP0,P1\nP0,P1\n", "line 3 says of a patient a second time"),
        ("patient_id,same_as\nP0,P0\n", "line 2 closes a circle"),
        ("patient_id,same_as\nP0,P1\nP1,P0\n", "line 3 closes a circle"),
        ("patient_id,same_as\nP0,P1\nP1,P2\nP2,P1\n", "line 4 closes a circle"),
        (b"patient_id,same_as\nP\xe9,P0\n", "cannot be read"),
        ('patient_id,same_as\n"P0,P1\n', "cannot be read"),
    ],
)
def test_every_fault_of_a_list_of_joined_patients_is_named(tmp_path: Path, content: str | bytes, problem: str) -> None:
    path = join_list(tmp_path, content)
    with pytest.raises(KeyMapError, match=problem) as fault:
        read_joined_patients(path)
    assert not re.search(r"P[012]", str(fault.value).replace(str(path), ""))
    with pytest.raises(KeyMapError, match="cannot be read"):
        read_joined_patients(tmp_path / "none.csv")


def test_a_joined_patient_may_be_named_with_one_pseudonym_and_not_with_two(tmp_path: Path) -> None:
    joined = {"A": "C", "B": "C"}
    once = write_list(tmp_path, "patient_id,pseudonym\nA,TRIAL-A\nD,TRIAL-D\n")
    given = read_given_pseudonyms(once, joined)
    assert given == {"C": "TRIAL-A", "D": "TRIAL-D"}
    numbering = Numbering(prefix="SUB", given=given, joined=joined)
    each = write_list(tmp_path, "patient_id,pseudonym\nA,TRIAL-A\nC,TRIAL-A\nB,TRIAL-A\n")
    assert read_given_pseudonyms(each, joined) == {"C": "TRIAL-A"}
    for rows, problem in (
        ("A,TRIAL-A\nB,TRIAL-B\n", "line 3 gives a patient another pseudonym"),
        ("A,TRIAL-A\nA,TRIAL-A\n", "line 3 names .* second time"),
        ("A,TRIAL-A\nD,TRIAL-A\n", "line 3 names .* second time"),
    ):
        with pytest.raises(KeyMapError, match=problem):
            read_given_pseudonyms(write_list(tmp_path, f"patient_id,pseudonym\n{rows}"), joined)
    assert assign(tmp_path / "keymap", ["id:C"], numbering)["id:C"].pseudonym == "TRIAL-A"


# ---- who asked


def test_every_question_is_written_down_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "keymap"
    subject = assign(path, ["id:P0", "id:P1"])["id:P0"]
    assert ask(path, "P0") == ask(path, subject.pseudonym)
    assert ask(path, "P7") == []
    assert ask(path, subject.pseudonym.lower()) == []
    told = {"moment": "2026-01-02T03:04:05+00:00", "person": "somebody"}
    assert read_inquiries(path) == [
        Inquiry(kind="patient", pseudonym=subject.pseudonym, **told),
        Inquiry(kind="pseudonym", pseudonym=subject.pseudonym, **told),
        Inquiry(kind="patient", pseudonym="", **told),
        Inquiry(kind="patient", pseudonym="", **told),
    ]
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for words in ("DELETE FROM inquiry", "UPDATE inquiry SET person = 'nobody'"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                connection.execute(words)
    assign(path, PATIENTS)
    assert len(read_inquiries(path)) == 4


def test_a_patient_whose_id_is_anothers_pseudonym_is_shown_with_the_other(tmp_path: Path) -> None:
    path = tmp_path / "keymap"
    numbering = Numbering(prefix="SUB", given={"P0": "P1"})
    assign(path, ["id:P0", "id:P1"], numbering)
    assert [known.patients for known in ask(path, "P1")] == [("id:P0",), ("id:P1",)]
    assert [inquiry.kind for inquiry in read_inquiries(path)] == ["pseudonym", "patient"]


# ---- encrypted

SESAME = b"open sesame, open"

CHEAP = "from tasks.deidentify import sealed; sealed._COST = 4\n"


@pytest.fixture(autouse=True)
def _cheap_passphrases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let scrypt take a ten-thousandth of its time; tests/deidentify/test_sealed.py takes all of it."""
    monkeypatch.setattr("tasks.deidentify.sealed._COST", 4)


def test_an_encrypted_map_holds_the_same_and_shows_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keymap"
    plain = assign(tmp_path / "plain", PATIENTS)
    assert assign_subjects(path, PATIENTS, IDENTITY, PLAIN, passphrase=SESAME) == plain
    content = path.read_bytes()
    assert b"id:P1" in (tmp_path / "plain").read_bytes()
    for part in (b"id:P", b"SUB-", b"SQLite", b"subject", SESAME):
        assert part not in content
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    # Nothing new, nothing written.
    assert assign_subjects(path, PATIENTS[:3], IDENTITY, PLAIN, passphrase=SESAME).items() <= plain.items()
    assert path.read_bytes() == content
    (known,) = ask(path, "P3", passphrase=SESAME)
    assert known.pseudonym == plain["id:P3"].pseudonym
    assert len(read_inquiries(path, passphrase=SESAME)) == 1
    assert {entry.name for entry in tmp_path.iterdir()} == {"keymap", "keymap.lock", "plain"}


def test_a_plain_map_becomes_encrypted_when_a_passphrase_is_first_given(tmp_path: Path) -> None:
    path = tmp_path / "keymap"
    before = assign(path, PATIENTS)
    assert not is_encrypted(path)
    assert assign_subjects(path, PATIENTS, IDENTITY, PLAIN, passphrase=SESAME) == before
    assert is_encrypted(path)
    assert b"id:P1" not in path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not is_encrypted(tmp_path / "none")


def test_an_encrypted_map_needs_its_passphrase(tmp_path: Path) -> None:
    path = tmp_path / "keymap"
    assign_subjects(path, PATIENTS[:2], IDENTITY, PLAIN, passphrase=SESAME)
    content = path.read_bytes()
    with pytest.raises(KeyMapError, match=r"it is encrypted\. Name where the passphrase is, with key_map_passphrase"):
        assign(path, PATIENTS)
    with pytest.raises(KeyMapError, match="the passphrase does not open it") as fault:
        assign_subjects(path, PATIENTS, IDENTITY, PLAIN, passphrase=b"open barley, open")
    assert "barley" not in str(fault.value)
    for question in (None, b"open barley, open"):
        with pytest.raises(KeyMapError):
            ask(path, "P0", passphrase=question)
    assert path.read_bytes() == content


@pytest.mark.parametrize("place", [0, 15, 16, 20, 48, -1])
def test_a_changed_byte_of_an_encrypted_map_is_noticed(tmp_path: Path, place: int) -> None:
    path = tmp_path / "keymap"
    assign_subjects(path, PATIENTS[:2], IDENTITY, PLAIN, passphrase=SESAME)
    changed = bytearray(path.read_bytes())
    changed[place] ^= 0x40
    path.write_bytes(changed)
    with pytest.raises(KeyMapError):
        assign_subjects(path, PATIENTS, IDENTITY, PLAIN, passphrase=SESAME)
    assert path.read_bytes() == changed


def test_runs_that_open_an_encrypted_map_at_the_same_time_agree(tmp_path: Path) -> None:
    """One run finds the map open, both leave it encrypted, and no patient is lost."""
    told = (
        f"{CHEAP}import sys\n"
        "from pathlib import Path\n"
        "from tasks.deidentify.identity import Identity\n"
        "from tasks.deidentify.keymap import Numbering, assign_subjects\n"
        "identity, numbering = Identity(bytes(range(32))), Numbering(prefix='SUB', given={})\n"
        "first = int(sys.argv[2])\n"
        "for number in (first, first + 1):\n"
        f"    assign_subjects(Path(sys.argv[1]), [f'id:P{{number}}'], identity, numbering, passphrase={SESAME!r})\n"
    )
    path = tmp_path / "keymap"
    before = assign(path, PATIENTS[:1])
    started = [
        subprocess.Popen([sys.executable, "-c", told, str(path), str(first)], stderr=subprocess.PIPE)
        for first in (1, 2, 3)
    ]
    for process in started:
        assert process.communicate()[1] == b""
    subjects = assign_subjects(path, PATIENTS[:5], IDENTITY, PLAIN, passphrase=SESAME)
    assert subjects["id:P0"] == before["id:P0"]
    assert {subject.pseudonym for subject in subjects.values()} == {f"SUB-{number:04d}" for number in range(1, 6)}


def test_a_run_killed_while_it_encrypts_leaves_the_map_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "keymap"
    before = assign(path, PATIENTS)
    dying = (
        f"{CHEAP}import os, signal, sys\n"
        "from pathlib import Path\n"
        "from tasks.deidentify.identity import Identity\n"
        "from tasks.deidentify import keymap\n"
        "from tasks import files\n"
        "def die(*a, **k): os.kill(os.getpid(), signal.SIGKILL)\n"
        "setattr(files.os, sys.argv[2], die)\n"
        "identity, numbering = Identity(bytes(range(32))), keymap.Numbering(prefix='SUB', given={})\n"
        f"keymap.assign_subjects(Path(sys.argv[1]), ['id:new'], identity, numbering, passphrase={SESAME!r})\n"
    )
    for step in ("fsync", "replace"):
        ended = subprocess.run([sys.executable, "-c", dying, str(path), step], check=False, capture_output=True)
        assert ended.returncode == -9, ended.stderr.decode()
        assert not is_encrypted(path)
        assert assign(path, PATIENTS) == before


def test_a_passphrase_is_read_from_a_file_that_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "passphrase"
    for content in (SESAME, SESAME + b"\n", SESAME + b"\r\n"):
        path.write_bytes(content)
        path.chmod(0o600)
        assert load_passphrase(path) == SESAME
    path.write_bytes(SESAME + b" \n\n")
    assert load_passphrase(path) == SESAME + b" \n"
    for mode in (0o640, 0o604):
        path.chmod(mode)
        with pytest.raises(KeyMapError, match=r"others than its owner.*0600"):
            load_passphrase(path)
    path.chmod(0o600)
    for content, problem in ((b"", "there is none"), (b"\n", "there is none"), (b"open sesame", "fewer than 12 bytes")):
        path.write_bytes(content)
        with pytest.raises(KeyMapError, match=problem) as fault:
            load_passphrase(path)
        assert "open" not in str(fault.value).replace(str(path), "")
    with pytest.raises(KeyMapError, match="cannot be read"):
        load_passphrase(tmp_path / "none")


def test_without_the_package_a_passphrase_is_refused_and_the_rest_goes_on(tmp_path: Path) -> None:
    told = (
        "import sys\n"
        "sys.modules['cryptography'] = None\n"
        "from pathlib import Path\n"
        "from tasks.deidentify.identity import Identity\n"
        "from tasks.deidentify.keymap import Numbering, assign_subjects\n"
        "from tasks.deidentify.recovery import load_certificate\n"
        "from tasks.errors import MissingPackageError\n"
        "identity, numbering = Identity(bytes(range(32))), Numbering(prefix='SUB', given={})\n"
        "path = Path(sys.argv[1])\n"
        "print(len(assign_subjects(path, ['id:P0'], identity, numbering)))\n"
        "for attempt in (\n"
        "    lambda: assign_subjects(path, ['id:P0'], identity, numbering, passphrase=b'x' * 12),\n"
        "    lambda: load_certificate(path),\n"
        "):\n"
        "    try: attempt()\n"
        "    except MissingPackageError as fault: print(fault)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", told, str(tmp_path / "keymap")], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    count, *sentences = ended.stdout.splitlines()
    assert count == "1"
    assert len(sentences) == 2
    assert all("pip install 'scanward[recovery]'" in sentence for sentence in sentences)
    assert assign(tmp_path / "keymap", ["id:P0"])["id:P0"].pseudonym == "SUB-0001"
