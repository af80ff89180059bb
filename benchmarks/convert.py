"""What a conversion costs beside the bare converter on the same series in one run.

Ours is the whole way: nipype's workflow around dcm2niix, compressing with ISA-L, unpacking what was compressed as a
proof, and filtering the sidecars. Bare is dcm2niix alone, once with its own compression and once with none. CPU seconds
are those of this process and all it started.

Run: .venv/bin/python benchmarks/convert.py
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from dump import data_folder
from measure import print_table
from mosaics import dicom_files, volumes

from pipelines.deidentify import find_dcm2niix
from tasks.files import write_json
from tasks.review.convert import compress_image, convert_series, time_course
from tasks.review.sidecar import read_sidecar, released_sidecar

SERIES = {
    "structural, 160 files of 0.5 MB": "dcm_qa_uih/In/DTI_132225/t1_gre_fsp_3d_sag__132750",
    "diffusion, 680 files of 14 kB": "dcm_qa_philips/In/Vanderbilt_2018/601_WIP_dti_ax",
    "diffusion, 42 mosaics": "dcm_qa_stc/In/Siemens/B15/2_ep2d_DTI_20_dir_AP",
    "functional, 195 files of 13 kB": "dcm_qa_nih/In/20180918GE/mr_0004",
}

RUN = "dcm_qa_stc/In/Siemens/B17/6_ax_asc_35sl"
"""A functional run of mosaics, of which so many volumes are made as a run has."""

VOLUMES = 200


def bare(program: str, files: Sequence[Path], folder: Path, compressed: str) -> None:
    """Convert as a person would: dcm2niix on the folder of the files."""
    command = [program, "-z", compressed, "-ba", "n", "-f", "image", "-g", "i", "-o", folder, files[0].parent]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def ours(program: str, files: Sequence[Path], folder: Path) -> None:
    """Convert, compress and filter as the review does."""
    conversion = convert_series(files, folder / "work", program=program)
    assert conversion.outcome == "whole", conversion.reason
    for one in conversion.images:
        compress_image(one.image, folder / f"{one.image.name}.gz")
        if one.sidecar:
            write_json(folder / one.sidecar.name, released_sidecar(read_sidecar(one.sidecar)))


def spent(act: Callable[[Path], None]) -> tuple[float, float]:
    """Return the CPU and the wall seconds of one act in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="scanward-bench-") as name:
        wall, before = time.perf_counter(), sum(os.times()[:4])
        act(Path(name))
        return sum(os.times()[:4]) - before, time.perf_counter() - wall


def measure(program: str, files: Sequence[Path], rounds: int) -> tuple[list[str], list[str]]:
    """Time the three in turn; return a row of CPU seconds and one of wall seconds."""
    acts: dict[str, Callable[[Path], None]] = {
        "y": lambda folder: bare(program, files, folder, "y"),
        "n": lambda folder: bare(program, files, folder, "n"),
        "ours": lambda folder: ours(program, files, folder),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in acts}
    for number in range(rounds + 1):
        for name, act in acts.items():
            taken = spent(act)
            if number:  # the first warms up
                times[name].append(taken)
    rows = []
    for kind in (0, 1):
        seconds = {name: statistics.median(one[kind] for one in taken) for name, taken in times.items()}
        ratios = (
            statistics.median(mine[kind] / its[kind] for mine, its in zip(times["ours"], times[name], strict=True))
            for name in ("y", "n")
        )
        rows.append([*(f"{value:.2f}" for value in seconds.values()), *(f"{value:.2f}" for value in ratios)])
    return rows[0], rows[1]


def measure_course(program: str, files: Sequence[Path], rounds: int) -> list[str]:
    """Time nipype's measures over time on the run of 200 volumes."""
    with tempfile.TemporaryDirectory(prefix="scanward-bench-") as name:
        (one, *_) = convert_series(files, Path(name) / "work", program=program).images
        times = []
        for _ in range(rounds + 1):
            begin = time.perf_counter()
            time_course(one.image, Path(name) / "course")
            times.append(time.perf_counter() - begin)
    return [f"time course of {VOLUMES} volumes", f"{statistics.median(times[1:]):.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="how often each is timed; the median counts (default 3)")
    options = parser.parse_args()
    program = find_dcm2niix()
    if not program:
        sys.exit("dcm2niix is not installed: see the extra `conversion`.")
    data = data_folder()
    with tempfile.TemporaryDirectory(prefix="scanward-bench-") as name:
        run = []
        first, second, *_ = (path.read_bytes() for path in dicom_files(data / RUN))
        for number, volume in enumerate(volumes(first, second, VOLUMES)):
            run.append(Path(name) / f"{number:04d}.dcm")
            run[-1].write_bytes(volume)
        series = {f"functional, {VOLUMES} mosaics": run}
        series |= {title: dicom_files(data / place) for title, place in SERIES.items()}
        cpu, wall = [], []
        for title, files in series.items():
            one, other = measure(program, files, options.rounds)
            cpu.append([title, *one])
            wall.append([title, *other])
        columns = ("series", "dcm2niix -z y", "dcm2niix -z n", "scanward", "times -z y", "times -z n")
        print_table("Converting a series, CPU seconds", columns, cpu)
        print_table("Converting a series, seconds on the clock", columns, wall)
        print_table("Measuring", ("what", "seconds"), [measure_course(program, run, options.rounds)])


if __name__ == "__main__":
    main()
