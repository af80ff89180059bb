"""Read a tar archive forwards, one member after the other; `tarfile` reads the headers, and is kept within bounds.

Source: POSIX.1-2017 pax (ustar and pax).
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import IO, Any

from tasks.index.stream import PIECE, DamagedError, Stream

_BLOCK = tarfile.BLOCKSIZE

_LARGEST_HEADER = 1 << 18
"""Bytes of everything in front of one member (long names, pax records, sparse maps): `tarfile` keeps all of it."""

_FAULTS = (tarfile.TarError, ArithmeticError, AttributeError, EOFError, LookupError, TypeError, ValueError)
"""What `tarfile` raises at headers that only look like some."""


class TarEntry:
    """A file in a tar archive, as its header declares it; what it holds has to be read before the next is asked for.

    Attributes
    ----------
    is_sparse
        Whether it has holes, which come out of nowhere: all other bytes are those of the archive.
    """

    def __init__(self, archive: tarfile.TarFile, header: tarfile.TarInfo) -> None:
        self._archive = archive
        self._header = header
        self.name = header.name.encode("utf-8", "surrogateescape")
        self.size = header.size
        self.is_sparse = header.issparse()

    @property
    def refusal(self) -> str:
        """Why it cannot be taken whatever it holds (a key of `REJECT_REASONS`); empty if it can."""
        if self._header.issym() or self._header.islnk():
            return "symlink"
        return "special-file" if self._header.isdev() else ""

    def open(self) -> Stream:
        """Give what it holds, unless it is refused."""
        content = self._archive.extractfile(self._header)
        assert content is not None, "neither a link nor a device nor a folder"
        return _Content(content)


def read_tar(stream: Stream) -> Iterator[TarEntry]:
    """Yield the files, without folders, of a tar archive, or of several that follow each other.

    Raises
    ------
    DamagedError
        Where it is damaged, or ends without saying so; what was yielded before is whole.
    """
    feed = _Feed(stream)
    while feed.find_header():
        yield from _read_archive(feed)


def _read_archive(feed: _Feed) -> Iterator[TarEntry]:
    archive: tarfile.TarFile | None = None
    while True:
        feed.allowance = _LARGEST_HEADER
        try:
            if archive is None:
                # Opening it reads the first header.
                file: Any = feed
                archive = tarfile.TarFile(fileobj=file, encoding="utf-8", errors="surrogateescape")
            header = archive.next()
        except (*_FAULTS, RecursionError) as fault:
            raise DamagedError from fault
        feed.allowance = None
        if header is None:
            break
        # It would keep them all.
        archive.members.clear()  # type: ignore[attr-defined]
        if header.size < 0 or not _is_sound(header):
            raise DamagedError
        if not header.isdir():
            yield TarEntry(archive, header)
    # The same answer tells the end, a header that is none, and a file that was cut.
    if not feed.last or feed.last.strip(b"\0"):
        raise DamagedError


def _is_sound(header: tarfile.TarInfo) -> bool:
    """Tell whether the map of a sparse file goes forwards and ends within the file."""
    sparse: Any = header.sparse
    end = 0
    for begin, size in sparse or ():
        # Entries of no size mark the end of the file, or fill up the header.
        if size < 0 or (size and begin < end):
            return False
        end = begin + size if size else end
    return end <= header.size


class _Feed:
    """A stream as `tarfile` wants it: a file that only goes forwards.

    Attributes
    ----------
    allowance
        How many bytes may be read before the next member; None while a member's content is read.
    last
        What was read last.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._buffer = b""
        self._used = 0
        self._position = 0
        self.allowance: int | None = None
        self.last = b""

    def find_header(self) -> bool:
        """Go past zeros to the next header; tell whether there is one."""
        block = self.read(_BLOCK)
        while block and not block.strip(b"\0"):
            block = self.read(_BLOCK)
        if not block:
            return False
        if block[257:262] != b"ustar":
            raise DamagedError
        self._buffer = block + self._buffer[self._used :]
        self._used = 0
        self._position -= len(block)
        return True

    def read(self, amount: int) -> bytes:
        if self.allowance is not None:
            self.allowance -= amount
            if self.allowance < 0:
                raise DamagedError
        if amount < 0:
            raise DamagedError
        pieces = []
        missing = amount
        while missing:
            if self._used == len(self._buffer):
                self._buffer, self._used = self._stream.read(PIECE), 0
                if not self._buffer:
                    break
            piece = self._buffer[self._used : self._used + missing]
            self._used += len(piece)
            self._position += len(piece)
            missing -= len(piece)
            pieces.append(piece)
        self.last = b"".join(pieces)
        return self.last

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        if position < self._position:
            raise DamagedError
        allowance, self.allowance = self.allowance, None
        while self._position < position:
            if not self.read(min(PIECE, position - self._position)):
                break
        self.allowance = allowance

    @staticmethod
    def seekable() -> bool:
        return True


class _Content:
    """A member's content."""

    def __init__(self, content: IO[bytes]) -> None:
        self._content = content

    def read(self, amount: int) -> bytes:
        try:
            return self._content.read(amount)
        except _FAULTS as fault:
            raise DamagedError from fault
