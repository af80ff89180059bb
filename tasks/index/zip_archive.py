"""Read a zip archive: which files are in it, by its directory or, where that is missing, without; and what they hold.

`zipfile` holds all of a directory in memory, unpacks bzip2 and LZMA without bounds, and refuses a whole archive for one
name that is no UTF-8.

Source: PKWARE APPNOTE 6.3.10.
"""

from __future__ import annotations

import bz2
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from tasks.index.compressed import Decompressed, start_deflate, start_lzma
from tasks.index.stream import PIECE, DamagedError, LimitError, Part, Source, Stream

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s2B5H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_LONGEST_COMMENT = 0xFFFF
_ELSEWHERE = 0xFFFFFFFF
"""What a field of 32 bits says if its value stands in the extra field of zip64 (APPNOTE 4.5.3)."""

_UNKNOWN_SIZE = (1 << 64) - 1

_ENCRYPTED = 1 << 0
_LZMA_END_MARKER = 1 << 1
_SIZES_BEHIND = 1 << 3

_STORED, _DEFLATED, _BZIP2, _LZMA = 0, 8, 12, 14
"""Compression methods (APPNOTE 4.4.5)."""

_UNIX_SYSTEMS = (3, 19)
"""Systems whose file modes stand in the upper half of the external attributes: Unix and macOS (APPNOTE 4.4.2)."""

_DOS_FOLDER = 0x10


@dataclass(frozen=True, slots=True, kw_only=True)
class ZipEntry:
    """A file in a zip archive, as its headers declare it.

    Attributes
    ----------
    packed, size
        Bytes of its data as they stand in the archive, and unpacked.
    offset
        Of the local header, in bytes from the beginning of the archive.
    """

    name: bytes
    flags: int
    method: int
    checksum: int
    packed: int
    size: int
    offset: int
    system: int = 0
    attributes: int = 0

    @property
    def mode(self) -> int:
        """File mode of Unix; 0 if it was packed elsewhere."""
        return self.attributes >> 16 if self.system in _UNIX_SYSTEMS else 0

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder; one of any size is taken for a file."""
        named = self.name.endswith(b"/") or bool(self.attributes & _DOS_FOLDER)
        return not self.size and (named or stat.S_ISDIR(self.mode))

    @property
    def refusal(self) -> str:
        """Why it cannot be taken whatever it holds (a key of `REJECT_REASONS`); empty if it can."""
        if stat.S_ISLNK(self.mode):
            return "symlink"
        if stat.S_IFMT(self.mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            return "special-file"
        return "archive-encrypted" if self.flags & _ENCRYPTED else ""


def read_directory(source: Source, most: int) -> list[ZipEntry]:
    """List the files of an archive, without folders, as its central directory has them.

    Raises
    ------
    DamagedError
        If there is no directory, or not a sound one.
    LimitError
        At the first file beyond `most`.
    """
    place, end = _find_directory(source)
    entries = []
    while place < end:
        entry, place = _read_central(source, place)
        if not entry.is_folder:
            entries.append(entry)
        if len(entries) > most:
            raise LimitError
    if place != end:
        raise DamagedError
    return entries


def walk_entries(source: Source, largest: int) -> Iterator[ZipEntry]:
    """Yield the files, without folders, as far as local headers follow each other; the directory is not looked at.

    Raises
    ------
    LimitError
        At a file of more than `largest` bytes that has to be unpacked to find where it ends.
    """
    # A marker may precede the first of several parts (APPNOTE 8.5.3, 8.5.4).
    offset = 4 if source.read_at(0, 4) in (b"PK\7\x08", b"PK00") else 0
    while local := _read_local(source, offset):
        entry, data = local
        offset = data + entry.packed
        if entry.flags & _SIZES_BEHIND and not entry.packed:
            measured = _measure_entry(source, entry, data, largest)
            if not measured:
                # Nobody can tell where the next one begins.
                yield replace(entry, packed=source.size - data, size=max(1, entry.size))
                return
            entry, offset = measured
        if not entry.is_folder:
            yield entry


def open_entry(source: Source, entry: ZipEntry) -> Stream:
    """Give what a file of the archive holds, held against the size and the checksum it declares.

    Raises
    ------
    DamagedError
        If it has no local header, or was packed by a method that Python lacks.
    """
    local = _read_local(source, entry.offset)
    if not local:
        raise DamagedError
    _, data = local
    return _Checked(_open_content(Part(source, data, entry.packed), entry), entry)


# The directory.


class _End(NamedTuple):
    """An end of central directory record, with its place."""

    place: int
    disk: int
    first_disk: int
    entries: int
    size: int
    offset: int


def _find_directory(source: Source) -> tuple[int, int]:
    """Return where the central directory begins and ends.

    It is believed only where it says itself that it stands: the last archive of several in one file, or one that lies
    unpacked in another whose own end is missing, would pass for the whole.
    """
    begin = max(0, source.size - _END.size - _LONGEST_COMMENT)
    tail = source.read_at(begin, source.size - begin)
    refused = len(tail)
    limit = max(0, len(tail) - _END.size + 4)
    while (place := tail.rfind(b"PK\5\6", 0, limit)) >= 0:
        _, disk, first_disk, _, entries, size, offset, comment_length = _END.unpack_from(tail, place)
        end = _End(begin + place, disk, first_disk, entries, size, offset)
        if 0xFFFF in end or _ELSEWHERE in end:
            end = _find_end_64(source, begin + place) or end
        empty = not end.entries and not end.size
        placed = not end.disk and not end.first_disk and end.offset + end.size == end.place
        if placed and (empty or source.read_at(end.offset, 4) == b"PK\1\2"):
            if place + _END.size + comment_length <= refused < len(tail):
                # Another archive follows, or what is left of one.
                break
            return end.offset, end.place
        refused = limit = place
    raise DamagedError


def _find_end_64(source: Source, end: int) -> _End | None:
    """Read the end of central directory record of zip64, which precedes the other one at `end`."""
    locator = source.read_at(end - _LOCATOR_64.size, _LOCATOR_64.size) if end >= _LOCATOR_64.size else b""
    if not locator.startswith(b"PK\6\7"):
        return None
    for place in (_LOCATOR_64.unpack(locator)[2], end - _LOCATOR_64.size - _END_64.size):
        record = source.read_at(place, _END_64.size) if 0 <= place < source.size else b""
        if len(record) == _END_64.size and record.startswith(b"PK\6\6"):
            _, _, _, _, disk, first_disk, _, entries, size, offset = _END_64.unpack(record)
            return _End(place, disk, first_disk, entries, size, offset)
    return None


def _read_central(source: Source, place: int) -> tuple[ZipEntry, int]:
    """Read a header of the central directory; return it, and where the next one begins."""
    fixed = source.read_at(place, _CENTRAL.size)
    if len(fixed) < _CENTRAL.size or not fixed.startswith(b"PK\1\2"):
        raise DamagedError
    # Left out: versions, time and date, attributes of text files.
    _, _, system, _, flags, method, _, _, checksum, packed, size, *lengths, disk, _, attributes, offset = (
        _CENTRAL.unpack(fixed)
    )
    name_length, extra_length, comment_length = lengths
    length = name_length + extra_length + comment_length
    rest = source.read_at(place + _CENTRAL.size, length)
    if len(rest) < length or disk not in (0, 0xFFFF):
        raise DamagedError
    size, packed, offset = _resolve_64(rest[name_length : name_length + extra_length], size, packed, offset)
    entry = ZipEntry(
        name=rest[:name_length],
        flags=flags,
        method=method,
        checksum=checksum,
        packed=packed,
        size=size,
        offset=offset,
        system=system,
        attributes=attributes,
    )
    return entry, place + _CENTRAL.size + length


def _resolve_64(extra: bytes, *values: int) -> list[int]:
    """Replace what stands in the extra field of zip64, which holds only what is too large elsewhere."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == 1:
            content = extra[4 : 4 + length]
            large = (number for (number,) in struct.iter_unpack("<Q", content[: len(content) // 8 * 8]))
            return [next(large, value) if value == _ELSEWHERE else value for value in values]
        extra = extra[4 + length :]
    return list(values)


# The local headers.


def _read_local(source: Source, offset: int) -> tuple[ZipEntry, int] | None:
    """Read the local header at `offset`, if there is one; return it, and where the data begin."""
    fixed = source.read_at(offset, _LOCAL.size)
    if len(fixed) < _LOCAL.size or not fixed.startswith(b"PK\3\4"):
        return None
    _, _, flags, method, _, _, checksum, packed, size, name_length, extra_length = _LOCAL.unpack(fixed)
    rest = source.read_at(offset + _LOCAL.size, name_length + extra_length)
    size, packed = _resolve_64(rest[name_length:], size, packed)
    entry = ZipEntry(
        name=rest[:name_length],
        flags=flags,
        method=method,
        checksum=checksum,
        packed=packed,
        size=size,
        offset=offset,
    )
    return entry, offset + _LOCAL.size + name_length + extra_length


def _measure_entry(source: Source, entry: ZipEntry, begin: int, largest: int) -> tuple[ZipEntry, int] | None:
    """Find the end of an entry whose sizes stand behind its data.

    Parameters
    ----------
    begin
        Where the data begin.

    Returns
    -------
    (ZipEntry, int) or None
        The entry with its sizes, and where the next one begins.
    """
    end = begin
    size = checksum = 0
    if entry.flags & _ENCRYPTED:
        return None
    # What is stored as it is has no end of its own, but it may be empty.
    if entry.method != _STORED:
        part = Part(source, begin, source.size - begin)
        try:
            unpacked = _open_content(part, replace(entry, size=_UNKNOWN_SIZE))
            while piece := unpacked.read(PIECE):
                size += len(piece)
                checksum = zlib.crc32(piece, checksum)
                if size > largest:
                    raise LimitError
        except DamagedError:
            return None
        assert isinstance(unpacked, Decompressed), "whatever is not stored as it is"
        end = part.position - unpacked.left()
    packed = end - begin
    found = source.read_at(end, 24)
    for signature in (b"PK\7\x08", b""):
        for numbers, largest_number in (("<3L", _ELSEWHERE), ("<L2Q", _UNKNOWN_SIZE)):
            descriptor = signature + struct.pack(numbers, checksum, packed & largest_number, size & largest_number)
            if found.startswith(descriptor):
                return replace(entry, checksum=checksum, packed=packed, size=size), end + len(descriptor)
    return None


# The data.


def _open_content(packed: Part, entry: ZipEntry) -> Part | Decompressed:
    """Give what an entry's data unpack to, unchecked."""
    if entry.method == _STORED:
        return packed
    if entry.method == _DEFLATED:
        return Decompressed(packed, start_deflate)
    if entry.method == _BZIP2:
        return Decompressed(packed, bz2.BZ2Decompressor)
    if entry.method == _LZMA:
        return Decompressed(_LzmaFile(packed, entry), start_lzma)
    raise DamagedError


class _LzmaFile:
    """LZMA data of a zip archive with the header of a `.lzma` file, which the decoder knows (APPNOTE 5.8.8)."""

    def __init__(self, packed: Part, entry: ZipEntry) -> None:
        self._packed = packed
        head = packed.read(9)
        if len(head) < 9 or head[2:4] != b"\5\0":
            raise DamagedError
        size = _UNKNOWN_SIZE if entry.flags & _LZMA_END_MARKER else entry.size
        self._head = head[4:] + size.to_bytes(8, "little")

    def read(self, amount: int) -> bytes:
        if self._head:
            piece, self._head = self._head, b""
            return piece
        return self._packed.read(amount)


class _Checked:
    """The content of an entry, held against the declared size and checksum."""

    def __init__(self, stream: Stream, entry: ZipEntry) -> None:
        self._stream = stream
        self._missing = entry.size
        self._expected = entry.checksum
        self._checksum = 0

    def read(self, amount: int) -> bytes:
        piece = self._stream.read(amount)
        self._missing -= len(piece)
        self._checksum = zlib.crc32(piece, self._checksum)
        if self._missing < 0 or (not piece and (self._missing or self._checksum != self._expected)):
            raise DamagedError
        return piece
