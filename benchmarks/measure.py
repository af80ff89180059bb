"""What the measurements share: where the files are, how a run is timed, how a table is printed.

Times are CPU seconds of one process, best of several rounds, and every measurement runs beside its peers in one run,
because the machines are noisy: believe the ratios, not the figures.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path


def ge_files(limit: int) -> list[Path]:
    """Return GE EPI files of the public set siemens_ge_epi: about 25 kB and 360 elements each."""
    root = os.environ.get("SCANWARD_TEST_DATA")
    if root is None:
        shared = Path(__file__).resolve().parents[2] / "shared" / "data" / "unpack"
        if not shared.exists():
            sys.exit("The scanner data are not here: set SCANWARD_TEST_DATA to the folder with dcm_qa_nih in it.")
        root = str(Path(tempfile.gettempdir()) / "scanward-bench-data")
        subprocess.run([shared, root], check=True)
    files = sorted(Path(root).glob("dcm_qa_nih/In/20180918GE/*/*.dcm"))
    if not files:
        sys.exit(f"There is no dcm_qa_nih in {root}.")
    return files[:limit]


def rate(act: Callable[[Path], object], files: Sequence[Path], *, rounds: int) -> float:
    """Return files a CPU second, best of some rounds after one to warm up on a tenth of the files."""
    for file in files[: max(1, len(files) // 10)]:
        act(file)
    best = 0.0
    for _ in range(rounds):
        begin = time.process_time()
        for file in files:
            act(file)
        best = max(best, len(files) / (time.process_time() - begin))
    return best


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table whose first column is text and whose other columns are numbers."""
    print(f"\n{title}\n")
    print(f"| {' | '.join(columns)} |")
    print(f"| --- |{' ---: |' * (len(columns) - 1)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    sys.stdout.flush()


def print_rates(title: str, rates: dict[str, float], peer: str) -> None:
    """Print the rates, and each as a multiple of one peer's."""
    rows = [(name, f"{value:,.0f}", f"{value / rates[peer]:.1f}") for name, value in rates.items()]
    print_table(title, ("what", "files a CPU second", f"times {peer}"), rows)


def read_options(description: str) -> argparse.Namespace:
    """Read the options that all measurements have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--files", type=int, default=200, help="how many files (default 200)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is timed; the best counts (default 3)")
    return parser.parse_args()
