"""The command itself, in a window on a real X display, read with keys that the display presses."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.review.manifest import merge_entries, write_manifest
from tasks.review.prepare import prepare_series
from tasks.review.ratings import read_events, standing, verify_store
from tests.conftest import REPOSITORY
from tests.review import phantom

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


def test_cases_are_read_with_real_keys(display: str, program: Callable[[str], str], tmp_path: Path) -> None:
    xdotool = program("xdotool")
    released = tmp_path / "released"
    made = {}
    for number in range(CASES):
        slices = phantom.instances(phantom.ALL_STORAGES[number])
        for dataset in slices:
            dataset.SOPInstanceUID = phantom.uid(number, dataset.InstanceNumber)
        made[f"SUB-{number:04d}/ses-1/001_a"] = slices
    folders = phantom.release(released, made)
    manifest = released / "review" / "manifest.json"
    entries = [prepare_series(released, one, released / "review") for one in folders]
    write_manifest(manifest, merge_entries(entries))
    store = released / "review" / "ratings" / "ann.db"
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("QT_")},
        "DISPLAY": display,
        "PYTHONPATH": str(REPOSITORY),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "XDG_RUNTIME_DIR": str(tmp_path),
    }

    def key(*names: str) -> None:
        subprocess.run([xdotool, "key", "--clearmodifiers", *names], env=env, check=True)

    words = [sys.executable, "-m", "viewer", "review", manifest, "--reviewer", "ann", "--json"]
    with subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as viewer:
        try:
            deadline = time.monotonic() + WAIT_S
            found = subprocess.run(
                [xdotool, "search", "--sync", "--onlyvisible", "--name", "scanward"],
                env=env, check=True, capture_output=True, text=True, timeout=WAIT_S,
            )  # fmt: skip
            subprocess.run([xdotool, "windowfocus", "--sync", found.stdout.split()[-1]], env=env, check=False)
            while (done := _verdicts(store)) < CASES:
                assert time.monotonic() < deadline, f"{done} verdicts came down"
                assert viewer.poll() is None
                key("Up", "Prior", "bracketright", "1")
                time.sleep(0.2)
            key("ctrl+q")
            out, _ = viewer.communicate(timeout=WAIT_S)
        finally:
            viewer.kill()
    assert viewer.returncode == 0, out
    assert f"{CASES} of {CASES} cases have a verdict" in out
    assert verify_store(store).is_sound
    events = read_events(store)
    assert [event.case for event in events if event.kind == "rate"] == sorted(entry.entry_id for entry in entries)
    assert all(event.view["slices_seen"] for event in events if event.kind == "rate")
    assert events[-1].kind == "close"
