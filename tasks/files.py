"""Write files so that a reader, or a crash, sees either the old content or the new one, never a part."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from tasks.errors import DamagedRecordError, DiskFullError, WorkspaceError

TEMPORARY_PREFIX = ".scanward-"
"""How every unfinished file of ours begins, so that a later run can tell and sweep it."""

_CHUNK = 1 << 20
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
"""What file systems answer that know no hard links."""
_REFUSALS = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP}
)


def temporary_name(name: str, *, process: int | None = None) -> str:
    """Name the unfinished form of a file: hidden, one a process of any machine, never longer than a name may be."""
    known = os.fsencode(name)[:120].decode("utf-8", "ignore")
    return f"{TEMPORARY_PREFIX}{process or os.getpid()}.{this_machine()}-{known}"


def temporary_sibling(path: Path) -> Path:
    """Name the unfinished form of `path`, beside it."""
    return path.with_name(temporary_name(path.name))


@cache
def this_machine() -> str:
    """Name the machine as it runs now by eight hexadecimal digits: where a process number means one process.

    It was another one before it was started anew, and a container with processes of its own is one by itself.
    """
    known = [os.uname().nodename]
    for source in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with contextlib.suppress(OSError):
            known.append(os.readlink(source) if os.path.islink(source) else Path(source).read_text("ascii"))
    return hashlib.sha256("\0".join(known[1:] or known).encode()).hexdigest()[:8]


def fsync_folder(folder: Path | bytes) -> None:
    """Make the names in a folder survive a power cut (POSIX leaves renames in memory until then)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def written_atomically(path: Path, *, mode: int = 0o644) -> Iterator[BinaryIO]:
    """Offer a stream to a file beside; then flush, fsync, rename, fsync the folder.

    Raises
    ------
    DiskFullError, WorkspaceError
        If the file system refuses; the old content, if any, is still there.
    """
    beside = temporary_sibling(path)
    with refusals_named(path.parent):
        try:
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
            with os.fdopen(descriptor, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(beside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(beside)
            raise
        fsync_folder(path.parent)


def write_atomically(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write a whole file as `written_atomically` does."""
    with written_atomically(path, mode=mode) as stream:
        stream.write(content)


def write_once(path: Path, content: bytes, *, mode: int = 0o644) -> bool:
    """Write a whole file unless it is there already, whichever machine may try the same at once; tell whether it was.

    Raises
    ------
    DiskFullError, WorkspaceError
        If the file system refuses.
    """
    beside = temporary_sibling(path)
    with refusals_named(path.parent):
        try:
            with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            try:
                # A link, unlike a rename, never takes the place of what another process wrote meanwhile.
                os.link(beside, path)
            except FileExistsError:
                # Over the network, the answer to a link that was made may be lost, and the second try told this.
                return os.stat(beside).st_nlink > 1
            except OSError as fault:
                if fault.errno not in _NO_LINKS:
                    raise
                if path.exists():
                    return False
                os.replace(beside, path)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(beside)
        fsync_folder(path.parent)
    return True


def write_json(path: Path, content: Any, *, mode: int = 0o644) -> None:
    """Write JSON atomically; keys sorted and lines indented, so that equal content is equal bytes."""
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False)
    write_atomically(path, text.encode("utf-8") + b"\n", mode=mode)


def file_digest(path: Path | str | bytes) -> str:
    """Return the SHA-256 of a file's content as 64 hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_of_part(path: Path, offset: int, length: int | None) -> str:
    """Return the SHA-256 of a file's bytes from `offset` on: so many of them as there are, or all that follow."""
    total = hashlib.sha256()
    with path.open("rb") as stream:
        stream.seek(offset)
        left = length
        while piece := stream.read(_CHUNK if left is None else min(_CHUNK, left)):
            total.update(piece)
            left = None if left is None else left - len(piece)
    return total.hexdigest()


def same_content(one: Path | bytes, other: Path | bytes) -> bool:
    """Tell whether two files hold the same bytes, without trusting sizes or times alone."""
    if os.path.getsize(one) != os.path.getsize(other):
        return False
    with open(one, "rb") as left, open(other, "rb") as right:
        while True:
            piece = left.read(_CHUNK)
            if piece != right.read(_CHUNK):
                return False
            if not piece:
                return True


def make_folder(folder: Path, *, mode: int | None = None) -> None:
    """Create a folder and its parents; set `mode`, if given, on the folder itself, also if it was there already.

    Raises
    ------
    DiskFullError, WorkspaceError
        If the file system refuses.
    """
    with refusals_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if mode is not None and (folder.stat().st_mode & 0o7777) != mode:
            folder.chmod(mode)


@contextlib.contextmanager
def refusals_named(folder: Path | str) -> Iterator[None]:
    """Turn the file system's refusals while writing below `folder` into faults that say what to do."""
    try:
        yield
    except OSError as fault:
        if fault.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(path=folder) from fault
        if fault.errno in _REFUSALS:
            reason = os.strerror(fault.errno).lower()
            raise WorkspaceError(path=folder, problem=f"cannot be written ({reason})") from fault
        raise


@contextlib.contextmanager
def database_refusals_named(path: Path) -> Iterator[None]:
    """Turn what SQLite says of the file at `path` into faults that say what to do; its own words may quote values."""
    try:
        yield
    except sqlite3.DatabaseError as fault:
        # The primary code is the lower byte (SQLite, "Result and Error Codes"); a text that does not decode has none.
        extended = getattr(fault, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
        code = extended & 0xFF
        if code == sqlite3.SQLITE_FULL or extended == sqlite3.SQLITE_IOERR_SHMSIZE:
            # The second is a full disk as well, met while the file that readers and writers share was to grow.
            raise DiskFullError(path=path.parent) from fault
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            raise WorkspaceError(path=path.parent, problem="cannot be written") from fault
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise WorkspaceError(path=path.parent, problem="is being written by another run") from fault
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise DamagedRecordError(path=path, problem="it is damaged, or no file of scanward") from fault
        raise


def sweep_temporaries(folder: Path, *, deep: bool = True, foreign: bool = True) -> int:
    """Remove what an interrupted run left unfinished in `folder`, files and folders; return how many that were.

    Those of a process of this machine that still lives are left alone.

    Parameters
    ----------
    deep
        Whether other folders below are looked into.
    foreign
        Whether what processes of other machines left is removed: only where none of them can be at work any longer.
    """
    swept = 0
    for parent, folders, names in os.walk(folder):
        for name in names:
            if _is_left_over(name, foreign=foreign):
                # Another machine may sweep at the same time.
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(parent, name))
                    swept += 1
        for name in folders:
            if not _is_left_over(name, foreign=foreign):
                continue
            # A program that it started may still be writing there.
            shutil.rmtree(os.path.join(parent, name), ignore_errors=True)
            swept += 1
        folders[:] = [name for name in folders if deep and not name.startswith(TEMPORARY_PREFIX)]
    return swept


_held: set[str] = set()
"""Names of what this process works on over many calls."""


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Keep something unfinished of this very process from being swept by it."""
    _held.add(path.name)
    try:
        yield
    finally:
        _held.discard(path.name)


def _is_left_over(name: str, *, foreign: bool) -> bool:
    """Tell whether a name is that of something unfinished on which nobody works any longer."""
    if not name.startswith(TEMPORARY_PREFIX) or name in _held:
        return False
    process, _, machine = name[len(TEMPORARY_PREFIX) :].partition("-")[0].partition(".")
    if machine != this_machine():
        return foreign
    return not process.isdigit() or int(process) == os.getpid() or not _alive(int(process))


def _alive(process: int) -> bool:
    """Tell whether a process is at work; one that is dead and was not collected by its parent is not."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    try:
        status = Path(f"/proc/{process}/stat").read_bytes()
    except OSError:
        return True
    # The state follows the name, which stands in parentheses and may hold some itself (proc(5)).
    return status.rpartition(b")")[2].split()[:1] != [b"Z"]
