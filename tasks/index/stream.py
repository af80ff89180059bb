"""Read bytes a piece at a time: anywhere in a source, or forwards in a stream; and the faults met while reading."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

PIECE = 1 << 20
"""Bytes that are in memory at once."""


class DamagedError(Exception):
    """The bytes are not what the format says."""


class LimitError(Exception):
    """The archive unpacks to more than is allowed."""


class UnreadableError(Exception):
    """The file in the dump cannot be read any more."""


# Read anywhere.


class Source(Protocol):
    """Bytes that are read anywhere."""

    size: int

    def read_at(self, offset: int, amount: int) -> bytes:
        """Return `amount` bytes, fewer at the end only."""


class OpenFile:
    """A file of our own, by its descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size

    def read_at(self, offset: int, amount: int) -> bytes:
        """Return `amount` bytes, fewer at the end only."""
        return os.pread(self._descriptor, amount, offset) if offset < self.size else b""


class DumpFile(OpenFile):
    """A file of the dump."""

    def read_at(self, offset: int, amount: int) -> bytes:
        """Return `amount` bytes, fewer at the end only; raise UnreadableError if the file system refuses."""
        try:
            return super().read_at(offset, amount)
        except OSError as fault:
            raise UnreadableError from fault


class Memory:
    """A small file that never was on the disk."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.size = len(content)

    def read_at(self, offset: int, amount: int) -> bytes:
        """Return `amount` bytes, fewer at the end only."""
        return self._content[offset : offset + amount]


# Read forwards.


class Stream(Protocol):
    """Bytes that are read forwards."""

    def read(self, amount: int) -> bytes:
        """Return up to `amount` bytes, and none at the end only; raise DamagedError where they are damaged."""


class Part:
    """A part of a source.

    Attributes
    ----------
    position
        Of the next byte, from the beginning of the source.
    """

    def __init__(self, source: Source, begin: int, size: int) -> None:
        self._source = source
        self.position = begin
        self._end = begin + size

    def read(self, amount: int) -> bytes:
        """Return up to `amount` bytes, and none at the end only."""
        piece = self._source.read_at(self.position, max(0, min(amount, self._end - self.position)))
        self.position += len(piece)
        return piece


class Counted:
    """A stream whose bytes are counted as they come out."""

    def __init__(self, stream: Stream, count: Callable[[int], None]) -> None:
        self._stream = stream
        self._count = count

    def read(self, amount: int) -> bytes:
        """Return up to `amount` bytes, and none at the end only."""
        piece = self._stream.read(amount)
        self._count(len(piece))
        return piece


class Begun:
    """A stream whose first bytes were looked at; damage behind them is met when they have been read.

    Attributes
    ----------
    first
        The first 1 MiB, less if the stream ends or is damaged before.
    whole
        Whether they are all.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._position = 0
        self._fault: DamagedError | None = None
        self.whole = False
        pieces: list[bytes] = []
        missing = PIECE
        try:
            while missing and not self.whole:
                piece = stream.read(missing)
                pieces.append(piece)
                missing -= len(piece)
                self.whole = not piece
        except DamagedError as fault:
            self._fault = fault
        self.first = b"".join(pieces)

    def read(self, amount: int) -> bytes:
        """Return up to `amount` bytes, and none at the end only."""
        if self._position < len(self.first):
            piece = self.first[self._position : self._position + amount]
            self._position += len(piece)
            return piece
        if self._fault:
            raise self._fault
        return b"" if self.whole else self._stream.read(amount)
