"""Run the installed commands as a person or a scheduler does, and read what they leave behind."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tasks.files import TEMPORARY_PREFIX
from tasks.lists import read_list
from tasks.workspace import EXPORT_PAPERS

PROGRAMS = Path(sys.executable).parent
"""Where the scripts `luigi`, `luigid` and `scanward` of this environment stand."""

DEADLINE_SECONDS = 300
"""Nothing that these tests start takes half of it; a program that hangs ends here, and so does its test."""

_NOT_INHERITED = ("LUIGI_CONFIG_PATH", "PYTHONPATH", "PYTHONWARNINGS", "SCANWARD_TEST_DATA", "COLUMNS", "TERM")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A command that has ended: its code, and all it wrote."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """Everything written, on both streams."""
        return self.out + self.err

    def lines_with(self, text: str) -> list[str]:
        """List the lines that hold a text."""
        return [line for line in self.said.splitlines() if text in line]


def luigi_words(*words: object) -> list[str]:
    """Spell out a `luigi --module pipelines ...` command."""
    return [str(PROGRAMS / "luigi"), "--module", "pipelines", *map(str, words)]


def luigi(*words: object, cwd: Path, env: Mapping[str, str] | None = None) -> Ended:
    """Run `luigi --module pipelines WORDS` to its end."""
    return run(luigi_words(*words), cwd=cwd, env=env)


WITHOUT_ROOTS_RIGHTS = """
import ctypes, os, sys
for right in (1, 2):  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: what lets root pass by the modes (capabilities(7))
    if ctypes.CDLL(None).prctl(24, right, 0, 0, 0):  # PR_CAPBSET_DROP
        sys.exit("the rights of root cannot be given up")
os.execv(sys.argv[1], sys.argv[1:])
"""


def of_anybody(command: list[str]) -> list[str]:
    """Make of a command one that runs as somebody for whom modes count, which they do not for root."""
    return [sys.executable, "-c", WITHOUT_ROOTS_RIGHTS, *command] if os.geteuid() == 0 else command


def scanward(*words: object, cwd: Path, env: Mapping[str, str] | None = None) -> Ended:
    """Run `scanward WORDS` to its end."""
    return run([str(PROGRAMS / "scanward"), *map(str, words)], cwd=cwd, env=env)


def viewer(*words: object, cwd: Path) -> Ended:
    """Run `python -m viewer WORDS` to its end."""
    return run([sys.executable, "-m", "viewer", *map(str, words)], cwd=cwd)


def run(command: list[str], *, cwd: Path, env: Mapping[str, str] | None = None) -> Ended:
    """Run a command to its end; it and everything it started is ended when the deadline passes."""
    with started(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        out, err = process.communicate(timeout=DEADLINE_SECONDS)
    return Ended(code=process.returncode, out=out.decode("utf-8", "replace"), err=err.decode("utf-8", "replace"))


@contextlib.contextmanager
def started(
    command: list[str], *, cwd: Path, env: Mapping[str, str] | None = None, **streams: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command in a process group of its own; the whole group is ended on the way out, however that comes."""
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment(env),
        stdin=streams.pop("stdin", subprocess.DEVNULL),
        start_new_session=True,
        **streams,
    )
    try:
        yield process
    finally:
        kill_group(process)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Send SIGKILL to a process and to all it started, and wait until none of them is left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()

    wait_until(lambda: not members_of_group(process.pid), what="the process group to end")


def members_of_group(group: int) -> list[psutil.Process]:
    """List the living processes of a group; one that is dead and was not yet asked for its code is none."""
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process)
    return members


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Make the environment of a plain shell, without what this test run may have set for itself."""
    return {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED} | dict(more or {})


def wait_until(condition: Callable[[], bool], *, what: str, seconds: float = DEADLINE_SECONDS) -> None:
    """Look again and again until something holds; fail when the deadline passes."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.005)


@dataclass(frozen=True, slots=True, kw_only=True)
class CentralScheduler:
    """A running `luigid`."""

    url: str
    folder: Path
    """Where it keeps its state and its log."""
    process: subprocess.Popen[bytes]

    def ask(self, call: str, **words: object) -> Any:
        """Ask its API, as its web page does."""
        query = urllib.parse.urlencode({"data": json.dumps(words)})
        with urllib.request.urlopen(f"{self.url}/api/{call}?{query}", timeout=DEADLINE_SECONDS) as answer:
            return json.loads(answer.read())["response"]

    def tasks(self) -> dict[str, dict[str, Any]]:
        """List the tasks it knows."""
        return self.ask("task_list", status="", upstream_status="")


@contextlib.contextmanager
def central_scheduler(
    folder: Path, *, port: int = 0, env: Mapping[str, str] | None = None
) -> Iterator[CentralScheduler]:
    """Start a `luigid` on loopback, with state and log in a folder; in the end it is asked to save its state."""
    folder.mkdir(exist_ok=True)
    if not port:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    words = [str(PROGRAMS / "luigid"), "--address", "127.0.0.1", "--port", str(port)]
    words += ["--state-path", str(folder / "state"), "--logdir", str(folder)]
    with (
        (folder / "said").open("wb") as said,
        started(words, cwd=folder, env=env, stdout=said, stderr=subprocess.STDOUT) as process,
    ):
        wait_until(lambda: process.poll() is not None or _answers(port), what="luigid to answer")
        assert process.poll() is None, (folder / "said").read_text()
        yield CentralScheduler(url=f"http://127.0.0.1:{port}", folder=folder, process=process)
        process.terminate()
        process.wait(timeout=DEADLINE_SECONDS)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def write_study(
    path: Path, *, dump: Path, workspace: Path, files: int = 2000, series: int = 20, more: str = ""
) -> Path:
    """Write a study file; `files` is the size of the first two stages' chunks, `series` that of the last's."""
    path.write_text(
        f"dump = {json.dumps(str(dump))}\nworkspace = {json.dumps(str(workspace))}\n{more}\n"
        f"[chunks]\nindex_files = {files}\nplace_files = {files}\nexport_instances = {files}\n"
        f"review_series = {series}\n",
        "utf-8",
    )
    return path


def use_secret(workspace: Path, secret: bytes = bytes(range(64, 96))) -> None:
    """Give a workspace its secret before the first run, so that two workspaces can be compared byte by byte."""
    identified = workspace / "identified"
    identified.mkdir(parents=True, mode=0o700)
    path = identified / "secret"
    path.write_bytes(secret)
    path.chmod(0o600)


def digests(folder: Path) -> dict[str, str]:
    """Digest every file below a folder: relative path to SHA-256."""
    return {
        os.fspath(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def exported_images(workspace: Path) -> dict[str, str]:
    """Digest every exported image: path below the export to SHA-256. The report beside them is none."""
    found = digests(workspace / "released" / "export")
    return {name: digest for name, digest in found.items() if name not in EXPORT_PAPERS}


def with_members(dump: Path, workspace: Path) -> dict[str, str]:
    """Digest every file of a dump, and in the place of each zip that was opened the files in it."""
    found = digests(dump)
    for row in rows_of(workspace, "opened"):
        del found[row["file"]]
        with zipfile.ZipFile(dump / row["file"]) as archive:
            for name in archive.namelist():
                found[f"{row['file']}!/{name}"] = hashlib.sha256(archive.read(name)).hexdigest()
    return found


def contents(folder: Path) -> list[str]:
    """List the digests of every file below a folder, sorted."""
    return sorted(digests(folder).values())


def times(folder: Path) -> dict[str, int]:
    """List when every file below a folder was last written, in nanoseconds."""
    return {
        os.fspath(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()
    }


def unfinished(folder: Path) -> list[Path]:
    """List the temporary files below a folder."""
    return sorted(folder.rglob(f"{TEMPORARY_PREFIX}*"))


def rows_of(workspace: Path, name: str) -> list[dict[str, str]]:
    """Read one of the lists of what was set aside."""
    return read_list(workspace / "identified" / "lists" / f"{name}.tsv")


def counts_of(workspace: Path, stage: str) -> dict[str, int]:
    """Read a stage's counts from its receipt."""
    return json.loads((workspace / "identified" / "receipts" / f"{stage}.json").read_bytes())["counts"]


def faults_of(workspace: Path) -> str:
    """Read the log of faults, which tells them in full."""
    log = workspace / "identified" / "logs" / "faults.log"
    return log.read_text("utf-8") if log.exists() else ""
