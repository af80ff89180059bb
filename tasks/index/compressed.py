"""Unpack compressed streams (gzip, bzip2, xz, and those in zip archives) without ever holding more than a piece.

Source: RFC 1951 and 1952 (deflate, gzip), the .xz file format 1.2.1.
"""

from __future__ import annotations

import bz2
import contextlib
import lzma
import zlib
from collections.abc import Callable
from typing import Any, Protocol

from tasks.index.stream import DamagedError, LimitError, Stream

_PACKED_PIECE = 1 << 16

_LARGEST_DICTIONARY = 1 << 28
"""Bytes that an LZMA decoder may ask for; `xz -9` asks for 65 MiB."""


class _Decoder(Protocol):
    """What `bz2` and `lzma` offer."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class Decompressed:
    """The content of a compressed stream, or of several that follow each other.

    Zeros behind it are padding. Anything else behind it that does not begin another stream is left alone: what came
    before is whole and was checked.

    Parameters
    ----------
    packed
        The compressed bytes.
    start
        Makes the decoder of one stream.
    magic
        What a further stream begins with; empty if there can be none.
    """

    def __init__(self, packed: Stream, start: Callable[[], _Decoder], magic: bytes = b"") -> None:
        self._packed = packed
        self._start = start
        self._magic = magic
        self._decoder = start()
        self._waiting = b""
        self._ended = False

    def read(self, amount: int) -> bytes:
        """Return up to `amount` bytes, and none at the end only.

        Raises
        ------
        DamagedError
            If the stream is damaged or cut; all that could be unpacked before was returned.
        LimitError
            If the decoder asks for too much memory.
        """
        while not self._ended:
            if self._decoder.eof:
                self._ended = not self._begin_next()
            elif piece := self._decode(min(amount, _PACKED_PIECE)):
                return piece
        return b""

    def left(self) -> int:
        """How many bytes were read of the packed stream and do not belong to the content that was read."""
        return len(self._decoder.unused_data)

    def _decode(self, amount: int) -> bytes:
        """Return up to `amount` bytes; there may be none yet."""
        data = b""
        if self._decoder.needs_input:
            data = self._waiting or self._packed.read(_PACKED_PIECE)
            self._waiting = b""
            if not data:
                raise DamagedError
        try:
            return self._decoder.decompress(data, amount)
        except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as fault:
            # OSError is what bz2 calls damage: nothing is read or written in here.
            # LZMA says in words alone that it is its memory that does not suffice.
            if isinstance(fault, lzma.LZMAError) and "Memory usage limit" in str(fault):
                raise LimitError from fault
            raise DamagedError from fault

    def _begin_next(self) -> bool:
        """Begin the stream that follows; tell whether there is one."""
        if not self._magic:
            return False
        rest = self._decoder.unused_data.lstrip(b"\0")
        while len(rest) < len(self._magic):
            more = self._packed.read(_PACKED_PIECE)
            if not more:
                return False
            rest = (rest + more).lstrip(b"\0")
        if not rest.startswith(self._magic):
            return False
        self._decoder = self._start()
        self._waiting = rest
        return True


class _Inflater:
    """A decoder of deflated data that tells all it has understood before it stumbles."""

    def __init__(self, window_bits: int) -> None:
        self._state = zlib.decompressobj(window_bits)
        self._fault: zlib.error | None = None
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._state.eof

    @property
    def unused_data(self) -> bytes:
        return self._state.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        if self._fault:
            raise self._fault
        data = self._state.unconsumed_tail or data
        before = self._state.copy()
        try:
            piece = self._state.decompress(data, max_length)
        except zlib.error as fault:
            self._fault = fault
            self.needs_input = False
            return _inflate_before_damage(before, data, max_length)
        self.needs_input = len(piece) < max_length and not self._state.unconsumed_tail
        return piece


def _inflate_before_damage(state: Any, data: bytes, max_length: int) -> bytes:
    """Return what a decoder of `zlib` gives for the data byte by byte, until it fails or there is enough."""
    piece = b""
    with contextlib.suppress(zlib.error):
        for place in range(len(data)):
            if len(piece) == max_length:
                break
            piece += state.decompress(data[place : place + 1], max_length - len(piece))
    return piece


def start_deflate() -> _Decoder:
    """Begin to unpack deflated data without any header."""
    return _Inflater(-zlib.MAX_WBITS)


def start_lzma() -> _Decoder:
    """Begin to unpack a `.lzma` file."""
    return lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_LARGEST_DICTIONARY)


def _start_gzip() -> _Decoder:
    return _Inflater(zlib.MAX_WBITS | 16)


def _start_xz() -> _Decoder:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_LARGEST_DICTIONARY)


_FORMATS: dict[str, tuple[Callable[[], _Decoder], bytes]] = {
    "gzip": (_start_gzip, b"\x1f\x8b"),
    "bzip2": (bz2.BZ2Decompressor, b"BZh"),
    "xz": (_start_xz, b"\xfd7zXZ\0"),
}

COMPRESSIONS = frozenset(_FORMATS)
"""The kinds of container that hold one file and not several."""


def open_compressed(packed: Stream, kind: str) -> Decompressed:
    """Give the content of a compressed file of a kind in `COMPRESSIONS`."""
    return Decompressed(packed, *_FORMATS[kind])
