"""Read the head of one file: enough to place it, and no more.

All attributes of interest stand at or before (0020,0013), which on real scanner files lies within the first few
kilobytes, in front of the private groups that make headers large.
"""

from __future__ import annotations

import os
import stat
import warnings
from typing import TYPE_CHECKING, Any

from tasks.dicom.elements import Fetch, WalkError, pick
from tasks.dicom.normalise import open_data_set
from tasks.dicom.syntax import (
    MEDIA_STORAGE_DIRECTORY,
    MEDIA_STORAGE_SOP_CLASS,
    MEDIA_STORAGE_SOP_INSTANCE,
    SyntaxRefusalError,
    needs_more,
    read_meta,
    read_start,
)
from tasks.dicom.text import SPECIFIC_CHARACTER_SET, decode_ascii, decode_text
from tasks.index.row import IndexRow, Reject

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset

ASCII_ATTRIBUTES = {
    0x00080016: "sop_class_uid",
    0x00080018: "sop_instance_uid",
    0x0020000D: "study_instance_uid",
    0x0020000E: "series_instance_uid",
    0x00080020: "study_date",
    0x00080021: "series_date",
    0x00080022: "acquisition_date",
    0x00080023: "content_date",
    0x0008002A: "acquisition_datetime",
    0x00080030: "study_time",
    0x00080032: "acquisition_time",
    0x00100030: "patient_birth_date",
    0x00080060: "modality",
    0x00080008: "image_type",
    0x00200011: "series_number",
    0x00200013: "instance_number",
}
"""Attributes whose VR has the default repertoire: tag to the field of `IndexRow`."""

TEXT_ATTRIBUTES = {
    0x00100010: "patient_name",
    0x00100020: "patient_id",
    0x00101000: "other_patient_ids",
    0x00080050: "accession_number",
    0x00200010: "study_id",
    0x00080080: "institution_name",
    0x00080090: "referring_physician_name",
    0x00081010: "station_name",
    0x00181000: "device_serial_number",
    0x00080070: "manufacturer",
    0x0008103E: "series_description",
    0x00181030: "protocol_name",
}
"""Attributes in the character sets of the data set: tag to the field of `IndexRow`."""

LAST_TAG = 0x00200013
"""(0020,0013) Instance Number, the highest tag of interest."""

WANTED = frozenset(ASCII_ATTRIBUTES) | frozenset(TEXT_ATTRIBUTES) | {SPECIFIC_CHARACTER_SET}

_FIRST_READ = 8192
_FIELDS = frozenset(ASCII_ATTRIBUTES.values()) | frozenset(TEXT_ATTRIBUTES.values())


def read_header(dump: bytes, path: bytes) -> IndexRow | Reject:
    """Read one file's header.

    Parameters
    ----------
    dump, path
        The dump's folder, and the file below it.

    Returns
    -------
    IndexRow or Reject
        A reject says why, in a code; no fault of a single file is ever raised.
    """
    try:
        descriptor = os.open(dump + b"/" + path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return Reject(path=path, reason="vanished")
    except OSError:
        return Reject(path=path, reason="unreadable")
    try:
        return _read(descriptor, path)
    except OSError:
        return Reject(path=path, reason="unreadable")
    finally:
        os.close(descriptor)


def _read(descriptor: int, path: bytes) -> IndexRow | Reject:
    head = os.read(descriptor, _FIRST_READ)
    if not head:
        ordinary = stat.S_ISREG(os.fstat(descriptor).st_mode)
        return Reject(path=path, reason="empty" if ordinary else "special-file")
    try:
        if needs_more(head):
            head = os.pread(descriptor, 1 << 20, 0)
        start = read_start(head)
        if start.meta.get(MEDIA_STORAGE_SOP_CLASS, b"").rstrip(b"\0 ") == MEDIA_STORAGE_DIRECTORY.encode():
            return Reject(path=path, reason="dicomdir")
        size = len(head) if len(head) < _FIRST_READ else os.fstat(descriptor).st_size
        fetch: Fetch = lambda offset, amount: os.pread(descriptor, amount, offset)  # noqa: E731
        values = pick(fetch, size, start.offset, explicit=start.explicit, wanted=WANTED, last=LAST_TAG, head=head)
    except SyntaxRefusalError as refusal:
        if refusal.reason == "not-dicom":
            return Reject(path=path, reason="not-dicom")
        if refusal.reason == "deflated":
            return _read_deflated(descriptor, path)
        return _read_with_pydicom(descriptor, path, refusal.reason)
    except WalkError as fault:
        return _read_with_pydicom(descriptor, path, fault.reason)
    if 0x00080018 not in values or 0x0020000D not in values or 0x0020000E not in values:
        # Nothing but a full read tells whether they are absent or only out of order behind our last tag.
        return _read_with_pydicom(descriptor, path, "uid-missing")
    return _make_row(path, values, start.transfer_syntax, "", start.meta)


def _make_row(
    path: bytes, values: dict[int, bytes], transfer_syntax: str, slow_path: str, meta: dict[int, bytes]
) -> IndexRow:
    character_set = decode_ascii(values.get(SPECIFIC_CHARACTER_SET, b""))
    fields = dict.fromkeys(_FIELDS, "")
    for tag, value in values.items():
        name = ASCII_ATTRIBUTES.get(tag)
        if name is not None:
            fields[name] = decode_ascii(value)
        elif tag in TEXT_ATTRIBUTES:
            fields[TEXT_ATTRIBUTES[tag]] = decode_text(value, character_set)
    for field, tag in (("sop_class_uid", MEDIA_STORAGE_SOP_CLASS), ("sop_instance_uid", MEDIA_STORAGE_SOP_INSTANCE)):
        fields[field] = fields[field] or decode_ascii(meta.get(tag, b""))
    return IndexRow(path=path, transfer_syntax_uid=transfer_syntax, slow_path=slow_path, **fields)


def _read_deflated(descriptor: int, path: bytes) -> IndexRow | Reject:
    """Read a file whose data set is deflated; pydicom would inflate without a bound, however large it becomes."""
    source = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    try:
        meta = read_meta(source)
        data, start, reason = open_data_set(source)
        fetch: Fetch = lambda offset, amount: data[offset : offset + amount]  # noqa: E731
        values = pick(fetch, len(data), start.offset, explicit=start.explicit, wanted=WANTED, last=LAST_TAG)
    except (SyntaxRefusalError, WalkError):
        return Reject(path=path, reason="header-damaged")
    return _make_row(path, values, meta.transfer_syntax, reason, meta.meta)


def _read_with_pydicom(descriptor: int, path: bytes, reason: str) -> IndexRow | Reject:
    """Read what the walker refuses; `reason` is why it did."""
    import pydicom  # noqa: PLC0415 - a fifth of a second that most runs never need

    try:
        with warnings.catch_warnings(), os.fdopen(os.dup(descriptor), "rb") as stream:
            warnings.simplefilter("ignore")
            stream.seek(0)
            dataset = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
            values = _raw_values(dataset)
            syntax = str(dataset.file_meta.get("TransferSyntaxUID", ""))
            if str(dataset.file_meta.get("MediaStorageSOPClassUID", "")) == MEDIA_STORAGE_DIRECTORY:
                return Reject(path=path, reason="dicomdir")
            meta = {
                tag: str(dataset.file_meta[tag].value).encode("ascii", "replace")
                for tag in (MEDIA_STORAGE_SOP_CLASS, MEDIA_STORAGE_SOP_INSTANCE)
                if tag in dataset.file_meta
            }
    except Exception:  # noqa: BLE001 - a damaged header makes pydicom raise anything, and its words may quote values
        return Reject(path=path, reason="not-dicom" if reason == "no-preamble" else "header-damaged")
    known = [tag for tag in (0x00080016, 0x00080018, 0x0020000D, 0x0020000E, 0x00080060) if values.get(tag)]
    if len(known) < (3 if reason == "no-preamble" else 1):
        return Reject(path=path, reason="not-dicom" if reason == "no-preamble" else "header-damaged")
    return _make_row(path, values, syntax, reason, meta)


def _raw_values(dataset: FileDataset) -> dict[int, bytes]:
    """Collect the wanted raw values, as `pick` does; text bytes are the same in every byte order."""
    values: dict[int, bytes] = {}
    for tag in WANTED:
        if tag not in dataset:
            continue
        element: Any = dataset.get_item(tag)
        value = element.value
        if isinstance(value, bytes):
            values[tag] = value
        elif value:
            parts = [value] if isinstance(value, str) else list(value)
            values[tag] = "\\".join(str(part or "") for part in parts).encode("ascii", "replace")
    return values
