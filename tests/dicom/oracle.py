"""What pydicom says stands in a file, flattened to the order of the bytes."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from pydicom import hooks
from pydicom.dataelem import RawDataElement

from tasks.dicom.elements import ITEM, ITEM_END, SEQUENCE_END, walk

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Flat = list[tuple[int, int, str, bytes]]
CHARACTER_SET = 0x00080005
CHOICES = {"US or SS": "US", "OB or OW": "OW", "US or OW": "OW", "US or SS or OW": "OW"}


def flatten_with_pydicom(dataset: Dataset, depth: int = 0) -> Flat:
    """List (depth, tag, VR, raw value) of every element; a sequence has an empty value, each item is (depth, ITEM)."""
    rows: Flat = []
    for tag in list(dataset._dict):
        raw = dataset._dict[tag]
        if isinstance(raw, RawDataElement):
            resolved: dict[str, str] = {}
            hooks.raw_element_vr(raw, resolved, ds=dataset)
            vr = resolved["VR"]
            value = raw.value or b""
        else:
            # pydicom has already decoded it: a sequence, (0008,0005), whose padding is gone, or (0028,0103).
            vr, value = raw.VR, _encode(raw.VR, raw.value)
        if vr == "SQ":
            rows.append((depth, int(tag), "SQ", b""))
            for item in dataset[tag].value:
                rows.append((depth, ITEM, "", b""))
                rows += flatten_with_pydicom(item, depth + 1)
        else:
            rows.append((depth, int(tag), CHOICES.get(vr, vr), _unpad(tag, bytes(value))))
    return rows


def flatten_with_walker(data: bytes, start: int, *, explicit: bool) -> Flat:
    """The same list from the walker."""
    rows: Flat = []
    for element in walk(data, start, explicit=explicit):
        if element.tag in (ITEM_END, SEQUENCE_END):
            continue
        value = b"" if element.vr in ("SQ", "") else bytes(data[element.value : element.end])
        rows.append((element.depth, element.tag, element.vr, _unpad(element.tag, value)))
    return rows


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
