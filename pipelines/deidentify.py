"""From the sorted tree to the de-identified export: `DeidentifyStudy`."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.base import ChunkTask, StageTask, key_map_passphrase, now, say_and_exit
from pipelines.harvest import HarvestIdentifiers
from tasks.config import DeidentifySettings, StudySettings
from tasks.errors import KeyMapError, MissingPackageError, RecoveryError, UnaccountedError, UsageError
from tasks.files import make_folder, sweep_temporaries
from tasks.lists import write_list
from tasks.logs import LOGGER
from tasks.receipt import Receipt, digest_of
from tasks.sort.place import take_away
from tasks.sort.store import SortStore
from tasks.sort.visit import correct_patients, read_visit_overrides
from tasks.worklist import all_lists, list_path
from tasks.workspace import EXPORT_PAPERS, EXPORT_REPORT_PAGE, FINDINGS, INDEX, KEY_MAP, LEDGER

if TYPE_CHECKING:
    from tasks.deidentify.audit.conversion import Converter
    from tasks.deidentify.ledger import ExportRow
    from tasks.deidentify.ocr import TextReader
    from tasks.deidentify.plan import ExportOrder, SortedFile
    from tasks.deidentify.profile import Profile
    from tasks.deidentify.recovery import Certificate

# What de-identification needs (pydicom, the standard's tables) is imported where it is used: SortStudy runs without.


def find_dcm2niix() -> str:
    """Return the path of dcm2niix: the one of this environment, else the one on PATH; empty if there is none."""
    wheel = importlib.util.find_spec("dcm2niix")
    if wheel is not None and wheel.origin:
        # The wheel's script would start a second interpreter, which takes longer than most conversions.
        program = shutil.which("dcm2niix", path=os.path.dirname(wheel.origin))
        if program:
            return program
    return shutil.which("dcm2niix", path=sysconfig.get_path("scripts")) or shutil.which("dcm2niix") or ""


def choose_converter(settings: StudySettings, folder: Path) -> Converter | None:
    """Return how series are converted for the audit; None if they are not.

    Raises
    ------
    MissingPackageError
        If the study file demands it and dcm2niix is not there, or does not run.
    """
    from tasks.deidentify.audit.conversion import Converter, converter_version, promises_same_conversion  # noqa: PLC0415
    from tasks.deidentify.profile import Profile  # noqa: PLC0415

    wanted = settings.deidentify.compare_conversion
    codes = {code for code, _ in Profile.of(settings.deidentify.options).codes()}
    if wanted == "never" or (wanted == "auto" and not promises_same_conversion(codes)):
        return None
    program = find_dcm2niix()
    if program and converter_version(program):
        return Converter(program=program, folder=folder)
    if wanted == "always":
        purpose = "Comparing conversions, for which the study file asks (compare_conversion),"
        raise MissingPackageError(purpose=purpose, package="dcm2niix", extra="conversion")
    return None


def profile_of(settings: DeidentifySettings) -> Profile:
    """Return the profile that a study file asks for."""
    from tasks.deidentify.pixels import RegionRule  # noqa: PLC0415
    from tasks.deidentify.profile import Profile  # noqa: PLC0415

    regions = [RegionRule(**region.model_dump()) for region in settings.regions]
    return Profile.of(settings.options, settings.vocabulary, regions)


def choose_reader(settings: DeidentifySettings) -> TextReader | None:
    """Return what recognizes text in exported images; None if the study file asks for none.

    Raises
    ------
    MissingPackageError
        If it asks and nothing is there.
    """
    from tasks.deidentify.ocr import open_reader  # noqa: PLC0415

    return None if settings.ocr == "off" else open_reader()


@lru_cache(maxsize=4)
def recovery_certificate(path: Path | None) -> Certificate | None:
    """Read, once a process, whom originals are encrypted for; None if the study file names nobody.

    Raises
    ------
    RecoveryError, MissingPackageError
        If it will not do, or the package that encrypts is not installed.
    """
    from tasks.deidentify.recovery import load_certificate  # noqa: PLC0415

    if path is None:
        return None
    certificate = load_certificate(path)
    if certificate.expires < now():
        LOGGER.warning("The certificate %s expired on %s; it is used all the same.", path, certificate.expires.date())
    return certificate


def _content_of(path: Path | None) -> str:
    """Return a list's content for a digest, whatever state it is in."""
    try:
        return path.read_bytes().hex() if path is not None else ""
    except OSError:
        return "unreadable"


class ExportChunk(ChunkTask):
    """De-identify and audit one frozen list of files, whole series."""

    def work(self) -> None:
        """De-identify the files."""
        from tasks.deidentify.export import export_files, write_rows  # noqa: PLC0415
        from tasks.deidentify.identity import Identity, load_secret  # noqa: PLC0415
        from tasks.deidentify.plan import read_orders  # noqa: PLC0415

        orders, people = read_orders(self.list_path)
        rows = export_files(
            orders,
            people,
            sorted_tree=self.place.sorted_tree,
            export=self.place.export,
            quarantine=self.place.quarantine,
            profile=profile_of(self.settings.deidentify),
            identity=Identity(load_secret(self.place.secret)),
            advance=lambda units: self.advance("De-identifying", units),
            converter=choose_converter(self.settings, self.place.identified),
            reader=choose_reader(self.settings.deidentify),
            ocr=self.settings.deidentify.ocr,
        )
        write_rows(self.outcome_path, rows)


class DeidentifyStudy(StageTask):
    """De-identify the sorted tree into an export in which nobody can be recognised; pulls in SortStudy.

    Give --dump DIR and --workspace DIR, or --study FILE.toml.
    """

    stage = "deidentify"
    title = "De-identified"
    chunk_task = ExportChunk
    reads = (INDEX, FINDINGS)
    writes = (KEY_MAP, LEDGER)

    def before(self) -> HarvestIdentifiers:
        """Return the sorted tree, and what is known of each patient in it."""
        harvest: HarvestIdentifiers = self.sibling(HarvestIdentifiers)
        return harvest

    def prepare(self) -> None:
        """Look first for what there is no going on without: a profile that makes sense, converter, text recognition."""
        try:
            self._profile()
            choose_converter(self.settings, self.place.identified)
            choose_reader(self.settings.deidentify)
            key_map_passphrase(self.settings.deidentify)
            recovery_certificate(self.settings.deidentify.recovery_certificate)
        except (KeyMapError, MissingPackageError, RecoveryError, UsageError) as fault:
            say_and_exit(fault)

    def settings_digest(self) -> str:
        """Name what decides how files are made, and what the report says of them."""
        chosen = self.settings.deidentify
        # A patient whose IDs are joined gets other files by name and identity; the rest need not be made again for it.
        joined = [_content_of(chosen.same_patient), chosen.whole_weeks]
        return digest_of([self._making_digest(), chosen.smallest_cohort, joined])

    def _making_digest(self) -> str:
        """Name the profile, the subjects' names, and the wish to compare conversions.

        The wish alone: whether dcm2niix is installed here must not decide whether an export is made again.
        """
        settings = {
            "profile": self._profile().digest(),
            "prefix": self.settings.deidentify.prefix,
            "listed": _content_of(self.settings.deidentify.pseudonyms),
            "recovery": _content_of(self.settings.deidentify.recovery_certificate),
            "compare_conversion": self.settings.deidentify.compare_conversion,
            "ocr": self.settings.deidentify.ocr,
        }
        return digest_of(settings)

    def _profile(self) -> Profile:
        return profile_of(self.settings.deidentify)

    def is_still_there(self, receipt: Receipt) -> bool:
        """Tell whether neither the export nor its report was taken away."""
        try:
            with os.scandir(self.place.export) as entries:
                found = {"" if entry.is_dir(follow_symlinks=False) else entry.name for entry in entries}
        except OSError:
            return False
        there = found >= EXPORT_PAPERS and (not receipt.counts["exported"] or "" in found)
        return there and not self._key_map_waits_for_encryption()

    def _key_map_waits_for_encryption(self) -> bool:
        """Tell whether a passphrase was named for a key map that lies open."""
        from tasks.deidentify.keymap import is_encrypted  # noqa: PLC0415

        chosen = self.settings.deidentify
        named = chosen.key_map_passphrase_file is not None or chosen.key_map_passphrase_variable
        return bool(named) and self.place.key_map.exists() and not is_encrypted(self.place.key_map)

    def work(self) -> Iterator[Any]:
        """Plan what is new, have the chunks done, merge, take away what no longer belongs, check the sums."""
        from tasks.deidentify.export import read_rows  # noqa: PLC0415
        from tasks.deidentify.ledger import Ledger  # noqa: PLC0415
        from tasks.deidentify.plan import read_orders  # noqa: PLC0415
        from tasks.deidentify.report import withdraw_report  # noqa: PLC0415

        make_folder(self.place.export)
        ledger_path = self.place.ledger
        files = self._sorted_files()
        chunks = self.freeze("De-identifying", lambda folder: self._write_lists(folder, files, ledger_path))
        if chunks:
            # It would speak of another export than the one beside it, if this run were cut off.
            withdraw_report(self.place.export)
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
            if may_stand - wanted:
                withdraw_report(self.place.export)
            # Before the ledger forgets them, or a run that is cut off here leaves them for ever.
            take_away(sorted(may_stand - wanted), os.fspath(self.place.export))
            ledger.keep(self._making_digest(), rows, [row.source for row in before if row.source not in sources])
            everything = ledger.rows()
        self._check(files, everything, ordered - len(rows))
        self._finish(rows, everything)

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
        from tasks.deidentify.findings import Findings  # noqa: PLC0415
        from tasks.deidentify.identity import Identity, load_secret  # noqa: PLC0415
        from tasks.deidentify.keymap import (  # noqa: PLC0415
            Numbering,
            assign_subjects,
            read_given_pseudonyms,
            read_joined_patients,
        )
        from tasks.deidentify.ledger import Ledger  # noqa: PLC0415
        from tasks.deidentify.plan import patients_of, plan_export, split_orders, write_orders  # noqa: PLC0415

        with Ledger(ledger_path) as ledger:
            done = ledger.rows() if ledger.settings() == self._making_digest() else []
        identity = Identity(load_secret(self.place.secret))
        chosen = self.settings.deidentify
        joined = read_joined_patients(chosen.same_patient)
        numbering = Numbering(
            prefix=chosen.prefix,
            given=read_given_pseudonyms(chosen.pseudonyms, joined),
            joined=joined,
            whole_weeks=chosen.whole_weeks,
        )
        patients = patients_of(files, joined)
        passphrase = key_map_passphrase(chosen)
        subjects = assign_subjects(self.place.key_map, patients, identity, numbering, passphrase=passphrase)
        with Findings(self.place.findings) as findings:
            harvests = findings.by_source()
        dates = self._profile().temporal_information()
        orders, people = plan_export(patients, subjects, identity, harvests, dates=dates)
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
        """Write the list of what was set aside, the report, and the receipt."""
        from tasks.deidentify.export import AUDIT_PREFIX  # noqa: PLC0415
        from tasks.deidentify.reasons import explain  # noqa: PLC0415
        from tasks.deidentify.report import ReportSettings, files_by_rule, write_report  # noqa: PLC0415

        refused = [row for row in everything if row.reason]
        quarantine_list = self.place.lists / "quarantine.tsv"
        write_list(
            quarantine_list,
            ("file", "would_be", "reason", "meaning"),
            ((row.source, row.target, row.reason, explain(row.reason)) for row in refused),
        )
        settings = self.settings.deidentify
        write_report(
            self.place.export,
            everything,
            ReportSettings(
                profile=self._profile(),
                prefix=settings.prefix,
                smallest_cohort=settings.smallest_cohort,
                compare_conversion=settings.compare_conversion,
                ocr=settings.ocr,
            ),
        )
        exported = [row for row in everything if not row.reason]
        for number, files in enumerate(files_by_rule(exported, len(settings.regions)), 1):
            if not files:
                # A misspelt name would leave standing what it was meant to black out.
                LOGGER.warning("The region rule %d of the study file fits none of the exported images.", number)
        self.finish(
            counts={
                "sorted_files": len(everything),
                "exported": len(exported),
                "exported_now": sum(1 for row in rows if not row.reason),
                "quarantined": len(refused),
                "by_audit": sum(1 for row in refused if row.reason.startswith(AUDIT_PREFIX)),
                "subjects": len({row.target.partition("/")[0] for row in exported}),
            },
            lists={
                "quarantine": os.fspath(quarantine_list.relative_to(self.place.root)),
                "report": os.fspath((self.place.export / EXPORT_REPORT_PAGE).relative_to(self.place.root)),
            },
            output_digest=digest_of([(row.target, row.digest) for row in sorted(exported, key=lambda row: row.target)]),
            facts={"reasons": dict(sorted(Counter(row.reason for row in refused).items()))},
        )
