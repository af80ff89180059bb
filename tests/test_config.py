"""A study file is taken whole or refused with all its faults at once, each with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.config import DeidentifySettings, OptionName, StudySettings, read_study
from tasks.deidentify.profile import DEFAULT_PROFILE, Option, Profile
from tasks.errors import StudyFileError, UsageError
from tasks.sort.place import WAYS
from tests import strategies
from tests.conftest import REPOSITORY


def _read(folder: Path, text: str) -> StudySettings:
    path = folder / "trial.toml"
    path.write_text(text, "utf-8")
    return read_study(path)


GOOD = 'dump = "in"\nworkspace = "/srv/trial"\n'


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    settings = _read(tmp_path, GOOD + '[deidentify]\npseudonyms = "../list.csv"\n')
    assert settings.dump == tmp_path / "in"
    assert settings.workspace == Path("/srv/trial")
    assert settings.deidentify.pseudonyms == tmp_path / "../list.csv"
    assert (settings.deidentify.prefix, settings.chunks.review_series) == ("SUB", 20)
    for key in ("pseudonyms", "same_patient", "key_map_passphrase_file", "recovery_certificate"):
        settings = _read(tmp_path, GOOD + f'[deidentify]\n{key} = "lists/a.csv"\n')
        assert settings.deidentify.model_dump(exclude_none=True)[key] == tmp_path / "lists/a.csv"
        assert getattr(_read(tmp_path, GOOD).deidentify, key) is None
    settings = _read(tmp_path, GOOD + '[sort]\nvisits = "lists/visits.csv"\n')
    assert settings.sort.visits == tmp_path / "lists/visits.csv"


def test_what_is_not_said_is_as_it_is_for_most(tmp_path: Path) -> None:
    """No file waits, archives of a few hundred gigabytes are opened, and the cheapest safe way of placing is taken."""
    settings = _read(tmp_path, GOOD)
    assert settings.index.quiet_seconds == 0
    assert settings.archives.depth == 2
    assert settings.archives.member_bytes <= settings.archives.total_bytes
    assert (settings.sort.layout, settings.sort.file_name, settings.sort.place) == ("patient-date-series", "", "auto")
    assert (settings.sort.visit_gap_hours, settings.sort.visits) == (4, None)
    assert settings.review.incomplete == "flag"


OPTIONS = (
    "retain_patient_characteristics",
    "retain_longitudinal_modified_dates",
    "retain_safe_private",
    "clean_descriptors",
)


def test_options_are_those_of_the_profile(tmp_path: Path) -> None:
    """The settings know neither pydicom nor the table, so they repeat the names."""
    assert set(get_args(OptionName)) == {option.column for option in Option}
    settings = _read(tmp_path, GOOD)
    assert settings.deidentify.options == OPTIONS
    assert Profile.of(settings.deidentify.options) == DEFAULT_PROFILE
    settings = _read(tmp_path, GOOD + "[deidentify]\noptions = []\n")
    assert Profile.of(settings.deidentify.options) == Profile(options=frozenset())


@given(chosen=st.lists(st.sampled_from([option.column for option in Option]), unique=True))
def test_the_settings_take_what_the_profile_takes(chosen: list[str]) -> None:
    """Both refuse the same lists: the one with its place in the file, the other with a sentence."""
    taken = {}
    for name, make in (
        ("settings", lambda: DeidentifySettings.model_validate_json(json.dumps({"options": chosen}))),
        ("profile", lambda: Profile.of(chosen)),
    ):
        try:
            made = make()
        except (ValidationError, UsageError):
            taken[name] = None
        else:
            taken[name] = {option.column for option in made.options} if name == "profile" else set(made.options)
    assert taken["settings"] == taken["profile"]


def test_all_faults_of_options_are_told_at_once(tmp_path: Path) -> None:
    text = """
[deidentify]
prefix = "-"
options = [
  "retain_uid", "retain_longitudinal_full_dates", "clean_graphics", "retain_uids", "retain_uids", "speed",
  "retain_longitudinal_modified_dates"
]
"""
    with pytest.raises(StudyFileError) as caught:
        _read(tmp_path, GOOD + text)
    sentence = str(caught.value)
    for fault in (
        "deidentify.options names 'retain_uid', which is no option (did you mean retain_uids?)",
        "names retain_uids twice",
        "names 'speed', which is no option (there are retain_safe_private, retain_uids, ",
        "names both full and modified dates, of which a date can have only one: it stays or is moved",
        "deidentify.prefix ",
    ):
        assert sentence.count(fault) == 1, fault


def test_every_key_can_be_set(tmp_path: Path) -> None:
    text = """
[index]
quiet_seconds = 0.5
[archives]
members = 1
member_bytes = 2
total_bytes = 3
ratio = 4
depth = 0
[sort]
layout = "flat-series"
file_name = "{instance_hash}"
place = "symlink"
visit_gap_hours = 12
[deidentify]
options = ["retain_uids", "retain_longitudinal_full_dates"]
whole_weeks = true
key_map_passphrase_variable = "TRIAL_PASSPHRASE"
[review]
incomplete = "wait"
"""
    settings = _read(tmp_path, GOOD + text)
    assert settings.index.quiet_seconds == 0.5
    assert settings.archives.model_dump() == {
        "members": 1,
        "member_bytes": 2,
        "total_bytes": 3,
        "ratio": 4,
        "depth": 0,
    }
    assert (settings.sort.layout, settings.sort.file_name) == ("flat-series", "{instance_hash}")
    assert (settings.sort.place, settings.sort.visit_gap_hours) == ("symlink", 12)
    assert settings.deidentify.options == ("retain_uids", "retain_longitudinal_full_dates")
    assert settings.deidentify.whole_weeks
    assert settings.deidentify.key_map_passphrase_variable == "TRIAL_PASSPHRASE"
    assert settings.review.incomplete == "wait"


@pytest.mark.parametrize("place", ["auto", "reflink", "hardlink", "copy", "symlink"])
def test_every_way_of_placing_can_be_asked_for(place: str, tmp_path: Path) -> None:
    assert _read(tmp_path, GOOD + f'[sort]\nplace = "{place}"').sort.place == place
    assert place in WAYS


def test_words_of_the_command_line_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = read_study(None, dump=Path("in"), workspace=Path("out"))
    assert (settings.dump, settings.workspace) == (tmp_path / "in", tmp_path / "out")
    (tmp_path / "trial.toml").write_text(GOOD)
    settings = read_study(tmp_path / "trial.toml", dump=Path("other"))
    assert (settings.dump, settings.workspace) == (tmp_path / "other", Path("/srv/trial"))


def test_all_faults_are_told_at_once_with_their_place(tmp_path: Path) -> None:
    text = """
workspace = 3
speed = "high"
[deidentify]
prefix = "no spaces please"
pseudonym = "list.csv"
[chunks]
index_files = "many"
export_instances = 0
review_series = 2.5
"""
    with pytest.raises(StudyFileError) as caught:
        _read(tmp_path, text)
    sentence = str(caught.value)
    for place in (
        "dump is missing",
        "workspace ",
        "speed is no key",
        "deidentify.prefix ",
        "deidentify.pseudonym is no key",
        "chunks.index_files ",
        "chunks.export_instances ",
        "chunks.review_series ",
    ):
        assert place in sentence
    assert "[A-Za-z0-9]" in sentence
    assert str(tmp_path / "trial.toml") in sentence
    assert sentence.count(";") == 7


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("=", "it is not TOML"),
        (GOOD + GOOD, "it is not TOML"),
        ("", "dump is missing; workspace is missing"),
        ('dump = ""\nworkspace = "w"', "dump names no file or folder"),
        ('dump = " "\nworkspace = "w"', "dump names no file or folder"),
        ('dump = "a\\u0000b"\nworkspace = "w"', "dump names no file or folder"),
        ('dump = 2020-01-01\nworkspace = "w"', "dump "),
        (GOOD + "[deidentify]\nprefix = 2020-01-01", "deidentify.prefix "),
        (GOOD + '[deidentify]\npseudonyms = ""', "deidentify.pseudonyms names no file or folder"),
        (GOOD + '[deidentify]\nsame_patient = " "', "deidentify.same_patient names no file or folder"),
        (GOOD + '[deidentify]\nwhole_weeks = "yes"', "deidentify.whole_weeks "),
        (GOOD + '[deidentify]\nkey_map_passphrase = "open sesame"', "deidentify.key_map_passphrase is no key"),
        (GOOD + '[deidentify]\nkey_map_passphrase_variable = "$A"', "deidentify.key_map_passphrase_variable "),
        (
            GOOD + '[deidentify]\nkey_map_passphrase_variable = "A"\nkey_map_passphrase_file = "a"',
            "deidentify names the passphrase twice",
        ),
        (GOOD + '[deidentify]\noptions = "retain_uids"', "deidentify.options is no list of names of options"),
        (GOOD + "[deidentify]\noptions = [3]", "deidentify.options is no list of names of options"),
        (GOOD + "[deidentify]\noptions = [2020-01-01]", "deidentify.options is no list of names of options"),
        (GOOD + "[deidentify]\noptions = true", "deidentify.options is no list of names of options"),
        (GOOD + '[deidentify]\noptions = [""]', "deidentify.options names '', which is no option (there are "),
        (
            GOOD + '[deidentify]\noptions = ["clean_descriptor"]',
            "deidentify.options names 'clean_descriptor', which is no",
        ),
        (GOOD + "chunks = 3", "chunks "),
        (GOOD + "[chunks]\nindex_files = nan", "chunks.index_files "),
        (GOOD + "[chunks]\nindex_files = true", "chunks.index_files "),
        (GOOD + "[chunks]\nindex_files = 2000.0", "chunks.index_files "),
        (GOOD + "[chunks]\nindex_files = 1000000", "chunks.index_files "),
        (GOOD + "[[chunks]]\nindex_files = 1", "chunks "),
        (GOOD + "[monitors]\n", "monitors is no key"),
        (GOOD + "[index]\nquiet_seconds = -1", "index.quiet_seconds "),
        (GOOD + "[index]\nquiet_seconds = 1e9", "index.quiet_seconds "),
        (GOOD + "[index]\nquiet_seconds = inf", "index.quiet_seconds "),
        (GOOD + '[index]\nquiet_seconds = "60"', "index.quiet_seconds "),
        (GOOD + "[index]\nquiet_minutes = 1", "index.quiet_minutes is no key"),
        (GOOD + "[archives]\nmembers = 0", "archives.members "),
        (GOOD + "[archives]\nmember_bytes = 1.5", "archives.member_bytes "),
        (GOOD + "[archives]\ntotal_bytes = 0", "archives.total_bytes "),
        (GOOD + "[archives]\nratio = -1", "archives.ratio "),
        (GOOD + "[archives]\ndepth = 9", "archives.depth "),
        (GOOD + "[archives]\ndepth = true", "archives.depth "),
        (GOOD + '[sort]\nplace = "move"', "sort.place "),
        (GOOD + '[sort]\nplace = ""', "sort.place "),
        (GOOD + '[sort]\nlayout = ""', "sort.layout "),
        (GOOD + "[sort]\nlayout = 3", "sort.layout "),
        (GOOD + "[sort]\nvisit_gap_hours = -1", "sort.visit_gap_hours "),
        (GOOD + "[sort]\nvisit_gap_hours = nan", "sort.visit_gap_hours "),
        (GOOD + '[sort]\nvisits = ""', "sort.visits names no file or folder"),
        (GOOD + '[review]\nincomplete = "hide"', "review.incomplete "),
        (GOOD + "[review]\nincomplete = true", "review.incomplete "),
    ],
)
def test_each_fault_is_refused(text: str, fault: str, tmp_path: Path) -> None:
    with pytest.raises(StudyFileError) as caught:
        _read(tmp_path, text)
    assert f"cannot be used: {fault}" in str(caught.value)


def test_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(StudyFileError, match="cannot be read"):
        read_study(tmp_path / "none.toml")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(StudyFileError, match="cannot be read"):
        read_study(tmp_path / "folder.toml")
    (tmp_path / "latin.toml").write_bytes('dump = "Müller"'.encode("latin-1"))
    with pytest.raises(StudyFileError, match="not TOML"):
        read_study(tmp_path / "latin.toml")


def test_byte_order_mark_is_told(tmp_path: Path) -> None:
    """Notepad writes one; TOML forbids it."""
    (tmp_path / "trial.toml").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    with pytest.raises(StudyFileError, match="not TOML"):
        read_study(tmp_path / "trial.toml")


@given(
    st.text(max_size=120)
    | st.lists(st.sampled_from(("dump", "=", '"x"', "\n", "[chunks]", "[[", "1", "nan", "{}", "."))).map("".join)
)
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        read_study(path)
    except StudyFileError as fault:
        assert str(path) in str(fault)  # noqa: PT017 - either outcome is allowed


@given(strategies.file_names())
def test_any_folder_can_be_named(name: bytes) -> None:
    folder = Path("/srv") / name.decode("utf-8", "replace")
    settings = read_study(None, dump=folder, workspace=folder / "w")
    assert settings.dump == folder


@pytest.mark.parametrize("name", ["example.toml", "demo.toml"])
def test_shipped_files_are_good(name: str) -> None:
    read_study(REPOSITORY / "configs" / name)


def test_settings_do_not_change(tmp_path: Path) -> None:
    settings = _read(tmp_path, GOOD)
    with pytest.raises(ValueError, match="frozen"):
        settings.dump = tmp_path


EVERY_SERIES_KEY = """\
[[review.series]]
description = "t1*"
image_type = "ORIGINAL\\\\PRIMARY*"
sequence = "GR"
echo = 1
bids = "anat/T1w"
tr_ms = 2300
te_ms = 2.98
voxel_mm = [1, 1, 1.2]
fov_mm = [256, 240]
matrix = [256, 240]
orientation = "sagittal"
slices = 176
volumes = 1
directions = 0
tolerance = 0.02
"""


def test_rules_for_series_are_read_and_faulty_ones_named(tmp_path: Path) -> None:
    (rule,) = _read(tmp_path, GOOD + EVERY_SERIES_KEY).review.series
    assert set(rule.model_fields_set) == set(type(rule).model_fields)
    assert (rule.bids, rule.voxel_mm, rule.orientation, rule.directions) == ("anat/T1w", (1, 1, 1.2), "sagittal", 0)
    assert _read(tmp_path, GOOD).review.series == ()
    for spoilt, told in (
        ('[[review.series]]\nbids = "anat/T1w"\n', "review.series.0 fits every series"),
        ('[[review.series]]\ndescription = "a"\nbids = "T1w"\n', "no data type, slash"),
        ('[[review.series]]\ndescription = "a"\nbids = "anat/../T1w"\n', "no data type, slash"),
        ('[[review.series]]\ndescription = "a"\ntr_ms = -1\n', "review.series.0.tr_ms"),
        ('[[review.series]]\ndescription = "a"\norientation = "oblique"\n', "review.series.0.orientation"),
        ('[[review.series]]\ndescription = "a"\nname = "b"\n', "review.series.0.name is no key"),
    ):
        with pytest.raises(StudyFileError, match=told):
            _read(tmp_path, GOOD + spoilt)


def test_the_rule_that_the_example_shows_can_be_used(tmp_path: Path) -> None:
    text = (REPOSITORY / "configs" / "example.toml").read_text("utf-8")
    _, _, below = text.partition("# [[review.series]]\n")
    block, _, _ = below.partition("\n\n")
    lines = [
        line[2:]
        for line in block.splitlines()
        if " = " in line and line[2:3].islower() and line[2:].split(" ")[1] == "="
    ]
    (rule,) = _read(tmp_path, GOOD + "[[review.series]]\n" + "\n".join(lines) + "\n").review.series
    assert set(rule.model_fields_set) == set(type(rule).model_fields)
