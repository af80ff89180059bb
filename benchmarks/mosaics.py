"""Builds runs of Siemens mosaics out of the few real ones: as alike as the volumes of a run are, and no two the same.

A volume is a copy of a real one in which those digits are others that differ between it and its neighbour: of the
instance UID, numbers, fractions of times, windows and the CSA image header. Its pixels are the real ones, moved on.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from tasks.dicom.elements import walk
from tasks.dicom.normalise import open_data_set

RUNS = (
    "dcm_qa_stc/In/Siemens/B17/6_ax_asc_35sl",
    "dcm_qa_stc/In/Siemens/B12/2_FMRI_AX_ASC",
    "dcm_qa_stc/In/Siemens/B13/4_fMRIcontin",
    "dcm_qa_stc/In/Siemens/D13/ep2d_Asc_2",
    "dcm_qa_stc/In/Siemens/D13/ep2d_Asc_HF_10",
)
"""Functional runs of which two or three volumes are there: 356 to 432 kB each, CSA headers in them."""

SOP_INSTANCE_UID = 0x00080018
PIXEL_DATA = 0x7FE00010
DIGITS = b"0123456789"


def dicom_files(folder: Path) -> list[Path]:
    """List the DICOM files of a series."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.read_bytes()[128:132] == b"DICM"]


def build_runs(data: Path, folder: Path, *, files: int) -> list[Path]:
    """Write so many volumes, as many of each run; the same bytes each time."""
    made = []
    share = -(-files // len(RUNS))
    for number, place in enumerate(RUNS):
        run = folder / f"run-{number}"
        run.mkdir(parents=True)
        first, second, *_ = (path.read_bytes() for path in dicom_files(data / place))
        for index, volume in enumerate(volumes(first, second, share)):
            path = run / f"{index:04d}.dcm"
            path.write_bytes(volume)
            made.append(path)
    return made[:files]


def volumes(first: bytes, second: bytes, count: int) -> Iterator[bytes]:
    """Make volumes of one and its neighbour."""
    chance = random.Random(count)
    places, uid, pixels = _varying(first, second)
    for number in range(count):
        volume = bytearray(first)
        for place in places:
            volume[place] = chance.choice(DIGITS)
        volume[pixels:] = first[pixels + 2 * number :] + first[pixels : pixels + 2 * number]
        new = uid[:-6] + b"%06d" % number
        yield bytes(volume).replace(uid, new)


def _varying(first: bytes, second: bytes) -> tuple[list[int], bytes, int]:
    """Return the offsets of digits that differ between volumes, the instance UID and the offset of the pixels."""
    places: list[int] = []
    uid, pixels = b"", 0
    for one, other in zip(_elements(first), _elements(second), strict=True):
        tag, vr, start, value = one
        if tag == PIXEL_DATA:
            pixels = start
        elif tag == SOP_INSTANCE_UID:
            uid = value.rstrip(b"\0")
        elif vr in ("DS", "IS", "TM", "OB") and len(value) == len(other[3]):
            # Else an hour might become the 31st.
            begin = value.find(b".") + 1 if vr == "TM" else 0
            digits = (at for at in range(begin, len(value)) if value[at] in DIGITS and other[3][at] in DIGITS)
            places += [start + at for at in digits if value[at] != other[3][at]]
    return places, uid, pixels


def _elements(content: bytes) -> list[tuple[int, str, int, bytes]]:
    data, start, _ = open_data_set(content)
    return [
        (element.tag, element.vr, element.value, data[element.value : element.end])
        for element in walk(data, start.offset, explicit=start.explicit)
    ]
