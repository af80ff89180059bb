"""What the index knows of one file: a row read from its header, or a reject with a reason code."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

REJECT_REASONS = {
    "apple-double": "A companion file that macOS leaves beside the real one; it holds no image.",
    "archive-damaged": "An archive that cannot be read to its end; what was read before is taken.",
    "archive-encrypted": "It lies in an archive under a password.",
    "archive-limit": "An archive that unpacks to more than the study file allows ([archives]); nothing of it is taken.",
    "archive-nested": "An archive inside archives, deeper than the study file allows ([archives] depth).",
    "dicomdir": "A directory of a DICOM medium (DICOMDIR): it lists images and is none.",
    "empty": "The file holds nothing.",
    "folder-unreadable": "The folder could not be opened, so what lies in it was not seen.",
    "header-damaged": "It begins like a DICOM file, but its header cannot be read.",
    "not-dicom": "It is not a DICOM file.",
    "special-file": "A socket, pipe or device, which holds no data.",
    "still-arriving": "It changed a moment ago and may still be being written; a later run takes it.",
    "symlink": "A symbolic link; links are not followed, so that nothing outside the dump is touched.",
    "unreadable": "The file could not be opened or read.",
    "vanished": "The file was seen and then was gone.",
}
"""Why a file of the dump is not taken: code to sentence."""

PASSING_REASONS = frozenset({"still-arriving", "unreadable", "vanished"})
"""Reasons that may be gone tomorrow although the file is the same: such a file is read again."""


class FileStamp(NamedTuple):
    """One file as the file system describes it.

    Attributes
    ----------
    path
        Bytes, relative to the dump: file names need not be text.
    size
        In bytes.
    mtime_ns
        Last change of the content, in nanoseconds since 1970 (UTC).
    device, inode
        The file's identity in the dump, the same on every machine: the device is 0 where it is that of the dump's own
        folder, else a number that the place of the mount gives (`tasks.index.scan`).
    """

    path: bytes
    size: int
    mtime_ns: int
    device: int
    inode: int


STAMP_RECORD = b"%b\0%d:%d:%d:%d\0"
"""How a stamp's fields stand in a list, to be filled by `%`; `unpack_stamps` reads it."""


def unpack_stamps(records: bytes) -> tuple[list[FileStamp], bytes]:
    """Read the stamps of a list, and return what is left behind the last whole one."""
    words = records.split(b"\0")
    rest = words.pop()
    if len(words) & 1:
        rest = words.pop() + b"\0" + rest
    make = FileStamp._make
    return [
        make((path, *map(int, numbers.split(b":")))) for path, numbers in zip(words[::2], words[1::2], strict=True)
    ], rest


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """A file that is not taken, and why (a key of `REJECT_REASONS`)."""

    path: bytes
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A compressed file or an archive: what counts is what it holds.

    Attributes
    ----------
    kind
        "zip", "tar", "gzip", "bzip2" or "xz".
    """

    path: bytes
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedHeader:
    """What a header says that the files of one series share as a rule; one object serves all of them.

    Texts are decoded and without padding; an absent attribute is an empty string. Several values stay separated by
    backslashes. A patient can be read here: it never leaves `identified/`.

    Attributes
    ----------
    slow_path
        Empty if the walker read the header; else why pydicom had to ("big-endian", "no-preamble", ...).
    """

    transfer_syntax_uid: str
    slow_path: str
    sop_class_uid: str
    study_instance_uid: str
    series_instance_uid: str
    patient_id: str
    patient_name: str
    patient_birth_date: str
    other_patient_ids: str
    study_date: str
    series_date: str
    acquisition_date: str
    content_date: str
    study_time: str
    series_time: str
    accession_number: str
    study_id: str
    study_description: str
    institution_name: str
    referring_physician_name: str
    station_name: str
    device_serial_number: str
    modality: str
    manufacturer: str
    manufacturer_model_name: str
    image_type: str
    series_description: str
    protocol_name: str
    sequence_name: str
    echo_numbers: str
    echo_time: str
    image_orientation_patient: str
    series_number: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRow:
    """What the head of one DICOM file says. A patient can be read here: rows never leave `identified/`.

    Attributes
    ----------
    path
        Bytes, relative to the dump.
    shared
        What other files of the series say as well.
    number_of_frames
        (0028,0008), looked for in multi-frame SOP classes only.
    """

    path: bytes
    shared: SharedHeader
    sop_instance_uid: str
    instance_number: str
    acquisition_number: str
    acquisition_time: str
    acquisition_datetime: str
    image_position_patient: str
    number_of_frames: str


SHARED_FIELDS = tuple(field.name for field in fields(SharedHeader))
ROW_FIELDS = tuple(field.name for field in fields(IndexRow) if field.name not in ("path", "shared"))
