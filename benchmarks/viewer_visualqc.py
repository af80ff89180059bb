"""What VisualQC takes from one T1 image to the next; runs in VisualQC's own interpreter, for benchmarks/viewer.py.

Prints JSON: "next", the p95 in milliseconds from the end of one case to the picture of the next, over 6 cases.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import numpy as np
from visualqc import t1_mri

CASES = 6


def main(path: str) -> None:
    spent: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = [f"sub-{number:02d}" for number in range(CASES)]
        for one in names:
            (folder / "in" / one).mkdir(parents=True)
            shutil.copy(path, folder / "in" / one / "t1.nii.gz")
        (folder / "ids.txt").write_text("\n".join(names) + "\n")
        begin = [time.perf_counter()]

        def shown(self: t1_mri.RatingWorkflowT1) -> None:
            self.fig.canvas.draw()
            spent.append((time.perf_counter() - begin[0]) * 1000)
            begin[0] = time.perf_counter()

        t1_mri.RatingWorkflowT1.show_fig_and_wait = shown
        sys.argv = ["visualqc_t1_mri", "-u", str(folder / "in"), "-m", "t1.nii.gz", "-i", str(folder / "ids.txt")]
        sys.argv += ["-o", str(folder / "out"), "-old"]
        with contextlib.redirect_stdout(sys.stderr), contextlib.suppress(SystemExit):
            t1_mri.cli_run()
    print(json.dumps({"next": float(np.percentile(spent[1:], 95))}))


if __name__ == "__main__":
    main(sys.argv[1])
