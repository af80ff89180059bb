"""The command itself, in a window on a real X display, read with keys that the display presses."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tasks.review.manifest import merge_entries, read_manifest, write_manifest
from tasks.review.prepare import prepare_series
from tasks.review.ratings import read_events, standing, store_path, verify_store
from tasks.review.reading import read_protocol
from tests.builders.demo_dump import write_demo_dump
from tests.conftest import REPOSITORY
from tests.pipelines.command import luigi, write_study
from tests.review import phantom
from viewer.__main__ import main
from viewer.session import reading_order

CASES = 10
WAIT_S = 90


@pytest.fixture
def display(program: Callable[[str], str]) -> Iterator[str]:
    """Start an X server that chooses a free number."""
    reading, writing = os.pipe()
    words = [program("Xvfb"), "-displayfd", str(writing), "-screen", "0", "1600x1000x24", "-nolisten", "tcp"]
    with subprocess.Popen(words, pass_fds=[writing], stderr=subprocess.DEVNULL) as server:
        os.close(writing)
        try:
            with os.fdopen(reading) as number:
                yield f":{int(number.readline())}"
        finally:
            server.terminate()


def _verdicts(store: Path) -> int:
    with contextlib.suppress(Exception):
        return sum(1 for one in standing(read_events(store)).values() if one.verdict)
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Somebody who reads with the display's own keys."""

    display: str
    xdotool: str
    manifest: Path
    home: Path
    name: str = "ann"

    @property
    def store(self) -> Path:
        return store_path(self.manifest.parent, self.name)

    @property
    def env(self) -> dict[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("QT_")},
            "DISPLAY": self.display,
            "PYTHONPATH": str(REPOSITORY),
            "XDG_CONFIG_HOME": str(self.home / "config"),
            "XDG_RUNTIME_DIR": str(self.home),
        }

    def key(self, *names: str) -> None:
        subprocess.run([self.xdotool, "key", "--clearmodifiers", *names], env=self.env, check=True)

    @contextlib.contextmanager
    def window(self) -> Iterator[subprocess.Popen[str]]:
        """Start the command and give its window the keyboard."""
        words = [sys.executable, "-m", "viewer", "review", self.manifest, "--reviewer", self.name, "--json"]
        with subprocess.Popen(words, env=self.env, stdout=subprocess.PIPE, text=True, cwd=self.home) as viewer:
            try:
                window = self._find_window()
                subprocess.run([self.xdotool, "windowfocus", "--sync", window], env=self.env, check=False)
                yield viewer
            finally:
                viewer.kill()

    def _find_window(self) -> str:
        """Wait for the window; a search that meets one that is just going away fails, and is begun again."""
        words = [self.xdotool, "search", "--onlyvisible", "--name", "scanward"]
        deadline = time.monotonic() + WAIT_S
        while True:
            found = subprocess.run(words, env=self.env, check=False, capture_output=True, text=True, timeout=WAIT_S)
            if found.returncode == 0 and found.stdout.split():
                return found.stdout.split()[-1]
            assert time.monotonic() < deadline, found.stderr
            time.sleep(0.1)

    def read(self, viewer: subprocess.Popen[str], until: int) -> None:
        """Look at cases and give verdicts until so many are kept."""
        deadline = time.monotonic() + WAIT_S + until
        while (done := _verdicts(self.store)) < until:
            assert time.monotonic() < deadline, f"{done} verdicts came down"
            assert viewer.poll() is None
            self.key("Up", "Prior", "bracketright", "1" if done % 3 else "2")
            time.sleep(0.15)


def _study(released: Path, cases: int) -> Path:
    made = {}
    for number in range(cases):
        slices = phantom.instances(phantom.ALL_STORAGES[number % len(phantom.ALL_STORAGES)])
        for dataset in slices:
            dataset.SOPInstanceUID = phantom.uid(number, dataset.InstanceNumber)
        made[f"SUB-{number:04d}/ses-1/001_a"] = slices
    folders = phantom.release(released, made)
    manifest = released / "review" / "manifest.json"
    write_manifest(manifest, merge_entries([prepare_series(released, one, released / "review") for one in folders]))
    return manifest


def test_cases_are_read_with_real_keys(display: str, program: Callable[[str], str], tmp_path: Path) -> None:
    manifest = _study(tmp_path / "released", CASES)
    ann = Reader(display=display, xdotool=program("xdotool"), manifest=manifest, home=tmp_path)
    with ann.window() as viewer:
        ann.read(viewer, CASES)
        ann.key("ctrl+q")
        out, _ = viewer.communicate(timeout=WAIT_S)
    assert viewer.returncode == 0, out
    assert f"{CASES} of {CASES} cases have a verdict" in out
    assert verify_store(ann.store).is_sound
    events = read_events(ann.store)
    cases = [event.case for event in events if event.kind == "rate"]
    assert cases == sorted(entry.entry_id for entry in read_manifest(manifest).entries)
    assert all(event.view["slices_seen"] for event in events if event.kind == "rate")
    assert events[-1].kind == "close"


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.long)])
def test_a_window_that_is_killed_goes_on_where_it_was(
    kills: int, display: str, program: Callable[[str], str], tmp_path: Path
) -> None:
    chance = random.Random(kills)
    manifest = _study(tmp_path / "released", kills + 3)
    order = sorted(entry.entry_id for entry in read_manifest(manifest).entries)
    ann = Reader(display=display, xdotool=program("xdotool"), manifest=manifest, home=tmp_path)
    for number in range(kills):
        with ann.window() as viewer:
            ann.read(viewer, number + 1)
            ann.key("Up", "3")
            time.sleep(chance.random() * 0.05)
            viewer.kill()
            viewer.wait()
        kept = read_events(ann.store)
        assert verify_store(ann.store).is_sound
        done = {case for (case, _), one in standing(kept).items() if one.verdict}
        assert done == set(order[: len(done)]), "none is left out between two others"
        assert len(done) >= number + 1
        if len(done) == len(order):
            break
        with ann.window() as viewer:
            deadline = time.monotonic() + WAIT_S
            while len(events := read_events(ann.store)) == len(kept):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            viewer.kill()
            viewer.wait()
        assert events[: len(kept)] == kept
        assert (events[len(kept)].kind, events[len(kept)].case) == ("open", order[len(done)])


@pytest.mark.long
def test_the_demo_study_is_read_by_two_readers(
    display: str, program: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dump, workspace = tmp_path / "dump", tmp_path / "workspace"
    write_demo_dump(dump)
    study = write_study(
        tmp_path / "study.toml", dump=dump, workspace=workspace, more="[reading]\nseed = 4\nrepeat_share = 0.1\n"
    )
    assert luigi("PrepareReview", "--study", study, cwd=tmp_path).code == 0
    manifest = workspace / "released" / "review" / "manifest.json"
    read = 0
    for name in ("ann", "bob"):
        one = Reader(display=display, xdotool=program("xdotool"), manifest=manifest, home=tmp_path, name=name)
        queue = len(reading_order(read_manifest(manifest).entries, read_protocol(manifest.parent), name))
        with one.window() as viewer:
            one.read(viewer, queue)
            one.key("ctrl+q")
            out, _ = viewer.communicate(timeout=WAIT_S)
        assert viewer.returncode == 0, out
        assert verify_store(one.store).is_sound
        read += queue
    assert read >= 100
    assert main(["agree", str(manifest), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["between"]["cases"] == len(read_manifest(manifest).entries)
    assert [one["readers"] for one in told["within"]] == [["ann"], ["bob"]]
