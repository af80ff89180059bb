"""Put files where the plan wants them, never over something that is there, and check that they are what was meant."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tasks.errors import WorkspaceError
from tasks.files import fsync_folder, refusals_named, same_content, temporary_name, temporary_sibling

_FICLONE = 0x40049409
"""The Linux request that shares a file's blocks without sharing its inode (ioctl_ficlone(2))."""

_NO_WAY = frozenset(
    {errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.EMLINK}
)
"""What the kernel answers where a way does not exist between two file systems, as opposed to failing."""

_NO_WAY_FOR_ONE = frozenset({errno.EPERM, errno.EMLINK})
"""Answers of these that may concern one file alone: an immutable one, or one with too many links already."""

_BATCH = 20_000
"""Files after which folders are made durable: the first fsync writes the journal, the others find that done."""


_ADVANCE_EVERY = 200
_PIECE = 1 << 20

Way = tuple[str, Callable[[bytes, int, str], None]]
"""A way to place a file: its name, and what does it, given the source, an open folder and the name in there."""


class Order(NamedTuple):
    """One file to be put at one place.

    Attributes
    ----------
    source
        Absolute.
    target
        Below the tree, with forward slashes.
    file
        The file's number in the index.
    device, size, mtime_ns
        What the source is known by; if it is another file by now, nothing is placed. `mtime_ns` is -1 for one of our
        own files, which nobody else writes.
    """

    source: bytes
    target: str
    file: int
    device: int
    size: int
    mtime_ns: int


TAKEN = "taken"
"""Why a file was not placed where something else stands: no fault of the file, and nothing that we overwrite."""


class Placed(NamedTuple):
    """What became of an order.

    Attributes
    ----------
    way
        "reflink", "hardlink", "copy", "symlink", or "there" if it was in place; empty if nothing was placed.
    reason
        Why nothing was: "vanished", "unreadable", "still-arriving" if the source is another file by now, or `TAKEN`.
    """

    order: Order
    way: str
    reason: str


def place_all(
    orders: Iterable[Order], tree: str, *, how: str, advance: Callable[[int], None]
) -> Iterator[list[Placed]]:
    """Carry out many orders, and tell what became of them once it is durable.

    Parameters
    ----------
    orders
        What goes where, the places of one folder in a row.
    tree
        The folder that all targets lie below; it alone is named in a fault, because names in it quote patients.
    how
        "auto" (reflink, else hard link, else copy), or one of "reflink", "hardlink", "copy", "symlink".
    advance
        Called with the number of files placed since the last call.

    Raises
    ------
    DiskFullError, WorkspaceError
    """
    placer = _Placer(os.fsencode(tree), WAYS[how])
    done: list[Placed] = []
    with refusals_named(tree), contextlib.closing(placer):
        for order in orders:
            done.append(placer.place(order))
            if len(done) % _ADVANCE_EVERY == 0:
                advance(_ADVANCE_EVERY)
            if len(done) >= _BATCH:
                placer.make_durable()
                yield done
                done = []
        advance(len(done) % _ADVANCE_EVERY)
        placer.make_durable()
        yield done


class _TakenError(Exception):
    """Something else stands in a place."""


class _UnreadableError(Exception):
    """A source may not be read any more: no fault of the tree."""


class _Placer:
    """Places files, remembering for each device that files come from the cheapest way that works from there."""

    def __init__(self, tree: bytes, ways: tuple[Way, ...]) -> None:
        self._tree = tree
        self._ways = ways
        self._cheapest: dict[tuple[int, bool], int] = {}
        self._folder: str | None = None
        self._handle = -1
        self._folders: set[bytes] = set()

    def place(self, order: Order) -> Placed:
        folder, _, name = order.target.rpartition("/")
        if folder != self._folder:
            self._enter(folder)
        try:
            way = self._try_ways(order, name)
        except FileNotFoundError:
            return Placed(order, "", "vanished")
        except _UnreadableError:
            return Placed(order, "", "unreadable")
        except _TakenError:
            return Placed(order, "", TAKEN)
        if way != "there" and not self._is_what_was_meant(order, name, way):
            os.unlink(name, dir_fd=self._handle)
            return Placed(order, "", "still-arriving")
        return Placed(order, way, "")

    def _enter(self, folder: str) -> None:
        """Make a folder and hold it open: what is named relative to it is found without walking the whole path."""
        path = self._tree + b"/" + os.fsencode(folder)
        os.makedirs(path, mode=0o700, exist_ok=True)
        self.close()
        self._handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        self._folder = folder
        while path not in self._folders:
            self._folders.add(path)
            if path != self._tree:
                path = path[: path.rindex(b"/")]

    def close(self) -> None:
        """Let go of the folder that is held open."""
        if self._folder is not None:
            os.close(self._handle)
            self._folder = None

    def make_durable(self) -> None:
        """Make the names that were given survive a power cut."""
        self.close()
        for folder in sorted(self._folders):
            fsync_folder(folder)
        self._folders.clear()

    def _try_ways(self, order: Order, name: str) -> str:
        # A file of the tree itself is on its way to another place: a link to where it stood would soon lead nowhere.
        own = self._ways[0] == _SYMLINK and order.source.startswith(self._tree + b"/")
        ways = WAYS["auto"] if own else self._ways
        cheapest = self._cheapest.get((order.device, own), 0)
        for number in range(cheapest, len(ways)):
            title, way = ways[number]
            try:
                way(order.source, self._handle, name)
            except FileExistsError:
                place = self._tree + b"/" + os.fsencode(order.target)
                if is_there(order.source, place, by_link=ways[0] == _SYMLINK):
                    return "there"
                raise _TakenError from None
            except OSError as refusal:
                if refusal.errno not in _NO_WAY:
                    raise
                if number == cheapest and refusal.errno not in _NO_WAY_FOR_ONE:
                    cheapest = self._cheapest[order.device, own] = number + 1
                continue
            return title
        if not stat.S_ISREG(os.lstat(order.source).st_mode):
            raise FileNotFoundError(errno.ENOENT, "no ordinary file any more")
        raise WorkspaceError(path=os.fsdecode(self._tree), problem=f"cannot take files of the dump by {ways[-1][0]}")

    def _is_what_was_meant(self, order: Order, name: str, way: str) -> bool:
        """Tell whether what was placed is the file that the index knows, and no other by the same name."""
        try:
            # A hard link shows the source; everything else is compared with the source as it is now.
            if way == "hardlink":
                status = os.stat(name, dir_fd=self._handle, follow_symlinks=False)
            else:
                status = os.lstat(order.source)
        except FileNotFoundError:
            return False
        if not stat.S_ISREG(status.st_mode):
            return False
        return order.mtime_ns < 0 or (status.st_size, status.st_mtime_ns) == (order.size, order.mtime_ns)


def take_away(targets: Iterable[str], tree: str) -> None:
    """Remove names that an earlier run placed, and folders that this leaves empty; the dump is not touched."""
    folders: set[str] = set()
    with refusals_named(tree):
        for target in targets:
            path = f"{tree}/{target}"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            folder = os.path.dirname(path)
            while folder != tree and folder not in folders:
                folders.add(folder)
                folder = os.path.dirname(folder)
        for folder in sorted(folders, key=lambda path: -path.count("/")):
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def names_in(folder: str) -> frozenset[str]:
    """Return the names of the files and links in a folder of the tree, none if there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if not entry.is_dir(follow_symlinks=False))
    except OSError:
        return frozenset()


def still_holds(path: bytes, *, inode: int, size: int, mtime_ns: int) -> bool:
    """Tell whether a place holds the content that was put there, although its file is gone from the dump.

    A link shows what is written into the file later; then what was there before is no more. A copy that has the inode's
    number by chance, on another device, has the size and the time of its source.
    """
    try:
        status = os.stat(path)
    except OSError:
        return False
    linked = status.st_ino == inode or os.path.islink(path)
    return not linked or (status.st_size, status.st_mtime_ns) == (size, mtime_ns)


def lead_to(source: bytes, target: str, tree: str) -> None:
    """Have a symbolic link of the tree lead to where its file is now; what is no link is left as it is."""
    place = Path(tree, target)
    try:
        if os.readlink(os.fsencode(place)) == source:
            return
    except OSError:
        return
    beside = temporary_sibling(place)
    with refusals_named(tree):
        beside.unlink(missing_ok=True)
        os.symlink(source, beside)
        os.replace(beside, place)


def is_there(source: bytes, target: bytes, *, by_link: bool) -> bool:
    """Tell whether the target is the source already, or an ordinary file with the same bytes.

    Parameters
    ----------
    source, target
        Absolute paths.
    by_link
        Whether files are placed by symbolic links; else a link there is somebody else's.
    """
    status = os.lstat(target)
    if stat.S_ISLNK(status.st_mode):
        return by_link and os.readlink(target) == source
    if not stat.S_ISREG(status.st_mode):
        return False
    return os.path.samefile(source, target) or same_content(source, target)


def way_of(source: bytes, target: bytes) -> str:
    """Tell by which way a file came to a place that it fills already; a reflink looks like a copy."""
    if os.path.islink(target):
        return "symlink"
    return "hardlink" if os.path.samefile(source, target) else "copy"


def way_of_gone(target: bytes, *, inode: int, size: int, mtime_ns: int) -> str:
    """Tell by which way a file came to its place that has left the dump since; empty if another one stands there.

    `mtime_ns` is -1 where it does not tell.
    """
    status = os.lstat(target)
    if not stat.S_ISREG(status.st_mode) or status.st_size != size or mtime_ns not in (-1, status.st_mtime_ns):
        return ""
    return "hardlink" if status.st_ino == inode else "copy"


def _reflink(source: bytes, folder: int, name: str) -> None:
    with _fresh(folder, name) as copy, _ordinary(source) as original:
        fcntl.ioctl(copy.fileno(), _FICLONE, original.fileno())
        _take_over(copy, original)


def _hardlink(source: bytes, folder: int, name: str) -> None:
    os.link(source, name, dst_dir_fd=folder, follow_symlinks=False)


def _copy(source: bytes, folder: int, name: str) -> None:
    with _fresh(folder, name) as copy, _ordinary(source) as original:
        shutil.copyfileobj(original, copy, _PIECE)
        copy.flush()
        _take_over(copy, original)
        os.fsync(copy.fileno())
        original.seek(0)
        copy.seek(0)
        while True:
            piece = original.read(_PIECE)
            if piece != copy.read(_PIECE):
                raise OSError(errno.EIO, "the copy differs from its source")
            if not piece:
                break


def _take_over(copy: BinaryIO, original: BinaryIO) -> None:
    """Give a copy the rights and the times of what it is a copy of."""
    status = os.fstat(original.fileno())
    os.fchmod(copy.fileno(), stat.S_IMODE(status.st_mode))
    os.utime(copy.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))


def _symlink(source: bytes, folder: int, name: str) -> None:
    os.lstat(source)
    os.symlink(source, name, dir_fd=folder)


@contextlib.contextmanager
def _ordinary(path: bytes) -> Iterator[BinaryIO]:
    """Open a file for reading that is a file: not a link, and nothing that blocks."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as fault:
        if fault.errno == errno.ELOOP:
            raise FileNotFoundError(errno.ENOENT, "no ordinary file any more") from fault
        if fault.errno == errno.EACCES:
            raise _UnreadableError from fault
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, "no ordinary file any more")
    with os.fdopen(descriptor, "rb") as stream:
        yield stream


@contextlib.contextmanager
def _fresh(folder: int, name: str) -> Iterator[BinaryIO]:
    """Offer a file under a hidden name, then give it the real one unless that is taken."""
    if _is_taken(folder, name):
        raise FileExistsError(errno.EEXIST, "taken")
    beside = temporary_name(name)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(beside, dir_fd=folder)
    try:
        descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
        with os.fdopen(descriptor, "w+b") as stream:
            yield stream
        os.rename(beside, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside, dir_fd=folder)
        raise


def _is_taken(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


_REFLINK = ("reflink", _reflink)
_HARDLINK = ("hardlink", _hardlink)
_COPY = ("copy", _copy)
_SYMLINK = ("symlink", _symlink)

WAYS: dict[str, tuple[Way, ...]] = {
    # Cheapest safe one first; a reflink shares no inode, so it goes before a hard link.
    "auto": (_REFLINK, _HARDLINK, _COPY),
    "reflink": (_REFLINK,),
    "hardlink": (_HARDLINK,),
    "copy": (_COPY,),
    "symlink": (_SYMLINK,),
}
"""The ways to place a file, by what the study file asks for."""
