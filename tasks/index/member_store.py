"""Keep what came out of the archives of a dump in a private store of the workspace, under names of our own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tasks.files import (
    TEMPORARY_PREFIX,
    make_folder,
    refusals_named,
    sweep_temporaries,
    temporary_sibling,
)


class MemberStore:
    """The part of the store that belongs to one container of the dump.

    All that writes raises DiskFullError or WorkspaceError if the file system refuses.

    Parameters
    ----------
    store
        The store of the whole dump; made, and its folders, once there is something to write.
    key
        Short name of the container, with which all names of its members begin.

    Attributes
    ----------
    names
        What was stored, below the store.
    """

    def __init__(self, store: Path, key: str) -> None:
        self._store = store
        self._key = key
        self._folder = store / key[:2]
        self._folder_made = False
        self.names: list[str] = []

    @contextlib.contextmanager
    def next_member(self) -> Iterator[IO[bytes]]:
        """Offer a stream to the next member, which is in the store, as the last of `names`, if nothing goes wrong."""
        name = f"{self._key[:2]}/{self._key}-{len(self.names):06d}"
        beside = temporary_sibling(self._store / name)
        with refusals_named(self._store):
            with self._unfinished(beside) as target:
                yield target
            os.replace(beside, self._store / name)
        self.names.append(name)

    @contextlib.contextmanager
    def nameless_file(self) -> Iterator[IO[bytes]]:
        """Offer a stream to a file that nobody else sees, and that is gone afterwards, also after a crash."""
        beside = temporary_sibling(self._folder / f"{self._key}-archive")
        with refusals_named(self._store), self._unfinished(beside) as target:
            os.unlink(beside)
            yield target

    @contextlib.contextmanager
    def _unfinished(self, beside: Path) -> Iterator[IO[bytes]]:
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

    def discard(self) -> None:
        """Remove what was stored."""
        for name in self.names:
            (self._store / name).unlink(missing_ok=True)
        self.names.clear()

    def sweep(self) -> None:
        """Remove what earlier attempts at this container left and this one did not make."""
        if not self._folder.is_dir():
            return
        with refusals_named(self._store):
            left = os.listdir(self._folder)
            if any(name.startswith(TEMPORARY_PREFIX) for name in left):
                sweep_temporaries(self._folder, deep=False, foreign=False)
            wanted = {name[3:] for name in self.names}
            for name in left:
                if name.startswith(f"{self._key}-") and name not in wanted:
                    (self._folder / name).unlink(missing_ok=True)
