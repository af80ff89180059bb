"""List what lies in a dump, without opening a file."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tasks.errors import DumpError
from tasks.files import refusals_named
from tasks.index.row import STAMP_RECORD, FileStamp, Reject, unpack_stamps

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Quiet:
    """A span of time in which a file that changed is taken for one that is still being written.

    Attributes
    ----------
    begin_ns, end_ns
        In nanoseconds since 1970 (UTC). The end lies in the future, because a file server's clock may be ahead.
    """

    begin_ns: int
    end_ns: int


class Spool:
    """An open file without a name, so that nothing is left of it however the process ends.

    Parameters
    ----------
    path
        Where it is made, mode 0600.
    """

    def __init__(self, path: Path) -> None:
        self.descriptor = -1
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        path.unlink()

    def close(self) -> None:
        """Let go of the file, and with that of its content."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __del__(self) -> None:
        self.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """Everything seen in a dump at one moment; the files themselves stand in a spool, because they may be millions.

    Attributes
    ----------
    digest
        Names this very state of the dump: any file added, gone, moved or touched gives another digest.
    files
        How many ordinary files there are.
    refused
        Links, special files, folders that could not be opened, and files that may still be being written; by path.
    spool
        The list of the ordinary files.
    """

    digest: str
    files: int
    refused: tuple[Reject, ...]
    spool: Spool = field(repr=False, compare=False)

    def stamps(self) -> Iterator[FileStamp]:
        """Yield the ordinary files, always in the same order; memory stays small."""
        rest = b""
        place = 0
        # At a place that is told each time: processes that were forked share the one that is remembered.
        while block := os.pread(self.spool.descriptor, _BLOCK, place):
            place += len(block)
            stamps, rest = unpack_stamps(rest + block)
            yield from stamps


def scan_dump(dump: bytes, spool: Path, *, quiet: Quiet | None = None) -> Inventory:
    """Walk a dump, folders of any depth; links are reported and not followed.

    Parameters
    ----------
    dump
        The folder.
    spool
        The file that the list of ordinary files is written to, mode 0600; its name is removed at once.
    quiet
        Files last changed within it are refused as "still-arriving".

    Raises
    ------
    DumpError
        If the folder itself is not there or cannot be opened.
    DiskFullError, WorkspaceError
        If the spool cannot be written.
    """
    files = 0
    refused: list[Reject] = []
    state = hashlib.sha256()
    pending = [b""]
    devices = _Devices(dump)
    with refusals_named(spool.parent):
        listed = Spool(spool)
        try:
            with os.fdopen(listed.descriptor, "wb", closefd=False) as stream:
                while pending:
                    records, folders = _scan_folder(dump, pending.pop(), refused, quiet, devices)
                    # Backwards, because the last is taken first.
                    pending += sorted(folders, reverse=True)
                    files += len(records)
                    block = b"".join(sorted(records))
                    state.update(block)
                    stream.write(block)
        except BaseException:
            listed.close()
            raise
    refused.sort(key=lambda reject: reject.path)
    for reject in refused:
        state.update(reject.path + b"\0" + reject.reason.encode("ascii") + b"\0")
    return Inventory(digest=state.hexdigest(), files=files, refused=tuple(refused), spool=listed)


class _Devices:
    """Numbers the devices that files of a dump lie on, alike on every machine that sees it.

    The kernel's own number of a file system that comes over the network is another one on each machine, and after each
    start.
    """

    def __init__(self, dump: bytes) -> None:
        self._known: dict[int, int] = {}
        try:
            self._known[os.stat(dump).st_dev] = 0
        except OSError:
            return

    def number_in(self, folder: bytes, device: int) -> int:
        """Return the number of a device, which is named by the folder where it is met first."""
        number = self._known.get(device)
        if number is None:
            name = b"%d:%b" % (len(self._known), folder)
            number = self._known[device] = int.from_bytes(hashlib.sha256(name).digest()[:6], "big") + 1
        return number


def _scan_folder(
    dump: bytes, folder: bytes, refused: list[Reject], quiet: Quiet | None, devices: _Devices
) -> tuple[list[bytes], list[bytes]]:
    """Return the records of a folder's ordinary files, and the folders in it."""
    records: list[bytes] = []
    folders: list[bytes] = []
    prefix = folder + b"/" if folder else b""
    begin, end = (quiet.begin_ns, quiet.end_ns) if quiet else (1, 0)
    last, device = -1, 0
    try:
        with os.scandir(dump + b"/" + folder if folder else dump) as entries:
            for entry in entries:
                # A hundred thousand turns a night on an unchanged dump: each call in here is seen.
                path = prefix + entry.name
                try:
                    if entry.is_symlink():
                        refused.append(Reject(path=path, reason="symlink"))
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(path)
                        continue
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    refused.append(Reject(path=path, reason="vanished"))
                    continue
                except OSError:
                    refused.append(Reject(path=path, reason="unreadable"))
                    continue
                if not stat.S_ISREG(status.st_mode):
                    refused.append(Reject(path=path, reason="special-file"))
                    continue
                changed = status.st_mtime_ns
                if begin <= changed <= end:
                    refused.append(Reject(path=path, reason="still-arriving"))
                    continue
                if status.st_dev != last:
                    last = status.st_dev
                    device = devices.number_in(folder, last)
                records.append(STAMP_RECORD % (path, status.st_size, changed, device, status.st_ino))
    except OSError as fault:
        # Met when the folder is opened, or on the way through it.
        if not folder:
            problem = {FileNotFoundError: "does not exist", NotADirectoryError: "is not a folder"}
            raise DumpError(path=os.fsdecode(dump), problem=problem.get(type(fault), "cannot be read")) from fault
        refused.append(Reject(path=folder, reason="folder-unreadable"))
    return records, folders
