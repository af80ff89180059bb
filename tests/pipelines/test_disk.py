"""A disk that is full or may not be written: a clear sentence, nothing half done outside, and later all made good."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.builders.disks import tiny_disk
from tests.builders.world import make_dump, make_instance, write_instance
from tests.pipelines.command import (
    Ended,
    digests,
    faults_of,
    luigi,
    luigi_words,
    rows_of,
    scanward,
    started,
    unfinished,
    use_secret,
    viewer,
    wait_until,
    write_study,
)

PLENTY_KILOBYTES = 64 * 1024

DOING = ("Indexing", "Planning", "Sorting", "Collecting", "De-identifying", "Preparing")
STAGES = (*DOING, "Indexed", "Planned", "Sorted", "Collected identifiers", "De-identified", "Prepared")
USUAL = ("  ", *(f"{stage}: " for stage in STAGES))
"""How the lines begin that every run says."""


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a dump of some megabytes, on another file system than the disks of these tests."""
    folder = tmp_path_factory.mktemp("disk") / "dump"
    paths = make_dump(folder, patients=2, series=2, instances=15)
    for number, path in enumerate(paths[::9]):
        shutil.copyfile(path, folder / f"duplicate {number}")
        write_instance(folder / f"conflict {number}", make_instance(1, 1, 1, 1, ImageComments=f"{number}"))
    write_instance(folder / "large", make_instance(2, 1, 3, 1, Rows=700, Columns=700, PixelData=bytes(2 * 700 * 700)))
    return folder


@pytest.fixture(scope="module")
def enough(dump: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the graph once where there is room."""
    workspace = tmp_path_factory.mktemp("room") / "w"
    use_secret(workspace)
    ended = prepare(dump, workspace, workers=1)
    assert ended.code == 0, ended.said
    return workspace


def prepare(dump: Path, workspace: Path, *, workers: int) -> Ended:
    study = write_study(dump.parent / "study.toml", dump=dump, workspace=workspace, files=20, series=2)
    return luigi("PrepareReview", "--study", study, "--workers", workers, cwd=dump.parent)


def kilobytes_of(folder: Path) -> int:
    """Count what the files below a folder take on a disk of pages of 4 KiB."""
    return 4 * sum((path.stat().st_size + 4095) // 4096 for path in folder.rglob("*") if path.is_file())


def change_disk(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def assert_nothing_half_done(workspace: Path, enough: Path) -> None:
    """Check that all that stands outside `identified/` is finished, and what it must be in the end."""
    released = workspace / "released"
    assert unfinished(released) == []
    ready = digests(enough / "released")
    for name, digest in digests(released).items():
        assert ready[name] == digest, name


@pytest.mark.parametrize(
    ("share", "workers"),
    [
        (0.02, 1),
        (0.6, 2),
        *(pytest.param(n / 20, 1 + n % 2, marks=pytest.mark.long) for n in range(1, 20)),
    ],
)
def test_a_full_disk_is_told_and_made_good(
    share: float, workers: int, dump: Path, enough: Path, tmp_path: Path
) -> None:
    with tiny_disk(tmp_path / "disk", kilobytes=max(40, int(share * kilobytes_of(enough)))) as disk:
        use_secret(disk / "w")
        ended = prepare(dump, disk / "w", workers=workers)
        assert ended.code in (5, 30), ended.said
        assert "Traceback" not in ended.said
        told = [line.removeprefix("ERROR: ") for line in ended.err.splitlines() if not line.startswith(USUAL)]
        assert told, "each task that met the full disk says so, and nothing else is said"
        assert all(line.startswith("There is no space left for the workspace") for line in told), ended.err
        assert all(line.endswith("start the same command again: it goes on where it stopped.") for line in told)
        assert_nothing_half_done(disk / "w", enough)

        change_disk(disk, f"size={PLENTY_KILOBYTES}k")
        ended = prepare(dump, disk / "w", workers=workers)
        assert ended.code == 0, ended.said
        assert digests(disk / "w" / "released") == digests(enough / "released")
        assert digests(disk / "w" / "identified" / "sorted") == digests(enough / "identified" / "sorted")
        for name in ("rejects", "duplicates", "conflicts", "quarantine"):
            assert rows_of(disk / "w", name) == rows_of(enough, name)
        assert unfinished(disk / "w") == []


def test_room_that_is_made_in_time_is_used(dump: Path, tmp_path: Path) -> None:
    """A full disk is a fault that may pass, so it is met once more before the run gives up."""
    assert luigi("SortStudy", "--dump", dump, "--workspace", tmp_path / "w", cwd=tmp_path).code == 0
    needed = kilobytes_of(tmp_path / "w")
    with tiny_disk(tmp_path / "disk", kilobytes=needed + 4096) as disk:
        # Too little by half of the largest image, which is placed last: the log of the fault still finds room.
        (disk / "filler").write_bytes(bytes((4096 + 500) * 1024))
        words = luigi_words("SortStudy", "--dump", dump, "--workspace", disk / "w")
        with started(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            wait_until(lambda: faults_of(disk / "w") != "" or process.poll() is not None, what="the disk to be full")
            (disk / "filler").unlink()
            said = process.communicate(timeout=60)[0].decode()
        assert process.returncode == 0, said
        assert "There is no space left" not in said
        assert faults_of(disk / "w").count("\ntasks.errors.DiskFullError: ") == 1
        assert digests(disk / "w" / "identified" / "sorted") == digests(tmp_path / "w" / "identified" / "sorted")


@pytest.mark.parametrize("task", ["SortStudy", "PrepareReview"])
def test_a_disk_that_may_not_be_written_is_told_at_once(task: str, dump: Path, tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk") as disk:
        change_disk(disk, "ro")
        ended = luigi(task, "--dump", dump, "--workspace", disk / "w", cwd=tmp_path)
        assert ended.code == 5
        assert len(ended.err.splitlines()) == 1
        assert "cannot be written (read-only file system)" in ended.err


def test_a_workspace_that_may_no_longer_be_written_stays_as_it_is(dump: Path, enough: Path, tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", kilobytes=PLENTY_KILOBYTES) as disk:
        use_secret(disk / "w")
        assert prepare(dump, disk / "w", workers=1).code == 0
        change_disk(disk, "ro")
        ended = prepare(dump, disk / "w", workers=1)
        assert ended.code == 5
        assert len(ended.err.splitlines()) == 1
        assert "cannot be written" in ended.err
        assert scanward("doctor", "--workspace", disk / "w", "--dump", dump, cwd=tmp_path).code == 5
        # To look at what is there, nothing needs to be written.
        assert viewer("check", disk / "w" / "released" / "review" / "manifest.json", cwd=tmp_path).code in (0, 4)
        assert_nothing_half_done(disk / "w", enough)


def test_a_dump_on_a_disk_that_may_not_be_written_is_no_hindrance(dump: Path, tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", kilobytes=PLENTY_KILOBYTES) as disk:
        shutil.copytree(dump, disk / "dump")
        change_disk(disk, "ro")
        ended = luigi("DeidentifyStudy", "--dump", disk / "dump", "--workspace", tmp_path / "w", cwd=tmp_path)
        assert ended.code == 0, ended.said
        assert set(digests(tmp_path / "w" / "identified" / "sorted").values()) == set(digests(dump).values())
