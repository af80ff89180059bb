"""From the export to what a reviewer opens: `PrepareReview`."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.base import ChunkTask, StageTask, say_and_exit
from pipelines.deidentify import DeidentifyStudy, find_dcm2niix
from tasks import __version__
from tasks.config import SeriesSettings
from tasks.errors import DamagedRecordError, ManifestError, MissingPackageError, StudyFileError
from tasks.files import make_folder, sweep_temporaries, write_json
from tasks.index.completeness import INCOMPLETE_REASONS
from tasks.logs import LOGGER
from tasks.receipt import Receipt, digest_of
from tasks.sort.store import SortStore
from tasks.worklist import list_path
from tasks.workspace import INDEX, LEDGER

if TYPE_CHECKING:
    from tasks.review.bids import NamingRule
    from tasks.review.manifest import Entry, Manifest
    from tasks.review.staging import Staged, Workbench

MANIFEST_VERSION = 3
"""Raised when entries, pictures or conversions change, so that the next run prepares everything again."""

PAGE = "index.html"
"""What a person opens first, beside the manifest."""

_PACKAGES = {"PIL": "Pillow", "nipype": "nipype", "nibabel": "nibabel", "scipy": "scipy", "isal": "isal"}
_CRITERIA = ("description", "image_type", "sequence", "echo")
_PROTOCOL = ("tr_ms", "te_ms", "voxel_mm", "fov_mm", "matrix", "orientation", "slices", "volumes", "directions")

# What preparing needs (nipype, nibabel, numpy) is imported where it is used: SortStudy runs without.


def _rule(series: SeriesSettings) -> NamingRule:
    from tasks.review.bids import NamingRule  # noqa: PLC0415

    return NamingRule(bids=series.bids or "", **{name: getattr(series, name) for name in _CRITERIA})


def _workbench(wanted: tuple[SeriesSettings, ...]) -> Workbench:
    """Return what series are converted and measured with."""
    from tasks.review.quality.protocol import Expected  # noqa: PLC0415
    from tasks.review.staging import Workbench  # noqa: PLC0415

    protocol = tuple(
        (_rule(one), Expected(tolerance=one.tolerance, **{name: getattr(one, name) for name in _PROTOCOL}))
        for one in wanted
        if any(getattr(one, name) is not None for name in _PROTOCOL)
    )
    return Workbench(program=find_dcm2niix(), protocol=protocol)


class ReviewChunk(ChunkTask):
    """Describe, convert, measure and picture some series."""

    def work(self) -> None:
        """Prepare the series."""
        from tasks.review.manifest import COURSES  # noqa: PLC0415
        from tasks.review.prepare import prepare_series  # noqa: PLC0415
        from tasks.review.staging import stage_series  # noqa: PLC0415

        released, review = self.place.released, self.place.review
        bench = _workbench(self.settings.review.series)
        make_folder(self.place.converted, mode=0o700)
        entries = []
        for folder in json.loads(self.list_path.read_bytes()):
            entry = prepare_series(released, released / folder, review)
            stage_series(
                [review / record.path for record in entry.instances],
                self.place.converted / entry.entry_id,
                bench,
                place=(entry.subject, entry.visit, entry.series),
                course=review / COURSES / f"{entry.entry_id}.png",
            )
            entries.append(entry.to_json())
            self.advance("Preparing")
        write_json(self.outcome_path, entries, mode=0o600)


class PrepareReview(StageTask):
    """Convert, measure and picture every exported series, and list them; pulls in DeidentifyStudy and SortStudy.

    Give --dump DIR and --workspace DIR, or --study FILE.toml.
    """

    stage = "prepare-review"
    title = "Prepared"
    chunk_task = ReviewChunk
    reads = (INDEX, LEDGER)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Known before hours of work are spent on the stages before.
        for module, package in _PACKAGES.items():
            if importlib.util.find_spec(module) is None:
                say_and_exit(MissingPackageError(purpose="PrepareReview", package=package, extra="review"))
        if not find_dcm2niix():
            say_and_exit(MissingPackageError(purpose="PrepareReview", package="dcm2niix", extra="review"))
        super().__init__(*args, **kwargs)
        self._check_names()

    def _check_names(self) -> None:
        """Refuse a study file whose rules give names that BIDS does not know."""
        from tasks.review.bids_standard import naming_fault  # noqa: PLC0415

        faults = [
            f"review.series.{number}.bids: {fault}"
            for number, one in enumerate(self.settings.review.series)
            if one.bids is not None and (fault := naming_fault(one.bids))
        ]
        if faults:
            say_and_exit(StudyFileError(path=self.study or "study.toml", faults="; ".join(faults).rstrip(".")))

    def prepare(self) -> None:
        """Load what takes a second to load before any process is forked, so that all of them have it."""
        importlib.import_module("tasks.review.nodes")

    def before(self) -> DeidentifyStudy:
        """Return the export."""
        export: DeidentifyStudy = self.sibling(DeidentifyStudy)
        return export

    def input_digest(self) -> str:
        """Name the export, and which series are incomplete."""
        export = self.before()
        receipt = export.receipt()
        plan = export.before().before().before().receipt()
        if receipt is None or plan is None or not export.complete():
            return ""
        return digest_of([receipt.output_digest, plan.facts["gaps"]])

    def settings_digest(self) -> str:
        """Name the form of the manifest, what becomes of incomplete series, and how series are called and measured."""
        rules = [one.model_dump(mode="json") for one in self.settings.review.series]
        return digest_of(
            {
                "making": self._making_digest(),
                "incomplete": self.settings.review.incomplete,
                "rules": rules,
                "reading": self.settings.reading.model_dump(mode="json"),
            }
        )

    def _making_digest(self) -> str:
        """Name what decides how a series is prepared: another name alone needs no new conversion."""
        rules = [one.model_dump(mode="json", exclude={"bids"}) for one in self.settings.review.series]
        return digest_of({"manifest": MANIFEST_VERSION, "protocol": rules})

    @property
    def manifest_path(self) -> Path:
        """The review manifest."""
        return self.place.review / "manifest.json"

    def is_still_there(self, receipt: Receipt) -> bool:  # noqa: ARG002 - what it lists is there or not
        """Tell whether manifest, page, quality, protocol and data set were not taken away."""
        from tasks.review.manifest import QUALITY  # noqa: PLC0415
        from tasks.review.reading import PROTOCOL  # noqa: PLC0415

        papers = (
            self.place.review / QUALITY,
            self.place.review / PROTOCOL,
            self.place.review / PAGE,
            self.place.nifti / "dataset_description.json",
        )
        return all(paper.exists() for paper in (self.manifest_path, *papers))

    def work(self) -> Iterator[Any]:
        """Prepare the series that are new or changed, and merge their entries with those that stand."""
        from tasks.review.manifest import Entry, merge_entries, write_manifest  # noqa: PLC0415

        for folder in (self.place.review, self.place.converted):
            make_folder(folder)
        incomplete = self._incomplete_series()
        series = self._exported_series()
        waiting: list[str] = []
        if self.settings.review.incomplete == "wait":
            waiting = sorted(folder for folder in series if folder in incomplete)
            series = {folder: files for folder, files in series.items() if folder not in incomplete}
        before = self._manifest_before()
        standing = self._standing_entries(before, series)
        new = [f"export/{name}" for name in series if name not in standing]
        chunks = self.freeze("Preparing", lambda folder: self._write_lists(folder, new))
        yield chunks

        sweep_temporaries(self.place.review)
        sweep_temporaries(self.place.converted, deep=False)
        fresh = [Entry.from_json(entry) for chunk in chunks for entry in json.loads(chunk.outcome_path.read_bytes())]
        replaced = {entry.entry_id for entry in fresh}
        kept = [entry for entry in standing.values() if entry.entry_id not in replaced]
        flagged = [_flagged(entry, incomplete) for entry in (*fresh, *kept)]
        manifest = self._assemble(merge_entries(flagged).entries, before, waiting)
        write_manifest(self.manifest_path, manifest)
        self._write_protocol()
        self._take_away(manifest)
        images = [image for entry in manifest.entries for image in entry.images]
        self.finish(
            counts={
                "series": len(manifest.entries),
                "prepared_now": len(fresh),
                "pictures": sum(1 for entry in manifest.entries if entry.montage),
                "images": len(images),
                "with_guessed_names": sum(1 for image in images if image.named_by == "guess"),
                "without_a_place_in_BIDS": sum(1 for image in images if image.named_by == "none"),
                "not_converted": sum(1 for entry in manifest.entries if not entry.images),
                "incomplete": sum(1 for entry in manifest.entries if _folder_of(entry) in incomplete),
                "waiting_for_files": len(waiting),
                "with_faults": sum(1 for entry in manifest.entries if entry.faults),
                "subjects": len({entry.subject for entry in manifest.entries}),
                "visits": len({(entry.subject, entry.visit) for entry in manifest.entries}),
            },
            lists={
                "page": os.fspath((self.place.review / PAGE).relative_to(self.place.root)),
                "manifest": os.fspath(self.manifest_path.relative_to(self.place.root)),
            },
            output_digest=digest_of([entry.to_json() for entry in manifest.entries]),
            facts={"making": self._making_digest()},
        )

    def _assemble(self, entries: tuple[Entry, ...], before: Manifest | None, waiting: list[str]) -> Manifest:
        """Name the images of the whole study, make the data set, and write what is measured and the page."""
        from tasks.review.advice import write_advice  # noqa: PLC0415
        from tasks.review.assemble import advise, complete, dataset_images, name_study, page_cases  # noqa: PLC0415
        from tasks.review.bids_dataset import write_dataset  # noqa: PLC0415
        from tasks.review.manifest import EXPORT, NIFTI, QUALITY, Manifest  # noqa: PLC0415
        from tasks.review.page import write_page  # noqa: PLC0415

        staged = {entry.entry_id: self._staged(entry) for entry in entries}
        rules = [_rule(one) for one in self.settings.review.series if one.bids is not None]
        names = name_study(entries, staged, rules)
        outcome = write_dataset(
            self.place.nifti,
            dataset_images(entries, staged, names, self.place.converted),
            record=self.place.nifti_record,
            title="Brain images",
            version=__version__,
        )
        if outcome.taken:
            LOGGER.warning(
                "Places in the data set are taken by files that scanward did not put there: %s.", *outcome.taken[:1]
            )
        entries = tuple(complete(entry, staged[entry.entry_id], names) for entry in entries)
        advice = advise(entries, staged, names)
        write_advice(self.place.review / QUALITY, advice)
        write_page(self.place.review / PAGE, page_cases(entries, staged, advice), manifest=self.manifest_path.name)
        extra = before.extra if before is not None else {}
        waits = tuple(f"{EXPORT}/{folder}" for folder in waiting)
        return Manifest(entries=entries, nifti=NIFTI, quality=QUALITY, waiting=waits, extra=extra)

    def _write_protocol(self) -> None:
        """Put beside the manifest how the study wants its images to be read."""
        from tasks.review.reading import Grade, ReadingProtocol, write_protocol  # noqa: PLC0415

        given: dict[str, Any] = self.settings.reading.model_dump()
        for name in ("scale", "artefacts"):
            given[name] = tuple(Grade(**one) for one in given[name]) or getattr(ReadingProtocol(), name)
        write_protocol(self.place.review, ReadingProtocol(**given))

    def _staged(self, entry: Entry) -> Staged:
        """Read what a series was converted to."""
        from tasks.review.staging import read_staged  # noqa: PLC0415

        staged = read_staged(self.place.converted / entry.entry_id)
        if staged is None:
            raise DamagedRecordError(path=self.place.converted / entry.entry_id, problem="it went away during the run")
        return staged

    def _take_away(self, manifest: Manifest) -> None:
        """Remove pictures and conversions of series that are no longer exported."""
        from tasks.review.manifest import COURSES, MONTAGES, THUMBNAILS  # noqa: PLC0415

        pictures = {one for entry in manifest.entries for one in (entry.montage, entry.thumbnail, entry.course) if one}
        for kind in (MONTAGES, THUMBNAILS, COURSES):
            for picture in (self.place.review / kind).glob("*.png"):
                if f"{kind}/{picture.name}" not in pictures:
                    picture.unlink()
        known = {entry.entry_id for entry in manifest.entries}
        for folder in self.place.converted.iterdir():
            if folder.name not in known:
                shutil.rmtree(folder)

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
        with Ledger(self.place.ledger) as ledger:
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
        with Ledger(self.place.ledger) as ledger:
            return {
                row.target.rpartition("/")[0]: " ".join(
                    INCOMPLETE_REASONS[code] for code in reasons[row.source].split()
                )
                for row in ledger.rows()
                if row.source in reasons and not row.reason
            }

    def _manifest_before(self) -> Manifest | None:
        """Read the present manifest; None if there is none that can be used."""
        from tasks.review.manifest import read_manifest  # noqa: PLC0415

        try:
            return read_manifest(self.manifest_path)
        except ManifestError:
            return None

    def _standing_entries(self, before: Manifest | None, series: dict[str, dict[str, str]]) -> dict[str, Entry]:
        """Tell which series the present manifest already describes as they are exported now."""
        from tasks.review.staging import read_staged  # noqa: PLC0415

        receipt = self.receipt()
        if receipt is None or before is None or receipt.facts.get("making") != self._making_digest():
            return {}
        standing: dict[str, Entry] = {}
        for entry in before.entries:
            files = {Path(instance.path).name: instance.sha256 for instance in entry.instances}
            folder = _folder_of(entry)
            pictures = [one for one in (entry.montage, entry.thumbnail, entry.course) if one is not None]
            drawn = all((self.place.review / one).exists() for one in pictures)
            if drawn and series.get(folder) == files and read_staged(self.place.converted / entry.entry_id) is not None:
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
