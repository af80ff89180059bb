"""An error in a list of patients or a passphrase is told once, in a sentence without a patient, and loses nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders.world import make_dump
from tests.pipelines.command import Ended, digests, luigi, scanward, write_study

FAULTS = {
    "doubled pseudonym": ('pseudonyms = "list.csv"', "patient_id,pseudonym\nSYNWORLD0001,T-01\nSYNWORLD0002,T-01\n"),
    "semicolons": ('pseudonyms = "list.csv"', "patient_id;pseudonym\nSYNWORLD0001;T-01\n"),
    "no file name": ('pseudonyms = "list.csv"', "patient_id,pseudonym\nSYNWORLD0001,a/b\n"),
    "another pseudonym": ('pseudonyms = "list.csv"', "patient_id,pseudonym\nSYNWORLD0001,T-99\n"),
    "circle": (
        'same_patient = "list.csv"',
        "patient_id,same_as\nSYNWORLD0002,SYNWORLD0001\nSYNWORLD0001,SYNWORLD0002\n",
    ),
    # Another size of cohorts, so that there is something to be done.
    "short passphrase": ('key_map_passphrase_file = "list.csv"\nsmallest_cohort = 4', "sesame\n"),
    "wrong passphrase": ('key_map_passphrase_file = "list.csv"\nsmallest_cohort = 4', "open barley, open\n"),
    "no certificate": ('recovery_certificate = "list.csv"', "-----BEGIN CERTIFICATE-----\nnone\n"),
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """De-identify a study of two patients under an encrypted key map."""
    folder = tmp_path_factory.mktemp("identity")
    make_dump(folder / "dump", patients=2, instances=2)
    (folder / "sesame").write_text("open sesame, open\n")
    (folder / "sesame").chmod(0o600)
    assert of(folder, "").code == 0
    return folder


def of(folder: Path, line: str) -> Ended:
    key = "" if line.startswith("key_map") else 'key_map_passphrase_file = "sesame"\n'
    study = write_study(
        folder / "trial.toml", dump=folder / "dump", workspace=folder / "w", more=f"[deidentify]\n{key}{line}"
    )
    return luigi("DeidentifyStudy", "--study", study, "--local-scheduler", cwd=folder)


@pytest.mark.parametrize(
    "fault", [pytest.param(name, marks=[] if "pass" in name or "cert" in name else pytest.mark.long) for name in FAULTS]
)
def test_a_fault_is_told_in_one_sentence_and_changes_nothing(done: Path, fault: str) -> None:
    line, content = FAULTS[fault]
    (done / "list.csv").write_text(content)
    (done / "list.csv").chmod(0o600)
    export, keymap = digests(done / "w" / "released"), (done / "w" / "identified" / "keymap.db").read_bytes()
    ended = of(done, line)
    assert ended.code != 0
    assert "Traceback" not in ended.said
    assert ended.said.count("cannot be used") == 1
    for told in ("SYNWORLD", "Synthetic", "sesame, open", "barley"):
        assert told not in ended.said
    assert digests(done / "w" / "released") == export
    assert (done / "w" / "identified" / "keymap.db").read_bytes() == keymap
    # What was right before is right again.
    assert "De-identified (nothing new)" in of(done, "").said


def test_the_same_secret_names_the_same_things_on_another_machine(tmp_path: Path, done: Path) -> None:
    """What two machines have to share is the secret and the key map: then both make the same export."""
    (tmp_path / "w" / "identified").mkdir(parents=True, mode=0o700)
    for name in ("secret", "keymap.db"):
        (tmp_path / "w" / "identified" / name).touch(mode=0o600)
        (tmp_path / "w" / "identified" / name).write_bytes((done / "w" / "identified" / name).read_bytes())
    (tmp_path / "dump").symlink_to(done / "dump")
    (tmp_path / "sesame").touch(mode=0o600)
    (tmp_path / "sesame").write_text("open sesame, open\n")
    study = write_study(
        tmp_path / "trial.toml",
        dump=done / "dump",
        workspace=tmp_path / "w",
        more='[deidentify]\nkey_map_passphrase_file = "sesame"\n',
    )
    ended = luigi("DeidentifyStudy", "--study", study, "--local-scheduler", "--workers", "3", cwd=tmp_path)
    assert ended.code == 0, ended.said
    assert digests(tmp_path / "w" / "released" / "export") == digests(done / "w" / "released" / "export")
    asked = scanward("lookup", "SUB-0001", "--study", study, cwd=tmp_path)
    assert asked.code == 0
    assert asked.lines_with("patient ID ")
