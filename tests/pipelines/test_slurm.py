"""One study on a real Slurm of two nodes: the same bytes as on one host, whatever is killed or queued anew."""

from __future__ import annotations

import contextlib
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.pipelines.command import PROGRAMS, Ended, environment, scanward, use_secret, wait_until, write_study
from tests.pipelines.hosts import FEW_PORTIONS, Alone, assert_as_alone
from tests.pipelines.slurm import NODES, Cluster, slurm

SUBMIT = (str(PROGRAMS / "scanward"), "submit")
SIZE = "[cluster]\nnodes = 2\nworkers = 3\nmemory_gib = 1\n"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with slurm(tmp_path_factory.mktemp("slurm") / "cluster") as made:
        yield made


def study_of(alone: Alone, folder: Path, *, more: str = "") -> Path:
    """Write a study file whose work a cluster shares."""
    workspace = folder / "w"
    use_secret(workspace)
    return write_study(
        folder / "w.toml", dump=alone.dump, workspace=workspace, files=40, series=1, more=FEW_PORTIONS + SIZE + more
    )


def submit(cluster: Cluster, study: Path, *words: str) -> Ended:
    return cluster.run([*SUBMIT, "PrepareReview", "--study", str(study), *words], cwd=study.parent)


def job_of(ended: Ended) -> str:
    found = re.search(r"job (\d+)", ended.out)
    assert ended.code == 0, ended.said
    assert found is not None, ended.said
    return found.group(1)


def logs_of(workspace: Path, job: str) -> dict[str, str]:
    """Read the logs of a job's elements."""
    paths = (workspace / "identified" / "logs").glob(f"cluster-{job}-*.log")
    return {path.stem.rpartition("-")[2]: path.read_text("utf-8") for path in paths}


def wait_for_work(cluster: Cluster, workspace: Path, job: str) -> None:
    """Wait until the job has done a part of its work, or ended."""
    exported = workspace / "released" / "export"
    wait_until(lambda: any(exported.rglob("*.dcm")) or job not in cluster.jobs(), what="the job to work")


def assert_done(cluster: Cluster, alone: Alone, workspace: Path, job: str) -> None:
    """Wait for the end and check that the tree is whole, the log is readable and nothing is left over."""
    cluster.wait_for_end()
    logs = logs_of(workspace, job)
    assert set(logs) == {"0", "1"}
    for text in logs.values():
        assert text.rstrip().endswith("ends with code 0"), text
        assert "Traceback" not in text
        assert "scanward:" not in text, "the password"
    assert_as_alone(workspace, alone)
    assert [path.name for path in (workspace / "identified" / "cluster").iterdir()] == ["done"]


def test_a_cluster_makes_what_one_host_makes(alone: Alone, cluster: Cluster, tmp_path: Path) -> None:
    study = study_of(alone, tmp_path)
    ended = submit(cluster, study)
    job = job_of(ended)
    again = submit(cluster, study)
    assert again.lines_with(f"under way already, as job {job}"), again.said
    nodes: set[str] = set()

    def both_at_work() -> bool:
        nodes.update(node for _, node in cluster.elements(job).values() if node)
        return len(nodes) == 2 or job not in cluster.jobs()

    wait_until(both_at_work, what="both elements")
    assert_done(cluster, alone, tmp_path / "w", job)
    assert nodes == set(NODES)
    # Again, with nothing new; by then it is another job.
    following = job_of(submit(cluster, study))
    assert following != job
    assert_done(cluster, alone, tmp_path / "w", following)
    assert "(nothing new)" in logs_of(tmp_path / "w", following)["0"]


# --- what may befall it

POINTS = {"daemon": 20, "submitter": 20, "node": 3, "scheduler": 3, "requeue": 3, "time limit": 3}
"""What befalls the job, and at how many moments."""


def strike(blow: str, cluster: Cluster, alone: Alone, folder: Path, chance: random.Random) -> None:
    """Let something befall the job at a moment drawn by chance, and see that it ends as if nothing had."""
    study = study_of(alone, folder)
    workspace = folder / "w"
    if blow == "submitter":
        process = subprocess.Popen(
            [*SUBMIT, "PrepareReview", "--study", str(study)],
            cwd=folder,
            env=environment(cluster.env),
            stdout=subprocess.DEVNULL,
        )
        time.sleep(chance.uniform(0.1, 1.5))
        process.kill()
        process.wait()
    job = job_of(submit(cluster, study))
    assert cluster.jobs() == {job}
    time.sleep(chance.uniform(2, 3 + alone.seconds))
    node = chance.choice(NODES)
    if blow == "daemon":
        cluster.kill_daemon(node)
        time.sleep(1)
        cluster.start_node(node)
    elif blow == "node":
        cluster.lose_node(node)
        wait_until(lambda: lost(cluster, node) or not cluster.jobs(), what="the node to be missed")
        cluster.start_node(node)
    elif blow == "scheduler":
        for process in schedulers_of(workspace):
            process.send_signal(signal.SIGKILL)
    elif blow in ("requeue", "time limit"):
        element = chance.choice("01")
        # It may have ended by now.
        with contextlib.suppress(AssertionError):
            if blow == "requeue":
                cluster.ask("scontrol", "requeue", f"{job}_{element}")
            else:
                # What Slurm sends before the limit, which it counts in whole minutes.
                cluster.ask("scancel", "--batch", "--signal=USR1", f"{job}_{element}")
    assert_done(cluster, alone, workspace, job)


def lost(cluster: Cluster, node: str) -> bool:
    time.sleep(0.2)
    return "down" in cluster.ask("sinfo", "--noheader", f"--nodes={node}", "--format=%T")


def schedulers_of(workspace: Path) -> list[psutil.Process]:
    """Find the scheduler of a workspace's job."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if "scheduler" in words and str(workspace / "identified" / "cluster") in words:
                found.append(process)
    return found


@pytest.mark.parametrize("blow", ["node", "scheduler", "submitter", "time limit"])
def test_struck_at_a_moment(blow: str, cluster: Cluster, alone: Alone, tmp_path: Path) -> None:
    strike(blow, cluster, alone, tmp_path, random.Random(blow))


@pytest.mark.long
@pytest.mark.parametrize(
    ("blow", "number"), [(blow, number) for blow, points in POINTS.items() for number in range(points)]
)
def test_struck_at_many_moments(blow: str, number: int, cluster: Cluster, alone: Alone, tmp_path: Path) -> None:
    strike(blow, cluster, alone, tmp_path, random.Random(f"{blow} {number}"))


# --- what is asked of Slurm


def test_the_study_file_sizes_the_job(alone: Alone, tmp_path: Path) -> None:
    study = study_of(alone, tmp_path)
    text = study.read_text("utf-8").replace(
        SIZE, '[cluster]\nnodes = 7\nworkers = 16\nhours = 1.5\npartition = "mri"\noptions = ["--constraint=ib"]\n'
    )
    study.write_text(text, "utf-8")
    ended = scanward("submit", "SortStudy", "--study", study, "--dry-run", cwd=tmp_path)
    assert ended.code == 0, ended.said
    words = ended.out.split()
    asked = ("--array=0-6", "--cpus-per-task=16", "--time=90", "--partition=mri", "--constraint=ib", "SortStudy")
    assert set(asked) <= set(words)
    assert words[words.index("SortStudy") + 2] == "16"


def test_what_slurm_refuses_is_told_in_one_sentence(alone: Alone, cluster: Cluster, tmp_path: Path) -> None:
    study = study_of(alone, tmp_path, more='partition = "nowhere"\n')
    ended = submit(cluster, study)
    assert ended.code == 22
    assert ended.lines_with("Slurm's sbatch refuses: "), ended.said
    assert len(ended.said.splitlines()) == 1, ended.said
    assert cluster.jobs() == set()


def test_without_slurm_it_is_said_what_is_missing(alone: Alone, tmp_path: Path) -> None:
    study = study_of(alone, tmp_path)
    ended = scanward("submit", "SortStudy", "--study", study, cwd=tmp_path, env={"PATH": "/nonexistent"})
    assert ended.code == 22
    assert ended.lines_with("Slurm's squeue is not on this host"), ended.said
