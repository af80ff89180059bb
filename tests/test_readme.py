"""The README is held to the code: what it lists is what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pipelines
from pipelines.__main__ import _parser
from pipelines.ground import RETURN_CODES
from tasks.errors import error_table
from viewer.__main__ import _parser as viewer_parser

README = (Path(__file__).resolve().parents[1] / "README.md").read_text("utf-8")


def subcommands(parser) -> set[str]:
    return set(next(action for action in parser._actions if action.dest == "command").choices)


def test_the_table_of_faults_is_the_one_printed_from_the_classes():
    rows = [f"| {code} | {name} | {meaning} | {retry} |" for code, name, meaning, retry in error_table()]
    shown = re.findall(r"^\| \d+ \| \w+Error \|.*$", README, re.MULTILINE)
    assert shown == rows


def test_luigis_exit_codes_are_the_ones_that_are_set():
    section = README.split("## How a run ends")[1].split("and what is found before")[0]
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)] == sorted(RETURN_CODES.values())


def test_every_command_is_told_and_every_told_command_exists():
    assert set(re.findall(r"`scanward (\w+)", README)) == subcommands(_parser())
    assert set(re.findall(r"python -m viewer (\w+)", README)) == subcommands(viewer_parser())
    assert set(re.findall(r"--module pipelines (\w+)", README)) == set(pipelines.__all__)


def test_every_link_leads_somewhere():
    root = Path(__file__).resolve().parents[1]
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (root / target).exists(), target
