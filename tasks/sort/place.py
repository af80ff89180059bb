"""Put files where the plan wants them: by reflink, else hard link, else copy, never over something that is there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import CollisionError
from tasks.files import fsync_folder, refusals_named, same_content, temporary_sibling

_FICLONE = 0x40049409
"""The Linux request that shares a file's blocks without sharing its inode (ioctl_ficlone(2))."""

_NO_WAY = frozenset(
    {errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.EMLINK}
)
"""What the kernel answers where a way does not exist between two file systems, as opposed to failing."""

_NO_WAY_FOR_ONE = frozenset({errno.EPERM, errno.EMLINK})
"""Answers of these that may concern one file alone: an immutable one, or one with too many links already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One file to be put at one place."""

    source: Path
    target: Path


class Placer:
    """Places files, remembering for each pair of devices the cheapest way that works there.

    Parameters
    ----------
    tree
        The folder that all targets lie below; it alone is named in a fault, because the names in it quote patients.
    """

    def __init__(self, tree: Path) -> None:
        self._tree = tree
        self._cheapest: dict[tuple[int, int], int] = {}

    def place(self, order: Order) -> str:
        """Place one file; return the way: "reflink", "link", "copy", or "there" if it was already in place.

        Raises
        ------
        CollisionError
            If something else stands at the target.
        FileNotFoundError
            If the source is gone, or no ordinary file any more.
        """
        status = os.lstat(order.source)
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(errno.ENOENT, "no ordinary file any more")
        folder_device = os.stat(order.target.parent).st_dev
        pair = (status.st_dev, folder_device)
        cheapest = self._cheapest.get(pair, 0)
        for number, (name, way) in enumerate(WAYS[cheapest:], cheapest):
            try:
                way(order)
            except FileExistsError:
                if _is_there(order):
                    return "there"
                raise CollisionError(count=1, path=self._tree) from None
            except OSError as refusal:
                if refusal.errno not in _NO_WAY:
                    raise
                if number == cheapest and refusal.errno not in _NO_WAY_FOR_ONE:
                    cheapest = self._cheapest[pair] = number + 1
                continue
            return name
        raise AssertionError("copying is a way everywhere")


def place_all(
    orders: Iterable[Order], tree: Path, *, advance: Callable[[int], None]
) -> tuple[dict[Path, str], list[Path]]:
    """Carry out many orders and make them durable; a place that is taken does not keep the others from theirs.

    Parameters
    ----------
    orders
        What goes where.
    tree
        The folder that all targets lie below.
    advance
        Called with the number of files placed since the last call.

    Returns
    -------
    ways, vanished
        The way each target was placed; and the targets whose source was gone.

    Raises
    ------
    CollisionError, DiskFullError, WorkspaceError
    """
    placer = Placer(tree)
    taken = 0
    ways: dict[Path, str] = {}
    vanished: list[Path] = []
    folders: set[Path] = set()
    with refusals_named(tree):
        for order in orders:
            folder = order.target.parent
            if folder not in folders:
                folder.mkdir(parents=True, exist_ok=True)
                folders.add(folder)
            try:
                ways[order.target] = placer.place(order)
            except FileNotFoundError:
                vanished.append(order.target)
            except CollisionError:
                taken += 1
            advance(1)
        for folder in _with_parents(folders, tree):
            fsync_folder(folder)
    if taken:
        raise CollisionError(count=taken, path=tree)
    return ways, vanished


def take_away(targets: Iterable[Path], tree: Path) -> None:
    """Remove names that an earlier run placed, and folders that this leaves empty; the dump is not touched."""
    folders: set[Path] = set()
    with refusals_named(tree):
        for target in targets:
            with contextlib.suppress(FileNotFoundError):
                target.unlink()
            folders.add(target.parent)
        for folder in sorted(_with_parents(folders, tree), key=lambda path: -len(path.parts)):
            if folder != tree:
                with contextlib.suppress(OSError):
                    folder.rmdir()


def _is_there(order: Order) -> bool:
    """Tell whether the target is the source already, or an ordinary file with the same bytes."""
    if not stat.S_ISREG(os.lstat(order.target).st_mode):
        return False
    return os.path.samefile(order.source, order.target) or same_content(order.source, order.target)


def _with_parents(folders: set[Path], tree: Path) -> set[Path]:
    around = set(folders)
    for folder in folders:
        for parent in folder.parents:
            if parent == tree.parent:
                break
            around.add(parent)
    return around


def _reflink(order: Order) -> None:
    with _fresh(order.target) as beside:
        source = os.open(order.source, os.O_RDONLY)
        try:
            target = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                fcntl.ioctl(target, _FICLONE, source)
            finally:
                os.close(target)
        finally:
            os.close(source)


def _link(order: Order) -> None:
    os.link(order.source, order.target, follow_symlinks=False)


def _copy(order: Order) -> None:
    with _fresh(order.target) as beside:
        shutil.copyfile(order.source, beside)
        shutil.copystat(order.source, beside)
        with open(beside, "rb") as written:
            os.fsync(written.fileno())
        if not same_content(order.source, beside):
            raise OSError(errno.EIO, "the copy differs from its source")


@contextlib.contextmanager
def _fresh(target: Path) -> Iterator[Path]:
    """Offer a hidden name to write to, then give it the real one unless that is taken."""
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, "taken")
    beside = temporary_sibling(target)
    with contextlib.suppress(FileNotFoundError):
        beside.unlink()
    try:
        yield beside
        os.rename(beside, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()
        raise


WAYS: tuple[tuple[str, Callable[[Order], None]], ...] = (("reflink", _reflink), ("link", _link), ("copy", _copy))
"""The ways to place a file, cheapest safe one first; a reflink shares no inode, so it goes before a hard link."""
