"""Pack files in every kind of archive, and unpack them into a store of their own."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.index.archive import ArchiveLimits, Member, unpack_container
from tasks.index.header import read_header
from tasks.index.row import REJECT_REASONS, Container

KEY = "ab12cd34"


def image(number: int, size: int = 700) -> bytes:
    """Make something that begins like a DICOM file and that no compression makes small."""
    return bytes(128) + b"DICM" + random.Random(number).randbytes(size)


@dataclass(frozen=True, kw_only=True)
class Unpacked:
    """What became of a container: reasons and contents by path, and the list itself."""

    members: list[Member]
    reasons: dict[bytes, str]
    contents: dict[bytes, bytes]


class Bench:
    """A dump and a store."""

    def __init__(self, folder: Path) -> None:
        self.dump = folder / "dump"
        self.store = folder / "identified" / "unpacked"
        self.dump.mkdir()

    def unpack_only(
        self, name: str, content: bytes, *, kind: str | None = None, key: str = KEY, **limits: int
    ) -> list[Member]:
        path = os.fsencode(name)
        (self.dump / name).write_bytes(content)
        if kind is None:
            found = read_header(os.fsencode(self.dump), path)
            assert isinstance(found, Container), found
            kind = found.kind
        members = unpack_container(
            os.fsencode(self.dump),
            Container(path=path, kind=kind),
            store=self.store,
            key=key,
            limits=ArchiveLimits(**limits),
            settle=False,
        )
        assert (self.dump / name).read_bytes() == content
        return members

    def unpack(self, name: str, content: bytes, **words: Any) -> Unpacked:
        return self.look(self.unpack_only(name, content, **words))

    def look(self, members: list[Member]) -> Unpacked:
        """Read what was stored; whatever else happened, the store holds that and nothing more."""
        stored = [member.stored for member in members if member.stored]
        assert sorted(stored) == self.stored()
        for member in members:
            assert bool(member.stored) != bool(member.reason)
            assert not member.reason or member.reason in REJECT_REASONS
            if member.stored:
                assert member.size == (self.store / member.stored).stat().st_size
        counts = Counter(member.path for member in members)
        assert max(counts.values()) == 1, counts.most_common(2)
        return Unpacked(
            members=members,
            reasons={member.path: member.reason for member in members if member.reason},
            contents={member.path: (self.store / member.stored).read_bytes() for member in members if member.stored},
        )

    def stored(self) -> list[str]:
        return sorted(str(path.relative_to(self.store)) for path in self.store.rglob("*") if path.is_file())


def zipped(members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, (2017, 7, 14, 2, 40, 0)), content, method)
    return stream.getvalue()


def streamed_zip(members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Make a zip archive as a program does that writes into a pipe: sizes stand behind the data."""

    class Pipe(io.RawIOBase):
        written = b""

        def writable(self) -> bool:
            return True

        def write(self, piece: bytes) -> int:
            self.written += piece
            return len(piece)

    stream = Pipe()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.written


def tarred(members: Mapping[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def gzipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


ARCHIVES: dict[str, Callable[[Mapping[str, bytes]], bytes]] = {
    "stored.zip": lambda members: zipped(members, zipfile.ZIP_STORED),
    "deflated.zip": zipped,
    "bzip2.zip": lambda members: zipped(members, zipfile.ZIP_BZIP2),
    "lzma.zip": lambda members: zipped(members, zipfile.ZIP_LZMA),
    "streamed.zip": streamed_zip,
    "ustar.tar": lambda members: tarred(members, tarfile.USTAR_FORMAT),
    "gnu.tar": lambda members: tarred(members, tarfile.GNU_FORMAT),
    "pax.tar": tarred,
    "x.tar.gz": lambda members: gzipped(tarred(members)),
    "x.tar.bz2": lambda members: bz2.compress(tarred(members)),
    "x.tar.xz": lambda members: lzma.compress(tarred(members), preset=1),
    "x.zip.gz": lambda members: gzipped(zipped(members)),
}
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "x.gz": gzipped,
    "x.bz2": bz2.compress,
    "x.xz": lambda content: lzma.compress(content, preset=1),
}
