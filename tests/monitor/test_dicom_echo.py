"""What a PACS or scanner answers is told apart, against real ones."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.monitor.dicom_echo import VERDICTS, echo
from tests.monitor.chaos import serve
from tests.monitor.sshd import free_port
from tests.orthanc import SENDER, TITLE, Orthanc, orthanc

STEP_S = 3.0


@pytest.fixture(scope="module")
def archive(program: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with orthanc(program("Orthanc"), tmp_path_factory.mktemp("archive") / "orthanc") as running:
        yield running


@contextlib.contextmanager
def storescp(program: Callable[[str], str], folder: Path, *words: str) -> Iterator[int]:
    """Run DCMTK's receiver; give its port."""
    port = free_port()
    with subprocess.Popen([program("storescp"), *words, "-od", folder, str(port)], stderr=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + 20
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield port
        finally:
            server.kill()


def test_an_archive_answers_with_its_version(archive: Orthanc) -> None:
    found = echo("127.0.0.1", archive.dicom_port, called=TITLE, calling=SENDER, with_find=True, step_s=STEP_S)
    assert found.verdict == "ok"
    assert found.latency_s is not None
    assert "OFFIS_DCMTK" in found.version


def test_who_is_called_by_a_wrong_name_says_so(archive: Orthanc) -> None:
    found = echo("127.0.0.1", archive.dicom_port, called="WRONG", calling=SENDER, step_s=STEP_S)
    assert (found.verdict, found.may_pass) == ("rejected", False)
    assert found.detail == "called AE title not recognized, by its user"


def test_who_answers_anybody_and_lets_nobody_ask_is_found_out(archive: Orthanc) -> None:
    port = archive.dicom_port
    assert echo("127.0.0.1", port, called=TITLE, calling="STRANGER", step_s=STEP_S).verdict == "ok"
    asked = echo("127.0.0.1", port, called=TITLE, calling="STRANGER", with_find=True, step_s=STEP_S)
    assert asked.verdict == "find-refused"


def test_a_receiver_without_queries(program: Callable[[str], str], tmp_path: Path) -> None:
    with storescp(program, tmp_path) as port:
        assert echo("127.0.0.1", port, called="ANY", calling="ME", step_s=STEP_S).verdict == "ok"
        asked = echo("127.0.0.1", port, called="ANY", calling="ME", with_find=True, step_s=STEP_S)
        assert (asked.verdict, asked.detail) == ("find-refused", "it does not offer the study root model")


def test_who_refuses_everybody(program: Callable[[str], str], tmp_path: Path) -> None:
    port = free_port()
    with subprocess.Popen(
        [program("storescp"), "--refuse", str(port)], cwd=tmp_path, stderr=subprocess.DEVNULL
    ) as server:
        try:
            found, deadline = None, time.monotonic() + 20
            # It takes a moment to start, and ends with its first refusal.
            while found is None or (found.verdict == "no-answer" and time.monotonic() < deadline):
                time.sleep(0.1)
                found = echo("127.0.0.1", port, called="ANY", calling="ME", step_s=STEP_S)
            assert (found.verdict, found.detail) == ("rejected", "no reason given, by its user")
        finally:
            server.kill()


def _aborts(sock: socket.socket) -> None:
    sock.recv(1 << 16)
    sock.sendall(bytes([7, 0, 0, 0, 0, 4, 0, 0, 2, 0]))  # A-ABORT by the provider; PS3.8, section 9.3.8
    sock.recv(1 << 16)


def _is_busy(sock: socket.socket) -> None:
    sock.recv(1 << 16)
    sock.sendall(bytes([3, 0, 0, 0, 0, 4, 0, 2, 3, 1]))  # A-ASSOCIATE-RJ: transient, congestion; section 9.3.4
    sock.recv(1 << 16)


def _is_a_web_server(sock: socket.socket) -> None:
    sock.recv(1 << 16)
    sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def _says_nothing(sock: socket.socket) -> None:
    while sock.recv(1 << 16):
        pass


@pytest.mark.parametrize(
    ("act", "verdict", "may_pass"),
    [
        (_aborts, "aborted", True),
        (_is_busy, "rejected", True),
        (_is_a_web_server, "no-answer", True),
        (_says_nothing, "no-answer", True),
        (lambda sock: None, "no-answer", True),
    ],
)
def test_what_is_not_an_answer(act: Callable[[socket.socket], None], verdict: str, *, may_pass: bool) -> None:
    with serve(act) as port:
        begun = time.monotonic()
        found = echo("127.0.0.1", port, called="ANY", calling="ME", step_s=1.5)
        assert time.monotonic() - begun < 6
    assert (found.verdict, found.may_pass) == (verdict, may_pass)
    assert found.verdict in VERDICTS


def test_no_thread_of_it_is_left(archive: Orthanc) -> None:
    before = threading.active_count()
    for called in (TITLE, "WRONG"):
        echo("127.0.0.1", archive.dicom_port, called=called, calling=SENDER, step_s=STEP_S)
    deadline = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() <= before
