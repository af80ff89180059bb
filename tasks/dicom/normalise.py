"""Bring a file whose syntax the walker does not read into one that it does."""

from __future__ import annotations

import array
import io
import struct
import warnings
import zlib
from typing import TYPE_CHECKING

from tasks.dicom.syntax import (
    EXPLICIT_LITTLE,
    DataSetStart,
    SyntaxRefusalError,
    read_meta,
    read_start,
)

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset

LARGEST_INFLATED = 1 << 30
"""Bytes that a deflated data set may grow to; more is taken for a bomb."""


def open_data_set(source: bytes) -> tuple[bytes, DataSetStart, str]:
    """Return a stream the walker reads, where its data set begins, and why it is not the source itself.

    A deflated data set is inflated and otherwise untouched (PS3.5 section A.5). Big-endian files and files without
    preamble are read and written by pydicom as explicit VR little endian.

    Returns
    -------
    data, start, reason
        `reason` is empty where `data` is the source.

    Raises
    ------
    SyntaxRefusalError
        If there is no way to the data set; "truncated" if it ends too early.
    """
    try:
        return source, read_start(source), ""
    except SyntaxRefusalError as refusal:
        if refusal.reason == "deflated":
            data = _inflate(source, read_meta(source).offset)
        elif refusal.reason in ("big-endian", "no-preamble"):
            data = _rewrite_with_pydicom(source)
        else:
            raise
        if refusal.reason == "deflated":
            start = DataSetStart(offset=0, transfer_syntax=EXPLICIT_LITTLE, explicit=True, meta={})
            return data, start, refusal.reason
        return data, read_start(data), refusal.reason


def _inflate(source: bytes, offset: int) -> bytes:
    machine = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = machine.decompress(source[offset:], LARGEST_INFLATED)
    except zlib.error as fault:
        raise SyntaxRefusalError("deflated") from fault
    if machine.unconsumed_tail or not machine.eof:
        raise SyntaxRefusalError("deflated")
    # The deflated stream may have been padded to even length inside (PS3.5 section A.5).
    return content[:-1] if len(content) & 1 and content.endswith(b"\0") else content


def _rewrite_with_pydicom(source: bytes) -> bytes:
    import pydicom  # noqa: PLC0415 - most runs never need the slow path
    from pydicom.uid import ExplicitVRLittleEndian  # noqa: PLC0415

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = _read_to_the_end(source)
            if dataset.original_encoding[1] is False:
                _swap_words(dataset)
            syntax = dataset.file_meta.get("TransferSyntaxUID")
            if syntax is None or not syntax.is_compressed:
                dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            out = io.BytesIO()
            pydicom.dcmwrite(out, dataset, enforce_file_format=True)
            return out.getvalue()
    except SyntaxRefusalError:
        raise
    except Exception as fault:  # damaged input makes pydicom raise anything, in words that quote values
        raise SyntaxRefusalError("malformed") from fault


def _read_to_the_end(source: bytes) -> FileDataset:
    """Read a file that is not cut: pydicom takes what it finds of a cut one for all there was.

    An element put behind the end is found where it was put, or swallowed by what lacks its own end.
    """
    import pydicom  # noqa: PLC0415

    dataset = pydicom.dcmread(io.BytesIO(source), force=True)
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is not None and syntax.is_deflated:
        return dataset  # whether a deflated stream is whole it tells itself
    implicit, little = dataset.original_encoding
    order = "<" if little else ">"
    mark = b"end of the data "
    head = struct.pack(order + "HH", 0xFFFC, 0xFFFC) + (b"" if implicit else b"OB\0\0") + struct.pack(order + "L", 16)
    again = pydicom.dcmread(io.BytesIO(source + head + mark), force=True)
    if 0xFFFCFFFC not in again or again.get_item(0xFFFCFFFC).value != mark:
        raise SyntaxRefusalError("truncated")
    return dataset


_WORDS = {"OW": "H", "OF": "f", "OL": "I", "OD": "d", "OV": "Q"}
"""Binary VRs made of words: how `array` names a word of that size."""


def _swap_words(dataset: FileDataset) -> None:
    """Turn the words of every binary value round: pydicom writes them in the order in which it read them."""
    for element in dataset.iterall():
        if element.VR in _WORDS and isinstance(element.value, bytes):
            words = array.array(_WORDS[element.VR])
            words.frombytes(element.value[: len(element.value) // words.itemsize * words.itemsize])
            words.byteswap()
            element.value = words.tobytes()
