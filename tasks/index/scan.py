"""List what lies in a dump, without opening a file."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from functools import cached_property

from tasks.errors import DumpError
from tasks.index.row import FileStamp, Reject

_FIELD = "<%d:%d:%d:%d>"


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """Everything seen in a dump at one moment, sorted by path.

    Attributes
    ----------
    stamps
        The ordinary files.
    rejects
        Links, special files and folders that could not be opened.
    """

    stamps: tuple[FileStamp, ...]
    rejects: tuple[Reject, ...]

    @cached_property
    def digest(self) -> str:
        """Name this very state of the dump: any file added, gone, moved or touched gives another digest."""
        state = hashlib.sha256()
        for stamp in self.stamps:
            identity = _FIELD % (stamp.device, stamp.inode, stamp.size, stamp.mtime_ns)
            state.update(stamp.path + b"\0" + identity.encode("ascii"))
        for reject in self.rejects:
            state.update(reject.path + b"\0" + reject.reason.encode("ascii"))
        return state.hexdigest()


def scan_dump(dump: bytes) -> Inventory:
    """Walk a dump, folders of any depth; links are reported and not followed.

    Parameters
    ----------
    dump
        The folder.

    Raises
    ------
    DumpError
        If the folder itself is not there or cannot be opened.
    """
    stamps: list[FileStamp] = []
    rejects: list[Reject] = []
    pending = [b""]
    while pending:
        folder = pending.pop()
        try:
            entries = os.scandir(dump + b"/" + folder if folder else dump)
        except OSError as fault:
            if not folder:
                problem = {FileNotFoundError: "does not exist", NotADirectoryError: "is not a folder"}
                raise DumpError(path=os.fsdecode(dump), problem=problem.get(type(fault), "cannot be read")) from fault
            rejects.append(Reject(path=folder, reason="folder-unreadable"))
            continue
        with entries:
            for entry in entries:
                path = folder + b"/" + entry.name if folder else entry.name
                try:
                    if entry.is_symlink():
                        rejects.append(Reject(path=path, reason="symlink"))
                    elif entry.is_dir(follow_symlinks=False):
                        pending.append(path)
                    else:
                        _take(path, entry.stat(follow_symlinks=False), stamps, rejects)
                except FileNotFoundError:
                    rejects.append(Reject(path=path, reason="vanished"))
                except OSError:
                    rejects.append(Reject(path=path, reason="unreadable"))
    stamps.sort(key=lambda stamp: stamp.path)
    rejects.sort(key=lambda reject: reject.path)
    return Inventory(stamps=tuple(stamps), rejects=tuple(rejects))


def _take(path: bytes, status: os.stat_result, stamps: list[FileStamp], rejects: list[Reject]) -> None:
    if not stat.S_ISREG(status.st_mode):
        rejects.append(Reject(path=path, reason="special-file"))
        return
    stamps.append(
        FileStamp(
            path=path,
            size=status.st_size,
            mtime_ns=status.st_mtime_ns,
            device=status.st_dev,
            inode=status.st_ino,
        )
    )
