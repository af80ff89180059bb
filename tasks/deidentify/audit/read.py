"""Read an export and its source with pydicom, each element that stands in both byte by byte only once.

pydicom reads an element from the bytes that begin where the one before it ends. So where another file's element stands
at such a place with the same bytes, reading it again would give the same.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import NamedTuple

import pydicom
from pydicom._dicom_dict import DicomDictionary
from pydicom.charset import convert_encodings, default_encoding
from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filereader import data_element_generator
from pydicom.hooks import raw_element_vr
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

UNDEFINED = 0xFFFFFFFF
TEXT_VRS = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})

_CHARACTER_SET = BaseTag(0x00080005)
_OTHERWISE_WRITTEN = (DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian)
_UNDIVIDED_VRS = frozenset({"LT", "ST", "UR", "UT"})
"""Text VRs in which a backslash is a letter (PS3.5 table 6.2-1)."""

_PIXELS = (0x7FE00010, 0x7FE00008, 0x7FE00009)


class Span(NamedTuple):
    """One element of the data set.

    Attributes
    ----------
    tag
        As an integer.
    content
        Its bytes from its tag to its end; empty where the file does not tell.
    element
        As pydicom reads it.
    """

    tag: int
    content: bytes
    element: RawDataElement | DataElement


class Reading(NamedTuple):
    """One file, read.

    Attributes
    ----------
    dataset
        As pydicom would read it.
    spans
        The elements of the data set in their order, those with the same tag each.
    around
        The bytes that belong to no span, without the preamble.
    is_whole
        Whether the spans follow one another to the end of the file.
    by_head
        Indices into the spans, by the four bytes of their tags.
    character_set
        The element that states it, as it stands; empty if there is none.
    """

    dataset: FileDataset
    spans: list[Span]
    around: bytes
    is_whole: bool
    by_head: dict[bytes, int]
    character_set: bytes


def read_file(content: bytes, *beside: Reading | None, force: bool = False) -> Reading:
    """Read a file.

    Parameters
    ----------
    content
        The whole file.
    beside
        Files with many elements in common: what stands in this one, too, is the same span in both readings.
    force
        Whether to read a file without a preamble, too.
    """
    stream = io.BytesIO(content)
    meta, start = _read_meta(content, stream)
    syntax = meta.get("TransferSyntaxUID")
    vr = content[start + 4 : start + 6]
    implicit = not (len(vr) == 2 and b"AA" <= vr <= b"ZZ" and vr.isalpha())
    if syntax is None or syntax in _OTHERWISE_WRITTEN or implicit != (syntax == ImplicitVRLittleEndian):
        return _read_slowly(content, force=force)
    reader = _Reader(content, stream, start, implicit=implicit)
    spans = reader.spans([one for one in beside if one and one.dataset.original_encoding == (implicit, True)])
    elements = {span.element.tag: span.element for span in spans}
    dataset = FileDataset(
        stream, elements, content[:128], file_meta=meta, is_implicit_VR=implicit, is_little_endian=True
    )
    encodings = _encodings(elements.get(_CHARACTER_SET))
    dataset.set_original_encoding(is_implicit_vr=implicit, is_little_endian=True, character_encoding=encodings)
    return Reading(
        dataset,
        spans,
        content[128:start] + content[reader.position :],
        reader.position == len(content),
        {span.content[:4]: index for index, span in enumerate(spans)},
        reader.character_set,
    )


def _read_meta(content: bytes, stream: io.BytesIO) -> tuple[FileMetaDataset, int]:
    """Read the file meta information; it is empty where there is none. Tell where the data set begins."""
    if content[128:132] != b"DICM":
        return FileMetaDataset(), 0
    stream.seek(132)
    elements = data_element_generator(
        stream, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, *_: tag >> 16 != 2
    )
    meta = FileMetaDataset({element.tag: element for element in elements})
    return meta, stream.tell()


def _read_slowly(content: bytes, *, force: bool) -> Reading:
    """Read what is written in big endian or deflated, or in another way than it says."""
    dataset = pydicom.dcmread(io.BytesIO(content), force=force)
    spans = [Span(int(element.tag), b"", element) for element in dataset.values()]
    around = content[128:]
    for tag in _PIXELS:
        value = dataset.get_item(tag).value if tag in dataset else None
        if isinstance(value, bytes) and value:
            begin = around.rfind(value)
            if begin >= 0:
                around = around[:begin] + b"\n" + around[begin + len(value) :]
    return Reading(dataset, spans, around, is_whole=False, by_head={}, character_set=b"")


def _encodings(element: RawDataElement | DataElement | None) -> str | list[str]:
    if element is None:
        return default_encoding
    stated = convert_raw_data_element(element) if isinstance(element, RawDataElement) else element
    return convert_encodings(stated.value)


class _Reader:
    """One pass over one data set."""

    def __init__(self, content: bytes, stream: io.BytesIO, start: int, *, implicit: bool) -> None:
        self._content = content
        self._stream = stream
        self._spans: list[Span] = []
        self._elements: Iterator[RawDataElement | DataElement] = data_element_generator(
            stream, is_implicit_VR=implicit, is_little_endian=True
        )
        self.position = start
        self.character_set = b""

    def spans(self, beside: list[Reading]) -> list[Span]:
        """Read everything; what a file beside has at such a place with the same bytes is taken from there."""
        content, spans = self._content, self._spans
        # The character set comes first: what follows is decoded by it, so it has to be the same.
        while (one := self._next()) is not None and one.tag < _CHARACTER_SET:
            pass
        if one is not None and one.tag == _CHARACTER_SET:
            self.character_set = one.content
        others = [other for other in beside if other.character_set == self.character_set]
        position = self.position
        while one is not None:
            head = content[position : position + 4]
            for other in others:
                index = other.by_head.get(head)
                if index is None or not content.startswith(other.spans[index].content, position):
                    continue
                # What follows there as a rule follows here, too.
                for one in other.spans[index:]:
                    if not content.startswith(one.content, position):
                        break
                    spans.append(one)
                    position += len(one.content)
                break
            else:
                self.position = position
                one = self._next()
                position = self.position
        return spans

    def _next(self) -> Span | None:
        """Let pydicom read the element at the present position."""
        begin = self.position
        self._stream.seek(begin)
        try:
            element = next(self._elements, None)
        except EOFError:
            return None
        if element is None:
            return None
        self.position = self._stream.tell()
        span = Span(int(element.tag), self._content[begin : self.position], element)
        self._spans.append(span)
        return span


class Piece:
    """One element as it stands, decoded no further than a question needs: decoding is what takes the time."""

    __slots__ = ("_element", "_texts", "dataset", "length", "raw", "tag", "vr")

    def __init__(self, dataset: Dataset, element: RawDataElement | DataElement) -> None:
        self.dataset = dataset
        self._element = element
        self._texts: list[str] | None = None
        self.tag = int(element.tag)
        self.raw: bytes | None
        self.length: int
        if isinstance(element, RawDataElement):
            self.raw = element.value or b""
            self.length = element.length
            self.vr = _find_vr(dataset, element) if element.VR in (None, "UN") else str(element.VR)
        else:
            self.raw = element.value if isinstance(element.value, bytes) else None
            self.length = UNDEFINED
            self.vr = str(element.VR)

    @property
    def value(self) -> object:
        """The value as pydicom decodes it."""
        element, dataset = self._element, self.dataset
        if isinstance(element, DataElement):
            return element.value
        if element.VR is None and " or " in dictionary_vr(self.tag):
            return dataset[element.tag].value
        encoding = default_encoding if element.tag == _CHARACTER_SET else dataset.original_character_set or None
        return convert_raw_data_element(element, encoding=encoding, ds=dataset).value

    @property
    def texts(self) -> list[str]:
        """The values as texts, without padding; one empty text if there is none."""
        if self._texts is None:
            raw = self.raw
            if raw is not None and raw.isascii() and b"\x1b" not in raw:
                text = raw.decode("ascii")
                parts: list[object] = [text] if self.vr in _UNDIVIDED_VRS else [*text.split("\\")]
            else:
                value = self.value
                # A PersonName is iterable, too, letter by letter: only true lists are several values.
                parts = list(value) if isinstance(value, list | MultiValue) else [value]
            self._texts = [str("" if part is None else part).strip(" \0") for part in parts] or [""]
        return self._texts

    @property
    def items(self) -> list[Dataset]:
        """The items of a sequence."""
        value = self.value
        return list(value) if self.vr == "SQ" and value is not None else []  # type: ignore[call-overload]


def _find_vr(dataset: Dataset, element: RawDataElement) -> str:
    """Look up a VR that the file does not state, without decoding the value: that fails where a value is damaged."""
    told: dict[str, str] = {}
    raw_element_vr(element, told, ds=dataset)
    vr = told["VR"]
    return str(dataset[element.tag].VR) if " or " in vr else str(vr)


def dictionary_vr(tag: int) -> str:
    """Return the VR that the data dictionary (PS3.6) has for a tag; empty if it has none."""
    entry = DicomDictionary.get(tag)
    return entry[0] if entry is not None else ""
