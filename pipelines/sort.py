"""From the index to the sorted tree: `PlanSort`, `SortStudy`."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipelines.base import BOARD, ChunkTask, StageTask, holds_something, now
from pipelines.index import IndexDump
from tasks import __version__
from tasks.errors import CollisionError, UnaccountedError
from tasks.files import file_digest, sweep_temporaries
from tasks.index.completeness import INCOMPLETE_REASONS, count_frames
from tasks.index.row import REJECT_REASONS
from tasks.lists import show_path, write_list
from tasks.parcel import Parcel
from tasks.receipt import Receipt, digest_of
from tasks.sort.conflict import CONFLICT_KINDS, LASTING_KINDS, compare_group
from tasks.sort.layout import parse_layout
from tasks.sort.place import (
    TAKEN,
    Placed,
    is_there,
    lead_to,
    names_in,
    place_all,
    still_holds,
    take_away,
    way_of,
    way_of_gone,
)
from tasks.sort.source import Sources
from tasks.sort.store import Candidate, Planned, SortStore, Source, pack_placements
from tasks.sort.tree import TreeNames, plan_tree
from tasks.sort.visit import read_visit_overrides
from tasks.worklist import chunk_size, list_path
from tasks.workspace import INDEX

_ADVANCE_EVERY = 1000


class PlanSort(StageTask):
    """Decide where every file of the dump goes, and write that down, without placing any.

    Give --dump DIR and --workspace DIR, or --study FILE.toml.
    """

    stage = "plan"
    title = "Planned"
    writes = (INDEX,)

    def before(self) -> IndexDump:
        """Return the index."""
        index: IndexDump = self.sibling(IndexDump)
        return index

    def settings_digest(self) -> str:
        """Name the layout."""
        settings = self.settings.sort
        try:
            visits = file_digest(settings.visits) if settings.visits else ""
        except OSError:
            visits = "unreadable"
        return digest_of(
            {
                "layout": parse_layout(settings.layout, settings.file_name).canonical,
                "gap": settings.visit_gap_hours,
                "visits": visits,
            }
        )

    def work(self) -> None:
        """Plan the tree, find what is missing, and write the lists."""
        settings = self.settings.sort
        sources = Sources.of(self.settings.dump, self.place)
        with SortStore(self.place.index) as store:
            settle(store, sources, by_link=self.settings.sort.place == "symlink")
            _digest(self.before(), store, sources)
            names = TreeNames(
                store,
                parse_layout(settings.layout, settings.file_name),
                settings.visit_gap_hours,
                read_visit_overrides(settings.visits) if settings.visits else {},
            )
            store.keep_frames(
                (source.file, count_frames(Path(os.fsdecode(sources.path_of(source))))) for source in store.uncounted()
            )
            BOARD.expect("Planning", store.count_candidates())
            gaps = plan_tree(store, names, lambda kept: _compare(store, sources, kept), watched=_counted)
            store.keep_gaps((series, " ".join(reasons)) for series, reasons in gaps.items())
            incomplete = store.gap_counts()
            output = _RowDigest()
            lists = self._write_lists(store, output)
            self.finish(
                counts={**store.plan_counts(), "incomplete_series": sum(incomplete.values())},
                lists=lists,
                output_digest=output.name(),
                facts={"reasons": incomplete, "gaps": digest_of(list(store.gaps())), "session": self.session},
            )

    def _write_lists(self, store: SortStore, output: _RowDigest) -> dict[str, str]:
        """Write the plan, which is digested as it passes, and what is set aside or missing, as tables for people."""
        tables: dict[str, tuple[tuple[str, ...], Iterable[Sequence[str]]]] = {
            "plan": (
                ("file", "target"),
                ((show_path(path), output.take(target, file)) for path, target, file in store.planned()),
            ),
            "duplicates": (
                ("file", "same_as"),
                ((show_path(path), show_path(kept)) for path, kept in store.duplicates()),
            ),
            "conflicts": (
                ("file", "kept_as", "differs", "meaning"),
                (
                    (show_path(path), target, differs, CONFLICT_KINDS[differs])
                    for path, target, differs in store.conflicts()
                ),
            ),
            "incomplete": (
                ("folder", "files", "reasons", "meaning"),
                (
                    (
                        target.rpartition("/")[0],
                        str(files),
                        reasons,
                        " ".join(INCOMPLETE_REASONS[reason] for reason in reasons.split()),
                    )
                    for target, files, reasons in store.gaps()
                ),
            ),
        }
        for name, (columns, rows) in tables.items():
            write_list(self.place.lists / f"{name}.tsv", columns, rows)
        return {name: _list_name(self, name) for name in tables}


class PlaceChunk(ChunkTask):
    """Put one frozen list of files where the plan wants them."""

    def work(self) -> None:
        """Place the files."""
        sources = Sources.of(self.settings.dump, self.place)
        with Parcel.read(self.list_path).opened() as opened:
            batches = place_all(
                (sources.order_of(Source(*row)) for row in opened.execute("SELECT * FROM rows")),
                os.fspath(self.place.sorted_tree),
                how=self.settings.sort.place,
                advance=lambda units: self.advance("Sorting", units),
            )
            pack_placements(
                (one.order.target, one.order.file, _way(one, sources), one.way == "there", one.reason)
                for batch in batches
                for one in batch
            ).write(self.outcome_path)


class SortStudy(StageTask):
    """Sort the dump into patient / study date / series, losing nothing.

    Give --dump DIR and --workspace DIR, or --study FILE.toml.
    """

    stage = "sort"
    title = "Sorted"
    chunk_task = PlaceChunk
    writes = (INDEX,)

    def before(self) -> PlanSort:
        """Return the plan."""
        plan: PlanSort = self.sibling(PlanSort)
        return plan

    def settings_digest(self) -> str:
        """Name the way of placing, and what links lead to."""
        place = self.settings.sort.place
        return digest_of({"place": place, "dump": os.fspath(self.settings.dump) if place == "symlink" else ""})

    def is_still_there(self, receipt: Receipt) -> bool:
        """Tell whether the sorted tree was not taken away."""
        return not receipt.counts["placed"] or holds_something(self.place.sorted_tree)

    def work(self) -> Iterator[Any]:
        """Have the chunks place what is new, take away what moved, and check that every file is accounted for."""
        chunks = self.freeze("Sorting", self._write_lists, still_true=self._still_stands)
        yield chunks
        tree = os.fspath(self.place.sorted_tree)
        sweep_temporaries(self.place.sorted_tree)
        with SortStore(self.place.index) as store:
            run = store.begin_run(now().isoformat(timespec="seconds"), __version__)
            ordered = 0
            undone: list[tuple[int, str]] = []
            store.expect_placements(len(chunks) * self.settings.chunks.place_files)
            for chunk in chunks:
                parcel = Parcel.read(chunk.outcome_path)
                ordered += parcel.count("placed")
                undone += store.merge_placements(run, parcel)
            store.placements_noted()
            lost = [(file, reason) for file, reason in undone if reason != TAKEN]
            self.before().before().try_again(len(lost))
            store.refuse_planned(lost)
            if len(undone) > len(lost):
                # Whoever mends it shall find the next run looking at what stands.
                self.forget_plans()
                raise CollisionError(count=len(undone) - len(lost), path=tree)
            gone = [target for target, _ in store.obsolete()]
            take_away(gone, tree)
            store.forget_placements(run, gone)
            store.finish_run(run, now().isoformat(timespec="seconds"))
            self._check(store, tree)
            counts = store.plan_counts()
            indexed = store.counts()
            write_list(
                self.place.lists / "rejects.tsv",
                ("file", "reason", "meaning"),
                ((show_path(reject.path), reject.reason, REJECT_REASONS[reject.reason]) for reject in store.rejects()),
            )
            write_list(
                self.place.lists / "opened.tsv",
                ("file", "members"),
                ((show_path(path), str(members)) for path, members in store.opened()),
            )
            self.finish(
                counts={
                    "files_seen": indexed["files"],
                    "in_archives": indexed["members"],
                    "archives_opened": indexed["opened"],
                    "placed": counts["placed"],
                    "placed_now": ordered - len(lost),
                    "taken_away_now": len(gone),
                    "gone_from_the_dump": counts["gone_from_the_dump"],
                    "duplicates": counts["duplicates"],
                    "conflicts": counts["conflicts"],
                    "rejected": indexed["rejects"],
                },
                lists={name: _list_name(self, name) for name in ("rejects", "opened")},
                # With the file that fills each place: the same place may hold other bytes than at the last time.
                output_digest=_RowDigest(store.plan_rows()).name() if lost else self.input_digest(),
                facts={"reasons": store.reject_counts()},
            )

    def _write_lists(self, folder: Path) -> list[int]:
        """List what the plan wants and the sorted tree does not have yet."""
        self.forget_plans(but=folder)
        sources = Sources.of(self.settings.dump, self.place)
        sizes: list[int] = []
        with SortStore(self.place.index) as store:
            plan = self.before().receipt()
            if plan is None or plan.facts["session"] != self.session:
                # Else it was done a moment ago.
                settle(store, sources, by_link=self.settings.sort.place == "symlink")
            store.begin_run(now().isoformat(timespec="seconds"), __version__)
            size = chunk_size(self.settings.chunks.place_files, plan.counts["placed"] if plan is not None else 0)
            for parcel, count in store.pack_work(size):
                parcel.write(list_path(folder, len(sizes)))
                sizes.append(count)
        return sizes

    def _still_stands(self, chunk: ChunkTask) -> bool:
        """Tell whether all that a chunk placed is in the tree."""
        with Parcel.read(chunk.outcome_path).opened() as opened:
            rows = opened.execute("SELECT target, file FROM placed WHERE way != '' ORDER BY target")
            return not any(True for _ in _missing(rows, os.fspath(self.place.sorted_tree)))

    def _check(self, store: SortStore, tree: str) -> None:
        """Close the sums: what was indexed is planned, and what is planned is really there."""
        missing = store.count_unplanned()
        missing += sum(1 for _ in _missing(store.plan_rows(), tree))
        if missing:
            # The next run shall look at what stands, and not go on where this one ended.
            self.forget_plans()
            raise UnaccountedError(stage="Sorting", count=missing, total=store.counts()["files"])


def _way(placed: Placed, sources: Sources) -> str:
    """Name the way by which a file was placed, also if that was done by a run that was cut off; empty if it was not."""
    if placed.way != "there":
        return placed.way
    return way_of(placed.order.source, sources.in_tree(placed.order.target))


def settle(store: SortStore, sources: Sources, *, by_link: bool) -> None:
    """Find out what stands in the sorted tree: what was placed and is there, and what a run placed that was cut off."""
    store.lose_placements(list(_missing(store.placement_rows(), os.fsdecode(sources.tree))))
    store.lose_placements(
        [
            one.target
            for one in store.placed_and_gone()
            if not still_holds(
                sources.in_tree(one.target),
                inode=one.inode,
                size=one.size,
                mtime_ns=one.mtime_ns,
            )
        ]
    )
    for one in store.linked():
        # It may have moved in the dump, which leaves its place in the tree as it was.
        lead_to(sources.path_of(one), one.target, os.fsdecode(sources.tree))
    run = store.cut_off_run()
    if run is None:
        return
    found = []
    for source in store.to_place():
        target = sources.in_tree(source.target)
        if not os.path.lexists(target):
            continue
        if not source.present and not source.placed_at:
            # It left the dump since it was placed, which nobody had time to note: this is the last copy.
            mtime_ns = -1 if source.stored else source.mtime_ns
            way = way_of_gone(target, inode=source.inode, size=source.size, mtime_ns=mtime_ns)
            if way:
                found.append((source.target, source.file, way))
            continue
        with suppress(OSError):
            if is_there(sources.path_of(source), target, by_link=by_link):
                found.append((source.target, source.file, way_of(sources.path_of(source), target)))
    store.keep_placements(run, found, stood={target for target, _, _ in found})


def _missing(rows: Iterable[tuple[str, int]], tree: str) -> Iterator[str]:
    """Yield the places, given in order, that nothing fills; folders are listed, as asking for each file is slow."""
    folder, names = None, frozenset[str]()
    for target, _ in rows:
        parent, _, name = target.rpartition("/")
        if parent != folder:
            folder, names = parent, names_in(f"{tree}/{parent}")
        if name not in names:
            yield target


def _digest(index: IndexDump, store: SortStore, sources: Sources) -> None:
    """Digest the files that their headers do not tell apart."""
    by_inode: dict[tuple[int, int], str] = {}
    digests: list[tuple[int, str]] = []
    lost: list[tuple[int, str]] = []
    for source in store.undigested():
        inode = (source.device, source.inode)
        # Only of what the dump holds now: a file rewritten in place keeps its inode and not its content.
        plain = source.present and not source.stored
        try:
            digest = by_inode.get(inode, "") if plain else ""
            digest = digest or file_digest(sources.path_of(source))
        except FileNotFoundError:
            lost.append((source.file, "vanished"))
            continue
        except OSError:
            lost.append((source.file, "unreadable"))
            continue
        if plain:
            by_inode[inode] = digest
        digests.append((source.file, digest))
    store.keep_digests(digests)
    index.try_again(len(lost))
    store.refuse_planned(lost)


def _compare(store: SortStore, sources: Sources, kept: Sequence[Candidate]) -> list[str]:
    """Say how files of one SOP Instance UID differ from the first, as far as it is not known already."""
    first = kept[0]
    known = [store.comparison(first.digest, other.digest) for other in kept]
    if not all(known):
        known = compare_group([Path(os.fsdecode(sources.path_of(store.source(one.file)))) for one in kept])
        if known[0] == "reference":
            pairs = zip(kept, known, strict=True)
            store.note_comparisons((first.digest, other.digest, kind) for other, kind in pairs if kind in LASTING_KINDS)
    return known


class _RowDigest:
    """Names a list of places and files that may be longer than memory."""

    def __init__(self, rows: Iterable[tuple[str, int]] = ()) -> None:
        self._state = hashlib.sha256()
        self._waiting: list[tuple[str, int]] = []
        for target, file in rows:
            self.take(target, file)

    def take(self, target: str, file: int) -> str:
        """Take in one row, and hand back its target."""
        self._waiting.append((target, file))
        if len(self._waiting) == _ADVANCE_EVERY:
            self._flush()
        return target

    def name(self) -> str:
        """Name the rows taken in, as 64 hexadecimal digits."""
        self._flush()
        return self._state.hexdigest()

    def _flush(self) -> None:
        # Many at once, as Python writes a list: that tells any two lists apart.
        self._state.update(repr(self._waiting).encode("ascii", "backslashreplace"))
        self._waiting.clear()


def _counted(planned: Iterator[Planned]) -> Iterator[Planned]:
    """Count files for the progress bar as they are planned."""
    while batch := list(itertools.islice(planned, _ADVANCE_EVERY)):
        yield from batch
        BOARD.advance("Planning", len(batch))


def _list_name(task: StageTask, name: str) -> str:
    return os.fspath((task.place.lists / f"{name}.tsv").relative_to(task.place.root))
