"""From the export to what a reviewer opens: `PrepareReview`."""

from __future__ import annotations

import importlib.util
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.base import ChunkTask, StageTask, list_path, say_and_exit
from pipelines.deidentify import DeidentifyStudy
from tasks.errors import ManifestError, MissingPackageError
from tasks.files import make_folder, sweep_temporaries, write_json
from tasks.index.completeness import INCOMPLETE_REASONS
from tasks.receipt import Receipt, digest_of
from tasks.sort.store import SortStore

if TYPE_CHECKING:
    from tasks.review.manifest import Entry

MANIFEST_VERSION = 1
"""Raised when entries or pictures change, so that the next run prepares everything again."""


class ReviewChunk(ChunkTask):
    """Describe and picture some series."""

    def work(self) -> None:
        """Prepare the series."""
        from tasks.review.prepare import prepare_series  # noqa: PLC0415

        released = self.place.released
        entries = []
        for folder in json.loads(self.list_path.read_bytes()):
            entries.append(prepare_series(released, released / folder, self.place.review).to_json())
            self.advance("Preparing")
        write_json(self.outcome_path, entries, mode=0o600)


class PrepareReview(StageTask):
    """Write the review manifest and a picture of each exported series; pulls in DeidentifyStudy and SortStudy.

    Give --dump DIR and --workspace DIR, or --study FILE.toml.
    """

    stage = "prepare-review"
    title = "Prepared"
    chunk_task = ReviewChunk

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Known before hours of work are spent on the stages before.
        if importlib.util.find_spec("PIL") is None:
            say_and_exit(MissingPackageError(purpose="PrepareReview", package="Pillow", extra="review"))
        super().__init__(*args, **kwargs)

    def requires(self) -> DeidentifyStudy:
        """Ask for the export."""
        export: DeidentifyStudy = self.sibling(DeidentifyStudy)
        return export

    def input_digest(self) -> str:
        """Name the export, and which series are incomplete."""
        export = self.requires()
        receipt = export.receipt()
        plan = export.requires().requires().requires().receipt()
        if receipt is None or plan is None or not export.complete():
            return ""
        return digest_of([receipt.output_digest, plan.facts["gaps"]])

    def settings_digest(self) -> str:
        """Name the form of the manifest, and what becomes of incomplete series."""
        return digest_of({"manifest": MANIFEST_VERSION, "incomplete": self.settings.review.incomplete})

    @property
    def manifest_path(self) -> Path:
        """The review manifest."""
        return self.place.review / "manifest.json"

    def is_still_there(self, receipt: Receipt) -> bool:  # noqa: ARG002 - the manifest is there or not
        """Tell whether the manifest was not taken away."""
        return self.manifest_path.exists()

    def work(self) -> Iterator[Any]:
        """Prepare the series that are new or changed, and merge their entries with those that stand."""
        from tasks.review.manifest import Entry, merge_entries, write_manifest  # noqa: PLC0415

        make_folder(self.place.review)
        incomplete = self._incomplete_series()
        series = self._exported_series()
        if self.settings.review.incomplete == "wait":
            series = {folder: files for folder, files in series.items() if folder not in incomplete}
        standing = self._standing_entries(series)
        new = [f"export/{name}" for name in series if name not in standing]
        chunks = self.freeze("Preparing", lambda folder: self._write_lists(folder, new))
        yield chunks

        sweep_temporaries(self.place.review)
        fresh = [Entry.from_json(entry) for chunk in chunks for entry in json.loads(chunk.outcome_path.read_bytes())]
        replaced = {entry.entry_id for entry in fresh}
        kept = [entry for entry in standing.values() if entry.entry_id not in replaced]
        manifest = merge_entries([_flagged(entry, incomplete) for entry in (*fresh, *kept)])
        write_manifest(self.manifest_path, manifest)
        pictures = {entry.montage for entry in manifest.entries if entry.montage}
        for picture in (self.place.review / "montage").glob("*.png"):
            if f"montage/{picture.name}" not in pictures:
                picture.unlink()
        self.finish(
            counts={
                "series": len(manifest.entries),
                "prepared_now": len(fresh),
                "pictures": len(pictures),
                "incomplete": sum(1 for entry in manifest.entries if _folder_of(entry) in incomplete),
                "waiting_for_files": len(incomplete) if self.settings.review.incomplete == "wait" else 0,
                "with_faults": sum(1 for entry in manifest.entries if entry.faults),
                "subjects": len({entry.subject for entry in manifest.entries}),
                "visits": len({(entry.subject, entry.visit) for entry in manifest.entries}),
            },
            lists={"manifest": os.fspath(self.manifest_path.relative_to(self.place.root))},
            output_digest=digest_of([entry.to_json() for entry in manifest.entries]),
        )
        self.forget_plans()

    def _write_lists(self, folder: Path, new: list[str]) -> list[int]:
        """List the folders of new or changed series."""
        size = self.settings.chunks.review_series
        chunks = [new[begin : begin + size] for begin in range(0, len(new), size)]
        for chunk, folders in enumerate(chunks):
            write_json(list_path(folder, chunk), folders, mode=0o600)
        return [len(folders) for folders in chunks]

    def _exported_series(self) -> dict[str, dict[str, str]]:
        """List the exported series: folder below the export -> file name -> digest."""
        from tasks.deidentify.ledger import Ledger  # noqa: PLC0415

        series: dict[str, dict[str, str]] = defaultdict(dict)
        with Ledger(self.place.identified / "export.db") as ledger:
            for row in ledger.rows():
                if not row.reason:
                    folder, _, name = row.target.rpartition("/")
                    series[folder][name] = row.digest
        return dict(sorted(series.items()))

    def _incomplete_series(self) -> dict[str, str]:
        """List the series with missing files: folder below the export -> what is missing, in plain words."""
        from tasks.deidentify.ledger import Ledger  # noqa: PLC0415

        with SortStore(self.place.index) as store:
            reasons = dict(store.incomplete_targets())
        if not reasons:
            return {}
        with Ledger(self.place.identified / "export.db") as ledger:
            return {
                row.target.rpartition("/")[0]: " ".join(
                    INCOMPLETE_REASONS[code] for code in reasons[row.source].split()
                )
                for row in ledger.rows()
                if row.source in reasons and not row.reason
            }

    def _standing_entries(self, series: dict[str, dict[str, str]]) -> dict[str, Entry]:
        """Read which series the present manifest already describes as they are exported now."""
        from tasks.review.manifest import read_manifest  # noqa: PLC0415

        receipt = self.receipt()
        if receipt is None or receipt.settings_digest != self.settings_digest():
            return {}
        try:
            manifest = read_manifest(self.manifest_path)
        except ManifestError:
            return {}
        standing: dict[str, Entry] = {}
        for entry in manifest.entries:
            files = {Path(instance.path).name: instance.sha256 for instance in entry.instances}
            folder = _folder_of(entry)
            drawn = entry.montage is None or (self.place.review / entry.montage).exists()
            if drawn and series.get(folder) == files:
                standing[folder] = entry
        return standing


def _folder_of(entry: Entry) -> str:
    return f"{entry.subject}/{entry.visit}/{entry.series}"


def _flagged(entry: Entry, incomplete: Mapping[str, str]) -> Entry:
    """Say of an entry that files of its series are missing, or no longer."""
    from tasks.review.finding import finding  # noqa: PLC0415

    problems = tuple(problem for problem in entry.problems if problem.code != "incomplete-series")
    if text := incomplete.get(_folder_of(entry)):
        problems += (finding("incomplete-series", text),)
    return replace(entry, problems=problems)
