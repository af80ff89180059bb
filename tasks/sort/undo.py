"""Take back what the last run of the sorter placed, without ever taking the last copy of anything."""

from __future__ import annotations

import os
from dataclasses import dataclass

from tasks.errors import CollisionError
from tasks.files import same_content
from tasks.sort.place import TAKEN, place_all, take_away
from tasks.sort.source import Sources
from tasks.sort.store import SortStore, Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Undone:
    """What was taken back.

    Attributes
    ----------
    run
        The run; 0 if there was none to take back.
    taken
        How many files were taken out of the sorted tree.
    restored
        How many places that the run had taken away were filled again.
    kept
        How many files stayed because the dump no longer holds their bytes.
    """

    run: int
    taken: int
    restored: int
    kept: int


def undo_run(store: SortStore, sources: Sources, *, how: str, moment: str) -> Undone:
    """Take back the last run that was not taken back yet; the dump is not touched.

    Cut off half way, it can be asked for again.

    Parameters
    ----------
    store, sources
        The index, and where bytes can be had.
    how
        The way of placing, for what is put back.
    moment
        In ISO 8601, for the journal.

    Raises
    ------
    CollisionError
        If something else stands where files should be put back; nothing is taken away then.
    """
    runs = [run for run in store.runs() if not run.undone]
    if not runs:
        return Undone(run=0, taken=0, restored=0, kept=0)
    number = runs[-1].run
    tree = os.fsdecode(sources.tree)
    orders = [sources.order_of(one) for one in store.removed_by(number) if one.present or one.placed_at]
    restored = taken_by_others = 0
    for batch in place_all(orders, tree, how=how, advance=lambda _: None):
        back = [(done.order.target, done.order.file, done.way) for done in batch if done.way]
        # Before anything is taken away: what was put back may be the only copy then.
        store.put_back(number, back)
        taken_by_others += sum(done.reason == TAKEN for done in batch)
        restored += len(back)
    if taken_by_others:
        raise CollisionError(count=taken_by_others, path=tree)
    elsewhere = store.placed_twice(number)
    placed = store.placed_by(number)
    taken = [one.target for one in placed if one.file in elsewhere or _is_held(one, store, sources)]
    take_away(taken, tree)
    store.keep_undo(number, moment, taken)
    return Undone(run=number, taken=len(taken), restored=restored, kept=len(placed) - len(taken))


def _is_held(source: Source, store: SortStore, sources: Sources) -> bool:
    """Tell whether the dump holds the bytes of a place as well, in a file of their own or in an archive."""
    if not source.present:
        return False
    origin, place = sources.path_of(source), sources.in_tree(source.target)
    try:
        if source.stored:
            archive = os.lstat(sources.in_dump(store.container_path(source.file)))
            if (archive.st_mtime_ns, archive.st_ino) != (source.mtime_ns, source.inode):
                return False
        if source.way == "symlink" or not os.path.lexists(place):
            return True
        return os.path.samefile(origin, place) or same_content(origin, place)
    except OSError:
        return False
