"""How fast headers are read for the index, beside pydicom, and dicomsdl where it is installed, on the same files.

Run: .venv/bin/python benchmarks/index.py --files 2000
"""

from __future__ import annotations

import importlib.util
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pydicom
from measure import ge_files, print_rates, rate, read_options
from pydicom.datadict import keyword_for_tag

from tasks.index.header import LAST_TAG, WANTED, read_header, read_headers
from tasks.index.row import IndexRow

KEYWORDS = [keyword_for_tag(tag) for tag in sorted(WANTED)]
FOLDERS = ("dcm_qa_enh", "dcm_qa_nih", "dcm_qa_philips", "dcm_qa_stc", "dcm_qa_uih")


def scanner_files(root: Path, limit: int) -> list[Path]:
    """Return files of GE, Philips, Siemens and UIH scanners, mixed; always the same ones in the same order."""
    found = []
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if path.is_file():
                with path.open("rb") as stream:
                    found += [path] if stream.read(132)[128:] == b"DICM" else []
    random.Random(1).shuffle(found)
    return found[:limit]


def read_alone(path: Path) -> None:
    row = read_header(os.fsencode(path.parent), os.fsencode(path.name))
    if not isinstance(row, IndexRow) or row.shared.slow_path:
        raise AssertionError("the walker must read these files")


def read_together(files: Sequence[Path]) -> Callable[[Path], None]:
    """Return an act that reads all the files at once, whatever file it is given."""
    folder = Path(os.path.commonpath(files))
    paths = [os.fsencode(path.relative_to(folder)) for path in files]

    def act(_: Path) -> None:
        rows = read_headers(os.fsencode(folder), paths)
        if not all(isinstance(row, IndexRow) and not row.shared.slow_path for row in rows):
            raise AssertionError("the walker must read these files")

    return act


def read_with_pydicom(path: Path) -> None:
    dataset = pydicom.dcmread(path, stop_before_pixels=True)
    [dataset.get(tag) for tag in WANTED]


def read_some_with_pydicom(path: Path) -> None:
    dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(WANTED))
    [dataset.get(tag) for tag in WANTED]


def open_with_dicomsdl(path: Path) -> None:
    import dicomsdl  # noqa: PLC0415 - a peer that need not be there

    dicomsdl.open(str(path), load_until=LAST_TAG + 1)


def read_with_dicomsdl(path: Path) -> None:
    import dicomsdl  # noqa: PLC0415

    dataset = dicomsdl.open(str(path), load_until=LAST_TAG + 1)
    for keyword in KEYWORDS:
        getattr(dataset, keyword, None)


def measure(title: str, files: Sequence[Path], rounds: int) -> None:
    """Time every reader on the same files."""
    some = files[:200]
    rates = {
        "pydicom": rate(read_with_pydicom, some, rounds=rounds),
        "pydicom, specific_tags": rate(read_some_with_pydicom, some, rounds=rounds),
    }
    if importlib.util.find_spec("dicomsdl"):
        rates["dicomsdl, values fetched"] = rate(read_with_dicomsdl, files, rounds=rounds)
        rates["dicomsdl, opened only"] = rate(open_with_dicomsdl, files, rounds=rounds)
    rates["scanward, one by one"] = rate(read_alone, files, rounds=rounds)
    # One act reads them all, so a turn stands for as many files.
    rates["scanward, together"] = rate(read_together(files), files[:1], rounds=2 * rounds) * len(files)
    print_rates(f"Reading the headers of {len(files)} {title}, one process", rates, "pydicom")
    if "dicomsdl, opened only" in rates:
        print(f"\nTimes dicomsdl, opened only: {rates['scanward, together'] / rates['dicomsdl, opened only']:.2f}")


def main() -> None:
    options = read_options("Measure the reading of headers.")
    alike = ge_files(options.files)
    measure("GE files", alike, options.rounds)
    root = alike[0].parents[4]
    measure("files of four makers, mixed", scanner_files(root, options.files), options.rounds)


if __name__ == "__main__":
    main()
