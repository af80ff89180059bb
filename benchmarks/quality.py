"""How long the measures of an image take on one core, beside what nipype takes for a part of them, or mere reading.

Run: .venv/bin/python benchmarks/quality.py --rounds 5
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import nibabel
import numpy as np
from measure import print_table

from tasks.review.convert import time_course
from tasks.review.quality.mask import head_mask
from tasks.review.quality.measure import Maps, measure_image

EPI, T1 = (64, 64, 36, 200), (256, 256, 176)
MUST_EPI, MUST_T1 = 3.0, 2.0


def head(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Make a textured ellipsoid in noisy air."""
    chance = np.random.default_rng(seed)
    grid = np.meshgrid(*(np.linspace(-1, 1, size, dtype=np.float32) for size in shape[:3]), indexing="ij", sparse=True)
    inside = sum((axis / reach) ** 2 for axis, reach in zip(grid, (0.7, 0.8, 0.8), strict=True)) < 1
    signal = inside * (900 + 150 * np.sin(9 * grid[0]) + 100 * np.cos(11 * grid[1]))
    noise = chance.normal(0, 15, (2, *shape[:3])).astype(np.float32)
    return np.hypot(signal + noise[0], noise[1]).astype(np.int16)


def seconds(act: Callable[[], object], rounds: int) -> float:
    """Return the median time that an act takes, after one that is not counted."""
    spent = []
    for number in range(rounds + 1):
        begin = time.process_time()
        act()
        if number:
            spent.append(time.process_time() - begin)
    return statistics.median(spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        epi, t1, mask = folder / "epi.nii", folder / "t1.nii", folder / "mask.nii"
        run = np.stack([head(EPI, number) for number in range(EPI[3])], axis=-1)
        nibabel.save(nibabel.Nifti1Image(run, np.diag([3.3, 3.3, 4, 1])), epi)
        nibabel.save(nibabel.Nifti1Image(head(T1, 0), np.eye(4)), t1)
        nibabel.save(nibabel.Nifti1Image(head_mask(run.mean(axis=3)).astype(np.uint8), np.diag([3.3, 3.3, 4, 1])), mask)
        sidecar = {"PhaseEncodingDirection": "j-", "RepetitionTime": 2.0}

        def measure_run() -> None:
            over_time = time_course(epi, folder / "course")
            measure_image(epi, sidecar, maps=Maps(tsnr=over_time.tsnr, unsteady=over_time.unsteady))

        def measure_by_nipype() -> None:
            from nipype.algorithms.confounds import compute_dvars  # noqa: PLC0415 - a second to load

            compute_dvars(str(epi), str(mask))
            time_course(epi, folder / "course")

        ours, theirs = seconds(measure_run, rounds), seconds(measure_by_nipype, rounds)
        whole = seconds(lambda: measure_image(t1, {}), rounds)
        loaded = seconds(lambda: np.percentile(nibabel.load(t1).get_fdata(), (1, 50, 99)), rounds)
    print_table(
        "Measuring images on one core",
        ("image", "what", "CPU seconds", "times the peer", "must"),
        [
            ("EPI, 64 x 64 x 36 x 200", "all its measures", f"{ours:.2f}", f"{ours / theirs:.2f}", f"{MUST_EPI:.0f} s"),
            ("", "nipype's DVARS and TSNR alone", f"{theirs:.2f}", "1.00", ""),
            ("T1, 256 x 256 x 176", "all its measures", f"{whole:.2f}", f"{whole / loaded:.2f}", f"{MUST_T1:.0f} s"),
            ("", "nibabel's get_fdata and three percentiles", f"{loaded:.2f}", "1.00", ""),
        ],
    )


if __name__ == "__main__":
    main()
