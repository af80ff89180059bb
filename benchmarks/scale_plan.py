"""How long the plan of a large study takes, and how much memory: simulated rows in an index, the product's own steps.

Nothing of it is on the disk but the index: what is measured is what one process does with the rows, which no number of
hosts makes faster. Each step runs in a process of its own, so that its peak of memory is its own.

Run: .venv/bin/python benchmarks/scale_plan.py --rows 10000000 (needs some 8 GB in the temporary folder, and 20 minutes)
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from measure import print_table

from pipelines.base import load_study
from pipelines.sort import PlanSort, SortStudy
from tasks.index.chunk import pack
from tasks.index.row import SHARED_FIELDS, FileStamp, IndexRow, SharedHeader
from tasks.receipt import write_receipt
from tasks.sort.store import SortStore
from tasks.worklist import chunk_size

SLICES = 200
SERIES_PER_STUDY = 10
STUDIES_PER_PATIENT = 4
CHUNK_FILES = 10_000
_ROOT = "1.2.826.0.1.3680043.8.498"
_SHUFFLE = 7_919
"""The order in which slices stand in a folder is not that of their numbers."""


def simulate(first: int, number: int) -> tuple[list[FileStamp], list[IndexRow]]:
    """Make the rows of some files: patients with studies of series of 200 slices, as a scanner's classic images are."""
    stamps, rows = [], []
    shared: SharedHeader | None = None
    for count in range(first, first + number):
        series, place = divmod(count, SLICES)
        study, series_number = divmod(series, SERIES_PER_STUDY)
        patient, visit = divmod(study, STUDIES_PER_PATIENT)
        if shared is None or not place:
            shared = header_of(patient, visit, study, series, series_number)
        slice_number = place * _SHUFFLE % SLICES + 1
        path = b"%04d/%08x.dcm" % (series % 5000, count)
        stamps.append(FileStamp(path, 140_000, 1_700_000_000_000_000_000 + count, 0, 1_000_000 + count))
        rows.append(
            IndexRow(
                path=path,
                shared=shared,
                sop_instance_uid=f"{_ROOT}.{series}.{slice_number}",
                instance_number=str(slice_number),
                acquisition_number="1",
                acquisition_time=f"1{place % 60:02d}{place % 60:02d}0.{place:06d}"[:13],
                acquisition_datetime="",
                image_position_patient=f"-100\\-100\\{slice_number}.0",
                number_of_frames="",
            )
        )
    return stamps, rows


def header_of(patient: int, visit: int, study: int, series: int, number: int) -> SharedHeader:
    """Make what the files of one series share."""
    day = f"20{10 + visit:02d}{1 + patient % 12:02d}{1 + patient % 28:02d}"
    values = dict.fromkeys(SHARED_FIELDS, "") | {
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.4",
        "study_instance_uid": f"{_ROOT}.1.{study}",
        "series_instance_uid": f"{_ROOT}.2.{series}",
        "patient_id": f"P{patient:07d}",
        "patient_name": f"SIMULATED^{patient:07d}",
        **dict.fromkeys(("study_date", "series_date", "acquisition_date", "content_date"), day),
        "study_time": "100000",
        "series_time": f"10{number:02d}00",
        "modality": "MR",
        "manufacturer": "SIMULATED",
        "image_type": "ORIGINAL\\PRIMARY\\M",
        "series_description": f"sequence {number}",
        "image_orientation_patient": "1\\0\\0\\0\\1\\0",
        "series_number": str(number + 1),
    }
    return SharedHeader(**values)


def all_stamps(rows: int) -> Iterator[FileStamp]:
    """Yield the stamps of all files, as a look at the dump does."""
    for first in range(0, rows, CHUNK_FILES):
        yield from simulate(first, min(CHUNK_FILES, rows - first))[0]


def take_in(study: Path, rows: int) -> dict[str, float]:
    """Have the index take in what chunks have read; the time for simulating that is not counted."""
    place = load_study(str(study), None, None)[1]
    size = chunk_size(CHUNK_FILES, rows)
    spent = 0.0
    with SortStore(place.index) as store:
        store.take_scan(all_stamps(0))
        store.expect(rows)
        for first in range(0, rows, size):
            parcel = pack(*simulate(first, min(size, rows - first)))
            begin = time.perf_counter()
            store.merge(f"chunk {first}", parcel)
            spent += time.perf_counter() - begin
        begin = time.perf_counter()
        store.finish_scan((), lambda *_: False)
        return {"merge what chunks read": spent, "finish the index": time.perf_counter() - begin}


def plan(study: Path, rows: int) -> dict[str, float]:
    """Plan the tree and write the tables of it, as `PlanSort` does."""
    task: Any = PlanSort(study=str(study))
    begin = time.perf_counter()
    gc.set_threshold(100_000, 20, 100)  # as every task has it
    task.work()
    spent = time.perf_counter() - begin
    receipt = task._receipt  # noqa: SLF001 - what would be written at the end of the stage
    assert receipt.counts["placed"] == rows, receipt.counts
    write_receipt(task.place.receipts, receipt)
    return {"plan": spent}


def list_chunks(study: Path, rows: int) -> dict[str, float]:
    """Write the work lists of the sort, as `SortStudy` does."""
    task: Any = SortStudy(study=str(study))
    folder = task.place.plans / "sort-simulated"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    begin = time.perf_counter()
    sizes = task._write_lists(folder)  # noqa: SLF001 - the step itself
    spent = time.perf_counter() - begin
    assert sum(sizes) == rows, sum(sizes)
    assert len(sizes) <= 501, len(sizes)
    return {"chunk lists": spent}


STEPS: tuple[Callable[[Path, int], dict[str, float]], ...] = (take_in, plan, list_chunks)


def in_its_own_process(
    step: Callable[[Path, int], dict[str, float]], study: Path, rows: int
) -> list[tuple[str, float, int]]:
    """Run a step in a fresh process, and return its parts with their seconds and the process's peak in bytes."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(step, study, rows, sender))
    process.start()
    sender.close()
    try:
        spent, peak = receiver.recv()
    except EOFError:
        process.join()
        sys.exit(f"{step.__name__} ended with {process.exitcode}")
    process.join()
    return [(name, seconds, peak) for name, seconds in spent.items()]


def _run(step: Callable[[Path, int], dict[str, float]], study: Path, rows: int, sender: Any) -> None:
    spent = step(study, rows)
    sender.send((spent, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


def measure(rows: int, folder: Path) -> list[tuple[str, float, int]]:
    """Measure all steps for so many rows."""
    (folder / "dump").mkdir()
    study = folder / "study.toml"
    study.write_text(f"dump = {json.dumps(str(folder / 'dump'))}\nworkspace = {json.dumps(str(folder / 'w'))}\n")
    return [row for step in STEPS for row in in_its_own_process(step, study, rows)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--rows", type=int, default=1_000_000, help="how many files the index knows (default 1,000,000)"
    )
    rows = parser.parse_args().rows
    folder = Path(tempfile.mkdtemp(prefix="scanward-scale-"))
    try:
        found = measure(rows, folder)
        size = os.stat(folder / "w" / "identified" / "index.db").st_size
    finally:
        shutil.rmtree(folder)
    print_table(
        f"{rows:,} rows, an index of {size / 1e9:.1f} GB",
        ("step", "seconds", "seconds a million rows", "peak MiB"),
        [(name, f"{s:.1f}", f"{s / rows * 1e6:.1f}", f"{peak / 2**20:,.0f}") for name, s, peak in found],
    )


if __name__ == "__main__":
    main()
