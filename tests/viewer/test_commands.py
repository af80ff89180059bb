"""The viewer's commands do what they say, end with the right code, and need no screen."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks.errors import OpeningError, RatingsError
from tasks.files import file_digest
from tasks.review.manifest import merge_entries, read_manifest, write_manifest
from tasks.review.prepare import prepare_series
from tasks.review.ratings import open_store, store_path
from tasks.review.reading import ReadingProtocol
from tests.review import phantom
from viewer.__main__ import main
from viewer.doctor import missing_library
from viewer.keys import markdown

SOUND = "SUB-0001/ses-20040119/003_1a2b3c4d"
GAPPED = "SUB-0002/ses-20040119/001_00ff00ff"


def _id(name: str) -> str:
    return name.replace("/", "_")


def _build(released: Path, names: list[str]) -> Path:
    made = {}
    for name in names:
        made[name] = phantom.instances(phantom.SAGITTAL)
        if name == GAPPED:
            del made[name][3]
    entries = [prepare_series(released, one, released / "review") for one in phantom.release(released, made)]
    manifest = released / "review" / "manifest.json"
    write_manifest(manifest, merge_entries(entries))
    return manifest


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    released = tmp_path_factory.mktemp("commands") / "released"
    _build(released, [SOUND])
    return released


@pytest.fixture
def manifest(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "released")) / "review" / "manifest.json"


@pytest.fixture
def gapped(tmp_path: Path) -> Path:
    return _build(tmp_path / "gapped", [SOUND, GAPPED])


def _facts(text: str) -> dict[str, object]:
    return dict(json.loads(text.splitlines()[-1]))


def test_a_sound_manifest_ends_well(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(manifest)]) == 0
    shown = capsys.readouterr()
    assert shown.out == "1 series, 9 instances, 0 images, 2 pictures: all as the manifest says.\n"
    assert shown.err == ""


def test_the_last_line_is_for_programs(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(manifest), "--json"]) == 0
    assert _facts(capsys.readouterr().out) == {
        "command": "check",
        "manifest_sha256": file_digest(manifest),
        "entries": 1,
        "instances": 9,
        "images": 0,
        "pictures": 2,
        "entries_with_findings": 0,
        "findings": {},
        "exit_code": 0,
    }


def test_faults_are_named_and_end_with_four(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    instance = sorted((manifest.parent.parent / "export" / SOUND).iterdir())[2]
    content = bytearray(instance.read_bytes())
    content[-5] ^= 1
    instance.write_bytes(content)
    assert main(["check", str(manifest), "--json"]) == 4
    shown = capsys.readouterr().out
    assert shown.splitlines()[0] == _id(SOUND)
    assert f"digest-differs: {instance.name} has another content" in shown
    assert _facts(shown)["findings"] == {"digest-differs": 1}


def test_many_findings_are_counted_not_listed(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(30):
        (manifest.parent.parent / "export" / SOUND / f"stranger{number}").write_bytes(b"")
    assert main(["check", str(manifest)]) == 4
    shown = capsys.readouterr().out
    assert "  and 20 more\n" in shown
    assert "something was found in 0 series: not-listed 30" in shown


def test_pictures_are_drawn_for_every_series(gapped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pictures" / "here"
    assert main(["render", str(gapped), "--out", str(out), "--json"]) == 4
    shown = capsys.readouterr().out
    assert f"2 of 2 series drawn in {out}.\n" in shown
    assert "gap: 1 slice missing" in shown
    assert _facts(shown)["drawn"] == 2
    assert sorted(path.name for path in out.iterdir()) == sorted(f"{_id(one)}.png" for one in (SOUND, GAPPED))
    for path in out.iterdir():
        assert path.read_bytes() == (gapped.parent / "montage" / path.name).read_bytes()


def test_one_entry_alone_is_drawn(gapped: Path, tmp_path: Path) -> None:
    assert main(["render", str(gapped), "--out", str(tmp_path / "out"), "--only", _id(SOUND)]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"{_id(SOUND)}.png"]


def test_a_series_that_is_gone_does_not_stop_the_others(gapped: Path, tmp_path: Path) -> None:
    shutil.rmtree(gapped.parent.parent / "export" / SOUND)
    assert main(["render", str(gapped), "--out", str(tmp_path / "out")]) == 4
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"{_id(GAPPED)}.png"]


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["check", "MANIFEST-GONE"], 6, "it is not there"),
        (["render", "MANIFEST-GONE", "--out", "x"], 6, "it is not there"),
        (["render", "MANIFEST", "--out", "OUT", "--only", "nobody"], 2, "has no entry nobody"),
        (["render", "MANIFEST", "--out", "MANIFEST"], 5, "cannot be written"),
        (["render", "MANIFEST"], 2, "--out"),
        (["look"], 2, "invalid choice"),
        ([], 2, "required"),
    ],
)
def test_faults_end_with_their_code_and_one_sentence(
    words: list[str], code: int, sentence: str, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {
        "MANIFEST-GONE": str(manifest.with_name("gone.json")),
        "MANIFEST": str(manifest),
        "OUT": str(manifest.parent / "out"),
    }
    assert main([places.get(word, word) for word in words]) == code
    shown = capsys.readouterr()
    assert sentence in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""


def test_a_traceback_is_shown_when_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path / "gone.json"), "--debug", "--json"]) == 6
    shown = capsys.readouterr()
    assert "Traceback" in shown.err
    assert _facts(shown.out) == {"command": "check", "error": "ManifestError", "exit_code": 6}


@pytest.mark.parametrize("words", [["--help"], ["check", "--help"], ["render", "--help"], ["--version"]])
def test_help_is_given(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert capsys.readouterr().out


def _run(*words: str | Path, cwd: Path, code: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    start = ["-c", code] if code else ["-m", "viewer"]
    kept = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    repository = str(Path(__file__).resolve().parents[2])
    return subprocess.run(
        [sys.executable, "-W", "error", *start, *map(str, words)],
        cwd=cwd,
        env={**kept, "PYTHONPATH": repository, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_another_process_without_a_screen_draws_the_same_bytes(manifest: Path, tmp_path: Path) -> None:
    done = _run("render", manifest, "--out", tmp_path / "out", cwd=tmp_path, LC_ALL="C", PYTHONHASHSEED="7")
    assert (done.returncode, done.stderr) == (0, "")
    name = f"{_id(SOUND)}.png"
    assert (tmp_path / "out" / name).read_bytes() == (manifest.parent / "montage" / name).read_bytes()


def test_without_pillow_checking_works_and_drawing_says_what_is_missing(manifest: Path, tmp_path: Path) -> None:
    code = "import sys; sys.modules['PIL'] = None\nfrom viewer.__main__ import main; sys.exit(main(sys.argv[1:]))"
    assert _run("check", manifest, cwd=tmp_path, code=code).returncode == 0
    done = _run("render", manifest, "--out", tmp_path / "out", cwd=tmp_path, code=code)
    assert done.returncode == 7
    assert done.stderr.strip().endswith("Install it with: pip install 'scanward[review]'.")


# -- ratings -----------------------------------------------------------------------------------------------------------


def _read_one(manifest: Path, *, reader: str = "ann", digest: str = "f" * 64) -> Path:
    path = store_path(manifest.parent, reader)
    with open_store(
        path,
        reader=reader,
        protocol=ReadingProtocol(),
        software="0",
        manifest_sha256="",
        now=lambda: datetime(2026, 3, 1, tzinfo=UTC),
        monotonic=time.monotonic,
        journal="truncate",
    ) as store:
        store.append("rate", case=_id(SOUND), presentation=1, verdict="query", digest=digest)
        store.append("note", case=_id(SOUND), presentation=1, note="a note")
    return path


def test_verdicts_are_checked_and_exported(manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(manifest)]) == RatingsError.exit_code
    assert "nobody has read yet" in capsys.readouterr().err
    path = _read_one(manifest)
    assert main(["verify", str(manifest), "--json"]) == 0
    assert _facts(capsys.readouterr().out)["readers"] == {"ann": {"rows": 3, "first_bad": None, "problem": ""}}
    assert main(["export", str(manifest), "--out", str(tmp_path / "out"), "--json"]) == 0
    assert _facts(capsys.readouterr().out)["rows"] == 1
    assert "query" in (tmp_path / "out" / "ratings.tsv").read_text("utf-8")
    path.write_bytes(path.read_bytes().replace(b'"verdict":"query"', b'"verdict":"quirk"'))
    assert main(["verify", str(path)]) == 4
    assert "row 2 is not as it was written" in capsys.readouterr().out


def test_readers_are_compared(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _read_one(manifest)
    assert main(["agree", str(manifest), "--json"]) == 0
    said = capsys.readouterr().out
    assert "nothing to compare" in said
    assert "Left out: 1 verdict on images that changed since" in said
    assert _facts(said)["between"] is None
    digest = read_manifest(manifest).entries[0].digest
    _read_one(manifest, reader="bob", digest=digest)
    _read_one(manifest, reader="eve", digest=digest)
    assert main(["agree", str(manifest), "--resamples", "0", "--json"]) == 0
    said = capsys.readouterr().out
    assert "Between bob and eve: 1 case read twice or more (accept 0, query 2, reject 0)" in said
    assert _facts(said)["between"]["measures"]["raw"]["value"] == 1.0
    assert "gave one and the same grade throughout" in _facts(said)["between"]["measures"]["cohen"]["reason"]
    assert main(["agree", str(manifest), "--group", "none-such"]) == 2
    assert "has no entry of the group none-such" in capsys.readouterr().err
    assert main(["agree", str(manifest), "--resamples", "-1"]) == 2


def test_keys_and_doctor_print_what_they_say(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys"]) == 0
    assert capsys.readouterr().out == markdown()
    assert main(["keys", str(manifest)]) == 0
    assert "accept: good enough" in capsys.readouterr().out
    assert main(["doctor", "--json"]) in (0, 4)
    assert "numpy" in capsys.readouterr().out
    assert missing_library("libGL.so.1: cannot open shared object file") == "libGL.so.1 is missing: apt install libgl1"


def test_a_reader_without_a_name_and_a_file_that_is_not_there_are_told(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["review", str(manifest), "--reviewer", "../ann"]) == 2
    assert main(["view", str(manifest.parent / "absent.nii")]) == OpeningError.exit_code
    err = capsys.readouterr().err
    assert "absent.nii cannot be shown: it is not there" in err
    assert "Traceback" not in err
