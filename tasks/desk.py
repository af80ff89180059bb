"""Working copies of databases: changed in private, put back whole.

On storage that several hosts share, locks cannot be trusted, so nothing there is changed in place: who has to write a
database copies it, works on the copy, and has the copy take its place in one step. Whoever does the same work at the
same time, because each takes the other for dead, does it on a copy of its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.database import fold_journal
from tasks.errors import OvertakenError
from tasks.files import fsync_folder, held, make_folder, refusals_named, temporary_sibling

_PIECE = 1 << 26

_Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """A private folder with copies of databases.

    Attributes
    ----------
    folder
        Where the copies lie, under the names of the originals.
    origin
        The folder of the originals.
    writes
        The databases that are put back: name to what the original was when it was copied.
    """

    folder: Path
    origin: Path
    writes: dict[str, _Stamp | None]

    def put_back(self) -> None:
        """Have the copies take the place of the originals.

        Raises
        ------
        OvertakenError
            If an original is another one by now: somebody else did the same work.
        DiskFullError, WorkspaceError
        """
        with refusals_named(self.origin):
            for name, before in self.writes.items():
                copy, original = self.folder / name, self.origin / name
                if not copy.exists():
                    continue
                if _stamp_of(original) != before:
                    raise OvertakenError
                with open(copy, "rb+") as stream:
                    os.fsync(stream.fileno())
                os.replace(copy, original)
                self.writes[name] = _stamp_of(original)
            fsync_folder(self.origin)


@contextlib.contextmanager
def lay_out(origin: Path, *, reads: tuple[str, ...], writes: tuple[str, ...]) -> Iterator[Desk]:
    """Offer copies of databases in a private folder, which is gone afterwards.

    Parameters
    ----------
    origin
        The folder of the originals.
    reads, writes
        The names of databases that are looked at, and of those that are put back; not all need be there.
    """
    folder = temporary_sibling(origin / "desk")
    with refusals_named(origin):
        shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder, mode=0o700)
    stamps: dict[str, _Stamp | None] = {}
    try:
        for name in dict.fromkeys((*writes, *reads)):
            original = origin / name
            with contextlib.suppress(FileNotFoundError):
                fold_journal(original)
            before = _stamp_of(original)
            if before is not None:
                with refusals_named(origin):
                    _copy(original, folder / name)
            if name in writes:
                stamps[name] = before
        with held(folder):
            yield Desk(folder=folder, origin=origin, writes=stamps)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _stamp_of(path: Path) -> _Stamp | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _copy(source: Path, target: Path) -> None:
    """Copy a file within the file server, where that can do it."""
    with open(source, "rb") as original, open(target, "wb", opener=_private) as copy:
        size = os.fstat(original.fileno()).st_size
        done = 0
        if hasattr(os, "copy_file_range"):
            with contextlib.suppress(OSError):
                while done < size:
                    moved = os.copy_file_range(original.fileno(), copy.fileno(), min(_PIECE, size - done), done, done)
                    if not moved:
                        break
                    done += moved
        original.seek(done)
        copy.seek(done)
        shutil.copyfileobj(original, copy, 1 << 20)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
