"""Builds a large dump out of few real scanner files: new UIDs, patients, dates and numbers, and the rest is real.

Each real file is taken apart once; after that a new file is a copy of it with a dozen places overwritten, so that
100,000 files take seconds. The same seed gives the same names and bytes.

What is not as a scanner leaves it: of each image the middle 32 x 32 pixels are kept (Rows, Columns and the length say
so), so that the dump fits a laptop; patient id and name, instance and series number have one fixed width; references to
other images, the frame of reference and the times still name the real ones.

Run: .venv/bin/python benchmarks/dump.py FOLDER
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from measure import ge_files

from tasks.dicom.elements import LONG_LENGTH_VRS, walk

SHARES = {
    "GE": (0.40, ("dcm_qa_nih/In/20180918GE", "dcm_qa_stc/In/GE")),
    "Philips": (0.25, ("dcm_qa_philips/In",)),
    "UIH": (0.20, ("dcm_qa_uih/In", "dcm_qa_stc/In/UIH")),
    "Siemens, mosaic": (0.15, ("dcm_qa_nih/In/20180918Si", "dcm_qa_stc/In/Siemens")),
}
"""Scanner to its part of the dump, and where its files lie in the real data, which have no Siemens single slices."""

CLASSIC_MR = b"1.2.840.10008.5.1.4.1.1.4"
EXPLICIT_LITTLE_ENDIAN = b"1.2.840.10008.1.2.1"
KEPT_EDGE = 32
"""Pixels of each row and column that are kept."""

SERIES_FILES = (30, 300)
STUDY_SERIES = (4, 10)
FILES_A_FOLDER = 1000

MEDIA_SOP_INSTANCE_UID = 0x00020003
TRANSFER_SYNTAX_UID = 0x00020010
SOP_CLASS_UID = 0x00080016
SOP_INSTANCE_UID = 0x00080018
DATES = (0x00080020, 0x00080021, 0x00080022, 0x00080023)  # of study, series, acquisition, content
PATIENT_NAME = 0x00100010
PATIENT_ID = 0x00100020
STUDY_INSTANCE_UID = 0x0020000D
SERIES_INSTANCE_UID = 0x0020000E
SERIES_NUMBER = 0x00200011
INSTANCE_NUMBER = 0x00200013
IMAGE_POSITION_PATIENT = 0x00200032
SAMPLES_PER_PIXEL, ROWS, COLUMNS, BITS_ALLOCATED = 0x00280002, 0x00280010, 0x00280011, 0x00280100
PIXEL_DATA = 0x7FE00010

WIDTHS = {PATIENT_NAME: (b"PN", 12), PATIENT_ID: (b"LO", 8), SERIES_NUMBER: (b"IS", 4), INSTANCE_NUMBER: (b"IS", 4)}
"""What gets a width of its own, so that any number fits: its VR and how many bytes."""

WRITTEN_NS = 1_600_000_000_000_000_000
"""When all files were last changed, in nanoseconds since 1970: long ago, so that none seems to be still arriving."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A real file made ready to be copied.

    Attributes
    ----------
    content
        The whole file.
    places
        Tag to the offset of its value in `content`; (0002,0003) included.
    uids
        Tag to its value there; a copy keeps all but the longest component.
    position
        Image Position (Patient) as written; empty where there is none.
    """

    content: bytes
    places: dict[int, int]
    uids: dict[int, bytes]
    position: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What was written.

    Attributes
    ----------
    files
        How many, by scanner.
    size
        In bytes, all files together.
    patients, studies, series
        How many.
    digest
        SHA-256 of all names and contents in the order in which they were written.
    """

    files: Counter[str]
    size: int
    patients: int
    studies: int
    series: int
    digest: str


def data_folder() -> Path:
    """Return the folder with the unpacked real files."""
    return ge_files(1)[0].parents[4]


def build_dump(
    data: Path, dump: Path, *, files: int, seed: int = 1, folders: bool = False, headers_only: bool = False
) -> Built:
    """Write a dump of this many files into a folder that does not exist yet.

    Parameters
    ----------
    data
        The unpacked real files.
    seed
        Of the names, the sizes of the series and the choice among the real series.
    folders
        Whether to part the files into folders of 1,000, else all lie in one.
    headers_only
        Whether to leave out pixel data, sequences, private elements and long values: about 3 kB a file, for tests of
        how many files are borne.
    """
    templates = {
        maker: _read_templates(data, places, headers_only=headers_only) for maker, (_, places) in SHARES.items()
    }
    dice = random.Random(seed)
    digest = hashlib.sha256()
    written: Counter[str] = Counter()
    size = studies = series = patients = 0
    serial = dice.randrange(10**6)
    dump.mkdir(parents=True)
    while (count := written.total()) < files:
        # The scanner that lacks most for its share gets the next study; every third comes for a second visit.
        maker = max(SHARES, key=lambda maker: SHARES[maker][0] * count - written[maker])
        if not patients or dice.random() < 2 / 3:
            patients += 1
        studies += 1
        serial += 1
        study_serial = serial
        date = b"%04d%02d%02d" % (dice.randint(2012, 2024), dice.randint(1, 12), dice.randint(1, 28))
        real_study = dice.choice(templates[maker])
        for number in range(1, dice.randint(*STUDY_SERIES) + 1):
            by_position = dice.choice(real_study)
            volumes = max(1, round(dice.randint(*SERIES_FILES) / len(by_position)))
            if count >= files:
                break
            series += 1
            serial += 1
            series_serial = serial
            for instance, template in enumerate(_volumes(by_position, volumes), start=1):
                serial += 1
                fields = {
                    PATIENT_NAME: b"SUBJECT^%04d" % patients,
                    PATIENT_ID: b"P%07d" % patients,
                    SERIES_NUMBER: b"%-4d" % number,
                    INSTANCE_NUMBER: b"%-4d" % instance,
                    MEDIA_SOP_INSTANCE_UID: _renumbered(template.uids[SOP_INSTANCE_UID], serial),
                    SOP_INSTANCE_UID: _renumbered(template.uids[SOP_INSTANCE_UID], serial),
                    STUDY_INSTANCE_UID: _renumbered(template.uids[STUDY_INSTANCE_UID], study_serial),
                    SERIES_INSTANCE_UID: _renumbered(template.uids[SERIES_INSTANCE_UID], series_serial),
                    **dict.fromkeys(DATES, date),
                }
                content = bytearray(template.content)
                for tag, place in template.places.items():
                    value = fields[tag]
                    content[place : place + len(value)] = value
                name = f"{dice.getrandbits(64):016x}"
                if folders:
                    name = f"{count // FILES_A_FOLDER:05d}/{name}"
                    if count % FILES_A_FOLDER == 0:
                        (dump / name).parent.mkdir()
                _write(dump / name, content)
                digest.update(name.encode())
                digest.update(content)
                size += len(content)
                written[maker] += 1
                count += 1
                if count == files:
                    break
    return Built(files=written, size=size, patients=patients, studies=studies, series=series, digest=digest.hexdigest())


def _volumes(by_position: list[list[Template]], volumes: int) -> Iterator[Template]:
    """Give the files of whole volumes; where the real series has fewer, it begins again."""
    for volume in range(volumes):
        for files in by_position:
            yield files[volume % len(files)]


def _write(path: Path, content: bytearray) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.write(descriptor, content)
        os.utime(descriptor, ns=(WRITTEN_NS, WRITTEN_NS))
    finally:
        os.close(descriptor)


def _renumbered(uid: bytes, serial: int) -> bytes:
    """Put a number into the longest component of a UID, which keeps its length.

    Two UIDs that differ in anything else stay different, and so do two of one origin with different numbers.
    """
    components = uid.split(b".")
    longest = max(components, key=len)
    if len(longest) < 8:
        raise ValueError("no component of this UID can hold the number of a file")
    components[components.index(longest)] = b"%d" % (10 ** (len(longest) - 1) + serial)
    return b".".join(components)


# Taking real files apart ---------------------------------------------------------------------------------------------


def _read_templates(data: Path, folders: tuple[str, ...], *, headers_only: bool) -> list[list[list[list[Template]]]]:
    """Return the usable files by study, by series and by slice position, each in a fixed order."""
    studies: dict[bytes, dict[bytes, dict[bytes, list[Template]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    known = set()
    for folder in folders:
        for path in sorted(path for path in (data / folder).rglob("*") if path.is_file()):
            template = _read_template(path.read_bytes(), headers_only=headers_only)
            # The sets overlap: a file that is in two of them counts once.
            if template is None or template.uids[SOP_INSTANCE_UID] in known:
                continue
            known.add(template.uids[SOP_INSTANCE_UID])
            study = studies[template.uids[STUDY_INSTANCE_UID]]
            study[template.uids[SERIES_INSTANCE_UID]][template.position].append(template)
    if not studies:
        raise FileNotFoundError(f"there is no usable file in {', '.join(folders)} of {data}")
    return [[list(by_position.values()) for by_position in study.values()] for study in studies.values()]


def _read_template(data: bytes, *, headers_only: bool) -> Template | None:
    """Take a file apart and put it together ready for copying; None if it is no plain classic MR image."""
    if data[128:132] != b"DICM":
        return None
    begin = 144 + int.from_bytes(data[140:144], "little")
    meta = {element.tag: (element.value, element.end) for element in walk(data, 132, begin, explicit=True)}
    first, last = meta[TRANSFER_SYNTAX_UID]
    if data[first:last].rstrip(b"\0") != EXPLICIT_LITTLE_ENDIAN:
        return None

    # Items and delimiters of a sequence (FFFE,xxxx) carry its depth; they are part of its chunk.
    elements = [one for one in walk(data, begin, explicit=True) if one.depth == 0 and one.tag >> 16 != 0xFFFE]
    ends = [one.start for one in elements[1:]] + [len(data)]
    chunks = {one.tag: data[one.start : end] for one, end in zip(elements, ends, strict=True)}
    values = {one.tag: data[one.value : one.end] for one in elements if one.end >= one.value}
    if values[SOP_CLASS_UID].rstrip(b"\0") != CLASSIC_MR:
        return None

    for tag, (vr, width) in WIDTHS.items():
        chunks[tag] = _encode(tag, vr, b" " * width)
    if headers_only:
        sequences = {one.tag for one in elements if one.vr == "SQ"}
        chunks = {
            tag: chunk
            for tag, chunk in chunks.items()
            if tag >> 16 <= 0x28 and not tag >> 16 & 1 and len(chunk) <= 256 and tag not in sequences
        }
    else:
        _cut_pixels(chunks, values)
    _correct_group_lengths(chunks)

    content = data[:begin]
    places = {MEDIA_SOP_INSTANCE_UID: meta[MEDIA_SOP_INSTANCE_UID][0]}
    patched = {*WIDTHS, SOP_INSTANCE_UID, STUDY_INSTANCE_UID, SERIES_INSTANCE_UID}
    patched |= {tag for tag in DATES if len(values.get(tag, b"")) == 8}
    for tag in sorted(chunks):
        if tag in patched:
            places[tag] = len(content) + 8
        content += chunks[tag]
    return Template(
        content=content,
        places=places,
        uids={tag: values[tag].rstrip(b"\0") for tag in (SOP_INSTANCE_UID, STUDY_INSTANCE_UID, SERIES_INSTANCE_UID)},
        position=values.get(IMAGE_POSITION_PATIENT, b""),
    )


def _encode(tag: int, vr: bytes, value: bytes) -> bytes:
    head = (tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little") + vr
    if vr in LONG_LENGTH_VRS:
        return head + bytes(2) + len(value).to_bytes(4, "little") + value
    return head + len(value).to_bytes(2, "little") + value


def _cut_pixels(chunks: dict[int, bytes], values: dict[int, bytes]) -> None:
    """Keep the middle of the image, and say so in Rows and Columns."""
    number = {tag: int.from_bytes(values[tag], "little") for tag in (SAMPLES_PER_PIXEL, ROWS, COLUMNS, BITS_ALLOCATED)}
    rows, columns = number[ROWS], number[COLUMNS]
    pixel = number[SAMPLES_PER_PIXEL] * number[BITS_ALLOCATED] // 8
    high, wide = min(rows, KEPT_EDGE), min(columns, KEPT_EDGE)
    left, top = (columns - wide) // 2, (rows - high) // 2
    pixels = values[PIXEL_DATA]
    begins = [((top + row) * columns + left) * pixel for row in range(high)]
    kept = b"".join(pixels[begin : begin + wide * pixel] for begin in begins)
    chunks[ROWS] = _encode(ROWS, b"US", high.to_bytes(2, "little"))
    chunks[COLUMNS] = _encode(COLUMNS, b"US", wide.to_bytes(2, "little"))
    chunks[PIXEL_DATA] = _encode(PIXEL_DATA, b"OW", kept)


def _correct_group_lengths(chunks: dict[int, bytes]) -> None:
    """Let each group length (gggg,0000) count what stands behind it in its group now."""
    sizes: Counter[int] = Counter()
    for tag, chunk in chunks.items():
        if tag & 0xFFFF:
            sizes[tag >> 16] += len(chunk)
    for tag in [tag for tag in chunks if not tag & 0xFFFF]:
        chunks[tag] = _encode(tag, b"UL", sizes[tag >> 16].to_bytes(4, "little"))


def main() -> None:
    parser = argparse.ArgumentParser(description="Build a large dump out of the real scanner files.")
    parser.add_argument("dump", type=Path, help="the folder to write; it must not exist yet")
    parser.add_argument("--files", type=int, default=100_000, help="how many files (default 100,000)")
    parser.add_argument("--seed", type=int, default=1, help="another seed gives another dump (default 1)")
    parser.add_argument("--folders", action="store_true", help="folders of 1,000 files, else all lie in one")
    parser.add_argument("--headers-only", action="store_true", help="about 3 kB a file")
    options = parser.parse_args()
    built = build_dump(
        data_folder(),
        options.dump,
        files=options.files,
        seed=options.seed,
        folders=options.folders,
        headers_only=options.headers_only,
    )
    print(", ".join(f"{maker}: {count:,}" for maker, count in built.files.items()))
    print(
        f"{built.patients:,} patients, {built.studies:,} DICOM studies, {built.series:,} series, {built.size:,} bytes"
    )
    print(f"SHA-256 {built.digest}")


if __name__ == "__main__":
    main()
