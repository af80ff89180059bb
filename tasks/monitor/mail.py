"""Bring a report to its readers: spooled before it is sent, tried for hours, noted when it has arrived.

A mail cannot be delivered exactly once whatever happens: if this program is killed after the relay took the message and
before that was written down, nobody can ask the relay. So the moment between is kept as short as it can be (the message
is whole at the relay only with its last line, and what is accepted is on the disk at once), and after a crash within it
the message goes out again under the same Message-ID, by which mail servers and readers know a double: a report twice is
better than none.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import format_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from tasks.errors import MailError
from tasks.files import make_folder, write_atomically, write_json

if TYPE_CHECKING:
    import smtplib

PAUSES_S: Final = (60.0, 300.0, 900.0, 3600.0)
"""Seconds between tries; the last comes again and again."""

_TIMEOUT_S = 30.0
_POLICY: Final = SMTP_POLICY.clone(cte_type="7bit", raise_on_defect=False)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """A server that takes mail.

    Attributes
    ----------
    host, port
        Where it listens.
    security
        "starttls" or "tls" with the certificate verified; "plain" for a relay in the own house.
    user, password
        To log in with; no login if the user is empty.
    ca_file
        Of a certificate authority of the own house; the system's if None.
    """

    host: str
    port: int = 587
    security: Literal["starttls", "tls", "plain"] = "starttls"
    user: str = ""
    password: str = field(default="", repr=False)
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """A file that goes with a report."""

    name: str
    kind: str
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """What is to be said, and by whom to whom.

    Attributes
    ----------
    name
        By which the spool knows it, such as the date: the same name is never sent twice.
    sender, recipients
        Addresses.
    subject, text, html
        The text is complete by itself.
    pictures
        PNG files by the content ID under which the HTML shows them.
    attachments
        Details.
    list_id
        Of the fleet, by which readers sort.
    sent_at
        UTC; stands in the message.
    """

    name: str
    sender: str
    recipients: tuple[str, ...]
    subject: str
    text: str
    html: str = ""
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    attachments: tuple[Attachment, ...] = ()
    list_id: str = ""
    sent_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """That a report was taken by a relay.

    Attributes
    ----------
    accepted, refused
        Addresses; those refused with the relay's code.
    relay
        Which one took it last.
    tries
        How often it was tried.
    """

    accepted: tuple[str, ...]
    refused: Mapping[str, int]
    relay: str
    tries: int


def one_line(text: str, limit: int = 300) -> str:
    """Make a text fit for a header: one line, printable, not too long."""
    kept = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(kept.split())[:limit]


def compose(letter: Letter) -> bytes:
    """Write a letter as a message, with lines ended by CR LF; equal letters give equal bytes."""
    domain = letter.sender.rpartition("@")[2] or "localhost"
    message = EmailMessage(policy=_POLICY)
    message["From"], message["To"] = letter.sender, ", ".join(letter.recipients)
    message["Subject"] = one_line(letter.subject)
    message["Date"] = format_datetime(letter.sent_at)
    # Short enough to stand unfolded: Python would write a longer one as encoded words, which is against RFC 5322.
    message["Message-ID"] = f"<{letter.name[:40]}@{domain[:24]}>"
    thread = f"<{letter.sent_at:%Y-%m}.nights@{domain[:24]}>"
    message["References"] = thread
    message["Auto-Submitted"] = "auto-generated"
    message["X-Auto-Response-Suppress"] = "All"
    if letter.list_id:
        message["List-Id"] = f"<{one_line(letter.list_id, 60)}>"
    message.set_content(letter.text)
    if letter.html:
        message.add_alternative(letter.html, subtype="html")
        shown = message.get_payload()[-1]  # type: ignore[index]
        for cid, picture in letter.pictures.items():
            shown.add_related(picture, "image", "png", cid=f"<{cid}>", disposition="inline")  # type: ignore[union-attr]
    for one in letter.attachments:
        main, _, sub = one.kind.partition("/")
        message.add_attachment(one.content, maintype=main, subtype=sub, filename=one.name)
    _set_boundaries(message, letter.name)
    return message.as_bytes()


def _set_boundaries(message: EmailMessage, name: str) -> None:
    """Give every part that has parts a boundary that follows from the letter, not from chance."""
    for number, part in enumerate(part for part in message.walk() if part.is_multipart()):
        part.set_boundary(f"=_{number}_{name[:40]}_=")


# -- delivery ----------------------------------------------------------------------------------------------------------


def spool(folder: Path, letter: Letter) -> Path:
    """Put a letter where it waits to be sent, whatever happens; one of that name that is there already stays.

    Returns
    -------
    Path
        Of the message.

    Raises
    ------
    DiskFullError, WorkspaceError, MailError
        If the file system refuses, or the name is not fit for a file.
    """
    if not _NAME.fullmatch(letter.name):
        raise MailError(what=one_line(letter.name, 80), problem="has a name that is not fit for a file")
    make_folder(folder)
    path = folder / f"{letter.name}.eml"
    if not path.exists():
        write_json(path.with_suffix(".to.json"), {"sender": letter.sender, "recipients": list(letter.recipients)})
        write_atomically(path, compose(letter))
    return path


def receipt_path(message: Path) -> Path:
    """Give the file that tells that a spooled message was taken."""
    return message.with_suffix(".receipt.json")


def waiting(folder: Path) -> list[Path]:
    """List spooled messages that no relay has taken yet, the oldest name first."""
    return [path for path in sorted(folder.glob("*.eml")) if not receipt_path(path).exists()]


def deliver(
    message: Path,
    relays: Sequence[Relay],
    *,
    patience_s: float,
    sleep: Callable[[float], None],
    monotonic: Callable[[], float],
    tell: Callable[[str], None] = lambda _: None,
) -> Receipt:
    """Send a spooled message, unless it has been sent; wait and try again while the relay is away.

    Parameters
    ----------
    relays
        The first is tried until patience ends, then each of the others once.
    patience_s
        For how long to try.
    sleep, monotonic
        The clock.
    tell
        Told of each try that failed, in a sentence without an address.

    Raises
    ------
    MailError
        If no relay took it for anybody.
    DiskFullError, WorkspaceError
        If the receipt cannot be written.
    """
    done = receipt_path(message)
    if done.exists():
        kept = json.loads(done.read_bytes())
        return Receipt(
            accepted=tuple(kept["accepted"]), refused=kept["refused"], relay=kept["relay"], tries=kept["tries"]
        )
    envelope = json.loads(message.with_suffix(".to.json").read_bytes())
    state = _State(message, envelope["sender"], list(envelope["recipients"]))
    until, pauses, problem = monotonic() + patience_s, iter(PAUSES_S), ""
    pause = PAUSES_S[-1]
    while state.waiting:
        problem = state.try_relay(relays[0])
        if not state.waiting or not problem or state.is_hopeless:
            break
        pause = next(pauses, pause)
        if monotonic() + pause > until:
            break
        tell(f"The mail relay did not take the report ({problem}); the next try is in {pause / 60:.0f} min.")
        sleep(pause)
    for relay in relays[1:]:
        if not state.waiting:
            break
        tell(f"The mail relay did not take the report ({problem}); another relay is tried.")
        problem = state.try_relay(relay)
    if not state.accepted:
        raise MailError(what=message.name, problem=f"was taken by no relay ({problem or 'every address was refused'})")
    return state.finish()


class _State:
    """How far a message has come."""

    def __init__(self, message: Path, sender: str, recipients: list[str]) -> None:
        self._message = message
        self._sender = sender
        self.waiting = recipients
        self.accepted: list[str] = []
        self.refused: dict[str, int] = {}
        self.relay = ""
        self.tries = 0
        self.is_hopeless = False
        # Who has it already, if a run before this one was ended half-way.
        self._taken = message.with_suffix(".taken.json")
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
            self.accepted = list(json.loads(self._taken.read_bytes())["accepted"])
            self.waiting = [one for one in recipients if one not in self.accepted]
            if not self.waiting:
                self._keep()

    def try_relay(self, relay: Relay) -> str:
        """Try to send to those who wait; return why not, or nothing."""
        import smtplib  # noqa: PLC0415

        self.tries += 1
        self.relay = relay.host
        try:
            with _login(relay) as server:
                self._send(server)
        except smtplib.SMTPAuthenticationError as fault:
            self.is_hopeless = True
            return f"it refused the login, code {fault.smtp_code}"
        except smtplib.SMTPResponseException as fault:
            self.is_hopeless = 500 <= fault.smtp_code < 600
            return f"code {fault.smtp_code}"
        except smtplib.SMTPNotSupportedError:
            self.is_hopeless = True
            return "it does not offer what the study file asks for, such as STARTTLS"
        except ssl.SSLCertVerificationError:
            self.is_hopeless = True
            return "its certificate could not be verified"
        except (smtplib.SMTPException, OSError) as fault:
            return type(fault).__name__
        return "some addresses were put off" if self.waiting else ""

    def _send(self, server: smtplib.SMTP) -> None:
        """One transaction for all who wait; the message is whole at the relay only with its last line."""
        import smtplib  # noqa: PLC0415

        _require(server.mail(self._sender), 250)
        taken = []
        for address in list(self.waiting):
            code, _ = server.rcpt(address)
            if code in (250, 251):
                taken.append(address)
            elif 500 <= code < 600:
                self.refused[address] = code
                self.waiting.remove(address)
        if not taken:
            server.rset()
            if not self.waiting:
                self._keep()
            return
        _require(server.docmd("DATA"), 354)
        server.send(_stuffed(self._message.read_bytes()))
        server.send(b".\r\n")
        code, words = server.getreply()
        if code != 250:
            raise smtplib.SMTPDataError(code, words)
        self.accepted += taken
        # Left to the system before it is forced to the disk, which takes far longer: a killed program loses nothing by
        # that, only a machine that loses its power may.
        with contextlib.suppress(OSError):
            self._taken.write_text(json.dumps({"accepted": self.accepted}), "utf-8")
        self.waiting = [one for one in self.waiting if one not in taken]
        self._keep()

    def _keep(self) -> None:
        """Write down who has it: at once, for until then a crash sends it again."""
        if self.waiting:
            write_json(self._taken, {"accepted": self.accepted})
        elif self.accepted:
            self.finish()

    def finish(self) -> Receipt:
        """Write the receipt; those who still wait were put off for as long as patience lasted."""
        refused = {**self.refused, **dict.fromkeys(self.waiting, 0)}
        receipt = Receipt(accepted=tuple(self.accepted), refused=refused, relay=self.relay, tries=self.tries)
        write_json(
            receipt_path(self._message),
            {
                "accepted": list(receipt.accepted),
                "refused": dict(receipt.refused),
                "relay": receipt.relay,
                "tries": receipt.tries,
            },
        )
        return receipt


def _require(answer: tuple[int, bytes], wanted: int) -> None:
    import smtplib  # noqa: PLC0415

    code, words = answer
    if code != wanted:
        raise smtplib.SMTPResponseException(code, words)


def _stuffed(message: bytes) -> bytes:
    """Double the dots that begin a line, and end the last line; RFC 5321, section 4.5.2."""
    whole = message if message.endswith(b"\r\n") else message + b"\r\n"
    return re.sub(rb"(?m)^\.", b"..", whole)


@contextlib.contextmanager
def _login(relay: Relay) -> Any:
    """Connect to a relay the way it is to be done, or not at all."""
    import smtplib  # noqa: PLC0415

    context = ssl.create_default_context(cafile=os.fspath(relay.ca_file) if relay.ca_file else None)
    if relay.security == "tls":
        server: smtplib.SMTP = smtplib.SMTP_SSL(relay.host, relay.port, timeout=_TIMEOUT_S, context=context)
    else:
        server = smtplib.SMTP(relay.host, relay.port, timeout=_TIMEOUT_S)
    try:
        server.ehlo_or_helo_if_needed()
        if relay.security == "starttls":
            # Raises if the relay does not offer it: nothing goes out in the clear unless the study file says "plain".
            server.starttls(context=context)
            server.ehlo()
        if relay.user:
            server.login(relay.user, relay.password)
        yield server
        with contextlib.suppress(smtplib.SMTPException, OSError):
            server.quit()
    finally:
        server.close()
