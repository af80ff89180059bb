"""A dump of made-up files, an index of it, and a sorted tree: what the sorter does in a night, without reading DICOM.

A file's first line is its SOP Instance UID and stands for its header.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

from tasks.files import file_digest
from tasks.index.chunk import Outcome, pack
from tasks.index.row import ROW_FIELDS, FileStamp
from tasks.index.scan import scan_dump
from tasks.sort.place import place_all, take_away
from tasks.sort.plan import Comparer, plan_files, plan_series
from tasks.sort.source import Sources
from tasks.sort.store import Candidate, SortStore
from tasks.sort.undo import Undone, undo_run
from tests.strategies import make_row

UID = ROW_FIELDS.index("sop_instance_uid")


class Library:
    """A dump, its index and its sorted tree below one folder."""

    def __init__(self, folder: Path, *, how: str = "auto") -> None:
        self.dump, self.tree, self.how = folder / "dump", folder / "identified" / "sorted", how
        for place in (self.dump, self.tree):
            place.mkdir(parents=True, exist_ok=True)
        self.layout = "a"
        self.store = SortStore(folder / "identified" / "index.db")
        self.sources = Sources(
            dump=os.fsencode(self.dump),
            unpacked=os.fsencode(folder / "identified" / "unpacked"),
            tree=os.fsencode(self.tree),
        )

    def write(self, name: str, uid: str, content: str) -> Path:
        """Write a file of the dump, or write it over."""
        path = self.dump / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{uid}\n{content}")
        return path

    def index(self) -> dict[str, int]:
        """Bring the index up to the state of the dump."""
        seen = scan_dump(os.fsencode(self.dump), self.dump.parent / "spool")
        unread = list(self.store.take_scan(seen.stamps()))
        self.store.merge("0", pack(unread, map(self._read, unread)))
        return self.store.finish_scan(seen.refused, lambda *_: False)

    def _read(self, stamp: FileStamp) -> Outcome:
        uid = (self.dump / os.fsdecode(stamp.path)).read_text().partition("\n")[0]
        return make_row(stamp.path, sop_instance_uid=uid, patient_id="1")

    def plan(self) -> None:
        """Plan the tree; a folder, the layout, then the name."""
        self.store.keep_digests([(one.file, file_digest(self.sources.path_of(one))) for one in self.store.undigested()])
        differs: Comparer = lambda kept: ["reference"] + ["header"] * (len(kept) - 1)  # noqa: E731
        self.store.write_plan(
            plan_files(self.store.candidates(grouped=True), self.name, differs),
            plan_series(self.store.members(), lambda _, own: self.place_of(own[UID]), {}),
        )

    def name(self, file: Candidate, digest: str) -> str:
        """Name a file's place."""
        return self.place_of(file.sop_instance_uid, digest)

    def place_of(self, uid: str, digest: str = "") -> str:
        return f"{self.layout}/{uid or 'none'}{digest and '_' + digest[:8]}.dcm"

    def place(self, *, stop_after: int = 10**6) -> int:
        """Do what the plan says; return the run's number. What stops before its end is a run that was cut off."""
        run = self.store.begin_run("2001-01-01T00:00:00+00:00", "1")
        orders = [self.sources.order_of(source) for source in self.store.to_place()]
        for batch in place_all(orders[:stop_after], str(self.tree), how=self.how, advance=lambda _: None):
            assert all(one.way for one in batch)
            self.store.keep_placements(
                run,
                [(one.order.target, one.order.file, one.way) for one in batch],
                stood={one.order.target for one in batch if one.way == "there"},
            )
        if stop_after < 10**6:
            return run
        gone = [target for target, _ in self.store.obsolete()]
        take_away(gone, str(self.tree))
        self.store.forget_placements(run, gone)
        self.store.finish_run(run, "2001-01-01T00:00:01+00:00")
        return run

    def night(self) -> int:
        """Do all a night has to; return the run's number."""
        self.index()
        self.plan()
        return self.place()

    def undo(self) -> Undone:
        """Take back the last run."""
        return undo_run(self.store, self.sources, how=self.how, moment="2001-01-02T00:00:00+00:00")

    def shown(self) -> dict[str, str]:
        """Read the sorted tree through its links: place to content; a link that leads nowhere is told as such."""
        return {
            path.relative_to(self.tree).as_posix(): path.read_text() if path.exists() else "leads nowhere"
            for path in sorted(self.tree.rglob("*"))
            if path.is_symlink() or not path.is_dir()
        }

    def contents(self) -> set[str]:
        """List every content that the dump or the tree holds."""
        return {path.read_text() for path in self.dump.rglob("*") if path.is_file()} | set(self.shown().values())

    def placed(self) -> set[str]:
        """List the places that the index believes to be filled."""
        return set(self.store.placements())


def happenings(library: Library, chance: random.Random, *, harmless: bool) -> None:
    """Let a day pass over a dump: files come, move, are sent twice, and if not harmless are changed and removed."""
    acts: list[Callable[[Path], object]] = [
        lambda path: path.rename(path.with_name(f"{path.name}m")),
        lambda path: path.with_name(f"{path.name}c").write_bytes(path.read_bytes()),
        lambda path: path.with_name(f"{path.name}d").write_text(path.read_text() + " differs"),
    ]
    if not harmless:
        acts += [Path.unlink, lambda path: path.write_text(path.read_text() + " again")]
    library.write(f"new{chance.randrange(10**6)}", f"2.25.{chance.randrange(6)}", str(chance.randrange(3)))
    for path in sorted(library.dump.iterdir()):
        if chance.random() < 0.4:
            chance.choice(acts)(path)
    if chance.random() < 0.3:
        library.layout = chance.choice("abc")
