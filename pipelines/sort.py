"""From the dump to the index and the sorted tree: `IndexDump`, `SortStudy`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from stat import S_ISREG
from typing import Any

from pipelines.base import BOARD, ChunkTask, StageTask, holds_something
from tasks.errors import UnaccountedError
from tasks.files import file_digest, same_content, sweep_temporaries
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
        with IndexStore(self.place.index):
            pass  # made before the plan is named: without an index there is no input to name it by
        chunks = self.freeze("Indexing", self._write_lists)
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
        self.forget_plans()

    def _write_lists(self, folder: Path) -> list[int]:
        """List the files that are new or changed."""
        with IndexStore(self.place.index) as store:
            known = store.known_stamps()
        new = [stamp for stamp in self.inventory.stamps if stamp not in known]
        size = self.settings.chunks.index_files
        chunks = [new[begin : begin + size] for begin in range(0, len(new), size)]
        for chunk, stamps in enumerate(chunks):
            write_chunk(folder / f"{chunk:05d}.json", stamps)
        return [len(stamps) for stamps in chunks]


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
            indexed = {file.file: file for file in store.instances()}
            self._settle(store, indexed)
            known = store.placements()
            placed = {target: file for target, file in known.items() if self._still_holds(tree / target, indexed[file])}
            kept = set(placed.values())
            files = [file for file in indexed.values() if file.present or file.file in kept]
            digests, gone = self._digest(store, files, placed)
            files = [file for file in files if file.file not in gone]
            # Of a file that left the dump nothing is missing as long as the dump holds the same bytes elsewhere.
            held = {(file.row.sop_instance_uid, digests.get(file.file)) for file in files if file.present}
            files = [
                file
                for file in files
                if file.present
                or file.file not in digests
                or (file.row.sop_instance_uid, digests[file.file]) not in held
            ]
            plan = plan_sort(files, digests)
            vanished = self._place(store, plan, placed, set(known))
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
                "gone_from_the_dump": sum(1 for file in files if not file.present),
                "duplicates": len(plan.duplicates),
                "conflicts": len(plan.conflicts),
                "rejected": len(rejects),
            },
            lists=lists,
            # With the file that filled each place: the same place may hold other bytes than at the last time.
            output_digest=digest_of(
                [(placement.target, placed.get(placement.target, placement.file.file)) for placement in plan.placements]
            ),
        )

    def _settle(self, store: IndexStore, indexed: dict[int, IndexedFile]) -> None:
        """Find out which of the places that a run noted, before it was cut off or met a collision, it has filled."""
        filled: list[tuple[str, int, str]] = []
        free: list[str] = []
        for target, number in store.unfinished_placements().items():
            file, place = indexed[number], self.place.sorted_tree / target
            source = self._source(file, {})
            try:
                ours = S_ISREG(os.lstat(place).st_mode) and (
                    same_content(source, place) if file.present and source.exists() else self._reads_as(place, file)
                )
            except OSError:
                ours = False
            if ours:
                filled.append((target, number, "there"))
            else:
                free.append(target)
        store.keep_placements(filled, free)

    def _reads_as(self, place: Path, file: IndexedFile) -> bool:
        """Tell whether a file of the sorted tree has the size and the header of one that is gone from the dump."""
        header = read_header(os.fsencode(place.parent), os.fsencode(place.name))
        same = isinstance(header, IndexRow) and replace(header, path=file.row.path) == file.row
        return same and place.stat().st_size == file.stamp.size

    def _still_holds(self, place: Path, file: IndexedFile) -> bool:
        """Tell whether a place holds the content that was put there.

        A hard link shows what is written into the dump's file later; the index then knows that content under its own
        stamp, and what was there before is no more.
        """
        try:
            status = os.lstat(place)
        except OSError:
            return False
        stamp = file.stamp
        linked = (status.st_dev, status.st_ino) == (stamp.device, stamp.inode)
        return not linked or (status.st_size, status.st_mtime_ns) == (stamp.size, stamp.mtime_ns)

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
                if file.present and inode in by_inode:
                    digest = by_inode[inode]
                else:
                    digest = file_digest(self._source(file, placed_at))
            except OSError:
                gone[file.file] = file
                continue
            if file.present:
                # Only of what the dump holds now: a file rewritten in place keeps its inode and not its content.
                by_inode[inode] = digest
            digests[file.file] = digest
            fresh.append((file.file, digest))
        store.keep_digests(fresh)
        return digests, gone

    def _place(self, store: IndexStore, plan: SortPlan, placed: dict[str, int], known: set[str]) -> set[bytes]:
        """Carry out the plan's difference to what stands; return the paths that had vanished.

        `placed` is what stands as it was placed; `known` are all places that were ever filled.
        """
        tree = self.place.sorted_tree
        placed_at = {file: target for target, file in placed.items()}
        new = [placement for placement in plan.placements if placement.target not in placed]
        obsolete = known - {placement.target for placement in plan.placements}
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
