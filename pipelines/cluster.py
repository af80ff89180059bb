"""Hand a study to Slurm: `scanward submit`. Slurm only starts workers; who does what, Luigi's scheduler decides."""

from __future__ import annotations

import argparse
import importlib.resources
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from pipelines.base import load_study
from tasks.config import ClusterSettings
from tasks.errors import ClusterError
from tasks.files import make_folder

_SCRIPT = "scanward.sbatch"
_ASK_SECONDS = 60
_SECONDS_TO_SAY_GOODBYE = 60


def submit(options: argparse.Namespace) -> int:
    """Queue a job array that does a task of a study, unless one of this workspace is queued already."""
    settings, place = load_study(options.study, None, None)
    script = str(importlib.resources.files("pipelines") / _SCRIPT)
    job_name = f"scanward-{place.key}"
    study = Path(options.study or "study.toml").resolve()
    folder = place.identified / "cluster"
    command = [
        "sbatch",
        "--parsable",
        f"--job-name={job_name}",
        # A percent sign begins a field (sbatch, "filename pattern").
        f"--output={str(place.logs).replace('%', '%%')}/cluster-%A-%a.log",
        *_asked_of_slurm(settings.cluster),
        script,
        str(Path(sys.executable).parent),
        options.task,
        str(study),
        str(settings.cluster.workers),
        str(folder),
    ]
    if options.dry_run:
        sys.stdout.write(shlex.join(command) + "\n")
        return 0
    make_folder(folder, mode=0o700)
    if job := _queued(job_name):
        sys.stdout.write(f"It is under way already, as job {job}. {_how_to_look(study, job)}\n")
        return 0
    job = _ask(command).strip().partition(";")[0]
    sys.stdout.write(
        f"Queued as job {job}: {settings.cluster.nodes} x {settings.cluster.workers} workers. "
        f"{_how_to_look(study, job)}\nLog: {place.logs}/cluster-{job}-*.log\n"
    )
    return 0


def _asked_of_slurm(cluster: ClusterSettings) -> list[str]:
    minutes = max(2, round(cluster.hours * 60))
    asked = [
        f"--array=0-{cluster.nodes - 1}",
        "--ntasks=1",
        f"--cpus-per-task={cluster.workers}",
        f"--mem={cluster.memory_gib}G",
        f"--time={minutes}",
        f"--signal=B:USR1@{_SECONDS_TO_SAY_GOODBYE}",
        "--requeue",
        "--open-mode=append",
    ]
    if cluster.partition:
        asked.append(f"--partition={cluster.partition}")
    if cluster.account:
        asked.append(f"--account={cluster.account}")
    return asked + list(cluster.options)


def _queued(job_name: str) -> str:
    """Name the job of that name which waits or runs: it may have been submitted by a command that was cut off."""
    known = _ask(["squeue", "--me", "--noheader", f"--name={job_name}", "--format=%F"]).split()
    return known[0] if known else ""


def _how_to_look(study: Path, job: str) -> str:
    return f"scanward status --study {shlex.quote(str(study))} tells how far it is; scancel {job} stops it."


def _ask(command: list[str]) -> str:
    program = command[0]
    if shutil.which(program) is None:
        remedy = "Submit from a login node of the cluster, or start the workers by hand (README, Growing)"
        raise ClusterError(problem=f"Slurm's {program} is not on this host", remedy=remedy)
    try:
        ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_ASK_SECONDS)
    except subprocess.TimeoutExpired as fault:
        raise ClusterError(
            problem=f"Slurm's {program} does not answer", remedy="See whether slurmctld runs (sinfo), and try again"
        ) from fault
    if ended.returncode:
        said = " ".join(ended.stderr.split()).rstrip(".") or f"code {ended.returncode}"
        remedy = "Look at [cluster] in the study file; nothing was queued"
        raise ClusterError(problem=f"Slurm's {program} refuses: {said}", remedy=remedy)
    return ended.stdout
