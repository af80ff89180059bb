"""How fast headers are read for the index, beside pydicom on the same files.

Run: .venv/bin/python benchmarks/index.py
"""

from __future__ import annotations

import os
from pathlib import Path

import pydicom
from measure import ge_files, print_table, rate, read_options

from tasks.index.header import WANTED, read_header
from tasks.index.row import IndexRow


def index_file(path: Path) -> None:
    row = read_header(os.fsencode(path.parent), os.fsencode(path.name))
    if not isinstance(row, IndexRow) or row.slow_path:
        raise AssertionError("the walker must read these files")


def read_with_pydicom(path: Path) -> None:
    dataset = pydicom.dcmread(path, stop_before_pixels=True)
    [dataset.get(tag) for tag in WANTED]


def read_some_with_pydicom(path: Path) -> None:
    dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(WANTED))
    [dataset.get(tag) for tag in WANTED]


def main() -> None:
    options = read_options("Measure the reading of headers.")
    files = ge_files(options.files)
    peers = {
        "pydicom": read_with_pydicom,
        "pydicom, specific_tags": read_some_with_pydicom,
        "scanward": index_file,
    }
    rates = {name: rate(act, files, rounds=options.rounds) for name, act in peers.items()}
    print_table(f"Reading the headers of {len(files)} GE files, one process", rates, "pydicom")


if __name__ == "__main__":
    main()
