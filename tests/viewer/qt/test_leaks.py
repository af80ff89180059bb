"""A long sitting takes no more memory at its end than at its beginning, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil
import pytest

from tasks.review.manifest import Manifest, merge_entries
from tasks.review.prepare import prepare_series
from tasks.review.ratings import open_store
from tasks.review.reading import ReadingProtocol
from tests.conftest import REPOSITORY
from tests.review import phantom
from viewer.prefetch import Loader
from viewer.session import Session

SERIES = 6
SHAPE = (48, 128, 128)
CACHE_BYTES = 16 << 20  # room for the case on screen and the three that come: memory is full from the start


def _study(released: Path, cases: int) -> Manifest:
    made = {}
    for number in range(SERIES):
        block = np.random.default_rng(number).integers(0, 900, SHAPE).astype(np.int16)
        slices = []
        for place, image in enumerate(block):
            dataset = phantom.mr_instance(image, number=place + 1)
            dataset.SOPInstanceUID = phantom.uid(number, place)
            dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
            dataset.ImagePositionPatient = [0, 0, 2 * place]
            dataset.PixelSpacing, dataset.SliceThickness = [1, 1], 2
            slices.append(dataset)
        made[f"SUB-{number:04d}/ses-1/001_a"] = slices
    entries = [prepare_series(released, one, released / "review") for one in phantom.release(released, made)]
    # The loader knows cases by their names: each of these is opened anew.
    copies = [replace(entries[number % SERIES], entry_id=f"CASE-{number:04d}") for number in range(cases)]
    return replace(merge_entries(entries), entries=tuple(copies))


def sit(folder: Path, cases: int) -> None:
    """Read cases in a window, one verdict each, and print what the process holds from time to time."""
    from viewer.qt.application import application
    from viewer.qt.reading import ReadingWindow

    running, me = application(), psutil.Process()
    manifest = _study(folder / "released", cases)
    facts = []
    before = {"files": me.num_fds(), "threads": threading.active_count()}

    def measure() -> None:
        facts.append({"rss": me.memory_info().rss, "files": me.num_fds(), "threads": me.num_threads()})

    store = open_store(
        folder / "ann.db",
        reader="ann",
        protocol=ReadingProtocol(),
        software="0",
        manifest_sha256="",
        now=lambda: datetime(2026, 3, 1, tzinfo=UTC),
        monotonic=time.monotonic,
    )
    with store, Loader(CACHE_BYTES) as loader:
        session = Session(manifest, store, ReadingProtocol(), reader="ann")
        session.resume()
        window = ReadingWindow(session, manifest, folder / "released" / "review", loader)
        window.show()
        while not session.is_finished:
            while window.display.is_empty:
                running.processEvents()
                time.sleep(0.001)
            for command in ("slice-up", "rotate-right", "window-next", "layout-lightbox", "layout-ortho"):
                assert window.run(command), command
                running.processEvents()
            if session.position % 20 == 19:
                measure()
            window.rate("accept")
            running.processEvents()
        window.close()
    del window
    running.processEvents()
    after = {"files": me.num_fds(), "threads": threading.active_count(), "children": len(me.children(recursive=True))}
    sys.stdout.write(json.dumps({"facts": facts, "before": before, "after": after}) + "\n")


@pytest.mark.parametrize("cases", [60, pytest.param(200, marks=pytest.mark.long)])
def test_memory_stays_and_nothing_is_left(cases: int, tmp_path: Path) -> None:
    segments = set(os.listdir("/dev/shm"))
    code = (
        f"from pathlib import Path; from tests.viewer.qt.test_leaks import sit; sit(Path({str(tmp_path)!r}), {cases})"
    )
    env = {**os.environ, "QT_QPA_PLATFORM": "offscreen", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    facts = told["facts"]
    assert facts[-1]["rss"] <= 1.05 * facts[0]["rss"], facts
    assert abs(facts[-1]["files"] - facts[0]["files"]) <= 3, facts
    assert {one["threads"] for one in facts} == {facts[0]["threads"]}
    assert told["after"]["children"] == 0
    assert told["after"]["threads"] == told["before"]["threads"]
    assert told["after"]["files"] <= told["before"]["files"] + 4, "what Qt keeps open once it runs"
    assert set(os.listdir("/dev/shm")) <= segments | {one for one in os.listdir("/dev/shm") if one.startswith("sem.")}
