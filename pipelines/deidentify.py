"""From the sorted tree to the de-identified export: `DeidentifyStudy`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.base import ChunkTask, StageTask, all_lists, holds_something, list_path
from pipelines.sort import SortStudy
from tasks.errors import UnaccountedError
from tasks.files import make_folder, sweep_temporaries
from tasks.lists import write_list
from tasks.receipt import Receipt, digest_of
from tasks.sort.place import take_away
from tasks.sort.store import SortStore
from tasks.sort.visit import correct_patients, read_visit_overrides

if TYPE_CHECKING:
    from tasks.deidentify.ledger import ExportRow
    from tasks.deidentify.plan import ExportOrder, SortedFile

# What de-identification needs (pydicom, the standard's tables) is imported where it is used: SortStudy runs without.


class ExportChunk(ChunkTask):
    """De-identify and audit one frozen list of files, whole series."""

    def work(self) -> None:
        """De-identify the files."""
        from tasks.deidentify.export import export_files, write_rows  # noqa: PLC0415
        from tasks.deidentify.identity import Identity, load_secret  # noqa: PLC0415
        from tasks.deidentify.plan import read_orders  # noqa: PLC0415
        from tasks.deidentify.profile import Profile  # noqa: PLC0415

        orders, people = read_orders(self.list_path)
        rows = export_files(
            orders,
            people,
            sorted_tree=self.place.sorted_tree,
            export=self.place.export,
            quarantine=self.place.quarantine,
            profile=Profile.of(self.settings.deidentify.options),
            identity=Identity(load_secret(self.place.secret)),
            advance=lambda units: self.advance("De-identifying", units),
        )
        write_rows(self.outcome_path, rows)


class DeidentifyStudy(StageTask):
    """De-identify the sorted tree into an export in which nobody can be recognised; pulls in SortStudy.

    Give --dump DIR and --workspace DIR, or --study FILE.toml.
    """

    stage = "deidentify"
    title = "De-identified"
    chunk_task = ExportChunk

    def requires(self) -> SortStudy:
        """Ask for the sorted tree."""
        sort: SortStudy = self.sibling(SortStudy)
        return sort

    def settings_digest(self) -> str:
        """Name the profile and the subjects' names."""
        from tasks.deidentify.profile import Profile  # noqa: PLC0415

        profile = Profile.of(self.settings.deidentify.options)
        pseudonyms = self.settings.deidentify.pseudonyms
        try:
            listed = pseudonyms.read_bytes().hex() if pseudonyms is not None else ""
        except OSError:
            listed = "unreadable"
        settings = {"profile": profile.digest(), "prefix": self.settings.deidentify.prefix, "listed": listed}
        return digest_of(settings)

    def is_still_there(self, receipt: Receipt) -> bool:
        """Tell whether the export was not taken away."""
        return not receipt.counts["exported"] or holds_something(self.place.export)

    def work(self) -> Iterator[Any]:
        """Plan what is new, have the chunks done, merge, take away what no longer belongs, check the sums."""
        from tasks.deidentify.export import read_rows  # noqa: PLC0415
        from tasks.deidentify.ledger import Ledger  # noqa: PLC0415
        from tasks.deidentify.plan import read_orders  # noqa: PLC0415

        make_folder(self.place.export)
        ledger_path = self.place.identified / "export.db"
        files = self._sorted_files()
        chunks = self.freeze("De-identifying", lambda folder: self._write_lists(folder, files, ledger_path))
        yield chunks

        sweep_temporaries(self.place.export)
        sweep_temporaries(self.place.quarantine)
        rows = [row for chunk in chunks for row in read_rows(chunk.outcome_path)]
        ordered = sum(len(read_orders(chunk.list_path)[0]) for chunk in chunks)
        # What may stand in the export: what the ledger knows, and what any plan asked for, one that was cut off too.
        plans = self.place.plans.glob(f"{self.stage}-*")
        may_stand = {order.target for plan in plans for path in all_lists(plan) for order in read_orders(path)[0]}
        with Ledger(ledger_path) as ledger:
            before = ledger.rows()
            may_stand |= {row.target for row in before if not row.reason}
            sources = {file.source for file in files}
            done_now = {row.source for row in rows}
            kept = [row for row in before if row.source in sources and row.source not in done_now]
            wanted = {row.target for row in (*kept, *rows) if not row.reason}
            # Before the ledger forgets them, or a run that is cut off here leaves them for ever.
            take_away(sorted(may_stand - wanted), os.fspath(self.place.export))
            ledger.keep(self.settings_digest(), rows, [row.source for row in before if row.source not in sources])
            everything = ledger.rows()
        self._check(files, everything, ordered - len(rows))
        self._finish(rows, everything)
        self.forget_plans()

    def _sorted_files(self) -> list[SortedFile]:
        """List what stands in the sorted tree."""
        from tasks.deidentify.plan import SortedFile  # noqa: PLC0415

        visits = self.settings.sort.visits
        with SortStore(self.place.index) as store:
            headers = [shared for _, shared in store.headers().values()]
            correct = correct_patients(headers, read_visit_overrides(visits) if visits else {})
            by_file = {file: target for target, file in store.placements().items()}
            return [
                SortedFile(
                    source=by_file[entry.file],
                    identity=str(entry.file),
                    row=entry.row,
                    owner=correct(entry.row.shared),
                )
                for entry in store.instances()
                if entry.file in by_file
            ]

    def _write_lists(self, folder: Path, files: list[SortedFile], ledger_path: Path) -> list[int]:
        """List everything that is not done yet under the present settings."""
        from tasks.deidentify.identity import Identity, load_secret  # noqa: PLC0415
        from tasks.deidentify.keymap import Numbering, assign_subjects, read_given_pseudonyms  # noqa: PLC0415
        from tasks.deidentify.ledger import Ledger  # noqa: PLC0415
        from tasks.deidentify.plan import patients_of, plan_export, split_orders, write_orders  # noqa: PLC0415

        with Ledger(ledger_path) as ledger:
            done = ledger.rows() if ledger.settings() == self.settings_digest() else []
        identity = Identity(load_secret(self.place.secret))
        numbering = Numbering(
            prefix=self.settings.deidentify.prefix,
            given=read_given_pseudonyms(self.settings.deidentify.pseudonyms),
        )
        patients = patients_of(files)
        subjects = assign_subjects(self.place.key_map, patients, identity, numbering)
        orders, people = plan_export(patients, subjects, identity)
        export = self.place.export
        finished = {
            (row.source, row.identity, row.target) for row in done if row.reason or os.path.lexists(export / row.target)
        }
        new: list[ExportOrder] = [
            order for order in orders if (order.source, order.identity, order.target) not in finished
        ]
        portions = split_orders(new, self.settings.chunks.export_instances)
        for chunk, portion in enumerate(portions):
            write_orders(list_path(folder, chunk), portion, people)
        return [len(portion) for portion in portions]

    def _check(self, files: list[SortedFile], rows: list[ExportRow], undone: int) -> None:
        """Close the sums: every sorted file is exported or in quarantine, and what is exported is there."""
        outcomes = {row.source for row in rows}
        missing = undone + sum(1 for file in files if file.source not in outcomes)
        export = os.fspath(self.place.export)
        missing += sum(1 for row in rows if not row.reason and not os.path.lexists(f"{export}/{row.target}"))
        if missing:
            raise UnaccountedError(stage="De-identification", count=missing, total=len(files))

    def _finish(self, rows: list[ExportRow], everything: list[ExportRow]) -> None:
        """Write the list of what was set aside, and the receipt."""
        from tasks.deidentify.export import AUDIT_PREFIX  # noqa: PLC0415
        from tasks.deidentify.report import explain  # noqa: PLC0415

        refused = [row for row in everything if row.reason]
        quarantine_list = self.place.lists / "quarantine.tsv"
        write_list(
            quarantine_list,
            ("file", "would_be", "reason", "meaning"),
            ((row.source, row.target, row.reason, explain(row.reason)) for row in refused),
        )
        exported = [row for row in everything if not row.reason]
        self.finish(
            counts={
                "sorted_files": len(everything),
                "exported": len(exported),
                "exported_now": sum(1 for row in rows if not row.reason),
                "quarantined": len(refused),
                "by_audit": sum(1 for row in refused if row.reason.startswith(AUDIT_PREFIX)),
                "subjects": len({row.target.partition("/")[0] for row in exported}),
            },
            lists={"quarantine": os.fspath(quarantine_list.relative_to(self.place.root))},
            output_digest=digest_of([(row.target, row.digest) for row in sorted(exported, key=lambda row: row.target)]),
            facts={"reasons": dict(sorted(Counter(row.reason for row in refused).items()))},
        )
