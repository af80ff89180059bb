"""The `scanward` command: a study file, a look at the installation, where a study stands, which rules hold."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.resources
import json
import os
import shutil
import sqlite3
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipelines.base import load_study, now
from pipelines.lookup import look_up_patient
from pipelines.policy import print_policy
from pipelines.recover import recover_files
from pipelines.vocabulary import propose_words
from tasks import __version__
from tasks.errors import DiskFullError, ScanwardError, UsageError, WorkspaceError
from tasks.files import write_atomically
from tasks.receipt import remove_receipt
from tasks.sort.source import Sources
from tasks.sort.store import SortStore
from tasks.sort.table import export_series
from tasks.sort.undo import undo_run
from tasks.status import read_status
from tasks.worklist import forget
from tasks.workspace import Workspace, open_workspace

_PACKAGES = {
    "core": ("luigi", "pydicom", "numpy", "pydantic", "psutil", "rich"),
    "review": ("nipype", "nibabel", "scipy", "isal", "Pillow"),
    "viewer": ("PyQt5", "pyqtgraph"),
    "codecs": ("pylibjpeg", "pylibjpeg-openjpeg", "pyjpegls", "pylibjpeg-rle"),
    "conversion": ("dcm2niix",),
    "recovery": ("cryptography",),
    "parquet": ("pyarrow",),
    "monitor": ("paramiko", "pynetdicom", "Jinja2", "holidays", "tzdata"),
    "ocr": ("rapidocr-onnxruntime",),
}
_NEEDED_FOR = {
    "core": "SortStudy and DeidentifyStudy",
    "review": "PrepareReview, and the pictures of the viewer",
    "codecs": "pictures of compressed images (JPEG 2000, JPEG-LS, RLE)",
    "conversion": "PrepareReview, and the audit's comparison of what dcm2niix makes before and after",
    "recovery": "an encrypted key map, identities sealed into the export for recovery, a cluster's scheduler",
    "parquet": "tables of series as Parquet (scanward index export)",
    "monitor": "the night watch (NightlyReport)",
    "viewer": "the viewer's windows",
    "ocr": "text recognition in the exported images (ocr), if tesseract is not there",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns
    -------
    int
        The exit code: 0 if all is well, 1 if `doctor` found something missing that is needed or `lookup` found nobody,
        else a fault's own code.
    """
    options = _parser().parse_args(arguments)
    try:
        code: int = options.act(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough, as in `scanward profile | head`. Python would flush once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ScanwardError as fault:
        return _say(str(fault), fault.exit_code, debug=options.debug)
    except Exception as fault:  # noqa: BLE001 - no log was kept, and its own words may quote a patient
        text = f"An unexpected fault ({type(fault).__name__}) stopped scanward; --debug shows where it arose."
        return _say(text, ScanwardError.exit_code, debug=options.debug)
    return code


def _say(text: str, exit_code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    sys.stderr.write(f"{text}\n")
    return exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scanward",
        description="Brain images from the scanner's dump to a reviewed, shareable data set. The work itself is asked "
        "of Luigi: luigi --module pipelines SortStudy | DeidentifyStudy | PrepareReview --study FILE.toml",
    )
    parser.add_argument("--version", action="version", version=f"scanward {__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks, which may quote patients")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    init = commands.add_parser("init", help="write a commented study file to start from")
    init.add_argument("path", nargs="?", type=Path, default=Path("study.toml"), help="default: study.toml")
    init.set_defaults(act=_init)

    doctor = commands.add_parser("doctor", help="look at the installation and, with a study, at its folders")
    doctor.set_defaults(act=_doctor)
    status = commands.add_parser("status", help="tell where a study stands")
    status.add_argument("--json", action="store_true", help="print one JSON object for a machine")
    status.set_defaults(act=_status)

    plan = commands.add_parser("plan", help="write the table of what SortStudy will place where, and place nothing")
    plan.add_argument("--workers", type=_at_least_one, default=1, metavar="N", help="processes that read headers")
    plan.set_defaults(act=_plan)
    undo = commands.add_parser("undo", help="take the last sort back out of the sorted tree; the dump is not touched")
    undo.set_defaults(act=_undo)
    index = commands.add_parser("index", help="what the index knows")
    index_commands = index.add_subparsers(dest="index_command", required=True, metavar="COMMAND")
    export = index_commands.add_parser("export", help="write a table of all series, in which patients can be read")
    export.add_argument("path", type=Path, help="a file that is not there yet, ending in .tsv or .parquet")
    export.set_defaults(act=_export)

    profile = commands.add_parser(
        "profile",
        help="print the rules of de-identification in effect, attribute by attribute",
        description="Print what becomes of each attribute: every row of table E.1-1 of DICOM PS3.15 with the codes of "
        "the Basic Profile and of the options chosen ([deidentify] options in the study file), then what was decided "
        "one by one, then what befalls all others. Nothing is read but the study file, and nothing is written.",
    )
    profile.add_argument("--study", metavar="FILE.toml", type=Path, help="default: the options that a new study has")
    profile.add_argument(
        "--format",
        choices=("text", "markdown", "tsv", "json"),
        default="text",
        help="for people: a line each (the default) or by what becomes of them; for machines: a table or an object",
    )
    profile.add_argument(
        "--sop-class",
        metavar="UID",
        default="1.2.840.10008.5.1.4.1.1.4",
        help="the kind of image, by which X/Z/D and the like are resolved at its top level; default: MR Image Storage",
    )
    profile.set_defaults(act=print_policy)

    vocabulary = commands.add_parser(
        "vocabulary",
        help="propose words for the study's own vocabulary of descriptors",
        description="Print words that stand in the descriptors (descriptions, protocol and sequence names) of several "
        "patients and would be masked in the export, with the number of patients that have them. A person chooses.",
    )
    vocabulary.add_argument(
        "--at-least", type=_at_least_one, default=2, metavar="N", help="patients that must have a word; default: 2"
    )
    vocabulary.set_defaults(act=propose_words)

    lookup = commands.add_parser(
        "lookup",
        help="tell whom a pseudonym stands for, or what a patient or a UID is called in the export",
        description="Print who is who: whom a pseudonym stands for, under which pseudonym a patient is, what a UID was "
        "or became. Each question is written down in the key map with its time and who asked. What is printed "
        "identifies patients; it goes to the terminal and into no file.",
    )
    lookup.add_argument(
        "question",
        nargs="?",
        metavar="PSEUDONYM|PATIENT_ID|UID",
        help="what to look up; - reads it from standard input, so that it stays out of the shell's history",
    )
    lookup.add_argument("--log", action="store_true", help="list instead who asked whom they wanted to know, and when")
    lookup.set_defaults(act=look_up_patient)

    recover = commands.add_parser(
        "recover",
        help="put the originals back into exported files that hold them, with the key they were encrypted for",
        description="Decrypt the Encrypted Attributes Sequence of exported files ([deidentify] recovery_certificate) "
        "and write them with their original attributes into a folder. Patients can be read there.",
    )
    recover.add_argument("files", nargs="+", type=Path, metavar="FILE", help="exported files, or folders of them")
    recover.add_argument("--key", type=Path, required=True, metavar="KEY.pem", help="the private key, mode 0600")
    recover.add_argument(
        "--certificate", type=Path, required=True, metavar="CERT.pem", help="the certificate that it belongs to"
    )
    recover.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="where the files go")
    recover.set_defaults(act=recover_files)
    submit = commands.add_parser(
        "submit",
        help="queue a task on a Slurm cluster, sized by [cluster] in the study file",
        description="Queue a job array that does a task of the study: element 0 also runs the scheduler, all of them "
        "work. A job of the same workspace that waits or runs already is named instead of queued twice.",
    )
    submit.add_argument("task", choices=("SortStudy", "DeidentifyStudy", "PrepareReview"), metavar="TASK")
    submit.add_argument("--study", metavar="FILE.toml", help="default: study.toml in this folder")
    submit.add_argument("--dry-run", action="store_true", help="print the command for sbatch and queue nothing")
    submit.set_defaults(act=_submit)
    scheduler = commands.add_parser(
        "scheduler",
        help="run Luigi's scheduler behind TLS and a password, for one job on a cluster",
        description="Serve until no worker has asked for a while. Where it is, the password and the certificate are "
        "left in the folder: export LUIGI_CONFIG_PATH=FOLDER/luigi.cfg SSL_CERT_FILE=FOLDER/certificate.pem "
        "REQUESTS_CA_BUNDLE=FOLDER/certificate.pem, and start luigi.",
    )
    scheduler.add_argument("--folder", type=Path, required=True, help="closed to others, seen by all hosts")
    scheduler.add_argument("--address", help="an address of this host; default: all, and workers are told the first")
    scheduler.add_argument("--port", type=int, default=0, help="default: one that is free")
    scheduler.add_argument(
        "--end-when-idle", type=float, default=60.0, metavar="SECONDS", help="without any worker; default: 60"
    )
    scheduler.set_defaults(act=_scheduler)
    # It needs Luigi and the watch's settings, but none of its packages until it is used.
    from pipelines.monitor_commands import add_commands  # noqa: PLC0415

    add_commands(commands)
    for command in (doctor, status, plan, undo, export, vocabulary, lookup):
        command.add_argument("--study", metavar="FILE.toml", help="default: study.toml in this folder")
        command.add_argument("--dump", metavar="DIR", help="stands in for the key of the study file")
        command.add_argument("--workspace", metavar="DIR", help="stands in for the key of the study file")
    return parser


def _init(options: argparse.Namespace) -> int:
    path: Path = options.path
    if os.path.lexists(path):
        raise UsageError(problem=f"{path} is there already.", remedy="Give another name; nothing was changed.")
    try:
        write_atomically(path.absolute(), example_study())
    except (OSError, DiskFullError, WorkspaceError) as fault:
        raise UsageError(problem=f"{path} cannot be written.", remedy="Give a place where you may write.") from fault
    sys.stdout.write(f"Wrote {path}. Set `dump` and `workspace` in it, then: scanward doctor --study {path}\n")
    return 0


def example_study() -> bytes:
    """Return the commented study file that is shipped."""
    return (importlib.resources.files("pipelines") / "example.toml").read_bytes()


def _doctor(options: argparse.Namespace) -> int:
    lines: list[tuple[str, str, str]] = [
        ("ok", "Python", f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"),
        ("ok", "SQLite", sqlite3.sqlite_version),
    ]
    for group, packages in _PACKAGES.items():
        for package in packages:
            try:
                lines.append(("ok", package, importlib.metadata.version(package)))
            except importlib.metadata.PackageNotFoundError:
                source = "scanward" if group == "core" else f"'scanward[{group}]'"
                remedy = f"not installed; needed for {_NEEDED_FOR[group]}: pip install {source}"
                lines.append(("missing" if group == "core" else "optional", package, remedy))
    from tasks.deidentify.ocr import PROGRAM, tesseract_version  # noqa: PLC0415 - brings numpy, which may be missing

    program = shutil.which(PROGRAM)
    version = tesseract_version(program) if program is not None else ""
    absent = "not installed, or without its English data; the other engine of ocr: Debian's package tesseract-ocr"
    lines.append(("ok", PROGRAM, version) if version else ("optional", PROGRAM, absent))
    if options.study or options.workspace or Path("study.toml").exists():
        lines += _look_at_study(options)
    # Plain lines, each whole however narrow the screen is, so that they can be searched and copied.
    sys.stdout.writelines(f"{state:<8}  {name:<18}  {text}\n" for state, name, text in lines)
    return 1 if any(state == "missing" for state, _, _ in lines) else 0


def _look_at_study(options: argparse.Namespace) -> list[tuple[str, str, str]]:
    settings, workspace = load_study(options.study, options.dump, options.workspace)
    free = shutil.disk_usage(workspace.root).free
    same = os.stat(settings.dump).st_dev == os.stat(workspace.root).st_dev
    placing = "same file system: files are placed by reflink or hard link" if same else "another one: files are copied"
    return [
        ("ok", "dump", f"{settings.dump} can be read"),
        ("ok", "workspace", f"{workspace.root} can be written, {free / 2**30:,.0f} GiB free"),
        ("ok", "placing", placing),
    ]


def _status(options: argparse.Namespace) -> int:
    workspace = _existing_workspace(options)
    status = read_status(workspace)
    if options.json:
        sys.stdout.write(json.dumps({"scanward": __version__, "read": now().isoformat(), **status}) + "\n")
        return 0
    _print_status(workspace, status)
    return 0


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _plan(options: argparse.Namespace) -> int:
    import luigi  # noqa: PLC0415 - the other commands need none

    from pipelines.ground import RETURN_CODES  # noqa: PLC0415
    from pipelines.sort import PlanSort  # noqa: PLC0415

    study = {"study": options.study, "dump": options.dump, "workspace": options.workspace, "debug": options.debug}
    task: Any = PlanSort(**study)
    done = luigi.build([task], local_scheduler=True, workers=options.workers)  # type: ignore[no-untyped-call] # Luigi's
    if not done:
        return RETURN_CODES["task_failed"]
    sys.stdout.write(f"{task.place.lists / 'plan.tsv'}\n")
    return 0


def _submit(options: argparse.Namespace) -> int:
    from pipelines.cluster import submit  # noqa: PLC0415 - it needs Luigi

    return submit(options)


def _scheduler(options: argparse.Namespace) -> int:
    from pipelines.scheduler import run_scheduler  # noqa: PLC0415 - it needs Luigi and a web server

    return run_scheduler(options)


def _undo(options: argparse.Namespace) -> int:
    from pipelines.run import is_marked  # noqa: PLC0415 - it needs Luigi
    from pipelines.sort import SortStudy, settle  # noqa: PLC0415

    settings, workspace = load_study(options.study, options.dump, options.workspace)
    if not workspace.index.exists():
        raise UsageError(problem="Nothing was sorted into this workspace yet.", remedy="There is nothing to undo.")
    if is_marked(workspace):
        problem = "A run of several hosts is under way, or was cut off."
        raise UsageError(problem=problem, remedy="Have it end first: start the same command again, and wait.")
    # First of all: from here on until the next sort nobody may believe that the tree is as planned.
    for stage in ("sort", "plan"):
        remove_receipt(workspace.receipts, stage)
    for lists in workspace.plans.glob(f"{SortStudy.stage}-*"):
        forget(lists)
    sources = Sources.of(settings.dump, workspace)
    with SortStore(workspace.index) as store:
        # A run that was cut off may have placed what it had no time to note.
        settle(store, sources, by_link=settings.sort.place == "symlink")
        undone = undo_run(
            store,
            sources,
            how=settings.sort.place,
            moment=now().isoformat(timespec="seconds"),
        )
    if not undone.run:
        sys.stdout.write("There is no run left to undo.\n")
        return 0
    sys.stdout.write(
        f"Undid run {undone.run}: {undone.taken:,} files taken out of the sorted tree, {undone.restored:,} put back "
        "where they were before.\n"
    )
    if undone.kept:
        sys.stdout.write(f"{undone.kept:,} files stayed, because the dump no longer holds them.\n")
    return 0


def _export(options: argparse.Namespace) -> int:
    workspace = _existing_workspace(options)
    if not workspace.index.exists():
        raise UsageError(problem="This workspace has no index yet.", remedy="Run SortStudy first.")
    path: Path = options.path
    if os.path.lexists(path):
        raise UsageError(problem=f"{path} is there already.", remedy="Give another name; nothing was changed.")
    if path.suffix not in (".tsv", ".parquet"):
        raise UsageError(problem=f"{path} ends in neither .tsv nor .parquet.", remedy="The ending chooses the format.")
    with SortStore(workspace.index, look_only=True) as store:
        try:
            count = export_series(store, path.absolute())
        except (OSError, WorkspaceError) as fault:
            remedy = "Give a place where you may write."
            raise UsageError(problem=f"{path} cannot be written.", remedy=remedy) from fault
    sys.stdout.write(f"Wrote {count:,} series to {path}. Patients can be read in it.\n")
    return 0


def _existing_workspace(options: argparse.Namespace) -> Workspace:
    if options.workspace and not options.study:
        root = Path(options.workspace)
        if not (root / "identified").is_dir():
            raise UsageError(problem=f"{root} is no workspace of scanward yet.", remedy="Run SortStudy first.")
        return open_workspace(root)
    return load_study(options.study, options.dump, options.workspace)[1]


def _print_status(workspace: Workspace, status: dict[str, Any]) -> None:
    console = Console(soft_wrap=True)
    console.print(f"Workspace {workspace.root}", highlight=False)
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, count in status["holds"].items():
        table.add_row(name.replace("_", " "), f"{count:,}")
    console.print(table)
    for stage, state in status["stages"].items():
        if not state:
            console.print(f"{stage}: not done yet")
            continue
        counts = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in state["counts"].items() if count)
        console.print(f"{stage} ({state['finished']}): {counts}", highlight=False)
        for reason, count in state["reasons"].items():
            console.print(f"  {count:,} x {reason}", highlight=False)
    for advance in status["under_way"]:
        console.print(
            f"{advance['title']}: {advance['units_done']:,} of {advance['units']:,}, "
            f"{advance['chunks_done']:,} of {advance['chunks']:,} chunks, {advance['per_second']:,.0f} a second",
            highlight=False,
        )
    for run in status["runs"]:
        end = f"undone {run['undone']}" if run["undone"] else run["finished"] or "not finished"
        console.print(
            f"Run {run['run']}, {run['started']} to {end}: {run['placed']:,} placed, {run['removed']:,} taken away",
            highlight=False,
        )


if __name__ == "__main__":
    sys.exit(main())
