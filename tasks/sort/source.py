"""Where the bytes of an indexed file can be had: in the dump, among the unpacked files, or in the sorted tree."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tasks.sort.place import Order
from tasks.sort.store import Source
from tasks.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The three folders that hold the bytes.

    Attributes
    ----------
    dump, unpacked, tree
        Absolute, as the operating system writes them.
    """

    dump: bytes
    unpacked: bytes
    tree: bytes

    @classmethod
    def of(cls, dump: Path, workspace: Workspace) -> Self:
        """Name the folders of a study."""
        return cls(
            dump=os.fsencode(dump),
            unpacked=os.fsencode(workspace.unpacked),
            tree=os.fsencode(workspace.sorted_tree),
        )

    def in_dump(self, path: bytes) -> bytes:
        """Return where a file of the dump stands."""
        return self.dump + b"/" + path

    def in_tree(self, target: str) -> bytes:
        """Return where a file of the sorted tree stands."""
        return self.tree + b"/" + os.fsencode(target)

    def path_of(self, source: Source) -> bytes:
        """Return where a file's bytes can be had: where it came from, else where it was placed before it left that."""
        if source.present:
            return self.unpacked + b"/" + os.fsencode(source.stored) if source.stored else self.in_dump(source.path)
        return self.in_tree(source.placed_at)

    def order_of(self, source: Source) -> Order:
        """Return what places a file."""
        ours = bool(source.stored) or not source.present
        return Order(
            source=self.path_of(source),
            target=source.target,
            file=source.file,
            device=source.device,
            size=source.size,
            mtime_ns=-1 if ours else source.mtime_ns,
        )
