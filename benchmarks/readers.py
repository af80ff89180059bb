"""Reads the headers of listed files with one library, in a process of its own, and says how long that took.

Each reader delivers the twelve values that sorting needs, as text; scanward delivers its whole index row. A library may
crash on a file: then only this process does. `sort.py` runs it: readers.py NAME LIST, where LIST holds one path a line.
It prints one line of JSON: CPU and wall seconds without the imports, and how many different SOP Instance UIDs came out.
"""

# ruff: noqa: PLC0415 - each process loads the one library that it measures

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence

KEYWORDS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyDate",
    "Modality",
    "ImageType",
    "SeriesDescription",
    "PatientID",
    "EchoNumbers",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "InstanceNumber",
)
"""What sorting needs, in the order of the tags."""

LAST_TAG = 0x00200013
WARM_UP = 50
"""Files that are read before the clock starts."""

CHUNK = 500
"""How many paths scanward is handed at once, as by its own workers."""

Reader = Callable[[Sequence[str]], Iterable[str]]
"""Reads files and gives the SOP Instance UID of each."""


def prepare_scanward() -> Reader:
    from tasks.index.header import read_headers
    from tasks.index.row import Container, Reject

    def read(paths: Sequence[str]) -> Iterable[str]:
        folder = os.fsencode(os.path.commonpath([os.path.dirname(path) for path in paths]))
        relative = [os.fsencode(path)[len(folder) + 1 :] for path in paths]
        for begin in range(0, len(relative), CHUNK):
            for row in read_headers(folder, relative[begin : begin + CHUNK]):
                if isinstance(row, Reject | Container):
                    raise SystemExit("each of these files has a header")
                yield row.sop_instance_uid

    return read


def prepare_pydicom() -> Reader:
    import pydicom

    def read(paths: Sequence[str]) -> Iterable[str]:
        for path in paths:
            dataset = pydicom.dcmread(path, stop_before_pixels=True)
            values = [str(dataset.get(keyword, "")) for keyword in KEYWORDS]
            yield values[1]

    return read


def prepare_pydicom_partial() -> Reader:
    from pydicom.datadict import tag_for_keyword
    from pydicom.filereader import read_partial
    from pydicom.tag import BaseTag, Tag

    tags: list[BaseTag | int] = [Tag(tag_for_keyword(keyword) or 0) for keyword in KEYWORDS]

    def is_past(tag: int, _vr: str | None, _length: int) -> bool:
        return tag > LAST_TAG

    def read(paths: Sequence[str]) -> Iterable[str]:
        for path in paths:
            with open(path, "rb") as file:
                dataset = read_partial(file, stop_when=is_past, specific_tags=tags)
            values = [str(dataset.get(keyword, "")) for keyword in KEYWORDS]
            yield values[1]

    return read


def prepare_gdcm() -> Reader:
    import gdcm  # type: ignore[import-not-found]
    from pydicom.datadict import tag_for_keyword

    numbers = [tag_for_keyword(keyword) or 0 for keyword in KEYWORDS]
    tags = [gdcm.Tag(number >> 16, number & 0xFFFF) for number in numbers]

    def read(paths: Sequence[str]) -> Iterable[str]:
        scanner = gdcm.Scanner()
        for tag in tags:
            scanner.AddTag(tag)
        if not scanner.Scan(gdcm.FilenamesType(paths)):
            raise SystemExit("each of these files has a header")
        for path in paths:
            values = [scanner.GetValue(path, tag) for tag in tags]
            yield values[1]

    return read


def prepare_dicomsdl(*, until: int) -> Reader:
    import dicomsdl  # type: ignore[import-not-found]

    def read(paths: Sequence[str]) -> Iterable[str]:
        for path in paths:
            dataset = dicomsdl.open_file(path, load_until=until)
            values = [str(getattr(dataset, keyword, "")) for keyword in KEYWORDS]
            yield values[1]

    return read


def prepare_raw() -> Reader:
    def read(paths: Sequence[str]) -> Iterable[str]:
        for path in paths:
            descriptor = os.open(path, os.O_RDONLY)
            os.read(descriptor, 8192)
            os.close(descriptor)
            yield path

    return read


READERS: dict[str, Callable[[], Reader]] = {
    "scanward": prepare_scanward,
    "dicomsdl, up to the last value": lambda: prepare_dicomsdl(until=LAST_TAG + 1),
    "dicomsdl": lambda: prepare_dicomsdl(until=0xFFFFFFFF),
    "python-gdcm Scanner": prepare_gdcm,
    "pydicom read_partial": prepare_pydicom_partial,
    "pydicom": prepare_pydicom,
    "8 KiB of each, nothing read out of them": prepare_raw,
}


def main() -> None:
    name, listing = sys.argv[1:]
    with open(listing, encoding="utf-8") as file:
        paths = file.read().splitlines()
    read = READERS[name]()
    # The warm-up takes the last ones, so that on cold pages nothing is warmed that counts.
    list(read(paths[-WARM_UP:]))
    paths = paths[:-WARM_UP]
    wall, cpu = time.perf_counter(), time.process_time()
    uids = list(read(paths))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(json.dumps({"files": len(paths), "distinct": len(set(uids)), "cpu": cpu, "wall": wall}))


if __name__ == "__main__":
    main()
