"""Several hosts on one: processes and host names of their own, in namespaces, over one shared folder."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import REPOSITORY
from tests.pipelines.command import (
    DEADLINE_SECONDS,
    CentralScheduler,
    Ended,
    central_scheduler,
    digests,
    kill_group,
    luigi_words,
    started,
    unfinished,
    write_study,
)

SHIPPED = REPOSITORY / "configs" / "luigid" / "luigi.cfg"
"""The scheduler's options as we ship them."""

FEW_PORTIONS = "[hosts]\nportions = 8\nstorage_seconds = 20\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """What one host makes of a dump."""

    dump: Path
    sorted_tree: dict[str, str]
    released: dict[str, str]
    seconds: float


def made_of(workspace: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Digest what a person sees of a workspace: the sorted tree, and everything that is released."""
    return digests(workspace / "identified" / "sorted"), digests(workspace / "released")


def assert_as_alone(workspace: Path, alone: Alone) -> None:
    """Check that nothing is lost, doubled, different or left over."""
    sorted_tree, released = made_of(workspace)
    assert sorted_tree == alone.sorted_tree
    assert released == alone.released
    assert unfinished(workspace) == []
    assert list((workspace / "identified" / "plans").iterdir()) == []
    assert not list((workspace / "identified").glob("*-wal"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A worker that runs on a host of its own."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def kill(self) -> None:
        """Have the host gone, at once and with all that runs on it."""
        kill_group(self.process)

    def signal(self, number: int) -> None:
        """Send a signal to all that runs on it."""
        os.killpg(self.process.pid, number)

    def end(self) -> Ended:
        """Wait until its command ends."""
        code = self.process.wait(timeout=DEADLINE_SECONDS)
        return Ended(code=code, out="", err=self.said)

    @property
    def said(self) -> str:
        """What its command has written."""
        return self.log.read_text("utf-8", "replace")


@contextlib.contextmanager
def host(name: str, words: list[str], *, cwd: Path, before: str = "") -> Iterator[Host]:
    """Start a command on a new host of that name; `before` are words of a shell that run there first."""
    script = f'hostname {name}; {before or ":"}; exec "$@"'
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts", "sh", "-c", script, "sh", *words]
    log = cwd / f"{name}.log"
    with log.open("ab") as said, started(command, cwd=cwd, stdout=said, stderr=subprocess.STDOUT) as process:
        yield Host(name=name, process=process, log=log)


@contextlib.contextmanager
def shared_scheduler(folder: Path) -> Iterator[CentralScheduler]:
    """Start a `luigid` with the options that we ship."""
    with central_scheduler(folder, env={"LUIGI_CONFIG_PATH": str(SHIPPED)}) as scheduler:
        yield scheduler


def words_for(task: str, dump: Path, workspace: Path, *, scheduler: str, more: str = "", workers: int = 1) -> list[str]:
    """Spell out a command for one of several hosts; its chunks are small, so that all have some."""
    study = write_study(
        workspace.with_suffix(".toml"), dump=dump, workspace=workspace, files=40, series=1, more=FEW_PORTIONS + more
    )
    return luigi_words(task, "--study", study, "--workers", workers, "--scheduler-url", scheduler)


def who_did(scheduler: CentralScheduler, stage: str) -> set[str]:
    """Name the hosts that did portions of a stage."""
    runners = [
        str(facts["worker_running"])
        for facts in scheduler.tasks().values()
        if facts["name"] == "DoPortion" and facts["params"]["stage"] == stage
    ]
    return {word.partition("=")[2] for runner in runners for word in runner.split(", ") if word.startswith("host=")}


def stop(one: Host) -> None:
    """Have a host stand still, as one does whose network or power is away for a while."""
    one.signal(signal.SIGSTOP)


def go_on(one: Host) -> None:
    """Have a host that stood still go on."""
    one.signal(signal.SIGCONT)
