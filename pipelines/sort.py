"""From the index to the sorted tree: `PlanSort`, `SortStudy`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from pipelines.base import BOARD, SESSION, StageTask, holds_something, now
from pipelines.index import IndexDump
from tasks import __version__
from tasks.errors import UnaccountedError
from tasks.files import file_digest, sweep_temporaries
from tasks.index.completeness import INCOMPLETE_REASONS, count_frames, find_gaps
from tasks.index.row import REJECT_REASONS
from tasks.lists import show_path, write_list
from tasks.receipt import Receipt, digest_of
from tasks.sort.conflict import CONFLICT_KINDS, compare_group
from tasks.sort.layout import parse_layout
from tasks.sort.place import (
    Order,
    Placed,
    is_there,
    lead_to,
    names_in,
    place_all,
    still_holds,
    take_away,
    way_of,
)
from tasks.sort.plan import plan_files
from tasks.sort.source import Sources
from tasks.sort.store import Candidate, SortStore, Source
from tasks.sort.tree import TreeNames
from tasks.sort.visit import read_visit_overrides

_ADVANCE_EVERY = 1000


class PlanSort(StageTask):
    """Decide where every file of the dump goes, and write that down, without placing any.

    Give --dump DIR and --workspace DIR, or --study FILE.toml.
    """

    stage = "plan"
    title = "Planned"

    def requires(self) -> IndexDump:
        """Ask for the index."""
        index: IndexDump = self.sibling(IndexDump)
        return index

    def input_digest(self) -> str:
        """Name what the index holds."""
        index = self.requires()
        receipt = index.receipt()
        return receipt.output_digest if receipt is not None and index.complete() else ""

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
            _digest(self.requires(), store, sources)
            names = TreeNames(
                store,
                parse_layout(settings.layout, settings.file_name),
                settings.visit_gap_hours,
                read_visit_overrides(settings.visits) if settings.visits else {},
            )
            BOARD.expect("Planning", store.count_candidates())
            store.write_plan(
                plan_files(
                    _counted(store.candidates()),
                    names.target,
                    lambda kept: _compare(store, sources, kept),
                )
            )
            _part_contested(store, names)
            store.keep_frames(
                (source.file, count_frames(Path(os.fsdecode(sources.path_of(source))))) for source in store.uncounted()
            )
            store.keep_gaps(
                (series, " ".join(gaps))
                for series, rows, frames in store.series_rows()
                if (gaps := find_gaps(rows, frames))
            )
            counts = store.plan_counts()
            lists = self._write_lists(store)
            incomplete = store.gap_counts()
            self.finish(
                counts={**counts, "incomplete_series": sum(incomplete.values())},
                lists=lists,
                output_digest=_digest_of_rows(store.plan_rows()),
                facts={"reasons": incomplete, "gaps": digest_of(list(store.gaps())), "session": SESSION},
            )

    def _write_lists(self, store: SortStore) -> dict[str, str]:
        """Write the plan, and from it what is set aside or missing, as tables for people."""
        tables: dict[str, tuple[tuple[str, ...], Iterable[Sequence[str]]]] = {
            "plan": (
                ("file", "target"),
                ((show_path(path), target) for path, target in store.planned()),
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


class SortStudy(StageTask):
    """Sort the dump into patient / study date / series, losing nothing.

    Give --dump DIR and --workspace DIR, or --study FILE.toml.
    """

    stage = "sort"
    title = "Sorted"

    def requires(self) -> PlanSort:
        """Ask for the plan."""
        plan: PlanSort = self.sibling(PlanSort)
        return plan

    def input_digest(self) -> str:
        """Name the plan."""
        plan = self.requires()
        receipt = plan.receipt()
        return receipt.output_digest if receipt is not None and plan.complete() else ""

    def settings_digest(self) -> str:
        """Name the way of placing, and what links lead to."""
        place = self.settings.sort.place
        return digest_of({"place": place, "dump": os.fspath(self.settings.dump) if place == "symlink" else ""})

    def is_still_there(self, receipt: Receipt) -> bool:
        """Tell whether the sorted tree was not taken away."""
        return not receipt.counts["placed"] or holds_something(self.place.sorted_tree)

    def work(self) -> None:
        """Place what is new, take away what moved, and check that every file is accounted for."""
        sources = Sources.of(self.settings.dump, self.place)
        tree = os.fspath(self.place.sorted_tree)
        sweep_temporaries(self.place.sorted_tree)
        with SortStore(self.place.index) as store:
            plan = self.requires().receipt()
            if plan is None or plan.facts["session"] != SESSION:
                # Else it was done a moment ago.
                settle(store, sources, by_link=self.settings.sort.place == "symlink")
            run = store.begin_run(now().isoformat(timespec="seconds"), __version__)
            placed, lost = self._place(store, sources, run)
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
                    "placed_now": placed,
                    "taken_away_now": len(gone),
                    "gone_from_the_dump": counts["gone_from_the_dump"],
                    "duplicates": counts["duplicates"],
                    "conflicts": counts["conflicts"],
                    "rejected": indexed["rejects"],
                },
                lists={name: _list_name(self, name) for name in ("rejects", "opened")},
                # With the file that fills each place: the same place may hold other bytes than at the last time.
                output_digest=_digest_of_rows(store.plan_rows()) if lost else self.input_digest(),
                facts={"reasons": store.reject_counts()},
            )

    def _place(self, store: SortStore, sources: Sources, run: int) -> tuple[int, int]:
        """Carry out the plan's difference to what stands; return how many files were placed, and how many were lost."""
        BOARD.expect("Sorting", store.count_to_place())
        count = 0
        lost: list[tuple[int, str]] = []
        for batch in place_all(
            (_order(source, sources) for source in store.to_place()),
            os.fspath(self.place.sorted_tree),
            how=self.settings.sort.place,
            advance=lambda units: BOARD.advance("Sorting", units),
        ):
            store.keep_placements(
                run,
                [(one.order.target, one.order.file, _way(one, sources)) for one in batch if one.way],
                stood={one.order.target for one in batch if one.way == "there"},
            )
            lost += [(one.order.file, one.reason) for one in batch if one.reason]
            count += len(batch)
        self.requires().requires().try_again(len(lost))
        store.refuse_planned(lost)
        return count - len(lost), len(lost)

    def _check(self, store: SortStore, tree: str) -> None:
        """Close the sums: what was indexed is planned, and what is planned is really there."""
        missing = store.count_unplanned()
        missing += sum(1 for _ in _missing(store.plan_rows(), tree))
        if missing:
            raise UnaccountedError(stage="Sorting", count=missing, total=store.counts()["files"])


def _order(source: Source, sources: Sources) -> Order:
    ours = bool(source.stored) or not source.present
    return Order(
        source=sources.path_of(source),
        target=source.target,
        file=source.file,
        device=source.device,
        size=source.size,
        mtime_ns=-1 if ours else source.mtime_ns,
    )


def _way(placed: Placed, sources: Sources) -> str:
    """Name the way by which a file was placed, also if that was done by a run that was cut off."""
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
                device=one.device,
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
        if os.path.lexists(target) and (source.present or source.placed_at):
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
        known = list(compare_group([Path(os.fsdecode(sources.path_of(store.source(one.file)))) for one in kept]))
        store.note_comparisons((first.digest, other.digest, kind) for other, kind in zip(kept, known, strict=True))
    return known


def _part_contested(store: SortStore, names: TreeNames) -> None:
    """Give long hashes to files whose short ones met by chance."""
    longer = {}
    for _, files in store.contested_targets():
        for candidate, digest in store.candidates_of(files):
            longer[candidate.file] = names.target(candidate, digest, digits=32)
    store.replan(longer)


def _digest_of_rows(rows: Iterable[tuple[str, int]]) -> str:
    """Name a list of places and files that may be longer than memory."""
    state = hashlib.sha256()
    for target, file in rows:
        state.update(b"%b\0%d\0" % (target.encode("utf-8", "surrogatepass"), file))
    return state.hexdigest()


def _counted(candidates: Iterator[Candidate]) -> Iterator[Candidate]:
    """Count candidates for the progress bar as they pass."""
    number = 0
    for candidate in candidates:
        number += 1
        if number == _ADVANCE_EVERY:
            BOARD.advance("Planning", number)
            number = 0
        yield candidate
    BOARD.advance("Planning", number)


def _list_name(task: StageTask, name: str) -> str:
    return os.fspath((task.place.lists / f"{name}.tsv").relative_to(task.place.root))
