"""What pydicom says stands in a file, and what the walker says, in one form: a row an element, in byte order."""

from __future__ import annotations

import io
import struct
import warnings
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pydicom
from pydicom import hooks
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from tasks.dicom.elements import ITEM, ITEM_END, SEQUENCE_END, UNDEFINED, Element, WalkError, walk
from tasks.dicom.syntax import SyntaxRefusalError, read_start

CHARACTER_SET = 0x00080005
PIXEL_DATA = 0x7FE00010
CHOICES = {"US or SS": "US", "OB or OW": "OW", "US or OW": "OW", "US or SS or OW": "OW"}
"""Where the standard leaves a choice of VR: the one whose bytes read the same."""

PYDICOM_FILES = Path(pydicom.__file__).parent / "data"
"""What pydicom's own package carries."""

_TEXT_SUFFIXES = (".py", ".pyc", ".json", ".md", ".txt")

_LARGE_FOLDER = 20
_EACH = 7


def data_files(root: Path) -> list[Path]:
    """List the files below a folder but the plain texts among them, sorted."""
    files = (path for path in root.rglob("*") if path.suffix not in _TEXT_SUFFIXES and path.name[0] != ".")
    return sorted(path for path in files if path.is_file())


def sampled(files: list[Path]) -> list[Path]:
    """Leave out most of each large folder, whose files are alike: every seventh stays, and all of another suffix."""
    members: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path in files:
        members[path.parent, path.suffix].append(path)
    return sorted(
        path
        for (folder, _), group in members.items()
        for path in (group[::_EACH] if len(group) > _LARGE_FOLDER and "dcm_qa" in str(folder) else group)
    )


class Row(NamedTuple):
    """One element; a sequence has an empty value, each of its items is a row with the tag `ITEM` and no VR.

    `place` is the first byte of the value in the file, or -1 where one of the two does not tell: pydicom tells it for
    what it has not decoded yet, on the top level.
    """

    depth: int
    tag: int
    vr: str
    value: bytes
    place: int = -1


Flat = list[Row]


def flatten_with_pydicom(dataset: Dataset, depth: int = 0) -> Flat:
    """List every element as pydicom read it."""
    rows: Flat = []
    for tag in list(dataset._dict):
        raw = dataset._dict[tag]
        place = -1
        if isinstance(raw, RawDataElement):
            resolved: dict[str, str] = {}
            hooks.raw_element_vr(raw, resolved, ds=dataset)
            vr = resolved["VR"]
            value = raw.value or b""
            place = raw.value_tell if depth == 0 and raw.value else -1
        else:
            # pydicom has already decoded it: a sequence, (0008,0005), whose padding is gone, or (0028,0103).
            vr, value = raw.VR, _encode(raw.VR, raw.value)
        if vr == "SQ":
            rows.append(Row(depth, int(tag), "SQ", b""))
            for item in dataset[tag].value:
                rows.append(Row(depth, ITEM, "", b""))
                rows += flatten_with_pydicom(item, depth + 1)
        else:
            rows.append(Row(depth, int(tag), CHOICES.get(vr, vr), _unpad(tag, bytes(value)), place))
    return rows


@dataclass
class _Entry:
    """One element of a data set, with its items if it is a sequence."""

    row: Row
    items: list[dict[int, _Entry]] = field(default_factory=list)


def flatten_with_walker(data: bytes, start: int, *, explicit: bool) -> Flat:
    """List every element as the walker says; of a tag met twice in one data set the last value, as pydicom keeps it."""
    root: dict[int, _Entry] = {}
    open_sets = {0: root}
    open_sequences: dict[int, _Entry] = {}
    for element in walk(data, start, explicit=explicit):
        if element.tag in (ITEM_END, SEQUENCE_END):
            continue
        if element.tag == ITEM:
            item: dict[int, _Entry] = {}
            open_sequences[element.depth].items.append(item)
            open_sets[element.depth + 1] = item
            continue
        value = b"" if element.vr == "SQ" else bytes(data[element.value : element.end])
        place = element.value if element.depth == 0 and value else -1
        entry = _Entry(Row(element.depth, element.tag, element.vr, _unpad(element.tag, value), place))
        open_sets[element.depth][element.tag] = entry
        if element.vr == "SQ":
            open_sequences[element.depth] = entry
    return _flatten(root)


def _flatten(elements: dict[int, _Entry]) -> Flat:
    rows: Flat = []
    for entry in elements.values():
        rows.append(entry.row)
        for item in entry.items:
            rows.append(Row(entry.row.depth, ITEM, "", b""))
            rows += _flatten(item)
    return rows


def compare(data: bytes) -> str:
    """Read one file both ways; return "" if they agree, "refused: reason", or the first difference."""
    try:
        start = read_start(data)
        ours = flatten_with_walker(data, start.offset, explicit=start.explicit)
    except (SyntaxRefusalError, WalkError) as refusal:
        return f"refused: {refusal.reason}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = flatten_with_pydicom(pydicom.dcmread(io.BytesIO(data)))
    return difference(ours, theirs)


def difference(ours: Flat, theirs: Flat) -> str:
    """Describe the first row in which two lists differ, or return "" if there is none."""
    for one, other in zip(ours, theirs, strict=False):
        same_place = one.place == other.place or -1 in (one.place, other.place)
        if one[:4] != other[:4] or not same_place:
            return f"{_show(one)} is {_show(other)} to pydicom"
    return "" if len(ours) == len(theirs) else f"{len(ours)} elements are {len(theirs)} to pydicom"


def _show(row: Row) -> str:
    number = f"({row.tag >> 16:04X},{row.tag & 0xFFFF:04X})"
    return f"{number} {row.vr} at depth {row.depth}, byte {row.place}, {row.value[:24]!r}"


def spans(elements: list[Element], size: int) -> str:
    """Say what is wrong with where elements stand: outside the stream, outside their parent, or overlapping."""
    position = 0
    parents: list[int] = []
    for element in elements:
        if not 0 <= element.start < element.value <= size or element.end > size:
            return f"{element} lies outside"
        if element.end != UNDEFINED and element.end < element.value:
            return f"{element} ends before it begins"
        if element.start < position:
            return f"{element} overlaps the one before"
        del parents[2 * element.depth + (element.tag in (ITEM, ITEM_END, SEQUENCE_END)) :]
        if any(UNDEFINED < parent < max(element.value, element.end) for parent in parents):
            return f"{element} reaches out of what holds it"
        container = element.vr == "SQ" or element.tag == ITEM
        if container:
            parents.append(element.end)
        position = element.value if container else element.end
    return ""


def _unpad(tag: int, value: bytes) -> bytes:
    if tag != CHARACTER_SET:
        return value
    return b"\\".join(part.strip(b" ") for part in value.split(b"\\"))


def _encode(vr: str, value: object) -> bytes:
    if vr == "CS":
        parts = [value] if isinstance(value, str) or value is None else list(value)
        return "\\".join(part or "" for part in parts).encode("ascii")
    if vr == "US":
        return b"" if value is None else struct.pack("<H", value)
    return b""
