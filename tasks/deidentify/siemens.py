"""What Siemens scanners keep in blobs of their own: the CSA headers and the protocol text, cleaned in place.

A CSA header (0029,xx10 of the image, 0029,xx20 of the series, creator SIEMENS CSA HEADER) is a list of named tags with
text items; the protocol is a text of some hundred kilobytes that stands in three of these tags, and on XA scanners in
(0021,xx19) by itself. Readers find their way by offsets and lengths, so a cleaned blob is as long as the original and
each part stands where it stood. Nothing is copied unless `data/siemens.json` allows it: the output starts blank, and
what the table names is written into it if it looks as the table says.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import json
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

TABLE_FILE = "siemens.json"

Cleaner = Callable[[bytes], bytes | None]
"""Takes a value and gives what may stand in its place, of the same length; None if nothing of it may."""

_MAGIC = b"SV10"
_UNUSED = b"\x04\x03\x02\x01"
_NAME_LENGTH = 64
_TAG_LENGTH = 84
_ITEM_LENGTH = 16
_MOST = 1000
"""The most tags, values or items that a header may claim; readers set the same bound."""

_TAG_WORDS = struct.Struct("<i4siii")
_ITEM_WORDS = struct.Struct("<4i")
_EMPTY_ITEM = _ITEM_WORDS.pack(0, 0, 205, 0)
_EMPTY_ITEMS = _EMPTY_ITEM * _MOST
_MARKS = frozenset({77, 205})
"""The constants that close a tag and an item: 77 in one with values, 205 in one without."""

_TAG_NAME = re.compile(rb"(?:[A-Za-z][\w.\-]{0,63})?", re.ASCII)
_NUMERIC_VRS = frozenset({b"DS", b"FD", b"FL", b"IS", b"SL", b"SS", b"UL", b"US"})

_BEGIN = b"### ASCCONV BEGIN"
_END = b"### ASCCONV END ###"
_BEGIN_LINE = re.compile(
    _BEGIN
    + rb"(?: object=MrProtDataImpl@MrProtocolData version=\d{1,10}"
    + rb" converter=%MEASCONST%/ConverterList/Prot_Converter\.txt)? ###"
)
_INDEX = re.compile(rb"\[\d{1,4}\]")
_LINE = re.compile(
    rb"(?P<key>[A-Za-z_][\w.\[\]]*)[ \t]*=[ \t]*(?P<quote>\"\"|\\\"|\"|)(?P<value>[^\"\r\n]*?)(?P=quote)[ \t]*",
    re.ASCII,
)
_LONGEST_LINE = 400
_SPACES = bytes(code if code in b"\r\n" else 0x20 for code in range(256))
"""Translates every byte but line breaks to a space."""

_REMEMBERED = range(1 << 14, 1 << 20)
"""Lengths in bytes of the blobs that are remembered: the large ones, which are equal all over a series, and none so
large that a few of them fill the memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiemensRow:
    """One row of the table as a person reads it.

    Attributes
    ----------
    place
        `csa` for a tag of the CSA headers, `protocol` for a key of the protocol text.
    name
        The tag's or key's name; `[*]` stands for any index.
    kind
        What the value may be: a kind of the section `values`, `term` for one of a few words, `protocol` for the
        protocol text, or `blank` for what is never kept.
    reason
        Why.
    """

    place: str
    name: str
    kind: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SiemensTable:
    """What may be kept of the CSA headers and of the protocol text.

    Attributes
    ----------
    digest
        SHA-256 of the file.
    rows
        Every row, for printing.
    csa
        The cleaner of each known tag; None for a tag whose name is known and whose values are never kept. The name of
        any other tag is not kept, either.
    protocol
        The cleaner of each key that may be kept, with `[*]` in place of indices.
    """

    digest: str
    rows: tuple[SiemensRow, ...]
    csa: Mapping[bytes, Cleaner | None]
    protocol: Mapping[bytes, Cleaner]


@functools.cache
def load_siemens_table() -> SiemensTable:
    """Read the table once."""
    content = importlib.resources.files("tasks.deidentify").joinpath("data", TABLE_FILE).read_bytes()
    sections = json.loads(content)
    cleaners: dict[str, Cleaner] = {row["kind"]: _matching(row["expression"]) for row in sections["values"]}
    number = cleaners["number"]
    cleaners["sequence_file"] = _masking(cleaners["sequence_file"], frozenset(sections["sequence_words"]))
    cleaners["protocol"] = clean_protocol
    rows: list[SiemensRow] = []
    csa: dict[bytes, Cleaner | None] = {}
    for row in sections["csa"]:
        kind = row["kind"]
        cleaner = _one_of(row["terms"]) if kind == "term" else None if kind == "blank" else cleaners[kind]
        for name in row["names"]:
            csa[name.encode("ascii")] = cleaner
            rows.append(SiemensRow(place="csa", name=name, kind=kind, reason=row["reason"]))
    protocol: dict[bytes, Cleaner] = {}
    for row in sections["protocol"]:
        for name in row["names"]:
            key = f"{row['under']}.{name}" if row["under"] else name
            protocol[key.encode("ascii")] = cleaners[row["kind"]]
            rows.append(SiemensRow(place="protocol", name=key, kind=row["kind"], reason=row["reason"]))
            for index in re.finditer(re.escape("[*]"), key):
                # Newer releases state the length of each array before its members.
                protocol[key[: index.start()].encode("ascii") + b".__attribute__.size"] = number
    return SiemensTable(
        digest=hashlib.sha256(content).hexdigest(),
        rows=tuple(rows),
        csa=MappingProxyType(csa),
        protocol=MappingProxyType(protocol),
    )


def _matching(expression: str) -> Cleaner:
    """Keep what matches as a whole; spaces that fill a value up are no part of it."""
    matches = re.compile(expression.encode("ascii")).fullmatch
    return lambda value: value if matches(value.rstrip(b" ")) else None


def _one_of(terms: Iterable[str]) -> Cleaner:
    known = frozenset(term.encode("ascii") for term in terms)
    return lambda value: value if value.rstrip(b" ") in known else None


def _masking(well_formed: Cleaner, words: frozenset[str]) -> Cleaner:
    """Keep the words of a sequence's file name that are on the list, and write X over the others."""

    def mask(found: re.Match[bytes]) -> bytes:
        word = found[0]
        known = word.decode("ascii").lower() in words or re.fullmatch(rb"\d{1,3}|(?i:wip)\d{1,4}[A-Za-z]?|X+", word)
        return word if known else b"X" * len(word)

    def clean(value: bytes) -> bytes | None:
        if well_formed(value) is None:
            return None
        place, slash, name = value.partition(b"\\")
        return place + slash + re.sub(rb"[^_\-. \\]+", mask, name)

    return clean


class _Head(NamedTuple):
    """The 84 bytes before a tag's items: what they say, what is written in their place, and what cleans the items."""

    n_items: int
    strict: bool
    written: bytes
    cleaner: Cleaner | None
    numeric: bool


class _Form(NamedTuple):
    """How a CSA header states the lengths of items.

    CSA2 states them in the second word of each. CSA1 does, too, or else in the first word together with a surplus: the
    number of items of the first tag or, as some readers have it, of the second.
    """

    is_csa2: bool
    word: int
    surplus: int


class _Tag(NamedTuple):
    """One tag of a CSA header: its head, offset and length of each item that is not empty, and where it ends.

    Bytes from the tag's beginning.
    """

    head: _Head
    items: list[tuple[int, int]]
    end: int


def clean_csa(value: bytes) -> bytes | None:
    """Clean a CSA header, of an image or of a series, in either form (CSA1, or CSA2 with the magic word SV10).

    Parameters
    ----------
    value
        The element's value.

    Returns
    -------
    bytes or None
        The same number of bytes with every tag and item where it was: tags of the table with values of the kind it
        states are copied byte for byte, protocols are cleaned by `clean_protocol`, and all else is blank, the names of
        unknown tags, the bytes after a name or value and those after the last tag included. A numeric value that is
        never kept reads 0, since readers convert what is not empty. None if the value cannot be read to its end or the
        result does not read as it should: the element is then to be removed.
    """
    return _remembered_csa(value) if len(value) in _REMEMBERED else _cleaned_csa(value)


@functools.lru_cache(maxsize=4)
def _remembered_csa(value: bytes) -> bytes | None:
    return _cleaned_csa(value)


def _cleaned_csa(value: bytes) -> bytes | None:
    forms = list(_forms(value))
    for form in forms:
        cleaned = _clean_tags(value, form)
        if cleaned is not None:
            # Readers try the forms in this order, so one may take what was cleaned for an earlier form.
            others = forms[: forms.index(form)]
            return None if not cleaned or any(_can_be_read(cleaned, other) for other in others) else cleaned
    return None


def _forms(value: bytes) -> Iterator[_Form]:
    """Yield the forms that a header may have, in the order in which readers try them."""
    if value.startswith(_MAGIC):
        yield _Form(is_csa2=True, word=1, surplus=0)
        return
    yield _Form(is_csa2=False, word=1, surplus=0)
    if len(value) < 8 + _TAG_LENGTH:
        return
    counted = [_TAG_WORDS.unpack_from(value, 8 + _NAME_LENGTH)[3]]
    if counted == [0] and len(value) >= 8 + 2 * _TAG_LENGTH:
        counted.append(_TAG_WORDS.unpack_from(value, 8 + _TAG_LENGTH + _NAME_LENGTH)[3])
    for surplus in counted:
        if 0 <= surplus <= _MOST:
            yield _Form(is_csa2=False, word=0, surplus=surplus)


def _begin(value: bytes, form: _Form) -> tuple[int, int]:
    """Return how many tags there are and where the first begins; (0, 0) if this is no header."""
    first = 16 if form.is_csa2 else 8
    if len(value) < first:
        return 0, 0
    count, check = struct.unpack_from("<2I", value, first - 8)
    return (count, first) if 0 < count <= _MOST and check in (77, 101) else (0, 0)


def _can_be_read(value: bytes, form: _Form) -> bool:
    count, position = _begin(value, form)
    for _ in range(count):
        tag = _read_tag(value, position, form)
        if tag is None:
            return False
        position += tag.end
    return count > 0


class _LastHeader(NamedTuple):
    """A header that was cleaned: what it was, what became of it, and where its first bytes and each tag end."""

    value: bytes
    cleaned: bytes
    ends: npt.NDArray[np.int64]


def _clean_tags(value: bytes, form: _Form) -> bytes | None:
    """Clean a header tag by tag; None if it cannot be read in this form, nothing if a tag did not read as it should.

    Most tags are the same in all images of a series: what became of them is remembered.
    """
    last = _last_headers.get((form, len(value)))
    if last is not None and (cleaned := _clean_along(value, form, last)) is not None:
        return cleaned
    count, first = _begin(value, form)
    if not count:
        return None
    head = value[first - 8 : first]
    if form.is_csa2:
        head = _MAGIC + (_UNUSED if value[4:8] == _UNUSED else bytes(4)) + head
    pieces = [head]
    position = first
    ends = [first]
    for _ in range(count):
        tag = _read_tag(value, position, form)
        if tag is None:
            return None
        piece = _known_tag(value[position : position + tag.end], tag, form)
        if piece is None:
            return b""
        pieces.append(piece)
        position += len(piece)
        ends.append(position)
    # What follows the last tag is left-over memory.
    pieces.append(bytes(len(value) - position))
    cleaned = b"".join(pieces)
    if len(value) <= _LONGEST_HEADER:
        if len(_last_headers) >= _MOST_HEADERS:
            _last_headers.clear()
        _last_headers[form, len(value)] = _LastHeader(value, cleaned, np.array(ends))
    return cleaned


def _clean_along(value: bytes, form: _Form, last: _LastHeader) -> bytes | None:
    """Clean a header like another one with tags of the same lengths; None if it is not like it.

    How a tag is read and cleaned hangs on its own bytes alone: those that are the same need no second look.
    """
    places = np.flatnonzero(np.frombuffer(value, np.uint8) != np.frombuffer(last.value, np.uint8))
    changed = np.unique(np.searchsorted(last.ends, places, side="right"))
    cleaned = bytearray(last.cleaned)
    for number in changed.tolist():
        if number == 0:
            return None
        if number == len(last.ends):
            break
        start, end = int(last.ends[number - 1]), int(last.ends[number])
        tag = _read_tag(value, start, form)
        if tag is None or tag.end != end - start:
            return None
        piece = _known_tag(value[start:end], tag, form)
        if piece is None:
            return None
        cleaned[start:end] = piece
    return bytes(cleaned)


def _known_tag(content: bytes, tag: _Tag, form: _Form) -> bytes | None:
    """Clean a tag, or remember what became of it."""
    key = (form, content)
    piece = _known_tags.get(key)
    if piece is None:
        piece = _clean_tag(content, tag, form)
        if piece is not None and len(content) <= _LONGEST_KNOWN_TAG:
            if len(_known_tags) >= _MOST_KNOWN_TAGS:
                _known_tags.clear()
            _known_tags[key] = piece
    return piece


_LONGEST_KNOWN_TAG = 2048
_MOST_KNOWN_TAGS = 4096
"""Tags of so many bytes, and so many of them, are remembered: 20 MB at the very most."""

_LONGEST_HEADER = 1 << 14
_MOST_HEADERS = 64
"""Headers of so many bytes, and so many of them, are remembered: 3 MB at the very most. Larger ones are those of
series, which are remembered whole."""

_known_tags: dict[tuple[_Form, bytes], bytes] = {}
_last_headers: dict[tuple[_Form, int], _LastHeader] = {}
"""By form and length."""


def _clean_tag(content: bytes, tag: _Tag, form: _Form) -> bytes | None:
    """Clean one tag; None if the result, read from anew, is not what was read and what was to be kept."""
    head = tag.head
    output = bytearray(len(content))
    _write_structure(output, content, tag, form.surplus)
    kept: list[tuple[int, bytes]] = []
    for offset, length in tag.items:
        text = content[offset : offset + length].partition(b"\0")[0]
        if not text:
            continue
        cleaned = head.cleaner(text) if head.cleaner is not None else None
        if cleaned is not None:
            output[offset : offset + len(text)] = cleaned
            kept.append((offset, cleaned))
        elif head.cleaner is None and head.numeric:
            output[offset] = 0x30
    result = bytes(output)
    again = _read_tag(result, 0, form)
    if again is None or again.items != tag.items or again.head.written != head.written or len(result) != len(content):
        return None
    return result if all(result.startswith(text, offset) for offset, text in kept) else None


def _write_structure(output: bytearray, value: bytes, tag: _Tag, surplus: int) -> None:
    """Write a tag's head and the four words before each of its items."""
    position = _TAG_LENGTH
    output[:position] = tag.head.written
    for offset, length in tag.items:
        start = offset - _ITEM_LENGTH
        if position < start:
            _write_empty(output, value, position, start, surplus)
        words = value[start:offset]
        if words != _ITEM_WORDS.pack(length, length, 77, length):
            words = _proper(words, length, surplus)
        output[start:offset] = words
        position = offset + (length + 3 & ~3)
    if position < tag.end:
        _write_empty(output, value, position, tag.end, surplus)


def _write_empty(output: bytearray, value: bytes, start: int, stop: int, surplus: int) -> None:
    """Write the words of a run of empty items."""
    words = value[start:stop]
    if not _EMPTY_ITEMS.startswith(words):
        each = (words[at : at + _ITEM_LENGTH] for at in range(0, len(words), _ITEM_LENGTH))
        words = b"".join([_proper(item, 0, surplus) for item in each])
    output[start:stop] = words


def _proper(words: bytes, length: int, surplus: int) -> bytes:
    """Keep of an item's four words those that say its length or are one of the constants; zero the others."""
    allowed = {0, length, *_MARKS}
    first, *others = _ITEM_WORDS.unpack(words)
    return _ITEM_WORDS.pack(
        first if first == length + surplus or first in allowed else 0,
        *(word if word in allowed else 0 for word in others),
    )


def _read_tag(value: bytes, start: int, form: _Form) -> _Tag | None:
    """Read the tag that begins at an offset; None if none does."""
    size = len(value)
    position = start + _TAG_LENGTH
    head = _head(value[start:position])
    if head is None or not (head.strict or form.is_csa2):
        return None
    items: list[tuple[int, int]] = []
    for _ in range(head.n_items):
        if not form.surplus and value.startswith(_EMPTY_ITEM, position):
            position += _ITEM_LENGTH
            continue
        if position + _ITEM_LENGTH > size:
            return None
        length = _ITEM_WORDS.unpack_from(value, position)[form.word] - form.surplus
        position += _ITEM_LENGTH
        if length:
            if not 0 < length <= size - position:
                return None
            items.append((position - start, length))
            position += length + 3 & ~3
    return _Tag(head, items, position - start)


@functools.lru_cache(maxsize=4096)
def _head(content: bytes) -> _Head | None:
    """Read the head of a tag; None if it is none. Heads recur in every image of a scanner."""
    if len(content) < _TAG_LENGTH:
        return None
    name = content[:_NAME_LENGTH].partition(b"\0")[0]
    multiplicity, vr, syngo, n_items, mark = _TAG_WORDS.unpack_from(content, _NAME_LENGTH)
    table = load_siemens_table().csa
    if not 0 <= multiplicity <= _MOST or not 0 <= n_items <= _MOST or not _TAG_NAME.fullmatch(name):
        return None
    vr = vr[:2] if vr[:2].isalpha() and vr[:2].isupper() else b""
    words = _TAG_WORDS.pack(
        multiplicity,
        vr,
        syngo if 0 <= syngo < 128 else 0,
        n_items,
        mark if mark in _MARKS else 77 if n_items else 205,
    )
    return _Head(
        n_items=n_items,
        strict=mark in _MARKS,
        written=(name if name in table else b"").ljust(_NAME_LENGTH, b"\0") + words,
        cleaner=table.get(name),
        numeric=vr in _NUMERIC_VRS,
    )


def clean_protocol(text: bytes) -> bytes | None:
    """Clean a protocol: the text of MrPhoenixProtocol and its like, or the value of XA's (0021,xx19).

    Parameters
    ----------
    text
        The text, in a single-byte character set.

    Returns
    -------
    bytes or None
        The same number of bytes with the same line breaks. Between each `### ASCCONV BEGIN ... ###` and its end, lines
        whose key is in the table and whose value is of the kind it states are kept; all else is spaces, except NUL
        bytes that fill the text up. None if a block has no end or the result does not read as it should.
    """
    return _remembered_protocol(text) if len(text) in _REMEMBERED else _checked_protocol(text)


@functools.lru_cache(maxsize=8)
def _remembered_protocol(text: bytes) -> bytes | None:
    return _checked_protocol(text)


def _checked_protocol(text: bytes) -> bytes | None:
    """Clean, and clean the result again: what reads as it should does not change."""
    cleaned = _cleaned_protocol(text)
    if cleaned is None or len(cleaned) != len(text) or _cleaned_protocol(cleaned) != cleaned:
        return None
    return cleaned


def _cleaned_protocol(text: bytes) -> bytes | None:
    parts: list[bytes] = []
    position = 0
    for begin, end in _blocks(text):
        if end < 0:
            return None
        parts.append(text[position:begin].translate(_SPACES))
        head, *lines = text[begin:end].split(b"\n")
        parts.append(b"\n".join([_clean_head(head), *map(_clean_line, lines)]))
        parts.append(_END)
        position = end + len(_END)
    rest = text[position:]
    words = rest.rstrip(b"\0")
    parts.append(words.translate(_SPACES))
    parts.append(bytes(len(rest) - len(words)))
    return b"".join(parts)


def _blocks(text: bytes) -> Iterator[tuple[int, int]]:
    """Yield where each block begins and where its end is marked; -1 if it is not."""
    begin = text.find(_BEGIN)
    while begin >= 0:
        end = text.find(_END, begin)
        yield begin, end
        begin = text.find(_BEGIN, end + len(_END)) if end >= 0 else -1


def _clean_head(line: bytes) -> bytes:
    stated = line.rstrip(b"\r")
    kept = stated if _BEGIN_LINE.fullmatch(stated) else _BEGIN + stated[len(_BEGIN) :].translate(_SPACES)
    return kept + line[len(stated) :]


def _clean_line(line: bytes) -> bytes:
    """Keep a line, or give as many spaces; lines recur all over a patient's series, and short ones are remembered."""
    return _remembered_line(line) if len(line) <= _LONGEST_LINE else line.translate(_SPACES)


@functools.lru_cache(maxsize=1 << 14)
def _remembered_line(line: bytes) -> bytes:
    stated = line.rstrip(b"\r")
    found = _LINE.fullmatch(stated)
    if found is not None:
        cleaner = load_siemens_table().protocol.get(_INDEX.sub(b"[*]", found["key"]))
        cleaned = cleaner(found["value"]) if cleaner is not None else None
        if cleaned is not None:
            return line[: found.start("value")] + cleaned + line[found.end("value") :]
    return line.translate(_SPACES)
