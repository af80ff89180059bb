"""Who is who is told to those who may know, and to nobody without a trace; originals come back with the key alone."""

from __future__ import annotations

import io
import os
import pwd
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from pipelines.__main__ import main
from tasks.deidentify.recovery import encrypted_element, load_certificate
from tasks.dicom.elements import walk
from tasks.dicom.syntax import read_start
from tests.builders.world import make_dump, make_instance, study_date, world_uid, write_instance
from tests.deidentify.test_recovery import Owner, make_owner
from tests.pipelines.command import Ended, digests, luigi, run, scanward, write_study

USER = pwd.getpwuid(os.getuid()).pw_name
PASSPHRASE = "open sesame, open"

Say = Callable[..., Ended]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Run `scanward WORDS` in this process."""

    def say(*words: object) -> Ended:
        capsys.readouterr()
        code = main([str(word) for word in words])
        told = capsys.readouterr()
        return Ended(code=code, out=told.out, err=told.err)

    return say


def make_study(folder: Path, more: str = "") -> Path:
    """Write a dump of two patients, one of whom comes under two IDs, with two images each."""
    make_dump(folder / "dump", patients=2, instances=2)
    for number in (1, 2):
        write_instance(folder / "dump" / f"other-{number}", make_instance(patient=3, instance=number))
    return write_study(
        folder / "trial.toml", dump=folder / "dump", workspace=folder / "w", more=f"[deidentify]\n{more}"
    )


def deidentify(study: Path, *, env: dict[str, str] | None = None) -> None:
    ended = luigi("DeidentifyStudy", "--study", study, "--local-scheduler", cwd=study.parent, env=env)
    assert ended.code == 0, ended.said


def exported(folder: Path) -> dict[str, pydicom.Dataset]:
    """Read the export: original-looking UIDs are gone, so images are told by instance number and subject."""
    files = (folder / "w" / "released" / "export").rglob("*.dcm")
    return {os.fspath(path): pydicom.dcmread(path) for path in files}


def subjects(folder: Path) -> list[str]:
    return sorted({image.PatientID for image in exported(folder).values()})


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """De-identify the study once, with two IDs joined."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "joined.csv").write_text("patient_id,same_as\nSYNWORLD0003,SYNWORLD0001\n")
    study = make_study(folder, 'same_patient = "joined.csv"\nwhole_weeks = true')
    deidentify(study)
    return study


def test_joined_ids_are_one_subject_of_the_export(plain: Path) -> None:
    images = exported(plain.parent)
    assert len(images) == 6
    assert subjects(plain.parent) == ["SUB-0001", "SUB-0002"]
    counts = [sum(image.PatientID == name for image in images.values()) for name in ("SUB-0001", "SUB-0002")]
    assert sorted(counts) == [2, 4]
    joined = [image for image in images.values() if counts[int(image.PatientID[-1]) - 1] == 4]
    # The two IDs' studies lie six days apart, and still do; weeks are whole, so a Monday stays one.
    days = sorted({pydicom.valuerep.DA(image.StudyDate) for image in joined})
    assert (days[1] - days[0]).days == 6
    assert {day.weekday() for day in days} == {study_date(patient, 1).weekday() for patient in (1, 3)}


def test_lookup_answers_both_ways_and_writes_down_who_asked(plain: Path, say: Say) -> None:
    told = {}
    for name in ("SUB-0001", "SUB-0002"):
        ended = say("lookup", name, "--study", plain)
        assert ended.code == 0, ended.said
        told[name] = re.findall(r"^patient ID +(\S+)$", ended.out, re.MULTILINE)
    assert sorted(told.values()) == [["SYNWORLD0001", "SYNWORLD0003"], ["SYNWORLD0002"]]
    for name, patients in told.items():
        for patient in patients:
            assert re.search(rf"^pseudonym +{name}$", say("lookup", patient, "--study", plain).out, re.MULTILINE)
    before = digests(plain.parent / "w" / "released")
    nobody = say("lookup", "SYNWORLD0009", "--study", plain)
    assert (nobody.code, nobody.out) == (1, "")
    assert len(nobody.err.splitlines()) == 1
    assert "SYNWORLD" not in nobody.err
    log = [line.split("\t") for line in say("lookup", "--log", "--study", plain).out.splitlines()]
    assert [(person, kind) for _, person, kind, _ in log[-6:]] == [(USER, "pseudonym")] * 2 + [(USER, "patient")] * 4
    assert log[-1][3] == "(nobody)"
    assert {name for *_, name in log[:-1]} == {"SUB-0001", "SUB-0002"}
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", moment) for moment, *_ in log)
    # Nothing of it stands in the log, nor anywhere in what is released.
    assert "SYNWORLD" not in "".join(map("".join, log))
    assert digests(plain.parent / "w" / "released") == before


def test_the_name_that_is_written_down_cannot_be_chosen(plain: Path, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "mallory")
    assert say("lookup", "SUB-0001", "--study", plain).code == 0
    assert say("lookup", "--log", "--study", plain).out.splitlines()[-1].split("\t")[1] == USER


def test_lookup_of_a_uid_both_ways(plain: Path, say: Say) -> None:
    original = world_uid(2, 1, 1, 1)
    (name,) = re.findall(r"^pseudonym +(\S+)$", say("lookup", "SYNWORLD0002", "--study", plain).out, re.MULTILINE)
    ended = say("lookup", original, "--study", plain)
    assert re.search(rf"^pseudonym +{name}$", ended.out, re.MULTILINE)
    (new,) = re.findall(r"^in the export +(\S+)$", ended.out, re.MULTILINE)
    assert new in {image.SOPInstanceUID for image in exported(plain.parent).values() if image.PatientID == name}
    back = say("lookup", new, "--study", plain)
    assert back.out == ended.out
    assert re.search(rf"^SOP Instance UID +{re.escape(original)}$", back.out, re.MULTILINE)
    # Of a UID that no image bears, the new one is told, too: references to it become that.
    frame = next(iter(exported(plain.parent).values())).get("FrameOfReferenceUID")
    loose = say("lookup", "1.2.840.99.4711", "--study", plain)
    assert (loose.code, re.findall(r"^pseudonym", loose.out, re.MULTILINE)) == (0, [])
    assert frame is None or frame.startswith("2.25.")
    (what_it_becomes,) = re.findall(r"^in the export +(\S+)$", loose.out, re.MULTILINE)
    assert say("lookup", what_it_becomes, "--study", plain).code == 1
    kinds = [line.split("\t")[2] for line in say("lookup", "--log", "--study", plain).out.splitlines()]
    assert kinds[-4:-1] == ["uid"] * 3


def test_a_question_can_come_from_standard_input(plain: Path, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("SYNWORLD0002\n"))
    assert "SYNWORLD0002" in say("lookup", "-", "--study", plain).out


def test_lookup_without_sense_is_refused(plain: Path, say: Say, tmp_path: Path) -> None:
    for words in ([], ["SUB-0001", "--log"], [" "]):
        assert say("lookup", *words, "--study", plain).code == 2
    study = make_study(tmp_path)
    ended = say("lookup", "SUB-0001", "--study", study)
    assert ended.code == 2
    assert "Nobody was de-identified" in ended.err


def test_a_passphrase_encrypts_the_map_of_a_study_that_is_done_already(tmp_path: Path) -> None:
    """The export stays as it is; the map does not lie open any longer, and opens with the passphrase alone."""
    study = make_study(tmp_path)
    deidentify(study)
    key_map, before = tmp_path / "w" / "identified" / "keymap.db", digests(tmp_path / "w" / "released")
    assert b"SYNWORLD0001" in key_map.read_bytes()
    words = study.read_text()
    study.write_text(words.replace("[deidentify]\n", '[deidentify]\nkey_map_passphrase_variable = "TRIAL_SESAME"\n'))
    refused = luigi("DeidentifyStudy", "--study", study, "--local-scheduler", cwd=tmp_path)
    assert refused.code == 9, refused.said
    assert "the environment variable TRIAL_SESAME cannot be used: there is none" in refused.err
    deidentify(study, env={"TRIAL_SESAME": PASSPHRASE})
    assert b"SYNWORLD" not in key_map.read_bytes()
    assert key_map.stat().st_mode & 0o777 == 0o600
    images = {name for name in before if name.endswith(".dcm")}
    after = digests(tmp_path / "w" / "released")
    assert {name: after[name] for name in images} == {name: before[name] for name in images}
    assert PASSPHRASE not in "".join(path.read_text("utf-8", "replace") for path in tmp_path.rglob("*.log"))

    (tmp_path / "passphrase").write_text(PASSPHRASE + "\n")
    (tmp_path / "passphrase").chmod(0o600)
    study.write_text(words.replace("[deidentify]\n", '[deidentify]\nkey_map_passphrase_file = "passphrase"\n'))
    # Each time in a process of its own, which reads the study file anew.
    told = scanward("lookup", "SYNWORLD0001", "--study", study, cwd=tmp_path)
    assert told.code == 0, told.said
    study.write_text(words)
    closed = scanward("lookup", "SYNWORLD0001", "--study", study, cwd=tmp_path)
    assert (closed.code, closed.out) == (9, "")
    assert "it is encrypted" in closed.err


# ---- recover


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Owner:
    return make_owner(tmp_path_factory.mktemp("owner"), number=5)


def holding_originals(path: Path, owner: Owner) -> Path:
    """Write an exported file that holds a name and a SOP Instance UID for the owner."""
    write_instance(path, make_instance(PatientName="SUB-0001"))
    whole = path.read_bytes()
    start = read_start(whole)
    originals = [(0x00080018, "UI", b"1.2.3.4\0"), (0x00100010, "PN", b"Doe^John")]
    place = next(one.start for one in walk(whole, start.offset, explicit=start.explicit) if one.tag > 0x04000500)
    element = encrypted_element(originals, load_certificate(owner.certificate_path), explicit=start.explicit)
    path.write_bytes(whole[:place] + element + whole[place:])
    return path


def test_recover_writes_the_originals_where_their_owner_alone_may_read_them(
    tmp_path: Path, owner: Owner, say: Say
) -> None:
    (tmp_path / "export" / "deep").mkdir(parents=True)
    one = holding_originals(tmp_path / "one.dcm", owner)
    holding_originals(tmp_path / "export" / "deep" / "two.dcm", owner)
    words = ["--key", owner.key_path, "--certificate", owner.certificate_path, "-o", tmp_path / "out"]
    ended = say("recover", one, tmp_path / "export", *words)
    assert ended.code == 0, ended.said
    assert set(digests(tmp_path / "out")) == {"one.dcm", "deep/two.dcm"}
    for path in (tmp_path / "out").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0
        if path.is_file():
            image = pydicom.dcmread(path)
            assert (image.PatientName, image.SOPInstanceUID) == ("Doe^John", "1.2.3.4")
    before = digests(tmp_path / "out")
    again = say("recover", one, *words)
    assert again.code == 2
    assert "is there already" in again.err
    twice = say("recover", one, one, *words[:-1], tmp_path / "other")
    assert twice.code == 2
    assert digests(tmp_path / "out") == before
    assert not (tmp_path / "other").exists()


def test_recover_tells_each_file_that_it_cannot_and_does_the_rest(tmp_path: Path, owner: Owner, say: Say) -> None:
    good = holding_originals(tmp_path / "good.dcm", owner)
    write_instance(tmp_path / "without.dcm", make_instance())
    words = ["--key", owner.key_path, "--certificate", owner.certificate_path, "-o", tmp_path / "out"]
    ended = say("recover", tmp_path / "without.dcm", tmp_path / "none.dcm", good, *words)
    assert ended.code == 14
    assert len(ended.err.splitlines()) == 2
    assert "without.dcm cannot be used: it holds no encrypted originals" in ended.err
    assert "Doe" not in ended.said
    assert "Recovered 1 of 3 files" in ended.out
    assert set(digests(tmp_path / "out")) == {"good.dcm"}


def test_the_passphrase_of_a_key_is_read_from_what_is_piped_in(tmp_path: Path, owner: Owner) -> None:
    locked = tmp_path / "locked.pem"
    locked.touch(mode=0o600)
    locked.write_bytes(owner.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"sesame")))
    good = holding_originals(tmp_path / "good.dcm", owner)
    script = (
        "import io, sys\n"
        "from pipelines.__main__ import main\n"
        "sys.stdin = io.StringIO(sys.argv[1])\n"
        "sys.exit(main(sys.argv[2:]))\n"
    )
    for given, code in (("sesame\n", 0), ("barley\n", 14)):
        words = [
            "recover",
            good,
            "--key",
            locked,
            "--certificate",
            owner.certificate_path,
            "-o",
            tmp_path / f"out{code}",
        ]
        ended = run([sys.executable, "-c", script, given, *map(str, words)], cwd=tmp_path)
        assert ended.code == code, ended.said
        assert "Traceback" not in ended.err
