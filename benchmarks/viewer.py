"""How long a reader waits: for the next case, for a slice, for contrast, for a cut, for the first picture.

Run: xvfb-run -a -s "-screen 0 1600x1000x24" .venv/bin/python benchmarks/viewer.py
Peers stand beside it when their interpreters are given: --napari DIR/bin/python --visualqc DIR/bin/python
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
if not os.environ.get("DISPLAY"):
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import nibabel
import numpy as np
from measure import print_table
from quality import head

from tasks.review.manifest import Manifest, merge_entries
from tasks.review.prepare import prepare_series
from tasks.review.ratings import open_store
from tasks.review.reading import ReadingProtocol
from tests.review import phantom
from viewer.display import Display, Habits, Shown
from viewer.image import from_memory
from viewer.prefetch import Loader
from viewer.session import Session
from viewer.windowing import measure

SERIES = (256, 256, 176)
LARGE = (512, 512, 600)
RUN = (64, 64, 36, 200)
STUDY = 3600
"""Images in the study of the talk: 400 patients, three scans, three visits."""

MUST = {
    "next case, read ahead, first picture of three planes": 50.0,
    "slice step, three planes and cut": 8.0,
    "contrast drag, three planes and cut": 8.0,
    "oblique drag, 512 x 512 x 600": 16.0,
    "longest stall while reading ahead": 25.0,
}

_COLD = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
import viewer.__main__
from viewer.qt import application, picture_widget
painted = picture_widget.PictureWidget.paintEvent
def first(self, event):
    painted(self, event)
    if self._image is not None:
        application.QtCore.QTimer.singleShot(0, application.QtWidgets.QApplication.instance().quit)
picture_widget.PictureWidget.paintEvent = first
sys.exit(viewer.__main__.main(["view", {path!r}]))
"""

_MEMORY = """
import re, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from viewer.opening import open_images
from viewer.windowing import measure
import nibabel, numpy
from viewer.display import Display, Shown
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
before = peak()
if {peer}:
    data = nibabel.load({path!r}).get_fdata()
else:
    image = open_images(Path({path!r}))[0]
    display = Display()
    display.show([Shown(image=image, statistics=measure(image))])
    for plane in ("axial", "coronal", "sagittal"):
        display.picture(plane)
    display.course()
print(peak() - before)
"""


def p95(values: list[float]) -> float:
    """Return the value that 95 of 100 do not exceed."""
    return float(np.percentile(values, 95))


def series(folder: Path, cases: int) -> tuple[Manifest, Path]:
    """Write a study of T1-like DICOM series, one file a slice, and its manifest."""
    block = head(SERIES, 1)
    made = []
    for case in range(cases):
        name = f"SUB-{case + 1:04d}/ses-1/001_a"
        datasets = []
        for number in range(SERIES[2]):
            dataset = phantom.mr_instance(
                np.ascontiguousarray(np.roll(block[:, :, number], case, axis=0)), number=number + 1
            )
            dataset.SOPInstanceUID = phantom.uid(case, number)
            dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
            dataset.ImagePositionPatient = [-128, -128, number - 88]
            dataset.PixelSpacing, dataset.SliceThickness = [1, 1], 1
            datasets.append(dataset)
        made += phantom.release(folder / "released", {name: datasets})
    review = folder / "released" / "review"
    return merge_entries([prepare_series(folder / "released", one, review) for one in made]), review


def timed(acts: list[Callable[[], None]], running: Any) -> list[float]:
    """Return the milliseconds from each act until its picture is painted."""
    spent = []
    for act in acts:
        begin = time.perf_counter()
        act()
        running.processEvents()
        spent.append((time.perf_counter() - begin) * 1000)
    return spent


def reading(manifest: Manifest, review: Path, dwell_s: float) -> tuple[list[float], float]:
    """Read every case with the keys, stepping slices; return the waits and the longest stall, in milliseconds."""
    from viewer.qt.application import application  # noqa: PLC0415 - the platform is chosen first
    from viewer.qt.reading import ReadingWindow  # noqa: PLC0415

    running = application()
    with tempfile.TemporaryDirectory() as name, Loader(1 << 30) as loader:
        store = open_store(
            Path(name) / "reader.db",
            reader="reader",
            protocol=ReadingProtocol(),
            software="",
            manifest_sha256="",
            now=lambda: datetime.now(UTC),
            monotonic=time.monotonic,
        )
        session = Session(manifest, store, ReadingProtocol(), reader="reader")
        session.resume()
        window = ReadingWindow(session, manifest, review, loader)
        window.show()
        stalls = []
        while not session.is_finished:
            until = time.monotonic() + dwell_s
            while time.monotonic() < until or window.display.is_empty:
                begin = time.perf_counter()
                if not window.display.is_empty:
                    window.run("slice-up" if int(time.monotonic()) % 2 else "slice-down")
                running.processEvents()
                stalls.append((time.perf_counter() - begin) * 1000)
                time.sleep(0.01)
            window.rate("accept")
            running.processEvents()
        waits = window.waits
        window.close()
        store.close()
    # The very first case cannot be read ahead: what it takes is the cold start.
    return waits[1:], max(stalls[20:])


def window_times(rounds: int) -> dict[str, float]:
    """Return the p95 of a slice step, a contrast drag and an oblique drag, in milliseconds."""
    from viewer.qt.application import application  # noqa: PLC0415
    from viewer.qt.main_window import MainWindow  # noqa: PLC0415

    running = application()
    window = MainWindow(Display(Habits()))
    window.show()
    image = from_memory(head(SERIES, 2).T[None], affine=np.eye(4))
    window.show_images([Shown(image=image, statistics=measure(image))])
    for _ in range(20):
        running.processEvents()
    window.run("rotate-right")
    steps = timed([lambda: window.run("slice-up")] * rounds + [lambda: window.run("slice-down")] * rounds, running)
    levels = [
        (lambda low=number: window.histogram.moved.emit(float(low), float(900 + low))) for number in range(2 * rounds)
    ]
    contrast = timed(levels, running)
    large = from_memory(np.tile(head((64, 64, 75), 3).T, (8, 8, 8))[None], affine=np.diag([0.5, 0.5, 0.4, 1.0]))
    assert large.shape == LARGE
    window.show_images([Shown(image=large, statistics=measure(large))])
    window.run("layout-oblique")
    running.processEvents()
    turns = [lambda: window.run("rotate-right"), lambda: window.run("tilt-up")] * rounds
    cut = timed(turns, running)
    full = []
    for _ in range(10):
        window.run("rotate-right")
        begin = time.perf_counter()
        window.planes.settle()
        running.processEvents()
        full.append((time.perf_counter() - begin) * 1000)
    window.close()
    return {
        "slice step, three planes and cut": p95(steps),
        "contrast drag, three planes and cut": p95(contrast),
        "oblique drag, 512 x 512 x 600": p95(cut),
        "the same, in full once nothing moves": p95(full),
    }


def run_code(code: str) -> tuple[float, str]:
    """Return the seconds that a fresh interpreter takes for some code, and what it printed."""
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return time.perf_counter() - begin, done.stdout


def ask_peer(interpreter: str | None, script: str, *words: str) -> dict[str, float]:
    """Run a peer's script with the interpreter it is installed in; nothing if there is none."""
    if interpreter is None:
        return {}
    path = Path(__file__).with_name(script)
    done = subprocess.run([interpreter, path, *words], check=False, capture_output=True, text=True)
    if done.returncode:
        print(f"{script} did not run: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return {}
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--dwell", type=float, default=1.5, help="seconds a case is looked at")
    parser.add_argument("--napari", help="an interpreter that has napari")
    parser.add_argument("--visualqc", help="an interpreter that has VisualQC")
    given = parser.parse_args()
    root = str(Path(__file__).resolve().parents[1])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest, review = series(folder, given.cases)
        waits, stall = reading(manifest, review, given.dwell)
        found = {
            "next case, read ahead, first picture of three planes": p95(waits),
            **window_times(given.rounds),
            "longest stall while reading ahead": stall,
        }
        one = folder / "released" / "export" / "SUB-0001" / "ses-1" / "001_a"
        cold = [run_code(_COLD.format(root=root, path=str(one)))[0] for _ in range(5)]
        run = folder / "run.nii.gz"
        epi = np.stack([head(RUN[:3], number) for number in range(RUN[3])], axis=-1)
        nibabel.save(nibabel.Nifti1Image(epi, np.diag([3.3, 3.3, 4, 1])), run)
        ours = float(run_code(_MEMORY.format(root=root, path=str(run), peer=False))[1]) / epi.nbytes
        theirs = float(run_code(_MEMORY.format(root=root, path=str(run), peer=True))[1]) / epi.nbytes
        volume = folder / "t1.nii.gz"
        nibabel.save(nibabel.Nifti1Image(head(SERIES, 1), np.eye(4)), volume)
        napari = ask_peer(given.napari, "viewer_napari.py", str(volume))
        visualqc = ask_peer(given.visualqc, "viewer_visualqc.py", str(volume))
    peers = {
        "next case, read ahead, first picture of three planes": visualqc.get("next"),
        "slice step, three planes and cut": napari.get("step"),
        "contrast drag, three planes and cut": napari.get("contrast"),
    }

    def row(what: str, value: str, must: str, peer: float | None, unit: str = "ms") -> tuple[str, str, str, str]:
        return what, value, must, f"{peer:,.0f} {unit}" if peer is not None else "-"

    rows = [
        row(what, f"{value:.1f} ms", f"{MUST[what]:.0f} ms" if what in MUST else "-", peers.get(what))
        for what, value in found.items()
    ]
    first = napari.get("first")
    rows += [
        row("cold start to first picture, 176 DICOM files, median", f"{np.median(cold):.2f} s", "1.5 s", first, "ms"),
        row("memory of a 4D run as multiples of its voxels", f"{ours:.2f}", "1.5", theirs, "(nibabel's get_fdata)"),
    ]
    each = float(np.mean(waits))
    waited = None if "next" not in visualqc else visualqc["next"] * STUDY / 60_000
    rows.append(
        row(f"waiting in a study of {STUDY:,} images", f"{each * STUDY / 60_000:.1f} min", "3 min", waited, "min")
    )
    print_table(
        f"The viewer, 1500 x 900, {os.environ.get('QT_QPA_PLATFORM', 'an X display')}; p95 where not said otherwise",
        ("what", "takes", "must", "peer"),
        rows,
    )


if __name__ == "__main__":
    main()
