"""Look for canaries in what any tool made of planted files: in bytes and names, in every encoding, case and packing.

Free of pytest and of what our own rewriter knows, so that benchmarks can put other tools under the same search.
"""

from __future__ import annotations

import datetime as dt
import functools
import io
import os
import re
import struct
import unicodedata
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom

from tests.deidentify.canary_set import Canary, Planted

_CODECS = ("utf-8", "latin-1", "utf-16-le", "utf-16-be", "shift_jis", "iso2022_jp", "euc_jp", "euc_kr", "gb18030")
_CODECS += ("cp1252", "iso8859_5", "iso8859_7", "utf-7")
_ESCAPE = re.compile(rb"\x1b[\x20-\x2f]+[\x30-\x7e]")
_PACKED = re.compile(rb"\x1f\x8b\x08|\x78[\x01\x5e\x9c\xda]")
_DAY = re.compile(r"(\d{4})(\d{2})(\d{2})")
_SHORTEST = 4
_LARGEST_UNPACKED = 1 << 24
_DEEPEST = 3

Export = Callable[[bytes], bytes | None]
"""A tool: takes a file's bytes and gives those of its export, or None if it exports nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What became of a set of canaries.

    Attributes
    ----------
    planted
        Canaries looked for.
    places
        Distinct places among them.
    survived
        Those found in the exports.
    unplanted
        Those that cannot be found in their own source: the set or the search is broken if there are any.
    refused
        Bases that the tool did not export.
    """

    planted: int
    places: int
    survived: tuple[Canary, ...]
    unplanted: tuple[Canary, ...]
    refused: tuple[str, ...]

    def surviving_places(self) -> list[str]:
        """Return the distinct places whose canaries were found in some export."""
        return sorted({canary.place for canary in self.survived})

    def __str__(self) -> str:
        found = len(self.surviving_places())
        return f"{found} of {self.places} places leak ({len(self.survived)} of {self.planted} canaries)"


def score(files: Iterable[Planted], export: Export, *, check_sources: bool = True) -> Score:
    """Export each file with a tool, and look for the file's canaries in the result."""
    planted: list[Canary] = []
    survived: list[Canary] = []
    unplanted: list[Canary] = []
    refused: list[str] = []
    for file in files:
        planted += file.canaries
        if check_sources:
            there = {canary.place for canary in survivors(file.content, file.canaries, names=(file.path,))}
            unplanted += [canary for canary in file.canaries if canary.place not in there]
        content = export(file.content)
        if content is None:
            refused.append(f"{file.vendor}, {file.base}")
        else:
            survived += survivors(content, file.canaries)
    return _score(planted, survived, unplanted, refused)


def score_folder(files: Iterable[Planted], folder: Path) -> Score:
    """Look for the canaries of all files in a folder of exports: in contents, and in names of files and folders."""
    planted = [canary for file in files for canary in file.canaries]
    found: set[int] = set()
    for _, content, names in _contents(folder):
        found |= {id(canary) for canary in survivors(content, planted, names=names)}
    return _score(planted, [canary for canary in planted if id(canary) in found], [], [])


def _score(planted: list[Canary], survived: list[Canary], unplanted: list[Canary], refused: list[str]) -> Score:
    return Score(
        planted=len(planted),
        places=len({canary.place for canary in planted}),
        survived=tuple(survived),
        unplanted=tuple(unplanted),
        refused=tuple(refused),
    )


def survivors(content: bytes, canaries: Iterable[Canary], names: Iterable[str] = ()) -> list[Canary]:
    """Return the canaries that stand in a file's content, or in any of some names."""
    hay = haystack(content, names)
    beginnings = _beginnings(hay)
    return [
        canary
        for canary in canaries
        if any(_stands(form, hay) for form in _forms(canary) if form.beginning in beginnings)
    ]


def _beginnings(hay: bytes) -> set[int]:
    """Return each four bytes in a row that occur, for most of what is looked for does not even begin."""
    ends = (len(hay) - offset & ~3 for offset in range(4))
    words = [np.frombuffer(hay[offset : offset + end], "<u4") for offset, end in enumerate(ends) if end > 0]
    return set(np.unique(np.concatenate(words)).tolist()) if words else set()


def sightings(folder: Path, planted: Mapping[str, str]) -> list[str]:
    """List where tokens, by place, stand in a tree: in names of files and folders, and in contents."""
    kinds = {place: _kind_of(token) for place, token in planted.items()}
    canaries = [Canary(place=place, kind=kinds[place], token=token, vendor="") for place, token in planted.items()]
    seen = []
    for where, content, names in _contents(folder):
        seen += [f"{canary.place}, {where}" for canary in survivors(content, canaries, names)]
    return sorted(seen)


def _kind_of(token: str) -> str:
    if re.fullmatch(r"19\d{6}", token):
        return "date"
    return "epoch" if re.fullmatch(r"1\d{9}", token) else "word"


def _contents(folder: Path) -> Iterator[tuple[str, bytes, list[str]]]:
    for parent, folders, names in os.walk(folder):
        for name in folders:
            yield name, b"", [name]
        for name in names:
            yield f"inside {name}", (Path(parent) / name).read_bytes(), [name]


# ---- what is searched


def haystack(content: bytes, names: Iterable[str] = ()) -> bytes:
    """Return a content with everything that is packed in it, in lower case as far as bytes have one."""
    parts = [content, *(os.fsencode(name) for name in names)]
    parts += _inflated(content)
    parts += _hidden_in_pixels(content)
    for part in [content, *parts[1:]]:
        parts += _unpacked(part, _DEEPEST)
    return b"\n".join(parts).lower()


def _unpacked(content: bytes, depth: int) -> list[bytes]:
    """Unpack gzip and zlib wherever a stream begins, and what is packed in it, even of streams that are cut."""
    found = []
    for match in _PACKED.finditer(content):
        unpacker = zlib.decompressobj(47)
        try:
            inside = unpacker.decompress(content[match.start() :], _LARGEST_UNPACKED)
        except zlib.error:
            continue
        if inside:
            found.append(inside)
            if depth:
                found += _unpacked(inside, depth - 1)
    return found


def _inflated(content: bytes) -> list[bytes]:
    """Inflate the data set of a file whose syntax says it is deflated, going by the length of group 2."""
    if b"1.2.840.10008.1.2.1.99" not in content[:1024] or len(content) < 144:
        return []
    start = 144 + int.from_bytes(content[140:144], "little")
    try:
        return [zlib.decompressobj(-zlib.MAX_WBITS).decompress(content[start:], _LARGEST_UNPACKED)]
    except zlib.error:
        return []


def _hidden_in_pixels(content: bytes) -> list[bytes]:
    """Collect the bits that native pixels of 16 bits have above those stored, eight in a row making a byte."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = pydicom.dcmread(io.BytesIO(content), force=True)
            unused = int(dataset.BitsAllocated) - int(dataset.BitsStored)
            syntax = dataset.file_meta.TransferSyntaxUID
            if dataset.BitsAllocated != 16 or unused < 1 or syntax.is_compressed:
                return []
            raw = dataset.PixelData
        except Exception:  # noqa: BLE001 - other tools write files that cannot be read; their bytes are searched
            return []
    order = ">" if syntax == "1.2.840.10008.1.2.2" else "<"
    words = np.frombuffer(raw[: len(raw) & ~1], f"{order}u2")
    bits = (words[:, np.newaxis] >> np.arange(15, 15 - unused, -1, dtype=np.uint16)) & 1
    return [np.packbits(bits.astype(np.uint8).ravel()).tobytes()]


# ---- what is looked for


@dataclass(frozen=True, slots=True)
class _Form:
    """Bytes to look for; `alone` demands that no digit stands before them."""

    raw: bytes
    alone: bool = False

    @property
    def beginning(self) -> int:
        return int.from_bytes(self.raw[:4], "little")


def _stands(form: _Form, hay: bytes) -> bool:
    at = hay.find(form.raw)
    while at >= 0:
        if not form.alone or not hay[at - 1 : at].isdigit():
            return True
        at = hay.find(form.raw, at + 1)
    return False


@functools.lru_cache(maxsize=1 << 15)
def _forms(canary: Canary) -> frozenset[_Form]:
    """Spell a canary in every way that it may stand in a file."""
    token = canary.token
    texts = {token}
    alone = canary.kind == "date"
    if canary.kind == "date" and (day := _DAY.fullmatch(token)):
        year, month, date = day.groups()
        orders = ((year, month, date), (date, month, year), (month, date, year))
        texts |= {mark.join(parts) for parts in orders for mark in ".-/"}
        texts.add(f"{dt.date(int(year), int(month), int(date)):%d %b %Y}")
    found = {_Form(raw, alone) for text in texts for raw in _spellings(text)}
    if canary.kind in ("epoch", "serial"):
        number = int(token)
        found |= {_Form(struct.pack(order, number).lower()) for order in ("<L", ">L", "<d", ">d")}
        found.add(_Form(f"{number:x}".encode()))
    if canary.kind == "name":
        plain = "".join(part for part in unicodedata.normalize("NFKD", token) if not unicodedata.combining(part))
        if plain.isascii():
            found |= {_Form(raw) for raw in _spellings(plain)}
    return frozenset(found)


def _spellings(text: str) -> Iterator[bytes]:
    """Write a text in every encoding, case and byte order."""
    for spelt in {text, text.lower(), text.upper(), text.title(), unicodedata.normalize("NFD", text)}:
        for codec in _CODECS:
            try:
                raw = _ESCAPE.sub(b"", spelt.encode(codec))
            except UnicodeEncodeError:
                continue
            if len(raw) >= _SHORTEST:
                yield raw.lower()
    raw = text.encode()
    for start in (0, 1):
        # Words of the other byte order, beginning at an even or an odd place.
        whole = raw[start : start + (len(raw) - start & ~1)].lower()
        if len(whole) > _SHORTEST:
            yield b"".join(whole[at : at + 2][::-1] for at in range(0, len(whole), 2))
