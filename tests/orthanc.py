"""Run a real Orthanc with a configuration and a storage of its own, send it files by C-STORE, and ask what it shows."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.pipelines.command import DEADLINE_SECONDS, run, started, wait_until

SENDER = "SENDER"
"""Application entity title of the only modality that the server takes files from, and from this machine alone."""

TITLE = "ORTHANC"

_SENT = re.compile(r"^Filename +: (?P<file>[^\n]*)$.*?^DIMSE Status +: (?P<status>[^\n]*)$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Orthanc:
    """A running server."""

    url: str
    dicom_port: int

    def read(self, path: str) -> bytes:
        """Get what its REST interface answers to a path."""
        with urllib.request.urlopen(f"{self.url}/{path}", timeout=DEADLINE_SECONDS) as answer:
            return answer.read()

    def ask(self, path: str) -> Any:
        """Get an answer in JSON."""
        return json.loads(self.read(path))

    def store(self, dcmsend: str, files: Iterable[Path], folder: Path) -> dict[Path, str]:
        """Send files by C-STORE, each in the transfer syntax that it is in.

        Parameters
        ----------
        dcmsend
            The program of DCMTK.
        folder
            Where the program may leave its report.

        Returns
        -------
        The server's status of each file that it got, such as `0x0000 (Success)` (PS3.4 B.2.3).
        """
        report = folder / f"sent-to-{self.dicom_port}.txt"
        words = [dcmsend, "--no-halt", "--decompress-never", "--create-report-file", report]
        words += ["--aetitle", SENDER, "--call", TITLE, "127.0.0.1", self.dicom_port, *files]
        ended = run([str(word) for word in words], cwd=folder)
        assert ended.code == 0, ended.said
        return {Path(sent["file"]): sent["status"] for sent in _SENT.finditer(report.read_text())}


@contextlib.contextmanager
def orthanc(program: str, folder: Path) -> Iterator[Orthanc]:
    """Start a server that keeps everything in a new folder; it is killed on the way out, however that comes."""
    folder.mkdir()
    http_port, dicom_port = _free_ports(2)
    configuration = {
        "Name": str(folder),
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "SyncStorageArea": False,  # nothing of it has to outlive the machine
        "TemporaryDirectory": str(folder),
        "Plugins": [],
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAet": TITLE,
        "DicomPort": dicom_port,
        "DicomCheckCalledAet": True,
        "DicomCheckModalityHost": True,
        "DicomAlwaysAllowStore": False,
        "DicomModalities": {"sender": [SENDER, "127.0.0.1", 104]},
        "OverwriteInstances": False,
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(configuration))
    server = Orthanc(url=f"http://127.0.0.1:{http_port}", dicom_port=dicom_port)
    with (
        (folder / "said").open("wb") as said,
        started([program, str(path)], cwd=folder, stdout=said, stderr=subprocess.STDOUT) as process,
    ):
        is_there = functools.partial(_answers, server, str(folder))
        wait_until(lambda: process.poll() is not None or is_there(), what="Orthanc to answer")
        assert process.poll() is None, (folder / "said").read_text()
        yield server


def _answers(server: Orthanc, name: str) -> bool:
    """Tell whether the server answers, and is the one of this name."""
    try:
        return server.ask("system")["Name"] == name
    except (urllib.error.URLError, ConnectionError):
        return False


def _free_ports(count: int) -> list[int]:
    """Find ports on loopback that nobody listens at; all are held until the last is found, so that they differ."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
