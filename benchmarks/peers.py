"""De-identifies listed files with one tool, in a process of its own, and says how long that took.

A tool may crash on a file: then only this process does. `deidentify.py` runs it: peers.py TOOL LIST FOLDER, where LIST
holds one path a line, and the export of the first becomes FOLDER/00000.dcm; what a tool does not export is missing. It
prints one line of JSON: CPU seconds without the imports and the warm-up.
"""

# ruff: noqa: PLC0415 - each process loads the one tool that it measures

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib.util
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.deidentify.plan import ExportOrder, Person

SECRET = bytes(range(32))
"""Handed to every tool that takes a key or a seed."""

SHIFT_DAYS = -1000

Tool = Callable[[Sequence[Path], Sequence[Path]], None]
"""Takes sources and writes their exports to as many targets; writes nothing where it exports nothing."""


def one_by_one(export: Callable[[Path, Path], object]) -> Tool:
    """Make a tool of what exports one file; a file that it cannot process is left out."""

    def act(sources: Sequence[Path], targets: Sequence[Path]) -> None:
        for source, target in zip(sources, targets, strict=True):
            try:
                export(source, target)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException:  # noqa: BLE001 - whatever it raises; a panic of Rust is no Exception
                target.unlink(missing_ok=True)

    return act


# The peers -----------------------------------------------------------------------------------------------------------


def prepare_dicognito(_: Sequence[Path]) -> Tool:
    import pydicom
    from dicognito.anonymizer import Anonymizer

    anonymizer = Anonymizer(seed=SECRET.hex())

    def export(source: Path, target: Path) -> None:
        dataset = pydicom.dcmread(source)
        anonymizer.anonymize(dataset)
        dataset.save_as(target)

    return one_by_one(export)


def prepare_dicom_anonymizer(_: Sequence[Path], *, delete_private: bool) -> Tool:
    from dicomanonymizer.simpledicomanonymizer import anonymize_dicom_file, initialize_actions

    def export(source: Path, target: Path) -> None:
        anonymize_dicom_file(
            str(source),
            str(target),
            delete_private_tags=delete_private,
            base_rules_gen=partial(initialize_actions, "dicomfields_2026c"),
        )

    return one_by_one(export)


def prepare_deid(_: Sequence[Path]) -> Tool:
    from deid.config import DeidRecipe
    from deid.dicom import replace_identifiers

    recipe = DeidRecipe()

    def export(source: Path, target: Path) -> None:
        (dataset,) = replace_identifiers(dicom_files=[str(source)], deid=recipe, save=False)
        dataset.save_as(target)

    return one_by_one(export)


def prepare_dcmanon(_: Sequence[Path]) -> Tool:
    from dcmanon import Anonymizer

    anonymizer = Anonymizer()

    def export(source: Path, target: Path) -> None:
        target.write_bytes(anonymizer.anonymize(str(source)))

    return one_by_one(export)


def prepare_dentdeid(_: Sequence[Path], *, profile: str) -> Tool:
    from dentdeid import DeIdentifier, get_profile

    settings: Any = get_profile(profile).with_(previews=False, write_mapping=True)

    def act(sources: Sequence[Path], targets: Sequence[Path]) -> None:
        by_source = {str(source): target for source, target in zip(sources, targets, strict=True)}
        # Beside the targets, so that its exports need not be copied.
        with tempfile.TemporaryDirectory(dir=targets[0].parent) as folder:
            DeIdentifier(settings, key=SECRET).run(list(by_source), folder)
            with contextlib.suppress(FileNotFoundError), open(f"{folder}/KEEP-PRIVATE/mapping.csv") as file:
                for source, made in list(csv.reader(file))[1:]:
                    if made.startswith("clean/"):
                        os.replace(Path(folder) / made, by_source[source])

    return act


# scanward ------------------------------------------------------------------------------------------------------------


def plan(sources: Sequence[Path]) -> tuple[list[ExportOrder], dict[str, Person]]:
    """Plan an export as DeidentifyStudy does: what every file holds of its patient is collected before any is written.

    Sources are the sorted tree, whose root is `/`; patients are numbered as they come.
    """
    from tasks.deidentify.findings import gather
    from tasks.deidentify.identity import Identity, Subject
    from tasks.deidentify.plan import SortedFile, patients_of, plan_export
    from tasks.deidentify.profile import DEFAULT_PROFILE
    from tasks.index.header import read_header
    from tasks.index.row import IndexRow

    root = Path("/")
    files = []
    for source in sources:
        row = read_header(os.fsencode(source.parent), os.fsencode(source.name))
        if isinstance(row, IndexRow):
            place = str(source.relative_to(root))
            files.append(SortedFile(source=place, identity=place, row=row, owner=row.shared))
    gathered = gather([(file.source, file.identity) for file in files], root, lambda _: None)
    harvests = {source: gathered.harvests[number] for source, _, number in gathered.files}
    patients = patients_of(files)
    subjects = {
        patient: Subject(pseudonym=f"SUB-{number:04d}", shift_days=SHIFT_DAYS)
        for number, patient in enumerate(patients, 1)
    }
    dates = DEFAULT_PROFILE.temporal_information()
    return plan_export(patients, subjects, Identity(SECRET), harvests, dates=dates)


def prepare_scanward(_: Sequence[Path]) -> Tool:
    """Prepare all that DeidentifyStudy does with a sorted tree, but for the comparison of conversions."""
    from tasks.deidentify.export import export_files
    from tasks.deidentify.identity import Identity
    from tasks.deidentify.profile import DEFAULT_PROFILE

    def act(sources: Sequence[Path], targets: Sequence[Path]) -> None:
        by_source = dict(zip(sources, targets, strict=True))
        orders, people = plan(sources)
        with tempfile.TemporaryDirectory(dir=targets[0].parent) as name:
            folder = Path(name)
            rows = export_files(
                orders,
                people,
                sorted_tree=Path("/"),
                export=folder / "export",
                quarantine=folder / "quarantine",
                profile=DEFAULT_PROFILE,
                identity=Identity(SECRET),
                advance=lambda _: None,
            )
            for row in rows:
                if not row.reason:
                    os.replace(folder / "export" / row.target, by_source[Path("/") / row.source])

    return act


def prepare_steps(sources: Sequence[Path], *, is_audited: bool) -> Tool:
    """Prepare rewriting, and the audit with it, in memory; what is known of the patients was collected before."""
    from tasks.deidentify.audit.compare import audit_file
    from tasks.deidentify.export import expectations_of
    from tasks.deidentify.identity import Identity, Subject
    from tasks.deidentify.profile import DEFAULT_PROFILE
    from tasks.deidentify.rewrite import rewrite

    orders, people = plan(sources)
    names = {Path("/") / order.source: order.pseudonym for order in orders}
    identity = Identity(SECRET)
    expectations = expectations_of(people, DEFAULT_PROFILE)

    def export(source: Path, target: Path) -> None:
        expected = expectations[names[source]]
        subject = Subject(pseudonym=expected.pseudonym, shift_days=expected.shift_days)
        original = source.read_bytes()
        result = rewrite(
            original, profile=DEFAULT_PROFILE, identity=identity, subject=subject, known=expected.identifiers
        )
        if not is_audited or not audit_file(original, result.content, expected):
            target.write_bytes(result.content)

    return one_by_one(export)


OURS = "scanward"
REWRITE, AUDITED = "scanward, rewrite alone", "scanward, rewrite and audit"
KEEPS_PRIVATE = "dicom-anonymizer, private kept"
RUST = "dcmanon (Rust)"

PREPARE: dict[str, tuple[str, Callable[[Sequence[Path]], Tool]]] = {
    "dicognito": ("dicognito", prepare_dicognito),
    "dicom-anonymizer": ("dicomanonymizer", partial(prepare_dicom_anonymizer, delete_private=True)),
    KEEPS_PRIVATE: ("dicomanonymizer", partial(prepare_dicom_anonymizer, delete_private=False)),
    "deid": ("deid", prepare_deid),
    "dentdeid, basic": ("dentdeid", partial(prepare_dentdeid, profile="basic")),
    "dentdeid, research": ("dentdeid", partial(prepare_dentdeid, profile="research")),
    RUST: ("dcmanon", prepare_dcmanon),
    REWRITE: ("tasks", partial(prepare_steps, is_audited=False)),
    AUDITED: ("tasks", partial(prepare_steps, is_audited=True)),
    OURS: ("tasks", prepare_scanward),
}
"""Tool to the module it needs, and what gets it ready for a list of files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one process made of a list of files.

    Attributes
    ----------
    files, exported
        How many it was given after the warm-up, and of how many it wrote an export.
    cpu
        Seconds.
    targets
        Where the export of each file is, or would be.
    """

    files: int
    exported: int
    cpu: float
    targets: tuple[Path, ...]


def run_tool(tool: str, sources: Sequence[Path], folder: Path, *, warm_up: int = 0) -> Outcome:
    """De-identify files with a tool in a process of its own; a process that crashes has exported what is there."""
    with tempfile.NamedTemporaryFile("w", suffix=".list") as listing:
        listing.writelines(f"{source}\n" for source in sources)
        listing.flush()
        command = (sys.executable, __file__, tool, listing.name, folder, "--warm-up", str(warm_up))
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    targets = tuple(folder / f"{number:05d}.dcm" for number in range(len(sources) - warm_up))
    exported = sum(target.exists() for target in targets)
    cpu = json.loads(done.stdout.splitlines()[-1])["cpu"] if done.returncode == 0 else float("inf")
    return Outcome(files=len(targets), exported=exported, cpu=cpu, targets=targets)


def installed_tools() -> list[str]:
    """List the tools whose module is there."""
    return [name for name, (module, _) in PREPARE.items() if importlib.util.find_spec(module)]


def main() -> None:
    parser = argparse.ArgumentParser(description="De-identify listed files with one tool.")
    parser.add_argument("tool", choices=PREPARE)
    parser.add_argument("listing", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--warm-up", type=int, default=0, help="files that are exported before the clock starts")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable()
    sources = [Path(line) for line in options.listing.read_text().splitlines()]
    options.folder.mkdir(parents=True)
    tool = PREPARE[options.tool][1](sources)
    if options.warm_up:
        # The last ones, which do not count.
        tool(sources[-options.warm_up :], [options.folder / f"{number}.warm" for number in range(options.warm_up)])
        sources = sources[: -options.warm_up]
    targets = [options.folder / f"{number:05d}.dcm" for number in range(len(sources))]
    cpu = time.process_time()
    tool(sources, targets)
    cpu = time.process_time() - cpu
    print(json.dumps({"cpu": cpu}))


if __name__ == "__main__":
    main()
