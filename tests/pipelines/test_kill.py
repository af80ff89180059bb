"""`kill -9` at any moment, and the same command again: the end is the same, byte for byte, and nothing is left over."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tasks.receipt import read_receipt
from tasks.status import RECEIPTS
from tests.builders.world import make_dump, make_instance, make_mixed_dump, write_instance
from tests.pipelines.command import (
    DEADLINE_SECONDS,
    counts_of,
    digests,
    faults_of,
    kill_group,
    luigi_words,
    rows_of,
    run,
    started,
    unfinished,
    use_secret,
    viewer,
    write_study,
)

LISTS = ("rejects", "duplicates", "conflicts", "quarantine")


@dataclass(frozen=True, slots=True, kw_only=True)
class Undisturbed:
    """What a run makes of a dump when nobody kills it."""

    dump: Path
    workspace: Path
    seconds: float
    files: int
    """How many files the workspace holds in the end."""


def command(dump: Path, workspace: Path, *, workers: int, more: str = "") -> list[str]:
    """Spell out the command; its chunks are small, so that there are many moments between two of them."""
    study = write_study(workspace.with_suffix(".toml"), dump=dump, workspace=workspace, files=100, series=4, more=more)
    return luigi_words("PrepareReview", "--study", study, "--workers", workers)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Make a dump of about 600 files with something of everything, and run the graph on it."""
    base = tmp_path_factory.mktemp("kill")
    dump, workspace = base / "dump", base / "w"
    make_mixed_dump(dump, series=4, instances=24)
    use_secret(workspace)
    began = time.monotonic()
    ended = run(command(dump, workspace, workers=1), cwd=base)
    assert ended.code == 0, ended.said
    for name in LISTS:
        assert rows_of(workspace, name), name
    return Undisturbed(dump=dump, workspace=workspace, seconds=time.monotonic() - began, files=count_files(workspace))


def count_files(folder: Path) -> int:
    """Count the files below a folder in which others are at work."""
    return sum(len(names) for _, _, names in os.walk(folder))


def run_and_kill(words: list[str], workspace: Path, undisturbed: Undisturbed, chance: random.Random) -> bool:
    """Start the command and kill all of it at a moment drawn by chance; tell whether it still ran.

    Half of the moments are drawn by the clock, the others by how many files there are.
    """
    by_clock = chance.random() < 0.5
    seconds = chance.uniform(0.3, 1.2 * undisturbed.seconds) if by_clock else DEADLINE_SECONDS
    files = undisturbed.files + 1 if by_clock else chance.randrange(5, undisturbed.files)
    more = chance.uniform(0, 0.05)
    with started(words, cwd=workspace.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < deadline and count_files(workspace) < files:
            time.sleep(0.002)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=more)
        running = process.poll() is None
        kill_group(process)
    return running


def assert_same_end(workspace: Path, undisturbed: Undisturbed) -> None:
    """Compare everything that a run makes with what it makes when nobody kills it."""
    there, here = undisturbed.workspace, workspace
    for tree in ("identified/sorted", "identified/quarantine", "released"):
        assert digests(here / tree) == digests(there / tree), tree
    for name in LISTS:
        assert rows_of(here, name) == rows_of(there, name), name
    for stage in RECEIPTS:
        assert read_receipt(here / "identified" / "receipts", stage) is not None, stage
        told, expected = counts_of(here, stage), counts_of(there, stage)
        assert {k: v for k, v in told.items() if not k.endswith("_now")} == {
            k: v for k, v in expected.items() if not k.endswith("_now")
        }
    assert unfinished(here) == []
    assert not list((here / "identified" / "plans").rglob("frozen"))
    assert {path.name for path in (here / "identified").iterdir()} - {"logs"} == {
        path.name for path in (there / "identified").iterdir()
    } - {"logs"}
    assert faults_of(here) == ""
    assert (
        viewer("check", here / "released" / "review" / "manifest.json", cwd=here).code
        == viewer("check", there / "released" / "review" / "manifest.json", cwd=there).code
    )


def kill_and_go_on(undisturbed: Undisturbed, folder: Path, *, seed: int, kills: int, workers: int) -> None:
    """Kill the same work some times, each time at another moment; then let it run to its end."""
    chance = random.Random(seed)
    use_secret(folder / "w")
    killed = 0
    for _ in range(kills):
        killed += run_and_kill(
            command(undisturbed.dump, folder / "w", workers=workers), folder / "w", undisturbed, chance
        )
    ended = run(command(undisturbed.dump, folder / "w", workers=workers), cwd=folder)
    assert ended.code == 0, ended.said
    assert_same_end(folder / "w", undisturbed)
    assert killed, "a test in which nothing was killed proves nothing"


@pytest.mark.parametrize(("workers", "kills", "seed"), [(1, 2, 2), (2, 1, 5)])
def test_killed_and_started_again(
    undisturbed: Undisturbed, workers: int, kills: int, seed: int, tmp_path: Path
) -> None:
    kill_and_go_on(undisturbed, tmp_path, seed=seed, kills=kills, workers=workers)


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("seed", range(100, 105))
def test_killed_three_times_and_started_again(
    undisturbed: Undisturbed, workers: int, seed: int, tmp_path: Path
) -> None:
    kill_and_go_on(undisturbed, tmp_path, seed=seed * workers, kills=3, workers=workers)


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_after_the_dump_grew(undisturbed: Undisturbed, workers: int, tmp_path: Path) -> None:
    """A second run, with more files and conflicts that rename what stands, is killed; the third makes it good."""
    chance = random.Random(77 + workers)
    dump, workspace, fresh = tmp_path / "dump", tmp_path / "w", tmp_path / "fresh"
    # Given pseudonyms, because numbered ones depend on who came first.
    named = "".join(f"SYNWORLD{number:04d},P{number}\n" for number in (1, 2, 3))
    (tmp_path / "names.csv").write_text(f"patient_id,pseudonym\n{named}")
    more = '[deidentify]\npseudonyms = "names.csv"\n'
    first = make_dump(dump, patients=2, series=2, instances=20)
    use_secret(workspace)
    words = command(dump, workspace, workers=workers, more=more)
    assert run(words, cwd=tmp_path).code == 0

    for number, path in enumerate(first[::5]):
        shutil.copyfile(path, dump / f"duplicate {number}")
        again = make_instance(1 + number // 8, 1, 1 + number // 4 % 2, 1 + 5 * (number % 4), ImageComments="again")
        write_instance(dump / f"conflict {number}", again)
    make_dump(dump, patients=3, series=2, instances=20, seed=9)
    for _ in range(3):
        run_and_kill(words, workspace, undisturbed, chance)
    assert run(words, cwd=tmp_path).code == 0

    use_secret(fresh)
    assert run(command(dump, fresh, workers=1, more=more), cwd=tmp_path).code == 0
    for tree in ("identified/sorted", "released"):
        assert digests(workspace / tree) == digests(fresh / tree), tree
    assert unfinished(workspace) == []
