"""A real Slurm of two nodes on one machine: its own munge, controller and node daemons, all in one folder."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.pipelines.command import Ended, environment, run, wait_until

NODES = ("n1", "n2")
_CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}
SlurmctldPort={controller_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SlurmdTimeout=10
KillWait=5
JobRequeue=1
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1,defer_batch
{nodes}
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A running Slurm."""

    folder: Path

    @property
    def env(self) -> dict[str, str]:
        """What a program needs to find it."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def ask(self, *words: object) -> str:
        """Ask one of Slurm's programs."""
        ended = subprocess.run(
            list(map(str, words)), check=False, capture_output=True, text=True, env=environment(self.env), timeout=60
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def run(self, command: list[str], *, cwd: Path, env: Mapping[str, str] | None = None) -> Ended:
        """Run a command as on a login node."""
        return run(command, cwd=cwd, env=self.env | dict(env or {}))

    def elements(self, job: str) -> dict[str, tuple[str, str]]:
        """Return the state and the node of each element that waits or runs."""
        told = self.ask("squeue", "--noheader", "--array", f"--job={job}", "--format=%K %T %N").splitlines()
        rows = [line.split(" ") for line in told]
        return {row[0]: (row[1], row[2]) for row in rows if len(row) == 3}

    def jobs(self) -> set[str]:
        """Name the jobs that wait or run."""
        return set(self.ask("squeue", "--noheader", "--format=%F").split())

    def wait_for_end(self) -> None:
        """Wait until no job waits or runs."""
        wait_until(lambda: not self.jobs(), what="the queue to be empty")

    def start_node(self, name: str) -> None:
        """Start a node's daemon."""
        self.ask("slurmd", "-f", self.folder / "slurm.conf", "-N", name)

    def kill_daemon(self, name: str) -> None:
        """Kill a node's daemon alone; what runs on the node goes on."""
        os.kill(self._daemon(name).pid, signal.SIGKILL)

    def lose_node(self, name: str) -> None:
        """Have a node gone with all that runs on it."""
        self.kill_daemon(name)
        for process in _processes_with(f"{self.folder}", name):
            # The manager first: it would tell the controller that its job has failed, which a dead node does not.
            for member in [process, *process.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()

    def _daemon(self, name: str) -> psutil.Process:
        return psutil.Process(int((self.folder / f"slurmd-{name}.pid").read_text()))


def _processes_with(folder: str, node: str) -> list[psutil.Process]:
    """List the step managers of a node: each belongs to one job and outlives the daemon."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name() != "slurmstepd":
                continue
            for child in process.children():
                words = child.environ()
                if words.get("SLURMD_NODENAME") == node and words.get("SLURM_CONF", "").startswith(folder):
                    found.append(process)
                    break
    return found


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("", 0))
        return [probe.getsockname()[1] for probe in probes]


@contextlib.contextmanager
def slurm(folder: Path, *, processors: int = 4) -> Iterator[Cluster]:
    """Start a Slurm of two nodes that pretend to have some processors; nothing of it is left afterwards."""
    for program in ("munged", "slurmctld", "slurmd", "sbatch"):
        assert shutil.which(program), f"{program} is not installed: see .ci/debian-packages.txt"
    (folder / "state").mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    host = os.uname().nodename.partition(".")[0]
    controller_port, *ports = _free_ports(1 + len(NODES))
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={host} Port={port} CPUs={processors} RealMemory=64000 State=UNKNOWN"
        for name, port in zip(NODES, ports, strict=True)
    )
    (folder / "slurm.conf").write_text(
        _CONFIGURATION.format(host=host, folder=folder, controller_port=controller_port, nodes=nodes)
    )
    cluster = Cluster(folder=folder)
    files = {"socket": "munge.sock", "key-file": "munge.key", "pid-file": "munged.pid", "log-file": "munged.log"}
    words = [f"--{option}={folder / name}" for option, name in (files | {"seed-file": "munge.seed"}).items()]
    try:
        cluster.ask("munged", "--force", *words)
        cluster.ask("slurmctld", "-f", folder / "slurm.conf")
        for name in NODES:
            cluster.start_node(name)
        wait_until(lambda: _idle(cluster) == len(NODES), what="both nodes to be idle", seconds=60)
        yield cluster
    finally:
        _end(cluster)


def _idle(cluster: Cluster) -> int:
    time.sleep(0.1)
    try:
        told = cluster.ask("sinfo", "--noheader", "--states=idle", "--format=%D").split()
    except AssertionError:
        return 0
    return sum(map(int, told))


def _end(cluster: Cluster) -> None:
    with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
        for job in cluster.jobs():
            cluster.ask("scancel", "--signal=KILL", "--full", job)
    for name in NODES:
        for process in _processes_with(str(cluster.folder), name):
            for member in [*process.children(recursive=True), process]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()
    for pid_file in cluster.folder.glob("*.pid"):
        with contextlib.suppress(ValueError, ProcessLookupError, OSError):
            os.kill(int(pid_file.read_text()), signal.SIGKILL)
