"""The command `python -m viewer`: the words it understands, and how it ends."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from tasks import __version__
from tasks.errors import ScanwardError
from viewer import commands

_CODES = """\
exit codes:
  0    everything is well
  1    a fault of the program itself
  2    the command line cannot be understood
  4    the work was done; some series have faults or cannot be shown
  5    a folder cannot be written
  6    the manifest cannot be used
  7    a package is missing
  130  stopped by hand
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m viewer",
        description="Look at what PrepareReview made: the series that a review manifest lists.",
        epilog=_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"scanward {__version__}")
    kinds = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("manifest", metavar="MANIFEST", type=Path, help="the manifest file, review/manifest.json")
    shared.add_argument(
        "--json", action="store_true", help="end with one line of JSON: counts and the manifest's digest"
    )
    shared.add_argument("--debug", action="store_true", help="show where in the program a fault arose")

    kinds.add_parser(
        "check",
        parents=[shared],
        help="verify that every listed file is there and unchanged",
        description="Read every file that the manifest lists, compare size, SHA-256 and geometry, see that the "
        "pictures are there, and look for files in the export that are not listed. Changes nothing.",
    )
    render = kinds.add_parser(
        "render",
        parents=[shared],
        help="draw one PNG picture for each series; needs no display",
        description="Draw all slices of each series into one PNG picture, with the patient's right on the left side "
        "and letters for the sides. Of a series with several volumes the first is drawn.",
    )
    render.add_argument("--out", metavar="DIR", type=Path, required=True, help="the folder for the pictures")
    render.add_argument(
        "--only", metavar="ENTRY", action="append", default=[], help="draw this entry only; may be given several times"
    )
    return parser


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
        if given.command == "check":
            outcome = commands.check(given.manifest, out=sys.stdout)
        else:
            outcome = commands.render(given.manifest, given.out, only=given.only, out=sys.stdout)
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
