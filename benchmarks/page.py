"""How long the study's page takes to be built and to open in Chromium, beside a plain table of the same cases.

The peer is what a page without care is: one static table with a row a case and every thumbnail in it at once. Both
show the same cases and the same thumbnails; each opens several times in a browser of its own, from `file://`.

Run: .venv/bin/python benchmarks/page.py --cases 3600
"""

from __future__ import annotations

import argparse
import html
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from measure import print_table

from tasks.review.finding import finding
from tasks.review.geometry import Geometry
from tasks.review.page import PageCase, PageImage, write_page
from tasks.review.plane import Plane
from tasks.review.thumbnail import compose_thumbnail
from tasks.review.volume import Volume
from tests.review.browser import Browser, browser

KINDS = (
    ("anat/T1w", "MR 3D GR\\IR TR 2300 TE 2.98 TI 900, 176 slices"),
    ("func/task-rest_bold", "MR 2D EP TR 2000 TE 30, 36 slices x 200 volumes"),
    ("dwi/dwi", "MR 2D EP\\SE TR 8000 TE 89 b 0/1000, 60 slices x 42 volumes"),
)
VISITS = ("ses-20230312", "ses-20240318", "ses-20250401")
MUST_BUILD, MUST_OPEN = 60.0, 2.0


def study(cases: int) -> list[PageCase]:
    """Make as many cases as a study of three visits and three series each has; some have faults or stand out."""
    made = []
    for number in range(cases):
        kind, description = KINDS[number % 3]
        subject, visit = f"SUB-{number // 9 + 1:04d}", VISITS[number // 3 % 3]
        series = f"{200 + 100 * (number % 3):06d}_{number * 2654435761 % (1 << 32):08x}"
        entry_id = f"{subject}_{visit}_{series}"
        fault = finding("gap", "Slices are missing between 3 pairs of neighbours.", ["000012_1234abcd.dcm"])
        made.append(
            PageCase(
                entry_id=entry_id,
                subject=subject,
                visit=visit,
                series=series,
                modality="MR",
                description=description,
                kind=kind,
                verdict="volume",
                is_complete=number % 40 != 0,
                faults=(fault,) if number % 25 == 0 else (),
                images=(
                    PageImage(name=f"{kind.partition('/')[0]}/{entry_id}", named_by="rule", shape=(64, 64, 36, 200)),
                ),
                flags=("DVARS is 41.2, far above the 22.4 that is usual here.",) if number % 15 == 0 else (),
                metrics=tuple((f"metric {one}", f"{number * one % 997 / 10}") for one in range(12)),
                montage=f"montage/{entry_id}.png",
                thumbnail=f"thumbnail/{entry_id}.png",
                course=f"course/{entry_id}.png" if number % 3 else None,
            )
        )
    return made


def thumbnails(folder: Path, cases: Sequence[PageCase], kinds: int = 50) -> tuple[float, int]:
    """Write every case's thumbnail, of some different noisy heads; return seconds to compose one, and all bytes."""
    y, x = np.mgrid[-1:1:96j, -1:1:96j]
    contents, seconds = [], []
    for seed in range(kinds):
        chance = np.random.default_rng(seed)
        images = [
            ((x**2 + y**2 < 0.8 - (z / 20) ** 2) * 800 + chance.normal(40, 25, x.shape)).astype(np.int16)
            for z in np.linspace(-12, 12, 36)
        ]
        begin = time.perf_counter()
        contents.append(compose_thumbnail(_volume(images)))
        seconds.append(time.perf_counter() - begin)
    (folder / "thumbnail").mkdir(parents=True)
    for number, case in enumerate(cases):
        (folder / str(case.thumbnail)).write_bytes(contents[number % kinds])
    return statistics.median(seconds), sum(len(contents[number % kinds]) for number in range(len(cases)))


def _volume(images: Sequence[np.ndarray]) -> Volume:
    planes = tuple(
        Plane(
            source="",
            file=number,
            rows=image.shape[0],
            columns=image.shape[1],
            orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
            position=(0.0, 0.0, 4.0 * number),
            pixel_spacing=(2.3, 2.3),
        )
        for number, image in enumerate(images)
    )
    return Volume(array=None, images=tuple(images), planes=planes, geometry=Geometry(verdict="volume"), count=1)


def write_plain(path: Path, cases: Sequence[PageCase]) -> None:
    """Write the peer: all rows, all pictures."""
    rows = "".join(
        "<tr>"
        + "".join(f"<td>{html.escape(text)}</td>" for text in (case.subject, case.visit, case.kind, case.description))
        + f"<td>{case.verdict}</td><td>{', '.join(one.code for one in case.faults)}</td>"
        + f'<td><img src="{case.thumbnail}" width="96" alt=""></td></tr>\n'
        for case in cases
    )
    path.write_text(f"<!DOCTYPE html><meta charset=utf-8><title>Review</title><table>{rows}</table>", "utf-8")


def open_page(driven: Browser, path: Path) -> tuple[float, float]:
    """Open a page; return seconds until its load is done and it is drawn, and until a case shows behind its beginning.

    The clock runs outside of the browser, so that everything counts: reading, parsing, running, laying out, drawing.
    """
    driven.open("about:blank")
    begin = time.perf_counter()
    driven.open(path.as_uri())
    driven.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    drawn = time.perf_counter() - begin
    begin = time.perf_counter()
    driven.run(
        "new Promise(done => { const box = document.getElementById('scroller') ?? document.documentElement;"
        " box.scrollTop = 1e9; requestAnimationFrame(() => requestAnimationFrame(done)); })"
    )
    return drawn, time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cases", type=int, default=3600, help="how many cases (default 3600)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each page is opened (default 5)")
    options = parser.parse_args()
    program = shutil.which("chromium")
    if program is None:
        sys.exit("Chromium is not installed.")
    with tempfile.TemporaryDirectory(prefix="scanward-bench-") as name:
        folder = Path(name)
        cases = study(options.cases)
        composing, size = thumbnails(folder, cases)
        pages = {"scanward": folder / "index.html", "plain table, all pictures": folder / "plain.html"}
        building = []
        for _ in range(options.rounds):
            begin = time.perf_counter()
            write_page(pages["scanward"], cases, study="TRIAL-7")
            building.append(time.perf_counter() - begin)
        write_plain(pages["plain table, all pictures"], cases)
        rows, opened = [], {}
        for label, path in pages.items():
            times = []
            for number in range(options.rounds):
                profile = folder / f"profile-{len(rows)}-{number}"
                profile.mkdir()
                with browser(program, profile) as driven:
                    times.append(open_page(driven, path))
                    asked = len({one for one in driven.requests if one.endswith(".png")})
            drawn, scrolled = (statistics.median(one[part] for one in times) for part in range(2))
            opened[label] = drawn
            slowest = max(one[0] for one in times)
            figures = (f"{drawn:.2f}", f"{slowest:.2f}", f"{scrolled * 1000:.0f}", f"{asked:,}")
            rows.append((label, f"{os.path.getsize(path):,}", *figures))
    built = statistics.median(building)
    print_table(
        f"Opening a page of {options.cases:,} cases in a fresh Chromium, median of {options.rounds}",
        ("page", "bytes", "seconds until drawn", "slowest", "ms to the last row", "pictures read"),
        rows,
    )
    print_table(
        "What must be reached",
        ("measure", "must reach", "measured", "reached"),
        [
            (
                f"page for {options.cases:,} cases built, thumbnails being there",
                f"{MUST_BUILD:.0f} s",
                f"{built:.2f} s",
                "yes" if built < MUST_BUILD else "no",
            ),
            (
                "page opened",
                f"{MUST_OPEN:.0f} s",
                f"{opened['scanward']:.2f} s",
                "yes" if opened["scanward"] < MUST_OPEN else "no",
            ),
        ],
    )
    print(f"\nA thumbnail takes {composing * 1000:.1f} ms and {size / options.cases:,.0f} bytes on average.")


if __name__ == "__main__":
    main()
