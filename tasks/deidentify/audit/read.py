"""Read an export and its source as pydicom reads them, each element that stands in both byte by byte only once.

pydicom reads an element from the bytes that begin where the one before it ends. So where another file's element stands
at such a place with the same bytes, reading it again would give the same. The files of a series differ in a few
elements: between those, whole stretches are compared at once with those of the file before.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, MutableSequence, Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple, cast

import pydicom
from pydicom._dicom_dict import DicomDictionary
from pydicom.charset import convert_encodings, default_encoding
from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element, empty_value_for_VR
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filereader import data_element_generator
from pydicom.hooks import raw_element_vr
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

UNDEFINED = 0xFFFFFFFF
TEXT_VRS = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
PIXELS = frozenset({0x7FE00010, 0x7FE00008, 0x7FE00009})
"""Pixel Data, Float Pixel Data, Double Float Pixel Data: compared apart, and not searched."""

_LONG_PIXELS = 1 << 16

_CHARACTER_SET = 0x00080005
_TRANSFER_SYNTAX = 0x00020010
_OTHERWISE_WRITTEN = (DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian)
_UNDIVIDED_VRS = frozenset({"LT", "ST", "UR", "UT"})
"""Text VRs in which a backslash is a letter (PS3.5 table 6.2-1)."""

_SHORT_VRS = {
    vr.encode(): vr
    for vr in "AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()  # noqa: SIM905
}
_LONG_VRS = {vr.encode(): vr for vr in "OB OD OF OL OV OW SQ SV UC UN UR UT UV".split()}  # noqa: SIM905
"""VRs with 16 and with 32 bits for the length (PS3.5 section 7.1.2)."""

_IMPLICIT_HEAD = struct.Struct("<HHL").unpack_from
_EXPLICIT_HEAD = struct.Struct("<HH2sH").unpack_from
_LONG_LENGTH = struct.Struct("<L").unpack_from

_LARGEST_FRAME = 1 << 22
"""Bytes of the elements around the pixels up to which a file is kept for the next to be read along."""


class Span(NamedTuple):
    """One element of the data set.

    Attributes
    ----------
    tag
        As an integer.
    content
        Its bytes from its tag to its end, of pixel data its head alone; empty where the file does not tell.
    element
        As pydicom reads it.
    """

    tag: int
    content: bytes
    element: RawDataElement | DataElement


Stretch = tuple[int, int, bytes]
"""The indices of its first element and of the one behind its last, and its bytes."""


class Frame:
    """The elements in front of the pixels of a file, kept to read the next one along it.

    Parameters
    ----------
    reading
        The file.
    """

    def __init__(self, reading: Reading) -> None:
        spans: list[Span] = reading.spans
        along: Frame | None = reading.along
        self.stretches: Sequence[Stretch]
        self.creators: list[str]
        self.places: dict[int, int]
        if along is not None and len(reading.stretches) <= len(along.spans) // 2:
            self.stretches = reading.stretches
            self.creators, self.places = along.creators, along.places
            count = len(along.spans)
        else:
            count = next((index for index, span in enumerate(spans) if span.tag in PIXELS), len(spans))
            self.stretches = [(0, count, b"".join(span.content for span in spans[:count]))]
            self.creators = creators_of(spans[:count])
            self.places = {span.tag: index for index, span in enumerate(spans[:count])}
        self.spans: list[Span] = spans[:count]
        self.tail = tuple(span.tag for span in spans[count:])
        self.by_tag = reading.by_tag.copy()
        for tag in self.tail:
            self.by_tag.pop(tag, None)
        self.is_implicit: bool = reading.is_implicit
        self.character_set = reading.character_set
        self.encodings = reading.encodings

    @classmethod
    def of(cls, reading: Reading) -> Frame | None:
        """Keep a file's, unless it holds more than 4 MiB, or a tag twice or bytes beside its elements."""
        if not reading.is_whole or len(reading.by_tag) != len(reading.spans):
            return None
        frame = cls(reading)
        is_simple = not any(tag & 0x10000 for tag in frame.tail)
        return frame if is_simple and sum(len(joined) for *_, joined in frame.stretches) <= _LARGEST_FRAME else None

    @cached_property
    def by_head(self) -> dict[bytes, int]:
        """Indices into the spans, by the four bytes of their tags."""
        return {span.content[:4]: index for index, span in enumerate(self.spans)}


def creators_of(spans: Sequence[Span]) -> list[str]:
    """Return for each element who reserved its private block, as it stands; empty where there is none."""
    creators: dict[int, str] = {}
    found = []
    for span in spans:
        tag = span.tag
        creator = ""
        if tag & 0x10000:
            if tag & 0xFFFF < 0x1000:
                value = span.element.value
                creators[tag] = value.decode("latin-1") if isinstance(value, bytes) else str(value or "")
            else:
                creator = creators.get(tag & 0xFFFF0000 | (tag & 0xFFFF) >> 8, "")
        found.append(creator)
    return found


class Reading:
    """One file, read.

    Attributes
    ----------
    spans
        The elements of the data set in their order, those with the same tag each.
    by_tag
        The same by their tags; of those with the same tag, the last.
    meta
        The elements of the file meta information, by their tags.
    around
        The bytes that belong to no span, without the preamble.
    is_whole
        Whether the spans follow one another to the end of the file.
    is_implicit, is_little_endian
        How the data set is written.
    encodings
        In which its texts are decoded.
    character_set
        The element that states them, as it stands; empty if there is none.
    along, changed, stretches
        The frame that this file was read along, since it has the same tags in the same order, or None; the indices of
        the elements in it that are others, and where the file is like that one.
    """

    def __init__(
        self,
        *,
        spans: list[Span],
        by_tag: dict[int, Span],
        meta: dict[int, RawDataElement],
        around: bytes,
        is_whole: bool,
        is_implicit: bool,
        encodings: str | MutableSequence[str],
        character_set: bytes,
        along: Frame | None = None,
        changed: Sequence[int] = (),
        stretches: Sequence[Stretch] = (),
    ) -> None:
        self.spans = spans
        self.by_tag = by_tag
        self.meta = meta
        self.around = around
        self.is_whole = is_whole
        self.is_implicit = is_implicit
        self.is_little_endian = True
        self.encodings = encodings
        self.character_set = character_set
        self.along = along
        self.changed = changed
        self.stretches = stretches

    @cached_property
    def dataset(self) -> FileDataset:
        """As pydicom would read it; made when it is asked for."""
        elements = {span.element.tag: _copied(span.element) for span in self.spans}
        meta = FileMetaDataset({element.tag: element for element in self.meta.values()})
        dataset = FileDataset(
            io.BytesIO(), elements, None, file_meta=meta, is_implicit_VR=self.is_implicit, is_little_endian=True
        )
        dataset.set_original_encoding(
            is_implicit_vr=self.is_implicit, is_little_endian=True, character_encoding=self.encodings
        )
        return dataset

    def meta_texts(self, tag: int) -> list[str]:
        """Return the values of an element of the file meta information as texts; nothing if it is not there."""
        element = self.meta.get(tag)
        return Piece(_NOWHERE, element).texts if element is not None else []


def read_file(content: bytes, *beside: Reading | Frame | None, force: bool = False) -> Reading:
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
    syntax = _syntax_of(meta.get(_TRANSFER_SYNTAX))
    vr = content[start + 4 : start + 6]
    implicit = not (len(vr) == 2 and b"AA" <= vr <= b"ZZ" and vr.isalpha())
    if syntax is None or syntax in _OTHERWISE_WRITTEN or implicit != (syntax == ImplicitVRLittleEndian):
        return _read_slowly(content, force=force)
    alike = [one for one in beside if one and one.spans and one.spans[0].content and one.is_implicit == implicit]
    for one in alike:
        if isinstance(one, Frame):
            reader = _Reader(content, stream, start, implicit=implicit, encodings=one.encodings)
            if reader.follow(one):
                return reader.reading(meta, start, one)
    reader = _Reader(content, stream, start, implicit=implicit)
    reader.read([one if isinstance(one, Frame) else Frame(one) for one in alike])
    return reader.reading(meta, start, None)


def _read_meta(content: bytes, stream: io.BytesIO) -> tuple[dict[int, RawDataElement], int]:
    """Read the file meta information; it is empty where there is none. Tell where the data set begins."""
    if content[128:132] != b"DICM":
        return {}, 0
    meta: dict[int, RawDataElement] = {}
    position = 132
    while content.startswith(b"\2\0", position):
        plain = _read_plain(content, position, implicit=False)
        if plain is None:
            break
        element, position = plain
        meta[element.tag] = element
    else:
        return meta, position
    stream.seek(132)
    elements = data_element_generator(
        stream, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, *_: tag >> 16 != 2
    )
    return {int(element.tag): element for element in elements}, stream.tell()  # type: ignore[misc]


@lru_cache(maxsize=64)
def _decode_syntax(vr: str | None, value: bytes) -> object:
    element = RawDataElement(
        BaseTag(_TRANSFER_SYNTAX), vr, len(value), value, 0, is_implicit_VR=False, is_little_endian=True
    )
    return convert_raw_data_element(element).value


def _syntax_of(element: RawDataElement | None) -> object:
    return _decode_syntax(element.VR, element.value or b"") if element is not None else None


def _read_slowly(content: bytes, *, force: bool) -> Reading:
    """Read what is written in big endian or deflated, or in another way than it says."""
    dataset = pydicom.dcmread(io.BytesIO(content), force=force)
    spans = [Span(int(element.tag), b"", element) for element in dataset.values()]
    around = content[128:]
    for tag in PIXELS:
        value = dataset.get_item(tag).value if tag in dataset else None
        if isinstance(value, bytes) and value:
            begin = around.rfind(value)
            if begin >= 0:
                around = around[:begin] + b"\n" + around[begin + len(value) :]
    implicit, little_endian = dataset.original_encoding
    reading = Reading(
        spans=spans,
        by_tag={span.tag: span for span in spans},
        meta={int(element.tag): element for element in dataset.file_meta.values()},  # type: ignore[misc]
        around=around,
        is_whole=False,
        is_implicit=implicit is not False,
        encodings=dataset.original_character_set,
        character_set=repr(dataset.original_character_set).encode(),
    )
    reading.is_little_endian = little_endian is not False
    reading.dataset = dataset
    return reading


def _copied(element: RawDataElement | DataElement) -> RawDataElement | DataElement:
    """Return an element with a value of its own, if it has none yet."""
    if not isinstance(element, RawDataElement):
        return element
    value: object = element.value
    return element._replace(value=bytes(value)) if isinstance(value, memoryview) else element


def _encodings(element: RawDataElement | DataElement | None) -> str | MutableSequence[str]:
    if element is None:
        return default_encoding
    stated = convert_raw_data_element(element) if isinstance(element, RawDataElement) else element
    return convert_encodings(stated.value)


def _read_plain(content: bytes, position: int, *, implicit: bool) -> tuple[RawDataElement, int] | None:
    """Read an element whose length is told as pydicom reads it, and tell where it ends; None of any other."""
    if len(content) - position < 12:
        return None
    vr: str | None = None
    begin = position + 8
    if implicit:
        group, number, length = _IMPLICIT_HEAD(content, position)
    else:
        group, number, told, length = _EXPLICIT_HEAD(content, position)
        if (vr := _SHORT_VRS.get(told)) is None:
            if (vr := _LONG_VRS.get(told)) is None:
                return None
            begin = position + 12
            (length,) = _LONG_LENGTH(content, position + 8)
    tag = group << 16 | number
    end = begin + length
    if end > len(content) or length == UNDEFINED or tag == _CHARACTER_SET or group == 0xFFFE:
        return None
    if tag in PIXELS and length >= _LONG_PIXELS:
        # A copy costs more than all that is done with them; `Reading.dataset` makes one for pydicom.
        value = cast("bytes | None", memoryview(content)[begin:end])
    else:
        value = content[begin:end] if length else cast("bytes | None", empty_value_for_VR(vr, raw=True))
    return RawDataElement(BaseTag(tag), vr, length, value, begin, implicit, is_little_endian=True), end


class _Reader:
    """One pass over one data set."""

    def __init__(
        self,
        content: bytes,
        stream: io.BytesIO,
        start: int,
        *,
        implicit: bool,
        encodings: str | MutableSequence[str] = default_encoding,
    ) -> None:
        self._content = content
        self._stream = stream
        self._implicit = implicit
        self._spans: list[Span] = []
        self._by_tag: dict[int, Span] = {}
        self._changed: list[int] = []
        self._stretches: list[Stretch] = []
        self._encodings = encodings
        self._elements: Iterator[RawDataElement | DataElement] | None = None
        self._position = start
        self._character_set = b""

    def reading(self, meta: dict[int, RawDataElement], start: int, along: Frame | None) -> Reading:
        """Return what was read."""
        content, position = self._content, self._position
        return Reading(
            spans=self._spans,
            by_tag=self._by_tag,
            meta=meta,
            around=content[128:start] + content[position:],
            is_whole=position == len(content),
            is_implicit=self._implicit,
            encodings=self._encodings,
            character_set=self._character_set,
            along=along,
            changed=self._changed if along is not None else (),
            stretches=self._stretches,
        )

    def follow(self, frame: Frame) -> bool:
        """Read along a file with the same tags in the same order; tell whether this one has them."""
        content, known, spans = self._content, frame.spans, frame.spans.copy()
        position = self._position
        for stretch in frame.stretches:
            first, behind, joined = stretch
            if content.startswith(joined, position):
                position += len(joined)
                self._stretches.append(stretch)
                continue
            begin, begun = first, position
            for index in range(first, behind):
                one = known[index]
                if content.startswith(one.content, position):
                    position += len(one.content)
                    continue
                if one.tag == _CHARACTER_SET or not content.startswith(one.content[:4], position):
                    return False
                if begin < index:
                    self._stretches.append((begin, index, content[begun:position]))
                self._position = position
                other = self._next()
                if other is None:
                    return False
                spans[index] = other
                self._changed.append(index)
                self._stretches.append((index, index + 1, other.content))
                begin, begun = index + 1, self._position
                position = begun
            if begin < behind:
                self._stretches.append((begin, behind, content[begun:position]))
        self._position = position
        self._character_set, self._encodings = frame.character_set, frame.encodings
        self._spans = spans
        self._by_tag = frame.by_tag.copy()
        for index in self._changed:
            self._by_tag[spans[index].tag] = spans[index]
        tail = []
        while (last := self._next()) is not None:
            if last.tag in self._by_tag:
                return False
            tail.append(last.tag)
            spans.append(last)
            self._by_tag[last.tag] = last
        return tuple(tail) == frame.tail

    def read(self, beside: list[Frame]) -> None:
        """Read everything; what a file beside has at such a place with the same bytes is taken from there."""
        content, spans = self._content, self._spans
        # The character set comes first: what follows is decoded by it, so it has to be the same.
        one: Span | None
        while (one := self._next()) is not None:
            spans.append(one)
            if one.tag >= _CHARACTER_SET:
                break
        if one is not None and one.tag == _CHARACTER_SET:
            self._character_set = one.content
        others = [other for other in beside if other.character_set == self._character_set]
        position = self._position
        while one is not None:
            head = content[position : position + 4]
            for other in others:
                index = other.by_head.get(head)
                if index is None or not content.startswith(other.spans[index].content, position):
                    continue
                # What follows there as a rule follows here, too.
                for same in other.spans[index:]:
                    if not content.startswith(same.content, position):
                        break
                    spans.append(same)
                    position += len(same.content)
                break
            else:
                self._position = position
                one = self._next()
                if one is not None:
                    spans.append(one)
                position = self._position
        self._by_tag = {span.tag: span for span in spans}
        # As with pydicom, an element that comes twice is the last, and decides for the texts before it, too.
        stated = self._by_tag.get(_CHARACTER_SET)
        self._encodings = _encodings(stated.element if stated is not None else None)

    def _next(self) -> Span | None:
        """Read the element at the present position."""
        begin = self._position
        plain = _read_plain(self._content, begin, implicit=self._implicit)
        element: RawDataElement | DataElement
        if plain is not None:
            element, self._position = plain
        else:
            told = self._ask_pydicom()
            if told is None:
                return None
            element, self._position = told, self._stream.tell()
        tag = int(element.tag)
        end = self._position if tag not in PIXELS else begin + (8 if self._implicit else 12)
        return Span(tag, self._content[begin:end], element)

    def _ask_pydicom(self) -> RawDataElement | DataElement | None:
        if self._elements is None:
            self._elements = data_element_generator(
                self._stream, is_implicit_VR=self._implicit, is_little_endian=True, encoding=self._encodings
            )
        self._stream.seek(self._position)
        try:
            return next(self._elements, None)
        except EOFError:
            return None


_NOWHERE = Dataset()


class Piece:
    """One element as it stands, decoded no further than a question needs: decoding is what takes the time."""

    __slots__ = ("_element", "_texts", "_where", "length", "raw", "tag", "vr")

    def __init__(self, where: Dataset | Reading, element: RawDataElement | DataElement) -> None:
        self._where = where
        self._element = element
        self._texts: list[str] | None = None
        self.tag = int(element.tag)
        self.raw: bytes | None
        self.length: int
        if isinstance(element, RawDataElement):
            self.raw = element.value or b""
            self.length = element.length
            self.vr = _find_vr(self.dataset, element) if element.VR in (None, "UN") else str(element.VR)
        else:
            self.raw = element.value if isinstance(element.value, bytes) else None
            self.length = UNDEFINED
            self.vr = str(element.VR)

    @property
    def dataset(self) -> Dataset:
        """The data set or the item that it stands in."""
        return self._where.dataset if isinstance(self._where, Reading) else self._where

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
