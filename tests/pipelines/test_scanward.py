"""The `scanward` command: a study file to start from, a look at the installation, and where a study stands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tasks import __version__
from tasks.config import StudySettings, read_study
from tests.builders.world import make_dump
from tests.conftest import REPOSITORY
from tests.pipelines.command import (
    Ended,
    counts_of,
    digests,
    environment,
    luigi,
    run,
    scanward,
    times,
    write_study,
)


def assert_one_sentence(ended: Ended, code: int) -> None:
    assert ended.code == code, ended.said
    assert ended.out == ""
    assert len(ended.err.splitlines()) == 1, ended.err
    assert "Traceback" not in ended.err


def test_init_writes_a_study_file_that_is_valid(tmp_path: Path) -> None:
    ended = scanward("init", cwd=tmp_path)
    assert ended.code == 0, ended.said
    path = tmp_path / "study.toml"
    assert "study.toml" in ended.out
    settings = read_study(path)
    assert (settings.dump, settings.workspace) == (tmp_path / "dump", tmp_path / "workspace")
    assert path.read_bytes() == (REPOSITORY / "configs" / "example.toml").read_bytes()


def test_the_study_file_shows_every_key_with_its_default(tmp_path: Path) -> None:
    assert scanward("init", "mine.toml", cwd=tmp_path).code == 0
    text = (tmp_path / "mine.toml").read_text("utf-8")
    shown = StudySettings.model_validate_json(json.dumps(tomllib.loads(text)))
    assert shown.chunks == StudySettings.model_fields["chunks"].default
    assert shown.deidentify == StudySettings.model_fields["deidentify"].default
    for section in ("chunks", "deidentify"):
        for key in type(getattr(shown, section)).model_fields:
            assert re.search(rf"^(# )?{key} = ", text, re.MULTILINE), key


def test_what_init_wrote_can_be_run(tmp_path: Path) -> None:
    assert scanward("init", cwd=tmp_path).code == 0
    make_dump(tmp_path / "dump", instances=2)
    assert luigi("SortStudy", cwd=tmp_path).code == 0
    assert len(digests(tmp_path / "workspace" / "identified" / "sorted")) == 2


def test_init_refuses_to_write_over_a_file(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text("precious")
    ended = scanward("init", cwd=tmp_path)
    assert_one_sentence(ended, 2)
    assert "study.toml is there already" in ended.err
    assert (tmp_path / "study.toml").read_text() == "precious"


def test_init_refuses_to_write_over_a_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "study.toml").symlink_to("nowhere")
    assert_one_sentence(scanward("init", cwd=tmp_path), 2)
    assert (tmp_path / "study.toml").is_symlink()


@pytest.mark.parametrize("place", ["no such folder/study.toml", "/proc/study.toml"])
def test_init_where_nothing_can_be_written_is_told_in_one_sentence(place: str, tmp_path: Path) -> None:
    ended = scanward("init", place, cwd=tmp_path)
    assert_one_sentence(ended, 2)
    assert "cannot be written" in ended.err


def test_doctor_names_every_package(tmp_path: Path) -> None:
    ended = scanward("doctor", cwd=tmp_path)
    assert ended.code == 0, ended.said
    for package in ("Python", "SQLite", "luigi", "pydicom", "numpy", "pydantic", "psutil", "rich", "Pillow"):
        assert re.search(rf"^(ok|optional) +{package} ", ended.out, re.MULTILINE), package
    assert list(tmp_path.iterdir()) == []


WITHOUT_PSUTIL = """
import importlib.metadata as metadata

whole = metadata.Distribution.from_name.__func__

def without_psutil(cls, name):
    if name in ("psutil", "Pillow"):
        raise metadata.PackageNotFoundError(name)
    return whole(cls, name)

metadata.Distribution.from_name = classmethod(without_psutil)
"""


def test_doctor_tells_what_is_missing_and_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_PSUTIL)
    command = [sys.executable, "-m", "pipelines", "doctor"]
    ended = run(command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert ended.code == 1, ended.said
    assert re.search(r"^missing +psutil +not installed; needed for .*: pip install scanward$", ended.out, re.MULTILINE)
    assert re.search(
        r"^optional +Pillow +not installed; .*: pip install 'scanward\[review\]'$", ended.out, re.MULTILINE
    )


def test_doctor_looks_at_the_folders_of_a_study(tmp_path: Path) -> None:
    make_dump(tmp_path / "dump")
    study = write_study(tmp_path / "study.toml", dump=tmp_path / "dump", workspace=tmp_path / "w")
    for words in ([], ["--study", study], ["--dump", "dump", "--workspace", "w"]):
        ended = scanward("doctor", *words, cwd=tmp_path)
        assert ended.code == 0, ended.said
        assert re.search(r"ok +dump +\S*dump can be read", ended.out)
        assert re.search(r"ok +workspace +\S*w can be written, [0-9,]+ GiB free", ended.out)
        assert "placing" in ended.out


@pytest.mark.parametrize("command", ["doctor", "status"])
def test_faults_of_a_study_end_with_their_codes(command: str, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("dump = 7\n")
    study = write_study(tmp_path / "gone.toml", dump=tmp_path / "nowhere", workspace=tmp_path / "w")
    taken = write_study(tmp_path / "taken.toml", dump=tmp_path, workspace=tmp_path / "w")
    for code, words in {3: ["--study", "bad.toml"], 4: ["--study", study], 5: ["--study", taken]}.items():
        assert_one_sentence(scanward(command, *words, cwd=tmp_path), code)
    debug = scanward("--debug", command, "--study", "bad.toml", cwd=tmp_path)
    assert debug.code == 3
    assert "Traceback" in debug.err


def test_status_without_a_study_ends_with_2(tmp_path: Path) -> None:
    assert_one_sentence(scanward("status", cwd=tmp_path), 2)
    assert_one_sentence(scanward("status", "--workspace", "nowhere", cwd=tmp_path), 2)
    assert list(tmp_path.iterdir()) == [], "to ask is not to make"


def test_status_follows_the_work_and_changes_nothing(tmp_path: Path) -> None:
    make_dump(tmp_path / "dump", patients=2, series=2, instances=2)
    (tmp_path / "dump" / "junk").write_bytes(b"no image")
    study = ("--dump", tmp_path / "dump", "--workspace", tmp_path / "w")
    stages = {"Index": "index", "Sort": "sort", "De-identify": "deidentify", "Prepare review": "prepare-review"}
    done = 0
    for task, now_done in (("IndexDump", 1), ("SortStudy", 2), ("DeidentifyStudy", 3), ("PrepareReview", 4)):
        assert luigi(task, *study, cwd=tmp_path).code == 0
        done = now_done
        before = times(tmp_path / "w")
        ended = scanward("status", "--workspace", "w", "--json", cwd=tmp_path)
        assert ended.code == 0, ended.said
        assert len(ended.out.splitlines()) == 1
        status = json.loads(ended.out)
        assert status["scanward"] == __version__
        assert status["holds"] == {"patients": 2, "dicom_studies": 2, "series": 4, "instances": 8, "dicom_files": 8}
        told = {name: stage for name, stage in status["stages"].items() if stage}
        assert list(told) == list(stages)[:done]
        for name, stage in told.items():
            assert stage["counts"] == counts_of(tmp_path / "w", stages[name])
        assert times(tmp_path / "w") == before
    assert status["stages"]["Sort"]["reasons"] == {"not-dicom": 1}

    text = scanward("status", *study, cwd=tmp_path)
    assert text.code == 0
    assert "9 files seen" in text.out
    assert "1 x not-dicom" in text.out
    assert "Synthetic" not in text.out, "numbers, and no patient"


def test_status_tells_a_person_what_is_not_done(tmp_path: Path) -> None:
    make_dump(tmp_path / "dump")
    assert luigi("SortStudy", "--dump", "dump", "--workspace", "w", cwd=tmp_path).code == 0
    ended = scanward("status", "--workspace", "w", cwd=tmp_path)
    assert "De-identify: not done yet" in ended.out
    assert "Prepare review: not done yet" in ended.out


def test_version_is_the_one_of_the_package(tmp_path: Path) -> None:
    ended = scanward("--version", cwd=tmp_path)
    assert (ended.code, ended.out) == (0, f"scanward {__version__}\n")


@pytest.mark.parametrize("words", [[], ["sing"], ["init", "a", "b"], ["status", "--studdy", "x"]])
def test_words_that_do_not_parse_end_with_2(words: list[str], tmp_path: Path) -> None:
    ended = scanward(*words, cwd=tmp_path)
    assert ended.code == 2
    assert "usage: scanward" in ended.err
    assert "Traceback" not in ended.err


def test_a_pipe_that_is_closed_is_no_fault(tmp_path: Path) -> None:
    """As in `scanward doctor | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pipelines", "doctor"],
            cwd=tmp_path, env=environment(), stdout=writer, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    finally:
        os.close(writer)
    assert b"Traceback" not in done.stderr
