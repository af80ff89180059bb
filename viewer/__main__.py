"""The command `python -m viewer`: the words it understands, and how it ends."""

from __future__ import annotations

import argparse
import math
import os
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from tasks import __version__
from tasks.errors import ScanwardError, UsageError
from viewer import commands, reading_room, results
from viewer.render import KINDS, Look
from viewer.reslice import CONVENTIONS

_CODES = """\
exit codes:
  0    everything is well
  1    a fault of the program itself
  2    the command line cannot be understood
  3    the sitting ended, and cases are left
  4    the work was done; some series have faults or cannot be shown
  5    a folder cannot be written
  6    the manifest cannot be used
  7    a package is missing
  15   the ratings cannot be read, written or trusted
  16   a file cannot be shown as an image
  130  stopped by hand
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m viewer",
        description="Look at images, and read what PrepareReview made: the series that a review manifest lists.",
        epilog=_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"scanward {__version__}")
    kinds = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    every = argparse.ArgumentParser(add_help=False)
    every.add_argument("--json", action="store_true", help="end with one line of JSON: counts, digests, the exit code")
    every.add_argument("--debug", action="store_true", help="show where in the program a fault arose")
    shared = argparse.ArgumentParser(add_help=False, parents=[every])
    shared.add_argument("manifest", metavar="MANIFEST", type=Path, help="the manifest file, review/manifest.json")

    windowed = argparse.ArgumentParser(add_help=False)
    windowed.add_argument("--light", action="store_true", help="a light window, for a light room")

    review = kinds.add_parser(
        "review",
        parents=[shared, windowed],
        help="read the cases one after the other in a window",
        description="Open the cases in a window; one key gives the verdict and goes on. Every act is on disk before "
        "the window says so, in ratings/NAME.db beside the manifest; the next start goes on where this one stopped. "
        "F1 shows the keys.",
    )
    review.add_argument("--reviewer", metavar="NAME", required=True, help="who reads: letters, digits, . - and _")
    review.add_argument("--only", choices=["unrated", "flagged", "disagreed", "stale"], help="read these cases only")
    review.add_argument("--case", metavar="ENTRY", help="begin with this entry of the manifest")
    review.add_argument("--screenshots", metavar="DIR", type=Path, help="the folder for pictures of the window (key P)")
    review.add_argument(
        "--overlays", metavar="DIR", type=Path, help="the folder with masks to lay over the cases: ENTRY.nii.gz or .mgz"
    )
    view = kinds.add_parser(
        "view",
        parents=[every, windowed],
        help="open DICOM folders or images in a window",
        description="Open folders of DICOM files, NIfTI, Analyze, MGH, MINC, PAR/REC or .npy files in a window. Nothing"
        " is read or kept.",
    )
    view.add_argument("paths", metavar="PATH", type=Path, nargs="+", help="a folder or a file")
    view.add_argument("--overlay", metavar="FILE", type=Path, help="a mask or segmentation to lay over it")

    kinds.add_parser(
        "check",
        parents=[shared],
        help="verify that every listed file is there and unchanged",
        description="Read every file that the manifest lists, compare size, SHA-256 and geometry, see that the "
        "pictures are there, and look for files in the export that are not listed. Changes nothing.",
    )
    render = kinds.add_parser(
        "render",
        parents=[every],
        help="draw pictures to files; needs no display",
        description="Draw every series of a manifest, or one image, to files: the slices side by side (mosaic), three"
        " planes through one place (ortho), a cut at any angle (oblique), or a run through volumes or slices (gif). The"
        " patient's right is on the left unless --convention says otherwise, and letters name the sides.",
    )
    render.add_argument("source", metavar="SOURCE", type=Path, help="the manifest, a DICOM folder, or an image file")
    render.add_argument("--out", metavar="DIR", type=Path, required=True, help="the folder for the pictures")
    render.add_argument("--kind", choices=list(KINDS), default="mosaic", help="what to draw (%(default)s)")
    render.add_argument(
        "--only", metavar="ENTRY", action="append", default=[], help="draw this entry only; may be given several times"
    )
    render.add_argument(
        "--at", metavar=("X", "Y", "Z"), nargs=3, type=_number, help="RAS+ millimetres that the planes go through"
    )
    for name, what in (
        ("turn", "to the right"),
        ("tilt", "forwards"),
        ("spin", "clockwise in its own plane"),
    ):
        render.add_argument(f"--{name}", metavar="DEG", type=_number, default=0.0, help=f"turn the cut {what}")
    render.add_argument("--slab", metavar="MM", type=_number, default=0.0, help="how thick the cut is")
    render.add_argument("--slab-mode", choices=["mean", "max", "min"], default="mean", help="what is shown through it")
    render.add_argument(
        "--window", metavar=("LOW", "HIGH"), nargs=2, type=_number, help="contrast; without it what suits the image"
    )
    render.add_argument("--volume", metavar="N", type=_count, default=0, help="the volume, from 0")
    render.add_argument("--convention", choices=list(CONVENTIONS), default=CONVENTIONS[0], help="(%(default)s)")
    render.add_argument("--height", metavar="PIXELS", type=_count, default=400, help="of a plane (%(default)s)")
    export = kinds.add_parser(
        "export",
        parents=[shared],
        help="write every reader's verdicts as tables",
        description="Write the verdicts, artefacts, notes and marks of all readers as a BIDS derivative: ratings.tsv"
        " with its data dictionary, ratings.csv and ratings.jsonl. Equal ratings give equal bytes.",
    )
    export.add_argument("--out", metavar="DIR", type=Path, required=True, help="the folder for the tables")
    export.add_argument(
        "--format", action="append", choices=["tsv", "csv", "jsonl"], help="only this; may be given several times"
    )
    agree = kinds.add_parser(
        "agree",
        parents=[shared],
        help="say how well readers agree, with each other and with themselves",
        description="Compare the verdicts that stand: raw agreement, Cohen's kappa plain and weighted, Fleiss' kappa,"
        " Gwet's AC1 and AC2, Krippendorff's alpha and intraclass correlations, each with a bootstrap interval over"
        " cases; and each reader with the own hidden repeats. Verdicts on images that changed since do not count.",
    )
    agree.add_argument("--group", metavar="NAME", help="only the cases of this kind of acquisition, such as T1w")
    agree.add_argument(
        "--resamples", metavar="N", type=_count, default=2000, help="draws for the intervals (%(default)s); 0 for none"
    )
    agree.add_argument("--seed", metavar="N", type=_count, default=0, help="of the draws (%(default)s)")
    verify = kinds.add_parser(
        "verify",
        parents=[every],
        help="see that no verdict was changed, removed or put in between",
        description="Work out the chain of digests of every reader's file again and name the first row that is not as"
        " it was written. Changes nothing.",
    )
    verify.add_argument("manifest", metavar="MANIFEST", type=Path, help="the manifest, or one reader's .db file")
    keys = kinds.add_parser("keys", parents=[every], help="print the table of keys")
    keys.add_argument(
        "manifest", metavar="MANIFEST", type=Path, nargs="?", help="the manifest whose study has verdicts of its own"
    )
    kinds.add_parser("doctor", parents=[every], help="say what works on this machine, and what is missing")
    return parser


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is no number")
    return value


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0")
    return int(text)


def _run(given: argparse.Namespace) -> commands.Outcome:
    """Do what the command line asks for."""
    if given.command == "check":
        return commands.check(given.manifest, out=sys.stdout)
    if given.command == "render":
        if given.kind == "mosaic" and given.source.suffix == ".json":
            return commands.render(given.source, given.out, only=given.only, out=sys.stdout)
        if given.window and not given.window[0] < given.window[1]:
            raise UsageError(problem="--window has no room between its values.", remedy="Give the lower one first.")
        look = Look(
            at=tuple(given.at) if given.at else None,
            turn=given.turn,
            tilt=given.tilt,
            spin=given.spin,
            slab_mm=given.slab,
            slab_mode=given.slab_mode,
            window=tuple(given.window) if given.window else None,
            volume=given.volume,
            convention=given.convention,
            height=min(max(given.height, 32), 4096),
        )
        return commands.draw_images(given.source, given.out, given.kind, look, only=given.only, out=sys.stdout)
    if given.command == "export":
        return results.export(given.manifest, given.out, formats=given.format, out=sys.stdout)
    if given.command == "agree":
        return results.agree(
            given.manifest, group=given.group, resamples=given.resamples, seed=given.seed, out=sys.stdout
        )
    if given.command == "verify":
        return results.verify(given.manifest, out=sys.stdout)
    if given.command == "keys":
        return reading_room.keys(given.manifest, out=sys.stdout)
    if given.command == "doctor":
        return reading_room.doctor(out=sys.stdout)
    settings = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    around = reading_room.Surroundings(
        now=lambda: datetime.now().astimezone(),
        monotonic=time.monotonic,
        host=socket.gethostname(),
        habits=Path(settings) / "scanward" / "viewer.json",
        is_dark=not given.light,
    )
    if given.command == "view":
        return reading_room.look(given.paths, overlay=given.overlay, around=around, out=sys.stdout)
    return reading_room.review(
        given.manifest,
        reader=given.reviewer,
        only=given.only,
        case=given.case,
        screenshots=given.screenshots,
        overlays=given.overlays,
        around=around,
        out=sys.stdout,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Parameters
    ----------
    argv
        The words after the program's name; those of the process if None.
    """
    try:
        given = _parser().parse_args(argv)
    except SystemExit as end:
        return int(end.code or 0)
    try:
        outcome = _run(given)
        if given.json:
            commands.write_facts(outcome, out=sys.stdout)
        sys.stdout.flush()
    except ScanwardError as fault:
        if given.json:
            facts = {"command": given.command, "error": type(fault).__name__}
            commands.write_facts(commands.Outcome(exit_code=fault.exit_code, facts=facts), out=sys.stdout)
        return _say(str(fault), fault.exit_code, debug=given.debug)
    except KeyboardInterrupt:
        return _say("Stopped.", 130, debug=given.debug)
    except Exception as fault:  # noqa: BLE001 - nobody but a developer is helped by a traceback
        text = f"The viewer failed ({type(fault).__name__}). This is a fault of scanward; --debug shows where it arose."
        return _say(text, ScanwardError.exit_code, debug=given.debug)
    return outcome.exit_code


def _say(text: str, exit_code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    sys.stderr.write(f"{text}\n")
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
