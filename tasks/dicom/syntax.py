"""Where a file's data set begins and in which syntax it is written.

Source: PS3.10 section 7.1 (preamble and file meta information), PS3.5 annex A (transfer syntaxes).
"""

from __future__ import annotations

from dataclasses import dataclass

from tasks.dicom.elements import WalkError, pick_and_stop

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
DEFLATED_LITTLE = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
_DEFLATED = frozenset({DEFLATED_LITTLE, "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"})
"""Syntaxes whose whole data set is deflated; in 1.2.840.10008.1.2.8.1 only the frames are."""

MEDIA_STORAGE_SOP_CLASS = 0x00020002
MEDIA_STORAGE_SOP_INSTANCE = 0x00020003
TRANSFER_SYNTAX = 0x00020010
_GROUP_LENGTH = 0x00020000
_META_TAGS = frozenset({_GROUP_LENGTH, MEDIA_STORAGE_SOP_CLASS, MEDIA_STORAGE_SOP_INSTANCE, TRANSFER_SYNTAX})

MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"
"""The SOP class of a DICOMDIR."""

_LARGEST_META = 1 << 20


class SyntaxRefusalError(Exception):
    """The file is not one whose data set can be walked as it stands.

    Attributes
    ----------
    reason
        "not-dicom" if nothing in the head speaks for DICOM; else "no-preamble", "big-endian", "deflated",
        "private-syntax", "meta-damaged", for which pydicom may still know a way.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSetStart:
    """Where the data set begins and how it is written.

    Attributes
    ----------
    offset
        First byte of the data set, counted from the beginning of the file.
    transfer_syntax
        UID as the file meta information gives it.
    explicit
        Whether the data set is in explicit VR.
    meta
        Of the file meta information what names class, instance and syntax: tag to raw value.
    """

    offset: int
    transfer_syntax: str
    explicit: bool
    meta: dict[int, bytes]


def read_start(head: bytes) -> DataSetStart:
    """Read preamble and file meta information of a file whose data set can be walked as it stands.

    Parameters
    ----------
    head
        The first bytes of the file. A head that ends inside the file meta information is refused as damaged;
        `needs_more` tells when to come again with more.

    Raises
    ------
    SyntaxRefusalError
        With its reason; see there.
    """
    start = read_meta(head)
    if start.transfer_syntax == EXPLICIT_BIG:
        raise SyntaxRefusalError("big-endian")
    if start.transfer_syntax in _DEFLATED:
        raise SyntaxRefusalError("deflated")
    if not start.transfer_syntax.startswith("1.2.840.10008.1.2"):
        raise SyntaxRefusalError("private-syntax")
    return start


def read_meta(head: bytes) -> DataSetStart:
    """Read preamble and file meta information, whatever the transfer syntax.

    Raises
    ------
    SyntaxRefusalError
        "not-dicom", "no-preamble" or "meta-damaged".
    """
    if head[128:132] != b"DICM":
        raise SyntaxRefusalError("no-preamble" if _may_begin_data_set(head) else "not-dicom")
    try:
        meta, offset = pick_and_stop(
            lambda offset, amount: head[offset : offset + amount],
            len(head),
            132,
            explicit=True,
            wanted=_META_TAGS,
            last=0x0002FFFF,
            head=head,
        )
    except WalkError as fault:
        raise SyntaxRefusalError("meta-damaged") from fault
    syntax = meta.get(TRANSFER_SYNTAX, b"").rstrip(b"\0 ").decode("ascii", "replace")
    if syntax in _DEFLATED and len(meta.get(_GROUP_LENGTH, b"")) == 4:
        # Deflated bytes may look like anything, so here only the group length tells where they begin.
        offset = 144 + int.from_bytes(meta[_GROUP_LENGTH], "little")
    elif not syntax:
        raise SyntaxRefusalError("meta-damaged")
    return DataSetStart(offset=offset, transfer_syntax=syntax, explicit=syntax != IMPLICIT_LITTLE, meta=meta)


def needs_more(head: bytes) -> bool:
    """Tell whether the file meta information reaches past `head`, going by its group length."""
    if head[128:132] != b"DICM" or head[132:140] != b"\x02\x00\x00\x00UL\x04\x00":
        return False
    length = int.from_bytes(head[140:144], "little")
    return 144 + length + 12 > len(head) and length < _LARGEST_META


def _may_begin_data_set(head: bytes) -> bool:
    """Tell whether a file without preamble may be a data set: it begins in group 2 or 8, either byte order."""
    return len(head) >= 16 and head[:2] in (b"\x02\x00", b"\x08\x00", b"\x00\x08", b"\x00\x02")
