"""The README is held to the code: what it lists is what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import pipelines
from pipelines.__main__ import _parser
from pipelines.ground import RETURN_CODES
from pipelines.policy import markdown_lines
from tasks.deidentify.profile import DEFAULT_PROFILE
from tasks.errors import error_table
from tasks.index.completeness import INCOMPLETE_REASONS
from tasks.index.row import REJECT_REASONS
from tasks.review.quality.metric import METRICS
from tasks.sort.conflict import CONFLICT_KINDS
from tasks.sort.fields import FIELDS
from tasks.sort.layout import PRESETS
from viewer.__main__ import _parser as viewer_parser
from viewer.keys import markdown

README = (Path(__file__).resolve().parents[1] / "README.md").read_text("utf-8")


def subcommands(parser) -> set[str]:
    return set(next(action for action in parser._actions if action.dest == "command").choices)


def test_the_table_of_faults_is_the_one_printed_from_the_classes():
    rows = [f"| {code} | {name} | {meaning} | {retry} |" for code, name, meaning, retry in error_table()]
    shown = re.findall(r"^\| \d+ \| \w+Error \|.*$", README, re.MULTILINE)
    assert shown == rows


def test_the_table_of_keys_is_the_one_that_the_window_obeys():
    assert markdown() in README


def test_luigis_exit_codes_are_the_ones_that_are_set():
    section = README.split("## How a run ends")[1].split("and what is found before")[0]
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)] == sorted(RETURN_CODES.values())


def test_every_command_is_told_and_every_told_command_exists():
    assert set(re.findall(r"`scanward (\w+)", README)) == subcommands(_parser())
    assert set(re.findall(r"python -m viewer (\w+)", README)) == subcommands(viewer_parser())
    assert set(re.findall(r"--module pipelines (\w+)", README)) == set(pipelines.__all__)


@pytest.mark.parametrize(
    ("head", "told"),
    [
        ("reason", REJECT_REASONS),
        ("differs", CONFLICT_KINDS),
        ("incomplete", INCOMPLETE_REASONS),
        ("field", {name: field.meaning for name, field in FIELDS.items()}),
    ],
)
def test_the_tables_of_the_sorter_are_printed_from_the_code(head: str, told: dict[str, str]):
    table = README.split(f"| {head} | meaning |\n| --- | --- |\n")[1].split("\n\n")[0]
    assert table.splitlines() == [f"| `{code}` | {meaning} |" for code, meaning in told.items()]


def test_the_presets_are_the_ones_there_are():
    table = README.split("| preset | folders | file name |\n| --- | --- | --- |\n")[1].split("\n\n")[0]
    assert table.splitlines() == [f"| `{name}` | `{folders}` | `{file}` |" for name, (folders, file) in PRESETS.items()]


def test_the_rules_of_de_identification_are_the_ones_in_effect():
    """The README shows what `scanward profile --format markdown` prints."""
    assert "\n".join(markdown_lines(DEFAULT_PROFILE.describe())) in README


def test_the_measures_are_the_ones_there_are():
    table = README.split("| measure | unit | what it is | after |\n| --- | --- | --- | --- |\n")[1].split("\n\n")[0]
    rows = [f"| `{name}` | {unit} | {meaning} | {source} |" for name, (unit, meaning, source) in METRICS.items()]
    assert table.splitlines() == rows


def test_every_link_leads_somewhere():
    root = Path(__file__).resolve().parents[1]
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (root / target).exists(), target
