"""A report reaches its readers: once, whole, over a verified line, and after hours if it must be."""

from __future__ import annotations

import email
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import MailError
from tasks.monitor.mail import (
    PAUSES_S,
    Attachment,
    Letter,
    Relay,
    compose,
    deliver,
    one_line,
    receipt_path,
    spool,
    waiting,
)
from tests.conftest import REPOSITORY
from tests.monitor.sshd import free_port

LETTER = Letter(
    name="2026-03-02",
    sender="watch@lab.example",
    recipients=("ann@lab.example", "bob@lab.example"),
    subject="[imaging] 1 down; 29/30 ok",
    text="1 machine is down: 台中 mri-1.\n.\n..hidden dots\n",
    html="<p>1 machine is <b>down</b>: 台中 mri-1.</p><img src='cid:disk'>",
    pictures={"disk": b"\x89PNG\r\n\x1a\n.\r\n.x"},
    attachments=(Attachment(name="findings.csv", kind="text/csv", content="a,b\n.\n,ü\n".encode()),),
    list_id="imaging.lab.example",
    sent_at=datetime(2026, 3, 2, 6, tzinfo=UTC),
)


class Box:
    """What a real SMTP server does with what it gets."""

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []
        self.recipients: list[list[str]] = []
        self.refuse: dict[str, str] = {}
        self.data_answers: list[str] = []

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if address in self.refuse:
            return self.refuse[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.data_answers:
            return self.data_answers.pop(0)
        message = email.message_from_bytes(envelope.content, policy=default)
        assert isinstance(message, EmailMessage)
        self.messages.append(message)
        self.recipients.append(list(envelope.rcpt_tos))
        return "250 OK"


class Clock:
    def __init__(self) -> None:
        self.now, self.slept = 0.0, []  # type: tuple[float, list[float]]

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def box() -> Box:
    return Box()


@pytest.fixture
def relay(box: Box) -> Iterator[Relay]:
    controller = Controller(box, hostname="127.0.0.1", port=free_port())
    controller.start()
    yield Relay(host="127.0.0.1", port=controller.port, security="plain")
    controller.stop()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificate")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder


def _deliver(message: Path, *relays: Relay, clock: Clock | None = None, patience_s: float = 6 * 3600) -> Any:
    clock = clock or Clock()
    return deliver(message, relays, patience_s=patience_s, sleep=clock.sleep, monotonic=clock)


def test_a_report_comes_whole(relay: Relay, box: Box, tmp_path: Path) -> None:
    message = spool(tmp_path, LETTER)
    receipt = _deliver(message, relay)
    assert set(receipt.accepted) == set(LETTER.recipients)
    (got,) = box.messages
    assert got["Subject"] == LETTER.subject
    assert got["Auto-Submitted"] == "auto-generated"
    assert got["List-Id"] == "<imaging.lab.example>"
    assert got["Date"].datetime == LETTER.sent_at
    assert got["Message-ID"] == "<2026-03-02@lab.example>"
    text, html = got.get_body(("plain",)), got.get_body(("html",))
    assert text is not None
    assert text.get_content().replace("\r\n", "\n") == LETTER.text
    assert html is not None
    assert "台中" in html.get_content()
    pictures = [part for part in got.walk() if part.get_content_type() == "image/png"]
    assert [(part["Content-ID"], part.get_content()) for part in pictures] == [("<disk>", LETTER.pictures["disk"])]
    (attached,) = got.iter_attachments()
    assert (attached.get_filename(), attached.get_payload(decode=True)) == (
        "findings.csv",
        LETTER.attachments[0].content,
    )
    assert max(len(line) for line in compose(LETTER).split(b"\r\n")) < 998
    assert compose(LETTER).isascii(), "any relay passes it on"
    assert compose(LETTER) == compose(LETTER)


def test_it_is_never_sent_twice(relay: Relay, box: Box, tmp_path: Path) -> None:
    message = spool(tmp_path, LETTER)
    first = _deliver(message, relay)
    assert _deliver(spool(tmp_path, replace(LETTER, subject="another")), relay) == first
    assert len(box.messages) == 1
    assert waiting(tmp_path) == []


def test_a_relay_that_is_down_for_hours_is_tried_again(box: Box, tmp_path: Path) -> None:
    controllers = []

    class Morning(Clock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if self.now > 5 * 3600 and not controllers:
                controllers.append(Controller(box, hostname="127.0.0.1", port=gone.port))
                controllers[0].start()

    gone = Relay(host="127.0.0.1", port=free_port(), security="plain")
    clock = Morning()
    try:
        receipt = _deliver(spool(tmp_path, LETTER), gone, clock=clock)
    finally:
        for one in controllers:
            one.stop()
    assert clock.slept[: len(PAUSES_S)] == list(PAUSES_S)
    assert len(box.messages) == 1
    assert receipt.tries == len(clock.slept) + 1


def test_if_it_stays_down_another_relay_takes_it_or_it_is_said(relay: Relay, box: Box, tmp_path: Path) -> None:
    gone = replace(relay, port=1)
    clock = Clock()
    assert _deliver(spool(tmp_path, LETTER), gone, relay, clock=clock).accepted == LETTER.recipients
    assert 5 * 3600 < clock.now <= 6 * 3600
    message = spool(tmp_path, replace(LETTER, name="next"))
    with pytest.raises(MailError, match="was taken by no relay"):
        _deliver(message, gone)
    assert waiting(tmp_path) == [message], "it is not forgotten"
    assert len(box.messages) == 1


def test_a_refused_address_is_noticed_and_the_others_get_it(relay: Relay, box: Box, tmp_path: Path) -> None:
    box.refuse["bob@lab.example"] = "550 no such user"
    receipt = _deliver(spool(tmp_path, LETTER), relay)
    assert (receipt.accepted, receipt.refused) == (("ann@lab.example",), {"bob@lab.example": 550})
    box.refuse["ann@lab.example"] = "550 no such user"
    with pytest.raises(MailError, match="every address was refused"):
        _deliver(spool(tmp_path, replace(LETTER, name="next")), relay)


def test_an_address_that_is_put_off_gets_it_later_and_nobody_twice(relay: Relay, box: Box, tmp_path: Path) -> None:
    box.refuse["bob@lab.example"] = "451 later"

    class Later(Clock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            box.refuse.clear()

    _deliver(spool(tmp_path, LETTER), relay, clock=Later())
    assert box.recipients == [["ann@lab.example"], ["bob@lab.example"]]
    assert {one["Message-ID"] for one in box.messages} == {"<2026-03-02@lab.example>"}


def test_a_fault_that_passes_is_waited_for_and_one_that_stays_is_not(relay: Relay, box: Box, tmp_path: Path) -> None:
    clock = Clock()
    box.data_answers = ["421 busy", "452 full"]
    _deliver(spool(tmp_path, LETTER), relay, clock=clock)
    assert clock.slept == list(PAUSES_S[:2])
    clock = Clock()
    box.data_answers = ["554 not wanted"]
    with pytest.raises(MailError, match="code 554"):
        _deliver(spool(tmp_path, replace(LETTER, name="next")), relay, clock=clock)
    assert clock.slept == []


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_the_line_is_verified(security: str, box: Box, certificate: Path, tmp_path: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")

    def login(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        logins.append((mechanism, data.login, data.password))
        return AuthResult(success=data.password == b"secret", handled=False)

    logins: list[tuple[str, bytes, bytes]] = []
    how: dict[str, Any] = (
        {"ssl_context": context} if security == "tls" else {"tls_context": context, "require_starttls": True}
    )
    controller = Controller(
        box,
        hostname="localhost",
        port=free_port(),
        authenticator=login,
        auth_require_tls=security == "starttls",
        **how,
    )
    controller.start()
    try:
        good = Relay(
            host="localhost",
            port=controller.port,
            security=security,  # type: ignore[arg-type]
            user="watch",
            password="secret",
            ca_file=certificate / "cert.pem",
        )
        _deliver(spool(tmp_path, LETTER), good)
        assert len(box.messages) == 1
        sent = len(logins)
        for name, bad, why in (
            ("unknown", replace(good, ca_file=None), "certificate"),
            ("other-name", replace(good, host="127.0.0.1"), "certificate"),
            ("password", replace(good, password="wrong"), "login"),
        ):
            with pytest.raises(MailError, match=why) as caught:
                _deliver(spool(tmp_path, replace(LETTER, name=name)), bad)
            assert "secret" not in str(caught.value)
            assert "wrong" not in str(caught.value)
        assert all(password != b"secret" for _, _, password in logins[sent:]), "no password over a line not verified"
        assert len(box.messages) == 1
    finally:
        controller.stop()


def test_without_starttls_nothing_goes_out(relay: Relay, box: Box, tmp_path: Path) -> None:
    with pytest.raises(MailError, match="STARTTLS"):
        _deliver(spool(tmp_path, LETTER), replace(relay, security="starttls"))
    assert box.messages == []


_KILLED = """
import os, smtplib, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from tasks.monitor import mail
from tests.monitor.test_mail import LETTER
left = [{at}]
def counted(act):
    def wrapped(*words, **more):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), 9)
        return act(*words, **more)
    return wrapped
for name in ("connect", "mail", "rcpt", "docmd", "send", "getreply"):
    setattr(smtplib.SMTP, name, counted(getattr(smtplib.SMTP, name)))
for name in ("write_atomically", "write_json"):
    setattr(mail, name, counted(getattr(mail, name)))
relay = mail.Relay(host="127.0.0.1", port={port}, security="plain")
message = mail.spool(Path({folder!r}), LETTER)
mail.deliver(message, [relay], patience_s=10, sleep=time.sleep, monotonic=time.monotonic)
print("done", left[0])
"""


def test_killed_anywhere_it_still_comes_once(relay: Relay, box: Box, tmp_path: Path) -> None:
    doubled, points, at = [], 0, 0
    while True:
        at += 1
        folder = tmp_path / str(at)
        code = _KILLED.format(root=str(REPOSITORY), at=at, port=relay.port, folder=str(folder))
        box.messages.clear()
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        if ended.returncode == 0:
            break
        assert ended.returncode == -9, ended.stderr
        points += 1
        message = spool(folder, LETTER)
        _deliver(message, relay)
        assert receipt_path(message).exists()
        assert {one["Message-ID"] for one in box.messages} == {"<2026-03-02@lab.example>"}
        if len(box.messages) > 1:
            doubled.append(at)
    assert points >= 8
    # Only between the relay's taking it and our hearing of that.
    assert len(doubled) <= 1, doubled
    assert len(box.messages) == 1
    assert os.listdir(folder)


@given(st.text(max_size=200))
def test_no_text_breaks_out_of_a_header(text: str) -> None:
    letter = replace(LETTER, subject=f"[imaging] {text}", pictures={}, attachments=())
    raw = compose(letter)
    head = raw.split(b"\r\n\r\n", 1)[0]
    assert head.count(b"\r\nSubject:") + head.startswith(b"Subject:") == 1
    assert b"\r\nBcc:" not in head
    assert len(one_line(text)) <= 300
    assert email.message_from_bytes(raw, policy=default)["To"] == ", ".join(LETTER.recipients)
