"""Say in what files differ that share a SOP Instance UID but not their bytes.

All of them are kept whatever the answer; a person who sees "header" or "transfer-syntax" may go on without looking.

Source: PS3.5 sections 8.1 and 8.2 (native and encapsulated pixel data), A.1 to A.4 (transfer syntaxes).
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.dicom.elements import Element, WalkError, walk
from tasks.dicom.normalise import open_data_set
from tasks.dicom.syntax import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, SyntaxRefusalError, read_meta

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset

CONFLICT_KINDS = {
    "reference": "The file that the others with its SOP Instance UID are compared with.",
    "header": "The same image; only what is written around it differs (the header, or how the file is put together).",
    "transfer-syntax": "The same image, pixel for pixel, written in another transfer syntax (a re-compressed copy).",
    "transfer-syntax-lossy": "Written in a transfer syntax that loses detail, and the pixels differ: "
    "most likely a lossy copy, but only a look at both can tell.",
    "transfer-syntax-unverified": "Written in another transfer syntax, and the pixels could not be decoded here: "
    "whether it is the same image is not known (the extra `codecs` may help).",
    "pixel-encoding": "The same image, pixel for pixel, compressed anew in the same transfer syntax.",
    "pixel-encoding-unverified": "The compressed pixels differ, and they could not be decoded here: "
    "whether it is the same image is not known (the extra `codecs` may help).",
    "pixel-data": "The pixels differ: these are two images under one SOP Instance UID.",
    "unreadable": "The file is damaged, cut, or could not be read, so it was compared with nothing.",
}
"""In what a file differs from the first readable one of its group: code to sentence."""

LASTING_KINDS = frozenset(
    {"reference", "header", "transfer-syntax", "transfer-syntax-lossy", "pixel-encoding", "pixel-data"}
)
"""What stays true of two contents for ever; the others depend on what can be decoded or read today."""

LOSSY_SYNTAXES = frozenset(
    "1.2.840.10008.1.2.4." + last
    for last in (
        *("50", "51", "52", "53", "54", "55", "56", "59", "60", "61", "62", "63", "64"),  # JPEG but the lossless ones
        *("81", "91", "93", "203"),  # JPEG-LS near-lossless, JPEG 2000, its part 2, high-throughput JPEG 2000
        *("100", "100.1", "101", "101.1", "102", "102.1", "103", "103.1"),  # MPEG-2, MPEG-4
        *("104", "104.1", "105", "105.1", "106", "106.1", "107", "108"),  # MPEG-4, HEVC
        "112",  # JPEG XL
    )
)
"""Transfer syntaxes whose compression may lose detail."""

_PIXEL_DATA = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})


def compare_group(sources: Sequence[Path]) -> list[str]:
    """Say of each file of a group how it differs from the group's reference, the first file that can be read.

    Files are read one at a time and only digests are kept, so memory holds one file. Pixels are decoded only where
    their stored bytes leave it open whether they are equal.

    Parameters
    ----------
    sources
        Files with one SOP Instance UID and different bytes.

    Returns
    -------
    list of str
        A key of `CONFLICT_KINDS` for each source, in their order. One of them is the reference, the first if none can
        be read: it stands for the instance. Faults are never raised: see "unreadable".
    """
    kinds = []
    reference: _Image | None = None
    for source in sources:
        try:
            image = _Image(source)
        except (OSError, MemoryError, SyntaxRefusalError, WalkError):
            kinds.append("unreadable")
            continue
        if reference is None:
            reference = image
            kinds.append("reference")
        else:
            kinds.append(_compare(reference, image))
    if reference is None and kinds:
        kinds[:1] = ["reference"]
    return kinds


class _Image:
    """What is remembered of one file.

    Attributes
    ----------
    syntax
        Transfer syntax UID.
    native
        Whether its pixel data, if there are any, are not compressed.
    stored
        Digest of the pixel data as they stand in the file: native ones in little-endian order, encapsulated ones
        without offset table and without the borders of their fragments.
    """

    def __init__(self, source: Path) -> None:
        content = source.read_bytes()
        data, start, self._detour = open_data_set(content)
        self._source = source
        if self._detour == "no-preamble":
            self.syntax = _bare_syntax(content)
        else:
            self.syntax = read_meta(content).transfer_syntax
        self.native = True
        digest = hashlib.sha256()
        for element in walk(data, start.offset, explicit=start.explicit):
            if element.depth == 0 and element.tag in _PIXEL_DATA:
                digest.update(element.tag.to_bytes(4, "big"))
                pieces = _fragments(data, element)
                self.native = pieces is None
                for begin, end in pieces or [(element.value, element.end)]:
                    digest.update(memoryview(data)[begin:end])
        self.stored = digest.digest()

    @cached_property
    def decoded(self) -> bytes | None:
        """Digest of the pixels as numbers, frame by frame; None if they cannot be decoded here."""
        import numpy as np  # noqa: PLC0415 - conflicts are rare, and most need no decoding
        from pydicom.pixels.utils import iter_pixels  # noqa: PLC0415

        digest = hashlib.sha256()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for frame in iter_pixels(self._open()):
                    # Decoders differ in the width of the integers they hand out, not in their values.
                    kind = "<i8" if frame.dtype.kind in "iub" else "<f8"
                    digest.update(repr(frame.shape).encode("ascii"))
                    digest.update(np.ascontiguousarray(frame, dtype=kind).data)
        except Exception:  # noqa: BLE001 - damaged pixel data make codecs raise anything, in words that quote values
            return None
        return digest.digest()

    def _open(self) -> str | FileDataset:
        """Give pydicom's decoders the file itself, from which they read a frame at a time, or a data set."""
        import pydicom  # noqa: PLC0415

        if self._detour in ("", "big-endian"):
            return str(self._source)
        content = self._source.read_bytes()
        return pydicom.dcmread(io.BytesIO(content if self._detour == "deflated" else open_data_set(content)[0]))


def _compare(reference: _Image, other: _Image) -> str:
    same_syntax = reference.syntax == other.syntax
    both_native = reference.native and other.native
    if reference.stored == other.stored and (both_native or same_syntax):
        return "header" if same_syntax else "transfer-syntax"
    decoded = reference.decoded, other.decoded
    if None not in decoded:
        if decoded[0] == decoded[1]:
            return "pixel-encoding" if same_syntax else "transfer-syntax"
        lossy = not LOSSY_SYNTAXES.isdisjoint((reference.syntax, other.syntax))
        return "transfer-syntax-lossy" if lossy and not same_syntax else "pixel-data"
    if both_native:
        return "pixel-data"
    return "pixel-encoding-unverified" if same_syntax else "transfer-syntax-unverified"


def _fragments(data: bytes, element: Element) -> list[tuple[int, int]] | None:
    """List where the fragments of pixel data begin and end, without the offset table; None if they are native."""
    if data[element.value - 4 : element.value] != b"\xff\xff\xff\xff":
        return None
    found = []
    position = element.value
    while position < element.end:  # the walker has been here, so the items are whole
        end = position + 8 + int.from_bytes(data[position + 4 : position + 8], "little")
        found.append((position + 8, end))
        position = end
    return found[1:]


def _bare_syntax(content: bytes) -> str:
    """Find out in which transfer syntax a file without preamble is written."""
    import pydicom  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(io.BytesIO(content), force=True, stop_before_pixels=True)
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax:
        return str(syntax)
    implicit, little = dataset.original_encoding
    if implicit:
        return IMPLICIT_LITTLE
    return EXPLICIT_LITTLE if little else EXPLICIT_BIG
