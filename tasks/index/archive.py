"""Open archives and compressed files of a dump; the DICOM files in them go into a private store of the workspace.

Nothing is taken on trust: sizes are counted as the bytes come out, names are only names, and each piece in memory is
bounded. The directory of a zip is read here and not by `zipfile`, which holds all of it in memory, unpacks bzip2 and
LZMA without bounds, and refuses a whole archive for one name that is no UTF-8.

Source: PKWARE APPNOTE 6.3.10 (zip), RFC 1951 and 1952 (deflate, gzip), POSIX.1-2017 pax (ustar and pax).
"""

from __future__ import annotations

import bz2
import contextlib
import lzma
import os
import stat
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Protocol

from tasks.dicom.syntax import SyntaxRefusalError, read_meta
from tasks.files import (
    TEMPORARY_PREFIX,
    fsync_folder,
    make_folder,
    refusals_named,
    sweep_temporaries,
    temporary_sibling,
)
from tasks.index.header import _tell_stranger
from tasks.index.row import Container, Reject

_PIECE = 1 << 20
_PACKED_PIECE = 1 << 16
_HEAD = 8192
_SETTLED_AT_ONCE = 16

_LARGEST_TAR_HEADER = 1 << 18
"""Bytes of everything in front of one tar member (long names, pax records, sparse maps): `tarfile` keeps all of it."""

_LARGEST_DICTIONARY = 1 << 28
"""Bytes that an LZMA decoder may ask for; `xz -9` asks for 65 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveLimits:
    """What one archive, with all archives in it, may unpack to before it is taken for a bomb.

    Attributes
    ----------
    members
        Files.
    member_bytes
        Bytes of one file.
    total_bytes
        Bytes of all files.
    ratio
        Unpacked to packed size.
    depth
        How deep archives may lie in archives: 2 opens an archive in an archive, 0 opens none at all.
    """

    members: int = 200_000
    member_bytes: int = 4 << 30
    total_bytes: int = 200 << 30
    ratio: int = 1000
    depth: int = 2

    @property
    def harmless_bytes(self) -> int:
        """How many unpacked bytes are few enough for any ratio: black images are small when packed."""
        return self.member_bytes // 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """What became of one file in an archive, or of the archive itself.

    Attributes
    ----------
    path
        `folder/a.zip!/inner/name`, where the dump has `folder/a.zip`; a compressed file that holds one plain file keeps
        its own path. Later files of the same path end in `#2`, `#3`.
    stored
        Name below the store; empty if it was not taken.
    reason
        Why it was not taken (a key of `REJECT_REASONS`); empty if it was.
    size
        Bytes, unpacked; 0 if nobody counted.
    """

    path: bytes
    stored: str = ""
    reason: str = ""
    size: int = 0


def unpack_container(
    dump: bytes, container: Container, *, store: Path, key: str, limits: ArchiveLimits, settle: bool = True
) -> list[Member]:
    """Put the DICOM files that an archive or a compressed file holds into the store.

    Only what may be DICOM by its first bytes is written. The outcome depends on the container's bytes and the limits
    alone, so doing it again after a crash mends what was left half done.

    Parameters
    ----------
    dump
        The folder that `container.path` is relative to.
    store
        The private store; made if it is not there.
    key
        Short name of this very container, from which the names in the store are made.
    settle
        Whether what was stored is to survive a power cut. Without it, whoever opens many small containers calls
        `settle_store` once for all of them, which takes a tenth of the time.

    Returns
    -------
    list of Member
        In the order of the archive; of a damaged archive what was whole, and a member with the archive's own path. Of
        an archive beyond the limits that one alone. No fault of the container is ever raised.

    Raises
    ------
    DiskFullError, WorkspaceError
        If the store cannot be written.
    """
    try:
        descriptor = os.open(dump + b"/" + container.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return [Member(path=container.path, reason="vanished")]
    except OSError:
        return [Member(path=container.path, reason="unreadable")]
    try:
        members = _Unpacking(_DumpFile(descriptor), store, key, limits).unpack(container)
    finally:
        os.close(descriptor)
    if settle:
        settle_store(store, members)
    return members


def settle_store(store: Path, members: Iterable[Member]) -> None:
    """Make what was stored survive a power cut: the content of the files, and the names in their folders.

    Members that are not in the store (any more) are passed over.

    Raises
    ------
    DiskFullError, WorkspaceError
        If the file system refuses; a full disk may be told only now.
    """
    names = [member.stored for member in members if member.stored]
    if not names:
        return
    with refusals_named(store):
        if len(names) == 1:
            _settle_file(store / names[0])
        else:
            # File systems write down many files at once nearly as fast as one.
            with ThreadPoolExecutor(min(len(names), _SETTLED_AT_ONCE)) as pool:
                for _ in pool.map(_settle_file, [store / name for name in names]):
                    pass
        for folder in sorted({name.split("/", 1)[0] for name in names}):
            fsync_folder(store / folder)
        fsync_folder(store)


def _settle_file(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class _DamagedError(Exception):
    """The bytes are not what the format says."""


class _LimitError(Exception):
    """The archive unpacks to more than is allowed."""


class _UnreadableError(Exception):
    """The file in the dump cannot be read any more."""


class _Stream(Protocol):
    """Bytes that are read forwards."""

    def read(self, amount: int) -> bytes:
        """Return up to `amount` bytes, and none at the end only; raise _DamagedError where they are damaged."""


class _Source(Protocol):
    """Bytes that are read anywhere."""

    size: int

    def read_at(self, offset: int, amount: int) -> bytes:
        """Return `amount` bytes, fewer at the end only."""


class _Decoder(Protocol):
    """What `bz2` and `lzma` offer."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Unpacking:
    """One container of the dump while it is unpacked, with all that lies in it."""

    def __init__(self, source: _DumpFile, store: Path, key: str, limits: ArchiveLimits) -> None:
        self._source = source
        self._store = store
        self._key = key
        self._limits = limits
        self._folder = store / key[:2]
        self._folder_made = False
        self._members: list[Member] = []
        self._stored: list[str] = []
        self._names: dict[bytes, int] = {}
        self._files = 0
        self._bytes = 0

    def unpack(self, container: Container) -> list[Member]:
        try:
            if self._limits.depth:
                self._open(self._source, container.kind, container.path, 1)
            else:
                self._refuse(container.path, "archive-nested")
        except _LimitError:
            for name in self._stored:
                (self._store / name).unlink(missing_ok=True)
            self._stored.clear()
            self._members = [Member(path=container.path, reason="archive-limit")]
        except _UnreadableError:
            self._refuse(container.path, "unreadable")
        if not self._members:
            self._refuse(container.path, "empty")
        self._sweep()
        return self._members

    def _open(self, source: _Source, kind: str, path: bytes, level: int) -> None:
        if kind == "zip":
            self._read_zip(source, path, level)
        elif kind == "tar":
            self._read_tar(_Counted(_Part(source, 0, source.size), self._count_bytes), path, level)
        else:
            start, magic = _COMPRESSIONS[kind]
            unpacked = _Decompressed(_Part(source, 0, source.size), start, magic)
            self._take(_Counted(unpacked, self._count_bytes), path, level, compressed=True)

    def _take(self, stream: _Stream, path: bytes, level: int, *, compressed: bool = False) -> bool:
        """Take one file, or what it holds if it is an archive; tell whether it could be read to its end.

        Parameters
        ----------
        level
            How deep the archive lies that the file lies in.
        compressed
            Whether it is all that a compressed file holds: it keeps that file's path, and an archive packed in this way
            is one archive and not two.
        """
        begun = _Begun(stream)
        kind, reason = _judge(begun.first)
        if compressed and kind == "tar":
            self._read_tar(begun, path, level)
            return True
        deeper = level + (not compressed or kind in _COMPRESSIONS)
        stored, size = "", 0
        try:
            if kind and deeper <= self._limits.depth:
                with self._spooled(begun) as source:
                    self._open(source, kind, path, deeper)
                return True
            if kind:
                reason = "archive-nested"
            if reason:
                size = self._copy(begun, None)
            else:
                stored, size = self._keep(begun)
        except _DamagedError:
            self._refuse(path, "archive-damaged")
            return False
        self._members.append(Member(path=path, stored=stored, reason=reason, size=size))
        return True

    def _read_zip(self, source: _Source, path: bytes, level: int) -> None:
        head = source.read_at(0, _HEAD)
        if head.startswith(b"PK\3\4") and isinstance(_tell_stranger(head, path), Reject):
            self._refuse(path, "not-dicom", source.size)
            return
        try:
            entries = [entry for entry in _read_directory(source, self._limits.members) if not entry.is_folder]
        except _DamagedError:
            whole = False
            for entry in _walk_entries(source, self._limits.member_bytes):
                if not entry.is_folder:
                    self._take_entry(source, entry, path, level)
        else:
            self._check_bytes(self._bytes + sum(entry.size for entry in entries))
            self._check_files(self._files + len(entries))
            whole = True
            for entry in entries:
                whole &= self._take_entry(source, entry, path, level)
        if not whole:
            self._refuse(path, "archive-damaged")

    def _take_entry(self, source: _Source, entry: _Entry, archive: bytes, level: int) -> bool:
        self._count_file()
        self._check_size(entry.size)
        path = self._name(archive, entry.name)
        if reason := entry.refusal:
            self._refuse(path, reason, entry.size)
            return True
        try:
            packed = _Part(source, _data_offset(source, entry), entry.packed)
            unpacked = _Checked(_open_entry(packed, entry), entry)
        except _DamagedError:
            self._refuse(path, "archive-damaged")
            return False
        return self._take(_Counted(unpacked, self._count_bytes), path, level)

    def _read_tar(self, stream: _Stream, path: bytes, level: int) -> None:
        feed = _TarFeed(stream)
        try:
            # Tar archives may follow each other in one file.
            while feed.find_header():
                for archive, entry in _tar_entries(feed):
                    self._take_tar_entry(archive, entry, path, level)
        except _DamagedError:
            self._refuse(path, "archive-damaged")

    def _take_tar_entry(self, archive: tarfile.TarFile, entry: tarfile.TarInfo, outer: bytes, level: int) -> None:
        if entry.isdir():
            return
        self._count_file()
        self._check_size(entry.size)
        path = self._name(outer, entry.name.encode("utf-8", "surrogateescape"))
        if entry.issym() or entry.islnk():
            self._refuse(path, "symlink")
        elif entry.isdev():
            self._refuse(path, "special-file")
        else:
            content = archive.extractfile(entry)
            assert content is not None, "neither a link nor a device nor a folder"
            stream: _Stream = _TarContent(content)
            if entry.issparse():
                # Its holes come out of nowhere, while all other bytes were counted with the tar they stand in.
                stream = _Counted(stream, self._count_bytes)
            if not self._take(stream, path, level):
                raise _DamagedError

    def _name(self, archive: bytes, name: bytes) -> bytes:
        """Return the path of a member in the lists, never twice the same."""
        path = archive + b"!/" + name.replace(b"\0", b"\\0")
        count = self._names.get(path, 0)
        self._names[path] = count + 1
        if not count:
            return path
        numbered = b"%b#%d" % (path, count + 1)
        while numbered in self._names:
            numbered += b"#2"
        self._names[numbered] = 1
        return numbered

    def _refuse(self, path: bytes, reason: str, size: int = 0) -> None:
        self._members.append(Member(path=path, reason=reason, size=size))

    def _count_file(self) -> None:
        self._files += 1
        self._check_files(self._files)

    def _count_bytes(self, amount: int) -> None:
        self._bytes += amount
        self._check_bytes(self._bytes)

    def _check_files(self, files: int) -> None:
        if files > self._limits.members:
            raise _LimitError

    def _check_bytes(self, amount: int) -> None:
        limits = self._limits
        if amount > limits.total_bytes or amount > max(limits.harmless_bytes, limits.ratio * self._source.size):
            raise _LimitError

    def _check_size(self, size: int) -> None:
        if size > self._limits.member_bytes:
            raise _LimitError

    def _copy(self, stream: _Stream, target: IO[bytes] | None) -> int:
        """Read a member to its end, and return how long it is."""
        size = 0
        while piece := stream.read(_PIECE):
            size += len(piece)
            self._check_size(size)
            if target:
                target.write(piece)
        return size

    def _keep(self, stream: _Stream) -> tuple[str, int]:
        """Write a member into the store; return its name there, and its size."""
        name = f"{self._key[:2]}/{self._key}-{len(self._stored):06d}"
        beside = temporary_sibling(self._store / name)
        with refusals_named(self._store):
            with self._written(beside) as target:
                size = self._copy(stream, target)
            os.replace(beside, self._store / name)
        self._stored.append(name)
        return name, size

    @contextlib.contextmanager
    def _written(self, beside: Path) -> Iterator[IO[bytes]]:
        """Offer a stream to an unfinished file, which is gone if anything goes wrong."""
        if not self._folder_made:
            make_folder(self._store, mode=0o700)
            make_folder(self._folder, mode=0o700)
            self._folder_made = True
        try:
            descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "r+b") as target:
                yield target
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(beside)
            raise

    @contextlib.contextmanager
    def _spooled(self, stream: _Begun) -> Iterator[_Source]:
        """Offer a member as something that can be read anywhere: in memory if it is small, else in a nameless file."""
        if stream.whole:
            self._check_size(len(stream.first))
            yield _Memory(stream.first)
            return
        beside = temporary_sibling(self._folder / f"{self._key}-archive")
        with refusals_named(self._store), self._written(beside) as spool:
            os.unlink(beside)
            self._copy(stream, spool)
            spool.flush()
            yield _SpoolFile(spool.fileno())

    def _sweep(self) -> None:
        """Remove what earlier attempts at this container left and this one did not make."""
        if not self._folder.is_dir():
            return
        with refusals_named(self._store):
            names = os.listdir(self._folder)
            if any(name.startswith(TEMPORARY_PREFIX) for name in names):
                sweep_temporaries(self._folder, deep=False)
            wanted = {name[3:] for name in self._stored}
            for name in names:
                if name.startswith(f"{self._key}-") and name not in wanted:
                    (self._folder / name).unlink(missing_ok=True)


def _judge(head: bytes) -> tuple[str, str]:
    """Tell what a file is by its first bytes: the kind of a container, a reason to leave it, or neither for DICOM."""
    if not head:
        return "", "empty"
    try:
        read_meta(head[:_HEAD])
    except SyntaxRefusalError as refusal:
        if refusal.reason == "not-dicom":
            stranger = _tell_stranger(head[:_HEAD], b"")
            return ("", stranger.reason) if isinstance(stranger, Reject) else (stranger.kind, "")
    return "", ""


# Sources.


class _DumpFile:
    """A file of the dump."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size

    def read_at(self, offset: int, amount: int) -> bytes:
        try:
            return os.pread(self._descriptor, amount, offset) if offset < self.size else b""
        except OSError as fault:
            raise _UnreadableError from fault


class _SpoolFile:
    """A file of our own."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size

    def read_at(self, offset: int, amount: int) -> bytes:
        return os.pread(self._descriptor, amount, offset) if offset < self.size else b""


class _Memory:
    """A small file that never was on the disk."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.size = len(content)

    def read_at(self, offset: int, amount: int) -> bytes:
        return self._content[offset : offset + amount]


# Streams.


class _Part:
    """A part of a source."""

    def __init__(self, source: _Source, begin: int, size: int) -> None:
        self._source = source
        self.position = begin
        self._end = begin + size

    def read(self, amount: int) -> bytes:
        piece = self._source.read_at(self.position, max(0, min(amount, self._end - self.position)))
        self.position += len(piece)
        return piece


class _Counted:
    """A stream whose bytes are counted as they come out."""

    def __init__(self, stream: _Stream, count: Callable[[int], None]) -> None:
        self._stream = stream
        self._count = count

    def read(self, amount: int) -> bytes:
        piece = self._stream.read(amount)
        self._count(len(piece))
        return piece


class _Begun:
    """A stream whose first bytes were looked at; damage behind them is met when they have been read.

    Attributes
    ----------
    first
        The first 1 MiB, less if the stream ends or is damaged before.
    whole
        Whether they are all.
    """

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream
        self._position = 0
        self._fault: _DamagedError | None = None
        self.whole = False
        pieces: list[bytes] = []
        missing = _PIECE
        try:
            while missing:
                piece = stream.read(missing)
                if not piece:
                    self.whole = True
                    break
                pieces.append(piece)
                missing -= len(piece)
        except _DamagedError as fault:
            self._fault = fault
        self.first = b"".join(pieces)

    def read(self, amount: int) -> bytes:
        if self._position < len(self.first):
            piece = self.first[self._position : self._position + amount]
            self._position += len(piece)
            return piece
        if self._fault:
            raise self._fault
        return b"" if self.whole else self._stream.read(amount)


class _Decompressed:
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

    def __init__(self, packed: _Stream, start: Callable[[], _Decoder], magic: bytes = b"") -> None:
        self._packed = packed
        self._start = start
        self._magic = magic
        self._decoder = start()
        self._waiting = b""
        self._ended = False

    def read(self, amount: int) -> bytes:
        while not self._ended:
            if self._decoder.eof:
                self._find_next()
                continue
            data = b""
            if self._decoder.needs_input:
                data = self._waiting or self._packed.read(_PACKED_PIECE)
                self._waiting = b""
                if not data:
                    raise _DamagedError
            try:
                piece = self._decoder.decompress(data, min(amount, _PACKED_PIECE))
            except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as fault:
                # OSError is what bz2 calls damage; nothing is read or written in here. Only the text tells the second.
                if isinstance(fault, lzma.LZMAError) and "Memory usage limit" in str(fault):
                    raise _LimitError from fault
                raise _DamagedError from fault
            if piece:
                return piece
        return b""

    def left(self) -> int:
        """How many bytes were read of the packed stream and do not belong to the content that was read."""
        return len(self._decoder.unused_data)

    def _find_next(self) -> None:
        rest = self._decoder.unused_data
        self._ended = not self._magic
        while not self._ended and len(rest := rest.lstrip(b"\0")) < len(self._magic):
            more = self._packed.read(_PACKED_PIECE)
            rest += more
            self._ended = not more
        if not self._ended and rest.startswith(self._magic):
            self._decoder = self._start()
            self._waiting = rest
        else:
            self._ended = True


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
            return self._before_damage(before, data, max_length)
        self.needs_input = len(piece) < max_length and not self._state.unconsumed_tail
        return piece

    @staticmethod
    def _before_damage(state: Any, data: bytes, max_length: int) -> bytes:
        piece = b""
        with contextlib.suppress(zlib.error):
            for place in range(len(data)):
                if len(piece) == max_length:
                    break
                piece += state.decompress(data[place : place + 1], max_length - len(piece))
        return piece


def _start_xz() -> _Decoder:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_LARGEST_DICTIONARY)


_COMPRESSIONS: dict[str, tuple[Callable[[], _Decoder], bytes]] = {
    "gzip": (lambda: _Inflater(zlib.MAX_WBITS | 16), b"\x1f\x8b"),
    "bzip2": (bz2.BZ2Decompressor, b"BZh"),
    "xz": (_start_xz, b"\xfd7zXZ\0"),
}


# Zip.

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

_UNIX_SYSTEMS = (3, 19)
"""Systems whose file modes stand in the upper half of the external attributes: Unix and macOS (APPNOTE 4.4.2)."""

_DOS_FOLDER = 0x10


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A file in a zip archive, as its headers declare it.

    Attributes
    ----------
    mode
        File mode of Unix; 0 if it was packed elsewhere.
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
        return self.attributes >> 16 if self.system in _UNIX_SYSTEMS else 0

    @property
    def is_folder(self) -> bool:
        named = self.name.endswith(b"/") or bool(self.attributes & _DOS_FOLDER)
        return not self.size and (named or stat.S_ISDIR(self.mode))

    @property
    def refusal(self) -> str:
        """Why it cannot be taken whatever it holds."""
        if stat.S_ISLNK(self.mode):
            return "symlink"
        if stat.S_IFMT(self.mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            return "special-file"
        return "archive-encrypted" if self.flags & _ENCRYPTED else ""


def _read_directory(source: _Source, most: int) -> Iterator[_Entry]:
    """Yield the entries of the central directory; raise _LimitError at the first file beyond `most`."""
    place, end = _find_directory(source)
    files = 0
    while place < end:
        fixed = source.read_at(place, _CENTRAL.size)
        if len(fixed) < _CENTRAL.size or not fixed.startswith(b"PK\1\2"):
            raise _DamagedError
        (_, _, system, _, flags, method, _, _, checksum, packed, size, *lengths, disk, _, attributes, offset) = (
            _CENTRAL.unpack(fixed)
        )
        rest = source.read_at(place + _CENTRAL.size, sum(lengths))
        if len(rest) < sum(lengths):
            raise _DamagedError
        extra = rest[lengths[0] : lengths[0] + lengths[1]]
        size, packed, offset = _resolve_64(extra, size, packed, offset)
        if disk not in (0, 0xFFFF):
            raise _DamagedError
        entry = _Entry(
            name=rest[: lengths[0]],
            flags=flags,
            method=method,
            checksum=checksum,
            packed=packed,
            size=size,
            offset=offset,
            system=system,
            attributes=attributes,
        )
        files += not entry.is_folder
        if files > most:
            raise _LimitError
        yield entry
        place += _CENTRAL.size + sum(lengths)
    if place != end:
        raise _DamagedError


def _find_directory(source: _Source) -> tuple[int, int]:
    """Return where the central directory begins and ends.

    It is believed only where it says itself that it stands: the last archive of several in one file, or one that lies
    unpacked in another whose own end is missing, would pass for the whole.
    """
    begin = max(0, source.size - _END.size - _LONGEST_COMMENT)
    tail = source.read_at(begin, source.size - begin)
    place = tail.rfind(b"PK\5\6", 0, max(0, len(tail) - _END.size + 4))
    refused = len(tail)
    while place >= 0:
        _, disk, first_disk, _, count, size, offset, comment = _END.unpack_from(tail, place)
        record = (begin + place, disk, first_disk, count, size, offset)
        if 0xFFFF in record or _ELSEWHERE in record:
            record = _find_end_64(source, begin + place) or record
        end, disk, first_disk, count, size, offset = record
        empty = not count and not size
        placed = not disk and not first_disk and offset + size == end
        if placed and (empty or source.read_at(offset, 4) == b"PK\1\2"):
            if place + _END.size + comment <= refused < len(tail):
                # Another archive follows, or what is left of one.
                break
            return offset, end
        refused = place
        place = tail.rfind(b"PK\5\6", 0, place)
    raise _DamagedError


def _find_end_64(source: _Source, end: int) -> tuple[int, int, int, int, int, int] | None:
    """Read the zip64 end of central directory record: its place, disks, count of entries, size and offset."""
    locator = source.read_at(end - _LOCATOR_64.size, _LOCATOR_64.size) if end >= _LOCATOR_64.size else b""
    if not locator.startswith(b"PK\6\7"):
        return None
    for place in (_LOCATOR_64.unpack(locator)[2], end - _LOCATOR_64.size - _END_64.size):
        record = source.read_at(place, _END_64.size) if 0 <= place < source.size else b""
        if len(record) == _END_64.size and record.startswith(b"PK\6\6"):
            _, _, _, _, disk, first_disk, _, count, size, offset = _END_64.unpack(record)
            return place, disk, first_disk, count, size, offset
    return None


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


def _walk_entries(source: _Source, largest: int) -> Iterator[_Entry]:
    """Yield the entries as far as their local headers follow each other, without the central directory."""
    # A marker may precede the first of several parts (APPNOTE 8.5.3, 8.5.4).
    offset = 4 if source.read_at(0, 4) in (b"PK\7\x08", b"PK00") else 0
    while True:
        fixed = source.read_at(offset, _LOCAL.size)
        if len(fixed) < _LOCAL.size or not fixed.startswith(b"PK\3\4"):
            return
        _, _, flags, method, _, _, checksum, packed, size, name_length, extra_length = _LOCAL.unpack(fixed)
        rest = source.read_at(offset + _LOCAL.size, name_length + extra_length)
        size, packed = _resolve_64(rest[name_length:], size, packed)
        data = offset + _LOCAL.size + name_length + extra_length
        entry = _Entry(
            name=rest[:name_length],
            flags=flags,
            method=method,
            checksum=checksum,
            packed=packed,
            size=size,
            offset=offset,
        )
        offset = data + packed
        if flags & _SIZES_BEHIND and not packed:
            found = _measure_entry(source, entry, largest)
            if not found:
                # Nobody can tell where the next one begins.
                yield replace(entry, packed=source.size - data, size=max(1, size))
                return
            entry, offset = found
        yield entry


def _measure_entry(source: _Source, entry: _Entry, largest: int) -> tuple[_Entry, int] | None:
    """Find the end of an entry whose sizes stand behind it; return it with its sizes, and where the next one begins."""
    begin = end = _data_offset(source, entry)
    size = checksum = 0
    if entry.flags & _ENCRYPTED:
        return None
    # What is stored as it is has no end of its own, but it may be empty.
    if entry.method:
        part = _Part(source, begin, source.size - begin)
        try:
            unpacked = _open_entry(part, replace(entry, size=_UNKNOWN_SIZE))
            while piece := unpacked.read(_PIECE):
                size += len(piece)
                checksum = zlib.crc32(piece, checksum)
                if size > largest:
                    raise _LimitError
        except _DamagedError:
            return None
        assert isinstance(unpacked, _Decompressed), "whatever is not stored as it is"
        end = part.position - unpacked.left()
    packed = end - begin
    found = source.read_at(end, 24)
    for signature in (b"PK\7\x08", b""):
        for numbers, largest_number in (("<3L", _ELSEWHERE), ("<L2Q", _UNKNOWN_SIZE)):
            descriptor = signature + struct.pack(numbers, checksum, packed & largest_number, size & largest_number)
            if found.startswith(descriptor):
                return replace(entry, checksum=checksum, packed=packed, size=size), end + len(descriptor)
    return None


def _data_offset(source: _Source, entry: _Entry) -> int:
    fixed = source.read_at(entry.offset, _LOCAL.size)
    if len(fixed) < _LOCAL.size or not fixed.startswith(b"PK\3\4"):
        raise _DamagedError
    *_, name_length, extra_length = _LOCAL.unpack(fixed)
    return entry.offset + _LOCAL.size + int(name_length) + int(extra_length)


def _open_entry(packed: _Part, entry: _Entry) -> _Stream:
    """Give what an entry's data unpack to, unchecked; a method that Python lacks counts as damage."""
    if entry.method == 0:
        return packed
    if entry.method == 8:
        return _Decompressed(packed, lambda: _Inflater(-zlib.MAX_WBITS))
    if entry.method == 12:
        return _Decompressed(packed, bz2.BZ2Decompressor)
    if entry.method == 14:
        return _Decompressed(_LzmaFile(packed, entry), _start_lzma)
    raise _DamagedError


def _start_lzma() -> _Decoder:
    return lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_LARGEST_DICTIONARY)


class _LzmaFile:
    """LZMA data of a zip archive with the header of a `.lzma` file, which the decoder knows (APPNOTE 5.8.8)."""

    def __init__(self, packed: _Part, entry: _Entry) -> None:
        self._packed = packed
        head = packed.read(9)
        if len(head) < 9 or head[2:4] != b"\5\0":
            raise _DamagedError
        size = _UNKNOWN_SIZE if entry.flags & _LZMA_END_MARKER else entry.size
        self._head = head[4:] + size.to_bytes(8, "little")

    def read(self, amount: int) -> bytes:
        if self._head:
            piece, self._head = self._head, b""
            return piece
        return self._packed.read(amount)


class _Checked:
    """The content of a zip entry, held against the declared size and checksum."""

    def __init__(self, stream: _Stream, entry: _Entry) -> None:
        self._stream = stream
        self._missing = entry.size
        self._expected = entry.checksum
        self._checksum = 0

    def read(self, amount: int) -> bytes:
        piece = self._stream.read(amount)
        self._missing -= len(piece)
        self._checksum = zlib.crc32(piece, self._checksum)
        if self._missing < 0 or (not piece and (self._missing or self._checksum != self._expected)):
            raise _DamagedError
        return piece


# Tar.

_BLOCK = tarfile.BLOCKSIZE
_TAR_FAULTS = (tarfile.TarError, ArithmeticError, AttributeError, EOFError, LookupError, TypeError, ValueError)
"""What `tarfile` raises at headers that only look like some."""


class _TarFeed:
    """A stream as `tarfile` wants it: a file that only goes forwards.

    Attributes
    ----------
    allowance
        How many bytes may be read before the next member; None while a member's content is read.
    last
        What was read last.
    """

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream
        self._buffer = b""
        self._used = 0
        self._position = 0
        self.allowance: int | None = None
        self.last = b""

    def find_header(self) -> bool:
        """Go past zeros to the next header; tell whether there is one."""
        while True:
            block = self.read(_BLOCK)
            if not block:
                return False
            if block.count(0) < len(block):
                break
        if block[257:262] != b"ustar":
            raise _DamagedError
        self._buffer = block + self._buffer[self._used :]
        self._used = 0
        self._position -= len(block)
        return True

    def read(self, amount: int) -> bytes:
        if self.allowance is not None:
            self.allowance -= amount
            if self.allowance < 0:
                raise _DamagedError
        if amount < 0:
            raise _DamagedError
        pieces = []
        missing = amount
        while missing:
            if self._used == len(self._buffer):
                self._buffer, self._used = self._stream.read(_PIECE), 0
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
        allowance, self.allowance = self.allowance, None
        if position < self._position:
            raise _DamagedError
        while self._position < position:
            if not self.read(min(_PIECE, position - self._position)):
                break
        self.allowance = allowance

    @staticmethod
    def seekable() -> bool:
        return True


class _TarContent:
    """A member's content."""

    def __init__(self, content: IO[bytes]) -> None:
        self._content = content

    def read(self, amount: int) -> bytes:
        try:
            return self._content.read(amount)
        except _TAR_FAULTS as fault:
            raise _DamagedError from fault


def _tar_entries(feed: _TarFeed) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Yield the members of the tar archive that begins here; each has to be read before the next."""
    archive: tarfile.TarFile | None = None
    while True:
        feed.allowance = _LARGEST_TAR_HEADER
        try:
            if archive is None:
                # Opening it reads the first header.
                stream: Any = feed
                archive = tarfile.TarFile(fileobj=stream, encoding="utf-8", errors="surrogateescape")
            entry = archive.next()
        except (*_TAR_FAULTS, RecursionError) as fault:
            raise _DamagedError from fault
        feed.allowance = None
        if entry is None:
            break
        # It would keep them all.
        archive.members.clear()  # type: ignore[attr-defined]
        if entry.size < 0 or not _is_sound(entry):
            raise _DamagedError
        yield archive, entry
    # The same answer tells the end, a header that is none, and a file that was cut.
    if not feed.last or feed.last.count(0) < len(feed.last):
        raise _DamagedError


def _is_sound(entry: tarfile.TarInfo) -> bool:
    """Tell whether the map of a sparse file goes forwards and ends within the file."""
    sparse: Any = entry.sparse
    end = 0
    for begin, size in sparse or ():
        # Entries of no size mark the end of the file, or fill up the header.
        if size < 0 or (size and begin < end):
            return False
        end = begin + size if size else end
    return end <= entry.size
