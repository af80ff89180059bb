"""The scheduler of a cluster's job: who has the password and the certificate is served, and nobody else."""

from __future__ import annotations

import base64
import configparser
import ssl
import stat
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.builders.world import make_dump
from tests.pipelines.command import PROGRAMS, luigi, scanward, started, wait_until


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A scheduler that runs."""

    folder: Path
    process: subprocess.Popen[bytes]
    said: Path

    @property
    def address(self) -> urllib.parse.SplitResult:
        """Where it is, with name and password."""
        known = configparser.ConfigParser(interpolation=None)
        known.read(self.folder / "luigi.cfg")
        return urllib.parse.urlsplit(known["core"]["default-scheduler-url"])

    @property
    def env(self) -> dict[str, str]:
        """What a worker needs to find and to trust it."""
        certificate = str(self.folder / "certificate.pem")
        return {
            "LUIGI_CONFIG_PATH": str(self.folder / "luigi.cfg"),
            "SSL_CERT_FILE": certificate,
            "REQUESTS_CA_BUNDLE": certificate,
        }


@contextmanager
def scheduler(folder: Path, *, idle: float = 60) -> Iterator[Served]:
    words = [str(PROGRAMS / "scanward"), "scheduler", "--folder", str(folder), "--address", "127.0.0.1"]
    said = folder.with_suffix(".log")
    with (
        said.open("wb") as log,
        started([*words, "--end-when-idle", str(idle)], cwd=folder.parent, stdout=log, stderr=log) as process,
    ):
        wait_until((folder / "luigi.cfg").exists, what="the scheduler to listen")
        yield Served(folder=folder, process=process, said=said)


def ask(served: Served, *, password: str, trusted: bool = True) -> int:
    """Ask for the list of tasks; return the answer's code."""
    context = ssl.create_default_context(cafile=served.folder / "certificate.pem") if trusted else None
    where = f"https://127.0.0.1:{served.address.port}/api/task_list"
    request = urllib.request.Request(where, data=b"data={}")
    request.add_header("Authorization", "Basic " + base64.b64encode(f"scanward:{password}".encode()).decode())
    try:
        with urllib.request.urlopen(request, context=context, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as fault:
        return fault.code


def test_only_who_knows_the_password_is_served(tmp_path: Path) -> None:
    with scheduler(tmp_path / "shared") as served:
        password = served.address.password or ""
        assert len(password) >= 32
        assert ask(served, password=password) == 200
        for wrong in ("", "x", password[:-1], password + "x"):
            assert ask(served, password=wrong) == 401
        with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
            ask(served, password=password, trusted=False)
        assert stat.S_IMODE(served.folder.stat().st_mode) == 0o700
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in served.folder.iterdir()}
        assert modes == {"luigi.cfg": 0o600, "certificate.pem": 0o600}
        assert password not in served.said.read_text()


def test_workers_find_it_and_it_ends_when_nobody_asks(tmp_path: Path) -> None:
    make_dump(tmp_path / "dump")
    with scheduler(tmp_path / "shared", idle=2) as served:
        password = served.address.password or ""
        study = ("--dump", tmp_path / "dump", "--workspace", tmp_path / "w")
        ended = luigi("SortStudy", *study, cwd=tmp_path, env=served.env)
        assert ended.code == 0, ended.said
        assert password not in ended.said
        assert served.process.wait(timeout=60) == 0
        assert list(served.folder.iterdir()) == []
    # Its address is of no use any more, and what is said of that does not hold the password.
    (tmp_path / "shared" / "luigi.cfg").write_text(
        f"[core]\ndefault-scheduler-url = https://scanward:{password}@127.0.0.1:1/\nrpc-retry-attempts = 1\n"
    )
    ended = luigi("SortStudy", *study, cwd=tmp_path, env={"LUIGI_CONFIG_PATH": str(tmp_path / "shared" / "luigi.cfg")})
    assert ended.code in (0, 40)
    assert password not in ended.said


def test_an_address_that_is_not_ours_is_told_in_one_sentence(tmp_path: Path) -> None:
    ended = scanward("scheduler", "--folder", tmp_path / "shared", "--address", "192.0.2.77", cwd=tmp_path)
    assert ended.code == 2
    assert ended.lines_with("Nobody can listen on 192.0.2.77"), ended.said
    assert not (tmp_path / "shared" / "luigi.cfg").exists()
