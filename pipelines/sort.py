"""From the dump to the index and the sorted tree: `IndexDump`, `SortStudy`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.base import BOARD, ChunkTask, StageTask, holds_something
from tasks.errors import UnaccountedError
from tasks.files import file_digest, sweep_temporaries
from tasks.index.header import read_header
from tasks.index.row import REJECT_REASONS, IndexRow, Reject
from tasks.index.store import (
    SCHEMA_VERSION,
    IndexedFile,
    IndexStore,
    read_chunk,
    read_outcomes,
    write_chunk,
    write_outcomes,
)
from tasks.lists import show_path, write_list
from tasks.receipt import Receipt, digest_of
from tasks.sort.place import Order, place_all, take_away
from tasks.sort.plan import SortPlan, files_to_digest, plan_sort

LAYOUT_VERSION = 1
"""Raised when the names in the sorted tree change, so that the next run sorts again."""

_ADVANCE_EVERY = 200


class IndexChunk(ChunkTask):
    """Read the headers of one frozen list of files."""

    def work(self) -> None:
        """Read the headers."""
        dump = os.fsencode(self.settings.dump)
        outcomes: list[IndexRow | Reject] = []
        stamps = read_chunk(self.list_path)
        for number, stamp in enumerate(stamps, 1):
            outcomes.append(read_header(dump, stamp.path))
            if number % _ADVANCE_EVERY == 0 or number == len(stamps):
                self.advance("Indexing", (number - 1) % _ADVANCE_EVERY + 1)
        write_outcomes(self.outcome_path, outcomes)


class IndexDump(StageTask):
    """Index every file of the dump that is new or changed since the last run."""

    stage = "index"
    title = "Indexed"
    chunk_task = IndexChunk

    def input_digest(self) -> str:
        """Name the state of the dump."""
        return self.inventory.digest if self.place.index.exists() else ""

    def settings_digest(self) -> str:
        """Name the index's format; chunk sizes do not matter to what it holds."""
        return digest_of({"schema": SCHEMA_VERSION})

    def work(self) -> Iterator[Any]:
        """Freeze the lists, have the chunks read, merge what they read."""
        chunks = self.freeze("index", "Indexing", self._write_lists)
        yield chunks
        read = 0
        with IndexStore(self.place.index) as store:
            for chunk in chunks:
                stamps = read_chunk(chunk.list_path)
                store.merge(stamps, read_outcomes(chunk.outcome_path))
                read += len(stamps)
            store.finish_scan(self.inventory.stamps, self.inventory.rejects)
            counts = store.counts()
        self.finish(
            counts={
                "files_seen": len(self.inventory.stamps) + len(self.inventory.rejects),
                "read_now": read,
                "dicom": counts["dicom"],
                "by_pydicom": counts["slow_path"],
            }
        )
        self.forget_plans("index")

    def _write_lists(self, folder: Path) -> int:
        """List the files that are new or changed."""
        with IndexStore(self.place.index) as store:
            known = store.known_stamps()
        new = [stamp for stamp in self.inventory.stamps if stamp not in known]
        size = self.settings.chunks.index_files
        for chunk, begin in enumerate(range(0, len(new), size)):
            write_chunk(folder / f"{chunk:05d}.json", new[begin : begin + size])
        return len(new)


class SortStudy(StageTask):
    """Sort the dump into patient / study date / series, losing nothing.

    Give --dump DIR and --workspace DIR, or --study FILE.toml.
    """

    stage = "sort"
    title = "Sorted"

    def requires(self) -> IndexDump:
        """Ask for the index."""
        index: IndexDump = self.sibling(IndexDump)
        return index

    def input_digest(self) -> str:
        """Name the state of the dump."""
        return self.inventory.digest if self.place.index.exists() else ""

    def settings_digest(self) -> str:
        """Name the layout."""
        return digest_of({"layout": LAYOUT_VERSION})

    def is_still_there(self, receipt: Receipt) -> bool:
        """Tell whether the sorted tree was not taken away."""
        return not receipt.counts["placed"] or holds_something(self.place.sorted_tree)

    def work(self) -> None:
        """Plan the tree, place what is new, take away what moved, and check that every file is accounted for."""
        tree = self.place.sorted_tree
        sweep_temporaries(tree)
        with IndexStore(self.place.index) as store:
            placed = {target: file for target, file in store.placements().items() if os.path.lexists(tree / target)}
            kept = set(placed.values())
            files = [file for file in store.instances() if file.present or file.file in kept]
            digests, gone = self._digest(store, files, placed)
            files = [file for file in files if file.file not in gone]
            plan = plan_sort(files, digests)
            vanished = self._place(store, plan, placed)
            rejects = store.rejects()
        gone_rejects = [Reject(path=path, reason="vanished") for path in sorted(vanished)]
        rejects += [Reject(path=file.stamp.path, reason="vanished") for file in gone.values() if file.present]
        rejects += gone_rejects
        self._check(plan, len(files), vanished, len(rejects))
        lists = self._write_lists(plan, rejects)
        new = sum(1 for placement in plan.placements if placement.target not in placed)
        self.finish(
            counts={
                "files_seen": len(self.inventory.stamps) + len(self.inventory.rejects),
                "placed": len(plan.placements) - len(vanished),
                "placed_now": new - len(vanished),
                "duplicates": len(plan.duplicates),
                "conflicts": len(plan.conflicts),
                "rejected": len(rejects),
            },
            lists=lists,
            output_digest=digest_of([placement.target for placement in plan.placements]),
        )

    def _source(self, file: IndexedFile, placed_at: dict[int, str]) -> Path:
        """Say where a file's bytes can be had: in the dump, or where they were placed before they left it."""
        if file.present or file.file not in placed_at:
            return Path(os.fsdecode(os.fsencode(self.settings.dump) + b"/" + file.stamp.path))
        return self.place.sorted_tree / placed_at[file.file]

    def _digest(
        self, store: IndexStore, files: list[IndexedFile], placed: dict[str, int]
    ) -> tuple[dict[int, str], dict[int, IndexedFile]]:
        """Digest the files that their headers do not tell apart; also return those that are gone."""
        placed_at = {file: target for target, file in placed.items()}
        digests = {file.file: file.digest for file in files if file.digest}
        by_inode: dict[tuple[int, int], str] = {}
        fresh: list[tuple[int, str]] = []
        gone: dict[int, IndexedFile] = {}
        for file in files_to_digest(files):
            inode = (file.stamp.device, file.stamp.inode)
            try:
                if not file.present or inode not in by_inode:
                    by_inode[inode] = file_digest(self._source(file, placed_at))
            except OSError:
                gone[file.file] = file
                continue
            digests[file.file] = by_inode[inode]
            fresh.append((file.file, by_inode[inode]))
        store.keep_digests(fresh)
        return digests, gone

    def _place(self, store: IndexStore, plan: SortPlan, placed: dict[str, int]) -> set[bytes]:
        """Carry out the plan's difference to what stands; return the paths that had vanished."""
        tree = self.place.sorted_tree
        placed_at = {file: target for target, file in placed.items()}
        new = [placement for placement in plan.placements if placement.target not in placed]
        obsolete = set(placed) - {placement.target for placement in plan.placements}
        orders = [
            Order(source=self._source(placement.file, placed_at), target=tree / placement.target) for placement in new
        ]
        # Noted before the first file is placed, so that a run after a crash knows every name that may stand there.
        store.keep_placements([(placement.target, placement.file.file, "") for placement in new], [])
        BOARD.expect("Sorting", len(orders))
        ways, vanished = place_all(orders, tree, advance=lambda units: BOARD.advance("Sorting", units))
        take_away((tree / target for target in obsolete), tree)
        lost = set(vanished)
        store.keep_placements(
            [
                (placement.target, placement.file.file, ways[order.target])
                for placement, order in zip(new, orders, strict=True)
                if order.target not in lost
            ],
            [*obsolete, *(str(target.relative_to(tree)) for target in vanished)],
        )
        return {placement.file.stamp.path for placement, order in zip(new, orders, strict=True) if order.target in lost}

    def _check(self, plan: SortPlan, files: int, vanished: set[bytes], rejected: int) -> None:
        """Close the sums: what was indexed is placed or a duplicate, and what is placed is really there."""
        tree = os.fspath(self.place.sorted_tree)
        lost = {os.fspath(path) for path in vanished}
        missing = sum(
            1
            for placement in plan.placements
            if placement.file.stamp.path not in lost and not os.path.lexists(f"{tree}/{placement.target}")
        )
        missing += abs(files - len(plan.placements) - len(plan.duplicates))
        if missing:
            raise UnaccountedError(stage="Sorting", count=missing, total=files + rejected)

    def _write_lists(self, plan: SortPlan, rejects: list[Reject]) -> dict[str, str]:
        folder = self.place.lists
        write_list(
            folder / "rejects.tsv",
            ("file", "reason", "meaning"),
            ((show_path(reject.path), reject.reason, REJECT_REASONS[reject.reason]) for reject in rejects),
        )
        write_list(
            folder / "duplicates.tsv",
            ("file", "same_as"),
            ((show_path(duplicate.path), show_path(duplicate.kept)) for duplicate in plan.duplicates),
        )
        write_list(
            folder / "conflicts.tsv",
            ("file", "kept_as"),
            ((show_path(conflict.path), conflict.target) for conflict in plan.conflicts),
        )
        return {
            name: os.fspath((folder / f"{name}.tsv").relative_to(self.place.root))
            for name in ("rejects", "duplicates", "conflicts")
        }
