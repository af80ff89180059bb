"""From the dump to the index: `IndexDump`."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import run
from pipelines.base import ChunkTask, StageTask
from tasks.files import file_digest
from tasks.index.chunk import Opened, Outcome, Stored, pack, read_chunk, write_chunk
from tasks.index.row import PASSING_REASONS, Container, FileStamp, IndexRow, Reject
from tasks.index.store import SCHEMA_VERSION, IndexedFile
from tasks.parcel import Parcel
from tasks.receipt import Receipt, digest_of, write_receipt
from tasks.sort.place import still_holds
from tasks.sort.source import Sources
from tasks.sort.store import SortStore
from tasks.worklist import chunk_size, frozen_folders, list_path, read_frozen
from tasks.workspace import INDEX

if TYPE_CHECKING:
    from tasks.index.archive import Member

_ADVANCE_EVERY = 2048


class IndexChunk(ChunkTask):
    """Read the headers of one frozen list of files, also of those that lie compressed or in archives."""

    def work(self) -> None:
        """Read the headers."""
        from tasks.index.archive import settle_store  # noqa: PLC0415
        from tasks.index.header import HeaderReader  # noqa: PLC0415 - needs numpy, and an unchanged dump needs neither

        dump = os.fsencode(self.settings.dump)
        outcomes: list[Outcome] = []
        unpacked: list[Member] = []
        stamps = read_chunk(self.list_path)
        todo = iter(stamps)
        reader = HeaderReader(dump)
        while batch := list(itertools.islice(todo, _ADVANCE_EVERY)):
            read = reader.read([stamp.path for stamp in batch])
            for stamp, outcome in zip(batch, read, strict=True):
                if isinstance(outcome, Container):
                    members = self._unpack(dump, stamp, outcome)
                    unpacked += members
                    outcomes.append(self._open(outcome, members))
                else:
                    outcomes.append(outcome)
            self.advance("Indexing", len(batch))
        settle_store(self.place.unpacked, unpacked)
        pack(stamps, outcomes).write(self.outcome_path)

    def _unpack(self, dump: bytes, stamp: FileStamp, container: Container) -> list[Member]:
        """Unpack what a container holds."""
        from tasks.index.archive import ArchiveLimits, unpack_container  # noqa: PLC0415

        # Not by its path: an archive that only moved unpacks to the same names.
        key = digest_of([stamp.size, stamp.mtime_ns, stamp.device, stamp.inode])[:16]
        limits = ArchiveLimits(**self.settings.archives.model_dump())
        return unpack_container(dump, container, store=self.place.unpacked, key=key, limits=limits, settle=False)

    def _open(self, container: Container, members: list[Member]) -> Outcome:
        """Read the headers of what a container held."""
        from tasks.index.header import read_headers  # noqa: PLC0415

        store = self.place.unpacked
        stored = [os.fsencode(member.stored) for member in members if member.stored]
        headers = dict(zip(stored, read_headers(os.fsencode(store), stored), strict=True))
        opened = []
        for member in members:
            outcome = headers.get(os.fsencode(member.stored))
            if outcome is None:
                found: IndexRow | Reject = Reject(path=member.path, reason=member.reason)
            elif isinstance(outcome, Container):
                found = Reject(path=member.path, reason="not-dicom")
            else:
                found = replace(outcome, path=member.path)
            name = member.stored
            if name and isinstance(found, Reject):
                (store / name).unlink(missing_ok=True)
                name = ""
            opened.append(Stored(stored=name, size=member.size, outcome=found))
        if len(opened) == 1 and isinstance(opened[0].outcome, Reject) and opened[0].outcome.path == container.path:
            return opened[0].outcome
        return Opened(path=container.path, members=tuple(opened))


class IndexDump(StageTask):
    """Index every file of the dump that is new or changed since the last run."""

    stage = "index"
    title = "Indexed"
    chunk_task = IndexChunk
    writes = (INDEX,)

    def input_digest(self) -> str:
        """Name the state of the dump; where several hosts work, the state that their run began with."""
        joined = run.joined(self.place)
        if joined is not None:
            return joined.token
        return self.inventory.digest if self.place.index.exists() else ""

    def stands(self) -> bool:
        """Tell whether the index is complete; where several hosts work, whether their run has found or made it so."""
        joined = run.joined(self.place)
        if joined is None:
            return super().stands()
        receipt = self.receipt()
        return (
            receipt is not None
            and receipt.settings_digest == self.settings_digest()
            and (receipt.facts["session"] == joined.token or receipt.input_digest == joined.dump)
            and not any(frozen_folders(self.place.plans, self.stage))
        )

    def settings_digest(self) -> str:
        """Name the index's format and what decides which files are taken; the size of chunks does not matter."""
        return digest_of({"schema": SCHEMA_VERSION, "archives": self.settings.archives.model_dump()})

    def is_still_there(self, receipt: Receipt) -> bool:
        """Tell whether nothing has to be tried again: what could not be read last time may be readable now."""
        return not receipt.facts["to_try_again"] or receipt.facts["session"] == self.session

    def try_again(self, files: int) -> None:
        """Have the next run read the dump again, because so many files could not be read after all."""
        receipt = self.receipt()
        if files and receipt is not None:
            facts = {"to_try_again": receipt.facts["to_try_again"] + files, "session": self.session}
            write_receipt(self.place.receipts, replace(receipt, facts={**receipt.facts, **facts}))

    def prepare(self) -> None:
        """Scan the dump, and load what the chunks need, before any of them is forked: each would do it anew."""
        import tasks.dicom.lockstep  # noqa: PLC0415
        import tasks.index.archive  # noqa: PLC0415
        import tasks.index.header  # noqa: F401, PLC0415

        if not self.asked_by:
            self.inventory  # noqa: B018 - looked at, it is kept

    def work(self) -> Iterator[Any]:
        """Freeze the lists, have the chunks read, merge what they read."""
        with SortStore(self.place.index):
            pass  # made before the plan is named: without an index there is no input to name it by
        chunks = self.freeze("Indexing", self._write_lists, facts=self._describe_dump)
        facts = read_frozen(self.plan_folder).facts
        yield chunks
        read = 0
        with SortStore(self.place.index) as store:
            store.expect(len(chunks) * self.settings.chunks.index_files)
            for chunk in chunks:
                read += store.merge(f"{chunk.plan}/{chunk.chunk}", Parcel.read(chunk.outcome_path))
            refused = (Reject(path=bytes.fromhex(path), reason=reason) for path, reason in facts["refused"])
            found = store.finish_scan(refused, lambda old, new: self._same_content(store, old, new))
            counts = store.counts()
            reasons = store.reject_counts()
            self._sweep_store(store)
        to_try_again = sum(reasons.get(reason, 0) for reason in PASSING_REASONS - {"still-arriving"})
        self.finish(
            counts={
                "files_seen": counts["files"],
                "dicom": counts["dicom"],
                "rejected": counts["rejects"],
                "archives_opened": counts["opened"],
                "in_archives": counts["members"],
                "by_pydicom": counts["slow_path"],
                "read_now": read,
                **{f"{change}_now": count for change, count in found.items() if change != "unchanged"},
            },
            input_digest=facts["dump"],
            output_digest=digest_of([facts["dump"], reasons]),
            facts={"reasons": reasons, "to_try_again": to_try_again, "session": self.session},
        )

    def _describe_dump(self) -> dict[str, Any]:
        """Say of the dump what is needed when all is read, perhaps by a host that did not look at it."""
        seen = self.inventory
        return {"dump": seen.digest, "refused": [(reject.path.hex(), reject.reason) for reject in seen.refused]}

    def _write_lists(self, folder: Path) -> list[int]:
        """List the files that are new or changed."""
        # They were made for other scans, and the store knows one scan at a time.
        self.forget_plans(but=folder)
        sizes: list[int] = []
        with SortStore(self.place.index) as store:
            receipt = self.receipt()
            limits_changed = receipt is not None and receipt.settings_digest != self.settings_digest()
            unread = store.take_scan(self.inventory.stamps(), limits_changed=limits_changed)
            size = chunk_size(self.settings.chunks.index_files, self.inventory.files)
            while batch := list(itertools.islice(unread, size)):
                write_chunk(list_path(folder, len(sizes)), batch)
                sizes.append(len(batch))
        return sizes

    def _same_content(self, store: SortStore, old: IndexedFile, fresh: IndexedFile) -> bool:
        """Tell whether a file that is gone from its path, and lives on in the sorted tree, is the one that came."""
        sources = Sources.of(self.settings.dump, self.place)
        before = old.digest
        target = store.place_of(old.file)
        placed, stamp = sources.in_tree(target), old.stamp
        try:
            # Through a hard link the tree shows what was written over the file, and not what it was.
            if (
                not before
                and target
                and still_holds(placed, inode=stamp.inode, size=stamp.size, mtime_ns=stamp.mtime_ns)
            ):
                before = file_digest(placed)
            return bool(before) and before == file_digest(sources.in_dump(fresh.stamp.path))
        except OSError:
            return False

    def _sweep_store(self, store: SortStore) -> None:
        """Remove unpacked files whose archive left the dump; what was placed of them stands in the sorted tree."""
        folder = self.place.unpacked
        if not folder.exists():
            return
        wanted = set(store.stored_names())
        for below in sorted(folder.iterdir()):
            for path in below.iterdir():
                if f"{below.name}/{path.name}" not in wanted:
                    path.unlink()
            if not any(below.iterdir()):
                below.rmdir()
