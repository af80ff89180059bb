"""How far the work is shows as bars in a terminal, as plain lines elsewhere, and on Luigi's own page."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders.world import make_dump
from tests.pipelines.command import central_scheduler, luigi, luigi_words, started, write_study

STAGES = {"Indexing": 24, "Sorting": 24, "Collecting": 24, "De-identifying": 24, "Preparing": 4}
"""What each stage counts in these tests: files, and series."""

BAR = "━"
ESCAPE = "\x1b["


@pytest.fixture
def words(tmp_path: Path) -> list[object]:
    """Write a dump of two patients with two series each, and spell out the command."""
    make_dump(tmp_path / "dump", patients=2, series=2, instances=6)
    study = write_study(tmp_path / "s.toml", dump=tmp_path / "dump", workspace=tmp_path / "w", files=12, series=2)
    return ["PrepareReview", "--study", study]


@contextlib.contextmanager
def terminal(chunks: list[bytes]) -> Iterator[int]:
    """Open a pseudo-terminal and collect what is written to it."""
    ours, theirs = pty.openpty()

    def collect() -> None:
        # Reading fails once the last writer has closed the other end.
        with contextlib.suppress(OSError):
            while chunk := os.read(ours, 65536):
                chunks.append(chunk)

    reader = threading.Thread(target=collect)
    reader.start()
    try:
        yield theirs
    finally:
        os.close(theirs)
        reader.join(timeout=60)
        os.close(ours)
    assert not reader.is_alive()


def run_in_terminal(words: list[object], cwd: Path, **env: str) -> tuple[int, str]:
    """Run a command with a pseudo-terminal for its screen; return its code and what came to the screen."""
    chunks: list[bytes] = []
    with (
        terminal(chunks) as screen,
        started(
            luigi_words(*words),
            cwd=cwd,
            env={"TERM": "xterm-256color", "COLUMNS": "120", **env},
            stdin=screen,
            stdout=screen,
            stderr=screen,
        ) as process,
    ):
        code = process.wait(timeout=120)
    return code, b"".join(chunks).decode("utf-8", "replace")


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.long), 2])
def test_in_a_terminal_a_bar_is_drawn_for_each_stage(workers: int, words: list[object], tmp_path: Path) -> None:
    code, screen = run_in_terminal([*words, "--workers", workers], tmp_path)
    assert code == 0, screen
    assert ESCAPE in screen
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen)
    for stage, units in STAGES.items():
        drawn = [line for line in re.split(r"[\r\n]+", plain) if line.startswith(stage)]
        assert drawn, stage
        assert BAR in drawn[-1]
        assert f"{units}/{units}" in drawn[-1], drawn[-1]
    last = plain.rindex("Preparing")
    assert plain.index("Indexed: 24 files seen") > last, "the summary stands below the bars"
    assert "Prepared: 4 series" in plain


def test_with_nothing_to_do_no_bar_is_drawn(words: list[object], tmp_path: Path) -> None:
    assert luigi(*words, cwd=tmp_path).code == 0
    code, screen = run_in_terminal(words, tmp_path)
    assert code == 0
    assert BAR not in screen
    assert "Prepared (nothing new)" in screen


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_without_a_terminal_plain_lines_tell_it(workers: int, words: list[object], tmp_path: Path) -> None:
    ended = luigi(*words, "--workers", workers, cwd=tmp_path)
    assert ended.code == 0
    assert ended.out == ""
    assert ESCAPE not in ended.err
    assert BAR not in ended.err
    assert "\r" not in ended.err
    lines = ended.err.splitlines()
    for stage, units in STAGES.items():
        told = [line for line in lines if line.startswith(f"{stage}: ")]
        assert told, stage
        assert re.fullmatch(rf"{stage}: {units} of {units} \([0-9]+ s\)", told[-1])
        assert lines.index(told[-1]) < lines.index(next(line for line in lines if line.startswith("Indexed: ")))


def test_what_goes_on_after_a_cut_counts_what_is_left(words: list[object], tmp_path: Path) -> None:
    """A run that failed in the middle is started again: the bars count the rest, not everything."""
    assert luigi("SortStudy", *words[1:], cwd=tmp_path).code == 0
    export = tmp_path / "w" / "released" / "export"
    export.mkdir(parents=True)
    (export / "SUB-0001").write_bytes(b"in the way")
    assert luigi("DeidentifyStudy", *words[1:], cwd=tmp_path).code == 30
    (export / "SUB-0001").unlink()
    ended = luigi("DeidentifyStudy", *words[1:], cwd=tmp_path)
    assert ended.code == 0, ended.said
    assert [line.split(" (")[0] for line in ended.err.splitlines() if line.startswith("De-identifying")][-1:] == [
        "De-identifying: 12 of 12"
    ]


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.long), 2])
def test_luigis_page_is_told_how_far_it_is(workers: int, words: list[object], tmp_path: Path) -> None:
    with central_scheduler(tmp_path / "luigid") as scheduler:
        ended = luigi(*words, "--workers", workers, "--scheduler-url", scheduler.url, cwd=tmp_path)
        assert ended.code == 0, ended.said
        tasks = scheduler.tasks()
        told = {
            task: scheduler.ask("get_task_progress_percentage", task_id=task)["progressPercentage"] for task in tasks
        }
        said = {task: scheduler.ask("get_task_status_message", task_id=task)["statusMessage"] for task in tasks}
    for stage in ("index", "sort", "harvest", "deidentify", "prepare-review"):
        portions = [
            task
            for task, facts in tasks.items()
            if facts["name"] == "DoPortion" and facts["params"]["stage"] == stage and told[task] is not None
        ]
        assert 1 <= len(portions) <= 2, "portions without a chunk say nothing"
        assert {told[portion] for portion in portions} == {100}
        assert all(re.fullmatch(r"done: (\d+) of \1, [\d,]+ a second", said[portion]) for portion in portions), said
    assert {task["status"] for task in tasks.values()} == {"DONE"}


def test_the_progress_of_many_files_is_told_in_few_messages(tmp_path: Path) -> None:
    """One message a portion and every few seconds, not one a file: each is a request over HTTP, which luigid logs."""
    make_dump(tmp_path / "dump", instances=250)
    study = ("--dump", tmp_path / "dump", "--workspace", tmp_path / "w")
    with central_scheduler(tmp_path / "luigid") as scheduler:
        assert luigi("DeidentifyStudy", *study, "--scheduler-url", scheduler.url, cwd=tmp_path).code == 0
    log = (tmp_path / "luigid" / "luigi-server.log").read_text("utf-8")
    assert 4 <= log.count("set_task_progress_percentage") <= 40
