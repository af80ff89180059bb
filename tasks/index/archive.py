"""Open archives and compressed files of a dump; the DICOM files in them go into a private store of the workspace.

Nothing is taken on trust: sizes are counted as the bytes come out, names are only names, and each piece in memory is
bounded.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tasks.dicom.syntax import SyntaxRefusalError, read_meta
from tasks.files import fsync_folder, refusals_named
from tasks.index.compressed import COMPRESSIONS, open_compressed
from tasks.index.member_store import MemberStore
from tasks.index.row import Container, Reject
from tasks.index.stranger import tell_stranger
from tasks.index.stream import (
    PIECE,
    Begun,
    Counted,
    DamagedError,
    DumpFile,
    LimitError,
    Memory,
    OpenFile,
    Part,
    Source,
    Stream,
    UnreadableError,
)
from tasks.index.tar_archive import TarEntry, read_tar
from tasks.index.zip_archive import ZipEntry, open_entry, read_directory, walk_entries

_HEAD = 8192
_SETTLED_AT_ONCE = 16


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
        members = _Unpacking(DumpFile(descriptor), MemberStore(store, key), limits).unpack(container)
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


class _Unpacking:
    """One container of the dump while it is unpacked, with all that lies in it."""

    def __init__(self, source: DumpFile, store: MemberStore, limits: ArchiveLimits) -> None:
        self._source = source
        self._store = store
        self._limits = limits
        self._members: list[Member] = []
        self._names: dict[bytes, int] = {}
        self._files = 0
        self._bytes = 0

    def unpack(self, container: Container) -> list[Member]:
        try:
            if self._limits.depth:
                self._open(self._source, container.kind, container.path, 1)
            else:
                self._refuse(container.path, "archive-nested")
        except LimitError:
            self._store.discard()
            self._members = [Member(path=container.path, reason="archive-limit")]
        except UnreadableError:
            self._refuse(container.path, "unreadable")
        if not self._members:
            self._refuse(container.path, "empty")
        self._store.sweep()
        return self._members

    # What lies in what. A level says how deep the archive lies that is read: the dump's own are at 1.

    def _open(self, source: Source, kind: str, path: bytes, level: int) -> None:
        whole = Part(source, 0, source.size)
        if kind == "zip":
            self._read_zip(source, path, level)
        elif kind == "tar":
            self._read_tar(self._counted(whole), path, level)
        else:
            self._take(self._counted(open_compressed(whole, kind)), path, level, compressed=True)

    def _read_zip(self, source: Source, path: bytes, level: int) -> None:
        head = source.read_at(0, _HEAD)
        if head.startswith(b"PK\3\4") and isinstance(tell_stranger(head, path), Reject):
            self._refuse(path, "not-dicom", source.size)
            return
        try:
            entries = read_directory(source, self._limits.members)
        except DamagedError:
            whole = False
            for entry in walk_entries(source, self._limits.member_bytes):
                self._take_zip_entry(source, entry, path, level)
        else:
            whole = True
            self._check_bytes(self._bytes + sum(entry.size for entry in entries))
            self._check_files(self._files + len(entries))
            for entry in entries:
                whole &= self._take_zip_entry(source, entry, path, level)
        if not whole:
            self._refuse(path, "archive-damaged")

    def _take_zip_entry(self, source: Source, entry: ZipEntry, archive: bytes, level: int) -> bool:
        path = self._enter(archive, entry)
        if entry.refusal:
            self._refuse(path, entry.refusal, entry.size)
            return True
        try:
            content = open_entry(source, entry)
        except DamagedError:
            self._refuse(path, "archive-damaged")
            return False
        return self._take(self._counted(content), path, level)

    def _read_tar(self, stream: Stream, path: bytes, level: int) -> None:
        try:
            for entry in read_tar(stream):
                self._take_tar_entry(entry, path, level)
        except DamagedError:
            self._refuse(path, "archive-damaged")

    def _take_tar_entry(self, entry: TarEntry, archive: bytes, level: int) -> None:
        path = self._enter(archive, entry)
        if entry.refusal:
            self._refuse(path, entry.refusal)
            return
        content = entry.open()
        # Where there are no holes, the bytes were counted with the tar they stand in.
        if not self._take(self._counted(content) if entry.is_sparse else content, path, level):
            raise DamagedError

    def _take(self, stream: Stream, path: bytes, level: int, *, compressed: bool = False) -> bool:
        """Take one file, or what it holds if it is an archive; tell whether it could be read to its end.

        Parameters
        ----------
        level
            How deep the archive lies that the file lies in.
        compressed
            Whether it is all that a compressed file holds: it keeps that file's path, and an archive packed in this way
            is one archive and not two.
        """
        begun = Begun(stream)
        kind, reason = _judge(begun.first)
        if compressed and kind == "tar":
            self._read_tar(begun, path, level)
            return True
        deeper = level + (not compressed or kind in COMPRESSIONS)
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
                with self._store.next_member() as target:
                    size = self._copy(begun, target)
                stored = self._store.names[-1]
        except DamagedError:
            self._refuse(path, "archive-damaged")
            return False
        self._members.append(Member(path=path, stored=stored, reason=reason, size=size))
        return True

    @contextlib.contextmanager
    def _spooled(self, stream: Begun) -> Iterator[Source]:
        """Offer a member as something that can be read anywhere: in memory if it is small, else in a nameless file."""
        if stream.whole:
            self._check_size(len(stream.first))
            yield Memory(stream.first)
            return
        with self._store.nameless_file() as spool:
            self._copy(stream, spool)
            spool.flush()
            yield OpenFile(spool.fileno())

    def _copy(self, stream: Stream, target: IO[bytes] | None) -> int:
        """Read a member to its end, and return how long it is."""
        size = 0
        while piece := stream.read(PIECE):
            size += len(piece)
            self._check_size(size)
            if target:
                target.write(piece)
        return size

    # The list of members.

    def _enter(self, archive: bytes, entry: ZipEntry | TarEntry) -> bytes:
        """Count a file by what it declares to be, and return its path in the list, which is never twice the same."""
        self._files += 1
        self._check_files(self._files)
        self._check_size(entry.size)
        path = archive + b"!/" + entry.name.replace(b"\0", b"\\0")
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

    # The limits.

    def _counted(self, stream: Stream) -> Counted:
        return Counted(stream, self._count_bytes)

    def _count_bytes(self, amount: int) -> None:
        self._bytes += amount
        self._check_bytes(self._bytes)

    def _check_files(self, files: int) -> None:
        if files > self._limits.members:
            raise LimitError

    def _check_bytes(self, amount: int) -> None:
        limits = self._limits
        if amount > limits.total_bytes or amount > max(limits.harmless_bytes, limits.ratio * self._source.size):
            raise LimitError

    def _check_size(self, size: int) -> None:
        if size > self._limits.member_bytes:
            raise LimitError


def _judge(head: bytes) -> tuple[str, str]:
    """Tell what a file is by its first bytes: the kind of a container, a reason to leave it, or neither for DICOM."""
    if not head:
        return "", "empty"
    try:
        read_meta(head[:_HEAD])
    except SyntaxRefusalError as refusal:
        if refusal.reason == "not-dicom":
            stranger = tell_stranger(head[:_HEAD], b"")
            return ("", stranger.reason) if isinstance(stranger, Reject) else (stranger.kind, "")
    return "", ""
