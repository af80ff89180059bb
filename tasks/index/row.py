"""What the index knows of one file: a row read from its header, or a reject with a reason code."""

from __future__ import annotations

from dataclasses import dataclass

REJECT_REASONS = {
    "dicomdir": "A directory of a DICOM medium (DICOMDIR): it lists images and is none.",
    "empty": "The file holds nothing.",
    "folder-unreadable": "The folder could not be opened, so what lies in it was not seen.",
    "header-damaged": "It begins like a DICOM file, but its header cannot be read.",
    "not-dicom": "It is not a DICOM file.",
    "special-file": "A socket, pipe or device, which holds no data.",
    "symlink": "A symbolic link; links are not followed, so that nothing outside the dump is touched.",
    "unreadable": "The file could not be opened or read.",
    "vanished": "The file was seen and then was gone.",
}
"""Why a file of the dump is not taken: code to sentence."""

PASSING_REASONS = frozenset({"unreadable", "vanished"})
"""Reasons that may be gone tomorrow although the file is the same: such a file is read again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStamp:
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
        The file's identity on its machine.
    """

    path: bytes
    size: int
    mtime_ns: int
    device: int
    inode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """A file that is not taken, and why (a key of `REJECT_REASONS`)."""

    path: bytes
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRow:
    """What the head of one DICOM file says. A patient can be read here: rows never leave `identified/`.

    Texts are decoded and without padding; an absent attribute is an empty string. Several values stay separated by
    backslashes.

    Attributes
    ----------
    path
        Bytes, relative to the dump.
    slow_path
        Empty if the walker read the header; else why pydicom had to ("big-endian", "no-preamble", ...).
    """

    path: bytes
    transfer_syntax_uid: str
    slow_path: str
    sop_class_uid: str
    sop_instance_uid: str
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
    acquisition_datetime: str
    study_time: str
    acquisition_time: str
    accession_number: str
    study_id: str
    institution_name: str
    referring_physician_name: str
    station_name: str
    device_serial_number: str
    modality: str
    manufacturer: str
    image_type: str
    series_description: str
    protocol_name: str
    series_number: str
    instance_number: str
