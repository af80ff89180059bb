"""What every test module may ask for: the scanners' real files, and programs that are not Python's."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

IN_CI = os.environ.get("CI") == "true"


def _cannot_run(reason: str) -> NoReturn:
    """Skip where a clone stands alone; fail where every test has to run."""
    if IN_CI:
        pytest.fail(f"{reason} (CI=true: no test may be left out)", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def scanner_data() -> Path:
    """Give the folder with the unpacked archives of real scanner files; never write into it.

    It is what SCANWARD_TEST_DATA names, or else the archives of `../shared/data` beside the repository, unpacked once a
    user into the cache folder.
    """
    named = os.environ.get("SCANWARD_TEST_DATA")
    if named:
        if not Path(named).is_dir():
            pytest.fail(f"SCANWARD_TEST_DATA names {named}, which is no folder", pytrace=False)
        return Path(named)

    unpack = REPOSITORY.parent / "shared" / "data" / "unpack"
    if not unpack.is_file():
        _cannot_run(
            "real scanner files are not here: name a folder that holds them in SCANWARD_TEST_DATA, "
            "or keep the archives in ../shared/data beside the repository"
        )
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scanward-test-data"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the other pytest workers wait here until the first has unpacked
        done = subprocess.run(["bash", str(unpack), str(cache)], capture_output=True, text=True, check=False)
    if done.returncode != 0 and shutil.which("xz") is None:
        _cannot_run("the scanner archives cannot be unpacked: the program xz is not installed")
    if done.returncode != 0:
        pytest.fail(f"the scanner archives could not be unpacked: {done.stderr.strip()}", pytrace=False)
    return cache


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """Give a function that finds a program of `.ci/debian-packages.txt` by name, such as `program("dciodvfy")`."""

    def find(name: str) -> str:
        # Servers stand in /usr/sbin, which is not in everybody's PATH.
        path = shutil.which(name) or shutil.which(name, path="/usr/sbin")
        if path is None:
            _cannot_run(f"the program {name} is not installed; .ci/debian-packages.txt names its package")
        return path

    return find


@pytest.fixture(scope="session")
def dcm2niix() -> str:
    """Find the converter that most of the field uses; its wheel puts the program beside the interpreter's."""
    path = shutil.which("dcm2niix", path=os.pathsep.join((sysconfig.get_path("scripts"), os.environ["PATH"])))
    if path is None:
        _cannot_run("the program dcm2niix is not installed; it is in the extra `test`")
    return path


def _skipped(session: pytest.Session) -> int:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    return len(reporter.stats.get("skipped", [])) if reporter else 0


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """In CI a skipped test is a failed run, whatever the reason it gives."""
    if IN_CI and exitstatus == pytest.ExitCode.OK and _skipped(session):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say why a run without a failed test is red."""
    if IN_CI and terminalreporter.stats.get("skipped"):
        terminalreporter.write_line("CI=true: no test may be left out, and the ones listed as SKIPPED were.", red=True)
