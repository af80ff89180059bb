"""Every way a `luigi --module pipelines` command can end: its code, and one sentence that says what to do."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.builders.world import make_dump
from tests.pipelines.command import (
    Ended,
    digests,
    exported_images,
    faults_of,
    luigi,
    luigi_words,
    run,
    started,
    wait_until,
    write_study,
)

HINTS = {
    2: "--dump DIR",
    3: "scanward init",
    4: "--dump",
    5: "--workspace",
    7: "pip install 'scanward[review]'",
}
"""What each fault's sentence must offer as a way out."""


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """Write a small dump: one patient, one series of three."""
    make_dump(tmp_path / "dump", instances=3)
    return tmp_path / "dump"


def assert_one_sentence(ended: Ended, code: int) -> None:
    """Check that a command was refused in one line, without a traceback."""
    assert ended.code == code, ended.said
    assert ended.out == ""
    assert len(ended.err.splitlines()) == 1, ended.err
    assert "Traceback" not in ended.err
    assert HINTS[code] in ended.err


def assert_refused(words: list[object], code: int, *, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Check that a command is refused in one sentence, with the traceback only on request; return the sentence."""
    ended = luigi(*words, cwd=cwd, env=env)
    assert_one_sentence(ended, code)
    on_request = luigi(*words, "--debug", cwd=cwd, env=env)
    assert on_request.code == code
    assert "Traceback (most recent call last)" in on_request.err
    assert ended.err.strip() in on_request.err
    return ended.err


def test_a_missing_dump_ends_with_4(tmp_path: Path) -> None:
    said = assert_refused(["SortStudy", "--dump", "nowhere", "--workspace", "w"], 4, cwd=tmp_path)
    assert "nowhere does not exist" in said
    assert not (tmp_path / "w").exists()


def test_a_dump_that_is_a_file_ends_with_4(tmp_path: Path) -> None:
    (tmp_path / "dump").write_bytes(b"one file")
    ended = luigi("DeidentifyStudy", "--dump", "dump", "--workspace", "w", cwd=tmp_path)
    assert_one_sentence(ended, 4)
    assert "is not a folder" in ended.err


def test_a_study_file_with_several_faults_names_all_of_them_and_ends_with_3(tmp_path: Path) -> None:
    (tmp_path / "trial.toml").write_text(
        'dump = 7\nworkpsace = "w"\n[deidentify]\nprefix = "no spaces"\n'
        '[chunks]\nindex_files = 0\nexport_instances = "9"\n[reports]\n'
    )
    said = assert_refused(["PrepareReview", "--study", "trial.toml"], 3, cwd=tmp_path)
    places = ("dump", "workspace", "workpsace", "deidentify.prefix", "chunks.index_files", "chunks.export_instances")
    for place in (*places, "reports"):
        assert f" {place} " in said.replace(": ", " : "), place


@pytest.mark.parametrize(
    ("content", "phrase"),
    [(None, "it cannot be read"), (b"dump = \n", "it is not TOML"), (b"dump = '\xff'", "it is not TOML")],
)
def test_a_study_file_that_is_none_ends_with_3(content: bytes | None, phrase: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "trial.toml").write_bytes(content)
    ended = luigi("SortStudy", "--study", "trial.toml", cwd=tmp_path)
    assert_one_sentence(ended, 3)
    assert phrase in ended.err


@pytest.mark.parametrize("place", ["a file/w", "/proc/w", "/dev/null", "dump/w", ".", "n" * 300])
def test_an_unwritable_workspace_ends_with_5(place: str, dump: Path, tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    before = digests(dump)
    ended = luigi("SortStudy", "--dump", dump, "--workspace", place, cwd=tmp_path)
    assert_one_sentence(ended, 5)
    assert place.rstrip(".") in ended.err
    assert digests(dump) == before


def test_an_unwritable_workspace_shows_its_traceback_on_request(dump: Path, tmp_path: Path) -> None:
    assert_refused(["SortStudy", "--dump", dump, "--workspace", "/proc/w"], 5, cwd=tmp_path)


@pytest.mark.parametrize("task", ["SortStudy", "DeidentifyStudy", "PrepareReview"])
def test_no_study_at_all_ends_with_2(task: str, tmp_path: Path) -> None:
    ended = luigi(task, cwd=tmp_path)
    assert_one_sentence(ended, 2)
    assert "study.toml" in ended.err
    assert list(tmp_path.iterdir()) == []


def test_half_a_study_ends_with_2(tmp_path: Path) -> None:
    assert_refused(["SortStudy", "--dump", "."], 2, cwd=tmp_path)


WITHOUT_PILLOW = """
import sys
from importlib.machinery import PathFinder

class WithoutPillow(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] == "PIL" else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutPillow
"""


def test_without_pillow_only_the_review_is_refused_and_ends_with_7(dump: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(WITHOUT_PILLOW)
    env = {"PYTHONPATH": str(site)}
    said = assert_refused(["PrepareReview", "--dump", dump, "--workspace", "w"], 7, cwd=tmp_path, env=env)
    assert "Pillow" in said
    assert not list((tmp_path / "w").rglob("*.dcm")), "nothing is begun that cannot be finished"
    assert luigi("DeidentifyStudy", "--dump", dump, "--workspace", "w", cwd=tmp_path, env=env).code == 0


@pytest.mark.parametrize("words", [["SortStudyy"], ["SortStudyy", "--dump", ".", "--workspace", "w"], ["Sortstudy"]])
def test_an_unknown_task_is_told_in_one_sentence(words: list[str], tmp_path: Path) -> None:
    ended = luigi(*words, cwd=tmp_path)
    assert ended.code == 2
    assert len(ended.err.splitlines()) == 1, ended.err
    assert words[0] in ended.err
    assert "SortStudy" in ended.err.replace("SortStudyy", "")
    assert "Traceback" in luigi(*words, "--debug", cwd=tmp_path).err


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["SortStudy", "--dmp", "x"],
        ["SortStudy", "--dump"],
        ["SortStudy", "--dump", ".", "--workspace", "../w", "--plan", "3"],
        ["SortStudy", "--dump", ".", "--workspace", "../w", "--workers", "many"],
        ["IndexChunk", "--dump", ".", "--workspace", "../w"],
    ],
)
def test_a_command_that_does_not_parse_ends_with_a_code_and_no_traceback(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    ended = luigi(*words, cwd=tmp_path / "here")
    assert ended.code in (1, 2, 40)
    assert ended.err.strip()
    assert "Traceback" not in ended.said
    assert "identified/logs" not in ended.said, "no log was begun, so none may be pointed at"


def targets_of(dump: Path, folder: Path) -> list[str]:
    """Sort a dump elsewhere, and list the places below the sorted tree."""
    assert luigi("SortStudy", "--dump", dump, "--workspace", folder, cwd=folder.parent).code == 0
    return sorted(digests(folder / "identified" / "sorted"))


def put_file(place: Path) -> None:
    place.write_bytes(b"somebody's own")


def put_folder(place: Path) -> None:
    place.mkdir()


def put_dangling_link(place: Path) -> None:
    place.symlink_to("nowhere")


def put_link_to_the_same(place: Path) -> None:
    place.symlink_to(next((place.parents[6] / "dump").iterdir()))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a small dump and a workspace in which it was sorted."""
    base = tmp_path_factory.mktemp("whole")
    make_dump(base / "dump", instances=3)
    targets_of(base / "dump", base / "w")
    return base


@pytest.mark.parametrize(
    ("put", "workers"),
    [(put_file, 1), (put_file, 2), (put_folder, 1), (put_dangling_link, 1), (put_link_to_the_same, 1)],
)
def test_a_task_that_fails_ends_with_30_and_is_run_once(put, workers: int, whole: Path, tmp_path: Path) -> None:
    dump = Path(shutil.copytree(whole / "dump", tmp_path / "dump"))
    *_, last = sorted(digests(whole / "w" / "identified" / "sorted"))
    place = tmp_path / "w" / "identified" / "sorted" / last
    place.parent.mkdir(parents=True)
    put(place)
    stood = place.lstat()
    facts = (stood.st_ino, stood.st_mode, stood.st_nlink, stood.st_size, stood.st_mtime_ns)
    words = ("SortStudy", "--dump", dump, "--workspace", "w", "--workers", workers)

    ended = luigi(*words, cwd=tmp_path)
    assert ended.code == 30
    assert "Traceback" not in ended.said
    assert len(ended.lines_with("taken by files that scanward did not put there")) == 1
    assert "Move them away and start the same command again" in ended.err
    assert ended.lines_with("Sorted: not finished.")
    assert faults_of(tmp_path / "w").count("Traceback (most recent call last)") >= 1
    assert faults_of(tmp_path / "w").count("\ntasks.errors.CollisionError: ") == 1, "a fault that stays is met once"
    stands = place.lstat()
    assert (stands.st_ino, stands.st_mode, stands.st_nlink, stands.st_size, stands.st_mtime_ns) == facts
    assert "Traceback" in luigi(*words, "--debug", cwd=tmp_path).err

    place.rmdir() if place.is_dir() and not place.is_symlink() else place.unlink()
    assert luigi(*words, cwd=tmp_path).code == 0
    assert digests(tmp_path / "w" / "identified" / "sorted") == digests(whole / "w" / "identified" / "sorted")


def test_a_chunk_that_fails_ends_with_30_and_the_others_are_done(dump: Path, tmp_path: Path) -> None:
    """A folder stands where an exported file belongs; the other chunk's work is kept."""
    make_dump(dump, patients=2, series=2)
    study = write_study(tmp_path / "study.toml", dump=dump, workspace=tmp_path / "w", files=1, series=1)
    assert luigi("DeidentifyStudy", cwd=tmp_path).code == 0
    export = tmp_path / "w" / "released" / "export"
    taken, *others = sorted(export.rglob("*.dcm"))
    taken.unlink()
    taken.mkdir()
    for other in others:
        other.unlink()
    (tmp_path / "w" / "identified" / "export.db").unlink()
    (tmp_path / "w" / "identified" / "receipts" / "deidentify.json").unlink()

    ended = luigi("DeidentifyStudy", "--study", study, "--workers", 2, cwd=tmp_path)
    assert ended.code == 30
    assert "Traceback" not in ended.said
    assert len(ended.lines_with("cannot be written")) == 1, ended.said
    assert all(other.is_file() for other in others)
    assert faults_of(tmp_path / "w").count("\ntasks.errors.WorkspaceError: ") == 1

    taken.rmdir()
    assert luigi("DeidentifyStudy", "--study", study, cwd=tmp_path).code == 0
    assert all(path.is_file() for path in (taken, *others))


def test_study_toml_of_the_current_folder_is_used(dump: Path, tmp_path: Path) -> None:
    here = tmp_path / "trial"
    here.mkdir()
    (here / "study.toml").write_text('dump = "../dump"\nworkspace = "w"\n')
    ended = luigi("SortStudy", cwd=here)
    assert ended.code == 0, ended.said
    assert len(digests(here / "w" / "identified" / "sorted")) == 3


def test_words_on_the_command_line_stand_in_for_keys_of_the_study(dump: Path, tmp_path: Path) -> None:
    write_study(tmp_path / "study.toml", dump=tmp_path / "nowhere", workspace=tmp_path / "unused")
    ended = luigi("SortStudy", "--study", "study.toml", "--dump", "dump", "--workspace", "w", cwd=tmp_path)
    assert ended.code == 0, ended.said
    assert len(digests(tmp_path / "w" / "identified" / "sorted")) == 3
    assert not (tmp_path / "unused").exists()


def test_any_folder_and_any_python_path_will_do(dump: Path, tmp_path: Path) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "unrelated.py").touch()
    env = {"PYTHONPATH": str(tmp_path / "modules")}
    ended = luigi("SortStudy", "--dump", dump, "--workspace", tmp_path / "w", cwd=Path("/"), env=env)
    assert ended.code == 0, ended.said


@pytest.mark.parametrize("name", ["tasks", "viewer"])
def test_a_stranger_with_one_of_our_names_ends_with_13(name: str, dump: Path, tmp_path: Path) -> None:
    stranger = tmp_path / "modules" / name
    stranger.mkdir(parents=True)
    (stranger / "__init__.py").touch()
    env = {"PYTHONPATH": str(stranger.parent)}
    ended = luigi("SortStudy", "--dump", dump, "--workspace", "w", cwd=tmp_path, env=env)
    assert ended.code == 13, ended.said
    assert len(ended.err.splitlines()) == 1
    assert f"The package name {name} belongs to" in ended.err


def test_what_the_user_configured_for_luigi_is_kept(tmp_path: Path) -> None:
    make_dump(tmp_path / "dump", instances=1)
    place = tmp_path / "w" / "identified" / "sorted" / targets_of(tmp_path / "dump", tmp_path / "elsewhere")[0]
    place.parent.mkdir(parents=True)
    put_file(place)
    (tmp_path / "luigi.cfg").write_text("[retcode]\ntask_failed = 99\n")
    assert luigi("SortStudy", "--dump", "dump", "--workspace", "w", cwd=tmp_path).code == 99


def test_a_damaged_index_is_told_in_one_sentence(dump: Path, tmp_path: Path) -> None:
    words = ("SortStudy", "--dump", dump, "--workspace", "w")
    assert luigi(*words, cwd=tmp_path).code == 0
    (tmp_path / "w" / "identified" / "index.db").write_bytes(b"no index" * 1000)
    make_dump(dump, patients=2)
    ended = luigi(*words, cwd=tmp_path)
    assert ended.code == 30
    assert len(ended.lines_with("index.db, which scanward wrote, cannot be read")) == 1
    assert "Traceback" not in ended.said


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.long), 2])
def test_stopped_by_hand_it_ends_with_130_and_goes_on_later(workers: int, tmp_path: Path) -> None:
    make_dump(tmp_path / "dump", patients=3, series=3, instances=8)
    study = write_study(tmp_path / "study.toml", dump=tmp_path / "dump", workspace=tmp_path / "w", files=24, series=3)
    words = luigi_words("PrepareReview", "--study", study, "--workers", workers)
    export = tmp_path / "w" / "released" / "export"
    with started(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        wait_until(lambda: any(export.rglob("*.dcm")), what="the first exported file")
        os.killpg(process.pid, signal.SIGINT)  # as the terminal does for Ctrl-C
        said = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert said.count("Stopped") == 1
    assert "Prepared: not finished." in said

    ended = run(words, cwd=tmp_path)
    assert ended.code == 0, ended.said
    assert len(exported_images(tmp_path / "w")) == 72
    manifest = json.loads((tmp_path / "w" / "released" / "review" / "manifest.json").read_bytes())
    assert len(manifest["entries"]) == 9


def test_two_people_can_run_on_one_machine(tmp_path: Path) -> None:
    """Luigi's folder of locks is for its maker alone, so each has one; in it, the same command is not run twice."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "luigi").write_text("somebody else's")
    make_dump(tmp_path / "dump", instances=1)
    words = ("--dump", tmp_path / "dump", "--workspace", tmp_path / "w")
    ended = luigi("SortStudy", *words, cwd=tmp_path, env={"TMPDIR": str(tmp_path / "tmp")})
    assert ended.code == 0, ended.said
    assert {path.name for path in (tmp_path / "tmp").iterdir()} >= {"luigi", f"luigi-{os.getuid()}"}
