"""The `scanward` command: a study file to start from, a look at the installation, and where a study stands."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import tomllib
from contextlib import closing
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRBigEndian

from tasks import __version__
from tasks.config import StudySettings, read_study
from tasks.deidentify.profile import DEFAULT_PROFILE, Profile
from tasks.lists import read_list
from tests.builders.world import make_dump, make_instance, write_instance
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


TABLES = (
    "deidentify.regions",
    "review.series",
    "reading.scale",
    "reading.artefacts",
    "monitor.sites",
    "mail.relays",
)
"""Keys of the study file that are tables, of which it shows one."""


def test_the_study_file_shows_every_key_with_its_default(tmp_path: Path) -> None:
    assert scanward("init", "mine.toml", cwd=tmp_path).code == 0
    text = (tmp_path / "mine.toml").read_text("utf-8")
    shown = StudySettings.model_validate_json(json.dumps(tomllib.loads(text)))
    sections = [name for name in StudySettings.model_fields if name not in ("dump", "workspace")]
    assert set(sections) >= {"index", "archives", "sort", "deidentify", "review", "chunks"}
    for section in sections:
        assert getattr(shown, section) == StudySettings.model_fields[section].default, section
        _, _, below = text.partition(f"\n[{section}]\n")
        own, _, _ = below.partition("\n[")
        for key in type(getattr(shown, section)).model_fields:
            shown_as = rf"# \[\[{section}\.{key}\]\]$" if f"{section}.{key}" in TABLES else rf"(# )?{key} = "
            assert re.search(rf"^{shown_as}", own, re.MULTILINE), f"{section}.{key}"


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
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    _, *parts = re.findall(r"\w+", extras["all"][0])
    needed = [*project["dependencies"], *(requirement for part in parts for requirement in extras[part])]
    packages = {re.split("[<>=]", requirement)[0] for requirement in needed if not requirement.startswith("scanward[")}
    named = re.findall(r"^(?:ok|optional) +(\S+) ", ended.out, re.MULTILINE)
    assert len(named) == len(set(named))
    assert set(named) >= {"Python", "SQLite"} | packages
    assert list(tmp_path.iterdir()) == []


WITHOUT_PSUTIL = """
import importlib.metadata as metadata

whole = metadata.Distribution.from_name.__func__

def without_psutil(cls, name):
    if name in ("psutil", "Pillow", "pyarrow"):
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
    for package, extra in (("Pillow", "review"), ("pyarrow", "parquet")):
        remedy = rf"^optional +{package} +not installed; .*: pip install 'scanward\[{extra}\]'$"
        assert re.search(remedy, ended.out, re.MULTILINE), package


def test_doctor_looks_at_the_folders_of_a_study(tmp_path: Path) -> None:
    make_dump(tmp_path / "dump")
    study = write_study(tmp_path / "study.toml", dump=tmp_path / "dump", workspace=tmp_path / "w")
    for words in ([], ["--study", study], ["--dump", "dump", "--workspace", "w"]):
        ended = scanward("doctor", *words, cwd=tmp_path)
        assert ended.code == 0, ended.said
        assert re.search(r"ok +dump +\S*dump can be read", ended.out)
        assert re.search(r"ok +workspace +\S*w can be written, [0-9,]+ GiB free", ended.out)
        assert "placing" in ended.out


@pytest.mark.parametrize("command", ["doctor", "status", "plan", "undo", "export"])
def test_faults_of_a_study_end_with_their_codes(command: str, tmp_path: Path) -> None:
    said = ["index", "export", "series.tsv"] if command == "export" else [command]
    (tmp_path / "bad.toml").write_text("dump = 7\n")
    study = write_study(tmp_path / "gone.toml", dump=tmp_path / "nowhere", workspace=tmp_path / "w")
    taken = write_study(tmp_path / "taken.toml", dump=tmp_path, workspace=tmp_path / "w")
    for code, words in {3: ["--study", "bad.toml"], 4: ["--study", study], 5: ["--study", taken]}.items():
        assert_one_sentence(scanward(*said, *words, cwd=tmp_path), code)
    debug = scanward("--debug", *said, "--study", "bad.toml", cwd=tmp_path)
    assert debug.code == 3
    assert "Traceback" in debug.err


def test_status_without_a_study_ends_with_2(tmp_path: Path) -> None:
    assert_one_sentence(scanward("status", cwd=tmp_path), 2)
    assert_one_sentence(scanward("status", "--workspace", "nowhere", cwd=tmp_path), 2)
    assert list(tmp_path.iterdir()) == [], "to ask is not to make"


HOLDS = {
    "patients": 2,
    "dicom_studies": 2,
    "series": 4,
    "instances": 12,
    "dicom_files": 14,
    "incomplete_series": 0,
    "conflicts": 0,
    "duplicates": 0,
    "rejected": 2,
    "archives_opened": 0,
    "read_by_pydicom": 1,
}
"""What the dump of the next test holds once it is indexed."""


def test_status_follows_the_work_and_changes_nothing(tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    files = make_dump(dump, patients=2, series=2, instances=3)
    (dump / "junk").write_bytes(b"no image")
    (dump / "empty").touch()
    shutil.copy(files[0], dump / "duplicate")
    write_instance(dump / "conflict", make_instance(1, 1, 1, 2, ImageComments="another"))
    # One whose header pydicom has to read; and a series in which a number is missing.
    write_instance(files[3], make_instance(1, 1, 2, 1), transfer_syntax=ExplicitVRBigEndian)
    write_instance(files[-1], make_instance(2, 1, 2, 9))
    study = ("--dump", dump, "--workspace", tmp_path / "w")
    stages = {
        "Index": "index",
        "Plan": "plan",
        "Sort": "sort",
        "Collect identifiers": "harvest",
        "De-identify": "deidentify",
        "Prepare review": "prepare-review",
    }
    work = ("IndexDump", "PlanSort", "SortStudy", "HarvestIdentifiers", "DeidentifyStudy", "PrepareReview")
    for done, task in enumerate(work, 1):
        assert luigi(task, *study, cwd=tmp_path).code == 0
        before = times(tmp_path / "w")
        ended = scanward("status", "--workspace", "w", "--json", cwd=tmp_path)
        assert ended.code == 0, ended.said
        assert len(ended.out.splitlines()) == 1
        status = json.loads(ended.out)
        assert status["scanward"] == __version__
        planned = {"incomplete_series": 1, "conflicts": 2, "duplicates": 1} if done > 1 else {}
        assert status["holds"] == HOLDS | planned
        assert list(status["stages"]) == list(stages)
        told = {name: stage for name, stage in status["stages"].items() if stage}
        assert list(told) == list(stages)[:done]
        for name, stage in told.items():
            assert stage["counts"] == counts_of(tmp_path / "w", stages[name])
        assert [(run["placed"], run["removed"], run["undone"]) for run in status["runs"]] == [(13, 0, "")] * (done > 2)
        assert times(tmp_path / "w") == before
    assert status["stages"]["Sort"]["reasons"] == {"empty": 1, "not-dicom": 1}
    assert status["stages"]["Plan"]["reasons"] == {"instance-gap": 1}

    text = scanward("status", *study, cwd=tmp_path)
    assert text.code == 0
    for words in ("16 files seen", "1 x not-dicom", "1 x empty", "1 x instance-gap", "13 placed, 0 taken away"):
        assert words in text.out, words
    for name, count in status["holds"].items():
        assert re.search(rf"^{name.replace('_', ' ')} +{count} *$", text.out, re.MULTILINE), name
    assert "Synthetic" not in text.out + ended.out, "numbers, and no patient"


def test_status_tells_the_last_runs_first(tmp_path: Path) -> None:
    make_dump(tmp_path / "dump")
    study = ("--dump", tmp_path / "dump", "--workspace", tmp_path / "w")
    for night in range(3):
        write_instance(tmp_path / "dump" / f"{night}", make_instance(instance=2 + night))
        assert luigi("SortStudy", *study, cwd=tmp_path).code == 0
    # A night that brings nothing is no run; one that was undone is told as such.
    assert luigi("SortStudy", *study, cwd=tmp_path).code == 0
    assert scanward("undo", *study, cwd=tmp_path).code == 0
    runs = json.loads(scanward("status", *study, "--json", cwd=tmp_path).out)["runs"]
    assert [(run["run"], run["placed"], run["software"]) for run in runs] == [
        (3, 1, __version__),
        (2, 1, __version__),
        (1, 2, __version__),
    ]
    assert [bool(run["undone"]) for run in runs] == [True, False, False]
    assert all(run["started"] <= run["finished"] and run["finished"].endswith("+00:00") for run in runs)
    text = scanward("status", *study, cwd=tmp_path).out
    assert re.search(r"^Run 3, \S+ to undone \S+: 1 placed", text, re.MULTILINE)
    assert text.index("Run 3,") < text.index("Run 2,") < text.index("Run 1,")


def test_status_of_a_workspace_in_which_nothing_was_done(tmp_path: Path) -> None:
    (tmp_path / "dump").mkdir()
    assert scanward("doctor", "--dump", "dump", "--workspace", "w", cwd=tmp_path).code == 0
    status = json.loads(scanward("status", "--workspace", "w", "--json", cwd=tmp_path).out)
    assert (status["holds"], status["runs"]) == ({}, [])
    assert not any(status["stages"].values())
    assert scanward("status", "--workspace", "w", cwd=tmp_path).code == 0


def test_status_tells_a_person_what_is_not_done(tmp_path: Path) -> None:
    make_dump(tmp_path / "dump")
    assert luigi("SortStudy", "--dump", "dump", "--workspace", "w", cwd=tmp_path).code == 0
    ended = scanward("status", "--workspace", "w", cwd=tmp_path)
    assert "Collect identifiers: not done yet" in ended.out
    assert "De-identify: not done yet" in ended.out
    assert "Prepare review: not done yet" in ended.out


def test_status_of_a_workspace_of_another_version_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "w" / "identified").mkdir(parents=True)
    with closing(sqlite3.connect(tmp_path / "w" / "identified" / "index.db")) as connection:
        connection.execute("CREATE TABLE file (id INTEGER PRIMARY KEY)")
        connection.execute("PRAGMA user_version = 1")
    for words in (["status"], ["index", "export", "series.tsv"]):
        ended = scanward(*words, "--workspace", "w", cwd=tmp_path)
        assert_one_sentence(ended, 11)
        assert "cannot be read: it has the format 1, not 4. Delete it" in ended.err
    assert not (tmp_path / "series.tsv").exists()


# --- the table of series


@pytest.fixture(scope="module")
def sorted_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a workspace in which something was sorted."""
    folder = tmp_path_factory.mktemp("sorted")
    make_dump(folder / "dump", patients=2, series=2, instances=3)
    # By whole paths: Luigi takes two commands of the same words for one that is running already.
    assert luigi("SortStudy", "--dump", folder / "dump", "--workspace", folder / "w", cwd=folder).code == 0
    return folder


@pytest.mark.parametrize("ending", ["tsv", "parquet"])
def test_export_writes_a_row_for_each_series(ending: str, sorted_study: Path, tmp_path: Path) -> None:
    if ending == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed (the extra `parquet`)")
    path = tmp_path / f"series.{ending}"
    before = times(sorted_study / "w")
    ended = scanward("index", "export", path, "--workspace", "w", cwd=sorted_study)
    assert ended.code == 0, ended.said
    assert ended.out == f"Wrote 4 series to {path}. Patients can be read in it.\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert times(sorted_study / "w") == before
    rows = read_list(path) if ending == "tsv" else pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()
    assert [(row["patient_id"], row["series_number"], int(row["files"])) for row in rows] == [
        ("SYNWORLD0001", "1", 3),
        ("SYNWORLD0001", "2", 3),
        ("SYNWORLD0002", "1", 3),
        ("SYNWORLD0002", "2", 3),
    ]
    for row in rows:
        folder = sorted_study / "w" / "identified" / "sorted" / row["folder"]
        assert len(list(folder.iterdir())) == 3
        assert row["modality"] == "MR"


def test_export_without_pyarrow_says_how_to_get_it(sorted_study: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['pyarrow'] = None\n")
    words = ["index", "export", str(tmp_path / "series.parquet"), "--workspace", str(sorted_study / "w")]
    command = [sys.executable, "-m", "pipelines", *words]
    ended = run(command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert_one_sentence(ended, 7)
    assert "pip install 'scanward[parquet]'" in ended.err
    assert not (tmp_path / "series.parquet").exists()


@pytest.mark.parametrize("kind", ["file", "dangling link", "folder"])
def test_export_refuses_to_write_over_what_is_there(kind: str, sorted_study: Path, tmp_path: Path) -> None:
    path = tmp_path / "series.tsv"
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("nowhere")
    ended = scanward("index", "export", path, "--workspace", sorted_study / "w", cwd=tmp_path)
    assert_one_sentence(ended, 2)
    assert "is there already" in ended.err
    assert os.listdir(tmp_path) == ["series.tsv"]
    assert kind != "file" or path.read_text() == "precious"


def test_export_says_what_is_wrong_with_the_place(sorted_study: Path, tmp_path: Path) -> None:
    (tmp_path / "dump").mkdir()
    workspace = ("--workspace", sorted_study / "w")
    for words, code in (
        (("series.csv", *workspace), 2),
        (("series", *workspace), 2),
        (("series.tsv", "--workspace", "nowhere"), 2),
        (("no such folder/series.tsv", *workspace), 2),
        (("/proc/series.tsv", *workspace), 2),
    ):
        assert_one_sentence(scanward("index", "export", *words, cwd=tmp_path), code)
    assert scanward("doctor", "--dump", "dump", "--workspace", "new", cwd=tmp_path).code == 0
    ended = scanward("index", "export", "series.tsv", "--workspace", "new", cwd=tmp_path)
    assert_one_sentence(ended, 2)
    assert ended.err == "This workspace has no index yet. Run SortStudy first.\n"
    assert sorted(os.listdir(tmp_path)) == ["dump", "new"]


# --- the rules of de-identification


def rules_of(out: str) -> dict[str, dict[str, str]]:
    """Read the table that `scanward profile --format tsv` prints, by tag."""
    head, *lines = out.splitlines()
    rows = [dict(zip(head.split("\t"), line.split("\t"), strict=True)) for line in lines]
    return {row["tag"]: row for row in rows}


def test_profile_prints_every_rule_in_effect(tmp_path: Path) -> None:
    ended = scanward("profile", cwd=tmp_path)
    assert ended.code == 0, ended.said
    assert "edition 2026d: MR Image Storage (1.2.840.10008.5.1.4.1.1.4)" in ended.out
    assert ended.lines_with("113107  Retain Longitudinal Temporal Information Modified Dates Option")
    assert ended.lines_with("Not chosen: retain_uids, retain_device_identity, ")
    (not_done,) = ended.lines_with("Not done: ")
    assert not_done == "Not done: Clean Recognizable Visual Features Option"
    assert ended.lines_with("Dates and times: MODIFIED")
    assert re.search(
        r"^\(0008,0020\)  Z       date            Study Date \[retain_longitudinal_modified_dates: C\]$",
        ended.out,
        re.MULTILINE,
    )
    rows = [row for row in DEFAULT_PROFILE.describe() if row.basic]
    assert len(rows) == 657
    for row in rows:
        assert re.search(rf"^{re.escape(row.tag)} +{re.escape(row.basic)} +{row.action} ", ended.out, re.MULTILINE), row
    assert list(tmp_path.iterdir()) == [], "to ask is not to make"


def test_profile_for_machines_says_the_same(tmp_path: Path) -> None:
    table = rules_of(scanward("profile", "--format", "tsv", cwd=tmp_path).out)
    ended = scanward("profile", "--format", "json", cwd=tmp_path)
    assert ended.code == 0, ended.said
    assert len(ended.out.splitlines()) == 1
    told = json.loads(ended.out)
    assert (told["scanward"], told["edition"], told["digest"]) == (__version__, "2026d", DEFAULT_PROFILE.digest())
    assert told["codes"] == [{"code": code, "meaning": meaning} for code, meaning in DEFAULT_PROFILE.codes()]
    assert [option["code"] for option in told["options"] if option["state"] == "chosen"] == [
        "113111",
        "113108",
        "113107",
        "113105",
    ]
    assert {option["code"] for option in told["options"]} == {str(code) for code in range(113101, 113113)}
    assert len(told["rules"]) == len(DEFAULT_PROFILE.describe())
    for rule in told["rules"]:
        options = ", ".join(f"{name}: {code}" for name, code in rule["options"].items())
        if rule["tag"].startswith("("):
            # A tag in two of the vendors' blocks is two rules; the table keeps the last of them here.
            assert "xx" in rule["tag"] or table[rule["tag"]] == rule | {"options": options}


def test_profile_follows_the_study_file_and_needs_no_folder_of_it(tmp_path: Path) -> None:
    """A change of the options changes the rules, the codes, and what the stage believes to be done."""
    found = {}
    for name, options in {
        "bare": [],
        "moved": ["retain_longitudinal_modified_dates"],
        "full": ["retain_longitudinal_full_dates", "retain_uids", "retain_institution_identity"],
    }.items():
        study = tmp_path / f"{name}.toml"
        study.write_text(f'dump = "no"\nworkspace = "no"\n[deidentify]\noptions = {json.dumps(options)}\n')
        ended = scanward("profile", "--study", study, "--format", "json", cwd=tmp_path)
        assert ended.code == 0, ended.said
        told = json.loads(ended.out)
        rules = {rule["tag"]: rule for rule in told["rules"]}
        actions = [rules[tag]["action"] for tag in ("(0008,0020)", "(0020,000D)", "(0008,0080)", "private")]
        found[name] = (told["temporal_information"], *actions)
        assert told["digest"] == Profile.of(options).digest()
    assert found == {
        "bare": ("REMOVED", "empty", "uid", "remove", "remove"),
        "moved": ("MODIFIED", "date", "uid", "remove", "remove"),
        "full": ("UNMODIFIED", "keep", "keep", "keep", "remove"),
    }
    assert sorted(os.listdir(tmp_path)) == ["bare.toml", "full.toml", "moved.toml"]


def test_profile_resolves_by_the_kind_of_image(tmp_path: Path) -> None:
    words = ("profile", "--format", "tsv", "--sop-class")
    enhanced = rules_of(scanward(*words, "1.2.840.10008.5.1.4.1.1.4.1", cwd=tmp_path).out)
    plain = rules_of(scanward(*words, "1.2.840.10008.5.1.4.1.1.4", cwd=tmp_path).out)
    assert (plain["(0018,1000)"]["action"], enhanced["(0018,1000)"]["action"]) == ("remove", "dummy")


def test_profile_warns_of_uids_that_tell_the_date(tmp_path: Path) -> None:
    for options, warned in ((["retain_uids"], True), (["retain_uids", "retain_longitudinal_full_dates"], False)):
        study = tmp_path / "study.toml"
        study.write_text(f'dump = "no"\nworkspace = "no"\n[deidentify]\noptions = {json.dumps(options)}\n')
        assert bool(scanward("profile", "--study", study, cwd=tmp_path).lines_with("Take care: ")) is warned


def test_faults_of_profile_end_with_their_codes(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text('dump = "a"\nworkspace = "b"\n[deidentify]\noptions = ["retain_uid"]\n')
    ended = scanward("profile", "--study", "bad.toml", cwd=tmp_path)
    assert_one_sentence(ended, 3)
    assert "did you mean retain_uids?" in ended.err
    assert_one_sentence(scanward("profile", "--study", "gone.toml", cwd=tmp_path), 3)
    for uid in ("1.2.3", "", "1.2.840.10008.5.1.4.1.1.7"):
        ended = scanward("profile", "--sop-class", uid, cwd=tmp_path)
        assert_one_sentence(ended, 2)
        assert "is exported" in ended.err


@pytest.mark.parametrize("words", [["doctor"], ["profile"], ["profile", "--format", "json"]])
def test_a_pipe_that_is_closed_is_no_fault(words: list[str], tmp_path: Path) -> None:
    """As in `scanward profile | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pipelines", *words],
            cwd=tmp_path, env=environment(), stdout=writer, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_other_options_are_another_export(tmp_path: Path) -> None:
    """The stage runs again when its options change, and the export follows them."""
    make_dump(tmp_path / "dump")
    sexes = []
    for more in ([], ["retain_patient_characteristics"]):
        options = json.dumps(["retain_longitudinal_modified_dates", *more])
        (tmp_path / "study.toml").write_text(f'dump = "dump"\nworkspace = "w"\n[deidentify]\noptions = {options}\n')
        ended = luigi("DeidentifyStudy", "--study", tmp_path / "study.toml", cwd=tmp_path)
        assert ended.code == 0, ended.said
        counts = counts_of(tmp_path / "w", "deidentify")
        assert (counts["exported"], counts["exported_now"], counts["quarantined"]) == (1, 1, 0)
        (path,) = (tmp_path / "w" / "released" / "export").rglob("*.dcm")
        sexes.append(dcmread(path).PatientSex)
    assert sexes == ["", "M"]


def test_version_is_the_one_of_the_package(tmp_path: Path) -> None:
    ended = scanward("--version", cwd=tmp_path)
    assert (ended.code, ended.out) == (0, f"scanward {__version__}\n")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["sing"],
        ["init", "a", "b"],
        ["status", "--studdy", "x"],
        ["plan", "--workers", "none"],
        ["undo", "3"],
        ["index"],
        ["index", "export"],
        ["profile", "--format", "xml"],
        ["profile", "--workspace", "w"],
    ],
)
def test_words_that_do_not_parse_end_with_2(words: list[str], tmp_path: Path) -> None:
    ended = scanward(*words, cwd=tmp_path)
    assert ended.code == 2
    assert "usage: scanward" in ended.err
    assert "Traceback" not in ended.err
